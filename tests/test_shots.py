"""Films take a style's scene shot by shot: at once, steadily, blended when people come, the same when resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_films import draw_film, frames_of, packets_of, stamps_of
from test_crop_paste import face_at
from test_films import (
    EXACT,
    HEIGHT,
    WIDTH,
    coming_and_going,
    drawn_faces,
    ended,
    face_film,
    face_frames,
    pictures,
    run,
    same_film,
)
from tiny_style import drawn_photo, one_core, tiny_style

from dualstylegan.faces.track import FrameFaces, TrackedFace
from dualstylegan.media.film import parts
from dualstylegan.stylizing.scene import Scene, plain_table
from dualstylegan.stylizing.shots import BLEND, ShotScenes
from dualstylegan.stylizing.stylizer import Stylizer

__all__ = ["drawn_faces", "one_core"]

FRAME = drawn_photo(WIDTH, HEIGHT, ())


class StubStylizer:
    """Every face asks for a light of its own: 0.1 for each 100 px of its crop."""

    def __init__(self):
        self.fitted = 0

    def crop(self, frame, faces):
        return faces

    encode = render = lambda self, codes: codes

    def fit(self, frame, faces, portraits):
        self.fitted += 1
        light = faces[0].crop_side_px / 1000
        return Scene(plain_table() * 0 + np.float32(light), np.zeros((2, 3)), faces[0].crop_side_px)


def frame_with(index: int, *sizes: float, cut: bool = False) -> FrameFaces:
    faces = [TrackedFace(number, face_at(80 + index, 50, size)) for number, size in enumerate(sizes) if size]
    return FrameFaces(index, faces, cut)


def lights(frames, stylizer=None) -> list[float]:
    """How light the scene is in each frame, as much as it is there; 0 where there is none."""
    shots = ShotScenes(stylizer or StubStylizer())
    scenes = [shots.at(FRAME, found) for found in frames]
    return [0.0 if scene is None else float(scene.table.mean()) * scene.strength for scene in scenes]


def test_a_shot_has_one_scene_from_its_first_frame_on():
    stylizer = StubStylizer()
    found = lights([frame_with(i, 200 + 3 * i) for i in range(30)], stylizer)
    assert found == pytest.approx([found[0]] * 30)
    assert found[0] > 0 and stylizer.fitted == 1


def test_a_cut_begins_anew_and_a_shot_without_anyone_is_left_alone():
    frames = [frame_with(i, 200) for i in range(5)]
    frames += [frame_with(i, cut=i == 5) for i in range(5, 10)]
    frames += [frame_with(i, 400, cut=i == 10) for i in range(10, 15)]
    found = lights(frames)
    assert found[5:10] == [0.0] * 5
    assert found[10] == found[14] > 1.5 * found[4]


def test_who_comes_later_changes_the_scene_little_by_little():
    found = lights([frame_with(i, 200, 400 if i >= 10 else 0) for i in range(40)])
    assert found[:10] == [found[0]] * 10 and found[10 + BLEND :] == [found[-1]] * (30 - BLEND)
    steps = np.diff(found)
    assert (steps >= -1e-9).all() and steps.max() <= 1.01 * (found[-1] - found[0]) / (BLEND + 1)
    assert found[-1] / found[0] == pytest.approx((200**3 + 400**3) / (200**2 + 400**2) / 200, rel=0.01)


def test_the_first_who_comes_brings_the_scene_little_by_little():
    found = lights([frame_with(i, 200 if i >= 10 else 0) for i in range(40)])
    assert found[:10] == [0.0] * 10 and found[-1] > 0
    assert np.diff(found).max() <= 1.01 * found[-1] / (BLEND + 1)


def test_the_last_who_goes_leaves_the_scene():
    found = lights([frame_with(i, 200 if i < 10 else 0) for i in range(40)])
    assert found == [found[0]] * 40


# Through the whole line


@pytest.fixture(scope="module", params=["oil", "hatch", "flat"])
def painted(request, tmp_path_factory) -> str:
    header = {"scene": "paint", "surface": request.param, "finish": True}
    return str(tiny_style(tmp_path_factory.mktemp("painted"), **header))


@pytest.fixture(scope="module")
def toned(tmp_path_factory) -> str:
    return str(tiny_style(tmp_path_factory.mktemp("toned"), scene="tone"))


def test_a_still_picture_stays_still(painted):
    face_frames("a", 6, lambda index: ((60, 46, 18),))
    run("a", f"{painted}:1")
    first, *others = pictures("stylized/a")
    assert all(np.array_equal(first, other) for other in others)
    before = pictures("a")[0]
    assert np.abs(before[:, 130:].astype(int) - first[:, 130:]).mean() > 3


def test_what_the_command_asks_goes_before_the_styles_header(painted):
    face_frames("a", 5, lambda index: ((60, 46, 18),))
    run("a", f"{painted}:1", scene="keep")
    for before, after in zip(pictures("a"), pictures("stylized/a"), strict=True):
        assert np.array_equal(before[:, 130:], after[:, 130:])
        assert not np.array_equal(before, after)


def test_frames_of_a_shot_in_which_nobody_is_seen_are_toned_like_the_others(toned):
    face_frames("a", 40, lambda index: ((60, 46, 18),) if index < 12 else ())
    run("a", f"{toned}:1", EXACT)
    ground = [picture[:, 130:].astype(int) for picture in pictures("stylized/a")]
    assert all(np.array_equal(one, ground[0]) for one in ground[12:])


def test_photos_and_unsmoothed_frames_are_toned_alike(toned):
    face_frames("a", 5, lambda index: ((60, 46, 18),))
    run("a", f"{toned}:1", EXACT)
    photo = Stylizer(f"{toned}:1", device="cpu")(pictures("a")[0])
    assert np.abs(photo.astype(int) - pictures("stylized/a")[0]).max() <= 1


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
def test_a_toned_film_keeps_its_depth_sound_and_stamps(toned, pix_fmt):
    codec = "libx264" if pix_fmt == "yuv420p" else "libx265"
    stamps = [0, 3, 4, 9, 10, 11, 15, 16, 20, 22]
    face_film("a.mp4", len(stamps), pts=stamps, audio="aac", codec=codec, pix_fmt=pix_fmt)
    assert ended(run("a.mp4", f"{toned}:1")) == {"a.mp4": "done"}
    assert stamps_of("stylized/a.mp4") == stamps_of("a.mp4")
    assert packets_of("stylized/a.mp4") == packets_of("a.mp4")
    assert frames_of("stylized/a.mp4", None)[0].dtype == frames_of("a.mp4", None)[0].dtype


def test_an_hdr_film_keeps_its_colours_and_says_so(toned):
    face_film("a.mkv", 6, codec="libx265", pix_fmt="yuv420p10le", color="bt2020", transfer="pq")
    events = run("a.mkv", f"{toned}:1")
    assert ended(events) == {"a.mkv": "done"}
    assert any("HDR" in e.message and "--scene keep" in e.message for e in events if e.kind == "note")


def test_resumed_a_toned_film_is_that_of_a_run_that_was_not_stopped(toned, monkeypatch):
    monkeypatch.setattr(parts, "PART_FRAMES", 16)
    face_film("a.mp4", 56, coming_and_going)
    stylizer = Stylizer(f"{toned}:1", device="cpu", precision="float32", batch=4)
    run("a.mp4", stylizer, output="whole")
    compose, composed = stylizer.compose, []

    def until_frame_44(*args):
        composed.append(1)
        if len(composed) > 44:
            raise OSError("the power went")
        return compose(*args)

    monkeypatch.setattr(stylizer, "compose", until_frame_44)
    assert ended(run("a.mp4", stylizer)) == {"a.mp4": "failed"}
    monkeypatch.setattr(stylizer, "compose", compose)
    run("a.mp4", stylizer, {"resume": True})
    assert len(composed) == 45 and same_film("stylized/a.mp4", "whole/a.mp4")


def test_a_portrait_film_has_no_scene(painted):
    draw_film("a.mp4", lambda i: drawn_photo(WIDTH, HEIGHT, ((60, 46, 18),)), count=6, size=(WIDTH, HEIGHT))
    assert ended(run("a.mp4", f"{painted}:1", crop=True)) == {"a.mp4": "done"}
    assert Path("stylized/a.mp4").is_file()


def test_a_face_that_grows_is_finished_little_by_little(painted):
    stylizer = Stylizer(f"{painted}:1", device="cpu")
    photo = drawn_photo(320, 320, ((160, 160, 40),))
    ((face,),) = stylizer.find([photo])
    portraits = stylizer.render(stylizer.encode(stylizer.crop(photo, [face])))
    grown = []
    for factor in (0.9, 1.01, 1.2, 1.6, 3.0):
        side = factor * stylizer.size / face.crop_side_px
        larger = replace(face, points=face.points * side)
        (placed,) = stylizer.place([larger], portraits, [None])
        grown.append(placed.portrait.shape[-1] // stylizer.size)
    assert grown == [1, 2, 2, 2, 4]
    assert stylizer.warning_about(larger) is None
    assert "soft" in Stylizer(f"{painted}:1", device="cpu", finish="off").warning_about(larger)
