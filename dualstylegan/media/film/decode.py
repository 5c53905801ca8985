"""Films in containers, read with FFmpeg: every frame that can be had, in order, with its time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, cast

import av
import numpy as np

from dualstylegan.errors import BadFileError
from dualstylegan.events import counted
from dualstylegan.media.film.film import Film, FilmFrame, FilmInfo
from dualstylegan.media.film.planes import UNSAID, color_of, convert, display_matrix, sides_of, turn_of

# What may be opened as a film, whatever a file's name says: no playlists, which could name other files and hosts.
_DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv,ogg,nut,mxf,gxf,dv,rm,ivf,h264,hevc,m4v,"
    "obu,yuv4mpegpipe,wtv,nsv"
)
_OPEN = {"protocol_whitelist": "file", "format_whitelist": _DEMUXERS}
ANY_ORIGIN = ("mpegts", "mpeg")  # their clocks begin anywhere


class ContainerFilm(Film):
    """A film in a container, decoded by FFmpeg."""

    def __init__(self, path: Path, **part: Any):
        super().__init__(path, **part)
        self._file = open_container(path)
        try:
            self._stream = picture_stream(self._file, path)
            self._prepare()
            first = self._first_frame()
            self.info = self._describe(first)
            self._first: av.VideoFrame | None = first
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._file.close()

    def _prepare(self) -> None:
        file, stream = self._file, self._stream
        self._base = stream.time_base or Fraction(1)
        begins = Fraction(file.start_time or 0, 1_000_000)
        self._begins_s = begins if begins > 0 else Fraction(0)
        for other in file.streams:
            if other is not stream:
                other.discard = av.stream.Discard.all
        self._decoder = stream.codec_context
        if stream.metadata.get("alpha_mode") == "1" and self._decoder.name in ("vp8", "vp9"):
            name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}[self._decoder.name]
            # FFmpeg's own decoders leave the transparency out
            self._decoder = cast(av.VideoCodecContext, av.CodecContext.create(name, "r"))
        self._decoder.thread_count = decoder_threads(stream.codec_context.width, stream.codec_context.height)
        self._decoder.thread_type = "AUTO"
        self._rate = stream.average_rate or stream.base_rate or None
        self._bad = self._packets = 0
        self._stop: str | None = None

    def _first_frame(self) -> av.VideoFrame:
        if self._start_s > 0:
            self._seek()
        else:
            self._pictures = self._decode()
        for frame in self._pictures:
            if frame.pts is None or self._time(frame.pts) >= self._start_s - self._slack():
                return frame
        if self._start_s > 0 and self._packets:
            raise BadFileError(f"{self._path} has no frame from {self._start_s:g} s on.")
        reason = "it is damaged or cut off" if self._bad or self._stop else "it is empty or cut off"
        raise BadFileError(f"{self._path} holds no frame that can be read: {reason}.")

    def _time(self, pts: int) -> Fraction:
        return pts * self._base - self._begins_s

    def _slack(self) -> Fraction:
        return self._base / 2  # a time typed in decimals falls on the frame that it rounds to

    def _seek(self) -> None:
        """Begin to decode at a key frame safely before the start; from the beginning where a container cannot seek."""
        # One second earlier: key frames are found by decoding time, and frames after them may be shown before them.
        target = int((Fraction(max(0.0, self._start_s - 1)) + self._begins_s) / self._base)
        try:
            self._file.seek(target, stream=self._stream, backward=True)
            frames = self._decode()
            first = next(frames, None)
            if first is not None and (first.pts is None or self._time(first.pts) > self._start_s):
                raise av.FFmpegError(0, "beyond the start")
        except av.FFmpegError:
            self._file.close()
            self._file = open_container(self._path)
            self._stream = picture_stream(self._file, self._path)
            self._prepare()
            self._pictures = self._decode()
            return
        self._pictures = _with_first(first, frames)

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Every frame that can be had: a broken packet is passed over, a broken container ends the film."""
        packets = self._file.demux(self._stream)
        decoder = self._decoder
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError) as error:
                self._stop = getattr(error, "strerror", None) or str(error)
                packet = None
            if packet is not None and not packet.size and decoder is self._stream.codec_context:
                packet.time_base = self._base
            self._packets += packet is not None and packet.size > 0
            try:
                frames = decoder.decode(packet if packet is not None and packet.size else None)
            except EOFError:
                return
            except av.FFmpegError:
                self._bad += 1
                frames = []
            yield from frames
            if packet is None or not packet.size:
                return

    def _describe(self, frame: av.VideoFrame) -> FilmInfo:
        stream, form = self._stream, frame.format
        matrix = display_matrix(frame)
        turn = turn_of(matrix)
        width, height = frame.width, frame.height
        sar = stream.sample_aspect_ratio or Fraction(1)
        sar = sar if sar > 0 else Fraction(1)
        if turn.transpose:
            width, height, sar = height, width, 1 / sar
        whole_s = None
        if stream.duration:
            whole_s = float(stream.duration * self._base)
        elif self._file.duration:
            whole_s = self._file.duration / 1e6
        duration_s, frames = whole_s, stream.frames or None
        if whole_s is not None:
            end_s = whole_s if self._end_s is None else min(self._end_s, whole_s)
            duration_s = max(0.0, end_s - self._start_s)
            if self._rate and (not frames or self._start_s > 0 or self._end_s is not None):
                frames = max(1, round(duration_s * float(self._rate)))
        if self._most is not None:
            frames = self._most if frames is None else min(frames, self._most)
            if self._rate:
                duration_s = frames / float(self._rate)
        codec = self._stream.codec_context.codec
        return FilmInfo(
            self._path,
            width,
            height,
            self._base,
            self._rate,
            frames,
            duration_s,
            rotation=frame.rotation if turn != turn_of(None) else 0,
            turn=turn,
            matrix=matrix,
            sample_aspect_ratio=sar,
            pix_fmt=form.name,
            bit_depth=form.components[0].bits,
            color=color_of(frame),
            codec=codec.canonical_name,
            profile=self._stream.codec_context.profile,
            has_audio=bool(self._file.streams.audio),
            alpha=any(part.is_alpha for part in form.components),
            interlaced=frame.interlaced_frame,
            field_order=self._stream.codec_context.field_order,
            form=self._file.format.name,
            begins_s=self._begins_s,
            start_s=self._start_s,
            end_s=self._end_s,
            max_frames=self._most,
            light=light_of(frame),
        )

    def __iter__(self) -> Iterator[FilmFrame]:
        info, base = self.info, self._base
        step = max(1, round(1 / self._rate / base)) if self._rate else 1
        index, last, corrupt, jumps, resized = 0, None, 0, 0, 0
        for picture in _with_first(self._first, self._pictures):
            self._first = None
            pts = picture.pts
            if pts is None:
                pts = 0 if last is None else last + step
            elif last is not None and pts <= last:
                pts, jumps = last + step, jumps + 1  # two frames of one time, or a clock that was set back
            if self._time(pts) < self._start_s - self._slack():
                continue
            if (self._end_s is not None and self._time(pts) >= self._end_s - self._slack()) or index == self._most:
                break
            last = pts
            corrupt += picture.is_corrupt
            color = color_of(picture)
            if color.matrix == UNSAID:
                color = replace(color, matrix=info.color.matrix)
            if self._first_size != (picture.width, picture.height) or picture.format.name != info.pix_fmt:
                picture, resized = convert(picture, color, info.pix_fmt, self._first_size), resized + 1
            duration = picture.duration or step
            self._last_s = float((pts + duration) * base)
            yield FilmFrame(index, pts, base, duration, float(self._time(pts)), picture, color=color, turn=info.turn)
            index += 1
        else:
            self._say_what_is_missing(index)
        if self._bad:
            self.problems.append(f"{counted(self._bad, 'damaged packet')} could not be decoded")
        if corrupt:
            self.problems.append(f"{corrupt} frame{'s are' if corrupt > 1 else ' is'} damaged, shown as far as decoded")
        if jumps:
            self.problems.append(f"{counted(jumps, 'time stamp')} went back and had to be mended")
        if resized:
            self.problems.append(f"{resized} frames of another size or format were brought to the first one's")

    @property
    def _first_size(self) -> tuple[int, int]:
        info = self.info
        return (info.height, info.width) if info.turn.transpose else (info.width, info.height)

    def _say_what_is_missing(self, index: int) -> None:
        if self._stop is not None:
            self.problems.append(f"stopped at frame {index}: damaged ({self._stop})")
            return
        if self._start_s > 0:
            return
        promised = self._stream.frames
        if promised and self._packets < promised and self._file.format.name != "avi":
            self.problems.append(f"ends after {self._packets} of {promised} frames: the file is cut off")
        tag = _seconds(self._stream.metadata.get("DURATION"))  # Matroska has no count
        if tag is not None and self._last_s < tag - 0.25:  # a quarter of a second may be rounding
            self.problems.append(f"ends after {self._last_s:.1f} of {tag:.1f} s: the file is cut off")


