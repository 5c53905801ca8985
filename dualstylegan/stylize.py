"""`stylize`: pictures and films in, the same out with every face restyled in place.

Pictures are decoded ahead and written behind in threads; in between, faces are batched across pictures. Films come
after them, one by one, each through a line of threads of its own (stylizing).
"""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dualstylegan.errors import DualStyleGANError, UsageError
from dualstylegan.events import Event, Kind
from dualstylegan.faces.crop import crop_face
from dualstylegan.faces.face import Face
from dualstylegan.faces.faces_json import faces_of, read_faces_json
from dualstylegan.media.detect import FRAME_SUFFIXES, numbered_pictures
from dualstylegan.media.film.video import check_encoding, film_suffix, is_film
from dualstylegan.media.images import Picture, check_format, from_tensor, read_picture, write_picture
from dualstylegan.media.paths import (
    Source,
    expand_inputs,
    is_complete,
    names_a_film,
    output_folder,
    plan_outputs,
)
from dualstylegan.media.sheets import strip
from dualstylegan.models import zoo
from dualstylegan.models.codes import parse_style
from dualstylegan.models.convert import pull_style
from dualstylegan.runtime.files import whole_file
from dualstylegan.runtime.pipeline import BUDGET_BYTES, WriteBehind, read_ahead
from dualstylegan.runtime.ranks import Ranks
from dualstylegan.stylizing.films import FilmOptions, FilmReport, restyle_film
from dualstylegan.stylizing.stylizer import Stylizer

__all__ = ["FilmOptions", "Stylizer", "stylize_files"]

VERB = "stylize"
NO_FACE = ("copy", "skip")
PICTURES_AT_ONCE = 4  # in the search for faces
STRIPS_PER_SHEET = 40
STRIP_PX = 256

log = logging.getLogger(__name__)


def stylize_files(
    inputs: Iterable[str | Path],
    styles: Sequence[str | Stylizer],
    *,
    output: str | Path | None = None,
    crop: bool = False,
    no_face: str = "copy",
    skip_existing: bool = False,
    dry_run: bool = False,
    landmarks: str | Path | None = None,
    sheet: str | Path | None = None,
    film: FilmOptions | None = None,
    **settings: Any,
) -> Iterator[Event]:
    """Restyle the pictures and films that `inputs` name (files, folders, patterns, `-`), each in every one of `styles`.

    `output` is a folder (default `stylized`), one file, or a template with {parent} {stem} {ext} {style} {id}. `crop`
    writes the aligned portraits instead of full frames: the largest face under the picture's name, the others with -2,
    -3, ...; of a film, a film of one face. What has no face is copied as it is or skipped. `landmarks` is a faces.json
    whose faces are taken for pictures instead of looking for them. `sheet` is a PNG of before/after strips. `film` is
    what concerns films alone. `settings` are Stylizer's, for the styles given as text.

    Yields one `done`, `skipped` or `failed` event per file between `plan` and `summary`, and `progress` within films;
    one bad file stops nothing. Raises UsageError, before any work, for what cannot be asked.
    """
    started_s = time.monotonic()
    if no_face not in NO_FACE:
        raise UsageError(f"--no-face is copy or skip, not '{no_face}'.")
    if not styles:
        raise UsageError("No style given: --style toon:7, for example. 'dsg styles' lists them.")
    for style in styles:
        if isinstance(style, str):
            zoo.find_style(parse_style(style).name)
    for style, times in Counter(style for style in styles if isinstance(style, str)).items():
        if times > 1:
            raise UsageError(f"The style {style} is named {times} times. Name it once.")
    if sheet:
        check_format(sheet)
    known = read_faces_json(landmarks) if landmarks else None
    film = replace(film or FilmOptions(), crop=crop)
    folder = output_folder(output)
    ranks = Ranks(cpu=str(settings.get("device")) == "cpu")
    inputs = list(inputs)
    only_films = names_a_film(output)
    sources = ranks.agree(lambda: [_with_writable_suffix(one) for one in _sources(inputs, folder, only_films)])
    outputs = plan_outputs(output, sources, [label_of(style) for style in styles])
    tasks = [_Task(*pair) for pair in zip(sources, outputs, strict=True)]
    for path in {path.suffix.lower(): path for task in tasks if task.is_film for path in task.outputs}.values():
        check_encoding(path, film.codec, film.crf, film.preset)
    pictures, films = _by_kind(tasks)

    tally = Counter()

    def work() -> Iterator[Event]:
        if ranks.speaks:
            for line in _out_of_place(film, bool(landmarks), len(pictures), len(films)):
                yield Event("warning", VERB, message=line)
        todo = []
        for task in ranks.share(pictures) + ranks.share(films):
            task.wanted = [not (skip_existing and _is_there(path)) for path in task.outputs]
            if task.source.problem:
                yield task.event("failed", task.source.problem)
            elif not any(task.wanted):
                yield task.event("skipped", "already there")
            else:
                todo.append(task)
        if dry_run:
            for task in todo:
                yield task.event("note", f"would become {', '.join(map(str, task.wanted_outputs))}")
        elif todo:
            yield from _fetch(styles, settings.get("wplus", False))
            stylizers = load_stylizers(styles, **settings)
            for stylizer in stylizers:
                yield Event("note", VERB, message=stylizer.description)
            photos_todo, films_todo = _by_kind(todo)
            before = "source" if photos_todo and films_todo else "frame" if films_todo else "photo"
            sheets = _Sheets(ranks.own(Path(sheet)), before, stylizers) if sheet else None
            line = _Line(stylizers, crop=crop, no_face=no_face, known_faces=known, sheets=sheets)
            yield from line.run(photos_todo)
            for task in films_todo:
                yield from _restyle_film(task, stylizers, film, no_face, sheets)
            if sheets:
                yield from sheets.close()

    if ranks.speaks:
        yield Event("plan", VERB, total=len(tasks), data={"styles": [str(style) for style in styles]})
    for event in ranks.gather(work, folder or Path()):
        tally[event.kind] += 1
        if event.kind == "done":  # a film's faces are counted by its tracks
            tally["faces"] += event.data.get("tracks", event.data.get("faces", 0))
        yield event
    if ranks.speaks:
        yield _summary(tally, time.monotonic() - started_s, dry_run)


