"""`align`: photos in, FFHQ-aligned portraits and faces.json out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from dualstylegan.choices import FACES, check_choice
from dualstylegan.errors import BadFileError, UsageError
from dualstylegan.events import Event
from dualstylegan.faces.crop import crop_face
from dualstylegan.faces.face import Face
from dualstylegan.faces.faces_json import check_known, entry_of, faces_of, given_faces, read_entries, write_entries
from dualstylegan.faces.find import Detector, check_detector, fallback_note, make_detector
from dualstylegan.media.images import Picture, from_tensor, read_picture, write_picture
from dualstylegan.media.mark import is_marked
from dualstylegan.media.paths import PassedOver, expand_inputs, is_complete
from dualstylegan.media.plan import Destination, Plan
from dualstylegan.media.tasks import Task
from dualstylegan.runtime.line import BUDGET_BYTES, Line
from dualstylegan.runtime.processes import Processes, Shard

VERB = "align"
SIZE = 1024  # FFHQ's own
MOST_AT_ONCE = 8  # pictures whose faces are looked for together


def align_pictures(
    inputs: Iterable[str | Path],
    *,
    output: str | Path = "faces",
    size: int = SIZE,
    faces: str = "all",
    landmarks: str | Path | None = None,
    detector: str | Detector = "auto",
    min_face: float | None = None,
    device: str = "auto",
    skip_existing: bool = False,
    dry_run: bool = False,
    shard: str | None = None,
) -> Iterator[Event]:
    """Cut the faces out of the pictures that `inputs` name into the folder `output`, with a faces.json beside them.

    The largest face of `a/b.jpg` becomes `a/b.png`, the others `a/b-2.png`, ...; `size` px wide, or none are written
    when it is 0. `landmarks` is a faces.json whose faces are taken instead of looking for them. An older faces.json in
    the folder is added to: what it says of other pictures stays. `skip_existing` passes over pictures that it knows and
    whose crops are complete. `shard` is K/N, part K of N parts of the list, each worked on by a command of its own; its
    list is faces.shardK-of-N.json, and the next command without `shard` takes all these into faces.json.

    Yields one `done`, `skipped` (no face, or already there) or `failed` event per picture between `plan` and `summary`;
    one bad picture stops nothing. Raises, before any work, UsageError for what cannot be asked (`landmarks` that
    cannot be read, too), BadFileError for an older faces.json that cannot be added to, DualStyleGANError for a detector
    that is not to be had.
    """
    mine = Shard.of(shard)
    check_choice("faces", faces, FACES)
    if size < 0 or size > 8192:
        raise UsageError(f"--size is the side of a crop in pixels, up to 8192, or 0 for none; not {size}.")
    out = Destination.of(output, "faces")
    folder = out.folder
    if folder is None:
        raise UsageError(f"-o {output}: align writes into a folder.")
    known = given_faces(landmarks) if landmarks is not None else None
    if known is None:
        check_detector(detector)
    record = _Record(folder / "faces.json", mine)
    processes = Processes.launched(cpu=device == "cpu", verb=VERB)

    def decide() -> tuple[Plan, list[_Photo], str | None]:
        """What there is to do, decided once: while one process plans none is writing yet."""
        passed_over = PassedOver()
        sources = expand_inputs(inputs, exclude=folder, kinds=("picture",), passed_over=passed_over, is_ours=is_marked)
        if known is not None and landmarks is not None:
            check_known(known, [source for source in sources if not source.problem], landmarks)
        plan = Plan([source.path for source in sources], also=[landmarks])
        plan.add(record.path, "the list of faces")
        for crop in record.crops_of_others({source.relative.as_posix() for source in sources}):
            plan.keep(folder / crop, "an earlier crop")
        crops = plan.results(out, sources, suffix=".png", even=True) if size else []
        tasks = [_Photo(VERB, source, crop[0] if crop else None) for source, crop in zip_longest(sources, crops)]
        return plan, tasks, passed_over.line()

    plan, tasks, passed_over = processes.agree(decide)
    tasks = mine.part(tasks)
    job = _Job(folder, size, record, plan)
    tally: Counter[str] = Counter()

    def work() -> Iterator[Event]:
        if passed_over and processes.is_main:
            yield Event("note", VERB, message=passed_over)
        todo = []
        for task in processes.share(tasks):
            if task.source.problem:
                yield task.event("failed", task.source.complaint)
            elif skip_existing and job.has(task):
                yield task.event("skipped", "already there")
            else:
                todo.append(task)
        if dry_run:
            for task in todo:
                yield task.event("note", f"would become {task.crop or record.path}")
            return
        finder = None
        if todo and known is None:
            finder = make_detector(detector, device, min_face or None) if isinstance(detector, str) else detector
            if line := fallback_note(finder):
                yield Event("note", VERB, message=line)
        yield from _run(todo, job, finder, known, largest=faces == "largest")

    if processes.is_main:
        yield Event("plan", VERB, total=len(tasks))
    try:
        for event in processes.gather(work, folder):
            tally[event.kind] += 1
            tally["faces"] += event.data.get("faces", 0)
            record.take(event.data.pop("entries", []))
            yield event
    finally:
        if processes.is_main and not dry_run:  # who is told of all; another's list would take its place
            record.save()  # after Ctrl-C too: what has been cut is known
    if not processes.is_main:
        return
    counts = {kind: tally[kind] for kind in ("done", "skipped", "failed", "faces")}
    message = f"{tally['done']} done ({tally['faces']} faces), {tally['skipped']} skipped, {tally['failed']} failed"
    yield Event("summary", VERB, message=message, data=counts)


@dataclass
class _Photo(Task):
    """`crop` is where the picture's largest face goes, None where no crops are written."""

    crop: Path | None
    picture: Picture | None = None
    faces: list[Face] = field(default_factory=list)  # the largest first
    entries: list[dict[str, Any]] = field(default_factory=list)  # what faces.json is to say of them

    @property
    def file(self) -> str:
        return self.source.relative.as_posix()

    @property
    def pixels(self) -> np.ndarray:
        """Of the picture, while it is in work."""
        assert self.picture is not None
        return self.picture.pixels


