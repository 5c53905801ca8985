"""Every path that a command is going to write, decided before it begins, and kept apart from all it reads.

    plan = Plan([source.path for source in sources])
    rows = plan.results("out", sources, [("toon", "7")])
    plan.pages("sheet.png", 3)

Names stay apart by themselves: of a.gif and a.png, both written as PNG, one becomes a.png and the other a.gif.png. What
cannot be kept apart is refused. Paths are compared as the file system compares them: links followed, and letters' case
ignored where it ignores it.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

from dualstylegan.errors import UsageError, did_you_mean
from dualstylegan.media.mark import is_marked
from dualstylegan.media.paths import MEDIA_SUFFIXES, Source, is_complete, kind_of
from dualstylegan.runtime.files import LONGEST_NAME, at_home
from dualstylegan.runtime.processes import Processes

FIELDS = ("stem", "ext", "parent", "style", "id")

Label = tuple[str | None, str | None]  # a style's name and its ID, as file names show them


# What -o says


@dataclass(frozen=True)
class Destination:
    """-o: the `folder` results go to, or the one `file` they become, or a `template` with fields. None: a default."""

    folder: Path | None = None
    file: Path | None = None
    template: str | None = None

    @classmethod
    def of(cls, out: str | os.PathLike | None, default: str = "stylized") -> Destination:
        """Raises UsageError for what can be none of these: an empty name, `-`, a file where a folder must be, a suffix
        of pictures or films that cannot be written, a template with a mistake."""
        if out is None:
            out = default
        text = os.fspath(out)
        if not text.strip():
            raise UsageError("-o is empty. Name a folder, a file or a template; is a variable of the shell not set?")
        if text == "-":
            raise UsageError("-o -: results are files and do not go to stdout. Name a folder, a file or a template.")
        is_dir, is_there = os.path.isdir(text), os.path.lexists(text)  # noqa: PTH112 - Path's raise for names too long
        if "{" in text and not is_there:
            _fields(text)
            found = cls(template=text)
        elif Path(text).suffix.lower() in MEDIA_SUFFIXES and not (is_dir or text.endswith(("/", os.sep))):
            found = cls(file=Path(text))
        else:
            found = cls(folder=Path(text))
        place = found.file.parent if found.file else found.root or Path()
        _check_place(f"-o {text}", Path(text), place)
        return found

    @property
    def root(self) -> Path | None:
        """The folder below which all results appear and nothing else is: None where that would be the current one."""
        if self.folder is not None:
            return self.folder
        if self.template is None:
            return None
        parts = []
        for part in Path(self.template).parts[:-1]:
            if "{" in part:
                break
            parts.append(part)
        return Path(*parts) if parts else None

    @property
    def is_film(self) -> bool:
        """Whether what comes out can only be a film: the name of one, or a template for such names."""
        name = self.file or Path(self.template or "")
        return kind_of(name) == "film" or name.suffix.lower() == ".gif"

    def path(self, source: Source, label: Label = (None, None), *, suffix: str, stem: str, several: bool) -> Path:
        """Where one result of a source belongs, the source being called `stem`."""
        style, style_id = (file_slug(part) for part in label)
        named = f"{style}-{style_id}" if label[1] is not None else style
        if self.template is not None:
            values = {"stem": stem, "ext": suffix.removeprefix("."), "parent": source.relative.parent.as_posix()}
            filled = Path(self.template.format(**values, style=style, id=style_id))
            return Path(*(shortened(part) for part in filled.parts))
        if self.file is not None:
            name = f"{self.file.stem}.{named}{self.file.suffix}"
            return self.file.with_name(shortened(name)) if several else self.file
        middle = f".{named}" if several else ""
        return (
            (self.folder or Path())
            / source.relative.parent
            / shortened(f"{stem}{middle}{suffix}", kept=f"{middle}{suffix}")
        )

    def tells(self, label: Label, several: bool) -> bool:
        """Whether a result's name holds its style's, so that a file of that name can only be such a result."""
        if self.template is not None:
            return bool(label[0]) and {"style", "id"} <= set(_fields(self.template))
        return several and bool(label[0])


def _fields(template: str) -> list[str]:
    """The fields of a template, each known and plain. Raises UsageError."""
    try:
        parts = string.Formatter().parse(template)
        parsed = [(name, form, conversion) for _, name, form, conversion in parts if name is not None]
    except ValueError as error:
        raise UsageError(f"-o '{template}': {error}. A field is written {{stem}}, a brace {{{{.") from None
    for field, form, conversion in parsed:
        if field not in FIELDS:
            known = " ".join(f"{{{name}}}" for name in FIELDS)
            raise UsageError(f"-o '{template}' has no field {{{field}}}.{did_you_mean(field, FIELDS)} Fields: {known}.")
        if form or conversion:
            raise UsageError(f"-o '{template}': a field is filled in as it is; write {{{field}}} alone.")
    return [field for field, _, _ in parsed]


def _check_place(what: str, path: Path, folder: Path) -> None:
    """Raises UsageError where results cannot be put: a file stands where a folder must be, a name is too long."""
    for part in path.parts:
        if "{" not in part and len(os.fsencode(part)) > LONGEST_NAME:
            raise UsageError(f"{what[:40]}...: a name of {len(part)} letters is longer than files may have.")
    for one in (folder, *folder.parents):
        if os.path.lexists(one) and not one.is_dir():
            raise UsageError(f"{what}: {one} is {'a file' if one.exists() else 'a broken link'}, not a folder.")


def file_slug(text: str | None) -> str:
    """A text as part of a file's name: letters, digits and `_.+-` stay."""
    return re.sub(r"[^\w.+-]+", "_", text or "")


