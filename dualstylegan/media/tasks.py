"""One source file on its way through a verb."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dualstylegan.errors import failure
from dualstylegan.events import Event, Kind
from dualstylegan.media.paths import Source

log = logging.getLogger(__name__)


@dataclass
class Task:
    """What is to become of one source. Ends as one event: done, skipped or failed."""

    verb: str
    source: Source

    def event(self, kind: Kind, message: str | None = None, outputs: Sequence[Path] = (), faces: int = 0) -> Event:
        """`faces` and `outputs` are told of what is done."""
        paths = [str(path) for path in outputs]
        data = {"faces": faces, "outputs": paths} if kind == "done" else {}
        return Event(kind, self.verb, str(self.source.path), paths[0] if paths else None, message, data=data)

    def failed(self, error: Exception) -> Event:
        log.debug("%s failed", self.source.path, exc_info=error)
        return self.event("failed", failure(error))
