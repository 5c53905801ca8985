"""The discriminator as a stage meets it: its phases, its augmentation, and the generator's term against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dualstylegan.networks.stylegan2 import Discriminator
from dualstylegan.recipe import Discriminating
from dualstylegan.runtime.compiling import Faster, as_is
from dualstylegan.runtime.processes import Processes
from dualstylegan.training.augment import AdaptiveAugmentation
from dualstylegan.training.loop import Batch, Phase, adam
from dualstylegan.training.losses import discriminator_loss, generator_loss, r1_penalty


class Adversary:
    """D, its optimiser and its adaptive augmentation.

    `r1` is the factor of the gradient penalty, applied every `r1_every` steps with `r1_every` times the weight. `name`
    tells a second one from the first in logs and checkpoints. `faster` may compile D, but for its penalty.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        lr: float,
        r1: float,
        r1_every: int,
        augment: AdaptiveAugmentation | None = None,
        name: str = "",
        faster: Faster = as_is,
    ):
        self.name = f"{name}_" if name else ""
        self.network = network.requires_grad_(False)
        self._look = faster(network.forward)
        self.r1, self.r1_every, self.augment = r1, r1_every, augment
        self.optimizer = adam(list(network.parameters()), lr, r1_every if r1 else None)

    @classmethod
    def of(
        cls,
        network: Discriminator,
        settings: Discriminating,
        lr: float,
        processes: Processes,
        faster: Faster = as_is,
    ) -> Adversary:
        """As a recipe's section has it, on the processes' device."""
        augment = None
        if settings.augment:
            augment = AdaptiveAugmentation(
                target=settings.augment_target,
                images=settings.augment_images,
                most=settings.augment_most,
                processes=processes,
            )
        network = network.to(processes.device)
        return cls(network, lr=lr, r1=settings.r1, r1_every=settings.r1_every, augment=augment, faster=faster)

    def see(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) as D gets them: through the augmentation, where there is one."""
        return self.augment(images) if self.augment else images

    def judge(self, images: Tensor) -> Tensor:
        """Logits (B, 1) of images (B, 3, H, W)."""
        return self._look(self.see(images))

    def fool(self, images: Tensor) -> Tensor:
        """The generator's loss on its images, a scalar."""
        return generator_loss(self.judge(images))

    def phases(self, draw: Callable[[int], Batch], fake: Callable[[Batch], Tensor]) -> list[Phase]:
        """D's own phases. `draw` gives batches with `real` pictures; `fake` makes what they are told apart from."""

        def tell_apart(batch: Batch) -> dict[str, Tensor]:
            with torch.no_grad():
                fakes = fake(batch)
            real_logits = self.judge(batch["real"])
            if self.augment:
                self.augment.observe(real_logits)
            return {f"{self.name}discriminator": discriminator_loss(real_logits, self.judge(fakes))}

        def penalize(batch: Batch) -> dict[str, Tensor]:
            # What D sees is what it is smooth in: the augmentation, which does not differentiate twice, stays outside.
            seen = self.see(batch["real"]).detach().requires_grad_(True)
            return {f"{self.name}r1": self.r1 * self.r1_every * r1_penalty(self.network(seen), seen)}

        phases = [Phase(f"{self.name}discriminator", 1, self.optimizer, draw, tell_apart)]
        if self.r1:
            phases.append(Phase(f"{self.name}r1", self.r1_every, self.optimizer, draw, penalize, mixed=False))
        return phases

    def after(self) -> dict[str, float]:
        """Once a step: move the augmentation's p by what D made of real pictures. Figures for the log."""
        return {"augment_p": self.augment.adapt()} if self.augment else {}

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "augment": self.augment.state_dict() if self.augment else None}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self.network.load_state_dict(state["network"])
        if self.augment and state["augment"] is not None:
            self.augment.load_state_dict(state["augment"])
