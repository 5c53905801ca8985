"""`stylize`: pictures and films in, the same out with every face restyled in place."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import fields, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from dualstylegan import __version__
from dualstylegan.choices import NO_FACE
from dualstylegan.errors import BadFileError, UsageError
from dualstylegan.events import Event, counted
from dualstylegan.faces.faces_json import check_known, given_faces
from dualstylegan.faces.find import check_detector, fallback_note
from dualstylegan.media.detect import (
    FRAME_SUFFIXES,
    are_frames_but_for_a_gap,
    gap_in,
    is_animated,
    is_film,
    numbered_pictures,
    suffix_by_content,
)
from dualstylegan.media.images import check_format, read_picture
from dualstylegan.media.mark import is_marked
from dualstylegan.media.pages import is_page
from dualstylegan.media.paths import HEIF_SUFFIXES, PassedOver, Source, expand_inputs, is_complete, kept_apart
from dualstylegan.media.plan import Destination, Plan, without_results
from dualstylegan.models import library
from dualstylegan.models.codes import distinct_labels
from dualstylegan.models.fetch import Terms
from dualstylegan.models.library import FoundStyle
from dualstylegan.runtime.devices import pick_device
from dualstylegan.runtime.processes import Processes, Shard
from dualstylegan.stylizing.drawing import chosen_for
from dualstylegan.stylizing.film_report import FilmReport
from dualstylegan.stylizing.photos import PhotoLine, StyleTask
from dualstylegan.stylizing.settings import FilmOptions, StylizerSettings
from dualstylegan.stylizing.sheets import MOMENTS, STRIPS_PER_SHEET, FilmStrips, Report, Sheets
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
    sheet_keep: bool = False,
    shard: str | None = None,
) -> Iterator[Event]:
    """Restyle the pictures and films that `inputs` name (files, folders, patterns, `-`), each in every one of `styles`.

    `settings` are for the styles given as text, `film` for films alone. `output` is a folder (default `stylized`), one
    file, or a template with {parent} {stem} {ext} {style} {id}. `crop` writes the aligned portraits instead of full
    frames: the largest face under the picture's name, the others with -2, -3, ...; of a film, a film of one face. What
    has no face is copied as it is or skipped. `landmarks` is a faces.json whose faces are taken for pictures instead of
    looking for them. `sheet` is a PNG of before/after strips, or an HTML page; `sheet_keep` shows on strips what a
    style makes of the faces alone too. `shard` is K/N, part K of N parts of the list, each worked on by a command of
    its own: all plan the same names, and each draws a sheet of its own, NAME.shardK-of-N.png.

    Yields one `done`, `skipped` or `failed` event per file between `plan` and `summary`, and `progress` within films;
    one bad file stops nothing. Raises UsageError, before any work, for what cannot be asked.
    """
    started_s = time.monotonic()
    mine = Shard.of(shard)
    settings, film = settings or StylizerSettings(), replace(film or FilmOptions(), crop=crop)
    if no_face not in NO_FACE:
        raise UsageError(f"--no-face is copy or skip, not '{no_face}'.")
    if not styles:
        raise UsageError("No style given: --style toon:7, for example. 'dsg styles' lists them.")
    found = [style if isinstance(style, Stylizer) else library.find(style) for style in styles]
    _check_styles(found, settings)
    for style, times in Counter(style for style in styles if isinstance(style, str)).items():
        if times > 1:
            raise UsageError(f"The style {style} is named {times} times. Name it once.")
    if sheet is not None and not is_page(sheet):
        check_format(sheet)
    if sheet_keep and (sheet is None or is_page(sheet) or crop):
        raise UsageError("--sheet-keep is for strips of whole pictures: with --sheet FILE.png, and without --crop.")
    known = given_faces(landmarks) if landmarks is not None else None
    check_detector(settings.detector)
    out = Destination.of(output)
    processes = Processes.launched(cpu=str(settings.device) == "cpu")
    inputs = list(inputs)
    sheet = None if sheet is None else mine.own(Path(sheet))
    requests = [style.request for style in found]
    read = [part.exemplar for request in requests for part in request.parts] + [landmarks]
    labels = distinct_labels(requests)

    def decide() -> tuple[Plan, list[StyleTask], list[str]]:
        """What there is to do, decided once: while one process plans none is writing yet."""
        sources, lines = _sources(inputs, out)
        sources = without_results(out, sources, labels, suffix=_result_suffix)
        plan = Plan([source.path for source in sources], also=read)
        stays = _is_there if skip_existing else lambda path: False
        outputs = plan.results(out, sources, labels, suffix=_result_suffix, stays=stays)
        tasks = [StyleTask(VERB, source, row, _is_film(source)) for source, row in zip(sources, outputs, strict=True)]
        if sheet is not None:
            strips = sum(MOMENTS if task.is_film else 1 for task in tasks)
            plan.pages(sheet, 1 if is_page(sheet) else -(-strips // STRIPS_PER_SHEET), processes.count)
        return plan, tasks, lines

    plan, tasks, lines = processes.agree(decide)
    pictures, films = _by_kind(tasks)
    if known is not None and landmarks is not None:
        check_known(known, [task.source for task in pictures if not task.source.problem], landmarks)
    _check_formats(tasks, film)
    pictures, films = mine.part(pictures), mine.part(films)

    tally: Counter[str] = Counter()
    failures: list[tuple[str, str]] = []  # for the page

    def work() -> Iterator[Event]:
        if processes.is_main:
            for line in lines:
                yield Event("note", VERB, message=line)
            for line in _out_of_place(film, bool(landmarks), len(pictures), len(films)):
                yield Event("warning", VERB, message=line)
        todo = []
        for task in processes.share(pictures) + processes.share(films):
            task.wanted = [not (skip_existing and _is_there(path)) for path in task.outputs]
            if task.source.problem:
                yield task.event("failed", task.source.complaint)
            elif not any(task.wanted):
                yield task.event("skipped", "already there")
            else:
                todo.append(task)
        if dry_run:
            for task in todo:
                yield task.event("note", f"would become {', '.join(map(str, task.wanted_outputs))}")
        elif todo:
            here = yield from _fetch(found, settings.wplus)
            yield from restyle(StyleSet.open(here, settings), *_by_kind(todo))

    def restyle(styles: StyleSet, photos: Sequence[StyleTask], films: Sequence[StyleTask]) -> Iterator[Event]:
        for stylizer in styles.stylizers:
            yield Event("note", VERB, message=stylizer.description)
        if (known is None or films) and (line := fallback_note(styles.first.detector)):
            yield Event("note", VERB, message=line)
        before = "source" if photos and films else "frame" if films else "photo"
        labels = [before, *(_label(stylizer, sheet_keep) for stylizer in styles.stylizers)]
        sheets: Sheets | Report | None = None
        if sheet is not None:
            own = processes.own(Path(sheet))
            facts = _facts(styles, settings, film)
            sheets = Report(own, labels, len(photos), facts) if is_page(sheet) else Sheets(own, labels)
        photo_line = PhotoLine(
            styles,
            portraits=plan.numbered if crop else None,
            no_face=no_face,
            known_faces=known,
            add_strip=sheets.add if sheets else None,
            strip_keeps=sheet_keep,
        )
        yield from photo_line.run(photos)
        for task in films:
            yield from _restyle_film(task, styles, film, no_face, sheets, sheet_keep)
        if isinstance(sheets, Report):
            for name, reason in failures:
                sheets.fail(name, reason)
        yield from sheets.close() if sheets else ()

    if processes.is_main:
        yield Event("plan", VERB, total=len(pictures) + len(films), data={"styles": [str(style) for style in styles]})
    for event in processes.gather(partial(_noting, work, failures), out.root or Path()):
        tally[event.kind] += event.kind != "note" or event.source is not None
        if event.kind == "done":  # a film's faces are counted by its tracks
            tally["faces"] += event.data.get("tracks", event.data.get("faces", 0))
        yield event
    if processes.is_main:
        yield _summary(tally, time.monotonic() - started_s, dry_run)


def _noting(work: Callable[[], Iterator[Event]], failures: list[tuple[str, str]]) -> Iterator[Event]:
    """The events of `work`; those that failed are kept in `failures` as they come."""
    for event in work():
        if event.kind == "failed":
            failures.append((event.source or "", event.message or ""))
        yield event


def _facts(styles: StyleSet, settings: StylizerSettings, film: FilmOptions) -> dict[str, str]:
    """What a page says of how it was made: the styles, what was asked for, the versions."""
    facts = {stylizer.title: stylizer.description for stylizer in styles.stylizers}
    for asked in (settings, film):
        default = type(asked)()
        for one in fields(asked):
            if (value := getattr(asked, one.name)) != getattr(default, one.name):
                facts[one.name.removesuffix("_s").replace("_", " ")] = str(value)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "av", "pillow"))
    return facts | {"made by": f"dsg {__version__}, {versions}"}


def _check_styles(found: Sequence[FoundStyle | Stylizer], settings: StylizerSettings) -> None:
    """Raises UsageError for what would be refused when the styles are loaded: better before the work than after."""
    pick_device(settings.device)
    for style in found:
        if isinstance(style, Stylizer):
            continue
        if style.header:
            chosen_for(style.header, settings)
        for exemplar in style.exemplars:
            if exemplar.picture:
                try:
                    read_picture(exemplar.picture)
                except BadFileError as error:
                    raise UsageError(f"'{exemplar.label}' cannot be an exemplar: {error}") from None


def _fetch(styles: Sequence[FoundStyle | Stylizer], wplus: bool) -> Generator[Event, None, list[FoundStyle | Stylizer]]:
    """Official styles that are not here yet come first, with what there is to say of them."""
    here: list[FoundStyle | Stylizer] = []
    for style in styles:
        if isinstance(style, FoundStyle):
            style = yield from library.fetch(style, wplus=wplus, terms=Terms(VERB))
        here.append(style)
    return here


def _restyle_film(
    task: StyleTask,
    styles: StyleSet,
    options: FilmOptions,
    no_face: str,
    sheets: Sheets | Report | None,
    sheet_keep: bool,
) -> Iterator[Event]:
    from dualstylegan.stylizing.films import restyle_film  # with PyAV and scipy, which photos do without

    numbers = [number for number, wanted in enumerate(task.wanted) if wanted]
    outputs = [(task.outputs[number], styles.stylizers[number]) for number in numbers]
    strips = FilmStrips(numbers, len(styles), sheet_keep) if isinstance(sheets, Sheets) else None
    said = 0
    try:
        with closing(restyle_film(task.source.path, outputs, options, no_face=no_face, strips=strips)) as reports:
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
    name = task.source.relative.name
    if isinstance(sheets, Report):
        results = {number: path for number, path in enumerate(task.outputs) if path in report.outputs}
        sheets.add_film(name, task.source.path, results, options)
    elif sheets and strips:
        for frame, row in strips.chosen():
            yield from sheets.add(f"{name} {frame}", row)


def _label(stylizer: Stylizer, sheet_keep: bool) -> str:
    """What heads a style's column of strips."""
    both = sheet_keep and stylizer.scene != "keep"
    return f"{stylizer.title}: keep, {stylizer.scene}" if both else stylizer.title


