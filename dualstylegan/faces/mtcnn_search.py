"""Where the faces are: MTCNN's cascade over an image pyramid. All arrays are numpy, all work is on the CPU.

Boxes are (x1, y1, x2, y2) as Pillow has them: one that covers all of a W x H picture is (0, 0, W, H). Points are (x, y)
in source pixels, pixel centres at integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dualstylegan.networks.mtcnn import MTCNN, OUTPUT_SIZE, PROPOSAL_SIZE, PROPOSAL_STRIDE, REFINE_SIZE

PYRAMID_FACTOR = 0.709  # about half the area from one level to the next
THRESHOLDS = (0.6, 0.7, 0.8)  # scores that pass the three networks
MOST_PROPOSALS = 400  # a picture; more than that is texture, the best scores are kept


@dataclass
class Found:
    """Faces of one picture: boxes (n, 4), scores (n,), points (n, 5, 2): eyes, nose, mouth corners."""

    boxes: np.ndarray
    scores: np.ndarray
    points: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)


def search(nets: MTCNN, picture: Image.Image, min_face: float, thresholds=THRESHOLDS) -> Found:
    """Finds faces at least `min_face` px wide in an RGB picture."""
    base_scale = min(1.0, OUTPUT_SIZE / min_face)  # no network looks at more than 48 px of the smallest face
    base = resized(picture, base_scale)
    base_scale = base.width / picture.width

    boxes = _propose(nets, base, min_face * base_scale, thresholds[0])
    boxes = _refine(nets, base, boxes, thresholds[1])
    found = _finish(nets, base, boxes, thresholds[2])
    return Found(found.boxes / base_scale, found.scores, (found.points + 0.5) / base_scale - 0.5)


def resized(picture: Image.Image, scale: float) -> Image.Image:
    """The picture times `scale`, each pixel the weighted mean of what it covers."""
    if scale == 1:
        return picture
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    return picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _propose(nets: MTCNN, base: Image.Image, min_face: float, threshold: float) -> np.ndarray:
    all_boxes, all_scores = [np.zeros((0, 4))], [np.zeros(0)]
    scale, level = PROPOSAL_SIZE / min_face, base
    while min(base.size) * scale >= PROPOSAL_SIZE:
        size = tuple(max(PROPOSAL_SIZE, round(side * scale)) for side in base.size)
        level = level.resize(size, Image.Resampling.BILINEAR)
        probability, offsets = (x[0].numpy() for x in nets.pnet(_normal(np.asarray(level))[None]))
        rows, columns = np.nonzero(probability >= threshold)
        cells = np.stack([columns, rows], 1) * PROPOSAL_STRIDE
        shrink = np.array(base.size) / size
        windows = np.concatenate([cells * shrink, (cells + PROPOSAL_SIZE) * shrink], 1)
        scores = probability[rows, columns]
        kept = suppress(windows, scores, 0.5)
        all_boxes.append(_corrected(windows[kept], offsets[:, rows, columns].T[kept]))
        all_scores.append(scores[kept])
        scale *= PYRAMID_FACTOR
    boxes, scores = np.concatenate(all_boxes), np.concatenate(all_scores)
    return _squared(boxes[suppress(boxes, scores, 0.7)[:MOST_PROPOSALS]])


def _refine(nets: MTCNN, base: Image.Image, boxes: np.ndarray, threshold: float) -> np.ndarray:
    if not len(boxes):
        return boxes
    scores, offsets = (x.numpy() for x in nets.rnet(_windows(base, boxes, REFINE_SIZE)))
    passed = scores > threshold
    boxes, scores, offsets = boxes[passed], scores[passed], offsets[passed]
    kept = suppress(boxes, scores, 0.7)
    return _squared(_corrected(boxes[kept], offsets[kept]))


def _finish(nets: MTCNN, base: Image.Image, boxes: np.ndarray, threshold: float) -> Found:
    if not len(boxes):
        return Found(boxes, np.zeros(0), np.zeros((0, 5, 2)))
    scores, offsets, points = (x.numpy() for x in nets.onet(_windows(base, boxes, OUTPUT_SIZE)))
    passed = scores > threshold
    boxes, scores, offsets, points = boxes[passed], scores[passed], offsets[passed], points[passed]
    points = boxes[:, None, :2] + points * (boxes[:, None, 2:] - boxes[:, None, :2]) - 0.5
    boxes = _corrected(boxes, offsets)
    kept = suppress(boxes, scores, 0.7, over_smaller=True)
    return Found(boxes[kept], scores[kept], points[kept])


def suppress(boxes: np.ndarray, scores: np.ndarray, overlap: float, over_smaller: bool = False) -> np.ndarray:
    """Non-maximum suppression: indices that stay, best score first.

    Of two boxes whose intersection over union (with `over_smaller`: over the smaller box) exceeds `overlap`, the
    better one stays.
    """
    order = np.argsort(-scores, kind="stable")
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        sides = np.minimum(boxes[best, 2:], boxes[order, 2:]) - np.maximum(boxes[best, :2], boxes[order, :2])
        shared = np.prod(np.maximum(sides, 0), axis=1)
        whole = np.minimum(areas[best], areas[order]) if over_smaller else areas[best] + areas[order] - shared
        order = order[shared <= overlap * whole]
    return np.array(kept, dtype=int)


def _windows(base: Image.Image, boxes: np.ndarray, size: int) -> Tensor:
    """Square windows (n, 3, size, size) of the picture; what lies outside it is black, as in training."""
    windows = []
    for x, y, right, _ in boxes:
        left, top, side = round(x), round(y), max(1, round(right - x))
        window = base.crop((left, top, left + side, top + side))
        windows.append(window.resize((size, size), Image.Resampling.BILINEAR))
    return _normal(np.stack([np.asarray(window) for window in windows]))


def _normal(pixels: np.ndarray) -> Tensor:
    """uint8 (..., H, W, 3) to float (..., 3, H, W) in about [-1, 1], the networks' own scaling."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, -3))).float().sub_(127.5).mul_(1 / 128)


def _corrected(boxes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes + offsets * np.concatenate([sides, sides], 1)


def _squared(boxes: np.ndarray) -> np.ndarray:
    centres, side = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True)
    return np.concatenate([centres - side / 2, centres + side / 2], 1)
