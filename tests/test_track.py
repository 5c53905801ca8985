"""Faces keep their numbers through a film: moving, crossing, hidden, missed; a cut ends them, a flash does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.ndimage import affine_transform

from dualstylegan.errors import UsageError
from dualstylegan.faces.cuts import CutFinder
from dualstylegan.faces.face import Face, transform
from dualstylegan.faces.find import EmbeddedDetector, FaceEmbedder
from dualstylegan.faces.motion import GreyFrame, face_motion
from dualstylegan.faces.track import GAP, FaceTracker, FrameFaces

PHOTOS = Path(__file__).parent / "data" / "photos"
FIRST, SECOND, THIRD = "congress_A000371", "congress_C001101", "congress_G000535"
SIZE = (320, 180)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def detector() -> EmbeddedDetector:
    return EmbeddedDetector(tilts=())


@pytest.fixture(scope="module")
def embedder() -> FaceEmbedder:
    return FaceEmbedder()


class Counting:
    """The embedded detector, but it counts its looks and can be made blind in some frames."""

    def __init__(self, detector: EmbeddedDetector, blind: set[int] = frozenset(), follows: bool = True):
        self.detector, self.blind, self.name = detector, blind, detector.name
        self.looked_at: list[int] = []
        if follows:
            self.follow = detector.follow

    def find(self, pictures: list[np.ndarray]) -> list[list[Face]]:
        numbers = [int(picture[0, 0, 0]) for picture in pictures]
        self.looked_at += numbers
        found = self.detector.find(pictures)
        return [[] if number in self.blind else faces for number, faces in zip(numbers, found, strict=True)]


def card(name: str, height: int = 130) -> Image.Image:
    photo = Image.open(PHOTOS / f"{name}.jpg").convert("RGB")
    return photo.resize((round(photo.width * height / photo.height), height), Image.Resampling.LANCZOS)


def scenery(seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(40, 216, (9, 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC)


def film(
    length: int, *people: tuple[str, object], scene: int = 0, posts: dict[int, tuple[int, int]] | None = None
) -> list[np.ndarray]:
    """People are (photo, place), place(frame) the upper left corner, px, or None where absent; later ones in front. A
    frame's very first value is its number. `posts`: what stands before columns from x1 to x2."""
    background, cards = scenery(scene), {name: card(name) for name, _ in people}
    frames = []
    for index in range(length):
        picture = background.copy()
        for name, place in people:
            corner = place(index)
            if corner is not None:
                picture.paste(cards[name], tuple(int(v) for v in corner))
        pixels = np.array(picture)
        if posts and index in posts:
            pixels[15:155, slice(*posts[index])] = (60, 80, 60)
        pixels[0, 0, 0] = index
        frames.append(pixels)
    return frames


def track(frames: list[np.ndarray], detector, batch: int = 8, **settings) -> list[FrameFaces]:
    tracker = FaceTracker(detector, **settings)
    return [found for start in range(0, len(frames), batch) for found in tracker.track(frames[start : start + batch])]


def numbers(found: FrameFaces, seen: bool = True) -> list[int]:
    return sorted(face.track for face in found.faces if face.seen or not seen)


# --- following


def test_a_moving_face_keeps_its_number_and_is_followed_between_detections(detector):
    counting = Counting(detector)
    frames = film(21, (FIRST, lambda t: (40 + 4 * t, 20 + t)))
    found = track(frames, counting, detect_every=7)
    assert [numbers(frame) for frame in found] == [[1]] * 21
    assert counting.looked_at == [0, 7, 14]
    middles = np.array([frame.faces[0].face.points.mean(0) for frame in found])
    assert middles - middles[0] == pytest.approx(np.arange(21)[:, None] * [4, 1], abs=0.5)
    motions = np.array([frame.faces[0].motion for frame in found[1:]])
    assert motions[:, :2, 2] == pytest.approx(np.array([[4, 1]] * 20), abs=0.5)
    assert found[0].faces[0].motion is None


