"""EXIF: what of a picture's tags is true of the picture that is written, in the space that its format has for them."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

from PIL import ExifTags, Image

# TIFF tags that describe how the pixels were stored; they would lie about the file we write.
_STORAGE_TAGS = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284, 292, 293, 317, 318, 319}
    | {320, 322, 323, 324, 325, 330, 338, 339, 347, 512, 513, 514, 519, 520, 521, 529, 530, 531, 532, 700, 34675}
)
_RESOLUTION = frozenset({ExifTags.Base.XResolution, ExifTags.Base.YResolution})
_INNER = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)

_Table = MutableMapping[int, Any]


def exif_of(image: Image.Image) -> bytes | None:
    """The EXIF block to write again: upright, no storage tags, no thumbnail (it would show the photo before)."""
    try:
        exif = image.getexif()
        if not exif:
            return None
        kept = Image.Exif()
        try:
            kept.load(exif.tobytes())
        except Exception:  # one tag that cannot be written is no reason to lose the others
            _drop_unwritable(exif)
            kept.load(exif.tobytes())
        for tag in _STORAGE_TAGS.intersection(kept):
            del kept[tag]
        for tag in _RESOLUTION.intersection(kept):
            if not 0 < kept[tag] < 1 << 32:  # 0/0, for example
                del kept[tag]
        if ExifTags.Base.Orientation in kept:
            kept[ExifTags.Base.Orientation] = 1
        return kept.tobytes() if kept else None
    except Exception:  # EXIF in the wild is often malformed; a photo is worth more than its tags
        return None


def exif_for(exif: bytes, width: int, height: int, most: int | None) -> tuple[bytes | None, bool]:
    """The same EXIF with the dimensions of what is written (a turned photo, a crop), in `most` bytes: the longest
    values go first, which are notes that makers alone can read, and previews. And whether it has inner tables."""
    kept = Image.Exif()
    kept.load(exif)
    details = kept.get_ifd(ExifTags.IFD.Exif)
    if ExifTags.Base.ExifImageWidth in details:
        details[ExifTags.Base.ExifImageWidth] = width
        details[ExifTags.Base.ExifImageHeight] = height
        exif = kept.tobytes()
    while most is not None and len(exif) > most:
        _, table, tag = max(((_length(value), table, tag) for table, tag, value in _tags(kept)), key=lambda one: one[0])
        del table[tag]
        exif = kept.tobytes()
    return exif if kept else None, bool(details) or ExifTags.IFD.GPSInfo in kept


def _tags(exif: Image.Exif) -> Iterator[tuple[_Table, int, Any]]:
    """Every value with the table that holds it."""
    for table in (exif, *(exif.get_ifd(number) for number in _INNER)):
        for tag in list(table):
            if table is not exif or tag not in _INNER:
                yield table, tag, table[tag]


def _length(value: Any) -> int:
    return len(value) * (8 if isinstance(value, tuple) else 1) if isinstance(value, bytes | str | tuple) else 8


def _drop_unwritable(exif: Image.Exif) -> None:
    for table, tag, value in list(_tags(exif)):
        alone = Image.Exif()
        alone[tag] = value
        try:
            alone.tobytes()
        except Exception:  # whatever a writer of tags trips over
            del table[tag]
