"""Faces out of photos and back in, each way one warp of the smallest region that matters.

Photos are uint8 (H, W, 3) RGB, crops (3, N, N) in [-1, 1]. `crop_from_photo` (3, 3) takes source pixels (centres at
integers) to the unit crop, whose corners (0, 0) and (1, 1) are edges, not centres.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate, pad

from dualstylegan.errors import UsageError
from dualstylegan.faces.face import Face, crop_side_px, ffhq_matrix, transform
from dualstylegan.faces.masks import MASK_SIZE, draw_mask
from dualstylegan.media.images import from_tensor, to_levels

__all__ = ["crop_face", "ffhq_matrix", "part_shown", "paste_face", "sample_crop"]

# Scaling down happens in two steps: an antialiased resize to a little more than the size wanted, then the warp's
# bicubic samples. The closer the resize comes, the fewer jagged edges; the less it does, the sharper the result.
CROP_OVERSAMPLING = 1.25
PASTE_OVERSAMPLING = 1.5  # below this, pasting an untouched crop would lose detail the photo has (45 dB)

# Where a crop has hardly more pixels than the photo, two interpolations cost sharpness that nobody asked to lose. So
# there, pixels of the crop that are as they were (to a step of 255, for rounding) stay the photo's; from a difference
# of three steps on they are the crop's.
NEARLY_AS_FINE = 1.5
UNCHANGED, CHANGED = 1 / 127.5, 3 / 127.5

# What is farther out than so many of its sides, or so many times larger than the photo, was not measured in it. In
# films faces are followed a little beyond the border.
FARTHEST, LARGEST = 2, 100

PARTS = 32  # of a crop's side: what is shown of it is told in so many steps, as networks are slow on new shapes
BEYOND = 2  # px beside a sample that bicubic interpolation reads
TAPS = 3  # px around the samples that bicubic interpolation may read, and one to spare

# FFHQ's border for what lies outside the photo, in sides of the crop
FADE_WIDTH = 0.3  # at least so wide is the border in which mirrored pixels fade to the median colour
FADE_MARGIN = 0.1
BLUR = 0.02


def crop_face(picture: np.ndarray, crop_from_photo: np.ndarray, size: int) -> Tensor:
    """The aligned crop (3, size, size), float32 in [-1, 1] on the CPU, antialiased when it is scaled down.

    What lies outside the photo is mirrored, blurred and faded to the median colour, as in FFHQ. Raises UsageError for a
    crop that has nothing to do with the photo.
    """
    return _sample(picture, crop_from_photo, size, mirrored=True)


def sample_crop(picture: np.ndarray, crop_from_photo: np.ndarray, size: int) -> Tensor:
    """As crop_face, but the photo's edge pixels are repeated outside it. For any affine `crop_from_photo`."""
    return _sample(picture, crop_from_photo, size, mirrored=False)


