"""Features of VGG16 and VGG19 (Simonyan and Zisserman 2015), in torchvision's layout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# ImageNet's mean and deviation, for images in [-1, 1] instead of [0, 1]
MEAN = (0.485 * 2 - 1, 0.456 * 2 - 1, 0.406 * 2 - 1)
DEVIATION = (0.229 * 2, 0.224 * 2, 0.225 * 2)

WIDTHS = (64, 128, 256, 512, 512)


class VGGFeatures(nn.Module):
    """The activations named "reluK_i" after the ReLU of convolution i of block K.

    `layers` are those that forward returns; convolutions beyond the last of them do not exist.
    """

    def __init__(self, convs_per_block: Sequence[int], layers: Sequence[str]):
        super().__init__()
        names = [f"{block}_{i}" for block, count in enumerate(convs_per_block, 1) for i in range(1, count + 1)]
        unknown = [layer for layer in layers if layer.removeprefix("relu") not in names]
        if unknown:
            raise ValueError(f"no layer {unknown[0]} in {names}")
        self.layers = tuple(layers)
        self.convs = nn.ModuleDict()
        channels = 3
        for name in names[: 1 + max(names.index(layer.removeprefix("relu")) for layer in layers)]:
            width = WIDTHS[int(name[0]) - 1]
            self.convs[name] = nn.Conv2d(channels, width, 3, padding=1)
            channels = width

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W), RGB in [-1, 1], to {layer: (B, C, h, w)}."""
        x = (images - images.new_tensor(MEAN)[:, None, None]) / images.new_tensor(DEVIATION)[:, None, None]
        x = x.contiguous(memory_format=torch.channels_last)
        features = {}
        for name, conv in self.convs.items():
            if name.endswith("_1") and name != "1_1":
                x = F.max_pool2d(x, 2)
            x = F.relu(conv(x))
            if f"relu{name}" in self.layers:
                features[f"relu{name}"] = x
        return features


class VGG19Features(VGGFeatures):
    def __init__(self, layers: Sequence[str] = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")):
        super().__init__((2, 2, 4, 4, 4), layers)


class VGG16Features(VGGFeatures):
    def __init__(self, layers: Sequence[str] = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")):
        super().__init__((2, 2, 3, 3, 3), layers)
