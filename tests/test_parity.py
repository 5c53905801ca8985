"""Numbers agree with the official implementation: every vector to 5e-5 of its largest value, in float32.

`data/parity/make_checkpoint.py` writes files in the official layout, every number a function of (seed, key); the
vectors hold what the official code computes from them.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dualstylegan.models import official
from dualstylegan.models.official import (
    load_arcface,
    load_codes,
    load_encoder,
    load_generator,
    load_sampler,
    load_vgg,
)
from dualstylegan.training.losses import contextual_loss, identity_loss, noise_correlation

PARITY = Path(__file__).parent / "data" / "parity"
VECTORS = np.load(PARITY / "vectors-1.npz")
DEFAULT_WEIGHTS = [0.75] * 7 + [1] * 11


def _load_script():
    spec = importlib.util.spec_from_file_location("make_checkpoint", PARITY / "make_checkpoint.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_checkpoint = _load_script()


def normal(key, shape):
    return make_checkpoint.normal(1, key, shape)


def picture(key, count, side):
    """`count` pictures of smooth noise at 256 px."""
    small = (normal(key, (count, 3, side, side)) * 0.5).clamp(-1, 1)
    return F.interpolate(small, size=(256, 256), mode="bilinear", align_corners=False)


def assert_matches(name, value, within=5e-5):
    expected = torch.from_numpy(VECTORS[name])
    assert value.shape == expected.shape
    difference = (value - expected).abs().max() / expected.abs().max()
    assert difference <= within, f"{name} is off by {difference:.1e} of its maximum"


def assert_matches_but_for_rounding(name, network, pictures):
    """As `assert_matches`, or, on processors that sum in another order, within what rounding makes of the vector."""
    value, expected = network(pictures), torch.from_numpy(VECTORS[name])
    within = 5e-5
    if (value - expected).abs().max() > within * expected.abs().max():
        within = max(within, 3 * rounding_of(network, pictures, value))
        assert within < 0.05  # else it would say nothing
    assert_matches(name, value, within)
    return value


def rounding_of(network, pictures, exact):
    """How far one unit in the last place of its input moves what a network gives, as a part of its maximum.

    The synthetic IR-SE50 amplifies rounding ten thousandfold, and the order in which a convolution sums depends on the
    processor: with AVX2 alone its codes are 5e-3 from the vectors, as is float64. No other sum can be asked for.
    """
    ulp = torch.finfo(torch.float32).eps
    noise = torch.Generator().manual_seed(0)
    moved = [network(pictures * (1 + ulp * torch.randn(pictures.shape, generator=noise))) for _ in range(2)]
    return max((one - exact).abs().max() / exact.abs().max() for one in moved).item()


@pytest.fixture(autouse=True)
def as_the_vectors_were_made():
    # oneDNN's summing order depends on the thread count too.
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A function that writes the named parts of a synthetic release and gives their folder."""

    def write(*parts):
        folder = tmp_path_factory.mktemp(parts[0])
        arguments = sys.argv
        sys.argv = ["make_checkpoint.py", str(folder), "--seed", "1", "--only", *parts]
        try:
            make_checkpoint.main()
        finally:
            sys.argv = arguments
        return folder

    return write


@pytest.fixture(scope="module")
def style(release):
    """The style of the vectors: (model, codes by the README's names, f)."""
    folder = release("generator", "codes") / "cartoon"
    model = load_generator(folder / "generator.pt")
    (folder / "generator.pt").unlink()
    plain = load_codes(folder / "exstyle_code.npy")
    bank = load_codes(
        folder / "exstyle_code.npy",
        refined=folder / "refined_exstyle_code.npy",
        intrinsic=folder / "instyle_code.npy",
    )
    codes = {
        "i0": bank.intrinsic[0][None],
        "i5": bank.intrinsic[5][None],
        "r3": bank["Cartoons_00003_01.jpg"][None],
        "r1": bank[1][None],
        "x6": plain[6][None],
    }
    return model, codes, model.generator.mapping


def transfer_zplus(c, f):
    return (c["i0"], c["r3"]), {"weights": DEFAULT_WEIGHTS, "truncation": 0.75}


def transfer_zplus_preserve_color(c, f):
    mixed = torch.cat([c["r3"][:, :7], c["i0"][:, 7:]], dim=1)
    return (c["i0"], mixed), {"weights": DEFAULT_WEIGHTS, "truncation": 0.75}


def transfer_wplus(c, f):
    return (f(c["i5"]), c["x6"]), {"truncation": 0.75, "intrinsic_space": "w+"}


def transfer_wplus_preserve_color(c, f):
    mixed = torch.cat([f(c["x6"])[:, :7], f(c["i5"])[:, 7:]], dim=1)
    spaces = {"intrinsic_space": "w+", "extrinsic_space": "w+"}
    return (f(c["i5"]), mixed), {"weights": DEFAULT_WEIGHTS, "truncation": 0.75, **spaces}


def structure_off(c, f):
    return (c["i0"], c["r3"]), {"weights": [0] * 4 + [0.5] * 3 + [1] * 11, "truncation": 0.75}


