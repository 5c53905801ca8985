"""Several processes: the same numbers as one, no portrait twice, and all end together with one message."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from launched import Launched
from tiny_training import PORTRAITS, draw_portraits, launch, write_base_recipe, write_style_recipe

from dsgcli.main import main
from dualstylegan.errors import DualStyleGANError, UsageError
from dualstylegan.events import Event
from dualstylegan.models.library import load_base
from dualstylegan.recipe import load_recipe
from dualstylegan.runtime import processes
from dualstylegan.runtime.processes import Processes, Shard
from dualstylegan.train import train
from dualstylegan.training.data import read_prepared
from dualstylegan.training.destylization import read_codes
from dualstylegan.training.run import RunFolder

LAUNCHER = Path(shutil.which("accelerate") or Path(sys.executable).with_name("accelerate"))

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    """A base, and a style's run by one process up to destylization."""
    folder = tmp_path_factory.mktemp("single")
    photos, toons = draw_portraits(folder / "photos", 8), draw_portraits(folder / "toons", toon=True, seed=1)
    base = write_base_recipe(folder / "base.toml", photos)
    write_style_recipe(folder / "style.toml", toons, folder / "base")
    for _ in train(load_recipe(base), folder / "base", cpu=True):
        pass
    for stage in ("data", "finetune", "destylize"):
        for _ in train(load_recipe(folder / "style.toml"), folder / "style", stage=stage, cpu=True):
            pass
    return folder


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_two(arguments: list[object]) -> list[Launched]:
    port = free_port()
    return [launch(arguments, rank=rank, processes=2, port=port) for rank in range(2)]


def wait(processes: list[Launched], seconds: float = 240) -> list[tuple[int, str]]:
    """(exit status, stderr) of each."""
    ends = []
    try:
        for process in processes:
            _, errors = process.communicate(timeout=seconds)
            ends.append((process.returncode, errors))
    finally:
        for process in processes:
            process.kill()
    return ends


def messages(ends: list[tuple[int, str]]) -> list[str]:
    return [line for _, errors in ends for line in errors.splitlines() if line.startswith("dsg:")]


def test_two_processes_destylize_uneven_shares_to_the_codes_of_one(single, tmp_path):
    run = tmp_path / "style"
    shutil.copytree(single / "style", run)
    RunFolder(run).forget("destylize")
    ends = wait(run_two([single / "style.toml", "--run", run, "--stage", "destylize"]))
    assert [status for status, _ in ends] == [0, 0], ends

    names, intrinsic, extrinsic = read_codes(run / "stages/destylize")
    expected = read_codes(single / "style/stages/destylize")
    assert names == expected[0] and len(names) == PORTRAITS
    # floats add up in another order in other batches
    assert (intrinsic - expected[1]).abs().max() <= 1e-3
    assert (extrinsic - expected[2]).abs().max() <= 1e-3


