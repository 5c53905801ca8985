"""Portraits of a run: found, checked, aligned, left out with a reason; drawn in an order that resumes."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_picture
from PIL import Image
from tiny_style import DrawnFaces, drawn_photo

from dualstylegan.errors import BadFileError, DualStyleGANError, TrainingError, UsageError
from dualstylegan.faces.face import Face, mouth_opening
from dualstylegan.faces.faces_json import entry_of, write_entries
from dualstylegan.recipe import Data, Template, load_recipe
from dualstylegan.runtime import files
from dualstylegan.runtime.processes import Processes
from dualstylegan.train import train
from dualstylegan.training.data import (
    Portraits,
    crop_path,
    held_out_of,
    list_portraits,
    mouth_is_open,
    prepare_photos,
    prepare_portraits,
    read_photos,
    read_prepared,
    split_held_out,
    template_points,
    weights_of,
)
from dualstylegan.training.portraits import Portrait
from dualstylegan.training.results import PortraitResults

SIZE = 16


@pytest.fixture
def folder(tmp_path) -> Path:
    """Ten aligned portraits of 24 px, one of them in a subfolder."""
    folder = tmp_path / "portraits"
    for i in range(10):
        write(folder / (f"sub/{i}.png" if i == 9 else f"{i}.png"), draw_picture(24, 24, seed=i))
    return folder


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def aligned(folder: Path, **settings) -> Data:
    return Data(**{"folder": str(folder), "alignment": "aligned", "min_images": 1, **settings})


class InThreads(Processes):
    """Threads that share the work as processes do."""

    def __init__(self, rank: int, barrier: threading.Barrier):
        super().__init__(rank, barrier.parties)
        self._barrier = barrier

    def wait_for_all(self, what: str) -> None:
        self._barrier.wait()


def prepare(data: Data, out: Path, **more):
    """(events, prepared)"""
    events = []
    steps = prepare_portraits(data, out, SIZE, **more)
    while True:
        try:
            events.append(next(steps))
        except StopIteration as end:
            return events, end.value


# --- finding


def test_photos_that_portraits_are_drawn_from_are_found_by_name_and_cut_like_them(folder, tmp_path):
    for name in ("3.png", "sub/9.png", "unknown.png", "[3].png"):
        write(tmp_path / "photos" / name, draw_picture(24, 24, seed=20))
    data = aligned(folder, photos=str(tmp_path / "photos"))
    names = list(list_portraits(data))
    assert read_photos(tmp_path / "out") == {}
    list(prepare_photos(data, names, tmp_path / "out", SIZE))
    found = read_photos(tmp_path / "out")
    assert list(found) == ["3.png", "sub/9.png"]
    assert Image.open(found["3.png"]).size == (SIZE, SIZE)


def test_portraits_are_named_by_path_and_sorted(folder):
    assert list(list_portraits(aligned(folder))) == [*(f"{i}.png" for i in range(9)), "sub/9.png"]


def test_patterns_and_a_limit_choose_portraits(folder):
    names = list_portraits(aligned(folder, include=("?.png",), exclude=("3.png", "sub/*"), limit=4))
    assert list(names) == ["0.png", "1.png", "2.png", "4.png"]


@pytest.mark.parametrize("missing", [True, False])
def test_without_portraits_one_line_says_where_how_many_and_whose(tmp_path, missing):
    place = tmp_path / "data"
    if not missing:
        place.mkdir()
    data = Data(folder=str(place), count=122, source="somewhere", licence="theirs")
    with pytest.raises(TrainingError) as caught:
        list_portraits(data)
    for words in (str(place), "122 images", "somewhere", "theirs", "--data"):
        assert words in str(caught.value)


def test_missing_portraits_are_said_before_a_base_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("DSG_OFFLINE", "1")  # reaching for the base would be an OfflineError
    recipe = load_recipe("pixar", data__folder=str(tmp_path / "none"))
    with pytest.raises(UsageError, match="The original set has 122 images"):
        list(train(recipe, tmp_path / "run", cpu=True))


# --- preparing


def test_unreadable_portraits_are_left_out_with_their_reason(folder, tmp_path):
    (folder / "broken.png").write_bytes(b"no picture")
    write(folder / "wide.png", draw_picture(24, 30))
    events, prepared = prepare(aligned(folder), tmp_path / "run")
    assert len(prepared.training) == 10
    assert set(prepared.left_out) == {"broken.png", "wide.png"}
    assert "square" in prepared.left_out["wide.png"]
    assert [event.source for event in events if event.kind == "skipped"] == [
        str(folder / name) for name in ("broken.png", "wide.png")
    ]
    assert read_prepared(tmp_path / "run") == prepared


def test_one_portrait_that_cannot_be_written_is_left_out_and_a_full_disk_ends_the_run(folder, tmp_path, monkeypatch):
    (name, other) = sorted(list_portraits(aligned(folder)))[:2]
    crop_path(tmp_path / "run", name).mkdir(parents=True)  # in its place
    _, prepared = prepare(aligned(folder), tmp_path / "run")
    assert list(prepared.left_out) == [name] and "Cannot write" in prepared.left_out[name]
    assert prepared.training[0].name == other

    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(DualStyleGANError, match="No space left"):
        prepare(aligned(folder), tmp_path / "full")


def test_faceless_portraits_are_left_out_and_the_larger_of_two_faces_is_taken(tmp_path, monkeypatch):
    pictures = {"a.png": ((160, 120, 40),), "b.png": (), "c.png": ((70, 120, 25), (220, 120, 45))}
    for name, faces in pictures.items():
        write(tmp_path / "photos" / name, drawn_photo(faces=faces))
    monkeypatch.setattr("dualstylegan.training.data.make_detector", lambda *args, **kwargs: DrawnFaces())
    data = Data(folder=str(tmp_path / "photos"), min_images=2)
    _, prepared = prepare(data, tmp_path / "run")
    assert [portrait.name for portrait in prepared.training] == ["a.png", "c.png"]
    assert prepared.left_out == {"b.png": f"{tmp_path / 'photos/b.png'}: no face was found."}
    one, larger = (np.array(Image.open(portrait.path)).astype(int) for portrait in prepared.training)
    assert np.abs(larger - one).mean() < 12  # faces drawn alike fill their crops alike


def test_the_first_process_lists_what_all_of_them_leave_out(folder, tmp_path):
    for name in ("broken1.png", "broken2.png"):
        (folder / name).write_bytes(b"no picture")
    together = threading.Barrier(2, timeout=60)
    with ThreadPoolExecutor(2) as pool:
        works = [
            pool.submit(prepare, aligned(folder), tmp_path / "run", processes=InThreads(rank, together))
            for rank in range(2)
        ]
    said = [[Path(e.source).name for e in work.result()[0] if e.kind == "skipped"] for work in works]
    assert sorted(said[0]) == ["broken1.png", "broken2.png"] and len(said[1]) == 1


def test_too_few_portraits_stop_with_one_line_that_shows_why(folder, tmp_path):
    (folder / "broken.png").write_bytes(b"no picture")
    with pytest.raises(
        TrainingError, match=r"10 usable portraits, fewer than .* 11; .* 1 left out, the first: .*broken"
    ):
        prepare(aligned(folder, min_images=11), tmp_path / "run")


def test_crops_have_the_size_of_the_model_and_lie_in_the_run_folder(folder, tmp_path):
    _, prepared = prepare(aligned(folder), tmp_path / "run")
    for portrait in prepared.training:
        assert portrait.path.is_relative_to(tmp_path / "run")
        assert Image.open(portrait.path).size == (SIZE, SIZE)


def test_transparent_portraits_lie_on_white(tmp_path):
    black = np.zeros((16, 16, 4), dtype=np.uint8)
    black[8:, :, 3] = 255  # the lower half is opaque
    write(tmp_path / "portraits/x.png", black)
    _, prepared = prepare(aligned(tmp_path / "portraits"), tmp_path / "run")
    pixels = np.asarray(Image.open(prepared.training[0].path))
    assert (pixels[:8] == 255).all()
    assert (pixels[8:] == 0).all()


def test_a_name_cannot_leave_the_run_folder(tmp_path):
    assert crop_path(tmp_path, "../../x.png").parent == tmp_path / "crops"


def test_preparing_again_makes_only_what_changed(folder, tmp_path):
    _, prepared = prepare(aligned(folder), tmp_path / "run")
    before = {p.name: p.path.stat().st_mtime_ns for p in prepared.training}
    write(folder / "4.png", draw_picture(24, 24, seed=99))
    _, prepared = prepare(aligned(folder), tmp_path / "run")
    after = {p.name: p.path.stat().st_mtime_ns for p in prepared.training}
    assert {name for name in after if after[name] != before[name]} == {"4.png"}


def test_a_crop_cut_off_by_a_kill_is_made_again(folder, tmp_path):
    _, prepared = prepare(aligned(folder), tmp_path / "run")
    whole = prepared.training[0].path.read_bytes()
    prepared.training[0].path.write_bytes(whole[:20])
    _, prepared = prepare(aligned(folder), tmp_path / "run")
    assert prepared.training[0].path.read_bytes() == whole


def test_processes_share_the_work_and_see_the_same_portraits(folder, tmp_path):
    (folder / "broken.png").write_bytes(b"no picture")
    barrier = threading.Barrier(3, timeout=60)

    def process(rank: int):
        return prepare(aligned(folder), tmp_path / "run", processes=InThreads(rank, barrier))

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(process, range(3)))
    worked_on = [event.source for events, _ in results for event in events if event.current]
    assert sorted(worked_on) == sorted(map(str, list_portraits(aligned(folder)).values()))
    _, alone = prepare(aligned(folder), tmp_path / "alone")
    for _, prepared in results:
        assert [p.name for p in prepared.training] == [p.name for p in alone.training]
        assert list(prepared.left_out) == ["broken.png"]


def test_a_missing_list_is_said(tmp_path):
    with pytest.raises(BadFileError, match="run the data stage again"):
        read_prepared(tmp_path)


# --- held out

PAIRS = [f"{folder}/{person:03d}_{number}.jpg" for person in range(40) for folder, number in (("a", "03"), ("b", "08"))]


def test_no_person_held_out_is_trained_on():
    held_out, others = split_held_out(PAIRS, 10, r"^[ab]/(\d+)_")
    assert len(held_out) == 10
    assert len(others) == 80 - 20
    assert not {name[2:5] for name in held_out} & {name[2:5] for name in others}


def test_who_is_held_out_does_not_hang_on_folders_or_order():
    held_out, _ = split_held_out([f"{i}.jpg" for i in range(50)], 8)
    elsewhere, _ = split_held_out([f"x/{i}.jpg" for i in reversed(range(50))], 8)
    assert sorted(name.removeprefix("x/") for name in elsewhere) == held_out


def test_held_out_portraits_are_aligned_but_not_trained_on(folder, tmp_path):
    _, prepared = prepare(aligned(folder, held_out=3), tmp_path / "run")
    assert len(prepared.held_out) == 3
    assert len(prepared.training) == 7
    assert all(portrait.path.is_file() for portrait in prepared.held_out)
    assert not set(prepared.held_out) & set(prepared.training)


RULES = Data(
    held_out=3, held_out_person=r"^[^/]+/([^/]+)/", held_out_among=("old/*",), held_out_people=0.3,
    held_out_people_of=("new/*",),
)  # fmt: skip
PEOPLE = [f"{source}/{person}/{person}{source}.jpg" for person in range(40) for source in ("old", "new")]


def test_people_are_held_out_by_a_hash_of_each_besides_a_number_of_pictures():
    held_out, others = held_out_of(PEOPLE, RULES)
    old, _ = split_held_out([name for name in PEOPLE if name.startswith("old/")], 3, RULES.held_out_person)
    assert [name for name in held_out if name.startswith("old/")] == old
    new = [name for name in held_out if name.startswith("new/")]
    assert 0.1 < len(new) / 40 < 0.5
    kept_away = {name.split("/")[1] for name in held_out}
    assert not kept_away & {name.split("/")[1] for name in others}
    assert len(others) == 2 * (40 - len(kept_away))  # of people held out by one rule, no other picture is trained on


def test_a_persons_fate_does_not_hang_on_who_else_there_is():
    alone = Data(held_out_person=RULES.held_out_person, held_out_people=0.3)
    held_out, _ = held_out_of(PEOPLE, alone)
    of_some, _ = held_out_of(PEOPLE[:31], alone)
    assert of_some == sorted({*held_out} & {*PEOPLE[:31]})


def test_without_rules_of_people_the_old_rule_decides(folder):
    names = [f"{i}.jpg" for i in range(20)]
    assert held_out_of(names, Data(held_out=4)) == split_held_out(names, 4)


# --- aligning


def test_a_template_brings_eyes_and_mouth_where_the_ffhq_crop_has_them(tmp_path):
    """FFHQ's crop of a face that looks straight ahead: eyes level about the middle, the mouth below between them."""
    from dualstylegan.faces.crop import ffhq_matrix

    template = Template((0.4, 0.5), (0.6, 0.5), (0.5, 0.64))
    matrix = ffhq_matrix(template_points(template, 200, 300))
    left, right, mouth = (
        (matrix @ [x * 200 - 0.5, y * 300 - 0.5, 1])[:2]
        for x, y in (template.left_eye, template.right_eye, template.mouth)
    )
    assert left[1] == pytest.approx(right[1])
    assert (left[0] + right[0]) / 2 == pytest.approx(0.5)
    assert mouth[0] == pytest.approx(0.5)
    assert left[0] < 0.45 < 0.55 < right[0]
    assert left[1] < 0.5 < mouth[1]


