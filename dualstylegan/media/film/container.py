"""Films into containers: pictures encoded, everything else of the source copied by its companions."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np

from dualstylegan.errors import UsageError
from dualstylegan.media.film.companions import Companions
from dualstylegan.media.film.decode import ANY_ORIGIN, plainly
from dualstylegan.media.film.encode import CONTAINERS, TURNING, Encoding, configure
from dualstylegan.media.film.film import FilmFrame, FilmInfo, Still
from dualstylegan.media.film.parts import Parts, in_decoding_time, stamps_of
from dualstylegan.media.film.planes import (
    Turn,
    convert,
    from_rgb,
    is_planar,
    planes_of,
    sides_of,
    tagged,
    with_changes,
)
from dualstylegan.media.mark import mark_file


class ContainerWriter:
    """One film being written. `size` is (width, height) upright, `shape` the aspect ratio of an upright sample."""

    def __init__(
        self,
        path: Path,
        temporary: Path,
        info: FilmInfo,
        encoding: Encoding,
        size: tuple[int, int],
        shape: Fraction,
        parts: Parts | None = None,
    ):
        self._path, self._temporary, self._info, self._encoding = path, temporary, info, encoding
        self._form = CONTAINERS[path.suffix.lower()]
        self._own_size = size == (info.width, info.height)
        self._turn = stored_turn(path, info, size)
        self._size = size[::-1] if self._turn.transpose else size
        self._shape = 1 / shape if self._turn.transpose else shape
        self._base = _time_base(info, self._form, encoding)
        self._parts = parts
        self._output: _Output | None = None
        self._encoder: av.VideoCodecContext | None = None
        self._shift: Fraction | None = None
        self._last: int | None = None
        self._ends = Fraction(0)
        self._words_said = self._words_sought = False
        self.notes = list(encoding.notes)
        if self._own_size and av.VideoFormat(info.pix_fmt).components[0].width and _finer(info, encoding):
            self.notes.append(
                f"{size[0]}x{size[1]} is odd: written as {encoding.pix_fmt}, which players may not all know"
            )

    def write(self, frame: FilmFrame, pixels: np.ndarray | None) -> None:
        if self._shift is None:
            self._shift = self._begin(frame)
        picture = self._picture(frame, pixels)
        pts = round((frame.pts * frame.time_base - self._shift) / self._base)
        pts = pts if self._last is None or pts > self._last else self._last + 1
        self._last = pts
        self._ends = (frame.pts + frame.duration) * frame.time_base
        with frame.lock:  # the decoded frame itself is encoded where it is untouched, perhaps by several writers
            picture.pts, picture.time_base = pts, self._base
            picture.duration = round(frame.duration * frame.time_base / self._base)
            picture.pict_type = 0  # else x264 repeats the source's key frames
            self._encode(picture)

    def _begin(self, frame: FilmFrame) -> Fraction:
        """The source's time that is 0 in the result."""
        info = self._info
        shift = Fraction(0)
        if info.start_s > 0:
            shift = frame.pts * frame.time_base
        elif info.form in ANY_ORIGIN and self._form != "mpegts":
            shift = info.begins_s
        self._first_s = frame.pts * frame.time_base - shift
        if self._parts is None:
            self._output = self._open_output(shift)
        else:
            self._parts.remember(shift, self._first_s)
        return shift

    def _open_output(self, shift: Fraction) -> _Output:
        output = _Output(self._temporary, self._form, self._info, shift, self.notes, suffix=self._path.suffix)
        output.add_picture(self._encoding, self._settings(), self._matrix(), self._size)
        return output

    def _settings(self) -> dict[str, Any]:
        rate = self._info.rate or Fraction(25)
        settings: dict[str, Any] = {"time_base": self._base, "framerate": rate, "sample_aspect_ratio": self._shape}
        if self._form == "avi" or (self._form == "mpegts" and self._first_s < 1):
            settings["max_b_frames"] = 0  # they are decoded before 0 s, which these containers cannot say
        return settings

    def _matrix(self) -> tuple[int, ...] | None:
        """The display matrix goes along where the stored frames are the source's own, turned by no one."""
        return self._info.matrix if self._own_size and self._form in TURNING else None

    def _encode(self, picture: av.VideoFrame) -> None:
        if self._parts is None:
            if self._output is not None:
                self._output.encode(picture)
            return
        if self._encoder is None:
            self._encoder = cast(av.VideoCodecContext, av.CodecContext.create(self._encoding.encoder, "w"))
            configure(self._encoder, self._info, self._encoding, self._size, **self._settings())
            if av.format.ContainerFormat(self._form, "w").flags & cast(int, av.format.Flags.global_header.value):
                self._encoder.flags |= int(av.codec.context.Flags.global_header)
        self._parts.add(self._encoder.encode(picture))
        self._parts.count_frame()
        if self._parts.is_full:
            self._end_part(self._parts, self._encoder)

    def _end_part(self, parts: Parts, encoder: av.VideoCodecContext) -> None:
        parts.add(encoder.encode(None))
        parts.end()
        self._encoder = None

    def finish(self) -> None:
        parts = self._parts
        if parts is not None:
            if self._encoder is not None:
                self._end_part(parts, self._encoder)
            self._first_s = parts.first_s
            if parts.shift is not None:
                self._output = self._open_output(parts.shift)
                for packet in parts.packets(self._base):
                    packet.stream = self._output.stream
                    self._output.mux(packet)
        if self._output is None:
            raise UsageError(f"{self._path}: a film needs at least one frame.")
        if parts is None:
            self._output.encode(None)
        ends = None
        if self._info.end_s is not None or self._info.max_frames is not None:
            ends = self._ends if parts is None else parts.ends + self._output.shift
            if self._info.end_s is not None:
                ends = min(ends, Fraction(self._info.end_s) + self._info.begins_s)
        self._output.finish(ends)
        mark_file(self._temporary, self._form)

    def abort(self) -> None:
        if self._output is not None:
            self._output.abort()
        if self._parts is not None:
            self._parts.abort()

    def _picture(self, frame: FilmFrame, pixels: np.ndarray | None) -> av.VideoFrame:
        """What the encoder gets: the frame's own planes, and RGB only where something changed."""
        form, color = self._encoding.pix_fmt, self._encoding.color
        source = frame.source
        if not self._own_size or isinstance(source, Still):
            pixels = frame.pixels if pixels is None else pixels
            return from_rgb(self._turn.stored(pixels), color, form)
        picture = source
        if source.format.name != form:
            if source.format.name == f"yuvj{form[3:]}":
                picture = relabelled(source, form, color)
            else:
                picture = tagged(convert(source, color, form), color)
        if pixels is not None and pixels is not frame.pixels:
            picture = with_changes(picture, frame.turn.stored(pixels), frame.turn.stored(frame.pixels), color)
            self._say_what_is_lost(source, picture)
        return picture if self._turn == frame.turn else turned_frame(picture, frame.turn, color)

    def _say_what_is_lost(self, source: av.VideoFrame, picture: av.VideoFrame) -> None:
        """Looks at the first changed frame and at key frames only: PyAV's frame and its side data hold each other, and
        a frame that was asked for them stays in memory until the garbage collector next comes by."""
        if picture is source or self._words_said or (self._words_sought and not source.key_frame):
            return
        self._words_sought = True
        if any(side.type.name == "A53_CC" for side in sides_of(source)):
            self._words_said = True
            self.notes.append("closed captions inside its pictures are left out of frames that were changed")


