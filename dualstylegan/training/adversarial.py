"""What trained stages share: something learns to draw against a discriminator, and its average is what is kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from dualstylegan.recipe import Adversarial
from dualstylegan.runtime.compiling import as_written
from dualstylegan.runtime.processes import Processes
from dualstylegan.training.adversary import Adversary
from dualstylegan.training.ema import PAPER_DECAY, Average
from dualstylegan.training.loop import Batch, Phase, adam
from dualstylegan.training.path_lengths import PathLengths, half


class Stateful(Protocol):
    """What can be saved and restored: networks, averages, positions."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any, /) -> Any: ...


class AdversarialStage:
    """A stage whose `learners` are trained to fool `adversary` (where there is one) and by terms of its own.

    A subclass has `draw`, `terms` and `grid`, and either `codes` and `picture` or `render`. `kept` is the table of all
    that goes on after a resume, by name; a subclass adds what is its own. Optimisers are the loop's to keep.
    """

    phase_name = "generator"

    def __init__(
        self,
        name: str,
        learners: Mapping[str, Stateful],
        named: Iterable[tuple[str, nn.Parameter]],
        optimizer: torch.optim.Optimizer,
        adversary: Adversary | None,
        *,
        steps: int,
        batch: int,
        share: tuple[int, int],
        processes: Processes,
        decay: float = PAPER_DECAY,
        path: PathLengths | None = None,
    ):
        """`named`: the learners' parameters, of all of them, which `optimizer` trains. `batch` is the effective one,
        `share` (micro-batch, accumulation) of this process."""
        self.name, self.steps, self.batch, self.processes = name, steps, batch, processes
        self.per_process, self.accumulation = math.prod(share), share[1]
        self.learners, self.optimizer, self.adversary, self.path = dict(learners), optimizer, adversary, path
        self.average = Average(named, decay)
        table = {**learners, "average": self.average, "adversary": adversary, "path_mean": path}
        self.kept: dict[str, Stateful] = {key: one for key, one in table.items() if one is not None}

    @property
    def phases(self) -> list[Phase]:
        """D's, then the learners' own, then path lengths where they count."""
        phases = self.adversary.phases(self.draw, self.render) if self.adversary else []
        phases.append(Phase(self.phase_name, 1, self.optimizer, self.draw, self.terms))
        if self.path and self.path.weight:
            phases.append(Phase("path", self.path.every, self.optimizer, self.draw_half, self.straighten, mixed=False))
        return phases

    # What a subclass is

    def draw(self, step: int) -> Batch:
        """This process's samples of a step. All chance that a term hangs on is here, before a batch is cut for
        accumulation, so that cutting it changes no gradient, but for what D's batch statistics do."""
        raise NotImplementedError

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted terms of the learners' loss, scalars."""
        raise NotImplementedError

    def codes(self, batch: Batch) -> Tensor:
        """What a batch's pictures are made from, (B, rows, dim) in W+."""
        raise NotImplementedError

    def picture(self, codes: Tensor, batch: Batch) -> Tensor:
        """Pictures (B, 3, H, W) of codes in W+."""
        raise NotImplementedError

    def grid(self) -> np.ndarray:
        raise NotImplementedError

    # What follows from it

    def render(self, batch: Batch) -> Tensor:
        """The pictures (B, 3, H, W) of a batch, which D tells apart from its `real` ones."""
        return self.picture(self.codes(batch), batch)

    def draw_half(self, step: int) -> Batch:
        return half(self.draw(step), self.per_process)

    def straighten(self, batch: Batch) -> dict[str, Tensor]:
        """The penalty of path lengths in the codes."""
        assert self.path
        codes = self.codes(batch).requires_grad_(True)
        with as_written():
            return self.path.term(self.picture(codes, batch), codes)

    def after(self, step: int) -> dict[str, float]:
        self.average.update()
        if self.path:
            self.path.after(self.processes)
        return self.adversary.after() if self.adversary else {}

    def state(self) -> dict[str, Any]:
        return {name: one.state_dict() for name, one in self.kept.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        for name, one in self.kept.items():
            one.load_state_dict(state[name])

    def snapshot(self) -> dict[str, Any]:
        with self.averaged():
            return {name: copied(one.state_dict()) for name, one in self.learners.items()}

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The learners are their averages inside the body; nothing is differentiated."""
        with self.average.applied(), torch.no_grad():
            yield


def copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict on the CPU, tensors of their own."""
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def lazy_adam(parameters: Iterable[nn.Parameter], settings: Adversarial) -> torch.optim.Adam:
    """Adam as a recipe's section has it, corrected for path lengths where they count."""
    return adam(list(parameters), settings.lr, settings.path_every if settings.path else None)
