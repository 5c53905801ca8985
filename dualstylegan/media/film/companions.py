"""What a film holds beside its pictures, on its way into another container: copied packet by packet."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction

import av

from dualstylegan.media.film.decode import is_cover, open_container, picture_stream
from dualstylegan.media.film.film import FilmInfo

_STRUCTURAL = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "rotate"})


class Companions:
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
        picture.disposition = self._picture.disposition
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
        track.disposition = stream.disposition
        return track

    def _add_chapters(self) -> None:
        chapters = []
        ends = self._info.end_s
        for chapter in self._source.chapters():
            base = chapter["time_base"] or Fraction(1)
            start = max(Fraction(0), chapter["start"] * base - self._shift)
            end = chapter["end"] * base - self._shift
            if ends is not None:
                end = min(end, Fraction(ends) + self._info.begins_s - self._shift)
            if end > start:
                chapter["start"], chapter["end"] = round(start / base), round(end / base)
                chapters.append(chapter)
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
                stamp = packet.dts if packet.dts is not None else packet.pts
                time = None if stamp is None else stamp * packet.time_base
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
