"""dsg destylize: the codes of portraits, without training a style on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsgcli.options import AlignmentOption, CpuOption, JsonOption, RunOption

if TYPE_CHECKING:
    from dualstylegan.events import Event
    from dualstylegan.recipe import Recipe


def destylize(
    portraits: Annotated[
        str,
        typer.Argument(metavar="PORTRAITS", help="A folder, or a recipe (a file or a shipped one's name)."),
    ],
    style: Annotated[
        str | None,
        typer.Option(
            "--style", "-s", metavar="NAME", help="For a folder: a style or a base, whose faces these shall be.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DIR", help="For a recipe: the portraits.", show_default="the recipe's"),
    ] = None,
    run: RunOption = None,
    truncation: Annotated[
        float | None,
        typer.Option(
            "--truncation", min=0, max=1, help="Lower for styles far from real faces.", show_default="the recipe's, 0.7"
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Of each fit.", show_default="the recipe's, 300")
    ] = None,
    finetune_steps: Annotated[
        int | None, typer.Option("--finetune-steps", min=1, help="Of g'.", show_default="the recipe's, 600")
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Portraits fitted at once.", show_default="what fits")
    ] = None,
    alignment: AlignmentOption = "landmarks",
    cpu: CpuOption = False,
    json: JsonOption = False,
) -> None:  # fmt: skip
    """Find the real face behind each portrait: its intrinsic and its extrinsic code.

    Fine-tunes the base on the portraits, then fits. The same command again goes on where it stopped.
    """
    from dsgcli.report import show
    from dualstylegan.destylize import destylization_recipe
    from dualstylegan.errors import UsageError
    from dualstylegan.recipe import load_recipe

    fit = {"truncation": truncation, "steps": steps, "batch": batch}
    fit = {key: value for key, value in fit.items() if value is not None}
    tune = {} if finetune_steps is None else {"steps": finetune_steps}
    if Path(portraits).is_dir():
        if style is None:
            raise UsageError(f"{portraits} is a folder: say with --style whose faces these shall be.")
        recipe = destylization_recipe(portraits, style, alignment=alignment, finetune=tune, destylize=fit)
    else:
        changed = {f"destylize__{key}": value for key, value in fit.items()}
        changed |= {f"finetune__{key}": value for key, value in tune.items()}
        recipe = load_recipe(portraits, data__folder=data, base_model=style, **changed)
    raise typer.Exit(show(_until_destylized(recipe, run, cpu), json=json))


def _until_destylized(recipe: Recipe, run: str | None, cpu: bool) -> Iterator[Event]:
    """What g' needs, g', and the codes: the first stages of a training, each passed over where it is done."""
    from dualstylegan.destylize import read_codes
    from dualstylegan.events import Event
    from dualstylegan.train import train

    run_folder = Path(run or Path("runs") / recipe.name)
    for stage in recipe.stages[: recipe.stages.index("destylize") + 1]:
        for event in train(recipe, run_folder, stage=stage, cpu=cpu):
            if event.kind != "summary":
                yield replace(event, verb="destylize")
    folder = run_folder / "stages" / "destylize"
    names, _, _ = read_codes(folder)
    yield Event("summary", "destylize", output=str(folder), message=f"{len(names)} portraits destylized in {folder}")
