"""Films through `dsg stylize`: streamed in threads, tracked and smoothed, with their sound; whole or not at all."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from drawn_films import draw_film, frames_of, packets_of, read_deep, stamps_of, write_deep
from launched import Launched
from PIL import Image
from tiny_style import SIZE, DrawnFaces, drawn_photo, one_core, stylizer_settings, tiny_style

from dsgcli.main import main
from dualstylegan import stylize as stylize_module
from dualstylegan.choices import DETECT_EVERY, SMOOTH
from dualstylegan.errors import UsageError
from dualstylegan.events import Event
from dualstylegan.faces import find
from dualstylegan.media.film import parts
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.runtime.processes import Processes
from dualstylegan.stylize import stylize_files
from dualstylegan.stylizing import films, sheets
from dualstylegan.stylizing import stylizer as stylizer_module
from dualstylegan.stylizing.films import restyle_film
from dualstylegan.stylizing.settings import FilmOptions
from dualstylegan.stylizing.stylizer import Stylizer

__all__ = ["one_core"]

WIDTH, HEIGHT = 160, 96
LAUNCHER = Path(shutil.which("accelerate") or Path(sys.executable).with_name("accelerate"))
EXACT = {"detect_every": 1, "smooth": 0.0}  # every frame by itself


@pytest.fixture(scope="module")
def style(tmp_path_factory) -> str:
    return str(tiny_style(tmp_path_factory.mktemp("styles")))


@pytest.fixture(autouse=True)
def drawn_faces(monkeypatch, tmp_path) -> DrawnFaces:
    """Every test runs in an empty folder of its own, where faces are found as they were drawn."""
    detector = DrawnFaces()
    monkeypatch.setattr(stylizer_module, "make_detector", lambda *args, **kwargs: detector)
    monkeypatch.chdir(tmp_path)
    return detector


@pytest.fixture(autouse=True)
def no_thread_outlives_its_film():
    yield
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith("dsg-") and "faces" not in thread.name
    ]


def one_face(index: int) -> Sequence[tuple[float, float, float]]:
    return ((60 + index, 46, 18),)


def face_film(path: str | Path, count: int = 20, faces: Callable[[int], Sequence] = one_face, **options) -> Path:
    """A film of drawn faces before a ground that stays."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return draw_film(
        path, lambda index: drawn_photo(WIDTH, HEIGHT, faces(index)), count=count, size=(WIDTH, HEIGHT), **options
    )


def face_frames(folder: str | Path, count: int = 20, faces: Callable[[int], Sequence] = one_face) -> Path:
    """The same as numbered PNG frames: exactly RGB, in and out."""
    Path(folder).mkdir(parents=True)
    for i in range(count):
        Image.fromarray(drawn_photo(WIDTH, HEIGHT, faces(i))).save(Path(folder) / f"{i + 1:06}.png")
    return Path(folder)


def pictures(folder: str | Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(Path(folder).iterdir())]


def run(inputs, styles, film: dict | None = None, **options) -> list[Event]:
    inputs = [inputs] if isinstance(inputs, str | Path) else inputs
    styles = [styles] if isinstance(styles, str | Stylizer) else styles
    settings, options = stylizer_settings(options)
    return list(stylize_files(inputs, styles, settings, FilmOptions(**(film or {})), **options))


def ended(events: Sequence[Event]) -> dict[str, str]:
    return {Path(e.source).name: e.kind for e in events if e.kind in ("done", "skipped", "failed")}


def data_of(events: Sequence[Event]) -> dict:
    return next(event.data for event in events if event.kind == "done")


def files(folder: str | Path = "stylized") -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def differ(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other).mean())


# A film comes out as it went in, but for its faces


def test_sound_and_time_stamps_come_through_the_whole_command(style):
    stamps = [0, 3, 4, 9, 10, 11, 15, 16, 20, 22, 23, 30]
    face_film("talk.mp4", len(stamps), pts=stamps, audio="aac", audio_tracks=2)
    assert main(["stylize", "talk.mp4", "-s", f"{style}:1", "--device", "cpu"]) == 0
    assert stamps_of("stylized/talk.mp4") == stamps_of("talk.mp4")
    for track in (0, 1):
        assert packets_of("stylized/talk.mp4", "audio", track) == packets_of("talk.mp4", "audio", track)
    before, after = frames_of("talk.mp4"), frames_of("stylized/talk.mp4")
    assert all(differ(one[30:60, 50:70], other[30:60, 50:70]) > 8 for one, other in zip(before, after, strict=True))
    assert all(differ(one[:, 130:], other[:, 130:]) < 4 for one, other in zip(before, after, strict=True))


