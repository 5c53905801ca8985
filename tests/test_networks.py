"""The networks beyond the official vectors: other sizes and widths, derivatives, precision, work that is not done."""

import copy

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dualstylegan.errors import UsageError
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.networks.encoder import PSPEncoder
from dualstylegan.networks.layers import smooth, upsample_image
from dualstylegan.networks.lpips import LPIPS
from dualstylegan.networks.stylegan2 import CONFIG_F, Discriminator, Generator, group_deviation
from dualstylegan.networks.vgg import VGG16Features, VGG19Features


def narrow(width=8):
    return dict.fromkeys(CONFIG_F, width)


def small_model(size=64, style_dim=16, width=8, seed=0):
    """A model whose extrinsic path matters: ModRes starts at 0.5 instead of near zero."""
    torch.manual_seed(seed)
    model = DualStyleGAN(Generator(size, style_dim=style_dim, mapping_layers=2, channels=narrow(width)))
    with torch.no_grad():
        for conv in model.generator.convs:
            conv.noise_strength.fill_(0.1)
            conv.bias.normal_(0, 0.1)
        for block in model.modres:
            block.conv1.weight.normal_()
            block.conv2.weight.normal_(0, 0.5)
    return model


# Shapes


@pytest.mark.parametrize("size", [32, 64, 128, 256, 512, 1024])
@torch.no_grad()
def test_every_size_draws_and_judges(size):
    model = small_model(size, style_dim=12, width=4).eval()
    rows = {32: 8, 64: 10, 128: 12, 256: 14, 512: 16, 1024: 18}[size]
    assert model.rows == rows and len(model.generator.stored_noise()) == rows - 1
    image = model(torch.randn(1, 12), torch.randn(1, rows, 12), weights=[0.5] * rows)
    assert image.shape == (1, 3, size, size) and image.isfinite().all()
    assert Discriminator(size, channels=narrow(4))(image).shape == (1, 1)


def test_the_default_channels_are_config_f():
    with torch.device("meta"):
        widths = Generator(1024).channels
    assert widths == {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}


@pytest.mark.parametrize(
    "call",
    [
        lambda model: Generator(100),
        lambda model: Generator(64, channels={4: 8}),
        lambda model: model(torch.zeros(1, 9, 16)),
        lambda model: model(torch.zeros(1, 15)),
        lambda model: model(torch.zeros(1, 16), intrinsic_space="w"),
        lambda model: model(torch.zeros(1, 16), torch.zeros(1, 16), weights=[1.0] * 18),
        lambda model: model.load_extrinsic_state({}),
    ],
)
def test_what_does_not_fit_is_one_line(call):
    with pytest.raises(UsageError) as error:
        call(small_model())
    assert "\n" not in str(error.value)


# The extrinsic path


@pytest.mark.parametrize("style_dim", [512, 128])
@torch.no_grad()
def test_stage_one_mixes_structure_and_colour(style_dim):
    torch.manual_seed(0)
    model = DualStyleGAN(Generator(128, style_dim=style_dim, channels=narrow(64)))
    z1, z2 = torch.randn(2, 2, style_dim)
    rows = [z1] * 7 + [z2] * 5
    mixed = model.generator(torch.stack(rows, dim=1))
    difference = model(z1, z2) - mixed
    # T_c's initial noise of 0.01 is most of what remains
    assert difference.square().mean().sqrt() <= 1e-2 * mixed.abs().max()
    assert difference.abs().max() <= 2e-2 * mixed.abs().max()


@torch.no_grad()
def test_weight_zero_is_the_plain_generator():
    model = small_model()
    z1, z2 = torch.randn(2, 2, 16)
    plain = model.generator(z1)
    for weights in ([0.0] * 10, torch.zeros(2, 10)):
        difference = model(z1, z2, weights=weights) - plain
        assert difference.abs().max() <= 1e-4 * plain.abs().max()
    assert torch.equal(model(z1), plain)


@torch.no_grad()
def test_weights_per_image_are_those_of_single_images():
    model = small_model()
    z, e = torch.randn(2, 3, 10, 16)
    weights = torch.rand(3, 10)
    together = model(z, e, weights=weights)
    alone = [model(z[i : i + 1], e[i : i + 1], weights=weights[i].tolist()) for i in range(3)]
    assert (together - torch.cat(alone)).abs().max() <= 1e-4 * together.abs().max()


