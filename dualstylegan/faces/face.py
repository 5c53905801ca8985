"""A face in a picture. Points are (x, y) in source pixels, pixel centres at integers, origin top left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dualstylegan.errors import UsageError

JAW, LEFT_EYE, RIGHT_EYE = slice(0, 17), slice(36, 42), slice(42, 48)  # left and right as the viewer sees them
LEFT_BROW, RIGHT_BROW, NOSE_BASE = slice(17, 22), slice(22, 27), 33
LEFT_MOUTH, RIGHT_MOUTH = 48, 54
_MIDDLES = np.zeros((3, 68))  # of the left eye's points, the right eye's, and the corners of the mouth
_MIDDLES[0, LEFT_EYE] = _MIDDLES[1, RIGHT_EYE] = 1 / 6
_MIDDLES[2, [LEFT_MOUTH, RIGHT_MOUTH]] = 1 / 2

# The box of a face found by its landmarks, in the unit crop: what a Haar detector would have drawn, fitted to its boxes
# of 1,185 portraits.
BOX_CENTER = (0.5, 0.547)
BOX_SIDE = 0.67
DUPLICATE_OVERLAP = 0.4  # intersection over union of two faces' boxes above which they are the same face


class Similarity(NamedTuple):
    """p -> turn * p + shift, with points as complex numbers: a (3, 3) `matrix` for who has many to deal with."""

    turn: complex
    shift: complex

    @classmethod
    def of(cls, matrix: np.ndarray) -> Similarity:
        (a, _, x), (b, _, y), _ = matrix.tolist()
        return cls(complex(a, b), complex(x, y))

    @property
    def matrix(self) -> np.ndarray:
        a, b = self.turn.real, self.turn.imag
        return np.array([[a, -b, self.shift.real], [b, a, self.shift.imag], [0, 0, 1]])

    @property
    def inverse(self) -> Similarity:
        return Similarity(1 / self.turn, -self.shift / self.turn)

    def __matmul__(self, first: Similarity) -> Similarity:
        return Similarity(self.turn * first.turn, self.turn * first.shift + self.shift)

    def __call__(self, point: complex) -> complex:
        return self.turn * point + self.shift


IDENTITY = Similarity(1.0 + 0j, 0j)


@dataclass
class Face:
    """`points` (68, 2) float32 in iBUG order, `box` (x1, y1, x2, y2), `score` in [0, 1], `embedding` (128,) or None.

    `matrix` overrides the crop that follows from the points.
    """

    points: np.ndarray
    box: np.ndarray
    score: float = 1.0
    embedding: np.ndarray | None = None
    matrix: np.ndarray | None = None

    @classmethod
    def from_points(cls, points: np.ndarray, score: float = 1.0) -> Face:
        """A face whose box is drawn from its landmarks. Raises UsageError where they make no face."""
        points = np.asarray(points, dtype=np.float32)
        return cls(points, box_around(points), float(score))

    @property
    def crop_from_photo(self) -> np.ndarray:
        """(3, 3) float64: source pixels to the unit crop, as FFHQ aligns."""
        return ffhq_matrix(self.points) if self.matrix is None else self.matrix

    @property
    def photo_from_crop(self) -> np.ndarray:
        return np.linalg.inv(self.crop_from_photo)

    @property
    def width(self) -> float:
        """The box's width, px."""
        return float(self.box[2] - self.box[0])

    @property
    def crop_side_px(self) -> float:
        """How many source pixels the side of the aligned crop spans."""
        return crop_side_px(self.crop_from_photo)


def ffhq_matrix(points: np.ndarray) -> np.ndarray:
    """The similarity from source pixels to the unit crop, (3, 3) float64, from 68 points.

    FFHQ's crop (Karras et al. 2019): upright along the mean of the eye line and the eyes-to-mouth line turned by 90°,
    a side of 4 eye distances or 3.6 eye-to-mouth distances, whichever is larger, its centre a tenth of the way from
    the eyes to the mouth. Raises UsageError where eyes and mouth coincide.
    """
    middles = _MIDDLES @ np.asarray(points, dtype=np.float64)
    left, right, mouth = (complex(x, y) for x, y in middles.tolist())  # in films numpy's calls would add up
    eyes, eye_to_eye = (left + right) / 2, right - left
    eye_to_mouth = mouth - eyes

    across = eye_to_eye - 1j * eye_to_mouth
    length = abs(across)
    side = max(4.0 * abs(eye_to_eye), 3.6 * abs(eye_to_mouth))
    if not (math.isfinite(length) and length > 1e-6 and side > 1e-6):
        raise UsageError("These landmarks are no face: its eyes and its mouth lie in one point.")
    turn = across.conjugate() / length / side
    return Similarity(turn, 0.5 + 0.5j - turn * (eyes + 0.1 * eye_to_mouth)).matrix


def mouth_opening(points: np.ndarray) -> np.ndarray:
    """How far mouths are open: the gap between the lips in mouth widths, of landmarks (..., 68, 2). (...,)"""
    points = np.asarray(points, np.float64)
    gap = np.linalg.norm(points[..., 61:64, :] - points[..., 67:64:-1, :], axis=-1).mean(-1)
    return gap / np.linalg.norm(points[..., RIGHT_MOUTH, :] - points[..., LEFT_MOUTH, :], axis=-1).clip(1e-6)


def box_around(points: np.ndarray) -> np.ndarray:
    """The face's box (x1, y1, x2, y2), float32, square and upright in the picture, from its 68 points."""
    photo_from_crop = np.linalg.inv(ffhq_matrix(points))
    center = transform(photo_from_crop, np.array(BOX_CENTER))
    half = BOX_SIDE / 2 * np.hypot(*photo_from_crop[:2, 0])
    return np.concatenate([center - half, center + half]).astype(np.float32)


def crop_side_px(crop_from_photo: np.ndarray) -> float:
    """How many source pixels the side of the unit crop spans."""
    (a, b), (c, d) = crop_from_photo[:2, :2].tolist()
    return 1 / math.sqrt(abs(a * d - b * c))


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 2) through an affine (3, 3)."""
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def without_duplicates(faces: Sequence[Face]) -> list[Face]:
    """One face where several lie on each other, the surest; sorted by score."""
    if not faces:
        return []
    boxes, scores = np.stack([face.box for face in faces]), np.array([face.score for face in faces])
    return [faces[index] for index in suppress(boxes, scores, DUPLICATE_OVERLAP)]


def suppress(
    boxes: np.ndarray, scores: np.ndarray, overlap: float, over_smaller: bool = False, most: int | None = None
) -> np.ndarray:
    """Non-maximum suppression: indices that stay, best score first, at most `most`.

    Of two boxes whose intersection over union (with `over_smaller`: over the smaller box) exceeds `overlap`, the
    better one stays.
    """
    order = np.argsort(-scores, kind="stable")
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    while len(order) and len(kept) != most:
        best, order = order[0], order[1:]
        kept.append(best)
        sides = np.minimum(boxes[best, 2:], boxes[order, 2:]) - np.maximum(boxes[best, :2], boxes[order, :2])
        shared = np.prod(np.maximum(sides, 0), axis=1)
        whole = np.minimum(areas[best], areas[order]) if over_smaller else areas[best] + areas[order] - shared
        order = order[shared <= overlap * whole]
    return np.array(kept, dtype=int)
