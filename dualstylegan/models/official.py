"""The official release's files, read safely: `generator.pt`, `encoder.pt`, `*_code.npy`, `sampler.pt` and more.

Sizes, widths and row counts are inferred from the shapes in the file, keys nobody needs are ignored, and every network
comes back on the CPU, in float32 and in eval mode. Nothing in a file can run code: tensors are read by torch's
weights-only reader, codes by an unpickler that admits arrays and containers alone.

All loaders raise BadFileError (truncated, foreign, a tensor missing or of another shape) or UnsafeFileError (a pickle
that asks for more), with one line that names the file.
"""

from __future__ import annotations

import argparse
import codecs
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dualstylegan.errors import BadFileError, DualStyleGANError, UnsafeFileError
from dualstylegan.models.codes import StyleBank
from dualstylegan.models.stage_two import StageTwo, moments_by_name
from dualstylegan.networks.arcface import ArcFace
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.networks.encoder import PSPEncoder, Space
from dualstylegan.networks.lpips import LPIPS
from dualstylegan.networks.sampler import CodeSampler
from dualstylegan.networks.stylegan2 import Discriminator, Generator
from dualstylegan.networks.vgg import VGG16Features, VGG19Features

# Our names to the release's, as (pattern, replacement), tried in order; the first that matches the whole name is used.
GENERATOR_NAMES = [
    (r"mapping\.(.*)", r"style.\1"),
    (r"constant", r"input.input"),
    (r"noise_(\d+)", r"noises.noise_\1"),
    (r"convs\.0\.(.*)", r"conv1.\1"),
    (r"to_rgbs\.0\.(.*)", r"to_rgb1.\1"),
    (r"(convs|to_rgbs)\.(\d+)\.(.*)", lambda m: f"{m[1]}.{int(m[2]) - 1}.{m[3]}"),
]
LAYER_NAMES = [
    (r"(conv1|convs\.\d+)\.bias", r"\1.activate.bias"),
    (r"(conv1|convs\.\d+)\.noise_strength", r"\1.noise.weight"),
    (r"(.*)\.affine\.(.*)", r"\1.conv.modulation.\2"),
    (r"(.*)\.weight", r"\1.conv.weight"),
]
EXTRINSIC_NAMES = [
    (r"structure_transform\.(.*)", r"style.\1"),
    (r"color_transforms\.(\d+)\.(.*)", lambda m: f"res.{int(m[1]) + 7}.{m[2]}"),
    (r"modres\.(\d+)\.conv1\.weight", r"res.\1.conv.0.weight"),
    (r"modres\.(\d+)\.conv1\.bias", r"res.\1.conv.1.bias"),
    (r"modres\.(\d+)\.conv2\.weight", r"res.\1.conv2.0.weight"),
    (r"modres\.(\d+)\.conv2\.bias", r"res.\1.conv2.1.bias"),
    (r"modres\.(\d+)\.norm1\.affine\.(.*)", r"res.\1.norm.style.\2"),
    (r"modres\.(\d+)\.norm2\.affine\.(.*)", r"res.\1.norm2.style.\2"),
]
DISCRIMINATOR_NAMES = [
    (r"from_rgb\.weight", r"convs.0.0.weight"),
    (r"from_rgb\.bias", r"convs.0.1.bias"),
    (r"blocks\.(\d+)\.conv1\.weight", lambda m: f"convs.{int(m[1]) + 1}.conv1.0.weight"),
    (r"blocks\.(\d+)\.conv1\.bias", lambda m: f"convs.{int(m[1]) + 1}.conv1.1.bias"),
    # the release counts the filter before a strided convolution as a layer
    (r"blocks\.(\d+)\.conv2\.weight", lambda m: f"convs.{int(m[1]) + 1}.conv2.1.weight"),
    (r"blocks\.(\d+)\.conv2\.bias", lambda m: f"convs.{int(m[1]) + 1}.conv2.2.bias"),
    (r"blocks\.(\d+)\.skip\.weight", lambda m: f"convs.{int(m[1]) + 1}.skip.1.weight"),
    (r"last_conv\.weight", r"final_conv.0.weight"),
    (r"last_conv\.bias", r"final_conv.1.bias"),
    (r"hidden\.(.*)", r"final_linear.0.\1"),
    (r"logit\.(.*)", r"final_linear.1.\1"),
]
IR_SE50_NAMES = [
    (r"body\.stem\.(.*)", r"input_layer.\1"),
    (r"body\.blocks\.(\d+)\.residual\.(.*)", r"body.\1.res_layer.\2"),
    (r"body\.blocks\.(\d+)\.shortcut\.(.*)", r"body.\1.shortcut_layer.\2"),
]
ENCODER_NAMES = [
    *IR_SE50_NAMES,
    (r"lateral_middle\.(.*)", r"latlayer1.\1"),
    (r"lateral_fine\.(.*)", r"latlayer2.\1"),
    (r"heads\.(.*)", r"styles.\1"),
]
ARCFACE_NAMES = [
    *IR_SE50_NAMES,
    (r"norm_in\.(.*)", r"output_layer.0.\1"),
    (r"linear\.(.*)", r"output_layer.3.\1"),
    (r"norm_out\.(.*)", r"output_layer.4.\1"),
]
SAMPLER_NAMES = [
    (r"0\.(.*)", r"lin1.\1"),
    (r"1\.(.*)", r"bn1.\1"),
    (r"3\.(.*)", r"lin2.\1"),
    (r"4\.(.*)", r"bn2.\1"),
    (r"6\.(.*)", r"lin_out.\1"),
]


