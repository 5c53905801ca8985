"""A model on disk: whole or not at all, checked when read, the same numbers in memory as were saved."""

import json
import os
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from dualstylegan.errors import BadFileError, DualStyleGANError, UsageError
from dualstylegan.models import bundle
from dualstylegan.models import cache as cache_module
from dualstylegan.models.base import Base, save_base
from dualstylegan.models.bundle import copy_bundle, generator_sha256, read_header, read_part, write_bundle
from dualstylegan.models.codes import StyleBank
from dualstylegan.models.library import load_base, load_style
from dualstylegan.models.priors import CodePrior, GaussianPrior, SamplerPrior
from dualstylegan.models.stage_two import StageTwo
from dualstylegan.models.style import Style, read_thumbnails, save_style
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.networks.sampler import CodeSampler
from dualstylegan.networks.small_encoder import SmallEncoder
from dualstylegan.networks.stylegan2 import Discriminator, Generator
from dualstylegan.runtime import files

CHANNELS = {4: 8, 8: 8, 16: 8, 32: 8}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DSG_HOME", str(tmp_path / "home"))
    torch.manual_seed(0)
    return tmp_path / "home"


@pytest.fixture
def base():
    g = Generator(32, style_dim=16, mapping_layers=2, channels=CHANNELS)
    return Base(
        {"name": "tiny", "licence": "none"},
        g,
        Discriminator(32, channels=CHANNELS),
        SmallEncoder(g.rows, 16, size=32, channels=8),
        DualStyleGAN(g).extrinsic_state(),
        CodePrior(torch.randn(6, g.rows, 16)),
    )


@pytest.fixture
def run(tmp_path, base):
    """A run's folder: run/base and run/style."""
    save_base(tmp_path / "run" / "base", base)
    save_style(tmp_path / "run" / "style", style_on(load_base(tmp_path / "run" / "base")))
    return tmp_path / "run"


def style_on(base):
    model = base.dualstyle()
    with torch.no_grad():
        for _, parameter in model.extrinsic_parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    names = ["b.jpg", "a.jpg", "c.jpg"]
    codes = torch.randn(3, model.rows, 16)
    bank = StyleBank(names, codes, intrinsic=codes + 1, refined=codes + 2)
    samplers = {"structure": CodeSampler(7, 16, latent=8), "color": CodeSampler(model.rows - 7, 16, latent=8)}
    drawn = [np.full((300, 280, 3), 40 * i, np.uint8) for i in range(3)]
    return Style(
        {"mask": "face", "default_exemplar": "a.jpg"},
        base.header,
        model,
        base.encoder,
        bank,
        samplers,
        [Image.fromarray(picture) for picture in drawn],
        base_folder=base.folder,
    )


def picture_of(model, bank):
    return model(bank.intrinsic[:1], bank.extrinsic[:1], weights=[0.5] * 7 + [1.0] * (model.rows - 7))


# Saving and loading


@torch.no_grad()
def test_a_saved_base_draws_the_same_pictures(tmp_path, base):
    back = load_base(save_base(tmp_path / "base", base))
    z = torch.randn(2, back.generator.rows, 16)
    faces = torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.equal(back.generator(z), base.generator(z))
    assert torch.equal(back.discriminator(faces), base.discriminator(faces))
    assert torch.equal(back.encoder(faces), base.encoder(faces))
    assert all(torch.equal(back.extrinsic[key], tensor) for key, tensor in base.extrinsic.items())
    assert not any(m.training for m in (back.generator, back.discriminator, back.encoder))
    assert back.header["sha256"] == generator_sha256(base.generator.state_dict())