def _progress(task: StyleTask, report: FilmReport) -> Event:
    left_s = {} if report.left_s is None else {"left_s": round(report.left_s, 1)}
    data = {"frames_per_s": round(report.frames_per_s, 2), **left_s, "faces": report.faces_now}
    return replace(task.event("progress"), current=report.frames, total=report.total, data=data)


def _sources(inputs: Sequence[str | Path], out: Destination) -> tuple[list[Source], list[str]]:
    """What the inputs name, and lines on what was passed over or is not what it seems.

    In folders the frames of a film are not pictures, but together one film; where a film is what must come out, so are
    any numbered pictures. Raises UsageError where one of these is missing.
    """
    passed_over = PassedOver()
    folders = [Path(item).resolve() for item in inputs if os.path.isdir(item)]  # noqa: PTH112
    films: dict[Path, bool] = {}
    found: list[Source] = []
    lines: list[str] = []
    for source in expand_inputs(inputs, exclude=out.root, passed_over=passed_over, is_ours=is_marked):
        folder = source.path.parent
        if folder not in films:
            searched = any(folder.resolve().is_relative_to(one) for one in folders)
            films[folder] = searched and (numbered_pictures(folder) is not None if out.is_film else is_film(folder))
            if films[folder]:
                inside = source.relative.parent
                relative = Path(folder.resolve().name) if inside == Path() else inside
                found.append(Source(folder, relative, named=source.named))
            elif searched and out.is_film and (gap := gap_in(folder)):
                raise UsageError(f"{gap}; a film's frames are numbered without a gap.")
            elif searched and are_frames_but_for_a_gap(folder):
                lines.append(f"{gap_in(folder)}, so its pictures are taken for photos, not for a film.")
        if not films[folder] or source.path.suffix.lower() not in FRAME_SUFFIXES:
            found.append(source)
    return kept_apart(found), [*filter(None, [passed_over.line()]), *lines]


