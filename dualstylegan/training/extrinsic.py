"""What progressive fine-tuning's stages II and III share: only the extrinsic path learns, and only it is averaged."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.recipe import Adversarial
from dualstylegan.runtime.compiling import Faster, as_is
from dualstylegan.runtime.processes import Processes
from dualstylegan.training.adversarial import AdversarialStage, lazy_adam
from dualstylegan.training.adversary import Adversary
from dualstylegan.training.ema import decay_over
from dualstylegan.training.loop import Batch
from dualstylegan.training.path_lengths import PathLengths


class ExtrinsicPath:
    """The part of a DualStyleGAN that learns, to be saved and restored by itself."""

    def __init__(self, model: DualStyleGAN):
        self.model = model

    def state_dict(self) -> dict[str, Tensor]:
        return self.model.extrinsic_state()

    def load_state_dict(self, state: Mapping[str, Tensor], /) -> None:
        self.model.load_extrinsic_state(state)


class ExtrinsicStage(AdversarialStage):
    """A stage that trains the extrinsic path of `model`; g, f and E stay as they are.

    A batch holds `intrinsic` and `extrinsic` codes (B, rows, dim) in Z+, `noise`, and perhaps a `jitter` of the
    extrinsic codes in W+.
    """

    adversary: Adversary
    path: PathLengths

    def __init__(
        self,
        name: str,
        model: DualStyleGAN,
        adversary: Adversary,
        settings: Adversarial,
        *,
        steps: int,
        papers_steps: int,
        share: tuple[int, int],
        processes: Processes,
        optimizer: torch.optim.Optimizer | None = None,
        faster: Faster = as_is,
    ):
        """A run shorter than `papers_steps` averages over less. `optimizer`: of `model.extrinsic_parameters()`.
        `faster` may compile the model."""
        self.model, self.device = model.requires_grad_(False), processes.device
        self._drawn = faster(model.forward)
        trained = model.extrinsic_parameters()
        super().__init__(
            name,
            {"extrinsic": ExtrinsicPath(model)},
            trained,
            optimizer or lazy_adam((parameter for _, parameter in trained), settings),
            adversary,
            steps=steps,
            batch=settings.effective_batch,
            share=share,
            processes=processes,
            decay=decay_over(steps, papers_steps),
            path=PathLengths(settings.path, settings.path_every),
        )

    def codes(self, batch: Batch) -> Tensor:
        """Intrinsic codes, then extrinsic ones, (B, 2 x rows, dim): the path that is trained reads both."""
        mapping = self.model.generator.mapping
        extrinsic = mapping(batch["extrinsic"]) + batch.get("jitter", 0.0)
        return torch.cat([mapping(batch["intrinsic"]), extrinsic], dim=1)

    def picture(self, codes: Tensor, batch: Batch) -> Tensor:
        intrinsic, extrinsic = codes.chunk(2, dim=1)
        return self._drawn(intrinsic, extrinsic, intrinsic_space="w+", extrinsic_space="w+", noise=batch["noise"])
