"""Refine (Yang et al. 2022, section 4.3, "latent optimisation"): exemplars' codes after the style has been trained.

The extrinsic codes still are what an encoder of real faces made of artistic portraits. With the trained model fixed,
each `z_e` (and noise maps, which are dropped afterwards) is moved until `G(z_i, z_e, 1)` comes nearer to its portrait:
structure rows slowly, lest faces deform, colour rows faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dualstylegan.choices import STRUCTURE_ROWS
from dualstylegan.errors import TrainingError
from dualstylegan.events import Event
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.recipe import Refine
from dualstylegan.runtime.processes import Processes
from dualstylegan.training import losses
from dualstylegan.training.fitting import fit_portraits
from dualstylegan.training.optimize import frozen, optimize_rows, portrait_noise
from dualstylegan.training.perception import Perception
from dualstylegan.training.portraits import load_portrait, preview
from dualstylegan.training.results import PortraitResults, fingerprints, network_fingerprint

CX_LAYER = "relu3_1"


def refine_codes(
    folder: Path,
    portraits: Sequence[tuple[str, Path]],
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
    paths = dict(portraits)
    codes = {name: (intrinsic[i].cpu().float(), extrinsic[i].cpu().float()) for i, name in enumerate(names)}
    strangers = [name for name in names if name not in paths]
    if strangers:
        raise TrainingError(f"There is no portrait of exemplar '{strangers[0]}': refining compares with the pictures.")
    paths = {name: paths[name] for name in processes.share(sorted(codes))}
    own = {name: [code.numpy().tobytes() for code in codes[name]] for name in paths}
    network, judges = network_fingerprint(model), sorted(perception.names.items())
    marks = fingerprints(paths, replace(settings, batch=0), seed, network, judges, own=own)

    def fit_of(part: Sequence[str]) -> _CodeFit:
        images = torch.stack([load_portrait(paths[name], model.size) for name in part]).to(device)
        z_i, z_e = (torch.stack(stack).to(device) for stack in zip(*(codes[name] for name in part), strict=True))
        return _CodeFit(images, part, z_i, z_e, model, perception, settings, seed)

    with frozen(model):
        yield from fit_portraits(
            results, paths, marks, fit_of, stage="refine", processes=processes, batch=settings.batch
        )


class _CodeFit:
    """The codes of one batch of portraits (B, 3, size, size) in [-1, 1]."""

    def __init__(
        self,
        images: Tensor,
        names: Sequence[str],
        intrinsic: Tensor,
        extrinsic: Tensor,
        model: DualStyleGAN,
        perception: Perception,
        settings: Refine,
        seed: int,
    ):
        self.intrinsic, self.model = intrinsic, model
        self.settings, self.perception = settings, perception
        self.before = extrinsic
        self.structure = extrinsic[:, :STRUCTURE_ROWS].clone().requires_grad_()
        self.color = extrinsic[:, STRUCTURE_ROWS:].clone().requires_grad_()
        self.noise = portrait_noise(model.generator.noise_sizes(), seed, names, images.device)
        with torch.no_grad():
            self.wanted = perception.lpips_features(images)
            self.wanted_features = perception.features(images, (CX_LAYER,))[CX_LAYER]

    def steps(self) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
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


def read_refined(folder: Path, names: Sequence[str], plain: Tensor) -> Tensor:
    """The refined codes (N, rows, dim) of `names`, in their order; those left out keep their `plain` ones.

    Raises BadFileError naming the first other one without a result.
    """
    results = PortraitResults(folder)
    done = set(results.without_left_out(names))
    return torch.stack(
        [results.read(name)["refined"] if name in done else code for name, code in zip(names, plain, strict=True)]
    )


def read_distances(folder: Path, names: Sequence[str]) -> tuple[float, float]:
    """Mean perceptual distance to the portraits, before and after."""
    results = PortraitResults(folder)
    names = results.without_left_out(names)
    return results.stack(names, "before").mean().item(), results.stack(names, "after").mean().item()


def refinement_grid(folder: Path, portraits: Iterable[tuple[str, Path]], *, most: int = 8) -> np.ndarray:
    """Portrait, before, after: a row each for up to `most` portraits, evenly chosen."""
    return PortraitResults(folder).grid(portraits, {"before": "before_preview", "after": "after_preview"}, most)
