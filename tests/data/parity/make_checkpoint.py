"""Write synthetic checkpoints in the format of the official DualStyleGAN release.

The official files (`generator.pt`, `encoder.pt`, `exstyle_code.npy`, ...) are hundreds of
megabytes, so this script rebuilds files with the same keys, shapes, dtypes and nesting, filled
with numbers that depend only on (seed, key). `vectors-SEED.npz` holds what the official
implementation computes from exactly these numbers.

    python make_checkpoint.py OUT_DIR --seed 1 [--only generator encoder codes sampler ...]
"""

import argparse
import json
import zlib
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent


def normal(seed, key, shape):
    rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def fill(seed, key, shape, dtype="float32"):
    """The value of parameter or buffer `key`, as a tensor of `shape`."""
    if dtype == "int64":
        return torch.zeros(shape, dtype=torch.int64)
    if key.endswith(".kernel"):  # the [1, 3, 3, 1] filter; up-sampling has gain factor**2 = 4
        k = torch.tensor([1.0, 3.0, 3.0, 1.0])
        k = torch.outer(k, k)
        return k / k.sum() * (1 if key.startswith("convs.") else 4)
    x = normal(seed, key, shape)
    leaf = key.rsplit(".", 1)[-1]
    if key.endswith("running_var"):
        return 1 + 0.1 * x.abs()
    if key.endswith("running_mean"):
        return 0.1 * x
    if key.endswith("modulation.bias"):
        return 1 + 0.1 * x
    if ".norm.style." in key or ".norm2.style." in key:  # AdaIN affine: gamma half near 1
        if leaf == "weight":
            return 0.05 * x
        x = 0.1 * x
        x[: len(x) // 2] += 1
        return x
    if key.startswith(("generator.style.", "decoder.style.", "style.")):  # mapping / T_s, lr_mul 0.01
        return 100 * x if leaf == "weight" else 10 * x
    if key.endswith("noise.weight"):
        return 0.1 * x
    if key.startswith("res.") and tuple(shape) == (512, 512):  # T_c: near the identity
        return torch.eye(512) * 512**0.5 + 0.5 * x
    if leaf == "bias":
        return 0.1 * x
    if key.startswith(("encoder.", "input_layer.", "body.", "output_layer.", "features.")):
        if len(shape) == 1:  # batch-norm scale, or PReLU slope
            return 1 + 0.1 * x if key_is_norm(key) else 0.25 + 0.05 * x
        if key.startswith("encoder.styles.") and key.endswith("linear.weight"):
            return x
        fan_in = int(np.prod(shape[1:]))
        return x * (2 / fan_in) ** 0.5
    if key.startswith(("color.", "structure.")):
        return 1 + 0.1 * x if len(shape) == 1 else x / shape[1] ** 0.5
    return x


def key_is_norm(key):
    return key.rsplit(".", 1)[0] in NORMS


MANIFEST = json.loads((HERE / "manifest.json").read_text())
NORMS = {k.rsplit(".", 1)[0] for part in MANIFEST.values() for k in part if k.endswith("running_mean")}


def state_dict(part, seed):
    return {k: fill(seed, k, tuple(s), d) for k, (s, d) in MANIFEST[part].items()}


def codes(seed, kind, names):
    """An extrinsic style code dict as released: file name -> float32 array [1, 18, 512] in Z+."""
    return {n: normal(seed, f"{kind}/{n}", (1, 18, 512)).numpy() for n in names}


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("out", type=Path)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--style", default="cartoon")
    ap.add_argument(
        "--only", nargs="*", default=["generator", "encoder", "codes", "sampler", "arcface", "vgg", "discriminator256"]
    )
    a = ap.parse_args()
    style = a.out / a.style
    style.mkdir(parents=True, exist_ok=True)
    if "generator" in a.only:
        torch.save({"g_ema": state_dict("generator", a.seed)}, style / "generator.pt")
    if "encoder" in a.only:
        sd = state_dict("encoder", a.seed)
        torch.save(
            {
                "state_dict": sd,
                "latent_avg": 50 * normal(a.seed, "latent_avg", (18, 512)),
                "opts": {
                    "encoder_type": "GradualStyleEncoder",
                    "input_nc": 3,
                    "label_nc": 0,
                    "output_size": 1024,
                    "start_from_latent_avg": True,
                    "learn_in_w": False,
                    "device": "cpu",
                },
            },
            a.out / "encoder.pt",
        )
    if "codes" in a.only:
        names = [f"Cartoons_{i:05d}_01.jpg" for i in range(8)]
        np.save(style / "exstyle_code.npy", codes(a.seed, "exstyle", names))
        np.save(style / "refined_exstyle_code.npy", codes(a.seed, "refined", names))
        np.save(style / "instyle_code.npy", codes(a.seed, "instyle", names))
    if "sampler" in a.only:
        sd = state_dict("sampler", a.seed)
        torch.save(
            {p: {k[len(p) + 1 :]: v for k, v in sd.items() if k.startswith(p + ".")} for p in ("color", "structure")},
            style / "sampler.pt",
        )
    if "arcface" in a.only:
        torch.save(state_dict("arcface", a.seed), a.out / "model_ir_se50.pth")
    if "discriminator256" in a.only:
        torch.save({"d": state_dict("discriminator256", a.seed)}, a.out / "discriminator256.pt")
    if "vgg" in a.only:
        torch.save(state_dict("vgg", a.seed), a.out / "vgg19-dcbb9e9d.pth")


if __name__ == "__main__":
    main()
