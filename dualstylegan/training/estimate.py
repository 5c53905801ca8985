"""What a run would do, how long it might take and how much memory: counted on networks without weights.

Floating-point operations are counted on torch's meta device and divided by the speeds this machine shows on a small
generator for some seconds: alone, and as busy as it is now. What a network costs however small it is, is measured too.
Both ends are told; treat them as orders of magnitude.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

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
PASSES = 8  # through networks in a step: fakes, D on two kinds of picture, its penalty, g, D, judges, optimisers
SLACK = 1.5  # at the slow end: data, augmentation, everything that is not counted
AROUND_S = 15.0  # at the slow end of a stage: networks loaded, faces looked for, grids, checkpoints
MEASURED_S = 4.0
NOTHING = {4: 4, 8: 4, 16: 4, 32: 4}  # channels of a network that takes its calls' time, and no other
MEASURED = {4: 128, 8: 128, 16: 128, 32: 128, 64: 64, 128: 32}  # channels: mini's


def plan(recipe: Recipe, folder: RunFolder) -> Iterator[Event]:
    """An event of kind plan for every stage (seconds, memory_mb where they can be told) and a note to read."""
    portraits = _count_portraits(recipe)  # first: without them nothing else is of interest
    costs = _Costs(recipe)
    total = [0.0, 0.0]
    for stage in recipe.stages:
        done = folder.is_done(stage)
        work, memory = costs.of(stage, portraits)
        fastest, slowest = costs.seconds(work, costs.passes(stage, portraits))
        total = total if done else [total[0] + fastest, total[1] + slowest]
        data = {"done": done, "steps": costs.steps(stage), "fastest": fastest, "slowest": slowest}
        data |= {"seconds": _between(fastest, slowest), "memory_mb": round(memory)}
        yield Event("plan", "train", stage=stage, total=costs.steps(stage), data=data)
        what = "done" if done else f"{_range(fastest, slowest)}, {memory / 1024:.1f} GB" if work else "seconds"
        steps = f"{costs.steps(stage)} steps" if costs.steps(stage) else ""
        yield Event("note", "train", stage=stage, message=f"{stage:10} {steps:12} {what}", data=data)
    how_long = f"{_range(*total)} on one {costs.device.type}"
    message = f"{recipe.name}: {portraits} portraits, {how_long} in {folder.path}"
    data = {"seconds": _between(*total), "fastest": round(total[0], 3), "slowest": round(total[1], 3)}
    yield Event("summary", "train", message=message, output=str(folder.path), data=data)


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
        self.speeds = measured_speeds(recipe.precision, self.device, MEASURED_S)
        self.speed_of_nothing = measured_speeds(recipe.precision, self.device, MEASURED_S / 4, NOTHING)

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
            case "again" | "resblock" | "adain" | "attention":
                return recipe.finetune.steps
        return 0

    def passes(self, stage: str, portraits: int) -> int:
        """How often networks are run: each costs what it does however few pictures it is given."""
        fitted = portraits if stage in ("destylize", "refine") else 1  # one portrait a thread, at worst
        return PASSES * self.steps(stage) * fitted

    def seconds(self, work: float, passes: int) -> tuple[float, float]:
        """(fastest, slowest) for that many operations in so many passes."""
        (fast, slow), (_, most) = self.speeds, self.speed_of_nothing
        slowest = SLACK * (work / slow.operations_per_s + passes * most.pass_s) + AROUND_S
        return round(work / fast.operations_per_s, 3), round(slowest, 3)

    def of(self, stage: str, portraits: int) -> tuple[float, float]:
        """(operations, MB) of a stage."""
        recipe, train = self.recipe, 1 + BACKWARD
        match stage:
            case "base":
                work = sum(self._base_phase(phase) for phase in recipe.base.phases)
                batch = max(phase.batch for phase in recipe.base.phases)
            case "finetune" | "again" | "resblock" | "adain" | "attention":
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
        return work, self._memory_mb(batch)

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


class _Speed(NamedTuple):
    operations_per_s: float
    pass_s: float  # forwards and backwards


def measured_speeds(
    precision: str, device: torch.device, seconds: float, channels: dict[int, int] = MEASURED
) -> tuple[_Speed, _Speed]:
    """(fast, slow): a small generator, forwards and backwards, measured for some `seconds`: as it would be alone,
    by the processor's own time, and as it is now, beside others."""
    with torch.device("meta"):
        meta = Generator(max(channels), style_dim=128, mapping_layers=2, channels=channels)
    operations = 4 * (1 + BACKWARD) * _operations(meta, torch.empty(1, meta.rows, meta.style_dim, device="meta"))
    generator = Generator(max(channels), style_dim=128, mapping_layers=2, channels=channels).to(device)
    codes = torch.randn(4, generator.rows, generator.style_dim, device=device)
    walls: list[float] = []
    alone: list[float] = []
    while sum(walls) < seconds or len(walls) < 6:
        began, worked = time.perf_counter(), time.process_time()
        with mixed_precision(precision, device):
            generator(codes).float().square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        walls.append(time.perf_counter() - began)
        alone.append((time.process_time() - worked) / torch.get_num_threads() if device.type == "cpu" else walls[-1])
    steady, fast = walls[2:], min(alone[2:])  # the first ones make memory and kernels ready
    slow = max(sum(steady) / len(steady), fast)
    return _Speed(operations / fast, fast), _Speed(operations / slow, slow)


def _count_portraits(recipe: Recipe) -> int:
    return len(list_portraits(recipe.data)) if "data" in recipe.stages else 0


def _between(fast: float, slow: float) -> float:
    """One number for both: their geometric mean, as they are orders of magnitude."""
    return round((fast * slow) ** 0.5, 3)


def _range(fast: float, slow: float) -> str:
    """A time between two numbers of seconds, in one unit: `2 to 5 h`."""
    unit, name = (3600, "h") if slow >= 5400 else (60, "min") if slow >= 90 else (1, "s")
    low, high = (f"{time / unit:.2g}" if time < 100 * unit else f"{time / unit:.0f}" for time in (fast, slow))
    return f"about {high} {name}" if low == high else f"{low} to {high} {name}"
