"""The picture around the faces, in their style: its colours (tone) and its surface (paint).

The colours come from pairs that are known exactly, the aligned crop and the restyled crop: a linear optimal-transport
map (Pitié & Kokaram 2007), limited in contrast and to the colours that the style has, as a table of all colours. The
surface is computed at a bounded size that follows the faces' and applied at full size. Nothing here is random: what
stands still in a film stays still. Frames are uint8 (H, W, 3) RGB, crops and portraits (3, N, N) RGB in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn.functional import interpolate

from dualstylegan.stylizing.surfaces import flat, hatch, oil

PAIRS_PX = 64  # the crops are compared at this size
BACKGROUND = 0.15  # what pixels beside the head count in comparison with its own
NOISE = 0.012  # of the crop's colours, as a standard deviation: what varies less says nothing
MOST_CONTRAST = 1.2  # times the photo's, along any direction of colour
CHROMA_SPREADS = 3.0  # so far from the style's greys its colours go, in their own standard deviations
LEAST_CHROMA = 0.004
SHOULDER = 0.08  # so close to black and white colours crowd, in place of being cut off
TABLE = 17  # colours a side; between them the table is linear

SURFACES = ("oil", "hatch", "flat")


@dataclass(frozen=True)
class Scene:
    """What is done to a frame besides its faces. `table` (B, G, R, 3) float32 in [0, 1]: the colour that each colour
    becomes. `greys` (2, 3): what the style adds to a grey of no colour, and to it for each step from black to white.
    `face_px` is the side of the faces' crops, which the surface's strokes follow. `strength` in [0, 1] is how much of
    it there is."""

    table: np.ndarray
    greys: np.ndarray
    face_px: float
    surface: str | None = None
    strength: float = 1.0

    def faded(self, strength: float) -> Scene:
        """As much of the scene as that."""
        return replace(self, strength=strength)

    def under(self, frame: np.ndarray) -> np.ndarray:
        """A frame in the style's colours and surface, before faces are pasted into it."""
        if self.strength == 0:
            return frame
        toned = _through_table(frame, self.table)
        paint = {"oil": oil, "flat": flat}.get(self.surface or "")
        return self._mixed(frame, paint(toned, self.face_px) if paint else toned)

    def over(self, frame: np.ndarray) -> np.ndarray:
        """What goes over faces too, once they are pasted: an engraving's lines, in its one ink."""
        if self.surface != "hatch" or self.strength == 0:
            return frame
        return self._mixed(frame, hatch(frame, self.face_px, self.greys))

    def _mixed(self, frame: np.ndarray, painted: np.ndarray) -> np.ndarray:
        if self.strength == 1:
            return painted
        return np.asarray(Image.blend(Image.fromarray(frame), Image.fromarray(painted), self.strength))


# --- colours


def fit_scene(crop: Tensor, portrait: Tensor, weights: np.ndarray, face_px: float, surface: str | None = None) -> Scene:
    """The scene that the change from `crop` to `portrait` asks for. `weights` (N, N) in [0, 1] says where the head is;
    what lies beside it counts little, as styles draw backgrounds of their own."""
    before, after = (_pairs(image) for image in (crop, portrait))
    head = Image.fromarray(weights.astype(np.float32)).resize((PAIRS_PX, PAIRS_PX), Image.Resampling.BOX)
    share = np.asarray(head, np.float64).ravel() * (1 - BACKGROUND) + BACKGROUND
    share /= share.sum()
    greys, most = _palette(after, share)
    if surface == "hatch":  # ink has one colour
        most = LEAST_CHROMA
    return Scene(_table_of(before, after, share, greys, most), greys, face_px, surface)


