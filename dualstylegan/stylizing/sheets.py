"""Sheets of before and after: strips of photos and of moments of films, some to a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dualstylegan.events import Event
from dualstylegan.media.images import write_picture
from dualstylegan.media.plan import page
from dualstylegan.media.sheets import strip

STRIPS_PER_SHEET = 40
STRIP_PX = 256
MOMENTS = 4  # of a film

Row = list[np.ndarray | None]  # before, then after in each style, small; None where there is nothing to show


class Sheets:
    """Pages of STRIPS_PER_SHEET rows each: sheet.png, sheet-2.png, ... Adding and closing tell of pages written."""

    def __init__(self, path: Path, labels: Sequence[str]):
        """`labels` head the columns."""
        self.path, self.labels, self.pages = path, labels, 0
        self.rows: list[Row] = []
        self.names: list[str] = []

    def add(self, name: str, row: Row) -> Iterator[Event]:
        self.rows.append(row)
        self.names.append(name)
        if len(self.rows) == STRIPS_PER_SHEET:
            yield from self.close()

    def close(self) -> Iterator[Event]:
        if not self.rows:
            return
        self.pages += 1
        path = page(self.path, self.pages)
        write_picture(path, strip(*self.rows, labels=self.labels, row_labels=self.names, height_px=STRIP_PX))
        self.rows, self.names = [], []
        yield Event("note", "stylize", output=str(path), message=f"Before and after: {path}")


class FilmStrips:
    """A few frames of a film, spread over all of it, though its length is not known: whenever there are twice too many,
    every second one goes, and from then on only every second one comes."""

    def __init__(self, styles: int):
        self.styles = styles
        self.seen, self.stride = 0, 1
        self.rows: dict[int, Row] = {}  # by the frame's number

    def take(self, index: int, before: np.ndarray) -> bool:
        """Whether frame `index` is wanted, as it seems now."""
        self.seen += 1
        if (self.seen - 1) % self.stride:
            return False
        self.rows[index] = [small(before), *[None] * self.styles]
        if len(self.rows) > 2 * MOMENTS:
            self.stride *= 2
            for one in sorted(self.rows)[1::2]:
                del self.rows[one]
        return index in self.rows

    def add(self, index: int, style: int, after: np.ndarray) -> None:
        if row := self.rows.get(index):
            row[style + 1] = small(after)

    def strips(self) -> list[tuple[int, Row]]:
        kept = sorted(self.rows)
        chosen = sorted({kept[round(i)] for i in np.linspace(0, len(kept) - 1, MOMENTS)}) if kept else []
        return [(index, self.rows[index]) for index in chosen]


def small(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(pixels)
    width_px = max(1, round(image.width * STRIP_PX / image.height))
    return np.asarray(image.resize((width_px, STRIP_PX), Image.Resampling.LANCZOS, reducing_gap=2))
