"""Facial destylization (Yang et al. 2022, section 4.1): the extrinsic and the intrinsic code of each portrait.

1. `z_e = E(S)`: what the face encoder makes of the portrait, its extrinsic code.
2. `z` fitted so that the fine-tuned g' draws the portrait: `g'(z)` is S, hence `g(z)` a real face of that structure.
3. `z_i = E(g(z))`: that face encoded again, truncated, which pulls what no real face has back into the space of faces.

Codes (rows, dim) are in Z+. Fine rows always keep the encoder's values: stage 2 is about structure, and fine rows
would otherwise take up the portrait's texture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dualstylegan.errors import UsageError
from dualstylegan.events import Event
from dualstylegan.models.build import Encoder
from dualstylegan.networks.stylegan2 import Generator
from dualstylegan.recipe import Destylize
from dualstylegan.runtime.compiling import Faster, as_is
from dualstylegan.runtime.processes import Processes
from dualstylegan.training import losses
from dualstylegan.training.fitting import fit_portraits
from dualstylegan.training.intrinsic import encode
from dualstylegan.training.optimize import RateSchedule, frozen, optimize_rows, portrait_noise
from dualstylegan.training.perception import Perception
from dualstylegan.training.portraits import load_portrait, preview
from dualstylegan.training.results import PortraitResults, fingerprints, network_fingerprint


def destylize_portraits(
    folder: Path,
    portraits: Sequence[tuple[str, Path]],
    *,
    generator: Generator,
    finetuned: Generator,
    encoder: Encoder,
    perception: Perception,
    settings: Destylize,
    seed: int,
    photos: Mapping[str, Path] | None = None,
    processes: Processes | None = None,
    faster: Faster = as_is,
) -> Iterator[Event]:
    """Destylize this process's share of `portraits` into `folder`, one file per portrait as its batch ends. Of those
    that `photos` has the photo of, by name, nothing is fitted: the intrinsic code is the photo's.

    Portraits already done with the same settings, networks and pixels are passed over. There is no collective call:
    between batches each looks whether another process has failed. On a CPU codes do not depend on the batch, the number
    of threads or of processes (fitting.py says how). `faster` may compile g', which then rounds otherwise. Raises
    UsageError for an encoder that does not give Z+ codes of this generator, BadFileError for a portrait that cannot be
    read, TrainingError when a loss is not finite.
    """
    _demand_fitting_encoder(encoder, generator)
    processes = processes or Processes(verb="destylize")
    results = PortraitResults(folder)
    paths, photos = dict(processes.share(sorted(portraits))), photos or {}
    drawn = {name: path for name, path in paths.items() if name in photos}
    others = {name: path for name, path in paths.items() if name not in photos}
    # The batch does not change the codes, so a batch halved for memory may go on with what is there.
    networks, judges = network_fingerprint(generator, finetuned, encoder), sorted(perception.names.items())
    marks = fingerprints(others, replace(settings, batch=0), seed, networks, judges)
    theirs = {name: [photos[name].read_bytes()] for name in drawn}
    drawn_marks = fingerprints(drawn, settings.structure_rows, networks, judges, own=theirs)

    draw = faster(finetuned.forward)

    def load(where: Mapping[str, Path], part: Sequence[str]) -> Tensor:
        return torch.stack([load_portrait(where[name], generator.size) for name in part]).to(processes.device)

    def fit_of(part: Sequence[str]) -> PortraitFit:
        return PortraitFit(load(paths, part), part, generator, finetuned, draw, encoder, perception, settings, seed)

    def drawn_of(part: Sequence[str]) -> DrawnFromPhotos:
        return DrawnFromPhotos(
            load(paths, part), load(photos, part), generator, finetuned, encoder, perception, settings.structure_rows
        )

    about: dict[str, Any] = {"stage": "destylize", "processes": processes, "batch": settings.batch}
    with frozen(generator, finetuned, encoder):
        if drawn:
            yield from fit_portraits(results, drawn, drawn_marks, drawn_of, **about)
        if others or not drawn:
            yield from fit_portraits(results, others, marks, fit_of, **about)


class PortraitFit:
    """The three stages on one batch of portraits (B, 3, size, size) in [-1, 1]. `draw` is g', perhaps compiled."""

    def __init__(
        self,
        images: Tensor,
        names: Sequence[str],
        generator: Generator,
        finetuned: Generator,
        draw: Callable[..., Tensor],
        encoder: Encoder,
        perception: Perception,
        settings: Destylize,
        seed: int,
    ):
        self.generator, self.finetuned, self.draw, self.encoder = generator, finetuned, draw, encoder
        self.settings, self.perception = settings, perception
        with torch.no_grad():
            self.extrinsic = encode(encoder, images)  # stage 1
            self.wanted = perception.lpips_features(images)
            self.person = perception.identity(images) if settings.identity else images.new_zeros(0)
        self.codes = self.extrinsic.clone().requires_grad_()
        self.noise = portrait_noise(generator.noise_sizes(), seed, names, images.device)

    def steps(self) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        """Stage 2: fit the codes and the noise so that g' draws the portraits."""
        settings = self.settings
        yield from optimize_rows(
            [(self.codes, settings.lr)],
            self.noise,
            self.losses,
            iterations=settings.steps,
            noise_rate=settings.lr,
            schedule=RateSchedule(settings.rampup, settings.rampdown),
        )

    def losses(self) -> dict[str, Tensor]:
        settings = self.settings
        fitted = self.draw(self.codes, noise=self.noise)
        terms = {"perceptual": settings.perceptual * self.perception.lpips(fitted, self.wanted)}
        if settings.identity:
            terms["identity"] = settings.identity * self.perception.identity_distance(fitted, self.person)
        terms["spread"] = settings.spread * losses.row_spread(self.codes)
        terms["noise"] = settings.noise * losses.noise_correlation(self.noise)
        return terms

    @torch.no_grad()
    def outcome(self) -> dict[str, Tensor]:
        """Stage 3, and previews (B, 3, P, P) uint8 for the grid: E's reconstruction, g' fit, the destylized face."""
        settings = self.settings
        fit = self.finetuned(self.codes.detach(), noise=self.noise)
        codes = self._with_encoder_rows(self.codes.detach())
        face = self.generator(codes, truncation=settings.truncation)
        intrinsic = self._with_encoder_rows(encode(self.encoder, face))
        return {
            "intrinsic": intrinsic,
            "extrinsic": self.extrinsic,
            "perceptual": self.perception.lpips(fit, self.wanted),
            "reconstruction_preview": preview(self.generator(self.extrinsic)),
            "fit_preview": preview(fit),
            "face_preview": preview(self.generator(intrinsic)),
        }

    def _with_encoder_rows(self, codes: Tensor) -> Tensor:
        return _structure_of(codes, self.extrinsic, self.settings.structure_rows)


