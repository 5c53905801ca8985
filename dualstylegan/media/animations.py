"""Films that are one picture: animated GIF, PNG and WebP. Read and written frame by frame.

The files are put together here because FFmpeg's muxers, tried through PyAV 18, give the last frame of a GIF or PNG the
duration of the one before.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.GifImagePlugin import getdata

from dualstylegan.errors import UsageError
from dualstylegan.media.film.film import FilmFrame, FilmInfo, Still
from dualstylegan.media.images import decoding, webp_is_lossless
from dualstylegan.media.mark import MARK, XMP
from dualstylegan.media.palettes import with_palette
from dualstylegan.media.profiles import png_words
from dualstylegan.media.stills import Stills

_UNSAID_MS = 100  # how long players show a GIF's frame of no duration


class Animation(Stills):
    """An animated GIF, PNG or WebP, decoded by Pillow. Times are in milliseconds."""

    def __init__(self, path: Path, **part: Any):
        super().__init__(path, **part)
        with decoding(path):
            self._image = Image.open(path)
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        first = self._first
        self.info = self._about(
            Fraction(1000, first.duration or _UNSAID_MS),
            self._said() if self._start_s == 0 and self._end_s is None else None,
            pix_fmt="rgb24" if self._still.alpha is None else "rgba",
            codec=(self._image.format or "").lower(),
            kind="animation",
            loop=self._loop(),
            kept=self._kept(),
        )

    def close(self) -> None:
        self._image.close()

    def _base(self) -> Fraction:
        return Fraction(1, 1000)

    def _loop(self) -> int | None:
        """How often it plays: 0 for ever, None once. A GIF counts the repetitions, the others the rounds."""
        loop = self._image.info.get("loop")
        if self._image.format == "GIF":
            return loop
        return None if loop in (None, 1) else loop

    def _said(self) -> int | None:
        with suppress(Exception), Image.open(self._path) as image:  # damaged ones trip over whatever it may be
            return getattr(image, "n_frames", 1)
        return None

    def _kept(self) -> dict[str, Any]:
        with self._path.open("rb") as stream:
            words = png_words(stream) if self._image.format == "PNG" else {}
            lossless = self._image.format == "WEBP" and webp_is_lossless(stream)
        words.pop(b"IHDR", None)
        return {"icc": self._image.info.get("icc_profile"), "words": words, "lossless": lossless}

    def _timed(self) -> Iterator[tuple[int, int, Still]]:
        image, number, pts = self._image, 0, 0
        shown = _shows_default_image(image)
        while True:
            try:
                image.seek(number + (0 if shown else 1))
                image.load()
                picture = _still(image)
                duration = round(float(image.info.get("duration") or 0)) or _UNSAID_MS
            except EOFError:
                return
            except Exception as error:  # decoders raise whatever they trip over
                self.problems.append(f"stopped at frame {number}: damaged ({error or type(error).__name__})")
                return
            yield pts, duration, picture
            pts, number = pts + duration, number + 1


def _shows_default_image(image: Image.Image) -> bool:
    """A PNG's first picture may be for programs that do not animate, and no part of the animation."""
    return not getattr(image, "default_image", False)


def _still(image: Image.Image) -> Still:
    if image.has_transparency_data:
        array = np.asarray(image.convert("RGBA"))
        return Still(np.ascontiguousarray(array[..., :3]), np.ascontiguousarray(array[..., 3]))
    return Still(np.array(image.convert("RGB")))


# --- writing


class AnimationWriter:
    """An animated GIF, PNG or WebP: every frame is encoded by Pillow and put into the file as it comes."""

    def __init__(self, path: Path, temporary: Path, info: FilmInfo, size: tuple[int, int]):
        self._path, self._info, self._size = path, info, size
        self.notes: list[str] = []
        if info.has_audio:
            self.notes.append(f"its sound is left out: {path.suffix.lower()} holds none")
        loop = info.loop if info.kind == "animation" else 0
        kinds: dict[str, type[GifFile | WebpFile]] = {".gif": GifFile, ".webp": WebpFile}
        kind = kinds.get(path.suffix.lower(), ApngFile)
        self._stream = temporary.open("wb")
        self._file = kind(self._stream, size, loop, info.kept)
        self._waiting: tuple[Image.Image, Fraction, int] | None = None

    def write(self, frame: FilmFrame, pixels: np.ndarray | None) -> None:
        pixels = frame.pixels if pixels is None else pixels
        alpha = frame.source.alpha if isinstance(frame.source, Still) else None
        if alpha is not None and alpha.shape == pixels.shape[:2]:
            picture = Image.fromarray(np.dstack([pixels, alpha]))
        else:
            picture = Image.fromarray(np.ascontiguousarray(pixels))
        time = frame.pts * frame.time_base
        self._put(time)
        self._waiting = picture, time, round(frame.duration * frame.time_base * 1000)

    def _put(self, until: Fraction | None) -> None:
        """The frame that waited, now that it is known how long it is shown."""
        if self._waiting is None:
            return
        picture, time, duration_ms = self._waiting
        if until is not None:
            duration_ms = round(until * 1000) - round(time * 1000)
        self._file.add(picture, max(1, duration_ms))
        self._waiting = None

    def finish(self) -> None:
        if self._waiting is None:
            raise UsageError(f"{self._path}: a film needs at least one frame.")
        self._put(None)
        self._file.end()
        self._stream.close()

    def abort(self) -> None:
        self._stream.close()


