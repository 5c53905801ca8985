"""Which files are pictures and which are films: animated pictures and folders of numbered frames are films.

Told by content, of which nothing is read whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from dualstylegan.media.paths import kind_of

ANIMATED_SUFFIXES = frozenset({".gif", ".png", ".apng", ".webp"})
FRAME_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp"})
FEWEST_FRAMES = 5
DIGITS = 4
_NUMBERED = re.compile(r"^(?:frame[ _.-]?)?(\d+)$", re.IGNORECASE)


def suffix_by_content(path: str | os.PathLike) -> str | None:
    """The suffix that suits what a file begins with: `.jpg`, `.mp4`, ...; None where that is unknown."""
    path = Path(path)
    try:
        if not path.is_file():  # a pipe is read once
            return None
        with path.open("rb") as file:
            head = file.read(512)
    except OSError:
        return None
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:11], ".mp4")
    if head[:4] == b"RIFF":
        return {b"WEBP": ".webp", b"AVI ": ".avi"}.get(head[8:12])
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return ".webm" if b"webm" in head[:64] else ".mkv"
    if any(
        len(head) > at + 2 * step and {head[at], head[at + step], head[at + 2 * step]} == {0x47} for at, step in _TS
    ):
        return ".ts"
    if head[4:8] in (b"moov", b"mdat", b"wide"):
        return ".mov"
    return next((suffix for begin, suffix in _BEGINNINGS if head.startswith(begin)), None)


_BRANDS = {b"avi": ".avif", b"hei": ".heic", b"hev": ".heic", b"mif": ".heic", b"qt ": ".mov", b"3gp": ".3gp"}
_TS = ((0, 188), (4, 192))  # where its packets begin, and how long they are
_BEGINNINGS = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"GIF8", ".gif"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"\0\0\0\x0cjP  ", ".jp2"),
    (b"\xff\x4f\xff\x51", ".j2k"),
    (b"OggS", ".ogv"),
    (b"FLV\x01", ".flv"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", ".wmv"),  # ASF
    (b"\x06\x0e\x2b\x34\x02\x05\x01\x01", ".mpg"),  # MXF; it and what follows is written as another kind
    (b"\0\0\x01\xba", ".mpg"),
    (b"\0\0\x01\xb3", ".mpg"),
    (b"\0\0\x01\xb0", ".mpg"),
    (b"\0\0\0\0\x01\xbc", ".mpg"),  # GXF
    (b"\xb7\xd8\0\x20\x37\x49\xda\x11", ".mpg"),  # WTV
    (b"\x1f\x07\0\xbf", ".mpg"),  # DV
    *((name, ".mpg") for name in (b"YUV4MPEG2", b"DKIF", b"nut/multimedia", b".RMF", b"\x12\0\x0a")),
    # H.264 and HEVC by themselves: a start code and what a film begins with, parameters or a delimiter
    *((code + unit, ".mpg") for code in (b"\0\0\1", b"\0\0\0\1") for unit in (b"\x67", b"\x27", b"\x09")),
    *((code + unit, ".mpg") for code in (b"\0\0\1", b"\0\0\0\1") for unit in (b"\x40\1", b"\x46\1")),
)


def is_animated(path: str | os.PathLike) -> bool:
    """Whether a file is a GIF, PNG or WebP of more than one frame. Reads its headers only."""
    path = Path(path)
    if suffix_by_content(path) not in ANIMATED_SUFFIXES:
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
    found = _by_number(Path(folder))
    return None if not found or _missing(found) else [found[number] for number in sorted(found)]


def gap_in(folder: str | os.PathLike) -> str | None:
    """Where the pictures of a folder would be the frames of a film, but for some that are missing: which, in words."""
    found = _by_number(Path(folder))
    missing = _missing(found)
    if not missing or len(found) < max(FEWEST_FRAMES, len(missing)):
        return None
    before = max(number for number in found if number < missing[0])
    return f"{folder}: the frame after {found[before].name} is missing" + (
        f", and {len(missing) - 1} more" if len(missing) > 1 else ""
    )


def _by_number(folder: Path) -> dict[int, Path]:
    try:
        names = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".") and entry.is_file()]
    except OSError:
        return {}
    paths = [Path(folder, name) for name in names if Path(name).suffix.lower() in FRAME_SUFFIXES]
    found = {int(match[1]): path for path in paths if (match := _NUMBERED.match(path.stem))}
    return {} if len(found) != len(paths) or len({path.suffix for path in paths}) > 1 else found


def _missing(found: Mapping[int, Path], most: int = 100_000) -> list[int]:
    """The numbers between the first and the last that are not there."""
    if not found or max(found) - min(found) > len(found) + most:
        return [] if not found else [min(found) + 1]
    return [number for number in range(min(found), max(found)) if number not in found]


def is_film(path: str | os.PathLike) -> bool:
    """Whether a path is to be read as a film though nobody says so: by content, and by suffix where that tells nothing.
    `video.open_film` takes any folder of numbered pictures."""
    path = Path(path)
    if path.is_dir():
        return is_frames(path)
    return kind_of(f"x{suffix_by_content(path) or path.suffix}") == "film" or is_animated(path)


def is_frames(folder: str | os.PathLike) -> bool:
    """Whether a folder's pictures must be the frames of a film: FEWEST_FRAMES at least, numbered as encoders number
    frames, padded with zeros to DIGITS or more, of one size, and neighbours look alike. Photos that were numbered by
    hand, and the portraits of a data set, do not."""
    frames = numbered_pictures(folder)
    return frames is not None and _are_frames(frames)


def are_frames_but_for_a_gap(folder: str | os.PathLike) -> bool:
    found = _by_number(Path(folder))
    return gap_in(folder) is not None and _are_frames([found[number] for number in sorted(found)])


def _are_frames(frames: Sequence[Path]) -> bool:
    if len(frames) < FEWEST_FRAMES:
        return False
    digits = {len(match[1]) for path in frames if (match := _NUMBERED.match(path.stem))}
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
