"""How a drawn face meets the photo: where the person is, and the colour of the skin beside it.

Masks lie in the unit crop: (MASK_SIZE, MASK_SIZE) float32 in [0, 1]. What the photo is asked for lies in a wider view
of it, with the crop in its middle, (WIDE_SIZE, WIDE_SIZE) at the same scale: necks go on below a crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate

from dualstylegan.faces.crop import crop_face
from dualstylegan.faces.face import Face, transform
from dualstylegan.faces.masks import MASK_SIZE, draw_mask
from dualstylegan.networks.matte import INPUT_SIZE, MatteNet
from dualstylegan.runtime.threads import each_on_one_core

FOUND = 0.5  # of the face: where less of it is a person to the matte, there is none in it
ASTRAY = (0.1, 0.4)  # of what lies far from both heads: where a style's matte takes more of it for a person, it errs
EDGE = (0.25, 0.75)  # between these a matte goes from background to person

WIDE = 1.5  # crops
WIDE_SIZE = 192
_WITHIN = slice((WIDE_SIZE - MASK_SIZE) // 2, (WIDE_SIZE + MASK_SIZE) // 2)
_HERE = (np.stack(np.meshgrid(np.arange(MASK_SIZE), np.arange(MASK_SIZE)), -1) + 0.5) / MASK_SIZE  # a mask's pixels
_MIDDLE = np.s_[..., _WITHIN, _WITHIN]  # the crop

REACH = 0.1  # of the crop: over which the skin beside a face takes on its colour less and less
FULL = 0.35  # of the face's mask, blurred that far: at its edge, where it is round
SKIN = 0.09  # by so much of 1 the colour of skin differs, apart from its light
SKIN_LIGHT = 0.3  # and by its light
HAIR = 0.2  # by so much of 1 the colour of hair differs from hair nearby
BESIDE, FADING = 1, 1  # thirty-seconds of the crop: what is compared across its edge, and over which that fades
AT_EDGE = 0.08  # of the product of what is inside and outside, blurred: that at an edge
SEAM = 0.6  # by so much of 2 colours differ at a seam, apart from their light; more, and a thing begins there, a hat
MORE = 1.5  # times the step, as it fades
SHARED = 0.03  # of the crop: over which one face becomes another where they overlap
ENOUGH = 0.1  # of what is near: so much hair within the face tells what becomes of hair


@dataclass(frozen=True)
class Blend:
    """`mask`: the drawn face's opacity, in the crop. `tint` (3, WIDE_SIZE, WIDE_SIZE), in steps of 255, in the wider
    view: what is added to the photo beside it, or None. `shift` (3, n, n): what is added to the drawn face, in
    [-1, 1], seen coarsely, or None."""

    mask: np.ndarray
    tint: np.ndarray | None = None
    shift: np.ndarray | None = None


def wide_from_photo(face: Face) -> np.ndarray:
    """(3, 3): source pixels to the wider view of the face's crop."""
    wide_from_crop = np.array([[1 / WIDE, 0, 0.5 - 0.5 / WIDE], [0, 1 / WIDE, 0.5 - 0.5 / WIDE], [0, 0, 1]])
    return wide_from_crop @ face.crop_from_photo


def view_of(picture: np.ndarray, face: Face) -> Tensor:
    """The wider view of a face, as the network sees it: (3, INPUT_SIZE, INPUT_SIZE)."""
    return crop_face(picture, wide_from_photo(face), INPUT_SIZE)


def photo_mattes(net: MatteNet, views: Sequence[Tensor]) -> Tensor:
    """Where a person is in the wider views: (N, WIDE_SIZE, WIDE_SIZE)."""
    return _mattes(net, views, WIDE_SIZE)


def portrait_mattes(net: MatteNet, portraits: Sequence[Tensor]) -> Tensor:
    """Where a person is in portraits (3, S, S), RGB in [-1, 1]: (N, MASK_SIZE, MASK_SIZE)."""
    return _mattes(net, portraits, MASK_SIZE)