@torch.no_grad()
def test_a_saved_style_draws_the_same_pictures_and_keeps_its_order(tmp_path, run):
    style = style_on(load_base(run / "base"))
    back = load_style(save_style(tmp_path / "run" / "again", style), thumbnails=True)
    assert torch.equal(picture_of(back.model, back.bank), picture_of(style.model, style.bank))
    assert back.bank.names == ("b.jpg", "a.jpg", "c.jpg")
    assert torch.equal(back.bank.plain, style.bank.plain)
    noise = torch.randn(4, 8)
    for kind in ("structure", "color"):
        assert torch.equal(back.samplers[kind](noise), style.samplers[kind].eval()(noise))
    assert back.header["default_exemplar"] == "a.jpg"
    assert back.header["weights"] == [0.75] * 7 + [1.0]
    assert [picture.size for picture in back.thumbnails] == [(239, 256)] * 3
    assert abs(np.asarray(back.thumbnails[2]).mean() - 80) < 2  # JPEG


def test_only_the_parts_asked_for_are_read(run, monkeypatch):
    read = []
    monkeypatch.setattr(bundle, "load_file", lambda file, real=bundle.load_file: read.append(file.stem) or real(file))
    load_style(run / "style", encoder=False)
    assert sorted(read) == ["codes", "extrinsic", "generator", "prior", "samplers"]


@torch.no_grad()
def test_half_precision_is_a_matter_of_the_disk_alone(tmp_path, base):
    full = load_base(save_base(tmp_path / "full", base))
    half = load_base(save_base(tmp_path / "half", base, half=("generator", "encoder")))
    assert {p.dtype for p in half.generator.parameters()} == {torch.float32}
    files = [tmp_path / kind / "encoder.safetensors" for kind in ("full", "half")]
    assert files[1].stat().st_size < 0.6 * files[0].stat().st_size
    z = torch.randn(2, 8, 16)
    full_picture, half_picture = full.generator(z), half.generator(z)
    # half a bit of 11 in each of a few dozen factors
    torch.testing.assert_close(half_picture, full_picture, atol=0.01 * full_picture.abs().max().item(), rtol=0)


def test_a_base_and_its_half_precision_copy_are_the_same_base(tmp_path, base):
    full = read_header(save_base(tmp_path / "full", base))
    half = load_base(save_base(tmp_path / "half", base, half=("generator",)))
    again = read_header(save_base(tmp_path / "again", half))
    assert full["sha256"] == half.header["sha256"] == again["sha256"]
    with torch.no_grad():
        base.generator.constant += 0.01
    assert read_header(save_base(tmp_path / "other", base))["sha256"] != full["sha256"]


def test_half_precision_spares_what_optimisers_remember(tmp_path, base):
    squares = torch.full((4, 4), 1e-12)  # zero in half precision
    moments = {"w.exp_avg": squares, "w.exp_avg_sq": squares * 2, "w.step": torch.tensor(3600.0)}
    base.stage_two = StageTwo(base.discriminator.state_dict(), base.extrinsic, moments, path_mean=0.25)
    back = load_base(save_base(tmp_path / "base", base, half=("pretrain",))).stage_two
    assert back.path_mean == 0.25 and back.discriminator_moments == {}
    assert all(torch.equal(back.extrinsic_moments[key], tensor) for key, tensor in moments.items())
    assert all(torch.allclose(back.extrinsic[key], base.extrinsic[key], rtol=1e-3, atol=1e-6) for key in base.extrinsic)
    assert load_base(tmp_path / "base", parts=()).stage_two is None


@torch.no_grad()
def test_training_a_loaded_model_never_changes_its_file(run):
    style = load_style(run / "style")
    for parameter in style.model.parameters():
        parameter += 1
    bundle.verified.clear()
    load_style(run / "style")  # checks every hash


# Whole or not at all


