"""What pictures are made of: oil in strokes, engraved lines, flat areas with outlines.

Frames are uint8 (H, W, 3) RGB in and out. `face_px` is the side of a face's crop in the frame: strokes and lines are
parts of it, so that the picture is drawn as the face in it is. What needs a look around is computed at a bounded
size and applied at full size: as a linear function of the frame's own pixels nearby (He & Sun 2015), which keeps edges.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

FINER = 8  # at least so many pixels of a frame stand behind one that is computed, but for small frames,
SMALL, LARGE = 36_000, 160_000  # pixels: at least and at most
STROKE = 0.02  # of a face's crop: from the middle of a stroke to its edge
STROKE_PX = 3  # the same, at the size that is computed at
FINE_PX = 300  # of a face's crop: so fine are pictures around faces
LOOKS = 8  # directions in which a stroke's colour may lie
ALONG = 1.5  # how much rather it lies along edges than across
FLATNESS = 1e-3  # variance of colour, of 1, below which areas are all the same
MOST_GAIN = 0.7  # of a picture's own edges: more, and they stand out beside the faces' strokes
TEXTURE = 4e-3  # variance that is the picture's grain still, and not an edge

LEVELS = 6  # of light, that areas are laid out in
STEEP = 14  # how sharp the borders between levels are
OUTLINE = 0.85  # of black
OUTLINE_FROM, OUTLINE_OVER = 0.018, 0.016  # how much darker than around it a line is that is drawn, and drawn wholly

LINES = 0.0125  # of a face's crop: from one line to the next
LEAST_LINES_PX = 3.2
SLANT = 0.6  # radians, of the first lines; the second cross them
BEND = 7.0  # radians of a line's period by which white bends it
INK = 0.42  # of the light that a line takes


@torch.inference_mode()
def oil(frame: np.ndarray, face_px: float) -> np.ndarray:
    """Strokes of one colour each, along edges: an anisotropic Kuwahara filter (Kyprianidis et al. 2009)."""
    full = _planes(frame)
    fine = _as_fine_as_faces(full, face_px)
    low = _at_stroke_size(full, face_px)
    return _levels(_enlarged(_applied(fine, low, _strokes(low, _edges(low)), TEXTURE), full))


@torch.inference_mode()
def flat(frame: np.ndarray, face_px: float) -> np.ndarray:
    """Areas of few levels of light, with dark outlines."""
    full = _planes(frame)
    fine = _as_fine_as_faces(full, face_px)
    low = _at_stroke_size(full, face_px)
    edges = _edges(low)
    areas = _strokes(_strokes(low, edges), edges)
    light = areas.mean(1, keepdim=True)
    lines = _blurred(light, 1.8) - _blurred(light, 0.9)
    areas = _enlarged(_applied(fine, low, areas, 2 * TEXTURE), full)
    areas.mul_(_in_levels(areas.mean(1, keepdim=True)))
    # Cut out at full size: so lines are as crisp as those that a style draws in its faces.
    lines = _enlarged(lines, full).sub_(OUTLINE_FROM).div_(OUTLINE_OVER).clamp_(0, 1)
    return _levels(areas.mul_(lines.mul_(-OUTLINE).add_(1)))


def _in_levels(light: Tensor) -> Tensor:
    """By what light is multiplied to lie halfway from where it is to the nearest of LEVELS levels."""
    steps = light * LEVELS
    level = steps.floor()
    steps.sub_(level).sub_(0.5).mul_(STEEP).sigmoid_().add_(level).div_(LEVELS)
    return steps.add_(light).div_(light.clamp(min=0.02).mul_(2))


@torch.inference_mode()
def hatch(frame: np.ndarray, face_px: float, greys: np.ndarray) -> np.ndarray:
    """Lines that swell with the dark and bend with the light, crossed where it is darkest; paper between them.

    All in one ink: `greys` (2, 3) is what a grey's red, green and blue are beside it, and by how much more in white.
    """
    height, width = frame.shape[:2]
    full = _planes(frame)
    light = full.mean(1, keepdim=True)
    low = _at_stroke_size(light, face_px)
    light = _enlarged(_as_fine_as_faces(light, face_px), full)
    bent = _enlarged(_blurred(low, 4.0).mul_(BEND), full)
    dark = _enlarged(_blurred(low, 1.2), full).add_(light, alpha=0.5).div_(-1.5).add_(1)
    turn = 2 * math.pi / max(LEAST_LINES_PX, LINES * face_px)
    across = torch.arange(width, dtype=torch.float32) * (turn * math.sin(SLANT))
    down = torch.arange(height, dtype=torch.float32)[:, None] * (turn * math.cos(SLANT))
    lines = _ink(dark * 1.5 - 0.42, across + down + bent)
    crossed = _ink(dark * 1.6 - 0.85, across - down - bent)
    light.mul_(torch.maximum(lines, crossed).sub_(0.35).mul_(-INK).add_(1))
    tint, slope = torch.from_numpy(greys).float().reshape(2, 1, 3, 1, 1)
    return _levels(light * (1 + slope) + tint)


def _ink(swell: Tensor, phase: Tensor) -> Tensor:
    """How dark lines of this phase are, in [0, 1]: as wide as `swell` of 0 (none) to 1 (all black) has them."""
    return phase.sin_().add_(1).mul_(-0.5).add_(swell).mul_(8).sigmoid_()


def _strokes(low: Tensor, edges: Tensor) -> Tensor:
    """Every pixel the colour of the calmest patch beside it, rather along an edge than across."""
    height, width = low.shape[2:]
    cosine, sine = edges.split(1, dim=1)
    mean = _box(low, STROKE_PX // 2)
    noise = (_box(low * low, STROKE_PX // 2) - mean * mean).sum(1, keepdim=True).clamp_min_(0)
    calm = (noise + FLATNESS).reciprocal_().square_()
    total = torch.cat([mean * calm, calm], 1)  # colours, and what they count
    around = pad(total, [STROKE_PX] * 4, mode="replicate")
    for look in range(LOOKS // 2):  # and the other way, to which the edge is as near
        angle = 2 * math.pi * look / LOOKS
        fits = (cosine * math.cos(2 * angle)).add_(sine, alpha=math.sin(2 * angle)).mul_(ALONG).exp_()
        for way in (1, -1):
            x, y = (STROKE_PX + way * round(STROKE_PX * part) for part in (math.cos(angle), math.sin(angle)))
            total.addcmul_(around[:, :, y : y + height, x : x + width], fits)
    return total[:, :3] / total[:, 3:]


def _edges(low: Tensor) -> Tensor:
    """Which way edges run: (B, 2, H, W), cosine and sine of twice the angle, as long as they agree, at most 1."""
    light = interpolate(low.mean(1, keepdim=True), scale_factor=0.5, mode="area")
    around = pad(light, [1] * 4, mode="replicate")
    smooth_down, smooth_across = (_along(around, [1.0, 2.0, 1.0], axis) for axis in (2, 3))
    x, y = _along(smooth_down, [-1.0, 0.0, 1.0], 3), _along(smooth_across, [-1.0, 0.0, 1.0], 2)
    tensor = _blurred(torch.cat([y * y - x * x, -2 * x * y, x * x + y * y], 1), 1.25)
    return _enlarged(tensor[:, :2] / (tensor[:, 2:] + 1e-4), low)


def _applied(full: Tensor, low: Tensor, painted: Tensor, texture: float) -> Tensor:
    """What took `low` to `painted`, done to `full`: a guided filter at low size (He & Sun 2015)."""
    mean_low, mean_painted = _box(low, 2), _box(painted, 2)
    light, light_painted = (planes.mean(1, keepdim=True) for planes in (low, painted))
    mean_light, mean_light_painted = (planes.mean(1, keepdim=True) for planes in (mean_low, mean_painted))
    products = _box(torch.cat([light * light, light * light_painted], 1), 2)
    variance = products[:, :1] - mean_light * mean_light
    gain = ((products[:, 1:] - mean_light * mean_light_painted) / (variance + texture)).clamp_(0, MOST_GAIN)
    rest = mean_painted - gain * mean_low
    rest, gain = _enlarged(_box(torch.cat([rest, gain], 1), 1), full).split((3, 1), dim=1)
    return torch.addcmul(rest, gain, full)


def _at_stroke_size(full: Tensor, face_px: float) -> Tensor:
    """So small that a stroke is STROKE_PX wide, or smaller still, where that would be too many pixels."""
    height, width = full.shape[2:]
    most = min(max(height * width / FINER, SMALL), LARGE)
    scale = min(1.0, STROKE_PX / max(STROKE * face_px, 1e-3), math.sqrt(most / (height * width)))
    size = max(8, round(height * scale)), max(8, round(width * scale))
    return interpolate(full, size=size, mode="bilinear", antialias=True, align_corners=False)


def _as_fine_as_faces(full: Tensor, face_px: float) -> Tensor:
    """What is finer than a drawn face is left out: hair by hair beside one reads as a seam."""
    height, width = full.shape[2:]
    scale = FINE_PX / max(face_px, 1e-3)
    if scale > 0.8:
        return full
    size = max(8, round(height * scale)), max(8, round(width * scale))
    return interpolate(full, size=size, mode="bilinear", antialias=True, align_corners=False)


def _enlarged(low: Tensor, full: Tensor) -> Tensor:
    if low.shape[2:] == full.shape[2:]:
        return low
    return interpolate(low, size=full.shape[2:], mode="bilinear", align_corners=False)


def _box(planes: Tensor, radius: int) -> Tensor:
    return _filtered(planes, [1 / (2 * radius + 1)] * (2 * radius + 1))


def _blurred(planes: Tensor, sigma: float) -> Tensor:
    """A Gaussian of that standard deviation."""
    radius = math.ceil(2 * sigma)
    weights = [math.exp(-0.5 * (x / sigma) ** 2) for x in range(-radius, radius + 1)]
    return _filtered(planes, [weight / sum(weights) for weight in weights])


def _filtered(planes: Tensor, weights: list[float]) -> Tensor:
    """The same filter down and across; edge pixels go on outside."""
    return _along(_along(pad(planes, [len(weights) // 2] * 4, mode="replicate"), weights, 2), weights, 3)


def _along(planes: Tensor, weights: list[float], axis: int) -> Tensor:
    """(B, C, H, W) shorter along one axis by what a filter reads beyond a pixel."""
    shape = (1, 1, len(weights), 1) if axis == 2 else (1, 1, 1, len(weights))
    kernel = torch.tensor(weights).reshape(shape).repeat(planes.shape[1], 1, 1, 1)
    return conv2d(planes, kernel, groups=planes.shape[1])


def _planes(frame: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) to float32 (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(frame.transpose(2, 0, 1).astype(np.float32, order="C")).div_(255)[None]


def _levels(planes: Tensor) -> np.ndarray:
    """float32 (1, 3, H, W) in [0, 1], clamped, to uint8 (H, W, 3)."""
    rounded = planes[0].clamp_(0, 1).mul_(255).add_(0.5).to(torch.uint8)
    return np.ascontiguousarray(rounded.permute(1, 2, 0).numpy())
