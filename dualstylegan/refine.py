"""Refine (Yang et al. 2022, section 4.3, "latent optimisation"): exemplars' codes after the style has been trained.

The extrinsic codes still are what an encoder of real faces made of artistic portraits. With the trained model fixed,
each `z_e` (and noise maps, which are dropped afterwards) is moved until `G(z_i, z_e, 1)` comes nearer to its portrait:
structure rows slowly, lest faces deform, colour rows faster.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np
import torch
from torch import Tensor

from dualstylegan.choices import STRUCTURE_ROWS
from dualstylegan.errors import TrainingError, UsageError
from dualstylegan.events import Event
from dualstylegan.media.images import from_tensor, write_picture
from dualstylegan.media.sheets import strip
from dualstylegan.models.codes import StyleBank
from dualstylegan.models.library import load_style
from dualstylegan.models.style import Style, save_style
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.recipe import Data, Refine
from dualstylegan.runtime.processes import Processes
from dualstylegan.training import losses
from dualstylegan.training.data import prepare_portraits
from dualstylegan.training.fitting import fit_portraits
from dualstylegan.training.optimize import frozen, optimize_rows, portrait_noise
from dualstylegan.training.perception import Perception, load_perception
from dualstylegan.training.portraits import Portrait, load_portrait, preview
from dualstylegan.training.results import PortraitResults, fingerprint, network_fingerprint
from dualstylegan.training.run import RunFolder

CX_LAYER = "relu3_1"


def refine_codes(
    folder: Path,
    portraits: Sequence[Portrait | tuple[str, Path]],
    *,
    model: DualStyleGAN,
    names: Sequence[str],
    intrinsic: Tensor,
    extrinsic: Tensor,
    perception: Perception,
    settings: Refine,
    seed: int,
    processes: Processes | None = None,
) -> Iterator[Event]:
    """Refine this process's share of the codes into `folder`, one file per portrait as its batch ends.

    `names` say whose codes (N, rows, dim) `intrinsic` and `extrinsic` are, in Z+. Which portraits are passed over
    and what the result may depend on: as in destylization. The `done` events carry the perceptual distance
    of `G(z_i, z_e, 1)` with the model's own noise to the portrait, `before` and `after`.
    """
    processes = processes or Processes(verb="refine")
    device = processes.device
    results = PortraitResults(folder)
    paths = {name: Path(path) for name, path in portraits}
    codes = {name: (intrinsic[i].cpu().float(), extrinsic[i].cpu().float()) for i, name in enumerate(names)}
    strangers = [name for name in names if name not in paths]
    if strangers:
        raise TrainingError(f"There is no portrait of exemplar '{strangers[0]}': refining compares with the pictures.")
    mine = processes.share(sorted(codes))
    marks = _fingerprints(mine, paths, codes, settings, seed, network_fingerprint(model), perception.names)

    def fit_of(part: Sequence[str]) -> _Fit:
        images = torch.stack([load_portrait(paths[name], model.size) for name in part]).to(device)
        z_i, z_e = (torch.stack(stack).to(device) for stack in zip(*(codes[name] for name in part), strict=True))
        return _Fit(images, part, z_i, z_e, model, perception, settings, seed)

    with frozen(model):
        yield from fit_portraits(
            results, paths, marks, fit_of, stage="refine", processes=processes, batch=settings.batch
        )


class _Fit:
    """The codes of one batch of portraits (B, 3, size, size) in [-1, 1]."""

    def __init__(self, images, names, intrinsic, extrinsic, model, perception, settings: Refine, seed: int):
        self.intrinsic, self.model = intrinsic, model
        self.settings, self.perception = settings, perception
        self.before = extrinsic
        self.structure = extrinsic[:, :STRUCTURE_ROWS].clone().requires_grad_()
        self.color = extrinsic[:, STRUCTURE_ROWS:].clone().requires_grad_()
        self.noise = portrait_noise(model.generator.noise_sizes(), seed, names, images.device)
        with torch.no_grad():
            self.wanted = perception.lpips_features(images)
            self.wanted_features = perception.features(images, (CX_LAYER,))[CX_LAYER]

    def steps(self):
        settings = self.settings
        rates = [(self.structure, settings.structure_lr), (self.color, settings.color_lr)]
        yield from optimize_rows(
            rates, self.noise, self.losses, iterations=settings.steps, noise_rate=settings.noise_lr
        )

    def losses(self) -> dict[str, Tensor]:
        settings = self.settings
        drawn = self.model(self.intrinsic, self.code(), noise=self.noise)
        features = self.perception.features(drawn, (CX_LAYER,))[CX_LAYER]
        return {
            "perceptual": settings.perceptual * self.perception.lpips(drawn, self.wanted),
            # centred per picture: centred over the batch, one portrait's result would depend on the others
            "contextual": settings.contextual * losses.contextual_loss(features, self.wanted_features, center="row"),
            "noise": settings.noise * losses.noise_correlation(self.noise),
        }

    def code(self) -> Tensor:
        return torch.cat([self.structure, self.color], dim=1)

    @torch.no_grad()
    def outcome(self) -> dict[str, Tensor]:
        """The refined codes, and what the model draws of the old and the new ones with its own noise."""
        refined = self.code().detach()
        old = self.model(self.intrinsic, self.before)
        new = self.model(self.intrinsic, refined)
        return {
            "refined": refined,
            "before": self.perception.lpips(old, self.wanted),
            "after": self.perception.lpips(new, self.wanted),
            "before_preview": preview(old),
            "after_preview": preview(new),
        }


def refine_style(
    portraits: str | Path,
    style: str | Path,
    run: str | Path | None = None,
    *,
    settings: Refine | None = None,
    alignment: str = "landmarks",
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
    folder.create()
    with processes.together(folder.path):
        prepared = yield from prepare_portraits(
            Data(folder=str(portraits), alignment=alignment, min_images=1),
            folder.stage("data"),
            found.model.size,
            processes=processes,
        )
        matched = _by_exemplar(prepared.training, bank.names)
        if not matched:
            known = f"{bank.names[0]} ... {bank.names[-1]}"
            raise TrainingError(f"{portraits}: no picture there is an exemplar of '{found.name}' ({known}).")
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
        if processes.is_main:
            yield from _finish(folder, found, ids, matched)


def _finish(folder: RunFolder, style: Style, ids: Sequence[int], matched: dict[str, Path]) -> Iterator[Event]:
    """The grid, and the style with its new codes."""
    bank, names = style.bank, [style.bank.names[i] for i in ids]
    write_picture(folder.grid("refine", 0), refinement_grid(folder.stage("refine"), list(matched.items())))
    refined = bank.extrinsic.clone()
    refined[list(ids)] = read_refined(folder.stage("refine"), names)
    style.bank = StyleBank(bank.names, bank.plain, bank.intrinsic, refined, style=bank.style)
    style.model.cpu()
    made = save_style(folder.style, style)
    before, after = read_distances(folder.stage("refine"), names)
    message = f"{made}: perceptual distance to {len(ids)} exemplars {before:.3f} -> {after:.3f}"
    yield Event("summary", "refine", output=str(made), message=message, data={"before": before, "after": after})


def _by_exemplar(portraits: Sequence[Portrait], names: Sequence[str]) -> dict[str, Path]:
    """{exemplar: picture}, by whole name, else by a stem that only one of them has."""
    by_name = dict(portraits)
    stems: dict[str, list[Path]] = {}
    for name, path in portraits:
        stems.setdefault(PurePath(name).stem, []).append(path)
    matched = {}
    for name in names:
        alike = stems.get(PurePath(name).stem, [])
        if name in by_name:
            matched[name] = by_name[name]
        elif len(alike) == 1:
            matched[name] = alike[0]
    return matched


def read_refined(folder: Path, names: Sequence[str]) -> Tensor:
    """The refined codes (N, rows, dim) of `names`, in their order. Raises BadFileError naming the first that lacks."""
    return PortraitResults(folder).stack(names, "refined")


def read_distances(folder: Path, names: Sequence[str]) -> tuple[float, float]:
    """Mean perceptual distance to the portraits, before and after."""
    results = PortraitResults(folder)
    return results.stack(names, "before").mean().item(), results.stack(names, "after").mean().item()


def refinement_grid(folder: Path, portraits: Sequence[Portrait | tuple[str, Path]], *, most: int = 8) -> np.ndarray:
    """Portrait, before, after: a row each for up to `most` portraits, evenly chosen."""
    results = PortraitResults(folder)
    paths = {name: Path(path) for name, path in portraits}
    names = results.names()
    names = [names[i] for i in sorted({round(i) for i in np.linspace(0, len(names) - 1, min(most, len(names)))})]
    rows = []
    for name in names:
        previews = [results.read(name)[key] for key in ("before_preview", "after_preview")]
        portrait = load_portrait(paths[name], previews[0].shape[-1])
        rows.append([from_tensor(portrait)] + [picture.permute(1, 2, 0).numpy() for picture in previews])
    return strip(*rows, labels=["portrait", "before", "after"], row_labels=names, height_px=max(128, len(rows[0][0])))


def _fingerprints(names, paths, codes, settings: Refine, seed: int, network: str, judges: dict) -> dict[str, str]:
    shared = (replace(settings, batch=0), seed, network, sorted(judges.items()))
    return {
        name: fingerprint(
            *shared,
            name,
            hashlib.sha256(paths[name].read_bytes()).digest(),
            *(code.numpy().tobytes() for code in codes[name]),
        )
        for name in names
    }
