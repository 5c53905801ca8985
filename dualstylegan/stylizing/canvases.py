"""What one style makes of one picture, of one page or of several: the picture with its faces replaced, or portraits.

A canvas is given the faces, drawn, one after the other, and in the end writes what it has become.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from dualstylegan.faces.crop import crop_face
from dualstylegan.faces.face import Face
from dualstylegan.media.images import Picture, from_tensor, write_picture
from dualstylegan.media.tiff import write_pages
from dualstylegan.stylizing.scene import Scene
from dualstylegan.stylizing.sheets import STRIP_PX, beside, small
from dualstylegan.stylizing.stylizer import Placed, Stylizer

CROWD_SHOWN = 3  # faces of a crowd that the scene is made for

Names = Callable[[Path, int], list[Path]]  # of so many portraits, the largest's given


@dataclass(frozen=True)
class Written:
    """What one style made of one picture: files, and before and after, small, where a sheet wants them."""

    outputs: list[Path]
    before: np.ndarray | None = None
    after: np.ndarray | None = None


@dataclass
class _Page:
    """A page and what has been made of it."""

    source: Picture
    frame: np.ndarray | None = None  # once faces have been laid in it
    kept: np.ndarray | None = None  # the same without a scene
    scene: Scene | None = None
    laid: list[tuple[Face, np.ndarray]] = field(default_factory=list)  # faces and their masks


class FullFrame:
    """The picture with its faces replaced, in the scene that they make; for strips, without the scene too."""

    keeps_too = False

    def __init__(self, stylizer: Stylizer, pages: Sequence[Picture], found: Sequence[Sequence[Face]], output: Path):
        self.stylizer, self.output = stylizer, output
        self.sources, self.found = pages, found
        self.pages = [_Page(page) for page in pages]
        self.waiting: list[tuple[int, Placed]] = []

    @property
    def nbytes(self) -> int:
        return 2 * bytes_of(self.sources) + sum(one.nbytes for _, one in self.waiting)

    def look_ahead(self, codes: Tensor) -> None:
        """Of a crowd, the largest faces, which are drawn last, say beforehand what the scene is."""
        if self.stylizer.scene == "keep" or len(codes) <= self.stylizer.batch:
            return
        for page, faces in reversed(list(zip(self.pages, self.found, strict=False))):  # as `in_order`
            own, codes = codes[: len(faces)], codes[len(faces) :]
            if faces:
                portraits = list(self.stylizer.render(own[-CROWD_SHOWN:]))
                page.scene = self.stylizer.scene_of(page.source.pixels, faces[-CROWD_SHOWN:], portraits)

    def add(self, placed: Placed, page: int) -> None:
        self.waiting.append((page, placed))
        if len(self.waiting) > self.stylizer.batch:  # do not hold all their portraits until the end
            self._lay()

    def finish(self, with_strip: bool) -> Written:
        self._lay()
        for page in self.pages:
            if page.scene and page.frame is not None:
                page.frame = page.scene.over(page.frame)
        write_pages(self.output, [page.frame for page in self.pages], self.sources)
        if not with_strip:
            return Written([self.output])
        page, after = next((page, page.frame) for page in self.pages if page.frame is not None)
        shown = after if page.kept is None else beside(page.kept, after)
        return Written([self.output], small(page.source.pixels), small(shown))

    def _lay(self) -> None:
        for number, page in enumerate(self.pages):
            placed = [one for at, one in self.waiting if at == number]
            if not placed:
                continue
            pixels = page.source.pixels
            if page.frame is None:
                if page.scene is None:
                    faces, portraits = [one.face for one in placed], [one.portrait for one in placed]
                    page.scene = self.stylizer.scene_of(pixels, faces, portraits)
                under = page.scene.under(pixels) if page.scene else pixels
                page.frame = under.copy() if under is pixels else under
                page.kept = pixels.copy() if self.keeps_too else None
            behind = page.laid
            page.laid = self.stylizer.lay(page.frame, placed, behind)
            if page.kept is not None:
                self.stylizer.lay(page.kept, placed, behind)
        self.waiting = []


class CutPortraits:
    """The aligned portraits by themselves: NAME.jpg for the largest face, NAME-2.jpg, ... for the others."""

    keeps_too = False

    def __init__(
        self,
        names: Names,
        stylizer: Stylizer,
        pages: Sequence[Picture],
        found: Sequence[Sequence[Face]],
        output: Path,
    ):
        self.stylizer, self.pages = stylizer, pages
        placed = in_order(found)
        self.left, self.largest = names(output, len(placed)), placed[-1]
        self.waiting: list[tuple[Path, np.ndarray, int]] = []
        self.outputs: list[Path] = []

    @property
    def nbytes(self) -> int:
        return bytes_of(self.pages) + sum(pixels.nbytes for _, pixels, _ in self.waiting)

    def look_ahead(self, codes: Tensor) -> None:
        """Portraits have no scene."""

    def add(self, placed: Placed, page: int) -> None:
        self.latest = from_tensor(placed.portrait)
        self.waiting.append((self.left.pop(), self.latest, page))
        if len(self.waiting) > self.stylizer.batch:
            self._write()

    def finish(self, with_strip: bool) -> Written:
        self._write()
        outputs = self.outputs[::-1]
        if not with_strip:
            return Written(outputs)
        page, face = self.largest
        before = crop_face(self.pages[page].pixels, face.crop_from_photo, STRIP_PX)
        return Written(outputs, from_tensor(before), small(self.latest))

    def _write(self) -> None:
        # The largest face comes last, so the file that --skip-existing looks for is there only when all are.
        for path, pixels, page in self.waiting:
            write_picture(path, pixels, like=self.pages[page])
            self.outputs.append(path)
        self.waiting = []


def in_order(found: Sequence[Sequence[Face]]) -> list[tuple[int, Face]]:
    """Every face with its page's number; the first page's largest comes last."""
    return [(number, face) for number in reversed(range(len(found))) for face in found[number]]


def bytes_of(pages: Sequence[Picture]) -> int:
    return sum(page.pixels.nbytes for page in pages)