@dataclass
class Pretrained:
    """What a training checkpoint holds: `generator-pretrain.pt`, or `stylegan2-ffhq-config-f.pt` (g and d alone).

    `generator` is the averaged g, `extrinsic` the averaged state of DualStyleGAN.load_extrinsic_state. `stage_two` has
    that path as trained, both optimisers' moments by our names, each empty where it does not fit, and all else that
    stage III goes on from.
    """

    generator: Generator
    discriminator: Discriminator | None = None
    extrinsic: dict[str, Tensor] | None = None
    stage_two: StageTwo | None = None


def load_generator(path: str | Path) -> DualStyleGAN:
    """A style's `generator.pt`: g and the extrinsic path."""
    path = Path(path)
    return _dual_style_gan(_entry(read_checkpoint(path), "g_ema", path), path)


def load_pretrained(path: str | Path) -> Pretrained:
    """A checkpoint that training starts from, with or without the extrinsic path. Optimisers are there if they are."""
    path = Path(path)
    checkpoint = read_checkpoint(path)
    averaged = _entry(checkpoint, "g_ema", path)
    discriminator = None
    if "d" in checkpoint:
        discriminator = new_discriminator(_entry(checkpoint, "d", path), path)
    if not any(name.startswith("res.") for name in averaged):
        return Pretrained(_generator(averaged, path), discriminator)

    model = _dual_style_gan(averaged, path)
    live = _dual_style_gan(_entry(checkpoint, "g", path), path) if "g" in checkpoint else None
    stage_two = None
    if discriminator is not None:
        # the release's Adam got the blocks and T_c first, then T_s
        g_order = sorted(averaged, key=lambda name: not name.startswith("res."))
        d, d_order = list(discriminator.named_parameters()), checkpoint["d"]
        stage_two = StageTwo(
            discriminator.state_dict(),
            None if live is None else live.extrinsic_state(),
            _moments(checkpoint.get("g_optim"), model.extrinsic_parameters(), EXTRINSIC_NAMES, g_order),
            _moments(checkpoint.get("d_optim"), d, DISCRIMINATOR_NAMES, d_order),
        )
    return Pretrained(model.generator, discriminator, model.extrinsic_state(), stage_two)


