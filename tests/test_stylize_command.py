"""`dsg stylize`: a folder of pictures in, the same tree out; one bad file stops nothing; whole outputs or none."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from launched import Launched
from PIL import Image
from tiny_style import SIZE, DrawnFaces, drawn_photo, one_core, stylizer_settings, tiny_style

from dsgcli.main import main
from dualstylegan.errors import UsageError
from dualstylegan.events import Event
from dualstylegan.stylize import FilmOptions, Stylizer, stylize_files
from dualstylegan.stylizing import stylizer as stylizer_module

__all__ = ["one_core"]

TWO_FACES = ((90, 120, 36), (230, 110, 48))


@pytest.fixture(scope="module")
def style(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("styles")
    tiny_style(folder, "other")
    return str(tiny_style(folder))


@pytest.fixture(autouse=True)
def drawn_faces(monkeypatch, tmp_path) -> DrawnFaces:
    """Every test runs in an empty folder of its own, where faces are found as they were drawn."""
    detector = DrawnFaces()
    monkeypatch.setattr(stylizer_module, "make_detector", lambda *args, **kwargs: detector)
    monkeypatch.chdir(tmp_path)
    return detector


def save(path: str | Path, pixels: np.ndarray | None = None, **options) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawn_photo() if pixels is None else pixels).save(path, **options)
    return path


def run(inputs, style, **options) -> list[Event]:
    inputs = [inputs] if isinstance(inputs, str | Path) else inputs
    styles = [style] if isinstance(style, str | Stylizer) else style
    settings, options = stylizer_settings(options)
    return list(stylize_files(inputs, styles, settings, **options))


def by_kind(events: list[Event]) -> dict[str, list[str]]:
    """Kind -> names of the sources that ended so, in alphabetical order."""
    kinds = {
        kind: sorted(Path(e.source).name for e in events if e.kind == kind) for kind in ("done", "skipped", "failed")
    }
    return {kind: names for kind, names in kinds.items() if names}


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def files(folder: str | Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


# Output is where one expects it


def test_a_folder_comes_out_as_the_same_tree(style):
    save("in/a.png"), save("in/sub/b.png"), save("in/sub/deeper/c.webp", lossless=True)
    events = run("in", f"{style}:1")
    assert files("stylized") == ["a.png", "sub/b.png", "sub/deeper/c.webp"]
    assert by_kind(events) == {"done": ["a.png", "b.png", "c.webp"]}
    assert [events[0].kind, events[-1].kind] == ["plan", "summary"] and events[0].total == 3
    assert events[-1].data["done"] == 3 and events[-1].data["faces"] == 3


def test_the_result_is_the_stylizers_picture(style):
    photo = drawn_photo(faces=TWO_FACES)
    save("a.png", photo)
    run("a.png", f"{style}:1")
    wanted = Stylizer(f"{style}:1", device="cpu", precision="float32")(photo)
    # batches of another size may differ in the last bit of float32, so by one step of 255 here and there
    assert np.abs(pixels("stylized/a.png").astype(int) - wanted).max() <= 1


def test_several_styles_stand_side_by_side(style):
    save("in/a.png")
    other = str(Path(style).with_name("other"))
    events = run("in", [f"{style}:1", f"{other}:bea.png", f"{style}:0*0.5+{style}:2*0.5"])
    assert files("stylized") == ["a.other-bea.png", "a.tiny-0x0.5+2x0.5.png", "a.tiny-1.png"]
    assert len({pixels(path).tobytes() for path in Path("stylized").iterdir()}) == 3
    assert [len(event.data["outputs"]) for event in events if event.kind == "done"] == [3]


def test_a_template_names_the_outputs(style):
    save("in/sub/a.png")
    run("in", [f"{style}:0", f"{style}:1"], output="out/{style}/{id}/{parent}/{stem}.{ext}")
    assert files("out") == ["tiny/0/sub/a.png", "tiny/1/sub/a.png"]


def test_crop_writes_the_portraits_the_largest_first(style):
    save("a.png", drawn_photo(faces=TWO_FACES)), save("sea.png", drawn_photo(faces=()))
    events = run(["a.png", "sea.png"], f"{style}:1", crop=True)
    assert files("stylized") == ["a-2.png", "a.png"]
    assert pixels("stylized/a.png").shape == (SIZE, SIZE, 3)
    assert by_kind(events) == {"done": ["a.png"], "skipped": ["sea.png"]}
    largest = run("a.png", f"{style}:1", crop=True, faces="largest", output="one")
    assert files("one") == ["a.png"] and largest[-1].data["faces"] == 1
    assert np.abs(pixels("one/a.png").astype(int) - pixels("stylized/a.png")).max() <= 1


def test_a_picture_without_a_face_is_copied_as_it_is_or_skipped_and_said(style):
    save("sea.jpg", drawn_photo(faces=()), quality=40)
    events = run("sea.jpg", f"{style}:1")
    assert Path("stylized/sea.jpg").read_bytes() == Path("sea.jpg").read_bytes()
    assert [e.message for e in events if e.kind == "done"] == ["no face found, copied"]
    events = run("sea.jpg", f"{style}:1", output="other", no_face="skip")
    assert not Path("other").exists()
    assert [e.message for e in events if e.kind == "skipped"] == ["no face found"]


def test_a_gif_becomes_a_png(style):
    save("a.gif")
    run("a.gif", f"{style}:1")
    assert files("stylized") == ["a.png"]


def test_sources_are_never_overwritten(style):
    before = save("in/a.png").read_bytes()
    with pytest.raises(UsageError, match="overwrite"):
        run("in", f"{style}:1", output="in")
    assert Path("in/a.png").read_bytes() == before


def again(command, *, times: int = 2) -> list[Event]:
    """Events of the last of several runs, which all write the same files."""
    seen = []
    for _ in range(times):
        events = command()
        seen.append(files("."))
    assert seen[0] == seen[-1]
    return events


README_TEMPLATE = "out/{parent}/{stem}.{style}-{id}.{ext}"


def test_a_second_run_does_not_take_the_first_ones_results(style):
    save("a.png"), save("sub/b.jpg"), save("c.bmp")
    events = again(lambda: run(".", f"{style}:1", output=README_TEMPLATE))
    assert by_kind(events) == {"done": ["a.png", "b.jpg", "c.bmp"]}
    events = run(".", f"{style}:1", output=README_TEMPLATE, skip_existing=True)
    assert by_kind(events) == {"skipped": ["a.png", "b.jpg", "c.bmp"]}
    assert run(".", f"{style}:2", output=README_TEMPLATE)[0].total == 3
    assert len(files("out")) == 6
    assert run(".", f"{style}:1", output="elsewhere")[0].total == 3


@pytest.mark.parametrize("out", [".", "{parent}/{stem}.{style}-{id}.{ext}", "{style}/{id}/{parent}/{stem}.{ext}"])
def test_results_beside_the_photos_are_no_photos_the_next_time(style, out):
    save("a.png"), save("sub/b.jpg"), save("sub/c.bmp")
    styles = [f"{style}:1", f"{style}:2"]
    events = again(lambda: run(".", styles, output=out))
    assert by_kind(events) == {"done": ["a.png", "b.jpg", "c.bmp"]}
    assert by_kind(run(".", styles, output=out, skip_existing=True)) == {"skipped": ["a.png", "b.jpg", "c.bmp"]}


def test_a_list_of_all_there_is_does_not_name_results(style, monkeypatch):
    import io

    save("a.png"), save("sub/b.png")

    def listed() -> list[Event]:
        names = "\n".join(str(path) for path in sorted(Path().rglob("*.png")))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(names.encode())))
        return run("-", f"{style}:1")

    assert by_kind(again(listed)) == {"done": ["a.png", "b.png"]}


def test_results_named_outright_are_restyled(style):
    save("a.png")
    run("a.png", f"{style}:1")
    assert by_kind(run("stylized", f"{style}:2", output="twice")) == {"done": ["a.png"]}
    assert by_kind(run("stylized/a.png", f"{style}:2", output="thrice")) == {"done": ["a.png"]}


def test_what_other_verbs_have_drawn_is_no_photo(style, tmp_path):
    from dualstylegan.styles import show_style

    save("a.png")
    list(show_style(style))
    run("a.png", f"{style}:1", sheet="sheet.png")
    assert main(["sample", "-s", style, "-n", "2", "--device", "cpu"]) == 0
    assert by_kind(run(".", f"{style}:1")) == {"done": ["a.png"]}


def test_sources_that_would_have_one_result_get_two(style):
    save("in/a.gif"), save("in/a.png"), save("in/a.jpg")
    for out in ("out", "named/{stem}.{ext}"):
        run("in", f"{style}:1", output=out)
    assert files("out") == files("named") == ["a.gif.png", "a.jpg", "a.png"]
    save("x/me.png"), save("y/me.png")
    run(["x/me.png", "y/me.png"], f"{style}:1", output="both")
    assert files("both") == ["x/me.png", "y/me.png"]


def test_two_portraits_of_one_name_as_exemplars(style):
    save("a.png"), save("x/me.png"), save("y/me.png", drawn_photo(seed=4))
    run("a.png", [f"{style}:x/me.png", f"{style}:y/me.png"])
    assert files("stylized") == ["a.tiny-x_me.png", "a.tiny-y_me.png"]


def test_faces_beside_a_picture_called_like_them_are_all_kept(style):
    save("a.png", drawn_photo(faces=TWO_FACES)), save("a-2.png")
    events = run(["a.png", "a-2.png"], f"{style}:1", crop=True)
    assert files("stylized") == ["a-2.png", "a-3.png", "a.png"]
    outputs = {Path(e.source).name: e.data["outputs"] for e in events if e.kind == "done"}
    assert outputs == {"a.png": ["stylized/a.png", "stylized/a-3.png"], "a-2.png": ["stylized/a-2.png"]}


def test_a_page_shows_every_photo_in_every_style_and_what_failed(style):
    for name in "cab":
        save(f"in/{name}.png")
    Path("in/broken.png").write_bytes(Path("in/a.png").read_bytes()[:300])
    events = run("in", [f"{style}:0", f"{style}:1"], sheet="job/report.html", structure=0.5)
    text = Path("job/report.html").read_text(encoding="utf-8")
    assert [e.output for e in events if e.message == "Before and after: job/report.html"] == ["job/report.html"]
    titles = re.findall(r"<figcaption>(.*?) <i>", text)
    assert titles == [name for name in ("a.png", "b.png", "c.png") for _ in range(2)]
    assert "<b>in/broken.png</b>" in text
    assert "<th>structure</th><td>0.5</td>" in text and ", torch 2" in text


def test_a_sheet_overwrites_nothing_that_is_read_or_written(style):
    for name in ("a", "s-2"):
        save(f"in/{name}.png")
    for number in range(45):  # more than a page
        save(f"in/{number:02}.png")
    save("me.png")
    before = {name: Path(name).read_bytes() for name in files(".")}
    for sheet in ("in/a.png", "in/s.png", "stylized/a.png", "./in/../in/a.png", "me.png"):
        with pytest.raises(UsageError, match="the sheet"):
            run("in", f"{style}:me.png", sheet=sheet)
    with pytest.raises(UsageError, match="one for all results"):
        run("in", f"{style}:0", sheet="sheets/{stem}.png")
    assert before == {name: Path(name).read_bytes() for name in files(".")}, "nothing touched"


def test_strips_of_before_and_after(style):
    save("in/a.png"), save("in/b.png", drawn_photo(240, 320))
    events = run("in", [f"{style}:0", f"{style}:1"], sheet="sheets/strips.png")
    height, width, _ = pixels("sheets/strips.png").shape
    assert height > 2 * 256 and width > 2 * 341 + 192
    assert any(event.output and "strips.png" in event.output for event in events)


def test_strips_show_the_surroundings_kept_too_when_asked(style):
    save("in/a.png", drawn_photo(240, 320))
    run("in", f"{style}:0", scene="tone", sheet="plain.png")
    toned = Path("stylized/a.png").read_bytes()
    run("in", f"{style}:0", scene="tone", sheet="both.png", sheet_keep=True)
    assert Path("stylized/a.png").read_bytes() == toned
    plain, both = pixels("plain.png"), pixels("both.png")
    assert both.shape[1] - plain.shape[1] == 192 + 10
    run("in", f"{style}:0", scene="keep", sheet="kept.png")
    middle = slice(-150, -60)
    assert np.abs(both[40:, middle].astype(int) - plain[40:, middle]).mean() < 2
    moved = slice(-150 - 202, -60 - 202)
    assert np.abs(both[40:, moved].astype(int) - pixels("kept.png")[40:, middle]).mean() < 2
    for wrong in ({}, {"sheet": "page.html"}, {"sheet": "a.png", "crop": True}):
        with pytest.raises(UsageError, match="--sheet-keep is for strips"):
            run("in", f"{style}:0", sheet_keep=True, **wrong)


# Batches survive


def test_one_bad_file_stops_nothing(style):
    save("in/a.png"), save("in/z.png")
    Path("in/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    Path("in/empty.png").write_bytes(b"")
    Path("in/film.mp4").write_bytes(b"film")
    Path("in/cut.png").write_bytes(save("whole.png").read_bytes()[:2000])
    events = run(["in", "missing.jpg"], f"{style}:1")
    failed = ["broken.jpg", "cut.png", "empty.png", "film.mp4", "missing.jpg"]
    assert by_kind(events) == {"done": ["a.png", "z.png"], "failed": failed}
    assert files("stylized") == ["a.png", "z.png"]
    reasons = {Path(e.source).name: e.message for e in events if e.kind == "failed"}
    assert "not a film" in reasons["film.mp4"] and "empty" in reasons["empty.png"]
    assert events[-1].data["failed"] == 5


def pages(path: str | Path) -> list[np.ndarray]:
    with Image.open(path) as image:
        found = []
        for number in range(image.n_frames):
            image.seek(number)
            found.append(np.asarray(image.convert("RGB")))
        return found


def test_every_page_of_a_tiff_is_restyled_as_it_would_be_by_itself(style):
    photos = [drawn_photo(seed=1), np.full((90, 70, 3), 90, np.uint8), drawn_photo(seed=2, faces=TWO_FACES)]
    first, *others = map(Image.fromarray, photos)
    first.save("in.tif", save_all=True, append_images=others)
    events = run("in.tif", [f"{style}:1", f"{style}:0"], sheet="sheet.png")
    for number, photo in enumerate(photos):
        save(f"alone/{number}.png", photo)
    run("alone", [f"{style}:1", f"{style}:0"], output="apart", no_face="copy")
    for name in ("tiny-1", "tiny-0"):
        together = pages(f"stylized/in.{name}.tif")
        assert [page.shape for page in together] == [photo.shape for photo in photos]
        for number, page in enumerate(together):
            assert np.abs(page.astype(int) - pixels(f"apart/{number}.{name}.png")).max() <= 1
    (done,) = (event for event in events if event.kind == "done")
    assert done.data["faces"] == 3 and len(done.data["outputs"]) == 2


def test_pages_go_where_they_can(style):
    first, second = Image.fromarray(drawn_photo()), Image.fromarray(drawn_photo(seed=1, faces=TWO_FACES))
    first.save("in.tif", save_all=True, append_images=[second])
    events = run("in.tif", f"{style}:1", output="one.png")
    assert any("pages 2 to 2 are left out" in (event.message or "") for event in events)
    assert pixels("one.png").shape == drawn_photo().shape
    run("in.tif", f"{style}:1", crop=True, output="crops")
    assert files("crops") == ["in-2.tif", "in-3.tif", "in.tif"]
    blank = Image.new("L", (80, 60), 200)
    blank.save("blank.tif", save_all=True, append_images=[blank.convert("1")])
    run("blank.tif", f"{style}:1")
    assert Path("stylized/blank.tif").read_bytes() == Path("blank.tif").read_bytes()


def test_a_failure_in_a_batch_stays_its_own_pictures(style, monkeypatch):
    for name in "abcd":
        save(f"in/{name}.png", drawn_photo(seed=ord(name)))
    stylizer = Stylizer(f"{style}:1", device="cpu", batch=4)
    crop, poisoned = stylizer.crop, drawn_photo(seed=ord("c"))

    def trip(picture, faces):
        if np.array_equal(picture, poisoned):
            raise ValueError("a face this network cannot take")
        return crop(picture, faces)

    monkeypatch.setattr(stylizer, "crop", trip)
    events = run("in", stylizer)
    assert by_kind(events) == {"done": ["a.png", "b.png", "d.png"], "failed": ["c.png"]}
    assert "cannot take" in next(e.message for e in events if e.kind == "failed")


def test_a_disk_that_refuses_fails_the_file_not_the_job(style):
    save("in/a.png"), save("in/sub/b.png")
    Path("out").mkdir()
    Path("out/sub").write_text("a file where a folder must go")
    events = run("in", f"{style}:1", output="out")
    assert by_kind(events) == {"done": ["a.png"], "failed": ["b.png"]}


def test_faces_are_batched_across_pictures_and_crowds_within_one(style):
    for i in range(5):
        save(f"in/{i}.png", drawn_photo(seed=i))
    crowd = [(40 + 60 * i, 60 + 110 * j, 22) for i in range(5) for j in range(2)]
    save("in/crowd.png", drawn_photo(320, 240, crowd))
    stylizer, sizes = Stylizer(f"{style}:1", device="cpu", batch=4), []
    render = stylizer.render
    stylizer.render = lambda codes, *region: sizes.append(len(codes)) or render(codes, *region)
    events = run("in", stylizer)
    assert events[-1].data["faces"] == 15 and max(sizes) == 4 and len(sizes) <= 5


def test_a_crowd_is_cropped_face_by_face(style):
    crowd = [(40 + 60 * i, 60 + 110 * j, 22) for i in range(5) for j in range(2)]
    save("crowd.png", drawn_photo(320, 240, crowd))
    for batch in (1, 3, 10):
        events = run("crowd.png", f"{style}:1", crop=True, batch=batch, output=f"by{batch}", sheet="strips.png")
        assert by_kind(events) == {"done": ["crowd.png"]} and len(files(f"by{batch}")) == 10


def test_out_of_memory_is_said_and_the_job_goes_on(style):
    for i in range(4):
        save(f"in/{i}.png", drawn_photo(seed=i))
    stylizer = Stylizer(f"{style}:1", device="cpu", batch=4)
    forward = stylizer.model.forward

    def cramped(intrinsic, *args, **kwargs):
        if len(intrinsic) > 1:
            raise MemoryError
        return forward(intrinsic, *args, **kwargs)

    stylizer.model.forward = cramped
    events = run("in", stylizer)
    assert events[-1].data["done"] == 4
    assert [e.message for e in events if e.kind == "warning" and "emory" in e.message] == [
        "Memory ran out: now 1 at a time."
    ]


def test_skip_existing_trusts_only_whole_outputs(style, drawn_faces):
    for name in "abc":
        save(f"in/{name}.png", drawn_photo(seed=ord(name)))
    run("in", f"{style}:1")
    Path("stylized/b.png").write_bytes(Path("stylized/b.png").read_bytes()[:500])
    Path("stylized/c.png").unlink()
    kept, drawn_faces.seen = Path("stylized/a.png").stat().st_mtime_ns, 0
    events = run("in", f"{style}:1", skip_existing=True)
    assert by_kind(events) == {"done": ["b.png", "c.png"], "skipped": ["a.png"]}
    assert Path("stylized/a.png").stat().st_mtime_ns == kept and drawn_faces.seen == 2


def test_with_several_styles_only_the_missing_ones_are_drawn(style):
    save("a.png")
    styles = [f"{style}:0", f"{style}:1"]
    run("a.png", styles)
    kept = Path("stylized/a.tiny-0.png").stat().st_mtime_ns
    Path("stylized/a.tiny-1.png").unlink()
    events = run("a.png", styles, skip_existing=True)
    assert files("stylized") == ["a.tiny-0.png", "a.tiny-1.png"]
    assert Path("stylized/a.tiny-0.png").stat().st_mtime_ns == kept
    assert [len(e.data["outputs"]) for e in events if e.kind == "done"] == [1]


def test_a_dry_run_says_what_would_be_and_writes_nothing(style, drawn_faces):
    save("in/a.png")
    events = run(["in", "missing.png"], f"{style}:1", dry_run=True)
    assert "stylized/a.png" in next(e.message for e in events if e.kind == "note")
    assert by_kind(events) == {"failed": ["missing.png"]}
    assert not Path("stylized").exists() and drawn_faces.seen == 0


def test_a_dry_run_knows_which_styles_exist(style):
    save("a.png")
    with pytest.raises(UsageError):
        run("a.png", "no-such-style:1", dry_run=True)


def test_faces_come_from_a_faces_json(style, drawn_faces):
    from dualstylegan.faces.faces_json import entry_of, write_entries

    photo = drawn_photo(faces=TWO_FACES)
    save("in/sub/a.png", photo), save("in/b.png", photo)
    entries = [entry_of("sub/a.png", face) for face in drawn_faces.find([photo])[0][:1]]
    write_entries("faces.json", entries)
    drawn_faces.seen = 0
    events = run("in", f"{style}:1", landmarks="faces.json")
    assert drawn_faces.seen == 0
    assert {Path(e.source).name: e.data["faces"] for e in events if e.kind == "done"} == {"a.png": 1, "b.png": 0}
    assert np.array_equal(pixels("stylized/b.png"), photo)


def test_a_style_that_must_be_fetched_is_announced_first(tmp_path, monkeypatch):
    from dualstylegan.events import Event
    from dualstylegan.models import library

    home = tmp_path / "home"
    monkeypatch.setenv("DSG_HOME", str(home))

    def pull(name, *, wplus, terms):
        yield terms.note("cartoon: 300 MB, non-commercial licence")
        (home / "styles").mkdir(parents=True)
        made = tiny_style(home / "styles", "cartoon")
        yield Event("progress", terms.verb, stage="generator.pt (MB)", current=2, total=2)
        return made

    assert library.find("cartoon").folder is None
    monkeypatch.setattr(library, "pull_style", pull)
    save("a.png")
    events = run("a.png", "cartoon:1")
    kinds = [event.kind for event in events]
    assert kinds[:3] == ["plan", "note", "progress"] and "non-commercial" in events[1].message
    assert files("stylized") == ["a.png"]


def test_every_verb_says_which_detector_stands_in(style, drawn_faces, monkeypatch):
    from dualstylegan import align
    from dualstylegan.recipe import Data
    from dualstylegan.training import data

    drawn_faces.note = "face-alignment is not installed."
    for module in (align, data):
        monkeypatch.setattr(module, "make_detector", lambda *args, **kwargs: drawn_faces)
    for number in range(3):
        save(f"in/{number}.png", drawn_photo(seed=number))
    portraits = Data(folder="in", alignment="landmarks", min_images=1)
    for events in (
        run("in", f"{style}:1"),
        list(align.align_pictures(["in"], size=32)),
        list(data.prepare_portraits(portraits, Path("data"), 32)),
    ):
        lines = [event.message for event in events if event.kind == "note" and "embedded detector" in event.message]
        assert lines == ["the embedded detector is used: face-alignment is not installed."]


def test_one_warning_for_large_faces_however_many(style):
    for i in range(3):
        save(f"in/{i}.png", drawn_photo(640, 640, faces=((320, 320, 150),)))
    assert len([e for e in run("in", f"{style}:1") if e.kind == "warning"]) == 1


def test_what_cannot_be_asked_is_refused_before_any_work(style):
    save("a.png")
    for wrong in ({"no_face": "burn"}, {"mask": "had"}, {"faces": "few"}, {"output": "{nonsense}"}, {"sheet": "s.doc"}):
        with pytest.raises(UsageError):
            run("a.png", f"{style}:1", **wrong)
    with pytest.raises(UsageError):
        run("a.png", [])
    with pytest.raises(UsageError, match="is named 2 times"):
        run("a.png", [f"{style}:1", f"{style}:1"])
    for given in ("absent.json", "a.png"):
        with pytest.raises(UsageError, match=given):
            run("a.png", f"{style}:1", landmarks=given, dry_run=True)
    assert not Path("stylized").exists()


# The command


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "out/{stem}"], ["-o", "x.mp4"], ["-o", "x.heic"], ["-o", "x.pdf"], ["-o", "-"], ["-o", "file.txt"],
        ["-o", "file.txt/out"], ["-o", "out/{id:03d}.png"], ["-o", "o/{stem}.svg"], ["-o", "n" * 300], ["-o", "a.png"],
        ["--sheet", "sheet"], ["--sheet", "s.mp4"], ["--sheet", "a.png"], ["--sheet", "file.txt/s.png"],
        ["--sheet", "-"], ["--sheet", ""], ["--landmarks", ""], ["--landmarks", "other.json"],
        ["--structure", "1e30"], ["--structure", "nan"], ["--color", "inf"], ["--truncation", "inf"],
        ["--truncation", "nan"], ["--weights", "-3"], ["--weights", "1x99999999999"], ["--weights", "1e9x18"],
        ["--weights", "0x18,1x11"], ["--weights", "7x18"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_a_dry_run_too(style, arguments, capsys):
    save("a.png"), Path("file.txt").write_text("a file")
    Path("other.json").write_text(json.dumps({"faces": []}))
    before = files(".")
    for more in ([], ["--dry-run"]):
        assert main(["stylize", "a.png", "-s", f"{style}:1", "--device", "cpu", *arguments, *more]) == 2
        said = capsys.readouterr()
        assert said.err.startswith("dsg: ") and said.err.count("\n") == 1 and not said.out
    assert files(".") == before


@pytest.mark.parametrize("which", ["99999", "-1", "nobody", "x/none.png", "file.txt", "1*.5+{style}:9*.5"])
def test_exemplars_that_are_not_are_refused_by_a_dry_run_too(style, which, capsys):
    save("a.png"), Path("file.txt").write_text("a file")
    which = which.replace("{style}", style)
    for more in ([], ["--dry-run"]):
        assert main(["stylize", "a.png", "-s", f"{style}:{which}", "--device", "cpu", *more]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not Path("stylized").exists()


@pytest.mark.parametrize("which", ["mini", "mini:0", "cartoon:317", "cartoon:99999", "nosuch:1"])
def test_styles_that_are_not_are_refused_by_a_dry_run_too(which, capsys):
    save("a.png")
    assert main(["stylize", "a.png", "-s", which, "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "KeyError" not in said


def drawn_film(path: str, form: str, codec: str = "libx264") -> None:
    import av

    Path(path).parent.mkdir(exist_ok=True)
    with av.open(path, "w", format=form) as film:
        stream = film.add_stream(codec, rate=25, options={"preset": "ultrafast"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        frame = av.VideoFrame.from_ndarray(drawn_photo(), format="rgb24")
        for packet in [*(p for _ in range(3) for p in stream.encode(frame)), *stream.encode()]:
            film.mux(packet)


@pytest.mark.parametrize(
    ("name", "form", "codec", "result"),
    [
        ("giphy.gif", "mp4", "libx264", "giphy.mp4"),
        ("nothing", "mp4", "libx264", "nothing.mp4"),
        ("a.jpg", "matroska", "libx264", "a.mkv"),
        ("a.mxf", "mxf", "mpeg2video", "a.mkv"),
        ("a.asf", "asf", "mpeg4", "a.mkv"),
        ("a.h264", "h264", "libx264", "a.mkv"),
        ("a.odd", "mpegts", "libx264", "a.ts"),
    ],
)
def test_a_film_is_a_film_whatever_it_is_called(style, name, form, codec, result):
    drawn_film(name, form, codec)
    events = run(name, f"{style}:1")
    assert by_kind(events) == {"done": [name]} and events[-1].data["faces"] > 0
    assert files("stylized") == [result]


@pytest.mark.parametrize("name", [b"caf\xe9.mp4", "肖".encode() * 83 + b".mp4", b"new\nline.mp4"])
def test_a_film_may_be_called_whatever_a_file_may(style, name):
    drawn_film("a.mp4", "mp4")
    try:
        name = os.fsdecode(name)
        Path("a.mp4").rename(name)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    for film in (FilmOptions(), FilmOptions(resume=True)):
        assert by_kind(run(name, [f"{style}:1", f"{style}:2"], film=film)) == {"done": [name]}
    assert len(files("stylized")) == 2


def test_frames_beside_their_film_are_not_overwritten(style):
    drawn_film("clip.mp4", "mp4")
    for number in range(1, 4):
        save(f"clip/{number:06}.png")
    before = {name: Path(name).read_bytes() for name in files(".")}
    with pytest.raises(UsageError, match="dsg did not make it"):
        run("clip.mp4", f"{style}:1", output="{stem}")
    assert before == {name: Path(name).read_bytes() for name in files(".")}
    shutil.rmtree("clip")
    assert by_kind(again(lambda: run("clip.mp4", f"{style}:1", output="{stem}"))) == {"done": ["clip.mp4"]}


def test_films_that_would_have_one_result_get_two(style):
    drawn_film("in/t.mpg", "mpeg", "mpeg2video"), drawn_film("in/t.mkv", "matroska")
    assert by_kind(run("in", f"{style}:1")) == {"done": ["t.mkv", "t.mpg"]}
    assert files("stylized") == ["t.mkv", "t.mpg.mkv"]


def test_a_picture_is_a_picture_whatever_it_is_called(style):
    save("a.png"), Path("a.png").rename("a.mp4")
    save("b.gif", drawn_photo()), Path("b.gif").rename("b")
    assert by_kind(run(["a.mp4", "b"], f"{style}:1")) == {"done": ["a.mp4", "b"]}
    assert files("stylized") == ["a.png", "b.png"]


def test_a_gap_among_numbered_frames_is_named(style):
    for number in (1, 2, 3, 4, 5, 7, 8, 10):
        save(f"in/frame_{number:04}.png")
    with pytest.raises(UsageError, match=r"the frame after frame_0005.png is missing, and 1 more"):
        run("in", f"{style}:1", output="clip.mp4")
    events = run("in", f"{style}:1", dry_run=True)
    assert [e.message for e in events if e.kind == "note" and "frame_0005.png" in e.message and not e.source]
    assert events[0].total == 8 and "8 to do" in events[-1].message


def test_what_is_passed_over_in_folders_is_one_line(style, capsys):
    save("in/a.png")
    for name in ("b.txt", "c.txt", "d.HEIC", "noend"):
        Path("in", name).write_bytes(b"?")
    assert main(["stylize", "in", "-s", f"{style}:1", "--device", "cpu"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "passed over" in line]
    assert len(lines) == 1
    assert all(words in lines[0] for words in ("2 .txt", "1 .heic", "1 without suffix", "pillow-heif"))


def test_exit_statuses_of_the_command(style, capsys):
    save("a.png")
    assert main(["stylize", "a.png", "--style", f"{style}:1", "--device", "cpu"]) == 0
    assert main(["stylize", "a.png", "missing.png", "--style", f"{style}:1", "--device", "cpu"]) == 1
    assert "missing.png" in capsys.readouterr().err
    assert main(["stylize", "a.png", "--style", f"{style}:99", "--device", "cpu"]) == 2
    assert main(["stylize", "a.png", "--style", f"{style}:1", "--weights", "1,2"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_json_is_one_event_a_line_in_one_schema(style, capsys):
    save("a.png")
    assert main(["stylize", "a.png", "-s", f"{style}:1", "--json", "--device", "cpu"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {tuple(event) for event in events} == {
        ("event", "verb", "source", "output", "message", "stage", "current", "total", "data")
    }
    done = next(event for event in events if event["event"] == "done")
    assert (done["source"], done["output"]) == ("a.png", "stylized/a.png")
    assert done["data"] == {"faces": 1, "outputs": ["stylized/a.png"]}


def test_what_was_not_restyled_is_said(style, capsys):
    for name in ("sea", "sky"):
        save(f"in/{name}.png", drawn_photo(faces=()))
    assert main(["stylize", "in", "-s", f"{style}:1", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert "no face found, copied: in/sea.png, in/sky.png" in err
    assert "2 done, 0 faces" in out


def test_names_come_from_stdin(style, monkeypatch, capsys):
    import io

    save("x/a.png"), save("x/b c.png")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x/a.png\nx/b c.png\n")))
    assert main(["stylize", "-", "-s", f"{style}:1", "--device", "cpu"]) == 0
    assert files("stylized") == ["x/a.png", "x/b c.png"]


# In processes of their own

SLOW = """
import sys, time
sys.path[:0] = {path!r}
from tiny_style import DrawnFaces
from dualstylegan.stylizing import stylizer
from dsgcli.main import main
class Slow(DrawnFaces):
    def find(self, pictures):
        time.sleep({nap})
        return super().find(pictures)
