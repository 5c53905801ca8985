"""Three residual paths that might do to g's features what fine-tuning g does (Yang et al. 2022, supplement 1.4).

None of them sees a style picture: each is told by the features it changes, and starts near no change at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from .dualstyle import AdaIN
from .layers import EqualConv, EqualLinear, feature_dtype, without_autocast
from .stylegan2 import Generator

NEAR_ZERO = 0.01  # of a ResBlock's weights
LAMBDA = 0.01  # what AdaIN and attention are first multiplied with
POOLED_PX = 8  # the side of attention's style code
DRAWN_PX = 32  # of its map; larger features take it enlarged: a layer of their own size would outweigh g


class ResBlock(nn.Module):
    """x + conv2(conv1(x)), 3x3 each: every element is changed by its surroundings."""

    def __init__(self, channels: int, side: int):
        super().__init__()
        self.conv1 = EqualConv(channels, channels, 3, padding=1, activate=True)
        self.conv2 = EqualConv(channels, channels, 3, padding=1, activate=True)
        with torch.no_grad():
            self.conv1.weight.mul_(NEAR_ZERO)
            self.conv2.weight.mul_(NEAR_ZERO)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


class AdaINPath(nn.Module):
    """x + λ AdaIN(x, A(style)), the style being x's channel means through a linear layer: channels are changed."""

    def __init__(self, channels: int, side: int):
        super().__init__()
        self.style = EqualLinear(channels, channels)
        self.norm = AdaIN(channels, channels)
        self.weight = nn.Parameter(torch.tensor(LAMBDA))

    def forward(self, x: Tensor) -> Tensor:
        style = self.style(x.mean(dim=(2, 3)).to(self.weight.dtype))
        return x + self.norm(x, self.norm.affine(style)) * self.weight.to(x.dtype)


class Attention(nn.Module):
    """x + λ a x, one channel a = sigmoid(linear(1x1(pooled x))): places are changed (Kwon and Ye 2021)."""

    def __init__(self, channels: int, side: int):
        super().__init__()
        self.pooled_px, self.drawn_px = min(side, POOLED_PX), min(side, DRAWN_PX)
        self.code = EqualConv(channels, 1, 1)
        self.map = EqualLinear(self.pooled_px**2, self.drawn_px**2)
        self.weight = nn.Parameter(torch.tensor(LAMBDA))

    def forward(self, x: Tensor) -> Tensor:
        code = self.code(adaptive_avg_pool2d(x, self.pooled_px).to(self.weight.dtype)).flatten(1)
        attention = torch.sigmoid(self.map(code)).reshape(len(x), 1, self.drawn_px, self.drawn_px)
        if self.drawn_px < x.shape[-1]:
            attention = interpolate(attention, size=x.shape[-2:], mode="bilinear")
        return x + x * (self.weight * attention).to(x.dtype)


PATHS: dict[str, type[nn.Module]] = {"resblock": ResBlock, "adain": AdaINPath, "attention": Attention}


class PathedGenerator(nn.Module):
    """g with one kind of path behind each of its convolutions. Used as g is; `paths` alone is to be trained."""

    def __init__(self, generator: Generator, kind: str):
        """`kind`: one of PATHS."""
        super().__init__()
        self.generator = generator
        self.paths = nn.ModuleList(PATHS[kind](generator.channels[side], side) for side in generator.noise_sizes())

    @property
    def mapping(self) -> nn.Module:
        return self.generator.mapping

    def forward(self, codes: Tensor, *, space: str = "z+", noise: Sequence[Tensor] | None = None) -> Tensor:
        """As Generator.forward: codes (B, rows, dim) to images (B, 3, size, size), RGB around [-1, 1]."""
        g = self.generator
        dtype = feature_dtype(g.constant)
        with without_autocast(g.constant):
            w_plus = g.to_w_plus(codes, space)
            paths = cast("list[nn.Module]", list(self.paths))
            return g.synthesize(w_plus, g.stored_noise() if noise is None else noise, paths, dtype)