def test_given_landmarks_align_what_they_mention_and_nothing_else(folder, tmp_path):
    face = Face.from_points(template_points(Template(), 24, 24))
    write_entries(folder / "faces.json", [entry_of(name, face) for name in ("0.png", "sub/9.png")])
    _, prepared = prepare(aligned(folder, alignment="faces.json"), tmp_path / "run")
    assert [portrait.name for portrait in prepared.training] == ["0.png", "sub/9.png"]
    assert "does not mention it" in prepared.left_out["1.png"]

    by_hand = np.asarray(Image.open(prepared.training[0].path)).astype(int)
    _, prepared = prepare(aligned(folder, alignment="template"), tmp_path / "template")
    by_template = np.asarray(Image.open(prepared.training[0].path)).astype(int)
    assert np.abs(by_hand - by_template).max() <= 1  # faces.json rounds points to a thousandth of a pixel


def test_landmarks_that_are_not_there_stop_before_anything_else(folder, tmp_path):
    with pytest.raises(BadFileError, match=r"faces\.json"):
        prepare(aligned(folder, alignment="faces.json"), tmp_path / "run")


def test_crops_that_are_small_or_cut_are_left_out_but_not_when_held_out(tmp_path):
    folder = tmp_path / "portraits"
    for i in range(4):
        write(folder / f"{i}.png", draw_picture(100, 100, seed=i))
    template = Template((0.4, 0.2), (0.6, 0.2), (0.5, 0.3))  # the crop, some 80 px wide, sticks out above
    data = Data(folder=str(folder), alignment="template", template=template, min_images=1)
    _, everything = prepare(data, tmp_path / "a")
    assert len(everything.training) == 4
    _, held_out = prepare(replace(data, held_out=3, min_inside=0.1), tmp_path / "b")
    assert len(held_out.held_out) == 3
    for rule, word in (({"min_inside": 0.99}, "lie in the picture"), ({"min_crop_px": 90}, "min_crop_px")):
        with pytest.raises(TrainingError, match=word):
            prepare(replace(data, **rule), tmp_path / "c")
    with pytest.raises(TrainingError, match="0 usable"):
        prepare(replace(data, held_out=3, min_inside=0.99), tmp_path / "d")
    assert len(read_prepared(tmp_path / "d").held_out) == 3


