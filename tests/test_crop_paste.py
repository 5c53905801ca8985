"""Crops follow FFHQ's geometry; pasted back they restore the photo inside the mask and leave every pixel outside."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from dualstylegan.errors import UsageError
from dualstylegan.faces.crop import crop_face, ffhq_matrix, part_shown, paste_face, sample_crop
from dualstylegan.faces.face import LEFT_EYE, RIGHT_EYE, Face, crop_side_px, transform
from dualstylegan.faces.masks import MASK_SIZE, MASKS, draw_mask
from dualstylegan.faces.matte import WIDE_SIZE, blend
from dualstylegan.media.images import from_tensor, to_tensor

# The mean face of the iBUG points in the unit crop, rounded: jaw, brows, nose, eyes, mouth
JAW = [(0.26 + 0.03 * i, 0.48 + 0.46 * np.sin(np.pi * i / 16) ** 0.8) for i in range(17)]
UNIT_FACE = np.array([
    *JAW,
    *[(0.30 + 0.035 * i, 0.42 - 0.015 * np.sin(np.pi * i / 4)) for i in range(5)],
    *[(0.56 + 0.035 * i, 0.42 - 0.015 * np.sin(np.pi * i / 4)) for i in range(5)],
    *[(0.5, 0.48 + 0.045 * i) for i in range(4)], *[(0.46 + 0.02 * i, 0.64) for i in range(5)],
    *[(0.375 + 0.03 * np.cos(a), 0.475 + 0.015 * np.sin(a)) for a in np.linspace(np.pi, 3 * np.pi, 7)[:6]],
    *[(0.625 + 0.03 * np.cos(a), 0.475 + 0.015 * np.sin(a)) for a in np.linspace(np.pi, 3 * np.pi, 7)[:6]],
    *[(0.5 + 0.09 * np.cos(a), 0.75 + 0.03 * np.sin(a)) for a in np.linspace(np.pi, 3 * np.pi, 13)[:12]],
    *[(0.5 + 0.06 * np.cos(a), 0.75 + 0.01 * np.sin(a)) for a in np.linspace(np.pi, 3 * np.pi, 9)[:8]],
])  # fmt: skip


def face_at(x: float, y: float, side_px: float, degrees: float = 0.0) -> Face:
    """A face whose crop is about `side_px` wide and centred on (x, y), turned clockwise."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return Face.from_points((UNIT_FACE - 0.5) * side_px @ turn.T + (x, y))


