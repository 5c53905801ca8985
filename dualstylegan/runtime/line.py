"""The assembly line: generators that run in threads of their own, with bounded queues between them.

    with Line() as line:
        frames = line.ahead(decode(film), "decode", nbytes=...)
        faces = line.ahead(find(frames), "find", nbytes=...)
        for item in faces: ...

When one stage fails all stop, and its error is raised where the line's end is read. Leaving the block, by an error or
Ctrl-C too, stops every stage at its next hand-over and waits for it: no thread outlives its line.

Files that each succeed or fail by themselves are read with `line.each` and written with `line.behind`, in several
threads, while the main thread computes.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import cycle, islice
from typing import Any, Generic, TypeVar

from dualstylegan.runtime.interrupts import POLL_S, uninterrupted, wait_for_any
from dualstylegan.runtime.threads import start_threads

Item = TypeVar("Item")
Result = TypeVar("Result")

BUDGET_BYTES = 256 << 20  # of decoded pixels waiting on either side: 1.7 pictures of 50 megapixels, 85 of one
QUEUE_BYTES = 24 << 20  # waiting between two stages: enough to even out their pace, little beside what they work on
QUEUE_ITEMS = 32


class Line:
    """The threads of one job. `cpu_s` says, once it is left, what CPU time each stage's own thread took."""

    def __init__(self):
        self.cpu_s: dict[str, float] = defaultdict(float)
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

    def channel(
        self, nbytes: Callable[[Any], int], *, most_bytes: int | None = None, most_items: int | None = None
    ) -> Channel:
        """A queue from one thread to another that ends with the line."""
        channel = Channel(nbytes, most_bytes=most_bytes or QUEUE_BYTES, most_items=most_items or QUEUE_ITEMS)
        self._channels.append(channel)
        return channel

    def ahead(
        self, items: Iterable[Item], name: str, *, nbytes: Callable[[Item], int], cores: int = 1
    ) -> Iterator[Item]:
        """The same items, computed in a thread of their own, in which torch uses `cores`."""
        return self.merged([items], name, self.channel(nbytes), cores=cores)

    def merged(
        self, sources: Sequence[Iterable[Item]], name: str, channel: Channel[Item], *, cores: int = 1
    ) -> Iterator[Item]:
        """The items of all sources as they come through `channel`, each source computed in a thread of its own."""
        channel.feeders = len(sources)
        for source in sources:
            self.run(partial(_feed, channel, source), name, cores=cores)
        return self._checked(channel)

    def each(
        self,
        items: Iterable[Item],
        work: Callable[[Item], Result],
        name: str,
        *,
        nbytes: Callable[[Result], int],
        threads: int = 2,
        budget_bytes: int = BUDGET_BYTES,
    ) -> Iterator[tuple[Item, Result | Exception]]:
        """Each item with what `work` made of it, or the exception it raised, in the items' order.

        At most three items a thread are ahead of the consumer, fewer where what was made of them fills `budget_bytes`.
        """

        def outcomes(some: Iterable[Item]) -> Iterator[tuple[Item, Result | Exception]]:
            for item in some:
                yield item, _outcome(partial(work, item))

        def held_bytes(made: tuple[Item, Result | Exception]) -> int:
            return 0 if isinstance(made[1], Exception) else nbytes(made[1])

        items = list(items)
        streams = []
        for number in range(threads):
            channel = self.channel(held_bytes, most_bytes=budget_bytes // threads, most_items=2)
            streams.append(self.merged([outcomes(items[number::threads])], name, channel))
        return (next(stream) for stream in islice(cycle(streams), len(items)))

    def behind(self, name: str, *, threads: int = 2, budget_bytes: int = BUDGET_BYTES) -> Behind:
        """Threads that do what they are given meanwhile."""
        return Behind(self, name, threads, budget_bytes)

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
    """A queue bounded in bytes and in items; one item at least fits always. Iterating takes items out until the end.

    It ends when all of its `feeders` have said so.
    """

    def __init__(self, nbytes: Callable[[Item], int], *, most_bytes: int, most_items: int):
        self._nbytes, self._most_bytes, self._most_items = nbytes, most_bytes, most_items
        self._items: deque[tuple[Item, int]] = deque()
        self._held_bytes = 0
        self._stopped = False
        self._changed = threading.Condition()
        self.feeders = 1

    def __len__(self) -> int:
        return len(self._items)

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
        """This feeder will put nothing more in."""
        with uninterrupted(), self._changed:
            self.feeders -= 1
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
                if not self._items and self.feeders:
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


class Behind(Generic[Item, Result]):
    """Threads of a line that run tasks, in no particular order, and hand out their outcomes as they come.

    `submit` waits while the tasks not yet finished hold more than `budget_bytes`.
    """

    def __init__(self, line: Line, name: str, threads: int, budget_bytes: int):
        self._line, self._budget_bytes = line, budget_bytes
        # As many as they are, they fit: what they hold is counted here, where they are waited for too.
        self._tasks: Channel[tuple[Item, Callable[[], Result], int]] = line.channel(_nothing, most_items=sys.maxsize)
        self._ended: Channel[tuple[Item, Result | Exception, int]] = line.channel(_nothing, most_items=sys.maxsize)
        self._outcomes = line.merged([self._work() for _ in range(threads)], name, self._ended)
        self._finished: list[tuple[Item, Result | Exception]] = []
        self._running = self._held_bytes = 0

    def submit(self, item: Item, task: Callable[[], Result], *, nbytes: int) -> None:
        """Run `task` soon; `nbytes` is what it keeps alive. A task larger than the budget runs alone."""
        while self._running and nbytes + self._held_bytes > self._budget_bytes:
            self._take()
        self._running += 1
        self._held_bytes += nbytes
        self._line.put(self._tasks, (item, task, nbytes))

    def finished(self) -> list[tuple[Item, Result | Exception]]:
        """What has ended since the last call: each item with its task's result or exception."""
        while len(self._ended):
            self._take()
        finished, self._finished = self._finished, []
        return finished

    def drain(self) -> Iterator[tuple[Item, Result | Exception]]:
        """The rest, as it ends."""
        self._tasks.end()
        while self._running or self._finished:
            if not self._finished:
                self._take()
            yield from self.finished()

    def _take(self) -> None:
        """Wait for one to end."""
        item, outcome, nbytes = next(self._outcomes)
        self._running -= 1
        self._held_bytes -= nbytes
        self._finished.append((item, outcome))

    def _work(self) -> Iterator[tuple[Item, Result | Exception, int]]:
        for item, task, nbytes in self._tasks:
            yield item, _outcome(task), nbytes
            del item, task  # while the next one is awaited, what they keep alive may be gone


class _Stopped(Exception):
    """The line is being left."""


def _feed(channel: Channel[Item], source: Iterable[Item]) -> None:
    try:
        for item in source:
            channel.put(item)
            del item  # while the next one is computed, this one may be gone
        channel.end()
    finally:
        if hasattr(source, "close"):
            source.close()


def _outcome(task: Callable[[], Result]) -> Result | Exception:
    try:
        return task()
    except Exception as error:
        return error


def _nothing(item: object) -> int:
    """Items that hold no bytes worth counting."""
    return 0
