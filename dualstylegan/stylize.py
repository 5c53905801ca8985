"""`stylize`: pictures and films in, the same out with every face restyled in place."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path, PurePath

from dualstylegan.choices import NO_FACE
from dualstylegan.errors import UsageError
from dualstylegan.events import Event
from dualstylegan.faces.faces_json import read_faces_json
from dualstylegan.media.detect import FRAME_SUFFIXES, numbered_pictures
from dualstylegan.media.film.video import check_encoding, film_suffix, is_film
from dualstylegan.media.images import check_format
from dualstylegan.media.paths import Source, expand_inputs, is_complete, names_a_film, output_folder, plan_outputs
from dualstylegan.models import zoo
from dualstylegan.models.codes import parse_style
from dualstylegan.models.convert import pull_style
from dualstylegan.runtime.ranks import Ranks
from dualstylegan.stylizing.film_report import FilmReport
from dualstylegan.stylizing.films import restyle_film
from dualstylegan.stylizing.photos import AddStrip, PhotoLine, StyleTask
from dualstylegan.stylizing.settings import FilmOptions, StylizerSettings
from dualstylegan.stylizing.sheets import Row, Sheets
from dualstylegan.stylizing.style_set import StyleSet
from dualstylegan.stylizing.stylizer import Stylizer

__all__ = ["FilmOptions", "Stylizer", "StylizerSettings", "stylize_files"]

VERB = "stylize"


def stylize_files(
    inputs: Iterable[str | Path],
    styles: Sequence[str | Stylizer],
    settings: StylizerSettings | None = None,
    film: FilmOptions | None = None,
    *,
    output: str | Path | None = None,
    crop: bool = False,
    no_face: str = "copy",
    skip_existing: bool = False,
    dry_run: bool = False,
    landmarks: str | Path | None = None,
    sheet: str | Path | None = None,
) -> Iterator[Event]:
    """Restyle the pictures and films that `inputs` name (files, folders, patterns, `-`), each in every one of `styles`.

    `settings` are for the styles given as text, `film` for films alone. `output` is a folder (default `stylized`), one
    file, or a template with {parent} {stem} {ext} {style} {id}. `crop` writes the aligned portraits instead of full
    frames: the largest face under the picture's name, the others with -2, -3, ...; of a film, a film of one face. What
    has no face is copied as it is or skipped. `landmarks` is a faces.json whose faces are taken for pictures instead of
    looking for them. `sheet` is a PNG of before/after strips.

    Yields one `done`, `skipped` or `failed` event per file between `plan` and `summary`, and `progress` within films;
    one bad file stops nothing. Raises UsageError, before any work, for what cannot be asked.
    """
    started_s = time.monotonic()
    settings, film = settings or StylizerSettings(), replace(film or FilmOptions(), crop=crop)
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
    folder = output_folder(output)
    ranks = Ranks(cpu=str(settings.device) == "cpu")
    inputs = list(inputs)
    only_films = names_a_film(output)
    sources = ranks.agree(lambda: [_with_writable_suffix(one) for one in _sources(inputs, folder, only_films)])
    outputs = plan_outputs(output, sources, [label_of(style) for style in styles])
    tasks = [StyleTask(VERB, source, row, _is_film(source)) for source, row in zip(sources, outputs, strict=True)]
    pictures, films = _by_kind(tasks)
    for path in {path.suffix.lower(): path for task in films for path in task.outputs}.values():
        check_encoding(path, film.codec, film.crf, film.preset)

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
            yield from _fetch(styles, settings.wplus)
            yield from restyle(StyleSet.open(styles, settings), *_by_kind(todo))

    def restyle(styles: StyleSet, photos: Sequence[StyleTask], films: Sequence[StyleTask]) -> Iterator[Event]:
        for stylizer in styles.stylizers:
            yield Event("note", VERB, message=stylizer.description)
        before = "source" if photos and films else "frame" if films else "photo"
        labels = [before, *(stylizer.title for stylizer in styles.stylizers)]
        sheets = Sheets(ranks.own(Path(sheet)), labels) if sheet else None

        def add_strip(name: str, row: Row) -> Iterator[Event]:
            yield from map(_of_page, sheets.add(name, row))

        line = PhotoLine(styles, crop=crop, no_face=no_face, known_faces=known, add_strip=add_strip if sheets else None)
        yield from line.run(photos)
        for task in films:
            yield from _restyle_film(task, styles, film, no_face, add_strip if sheets else None)
        yield from map(_of_page, sheets.close() if sheets else ())

    if ranks.speaks:
        yield Event("plan", VERB, total=len(tasks), data={"styles": [str(style) for style in styles]})
    for event in ranks.gather(work, folder or Path()):
        tally[event.kind] += 1
        if event.kind == "done":  # a film's faces are counted by its tracks
            tally["faces"] += event.data.get("tracks", event.data.get("faces", 0))
        yield event
    if ranks.speaks:
        yield _summary(tally, time.monotonic() - started_s, dry_run)


def _fetch(styles: Sequence[str | Stylizer], wplus: bool) -> Iterator[Event]:
    """Official styles that are not here yet come first, with what there is to say of them."""
    for name in dict.fromkeys(parse_style(style).name for style in styles if isinstance(style, str)):
        if zoo.find_style(name) is None or (wplus and name in zoo.TABLE):
            yield from zoo.as_events(
                VERB,
                lambda notify, progress, name=name: pull_style(name, wplus=wplus, notify=notify, progress=progress),
            )


def _of_page(path: Path) -> Event:
    return Event("note", VERB, output=str(path), message=f"Before and after: {path}")


def label_of(style: str | Stylizer) -> tuple[str, str | None]:
    """A style's name and ID as file names show them: ("toon", "7"), ("anime", "42*0.7+17*0.3"), ("toon", None)."""
    request = style.request if isinstance(style, Stylizer) else parse_style(style)
    stems = [(PurePath(one).stem if PurePath(one).suffix else one, w) for one, w in request.parts if one is not None]
    blended = "+".join(f"{PurePath(stem).name}*{weight:g}" if request.is_blend else stem for stem, weight in stems)
    path = PurePath(request.name)
    in_run = path.name == "style" and path.parent.name  # where a run folder keeps it: the run is what names it
    return in_run or path.name, blended or None


def _restyle_film(
    task: StyleTask, styles: StyleSet, options: FilmOptions, no_face: str, add_strip: AddStrip | None
) -> Iterator[Event]:
    numbers = [number for number, wanted in enumerate(task.wanted) if wanted]
    outputs = [(task.outputs[number], styles.stylizers[number]) for number in numbers]
    said = 0
    try:
        restyled = restyle_film(task.source.path, outputs, options, no_face=no_face, with_strips=add_strip is not None)
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
    for frame, (before, *after) in report.strips if add_strip else ():
        by_style = dict(zip(numbers, after, strict=True))
        row = [before, *(by_style.get(number) for number in range(len(styles)))]
        yield from add_strip(f"{task.source.relative.name} {frame}", row)


def _progress(task: StyleTask, report: FilmReport) -> Event:
    left_s = {} if report.left_s is None else {"left_s": round(report.left_s, 1)}
    data = {"frames_per_s": round(report.frames_per_s, 2), **left_s, "faces": report.faces_now}
    return replace(task.event("progress"), current=report.frames, total=report.total, data=data)


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


def _by_kind(tasks: Iterable[StyleTask]) -> tuple[list[StyleTask], list[StyleTask]]:
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
