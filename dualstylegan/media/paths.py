"""Which files go in, and where results come out."""

from __future__ import annotations

import glob
import os
import re
import string
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from dualstylegan.errors import UsageError, did_you_mean
from dualstylegan.runtime.files import is_temporary

PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".bmp"}
    | {".dib", ".gif", ".avif", ".avifs", ".jp2", ".j2k", ".ppm", ".pgm", ".pnm", ".tga"}
)
FILM_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"}
    | {".wmv", ".flv", ".3gp", ".ogv"}
)
FIELDS = ("stem", "ext", "parent", "style", "id")

Kind = Literal["picture", "film", "unknown"]


def kind_of(path: str | os.PathLike) -> Kind:
    """What the suffix says. Whether the content agrees shows when the file is opened."""
    suffix = Path(path).suffix.lower()
    if suffix in PICTURE_SUFFIXES:
        return "picture"
    return "film" if suffix in FILM_SUFFIXES else "unknown"


@dataclass(frozen=True)
class Source:
    """One input file, and its place in the tree of results.

    `relative` is what is kept below the output folder: the path under the folder that was named, or the file's name
    alone. `problem` is one line where the input cannot be used (missing, a folder that cannot be listed); such a source
    is to be reported as failed and the others go on.
    """

    path: Path
    relative: Path
    problem: str | None = None

    @property
    def kind(self) -> Kind:
        return kind_of(self.path)


def expand_inputs(
    inputs: Iterable[str | os.PathLike],
    *,
    exclude: str | os.PathLike | None = None,
    kinds: Sequence[Kind] = ("picture", "film"),
    stdin: BinaryIO | None = None,
) -> list[Source]:
    """Files, folders (recursive), glob patterns and `-` (names on stdin, one a line or NUL-separated), each file once.

    In folders only pictures and films (`kinds`) count, hidden and temporary files are passed over, and so is `exclude`,
    the folder the results go to. A file named outright is taken whatever its suffix. What cannot be used comes back as
    a Source with a `problem`. Raises UsageError when the inputs name nothing at all.
    """
    inputs = list(inputs)
    excluded = None if exclude is None else Path(exclude).resolve()
    found: list[Source] = []
    for item in inputs:
        text = os.fspath(item)
        if text == "-":
            for name in _names_on(stdin or sys.stdin.buffer):
                found += _expand_one(Path(name), kinds, excluded, keep_tree=True)
        elif _is_pattern(text):
            found += _expand_pattern(text, kinds, excluded)
        else:
            found += _expand_one(Path(text), kinds, excluded)

    unique: dict[str, Source] = {}
    for source in found:
        unique.setdefault(os.path.realpath(source.path), source)
    if not unique:
        wanted = " or ".join(f"{kind}s" for kind in kinds)
        named = ", ".join("stdin" if os.fspath(item) == "-" else os.fspath(item) for item in inputs[:3]) or "nothing"
        raise UsageError(f"No {wanted} in {named}{', ...' if len(inputs) > 3 else ''}.")
    return list(unique.values())


def _names_on(stream: BinaryIO) -> list[str]:
    listing = stream.read()
    if isinstance(listing, str):
        listing = os.fsencode(listing)
    separator = b"\0" if b"\0" in listing else b"\n"
    names = (name.removesuffix(b"\r") for name in listing.split(separator))
    return [os.fsdecode(name) for name in names if name.strip()]


def _is_pattern(text: str) -> bool:
    return glob.has_magic(text) and not os.path.lexists(text)


def _expand_pattern(pattern: str, kinds: Sequence[Kind], excluded: Path | None) -> Iterator[Source]:
    """Quoted patterns reach us unexpanded; `**` crosses folders. The tree is kept below the pattern's fixed part."""
    pattern = str(Path(pattern).expanduser())
    fixed = Path(*_until_magic(Path(pattern).parts))
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob shows hidden files
    if not matches:
        yield Source(Path(pattern), Path(Path(pattern).name), "no file matches this pattern")
    for match in map(Path, matches):
        if _inside(match, excluded):
            continue
        if match.is_dir():
            if "**" not in pattern:  # with **, what is inside matches by itself
                yield from _walk(match, fixed, kinds, excluded)
        elif kind_of(match) in kinds:
            yield Source(match, match.relative_to(fixed))


