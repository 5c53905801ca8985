"""What ships in weights/ loads, keeps to its budget, meets its goals and says so; and the tools that put it there."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from PIL import Image
from safetensors import safe_open
from tiny_style import tiny_style

from dualstylegan.errors import DualStyleGANError
from dualstylegan.models import cache
from dualstylegan.models.base import save_base
from dualstylegan.models.bundle import read_header
from dualstylegan.models.library import load_base, load_style
from dualstylegan.models.lookup import list_styles
from dualstylegan.models.stage_two import StageTwo
from dualstylegan.models.style import save_style
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.networks.stylegan2 import Discriminator
from dualstylegan.stylizing.stylizer import Stylizer

sys.path.insert(0, str(ROOT / "tests" / "tools"))

import embed_models
import model_cards

pytestmark = pytest.mark.usefixtures("one_thread")

MODELS = sorted(path.parent for path in cache.EMBEDDED.glob("*/header.json"))
STYLES = [folder for folder in MODELS if read_header(folder)["kind"] == "style"]
BASES = [folder for folder in MODELS if folder not in STYLES]
NONE_YET = pytest.param(None, marks=pytest.mark.skip(reason="no model of this kind is embedded yet"))


def each(folders: list[Path]):
    return pytest.mark.parametrize("folder", folders or [NONE_YET], ids=lambda folder: folder and folder.name)


# What lies in weights/


@each(BASES)
def test_an_embedded_base_has_all_that_new_styles_need_offline(folder):
    base = load_base(folder.name)
    assert None not in (base.discriminator, base.encoder, base.extrinsic, base.prior)
    faces = base.generator(base.sample_intrinsic(2, torch.Generator().manual_seed(0)))
    assert faces.shape == (2, 3, base.generator.size, base.generator.size)
    assert torch.isfinite(faces).all()


@each(BASES)
def test_an_embedded_base_names_the_photos_it_never_saw(folder):
    assert len(read_header(folder)["held_out"]) == 64


@each(STYLES)
def test_an_embedded_style_draws_on_an_embedded_base(folder):
    style = load_style(folder.name, thumbnails=True)
    assert style.base_folder.parent == cache.EMBEDDED
    assert len(style.thumbnails) == len(style.bank) >= 60
    stylizer = Stylizer(style, device="cpu", detector="embedded")
    crops = torch.zeros(1, 3, stylizer.crop_size, stylizer.crop_size)
    assert torch.isfinite(stylizer.render(stylizer.encode(crops))).all()


@each(STYLES)
def test_an_embedded_style_is_listed_without_a_problem(folder):
    (listed,) = (style for style in list_styles() if style.name == folder.name)
    assert (listed.place, listed.problem) == ("embedded", None)


@each(MODELS)
def test_an_embedded_model_keeps_to_its_budget(folder):
    assert embed_models.size_mb(folder) <= embed_models.BUDGET_MB[read_header(folder)["kind"]]


def test_all_embedded_models_together_keep_to_their_budget():
    assert embed_models.size_mb(cache.EMBEDDED) <= embed_models.WHOLE_BUDGET_MB


@each(MODELS)
def test_an_embedded_model_is_stored_in_half_precision(folder):
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            wide = [key for key in tensors.keys() if len(tensors.get_slice(key).get_shape()) > 1]  # noqa: SIM118
            kinds = {tensors.get_slice(key).get_dtype() for key in wide}
        assert kinds <= {"F16", "U8"}, file.name


@each(MODELS)
def test_a_card_says_what_was_measured_of_these_very_files(folder):
    assert (folder / model_cards.CARD).read_text(encoding="utf-8") == model_cards.card_of(folder)


@each(MODELS)
def test_an_embedded_model_meets_its_goals(folder):
    figures = json.loads((folder / model_cards.FIGURES).read_text(encoding="utf-8"))
    assert figures["photos"] == 64
    assert figures["missed"] == []


@each(STYLES)
def test_who_only_memorises_misses_a_goal_of_an_embedded_style(folder):
    figures = json.loads((folder / model_cards.FIGURES).read_text(encoding="utf-8"))
    assert figures["missed_by_others"]["exemplar"]
    assert figures["missed_by_others"]["photo"]


@pytest.mark.skipif(not MODELS, reason="no model is embedded yet")
def test_the_notice_names_every_embedded_model_and_whom_it_learned_from():
    notice = (cache.EMBEDDED / model_cards.NOTICE).read_text(encoding="utf-8")
    assert notice.endswith(model_cards.notice_of([folder.name for folder in MODELS]))


# The tools, on tiny models


@pytest.fixture
def runs(tmp_path) -> Path:
    """A base's run, with all that stage II leaves, and a style's run on it; named as if they were the real ones."""
    made = tiny_style(tmp_path / "made", "painting")
    runs = tmp_path / "runs"
    base = load_base(tmp_path / "made" / "base0")
    torch.manual_seed(1)
    discriminator = Discriminator(base.generator.size, channels=base.generator.channels)
    path = DualStyleGAN(base.generator).extrinsic_state()
    moments = {f"{name}.exp_avg": tensor.clone() for name, tensor in path.items()}
    stage_two = StageTwo(discriminator.state_dict(), path, moments)
    header = base.header | {"name": "mini"}
    whole = replace(base, header=header, discriminator=discriminator, extrinsic=path, stage_two=stage_two)
    save_base(runs / "mini" / "base", whole)
    style = load_style(made)
    style.base_folder, style.thumbnails = runs / "mini" / "base", [Image.new("RGB", (64, 64))] * 3
    style.bank.intrinsic = torch.randn_like(style.bank.plain)
    save_style(runs / "painting" / "style", style)
    for name, stage in (("mini", "base1"), ("painting", "transfer")):
        folder = runs / name / "stages" / "data"
        folder.mkdir(parents=True)
        found = {"training": ["a.jpg", "b.jpg"], "held_out": ["c.jpg"], "left_out": {}}
        (folder / "portraits.json").write_text(json.dumps(found))
        rows = ["stage,step,images,seconds,l1", f"{stage},2,20,1800,0.5", f"{stage},4,1240,7200,0.4"]
        (runs / name / "log.csv").write_text("\n".join(rows) + "\n")
    return runs


@pytest.fixture
def package(runs, tmp_path, monkeypatch) -> Path:
    """An embedded base and style, made by the tool from the runs."""
    package = tmp_path / "package"
    for name in ("mini", "painting"):
        embed_models.embed(runs / name, package)
    (package / "NOTICE").write_text("Networks by others\n")
    monkeypatch.setattr(cache, "EMBEDDED", package)
    return package


def figures_of(package: Path, **changes) -> dict:
    models = {}
    for folder in (package / "mini", package / "painting"):
        header = read_header(folder)
        own = "figure" if header["kind"] == "base" else "DualStyleGAN"
        models[header["name"]] = {
            "parts": header["parts"],
            "goals": {"identity_first": ">= 25.0%"},
            "what": {"identity_first": "finds the right photo of 64 first"},
            "missed": [],
            "columns": {own: {"identity_first": 0.3281}},
        }
    return {"photos": 64, "each_in_exemplars": 4, "kid_layer": "relu5_1", "models": models} | changes


def test_a_base_is_embedded_with_what_training_needs_and_without_what_it_does_not(runs, package):
    base, before = load_base("mini"), load_base(runs / "mini")
    assert base.header["sha256"] == before.header["sha256"]
    assert base.stage_two.discriminator.keys() == before.stage_two.discriminator.keys()
    assert base.stage_two.extrinsic is None
    assert base.stage_two.extrinsic_moments == {}
    assert base.header["held_out"] == ["c.jpg"]
    assert base.header["training"]["stages"] == {"base1": {"steps": 4, "images": 1240, "seconds": 7200}}


def test_a_style_is_embedded_without_the_path_to_its_run_and_finds_the_embedded_base(package):
    style = load_style("painting", thumbnails=True)
    assert "path" not in style.header["base"]
    assert (style.folder, style.base_folder) == (package / "painting", package / "mini")
    assert style.bank.intrinsic is not None
    assert len(style.thumbnails) == 3


def test_an_embedded_style_draws_what_its_run_draws(runs, package):
    before, after = (embed_models.pictures_of_style(load_style(where)) for where in (runs / "painting", "painting"))
    torch.testing.assert_close(after, before, atol=0.02, rtol=0)


def test_a_style_over_budget_loses_codes_first_and_is_refused_last(runs, package, monkeypatch):
    size = embed_models.size_mb(package / "painting")
    monkeypatch.setitem(embed_models.BUDGET_MB, "style", size - 1e-4)
    embed_models.embed(runs / "painting", package)
    assert load_style("painting").bank.intrinsic is None
    monkeypatch.setitem(embed_models.BUDGET_MB, "style", 0.01)
    with pytest.raises(DualStyleGANError, match="a style may have"):
        embed_models.embed(runs / "painting", package)
    assert load_style("painting").bank.intrinsic is None  # what was there stays


def test_fewer_exemplars_are_the_first_ones(runs, package):
    embed_models.embed(runs / "painting", package, most=2)
    style = load_style("painting", thumbnails=True)
    assert style.bank.names == ("ada.png", "bea.png")
    assert len(style.thumbnails) == 2


def test_a_style_whose_base_is_not_embedded_is_refused(runs, tmp_path):
    with pytest.raises(DualStyleGANError, match="embed that first"):
        embed_models.embed(runs / "painting", tmp_path / "elsewhere")


def test_what_half_precision_breaks_is_not_kept(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(embed_models, "ALIKE_DB", 1000.0)
    with pytest.raises(DualStyleGANError, match="nothing is kept"):
        embed_models.embed(runs / "mini", tmp_path / "package")
    assert not (tmp_path / "package" / "mini").exists()


def test_cards_are_written_from_headers_and_figures(package):
    model_cards.keep_figures(figures_of(package), [package / "mini", package / "painting"])
    card = model_cards.card_of(package / "painting")
    assert "| finds the right photo of 64 first | >= 25.0% | 0.3281 |" in card
    assert "| transfer | 4 | 1,240 | 2.0 h |" in card
    assert "Every goal is met." in card
    mini = model_cards.card_of(package / "mini")
    assert "10.6084/m9.figshare.5047666.v5" in mini
    assert "{" not in card + mini


def test_a_card_with_figures_of_other_files_is_refused(package):
    figures = figures_of(package)
    figures["models"]["mini"]["parts"] = {}
    with pytest.raises(DualStyleGANError, match="other files"):
        model_cards.keep_figures(figures, [package / "mini"])
    with pytest.raises(DualStyleGANError, match="fast look"):
        model_cards.keep_figures(figures_of(package, photos=16), [package / "mini"])


def test_the_notice_keeps_what_stood_before_our_models(package):
    for _ in range(2):
        model_cards.write_notice(package / "NOTICE", ["mini", "toon"])
    notice = (package / "NOTICE").read_text()
    assert notice.startswith("Networks by others\n")
    assert notice.count("Models trained by this project") == 1
    assert "Jeremy Scheff" in " ".join(notice.split())


@pytest.mark.parametrize("name", ["mini", "painting", "toon", "engraving"])
def test_every_model_that_is_to_ship_is_described(name):
    words = model_cards.words_on(name)
    assert set(words) == {"about", "data", "bias", "not", "licence", "notice"}
    assert all(words.values())


def test_a_photo_brings_in_nothing_that_it_does_not_need(tmp_path):
    """Each of these takes longer to import than the photo to restyle."""
    photo = ROOT / "tests" / "data" / "photos" / "congress_A000371.jpg"
    script = (
        "import sys\nfrom dsgcli.main import main\n"
        f"status = main(['stylize', {str(photo)!r}, '-s', 'painting:7', '-o', {str(tmp_path / 'a.png')!r}])\n"
        "heavy = ('torch._dynamo', 'sympy', 'scipy.optimize', 'kornia', 'accelerate', 'av', 'numba')\n"
        "sys.exit(status or str([name for name in heavy if name in sys.modules]))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert run.stderr.splitlines()[-1] == "[]"
    assert (tmp_path / "a.png").is_file()
