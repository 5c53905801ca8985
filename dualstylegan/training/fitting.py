"""Many portraits, each fitted by latent optimisation: how many at once, what is stored when, what is done again.

Three hundred steps of Adam magnify the last bit of a float to a visible difference, and a processor adds up a batch of
three in another order than a batch of one. So on a CPU a portrait is always computed by itself and by one thread;
several portraits run side by side in threads, which is also faster than several threads on one small map. Devices get
real batches.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from dualstylegan.errors import DualStyleGANError, TrainingError
from dualstylegan.events import Event
from dualstylegan.runtime.compiling import as_written
from dualstylegan.runtime.devices import is_out_of_memory
from dualstylegan.runtime.files import is_about_room
from dualstylegan.runtime.line import Line
from dualstylegan.runtime.processes import Processes
from dualstylegan.training.results import PortraitResults

MOST_ROWS = 16  # on a device; more hardly go faster, and a kill costs more
REPORT_EVERY = 10  # steps
TOO_LITTLE_MEMORY = "There is too little memory for even one portrait; free some, or use another device."


class Report(NamedTuple):
    """A portrait that is through, or None in between, with figures; and why it is left out, where it is."""

    name: str | None
    figures: dict[str, float]
    problem: str | None = None


class Fit(Protocol):
    """Latent optimisation of one batch of B portraits."""

    def losses(self) -> dict[str, Tensor]:
        """The weighted terms now, each (B,)."""

    def steps(self) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        """All steps: (number, terms)."""

    def outcome(self) -> dict[str, Tensor]:
        """What to store, each (B, ...); values (B,) are figures to report too."""


def fit_portraits(
    results: PortraitResults,
    paths: Mapping[str, Path],
    marks: Mapping[str, str],
    make_fit: Callable[[Sequence[str]], Fit],
    *,
    stage: str,
    processes: Processes,
    batch: int = 0,
) -> Iterator[Event]:
    """Fit every portrait of `marks` (name -> fingerprint) that has no valid result, and store each as it ends.

    One whose result cannot be written is left out; a full disk ends the run.

    `batch` 0 is what memory allows, at most one per thread on a CPU and MOST_ROWS on a device. Before every batch
    it looks whether another process has failed.
    """
    verb, device = processes.verb, processes.device
    todo = results.missing(marks)
    done = len(marks) - len(todo)
    yield Event("plan", verb, stage=stage, current=done, total=len(marks))
    if not todo:
        return

    def work(part: Sequence[str]) -> Iterator[Report]:
        processes.check()
        try:
            yield from fit_and_store(part)
        except TrainingError as error:
            kept = f"What is in {results.folder} is kept; try smaller learning rates."
            raise TrainingError(f"{stage}, {', '.join(part)}: {error} {kept}") from error

    def fit_and_store(part: Sequence[str]) -> Iterator[Report]:
        fit = make_fit(part)
        for step, terms in fit.steps():
            # reading a number makes a device wait; passing by here lets an interrupted run end at any step
            figures = {} if step % REPORT_EVERY else {"step": step} | {k: float(v.mean()) for k, v in terms.items()}
            yield Report(None, figures)
        outcome = fit.outcome()
        for row, name in enumerate(part):
            figures = {key: float(value[row]) for key, value in outcome.items() if value.ndim == 1}
            yield Report(name, figures, store(name, {key: value[row] for key, value in outcome.items()}))

    def store(name: str, tensors: Mapping[str, Tensor]) -> str | None:
        """Why the portrait is left out, or None. Raises DualStyleGANError where no other would fare better."""
        try:
            results.write(name, tensors, marks[name])
        except DualStyleGANError as error:
            if is_about_room(error):
                kept = "Portraits already stored are untouched: make room and run the same command again."
                raise DualStyleGANError(f"{error} {kept}") from error
            results.leave_out(name, str(error))
            return str(error)
        return None

    most = torch.get_num_threads() if device.type == "cpu" else MOST_ROWS
    if not batch:
        with as_written():  # what is compiled keeps no more, and would be compiled for the threads of here
            batch = rows_that_fit(lambda: make_fit(todo[:1]).losses(), device, most=most)
    runner = one_per_thread if device.type == "cpu" else in_batches
    for name, figures, problem in runner(todo, batch, work):
        about: dict[str, Any] = {"stage": stage, "total": len(marks), "data": figures}
        if name is None and figures:
            yield Event("progress", verb, current=done, **about)
        elif name is not None and problem is None:
            done += 1
            yield Event("done", verb, source=str(paths[name]), output=str(results.path(name)), current=done, **about)
        elif name is not None:
            yield Event("skipped", verb, source=str(paths[name]), message=problem, stage=stage, total=len(marks))


def say_left_out(results: PortraitResults, names: Sequence[str], stage: str, processes: Processes) -> Iterator[Event]:
    """Once all processes are through, the first one names the portraits that others have left out."""
    if processes.is_main:
        mine = set(processes.share(sorted(names)))
        for name, reason in results.left_out(sorted(names)).items():
            if name not in mine:
                yield Event("skipped", processes.verb, source=name, message=reason, stage=stage)


def rows_that_fit(forward: Callable[[], object], device: torch.device, *, most: int) -> int:
    """How many rows a batch may have, between 1 and `most`, when `forward()` runs one row with gradients.

    One row costs what autograd keeps of it, counted while it runs; half of the free memory is for batches, the other
    half for the backward pass, workspaces and whoever else is on the machine.
    """
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if device.type == "cpu" else 1
    budget = free_bytes(device) / 2 / sharing
    return max(1, min(most, int(budget // max(1, bytes_kept_for_backward(forward)))))


def bytes_kept_for_backward(forward: Callable[[], object]) -> int:
    """Bytes of the distinct storages autograd saves while `forward()` runs."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = forward()  # held until the count is done, so that no address is used twice
    total = sum(kept.values())
    del result
    return total