def _until_magic(parts: Sequence[str]) -> Iterator[str]:
    for part in parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def _expand_one(path: Path, kinds: Sequence[Kind], excluded: Path | None, keep_tree: bool = False) -> Iterator[Source]:
    relative = Path(path.name)
    if keep_tree and not path.is_absolute() and ".." not in path.parts:
        relative = path  # `find . -name '*.jpg' | dsg stylize -` keeps find's tree
    if path.is_dir():
        excluded = None if excluded == path.resolve() else excluded
        yield from _walk(path, path.parent if keep_tree and relative == path else path, kinds, excluded)
    elif not os.path.lexists(path):
        yield Source(path, relative, "no such file")
    elif not path.is_file() and not path.is_fifo():
        yield Source(path, relative, "not a file" if path.exists() else "a link that leads nowhere")
    else:
        yield Source(path, relative)


def _walk(folder: Path, root: Path, kinds: Sequence[Kind], excluded: Path | None) -> Iterator[Source]:
    """Every picture below `folder`, sorted, links followed, each real folder entered once."""
    entered: set[str] = set()
    unlisted: list[OSError] = []
    for here, folders, files in os.walk(folder, followlinks=True, onerror=unlisted.append):
        entered.add(os.path.realpath(here))
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and not _inside(Path(here, name), excluded)
            and os.path.realpath(Path(here, name)) not in entered
        )
        for name in sorted(files):
            path = Path(here, name)
            if kind_of(path) in kinds and not is_temporary(path):
                yield Source(path, path.relative_to(root))
    for error in unlisted:
        path = Path(error.filename)
        yield Source(path, Path(path.name), f"the folder cannot be listed: {error.strerror}")


def _inside(path: Path, folder: Path | None) -> bool:
    return folder is not None and path.resolve().is_relative_to(folder)


def output_folder(out: str | os.PathLike | None, default: str = "stylized") -> Path | None:
    """The folder results go to where `out` (the -o option) names one; None where it is a file name or a template."""
    if out is None:
        return Path(default)
    return None if _is_template(out) or _is_file_name(out) else Path(out)


def _is_template(out: str | os.PathLike) -> bool:
    return "{" in os.fspath(out) and not Path(out).exists()


def _is_file_name(out: str | os.PathLike) -> bool:
    text = os.fspath(out)
    return not text.endswith(("/", os.sep)) and kind_of(text) != "unknown" and not Path(text).is_dir()


def names_a_film(out: str | os.PathLike | None) -> bool:
    """Whether what comes out can only be a film: `out` is the name of one, or a template for such names."""
    if out is None or not (_is_template(out) or _is_file_name(out)):
        return False
    return kind_of(out) == "film" or Path(out).suffix.lower() == ".gif"


def output_path(
    out: str | os.PathLike | None,
    source: Source,
    *,
    style: str | None = None,
    style_id: str | None = None,
    several_styles: bool = False,
    suffix: str | None = None,
    default: str = "stylized",
) -> Path:
    """Where the result of one source belongs.

    `out` is a folder (then the tree and the file's name are kept, with `.STYLE-ID` before the extension when several
    styles run), a file name, or a template with the fields {stem} {ext} {parent} {style} {id}. None is `default` in the
    current folder. `suffix` (".png") replaces the source's own. Raises UsageError for unknown fields and when the
    result would overwrite its source.
    """
    suffix = source.relative.suffix if suffix is None else suffix
    label = f"{_slug(style)}-{_slug(style_id)}" if style_id is not None else _slug(style)
    if out is not None and _is_template(out):
        path = Path(
            _fill(
                os.fspath(out),
                stem=source.relative.stem,
                ext=suffix.removeprefix("."),
                parent=source.relative.parent.as_posix(),
                style=_slug(style),
                id=_slug(style_id),
            )
        )
    elif out is not None and _is_file_name(out):
        path = Path(out)
        if several_styles:
            path = path.with_name(f"{path.stem}.{label}{path.suffix}")
    else:
        middle = f".{label}" if several_styles else ""
        path = output_folder(out, default) / source.relative.parent / f"{source.relative.stem}{middle}{suffix}"
    if os.path.realpath(path) == os.path.realpath(source.path):
        raise UsageError(f"{path} would overwrite its own source. Choose another -o.")
    return path


