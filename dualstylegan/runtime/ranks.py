"""One list of files shared by the processes of `accelerate launch`. Every process works, the first one speaks.

While the files are worked on no process waits for another, so no time-out can strike: the others report to the first
through one file each, a JSON line per event. All end together.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from dualstylegan.errors import DualStyleGANError
from dualstylegan.events import Event

Item = TypeVar("Item")

POLL_S = 0.2
TEMPORARY = ".dsg-tmp-ranks-"  # hidden, and passed over where folders are searched for pictures


class Ranks:
    """This process among those launched: `rank` of `count`. Started by hand it is 0 of 1, and nothing else happens."""

    def __init__(self, *, cpu: bool = False):
        self.rank, self.count = 0, int(os.environ.get("WORLD_SIZE", "1"))
        if self.count > 1:
            from accelerate import PartialState

            state = PartialState(cpu=cpu)
            self.rank, self.count = state.process_index, state.num_processes

    @property
    def speaks(self) -> bool:
        return self.rank == 0

    def agree(self, decide: Callable[[], Item]) -> Item:
        """What the first process decides, on all of them: only it has the input of stdin, say. Before the work only."""
        if self.count == 1:
            return decide()
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([decide() if self.speaks else None])[0]

    def share(self, items: Sequence[Item]) -> list[Item]:
        """This process's part: every `count`-th item, from its own rank on."""
        return list(items[self.rank :: self.count])

    def own(self, path: Path) -> Path:
        """A file that each process writes for itself: `path` on the first, `NAME.rank1.png` on the next."""
        return path if self.rank == 0 else path.with_stem(f"{path.stem}.rank{self.rank}")

    def gather(self, work: Callable[[], Iterator[Event]], folder: Path) -> Iterator[Event]:
        """The events of all processes' work, on the first one as they come; on the others nothing.

        `folder` is one that all processes see; a hidden folder for messages is made in it and removed at the end.
        When the first process fails, the others leave by SystemExit(1); when another fails, the first raises its error.
        """
        if self.count == 1:
            yield from work()
            return
        # a new name, so that no message of an earlier run is read
        self._folder = folder / f"{TEMPORARY}{self.agree(lambda: uuid.uuid4().hex[:12])}"
        self._folder.mkdir(parents=True, exist_ok=True)
        if self.speaks:
            try:
                yield from self._listen(work())
            finally:
                shutil.rmtree(self._folder, ignore_errors=True)
        else:
            self._report(work)

    def _listen(self, own: Iterator[Event]) -> Iterator[Event]:
        others = [_Log(self._log(rank)) for rank in range(1, self.count)]
        for event in own:
            yield event
            for log in others:
                yield from log.news()
        while not all(log.ended for log in others):
            time.sleep(POLL_S)
            for log in others:
                yield from log.news()

    def _report(self, work: Callable[[], Iterator[Event]]) -> None:
        with self._log(self.rank).open("w", encoding="utf-8", buffering=1) as log:  # a line at a time
            error = None
            try:
                for event in work():
                    self._leave_if_over()
                    print(json.dumps(event.as_json()), file=log)
            except DualStyleGANError as failure:
                error = str(failure)
            print(json.dumps({"end": True, "error": error}), file=log)
        while self._folder.exists():  # ending with an error status now would end the others in the middle
            time.sleep(POLL_S)
        if error:
            raise SystemExit(1)

    def _leave_if_over(self) -> None:
        if not self._folder.exists():
            raise SystemExit(1)

    def _log(self, rank: int) -> Path:
        return self._folder / f"{rank}.jsonl"


class _Log:
    """Another process's messages, read as they grow."""

    def __init__(self, path: Path):
        self.path, self.ended = path, False
        self._at = 0

    def news(self) -> Iterator[Event]:
        try:
            with self.path.open("rb") as file:
                file.seek(self._at)
                fresh = file.read()
        except FileNotFoundError:
            return
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.splitlines():
            message = json.loads(line)
            if message.pop("end", False):
                self.ended = True
                if message["error"]:
                    raise DualStyleGANError(message["error"])
            else:
                yield Event(kind=message.pop("event"), **message)
