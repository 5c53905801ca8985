"""A drawn face meets the photo: by the person's outline, and with skin beside it that takes on its colour."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_crop_paste import drawn_photo, face_at

from dualstylegan.faces.crop import add_tint, crop_face, paste_face
from dualstylegan.faces.face import transform
from dualstylegan.faces.find import EmbeddedDetector
from dualstylegan.faces.masks import MASK_SIZE, draw_mask
from dualstylegan.faces.matte import (
    WIDE_SIZE,
    blend,
    in_front,
    photo_mattes,
    portrait_mattes,
    view_of,
    wide_from_photo,
)
from dualstylegan.media.images import read_picture
from dualstylegan.weights import load_matte

pytestmark = pytest.mark.usefixtures("one_thread")

FACE = face_at(200, 180, 160)
Y, X = (np.mgrid[:MASK_SIZE, :MASK_SIZE] + 0.5) / MASK_SIZE


def disc(x: float, y: float, radius: float) -> torch.Tensor:
    return torch.from_numpy((np.hypot(X - x, Y - y) < radius).astype(np.float32))


def wide(matte: torch.Tensor, beyond: float = 0.0) -> torch.Tensor:
    """A crop's matte in the wider view that photos are seen in."""
    margin = (WIDE_SIZE - MASK_SIZE) // 2
    return torch.nn.functional.pad(matte, [margin] * 4, value=beyond)


def cut(matte: torch.Tensor) -> torch.Tensor:
    margin = (WIDE_SIZE - MASK_SIZE) // 2
    return matte[margin:-margin, margin:-margin]


def a_portrait(colour: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.tile((colour / 127.5 - 1).reshape(3, 1, 1), (1, 32, 32))).float()


HEAD = disc(0.5, 0.55, 0.38)
WHITE = torch.ones(3, 32, 32)


@pytest.fixture(scope="module")
def astronaut():
    photo = read_picture(ROOT / "tests" / "data" / "photos" / "astronaut.jpg").pixels
    (face,) = EmbeddedDetector().find([photo])[0]
    return photo, face


def test_mattes_know_a_person_from_the_background(astronaut):
    photo, face = astronaut
    (matte,) = photo_mattes(load_matte(), [view_of(photo, face)]).numpy()
    assert matte.shape == (WIDE_SIZE, WIDE_SIZE)
    assert matte[90:110, 80:110].min() > 0.9  # her nose
    assert max(matte[:60, :30].max(), matte[:60, -30:].max()) < 0.1  # beside her hair
    (own,) = portrait_mattes(load_matte(), [crop_face(photo, face.crop_from_photo, 128)]).numpy()
    assert own.shape == (MASK_SIZE, MASK_SIZE)
    assert np.abs(own - cut(torch.from_numpy(matte)).numpy()).mean() < 0.05
    assert portrait_mattes(load_matte(), []).shape == (0, MASK_SIZE, MASK_SIZE)


@pytest.mark.parametrize("kind", ["head", "crop"])
def test_where_both_say_background_the_photo_stays(kind):
    laid = blend(kind, drawn_photo(), WHITE, FACE, wide(HEAD), HEAD)
    assert laid.mask[HEAD.numpy() == 0].max() == 0
    assert laid.mask[HEAD.numpy() == 1].max() > 0.99


def test_hair_that_the_style_adds_stays():
    larger = torch.maximum(HEAD, disc(0.5, 0.3, 0.3))
    laid = blend("crop", drawn_photo(), WHITE, FACE, wide(HEAD), larger)
    added = ((larger - HEAD).numpy() > 0) & (Y > 0.13)
    assert laid.mask[added].mean() > 0.9


def test_a_styles_background_taken_for_a_person_is_not_pasted():
    everything = torch.ones(MASK_SIZE, MASK_SIZE)
    laid = blend("crop", drawn_photo(), WHITE, FACE, wide(HEAD), everything)
    np.testing.assert_array_equal(laid.mask, blend("crop", drawn_photo(), WHITE, FACE, wide(HEAD), HEAD).mask)


@pytest.mark.parametrize("kind", ["face", "head", "crop"])
def test_where_nobody_is_found_the_outline_is_what_it_was(kind):
    nobody = torch.zeros(MASK_SIZE, MASK_SIZE)
    outline = draw_mask(kind, transform(FACE.crop_from_photo, FACE.points.astype(np.float64)))
    for photo in (None, wide(nobody)):
        laid = blend(kind, drawn_photo(), WHITE, FACE, photo, nobody)
        np.testing.assert_array_equal(laid.mask, outline)
        assert laid.tint is None


