"""Films into containers: pictures encoded, everything else of the source copied packet by packet.

With parts, the encoded pictures first go to a hidden folder beside the result, some seconds to a file that appears
whole. A run that was stopped finds them again, and at the end they are muxed together with the sound: nothing is
encoded twice, and as every part begins with a key frame and refers to nothing before it, no seam can be seen.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.packet import PacketSideData

from dualstylegan.errors import UsageError
from dualstylegan.media.film.decode import ANY_ORIGIN, is_cover, open_container, picture_stream, plainly
from dualstylegan.media.film.encode import CONTAINERS, TURNING, Encoding, configure
from dualstylegan.media.film.film import FilmFrame, FilmInfo, Still
from dualstylegan.media.film.planes import (
    Turn,
    convert,
    from_rgb,
    is_planar,
    planes_of,
    tagged,
    with_changes,
)
from dualstylegan.runtime.files import parts_of, whole_file

PART_FRAMES = 240  # of a part: seconds of film, and what a stopped run loses at most

_STRUCTURAL = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "rotate"})


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
            self._begin(frame)
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

    def _begin(self, frame: FilmFrame) -> None:
        info = self._info
        self._shift = Fraction(0)
        if info.start_s > 0:
            self._shift = frame.pts * frame.time_base
        elif info.form in ANY_ORIGIN and self._form != "mpegts":
            self._shift = info.begins_s
        self._first_s = frame.pts * frame.time_base - self._shift
        if self._parts is None:
            self._output = self._open_output()
        else:
            self._parts.remember(self._shift, self._first_s)

    def _open_output(self) -> _Output:
        output = _Output(self._temporary, self._form, self._info, self._shift, self.notes, suffix=self._path.suffix)
        output.add_picture(self._encoding, self._settings(), self._matrix(), self._size)
        return output

    def _settings(self) -> dict[str, Any]:
        rate = self._info.rate or Fraction(25)
        settings = {"time_base": self._base, "framerate": rate, "sample_aspect_ratio": self._shape}
        if self._form == "avi" or (self._form == "mpegts" and self._first_s < 1):
            settings["max_b_frames"] = 0  # they are decoded before 0 s, which these containers cannot say
        return settings

    def _matrix(self) -> tuple[int, ...] | None:
        """The display matrix goes along where the stored frames are the source's own, turned by no one."""
        return self._info.matrix if self._own_size and self._form in TURNING else None

    def _encode(self, picture: av.VideoFrame | None) -> None:
        if self._parts is None:
            packets = self._output.stream.encode(picture)
            if picture is None and not self._output.has_begun:
                # x265 invents the decoding times of films that end before it has said anything
                packets = list(in_decoding_time(packets, [stamps_of(packets)]))
            for packet in packets:
                self._output.mux(packet)
            return
        if self._encoder is None:
            self._encoder = av.CodecContext.create(self._encoding.encoder, "w")
            configure(self._encoder, self._info, self._encoding, self._size, **self._settings())
            if av.format.ContainerFormat(self._form, "w").flags & av.format.Flags.global_header.value:
                self._encoder.flags |= int(av.codec.context.Flags.global_header)
        self._parts.add(self._encoder.encode(picture))
        self._parts.count_frame()
        if self._parts.is_full:
            self._end_part()

    def _end_part(self) -> None:
        self._parts.add(self._encoder.encode(None))
        self._parts.end()
        self._encoder = None

    def finish(self) -> None:
        if self._parts is not None:
            if self._encoder is not None:
                self._end_part()
            self._shift, self._first_s = self._parts.shift, self._parts.first_s
            if self._shift is not None:
                self._output = self._open_output()
                for packet in self._parts.packets(self._base):
                    packet.stream = self._output.stream
                    self._output.mux(packet)
        if self._output is None:
            raise UsageError(f"{self._path}: a film needs at least one frame.")
        if self._parts is None:
            self._encode(None)
        ends = None
        if self._info.end_s is not None or self._info.max_frames is not None:
            ends = self._ends if self._parts is None else self._parts.ends + self._shift
            if self._info.end_s is not None:
                ends = min(ends, Fraction(self._info.end_s) + self._info.begins_s)
        self._output.finish(ends)

    def abort(self) -> None:
        if self._output is not None:
            self._output.abort()
        if self._parts is not None:
            self._parts.abort()

    def _picture(self, frame: FilmFrame, pixels: np.ndarray | None) -> av.VideoFrame:
        """What the encoder gets: the frame's own planes, and RGB only where something changed."""
        form, color = self._encoding.pix_fmt, self._encoding.color
        source, before = frame.source, None
        if not self._own_size or isinstance(source, Still):
            pixels = frame.pixels if pixels is None else pixels
            return from_rgb(self._turn.stored(pixels), color, form)
        turned = self._turn != frame.turn
        if pixels is not None and pixels is not frame.pixels:
            pixels, before = frame.turn.stored(pixels), frame.turn.stored(frame.pixels)
        picture = source
        if source.format.name != form:
            if source.format.name == f"yuvj{form[3:]}":
                picture = relabelled(source, form, color)
            else:
                picture = tagged(convert(source, color, form), color)
        if before is not None:
            picture = with_changes(picture, pixels, before, color)
            self._say_what_is_lost(source, picture)
        return turned_frame(picture, frame.turn, color) if turned else picture

    def _say_what_is_lost(self, source: av.VideoFrame, picture: av.VideoFrame) -> None:
        """Looks at the first changed frame and at key frames only: PyAV's frame and its side data hold each other, and
        a frame that was asked for them stays in memory until the garbage collector next comes by."""
        if picture is source or self._words_said or (self._words_sought and not source.key_frame):
            return
        self._words_sought = True
        if any(side.type.name == "A53_CC" for side in source.side_data):
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
    return "420" in info.pix_fmt and "420" not in encoding.pix_fmt and (info.width % 2 or info.height % 2)


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


