"""The processes that share a run. Accelerate finds them; the rules of how they speak and fail are here.

- In a training step gradients are averaged by one collective call. While work is sharded (destylization, refining)
  there is none: processes wait for one another through files in the run folder, as long as it takes.
- A process that fails says so in a file, once. The others see the file, end too, and stay silent.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from dualstylegan.errors import TrainingError, UsageError

Item = TypeVar("Item")

POLL_S = 0.5
GRACE_S = 10.0  # how long a process stuck in a collective call may take to notice that another has failed


class Processes:
    """This process among those of the run: `rank` of `count`, computing on `device`."""

    def __init__(self, *, timeout_s: float = 1800.0, cpu: bool = False):
        from accelerate import PartialState

        # A single process needs no process group, hence no timeout either.
        group = {"timeout": timedelta(seconds=timeout_s)} if int(os.environ.get("WORLD_SIZE", "1")) > 1 else {}
        self._state = PartialState(cpu=cpu, **group)
        self.rank: int = self._state.process_index
        self.count: int = self._state.num_processes
        self.device: torch.device = self._state.device
        self._folder: Path | None = None
        self._attempt = ""

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @contextmanager
    def together(self, folder: Path) -> Iterator[None]:
        """Run the body so that all processes end when one fails. `folder` is shared; its files are the messages.

        The failing process's error goes on to its caller, who speaks; the others leave by SystemExit(1), silently.
        """
        self._folder = folder
        self._attempt = self._agree_on_a_name()
        self._failure.parent.mkdir(parents=True, exist_ok=True)
        over = threading.Event()
        if self.count > 1:
            threading.Thread(target=self._watch, args=(over,), daemon=True).start()
        try:
            yield
        except GeneratorExit:
            raise
        except BaseException as error:
            if not self._report(error):
                raise SystemExit(1) from None
            if isinstance(error, UsageError) and not self.is_main:
                # All made the same mistake, this one was first; only the main process's usage errors are shown.
                raise TrainingError(str(error)) from error
            raise
        finally:
            over.set()
            if self.is_main:
                self._clean()

    def share(self, items: Sequence[Item]) -> list[Item]:
        """This process's part of the work: every `count`-th item, from its own rank on. Shares may be uneven."""
        return list(items[self.rank :: self.count])

    def check(self) -> None:
        """Leave by SystemExit(1) when another process has failed. Cheap: one look at the file system."""
        if self.count > 1 and self._failed_elsewhere():
            raise SystemExit(1)

    def wait_for_all(self, what: str) -> None:
        """Return once every process has come here with the same `what`. No collective call, hence no timeout."""
        if self.count == 1:
            return
        (self._signals / f"{what}.{self.rank}").touch()
        everyone = [self._signals / f"{what}.{rank}" for rank in range(self.count)]
        while not all(file.exists() for file in everyone):
            self.check()
            time.sleep(POLL_S / 10)

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by its mean over the processes. A missing gradient counts as zero."""
        if self.count == 1:
            return
        parameters = list(parameters)
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.count
        for parameter, mean in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = mean.view_as(parameter)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes."""
        if self.count == 1:
            return value
        value = value.detach().clone()
        torch.distributed.all_reduce(value)
        return value / self.count

    # Failure

    @property
    def _signals(self) -> Path:
        return self._folder / ".signals" / self._attempt

    @property
    def _failure(self) -> Path:
        return self._signals / "failure.json"

    def _agree_on_a_name(self) -> str:
        """A name for this attempt, so that no message of an earlier one is read."""
        name = uuid.uuid4().hex[:12]
        if self.count == 1:
            return name
        data = torch.tensor(list(name.encode()), dtype=torch.uint8, device=self.device)
        torch.distributed.broadcast(data, src=0)
        return bytes(data.tolist()).decode()

    def _report(self, error: BaseException) -> bool:
        """Whether this process is the first to fail, hence the one to speak."""
        try:
            with self._failure.open("x") as file:
                json.dump({"rank": self.rank, "message": str(error) or type(error).__name__}, file)
        except FileExistsError:
            return False
        except OSError:
            return True  # the folder is gone: better two messages than none
        return True

    def _failed_elsewhere(self) -> bool:
        try:
            return self._failure.exists() and json.loads(self._failure.read_text())["rank"] != self.rank
        except (OSError, ValueError):  # being written just now
            return False

    def _watch(self, over: threading.Event) -> None:
        """A collective call cannot be interrupted: when another process has failed, end this one from outside."""
        while not over.wait(POLL_S):
            if self._failed_elsewhere():
                if not over.wait(GRACE_S):
                    os._exit(1)
                return

    def _clean(self) -> None:
        """Forget the messages of earlier attempts; this one's failure is kept for the others to read."""
        root = self._folder / ".signals"
        for folder in root.glob("*") if root.is_dir() else ():
            if folder.name != self._attempt:
                for file in folder.glob("*"):
                    file.unlink(missing_ok=True)
                folder.rmdir()
