"""The official release's files load unchanged, and nothing in a file can run code."""

import argparse
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from dualstylegan.errors import BadFileError, UnsafeFileError
from dualstylegan.models.official import (
    DISCRIMINATOR_NAMES,
    ENCODER_NAMES,
    EXTRINSIC_NAMES,
    GENERATOR_NAMES,
    load_codes,
    load_encoder,
    load_generator,
    load_lpips,
    load_pretrained,
    load_sampler,
    release_name,
)
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.networks.encoder import PSPEncoder
from dualstylegan.networks.stylegan2 import Discriminator, Generator
from dualstylegan.networks.vgg import VGG16Features

NARROW = {4: 12, 8: 10, 16: 10, 32: 8, 64: 6}
LOADERS = [load_generator, load_encoder, load_sampler, load_pretrained, load_codes]


class Intruder:
    """A pickle of this creates a file when it is loaded without care."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def generator_tensors(generator, prefix=""):
    """State of a Generator in the release's names and shapes."""
    state = {}
    for name, tensor in generator.state_dict().items():
        theirs = release_name(name, GENERATOR_NAMES)
        if theirs.endswith("conv.weight"):
            tensor = tensor[None]
        elif theirs.endswith("noise.weight"):
            tensor = tensor.reshape(1)
        elif theirs.startswith("to_rgb") and theirs.endswith(".bias") and "modulation" not in theirs:
            tensor = tensor.reshape(1, 3, 1, 1)
        state[prefix + theirs] = tensor
    return state


def model_tensors(model):
    state = generator_tensors(model.generator, "generator.")
    return state | {release_name(name, EXTRINSIC_NAMES): tensor for name, tensor in model.extrinsic_state().items()}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return DualStyleGAN(Generator(64, style_dim=16, mapping_layers=3, channels=NARROW))


@pytest.fixture
def generator_file(tmp_path, model):
    path = tmp_path / "generator.pt"
    torch.save({"g_ema": model_tensors(model), "latent_avg": torch.zeros(16)}, path)
    return path


@torch.no_grad()
def test_a_small_model_is_inferred_from_its_shapes(generator_file, model):
    loaded = load_generator(generator_file)
    assert (loaded.size, loaded.rows, loaded.style_dim) == (64, 10, 16)
    assert loaded.generator.channels == NARROW and loaded.generator.mapping_layers == 3
    assert not loaded.training
    z, e = torch.randn(2, 1, 10, 16)
    assert torch.equal(loaded(z, e), model(z, e))


def test_half_precision_files_give_float32(tmp_path, model):
    path = tmp_path / "half.pt"
    torch.save({"g_ema": {name: tensor.half() for name, tensor in model_tensors(model).items()}}, path)
    assert {p.dtype for p in load_generator(path).parameters()} == {torch.float32}


def test_a_training_checkpoint_gives_all_it_holds(tmp_path, model):
    discriminator = Discriminator(64, channels=NARROW)
    d = {release_name(name, DISCRIMINATOR_NAMES): tensor for name, tensor in discriminator.state_dict().items()}
    optimizer = torch.optim.Adam([torch.zeros(3, requires_grad=True)])
    live = {name: tensor + 1 for name, tensor in model_tensors(model).items()}
    path = tmp_path / "generator-pretrain.pt"
    torch.save(
        {
            "g": live,
            "d": d,
            "g_ema": model_tensors(model),
            "g_optim": optimizer.state_dict(),
            "d_optim": optimizer.state_dict(),
            "args": argparse.Namespace(batch=4, iter=3000, ckpt="checkpoint/x.pt"),
            "ada_aug_p": 0.0,
        },
        path,
    )
    pretrained = load_pretrained(path)
    for name, tensor in model.extrinsic_state().items():
        assert torch.equal(pretrained.extrinsic[name], tensor)
        assert torch.equal(pretrained.stage_two.extrinsic[name], tensor + 1)
    images = torch.randn(4, 3, 64, 64)
    assert torch.equal(pretrained.discriminator(images), discriminator(images))


