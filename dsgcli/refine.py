"""dsg refine: the exemplars' codes of a trained style, brought nearer to their pictures."""

from __future__ import annotations

from typing import Annotated

import typer

from dsgcli.options import AlignmentOption, CpuOption, JsonOption, OfflineOption, RunOption


def refine(
    portraits: Annotated[
        str,
        typer.Argument(metavar="PORTRAITS", help="The exemplars' folder, or the recipe of the training."),
    ],
    style: Annotated[
        str | None,
        typer.Option("--style", "-s", metavar="NAME", help="For a folder: the style to refine.", show_default=False),
    ] = None,
    run: RunOption = None,
    from_step: Annotated[
        int | None,
        typer.Option("--from", metavar="STEP", min=1, help="For a recipe: of this snapshot.", show_default="the last"),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, show_default="the recipe's, 100")] = None,
    structure_lr: Annotated[
        float | None, typer.Option("--structure-lr", help="For rows 0-6.", show_default="the recipe's, 0.005")
    ] = None,
    color_lr: Annotated[
        float | None, typer.Option("--color-lr", help="For the other rows.", show_default="the recipe's, 0.1")
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Portraits fitted at once.", show_default="what fits")
    ] = None,
    alignment: AlignmentOption = "landmarks",
    cpu: CpuOption = False,
    json: JsonOption = False,
    offline: OfflineOption = False,
) -> None:
    """Bring a style's exemplars nearer to their pictures. The same command again goes on where it stopped."""
    from dsgcli.report import show
    from dualstylegan.refine import refine_exemplars

    changed = {"steps": steps, "structure_lr": structure_lr, "color_lr": color_lr, "batch": batch}
    events = refine_exemplars(portraits, style, run, from_step=from_step, refine=changed, alignment=alignment, cpu=cpu)
    raise typer.Exit(show(events, json=json))
