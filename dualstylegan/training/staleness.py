"""With which settings a stage was begun, and which changes of them it outlives."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dualstylegan.errors import TrainingError
from dualstylegan.recipe import Recipe
from dualstylegan.training.run import RunFolder

FINAL = ("refine", "samplers", "bundle")  # what follows the last training
REMADE = ("data", "destylize", "compare", *FINAL)  # these know themselves what a changed setting makes stale
CHANGE_NOTHING = {"batch", "count", "source", "licence", "min_images"}

Settings = dict[str, Any]


def place_of(stage: str, from_step: int | None) -> str:
    """The name under which a stage's files lie: what follows an earlier snapshot lies apart."""
    return f"{stage}-{from_step:06d}" if from_step and stage in FINAL else stage


def settings_of(recipe: Recipe, stage: str, *, base: str | None = None, from_step: int | None = None) -> Settings:
    """All that decides what a stage makes, as JSON values: its own section and those before it, and the base's hash."""
    if stage == "bundle":
        return {"bundle": _plain(recipe.bundle), "from": from_step}
    before = recipe.stages[: recipe.stages.index(stage) + 1]
    settings: Settings = {name: _plain(getattr(recipe, name)) for name in before if hasattr(recipe, name)}
    settings |= {"seed": recipe.seed, "perception": _plain(recipe.perception)}
    return settings | {"base": base} if recipe.kind != "base" or base else settings


def demand_longer_only(recipe: Recipe, run: RunFolder, stage: str, known: Settings, settings: Settings) -> None:
    """A training may be made longer, and what a base has not begun yet may change; any other change would mix two of
    them. Raises TrainingError.

    A key that `known` has not heard of counts as its default: it is newer than the run.
    """
    if stage in REMADE:
        return
    old, new = flat(known), flat(settings)
    defaults = _defaults(recipe)
    for key in sorted(old.keys() | new.keys()):
        before, now = old.get(key, defaults.get(re.sub(r"\.\d+\.", ".", key))), new.get(key)
        if before == now or _only_longer(stage, key, key in old, before, now, known) or _to_come(run, key, now):
            continue
        section = key.split(".")[0]
        redo = section if section in recipe.stages else stage
        raise TrainingError(
            f"{run.path}: stage '{stage}' was begun with {key} = {before}, now it is {now}. "
            f"Choose another --run, or train again with --redo {redo}."
        )


def _plain(section: Any) -> Settings:
    """A section as JSON holds it, without what changes nothing."""
    return json.loads(json.dumps({key: value for key, value in asdict(section).items() if key not in CHANGE_NOTHING}))


def _defaults(recipe: Recipe) -> Settings:
    """{"transfer.steps": 1400, "base.phases.steps": 1000, ...}: what keys are where nobody sets them."""
    defaults: Settings = {}
    for name in (*recipe.stages, "perception"):
        section = getattr(recipe, name, None)
        parts = {name: section, f"{name}.phases": next(iter(getattr(section, "phases", ())), None)}
        for path, part in parts.items():
            defaults |= {f"{path}.{key}": value for key, value in (_plain(type(part)()) if part else {}).items()}
    return defaults


def _only_longer(stage: str, key: str, is_old: bool, before: Any, now: Any, known: Settings) -> bool:
    """Whether a changed setting only adds steps at a training's end, or phases after its last one."""
    phases = len(known.get(stage, {}).get("phases", ()))
    if phases and (added := re.match(rf"{stage}\.phases\.(\d+)\.", key)) and int(added[1]) >= phases:
        return not is_old
    last = f"{stage}.phases.{phases - 1}.steps" if phases else f"{stage}.steps"
    return key == last and now is not None and now > before


def _to_come(run: RunFolder, key: str, now: Any) -> bool:
    """Whether a setting is of a base's phase that has not begun, or the end of the one that is under way."""
    match = re.match(r"base\.phases\.(\d+)\.", key)
    if not match:
        return False
    phase = int(match[1])
    if run.last_checkpoint(f"base{phase + 2}"):
        return False
    checkpoint = run.last_checkpoint(f"base{phase + 1}")
    return checkpoint is None or (key.endswith(".steps") and now is not None and now > checkpoint.step)


def flat(values: Any, path: str = "") -> Settings:
    """Nested settings as {"transfer.steps": 200, ...}."""
    if isinstance(values, Mapping):
        items = list(values.items())
    elif isinstance(values, list) and any(isinstance(value, Mapping) for value in values):
        items = list(enumerate(values))
    else:
        return {path: values}
    return {key: value for name, item in items for key, value in flat(item, f"{path}.{name}".lstrip(".")).items()}