def stored_turn(path: Path, info: FilmInfo, size: tuple[int, int]) -> Turn:
    """How what is written is to be turned to be upright: as the source, where the container can say so."""
    own = size == (info.width, info.height)
    return info.turn if own and CONTAINERS[path.suffix.lower()] in TURNING else Turn()


def _time_base(info: FilmInfo, form: str, encoding: Encoding) -> Fraction:
    base = info.time_base
    if form == "avi" and info.rate:
        return 1 / info.rate  # AVI knows only frames at a rate
    if encoding.encoder == "mpeg4" and base.denominator > 65535:
        return 1 / info.rate if info.rate and info.rate.numerator <= 65535 else Fraction(1, 1000)
    return base


def _finer(info: FilmInfo, encoding: Encoding) -> bool:
    return "420" in info.pix_fmt and "420" not in encoding.pix_fmt and bool(info.width % 2 or info.height % 2)


def relabelled(frame: av.VideoFrame, form: str, color: Any) -> av.VideoFrame:
    """The same samples under another format's name: yuvj420p is yuv420p with full range."""
    copy = tagged(av.VideoFrame(frame.width, frame.height, form), color)
    for old, new in zip(planes_of(frame), planes_of(copy), strict=True):
        new[:] = old
    return copy


def turned_frame(frame: av.VideoFrame, turn: Turn, color: Any) -> av.VideoFrame:
    """A frame made upright, plane by plane; chroma that is not square is filtered to fit."""
    width, height = (frame.height, frame.width) if turn.transpose else (frame.width, frame.height)
    form = frame.format.name
    square = is_planar(frame.format) and "422" not in form
    if not square:
        frame = convert(frame, color, form.replace("422", "444"))
    copy = tagged(av.VideoFrame(width, height, frame.format.name), color)
    for old, new in zip(planes_of(frame), planes_of(copy), strict=True):
        new[:] = turn.upright(old)
    return copy if square else tagged(convert(copy, color, form), color)


