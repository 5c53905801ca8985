"""Refining: codes come nearer to their portraits, each for itself, and a style gets them without a new training."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_codes import DIM, DrawnJudges, draw_portraits, tiny_networks
from tiny_style import tiny_style

from dsgcli.main import main
from dualstylegan.choices import STRUCTURE_ROWS
from dualstylegan.errors import TrainingError
from dualstylegan.models.codes import StyleBank
from dualstylegan.models.library import load_style
from dualstylegan.models.style import save_style
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.recipe import Refine
from dualstylegan.runtime.processes import Processes
from dualstylegan.training.refinement import read_distances, read_refined, refine_codes, refinement_grid
from dualstylegan.training.results import PortraitResults

SETTINGS = Refine(steps=30)
NAMES = ["0.png", "1.png", "2.png", "3.png", "4.png"]


@pytest.fixture(scope="module")
def portraits(tmp_path_factory):
    return draw_portraits(tmp_path_factory.mktemp("portraits"))


def tiny_model() -> DualStyleGAN:
    torch.manual_seed(2)
    return DualStyleGAN(tiny_networks()["generator"]).eval()


def codes() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    return torch.randn(5, 8, DIM), torch.randn(5, 8, DIM)


def refine(folder: Path, portraits, settings: Refine = SETTINGS, **changed):
    intrinsic, extrinsic = codes()
    arguments = {"model": tiny_model(), "names": NAMES, "intrinsic": intrinsic, "extrinsic": extrinsic} | changed
    return list(refine_codes(folder, portraits, perception=DrawnJudges(), settings=settings, seed=1, **arguments))


@pytest.fixture(scope="module")
def refined(portraits, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("refined")
    refine(folder, portraits)
    return folder


def test_refining_brings_exemplars_nearer_to_their_portraits(refined):
    before, after = read_distances(refined, NAMES)
    assert after < 0.9 * before


def test_structure_and_colour_have_rates_of_their_own(refined):
    moved = (read_refined(refined, NAMES, codes()[1]) - codes()[1]).abs()
    structure, color = moved[:, :STRUCTURE_ROWS].max(), moved[:, STRUCTURE_ROWS:].max()
    assert 0 < structure <= 1.2 * SETTINGS.steps * SETTINGS.structure_lr  # Adam's steps are about the rate
    assert structure < color <= 1.2 * SETTINGS.steps * SETTINGS.color_lr


def test_refined_codes_do_not_depend_on_batch_or_processes(refined, portraits, tmp_path):
    for rank in range(2):
        refine(tmp_path, portraits, replace(SETTINGS, batch=1 + rank), processes=Processes(rank, 2))
    assert torch.equal(read_refined(tmp_path, NAMES, codes()[1]), read_refined(refined, NAMES, codes()[1]))


def test_what_is_refined_is_not_refined_again_until_the_model_changes(refined, portraits, tmp_path):
    shutil.copytree(refined, tmp_path / "codes")

    def again(**changed):
        return sum(event.kind == "done" for event in refine(tmp_path / "codes", portraits, **changed))

    assert again() == 0
    (tmp_path / "codes" / "3.png.safetensors").unlink()
    assert again() == 1
    model = tiny_model()
    with torch.no_grad():
        model.color_transforms[0].weight.mul_(1.5)
    assert again(settings=replace(SETTINGS, steps=1), model=model) == 5


def test_an_exemplar_whose_refined_code_cannot_be_written_keeps_its_own(portraits, tmp_path):
    PortraitResults(tmp_path).path("2.png").mkdir(parents=True)
    (left_out,) = [e for e in refine(tmp_path, portraits, replace(SETTINGS, steps=1)) if e.kind == "skipped"]
    assert "Cannot write" in left_out.message
    kept = [torch.equal(*pair) for pair in zip(read_refined(tmp_path, NAMES, codes()[1]), codes()[1], strict=True)]
    assert kept == [False, False, True, False, False]
    assert all(read_distances(tmp_path, NAMES))
    assert refinement_grid(tmp_path, portraits).shape[0] > 4 * 128


def test_the_grid_shows_portrait_before_and_after(refined, portraits):
    grid = refinement_grid(refined, portraits, most=2)
    assert grid.shape[1] > 3 * 128 and 2 * 128 < grid.shape[0] < 3 * 128 + 64


def test_an_exemplar_without_a_portrait_is_named(portraits, tmp_path):
    with pytest.raises(TrainingError, match=r"no portrait of exemplar '\d\.png'"):
        refine(tmp_path, portraits[:2])


# The command


@pytest.fixture
def style(tmp_path) -> Path:
    """A style of 64 px with intrinsic codes; pictures of two of its three exemplars, and one that is none."""
    folder = tiny_style(tmp_path)
    found = load_style(folder)
    torch.manual_seed(4)
    bank = found.bank
    found.bank = StyleBank(bank.names, bank.plain, torch.randn_like(bank.plain), style=bank.style)
    found.folder = None
    (tmp_path / "faces").mkdir()
    for name, color in {"ada.png": (200, 40, 40), "cyd.jpg": (40, 40, 200), "zoe.png": (0, 0, 0)}.items():
        Image.new("RGB", (64, 64), color).save(tmp_path / "faces" / name)
    return save_style(folder, found)


def test_the_command_refines_a_style_against_a_folder(style, tmp_path, capsys):
    run = tmp_path / "run"
    command = ["refine", str(tmp_path / "faces"), "--style", str(style), "--run", str(run), "--cpu"]
    command += ["--alignment", "aligned", "--steps", "3"]

    assert main(command) == 0
    assert "perceptual distance to 2 exemplars" in capsys.readouterr().out
    old, new = load_style(style).bank, load_style(run / "style").bank
    changed = (new.extrinsic != old.extrinsic).flatten(1).any(dim=1)
    assert new.names == old.names and changed.tolist() == [True, False, True]
    assert torch.equal(new.plain, old.plain)
    assert list((run / "grids").glob("refine-*.png"))
    assert main(command) == 0  # the same again, done before


def test_the_command_says_what_is_missing(tmp_path, capsys):
    (tmp_path / "faces").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "faces" / "ada.png")
    assert main(["refine", str(tmp_path / "faces")]) == 2
    assert "--style" in capsys.readouterr().err
    assert main(["refine", str(tmp_path / "faces"), "--style", str(tiny_style(tmp_path)), "--cpu"]) == 2
    assert "no intrinsic codes" in capsys.readouterr().err
    assert main(["refine", "no-such-recipe"]) == 2
    assert main(["refine", "pixar", "--run", str(tmp_path / "run"), "--cpu"]) == 2
    assert "has no stage 'refine'" in capsys.readouterr().err
