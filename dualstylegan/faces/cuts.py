"""Where a film's shots change: what is in the picture is elsewhere at once, and in other colours."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from functools import cached_property

import numpy as np
from PIL import Image
from scipy.fft import irfft2, rfft2
from scipy.ndimage import gaussian_filter1d

SIZE = (64, 36)  # px; enough to tell places apart
ROWS = 2  # of a frame, that each row of these is taken from
LIKENESS = 0.4  # correlation of the detail at the best shift; successive frames of a shot have more
SAME_COLORS = 0.12  # distance of colour histograms, 0 to 1; two frames of other shots hardly come below
BINS = 6  # per channel
# Gaussian blurs as products with matrices (left, right): ten times as fast for so small a picture
_BLURS = tuple(
    tuple(
        gaussian_filter1d(np.eye(count, dtype=np.float32), sigma, axis=axis)
        for axis, count in ((0, SIZE[1]), (1, SIZE[0]))
    )
    for sigma in (0.7, 4.0)
)
FLAT = 0.5 * SIZE[0] * SIZE[1]  # energy of no more detail than noise
FLASH = 2  # frames; what looks as before after so many more was a flash, not a cut


class Cut(IntEnum):
    """What a frame begins: nothing new, another shot, or again the shot that a flash has interrupted."""

    NONE = 0
    NEW = 1
    BACK = 2


class CutFinder:
    """Finds the cuts of one film, whose frames, uint8 (H, W, 3), come in order, some at a time."""

    def __init__(self):
        self._last: _Look | None = None
        self._left: _Look | None = None  # the shot before a cut that may yet turn out to be a flash
        self._doubt = 0  # frames for which it may

    def find(self, frames: Sequence[np.ndarray]) -> list[Cut]:
        """What begins with each frame. A flash is told from a cut by the frames after it; where these come with the
        next call only, it is given as a cut, and then as the way back."""
        looks = [_Look(frame) for frame in frames]
        cuts = []
        for number, look in enumerate(looks):
            soon = looks[number + 1 : number + 1 + FLASH]
            before = self._last
            if before is None or look.is_like(before):
                cut = Cut.NONE
                self._last = look
            elif any(later.is_like(before) for later in soon):
                cut = Cut.NONE  # a flash: what comes next is compared with what was before it
            elif self._doubt and self._left and look.is_like(self._left):
                cut = Cut.BACK
                self._last, self._doubt = look, 0
            else:
                cut = Cut.NEW
                self._last, self._left = look, before
                self._doubt = FLASH + 1 if len(soon) < FLASH else 0
            self._doubt = max(0, self._doubt - 1)
            cuts.append(cut)
        return cuts


class _Look:
    """A frame, small: how often each colour is in it, and, once that leaves a doubt, the detail in it."""

    def __init__(self, frame: np.ndarray):
        stride = max(1, frame.shape[0] // (ROWS * SIZE[1]))  # whole rows: single pixels would take longer to pick
        self._pixels = np.asarray(Image.fromarray(frame[::stride]).resize(SIZE, Image.Resampling.BOX))
        bins = (self._pixels.astype(int) * BINS // 256) @ (BINS * BINS, BINS, 1)
        self.colors = np.bincount(bins.ravel(), minlength=BINS**3) / bins.size

    def is_like(self, other: _Look) -> bool:
        return self.color_distance(other) <= SAME_COLORS or self.likeness(other) >= LIKENESS

    @cached_property
    def _detail(self) -> tuple[np.ndarray, float]:
        """Its Fourier transform and its energy."""
        brightness = self._pixels.mean(-1, dtype=np.float32)
        fine, coarse = ((rows @ brightness) @ columns for rows, columns in _BLURS)
        detail = fine - coarse
        return rfft2(detail, s=(2 * SIZE[1], 2 * SIZE[0])), float((detail**2).sum())

    def likeness(self, other: _Look) -> float:
        """The correlation of both pictures' detail when one is shifted over the other in the best way."""
        (spectrum, energy), (other_spectrum, other_energy) = self._detail, other._detail
        shifted = irfft2(spectrum * other_spectrum.conj(), s=(2 * SIZE[1], 2 * SIZE[0]))
        return float(shifted.max() / (np.sqrt(energy * other_energy) + FLAT))

    def color_distance(self, other: _Look) -> float:
        return float(np.abs(self.colors - other.colors).sum() / 2)
