"""A style small enough to make in a second, portraits drawn by hand and a detector that knows them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy import ndimage

from dualstylegan.faces.face import Face
from dualstylegan.models.base import Base, save_base
from dualstylegan.models.codes import StyleBank
from dualstylegan.models.style import Style, save_style
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.networks.small_encoder import SmallEncoder
from dualstylegan.networks.stylegan2 import Generator
from dualstylegan.stylizing.settings import StylizerSettings

SIZE, DIM = 64, 16
CHANNELS = {4: 16, 8: 16, 16: 16, 32: 8, 64: 8}
SKIN = (236, 188, 150)
NAMES = ["ada.png", "bea.png", "cyd.png"]


@pytest.fixture(autouse=True)
def one_core():
    """Networks this small only wait for one another on several. For modules that import it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_style(folder: Path, name: str = "tiny", seed: int = 0, **header) -> Path:
    """Write a base and a style on it; returns the style's folder. One base per seed."""
    torch.manual_seed(seed)
    generator = Generator(SIZE, style_dim=DIM, mapping_layers=2, channels=CHANNELS)
    encoder = SmallEncoder(generator.rows, DIM, SIZE, channels=8)
    base = Base({"kind": "base", "name": f"base{seed}", "licence": "MIT"}, generator, encoder=encoder)
    base_folder = folder / f"base{seed}"
    if not base_folder.exists():
        save_base(base_folder, base)
    torch.manual_seed(sum(map(ord, name)))
    model = DualStyleGAN(generator)
    bank = StyleBank(NAMES, torch.randn(len(NAMES), generator.rows, DIM))
    from dualstylegan.models.bundle import read_header

    style = Style({"name": name, "licence": "MIT", **header}, read_header(base_folder), model, encoder, bank)
    style.base_folder = base_folder
    return save_style(folder / name, style)


def drawn_photo(width: int = 320, height: int = 240, faces=((160, 120, 40),), seed: int = 0) -> np.ndarray:
    """A picture uint8 (H, W, 3) with a face (x, y, half its width) for each of `faces` before a bluish noise."""
    noise = np.random.default_rng(seed).integers(0, 60, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    image = Image.fromarray(noise + np.array([20, 60, 120], np.uint8)).resize((width, height), Image.BICUBIC)
    draw = ImageDraw.Draw(image)
    for x, y, r in faces:
        draw.ellipse((x - r, y - 1.3 * r, x + r, y + 1.3 * r), SKIN)
        for side in (-1, 1):
            draw.ellipse(
                (x + side * 0.4 * r - 2, y - 0.3 * r - 2, x + side * 0.4 * r + 2, y - 0.3 * r + 2), (30, 30, 30)
            )
        draw.line((x - 0.35 * r, y + 0.6 * r, x + 0.35 * r, y + 0.6 * r), (150, 40, 40), 2)
    return np.array(image)


def stylizer_settings(options: dict) -> tuple[StylizerSettings, dict]:
    """Those of `options` that are a Stylizer's settings, on the CPU unless told, and the others."""
    names = {field.name for field in fields(StylizerSettings)}
    own = {name: value for name, value in options.items() if name in names}
    settings = StylizerSettings(**{"device": "cpu", "precision": "float32", **own})
    return settings, {name: value for name, value in options.items() if name not in names}


class DrawnFaces:
    """A detector for `drawn_photo`: every patch of SKIN is a face. Counts the pictures it has seen."""

    def __init__(self):
        self.seen = 0

    def find(self, pictures: list[np.ndarray]) -> list[list[Face]]:
        self.seen += len(pictures)
        return [self._faces(picture) for picture in pictures]

    def _faces(self, picture: np.ndarray) -> list[Face]:
        skin = (np.abs(picture.astype(int) - SKIN) < 24).all(-1)
        patches, _ = ndimage.label(ndimage.binary_closing(skin, iterations=3))
        faces = []
        for rows, columns in ndimage.find_objects(patches):
            if min(rows.stop - rows.start, columns.stop - columns.start) < 12:
                continue
            x, y = (columns.start + columns.stop - 1) / 2, (rows.start + rows.stop - 1) / 2
            r = (columns.stop - columns.start) / 2
            box = np.array([columns.start, rows.start, columns.stop, rows.stop], np.float32)
            faces.append(Face(points=face_points(x, y, r), box=box, score=1.0))
        return faces


def face_points(x: float, y: float, r: float) -> np.ndarray:
    """Sixty-eight points (68, 2) of a frontal face centred on (x, y), `r` half as wide, in iBUG order."""
    sides = (-1, 1)
    jaw = _ellipse(np.linspace(np.pi, 0, 17), (0, 0), (1, 1.3))
    brows = [(v, -0.5) for side in sides for v in np.sort(side * np.linspace(0.15, 0.7, 5))]
    nose = [(0, v) for v in np.linspace(-0.25, 0.15, 4)] + [(v, 0.25) for v in np.linspace(-0.2, 0.2, 5)]
    eyes = [_ellipse(np.linspace(-np.pi, np.pi, 7)[:-1], (0.4 * side, -0.3), (0.15, 0.07)) for side in sides]
    lips = _ellipse(np.linspace(-np.pi, np.pi, 13)[:-1], (0, 0.6), (0.35, 0.12))
    inner = _ellipse(np.linspace(-np.pi, np.pi, 9)[:-1], (0, 0.6), (0.25, 0.04))
    points = np.concatenate([jaw, brows, nose, *eyes, lips, inner])
    return (points * r + np.array([x, y])).astype(np.float32)


def _ellipse(angles: np.ndarray, center: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    """Points (n, 2) of an ellipse; angles grow clockwise, from the right."""
    return np.stack([np.cos(angles), np.sin(angles)], -1) * radii + np.array(center)
