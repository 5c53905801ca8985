"""The one training loop. A stage is a list of phases; the loop keeps their order, the log and the checkpoints."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from dualstylegan.errors import TrainingError
from dualstylegan.events import Event
from dualstylegan.runtime.devices import pick_precision
from dualstylegan.runtime.processes import Processes
from dualstylegan.training.run import RandomState, RunFolder

Batch = dict[str, Any]  # tensors, or lists of tensors, whose first axis counts samples; or values that samples share


class Phase(NamedTuple):
    """One optimiser step of a training step.

    Every `every`-th training step, `draw(step)` gives this process's samples and `loss(samples)` the weighted terms,
    each a mean over the samples it gets; their sum is differentiated. In mixed precision only where `mixed`:
    regularisers that differentiate twice run in float32.
    """

    name: str
    every: int
    optimizer: torch.optim.Optimizer
    draw: Callable[[int], Batch]
    loss: Callable[[Batch], dict[str, Tensor]]
    mixed: bool = True


class Stage(Protocol):
    """What the loop asks of a stage."""

    name: str
    steps: int
    batch: int  # effective: samples of one step, over all processes
    accumulation: int

    @property
    def phases(self) -> Sequence[Phase]: ...

    def after(self, step: int) -> dict[str, float]:
        """Once all phases of a step are done: average weights, adapt p. Returns figures for the log."""

    def state(self) -> dict[str, Any]:
        """Everything that goes on after a resume, the data position included; the same in every process."""

    def load_state(self, state: Mapping[str, Any]) -> None: ...

    def snapshot(self) -> dict[str, Any]:
        """The averaged weights, to be kept for every snapshot step."""

    def grid(self) -> np.ndarray:
        """A picture of what the stage makes now, uint8 (H, W, 3). Draws no random number."""


@dataclass(frozen=True)
class Pace:
    """How often the loop reports, draws and saves, in steps, and in which precision it computes."""

    seed: int
    log_every: int
    grid_every: int
    checkpoint_every: int
    snapshot_every: int
    precision: str = "auto"


def train_stage(stage: Stage, run: RunFolder, processes: Processes, pace: Pace) -> Iterator[Event]:
    """Train `stage` to its last step, from its last checkpoint where there is one. Events come from the main process.

    Raises TrainingError when a loss is not finite or a checkpoint cannot be written.
    """
    autocast = mixed_precision(pace.precision, processes.device)
    scaler = torch.amp.GradScaler(processes.device.type, enabled=autocast_dtype(autocast) == torch.float16)
    sums = _Means()
    start, seconds_before = _resume(stage, run, processes, pace, scaler, sums)
    if processes.is_main:
        run.rewind_log(stage.name, start)
        yield Event("plan", processes.verb, stage=stage.name, current=start, total=stage.steps)
    began = time.monotonic()

    for step in range(start, stage.steps):
        for phase in stage.phases:
            if step % phase.every == 0:
                sums.add(_optimize(phase, step, stage, run, processes, autocast, scaler))
        sums.add(stage.after(step))

        done = step + 1
        last = done == stage.steps
        seconds = seconds_before + time.monotonic() - began
        if last or done % pace.log_every == 0:
            figures = sums.take()
            if processes.is_main:
                speed = {"images": done * stage.batch, "seconds": round(seconds, 1)}
                run.log(stage.name, done, speed | figures)
                yield Event(
                    "progress", processes.verb, stage=stage.name, current=done, total=stage.steps, data=speed | figures
                )
        if processes.is_main and (last or done % pace.grid_every == 0):
            yield _draw_grid(stage, run, done, processes.verb)
        if processes.is_main and (last or done % pace.snapshot_every == 0):
            run.save_snapshot(stage.name, done, stage.snapshot())
        if last or done % pace.checkpoint_every == 0:
            _save(stage, run, processes, done, seconds, scaler, sums)


def _optimize(
    phase: Phase,
    step: int,
    stage: Stage,
    run: RunFolder,
    processes: Processes,
    autocast: torch.autocast,
    scaler: torch.amp.GradScaler,
) -> dict[str, float]:
    """One optimiser step: accumulate the gradient over micro-batches, share it, apply it. Returns the terms."""
    parameters = [p for group in phase.optimizer.param_groups for p in group["params"]]
    with only_training(parameters):
        phase.optimizer.zero_grad(set_to_none=True)
        figures: dict[str, Tensor] = {}
        for part, share in split(phase.draw(step), stage.accumulation):
            with autocast if phase.mixed else mixed_precision("float32", processes.device):
                terms = phase.loss(part)
            loss: Tensor = sum(terms.values()) * share  # type: ignore[assignment]
            scaler.scale(loss).backward()
            for name, term in terms.items():
                figures[name] = figures.get(name, 0.0) + term.detach().float() * share
        read = dict(zip(figures, torch.stack(list(figures.values())).tolist(), strict=True))  # a device waits once
        _demand_finite(read, stage, step, run)

        processes.average_gradients(parameters)
        scaler.step(phase.optimizer)
        scaler.update()
    return read


def _demand_finite(terms: Mapping[str, float], stage: Stage, step: int, run: RunFolder) -> None:
    for name, value in terms.items():
        if not np.isfinite(value):
            raise TrainingError(
                f"{stage.name}: the term '{name}' is not finite at step {step + 1}. {_last_good(stage, run)} "
                f'Try a smaller {stage.name}.lr or precision = "float32".'
            )


def _last_good(stage: Stage, run: RunFolder) -> str:
    checkpoint = run.last_checkpoint(stage.name)
    if checkpoint is None:
        return "There is no checkpoint of this stage yet."
    return f"The last good checkpoint is {checkpoint.path} (step {checkpoint.step})."


def _draw_grid(stage: Stage, run: RunFolder, done: int, verb: str) -> Event:
    from dualstylegan.media.images import write_picture
    from dualstylegan.media.plots import line_plots

    with torch.no_grad():
        picture = stage.grid()
    write_picture(run.figures_file, line_plots(run.figures(stage.name), title=f"{stage.name}, {done} steps"))
    write_picture(run.grid(stage.name, done), picture)
    return Event("note", verb, stage=stage.name, output=str(run.grid(stage.name, done)), current=done)


# Checkpoints


def _save(
    stage: Stage,
    run: RunFolder,
    processes: Processes,
    done: int,
    seconds: float,
    scaler: torch.amp.GradScaler,
    sums: _Means,
) -> None:
    """Each process keeps its random states; the main one, last of all, what they share."""
    for phase in stage.phases:
        for group in phase.optimizer.param_groups:
            if not all(torch.isfinite(p).all() for p in group["params"]):
                raise TrainingError(
                    f"{stage.name}: weights of '{phase.name}' are not finite at step {done}. {_last_good(stage, run)}"
                )
    local = {"random": RandomState.capture(), "figures": sums.state()}
    run.save_checkpoint(stage.name, done, local, rank=processes.rank)
    processes.wait_for_all(f"{stage.name}-{done}-local")
    if processes.is_main:
        optimizers = {phase.name: phase.optimizer.state_dict() for phase in _distinct(stage.phases)}
        shared = {
            "stage": stage.state(),
            "optimizers": optimizers,
            "scaler": scaler.state_dict(),
            "seconds": seconds,
            "processes": processes.count,
        }
        run.save_checkpoint(stage.name, done, shared)
    processes.wait_for_all(f"{stage.name}-{done}-shared")


def _resume(
    stage: Stage, run: RunFolder, processes: Processes, pace: Pace, scaler: torch.amp.GradScaler, sums: _Means
) -> tuple[int, float]:
    """The step to go on from and the seconds spent so far; the stage and every random state as they were then."""
    checkpoint = run.last_checkpoint(stage.name)
    if checkpoint is None:
        RandomState.seed(seed_for(pace.seed, stage.name, 0, processes.rank))
        return 0, 0.0
    shared = checkpoint.state
    own = run.checkpoint_at(stage.name, checkpoint.step, rank=processes.rank)
    stage.load_state(shared["stage"])
    for phase in _distinct(stage.phases):
        phase.optimizer.load_state_dict(shared["optimizers"][phase.name])
    scaler.load_state_dict(shared["scaler"])
    if own is not None and shared["processes"] == processes.count:
        RandomState.restore(own.state["random"])
        sums.load_state(own.state["figures"])
    else:  # other processes than before: nothing to go on from exactly, so chance starts afresh from here
        RandomState.seed(seed_for(pace.seed, stage.name, checkpoint.step, processes.rank))
    return checkpoint.step, shared["seconds"]


def _distinct(phases: Sequence[Phase]) -> list[Phase]:
    """The first phase of each optimiser: a regulariser shares its network's."""
    seen: dict[int, Phase] = {}
    for phase in phases:
        seen.setdefault(id(phase.optimizer), phase)
    return list(seen.values())


