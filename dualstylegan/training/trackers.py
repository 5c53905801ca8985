"""What a run tells of itself, told to TensorBoard, Weights & Biases and their like too: Accelerate's trackers.

    log_with = ["tensorboard"]        # in a recipe, or dsg train --log-with tensorboard,wandb

They hear what everybody hears, the events: figures of progress, and the grids that are drawn.
"""

from __future__ import annotations

import tomllib
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualstylegan.errors import DualStyleGANError, UsageError, did_you_mean, failure
from dualstylegan.events import Event
from dualstylegan.media.images import read_picture
from dualstylegan.recipe import Recipe, dump_recipe
from dualstylegan.training.run import RunFolder
from dualstylegan.training.staleness import flat

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

EXTRAS = ("tensorboard", "wandb")  # that can be had as dualstylegan[NAME]


def check_trackers(names: Sequence[str]) -> None:
    """Raises UsageError for a tracker that Accelerate does not know, or whose package is not installed."""
    if not names:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    ready = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            known = ", ".join(LOGGER_TYPE_TO_CLASS)
            raise UsageError(
                f"log_with: no tracker '{name}'.{did_you_mean(name, LOGGER_TYPE_TO_CLASS)} There are {known}."
            )
        if name not in ready and LOGGER_TYPE_TO_CLASS[name].__module__ == "accelerate.tracking":
            package = f"'dualstylegan[{name}]'" if name in EXTRAS else name
            raise UsageError(f"log_with: {name} is not installed here: pip install {package}.")


def tracked(events: Generator[Event, None, None], recipe: Recipe, folder: RunFolder, *, cpu: bool) -> Iterator[Event]:
    """The same events, told to the recipe's trackers as they pass. One that fails is left out with a warning: what is
    lost is a view of the run, which has its own log. Raises DualStyleGANError for one that does not start."""
    from accelerate import PartialState

    PartialState(cpu=cpu)  # without which trackers say nothing; several processes have one already
    trackers = [_start(name, recipe, folder.path / "trackers") for name in dict.fromkeys(recipe.log_with)]
    with closing(events):
        try:
            for event in events:
                yield event
                for tracker in list(trackers):
                    try:
                        _tell(tracker, event)
                    except Exception as error:
                        trackers.remove(tracker)
                        message = f"{tracker.name} is told no more: {failure(error)}"
                        yield Event("warning", event.verb, stage=event.stage, message=message)
        finally:
            for tracker in trackers:
                tracker.finish()


def _start(name: str, recipe: Recipe, folder: Path) -> GeneralTracker:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    folder.mkdir(parents=True, exist_ok=True)
    make = LOGGER_TYPE_TO_CLASS[name]
    own: dict[str, Any] = {"dir": str(folder)} if name == "wandb" else {}
    try:
        tracker = make(recipe.name, *([folder] if make.requires_logging_directory else []), **own)
        tracker.start()
        tracker.store_init_configuration(_settings(recipe))
    except Exception as error:
        raise DualStyleGANError(f"log_with: {name} does not start: {failure(error)}") from error
    return tracker


def _settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe as trackers take it: {"transfer.steps": 1400, ...}, no lists."""
    values = flat(tomllib.loads(dump_recipe(recipe)))
    return {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in values.items()}


def _tell(tracker: GeneralTracker, event: Event) -> None:
    """Figures and grids, each under its stage's name and at its stage's own step."""
    # W&B takes no step that is smaller than the last one, and each stage begins anew: there the step is a figure.
    step, counted = event.current or 0, {}
    at: dict[str, Any] = {"step": step}
    if tracker.name == "wandb":
        at, counted = {}, {f"{event.stage}/step": step}
    if event.kind == "progress":
        numbers = {name: value for name, value in event.data.items() if type(value) in (int, float)}
        if numbers:
            tracker.log({f"{event.stage}/{name}": value for name, value in numbers.items()} | counted, **at)
    elif event.kind == "note" and event.output and hasattr(tracker, "log_images"):
        form = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
        tracker.log_images({f"{event.stage}/grid": read_picture(event.output).pixels[None]}, **at, **form)