@torch.no_grad()
def test_codes_in_w_plus_are_the_mapped_ones():
    model = small_model()
    z, e = torch.randn(2, 2, 10, 16)
    f = model.generator.mapping
    expected = model(z, e, truncation=0.7)
    given = model(f(z) * 0.7, f(e), intrinsic_space="w+", extrinsic_space="w+")
    assert (given - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.no_grad()
def test_the_extrinsic_state_carries_a_style_to_another_model():
    model, other = small_model(seed=1), small_model(seed=2)
    other.generator.load_state_dict(model.generator.state_dict())
    z, e = torch.randn(2, 1, 10, 16)
    assert not torch.allclose(model(z, e), other(z, e))
    other.load_extrinsic_state(model.extrinsic_state())
    assert torch.equal(model(z, e), other(z, e))
    names = {name for name, _ in model.extrinsic_parameters()}
    regularized = {name for name, _ in model.regularized_parameters()}
    assert names == set(model.extrinsic_state()) and regularized < names
    assert {name.split(".")[0] for name in names - regularized} == {"structure_transform"}


# One picture, computed in several ways


@pytest.mark.parametrize("weight", [1.0, 0.6])
def test_training_and_inference_draw_the_same_picture(weight):
    model = small_model(256, width=12)
    z, e = torch.randn(2, 2, 14, 16)
    weights = [0.75] * 7 + [weight] * 7
    training = model(z, e, weights=weights).detach()
    with torch.no_grad():
        batch = model(z, e, weights=weights)
        single = torch.cat([model(z[i : i + 1], e[i : i + 1], weights=weights) for i in range(2)])
        prepared = torch.cat([model(z[i : i + 1], model.prepare(e[i], weights)) for i in range(2)])
        shared = model(z, model.prepare(e[0], weights))
    for image in (batch, single, prepared):
        assert (image - training).abs().max() <= 1e-4 * training.abs().max()
    assert (shared[:1] - training[:1]).abs().max() <= 1e-4 * training.abs().max()


BOXES = {"middle": (64, 40, 160, 251), "corner": (0, 128, 7, 256), "sliver": (247, 1, 256, 2), "all": (0, 0, 256, 256)}


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
@torch.no_grad()
def test_a_region_is_that_part_of_the_whole_picture(box):
    model = small_model(256, width=12)
    for conv in model.generator.convs:
        conv.noise_strength.fill_(0.3)
    z, e = torch.randn(2, 3, 14, 16)
    noise = model.generator.fresh_noise(3)
    left, top, right, bottom = box
    for style in (model.prepare(e[0]), model.prepare(e, [0.5] * 14)):
        whole = model(z, style, noise=noise)
        part = model(z, style, noise=noise, region=box)
        inside = (slice(None), slice(None), slice(top, bottom), slice(left, right))
        assert (part[inside] - whole[inside]).abs().max() <= 1e-4 * whole.abs().max()
        part[inside] = 0
        assert part.shape == whole.shape and not part.any()  # nothing is drawn around it


@torch.no_grad()
def test_a_region_costs_less_than_the_picture():
    model = small_model(256, width=12)
    z, e = torch.randn(2, 1, 14, 16)
    seen = []
    hooks = [conv.register_forward_hook(lambda _, given, out: seen.append(out[0, 0].numel())) for conv in
             model.generator.convs]  # fmt: skip
    model(z, e)
    model(z, e, region=(96, 96, 160, 160))
    for hook in hooks:
        hook.remove()
    whole, part = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert part[:7] == whole[:7]  # instance norm needs them whole
    assert all(small < 0.5 * large for small, large in zip(part[9:], whole[9:], strict=True))


@pytest.mark.parametrize("box", [(0, 0, 257, 10), (-1, 0, 5, 5), (5, 5, 5, 9)])
def test_a_region_outside_the_picture_is_refused(box):
    with pytest.raises(UsageError, match="region"):
        small_model(256)(torch.randn(1, 16), torch.randn(1, 16), region=box)


def test_noise_may_be_given_per_image():
    model = small_model(256)
    z = torch.randn(2, 16)
    noise = model.generator.fresh_noise(2, torch.Generator().manual_seed(1))
    assert [len(maps) for maps in noise] == [2] * 13
    together = model(z, noise=noise).detach()
    with torch.no_grad():
        for batch in ([0], [1], [0, 1]):
            image = model(z[batch], noise=[maps[batch] for maps in noise])
            assert (image - together[batch]).abs().max() <= 1e-4 * together.abs().max()


def test_a_prepared_style_computes_its_share_once():
    model = small_model()
    calls = []
    for module in (
        *model.structure_transform,
        *model.color_transforms,
        *(block.norm1.affine for block in model.modres),
    ):
        module.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        prepared = model.prepare(torch.randn(10, 16))
        assert calls
        calls.clear()
        model(torch.randn(2, 16), prepared)
        affines = [model.generator.convs[row].affine for row in range(7, 9)]
        for affine in affines:
            affine.register_forward_hook(lambda *_: calls.append(1))
        model(torch.randn(1, 16), prepared)
    assert not calls
    with pytest.raises(UsageError):
        model(torch.randn(1, 16), prepared, weights=[1.0] * 10)


def test_bfloat16_stays_near_float32_and_keeps_its_islands():
    model = small_model(128, width=16).eval()
    z, e = torch.randn(2, 2, 12, 16)
    seen = {}
    model.generator.mapping.register_forward_hook(lambda m, i, out: seen.update(mapping=out.dtype))
    model.generator.convs[3].register_forward_hook(lambda m, i, out: seen.update(features=out.dtype))
    model.generator.to_rgbs[1].register_forward_hook(lambda m, i, out: seen.update(rgb=out.dtype))
    for context in (torch.no_grad(), torch.enable_grad()):
        with context:
            exact = model(z, e)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                image = model(z, e)
        assert seen == {"mapping": torch.float32, "features": torch.bfloat16, "rgb": torch.float32}
        assert image.dtype == torch.float32
        error = (image - exact).square().mean().sqrt()
        assert error <= 0.01 * (exact.max() - exact.min())  # 40 dB


def test_maps_stay_channels_last():
    model, critic = small_model(), Discriminator(64, channels=narrow())
    layouts = []
    for module in (*model.generator.convs, *model.modres, *critic.blocks):
        module.register_forward_hook(
            lambda m, i, out: layouts.append(out.is_contiguous(memory_format=torch.channels_last))
        )
    for context in (torch.no_grad(), torch.enable_grad()):
        with context:
            critic(model(torch.randn(2, 16), torch.randn(2, 16)))
    assert all(layouts) and layouts


# Pieces, worked by hand


def test_the_filter_is_a_binomial():
    spike = torch.zeros(1, 1, 7, 7)
    spike[0, 0, 3, 3] = 64
    binomial = torch.tensor([1.0, 3.0, 3.0, 1.0])
    assert torch.equal(smooth(spike, (2, 1))[0, 0, 2:6, 2:6].flip(0, 1), torch.outer(binomial, binomial))
    flat = upsample_image(torch.ones(1, 3, 8, 8))
    assert flat.shape == (1, 3, 16, 16)
    assert torch.allclose(flat[:, :, 2:-2, 2:-2], torch.ones(1, 3, 12, 12))  # gain 4 over zeros between samples


def test_group_deviation_adds_one_channel():
    x = torch.randn(8, 5, 4, 4)
    y = group_deviation(x)
    assert y.shape == (8, 6, 4, 4)
    first = x[[0, 2, 4, 6]].std(dim=0, unbiased=False).mean()  # images i, i + B / g, ... are a group
    assert torch.allclose(y[[0, 2, 4, 6], 5], first.expand(4, 4, 4), atol=1e-5)
    assert group_deviation(x[:3]).shape == (3, 6, 4, 4) and group_deviation(x[:1])[0, 5].abs().max() <= 1.01e-4


def test_lpips_of_a_case_worked_by_hand():
    def features(images):
        return {"a": images[:, :2], "b": F.avg_pool2d(images[:, :2], 2)}

    distance = LPIPS(features, {"a": 2, "b": 2})
    with torch.no_grad():
        distance.weights["a"].copy_(torch.tensor([1.0, 2.0]))
        distance.weights["b"].copy_(torch.tensor([0.5, 0.0]))
    x, y = torch.zeros(2, 1, 3, 2, 2)
    x[:, 0] = 2  # the unit vector (1, 0) everywhere
    y[:, 0], y[:, 1] = 3, 4  # (0.6, 0.8)
    # a: 1 * 0.4^2 + 2 * 0.8^2 = 1.44; b: 0.5 * 0.4^2 = 0.08
    assert torch.allclose(distance(x, y), torch.tensor([1.52]))
    assert distance(x, x) == 0
    halves = y.clone()
    halves[..., 0] = x[..., 0]  # the left column agrees; b sees the mean (2.5, 2)
    unit = torch.tensor([2.5, 2.0]) / (2.5**2 + 2**2) ** 0.5
    assert torch.allclose(distance(x, halves), 0.72 + 0.5 * (1 - unit[:1]) ** 2)


def test_vgg_computes_only_what_is_asked():
    assert list(VGG19Features(["relu1_2", "relu2_1"]).convs) == ["1_1", "1_2", "2_1"]
    features = VGG16Features()(torch.zeros(1, 3, 32, 32))
    assert {name: feature.shape[1:] for name, feature in features.items()} == {
        "relu1_2": (64, 32, 32),
        "relu2_2": (128, 16, 16),
        "relu3_3": (256, 8, 8),
        "relu4_3": (512, 4, 4),
        "relu5_3": (512, 2, 2),
    }


# The encoder


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    encoder = PSPEncoder(rows=10, style_dim=16, size=64).eval()
    encoder.latent_avg.normal_()
    return encoder


@torch.no_grad()
def test_rows_that_are_asked_for_are_those_of_all_rows(encoder):
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    everything = encoder(images)
    assert everything.shape == (2, 10, 16)
    for rows in (range(7), [0], [4, 8], []):
        codes = encoder(images, rows=rows)
        others = [row for row in range(10) if row not in rows]
        assert torch.equal(codes[:, list(rows)], everything[:, list(rows)])
        assert torch.equal(codes[:, others], encoder.latent_avg[others].expand(2, -1, -1))
    with pytest.raises(UsageError):
        encoder(images, rows=[10])
    with pytest.raises(UsageError):
        encoder(images[..., :32])


def test_heads_nobody_asks_for_do_not_run(encoder):
    ran = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in encoder.named_modules()
        if name.startswith(("heads.", "lateral")) and name.count(".") <= 1
    ]
    with torch.no_grad():
        encoder(torch.zeros(1, 3, 64, 64), rows=range(7))
    for hook in hooks:
        hook.remove()
    assert sorted(ran) == [*(f"heads.{row}" for row in range(7)), "lateral_middle"]


