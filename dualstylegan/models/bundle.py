"""A model on disk: a folder of safetensors and a JSON header, kind "base" or "style".

A base holds g with f, and where it has them g's D, E, stage II's extrinsic path, all else that stage III goes on from
(the part `pretrain`) and its intrinsic prior. A style holds its extrinsic path, codes, samplers and thumbnails of its
exemplars, and names its base by hash. Folders are written whole or not at all; every part is checked against the
header's sha256 the first time a process reads it, in the cache the first time any does. Tensors may be stored in half
precision; they are float32 in memory.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dualstylegan.choices import TRUNCATION, row_weights
from dualstylegan.errors import BadFileError, DualStyleGANError, UsageError
from dualstylegan.models import zoo
from dualstylegan.models.codes import StyleBank
from dualstylegan.models.download import Notify, Progress
from dualstylegan.models.stage_two import StageTwo
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.networks.encoder import PSPEncoder
from dualstylegan.networks.residual_encoder import ResidualEncoder
from dualstylegan.networks.sampler import CodeSampler
from dualstylegan.networks.small_encoder import SmallEncoder
from dualstylegan.networks.stylegan2 import Discriminator, Generator
from dualstylegan.runtime.files import whole_file, whole_folder

FORMAT = 1
HEADER = "header.json"
VERIFIED = ".verified.json"  # {part: [size, mtime_ns, sha256]} of those found whole
BASE_PARTS = ("generator", "discriminator", "encoder", "encoder_wplus", "extrinsic", "pretrain", "prior")
STYLE_PARTS = ("extrinsic", "codes", "samplers", "thumbnails")
THUMBNAIL_PX = 256

Header = dict[str, Any]
State = dict[str, Tensor]


# The folder


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
            hashes[file.name] = _sha256(file)
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
    (folder / HEADER).write_text(json.dumps(header, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
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


_verified: set[tuple] = set()


def _verify(file: Path, sha256: str) -> None:
    """Hash a part once per state of the file: a gigabyte takes seconds. In the cache processes remember it together."""
    status = file.stat()
    state = [status.st_size, status.st_mtime_ns, sha256]
    seen = (str(file.resolve()), *state)
    if seen in _verified:
        return
    cached = file.resolve().is_relative_to(zoo.cache_home().resolve())
    if not cached or _remembered(file.parent).get(file.name) != state:
        if _sha256(file) != sha256:
            raise BadFileError(f"{file} is damaged: its sha256 is not the header's. Fetch or train the model again.")
        if cached:
            _remember(file, state)
    _verified.add(seen)


def _remembered(folder: Path) -> dict[str, Any]:
    try:
        states = json.loads((folder / VERIFIED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return states if isinstance(states, dict) else {}


def _remember(file: Path, state: list) -> None:
    """Where the cache can be written. Of two processes at once one may forget the other's part: it is hashed again."""
    with suppress(DualStyleGANError), whole_file(file.with_name(VERIFIED)) as temporary:
        temporary.write_text(json.dumps({**_remembered(file.parent), file.name: state}), encoding="utf-8")


def _sha256(file: Path) -> str:
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


# Where random faces come from


class Prior(Protocol):
    """A distribution of intrinsic codes: sample(n, rows, dim, generator) -> (n, rows, dim) in Z+, on the CPU."""

    def sample(self, n: int, rows: int, dim: int, generator: torch.Generator | None = None) -> Tensor: ...

    def settings(self) -> dict[str, Any]: ...

    def tensors(self) -> State: ...


