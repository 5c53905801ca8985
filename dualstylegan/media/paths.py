"""Which files go in.

They are asked for by os.path: Path's own questions raise where a folder is locked or a name too long, and one input
must not take the others along.
"""

from __future__ import annotations

import codecs
import glob
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, Literal

from dualstylegan.errors import UsageError
from dualstylegan.runtime.files import at_home, is_temporary, spooled

PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".bmp"}
    | {".dib", ".gif", ".avif", ".avifs", ".jp2", ".j2k", ".ppm", ".pgm", ".pnm", ".tga"}
)
FILM_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"}
    | {".wmv", ".flv", ".3gp", ".ogv"}
)
# No folder is called so, though dsg does not look for such files in folders and cannot write most of them.
OTHER_SUFFIXES = frozenset(
    {".heic", ".heif", ".hif", ".jxl", ".jxr", ".svg", ".pdf", ".eps", ".psd", ".xcf", ".ico", ".icns", ".exr", ".hdr"}
    | {".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".jpx", ".pbm", ".pcx"}
    | {".mxf", ".asf", ".h264", ".264", ".h265", ".265", ".hevc", ".vob", ".m2v", ".mp2", ".ogg", ".ogm", ".dv", ".y4m"}
    | {".qoi", ".rm", ".rmvb", ".swf", ".f4v", ".3g2", ".m2p", ".divx", ".wtv", ".mp3", ".wav", ".m4a", ".flac", ".aac"}
)
HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
HEIF_HINT = "'pip install pillow-heif' and dsg reads .heic"
MEDIA_SUFFIXES = PICTURE_SUFFIXES | FILM_SUFFIXES | OTHER_SUFFIXES

Kind = Literal["picture", "film", "unknown"]


@cache
def reads_heif() -> bool:
    """Whether Pillow's plug-in for .heic is installed."""
    return find_spec("pillow_heif") is not None


def kind_of(path: str | os.PathLike) -> Kind:
    """What the suffix says. Whether the content agrees shows when the file is opened."""
    suffix = Path(path).suffix.lower()
    if suffix in PICTURE_SUFFIXES or (suffix in HEIF_SUFFIXES and reads_heif()):
        return "picture"
    return "film" if suffix in FILM_SUFFIXES else "unknown"


@dataclass(frozen=True)
class Source:
    """One input file, and its place in the tree of results.

    `relative` is what is kept below the output folder: the path under the folder that was named, or the file's name
    alone; no two sources of a command share it. `problem` is one line where the input cannot be used (missing, a folder
    that cannot be listed); such a source is to be reported as failed and the others go on. `named` says that the user
    named this very file, and did not find it in a folder, by a pattern or in a list.
    """

    path: Path
    relative: Path
    problem: str | None = None
    named: bool = True

    @property
    def kind(self) -> Kind:
        return kind_of(self.path)

    @property
    def is_folder(self) -> bool:
        """Whether it is a film of frames."""
        return os.path.isdir(self.path)  # noqa: PTH112

    @property
    def complaint(self) -> str:
        """The problem as it is told."""
        return f"{self.path}: {self.problem}."


class PassedOver:
    """What was found in folders and is no input, counted by suffix."""

    def __init__(self):
        self.suffixes: Counter[str] = Counter()
        self.ours = 0

    def line(self) -> str | None:
        """One line for the user, or None where everything was taken."""
        said = [f"{number} {suffix or 'without suffix'}" for suffix, number in self.suffixes.most_common(8)]
        if (more := sum(self.suffixes.values()) - sum(n for _, n in self.suffixes.most_common(8))) > 0:
            said.append(f"{more} others")
        if self.ours:
            said.append(f"{self.ours} that dsg made (name them to take them)")
        if not said:
            return None
        hint = f"; {HEIF_HINT}" if HEIF_SUFFIXES & self.suffixes.keys() else ""
        return f"passed over in folders: {', '.join(said)}{hint}"


def expand_inputs(
    inputs: Iterable[str | os.PathLike],
    *,
    exclude: str | os.PathLike | None = None,
    kinds: Sequence[Kind] = ("picture", "film"),
    stdin: BinaryIO | None = None,
    passed_over: PassedOver | None = None,
    is_ours: Callable[[Path], bool] = lambda path: False,
) -> list[Source]:
    """Files, folders (recursive), glob patterns and `-` (names on stdin, one a line or NUL-separated), each file once.

    In folders only pictures and films (`kinds`) count, hidden and temporary files are passed over, and so is `exclude`,
    the folder the results go to, unless it or what is in it was named. A file named outright is taken whatever its
    suffix. Where files that `is_ours` (dsg has made them) stand among others, they are passed over too. What cannot be
    used comes back as a Source with a `problem`. Raises UsageError when the inputs name nothing at all, or one of them
    is empty.
    """
    inputs = list(inputs)
    if any(not os.fspath(item).strip() for item in inputs):
        raise UsageError("An input is empty. Is a variable of the shell not set?")
    seen = PassedOver() if passed_over is None else passed_over
    walk = _Walk(kinds, None if exclude is None else Path(exclude).resolve(), seen)
    found: list[Source] = []
    for item in inputs:
        text = os.fspath(item)
        if text == "-":
            some = [one for name in _names_on(stdin or sys.stdin.buffer) for one in walk.listed(Path(name))]
        elif _is_pattern(text):
            some = list(walk.pattern(text))
        else:
            some = list(walk.one(Path(text)))
        others = [one for one in some if one.named or one.problem or not is_ours(one.path)]
        if any(not one.problem for one in others):  # else just what dsg has made is meant
            seen.ours += len(some) - len(others)
            some = others
        found += some

    unique: dict[str, Source] = {}
    for source in found:
        real = os.path.realpath(source.path)
        if real not in unique or (source.named and not unique[real].named):
            unique[real] = replace(unique[real], named=True) if real in unique else source
    if not unique:
        wanted = " or ".join(f"{kind}s" for kind in kinds)
        named = ", ".join("stdin" if os.fspath(item) == "-" else os.fspath(item) for item in inputs[:3]) or "nothing"
        why = f" ({line})" if (line := seen.line()) else ""
        raise UsageError(f"No {wanted} in {named}{', ...' if len(inputs) > 3 else ''}{why}.")
    return kept_apart(list(unique.values()))


def kept_apart(sources: list[Source]) -> list[Source]:
    """Where two sources have one place in the tree, because two folders or files were named, the tree begins at the
    folder above these for all that lies in them: x/me.jpg and y/me.jpg stay x/me.jpg and y/me.jpg."""
    counts = Counter(source.relative for source in sources)
    roots = {_root(source) for source in sources if counts[source.relative] > 1}
    if len(roots) < 2:
        return sources
    above = os.path.commonpath(roots)
    return [
        replace(source, relative=Path(os.path.relpath(os.path.abspath(source.path), above)))  # noqa: PTH100
        if _root(source) in roots
        else source
        for source in sources
    ]


def _root(source: Source) -> str:
    """The folder, absolute, under which `relative` is a source's path."""
    path = Path(os.path.abspath(source.path))  # noqa: PTH100 - links are not followed
    depth = len(source.relative.parts)
    return os.fspath(path.parents[depth - 1] if path.parts[-depth:] == source.relative.parts else path.parent)


def _names_on(stream: BinaryIO) -> list[str]:
    listing = stream.read()
    if isinstance(listing, str):
        listing = os.fsencode(listing)
    if listing.startswith(codecs.BOM_UTF8):  # as editors and shells of Windows write lists
        listing = listing.removeprefix(codecs.BOM_UTF8)
    elif listing.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        listing = os.fsencode(listing.decode("utf-16", errors="replace"))
    separator = b"\0" if b"\0" in listing else b"\n"
    names = (name.removesuffix(b"\r") for name in listing.split(separator))
    return [os.fsdecode(name) for name in names if name.strip()]


def _is_pattern(text: str) -> bool:
    return glob.has_magic(text) and not os.path.lexists(text)


def _until_magic(parts: Sequence[str]) -> Iterator[str]:
    for part in parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


class _Walk:
    """What inputs lead to: `kinds` of files, outside of the folder `excluded`; others are counted in `passed_over`."""

    def __init__(self, kinds: Sequence[Kind], excluded: Path | None, passed_over: PassedOver):
        self.kinds, self.excluded, self.passed_over = kinds, excluded, passed_over

    def one(self, path: Path) -> Iterator[Source]:
        """A file or a folder that was named."""
        if os.path.isdir(path):  # noqa: PTH112
            yield from self._folder(path, path)
        else:
            yield _file(path, Path(path.name), named=True)

    def listed(self, path: Path) -> Iterator[Source]:
        """A name of a list: `find . -name '*.jpg' | dsg stylize -` keeps find's tree."""
        is_below = not path.is_absolute() and ".." not in path.parts
        if os.path.isdir(path):  # noqa: PTH112
            yield from self._folder(path, path.parent if is_below else path)
        elif not self._is_excluded(path):
            yield _file(path, path if is_below else Path(path.name), named=False)

    def pattern(self, pattern: str) -> Iterator[Source]:
        """Quoted patterns reach us unexpanded; `**` crosses folders. The tree is kept below their fixed part."""
        pattern = str(at_home(pattern))
        fixed = Path(*_until_magic(Path(pattern).parts))
        matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob shows hidden files
        if not matches:
            yield Source(Path(pattern), Path(Path(pattern).name), "no file matches this pattern")
        for match in map(Path, matches):
            if self._is_excluded(match):
                continue
            if os.path.isdir(match):  # noqa: PTH112
                if "**" not in pattern:  # with **, what is inside matches by itself
                    yield from self._folder(match, fixed)
            elif self._is_wanted(match):
                yield Source(match, match.relative_to(fixed), named=False)

    def _folder(self, folder: Path, root: Path) -> Iterator[Source]:
        """Every picture below `folder`, sorted, links followed, each real folder entered once."""
        entered: set[str] = set()
        unlisted: list[OSError] = []
        inside = self._is_excluded(folder)  # named for itself
        for here, folders, files in os.walk(folder, followlinks=True, onerror=unlisted.append):
            entered.add(os.path.realpath(here))
            folders[:] = sorted(
                name
                for name in folders
                if not name.startswith(".")
                and (inside or not self._is_excluded(Path(here, name)))
                and os.path.realpath(Path(here, name)) not in entered
            )
            for name in sorted(files):
                path = Path(here, name)
                if self._is_wanted(path):
                    yield Source(path, path.relative_to(root), named=False)
        for error in unlisted:
            path = Path(error.filename)
            yield Source(path, Path(path.name), f"the folder cannot be listed: {error.strerror}")

    def _is_wanted(self, path: Path) -> bool:
        if is_temporary(path):
            return False
        is_regular = os.path.isfile(path) or not os.path.exists(path)  # noqa: PTH110, PTH113
        # else a pipe, socket or device, or a link to one
        if kind_of(path) in self.kinds and is_regular:
            return True
        self.passed_over.suffixes[path.suffix.lower()] += 1
        return False

    def _is_excluded(self, path: Path) -> bool:
        return self.excluded is not None and path.resolve().is_relative_to(self.excluded)


def _file(path: Path, relative: Path, named: bool) -> Source:
    problem = None
    try:
        mode = path.stat().st_mode
        if named and stat.S_ISFIFO(mode):
            path = spooled(path)
        elif not stat.S_ISREG(mode):
            problem = "not a file"
    except (FileNotFoundError, NotADirectoryError):
        problem = "a link that leads nowhere" if os.path.lexists(path) else "no such file"
    except OSError as error:  # a folder above is locked, a name is too long
        problem = error.strerror
    return Source(path, relative, problem, named)


def is_complete(path: str | os.PathLike) -> bool:
    """Whether `path` is a whole file, for `--skip-existing`: not empty, begun and ended as its suffix promises.

    Our own outputs are whole by construction; this also catches those cut by a full disk, a copy or another program.
    What follows the end of a picture (the film of a motion photo) is no fault of it.
    """
    path = Path(path)
    if is_temporary(path) or not os.path.isfile(path):  # noqa: PTH113
        return False
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(max(0, size - 64))
        tail = file.read()
        match path.suffix.lower():
            case ".jpg" | ".jpeg" | ".jpe" | ".jfif":
                return head.startswith(b"\xff\xd8") and (b"\xff\xd9" in tail or _jpeg_ends(file))
            case ".png" | ".apng":
                return head.startswith(b"\x89PNG") and _png_ends(file, size)
            case ".gif":
                return head.startswith(b"GIF8") and tail.rstrip(b"\0").endswith(b";")
            case ".bmp":
                return head.startswith(b"BM") and size >= int.from_bytes(head[2:6], "little")
            case ".webp":
                return head[8:] == b"WEBP" and size >= 8 + int.from_bytes(head[4:8], "little")
            case ".mp4" | ".m4v" | ".mov" | ".avif":
                return _boxes_are_whole(file, size)
    return size > 0


_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # that ends compressed data: no stuffing, no restart


def _jpeg_ends(file: BinaryIO) -> bool:
    """Whether a JPEG's segments lead to its end. Thumbnails have ends, too, and so may what follows a cut picture."""
    file.seek(0)
    data, at = file.read(), 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        marker = data[at + 1]
        if marker == 0xD9:
            return True
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:
            found = _MARKER.search(data, at)
            at = found.start() if found else len(data)
    return False


def _png_ends(file: BinaryIO, size: int) -> bool:
    """Whether a PNG's chunks lead to its end."""
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return head[4:] == b"IEND" and file.tell() + 4 <= size


def _boxes_are_whole(file: BinaryIO, size: int) -> bool:
    """MP4, MOV and AVIF are a chain of boxes (length, name): a whole file ends with one and has `moov` or `meta`."""
    at, names = 0, set()
    while at + 8 <= size:
        file.seek(at)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:  # a 64-bit length follows the name
            length = int.from_bytes(header[8:16], "big")
        elif length == 0:  # to the end of the file
            length = size - at
        if length < 8:
            return False
        names.add(header[4:8])
        at += length
    return at == size and bool(names & {b"moov", b"meta"})
