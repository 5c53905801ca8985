"""Inputs are found once each, outputs are where one expects them, and a file is whole or not there."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from conftest import draw_picture

from dualstylegan.errors import UsageError
from dualstylegan.media.images import write_picture
from dualstylegan.media.paths import (
    Source,
    expand_inputs,
    is_complete,
    kind_of,
    output_folder,
    output_path,
    plan_outputs,
)
from dualstylegan.stylize import label_of


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
    assert relatives(".", exclude=output_folder(None)) == ["a.jpg"]
    assert relatives("./*", exclude=output_folder(None)) == ["a.jpg"]
    assert relatives("**/*.jpg", exclude=output_folder(None)) == ["a.jpg"]
    assert relatives("stylized", exclude="stylized") == ["a.jpg", "sub/b.jpg"]  # asked for by name, it is an input


def test_quoted_patterns_are_expanded_and_keep_the_tree_below_their_fixed_part(here):
    touch("p/a.jpg", "p/x/b.jpg", "p/x/y/c.jpg", "p/d.png")
    assert relatives("p/*.jpg") == ["a.jpg"]
    assert relatives("p/**/*.jpg") == ["a.jpg", "x/b.jpg", "x/y/c.jpg"]
    assert relatives("p/x*") == ["x/b.jpg", "x/y/c.jpg"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(here):
    touch("a[1].jpg", "a1.jpg")
    assert relatives("a[1].jpg") == ["a[1].jpg"]


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
    sources = expand_inputs(["a.jpg", "missing.jpg", "broken.jpg", "*.gif"])
    assert [source.path.name for source in sources if source.problem is None] == ["a.jpg"]
    assert {source.path.name: source.problem for source in sources if source.problem} == {
        "missing.jpg": "no such file",
        "broken.jpg": "a link that leads nowhere",
        "*.gif": "no file matches this pattern",
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


def test_without_an_output_results_go_to_stylized_in_the_current_folder():
    assert output_path(None, source("/far/p/x/a.jpg", "x/a.jpg")) == Path("stylized/x/a.jpg")
    assert output_path(None, source("a.jpg"), suffix=".png", default="faces") == Path("faces/a.png")


def test_several_styles_put_their_names_before_the_extension():
    photo = source("p/a.b.jpg", "x/a.b.jpg")
    path = output_path("out", photo, style="toon", style_id="7", several_styles=True)
    assert path == Path("out/x/a.b.toon-7.jpg")
    assert output_path("out", photo, style="toon", style_id="7") == Path("out/x/a.b.jpg")
    assert output_path("one.png", photo, style="toon", several_styles=True) == Path("one.toon.png")


@pytest.mark.parametrize(
    ("style_id", "label"),
    [("portraits/me.jpg", "me"), ("42*0.7+17*0.3", "42x0.7+17x0.3"), ("../../etc/x", ".._.._etc_x")],
)
def test_style_ids_are_safe_in_file_names(style_id, label):
    path = output_path("out", source("a.jpg"), style="toon", style_id=style_id, several_styles=True)
    assert path == Path(f"out/a.toon-{label}.jpg")


@pytest.mark.parametrize(
    ("style", "label"),
    [
        ("toon:7", ("toon", "7")),
        ("runs/oils/style:7", ("oils", "7")),
        ("my/oils", ("oils", None)),
        ("style", ("style", None)),
    ],
)
def test_a_style_given_by_its_place_is_called_by_its_folder_or_its_run(style, label):
    assert label_of(style) == label


def test_a_template_names_every_part():
    photo = source("p/x/a.jpg", "x/a.jpg")
    path = output_path("out/{parent}/{stem}_{style}_{id}.{ext}", photo, style="toon", style_id="7")
    assert path == Path("out/x/a_toon_7.jpg")


@pytest.mark.parametrize("template", ["out/{stm}.jpg", "out/{stem", "out/{}.jpg", "out/{stem.jpg}", "{0}"])
def test_a_template_with_a_mistake_is_wrong_usage(template):
    with pytest.raises(UsageError, match="-o"):
        output_path(template, source("a.jpg"))


def test_a_folder_with_a_dot_in_its_name_is_a_folder(here):
    Path("out.jpg").mkdir()
    assert output_path("out.jpg", source("a.jpg")) == Path("out.jpg/a.jpg")
    assert output_path("v1.0", source("a.jpg")) == Path("v1.0/a.jpg")
    assert output_path("new.jpg/", source("a.jpg")) == Path("new.jpg/a.jpg")


@pytest.mark.parametrize("out", [".", "a.jpg", "./{stem}.{ext}", "link"])
def test_a_source_is_never_overwritten(here, out):
    touch("a.jpg")
    Path("link").symlink_to(".")
    with pytest.raises(UsageError, match="overwrite"):
        output_path(out, source("a.jpg"))


def test_no_result_overwrites_another_source(here):
    touch("p/b.jpg", "b.jpg")
    with pytest.raises(UsageError, match="overwrite a source"):
        plan_outputs("{stem}.jpg", [source("p/b.jpg"), source("b.jpg", "c.jpg")])


def test_two_results_of_one_name_are_found_before_any_work():
    with pytest.raises(UsageError, match=r"p/a.jpg and q/a.jpg would both become out/a.jpg"):
        plan_outputs("out", [source("p/a.jpg"), source("q/a.jpg")])
    with pytest.raises(UsageError, match=r"p/a.jpg and p/a.png would both become out/a.png. Give them to two runs"):
        plan_outputs("out", [source("p/a.jpg"), source("p/a.png")], suffix=".png")
    with pytest.raises(UsageError, match=r"\{style\}-\{id\}"):
        plan_outputs("out/{stem}.{ext}", [source("p/a.jpg")], [("toon", "1"), ("toon", "2")])


def test_one_file_name_for_several_inputs_is_wrong_usage():
    with pytest.raises(UsageError, match="2 inputs"):
        plan_outputs("out.jpg", [source("p/a.jpg"), source("q/b.jpg")])


def test_a_plan_has_a_row_per_source_and_a_path_per_style():
    rows = plan_outputs(None, [source("p/a.jpg"), source("p/b.png")], [("toon", "1"), ("anime", None)])
    assert rows == [
        [Path("stylized/a.toon-1.jpg"), Path("stylized/a.anime.jpg")],
        [Path("stylized/b.toon-1.png"), Path("stylized/b.anime.png")],
    ]


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