def test_structure_rows_are_half_of_the_official_encoder():
    with torch.device("meta"):
        encoder = PSPEncoder().eval()
        images = torch.zeros(1, 3, 256, 256)
    work = []
    for rows in (None, range(7)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            encoder(images, rows)
        work.append(counter.get_total_flops())
    assert work[1] <= 0.52 * work[0]


# Derivatives


def directional(function, x, direction, step):
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)


def gradient_norm(function, x):
    """|d sum(function) / dx|^2, with a graph, as R1 and the path length need it."""
    (gradient,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    return gradient.square().sum()


def test_r1_differentiates_the_discriminator_twice():
    torch.manual_seed(0)
    critic = Discriminator(32, channels=narrow(4)).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    weight = critic.blocks[0].conv1.weight
    direction = torch.randn_like(weight)

    (gradient,) = torch.autograd.grad(gradient_norm(critic, images), weight)

    def penalty(values):
        other = copy.deepcopy(critic)
        other.blocks[0].conv1.weight.data = values
        return gradient_norm(other, images).detach()

    expected = directional(penalty, weight.detach(), direction, 1e-6)
    assert torch.allclose((gradient * direction).sum(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["generator.convs.1.weight", "generator.convs.6.affine.weight", "modres.2.conv2.weight"]
)
def test_path_length_differentiates_the_generator_twice(name):
    model = small_model(32, style_dim=6, width=4).double()
    codes, style = torch.randn(2, 1, 8, 6, dtype=torch.float64).requires_grad_()
    parameter = model.get_parameter(name)
    direction = torch.randn_like(parameter)
    sensitivity = torch.randn(1, 3, 32, 32, dtype=torch.float64)

    def path_length(model):
        return gradient_norm(lambda w: model(w, style, intrinsic_space="w+", extrinsic_space="w+") * sensitivity, codes)

    (gradient,) = torch.autograd.grad(path_length(model), parameter)

    def penalty(values):
        other = copy.deepcopy(model)
        other.get_parameter(name).data = values
        return path_length(other).detach()

    expected = directional(penalty, parameter.detach(), direction, 1e-6)
    assert torch.allclose((gradient * direction).sum(), expected, rtol=1e-5)


def test_gradients_reach_codes_noise_and_the_extrinsic_path():
    model = small_model()
    z, e = torch.randn(2, 2, 10, 16).requires_grad_()
    noise = [maps.requires_grad_() for maps in model.generator.fresh_noise(1)]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith("generator."))
    model(z, e, weights=[0.75] * 10, noise=noise).square().mean().backward()
    trained = [parameter for _, parameter in model.extrinsic_parameters()]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)
    assert all(maps.grad.abs().sum() > 0 for maps in noise)
    assert all(parameter.grad is None for parameter in model.generator.parameters())
