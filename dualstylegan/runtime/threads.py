"""Threads, and the cores torch computes on in each: small networks shared out among several cores get slower."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

from dualstylegan.runtime.interrupts import result_of, uninterrupted

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_THREADS = 4


def each_on_one_core(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`[function(item) for item in items]`, without gradients, in threads that torch gives one core each."""
    items = list(items)

    def run(item: Item) -> Result:
        with torch.inference_mode():  # is a thread's own
            return function(item)

    with uninterrupted():
        futures = [_pool(os.getpid()).submit(run, item) for item in items]
    try:
        return [result_of(future) for future in futures]
    finally:
        with uninterrupted():
            for future in futures:  # not begun yet, where an earlier one failed or by Ctrl-C
                future.cancel()


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """One pool a process: threads do not survive a fork."""
    return start_threads(max(1, min(MOST_THREADS, os.cpu_count() or 1)), "faces")


def start_threads(count: int, name: str, *, cores: int = 1) -> ThreadPoolExecutor:
    """Threads `dsg-NAME` in each of which torch computes on `cores`, whatever others use, now and later.

    A thread takes over the number that was set last, wherever that was, when torch first needs it there. So every
    thread sets its own before anything else, and this one's is put back once all have.
    """
    everyone = threading.Barrier(count + 1)

    def begin() -> None:
        torch.get_num_threads()  # asked for here, it cannot be taken over later on and undo what is set now
        torch.set_num_threads(cores)
        everyone.wait()

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, thread_name_prefix=f"dsg-{name}")
    with uninterrupted():
        for _ in range(count):
            pool.submit(begin)
        everyone.wait()
        torch.set_num_threads(before)
    return pool
