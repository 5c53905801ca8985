"""How a face moved from one frame to the next, to a few hundredths of a pixel: by its pixels, not by its landmarks.

Landmarks tell where a face is to about a pixel, each frame anew; between two frames that shows as trembling. The pixels
themselves tell how far it moved much better. Matrices are (3, 3) similarities between pixel coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from dualstylegan.faces.face import crop_side_px, transform

# The part of the unit crop that moves as the skull does: brows to upper lip. The mouth and the jaw move by themselves.
PART = (0.24, 0.30, 0.76, 0.72)  # left, top, right, bottom
GRID = (52, 42)  # points across and down that are compared
COARSE = 2  # the first look takes every second point, and smooths as much: it reaches twice as far
STEPS = 12
SMALL_STEP = 0.01  # px of the grid: more precision would not show
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


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
    side = crop_side_px(crop_from_before)
    grid_from_before = _grid_from_crop() @ crop_from_before
    after_from_grid = guess @ np.linalg.inv(grid_from_before)
    pixel = (PART[2] - PART[0]) * side / GRID[0]  # between two points of the grid, px of the frame
    first = _Region(before, np.linalg.inv(grid_from_before), pixel)
    second = _Region(after, after_from_grid, pixel)

    for step, blur in ((2 * COARSE, 2.0 * COARSE), (COARSE, 1.0 * COARSE), (1, 0.8)):
        points = _grid(step)
        template = first.sample(np.linalg.inv(grid_from_before), points, blur)
        columns = _columns(template, points, step)
        for _ in range(STEPS):
            seen = second.sample(after_from_grid, points, blur)
            delta = _solve(columns, (seen - template).ravel())
            a, b, x, y = delta[:4]
            change = np.array([[1 + a, -b, x], [b, 1 + a, y], [0, 0, 1.0]])
            after_from_grid = after_from_grid @ np.linalg.inv(change)
            if abs(x) + abs(y) + (abs(a) + abs(b)) * GRID[0] / 2 < SMALL_STEP * step:
                break
    seen = second.sample(after_from_grid, points, blur)
    return Motion(after_from_grid @ grid_from_before, _correlation(template, seen))


def _solve(columns: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Least squares, twice: the second time large errors count less (Geman and McClure)."""
    delta = np.linalg.lstsq(columns.T @ columns, columns.T @ error, rcond=1e-9)[0]
    left = error - columns @ delta
    scale = 2 * 1.48 * np.median(np.abs(left)) + 1e-3
    weighted = columns * (1 / (1 + (left / scale) ** 2) ** 2)[:, None]
    return np.linalg.lstsq(weighted.T @ columns, weighted.T @ error, rcond=1e-9)[0]


def _columns(template: np.ndarray, points: np.ndarray, step: float) -> np.ndarray:
    """What the template changes by, per unit of growth, turn, x, y, gain and offset: (n, 6)."""
    down, across = (gradient.ravel() / step for gradient in np.gradient(template))
    u, v = points.reshape(-1, 2).T
    return np.stack([across * u + down * v, down * u - across * v, across, down, template.ravel(),
                     np.ones(len(u), np.float32)], 1)  # fmt: skip


def _grid(step: int) -> np.ndarray:
    """(rows, columns, 2): points of the grid, its middle at (0, 0)."""
    x, y = (np.arange(0, count, step, dtype=np.float32) for count in GRID)
    return np.stack(np.meshgrid(x - x.mean(), y - y.mean()), -1)


def _grid_from_crop() -> np.ndarray:
    left, top, right, bottom = PART
    scale = GRID[0] / (right - left)
    matrix = np.diag([scale, scale, 1.0])
    matrix[:2, 2] = -scale * (left + right) / 2, -scale * (top + bottom) / 2
    return matrix


class _Region:
    """The brightness of a frame around a face, float32, at about the resolution of the grid."""

    def __init__(self, frame: np.ndarray, frame_from_grid: np.ndarray, pixel: float):
        reach = np.array(GRID) * 0.5 + max(GRID) * 0.35
        corners = transform(frame_from_grid, np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * reach)
        height, width = frame.shape[:2]
        self.shrink = max(1, int(pixel))
        self.low = np.clip(np.floor(corners.min(0)).astype(int), 0, (width - self.shrink, height - self.shrink))
        high = np.clip(np.ceil(corners.max(0)).astype(int) + 1, self.low + self.shrink, (width, height))
        (columns, rows) = (high - self.low) // self.shrink
        region = frame[
            self.low[1] : self.low[1] + rows * self.shrink, self.low[0] : self.low[0] + columns * self.shrink
        ]
        blocks = region.reshape(rows, self.shrink, columns, self.shrink, 3)
        self.brightness = blocks.mean((1, 3), dtype=np.float32) @ LUMA
        self.per_grid = pixel / self.shrink  # its pixels per step of the grid
        self._blurred: dict[float, np.ndarray] = {}

    def sample(self, frame_from_grid: np.ndarray, points: np.ndarray, blur: float) -> np.ndarray:
        if blur not in self._blurred:
            self._blurred[blur] = gaussian_filter(self.brightness, blur * self.per_grid, mode="nearest")
        picture = self._blurred[blur]
        at = (transform(frame_from_grid, points) - self.low - (self.shrink - 1) / 2) / self.shrink
        return map_coordinates(picture, (at[..., 1], at[..., 0]), order=1, mode="nearest")


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-6))