# --- the container


class _Output:
    """An output container with its picture track and the source's companions."""

    def __init__(self, temporary: Path, form: str, info: FilmInfo, shift: Fraction, notes: list[str], *, suffix: str):
        self._info, self._form, self._shift, self._notes = info, form, shift, notes
        options = {}
        if form in ("mp4", "mov", "3gp"):
            options["video_track_timescale"] = str(_time_scale(info.time_base))
        if form == "mpegts":
            options = {"mpegts_copyts": "1"} if info.form == "mpegts" else {}
            if suffix.lower() in (".m2ts", ".mts"):
                options["mpegts_m2ts_mode"] = "1"
        self._companions = _Companions(info, form, suffix, shift, notes) if info.kind == "container" else None
        if self._companions is not None and form in ("mp4", "mov") and any("." in k for k in self._companions.metadata):
            options["movflags"] = "use_metadata_tags"
        self.has_begun = False
        self._file = av.open(f"file:{plainly(temporary)}", "w", format=form, container_options=options)

    def add_picture(
        self, encoding: Encoding, settings: dict[str, Any], matrix: tuple[int, ...] | None, size: tuple[int, int]
    ) -> None:
        stream = self._file.add_stream(encoding.encoder, rate=settings["framerate"])
        configure(stream.codec_context, self._info, encoding, size, **settings)
        stream.time_base = settings["time_base"]
        if matrix is not None:
            stream.set_display_matrix(matrix)
        self.stream = stream
        if self._companions is not None:
            self._companions.add_to(self._file, stream)

    def mux(self, packet: av.Packet) -> None:
        self.has_begun = True
        self._file.mux(packet)
        if self._companions is not None and packet.dts is not None:
            self._companions.mux_until(packet.dts * packet.time_base + self._shift)

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


