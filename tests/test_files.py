"""Files and folders appear whole or not at all, and what is unfinished is recognised."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from dualstylegan.errors import DualStyleGANError
from dualstylegan.runtime import files
from dualstylegan.runtime.files import is_temporary, parts_of, sweep, whole_file, whole_folder


def test_an_output_appears_whole_and_makes_its_folder(tmp_path):
    path = tmp_path / "new" / "deep" / "a.bin"
    with whole_file(path) as temporary:
        temporary.write_bytes(b"half")
        assert not path.exists()
        assert is_temporary(temporary)
        assert temporary.suffix == path.suffix
    assert path.read_bytes() == b"half"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old_file_and_no_half_one(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), whole_file(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("a.bin", b"old")]


def test_an_output_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    with whole_file(tmp_path / "ours") as temporary:
        temporary.write_bytes(b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(DualStyleGANError, match=r"Cannot write .*a\.bin"),
        whole_file(tmp_path / "file" / "a.bin") as temporary,
    ):
        temporary.write_bytes(b"x")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_leaves_no_half_file(tmp_path, number, status):
    script = (
        "import sys, time\n"
        "from dsgcli import main\n"
        "from dualstylegan.runtime.files import whole_file\n"
        "@main.app.command()\n"
        "def slow() -> None:\n"
        "    with whole_file('out.bin') as temporary, temporary.open('wb') as file:\n"
        "        file.write(b'half'); file.flush(); print('writing', flush=True); time.sleep(60)\n"
        "sys.exit(main.main(['slow']))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout.readline() == "writing\n"
        began = time.monotonic()
        run.send_signal(number)
        _, said = run.communicate(timeout=30)
    assert run.returncode == status
    assert said in ("dsg: interrupted.\n", "dsg: terminated.\n")
    assert time.monotonic() - began < 10
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_that_cannot_flush_is_written_all_the_same(tmp_path, monkeypatch, number):
    def refuse(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", refuse)
    with whole_file(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"whole")
    with whole_folder(tmp_path / "folder") as temporary:
        (temporary / "a.bin").write_bytes(b"whole")
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "folder" / "a.bin").read_bytes() == b"whole"


def test_a_disk_that_is_full_when_flushed_is_said(tmp_path, monkeypatch):
    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(DualStyleGANError, match="No space left"), whole_file(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"whole")
    assert list(tmp_path.iterdir()) == []


def test_files_are_flushed_by_handles_that_may_write(tmp_path, monkeypatch):
    """Windows refuses to flush what is open for reading only."""
    fcntl = pytest.importorskip("fcntl")
    modes = []
    monkeypatch.setattr(files.os, "fsync", lambda handle: modes.append(fcntl.fcntl(handle, fcntl.F_GETFL)))
    with whole_file(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"whole")
    with whole_folder(tmp_path / "folder") as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "a.bin").write_bytes(b"whole")
    assert [mode & os.O_ACCMODE for mode in modes] == [os.O_RDWR, os.O_RDWR]


@pytest.mark.parametrize("swapping", [True, False])
def test_a_folder_takes_the_place_of_an_older_one(tmp_path, monkeypatch, swapping):
    if not swapping:
        monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    for text in ("old", "new"):
        with whole_folder(tmp_path / "deep" / "folder") as temporary:
            (temporary / f"{text}.txt").write_text(text)
            assert is_temporary(temporary)
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == [
        "deep",
        "deep/folder",
        "deep/folder/new.txt",
    ]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_folder_and_no_half_one(tmp_path, error):
    with whole_folder(tmp_path / "folder") as temporary:
        (temporary / "old.txt").write_text("old")
    with pytest.raises((error, DualStyleGANError)), whole_folder(tmp_path / "folder") as temporary:
        (temporary / "new.txt").write_text("new")
        raise error
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["folder", "old.txt"]


def test_a_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "folder")
    for text in ("old", "new"):
        with whole_folder(tmp_path / "link") as temporary:
            (temporary / f"{text}.txt").write_text(text)
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in sorted((tmp_path / "disk").rglob("*"))] == ["folder", "new.txt"]


def test_what_killed_writers_left_is_swept_and_what_can_be_gone_on_with_is_not(tmp_path):
    with whole_file(tmp_path / "deep" / "a.pt") as file, whole_folder(tmp_path / "style") as folder:
        file.write_bytes(b"half")
        (folder / "a.bin").write_bytes(b"half")
        kept = parts_of(tmp_path / "film.mp4")
        kept.mkdir()
        (tmp_path / "deep" / ".signals").mkdir()  # as earlier versions called them
        (tmp_path / "deep" / ".a.pt.12.tmp").touch()
        assert is_temporary(kept)
        sweep(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == [kept.name, "deep"]
        assert not list((tmp_path / "deep").iterdir())
        assert not file.exists() and not folder.exists()
        file.write_bytes(b"whole")
        folder.mkdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == [kept.name, "deep", "style"]


def test_parts_of_the_longest_names_have_names_of_their_own(tmp_path):
    names = ["a.mp4", "a.mkv", "x" * 251 + ".mp4", "x" * 251 + ".mkv", "\u5199" * 83 + ".mp4"]
    parts = [parts_of(tmp_path / name) for name in names]
    for part in parts:
        part.mkdir()
    assert len(set(parts)) == len(names) and parts == [parts_of(tmp_path / name) for name in names]
