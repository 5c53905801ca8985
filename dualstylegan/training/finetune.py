"""Fine-tuning g to g' on the portraits (Yang et al. 2022, section 4.1): the generator destylization fits codes with."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from dualstylegan.media.images import from_tensor
from dualstylegan.media.sheets import strip
from dualstylegan.networks.stylegan2 import Generator
from dualstylegan.recipe import Finetune
from dualstylegan.runtime.processes import Processes
from dualstylegan.training.adversary import Adversary
from dualstylegan.training.data import Portraits
from dualstylegan.training.ema import Average, decay_over
from dualstylegan.training.intrinsic import RandomFaces
from dualstylegan.training.loop import Batch, Phase, adam
from dualstylegan.training.path import PathLengths, half

SHOWN = 8
PAPERS_STEPS = 600  # a shorter run averages over less


class FinetuneStage:
    """StyleGAN2's own training, started from g and shown portraits."""

    name = "finetune"

    def __init__(
        self,
        generator: Generator,
        adversary: Adversary,
        portraits: Portraits,
        faces: RandomFaces,
        settings: Finetune,
        *,
        share: tuple[int, int],
        processes: Processes,
    ):
        self.original = generator.requires_grad_(False)
        self.generator = copy.deepcopy(generator)
        self.adversary, self.portraits, self.faces, self.settings = adversary, portraits, faces, settings
        self.processes = processes
        self.steps, self.batch = settings.steps, settings.effective_batch
        self.per_process, self.accumulation = math.prod(share), share[1]
        self.average = Average(self.generator.named_parameters(), decay_over(self.steps, PAPERS_STEPS))
        self.optimizer = adam(
            list(self.generator.parameters()), settings.lr, settings.path_every if settings.path else None
        )
        self.path = PathLengths(settings.path, settings.path_every)
        self.shown = faces.draw(SHOWN)

        self.phases = [
            *adversary.phases(self._draw, self._render),
            Phase("generator", 1, self.optimizer, self._draw, self._generate),
        ]
        if settings.path:
            path = Phase("path", settings.path_every, self.optimizer, self._draw_half, self._straighten, mixed=False)
            self.phases.append(path)

    def _draw(self, step: int) -> Batch:
        return {"codes": self.faces.draw(self.per_process), "real": self.portraits.next(self.per_process)}

    def _draw_half(self, step: int) -> Batch:
        return half({"codes": self.faces.draw(self.per_process)}, self.per_process)

    def _render(self, batch: Batch) -> Tensor:
        return self.generator(batch["codes"], noise=self.generator.fresh_noise(len(batch["codes"])))

    def _generate(self, batch: Batch) -> dict[str, Tensor]:
        return {"adversarial": self.adversary.fool(self._render(batch))}

    def _straighten(self, batch: Batch) -> dict[str, Tensor]:
        w_plus = self.generator.mapping(batch["codes"])
        images = self.generator(w_plus, space="w+", noise=self.generator.fresh_noise(len(w_plus)))
        return self.path.term(images, w_plus)

    def after(self, step: int) -> dict[str, float]:
        self.average.update()
        self.path.after(self.processes)
        return self.adversary.after()

    def state(self) -> dict[str, Any]:
        return {
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "adversary": self.adversary.state(),
            "path_mean": self.path.mean,
            "portraits": self.portraits.state_dict(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.generator.load_state_dict(state["generator"])
        self.average.load_state_dict(state["average"])
        self.adversary.load_state(state["adversary"])
        self.path.mean = state["path_mean"]
        self.portraits.load_state_dict(state["portraits"])

    def snapshot(self) -> dict[str, Any]:
        with self.average.applied():
            return {"generator": {name: t.detach().cpu().clone() for name, t in self.generator.state_dict().items()}}

    def grid(self) -> np.ndarray:
        """The same codes drawn by g and by g'."""
        with self.average.applied():
            rows = [self.original(self.shown), self.generator(self.shown)]
        return strip(*map(from_tensor, rows), row_labels=["g", "g'"], height_px=max(96, min(self.generator.size, 256)))
