"""How a face moved from one frame to the next, to a few hundredths of a pixel: by its pixels, not by its landmarks.

Landmarks tell where a face is to about a pixel, each frame anew; between two frames that shows as trembling. The pixels
themselves tell how far it moved much better. Matrices are (3, 3) similarities between pixel coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from dualstylegan.faces.face import crop_side_px, transform

# The part of the unit crop that moves as the skull does: brows to upper lip. The mouth and the jaw move by themselves.
PART = (0.24, 0.30, 0.76, 0.72)  # left, top, right, bottom
GRID = (52, 42)  # points across and down that are compared
LEVELS = (4, 2, 1)  # first only every fourth point, in a picture as coarse: that reaches four times as far
BLUR = 0.8  # standard deviation, in points of the grid
REACH = 18  # points around the grid that are at hand
STEPS = 12
SMALL_STEP = 0.01  # points of the grid: more precision would not show
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
    spacing = (PART[2] - PART[0]) * crop_side_px(crop_from_before) / GRID[0]  # px of the frame
    before_from_grid = np.linalg.inv(_grid_from_crop() @ crop_from_before)
    after_from_grid = guess @ before_from_grid
    first, second = _Region(before, before_from_grid, spacing), _Region(after, after_from_grid, spacing)

    for level in LEVELS:
        points = _grid(level)
        template = first.sample(before_from_grid, points, level)
        columns = _columns(template, points, level)
        for _ in range(STEPS):
            error = second.sample(after_from_grid, points, level) - template
            a, b, x, y = _solve(columns, error.ravel())
            if not abs(a) + abs(b) <= MOST_CHANGE:
                break
            after_from_grid = after_from_grid @ np.linalg.inv([[1 + a, -b, x], [b, 1 + a, y], [0, 0, 1]])
            if abs(x) + abs(y) + (abs(a) + abs(b)) * GRID[0] / 2 < SMALL_STEP * level * level:
                break
    seen = second.sample(after_from_grid, points, level)
    return Motion(after_from_grid @ np.linalg.inv(before_from_grid), _correlation(template, seen))


def _solve(columns: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Growth, turn, x and y by least squares, with less weight on large errors (Geman and McClure 1985)."""
    left = np.abs(error - np.median(error))
    scale = 3 * np.median(left) + 1e-3  # twice the standard deviation of what is not too far out
    weighted = columns * (1 / (1 + (left / scale) ** 2) ** 2)[:, None]
    normal = weighted.T @ columns
    normal[np.diag_indices(len(normal))] += 1e-6 * np.trace(normal) / len(normal)  # a face without any detail
    return np.linalg.solve(normal, weighted.T @ error)[:4]


def _columns(template: np.ndarray, points: np.ndarray, spacing: float) -> np.ndarray:
    """What the template changes by, per unit of growth, turn, x, y, gain and offset: (n, 6)."""
    down, across = (gradient.ravel() / spacing for gradient in np.gradient(template))
    u, v = points
    brightness = template.ravel() - template.mean()
    return np.stack([across * u + down * v, down * u - across * v, across, down, brightness, np.ones_like(u)], 1)


def _grid(level: int) -> np.ndarray:
    """(2, n): x and y of every `level`-th point of the grid, row by row, their middle at 0."""
    x, y = (np.arange(0, count, level, dtype=np.float64) for count in GRID)
    return np.stack(np.meshgrid(x - x.mean(), y - y.mean())).reshape(2, -1)


def _grid_from_crop() -> np.ndarray:
    left, top, right, bottom = PART
    scale = GRID[0] / (right - left)
    matrix = np.diag([scale, scale, 1.0])
    matrix[:2, 2] = -scale * (left + right) / 2, -scale * (top + bottom) / 2
    return matrix


class _Region:
    """The brightness of a frame around a face, at the resolutions of the grid's levels."""

    def __init__(self, frame: np.ndarray, frame_from_grid: np.ndarray, spacing: float):
        height, width = frame.shape[:2]
        corners = transform(
            frame_from_grid, np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (np.array(GRID) / 2 + REACH)
        )
        self.low = np.clip(np.floor(corners.min(0)).astype(int), 0, (width - 1, height - 1))
        high = np.clip(np.ceil(corners.max(0)).astype(int) + 1, self.low + 1, (width, height))
        region = np.ascontiguousarray(frame[self.low[1] : high[1], self.low[0] : high[0]])
        self.image = Image.fromarray(region).convert("L")
        self.spacing = spacing
        self._levels: dict[int, tuple[np.ndarray, int]] = {}

    def sample(self, frame_from_grid: np.ndarray, points: np.ndarray, level: int) -> np.ndarray:
        """Brightness, float32 (rows, columns), at points (2, n) of a level's grid."""
        if level not in self._levels:
            self._levels[level] = self._at_level(level)
        picture, shrink = self._levels[level]
        turn, shift = frame_from_grid[:2, :2], frame_from_grid[:2, 2] - self.low - (shrink - 1) / 2
        x, y = (turn @ points + shift[:, None]) / shrink
        return map_coordinates(picture, (y, x), order=1, mode="nearest").reshape(-(-GRID[1] // level), -1)

    def _at_level(self, level: int) -> tuple[np.ndarray, int]:
        """The picture, and how many px of the frame each of its pixels spans: one to two in the grid's spacing."""
        shrink = max(1, int(self.spacing * level))
        picture = np.asarray(self.image.reduce(shrink) if shrink > 1 else self.image, np.float32)
        return gaussian_filter(picture, BLUR * self.spacing * level / shrink, mode="nearest", truncate=3), shrink


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-6))
