"""ArcFace (Deng et al. 2019) on IR-SE50: who is it, as a unit vector."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .ir_se50 import IRSE50


class ArcFace(nn.Module):
    """Identity of an FFHQ-aligned face. The cosine of two vectors says how alike the faces are."""

    def __init__(self):
        super().__init__()
        self.body = IRSE50()
        self.norm_in = nn.BatchNorm2d(512)
        self.linear = nn.Linear(512 * 7 * 7, 512)
        self.norm_out = nn.BatchNorm1d(512)

    def forward(self, images: Tensor) -> Tensor:
        """Aligned faces (B, 3, S, S), RGB in [-1, 1], brought to 256 px, to unit vectors (B, 512)."""
        if images.shape[-1] > 256:
            images = F.adaptive_avg_pool2d(images, 256)
        elif images.shape[-1] < 256:
            images = F.interpolate(images, size=(256, 256), mode="bilinear", align_corners=False)
        face = F.adaptive_avg_pool2d(images[:, :, 35:223, 32:220], 112)
        (x,) = self.body(face)
        x = self.norm_in(x).flatten(1)
        return F.normalize(self.norm_out(self.linear(x)).float(), dim=1)
