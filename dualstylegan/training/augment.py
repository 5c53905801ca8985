"""Adaptive discriminator augmentation (Karras et al. 2020, "Training GANs with limited data").

D sees real and generated pictures only through random, differentiable transformations of geometry and colour, each
applied with probability p. As long as p stays below about 0.8, G cannot win by drawing transformed pictures: they do
not leak. p rises while D is too sure of real pictures and falls while it is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dualstylegan.runtime.processes import Processes
from dualstylegan.training.portraits import resized

EVERY = 4  # steps whose logits are averaged before p moves


class AdaptiveAugmentation:
    """Augments images with a probability that follows D.

    `target` is what the mean sign of D's logits on real pictures should be; `images` is over how many real pictures p
    may move by 1; `most` is its limit. Over all `processes`, so that p is the same in all.
    """

    def __init__(
        self,
        *,
        target: float = 0.6,
        images: int = 500_000,
        most: float = 0.8,
        p: float = 0.0,
        processes: Processes | None = None,
    ):
        self.target, self.images, self.most, self.p = target, images, most, p
        self._processes = processes or Processes()
        self._signs: float | Tensor = 0.0  # read once in four steps: reading makes a device wait
        self._seen, self._steps = 0, 0

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return augment(images, self.p, generator)

    def observe(self, real_logits: Tensor) -> None:
        """Take note of D's logits (B, 1) on real pictures."""
        self._signs = self._signs + real_logits.detach().float().sign().sum()
        self._seen += len(real_logits)

    def adapt(self) -> float:
        """Once a step: every fourth one moves p towards what would bring the signs to the target. Returns p."""
        self._steps += 1
        if self._steps % EVERY or not self._seen:
            return self.p
        overfit = float(self._processes.mean(torch.tensor(float(self._signs) / self._seen)))
        step = self._seen * self._processes.count / self.images
        self.p = min(max(self.p + math.copysign(step, overfit - self.target), 0.0), self.most)
        self._signs, self._seen = 0.0, 0
        return self.p

    def state_dict(self) -> dict[str, Any]:
        return {"p": self.p, "signs": float(self._signs), "seen": self._seen, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.p, self._signs, self._seen, self._steps = (state[key] for key in ("p", "signs", "seen", "steps"))


def augment(images: Tensor, p: float, generator: torch.Generator | None = None) -> Tensor:
    """Images (B, 3, S, S), RGB in [-1, 1], each with its own random geometry and colour; not clamped.

    Chance comes from `generator`, on the CPU, or torch's own. Differentiable, also twice.
    """
    if p <= 0:
        return images
    with torch.autocast(images.device.type, enabled=False):  # bf16 has three digits: too few for a pixel's place
        chance = _Chance(len(images), p, generator)
        geometry, colour = _geometry(chance, images.shape[-1]), _colour(chance)
        return _recolour(_warp(images.float(), geometry), colour.to(images.device))


def jitter(images: Tensor, amount: float, size: int) -> Tensor:
    """Images (B, 3, S, S), each turned (radians), scaled and, half as far, moved by about `amount`; then `size` px.

    For what is to be reproduced, not judged: aligned faces differ this much by their landmarks' errors alone.
    """
    if amount > 0:
        with torch.autocast(images.device.type, enabled=False):  # bf16 has three digits: too few for a pixel's place
            batch, side = len(images), images.shape[-1]
            zoom = 1 + torch.randn(batch) * amount
            moved = torch.randn(2, batch) * (amount / 2 * side)
            about = _translate(*moved) @ _scale(zoom, zoom) @ _rotate(torch.randn(batch) * amount)
            middle = torch.full((batch,), (side - 1) / 2)
            matrix = _translate(middle, middle) @ about @ _translate(-middle, -middle)
            images = _warp(images.float(), matrix, "bicubic").clamp(-1, 1)
    return resized(images, size)


class _Chance:
    """Random numbers of a batch. With probability 1 - p a sample gets the value that changes nothing."""

    def __init__(self, batch: int, p: float, generator: torch.Generator | None):
        self.batch, self.p, self.generator = batch, p, generator

    def normal(self, deviation: float) -> Tensor:
        return self._where_chosen(torch.randn(self.batch, generator=self.generator) * deviation, 0.0)

    def log_normal(self, deviation: float) -> Tensor:
        return 2 ** self.normal(deviation)

    def uniform(self, low: float, high: float, p: float | None = None) -> Tensor:
        return self._where_chosen(torch.rand(self.batch, generator=self.generator) * (high - low) + low, 0.0, p)

    def integer(self, count: int) -> Tensor:
        return self._where_chosen(torch.randint(count, (self.batch,), generator=self.generator).float(), 0.0)

    def _where_chosen(self, values: Tensor, otherwise: float, p: float | None = None) -> Tensor:
        chosen = torch.rand(self.batch, generator=self.generator) < (self.p if p is None else p)
        return torch.where(chosen, values, otherwise)


# ----------------------------------------------------------------------------------------------------------- geometry


def _geometry(chance: _Chance, size: int) -> Tensor:
    """Matrices (B, 3, 3) from a picture's pixels to those of its transformation, about the picture's centre.

    The paper's order and strengths: pixel-exact ones first, then general ones.
    """
    matrix = _scale(1 - 2 * chance.integer(2), torch.ones(chance.batch))  # mirrored or not
    matrix = _rotate(chance.integer(4) * (math.pi / 2)) @ matrix
    shift_x, shift_y = ((chance.uniform(-0.125, 0.125) * size).round() for _ in range(2))
    matrix = _translate(shift_x, shift_y) @ matrix

    zoom = chance.log_normal(0.2)
    matrix = _scale(zoom, zoom) @ matrix
    p_rotation = 1 - math.sqrt(1 - chance.p)  # so that one of the two rotations happens with probability p
    matrix = _rotate(chance.uniform(-math.pi, math.pi, p_rotation)) @ matrix
    stretch = chance.log_normal(0.2)
    matrix = _scale(stretch, 1 / stretch) @ matrix
    matrix = _rotate(chance.uniform(-math.pi, math.pi, p_rotation)) @ matrix
    shift_x, shift_y = (chance.normal(0.125) * size for _ in range(2))
    matrix = _translate(shift_x, shift_y) @ matrix

    middle = torch.full((chance.batch,), (size - 1) / 2)
    return _translate(middle, middle) @ matrix @ _translate(-middle, -middle)


def _warp(images: Tensor, matrix: Tensor, mode: str = "bilinear") -> Tensor:
    from kornia.geometry.transform import warp_affine

    size = (images.shape[-2], images.shape[-1])
    matrix = matrix[:, :2].to(images.device)
    warped = warp_affine(images, matrix, size, mode=mode, padding_mode="reflection", align_corners=False)
    return warped.contiguous(memory_format=torch.channels_last)


def _scale(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], dim=-1))


