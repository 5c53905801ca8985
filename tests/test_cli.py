"""The command line: light, honest about how it ended, and one line when something is wrong."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import typer

from dsgcli import main as entry
from dsgcli.command import OfflineOption
from dsgcli.report import Reporter, figures, show
from dualstylegan import __version__
from dualstylegan.errors import DualStyleGANError, UsageError
from dualstylegan.events import Event

VERBS = ("align", "destylize", "refine", "sample", "styles", "stylize", "train")


def python(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, **options)


def dsg(*arguments: str, **options) -> subprocess.CompletedProcess:
    return python("-m", "dsgcli", *arguments, **options)


@pytest.fixture
def command(monkeypatch):
    """Registers a function as the command `act`, for one test."""

    def register(function):
        entry.app.command("act")(function)
        return entry.main

    monkeypatch.setattr(entry.app, "registered_commands", list(entry.app.registered_commands))
    return register


# Light


def test_help_names_every_verb_and_loads_no_torch():
    script = (
        "import sys\nfrom dsgcli.main import main\nstatus = main(['--help'])\n"
        "heavy = {'torch', 'numpy', 'PIL', 'av', 'kornia', 'scipy', 'accelerate'} & set(sys.modules)\n"
        "sys.exit(status or (f'loaded {heavy}' if heavy else 0))"
    )
    run = python("-c", script)
    assert (run.returncode, run.stderr) == (0, "")
    assert all(verb in run.stdout for verb in VERBS)


def test_help_answers_in_half_a_second():
    def best_s(*arguments: str) -> float:
        times_s = []
        for _ in range(5):
            began_s = time.perf_counter()
            python(*arguments)
            times_s.append(time.perf_counter() - began_s)
        return min(times_s)

    # On a busy machine bare Python is slow too; what help adds to it is the promise, 0.02 s being bare Python's usual.
    assert best_s("-m", "dsgcli", "--help") < 0.5 * max(1, best_s("-c", "pass") / 0.02)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_without_torch(verb):
    script = (
        f"import sys\nfrom dsgcli.main import main\nstatus = main(['{verb}', '--help'])\n"
        "sys.exit(status or 'torch' in sys.modules)"
    )
    run = python("-c", script)
    assert run.returncode == 0, run.stderr
    assert f"dsg {verb}" in run.stdout


def test_version():
    run = dsg("--version")
    assert run.returncode == 0
    assert run.stdout.split(" (commit ")[0].rstrip() == f"dsg {__version__}"


# How it ends


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], ["stylize"], ["stylize", "a.jpg", "--stile", "x"], ["align", "--size", "large", "a"]]
)
def test_wrong_usage_is_one_line_and_status_2(capsys, arguments):
    assert entry.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("dsg: ")
    assert said.err.count("\n") == 1
    assert "--help" in said.err


def test_no_arguments_show_the_help_and_are_wrong_usage(capsys):
    assert entry.main([]) == 2
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (DualStyleGANError("x.jpg\n is damaged."), 1, "dsg: x.jpg is damaged.\n"),
        (UsageError("No style 'tooon'."), 2, "dsg: No style 'tooon'.\n"),
        (KeyError("boom"), 1, "dsg: unexpected KeyError: 'boom' (--debug shows where).\n"),
        (KeyboardInterrupt(), 130, "dsg: interrupted.\n"),
        (typer.BadParameter("no"), 2, None),
        (typer.Exit(1), 1, ""),
        (SystemExit(1), 1, ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_are_one_line_without_a_traceback(capsys, command, error, status, line):
    def act() -> None:
        raise error

    assert command(act)(["act"]) == status
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said == line if line is not None else said.count("\n") == 1


def test_debug_shows_the_traceback_wherever_it_stands(capsys, command, monkeypatch):
    def act(name: str = "") -> None:
        raise DualStyleGANError("x.jpg is damaged.")

    run = command(act)
    for arguments in (["--debug", "act"], ["act", "--debug"], ["act", "--name", "x", "--debug"]):
        assert run(arguments) == 1
        assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("DSG_DEBUG", "1")
    assert run(["act"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_sigterm_unwinds_and_ends_with_143(capsys, command):
    tidied = []

    def act() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            tidied.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert command(act)(["act"]) == 143
    assert tidied
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err == "dsg: terminated.\n"


def test_a_reader_that_leaves_is_no_error_to_shout_about():
    script = (
        "import sys\nfrom dsgcli import main\n"
        "@main.app.command()\n"
        "def act() -> None:\n    for i in range(100_000):\n        print(i)\n"
        "sys.exit(main.main(['act']))"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        run.stdout.readline()
        run.stdout.close()
        said = run.stderr.read()
    assert said == b""
    assert run.returncode == 1


def commands(group, name=()):
    """(the words of a command, the command) of every one there is."""
    for word, command in getattr(group, "commands", {}).items():
        yield (*name, word), command
        yield from commands(command, (*name, word))


@pytest.mark.parametrize("flag", ["--offline", "--json"])
def test_every_verb_takes_it(flag):
    found = dict(commands(typer.main.get_command(entry.app)))
    assert {("train",), ("styles",), ("styles", "import")} <= found.keys()
    assert not [
        " ".join(words)
        for words, command in found.items()
        if not any(flag in parameter.opts for parameter in command.params)
    ]


def test_offline_reaches_the_library(command, monkeypatch):
    seen = []

    def act(offline: OfflineOption = False) -> None:
        seen.append(os.environ.get("DSG_OFFLINE"))

    monkeypatch.setenv("DSG_OFFLINE", "")
    assert command(act)(["act"]) == 0
    assert command(act)(["act", "--offline"]) == 0
    assert seen == ["", "1"]


# What is said


def job(failed: bool = True):
    yield Event("plan", "stylize", total=3)
    yield Event("note", "stylize", message="NAME alone means toon:0.")
    yield Event("done", "stylize", source="a.jpg", output="out/a.jpg", data={"faces": 2})
    yield Event("warning", "stylize", source="a.jpg", message="a face is larger than the model.")
    if failed:
        yield Event("failed", "stylize", source="b.jpg", message="b.jpg is damaged.")
    yield Event("skipped", "stylize", source="c.jpg", message="already there")
    yield Event("summary", "stylize", message="1 done in 2 s.")


def test_piped_it_says_what_went_wrong_and_one_summary_line(capsys):
    assert show(job()) == 1
    said = capsys.readouterr()
    assert said.out == "1 done in 2 s.\n"
    assert said.err.splitlines() == [
        "dsg: NAME alone means toon:0.",
        "dsg: warning: a.jpg: a face is larger than the model.",
        "dsg: already there: c.jpg",
        "dsg: failed: b.jpg is damaged.",
    ]


def test_a_job_without_failures_ends_with_0(capsys):
    assert show(job(failed=False)) == 0
    assert "failed" not in capsys.readouterr().err


def test_json_is_one_event_per_line_and_nothing_else(capsys):
    assert show(job(), json=True) == 1
    said = capsys.readouterr()
    assert said.err == ""
    events = [json.loads(line) for line in said.out.splitlines()]
    assert [event["event"] for event in events] == ["plan", "note", "done", "warning", "failed", "skipped", "summary"]
    assert all(list(event) == list(events[0]) for event in events)


@pytest.mark.parametrize(
    ("error", "status"), [(DualStyleGANError("the disk is full."), 1), (UsageError("No."), 2), (ValueError("odd"), 1)]
)
def test_a_plan_in_json_has_its_summary_however_it_ends(capsys, command, error, status):
    def act(json: bool = False) -> None:
        def breaking():
            yield from list(job())[:3]
            raise error

        show(breaking(), json=json)

    assert command(act)(["act", "--json"]) == status
    said = capsys.readouterr()
    events = [json.loads(line) for line in said.out.splitlines()]
    assert [event["event"] for event in events] == ["plan", "note", "done", "failed", "summary"]
    assert str(error) in events[-2]["message"] and events[-1]["data"] == {"done": 1, "skipped": 0, "failed": 0}
    assert said.err.count("\n") == 1


def test_an_interrupted_plan_in_json_has_its_summary(capsys, command):
    def act(json: bool = False) -> None:
        def stopped():
            yield from list(job())[:1]
            raise KeyboardInterrupt

        show(stopped(), json=json)

    assert command(act)(["act", "--json"]) == 130
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["plan", "summary"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["stylize", "a.jpg", "--stile", "x", "--json"],
        ["align", "missing/*.jpg", "-o", "x.png", "--json"],
        ["stylize", "a.jpg", "-s", "tooon:7", "--json"],
        ["styles", "show", "tooon", "--json"],
        ["sample", "-s", "toon", "-n", "0", "--json"],
        ["train", "nosuch", "--json"],
        ["destylize", "nosuch", "--json"],
        ["refine", "nosuch", "--json"],
        ["stylize", "", "-s", "toon:7", "--json"],
    ],
)
def test_mistakes_of_usage_are_events_too(capsys, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert entry.main(arguments) == 2
    said = capsys.readouterr()
    (event,) = map(json.loads, said.out.splitlines())
    assert (event["event"], event["verb"]) == ("failed", arguments[0])
    assert event["message"] in said.err and said.err.count("\n") == 1


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "styles"])
def test_an_empty_argument_is_a_variable_that_is_not_set(verb, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in ([""], ["a.jpg", "-o", ""], ["a.jpg", "--out="], ["a.jpg", "-s", ""]):
        assert entry.main([verb, *arguments]) == 2
        assert "empty" in capsys.readouterr().err


def test_json_holds_what_json_cannot(capsys):
    import numpy as np

    data = {"loss": float("nan"), "box": np.arange(4), "mean": np.float32(0.5), "set": (1, 2), "path": io.StringIO}
    show([Event("progress", "train", data=data)], json=True)
    parsed = json.loads(capsys.readouterr().out)["data"]
    assert (parsed["loss"], parsed["box"], parsed["mean"], parsed["set"]) == (None, [0, 1, 2, 3], 0.5, [1, 2])


def test_names_that_are_no_text_are_no_trouble():
    script = (
        "import sys\nfrom dsgcli import main\nfrom dsgcli.report import show\nfrom dualstylegan.events import Event\n"
        "@main.app.command()\n"
        "def act(json: bool = False) -> None:\n"
        "    show([Event('note', 'align', source='\\udcff.jpg', message='fine')], json=json, answer=True)\n"
        "sys.exit(main.main())"
    )
    assert python("-c", script, "act").stdout == "\\udcff.jpg: fine\n"
    assert json.loads(python("-c", script, "act", "--json").stdout)["source"] == "\udcff.jpg"


def test_a_line_stays_one_whatever_a_file_is_called(capsys):
    name = "new\nline\x1b[2J.jpg"
    events = [Event("warning", "stylize", source=name, message="a large face")]
    events += [Event("done", "stylize", source=name, message="copied")]
    events += [Event("failed", "stylize", source=name, message=f"{name} is damaged.")]
    show(events)
    shown = "new\\nline\\x1b[2J.jpg"
    assert capsys.readouterr().err.splitlines() == [
        f"dsg: warning: {shown}: a large face",
        f"dsg: copied: {shown}",
        f"dsg: failed: {shown} is damaged.",
    ]


def test_what_was_asked_for_goes_to_stdout(capsys):
    show([Event("note", "stylize", source="a.jpg", message="would become out/a.jpg")], answer=True)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("a.jpg: would become out/a.jpg\n", "")


def test_failures_are_named_when_the_job_itself_breaks(capsys):
    def breaking():
        yield Event("failed", "stylize", source="b.jpg", message="damaged")
        raise DualStyleGANError("the disk is full.")

    with pytest.raises(DualStyleGANError):
        show(breaking())
    assert capsys.readouterr().err == "dsg: failed: b.jpg: damaged\n"


def test_an_interrupted_job_puts_its_things_away():
    tidied = []

    def endless():
        try:
            while True:
                yield Event("done", "stylize", source="a.jpg")
        finally:
            tidied.append(True)

    def interrupt(self, event):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Reporter, "take", interrupt)
        show(endless())
    assert tidied


def test_only_the_first_process_speaks(capsys, monkeypatch):
    launched = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    assert show(job()) == 1
    assert show(job(), json=True) == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")


def test_a_terminal_gets_a_bar_per_stage_with_figures():
    from rich.console import Console
    from rich.progress import Progress, TextColumn

    written = io.StringIO()
    columns = [TextColumn("{task.description} {task.completed}/{task.total} {task.fields[figures]}")]
    bars = Progress(*columns, console=Console(file=written, force_terminal=True, width=100))
    with bars:
        reporter = Reporter(bars=bars)
        for event in [
            Event("plan", "train", stage="transfer", current=20, total=100),
            Event("progress", "train", stage="transfer", current=30, total=100, data={"loss": 0.12345}),
            Event("progress", "train", stage="refine", current=1, total=4),
            *job(),
        ]:
            reporter.take(event)
    rows = [(task.description, task.completed, task.total, task.fields["figures"]) for task in bars.tasks]
    assert rows == [
        ("transfer", 30, 100, "loss 0.123"),
        ("refine", 1, 4, ""),
        ("stylize", 3, 3, "1 failed"),
    ]
    assert "larger than the model" in written.getvalue()


def test_figures_are_short():
    assert (
        figures({"loss": 0.123456, "fps": 31.98, "name": "x", "ok": True, "step": 1200})
        == "loss 0.123  fps 32  step 1200"
    )
