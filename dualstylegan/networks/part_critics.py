"""Discriminators of what people look at first: both eyes together, and the mouth (Wang et al. 2021, GFPGAN).

An aligned crop has them at fixed places. One net sees both eyes at once, the right one mirrored, so that it learns that
they match; another one sees the mouth.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .stylegan2 import Discriminator

PART_PX = 64  # what a critic sees of a part, at least
EYE, MOUTH, SIDE = (0.38, 0.475), (0.5, 0.735), 0.25  # middles x, y and the side of what is seen, in aligned crops
WIDTHS = {4: 64, 8: 64, 16: 64, 32: 32, 64: 16}


class PartCritics(nn.Module):
    """Images (B, 3, S, S) of aligned faces, in [-1, 1], to logits (B, 2) of the eyes and of the mouth."""

    def __init__(self):
        super().__init__()
        self.eyes = Discriminator(PART_PX, channels=WIDTHS, colors=6)
        self.mouth = Discriminator(PART_PX, channels=WIDTHS)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.eyes(eyes(images)), self.mouth(mouth(images))], dim=1)


def eyes(images: Tensor) -> Tensor:
    """Both eyes of faces (B, 3, S, S), the right one mirrored: (B, 6, 64, 64)."""
    return torch.cat([_part(side, EYE) for side in (images, images.flip(3))], dim=1)


def mouth(images: Tensor) -> Tensor:
    """(B, 3, 64, 64)"""
    return _part(images, MOUTH)


def _part(images: Tensor, middle: tuple[float, float]) -> Tensor:
    size = images.shape[-1]
    left, top = (round((at - SIDE / 2) * size) for at in middle)
    part = images[..., top : top + round(SIDE * size), left : left + round(SIDE * size)]
    return part if part.shape[-1] == PART_PX else interpolate(part, (PART_PX, PART_PX), mode="bilinear", antialias=True)