def test_how_far_a_mouth_is_open_is_kept_with_the_crop(tmp_path):
    folder = tmp_path / "portraits"
    faces = {}
    for name, gap in (("shut.png", 0.0), ("open.png", 4.0)):
        write(folder / name, draw_picture(96, 96, seed=1))
        points = template_points(Template(), 96, 96)
        points[48], points[54] = points[48] - (8, 0), points[54] + (8, 0)
        points[61:64, 1] -= gap / 2
        points[65:68, 1] += gap / 2
        faces[name] = Face.from_points(points)
        assert mouth_opening(points) == pytest.approx(gap / 16, abs=1e-6)
    write_entries(folder / "faces.json", [entry_of(name, face) for name, face in faces.items()])
    _, prepared = prepare(aligned(folder, alignment="faces.json"), tmp_path / "run")
    assert {p.name: mouth_is_open(p.path) for p in prepared.training} == {"shut.png": False, "open.png": True}
    _, unknown = prepare(aligned(folder), tmp_path / "aligned")
    assert not any(mouth_is_open(p.path) for p in unknown.training)

    weights = weights_of(prepared.training, Data(open_mouths=3.0))
    assert dict(zip([p.name for p in prepared.training], weights, strict=True)) == {"open.png": 1.5, "shut.png": 0.5}


