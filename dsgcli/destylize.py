"""`dsg destylize`: the codes of portraits, without training a style on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from dsgcli.command import verb
from dsgcli.options import (
    AlignmentOption,
    CpuOption,
    PortraitBatchOption,
    RunOption,
    data_option,
    steps_option,
    style_option,
    truncation_option,
)
from dualstylegan.events import Event


@verb()
def destylize(
    portraits: Annotated[
        str, typer.Argument(metavar="PORTRAITS", help="A folder, or a recipe (a file or a shipped one's name).")
    ],
    style: Annotated[
        str | None,
        style_option(metavar="NAME", help="For a folder: a style or a base, whose faces these shall be."),
    ] = None,
    data: Annotated[str | None, data_option(help="For a recipe: the portraits.")] = None,
    run: RunOption = None,
    truncation: Annotated[
        float | None,
        truncation_option(max=1, help="Lower for styles far from real faces.", show_default="the recipe's, 0.7"),
    ] = None,
    steps: Annotated[int | None, steps_option(min=1, help="Of each fit.", show_default="the recipe's, 300")] = None,
    finetune_steps: Annotated[
        int | None, typer.Option("--finetune-steps", min=1, help="Of g'.", show_default="the recipe's, 600")
    ] = None,
    batch: PortraitBatchOption = None,
    alignment: AlignmentOption = "landmarks",
    cpu: CpuOption = False,
) -> Iterator[Event]:
    """Find the real face behind each portrait: its intrinsic and its extrinsic code.

    Fine-tunes the base on the portraits, then fits. The same command again goes on where it stopped.
    """
    from dualstylegan.destylize import destylization_recipe, destylize_by_recipe
    from dualstylegan.recipe import run_of

    fit = {"truncation": truncation, "steps": steps, "batch": batch}
    recipe = destylization_recipe(
        portraits, style, data=data, alignment=alignment, finetune={"steps": finetune_steps}, destylize=fit
    )
    return destylize_by_recipe(recipe, run or run_of(portraits), cpu=cpu)
