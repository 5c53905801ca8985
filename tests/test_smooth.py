"""Smoothing takes out what trembles and leaves what happens, when it happens; a still film stays still, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dualstylegan.errors import UsageError
from dualstylegan.faces.face import Face, crop_side_px, ffhq_matrix, transform
from dualstylegan.faces.smooth import FADE, FILL, HOLD, HOLD_FRAMES, CodeSmoother, PointSmoother
from dualstylegan.faces.track import FrameFaces, TrackedFace

LENGTH = 40


def face_shape() -> np.ndarray:
    """Sixty-eight points that FFHQ's alignment takes for a face, about 100 px wide, their middle near (0, 0)."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-40, 40, (68, 2))
    points[36:42] = np.array([-20, -15]) + rng.uniform(-3, 3, (6, 2))
    points[42:48] = np.array([20, -15]) + rng.uniform(-3, 3, (6, 2))
    points[48], points[54] = (-15, 25), (15, 25)
    return points


SHAPE = face_shape()


def similarity(x=0.0, y=0.0, scale=1.0, degrees=0.0) -> np.ndarray:
    turn = scale * np.exp(1j * np.deg2rad(degrees))
    return np.array([[turn.real, -turn.imag, x], [turn.imag, turn.real, y], [0, 0, 1]])


def film(
    places: list[np.ndarray | None], *, noise=0.0, motion=False, cuts=(), track=1, confirmed=True
) -> list[FrameFaces]:
    """One face at each place (3, 3), its landmarks trembling by `noise` px; None: not seen. With `motion` the tracker
    knows how its pixels moved."""
    rng = np.random.default_rng(1)
    frames, before = [], None
    for index, place in enumerate(places):
        faces = []
        if index in cuts:
            before = None
        if place is not None:
            points = transform(place, SHAPE + rng.normal(0, noise, SHAPE.shape) if noise else SHAPE)
            moved = place @ np.linalg.inv(before) if motion and before is not None else None
            faces.append(TrackedFace(track, Face.from_points(points, 0.99), True, confirmed, moved))
        elif before is not None:
            faces.append(TrackedFace(track, frames[-1].faces[0].face, False, confirmed))
        before = place if place is not None or before is None else before
        frames.append(FrameFaces(index, faces, index in cuts))
    return frames


def smoothed(frames: list[FrameFaces], strength: float = 0.5) -> list[FrameFaces]:
    smoother = PointSmoother(strength)
    out = []
    for frame in frames:
        ready = smoother.push(frame)
        assert len(ready) <= 1
        out += ready
    out += smoother.flush()
    assert [frame.index for frame in out] == [frame.index for frame in frames]
    return out


def centers(frames: list[FrameFaces]) -> np.ndarray:
    return np.array([transform(frame.faces[0].face.photo_from_crop, np.array([0.5, 0.5])) for frame in frames])


def true_centers(places: list[np.ndarray]) -> np.ndarray:
    center = transform(np.linalg.inv(ffhq_matrix(SHAPE)), np.array([0.5, 0.5]))
    return np.array([transform(place, center) for place in places])


def trembling(track: np.ndarray) -> float:
    return float(np.sqrt((np.diff(track, 2, axis=0) ** 2).mean()))


# --- places


def test_a_still_face_keeps_its_very_points_and_crop():
    frames = smoothed(film([similarity(200.3, 111.7, 1.1, 3)] * LENGTH))
    first = frames[0].faces[0]
    for frame in frames:
        (face,) = frame.faces
        assert np.array_equal(face.face.points, first.face.points)
        assert np.array_equal(face.face.crop_from_photo, first.face.crop_from_photo)
        assert face.opacity == 1


def test_strength_0_passes_the_very_faces_on_at_once():
    frames = film([similarity(x) for x in range(LENGTH)], noise=1.0)
    smoother = PointSmoother(0)
    assert smoother.lag == 0
    for frame in frames:
        (out,) = smoother.push(frame)
        assert out.faces[0].face is frame.faces[0].face
        assert out.faces[0].opacity == 1
    assert smoother.flush() == []


def test_trembling_landmarks_are_averaged():
    places = [similarity(200, 100)] * LENGTH
    rough = film(places, noise=1.0)
    assert trembling(centers(smoothed(rough))) < 0.1 * trembling(centers(rough))


@pytest.mark.parametrize("motion", [False, True])
def test_steady_motion_is_kept_exactly(motion):
    places = [similarity(100 + 7.5 * t, 80 - 2 * t) for t in range(LENGTH)]
    error = centers(smoothed(film(places, motion=motion))) - true_centers(places)
    assert np.abs(error).max() < 1e-3  # float32 landmarks; the film's ends included


def test_however_a_face_moves_its_pixels_are_followed_and_only_the_landmarks_are_smoothed():
    rng = np.random.default_rng(3)
    places = [similarity(200 + x, 100 + y, np.exp(s), a) for x, y, s, a in rng.normal(0, (6, 6, 0.03, 4), (LENGTH, 4))]
    rough = film(places, noise=1.0, motion=True)
    error, before = (centers(frames) - true_centers(places) for frames in (smoothed(rough), rough))
    assert np.sqrt((error**2).mean()) < 0.5 * np.sqrt((before**2).mean())
    assert trembling(error) < 0.25 * trembling(before)


