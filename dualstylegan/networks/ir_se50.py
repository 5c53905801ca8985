"""IR-SE50: the residual network with squeeze and excitation under the pSp encoder and ArcFace (Deng et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# (width, blocks) of the four groups; the first block of each halves the size
GROUPS = ((64, 3), (128, 4), (256, 14), (512, 3))


class SqueezeExcite(nn.Module):
    """x times a gate per channel, computed from the channel means (Hu et al. 2018)."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3), keepdim=True)))))


class Bottleneck(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            SqueezeExcite(channels),
        )
        self.shortcut: nn.Module = (
            nn.MaxPool2d(1, stride)
            if in_channels == channels
            else nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)


class IRSE50(nn.Module):
    """Stem and 24 bottlenecks. Images (B, 3, S, S) to the features of blocks `taps`, a sixteenth of S for the last."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        blocks = []
        in_channels = 64
        for channels, count in GROUPS:
            for i in range(count):
                blocks.append(Bottleneck(in_channels, channels, stride=2 if i == 0 else 1))
                in_channels = channels
        self.blocks = nn.ModuleList(blocks)

    def forward(self, images: Tensor, taps: tuple[int, ...] = (23,)) -> list[Tensor]:
        x = self.stem(images)
        features = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in taps:
                features.append(x)
        return features