def load_stylizers(styles: Sequence[str | Stylizer], **settings: Any) -> list[Stylizer]:
    """The styles, ready; those given as text share the detector, a style's networks and a base's encoder."""
    stylizers: list[Stylizer] = []
    for style in styles:
        ready = isinstance(style, Stylizer)
        stylizers.append(style if ready else Stylizer(style, **settings, like=stylizers))
    return stylizers


def _fetch(styles: Sequence[str | Stylizer], wplus: bool) -> Iterator[Event]:
    """Official styles that are not here yet come first, with what there is to say of them."""
    for name in dict.fromkeys(parse_style(style).name for style in styles if isinstance(style, str)):
        if zoo.find_style(name) is None or (wplus and name in zoo.TABLE):
            yield from zoo.as_events(
                VERB,
                lambda notify, progress, name=name: pull_style(name, wplus=wplus, notify=notify, progress=progress),
            )


def label_of(style: str | Stylizer) -> tuple[str, str | None]:
    """A style's name and ID as file names show them: ("toon", "7"), ("anime", "42*0.7+17*0.3"), ("toon", None)."""
    request = style.request if isinstance(style, Stylizer) else parse_style(style)
    stems = [(PurePath(one).stem if PurePath(one).suffix else one, w) for one, w in request.parts if one is not None]
    blended = "+".join(f"{PurePath(stem).name}*{weight:g}" if request.is_blend else stem for stem, weight in stems)
    path = PurePath(request.name)
    in_run = path.name == "style" and path.parent.name  # where a run folder keeps it: the run is what names it
    return in_run or path.name, blended or None


@dataclass
class _Task:
    """One picture, or film, on its way: what it is to become, then what was found in it. Ends as one event."""

    source: Source
    outputs: list[Path]  # one per style
    wanted: list[bool] = field(default_factory=list)  # of the outputs; the others are there already
    left: int = 0  # outputs that are still to end, one way or the other
    picture: Picture | None = None
    faces: list[Face] = field(default_factory=list)
    codes: dict[int, Tensor] = field(default_factory=dict)  # by encoder: (faces, rows, dim), W+
    ended: dict[int, _Outcome] = field(default_factory=dict)  # by style

    def __post_init__(self):
        self.is_film = _is_film(self.source)

    @property
    def wanted_outputs(self) -> list[Path]:
        return [path for path, wanted in zip(self.outputs, self.wanted, strict=True) if wanted]

    def event(self, kind: Kind, message: str | None = None, outputs: Sequence[Path] = ()) -> Event:
        paths = [str(path) for path in outputs]
        data = {"faces": len(self.faces), "outputs": paths} if kind == "done" else {}
        output = paths[0] if paths else None
        return Event(kind, VERB, source=str(self.source.path), output=output, message=message, data=data)

    def failed(self, error: Exception) -> Event:
        log.debug("%s failed", self.source.path, exc_info=error)
        known = isinstance(error, DualStyleGANError)
        return self.event("failed", str(error) if known else f"{type(error).__name__}: {error}")

    def forget(self) -> None:
        """Let go of the pixels: the list of tasks outlives each of them."""
        self.picture = None
        self.codes.clear()
        self.ended.clear()


