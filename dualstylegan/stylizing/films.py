"""Films through a Stylizer: decode, find and track, align and encode, smooth, generate, paste, encode.

Every step runs in a thread of its own with bounded queues between them, and faces are computed in batches across
frames, so that memory stays the same however long the film is. Several styles share one pass over the film.

    for report in restyle_film("talk.mp4", [("toon.mp4", Stylizer("toon:7"))]):
        print(report.frames, "of", report.total)
"""

from __future__ import annotations

import logging
import shutil
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from fractions import Fraction
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dualstylegan.errors import BadFileError
from dualstylegan.faces.crop import crop_face
from dualstylegan.faces.find import face_embedder, film_detector
from dualstylegan.faces.matte import view_of
from dualstylegan.faces.smooth import CodeSmoother, PointSmoother
from dualstylegan.faces.track import FaceTracker, FrameFaces, TrackedFace
from dualstylegan.media.film.encode import CONTAINERS
from dualstylegan.media.film.video import Film, FilmFrame, FilmWriter, forget_parts, open_film
from dualstylegan.media.images import from_tensor
from dualstylegan.runtime.files import whole_file
from dualstylegan.runtime.line import Channel, Line
from dualstylegan.stylizing.film_report import FilmReport
from dualstylegan.stylizing.moments import (
    Moment,
    Pasted,
    batch_frames,
    batches,
    by_faces,
    frame_bytes,
    without_repeats,
)
from dualstylegan.stylizing.settings import FilmOptions
from dualstylegan.stylizing.sheets import FilmStrips, beside
from dualstylegan.stylizing.shots import ShotScenes
from dualstylegan.stylizing.style_set import StyleSet
from dualstylegan.stylizing.stylizer import Placed, Stylizer

REPORT_EVERY_S = 0.5
NBYTES = attrgetter("nbytes")

log = logging.getLogger(__name__)


def restyle_film(
    source: str | Path,
    outputs: Sequence[tuple[str | Path, Stylizer]],
    options: FilmOptions | None = None,
    *,
    no_face: str = "copy",
    strips: FilmStrips | None = None,
) -> Generator[FilmReport, None, None]:
    """Restyle one film into `outputs`, each a path and its style, in one pass.

    Yields one report, as it grows, about twice a second, and in the end with `finished`. A film in which no face was
    found is copied as it is, or with `no_face="skip"` not written: then `outputs` of the report is empty. All outputs
    appear whole or not at all. `strips` collect a few frames before and after. Raises DualStyleGANError where the film
    cannot be read or an output not written.
    """
    yield from FilmLine(Path(source), outputs, options or FilmOptions(), no_face, strips).run()


