"""Films made of pictures: animated GIF, PNG and WebP, and folders of numbered frames. Read and written one by one."""

from __future__ import annotations

import io
import shutil
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from dualstylegan.errors import BadFileError, UsageError
from dualstylegan.media.detect import ANIMATED_SUFFIXES, gap_in, numbered_pictures
from dualstylegan.media.film.film import Film, FilmFrame, FilmInfo, Still
from dualstylegan.media.film.planes import to_deep_rgb
from dualstylegan.media.images import decoding, read_picture, webp_is_lossless, write_picture
from dualstylegan.media.palettes import with_palette
from dualstylegan.media.paths import kind_of
from dualstylegan.media.profiles import png_words
from dualstylegan.runtime.files import whole_folder

FRAME_RATE = Fraction(25)  # of a folder of frames, which does not say
_UNSAID_MS = 100  # how long players show a GIF's frame of no duration


# --- reading


class _Stills(Film):
    """A film whose frames are pictures: what both kinds share."""

    def __init__(self, path: Path, *, start_s: float, end_s: float | None, max_frames: int | None):
        super().__init__()
        self._path, self._start_s, self._end_s, self._most = path, start_s, end_s, max_frames

    def _timed(self) -> Iterator[tuple[int, int, Still]]:
        """(pts, duration, picture) of every frame that can be read, in units of `info.time_base`."""
        raise NotImplementedError

    def _base(self) -> Fraction:
        raise NotImplementedError

    def _open(self) -> None:
        self._frames = self._in_range()
        first = next(self._frames, None)
        if first is None:
            if self._start_s > 0:
                raise BadFileError(f"{self._path} has no frame from {self._start_s:g} s on.")
            reason = f": {self.problems[0]}" if self.problems else ""
            raise BadFileError(f"{self._path} holds no frame that can be read{reason}.")
        self._first = first

    def _in_range(self) -> Iterator[FilmFrame]:
        base, index = self._base(), 0
        for pts, duration, picture in self._timed():
            time = pts * base
            if time < self._start_s - base / 2:
                continue
            if (self._end_s is not None and time >= self._end_s - base / 2) or index == self._most:
                return
            yield FilmFrame(index, pts, base, duration, float(time), picture)
            index += 1

    def __iter__(self) -> Iterator[FilmFrame]:
        height, width = self._first.pixels.shape[:2]
        yield self._first
        for frame in self._frames:
            if frame.pixels.shape[:2] != (height, width):
                self.problems.append(f"frame {frame.index} is of another size: the film ends before it")
                return
            yield frame

    def _counted(self, whole: int | None) -> int | None:
        return whole if self._most is None else self._most if whole is None else min(whole, self._most)


