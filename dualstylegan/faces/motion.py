"""How a face moved from one frame to the next, to a few hundredths of a pixel: by its pixels, not by its landmarks.

Landmarks tell where a face is to about a pixel, each frame anew; between two frames that shows as trembling. The pixels
themselves tell how far it moved much better. Matrices are (3, 3) similarities between pixel coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import affine_transform, gaussian_filter

from dualstylegan.faces.face import crop_side_px, transform

# The part of the unit crop that moves as the skull does: brows to upper lip. The mouth and the jaw move by themselves.
PART = (0.24, 0.30, 0.76, 0.72)  # left, top, right, bottom
GRID = (52, 42)  # points across and down that are compared
LEVELS = (4, 1)  # first only every fourth point, in a picture as coarse: that reaches four times as far
BLUR = 0.8  # standard deviation, in points of a level's grid
REACH = 4.5  # points of a level's grid around it that are at hand
STEPS = 12
SMALL_STEP = 0.01  # points of the grid: more precision would not show
CLOSE = 0.95  # agreement of what needs no better guess; other places of a face agree less
MOST_CHANGE = 0.5  # of size in one step; more is no motion but another picture


@dataclass
class Motion:
    """`matrix` takes pixels of the frame before to this frame's. `agreement` is the correlation of what was compared,
    1 where the moved face looks the same."""

    matrix: np.ndarray
    agreement: float


def face_motion(before: np.ndarray, after: np.ndarray, crop_from_before: np.ndarray, guess: np.ndarray) -> Motion:
    """How the face at `crop_from_before` in one frame, uint8 (H, W, 3) RGB, got into the next; `guess` may be wrong by
    about a sixth of the face's width. Inverse compositional alignment (Baker and Matthews 2004) of brightness, whatever
    its gain and offset, with less weight on what does not fit: an eye that closes, a hand."""
    motion = _align(before, after, crop_from_before, guess, LEVELS[-1:])
    if motion.agreement < CLOSE:  # only a guess that is far off needs the coarse look first
        motion = _align(before, after, crop_from_before, guess, LEVELS)
    return motion


def _align(
    before: np.ndarray, after: np.ndarray, crop_from_before: np.ndarray, guess: np.ndarray, levels: Sequence[int]
) -> Motion:
    spacing = (PART[2] - PART[0]) * crop_side_px(crop_from_before) / GRID[0]  # px of the frame
    before_from_grid = np.linalg.inv(_grid_from_crop() @ crop_from_before)
    after_from_grid = guess @ before_from_grid

    for level in levels:
        first = _Picture(before, before_from_grid, spacing, level)
        second = _Picture(after, after_from_grid, spacing, level)
        template = first.sample(before_from_grid)
        columns = _columns(template, level)
        for _ in range(STEPS):
            seen = second.sample(after_from_grid)
            a, b, x, y = _solve(columns, (seen - template).ravel())
            if not abs(a) + abs(b) <= MOST_CHANGE:
                break
            after_from_grid = after_from_grid @ np.linalg.inv([[1 + a, -b, x], [b, 1 + a, y], [0, 0, 1]])
            if abs(x) + abs(y) + (abs(a) + abs(b)) * GRID[0] / 2 < SMALL_STEP * level * level:
                break
    return Motion(after_from_grid @ np.linalg.inv(before_from_grid), _correlation(template, seen))


def _solve(columns: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Growth, turn, x and y by least squares, with less weight on large errors (Geman and McClure 1985)."""
    left = np.abs(error - _median(error))
    scale = 3 * _median(left) + 1e-3  # twice the standard deviation of what is not too far out
    weighted = columns / np.square(1 + np.square(left / scale))
    normal = (weighted @ columns.T).astype(np.float64)
    normal[np.diag_indices(len(normal))] += 1e-6 * np.trace(normal) / len(normal)  # a face without any detail
    return np.linalg.solve(normal, weighted @ error)[:4]


def _median(values: np.ndarray) -> np.float32:
    """Of an even number of values the upper one in the middle: np.median takes three times as long."""
    return np.partition(values, len(values) // 2)[len(values) // 2]


def _columns(template: np.ndarray, spacing: int) -> np.ndarray:
    """What the template changes by, per unit of growth, turn, x, y, gain and offset: float32 (6, n)."""
    down, across = np.gradient(template, spacing)
    u, v = (at.astype(np.float32) for at in np.meshgrid(*_grid(spacing)))
    brightness = template - template.mean()
    columns = across * u + down * v, down * u - across * v, across, down, brightness, np.ones_like(template)
    return np.stack(columns).reshape(6, -1)


def _grid(level: int) -> list[np.ndarray]:
    """x and y of every `level`-th point of the grid, the middle at 0."""
    along = (np.arange(0, count, level, dtype=np.float64) for count in GRID)
    return [at - at.mean() for at in along]


def _grid_from_crop() -> np.ndarray:
    left, top, right, bottom = PART
    scale = GRID[0] / (right - left)
    matrix = np.diag([scale, scale, 1.0])
    matrix[:2, 2] = -scale * (left + right) / 2, -scale * (top + bottom) / 2
    return matrix


class _Picture:
    """The brightness of a frame around a face, as coarse as a level's grid, whose points are `spacing` * `level` px
    apart. Each of its own pixels spans half of that to all of it."""

    def __init__(self, frame: np.ndarray, frame_from_grid: np.ndarray, spacing: float, level: int):
        height, width = frame.shape[:2]
        corners = transform(
            frame_from_grid, np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (np.array(GRID) / 2 + REACH * level)
        )
        self.low = np.clip(np.floor(corners.min(0)).astype(int), 0, (width - 1, height - 1))
        high = np.clip(np.ceil(corners.max(0)).astype(int) + 1, self.low + 1, (width, height))
        region = np.ascontiguousarray(frame[self.low[1] : high[1], self.low[0] : high[0]])
        self.level, self.grid, self.shrink = level, _grid(level), max(1, int(spacing * level))
        image = Image.fromarray(region).convert("L")
        coarse = np.asarray(image.reduce(self.shrink) if self.shrink > 1 else image, np.float32)
        self.pixels = gaussian_filter(coarse, BLUR * spacing * level / self.shrink, mode="nearest", truncate=3)

    def sample(self, frame_from_grid: np.ndarray) -> np.ndarray:
        """Brightness, float32 (rows, columns), at the points of the level's grid."""
        x, y = self.grid
        turn, shift = frame_from_grid[:2, :2], frame_from_grid[:2, 2] - self.low - (self.shrink - 1) / 2
        first = (turn @ (x[0], y[0]) + shift) / self.shrink
        matrix = turn[::-1, ::-1] * self.level / self.shrink  # of (y, x), as scipy's axes are
        size = len(y), len(x)
        return affine_transform(self.pixels, matrix, first[::-1], size, order=1, mode="nearest", prefilter=False)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-6))
