"""Where people run it: closed streams, full disks, hang-ups, homes that are none. The status is right all the same."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launched import Launched

from dsgcli.main import main

COMMAND = f"{sys.executable} -m dsgcli"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="shells of Unix")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


def shell(line: str) -> tuple[int, str, str]:
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_closed_stream_changes_no_status(closed):
    for command, expected in (("styles", 0), ("stylize - -s painting:7 --dry-run" if "<" in closed else "nosuch", 2)):
        status, out, errors = shell(f"{COMMAND} {command} {closed}")
        assert status == expected, (command, errors)
        assert "Traceback" not in errors and len(errors.splitlines()) <= 1
        assert ("painting" in out) == (command.startswith("styles") and ">&- " not in f"{closed} ".replace("2>&-", ""))


def test_no_file_of_ours_gets_the_number_of_a_closed_stream():
    """What is opened next would have it, and what libraries print would go there."""
    script = (
        "import os, sys\n"
        "from dsgcli import main\n"
        "@main.app.command()\n"
        "def opens() -> None:\n"
        "    with open('result.bin', 'wb') as file:\n"
        "        file.write(str(file.fileno()).encode())\n"
        "        os.write(2, b'noise of a library')\n"
        "sys.exit(main.main(['opens']))\n"
    )
    Path("command.py").write_text(script)
    assert shell(f"{sys.executable} command.py >&- 2>&-")[0] == 0
    assert int(Path("result.bin").read_bytes()) > 2


@pytest.mark.parametrize("more", ["", " --json"])
def test_an_answer_that_finds_no_room_is_a_failure(more):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no full device")
    status, _, errors = shell(f"{COMMAND} styles{more} > /dev/full")
    assert (status, errors) == (1, "dsg: Output: No space left on device.\n")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str
)
def test_a_pipe_that_nobody_writes_to_ends_with_the_signal(number, status):
    os.mkfifo("pipe.jpg")
    run = Launched(["-m", "dsgcli", "stylize", "pipe.jpg", "-s", "painting:7"])
    writer = _once_it_is_read("pipe.jpg")
    time.sleep(0.2)
    run.send_signal(number)
    _, said = run.communicate(timeout=60)
    os.close(writer)
    assert run.returncode == status
    assert said in ("dsg: interrupted.\n", "dsg: terminated.\n")


def _once_it_is_read(pipe: str) -> int:
    """The pipe, open for writing, as soon as somebody waits for what it says."""
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody has opened it yet
            time.sleep(0.05)


def test_what_comes_through_a_pipe_is_a_picture_like_others(tmp_path):
    photo = Path(__file__).parent / "data" / "photos" / "congress_A000371.jpg"
    os.mkfifo("pipe.jpg")
    with subprocess.Popen(["/bin/sh", "-c", f"cat {photo} > pipe.jpg"]):
        assert main(["align", "pipe.jpg", "--size", "64"]) == 0
    assert Path("faces/pipe.png").is_file()


def test_what_ignores_a_hang_up_goes_on():
    script = (
        "import signal, sys\n"
        "from dsgcli import main\n"
        "@main.app.command()\n"
        "def lasting() -> None:\n"
        "    signal.raise_signal(signal.SIGHUP); print('went on')\n"
        "sys.exit(main.main(['lasting']))\n"
    )
    Path("command.py").write_text(script)
    assert shell(f"{sys.executable} command.py")[0] == 129
    assert shell(f"trap '' HUP; exec {sys.executable} command.py")[:2] == (0, "went on\n")


def test_offline_is_for_its_own_command_only(monkeypatch):
    for before in (None, "0"):
        monkeypatch.delenv("DSG_OFFLINE", raising=False)
        if before:
            monkeypatch.setenv("DSG_OFFLINE", before)
        for arguments in (["styles", "pull", "cartoon", "--offline"], ["stylize", "--offline", "--nosuch"]):
            monkeypatch.setenv("DSG_HOME", str(Path("home").absolute()))
            assert main(arguments) != 0
            assert os.environ.get("DSG_OFFLINE") == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["stylize", "~nobody-here/*.jpg", "-s", "painting:7"],
        ["stylize", "x.jpg", "-s", "~nobody-here/style:7"],
        ["stylize", "x.jpg", "-s", "painting:~nobody-here/me.jpg"],
        ["train", "~nobody-here/recipe.toml"],
        ["styles", "import", "~nobody-here/style"],
        ["align", "x.jpg", "--landmarks", "~nobody-here/faces.json"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_the_home_of_nobody_is_a_name_like_others(arguments, capsys):
    assert main(arguments) in (1, 2)
    said = capsys.readouterr().err
    assert "~nobody-here" in said and "unexpected" not in said


def test_a_home_that_cannot_be_written_is_one_line():
    if not shutil.which("bash"):
        pytest.skip("completion is for bash here")
    status, _, errors = shell(f"bash -c 'HOME=/dev/null {COMMAND} --install-completion; exit $?'")
    assert status == 1 and len(errors.splitlines()) == 1 and "unexpected" not in errors, errors