def free_bytes(device: torch.device) -> int:
    """Memory this process may still take on `device`; where nothing tells, 4 GiB."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as lines:
            kib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
        return kib * 1024
    except (OSError, StopIteration):
        return 4 * 1024**3


def in_batches(rows: Sequence[str], batch: int, work: Callable[[Sequence[str]], Iterator[Report]]) -> Iterator[Report]:
    """Run `work` on `rows`, `batch` at a time, passing on its reports; running out of memory halves the batch."""
    start = 0
    while start < len(rows):
        part, fits = rows[start : start + batch], True
        try:
            yield from work(part)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            fits = False
        if fits:
            start += len(part)
            continue
        # Only here, behind the handler, are the failed attempt's frames and the tensors they held gone.
        if len(part) == 1:
            raise TrainingError(TOO_LITTLE_MEMORY)
        batch = len(part) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def one_per_thread(
    rows: Sequence[str], threads: int, work: Callable[[Sequence[str]], Iterator[Report]]
) -> Iterator[Report]:
    """Run `work` on one row after another in each of `threads` threads, passing on their reports as they come.

    The first error ends the others at their next report and is raised here. So does closing this generator. A thread
    that runs out of memory ends, and what is left then goes to half as many.
    """
    waiting, again = deque(rows), []
    threads = min(threads, len(rows))

    def fits() -> Iterator[Report]:
        while waiting:
            try:
                row = waiting.popleft()
            except IndexError:
                return  # another thread was quicker
            try:
                yield from work([row])
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                again.append(row)
                return

    with Line() as line:
        yield from line.merged([fits() for _ in range(threads)], "fit", line.channel(lambda report: 0))

    left = again + list(waiting)
    if left and threads == 1:
        raise TrainingError(TOO_LITTLE_MEMORY)
    if left:
        yield from one_per_thread(left, threads // 2, work)
