"""Which pictures are films: animated ones and folders of numbered frames. Told by content, nothing is read whole."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

ANIMATED_SUFFIXES = frozenset({".gif", ".png", ".apng", ".webp"})
FRAME_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp"})
FEWEST_FRAMES = 5
DIGITS = 4
_NUMBERED = re.compile(r"^(?:frame[ _.-]?)?(\d+)$", re.IGNORECASE)


def is_animated(path: str | os.PathLike) -> bool:
    """Whether a file is a GIF, PNG or WebP of more than one frame. Reads its headers only."""
    path = Path(path)
    if path.suffix.lower() not in ANIMATED_SUFFIXES or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(64)
            if head.startswith(b"\x89PNG"):
                return _png_animates(file)
            if head[8:12] == b"WEBP":
                return head[12:16] == b"VP8X" and bool(head[20] & 2)
            if head.startswith(b"GIF8"):
                with Image.open(path) as image:
                    image.seek(1)
                    return True
    except Exception:  # whatever a decoder trips over; reading it as a picture will say what
        pass
    return False


def _png_animates(file: BinaryIO) -> bool:
    """An `acTL` chunk before the picture's data says so, with the number of frames."""
    file.seek(8)
    while True:
        head = file.read(8)
        if len(head) < 8 or head[4:] in (b"IDAT", b"IEND"):
            return False
        if head[4:] == b"acTL":
            return int.from_bytes(file.read(4), "big") > 1
        file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)


def numbered_pictures(folder: str | os.PathLike) -> list[Path] | None:
    """A folder's pictures in order where they can be the frames of a film, else None: every picture in it is named by
    its number (`000001.png`, `frame_7.png`; cameras name otherwise), without a gap, and all have one suffix."""
    folder = Path(folder)
    try:
        names = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".") and entry.is_file()]
    except OSError:
        return None
    paths = [Path(folder, name) for name in names if Path(name).suffix.lower() in FRAME_SUFFIXES]
    found = {int(match[1]): path for path in paths if (match := _NUMBERED.match(path.stem))}
    if not found or len(found) != len(paths) or len({path.suffix for path in paths}) > 1:
        return None
    numbers = sorted(found)
    if numbers[-1] - numbers[0] != len(numbers) - 1:
        return None
    return [found[number] for number in numbers]


def is_frames(folder: str | os.PathLike) -> bool:
    """Whether a folder's pictures must be the frames of a film: FEWEST_FRAMES at least, numbered as encoders number
    frames, padded with zeros to DIGITS or more, of one size, and neighbours look alike. Photos that were numbered by
    hand, and the portraits of a data set, do not."""
    frames = numbered_pictures(folder)
    if frames is None or len(frames) < FEWEST_FRAMES:
        return False
    digits = {len(_NUMBERED.match(path.stem)[1]) for path in frames}
    return len(digits) == 1 and digits.pop() >= DIGITS and _look_alike(frames)


def _look_alike(frames: Sequence[Path], alike: float = 10.0) -> bool:
    """Whether most neighbours differ by less than `alike` of 255 at 16x16 pixels; cuts are few, strangers are not."""
    starts = sorted({round(at * (len(frames) - 2) / 6) for at in range(7)})
    differences = []
    try:
        for start in starts:
            thumbs = []
            for path in frames[start : start + 2]:
                with Image.open(path) as image:
                    image.draft("L", (32, 32))
                    size = image.size
                    thumbs.append((size, np.asarray(image.convert("L").resize((16, 16), Image.Resampling.BOX), float)))
            (_, one), (_, other) = thumbs
            differences.append(float(np.abs(one - other).mean()))
            if len({size for size, _ in thumbs}) > 1:
                return False
    except Exception:  # whatever a decoder trips over
        return False
    return float(np.median(differences)) < alike
