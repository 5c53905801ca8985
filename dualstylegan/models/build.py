"""Networks from what headers say of them, filled with stored tensors; always in evaluation mode, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dualstylegan.errors import BadFileError
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.networks.encoder import PSPEncoder
from dualstylegan.networks.residual_encoder import ResidualEncoder
from dualstylegan.networks.sampler import CodeSampler
from dualstylegan.networks.small_encoder import SmallEncoder
from dualstylegan.networks.stylegan2 import Generator

Encoder = PSPEncoder | SmallEncoder | ResidualEncoder
FILLING = (torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.mul_, torch.Tensor.__imul__)
Network = TypeVar("Network", bound=nn.Module)


class _Unfilled(TorchFunctionMode):
    """Inside, parameters get memory but no initial values. (The meta device would do, but whatever it computes, such as
    a division, brings in torch's compiler and sympy: longer than a photo takes.)"""

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function is torch.randn:
            function = torch.empty
        elif function in FILLING:
            return args[0]
        return function(*args, **(kwargs or {}))


def build(factory: Callable[[], Network], state: Mapping[str, Tensor], source: str = "this model") -> Network:
    """The network with these tensors. It is never filled with initial values first. Raises BadFileError."""
    with _Unfilled():
        network = factory()
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise BadFileError(f"{source} does not hold what its header says: {first}") from None
    return network.eval()


def new_generator(described: Mapping[str, Any], size: int | None = None) -> Generator:
    """A fresh g and f as a header, or a recipe's `base` section, describes them; with `size` px instead of its own."""
    return Generator(
        size or described["size"],
        style_dim=described["style_dim"],
        mapping_layers=described.get("mapping_layers", 8),
        channels=channels_of(described),
    )


def channels_of(described: Mapping[str, Any]) -> dict[int, int]:
    return {int(resolution): width for resolution, width in described["channels"].items()}


def with_extrinsic(generator: Generator, state: Mapping[str, Tensor] | None) -> DualStyleGAN:
    """g, shared and not copied, with the extrinsic path `state`; None is a fresh one. Raises BadFileError."""
    if state is None:
        return DualStyleGAN(generator).eval()
    with _Unfilled():
        model = DualStyleGAN(generator)
    wanted = model.extrinsic_state()
    wrong = [key for key in wanted if key not in state or state[key].shape != wanted[key].shape]
    if wrong:
        raise BadFileError(f"The extrinsic path does not fit its base: '{wrong[0]}' is missing or of another shape.")
    model.load_state_dict({key: state[key] for key in wanted}, strict=False, assign=True)
    return model.eval()


def describe_encoder(encoder: Encoder) -> dict[str, Any]:
    """An encoder's entry of a header; `new_encoder` reads it."""
    described = {"type": "psp", "input_size": encoder.input_size, "space": encoder.space}
    if isinstance(encoder, SmallEncoder):
        described |= {"type": "small", "channels": encoder.channels}
    if isinstance(encoder, ResidualEncoder):
        described |= {"type": "residual", "channels": encoder.channels, "passes": encoder.passes}
    return described


def new_encoder(described: Mapping[str, Any], header: Mapping[str, Any]) -> Encoder:
    rows, dim, size = header["rows"], header["style_dim"], described["input_size"]
    match described["type"]:
        case "psp":
            return PSPEncoder(rows, dim, size, space=described["space"])
        case "small":
            encoder = SmallEncoder(rows, dim, size, channels=described["channels"])
            encoder.space = described["space"]
            return encoder
        case "residual":
            return ResidualEncoder(rows, dim, size, channels=described["channels"], passes=described["passes"])
        case unknown:
            raise BadFileError(f"{header['name']}: encoder '{unknown}' is unknown to this version; upgrade dsg.")


def sampler_of(state: Mapping[str, Tensor], style_dim: int) -> CodeSampler:
    """A sampling network of whatever size its tensors have."""
    outputs, latent = state["6.weight"].shape  # the last linear layer
    return build(lambda: CodeSampler(outputs // style_dim, style_dim, latent), state)