class Animation(_Stills):
    """An animated GIF, PNG or WebP, decoded by Pillow. Times are in milliseconds."""

    def __init__(self, path: Path, **given):
        super().__init__(path, **given)
        with decoding(path):
            self._image = Image.open(path)
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        image, first = self._image, self._first
        count = self._counted(self._said() if self._start_s == 0 and self._end_s is None else None)
        duration = first.duration or _UNSAID_MS
        self.info = FilmInfo(
            path,
            first.pixels.shape[1],
            first.pixels.shape[0],
            self._base(),
            Fraction(1000, duration),
            count,
            None if count is None else count * duration / 1000,
            pix_fmt="rgba" if first.source.alpha is not None else "rgb24",
            codec=(image.format or "").lower(),
            alpha=first.source.alpha is not None,
            kind="animation",
            loop=self._loop(),
            kept=self._kept(),
            start_s=self._start_s,
            end_s=self._end_s,
            max_frames=self._most,
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
            return image.n_frames
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


class NumberedFrames(_Stills):
    """A folder of numbered pictures, 25 a second."""

    def __init__(self, path: Path, **given):
        super().__init__(path, **given)
        paths = numbered_pictures(path)
        if paths is None:
            if gap := gap_in(path):
                raise BadFileError(f"{gap}; a film's frames are numbered without a gap.")
            raise BadFileError(f"{path} is a folder, but not one of numbered frames (000001.png, 000002.png, ...).")
        self._paths = paths
        self._open()
        first = self._first
        start = round(self._start_s * FRAME_RATE)
        end = len(paths) if self._end_s is None else min(len(paths), round(self._end_s * FRAME_RATE))
        count = self._counted(max(0, end - start))
        deep = first.source.deep is not None
        self.info = FilmInfo(
            path,
            first.pixels.shape[1],
            first.pixels.shape[0],
            self._base(),
            FRAME_RATE,
            count,
            float(count / FRAME_RATE),
            pix_fmt=("rgba64le" if first.source.alpha is not None else "rgb48le") if deep else "rgb24",
            bit_depth=16 if deep else 8,
            codec=paths[0].suffix.lower().removeprefix("."),
            alpha=first.source.alpha is not None,
            kind="frames",
            start_s=self._start_s,
            end_s=self._end_s,
            max_frames=self._most,
        )

    def _base(self) -> Fraction:
        return 1 / FRAME_RATE

    def _timed(self) -> Iterator[tuple[int, int, Still]]:
        for number, path in enumerate(self._paths):
            if number / FRAME_RATE < self._start_s - self._base() / 2:
                continue  # not even read
            try:
                yield number, 1, read_still(path)
            except BadFileError as error:
                self.problems.append(str(error).rstrip("."))


def read_still(path: Path) -> Still:
    """One numbered frame, with its 16 bits where it is such a PNG. Raises BadFileError."""
    deep = _deep_png(path)
    if deep is not None:
        pixels = ((deep[..., :3].astype(np.uint32) + 128) // 257).astype(np.uint8)
        alpha = ((deep[..., 3].astype(np.uint32) + 128) // 257).astype(np.uint8) if deep.shape[2] == 4 else None
        return Still(pixels, alpha, deep, path)
    picture = read_picture(path)
    return Still(picture.pixels, picture.alpha, None, path)


def _deep_png(path: Path) -> np.ndarray | None:
    """uint16 (H, W, 3 or 4) of a PNG of 16 bits, else None: Pillow would narrow its colours to 8."""
    try:
        with path.open("rb") as file:
            head = file.read(26)
        if not head.startswith(b"\x89PNG") or head[24] != 16:
            return None
        import av

        decoder = av.CodecContext.create("png", "r")
        frames = [*decoder.decode(av.Packet(path.read_bytes())), *decoder.decode(None)]
        wanted = "rgba64le" if head[25] in (4, 6) else "rgb48le"
        frame = frames[0].reformat(format=wanted, threads=1)
        width = frame.width * (4 if wanted == "rgba64le" else 3)
        plane = frame.planes[0]
        rows = np.frombuffer(plane, "<u2").reshape(-1, plane.line_size // 2)[: frame.height, :width]
        return rows.reshape(frame.height, frame.width, -1).copy()
    except (OSError, IndexError, ValueError) as error:
        raise BadFileError(f"{path} is damaged or cut off ({error}).") from None


# --- writing


def is_folder(path: Path, info: FilmInfo) -> bool:
    """Whether a film like `info` becomes a folder of frames at `path`: without a suffix; from such a folder also with
    one that is no file's (`shot.v2`, `clip.toon-7`)."""
    return not path.suffix or (info.kind == "frames" and kind_of(path) == "unknown")


def check_writable(path: Path, info: FilmInfo) -> None:
    """Raises UsageError where a film like `info` cannot become `path`, which is no container."""
    suffix = path.suffix.lower()
    if suffix not in ANIMATED_SUFFIXES and not is_folder(path, info):
        raise UsageError(f"{path}: '{suffix}' is no film. Use .mp4, .mov, .mkv, .webm, .gif, or a name without suffix.")
    if info.is_hdr:
        raise UsageError(f"{info.path} is HDR, which {suffix or 'a folder of frames'} would flatten. Use .mp4 or .mkv.")


class AnimationWriter:
    """An animated GIF, PNG or WebP: every frame is encoded by Pillow and put into the file as it comes."""

    def __init__(self, path: Path, temporary: Path, info: FilmInfo, size: tuple[int, int]):
        self._path, self._info, self._size = path, info, size
        self.notes: list[str] = []
        if info.has_audio:
            self.notes.append(f"its sound is left out: {path.suffix.lower()} holds none")
        loop = info.loop if info.kind == "animation" else 0
        kind = {".gif": GifFile, ".webp": WebpFile}.get(path.suffix.lower(), ApngFile)
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

    def add(self, picture: Image.Image, duration_ms: int) -> None:
        image, transparent = with_palette(picture)
        data = io.BytesIO()
        image.save(data, "GIF", optimize=False, interlace=False)
        palette, blocks = _gif_parts(data.getvalue())
        due = duration_ms + self._late_ms  # GIF counts hundredths: what rounding takes is given to the next frame
        delay = max(1, round(due / 10))
        self._late_ms = due - 10 * delay
        disposal = 1 if transparent is None else 2
        flags = disposal << 2 | (transparent is not None)
        bits = max(1, (len(palette) // 3 - 1).bit_length())
        self._stream.write(b"\x21\xf9\x04" + struct.pack("<BHB", flags, min(delay, 65535), transparent or 0) + b"\0")
        self._stream.write(b"\x2c" + struct.pack("<HHHHB", 0, 0, *self._size, 0x80 | (bits - 1)))
        self._stream.write(palette.ljust(3 << bits, b"\0") + blocks)

    def end(self) -> None:
        self._stream.write(b";")


def _gif_parts(data: bytes) -> tuple[bytes, bytes]:
    """The palette and the compressed blocks of a GIF of one picture."""
    bits = (data[10] & 7) + 1
    at = 13 + (3 << bits if data[10] & 0x80 else 0)
    palette = data[13:at]
    while data[at] == 0x21:  # extensions: a label, then blocks until an empty one
        at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    local = data[at + 9]
    at += 10
    if local & 0x80:
        palette = data[at : at + (3 << (local & 7) + 1)]
        at += len(palette)
    return palette, data[at : data.rindex(b";")]


class ApngFile:
    """An animated PNG: whole frames, which players that do not animate show the first of."""

    def __init__(self, stream: BinaryIO, size: tuple[int, int], loop: int | None, kept: dict[str, Any]):
        self._stream, self._size, self._kept = stream, size, kept
        self._count, self._sequence, self._plays = 0, 0, 1 if loop is None else loop

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
        size = self._stream.tell()
        width, height = self._size
        flags = 2 | (16 if self._alpha else 0) | (32 if self._icc else 0)
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


@contextmanager
def frames_folder(path: Path) -> Iterator[Path]:
    """`whole_folder` for frames. Raises UsageError rather than replace a folder that holds anything else."""
    if path.is_dir() and not _holds_frames_only(path):
        raise UsageError(f"{path} is a folder with other things in it. Name a new one for the frames.")
    with whole_folder(path) as temporary:
        yield temporary


def _holds_frames_only(folder: Path) -> bool:
    """Whether nothing is lost when a newer film's frames take the place of a folder."""
    return not {path for path in folder.iterdir() if not path.name.startswith(".")} - {
        *(numbered_pictures(folder) or ())
    }


class FramesWriter:
    """Numbered frames: PNG, or the source's own kind where it is one; untouched ones are copied byte by byte."""

    def __init__(self, path: Path, temporary: Path, info: FilmInfo, size: tuple[int, int]):
        self._path, self._folder, self._info, self._size = path, temporary, info, size
        self._count = 0
        self.notes: list[str] = []
        if info.has_audio:
            self.notes.append("its sound is left out: a folder of frames holds none")
        self._deep = info.bit_depth > 8

    def write(self, frame: FilmFrame, pixels: np.ndarray | None) -> None:
        source = frame.source
        own = isinstance(source, Still) and source.path is not None
        if pixels is not None and pixels is not frame.pixels and not np.array_equal(pixels, frame.pixels):
            changed = True
        else:
            changed, pixels = False, frame.pixels
        self._count += 1
        target = self._folder / (source.path.name if own else f"{self._count:06d}.png")
        if own and not changed and (self._info.width, self._info.height) == self._size:
            shutil.copyfile(source.path, target)
        elif self._deep:
            _write_deep_png(target.with_suffix(".png"), _deepened(frame, pixels))
        else:
            write_picture(target, pixels, like=read_picture(source.path) if own else None)

    def finish(self) -> None:
        if not self._count:
            raise UsageError(f"{self._path}: a film needs at least one frame.")

    def abort(self) -> None:
        """Nothing is open between two frames."""


def _deepened(frame: FilmFrame, pixels: np.ndarray) -> np.ndarray:
    """uint16 (H, W, 3 or 4): the frame's own where `pixels` are what it was, else those at 257 times their level."""
    wide = pixels.astype(np.uint16) * np.uint16(257)
    source = frame.source
    if isinstance(source, Still):
        deep = source.deep
    else:
        deep = np.ascontiguousarray(frame.turn.upright(to_deep_rgb(source, frame.color)))
    if deep is None or deep.shape[:2] != pixels.shape[:2]:
        return wide
    changed = (pixels != frame.pixels).any(-1)
    out = deep.copy()
    out[..., :3][changed] = wide[changed]
    return out


def _write_deep_png(path: Path, pixels: np.ndarray) -> None:
    import av

    form = "rgba64le" if pixels.shape[2] == 4 else "rgb48le"
    frame = av.VideoFrame.from_ndarray(pixels, format=form).reformat(format=form.replace("le", "be"), threads=1)
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, frame.format.name
    encoder.time_base, encoder.thread_count = Fraction(1, 25), 1
    path.write_bytes(b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)]))
