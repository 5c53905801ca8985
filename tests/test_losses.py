"""Losses: the official numbers, cases worked by hand, and gradients held against finite differences."""

from __future__ import annotations

import importlib.util
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate, normalize

from dualstylegan.training.ema import PAPER_DECAY, Average, decay_for
from dualstylegan.training.losses import (
    contextual_loss,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
    identity_loss,
    noise_correlation,
    parameter_norms,
    path_lengths,
    perceptual_loss,
    r1_penalty,
    row_spread,
)

ROOT = Path(__file__).resolve().parents[1]
PARITY = 5e-5  # of each vector's largest value, as the reference demands

# --- parity with the official implementation


@pytest.fixture(scope="module")
def parity():
    """The vectors, and the script that makes their inputs."""
    folders = [ROOT / "tests/data/parity", Path(os.environ.get("DSG_SHARED", ROOT.parent / "shared")) / "parity"]
    folder = next((folder for folder in folders if (folder / "vectors-1.npz").is_file()), None)
    if folder is None:
        pytest.skip("needs the parity vectors")
    spec = importlib.util.spec_from_file_location("make_checkpoint", folder / "make_checkpoint.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script, np.load(folder / "vectors-1.npz")


def parity_images(script) -> torch.Tensor:
    """The two 256 px pictures of the vectors."""
    image = (script.normal(1, "image", (2, 3, 32, 32)) * 0.5).clamp(-1, 1)
    return interpolate(image, (256, 256), mode="bilinear", align_corners=False)


def assert_matches(value: torch.Tensor, expected: np.ndarray) -> None:
    assert np.abs(value.detach().numpy() - expected).max() <= PARITY * np.abs(expected).max()


def test_contextual_loss_is_the_official_one(parity):
    script, vectors = parity
    x, y = (script.normal(1, f"cx_{name}", (2, 64, 16, 16)) for name in "xy")
    assert_matches(contextual_loss(x, y).mean(), vectors["contextual_loss_random"])


def test_contextual_loss_of_vgg_features_is_the_official_one(parity):
    from dualstylegan.networks.vgg import VGG19Features

    script, vectors = parity
    vgg = VGG19Features(("relu3_1",))
    numbers = (0, 0, 2, 2, 5, 5, 7, 7, 10, 10)  # of torchvision's layers: a weight and a bias each
    for (name, parameter), number in zip(vgg.named_parameters(), numbers, strict=True):
        key = f"features.{number}.{name.rsplit('.', 1)[-1]}"
        parameter.data.copy_(script.fill(1, key, tuple(parameter.shape)))
    with torch.no_grad():
        features = vgg(parity_images(script))["relu3_1"]
    assert_matches(contextual_loss(features[:1], features[1:])[0], vectors["contextual_loss_relu3_1"])


def test_noise_correlation_is_the_official_one(parity):
    script, vectors = parity
    noise = [script.normal(1, f"reg_noise_{size}", (1, 1, size, size)) for size in (4, 8, 16, 64)]
    assert_matches(noise_correlation(noise).sum(), vectors["noise_regularize"])


def test_identity_loss_is_the_official_one(parity):
    _, vectors = parity
    embedding = torch.from_numpy(vectors["arcface_embedding"])
    assert_matches(identity_loss(embedding[:1], embedding[1:])[0], vectors["id_loss"])


# --- contextual loss


def plain_contextual_loss(x, y, h=0.2):
    """The equations one after the other, with the whole matrix in memory."""
    x, y = x.flatten(2), y.flatten(2)
    mean = y.mean((0, 2), keepdim=True)
    x, y = normalize(x - mean, dim=1), normalize(y - mean, dim=1)
    distance = 1 - x.transpose(1, 2) @ y
    weight = torch.exp((1 - distance / (distance.amin(2, keepdim=True) + 1e-5)) / h)
    affinity = weight / weight.sum(2, keepdim=True)
    return -torch.log(affinity.amax(1).mean(1) + 1e-5)


def test_contextual_loss_has_the_gradient_of_its_equations():
    torch.manual_seed(0)
    x, y = torch.randn(2, 8, 40, 40), torch.randn(2, 8, 6, 7)  # 1600 positions: more than one slice
    expected, found = x.clone().requires_grad_(), x.clone().requires_grad_()
    plain_contextual_loss(expected, y).sum().backward()
    contextual_loss(found, y).sum().backward()
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_a_picture_is_nearest_to_itself_in_context():
    torch.manual_seed(0)
    x = torch.randn(1, 16, 8, 8)
    assert contextual_loss(x, x) < 0.01 < contextual_loss(torch.randn(1, 16, 8, 8), x)


def test_contextual_loss_of_a_row_can_be_kept_apart_from_its_batch():
    torch.manual_seed(0)
    x, y = torch.randn(3, 8, 6, 6), torch.randn(3, 8, 6, 6)
    together = contextual_loss(x, y, center="row")
    alone = torch.cat([contextual_loss(a[None], b[None], center="row") for a, b in zip(x, y, strict=True)])
    torch.testing.assert_close(together, alone)


# --- adversarial


def test_logistic_losses_are_those_of_a_coin_at_zero():
    zero = torch.zeros(4, 1)
    assert math.isclose(discriminator_loss(zero, zero), 2 * math.log(2), rel_tol=1e-6)
    assert math.isclose(generator_loss(zero), math.log(2), rel_tol=1e-6)
    assert generator_loss(torch.full((1, 1), -50.0)) == 50  # no saturation where D is sure


def test_r1_of_a_linear_discriminator_is_half_its_squared_weight():
    torch.manual_seed(0)
    weight = torch.randn(3, 4, 4)
    images = torch.randn(5, 3, 4, 4, requires_grad=True)
    logits = (images * weight).sum((1, 2, 3), keepdim=True)[..., 0, 0]
    torch.testing.assert_close(r1_penalty(logits, images), weight.square().sum() / 2)


@pytest.fixture
def smooth_net():
    """A small net without kinks, in double precision: what finite differences can follow."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 3 * 3, 1)).double()


def assert_gradient_is_that_of_differences(function, parameter: torch.Tensor) -> None:
    (gradient,) = torch.autograd.grad(function(), parameter)
    step = 1e-6
    for place in range(0, parameter.numel(), parameter.numel() // 4):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.view(-1)[place] += sign * step
            values.append(function().item())
            with torch.no_grad():
                parameter.view(-1)[place] -= sign * step
        difference = (values[0] - values[1]) / (2 * step)
        assert math.isclose(float(gradient.flatten()[place]), difference, rel_tol=1e-4, abs_tol=1e-8)


def test_the_gradient_of_r1_is_that_of_finite_differences(smooth_net):
    images = torch.randn(2, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    assert_gradient_is_that_of_differences(lambda: r1_penalty(smooth_net(images), images), smooth_net[0].weight)


def test_path_lengths_of_a_linear_generator_are_those_of_its_matrix():
    torch.manual_seed(0)
    rows, dim, size = 2, 5, 4
    matrix = torch.randn(rows * dim, 3 * size * size)
    codes = torch.randn(3, rows, dim, requires_grad=True)
    images = (codes.flatten(1) @ matrix).reshape(3, 3, size, size)
    lengths = path_lengths(images, codes, torch.Generator().manual_seed(7))

    y = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(7)) / size
    back = (y.flatten(1) @ matrix.T).reshape(3, rows, dim)
    torch.testing.assert_close(lengths, back.square().sum(2).mean(1).sqrt())


def test_the_gradient_of_path_length_is_that_of_finite_differences():
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(6, 3 * 4 * 4), nn.Tanh()).double()
    codes = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)

    def penalty():
        images = generator(codes.flatten(1)).reshape(2, 3, 4, 4)
        lengths = path_lengths(images, codes, torch.Generator().manual_seed(1))
        return (lengths - 0.1).square().mean()

    assert_gradient_is_that_of_differences(penalty, generator[0].weight)


# --- perceptual, regularisers


def test_perceptual_loss_weighs_layers_and_keeps_pictures_apart():
    zero = {"a": torch.zeros(2, 1, 2, 2), "b": torch.zeros(2, 3, 1, 1)}
    there = {"a": torch.full((2, 1, 2, 2), 2.0), "b": torch.stack([torch.ones(3, 1, 1), torch.zeros(3, 1, 1)])}
    assert perceptual_loss(zero, there, {"a": 0.5, "b": 1.0}).tolist() == [2.0, 1.0]


def test_feature_matching_sees_channel_means_alone():
    torch.manual_seed(0)
    features = {"relu2_1": torch.randn(2, 4, 6, 6), "relu3_1": torch.randn(2, 4, 3, 3)}
    moved = {name: value.roll((1, 2), (2, 3)) for name, value in features.items()}
    torch.testing.assert_close(feature_matching_loss(features, moved), torch.zeros(2), atol=1e-6, rtol=0)
    brighter = {name: value + 2 for name, value in features.items()}
    torch.testing.assert_close(feature_matching_loss(features, brighter), torch.full((2,), 8.0))


def test_parameter_norms_add_up_and_have_a_gradient_at_zero():
    parameters = [torch.tensor([3.0, 4.0]), torch.tensor([[2.0]]), torch.zeros(3)]
    for parameter in parameters:
        parameter.requires_grad_(True)
    total = parameter_norms(parameters)
    total.backward()
    assert total == 7
    assert parameters[0].grad.tolist() == pytest.approx([0.6, 0.8])
    assert parameters[2].grad.tolist() == [0, 0, 0]


def test_rows_that_agree_have_no_spread():
    codes = torch.stack([torch.ones(4, 3), torch.tensor([[0.0], [2.0], [0.0], [2.0]]).expand(4, 3)])
    expected = math.sqrt(4 / 3)  # deviation of 0, 2, 0, 2 with n - 1
    assert row_spread(codes).tolist() == pytest.approx([0.0, expected])


def test_noise_correlation_keeps_rows_apart():
    torch.manual_seed(0)
    noise = [torch.randn(2, 1, size, size) for size in (4, 16)]
    alone = torch.cat([noise_correlation([maps[i : i + 1] for maps in noise]) for i in range(2)])
    torch.testing.assert_close(noise_correlation(noise), alone)


def test_smooth_noise_is_punished_more_than_white_noise():
    torch.manual_seed(0)
    white = torch.randn(1, 1, 32, 32)
    smooth = interpolate(torch.randn(1, 1, 8, 8), (32, 32), mode="bilinear")
    assert noise_correlation([smooth]) > 10 * noise_correlation([white])


# --- averages


def test_an_average_follows_with_its_decay_and_lends_its_values():
    parameter = nn.Parameter(torch.zeros(2))
    average = Average([("p", parameter)], decay=0.75)
    parameter.data.fill_(4.0)
    average.update()
    assert average.state_dict()["p"].tolist() == [1, 1]
    with average.applied():
        assert parameter.tolist() == [1, 1]
    assert parameter.tolist() == [4, 4]


def test_an_average_goes_on_from_its_state():
    parameter = nn.Parameter(torch.randn(3))
    first, second = Average([("p", parameter)]), Average([("p", nn.Parameter(torch.zeros(3)))])
    second.load_state_dict(first.state_dict())
    assert second.state_dict()["p"].tolist() == first.state_dict()["p"].tolist()
    with pytest.raises(KeyError):
        second.load_state_dict({})


def test_the_papers_decay_halves_a_weight_in_ten_thousand_images():
    assert math.isclose(PAPER_DECAY, decay_for(32))
    assert math.isclose(PAPER_DECAY ** (10_000 / 32), 0.5)
