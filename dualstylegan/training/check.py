"""All that can be known of a training is checked before its work, in the run and in its --dry-run alike: files,
batches, what has to fit the base. A recipe's own values are checked where it is read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dualstylegan.errors import NoFaceError, TrainingError, UsageError, before_work, did_you_mean
from dualstylegan.faces.faces_json import faces_of, read_faces_json
from dualstylegan.faces.find import check_detector
from dualstylegan.media.paths import Source
from dualstylegan.models.bundle import has_part, read_header
from dualstylegan.models.codes import Exemplars, fit_weights
from dualstylegan.models.lookup import find_model
from dualstylegan.recipe import Recipe, resolve_batch
from dualstylegan.runtime.files import at_home
from dualstylegan.training.data import held_out_of, list_portraits, weights_of
from dualstylegan.training.portraits import Portrait
from dualstylegan.training.run import RunFolder
from dualstylegan.training.staleness import FINAL, demand_longer_only, place_of, settings_of
from dualstylegan.training.trackers import check_trackers

Header = Mapping[str, Any]


def check(
    recipe: Recipe,
    folder: RunFolder,
    processes: int,
    *,
    stage: str | None = None,
    until: str | None = None,
    from_step: int | None = None,
    redo: str | None = None,
) -> None:
    """Raises UsageError, one line, for what the run `folder` would stumble on later.

    `until`: only the stages up to this one are going to run. A base that is yet to be fetched is taken on trust.
    """
    stages = recipe.stages[: recipe.stages.index(until) + 1] if until else recipe.stages
    with before_work():
        check_folder(folder.path)
        check_order(recipe, folder, asked_for(recipe, stage, until, from_step), from_step, redo)
        check_trackers(recipe.log_with)
        check_batches(recipe, stages, processes)
        if "data" in stages:
            check_portraits(recipe, stages)
        header = known_base(recipe)
        if header and recipe.kind != "base":
            check_fit(recipe, stages, header)
        check_changes(recipe, folder, stages, header, from_step, redo)


def asked_for(
    recipe: Recipe, stage: str | None, until: str | None = None, from_step: int | None = None
) -> tuple[str, ...]:
    """All stages, one of them, those until one, or with `from_step` those that turn a snapshot into a model.

    Raises UsageError for names that are no stages of the recipe, and for a `stage` that comes before snapshots.
    """
    for name in (stage, until):
        demand_stage(recipe, name)
    stages = recipe.stages
    if from_step is not None:
        final = tuple(name for name in stages if name in FINAL)
        if stage is not None and stage not in final:
            raise UsageError(f"--from goes with the stages {', '.join(final)}, not with '{stage}'.")
        return final[: final.index(stage) + 1] if stage else final
    return (stage,) if stage else stages[: stages.index(until) + 1] if until else stages


def demand_stage(recipe: Recipe, name: str | None) -> None:
    if name is not None and name not in recipe.stages:
        raise UsageError(
            f"Recipe '{recipe.name}' has no stage '{name}'.{did_you_mean(name, recipe.stages)} "
            f"It has {', '.join(recipe.stages)}."
        )


def check_order(
    recipe: Recipe, folder: RunFolder, asked: Sequence[str], from_step: int | None, redo: str | None
) -> None:
    """That what comes before the first stage `asked` for is done, and is not to be forgotten (`redo`); so with the
    snapshot of `from_step`."""
    demand_stage(recipe, redo)
    forgotten = recipe.stages[recipe.stages.index(redo) :] if redo else ()
    last = next(stage for stage in reversed(recipe.stages) if stage not in FINAL)
    if from_step is not None:
        if last in forgotten:
            raise UsageError(f"--redo {redo} forgets the snapshots that --from chooses among: leave one of them out.")
        if from_step not in folder.snapshot_steps(last):
            folder.snapshot(last, from_step)  # which says what there is
    for earlier in recipe.stages[: recipe.stages.index(asked[0])]:
        under_way = from_step is not None and earlier in ("transfer", "pretrain")
        if not under_way and (earlier in forgotten or not folder.is_done(place_of(earlier, from_step))):
            raise UsageError(f"{folder.path}: stage '{asked[0]}' comes after '{earlier}', which is not done.")


def check_changes(
    recipe: Recipe,
    folder: RunFolder,
    stages: Sequence[str],
    header: Header | None,
    from_step: int | None,
    redo: str | None,
) -> None:
    """That stages which have begun, and are not to be done again, were begun with these settings."""
    if redo:
        stages = stages[: stages.index(redo)] if redo in stages else stages
    for stage in stages:
        known = folder.begun_with(stage)
        if known is not None and (header or recipe.kind == "base"):
            settings = settings_of(recipe, stage, base=header["sha256"] if header else None, from_step=from_step)
            demand_longer_only(recipe, folder, stage, known, settings)


def check_folder(path: Path) -> None:
    """That a run can be kept there."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise TrainingError(f"{path}: {there} is a file, not a folder; choose another --run.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise TrainingError(f"{path}: nothing may be written in {there}; choose another --run.")


