"""A line of stages: generators that run in threads of their own, with bounded queues between them.

    with Line() as line:
        frames = line.ahead(decode(film), "decode", nbytes=...)
        faces = line.ahead(find(frames), "find", nbytes=...)
        for item in faces: ...

When one stage fails all stop, and its error is raised where the line's end is read. Leaving the block, by an error or
Ctrl-C too, stops every stage at its next hand-over and waits for it: no thread outlives its line.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from dualstylegan.runtime.interrupts import POLL_S, uninterrupted, wait_for_any
from dualstylegan.runtime.threads import start_threads

Item = TypeVar("Item")

QUEUE_BYTES = 24 << 20  # waiting between two stages: enough to even out their pace, little beside what they work on
QUEUE_ITEMS = 32


class Line:
    """The threads of one job. `cpu_s` says, once it is left, what CPU time each stage's own thread took."""

    def __init__(self):
        self.cpu_s: Counter[str] = Counter()
        self._channels: list[Channel] = []
        self._stages: list[tuple[ThreadPoolExecutor, Future[None]]] = []
        self._threads: set[threading.Thread] = set()
        self._error: BaseException | None = None

    def __enter__(self) -> Line:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        with uninterrupted():  # a second Ctrl-C would close files that stages still work on
            self._stop()
            for pool, _ in self._stages:
                pool.shutdown()
        # A stage may fail after the last item was handed over; and a failure makes others of its own elsewhere.
        if self._error and (kind is None or kind is _Stopped):
            raise self._error

    def channel(self, nbytes: Callable[[Any], int]) -> Channel:
        """A queue from one thread to another that ends with the line."""
        channel = Channel(nbytes, most_bytes=QUEUE_BYTES, most_items=QUEUE_ITEMS)
        self._channels.append(channel)
        return channel

    def ahead(
        self, items: Iterable[Item], name: str, *, nbytes: Callable[[Item], int], cores: int = 1
    ) -> Iterator[Item]:
        """The same items, computed in a thread of their own, in which torch uses `cores`."""
        channel = self.channel(nbytes)

        def work() -> None:
            try:
                for item in items:
                    channel.put(item)
                channel.end()
            finally:
                if hasattr(items, "close"):
                    items.close()

        self.run(work, name, cores=cores)
        return self._checked(channel)

    def run(self, work: Callable[[], None], name: str, *, cores: int = 1) -> None:
        """Do `work` in a thread of its own."""

        def body() -> None:
            self._threads.add(threading.current_thread())
            try:
                work()
            except _Stopped:
                pass
            except BaseException as error:
                self._error = self._error or error
                self._stop()
            finally:
                self.cpu_s[name] += time.thread_time()

        with uninterrupted():
            pool = start_threads(1, name, cores=cores)
            self._stages.append((pool, pool.submit(body)))

    def put(self, channel: Channel[Item], item: Item) -> None:
        """`channel.put` for the thread that owns the line: where a stage has failed, its error is raised."""
        try:
            channel.put(item)
        except _Stopped:
            raise self._error or _Stopped from None

    def wait(self) -> None:
        """Wait until every stage has come to its end; raises the error of one that failed."""
        for _, work in self._stages:
            wait_for_any([work])
        if self._error:
            raise self._error

    def _checked(self, channel: Channel[Item]) -> Iterator[Item]:
        try:
            yield from channel
        except _Stopped:
            raise (self._error if threading.current_thread() not in self._threads else None) or _Stopped from None

    def _stop(self) -> None:
        for channel in self._channels:
            channel.stop()


class Channel(Generic[Item]):
    """A queue bounded in bytes and in items; one item at least fits always. Iterating takes items out until the end."""

    def __init__(self, nbytes: Callable[[Item], int], *, most_bytes: int, most_items: int):
        self._nbytes, self._most_bytes, self._most_items = nbytes, most_bytes, most_items
        self._items: deque[tuple[Item, int]] = deque()
        self._held_bytes = 0
        self._ended = self._stopped = False
        self._changed = threading.Condition()

    def put(self, item: Item) -> None:
        """Waits while the queue is full."""
        size = self._nbytes(item)
        while True:
            with uninterrupted(), self._changed:
                if self._stopped:
                    raise _Stopped
                if not self._is_full(size):
                    self._items.append((item, size))
                    self._held_bytes += size
                    self._changed.notify_all()
                    return
                self._changed.wait(POLL_S)

    def end(self) -> None:
        """Nothing more will be put in."""
        with uninterrupted(), self._changed:
            self._ended = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Both sides are to leave, whatever still lies in the queue."""
        with uninterrupted(), self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        while True:
            with uninterrupted(), self._changed:
                if self._stopped:
                    raise _Stopped
                if not (self._items or self._ended):
                    self._changed.wait(POLL_S)
                    continue
                if not self._items:
                    return
                item, size = self._items.popleft()
                self._held_bytes -= size
                self._changed.notify_all()
            yield item
            del item  # while the next one is awaited, the last may be gone

    def _is_full(self, size: int) -> bool:
        full = self._held_bytes + size > self._most_bytes or len(self._items) >= self._most_items
        return bool(self._items) and full


class _Stopped(Exception):
    """The line is being left."""
