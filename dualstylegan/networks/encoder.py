"""The pSp encoder (Richardson et al. 2021): a face to one code per generator row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from .ir_se50 import IRSE50
from .layers import EqualLinear

Space = Literal["z+", "w+"]

COARSE_ROWS = 3  # rows 0-2 are read off the smallest features,
MIDDLE_ROWS = 7  # rows 3-6 off the middle ones, the rest off the largest


class Head(nn.Module):
    """Features (B, C, S, S) to one row (B, dim): log2(S) strided convolutions and a linear layer."""

    def __init__(self, channels: int, dim: int, side: int):
        super().__init__()
        layers = []
        for i in range(int(math.log2(side))):
            layers += [nn.Conv2d(channels if i == 0 else dim, dim, 3, stride=2, padding=1), nn.LeakyReLU(0.01, True)]
        self.convs = nn.Sequential(*layers)
        self.linear = EqualLinear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convs(x).flatten(1))


class PSPEncoder(nn.Module):
    """IR-SE50 body, a feature pyramid and a head per row. `space` says what the codes are: Z+ or W+.

    Rows nobody asks for are not computed: without colour rows the pyramid's largest level is left out too, about half
    of the work. Under `torch.autocast` body and heads run in its dtype; the codes are float32.
    """

    def __init__(self, rows: int = 18, style_dim: int = 512, size: int = 256, *, space: Space = "z+"):
        super().__init__()
        self.rows, self.style_dim, self.input_size, self.space = rows, style_dim, size, space
        self.body = IRSE50()
        self.lateral_middle = nn.Conv2d(256, 512, 1)
        self.lateral_fine = nn.Conv2d(128, 512, 1)
        self.heads = nn.ModuleList(Head(512, style_dim, size // self._stride(row)) for row in range(rows))
        self.latent_avg: Tensor
        self.register_buffer("latent_avg", torch.zeros(rows, style_dim))

    @staticmethod
    def _stride(row: int) -> int:
        """Pixels of the image per position of the features that `row` is read from."""
        return 16 if row < COARSE_ROWS else 8 if row < MIDDLE_ROWS else 4

    def forward(self, images: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """Images (B, 3, size, size), RGB in [-1, 1], to codes (B, rows, dim), latent_avg added.

        `rows`: the rows that are wanted, None for all. The others come back as latent_avg.
        """
        wanted = range(self.rows) if rows is None else sorted(set(rows))
        if any(not 0 <= row < self.rows for row in wanted):
            raise UsageError(f"This encoder has rows 0 to {self.rows - 1}, not {list(wanted)}.")
        if images.shape[1:] != (3, self.input_size, self.input_size):
            raise UsageError(
                f"The encoder takes (B, 3, {self.input_size}, {self.input_size}), not {tuple(images.shape)}."
            )

        fine, middle, coarse = self.body(images, taps=(6, 20, 23))
        levels = {16: coarse}
        if any(row >= COARSE_ROWS for row in wanted):
            levels[8] = _enlarge(coarse, middle) + self.lateral_middle(middle)
        if any(row >= MIDDLE_ROWS for row in wanted):
            levels[4] = _enlarge(levels[8], fine) + self.lateral_fine(fine)

        codes = list(self.latent_avg.expand(len(images), -1, -1).unbind(dim=1))
        for row in wanted:
            codes[row] = codes[row] + self.heads[row](levels[self._stride(row)])
        return torch.stack(codes, dim=1)


def _enlarge(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)
