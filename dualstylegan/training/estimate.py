"""What a run would do, how long it might take and how much memory: counted on networks without weights.

Floating-point operations are counted on torch's meta device and divided by the speed this machine shows on one
convolution. Treat the result as an order of magnitude: it knows nothing of other work on the machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dualstylegan.events import Event
from dualstylegan.models.build import new_generator
from dualstylegan.models.bundle import read_header
from dualstylegan.models.lookup import find_model
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.networks.mobilenet import MobileNetFeatures
from dualstylegan.networks.stylegan2 import Discriminator, Generator
from dualstylegan.recipe import Recipe
from dualstylegan.training.data import list_portraits
from dualstylegan.training.loop import mixed_precision
from dualstylegan.training.run import RunFolder

BACKWARD = 2.0  # as many operations as the forward pass, twice: for the input and for the weights
STATES = 5  # weights, gradients, two Adam moments and the average, float32 each
LATENT_PASSES = 2 * (1 + BACKWARD)  # fitting codes: g' and the judges, forwards and backwards
SLACK = 1.5  # convolutions other than the one measured, and everything that is no convolution


def plan(recipe: Recipe, folder: RunFolder) -> Iterator[Event]:
    """An event of kind plan for every stage (seconds, memory_mb where they can be told) and a note to read."""
    portraits = _count_portraits(recipe)  # first: without them nothing else is of interest
    costs = _Costs(recipe)
    total = 0.0
    for stage in recipe.stages:
        done = folder.is_done(stage)
        seconds, memory = costs.of(stage, portraits)
        total += 0 if done else seconds
        data = {"done": done, "steps": costs.steps(stage), "seconds": round(seconds, 3), "memory_mb": round(memory)}
        yield Event("plan", "train", stage=stage, total=costs.steps(stage), data=data)
        what = "done" if done else f"about {_duration(seconds)}, {memory / 1024:.1f} GB" if seconds else "seconds"
        steps = f"{costs.steps(stage)} steps" if costs.steps(stage) else ""
        yield Event("note", "train", stage=stage, message=f"{stage:10} {steps:12} {what}", data=data)
    message = (
        f"{recipe.name}: {portraits} portraits, about {_duration(total)} on one {costs.device.type} in {folder.path}"
    )
    yield Event("summary", "train", message=message, output=str(folder.path), data={"seconds": round(total, 1)})


class _Costs:
    """Operations and bytes of a recipe's networks per picture."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with torch.device("meta"):
            self.generator = self._generator()
            self.model = DualStyleGAN(self.generator)
            self.discriminator = Discriminator(self.generator.size, channels=self.generator.channels)
            judge = MobileNetFeatures()
        size, rows, dim = self.generator.size, self.generator.rows, self.generator.style_dim
        code, picture = torch.empty(1, rows, dim, device="meta"), torch.empty(1, 3, size, size, device="meta")
        self.g = _operations(self.generator, code)
        self.full = _operations(self.model, code, code)
        self.d = _operations(self.discriminator, picture)
        self.judges = _operations(judge, torch.empty(1, 3, min(size, 256), min(size, 256), device="meta"))
        self.speed = _measured_speed(recipe.precision, self.device) / SLACK

    def _generator(self) -> Generator:
        recipe = self.recipe
        if recipe.kind == "base":
            return new_generator(vars(recipe.base))
        folder = find_model(recipe.base_model, "base")
        # not here yet, and planning fetches nothing: the zoo's bases are config F
        return Generator(1024) if folder is None else new_generator(read_header(folder))

    def steps(self, stage: str) -> int:
        recipe = self.recipe
        match stage:
            case "base":
                return sum(phase.steps for phase in recipe.base.phases)
            case "pretrain":
                return sum(phase.steps for phase in recipe.pretrain.phases)
            case "finetune" | "destylize" | "transfer" | "refine":
                return getattr(recipe, stage).steps
        return 0

    def of(self, stage: str, portraits: int) -> tuple[float, float]:
        """(seconds, MB) of a stage."""
        recipe, train = self.recipe, 1 + BACKWARD
        match stage:
            case "base":
                work = sum(self._base_phase(phase) for phase in recipe.base.phases)
                batch = max(phase.batch for phase in recipe.base.phases)
            case "finetune":
                settings = recipe.finetune
                each = self._discriminator_step(self.g, settings) + train * self.g + 2 * self.d
                work, batch = settings.steps * settings.effective_batch * each, settings.effective_batch
            case "pretrain" | "transfer":
                settings = getattr(recipe, stage)
                each = self._discriminator_step(self.full, settings) + self.g
                each += train * self.full + 2 * self.d + 4 * self.judges
                each += train**2 * self.full / 2 / settings.path_every if settings.path else 0
                work, batch = self.steps(stage) * settings.effective_batch * each, settings.effective_batch
                batch = settings.batch or batch
            case "destylize" | "refine":
                settings = getattr(recipe, stage)
                work, batch = (
                    portraits * settings.steps * LATENT_PASSES * (self.full + self.judges),
                    settings.batch or 4,
                )
            case _:
                return 0.0, 0.0
        return work / self.speed, self._memory_mb(batch)

    def _discriminator_step(self, generator: float, settings) -> float:
        """Fakes, then D on real and generated pictures, and now and then its gradient's gradient."""
        lazily = (1 + BACKWARD) ** 2 * self.d / settings.r1_every if settings.r1 else 0
        return generator + 2 * (1 + BACKWARD) * self.d + lazily

    def _base_phase(self, phase) -> float:
        smaller = (phase.size / self.generator.size) ** 2
        each = (1 + BACKWARD) * (self.g + self.judges)
        if phase.adversarial:
            each += self._discriminator_step(self.g, self.recipe.base) + 2 * self.d
        return phase.steps * phase.batch * each * smaller

    def _memory_mb(self, batch: int) -> float:
        networks = (self.model, self.discriminator)
        weights = sum(p.numel() for network in networks for p in network.parameters()) * 4 * STATES
        return (weights + batch * _kept(self.generator) * 3) / 2**20 + 400  # torch itself


def _operations(network: nn.Module, *inputs: Tensor) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs)
    return float(counter.get_total_flops())


def _kept(generator: Generator) -> float:
    """Bytes that a picture's way through g leaves for the backward pass: about four maps for every convolution."""
    return sum(4 * 4 * generator.channels[side] * side**2 for side in generator.noise_sizes())


def _measured_speed(precision: str, device: torch.device) -> float:
    """Operations per second of one 3x3 convolution, forwards and backwards."""
    x = torch.randn(4, 64, 64, 64, device=device).contiguous(memory_format=torch.channels_last)
    convolution = nn.Conv2d(64, 64, 3, padding=1, device=device)
    operations = 3 * 2 * 4 * 64**2 * 64 * 64 * 9
    times = []
    for _ in range(4):
        began = time.perf_counter()
        with mixed_precision(precision, device):
            convolution(x).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return operations / min(times)


def _count_portraits(recipe: Recipe) -> int:
    return len(list_portraits(recipe.data)) if "data" in recipe.stages else 0


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
