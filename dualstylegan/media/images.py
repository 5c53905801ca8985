"""Pictures in and out: the only place where files, uint8 pixels and [-1, 1] tensors meet.

Everything works on 8-bit sRGB. What a file holds besides is kept for writing: transparency, EXIF, the colour profile
(of a PNG also cICP, sRGB, gAMA, cHRM), resolution, and that a WebP is lossless. A picture in another RGB space (Display
P3, Adobe RGB) is converted to sRGB for work; on writing, pixels that were changed go back into the file's own space and
all others keep their old values: nothing outside a face shifts, and the profile stays attached. Grey, CMYK and Lab
pictures that were changed are written as sRGB, and so are all where the format has no place for a profile.
"""

from __future__ import annotations

import ctypes
import logging
import os
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError, features

from dualstylegan.errors import BadFileError, DualStyleGANError, UsageError
from dualstylegan.media.exif import exif_for, exif_of
from dualstylegan.media.mark import mark, mark_file
from dualstylegan.media.palettes import with_palette
from dualstylegan.media.paths import HEIF_HINT, HEIF_SUFFIXES, reads_heif
from dualstylegan.media.profiles import is_srgb, png_words, profile_of, srgb_profile, transform
from dualstylegan.runtime.files import whole_file

JPEG_QUALITY = 95
MAX_MEGAPIXELS = 178  # Pillow's own refusal, twice its warning: a 102 MP camera is served, a bomb is not

if reads_heif():
    import_module("pillow_heif").register_heif_opener()

# Of a photo beyond half that limit, or with odd EXIF, Pillow warns on stderr: no help to someone who meant to open it.
# Of damaged ones its log does, where nobody set one up, and libtiff by itself; what went wrong is in the error raised.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())
try:
    _pillow = ctypes.CDLL(Image.core.__file__)  # through which the libraries it brings are found, too
    _pillow.TIFFSetErrorHandler(None)
    _pillow.TIFFSetWarningHandler(None)
except (OSError, AttributeError):  # a Pillow that hides its libtiff, as on Windows
    pass

_WITH_ALPHA = frozenset(
    {"PNG", "WEBP", "TIFF", "AVIF", "JPEG2000", "TGA", "BMP", "GIF", "ICO", "ICNS", "DDS", "IM", "QOI", "SGI"}
)
_WITH_GREY_ALPHA = frozenset({"PNG", "TIFF", "JPEG2000", "TGA", "IM"})
_WITH_PROFILE = frozenset({"JPEG", "PNG", "WEBP", "TIFF", "AVIF"})
_OF_TIFF = frozenset({"1", "P", "I;16", "I;16B", "I", "F", "LAB"})
_MOST_EXIF = {"JPEG": 65533}  # bytes, in one marker
_MOST_DPI = {"JPEG": (1 << 16) - 1, "PNG": 1e8, "BMP": 5e7, "TIFF": 1e9}


@dataclass
class Picture:
    """One decoded picture, upright. `pixels` uint8 (H, W, 3) sRGB; `alpha` uint8 (H, W) or None.

    `icc` and `exif` are the source's (orientation reset to upright); `native` holds the decoded picture in its own
    colour space where that is not sRGB. `words` are a PNG's chunks about its colours, and `made_icc` the profile they
    come to where it is these that count. `lossless` is said of a WebP. `stored` is the decoded picture where its mode
    is one that a page of a TIFF may have again.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    native: Image.Image | None = field(default=None, repr=False)
    words: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)
    made_icc: bytes | None = field(default=None, repr=False)
    lossless: bool = False
    stored: Image.Image | None = field(default=None, repr=False)

    @property
    def profile(self) -> bytes | None:
        """The ICC profile of `native`, or of the pixels where there is none."""
        return self.made_icc or self.icc

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        return self.pixels.shape[1]


def read_picture(path: str | os.PathLike) -> Picture:
    """Read the first frame of any picture Pillow knows, turned upright, as 8-bit sRGB with the rest kept aside.

    Raises BadFileError for what is missing, not a picture, damaged, cut off or beyond MAX_MEGAPIXELS.
    """
    with opened(path) as image:
        image.load()
        words, lossless = {}, False
        if image.format in ("PNG", "WEBP"):
            with Path(path).open("rb") as stream:
                words = png_words(stream) if image.format == "PNG" else {}
                lossless = image.format == "WEBP" and webp_is_lossless(stream)
        picture = _from_pillow(image, words)
        picture.lossless = lossless
        return picture


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[Image.Image]:
    """A picture's file as Pillow has it. What goes wrong with it is a BadFileError."""
    # Of a path, Pillow maps uncompressed TIFFs into memory, and then turns them wrongly.
    with decoding(path), Path(path).open("rb") as stream, Image.open(stream) as image:
        yield image


