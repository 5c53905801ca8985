"""What a job has done, to look at: sheets with strips of before and after, or one page for a browser."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dualstylegan.events import Event
from dualstylegan.media.images import write_picture
from dualstylegan.media.pages import Page
from dualstylegan.media.plan import page
from dualstylegan.media.sheets import strip
from dualstylegan.stylizing.settings import FilmOptions

STRIPS_PER_SHEET = 40
GAP = 0.04  # of a picture's height: between one with the surroundings kept and the same restyled
STRIP_PX, SHOWN_PX = 256, 448  # the height of a strip, and of the pictures that are kept for one
MOMENTS = 4  # of a film
PREVIEW_S, PREVIEW_FPS, PREVIEW_PX = 4, 12, 240  # of a film on a page

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


class Report:
    """The same as one HTML page; films are short previews there, and what failed is named."""

    def __init__(self, path: Path, labels: Sequence[str], pictures: int, facts: Mapping[str, str]):
        """`pictures` is how many photos there may be; `facts` stand at the page's foot."""
        self.path, self.labels = path, labels
        title = f"{labels[0]}s in {', '.join(labels[1:])}"
        self.page = Page(title[0].upper() + title[1:], pictures * len(labels), facts)

    def add(self, name: str, row: Row) -> Iterator[Event]:
        before, *after = row
        shown = [(label, one) for label, one in zip(self.labels[1:], after, strict=True) if one is not None]
        self.page.add(name, before, shown)
        return iter(())

    def add_film(self, name: str, source: Path, results: Mapping[int, Path], options: FilmOptions) -> None:
        """`results` by style; the options say what part was taken of the source."""
        for number, result in results.items():
            self.page.add_film(name, self.labels[number + 1], preview(source, result, options))

    def fail(self, name: str, reason: str) -> None:
        self.page.fail(name, reason)

    def close(self) -> Iterator[Event]:
        self.page.write(self.path)
        yield Event("note", "stylize", output=str(self.path), message=f"Before and after: {self.path}")


def preview(source: Path, result: Path, options: FilmOptions) -> bytes:
    """The first seconds of a film before and after, side by side, small and silent: H.264 in MP4."""
    from dualstylegan.media.film.clip import write_clip
    from dualstylegan.media.film.video import open_film

    def frames() -> Iterator[np.ndarray]:
        due_s = 0.0
        whole_or_part = open_film(source, start_s=options.start_s, end_s=options.end_s, max_frames=options.max_frames)
        with whole_or_part as before, open_film(result) as after:
            began_s = None
            for old, new in zip(before, after, strict=False):
                began_s = new.time_s if began_s is None else began_s
                at_s = new.time_s - began_s
                if at_s > PREVIEW_S:
                    return
                if at_s >= due_s:
                    due_s += 1 / PREVIEW_FPS
                    yield np.concatenate([_even(old.pixels), _even(new.pixels)], axis=1)

    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "preview.mp4"
        write_clip(clip, frames(), fps=PREVIEW_FPS)
        return clip.read_bytes()


def _even(pixels: np.ndarray) -> np.ndarray:
    """PREVIEW_PX high, and of an even width, as H.264 wants it."""
    width_px = max(2, 2 * round(pixels.shape[1] * PREVIEW_PX / pixels.shape[0] / 2))
    return np.asarray(Image.fromarray(pixels).resize((width_px, PREVIEW_PX), Image.Resampling.BILINEAR))


class FilmStrips:
    """A few frames of a film, spread over all of it, though its length is not known: whenever there are twice too many,
    every second one goes, and from then on only every second one comes."""

    def __init__(self, styles: Sequence[int], of: int, keep: bool = False):
        """`styles` are the numbers, among all of a sheet, of those that the film is restyled in. `keep`: what a style
        makes of the faces alone is shown too."""
        self.styles, self.of, self.keep = styles, of, keep
        self.seen, self.stride = 0, 1
        self.rows: dict[int, Row] = {}  # by the frame's number

    def take(self, index: int, before: np.ndarray) -> bool:
        """Whether frame `index` is wanted, as it seems now."""
        self.seen += 1
        if (self.seen - 1) % self.stride:
            return False
        self.rows[index] = [small(before), *[None] * self.of]
        if len(self.rows) > 2 * MOMENTS:
            self.stride *= 2
            for one in sorted(self.rows)[1::2]:
                del self.rows[one]
        return index in self.rows

    def add(self, index: int, style: int, after: np.ndarray) -> None:
        if row := self.rows.get(index):
            row[self.styles[style] + 1] = small(after)

    def chosen(self) -> list[tuple[int, Row]]:
        kept = sorted(self.rows)
        chosen = sorted({kept[round(i)] for i in np.linspace(0, len(kept) - 1, MOMENTS)}) if kept else []
        return [(index, self.rows[index]) for index in chosen]


def beside(kept: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Two pictures of one size as one, with a gap of white."""
    return np.hstack([kept, np.full_like(kept[:, : max(1, round(GAP * len(kept)))], 255), after])


def small(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(pixels)
    width_px = max(1, round(image.width * SHOWN_PX / image.height))
    return np.asarray(image.resize((width_px, SHOWN_PX), Image.Resampling.LANCZOS, reducing_gap=2))
