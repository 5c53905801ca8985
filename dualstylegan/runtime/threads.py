"""Small networks run on threads of their own, each on one core: shared out among several cores they get slower."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

from dualstylegan.runtime.cores import use_cores
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
    """One pool a process: threads do not survive a fork. All its threads begin at once: use_cores says why."""
    count = max(1, min(MOST_THREADS, os.cpu_count() or 1))
    ready = threading.Barrier(count + 1)

    def begin() -> None:
        use_cores(1)
        ready.wait()

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, thread_name_prefix="dsg-faces", initializer=begin)
    for _ in range(count):
        pool.submit(lambda: None)
    ready.wait()
    torch.set_num_threads(before)
    return pool
