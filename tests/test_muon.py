"""The optimiser of base training: orthogonal steps for weights, Adam for the rest, and a state that resumes."""

from __future__ import annotations

import copy

import torch
from torch import nn

from dualstylegan.training.muon import Muon, orthogonal


def test_every_direction_of_a_matrix_is_learnt_alike():
    torch.manual_seed(0)
    for shape in ((16, 40), (40, 16)):
        matrix = torch.randn(shape) @ torch.diag(torch.logspace(0, -1, shape[1]))  # some directions ten times weaker
        values = torch.linalg.svdvals(orthogonal(matrix))
        assert values.min() > 0.4 and values.max() < 1.4  # the quintic's band, and bfloat16's rounding
        cosine = (orthogonal(matrix) * matrix).sum()
        assert cosine > 0  # the same way, not the opposite one


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Tanh(), nn.Conv2d(16, 16, 3, padding=1), nn.Flatten())


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(8, 3, 8, 8, generator=generator)
    wanted = torch.cat([images, -images, images.roll(1, 2), images.roll(1, 3), images * 0.5], 1)[:, : 16 - 1]
    wanted = torch.cat([wanted, wanted[:, :1]], 1).flatten(1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (net(images) - wanted).square().mean()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_it_learns_and_small_tensors_are_adams():
    net = network()
    optimizer = Muon(net.parameters(), 0.002)
    assert [group["orthogonal"] for group in optimizer.param_groups] == [True, False]
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]
    before = train(net, optimizer, 1)
    assert train(net, optimizer, 150) < 0.5 * before


def test_training_goes_on_from_its_state_to_the_bit():
    net = network()
    optimizer = Muon(net.parameters(), 0.002)
    train(net, optimizer, 3)
    twin = copy.deepcopy(net)
    resumed = Muon(twin.parameters(), 0.002)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(net, optimizer, 3)
    train(twin, resumed, 3)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_what_has_no_gradient_stays_as_it_is():
    net = network()
    optimizer = Muon(net.parameters(), 0.002)
    frozen = [p.clone() for p in net[2].parameters()]
    net[0](torch.ones(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(frozen, net[2].parameters(), strict=True))
