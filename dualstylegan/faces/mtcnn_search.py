"""Where the faces are: MTCNN's cascade over an image pyramid. All arrays are numpy, all work is on the CPU.

Time and memory grow with the picture's own pixels, whatever its shape: the proposal network is given 1.2 times as many
at most, upright, MOST_AT_ONCE at a time, and 4.5 times as many again for each tilt.

Boxes are (x1, y1, x2, y2) as Pillow has them: one that covers all of a W x H picture is (0, 0, W, H). Points are (x, y)
in source pixels, pixel centres at integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dualstylegan.faces.face import suppress
from dualstylegan.networks.mtcnn import MTCNN, OUTPUT_SIZE, PROPOSAL_SIZE, PROPOSAL_STRIDE, REFINE_SIZE

PYRAMID_FACTOR = 0.709  # about half the area from one level to the next
THRESHOLDS = (0.6, 0.7, 0.8)  # scores that pass the three networks
MOST_PROPOSALS = 400  # a picture; more than that is texture, the best scores are kept
MOST_WINDOWS = 20 * MOST_PROPOSALS  # a level of the pyramid, before those that overlap go
MOST_AT_ONCE = 1 << 20  # px that the proposal network is given: its features take 100 bytes each
LONGEST = 3  # times as long as it is high may a picture be that is turned in one piece


@dataclass
class Found:
    """Faces of one picture: boxes (n, 4), scores (n,), points (n, 5, 2): eyes, nose, mouth corners."""

    boxes: np.ndarray
    scores: np.ndarray
    points: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)

    def moved(self, turn: np.ndarray, shift: np.ndarray, scale: float = 1.0) -> Found:
        """Points turned, then shifted, then scaled, and boxes of the same shape around their new centres."""
        centers, half = (self.boxes[:, :2] + self.boxes[:, 2:]) / 2, (self.boxes[:, 2:] - self.boxes[:, :2]) / 2
        centers, half = (centers @ turn.T + shift) * scale, half * scale
        points = ((self.points + 0.5) @ turn.T + shift) * scale - 0.5
        return Found(np.concatenate([centers - half, centers + half], 1), self.scores, points)


def search(
    nets: MTCNN,
    picture: Image.Image,
    min_face: float,
    *,
    tilts: Sequence[float] = (),
    tilted_score: float = 0.0,
) -> Found:
    """Finds faces at least `min_face` px wide in an RGB picture.

    While nothing is found it is turned by one after the other of `tilts` (degrees) for another look, in which a score
    of `tilted_score` is asked.
    """
    base = resized(picture, min(1.0, OUTPUT_SIZE / min_face))  # of the smallest face no network sees more than 48 px
    scale = picture.width / base.width
    found = _cascade(nets, base, min_face / scale)
    for tilt in tilts:
        if not len(found):
            found = _tilted(nets, base, min_face / scale, tilt, tilted_score)
    return found.moved(np.eye(2), np.zeros(2), scale)


def _cascade(nets: MTCNN, base: Image.Image, min_face: float) -> Found:
    boxes = _propose(nets, base, min_face, THRESHOLDS[0])
    boxes = _refine(nets, base, boxes, THRESHOLDS[1])
    return _finish(nets, base, boxes, THRESHOLDS[2])


def _tilted(nets: MTCNN, base: Image.Image, min_face: float, degrees: float, score: float) -> Found:
    """What is found in the picture turned; a long one is turned piece by piece, as most of the square around it would
    be empty. A face that lies across the end of a piece is whole in the next."""
    angle = np.deg2rad(degrees)
    back = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    side, long = min(base.size), int(np.argmax(base.size))
    found = []
    for start in range(0, max(1, base.size[long] - side), (LONGEST - 1) * side):
        box = [0, 0, *base.size]
        box[long], box[long + 2] = start, min(start + LONGEST * side, base.size[long])
        left, top, right, bottom = box
        piece = base.crop((left, top, right, bottom)).rotate(
            degrees, Image.Resampling.BILINEAR, expand=True, fillcolor=(128,) * 3
        )
        seen = _cascade(nets, piece, min_face)
        middle, turned = (np.array(box[:2]) + box[2:]) / 2, np.array(piece.size) / 2
        found.append(seen.moved(back, middle - turned @ back.T))
    parts = (np.concatenate([getattr(one, name) for one in found]) for name in ("boxes", "scores", "points"))
    boxes, scores, points = parts
    sure = suppress(boxes, scores, 0.5)
    sure = sure[scores[sure] >= score]
    return Found(boxes[sure], scores[sure], points[sure])


def resized(picture: Image.Image, scale: float) -> Image.Image:
    """The picture times `scale`, each pixel the weighted mean of what it covers."""
    if scale == 1:
        return picture
    size = [max(1, round(side * scale)) for side in picture.size]
    return picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _propose(nets: MTCNN, base: Image.Image, min_face: float, threshold: float) -> np.ndarray:
    all_boxes, all_scores = [np.zeros((0, 4))], [np.zeros(0)]
    scale, level = PROPOSAL_SIZE / min_face, base
    while min(base.size) * scale >= PROPOSAL_SIZE:
        size = [max(PROPOSAL_SIZE, round(side * scale)) for side in base.size]
        level = level.resize(size, Image.Resampling.BILINEAR)
        probability, offsets = _proposals(nets, np.asarray(level))
        rows, columns = np.nonzero(probability >= threshold)
        if len(rows) > MOST_WINDOWS:
            best = np.argpartition(-probability[rows, columns], MOST_WINDOWS)[:MOST_WINDOWS]
            rows, columns = rows[best], columns[best]
        cells = np.stack([columns, rows], 1) * PROPOSAL_STRIDE
        shrink = np.array(base.size) / size
        windows = np.concatenate([cells * shrink, (cells + PROPOSAL_SIZE) * shrink], 1)
        scores = probability[rows, columns]
        kept = suppress(windows, scores, 0.5, most=2 * MOST_PROPOSALS)
        all_boxes.append(_corrected(windows[kept], offsets[:, rows, columns].T[kept]))
        all_scores.append(scores[kept])
        scale *= PYRAMID_FACTOR
    boxes, scores = np.concatenate(all_boxes), np.concatenate(all_scores)
    return _squared(boxes[suppress(boxes, scores, 0.7, most=MOST_PROPOSALS)])


def _proposals(nets: MTCNN, level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The proposal network's scores and offsets for a picture (H, W, 3), a part of its longer side at a time."""
    axis = int(np.argmax(level.shape[:2]))
    length, across = level.shape[axis], level.shape[1 - axis]
    step = max(2 * PROPOSAL_SIZE, MOST_AT_ONCE // across // PROPOSAL_STRIDE * PROPOSAL_STRIDE)
    shared = PROPOSAL_SIZE - PROPOSAL_STRIDE  # px of the next part that this part's last window looks at
    parts, start = [], 0
    while True:
        part = level[start : start + step] if axis == 0 else level[:, start : start + step]
        parts.append([x[0].numpy() for x in nets.pnet(_normal(part)[None])])
        if start + step >= length:
            break
        start += step - shared
    probability, offsets = zip(*parts, strict=True)
    return np.concatenate(probability, axis), np.concatenate(offsets, axis + 1)


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
    pixels = np.require(pixels, requirements=["W"])  # or torch warns
    return torch.from_numpy(pixels).movedim(-1, -3).float().sub_(127.5).mul_(1 / 128)


def _corrected(boxes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes + offsets * np.concatenate([sides, sides], 1)


def _squared(boxes: np.ndarray) -> np.ndarray:
    centres, side = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True)
    return np.concatenate([centres - side / 2, centres + side / 2], 1)
