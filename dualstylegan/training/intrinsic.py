"""Intrinsic codes: faces encoded, codes crossed, random faces drawn from what a base has to offer."""

from __future__ import annotations

import torch
from torch import Tensor

from dualstylegan.models.base import Base
from dualstylegan.models.build import Encoder
from dualstylegan.models.priors import GaussianPrior
from dualstylegan.training.portraits import resized


def encode(encoder: Encoder, images: Tensor) -> Tensor:
    """Codes (B, rows, dim) of faces (B, 3, S, S) of any size, clamped to [-1, 1] as a picture would be."""
    return encoder(resized(images.clamp(-1, 1), encoder.input_size))


def cross(first: Tensor, second: Tensor, probability: float = 1.0) -> Tensor:
    """Style mixing: rows from a random one on are `second`'s, in a share `probability` of the codes (B, rows, dim)."""
    batch, rows, _ = first.shape
    cut = torch.randint(1, rows, (batch, 1))
    cut[torch.rand(batch, 1) >= probability] = rows
    take_second = (torch.arange(rows) >= cut)[:, :, None].to(first.device)
    return torch.where(take_second, second, first)


class RandomFaces:
    """Random intrinsic codes of a base, from the prior the base itself brings.

    `mixing` is the share of codes crossed from two draws; a prior that is made of stored codes mixes rows by itself.
    """

    def __init__(self, base: Base, device: torch.device, mixing: float = 0.0):
        self.base, self.device = base, device
        self.gaussian = base.prior is None or isinstance(base.prior, GaussianPrior)
        self.mixing = mixing if self.gaussian else 0.0

    def draw(self, count: int) -> Tensor:
        """Codes (count, rows, dim) in Z+. Chance comes from torch's own generator on the CPU."""
        codes = self.base.sample_intrinsic(count, torch.default_generator)
        if self.mixing:
            codes = cross(codes, self.base.sample_intrinsic(count, torch.default_generator), self.mixing)
        return codes.to(self.device)

    def noise_rows(self, count: int, first: int) -> Tensor:
        """Random values for the rows from `first` on: Gaussian, or the prior's where Gaussian codes mean nothing."""
        codes = self.base.sample_intrinsic(count, torch.default_generator)[:, first:]
        return (torch.randn_like(codes) if self.gaussian else codes).to(self.device)
