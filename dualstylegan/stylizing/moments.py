"""A film's frames on their way, and in which batches: the same ones wherever a film is begun."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from dualstylegan.faces.track import FrameFaces, TrackedFace
from dualstylegan.media.film.video import FilmFrame
from dualstylegan.stylizing.scene import Scene
from dualstylegan.stylizing.stylizer import Placed


class Numbered(Protocol):
    """What belongs to one frame."""

    @property
    def index(self) -> int: ...


Item = TypeVar("Item", bound=Numbered)
Value = TypeVar("Value", bound=Sequence[Tensor])

FRAME_BYTES = 5  # a pixel's: RGB, and YUV as it came
BATCH_BYTES = 64 << 20  # of frames that are worked on at once, at each step
MOST_FRAMES = 16  # in a batch; a power of two, as every batch is, that divides the parts films are written in


@dataclass
class Moment:
    """One frame on its way through the line."""

    frame: FilmFrame
    found: FrameFaces
    codes: list[dict[int, Tensor]] = field(default_factory=list)  # by encoder, by track: (rows, dim), W+
    persons: dict[int, Tensor] = field(default_factory=dict)  # by track: where a person is around the face
    placed: list[list[Placed]] = field(default_factory=list)  # by style, by face
    scenes: list[Scene | None] = field(default_factory=list)  # by style
    wanted: bool = True  # False: an earlier run has written this one
    sampled: bool = False

    @property
    def index(self) -> int:
        return self.frame.index

    @property
    def faces(self) -> list[TrackedFace]:
        return self.found.faces

    @property
    def nbytes(self) -> int:
        return frame_bytes(self.frame) + sum(one.nbytes for some in self.placed for one in some)


@dataclass(frozen=True)
class Pasted:
    """A frame as one style's film shows it; without `pixels` as it came."""

    frame: FilmFrame
    pixels: np.ndarray | None

    @property
    def nbytes(self) -> int:
        return frame_bytes(self.frame) + (0 if self.pixels is None else self.pixels.nbytes)


def frame_bytes(frame: FilmFrame) -> int:
    return FRAME_BYTES * frame.pixels.shape[0] * frame.pixels.shape[1]


def batches(items: Iterable[Item], frames: int) -> Iterator[list[Item]]:
    """Lists of items whose frames' numbers share a multiple of `frames`: the same ones wherever a film is begun, since
    networks round differently in batches of another size."""
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if (item.index + 1) % frames == 0:
            yield batch
            batch = []
    if batch:
        yield batch


def without_repeats(values: Iterable[tuple[int, Value]]) -> tuple[list[Value], list[int]]:
    """Of the values of tracks, some tensors each, those that differ from the track's one before, and for each value
    which of these it is.

    What stands still is so computed once a batch, and comes out of batches of every size as the same: nothing of
    earlier batches is needed, which a run that is resumed would not have.
    """
    distinct: list[Value] = []
    places: list[int] = []
    latest: dict[int, int] = {}
    for track, value in values:
        place = latest.get(track)
        if place is None or not all(map(torch.equal, distinct[place], value)):
            place = latest[track] = len(distinct)
            distinct.append(value)
        places.append(place)
    return distinct, places


def by_faces(moments: list[Moment], most: int) -> Iterator[list[Moment]]:
    """The moments in parts of at most `most` faces, or of one moment. Empties the list: nothing is held any longer."""
    while moments:
        count = faces = 0
        for moment in moments:
            faces += len(moment.faces)
            if count and faces > most:
                break
            count += 1
        some, moments[:count] = moments[:count], []
        yield some


def batch_frames(pixels: int, batch: int) -> int:
    """How many frames are worked on at once: a power of two, fewer of large ones."""
    most = min(max(8, batch), MOST_FRAMES, max(1, BATCH_BYTES // (pixels * FRAME_BYTES)))
    return 1 << (most.bit_length() - 1)
