"""Killed at any moment, the same command goes on and ends, bit for bit, where an unbroken run ends."""

from __future__ import annotations

import hashlib
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import draw_portraits, launch, write_base_recipe, write_style_recipe

from dualstylegan.errors import TrainingError, UsageError
from dualstylegan.recipe import load_recipe
from dualstylegan.runtime.compiling import has_compiler
from dualstylegan.train import train
from dualstylegan.training.run import RandomState, RunFolder

TIMING = ("seconds",)
COMPILING_S = 1500  # a busy machine may take as long

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    """Photos, toons, recipes, and both runs made in one go."""
    folder = tmp_path_factory.mktemp("unbroken")
    photos, toons = draw_portraits(folder / "photos", 8), draw_portraits(folder / "toons", toon=True, seed=1)
    base = write_base_recipe(folder / "base.toml", photos)
    style = write_style_recipe(folder / "style.toml", toons, folder / "base", batch=2)
    for recipe in (base, style):
        for _ in train(load_recipe(recipe), folder / recipe.stem, cpu=True):
            pass
    return folder


def model_of(run: Path) -> dict[str, str]:
    """The sha256 of every part of the model a run has made."""
    folder = run / "style" if (run / "style").is_dir() else run / "base"
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("*.safetensors"))}


def figures_of(run: Path) -> list[dict[str, str]]:
    """What the log says, without the clock."""
    return [{key: v for key, v in row.items() if key not in TIMING} for row in RunFolder(run).read_log()]


def kill_when(arguments: list[object], happened: Callable[[], bool], within_s: float = 240) -> None:
    """Start `dsg train`, and SIGKILL it as soon as something has happened; it must not have ended before."""
    process = launch(arguments)
    deadline = time.monotonic() + within_s
    while not happened():
        if process.poll() is not None:
            pytest.fail(f"training ended before it could be killed: {process.communicate()[1]}")
        assert time.monotonic() < deadline, "what the kill waits for never happened"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def finish(arguments: list[object], within_s: float = 280) -> None:
    process = launch(arguments)
    _, errors = process.communicate(timeout=within_s)
    assert process.returncode == 0, errors


def rows_of(run: Path, stage: str) -> int:
    return sum(row["stage"] == stage for row in RunFolder(run).read_log())


def test_a_style_killed_at_several_points_ends_where_an_unbroken_one_ends(unbroken, tmp_path):
    run = tmp_path / "style"
    arguments = [unbroken / "style.toml", "--run", run]
    kill_when(arguments, lambda: rows_of(run, "finetune") >= 1)  # before any checkpoint
    kill_when(arguments, lambda: any((run / "stages/destylize").glob("*.safetensors")))  # between two batches
    kill_when(arguments, lambda: (run / "checkpoints/transfer-000002.rank0.pt").exists())  # while one is written
    kill_when(arguments, lambda: rows_of(run, "transfer") >= 5)  # after a checkpoint, not at one
    kill_when(arguments, lambda: any((run / "stages/refine").glob("*.safetensors")))
    kill_when(arguments, lambda: (run / "snapshots/samplers-000000.pt").exists())  # the bundle is next
    finish(arguments)

    assert model_of(run) == model_of(unbroken / "style")
    assert figures_of(run) == figures_of(unbroken / "style")