class _Companions:
    """What a film holds beside its pictures: sound, words, chapters, covers, attachments, tags. Copied, not decoded."""

    def __init__(self, info: FilmInfo, form: str, suffix: str, shift: Fraction, notes: list[str]):
        self._info, self._form, self._suffix, self._shift, self._notes = info, form, suffix, shift, notes
        self._source = open_container(info.path)
        self._picture = picture_stream(self._source, info.path)
        self.metadata = {k: v for k, v in self._source.metadata.items() if k.lower() not in _STRUCTURAL}
        self._tracks: dict[int, av.stream.Stream] = {}
        self._last: dict[int, int] = {}
        self._mended = 0

    def add_to(self, file: av.container.OutputContainer, picture: av.VideoStream) -> None:
        self._file = file
        file.metadata.update(self.metadata)
        picture.metadata.update(_kept_tags(self._picture.metadata))
        picture.disposition = int(self._picture.disposition)
        self._add_chapters()
        for stream in self._source.streams:
            if stream is self._picture:
                stream.discard = av.stream.Discard.all
                continue
            track = self._add(stream)
            if track is None:
                stream.discard = av.stream.Discard.all
            elif stream.type != "attachment":
                self._tracks[stream.index] = track
        self._packets = self._ready()
        self._next = next(self._packets, None)

    def _add(self, stream: av.stream.Stream) -> av.stream.Stream | None:
        """The track a stream is copied to; None where it is left out, which a note says if anybody could miss it."""
        kind, name = stream.type, getattr(stream, "name", None)
        if kind == "data":
            if name not in (None, "bin_data"):  # the text of chapters, which are written anew
                self._notes.append(f"a data track ({name}) is left out")
            return None
        if kind == "video" and not is_cover(stream):
            self._notes.append("a second picture track is left out")
            return None
        what = {"audio": "sound", "subtitle": "subtitles", "video": "a cover", "attachment": "an attachment"}.get(kind)
        if what is None:
            return None
        if kind == "attachment" and self._form != "matroska":
            self._notes.append(f"an attachment ({name}) is left out: {self._suffix} holds none")
            return None
        if (kind == "video" and self._form not in ("mp4", "mov", "matroska")) or not can_hold(self._form, stream):
            self._notes.append(f"{what} ({name}) is left out: {self._suffix} cannot hold it")
            return None
        track = _track_like(self._file, stream)
        track.metadata.update(_kept_tags(stream.metadata))
        track.disposition = int(stream.disposition)
        return track

    def _add_chapters(self) -> None:
        chapters = []
        ends = self._info.end_s
        for chapter in self._source.chapters():
            base = chapter["time_base"]
            start = max(Fraction(0), chapter["start"] * base - self._shift)
            end = chapter["end"] * base - self._shift
            if ends is not None:
                end = min(end, Fraction(ends) + self._info.begins_s - self._shift)
            if end > start:
                chapters.append({**chapter, "start": round(start / base), "end": round(end / base)})
        if chapters and self._form in ("mp4", "mov", "matroska", "webm", "3gp"):
            self._file.set_chapters(chapters)
        elif chapters:
            self._notes.append(f"its {len(chapters)} chapters are left out: {self._suffix} holds none")

    def _ready(self) -> Iterator[tuple[Fraction, av.Packet]]:
        """(source time, packet) of what is to be copied, in the file's order; times already those of the result."""
        if not self._tracks:
            return
        if self._info.start_s > 0:
            with suppress(av.FFmpegError):  # then everything from the beginning is read and passed over
                self._source.seek(int((self._shift - 1) * 1_000_000), backward=True)
        try:
            for packet in self._source.demux([self._source.streams[index] for index in self._tracks]):
                if not packet.size or (packet.size == 2 and packet.stream.type == "subtitle"):
                    continue  # the end, or MP4's empty words between others, which its muxer writes anew
                time = packet.dts if packet.dts is not None else packet.pts
                time = None if time is None else time * packet.time_base
                if self._info.start_s > 0 and not self._reaches(packet, time):
                    continue
                yield (self._shift if time is None else time), packet
        except (av.FFmpegError, OSError) as error:
            self._notes.append(f"its sound ends early: damaged ({getattr(error, 'strerror', None) or error})")

    def _reaches(self, packet: av.Packet, time: Fraction | None) -> bool:
        """Whether a packet belongs to a film that begins at the shift; a subtitle that is already up is cut to fit."""
        if packet.pts is None or is_cover(packet.stream):
            return True
        pts = packet.pts * packet.time_base
        if packet.stream.type == "subtitle" and packet.duration and pts < self._shift:
            left = pts + packet.duration * packet.time_base - self._shift
            if left <= 0:
                return False
            packet.pts = packet.dts = round(self._shift / packet.time_base)
            packet.duration = round(left / packet.time_base)
            return True
        return pts >= self._shift

    def mux_until(self, time: Fraction | None, ends: Fraction | None = None) -> None:
        while self._next is not None and (time is None or self._next[0] <= time):
            at, packet = self._next
            self._next = next(self._packets, None)
            if ends is not None and at >= ends and not is_cover(packet.stream):
                if at > ends + 10:  # files are interleaved more closely than this
                    self._next = None
                continue
            self._mux(packet)

    def _mux(self, packet: av.Packet) -> None:
        index = packet.stream_index
        shift = round(self._shift / packet.time_base)
        if packet.pts is not None:
            packet.pts -= shift
        if packet.dts is not None:
            packet.dts -= shift
            last = self._last.get(index)
            if last is not None and packet.dts < last:  # a clock that was set back
                packet.dts = last + 1
                packet.pts = max(packet.dts, packet.pts or packet.dts)
                self._mended += 1
            self._last[index] = packet.dts
        packet.stream = self._tracks[index]
        self._file.mux(packet)

    def finish(self, ends: Fraction | None) -> None:
        self.mux_until(None, ends)
        if self._mended:
            self._notes.append(f"{self._mended} time stamps of the sound went back and had to be mended")

    def close(self) -> None:
        self._source.close()


