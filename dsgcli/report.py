"""Events as they come, shown to whoever is there: bars on a terminal, JSON lines for a script, little for a pipe."""

from __future__ import annotations

import json as json_module
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing, suppress
from typing import Any

from dualstylegan.errors import failure
from dualstylegan.events import Event

DRAWN = ("left_s",)  # what bars show of themselves


def show(events: Iterable[Event], *, json: bool = False, answer: bool = False) -> int:
    """Consume a verb's events, tell the user about them and return the exit status: 1 when a file failed, else 0.

    Progress, notes, warnings and the list of failed files go to stderr, bars only to a terminal; the summary goes to
    stdout. `json`: every event as one line on stdout, and nothing else. `answer`: the notes are what was asked for (as
    with --dry-run), so they go to stdout. Of several processes only the first one speaks.
    """
    if not speaks():
        return _consume(events, lambda event: None)
    if json:
        with closing(_JsonLines()) as lines:
            return lines.print_all(events)
    with ExitStack() as stack:
        reporter = Reporter(answer=answer, bars=stack.enter_context(_bars()) if sys.stderr.isatty() else None)
        stack.callback(reporter.end)  # what has failed is named after Ctrl-C and errors too
        return _consume(events, reporter.take)


def speaks() -> bool:
    """Whether this is the first of the processes that `accelerate launch` started, or the only one."""
    from dualstylegan.runtime.processes import launched

    return launched()[0] == 0


def _consume(events: Iterable[Event], take: Callable[[Event], None]) -> int:
    status = 0
    try:
        for event in events:
            take(event)
            status = 1 if event.kind == "failed" else status
    finally:
        close = getattr(events, "close", None)
        if close:  # interrupted here, the verb still has files and threads to put away
            close()
    return status


class _JsonLines:
    """Events as lines of JSON. What begins with a plan ends with a summary, whatever comes between."""

    def __init__(self):
        self._verb: str | None = None  # of a plan that has no summary yet
        self._counts: Counter[str] = Counter()

    def print_all(self, events: Iterable[Event]) -> int:
        try:
            return _consume(events, self._take)
        except Exception as error:
            if self._verb:
                print_failure(self._verb, failure(error))
                error.__dict__["is_told"] = True
            raise

    def _take(self, event: Event) -> None:
        self._counts[event.kind] += 1
        self._verb = {"plan": event.verb, "summary": None}.get(event.kind, self._verb)
        _print_json(event)

    def close(self) -> None:
        if self._verb:
            counts = {kind: self._counts[kind] for kind in ("done", "skipped", "failed")}
            said = ", ".join(f"{number} {kind}" for kind, number in counts.items())
            with suppress(OSError):  # whoever read this may be gone
                _print_json(Event("summary", self._verb, message=f"ended early: {said}", data=counts))


def print_failure(verb: str, message: str) -> None:
    """A line of JSON for what failed as a whole: a mistake of usage, a model that cannot be had."""
    _print_json(Event("failed", verb, message=message))


def _print_json(event: Event) -> None:
    print(json_module.dumps(_plain(event.as_json())), flush=True)


def _plain(value: Any) -> Any:
    """What JSON can hold: paths become text, arrays lists, and numbers that are not finite null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    return _plain(value.tolist()) if hasattr(value, "tolist") else str(value)


class Reporter:
    """Tells a person. `bars` is a started rich Progress, or None where nobody watches."""

    def __init__(self, *, answer: bool = False, bars: Any = None):
        self._answer = answer
        self._bars = bars
        self._rows: dict[str, Any] = {}  # stage -> bar
        self._counts: Counter[str] = Counter()
        self._failed: list[Event] = []
        self._remarks: dict[str, list[Event]] = {}  # what was said of files that ended well, by its text
        self._verb = "dsg"
        self._summary: str | None = None
        self._began_s = time.monotonic()

    def take(self, event: Event) -> None:
        self._verb = event.verb
        self._counts[event.kind] += 1
        if event.kind == "failed":
            self._failed.append(event)
        elif event.kind in ("done", "skipped") and event.message:
            self._remarks.setdefault(event.message, []).append(event)
        elif event.kind in ("note", "warning") and event.message:
            self._say(event)
        elif event.kind == "summary":
            self._summary = event.message
        if self._bars is not None:
            self._draw(event)

    def end(self) -> None:
        """Remarks, the failed files with their reasons, then the summary (none when the verb came to no end)."""
        if self._bars is not None:
            self._bars.stop()
        for remark, events in self._remarks.items():
            source = events[0].source
            named = source is None or remark.startswith(source)  # a stage has none; our errors name the file
            print(f"dsg: {remark}" if named else f"dsg: {remark}: {_names(events)}", file=sys.stderr)
        for event in self._failed:
            print(f"dsg: failed: {_about(event)}", file=sys.stderr)
        if self._summary is None and self._counts["summary"]:
            self._summary = self._count()
        if self._summary:
            print(self._summary, flush=True)

    def _count(self) -> str:
        parts = [f"{self._counts[kind]} {kind}" for kind in ("done", "skipped", "failed") if self._counts[kind]]
        return f"{self._verb}: {', '.join(parts) or 'nothing to do'} in {_duration(time.monotonic() - self._began_s)}"

    def _say(self, event: Event) -> None:
        text = _about(event)
        if event.kind == "note" and self._answer:
            print(text, flush=True)
            return
        text = f"dsg: {'warning: ' if event.kind == 'warning' else ''}{text}"
        if self._bars is None:
            print(text, file=sys.stderr)
        else:
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _draw(self, event: Event) -> None:
        if event.kind in ("plan", "progress"):
            row = self._row(event.stage or (event.kind == "progress" and event.source) or self._verb)
            self._bars.update(row, total=event.total, completed=event.current, figures=figures(event.data))
            return
        if event.kind in ("done", "skipped", "failed") and event.source in self._rows:  # a film's own
            self._bars.remove_task(self._rows.pop(event.source))
        if (
            event.kind in ("done", "skipped", "failed")
            and (row := self._rows.get(event.stage or self._verb)) is not None
        ):
            failed = f"{len(self._failed)} failed" if self._failed else ""
            self._bars.update(row, advance=1, figures=failed)

    def _row(self, name: str) -> Any:
        if name not in self._rows:
            self._rows[name] = self._bars.add_task(name, total=None, figures="")
        return self._rows[name]


def _about(event: Event) -> str:
    """`source: message`, without saying the source twice: our errors name the file themselves."""
    message = event.message or "for no stated reason"
    named = event.source is None or message.startswith(event.source)
    return _one_line(message if named else f"{event.source}: {message}")


def _one_line(text: str) -> str:
    """Names may hold line breaks, and worse to a terminal; a line stays one."""
    return "".join(
        letter if letter.isprintable() or "\udc80" <= letter <= "\udcff" else repr(letter)[1:-1] for letter in text
    )


def _names(events: list[Event], most: int = 3) -> str:
    names = sorted(_one_line(event.source or "") for event in events)  # they end in any order
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def figures(data: dict[str, Any], most: int = 5) -> str:
    """The numbers among an event's data, short: {"loss": .12345, "fps": 31.98} -> "loss 0.123  fps 32"."""
    numbers = [(name, value) for name, value in data.items() if type(value) in (int, float) and name not in DRAWN]
    return "  ".join(f"{name.replace('_per_s', '/s')} {_short(value)}" for name, value in numbers[:most])


def _short(value: float) -> str:
    return f"{value:.0f}" if isinstance(value, int) or 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _bars() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[figures]}", markup=False),
        console=Console(stderr=True),
    )
