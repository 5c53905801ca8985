"""A training run on disk: the resolved recipe, a log, grids, checkpoints, snapshots and what is done.

Everything is written under a temporary name and renamed, so a run that was killed at any moment holds only whole
files; the same command then goes on from the last checkpoint. No pickle is ever read: checkpoints hold tensors,
numbers, strings and containers, and are loaded as such.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import random
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from dualstylegan.errors import DualStyleGANError, TrainingError
from dualstylegan.runtime.files import whole_file

CHECKPOINTS_KEPT = 2  # the newest, and one to fall back on should the newest be damaged


@dataclass(frozen=True)
class Checkpoint:
    """A stage's whole state after `step` steps, as read from `path`."""

    stage: str
    step: int
    path: Path
    state: dict[str, Any]


class RunFolder:
    """The folder of one run.

    recipe.toml      the resolved recipe
    log.csv          a row per report: stage, step, images, seconds, and a column per term
    figures.png      the log's curves of the stage at work, redrawn with every grid
    grids/           STAGE-STEP.png, what the stage makes at that step
    checkpoints/     STAGE-STEP.pt, everything needed to go on; the last two of each stage, per process where it must
    snapshots/       STAGE-STEP.pt, the averaged weights alone; all are kept, users pick the step by eye
    stages/NAME/     a stage's own files (codes, crops), and done.json once it has ended
    base/ or style/  the model that came out
    comparison.csv   what came out of an experiment
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.recipe_file = self.path / "recipe.toml"
        self.log_file = self.path / "log.csv"
        self.figures_file = self.path / "figures.png"
        self.grids = self.path / "grids"
        self.checkpoints = self.path / "checkpoints"
        self.snapshots = self.path / "snapshots"
        self.base = self.path / "base"
        self.style = self.path / "style"
        self.comparison = self.path / "comparison.csv"

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    def create(self, recipe_text: str | None = None) -> RunFolder:
        """Make the folders, and store the resolved recipe. Raises TrainingError where that cannot be."""
        with self._writing("the run folder", anew=True):
            for folder in (self.path, self.grids, self.checkpoints, self.snapshots):
                folder.mkdir(parents=True, exist_ok=True)
            if recipe_text is not None:
                _write_text(self.recipe_file, recipe_text)
        return self

    def stage(self, name: str) -> Path:
        """The folder of a stage's own files, made when it is not there."""
        folder = self.path / "stages" / name
        with self._writing(f"stage '{name}'"):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other runs out of this folder inside the body. Raises TrainingError when one is at work already."""
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise TrainingError(f"{self.path}: another process is training here. Wait for it, or stop it.") from None
        try:
            yield
        finally:
            lock.release()

    # What is done

    def is_done(self, stage: str) -> bool:
        return (self.path / "stages" / stage / "done.json").is_file()

    def finish(self, stage: str) -> None:
        """Mark a stage as done."""
        with self._writing(f"stage '{stage}'"):
            _write_text(self.stage(stage) / "done.json", "{}")

    def begin(self, stage: str, settings: Mapping[str, Any]) -> None:
        """Note with which settings a stage is made."""
        with self._writing(f"stage '{stage}'"):
            _write_text(self.stage(stage) / "settings.json", json.dumps(settings, indent=1))

    def begun_with(self, stage: str) -> dict[str, Any] | None:
        """The settings a stage was begun with, or None."""
        file = self.path / "stages" / stage / "settings.json"
        return json.loads(file.read_text()) if file.is_file() else None

    def forget(self, stage: str) -> None:
        """Remove all that a stage has left: its files, checkpoints, snapshots and rows in the log."""
        shutil.rmtree(self.path / "stages" / stage, ignore_errors=True)
        for folder in (self.checkpoints, self.snapshots):
            for path in folder.glob("*.pt"):
                if re.fullmatch(rf"{re.escape(stage)}-\d+(\.rank\d+)?\.pt", path.name):
                    path.unlink(missing_ok=True)
        self.rewind_log(stage, -1)

    def reopen(self, stage: str) -> None:
        """Forget that a stage is done; its files and checkpoints stay."""
        (self.path / "stages" / stage / "done.json").unlink(missing_ok=True)

    # The log and the grids

    def log(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        """Append one row to log.csv. A term that was never logged before becomes a new last column."""
        with self._writing("log.csv"):
            columns = self._log_columns()
            fresh = [name for name in ("stage", "step", *figures) if name not in columns]
            if fresh:
                self._rewrite_log(columns + fresh, self.read_log())
                columns += fresh
            row = {"stage": stage, "step": step} | {name: f"{value:.6g}" for name, value in figures.items()}
            line = io.StringIO()
            csv.DictWriter(line, columns, restval="").writerow(row)
            with self.log_file.open("a", newline="") as file:
                file.write(line.getvalue())

    def read_log(self) -> list[dict[str, str]]:
        """The whole rows of log.csv; a last line that a kill cut short is left out."""
        if not self.log_file.is_file():
            return []
        text = self.log_file.read_text()
        whole = text[: text.rfind("\n") + 1]
        return [row for row in csv.DictReader(io.StringIO(whole)) if row["stage"]]

    def rewind_log(self, stage: str, step: int) -> None:
        """Drop a stage's rows after `step`: they belong to a future that the resumed run will live again."""
        rows = self.read_log()
        kept = [row for row in rows if row["stage"] != stage or int(row["step"]) <= step]
        if self.log_file.is_file():
            with self._writing("log.csv"):
                self._rewrite_log(self._log_columns(), kept)

    def figures(self, stage: str) -> dict[str, tuple[list[float], list[float]]]:
        """What was logged of a stage: (steps, values) by name."""
        series: dict[str, tuple[list[float], list[float]]] = {}
        for row in self.read_log():
            for name, value in row.items():
                if row["stage"] == stage and name not in ("stage", "step") and value:
                    steps, values = series.setdefault(name, ([], []))
                    steps.append(int(row["step"]))
                    values.append(float(value))
        return series

    def grid(self, stage: str, step: int) -> Path:
        """Where the stage's picture of this step goes."""
        return self.grids / f"{stage}-{step:06d}.png"

    def _log_columns(self) -> list[str]:
        if not self.log_file.is_file():
            return []
        with self.log_file.open(newline="") as file:
            return next(csv.reader(file), [])

    def _rewrite_log(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
        _write_text(self.log_file, text.getvalue())

    # Checkpoints and snapshots

    def save_checkpoint(self, stage: str, step: int, state: Mapping[str, Any], *, rank: int | None = None) -> Path:
        """Write everything a stage needs to go on after `step`, then let go of all but the newest two.

        `state` is nested containers of tensors, numbers and strings. `rank` names what belongs to one process
        alone (its random states). Older checkpoints are removed only once the new one is on the disk, so a full
        disk or a vanished folder costs none that was already written.
        """
        path = self.checkpoints / f"{stage}-{step:06d}{_suffix(rank)}.pt"
        with self._writing(f"the checkpoint of {stage} at step {step}"):
            _save(dict(state), path)
            for _, old in self._files(self.checkpoints, stage, rank)[:-CHECKPOINTS_KEPT]:
                old.unlink(missing_ok=True)
        return path

    def last_checkpoint(self, stage: str, *, rank: int | None = None) -> Checkpoint | None:
        """The newest checkpoint that reads whole, or None. Tensors come on the CPU."""
        for step, path in reversed(self._files(self.checkpoints, stage, rank)):
            state = _load(path)
            if state is not None:
                return Checkpoint(stage, step, path, state)
        return None

    def checkpoint_at(self, stage: str, step: int, *, rank: int | None = None) -> Checkpoint | None:
        """The checkpoint of one step, or None where it is not there or not whole."""
        path = self.checkpoints / f"{stage}-{step:06d}{_suffix(rank)}.pt"
        state = _load(path) if path.is_file() else None
        return None if state is None else Checkpoint(stage, step, path, state)

    def save_snapshot(self, stage: str, step: int, state: Mapping[str, Any]) -> Path:
        """Keep the averaged weights of this step for good."""
        path = self.snapshots / f"{stage}-{step:06d}.pt"
        with self._writing(f"the snapshot of {stage} at step {step}"):
            _save(dict(state), path)
        return path

    def snapshot_steps(self, stage: str) -> list[int]:
        return [step for step, _ in self._files(self.snapshots, stage, None)]

    def snapshot(self, stage: str, step: int | None = None) -> dict[str, Any]:
        """The averaged weights of `step`, or the newest. Raises TrainingError naming the steps there are."""
        files = dict(self._files(self.snapshots, stage, None))
        if not files:
            raise TrainingError(f"{self.path} has no snapshot of stage '{stage}': train that stage first.")
        if step is None:
            step = max(files)
        if step not in files:
            known = ", ".join(map(str, files))
            raise TrainingError(f"{self.path} has no snapshot of '{stage}' at step {step}; there are {known}.")
        state = _load(files[step])
        if state is None:
            raise TrainingError(f"{files[step]} is damaged; take another snapshot ({', '.join(map(str, files))}).")
        return state

    def _files(self, folder: Path, stage: str, rank: int | None) -> list[tuple[int, Path]]:
        name = re.compile(rf"{re.escape(stage)}-(\d+){re.escape(_suffix(rank))}\.pt")
        found = [(int(match[1]), path) for path in folder.glob("*.pt") if (match := name.fullmatch(path.name))]
        return sorted(found)

    @contextmanager
    def _writing(self, what: str, *, anew: bool = False) -> Iterator[None]:
        try:
            if not anew and not self.path.is_dir():  # moved or removed meanwhile: not to be begun a second time
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            yield
        except (OSError, RuntimeError, DualStyleGANError) as error:  # torch reports a full disk as RuntimeError
            raise TrainingError(
                f"Could not write {what} in {self.path} ({_reason(error.__cause__ or error)}). "
                "Checkpoints already written are untouched: make room and run the same command again."
            ) from error


class RandomState:
    """Every source of chance of this process: Python's, NumPy's and torch's, each device's included."""

    @staticmethod
    def capture() -> dict[str, Any]:
        state_of_numpy: Any = np.random.get_state()
        name, keys, position, has_gauss, gauss = state_of_numpy
        state: dict[str, Any] = {
            "python": random.getstate(),
            "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
            "torch": torch.get_rng_state(),
        }
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state_all()
        if torch.backends.mps.is_available():
            state["mps"] = torch.mps.get_rng_state()
        return state

    @staticmethod
    def restore(state: Mapping[str, Any]) -> None:
        version, keys, gauss = state["python"]
        random.setstate((version, tuple(keys), gauss))
        name, keys, position, has_gauss, gauss = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
        torch.set_rng_state(state["torch"])
        if "cuda" in state and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])
        if "mps" in state and torch.backends.mps.is_available():
            torch.mps.set_rng_state(state["mps"])

    @staticmethod
    def seed(seed: int) -> None:
        """Seed them all; `seed` is any non-negative integer."""
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed % 2**63)


def _suffix(rank: int | None) -> str:
    return "" if rank is None else f".rank{rank}"


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _save(state: dict[str, Any], path: Path) -> None:
    with whole_file(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)


def _load(path: Path) -> dict[str, Any] | None:
    """What `_save` wrote; None when the file is damaged. Nothing in it can run: only plain data is read."""
    if not zipfile.is_zipfile(path):
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch, zipfile and pickle each have several names for a damaged file
        return None


def _write_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