def test_measured_motion_that_trembles_less_than_it_is_precise_is_smoothed_too():
    """A pan that begins, speeds up and ends: what is left of the trembling of measured motion, and no lag."""
    rng = np.random.default_rng(4)
    t = np.linspace(0, 1, LENGTH)
    places = [similarity(100 + x, 80) for x in 150 * t * t * (3 - 2 * t)]
    frames = film(places)
    for before, after, frame in zip(places, places[1:], frames[1:], strict=False):
        x, y = rng.normal(0, 0.015, 2)
        frame.faces[0].motion = similarity(x, y) @ after @ np.linalg.inv(before)
    error = centers(smoothed(frames)) - true_centers(places)
    assert trembling(error) < 0.25 * 0.015 * np.sqrt(2)
    assert np.abs(error).max() < 0.05


def test_scale_and_angle_are_smoothed_as_places_are():
    places = [similarity(200, 100, 1.02**t, 2.0 * t) for t in range(LENGTH)]
    rough = film(places, noise=1.0)
    steady = smoothed(rough)

    def sizes_and_angles(frames):
        matrices = [frame.faces[0].face.crop_from_photo for frame in frames]
        return np.array([(np.log(crop_side_px(m)), np.unwrap([np.arctan2(m[0, 1], m[0, 0])])[0]) for m in matrices])

    assert trembling(sizes_and_angles(steady)[:, 0]) < 0.1 * trembling(sizes_and_angles(rough)[:, 0])
    growth = np.diff(sizes_and_angles(steady)[8:-8, 0])
    assert growth == pytest.approx(np.log(1.02), abs=0.004)  # it grows on, by 2 % a frame


def test_points_and_crop_agree():
    """The mask is drawn from the points, in the crop: both must be of the same smoothed face."""
    for frame in smoothed(film([similarity(100 + 3 * t, 90) for t in range(LENGTH)], noise=1.0)):
        face = frame.faces[0].face
        assert np.abs(ffhq_matrix(face.points) @ face.photo_from_crop - np.eye(3)).max() < 0.02
        center = (face.box[:2] + face.box[2:]) / 2
        assert np.hypot(*(center - face.points.mean(0))) < 40


def test_no_window_reaches_across_a_cut():
    places = [similarity(100, 100)] * 20 + [similarity(400, 200, 2)] * 20
    frames = smoothed(film(places, cuts=(20,)))
    assert np.abs(centers(frames) - true_centers(places)).max() < 1e-3
    assert all(frame.faces[0].opacity == 1 for frame in frames)


def test_a_face_missed_for_some_frames_is_put_in_between():
    places = [similarity(100 + 5 * t, 100) for t in range(LENGTH)]
    gap = range(15, 15 + FILL)
    frames = smoothed(film([None if t in gap else place for t, place in enumerate(places)]))
    assert np.abs(centers(frames) - true_centers(places)).max() < 0.01
    assert all(frame.faces[0].opacity == 1 for frame in frames)
    assert [frame.index for frame in frames if not frame.faces[0].seen] == list(gap)


def test_a_face_fades_where_it_comes_and_goes_but_not_at_the_ends_of_a_shot():
    place = similarity(100, 100)
    frames = smoothed(film([None] * 5 + [place] * 20 + [None] * 10 + [place] * 15))
    opacity = [frame.faces[0].opacity if frame.faces else 0 for frame in frames]
    ramp = [(step + 1) / (FADE + 1) for step in range(FADE)]
    stretch = ramp + [1] * (20 - 2 * FADE) + ramp[::-1]
    assert opacity == pytest.approx([0] * 5 + stretch + [0] * 10 + ramp + [1] * (15 - FADE))
    assert smoothed(film([place] * 8))[0].faces[0].opacity == 1  # a film shorter than the window


def test_what_is_never_confirmed_is_never_shown():
    place = similarity(100, 100)
    assert not any(frame.faces for frame in smoothed(film([place] * 2 + [None] * 20, confirmed=False)))
    doubtful_at_first = film([place] * LENGTH)
    doubtful_at_first[0].faces[0].confirmed = False
    assert smoothed(doubtful_at_first)[0].faces  # the second look came in time


def test_a_film_without_faces_or_of_one_frame_passes():
    assert [frame.faces for frame in smoothed([FrameFaces(t) for t in range(25)])] == [[]] * 25
    (frame,) = smoothed(film([similarity(50, 50)]))
    assert frame.faces[0].opacity == 1


def test_frames_are_given_back_lag_frames_later_and_no_more_are_held():
    smoother = PointSmoother(0.5)
    frames = film([similarity(100 + t, 100) for t in range(200)])
    given = [len(smoother.push(frame)) for frame in frames]
    assert given == [0] * smoother.lag + [1] * (200 - smoother.lag)
    assert len(smoother._window._frames) <= 2 * smoother.lag + 1