@pytest.mark.skipif(not LAUNCHER.exists(), reason="accelerate's launcher is not installed")
def test_the_launcher_starts_two_that_destylize_to_the_codes_of_one(single, tmp_path):
    """With `--cpu` of its own the launcher would start one process: `--multi_gpu` is its word for several."""
    run = tmp_path / "style"
    shutil.copytree(single / "style", run)
    for stage in ("data", "destylize"):
        RunFolder(run).forget(stage)
    command = [LAUNCHER, "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision",
               "no", "--dynamo_backend", "no", "--main_process_port", str(free_port()), "-m", "dsgcli", "destylize",
               single / "style.toml", "--run", run, "--cpu"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("5 portraits destylized") == 1  # the first one speaks
    reports = {path.name for path in (run / "stages/data/left-out").iterdir()}
    assert {"0-of-2.json", "1-of-2.json"} <= reports  # two there were

    names, *codes = read_codes(run / "stages/destylize")
    expected_names, *expected = read_codes(single / "style/stages/destylize")
    assert names == expected_names
    assert all((a - b).abs().max() <= 1e-3 for a, b in zip(codes, expected, strict=True))


def test_two_processes_train_a_base_with_uneven_shares_of_photos(single, tmp_path):
    ends = wait(run_two([single / "base.toml", "--run", tmp_path / "base", "--set", "data.held_out=1"]))
    assert [status for status, _ in ends] == [0, 0], ends
    assert len(read_prepared(tmp_path / "base/stages/data").training) == 7
    base = load_base(tmp_path / "base")
    assert base.extrinsic and all(torch.isfinite(tensor).all() for tensor in base.extrinsic.values())


def test_two_processes_train_a_style_from_portraits_to_bundle(single, tmp_path):
    run = tmp_path / "style"
    ends = wait(run_two([single / "style.toml", "--run", run]))
    assert [status for status, _ in ends] == [0, 0], ends
    assert (run / "style" / "header.json").is_file()
    rows = [row for row in RunFolder(run).read_log() if row["stage"] == "transfer"]
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    # both random states were kept, so the pair can go on too
    assert {path.name for path in run.glob("checkpoints/transfer-000006*")} == {
        "transfer-000006.pt",
        "transfer-000006.rank0.pt",
        "transfer-000006.rank1.pt",
    }


def test_one_process_that_fails_while_work_is_sharded_ends_both_with_one_message(single, tmp_path):
    run = tmp_path / "style"
    shutil.copytree(single / "style", run)
    RunFolder(run).forget("destylize")
    crop = read_prepared(run / "stages/data").training[1].path  # the second process's first
    crop.write_bytes(b"no picture")

    began = time.monotonic()
    ends = wait(run_two([single / "style.toml", "--run", run, "--stage", "destylize"]))
    assert [status for status, _ in ends] == [1, 1], ends
    assert len(messages(ends)) == 1 and crop.name in messages(ends)[0]
    assert time.monotonic() - began < 120  # not after a time-out


def test_one_process_that_fails_while_they_train_together_ends_both_with_one_message(single, tmp_path):
    run = tmp_path / "style"
    shutil.copytree(single / "style", run)
    # a folder in the place of the second process's file: only its checkpoint cannot be written
    (run / "checkpoints" / "transfer-000002.rank1.pt").mkdir(parents=True)
    ends = wait(run_two([single / "style.toml", "--run", run, "--stage", "transfer"]))
    assert [status for status, _ in ends] == [1, 1], ends
    assert len(messages(ends)) == 1 and "Could not write the checkpoint of transfer at step 2" in messages(ends)[0]


def test_a_batch_that_does_not_divide_is_one_line(single, tmp_path):
    arguments = [single / "style.toml", "--run", tmp_path / "run", "--set", "finetune.effective_batch=3"]
    ends = wait(run_two(arguments))
    assert [status for status, _ in ends] == [2, 2], ends
    assert len(messages(ends)) == 1 and "does not divide among 2 processes" in messages(ends)[0]


class Pretended(Processes):
    """One of two processes, in a thread, without a process group."""

    def agree(self, decide):
        return "job"

    def _meet(self) -> None:
        pass


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(processes, "POLL_S", 0.02)
    monkeypatch.setattr(processes, "SILENCE_S", 0.4)


def events_of(rank: int, count: int, folder: Path, work) -> list[Event]:
    return list(Pretended(rank, count).gather(work, folder))


def told(number: int) -> Event:
    return Event("done", "stylize", source=f"{number}.jpg", data={"faces": number})


def test_a_single_process_needs_no_group_and_shares_with_nobody(tmp_path):
    alone = Processes()
    with alone.together(tmp_path):
        assert alone.share([1, 2, 3]) == [1, 2, 3]
        alone.wait_for_all("anything")
        parameter = torch.nn.Parameter(torch.ones(2))
        parameter.grad = torch.full((2,), 3.0)
        alone.average_gradients([parameter])
        assert parameter.grad.tolist() == [3.0, 3.0]
    assert list(tmp_path.iterdir()) == []


GROUP = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (GROUP, (1, 2)),
        ({}, (0, 1)),
        ({"RANK": "1"}, (0, 1)),
        ({"WORLD_SIZE": "8"}, (0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (0, 1)),
        (GROUP | {"WORLD_SIZE": "abc"}, (0, 1)),
        (GROUP | {"RANK": ""}, (0, 1)),
        (GROUP | {"RANK": "2"}, (0, 1)),
        (GROUP | {"RANK": "-1"}, (0, 1)),
        (GROUP | {"MASTER_ADDR": ""}, (0, 1)),
        ({name: value for name, value in GROUP.items() if name != "LOCAL_RANK"}, (0, 1)),
    ],
)
def test_a_process_is_a_rank_only_when_a_launcher_started_it(monkeypatch, environment, expected):
    for name in GROUP:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes.launched() == expected