def test_a_failed_write_leaves_the_old_model_and_no_litter(tmp_path, base, monkeypatch):
    save_base(tmp_path / "base", base)
    before = (tmp_path / "base" / "header.json").read_text()

    def disk_full(tensors, file):
        file.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle, "save_file", disk_full)
    with pytest.raises(DualStyleGANError, match=r"Cannot write .*base.*No space left"):
        save_base(tmp_path / "base", base)
    assert (tmp_path / "base" / "header.json").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_model_being_replaced_can_be_read_at_any_moment(tmp_path, base):
    if not hasattr(__import__("ctypes").CDLL(None), "renameat2"):
        pytest.skip("this system cannot swap two folders in one step")
    folder = save_base(tmp_path / "base", base)
    stop, failures = threading.Event(), []

    def read_on():
        while not stop.is_set():
            try:
                read_header(folder)
            except Exception as error:  # whatever it is, it must not happen
                failures.append(error)

    reader = threading.Thread(target=read_on)
    reader.start()
    for _ in range(10):
        save_base(folder, base)
    stop.set()
    reader.join()
    # A reader that opens the old header and then looks for the old parts may see them go; it must never find nothing.
    assert not [error for error in failures if "no model" in str(error)]


@pytest.mark.parametrize("swap_in_one_step", [True, False])
def test_files_beside_the_parts_survive_a_new_version(tmp_path, base, monkeypatch, swap_in_one_step):
    if not swap_in_one_step:
        monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    folder = save_base(tmp_path / "base", base)
    (folder / "MODEL_CARD.md").write_text("mine")
    base.discriminator = None
    save_base(folder, base)
    assert (folder / "MODEL_CARD.md").read_text() == "mine"
    assert not (folder / "discriminator.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_folder_that_is_no_model_is_never_replaced(tmp_path, base):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").touch()
    with pytest.raises(UsageError, match="is no model; it is left alone"):
        save_base(tmp_path / "photos", base)
    assert (tmp_path / "photos" / "me.jpg").exists()


# Checked when read