def test_a_base_killed_in_each_phase_ends_where_an_unbroken_one_ends(unbroken, tmp_path):
    run = tmp_path / "base"
    arguments = [unbroken / "base.toml", "--run", run]
    kill_when(arguments, lambda: (run / "checkpoints/base1-000002.pt").exists())
    kill_when(arguments, lambda: (run / "checkpoints/base2-000002.pt").exists())
    kill_when(arguments, lambda: (run / "checkpoints/pretrain-000002.pt").exists())
    finish(arguments)

    assert model_of(run) == model_of(unbroken / "base")
    assert figures_of(run) == figures_of(unbroken / "base")


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
def test_a_compiled_training_that_was_killed_ends_where_an_unbroken_one_ends(unbroken, tmp_path):
    """Compiled afresh in each process, and not what it computes uncompiled, to the last bit."""
    trained = {}
    for name in ("killed", "in one go"):
        run = tmp_path / name
        options = ["--set", "compile=auto", "--set", "finetune.steps=5"]
        finish([unbroken / "style.toml", "--run", run, *options, "--stage", "data"])
        arguments = [unbroken / "style.toml", "--run", run, *options, "--stage", "finetune"]
        if name == "killed":
            kill_when(arguments, lambda run=run: (run / "checkpoints/finetune-000002.pt").exists(), COMPILING_S)
        finish(arguments, COMPILING_S)
        trained[name] = RunFolder(run).last_checkpoint("finetune").state["stage"]["generator"], figures_of(run)
    assert trained["killed"][1] == trained["in one go"][1]
    killed, once = (generator for generator, _ in trained.values())
    assert all(torch.equal(once[name], killed[name]) for name in once)

    plain = tmp_path / "plain"
    for _ in train(load_recipe(unbroken / "style.toml", ["finetune.steps=5"]), plain, until="finetune", cpu=True):
        pass
    other = RunFolder(plain).last_checkpoint("finetune").state["stage"]["generator"]
    assert any(not torch.equal(once[name], other[name]) for name in once)


def test_a_run_made_longer_trains_what_a_run_of_that_length_trains(unbroken, tmp_path):
    """The trained weights, that is: how far their average looks back depends on the length of a short run."""
    lengths = {}
    for name, ways in {"at once": ([6],), "in two": ([3], [6])}.items():
        run = tmp_path / name
        for (steps,) in ways:
            recipe = load_recipe(unbroken / "style.toml", [f"finetune.steps={steps}"])
            for stage in ("data", "finetune"):
                for _ in train(recipe, run, stage=stage, cpu=True):
                    pass
        lengths[name] = RunFolder(run).last_checkpoint("finetune").state["stage"]["generator"]
    once, twice = lengths.values()
    assert all(torch.equal(once[name], twice[name]) for name in once)


def test_of_a_base_what_has_not_begun_may_change_and_the_phase_under_way_may_end_elsewhere(unbroken, tmp_path):
    def run(*settings: str) -> None:
        for _ in train(load_recipe(unbroken / "base.toml", settings), tmp_path / "run", stage="base", cpu=True):
            pass

    for _ in train(load_recipe(unbroken / "base.toml"), tmp_path / "run", stage="data", cpu=True):
        pass
    with pytest.raises(TrainingError, match="not finite"):
        run("base.phases.1.lr=1e30")  # the first phase is done, the second has no checkpoint
    run("base.phases.1.lr=0.001", "base.phases.1.steps=3")
    run("base.phases.1.lr=0.001", "base.phases.1.steps=5")
    assert RunFolder(tmp_path / "run").last_checkpoint("base2").step == 5
    for change in ("base.phases.0.steps=9", "base.phases.1.lr=0.002", "base.phases.1.steps=4", "base.r1=3"):
        with pytest.raises(UsageError, match="was begun with"):
            run("base.phases.1.lr=0.001", "base.phases.1.steps=5", change)


def test_every_source_of_chance_goes_on_where_it_was():
    def draw() -> tuple:
        return random.random(), np.random.rand(), np.random.randn(), torch.rand(3).tolist()

    RandomState.seed(3)
    draw()
    state = RandomState.capture()
    expected = [draw(), draw()]
    RandomState.seed(4)
    RandomState.restore(state)
    assert [draw(), draw()] == expected


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_is_at_work(unbroken, tmp_path):
    with RunFolder(tmp_path).alone(), pytest.raises(TrainingError, match="another process is training here"):
        next(train(load_recipe(unbroken / "base.toml"), tmp_path, cpu=True))
    next(train(load_recipe(unbroken / "base.toml"), tmp_path, cpu=True))


def test_a_log_cut_short_by_a_kill_is_mended(tmp_path):
    run = RunFolder(tmp_path).create()
    run.log("transfer", 1, {"a": 1.0})
    run.log("transfer", 2, {"a": 2.0, "b": 0.5})
    with run.log_file.open("a") as file:
        file.write("transfer,3,0.")
    run.rewind_log("transfer", 1)
    run.log("transfer", 2, {"a": 3.0})
    assert [(row["step"], row["a"]) for row in run.read_log()] == [("1", "1"), ("2", "3")]