# --- drawing


def test_shares_decide_what_part_of_the_pictures_is_of_which_source(tmp_path):
    names = (
        [f"ai/{i}.png" for i in range(60)] + [f"grey/{i}.png" for i in range(20)] + [f"x/{i}.png" for i in range(20)]
    )
    portraits = [Portrait(name, tmp_path / name) for name in names]
    weights = weights_of(portraits, Data(shares={"ai/*": 0.1, "grey/*": 0.05, "none/*": 0.3}))
    assert sum(weights[:60]) == pytest.approx(10)
    assert sum(weights[60:80]) == pytest.approx(5)
    assert sum(weights[80:]) == pytest.approx(85)
    assert weights_of(portraits, Data(), {"ai/*": 0.5})[0] == pytest.approx(100 * 0.5 / 60)
    with pytest.raises(TrainingError, match="leave nothing"):
        weights_of(portraits, Data(shares={"ai/*": 0.6, "grey/*": 0.4}))


def test_weighed_portraits_come_as_often_as_their_weight_in_every_epoch(portraits):
    weights = [0.25] * 5 + [1.75] * 5
    drawing = Portraits(portraits, SIZE, seed=3, weights=weights)
    rare = 0
    for _ in range(40):
        drawn = indices(drawing, 10)
        rare += sum(index < 5 for index in drawn)
        assert all(drawn.count(index) in (0, 1) for index in range(5))
        assert all(drawn.count(index) in (1, 2) for index in range(5, 10))
    assert rare / 400 == pytest.approx(0.125, abs=0.04)
    later = Portraits(portraits, SIZE, seed=3, weights=weights)
    later.load_state_dict({"drawn": 25})
    again = Portraits(portraits, SIZE, seed=3, weights=weights)
    indices(again, 25)
    assert indices(later, 20) == indices(again, 20)