def _by_kind(tasks: Iterable[StyleTask]) -> tuple[list[StyleTask], list[StyleTask]]:
    """Pictures and films, apart."""
    tasks = list(tasks)
    return [one for one in tasks if not one.is_film], [one for one in tasks if one.is_film]


def _is_film(source: Source) -> bool:
    # Of folders only those that are films have come so far.
    return not source.problem and (source.is_folder or is_film(source.path))


def _result_suffix(source: Source) -> str:
    """Pictures become PNG where the source's suffix is no picture's, or GIF, which has but 256 colours; HEIF becomes
    JPEG, which all can show. Films become Matroska where their container cannot be written, and what they are where
    their suffix says another thing."""
    suffix = source.relative.suffix
    if source.is_folder:
        return suffix
    if _is_film(source):
        from dualstylegan.media.film.encode import CONTAINERS, film_suffix  # PyAV, which photos do without

        content = suffix_by_content(source.path) or suffix
        is_so = suffix.lower() in CONTAINERS or is_animated(source.path)
        wanted = film_suffix(source.path if is_so and suffix else Path(f"x{content}"))
        return suffix if wanted == suffix.lower() else wanted
    if suffix.lower() in HEIF_SUFFIXES:
        return ".jpg"
    return suffix if source.kind == "picture" and suffix.lower() != ".gif" else ".png"


