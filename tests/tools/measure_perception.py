"""Measure the embedded judges on aligned photos of different people: the figures that training/perception.py states.

    python tests/tools/measure_perception.py CROPS [--center dualstylegan/weights/faces/identity_center.safetensors]

CROPS is the folder of prepared portraits of a run of `mini` (runs/mini/stages/data). Prints, for neighbours in a random
order, each layer's L1 distance and what it adds to LPIPS's formula, both unscaled, and what the scales and weights in
use make of them; and how alike unrelated faces are before and after centring. `--center` writes the centre.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize

from dualstylegan.networks.identity import chips_from_crops
from dualstylegan.networks.lpips import unit
from dualstylegan.training.data import Portraits, read_prepared
from dualstylegan.training.perception import MOBILENET_LPIPS_WEIGHTS, MOBILENET_SCALES
from dualstylegan.weights import load_identity, load_mobilenet


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("crops", type=Path)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--center", type=Path)
    asked = parser.parse_args()

    photos = Portraits(read_prepared(asked.crops).training, asked.size, seed=1)
    mobilenet = load_mobilenet()
    distances: dict[str, float] = {}
    lpips: dict[str, float] = {}
    for _ in range(asked.pairs // 20):
        features = mobilenet(photos.next(20))
        for layer, found in features.items():
            other = found.roll(1, dims=0)
            distances[layer] = distances.get(layer, 0) + float((found - other).abs().mean()) * 20 / asked.pairs
            apart = (unit(found) - unit(other)).square().sum(dim=1).mean()
            lpips[layer] = lpips.get(layer, 0) + float(apart) * 20 / asked.pairs
    print(f"{asked.pairs} pairs at {asked.size} px     L1   x scale      LPIPS   x weight")
    for layer in distances:
        scaled = distances[layer] * MOBILENET_SCALES.get(layer, float("nan"))
        weighed = lpips[layer] * MOBILENET_LPIPS_WEIGHTS.get(layer, float("nan"))
        print(f"{layer:24} {distances[layer]:7.4f} {scaled:9.3f} {lpips[layer]:10.4f} {weighed:10.3f}")

    identity = load_identity()
    embeddings = torch.cat([identity(chips_from_crops(part)) for part in photos.batches(20)])
    center = embeddings.mean(dim=0)
    for what, vectors in (("as they are", embeddings), ("centred", embeddings - center)):
        vectors = normalize(vectors, dim=1)
        cosine = (vectors * vectors.roll(1, dims=0)).sum(dim=1)
        print(f"{len(vectors)} identities, {what}: cosine of neighbours {cosine.mean():.3f} ± {cosine.std():.3f}")
    if asked.center:
        save_file({"center": center}, asked.center)


if __name__ == "__main__":
    main()
