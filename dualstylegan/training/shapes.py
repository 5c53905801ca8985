"""Where a style puts eyes, brows, mouths and jaws: landmarks of aligned faces, and what each exemplar makes of them.

The paper asks the style to keep a person by the identity loss alone. A style that draws every head the same passes
there, where the style's own changes of shape are large. So a result's landmarks should be the face's own, moved as the
exemplar's artist has moved those of the exemplar's person.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from dualstylegan.faces.landmarks import MIRRORED
from dualstylegan.networks.landmarks68 import INPUT_SIZE, LandmarkNet

# left, top, right, bottom of what the net looks at, in an aligned crop: on 120 of mini's photos it then gives the
# landmarks of two looks to within 0.3 % of the crop's side
SQUARE = (0.16, 0.28, 0.844, 0.964)
OWN = 0.5  # how much of a move is the exemplar's own; the rest is the style's mean


class ShapeJudge(nn.Module):
    """Landmarks of FFHQ-aligned crops (B, 3, S, S), RGB, float in [-1, 1]: (B, 68, 2) in sides of the crop, x and y.
    The mean of the crop and its mirror image, so that no side counts more. Differentiable."""

    def __init__(self, net: LandmarkNet):
        super().__init__()
        self.net = net.eval().requires_grad_(False)
        self.register_buffer("mirrored", torch.from_numpy(MIRRORED), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        size = images.shape[-1]
        left, top, right, bottom = (round(edge * size) for edge in SQUARE)
        with torch.autocast(images.device.type, enabled=False):  # bf16 has three digits: too few for a place
            seen = images.float()[..., top:bottom, left:right]
            seen = interpolate(seen, (INPUT_SIZE, INPUT_SIZE), mode="bilinear", antialias=True, align_corners=False)
            plain, mirrored = self.net(torch.cat([seen, seen.flip(3)])).chunk(2)
        mirrored = mirrored[:, self.mirrored] * mirrored.new_tensor([-1, 1]) + mirrored.new_tensor([1, 0])
        scale = images.new_tensor([right - left, bottom - top]) / size
        return (plain + mirrored) / 2 * scale + images.new_tensor([left, top]) / size


def moves(portraits: Tensor, faces: Tensor, own: float = OWN) -> Tensor:
    """How a style moves landmarks, (N, 68, 2) of `portraits` and of their people's `faces`: for each exemplar `own` of
    what its artist did, and the mean of all for the rest. Landmarks of one drawing are uncertain, their mean is not."""
    each = portraits - faces
    mean = each.mean(dim=0, keepdim=True)
    return mean + own * (each - mean)


def shape_loss(points: Tensor, wanted: Tensor) -> Tensor:
    """L1 distance of landmarks (B, 68, 2), in hundredths of the crop's side. (B,)"""
    return (points - wanted).abs().mean(dim=(1, 2)) * 100
