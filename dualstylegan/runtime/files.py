"""Files and folders appear under their names whole or not at all. What is unfinished has one mark.

`.dsg-tmp-*` is being written, or was left by a run that was killed: `sweep` removes it. `.dsg-parts-*` is what a
download or a film has so far: the same command goes on from there.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dualstylegan.errors import DualStyleGANError

MARK = ".dsg-"  # hidden, and passed over where folders are searched for inputs
TEMPORARY, PARTS = f"{MARK}tmp-", f"{MARK}parts-"

OLD_MARKS = (".signals", ".*.tmp")  # what runs begun before there was one mark may have left

LONGEST_NAME = 255  # bytes, on nearly all file systems


def at_home(path: str | os.PathLike) -> Path:
    """`~/x` as shells have it. `~nobody`, where nobody is known by that name, is a name like others."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises


def spooled(pipe: Path) -> Path:
    """What comes through a pipe, in a file that is gone when this process ends: it can be read again, and in threads.

    To be called in the main thread, where signals strike while nobody writes.
    """
    folder = Path(tempfile.mkdtemp(prefix="dsg-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with pipe.open("rb") as stream, (folder / pipe.name).open("wb") as file:
        shutil.copyfileobj(stream, file)
    return folder / pipe.name


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """`with whole_file(path) as temporary:` write to `temporary`; it becomes `path` in one step when the block ends.

    The temporary file lies in the same folder (which is made) and keeps the suffix. When the block fails, by Ctrl-C or
    SIGTERM too, it is removed and an older `path` stays as it was. Raises DualStyleGANError when the folder cannot be
    made or written.
    """
    path = Path(path)
    temporary = _beside(path, path.suffix)
    with _said(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _keep(temporary)
            temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[Path]:
    """`whole_file` for a folder, which is there when the block begins. An older `path` is gone when it ends.

    Whether that may be is for the caller to ask, and to take over in the block what of it is to stay.
    """
    path = Path(os.path.realpath(path))  # of two names for a folder the link stays a link
    temporary = _beside(path)
    with _said(path):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _keep(file)
            _take_place(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def is_about_room(error: DualStyleGANError) -> bool:
    """Whether nothing at all can be written any more, or this one file only."""
    full = {errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in full


def parts_of(path: Path) -> Path:
    """Where what has come of `path` so far is kept, for a later run to go on from. A name too long is shortened."""
    name = f"{PARTS}{path.name}"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f"{PARTS}{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}"
    return path.with_name(name)


def read_table(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where there is none that can be read."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def json_text(value: Any, **options: Any) -> str:
    """JSON that UTF-8 can hold: readable, but escaped where a file's name in it is no text."""
    text = json.dumps(value, ensure_ascii=False, **options)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, **options)
    return text


def is_temporary(path: str | os.PathLike) -> bool:
    """Hidden files (`._x.jpg` of macOS too), editors' backups and what a killed run of ours left behind."""
    name = Path(path).name
    return name.startswith((".", "~$")) or name.endswith(("~", ".tmp", ".part"))


def sweep(folder: Path, *, keep: Path | None = None) -> None:
    """Remove what killed writers left anywhere below, but for `keep`. Only where nobody is writing."""
    for path in [path for mark in (f"{TEMPORARY}*", *OLD_MARKS) for path in folder.rglob(mark)]:
        if path == keep:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _beside(path: Path, suffix: str = "") -> Path:
    return path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}{suffix}")


@contextmanager
def _said(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DualStyleGANError(f"Cannot write {path}: {error.strerror or error}.") from error


def _keep(file: Path) -> None:
    """Bring a file to the disk, where that can be done: a rename may survive a power cut that the bytes did not."""
    try:
        handle = os.open(file, os.O_RDWR)  # Windows flushes no file that is open for reading only
    except PermissionError:  # it was made read-only
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise
    finally:
        os.close(handle)


_NO_FSYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}  # file systems that know no such thing


def _take_place(new: Path, folder: Path) -> None:
    """`new` becomes `folder`, and what was there before has the name `new`."""
    if not folder.exists():
        new.rename(folder)
    elif not _exchange(new, folder):
        old = _beside(folder)
        folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            old.rename(folder)
            raise
        old.rename(new)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two folders in one step, where the system can (Linux): no reader ever finds nothing."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename(here, os.fsencode(a), here, os.fsencode(b), swap) == 0