@pytest.fixture
def portraits(folder) -> list[Portrait]:
    return [Portrait(name, path) for name, path in list_portraits(aligned(folder)).items()]


def indices(drawing: Portraits, count: int) -> list[int]:
    return drawing.next_indices(count)[0]


def test_every_portrait_is_drawn_once_an_epoch_in_a_new_order(portraits):
    drawing = Portraits(portraits, SIZE)
    first, second = indices(drawing, 10), indices(drawing, 10)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_processes_never_draw_the_same_and_together_draw_all(portraits):
    alone = indices(Portraits(portraits, SIZE, seed=4), 30)
    shares = [indices(Portraits(portraits, SIZE, seed=4, processes=Processes(rank, 3)), 10) for rank in range(3)]
    assert [index for draws in zip(*shares, strict=True) for index in draws] == alone


def test_drawing_goes_on_where_it_was(portraits):
    whole, first = (Portraits(portraits, SIZE, seed=2, flip=True) for _ in range(2))
    first.next(7)
    second = Portraits(portraits, SIZE, seed=2, flip=True)
    second.load_state_dict(first.state_dict())
    whole.next(7)
    assert torch.equal(second.next(9), whole.next(9))


def test_portraits_come_as_they_are_or_mirrored(portraits):
    plain, flipped = Portraits(portraits, SIZE), Portraits(portraits, SIZE, flip=True)
    pictures = plain.first(10)
    which, mirrored = flipped.next_indices(40)
    drawn = flipped.pictures(which, mirrored)
    assert 10 < sum(mirrored) < 30
    for picture, index, mirror in zip(drawn, which, mirrored, strict=True):
        assert torch.equal(picture, pictures[index].flip(2) if mirror else pictures[index])
    assert not any(plain.next_indices(10)[1])


