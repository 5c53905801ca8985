"""A silent clip from pictures that are made one by one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np

from dualstylegan.errors import UsageError

CLIP_SUFFIXES = (".mp4", ".mov", ".mkv")


def write_clip(path: str | os.PathLike, frames: Iterable[np.ndarray], *, fps: float = 25.0) -> int:
    """Write frames uint8 (H, W, 3) sRGB as H.264; returns how many. Whole or not at all.

    Raises UsageError for a suffix that is no container of this, and where there is no frame.
    """
    path = Path(path)
    if path.suffix.lower() not in CLIP_SUFFIXES:
        raise UsageError(f"{path} is no name for a clip; use one that ends in {', '.join(CLIP_SUFFIXES)}.")
    from dualstylegan.media.film.video import (
        FilmFrame,
        FilmInfo,
        FilmWriter,
    )  # PyAV takes 0.2 s, and most work needs no film

    frames, count = iter(frames), 0
    first = next(frames, None)
    if first is None:
        raise UsageError(f"{path}: a clip needs at least one frame.")
    height, width = first.shape[:2]
    with FilmWriter(path, FilmInfo.drawn(path, width, height, fps)) as clip:
        for pixels in chain([first], frames):
            clip.write(FilmFrame.drawn(count, pixels, fps))
            count += 1
    return count