def test_a_damaged_part_is_named(run):
    file = run / "style" / "codes.safetensors"
    contents = bytearray(file.read_bytes())
    contents[-1] ^= 1
    file.write_bytes(contents)
    with pytest.raises(BadFileError, match=r"codes\.safetensors is damaged") as raised:
        load_style(run / "style")
    assert "\n" not in str(raised.value)


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files that are hashed, as they are."""
    names = []
    monkeypatch.setattr(bundle, "sha256_of", lambda file, real=bundle.sha256_of: names.append(file.name) or real(file))
    return names


def test_a_part_is_hashed_once_as_long_as_it_stays_the_same(run, hashed):
    bundle.verified.clear()
    for _ in range(2):
        read_part(run / "style", "codes")
    assert hashed == ["codes.safetensors"]


def read_in_a_new_process(folder):
    bundle.verified.clear()
    return read_part(folder, "codes")


def test_a_cached_part_is_hashed_by_the_first_process_alone(run, cache, hashed):
    folder = copy_bundle(run / "style", cache / "styles" / "tiny", {})
    hashed.clear()
    for _ in range(3):
        read_in_a_new_process(folder)
    assert hashed == ["codes.safetensors"]
    assert not list(folder.glob(".dsg-*"))

    part = folder / "codes.safetensors"
    later_ns = part.stat().st_mtime_ns + 1_000_000
    os.utime(part, ns=(later_ns, later_ns))
    read_in_a_new_process(folder)
    assert len(hashed) == 2  # another state of the file

    whole = part.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        part.write_bytes(damaged)
        with pytest.raises(BadFileError, match=r"codes\.safetensors is damaged"):
            read_in_a_new_process(folder)


@pytest.mark.parametrize("memory", ["", "[]", "{", '{"codes.safetensors": 1}'])
def test_a_damaged_memory_of_what_was_hashed_costs_a_hash_and_no_more(run, cache, hashed, memory):
    folder = copy_bundle(run / "style", cache / "styles" / "tiny", {})
    (folder / bundle.VERIFIED).write_text(memory)
    hashed.clear()
    read_in_a_new_process(folder)
    read_in_a_new_process(folder)
    assert hashed == ["codes.safetensors"]


def test_a_cache_that_cannot_be_written_is_hashed_each_time(run, cache, hashed):
    folder = copy_bundle(run / "style", cache / "styles" / "tiny", {})
    (folder / bundle.VERIFIED).mkdir()  # refuses root, too
    hashed.clear()
    read_in_a_new_process(folder)
    read_in_a_new_process(folder)
    assert hashed == ["codes.safetensors"] * 2
    assert not list(folder.glob(".dsg-*"))


def test_models_outside_the_cache_get_no_file_beside_their_parts(run):
    read_in_a_new_process(run / "style")
    assert not (run / "style" / bundle.VERIFIED).exists()


def test_a_missing_part_is_named(run):
    (run / "style" / "extrinsic.safetensors").unlink()
    with pytest.raises(BadFileError, match=r"lacks its part extrinsic\.safetensors"):
        load_style(run / "style")


def test_asking_for_a_part_a_model_never_had_says_what_it_has(run):
    with pytest.raises(BadFileError, match="has no part 'generator'; it has extrinsic, codes"):
        read_part(run / "style", "generator")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"format": 2}, "format 2 is of a newer dsg, this one reads 1: upgrade"),
        ({"kind": "poem"}, "kind is 'base' or 'style', not 'poem'"),
        ({"rows": 9}, "9 rows do not belong to a model of 32 px"),
        ({"size": "32"}, "'size' is missing or of the wrong type"),
        ({"parts": {"../../x.safetensors": "0"}}, "a part's name is not"),
        ({"parts": {}}, "no part 'extrinsic'"),
        ({"base": {}}, "the base's sha256 is missing"),
    ],
)
def test_a_header_that_cannot_be_right_is_refused_in_one_line(run, change, line):
    file = run / "style" / "header.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(BadFileError, match=line) as raised:
        load_style(run / "style")
    assert "header.json" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("contents", ["{", "[]", "null", '{"format": "x"}'])
def test_a_header_that_is_no_header_is_refused(tmp_path, contents):
    (tmp_path / "header.json").write_text(contents)
    with pytest.raises(BadFileError, match=r"header\.json"):
        read_header(tmp_path)


def test_codes_that_do_not_fit_the_names_are_refused(run):
    header = json.loads((run / "style" / "header.json").read_text())
    header["exemplars"].pop()
    (run / "style" / "header.json").write_text(json.dumps(header))
    with pytest.raises(BadFileError, match=r"codes\.safetensors does not fit the header"):
        load_style(run / "style")


def test_tensors_of_another_network_are_refused(tmp_path, base):
    header = read_header(save_base(tmp_path / "base", base))
    write_bundle(tmp_path / "wrong", header, {"generator": {"constant": torch.zeros(1)}})
    with pytest.raises(BadFileError, match="does not hold what its header says") as raised:
        load_base(tmp_path / "wrong")
    assert "\n" not in str(raised.value)


# A style finds its base


def test_a_style_finds_its_base_beside_it_by_hash(run):
    (run / "base").rename(run / "some-base")
    assert load_style(run / "style").base_folder == run / "some-base"


def test_a_style_finds_its_base_in_the_cache(run, cache):
    copy_bundle(run / "base", cache / "bases" / "anything", {})
    (run / "base" / "header.json").unlink()
    assert load_style(run / "style").base_folder == cache / "bases" / "anything"


def test_a_style_finds_its_base_in_another_run(tmp_path, run):
    style = style_on(load_base(run / "base"))
    folder = save_style(tmp_path / "elsewhere" / "deep" / "style", style)
    assert not str(read_header(folder)["base"]["path"]).startswith("/")
    assert load_style(folder).base_folder.resolve() == (run / "base").resolve()


def test_a_base_with_other_weights_is_no_base_of_the_style(tmp_path, run, base):
    with torch.no_grad():
        base.generator.constant += 1
    save_base(run / "base", base)
    with pytest.raises(BadFileError, match=r"The base model 'tiny'.*is missing: put its folder beside"):
        load_style(run / "style")


def test_a_base_is_no_style_and_a_style_no_base(run):
    with pytest.raises(UsageError, match="is a base, not a style"):
        load_style(run / "base")
    with pytest.raises(UsageError, match="is a style; a base is wanted"):
        load_base(run / "style")


def test_a_runs_folder_stands_for_its_models(run):
    assert load_style(run).folder == run / "style"
    assert load_base(run).folder == run / "base"


def test_names_are_looked_up_embedded_first_then_in_the_cache(tmp_path, run, cache, monkeypatch):
    monkeypatch.setattr(cache_module, "EMBEDDED", tmp_path / "weights")
    for home in (tmp_path / "weights", cache / "styles"):
        copy_bundle(run / "style", home / "toon", {"name": "toon"})
    copy_bundle(run / "style", cache / "styles" / "mine", {"name": "mine"})
    copy_bundle(run / "base", tmp_path / "weights" / "mini", {"name": "mini"})
    assert load_style("toon").folder == tmp_path / "weights" / "toon"
    assert load_style("mine").folder == cache / "styles" / "mine"
    assert load_style("mine").base_folder == tmp_path / "weights" / "mini"
    with pytest.raises(UsageError, match=r"No style 'tooon'\. Did you mean 'toon'\?"):
        load_style("tooon")
    with pytest.raises(UsageError, match=r"No base model 'minni'\. Did you mean 'mini'\?"):
        load_base("minni")


# Intrinsic priors


def test_a_gaussian_prior_gives_one_z_per_face():
    codes = GaussianPrior().sample(64, 8, 16, torch.Generator().manual_seed(1))
    assert codes.shape == (64, 8, 16)
    assert torch.equal(codes[:, 0], codes[:, 5])
    assert abs(codes.std().item() - 1) < 0.1  # 1024 numbers: sigma of the estimate 0.02


def test_a_prior_of_codes_mixes_rows_of_two_training_faces():
    stored = torch.arange(10.0)[:, None, None].expand(10, 8, 16)
    codes = CodePrior(stored, jitter=0, mixing=1.0).sample(200, 8, 16, torch.Generator().manual_seed(1))
    rows = codes[..., 0]
    assert set(rows.flatten().tolist()) <= set(range(10))
    changes = (rows.diff(dim=1) != 0).sum(1)
    assert changes.max() == 1  # structure from one, the rows behind the crossover from another
    assert 150 < (changes == 1).sum() <= 200  # a tenth draw the same face twice
    still = CodePrior(stored, jitter=0, mixing=0.0).sample(200, 8, 16)[..., 0]
    assert (still.diff(dim=1) == 0).all()
    jittered = CodePrior(stored, jitter=0.1, mixing=0.0).sample(200, 8, 16)
    assert abs((jittered - jittered.round()).std().item() - 0.1) < 0.01


@pytest.mark.parametrize("kind", ["z", "codes", "sampler"])
def test_a_base_draws_the_same_random_faces_after_saving(tmp_path, base, kind):
    base.prior = {
        "z": GaussianPrior(),
        "codes": CodePrior(torch.randn(5, 8, 16), jitter=0.2, mixing=0.5),
        "sampler": SamplerPrior(CodeSampler(8, 16, latent=4)),
    }[kind]
    back = load_base(save_base(tmp_path / "base", base))
    assert back.header["prior"]["type"] == kind
    drawn = [one.sample_intrinsic(3, torch.Generator().manual_seed(5)) for one in (base, back)]
    assert drawn[0].shape == (3, 8, 16)
    assert torch.equal(*drawn)


def test_a_style_draws_random_faces_of_its_base(run):
    style, base = load_style(run / "style"), load_base(run / "base")
    drawn = [one.sample_intrinsic(3, torch.Generator().manual_seed(5)) for one in (style, base)]
    assert torch.equal(*drawn)


def test_thumbnails_are_optional(tmp_path, run):
    style = style_on(load_base(run / "base"))
    style.thumbnails = None
    assert read_thumbnails(save_style(tmp_path / "style", style)) is None
