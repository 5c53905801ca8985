"""A small encoder for small bases: a face to one Z+ row per layer, each row from features of its own scale.

The shape is pSp's (Richardson et al. 2021): coarse rows read coarse maps, fine rows finer ones, and every row has a
head of its own. The body always works at 32 px and below, whatever the input size, so it trains beside a small
generator on a CPU. All layers are equalised, which lets encoder and generator share one learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pixel_unshuffle

from ..errors import UsageError
from .layers import SQRT2, EqualConv, EqualLinear, PixelNorm, feature_dtype, without_autocast

BODY_PX = 32


def scale_of(row: int) -> int:
    """The side of the map a row reads: pSp's division into coarse, middle and fine rows."""
    return 4 if row < 3 else 8 if row < 7 else 16


class SmallEncoder(nn.Module):
    """Faces to codes (B, rows, style_dim) in Z+, every row of mean square 1.

    `size` is the input's side, a multiple of 32 px. `channels` is the width at 32 px; it doubles at 16 px and is three
    times as much below. Under `torch.autocast` feature maps take the autocast dtype, codes stay in the parameters'.
    """

    space = "z+"

    def __init__(self, rows: int, style_dim: int, size: int = 64, *, channels: int = 64):
        super().__init__()
        if size < BODY_PX or size % BODY_PX:
            raise UsageError(f"A small encoder takes pictures of a multiple of {BODY_PX} px, not {size}.")
        self.rows, self.style_dim, self.input_size, self.channels = rows, style_dim, size, channels
        width = {32: channels, 16: 2 * channels, 8: 3 * channels, 4: 3 * channels}

        self.stem = EqualConv(3 * (size // BODY_PX) ** 2, width[32], 3, padding=1, activate=True)
        self.blocks = nn.ModuleDict({str(px): Halving(width[2 * px], width[px]) for px in (16, 8, 4)})
        self.sides = nn.ModuleDict({str(px): EqualConv(width[px], width[8], 1) for px in (16, 8)})
        self.heads = nn.ModuleList(Head(width[8], channels, style_dim, scale_of(row)) for row in range(rows))
        self.normalize = PixelNorm()

    def forward(self, images: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """Images (B, 3, input_size, input_size), RGB, float in [-1, 1]; codes (B, rows, style_dim) in Z+.

        Rows that are not among `rows` are not computed; zeros stand in their place.
        """
        wanted = set(range(self.rows) if rows is None else rows)
        dtype = feature_dtype(self.stem.weight)
        with without_autocast(self.stem.weight):
            x = pixel_unshuffle(images, self.input_size // BODY_PX).to(dtype, memory_format=torch.channels_last)
            maps = self._maps(self.stem(x))
            absent = self.stem.weight.new_zeros(len(images), self.style_dim)
            codes = [
                self.normalize(head(maps[scale_of(row)])) if row in wanted else absent
                for row, head in enumerate(self.heads)
            ]
        return torch.stack(codes, dim=1)

    def _maps(self, x: Tensor) -> dict[int, Tensor]:
        """Feature maps of 4, 8 and 16 px; what the coarse ones know is added to the finer ones."""
        maps: dict[int, Tensor] = {}
        for name, block in self.blocks.items():
            x = maps[int(name)] = block(x)
        for px in (8, 16):
            coarse = interpolate(maps[px // 2], scale_factor=2, mode="bilinear", align_corners=False)
            maps[px] = (coarse + self.sides[str(px)](maps[px])) * (1 / SQRT2)
        return maps


class Halving(nn.Module):
    """Residual block: two 3x3 convolutions, the second of stride 2, beside a pooled 1x1 shortcut; sum / sqrt 2."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = EqualConv(in_channels, in_channels, 3, padding=1, activate=True)
        self.conv2 = EqualConv(in_channels, out_channels, 3, stride=2, padding=1, activate=True)
        self.skip = EqualConv(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.skip(avg_pool2d(x, 2))) * (1 / SQRT2)


class Head(nn.Module):
    """One row's own way from a map of side `px` to its code: halved down to 4 px, then read whole."""

    def __init__(self, in_channels: int, channels: int, style_dim: int, px: int):
        super().__init__()
        strides = [2] * int(math.log2(px // 4)) or [1]
        widths = [in_channels, *[channels] * len(strides)]
        self.convs = nn.Sequential(
            *(
                EqualConv(inputs, channels, 3, stride=stride, padding=1, activate=True)
                for inputs, stride in zip(widths[:-1], strides, strict=True)
            )
        )
        self.linear = EqualLinear(channels * 4 * 4, style_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convs(x).to(self.linear.weight.dtype).flatten(1))
