"""A style's name is resolved once, where it enters: names, kinds and exemplars, before anything is read or fetched."""

from __future__ import annotations

import hashlib
import json

import pytest
from test_zoo import CONTENT, SHA256, add, fetch, gets, home, on_hub, server
from tiny_style import NAMES, tiny_style

from dsgcli.main import main
from dualstylegan.errors import BadFileError, DownloadError
from dualstylegan.models import cache, library
from dualstylegan.models.fetch import lock_file
from dualstylegan.models.library import Library

__all__ = ["home", "server"]


@pytest.fixture
def toon(tmp_path, monkeypatch):
    """The embedded style `toon` on the embedded base `base0`; a portrait `me.png` lies in the working folder."""
    monkeypatch.setattr(cache, "EMBEDDED", tmp_path / "weights")
    monkeypatch.setenv("DSG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me.png").touch()
    return tiny_style(tmp_path / "weights", "toon", default_exemplar=NAMES[2])


def test_a_found_style_knows_its_folder_its_base_and_its_exemplars_and_reads_no_tensor(toon, monkeypatch):
    monkeypatch.setattr("dualstylegan.models.bundle.load_file", None)
    found = library.find("toon:0*.75+toon:me.png*.25")
    assert (found.name, found.folder, found.base_folder) == ("toon", toon, toon.parent / "base0")
    assert [(one.number, one.weight) for one in found.exemplars] == [(0, 0.75), (None, 0.25)]
    assert found.exemplars[1].picture.name == "me.png"
    assert library.find("toon").exemplars[0].label == f"2 ({NAMES[2]})"  # its default


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("tooon:0", "No style 'tooon'. Did you mean 'toon'?"),
        ("base0", "base0 is a base, not a style; 'dsg styles' lists styles."),
        ("toon:3", "No exemplar 3 in style 'toon'. It has 3, numbered 0 to 2"),
        ("toon:bae.png", "Did you mean 'bea.png'?"),
        ("toon:0*.5+toon:9*.5", "No exemplar 9 in style 'toon'"),
        ("cartoon:317", "No exemplar 317 in style 'cartoon'. It has 317"),  # not here: its number alone is known
    ],
)
@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_what_is_not_there_is_refused_in_one_line_by_a_dry_run_too(toon, capsys, text, line, dry_run):
    assert main(["stylize", "me.png", "--style", text, *dry_run]) == 2
    told = capsys.readouterr()
    assert line in told.err and told.err.count("\n") == 1 and told.out == ""


def test_a_style_without_its_base_is_said_before_any_work(toon):
    (toon.parent / "base0" / "header.json").unlink()
    with pytest.raises(BadFileError, match="The base model 'base0'"):
        library.find("toon")


def test_a_style_that_is_yet_to_come_is_found_without_its_exemplars(toon):
    found = library.find("cartoon:316")
    assert (found.name, found.folder, found.exemplars) == ("cartoon", None, ())


def test_a_library_reads_a_style_and_a_base_once(toon):
    tiny_style(toon.parent, "other")
    models = Library()
    first, again, other = (models.style(library.find(text)) for text in ("toon:0", "toon:1", "other"))
    assert again is first
    assert other is not first and other.encoder is first.encoder and other.model.generator is first.model.generator


# What came first, and what comes later


def test_a_download_is_remembered_as_it_came_first(home, server, monkeypatch):
    on_hub(monkeypatch)
    fetch("thing")
    seen = json.loads(lock_file().read_text())
    assert lock_file() == home / "downloads" / "lock.json"
    (key,) = seen
    assert key == "thing/file.bin"
    assert seen[key].pop("first").count("-") == 2
    assert seen[key] == {
        "sha256": SHA256,
        "size": len(CONTENT),
        "url": f"{server.url}/CVPR/DualStyleGAN/resolve/main/models/file.bin",
        "etag": SHA256,
        "commit": "c0ffee" * 6 + "cafe",
    }


def changed_on_the_hub(home, server):
    """The file has come once, its style was removed, and the hub has another file now."""
    fetch("thing")
    (home / "downloads" / "thing" / "file.bin").unlink()
    server.content = CONTENT[::-1]
    server.etag = hashlib.sha256(server.content).hexdigest()
    server.requests.clear()


def test_a_file_that_changed_since_it_first_came_is_refused_before_it_comes_and_stays_refused(
    home, server, monkeypatch
):
    on_hub(monkeypatch)
    changed_on_the_hub(home, server)
    for _ in range(2):
        with pytest.raises(DownloadError, match=r"has changed since it first came on .*--accept-changed") as raised:
            fetch("thing")
        assert "\n" not in str(raised.value)
    assert not gets(server)
    assert json.loads(lock_file().read_text())["thing/file.bin"]["sha256"] == SHA256


def test_a_change_that_is_accepted_is_what_counts_from_then_on(home, server, monkeypatch):
    on_hub(monkeypatch)
    changed_on_the_hub(home, server)
    assert fetch("thing", accept_changed=True).read_bytes() == CONTENT[::-1]
    (home / "downloads" / "thing" / "file.bin").unlink()
    assert fetch("thing").read_bytes() == CONTENT[::-1]
    server.content, server.etag = CONTENT, SHA256
    (home / "downloads" / "thing" / "file.bin").unlink()
    with pytest.raises(DownloadError, match="has changed"):
        fetch("thing")


def test_a_pinned_hash_is_not_for_anybody_to_accept_away(home, server, monkeypatch):
    on_hub(monkeypatch, SHA256)
    changed_on_the_hub(home, server)
    with pytest.raises(DownloadError, match="no longer the file the zoo knows"):
        fetch("thing", accept_changed=True)


def test_of_a_mirror_with_eight_published_digits_the_whole_hash_counts_the_second_time(home, server, monkeypatch):
    add(monkeypatch, sha256=SHA256[:8], mirrors=(f"{server.url}/file.bin",))
    fetch("thing")
    lock = json.loads(lock_file().read_text())
    lock["thing/file.bin"]["sha256"] = SHA256[:8] + "0" * 56  # another file that begins alike
    lock_file().write_text(json.dumps(lock))
    (home / "downloads" / "thing" / "file.bin").unlink()
    with pytest.raises(DownloadError, match="wrong hash"):
        fetch("thing")


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_lock_file_costs_its_memory_and_no_more(home, server, monkeypatch, text):
    on_hub(monkeypatch)
    lock_file().parent.mkdir(parents=True)
    lock_file().write_text(text)
    fetch("thing")
    assert json.loads(lock_file().read_text())["thing/file.bin"]["sha256"] == SHA256
    assert not [path for path in lock_file().parent.iterdir() if "tmp" in path.name]
