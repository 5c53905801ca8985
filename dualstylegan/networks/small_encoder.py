"""Encoders for small bases: a face to one Z+ row per layer, each row from features of its own scale.

The shape is pSp's (Richardson et al. 2021): coarse rows read coarse maps, fine rows finer ones, and every row has a
head of its own. The body always works at 32 px and below, whatever the input size, so it trains beside a small
generator on a CPU. All layers are equalised, which lets encoder and generator share one learning rate.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pixel_unshuffle

from ..errors import UsageError
from .layers import SQRT2, EqualConv, EqualLinear, PixelNorm, feature_dtype, without_autocast

BODY_PX = 32


def scale_of(row: int) -> int:
    """The side of the map a row reads: pSp's division into coarse, middle and fine rows."""
    return 4 if row < 3 else 8 if row < 7 else 16


class RowEncoder(nn.Module):
    """What encoders for small bases share: maps of 16, 8 and 4 px, and a head for every row of Z+.

    `channels` is the width at 32 px; it doubles at 16 px and is three times as much below. `kernel` is the side of the
    convolutions that halve. Under `torch.autocast` feature maps take the autocast dtype, codes stay in the parameters'.
    """

    space = "z+"
    body_px = BODY_PX  # the side of the largest map; every coarser one is half of the one before

    def __init__(self, rows: int, style_dim: int, size: int, channels: int):
        super().__init__()
        if size < self.body_px or size % self.body_px:
            raise UsageError(f"This encoder takes pictures of a multiple of {self.body_px} px, not {size}.")
        self.rows, self.style_dim, self.input_size, self.channels = rows, style_dim, size, channels

    def _build(self, *, planes: int = 0, kernel: int) -> None:
        """The layers; `planes` of colour are looked at beside the picture."""
        channels, px = self.channels, self.body_px
        width = {64: channels // 2, 32: channels, 16: 2 * channels, 8: 3 * channels, 4: 3 * channels}
        sizes = [side for side in (32, 16, 8, 4) if side < px]
        self.stem = EqualConv(3 * (self.input_size // px) ** 2 + planes, width[px], 3, padding=1, activate=True)
        self.blocks = nn.ModuleDict({str(side): Halving(width[2 * side], width[side], kernel) for side in sizes})
        self.sides = nn.ModuleDict({str(side): EqualConv(width[side], width[8], 1) for side in (16, 8)})
        heads = (Head(width[8], channels, self.style_dim, scale_of(row), kernel) for row in range(self.rows))
        self.heads = nn.ModuleList(heads)
        self.normalize = PixelNorm()

    def _look(self, images: Tensor, wanted: Collection[int], beside: Sequence[Tensor] = ()) -> Tensor:
        """What the heads say, (B, rows, style_dim); zeros in rows that are not wanted."""
        dtype = feature_dtype(self.stem.weight)
        with without_autocast(self.stem.weight):
            x = torch.cat([pixel_unshuffle(images, self.input_size // self.body_px), *beside], dim=1)
            maps = self._maps(self.stem(x.to(dtype, memory_format=torch.channels_last)))
            absent = self.stem.weight.new_zeros(len(images), self.style_dim)
            said = [head(maps[scale_of(row)]) if row in wanted else absent for row, head in enumerate(self.heads)]
        return torch.stack(said, dim=1)

    def _maps(self, x: Tensor) -> dict[int, Tensor]:
        """Feature maps of 4, 8 and 16 px; what the coarse ones know is added to the finer ones."""
        maps: dict[int, Tensor] = {}
        for name, block in self.blocks.items():
            x = maps[int(name)] = block(x)
        for px in (8, 16):
            coarse = interpolate(maps[px // 2], scale_factor=2, mode="bilinear", align_corners=False)
            maps[px] = (coarse + self.sides[str(px)](maps[px])) * (1 / SQRT2)
        return maps


class SmallEncoder(RowEncoder):
    """Faces to codes (B, rows, style_dim) in Z+, every row of mean square 1. `size` is a multiple of 32 px."""

    def __init__(self, rows: int, style_dim: int, size: int = 64, *, channels: int = 64):
        super().__init__(rows, style_dim, size, channels)
        self._build(kernel=3)

    def forward(self, images: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """Images (B, 3, input_size, input_size), RGB, float in [-1, 1]; codes (B, rows, style_dim) in Z+.

        Rows that are not among `rows` are not computed; zeros stand in their place.
        """
        return self.normalize(self._look(images, range(self.rows) if rows is None else rows))


class Halving(nn.Module):
    """Residual block: a 3x3 convolution, one of stride 2, beside a pooled 1x1 shortcut; sum / sqrt 2."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int):
        super().__init__()
        self.conv1 = EqualConv(in_channels, in_channels, 3, padding=1, activate=True)
        self.conv2 = EqualConv(in_channels, out_channels, kernel, stride=2, padding=1, activate=True)
        self.skip = EqualConv(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.skip(avg_pool2d(x, 2))) * (1 / SQRT2)


class Head(nn.Module):
    """One row's own way from a map of side `px` to its code: halved down to 4 px, then read whole."""

    def __init__(self, in_channels: int, channels: int, style_dim: int, px: int, kernel: int):
        super().__init__()
        convs = []
        while px > 4:
            convs.append(EqualConv(in_channels, channels, kernel, stride=2, padding=1, activate=True))
            in_channels, px = channels, px // 2
        self.convs = nn.Sequential(*(convs or [EqualConv(in_channels, channels, 3, padding=1, activate=True)]))
        self.linear = EqualLinear(channels * 4 * 4, style_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convs(x).to(self.linear.weight.dtype).flatten(1))