def shortened(name: str, *, kept: str | None = None, most: int = LONGEST_NAME) -> str:
    """A file's name within `most` bytes: the same, or its beginning, a hash of it all, and `kept`, or its suffix."""
    if len(os.fsencode(name)) <= most:
        return name
    ends = (*filter(None, [kept]), Path(name).suffix, "")
    end = next(end for end in ends if len(os.fsencode(end)) <= most // 2)
    mark = f"~{hashlib.sha256(os.fsencode(name)).hexdigest()[:10]}"
    room = most - len(os.fsencode(mark + end))
    begin = name.removesuffix(end)
    while len(os.fsencode(begin)) > room:
        begin = begin[: len(begin) - max(1, (len(os.fsencode(begin)) - room) // 4)]
    return f"{begin}{mark}{end}"


# The plan


class Plan:
    """What a command reads and what it is going to write. Every path written is asked for here first.

    `read` are its sources, and `also` other files it reads (None and what is no file's name among them is passed over):
    none of them is ever written. `add` takes a path that a user has named and refuses
    what collides; `results` finds names for many that do not.
    """

    def __init__(self, read: Iterable[str | os.PathLike] = (), also: Iterable[str | os.PathLike | None] = ()):
        self._places = _Places()
        self._read = {self._places.of(path): Path(path) for path in read}
        self._folders = {place[:-1] for place in self._read}
        there = [at_home(path) for path in also if path is not None and os.path.isfile(path)]  # noqa: PTH113
        self._read |= {self._places.of(path): path for path in there}
        self._written: dict[Hashable, str] = {}

    def add(self, path: str | os.PathLike, what: str) -> Path:
        """Take `path` for `what` ("the sheet"). Raises UsageError where it is read, or taken already."""
        _check_place(f"{what} {path}", Path(path), Path(path).parent)
        if os.path.isdir(path):  # noqa: PTH112
            raise UsageError(f"{what} {path} is a folder. Give it another name.")
        place = self._places.of(path)
        if place in self._read:
            raise UsageError(f"{what} {path} would overwrite a source, {self._read[place]}. Give it another name.")
        if place in self._written:
            raise UsageError(f"{what} and {self._written[place]} would both become {path}. Give it another name.")
        self._written[place] = what
        return Path(path)

    def keep(self, path: str | os.PathLike, what: str) -> None:
        """Let nothing else be written to `path`, which an earlier run has made and which is to stay."""
        self._written.setdefault(self._places.of(path), what)

    def pages(self, path: str | os.PathLike, most: int, processes: int = 1) -> None:
        """Take the pages of a sheet, NAME.png, NAME-2.png, ... up to `most`, of each process. Raises UsageError."""
        refuse_fields(path, "the sheet")
        for rank in range(processes):
            for number in range(1, max(1, most) + 1):
                one = self.add(page(Processes(rank, processes).own(Path(path)), number), "the sheet")
                if one != Path(path):  # a name that nobody has given
                    refuse_anothers(one, f"Give the sheet another name than {path}.")

    def writes(self, path: str | os.PathLike) -> bool:
        return self._places.of(path) in self._written

    def reads(self, path: str | os.PathLike) -> bool:
        return self._places.of(path) in self._read

    def numbered(self, path: Path, among: int) -> list[Path]:
        """Names for what is found only during the work, such as the faces of a picture: `path`, which is planned, for
        the first, then NAME-2.png, NAME-3.png, ..., passing over what is planned for others, read, or a user's."""
        ends = (f"-{number}{path.suffix}" for number in count(2))
        names = (path.with_name(shortened(path.stem + end, kept=end)) for end in ends)
        free = (one for one in names if not (self.writes(one) or self.reads(one) or self._is_anothers(one)))
        return [path, *islice(free, among - 1)]

    def results(
        self,
        out: Destination,
        sources: Sequence[Source],
        labels: Sequence[Label] = ((None, None),),
        *,
        suffix: str | Callable[[Source], str] | None = None,
        even: bool = False,
        stays: Callable[[Path], bool] = lambda path: False,
    ) -> list[list[Path]]:
        """A row of paths per source, in it one per style. `suffix` is the results', or says it for each source; None
        keeps the source's own. `even`: a name that two sources want goes to neither. What `stays` as it is, because an
        earlier run has made it, will not be written.

        Who gets which name depends on the names alone, not on their order: a result called like its source comes first.
        Raises UsageError when a source, or a picture or film that dsg did not make, would be overwritten (but for a
        file of another folder that -o names outright), and where a file name or a template leaves no way to keep
        results apart.
        """
        if out.file is not None and len(sources) > 1:
            raise UsageError(
                f"-o {out.file} is one file, but there are {len(sources)} inputs. Name a folder, or a template."
            )
        rows: dict[int, list[Path]] = {}
        owners: dict[Hashable, Source] = {}
        ends = [suffix(one) if callable(suffix) else suffix or one.relative.suffix for one in sources]

        wishes = Counter((source.relative.parent, source.relative.stem) for source in sources)

        def order(number: int) -> tuple:
            return ends[number] != sources[number].relative.suffix, os.fspath(sources[number].relative), number

        for number in sorted(range(len(sources)), key=order):
            source = sources[number]
            row: list[Path] = []
            contested = even and wishes[sources[number].relative.parent, sources[number].relative.stem] > 1
            for stem in islice(_names(source), int(contested), None):
                before = row
                row = [out.path(source, one, suffix=ends[number], stem=stem, several=len(labels) > 1) for one in labels]
                places = [self._places.of(path) for path in row]
                self._refuse_overwriting(out, source, row, places, labels, stays)
                taken = [place for place in places if place in self._written]
                if not taken:
                    break
                if row == before:
                    raise UsageError(
                        f"{owners[taken[0]].path if taken[0] in owners else self._written[taken[0]]} and {source.path} "
                        f"would both become {row[places.index(taken[0])]}. Use {{parent}} and {{stem}} in -o."
                    )
            for place in places:
                self._written[place] = str(source.path)
                owners[place] = source
            rows[number] = row
        return [rows[number] for number in range(len(sources))]

    def _refuse_overwriting(
        self,
        out: Destination,
        source: Source,
        row: Sequence[Path],
        places: Sequence[Hashable],
        labels: Sequence[Label],
        stays: Callable[[Path], bool],
    ) -> None:
        for number, (path, place) in enumerate(zip(row, places, strict=True)):
            if place in places[:number]:
                raise UsageError(f"Two styles of {source.path} would both become {path}. Use {{style}}-{{id}} in -o.")
            if place in self._read:
                whose = "its own source" if place == self._places.of(source.path) else f"a source, {self._read[place]}"
                raise UsageError(f"{path} would overwrite {whose}. Choose another -o.")
            if path.is_dir() and not source.is_folder and kind_of(path) != "unknown":
                raise UsageError(f"{path} is a folder, where a result must be. Choose another -o.")
            told = out.tells(labels[number], len(labels) > 1)
            named = path == out.file and self._places.of(path)[:-1] not in self._folders
            if not (told or named or stays(path)) and self._is_anothers(path) and not _same_bytes(path, source.path):
                raise UsageError(f"{path} would be overwritten, and dsg did not make it. Choose another -o.")

    def _is_anothers(self, path: Path) -> bool:
        """Whether a path holds what dsg has not made: a photo or film of the user's, or a folder of frames. What is not
        whole (a full disk has cut it) is nobody's, but beside the sources."""
        if path.is_dir():
            inside = [one for one in path.iterdir() if kind_of(one) == "picture"]
            return bool(inside) and not any(map(is_marked, inside))
        is_beside = self._places.of(path)[:-1] in self._folders
        return path.is_file() and not is_marked(path) and (is_beside or is_complete(path))


def refuse_anothers(path: Path, way_out: str = "Say with -o where the result goes.") -> None:
    """Raises UsageError where a default name, which no user gave, is taken by what dsg has not made."""
    if kind_of(path) != "unknown" and os.path.lexists(path) and not is_marked(path):
        raise UsageError(f"{path} is there, and dsg did not make it. {way_out}")


def refuse_fields(path: str | os.PathLike, what: str) -> None:
    """Raises UsageError for a name with fields where there is nothing to fill them in: one file tells of all."""
    named = [field for field in FIELDS if f"{{{field}}}" in os.fspath(path)]
    if named and not os.path.lexists(path):
        raise UsageError(f"{what} {path} is one for all results: only -o of them has fields such as {{{named[0]}}}.")


def _same_bytes(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def _names(source: Source) -> Iterator[str]:
    """What a source may be called in its results' names: a, a.gif, a_2, a_3, ..."""
    stem = source.relative.stem
    yield stem
    if source.relative.suffix:
        yield source.relative.name
    for number in count(2):
        yield f"{stem}_{number}"


def without_results(
    out: Destination,
    sources: Sequence[Source],
    labels: Sequence[Label],
    *,
    suffix: Callable[[Source], str],
) -> list[Source]:
    """The sources without those, found and not named, that are called as results of others in these styles will be:
    an earlier run has made them, though they bear no mark, being copies of what has no face."""
    if not all(out.tells(label, len(labels) > 1) for label in labels):
        return list(sources)
    places = _Places()
    results = {
        places.of(out.path(one, label, suffix=suffix(one), stem=one.relative.stem, several=len(labels) > 1))
        for one in sources
        for label in labels
    }
    return [one for one in sources if one.named or places.of(one.path) not in results]


def page(path: Path, number: int) -> Path:
    """The name of a sheet's page: sheet.png, sheet-2.png, ..."""
    return path if number == 1 else path.with_stem(f"{path.stem}-{number}")


# How paths are compared


class _Places:
    """Where a path leads, as something to compare: the nearest folder that exists, and the names below it.

    What a path was compared as stays, though folders are made meanwhile.
    """

    def __init__(self):
        self._folders: dict[str, tuple[tuple, bool]] = {}

    def of(self, path: str | os.PathLike) -> tuple:
        folder, name = os.path.split(os.path.realpath(path))
        return self._below(folder, name)[0]

    def _below(self, folder: str, name: str) -> tuple[tuple, bool]:
        """What `name` in `folder` is compared as, and whether case is ignored there."""
        if folder not in self._folders:
            try:
                seen = os.stat(folder)  # noqa: PTH116
                self._folders[folder] = (seen.st_dev, seen.st_ino), ignores_case(folder)
            except OSError:
                above = os.path.split(folder)
                self._folders[folder] = self._below(*above) if above[0] != folder else ((folder,), False)
        place, folds = self._folders[folder]
        return (*place, unicodedata.normalize("NFC", name).casefold() if folds else name), folds


def ignores_case(folder: str) -> bool:
    """Whether names in a folder are the same when only the case of their letters differs. Asks the file system."""
    for where, name in (*_entries(folder), os.path.split(folder)):
        turned = name.swapcase()
        if turned != name and turned.lower() == name.lower():
            try:
                return os.path.samefile(os.path.join(where, name), os.path.join(where, turned))  # noqa: PTH118, PTH121
            except OSError:
                return False
    return sys.platform in ("win32", "darwin")


def _entries(folder: str) -> list[tuple[str, str]]:
    try:
        with os.scandir(folder) as entries:
            return [(folder, entry.name) for entry in islice(entries, 20)]
    except OSError:
        return []
