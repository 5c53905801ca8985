"""How near models come to one of them, drawn from the same codes (Yang et al. 2022, supplement 1.4)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dualstylegan.media.images import from_tensor
from dualstylegan.media.sheets import strip
from dualstylegan.runtime.files import whole_file
from dualstylegan.training.perception import Perception

AT_ONCE = 8
SHOWN = 8


@dataclass(frozen=True)
class Distances:
    """Of one model from the truth, of every code."""

    name: str
    perceptual: np.ndarray  # (N,), LPIPS
    pixel: np.ndarray  # (N,), mean absolute difference, pictures in [-1, 1]


@dataclass(frozen=True)
class Comparison:
    """Every model's distances from the `truth`, and a sheet of the first codes."""

    truth: str
    distances: tuple[Distances, ...]
    sheet: np.ndarray  # uint8 (H, W, 3)

    @property
    def nearest(self) -> np.ndarray:
        """(models, ): the part of the codes for which each one is perceptually nearest."""
        winners = np.stack([one.perceptual for one in self.distances]).argmin(axis=0)
        return np.bincount(winners, minlength=len(self.distances)) / len(winners)

    @property
    def table(self) -> list[tuple[str, float, float, float, float, float]]:
        """(model, perceptual, its deviation, pixel, its deviation, part nearest) by perceptual distance."""
        rows = [
            (one.name, *_spread(one.perceptual), *_spread(one.pixel), float(part))
            for one, part in zip(self.distances, self.nearest, strict=True)
        ]
        return sorted(rows, key=lambda row: row[1])

    @property
    def lines(self) -> list[str]:
        """The table, to be read."""
        count = len(self.distances[0].perceptual)
        lines = [f"Distance to {self.truth} over {count} codes: perceptual, pixel, nearest in"]
        for name, perceptual, spread, pixel, pixel_spread, part in self.table:
            numbers = f"{perceptual:.3f} ± {spread:.3f}   {pixel:.3f} ± {pixel_spread:.3f}   {part:4.0%}"
            lines.append(f"{name:10} {numbers}")
        return lines

    def write(self, path: Path) -> None:
        """The table as CSV."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("model", "perceptual", "perceptual_std", "pixel", "pixel_std", "nearest"))
        writer.writerows((name, *(f"{number:.5f}" for number in numbers)) for name, *numbers in self.table)
        with whole_file(path) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8", newline="")


def _spread(distances: np.ndarray) -> tuple[float, float]:
    return float(distances.mean()), float(distances.std())


@torch.no_grad()
def compare_with(truth: str, models: Mapping[str, nn.Module], codes: Tensor, perception: Perception) -> Comparison:
    """`models` {name: network of codes (B, rows, dim) in Z+} against the one named `truth`, on codes (N, rows, dim)."""
    rivals = [name for name in models if name != truth]
    perceptual: dict[str, list[Tensor]] = {name: [] for name in rivals}
    pixel: dict[str, list[Tensor]] = {name: [] for name in rivals}
    for some in codes.split(AT_ONCE):
        wanted = models[truth](some).clamp(-1, 1)
        known = perception.lpips_features(wanted)
        for name in rivals:
            images = models[name](some).clamp(-1, 1)
            perceptual[name].append(perception.lpips(images, known))
            pixel[name].append((images - wanted).abs().mean(dim=(1, 2, 3)))
    distances = [
        Distances(name, torch.cat(perceptual[name]).cpu().numpy(), torch.cat(pixel[name]).cpu().numpy())
        for name in rivals
    ]
    return Comparison(truth, tuple(distances), _sheet(models, codes[:SHOWN]))


def _sheet(models: Mapping[str, nn.Module], codes: Tensor) -> np.ndarray:
    pictures: Sequence[Tensor] = [model(codes) for model in models.values()]
    height_px = max(96, min(pictures[0].shape[-1], 256))
    return strip(*(list(from_tensor(one)) for one in pictures), row_labels=list(models), height_px=height_px)
