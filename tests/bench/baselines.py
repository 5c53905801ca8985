"""What a fine-tuned generator g' can do without DualStyleGAN: the paper's comparisons and our yardstick.

Both need nothing but g and g', which share one latent space (g' was fine-tuned from g).
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor

from dualstylegan.choices import STRUCTURE_ROWS
from dualstylegan.errors import UsageError
from dualstylegan.networks.stylegan2 import Generator

STRUCTURE_PX = 32  # the last resolution of the structure rows


def swap_layers(
    generator: Generator, finetuned: Generator, *, structure: Literal["finetuned", "base"] = "finetuned"
) -> Generator:
    """A generator with the layers up to 32 px of one and the rest of the other (Toonify: Pinkney and Adler 2020).

    `structure="finetuned"` puts g' shapes under g's textures, "base" g's shapes under g' textures; f is g's. Raises
    UsageError for generators of different architectures.
    """
    _demand_alike(generator, finetuned)
    low, high = (finetuned, generator) if structure == "finetuned" else (generator, finetuned)
    swapped = copy.deepcopy(high)
    swapped.mapping.load_state_dict(generator.mapping.state_dict())
    with torch.no_grad():
        swapped.constant.copy_(low.constant)
        for row, side in enumerate(low.noise_sizes()):
            if side <= STRUCTURE_PX:
                swapped.convs[row].load_state_dict(low.convs[row].state_dict())
                swapped.stored_noise()[row].copy_(low.stored_noise()[row])
        for layer, side in enumerate(low.channels):
            if side <= STRUCTURE_PX:
                swapped.to_rgbs[layer].load_state_dict(low.to_rgbs[layer].state_dict())
    return swapped.eval()


@torch.no_grad()
def mix_styles(
    finetuned: Generator,
    intrinsic: Tensor,
    extrinsic: Tensor,
    *,
    truncation: float = 1.0,
    intrinsic_space: str = "z+",
    extrinsic_space: str = "z+",
) -> Tensor:
    """g' draws faces with the exemplar's colour rows (UI2I-style: Kwong, Huang and Liao 2021). Images (B, 3, S, S).

    Codes (B, rows, dim); one `extrinsic` row may serve all. `truncation` multiplies the intrinsic W+ code.
    """
    own = finetuned.to_w_plus(intrinsic, intrinsic_space) * truncation
    style = finetuned.to_w_plus(extrinsic, extrinsic_space).expand_as(own)
    mixed = torch.cat([own[:, :STRUCTURE_ROWS], style[:, STRUCTURE_ROWS:]], dim=1)
    return finetuned(mixed, space="w+")


def _demand_alike(generator: Generator, finetuned: Generator) -> None:
    a, b = ((g.size, g.style_dim, tuple(g.channels.items())) for g in (generator, finetuned))
    if a != b:
        raise UsageError(f"Only generators of one architecture can swap layers; these are {a[0]} px and {b[0]} px.")
