"""Pictures in and out: the only place where files, uint8 pixels and [-1, 1] tensors meet.

Everything works on 8-bit sRGB. What a file holds besides is kept for writing: transparency, EXIF, the colour profile
and resolution. A picture in another RGB space (Display P3, Adobe RGB) is converted to sRGB for work; on writing, pixels
that were changed go back into the file's own space and all others keep their old values: nothing outside a face shifts,
and the profile stays attached. Grey, CMYK and Lab pictures that were changed are written as sRGB.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError, features

from dualstylegan.errors import BadFileError, DualStyleGANError, UsageError
from dualstylegan.runtime.files import whole_file

JPEG_QUALITY = 95
MAX_MEGAPIXELS = 178  # Pillow's own refusal, twice its warning: a 102 MP camera is served, a bomb is not

# Of a photo beyond half that limit, or with odd EXIF, Pillow warns on stderr: no help to someone who meant to open it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

# TIFF tags that describe how the pixels were stored; they would lie about the file we write.
_STORAGE_TAGS = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284, 292, 293, 317, 318, 319}
    | {320, 322, 323, 324, 325, 330, 338, 339, 347, 512, 513, 514, 519, 520, 521, 529, 530, 531, 532, 700, 34675}
)
_WITH_ALPHA = frozenset({"PNG", "WEBP", "TIFF", "AVIF"})
_WITH_PROFILE = frozenset({"JPEG", "PNG", "WEBP", "TIFF", "AVIF"})


@dataclass
class Picture:
    """One decoded picture, upright. `pixels` uint8 (H, W, 3) sRGB; `alpha` uint8 (H, W) or None.

    `icc` and `exif` are the source's (orientation reset to upright); `native` holds the decoded picture in its own
    colour space where that is not sRGB.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    native: Image.Image | None = field(default=None, repr=False)

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
    path = Path(path)
    try:
        with Image.open(path) as image:
            image.load()
            return _from_pillow(image)
    except FileNotFoundError:
        raise BadFileError(f"{path}: no such file.") from None
    except IsADirectoryError:
        raise BadFileError(f"{path} is a folder, not a picture.") from None
    except PermissionError:
        raise BadFileError(f"{path}: no permission to read it.") from None
    except UnidentifiedImageError:
        empty = path.is_file() and path.stat().st_size == 0
        raise BadFileError(f"{path} {'is empty' if empty else 'is not a picture dsg can read'}.") from None
    except Image.DecompressionBombError:
        raise BadFileError(f"{path} has more than {MAX_MEGAPIXELS} megapixels. Scale it down first.") from None
    except MemoryError:
        raise BadFileError(f"{path} does not fit into memory. Scale it down first.") from None
    except Exception as error:  # decoders raise whatever they trip over: OSError, SyntaxError, struct.error, zlib.error
        raise BadFileError(f"{path} is damaged or cut off ({error}).") from error


