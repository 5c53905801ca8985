"""Films through a Stylizer: decode, find and track, align and encode, smooth, generate, paste, encode.

Every step runs in a thread of its own with bounded queues between them, and faces are computed in batches across
frames, so that memory stays the same however long the film is. Several styles share one pass over the film.

    for report in restyle_film("talk.mp4", [("toon.mp4", Stylizer("toon:7"))]):
        print(report.frames, "of", report.total)
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import shutil
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dualstylegan.errors import BadFileError, UsageError
from dualstylegan.faces.crop import crop_face
from dualstylegan.faces.find import Detector, EmbeddedDetector, FaceEmbedder
from dualstylegan.faces.smooth import SMOOTH, CodeSmoother, PointSmoother
from dualstylegan.faces.track import DETECT_EVERY, FaceTracker, FrameFaces, TrackedFace
from dualstylegan.media.film.encode import CONTAINERS
from dualstylegan.media.film.video import Film, FilmFrame, FilmWriter, forget_parts, open_film
from dualstylegan.media.images import from_tensor
from dualstylegan.runtime.files import whole_file
from dualstylegan.runtime.stages import Channel, Line
from dualstylegan.stylizing.stylizer import Stylizer

Item = TypeVar("Item")

FRAME_BYTES = 5  # a pixel's: RGB, and YUV as it came
BATCH_BYTES = 64 << 20  # of frames that are worked on at once, at each step
MOST_FRAMES = 16  # in a batch; a power of two, as every batch is, that divides the parts films are written in
REPORT_EVERY_S = 0.5
STRIPS = 4  # moments of a film that a sheet shows
STRIP_PX = 256

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FilmOptions:
    """What can be asked of films alone. `codec`, `crf` and `preset` are the encoder's, None: what suits the source.

    `start_s` to `end_s` and `max_frames` take a part of the film. `crop` makes a film of the aligned portrait of one
    face: the largest when it appears, and until it leaves. `compare` sets the source beside the result. Faces are
    looked for in every `detect_every`-th frame and followed in between. `smooth` is 0 (every frame by itself) to 1.
    `resume` goes on from the parts that a run which was stopped has finished.
    """

    codec: str | None = None
    crf: float | None = None
    preset: str | None = None
    start_s: float = 0.0
    end_s: float | None = None
    max_frames: int | None = None
    crop: bool = False
    compare: bool = False
    detect_every: int = DETECT_EVERY
    smooth: float = SMOOTH
    resume: bool = False

    def __post_init__(self):
        """Raises UsageError for what cannot be."""
        if self.start_s < 0 or (self.end_s is not None and self.end_s <= self.start_s):
            raise UsageError("A film's part starts at 0 s or later (--start) and ends after that (--end).")
        if self.max_frames is not None and self.max_frames < 1:
            raise UsageError(f"--max-frames is 1 or more, not {self.max_frames}.")
        if self.detect_every < 1:
            raise UsageError(f"--detect-every is 1 (every frame) or more, not {self.detect_every}.")
        if not 0 <= self.smooth <= 1:
            raise UsageError(f"--smooth is 0 (not at all) to 1, not {self.smooth:g}.")

    @property
    def keeps_all(self) -> bool:
        """Whether a film with nothing to restyle comes out as it was."""
        picked = (self.codec, self.crf, self.preset, self.end_s, self.max_frames, self.start_s or None)
        return not (self.crop or self.compare or any(value is not None for value in picked))


@dataclass
class FilmReport:
    """How far a film is, and in the end what was in it."""

    total: int | None = None  # frames, where the film says how many
    frames: int = 0
    faces_now: int = 0  # in the latest frame
    faces: int = 0  # restyled, over all frames
    frames_without_face: int = 0
    cuts: int = 0
    tracks: set[int] = field(default_factory=set)
    seconds: float = 0.0
    resumed_at: int = 0  # the frame this run began with; those before are an earlier run's
    finished: bool = False
    outputs: list[Path] = field(default_factory=list)  # that were written
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    strips: list[tuple[int, list[np.ndarray]]] = field(default_factory=list)  # (frame, [before, after, ...])
    cpu_s: Counter[str] = field(default_factory=Counter)  # by stage: its own thread's CPU time

    @property
    def frames_per_s(self) -> float:
        return max(0, self.frames - self.resumed_at) / self.seconds if self.seconds > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """The time left at the present pace, where the film says how long it is."""
        if not self.total or self.frames_per_s <= 0:
            return None
        return max(0, self.total - self.frames) / self.frames_per_s

    @property
    def figures(self) -> dict[str, float]:
        return {
            "frames": self.frames,
            "faces": self.faces,
            "tracks": len(self.tracks),
            "cuts": self.cuts,
            "frames_without_face": self.frames_without_face,
            "frames_per_s": round(self.frames_per_s, 2),
        }

    @property
    def summary(self) -> str:
        counts = [
            _count(self.frames, "frame"),
            f"{_count(self.faces, 'face')} in {_count(len(self.tracks), 'track')}",
            _count(self.cuts, "cut"),
            f"{_count(self.frames_without_face, 'frame')} without a face",
        ]
        return f"{', '.join(counts)}, {self.frames_per_s:.1f} frames/s"


@dataclass
class _Moment:
    """One frame on its way through the line."""

    frame: FilmFrame
    found: FrameFaces
    codes: list[dict[int, Tensor]] = field(default_factory=list)  # by encoder, by track: (rows, dim), W+
    portraits: list[list[Tensor]] = field(default_factory=list)  # by style, by face: (3, S, S)
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
        return _nbytes(self.frame) + sum(4 * one.numel() for some in self.portraits for one in some)


def restyle_film(
    source: str | Path,
    outputs: Sequence[tuple[str | Path, Stylizer]],
    options: FilmOptions | None = None,
    *,
    no_face: str = "copy",
    with_strips: bool = False,
) -> Iterator[FilmReport]:
    """Restyle one film into `outputs`, each a path and its style, in one pass.

    Yields one report, as it grows, about twice a second, and in the end with `finished`. A film in which no face was
    found is copied as it is, or with `no_face="skip"` not written: then `outputs` of the report is empty. All outputs
    appear whole or not at all. Raises DualStyleGANError where the film cannot be read or an output not be written.
    """
    yield from _Film(Path(source), outputs, options or FilmOptions(), no_face, with_strips).run()


class _Film:
    """One film's way through the line."""

    def __init__(
        self,
        source: Path,
        outputs: Sequence[tuple[str | Path, Stylizer]],
        options: FilmOptions,
        no_face: str,
        with_strips: bool,
    ):
        self.source, self.options, self.no_face = source, options, no_face
        self.paths = [Path(path) for path, _ in outputs]
        self.stylizers = [stylizer for _, stylizer in outputs]
        self.encoders = list({id(one.encoder): one for one in self.stylizers}.values())  # one style for each
        self.report = FilmReport()
        self.samples = _Samples(len(outputs)) if with_strips else None
        self.begin_at = self.encode_from = 0  # the first frame that is written; the first whose faces are encoded
        self.is_through = False

    def run(self) -> Iterator[FilmReport]:
        report = self.report
        started_s = time.monotonic()
        try:
            with closing(self._restyle(started_s)) as steps:
                for _ in steps:
                    yield report
        except _NoFaceSeen:  # leaving by an error has thrown away what was written
            for path in self.paths:
                forget_parts(path)
            if self.no_face == "copy" and not self.options.crop:
                for path in self.paths:
                    with whole_file(path) as temporary:
                        shutil.copyfile(self.source, temporary)
                report.outputs = list(self.paths)
        else:
            report.outputs = list(self.paths)
        report.seconds = time.monotonic() - started_s
        report.finished = True
        yield report

    def _restyle(self, started_s: float) -> Iterator[None]:
        report, options = self.report, self.options
        batches = [stylizer.batch for stylizer in self.stylizers]
        with ExitStack() as files:
            film = files.enter_context(
                open_film(self.source, start_s=options.start_s, end_s=options.end_s, max_frames=options.max_frames)
            )
            report.total = film.info.frames
            self.batch_frames = _batch_frames(film.info.width * film.info.height, max(batches))
            writers = [
                files.enter_context(self._writer(path, stylizer, film))
                for path, stylizer in zip(self.paths, self.stylizers, strict=True)
            ]
            files.callback(self._say_what_is_kept, writers)
            # Up to here an earlier run has come. Faces are tracked from the beginning all the same, and encoded from as
            # far before as codes are smoothed over, so that nothing differs from a run that was not stopped.
            report.resumed_at = self.begin_at = min(writer.done for writer in writers)
            self.encode_from = self.begin_at - CodeSmoother(options.smooth).lag
            with Line() as line:
                moments = self._start(line, film)
                sinks = [self._sink(line, number, writer) for number, writer in enumerate(writers)]
                due_s = 0.0
                for moment in moments:
                    self._count(moment)
                    if moment.wanted:
                        for sink in sinks:
                            line.put(sink, moment)
                    if (now_s := time.monotonic()) >= due_s:
                        report.seconds, due_s = now_s - started_s, now_s + REPORT_EVERY_S
                        yield
                for sink in sinks:
                    sink.end()
                line.wait()
            self.is_through = True
            report.cpu_s = line.cpu_s
            report.warnings += [
                f"Memory ran out: now {one.batch} at a time."
                for one, batch in zip(self.stylizers, batches, strict=True)
                if one.batch < batch
            ]
            if not report.frames:
                raise BadFileError(f"{self.source}: no frame could be read.")
            if not report.faces and (self.no_face == "skip" or options.crop or self._may_be_copied()):
                raise _NoFaceSeen
        report.notes += [*film.problems, *dict.fromkeys(note for writer in writers for note in writer.notes)]
        if self.samples:
            report.strips = self.samples.strips()

    def _may_be_copied(self) -> bool:
        same = all(path.suffix.lower() == self.source.suffix.lower() for path in self.paths)
        return same and self.options.keeps_all and self.source.is_file()

    # The stages: each takes moments in the film's order and gives them on in that order

    def _start(self, line: Line, film: Iterable[FilmFrame]) -> Iterator[_Moment]:
        cores = max(1, torch.get_num_threads() // 2)  # what there is, shared by the two that need most
        ahead = partial(line.ahead, nbytes=_Moment.nbytes.fget)
        frames = line.ahead(self._decode(film), "decode", nbytes=_nbytes)
        moments = ahead(self._find(frames), "find")
        moments = ahead(self._encode(moments), "encode", cores=cores)
        return ahead(self._generate(moments), "generate", cores=cores)

    def _decode(self, film: Iterable[FilmFrame]) -> Iterator[FilmFrame]:
        for frame in film:
            frame.pixels  # noqa: B018 - converted here, in this stage's own time
            yield frame

    def _find(self, frames: Iterator[FilmFrame]) -> Iterator[_Moment]:
        """Who is where, steady."""
        tracker = FaceTracker(
            film_detector(self.stylizers[0].detector), detect_every=self.options.detect_every, embedder=FaceEmbedder()
        )
        only_one = self.options.crop or self.stylizers[0].faces == "largest"
        largest = _Largest() if only_one else None
        smoother = PointSmoother(self.options.smooth)
        waiting: deque[FilmFrame] = deque()

        def ready(founds: Iterable[FrameFaces]) -> Iterator[_Moment]:
            for found in founds:
                found.faces.sort(key=lambda tracked: tracked.face.crop_side_px)  # the nearest is pasted last
                if largest:
                    found.faces = largest.of(found.faces)
                moment = _Moment(waiting.popleft(), found)
                moment.wanted = moment.index >= self.begin_at
                yield moment

        for batch in _batches(frames, self.batch_frames):
            waiting.extend(batch)
            for found in tracker.track([frame.pixels for frame in batch]):
                yield from ready(smoother.push(found))
        yield from ready(smoother.flush())

    def _encode(self, moments: Iterator[_Moment]) -> Iterator[_Moment]:
        """The faces' own codes, steady, once for all styles that share an encoder."""
        smoothers = [CodeSmoother(self.options.smooth) for _ in self.encoders]
        waiting: deque[_Moment] = deque()

        def ready(by_encoder: Sequence[list]) -> Iterator[_Moment]:
            for results in zip(*by_encoder, strict=True):
                moment = waiting.popleft()
                moment.found = results[0][0]
                moment.codes = [codes for _, codes in results]
                yield moment

        for batch in _batches(moments, self.batch_frames):
            if batch[-1].index < self.encode_from:
                yield from batch
                continue
            raw = [self._encode_batch(encoder, batch) for encoder in self.encoders]
            for number, moment in enumerate(batch):
                waiting.append(moment)
                yield from ready([
                    smoother.push(moment.found, codes[number]) for smoother, codes in zip(smoothers, raw, strict=True)
                ])  # fmt: skip
        yield from ready([smoother.flush() for smoother in smoothers])

    def _encode_batch(self, stylizer: Stylizer, batch: Sequence[_Moment]) -> list[dict[int, Tensor]]:
        """The codes of the faces that are seen, by track, for each moment."""
        sharing = [one for one in self.stylizers if one.encoder is stylizer.encoder]
        rows = sorted(set().union(*(one.rows_needed for one in sharing)))
        seen = [(moment, tracked) for moment in batch for tracked in moment.faces if tracked.seen]
        crops = [stylizer.crop(moment.frame.pixels, [tracked.face]) for moment, tracked in seen]
        distinct, places = _without_repeats((tracked.track for _, tracked in seen), crops)
        codes = stylizer.encode(torch.cat(distinct), rows).cpu() if distinct else []
        results: dict[int, dict[int, Tensor]] = {moment.index: {} for moment in batch}
        for (moment, tracked), place in zip(seen, places, strict=True):
            results[moment.index][tracked.track] = codes[place]
        return list(results.values())

    def _generate(self, moments: Iterator[_Moment]) -> Iterator[_Moment]:
        """Every face in every style, as many at a time as the styles take, however many frames they are from."""
        encoders = [next(n for n, one in enumerate(self.encoders) if one.encoder is s.encoder) for s in self.stylizers]
        for batch in _batches(moments, self.batch_frames):
            for some in _by_faces(batch, max(stylizer.batch for stylizer in self.stylizers)):
                wanted = [moment for moment in some if moment.wanted]
                for stylizer, encoder in zip(self.stylizers, encoders, strict=True):
                    tracks = [tracked.track for moment in wanted for tracked in moment.faces]
                    codes = [moment.codes[encoder][tracked.track] for moment in wanted for tracked in moment.faces]
                    distinct, places = _without_repeats(tracks, codes)
                    portraits = stylizer.render(torch.stack(distinct)) if distinct else []
                    shown = iter(places)
                    for moment in wanted:
                        moment.portraits.append([portraits[next(shown)] for _ in moment.faces])
                yield from some
                del some, wanted  # while the next are awaited, these may be gone

    def _sink(self, line: Line, number: int, writer: FilmWriter) -> Channel[_Moment]:
        """Where one style's portraits go: into their frames, and these into the film."""
        moments = line.channel(_Moment.nbytes.fget)
        paste = self._paste_portraits if self.options.crop else self._paste
        pasted = line.ahead(paste(moments, number), "paste", nbytes=_Pasted.nbytes.fget)

        def write() -> None:
            for one in pasted:
                writer.write(one.frame, one.pixels)

        line.run(write, "write")
        return moments

    def _paste(self, moments: Iterable[_Moment], number: int) -> Iterator[_Pasted]:
        stylizer = self.stylizers[number]
        for moment in moments:
            pixels = None  # what nothing was pasted into goes on as it came
            shown = [one for one in zip(moment.faces, moment.portraits[number], strict=True) if one[0].opacity > 0]
            if shown:
                pixels = moment.frame.pixels.copy()
                for tracked, portrait in shown:
                    stylizer.paste(pixels, portrait, tracked.face, tracked.opacity, in_place=True)
            if moment.sampled:
                self.samples.add(moment.index, number, moment.frame.pixels if pixels is None else pixels)
            if self.options.compare:
                source = moment.frame.pixels
                pixels = np.hstack([source, source if pixels is None else pixels])
            yield _Pasted(moment.frame, pixels)

    def _paste_portraits(self, moments: Iterable[_Moment], number: int) -> Iterator[_Pasted]:
        """The aligned portrait by itself; while there is none the last one stays, before the first all is black."""
        size = self.stylizers[number].size
        portrait = np.zeros((size, size, 3), np.uint8)
        source = portrait
        for moment in moments:
            if moment.faces:
                portrait = from_tensor(moment.portraits[number][-1])
                if self.options.compare:
                    face = moment.faces[-1].face
                    source = from_tensor(crop_face(moment.frame.pixels, face.crop_from_photo, size))
            if moment.sampled:
                self.samples.add(moment.index, number, portrait)
            yield _Pasted(moment.frame, np.hstack([source, portrait]) if self.options.compare else portrait)

    # The rest

    def _writer(self, path: Path, stylizer: Stylizer, film: Film) -> FilmWriter:
        options = self.options
        side = stylizer.size
        width, height = (side, side) if options.crop else (film.info.width, film.info.height)
        size = (2 * width if options.compare else width, height) if options.crop or options.compare else None
        shape = Fraction(1) if options.crop else None
        if not options.resume:
            forget_parts(path)
        suits = path.suffix.lower() in CONTAINERS  # a GIF in a batch of films has none of these
        return FilmWriter(
            path,
            film,
            codec=options.codec if suits else None,
            crf=options.crf if suits else None,
            preset=options.preset if suits else None,
            size=size,
            sample_aspect_ratio=shape,
            resume=_fingerprint(stylizer, options) if suits else None,
        )

    def _say_what_is_kept(self, writers: Sequence[FilmWriter]) -> None:
        """Where a run ends early, by Ctrl-C too, nobody listens to reports any more."""
        kept = min(writer.done for writer in writers)
        if kept and not self.is_through:
            log.warning("%s: %d frames are kept; with --resume the same command goes on from there.", self.source, kept)

    def _count(self, moment: _Moment) -> None:
        report = self.report
        shown = [tracked for tracked in moment.faces if tracked.opacity > 0]
        report.frames += 1
        report.faces_now = len(shown)
        report.faces += len(shown)
        report.frames_without_face += not shown
        report.cuts += moment.found.cut and report.frames > 1
        report.tracks.update(tracked.track for tracked in shown)
        if shown and not report.warnings:
            face = max((tracked.face for tracked in shown), key=lambda face: face.crop_side_px)
            report.warnings += [line for one in self.stylizers if (line := one.warning_about(face))][:1]
        if self.samples and shown and moment.wanted:
            moment.sampled = self.samples.take(moment)


class _Largest:
    """Keeps to one face of a film: the largest when it appears, for as long as its track lasts."""

    def __init__(self):
        self.track: int | None = None

    def of(self, faces: Sequence[TrackedFace]) -> list[TrackedFace]:
        """`faces` in order of size."""
        if faces and self.track not in [tracked.track for tracked in faces]:
            self.track = faces[-1].track
        return [tracked for tracked in faces if tracked.track == self.track]


class _Samples:
    """A few moments of a film for a sheet, spread over all of it, though its length is not known: whenever there are
    twice too many, every second one goes, and from then on only every second one comes."""

    def __init__(self, styles: int):
        self.styles = styles
        self.seen, self.stride = 0, 1
        self.pictures: dict[int, list[np.ndarray | None]] = {}  # frame -> before, after in each style

    def take(self, moment: _Moment) -> bool:
        self.seen += 1
        if (self.seen - 1) % self.stride:
            return False
        self.pictures[moment.index] = [_small(moment.frame.pixels), *[None] * self.styles]
        if len(self.pictures) > 2 * STRIPS:
            self.stride *= 2
            for index in sorted(self.pictures)[1::2]:
                del self.pictures[index]
        return moment.index in self.pictures

    def add(self, index: int, style: int, pixels: np.ndarray) -> None:
        if row := self.pictures.get(index):
            row[style + 1] = _small(pixels)

    def strips(self) -> list[tuple[int, list[np.ndarray | None]]]:
        kept = sorted(self.pictures)
        chosen = sorted({kept[round(i)] for i in np.linspace(0, len(kept) - 1, STRIPS)}) if kept else []
        return [(index, self.pictures[index]) for index in chosen]


@dataclass(frozen=True)
class _Pasted:
    frame: FilmFrame
    pixels: np.ndarray | None

    @property
    def nbytes(self) -> int:
        return _nbytes(self.frame) + (0 if self.pixels is None else self.pixels.nbytes)


class _NoFaceSeen(Exception):
    """The film is through, and nothing in it was restyled."""


def _fingerprint(stylizer: Stylizer, options: FilmOptions) -> str:
    """All that decides what a film's parts hold, besides the source and its encoding."""
    what = [stylizer.description, getattr(stylizer.detector, "name", ""), stylizer.mask, stylizer.faces]
    what += [getattr(stylizer, name, None) for name in ("weights", "truncation", "preserve_color")]
    what += [options.crop, options.compare, options.detect_every, options.smooth]
    if hasattr(stylizer, "style"):
        what += [stylizer.style.header, hashlib.sha256(stylizer.extrinsic.cpu().numpy().tobytes()).hexdigest()]
    return json.dumps(what, default=str)


def film_detector(detector: Detector) -> Detector:
    """The detector as films want it: frames without a face are common there, and not to be searched again tilted."""
    if not isinstance(detector, EmbeddedDetector):
        return detector
    upright = copy.copy(detector)
    upright.tilts = ()
    return upright


def _batches(items: Iterable[Item], frames: int) -> Iterator[list[Item]]:
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


def _without_repeats(tracks: Iterable[int], values: Iterable[Tensor]) -> tuple[list[Tensor], list[int]]:
    """The values that differ from the one before of the same track, and for each value which of these it is.

    What stands still is so computed once a batch, and comes out of batches of every size as the same: nothing of
    earlier batches is needed, which a run that is resumed would not have.
    """
    distinct: list[Tensor] = []
    places: list[int] = []
    latest: dict[int, int] = {}
    for track, value in zip(tracks, values, strict=True):
        place = latest.get(track)
        if place is None or not torch.equal(distinct[place], value):
            place = latest[track] = len(distinct)
            distinct.append(value)
        places.append(place)
    return distinct, places


def _by_faces(moments: list[_Moment], most: int) -> Iterator[list[_Moment]]:
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


def _batch_frames(pixels: int, batch: int) -> int:
    """How many frames are worked on at once: a power of two, fewer of large ones."""
    most = min(max(8, batch), MOST_FRAMES, max(1, BATCH_BYTES // (pixels * FRAME_BYTES)))
    return 1 << (most.bit_length() - 1)


def _nbytes(frame: FilmFrame) -> int:
    return FRAME_BYTES * frame.pixels.shape[0] * frame.pixels.shape[1]


def _small(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(pixels)
    width_px = max(1, round(image.width * STRIP_PX / image.height))
    return np.asarray(image.resize((width_px, STRIP_PX), Image.Resampling.BILINEAR, reducing_gap=2))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
