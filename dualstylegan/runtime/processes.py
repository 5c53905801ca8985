"""The processes that share a job. Accelerate starts them; the rules of how they share, speak and fail are here.

- In a training step gradients are averaged by one collective call. While work is sharded (destylization, refining,
  lists of photos) there is none: processes tell one another through files, as long as it takes.
- One that fails says so in a file, once. The others see the file, end too, and stay silent. One that was killed says
  nothing: the others miss the beat of its heart.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dualstylegan.errors import DualStyleGANError, UsageError
from dualstylegan.events import Event
from dualstylegan.runtime.files import TEMPORARY

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Item = TypeVar("Item")

POLL_S = 0.5
GRACE_S = 10.0  # how long a process stuck in a collective call may take to notice that another has failed
SILENCE_S = 120.0  # without a beat, and a process counts as killed: network file systems may show a file a minute late


def launched() -> tuple[int, int]:
    """(rank, count) where a launcher started this process, else (0, 1): one name of its own in the environment, as
    other programs set them too, makes no rank."""
    try:
        rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        return 0, 1
    with_others = all(os.environ.get(name) for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"))
    return (rank, count) if with_others and 0 <= rank < count else (0, 1)


@dataclass(frozen=True)
class Shard:
    """One part of a list that commands share which know nothing of one another: the tasks of an array job. Part
    `number` of `count`, counted from 1, holds what process `number` - 1 of `count` would take."""

    number: int = 1
    count: int = 1

    @classmethod
    def of(cls, text: str | None) -> Shard:
        """`3/16`; None is the whole list. Raises UsageError, beside a launcher too, which splits the list itself."""
        if text is None:
            return cls()
        found = re.fullmatch(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(f"--shard {text}: wanted K/N, part K of N, from 1/N to N/N, such as 3/16.")
        if launched()[1] > 1:
            raise UsageError(f"--shard {text}: the launcher's processes share the list already. Take one of the two.")
        return cls(int(found[1]), int(found[2]))

    def part(self, items: Iterable[Item]) -> list[Item]:
        return list(items)[self.number - 1 :: self.count]

    def own(self, path: Path) -> Path:
        """A file of which each part writes one: NAME.shard3-of-16.png; `path` itself where there is but one part."""
        return path if self.count == 1 else path.with_stem(f"{path.stem}.shard{self.number}-of-{self.count}")


class Processes:
    """This process among those of a job: `rank` of `count`, computing on `device`, for `verb`. By itself 0 of 1."""

    def __init__(self, rank: int = 0, count: int = 1, *, device: torch.device | str = "cpu", verb: str = "train"):
        self.rank, self.count, self.verb = rank, count, verb
        self._device = device
        self._folder: Path | None = None
        self._lost: str | None = None

    @classmethod
    def launched(cls, *, cpu: bool = False, timeout_s: float | None = None, verb: str = "train") -> Processes:
        """Those that a launcher started, joined in a process group; one alone needs none."""
        if launched()[1] == 1:
            cpu = cpu or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")  # launch --cpu
            return cls(device="cpu" if cpu else "auto", verb=verb)
        from accelerate import PartialState

        state = PartialState(cpu=cpu, **({"timeout": timedelta(seconds=timeout_s)} if timeout_s else {}))
        return cls(state.process_index, state.num_processes, device=state.device, verb=verb)

    @property
    def device(self) -> torch.device:
        from dualstylegan.runtime.devices import pick_device

        return pick_device(self._device)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    # Sharing

    def agree(self, decide: Callable[[], Item]) -> Item:
        """What the first process decides, on all of them: only it has the input of stdin, say. Before the work only.

        Where it raises one of our errors it is the one to say so; the others leave by SystemExit.
        """
        if self.count == 1:
            return decide()
        from accelerate.utils import broadcast_object_list

        error = None
        decided: tuple[Item | None, int] = None, 0
        if self.is_main:
            try:
                decided = decide(), 0
            except DualStyleGANError as failure:
                error, decided = failure, (None, failure.exit_status)
        value, status = broadcast_object_list([decided])[0]
        if status:
            raise error or SystemExit(status)
        return value

    def share(self, items: Iterable[Item]) -> list[Item]:
        """This process's part: every `count`-th item, from its own rank on, however much of the work is done."""
        return list(items)[self.rank :: self.count]

    def own(self, path: Path) -> Path:
        """A file that each process writes for itself: `path` on the first, `NAME.rank1.png` on the next."""
        return path if self.is_main else path.with_stem(f"{path.stem}.rank{self.rank}")

    def gather(self, work: Callable[[], Iterator[Event]], folder: Path) -> Iterator[Event]:
        """The events of all processes' work, on the first one as they come; on the others nothing.

        They work `together`, without waiting for one another.
        """
        if self.count == 1:
            yield from work()
            return
        with self.together(folder):
            if self.is_main:
                yield from self._listen(work())
            else:
                with self._log(self.rank).open("w", encoding="utf-8", buffering=1) as log:  # a line at a time
                    for event in work():
                        self.check()
                        print(json.dumps(event.as_json(), default=str), file=log)
                    print("null", file=log)
            self.wait_for_all("end")  # ending with a status of failure ends the others, where a launcher watches

    def _listen(self, own: Iterator[Event]) -> Iterator[Event]:
        others = [_Log(self._log(rank)) for rank in range(1, self.count)]
        for event in own:
            self.check()
            yield event
            for log in others:
                yield from log.news()
        while not all(log.ended for log in others):
            time.sleep(POLL_S / 2)
            self.check()
            for log in others:
                yield from log.news()

    def wait_for_all(self, what: str) -> None:
        """Return once every process has come here with the same `what`. No collective call, hence no timeout."""
        if self.count == 1:
            return
        (self._room / f"{what}.{self.rank}").touch()
        everyone = [self._room / f"{what}.{rank}" for rank in range(self.count)]
        while not all(file.exists() for file in everyone):
            self.check()
            time.sleep(POLL_S / 10)

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by its mean over the processes. A missing gradient counts as zero."""
        if self.count == 1:
            return
        import torch

        parameters = list(parameters)
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        mean = self.mean(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        for parameter, part in zip(parameters, mean.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes."""
        if self.count == 1:
            return value
        import torch

        total = value.detach().to(self.device, copy=True)  # NCCL knows devices only
        torch.distributed.all_reduce(total)
        return (total / self.count).to(value.device)

    # Failing

    @contextmanager
    def together(self, folder: Path) -> Iterator[None]:
        """Run the body so that all processes end when one does not come to its end, for whatever reason.

        All see `folder`; a hidden folder for messages is made in it, and removed by the last to leave. The failing
        process's error goes on to its caller, who speaks; the others leave by SystemExit(1), silently.
        """
        if self.count == 1:
            yield
            return
        self._folder = folder / f"{TEMPORARY}{self.agree(lambda: uuid.uuid4().hex[:12])}"  # no earlier job's messages
        self._folder.mkdir(parents=True, exist_ok=True)
        self._beat()
        self._meet()  # now each can miss each
        over = threading.Event()
        threading.Thread(target=self._watch, args=(over,), daemon=True).start()
        try:
            yield
        except BaseException as error:  # a signal and a reader that went away, too
            if not self._report(self.rank, str(error) or type(error).__name__):
                raise (DualStyleGANError(self._lost) if self._lost else SystemExit(1)) from None
            if isinstance(error, UsageError) and not self.is_main:
                # All made the same mistake, this one was first; only the main process's usage errors are shown.
                raise DualStyleGANError(str(error)) from error
            raise
        finally:
            over.set()
            self._leave()

    @property
    def messages(self) -> Path | None:
        """The folder of messages, while there is one."""
        return self._folder

    def check(self) -> None:
        """Leave by SystemExit(1) when another process has failed. Cheap: one look at the file system."""
        if self._folder is not None and self._failed_elsewhere():
            raise SystemExit(1)

    def _meet(self) -> None:
        from accelerate import PartialState

        PartialState().wait_for_everyone()

    @property
    def _room(self) -> Path:
        """The folder of messages, while they work together."""
        assert self._folder is not None
        return self._folder

    @property
    def _failure(self) -> Path:
        return self._room / "failure.json"

    def _log(self, rank: int) -> Path:
        return self._room / f"{rank}.jsonl"

    def _alive(self, rank: int) -> Path:
        return self._room / f"{rank}.alive"

    def _report(self, rank: int, message: str) -> bool:
        """Whether this process is the first to tell of a failure, hence the one to speak."""
        try:
            with self._failure.open("x") as file:
                json.dump({"rank": rank, "message": message}, file)
        except FileExistsError:
            return False
        except OSError:
            return True  # the folder is gone: better two messages than none
        return True

    def _failed_elsewhere(self) -> bool:
        try:
            return json.loads(self._failure.read_text())["rank"] != self.rank
        except (OSError, ValueError):  # there is none, or it is being written just now
            return False

    def _beat(self) -> None:
        with suppress(OSError):  # a disk may be full for a while
            self._alive(self.rank).touch()

    def _watch(self, over: threading.Event) -> None:
        """A collective call cannot be interrupted: when another process has failed, end this one from outside."""
        beats: dict[int, tuple[int, float]] = {}  # rank -> its last beat, and when it was new here
        while not over.wait(POLL_S):
            self._beat()
            for rank in self._silent(beats):
                message = f"Process {rank} of {self.count} was killed or lost. Start the same command again."
                if self._report(rank, message):
                    self._lost = message
                    self._alive(rank).unlink(missing_ok=True)
            if self._failed_elsewhere():
                if not over.wait(GRACE_S):
                    self._leave()
                    os._exit(1)
                return

    def _silent(self, beats: dict[int, tuple[int, float]]) -> Iterator[int]:
        """The others that were there and whose heart does not beat."""
        now_s = time.monotonic()
        for rank in range(self.count):
            try:
                beat = self._alive(rank).stat().st_mtime_ns
            except OSError:  # it has left
                continue
            last, since_s = beats.get(rank, (None, now_s))
            if beat != last:
                beats[rank] = beat, now_s
            elif rank != self.rank and now_s - since_s > SILENCE_S:
                yield rank

    def _leave(self) -> None:
        self._alive(self.rank).unlink(missing_ok=True)
        if not any(self._room.glob("*.alive")):
            shutil.rmtree(self._room, ignore_errors=True)


class _Log:
    """Another process's messages, read as they grow: a JSON line an event, then null."""

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
            if message is None:
                self.ended = True
            else:
                yield Event(kind=message.pop("event"), **message)
