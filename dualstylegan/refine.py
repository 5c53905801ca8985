"""`refine`: a finished style's exemplars, brought nearer to their pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from dualstylegan.choices import Alignment
from dualstylegan.errors import TrainingError, UsageError, before_work
from dualstylegan.events import Event
from dualstylegan.media.images import write_picture
from dualstylegan.models.codes import StyleBank
from dualstylegan.models.library import load_style
from dualstylegan.models.style import Style, save_style
from dualstylegan.recipe import Data, Refine, build_recipe, load_recipe, run_of
from dualstylegan.runtime.processes import Processes
from dualstylegan.train import train
from dualstylegan.training.check import check_folder
from dualstylegan.training.data import list_portraits, prepare_portraits
from dualstylegan.training.fitting import say_left_out
from dualstylegan.training.perception import load_perception
from dualstylegan.training.refinement import read_distances, read_refined, refine_codes, refinement_grid
from dualstylegan.training.results import PortraitResults
from dualstylegan.training.run import RunFolder


def refine_exemplars(
    portraits: str | Path,
    style: str | None = None,
    run: str | Path | None = None,
    *,
    from_step: int | None = None,
    refine: Mapping[str, Any] | None = None,
    alignment: Alignment = "landmarks",
    cpu: bool = False,
) -> Iterator[Event]:
    """Refine `style` against a folder of portraits; or, where `portraits` names the recipe of a training, what its run
    has made, of the snapshot `from_step`. `refine` changes settings of that stage, but for those that are None.
    """
    changed = {key: value for key, value in (refine or {}).items() if value is not None}
    if not Path(portraits).is_dir():
        if style is not None:
            raise UsageError("--style goes with a folder of pictures; a recipe names its own base.")
        recipe = load_recipe(portraits, **{f"refine__{key}": value for key, value in changed.items()})
        return train(recipe, run or run_of(portraits), stage="refine", from_step=from_step, cpu=cpu)
    if style is None:
        raise UsageError(f"{portraits} is a folder: say with --style which style to refine.")
    if from_step is not None:
        raise UsageError("--from goes with a recipe, whose run holds snapshots; a style is refined as it is.")
    table = {"name": "refine", "kind": "style", "base_model": "none", "refine": changed}
    settings = build_recipe(table, "dsg refine").refine
    return refine_style(portraits, style, run, settings=settings, alignment=alignment, cpu=cpu)


def refine_style(
    portraits: str | Path,
    style: str | Path,
    run: str | Path | None = None,
    *,
    settings: Refine | None = None,
    alignment: Alignment = "landmarks",
    seed: int = 1,
    cpu: bool = False,
) -> Iterator[Event]:
    """Refine the codes of a finished style against its exemplars' pictures in the folder `portraits`.

    Pictures are matched to exemplars by name, with or without suffix; exemplars without a picture keep their codes.
    `alignment` is how their faces are found, as in a recipe's [data]. Everything is kept in the folder `run` (default:
    runs/NAME-refined), the new style in its `style/`. Raises UsageError for a style without intrinsic codes, and
    TrainingError where no picture belongs to an exemplar.
    """
    found = load_style(style, encoder=False, thumbnails=True)
    bank = found.bank
    if bank.intrinsic is None:
        raise UsageError(f"The style '{found.name}' holds no intrinsic codes, so there is nothing to refine against.")
    folder = RunFolder(run or Path("runs") / f"{found.name}-refined")
    processes = Processes.launched(cpu=cpu, verb="refine")
    device = processes.device
    data = Data(folder=str(portraits), alignment=alignment, min_images=1)
    with before_work():
        check_folder(folder.path)
        _by_exemplar(list_portraits(data), found, portraits)
    folder.create()
    with processes.together(folder.path):
        prepared = yield from prepare_portraits(
            data,
            folder.stage("data"),
            found.model.size,
            processes=processes,
        )
        matched = _by_exemplar(dict(prepared.training), found, portraits)
        ids = [i for i, name in enumerate(bank.names) if name in matched]
        without = len(bank) - len(ids)
        if without and processes.is_main:
            yield Event("note", "refine", message=f"{without} exemplars have no picture and keep their codes")
        yield from refine_codes(
            folder.stage("refine"),
            list(matched.items()),
            model=found.model.to(device),
            names=[bank.names[i] for i in ids],
            intrinsic=bank.intrinsic[ids],
            extrinsic=bank.plain[ids],
            perception=load_perception(device=device),
            settings=settings or Refine(),
            seed=seed,
            processes=processes,
        )
        processes.wait_for_all("refined")
        results = PortraitResults(folder.stage("refine"))
        yield from say_left_out(results, [bank.names[i] for i in ids], "refine", processes)
        if processes.is_main:
            yield from _finish(folder, found, ids, matched)


def _finish(folder: RunFolder, style: Style, ids: Sequence[int], matched: dict[str, Path]) -> Iterator[Event]:
    """The grid, and the style with its new codes."""
    bank, names = style.bank, [style.bank.names[i] for i in ids]
    write_picture(folder.grid("refine", 0), refinement_grid(folder.stage("refine"), list(matched.items())))
    refined = bank.extrinsic.clone()
    refined[list(ids)] = read_refined(folder.stage("refine"), names, bank.plain[list(ids)])
    style.bank = StyleBank(bank.names, bank.plain, bank.intrinsic, refined, style=bank.style)
    style.model.cpu()
    made = save_style(folder.style, style)
    before, after = read_distances(folder.stage("refine"), names)
    message = f"{made}: perceptual distance to {len(ids)} exemplars {before:.3f} -> {after:.3f}"
    yield Event("summary", "refine", output=str(made), message=message, data={"before": before, "after": after})


def _by_exemplar(pictures: Mapping[str, Path], style: Style, folder: str | Path) -> dict[str, Path]:
    """{exemplar: picture}, by whole name, else by a stem that only one of them has. Raises TrainingError for none."""
    names = style.bank.names
    stems: dict[str, list[Path]] = {}
    for name, path in pictures.items():
        stems.setdefault(PurePath(name).stem, []).append(path)
    matched = {}
    for name in names:
        alike = stems.get(PurePath(name).stem, [])
        if name in pictures:
            matched[name] = pictures[name]
        elif len(alike) == 1:
            matched[name] = alike[0]
    if not matched:
        known = f"{names[0]} ... {names[-1]}"
        raise TrainingError(f"{folder}: no picture there is an exemplar of '{style.name}' ({known}).")
    return matched