# --- codes


def codes_of(values: torch.Tensor, strength: float = 0.5, missing=(), cuts=()) -> torch.Tensor:
    """Smooths one track's codes (frames, rows, dim)."""
    smoother = CodeSmoother(strength)
    face = film([similarity(100, 100)])[0].faces[0]
    out = []
    for index, value in enumerate(values):
        frame = FrameFaces(index, [face], index in cuts)
        out += smoother.push(frame, {} if index in missing else {face.track: value})
    out += smoother.flush()
    assert [frame.index for frame, _ in out] == list(range(len(values)))
    return torch.stack([codes[face.track] for _, codes in out])


def noisy(values: torch.Tensor, amount: float) -> torch.Tensor:
    return values + amount * torch.randn(values.shape, generator=torch.Generator().manual_seed(5))


def test_codes_of_a_still_film_are_the_same_in_every_frame():
    code = torch.randn(12, 64)
    out = codes_of(code.repeat(60, 1, 1))
    assert torch.equal(out, code.repeat(60, 1, 1))


def test_strength_0_passes_codes_on():
    values = torch.randn(20, 12, 64)
    assert torch.equal(codes_of(values, strength=0), values)


def test_noise_in_codes_is_taken_out():
    rough = noisy(torch.randn(1, 12, 64).repeat(LENGTH, 1, 1), 0.2)
    steady = codes_of(rough)
    middle = slice(8, -8)
    assert steady[middle].diff(dim=0).abs().mean() < 0.12 * rough.diff(dim=0).abs().mean()


@pytest.mark.parametrize("period", [6, 24])
def test_what_changes_comes_through_in_time(period):
    """Speech changes about five times a second, a smile once; both under noise."""
    t = torch.arange(60.0)
    direction = torch.randn(1, 12, 64)
    change = torch.sin(2 * torch.pi * t / period)
    out = codes_of(noisy(change[:, None, None] * direction, 0.2))
    response = (out * direction).sum((1, 2)) / direction.square().sum()
    correlations = [np.corrcoef(np.roll(response, -lag)[10:-10], change[10:-10])[0, 1] for lag in range(-4, 5)]
    assert int(np.argmax(correlations)) - 4 == 0
    assert max(correlations) > 0.98
    assert response[10:-10].std() > 0.6 * change[10:-10].std()


def test_a_row_that_holds_still_is_steadied_while_another_changes():
    change = torch.sin(torch.arange(60.0) / 2)
    values = torch.zeros(60, 2, 64)
    values[:, 0] = change[:, None]
    rough = noisy(values, 0.1)
    steady = codes_of(rough)
    assert steady[:, 1].diff(dim=0).abs().mean() < 0.25 * rough[:, 1].diff(dim=0).abs().mean()


def test_codes_that_hardly_change_are_held_and_those_that_do_are_not():
    code = torch.randn(1, 12, 64)
    drift = torch.linspace(0, 1, 16)[:, None, None] * torch.randn(1, 12, 64)
    held = codes_of(code + HOLD / 2 * drift)
    assert all(torch.equal(one, held[0]) for one in held)
    moved = codes_of(code + 40 * HOLD * drift)
    assert moved[2:-2].diff(dim=0).abs().amax((1, 2)).min() > 0


def test_smoothing_begun_later_goes_on_as_if_begun_at_the_start():
    """As where a film is resumed: from the frames before a part of it, as many as the window takes."""
    values = noisy(torch.randn(1, 4, 16).repeat(60, 1, 1), 0.01)
    frames = film([similarity(100, 100)] * 60)

    def codes_from(first: int) -> dict[int, torch.Tensor]:
        smoother = CodeSmoother()
        out = [one for t in range(first, 60) for one in smoother.push(frames[t], {1: values[t]})] + smoother.flush()
        return {frame.index: codes[1] for frame, codes in out}

    whole, resumed = codes_from(0), codes_from(2 * HOLD_FRAMES - CodeSmoother().lag)
    assert all(torch.equal(whole[t], resumed[t]) for t in range(2 * HOLD_FRAMES, 60))


def test_a_face_that_is_not_seen_keeps_a_code():
    values = noisy(torch.randn(1, 4, 16).repeat(LENGTH, 1, 1), 0.01)
    out = codes_of(values, missing=range(14, 26))
    assert (out - values.mean(0)).abs().max() < 0.05


def test_codes_do_not_cross_a_cut():
    values = torch.zeros(40, 4, 16)
    values[20:] = 1
    assert torch.equal(codes_of(values, cuts=(20,)), values)


def test_codes_stay_in_their_own_type():
    assert codes_of(torch.randn(20, 4, 16)).dtype == torch.float32


@pytest.mark.parametrize("strength", [-0.1, 1.5])
def test_a_strength_outside_0_to_1_is_refused(strength):
    for smoother in (PointSmoother, CodeSmoother):
        with pytest.raises(UsageError, match="0 is none"):
            smoother(strength)