@dataclass(frozen=True)
class _Written:
    """What one style made of one picture: files, and before and after, small, where a sheet wants them."""

    outputs: list[Path]
    before: np.ndarray | None = None
    after: np.ndarray | None = None


_Outcome = _Written | Exception


class _Line:
    """The assembly line: read, find, encode, render, paste, write. Bounded by BUDGET_BYTES at each stage."""

    def __init__(
        self,
        stylizers: Sequence[Stylizer],
        *,
        crop: bool,
        no_face: str,
        known_faces: Mapping[str, list[Face]] | None,
        sheets: _Sheets | None,
    ):
        self.stylizers = stylizers
        self.canvas = _Portraits if crop else _FullFrame
        self.no_face = "skip" if crop else no_face
        self.known_faces = known_faces
        self.sheets = sheets
        self.waiting: list[_Task] = []  # pictures whose faces do not fill a batch yet
        self.warned_of_size = False
        self.writer: WriteBehind[tuple[_Task, int], _Written]

    def run(self, tasks: Iterable[_Task]) -> Iterator[Event]:
        with WriteBehind() as self.writer:
            with closing(read_ahead(tasks, _read, nbytes=_nbytes)) as pictures:
                for group in _groups(pictures):
                    yield from self._take_in(group)
                    if self._is_full():
                        yield from self._restyle_waiting()
                    yield from self._end(self.writer.finished())
            yield from self._restyle_waiting()
            yield from self._end(self.writer.drain())

    def _take_in(self, group: Sequence[tuple[_Task, Picture | Exception]]) -> Iterator[Event]:
        """Look for faces in a few pictures at once: the detector may have a core for each."""
        for task, picture in group:
            if isinstance(picture, Exception):
                yield task.failed(picture)
            else:
                task.picture = picture
        tasks = [task for task, _ in group if task.picture]
        for task, error in _together_or_alone(self._find, tasks):
            yield task.failed(error)
            task.forget()
        for task in tasks:
            if not task.picture:
                continue
            if task.faces:
                task.left = sum(task.wanted)
                self.waiting.append(task)
                yield from self._warn_of_size(task)
            elif self.no_face == "copy":
                task.left = 1
                self.writer.submit((task, 0), partial(_copy, task), nbytes=_nbytes(task.picture))
            else:
                yield task.event("skipped", "no face found")
                task.forget()

    def _find(self, tasks: Sequence[_Task]) -> None:
        first = self.stylizers[0]
        if self.known_faces is None:
            found = first.find([task.picture.pixels for task in tasks])
        else:  # `align` has no entry for a picture without a face
            found = [first.choose(faces_of(self.known_faces, task.source) or []) for task in tasks]
        for task, faces in zip(tasks, found, strict=True):
            task.faces = faces

    def _warn_of_size(self, task: _Task) -> Iterator[Event]:
        lines = (stylizer.warning_about(face) for stylizer in self.stylizers for face in reversed(task.faces))
        line = None if self.warned_of_size else next(filter(None, lines), None)
        if line:
            self.warned_of_size = True  # once: in a folder of large portraits it is true of each
            yield Event("warning", VERB, source=str(task.source.path), message=line)

    def _is_full(self) -> bool:
        faces = sum(len(task.faces) for task in self.waiting)
        held = sum(_nbytes(task.picture) for task in self.waiting)
        return faces >= max(stylizer.batch for stylizer in self.stylizers) or held > BUDGET_BYTES

    def _restyle_waiting(self) -> Iterator[Event]:
        tasks, self.waiting = self.waiting, []
        batches = [stylizer.batch for stylizer in self.stylizers]
        failures = [
            ((task, number), error)
            for task, error in _together_or_alone(self._encode, tasks)
            for number in range(sum(task.wanted))
        ]
        for number, stylizer in enumerate(self.stylizers):
            some = [task for task in tasks if task.codes and task.wanted[number]]
            restyle = partial(self._restyle, stylizer, number)
            failures += [((task, number), error) for task, error in _together_or_alone(restyle, some)]
        for stylizer, batch in zip(self.stylizers, batches, strict=True):
            if stylizer.batch < batch:
                yield Event("warning", VERB, message=f"Memory ran out: now {stylizer.batch} at a time.")
        yield from self._end(failures)

    def _encode(self, tasks: Sequence[_Task]) -> None:
        """The faces' own codes, once for all styles that share an encoder."""
        for stylizer in {id(one.encoder): one for one in self.stylizers}.values():
            sharing = [one for one in self.stylizers if one.encoder is stylizer.encoder]
            rows = sorted(set().union(*(one.rows_needed for one in sharing)))
            crops = torch.cat([stylizer.crop(task.picture.pixels, task.faces) for task in tasks])
            codes = stylizer.encode(crops, rows).split([len(task.faces) for task in tasks])
            for task, own in zip(tasks, codes, strict=True):
                task.codes[id(stylizer.encoder)] = own

    def _restyle(self, stylizer: Stylizer, number: int, tasks: Sequence[_Task]) -> None:
        canvases = [self.canvas(stylizer, task, task.outputs[number]) for task in tasks]
        places = [(canvas, face) for canvas, task in zip(canvases, tasks, strict=True) for face in task.faces]
        codes = torch.cat([task.codes[id(stylizer.encoder)] for task in tasks])
        done = 0
        while done < len(places):
            portraits = stylizer.render(codes[done : done + stylizer.batch])
            for (canvas, face), portrait in zip(places[done:], portraits, strict=False):
                canvas.add(portrait, face)
            done += len(portraits)
        for task, canvas in zip(tasks, canvases, strict=True):
            finish = partial(canvas.finish, with_strip=self.sheets is not None)
            self.writer.submit((task, number), finish, nbytes=canvas.nbytes)

    def _end(self, outcomes: Iterable[tuple[tuple[_Task, int], _Outcome]]) -> Iterator[Event]:
        for (task, number), outcome in outcomes:
            task.ended[number] = outcome
            task.left -= 1
            if task.left:
                continue
            errors = [one for one in task.ended.values() if isinstance(one, Exception)]
            if errors:
                yield task.failed(errors[0])
            else:
                outputs = [path for number in sorted(task.ended) for path in task.ended[number].outputs]
                yield task.event("done", None if task.faces else "no face found, copied", outputs)
                if self.sheets and task.faces:
                    yield from self.sheets.add(task)
            task.forget()


