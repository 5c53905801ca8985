"""A model on disk: a folder of safetensors and a JSON header, kind "base" or "style".

Folders are written whole or not at all; every part is checked against the header's sha256 the first time a process
reads it, in the cache the first time any does. Tensors may be stored in half precision; they are float32 in memory.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dualstylegan.errors import BadFileError, DualStyleGANError, UsageError
from dualstylegan.models.cache import in_cache
from dualstylegan.runtime.files import json_text, read_table, whole_file, whole_folder

FORMAT = 1
HEADER = "header.json"
VERIFIED = ".verified.json"  # {part: [size, mtime_ns, sha256]} of those found whole

Header = dict[str, Any]
State = dict[str, Tensor]


def write_bundle(
    folder: str | Path,
    header: Mapping[str, Any],
    parts: Mapping[str, Mapping[str, Tensor]],
    *,
    half: Iterable[str] = (),
) -> Path:
    """Write a model's folder whole or not at all, in place of the one that was there.

    `parts` are stored as NAME.safetensors, those named in `half` in half precision; the header gets their sha256.
    Raises UsageError rather than replace a folder that is no model, DualStyleGANError when the disk refuses.
    """
    folder = Path(folder)
    with _replacing(folder) as temporary:
        hashes = {}
        for name, tensors in parts.items():
            file = temporary / f"{name}.safetensors"
            save_file(_for_disk(tensors, name in half), file)
            hashes[file.name] = sha256_of(file)
        _write_header(temporary, {"format": FORMAT, **header, "parts": hashes})
    return folder


def copy_bundle(source: str | Path, folder: str | Path, changes: Mapping[str, Any]) -> Path:
    """Copy a model, its parts checked on the way, with some entries of its header changed. Raises as `write_bundle`."""
    source, folder = Path(source), Path(folder)
    header = read_header(source)
    with _replacing(folder) as temporary:
        for file, sha256 in header["parts"].items():
            _verify(source / file, sha256)
            shutil.copyfile(source / file, temporary / file)
        _write_header(temporary, {**header, **changes})
    return folder


def read_header(folder: str | Path) -> Header:
    """A model's header, validated. Raises BadFileError in one line for anything that this version cannot use."""
    folder = Path(folder)
    try:
        header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise BadFileError(f"{folder} is no model: it has no {HEADER}.") from None
    except (OSError, ValueError) as error:
        raise BadFileError(f"{folder / HEADER} cannot be read ({error}); fetch or train the model again.") from None
    wrong = _fault_of(header)
    if wrong:
        raise BadFileError(f"{folder / HEADER}: {wrong}.")
    missing = [file for file in header["parts"] if not (folder / file).is_file()]
    if missing:
        raise BadFileError(f"{folder} lacks its part {missing[0]}; fetch or train the model again.")
    return header


def has_part(header: Mapping[str, Any], name: str) -> bool:
    return f"{name}.safetensors" in header["parts"]


def read_part(folder: str | Path, name: str, header: Mapping[str, Any] | None = None) -> State:
    """The tensors of one part, floating ones as float32. Raises BadFileError if it is damaged or absent."""
    folder = Path(folder)
    header = read_header(folder) if header is None else header
    file = folder / f"{name}.safetensors"
    if not has_part(header, name):
        raise BadFileError(f"{folder} has no part '{name}'; it has {', '.join(map(_stem, header['parts']))}.")
    _verify(file, header["parts"][file.name])
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise BadFileError(f"{file} cannot be read ({error}); fetch or train the model again.") from None
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}