def _slug(text: str | None) -> str:
    """A style's name or ID as part of a file name: `portraits/me.jpg` becomes `me`, `42*0.7+17*0.3` `42x0.7+17x0.3`."""
    text = "" if text is None else str(text)
    if kind_of(text) == "picture":
        text = Path(text).stem
    return re.sub(r"[^\w.+-]+", "_", text.replace("*", "x"))


def _fill(template: str, **values: str) -> str:
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise UsageError(f"-o '{template}': {error}. A field is written {{stem}}, a brace {{{{.") from None
    for field in fields:
        if field not in FIELDS:
            known = " ".join(f"{{{name}}}" for name in FIELDS)
            raise UsageError(f"-o '{template}' has no field {{{field}}}.{did_you_mean(field, FIELDS)} Fields: {known}.")
    return template.format(**values)


def plan_outputs(
    out: str | os.PathLike | None,
    sources: Sequence[Source],
    styles: Sequence[tuple[str | None, str | None]] = ((None, None),),
    *,
    suffix: str | None = None,
    default: str = "stylized",
) -> list[list[Path]]:
    """Every output before any work: one row per source, in it one path per (style, ID).

    Raises UsageError when two results would have the same path, when a result would overwrite any of the sources, and
    when `out` is a single file name for several sources.
    """
    if out is not None and not _is_template(out) and _is_file_name(out) and len(sources) > 1:
        raise UsageError(f"-o {out} is one file, but there are {len(sources)} inputs. Name a folder, or a template.")
    originals = {os.path.realpath(source.path): source.path for source in sources}
    taken: dict[str, Source] = {}
    rows = []
    for source in sources:
        row = []
        for style, style_id in styles:
            path = output_path(
                out,
                source,
                style=style,
                style_id=style_id,
                several_styles=len(styles) > 1,
                suffix=suffix,
                default=default,
            )
            real = os.path.realpath(path)
            if real in originals:
                raise UsageError(f"{path} would overwrite a source, {originals[real]}. Choose another -o.")
            if real in taken:
                raise UsageError(
                    f"{_clash(taken[real], source)} would both become {path}. {_way_out(taken[real], source)}"
                )
            taken[real] = source
            row.append(path)
        rows.append(row)
    return rows


def _clash(one: Source, other: Source) -> str:
    return f"Two styles of {one.path}" if one is other else f"{one.path} and {other.path}"


def _way_out(one: Source, other: Source) -> str:
    if one is other:
        return "Use {style}-{id} in -o."
    if one.path.parent == other.path.parent:
        return "Give them to two runs."
    return "Name the folder above them, or use {parent} in -o."


def is_complete(path: str | os.PathLike) -> bool:
    """Whether `path` is a whole file, for `--skip-existing`: not empty, begun and ended as its suffix promises.

    Our own outputs are whole by construction; this also catches those cut by a full disk, a copy or another program.
    """
    path = Path(path)
    if is_temporary(path) or not path.is_file():
        return False
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(max(0, size - 64))
        tail = file.read()
        match path.suffix.lower():
            case ".jpg" | ".jpeg" | ".jpe" | ".jfif":
                return head.startswith(b"\xff\xd8") and b"\xff\xd9" in tail
            case ".png" | ".apng":
                return head.startswith(b"\x89PNG") and b"IEND" in tail
            case ".gif":
                return head.startswith(b"GIF8") and tail.endswith(b";")
            case ".bmp":
                return head.startswith(b"BM") and size >= int.from_bytes(head[2:6], "little")
            case ".webp":
                return head[8:] == b"WEBP" and size >= 8 + int.from_bytes(head[4:8], "little")
            case ".mp4" | ".m4v" | ".mov" | ".avif":
                return _boxes_are_whole(file, size)
    return size > 0


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