class _FullFrame:
    """The picture with its faces replaced one by one."""

    def __init__(self, stylizer: Stylizer, task: _Task, output: Path):
        self.stylizer, self.picture, self.output = stylizer, task.picture, output
        self.frame = task.picture.pixels.copy()
        self.waiting: list[tuple[Tensor, Face]] = []

    @property
    def nbytes(self) -> int:
        return 2 * self.frame.nbytes + sum(4 * portrait.numel() for portrait, _ in self.waiting)

    def add(self, portrait: Tensor, face: Face) -> None:
        self.waiting.append((portrait, face))
        if len(self.waiting) > self.stylizer.batch:  # a crowd: do not hold all its portraits until the end
            self._paste()

    def finish(self, with_strip: bool) -> _Written:
        self._paste()
        write_picture(self.output, self.frame, like=self.picture)
        if not with_strip:
            return _Written([self.output])
        return _Written([self.output], _small(self.picture.pixels), _small(self.frame))

    def _paste(self) -> None:
        for portrait, face in self.waiting:
            self.stylizer.paste(self.frame, portrait, face, in_place=True)
        self.waiting = []


class _Portraits:
    """The aligned portraits by themselves: NAME.jpg for the largest face, NAME-2.jpg, ... for the others."""

    def __init__(self, stylizer: Stylizer, task: _Task, output: Path):
        self.stylizer, self.picture, self.output = stylizer, task.picture, output
        self.left = len(task.faces)
        self.waiting: list[tuple[Path, np.ndarray]] = []
        self.outputs: list[Path] = []
        self.largest = task.faces[-1]

    @property
    def nbytes(self) -> int:
        return self.picture.pixels.nbytes + sum(pixels.nbytes for _, pixels in self.waiting)

    def add(self, portrait: Tensor, face: Face) -> None:
        stem = self.output.stem if self.left == 1 else f"{self.output.stem}-{self.left}"
        self.left -= 1
        self.latest = from_tensor(portrait)
        self.waiting.append((self.output.with_name(stem + self.output.suffix), self.latest))
        if len(self.waiting) > self.stylizer.batch:
            self._write()

    def finish(self, with_strip: bool) -> _Written:
        self._write()
        outputs = self.outputs[::-1]
        if not with_strip:
            return _Written(outputs)
        before = crop_face(self.picture.pixels, self.largest.crop_from_photo, STRIP_PX)
        return _Written(outputs, from_tensor(before), _small(self.latest))

    def _write(self) -> None:
        # The largest face comes last, so the file that --skip-existing looks for is there only when all are.
        for path, pixels in self.waiting:
            write_picture(path, pixels, like=self.picture)
            self.outputs.append(path)
        self.waiting = []


