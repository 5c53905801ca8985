"""Faces that hold still: crops and codes smoothed over a symmetric window of frames, so that nothing lags behind.

A smoother takes what the tracker or the encoder gives, frame by frame, and gives it back `lag` frames later, in order.
Windows end where a shot or a stretch in which the face is seen ends. What does not change comes out as it went in, to
the last bit: every result is the frame's own value plus a weighted sum of differences from it.
"""

from __future__ import annotations

import cmath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from dualstylegan.choices import SMOOTH
from dualstylegan.errors import UsageError
from dualstylegan.faces.face import IDENTITY, Face, Similarity, box_around, transform
from dualstylegan.faces.track import FrameFaces, TrackedFace

POINT_LAG, CODE_LAG = 10, 8  # frames
# Standard deviations of the windows at strength 1, frames. Where a face holds still the wide one counts, where it
# speaks or laughs the narrow one: five changes a second must come through.
WIDE = 6.0
NARROW = 1.6
SIGNIFICANT = 2.0  # a change this many times as large (squared) as noise would make it is half believed

# How far measured motion may be off: the crop's middle, in its sides; its size and angle, logarithm and radians. In the
# films of tests/bench/films.py it is off by half as much.
SHIFT_NOISE, TURN_NOISE = 1e-4, 5e-4
BEND = 3  # degree of the curves that motion is taken to follow where it differs from them by no more

# A code that differs from the one shown by less than bfloat16 can tell (eight bits) would only make the portrait's own
# rounding flicker: the one shown stays. Every 16th frame takes its own all the same; 16 divides the parts that films
# are written in, so a film that is resumed goes on as if it had not been stopped.
HOLD, HOLD_FRAMES = 2**-8, 16

MOST_WINDOWS = 256  # whose weights are kept: a shot that a face is seen throughout has 76

FADE = 5  # frames in which a face comes and goes inside a shot
FILL = 3  # frames for which a face that is not seen is shown all the same: a blur, a flash

Codes = dict[int, Tensor]  # by track: (rows, dim) in W+
Sample = TypeVar("Sample")


