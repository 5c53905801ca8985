"""The words and numbers that options, settings and recipes share. Without torch, so that `dsg --help` may read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from dualstylegan.errors import UsageError, did_you_mean

Alignment = Literal["aligned", "landmarks", "faces.json", "template"]
Detector = Literal["auto", "face-alignment", "embedded"]
Faces = Literal["all", "largest"]
Finish = Literal["auto", "off"]
Mask = Literal["face", "head", "crop"]
NoFace = Literal["copy", "skip"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Scene = Literal["auto", "keep", "tone", "paint"]
StyleScene = Literal["keep", "tone", "paint"]  # that a style may ask for
Surface = Literal["oil", "hatch", "flat"]

DETECTORS: tuple[str, ...] = get_args(Detector)
FACES: tuple[str, ...] = get_args(Faces)
FINISHES: tuple[str, ...] = get_args(Finish)
MASKS: tuple[str, ...] = get_args(Mask)
NO_FACE: tuple[str, ...] = get_args(NoFace)
PRECISIONS: tuple[str, ...] = get_args(Precision)
SCENES: tuple[str, ...] = get_args(Scene)
SURFACES: tuple[str, ...] = get_args(Surface)

STRUCTURE_ROWS = 7  # one 4x4, two 8x8, two 16x16 and two 32x32 convolutions; the other rows are colour
MOST_ROWS = 18  # of a model of 1024 px
STRUCTURE, COLOR, TRUNCATION = 0.75, 1.0, 0.75  # the paper's, where neither the user nor the style says otherwise
# Frames between which faces are followed. In drawn films of 640x360, looking in every one, or every 3, 5 or 8, costs
# 104, 46, 34 or 29 ms of CPU a frame; smoothed, crops are as steady with each (they tremble by 0.006 px). But newcomers
# are seen that much later.
DETECT_EVERY = 5
# How steady a film's faces are kept, 0 to 1. In drawn films crops tremble by 0.087 px without, by 0.031 px at 0.125,
# 0.011 at 0.25, 0.006 at 0.5 and 0.005 from there on.
SMOOTH = 0.5


def check_choice(what: str, value: str, known: Sequence[str]) -> None:
    """Raises UsageError, with the nearest, for a `value` that is none of `known`."""
    if value not in known:
        raise UsageError(f"No {what} '{value}'.{did_you_mean(str(value), known)} There are {', '.join(known)}.")


MOST_AMOUNT = 2.0  # of a style: beyond 1 it is exaggerated, beyond 2 nothing of a face is left


def check_amount(what: str, value: float | None) -> None:
    """Raises UsageError for an amount, of a style or of truncation, that is below 0, above MOST_AMOUNT or no number."""
    if value is not None and not 0 <= value <= MOST_AMOUNT:
        raise UsageError(f"{what} is 0 (none) to 1 (all of it), at most {MOST_AMOUNT:g}; not {value:g}.")


def spell_precision(text: str) -> str:
    """A precision as it is written here, where that is accelerate's spelling of one: `bf16` is `bfloat16`."""
    return {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}.get(str(text), text)


def read_precision(text: str) -> str:
    """The same. Raises UsageError for what is no precision."""
    precision = spell_precision(text)
    check_choice("precision", precision, PRECISIONS)
    return precision


def row_weights(rows: int = MOST_ROWS, structure: float = STRUCTURE, color: float = COLOR) -> tuple[float, ...]:
    """`structure` for the structure rows, `color` for the others."""
    return (float(structure),) * STRUCTURE_ROWS + (float(color),) * (rows - STRUCTURE_ROWS)
