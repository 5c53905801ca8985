"""Sixty-eight face landmarks: the small densely connected network of face-api (Muehler 2018), 112 px input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad, relu

INPUT_SIZE = 112
MEAN_RGB = (122.782, 117.001, 104.298)  # of 255, the training set's


class LandmarkNet(nn.Module):
    """Regresses the iBUG points: 0-16 jaw, 17-26 brows, 27-35 nose, 36-47 eyes, 48-67 mouth."""

    mean: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN_RGB).reshape(1, 3, 1, 1), persistent=False)
        self.dense0 = _DenseBlock(3, 32, first=True)
        self.dense1 = _DenseBlock(32, 64)
        self.dense2 = _DenseBlock(64, 128)
        self.dense3 = _DenseBlock(128, 256)
        self.fc = nn.Linear(256, 136)

    def forward(self, crops: Tensor) -> Tensor:
        """Crops (B, 3, 112, 112), RGB, float in [-1, 1], an upright face filling most of each; returns (B, 68, 2):
        (x, y) in the unit crop, (0, 0) its top left corner, (1, 1) its bottom right corner."""
        x = ((crops + 1) * 127.5 - self.mean) / 255
        x = self.dense3(self.dense2(self.dense1(self.dense0(x))))
        return self.fc(avg_pool2d(x, 7).flatten(1)).unflatten(1, (68, 2))


class _DenseBlock(nn.Module):
    """Four convolutions, the first halves the resolution; each later one sees the sum of all before it."""

    def __init__(self, width: int, out: int, first: bool = False):
        super().__init__()
        self.conv0 = nn.Conv2d(width, out, 3, stride=2) if first else _Separable(width, out, stride=2)
        self.conv1 = _Separable(out, out)
        self.conv2 = _Separable(out, out)
        self.conv3 = _Separable(out, out)

    def forward(self, x: Tensor) -> Tensor:
        total = relu(self.conv0(pad(x, (0, 1, 0, 1))))  # TensorFlow pads an even side after the picture only
        total = total + self.conv1(total)
        total = total + self.conv2(relu(total))
        total = total + self.conv3(relu(total))
        return relu(total)


class _Separable(nn.Module):
    def __init__(self, width: int, out: int, stride: int = 1):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, stride, padding=1 if stride == 1 else 0, groups=width, bias=False)
        self.pointwise = nn.Conv2d(width, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))