def _restyle_film(
    task: _Task, stylizers: Sequence[Stylizer], options: FilmOptions, no_face: str, sheets: _Sheets | None
) -> Iterator[Event]:
    numbers = [number for number, wanted in enumerate(task.wanted) if wanted]
    outputs = [(task.outputs[number], stylizers[number]) for number in numbers]
    said = 0
    try:
        restyled = restyle_film(task.source.path, outputs, options, no_face=no_face, with_strips=bool(sheets))
        with closing(restyled) as reports:
            for report in reports:
                for line in report.warnings[said:]:
                    yield task.event("warning", line)
                said = len(report.warnings)
                yield _progress(task, report)
    except Exception as error:
        yield task.failed(error)
        return
    for line in report.notes:
        yield task.event("note", line)
    if not report.outputs:
        yield task.event("skipped", "no face found")
        return
    if report.faces:
        yield task.event("note", report.summary)
    event = task.event("done", None if report.faces else "no face found, copied", report.outputs)
    yield replace(event, data={**report.figures, **event.data, "faces": report.faces})
    for frame, (before, *after) in report.strips if sheets else ():
        by_style = dict(zip(numbers, after, strict=True))
        columns = [by_style.get(number) for number in range(len(stylizers))]
        yield from sheets.add_row(f"{task.source.relative.name} {frame}", before, columns)


def _progress(task: _Task, report: FilmReport) -> Event:
    left_s = {} if report.left_s is None else {"left_s": round(report.left_s, 1)}
    data = {"frames_per_s": round(report.frames_per_s, 2), **left_s, "faces": report.faces_now}
    return replace(task.event("progress"), current=report.frames, total=report.total, data=data)


class _Sheets:
    """Before/after strips, a page of STRIPS_PER_SHEET pictures at a time: sheet.png, sheet-2.png, ..."""

    def __init__(self, path: Path, before: str, stylizers: Sequence[Stylizer]):
        """`before` is the head of the first column."""
        self.path, self.pages = path, 0
        self.labels = [before, *(stylizer.title for stylizer in stylizers)]
        self.rows: list[list[np.ndarray | None]] = []
        self.names: list[str] = []

    def add(self, task: _Task) -> Iterator[Event]:
        results = [task.ended.get(number) for number in range(len(self.labels) - 1)]
        before = next(result.before for result in results if result)
        yield from self.add_row(task.source.relative.name, before, [result and result.after for result in results])

    def add_row(self, name: str, before: np.ndarray, after: Sequence[np.ndarray | None]) -> Iterator[Event]:
        self.rows.append([before, *after])
        self.names.append(name)
        if len(self.rows) == STRIPS_PER_SHEET:
            yield from self.close()

    def close(self) -> Iterator[Event]:
        if not self.rows:
            return
        self.pages += 1
        path = self.path if self.pages == 1 else self.path.with_stem(f"{self.path.stem}-{self.pages}")
        write_picture(path, strip(*self.rows, labels=self.labels, row_labels=self.names, height_px=STRIP_PX))
        self.rows, self.names = [], []
        yield Event("note", VERB, output=str(path), message=f"Before and after: {path}")


def _groups(pictures: Iterable[tuple[_Task, Picture | Exception]]) -> Iterator[list[tuple[_Task, Picture | Exception]]]:
    """A few pictures at a time, fewer of large ones."""
    group, held = [], 0
    for task, picture in pictures:
        group.append((task, picture))
        held += 0 if isinstance(picture, Exception) else _nbytes(picture)
        if len(group) == PICTURES_AT_ONCE or held > BUDGET_BYTES // 8:
            yield group
            group, held = [], 0
    if group:
        yield group


