"""How a face moved from one frame to the next, to a few hundredths of a pixel: by its pixels, not by its landmarks.

Landmarks tell where a face is to about a pixel, each frame anew; between two frames that shows as trembling. The pixels
themselves tell how far it moved much better. Matrices are (3, 3) similarities between pixel coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from dualstylegan.faces.face import Similarity, crop_side_px

# The part of the unit crop that moves as the skull does: brows to upper lip. The mouth and the jaw move by themselves.
PART = (0.24, 0.30, 0.76, 0.72)  # left, top, right, bottom
GRID = (52, 42)  # points across and down that are compared
LEVELS = (4, 1)  # first only every fourth point, in a picture as coarse: that reaches four times as far
BLUR = 0.8  # standard deviation, in points of a level's grid
REACH = 4.5  # points of a level's grid around it that are at hand
ALIKE = 0.1  # part by which a face may have grown and be compared with a picture made for its size before
STEPS = 12
SMALL_STEP = 0.008  # points of the grid: more precision would not show
CLOSE = 0.95  # agreement of what needs no better guess; other places of a face agree less
MOST_CHANGE = 0.5  # of size in one step; more is no motion but another picture


Box = tuple[float, float, float, float]  # left, top, right, bottom; px of the frame


@dataclass
class Motion:
    """`matrix` takes pixels of the frame before to this frame's. `agreement` is the correlation of what was compared,
    1 where the moved face looks the same."""

    matrix: np.ndarray
    agreement: float


def face_motion(before: GreyFrame, after: GreyFrame, crop_from_before: np.ndarray, guess: np.ndarray) -> Motion:
    """How the face at `crop_from_before` in one frame got into the next; `guess` may be wrong by about a sixth of the
    face's width. Inverse compositional alignment (Baker and Matthews 2004) of brightness, whatever its gain and offset,
    with less weight on what does not fit: an eye that closes, a hand."""
    motion = _align(before, after, crop_from_before, guess, LEVELS[-1:])
    if motion.agreement < CLOSE:  # only a guess that is far off needs the coarse look first
        motion = _align(before, after, crop_from_before, guess, LEVELS)
    return motion


class GreyFrame:
    """A frame, uint8 (H, W, 3) RGB, and the pictures of its faces' brightness. They are kept: where a face has got to
    in one frame is where it comes from in the next."""

    def __init__(self, frame: np.ndarray):
        self.frame = frame
        self._pictures: list[_Picture] = []

    def around(self, frame_from_grid: Similarity, spacing: float, level: int, margin: float = 0.0) -> _Picture:
        """A picture that holds the grid, whose points are `spacing` px apart, and `margin` points of it around."""
        middle, turn = frame_from_grid.shift, frame_from_grid.turn
        across, down = (count / 2 + margin for count in GRID)
        half_width = abs(turn.real) * across + abs(turn.imag) * down
        half_height = abs(turn.imag) * across + abs(turn.real) * down
        box = middle.real - half_width, middle.imag - half_height, middle.real + half_width, middle.imag + half_height
        for picture in self._pictures:
            if picture.suits(box, spacing, level):
                return picture
        self._pictures.append(_Picture(self.frame, box, spacing, level))
        return self._pictures[-1]


def _align(
    before: GreyFrame, after: GreyFrame, crop_from_before: np.ndarray, guess: np.ndarray, levels: Sequence[int]
) -> Motion:
    spacing = (PART[2] - PART[0]) * crop_side_px(crop_from_before) / GRID[0]  # px of the frame
    before_from_grid = (_grid_from_crop() @ Similarity.of(crop_from_before)).inverse
    after_from_grid = Similarity.of(guess) @ before_from_grid

    for level in levels:
        second = after.around(after_from_grid, spacing, level, margin=REACH * level)
        template = before.around(before_from_grid, spacing, level).sample(before_from_grid)
        rows = _equations(template, level)
        for _ in range(STEPS):
            seen = second.sample(after_from_grid)
            np.subtract(seen, template, out=rows[-1])
            growth, shift = _solve(rows.reshape(len(rows), -1))
            if not abs(growth) <= MOST_CHANGE:
                break
            after_from_grid = after_from_grid @ Similarity(1 + growth, shift).inverse
            if abs(shift) + abs(growth) * GRID[0] / 2 < SMALL_STEP * level * level:
                break
    return Motion((after_from_grid @ before_from_grid.inverse).matrix, _correlation(template, seen))


def _solve(rows: np.ndarray) -> tuple[complex, complex]:
    """Growth with turn, and shift, by least squares, with less weight on large errors (Geman and McClure 1985). `rows`
    (7, n) are those of _equations."""
    error = rows[-1]
    left = np.abs(error - _median(error))
    scale = 3 * _median(left) + 1e-3  # twice the standard deviation of what is not too far out
    weighted = rows[:-1] / np.square(1 + np.square(left / scale))
    products = (weighted @ rows.T).astype(np.float64)  # as one, small enough for BLAS to stay on one core
    normal, right = products[:, :-1], products[:, -1]
    normal[np.diag_indices(len(normal))] += 1e-6 * np.trace(normal) / len(normal)  # a face without any detail
    a, b, x, y, *_ = np.linalg.solve(normal, right).tolist()
    return complex(a, b), complex(x, y)


def _median(values: np.ndarray) -> np.float32:
    """Of every third value, and of an even number the upper one in the middle: np.median takes ten times as long."""
    some = values[::3]
    return np.partition(some, len(some) // 2)[len(some) // 2]


def _equations(template: np.ndarray, level: int) -> np.ndarray:
    """What the template changes by, per unit of growth, turn, x, y, gain and offset, and room for the errors: float32
    (7, rows, columns)."""
    down, across = np.gradient(template, level)
    x, y = _grid(level)
    rows = np.empty((7, *template.shape), np.float32)
    rows[0] = across * x + down * y
    rows[1] = down * x - across * y
    rows[2], rows[3] = across, down
    rows[4] = template - template.mean()
    rows[5] = 1
    return rows


@cache
def _grid(level: int) -> tuple[np.ndarray, np.ndarray]:
    """x (columns,) and y (rows, 1) of every `level`-th point of the grid, the middle at 0."""
    along = (np.arange(0, count, level, dtype=np.float32) for count in GRID)
    x, y = (at - at.mean() for at in along)
    return x, y[:, None]


class _Picture:
    """The brightness of a frame in a box, as coarse as a level's grid, whose points are `spacing` * `level` px apart.
    Each of its own pixels spans half of that to all of it."""

    def __init__(self, frame: np.ndarray, box: Box, spacing: float, level: int):
        self._box, self._spacing, self._level = box, spacing, level
        self._shrink = max(1, int(spacing * level))
        blur = BLUR * spacing * level / self._shrink
        beyond = self._shrink * (1 + math.ceil(3 * blur))  # px that come in by the blur, and by interpolation
        left, top = (math.floor(edge) - beyond for edge in box[:2])
        right, bottom = (math.ceil(edge) + beyond + 1 for edge in box[2:])
        height, width = frame.shape[:2]
        if left >= 0 and top >= 0 and right <= width and bottom <= height:
            region = frame[top:bottom, left:right]
        else:  # the frame's edge goes on for ever
            rows, columns = np.arange(top, bottom).clip(0, height - 1), np.arange(left, right).clip(0, width - 1)
            region = frame[rows[:, None], columns]
        self._first = complex(left, top) + (self._shrink - 1) * (0.5 + 0.5j)  # the middle of its first pixel
        image = Image.fromarray(region).convert("L")
        coarse = np.asarray(image.reduce(self._shrink) if self._shrink > 1 else image, np.float32)
        self._image = Image.fromarray(gaussian_filter(coarse, blur, mode="nearest", truncate=3))

    def suits(self, box: Box, spacing: float, level: int) -> bool:
        """Whether it holds what is asked for, about as coarse."""
        (left, top, right, bottom), own = box, self._box
        inside = own[0] <= left and own[1] <= top and right <= own[2] and bottom <= own[3]
        return inside and self._level == level and abs(spacing / self._spacing - 1) < ALIKE

    def sample(self, frame_from_grid: Similarity) -> np.ndarray:
        """Brightness, float32 (rows, columns), at the points of the level's grid."""
        x, y = _grid(self._level)
        first = (frame_from_grid(complex(x[0], y[0, 0])) - self._first) / self._shrink
        step = frame_from_grid.turn * self._level / self._shrink
        first += (0.5 + 0.5j) * (1 - step)  # Pillow counts pixels from their edges, here and there
        matrix = step.real, -step.imag, first.real, step.imag, step.real, first.imag
        size = x.size, y.size
        return np.asarray(self._image.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-6))


@cache
def _grid_from_crop() -> Similarity:
    left, top, right, bottom = PART
    scale = GRID[0] / (right - left)
    return Similarity(complex(scale), -scale * complex(left + right, top + bottom) / 2)