class _Output:
    """An output container with its picture track and the source's companions."""

    def __init__(self, temporary: Path, form: str, info: FilmInfo, shift: Fraction, notes: list[str], *, suffix: str):
        self._info, self.shift = info, shift
        options = {}
        if form in ("mp4", "mov", "3gp"):
            options["video_track_timescale"] = str(_time_scale(info.time_base))
        if form == "mpegts":
            options = {"mpegts_copyts": "1"} if info.form == "mpegts" else {}
            if suffix.lower() in (".m2ts", ".mts"):
                options["mpegts_m2ts_mode"] = "1"
        self._companions = Companions(info, form, suffix, shift, notes) if info.kind == "container" else None
        if self._companions is not None and form in ("mp4", "mov") and any("." in k for k in self._companions.metadata):
            options["movflags"] = "use_metadata_tags"
        self._has_begun = False
        self._file = av.open(f"file:{plainly(temporary)}", "w", format=form, container_options=options)

    def add_picture(
        self, encoding: Encoding, settings: dict[str, Any], matrix: tuple[int, ...] | None, size: tuple[int, int]
    ) -> None:
        stream = cast(av.VideoStream, self._file.add_stream(encoding.encoder, rate=settings["framerate"]))
        configure(stream.codec_context, self._info, encoding, size, **settings)
        stream.time_base = settings["time_base"]
        if matrix is not None:
            stream.set_display_matrix(matrix)
        self.stream = stream
        if self._companions is not None:
            self._companions.add_to(self._file, stream)

    def encode(self, picture: av.VideoFrame | None) -> None:
        packets = self.stream.encode(picture)
        if picture is None and not self._has_begun:
            # x265 invents the decoding times of films that end before it has said anything
            packets = list(in_decoding_time(packets, [stamps_of(packets)]))
        for packet in packets:
            self.mux(packet)

    def mux(self, packet: av.Packet) -> None:
        self._has_begun = True
        self._file.mux(packet)
        if self._companions is not None and packet.dts is not None:
            self._companions.mux_until(packet.dts * packet.time_base + self.shift)

    def finish(self, ends: Fraction | None) -> None:
        if self._companions is not None:
            self._companions.finish(ends)
            self._companions.close()
        self._file.close()

    def abort(self) -> None:
        if self._companions is not None:
            self._companions.close()
        self._file.close()


def _time_scale(base: Fraction) -> int:
    return base.denominator if base.denominator < 1 << 31 else 90000
