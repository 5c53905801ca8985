"""Ctrl-C and SIGTERM, kept out of where they would do harm.

They raise between any two steps of the main thread, also inside Python's own locks, futures and joins. A lock that was
just taken there is never given back, and whoever needs it next waits for ever; a thread whose end was awaited there
counts as ended. So what the main thread shares with other threads it touches in `with uninterrupted()`, and waits for
them a moment at a time.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from threading import Thread
from typing import TypeVar

Result = TypeVar("Result")

POLL_S = 0.2  # a moment: what Ctrl-C may have to wait


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Neither signal strikes in this block; one that came meanwhile does at its end. For what takes a moment only.

    Signals strike in the main thread alone: in others this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    of_int, of_term = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    if of_int is None or of_term is None:
        yield  # set outside Python, which could not set it again
        return
    came: list[int] = []

    def hold(number: int, frame: object) -> None:
        came.append(number)

    try:
        signal.signal(signal.SIGTERM, hold)
        signal.signal(signal.SIGINT, hold)
        yield
    finally:
        try:
            signal.signal(signal.SIGINT, of_int)
        finally:  # from here on Ctrl-C strikes
            signal.signal(signal.SIGTERM, of_term)
        for number in dict.fromkeys(came):
            signal.raise_signal(number)


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


def join(thread: Thread) -> None:
    """`thread.join()`, likewise."""
    alive = True
    while alive:
        with uninterrupted():
            thread.join(POLL_S)
            alive = thread.is_alive()
