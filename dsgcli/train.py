"""`dsg train`: a recipe from portraits to a style, or from photos to a base."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from dsgcli.command import verb
from dsgcli.options import CpuOption, data_option, dry_run_option, from_option, run_option
from dualstylegan.errors import UsageError
from dualstylegan.events import Event


@verb()
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="A file, or the name of a shipped recipe (--list).", show_default=False),
    ] = None,
    data: Annotated[str | None, data_option(help="The portraits.")] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base", metavar="MODEL", help="mini, ffhq, a base's folder or its run.", show_default="the recipe's"
        ),
    ] = None,
    run: Annotated[
        str | None, run_option(help="The run folder.", show_default="the one a recipe.toml lies in, else runs/RECIPE")
    ] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", metavar="NAME", help="Run this stage alone.", show_default=False)
    ] = None,
    from_step: Annotated[int | None, from_option(help="Make the model from this snapshot.")] = None,
    redo: Annotated[
        str | None,
        typer.Option("--redo", metavar="NAME", help="Forget this stage and all after it first.", show_default=False),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, such as transfer.steps=200. May repeat."),
    ] = None,
    log_with: Annotated[
        str | None,
        typer.Option(
            "--log-with",
            metavar="NAMES",
            help="Tell these of figures and grids too: tensorboard, wandb and what else Accelerate knows, by commas.",
            show_default="the recipe's",
        ),
    ] = None,
    list_recipes: Annotated[bool, typer.Option("--list", help="List the shipped recipes.")] = False,
    dry_run: Annotated[
        bool, dry_run_option(help="Say what would be done, a range for how long it takes, and how much memory.")
    ] = False,
    cpu: CpuOption = False,
) -> Iterator[Event]:
    """Train a style from portraits, or a base from photos. The same command again goes on where it stopped."""
    from dualstylegan.recipe import load_recipe, run_of

    if list_recipes:
        return _listing()
    if recipe is None:
        raise UsageError("Name a recipe: a file, or one of those that 'dsg train --list' shows.")
    trackers = None if log_with is None else [name.strip() for name in log_with.split(",")]
    resolved = load_recipe(recipe, settings or (), data__folder=data, base_model=base, log_with=trackers)

    from dualstylegan.train import train as run_recipe

    return run_recipe(
        resolved, run or run_of(recipe), stage=stage, from_step=from_step, redo=redo, dry_run=dry_run, cpu=cpu
    )


def _listing() -> Iterator[Event]:
    from dualstylegan.recipe import list_recipes

    for entry in list_recipes():
        data = {"name": entry.name, "kind": entry.kind, "about": entry.about}
        yield Event("note", "train", message=f"{entry.name:16} {entry.kind:9} {entry.about}", data=data)
