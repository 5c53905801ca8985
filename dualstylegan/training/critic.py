"""A second discriminator, which looks at pictures through the perceptual features (Sauer et al. 2021, Projected GANs).

What a discriminator of pixels must first learn from a hundred portraits, a net that has seen a million pictures knows:
small heads on its frozen features tell styles apart after a few hundred small batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu
from torch.nn.utils.parametrizations import spectral_norm

from dualstylegan.training.augment import jitter

LAYERS = ("relu3_1", "relu4_1", "relu5_1")
WIDTH = 64
JITTER = 0.05  # with so few portraits, heads that saw them still would learn them by heart


FACE_TOP, FACE_LEFT, FACE_SIDE = 0.32, 0.25, 0.5  # brows to mouth in an aligned crop


class FeatureCritic(nn.Module):
    """A head of three convolutions on each of the looks of `look`, spectrally normalised. Hinge losses."""

    def __init__(self, looks: Mapping[str, Tensor]):
        """`looks`: such as `look` gives; only their channels matter."""
        super().__init__()
        self.heads = nn.ModuleDict({name: _head(features.shape[1]) for name, features in looks.items()})

    def tell_apart(self, real: Mapping[str, Tensor], fake: Mapping[str, Tensor]) -> Tensor:
        """The critic's own loss, a scalar; every look counts alike."""
        pairs = [(head(real[name]), head(fake[name])) for name, head in self.heads.items()]
        terms = [relu(1 - of_real).mean() + relu(1 + of_fake).mean() for of_real, of_fake in pairs]
        return torch.stack(terms).mean()

    def fool(self, fake: Mapping[str, Tensor]) -> Tensor:
        """The generator's loss, a scalar."""
        return -torch.stack([head(fake[name]).mean() for name, head in self.heads.items()]).mean()


def look(images: Tensor, features: Callable[[Tensor, tuple[str, ...]], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What the critic sees of images (B, 3, S, S), by the perception's `features`: LAYERS of the picture and, as
    `face_LAYER`, of the face from near, without which an eye is two numbers wide and may be anything.

    Each picture is first a little turned, scaled and moved. None is mirrored: results that all have the same eye faint
    would look, half of them mirrored, like portraits lit from either side.
    """
    seen = jitter(images, JITTER, images.shape[-1])
    near = {f"face_{layer}": found for layer, found in features(_face(seen), LAYERS).items()}
    return {**features(seen, LAYERS), **near}


def _face(images: Tensor) -> Tensor:
    """The middle of the faces in aligned crops (B, 3, S, S), as large as the crops."""
    size = images.shape[-1]
    top, left, side = (round(share * size) for share in (FACE_TOP, FACE_LEFT, FACE_SIDE))
    near = images[..., top : top + side, left : left + side]
    return interpolate(near, size=(size, size), mode="bilinear", align_corners=False)


def _head(channels: int) -> nn.Sequential:
    return nn.Sequential(
        spectral_norm(nn.Conv2d(channels, WIDTH, 1)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(WIDTH, WIDTH, 3, padding=1)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(WIDTH, 1, 1)),
    )
