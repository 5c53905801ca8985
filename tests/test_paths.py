"""Inputs are found once each, outputs are where one expects them, and a file is whole or not there."""

from __future__ import annotations

import codecs
import io
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_picture
from PIL import ExifTags, Image

from dualstylegan.errors import UsageError
from dualstylegan.media import plan as plan_module
from dualstylegan.media.images import write_picture
from dualstylegan.media.mark import is_marked
from dualstylegan.media.paths import (
    PassedOver,
    Source,
    expand_inputs,
    is_complete,
    kind_of,
)
from dualstylegan.media.plan import Destination, Plan, ignores_case, shortened
from dualstylegan.models.codes import distinct_labels, parse_style


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"x")


def relatives(*inputs, **options) -> list[str]:
    return [source.relative.as_posix() for source in expand_inputs(inputs, **options)]


# Inputs


def test_a_folder_is_searched_recursively_and_its_tree_is_kept(here):
    touch("photos/b.jpg", "photos/a.PNG", "photos/2020/may/c.webp", "photos/clip.mp4", "photos/notes.txt")
    assert relatives("photos") == ["a.PNG", "b.jpg", "clip.mp4", "2020/may/c.webp"]
    assert relatives("photos", kinds=["picture"]) == ["a.PNG", "b.jpg", "2020/may/c.webp"]


def test_hidden_and_temporary_files_are_passed_over(here):
    touch("p/a.jpg", "p/._a.jpg", "p/.hidden/b.jpg", "p/c.jpg~", "p/~$d.jpg", "p/.dsg-tmp-12ab.jpg")
    assert relatives("p") == ["a.jpg"]


def test_a_file_named_outright_is_taken_whatever_its_suffix(here):
    touch("p/photo.data", "p/.hidden.jpg")
    assert relatives("p/photo.data", "p/.hidden.jpg") == ["photo.data", ".hidden.jpg"]


def test_our_own_output_folder_inside_the_input_is_not_read(here):
    touch("a.jpg", "stylized/a.jpg", "stylized/sub/b.jpg")
    assert relatives(".", exclude="stylized") == ["a.jpg"]
    assert relatives("./*", exclude="stylized") == ["a.jpg"]
    assert relatives("**/*.jpg", exclude="stylized") == ["a.jpg"]
    assert relatives("stylized", exclude="stylized") == ["a.jpg", "sub/b.jpg"]  # asked for by name, it is an input