def color_half(c, f):
    return (c["i0"], c["r3"]), {"weights": [1] * 7 + [0.5] * 11, "truncation": 0.75}


def plain_stylegan(c, f):
    return (c["i0"],), {"truncation": 0.7}


def random_portrait(c, f):
    return (normal("z", (1, 512)), c["r3"]), {"weights": DEFAULT_WEIGHTS, "truncation": 0.5}


def blend_half(c, f):
    blend = 0.5 * f(c["r3"]) + 0.5 * f(c["r1"])
    return (c["i0"], blend), {"weights": DEFAULT_WEIGHTS, "truncation": 0.75, "extrinsic_space": "w+"}


def transfer_batch2(c, f):
    pairs = torch.cat([c["i0"], c["i5"]]), torch.cat([c["r3"], c["x6"]])
    return pairs, {"weights": DEFAULT_WEIGHTS, "truncation": 0.75}


CASES = [
    transfer_zplus,
    transfer_zplus_preserve_color,
    transfer_wplus,
    transfer_wplus_preserve_color,
    structure_off,
    color_half,
    plain_stylegan,
    random_portrait,
    blend_half,
    transfer_batch2,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_pictures_are_those_of_the_official_code(style, case):
    model, codes, f = style
    given, settings = case(codes, f)
    image = model(*given, **settings)
    assert_matches(f"{case.__name__}/pool64", F.adaptive_avg_pool2d(image, 64))
    assert_matches(f"{case.__name__}/crop64", image[:, :, 480:544, 480:544])


def test_a_prepared_style_gives_the_same_picture(style):
    model, codes, _f = style
    prepared = model.prepare(codes["r3"], DEFAULT_WEIGHTS)
    image = model(codes["i0"], prepared, truncation=0.75)
    assert_matches("transfer_zplus/pool64", F.adaptive_avg_pool2d(image, 64))
    assert_matches("transfer_zplus/crop64", image[:, :, 480:544, 480:544])


def test_every_vector_is_checked():
    pictures = {case.__name__ for case in CASES}
    others = {
        *("encoder_zplus", "arcface_embedding", "id_loss", "sampler_color", "sampler_structure", "noise_regularize"),
        *("discriminator256_logits", "discriminator256_logits_batch8"),
        *("contextual_loss_relu3_1", "contextual_loss_random", *(f"vgg_relu{block}_1_mean" for block in range(1, 6))),
    }
    assert {name.split("/")[0] for name in VECTORS} == pictures | others


def test_encoder_codes_are_those_of_the_official_code(release):
    encoder = load_encoder(release("encoder") / "encoder.pt")
    assert (encoder.rows, encoder.style_dim, encoder.input_size, encoder.space) == (18, 512, 256, "z+")
    assert_matches_but_for_rounding("encoder_zplus", encoder, picture("image", 2, 32))


def test_identity_is_that_of_the_official_code(release):
    arcface = load_arcface(release("arcface") / "model_ir_se50.pth")
    embedding = assert_matches_but_for_rounding("arcface_embedding", arcface, picture("image", 2, 32))
    assert_matches("id_loss", identity_loss(embedding[:1], embedding[1:]).mean())


def test_samplers_give_the_official_codes(release):
    samplers = load_sampler(release("sampler") / "cartoon" / "sampler.pt")
    for part, rows in (("color", 11), ("structure", 7)):
        codes = samplers[part](normal(f"e_{part}", (4, 128)))
        assert codes.shape == (4, rows, 512)
        assert_matches(f"sampler_{part}", codes.flatten(1)[:, :256])


def test_discriminator_logits_are_those_of_the_official_code(release):
    path = release("discriminator256") / "discriminator256.pt"  # d alone, as no file of the release has it
    discriminator = official.new_discriminator(official.read_checkpoint(path)["d"], path)
    assert_matches("discriminator256_logits", discriminator(picture("dimage", 4, 64)))
    assert_matches("discriminator256_logits_batch8", discriminator(picture("dimage8", 8, 64)))


def test_vgg_features_and_the_contextual_loss_match(release):
    vgg = load_vgg(release("vgg") / "vgg19-dcbb9e9d.pth")
    features = vgg(picture("image", 2, 32))
    for block in range(1, 6):
        assert_matches(f"vgg_relu{block}_1_mean", features[f"relu{block}_1"].mean(dim=(2, 3)))
    one, other = features["relu3_1"].split(1)
    assert_matches("contextual_loss_relu3_1", contextual_loss(one, other).mean())


def test_contextual_loss_of_a_batch_matches():
    x, y = (normal(key, (2, 64, 16, 16)) for key in ("cx_x", "cx_y"))
    assert_matches("contextual_loss_random", contextual_loss(x, y).mean())


def test_noise_regulariser_matches():
    maps = [normal(f"reg_noise_{side}", (1, 1, side, side)) for side in (4, 8, 16, 64)]
    assert_matches("noise_regularize", noise_correlation(maps).sum())
