"""Speed of the 1024-px generator: seconds per image, and GFLOP/s beside this machine's own matrix product.

    python tests/bench/generator.py [--batches 1 4] [--repeats 3] [--threads N] [--clock wall|cpu] [--device cpu]

The model is the official-layout one of `tests/data/parity/make_checkpoint.py`, its extrinsic path at the default
weights: 176.4 GFLOP an image. Every time stands next to a product of two 4096 x 4096 matrices in the same type, taken
just before it; figures are medians. "Face's part" is what a photo shows through the mask "face", of one that ships with
the tests; its rate counts the whole picture's GFLOP. On a machine that others use, `--clock cpu` counts the CPU
seconds of one thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from devices import add_device_option, named, wait_for
from reference import NO_BFLOAT16

from dualstylegan.choices import row_weights
from dualstylegan.faces.crop import part_shown
from dualstylegan.faces.find import make_detector
from dualstylegan.media.images import read_picture
from dualstylegan.models.official import load_generator
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.runtime.devices import has_fast_bfloat16, pick_device

GFLOP_PER_IMAGE = 176.4
PARITY = Path(__file__).resolve().parents[1] / "data" / "parity"


def official_model() -> DualStyleGAN:
    """A model of the release's size, every number a function of its name."""
    spec = importlib.util.spec_from_file_location("make_checkpoint", PARITY / "make_checkpoint.py")
    make_checkpoint = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "generator.pt"
        torch.save({"g_ema": make_checkpoint.state_dict("generator", 1)}, path)
        return load_generator(path)


def peak_memory_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kilobytes on Linux


def measure(
    work: Callable[[], object], dtype: torch.dtype, device: torch.device, clock: Callable[[], float], repeats: int
) -> tuple[float, float]:
    """Median seconds of `work`, and of a 4096 x 4096 product, taken in turns."""
    matrix = torch.randn(4096, 4096, device=device).to(dtype)
    work(), matrix @ matrix
    wait_for(device)
    products, works = [], []
    for _ in range(repeats):
        start = clock()
        matrix @ matrix
        wait_for(device)
        middle = clock()
        work()
        wait_for(device)
        products.append(middle - start)
        works.append(clock() - middle)
    return statistics.median(works), statistics.median(products)


def psnr(image: torch.Tensor, exact: torch.Tensor) -> float:
    """Peak signal to noise in dB, the peak being the range of `exact`."""
    error = (image - exact).square().mean()
    return (10 * torch.log10((exact.max() - exact.min()) ** 2 / error)).item()


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    add_device_option(parser)
    options = parser.parse_args()
    device = pick_device(options.device)
    torch.set_num_threads(1 if options.clock == "cpu" else options.threads)
    clock = time.thread_time if options.clock == "cpu" else time.perf_counter

    model = official_model().to(device)
    torch.manual_seed(0)
    faces, styles = torch.randn(2, max(options.batches), model.rows, model.style_dim).to(device)
    weights = row_weights(model.rows, structure=0.75, color=1.0)
    prepared = model.prepare(styles[0], weights)

    (faces_found,) = make_detector("embedded").find([read_picture(PARITY.parent / "photos" / "astronaut.jpg").pixels])
    region = part_shown(faces_found[0], model.size)

    exact = model(faces[:1], styles[:1], weights=weights, truncation=0.75)
    print(f"{named(device)}; {model.size} px, {options.clock} clock")
    print(f"peak memory of a process that draws one face in float32: {peak_memory_gb():.2f} GB", flush=True)
    print(f"{'type':<10}{'batch':>6}{'style':>13}{'s/image':>9}{'GFLOP/s':>9}{'product':>9}{'fraction':>10}")
    fast = has_fast_bfloat16(device)
    for dtype in (torch.float32, torch.bfloat16) if fast else (torch.float32,):
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            for batch in options.batches:

                def own_styles(batch=batch):
                    return model(faces[:batch], styles[:batch], weights=weights, truncation=0.75)

                def one_style(batch=batch):
                    return model(faces[:batch], prepared, truncation=0.75)

                def part(batch=batch):
                    return model(faces[:batch], prepared, truncation=0.75, region=region)

                for name, work in (("each own", own_styles), ("prepared", one_style), ("face's part", part)):
                    seconds, product = measure(work, dtype, device, clock, options.repeats)
                    speed = GFLOP_PER_IMAGE * batch / seconds
                    peak = 2 * 4096**3 / product / 1e9
                    kind = str(dtype).removeprefix("torch.")
                    print(
                        f"{kind:<10}{batch:>6}{name:>13}{seconds / batch:>9.2f}{speed:>9.0f}{peak:>9.0f}"
                        f"{speed / peak:>10.2f}",
                        flush=True,
                    )
            if dtype is torch.bfloat16:
                print(f"bfloat16 against float32: {psnr(own_styles()[:1], exact):.1f} dB")
    if not fast:
        print(NO_BFLOAT16)


if __name__ == "__main__":
    main()
