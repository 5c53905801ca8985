"""Wherever Ctrl-C and SIGTERM strike, what works in threads ends, with all its threads, and says why."""

from __future__ import annotations

import dis
import signal
import sys
import threading
import time
from types import FrameType

import pytest
from tiny_style import one_core

from dualstylegan.runtime.interrupts import uninterrupted
from dualstylegan.runtime.line import Line
from dualstylegan.runtime.threads import each_on_one_core
from dualstylegan.training.fitting import one_per_thread

__all__ = ["one_core"]

LOOKS_AFTER = {
    dis.opmap[name] for name in ("CALL", "CALL_FUNCTION_EX", "CALL_KW", "JUMP_BACKWARD") if name in dis.opmap
}

# In a weak reference's callback Python itself swallows what is raised; the others make many steps and lock nothing.
PASSED_OVER = ("weakref", "torch", "enum", "signal.py")


class Strike:
    """Ctrl-C at the `number`-th place where Python looks for signals: where a function begins, and after calls and
    jumps back. A trace function: what the signal's handler raises, it raises there."""

    def __init__(self, number: int):
        self.left = number
        self._latest: dict[int, int] = {}  # frame -> instruction

    def __call__(self, frame: FrameType, event: str, arg: object) -> Strike | None:
        if self.left <= 0 or any(name in frame.f_code.co_filename for name in PASSED_OVER):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        if event == "call":
            self._look(frame)
        elif event == "opcode":
            before = self._latest.get(id(frame))
            self._latest[id(frame)] = frame.f_code.co_code[frame.f_lasti]
            if before in LOOKS_AFTER:
                self._look(frame)
        return self

    def _look(self, frame: FrameType) -> None:
        self.left -= 1
        if self.left == 0:
            signal.getsignal(signal.SIGINT)(signal.SIGINT, frame)


def stages() -> None:
    """As a film has them: the main thread takes from one line and puts into another."""
    with Line() as line:
        back = line.channel(lambda item: 1)
        line.run(lambda: list(back), "back")
        for item in line.ahead(iter(range(3)), "ahead", nbytes=lambda item: 1):
            line.put(back, item)
        back.end()
        line.wait()


def pictures() -> None:
    with Line() as line:
        writer = line.behind("write")
        for number, _ in line.each(range(3), abs, "read", nbytes=lambda item: 1):
            writer.submit(number, lambda: None, nbytes=1)
        list(writer.drain())


def faces() -> None:
    each_on_one_core(abs, range(3))


def fits() -> None:
    list(one_per_thread(["a", "b"], 2, lambda rows: iter([(rows[0], {})])))


def working() -> list[str]:
    """Threads that are still there a moment later, but for those that wait for the next faces."""
    deadline_s = time.monotonic() + 10
    while True:
        names = [thread.name for thread in threading.enumerate()]
        names = [name for name in names if name.startswith("dsg-") and "faces" not in name]
        if not names or time.monotonic() > deadline_s:
            return names
        time.sleep(0.01)


@pytest.mark.timeout(120)  # where a lock is not given back, all would wait for ever
@pytest.mark.parametrize("job", [stages, pictures, faces, fits])
def test_wherever_ctrl_c_strikes_threads_end(job):
    job()
    before = sys.gettrace()
    number = 1
    while True:
        strike, outcome = Strike(number), "done"
        sys.settrace(strike)
        try:
            job()
        except KeyboardInterrupt:
            outcome = "interrupted"
        finally:
            sys.settrace(before)
        assert not working(), number
        if strike.left > 0:
            break
        assert outcome == "interrupted", number
        number += 17  # all would take minutes
    assert number > 100
    job()


@pytest.mark.parametrize("times", [1, 2])
def test_no_stage_outlives_its_line(times):
    """Interrupted in a join, Python takes the thread for ended. A film's files would be closed while it works on."""
    ended = []

    def work() -> None:
        for _ in range(times):
            time.sleep(0.1)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.5)
        ended.append(True)

    with pytest.raises(KeyboardInterrupt), Line() as line:
        line.run(work, "work")
        line.wait()
    assert ended


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_the_block_is_left(number):
    seen = []
    before = signal.signal(number, lambda *_: seen.append("struck"))
    try:
        with uninterrupted():
            with uninterrupted():
                signal.raise_signal(number)
            seen.append("left")
        assert seen == ["left", "struck"]
        with pytest.raises(ValueError, match="its own"), uninterrupted():
            signal.raise_signal(number)
            raise ValueError("its own")
        assert seen == ["left", "struck", "struck"]
        signal.raise_signal(number)
        assert len(seen) == 4
    finally:
        signal.signal(number, before)