# Small parts


def seed_for(seed: int, *names: object) -> int:
    """A seed of its own for each purpose, the same on every machine."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def split(batch: Batch, parts: int) -> list[tuple[Batch, float]]:
    """A batch cut into `parts` along its samples, each with its share of them; what samples share goes to every part.

    Fewer samples than parts (a halved batch) give as many parts as there are samples.
    """
    samples = next(len(value) for value in batch.values() if isinstance(value, Tensor))
    edges = [round(samples * i / min(parts, samples)) for i in range(min(parts, samples) + 1)]
    return [(cut(batch, slice(a, b)), (b - a) / samples) for a, b in itertools.pairwise(edges)]


def cut(batch: Batch, which: slice) -> Batch:
    """Some samples of a batch."""

    def part(value: Any) -> Any:
        if isinstance(value, list):
            return [item[which] for item in value]
        return value[which] if isinstance(value, Tensor) else value

    return {name: part(value) for name, value in batch.items()}


@contextmanager
def only_training(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Gradients are kept for these parameters inside the body, for none of them outside."""
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)


def adam(parameters: Sequence[nn.Parameter], lr: float, regularized_every: int | None = None) -> torch.optim.Adam:
    """Adam (0, 0.99), corrected for a regulariser that takes a step of its own every so many steps.

    Karras et al. 2020, appendix B: with c = every / (every + 1), lr and betas become lr · c and beta^c.
    """
    c = 1.0 if regularized_every is None else regularized_every / (regularized_every + 1)
    return torch.optim.Adam(parameters, lr=lr * c, betas=(0.0, 0.99**c), fused=True)


