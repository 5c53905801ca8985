"""Is one side of every face drawn worse because of the networks? Small bases trained twice, once with all mirrored.

    python tests/bench/sides.py [--seeds 3] [--steps 400]

Everything of the second training is mirrored: photos, initial kernels, the constant. Where left and right are treated
alike, its fault must lie on the other side: the product of both columns is 1 (up to rounding, which training blows up).
Where it is not, a network has a side of its own. Figures are the contrast around the left eyes over that around the
right ones, over the photos', mirrored or not, of people not trained on. Minutes of CPU per line.

Measured with the photos that recipe `mini256` trains on in place of photos2's alone (L1 .150 to .157 everywhere):

    encoder      seed   plain   mirrored   product
    small           0   1.099     1.021      1.122
    small           1   1.049     1.090      1.143
    small           2   0.990     0.940      0.930
    residual        0   1.080     0.925      0.999
    residual        1   1.033     0.943      0.973
    residual        2   1.043     0.945      0.986

So the older encoder, whose strided 3 x 3 convolutions lie half a pixel off, has a side of its own; with 4 x 4 ones the
side is the initial weights' chance, and fades as faces are fitted better: from codes alone, optimised on `mini`'s g, it
went 1.074, 1.038, 1.022 after 15, 30, 45 steps. g, ModRes and D treat both sides alike to the last digit.
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from held_out import gathered, second_list
from measures import eye_contrast
from reference import SHARED, need_photos
from torch import Tensor, nn

from dualstylegan.media.images import read_picture, to_tensor
from dualstylegan.networks.residual_encoder import ResidualEncoder
from dualstylegan.networks.small_encoder import SmallEncoder
from dualstylegan.networks.stylegan2 import Generator
from dualstylegan.training.muon import Muon
from dualstylegan.training.portraits import resized

PHOTOS = SHARED / "facedata" / "photos2"
SIZE, SEEN, DIM, BATCH = 32, 64, 64, 16
CHANNELS = {4: 32, 8: 32, 16: 32, 32: 32}


def mirror(network: nn.Module) -> None:
    """Every kernel, constant and last linear layer of a network, mirrored."""
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name == "stem.weight":  # its inputs are pixels laid into channels, if any
                weight.copy_(_mirrored_stem(weight).flip(3))
            elif weight.ndim == 4:
                weight.copy_(weight.flip(3))
            elif name.startswith("heads.") and name.endswith("linear.weight"):
                weight.copy_(weight.unflatten(1, (-1, 4, 4)).flip(3).flatten(1))


def _mirrored_stem(weight: Tensor) -> Tensor:
    block = math.isqrt(weight.shape[1] // 3)
    pixels = weight[:, : 3 * block**2].unflatten(1, (3, block, block)).flip(3).flatten(1, 3)
    return torch.cat([pixels, weight[:, 3 * block**2 :]], dim=1)


def networks(kind: str, seed: int) -> tuple[Generator, nn.Module]:
    torch.manual_seed(seed)
    g = Generator(SIZE, style_dim=DIM, mapping_layers=2, channels=CHANNELS)
    if kind == "small":
        return g, SmallEncoder(g.rows, DIM, SEEN, channels=16)
    return g, ResidualEncoder(g.rows, DIM, SEEN, channels=16, passes=1).draw_with(g)


def train(kind: str, seed: int, mirrored: bool, photos: Tensor, test: Tensor, steps: int) -> tuple[float, float]:
    """L1 on the test photos, and how one-sided their eyes came out."""
    g, encoder = networks(kind, seed)
    if mirrored:
        mirror(g)
        mirror(encoder)
    optimizer = Muon([*g.parameters(), *encoder.parameters()], 0.002)
    silent = [torch.zeros(1, 1, side, side) for side in g.noise_sizes()]
    chance = torch.Generator().manual_seed(seed)
    for step in range(steps):
        if step == steps * 3 // 4:
            for group in optimizer.param_groups:
                group["lr"] /= 4
        index = torch.randint(len(photos), (BATCH,), generator=chance)
        flip = (torch.rand(BATCH, generator=chance) < 0.5) ^ mirrored
        batch = torch.where(flip[:, None, None, None], photos[index].flip(3), photos[index])
        loss = (g(encoder(batch), noise=silent) - resized(batch, SIZE)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    with torch.no_grad():
        drawn, turned = (g(encoder(of), noise=silent) for of in (test, test.flip(3)))
    wanted = resized(test, SIZE)
    sides = eye_contrast(drawn) * eye_contrast(turned) / eye_contrast(wanted) / eye_contrast(wanted.flip(3))
    return float((drawn - wanted).abs().mean()), math.sqrt(sides)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    asked = parser.parse_args()
    need_photos(PHOTOS)
    files, held_out = gathered(PHOTOS), second_list(PHOTOS)
    read = lambda names: torch.stack([resized(to_tensor(read_picture(files[n]).pixels)[None], SEEN)[0] for n in names])  # noqa: E731
    photos, test = read(sorted(files.keys() - held_out.keys())), read(sorted(held_out))
    print(f"{'encoder':10} {'seed':>6} {'plain':>7} {'mirrored':>10} {'product':>9}   L1")
    for seed in range(asked.seeds):
        for kind in ("small", "residual"):
            began_s = time.process_time()
            (l1, plain), (_, turned) = (train(kind, seed, way, photos, test, asked.steps) for way in (False, True))
            seconds = time.process_time() - began_s
            figures = f"{plain:7.3f} {turned:10.3f} {plain * turned:9.3f}   {l1:.3f}"
            print(f"{kind:10} {seed:6} {figures}, {seconds:.0f} s of CPU")


if __name__ == "__main__":
    main()