class FilmLine:
    """One film's way through the line."""

    def __init__(
        self,
        source: Path,
        outputs: Sequence[tuple[str | Path, Stylizer]],
        options: FilmOptions,
        no_face: str,
        strips: FilmStrips | None = None,
    ):
        self.source, self.options, self.no_face, self.strips = source, options, no_face, strips
        self.paths = [Path(path) for path, _ in outputs]
        self.styles = StyleSet([stylizer for _, stylizer in outputs])
        self.report = FilmReport()
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

    def _restyle(self, started_s: float) -> Generator[None, None, None]:
        report, options = self.report, self.options
        with ExitStack() as files:
            film = files.enter_context(
                open_film(self.source, start_s=options.start_s, end_s=options.end_s, max_frames=options.max_frames)
            )
            report.total = film.info.frames
            self.scenes = [self._scenes_for(stylizer, film) for stylizer in self.styles.stylizers]
            self.batch_frames = batch_frames(film.info.width * film.info.height, self.styles.batch)
            writers = [
                files.enter_context(self._writer(path, stylizer, film))
                for path, stylizer in zip(self.paths, self.styles.stylizers, strict=True)
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
            report.warnings += self.styles.memory_warnings()
            if not report.frames:
                raise BadFileError(f"{self.source}: no frame could be read.")
            if not report.faces and (self.no_face == "skip" or options.crop or self._may_be_copied()):
                raise _NoFaceSeen
        report.notes += [*film.problems, *dict.fromkeys(note for writer in writers for note in writer.notes)]

    def _may_be_copied(self) -> bool:
        same = all(path.suffix.lower() == self.source.suffix.lower() for path in self.paths)
        return same and self.options.keeps_all and self.source.is_file()

    # The stages: each takes moments in the film's order and gives them on in that order

    def _start(self, line: Line, film: Iterable[FilmFrame]) -> Iterator[Moment]:
        cores = max(1, torch.get_num_threads() // 2)  # what there is, shared by the two that need most
        ahead = partial(line.ahead, nbytes=NBYTES)
        frames = line.ahead(self.decode(film), "decode", nbytes=frame_bytes)
        moments = ahead(self.find(frames), "find")
        moments = ahead(self.encode(moments), "encode", cores=cores)
        return ahead(self.generate(moments), "generate", cores=cores)

    def decode(self, film: Iterable[FilmFrame]) -> Iterator[FilmFrame]:
        for frame in film:
            frame.pixels  # noqa: B018 - converted here, in this stage's own time
            yield frame

    def find(self, frames: Iterator[FilmFrame]) -> Iterator[Moment]:
        """Who is where, steady."""
        tracker = FaceTracker(
            film_detector(self.styles.first.detector),
            detect_every=self.options.detect_every,
            embedder=face_embedder(),
        )
        only_one = self.options.crop or self.styles.first.settings.faces == "largest"
        largest = _Largest() if only_one else None
        smoother = PointSmoother(self.options.smooth)
        waiting: deque[FilmFrame] = deque()

        def ready(founds: Iterable[FrameFaces]) -> Iterator[Moment]:
            for found in founds:
                found.faces.sort(key=lambda tracked: tracked.face.crop_side_px)  # the nearest is pasted last
                if largest:
                    found.faces = largest.of(found.faces)
                moment = Moment(waiting.popleft(), found)
                moment.wanted = moment.index >= self.begin_at
                yield moment

        for batch in batches(frames, self.batch_frames):
            waiting.extend(batch)
            for found in tracker.track([frame.pixels for frame in batch]):
                yield from ready(smoother.push(found))
        yield from ready(smoother.flush())

    def encode(self, moments: Iterator[Moment]) -> Iterator[Moment]:
        """The faces' own codes, steady, once for all styles that share an encoder; as steady, where persons are."""
        encoders = len(self.styles.encoders)
        smoothers = [CodeSmoother(self.options.smooth) for _ in range(encoders + (not self.options.crop))]
        waiting: deque[Moment] = deque()

        def ready(by_encoder: Sequence[list]) -> Iterator[Moment]:
            for results in zip(*by_encoder, strict=True):
                moment = waiting.popleft()
                moment.found = results[0][0]
                moment.codes = [codes for _, codes in results[:encoders]]
                moment.persons = results[-1][1]
                yield moment

        for batch in batches(moments, self.batch_frames):
            if batch[-1].index < self.encode_from:
                yield from batch
                continue
            raw = self._encode_batch(batch)
            for number, moment in enumerate(batch):
                waiting.append(moment)
                yield from ready([
                    smoother.push(moment.found, codes[number]) for smoother, codes in zip(smoothers, raw, strict=True)
                ])  # fmt: skip
        yield from ready([smoother.flush() for smoother in smoothers])

    def _encode_batch(self, batch: Sequence[Moment]) -> list[list[dict[int, Tensor]]]:
        """By encoder, for each moment: the codes of the faces that are seen, by track. As if by one more encoder, where
        faces are to be laid in frames: where a person is around them."""
        seen = [(moment, tracked) for moment in batch for tracked in moment.faces if tracked.seen]

        def by_moment(values: Tensor, places: Sequence[int]) -> list[dict[int, Tensor]]:
            found: dict[int, dict[int, Tensor]] = {moment.index: {} for moment in batch}
            for (moment, tracked), place in zip(seen, places, strict=True):
                found[moment.index][tracked.track] = values[place]
            return list(found.values())

        crops = [(one.track, self.styles.crop(moment.frame.pixels, [one.face])) for moment, one in seen]
        distinct, places = without_repeats(crops)
        encoded = self.styles.encode(distinct) if distinct else [torch.empty(0)] * len(self.styles.encoders)
        results = [by_moment(codes.cpu(), places) for codes in encoded]
        if not self.options.crop:
            views = [(one.track, (view_of(moment.frame.pixels, one.face),)) for moment, one in seen]
            distinct_views, places = without_repeats(views)
            results.append(by_moment(self.styles.first.persons_in([view for (view,) in distinct_views]), places))
        return results

    def generate(self, moments: Iterator[Moment]) -> Iterator[Moment]:
        """Every face in every style, as many at a time as the styles take, however many frames they are from."""
        for batch in batches(moments, self.batch_frames):
            for some in by_faces(batch, self.styles.batch):
                wanted = [moment for moment in some if moment.wanted]
                for moment in some:  # those of an earlier run too: scenes depend on what was before
                    moment.scenes = [one.at(moment.frame.pixels, moment.found) if one else None for one in self.scenes]
                for number in range(len(self.styles)):
                    shown = iter(self._draw(number, wanted))
                    for moment in wanted:
                        moment.placed.append([next(shown) for _ in moment.faces])
                yield from some
                del some, wanted  # while the next are awaited, these may be gone

    def _draw(self, number: int, moments: Sequence[Moment]) -> list[Placed]:
        """All faces of the moments in one style."""
        everyone = [(moment, tracked) for moment in moments for tracked in moment.faces]
        if not everyone:
            return []
        encoder = self.styles.encoder_of[number]
        distinct, places = without_repeats((one.track, (moment.codes[encoder][one.track],)) for moment, one in everyone)
        codes = torch.stack([code for (code,) in distinct])
        faces = [one.face for _, one in everyone]
        persons = None if self.options.crop else [moment.persons.get(one.track) for moment, one in everyone]
        # scenes are fitted to portraits of their own, once a shot
        placed = self.styles.render(number, codes, faces, persons, places, scene="keep")
        return [replace(drawn, opacity=one.opacity) for drawn, (_, one) in zip(placed, everyone, strict=True)]

    def _sink(self, line: Line, number: int, writer: FilmWriter) -> Channel[Moment]:
        """Where one style's portraits go: into their frames, and these into the film."""
        moments = line.channel(NBYTES)
        paste = self.paste_portraits if self.options.crop else self.paste
        pasted = line.ahead(paste(moments, number), "paste", nbytes=NBYTES)

        def write() -> None:
            for one in pasted:
                writer.write(one.frame, one.pixels)

        line.run(write, "write")
        return moments

    def paste(self, moments: Iterable[Moment], number: int) -> Iterator[Pasted]:
        stylizer = self.styles.stylizers[number]
        for moment in moments:
            pixels = None  # what nothing was done to goes on as it came
            shown = [one for one in moment.placed[number] if one.opacity > 0]
            if shown or moment.scenes[number]:
                pixels = stylizer.compose(moment.frame.pixels, shown, moment.scenes[number])
            if self.strips and moment.sampled:
                after = moment.frame.pixels if pixels is None else pixels
                if self.strips.keep and stylizer.scene != "keep":
                    after = beside(stylizer.compose(moment.frame.pixels, shown), after)
                self.strips.add(moment.index, number, after)
            if self.options.compare:
                source = moment.frame.pixels
                pixels = np.hstack([source, source if pixels is None else pixels])
            yield Pasted(moment.frame, pixels)

    def paste_portraits(self, moments: Iterable[Moment], number: int) -> Iterator[Pasted]:
        """The aligned portrait by itself; while there is none the last one stays, before the first all is black."""
        size = self.styles.stylizers[number].size
        portrait = np.zeros((size, size, 3), np.uint8)
        source = portrait
        for moment in moments:
            if moment.faces:
                portrait = from_tensor(moment.placed[number][-1].portrait)
                if self.options.compare:
                    face = moment.faces[-1].face
                    source = from_tensor(crop_face(moment.frame.pixels, face.crop_from_photo, size))
            if self.strips and moment.sampled:
                self.strips.add(moment.index, number, portrait)
            yield Pasted(moment.frame, np.hstack([source, portrait]) if self.options.compare else portrait)

    # The rest

    def _scenes_for(self, stylizer: Stylizer, film: Film) -> ShotScenes | None:
        """Whether, and how, a style's film is toned. HDR has colours that the style's table does not know."""
        if stylizer.scene == "keep" or self.options.crop:
            return None
        if film.info.is_hdr:
            self.report.notes.append(f"HDR: its colours are kept (--scene keep), not {stylizer.name}'s")
            return None
        return ShotScenes(stylizer)

    def _writer(self, path: Path, stylizer: Stylizer, film: Film) -> FilmWriter:
        options = self.options
        side = stylizer.size
        width, height = (side, side) if options.crop else (film.info.width, film.info.height)
        size = (2 * width if options.compare else width, height) if options.crop or options.compare else None
        shape = Fraction(1) if options.crop else None
        if not options.resume:
            forget_parts(path)
        asked: dict[str, Any] = {}
        if path.suffix.lower() in CONTAINERS:  # a GIF in a batch of films has none of these
            decides = f"{stylizer.fingerprint} {replace(options, resume=False)}"  # with the source, what parts hold
            asked = {"codec": options.codec, "crf": options.crf, "preset": options.preset, "resume": decides}
        return FilmWriter(path, film, size=size, sample_aspect_ratio=shape, **asked)

    def _say_what_is_kept(self, writers: Sequence[FilmWriter]) -> None:
        """Where a run ends early, by Ctrl-C too, nobody listens to reports any more."""
        kept = min(writer.done for writer in writers)
        if kept and not self.is_through:
            log.warning("%s: %d frames are kept; with --resume the same command goes on from there.", self.source, kept)

    def _count(self, moment: Moment) -> None:
        report = self.report
        shown = [tracked for tracked in moment.faces if tracked.opacity > 0]
        report.frames += 1
        report.faces_now = len(shown)
        report.faces += len(shown)
        report.frames_without_face += not shown
        report.cuts += moment.found.cut and report.frames > 1
        report.tracks.update(tracked.track for tracked in shown)
        report.warnings += self.styles.size_warnings([tracked.face for tracked in reversed(shown)])
        if self.strips and shown and moment.wanted:
            moment.sampled = self.strips.take(moment.index, moment.frame.pixels)


class _Largest:
    """Keeps to one face of a film: the largest when it appears, for as long as its track lasts."""

    def __init__(self):
        self.track: int | None = None

    def of(self, faces: Sequence[TrackedFace]) -> list[TrackedFace]:
        """`faces` in order of size."""
        if faces and self.track not in [tracked.track for tracked in faces]:
            self.track = faces[-1].track
        return [tracked for tracked in faces if tracked.track == self.track]


class _NoFaceSeen(Exception):
    """The film is through, and nothing in it was restyled."""