class GaussianPrior:
    """One unit Gaussian z per face, the same in every row: what a base trained on z wants (FFHQ)."""

    def sample(self, n: int, rows: int, dim: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(n, 1, dim, generator=generator).repeat(1, rows, 1)

    def settings(self) -> dict[str, Any]:
        return {"type": "z"}

    def tensors(self) -> State:
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

    def tensors(self) -> State:
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

    def tensors(self) -> State:
        return dict(self.sampler.state_dict())


def _read_prior(header: Header, tensors: State) -> Prior:
    settings = header.get("prior") or {"type": "z"}
    match settings["type"]:
        case "z":
            return GaussianPrior()
        case "codes":
            return CodePrior(tensors["codes"], settings.get("jitter", 0.1), settings.get("mixing", 0.9))
        case "sampler":
            latent = settings.get("latent", 128)
            return SamplerPrior(_build(lambda: CodeSampler(header["rows"], header["style_dim"], latent), tensors))
        case unknown:
            raise BadFileError(f"{header['name']}: prior '{unknown}' is unknown to this version; upgrade dsg.")


# Bases


@dataclass
class Base:
    """A face generator and what was trained with it. Networks are in evaluation mode, on the CPU.

    `discriminator` is the one trained with g, from which g is fine-tuned. `extrinsic` is the state of stage II's
    extrinsic path, averaged, for `DualStyleGAN.load_extrinsic_state`; `pretrain` is what stage III needs beside it.
    Without that, or with its moments emptied to save room, stage III starts from the average and fresh optimisers.
    """

    header: Header
    generator: Generator
    discriminator: Discriminator | None = None
    encoder: nn.Module | None = None
    extrinsic: State | None = None
    prior: Prior | None = None
    encoder_wplus: nn.Module | None = None
    folder: Path | None = None
    pretrain: StageTwo | None = None

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
        return _with_extrinsic(self.generator, self.extrinsic)


def load_base(
    where: str | Path,
    *,
    parts: Collection[str] | None = None,
    offline: bool | None = None,
    notify: Notify | None = None,
    progress: Progress | None = None,
) -> Base:
    """A base by name, folder or run folder. `parts` names what to read beside the generator; None is everything.

    "ffhq" is fetched where it is not here yet; see `load_style` for `offline`, `notify` and `progress`. Raises
    UsageError for a name that does not exist, BadFileError for damaged files, DownloadError.
    """
    folder = zoo.find_base(where)
    if folder is None:
        from dualstylegan.models.convert import pull_base  # it writes bundles itself

        folder = pull_base(str(where), offline=offline, notify=notify, progress=progress)
    header = read_header(folder)
    if header["kind"] != "base":
        raise UsageError(f"{folder} is a style; a base is wanted.")

    def part(name: str) -> State | None:
        wanted = has_part(header, name) and (parts is None or name in parts)
        return read_part(folder, name, header) if wanted else None

    def network(name: str, factory: Callable[[], nn.Module]) -> nn.Module | None:
        state = part(name)
        return None if state is None else _build(factory, state, f"{folder / name}.safetensors")

    channels = _channels(header)
    generator = _build(lambda: _new_generator(header), read_part(folder, "generator", header), str(folder))
    pretrain = part("pretrain")
    encoder = network("encoder", lambda: _new_encoder(header["encoder"], header))
    if isinstance(encoder, ResidualEncoder):
        encoder.connect(generator)
    return Base(
        header,
        generator,
        network("discriminator", lambda: Discriminator(header["size"], channels=channels)),
        encoder,
        part("extrinsic"),
        _read_prior(header, part("prior") or {}) if parts is None or "prior" in parts else None,
        network("encoder_wplus", lambda: _new_encoder(header["encoder_wplus"], header)),
        folder,
        None if pretrain is None else StageTwo.of(pretrain),
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
    for name in ("encoder", "encoder_wplus"):
        header.pop(name, None)
        network = getattr(base, name)
        if network is not None:
            header[name] = _describe_encoder(network)
            parts[name] = network.state_dict()
    if base.discriminator is not None:
        parts["discriminator"] = base.discriminator.state_dict()
    if base.extrinsic is not None:
        parts["extrinsic"] = base.extrinsic
    if base.pretrain is not None:
        parts["pretrain"] = base.pretrain.tensors()
    prior = base.prior or GaussianPrior()
    header["prior"] = prior.settings()
    if prior.tensors():
        parts["prior"] = prior.tensors()
    return write_bundle(folder, header, parts, half=half)


# Styles


@dataclass
class Style:
    """A style on its base, ready to draw. Networks are in evaluation mode, on the CPU.

    `samplers` has "structure" and "color" where they were trained; `thumbnails` are the exemplars in ID order.
    """

    header: Header
    base_header: Header
    model: DualStyleGAN
    encoder: nn.Module | None
    bank: StyleBank
    samplers: dict[str, CodeSampler] | None = None
    thumbnails: list[Image.Image] | None = None
    prior: Prior | None = None
    encoder_wplus: nn.Module | None = None
    folder: Path | None = None
    base_folder: Path | None = None

    @property
    def name(self) -> str:
        return self.header["name"]

    def sample_intrinsic(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Intrinsic codes (n, rows, dim) in Z+ of random faces of the base; see `Base.sample_intrinsic`."""
        return Base(self.base_header, self.model.generator, prior=self.prior).sample_intrinsic(n, generator)


def load_style(
    where: str | Path,
    *,
    encoder: bool = True,
    wplus: bool = True,
    thumbnails: bool = False,
    offline: bool | None = None,
    notify: Notify | None = None,
    progress: Progress | None = None,
) -> Style:
    """A style by name, folder or run folder, on its base. An official style that is not here yet is fetched.

    `encoder`, `wplus` and `thumbnails` say whether to read these. `notify` takes lines for the user (licence, size),
    `progress` (file, bytes done, bytes in all). Raises UsageError for a name that does not exist, BadFileError for
    damaged files or a missing base, DownloadError.
    """
    folder = zoo.find_style(where)
    if folder is None:
        from dualstylegan.models.convert import pull_style  # it writes bundles itself

        folder = pull_style(str(where), offline=offline, notify=notify, progress=progress)
    header = read_header(folder)
    if header["kind"] != "style":
        raise UsageError(f"{folder} is a base, not a style; 'dsg styles' lists styles.")

    base_folder = base_of(folder, header)
    wanted = ["prior"] + ["encoder"] * encoder + ["encoder_wplus"] * (encoder and wplus)
    base = load_base(base_folder, parts=wanted)
    if base.header["size"] != header["size"] or base.header["style_dim"] != header["style_dim"]:
        raise BadFileError(f"{folder} is of another size than its base {base_folder}; train or fetch it again.")

    return Style(
        header,
        base.header,
        _with_extrinsic(base.generator, read_part(folder, "extrinsic", header)),
        base.encoder,
        _read_bank(folder, header),
        _read_samplers(folder, header),
        read_thumbnails(folder, header) if thumbnails else None,
        base.prior,
        base.encoder_wplus,
        folder,
        base_folder,
    )


def base_of(folder: Path, header: Header) -> Path:
    """The folder of a style's base, found by hash: embedded, in the cache, or near the style. Raises BadFileError."""
    base = header["base"]
    found = zoo.find_base_by_hash(base["sha256"], beside=folder, hint=base.get("path"))
    if found is None:
        raise BadFileError(
            f"The base model '{base.get('name', '?')}' ({base['sha256'][:12]}) of {folder} is missing: put its folder "
            f"beside the style's as 'base', or into {zoo.cache_home() / 'bases'}."
        )
    return found


def save_style(folder: str | Path, style: Style, *, half: Iterable[str] = ()) -> Path:
    """Write a style without its base, which it names by hash. `half` names parts to store in half precision.

    What the header does not say gets the method's defaults. See `write_bundle` for what it raises.
    """
    folder, model, base = Path(folder), style.model, style.base_header
    sha256 = base.get("sha256") or generator_sha256(model.generator.state_dict())
    named: dict[str, Any] = {"name": base.get("name", "base"), "sha256": sha256}
    if style.base_folder is not None and not zoo.is_shared(style.base_folder):
        named["path"] = Path(os.path.relpath(style.base_folder, folder)).as_posix()
    names = list(style.bank.names)
    header = {
        "kind": "style",
        "name": folder.name,
        "crop": base.get("crop", "ffhq"),
        "mask": "head",
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
    samplers = {}
    for kind in sorted({key.split(".", 1)[0] for key in state}, reverse=True):
        own = {key.removeprefix(f"{kind}."): tensor for key, tensor in state.items() if key.startswith(f"{kind}.")}
        outputs, latent = own["6.weight"].shape  # the last linear layer
        rows = outputs // header["style_dim"]
        samplers[kind] = _build(lambda rows=rows, latent=latent: CodeSampler(rows, header["style_dim"], latent), own)
    return samplers


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


# Networks from headers


def _build(factory: Callable[[], nn.Module], state: State, source: str = "this model") -> nn.Module:
    """The network with these tensors, in evaluation mode. It is never filled with initial values first."""
    with torch.device("meta"):
        network = factory()
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise BadFileError(f"{source} does not hold what its header says: {first}") from None
    return network.eval()


def _with_extrinsic(generator: Generator, state: State | None) -> DualStyleGAN:
    if state is None:
        return DualStyleGAN(generator).eval()
    with torch.device("meta"):
        model = DualStyleGAN(generator)
    wanted = model.extrinsic_state()
    wrong = [key for key in wanted if key not in state or state[key].shape != wanted[key].shape]
    if wrong:
        raise BadFileError(f"The extrinsic path does not fit its base: '{wrong[0]}' is missing or of another shape.")
    model.load_state_dict({key: state[key] for key in wanted}, strict=False, assign=True)
    return model.eval()


def _channels(header: Header) -> dict[int, int]:
    return {int(resolution): width for resolution, width in header["channels"].items()}


def _new_generator(header: Header) -> Generator:
    return Generator(
        header["size"],
        style_dim=header["style_dim"],
        mapping_layers=header.get("mapping_layers", 8),
        channels=_channels(header),
    )


def _describe_encoder(encoder: nn.Module) -> dict[str, Any]:
    described = {"type": "psp", "input_size": encoder.input_size, "space": encoder.space}
    if isinstance(encoder, SmallEncoder):
        described |= {"type": "small", "channels": encoder.channels}
    if isinstance(encoder, ResidualEncoder):
        described |= {"type": "residual", "channels": encoder.channels, "passes": encoder.passes}
    return described


def _new_encoder(described: dict[str, Any], header: Header) -> nn.Module:
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
