"""What `quality.py` measures with: distances between sets of pictures, ranks, shapes of landmarks. Runs nothing itself.

Pictures are (N, 3, S, S), RGB in [-1, 1], FFHQ-aligned crops; masks (S, S) in [0, 1]; points (N, 68, 2), unit crop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dualstylegan.faces.face import JAW, LEFT_EYE, LEFT_MOUTH, NOSE_BASE, RIGHT_EYE, RIGHT_MOUTH

EYE_CORNERS = (36, 45)  # the outer ones
EYES = ((0.375, 0.473), (0.625, 0.473))  # where an aligned crop has them, the viewer's left one first
EYE_REGION = (0.1, 0.075)  # half the width and height of what is looked at as an eye
FINE_FROM = 0.25  # of the sampling rate: what is finer than four pixels
SRGB_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
D65 = (0.95047, 1.0, 1.08883)

# ------------------------------------------------------------------------------------------------- sets of pictures


def kernel_distance(a: np.ndarray, b: np.ndarray, *, subsets: int = 100, size: int = 50, seed: int = 0) -> float:
    """KID (Binkowski et al. 2018): the squared maximum mean discrepancy of features (N, D) and (M, D), unbiased, under
    the kernel (x y / D + 1)^3, averaged over random subsets of `size`. Near 0, on either side, for alike sets."""
    rng = np.random.default_rng(seed)
    size = min(size, len(a), len(b))
    found = []
    for _ in range(subsets):
        x, y = (features[rng.choice(len(features), size, replace=False)] for features in (a, b))
        found.append(_discrepancy(x.astype(np.float64), y.astype(np.float64)))
    return float(np.mean(found))


def _discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    def kernel(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return (p @ q.T / p.shape[1] + 1) ** 3

    def mean_of_others(k: np.ndarray) -> float:  # without the diagonal: that is what makes it unbiased
        return (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))

    return mean_of_others(kernel(x, x)) + mean_of_others(kernel(y, y)) - 2 * kernel(x, y).mean()


# ------------------------------------------------------------------------------------------------------------ colours


def to_lab(images: Tensor) -> Tensor:
    """CIE L*a*b* (N, 3, S, S) of sRGB pictures, white D65."""
    srgb = ((images.double() + 1) / 2).clamp(0, 1)
    linear = torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = torch.einsum("kc,nchw->nkhw", torch.tensor(SRGB_TO_XYZ, dtype=torch.float64), linear)
    xyz = xyz / torch.tensor(D65, dtype=torch.float64).reshape(1, 3, 1, 1)
    f = torch.where(xyz > (6 / 29) ** 3, xyz.clamp_min(1e-9) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def color_statistics(images: Tensor, mask: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean (N, 3) and covariance (N, 3, 3) of the pictures' Lab colours inside the mask."""
    lab = to_lab(images).flatten(2)
    weight = (mask / mask.sum()).double().flatten()
    mean = lab @ weight
    apart = lab - mean[..., None]
    return mean.numpy(), torch.einsum("nip,njp,p->nij", apart, apart, weight).numpy()


