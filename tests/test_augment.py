"""Augmentation: leaves alone what it should, differentiable twice, repeatable, and led by the discriminator."""

from __future__ import annotations

import pytest
import torch

from dualstylegan.runtime.processes import Processes
from dualstylegan.training.augment import AdaptiveAugmentation, augment, jitter


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> torch.Tensor:
    """Smooth pictures (8, 3, 32, 32) in [-1, 1]."""
    coarse = torch.rand(8, 3, 4, 4, generator=seeded(1)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic").clamp(-1, 1)


def test_nothing_happens_at_p_zero(images):
    assert augment(images, 0.0) is images


def test_a_picture_that_is_not_chosen_keeps_every_pixel(images):
    # 13 choices at p = .05: half of the pictures escape all of them
    same = (augment(images.repeat(8, 1, 1, 1), 0.05, seeded()) == images.repeat(8, 1, 1, 1)).all(dim=(1, 2, 3))
    assert 0.3 < same.float().mean() < 0.8


def test_chance_comes_from_the_generator_alone(images):
    first, again, other = (augment(images, 0.6, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_torchs_own_generator_is_used_without_one(images):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = augment(images, 0.6)
    torch.set_rng_state(state)
    assert torch.equal(first, augment(images, 0.6))


def test_pictures_of_a_batch_are_transformed_differently(images):
    results = augment(images[:1].expand(8, -1, -1, -1), 0.8, seeded())
    assert all(not torch.equal(results[0], other) for other in results[1:])


def test_jitter_moves_pictures_a_little_each_its_own_way(images):
    torch.manual_seed(6)
    moved = jitter(images[:1].repeat(8, 1, 1, 1), 0.03, 32)
    off = (moved - images[:1]).abs().mean(dim=(1, 2, 3))
    assert off.min() > 0.005 and off.max() < 0.3  # about a pixel of pictures that change by 2 over 8 px
    assert len({round(float(one), 5) for one in off}) == 8


def test_without_jitter_a_picture_is_only_shrunk(images):
    assert torch.equal(jitter(images, 0.0, 32), images)
    assert torch.allclose(jitter(images, 0.0, 16), torch.nn.functional.avg_pool2d(images, 2))


def test_gradients_reach_the_pictures_and_their_gradients(images):
    pictures = images.double()[:2, :, :8, :8].float().requires_grad_(True)
    out = augment(pictures, 0.8, seeded())
    (gradient,) = torch.autograd.grad(out.square().sum(), pictures, create_graph=True)
    assert gradient.abs().sum(dim=(1, 2, 3)).min() > 0

    direction = torch.randn(pictures.shape, generator=seeded(2))
    (second,) = torch.autograd.grad((gradient * direction).sum(), pictures)
    # Both geometry and colour are affine, so ∇ of a sum of squares is affine too and differences are exact.
    step = 1e-1
    moved = (pictures + step * direction).detach().requires_grad_(True)
    (above,) = torch.autograd.grad(augment(moved, 0.8, seeded()).square().sum(), moved)
    expected = ((above - gradient.detach()) / step * direction).sum()
    torch.testing.assert_close((second * direction).sum(), expected, rtol=1e-3, atol=1e-3)


def test_a_grey_picture_stays_grey():
    grey = torch.rand(16, 1, 16, 16, generator=seeded()).expand(-1, 3, -1, -1) * 2 - 1
    spread = augment(grey, 0.8, seeded(1)).std(dim=1)
    assert spread.max() < 1e-5


def test_half_precision_does_not_coarsen_what_the_discriminator_sees(images):
    with torch.autocast("cpu", torch.bfloat16):
        mixed = augment(images, 0.6, seeded())
    torch.testing.assert_close(mixed, augment(images, 0.6, seeded()))


# --- adapting


def run(augmentation: AdaptiveAugmentation, logit: float, steps: int) -> float:
    for _ in range(steps):
        augmentation.observe(torch.full((10, 1), logit))
        p = augmentation.adapt()
    return p


def test_p_rises_while_d_is_sure_and_stops_where_augmentations_leak():
    augmentation = AdaptiveAugmentation(images=1000)
    assert run(augmentation, 1.0, 4) == pytest.approx(0.04)  # 40 of 1000 pictures
    assert run(augmentation, 1.0, 400) == 0.8


def test_p_falls_while_d_is_not_sure_but_not_below_zero():
    augmentation = AdaptiveAugmentation(images=1000, p=0.06)
    assert run(augmentation, -1.0, 4) == pytest.approx(0.02)
    assert run(augmentation, -1.0, 8) == 0.0


def test_p_counts_the_pictures_of_all_processes_and_follows_their_mean():
    class UnsureElsewhere(Processes):
        def mean(self, value: torch.Tensor) -> torch.Tensor:
            return value - 1

    unsure_elsewhere = AdaptiveAugmentation(images=1000, p=0.5, processes=UnsureElsewhere(count=2))
    assert run(unsure_elsewhere, 1.0, 4) == pytest.approx(0.5 - 0.08)


def test_adapting_goes_on_from_its_state_between_two_moves():
    whole, first = AdaptiveAugmentation(images=1000), AdaptiveAugmentation(images=1000)
    run(first, 1.0, 6)
    second = AdaptiveAugmentation(images=1000)
    second.load_state_dict(first.state_dict())
    assert run(second, 1.0, 3) == run(whole, 1.0, 9)
    assert second.state_dict() == whole.state_dict()