@dataclass(frozen=True)
class _Job:
    folder: Path
    size: int
    record: _Record
    plan: Plan

    def has(self, task: _Photo) -> bool:
        """Whether an earlier run did all of this picture, at this size."""
        entries = self.record.of(task.file)
        if not self.size:
            return bool(entries)
        return bool(entries) and all(
            entry.get("size") == self.size and entry.get("crop") and is_complete(self.folder / entry["crop"])
            for entry in entries
        )

    def write(self, task: _Photo) -> list[Path]:
        """Cut and write every face of a picture, note them and return the files."""
        crops = self.plan.numbered(task.crop, len(task.faces)) if task.crop else []
        for face, crop in zip(task.faces, crops, strict=bool(self.size)):
            write_picture(crop, from_tensor(crop_face(task.pixels, face.crop_from_photo, self.size)))
        names = [crop.relative_to(self.folder).as_posix() for crop in crops]
        named = zip_longest(task.faces, names)
        task.entries = [entry_of(task.file, face, name, self.size or None) for face, name in named]
        self.record.take(task.entries)
        return crops


Entries = dict[str, list[dict[str, Any]]]  # by file


class _Record:
    """faces.json in the making, or the list of one part of the pictures beside it."""

    def __init__(self, path: Path, part: Shard):
        """Raises UsageError for a list that is there and cannot be read: it would be lost."""
        self.path = part.own(path)
        is_part = self.path != path
        self._parts = [] if is_part else sorted(path.parent.glob(f"{path.stem}.shard*-of-*{path.suffix}"))
        try:
            self._beside = _entries(path) if is_part else {}
            self._of = _entries(self.path)
            for list_of_part in self._parts:  # newer than faces.json, which takes them in
                self._of |= _entries(list_of_part)
        except BadFileError as error:
            raise UsageError(f"{error} Choose another -o, or remove it.") from None
        self._changed = bool(self._parts)

    def of(self, file: str) -> list[dict[str, Any]]:
        return self._of.get(file) or self._beside.get(file, [])

    def crops_of_others(self, files: Collection[str]) -> Iterator[str]:
        """The crops of pictures that are not among `files`: they stay."""
        for file, entries in (self._beside | self._of).items():
            if file not in files:
                yield from (entry["crop"] for entry in entries if isinstance(entry.get("crop"), str))

    def take(self, entries: list[dict[str, Any]]) -> None:
        """All that is to be said of one picture."""
        if entries:
            self._of[entries[0]["file"]] = entries
            self._changed = True

    def save(self) -> None:
        if self._changed:
            write_entries(self.path, [entry for file in sorted(self._of) for entry in self._of[file]])
            for list_of_part in self._parts:
                list_of_part.unlink(missing_ok=True)