def load_encoder(path: str | Path, *, space: Space | None = None) -> PSPEncoder:
    """`encoder.pt` or `encoder_wplus.pt`, without the decoder inside it.

    The file does not say whether its codes are Z+ or W+: `space` does, else "wplus" in the file's name means W+.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    tensors = _within(_entry(checkpoint, "state_dict", path), "encoder.")
    rows = _count(tensors, r"styles\.(\d+)\..*")
    strided = _count(tensors, r"styles\.0\.convs\.(\d+)\.weight")
    dim = _shape(tensors, "styles.0.linear.weight", path)[0]
    tensors["latent_avg"] = _tensor(checkpoint, "latent_avg", path)
    if tensors["latent_avg"].ndim == 1:  # encoders for one W share it between rows
        tensors["latent_avg"] = tensors["latent_avg"].expand(rows, -1)
    with torch.device("meta"):
        encoder = PSPEncoder(rows, dim, 16 * 2**strided, space=space or ("w+" if "wplus" in path.stem else "z+"))
    return _filled(encoder, tensors, ENCODER_NAMES, path)


def load_codes(
    path: str | Path, *, refined: str | Path | None = None, intrinsic: str | Path | None = None
) -> StyleBank:
    """`exstyle_code.npy` as a StyleBank in the file's order; optionally with the refined and the intrinsic codes."""
    codes = read_codes(path)

    def alike(other: str | Path | None) -> Tensor | None:
        if other is None:
            return None
        found = read_codes(other)
        missing = [name for name in codes if name not in found]
        if missing:
            raise BadFileError(f"{other}: no code for '{missing[0]}', which {Path(path).name} has.")
        return torch.stack([found[name] for name in codes])

    return StyleBank(tuple(codes), torch.stack(list(codes.values())), alike(intrinsic), alike(refined))


