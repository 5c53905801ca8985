"""`destylize`: the codes of portraits, without training a style on them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dualstylegan.errors import UsageError
from dualstylegan.events import Event
from dualstylegan.models import library
from dualstylegan.models.lookup import find_model
from dualstylegan.recipe import Recipe, build_recipe, load_recipe
from dualstylegan.train import train
from dualstylegan.training.destylization import read_codes


def destylization_recipe(
    portraits: str | Path,
    style: str | None = None,
    *,
    data: str | None = None,
    alignment: str = "landmarks",
    finetune: Mapping[str, Any] | None = None,
    destylize: Mapping[str, Any] | None = None,
) -> Recipe:
    """What to do for a folder of portraits, on a style's base or on a base; or the recipe that `portraits` names.

    `finetune` and `destylize` change settings of these stages, but for those that are None; `data` and `style` change a
    recipe's portraits and base. Raises UsageError for a style that does not exist.
    """
    stages = {"finetune": finetune or {}, "destylize": destylize or {}}
    if not Path(portraits).is_dir():
        changed = {f"{stage}__{key}": value for stage, settings in stages.items() for key, value in settings.items()}
        return load_recipe(portraits, data__folder=data, base_model=style, **changed)
    if style is None:
        raise UsageError(f"{portraits} is a folder: say with --style whose faces these shall be.")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(portraits).resolve().name).strip("-._")[:100] or "portraits"
    table = {
        "name": name,
        "kind": "style",
        "about": f"the portraits in {portraits}",
        "base_model": str(_base_under(style)),
        "data": {"folder": str(portraits), "alignment": alignment, "min_images": 1},
    }
    for stage, settings in stages.items():
        table[stage] = {key: value for key, value in settings.items() if value is not None}
    return build_recipe(table, "dsg destylize")


def destylize_by_recipe(recipe: Recipe, run: str | Path | None = None, *, cpu: bool = False) -> Iterator[Event]:
    """What g' needs, g', and the codes: the first stages of a training, each passed over where it is done."""
    run = Path(run or Path("runs") / recipe.name)
    for event in train(recipe, run, until="destylize", cpu=cpu, verb="destylize"):
        if event.kind != "summary":
            yield event
    folder = run / "stages" / "destylize"
    names, _, _ = read_codes(folder)
    yield Event("summary", "destylize", output=str(folder), message=f"{len(names)} portraits destylized in {folder}")


def _base_under(style: str) -> str | Path:
    """The base of a style, or the base itself."""
    try:
        return library.obtain(style).base_folder or style
    except UsageError as no_style:
        try:
            find_model(style, "base")
        except UsageError:
            raise no_style from None
        return style