def test_skin_beside_the_face_takes_on_its_change_and_nothing_else_does():
    frame = np.full((360, 420, 3), (30, 60, 200), np.uint8)  # a blue wall
    skin, painted = np.array([200, 150, 120]), np.array([170, 140, 60])
    person = np.hypot(np.arange(420) - 200, (np.arange(360) - 200)[:, None] * 0.6) < 65
    frame[person] = skin
    laid = blend("face", frame, a_portrait(painted), FACE, torch.ones(WIDE_SIZE, WIDE_SIZE), None)
    tinted = frame.copy()
    add_tint(tinted, laid.tint, wide_from_photo(FACE))
    assert np.abs(tinted[~person].astype(int) - frame[~person]).max() <= 4  # of 140
    chin = 180 + round(160 * (0.94 - 0.5))
    change = tinted[chin : chin + 55, 200].astype(float) - skin
    wanted = painted - skin
    assert np.abs(change[2] - wanted).max() < 15  # nearly all of it at the jaw
    assert np.abs(change[-1]).max() < np.abs(wanted).max() / 3  # little of it farther down
    assert (np.diff(np.abs(change[:, 2])) <= 1).all()


def test_hair_beside_the_face_takes_on_what_became_of_hair_like_it():
    frame = np.full((360, 420, 3), (200, 150, 120), np.uint8)
    hair, other = np.array([60, 40, 30]), np.array([40, 200, 60])
    frame[:170] = hair  # above the eyes, in the face and over it
    frame[:, 275:] = other  # what is neither
    before = crop_face(frame, FACE.crop_from_photo, 64)
    painted = torch.where(before.mean(0) < -0.3, before + 0.3, before)
    laid = blend("face", frame, painted, FACE, torch.ones(WIDE_SIZE, WIDE_SIZE), None)
    tinted = frame.copy()
    add_tint(tinted, laid.tint, wide_from_photo(FACE))
    change = tinted.astype(float) - frame
    over = round(FACE.points[:, 1].min()) - 25
    assert change[over : over + 20, 180:220].mean() > 20  # of 38
    assert np.abs(change[:, 280:]).max() < 6
    assert np.abs(change[200:, :270]).max() < 6  # skin, which stays