class DrawnFromPhotos:
    """Portraits and the photos they are drawn from, both (B, 3, size, size) in [-1, 1]: nothing is left to fit. That g'
    draws the portrait from the photo's code, as it should, is told by `perceptual` and seen in the grid."""

    def __init__(
        self,
        images: Tensor,
        photos: Tensor,
        generator: Generator,
        finetuned: Generator,
        encoder: Encoder,
        perception: Perception,
        structure_rows: int,
    ):
        self.images, self.generator, self.finetuned, self.perception = images, generator, finetuned, perception
        with torch.no_grad():
            self.extrinsic = encode(encoder, images)
            self.intrinsic = _structure_of(encode(encoder, photos), self.extrinsic, structure_rows)

    def steps(self) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        return iter(())

    def losses(self) -> dict[str, Tensor]:
        return {"perceptual": self.perception.lpips(self.finetuned(self.intrinsic), self.images)}

    @torch.no_grad()
    def outcome(self) -> dict[str, Tensor]:
        """As PortraitFit's."""
        fit = self.finetuned(self.intrinsic)
        return {
            "intrinsic": self.intrinsic,
            "extrinsic": self.extrinsic,
            "perceptual": self.perception.lpips(fit, self.images),
            "reconstruction_preview": preview(self.generator(self.extrinsic)),
            "fit_preview": preview(fit),
            "face_preview": preview(self.generator(self.intrinsic)),
        }


def _structure_of(codes: Tensor, extrinsic: Tensor, rows: int) -> Tensor:
    # 8 by default, though colour rows begin at 7: row 7 is also read by the last structure layers' ToRGB.
    return torch.cat([codes[:, :rows], extrinsic[:, rows:]], dim=1)


def read_codes(folder: Path, names: Sequence[str] | None = None) -> tuple[list[str], Tensor, Tensor]:
    """(names in ID order, intrinsic, extrinsic) of `names`, or of all in `folder`; codes (N, rows, dim) in Z+.

    Those that were left out are not among them. Raises BadFileError naming the first other portrait without a result.
    """
    results = PortraitResults(folder)
    names = results.names() if names is None else results.without_left_out(sorted(names))
    return names, results.stack(names, "intrinsic"), results.stack(names, "extrinsic")


def destylization_grid(folder: Path, portraits: Iterable[tuple[str, Path]], *, most: int = 8) -> np.ndarray:
    """Portrait, E's reconstruction, g' fit, destylized face: a row each for up to `most` portraits, evenly chosen."""
    shown = {"E's reconstruction": "reconstruction", "g' fit": "fit", "destylized face": "face"}
    return PortraitResults(folder).grid(portraits, {label: f"{key}_preview" for label, key in shown.items()}, most)


def _demand_fitting_encoder(encoder: Encoder, generator: Generator) -> None:
    if getattr(encoder, "space", "z+") != "z+":
        raise UsageError("Destylization needs an encoder to Z+; this base's gives W+ codes.")
    if (encoder.rows, encoder.style_dim) != (generator.rows, generator.style_dim):
        raise UsageError(
            f"The encoder gives codes of {encoder.rows} x {encoder.style_dim}, "
            f"the generator takes {generator.rows} x {generator.style_dim}."
        )
