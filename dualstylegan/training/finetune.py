"""Fine-tuning g to g' on the portraits (Yang et al. 2022, section 4.1): the generator destylization fits codes with."""

from __future__ import annotations

import copy

import numpy as np
from torch import Tensor

from dualstylegan.media.images import from_tensor
from dualstylegan.media.sheets import strip
from dualstylegan.networks.layers import feature_dtype, without_autocast
from dualstylegan.networks.residual_paths import PathedGenerator
from dualstylegan.networks.stylegan2 import Generator
from dualstylegan.recipe import Finetune
from dualstylegan.runtime.compiling import Faster, as_is
from dualstylegan.runtime.processes import Processes
from dualstylegan.training.adversarial import AdversarialStage, lazy_adam
from dualstylegan.training.adversary import Adversary
from dualstylegan.training.data import Portraits
from dualstylegan.training.ema import decay_over
from dualstylegan.training.intrinsic import RandomFaces
from dualstylegan.training.loop import Batch
from dualstylegan.training.losses import correspondence_loss
from dualstylegan.training.path_lengths import PathLengths, half

SHOWN = 8
PAPERS_STEPS = 600  # a shorter run averages over less


class FinetuneStage(AdversarialStage):
    """StyleGAN2's own training, started from g and shown portraits.

    With `pathed` g stays as it is and its residual paths alone are trained, under a `name` of their own.
    """

    adversary: Adversary

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
        name: str = "finetune",
        pathed: PathedGenerator | None = None,
        faster: Faster = as_is,
    ):
        self.original = generator.requires_grad_(False)
        self.generator = pathed or copy.deepcopy(generator)
        self._drawn, self._drawn_with_features = faster(self.generator.forward), faster(_with_features)
        self.portraits, self.faces = portraits, faces
        self.correspondence = settings.correspondence
        learner = pathed.paths if pathed else self.generator
        super().__init__(
            name,
            {"paths" if pathed else "generator": learner},
            learner.named_parameters(),
            lazy_adam(learner.parameters(), settings),
            adversary,
            steps=settings.steps,
            batch=settings.effective_batch,
            share=share,
            processes=processes,
            decay=decay_over(settings.steps, PAPERS_STEPS),
            path=PathLengths(settings.path, settings.path_every),
        )
        self.kept["portraits"] = portraits
        self.shown = faces.draw(SHOWN)

    def draw(self, step: int) -> Batch:
        return {"codes": self.faces.draw(self.per_process), "real": self.portraits.next(self.per_process)}

    def draw_half(self, step: int) -> Batch:
        return half({"codes": self.faces.draw(self.per_process)}, self.per_process)

    def codes(self, batch: Batch) -> Tensor:
        return self.generator.mapping(batch["codes"])

    def picture(self, codes: Tensor, batch: Batch) -> Tensor:
        return self._drawn(codes, space="w+", noise=self.original.fresh_noise(len(codes)))

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        if not self.correspondence:
            return {"adversarial": self.adversary.fool(self.render(batch))}
        codes, noise = batch["codes"], self.original.fresh_noise(len(batch["codes"]))
        assert isinstance(self.generator, Generator)  # paths are trained without
        images, features = self._drawn_with_features(self.generator, codes, noise)
        _, originals = _with_features(self.original, codes, noise)
        return {
            "adversarial": self.adversary.fool(images),
            "correspondence": self.correspondence * correspondence_loss(features, originals),
        }

    def grid(self) -> np.ndarray:
        """The same codes drawn by g and by g'."""
        with self.averaged():
            rows = [self.original(self.shown), self.generator(self.shown)]
        labels = ["g", "g'" if self.name == "finetune" else self.name]
        return strip(*map(from_tensor, rows), row_labels=labels, height_px=max(96, min(self.original.size, 256)))


def _with_features(generator: Generator, codes: Tensor, noise: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The images of codes in Z+, and what each convolution gave on the way."""
    features: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        features.append(x)
        return x

    dtype = feature_dtype(generator.constant)
    with without_autocast(generator.constant):
        images = generator.synthesize(generator.to_w_plus(codes), noise, [keep] * (generator.rows - 1), dtype)
    return images, features
