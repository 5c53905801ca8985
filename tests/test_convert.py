"""Official folders and runs into bundles: the same pictures, the file's own order, one base for all styles on it."""

import shutil

import numpy as np
import pytest
import torch
from tiny_release import DIM, NAMES, ROWS, tiny_release

from dualstylegan.errors import DownloadError, OfflineError, UsageError
from dualstylegan.events import outcome
from dualstylegan.models import convert, library
from dualstylegan.models.bundle import read_header
from dualstylegan.models.fetch import Terms, local_path
from dualstylegan.models.library import load_base, load_style
from dualstylegan.models.stage_two import StageTwo
from dualstylegan.models.style import save_style
from dualstylegan.networks.small_encoder import SmallEncoder
from dualstylegan.networks.stylegan2 import Discriminator


def import_style(*arguments, **settings):
    return outcome(convert.import_style(*arguments, **settings))


def pull_style(name, *, offline=None, **settings):
    return outcome(convert.pull_style(name, terms=Terms(offline=offline), **settings))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DSG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def read_encoders(monkeypatch):
    """Files given as encoders; a real one has a hundred megabytes of IR-SE50."""
    read = []

    def load_encoder(path, *, space):
        read.append(path.name)
        encoder = SmallEncoder(ROWS, DIM, size=32, channels=8)
        encoder.space = space
        return encoder

    monkeypatch.setattr(convert, "load_encoder", load_encoder)
    return read


@pytest.fixture
def release(tmp_path):
    model = tiny_release(tmp_path / "models" / "cartoon")
    (tmp_path / "models" / "encoder.pt").touch()
    return tmp_path / "models", model


@torch.no_grad()
def test_an_imported_style_draws_the_releases_pictures(release):
    models, model = release
    style = load_style(import_style(models / "cartoon"))
    assert style.name == "cartoon"
    codes = np.load(models / "cartoon" / "refined_exstyle_code.npy", allow_pickle=True).item()
    face = torch.randn(1, ROWS, DIM)
    expected = model(face, torch.from_numpy(codes["mia.jpg"]), weights=[0.5] * ROWS)
    assert torch.equal(style.model(face, style.bank["mia"][None], weights=[0.5] * ROWS), expected)
    assert set(style.samplers) == {"structure", "color"}
    assert style.encoder.space == "z+" and style.encoder_wplus is None


def test_ids_are_positions_in_the_files_own_order(release):
    models, _ = release
    style = load_style(import_style(models / "cartoon"))
    assert list(style.bank.names) == NAMES
    plain = np.load(models / "cartoon" / "exstyle_code.npy", allow_pickle=True).item()
    intrinsic = np.load(models / "cartoon" / "instyle_code.npy", allow_pickle=True).item()
    for i, name in enumerate(NAMES):
        assert np.array_equal(style.bank.plain[i], plain[name][0])
        assert np.array_equal(style.bank.intrinsic[i], intrinsic[name][0])


def test_styles_with_the_same_generator_share_one_base(release, home, read_encoders, tmp_path):
    models, _ = release
    tiny_release(models / "anime", seed=2, refined=False)
    tiny_release(models / "other", seed=3, base_seed=9)
    for name in ("cartoon", "anime", "other"):
        import_style(models / name)
    bases = [path for path in (home / "bases").iterdir() if path.is_dir()]
    assert len(bases) == 2
    assert read_encoders == ["encoder.pt", "encoder.pt"]  # once per base
    assert load_style("cartoon").base_folder == load_style("anime").base_folder != load_style("other").base_folder


def test_released_styles_get_the_weights_that_suit_them(release):
    models, _ = release
    tiny_release(models / "anime")
    tiny_release(models / "caricature")
    late = [0.0] * 4 + [0.75] * 3
    expected = {"cartoon": [0.75] * 7, "anime": late, "caricature": [1.0] * 7}
    for name, structure in expected.items():
        header = read_header(import_style(models / name))
        assert header["weights"] == [*structure, 1.0]
        assert header["mask"] and header["truncation"] == 0.75
        assert "non-commercial" in header["licence"]