class GifFile:
    """GIF89a, frame after frame, each with its own palette of up to 256 colours, exact where they suffice."""

    def __init__(self, stream: BinaryIO, size: tuple[int, int], loop: int | None, kept: dict[str, Any]):
        self._stream, self._size, self._late_ms = stream, size, 0
        stream.write(b"GIF89a" + struct.pack("<HHBBB", *size, 0x70, 0, 0))
        if loop is not None:
            stream.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", loop) + b"\0")
        stream.write(b"\x21\xfe" + bytes([len(MARK)]) + MARK.encode() + b"\0")

    def add(self, picture: Image.Image, duration_ms: int) -> None:
        image, clear = with_palette(picture)
        due = duration_ms + self._late_ms  # GIF counts hundredths: what rounding takes is given to the next frame
        delay = max(1, round(due / 10))
        self._late_ms = due - 10 * delay
        how: dict[str, Any] = {"disposal": 1} if clear is None else {"disposal": 2, "transparency": clear}
        shown_ms = 10 * min(delay, 65535)
        self._stream.writelines(getdata(image, duration=shown_ms, interlace=False, include_color_table=True, **how))

    def end(self) -> None:
        self._stream.write(b";")


class ApngFile:
    """An animated PNG: whole frames, which players that do not animate show the first of."""

    def __init__(self, stream: BinaryIO, size: tuple[int, int], loop: int | None, kept: dict[str, Any]):
        self._stream, self._size, self._kept = stream, size, kept
        self._count, self._sequence, self._plays = 0, 0, 1 if loop is None else loop
        self._mode = ""

    def _chunk(self, name: bytes, data: bytes) -> None:
        self._stream.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))

    def add(self, picture: Image.Image, duration_ms: int) -> None:
        data = io.BytesIO()
        picture = picture.convert(self._mode) if self._count else picture
        picture.save(data, "PNG", compress_level=4)
        chunks = _png_chunks(data.getvalue())
        if not self._count:
            self._mode = picture.mode
            self._stream.write(b"\x89PNG\r\n\x1a\n")
            self._chunk(b"IHDR", chunks[0][1])
            if icc := self._kept.get("icc"):
                self._chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc))
            for name, content in self._kept.get("words", {}).items():
                self._chunk(name, content)
            self._chunk(b"tEXt", b"Software\0" + MARK.encode())
            self._counted_at = self._stream.tell()
            self._chunk(b"acTL", struct.pack(">II", 0, self._plays))
        self._chunk(
            b"fcTL",
            struct.pack(">IIIIIHHBB", self._sequence, *self._size, 0, 0, min(duration_ms, 65535), 1000, 0, 0),
        )
        self._sequence += 1
        for name, content in chunks:
            if name != b"IDAT":
                continue
            if self._count:
                self._chunk(b"fdAT", struct.pack(">I", self._sequence) + content)
                self._sequence += 1
            else:
                self._chunk(b"IDAT", content)
        self._count += 1

    def end(self) -> None:
        self._chunk(b"IEND", b"")
        self._stream.seek(self._counted_at)
        self._chunk(b"acTL", struct.pack(">II", self._count, self._plays))


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += length + 12
    return chunks


class WebpFile:
    """An animated WebP: whole frames, lossy at quality 90, or without loss where the source has none."""

    def __init__(self, stream: BinaryIO, size: tuple[int, int], loop: int | None, kept: dict[str, Any]):
        self._stream, self._size, self._icc = stream, size, kept.get("icc")
        self._settings = {"lossless": True, "exact": True, "quality": 50} if kept.get("lossless") else {"quality": 90}
        self._alpha = False
        stream.write(b"RIFF\0\0\0\0WEBP")
        self._chunk(b"VP8X", b"\0" * 10)  # known at the end
        if self._icc:
            self._chunk(b"ICCP", self._icc)
        self._chunk(b"ANIM", struct.pack("<IH", 0, 1 if loop is None else loop))

    def _chunk(self, name: bytes, data: bytes) -> None:
        self._stream.write(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2))

    def add(self, picture: Image.Image, duration_ms: int) -> None:
        data = io.BytesIO()
        picture.save(data, "WEBP", method=2, **self._settings)
        frame = b""
        for name, content in _riff_chunks(data.getvalue()):
            if name in (b"ALPH", b"VP8 ", b"VP8L"):
                frame += name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
        self._alpha |= picture.mode == "RGBA"
        width, height = self._size
        head = b"\0" * 6 + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        head += min(duration_ms, (1 << 24) - 1).to_bytes(3, "little") + bytes([2])  # do not blend with what was there
        self._chunk(b"ANMF", head + frame)

    def end(self) -> None:
        self._chunk(b"XMP ", XMP)
        size = self._stream.tell()
        width, height = self._size
        flags = 2 | 4 | (16 if self._alpha else 0) | (32 if self._icc else 0)
        self._stream.seek(4)
        self._stream.write(struct.pack("<I", size - 8))
        self._stream.seek(20)
        self._stream.write(
            bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        )


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
