"""One file per portrait: what a long, sharded job has finished, so that a killed run goes on where it was.

Every file appears whole (temporary name, then rename) and carries a fingerprint of all that its numbers depend on:
a file made with other settings, another network or another picture of that name counts as missing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dualstylegan.errors import BadFileError, TrainingError
from dualstylegan.media.images import from_tensor
from dualstylegan.media.plan import shortened
from dualstylegan.media.sheets import strip
from dualstylegan.runtime.files import whole_file
from dualstylegan.training.portraits import load_portrait

SUFFIX = ".safetensors"
LEFT_OUT = "left-out"  # the folder of reasons


class PortraitResults:
    """A folder of NAME.safetensors, each the tensors of one portrait, valid for one `fingerprint` per portrait.

    A portrait whose file cannot be written is left out: beside them the folder says so.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def path(self, name: str) -> Path:
        return self.folder / file_of(name, SUFFIX)

    def has(self, name: str, fingerprint: str) -> bool:
        try:
            with safe_open(self.path(name), framework="pt") as file:
                return (file.metadata() or {}).get("fingerprint") == fingerprint
        except (OSError, SafetensorError):
            return False

    def write(self, name: str, tensors: Mapping[str, Tensor], fingerprint: str) -> None:
        """Store the tensors of one portrait, whole or not at all. Raises DualStyleGANError."""
        about = {"fingerprint": fingerprint, "name": _quoted(name)}  # a file's name may be too short for it
        contents = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, about)
        with whole_file(self.path(name)) as temporary:
            temporary.write_bytes(contents)
        self._excuse(name).unlink(missing_ok=True)

    def leave_out(self, name: str, reason: str) -> None:
        """Go on without a result of this portrait. Raises DualStyleGANError."""
        with whole_file(self._excuse(name)) as temporary:
            temporary.write_text(reason, encoding="utf-8", errors="surrogateescape")

    def left_out(self, names: Sequence[str]) -> dict[str, str]:
        """{name: reason} of those that were left out, in order."""
        excuses = {name: self._excuse(name) for name in names}
        return {
            name: path.read_text(encoding="utf-8", errors="surrogateescape")
            for name, path in excuses.items()
            if path.is_file()
        }

    def without_left_out(self, names: Sequence[str]) -> list[str]:
        """The names that were not left out, in order. Raises TrainingError where nothing remains."""
        left_out = self.left_out(names)
        if left_out and len(left_out) == len(names):
            raise TrainingError(
                f"{self.folder}: all {len(names)} portraits are left out. {next(iter(left_out.values()))}"
            )
        return [name for name in names if name not in left_out]

    def read(self, name: str, keys: Sequence[str] | None = None) -> dict[str, Tensor]:
        """The tensors of one portrait (or only `keys`). Raises BadFileError."""
        path = self.path(name)
        try:
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in keys or file.keys()}
        except (OSError, SafetensorError) as error:
            raise BadFileError(f"{path}: no result of portrait '{name}' ({error}); run the stage again.") from None

    def names(self) -> list[str]:
        """Every name that has a result, sorted."""
        return self.without_left_out(sorted(map(_name_in, self.folder.glob(f"[!.]*{SUFFIX}"))))

    def missing(self, fingerprints: Mapping[str, str]) -> list[str]:
        """The names whose result is absent or stale, in order."""
        return [name for name, fingerprint in fingerprints.items() if not self.has(name, fingerprint)]

    def stack(self, names: Sequence[str], key: str) -> Tensor:
        """(len(names), ...): the tensor `key` of every portrait, in order."""
        return torch.stack([self.read(name, [key])[key] for name in names])

    def grid(self, portraits: Iterable[tuple[str, Path]], previews: Mapping[str, str], most: int) -> np.ndarray:
        """A row each of up to `most` portraits, evenly chosen: the picture, and the stored previews {label: key}."""
        known = set(self.names())
        ordered = sorted((name, path) for name, path in portraits if name in known)
        places = sorted({round(i) for i in np.linspace(0, len(ordered) - 1, min(most, len(ordered)))})
        rows, names = [], [ordered[place][0] for place in places]
        for name, path in (ordered[place] for place in places):
            kept = [picture.permute(1, 2, 0).numpy() for picture in self.read(name, list(previews.values())).values()]
            rows.append([from_tensor(load_portrait(path, len(kept[0]))), *kept])
        labels, height_px = ["portrait", *previews], max(128, len(rows[0][0]))
        return strip(*rows, labels=labels, row_labels=names, height_px=height_px)

    def _excuse(self, name: str) -> Path:
        """Called by a hash: the name may be what cannot be written."""
        return self.folder / LEFT_OUT / hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def file_of(name: str, suffix: str) -> str:
    """The name of a portrait's file: quoted, as a portrait's may hold a subfolder's slash and nothing may leave the
    folder, and shortened where that is too long."""
    return shortened(_quoted(name) + suffix, kept=suffix)


def _quoted(name: str) -> str:
    return quote(os.fsencode(name), safe=" ()[],+@")


def _name_in(file: Path) -> str:
    quoted = file.name.removesuffix(SUFFIX)
    if "~" in quoted:
        with suppress(OSError, SafetensorError), safe_open(file, framework="pt") as content:
            quoted = (content.metadata() or {}).get("name", quoted)
    return os.fsdecode(unquote_to_bytes(quoted))


def fingerprint(*parts: object) -> str:
    """A short hash of anything with an exact repr or bytes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]


def fingerprints(
    paths: Mapping[str, Path], *shared: object, own: Mapping[str, Sequence[bytes]] | None = None
) -> dict[str, str]:
    """One a portrait: of what all share, its name, its picture, and what is its `own`."""
    return {
        name: fingerprint(*shared, name, hashlib.sha256(path.read_bytes()).digest(), *(own[name] if own else ()))
        for name, path in paths.items()
    }


def network_fingerprint(*networks: nn.Module) -> str:
    """A hash of all parameters and buffers: two equal networks have the same one."""
    digest = hashlib.sha256()
    for network in networks:
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(name.encode())
            digest.update(
                tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else b""
            )
            if not tensor.dim():
                digest.update(str(tensor.item()).encode())
    return digest.hexdigest()[:32]
