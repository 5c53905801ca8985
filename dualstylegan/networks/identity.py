"""Who is it: dlib's face recognition ResNet (King 2017), 29 convolutions, 150 px chips to 128 numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, pad, relu

CHIP_SIZE = 150
SAME_PERSON_DISTANCE = 0.6  # dlib's own threshold on the distance of two embeddings
CHIP_IN_CROP = (0.145, 0.245, 0.855, 0.955)  # left, top, right, bottom of dlib's face chip in the FFHQ unit crop
MEAN_RGB = (122.782, 117.001, 104.298)  # of 255, the training set's


class IdentityNet(nn.Module):
    """Embeds face chips. The same person's embeddings lie closer than SAME_PERSON_DISTANCE."""

    mean: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN_RGB).reshape(1, 3, 1, 1), persistent=False)
        self.conv32_down = nn.Conv2d(3, 32, 7, stride=2)
        self.body = nn.Sequential()
        width = 32
        for name, out in _LAYOUT:
            self.body.add_module(name, _Down(width, out) if "down" in name else _Residual(width))
            width = out
        self.embed = nn.Linear(width, 128, bias=False)

    def forward(self, chips: Tensor) -> Tensor:
        """Chips (B, 3, 150, 150), RGB, float in [-1, 1], cut as `chips_from_crops` does; returns (B, 128).

        Embeddings are not normalised: compare them by Euclidean distance (their norms are close to 1.4).
        Differentiable.
        """
        x = ((chips + 1) * 127.5 - self.mean) / 255
        x = max_pool2d(relu(self.conv32_down(x)), 3, stride=2)
        return self.embed(self.body(x).mean((2, 3)))


def chips_from_crops(crops: Tensor) -> Tensor:
    """Cuts dlib's face chip from FFHQ-aligned crops (B, 3, N, N) of any size; returns (B, 3, 150, 150).

    Differentiable: identity losses look through it.
    """
    size = crops.shape[-1]
    left, top, right, bottom = (round(edge * size) for edge in CHIP_IN_CROP)
    chips = crops[..., top:bottom, left:right]
    factor = (right - left) // CHIP_SIZE
    if factor > 1:  # area reduction first: bilinear resizing alone would skip pixels
        chips = avg_pool2d(chips, factor)
    return interpolate(chips, size=(CHIP_SIZE, CHIP_SIZE), mode="bilinear", align_corners=False)


_LAYOUT = (  # (name, width); a "down" block halves the resolution
    *((f"conv32_{i}", 32) for i in (1, 2, 3)),
    ("conv64_down", 64),
    *((f"conv64_{i}", 64) for i in (1, 2, 3)),
    ("conv128_down", 128),
    *((f"conv128_{i}", 128) for i in (1, 2)),
    ("conv256_down", 256),
    *((f"conv256_{i}", 256) for i in (1, 2)),
    ("conv256_down_out", 256),
)


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return relu(x + self.conv2(relu(self.conv1(x))))


class _Down(nn.Module):
    """Halves the resolution; the shortcut is average pooling, new channels of it are zero."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride=2)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        short = avg_pool2d(x, 2)
        deep = self.conv2(relu(self.conv1(x)))
        short = pad(short, (0, 0, 0, 0, 0, deep.shape[1] - short.shape[1]))
        # Unpadded convolutions may come out one row and column smaller than the pooling: dlib adds zeros there
        rows, columns = short.shape[2] - deep.shape[2], short.shape[3] - deep.shape[3]
        return relu(short + pad(deep, (0, columns, 0, rows)))
