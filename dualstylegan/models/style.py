"""A style on its base, in memory and as the folder it is kept in.

Its parts are the extrinsic path, codes, samplers and thumbnails of its exemplars; it names its base by hash.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dualstylegan.choices import TRUNCATION, row_weights
from dualstylegan.errors import BadFileError, UsageError
from dualstylegan.models.base import Base
from dualstylegan.models.build import Encoder, sampler_of, with_extrinsic
from dualstylegan.models.bundle import Header, generator_sha256, has_part, read_header, read_part, write_bundle
from dualstylegan.models.cache import is_shared
from dualstylegan.models.codes import StyleBank
from dualstylegan.models.priors import Prior
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.networks.sampler import CodeSampler

STYLE_PARTS = ("extrinsic", "codes", "samplers", "thumbnails")
THUMBNAIL_PX = 256


@dataclass
class Style:
    """A style on its base, ready to draw. Networks are in evaluation mode, on the CPU.

    `samplers` has "structure" and "color" where they were trained; `thumbnails` are the exemplars in ID order.
    """

    header: Header
    base_header: Header
    model: DualStyleGAN
    encoder: Encoder | None
    bank: StyleBank
    samplers: dict[str, CodeSampler] | None = None
    thumbnails: list[Image.Image] | None = None
    prior: Prior | None = None
    encoder_wplus: Encoder | None = None
    folder: Path | None = None
    base_folder: Path | None = None

    @property
    def name(self) -> str:
        return self.header["name"]

    def sample_intrinsic(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Intrinsic codes (n, rows, dim) in Z+ of random faces of the base; see `Base.sample_intrinsic`."""
        return Base(self.base_header, self.model.generator, prior=self.prior).sample_intrinsic(n, generator)


def read_style(folder: Path, base: Base, *, thumbnails: bool = False) -> Style:
    """The style in `folder` on its base, whose networks it shares. `thumbnails` says whether to read these.

    Raises BadFileError for damaged files or a base of another size.
    """
    header = read_header(folder)
    if base.header["size"] != header["size"] or base.header["style_dim"] != header["style_dim"]:
        raise BadFileError(f"{folder} is of another size than its base {base.folder}; train or fetch it again.")
    return Style(
        header,
        base.header,
        with_extrinsic(base.generator, read_part(folder, "extrinsic", header)),
        base.encoder,
        _read_bank(folder, header),
        _read_samplers(folder, header),
        read_thumbnails(folder, header) if thumbnails else None,
        base.prior,
        base.encoder_wplus,
        folder,
        base.folder,
    )


def save_style(folder: str | Path, style: Style, *, half: Iterable[str] = ()) -> Path:
    """Write a style without its base, which it names by hash. `half` names parts to store in half precision.

    What the header does not say gets the method's defaults. See `write_bundle` for what it raises.
    """
    folder, model, base = Path(folder), style.model, style.base_header
    sha256 = base.get("sha256") or generator_sha256(model.generator.state_dict())
    named: dict[str, Any] = {"name": base.get("name", "base"), "sha256": sha256}
    if style.base_folder is not None and not is_shared(style.base_folder):
        named["path"] = Path(os.path.relpath(style.base_folder, folder)).as_posix()
    names = list(style.bank.names)
    header = {
        "kind": "style",
        "name": folder.name,
        "crop": base.get("crop", "ffhq"),
        "mask": "head",
        "scene": "keep",
        "finish": False,
        "weights": row_weights(model.rows),
        "truncation": TRUNCATION,
        "default_exemplar": names[0] if names else None,
        **style.header,
        "size": model.size,
        "rows": model.rows,
        "style_dim": model.style_dim,
        "exemplars": names,
        "base": named,
    }
    header["default_exemplar"] = header["default_exemplar"] or (names[0] if names else None)
    if header["default_exemplar"] is not None:
        style.bank.index(header["default_exemplar"])
    codes = {"extrinsic": style.bank.plain, "intrinsic": style.bank.intrinsic, "refined": style.bank.refined}
    parts: dict[str, Mapping[str, Tensor]] = {
        "extrinsic": model.extrinsic_state(),
        "codes": {kind: tensor for kind, tensor in codes.items() if tensor is not None},
    }
    if style.samplers:
        parts["samplers"] = {
            f"{kind}.{key}": tensor for kind, net in style.samplers.items() for key, tensor in net.state_dict().items()
        }
    if style.thumbnails:
        parts["thumbnails"] = {f"{i:05d}": _to_jpeg(picture) for i, picture in enumerate(style.thumbnails)}
    return write_bundle(folder, header, parts, half=half)


def _read_bank(folder: Path, header: Header) -> StyleBank:
    codes = read_part(folder, "codes", header)
    try:
        return StyleBank(
            header["exemplars"], codes["extrinsic"], codes.get("intrinsic"), codes.get("refined"), style=header["name"]
        )
    except (KeyError, UsageError) as error:
        raise BadFileError(f"{folder / 'codes.safetensors'} does not fit the header: {error}") from None


def _read_samplers(folder: Path, header: Header) -> dict[str, CodeSampler] | None:
    if not has_part(header, "samplers"):
        return None
    state = read_part(folder, "samplers", header)
    samplers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        kind, _, name = key.partition(".")
        samplers.setdefault(kind, {})[name] = tensor
    # structure comes first, as everywhere
    return {kind: sampler_of(samplers[kind], header["style_dim"]) for kind in sorted(samplers, reverse=True)}


def read_thumbnails(folder: str | Path, header: Header | None = None) -> list[Image.Image] | None:
    """The exemplars' pictures in ID order, or None where the style has none."""
    header = read_header(folder) if header is None else header
    if not has_part(header, "thumbnails"):
        return None
    stored = read_part(folder, "thumbnails", header)
    if len(stored) != len(header["exemplars"]):
        raise BadFileError(f"{folder} has {len(stored)} thumbnails for {len(header['exemplars'])} exemplars.")
    try:
        return [Image.open(io.BytesIO(stored[key].numpy().tobytes())).convert("RGB") for key in sorted(stored)]
    except OSError as error:
        raise BadFileError(f"{Path(folder) / 'thumbnails.safetensors'} holds a damaged picture: {error}.") from None


def _to_jpeg(picture: Image.Image | np.ndarray) -> Tensor:
    """A picture's JPEG file as uint8 (bytes,), at most 256 px."""
    picture = (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).convert("RGB")
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=88)
    return torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8)
