"""A style, ready to draw: its networks on their device, how much of it each row takes, how many portraits at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dualstylegan.choices import STRUCTURE_ROWS, TRUNCATION, row_weights
from dualstylegan.errors import DualStyleGANError, UsageError
from dualstylegan.models.codes import fit_weights
from dualstylegan.models.library import FoundStyle
from dualstylegan.models.style import Style
from dualstylegan.runtime.devices import pick_device, pick_precision, unless_memory_runs_out
from dualstylegan.stylizing.settings import SamplingSettings


class Drawing:
    """What drawing in a style takes, whatever is drawn: faces of photos (`Stylizer`), or random ones (`Sampling`)."""

    settings: SamplingSettings

    def __init__(self, settings: SamplingSettings):
        """Raises UsageError for a device or a precision that is not to be had. `take` completes it."""
        self.settings = settings
        self.device = pick_device(settings.device)
        self.dtype = pick_precision(settings.precision, self.device)

    def take(self, found: FoundStyle, style: Style) -> None:
        """The style that is drawn in; its networks move to the device."""
        self.found, self.style = found, style
        self.weights, self.truncation = chosen_for(style.header, self.settings)
        self.model = style.model.to(self.device).eval()
        self.batch = self.settings.batch or default_batch(self.size, self.device)

    @property
    def size(self) -> int:
        """The side of a portrait, px."""
        return self.model.size

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def in_batches(self, compute: Callable[..., Tensor], *items: Tensor) -> Iterator[Tensor]:
        """What `compute` makes of the items, `batch` at a time, which is halved when memory runs out. Raises
        DualStyleGANError where there is not enough for one."""
        done = 0
        while done < len(items[0]):
            some = [one[done : done + self.batch] for one in items]
            result = unless_memory_runs_out(partial(compute, *some), self.device)
            if result is not None:
                done += len(result)
                yield result
            elif len(some[0]) == 1:
                raise DualStyleGANError(
                    f"Not enough memory on {self.device} for one face at {self.size} px. "
                    "Close other programs, or try --device cpu or a smaller style."
                )
            else:
                self.batch = min(self.batch, len(some[0]) // 2)  # another thread may have halved it already


def default_batch(size: int, device: torch.device) -> int:
    """How many portraits of `size` px at a time: on a CPU more only cost memory, about 0.8 GB each at 1024 px."""
    pixels = size * size
    return max(1, min(8, 2**20 // pixels)) if device.type == "cpu" else max(4, min(32, 2**24 // pixels))


def choose_weights(
    rows: int,
    header: Sequence[float] | None,
    structure: float | None,
    color: float | None,
    weights: Sequence[float] | None,
) -> tuple[float, ...]:
    """One weight per row: `weights`, else `structure` and `color`, else the style's own, else the paper's.

    Raises UsageError for a list of another length than `rows` or 18, and for what is no number.
    """
    if weights is not None:
        chosen = tuple(float(weight) for weight in weights)
        chosen = chosen if len(chosen) == rows else fit_weights(chosen, rows)
    else:
        own = fit_weights(header, rows) if header else row_weights(rows)
        chosen = tuple(float(_first(structure if row < STRUCTURE_ROWS else color, own[row])) for row in range(rows))
    if not all(np.isfinite(weight) for weight in chosen):
        raise UsageError("Weights are numbers, 0 (none of the style) to 1 (all of it).")
    return chosen


def chosen_for(header: Mapping[str, Any], settings: SamplingSettings) -> tuple[tuple[float, ...], float]:
    """A style's weights and truncation, by its header, as the settings have it."""
    asked = (settings.structure, settings.color, settings.weights)
    weights = choose_weights(header["rows"], header.get("weights"), *asked)
    return weights, _first(settings.truncation, header.get("truncation"), TRUNCATION)


def _first(*values):
    return next((value for value in values if value is not None), None)
