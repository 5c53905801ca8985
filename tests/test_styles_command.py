"""`dsg styles`: the list, numbered sheets, fetching and importing, as typed and as events."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_release import NAMES, tiny_release
from tiny_style import tiny_style

from dsgcli.main import main
from dualstylegan import styles
from dualstylegan.errors import DownloadError, DualStyleGANError, UsageError
from dualstylegan.events import Event
from dualstylegan.media.sheets import contact_sheet, strip
from dualstylegan.models import cache, convert
from dualstylegan.models.bundle import copy_bundle
from dualstylegan.models.codes import StyleBank
from dualstylegan.models.library import load_style
from dualstylegan.models.style import save_style
from dualstylegan.networks.small_encoder import SmallEncoder


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DSG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cache, "EMBEDDED", tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def toon(tmp_path):
    """An embedded style `toon` with thumbnails of three colours, and one without thumbnails in the cache, `bare`."""
    style = load_style(tiny_style(tmp_path / "made", "toon"))
    copy_bundle(style.base_folder, tmp_path / "weights" / "mini", {"name": "mini"})
    style.base_folder = tmp_path / "weights" / "mini"
    bare = {**style.header, "name": "bare"}
    style.thumbnails = [Image.new("RGB", (64, 64), color) for color in ("red", "lime", "blue")]
    save_style(tmp_path / "weights" / "toon", style)
    style.thumbnails, style.header = None, bare
    save_style(tmp_path / "home" / "styles" / "bare", style)
    return style


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


# The list


def test_the_list_has_embedded_cached_and_downloadable_styles(toon, capsys):
    assert main(["styles"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:4] == ["toon", "embedded", "3", "exemplars"]
    assert printed[1].split()[:2] == ["bare", "cached"]
    anime = next(line for line in printed if line.startswith("anime"))
    assert "downloadable" in anime and "174 exemplars" in anime and "non-commercial" in anime
    assert printed[-1].startswith("1 embedded, 1 cached, 7 downloadable.")
    assert "mini" not in "".join(printed)  # a base is no style


def test_the_list_as_json_has_one_event_per_style(toon, capsys):
    assert main(["styles", "--json"]) == 0
    events = lines(capsys)
    facts = {event["source"]: event["data"] for event in events if event["event"] == "note"}
    assert facts["toon"]["place"] == "embedded" and facts["toon"]["exemplars"] == 3
    assert facts["caricature"]["licence"].startswith("S-Lab")
    assert events[-1]["event"] == "summary"


def test_a_cached_style_hides_its_downloadable_self(toon, home, capsys):
    copy_bundle(home / "styles" / "bare", home / "styles" / "anime", {"name": "anime"})
    main(["styles"])
    printed = capsys.readouterr().out
    assert printed.count("\nanime") == 1 and "anime" in printed.split("downloadable")[0]


# Sheets


def pixel(sheet, column, cell_px=160, gap_px=8, caption_px=18):
    """A pixel in the middle of a cell of the sheet's last row."""
    picture = np.asarray(Image.open(sheet).convert("RGB")).astype(int)
    bottom = picture.shape[0] - gap_px - caption_px
    return picture[bottom - cell_px // 2, gap_px + column * (cell_px + gap_px) + cell_px // 2]


def test_a_sheet_shows_the_thumbnails_in_id_order(toon, tmp_path, capsys):
    assert main(["styles", "show", "toon", "-o", "sheet.png", "--columns", "3"]) == 0
    colors = [pixel("sheet.png", i) for i in range(3)]
    for color, expected in zip(colors, ([255, 0, 0], [0, 255, 0], [0, 0, 255]), strict=True):
        assert np.abs(color - expected).max() < 12  # JPEG thumbnails
    assert capsys.readouterr().out == "sheet.png: 3 of 3 exemplars of toon.\n"


def test_a_sheet_of_some_exemplars_keeps_the_order_asked_for(toon, capsys):
    assert main(["styles", "show", "toon", "-o", "sheet.jpg", "--ids", "2,ada", "--columns", "2", "--json"]) == 0
    assert np.abs(pixel("sheet.jpg", 0) - [0, 0, 255]).max() < 12
    assert np.abs(pixel("sheet.jpg", 1) - [255, 0, 0]).max() < 12
    done = next(event for event in lines(capsys) if event["event"] == "done")
    assert done["data"]["exemplars"] == {"2": "cyd.png", "0": "ada.png"}


def test_without_an_output_the_sheet_is_named_after_the_style(toon, tmp_path):
    assert main(["styles", "show", "toon"]) == 0
    assert (tmp_path / "toon.png").is_file()


def test_a_sheets_default_name_does_not_overwrite_a_picture_of_the_users(toon, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("toon.png")
    before = Path("toon.png").read_bytes()
    assert main(["styles", "show", "toon"]) == 2
    assert "dsg did not make it" in capsys.readouterr().err
    assert Path("toon.png").read_bytes() == before
    for _ in range(2):
        assert main(["styles", "show", "toon", "-o", "toon.png"]) == 0


def test_a_style_without_thumbnails_is_rendered_once_on_one_face(toon, home, monkeypatch):
    rendered = []
    monkeypatch.setattr(
        styles, "_render", lambda *asked, real=styles._render: rendered.append(asked[1]) or real(*asked)
    )
    assert main(["styles", "show", "bare", "-o", "a.png", "--ids", "0-1"]) == 0
    assert main(["styles", "show", "bare", "-o", "b.png", "--ids", "0-2"]) == 0
    assert rendered == [0, 1, 2]
    drawn = sorted((home / "sheets").rglob("*.png"))
    assert [file.name for file in drawn] == ["00000.png", "00001.png", "00002.png"]
    pictures = [np.asarray(Image.open(file)) for file in drawn]
    assert not np.array_equal(pictures[0], pictures[1])


def test_rendering_needs_no_writable_cache(toon, home, monkeypatch):
    def refuse_in_the_cache(path, real=styles.whole_file):
        if home in path.parents:
            raise DualStyleGANError(f"Cannot write {path}: Read-only file system.")
        return real(path)

    monkeypatch.setattr(styles, "whole_file", refuse_in_the_cache)
    assert main(["styles", "show", "bare", "-o", "sheet.png"]) == 0
    assert not list((home / "sheets").rglob("*.png"))


def test_a_damaged_cached_picture_is_drawn_again(toon, home):
    main(["styles", "show", "bare", "-o", "a.png"])
    drawn = next((home / "sheets").rglob("00001.png"))
    drawn.write_bytes(b"half")
    main(["styles", "show", "bare", "-o", "b.png"])
    assert np.array_equal(np.asarray(Image.open("a.png")), np.asarray(Image.open("b.png")))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["show", "tooon"], "No style 'tooon'. Did you mean 'toon'?"),
        (["show", "toon", "--ids", "0-3"], "No exemplar 3 in style 'toon'. It has 3, numbered 0 to 2"),
        (["show", "toon", "--ids", "adda"], "Did you mean 'ada'?"),
        (["show", "toon", "--ids", "2-1"], "counts backwards"),
        (["show", "toon", "-o", "sheet.xyz"], "written as .png, .jpg, .webp or .html"),
        (["pull", "tooon"], "No style 'tooon'. Did you mean 'toon'?"),
        (["import", "nowhere", "--name", "x"], "nowhere is no folder"),
        (["import", ".", "--name", "toon"], "'toon' is an embedded style"),
        (["import", ".", "--name", "n" * 300], "too long a name"),
        (["show", "n" * 300], "No style"),
        (["show", "n/" + "n" * 300], "does not exist"),
        (["show", "toon", "-o", "sheet.heic"], "written as .png, .jpg, .webp or .html"),
        (["show", "toon", "-o", "-"], "stdout"),
    ],
)
def test_mistakes_are_one_line_and_status_2(toon, capsys, arguments, line):
    assert main(["styles", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert line in told.err and told.err.count("\n") == 1


def test_ids_are_numbers_spans_and_names():
    bank = StyleBank(["a.jpg", "0-1", "b.jpg", "c.jpg"], torch.zeros(4, 8, 4))
    assert styles.parse_ids("2-3, a ,2", bank) == [2, 3, 0]
    assert styles.parse_ids("0-1", bank) == [1]  # a name before a span
    with pytest.raises(UsageError, match="numbered 0 to 3"):
        styles.parse_ids("2-99999999999", bank)


# Fetching and importing


def test_pull_fetches_what_is_missing_and_goes_on_after_a_failure(toon, home, monkeypatch, capsys):
    def pull(name, *, terms, **settings):
        yield terms.note(f"{name}: licence")
        yield Event("progress", terms.verb, stage="generator.pt (MB)", current=5, total=5)
        if name == "anime":
            raise DownloadError("anime: the server answered 404.")
        return copy_bundle(home / "styles" / "bare", home / "styles" / name, {"name": name})

    monkeypatch.setattr(styles, "pull_style", pull)
    assert main(["styles", "pull", "anime", "pixar", "toon", "pixar", "--json"]) == 1
    events = lines(capsys)
    ended = {event["source"]: event["event"] for event in events if event["event"] in ("done", "failed", "skipped")}
    assert ended == {"anime": "failed", "pixar": "done", "toon": "skipped"}
    assert events[-1]["message"] == "1 fetched, 1 already here, 1 failed."
    progress = next(event for event in events if event["event"] == "progress")
    assert (progress["stage"], progress["current"], progress["total"]) == ("generator.pt (MB)", 5, 5)
    first = [event["message"] for event in events if event["event"] == "note"]
    assert first == ["anime: licence", "pixar: licence"]


def test_offline_pulls_fail_in_one_line(toon, capsys, monkeypatch):
    monkeypatch.setenv("DSG_OFFLINE", "")  # restored after the option has set it
    assert main(["styles", "pull", "slamdunk", "--offline"]) == 1
    told = capsys.readouterr()
    assert "slamdunk needs generator.pt (308 MB)" in told.err and "downloads are off" in told.err


def test_an_official_folder_is_imported_by_the_command(tmp_path, home, monkeypatch, capsys):
    model = tiny_release(tmp_path / "release" / "cartoon")
    (tmp_path / "release" / "encoder.pt").touch()
    monkeypatch.setattr(
        convert, "load_encoder", lambda path, space: SmallEncoder(model.rows, model.style_dim, 32, channels=8)
    )
    assert main(["styles", "import", "release/cartoon", "--name", "mine"]) == 0
    assert capsys.readouterr().out.startswith("mine: 4 exemplars, licence: S-Lab License 1.0")
    assert main(["styles", "show", "mine", "-o", "mine.png"]) == 0
    assert list(load_style("mine").bank.names) == NAMES


# Drawing


def test_a_contact_sheet_numbers_its_cells_row_by_row():
    pictures = [np.full((40, 40, 3), 60 * i, np.uint8) for i in range(4)]
    sheet = contact_sheet(pictures, [], columns=2, cell_px=40, gap_px=4)
    assert sheet.shape == (92, 92, 3)
    assert [int(sheet[y, x, 0]) for y in (24, 68) for x in (24, 68)] == [0, 60, 120, 180]
    numbered = contact_sheet(pictures, columns=2, cell_px=40, gap_px=4)
    assert numbered.shape[0] > sheet.shape[0]


def test_pictures_keep_their_shape_in_a_sheet():
    sheet = contact_sheet([np.zeros((20, 40, 3), np.uint8)], [], cell_px=40, gap_px=0)
    assert sheet[20, 0].max() == 0 and sheet[5, 20].min() > 200


def test_a_strip_sets_pictures_of_one_height_side_by_side():
    before, after = np.zeros((100, 50, 3), np.uint8), np.full((200, 200, 3), 99, np.uint8)
    sheet = strip([before, after], [before, None], height_px=100, gap_px=10)
    assert sheet.shape == (230, 180, 3)
    assert sheet[60, 30].tolist() == [0, 0, 0] and sheet[60, 120].tolist() == [99] * 3
    labelled = strip([before, after], labels=["photo", "toon:7"], row_labels=["me.jpg"], height_px=100)
    assert labelled.shape[1] > sheet.shape[1]