def at_edge(shift: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What is added, in steps of 255, along the mask's edge: (n, 3)."""
    larger = torch.nn.functional.interpolate(torch.from_numpy(shift)[None], mask.shape, mode="bilinear")[0].numpy()
    return 127.5 * larger[:, (mask > 0.4) & (mask < 0.6)].T


def in_cloth(cloth: np.ndarray) -> tuple[np.ndarray, torch.Tensor]:
    """A face in a plain colour that is unlike its own, and where it is in the crop."""
    outline = draw_mask("face", transform(FACE.crop_from_photo, FACE.points.astype(np.float64)))
    skin = a_portrait(np.array([200, 150, 120]))
    frame = np.full((360, 420, 3), cloth, np.uint8)
    within = (outline > 0.4).astype(np.float32)
    return paste_face(frame, skin, FACE, mask=within), torch.from_numpy(within)


def test_beside_the_person_a_drawn_face_takes_on_the_colour_around_it():
    cloth, drawn = np.array([70, 90, 110]), np.array([200, 200, 200])
    frame, _ = in_cloth(cloth)
    laid = blend("face", frame, a_portrait(drawn), FACE, torch.ones(WIDE_SIZE, WIDE_SIZE), None)
    photos, drawns = np.linalg.norm(cloth - (200, 150, 120)), np.linalg.norm(cloth - drawn)
    shift = at_edge(laid.shift, laid.mask).mean(0)
    left = np.linalg.norm(drawn + shift - cloth)
    assert left - photos < 0.5 * (drawns - photos)
    middle = laid.shift.shape[-1] // 2
    within = 127.5 * laid.shift[:, middle, middle]  # the face there keeps its own
    assert np.abs(within).max() < np.abs(shift).max() / 10


def test_beside_a_background_a_drawn_face_stays_nearly_as_it_was():
    frame, person = in_cloth(np.array([70, 90, 110]))
    shifts = []
    for around in (torch.ones(WIDE_SIZE, WIDE_SIZE), wide(person)):
        laid = blend("face", frame, a_portrait(np.array([200, 200, 200])), FACE, around, None)
        shifts.append(np.abs(at_edge(laid.shift, laid.mask)).mean())
    assert shifts[1] < 0.3 * shifts[0]


def test_a_red_hat_does_not_stain_the_face():
    frame, _ = in_cloth(np.array([200, 40, 30]))
    laid = blend("face", frame, a_portrait(np.array([150, 150, 150])), FACE, torch.ones(WIDE_SIZE, WIDE_SIZE), None)
    assert laid.shift is None or np.abs(at_edge(laid.shift, laid.mask)).max() < 16  # of 120


def test_a_face_as_it_was_takes_on_nothing():
    frame = drawn_photo()
    same = crop_face(frame, FACE.crop_from_photo, MASK_SIZE)
    laid = blend("face", frame, same, FACE, torch.ones(WIDE_SIZE, WIDE_SIZE), None)
    assert laid.shift is None


def of_each(first, second) -> tuple[np.ndarray, np.ndarray]:
    """How much of each of two faces is seen, the second laid after the first: (H, W) each."""
    masks = [draw_mask("head", transform(one.crop_from_photo, one.points.astype(float))) for one in (first, second)]
    seen = np.zeros((2, 360, 420), np.float32)
    for number, (face, mask) in enumerate(
        [(first, masks[0]), (second, in_front(masks[1], second, [(first, masks[0])]))]
    ):
        white = paste_face(np.zeros((360, 420, 3), np.uint8), WHITE, face, mask=mask)[..., 0] / 255
        seen[:number] *= 1 - white
        seen[number] = white
    return seen[0], seen[1]


def test_heads_that_touch_share_what_is_between_them():
    for second in (face_at(230, 180, 150), face_at(230, 185, 140), face_at(230, 175, 160)):
        first = face_at(150, 180, 150)
        left, right = of_each(first, second)
        for face, own, others in ((first, left, right), (second, right, left)):
            x, y = face.points[30:48].round().astype(int).T  # the nose, and the eyes
            assert own[y, x].min() > 0.95 and others[y, x].max() < 0.05
        assert (left + right)[180, 130:240].min() > 0.8  # nothing of the photo comes through between them


def test_of_two_faces_the_larger_one_is_nearer():
    shares = []
    for side in (120, 150, 180):
        left, right = of_each(face_at(150, 180, 150), face_at(240, 180, side))
        shares.append(right[180, 150:240].sum() / (left + right)[180, 150:240].sum())
    assert shares == sorted(shares) and shares[1] == pytest.approx(0.5, abs=0.06)


def test_heads_that_do_not_touch_stay_whole():
    mask = draw_mask("head", transform(FACE.crop_from_photo, FACE.points.astype(np.float64)))
    for other in (face_at(900, 180, 160), face_at(420, 180, 100)):
        its = draw_mask("face", transform(other.crop_from_photo, other.points.astype(np.float64)))
        np.testing.assert_array_equal(in_front(mask, FACE, [(other, its)]), mask)


def test_pixels_without_tint_keep_their_bytes():
    frame = drawn_photo()
    tint = np.zeros((3, MASK_SIZE, MASK_SIZE), np.float32)
    tint[:, 90:110, 50:70] = 300
    tinted = frame.copy()
    add_tint(tinted, tint, FACE.crop_from_photo)
    changed = (tinted != frame).any(-1)
    reached = (paste_face(np.zeros_like(frame), WHITE, FACE, mask=(tint[0] > 0).astype(np.float32)) > 0).any(-1)
    assert changed.any()
    assert not (changed & ~reached).any()
    assert tinted.max() == 255  # too much of it is white, and does not begin at black again


def test_no_halo_is_left_around_a_head_on_a_photo(astronaut):
    photo, face = astronaut
    (matte,) = photo_mattes(load_matte(), [view_of(photo, face)])
    laid = blend("head", photo, WHITE, face, matte, cut(matte))
    background = cut(matte).numpy() < 0.05
    old = draw_mask("head", transform(face.crop_from_photo, face.points.astype(np.float64)))
    assert (old[background] > 0.3).sum() > 100
    assert (laid.mask[background] > 0.3).sum() == 0
