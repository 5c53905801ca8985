"""Four times as many pixels for drawn pictures: Real-ESRGAN's realesr-animevideov3 (Wang et al. 2021, SRVGGNet)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle

WIDTH = 64
SCALE = 4
LAYERS = 16  # of WIDTH channels in and out


class FinishNet(nn.Module):
    """Convolutions at the picture's own size; what they find is added to the picture enlarged."""

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, WIDTH, 3, padding=1), nn.PReLU(WIDTH)]
        for _ in range(LAYERS):
            layers += [nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.PReLU(WIDTH)]
        self.body = nn.Sequential(*layers)
        self.last = nn.Conv2d(WIDTH, 3 * SCALE * SCALE, 3, padding=1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), RGB, float in [-1, 1]; returns (B, 3, 4 H, 4 W), not clamped."""
        found = pixel_shuffle(self.last(self.body((pictures + 1) / 2)), SCALE)
        return interpolate(pictures, scale_factor=SCALE, mode="nearest") + 2 * found
