"""The verb train: everything a recipe asks for, in order, from wherever an earlier run of it has stopped.

for event in train(load_recipe("pixar", data__folder="portraits"), "runs/pixar"):
    print(event)
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path

from dualstylegan.events import Event
from dualstylegan.models.fetch import Terms
from dualstylegan.models.library import fetch_base
from dualstylegan.recipe import Recipe, dump_recipe
from dualstylegan.runtime.files import sweep
from dualstylegan.runtime.processes import Processes
from dualstylegan.training.check import asked_for, check, known_base
from dualstylegan.training.perception import fetch_perception
from dualstylegan.training.run import RunFolder
from dualstylegan.training.stages import Stages
from dualstylegan.training.staleness import demand_longer_only, settings_of
from dualstylegan.training.trackers import tracked


def train(
    recipe: Recipe,
    run: str | Path | None = None,
    *,
    stage: str | None = None,
    until: str | None = None,
    from_step: int | None = None,
    redo: str | None = None,
    dry_run: bool = False,
    cpu: bool = False,
    verb: str = "train",
) -> Iterator[Event]:
    """Run what `recipe` asks for in the folder `run` (default: runs/NAME); stages that are done are passed over.

    `stage` runs that one alone, `until` all up to that one. `from_step` makes what comes after stage III from an
    earlier snapshot. `redo` forgets a stage and all after it first. `dry_run` only says what would be done, how long it
    might take and how much memory. A base and judges that are not here yet are fetched first. Yields progress with loss
    figures, grids, and a summary whose output is the model. Raises UsageError for whatever can be known to fail before
    anything is done (training/check.py), TrainingError for what training itself cannot do.
    """
    folder = RunFolder(run or Path("runs") / recipe.name)
    processes = Processes.launched(timeout_s=recipe.process_timeout_s, cpu=cpu, verb=verb)
    processes.agree(
        lambda: check(recipe, folder, processes.count, stage=stage, until=until, from_step=from_step, redo=redo)
    )
    if dry_run:
        from dualstylegan.training.estimate import plan

        yield from plan(recipe, folder)
        return

    folder.create()
    with processes.together(folder.path), folder.alone() if processes.is_main else nullcontext():
        stages = Stages(recipe, folder, processes, from_step)
        if processes.is_main:
            sweep(folder.path, keep=processes.messages)
            if redo:
                _forget(recipe, folder, redo)
            folder.create(dump_recipe(recipe))
        processes.wait_for_all("prepared")
        yield from _fetch(recipe, processes)
        events = _run_all(stages, asked_for(recipe, stage, until, from_step), again=stage)
        yield from tracked(events, recipe, folder, cpu=cpu) if recipe.log_with and processes.is_main else events
        yield _summary(recipe, folder, verb)


def _run_all(stages: Stages, names: Iterable[str], *, again: str | None) -> Generator[Event, None, None]:
    for name in names:
        yield from _run(stages, name, again=name == again)


def _run(stages: Stages, name: str, *, again: bool) -> Iterator[Event]:
    """One stage, unless it is done. `again` lets a stage that ends in one file be made again."""
    recipe, folder, processes, place = stages.recipe, stages.folder, stages.processes, stages.place(name)
    header = known_base(recipe) if recipe.kind == "base" else stages.base.header
    settings = settings_of(recipe, name, base=header["sha256"] if header else None, from_step=stages.from_step)
    known = folder.begun_with(place)
    if known is not None and known != settings:
        demand_longer_only(recipe, folder, name, known, settings)
        folder.reopen(place)
    if folder.is_done(place) and not (again and name == "bundle"):
        yield Event("skipped", processes.verb, stage=name, message=f"{name}: done before")
        return

    if processes.is_main:
        folder.begin(place, settings)
    for event in stages.work[name]():
        while stages.notes and processes.is_main:
            yield Event("note", processes.verb, stage=name, message=stages.notes.pop(0))
        yield event
    processes.wait_for_all(f"{name}-worked")
    if processes.is_main:
        folder.finish(place)
    processes.wait_for_all(f"{name}-done")


def _fetch(recipe: Recipe, processes: Processes) -> Iterator[Event]:
    """What the recipe stands on and is not here yet, one process at a time; the first one speaks."""
    wanted, terms = recipe.perception, Terms(processes.verb)
    for events in (
        fetch_base(recipe.base_model, terms) if recipe.base_model else (),
        fetch_perception(wanted.features, wanted.identity, terms),
    ):
        for event in events:
            if processes.is_main:
                yield event


def _forget(recipe: Recipe, folder: RunFolder, name: str) -> None:
    """Undo a stage and all after it."""
    for later in recipe.stages[recipe.stages.index(name) :]:
        folder.forget(later)
        for index in range(len(recipe.base.phases) if later == "base" else 0):
            folder.forget(f"base{index + 1}")


def _summary(recipe: Recipe, folder: RunFolder, verb: str) -> Event:
    made = folder.style if recipe.kind == "style" else folder.base
    use = f"dsg stylize PHOTO --style {made}:0" if recipe.kind == "style" else f"--base {folder.path}"
    output, message = folder.path, str(folder.path)
    if folder.comparison.is_file():
        output, message = folder.comparison, f"{folder.comparison}, with pictures in {folder.grid('compare', 0)}"
    elif made.is_dir():
        output, message = made, f"{made} is ready ({use})"
    return Event("summary", verb, message=f"{recipe.name}: {message}", output=str(output))
