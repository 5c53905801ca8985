"""A film in parts: encoded pictures in a hidden folder beside the result, some seconds to a file that appears whole.

A run that was stopped finds them again, and at the end they are muxed together with the sound: nothing is encoded
twice, and as every part begins with a key frame and refers to nothing before it, no seam can be seen.

The files are records of our own because containers lose what joining needs. Tried with PyAV 18: NUT keeps neither the
packets' durations nor a WebM's transparency, Matroska counts in milliseconds.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.packet import PacketSideData

from dualstylegan.media.film.encode import Encoding
from dualstylegan.media.film.film import FilmInfo
from dualstylegan.runtime.files import parts_of, whole_file

PART_FRAMES = 240  # of a part: seconds of film, and what a stopped run loses at most
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
        self.ends = Fraction(0)  # when the last frame ends, by the result's clock: set by `packets`
        self._count, self._buffer = 0, io.BytesIO()  # compressed, so some MB at most
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
        for packet in packets:
            sides = [
                (_KEPT_SIDES[side.data_type], bytes(side))
                for side in packet.iter_sidedata()
                if side.data_type in _KEPT_SIDES
            ]
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
        self._count, self._buffer = 0, io.BytesIO()

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

    def packets(self, base: Fraction) -> Iterator[av.Packet]:
        """Every packet in decoding order, with decoding times that run on across the seams."""
        stamps = [self._stamps(file) for file in self._files]
        if not stamps:
            return iter(())
        self.ends = int(stamps[-1].sum(1).max()) * base
        return in_decoding_time(self._kept(base), [one[:, 0] for one in stamps])

    def _kept(self, base: Fraction) -> Iterator[av.Packet]:
        for file in self._files:
            for pts, duration, key, data, sides in self._records(file):
                packet = av.Packet(data)
                packet.time_base, packet.pts, packet.duration = base, pts, duration
                packet.is_keyframe = bool(key)
                for number, side in sides:
                    kept = PacketSideData(number, len(side))  # type: ignore[call-arg]  # which PyAV's own stubs lack
                    kept.update(side)
                    packet.set_sidedata(kept)
                yield packet

    def abort(self) -> None:
        """Forget the part that is not whole; the others stay for the next run."""
        self._buffer = io.BytesIO()
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
        with path.open("rb") as stream:
            digest.update(stream.read(65536))
            stream.seek(max(0, path.stat().st_size - 65536))
            digest.update(stream.read())
    return digest.hexdigest()
