"""Sampling networks: random extrinsic codes like a style's exemplars, structure and colour rows apart.

Trained by nearest-neighbour matching (GLANN: Hoshen, Li and Malik 2019, section 3.2): every code is matched to the
nearest of many random outputs, which is then pulled towards it. Since every code attracts something, none is left out,
as it would be by an adversarial loss with a hundred examples.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from dualstylegan.choices import STRUCTURE_ROWS
from dualstylegan.errors import TrainingError
from dualstylegan.networks.sampler import CodeSampler
from dualstylegan.recipe import Samplers
from dualstylegan.training.optimize import portrait_seed

PARTS = ("structure", "color")


def part_of(codes: Tensor, part: str) -> Tensor:
    """The rows (N, rows, dim) -> (N, rows of `part`, dim) a sampler of that part makes."""
    return codes[:, :STRUCTURE_ROWS] if part == "structure" else codes[:, STRUCTURE_ROWS:]


def train_sampler(
    codes: Tensor, *, settings: Samplers, seed: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[int, int, float, CodeSampler]]:
    """Train one sampler on codes (N, rows, dim); yields (epoch, epochs, mean squared error, the network) after each.

    The network of the last epoch, in evaluation mode, is the result. All chance comes from `seed`. Raises
    TrainingError for fewer than two codes.
    """
    if len(codes) < 2:
        raise TrainingError(f"A sampling network needs at least 2 exemplars, not {len(codes)}.")
    device = torch.device(device)
    chance = torch.Generator().manual_seed(seed)
    targets = _repeated(codes.float().cpu(), settings, chance).to(device)
    count = len(targets)
    epochs = max(1, round(settings.matches / count))

    sampler = _fresh(codes.shape[1], codes.shape[2], seed).to(device).train()
    optimizer = torch.optim.Adam(sampler.parameters(), lr=settings.lr)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, settings.halve_every, gamma=0.5)

    for epoch in range(epochs):
        noise = _normal(round(settings.draws * count), sampler.latent, chance, device)
        with torch.no_grad():
            matched = noise[nearest(targets, sampler(noise).flatten(1))]

        total = torch.zeros((), device=device)
        for rows in _whole_batches(count, settings.batch, chance):
            loss = mse_loss(sampler(matched[rows]).flatten(1), targets[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(rows)
        schedule.step()
        yield epoch + 1, epochs, float(total) / count, sampler

    sampler.eval().requires_grad_(False)


def train_samplers(
    extrinsic: Tensor, *, settings: Samplers, seed: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[str, int, int, float, CodeSampler]]:
    """Both networks on codes (N, rows, dim) in Z+: yields (part, epoch, epochs, error, network), structure first."""
    for part in PARTS:
        own_seed = portrait_seed(seed, f"sampler/{part}")
        for progress in train_sampler(part_of(extrinsic, part), settings=settings, seed=own_seed, device=device):
            yield (part, *progress)


@torch.no_grad()
def covered_exemplars(sampler: CodeSampler, codes: Tensor, *, samples: int = 1000, seed: int = 0) -> int:
    """How many distinct exemplars (N, rows, dim) are the nearest one to some of `samples` random outputs."""
    device = next(sampler.parameters()).device
    noise = _normal(samples, sampler.latent, torch.Generator().manual_seed(seed), device)
    return nearest(sampler.eval()(noise).flatten(1), codes.to(device).float().flatten(1)).unique().numel()


@torch.no_grad()
def nearest(of: Tensor, among: Tensor) -> Tensor:
    """For every row of `of` (N, D) the index of the nearest row of `among` (M, D): exact, by all distances.

    Codes have hundreds to thousands of dimensions, where no tree beats one matrix product.
    """
    return torch.cat([torch.cdist(rows, among).argmin(dim=1) for rows in of.split(1024)])


def _repeated(codes: Tensor, settings: Samplers, chance: torch.Generator) -> Tensor:
    """The codes as rows (M, rows x dim), repeated to about `settings.codes` in all and jittered."""
    repeats = max(1, round(settings.codes / len(codes)))
    rows = codes.flatten(1).repeat(repeats, 1)
    return rows + settings.jitter * torch.randn(rows.shape, generator=chance)


def _whole_batches(count: int, batch: int, chance: torch.Generator) -> Iterator[Tensor]:
    """A shuffled epoch in batches; one row left over joins the last batch, as batch statistics need two."""
    batches = list(torch.randperm(count, generator=chance).split(batch))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return iter(batches)


def _fresh(rows: int, style_dim: int, seed: int) -> CodeSampler:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CodeSampler(rows, style_dim)


def _normal(count: int, width: int, chance: torch.Generator, device: torch.device) -> Tensor:
    return torch.randn(count, width, generator=chance).to(device)
