"""Films made of pictures: what they share, and folders of numbered frames. Read and written one by one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from dualstylegan.errors import BadFileError, UsageError
from dualstylegan.media.detect import ANIMATED_SUFFIXES, gap_in, numbered_pictures
from dualstylegan.media.film.film import Film, FilmFrame, FilmInfo, Still
from dualstylegan.media.film.planes import rows_of, to_deep_rgb
from dualstylegan.media.images import read_picture, write_picture
from dualstylegan.media.paths import kind_of
from dualstylegan.runtime.files import whole_folder

FRAME_RATE = Fraction(25)  # of a folder of frames, which does not say


# --- reading


class Stills(Film):
    """A film whose frames are pictures: what both kinds share."""

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
        assert isinstance(first.source, Still)  # as all of `_timed` are
        self._first, self._still = first, first.source

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

    def _about(self, rate: Fraction, whole: int | None, **own: Any) -> FilmInfo:
        """What is said of a film at `rate`, `whole` frames long as far as is known."""
        count = whole if self._most is None else self._most if whole is None else min(whole, self._most)
        (height, width), seconds = self._first.pixels.shape[:2], None if count is None else float(count / rate)
        part: dict[str, Any] = {"start_s": self._start_s, "end_s": self._end_s, "max_frames": self._most}
        alpha = self._still.alpha is not None
        return FilmInfo(self._path, width, height, self._base(), rate, count, seconds, alpha=alpha, **part, **own)


class NumberedFrames(Stills):
    """A folder of numbered pictures, 25 a second."""

    def __init__(self, path: Path, **part: Any):
        super().__init__(path, **part)
        paths = numbered_pictures(path)
        if paths is None:
            if gap := gap_in(path):
                raise BadFileError(f"{gap}; a film's frames are numbered without a gap.")
            raise BadFileError(f"{path} is a folder, but not one of numbered frames (000001.png, 000002.png, ...).")
        self._paths = paths
        self._open()
        start = round(self._start_s * FRAME_RATE)
        end = len(paths) if self._end_s is None else min(len(paths), round(self._end_s * FRAME_RATE))
        first = self._still
        depth: dict[str, Any] = {}
        if first.deep is not None:
            depth = {"pix_fmt": "rgb48le" if first.alpha is None else "rgba64le", "bit_depth": 16}
        codec = paths[0].suffix.lower().removeprefix(".")
        self.info = self._about(FRAME_RATE, max(0, end - start), kind="frames", codec=codec, **depth)

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
        rows = rows_of(frame.planes[0], "<u2")[: frame.height, :width]
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
        own = source.path if isinstance(source, Still) else None
        if pixels is not None and pixels is not frame.pixels and not np.array_equal(pixels, frame.pixels):
            changed = True
        else:
            changed, pixels = False, frame.pixels
        self._count += 1
        target = self._folder / (own.name if own else f"{self._count:06d}.png")
        if own and not changed and (self._info.width, self._info.height) == self._size:
            shutil.copyfile(own, target)
        elif self._deep:
            _write_deep_png(target.with_suffix(".png"), _deepened(frame, pixels))
        else:
            write_picture(target, pixels, like=read_picture(own) if own else None)

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
