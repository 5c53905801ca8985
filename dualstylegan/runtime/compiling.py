"""Functions made faster by `torch.compile`, where the machine has what that needs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

COMPILERS = ("g++", "clang++", "c++")

Function = Callable[..., Any]
Faster = Callable[[Function], Function]  # what a stage is given to make its functions faster with

_as_written = ContextVar("as_written", default=False)


def as_is(function: Function) -> Function:
    """Nothing made faster: the Faster of those who do not compile."""
    return function


def has_compiler() -> bool:
    """Whether torch.compile finds the C++ compiler that it needs for a CPU."""
    return any(shutil.which(name) for name in (os.environ.get("CXX"), *COMPILERS) if name)


@contextmanager
def as_written() -> Iterator[None]:
    """Inside the body nothing compiled runs: what is compiled cannot be differentiated twice."""
    token = _as_written.set(True)
    try:
        yield
    finally:
        _as_written.reset(token)


class Compiler:
    """Called with a function, it gives one that is compiled at its first call, for the shapes it gets; or the function
    itself where that cannot be, said once, however many functions there are.

    What is compiled computes the same up to rounding, and to the last bit the same each time. Only calls with gradients
    are: without them other shapes come, rarely, and compiling for these would cost more than it saves.
    """

    def __init__(self, note: Callable[[str], None]):
        self._note, self._noted = note, False

    def __call__(self, function: Function) -> Function:
        if has_compiler():
            return _Compiled(function, self.say)
        self.say("there is no C++ compiler here (g++)")
        return function

    def say(self, why: str) -> None:
        if not self._noted:
            self._note(f'compile = "auto": {why}, so it is computed as without.')
        self._noted = True


class _Compiled:
    def __init__(self, function: Function, say: Callable[[str], None]):
        self.slow, self.say = function, say
        self.fast: Function | None = torch.compile(function, dynamic=False)
        self.works = False  # once it has

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.fast is not None and torch.is_grad_enabled() and not _as_written.get():
            try:
                result = self.fast(*args, **kwargs)
            except Exception as error:
                if self.works:
                    raise
                self.fast = None
                self.say(f"torch.compile failed here ({_first_line(error)})")
            else:
                self.works = True
                return result
        return self.slow(*args, **kwargs)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
