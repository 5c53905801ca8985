"""The losses of DualStyleGAN (Yang et al. 2022) and of the methods it stands on.

Images (B, 3, H, W), RGB, float in [-1, 1]; features {layer: (B, C, H, W)}; logits (B, 1); codes (B, rows, dim).
A loss of pictures returns one value per picture, (B,), so that a caller may average a batch or keep its rows apart.
Everything is unweighted: weights belong to recipes, intervals to loops.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize, softplus

# ------------------------------------------------------------------------------------------------------- adversarial


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Non-saturating logistic loss of D (Goodfellow et al. 2014, eq. 1), a scalar."""
    return softplus(-real_logits).mean() + softplus(fake_logits).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating logistic loss of G (Goodfellow et al. 2014, section 3), a scalar."""
    return softplus(-fake_logits).mean()


def r1_penalty(real_logits: Tensor, real_images: Tensor) -> Tensor:
    """½ E‖∇D(x)‖² (Mescheder et al. 2018, eq. 9), a scalar. `real_images` must require gradients."""
    (gradient,) = torch.autograd.grad(real_logits.sum(), real_images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean() / 2


def path_lengths(images: Tensor, codes: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """‖Jᵀy‖₂ of each picture, (B,), for y ~ N(0, 1) / sqrt(pixels) (Karras et al. 2020, eq. 4).

    `codes` (B, rows, dim) in W+, from which `images` were made; the norm is over dim, its square averaged over rows.
    The penalty is the squared distance of the lengths from their running mean.
    """
    y = torch.randn(images.shape, generator=generator, device=images.device) / (images[0, 0].numel() ** 0.5)
    (gradient,) = torch.autograd.grad((images * y).sum(), codes, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()


# --------------------------------------------------------------------------------------------------------- perceptual


def perceptual_loss(
    features: Mapping[str, Tensor], targets: Mapping[str, Tensor], weights: Mapping[Any, float]
) -> Tensor:
    """L_perc: weighted L1 distance of features, averaged within a layer (Johnson et al. 2016). (B,)"""
    each = (
        weight * (features[layer].float() - targets[layer].float()).abs().mean(dim=(1, 2, 3))
        for layer, weight in weights.items()
    )
    return cast(Tensor, sum(each))


def feature_matching_loss(
    features: Mapping[str, Tensor], targets: Mapping[str, Tensor], layers: Sequence[str] = ("relu2_1", "relu3_1")
) -> Tensor:
    """L_FM: squared distance of channel means, averaged within a layer, summed over layers. (B,)"""
    each = (
        (features[layer].float().mean(dim=(2, 3)) - targets[layer].float().mean(dim=(2, 3))).square().mean(dim=1)
        for layer in layers
    )
    return cast(Tensor, sum(each))


def contextual_loss(x: Tensor, y: Tensor, h: float = 0.2, *, center: str = "batch") -> Tensor:
    """CX(x, y): every feature of y wants a feature of x nearer to it than to y's others (Mechrez et al. 2018, eq. 4).

    Features (B, C, H, W), of any two sizes; `h` is the bandwidth. Both are centred by y's channel means, over the batch
    or, with `center="row"`, over each picture alone. Returns (B,).
    """
    with torch.autocast(x.device.type, enabled=False):  # bf16 cannot tell near cosines apart
        x, y = x.float().flatten(2), y.float().flatten(2)
        mean = y.mean(dim=(0, 2) if center == "batch" else 2, keepdim=True)
        x, y = normalize(x - mean, dim=1), normalize(y - mean, dim=1)
        return torch.stack([_contextual(one_x, one_y, h) for one_x, one_y in zip(x, y, strict=True)])


def _contextual(x: Tensor, y: Tensor, h: float) -> Tensor:
    """CX of unit features (C, N) and (C, M), a scalar.

    The similarity of y_j is its largest over all x_i, so gradients reach only the x_i that win some j: winners are
    found without a graph, a slice of the N x M matrix at a time, and only their rows are computed again with one.
    """
    with torch.no_grad():
        best = torch.full_like(y[0], -1.0)
        winner = torch.zeros_like(y[0], dtype=torch.long)
        for start in range(0, x.shape[1], _ROWS_AT_ONCE):
            affinity, index = _affinities(x[:, start : start + _ROWS_AT_ONCE], y, h).max(dim=0)
            winner = torch.where(affinity > best, index + start, winner)
            best = torch.maximum(affinity, best)
    if x.requires_grad or y.requires_grad:
        rows, position = winner.unique(return_inverse=True)
        best = _affinities(x[:, rows], y, h).gather(0, position[None])[0]
    return -torch.log(best.mean() + 1e-5)


_ROWS_AT_ONCE = 1024  # 4096 x 1024 float32 is 16 MiB


def _affinities(x: Tensor, y: Tensor, h: float) -> Tensor:
    """How much x_i prefers y_j among all y, (N, M): rows sum to 1 (Mechrez et al. 2018, eqs. 2, 3)."""
    distance = 1 - x.T @ y
    relative = distance / (distance.amin(dim=1, keepdim=True) + 1e-5)
    return torch.softmax((1 - relative) / h, dim=1)


def correspondence_loss(features: Sequence[Tensor], originals: Sequence[Tensor]) -> Tensor:
    """Cross-domain distance consistency (Ojha et al. 2021, eqs. 1 to 3): pictures of a batch are to be as near to one
    another as they were before. A scalar.

    Features (B, C, H, W) of every layer, of the same codes, after adaptation and before it. KL of the softmax over a
    picture's cosines with the others, averaged over pictures and layers. Fewer than three pictures say nothing: 0.
    """
    each = []
    for x, y in zip(features, originals, strict=True):
        after, before = _nearness(x), _nearness(y.detach())
        each.append((after.exp() * (after - before)).sum(dim=1).mean())
    return torch.stack(each).mean()


def _nearness(x: Tensor) -> Tensor:
    """Log-probabilities (B, B - 1) of the other pictures of a batch of features, by their cosines."""
    with torch.autocast(x.device.type, enabled=False):
        x = normalize(x.float().flatten(1), dim=1)
        others = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
        return torch.log_softmax((x @ x.T)[others].reshape(len(x), len(x) - 1), dim=1)


# ----------------------------------------------------------------------------------- identity, parameters, codes, noise


def identity_loss(embeddings: Tensor, targets: Tensor) -> Tensor:
    """L_ID: 1 - cos of unit vectors (B, dim) (Deng et al. 2019). (B,)"""
    return 1 - (embeddings.float() * targets.float()).sum(dim=1)


def parameter_norms(parameters: Iterable[Tensor]) -> Tensor:
    """L_reg: Σ‖p‖₂ over the tensors of the extrinsic path, a scalar (Yang et al. 2022, section 4.2)."""
    return torch.stack([parameter.norm() for parameter in parameters]).sum()


def row_spread(codes: Tensor) -> Tensor:
    """How far a code's rows differ: deviation over rows, averaged over columns (Yang et al. 2022, section 4.1). (B,)"""
    return codes.std(dim=1).mean(dim=1)


def noise_correlation(noise: Sequence[Tensor]) -> Tensor:
    """L_noise: auto-correlation of noise maps (B, 1, S, S) (Karras et al. 2020, appendix D). (B,)

    The sum over maps and scales of mean(n · right neighbour)² + mean(n · lower neighbour)²; each map is halved by 2x2
    means until a scale of at most 8 px has been counted.
    """
    total = noise[0].new_zeros(noise[0].shape[0])
    for maps in noise:
        while True:
            for axis in (2, 3):
                total = total + (maps * maps.roll(1, dims=axis)).mean(dim=(1, 2, 3)).square()
            if maps.shape[-1] <= 8:
                break
            maps = avg_pool2d(maps, 2)
    return total
