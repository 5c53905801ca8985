"""The picture around the faces takes the style's colours and surface: known changes of colour come out, nothing is cut
off, and surfaces smooth, line and outline as they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import draw_picture

from dualstylegan.media.images import to_tensor
from dualstylegan.stylizing.scene import PAIRS_PX, Scene, fit_scene, mix_scenes, plain_table
from dualstylegan.stylizing.surfaces import LEAST_LINES_PX, LINES, flat, hatch, oil

pytestmark = pytest.mark.usefixtures("one_thread")

EVERYWHERE = np.ones((PAIRS_PX, PAIRS_PX), np.float32)


def a_crop(seed: int = 0) -> torch.Tensor:
    return to_tensor(draw_picture(PAIRS_PX, PAIRS_PX, seed)) * 0.6


def levels(crop: torch.Tensor) -> np.ndarray:
    return ((crop + 1) * 127.5).permute(1, 2, 0).numpy()


def scene_of(change, surface: str | None = None, face_px: float = 100.0) -> Scene:
    crop = a_crop()
    return fit_scene(crop, change(crop), EVERYWHERE, face_px, surface)


# Colours


def test_a_face_that_changed_nothing_changes_hardly_anything_around_it():
    frame = levels(a_crop()).round().astype(np.uint8)
    changed = scene_of(lambda crop: crop).under(frame)
    assert np.abs(changed.astype(int) - frame).mean() < 4


def test_a_linear_change_of_colour_is_found_from_its_pairs():
    turn = torch.tensor([[0.7, 0.1, 0.0], [0.1, 0.8, 0.05], [0.0, 0.05, 0.6]])  # symmetric: the least movement is it
    shift = torch.tensor([0.1, -0.05, -0.1])[:, None, None]
    crop = a_crop()
    wanted = levels(torch.einsum("ij,jhw->ihw", turn, crop) + shift)
    found = scene_of(lambda crop: torch.einsum("ij,jhw->ihw", turn, crop) + shift).under(
        levels(crop).round().astype(np.uint8)
    )
    assert np.abs(found - wanted).mean() < 0.25 * np.abs(levels(crop) - wanted).mean()


def test_what_lies_beside_the_head_counts_little():
    crop = a_crop()
    head = np.zeros((PAIRS_PX, PAIRS_PX), np.float32)
    head[:, : PAIRS_PX // 2] = 1
    odd = crop.clone()
    odd[:, :, PAIRS_PX // 2 :] = 1  # a background all white
    frame = levels(crop).round().astype(np.uint8)
    lightened = fit_scene(crop, odd, EVERYWHERE, 100.0).under(frame).mean() - frame.mean()
    assert fit_scene(crop, odd, head, 100.0).under(frame).mean() - frame.mean() < 0.5 * lightened


@pytest.mark.parametrize("change", [lambda crop: 4 * crop, lambda crop: crop + 0.9, lambda crop: crop - 0.9])
def test_neither_light_nor_dark_is_cut_off(change):
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)
    toned = scene_of(change).under(ramp)[0].mean(-1)
    assert (np.diff(toned) >= 0).all()
    assert len(np.unique(toned[::8])) > 24  # of 32 steps: hardly two have become one


def test_contrast_grows_by_no_more_than_a_fifth():
    ramp = np.repeat(np.arange(96, 160, dtype=np.uint8)[None, :, None], 3, 2)
    toned = scene_of(lambda crop: 5 * crop).under(ramp)
    assert np.ptp(toned[0, :, 0].astype(int)) <= 1.2 * 63 + 2


def test_a_style_without_colour_takes_the_scenes():
    scene = scene_of(lambda crop: crop.mean(0, keepdim=True).expand(3, -1, -1))
    toned = scene.under(draw_picture(64, 64, seed=3)).astype(int)
    assert np.ptp(toned, axis=-1).max() <= 4


def test_a_grey_face_is_no_obstacle():
    grey = a_crop().mean(0, keepdim=True).expand(3, -1, -1)
    scene = fit_scene(grey, a_crop(1), EVERYWHERE, 100.0)
    assert np.isfinite(scene.table).all()
    assert 0 <= scene.table.min() < scene.table.max() <= 1


def test_several_faces_count_by_their_weight():
    dark, light = scene_of(lambda crop: crop - 0.3), scene_of(lambda crop: crop + 0.3, face_px=400.0)
    mixed = mix_scenes([(dark, 1.0), (light, 3.0)])
    np.testing.assert_allclose(mixed.table, 0.25 * dark.table + 0.75 * light.table, atol=1e-6)
    assert mixed.face_px == pytest.approx(100**0.25 * 400**0.75)
    assert mix_scenes([(dark, 2.0)]) is dark


def test_a_scene_that_comes_lies_between_the_frame_and_itself():
    frame, scene = draw_picture(), scene_of(lambda crop: crop - 0.4)
    half = scene.faded(0.5).under(frame).astype(int)
    between = (frame.astype(int) + scene.under(frame)) / 2
    assert np.abs(half - between).max() <= 1
    assert scene.faded(0.0).under(frame) is frame


# Surfaces


def a_scene(surface: str, face_px: float = 100.0) -> Scene:
    return Scene(plain_table(), np.zeros((2, 3)), face_px, surface)


@pytest.mark.parametrize("surface", ["oil", "hatch", "flat"])
@pytest.mark.parametrize("size", [(96, 128), (5, 7), (1, 300)], ids=str)
def test_frames_of_every_size_keep_it(surface, size):
    frame = draw_picture(*size)
    kept = frame.copy()
    scene = a_scene(surface)
    painted = scene.over(scene.under(frame))
    assert (painted.shape, painted.dtype) == (frame.shape, np.uint8)
    assert (frame == kept).all()
    assert (scene.over(scene.under(frame)) == painted).all()  # nothing is left to chance


@pytest.mark.parametrize("surface", [oil, flat])
def test_paint_takes_grain_and_keeps_edges(surface):
    frame = np.full((120, 160, 3), 60, np.uint8)
    frame[:, 80:] = 190
    grain = np.random.default_rng(0).normal(0, 6, frame.shape)
    painted = surface((frame + grain).clip(0, 255).astype(np.uint8), 120.0).astype(float)
    assert painted[20:100, 20:60].std() < 0.4 * grain.std()
    across = painted[20:100].mean((0, 2))
    assert across[86:].min() - across[:74].max() > 100


def test_flat_areas_have_dark_outlines():
    frame = np.full((120, 160, 3), 130, np.uint8)
    frame[:, 80:] = 200
    across = flat(frame, 120.0)[20:100].mean((0, 2))
    assert across[74:86].min() < across[40] - 20


@pytest.mark.parametrize("surface", [oil, lambda frame, face_px: hatch(frame, face_px, np.zeros((2, 3)))])
def test_beside_a_large_face_nothing_is_finer_than_it_is_drawn(surface):
    frame = np.full((160, 200, 3), 150, np.uint8)
    frame[:, 100:] = 250
    steepest = [np.abs(np.diff(surface(frame, px).mean((0, 2)))).max() for px in (200.0, 1500.0)]
    assert steepest[1] < 0.5 * steepest[0]


def test_lines_are_as_far_apart_as_the_face_is_large():
    frame = np.full((256, 256, 3), 120, np.uint8)
    for face_px in (300.0, 600.0):
        drawn = hatch(frame, face_px, np.zeros((2, 3)))[..., 0].astype(float)
        spectrum = np.abs(np.fft.fft2(drawn - drawn.mean()))[:128]
        down, across = np.unravel_index(spectrum.argmax(), spectrum.shape)
        period = 256 / np.hypot(down, min(across, 256 - across))
        assert period == pytest.approx(max(LEAST_LINES_PX, LINES * face_px), rel=0.1)


def test_the_dark_has_more_ink_than_the_light():
    dark, light = (np.full((64, 64, 3), value, np.uint8) for value in (70, 200))
    lost = [1 - hatch(one, 300.0, np.zeros((2, 3))).mean() / one.mean() for one in (dark, light)]
    assert lost[0] > lost[1]


def test_an_engraving_has_one_ink():
    frame = draw_picture()
    greys = np.array([[0.02, 0.0, -0.02], [0.01, 0.0, -0.01]])
    drawn = hatch(frame, 200.0, greys).astype(float) / 255
    light = drawn.mean(-1)
    inside = (light > 0.1) & (light < 0.9)
    np.testing.assert_allclose((drawn[..., 0] - light)[inside], (0.02 + 0.01 * light)[inside], atol=0.006)