def test_optimisers_of_a_training_checkpoint_are_known_by_our_names_where_they_fit(tmp_path, model):
    discriminator, live = Discriminator(64, channels=NARROW), model_tensors(model)
    d = {release_name(name, DISCRIMINATOR_NAMES): tensor for name, tensor in discriminator.state_dict().items()}

    def trained(parameters):
        """An Adam whose first moment of the n-th parameter is n."""
        adam = torch.optim.Adam(parameters)
        for n, p in enumerate(parameters):
            adam.state[p] = {"step": torch.tensor(7.0), "exp_avg": torch.full_like(p, n), "exp_avg_sq": p.square()}
        return adam.state_dict()

    path = tmp_path / "generator-pretrain.pt"
    by_name = {release_name(name, EXTRINSIC_NAMES): (name, p) for name, p in model.extrinsic_parameters()}
    order = [key for group in ("res.", "style.") for key in live if key.startswith(group)]
    checkpoint = {
        "g": live,
        "d": d,
        "g_ema": live,
        "g_optim": trained([by_name[key][1] for key in order]),
        "d_optim": trained(list(discriminator.parameters())[1:]),  # one is missing
    }
    torch.save(checkpoint, path)
    found = load_pretrained(path).stage_two
    assert found.discriminator_moments == {}
    for n, key in enumerate(order):
        name, p = by_name[key]
        assert (found.extrinsic_moments[f"{name}.exp_avg"] == n).all(), name
        assert torch.equal(found.extrinsic_moments[f"{name}.exp_avg_sq"], p.square())
        assert found.extrinsic_moments[f"{name}.step"] == 7


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_plain_stylegan2_checkpoint_gives_g_and_d(tmp_path, model, zipped):
    path = tmp_path / "stylegan2-ffhq-config-f.pt"
    torch.save({"g_ema": generator_tensors(model.generator)}, path, _use_new_zipfile_serialization=zipped)
    pretrained = load_pretrained(path)
    assert pretrained.extrinsic is None and pretrained.discriminator is None
    z = torch.randn(1, 16)
    assert torch.equal(pretrained.generator(z), model.generator(z))


def test_the_encoder_says_its_space_by_its_name(tmp_path):
    encoder = PSPEncoder(rows=8, style_dim=16, size=32).eval()
    encoder.latent_avg.normal_()
    tensors = {f"encoder.{release_name(name, ENCODER_NAMES)}": tensor for name, tensor in encoder.state_dict().items()}
    tensors.pop("encoder.latent_avg")
    tensors["decoder.style.1.weight"] = torch.zeros(3)
    for name, space in (("encoder.pt", "z+"), ("encoder_wplus.pt", "w+")):
        torch.save(
            {"state_dict": tensors, "latent_avg": encoder.latent_avg, "opts": {"device": "cuda:0"}}, tmp_path / name
        )
        loaded = load_encoder(tmp_path / name)
        assert (loaded.space, loaded.input_size, loaded.rows) == (space, 32, 8)
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded(images), encoder(images))


def save_codes(path, codes, protocol=4):
    array = np.empty((), dtype=object)
    array[()] = codes
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(array, file, protocol=protocol)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_codes_keep_the_order_of_the_file(tmp_path, protocol):
    names = ["b.jpg", "a.jpg", "10.jpg"]
    codes = {name: np.full((1, 18, 4), i, dtype=np.float32) for i, name in enumerate(names)}
    save_codes(tmp_path / "exstyle_code.npy", codes, protocol)
    refined = dict(reversed([(name, code + 10) for name, code in codes.items()]))
    save_codes(tmp_path / "refined_exstyle_code.npy", refined, protocol)

    bank = load_codes(tmp_path / "exstyle_code.npy")
    assert list(bank.names) == names
    assert torch.equal(bank[1], torch.ones(18, 4)) and torch.equal(bank["a.jpg"], bank[1])
    refined = load_codes(tmp_path / "exstyle_code.npy", refined=tmp_path / "refined_exstyle_code.npy")
    assert torch.equal(refined["10.jpg"], torch.full((18, 4), 12.0))


def test_codes_saved_by_numpy_load(tmp_path):
    np.save(tmp_path / "codes.npy", {"x.jpg": np.zeros((1, 18, 4), np.float32)})
    assert load_codes(tmp_path / "codes.npy")[0].shape == (18, 4)


# Hostile and broken files


def one_line(error):
    message = str(error.value)
    assert "\n" not in message and len(message) < 400
    return message


def test_a_hostile_npy_is_refused_and_runs_nothing(tmp_path):
    save_codes(tmp_path / "codes.npy", {"x.jpg": Intruder(tmp_path / "intruder")})
    with pytest.raises(UnsafeFileError) as error:
        load_codes(tmp_path / "codes.npy")
    assert "codes.npy" in one_line(error) and "mkdir" in one_line(error)
    assert not (tmp_path / "intruder").exists()