@contextmanager
def decoding(path: str | os.PathLike) -> Iterator[None]:
    """Whatever a decoder trips over in a picture's file, as BadFileError: one line that names it."""
    path = Path(path)
    try:
        yield
    except DualStyleGANError:
        raise
    except FileNotFoundError:
        raise BadFileError(f"{path}: no such file.") from None
    except IsADirectoryError:
        raise BadFileError(f"{path} is a folder, not a picture.") from None
    except PermissionError:
        raise BadFileError(f"{path}: no permission to read it.") from None
    except UnidentifiedImageError:
        empty = path.is_file() and path.stat().st_size == 0
        hint = f": {HEIF_HINT}" if path.suffix.lower() in HEIF_SUFFIXES and not reads_heif() else ""
        raise BadFileError(f"{path} {'is empty' if empty else 'is not a picture dsg can read'}{hint}.") from None
    except Image.DecompressionBombError:
        raise BadFileError(f"{path} has more than {MAX_MEGAPIXELS} megapixels. Scale it down first.") from None
    except MemoryError:
        raise BadFileError(f"{path} does not fit into memory. Scale it down first.") from None
    except Exception as error:  # OSError, SyntaxError, struct.error, zlib.error, IndexError, RecursionError, ...
        raise BadFileError(f"{path} is damaged or cut off ({error or type(error).__name__}).") from error


def webp_is_lossless(stream: BinaryIO) -> bool:
    """Whether the (first) picture of a WebP is coded without loss."""
    stream.seek(12)
    while len(head := stream.read(8)) == 8 and head[:4] not in (b"VP8 ", b"VP8L"):
        length = int.from_bytes(head[4:], "little")
        stream.seek(16 if head[:4] == b"ANMF" else length + length % 2, os.SEEK_CUR)  # a frame: chunks inside a chunk
    return head[:4] == b"VP8L"


