"""A second discriminator, which looks at pictures through the perceptual features (Sauer et al. 2021, Projected GANs).

What a discriminator of pixels must first learn from a hundred portraits, a net that has seen a million pictures knows:
small heads on its frozen features tell styles apart after a few hundred small batches.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.nn.utils.parametrizations import spectral_norm

from dualstylegan.training.augment import jitter

LAYERS = ("relu3_1", "relu4_1", "relu5_1")
WIDTH = 64
JITTER = 0.05  # with so few portraits, heads that saw them still would learn them by heart


class FeatureCritic(nn.Module):
    """A head of three convolutions on each of LAYERS, spectrally normalised. Hinge losses."""

    def __init__(self, channels: Mapping[str, int]):
        """`channels` of each layer's features."""
        super().__init__()
        self.heads = nn.ModuleDict({layer: _head(channels[layer]) for layer in LAYERS})

    def tell_apart(self, real: Mapping[str, Tensor], fake: Mapping[str, Tensor]) -> Tensor:
        """The critic's own loss, a scalar; every layer counts alike."""
        pairs = [(head(real[layer]), head(fake[layer])) for layer, head in self.heads.items()]
        terms = [relu(1 - of_real).mean() + relu(1 + of_fake).mean() for of_real, of_fake in pairs]
        return torch.stack(terms).mean()

    def fool(self, fake: Mapping[str, Tensor]) -> Tensor:
        """The generator's loss, a scalar."""
        return -torch.stack([head(fake[layer]).mean() for layer, head in self.heads.items()]).mean()


def seen_by_critic(images: Tensor) -> Tensor:
    """Images (B, 3, S, S), each a little turned, scaled and moved, half of them mirrored."""
    mirrored = torch.rand(len(images), 1, 1, 1).to(images.device) < 0.5
    moved = jitter(images, JITTER, images.shape[-1])
    return torch.where(mirrored, moved.flip(3), moved)


def _head(channels: int) -> nn.Sequential:
    return nn.Sequential(
        spectral_norm(nn.Conv2d(channels, WIDTH, 1)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(WIDTH, WIDTH, 3, padding=1)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(WIDTH, 1, 1)),
    )