def as_picture(image: Image.Image | np.ndarray) -> Picture:
    """A PIL image in any mode, or uint8 pixels (H, W, 3) RGB, as a Picture."""
    if isinstance(image, Image.Image):
        image.load()
        return _from_pillow(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        shape = "x".join(map(str, image.shape))
        raise UsageError(f"A picture is uint8 (H, W, 3) RGB, or a PIL image; this array is {image.dtype} {shape}.")
    return Picture(image)


def _from_pillow(image: Image.Image) -> Picture:
    icc, dpi, exif = image.info.get("icc_profile"), image.info.get("dpi"), _exif_of(image)
    image = _upright(image)
    alpha = None
    if image.has_transparency_data and not image.mode.startswith("I;16"):  # a 16-bit transparent grey is dropped
        image = image.convert("RGBA" if image.mode not in ("L", "LA", "La") else "LA")
        alpha = np.asarray(image.getchannel("A"))
        image = image.convert("RGB" if image.mode == "RGBA" else "L")  # drops A, keeps the colours under it
    image = _eight_bit(image)
    if image.mode == "RGB" and _is_srgb(icc):
        return Picture(_array(image), alpha, icc, exif, dpi)
    return Picture(_array(_to_srgb(image, icc)), alpha, icc, exif, dpi, native=image)


def _array(image: Image.Image) -> np.ndarray:
    return np.array(image)  # a copy of our own: Pillow's buffer is read-only, and frames are pasted into in place


def _eight_bit(image: Image.Image) -> Image.Image:
    """Modes with other than 8 bits, and palettes, in a mode with 8 bits. 16-bit RGB Pillow has narrowed by itself."""
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        values = np.nan_to_num(np.asarray(image).astype(np.float64))
        top = float(values.max(initial=0))
        if image.mode == "F":
            white = 1.0 if top <= 1 else 255.0 if top <= 255 else 65535.0
        else:
            white = 255.0 if top <= 255 else 65535.0 if top <= 65535 else 2.0**31 - 1
        return Image.fromarray((values.clip(0, white) * (255 / white) + 0.5).astype(np.uint8))
    return image.convert("L" if image.mode == "1" else "RGB")


# --- orientation and EXIF


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # a broken EXIF block does not make the pixels unreadable
        return image
    return image if turn is None else image.transpose(turn)


def _exif_of(image: Image.Image) -> bytes | None:
    """The EXIF block to write again: upright, no storage tags, no thumbnail (it would show the photo before)."""
    try:
        exif = image.getexif()
        if not exif:
            return None
        kept = Image.Exif()
        kept.load(exif.tobytes())
        for tag in _STORAGE_TAGS.intersection(kept):
            del kept[tag]
        if ExifTags.Base.Orientation in kept:
            kept[ExifTags.Base.Orientation] = 1
        return kept.tobytes() if kept else None
    except Exception:  # EXIF in the wild is often malformed; a photo is worth more than its tags
        return None


def _exif_for(exif: bytes, width: int, height: int) -> tuple[bytes, bool]:
    """The same EXIF with the dimensions of what is written (a turned photo, a crop); whether it has inner tables."""
    kept = Image.Exif()
    kept.load(exif)
    details = kept.get_ifd(ExifTags.IFD.Exif)
    if ExifTags.Base.ExifImageWidth in details:
        details[ExifTags.Base.ExifImageWidth] = width
        details[ExifTags.Base.ExifImageHeight] = height
        exif = kept.tobytes()
    return exif, bool(details) or ExifTags.IFD.GPSInfo in kept


# --- colour spaces


@lru_cache(maxsize=32)
def _transform(icc: bytes | None, mode: str, inverse: bool = False) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB, or back. None where there is no usable profile for this mode."""
    srgb = ImageCms.createProfile("sRGB")
    try:
        if mode == "LAB":
            profile = ImageCms.createProfile("LAB")
        elif icc is None:
            return None
        else:
            profile = ImageCms.ImageCmsProfile(BytesIO(icc))
        ends = (srgb, profile, "RGB", mode) if inverse else (profile, srgb, mode, "RGB")
        return ImageCms.buildTransform(
            *ends, renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC, flags=ImageCms.Flags.BLACKPOINTCOMPENSATION
        )
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):  # a profile for other channels, damaged, or one-way
        return None


@lru_cache(maxsize=32)
def _is_srgb(icc: bytes | None) -> bool:
    """Whether the profile is sRGB under any of its many names: it moves no colour by more than one step of 255."""
    transform = _transform(icc, "RGB")
    if transform is None:
        return True  # no profile, or none that can be applied: sRGB is what everyone else assumes
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(27, 27, 3)
    moved = np.asarray(transform.apply(Image.fromarray(colours))).astype(int)
    return bool(np.abs(moved - colours).max() <= 1)


@lru_cache(maxsize=1)
def _srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    transform = _transform(icc, image.mode)
    return image.convert("RGB") if transform is None else transform.apply(image)


def _in_own_space(pixels: np.ndarray, like: Picture) -> tuple[Image.Image, bytes | None]:
    """`pixels` (H, W, 3) sRGB in the source's colour space where that can hold them, with the profile to attach."""
    srgb = _srgb_profile() if like.icc else None
    if like.native is None:
        return Image.fromarray(pixels), like.icc
    if like.native.size == (pixels.shape[1], pixels.shape[0]):
        changed = (pixels != np.asarray(_to_srgb(like.native, like.icc))).any(-1)
        if not changed.any():
            return like.native, like.icc
    else:
        changed = None
    back = _transform(like.icc, "RGB", inverse=True) if like.native.mode == "RGB" else None
    if back is None:
        return Image.fromarray(pixels), srgb
    image = back.apply(Image.fromarray(pixels))
    if changed is not None:
        image = Image.composite(image, like.native, Image.fromarray(changed))
    return image, like.icc


# --- writing


def write_picture(
    path: str | os.PathLike,
    picture: Picture | np.ndarray | Image.Image,
    *,
    like: Picture | None = None,
    quality: int = JPEG_QUALITY,
) -> None:
    """Write a Picture, or pixels uint8 (H, W, 3) sRGB, in the format `path`'s suffix names; whole or not at all.

    `like` is the Picture the pixels came from: its EXIF, colour profile and resolution are written along, and its alpha
    when the size is the same and the format can hold it (else the picture is laid on white). JPEG is 4:4:4. Raises
    UsageError for a suffix that is no picture format, DualStyleGANError when the file cannot be written.
    """
    path = Path(path)
    form = _format_of(path)
    if isinstance(picture, Picture):
        like = picture if like is None else like
        pixels = picture.pixels
    else:
        pixels = np.asarray(picture.convert("RGB") if isinstance(picture, Image.Image) else picture)
    like = Picture(pixels) if like is None else like
    height, width = pixels.shape[:2]

    image, icc = _in_own_space(pixels, like)
    if image.mode == "LAB" or (image.mode == "CMYK" and form not in ("JPEG", "TIFF")):
        image, icc = Image.fromarray(pixels), _srgb_profile() if icc else None
    if like.alpha is not None and like.alpha.shape == (height, width):
        alpha = Image.fromarray(like.alpha)
        if form in _WITH_ALPHA:
            if image.mode not in ("RGB", "L"):
                image, icc = Image.fromarray(pixels), _srgb_profile()
            image = image.copy() if image is like.native else image
            image.putalpha(alpha)
        else:
            white = Image.new(image.mode, image.size, 0 if image.mode == "CMYK" else "white")
            image = Image.composite(image, white, alpha)

    extra: dict = dict(_SETTINGS.get(form, {}))
    if "quality" in extra:
        extra["quality"] = quality
    if icc and form in _WITH_PROFILE:
        extra["icc_profile"] = icc
    if like.exif and form in _WITH_PROFILE:
        extra["exif"], nested = _exif_for(like.exif, width, height)
        if form == "TIFF" and nested:
            del extra["compression"]  # Pillow's compressed TIFFs cannot hold EXIF's inner tables
    if like.dpi and form in ("JPEG", "PNG", "TIFF", "BMP"):
        extra["dpi"] = like.dpi
    with whole_file(path) as temporary:
        try:
            _save(image, temporary, form, extra)
        except OSError:
            raise
        except Exception as error:  # encoders have limits of their own: 16383 px for WebP, 65535 for JPEG
            raise DualStyleGANError(f"Cannot write {path} ({width} x {height} px) as {form}: {error}.") from error


def _save(image: Image.Image, path: Path, form: str, extra: dict) -> None:
    try:
        image.save(path, format=form, **extra)
    except Exception:
        if "exif" not in extra:
            raise
        # Tags that were read are not always tags that can be written (64 KiB in a JPEG); the picture matters more.
        image.save(path, format=form, **{key: value for key, value in extra.items() if key != "exif"})


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
    _format_of(Path(path))


def _format_of(path: Path) -> str:
    Image.init()
    form = Image.registered_extensions().get(path.suffix.lower())
    form = {"MPO": "JPEG"}.get(form, form)
    if form not in Image.SAVE or (form == "AVIF" and not features.check("avif")):
        raise UsageError(f"Cannot write {path.name}: '{path.suffix}' is no picture format. Try .jpg, .png or .webp.")
    return form


# --- tensors


def to_tensor(pixels: np.ndarray, device: torch.device | str | None = None) -> torch.Tensor:
    """uint8 (H, W, 3) or (B, H, W, 3) to float32 (3, H, W) or (B, 3, H, W) in [-1, 1]."""
    tensor = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
    return tensor.movedim(-1, -3).contiguous().float().div_(127.5).sub_(1)


def from_tensor(image: torch.Tensor) -> np.ndarray:
    """Float (3, H, W) or (B, 3, H, W), clamped to [-1, 1], to uint8 (H, W, 3) or (B, H, W, 3)."""
    return to_levels(image).round_().to(torch.uint8).movedim(-3, -1).contiguous().cpu().numpy()


def to_levels(image: torch.Tensor) -> torch.Tensor:
    """Float of any shape, clamped to [-1, 1], to float in [0, 255], not rounded: for what is resampled before it is."""
    return image.detach().float().clamp(-1, 1).add_(1).mul_(127.5)
