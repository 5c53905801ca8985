"""`dsg align` cuts faces out of photos, writes faces.json, and reads it back; one bad file stops nothing."""

from __future__ import annotations

import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dsgcli.main import main
from dualstylegan import align
from dualstylegan.align import align_pictures
from dualstylegan.errors import BadFileError, UsageError
from dualstylegan.faces.crop import crop_face
from dualstylegan.faces.faces_json import faces_of, read_faces_json
from dualstylegan.faces.find import EmbeddedDetector
from dualstylegan.media.images import from_tensor, read_picture
from dualstylegan.media.paths import Source
from dualstylegan.runtime.processes import Processes

PHOTOS = Path(__file__).parent / "data" / "photos"


@pytest.fixture(scope="module")
def detector() -> EmbeddedDetector:
    return EmbeddedDetector()


@pytest.fixture
def photos(tmp_path) -> Path:
    """a.jpg with one face, sub/b.jpg with one, sub/pair.png with two, blank.png with none."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    shutil.copy(PHOTOS / "congress_C001101.jpg", folder / "a.jpg")
    shutil.copy(PHOTOS / "congress_A000371.jpg", folder / "sub" / "b.jpg")
    pair = Image.new("RGB", (520, 300), (90, 110, 130))
    pair.paste(Image.open(PHOTOS / "congress_G000535.jpg").resize((150, 183)), (20, 20))
    pair.paste(Image.open(PHOTOS / "congress_C001101.jpg"), (260, 10))
    pair.save(folder / "sub" / "pair.png")
    Image.new("RGB", (80, 60), "white").save(folder / "blank.png")
    return folder


def kinds(events: list) -> dict[str, str]:
    return {Path(event.source).name: event.kind for event in events if event.source}


def entries(folder: Path) -> list[dict]:
    return json.loads((folder / "faces.json").read_text(encoding="utf-8"))["faces"]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_every_face_becomes_a_crop_and_an_entry(photos, tmp_path, detector):
    out = tmp_path / "faces"
    events = list(align_pictures([photos], output=out, size=96, detector=detector))
    assert kinds(events) == {"a.jpg": "done", "b.jpg": "done", "pair.png": "done", "blank.png": "skipped"}
    assert events[0].kind == "plan" and events[0].total == 4
    assert events[-1].kind == "summary" and events[-1].data == {"done": 3, "skipped": 1, "failed": 0, "faces": 4}

    crops = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert crops == ["a.png", "sub/b.png", "sub/pair-2.png", "sub/pair.png"]
    for entry in entries(out):
        assert pixels(out / entry["crop"]).shape == (96, 96, 3) and entry["size"] == 96
        assert np.shape(entry["landmarks"]) == (68, 2) and np.shape(entry["matrix"]) == (3, 3)
        assert len(entry["box"]) == 4 and 0.8 < entry["score"] <= 1
    first, second = (entry for entry in entries(out) if entry["file"] == "sub/pair.png")
    assert first["crop"] == "sub/pair.png" and first["box"][0] > 225 > second["box"][0]  # the larger one first


def test_faces_json_read_back_gives_the_same_crops_without_looking(photos, tmp_path, detector):
    list(align_pictures([photos], output=tmp_path / "one", size=96, detector=detector))

    class Blind:
        name = "blind"

        def find(self, pictures):
            raise AssertionError("the landmarks were given")

    known = tmp_path / "one" / "faces.json"
    events = list(align_pictures([photos], output=tmp_path / "two", size=96, landmarks=known, detector=Blind()))
    assert kinds(events)["blank.png"] == "failed"  # it is not in the file
    for crop in (tmp_path / "one").rglob("*.png"):
        twin = tmp_path / "two" / crop.relative_to(tmp_path / "one")
        np.testing.assert_array_equal(pixels(crop), pixels(twin))
    assert entries(tmp_path / "one") == entries(tmp_path / "two")


def test_the_matrix_is_the_one_the_crop_was_cut_with(photos, tmp_path, detector):
    out = tmp_path / "faces"
    list(align_pictures([photos / "a.jpg"], output=out, size=64, detector=detector))
    (entry,) = entries(out)
    crop = crop_face(read_picture(photos / "a.jpg").pixels, np.array(entry["matrix"]), 64)
    np.testing.assert_array_equal(from_tensor(crop), pixels(out / "a.png"))


def test_largest_takes_one_face_and_size_0_writes_no_crops(photos, tmp_path, detector):
    out = tmp_path / "faces"
    list(align_pictures([photos / "sub"], output=out, size=0, faces="largest", detector=detector))
    assert [path.name for path in out.rglob("*") if path.is_file()] == ["faces.json"]
    assert [entry["file"] for entry in entries(out)] == ["b.jpg", "pair.png"]
    assert all("crop" not in entry for entry in entries(out))


def test_a_bad_file_is_named_and_the_others_are_done(photos, tmp_path, detector):
    (photos / "broken.jpg").write_bytes((photos / "a.jpg").read_bytes()[:900])
    (photos / "text.png").write_text("not a picture")
    events = list(align_pictures([photos, "missing.jpg"], output=tmp_path / "out", size=32, detector=detector))
    failed = {event.source: event.message for event in events if event.kind == "failed"}
    assert {Path(source).name for source in failed} == {"broken.jpg", "text.png", "missing.jpg"}
    assert all(source in message and "\n" not in message for source, message in failed.items())
    assert events[-1].data["done"] == 3


def test_skip_existing_trusts_only_whole_crops_of_the_same_size(photos, tmp_path, detector):
    out = tmp_path / "faces"

    def run(size: int) -> dict[str, str]:
        return kinds(list(align_pictures([photos], output=out, size=size, detector=detector, skip_existing=True)))

    run(48)
    assert run(48) == {"a.jpg": "skipped", "b.jpg": "skipped", "pair.png": "skipped", "blank.png": "skipped"}
    crop = out / "sub" / "pair-2.png"
    crop.write_bytes(crop.read_bytes()[:-30])
    (out / "a.png").unlink()
    assert run(48) == {"a.jpg": "done", "b.jpg": "skipped", "pair.png": "done", "blank.png": "skipped"}
    assert set(run(64).values()) == {"done", "skipped"} and pixels(out / "a.png").shape == (64, 64, 3)


def test_a_second_folder_adds_to_faces_json(photos, tmp_path, detector):
    out = tmp_path / "faces"
    list(align_pictures([photos / "a.jpg"], output=out, size=32, detector=detector))
    list(align_pictures([photos / "sub"], output=out, size=32, detector=detector))
    assert [entry["file"] for entry in entries(out)] == ["a.jpg", "b.jpg", "pair.png", "pair.png"]


def test_stopping_early_keeps_what_was_cut(photos, tmp_path, detector):
    out = tmp_path / "faces"
    events = align_pictures([photos], output=out, size=32, detector=detector)
    for event in events:
        if event.kind == "done":
            break
    events.close()  # as Ctrl-C does
    assert {entry["crop"] for entry in entries(out)} == {p.relative_to(out).as_posix() for p in out.rglob("*.png")}
    assert not list(out.rglob(".*"))


def test_processes_share_the_pictures_and_one_list_tells_of_all(photos, tmp_path, detector, monkeypatch):
    here = threading.local()

    class InThreads(Processes):
        launched = classmethod(lambda cls, **settings: cls(here.rank, 2))

        def agree(self, decide):
            decided = decide()
            return "job" if isinstance(decided, str) else decided

        def _meet(self) -> None:
            pass

    def run(rank: int) -> list:
        here.rank = rank
        return list(align_pictures([photos], output=tmp_path / "two", size=32, detector=detector))

    monkeypatch.setattr(align, "Processes", InThreads)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, range(2))
    assert second == []
    assert kinds(first) == {"a.jpg": "done", "b.jpg": "done", "pair.png": "done", "blank.png": "skipped"}
    assert first[-1].data == {"done": 3, "skipped": 1, "failed": 0, "faces": 4}
    assert all(set(event.data) == {"faces", "outputs"} for event in first if event.kind == "done")

    monkeypatch.undo()
    list(align_pictures([photos], output=tmp_path / "alone", size=32, detector=detector))
    assert entries(tmp_path / "two") == entries(tmp_path / "alone")
    names = [sorted(path.name for path in (tmp_path / folder).rglob("*")) for folder in ("two", "alone")]
    assert names[0] == names[1]


class OneByOne:
    """Finds in each picture what is found in it alone: floats add up in another order in other batches."""

    def __init__(self, detector: EmbeddedDetector):
        self.detector, self.known = detector, {}

    def find(self, pictures: list[np.ndarray]) -> list[list]:
        for picture in pictures:
            if picture.tobytes() not in self.known:
                self.known[picture.tobytes()] = self.detector.find([picture])[0]
        return [self.known[picture.tobytes()] for picture in pictures]


def test_shards_beside_one_another_do_what_one_command_does_and_their_lists_become_one(photos, tmp_path, detector):
    shards, options = tmp_path / "shards", {"size": 32, "detector": OneByOne(detector)}
    said = [list(align_pictures([photos], output=shards, shard=f"{k}/3", **options)) for k in (2, 3, 1)]
    ends = [kinds(events) for events in said]
    assert sorted(len(one) for one in ends) == [1, 1, 2] and len({name for one in ends for name in one}) == 4
    assert all(events[0].total == len(one) for events, one in zip(said, ends, strict=True))
    lists = {f"faces.shard{k}-of-3.json" for k in (1, 2, 3)}
    with_faces = {path.name for path in shards.glob("*.json")}
    assert with_faces <= lists and len(with_faces) >= 2  # one of the three may hold blank.png alone

    again = list(align_pictures([photos], output=shards, shard="1/3", skip_existing=True, **options))
    assert "done" not in kinds(again).values()  # a task of the job that is run again
    list(align_pictures([photos], output=shards, dry_run=True, **options))
    assert {path.name for path in shards.glob("*.json")} == with_faces

    list(align_pictures([photos], output=shards, skip_existing=True, **options))
    list(align_pictures([photos], output=tmp_path / "alone", **options))
    assert entries(shards) == entries(tmp_path / "alone")
    names = [sorted(path.name for path in folder.rglob("*")) for folder in (shards, tmp_path / "alone")]
    assert names[0] == names[1]


def test_pictures_of_one_name_keep_their_extensions(photos, tmp_path, detector):
    Image.open(photos / "a.jpg").save(photos / "a.png")
    list(align_pictures([photos / "a.jpg", photos / "a.png"], output=tmp_path / "out", size=32, detector=detector))
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["a.jpg.png", "a.png.png"]


def test_a_source_is_never_overwritten_by_its_crop(photos, tmp_path, detector, monkeypatch):
    monkeypatch.chdir(photos)
    Image.open("a.jpg").save("b.png")
    before = {path: path.read_bytes() for path in photos.rglob("*.*")}
    for inputs in (["b.png"], ["."], ["a.jpg", "b.png"]):
        with pytest.raises(UsageError, match="overwrite"):
            list(align_pictures(inputs, output=".", size=32, detector=detector))
    Image.open("a.jpg").save("a.png")  # a photo of the user's, though nobody named it
    with pytest.raises(UsageError, match=r"a.png would be overwritten, and dsg did not make it"):
        list(align_pictures(["a.jpg"], output=".", size=32, detector=detector, dry_run=True))
    assert before == {path: path.read_bytes() for path in before}


def test_faces_beside_a_picture_called_like_them_are_all_kept(photos, tmp_path, detector):
    shutil.copy(photos / "sub" / "pair.png", photos / "k.png")
    shutil.copy(photos / "a.jpg", photos / "k-2.png")
    out = tmp_path / "faces"
    for _ in range(2):  # again: the same names
        list(align_pictures([photos / "k.png", photos / "k-2.png"], output=out, size=32, detector=detector))
        crops = [entry["crop"] for entry in entries(out)]
        assert sorted(crops) == sorted(path.name for path in out.glob("*.png")) == ["k-2.png", "k-3.png", "k.png"]
    assert [entry["crop"] for entry in entries(out) if entry["file"] == "k-2.png"] == ["k-2.png"]


def test_crops_in_the_photos_own_folder_are_no_photos_the_next_time(photos, tmp_path, detector):
    (photos / "blank.png").unlink(), (photos / "sub" / "pair.png").unlink()
    for _ in range(2):
        events = list(align_pictures([photos], output=photos, size=32, detector=detector))
        assert kinds(events) == {"a.jpg": "done", "b.jpg": "done"}
        assert sorted(path.name for path in photos.rglob("*.png")) == ["a.png", "b.png"]
    assert any(event.kind == "note" and "2 that dsg made" in event.message for event in events)
    other = list(align_pictures([photos], output=tmp_path / "elsewhere", size=32, detector=detector))
    assert other[0].total == 2
    again = list(align_pictures([photos / "a.png"], output=tmp_path / "named", size=32, detector=detector))
    assert again[0].total == 1, "named outright, it is an input"


def test_an_earlier_crop_of_another_picture_stays(photos, tmp_path, detector):
    out = tmp_path / "faces"
    list(align_pictures([photos / "a.jpg"], output=out, size=32, detector=detector))
    before = (out / "a.png").read_bytes()
    Image.open(photos / "sub" / "b.jpg").save(photos / "a.bmp")
    list(align_pictures([photos / "a.bmp"], output=out, size=32, detector=detector))
    assert (out / "a.png").read_bytes() == before
    assert {entry["file"]: entry["crop"] for entry in entries(out)} == {"a.jpg": "a.png", "a.bmp": "a.bmp.png"}


def test_two_photos_of_one_name_are_two_in_faces_json(photos, tmp_path, detector, monkeypatch):
    monkeypatch.chdir(photos)
    for folder in ("x", "y"):
        Path(folder).mkdir()
        shutil.copy("a.jpg", f"{folder}/me.jpg")
    list(align_pictures(["x/me.jpg", "y/me.jpg"], output=tmp_path / "out", size=32, detector=detector))
    assert [(entry["file"], entry["crop"]) for entry in entries(tmp_path / "out")] == [
        ("x/me.jpg", "x/me.png"), ("y/me.jpg", "y/me.png")
    ]  # fmt: skip


def test_a_name_that_is_no_text_takes_nothing_from_the_others(photos, tmp_path, detector):
    odd = photos / os.fsdecode(b"caf\xe9.jpg")
    try:
        shutil.copy(photos / "a.jpg", odd)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    out = tmp_path / "faces"
    list(align_pictures([odd, photos / "a.jpg"], output=out, size=32, detector=detector))
    assert {entry["file"] for entry in entries(out)} == {odd.name, "a.jpg"}
    assert (out / odd.with_suffix(".png").name).exists()
    again = list(align_pictures([odd], output=tmp_path / "two", size=32, landmarks=out / "faces.json"))
    assert again[-1].data["done"] == 1
    assert kinds(list(align_pictures([odd], output=out, size=32, skip_existing=True)))[odd.name] == "skipped"


def test_names_as_long_as_they_may_be_are_cut_short(photos, tmp_path, detector):
    name = "肖" * 83 + ".png"  # 253 bytes: with -2 too long
    shutil.copy(photos / "sub" / "pair.png", photos / name)
    events = list(align_pictures([photos / name], output=tmp_path / "out", size=32, detector=detector))
    assert events[-1].data["failed"] == 0 and len(list((tmp_path / "out").glob("*.png"))) == 2


def test_a_faces_json_is_not_written_over_by_what_it_was_read_for(photos, tmp_path, detector):
    list(align_pictures([photos / "a.jpg"], output=tmp_path / "one", size=32, detector=detector))
    given = tmp_path / "one" / "faces.json"
    before = given.read_bytes()
    with pytest.raises(UsageError, match="overwrite"):
        list(align_pictures([photos / "a.jpg"], output=tmp_path / "one", size=64, landmarks=given))
    assert given.read_bytes() == before


def test_a_faces_json_that_knows_none_of_the_photos_is_said_at_once(photos, tmp_path, detector):
    list(align_pictures([photos / "a.jpg"], output=tmp_path / "one", size=32, detector=detector))
    given = tmp_path / "one" / "faces.json"
    with pytest.raises(UsageError, match=r"mentions none of the 2 pictures given .*a.jpg"):
        list(align_pictures([photos / "sub"], output=tmp_path / "two", landmarks=given, dry_run=True))
    bom = tmp_path / "bom.json"
    bom.write_text(given.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert list(align_pictures([photos / "a.jpg"], output=tmp_path / "3", size=32, landmarks=bom))[-1].data["done"] == 1


def test_a_dry_run_writes_nothing(photos, tmp_path, detector):
    events = list(align_pictures([photos], output=tmp_path / "out", detector=detector, dry_run=True))
    assert not (tmp_path / "out").exists()
    assert sum(event.kind == "note" for event in events) == 4


def test_wrong_questions_are_refused_before_any_work(photos, tmp_path):
    for wrong in (
        {"faces": "some"},
        {"size": -1},
        {"output": tmp_path / "x.png"},
        {"output": "x.heic"},
        {"output": "-"},
        {"output": "{stem}"},
        {"output": photos / "a.jpg"},
        {"output": photos / "a.jpg" / "faces"},
        {"output": ""},
    ):
        with pytest.raises(UsageError):
            next(align_pictures([photos], **wrong))
    assert not (tmp_path / "faces").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not JSON"),
        ('{"faces": 3}', "no list of faces"),
        ('{"version": 9, "faces": []}', "version 9"),
        ('[{"landmarks": []}]', "no 'file'"),
        ('[{"file": "a.jpg", "landmarks": [[1, 2]]}]', "68 x 2"),
        (json.dumps([{"file": "a.jpg", "landmarks": [[5, 5]] * 68}]), "no face"),
        (json.dumps([{"file": "a.jpg", "landmarks": [[i, i * i % 7] for i in range(68)], "matrix": [[0] * 3] * 3}]),
         "affine"),
        ("[" * 100_000, "not JSON"),
        ('[{"file": "a.jpg", "landmarks": [[' + "9" * 400 + ', 1]]}]', "68 x 2 finite"),
        ('[{"file": "a.jpg", "landmarks": [[' + "9" * 9000 + ', 1]]}]', "not JSON"),
        (json.dumps([{"file": "a.jpg", "landmarks": [[i + 1e9, i * i % 7] for i in range(68)]}]), "outside any"),
        (json.dumps([{"file": "a.jpg", "landmarks": [[i, i * i % 7] for i in range(68)], "score": 10**400}]),
         "'score'"),
        (json.dumps([{"file": "a.jpg", "landmarks": [[i, i * i % 7] for i in range(68)], "box": [0, 0, 1, 1e300]}]),
         "'box'"),
        ('[{"file": "a.jpg", "crop": 5}]', "'crop'"),
    ],
)  # fmt: skip
def test_a_faces_json_that_is_wrong_is_refused_with_its_name_and_reason(tmp_path, content, reason):
    path = tmp_path / "faces.json"
    path.write_text(content)
    with pytest.raises(BadFileError, match=reason) as caught:
        read_faces_json(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [None, "[", '{"version": 7}', '[{"file": "a.jpg", "landmarks": 1}]'])
def test_landmarks_that_cannot_be_read_are_refused_before_work(photos, tmp_path, content):
    given = tmp_path / "given.json"
    if content is not None:
        given.write_text(content)
    for dry_run in (True, False):
        with pytest.raises(UsageError, match=r"--landmarks: .*given\.json"):
            list(align_pictures([photos], output=tmp_path / "out", landmarks=given, dry_run=dry_run))
    assert not (tmp_path / "out").exists()


def test_landmarks_of_another_picture_fail_their_picture_alone(photos, tmp_path, detector):
    list(align_pictures([photos], output=tmp_path / "one", size=64, detector=detector))
    known = entries(tmp_path / "one")
    far = next(entry for entry in known if entry["file"] == "a.jpg")
    for matrix, points in (
        (None, np.add(far["landmarks"], (2e5, 9e5))),
        (None, (np.array(far["landmarks"]) - 100) * 1e4),
        ([[1e-5, 0, 0], [0, 1e-5, 0], [0, 0, 1]], np.array(far["landmarks"])),
        ([[1e3, 0, 9e6], [0, 1e3, 9e6], [0, 0, 1]], np.array(far["landmarks"])),
    ):
        far |= {"landmarks": points.tolist(), "matrix": matrix}
        (tmp_path / "far.json").write_text(json.dumps(known))
        events = list(align_pictures([photos], output=tmp_path / "two", size=64, landmarks=tmp_path / "far.json"))
        failed = {event.source: event.message for event in events if event.kind == "failed"}
        assert "not in the picture" in failed[str(photos / "a.jpg")]
        assert sum(event.kind == "done" for event in events) == len({entry["file"] for entry in known}) - 1


def test_landmarks_alone_are_enough_in_a_faces_json(photos, tmp_path, detector):
    list(align_pictures([photos / "a.jpg"], output=tmp_path / "one", size=64, detector=detector))
    (entry,) = entries(tmp_path / "one")
    by_hand = tmp_path / "hand.json"
    by_hand.write_text(json.dumps([{"file": "a.jpg", "landmarks": entry["landmarks"]}]))
    list(align_pictures([photos / "a.jpg"], output=tmp_path / "two", size=64, landmarks=by_hand))
    difference = pixels(tmp_path / "one" / "a.png").astype(int) - pixels(tmp_path / "two" / "a.png")
    assert np.abs(difference).max() <= 2  # landmarks are written to a thousandth of a pixel


def test_faces_are_matched_by_place_then_by_a_unique_name():
    known = {"a/x.jpg": [1], "b/x.jpg": [2], "c/y.jpg": [3]}
    assert faces_of(known, Source(Path("photos/a/x.jpg"), Path("a/x.jpg"))) == [1]
    assert faces_of(known, Source(Path("b/x.jpg"), Path("x.jpg"))) == [2]
    assert faces_of(known, Source(Path("elsewhere/y.jpg"), Path("y.jpg"))) == [3]
    assert faces_of(known, Source(Path("elsewhere/x.jpg"), Path("x.jpg"))) is None


def test_the_command_aligns_and_its_exit_status_says_how_it_went(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    common = ["--size", "32", "--detector", "embedded"]
    assert main(["align", "photos", *common]) == 0
    assert (tmp_path / "faces" / "sub" / "pair-2.png").exists() and (tmp_path / "faces" / "faces.json").exists()
    (photos / "bad.jpg").write_text("no")
    capsys.readouterr()
    assert main(["align", "photos", *common, "--skip-existing", "--json"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines].count("skipped") == 4 and lines[-1]["event"] == "summary"
    assert main(["align", "photos", "--faces", "none"]) == 2
    assert main(["align", "photos", "-o", "one.png", *common]) == 2