def _rotate(angle: Tensor) -> Tensor:
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=-1).reshape(-1, 3, 3)


def _translate(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return torch.stack([one, zero, x, zero, one, y, zero, zero, one], dim=-1).reshape(-1, 3, 3)


# ------------------------------------------------------------------------------------------------------------- colour


def _colour(chance: _Chance) -> Tensor:
    """Matrices (B, 3, 4) from RGB1 to RGB: brightness, contrast, luma flip, hue, saturation, in the paper's order."""
    batch = chance.batch
    identity = torch.eye(4).expand(batch, 4, 4)
    luma = torch.tensor([1.0, 1.0, 1.0, 0.0]) / math.sqrt(3)
    along = torch.outer(luma, luma)  # projects on the grey axis

    matrix = identity.clone()
    matrix[:, :3, 3] = chance.normal(0.2)[:, None]
    contrast = chance.log_normal(0.5)[:, None, None]
    matrix = torch.cat([contrast * identity[:, :3], identity[:, 3:]], dim=1) @ matrix
    flip = chance.integer(2)[:, None, None]
    matrix = (identity - 2 * along * flip) @ matrix
    hue = chance.uniform(-math.pi, math.pi)[:, None, None]
    matrix = _rotation_about_grey(hue, along) @ matrix
    saturation = chance.log_normal(1.0)[:, None, None]
    matrix = (along + _affine_part() + (_linear_part() - along) * saturation) @ matrix
    return matrix[:, :3]


def _rotation_about_grey(angle: Tensor, along: Tensor) -> Tensor:
    """Rodrigues' formula about the axis (1, 1, 1) / sqrt 3; angles (B, 1, 1)."""
    cross = torch.zeros(4, 4)
    cross[:3, :3] = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    return along + (_linear_part() - along) * angle.cos() + cross * angle.sin() + _affine_part()


def _linear_part() -> Tensor:
    return torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0]))


def _affine_part() -> Tensor:
    return torch.diag(torch.tensor([0.0, 0.0, 0.0, 1.0]))


def _recolour(images: Tensor, matrix: Tensor) -> Tensor:
    batch, _, height, width = images.shape
    pixels = images.permute(0, 2, 3, 1).reshape(batch, -1, 3)
    pixels = torch.baddbmm(matrix[:, :, 3].unsqueeze(1), pixels, matrix[:, :, :3].transpose(1, 2))
    return pixels.reshape(batch, height, width, 3).permute(0, 3, 1, 2)