def test_while_faces_are_sure_small_ones_are_looked_for_in_one_look_of_four(detector):
    looks = []

    class Glancing(Counting):
        def find(self, pictures):
            looks.append("look")
            return super().find(pictures)

        def glance(self, pictures, least_px):
            looks.append("glance")
            assert 20 < least_px < 60  # the face is about twice as wide
            return self.detector.glance(pictures, least_px)

    frames = film(24, (FIRST, lambda t: (40 + 2 * t, 20) if t < 18 else None))
    found = track(frames, Glancing(detector), detect_every=2)
    assert [numbers(frame) for frame in found[:18]] == [[1]] * 18 and not numbers(found[19])
    assert looks[:9] == ["look", *["glance"] * 3] * 2 + ["look"]
    assert "glance" not in looks[10:], "somebody is missed"
    looks.clear()
    track(frames[:4], Glancing(detector), detect_every=1)
    assert looks == ["look"], "all at once, as photos are looked at"


def test_how_frames_are_batched_changes_nothing(detector):
    frames = film(12, (FIRST, lambda t: (40 + 4 * t, 20)), (SECOND, lambda t: (190, 25 + t)))
    whole, single = (track(frames, detector, batch) for batch in (12, 1))
    for one, other in zip(whole, single, strict=True):
        assert numbers(one) == numbers(other) == [1, 2]
        for a, b in zip(one.faces, other.faces, strict=True):
            assert np.abs(a.face.points - b.face.points).max() < 0.01


def test_a_photo_repeated_is_looked_at_once_and_stays_the_same(detector):
    counting = Counting(detector)
    frames = [film(1, (FIRST, lambda t: (100, 20)))[0]] * 20
    found = track(frames, counting)
    assert counting.looked_at == [0]
    for frame in found:
        assert np.array_equal(frame.faces[0].face.points, found[0].faces[0].face.points)
    assert all(np.array_equal(frame.faces[0].motion, np.eye(3)) for frame in found[1:])


def test_a_detector_that_cannot_follow_serves_too(detector):
    frames = film(15, (FIRST, lambda t: (40 + 4 * t, 20)))
    found = track(frames, Counting(detector, follows=False), detect_every=5)
    assert [numbers(frame) for frame in found] == [[1]] * 15
    middles = np.array([frame.faces[0].face.points.mean(0) for frame in found])
    assert middles[:, 0] - middles[0, 0] == pytest.approx(4 * np.arange(15), abs=1)


def test_a_newcomer_is_found_when_detection_is_due(detector):
    frames = film(12, (FIRST, lambda t: (20, 20)), (SECOND, lambda t: (190, 25) if t >= 6 else None))
    found = track(frames, detector, detect_every=4)
    assert [numbers(frame) for frame in found] == [[1]] * 8 + [[1, 2]] * 4


def test_films_without_faces_and_odd_sizes_pass(detector):
    tracker = FaceTracker(detector)
    assert tracker.track([]) == []
    for shape in ((181, 321, 3), (1, 1, 3), (40, 700, 3)):
        found = FaceTracker(detector).track([np.full(shape, value, np.uint8) for value in (10, 11, 12)])
        assert [frame.faces for frame in found] == [[], [], []]
    assert tracker.people == 0


def test_detecting_less_than_every_frame_is_refused(detector):
    with pytest.raises(UsageError, match="every 0 frames"):
        FaceTracker(detector, detect_every=0)


# --- numbers


def test_two_people_who_cross_keep_their_numbers(detector, embedder):
    behind, front = (lambda t: (10 + 7 * t, 12)), (lambda t: (205 - 7 * t, 28))
    frames = film(28, (FIRST, behind), (SECOND, front))
    found = track(frames, detector, embedder=embedder)
    first = {face.track: face.face.points[:, 0].mean() for face in found[0].faces}
    left, right = sorted(first, key=first.get)
    last = {face.track: face.face.points[:, 0].mean() for face in found[-1].faces if face.seen}
    assert set(last) == {left, right}
    assert last[left] > last[right]
    assert set().union(*(numbers(frame) for frame in found)) <= {1, 2, 3}  # a third may be suspected, not confirmed
    confirmed = {face.track for frame in found for face in frame.faces if face.confirmed}
    assert confirmed == {left, right}


def test_a_face_hidden_for_ten_frames_keeps_its_number_and_is_expected_meanwhile(detector, embedder):
    frames = film(26, (FIRST, lambda t: (60 + 3 * t, 20)), posts=dict.fromkeys(range(8, 18), (80, 220)))
    found = track(frames, detector, embedder=embedder)
    assert [numbers(frame) for frame in found] == [[1]] * 8 + [[]] * 10 + [[1]] * 8
    assert [numbers(frame, seen=False) for frame in found] == [[1]] * 26
    expected = np.array([frame.faces[0].face.points[:, 0].mean() for frame in found])
    assert np.abs(np.diff(expected) - 3).max() < 12  # it goes on about as it went


