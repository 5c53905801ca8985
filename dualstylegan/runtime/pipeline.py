"""Files are decoded ahead and written behind while the main thread computes. What waits is bounded, in bytes.

Threads live inside a `with` block or a generator: leaving it, by Ctrl-C too, cancels what has not begun and waits for
what has, so no thread outlives its job and nothing is cut in the middle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from dualstylegan.runtime.interrupts import result_of, uninterrupted, wait_for_any
from dualstylegan.runtime.threads import working_threads

Item = TypeVar("Item")
Result = TypeVar("Result")

BUDGET_BYTES = 256 << 20  # of decoded pixels waiting on either side: 1.7 pictures of 50 megapixels, 85 of one


def read_ahead(
    items: Iterable[Item],
    read: Callable[[Item], Result],
    *,
    nbytes: Callable[[Result], int],
    threads: int = 2,
    budget_bytes: int = BUDGET_BYTES,
) -> Iterator[tuple[Item, Result | Exception]]:
    """Each item with what `read` made of it, or the exception it raised, in the items' order.

    At most `2 * threads` items are ahead of the consumer, fewer while those already read exceed `budget_bytes`.
    """

    def held_bytes() -> int:
        with uninterrupted():
            return sum(nbytes(f.result()) for _, f in waiting if f.done() and not f.exception())

    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with working_threads(threads, "read") as pool:
        for item in items:
            while waiting and (len(waiting) >= 2 * threads or held_bytes() > budget_bytes):
                yield _outcome(*waiting.popleft())
            with uninterrupted():
                waiting.append((item, pool.submit(read, item)))
        while waiting:
            yield _outcome(*waiting.popleft())


class WriteBehind(Generic[Item, Result]):
    """Runs tasks in threads, in no particular order, and hands out their outcomes as they come.

    `submit` waits while the tasks not yet finished hold more than `budget_bytes`.
    """

    def __init__(self, *, threads: int = 2, budget_bytes: int = BUDGET_BYTES):
        self._budget_bytes = budget_bytes
        self._running: dict[Future[Result], tuple[Item, int]] = {}
        self._finished: list[tuple[Item, Result | Exception]] = []
        self._context = working_threads(threads, "write")

    def __enter__(self) -> WriteBehind[Item, Result]:
        self._pool = self._context.__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._context.__exit__(*exc_info)

    def submit(self, item: Item, task: Callable[[], Result], *, nbytes: int) -> None:
        """Run `task` soon; `nbytes` is what it keeps alive. A task larger than the budget runs alone."""
        self._collect()
        while self._running and nbytes + sum(n for _, n in self._running.values()) > self._budget_bytes:
            self._collect(block=True)
        with uninterrupted():
            self._running[self._pool.submit(task)] = (item, nbytes)

    def finished(self) -> list[tuple[Item, Result | Exception]]:
        """What has ended since the last call: each item with its task's result or exception."""
        self._collect()
        finished, self._finished = self._finished, []
        return finished

    def drain(self) -> Iterator[tuple[Item, Result | Exception]]:
        """The rest, as it ends."""
        while self._running or self._finished:
            yield from self.finished()
            if self._running:
                self._collect(block=True)

    def _collect(self, block: bool = False) -> None:
        if block:
            wait_for_any(self._running)
        with uninterrupted():
            ended = [future for future in self._running if future.done()]
        for future in ended:
            item, _ = self._running.pop(future)
            self._finished.append(_outcome(item, future))


def _outcome(item: Item, future: Future[Result]) -> tuple[Item, Result | Exception]:
    try:
        return item, result_of(future)
    except Exception as error:
        return item, error