def _with_first(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    if first is not None:
        yield first
    yield from rest


def _seconds(text: str | None) -> float | None:
    """Of a Matroska tag, `00:01:02.500000000`; None of anything else."""
    try:
        hours, minutes, seconds = (text or "").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return None


def plainly(path: Path) -> Path:
    """The path, or where it or its folder is no UTF-8, which is all that FFmpeg's binding takes, a link to it."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        inside = tempfile.mkdtemp(dir=_links().name)
        named = path.name.isprintable()
        link = Path(inside, "folder" if named else "film")
        link.symlink_to((path.parent if named else path).absolute())
        return link / path.name if named else link
    return path


@cache
def _links() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="dsg-")  # gone when Python ends


def open_container(path: Path) -> av.container.InputContainer:
    """Open for reading what FFmpeg knows as a film, local files only. Raises BadFileError, one line."""
    if not path.exists():
        raise BadFileError(f"{path}: no such file.")
    if path.is_file() and path.stat().st_size == 0:
        raise BadFileError(f"{path} is empty.")
    try:
        # "file:" keeps a colon in a name from being taken for a protocol
        return av.open(f"file:{plainly(path)}", metadata_errors="replace", container_options=dict(_OPEN))
    except PermissionError:
        raise BadFileError(f"{path}: no permission to read it.") from None
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadFileError(f"{path} is not a film dsg can read, or it is damaged or cut off ({reason}).") from None


def picture_stream(file: av.container.InputContainer, path: Path) -> av.VideoStream:
    """The track with the film's pictures; a cover is none. Raises BadFileError."""
    streams = [one for one in file.streams.video if not is_cover(one)]
    if not streams:
        raise BadFileError(f"{path} has {'sound but no pictures' if file.streams.audio else 'no pictures'}.")
    readable = [one for one in streams if one.codec_context is not None]
    if not readable:
        raise BadFileError(f"{path}: its pictures are in a codec that dsg cannot decode.")
    best = file.streams.best("video")
    return best if best in readable else readable[0]


def is_cover(stream: av.stream.Stream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def decoder_threads(width: int, height: int) -> int:
    """One for small pictures: the networks need the cores."""
    return max(1, min((os.cpu_count() or 2) // 2, 4, -(-width * height // (1280 * 720))))


def light_of(frame: av.VideoFrame) -> dict[str, Any]:
    """Mastering display (primaries, white, luminance) and light levels of an HDR frame, from its side data."""
    light: dict[str, Any] = {}
    for side in sides_of(frame):
        if side.type.name == "MASTERING_DISPLAY_METADATA":
            numbers = np.frombuffer(bytes(side)[:80], np.int32).reshape(10, 2).astype(float)
            values = (numbers[:, 0] / np.maximum(numbers[:, 1], 1)).tolist()
            light["mastering"] = (tuple(values[:8]), tuple(values[8:10]))
        elif side.type.name == "CONTENT_LIGHT_LEVEL":
            light["levels"] = tuple(np.frombuffer(bytes(side)[:8], np.uint32).tolist())
    return light