@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_shards_are_disjoint_and_complete_and_split_as_processes_do(count):
    items = [f"{number}.jpg" for number in range(11)]
    parts = [Shard.of(f"{number}/{count}").part(items) for number in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == sorted(items)
    assert parts == [Processes(rank, count).share(items) for rank in range(count)]
    own = {Shard.of(f"{number}/{count}").own(Path("a/sheet.png")) for number in range(1, count + 1)}
    assert len(own) == count and all(path.parent == Path("a") and path.suffix == ".png" for path in own)


@pytest.mark.parametrize("text", ["0/4", "5/4", "x/y", "3", "-1/4", "1/0", "1/2/3", "1.5/3", "²/3"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(UsageError, match="wanted K/N"):
        Shard.of(text)


@pytest.mark.parametrize("verb", [["stylize", "--style", "toon:7"], ["align"]])
def test_a_shard_among_launched_processes_is_refused_before_work(verb, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "0")
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    assert main([*verb, "photos", "--shard", "1/2"]) == 2
    assert "the launcher's processes share the list already" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("environment", [{"RANK": "1"}, {"WORLD_SIZE": "abc"}, {"RANK": "x", "LOCAL_RANK": "0"}])
def test_names_that_other_programs_set_change_nothing(monkeypatch, capsys, tmp_path, environment):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSG_HOME", str(tmp_path / "home"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["styles"]) == 0
    assert "painting" in capsys.readouterr().out
    assert main(["stylize", "nothing.jpg", "-s", "painting:7", "--dry-run"]) == 1
    assert "no such file" in capsys.readouterr().err


def test_the_first_tells_what_all_did_and_the_messages_are_cleared_away(tmp_path, quick):
    with ThreadPoolExecutor(2) as pool:
        second = pool.submit(events_of, 1, 2, tmp_path, lambda: iter([told(1), told(3)]))
        first = events_of(0, 2, tmp_path, lambda: iter([told(0), told(2)]))
        assert second.result() == []
    assert sorted(event.source for event in first) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("error", [DualStyleGANError("ours"), RuntimeError("not ours"), SystemExit(143), MemoryError()])
def test_one_that_ends_early_ends_the_others_whatever_it_died_of(tmp_path, quick, failing, error):
    def fails():
        yield told(0)
        time.sleep(0.2)
        raise error

    def goes_on():
        for number in range(10_000):
            yield told(number)
            time.sleep(0.01)

    def outcome(rank: int) -> BaseException | None:
        try:
            events_of(rank, 2, tmp_path, fails if rank == failing else goes_on)
        except BaseException as ended:
            return ended
        return None

    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(outcome, range(2)))
    assert ends[failing] is error
    assert isinstance(ends[1 - failing], SystemExit) and ends[1 - failing].code == 1
    assert list(tmp_path.iterdir()) == []


def test_one_whose_reader_went_away_ends_the_others(tmp_path, quick):
    def outcome() -> int | None:
        try:
            events_of(1, 2, tmp_path, lambda: (time.sleep(0.01) or told(number) for number in range(10_000)))
        except SystemExit as ended:
            return ended.code

    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(outcome)
        events = Pretended(0, 2).gather(lambda: iter([told(0), told(2)]), tmp_path)
        next(events)
        events.close()
        assert second.result(timeout=60) == 1


@pytest.mark.parametrize("killed", [0, 1])
def test_one_that_was_killed_is_missed(tmp_path, quick, killed):
    """Its heart beats, then no more: a file that nobody touches is all that is left of it."""
    folder = tmp_path / f"{processes.TEMPORARY}job"
    folder.mkdir()
    (folder / f"{killed}.alive").touch()
    with pytest.raises(DualStyleGANError, match=rf"Process {killed} of 2 was killed or lost"):
        events_of(1 - killed, 2, tmp_path, lambda: (time.sleep(0.02) or told(number) for number in range(10_000)))
    assert list(tmp_path.iterdir()) == []


def test_what_the_first_cannot_decide_it_alone_says(monkeypatch):
    said = []

    def broadcast(values: list) -> list:
        said.append(values[0])
        return [said[0]]

    monkeypatch.setattr("accelerate.utils.broadcast_object_list", broadcast)

    def refuse() -> None:
        raise UsageError("No pictures in nothing.")

    with pytest.raises(UsageError, match="No pictures"):
        Processes(0, 2).agree(refuse)
    with pytest.raises(SystemExit) as ended:
        Processes(1, 2).agree(refuse)
    assert ended.value.code == 2