@pytest.mark.parametrize(
    "call", [b"cnumpy\nfromfile\n", b"cbuiltins\neval\n", b"ctorch\nload\n", b"cnumpy.core.multiarray\nscalar\n"]
)
def test_only_arrays_are_admitted_in_npy_files(tmp_path, call):
    path = tmp_path / "codes.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(call + b"(V1\ntR.")
    with pytest.raises(UnsafeFileError):
        load_codes(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("load", [load_generator, load_encoder, load_sampler, load_pretrained])
def test_a_hostile_checkpoint_is_refused_and_runs_nothing(tmp_path, load, zipped):
    path = tmp_path / "model.pt"
    torch.save({"g_ema": Intruder(tmp_path / "intruder")}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeFileError) as error:
        load(path)
    assert "model.pt" in one_line(error) and "mkdir" in one_line(error)
    assert not (tmp_path / "intruder").exists()


def test_a_pickled_network_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(UnsafeFileError) as error:
        load_generator(tmp_path / "model.pt")
    assert "Linear" in one_line(error)


def foreign_contents():
    yield "empty", b""
    yield "a web page", b"<html><body>Too many requests</body></html>"
    yield "a picture", b"\x89PNG\r\n\x1a\n" + bytes(100)
    yield "text", b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n"
    yield "zeros", bytes(4096)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    ("kind", "content"), list(foreign_contents()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_foreign_file_is_one_line(tmp_path, load, kind, content):
    (tmp_path / "model.file").write_bytes(content)
    with pytest.raises(BadFileError) as error:
        load(tmp_path / "model.file")
    assert "model.file" in one_line(error)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_one_line(tmp_path, generator_file, part):
    content = generator_file.read_bytes()
    generator_file.write_bytes(content[: int(part * len(content))])
    with pytest.raises(BadFileError) as error:
        load_generator(generator_file)
    assert "truncated" in one_line(error)

    save_codes(tmp_path / "codes.npy", {"x.jpg": np.zeros((1, 18, 4), np.float32)})
    content = (tmp_path / "codes.npy").read_bytes()
    (tmp_path / "codes.npy").write_bytes(content[: int(part * len(content))])
    with pytest.raises(BadFileError) as error:
        load_codes(tmp_path / "codes.npy")
    assert "truncated" in one_line(error)


@pytest.mark.parametrize("load", LOADERS)
def test_a_missing_file_is_one_line(tmp_path, load):
    with pytest.raises(BadFileError) as error:
        load(tmp_path / "nothing.pt")
    assert "nothing.pt" in one_line(error)
    with pytest.raises(BadFileError):
        load(tmp_path)


def test_a_missing_or_misshapen_tensor_is_named(tmp_path, model):
    tensors = model_tensors(model)
    del tensors["res.3.conv2.0.weight"]
    torch.save({"g_ema": tensors}, tmp_path / "lacking.pt")
    with pytest.raises(BadFileError) as error:
        load_generator(tmp_path / "lacking.pt")
    assert "res.3.conv2.0.weight" in one_line(error)

    tensors = model_tensors(model) | {"res.8.weight": torch.zeros(16, 15)}
    torch.save({"g_ema": tensors}, tmp_path / "misshapen.pt")
    with pytest.raises(BadFileError) as error:
        load_generator(tmp_path / "misshapen.pt")
    assert "(16, 15)" in one_line(error)


def test_the_wrong_file_of_the_release_says_what_it_holds(tmp_path, generator_file):
    with pytest.raises(BadFileError) as error:
        load_encoder(generator_file)
    assert "'state_dict'" in one_line(error) and "'g_ema'" in one_line(error)


def test_lpips_takes_its_two_files(tmp_path):
    vgg = VGG16Features()
    numbers = {name: 2 * i + int(name[0]) - 1 for i, name in enumerate(vgg.convs)}
    assert list(numbers.values()) == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]  # torchvision's
    torch.save(
        {f"features.{numbers[n.split('.')[1]]}.{n.split('.')[2]}": t for n, t in vgg.state_dict().items()},
        tmp_path / "vgg16.pth",
    )
    widths = (64, 128, 256, 512, 512)
    torch.save({f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(widths)}, tmp_path / "vgg.pth")
    distance = load_lpips(tmp_path / "vgg.pth", tmp_path / "vgg16.pth")
    x, y = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    assert distance(x, x).abs().max() == 0 and (distance(x, y) > 0).all()