def _kept_tags(tags: dict[str, str]) -> dict[str, str]:
    """A track's tags without those that describe how the source stored it."""
    lies = ("DURATION", "BPS", "NUMBER_OF_", "_STATISTICS_", "ENCODER", "VENDOR_ID", "ROTATE", "ALPHA_MODE")
    return {key: value for key, value in tags.items() if not key.upper().startswith(lies)}


def _track_like(file: av.container.OutputContainer, stream: av.stream.Stream) -> av.stream.Stream:
    if stream.type == "video":
        return file.add_stream_from_template(stream, opaque=True)
    return file.add_stream_from_template(stream)


_IN_TRANSPORT_STREAMS = frozenset(
    {"mp2", "mp3", "aac", "ac3", "eac3", "dts", "opus", "truehd", "s302m", "pcm_bluray"}
    | {"dvb_subtitle", "dvb_teletext", "hdmv_pgs_subtitle"}
)


def can_hold(form: str, stream: av.stream.Stream) -> bool:
    """Whether a container takes a stream as it is: tried on one in memory, as FFmpeg tells by its header only."""
    if form == "mpegts":  # it takes anything, as data that nobody can name
        return stream.codec_context is not None and stream.codec_context.codec.canonical_name in _IN_TRANSPORT_STREAMS
    try:
        with av.open(io.BytesIO(), "w", format=form) as trial:
            _track_like(trial, stream)
            if form in ("mp4", "mov", "3gp", "matroska", "webm", "flv"):
                trial.start_encoding()
        return True
    except (av.FFmpegError, ValueError, OSError):
        return False


# --- parts


PARTS = "[0-9]*-*.part"  # not what a killed run was still writing: its name begins with a dot


