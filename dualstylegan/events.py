"""What a verb reports while it works. The library yields events; the command line draws bars or prints JSON lines."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

Result = TypeVar("Result")

Kind = Literal["plan", "progress", "done", "skipped", "failed", "warning", "note", "summary"]


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    plan: how much there is to do (`total`). progress: `current` of `total` inside a stage. done, skipped, failed: one
    source file ended that way. warning, note: a line for the user that stops nothing. summary: the last event.
    `stage` names what is worked on ("destylize", "transfer"); `data` holds numbers and lists for scripts.
    """

    kind: Kind
    verb: str
    source: str | None = None
    output: str | None = None
    message: str | None = None
    stage: str | None = None
    current: int | None = None
    total: int | None = None
    data: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The one schema of `--json`: every key always present, the kind under `event`."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {"event": values.pop("kind"), **values}


def counted(number: int, what: str) -> str:
    """`1 face`, `2 faces`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def outcome(work: Generator[Event, None, Result], tell: Callable[[Event], object] = lambda event: None) -> Result:
    """What a generator of events returns in the end; `tell` hears what it says on the way."""
    while True:
        try:
            tell(next(work))
        except StopIteration as end:
            return end.value
