"""What a film is, wherever it came from: a container, an animated picture or a folder of numbered frames."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import av

from dualstylegan.media.film.planes import AS_STORED, UNTOLD, Color, Turn, to_rgb


@dataclass(frozen=True)
class FilmInfo:
    """What is known of a film before its frames are read. Sizes are upright; times are in seconds from its beginning.

    `time_base` is the unit of the frames' time stamps and `rate` their average per second, None where nothing tells.
    `frames` and `duration_s` are what the file says of the range that is read; they may be wrong. A sample is
    `sample_aspect_ratio` times as wide as high. `start_s`, `end_s` and `max_frames` are the range that was asked for.
    """

    path: Path
    width: int
    height: int
    time_base: Fraction
    rate: Fraction | None = None
    frames: int | None = None
    duration_s: float | None = None
    rotation: int = 0  # degrees, counter-clockwise, from stored to upright
    turn: Turn = AS_STORED
    matrix: tuple[int, ...] | None = None  # the display matrix as stored
    sample_aspect_ratio: Fraction = Fraction(1)
    pix_fmt: str = "rgb24"
    bit_depth: int = 8
    color: Color = UNTOLD
    codec: str = "rawvideo"
    profile: str | None = None
    has_audio: bool = False
    alpha: bool = False
    interlaced: bool = False
    field_order: int = 0
    kind: str = "container"  # or "animation", "frames"
    form: str = ""  # the container's own name, as FFmpeg calls it
    begins_s: Fraction = Fraction(0)  # the time stamp that a player shows as 0
    loop: int | None = None  # of an animation: how often, 0 for ever, None once
    kept: dict = field(default_factory=dict, compare=False)  # of an animation: icc, words, lossless, as of a Picture
    start_s: float = 0.0
    end_s: float | None = None
    max_frames: int | None = None
    light: dict = field(default_factory=dict, compare=False)  # HDR: mastering display and light levels

    @property
    def is_hdr(self) -> bool:
        return self.color.is_hdr

    @classmethod
    def drawn(cls, path: str | os.PathLike, width: int, height: int, fps: float = 25.0) -> FilmInfo:
        """Of a film that is made from nothing: square samples, BT.709, silent."""
        rate = Fraction(fps).limit_denominator(1001)
        color = Color(primaries=1, transfer=1, matrix=1)
        return cls(Path(path), width, height, 1 / rate, rate, color=color, kind="drawn")


@dataclass(slots=True, eq=False)
class Still:
    """A frame that came as a picture. `pixels` uint8 (H, W, 3); `alpha` uint8 (H, W) or None.

    `deep` uint16 (H, W, 3 or 4) where the file has 16 bits; `path` the file it came from, where it has one of its own.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    deep: np.ndarray | None = None
    path: Path | None = None


@dataclass(slots=True, eq=False)
class FilmFrame:
    """One frame. `index` counts what is delivered from 0; `pts` and `duration` are in units of `time_base`.

    `time_s` is seconds from the film's beginning, wherever reading began. `source` is what a FilmWriter needs to give
    the frame back untouched.
    """

    index: int
    pts: int
    time_base: Fraction
    duration: int
    time_s: float
    source: av.VideoFrame | Still
    color: Color = UNTOLD
    turn: Turn = AS_STORED
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _pixels: np.ndarray | None = field(default=None, repr=False)

    @property
    def pixels(self) -> np.ndarray:
        """uint8 (H, W, 3) RGB, upright; converted when first asked for and kept. Not to be written into: copy it."""
        if self._pixels is None:
            with self.lock:
                if self._pixels is None:
                    self._pixels = self._to_pixels()
        return self._pixels

    def _to_pixels(self) -> np.ndarray:
        if isinstance(self.source, Still):
            return self.source.pixels
        return np.ascontiguousarray(self.turn.upright(to_rgb(self.source, self.color)))

    @classmethod
    def drawn(cls, index: int, pixels: np.ndarray, fps: float = 25.0) -> FilmFrame:
        """A frame made from nothing, `index` frames after the first."""
        rate = Fraction(fps).limit_denominator(1001)
        return cls(index, index, 1 / rate, 1, float(index / rate), Still(pixels))


class Film:
    """An open film: `.info`, its frames by iteration (once), and afterwards `.problems`, a line each.

    A context manager. The first frame is read at opening, so a file without any fails there, with BadFileError.
    """

    info: FilmInfo

    def __init__(self, path: Path, *, start_s: float, end_s: float | None, max_frames: int | None):
        self._path, self._start_s, self._end_s, self._most = path, start_s, end_s, max_frames
        self.problems: list[str] = []

    def __enter__(self) -> Film:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Iterator[FilmFrame]:
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the file."""