def color_distances(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Frechet distances (N, M), squared, of the Gaussians that `color_statistics` gave for two sets of pictures."""
    (mean_a, cov_a), (mean_b, cov_b) = a, b
    values, vectors = np.linalg.eigh(cov_a)
    root = np.einsum("nij,nj,nkj->nik", vectors, np.sqrt(values.clip(0)), vectors)
    product = np.einsum("nij,mjk,nkl->nmil", root, cov_b, root)
    cross = np.sqrt(np.linalg.eigvalsh(product).clip(0)).sum(-1)
    traces = np.trace(cov_a, axis1=1, axis2=2)[:, None] + np.trace(cov_b, axis1=1, axis2=2)
    return np.square(mean_a[:, None] - mean_b).sum(-1) + traces - 2 * cross


def chroma(images: Tensor, mask: Tensor) -> float:
    """How colourful pictures are: the mean of sqrt(a*² + b*²) inside the mask. A grey print has nearly 0."""
    lab = to_lab(images)
    return float((torch.hypot(lab[:, 1], lab[:, 2]).mean(0) * mask).sum() / mask.sum())


# ------------------------------------------------------------------------------------------------------------ texture


def grams(features: Sequence[Tensor], mask: Tensor) -> np.ndarray:
    """Gram matrices of features [(N, C, h, w)] inside the mask, one vector (N, D) per picture, layers of one weight."""
    parts = []
    for maps in features:
        inside = torch.nn.functional.interpolate(mask[None, None].float(), maps.shape[-2:], mode="area")[0, 0].flatten()
        weighed = maps.flatten(2) * (inside / inside.sum()).sqrt()
        gram = weighed @ weighed.transpose(1, 2)
        parts.append((gram / gram.flatten(1).norm(dim=1).mean()).flatten(1))
    return torch.cat(parts, dim=1).double().numpy()


# -------------------------------------------------------------------------------------------------------------- ranks


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances (N, M) of vectors (N, D) and (M, D)."""
    return torch.cdist(torch.from_numpy(a).double(), torch.from_numpy(b).double()).numpy()


def ranks(distances: np.ndarray, given: np.ndarray) -> np.ndarray:
    """How many of M candidates lie nearer than the given one: `distances` (N, M), `given` (N,) -> (N,). Ties count."""
    own = distances[np.arange(len(distances)), given][:, None]
    return (distances <= own).sum(1) - 1


def share_first(distances: np.ndarray, given: np.ndarray) -> float:
    """How often the given candidate is the nearest."""
    return float((ranks(distances, given) == 0).mean())


def share_among_nearest(distances: np.ndarray, given: np.ndarray, part: float = 0.1) -> float:
    """How often the given candidate is among the nearest `part` of all, of at least one."""
    return float((ranks(distances, given) < max(1, math.floor(part * distances.shape[1]))).mean())


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's; 0 where one does not vary."""
    a, b = a - a.mean(), b - b.mean()
    spread = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / spread) if spread > 1e-12 else 0.0


# ---------------------------------------------------------------------------------------------------------- landmarks


def shapes(points: np.ndarray, reference: np.ndarray | None = None) -> np.ndarray:
    """Faces' shapes (N, 136): points without place, size and turn, as near to the reference (68, 2) as they can be.

    The reference is the faces' own mean shape unless given.
    """
    flat = _centred(points)
    target = flat.mean(0) if reference is None else _centred(reference[None])[0]
    z = flat[..., 0] + 1j * flat[..., 1]
    turn = z.conj() @ (target[:, 0] + 1j * target[:, 1])
    z = z * (turn / np.abs(turn).clip(1e-12))[:, None]
    return np.stack([z.real, z.imag], axis=-1).reshape(len(points), -1)


def _centred(points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, np.float64)
    points = points - points.mean(1, keepdims=True)
    return points / np.sqrt(np.square(points).sum((1, 2), keepdims=True)).clip(1e-12)


