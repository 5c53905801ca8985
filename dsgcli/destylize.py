"""dsg destylize: the codes of portraits, without training a style on them."""

from __future__ import annotations

from typing import Annotated

import typer

from dsgcli.options import AlignmentOption, CpuOption, JsonOption, OfflineOption, RunOption


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
    offline: OfflineOption = False,
) -> None:  # fmt: skip
    """Find the real face behind each portrait: its intrinsic and its extrinsic code.

    Fine-tunes the base on the portraits, then fits. The same command again goes on where it stopped.
    """
    from dsgcli.report import show
    from dualstylegan.destylize import destylization_recipe, destylize_by_recipe

    fit = {"truncation": truncation, "steps": steps, "batch": batch}
    recipe = destylization_recipe(
        portraits, style, data=data, alignment=alignment, finetune={"steps": finetune_steps}, destylize=fit
    )
    raise typer.Exit(show(destylize_by_recipe(recipe, run, cpu=cpu), json=json))
