"""Training speed: images/s of a stage III step and of a plain adversarial step, bf16 and float32.

    python tests/bench/training.py [--size 128] [--batch 16] [--steps 3]

The model is the small base's (128 channels up to 32 px, then 64, 32; style_dim 128), its weights random. A plain step
is one update of D and one of G, without regularisers. A stage III step has all terms, MobileNetV2 and the embedded
identity net, averaged over a pair of steps (random faces, pairs); R1 and path length are timed apart and added at their
intervals.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from reference import NO_BFLOAT16

from dualstylegan.models.base import Base
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.networks.stylegan2 import Discriminator, Generator
from dualstylegan.recipe import Finetune, Transfer
from dualstylegan.runtime.devices import has_fast_bfloat16
from dualstylegan.runtime.processes import Processes
from dualstylegan.training.adversary import Adversary
from dualstylegan.training.data import Portraits
from dualstylegan.training.finetune import FinetuneStage
from dualstylegan.training.intrinsic import RandomFaces
from dualstylegan.training.loop import Phase, mixed_precision, only_training
from dualstylegan.training.perception import load_perception
from dualstylegan.training.portraits import Portrait
from dualstylegan.training.transfer import TransferStage

DIM = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()

    processes = Processes.launched()
    print(f"{processes.device}, {torch.get_num_threads()} threads, {options.size} px, batch {options.batch}")
    print(f"{'step':24} {'precision':10} {'images/s':>9} {'s/step':>8}")
    with tempfile.TemporaryDirectory() as folder:
        portraits = noise_portraits(Path(folder), options.size)
        fast = has_fast_bfloat16(processes.device)
        for precision in ("bf16", "float32") if fast else ("float32",):
            for name, seconds in (
                ("plain adversarial", time_plain(portraits, options, processes, precision)),
                ("stage III", time_transfer(portraits, options, processes, precision)),
            ):
                print(f"{name:24} {precision:10} {options.batch / seconds:9.2f} {seconds:8.2f}", flush=True)
        if not fast:
            print(NO_BFLOAT16)


def noise_portraits(folder: Path, size: int) -> list[Portrait]:
    chance = np.random.default_rng(0)
    portraits = []
    for index in range(8):
        path = folder / f"{index}.png"
        Image.fromarray(chance.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
        portraits.append(Portrait(path.name, path))
    return portraits


def new_generator(size: int) -> Generator:
    torch.manual_seed(0)
    channels = {side: 128 if side <= 32 else 4096 // side for side in (4, 8, 16, 32, 64, 128, 256) if side <= size}
    return Generator(size, style_dim=DIM, mapping_layers=4, channels=channels)


def new_adversary(generator: Generator, device: torch.device, r1: float) -> Adversary:
    discriminator = Discriminator(generator.size, channels=generator.channels).to(device)
    return Adversary(discriminator, lr=0.002, r1=r1, r1_every=16)


def time_plain(portraits: list[Portrait], options, processes: Processes, precision: str) -> float:
    """Seconds of D's and G's update."""
    generator, device = new_generator(options.size).to(processes.device), processes.device
    stage = FinetuneStage(
        generator,
        new_adversary(generator, device, r1=0.0),
        Portraits(portraits, options.size, device=device),
        RandomFaces(Base({}, generator), device, 0.9),
        Finetune(effective_batch=options.batch, path=0.0),
        share=(options.batch, 1),
        processes=processes,
    )
    return sum(time_phase(phase, options.steps, precision, device) for phase in stage.phases)


def time_transfer(portraits: list[Portrait], options, processes: Processes, precision: str) -> float:
    """Seconds of a whole step, regularisers counted at their intervals."""
    generator, device = new_generator(options.size).to(processes.device), processes.device
    settings = Transfer(effective_batch=options.batch)
    stage = TransferStage(
        DualStyleGAN(generator).to(device),
        new_adversary(generator, device, r1=10.0),
        Portraits(portraits, options.size, device=device),
        torch.randn(len(portraits), generator.rows, DIM),
        torch.randn(len(portraits), generator.rows, DIM),
        RandomFaces(Base({}, generator), device, settings.mixing),
        load_perception("mobilenet", "embedded", device=device),
        settings,
        noise_from=8,
        share=(options.batch, 1),
        processes=processes,
    )
    return sum(time_phase(phase, options.steps, precision, device) / phase.every for phase in stage.phases)


def time_phase(phase: Phase, steps: int, precision: str, device: torch.device) -> float:
    """The fastest pair of steps, halved: random faces and pairs in turn."""
    for _ in range(2):
        update(phase, 0, precision, device)
    return min(clock(lambda: [update(phase, step, precision, device) for step in (0, 1)]) for _ in range(steps)) / 2


def update(phase: Phase, step: int, precision: str, device: torch.device) -> None:
    parameters = [p for group in phase.optimizer.param_groups for p in group["params"]]
    with only_training(parameters):
        phase.optimizer.zero_grad(set_to_none=True)
        with mixed_precision(precision if phase.mixed else "float32", device):
            terms = phase.loss(phase.draw(step))
        sum(terms.values()).backward()
        phase.optimizer.step()


def clock(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