def _sample(picture: np.ndarray, crop_from_photo: np.ndarray, size: int, mirrored: bool) -> Tensor:
    photo_from_crop = np.linalg.inv(crop_from_photo)
    side = crop_side_px(crop_from_photo)
    height, width = picture.shape[:2]
    corners = transform(photo_from_crop, np.array([[0.0, 0.0], [1, 0], [1, 1], [0, 1]]))

    shrink = max(1.0, side / (CROP_OVERSAMPLING * size))
    (left, top), (right, bottom) = _bounds(corners, TAPS * shrink)
    right, bottom = right + 1, bottom + 1
    apart = max(-right, -bottom, left - width, top - height)
    if mirrored and (apart > FARTHEST * side or side > LARGEST * max(width, height)):
        raise UsageError(
            f"This face is not in the picture, which is {width} x {height} px: its landmarks are another's."
        )

    x1, y1 = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    x2, y2 = max(min(right, width), x1 + 1), max(min(bottom, height), y1 + 1)

    region = picture[y1:y2, x1:x2]
    if shrink > 1:
        region = resize(region, max(1, round((x2 - x1) / shrink)), max(1, round((y2 - y1) / shrink)))
    scale = np.array([region.shape[1] / (x2 - x1), region.shape[0] / (y2 - y1)])
    origin = np.array([x1, y1]) - 0.5  # the region's top left corner, an edge

    reads_outside = left < x1 or top < y1 or right > x2 or bottom > y2
    if mirrored and reads_outside:
        outside = np.array([x1 - left, y1 - top, right - x2, bottom - y2])  # px
        beyond = np.array([*-corners.min(0), *(corners.max(0) - (width - 1, height - 1))])
        pads = np.ceil(np.maximum(outside, 0) * np.tile(scale, 2)).astype(int)
        fades = np.maximum(beyond + FADE_MARGIN * side, FADE_WIDTH * side) * np.tile(scale, 2)
        region = _with_border(region, pads, fades, BLUR * side * float(scale.mean()))
        origin = origin - pads[:2] / scale

    # unit crop -> photo -> region's edges -> grid_sample's [-1, 1]
    x_step, y_step = 2 * scale / (region.shape[1], region.shape[0])
    to_grid = np.array([[x_step, 0, -1 - x_step * origin[0]], [0, y_step, -1 - y_step * origin[1]], [0, 0, 1]])
    middles = (np.arange(size) + 0.5) / size
    grid = _grid(to_grid @ photo_from_crop, middles, middles)
    padding = "border" if reads_outside and not mirrored else "zeros"  # zeros nobody reads take a fifth less time
    sampled = grid_sample(_planes(region), grid, mode="bicubic", padding_mode=padding, align_corners=False)
    return sampled[0].div_(127.5).sub_(1).clamp_(-1, 1)


def _with_border(region: np.ndarray, pads: np.ndarray, fades: np.ndarray, blur_px: float) -> np.ndarray:
    """The region mirrored on the sides that end at the photo's edge, blurred towards and beyond that edge, and faded
    to the median colour. `pads` and `fades`: left, top, right, bottom, px of the region."""
    left, top, right, bottom = (int(pad) for pad in pads)
    height, width = region.shape[:2]
    mirrored = region
    for axis, (before, after) in enumerate(((top, bottom), (left, right))):
        index = _mirror(np.arange(-before, region.shape[axis] + after), region.shape[axis])
        mirrored = np.take(mirrored, index, axis=axis)

    def outward(length: int, before: int, after: int, fade_before: float, fade_after: float) -> np.ndarray:
        at = np.arange(-before, length + after, dtype=np.float32)
        ways = [np.full(len(at), -1.0, np.float32)]
        if before:
            ways.append(-at / fade_before)
        if after:
            ways.append((at - (length - 1)) / fade_after)
        return np.max(ways, axis=0)  # 0 at the photo's edge, 1 where only the median is left, negative inside

    across = outward(width, left, right, fades[0], fades[2])
    down = outward(height, top, bottom, fades[1], fades[3])
    depth = np.maximum(down[:, None], across[None, :])

    image = Image.fromarray(np.ascontiguousarray(mirrored))
    blurred = image.filter(ImageFilter.GaussianBlur(blur_px))
    median = np.median(mirrored[::4, ::4].reshape(-1, 3), axis=0).round().astype(int)
    image.paste(blurred, mask=_weights(3 * depth + 1))
    image.paste(tuple(int(value) for value in median), mask=_weights(depth))
    return np.array(image)


def _mirror(index: np.ndarray, length: int) -> np.ndarray:
    """Reflects indices into [0, length), edge pixels not repeated, as often as it takes."""
    period = max(2 * (length - 1), 1)
    index = index % period
    return np.minimum(index, period - index) if length > 1 else np.zeros_like(index)


def _weights(values: np.ndarray) -> Image.Image:
    return Image.fromarray((np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8))