def mix_scenes(scenes: Sequence[tuple[Scene, float]]) -> Scene:
    """Several faces' scenes as one: (scene, weight) each. Raises ValueError for none."""
    if len(scenes) == 1:
        return scenes[0][0]
    parts = np.array([weight for _, weight in scenes], np.float32)
    parts /= parts.sum()
    table, greys, size = (
        sum(part * values for part, values in zip(parts, ways, strict=True))
        for ways in zip(*((one.table, one.greys, math.log(one.face_px)) for one, _ in scenes), strict=True)
    )
    return replace(scenes[0][0], table=table, greys=greys, face_px=math.exp(size))


@cache
def plain_table() -> np.ndarray:
    """Every colour as it is."""
    steps = np.linspace(0, 1, TABLE, dtype=np.float32)
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")
    return np.stack([red, green, blue], -1)


def _pairs(image: Tensor) -> np.ndarray:
    """A crop's colours (n, 3), float64 in [0, 1]."""
    small = interpolate(image[None].float().cpu(), size=PAIRS_PX, mode="bilinear", antialias=True)[0]
    return (small.clamp(-1, 1).flatten(1).T.double().numpy() + 1) / 2


def _table_of(before: np.ndarray, after: np.ndarray, share: np.ndarray, greys: np.ndarray, most: float) -> np.ndarray:
    middle_before, middle_after = share @ before, share @ after
    gain = _transport(_spread(before, share) + NOISE**2 * np.eye(3), _spread(after, share))
    values, axes = np.linalg.eigh(gain)
    gain = (axes * values.clip(0, MOST_CONTRAST)) @ axes.T
    colours = (plain_table().reshape(-1, 3) - middle_before) @ gain.T + middle_after
    colours = _within_palette(colours, greys, most)
    return _with_shoulders(colours).reshape(TABLE, TABLE, TABLE, 3).astype(np.float32)


def _spread(colours: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The covariance (3, 3)."""
    apart = colours - share @ colours
    return (apart * share[:, None]).T @ apart


def _transport(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The symmetric matrix that takes one covariance to the other with the least movement (Pitié & Kokaram 2007)."""
    root, inverse = _power(before, 0.5), _power(before, -0.5)
    return inverse @ _power(root @ after @ root, 0.5) @ inverse


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    values, axes = np.linalg.eigh(matrix)
    return (axes * np.maximum(values, 1e-12) ** exponent) @ axes.T


def _palette(style: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, float]:
    """The style's greys (2, 3), and how far from them its colours go."""
    light = style.mean(1)
    chroma, apart = style - light[:, None], light - share @ light
    slope = (share * apart) @ chroma / max((share * apart**2).sum(), 1e-6)
    greys = np.stack([share @ (chroma - light[:, None] * slope), slope])
    left = chroma - greys[0] - light[:, None] * slope
    return greys, max(CHROMA_SPREADS * math.sqrt(share @ (left**2).sum(1)), LEAST_CHROMA)


def _within_palette(colours: np.ndarray, greys: np.ndarray, most: float) -> np.ndarray:
    """Colours (n, 3) no further than `most` from the style's greys."""
    light = colours.mean(1, keepdims=True)
    own = light + greys[0] + light.clip(0, 1) * greys[1]
    apart = colours - own
    distance = np.linalg.norm(apart, axis=1, keepdims=True)
    return own + apart * most * np.tanh(distance / most) / np.maximum(distance, 1e-9)


def _with_shoulders(values: np.ndarray) -> np.ndarray:
    """In (0, 1): as they are in the middle, ever closer to the ends beyond."""
    low = np.where(values < SHOULDER, SHOULDER * np.exp(np.minimum(values - SHOULDER, 0) / SHOULDER), values)
    over = np.maximum(low - (1 - SHOULDER), 0)
    return np.where(over > 0, 1 - SHOULDER * np.exp(-over / SHOULDER), low)


def _through_table(frame: np.ndarray, table: np.ndarray) -> np.ndarray:
    lut = ImageFilter.Color3DLUT(table.shape[0], np.ascontiguousarray(table, np.float32).ravel())
    return np.array(Image.fromarray(frame).filter(lut))
