"""Networks of a second's work and judges that are drawn, for tests of destylization, refining and sampling.

Run as a script it destylizes a share of a folder in a process of its own: FOLDER PORTRAITS RANK PROCESSES STEPS.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, normalize

from dualstylegan.media.images import from_tensor, write_picture
from dualstylegan.networks.small_encoder import SmallEncoder
from dualstylegan.networks.stylegan2 import Generator
from dualstylegan.recipe import Destylize
from dualstylegan.training.portraits import Portrait

SIZE, DIM = 32, 16


class DrawnJudges(nn.Module):
    """Stands for a Perception: random convolutions, on which all that is asked of judges is defined."""

    def __init__(self):
        super().__init__()
        self.names = {"features": "drawn", "identity": "drawn"}
        torch.manual_seed(7)
        self.fine, self.coarse = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.requires_grad_(False)

    def features(self, images: Tensor, layers=("relu1_1", "relu3_1")) -> dict[str, Tensor]:
        fine = torch.relu(self.fine(images))
        found = {"relu1_1": fine, "relu3_1": torch.relu(self.coarse(fine))}
        return {layer: found[layer] for layer in layers}

    def lpips_features(self, images: Tensor) -> dict[str, Tensor]:
        return {layer: normalize(found, dim=1) for layer, found in self.features(images).items()}

    def lpips(self, a, b) -> Tensor:
        a, b = (self.lpips_features(x) if isinstance(x, Tensor) else x for x in (a, b))
        return sum((a[layer] - b[layer]).square().sum(dim=1).mean(dim=(1, 2)) for layer in a)

    def identity(self, images: Tensor) -> Tensor:
        return normalize(avg_pool2d(self.features(images)["relu3_1"], 4).flatten(1), dim=1)

    def identity_distance(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = (self.identity(x) if x.dim() == 4 else x for x in (a, b))
        return 1 - (a * b).sum(dim=1)


def tiny_networks() -> dict[str, nn.Module]:
    """g, a g' that differs from it, and an encoder, the same at every call."""
    torch.manual_seed(0)
    generator = Generator(SIZE, style_dim=DIM, mapping_layers=2, channels={4: 16, 8: 16, 16: 16, 32: 16})
    finetuned = copy.deepcopy(generator)
    with torch.no_grad():
        for parameter in finetuned.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    encoder = SmallEncoder(generator.rows, DIM, SIZE, channels=8)
    return {"generator": generator.eval(), "finetuned": finetuned.eval(), "encoder": encoder.eval()}


@torch.no_grad()
def draw_portraits(folder: Path, count: int = 5) -> list[Portrait]:
    """Pictures that g' can draw, named out of order."""
    finetuned = tiny_networks()["finetuned"]
    torch.manual_seed(1)
    images = finetuned(torch.randn(count, DIM))
    portraits = []
    for number, image in enumerate(images):
        portrait = Portrait(f"{(number * 3) % count}.png", folder / f"{(number * 3) % count}.png")
        write_picture(portrait.path, from_tensor(image))
        portraits.append(portrait)
    return portraits


def main(folder: str, portraits: str, rank: str, processes: str, steps: str) -> None:
    from dualstylegan.runtime.processes import Processes
    from dualstylegan.training.destylization import destylize_portraits

    pictures = [Portrait(path.name, path) for path in Path(portraits).glob("*.png")]
    for event in destylize_portraits(
        Path(folder),
        pictures,
        **tiny_networks(),
        perception=DrawnJudges(),
        settings=Destylize(steps=int(steps), batch=1),
        seed=1,
        processes=Processes(int(rank), int(processes)),
    ):
        if event.kind == "done":
            print(event.output, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
