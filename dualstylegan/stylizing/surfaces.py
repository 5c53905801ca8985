"""What pictures are made of: oil in strokes, engraved lines, flat areas with outlines.

Frames are uint8 (H, W, 3) RGB in and out. `face_px` is the side of a face's crop in the frame: strokes and lines are
parts of it, so that the picture is drawn as the face in it is. What needs a look around is computed at a bounded
size and applied at full size: as a linear function of the frame's own pixels nearby (He & Sun 2015), which keeps edges.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

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
    low = _at_stroke_size(frame, face_px)
    return _applied(frame, face_px, low, _strokes(low, _ways(low)), TEXTURE)


@torch.inference_mode()
def flat(frame: np.ndarray, face_px: float) -> np.ndarray:
    """Areas of few levels of light, with dark outlines."""
    low = _at_stroke_size(frame, face_px)
    ways = _ways(low)
    areas = _strokes(_strokes(low, ways), ways)
    light = areas.mean(1, keepdim=True)
    lines = _blurred(light, 1.8).sub_(_blurred(light, 0.9)).sub_(OUTLINE_FROM).div_(OUTLINE_OVER)
    laid = _applied(frame, face_px, low, areas, 2 * TEXTURE)
    levels = Image.fromarray(laid).convert("L", matrix=(1 / 3, 1 / 3, 1 / 3, 0))
    gain = _in_levels()[np.asarray(levels)]
    # Cut out at full size: so lines are as crisp as those that a style draws in its faces.
    gain *= _enlarged(lines, *frame.shape[:2])[0, 0].clamp_(0, 1).mul_(-OUTLINE).add_(1).numpy()
    painted, plane = np.empty_like(laid), np.empty_like(gain)
    for channel in range(3):  # all three in one go would take four times as long
        np.multiply(laid[..., channel], gain, out=plane)
        painted[..., channel] = np.minimum(plane, 255, out=plane)
    return painted


@cache
def _in_levels() -> np.ndarray:
    """By what light of 0 to 255 is multiplied to lie halfway from where it is to the nearest of LEVELS levels."""
    light = np.arange(256, dtype=np.float32) / 255
    level, beyond = np.divmod(light * LEVELS, 1)
    level = (level + 1 / (1 + np.exp(STEEP * (0.5 - beyond)))) / LEVELS
    return ((light + level) / (2 * np.maximum(light, 0.02))).astype(np.float32)


@torch.inference_mode()
def hatch(frame: np.ndarray, face_px: float, greys: np.ndarray) -> np.ndarray:
    """Lines that swell with the dark and bend with the light, crossed where it is darkest; paper between them.

    All in one ink: `greys` (2, 3) is what a grey's red, green and blue are beside it, and by how much more in white.
    """
    height, width = frame.shape[:2]
    low = _at_stroke_size(frame, face_px).mean(1, keepdim=True)
    light = _enlarged(_planes(_as_fine_as_faces(frame, face_px)).mean(1, keepdim=True), height, width)
    bent = _enlarged(_blurred(low, 4.0).mul_(BEND), height, width)
    dark = _enlarged(_blurred(low, 1.2), height, width).add_(light, alpha=0.5).div_(-1.5).add_(1)
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


def _strokes(low: Tensor, ways: list[tuple[int, int, Tensor]]) -> Tensor:
    """Every pixel the colour of the calmest patch beside it, rather along an edge than across."""
    height, width = low.shape[2:]
    mean = _box(low, STROKE_PX // 2)
    noise = (_box(low * low, STROKE_PX // 2).addcmul_(mean, mean, value=-1)).sum(1, keepdim=True).clamp_min_(0)
    calm = noise.add_(FLATNESS).reciprocal_().square_()
    total = torch.cat([mean.mul_(calm), calm], 1)  # colours, and what they count
    around = pad(total, [STROKE_PX] * 4, mode="replicate")
    for x, y, fits in ways:
        total.addcmul_(around[:, :, y : y + height, x : x + width], fits)
    return total[:, :3].div_(total[:, 3:])


def _ways(low: Tensor) -> list[tuple[int, int, Tensor]]:
    """Where strokes may come from, from the corner of a pixel's surroundings, and how well each way fits the edges."""
    cosine, sine = _edges(low).split(1, dim=1)
    ways = []
    for look in range(LOOKS // 2):  # and the other way, to which the edge is as near
        angle = 2 * math.pi * look / LOOKS
        fits = (cosine * math.cos(2 * angle)).add_(sine, alpha=math.sin(2 * angle)).mul_(ALONG).exp_()
        for way in (1, -1):
            x, y = (STROKE_PX + way * round(STROKE_PX * part) for part in (math.cos(angle), math.sin(angle)))
            ways.append((x, y, fits))
    return ways


def _edges(low: Tensor) -> Tensor:
    """Which way edges run: (B, 2, H, W), cosine and sine of twice the angle, as long as they agree, at most 1."""
    light = interpolate(low.mean(1, keepdim=True), scale_factor=0.5, mode="area")
    around = pad(light, [1] * 4, mode="replicate")
    smooth_down, smooth_across = (_along(around, [2.0, 1.0], axis) for axis in (2, 3))
    x = smooth_down[..., 2:] - smooth_down[..., :-2]
    y = smooth_across[..., 2:, :] - smooth_across[..., :-2, :]
    tensor = _blurred(torch.cat([y * y - x * x, -2 * x * y, x * x + y * y], 1), 1.25)
    edges = tensor[:, :2].div_(tensor[:, 2:].add_(1e-4))
    return _enlarged(edges, *low.shape[2:])


def _applied(frame: np.ndarray, face_px: float, low: Tensor, painted: Tensor, texture: float) -> np.ndarray:
    """What took `low` to `painted`, done to the frame: a guided filter at low size (He & Sun 2015). As between two
    pictures: of the frame so much as shows through, and over it what has to be there."""
    mean_low, mean_painted = _box(low, 2), _box(painted, 2)
    light, light_painted = (planes.mean(1, keepdim=True) for planes in (low, painted))
    mean_light, mean_light_painted = (planes.mean(1, keepdim=True) for planes in (mean_low, mean_painted))
    products = _box(torch.cat([light * light, light * light_painted], 1), 2)
    variance = products[:, :1].addcmul_(mean_light, mean_light, value=-1).add_(texture)
    gain = products[:, 1:].addcmul_(mean_light, mean_light_painted, value=-1).div_(variance).clamp_(0, MOST_GAIN)
    rest = mean_painted.addcmul_(gain, mean_low, value=-1)
    both = _box(torch.cat([rest, gain], 1), 1)
    both[:, :3].div_(1 - both[:, 3:])
    both = both.clamp_(0, 1).mul_(255).add_(0.5).to(torch.uint8, memory_format=torch.channels_last)

    shown = _as_fine_as_faces(frame, face_px)
    over = Image.fromarray(_resized(both[0].movedim(0, -1).numpy(), *shown.shape[:2]))  # `gain` of it lets through
    pasted = Image.composite(Image.fromarray(shown), over.convert("RGB"), over.getchannel("A"))
    return _resized(np.array(pasted), *frame.shape[:2])


def _at_stroke_size(frame: np.ndarray, face_px: float) -> Tensor:
    """(1, 3, h, w) in [0, 1], so small that a stroke is STROKE_PX wide, or smaller, where that is too many pixels."""
    height, width = frame.shape[:2]
    most = min(max(height * width / FINER, SMALL), LARGE)
    scale = min(1.0, STROKE_PX / max(STROKE * face_px, 1e-3), math.sqrt(most / (height * width)))
    return _planes(_resized(frame, max(8, round(height * scale)), max(8, round(width * scale))))


def _as_fine_as_faces(frame: np.ndarray, face_px: float) -> np.ndarray:
    """What is finer than a drawn face is left out: hair by hair beside one reads as a seam."""
    height, width = frame.shape[:2]
    scale = FINE_PX / max(face_px, 1e-3)
    return frame if scale > 0.8 else _resized(frame, max(8, round(height * scale)), max(8, round(width * scale)))


def _resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 (H, W, channels) to (height, width, channels), antialiased: as bytes, in a third of the time of floats."""
    planes = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).movedim(-1, 0)[None]
    if planes.shape[2:] == (height, width):
        return pixels
    resized = interpolate(planes, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
    return np.ascontiguousarray(resized[0].movedim(0, -1).numpy())


def _enlarged(low: Tensor, height: int, width: int) -> Tensor:
    if low.shape[2:] == (height, width):
        return low
    return interpolate(low, size=(height, width), mode="bilinear", align_corners=False)


def _box(planes: Tensor, radius: int) -> Tensor:
    return _filtered(planes, [1 / (2 * radius + 1)] * (radius + 1))


def _blurred(planes: Tensor, sigma: float) -> Tensor:
    """A Gaussian of that standard deviation."""
    weights = [math.exp(-0.5 * (x / sigma) ** 2) for x in range(math.ceil(2 * sigma) + 1)]
    total = 2 * sum(weights) - weights[0]
    return _filtered(planes, [weight / total for weight in weights])


def _filtered(planes: Tensor, weights: list[float]) -> Tensor:
    """The same filter down and across, by its weights from the middle on; edge pixels go on outside."""
    return _along(_along(pad(planes, [len(weights) - 1] * 4, mode="replicate"), weights, 2), weights, 3)


def _along(planes: Tensor, weights: list[float], axis: int) -> Tensor:
    """(B, C, H, W) shorter along one axis by what a filter reads beyond a pixel. Sums of what lies side by side: a
    convolution of each plane by itself would take five times as long."""
    reach = len(weights) - 1
    length = planes.shape[axis] - 2 * reach
    total = planes.narrow(axis, reach, length) * weights[0]
    for apart, weight in enumerate(weights[1:], start=1):
        total.add_(planes.narrow(axis, reach - apart, length), alpha=weight)
        total.add_(planes.narrow(axis, reach + apart, length), alpha=weight)
    return total


def _planes(frame: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) to float32 (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(frame.transpose(2, 0, 1).astype(np.float32, order="C")).div_(255)[None]


def _levels(planes: Tensor) -> np.ndarray:
    """float32 (1, 3, H, W) in [0, 1], clamped, to uint8 (H, W, 3)."""
    rounded = planes[0].clamp_(0, 1).mul_(255).add_(0.5).to(torch.uint8)
    return np.ascontiguousarray(rounded.permute(1, 2, 0).numpy())