def test_the_detector_may_miss_a_face_that_is_still_there(detector):
    counting = Counting(detector, blind=set(range(3, 13)))
    frames = film(20, (FIRST, lambda t: (60 + 3 * t, 20)))
    assert [numbers(frame) for frame in track(frames, counting, detect_every=4)] == [[1]] * 20


def test_who_was_away_for_long_is_known_again_elsewhere(detector, embedder):
    def place(t):
        return (20, 20) if t < 5 else (190, 25) if t >= 5 + GAP + 8 else None

    found = track(film(30, (FIRST, place)), detector, embedder=embedder, detect_every=4)
    assert numbers(found[4]) == [1] and numbers(found[-1]) == [1]
    assert numbers(found[5 + GAP + 5], seen=False) == []


def test_somebody_else_in_the_same_place_is_somebody_else(detector, embedder):
    posts = dict.fromkeys(range(5, 10), (55, 175))
    frames = film(20, (FIRST, lambda t: (60, 20) if t < 7 else None), (SECOND, lambda t: (60, 20) if t >= 7 else None),
                  posts=posts)  # fmt: skip
    found = track(frames, detector, embedder=embedder)
    assert numbers(found[0]) == [1] and numbers(found[-1]) == [2]


def test_a_flash_of_a_detector_is_no_face(detector):
    class Seeing(Counting):
        score = 0.8

        def find(self, pictures):
            numbers = [int(picture[0, 0, 0]) for picture in pictures]
            faces = super().find(pictures)
            ghost = Face.from_points(faces[0][0].points + np.float32((130, 10)), self.score)
            return [[*f, ghost] if n == 5 else f for n, f in zip(numbers, faces, strict=True)]

    frames = film(12, (FIRST, lambda t: (20 + t, 20)))
    found = track(frames, Seeing(detector))
    assert not any(face.confirmed for face in found[5].faces if face.track == 2)
    assert [numbers(frame) for frame in found[7:]] == [[1]] * 5


def test_a_faint_face_seen_twice_is_confirmed(detector):
    class Faint(Counting):
        def find(self, pictures):
            faces = super().find(pictures)
            return [[Face.from_points(face.points, 0.8) for face in found] for found in faces]

    counting = Faint(detector)
    found = track(film(8, (FIRST, lambda t: (20 + t, 20))), counting)
    assert [face.confirmed for frame in found for face in frame.faces] == [False] + [True] * 7
    assert sorted(counting.looked_at) == [0, 1, 5]  # the second look comes at once, not when it is due


def test_a_faint_face_in_a_photo_repeated_is_confirmed_by_being_there_still(detector):
    class Faint(Counting):
        def find(self, pictures):
            return [[Face.from_points(face.points, 0.8) for face in found] for found in super().find(pictures)]

    found = track([film(1, (FIRST, lambda t: (100, 20)))[0]] * 4, Faint(detector))
    assert [face.confirmed for frame in found for face in frame.faces] == [False, True, True, True]


def test_frames_shown_twice_do_not_keep_the_detector_from_its_turn(detector):
    counting = Counting(detector)
    frames = film(12, (FIRST, lambda t: (20 + 3 * t, 20)))
    doubled = [frames[0], *(frame for frame in frames[1:] for _ in range(2))]  # every even one is shown again
    track(doubled, counting, detect_every=4)
    assert sorted(counting.looked_at) == [0, 3, 5, 7, 9, 11]


# --- cuts


def test_a_cut_ends_all_tracks_and_the_next_shot_is_searched_at_once(detector, embedder):
    frames = film(9, (FIRST, lambda t: (60 + t, 20))) + film(9, (SECOND, lambda t: (80 + t, 30)), scene=1)
    for batch in (4, 9, 18):
        counting = Counting(detector)
        found = track(frames, counting, batch, embedder=embedder, detect_every=6)
        assert [frame.cut for frame in found] == [index == 9 for index in range(18)]
        assert [numbers(frame) for frame in found] == [[1]] * 9 + [[2]] * 9
        assert found[9].faces[0].motion is None