def test_quoted_patterns_are_expanded_and_keep_the_tree_below_their_fixed_part(here):
    touch("p/a.jpg", "p/x/b.jpg", "p/x/y/c.jpg", "p/d.png")
    assert relatives("p/*.jpg") == ["a.jpg"]
    assert relatives("p/**/*.jpg") == ["a.jpg", "x/b.jpg", "x/y/c.jpg"]
    assert relatives("p/x*") == ["x/b.jpg", "x/y/c.jpg"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(here):
    touch("a[1].jpg", "a1.jpg")
    assert relatives("a[1].jpg") == ["a[1].jpg"]


def test_an_output_folder_that_was_named_or_lies_above_is_searched(here):
    touch("p/a.jpg", "p/sub/b.jpg", "stylized/sub/c.jpg", "stylized/sub/deep/d.jpg")
    assert relatives("p", exclude=".") == ["a.jpg", "sub/b.jpg"]
    assert relatives("stylized/sub", exclude="stylized") == ["c.jpg", "deep/d.jpg"]


def test_what_dsg_has_made_is_passed_over_where_photos_are(here):
    touch("p/a.jpg", "p/notes.txt", "p/IMG.HEIC")
    write_picture("p/old.png", draw_picture())
    write_picture("p/results/b.jpg", draw_picture())
    passed_over = PassedOver()
    found = expand_inputs(["p"], is_ours=is_marked, passed_over=passed_over)
    assert [one.path.name for one in found] == ["a.jpg"]
    line = passed_over.line()
    assert "1 .txt" in line and "1 .heic" in line and "2 that dsg made" in line and "pillow-heif" in line
    assert [one.path.name for one in expand_inputs(["p/results"], is_ours=is_marked)] == ["b.jpg"], "nothing else there"
    assert len(expand_inputs(["p", "p/old.png"], is_ours=is_marked)) == 2, "named"


@pytest.mark.parametrize(
    "suffix", [".jpg", ".png", ".webp", ".tif", ".gif", ".avif", ".bmp", ".tga", ".jp2", ".ppm", ".pgm"]
)
def test_pictures_of_dsg_bear_its_mark(here, suffix):
    drawn = draw_picture()
    write_picture(f"a{suffix}", drawn)
    Image.fromarray(np.asarray(drawn)).save(f"b{suffix}")
    assert is_marked(f"a{suffix}") and not is_marked(f"b{suffix}") and not is_marked(f"missing{suffix}")
    assert is_complete(f"a{suffix}")
    if suffix in (".bmp", ".tga", ".ppm"):
        assert np.array_equal(np.asarray(Image.open(f"a{suffix}")), np.asarray(drawn)), "as it was"


def test_folders_yield_regular_files_only(here):
    touch("p/a.jpg")
    os.mkfifo("p/pipe.jpg")
    Path("p/link to a pipe.jpg").symlink_to("pipe.jpg")
    Path("p/link to a device.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("p/socket.jpg")
        assert relatives("p") == relatives("p/*") == ["a.jpg"]


def test_an_empty_name_is_no_input(here):
    touch("a.jpg")
    for wrong in ([""], ["a.jpg", " "]):
        with pytest.raises(UsageError, match="empty"):
            expand_inputs(wrong)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_lists_as_editors_of_windows_write_them(here, encoding):
    touch("p/a.jpg", "p/ü 肖.jpg")
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"")
    listing = mark + "p/a.jpg\r\np/ü 肖.jpg\r\n".encode(encoding)
    assert relatives("-", stdin=io.BytesIO(listing)) == ["p/a.jpg", "p/ü 肖.jpg"]


@pytest.mark.parametrize("separator", ["\n", "\0", "\r\n"])
def test_a_list_on_stdin_is_read_and_keeps_its_tree(here, separator):
    touch("p/a b.jpg", "p/x/ü.jpg")
    listing = separator.join(["./p/a b.jpg", "p/x/ü.jpg", ""]).encode()
    assert relatives("-", stdin=io.BytesIO(listing)) == ["p/a b.jpg", "p/x/ü.jpg"]


def test_names_on_stdin_from_elsewhere_keep_their_name_only(here):
    touch("p/a.jpg")
    assert relatives("-", stdin=io.BytesIO(str(here / "p/a.jpg").encode())) == ["a.jpg"]


def test_each_file_counts_once_however_it_is_named(here):
    touch("p/a.jpg")
    Path("link.jpg").symlink_to("p/a.jpg")
    assert len(expand_inputs(["p", "p/a.jpg", "./p/../p/a.jpg", "p/*.jpg", "link.jpg"])) == 1


def test_a_circle_of_links_ends(here):
    touch("p/a.jpg")
    Path("p/again").symlink_to("../p", target_is_directory=True)
    assert relatives("p") == ["a.jpg"]


def test_what_cannot_be_used_is_reported_and_the_others_go_on(here):
    touch("a.jpg")
    Path("broken.jpg").symlink_to("nowhere.jpg")
    too_long = "x" * 300 + ".jpg"
    sources = expand_inputs(["a.jpg", "missing.jpg", "broken.jpg", "*.gif", too_long, "a.jpg/b.jpg"])
    assert [source.path.name for source in sources if source.problem is None] == ["a.jpg"]
    assert {source.path.name: source.problem for source in sources if source.problem} == {
        "missing.jpg": "no such file",
        "broken.jpg": "a link that leads nowhere",
        "*.gif": "no file matches this pattern",
        too_long: "File name too long",
        "b.jpg": "no such file",
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_reported(here):
    touch("p/a.jpg", "p/closed/b.jpg")
    Path("p/closed").chmod(0)
    try:
        sources = expand_inputs(["p"])
    finally:
        Path("p/closed").chmod(0o755)
    assert [source.problem is None for source in sources] == [True, False]


def test_inputs_that_name_nothing_are_wrong_usage(here):
    Path("empty").mkdir()
    with pytest.raises(UsageError, match="No pictures or films in empty"):
        expand_inputs(["empty"])
    with pytest.raises(UsageError, match="stdin"):
        expand_inputs(["-"], stdin=io.BytesIO(b""))


def test_kinds_are_told_by_suffix():
    assert [kind_of(name) for name in ("a.JPG", "b.MOV", "c.txt")] == ["picture", "film", "unknown"]


# Outputs


def source(path: str, relative: str | None = None) -> Source:
    return Source(Path(path), Path(relative or Path(path).name))


def outputs(out, *sources: Source, labels=((None, None),), **options) -> list[list[str]]:
    plan = Plan([one.path for one in sources])
    return [[path.as_posix() for path in row] for row in plan.results(Destination.of(out), sources, labels, **options)]


def labels_of(styles: list[str]) -> list:
    return distinct_labels([parse_style(style) for style in styles])


def one_output(out, photo: Source, label=(None, None), **options) -> str:
    return outputs(out, photo, labels=[label], **options)[0][0]


def test_without_an_output_results_go_to_stylized_in_the_current_folder(here):
    assert one_output(None, source("/far/p/x/a.jpg", "x/a.jpg")) == "stylized/x/a.jpg"


def test_several_styles_put_their_names_before_the_extension(here):
    photo, two = source("p/a.b.jpg", "x/a.b.jpg"), [("toon", "7"), ("toon", None)]
    assert outputs("out", photo, labels=two) == [["out/x/a.b.toon-7.jpg", "out/x/a.b.toon.jpg"]]
    assert one_output("out", photo, ("toon", "7")) == "out/x/a.b.jpg"
    assert outputs("one.png", photo, labels=two) == [["one.toon-7.png", "one.toon.png"]]


@pytest.mark.parametrize(
    ("style", "label"),
    [
        ("toon:7", ("toon", "7")),
        ("toon:portraits/me.jpg", ("toon", "me")),
        ("toon:../../etc/x", ("toon", "x")),
        ("toon:x y.png", ("toon", "x_y")),
        ("anime:42*.7+anime:17*.3", ("anime", "42x0.7+17x0.3")),
        ("runs/oils/style:7", ("oils", "7")),
        ("my/oils", ("oils", None)),
        ("style", ("style", None)),
    ],
)
def test_a_style_given_by_its_place_is_called_by_its_folder_or_its_run(here, style, label):
    Path("runs/oils/style").mkdir(parents=True), Path("my/oils").mkdir(parents=True)
    assert labels_of([style]) == [label]


def test_styles_of_one_name_get_names_that_stay_apart(here):
    for folder in ("x", "y"):
        touch(f"{folder}/me.jpg", f"{folder}/me.png")
    labels = labels_of(["toon:x/me.jpg", "toon:y/me.jpg", "toon:4"])
    assert labels == [("toon", "x_me"), ("toon", "y_me"), ("toon", "4")]
    assert labels_of(["toon:y/me.jpg", "toon:x/me.jpg"]) == labels[1::-1], "whatever their order"
    assert labels_of(["toon:x/me.jpg", "toon:x/me.png"]) == [("toon", "x_me.jpg"), ("toon", "x_me.png")]
    assert len(set(labels_of(["toon:ada", "toon:ada ", "toon:ada.png", "toon:a*.5+toon:b*.5"]))) == 4


def test_a_template_names_every_part(here):
    photo = source("p/x/a.jpg", "x/a.jpg")
    assert one_output("out/{parent}/{stem}_{style}_{id}.{ext}", photo, ("toon", "7")) == "out/x/a_toon_7.jpg"


@pytest.mark.parametrize(
    "out",
    ["out/{stm}.jpg", "out/{stem", "out/{}.jpg", "out/{stem.jpg}", "{0}", "{id:03d}.jpg", "{stem!r}.png", "{stem:>9}",
     "", " ", "-", "file.txt", "file.txt/out", "file.txt/{stem}.png", "broken", "n" * 300, "n" * 300 + "/{stem}.png"],
)  # fmt: skip
def test_an_output_that_cannot_be_is_wrong_usage(here, out):
    touch("file.txt")
    Path("broken").symlink_to("nowhere")
    with pytest.raises(UsageError, match="-o"):
        Destination.of(out)


def test_a_folder_with_a_dot_in_its_name_is_a_folder(here):
    Path("out.jpg").mkdir()
    assert one_output("out.jpg", source("a.jpg")) == "out.jpg/a.jpg"
    assert one_output("v1.0", source("a.jpg")) == "v1.0/a.jpg"
    assert one_output("new.jpg/", source("a.jpg")) == "new.jpg/a.jpg"


def test_the_suffix_of_a_picture_or_film_makes_no_folder():
    for name in ("x.heic", "x.pdf", "x.mxf", "x.svg", "x.png", "x.mp4"):
        assert Destination.of(name).file == Path(name)


@pytest.mark.parametrize("out", [".", "a.jpg", "./{stem}.{ext}", "link", "../{here}/{stem}.jpg"])
def test_a_source_is_never_overwritten(here, out):
    touch("a.jpg")
    Path("link").symlink_to(".")
    with pytest.raises(UsageError, match="overwrite"):
        one_output(out.replace("{here}", here.name), source("a.jpg"))


def test_no_result_overwrites_another_source(here):
    touch("p/b.jpg", "b.jpg")
    with pytest.raises(UsageError, match="overwrite a source"):
        outputs("{stem}.jpg", source("p/b.jpg"), source("b.jpg", "c.jpg"))


def test_a_result_beside_the_sources_overwrites_only_what_dsg_has_made(here):
    touch("a.gif")
    Path("a.png").write_bytes(b"another photo")
    with pytest.raises(UsageError, match=r"a.png would be overwritten, and dsg did not make it"):
        one_output(".", source("a.gif"), suffix=".png")
    assert one_output("out", source("a.gif"), suffix=".png") == "out/a.png"
    assert one_output(".", source("a.gif"), suffix=".png", stays=lambda path: True) == "a.png"
    write_picture("a.png", draw_picture())
    assert one_output(".", source("a.gif"), suffix=".png") == "a.png"
    Path("a.toon-7.gif").write_bytes(b"of an older dsg")
    assert one_output("{stem}.{style}-{id}.{ext}", source("a.gif"), ("toon", "7")) == "a.toon-7.gif", "so called"


def test_what_dsg_has_not_made_is_overwritten_nowhere_unless_named(here):
    touch("p/a.jpg", "out/x.txt")
    Image.fromarray(draw_picture()).save("out/a.jpg")
    for out in ("out", "out/{stem}.{ext}"):
        with pytest.raises(UsageError, match=r"out/a.jpg would be overwritten, and dsg did not make it"):
            one_output(out, source("p/a.jpg"))
    assert one_output("out/a.jpg", source("p/a.jpg")) == "out/a.jpg", "named"
    Path("out/a.jpg").write_bytes(Path("out/a.jpg").read_bytes()[:50])
    assert one_output("out", source("p/a.jpg")) == "out/a.jpg", "a full disk has cut it"
    write_picture("out/a.jpg", draw_picture())
    assert one_output("out", source("p/a.jpg")) == "out/a.jpg"
    Path("out/a.jpg").write_bytes(Path("p/a.jpg").read_bytes())
    assert one_output("out", source("p/a.jpg")) == "out/a.jpg", "a copy"


def test_a_folder_in_a_result_s_place_is_said_before_work(here):
    touch("p/a.jpg", "out/a.jpg/x.txt", "faces.json/x.txt")
    with pytest.raises(UsageError, match=r"out/a.jpg is a folder"):
        one_output("out", source("p/a.jpg"))
    with pytest.raises(UsageError, match=r"the list of faces faces.json is a folder"):
        Plan().add("faces.json", "the list of faces")


def test_results_of_one_name_stay_apart_whatever_the_order(here):
    clashing = [source("p/a.gif"), source("p/a.jpg"), source("p/a.png"), source("p/a.gif.png"), source("p/b.bmp")]
    wanted = {"a.gif": "a.gif_2", "a.jpg": "a.jpg", "a.png": "a", "a.gif.png": "a.gif", "b.bmp": "b"}
    wanted["a.gif"] = "a_2"  # a.gif.png is taken by the picture of that name
    for order in (clashing, clashing[::-1]):
        for out in ("out", "out/{stem}.{ext}"):
            rows = outputs(out, *order, suffix=".png")
            assert {one.path.name: row[0] for one, row in zip(order, rows, strict=True)} == {
                name: f"out/{stem}.png" for name, stem in wanted.items()
            }
    films = outputs("out", source("t.mpg"), source("t.mkv"), suffix=".mkv")
    assert films == [["out/t.mpg.mkv"], ["out/t.mkv"]]


def test_names_go_by_what_the_file_system_takes_for_the_same(here, monkeypatch):
    two = source("p/a.jpg"), source("q/A.JPG")
    assert outputs("out", *two) == [["out/a.jpg"], ["out/A.JPG"]]
    monkeypatch.setattr(plan_module, "ignores_case", lambda folder: True)
    assert len({row[0].lower() for row in outputs("out", *two)}) == 2
    touch("a.png")
    with pytest.raises(UsageError, match="overwrite"):
        one_output("A.PNG", source("a.png"))


def test_case_is_asked_of_the_file_system(here):
    Path("folder").mkdir()
    touch("folder/Ab")
    assert ignores_case("folder") == Path("folder/aB").exists()
    Path("folder/Ab").unlink()
    assert ignores_case(str(here / "folder")) == (here / "FOLDER").exists()


def test_results_that_cannot_be_told_apart_are_refused_before_any_work(here):
    with pytest.raises(UsageError, match=r"p/a.jpg and p/b.jpg would both become out/x.png. Use .*\{stem\}"):
        outputs("out/x.{ext}", source("p/a.jpg"), source("p/b.jpg"), suffix=".png")
    with pytest.raises(UsageError, match=r"\{style\}-\{id\}"):
        outputs("out/{stem}.{ext}", source("p/a.jpg"), labels=[("toon", "1"), ("toon", "2")])


def test_files_of_one_name_keep_the_folders_that_were_named(here):
    touch("x/me.jpg", "y/me.jpg", "x/you.jpg", "z/other.jpg")
    assert relatives("x/me.jpg", "y/me.jpg", "x/you.jpg", "z/other.jpg") == [
        "x/me.jpg", "y/me.jpg", "x/you.jpg", "other.jpg"
    ]  # fmt: skip
    touch("a/2020/b.jpg", "c/2020/b.jpg")
    assert relatives("a", "c") == ["a/2020/b.jpg", "c/2020/b.jpg"]


def test_one_file_name_for_several_inputs_is_wrong_usage(here):
    with pytest.raises(UsageError, match="2 inputs"):
        outputs("out.jpg", source("p/a.jpg"), source("q/b.jpg"))


def test_numbered_names_pass_over_what_others_get(here):
    two = source("a.png"), source("a-2.png")
    plan = Plan([one.path for one in two])
    (first,), (second,) = plan.results(Destination.of("out"), two)
    made = plan.numbered(first, 3) + plan.numbered(second, 2)
    assert [path.name for path in made] == ["a.png", "a-3.png", "a-4.png", "a-2.png", "a-2-2.png"]
    Path("out").mkdir()  # what is planned stays planned when folders are made
    assert plan.numbered(first, 2)[1].name == "a-3.png"


def test_a_sheet_and_its_pages_overwrite_nothing(here):
    touch("a.png", "s-2.png")
    plan = Plan(["a.png", "s-2.png"])
    plan.results(Destination.of("out"), [source("a.png")])
    for sheet, pages, processes in (("a.png", 1, 1), ("./a.png", 1, 1), ("out/a.png", 1, 1), ("s.png", 2, 1)):
        with pytest.raises(UsageError, match="the sheet"):
            plan.pages(sheet, pages, processes)
    plan.pages("t.png", 3, 2)
    assert plan.writes("t.rank1-3.png") and not plan.writes("t-4.png")


@pytest.mark.parametrize("letter", ["a", "é", "肖"])
def test_a_name_too_long_is_shortened_and_stays_its_own(letter):
    names = [letter * 300 + end + ".jpg" for end in ("x", "y")]
    short = [shortened(name) for name in names]
    assert all(200 < len(name.encode()) <= 255 and name.endswith(".jpg") for name in short)
    assert len(set(short)) == 2 and short == [shortened(name) for name in names]
    assert shortened("short.jpg") == "short.jpg"
    assert shortened(names[0], kept=f".{letter * 200}.jpg").endswith(".jpg"), "so is what is to be kept"


def test_long_names_are_written(here):
    name = "肖" * 83 + ".png"  # 253 bytes
    touch(name)
    plan = Plan([name])
    row = plan.results(Destination.of("out"), [source(name)], [("toon", "7"), ("toon", "8")])[0]
    for path in (*row, *plan.numbered(row[0], 3)):
        write_picture(path, draw_picture())
    assert len(list(Path("out").iterdir())) == 4


# What is complete


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".gif", ".bmp", ".avif"])
def test_only_complete_pictures_are_trusted(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_picture(path, draw_picture())
    assert is_complete(path)
    whole = path.read_bytes()
    for kept in (0, 10, len(whole) // 2, len(whole) - 20):
        path.write_bytes(whole[:kept])
        assert not is_complete(path)
    path.write_bytes(b"something else")
    assert not is_complete(path)
    assert not is_complete(tmp_path / f"missing{suffix}")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif"])
@pytest.mark.parametrize("progressive", [False, True])
def test_what_follows_a_picture_makes_it_no_less_complete(tmp_path, suffix, progressive):
    picture = Image.fromarray(draw_picture())
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "\xff\xd8 a thumbnail \xff\xd9"
    extra = {"exif": exif, "progressive": progressive} if suffix == ".jpg" else {}
    picture.save(tmp_path / f"x{suffix}", **extra)
    whole = (tmp_path / f"x{suffix}").read_bytes()
    film = b"\0" * 20 if suffix == ".gif" else b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 40
    (tmp_path / f"motion{suffix}").write_bytes(whole + film)
    assert is_complete(tmp_path / f"motion{suffix}")
    for kept in (len(whole) - 3, len(whole) * 2 // 3, 300):
        (tmp_path / f"cut{suffix}").write_bytes(whole[:kept])
        assert not is_complete(tmp_path / f"cut{suffix}")


def test_only_complete_films_are_trusted(tmp_path):
    def box(name: bytes, size: int) -> bytes:
        return (8 + size).to_bytes(4, "big") + name + b"\0" * size

    path = tmp_path / "a.mp4"
    whole = box(b"ftyp", 16) + box(b"mdat", 1000) + box(b"moov", 100)
    path.write_bytes(whole)
    assert is_complete(path)
    for kept in (whole[:-1], whole[:500], whole[:-108]):  # cut in a box, and before the index
        path.write_bytes(kept)
        assert not is_complete(path)


def test_what_a_killed_run_left_is_never_complete(tmp_path):
    path = tmp_path / ".dsg-tmp-12ab.jpg"
    write_picture(tmp_path / "a.jpg", draw_picture())
    (tmp_path / "a.jpg").rename(path)
    assert not is_complete(path)
