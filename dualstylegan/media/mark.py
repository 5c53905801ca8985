"""The mark that dsg leaves in the pictures it makes: a few words among the file's own comments, no pixel changed.

By it a later run knows results from photos, wherever they lie. Formats without comments (BMP, PPM, films) go without.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from dualstylegan.media.paths import kind_of

MARK = "made by dsg"
PROCESSING_SOFTWARE = 11  # a tag of EXIF; "Software" is often the camera's
_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    f'<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="{MARK}"/>'
    "</rdf:RDF></x:xmpmeta>"
)


def mark(form: str, options: dict[str, Any]) -> None:
    """Add the mark to Pillow's `options` for saving in a format, in the way the format has for it."""
    if form == "PNG":
        told = options.setdefault("pnginfo", PngImagePlugin.PngInfo())
        told.add_text("Software", MARK)
    elif form in ("JPEG", "GIF"):
        options["comment"] = MARK.encode()
    elif form in ("WEBP", "AVIF"):
        options.setdefault("xmp", _XMP.encode())
    elif form == "TIFF":
        tags = Image.Exif()
        tags.load(options.get("exif", b""))
        tags[PROCESSING_SOFTWARE] = MARK
        options["exif"] = tags.tobytes()


def is_marked(path: str | os.PathLike) -> bool:
    """Whether dsg made this picture. Reads its headers only; what cannot be read is not ours."""
    path = Path(path)
    if kind_of(path) != "picture" or not path.is_file():
        return False
    try:
        with Image.open(path) as image:
            told = image.info
            said = [told.get(key, "") for key in ("Software", "comment", "xmp")]
            if image.format == "TIFF":
                said.append(getattr(image, "tag_v2", {}).get(PROCESSING_SOFTWARE, ""))
    except Exception:  # whatever a decoder trips over
        return False
    return any(MARK in (one.decode("latin-1") if isinstance(one, bytes) else str(one)) for one in said)
