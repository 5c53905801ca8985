"""The first layers of MobileNetV2 (Sandler et al. 2018), ImageNet weights: perceptual features small enough to ship."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, relu6

# Inverted residual blocks up to the last feature: (expansion, width, stride) of each
BLOCKS = ((1, 16, 1), (6, 24, 2), (6, 24, 1), (6, 32, 2), (6, 32, 1), (6, 32, 1), (6, 64, 2), *[(6, 64, 1)] * 3)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class MobileNetFeatures(nn.Module):
    """Features that stand for VGG's, under VGG's names.

    | name    | stride | width | receptive field (VGG19's), px | MobileNetV2 layer                          |
    |---------|--------|-------|-------------------------------|--------------------------------------------|
    | relu1_1 | 1      | 32    | 3 (3)                         | the stem convolution, run at every pixel   |
    | relu1_2 | 2      | 32    | 7 (5, at stride 1)            | depthwise layer of block 1                 |
    | relu2_1 | 2      | 96    | 7 (10)                        | expansion of block 2                       |
    | relu2_2 | 4      | 144   | 11 (14, at stride 2)          | expansion of block 3                       |
    | relu3_1 | 4      | 144   | 19 (24)                       | expansion of block 4                       |
    | relu4_1 | 8      | 192   | 59 (68)                       | expansion of block 7                       |
    | relu5_1 | 16     | 384   | 171 (156)                     | expansion of block 11                      |

    Every feature is the output of a ReLU6: in [0, 6]. Batch norms are folded into the convolutions.
    """

    mean: Tensor
    std: Tensor
    names = ("relu1_1", "relu1_2", "relu2_1", "relu2_2", "relu3_1", "relu4_1", "relu5_1")

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).reshape(1, 3, 1, 1), persistent=False)
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.blocks = nn.ModuleList()
        width = 32
        for expansion, out, stride in BLOCKS:
            self.blocks.append(_InvertedResidual(width, out, stride, expansion))
            width = out
        self.last = nn.Conv2d(width, 6 * width, 1)

    def forward(self, images: Tensor, layers: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Images (B, 3, H, W), RGB, float in [-1, 1]; returns {name: (B, width, ~H/stride, ~W/stride)}.

        `layers` limits the result, and the work, to what is asked for; None gives all. Differentiable.
        """
        wanted = set(self.names if layers is None else layers)
        unknown = wanted - set(self.names)
        if unknown:
            raise KeyError(f"MobileNetFeatures has no layers {sorted(unknown)}; it has {list(self.names)}")
        found: dict[str, Tensor] = {}

        def keep(name: str, feature: Tensor) -> bool:
            """Notes the feature where it is wanted; true once there is nothing more to compute."""
            if name in wanted:
                found[name] = feature
            return len(found) == len(wanted)

        x = ((images + 1) / 2 - self.mean) / self.std
        # The network's own stem has stride 2: the same numbers at every other pixel
        if "relu1_1" in wanted:
            x = relu6(self.stem(x))
            if keep("relu1_1", x):
                return found
            x = x[:, :, ::2, ::2]
        else:
            x = relu6(conv2d(x, self.stem.weight, self.stem.bias, stride=2, padding=1))

        before = {1: "relu2_1", 2: "relu2_2", 3: "relu3_1", 6: "relu4_1"}  # named after the block's expansion
        for index, block in enumerate(cast("Iterable[_InvertedResidual]", self.blocks)):
            hidden = block.expanded(x)
            if index in before and keep(before[index], hidden):
                return found
            hidden = relu6(block.depthwise(hidden))
            if index == 0 and keep("relu1_2", hidden):
                return found
            hidden = block.project(hidden)
            x = x + hidden if block.residual else hidden
        keep("relu5_1", relu6(self.last(x)))
        return found


class _InvertedResidual(nn.Module):
    def __init__(self, width: int, out: int, stride: int, expansion: int):
        super().__init__()
        hidden = width * expansion
        self.residual = stride == 1 and width == out
        self.expand = nn.Conv2d(width, hidden, 1) if expansion > 1 else None
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden)
        self.project = nn.Conv2d(hidden, out, 1)

    def expanded(self, x: Tensor) -> Tensor:
        return x if self.expand is None else relu6(self.expand(x))
