"""A base: a face generator and what was trained with it, in memory and as the folder it is kept in.

Its parts are g with f, and where it has them g's D, the encoders, stage II's extrinsic path, all else that stage III
goes on from (`pretrain`) and its intrinsic prior.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dualstylegan.choices import TRUNCATION
from dualstylegan.models.build import (
    Encoder,
    Network,
    build,
    channels_of,
    describe_encoder,
    new_encoder,
    new_generator,
    with_extrinsic,
)
from dualstylegan.models.bundle import Header, State, generator_sha256, has_part, read_header, read_part, write_bundle
from dualstylegan.models.priors import GaussianPrior, Prior, read_prior
from dualstylegan.models.stage_two import StageTwo
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.networks.residual_encoder import ResidualEncoder
from dualstylegan.networks.stylegan2 import Discriminator, Generator

BASE_PARTS = ("generator", "discriminator", "encoder", "encoder_wplus", "extrinsic", "pretrain", "prior")


@dataclass
class Base:
    """A face generator and what was trained with it. Networks are in evaluation mode, on the CPU.

    `discriminator` is the one trained with g, from which g is fine-tuned. `extrinsic` is the state of stage II's
    extrinsic path, averaged, for `DualStyleGAN.load_extrinsic_state`; `stage_two` is what stage III needs beside it.
    Without that, or with its moments emptied to save room, stage III starts from the average and fresh optimisers.
    """

    header: Header
    generator: Generator
    discriminator: Discriminator | None = None
    encoder: Encoder | None = None
    extrinsic: State | None = None
    prior: Prior | None = None
    encoder_wplus: Encoder | None = None
    folder: Path | None = None
    stage_two: StageTwo | None = None

    @property
    def name(self) -> str:
        return self.header["name"]

    def sample_intrinsic(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Intrinsic codes (n, rows, dim) in Z+ of random faces, on g's device. `generator` is one of the CPU."""
        g = self.generator
        codes = (self.prior or GaussianPrior()).sample(n, g.rows, g.style_dim, generator)
        return codes.to(next(g.parameters()))

    def dualstyle(self) -> DualStyleGAN:
        """g with stage II's extrinsic path, or with a fresh one where the base has none. g is shared, not copied."""
        return with_extrinsic(self.generator, self.extrinsic)


def read_base(folder: Path, *, parts: Collection[str] | None = None) -> Base:
    """The base in `folder`. `parts` names what to read beside the generator; None is everything.

    Raises BadFileError for damaged files.
    """
    header = read_header(folder)

    def part(name: str) -> State | None:
        wanted = has_part(header, name) and (parts is None or name in parts)
        return read_part(folder, name, header) if wanted else None

    def network(name: str, factory: Callable[[], Network]) -> Network | None:
        state = part(name)
        return None if state is None else build(factory, state, f"{folder / name}.safetensors")

    stage_two = part("pretrain")
    generator = build(lambda: new_generator(header), read_part(folder, "generator", header), str(folder))
    encoder = network("encoder", lambda: new_encoder(header["encoder"], header))
    if isinstance(encoder, ResidualEncoder):
        encoder.connect(generator)
    return Base(
        header,
        generator,
        network("discriminator", lambda: Discriminator(header["size"], channels=channels_of(header))),
        encoder,
        part("extrinsic"),
        read_prior(header, part("prior") or {}) if parts is None or "prior" in parts else None,
        network("encoder_wplus", lambda: new_encoder(header["encoder_wplus"], header)),
        folder,
        None if stage_two is None else StageTwo.of(stage_two),
    )


def save_base(folder: str | Path, base: Base, *, half: Iterable[str] = ()) -> Path:
    """Write a base. The header's description of the networks is taken from them; what else it says is kept.

    `half` names parts to store in half precision. See `write_bundle` for what it raises.
    """
    g = base.generator
    parts: dict[str, Mapping[str, Tensor]] = {"generator": g.state_dict()}
    header = {
        "kind": "base",
        "name": Path(folder).name,
        "crop": "ffhq",
        "truncation": TRUNCATION,
        **base.header,
        "size": g.size,
        "rows": g.rows,
        "style_dim": g.style_dim,
        "mapping_layers": g.mapping_layers,
        "channels": {str(resolution): width for resolution, width in g.channels.items()},
        "sha256": generator_sha256(parts["generator"]),
    }
    for name, encoder in {"encoder": base.encoder, "encoder_wplus": base.encoder_wplus}.items():
        header.pop(name, None)
        if encoder is not None:
            header[name] = describe_encoder(encoder)
            parts[name] = encoder.state_dict()
    if base.discriminator is not None:
        parts["discriminator"] = base.discriminator.state_dict()
    if base.extrinsic is not None:
        parts["extrinsic"] = base.extrinsic
    if base.stage_two is not None:
        parts["pretrain"] = base.stage_two.tensors()
    prior = base.prior or GaussianPrior()
    header["prior"] = prior.settings()
    if prior.tensors():
        parts["prior"] = prior.tensors()
    return write_bundle(folder, header, parts, half=half)
