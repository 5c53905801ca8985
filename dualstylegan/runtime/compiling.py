"""Functions made faster by `torch.compile`, where the machine has what that needs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import torch

COMPILERS = ("g++", "clang++", "c++")


def has_compiler() -> bool:
    """Whether torch.compile finds the C++ compiler that it needs for a CPU."""
    return any(shutil.which(name) for name in (os.environ.get("CXX"), *COMPILERS) if name)


def faster(function: Callable[..., Any], note: Callable[[str], None]) -> Callable[..., Any]:
    """`function`, compiled at its first call, for the shapes it gets; or itself where that cannot be, said once.

    What is compiled computes the same up to rounding, and to the last bit the same each time.
    """
    if not has_compiler():
        note('compile = "auto": there is no C++ compiler here (g++), so nothing is compiled.')
        return function
    return _Compiled(function, note)


class _Compiled:
    def __init__(self, function: Callable[..., Any], note: Callable[[str], None]):
        self.slow, self.note = function, note
        self.fast: Callable[..., Any] | None = torch.compile(function, dynamic=False)
        self.works = False  # once it has

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.fast is not None:
            try:
                result = self.fast(*args, **kwargs)
            except Exception as error:
                if self.works:
                    raise
                self.fast = None
                self.note(f'compile = "auto": torch.compile failed here, so nothing is compiled: {_first_line(error)}')
            else:
                self.works = True
                return result
        return self.slow(*args, **kwargs)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
