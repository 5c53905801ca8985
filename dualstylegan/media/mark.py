"""The mark that dsg leaves in the pictures and films it makes: a few words that no reader shows, no pixel changed.

By it a later run knows results from photos, wherever they lie. Most pictures have comments; films, and pictures that
have none, get it in a place that their formats leave to whoever writes them.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from dualstylegan.media.paths import kind_of

MARK = "made by dsg"
PROCESSING_SOFTWARE = 11  # a tag of EXIF; "Software" is often the camera's
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    f'<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="{MARK}"/>'
    "</rdf:RDF></x:xmpmeta>"
).encode()
_BMP = b"dsg\0"  # in the four bytes of a BMP's header that are the writing program's own


def mark(form: str, options: dict[str, Any]) -> None:
    """Add the mark to Pillow's `options` for saving in a format, in the way the format has for it."""
    if form == "PNG":
        told = options.setdefault("pnginfo", PngImagePlugin.PngInfo())
        told.add_text("Software", MARK)
    elif form in ("JPEG", "GIF", "JPEG2000"):
        options["comment"] = MARK.encode()
    elif form == "TGA":
        options["id_section"] = MARK.encode()
    elif form in ("WEBP", "AVIF"):
        options.setdefault("xmp", XMP)
    elif form == "TIFF":
        tags = Image.Exif()
        tags.load(options.get("exif", b""))
        tags[PROCESSING_SOFTWARE] = MARK
        options["exif"] = tags.tobytes()


def mark_file(path: Path, form: str) -> None:
    """Add the mark to a file that is written, in a format that Pillow or FFmpeg cannot mark: BMP, PPM, and films, whose
    players pass over what stands behind their end."""
    word = MARK.encode()
    if form == "BMP":
        with path.open("r+b") as file:
            file.seek(6)
            file.write(_BMP)
    elif form == "PPM" and (written := path.read_bytes())[:3] in (b"P5\n", b"P6\n"):
        path.write_bytes(written[:3] + b"# " + word + b"\n" + written[3:])
    elif end := _film_end(path, form, word):
        with path.open("ab") as file:
            file.write(end)


def _film_end(path: Path, form: str, word: bytes) -> bytes:
    if form in ("mp4", "mov", "3gp"):
        return struct.pack(">I4s", 8 + len(word), b"free") + word
    if form in ("matroska", "webm"):
        return b"\xec" + bytes([0x80 | len(word)]) + word  # EBML's Void
    if form == "avi":
        return b"JUNK" + struct.pack("<I", len(word)) + word + b"\0" * (len(word) % 2)
    if form == "flv":
        said = b"\x02" + struct.pack(">H", len(word)) + word + b"\x05"  # a name, and nothing
        return b"\x12" + len(said).to_bytes(3, "big") + b"\0" * 7 + said + struct.pack(">I", 11 + len(said))
    if form == "mpegts":
        empty = b"\x47\x1f\xff\x10" + word.ljust(184, b"\xff")  # a packet of nobody's
        return b"\0" * (4 if path.suffix.lower() in (".m2ts", ".mts") else 0) + empty
    return b""


def is_marked(path: str | os.PathLike) -> bool:
    """Whether dsg made this picture or film. Reads no more than headers; what cannot be read is not ours."""
    path = Path(path)
    kind = kind_of(path)
    if kind == "unknown" or not os.path.isfile(path):  # noqa: PTH113
        return False
    try:
        with path.open("rb") as file:
            head = file.read(64)
            file.seek(-min(256, path.stat().st_size), os.SEEK_END)
            if MARK.encode() in head + file.read() or (head.startswith(b"BM") and head[6:10] == _BMP):
                return True
        if kind == "film":
            return False
        with Image.open(path) as image:
            told = image.info
            said = [told.get(key, "") for key in ("Software", "comment", "xmp", "id_section")]
            if image.format == "TIFF":
                said.append(getattr(image, "tag_v2", {}).get(PROCESSING_SOFTWARE, ""))
    except Exception:  # whatever a decoder trips over
        return False
    return any(MARK in (one.decode("latin-1") if isinstance(one, bytes) else str(one)) for one in said)
