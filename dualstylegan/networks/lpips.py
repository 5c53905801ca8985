"""LPIPS (Zhang et al. 2018), version 0.1: perceptual distance from deep features."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .vgg import VGG16Features


class LPIPS(nn.Module):
    """Weighted squared distance of unit-length feature vectors, averaged over positions and summed over layers.

    `features` maps images to {layer: (B, C, h, w)}; `widths` gives C per layer. The released distance is the default:
    VGG16 and five layers. Fresh weights are 1 / C.
    """

    def __init__(self, features: nn.Module | None = None, widths: Mapping[str, int] | None = None):
        super().__init__()
        self.features = VGG16Features() if features is None else features
        if widths is None:
            widths = {"relu1_2": 64, "relu2_2": 128, "relu3_3": 256, "relu4_3": 512, "relu5_3": 512}
        self.weights = nn.ParameterDict(
            {layer: nn.Parameter(torch.full((width,), 1 / width)) for layer, width in widths.items()}
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Images (B, 3, H, W), RGB in [-1, 1], both of one size, to distances (B,)."""
        of_x, of_y = self.features(x), self.features(y)
        distance = x.new_zeros(len(x))
        for layer, weight in self.weights.items():
            difference = (unit(of_x[layer]) - unit(of_y[layer])).square()
            distance = distance + torch.einsum("bchw,c->bhw", difference, weight).mean(dim=(1, 2))
        return distance


def unit(features: Tensor) -> Tensor:
    """Every position's feature vector at length 1."""
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