def _is_there(path: Path) -> bool:
    return path.is_dir() or is_complete(path)


def _check_formats(tasks: Sequence[StyleTask], film: FilmOptions) -> None:
    """Raises UsageError where a result could not be written under its name."""
    checked = set()
    for task in tasks:
        is_frames = task.is_film and task.source.is_folder
        for path in task.outputs:
            if (key := (path.suffix.lower(), task.is_film, is_frames)) in checked:
                continue
            checked.add(key)
            if task.is_film:
                from dualstylegan.media.film.encode import check_encoding

                check_encoding(path, film.codec, film.crf, film.preset, frames=is_frames)
            else:
                check_format(path)


def _out_of_place(film: FilmOptions, landmarks: bool, pictures: int, films: int) -> Iterator[str]:
    """Options that were given and mean nothing to some of the files, a line for each."""
    default = FilmOptions(crop=film.crop)
    given = [one.name for one in fields(film) if getattr(film, one.name) != getattr(default, one.name)]
    if given and pictures:
        names = ", ".join(f"--{name.removesuffix('_s').replace('_', '-')}" for name in given)
        yield f"{names}: for films only, and makes no difference to {counted(pictures, 'picture')} here."
    if landmarks and films:
        yield f"--landmarks: for pictures only; faces are looked for in {counted(films, 'film')} here."


def _summary(tally: Mapping[str, int], seconds: float, dry_run: bool) -> Event:
    """The last event: its counts are of files, but for `faces`; a film's are counted by its tracks."""
    counts = {kind: tally[kind] for kind in ("done", "skipped", "failed", "faces")}
    ends = ", ".join(f"{counts[kind]} {kind}" for kind in ("done", "skipped", "failed") if counts[kind])
    message = f"stylize: {ends or 'nothing to do'}, {counted(tally['faces'], 'face')}"
    message += f" in {seconds:.1f} s"
    if dry_run:
        message = f"stylize: dry run, {tally['note']} to do; nothing was written"
    return Event("summary", VERB, message=message, data={**counts, "seconds": round(seconds, 2), "dry_run": dry_run})
