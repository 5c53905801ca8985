"""A style in the official release's layout, made in a second: the same keys and nesting, narrow layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dualstylegan.models import official
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.networks.sampler import CodeSampler
from dualstylegan.networks.stylegan2 import Generator

SIZE, DIM, ROWS = 32, 16, 8
NAMES = ["zoe.jpg", "adam.jpg", "mia.jpg", "Bob.jpg"]  # in no alphabet's order


def tiny_release(folder: Path, *, base_seed: int = 0, seed: int = 1, refined: bool = True) -> DualStyleGAN:
    """Write generator.pt, exstyle_code.npy and the rest into `folder`; returns the model. One g per `base_seed`."""
    folder.mkdir(parents=True)
    torch.manual_seed(base_seed)
    generator = Generator(SIZE, style_dim=DIM, mapping_layers=2, channels={4: 8, 8: 8, 16: 8, 32: 8})
    torch.manual_seed(seed)
    model = DualStyleGAN(generator).eval()
    with torch.no_grad():
        for _, parameter in model.extrinsic_parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    torch.save(
        {"g_ema": {_their_name(name): tensor for name, tensor in model.state_dict().items()}}, folder / "generator.pt"
    )

    kinds = ["exstyle_code", "instyle_code"] + ["refined_exstyle_code"] * refined
    for kind in kinds:
        codes = {name: torch.randn(1, ROWS, DIM).numpy() for name in NAMES}
        np.save(folder / f"{kind}.npy", codes)
    samplers = {"structure": CodeSampler(7, DIM, latent=8), "color": CodeSampler(ROWS - 7, DIM, latent=8)}
    state = {
        part: {official.release_name(key, official.SAMPLER_NAMES): tensor for key, tensor in net.state_dict().items()}
        for part, net in samplers.items()
    }
    torch.save(state, folder / "sampler.pt")
    return model


def _their_name(name: str) -> str:
    if name.startswith("generator."):
        return "generator." + official.release_name(name.removeprefix("generator."), official.GENERATOR_NAMES)
    return official.release_name(name, official.EXTRINSIC_NAMES)
