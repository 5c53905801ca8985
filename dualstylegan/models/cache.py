"""Where models lie: those that ship with the package, and the cache, which is DSG_HOME, else the platform's folder.

styles/NAME/, bases/NAME/    models as bundles
downloads/NAME/FILE          files as released, checked before they get this name
downloads/lock.json          what each of them was when it came first
sheets/                      contact sheets that had to be rendered
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from dualstylegan.errors import DownloadError
from dualstylegan.events import Event
from dualstylegan.runtime.files import at_home

EMBEDDED = Path(__file__).parents[1] / "weights"


def cache_home() -> Path:
    """DSG_HOME, else the platform's cache folder. It need not exist yet."""
    home = os.environ.get("DSG_HOME")
    return at_home(home) if home else user_cache_path("dsg", appauthor=False)


def in_cache(path: Path) -> bool:
    return path.resolve().is_relative_to(cache_home().resolve())


def is_shared(folder: Path) -> bool:
    """Whether a folder is one that every style finds by hash: embedded, or in the cache."""
    return in_cache(folder) or folder.resolve().is_relative_to(EMBEDDED.resolve())


def is_offline(offline: bool | None = None) -> bool:
    """Whether downloads are forbidden: as asked, else by DSG_OFFLINE or HF_HUB_OFFLINE."""
    if offline is not None:
        return offline
    return any(
        os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in ("DSG_OFFLINE", "HF_HUB_OFFLINE")
    )


def holding(target: Path, verb: str, what: str | None = None) -> Generator[Event, None, AbstractContextManager]:
    """`with (yield from holding(target, verb)):` nobody else makes `target` meanwhile; that one has to wait is said.

    Raises DownloadError, naming `what`, where nothing can be written.
    """
    what = what or target.name
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            return lock.acquire(timeout=0.5)
        except Timeout:
            yield Event("note", verb, message=f"waiting for another process that makes {what}")
            return lock.acquire()
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DownloadError(
            f"{what} is not in the cache, and {target.parent} cannot be written ({reason}): "
            "set DSG_HOME to a folder that can."
        ) from None
