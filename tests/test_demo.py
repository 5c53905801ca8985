"""What `make demo` draws for itself: an enlarged face and a film that moves without a jerk."""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from dualstylegan.faces.find import EmbeddedDetector
from dualstylegan.media.film.video import open_film

sys.path.insert(0, str(ROOT / "tests" / "tools"))

import demo

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    with Image.open(demo.ASTRONAUT) as photo:
        return photo.convert("RGB")


def test_the_enlarged_face_is_as_wide_as_it_says(photo):
    ((face,),) = EmbeddedDetector(min_face=500).find([np.asarray(demo.enlarged_face(photo))])
    assert face.width == pytest.approx(demo.LARGE_FACE_PX, rel=0.05)


def test_the_film_moves_smoothly_towards_the_face(photo):
    frames = [np.asarray(Image.fromarray(frame).resize((60, 45)), float) for frame in demo.pan_and_zoom(photo)]
    assert len(frames) == demo.FRAMES
    steps = [np.abs(b - a).mean() for a, b in pairwise(frames)]
    assert max(steps) < 4 * np.median(steps)
    assert np.abs(frames[-1] - frames[0]).mean() > 5 * max(steps)


def test_sources_are_a_photo_and_a_film(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "FRAMES", 3)
    large, film = demo.draw_sources(tmp_path)
    assert min(Image.open(large).size) > demo.LARGE_FACE_PX
    with open_film(film) as opened:
        assert sum(1 for _ in opened) == 3
