"""TIFFs of several pages: each is a picture of its own, with its size, colours, EXIF and resolution."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags
from PIL.TiffImagePlugin import AppendingTiffWriter

from dualstylegan.errors import BadFileError, DualStyleGANError
from dualstylegan.media.images import (
    MAX_MEGAPIXELS,
    Picture,
    as_picture,
    format_of,
    opened,
    read_picture,
    ready_for,
    write_picture,
)
from dualstylegan.runtime.files import whole_file

_SUBFILE, _NO_PAGE = ExifTags.Base.NewSubfileType, 1 | 4  # a smaller copy of another page, a mask


def read_pages(path: str | os.PathLike) -> list[Picture]:
    """All pages of a TIFF, previews left out; of any other picture what `read_picture` reads.

    Raises BadFileError as that does, and where the pages together have more than MAX_MEGAPIXELS.
    """
    pages: list[Picture] = []
    with opened(path) as image:
        count = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
        pixels = 0
        for number in range(count if count > 1 else 0):
            if number:
                image.info = {}  # what this page does not say is not the last one's
                image.seek(number)
            if int(getattr(image, "tag_v2", {}).get(_SUBFILE, 0)) & _NO_PAGE:
                continue
            pixels += image.width * image.height
            if pixels > MAX_MEGAPIXELS * 1_000_000:
                raise BadFileError(f"{path}: its {count} pages have more than {MAX_MEGAPIXELS} megapixels. Split it.")
            page = as_picture(image)
            for name in ("native", "stored"):
                if getattr(page, name) is image:
                    setattr(page, name, image.copy())
            pages.append(page)
    return pages or [read_picture(path)]


def holds_pages(path: str | os.PathLike) -> bool:
    """Whether several pages can be written under this name."""
    return format_of(Path(path)) == "TIFF"


def write_pages(path: str | os.PathLike, frames: Sequence[np.ndarray | None], like: Sequence[Picture]) -> None:
    """Write pages: pixels uint8 (H, W, 3) sRGB, None for those that are as `like` holds them. Where `path` holds one
    picture only, the first. Raises as `write_picture` does."""
    if len(like) == 1 or not holds_pages(path):
        write_picture(path, like[0] if frames[0] is None else frames[0], like=like[0])
        return
    with whole_file(path) as temporary, _Pages(temporary, new=True) as tiff:
        for number, (pixels, page) in enumerate(zip(frames, like, strict=True), 1):
            image, options = ready_for("TIFF", pixels, page)
            try:
                image.save(tiff, format="TIFF", **options)
                tiff.newFrame()
            except OSError:
                raise
            except Exception as error:  # whatever an encoder trips over
                raise DualStyleGANError(f"Cannot write page {number} of {path}: {error}.") from error


class _Pages(AppendingTiffWriter):
    """Pillow's writer of pages, which moves the places named in a page's table, but not those in EXIF's inner ones."""

    _INNER = frozenset({ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, ExifTags.IFD.Interop})
    Tags = AppendingTiffWriter.Tags | _INNER

    def fixIFD(self) -> None:
        start = self.f.tell()
        super().fixIFD()
        end = self.f.tell()
        self.f.seek(start)
        entries = [self.f.read(12) for _ in range(self._read(2))]
        for entry in entries:
            tag, _, _, place = struct.unpack(f"{self.endian}HHLL", entry)
            if tag in self._INNER:
                self.f.seek(place)
                self.fixIFD()
        self.f.seek(end)