def drawn_photo(width: int = 420, height: int = 360, seed: int = 0) -> np.ndarray:
    """Soft shapes, sharp edges, thin lines and a little noise, like a photo; uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(40, 200, (6, 7, 3), dtype=np.uint8)).resize((width, height), 3)
    draw = ImageDraw.Draw(image)
    for _ in range(25):
        x, y, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(4, 40)
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        draw.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=3)
    smooth = np.asarray(image.resize((width * 2, height * 2), 3).resize((width, height), 1), dtype=float)
    return np.clip(smooth + rng.normal(0, 1, smooth.shape), 0, 255).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    error = ((a.astype(float) - b.astype(float))[where] ** 2).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-12)))


def reached(photo: np.ndarray, face: Face, mask: str) -> np.ndarray:
    """Where the mask lets anything through: (H, W) bool."""
    black = np.zeros_like(photo)
    return (paste_face(black, torch.ones(3, 16, 16), face, mask=mask) > 0).any(-1)


@pytest.mark.parametrize("size, side_px", [(64, 150), (256, 30), (256, 90), (1024, 12), (1024, 200)])
def test_nothing_is_read_beyond_the_part_that_is_shown(size, side_px):
    photo, face = drawn_photo(), face_at(190.3, 160.8, side_px, 17)
    crop = torch.rand(3, size, size, generator=torch.Generator().manual_seed(3)) * 2 - 1
    left, top, right, bottom = part_shown(face, size)
    shown = torch.full_like(crop, torch.nan)
    shown[:, top:bottom, left:right] = crop[:, top:bottom, left:right]
    other = torch.where(shown.isnan(), -crop.sign(), shown)
    assert np.array_equal(paste_face(photo, crop, face), paste_face(photo, other, face))
    if side_px > 50:
        assert (right - left) * (bottom - top) < 0.85 * size * size
    laid = [blend("face", photo, one, face, torch.ones(WIDE_SIZE, WIDE_SIZE), None) for one in (crop, other)]
    assert np.array_equal(laid[0].mask, laid[1].mask)
    np.testing.assert_allclose(laid[0].tint, laid[1].tint, atol=0.01)
    shifts = [np.zeros((3, 32, 32)) if one.shift is None else one.shift for one in laid]
    np.testing.assert_allclose(*shifts, atol=0.002)


# --- geometry


def test_the_crop_is_ffhqs_quad():
    points = UNIT_FACE * 300 + (40, 25)
    left, right = points[36:42].mean(0), points[42:48].mean(0)
    eyes, eye_to_eye = (left + right) / 2, right - left
    eye_to_mouth = (points[48] + points[54]) / 2 - eyes
    across = eye_to_eye - eye_to_mouth[::-1] * (-1, 1)
    half = across / np.hypot(*across) * max(2 * np.hypot(*eye_to_eye), 1.8 * np.hypot(*eye_to_mouth))
    down = half[::-1] * (-1, 1)
    center = eyes + 0.1 * eye_to_mouth
    matrix = ffhq_matrix(points)
    for corner, unit in ((-half - down, (0, 0)), (half - down, (1, 0)), (half + down, (1, 1)), (-half + down, (0, 1))):
        np.testing.assert_allclose(transform(matrix, center + corner), unit, atol=1e-9)


@pytest.mark.parametrize("degrees", [-45, 0, 30, 170])
def test_eyes_and_mouth_land_in_the_same_place_however_the_face_lies(degrees):
    face = face_at(200, 150, 180, degrees)
    upright = transform(ffhq_matrix(UNIT_FACE), UNIT_FACE)
    np.testing.assert_allclose(transform(face.crop_from_photo, face.points.astype(float)), upright, atol=1e-5)
    assert face.crop_side_px == pytest.approx(180 / crop_side_px(np.linalg.inv(ffhq_matrix(UNIT_FACE))), rel=1e-4)


def test_points_that_make_no_face_are_refused():
    with pytest.raises(UsageError, match="no face"):
        ffhq_matrix(np.full((68, 2), 7.0))
    with pytest.raises(UsageError, match="no face"):
        ffhq_matrix(np.full((68, 2), np.nan))


def test_a_given_matrix_goes_before_the_landmarks():
    face = face_at(100, 100, 80)
    face.matrix = np.diag([0.01, 0.01, 1.0])
    assert face.crop_from_photo is face.matrix and face.crop_side_px == pytest.approx(100)


def test_the_pixels_of_a_crop_that_fits_the_grid_are_the_photos_own():
    photo = drawn_photo(64, 48)
    crop_from_photo = np.array([[1 / 32, 0, -(8 - 0.5) / 32], [0, 1 / 32, -(4 - 0.5) / 32], [0, 0, 1]])
    np.testing.assert_array_equal(from_tensor(sample_crop(photo, crop_from_photo, 32)), photo[4:36, 8:40])


def test_a_crop_turned_by_a_right_angle_is_the_turned_photo():
    photo = drawn_photo(32, 32)
    crop_from_photo = np.array([[0, 1 / 32, 0.5 / 32], [-1 / 32, 0, 31.5 / 32], [0, 0, 1]])  # u = y, v = 1 - x
    turned = np.rot90(photo, 1)  # row v, column u: the photo's pixel x = 31 - v, y = u
    np.testing.assert_allclose(from_tensor(sample_crop(photo, crop_from_photo, 32)).astype(int), turned, atol=1)


def test_scaling_down_averages():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = crop_face(stripes, face_at(200, 190, 300).crop_from_photo, 64)
    assert crop.shape == (3, 64, 64) and crop.dtype == torch.float32
    assert (crop.abs() < 0.03).all()  # grey, not the moiré of single samples


def test_the_border_is_mirrored_blurred_and_fades_to_the_median():
    photo = drawn_photo(200, 200)
    photo[:, :100] //= 2
    face = face_at(20, 100, 160)
    crop = from_tensor(crop_face(photo, face.crop_from_photo, 128)).astype(float)
    left = int(128 * (0.5 / 160 + transform(face.crop_from_photo, np.array([[0.0, 100.0]]))[0, 0]))

    def detail(columns: slice) -> float:
        return float(np.abs(np.diff(crop[:, columns], axis=0)).mean())

    assert detail(slice(0, left - 12)) < 0.5 * detail(slice(left + 30, 128))
    median = np.median(photo[:, :130].reshape(-1, 3), 0)
    far, near = np.abs(crop[:, 0] - median).mean(), np.abs(crop[:, left] - median).mean()
    assert far < near  # FFHQ's fade: the farther out, the closer to the median
    assert np.abs(np.diff(crop, axis=1)).max() < 120  # no seam


@pytest.mark.parametrize("center", [(0, 0), (419, 359), (-150, 180), (210, 600)])
def test_faces_across_and_beyond_the_border_are_cropped_and_pasted(center):
    photo = drawn_photo()
    face = face_at(*center, 200, 20)
    crop = crop_face(photo, face.crop_from_photo, 64)
    assert torch.isfinite(crop).all() and crop.abs().max() <= 1
    pasted = paste_face(photo, -crop, face, mask="crop")
    outside = ~reached(photo, face, "crop")
    np.testing.assert_array_equal(pasted[outside], photo[outside])


def test_pictures_of_one_pixel_are_survived():
    crop = crop_face(np.full((1, 1, 3), 90, np.uint8), face_at(0, 0, 50).crop_from_photo, 32)
    np.testing.assert_allclose(from_tensor(crop), 90, atol=1)


# --- pasting


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("side", "size", "degrees"), [(180, 256, 0), (200, 256, 17), (255, 256, -40), (150, 1024, 9)])
def test_pasting_an_untouched_crop_restores_the_photo(mask, side, size, degrees):
    photo, face = drawn_photo(), face_at(215, 175, side, degrees)
    assert size >= face.crop_side_px  # not scaled down
    pasted = paste_face(photo, crop_face(photo, face.crop_from_photo, size), face, mask=mask)
    inside = reached(photo, face, mask)
    assert psnr(pasted, photo, inside) >= 45
    np.testing.assert_array_equal(pasted[~inside], photo[~inside])


def test_between_hardly_and_much_finer_crops_nothing_is_lost():
    photo, face = drawn_photo(), face_at(215, 175, 170, 12)
    for size in range(int(face.crop_side_px) + 1, 520, 23):
        pasted = paste_face(photo, crop_face(photo, face.crop_from_photo, size), face, mask="crop")
        assert psnr(pasted, photo, reached(photo, face, "crop")) >= 45, size


@pytest.mark.parametrize("size", [48, 200, 256, 1024])
def test_a_changed_crop_replaces_the_middle_of_the_mask_entirely(size):
    photo, face = drawn_photo(), face_at(215, 175, 190, 10)
    red = torch.tensor([1.0, -1, -1])[:, None, None].expand(3, size, size)
    for mask in MASKS:
        pasted = paste_face(photo, red, face, mask=mask)
        nose = tuple(face.points[30].round().astype(int))[::-1]
        np.testing.assert_array_equal(pasted[nose], (255, 0, 0))


def test_nothing_of_the_photo_shines_through_a_restyled_face():
    photo, face = drawn_photo(), face_at(215, 175, 190)
    crop = crop_face(photo, face.crop_from_photo, 224)
    restyled = (crop.abs() * 0.8 - 0.4).mean(0, keepdim=True).expand(3, -1, -1)  # another picture altogether
    pasted = paste_face(photo, restyled, face, mask="crop").astype(float)
    alone = paste_face(np.full_like(photo, 128), restyled, face, mask="crop").astype(float)
    core = paste_face(np.zeros_like(photo), torch.ones(3, 16, 16), face, mask="crop")[..., 0] == 255
    difference = np.abs(pasted - alone)[core]
    # Under the mask's core all is the crop's, but for single pixels where both agree by chance to within three steps
    assert core.sum() > 5000 and difference.max() <= 10 and np.mean(difference > 2) < 0.01


def test_a_finer_crop_is_antialiased():
    photo, face = np.zeros((300, 300, 3), np.uint8), face_at(150, 150, 128)
    stripes = torch.ones(3, 1024, 1024)
    stripes[:, :, ::2] = -1
    pasted = paste_face(photo, stripes, face, mask="crop")
    middle = pasted[130:170, 130:170].astype(int)
    assert np.abs(middle - 128).max() < 6


def test_masks_nest_and_vanish_at_the_crops_edges():
    points = transform(ffhq_matrix(UNIT_FACE), UNIT_FACE)
    face, head, crop = (draw_mask(kind, points) for kind in MASKS)
    for mask in (face, head, crop):
        assert mask.shape == (MASK_SIZE, MASK_SIZE) and mask.min() == 0 and mask.max() == 1
        assert not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
    assert face.sum() < 0.75 * head.sum() < 0.75 * crop.sum()
    at = (points * MASK_SIZE).astype(int)
    assert face[at[[30, 36, 45, 48, 54], 1], at[[30, 36, 45, 48, 54], 0]].min() > 0.99  # nose, eyes, mouth
    forehead = (points[21] + points[22]) / 2 - (0, 0.06)
    assert face[tuple((forehead[::-1] * MASK_SIZE).astype(int))] > 0.9
    hair = (points[21] + points[22]) / 2 - (0, 0.3)
    where = tuple((hair[::-1] * MASK_SIZE).astype(int))
    assert face[where] < 0.05 < 0.9 < head[where]


def test_an_unknown_mask_is_refused_with_the_nearest_name():
    with pytest.raises(UsageError, match="Did you mean 'head'"):
        paste_face(drawn_photo(), torch.zeros(3, 8, 8), face_at(200, 150, 90), mask="heads")


def test_opacity_is_how_much_of_the_crop_shows():
    photo, face = np.full((200, 200, 3), 100, np.uint8), face_at(100, 100, 120)
    white = torch.ones(3, 256, 256)
    np.testing.assert_array_equal(paste_face(photo, white, face, opacity=0), photo)
    half = paste_face(photo, white, face, opacity=0.5)
    assert half[tuple(face.points[30].round().astype(int))[::-1]] == pytest.approx(177.5, abs=1)


def test_the_frame_stays_unless_it_is_given_away():
    photo, face = drawn_photo(), face_at(210, 170, 150)
    kept = photo.copy()
    pasted = paste_face(photo, torch.zeros(3, 64, 64), face)
    assert (photo == kept).all() and (pasted != photo).any()
    assert paste_face(photo, torch.zeros(3, 64, 64), face, in_place=True) is photo
    np.testing.assert_array_equal(photo, pasted)


def test_overlapping_crops_are_pasted_one_after_the_other():
    photo = drawn_photo()
    left, right = face_at(150, 170, 180), face_at(260, 180, 200)
    both = paste_face(paste_face(photo, torch.ones(3, 64, 64), left), -torch.ones(3, 64, 64), right)
    (x, y), (nose_x, nose_y) = left.points[3].round().astype(int), right.points[30].round().astype(int)
    assert (both[y, x + 4] > 100).all()  # the left jaw of the first face: not under the second
    assert (both[nose_y, nose_x] == 0).all()
    outside = ~(reached(photo, left, "face") | reached(photo, right, "face"))
    np.testing.assert_array_equal(both[outside], photo[outside])


def test_crops_of_any_float_type_and_beyond_the_range_are_pasted():
    photo, face = drawn_photo(), face_at(210, 170, 150)
    crop = to_tensor(drawn_photo(128, 128, seed=3))
    plain = paste_face(photo, crop, face).astype(int)
    assert np.abs(paste_face(photo, crop.bfloat16(), face).astype(int) - plain).max() <= 2
    bright = paste_face(photo, torch.full((3, 128, 128), 5.0), face)
    assert (bright[tuple(face.points[30].round().astype(int))[::-1]] == 255).all()


def test_the_eyes_of_a_face_are_level_in_its_crop():
    face = face_at(200, 150, 180, 33)
    unit = transform(face.crop_from_photo, face.points.astype(float))
    assert unit[LEFT_EYE].mean(0)[1] == pytest.approx(unit[RIGHT_EYE].mean(0)[1], abs=1e-5)