class PointSmoother:
    """Smooths where faces are: position, scale, angle and shape, each by itself. Sets `face.points`, `face.matrix` and
    `opacity`.

    The window follows the face: earlier and later places are first moved along with the motion of the face's pixels,
    so that however fast and unevenly it goes, only the landmarks' own trembling is averaged. Where that motion is not
    known, a straight line is fitted, which keeps steady motion. The motion is measured too, so where a curve explains
    it to within what measuring may be off, the face follows the curve. Faces lost for up to FILL frames are put in
    between (`seen` stays False); at the ends of longer gaps, and of tracks, they fade. Faces never confirmed are left
    out. With strength 0 those seen and confirmed go through as they are.
    """

    def __init__(self, strength: float = SMOOTH):
        """Raises UsageError for a strength outside [0, 1]."""
        self.strength = _checked(strength)
        self.lag = POINT_LAG if strength > 0 else 0
        self._window: _Window[_Place] = _Window(self.lag)
        self._confirmed: set[int] = set()
        self._stretches: dict[int, _Stretch] = {}

    def push(self, frame: FrameFaces) -> list[FrameFaces]:
        """Takes the next frame; gives those that are ready, none or one."""
        self._confirmed.update(face.track for face in frame.faces if face.confirmed)
        self._window.push(frame, {face.track: _Place.of(face) for face in frame.faces if face.seen})
        return [self._smooth(time) for time in self._window.ready()]

    def flush(self) -> list[FrameFaces]:
        """The frames still held, at the film's end."""
        return [self._smooth(time) for time in self._window.rest()]

    def _smooth(self, time: int) -> FrameFaces:
        frame = self._window.frame(time)
        faces = [face for face in frame.faces if face.track in self._confirmed]
        if self.strength == 0:
            return replace(frame, faces=[face for face in faces if face.seen])
        if frame.cut:
            self._stretches.clear()
        faces = [replace(face, opacity=self._opacity(time, face.track)) for face in faces]
        return replace(frame, faces=[self._steady(time, face) for face in faces if face.opacity > 0])

    def _opacity(self, time: int, track: int) -> float:
        """1 within a stretch; it rises over the first frames and falls over the last, but not at the ends of a shot."""
        seen = self._window.has(time, track)
        stretch = self._stretches.get(track)
        if stretch is None or time - stretch.last > FILL + 1:
            if not seen:
                return 0.0
            stretch = self._stretches[track] = _Stretch(time, time, rises=not self._window.begins_shot(time))
        if seen:
            stretch.last = time
        elif self._seen_again(time, track, stretch) is None:
            return 0.0
        end = self._window.end_of_stretch(time, track, stretch.last)
        rise = (time - stretch.first + 1) / (FADE + 1) if stretch.rises else 1.0
        fall = (end - time + 1) / (FADE + 1) if end is not None else 1.0
        return min(1.0, rise, fall)

    def _seen_again(self, time: int, track: int, stretch: _Stretch) -> int | None:
        """When a face that is not seen now is, before it counts as lost."""
        soon = self._window.walk_on(time, stretch.last + FILL + 1)
        return next((later for later in soon if self._window.has(later, track)), None)

    def _steady(self, time: int, face: TrackedFace) -> TrackedFace:
        stretch = self._stretches[face.track]
        if self._window.has(time, face.track):
            place = self._fit(time, face.track)
            stretch.place = place
        else:
            again = self._seen_again(time, face.track, stretch)
            assert again is not None and stretch.place is not None  # or it were not shown
            part = (time - stretch.last) / (again - stretch.last)
            place = stretch.place.towards(self._fit(again, face.track), part)
        matrix = place.crop_from_photo
        points = transform(np.linalg.inv(matrix), place.shape).astype(np.float32)
        steady = Face(points, box_around(points), face.face.score, face.face.embedding, matrix)
        return replace(face, face=steady)

    def _fit(self, time: int, track: int) -> _Place:
        """Where the face, seen in frame `time`, is there by all the frames around."""
        own = self._window.sample(time, track)
        places, carries = [own], [IDENTITY]  # carries: pixels of the frame looked at to those of frame `time`
        first = last = 0
        for place in self._window.walk(time, track, -1):
            first -= 1
            carries.insert(0, carries[0] @ places[0].motion)
            places.insert(0, place)
        for place in self._window.walk(time, track, 1):
            last += 1
            carries.append(carries[-1] @ place.motion.inverse)
            places.append(place)

        times, width = tuple(range(first, last + 1)), WIDE * self.strength
        centers, axes = np.array([(place.center, place.axis) for place in places]).T
        turns, shifts = np.array(carries).T
        moved = np.stack([turns * centers + shifts - own.center, np.log1p((turns * axes - own.axis) / own.axis)])
        center, growth = moved @ local_linear_weights(times, width)
        # And where this frame's pixels go in the others, as far as a curve would have them elsewhere in this one
        path = (own.center - shifts) / turns - own.center
        center += off_the_curve(times, path, width, SHIFT_NOISE * abs(own.axis))
        growth += off_the_curve(times, -np.log(turns), width, TURN_NOISE)
        shape = steady_value(np.stack([place.shape.ravel() for place in places])[:, None], times, self.strength)
        return replace(
            own,
            center=own.center + complex(center),
            axis=own.axis * cmath.exp(growth),
            shape=shape.reshape(-1, 2),
        )