def paste_face(
    frame: np.ndarray,
    crop: Tensor,
    face: Face,
    *,
    mask: str | np.ndarray = "face",
    opacity: float = 1.0,
    in_place: bool = False,
) -> np.ndarray:
    """The frame with the crop (3, N, N) in the face's place, through the feathered mask "face", "head" or "crop", or
    one of our own (MASK_SIZE, MASK_SIZE).

    Pixels outside the mask keep their very bytes. With `in_place` the given array is changed. A crop much finer than
    the frame is antialiased. Raises UsageError for an unknown mask.
    """
    frame = frame if in_place and frame.flags.writeable else frame.copy()
    crop_from_photo = face.crop_from_photo
    unit_mask = (
        draw_mask(mask, transform(crop_from_photo, face.points.astype(np.float64))) if isinstance(mask, str) else mask
    )
    bounds = _region_under(unit_mask, np.linalg.inv(crop_from_photo), frame.shape)
    if bounds is None or opacity <= 0:
        return frame
    x1, y1, x2, y2 = bounds

    side = crop_side_px(crop_from_photo)
    fine_enough = math.ceil(PASTE_OVERSAMPLING * side)
    if crop.shape[-1] > fine_enough:
        source = _planes(resize(from_tensor(crop), fine_enough, fine_enough))
    else:
        source = to_levels(crop).cpu()[None]

    to_grid = np.array([[2.0, 0, -1], [0, 2, -1], [0, 0, 1]])
    grid = _grid(to_grid @ crop_from_photo, np.arange(x1, x2), np.arange(y1, y2))
    weights = grid_sample(
        torch.from_numpy(unit_mask)[None, None], grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )[0]
    if opacity < 1:
        weights.mul_(opacity)
    if side <= crop.shape[-1] < NEARLY_AS_FINE * side and not _middle_is_new(frame, crop, crop_from_photo):
        changed = _changed(frame, crop, crop_from_photo)[None, None]
        weights.mul_(grid_sample(changed, grid, mode="bilinear", padding_mode="border", align_corners=False)[0])
    # The crop's edge goes on as far as samples within read. What lies beyond is hidden, and zeros take less time.
    grid.mul_(source.shape[-1] / (source.shape[-1] + 2 * BEYOND))
    source = pad(source, [BEYOND] * 4, mode="replicate")
    warped = grid_sample(source, grid, mode="bicubic", padding_mode="zeros", align_corners=False)[0]

    region = frame[y1:y2, x1:x2]
    before = region.transpose(2, 0, 1).astype(np.float32, order="C")
    blended = warped.clamp_(0, 255).numpy()
    blended -= before
    blended *= weights.numpy()  # 0 keeps the value exactly
    blended += before
    for channel, plane in enumerate(np.rint(blended, out=blended).astype(np.uint8)):
        region[..., channel] = plane  # all three in one go would take four times as long
    return frame


