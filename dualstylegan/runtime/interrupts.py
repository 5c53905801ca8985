"""Ctrl-C, SIGTERM and SIGHUP, kept out of where they would do harm.

They raise between any two steps of the main thread, also inside Python's own locks, futures and joins. A lock that was
just taken there is never given back, and whoever needs it next waits for ever; a thread whose end was awaited there
counts as ended. So what the main thread shares with other threads it touches in `with uninterrupted()`, and waits for
them a moment at a time.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from typing import Any, TypeVar

Result = TypeVar("Result")

POLL_S = 0.2  # a moment: what Ctrl-C may have to wait
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def uninterrupted() -> Iterator[None]:
    """No signal strikes in this block; one that came meanwhile does at its end. For what takes a moment only.

    Signals strike in the main thread alone: in others this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [(number, signal.getsignal(number)) for number in SIGNALS]
    if None in dict(before).values():
        yield  # set outside Python, which could not set it again
        return
    came: list[int] = []

    def hold(number: int, frame: object) -> None:
        came.append(number)

    try:
        for number, _ in reversed(before):
            signal.signal(number, hold)
        yield
    finally:
        _give_back(before)
        for number in dict.fromkeys(came):
            signal.raise_signal(number)


def _give_back(handlers: Sequence[tuple[int, Any]]) -> None:
    """All of them, though Ctrl-C strikes from the first on."""
    if handlers:
        try:
            signal.signal(*handlers[0])
        finally:
            _give_back(handlers[1:])


def wait_for_any(futures: Collection[Future]) -> None:
    """Return when one of the futures has ended. Ctrl-C and SIGTERM strike meanwhile, between two moments."""
    ended = False
    while not ended:
        with uninterrupted():
            ended = bool(wait(futures, timeout=POLL_S, return_when=FIRST_COMPLETED).done)


def result_of(future: Future[Result]) -> Result:
    """`future.result()`, likewise."""
    wait_for_any([future])
    with uninterrupted():
        return future.result()
