"""Destylization: codes that depend on the portrait alone, kept one by one, so that any run goes on where it stopped."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from launched import Launched
from PIL import Image
from tiny_codes import DIM, DrawnJudges, draw_portraits, tiny_networks
from tiny_style import tiny_style

from dsgcli.main import main
from dualstylegan.errors import BadFileError, DualStyleGANError, TrainingError, UsageError
from dualstylegan.networks.stylegan2 import Generator
from dualstylegan.recipe import Destylize
from dualstylegan.runtime.processes import Processes
from dualstylegan.training.destylization import destylization_grid, destylize_portraits, read_codes
from dualstylegan.training.fitting import bytes_kept_for_backward, in_batches, one_per_thread, say_left_out
from dualstylegan.training.intrinsic import encode
from dualstylegan.training.optimize import RateSchedule, optimize_rows, portrait_noise, renormalize_
from dualstylegan.training.portraits import load_portrait
from dualstylegan.training.results import PortraitResults

SETTINGS = Destylize(steps=40)


@pytest.fixture(scope="module")
def portraits(tmp_path_factory):
    return draw_portraits(tmp_path_factory.mktemp("portraits"))


def destylize(folder: Path, portraits, settings: Destylize = SETTINGS, **changed):
    arguments = {**tiny_networks(), "perception": DrawnJudges(), "settings": settings, "seed": 1} | changed
    return list(destylize_portraits(folder, portraits, **arguments))


@pytest.fixture(scope="module")
def destylized(portraits, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("destylized")
    destylize(folder, portraits)
    return folder


def same_codes(a: Path, b: Path) -> bool:
    """Equal to the last bit: 300 steps of Adam would make more of any smaller promise."""
    names_a, *codes_a = read_codes(a)
    names_b, *codes_b = read_codes(b)
    return names_a == names_b and all(torch.equal(x, y) for x, y in zip(codes_a, codes_b, strict=True))


# The method


def test_ids_follow_the_sorted_file_names(destylized, portraits):
    names, intrinsic, extrinsic = read_codes(destylized)
    assert names == ["0.png", "1.png", "2.png", "3.png", "4.png"] == sorted(portrait.name for portrait in portraits)
    assert intrinsic.shape == extrinsic.shape == (5, 8, DIM)


def test_the_extrinsic_code_is_the_encoders(destylized, portraits):
    names, _, extrinsic = read_codes(destylized)
    path = dict(portraits)[names[2]]
    picture = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        assert torch.allclose(extrinsic[2], tiny_networks()["encoder"](picture)[0], atol=1e-5)


def test_fine_rows_of_the_intrinsic_code_stay_the_encoders(portraits, tmp_path):
    destylize(tmp_path, portraits[:1], replace(SETTINGS, steps=5, structure_rows=6))
    _, intrinsic, extrinsic = read_codes(tmp_path)
    assert torch.equal(intrinsic[:, 6:], extrinsic[:, 6:])
    assert not torch.allclose(intrinsic[:, :6], extrinsic[:, :6], atol=1e-2)


def test_the_fit_comes_nearer_to_the_portrait_than_the_encoder(portraits, tmp_path):
    events = destylize(tmp_path, portraits[:3], replace(SETTINGS, steps=80, batch=1))
    fits = [event.data["perceptual"] for event in events if event.kind == "done"]
    starts = [e.data["perceptual"] for e in events if e.kind == "progress" and e.data["step"] == 0]
    assert len(fits) == len(starts) == 3
    assert all(fit < 0.7 * start for fit, start in zip(fits, starts, strict=True))


def test_truncation_pulls_the_face_towards_the_mean(portraits, tmp_path):
    """At 0 every portrait has the face of w = 0, so all structure rows agree."""
    destylize(tmp_path, portraits, replace(SETTINGS, steps=3, truncation=0.0))
    _, intrinsic, _ = read_codes(tmp_path)
    assert intrinsic.std(dim=0).max() < 1e-5


def test_the_grid_shows_portrait_reconstruction_fit_and_face(destylized, portraits):
    grid = destylization_grid(destylized, portraits, most=2)
    assert grid.dtype == np.uint8 and grid.shape[1] > 4 * 128 and 2 * 128 < grid.shape[0] < 3 * 128 + 64


def test_the_rate_ramps_up_stays_and_ramps_down():
    schedule = RateSchedule(0.05, 0.25)
    assert schedule.factor(0.0) == 0 and schedule.factor(0.025) == pytest.approx(0.5)
    assert schedule.factor(0.05) == schedule.factor(0.7) == 1
    assert schedule.factor(0.875) == pytest.approx(0.5) and schedule.factor(0.999) < 1e-3


def test_noise_maps_belong_to_the_portrait_and_are_renormalised_one_by_one():
    together = portrait_noise([4, 8], 1, ["a", "b"], "cpu")
    alone = portrait_noise([4, 8], 1, ["b"], "cpu")
    assert [tuple(maps.shape) for maps in together] == [(2, 1, 4, 4), (2, 1, 8, 8)]
    assert all(torch.equal(maps[1:], one) for maps, one in zip(together, alone, strict=True))
    together[0][0] *= 9
    renormalize_(together)
    for maps in together:
        assert maps.mean(dim=(1, 2, 3)).abs().max() < 1e-6
        assert torch.allclose(maps.std(dim=(1, 2, 3)), torch.ones(2))


# Batches, threads, processes


@pytest.mark.parametrize("batch", [1, 3])
def test_codes_do_not_depend_on_how_many_are_fitted_at_once(batch, destylized, portraits, tmp_path):
    destylize(tmp_path, portraits, replace(SETTINGS, batch=batch))
    assert same_codes(tmp_path, destylized)


def test_two_processes_give_the_codes_of_one_without_overlap(destylized, portraits, tmp_path):
    """Uneven shares, and another number of threads per process."""
    processes = [start(tmp_path, portraits, rank, 2) for rank in range(2)]
    written = [process.communicate(timeout=200)[0].split() for process in processes]
    assert [len(files) for files in written] == [3, 2] and len(set(written[0] + written[1])) == 5
    assert same_codes(tmp_path, destylized)


def test_a_killed_run_loses_at_most_what_was_in_work(destylized, portraits, tmp_path):
    process = start(tmp_path, portraits)
    announced = process.lines()
    next(announced), next(announced)  # two portraits are stored
    process.send_signal(signal.SIGKILL)
    process.wait()
    stored = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.safetensors")}
    assert len(stored) >= 2

    events = destylize(tmp_path, portraits)

    assert sum(event.kind == "done" for event in events) == 5 - len(stored)
    assert events[0].current == len(stored) and events[0].total == 5
    assert all(file.stat().st_mtime_ns == time for file, time in stored.items())
    assert same_codes(tmp_path, destylized)


def start(folder: Path, portraits, rank: int = 0, processes: int = 1) -> Launched:
    script = Path(__file__).with_name("tiny_codes.py")
    return Launched(
        [script, folder, portraits[0].path.parent, rank, processes, SETTINGS.steps], {"OMP_NUM_THREADS": str(1 + rank)}
    )


def test_shares_are_disjoint_and_whole_however_uneven():
    names = [str(i) for i in range(7)]
    shares = [Processes(rank, 3).share(names) for rank in range(3)]
    assert [len(part) for part in shares] == [3, 2, 2]
    assert sorted(name for part in shares for name in part) == names


def test_only_what_a_change_makes_stale_is_done_again(tmp_path):
    portraits = draw_portraits(tmp_path / "portraits")
    few = replace(SETTINGS, steps=2)
    destylize(tmp_path / "codes", portraits, few)

    def again(settings=few, **changed):
        return sum(event.kind == "done" for event in destylize(tmp_path / "codes", portraits, settings, **changed))

    assert again() == 0
    assert again(replace(few, batch=2)) == 0
    portraits[0].path.write_bytes(portraits[1].path.read_bytes())
    assert again() == 1
    assert again(replace(few, truncation=0.5)) == 5
    assert again(replace(few, truncation=0.5), seed=2) == 5
    result = next((tmp_path / "codes").glob("*.safetensors"))
    result.write_bytes(result.read_bytes()[:100])
    assert again(replace(few, truncation=0.5), seed=2) == 1


def test_a_full_memory_halves_the_batch_and_goes_on():
    done, tried = [], []

    def work(part):
        tried.append(len(part))
        if len(part) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.extend(part)
        yield from ((name, {}) for name in part)

    names = [str(i) for i in range(7)]
    assert [name for name, _ in in_batches(names, 7, work)] == done == names
    assert tried == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    with pytest.raises(TrainingError, match="memory"):
        list(in_batches(["a"], 1, lambda part: failing(torch.OutOfMemoryError("out of memory"))))


def test_a_full_memory_ends_threads_and_the_rest_is_done_by_fewer():
    done, refused = [], []

    def work(part):
        if len(refused) < 4:  # every thread of the first attempt
            refused.append(part)
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        yield None, {}
        done.extend(part)
        yield part[0], {}

    names = [str(i) for i in range(20)]
    assert sorted(name for name, _ in one_per_thread(names, 4, work) if name) == sorted(done) == sorted(names)
    with pytest.raises(TrainingError, match="memory"):
        list(one_per_thread(["a"], 1, lambda part: failing(RuntimeError("can't allocate memory"))))


def failing(error: BaseException):
    raise error
    yield


def test_an_error_in_one_thread_ends_all_and_is_the_one_seen():
    def work(part):
        if part == ["3"]:
            raise BadFileError("three is damaged")
        yield part[0], {}

    with pytest.raises(BadFileError, match="three is damaged"):
        list(one_per_thread([str(i) for i in range(50)], 3, work))


def test_what_a_row_costs_is_what_autograd_keeps_of_it():
    x = torch.ones(1000, requires_grad=True)
    kept = []
    # exp keeps its result, the product both factors: one of them is that result
    assert bytes_kept_for_backward(lambda: kept.append(x.exp() * x)) == 2 * 4000


# Errors


def test_a_term_that_is_not_finite_is_named():
    x = torch.ones(2, 3)
    losses = {"good": x.sum(dim=1), "bad": torch.tensor([1.0, float("nan")])}
    with pytest.raises(TrainingError, match="'bad' is not finite at step 0"):
        list(optimize_rows([(x, 0.1)], [], lambda: losses, iterations=3))


def test_a_fit_that_is_not_finite_names_the_portrait_and_what_is_kept(portraits, tmp_path):
    networks = tiny_networks()
    with torch.no_grad():
        networks["finetuned"].to_rgbs[-1].bias.fill_(float("inf"))
    with pytest.raises(TrainingError, match=r"destylize, \d\.png: the term 'perceptual' .* step 0.* is kept"):
        destylize(tmp_path, portraits, **networks)


def test_an_encoder_to_another_space_or_shape_is_refused(portraits, tmp_path):
    networks = tiny_networks()
    networks["encoder"].space = "w+"
    with pytest.raises(UsageError, match=r"Z\+"):
        destylize(tmp_path, portraits, **networks)
    other = Generator(64, style_dim=DIM, mapping_layers=2, channels={4: 8, 8: 8, 16: 8, 32: 8, 64: 8})
    with pytest.raises(UsageError, match="8 x 16"):
        destylize(tmp_path, portraits, generator=other)


def test_a_portrait_that_cannot_be_read_is_named(portraits, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(BadFileError, match=r"broken\.png"):
        destylize(tmp_path / "codes", [("broken.png", broken)])
    with pytest.raises(BadFileError, match=r"'gone\.png'"):
        read_codes(tmp_path / "codes", ["gone.png"])


def test_a_full_disk_is_one_line_and_costs_no_portrait_already_stored(portraits, tmp_path, monkeypatch):
    few, write, calls = replace(SETTINGS, steps=2, batch=1), Path.write_bytes, []

    def full_disk(path, contents):
        calls.append(path)
        if len(calls) > 2:
            write(path, contents[:99])
            raise OSError(28, "No space left on device")
        return write(path, contents)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(DualStyleGANError, match=r"No space left on device.*already stored are untouched"):
        destylize(tmp_path, portraits, few)
    monkeypatch.setattr(Path, "write_bytes", write)
    assert len(list(tmp_path.iterdir())) == 2  # whole ones, nothing beside them
    assert sum(event.kind == "done" for event in destylize(tmp_path, portraits, few)) == 3


def test_a_portrait_whose_codes_cannot_be_written_is_left_out_until_they_can(portraits, tmp_path):
    few = replace(SETTINGS, steps=2, batch=1)
    in_its_place = PortraitResults(tmp_path).path("2.png")
    in_its_place.mkdir(parents=True)
    (left_out,) = [event for event in destylize(tmp_path, portraits, few) if event.kind == "skipped"]
    assert left_out.source.endswith("2.png") and "Cannot write" in left_out.message

    names = [portrait.name for portrait in portraits]
    assert read_codes(tmp_path, names)[0] == read_codes(tmp_path)[0] == ["0.png", "1.png", "3.png", "4.png"]
    assert destylization_grid(tmp_path, portraits).shape[0] > 4 * 128
    first, second = Processes(0, 2), Processes(1, 2)  # of two, the first one speaks of what the other has left out
    assert [e.source for e in say_left_out(PortraitResults(tmp_path), ["2.png", "1.png"], "", first)] == ["2.png"]
    assert not list(say_left_out(PortraitResults(tmp_path), names, "", second))

    in_its_place.rmdir()
    destylize(tmp_path, portraits, few)
    assert len(read_codes(tmp_path, names)[0]) == 5


def test_where_no_codes_at_all_can_be_written_there_is_nothing_to_go_on_with(portraits, tmp_path):
    PortraitResults(tmp_path).path("0.png").mkdir(parents=True)
    destylize(tmp_path, portraits[:1], replace(SETTINGS, steps=1))
    with pytest.raises(TrainingError, match=r"all 1 portraits are left out.*Cannot write"):
        read_codes(tmp_path, [portraits[0].name])


def test_networks_are_given_back_as_they_were(portraits, tmp_path):
    networks = tiny_networks()
    networks["generator"].train()
    destylize(tmp_path, portraits[:1], replace(SETTINGS, steps=1), **networks)
    assert networks["generator"].training and not networks["encoder"].training
    assert all(p.requires_grad and p.grad is None for network in networks.values() for p in network.parameters())


# The command


def test_the_command_destylizes_a_folder_on_the_base_of_a_style(tmp_path, capsys):
    style = tiny_style(tmp_path)
    (tmp_path / "faces").mkdir()
    rng = np.random.default_rng(0)
    for name in ("b.png", "a.png", "c.png"):
        pixels = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)).resize((80, 80), Image.BICUBIC)
        pixels.save(tmp_path / "faces" / name)
    command = ["destylize", str(tmp_path / "faces"), "--style", str(style), "--run", str(tmp_path / "run"), "--cpu"]
    command += ["--alignment", "aligned", "--steps", "2", "--finetune-steps", "1"]

    assert main(command) == 0
    names, intrinsic, _ = read_codes(tmp_path / "run" / "stages" / "destylize")
    assert names == ["a.png", "b.png", "c.png"] and intrinsic.shape[1:] == (10, DIM)
    assert list((tmp_path / "run" / "grids").glob("destylize-*.png"))
    assert "3 portraits destylized" in capsys.readouterr().out
    assert main(command) == 0  # all done before


def test_the_command_says_what_is_missing(tmp_path, capsys):
    (tmp_path / "faces").mkdir()
    assert main(["destylize", str(tmp_path / "faces")]) == 2
    assert "--style" in capsys.readouterr().err
    assert main(["destylize", str(tmp_path / "faces"), "--style", "cartoom"]) == 2
    assert "No style 'cartoom'. Did you mean 'cartoon'?" in capsys.readouterr().err
    assert main(["destylize", "pixxar"]) == 2
    assert "Did you mean 'pixar'?" in capsys.readouterr().err


# Portraits whose photos are known


def test_of_a_portrait_whose_photo_is_known_nothing_is_fitted(portraits, destylized, tmp_path):
    photos = {"1.png": dict(portraits)["4.png"]}
    events = destylize(tmp_path / "codes", portraits, photos=photos)
    assert [event.current for event in events if event.kind == "done"] == [1, 1, 2, 3, 4]
    networks = tiny_networks()
    _, intrinsic, extrinsic = read_codes(tmp_path / "codes")
    _, fitted, same = read_codes(destylized)
    assert torch.equal(extrinsic, same)
    image = load_portrait(photos["1.png"], networks["generator"].size)[None]
    assert torch.allclose(intrinsic[1, :8], encode(networks["encoder"], image)[0, :8], atol=1e-5)
    others = [index for index in range(5) if index != 1]
    assert torch.equal(intrinsic[others], fitted[others]), "the others are fitted as ever"
    again = destylize(tmp_path / "codes", portraits, photos=photos)
    assert not any(event.kind == "done" for event in again)
    other = destylize(tmp_path / "codes", portraits, photos={"1.png": dict(portraits)["0.png"]})
    assert [event.source for event in other if event.kind == "done"] == [str(dict(portraits)["1.png"])]