def flashed(frames: list[np.ndarray], at: int) -> list[np.ndarray]:
    return [np.clip(frame * 1.2 + 120, 0, 255).astype(np.uint8) if t == at else frame for t, frame in enumerate(frames)]


def cuts_of(frames: list[np.ndarray]) -> list[int]:
    return [index for index, cut in enumerate(CutFinder().find(frames)) if cut]


def test_after_a_flash_faces_are_who_they_were_even_where_it_looked_like_a_cut(detector):
    frames = film(12, (FIRST, lambda t: (60 + t, 20)))
    frames[7] = np.full_like(frames[7], 250)  # the last of its batch: what comes after it is not known yet
    found = track(frames, detector, batch=8)
    assert [numbers(frame) for frame in found] == [[1]] * 7 + [[]] + [[1]] * 4
    assert [frame.cut for frame in found] == [index in (7, 8) for index in range(12)]
    assert [frame.cut for frame in track(frames, detector, batch=12)] == [False] * 12


def test_light_and_motion_are_no_cuts():
    still = film(12, (FIRST, lambda t: (60, 20)))
    wide = np.tile(np.array(scenery(3).resize((960, 180))), (1, 1, 1))
    assert cuts_of(flashed(still, 6)) == []
    assert cuts_of([np.clip(frame * (1 - 0.07 * t), 0, 255).astype(np.uint8) for t, frame in enumerate(still)]) == []
    assert cuts_of([np.ascontiguousarray(wide[:, 30 * t : 30 * t + 320]) for t in range(20)]) == []
    assert cuts_of([np.array(Image.fromarray(still[0]).filter(ImageFilter.GaussianBlur(t))) for t in range(8)]) == []
    noise = np.random.default_rng(0).normal(0, 12, (12, *still[0].shape))
    assert cuts_of([np.clip(frame + n, 0, 255).astype(np.uint8) for frame, n in zip(still, noise, strict=True)]) == []


def test_other_places_and_people_are_cuts():
    shots = [film(3, (name, lambda t: (90, 20)), scene=scene) for scene, name in enumerate((FIRST, SECOND, THIRD))]
    assert cuts_of([frame for shot in shots for frame in shot]) == [3, 6]
    black = [np.zeros((180, 320, 3), np.uint8)] * 4
    assert cuts_of(shots[0] + black + shots[1]) == [3, 7]


# --- motion


def test_the_motion_of_a_face_is_measured_to_a_twentieth_of_a_pixel(detector):
    photo = np.asarray(Image.open(PHOTOS / f"{SECOND}.jpg").convert("RGB"))
    planes = photo.astype(np.float64).transpose(2, 0, 1)
    (face,) = detector.find([photo])[0]
    for x, y, scale, degrees in ((0.3, -0.6, 1, 0), (4, 2, 1, 0), (-1, 0, 1.03, 2), (0, 0, 1, 6)):
        turn = scale * np.exp(1j * np.deg2rad(degrees))
        center = face.points.mean(0).astype(float) @ (1, 1j)
        shift = complex(x, y) + center - turn * center
        moved_from_photo = np.array(
            [[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag], [0, 0, 1]]
        )
        back = np.linalg.inv(moved_from_photo)[[1, 0, 2]][:, [1, 0, 2]]  # scipy counts (y, x)
        # Pillow's own bicubic samples are off by as much as 0.08 px
        moved = np.stack([affine_transform(plane, back, order=5, mode="nearest") for plane in planes], -1)
        brighter = np.clip(moved * 0.8 + 20.5, 0, 255).astype(np.uint8)
        motion = face_motion(GreyFrame(photo), GreyFrame(brighter), face.crop_from_photo, np.eye(3))
        corners = face.box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2).astype(float)
        error = transform(motion.matrix, corners) - transform(moved_from_photo, corners)
        assert np.abs(error).max() < 0.05
        assert motion.agreement > 0.99


def test_pixels_of_another_place_do_not_agree(detector):
    photo = Image.open(PHOTOS / f"{SECOND}.jpg").convert("RGB")
    (face,) = detector.find([np.asarray(photo)])[0]
    other = np.array(scenery(5).resize(photo.size))
    assert face_motion(GreyFrame(np.asarray(photo)), GreyFrame(other), face.crop_from_photo, np.eye(3)).agreement < 0.7
