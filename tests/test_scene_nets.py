"""The matte and the finish answer as the originals do; tests/tools/extract_scene_nets.py asked those."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from dualstylegan.media.images import to_tensor
from dualstylegan.networks.matte import INPUT_SIZE
from dualstylegan.weights import load_finish, load_matte

pytestmark = pytest.mark.usefixtures("one_thread")

PHOTOS = sorted((ROOT / "tests" / "data" / "photos").glob("*.jpg"))
ANSWERS = np.load(ROOT / "tests" / "data" / "scene_nets.npz")


@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.stem)
def test_the_matte_of_a_photo_is_the_originals(path):
    size = (INPUT_SIZE, INPUT_SIZE)
    photo = np.array(Image.open(path).convert("RGB").resize(size, Image.Resampling.BILINEAR))
    with torch.inference_mode():
        matte = load_matte()(to_tensor(photo)[None])[0, 0].numpy() * 255
    assert matte.shape == size
    difference = np.abs(matte - ANSWERS[f"matte.{path.stem}"])
    assert difference.max() < 0.75  # half a step is the rounding of what is stored


def test_the_finish_of_a_picture_is_the_originals():
    with torch.inference_mode():
        finished = load_finish()(to_tensor(ANSWERS["finish.input"])[None])[0]
    levels = ((finished.clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).numpy()
    assert levels.shape == ANSWERS["finish"].shape == (160, 160, 3)
    difference = np.abs(levels - ANSWERS["finish"])
    assert difference.max() < 1.0


def test_several_pictures_at_once_are_what_each_is_alone():
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(3, 3, INPUT_SIZE, INPUT_SIZE, generator=generator) * 2 - 1
    net = load_matte()
    with torch.inference_mode():
        together, alone = net(pictures), torch.cat([net(one[None]) for one in pictures])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