class CodeSmoother:
    """Smooths who faces are: codes in W+, (rows, dim) each.

    In the window around each frame a face has a base, the wide mean of its codes; on top of it comes what differs from
    the base by more than noise would, row by row, smoothed little enough for speech and laughter to come through in
    time. What then hardly differs from the code before is held. With strength 0 codes go through as they are.
    """

    def __init__(self, strength: float = SMOOTH):
        """Raises UsageError for a strength outside [0, 1]."""
        self.strength = _checked(strength)
        self.lag = CODE_LAG if strength > 0 else 0
        self._window: _Window[np.ndarray] = _Window(self.lag)
        self._held: dict[int, np.ndarray] = {}  # as last given back

    def push(self, frame: FrameFaces, codes: Mapping[int, Tensor]) -> list[tuple[FrameFaces, Codes]]:
        """Takes the next frame and the code (rows, dim) of each face that is seen in it, by its track; gives those that
        are ready, with a code for every face in them."""
        self._window.push(frame, {track: code.numpy() for track, code in codes.items()})
        return [self._smooth(time) for time in self._window.ready()]

    def flush(self) -> list[tuple[FrameFaces, Codes]]:
        """The frames still held, at the film's end."""
        return [self._smooth(time) for time in self._window.rest()]

    def _smooth(self, time: int) -> tuple[FrameFaces, Codes]:
        frame = self._window.frame(time)
        codes = {face.track: self._code(time, face.track) for face in frame.faces}
        if self.strength > 0:
            if frame.cut or frame.index % HOLD_FRAMES == 0:
                self._held = {}
            codes = self._held = {track: self._hold(track, code) for track, code in codes.items()}
        return frame, {track: torch.from_numpy(code) for track, code in codes.items()}

    def _hold(self, track: int, code: np.ndarray) -> np.ndarray:
        held = self._held.get(track, code)
        return held if np.linalg.norm(code - held) <= HOLD * np.linalg.norm(held) else code

    def _code(self, time: int, track: int) -> np.ndarray:
        if self.strength == 0:
            return self._window.sample(time, track)
        times, samples = zip(*self._window.around(time, track), strict=True)
        times, values = tuple(other - time for other in times), np.stack(samples)
        if self._window.has(time, track):
            return steady_value(values, times, self.strength)
        # Faces that are not seen are shown for FILL frames at most, so the window holds some of their codes
        near = np.exp(-np.abs(times)).astype(values.dtype)
        nearest = values[int(near.argmax())]
        return nearest + np.tensordot(near / near.sum(), values - nearest, 1)


# --- the mathematics


def steady_value(values: np.ndarray, times: tuple[int, ...], strength: float) -> np.ndarray:
    """What `values` (n, rows, dim), at `times` in frames, are at time 0: (rows, dim).

    The base is a wide mean. What a narrow mean shows on top of it counts, row by row, as far as it exceeds what noise
    alone would make of it (a Wiener filter); how much noise there is, the second differences tell.
    """
    own = values[times.index(0)]
    wide, narrow = (local_linear_weights(times, width * strength) for width in (WIDE, NARROW))
    weights = np.stack([wide, narrow]).astype(values.dtype)
    base, near = np.tensordot(weights, values - own, 1)
    if len(times) < 3:
        return own + near
    change = near - base
    trembling = values[1:-1] - (values[:-2] + values[2:]) / 2
    noise = np.square(trembling).mean((0, 2)) / 1.5  # (rows,): the variance of independent noise
    expected = SIGNIFICANT * noise * float(np.square(narrow - wide).sum())
    found = np.square(change).mean(1)
    believed = 1 - np.divide(expected, found, out=np.ones_like(found), where=found > expected)
    return own + (base + believed[:, None] * change)


@lru_cache(MOST_WINDOWS)
def local_linear_weights(times: tuple[int, ...], width: float) -> np.ndarray:
    """Weights (n,) whose sum with values at `times` is, at time 0, the straight line fitted to them under a Gaussian of
    standard deviation `width`: the Gaussian mean in the middle of a film, and no lag at its ends."""
    at = np.array(times)
    gauss = np.exp(-0.5 * (at / width) ** 2)
    s0, s1, s2 = (float((gauss * at**power).sum()) for power in (0, 1, 2))
    spread = s0 * s2 - s1 * s1
    if spread < 1e-9 * s0 * s0:  # one value, or a window so narrow that only one counts
        return (at == 0).astype(np.float64)
    return gauss * (s2 - s1 * at) / spread


def off_the_curve(times: tuple[int, ...], path: np.ndarray, width: float, noise: float) -> complex:
    """How far from the `path` (n,), complex, at time 0, a smooth curve passes: a polynomial fitted under a Gaussian of
    standard deviation `width`. It counts as far as the path strays from it by no more than `noise` (a Wiener
    filter)."""
    if len(times) <= BEND + 1:
        return 0j
    strays_of, weights = _strays_from_curve(times, width)
    strays = strays_of @ path
    variance = weights @ (strays.real**2 + strays.imag**2)
    expected = 2 * SIGNIFICANT * noise**2  # in both directions
    return complex(-strays[times.index(0)] * expected / (expected + variance))


@lru_cache(MOST_WINDOWS)
def _strays_from_curve(times: tuple[int, ...], width: float) -> tuple[np.ndarray, np.ndarray]:
    """The matrix (n, n) that takes values at `times` to what is left of them beside the fitted curve, and the weight of
    each time in the fit."""
    along = np.array(times) / width
    weights = np.exp(-0.5 * along**2)
    powers = along[:, None] ** np.arange(BEND + 1)
    weighted = powers.T * weights
    return np.eye(len(times)) - powers @ np.linalg.solve(weighted @ powers, weighted), weights / weights.sum()


