"""Colour spaces: ICC profiles to sRGB and back, and the profile that a PNG's own words for its colours come to."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageCms

from dualstylegan.media.film import hdr

# --- profiles and sRGB


@lru_cache(maxsize=32)
def transform(icc: bytes | None, mode: str, inverse: bool = False) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB, or back. None where there is no usable profile for this mode."""
    srgb = ImageCms.createProfile("sRGB")
    profile: Any
    try:
        if mode == "LAB":
            profile = ImageCms.createProfile("LAB")
        elif icc is None:
            return None
        else:
            profile = ImageCms.ImageCmsProfile(BytesIO(icc))
        source, target, read, made = (srgb, profile, "RGB", mode) if inverse else (profile, srgb, mode, "RGB")
        return ImageCms.buildTransform(
            source,
            target,
            read,
            made,
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):  # a profile for other channels, damaged, or one-way
        return None


@lru_cache(maxsize=32)
def is_srgb(icc: bytes | None) -> bool:
    """Whether the profile is sRGB under any of its many names: it moves no colour by more than one step of 255."""
    to_srgb = transform(icc, "RGB")
    if to_srgb is None:
        return True  # no profile, or none that can be applied: sRGB is what everyone else assumes
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(27, 27, 3)
    moved = np.asarray(to_srgb.apply(Image.fromarray(colours))).astype(int)
    return bool(np.abs(moved - colours).max() <= 1)


@lru_cache(maxsize=1)
def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


# --- a PNG's words

_LENGTHS = {b"IHDR": 13, b"cICP": 4, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}
_SRGB = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290)  # red, green, blue, white: x, y
_PRIMARIES = {  # ITU-T H.273's numbers; what is not here counts as sRGB's
    4: (0.67, 0.33, 0.21, 0.71, 0.14, 0.08, 0.310, 0.316),
    5: (0.64, 0.33, 0.29, 0.60, 0.15, 0.06, 0.3127, 0.3290),
    6: (0.63, 0.34, 0.31, 0.595, 0.155, 0.07, 0.3127, 0.3290),
    7: (0.63, 0.34, 0.31, 0.595, 0.155, 0.07, 0.3127, 0.3290),
    9: (0.708, 0.292, 0.17, 0.797, 0.131, 0.046, 0.3127, 0.3290),
    11: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.314, 0.351),
    12: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.3290),
}
_EXPONENTS = {4: 2.2, 5: 2.8, 8: 1.0}  # other transfers, but for HDR's, count as sRGB's, as they do in films


def png_words(stream: BinaryIO) -> dict[bytes, bytes]:
    """The chunks in which a PNG says what its numbers mean, and IHDR; what is of a wrong length counts as not said."""
    words: dict[bytes, bytes] = {}
    stream.seek(8)
    while len(head := stream.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
        length, name = int.from_bytes(head[:4], "big"), head[4:]
        if _LENGTHS.get(name) == length:
            words[name] = stream.read(length)
            length = 0
        stream.seek(length + 4, 1)
    return words


def profile_of(words: Mapping[bytes, bytes], grey: bool, has_icc: bool) -> bytes | None:
    """The profile that `png_words` come to. None for sRGB, and where the file's ICC profile comes first."""
    code = np.linspace(0, 1, 4096)
    srgb_light = _light(code, 13)
    if cicp := words.get(b"cICP"):
        primaries, light = _PRIMARIES.get(cicp[0], _SRGB), _light(code, cicp[1])
    elif has_icc or b"sRGB" in words or not words.keys() & {b"gAMA", b"cHRM"}:
        return None
    else:
        primaries, light = _SRGB, srgb_light
        if b"cHRM" in words:
            white_x, white_y, *colours = (value / 100_000 for value in struct.unpack(">8I", words[b"cHRM"]))
            primaries = (*colours, white_x, white_y)
        gamma = int.from_bytes(words.get(b"gAMA", b""), "big") / 100_000
        if 0.1 < gamma < 10 and abs(gamma - 1 / 2.2) > 0.01:  # so near, it is how PNGs say sRGB in short
            light = code ** (1 / gamma)
    profile = None if grey and light is srgb_light else _profile(primaries, light, grey)
    return None if not grey and is_srgb(profile) else profile


def _light(code: np.ndarray, transfer: int) -> np.ndarray:
    if transfer in (hdr.PQ, hdr.HLG):
        return hdr.pressed_light(code, transfer)
    if transfer in _EXPONENTS:
        return code ** _EXPONENTS[transfer]
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


def _profile(primaries: Sequence[float], light: np.ndarray, grey: bool) -> bytes | None:
    """An ICC profile (version 2) of a screen: a curve, and the colours it is mixed of, seen in D50. None where these
    are none."""
    d50 = np.array([0.9642, 1.0, 0.8249])
    points = np.array(primaries).reshape(4, 2)
    if (points <= 0).any() or (points.sum(1) > 1).any():
        return None
    xyz = np.column_stack([points, 1 - points.sum(1)]).T / points[:, 1]
    colours, white = xyz[:, :3], xyz[:, 3]
    if abs(np.linalg.det(colours)) < 1e-4:
        return None
    cone = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])  # Bradford's
    to_d50 = np.linalg.inv(cone) @ np.diag(cone @ d50 / (cone @ white)) @ cone
    columns = (to_d50 @ (colours * np.linalg.solve(colours, white))).T

    def xyz_of(values: Iterable[float]) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))

    curve = b"curv\0\0\0\0" + struct.pack(">I", len(light)) + (light * 65535).round().astype(">u2").tobytes()
    parts = {b"desc": b"desc\0\0\0\0\0\0\0\1\0" + b"\0" * 79, b"cprt": b"text\0\0\0\0\0\0\0\0", b"wtpt": xyz_of(d50)}
    if grey:
        parts |= {b"kTRC": curve}
    else:
        parts |= {name: xyz_of(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)}
        parts |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, data, places = struct.pack(">I", len(parts)), b"", {}
    for name, part in parts.items():
        if part not in places:
            places[part] = 128 + 4 + 12 * len(parts) + len(data)
            data += part
        table += name + struct.pack(">II", places[part], len(part))
    head = b"\0" * 4 + b"\2\x10\0\0mntr" + (b"GRAY" if grey else b"RGB ") + b"XYZ " + b"\0" * 12 + b"acsp"
    head += b"\0" * 28 + xyz_of(d50)[8:] + b"\0" * 48
    return struct.pack(">I", 128 + len(table) + len(data)) + head + table + data
