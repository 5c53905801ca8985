"""Where a base's random faces come from: a Gaussian z, the codes it was trained on, or a sampling network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dualstylegan.errors import BadFileError
from dualstylegan.models.build import build
from dualstylegan.networks.sampler import CodeSampler


class Prior(Protocol):
    """A distribution of intrinsic codes: sample(n, rows, dim, generator) -> (n, rows, dim) in Z+, on the CPU."""

    def sample(self, n: int, rows: int, dim: int, generator: torch.Generator | None = None) -> Tensor: ...

    def settings(self) -> dict[str, Any]: ...

    def tensors(self) -> dict[str, Tensor]: ...


class GaussianPrior:
    """One unit Gaussian z per face, the same in every row: what a base trained on z wants (FFHQ)."""

    def sample(self, n: int, rows: int, dim: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(n, 1, dim, generator=generator).repeat(1, rows, 1)

    def settings(self) -> dict[str, Any]:
        return {"type": "z"}

    def tensors(self) -> dict[str, Tensor]:
        return {}


@dataclass
class CodePrior:
    """Faces near those a small base was trained on: `codes` (N, rows, dim), two of them mixed at a random row for a
    share `mixing` of the faces, plus Gaussian `jitter`."""

    codes: Tensor
    jitter: float = 0.1
    mixing: float = 0.9

    def sample(self, n: int, rows: int, dim: int, generator: torch.Generator | None = None) -> Tensor:
        first, second = self.codes[torch.randint(len(self.codes), (2, n), generator=generator)]
        crossover = torch.randint(1, rows, (n, 1), generator=generator)
        mixed = torch.rand(n, 1, generator=generator) < self.mixing
        from_second = (torch.arange(rows) >= crossover) & mixed
        faces = torch.where(from_second[..., None], second, first)
        return faces + self.jitter * torch.randn(n, rows, dim, generator=generator)

    def settings(self) -> dict[str, Any]:
        return {"type": "codes", "jitter": self.jitter, "mixing": self.mixing}

    def tensors(self) -> dict[str, Tensor]:
        return {"codes": self.codes}


@dataclass
class SamplerPrior:
    """Faces from a sampling network fitted to the training codes."""

    sampler: CodeSampler

    @torch.no_grad()
    def sample(self, n: int, rows: int, dim: int, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(n, self.sampler.latent, generator=generator)
        return self.sampler.eval()(noise)

    def settings(self) -> dict[str, Any]:
        return {"type": "sampler", "latent": self.sampler.latent}

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.sampler.state_dict())


def read_prior(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Prior:
    """The prior of a base with this header and these tensors. Raises BadFileError for a kind this version lacks."""
    settings = header.get("prior") or {"type": "z"}
    match settings["type"]:
        case "z":
            return GaussianPrior()
        case "codes":
            return CodePrior(tensors["codes"], settings.get("jitter", 0.1), settings.get("mixing", 0.9))
        case "sampler":
            latent = settings.get("latent", 128)
            return SamplerPrior(build(lambda: CodeSampler(header["rows"], header["style_dim"], latent), tensors))
        case unknown:
            raise BadFileError(f"{header['name']}: prior '{unknown}' is unknown to this version; upgrade dsg.")