def mixed_precision(precision: str, device: torch.device) -> torch.autocast:
    """An autocast for `device`; auto = what was launched, else bfloat16 where the device is fast at it."""
    dtype = pick_precision(launched_precision() if precision == "auto" else precision, device)
    half = dtype != torch.float32
    return torch.autocast(device.type, dtype=dtype if half else torch.bfloat16, enabled=half)


def autocast_dtype(autocast: torch.autocast) -> torch.dtype:
    return autocast.fast_dtype if autocast._enabled else torch.float32


def launched_precision() -> str:
    """What `accelerate launch --mixed_precision` asked for, if it did, else auto."""
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    return launched if launched in ("bf16", "fp16") else "auto"


class _Means:
    """Running means of named figures, emptied when taken."""

    def __init__(self):
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + value, count + 1

    def state(self) -> dict[str, tuple[float, int]]:
        return dict(self._sums)

    def load_state(self, state: Mapping[str, tuple[float, int]]) -> None:
        self._sums = dict(state)

    def take(self) -> dict[str, float]:
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums.clear()
        return means


class Cooldown:
    """Learning rates that fall to 0, in a line, over the last part of a training.

    A constant rate leaves weights swinging about the best ones; at small batches even their average suffers from it.
    """

    def __init__(self, optimizers: Iterable[torch.optim.Optimizer], part: float, *, steps: int):
        """`part` of the `steps`, in [0, 1]; 0 leaves the rates alone."""
        self.optimizers, self.part, self.steps = tuple(optimizers), part, steps
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]

    def after(self, step: int) -> None:
        """Set the rates of the step that follows `step`."""
        if not self.part:
            return
        left = (1 - (step + 1) / self.steps) / self.part
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * min(1.0, max(0.0, left))
