"""Training a base from photos: generator, mapping network, encoder and discriminator, one picture size after another.

Reconstruction first: encoder and generator learn together to give each photo back. Sharpening last: a discriminator
looks at reconstructions and at random faces, whose codes are those of photos, mixed and jittered. None of this is the
paper's, which takes a trained StyleGAN2 and encoder ready-made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dualstylegan.choices import STRUCTURE_ROWS
from dualstylegan.errors import TrainingError
from dualstylegan.media.images import from_tensor
from dualstylegan.media.sheets import strip
from dualstylegan.models.base import Base
from dualstylegan.models.build import new_generator
from dualstylegan.networks.residual_encoder import BODY_PX, ResidualEncoder
from dualstylegan.networks.small_encoder import SmallEncoder
from dualstylegan.networks.stylegan2 import Discriminator, Generator
from dualstylegan.recipe import BasePhase, BaseTraining
from dualstylegan.runtime.compiling import Faster, as_is
from dualstylegan.runtime.processes import Processes
from dualstylegan.training.adversarial import AdversarialStage
from dualstylegan.training.adversary import Adversary
from dualstylegan.training.augment import jitter
from dualstylegan.training.data import Portraits
from dualstylegan.training.ema import decay_for
from dualstylegan.training.intrinsic import cross, encode
from dualstylegan.training.loop import Batch, Phase
from dualstylegan.training.losses import identity_loss, perceptual_loss
from dualstylegan.training.muon import Muon
from dualstylegan.training.perception import Perception
from dualstylegan.training.portraits import resized

Networks = tuple[Generator, SmallEncoder | ResidualEncoder, Discriminator | None]

SHOWN = 8  # photos in a grid
ENCODER_PX = 128  # the most that encoders trained here look at
JUDGED = {"relu2_1": 1.0, "relu3_1": 1.0}  # relu1_1 says little that L1 does not, and costs more than both
# Where L1 counts more, in an aligned crop: middle x, y and half the width, height
FACE = (0.5, 0.56, 0.28, 0.36)
PARTS = ((0.38, 0.475, 0.1, 0.07), (0.62, 0.475, 0.1, 0.07), (0.5, 0.735, 0.15, 0.09))  # eyes and mouth
RAMP = 0.05  # early on, the average reaches back over this share of the images seen: Karras et al. 2020 (ADA)


class BaseStage(AdversarialStage):
    """One of a base recipe's phases: photos of `phase.size` px through encoder and generator."""

    phase_name = "reconstruct"

    def __init__(
        self,
        name: str,
        phase: BasePhase,
        settings: BaseTraining,
        *,
        generator: Generator,
        encoder: SmallEncoder | ResidualEncoder,
        adversary: Adversary | None,
        photos: Portraits,
        shown: Tensor,
        perception: Perception,
        share: tuple[int, int],
        processes: Processes,
        images_before: int = 0,
        critics: Adversary | None = None,
        faster: Faster = as_is,
    ):
        """`shown` are photos for the grids, of people it is not trained on where there are any. `critics` look at
        eyes and mouths, where the phase asks for them. `faster` may compile what trains."""
        self.phase, self.settings, self.generator, self.encoder = phase, settings, generator, encoder
        self.photos, self.shown, self.perception, self.images_before = photos, shown, perception, images_before

        networks = {"generator": generator.requires_grad_(False), "encoder": encoder.requires_grad_(False)}
        named = [(f"{part}.{name}", p) for part, net in networks.items() for name, p in net.named_parameters()]
        super().__init__(
            name,
            networks,
            named,
            Muon([p for _, p in named], phase.lr),
            adversary,
            steps=phase.steps,
            batch=phase.batch,
            share=share,
            processes=processes,
        )
        self.kept["photos"] = photos
        self.critics = critics
        if critics:
            self.kept["critics"] = critics
        self._drawn = faster(generator.forward)
        self._all_passes = faster(encoder.all_passes) if isinstance(encoder, ResidualEncoder) else None
        if isinstance(encoder, ResidualEncoder):
            encoder.passes = phase.passes or settings.passes
        # an encoder of several passes sees photos as they are from the start; the other one, as large as is drawn
        self.seen_px = max(phase.size, encoder.input_size) if settings.passes > 1 else phase.size
        self.attention = attention(phase.size, phase.face).to(shown.device) if phase.face else None

    @property
    def phases(self) -> list[Phase]:
        return (self.critics.phases(self.draw, self.render) if self.critics else []) + super().phases

    def draw(self, step: int) -> Batch:
        photos = jitter(self.photos.next(self.per_process), self.phase.jitter, self.seen_px)
        return {"photos": photos, "real": resized(photos, self.phase.size)}

    def _codes(self, photos: Tensor) -> Tensor:
        """Codes (B, rows, dim) in Z+ of photos, for as many rows as the generator of this size has."""
        return self._looks(photos)[0]

    def _looks(self, photos: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Codes, and what the encoder saw of its own work on the way."""
        rows, photos = self.generator.rows, resized(photos, self.encoder.input_size)
        if self._all_passes:
            codes, seen = self._all_passes(photos, rows=range(rows))
        else:
            codes, seen = self.encoder(photos, rows=range(rows)), []
        return codes[:, :rows], seen

    def _faces(self, codes: Tensor) -> Tensor:
        """Faces of codes, with noise of their own."""
        return self._drawn(codes, noise=self.generator.fresh_noise(len(codes)))

    def _random(self, codes: Tensor) -> Tensor:
        """Codes of faces that nobody has: two photos' rows crossed, and jittered."""
        mixed = cross(codes, codes.roll(1, dims=0))
        return mixed + torch.randn_like(mixed) * self.settings.prior_jitter

    def render(self, batch: Batch) -> Tensor:
        """As many of the batch as `phase.random` says are random faces, the others reconstructions."""
        codes = self._codes(batch["photos"])
        count = round(self.phase.random * len(codes))
        codes = torch.cat([self._random(codes)[:count], codes[count:]])
        return self._faces(codes)

    def _taken_apart(self, photos: Tensor) -> tuple[Tensor, Tensor, int, list[Tensor]]:
        """Codes of photos, what they should become, how many of those, the first ones, are no real photo; and what the
        encoder saw of its own work on the photos.

        A share `recolor` of the photos is also seen in other colours. A photo's structure rows with the colour rows of
        its recoloured copy must give the copy, and the other way round: so colours, and nothing else, go where styles
        look for them.
        """
        count = round(self.settings.recolor * len(photos))
        if not count:
            codes, seen = self._looks(photos)
            return codes, photos, 0, seen
        copies = recolor(photos[:count])
        codes, seen = self._looks(torch.cat([photos, copies]))
        codes, copied, seen = codes[: len(photos)], codes[len(photos) :], [early[: len(photos)] for early in seen]
        recolored = count // 2
        structure = torch.cat([codes[:recolored, :STRUCTURE_ROWS], copied[recolored:, :STRUCTURE_ROWS]])
        color = torch.cat([copied[:recolored, STRUCTURE_ROWS:], codes[recolored:count, STRUCTURE_ROWS:]])
        mixed = torch.cat([structure, color], dim=1)
        return torch.cat([mixed, codes[count:]]), torch.cat([copies[:recolored], photos[recolored:]]), recolored, seen

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        phase = self.phase
        codes, targets, recolored, seen = self._taken_apart(batch["photos"])
        targets = resized(targets, phase.size)
        images = self._faces(codes)

        apart = (images - targets).abs()
        terms = {"l1": phase.l1 * (apart if self.attention is None else apart * self.attention).mean()}
        if phase.first_pass and seen:
            px = min(phase.size, seen[0].shape[-1])
            photos = resized(batch["photos"], px)
            apart = torch.stack([(resized(early, px) - photos).abs().mean() for early in seen])
            terms["first_pass"] = phase.first_pass * apart.sum()
        if phase.perceptual:
            features, wanted = self.perception.features(images, tuple(JUDGED)), self._features(targets)
            terms["perceptual"] = phase.perceptual * perceptual_loss(features, wanted, JUDGED).mean()
        if phase.identity:
            with torch.no_grad():
                identities = self.perception.identity(targets)
            distance = identity_loss(self.perception.identity(images), identities)
            terms["identity"] = phase.identity * distance.mean()

        if phase.adversarial and self.adversary:
            terms["adversarial"] = phase.adversarial * self.adversary.fool(images[recolored:])
            count = round(phase.random * len(codes))
            if count:
                # The encoder is judged by what it gives back; random faces teach the generator alone.
                random = self._random(codes[recolored:].detach())[:count]
                terms["random"] = phase.adversarial * phase.random * self.adversary.fool(self._faces(random))
        if phase.parts and self.critics:
            terms["parts"] = phase.parts * self.critics.fool(images[recolored:])
        return terms

    @torch.no_grad()
    def _features(self, photos: Tensor) -> dict[str, Tensor]:
        return self.perception.features(photos, tuple(JUDGED))

    def after(self, step: int) -> dict[str, float]:
        images = self.images_before + (step + 1) * self.batch
        self.average.decay = decay_for(self.batch, min(self.settings.ema_images, RAMP * images + self.batch))
        return super().after(step)

    def snapshot(self) -> dict[str, Any]:
        """Both the averaged networks and, for the next phase to go on from, the trained ones."""
        return {"averaged": super().snapshot(), **self.state()}

    def grid(self) -> np.ndarray:
        """Photos, their reconstructions, and random faces from their codes, by the averaged networks."""
        with self.averaged():
            codes = self._codes(self.shown)
            shown = resized(self.shown, self.phase.size)
            crossed = torch.cat([codes[:, :STRUCTURE_ROWS], codes.roll(1, dims=0)[:, STRUCTURE_ROWS:]], dim=1)
            halves = torch.cat([codes[:, :3], codes.roll(2, dims=0)[:, 3:]], dim=1)
            rows = [shown, *(self.generator(code) for code in (codes, crossed, halves))]
        labels = ["photo", "reconstruction", "next one's colours", "rows 3 and up of another"]
        pictures = [from_tensor(row) for row in rows]
        return strip(*pictures, row_labels=labels, height_px=max(96, self.phase.size))


def attention(size: int, face: float) -> Tensor:
    """How much each pixel (1, 1, size, size) of an aligned crop counts, of mean 1: the face `face` times more than what
    is around it, eyes and mouth as much again; mirrored alike, with soft edges."""
    at = (torch.arange(size) + 0.5) / size
    y, x = at[:, None], at[None]

    def inside(middle_x: float, middle_y: float, half_width: float, half_height: float) -> Tensor:
        radius = (((x - middle_x) / half_width) ** 2 + ((y - middle_y) / half_height) ** 2).sqrt()
        return ((1.25 - radius) / 0.5).clamp(0, 1)

    parts = torch.stack([inside(*part) for part in PARTS]).amax(0)
    weight = 1 + face * (inside(*FACE) + parts)
    return (weight / weight.mean())[None, None]


def recolor(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1], each with another brightness, contrast, hue and saturation; clamped."""
    count = (len(images), 1, 1, 1)

    def uniform(low: float, high: float) -> Tensor:
        return (torch.rand(count) * (high - low) + low).to(images.device)

    grey = images.mean(dim=1, keepdim=True)
    chroma, hue = images - grey, uniform(-1.5, 1.5)
    # a turn about the grey axis (Rodrigues): k x chroma for k = (1, 1, 1) / sqrt 3
    turned = (chroma.roll(1, dims=1) - chroma.roll(-1, dims=1)) / math.sqrt(3)
    chroma = (chroma * hue.cos() + turned * hue.sin()) * uniform(0.3, 2.0)
    return (grey * uniform(0.6, 1.3) + uniform(-0.3, 0.3) + chroma).clamp(-1, 1)


def phase_networks(
    settings: BaseTraining,
    index: int,
    before: Mapping[str, Any] | None,
    device: torch.device,
    known: Base | None = None,
) -> Networks:
    """Networks of the phase `index`, grown from the snapshot that the phase before it has left, or, for the first one,
    from the generator of `known`."""
    phase = settings.phases[index]
    generator, encoder = new_generator(vars(settings), phase.size), new_encoder(settings)
    discriminator = Discriminator(phase.size, channels=settings.channels) if phase.adversarial else None
    if known is not None:
        generator = grow(known.generator, generator)
        if discriminator and known.discriminator and known.generator.size == phase.size:
            discriminator.load_state_dict(known.discriminator.state_dict())
    if before is not None:
        earlier = new_generator(vars(settings), settings.phases[index - 1].size)
        earlier.load_state_dict(before["generator"])
        generator = grow(earlier, generator)
        encoder.load_state_dict(before["encoder"])
        if discriminator and before.get("adversary") and settings.phases[index - 1].size == phase.size:
            discriminator.load_state_dict(before["adversary"]["network"])
    generator, encoder = generator.to(device), encoder.to(device)
    if isinstance(encoder, ResidualEncoder):
        encoder.draw_with(generator)
    return generator, encoder, discriminator


def trained_networks(settings: BaseTraining, last: Mapping[str, Any]) -> Networks:
    """The averaged networks of the last phase's snapshot, and its discriminator."""
    generator, encoder = new_generator(vars(settings)), new_encoder(settings)
    generator.load_state_dict(last["averaged"]["generator"])
    encoder.load_state_dict(last["averaged"]["encoder"])
    if isinstance(encoder, ResidualEncoder):
        encoder.connect(generator)
    discriminator = None
    if last.get("adversary"):
        discriminator = Discriminator(settings.size, channels=settings.channels)
        discriminator.load_state_dict(last["adversary"]["network"])
    return generator, encoder, discriminator


def new_encoder(settings: BaseTraining) -> SmallEncoder | ResidualEncoder:
    """One for the finished size from the start: it has heads for rows that come later."""
    rows, size = 2 * int(math.log2(settings.size)) - 2, min(settings.size, ENCODER_PX)
    if settings.passes == 1:
        return SmallEncoder(rows, settings.style_dim, size, channels=settings.encoder_channels)
    size, channels = max(size, BODY_PX), settings.encoder_channels
    return ResidualEncoder(rows, settings.style_dim, size, channels=channels, passes=settings.passes)


def drawn_px(settings: BaseTraining, phase: BasePhase, encoder: SmallEncoder | ResidualEncoder) -> int:
    """At which size photos are read: what is turned a little is turned larger than it is drawn, for less blur."""
    if settings.passes == 1 and not phase.jitter:
        return phase.size
    return min(settings.size, max(2 * phase.size if phase.jitter else phase.size, encoder.input_size))


def grow(small: Generator | None, large: Generator) -> Generator:
    """Give `large` the layers of `small`, a generator of its size or less; new layers start silent. Raises
    TrainingError where they do not fit."""
    if small is None:
        return large
    known, wanted = small.state_dict(), large.state_dict()
    if wrong := [key for key in known if key not in wanted or known[key].shape != wanted[key].shape]:
        raise TrainingError(f"base_model: its generator has other layers than this base's, {wrong[0]} for one.")
    large.load_state_dict({**wanted, **known})
    with torch.no_grad():
        for to_rgb in large.to_rgbs[len(small.to_rgbs) :]:
            to_rgb.weight.zero_()  # type: ignore[operator]  # of a ModuleList, any module
    return large


@torch.no_grad()
def photo_codes(encoder: SmallEncoder | ResidualEncoder, photos: Portraits, batch: int = 64) -> Tensor:
    """The code of every photo, (N, rows, dim) in Z+: what the base draws random faces from."""
    return torch.cat([encode(encoder, part).cpu() for part in photos.batches(batch)])
