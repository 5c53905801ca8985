"""What progressive fine-tuning's stages II and III share: only the extrinsic path learns, and only it is averaged."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dualstylegan.models.stage_two import StageTwo, restore_moments
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.recipe import Adversarial
from dualstylegan.runtime.processes import Processes
from dualstylegan.training.adversary import Adversary
from dualstylegan.training.ema import Average, decay_over
from dualstylegan.training.loop import Batch, Phase, adam
from dualstylegan.training.muon import Muon
from dualstylegan.training.path import PathLengths, half


class ExtrinsicStage:
    """A stage that trains the extrinsic path of `model` against `adversary`; g, f and E stay as they are.

    `share` is (micro-batch, accumulation) of this process. A subclass has `name`, `papers_steps`, `_draw`, `_codes`,
    `_generate` (weighted terms) and `grid`. All chance is in `_draw`, before a batch is cut for accumulation, so that
    cutting it changes no gradient, but for what D's batch statistics do.
    """

    name: str
    papers_steps: int  # a shorter run averages over less

    def __init__(
        self,
        model: DualStyleGAN,
        adversary: Adversary,
        settings: Adversarial,
        *,
        steps: int,
        share: tuple[int, int],
        processes: Processes,
        path_mean: float = 0.0,
    ):
        self.steps = steps
        self.model, self.adversary = model.requires_grad_(False), adversary
        self.settings, self.processes = settings, processes
        self.batch = settings.effective_batch
        self.per_process, self.accumulation = math.prod(share), share[1]
        self.device = processes.device

        trained = model.extrinsic_parameters()
        self.average = Average(trained, decay_over(self.steps, self.papers_steps))
        self.optimizer = self._optimizer([parameter for _, parameter in trained])
        self.path = PathLengths(settings.path, settings.path_every, path_mean)

    @property
    def phases(self) -> list[Phase]:
        phases = self.adversary.phases(self._draw, self._render)
        phases.append(Phase("generator", 1, self.optimizer, self._draw, self._generate))
        if self.settings.path:
            every = self.settings.path_every
            phases.append(Phase("path", every, self.optimizer, self._draw_half, self._straighten, mixed=False))
        return phases

    def _optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return adam(parameters, self.settings.lr, self.settings.path_every if self.settings.path else None)

    def _draw(self, step: int) -> Batch:
        raise NotImplementedError

    def _generate(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError

    def _codes(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Intrinsic and extrinsic codes of a batch, (B, rows, dim) each, in W+."""
        raise NotImplementedError

    def _render(self, batch: Batch) -> Tensor:
        intrinsic, extrinsic = self._codes(batch)
        return self.model(intrinsic, extrinsic, intrinsic_space="w+", extrinsic_space="w+", noise=batch["noise"])

    def _draw_half(self, step: int) -> Batch:
        return half(self._draw(step), self.per_process)

    def _straighten(self, batch: Batch) -> dict[str, Tensor]:
        """Path lengths in both codes: the path that is trained reads the extrinsic one."""
        codes = torch.cat(self._codes(batch), dim=1).requires_grad_(True)
        intrinsic, extrinsic = codes.chunk(2, dim=1)
        images = self.model(intrinsic, extrinsic, intrinsic_space="w+", extrinsic_space="w+", noise=batch["noise"])
        return self.path.term(images, codes)

    def after(self, step: int) -> dict[str, float]:
        self.average.update()
        self.path.after(self.processes)
        return self.adversary.after()

    def go_on_from(self, before: StageTwo) -> None:
        """Take up live weights, moments and path mean where `before` left them. The average stays what it is."""
        if before.extrinsic is not None:
            self.model.load_extrinsic_state(before.extrinsic)
        self.path.mean = before.path_mean
        if not isinstance(self.optimizer, Muon):  # whose moments are others
            restore_moments(self.optimizer, self.average.names, before.extrinsic_moments)
        names = [name for name, _ in self.adversary.network.named_parameters()]
        restore_moments(self.adversary.optimizer, names, before.discriminator_moments)

    # What is kept

    def state(self) -> dict[str, Any]:
        return {
            "extrinsic": self.model.extrinsic_state(),
            "average": self.average.state_dict(),
            "adversary": self.adversary.state(),
            "path_mean": self.path.mean,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.model.load_extrinsic_state(state["extrinsic"])
        self.average.load_state_dict(state["average"])
        self.adversary.load_state(state["adversary"])
        self.path.mean = state["path_mean"]

    def snapshot(self) -> dict[str, Any]:
        return {"extrinsic": {name: tensor.cpu() for name, tensor in self.average.state_dict().items()}}


def averaged(stage: ExtrinsicStage, make: Callable[[], Any]) -> Any:
    """What `make` gives while the model holds its averages."""
    with stage.average.applied(), torch.no_grad():
        return make()
