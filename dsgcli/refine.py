"""`dsg refine`: the exemplars' codes of a trained style, brought nearer to their pictures."""

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
    from_option,
    steps_option,
    style_option,
)
from dualstylegan.events import Event


@verb()
def refine(
    portraits: Annotated[
        str, typer.Argument(metavar="PORTRAITS", help="The exemplars' folder, or the recipe of the training.")
    ],
    style: Annotated[str | None, style_option(metavar="NAME", help="For a folder: the style to refine.")] = None,
    run: RunOption = None,
    from_step: Annotated[int | None, from_option(help="For a recipe: of this snapshot.")] = None,
    steps: Annotated[int | None, steps_option(min=1, show_default="the recipe's, 100")] = None,
    structure_lr: Annotated[
        float | None, typer.Option("--structure-lr", help="For rows 0-6.", show_default="the recipe's, 0.005")
    ] = None,
    color_lr: Annotated[
        float | None, typer.Option("--color-lr", help="For the other rows.", show_default="the recipe's, 0.1")
    ] = None,
    batch: PortraitBatchOption = None,
    alignment: AlignmentOption = "landmarks",
    cpu: CpuOption = False,
) -> Iterator[Event]:
    """Bring a style's exemplars nearer to their pictures. The same command again goes on where it stopped."""
    from dualstylegan.refine import refine_exemplars

    changed = {"steps": steps, "structure_lr": structure_lr, "color_lr": color_lr, "batch": batch}
    return refine_exemplars(portraits, style, run, from_step=from_step, refine=changed, alignment=alignment, cpu=cpu)