def test_unsmoothed_every_frame_is_the_stylizers_picture(style):
    face_frames("a", 6)
    run("a", f"{style}:1", EXACT, output="out")
    stylizer = Stylizer(f"{style}:1", device="cpu", precision="float32")
    wanted = stylizer(pictures("a"))
    for one, other in zip(wanted, pictures("out/a"), strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1, "batches of another size round differently"


def test_frames_without_a_face_pass_through_untouched(style):
    face_film("a.mkv", 20, lambda i: one_face(i) if i >= 12 else (), codec="ffv1")
    events = run("a.mkv", f"{style}:1", EXACT)
    before, after = frames_of("a.mkv", None), frames_of("stylized/a.mkv", None)
    equal = [np.array_equal(one, other) for one, other in zip(before, after, strict=True)]
    assert equal == [True] * 12 + [False] * 8
    assert data_of(events)["frames_without_face"] == 12


def test_a_film_without_a_face_is_copied_as_it_is_or_skipped_and_said(style):
    face_film("sea.mp4", 8, lambda i: (), audio="aac")
    events = run("sea.mp4", f"{style}:1")
    assert Path("stylized/sea.mp4").read_bytes() == Path("sea.mp4").read_bytes()
    assert [e.message for e in events if e.kind == "done"] == ["no face found, copied"]
    events = run("sea.mp4", f"{style}:1", no_face="skip", output="other")
    assert ended(events) == {"sea.mp4": "skipped"} and not files("other")
    events = run("sea.mp4", f"{style}:1", {"max_frames": 3}, output="cut")
    assert len(frames_of("cut/sea.mp4")) == 3, "only a whole film is copied"


def test_a_gif_stays_a_gif(style):
    pictures = [Image.fromarray(drawn_photo(WIDTH, HEIGHT, one_face(3 * i))) for i in range(5)]
    pictures[0].save("a.gif", save_all=True, append_images=pictures[1:], duration=[40, 80, 40, 200, 60], loop=3)
    events = run("a.gif", f"{style}:1", EXACT)
    with Image.open("stylized/a.gif") as gif:
        durations, after = [], []
        for number in range(gif.n_frames):
            gif.seek(number)
            durations.append(gif.info["duration"])
            after.append(np.array(gif.convert("RGB")))
    assert durations == [40, 80, 40, 200, 60] and data_of(events)["frames"] == 5
    assert all(
        differ(one[30:60, 50:70], np.array(two)[30:60, 50:70]) > 8 for one, two in zip(after, pictures, strict=True)
    )


def test_a_folder_of_numbered_frames_is_a_film(style):
    face_frames("in/clip", 6)
    Image.fromarray(drawn_photo(WIDTH, HEIGHT, one_face(9))).save("in/photo.png")
    events = run("in", f"{style}:1", EXACT)
    assert files() == [*(f"clip/{i + 1:06}.png" for i in range(6)), "photo.png"]
    assert ended(events) == {"clip": "done", "photo.png": "done"}
    assert events[-1].data["faces"] == 2, "a film's faces are counted by its tracks"


def test_photos_that_happen_to_be_numbered_stay_photos(style):
    face_frames("in", 6)
    for path in sorted(Path("in").iterdir()):
        path.rename(path.with_name(f"{int(path.stem):02}.png"))
    events = run("in", f"{style}:1")
    assert files() == [f"{i + 1:02}.png" for i in range(6)] and events[-1].data["done"] == 6
    events = run("in", f"{style}:1", output="b.mp4")  # where a film must come out they are one
    assert len(frames_of("b.mp4")) == 6 and events[-1].data["done"] == 1


def test_what_lies_beside_frames_is_not_passed_over(style):
    face_frames("in/clip.v2", 6)
    face_film("in/clip.v2/talk.mp4", 4)
    events = run("in", [f"{style}:0", f"{style}:1"])
    frames = [f"clip.tiny-{n}.v2/{i + 1:06}.png" for n in (0, 1) for i in range(6)]
    assert files() == sorted([*frames, "clip.v2/talk.tiny-0.mp4", "clip.v2/talk.tiny-1.mp4"])
    assert ended(events) == {"clip.v2": "done", "talk.mp4": "done"}


def test_a_film_becomes_numbered_frames_and_they_a_film(style):
    face_film("a.mp4", 6)
    run("a.mp4", f"{style}:1", output="frames/{stem}")
    assert files("frames") == [f"a/{i + 1:06}.png" for i in range(6)]
    run("frames/a", f"{style}:1", output="b.mp4")
    assert len(frames_of("b.mp4")) == 6


def test_a_part_of_a_film(style):
    face_film("a.mp4", 20, audio="aac")
    events = run("a.mp4", f"{style}:1", {"start_s": 0.2, "end_s": 0.6})
    assert data_of(events)["frames"] == 10 and len(frames_of("stylized/a.mp4")) == 10
    events = run("a.mp4", f"{style}:1", {"max_frames": 3})
    assert len(frames_of("stylized/a.mp4")) == 3
    wanted = frames_of("a.mp4")[5]
    run("a.mp4", f"{style}:1", {"start_s": 0.2, "max_frames": 1})
    assert differ(frames_of("stylized/a.mp4")[0][:, 130:], wanted[:, 130:]) < 4


def test_the_commands_options_reach_the_encoder_and_the_range(style):
    face_film("a.mp4", 20, audio="aac")
    command = ["stylize", "a.mp4", "-s", f"{style}:1", "--device", "cpu", "--smooth", "0", "--detect-every", "1"]
    assert main([*command, "-o", "b.mov", "--codec", "prores", "--start", "0:00.2", "--end", "0.6"]) == 0
    assert main([*command, "-o", "c.mkv", "--codec", "hevc", "--preset", "ultrafast", "--max-frames", "4"]) == 0
    assert main([*command, "-o", "fine.mp4", "--crf", "5"]) == main([*command, "-o", "coarse.mp4", "--crf", "45"]) == 0
    for path, codec, count in (("b.mov", "prores", 10), ("c.mkv", "hevc", 4), ("fine.mp4", "h264", 20)):
        with films.open_film(path) as film:
            assert (film.info.codec, len(list(film))) == (codec, count)
    assert Path("fine.mp4").stat().st_size > 2 * Path("coarse.mp4").stat().st_size


def test_crop_makes_a_film_of_the_portrait(style):
    def faces(index):
        return ((40, 40, 14), (112, 48, 20)) if index < 8 else ()

    face_film("a.mp4", 12, faces, audio="aac")
    events = run("a.mp4", f"{style}:1", EXACT, crop=True)
    after = frames_of("stylized/a.mp4")
    assert after[0].shape == (SIZE, SIZE, 3) and len(after) == 12
    assert differ(after[-1], after[7]) < 4, "while there is no face the last portrait stays"
    assert data_of(events)["tracks"] == 1 and packets_of("stylized/a.mp4") == packets_of("a.mp4")
    face_film("sea.mp4", 4, lambda i: ())
    assert ended(run("sea.mp4", f"{style}:1", crop=True)) == {"sea.mp4": "skipped"}


@pytest.mark.parametrize("crop", [False, True])
def test_films_and_photos_are_drawn_as_far_as_they_are_shown(style, monkeypatch, crop):
    seen, forward = [], DualStyleGAN.forward

    def watched(self, *args, region=None, **kwargs):
        seen.append(region)
        return forward(self, *args, region=region, **kwargs)

    monkeypatch.setattr(DualStyleGAN, "forward", watched)
    monkeypatch.setattr(stylizer_module, "REGIONS_FROM", SIZE)
    face_frames("a", 3)
    Image.fromarray(pictures("a")[0]).save("one.png")
    for source in ("a", "one.png"):
        run(source, f"{style}:1", EXACT, crop=crop, mask="face")
        assert seen and {region is None for region in seen} == {crop}
        seen.clear()


def test_the_largest_face_is_kept_to_until_it_leaves(style):
    """The second face outgrows the first one, which yet stays the film's."""

    def faces(index):
        return ((44, 46, 20), (116, 46, 14 + index * 0.6))

    face_frames("a", 16, faces)
    events = run("a", f"{style}:1", EXACT, faces="largest")
    before, after = pictures("a"), pictures("stylized/a")
    assert data_of(events)["tracks"] == 1
    assert differ(before[15][36:56, 34:54], after[15][36:56, 34:54]) > 8
    assert differ(before[15][40:52, 108:124], after[15][40:52, 108:124]) == 0


def test_compare_sets_the_source_beside_the_result(style):
    face_frames("a", 5)
    run("a", f"{style}:1", {**EXACT, "compare": True})
    run("a", f"{style}:1", EXACT, output="plain")
    for pair, one, before in zip(pictures("stylized/a"), pictures("plain/a"), pictures("a"), strict=True):
        assert pair.shape == (HEIGHT, 2 * WIDTH, 3)
        assert np.array_equal(pair[:, :WIDTH], before) and np.array_equal(pair[:, WIDTH:], one)
    face_film("b.mp4", 5)
    run("b.mp4", f"{style}:1", {"compare": True}, crop=True, output="crops")
    assert frames_of("crops/b.mp4")[0].shape == (SIZE, 2 * SIZE, 3)


# Nothing is done twice


def test_several_styles_share_one_pass_over_the_film(style, drawn_faces, monkeypatch):
    face_film("a.mp4", 12)
    encoded, opened = [], []
    encode, open_film = Stylizer.encode, films.open_film
    monkeypatch.setattr(
        Stylizer, "encode", lambda self, crops, *a: encoded.append(len(crops)) or encode(self, crops, *a)
    )
    monkeypatch.setattr(films, "open_film", lambda *a, **k: opened.append(a) or open_film(*a, **k))
    events = run("a.mp4", [f"{style}:0", f"{style}:1", f"{style}:0*0.5+{style}:2*0.5"], {"detect_every": 1})
    assert files() == ["a.tiny-0.mp4", "a.tiny-0x0.5+2x0.5.mp4", "a.tiny-1.mp4"]
    assert (drawn_faces.seen, sum(encoded), len(opened)) == (12, 12, 1)
    assert len({frames_of(path)[5].tobytes() for path in Path("stylized").iterdir()}) == 3
    assert len(data_of(events)["outputs"]) == 3


def test_only_the_missing_styles_are_drawn(style):
    face_film("a.mp4", 8)
    styles = [f"{style}:0", f"{style}:1"]
    run("a.mp4", styles)
    kept = Path("stylized/a.tiny-0.mp4").stat().st_mtime_ns
    Path("stylized/a.tiny-1.mp4").write_bytes(Path("stylized/a.tiny-1.mp4").read_bytes()[:500])
    events = run("a.mp4", styles, skip_existing=True)
    assert Path("stylized/a.tiny-0.mp4").stat().st_mtime_ns == kept
    assert data_of(events)["outputs"] == ["stylized/a.tiny-1.mp4"]
    assert ended(run("a.mp4", styles, skip_existing=True)) == {"a.mp4": "skipped"}


def test_faces_are_batched_across_frames(style):
    face_film("a.mp4", 16)
    stylizer, sizes = Stylizer(f"{style}:1", device="cpu", batch=4), []
    render = stylizer.render
    stylizer.render = lambda codes, *region: sizes.append(len(codes)) or render(codes, *region)
    run("a.mp4", stylizer)
    assert sizes == [4, 4, 4, 4]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_still_photo_repeated_60_times_gives_identical_frames(style, precision):
    """The last batch is no full one, and networks round differently in batches of another size."""
    face_frames("a", 60, lambda i: ((50, 46, 18), (115, 50, 14)))
    stylizer, rendered = Stylizer(f"{style}:1", device="cpu", precision=precision), []
    render = stylizer.render
    stylizer.render = lambda codes, *region: rendered.append(len(codes)) or render(codes, *region)
    run("a", stylizer)
    after = pictures("stylized/a")
    assert len(after) == 60 and all(np.array_equal(one, after[0]) for one in after)
    assert differ(after[0], pictures("a")[0]) > 1
    assert sum(rendered) < 60, "and is not drawn 120 times"


# Batches survive


def test_photos_and_films_in_one_job_and_a_bad_one_stops_nothing(style):
    face_film("in/a.mp4", 6), face_film("in/sub/z.mkv", 6)
    Image.fromarray(drawn_photo(WIDTH, HEIGHT, one_face(0))).save("in/photo.png")
    Path("in/empty.mp4").write_bytes(b"")
    Path("in/noise.mov").write_bytes(b"no film at all" * 50)
    Path("in/cut.mp4").write_bytes(face_film("whole.mp4", 12).read_bytes()[:1500])
    events = run("in", f"{style}:1")
    good, bad = ["a.mp4", "photo.png", "z.mkv"], ["cut.mp4", "empty.mp4", "noise.mov"]
    assert ended(events) == dict.fromkeys(good, "done") | dict.fromkeys(bad, "failed")
    assert files() == ["a.mp4", "photo.png", "sub/z.mkv"]
    assert all(e.message and "\n" not in e.message for e in events if e.kind == "failed")
    assert events[-1].data["done"] == 3 and events[-1].data["failed"] == 3
    assert main(["stylize", "in/a.mp4", "in/empty.mp4", "-s", f"{style}:1", "--device", "cpu"]) == 1


@pytest.mark.parametrize("size", [(161, 97), (160, 97), (161, 96)])
def test_odd_sizes_and_a_single_frame_come_out(style, size):
    draw_film("a.mkv", lambda i: drawn_photo(*size, one_face(i)), count=1, size=size, codec="ffv1", pix_fmt="yuv444p")
    draw_film("b.mp4", lambda i: drawn_photo(*size, one_face(i)), count=3, size=size, pix_fmt="yuv444p")
    assert ended(run(["a.mkv", "b.mp4"], f"{style}:1")) == {"a.mkv": "done", "b.mp4": "done"}
    assert [one.shape for one in frames_of("stylized/a.mkv")] == [(size[1], size[0], 3)]
    assert [one.shape for one in frames_of("stylized/b.mp4")] == [(size[1], size[0], 3)] * 3


def test_sixteen_bit_frames_stay_so_where_nothing_was_pasted(style):
    Path("a").mkdir()
    for i in range(5):
        deep = drawn_photo(WIDTH, HEIGHT, one_face(i)).astype(np.uint16) * 257 - 100 * (i % 2)
        write_deep(Path(f"a/{i:04}.png"), deep.clip(0, 65535).astype(np.uint16))
    run("a", f"{style}:1", EXACT)
    for i in range(5):
        before, after = read_deep(Path(f"a/{i:04}.png")), read_deep(Path(f"stylized/a/{i:04}.png"))
        assert np.array_equal(before[:, 130:], after[:, 130:])
        assert np.abs(before[30:60, 50:70].astype(int) - after[30:60, 50:70]).mean() > 8 * 257


def test_memory_that_runs_out_and_faces_too_large_are_said_once(style):
    draw_film("a.mp4", lambda i: drawn_photo(240, 160, ((90 + i, 80, 48),)), count=16, size=(240, 160))
    stylizer = Stylizer(f"{style}:1", device="cpu", batch=4)
    forward = stylizer.model.forward

    def cramped(intrinsic, *args, **kwargs):
        if len(intrinsic) > 1:
            raise MemoryError
        return forward(intrinsic, *args, **kwargs)

    stylizer.model.forward = cramped
    events = run("a.mp4", stylizer, EXACT)
    warnings = [e.message for e in events if e.kind == "warning"]
    assert ended(events) == {"a.mp4": "done"} and len(warnings) == 2
    assert "look soft" in warnings[0] and warnings[1] == "Memory ran out: now 1 at a time."


@pytest.mark.parametrize("stage", ["encode", "render", "compose"])
def test_a_failure_in_any_stage_fails_its_film_alone(style, monkeypatch, stage):
    face_film("in/a.mp4", 12), face_film("in/b.mp4", 12)
    stylizer, work, calls = Stylizer(f"{style}:1", device="cpu", batch=4), getattr(Stylizer, stage), []

    def fail_once(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise ValueError("this face cannot be")
        return work(stylizer, *args, **kwargs)

    monkeypatch.setattr(stylizer, stage, fail_once)
    events = run("in", stylizer)
    assert ended(events) == {"a.mp4": "failed", "b.mp4": "done"} and files() == ["b.mp4"]
    assert "this face cannot be" in next(e.message for e in events if e.kind == "failed")


def test_what_can_be_read_of_a_cut_film_is_restyled_and_said(style):
    whole = face_film("whole.mkv", 40).read_bytes()
    Path("a.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    events = run("a.mkv", f"{style}:1")
    assert ended(events) == {"a.mkv": "done"}
    assert 0 < data_of(events)["frames"] < 40
    assert [e for e in events if e.kind in ("note", "warning") and e.source == "a.mkv"]


def test_leaving_early_leaves_no_thread_and_no_file(style):
    face_film("a.mp4", 40)
    reports = restyle_film("a.mp4", [("out/b.mp4", Stylizer(f"{style}:1", device="cpu"))])
    next(reports)
    reports.close()
    assert not files("out")


# Streams are bounded


def test_a_slow_writer_holds_back_the_decoder(style, monkeypatch):
    monkeypatch.setattr("dualstylegan.runtime.line.QUEUE_ITEMS", 2)
    face_film("a.mp4", 90)
    decoded, ahead = [0], []
    decode, write = films.FilmLine.decode, films.FilmWriter.write

    def counted(self, film):
        for frame in decode(self, film):
            decoded[0] += 1
            yield frame

    def slow(self, frame, *args):
        time.sleep(0.02)
        ahead.append(decoded[0] - frame.index)
        return write(self, frame, *args)

    monkeypatch.setattr(films.FilmLine, "decode", counted)
    monkeypatch.setattr(films.FilmWriter, "write", slow)
    run("a.mp4", f"{style}:1", {"smooth": 0.0})
    assert max(ahead) < 60, "a batch at each stage, and what the queues hold"


# A stopped film goes on


def coming_and_going(index: int) -> Sequence[tuple[float, float, float]]:
    """One face that moves all the while, another that comes and goes."""
    return ((50 + 0.7 * index, 46, 18), *(((120, 40, 12),) if 24 <= index < 40 else ()))


def same_film(one: str | Path, other: str | Path) -> bool:
    pairs = zip(frames_of(one, None), frames_of(other, None), strict=True)
    return all(np.array_equal(*pair) for pair in pairs) and stamps_of(one) == stamps_of(other)


def test_resumed_it_is_the_film_of_a_run_that_was_not_stopped(style, monkeypatch, caplog):
    monkeypatch.setattr(parts, "PART_FRAMES", 16)
    face_film("a.mp4", 56, coming_and_going, audio="aac")
    stylizer = Stylizer(f"{style}:1", device="cpu", precision="float32", batch=4)
    run("a.mp4", stylizer, output="whole")

    render, rendered = stylizer.render, []

    def until_frame_40(codes, *region):
        if sum(rendered) >= 48:
            raise OSError("the power went")
        rendered.append(len(codes))
        return render(codes, *region)

    monkeypatch.setattr(stylizer, "render", until_frame_40)
    assert ended(run("a.mp4", stylizer)) == {"a.mp4": "failed"}
    assert not Path("stylized/a.mp4").exists() and "--resume" in caplog.text
    rendered.clear()
    monkeypatch.setattr(
        stylizer, "render", lambda codes, *region: rendered.append(len(codes)) or render(codes, *region)
    )
    events = run("a.mp4", stylizer, {"resume": True})
    assert same_film("stylized/a.mp4", "whole/a.mp4")
    assert packets_of("stylized/a.mp4") == packets_of("a.mp4")
    assert files() == ["a.mp4"], "the parts are cleared away"
    data = data_of(events)
    assert data["frames"] == 56 and sum(rendered) < data["faces"]


def fail_at_paste(number: int, stylizer: Stylizer) -> None:
    compose, pasted = stylizer.compose, []

    def failing(*args, **kwargs):
        pasted.append(1)
        if len(pasted) == number:
            raise OSError("the power went")
        return compose(*args, **kwargs)

    stylizer.compose = failing


def test_parts_made_otherwise_are_not_joined(style, monkeypatch):
    monkeypatch.setattr(parts, "PART_FRAMES", 8)
    face_film("a.mp4", 24)
    run("a.mp4", f"{style}:2", output="whole")
    for change in ({"style": f"{style}:1"}, {"smooth": 1.0}, {"resume": False}):
        stylizer = Stylizer(change.pop("style", f"{style}:2"), device="cpu", precision="float32", batch=4)
        fail_at_paste(20, stylizer)
        again = change.pop("resume", True)
        assert ended(run("a.mp4", stylizer, change)) == {"a.mp4": "failed"}
        assert list(Path("stylized").iterdir()), "parts are kept"
        run("a.mp4", f"{style}:2", {"resume": again})
        assert same_film("stylized/a.mp4", "whole/a.mp4") and files() == ["a.mp4"]


@pytest.mark.parametrize("rank", [0, 1])
def test_launched_processes_share_films_and_photos_each_evenly(style, monkeypatch, rank):
    class OneOfTwo(Processes):
        launched = classmethod(lambda cls, **settings: cls(rank, 2))
        agree, gather = (lambda self, decide: decide()), (lambda self, work, folder: work())

    monkeypatch.setattr(stylize_module, "Processes", OneOfTwo)
    for name in "abcd":
        face_film(f"in/{name}.mp4", 1)
    for name in "xy":
        Image.fromarray(drawn_photo(WIDTH, HEIGHT, one_face(0))).save(f"in/{name}.png")
    todo = [Path(e.source).name for e in run("in", f"{style}:1", dry_run=True) if e.kind == "note"]
    assert todo == (["x.png", "a.mp4", "c.mp4"], ["y.png", "b.mp4", "d.mp4"])[rank]


def test_who_is_who_is_told_by_one_network_a_job(style, monkeypatch):
    made, real = [], find.FaceEmbedder
    monkeypatch.setattr(find, "FaceEmbedder", lambda: made.append(True) or real())
    find.face_embedder.cache_clear()
    for name in "ab":
        face_film(f"in/{name}.mp4", 2)
    events = run("in", f"{style}:1", EXACT)
    assert [event.kind for event in events].count("done") == 2 and made == [True]


# What is said


def test_progress_and_the_films_figures(style, monkeypatch):
    monkeypatch.setattr(films, "REPORT_EVERY_S", 0.0)
    face_film("a.mp4", 16, lambda i: one_face(i) if i >= 4 else ())
    events = run("a.mp4", f"{style}:1", EXACT)
    progress = [e for e in events if e.kind == "progress"]
    assert [e.current for e in progress] == [*range(1, 17), 16] and {e.total for e in progress} == {16}
    assert {"frames_per_s", "faces", "left_s"} <= set(progress[-1].data) and progress[-1].source == "a.mp4"
    assert progress[1].data["left_s"] > 0 == progress[-1].data["left_s"]
    assert {e.data["faces"] for e in progress} == {0, 1}
    data = data_of(events)
    assert (data["frames"], data["faces"], data["tracks"], data["frames_without_face"]) == (16, 12, 1, 4)
    note = next(e.message for e in events if e.kind == "note" and e.source == "a.mp4")
    assert "16 frames, 12 faces in 1 track" in note and "4 frames without a face" in note


def test_piped_it_is_quiet_and_json_has_one_schema(style, capsys):
    face_film("a.mp4", 8)
    command = ["stylize", "a.mp4", "-s", f"{style}:1", "--device", "cpu"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert out.startswith("stylize: 1 done, 1 face in") and len(err.splitlines()) == 2, (
        "the style's line and the film's"
    )
    assert main([*command, "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {len(event) for event in events} == {9}
    done = next(event for event in events if event["event"] == "done")
    assert done["data"]["frames"] == 8 and done["output"] == "stylized/a.mp4"


def test_options_that_mean_nothing_here_are_said_in_one_line(style):
    face_film("a.mp4", 4)
    Image.fromarray(drawn_photo(WIDTH, HEIGHT, one_face(0))).save("photo.png")
    events = run("photo.png", f"{style}:1", {"crf": 20, "start_s": 1.0})
    lines = [e.message for e in events if e.kind == "warning" and "--crf" in e.message]
    assert len(lines) == 1 and "--start" in lines[0] and ended(events) == {"photo.png": "done"}
    Path("faces.json").write_text("[]")
    events = run("a.mp4", f"{style}:1", landmarks="faces.json")
    assert len([e for e in events if e.kind == "warning" and "--landmarks" in e.message]) == 1


def test_a_dry_run_writes_nothing(style):
    face_film("a.wmv", 4, codec="wmv2")
    events = run("a.wmv", f"{style}:1", dry_run=True)
    assert "stylized/a.mkv" in next(e.message for e in events if e.kind == "note") and not Path("stylized").exists()


def test_what_cannot_be_asked_is_refused_before_any_work(style):
    face_film("a.mp4", 4)
    for wrong in ({"smooth": 2.0}, {"detect_every": 0}, {"max_frames": 0}, {"start_s": 3.0, "end_s": 2.0},
                  {"codec": "h265x"}, {"crf": 900.0}, {"preset": "hasty"}):  # fmt: skip
        with pytest.raises(UsageError):
            run("a.mp4", f"{style}:1", wrong)
    assert main(["stylize", "a.mp4", "-s", f"{style}:1", "--start", "soon"]) == 2
    assert not Path("stylized").exists()


def test_the_help_states_the_librarys_defaults(capsys):
    main(["stylize", "--help"])
    text = capsys.readouterr().out
    for option, value in (("--detect-every", DETECT_EVERY), ("--smooth", SMOOTH)):
        assert f"[default: {value}]" in text[text.index(option) :][:600]


def test_a_page_shows_a_film_beside_its_result(style):
    face_film("a.mp4", 30)
    run("a.mp4", [f"{style}:0", f"{style}:1"], sheet="report.html")
    text = Path("report.html").read_text(encoding="utf-8")
    previews = [base64.b64decode(one) for one in re.findall(r'data-film="([^"]+)"', text)]
    assert len(previews) == 2
    with av.open(io.BytesIO(previews[0])) as film:
        first = next(film.decode(video=0))
        assert not film.streams.audio
    assert first.height == sheets.PREVIEW_PX and first.width == pytest.approx(2 * 240 * WIDTH / HEIGHT, abs=4)


def test_a_sheet_shows_moments_of_a_film(style):
    face_film("a.mp4", 30)
    events = run("a.mp4", [f"{style}:0", f"{style}:1"], sheet="sheet.png")
    assert any(e.output == "sheet.png" for e in events)
    height, width, _ = np.asarray(Image.open("sheet.png")).shape
    assert height > sheets.MOMENTS * 256 and width > 3 * 256 * WIDTH / HEIGHT


@pytest.mark.parametrize(("names", "head"), [(["a.mp4"], "frame"), (["photo.png"], "photo"), (["."], "source")])
def test_a_sheet_says_what_was_there_before(style, monkeypatch, names, head):
    face_film("a.mp4", 2)
    Image.fromarray(drawn_photo(WIDTH, HEIGHT, one_face(0))).save("photo.png")
    heads, strip = [], sheets.strip

    def read(*rows, labels, **settings):
        heads.append(labels[0])
        return strip(*rows, labels=labels, **settings)

    monkeypatch.setattr(sheets, "strip", read)
    run(names, f"{style}:1", sheet="sheet.png")
    assert heads == [head]


# In processes of their own

SLOW = """
import os, sys, time
sys.path[:0] = {path!r}
from tiny_style import DrawnFaces
from dualstylegan.stylizing import stylizer
from dualstylegan.media.film import parts
from dualstylegan.networks.dualstyle import DualStyleGAN
from dsgcli.main import main
parts.PART_FRAMES = 16
class Slow(DrawnFaces):
    def find(self, pictures):
        time.sleep({nap} * len(pictures))
        return super().find(pictures)
stylizer.make_detector = lambda *args, **kwargs: Slow()
sys.exit(main(sys.argv[1:]))
"""


def script(nap: float = 0.0) -> Path:
    path = Path("command.py")
    path.write_text(SLOW.format(path=[str(Path(__file__).parent)], nap=nap))
    return path


def start(style: str, *options: str, nap: float) -> Launched:
    return Launched([script(nap), "stylize", *options, "-s", f"{style}:1", "--device", "cpu", "--json"])


def until_frame(process: Launched, number: int) -> None:
    """Read the command's events until it is past a frame."""
    for line in process.lines():
        event = json.loads(line)
        if event["event"] == "progress" and event["current"] >= number:
            return
    raise AssertionError(process.communicate())


@pytest.mark.timeout(900)
def test_killed_it_goes_on(style):
    face_film("a.mp4", 64, coming_and_going, audio="aac")
    options = ["a.mp4", "--batch", "4", "--precision", "float32"]
    assert start(style, *options, "-o", "whole", nap=0).wait(280) == 0
    process = start(style, *options, nap=0.05)
    deadline_s = time.monotonic() + 200
    while not list(Path().glob("stylized/.dsg-parts-*/*.part")) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=60)
    assert not Path("stylized/a.mp4").exists()
    (folder,) = Path("stylized").glob(".dsg-parts-*")
    (folder / ".dsg-tmp-0123abcd.part").write_bytes(b"half")  # what it leaves when killed while it writes a part
    again = start(style, *options, "--resume", nap=0)
    said, errors = again.communicate(timeout=280)
    assert again.returncode == 0, said[-2000:] + errors
    assert same_film("stylized/a.mp4", "whole/a.mp4") and packets_of("stylized/a.mp4") == packets_of("a.mp4")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_it_leaves_no_half_film(style, number, status):
    face_film("a.mp4", 120, audio="aac")
    process = start(style, "a.mp4", "--detect-every", "1", nap=0.1)
    until_frame(process, 1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status and "Traceback" not in errors
    assert not files()


LAUNCHED = """
import os, sys
from pathlib import Path
sys.path[:0] = {path!r}
from tiny_style import DrawnFaces
from dualstylegan.stylizing import stylizer
from dualstylegan import stylize
from dsgcli.main import main
restyle_film = stylize.restyle_film
def noted(source, *args, **kwargs):
    with Path("made-by-" + os.environ["RANK"]).open("a") as file:
        print(source.name, file=file)
    return restyle_film(source, *args, **kwargs)
stylize.restyle_film = noted
stylizer.make_detector = lambda *args, **kwargs: DrawnFaces()
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not LAUNCHER.exists(), reason="accelerate's launcher is not installed")
def test_launched_processes_make_each_film_once_and_the_first_one_speaks(style):
    for name, count in (("a", 9), ("b", 12), ("c", 10)):
        face_film(f"in/{name}.mp4", count, audio="aac")
    stylizer = Stylizer(f"{style}:1", device="cpu", precision="float32")
    run("in", stylizer, output="whole")
    Path("command.py").write_text(LAUNCHED.format(path=[str(Path(__file__).parent)]))
    launch = [LAUNCHER, "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision",
              "no", "--dynamo_backend", "no", "--main_process_port", "0", "command.py"]  # fmt: skip
    command = [*launch, "stylize", "in", "-s", f"{style}:1", "--device", "cpu", "--precision", "float32", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert result.returncode == 0, result.stderr
    events = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert sorted(Path(e["source"]).name for e in events if e["event"] == "done") == ["a.mp4", "b.mp4", "c.mp4"]
    assert [e["event"] for e in events].count("summary") == 1 and events[-1]["data"]["done"] == 3
    assert [Path(f"made-by-{rank}").read_text().split() for rank in (0, 1)] == [["a.mp4", "c.mp4"], ["b.mp4"]]
    assert files() == ["a.mp4", "b.mp4", "c.mp4"], "the processes' messages are cleared away"
    for name in files():
        assert same_film(f"stylized/{name}", f"whole/{name}")
        assert packets_of(f"stylized/{name}", "audio") == packets_of(f"in/{name}", "audio")


MEMORY = """
import resource, sys, threading
sys.path[:0] = {path!r}
from tiny_style import DrawnFaces
from dualstylegan.stylizing import films
from dualstylegan.stylizing.stylizer import Stylizer
stylizer = Stylizer(sys.argv[3], device="cpu", detector=DrawnFaces())
*_, report = films.restyle_film(sys.argv[1], [(sys.argv[2], stylizer)])
print(report.frames, report.faces, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def peak_mb(source: Path, frames: int, style: str) -> int:
    script = MEMORY.format(path=[str(Path(__file__).parent)])
    command = [sys.executable, "-c", script, str(source), "out.mp4", f"{style}:1"]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    count, faces, peak = map(int, result.stdout.split())
    assert count == frames and faces > 0.9 * frames
    return peak


def long_film(path: str, frames: int, size: tuple[int, int]) -> Path:
    width, height = size
    shown = [drawn_photo(width, height, ((width / 2 + i, height / 2, height / 6),)) for i in range(20)]
    to_and_fro = [*shown, *shown[-2:0:-1]]
    return draw_film(path, lambda i: to_and_fro[i % len(to_and_fro)], count=frames, size=size, audio="aac")


def test_memory_does_not_grow_with_the_film(style):
    """A film of 120 frames at 320x180 fills every queue; ten times as many bytes would show."""
    peaks = [peak_mb(long_film(f"{n}.mp4", n, (320, 180)), n, style) for n in (120, 480)]
    assert peaks[1] - peaks[0] <= 40, peaks


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_of_3000_frames_is_that_of_300(style):
    peaks = [peak_mb(long_film(f"{n}.mp4", n, (640, 360)), n, style) for n in (300, 3000)]
    assert peaks[1] - peaks[0] <= 60, peaks
