"""Recipes that run every stage in seconds, on faces drawn by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from launched import Launched
from PIL import Image, ImageDraw

PORTRAITS = 5  # odd, so that two processes get uneven shares
TEMPLATE = "{ left_eye = [0.38, 0.45], right_eye = [0.62, 0.45], mouth = [0.5, 0.68] }"

BASE = """
kind = "base"
name = "tiny-base"
precision = "float32"
log_every = 2
grid_every = 4
checkpoint_every = 2
snapshot_every = 4

[data]
folder = "{data}"
alignment = "template"
template = {template}
flip = true
min_images = 4
held_out = 1

[base]
size = 32
style_dim = 16
mapping_layers = 2
channels = {{ 4 = 8, 8 = 8, 16 = 8, 32 = 8 }}
encoder_channels = 8
augment = true
augment_images = 100
phases = [
    {{ size = 32, steps = 4, batch = 4 }},
    {{ size = 32, steps = 4, batch = 4, adversarial = 0.1, random = 0.5, identity = 0.1 }},
]

[pretrain]
effective_batch = 2
phases = [{{ rows = 7, steps = 2 }}, {{ rows = 6, steps = 2 }}]

[perception]
features = "mobilenet"
identity = "embedded"
"""

STYLE = """
kind = "style"
name = "tiny-style"
base_model = "{base}"
precision = "float32"
log_every = 1
grid_every = 4
checkpoint_every = 2
snapshot_every = 2

[data]
folder = "{data}"
alignment = "template"
template = {template}
flip = true
min_images = 4

[finetune]
steps = 3
effective_batch = 4
path_every = 2

[destylize]
steps = 4
batch = 2

[transfer]
steps = 6
effective_batch = 4
batch = {batch}
path_every = 2
augment = true
augment_images = 100

[refine]
steps = 3
batch = 2

[samplers]
codes = 40
matches = 400

[perception]
features = "mobilenet"
identity = "embedded"
"""


def draw_portraits(folder: Path, count: int = PORTRAITS, *, toon: bool = False, seed: int = 0) -> Path:
    """Square pictures of `count` drawn heads, eyes and mouth where TEMPLATE says, colours and shapes of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(seed)
    for index in range(count):
        size, back, skin, hair = 96, *(tuple(int(v) for v in chance.integers(60, 250, 3)) for _ in range(3))
        image = Image.new("RGB", (size, size), back)
        draw = ImageDraw.Draw(image)
        wide, eye = 26 + int(chance.integers(6)), (7 if toon else 3)
        draw.ellipse((48 - wide - 4, 8, 48 + wide + 4, 70), hair)
        draw.ellipse((48 - wide, 18, 48 + wide, 88), skin)
        for x in (0.38 * size, 0.62 * size):
            draw.ellipse((x - eye, 0.45 * size - eye, x + eye, 0.45 * size + eye), (250, 250, 250))
            draw.ellipse((x - 2, 0.45 * size - 2, x + 2, 0.45 * size + 2), (20, 20, 20))
        draw.arc((34, 56, 62, 70), 20, 160, (120, 20, 30), 3)
        image.save(folder / f"{index:02d}.png")
    return folder


def write_base_recipe(path: Path, data: Path) -> Path:
    path.write_text(BASE.format(data=data.as_posix(), template=TEMPLATE))
    return path


def write_style_recipe(path: Path, data: Path, base: Path, batch: int = 0) -> Path:
    path.write_text(STYLE.format(data=data.as_posix(), base=base.as_posix(), template=TEMPLATE, batch=batch))
    return path


def launch(arguments: list[object], *, rank: int = 0, processes: int = 1, port: int = 0) -> Launched:
    """`dsg train --cpu ...` in a process of its own, as `accelerate launch` would start it. One thread."""
    environment = {}
    if processes > 1:
        environment = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "ACCELERATE_USE_CPU": "true",
        }
    return Launched(["-m", "dsgcli", "train", *arguments, "--cpu"], environment)
