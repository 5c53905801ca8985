"""`python ARGUMENTS` in a process of its own, but at once: a server that has torch in it forks it.

What is launched is killed, interrupted and asked for its status like any process; only the imports are spared, which
cost more than what most of these tests ask for. Tests of starting itself use `subprocess`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from subprocess import TimeoutExpired

PRELOADED = ["torch", "accelerate", "dsgcli.main", "dualstylegan.train", "dualstylegan.stylize"]

server = multiprocessing.get_context("forkserver" if os.name != "nt" else "spawn")
server.set_forkserver_preload(PRELOADED)


class Launched:
    """`python ARGUMENTS` in this folder, in this environment and more, with one thread unless that says otherwise.

    Reads like `subprocess.Popen`.
    """

    def __init__(self, arguments: Sequence[object], environment: Mapping[str, str] | None = None):
        self.folder = tempfile.TemporaryDirectory(prefix="launched-")
        files = [Path(self.folder.name, name) for name in ("out", "errors")]
        for file in files:
            file.touch()
        self.out, self.errors = files
        given = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        told = ([str(one) for one in arguments], given, Path.cwd(), *files)
        self.process = server.Process(target=_run, args=told, daemon=True)
        self.process.start()

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise TimeoutExpired(self.process.name, timeout)
        return self.process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All it has said, once it has ended: (stdout, stderr)."""
        self.wait(timeout)
        return self.out.read_text(), self.errors.read_text()

    def lines(self) -> Iterator[str]:
        """What it says, line by line, as it says it."""
        with self.out.open() as file:
            rest = ""
            while self.poll() is None or rest:
                rest += file.readline()
                if rest.endswith("\n"):
                    yield rest
                    rest = ""
                elif self.poll() is None:
                    time.sleep(0.01)
                else:
                    return

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(arguments: list[str], environment: dict[str, str], folder: Path, out: Path, errors: Path) -> None:
    import torch

    for number, path in ((1, out), (2, errors)):
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