stylizer.make_detector = lambda *args, **kwargs: Slow()
sys.exit(main(sys.argv[1:]))
"""


def script(nap: float = 0.0) -> Path:
    path = Path("command.py")
    path.write_text(SLOW.format(path=[str(Path(__file__).parent)], nap=nap))
    return path


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_it_leaves_whole_files_only(style, number, status):
    for i in range(40):
        save(f"in/{i:02}.png", drawn_photo(seed=i))
    process = Launched([script(nap=0.2), "stylize", "in", "-s", f"{style}:1", "--device", "cpu", "--batch", "1"])
    deadline_s = time.monotonic() + 120
    while not list(Path().glob("stylized/*.png")) and process.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status and "Traceback" not in errors
    there = list(Path("stylized").iterdir())
    assert 0 < len(there) < 40
    for path in there:
        assert not path.name.startswith(".") and pixels(path).shape == (240, 320, 3)


def test_shards_restyle_every_photo_once_under_the_names_of_one_command(style):
    still = {"scene": "keep"}  # which costs less
    for i, name in enumerate(("1.png", "1.gif.png", "1.gif")):  # which wants to be either of the others
        save(f"in/{name}", drawn_photo(seed=i))
    planned = run("in", style, output="out", dry_run=True)
    ends = []
    for k in range(1, 5):  # each begins when the results of others are there already; the last one has nothing to do
        events = run("in", style, output="out", sheet="out/sheet.png", shard=f"{k}/4", **still)
        done = by_kind(events).get("done", [])
        assert events[-1].kind == "summary" and events[0].total == len(done)
        ends += done
    assert sorted(ends) == files("in")
    wanted = {e.message.removeprefix("would become ") for e in planned if e.source}
    sheets = {f"out/sheet.shard{k}-of-4.png" for k in range(1, 4)}
    assert {f"out/{name}" for name in files("out")} == wanted | sheets and len(wanted) == 3


@pytest.mark.skipif(shutil.which("accelerate") is None and not Path(sys.executable).with_name("accelerate").exists(),
                    reason="accelerate's launcher is not installed")  # fmt: skip
def test_launched_processes_share_the_list_and_the_first_one_speaks(style):
    for i in range(7):
        save(f"in/{i}.png", drawn_photo(seed=i))
    Path("in/broken.png").write_bytes(b"nothing")  # the first of the list falls to rank 0, the last to rank 1
    Path("in/aaa.png").write_bytes(b"nothing")
    launcher = shutil.which("accelerate") or str(Path(sys.executable).with_name("accelerate"))
    launch = [launcher, "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
              "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", script()]  # fmt: skip
    command = [*launch, "stylize", "-", "-s", f"{style}:1", "--device", "cpu", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    names = "\n".join(sorted(map(str, Path("in").iterdir())))
    result = subprocess.run(command, input=names, capture_output=True, text=True, timeout=240, env=environment)
    events = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    ended = [Path(e["source"]).name for e in events if e["event"] in ("done", "failed")]
    assert sorted(ended) == ["0.png", "1.png", "2.png", "3.png", "4.png", "5.png", "6.png", "aaa.png", "broken.png"]
    assert [e["event"] for e in events].count("summary") == 1 and events[-1]["data"]["failed"] == 2
    assert result.returncode == 1
    assert files("stylized") == [f"in/{i}.png" for i in range(7)], "the processes' messages are cleared away"
