"""Latent optimisation: a batch of portraits, each row fitted on its own.

Destylization's stage 2 and refine are the same loop with other losses: Adam on a few codes and on the noise maps, the
maps renormalised after every step. No term couples two rows (losses are summed over rows, statistics are per row, Adam
is element-wise, noise is drawn from the portrait's own seed), so a portrait's result does not depend on its neighbours.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dualstylegan.errors import TrainingError

RowLosses = Callable[[], dict[str, Tensor]]  # weighted terms by name, each (B,)


@dataclass(frozen=True)
class RateSchedule:
    """The StyleGAN2 projector's learning-rate curve: linear ramp-up, then constant, cosine ramp-down.

    `ramp_up` and `ramp_down` are fractions of all iterations; 0 and 0 is a constant rate.
    """

    ramp_up: float = 0.05
    ramp_down: float = 0.25

    def factor(self, progress: float) -> float:
        """The rate's factor in [0, 1] at `progress` in [0, 1)."""
        up = min(1.0, progress / self.ramp_up) if self.ramp_up else 1.0
        down = min(1.0, (1.0 - progress) / self.ramp_down) if self.ramp_down else 1.0
        return up * (0.5 - 0.5 * math.cos(math.pi * down))


CONSTANT_RATE = RateSchedule(ramp_up=0.0, ramp_down=0.0)


def optimize_rows(
    parameters: Sequence[tuple[Tensor, float]],
    noise: Sequence[Tensor],
    losses: RowLosses,
    *,
    iterations: int,
    noise_rate: float = 0.1,
    schedule: RateSchedule = CONSTANT_RATE,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Minimise the sum over rows of `losses()`; yields (iteration, detached terms) before each update.

    `parameters` are leaf tensors (B, ...) with their own learning rates, `noise` the maps (B, 1, S, S); both change in
    place. Raises TrainingError naming the term that is not finite (looked at every 25 iterations: looking costs a
    device its queue).
    """
    leaves = [tensor.requires_grad_() for tensor, _ in parameters] + [one.requires_grad_() for one in noise]
    groups: list[dict[str, Any]] = [{"params": [tensor], "lr": rate} for tensor, rate in parameters]
    if noise:
        groups.append({"params": list(noise), "lr": noise_rate})
    rates = [group["lr"] for group in groups]
    adam = torch.optim.Adam(groups)

    for iteration in range(iterations):
        factor = schedule.factor(iteration / iterations)
        for group, rate in zip(adam.param_groups, rates, strict=True):
            group["lr"] = rate * factor

        terms = losses()
        if iteration % 25 == 0 or iteration == iterations - 1:
            _demand_finite(terms, iteration)
        yield iteration, {name: term.detach() for name, term in terms.items()}

        # Not backward(): the networks' own parameters stay without gradients, whatever their requires_grad says.
        total = torch.stack([term.sum() for term in terms.values()]).sum()
        for leaf, gradient in zip(leaves, torch.autograd.grad(total, leaves, allow_unused=True), strict=True):
            leaf.grad = torch.zeros_like(leaf) if gradient is None else gradient
        adam.step()
        renormalize_(noise)


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Networks in evaluation mode and without gradients inside the body, as they were after it."""
    modules = [(module, module.training) for network in networks for module in network.modules()]
    parameters = [(p, p.requires_grad) for network in networks for p in network.parameters()]
    try:
        for network in networks:
            network.eval().requires_grad_(False)
        yield
    finally:
        for module, training in modules:
            module.training = training
        for parameter, required in parameters:
            parameter.requires_grad_(required)


@torch.no_grad()
def renormalize_(noise: Sequence[Tensor]) -> None:
    """Bring every map of every row back to mean 0, standard deviation 1, in place."""
    for maps in noise:
        maps.sub_(maps.mean(dim=(1, 2, 3), keepdim=True))
        maps.div_(maps.std(dim=(1, 2, 3), keepdim=True).clamp_min(1e-8))


def portrait_seed(seed: int, name: str) -> int:
    """A seed that belongs to one portrait of one run, the same on every machine, whatever else is in the batch."""
    return int.from_bytes(hashlib.sha256(os.fsencode(f"{seed}/{name}")).digest()[:8], "big") >> 1


def portrait_noise(sizes: Sequence[int], seed: int, names: Sequence[str], device: torch.device | str) -> list[Tensor]:
    """Normal noise maps (B, 1, S, S) for each size S, row b drawn from `names[b]`'s own seed."""
    rows = []
    for name in names:
        generator = torch.Generator().manual_seed(portrait_seed(seed, name))
        rows.append([torch.randn(1, 1, size, size, generator=generator) for size in sizes])
    return [torch.cat(maps).to(device) for maps in zip(*rows, strict=True)]


def _demand_finite(terms: dict[str, Tensor], iteration: int) -> None:
    for name, term in terms.items():
        if not torch.isfinite(term).all():
            raise TrainingError(f"the term '{name}' is not finite at step {iteration}.")
