"""Faces that hold still: crops and codes smoothed over a symmetric window of frames, so that nothing lags behind.

A smoother takes what the tracker or the encoder gives, frame by frame, and gives it back `lag` frames later, in order.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dualstylegan.faces.track import FrameFaces

SMOOTH = 0.5  # strength; measured in tests/bench/temporal.py

Codes = dict[int, Tensor]  # by track: (rows, dim) in W+


class PointSmoother:
    """Smooths where faces are: position, scale, angle and shape, each by itself. Sets `face.points`, `face.matrix` and
    `opacity`; faces lost for some frames are put in where they must have been (`seen` stays False)."""

    def __init__(self, strength: float = SMOOTH):
        self.strength = strength
        self.lag = 10 if strength > 0 else 0

    def push(self, frame: FrameFaces) -> list[FrameFaces]:
        """Takes the next frame; gives those that are ready, none or one."""
        raise NotImplementedError

    def flush(self) -> list[FrameFaces]:
        """The frames still held, at the film's end."""
        raise NotImplementedError


class CodeSmoother:
    """Smooths who faces are: codes in W+, around a base that each face keeps."""

    def __init__(self, strength: float = SMOOTH):
        self.strength = strength
        self.lag = 6 if strength > 0 else 0

    def push(self, frame: FrameFaces, codes: Mapping[int, Tensor]) -> list[tuple[FrameFaces, Codes]]:
        """Takes the next frame and the code (rows, dim) of each face that is seen in it; gives those that are ready,
        with a code for every face in them."""
        raise NotImplementedError

    def flush(self) -> list[tuple[FrameFaces, Codes]]:
        raise NotImplementedError