def _mattes(net: MatteNet, pictures: Sequence[Tensor], size: int) -> Tensor:
    def look(picture: Tensor) -> Tensor:
        return _resized(net(_resized(picture, INPUT_SIZE)[None])[0], size)[0]

    found = each_on_one_core(look, [picture.detach().float().cpu() for picture in pictures])
    return torch.stack(found).clone() if found else torch.empty(0, size, size)


def _resized(picture: Tensor, size: int) -> Tensor:
    return interpolate(picture[None], size=(size, size), mode="bilinear", antialias=True, align_corners=False)[0]


def blend(
    kind: str, frame: np.ndarray, portrait: Tensor, face: Face, photo: Tensor | None, styled: Tensor | None
) -> Blend:
    """How a portrait (3, S, S) is laid over the frame, by the mattes of the photo around it and, but for the mask
    "face", of the portrait. Where these find nobody, the mask is the outline that follows from the landmarks."""
    points = transform(face.crop_from_photo, face.points.astype(np.float64))
    outline = draw_mask(kind, points)
    inner = outline if kind == "face" else draw_mask("face", points)
    if photo is None or (inner * photo.numpy()[_MIDDLE]).sum() < FOUND * inner.sum():
        return Blend(outline)
    person = photo.numpy()
    mask = _of_person(outline, inner, person[_MIDDLE], None if kind == "face" or styled is None else styled.numpy())
    after = _resized(portrait.float().cpu(), MASK_SIZE).clamp(-1, 1).numpy()
    before = crop_face(frame, wide_from_photo(face), WIDE_SIZE).numpy()
    tint = _tint(before, after, mask, inner, person)
    inner_view, around = before[_MIDDLE], before[_MIDDLE] + tint[_MIDDLE] / 127.5
    return Blend(mask, tint, _shift(inner_view, after, around, mask, person[_MIDDLE]))


def in_front(mask: np.ndarray, face: Face, others: Sequence[tuple[Face, np.ndarray]]) -> np.ndarray:
    """The mask of a face that covers `others` with their masks, without what is rather theirs: each pixel that both
    would draw belongs to whose middle it is nearer to, as large as each is; and larger faces are nearer by themselves,
    most likely."""
    for other, its in others:
        other_from_crop = other.crop_from_photo @ np.linalg.inv(face.crop_from_photo)
        corners = transform(other_from_crop, np.array([[0.0, 0.0], [1, 0], [1, 1], [0, 1]]))
        if (corners.max(0) <= 0).any() or (corners.min(0) >= 1).any():
            continue
        there = transform(other_from_crop, _HERE.reshape(-1, 2)).reshape(_HERE.shape)
        grid = torch.from_numpy(2 * there[None] - 1).float()
        covered = grid_sample(torch.from_numpy(its)[None, None], grid, mode="bilinear", align_corners=False)[0, 0]
        larger = face.crop_side_px / other.crop_side_px
        nearer = np.linalg.norm(there - 0.5, axis=-1) - np.linalg.norm(_HERE - 0.5, axis=-1) / larger
        mask = mask * (1 - _step(covered.numpy(), 0.5, 1) * (1 - _step(nearer, -SHARED, SHARED)))
    return mask.astype(np.float32, copy=False)


def _of_person(outline: np.ndarray, inner: np.ndarray, photo: np.ndarray, styled: np.ndarray | None) -> np.ndarray:
    """The outline as far as the drawn person goes: hair that the style adds stays, its background does not. Where the
    style's matte takes its background for a person, as it does among an engraving's lines, the photo's is taken."""
    person = anyone = photo
    if styled is not None:
        far = (1 - photo) * (1 - outline)
        astray = float((far * styled).sum() / max(far.sum(), 1.0))
        person = photo + (1 - _step(astray, *ASTRAY)) * (styled - photo)
        anyone = np.maximum(person, photo)
    inside = np.maximum(_step(person, *EDGE), inner * _step(anyone, *EDGE))
    return (outline * inside).astype(np.float32)


