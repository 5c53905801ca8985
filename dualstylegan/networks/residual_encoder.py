"""An encoder that looks twice: at the face, and at what the generator makes of the code it has so far.

ReStyle's idea (Alaluf et al. 2021) at the size of a CPU: every pass sees the picture beside its present reconstruction
at 64 px and adds to the code; the first one sees the mean face, which is learnt. The body works at 64 px and below and
every row has a head of its own, as in SmallEncoder. Strided convolutions are 4 x 4: a 3 x 3 one of stride 2 lies half a
pixel to the left of what it halves, five times over, so that one side of the face is seen better than the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pixel_unshuffle

from ..errors import UsageError
from .layers import SQRT2, EqualConv, EqualLinear, PixelNorm, feature_dtype, without_autocast
from .small_encoder import scale_of
from .stylegan2 import Generator

BODY_PX = 64


class ResidualEncoder(nn.Module):
    """Faces to codes (B, rows, style_dim) in Z+, every row of mean square 1, in `passes` passes.

    `size` is the input's side, a multiple of 64 px. `channels` is the width at 32 px: half of it at 64 px, twice at
    16 px, three times below. It draws with a generator that it does not own: see `draw_with` and `connect`. Under
    `torch.autocast` feature maps take the autocast dtype, codes stay in the parameters'.
    """

    space = "z+"

    def __init__(self, rows: int, style_dim: int, size: int = 128, *, channels: int = 64, passes: int = 2):
        super().__init__()
        if size < BODY_PX or size % BODY_PX:
            raise UsageError(f"A residual encoder takes pictures of a multiple of {BODY_PX} px, not {size}.")
        self.rows, self.style_dim, self.input_size = rows, style_dim, size
        self.channels, self.passes = channels, passes
        width = {64: channels // 2, 32: channels, 16: 2 * channels, 8: 3 * channels, 4: 3 * channels}

        self.start = nn.Parameter(torch.randn(1, rows, style_dim))  # the mean face, once learnt
        self.stem = EqualConv(3 * (size // BODY_PX) ** 2 + 3, width[64], 3, padding=1, activate=True)
        self.blocks = nn.ModuleDict({str(px): Halving(width[2 * px], width[px]) for px in (32, 16, 8, 4)})
        self.sides = nn.ModuleDict({str(px): EqualConv(width[px], width[8], 1) for px in (16, 8)})
        self.heads = nn.ModuleList(Head(width[8], channels, style_dim, scale_of(row)) for row in range(rows))
        self.normalize = PixelNorm()
        self._drawer: list[Generator] = []  # in a list: its weights are not this module's

    def draw_with(self, generator: Generator) -> ResidualEncoder:
        """Let reconstructions be drawn by `generator` itself, which trains beside the encoder. Returns self."""
        self._drawer = [generator]
        return self

    def connect(self, generator: Generator) -> ResidualEncoder:
        """Let them be drawn by a copy of what `generator` is now, its layers up to 64 px. Returns self."""
        return self.draw_with(generator.up_to(min(BODY_PX, generator.size)).eval().requires_grad_(False))

    def forward(self, images: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """Images (B, 3, input_size, input_size), RGB, float in [-1, 1]; codes (B, rows, style_dim) in Z+.

        Rows that are not among `rows` are not computed; zeros stand in their place.
        """
        return self.all_passes(images, rows)[0]

    def all_passes(self, images: Tensor, rows: Sequence[int] | None = None) -> tuple[Tensor, list[Tensor]]:
        """The codes, and the reconstructions that the passes after the first one saw, (B, 3, 64, 64) each."""
        if not self._drawer:
            raise UsageError("This encoder draws what it has understood, and was given no generator to draw with.")
        if images.shape[-2:] != (self.input_size, self.input_size):
            raise UsageError(f"This encoder takes pictures of {self.input_size} px, not {tuple(images.shape[-2:])}.")
        wanted = set(range(self.rows) if rows is None else rows)
        drawer, seen = self._drawer[0], []
        drawn_rows = set(range(drawer.rows_at(min(BODY_PX, drawer.size))))

        code = self.start.expand(len(images), -1, -1)
        picture = self._draw(self.start).expand(len(images), -1, -1, -1)
        for left in reversed(range(self.passes)):
            needed = wanted if left == 0 else wanted | drawn_rows
            code = code + self._look(images, picture, needed)
            if left:
                picture = self._draw(code)
                seen.append(picture)
        absent = [row for row in range(self.rows) if row not in wanted]
        code = self.normalize(code)
        if absent:
            keep = torch.tensor([row in wanted for row in range(self.rows)], device=code.device)
            code = code * keep[:, None]
        return code, seen

    def _draw(self, code: Tensor) -> Tensor:
        """What the generator makes of codes that are not normalised yet, (B, 3, 64, 64)."""
        drawer = self._drawer[0]
        picture = drawer.draw_at(min(BODY_PX, drawer.size), self.normalize(code))
        if picture.shape[-1] != BODY_PX:
            picture = interpolate(picture, size=(BODY_PX, BODY_PX), mode="bilinear", align_corners=False)
        return picture

    def _look(self, images: Tensor, picture: Tensor, wanted: set[int]) -> Tensor:
        """What a pass adds to the code, (B, rows, style_dim); zeros in rows that are not wanted."""
        dtype = feature_dtype(self.stem.weight)
        with without_autocast(self.stem.weight):
            x = torch.cat([pixel_unshuffle(images, self.input_size // BODY_PX), picture], dim=1)
            maps = self._maps(self.stem(x.to(dtype, memory_format=torch.channels_last)))
            absent = self.stem.weight.new_zeros(len(images), self.style_dim)
            added = [head(maps[scale_of(row)]) if row in wanted else absent for row, head in enumerate(self.heads)]
        return torch.stack(added, dim=1)

    def _maps(self, x: Tensor) -> dict[int, Tensor]:
        """Feature maps of 4, 8 and 16 px; what the coarse ones know is added to the finer ones."""
        maps: dict[int, Tensor] = {}
        for name, block in self.blocks.items():
            x = maps[int(name)] = block(x)
        for px in (8, 16):
            coarse = interpolate(maps[px // 2], scale_factor=2, mode="bilinear", align_corners=False)
            maps[px] = (coarse + self.sides[str(px)](maps[px])) * (1 / SQRT2)
        return maps

    def _apply(self, fn, recurse=True):
        for drawer in self._drawer:  # a device or dtype is shared with what it draws with
            drawer._apply(fn, recurse)
        return super()._apply(fn, recurse)


class Halving(nn.Module):
    """Residual block: a 3x3 convolution, a 4x4 one of stride 2, beside a pooled 1x1 shortcut; sum / sqrt 2."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = EqualConv(in_channels, in_channels, 3, padding=1, activate=True)
        self.conv2 = EqualConv(in_channels, out_channels, 4, stride=2, padding=1, activate=True)
        self.skip = EqualConv(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.skip(avg_pool2d(x, 2))) * (1 / SQRT2)


class Head(nn.Module):
    """One row's own way from a map of side `px` to its code: halved down to 4 px, then read whole."""

    def __init__(self, in_channels: int, channels: int, style_dim: int, px: int):
        super().__init__()
        convs = []
        while px > 4:
            convs.append(EqualConv(in_channels, channels, 4, stride=2, padding=1, activate=True))
            in_channels, px = channels, px // 2
        self.convs = nn.Sequential(*(convs or [EqualConv(in_channels, channels, 3, padding=1, activate=True)]))
        self.linear = EqualLinear(channels * 4 * 4, style_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convs(x).to(self.linear.weight.dtype).flatten(1))