def part_shown(face: Face, size: int, mask: str = "face") -> tuple[int, int, int, int]:
    """The part (left, top, right, bottom; px) of a crop of `size` px beyond which a paste through the outline reads
    nothing, in steps of a thirty-second of its side."""
    drawn = draw_mask(mask, transform(face.crop_from_photo, face.points.astype(np.float64)))
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    if not len(rows):
        return (0, 0, size, size)
    # Two interpolations read around what the mask covers, the one that shrinks the crop and the one that turns it
    pasted = min(size, math.ceil(PASTE_OVERSAMPLING * face.crop_side_px))
    margin = 1 / MASK_SIZE + 2 * BEYOND / pasted
    low = np.array([columns[0], rows[0]]) / MASK_SIZE - margin
    high = np.array([columns[-1] + 1, rows[-1] + 1]) / MASK_SIZE + margin
    steps = np.concatenate([np.floor(low * PARTS), np.ceil(high * PARTS)]).clip(0, PARTS)
    left, top, right, bottom = (int(step) for step in steps * size // PARTS)
    return left, top, right, bottom


def add_tint(frame: np.ndarray, tint: np.ndarray, unit_from_photo: np.ndarray, opacity: float = 1.0) -> None:
    """Adds `tint` (3, N, N), in steps of 255, to the frame's pixels under the unit square, in place."""
    reach = np.abs(tint).max(0) >= 0.5  # less rounds to nothing
    bounds = _region_under(reach, np.linalg.inv(unit_from_photo), frame.shape)
    if bounds is None or opacity <= 0:
        return
    x1, y1, x2, y2 = bounds
    to_grid = np.array([[2.0, 0, -1], [0, 2, -1], [0, 0, 1]])
    grid = _grid(to_grid @ unit_from_photo, np.arange(x1, x2), np.arange(y1, y2))
    gained = grid_sample(torch.from_numpy(tint)[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    region = frame[y1:y2, x1:x2]
    for channel, gain in enumerate(gained[0].mul_(opacity).numpy()):
        region[..., channel] = np.rint((gain + region[..., channel]).clip(0, 255)).astype(np.uint8)


def _middle_is_new(frame: np.ndarray, crop: Tensor, crop_from_photo: np.ndarray) -> bool:
    """Whether the middle of the crop, an eighth of its side, is changed throughout: a restyled face, which need not be
    compared pixel by pixel, at twice the cost of pasting it."""
    size = crop.shape[-1]
    part = max(1, size // 8)
    start = (size - part) // 2
    part_from_crop = np.array([[size / part, 0, -start / part], [0, size / part, -start / part], [0, 0, 1]])
    middle = crop[:, start : start + part, start : start + part]
    return bool(_changed(frame, middle, part_from_crop @ crop_from_photo).mean() > 0.9)


def _changed(frame: np.ndarray, crop: Tensor, crop_from_photo: np.ndarray) -> Tensor:
    """Where the crop differs from what the frame holds there: (N, N) in [0, 1]."""
    difference = (crop.detach().float().cpu() - crop_face(frame, crop_from_photo, crop.shape[-1])).abs().amax(0)
    return difference.sub_(UNCHANGED).div_(CHANGED - UNCHANGED).clamp_(0, 1)


def _region_under(unit_mask: np.ndarray, photo_from_crop: np.ndarray, shape: tuple) -> tuple[int, int, int, int] | None:
    """The frame's pixels (x1, y1, x2, y2) that the mask can reach; None where it reaches none."""
    rows, columns = np.flatnonzero(unit_mask.any(1)), np.flatnonzero(unit_mask.any(0))
    if not len(rows):
        return None
    left, right, top, bottom = columns[0] - 1, columns[-1] + 2, rows[0] - 1, rows[-1] + 2
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]]) / len(unit_mask)
    (left, top), (right, bottom) = _bounds(transform(photo_from_crop, corners))
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(right + 1, shape[1]), min(bottom + 1, shape[0])
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _bounds(points: np.ndarray, margin: float = 0.0) -> tuple[tuple[int, int], tuple[int, int]]:
    """The lowest and the highest whole (x, y) around all points and a margin."""
    x, y = points.T.tolist()  # of a few points, that is faster than by numpy
    low = math.floor(min(x) - margin), math.floor(min(y) - margin)
    return low, (math.ceil(max(x) + margin), math.ceil(max(y) + margin))


def _grid(matrix: np.ndarray, x: np.ndarray, y: np.ndarray) -> Tensor:
    """grid_sample's grid (1, len(y), len(x), 2): every (x, y) through the affine `matrix`."""
    x_axis, y_axis, origin = (complex(*matrix[:2, column]) for column in range(3))  # x and y are floats of one number
    points = (x_axis * x).astype(np.complex64) + (y_axis * y + origin).astype(np.complex64)[:, None]
    return torch.from_numpy(points.view(np.float32).reshape(1, len(y), len(x), 2))


def _planes(pixels: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) to float32 (1, 3, H, W) in [0, 255]."""
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32, order="C"))[None]


def resize(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """uint8 (H, W, 3) to (height, width, 3), bicubic, antialiased. A view: each channel lies by itself."""
    tensor = torch.from_numpy(np.require(pixels, requirements=["W"])).movedim(-1, 0)[None]
    resized = interpolate(tensor, size=(height, width), mode="bicubic", antialias=True, align_corners=False)
    return resized[0].movedim(0, -1).numpy()
