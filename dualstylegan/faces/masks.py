"""Which part of the aligned crop replaces the photo: feathered masks, drawn in the unit crop."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from dualstylegan.choices import MASKS, check_choice
from dualstylegan.faces.face import JAW, LEFT_BROW, NOSE_BASE, RIGHT_BROW

MASK_SIZE = 128  # px; every edge is soft, so bilinear enlargement shows no steps
FINER = 2  # outlines are drawn so many times as fine, so that they move by less than a pixel
FEATHER = {"face": 0.022, "head": 0.035, "crop": 0.0}  # standard deviation of the soft edge, unit crop
CROP_EDGE = {"face": 0.06, "head": 0.09, "crop": 0.12}  # over which every mask falls to nothing at the crop's edges


def draw_mask(kind: str, points: np.ndarray) -> np.ndarray:
    """Opacity (MASK_SIZE, MASK_SIZE), float32 in [0, 1], of the unit crop; 0 along its edges.

    `points` (68, 2) are the landmarks in the unit crop. face: jaw and forehead. head: room for hair, ears and heads
    whose outline changes. crop: everything, with soft edges. Raises UsageError for another kind.
    """
    check_choice("mask", kind, MASKS)
    if kind == "crop":
        return _crop_edges(kind).copy()
    outline = face_outline(points) if kind == "face" else head_outline(points)
    canvas = Image.new("L", (FINER * MASK_SIZE, FINER * MASK_SIZE))
    ImageDraw.Draw(canvas).polygon((outline * FINER * MASK_SIZE - 0.5).ravel().tolist(), fill=255)
    blurred = canvas.reduce(2 * FINER).filter(ImageFilter.GaussianBlur(FEATHER[kind] * MASK_SIZE / 2))
    mask = blurred.resize((MASK_SIZE, MASK_SIZE), Image.Resampling.BICUBIC)  # what is blurred needs half the pixels
    return np.multiply(np.asarray(mask), _crop_edges(kind) / 255, dtype=np.float32)


def face_outline(points: np.ndarray) -> np.ndarray:
    """Polygon (n, 2): along the jaw, a little outside it, then over the forehead in half an ellipse."""
    center, up, _ = _frame(points)
    jaw = points[JAW] + 0.03 * (points[JAW] - center)
    brows = (points[LEFT_BROW].mean(0) + points[RIGHT_BROW].mean(0)) / 2
    height = np.dot(brows - center, up) + 0.8 * np.dot(brows - points[NOSE_BASE], up)  # forehead: 0.8 of brow to nose
    right, left = jaw[-1], jaw[0]
    middle, half = (left + right) / 2, (right - left) / 2
    rise = (np.dot(center - middle, up) + height) * up
    angles = np.linspace(0, np.pi, 33)[1:-1, None]
    return np.concatenate([jaw, middle + np.cos(angles) * half + np.sin(angles) * rise])


def head_outline(points: np.ndarray) -> np.ndarray:
    """Polygon (n, 2): an egg around the head, from above the hair, or the crop's edge, to below the chin."""
    center, up, across = _frame(points)
    offsets = points[JAW] - center
    half_width = 1.3 * np.abs(offsets @ across).max()
    bottom = np.abs(np.minimum(offsets @ up, 0)).max() + 0.05
    room = center[1] / max(-up[1], 0.1)  # up to the crop's edge: cut off there, the egg would show corners
    top = min(max(1.9 * bottom, 0.6), room)
    return center + _EGG @ np.stack([half_width * across, top * up, bottom * up])


def _egg() -> np.ndarray:
    """(n, 3): how far across, up and down the points of a head's outline are, as parts of its size."""
    angles = np.linspace(0, 2 * np.pi, 97)[:-1]
    cosine, sine = np.cos(angles), np.sin(angles)
    rounder = np.sign(cosine) * np.abs(cosine) ** 0.8  # between an ellipse and a rectangle
    return np.stack([rounder, np.maximum(sine, 0), np.minimum(sine, 0)], 1)


_EGG = _egg()


def _frame(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The point between the temples, and the face's own unit vectors up and across (to the viewer's right)."""
    across = points[JAW][-1] - points[JAW][0]
    across = across / max(np.hypot(*across), 1e-6)
    return (points[0] + points[16]) / 2, np.array([across[1], -across[0]]), across


@cache
def _crop_edges(kind: str) -> np.ndarray:
    """How a mask of a kind falls to nothing at the crop's edges: (MASK_SIZE, MASK_SIZE) float32."""
    width = CROP_EDGE[kind]
    at = (np.arange(MASK_SIZE) + 0.5) / MASK_SIZE
    inside = np.clip((np.minimum(at, 1 - at) - at[0]) / width, 0, 1)  # the outermost pixels are exactly 0
    ramp = (inside**2 * (3 - 2 * inside)).astype(np.float32)
    return ramp[:, None] * ramp[None, :]