def yaw(points: np.ndarray) -> np.ndarray:
    """How far heads are turned to the viewer's right (N,): where the nose lies between the sides of the face, -1 at the
    left one, 0 in the middle, 1 at the right one. The head's tilt is undone first."""
    points = np.asarray(points, np.float64)
    axis = points[:, RIGHT_EYE].mean(1) - points[:, LEFT_EYE].mean(1)
    axis = axis / np.linalg.norm(axis, axis=1, keepdims=True).clip(1e-12)
    along = np.einsum("npc,nc->np", points, axis)
    nose = along[:, [29, 30, NOSE_BASE]].mean(1)

    def between(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return (2 * nose - left - right) / np.maximum(right - left, 1e-6)

    jaw = along[:, JAW]
    sides = between(jaw[:, :3].mean(1), jaw[:, -3:].mean(1))
    eyes = between(along[:, EYE_CORNERS[0]], along[:, EYE_CORNERS[1]])
    return (sides + eyes) / 2


def eye_area(points: np.ndarray) -> np.ndarray:
    """The area of both eyes (N,), in square eye-to-mouth distances: what grows when eyes do."""
    points = np.asarray(points, np.float64)
    mouth = (points[:, LEFT_MOUTH] + points[:, RIGHT_MOUTH]) / 2
    middle = (points[:, LEFT_EYE].mean(1) + points[:, RIGHT_EYE].mean(1)) / 2
    areas = _area(points[:, LEFT_EYE]) + _area(points[:, RIGHT_EYE])
    return areas / np.square(mouth - middle).sum(1).clip(1e-12)


def _area(polygons: np.ndarray) -> np.ndarray:
    x, y = polygons[..., 0], polygons[..., 1]
    return np.abs((x * np.roll(y, -1, 1) - y * np.roll(x, -1, 1)).sum(1)) / 2


# --------------------------------------------------------------------------------------------------- eyes, sharpness


def eye_patches(images: Tensor) -> tuple[Tensor, Tensor]:
    """What is around the viewer's left eye and, mirrored, around the right one: grey, (N, h, w) each."""
    grey, size = images.mean(dim=1), images.shape[-1]
    (x, y), (half_width, half_height) = EYES[0], EYE_REGION
    rows = slice(round((y - half_height) * size), round((y + half_height) * size))
    columns = slice(round((x - half_width) * size), round((x + half_width) * size))
    return grey[:, rows, columns], grey.flip(2)[:, rows, columns]


def eyes_unlike(images: Tensor) -> float:
    """How unlike the two eyes of these faces are: the mean difference of one and the mirrored other, of [-1, 1]."""
    left, right = eye_patches(images)
    return float((left - right).abs().mean())


def eye_contrast(images: Tensor) -> float:
    """The contrast around the viewer's left eyes over that around the right ones, of the whole set."""
    left, right = (patch.flatten(1).std(dim=1).mean() for patch in eye_patches(images))
    return float(left / right)


def one_sided(plain: Tensor, mirrored: Tensor, photos: Tensor) -> float:
    """How much more contrast pictures have around one eye than the photos they were made from: |left over right - 1|.

    `plain` were made from the photos, `mirrored` from their mirror images: whatever light falls on one side of the
    photos counts once for and once against.
    """
    made = eye_contrast(plain) * eye_contrast(mirrored)
    given = eye_contrast(photos) * eye_contrast(photos.flip(3))
    return abs(math.sqrt(made / given) - 1)


def fine_energy(images: Tensor, masks: Tensor) -> np.ndarray:
    """Mean square (N,) of what is finer than FINE_FROM of the sampling rate, grey, inside the masks (N, 1, S, S)."""
    grey = images.double().mean(dim=1)
    rows, columns = torch.fft.fftfreq(grey.shape[-2]), torch.fft.rfftfreq(grey.shape[-1])
    fine = torch.hypot(rows[:, None], columns[None]) > FINE_FROM
    detail = torch.fft.irfft2(torch.fft.rfft2(grey) * fine, s=grey.shape[-2:])
    inside = masks[:, 0].double()
    return ((detail.square() * inside).sum((1, 2)) / inside.sum((1, 2))).numpy()


# -------------------------------------------------------------------------------------------------------------- paths


def way_gone(pictures: Tensor, start: Tensor, end: Tensor, mask: Tensor) -> np.ndarray:
    """Which share (N,) of the straight way from `start` to `end` pictures have gone, inside the mask."""
    way = ((end - start) * mask).flatten(1)
    gone = ((pictures - start) * mask).flatten(1)
    return ((gone * way).sum(1) / way.square().sum(1).clamp_min(1e-12)).numpy()


def largest_step(steps: np.ndarray, whole: np.ndarray) -> float:
    """The largest step of paths (N, steps), as a part of its own path's whole way (N,)."""
    return float((steps / np.maximum(whole, 1e-12)[:, None]).max())
