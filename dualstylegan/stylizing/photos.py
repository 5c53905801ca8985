"""Photos through several styles: read ahead, find, encode, render, paste, written behind. Bounded at each stage."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dualstylegan.events import Event
from dualstylegan.faces.face import Face
from dualstylegan.faces.faces_json import faces_of
from dualstylegan.media.images import Picture
from dualstylegan.media.tasks import Task
from dualstylegan.media.tiff import holds_pages, read_pages, write_pages
from dualstylegan.runtime.files import whole_file
from dualstylegan.runtime.line import BUDGET_BYTES, Behind, Line
from dualstylegan.stylizing.canvases import CutPortraits, FullFrame, Names, Written, bytes_of, in_order
from dualstylegan.stylizing.sheets import Row
from dualstylegan.stylizing.style_set import StyleSet

PICTURES_AT_ONCE = 4  # in the search for faces

AddStrip = Callable[[str, Row], Iterator[Event]]


@dataclass
class StyleTask(Task):
    """One picture, or film, and what each style is to make of it."""

    outputs: list[Path]  # one per style
    is_film: bool = False
    wanted: list[bool] = field(default_factory=list)  # of the outputs; the others are there already

    @property
    def wanted_outputs(self) -> list[Path]:
        return [path for path, wanted in zip(self.outputs, self.wanted, strict=True) if wanted]


@dataclass
class _Photo:
    """A picture, of one page or, in a TIFF, of several, what was found in it and how each style ended."""

    task: StyleTask
    pages: list[Picture]
    found: list[list[Face]] = field(default_factory=list)  # by page, the largest last
    codes: list[Tensor] = field(default_factory=list)  # by encoder: (faces, rows, dim), W+
    persons: Sequence[Tensor | None] = ()  # by face: where a person is around it
    left: int = 1  # outputs that are still to end, one way or the other
    ended: dict[int, _Outcome] = field(default_factory=dict)  # by style

    @property
    def nbytes(self) -> int:
        return bytes_of(self.pages)

    @property
    def placed(self) -> list[tuple[int, Face]]:
        """Every face with its page's number; the first page's largest comes last."""
        return in_order(self.found)

    @property
    def faces(self) -> list[Face]:
        return [face for _, face in self.placed]


_Outcome = Written | Exception


class PhotoLine:
    """The assembly line."""

    def __init__(
        self,
        styles: StyleSet,
        *,
        portraits: Names | None = None,
        no_face: str = "copy",
        known_faces: Mapping[str, list[Face]] | None = None,
        add_strip: AddStrip | None = None,
        strip_keeps: bool = False,
    ):
        """`portraits` are written instead of full frames, under the names that it gives. `known_faces` are taken
        instead of looking for faces. `add_strip` is given each picture's before and after under its name; with
        `strip_keeps`, beside the latter, what it is with its surroundings kept."""
        self.styles = styles
        self.canvas = partial(CutPortraits, portraits) if portraits else FullFrame
        self.no_face = "skip" if portraits else no_face
        self.known_faces = known_faces
        self.add_strip, self.strip_keeps = add_strip, strip_keeps
        self.waiting: list[_Photo] = []  # whose faces do not fill a batch yet
        self.writer: Behind[tuple[_Photo, int], Written]

    def run(self, tasks: Iterable[StyleTask]) -> Iterator[Event]:
        """Every task ends as one event; one bad picture stops nothing."""
        with Line() as line:
            self.writer = line.behind("write")
            pictures = line.each(tasks, lambda task: read_pages(task.source.path), "read", nbytes=bytes_of)
            for group in _groups(pictures):
                yield from self._take_in(group)
                if self._is_full():
                    yield from self._restyle_waiting()
                yield from self._end(self.writer.finished())
            yield from self._restyle_waiting()
            yield from self._end(self.writer.drain())

    def _take_in(self, group: Sequence[tuple[StyleTask, list[Picture] | Exception]]) -> Iterator[Event]:
        """Look for faces in a few pictures at once: the detector may have a core for each."""
        photos = []
        for task, pages in group:
            if isinstance(pages, Exception):
                yield task.failed(pages)
                continue
            photos.append(_Photo(task, pages))
            if len(pages) > 1 and self.canvas is FullFrame and not all(map(holds_pages, task.wanted_outputs)):
                yield task.event("note", f"pages 2 to {len(pages)} are left out: only a TIFF holds several")
        failures = _together_or_alone(self._find, photos)
        for photo, error in failures:
            yield photo.task.failed(error)
        failed = [id(photo) for photo, _ in failures]
        for photo in (one for one in photos if id(one) not in failed):
            if photo.faces:
                photo.left = sum(photo.task.wanted)
                self.waiting.append(photo)
                for line in self.styles.size_warnings(photo.faces[::-1]):
                    yield photo.task.event("warning", line)
            elif self.no_face == "copy":
                self.writer.submit((photo, 0), partial(_copy, photo), nbytes=photo.nbytes)
            else:
                yield photo.task.event("skipped", "no face found")

    def _find(self, photos: Sequence[_Photo]) -> None:
        first = self.styles.first
        if self.known_faces is None:
            found = iter(first.find([page.pixels for photo in photos for page in photo.pages]))
            for photo in photos:
                photo.found = [next(found) for _ in photo.pages]
            return
        for photo in photos:  # `align` has no entry for a picture without a face, and looks at first pages only
            photo.found = [first.choose(faces_of(self.known_faces, photo.task.source) or [])]

    def _is_full(self) -> bool:
        faces = sum(len(photo.faces) for photo in self.waiting)
        return faces >= self.styles.batch or sum(photo.nbytes for photo in self.waiting) > BUDGET_BYTES

    def _restyle_waiting(self) -> Iterator[Event]:
        photos, self.waiting = self.waiting, []
        failures = [
            ((photo, number), error)
            for photo, error in _together_or_alone(self._encode, photos)
            for number in range(photo.left)
        ]
        for number in range(len(self.styles)):
            some = [photo for photo in photos if photo.codes and photo.task.wanted[number]]
            restyle = partial(self._restyle, number)
            failures += [((photo, number), error) for photo, error in _together_or_alone(restyle, some)]
        for line in self.styles.memory_warnings():
            yield Event("warning", "stylize", message=line)
        yield from self._end(failures)

    def _encode(self, photos: Sequence[_Photo]) -> None:
        codes = self.styles.encode([
            self.styles.crop(photo.pages[number].pixels, photo.found[number])
            for photo in photos
            for number in reversed(range(len(photo.found)))
            if photo.found[number]
        ])  # fmt: skip
        counts = [len(photo.faces) for photo in photos]
        for photo, own in zip(photos, zip(*(some.split(counts) for some in codes), strict=True), strict=True):
            photo.codes = list(own)
            photo.persons = [None] * len(photo.faces)
            if self.canvas is FullFrame:
                photo.persons = [
                    person
                    for page, faces in reversed(list(enumerate(photo.found)))
                    for person in self.styles.persons(photo.pages[page].pixels, faces)
                ]

    def _restyle(self, number: int, photos: Sequence[_Photo]) -> None:
        stylizer = self.styles.stylizers[number]
        canvases = [self.canvas(stylizer, photo.pages, photo.found, photo.task.outputs[number]) for photo in photos]
        places = [
            (canvas, page, face, person)
            for canvas, photo in zip(canvases, photos, strict=True)
            for (page, face), person in zip(photo.placed, photo.persons, strict=True)
        ]
        own_codes = [photo.codes[self.styles.encoder_of[number]] for photo in photos]
        for canvas, own in zip(canvases, own_codes, strict=True):
            canvas.keeps_too = self.strip_keeps and stylizer.scene != "keep"
            canvas.look_ahead(own)
        codes, done = torch.cat(own_codes), 0
        while done < len(places):
            some = places[done : done + stylizer.batch]
            _, _, faces, persons = zip(*some, strict=True)
            around = persons if self.canvas is FullFrame else None
            drawn = self.styles.render(number, codes[done : done + len(some)], faces, around)
            for (canvas, page, _, _), placed in zip(some, drawn, strict=True):
                canvas.add(placed, page)
            done += len(drawn)
        for photo, canvas in zip(photos, canvases, strict=True):
            finish = partial(canvas.finish, with_strip=self.add_strip is not None)
            self.writer.submit((photo, number), finish, nbytes=canvas.nbytes)

    def _end(self, outcomes: Iterable[tuple[tuple[_Photo, int], _Outcome]]) -> Iterator[Event]:
        for (photo, number), outcome in outcomes:
            photo.ended[number] = outcome
            photo.left -= 1
            if photo.left:
                continue
            errors = [one for one in photo.ended.values() if isinstance(one, Exception)]
            if errors:
                yield photo.task.failed(errors[0])
                continue
            written = {number: one for number, one in sorted(photo.ended.items()) if isinstance(one, Written)}
            outputs = [path for one in written.values() for path in one.outputs]
            message = None if photo.faces else "no face found, copied"
            yield photo.task.event("done", message, outputs, len(photo.faces))
            if self.add_strip and photo.faces:
                before = next(one.before for one in written.values())
                row = [before, *(written[n].after if n in written else None for n in range(len(self.styles)))]
                yield from self.add_strip(photo.task.source.relative.name, row)


def _groups(
    pictures: Iterable[tuple[StyleTask, list[Picture] | Exception]],
) -> Iterator[list[tuple[StyleTask, list[Picture] | Exception]]]:
    """A few pictures at a time, fewer of large ones."""
    group, held = [], 0
    for task, pages in pictures:
        group.append((task, pages))
        held += 0 if isinstance(pages, Exception) else bytes_of(pages)
        if len(group) == PICTURES_AT_ONCE or held > BUDGET_BYTES // 8:
            yield group
            group, held = [], 0
    if group:
        yield group


def _together_or_alone(
    step: Callable[[Sequence[_Photo]], None], photos: Sequence[_Photo]
) -> list[tuple[_Photo, Exception]]:
    """Run a step on all photos at once; if that fails, on each by itself, so that a failure stays its picture's own."""
    try:
        if photos:
            step(photos)
    except Exception as error:
        if len(photos) == 1:
            return [(photos[0], error)]
    else:
        return []
    return [failure for photo in photos for failure in _together_or_alone(step, [photo])]


def _copy(photo: _Photo) -> Written:
    task = photo.task
    for output in task.wanted_outputs:
        if output.suffix.lower() != task.source.path.suffix.lower():
            write_pages(output, [None] * len(photo.pages), photo.pages)
            continue
        with whole_file(output) as temporary:
            shutil.copyfile(task.source.path, temporary)
    return Written(task.wanted_outputs)