def generator_sha256(state: Mapping[str, Tensor]) -> str:
    """A base's identity: the hash of g and f, names, shapes and values rounded to half precision.

    Rounding first gives a base and its half-precision copy the same identity, so styles fit both.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().to(torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """`whole_folder` for a model; files beside the parts of the one that was there (a model card) are kept."""
    there = (folder / HEADER).is_file()
    if folder.exists() and not there and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is no model; it is left alone. Choose another folder.")
    with whole_folder(folder) as temporary:
        try:
            yield temporary
        except SafetensorError as error:
            raise DualStyleGANError(f"Cannot write {folder}: {error}.") from None
        read_header(temporary)
        for file in folder.iterdir() if there else ():
            if file.suffix != ".safetensors" and file.name != HEADER:
                copy = shutil.copytree if file.is_dir() else shutil.copy2
                copy(file, temporary / file.name)


def _write_header(folder: Path, header: Mapping[str, Any]) -> None:
    (folder / HEADER).write_text(json_text(header, indent=1) + "\n", encoding="utf-8")
    for file in folder.glob("*.safetensors"):
        shutil.copymode(folder / HEADER, file)  # safetensors writes for the owner's eyes only


def _for_disk(tensors: Mapping[str, Tensor], half: bool) -> State:
    stored = {}
    for key, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        # vectors cost nothing and hold what is small or large: biases, norms; an optimiser's squares would underflow
        is_weight = tensor.ndim >= 2 and not key.endswith((".exp_avg", ".exp_avg_sq"))
        if half and is_weight and tensor.dtype == torch.float32 and tensor.abs().max() < 6e4:
            tensor = tensor.to(torch.float16)
        alone = tensor.untyped_storage().nbytes() == tensor.nbytes  # safetensors takes no two views of one storage
        stored[key] = tensor.contiguous() if alone else tensor.clone(memory_format=torch.contiguous_format)
    return stored


verified: set[tuple] = set()  # parts as this process has found them right


def _verify(file: Path, sha256: str) -> None:
    """Hash a part once per state of the file: a gigabyte takes seconds. In the cache processes remember it together."""
    status = file.stat()
    state = [status.st_size, status.st_mtime_ns, sha256]
    seen = (str(file.resolve()), *state)
    if seen in verified:
        return
    cached = in_cache(file)
    if not cached or read_table(file.with_name(VERIFIED)).get(file.name) != state:
        if sha256_of(file) != sha256:
            raise BadFileError(f"{file} is damaged: its sha256 is not the header's. Fetch or train the model again.")
        if cached:
            _remember(file, state)
    verified.add(seen)


def _remember(file: Path, state: list) -> None:
    """Where the cache can be written. Of two processes at once one may forget the other's part: it is hashed again."""
    verified = file.with_name(VERIFIED)
    with suppress(DualStyleGANError), whole_file(verified) as temporary:
        temporary.write_text(json.dumps({**read_table(verified), file.name: state}), encoding="utf-8")


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _stem(file: str) -> str:
    return file.removesuffix(".safetensors")


def _fault_of(header: Any) -> str | None:
    """What is wrong with a header, in a few words, or None."""
    if not isinstance(header, dict) or not isinstance(header.get("format"), int):
        return "no header of a model"
    if header["format"] > FORMAT:
        return f"format {header['format']} is of a newer dsg, this one reads {FORMAT}: upgrade dsg"
    kind = header.get("kind")
    if kind not in ("base", "style"):
        return f"kind is 'base' or 'style', not {kind!r}"
    wanted = {"name": str, "size": int, "rows": int, "style_dim": int, "parts": dict}
    wanted |= {"exemplars": list, "base": dict} if kind == "style" else {"channels": dict, "sha256": str}
    for key, type_ in wanted.items():
        if not isinstance(header.get(key), type_):
            return f"'{key}' is missing or of the wrong type"
    size = header["size"]
    if size < 32 or size & (size - 1) or header["rows"] != 2 * int(math.log2(size)) - 2:
        return f"{header['rows']} rows do not belong to a model of {size} px"
    if any(not re.fullmatch(r"\w+\.safetensors", file) for file in header["parts"]):
        return "a part's name is not NAME.safetensors"
    if kind == "style" and not re.fullmatch(r"[0-9a-f]{64}", str(header["base"].get("sha256"))):
        return "the base's sha256 is missing"
    needed = "generator" if kind == "base" else "extrinsic"
    return None if has_part(header, needed) else f"no part '{needed}'"
