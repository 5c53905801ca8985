"""Muon (Jordan et al. 2024) for weights, Adam for the rest: twice as fast at reconstruction as Adam alone."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dualstylegan.runtime.devices import has_fast_bfloat16

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's quintic: five rounds bring singular values to about 0.7 to 1.2
ROUNDS = 5
LIKE_ADAM = (
    0.2  # the size of a step's entries, in learning rates: Adam's usual one (Liu et al. 2025, "Muon is scalable")
)
FASTER = 3.0  # Muon's learning rate in Adam's: measured on the base, 64 px


class Muon(torch.optim.Adam):
    """Adam (0.9, 0.99), but for weights: their momentum is orthogonalised, so that all directions are learnt alike.

    A weight is whatever has two axes or more, at least 8 x 8 as a matrix (out, everything else).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.9):
        weights: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for parameter in parameters:
            (weights if parameter.ndim >= 2 and min(_as_matrix(parameter).shape) >= 8 else others).append(parameter)
        groups = [{"params": weights, "orthogonal": True, "lr": lr * FASTER}, {"params": others, "orthogonal": False}]
        super().__init__([group for group in groups if group["params"]], lr, betas=(momentum, 0.99), fused=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise NotImplementedError("This optimiser takes no closure.")
        for group in self.param_groups:
            if group["orthogonal"]:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._step_weight(parameter, parameter.grad.float(), group["lr"], group["betas"][0])
                        parameter.grad = None  # Adam passes it over
        super().step()

    def _step_weight(self, weight: nn.Parameter, gradient: Tensor, lr: float, momentum: float) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros(())  # Adam looks for it when it loads a state
            state["momentum"] = torch.zeros_like(gradient)
        mean = state["momentum"].lerp_(gradient, 1 - momentum)
        update = orthogonal(_as_matrix(torch.lerp(gradient, mean, momentum)))  # Nesterov's look ahead
        size = lr * LIKE_ADAM * max(update.shape) ** 0.5
        weight.sub_((update * size).reshape(weight.shape))


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix (M, N) with its singular values replaced by ones, roughly; float32. In bfloat16 where the device has it:
    elsewhere that costs thirty times as much as float32."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / wide.norm().clamp_min(1e-12)
    x = x.to(torch.bfloat16) if has_fast_bfloat16(matrix.device) else x.float()
    for _ in range(ROUNDS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = x.float()
    return x if wide is matrix else x.T


def _as_matrix(weight: Tensor) -> Tensor:
    return weight.reshape(len(weight), -1)
