"""Codes of a style's exemplars, and how much of them each row of the network takes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .errors import UsageError, did_you_mean

STRUCTURE_ROWS = 7  # the rest are colour rows


class StyleBank:
    """The exemplars of a style in ID order: an exemplar's ID is its position.

    `extrinsic` (N, rows, dim) in Z+; `refined`, where given, takes its place. `intrinsic` (N, rows, dim) or None.
    """

    def __init__(
        self,
        names: Sequence[str],
        extrinsic: Tensor,
        intrinsic: Tensor | None = None,
        refined: Tensor | None = None,
    ):
        self.names = tuple(names)
        self.extrinsic = extrinsic if refined is None else refined
        self.intrinsic = intrinsic
        for codes in (self.extrinsic, self.intrinsic):
            if codes is not None and (codes.ndim != 3 or len(codes) != len(self.names)):
                raise UsageError(f"{len(self.names)} exemplars need codes (N, rows, dim), not {tuple(codes.shape)}.")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, exemplar: int | str) -> Tensor:
        """The extrinsic code (rows, dim) in Z+ of an ID or an exemplar's file name."""
        return self.extrinsic[self.index(exemplar)]

    def index(self, exemplar: int | str) -> int:
        """The ID of an exemplar given by ID or file name. Raises UsageError that says what exists."""
        if isinstance(exemplar, str) and exemplar in self.names:
            return self.names.index(exemplar)
        if isinstance(exemplar, str) and not exemplar.isdecimal():
            raise UsageError(
                f"No exemplar '{exemplar}'.{did_you_mean(exemplar, self.names)} IDs are 0-{len(self) - 1}."
            )
        if not 0 <= int(exemplar) < len(self):
            raise UsageError(f"No exemplar {exemplar}: this style has IDs 0-{len(self) - 1}.")
        return int(exemplar)

    def subset(self, ids: Sequence[int | str]) -> StyleBank:
        """A bank of some exemplars, in the order given."""
        positions = [self.index(exemplar) for exemplar in ids]
        return StyleBank(
            [self.names[i] for i in positions],
            self.extrinsic[positions],
            None if self.intrinsic is None else self.intrinsic[positions],
        )


def row_weights(rows: int, structure: float = 0.75, color: float = 1.0) -> tuple[float, ...]:
    """One weight for the structure rows, one for the colour rows."""
    return (float(structure),) * STRUCTURE_ROWS + (float(color),) * (rows - STRUCTURE_ROWS)


def fit_weights(weights: Sequence[float], rows: int) -> tuple[float, ...]:
    """Weights written for 18 rows fit a smaller model by cutting colour rows. Raises UsageError when there are too few."""
    if len(weights) < rows:
        raise UsageError(f"This model has {rows} rows; {len(weights)} weights are too few.")
    return tuple(float(weight) for weight in weights[:rows])