def _entries(path: Path) -> Entries:
    found: Entries = {}
    for entry in read_entries(path) if path.exists() else ():
        found.setdefault(entry["file"], []).append(entry)
    return found


def _run(
    tasks: Sequence[_Photo], job: _Job, finder: Detector | None, known: dict[str, list[Face]] | None, largest: bool
) -> Iterator[Event]:
    """Decode ahead, look for faces in several pictures at once, cut and write behind."""

    def finish(ended: Iterable[tuple[_Photo, list[Path] | Exception]]) -> Iterator[Event]:
        for task, outcome in ended:
            task.picture = None
            if isinstance(outcome, Exception):
                yield task.failed(outcome)
                continue
            done = task.event("done", outputs=outcome, faces=len(task.faces))
            done.data["entries"] = task.entries
            yield done

    def find(batch: list[_Photo]) -> Iterator[Event]:
        for task, found in zip(batch, _faces(batch, finder, known), strict=True):
            if isinstance(found, Exception):
                yield task.failed(found)
            elif not found:
                yield task.event("skipped", "no face found")
            else:
                ordered = sorted(found, key=lambda face: face.crop_side_px, reverse=True)
                task.faces = ordered[:1] if largest else ordered
                writer.submit(task, partial(job.write, task), nbytes=task.pixels.nbytes)
                continue
            task.picture = None

    batch: list[_Photo] = []
    with Line() as line:
        writer = line.behind("write")
        for task, picture in line.each(
            tasks, lambda task: read_picture(task.source.path), "read", nbytes=lambda picture: picture.pixels.nbytes
        ):
            if isinstance(picture, Exception):
                yield task.failed(picture)
                continue
            task.picture = picture
            batch.append(task)
            if len(batch) >= MOST_AT_ONCE or sum(task.pixels.nbytes for task in batch) > BUDGET_BYTES:
                yield from find(batch)
                batch = []
            yield from finish(writer.finished())
        yield from find(batch)
        yield from finish(writer.drain())


def _faces(
    batch: list[_Photo], finder: Detector | None, known: dict[str, list[Face]] | None
) -> list[list[Face] | Exception]:
    """The faces of each picture, or why they could not be had."""
    if known is not None:
        missing = "the faces.json given with --landmarks does not mention it"
        found = [faces_of(known, task.source) for task in batch]
        return [
            BadFileError(f"{task.source.path}: {missing}.") if faces is None else faces
            for task, faces in zip(batch, found, strict=True)
        ]
    if finder is None:  # there is no picture to look at
        return []
    try:
        return list(finder.find([task.pixels for task in batch]))
    except Exception as error:
        if len(batch) == 1:
            return [error]
        return [_faces([task], finder, known)[0] for task in batch]  # one bad picture must not take the others along