def as_picture(image: Image.Image | np.ndarray) -> Picture:
    """A PIL image in any mode, or uint8 pixels (H, W, 3) RGB, as a Picture."""
    if isinstance(image, Image.Image):
        image.load()
        return _from_pillow(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        shape = "x".join(map(str, image.shape))
        raise UsageError(f"A picture is uint8 (H, W, 3) RGB, or a PIL image; this array is {image.dtype} {shape}.")
    return Picture(image)


def _from_pillow(image: Image.Image, words: Mapping[bytes, bytes] | None = None) -> Picture:
    kept: dict[str, Any] = {"icc": image.info.get("icc_profile"), "exif": exif_of(image), "dpi": image.info.get("dpi")}
    with suppress(Exception):  # a broken EXIF block does not make the pixels unreadable
        ImageOps.exif_transpose(image, in_place=True)
    kept["stored"] = image if image.mode in _OF_TIFF else None
    alpha = None
    if image.has_transparency_data:
        image, alpha = _without_alpha(image, deep=(words or {}).get(b"IHDR", b"")[8:9] == b"\x10")
    image = _eight_bit(image)
    if words:
        kept["words"] = {name: data for name, data in words.items() if name != b"IHDR"}
        kept["made_icc"] = profile_of(kept["words"], image.mode == "L", bool(kept["icc"]))
    picture = Picture(np.empty(0), alpha, **kept)
    if image.mode == "RGB" and is_srgb(picture.profile):
        picture.pixels = _array(image)
    else:
        picture.pixels, picture.native = _array(_to_srgb(image, picture.profile)), image
    return picture


def _without_alpha(image: Image.Image, deep: bool) -> tuple[Image.Image, np.ndarray]:
    """The colours under the transparency, and it: uint8 (H, W). `deep` are those that Pillow narrowed from 16 bits."""
    clear = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        alpha = np.where(np.asarray(image) == clear, 0, 255).astype(np.uint8)
    else:
        if deep and isinstance(clear, tuple):
            image.info["transparency"] = tuple(level >> 8 for level in clear)
        image = image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
        alpha = np.asarray(image.getchannel("A"))
        image = image.convert("L" if image.mode == "LA" else "RGB")  # drops A, keeps the colours under it
    image.info.pop("transparency", None)
    return image, alpha


def _array(image: Image.Image) -> np.ndarray:
    return np.array(image)  # a copy of our own: Pillow's buffer is read-only, and frames are pasted into in place


def _eight_bit(image: Image.Image) -> Image.Image:
    """Modes with other than 8 bits, and palettes, in a mode with 8 bits. 16-bit RGB Pillow has narrowed by itself."""
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        with np.errstate(invalid="ignore"):  # damaged files hold numbers that are none
            values = np.nan_to_num(np.asarray(image).astype(np.float64))
        top = float(values.max(initial=0))
        if image.mode == "F":
            white = 1.0 if top <= 1 else 255.0 if top <= 255 else 65535.0
        else:
            white = 255.0 if top <= 255 else 65535.0 if top <= 65535 else 2.0**31 - 1
        return Image.fromarray((values.clip(0, white) * (255 / white) + 0.5).astype(np.uint8))
    return image.convert("L" if image.mode == "1" else "RGB")


# --- colour spaces


def _to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    to_srgb = transform(icc, image.mode)
    return image.convert("RGB") if to_srgb is None else to_srgb.apply(image)


def _in_own_space(pixels: np.ndarray, like: Picture) -> tuple[Image.Image, bool]:
    """`pixels` (H, W, 3) sRGB in the source's colour space where that can hold them, and whether it could."""
    if like.native is None:
        return Image.fromarray(pixels), True
    if like.native.size == (pixels.shape[1], pixels.shape[0]):
        changed = (pixels != np.asarray(_to_srgb(like.native, like.profile))).any(-1)
        if not changed.any():
            return like.native, True
    else:
        changed = None
    back = transform(like.profile, "RGB", inverse=True) if like.native.mode == "RGB" else None
    if back is None:
        return Image.fromarray(pixels), False
    image = back.apply(Image.fromarray(pixels))
    if changed is not None:
        image = Image.composite(image, like.native, Image.fromarray(changed))
    return image, True


# --- writing


def write_picture(
    path: str | os.PathLike, picture: Picture | np.ndarray | Image.Image, *, like: Picture | None = None
) -> None:
    """Write a Picture, or pixels uint8 (H, W, 3) sRGB, in the format `path`'s suffix names; whole or not at all.

    `like` is the Picture the pixels came from: its EXIF, colour profile and resolution are written along, and its alpha
    when the size is the same and the format can hold it (else the picture is laid on white). JPEG is 4:4:4. Raises
    UsageError for a suffix that is no picture format, DualStyleGANError when the file cannot be written.
    """
    path = Path(path)
    form = format_of(path)
    if isinstance(picture, Picture):
        like = picture if like is None else like
        pixels = picture.pixels
    else:
        pixels = np.asarray(picture.convert("RGB") if isinstance(picture, Image.Image) else picture)
    image, options = ready_for(form, pixels, Picture(pixels) if like is None else like)
    with whole_file(path) as temporary:
        try:
            _save(image, temporary, form, options)
            mark_file(temporary, form)
        except OSError:
            raise
        except Exception as error:  # encoders have limits of their own: 16383 px for WebP, 65535 for JPEG
            size = f"{image.width} x {image.height} px"
            raise DualStyleGANError(f"Cannot write {path} ({size}) as {form}: {error}.") from error


def ready_for(form: str, pixels: np.ndarray | None, like: Picture) -> tuple[Image.Image, dict[str, Any]]:
    """What Pillow saves in a format, and with what: `pixels` uint8 (H, W, 3) sRGB, made of `like`. None: as it was."""
    stored = like.stored if pixels is None and form == "TIFF" else None
    pixels = like.pixels if pixels is None else pixels
    height, width = pixels.shape[:2]
    clear = like.alpha if like.alpha is not None and like.alpha.shape == (height, width) else None
    image, own = _in_own_space(pixels, like) if stored is None else (stored, True)
    in_ink = image.mode == "CMYK" and (clear is not None or form not in ("JPEG", "TIFF"))
    if (image.mode == "LAB" and stored is None) or in_ink or (like.profile and form not in _WITH_PROFILE):
        image, own = Image.fromarray(pixels), False
    if clear is not None:
        alpha = Image.fromarray(clear)
        if form in _WITH_ALPHA:
            image = image.convert("RGB") if image.mode == "L" and form not in _WITH_GREY_ALPHA else image
            image = image.copy() if image is like.native else image
            image.putalpha(alpha)
        else:
            white = Image.new(image.mode, image.size, "white")
            image = Image.composite(image, white, alpha)
    elif form == "QOI":
        image = image.convert("RGB")

    extra: dict[str, Any] = dict(_SETTINGS.get(form, {}))
    if form == "GIF":
        image, extra["transparency"] = with_palette(image)
    if form == "WEBP" and like.lossless:
        extra = {"lossless": True, "exact": True, "quality": 50, "method": 2}
    if form in _WITH_PROFILE:
        extra["icc_profile"] = like.profile if own else like.profile and srgb_profile()
    if form == "PNG" and own and like.words:
        extra["icc_profile"], extra["pnginfo"] = like.icc, PngImagePlugin.PngInfo()
        for name, data in like.words.items():
            extra["pnginfo"].add(name, data)
    if like.exif and form in _WITH_PROFILE:
        exif, nested = exif_for(like.exif, width, height, _MOST_EXIF.get(form))
        if exif:
            extra["exif"] = exif
        if form == "TIFF" and nested:
            del extra["compression"]  # Pillow's compressed TIFFs cannot hold EXIF's inner tables
    if like.dpi and form in _MOST_DPI and all(0 < value <= _MOST_DPI[form] for value in like.dpi):
        extra["dpi"] = like.dpi
    mark(form, extra)
    return image, extra


def _save(image: Image.Image, path: Path, form: str, extra: dict) -> None:
    if form == "BMP" and image.mode == "RGBA":
        path.write_bytes(_bmp_with_alpha(image, extra.get("dpi", (0, 0))))
        return
    try:
        image.save(path, format=form, **extra)
    except Exception:
        if "exif" not in extra:
            raise
        # Tags that were read are not always tags that can be written (64 KiB in a JPEG); the picture matters more.
        image.save(path, format=form, **{key: value for key, value in extra.items() if key != "exif"})


def _bmp_with_alpha(image: Image.Image, dpi: tuple[float, float]) -> bytes:
    """A BMP of version 4, which says that its fourth byte is transparency; Pillow writes that byte and does not say."""
    pixels, (width, height) = image.tobytes("raw", "BGRA", 0, -1), image.size
    masks = 0xFF0000, 0xFF00, 0xFF, 0xFF000000
    per_metre = [round(value / 0.0254) for value in dpi]
    head = struct.pack("<IiiHHIIiiII4I4s", 108, width, height, 1, 32, 3, len(pixels), *per_metre, 0, 0, *masks, b"BGRs")
    head = head.ljust(108, b"\0")
    return struct.pack("<2sIII", b"BM", 14 + len(head) + len(pixels), 0, 14 + len(head)) + head + pixels


# Run lengths over PNG's filters take a third of the default's time and no more bytes: photos hold few repeats.
_SETTINGS = {
    "JPEG": {"quality": JPEG_QUALITY, "subsampling": "4:4:4"},
    "PNG": {"compress_level": 1, "compress_type": Image.RLE},
    "WEBP": {"quality": JPEG_QUALITY, "method": 2},
    "TIFF": {"compression": "tiff_lzw"},
    "AVIF": {"quality": JPEG_QUALITY, "subsampling": "4:4:4", "speed": 8},
}


def check_format(path: str | os.PathLike) -> None:
    """Raises UsageError where `write_picture` would refuse the suffix of `path`: better before the work than after."""
    format_of(Path(path))


def format_of(path: Path) -> str:
    """Pillow's name of the format that a suffix names. Raises UsageError where it names none that can be written."""
    Image.init()
    form = Image.registered_extensions().get(path.suffix.lower(), "")
    form = {"MPO": "JPEG"}.get(form, form)
    if form not in Image.SAVE or form in ("PDF", "EPS") or (form == "AVIF" and not features.check("avif")):
        raise UsageError(f"Cannot write {path.name}: '{path.suffix}' is no picture format. Try .jpg, .png or .webp.")
    return form


# --- tensors


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (H, W, 3) or (B, H, W, 3) to float32 (3, H, W) or (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).movedim(-1, -3).contiguous().float().div_(127.5).sub_(1)


def from_tensor(image: torch.Tensor) -> np.ndarray:
    """Float (3, H, W) or (B, 3, H, W), clamped to [-1, 1], to uint8 (H, W, 3) or (B, H, W, 3)."""
    return to_levels(image).round_().to(torch.uint8).movedim(-3, -1).contiguous().cpu().numpy()


def to_levels(image: torch.Tensor) -> torch.Tensor:
    """Float of any shape, clamped to [-1, 1], to float in [0, 255], not rounded: for what is resampled before it is."""
    return image.detach().float().clamp(-1, 1).add_(1).mul_(127.5)