@dataclass(frozen=True)
class _Place:
    """A face in a frame: the crop's `center` and its upper edge `axis`, px as complex numbers; its landmarks in the
    unit crop; and how it came here from the frame before."""

    center: complex
    axis: complex
    shape: np.ndarray
    motion: Similarity

    @classmethod
    def of(cls, face: TrackedFace) -> _Place:
        crop_from_photo = face.face.crop_from_photo
        turn = Similarity.of(crop_from_photo).inverse
        shape = transform(crop_from_photo, face.face.points.astype(np.float64))
        motion = IDENTITY if face.motion is None else Similarity.of(face.motion)
        return cls(turn(0.5 + 0.5j), turn.turn, shape, motion)

    def towards(self, other: _Place, part: float) -> _Place:
        return replace(
            self,
            center=self.center + part * (other.center - self.center),
            axis=self.axis * np.exp(part * np.log(other.axis / self.axis)),
            shape=self.shape + part * (other.shape - self.shape),
        )

    @property
    def crop_from_photo(self) -> np.ndarray:
        turn = 1 / self.axis
        return Similarity(turn, 0.5 + 0.5j - turn * self.center).matrix


# --- the frames held


@dataclass
class _Stretch:
    """Frames in which a track is shown without a break: the first, the latest in which it was seen, and where."""

    first: int
    last: int
    rises: bool
    place: _Place | None = None


class _Window(Generic[Sample]):
    """The frames from `lag` before to `lag` after the one in work, with a sample per track seen in each."""

    def __init__(self, lag: int):
        self.lag = lag
        self._frames: dict[int, tuple[FrameFaces, int, dict[int, Sample]]] = {}  # by time; with the shot's number
        self._pushed = self._given = self._shot = 0

    def push(self, frame: FrameFaces, samples: dict[int, Sample]) -> None:
        self._shot += frame.cut
        self._frames[self._pushed] = (frame, self._shot, samples)
        self._pushed += 1

    def ready(self) -> Iterator[int]:
        """The times of frames whose window is full, to be dealt with one by one."""
        while self._pushed - self._given > self.lag:
            yield self._given
            self._given += 1
            self._frames.pop(self._given - self.lag - 1, None)

    def rest(self) -> Iterator[int]:
        while self._given < self._pushed:
            yield self._given
            self._given += 1

    def frame(self, time: int) -> FrameFaces:
        return self._frames[time][0]

    def has(self, time: int, track: int) -> bool:
        return time in self._frames and track in self._frames[time][2]

    def sample(self, time: int, track: int) -> Sample:
        return self._frames[time][2][track]

    def begins_shot(self, time: int) -> bool:
        return time == 0 or self._frames[time][0].cut

    def walk(self, time: int, track: int, direction: int) -> Iterator[Sample]:
        """Outward from `time`, as long as the track is seen without a break in the same shot."""
        for other in range(time + direction, time + direction * (self.lag + 1), direction):
            if not self.has(other, track) or self._frames[other][1] != self._frames[time][1]:
                return
            yield self.sample(other, track)

    def around(self, time: int, track: int) -> Iterator[tuple[int, Sample]]:
        """All samples of the track in the window and in the same shot."""
        for other in range(time - self.lag, time + self.lag + 1):
            if self.has(other, track) and self._frames[other][1] == self._frames[time][1]:
                yield other, self.sample(other, track)

    def walk_on(self, time: int, last: int) -> Iterator[int]:
        """The times after `time` up to `last`, in the same shot."""
        for later in range(time + 1, last + 1):
            if later not in self._frames or self._frames[later][1] != self._frames[time][1]:
                return
            yield later

    def end_of_stretch(self, time: int, track: int, last: int) -> int | None:
        """The last time at which the track is seen before it is lost for more than FILL frames; None where that lies
        beyond the window, or the shot ends first."""
        for later in self.walk_on(time, time + self.lag):
            if self.has(later, track):
                last = later
            elif later - last > FILL:
                return last
        return None


def _checked(strength: float) -> float:
    if not 0 <= strength <= 1:
        raise UsageError(f"Smoothing cannot be {strength}: 0 is none, 1 the most.")
    return float(strength)
