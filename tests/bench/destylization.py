"""What destylization costs at 1024 px: seconds per portrait, before and now, and which share is whose.

    python tests/bench/destylization.py [--device cpu] [--size 1024] [--steps 3] [--judge vgg|mobilenet]

A portrait takes 300 steps; `--steps` of them are measured, after two that warm up, and the figures scaled. "Plain loop"
is the release's: backward() through networks whose weights keep gradients too, the portrait's features and identity
looked at again in each step, nothing compiled; its generator is ours, which is several times as fast as the release's.
"Now" is what `dsg destylize` does, and `compiled` what it does with compile = "auto" in the recipe, without the
compiler's own time, which is told and paid once per process. All in float32 but "now" on a GPU in true batches.
Variants take turns and the fastest step counts; on a CPU by the clock of one thread, as a portrait has one.
Weights are random, VGG16's too: time does not depend on them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from devices import add_device_option, named, wait_for
from generator import official_model
from torch import nn

from dualstylegan.networks.lpips import LPIPS
from dualstylegan.networks.stylegan2 import Generator
from dualstylegan.networks.vgg import VGG19Features
from dualstylegan.recipe import Destylize
from dualstylegan.runtime.compiling import Compiler
from dualstylegan.runtime.devices import pick_device
from dualstylegan.training import losses
from dualstylegan.training.destylization import PortraitFit
from dualstylegan.training.optimize import frozen, portrait_noise, renormalize_
from dualstylegan.training.perception import EmbeddedIdentity, Perception, VGGJudge, load_perception
from dualstylegan.weights import load_identity, read_face_weights

WHOLE = 300  # steps of a portrait


class NoEncoder(nn.Module):
    """In place of E, which runs once: some code of the generator's shape."""

    space, input_size = "z+", 256

    def __init__(self, generator: Generator):
        super().__init__()
        self.code = torch.randn(1, generator.rows, generator.style_dim)

    def forward(self, images, rows=None):
        return self.code.to(images.device).expand(len(images), -1, -1)


class PlainLoop:
    """Stage 2 as the release writes it."""

    def __init__(self, image: torch.Tensor, finetuned: Generator, perception: Perception, code: torch.Tensor):
        self.image, self.g, self.perception, self.settings = image, finetuned, perception, Destylize()
        self.codes = code.clone().requires_grad_()
        self.noise = portrait_noise(finetuned.noise_sizes(), 0, ["0"], image.device)
        self.adam = torch.optim.Adam([self.codes, *(one.requires_grad_() for one in self.noise)], lr=self.settings.lr)

    def step(self) -> None:
        settings, judges = self.settings, self.perception
        fitted = self.g(self.codes, noise=self.noise)
        loss = judges.lpips(fitted, self.image) + settings.identity * judges.identity_distance(fitted, self.image)
        loss = loss + losses.row_spread(self.codes) + settings.noise * losses.noise_correlation(self.noise)
        self.adam.zero_grad()
        self.g.zero_grad()
        loss.sum().backward()
        self.adam.step()
        renormalize_(self.noise)


def seconds_of(steps: Callable[[], object], device: torch.device) -> float:
    clock = time.thread_time if device.type == "cpu" else time.perf_counter
    wait_for(device)
    began = clock()
    steps()
    wait_for(device)
    return clock() - began


def vgg_perception(device: torch.device) -> Perception:
    identity = EmbeddedIdentity(load_identity(), read_face_weights("identity_center")["center"])
    return Perception(VGGJudge(VGG19Features(("relu1_1",)), LPIPS()), identity, device=device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_device_option(parser)
    parser.add_argument("--size", type=int, choices=(128, 256, 1024), default=1024)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--judge", choices=("vgg", "mobilenet"), default="vgg")
    parser.add_argument("--skip-compiled", action="store_true")
    options = parser.parse_args()
    device = pick_device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)

    torch.manual_seed(0)
    g = official_model().generator
    g = (g if options.size == g.size else g.up_to(options.size)).to(device)
    perception = vgg_perception(device) if options.judge == "vgg" else load_perception("mobilenet", device=device)
    image = torch.rand(1, 3, g.size, g.size, device=device) * 2 - 1
    encoder = NoEncoder(g)

    def fit(draw: Callable[..., torch.Tensor]) -> Callable[[], object]:
        made = PortraitFit(image, ["0"], g, g, draw, encoder, perception, Destylize(), 0).steps()
        return lambda: next(made)

    def frozen_step(step: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            with frozen(g):
                step()

        return run

    with torch.no_grad():
        wanted = perception.lpips_features(image)
    code, pixels = encoder(image).clone().requires_grad_(), torch.rand_like(image).requires_grad_()
    noise = [one.requires_grad_() for one in portrait_noise(g.noise_sizes(), 0, ["0"], device)]
    variants = {
        "plain loop": PlainLoop(image, g.requires_grad_(True), perception, encoder(image)).step,
        "now": frozen_step(fit(g.forward)),
        "now: generator": frozen_step(lambda: torch.autograd.grad(g(code, noise=noise).sum(), [code, *noise])),
        "now: LPIPS": lambda: torch.autograd.grad(perception.lpips(pixels, wanted).sum(), pixels),
    }
    if not options.skip_compiled:
        variants["compiled"] = frozen_step(fit(Compiler(print)(g.forward)))

    print(f"{named(device)}; {g.size} px, {options.judge}; {options.steps} of {WHOLE} steps measured")
    best: dict[str, float] = {}
    for name, step in variants.items():
        began = time.perf_counter()
        step()
        if name == "compiled":
            print(f"compiling and a first step took {time.perf_counter() - began:.0f} s", flush=True)
        step()
    for _ in range(options.steps):
        for name, step in variants.items():
            best[name] = min(best.get(name, float("inf")), seconds_of(step, device))
    print(f"{'':16} {'s/step':>8} {'s/portrait':>11} {'of plain':>9}")
    for name, seconds in best.items():
        share = seconds / best["plain loop"]
        print(f"{name:16} {seconds:8.2f} {seconds * WHOLE:11.0f} {share:9.2f}")


if __name__ == "__main__":
    main()