def check_batches(recipe: Recipe, stages: Sequence[str], processes: int) -> None:
    """That every batch divides among the processes and into its parts."""
    for stage in stages:
        section: Any = getattr(recipe, stage, None)
        if stage == "base":
            for index, phase in enumerate(recipe.base.phases):
                resolve_batch(phase.batch, processes, stage=f"base.phases[{index}]")
        elif hasattr(section, "effective_batch"):
            micro, _ = resolve_batch(section.effective_batch, processes, section.batch, stage=stage)
            if getattr(section, "correspondence", 0) and micro < 3:
                raise TrainingError(
                    f"{stage}.correspondence compares pictures of a batch: three at least, not {micro}."
                )


def check_portraits(recipe: Recipe, stages: Sequence[str]) -> None:
    """That there are portraits enough, that their faces are to be had, and that the default exemplar is one of them."""
    data = recipe.data
    portraits = list_portraits(data)
    _, names = held_out_of(list(portraits), data)
    if len(names) < data.min_images:
        raise TrainingError(
            f"{data.folder}: {len(portraits)} portraits less those held out (data.held_out = {data.held_out}) are "
            f"{len(names)}, fewer than data.min_images = {data.min_images}."
        )
    for shares in (data.shares, *(phase.shares for phase in recipe.base.phases)):
        weights_of([Portrait(name, Path()) for name in names], replace(data, open_mouths=1.0), shares)
    check_exemplars(recipe, names, stages)
    if data.photos and not list_portraits(replace(data, folder=data.photos, min_images=1)).keys() & portraits.keys():
        raise UsageError(f"data.photos: no picture in {data.photos} is called as a portrait in {data.folder} is.")
    if data.alignment == "landmarks":
        check_detector(data.detector)
    if data.alignment == "faces.json":
        file = at_home(data.faces_json or Path(data.folder) / "faces.json")
        given = read_faces_json(file)
        if all(faces_of(given, Source(path, Path(name))) is None for name, path in portraits.items()):
            raise NoFaceError(f"{file} mentions none of the {len(portraits)} pictures in {data.folder}.")


def check_exemplars(recipe: Recipe, names: Sequence[str], stages: Sequence[str]) -> None:
    """That portraits of these names make the style that is wanted."""
    if "samplers" in stages and len(names) < 2:
        raise TrainingError(
            f"{recipe.data.folder}: sampling networks need at least 2 exemplars, there is {len(names)}; "
            "add portraits, or set samplers.enabled = false."
        )
    if recipe.kind == "style" and "bundle" in stages and recipe.bundle.default_exemplar:
        try:
            Exemplars(tuple(sorted(names))).index(recipe.bundle.default_exemplar)
        except UsageError as error:
            raise UsageError(
                f'bundle.default_exemplar: {error} Set it to one of them, or to "" for the first.'
            ) from None


def known_base(recipe: Recipe) -> Header | None:
    """The header of the base a recipe starts from; None without one, or before it is fetched. Raises UsageError."""
    folder = find_model(recipe.base_model, "base") if recipe.base_model else None
    return None if folder is None else read_header(folder)


def check_fit(recipe: Recipe, stages: Sequence[str], header: Header) -> None:
    """That the recipe's rows and sizes are the base's."""
    size, rows = header["size"], header["rows"]
    if not has_part(header, "encoder"):
        raise TrainingError(f"The base '{header['name']}' has no encoder: destylization and stage II need one.")
    if header["encoder"]["space"] != "z+":
        raise UsageError(f"The encoder of the base '{header['name']}' gives W+ codes; one to Z+ is needed.")
    if "bundle" in stages and recipe.kind == "style":
        try:
            fit_weights(recipe.bundle.weights, rows)
        except UsageError as error:
            raise UsageError(f"bundle.weights: {error}") from None
    for key, value, most in (
        ("destylize.structure_rows", recipe.destylize.structure_rows, rows),
        ("transfer.shift", recipe.transfer.shift, size - 1),
        *(
            (f"pretrain.phases[{i}].rows", phase.rows, rows - 1)
            for i, phase in enumerate(recipe.pretrain.phases if "pretrain" in recipe.stages else ())
        ),
    ):
        if value > most:
            what = f"'{header['name']}' has {rows} rows and {size} px"
            raise UsageError(f"{key} = {value} does not fit the base: {what}, so {most} at most.")
