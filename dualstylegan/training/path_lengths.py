"""Path length regularisation as a stage meets it (Karras et al. 2020, section 3.2 and appendix B)."""

from __future__ import annotations

import torch
from torch import Tensor

from dualstylegan.runtime.processes import Processes
from dualstylegan.training.loop import Batch, cut
from dualstylegan.training.losses import path_lengths

MEAN_DECAY = 0.01


class PathLengths:
    """A step in W+ should change the picture by the same length everywhere: the running `mean`.

    Applied every `every` steps with `every` times the `weight`. The mean moves once a step, by all of the step's
    pictures, so accumulating gradients changes nothing.
    """

    def __init__(self, weight: float, every: int, mean: float = 0.0):
        self.weight, self.every, self.mean = weight, every, mean
        self.lengths: list[Tensor] = []  # of the step under way

    def term(self, images: Tensor, w_plus: Tensor) -> dict[str, Tensor]:
        """The weighted penalty of `images`, made from codes `w_plus` (B, rows, dim) that require gradients."""
        lengths = path_lengths(images, w_plus)
        self.lengths.append(lengths.detach())
        return {"path": self.weight * self.every * (lengths - self.mean).square().mean()}

    def state_dict(self) -> float:
        return self.mean

    def load_state_dict(self, mean: float, /) -> None:
        self.mean = mean

    def after(self, processes: Processes) -> None:
        """Once a step: move the mean."""
        if self.lengths:
            mean = float(processes.mean(torch.cat(self.lengths).mean()))
            self.mean += MEAN_DECAY * (mean - self.mean)
            self.lengths.clear()


def half(batch: Batch, samples: int) -> Batch:
    """Half of a batch of `samples`, at least one: differentiating twice costs as much again."""
    return cut(batch, slice(max(1, samples // 2)))