def test_a_wplus_encoder_beside_the_styles_comes_along_and_completes_a_base_later(release, read_encoders):
    models, _ = release
    import_style(models / "cartoon")
    assert load_style("cartoon").encoder_wplus is None
    (models / "encoder_wplus.pt").touch()
    import_style(models / "cartoon")
    style = load_style("cartoon")
    assert (style.encoder.space, style.encoder_wplus.space) == ("z+", "w+")
    assert load_style("cartoon", wplus=False).encoder_wplus is None
    assert read_encoders == ["encoder.pt", "encoder_wplus.pt"]


def test_without_an_encoder_the_import_says_how_to_give_one(release, tmp_path):
    models, _ = release
    (models / "encoder.pt").rename(tmp_path / "e.pt")
    with pytest.raises(UsageError, match="give it with --encoder PATH"):
        import_style(models / "cartoon")
    assert import_style(models / "cartoon", encoder=tmp_path / "e.pt").is_dir()


def test_half_precision_halves_the_networks(release, home):
    models, _ = release
    whole = import_style(models / "cartoon", "whole")
    half = import_style(models / "cartoon", "half", half=True)
    sizes = [(folder / "extrinsic.safetensors").stat().st_size for folder in (whole, half)]
    assert sizes[1] < 0.65 * sizes[0]
    load_style("half")


@pytest.mark.parametrize("name", ["a:b", "../up", "", "a/b", ".hidden"])
def test_names_that_could_not_be_typed_or_leave_the_cache_are_refused(release, name):
    models, _ = release
    if name:
        with pytest.raises(UsageError, match="is no name for a style"):
            import_style(models / "cartoon", name)


def test_folders_that_are_no_style_are_said(release, tmp_path):
    models, _ = release
    (models / "cartoon" / "generator.pt").unlink()
    with pytest.raises(UsageError, match=r"has codes but no generator\.pt"):
        import_style(models / "cartoon")
    with pytest.raises(UsageError, match="is no folder"):
        import_style(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="is no model"):
        import_style(models)


def test_a_folder_of_the_release_given_as_a_style_says_how_to_import_it(release):
    models, _ = release
    with pytest.raises(UsageError, match=r"'dsg styles import .*cartoon --name cartoon' first"):
        load_style(models / "cartoon")


@torch.no_grad()
def test_a_run_can_be_moved_into_the_cache_and_deleted(release, tmp_path, home):
    models, _ = release
    official = load_style(import_style(models / "cartoon"))
    run = tmp_path / "run"
    shutil.move(official.base_folder, run / "base")
    official.base_folder = run / "base"
    save_style(run / "style", official)
    shutil.rmtree(home)

    import_style(run, "mine")
    shutil.rmtree(run)
    style = load_style("mine")
    assert style.name == "mine"
    face = torch.randn(1, ROWS, DIM)
    assert torch.equal(style.model(face, style.bank[1][None]), official.model(face, official.bank[1][None]))
    assert "path" not in style.header["base"]


# Fetching


@pytest.fixture
def downloads(release, monkeypatch, home):
    """The zoo's files for cartoon, as if they had been downloaded; what was asked for."""
    models, _ = release
    asked = []

    def fetch(name, part=None, terms=Terms()):  # noqa: B008
        asked.append((name, part))
        file = local_path(name, part)
        if terms.offline:
            raise DownloadError("offline")
        yield terms.note(f"{name}: licence")
        file.parent.mkdir(parents=True, exist_ok=True)
        source = models / "cartoon" / file.name
        file.write_bytes(source.read_bytes() if source.exists() else b"")
        return file

    monkeypatch.setattr(convert, "fetch", fetch)
    return asked


def test_a_pulled_style_becomes_a_bundle_and_its_downloads_go(downloads, home):
    folder = pull_style("cartoon")
    assert folder == home / "styles" / "cartoon"
    assert ("encoder", "encoder") in downloads
    assert not [path for path in (home / "downloads").rglob("*") if path.suffix in (".pt", ".npy")]
    assert read_header(folder)["source"].startswith("https://huggingface.co/CVPR/DualStyleGAN")


def test_a_style_that_is_here_is_not_pulled_again(downloads):
    pull_style("cartoon")
    before = len(downloads)
    assert pull_style("cartoon") == load_style("cartoon").folder
    assert len(downloads) == before


def test_obtaining_an_official_style_fetches_it(downloads):
    assert load_style(library.obtain("cartoon")).bank.names == tuple(NAMES)
    with pytest.raises(DownloadError):
        library.obtain("anime", offline=True)


