"""Stage II (Yang et al. 2022, section 4.2): the extrinsic path learns structure transfer on faces, once per base."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dualstylegan.media.images import from_tensor
from dualstylegan.media.sheets import strip
from dualstylegan.models.build import Encoder
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.recipe import Pretrain
from dualstylegan.runtime.compiling import Faster, as_is
from dualstylegan.runtime.processes import Processes
from dualstylegan.training.adversarial import copied
from dualstylegan.training.adversary import Adversary
from dualstylegan.training.extrinsic import ExtrinsicStage
from dualstylegan.training.intrinsic import RandomFaces, encode
from dualstylegan.training.loop import Batch
from dualstylegan.training.losses import perceptual_loss
from dualstylegan.training.perception import Perception
from dualstylegan.training.portraits import resized

SHOWN = 8
PAPERS_STEPS = 3600


class PretrainStage(ExtrinsicStage):
    """G(z1, z2~) learns to be g with rows below l from z1 and the rest from z2; l goes down as training goes on.

    The target's rows l to 6 come from z2 although G's structure rows come from z1: ModRes must carry them over.
    """

    def __init__(
        self,
        model: DualStyleGAN,
        encoder: Encoder,
        adversary: Adversary,
        faces: RandomFaces,
        perception: Perception,
        settings: Pretrain,
        *,
        share: tuple[int, int],
        processes: Processes,
        faster: Faster = as_is,
    ):
        steps = sum(phase.steps for phase in settings.phases)
        super().__init__(
            "pretrain",
            model,
            adversary,
            settings,
            steps=steps,
            papers_steps=PAPERS_STEPS,
            share=share,
            processes=processes,
            faster=faster,
        )
        self.encoder, self.faces, self.perception = encoder.requires_grad_(False), faces, perception
        self.settings = settings
        self.judged_px = min(settings.perceptual_px, model.size)
        self.shown = self.draw(self.steps - 1, count=SHOWN)

    def rows_at(self, step: int) -> int:
        """l at a step, counted from 0."""
        for phase in self.settings.phases:
            if step < phase.steps:
                return phase.rows
            step -= phase.steps
        return self.settings.phases[-1].rows

    @torch.no_grad()
    def draw(self, step: int, count: int | None = None) -> Batch:
        """Codes z1, z2 and z2~, and the target picture, which is also what D takes for real.

        Everything is drawn with the stored noise (None): noise is nothing that the path should learn.
        """
        generator, rows = self.model.generator, self.rows_at(step)
        first, second = (self.faces.draw(count or self.per_process) for _ in range(2))
        target = generator(torch.cat([first[:, :rows], second[:, rows:]], dim=1))

        extrinsic, every = second, self.settings.encoded_every
        # not at 0: the path penalty, at steps divisible by its own four, would never see other codes
        if step % every == 1 % every:
            extrinsic = encode(self.encoder, generator(second))
        return {"intrinsic": first, "extrinsic": extrinsic, "real": target, "second": second, "noise": None}

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        settings, images = self.settings, self.render(batch)
        weights = settings.perceptual_layers
        with torch.no_grad():
            targets = self.perception.features(resized(batch["real"], self.judged_px), tuple(weights))
        features = self.perception.features(resized(images, self.judged_px), tuple(weights))
        return {
            "perceptual": settings.perceptual * perceptual_loss(features, targets, weights).mean(),
            "adversarial": settings.adversarial * self.adversary.fool(images),
        }

    def snapshot(self) -> dict[str, Any]:
        """The discriminator too: stage III goes on with it."""
        return super().snapshot() | {"discriminator": copied(self.adversary.network.state_dict())}

    def grid(self) -> np.ndarray:
        """Content, exemplar, target and result: the result should have the exemplar's structure, softly."""
        batch, generator = self.shown, self.model.generator
        off = (0.0,) * 7 + (1.0,) * (self.model.rows - 7)
        codes = batch["intrinsic"], batch["extrinsic"]
        with self.averaged():
            rows = [generator(batch["intrinsic"]), generator(batch["second"]), batch["real"]]
            rows += [self.model(*codes), self.model(*codes, weights=off)]
        labels = ["content", "exemplar", f"target (l = {self.rows_at(self.steps - 1)})", "result", "structure off"]
        return strip(*map(from_tensor, rows), row_labels=labels, height_px=max(96, min(self.model.size, 256)))