def _together_or_alone(
    step: Callable[[Sequence[_Task]], None], tasks: Sequence[_Task]
) -> list[tuple[_Task, Exception]]:
    """Run a step on all tasks at once; if that fails, on each by itself, so that a failure stays its picture's own."""
    try:
        if tasks:
            step(tasks)
    except Exception as error:
        if len(tasks) == 1:
            return [(tasks[0], error)]
    else:
        return []
    return [failure for task in tasks for failure in _together_or_alone(step, [task])]


def _read(task: _Task) -> Picture:
    return read_picture(task.source.path)


def _copy(task: _Task) -> _Written:
    for output in task.wanted_outputs:
        if output.suffix.lower() != task.source.path.suffix.lower():
            write_picture(output, task.picture)
            continue
        with whole_file(output) as temporary:
            shutil.copyfile(task.source.path, temporary)
    return _Written(task.wanted_outputs)


def _sources(inputs: Sequence[str | Path], exclude: Path | None, only_films: bool) -> Iterator[Source]:
    """What the inputs name. In folders the frames of a film are not pictures, but together one film; where a film is
    what must come out (`only_films`), so are any numbered pictures."""
    folders = [Path(item).resolve() for item in inputs if Path(item).is_dir()]
    films: dict[Path, bool] = {}
    for source in expand_inputs(inputs, exclude=exclude):
        folder = source.path.parent
        if folder not in films:
            searched = any(folder.resolve().is_relative_to(one) for one in folders)
            films[folder] = searched and (numbered_pictures(folder) is not None if only_films else is_film(folder))
            if films[folder]:
                inside = source.relative.parent
                yield Source(folder, Path(folder.resolve().name) if inside == Path() else inside)
        if not films[folder] or source.path.suffix.lower() not in FRAME_SUFFIXES:
            yield source


def _by_kind(tasks: Iterable[_Task]) -> tuple[list[_Task], list[_Task]]:
    """Pictures and films, apart."""
    tasks = list(tasks)
    return [one for one in tasks if not one.is_film], [one for one in tasks if one.is_film]


def _is_film(source: Source) -> bool:
    # Of folders only those that are films have come so far.
    return not source.problem and (source.path.is_dir() or is_film(source.path))


def _with_writable_suffix(source: Source) -> Source:
    """Pictures become PNG where the source's suffix is no picture's, or GIF, which has but 256 colours; films Matroska
    where their container cannot be written."""
    suffix = source.path.suffix.lower()
    if source.path.is_dir():
        return source
    if _is_film(source):
        wanted = film_suffix(source.path)
        return source if wanted == suffix else replace(source, relative=source.relative.with_suffix(wanted))
    if source.kind == "picture" and suffix != ".gif":
        return source
    return replace(source, relative=source.relative.with_suffix(".png"))


def _is_there(path: Path) -> bool:
    return path.is_dir() or is_complete(path)


def _out_of_place(film: FilmOptions, landmarks: bool, pictures: int, films: int) -> Iterator[str]:
    """Options that were given and mean nothing to some of the files, a line for each."""
    default = FilmOptions(crop=film.crop)
    given = [one.name for one in fields(film) if getattr(film, one.name) != getattr(default, one.name)]
    if given and pictures:
        names = ", ".join(f"--{name.removesuffix('_s').replace('_', '-')}" for name in given)
        yield f"{names}: for films only, and makes no difference to {_number(pictures, 'picture')} here."
    if landmarks and films:
        yield f"--landmarks: for pictures only; faces are looked for in {_number(films, 'film')} here."


def _nbytes(picture: Picture) -> int:
    return picture.pixels.nbytes


def _small(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(pixels)
    width_px = max(1, round(image.width * STRIP_PX / image.height))
    return np.asarray(image.resize((width_px, STRIP_PX), Image.Resampling.LANCZOS, reducing_gap=2))


def _summary(tally: Mapping[str, int], seconds: float, dry_run: bool) -> Event:
    """The last event: its counts are of files, but for `faces`; a film's are counted by its tracks."""
    counts = {kind: tally[kind] for kind in ("done", "skipped", "failed", "faces")}
    ends = ", ".join(f"{counts[kind]} {kind}" for kind in ("done", "skipped", "failed") if counts[kind])
    message = f"stylize: {ends or 'nothing to do'}, {_number(tally['faces'], 'face')}"
    message += f" in {seconds:.1f} s"
    if dry_run:
        message = f"stylize: dry run, {tally['note']} to do; nothing was written"
    return Event("summary", VERB, message=message, data={**counts, "seconds": round(seconds, 2), "dry_run": dry_run})


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
