"""Averages of parameters over training: what is saved as the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

PAPER_DECAY = 0.5 ** (32 / 10_000)  # per iteration; at a batch of 32 half the weight is 10,000 images old


def decay_for(batch: int, images: float = 10_000) -> float:
    """The decay per iteration of `batch` images after which a weight counts half in `images` images."""
    return 0.5 ** (batch / images)


def decay_over(steps: int, papers_steps: int) -> float:
    """The paper's decay; in a run shorter than the paper's, one that looks back over the same part of the run.

    Otherwise the average of a few hundred steps would still be mostly what training started from.
    """
    return PAPER_DECAY ** max(1.0, papers_steps / steps)


class Average:
    """Exponential moving average of named parameters, in float32, starting from what they are now."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], decay: float = PAPER_DECAY):
        by_name = dict(named)
        self.names, self.parameters = list(by_name), list(by_name.values())
        self.means = [parameter.detach().float().clone() for parameter in self.parameters]
        self.decay = decay

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_lerp_(self.means, [parameter.float() for parameter in self.parameters], 1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The parameters are their averages inside the body, themselves again afterwards."""
        own = [parameter.detach().clone() for parameter in self.parameters]
        self._assign(self.means)
        try:
            yield
        finally:
            self._assign(own)

    def state_dict(self) -> dict[str, Tensor]:
        """{name: average}, tensors of their own."""
        return {name: mean.clone() for name, mean in zip(self.names, self.means, strict=True)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Raises KeyError when a name is missing."""
        for name, mean in zip(self.names, self.means, strict=True):
            mean.copy_(state[name])

    @torch.no_grad()
    def _assign(self, values: Iterable[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
