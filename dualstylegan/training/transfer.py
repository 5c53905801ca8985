"""Stage III (Yang et al. 2022, section 4.2): the extrinsic path learns an artist's style from destylized portraits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from dualstylegan.media.images import from_tensor
from dualstylegan.media.sheets import strip
from dualstylegan.models.stage_two import StageTwo, restore_moments
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.recipe import Transfer
from dualstylegan.runtime.compiling import Faster, as_is
from dualstylegan.runtime.processes import Processes
from dualstylegan.training import critic
from dualstylegan.training.adversary import Adversary
from dualstylegan.training.data import Portraits
from dualstylegan.training.extrinsic import ExtrinsicStage
from dualstylegan.training.intrinsic import RandomFaces
from dualstylegan.training.loop import Batch, Cooldown, Phase, adam
from dualstylegan.training.losses import (
    contextual_loss,
    feature_matching_loss,
    identity_loss,
    parameter_norms,
    perceptual_loss,
)
from dualstylegan.training.muon import Muon
from dualstylegan.training.perception import Features, Perception
from dualstylegan.training.shapes import ShapeJudge, moves, shape_loss
from dualstylegan.weights import load_landmarks68

SHOWN = 8
PAPERS_STEPS = 1000  # its shortest: caricature, pixar, comic
STYLE_LAYERS = ("relu2_1", "relu3_1")  # what L_sty reads: channel means of both, CX on the second


class TransferStage(ExtrinsicStage):
    """L_adv + λ_perc L_perc + λ_CX CX + λ_FM FM + λ_ID L_ID + λ_reg L_reg, and ours, off by default: + λ_proj L_proj
    + λ_shape L_shape.

    Even steps draw a random face and any exemplar; odd ones take a portrait's own pair (z_i, z_e), whose picture is
    then known: it is the portrait.
    """

    def __init__(
        self,
        model: DualStyleGAN,
        adversary: Adversary,
        portraits: Portraits,
        intrinsic: Tensor,
        extrinsic: Tensor,
        faces: RandomFaces,
        perception: Perception,
        settings: Transfer,
        *,
        noise_from: int,
        share: tuple[int, int],
        processes: Processes,
        faster: Faster = as_is,
    ):
        """`intrinsic`, `extrinsic` (N, rows, dim) in Z+ belong to the N `portraits`, in order."""
        learner = None
        if settings.optimizer == "muon":
            learner = Muon([parameter for _, parameter in model.extrinsic_parameters()], settings.lr, momentum=0.8)
        super().__init__(
            "transfer",
            model,
            adversary,
            settings,
            steps=settings.steps,
            papers_steps=PAPERS_STEPS,
            share=share,
            processes=processes,
            optimizer=learner,
            faster=faster,
        )
        self.settings, self.portraits, self.faces, self.perception = settings, portraits, faces, perception
        self.kept["portraits"] = portraits
        optimizers = [self.optimizer, adversary.optimizer]
        if settings.projected:
            probe = torch.zeros(1, 3, model.size, model.size, device=self.device)
            self.critic = critic.FeatureCritic(critic.look(probe, perception.features))
            self.critic.requires_grad_(False).to(self.device)
            self.critic_optimizer = adam(list(self.critic.parameters()), settings.lr)
            self.critic_saw: list[Features] = []  # of the generator's pictures in this step
            optimizers.append(self.critic_optimizer)
            self.kept["critic"] = self.critic
        self.cooldown = Cooldown(optimizers, settings.cooldown, steps=settings.steps)
        self.intrinsic, self.extrinsic = intrinsic.to(self.device), extrinsic.to(self.device)
        self.noise_from = noise_from
        self.layers = tuple(sorted({*settings.perceptual_layers, *STYLE_LAYERS}))
        if settings.shape:
            self.shapes = ShapeJudge(load_landmarks68()).to(self.device)
            self.moves = self._moves()
        self.shown = self._show()

    @property
    def phases(self) -> list[Phase]:
        phases = super().phases
        if self.settings.projected:
            phases.append(Phase("critic", 1, self.critic_optimizer, self.draw_seen, self.criticize))
        return phases

    def draw_seen(self, step: int) -> Batch:
        """What the generator just made, as the critic saw it, and as many portraits."""
        seen, self.critic_saw = self.critic_saw, []
        looks = {name: torch.cat([part[name] for part in seen]) for name in seen[0]}
        return looks | {"real": self.portraits.next(self.per_process)}

    def criticize(self, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            real = critic.look(batch["real"], self.perception.features)
        return {"critic": self.critic.tell_apart(real, batch)}

    def draw(self, step: int) -> Batch:
        count, pairs = self.per_process, step % 2 == 1
        chosen = torch.randint(len(self.portraits), (count,))
        if pairs:
            intrinsic = self.intrinsic[chosen].clone()
            intrinsic[:, self.noise_from :] = self.faces.noise_rows(count, self.noise_from)
        else:
            intrinsic = self.faces.draw(count)
        jitter = torch.randn(count, self.model.rows, self.model.style_dim) * self.settings.jitter
        return {
            "intrinsic": intrinsic,
            "extrinsic": self.extrinsic[chosen],
            "jitter": jitter.to(self.device),
            "noise": self.model.generator.fresh_noise(count),
            "portrait": self.portraits.pictures(chosen.tolist()),
            "real": self.portraits.next(count),
            "move": self.moves[chosen.to(self.device)] if self.settings.shape else None,
            "pairs": pairs,
            "shift": tuple(torch.randint(2 * self.settings.shift + 1, (2,)).tolist()),
        }

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        settings = self.settings
        images = self.render(batch)
        # Nets with strides see a lattice where there is none for us; moved at random, no lattice pays.
        seen, portraits = (self._moved(pictures, batch["shift"]) for pictures in (images, batch["portrait"]))
        with torch.no_grad():
            faces = self._moved(self.model.generator(batch["intrinsic"]), batch["shift"])
            wanted = self.perception.features(portraits, self.layers)
            identities = self.perception.identity(faces)
        features = self.perception.features(seen, self.layers)

        terms = {"adversarial": settings.adversarial * self.adversary.fool(images)}
        if settings.projected:
            looks = critic.look(images, self.perception.features)
            self.critic_saw.append({name: found.detach() for name, found in looks.items()})
            terms["projected"] = settings.projected * self.critic.fool(looks)
        if batch["pairs"]:
            perceptual = perceptual_loss(features, wanted, settings.perceptual_layers).mean()
            terms["perceptual"] = settings.perceptual * perceptual
        if settings.contextual:
            contextual = contextual_loss(features[STYLE_LAYERS[1]], wanted[STYLE_LAYERS[1]], center="row").mean()
            terms["contextual"] = settings.contextual * contextual
        terms["features"] = settings.feature_matching * feature_matching_loss(features, wanted, STYLE_LAYERS).mean()
        terms["identity"] = settings.identity * identity_loss(self.perception.identity(seen), identities).mean()
        if settings.shape:
            with torch.no_grad():
                points = self.shapes(faces) + batch["move"]
            terms["shape"] = settings.shape * shape_loss(self.shapes(seen), points).mean()
        norms = parameter_norms(p for _, p in self.model.regularized_parameters())
        terms["regularizer"] = settings.regularizer * norms
        return terms

    @torch.no_grad()
    def _moves(self) -> Tensor:
        """What each portrait's artist did to the landmarks of its person, (N, 68, 2)."""
        drawn, own = [], []
        for start in range(0, len(self.portraits), SHOWN):
            part = range(start, min(start + SHOWN, len(self.portraits)))
            drawn.append(self.shapes(self.portraits.pictures(list(part))))
            own.append(self.shapes(self.model.generator(self.intrinsic[part.start : part.stop])))
        return moves(torch.cat(drawn), torch.cat(own))

    def _moved(self, images: Tensor, shift: Sequence[int]) -> Tensor:
        """Images (B, 3, S, S) moved down and right by `shift` less the setting's, edges mirrored."""
        most, (top, left) = self.settings.shift, shift
        size = images.shape[-1]
        return pad(images, (most,) * 4, mode="reflect")[..., top : top + size, left : left + size] if most else images

    def after(self, step: int) -> dict[str, float]:
        figures = super().after(step)
        self.cooldown.after(step)
        return figures

    def go_on_from(self, before: StageTwo) -> None:
        """Take up live weights, moments and path mean where `before` left them. The average stays what it is."""
        if before.extrinsic is not None:
            self.model.load_extrinsic_state(before.extrinsic)
        self.path.mean = before.path_mean
        if isinstance(self.optimizer, torch.optim.Adam):  # Muon's moments are others
            restore_moments(self.optimizer, self.average.names, before.extrinsic_moments)
        names = [name for name, _ in self.adversary.network.named_parameters()]
        restore_moments(self.adversary.optimizer, names, before.discriminator_moments)

    def _show(self) -> dict[str, Tensor]:
        """Random faces and evenly chosen exemplars, the same in every grid."""
        count = min(SHOWN, len(self.portraits))
        chosen = torch.linspace(0, len(self.portraits) - 1, count).round().long()
        return {
            "chosen": chosen,
            "random": self.faces.draw(count),
            "own": self.intrinsic[chosen],
            "extrinsic": self.extrinsic[chosen],
            "portrait": self.portraits.pictures(chosen.tolist()),
        }

    def grid(self) -> np.ndarray:
        """Content, exemplar, result for random faces; then the destylized faces and what becomes of them."""
        shown, generator = self.shown, self.model.generator
        with self.averaged():
            by_random, by_own = (self.model(shown[content], shown["extrinsic"]) for content in ("random", "own"))
            rows = [generator(shown["random"]), shown["portrait"], by_random, generator(shown["own"]), by_own]
        labels = ["content", "exemplar", "result", "destylized exemplar", "its result"]
        return strip(*map(from_tensor, rows), row_labels=labels, height_px=max(96, min(self.model.size, 256)))