def test_what_does_not_fit_into_memory_is_read_as_it_is_drawn(portraits):
    kept, read = Portraits(portraits, SIZE), Portraits(portraits, SIZE, memory_bytes=0)
    assert torch.equal(kept.next(12), read.next(12))


def test_batches_give_every_portrait_once_in_order_of_names(portraits):
    drawing = Portraits(portraits, SIZE)
    assert [len(batch) for batch in drawing.batches(4)] == [4, 4, 2]
    assert torch.equal(torch.cat(list(drawing.batches(4))), drawing.first(10))
    assert len(drawing.first(99)) == 10


def test_pictures_are_channels_last_in_the_range_networks_take(portraits):
    images = Portraits(portraits, SIZE).next(4)
    assert images.shape == (4, 3, SIZE, SIZE)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images.min() >= -1
    assert images.max() <= 1


def test_a_portrait_that_vanished_is_named(portraits):
    drawing = Portraits(portraits, SIZE, memory_bytes=0)
    for portrait in portraits:
        portrait.path.unlink()
    with pytest.raises(BadFileError, match="no such file"):
        drawing.next(1)


def test_portraits_may_be_called_whatever_a_file_may(folder, tmp_path):
    names = ["肖" * 52 + ".png", "é" * 110 + ".png", "a~b.png", "x y+z@[1].png"]
    try:
        write(folder / (odd := os.fsdecode(b"caf\xe9.png")), draw_picture(24, 24, seed=77))
        names.append(odd)
    except OSError:
        pass  # this file system takes UTF-8 alone
    for seed, name in enumerate(names):
        write(folder / name, draw_picture(24, 24, seed=20 + seed))
    _, prepared = prepare(aligned(folder), tmp_path / "data")
    made = {portrait.name for portrait in prepared.training}
    assert made >= {*names} and all(portrait.path.is_file() for portrait in prepared.training)
    assert {portrait.name for portrait in read_prepared(tmp_path / "data").training} == made

    results = PortraitResults(tmp_path / "results")
    for name in made:
        results.write(name, {"code": torch.zeros(1)}, "made so")
    assert results.names() == sorted(made) and all(results.has(name, "made so") for name in made)
    assert len({results.path(name) for name in made}) == len(made)
