"""Where stage II stopped, for stage III to go on from: weights as trained, D, and what Adam remembers of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass
class StageTwo:
    """Stage II's end beside its average, which `Base.extrinsic` is.

    `discriminator` is the one trained against G, not g's. `extrinsic` is the path as trained, None where only its
    average is known. Moments are {"NAME.exp_avg": ...} by parameter; an empty one means a fresh optimiser.
    """

    discriminator: State
    extrinsic: State | None = None
    extrinsic_moments: State = field(default_factory=dict)
    discriminator_moments: State = field(default_factory=dict)
    path_mean: float = 0.0

    def tensors(self) -> State:
        """All of it under "GROUP/NAME", as a bundle stores it."""
        groups = {
            "discriminator": self.discriminator,
            "extrinsic": self.extrinsic or {},
            "extrinsic_moments": self.extrinsic_moments,
            "discriminator_moments": self.discriminator_moments,
        }
        flat = {f"{group}/{name}": tensor for group, state in groups.items() for name, tensor in state.items()}
        return flat | {"path_mean": torch.tensor(self.path_mean)}

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> StageTwo:
        """What `tensors` gave."""

        def group(name: str) -> State:
            prefix = f"{name}/"
            return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}

        return StageTwo(
            group("discriminator"),
            group("extrinsic") or None,
            group("extrinsic_moments"),
            group("discriminator_moments"),
            float(tensors["path_mean"]),
        )


def moments_by_name(named: Iterable[tuple[str, Tensor]], optimizer: Mapping[str, Any]) -> State:
    """The moments in an Adam's state dict, whose parameters are `named`, in its order.

    Empty unless the number of parameters and every shape fit (but for dimensions of one): a wrong order must not pass.
    """
    named, moments = list(named), {}
    indices = [index for group in optimizer["param_groups"] for index in group["params"]]
    if len(indices) != len(named):
        return {}
    for index, (name, parameter) in zip(indices, named, strict=True):
        known = optimizer["state"].get(index)
        if known is None:  # never trained: Adam begins with it
            continue
        for key in ("exp_avg", "exp_avg_sq"):
            if _essential(known[key]) != _essential(parameter):
                return {}
            moments[f"{name}.{key}"] = known[key].detach().float().reshape(parameter.shape).cpu()
        moments[f"{name}.step"] = torch.tensor(float(known["step"]))
    return moments


def restore_moments(optimizer: torch.optim.Adam, names: Iterable[str], moments: Mapping[str, Tensor]) -> None:
    """Give an Adam of the parameters `names`, in its order, their `moments`; rates and decays stay its own."""
    state = {
        index: {key: moments[f"{name}.{key}"].clone() for key in MOMENTS}
        for index, name in enumerate(names)
        if f"{name}.step" in moments
    }
    if state:
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _essential(tensor: Tensor) -> list[int]:
    return [length for length in tensor.shape if length != 1]
