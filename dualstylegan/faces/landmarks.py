"""Sixty-eight landmarks of faces already found: two looks at each, the second cut by what the first one saw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dualstylegan.faces.crop import sample_crop
from dualstylegan.faces.face import LEFT_EYE, RIGHT_EYE, transform
from dualstylegan.networks.landmarks68 import INPUT_SIZE, LandmarkNet
from dualstylegan.runtime.threads import each_on_one_core

# iBUG indices of the mirrored face
MIRRORED = np.r_[
    16:-1:-1, 26:16:-1, 27:31, 35:30:-1, 45:41:-1, 47, 46, 39:35:-1, 41, 40, 54:47:-1, 59:54:-1, 64:59:-1, 67:64:-1
]
BATCH = 16

# Where the square that the network sees lies, fitted on photos with known pupils
FIRST_SIDE, FIRST_DOWN = 1.1, 0.05  # in sides of the detector's square box
SECOND_SIDE, SECOND_DOWN = 1.1, -0.05  # in the larger side of the first landmarks' own box

View = tuple[np.ndarray, np.ndarray]  # a picture and the crop_from_photo of the square to look at


def find_landmarks(net: LandmarkNet, pictures: Sequence[np.ndarray], five_points: Sequence[np.ndarray],
                   boxes: Sequence[np.ndarray]) -> list[np.ndarray]:  # fmt: skip
    """The landmarks (68, 2), float32, of one face in each picture, from a detector's five points (5, 2) and box."""
    first = [_square_of_box(box, points) for box, points in zip(boxes, five_points, strict=True)]
    seen = _look(net, list(zip(pictures, first, strict=True)))
    second = [_square_of_landmarks(points) for points, _ in seen]
    return [points for points, _ in _look(net, list(zip(pictures, second, strict=True)))]


def follow_landmarks(
    net: LandmarkNet, picture: np.ndarray, expected: Sequence[np.ndarray]
) -> list[tuple[np.ndarray, float]]:
    """The landmarks (68, 2), float32, of faces that lie about where `expected` (68, 2) do, in one look each, and how
    far the mirror image contradicts them, in sides of the square looked at: a face about 0.01, no face 0.07 and more.
    """
    return _look(net, [(picture, _square_of_landmarks(np.asarray(points, np.float64))) for points in expected])


def _look(net: LandmarkNet, views: list[View]) -> list[tuple[np.ndarray, float]]:
    """Each face and its mirror image through the network; the mean of both has no left or right bias. The points, and
    the mean distance of the two along each axis."""

    def look(views: list[View]) -> list[tuple[np.ndarray, float]]:
        crops = torch.stack([sample_crop(picture, matrix, INPUT_SIZE) for picture, matrix in views])
        plain, mirrored = net(torch.cat([crops, crops.flip(3)])).numpy().reshape(2, -1, 68, 2)
        mirrored = mirrored[:, MIRRORED] * (-1, 1) + (1, 0)
        apart = np.abs(plain - mirrored).mean((1, 2))
        return [
            (transform(np.linalg.inv(matrix), points).astype(np.float32), float(doubt))
            for points, doubt, (_, matrix) in zip((plain + mirrored) / 2, apart, views, strict=True)
        ]

    batches = [views[start : start + BATCH] for start in range(0, len(views), BATCH)]
    return [seen for batch in each_on_one_core(look, batches) for seen in batch]


def _square_of_box(box: np.ndarray, five: np.ndarray) -> np.ndarray:
    center, side = (box[:2] + box[2:]) / 2 - 0.5, (box[2:] - box[:2]).max()
    return _square(center, side * FIRST_SIDE, five[1] - five[0], FIRST_DOWN / FIRST_SIDE)


def _square_of_landmarks(points: np.ndarray) -> np.ndarray:
    eyes = points[RIGHT_EYE].mean(0) - points[LEFT_EYE].mean(0)
    axes = _upright(eyes)
    turned = points @ axes.T
    low, high = turned.min(0), turned.max(0)
    return _square((low + high) / 2 @ axes, (high - low).max() * SECOND_SIDE, eyes, SECOND_DOWN)


def _square(center: np.ndarray, side: float, eye_line: np.ndarray, down: float) -> np.ndarray:
    """crop_from_photo of the square whose upper edge runs along the eyes, shifted down by a part of its side."""
    turn = _upright(eye_line) / side
    matrix = np.eye(3)
    matrix[:2, :2] = turn
    matrix[:2, 2] = (0.5, 0.5 - down) - turn @ center
    return matrix


def _upright(eye_line: np.ndarray) -> np.ndarray:
    x, y = np.asarray(eye_line, np.float64) / max(np.hypot(*eye_line), 1e-6)
    return np.array([[x, y], [-y, x]])