def test_loading_fetches_nothing(downloads):
    for where in ("cartoon", library.find("cartoon:3")):
        with pytest.raises(OfflineError, match="'cartoon' is not here yet: 'dsg styles pull cartoon' fetches it"):
            load_style(where)
    with pytest.raises(OfflineError, match="'ffhq' is not here yet"):
        load_base("ffhq")
    assert not downloads


def test_the_second_style_needs_no_encoder(downloads, home):
    pull_style("cartoon")
    downloads.clear()
    shutil.rmtree(home / "styles")
    pull_style("cartoon")
    assert ("encoder", "encoder") not in downloads


def test_the_wplus_encoder_is_fetched_when_asked_for_and_only_once(downloads, read_encoders):
    pull_style("cartoon", wplus=True)
    style = load_style("cartoon")
    assert (style.encoder.space, style.encoder_wplus.space) == ("z+", "w+")
    downloads.clear()
    pull_style("cartoon", wplus=True)
    assert not downloads and read_encoders == ["encoder.pt", "encoder_wplus.pt"]


def test_a_style_that_is_here_gets_its_wplus_encoder_later(downloads):
    pull_style("cartoon")
    downloads.clear()
    pull_style("cartoon", wplus=True)
    assert downloads == [("encoder_wplus", "encoder")]
    assert load_style("cartoon").encoder_wplus.space == "w+"


def test_two_pulls_of_one_style_at_once_make_one_bundle(downloads, home):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(pull_style, ["cartoon"] * 2))
    assert folders == [home / "styles" / "cartoon"] * 2
    assert downloads.count(("cartoon", "generator")) == 1
    load_style("cartoon")


def test_offline_is_said_before_anything_is_written(home, monkeypatch):
    with pytest.raises(OfflineError, match=r"anime needs generator\.pt"):
        pull_style("anime", offline=True)
    assert not home.exists()


def test_the_base_comes_with_all_that_training_starts_from(downloads, release, monkeypatch, home):
    _, model = release

    class Released:
        generator = model.generator
        discriminator = Discriminator(model.size, channels=model.generator.channels)
        extrinsic = model.extrinsic_state()
        stage_two = StageTwo({"logit.bias": torch.ones(1)}, {name: t + 1 for name, t in extrinsic.items()})

    monkeypatch.setattr(convert, "load_pretrained", lambda path: Released)
    told = []
    outcome(convert.pull_base("ffhq"), lambda event: told.append(event.message))
    base = load_base("ffhq")
    assert set(base.stage_two.extrinsic) == set(base.extrinsic) and set(base.stage_two.discriminator) == {"logit.bias"}
    assert base.discriminator is not None  # fine-tuning starts from g's own
    assert [line for line in told if "optimisers that do not fit" in line]
    assert set(base.extrinsic) == set(Released.extrinsic)
    assert base.header["prior"] == {"type": "z"}
    assert downloads == [("ffhq", "generator"), ("ffhq", "encoder"), ("ffhq", "pretrained")]
    assert (home / "downloads" / "ffhq" / "generator-pretrain.pt").is_file()


# The real layout


@pytest.mark.slow
def test_a_folder_of_the_official_size_becomes_a_style(tmp_path, shared, monkeypatch):
    import subprocess
    import sys

    from dualstylegan.models.official import load_encoder, load_generator

    monkeypatch.setattr(convert, "load_encoder", load_encoder)
    script = shared / "parity" / "make_checkpoint.py"
    subprocess.run([sys.executable, script, tmp_path, "--only", "generator", "encoder", "codes", "sampler"], check=True)
    style = load_style(import_style(tmp_path / "cartoon"))
    assert style.bank.names == tuple(f"Cartoons_{i:05d}_01.jpg" for i in range(8))
    assert (style.model.rows, style.model.size, style.encoder.input_size) == (18, 1024, 256)
    released = load_generator(tmp_path / "cartoon" / "generator.pt").state_dict()
    assert all(torch.equal(tensor, released[key]) for key, tensor in style.model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(
        style.encoder.state_dict().values(), load_encoder(tmp_path / "encoder.pt").state_dict().values(), strict=True
    ))  # fmt: skip
