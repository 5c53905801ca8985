"""The small networks that ship with the package, ready to run; NOTICE says where their numbers come from.

`load_mtcnn`, `load_landmarks68`, `load_identity`, `load_mobilenet`, `load_matte` and `load_finish` return fresh, frozen
modules in eval mode on the CPU in float32. Nothing here is ever downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import TypeVar

import torch
from safetensors.torch import load as parse_safetensors
from torch import Tensor, nn

from dualstylegan.errors import BadFileError
from dualstylegan.networks.finish import FinishNet
from dualstylegan.networks.identity import IdentityNet
from dualstylegan.networks.landmarks68 import LandmarkNet
from dualstylegan.networks.matte import MatteNet
from dualstylegan.networks.mobilenet import MobileNetFeatures
from dualstylegan.networks.mtcnn import MTCNN

Net = TypeVar("Net", bound=nn.Module)
RANGE = ".range"  # "conv.weight.range" (O, 2): scale and minimum of each output channel of a weight kept in 8 bits


def load_mtcnn() -> MTCNN:
    """The face detector: proposals, refinement, boxes with five points."""
    return _load(MTCNN, "mtcnn")


def load_landmarks68() -> LandmarkNet:
    """Sixty-eight points of one upright face crop, iBUG order."""
    return _load(LandmarkNet, "landmarks68")


def load_identity() -> IdentityNet:
    """The identity embedding: 150 px face chips to 128 numbers."""
    return _load(IdentityNet, "identity")


def load_mobilenet() -> MobileNetFeatures:
    """Perceptual features at strides 1 to 16, in the places of VGG's."""
    return _load(MobileNetFeatures, "mobilenetv2")


def load_matte() -> MatteNet:
    """Which pixels of a 256 px picture belong to a person."""
    return _load(MatteNet, "matte")


def load_finish() -> FinishNet:
    """Drawn pictures four times as large, with the edges that this takes."""
    return _load(FinishNet, "finish")


def _load(build: Callable[[], Net], name: str) -> Net:
    net = build()
    net.load_state_dict(read_face_weights(name))
    # a processor pools and convolves few channels up to twice as fast where they lie side by side
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own stubs lack it
    return net.eval().requires_grad_(False)


def read_face_weights(name: str) -> dict[str, Tensor]:
    """State dict of an embedded network, in float32. Raises BadFileError when the installation lacks the file."""
    file = resources.files("dualstylegan.weights") / "faces" / f"{name}.safetensors"
    try:
        stored = parse_safetensors(file.read_bytes())
    except Exception as error:
        raise BadFileError(
            f"The embedded network '{name}' cannot be read ({error}): reinstall the dualstylegan package."
        ) from error
    return {key: _decode(tensor, stored.get(key + RANGE)) for key, tensor in stored.items() if not key.endswith(RANGE)}


def _decode(tensor: Tensor, limits: Tensor | None) -> Tensor:
    if limits is None:
        return tensor.float()
    scale, minimum = limits.reshape(-1, 2, *[1] * (tensor.dim() - 1)).unbind(1)
    return torch.addcmul(minimum, tensor.float(), scale)