def load_sampler(path: str | Path, *, style_dim: int = 512) -> dict[str, CodeSampler]:
    """`sampler.pt`: {"structure": rows 0-6, "color": the rest}, each noise (B, 128) to codes in Z+."""
    path = Path(path)
    checkpoint = read_checkpoint(path)
    samplers = {}
    for part in ("structure", "color"):
        tensors = dict(_entry(checkpoint, part, path))
        outputs, latent = _shape(tensors, "lin_out.weight", path)
        with torch.device("meta"):
            sampler = CodeSampler(outputs // style_dim, style_dim, latent)
        samplers[part] = _filled(sampler, tensors, SAMPLER_NAMES, path)
    return samplers


def load_arcface(path: str | Path) -> ArcFace:
    """`model_ir_se50.pth`."""
    path = Path(path)
    with torch.device("meta"):
        arcface = ArcFace()
    return _filled(arcface, read_checkpoint(path), ARCFACE_NAMES, path)


def load_vgg(path: str | Path, layers: Sequence[str] | None = None) -> VGG16Features | VGG19Features:
    """torchvision's `vgg19-*.pth` or `vgg16-*.pth`: the features up to the last of `layers`."""
    path = Path(path)
    tensors = read_checkpoint(path)
    kind = VGG19Features if "features.34.weight" in tensors else VGG16Features
    with torch.device("meta"):
        network = kind() if layers is None else kind(layers)
    # torchvision counts ReLUs and pools too: the n-th convolution of block b comes after 2 (n - 1) + (b - 1) others
    numbers = {name: 2 * i + int(name[0]) - 1 for i, name in enumerate(network.convs)}
    names = [(r"convs\.(\d_\d)\.(.*)", lambda m: f"features.{numbers[m[1]]}.{m[2]}")]
    return _filled(network, tensors, names, path)


def load_lpips(path: str | Path, vgg16: str | Path) -> LPIPS:
    """LPIPS 0.1: its five linear layers (`vgg.pth`) on torchvision's VGG16."""
    path = Path(path)
    tensors = read_checkpoint(path)
    lpips = LPIPS(load_vgg(vgg16, ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")))
    for i, (layer, weight) in enumerate(lpips.weights.items()):
        found = _tensor(tensors, f"lin{i}.model.1.weight", path)
        lpips.weights[layer] = nn.Parameter(_fitted(found, weight.shape, f"lin{i}.model.1.weight", path))
    return lpips.eval()


# Reading


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A `.pt` file of tensors, containers and argparse.Namespace, on the CPU; if zipped, mapped instead of read."""
    path = Path(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError as error:
        raise BadFileError(f"{path}: {error.strerror or error}.") from error
    except Exception as error:
        unsafe = re.search(r"unsupported (?:global: )?GLOBAL (\S+)", str(error), re.IGNORECASE)
        if unsafe:
            raise UnsafeFileError(
                f"{path}: refused, its pickle asks for '{unsafe[1]}'; only tensors, containers and "
                "argparse.Namespace are read. Nothing in it was run."
            ) from error
        raise BadFileError(
            f"{path}: not a PyTorch checkpoint, or truncated ({path.stat().st_size:,} bytes). Fetch it again."
        ) from error
    if not isinstance(checkpoint, dict):
        raise BadFileError(f"{path}: holds a {type(checkpoint).__name__}, not a dictionary of tensors.")
    return checkpoint


def read_codes(path: str | Path) -> dict[str, Tensor]:
    """A pickled {file name: (1, rows, dim)} as the release saves it, to {file name: (rows, dim)} in its order."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            dtype = header(file)[-1]
            stored: Any = _ArrayUnpickler(file, path).load() if dtype.hasobject else None
        codes = {name: torch.from_numpy(np.array(code, dtype=np.float32)) for name, code in stored.item().items()}
        codes = {name: code.reshape(code.shape[-2:]) for name, code in codes.items()}
        whole = len({code.shape for code in codes.values()}) == 1 and all(isinstance(name, str) for name in codes)
    except DualStyleGANError:
        raise
    except OSError as error:
        raise BadFileError(f"{path}: {error.strerror or error}.") from error
    except Exception as error:
        raise BadFileError(f"{path}: not a dictionary of style codes, or truncated. Fetch it again.") from error
    if not whole:
        raise BadFileError(f"{path}: its style codes are not of one shape (1, rows, dim).")
    return codes


class _ArrayUnpickler(pickle.Unpickler):
    """Admits what an object array of float arrays is made of, nothing else."""

    def __init__(self, file, path: Path):
        super().__init__(file, encoding="latin1")
        self.path = path

    def find_class(self, module: str, name: str):
        admitted = {
            "multiarray._reconstruct": _empty_array,
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
            "_codecs.encode": _latin1,
        }
        key = f"{module}.{name}".removeprefix("numpy.core.").removeprefix("numpy._core.")
        if key not in admitted:
            raise UnsafeFileError(
                f"{self.path}: refused, its pickle asks for '{module}.{name}'; only arrays and dictionaries are read. "
                "Nothing in it was run."
            )
        return admitted[key]


def _empty_array(kind: type, _shape: tuple[int, ...], _dtype: bytes) -> np.ndarray:
    """The array whose contents the pickle sets next; `kind` can only be what find_class admits."""
    if kind is not np.ndarray:
        raise pickle.UnpicklingError("not an array")
    return np.ndarray((0,), dtype="b")


def _latin1(text: str, _encoding: str) -> bytes:
    """Bytes in a pickle of protocol 2."""
    return codecs.latin_1_encode(text)[0]


# Building


def _generator(tensors: Mapping[str, Tensor], path: Path) -> Generator:
    constant = _shape(tensors, "input.input", path)
    convs = _count(tensors, r"convs\.(\d+)\.conv\.weight")
    channels = {4: constant[1]}
    for i in range(0, convs, 2):
        channels[8 * 2 ** (i // 2)] = _shape(tensors, f"convs.{i}.conv.weight", path)[-4]
    dim = _shape(tensors, "style.1.weight", path)[1]
    layers = _count(tensors, r"style\.(\d+)\.weight")
    with torch.device("meta"):
        generator = _checked(
            path, lambda: Generator(max(channels), style_dim=dim, mapping_layers=layers, channels=channels)
        )
    return _filled(generator, tensors, GENERATOR_NAMES, path)


def _dual_style_gan(tensors: Mapping[str, Tensor], path: Path) -> DualStyleGAN:
    generator = _generator(_within(tensors, "generator."), path)
    with torch.device("meta"):
        model = DualStyleGAN(generator)
    names = [*EXTRINSIC_NAMES, (r"generator\.(.*)", lambda m: "generator." + release_name(m[1], GENERATOR_NAMES))]
    return _filled(model, tensors, names, path)


def new_discriminator(tensors: Mapping[str, Tensor], path: Path) -> Discriminator:
    blocks = _count(tensors, r"convs\.(\d+)\.skip\.1\.weight")
    size = 4 * 2**blocks
    channels = {size: _shape(tensors, "convs.0.0.weight", path)[0]}
    for i in range(1, blocks + 1):
        channels[size // 2**i] = _shape(tensors, f"convs.{i}.conv2.1.weight", path)[0]
    with torch.device("meta"):
        discriminator = _checked(path, lambda: Discriminator(size, channels=channels))
    return _filled(discriminator, tensors, DISCRIMINATOR_NAMES, path)


def _moments(
    optimizer: Mapping[str, Any] | None,
    parameters: Iterable[tuple[str, Tensor]],
    names: list[tuple],
    order: Iterable[str],
) -> dict[str, Tensor]:
    """Adam's moments by our names. `order` is the release's tensors, in the order its optimiser got the parameters."""
    ours = {release_name(name, names): (name, parameter) for name, parameter in parameters}
    if optimizer is None:
        return {}
    try:
        return moments_by_name((ours[name] for name in order if name in ours), optimizer)
    except (AttributeError, KeyError, TypeError, ValueError):  # another one than Adam
        return {}


def _checked(path: Path, build):
    """What `build` makes; its complaint about impossible shapes becomes one about the file."""
    try:
        return build()
    except DualStyleGANError as error:
        raise BadFileError(f"{path}: {error}") from error


def release_name(name: str, names: list[tuple]) -> str:
    """The release's name of our tensor `name`."""
    for pattern, replacement in names:
        match = re.fullmatch(pattern, name)
        if match:
            name = match.expand(replacement) if isinstance(replacement, str) else replacement(match)
            break
    if names is GENERATOR_NAMES and re.match(r"(conv1|convs|to_rgb1|to_rgbs)\.", name):
        return release_name(name, LAYER_NAMES)
    return name


def _filled(network: nn.Module, tensors: Mapping[str, Any], names: list[tuple], path: Path) -> Any:
    """`network`, built on the meta device, with the file's tensors; eval mode."""
    state = {}
    for name, parameter in network.state_dict().items():
        theirs = release_name(name, names)
        state[name] = _fitted(_tensor(tensors, theirs, path), parameter.shape, theirs, path)
    network.load_state_dict(state, assign=True)
    return network.eval()


def _fitted(tensor: Tensor, shape: Sequence[int], name: str, path: Path) -> Tensor:
    """`tensor` as float32 in `shape`, which may differ in dimensions of one only."""
    if [n for n in tensor.shape if n != 1] != [n for n in shape if n != 1]:
        raise BadFileError(f"{path}: '{name}' is {tuple(tensor.shape)}, expected {tuple(shape)}.")
    tensor = tensor.detach().reshape(tuple(shape))
    # a copy either way: the file is mapped
    return tensor.to(torch.float32, copy=True) if tensor.is_floating_point() else tensor.clone()


def _entry(checkpoint: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    entry = checkpoint.get(key)
    if not isinstance(entry, Mapping):
        found = ", ".join(f"'{name}'" for name in list(checkpoint)[:4]) or "nothing"
        raise BadFileError(f"{path}: no '{key}' in it; it holds {found}. Is it the file you meant?")
    return entry


def _tensor(tensors: Mapping[str, Any], name: str, path: Path) -> Tensor:
    tensor = tensors.get(name)
    if not isinstance(tensor, Tensor):
        raise BadFileError(f"{path}: no tensor '{name}' in it. Is it the file you meant?")
    return tensor


def _shape(tensors: Mapping[str, Any], name: str, path: Path) -> torch.Size:
    return _tensor(tensors, name, path).shape


def _within(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _count(tensors: Mapping[str, Any], pattern: str) -> int:
    """How many different numbers the pattern's group has among the names."""
    return len({match[1] for match in map(re.compile(pattern).fullmatch, tensors) if match})