class Parts:
    """Encoded pictures in a hidden folder beside the result, a file for every PART_FRAMES frames.

    `done` frames are there in whole files, from the first on. What was written for other settings, another source or by
    another version is removed.
    """

    _RECORD, _SIDE = struct.Struct("<qqqBBI"), struct.Struct("<BI")  # pts, dts, duration, key, side data, size
    _NONE = -(1 << 63)

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.folder = parts_of(path)
        self._settings = json.loads(json.dumps(settings, default=str))
        self.shift: Fraction | None = None
        self.first_s = Fraction(0)
        self.fresh = True  # nothing of an earlier run was thrown away
        self._files: list[Path] = []
        self.done = 0
        self._count, self._ends = 0, 0
        self._buffer: BinaryIO | None = None
        if self.folder.is_dir():
            self._take_up()

    def _take_up(self) -> None:
        try:
            said = json.loads((self.folder / "film.json").read_text())
            shift, first_s = Fraction(said.pop("shift")), Fraction(said.pop("first_s"))
        except (OSError, ValueError, KeyError):
            said = None
        if said != self._settings:
            self.fresh = not any(self.folder.glob(PARTS))
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        self.shift, self.first_s = shift, first_s
        for file in sorted(self.folder.glob(PARTS)):
            first, count = (int(number) for number in file.stem.split("-"))
            if first == self.done and self._is_whole(file, count):
                self._files.append(file)
                self.done += count
            else:
                file.unlink()

    def _is_whole(self, file: Path, count: int) -> bool:
        try:
            return len(self._stamps(file)) == count
        except (OSError, struct.error):
            return False

    def remember(self, shift: Fraction, first_s: Fraction) -> None:
        """The settings, the source's time that is 0 in the result, and the first frame's: before the first part."""
        if self.shift is not None:
            return
        self.shift, self.first_s = shift, first_s
        with whole_file(self.folder / "film.json") as temporary:
            temporary.write_text(json.dumps({**self._settings, "shift": str(shift), "first_s": str(first_s)}))

    def count_frame(self) -> None:
        self._count += 1

    @property
    def is_full(self) -> bool:
        return self._count >= PART_FRAMES

    def add(self, packets: list[av.Packet]) -> None:
        if self._buffer is None:
            self._buffer = io.BytesIO()  # compressed, so some MB at most
        for packet in packets:
            sides = [(side.data_type, bytes(side)) for side in packet.iter_sidedata()]
            sides = [(number, data) for name, data in sides if (number := _KEPT_SIDES.get(name)) is not None]
            dts = self._NONE if packet.dts is None else packet.dts
            key = int(packet.is_keyframe)
            self._buffer.write(self._RECORD.pack(packet.pts, dts, packet.duration or 0, key, len(sides), packet.size))
            self._buffer.write(bytes(packet))
            for number, data in sides:
                self._buffer.write(self._SIDE.pack(number, len(data)))
                self._buffer.write(data)

    def end(self) -> None:
        """The part is whole: give it its name."""
        file = self.folder / f"{self.done:08d}-{self._count:06d}.part"
        with whole_file(file) as temporary:
            temporary.write_bytes(self._buffer.getbuffer())
        self._files.append(file)
        self.done += self._count
        self._count, self._buffer = 0, None

    def _records(self, file: Path) -> Iterator[tuple[int, int, int, bytes, list[tuple[int, bytes]]]]:
        with file.open("rb") as stream:
            while head := stream.read(self._RECORD.size):
                pts, _, duration, key, sides, size = self._RECORD.unpack(head)
                data = _exactly(stream, size)
                side_data = []
                for _ in range(sides):
                    number, length = self._SIDE.unpack(_exactly(stream, self._SIDE.size))
                    side_data.append((number, _exactly(stream, length)))
                yield pts, duration, key, data, side_data

    def _stamps(self, file: Path) -> np.ndarray:
        return np.array([(pts, duration) for pts, duration, *_ in self._records(file)], np.int64).reshape(-1, 2)

    @property
    def ends(self) -> Fraction:
        """When the last frame ends, in units of the result's clock times its time base: set by `packets`."""
        return self._ends

    def packets(self, base: Fraction) -> Iterator[av.Packet]:
        """Every packet in decoding order, with decoding times that run on across the seams."""
        stamps = [self._stamps(file) for file in self._files]
        if not stamps:
            return iter(())
        self._ends = int(stamps[-1].sum(1).max()) * base
        return in_decoding_time(self._kept(base), [one[:, 0] for one in stamps])

    def _kept(self, base: Fraction) -> Iterator[av.Packet]:
        for file in self._files:
            for pts, duration, key, data, sides in self._records(file):
                packet = av.Packet(data)
                packet.time_base, packet.pts, packet.duration = base, pts, duration
                packet.is_keyframe = bool(key)
                for number, side in sides:
                    kept = PacketSideData(number, len(side))
                    kept.update(side)
                    packet.set_sidedata(kept)
                yield packet

    def abort(self) -> None:
        """Forget the part that is not whole; the others stay for the next run."""
        self._buffer = None
        if not self._files:
            self.remove()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def stamps_of(packets: Sequence[av.Packet]) -> np.ndarray:
    return np.array([packet.pts for packet in packets], np.int64)


def in_decoding_time(packets: Iterable[av.Packet], stamps: Sequence[np.ndarray]) -> Iterator[av.Packet]:
    """The packets with new decoding times; `stamps` are their times of showing in decoding order, part by part.

    Packet i is due when frame i - delay is shown, where the delay is the farthest that a packet comes ahead of others
    shown before it: what an encoder of the whole film says. Encoders of parts began anew each, and with a variable rate
    their own times could run into one another.
    """
    delay = max((int((np.arange(len(one)) - one.argsort().argsort()).max()) for one in stamps if len(one)), default=0)
    shown = np.sort(np.concatenate(stamps))
    if not len(shown):
        return
    early = shown[: delay + 1] - (shown[delay] - shown[0])
    for index, packet in enumerate(packets):
        packet.dts = int(shown[index - delay] if index >= delay else early[index])
        yield packet


_KEPT_SIDES = {"matroska_block_additional": 15}  # a WebM's transparency


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise struct.error("cut off")
    return data


def part_settings(info: FilmInfo, encoding: Encoding, size: tuple[int, int], key: str) -> dict[str, Any]:
    """All that decides what the parts hold."""
    facts = {name: value for name, value in asdict(info).items() if name not in ("light", "kept", "path", "frames")}
    identity = source_identity(info.path)
    return {"version": 1, "source": identity, "film": facts, "encoding": asdict(encoding), "size": size, "key": key}


def source_identity(path: Path) -> str:
    """A digest that changes when a film does: its size, its time and its ends; names, sizes and times of frames."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        stat = file.stat()
        digest.update(os.fsencode(f"{file.name} {stat.st_size} {stat.st_mtime_ns}\n"))
    if path.is_file():
        with path.open("rb") as file:
            digest.update(file.read(65536))
            file.seek(max(0, path.stat().st_size - 65536))
            digest.update(file.read())
    return digest.hexdigest()