def _tint(before: np.ndarray, after: np.ndarray, mask: np.ndarray, inner: np.ndarray, person: np.ndarray) -> np.ndarray:
    """What skin and hair beside the mask take on of the change from the photo's face, `before` (3, WIDE_SIZE,
    WIDE_SIZE), to the drawn one, `after` (3, MASK_SIZE, MASK_SIZE), in [-1, 1]: skin of what became of skin nearby,
    hair of hair like it; all of it at the mask's edge, less and less away from it."""
    total = max(float(inner.sum()), 1e-6)
    skin = (before[_MIDDLE] * inner).sum((1, 2)) / total
    apart = before - skin[:, None, None]
    light = apart.mean(0)
    chroma = np.square(apart - light).sum(0)
    alike = np.exp(-0.5 * (chroma / (2 * SKIN) ** 2 + np.square(light / (2 * SKIN_LIGHT)))) * person

    skin_near = alike[_MIDDLE] * inner + 1e-4 * inner
    hair_near = (1 - alike[_MIDDLE]) * inner
    became = after - before[_MIDDLE]
    near = (skin_near, became * skin_near, hair_near, became * hair_near, before[_MIDDLE] * hair_near, mask)
    sums = np.zeros((12, WIDE_SIZE, WIDE_SIZE), np.float32)
    sums[_MIDDLE] = np.concatenate([planes.reshape(-1, *mask.shape) for planes in near])
    sums = _blurred(sums, REACH * MASK_SIZE)
    change = alike * sums[1:4] / np.maximum(sums[0], 1e-6)

    hair = np.maximum(sums[4], 1e-6)
    unlike = np.square(before - sums[8:11] / hair).sum(0)
    like_hair = np.exp(-0.5 * unlike / (2 * HAIR) ** 2) * np.minimum(hair / ENOUGH, 1) * (person - alike)
    change += like_hair * sums[5:8] / hair
    fade = np.minimum(sums[11] / FULL, 1)
    return (127.5 * change * fade).astype(np.float32)


def _shift(
    before: np.ndarray, after: np.ndarray, around: np.ndarray, mask: np.ndarray, person: np.ndarray
) -> np.ndarray | None:
    """What the drawn face takes on of what is `around` it (3, MASK_SIZE, MASK_SIZE), fading inwards, where its edge
    stands out more than the photo's colours do there, `before`: so much that it does not. Only beside the person: where
    a head ends and the background begins, hair of the background's colour would look like glass. None for what nobody
    sees."""
    beside = 1 - mask
    measured = (after * mask, before * mask, around * beside, before * beside, mask, beside, person * beside)
    planes = np.concatenate([one.reshape(-1, *mask.shape) for one in measured])
    sums = _boxes(_quarter(planes), BESIDE).numpy()
    within, without = np.maximum(sums[12:14], 1e-3)
    new, old = sums[:3] / within - sums[6:9] / without, sums[3:6] / within - sums[9:12] / without
    apart, apart_before = (np.linalg.norm(step, axis=0) for step in (new, old))
    excess = np.maximum(1 - apart_before / np.maximum(apart, 1e-6), 0) * np.clip(sums[14] / without, 0, 1)
    excess *= np.exp(-np.square(new - new.mean(0)).sum(0) / SEAM**2)
    edge = within * without
    spread = _boxes(torch.from_numpy(np.concatenate([-new * excess * edge, edge[None]])), FADING).numpy()
    shift = spread[:3] * np.minimum(spread[3] / AT_EDGE, 1) * MORE / np.maximum(spread[3], 1e-6)
    return shift if np.abs(shift).max() > 1 / 127.5 else None


def _blurred(planes: np.ndarray, sigma: float) -> np.ndarray:
    """All but a Gaussian, at a quarter of the size."""
    small = _boxes(_quarter(planes), max(1, round(sigma / 4)))
    return interpolate(small[None], scale_factor=4, mode="bilinear", align_corners=False)[0].numpy()


def _quarter(planes: np.ndarray) -> Tensor:
    return avg_pool2d(torch.from_numpy(planes), 4)


def _boxes(planes: Tensor, radius: int) -> Tensor:
    """Three of them, one after the other: a blur."""
    for _ in range(3):
        planes = avg_pool2d(planes, 2 * radius + 1, 1, padding=radius)
    return planes


def _step(values, low: float, high: float):
    part = np.clip((values - low) / (high - low), 0, 1)
    return part * part * (3 - 2 * part)
