"""Several styles in one pass: faces are found once, encoded once for all styles that share an encoder, drawn in each.

Codes are lists of one tensor an encoder, since styles on different bases have different encoders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dualstylegan.faces.face import Face
from dualstylegan.models.library import FoundStyle, Library
from dualstylegan.stylizing.settings import StylizerSettings
from dualstylegan.stylizing.stylizer import Placed, Stylizer


class StyleSet:
    """Stylizers that work on the same faces, which those of the first one are."""

    def __init__(self, stylizers: Sequence[Stylizer]):
        self.stylizers = list(stylizers)
        self.first = self.stylizers[0]
        encoders = {id(one.encoder): one for one in self.stylizers}
        self.encoders = list(encoders.values())  # one style for each
        self.encoder_of = [list(encoders).index(id(one.encoder)) for one in self.stylizers]  # whose codes a style takes
        self._rows: list[set[int]] = [set() for _ in encoders]
        for one, encoder in zip(self.stylizers, self.encoder_of, strict=True):
            self._rows[encoder].update(one.rows_needed)
        self._batches = [one.batch for one in self.stylizers]  # that users know of
        self._said_of_size = False

    @classmethod
    def open(cls, styles: Sequence[FoundStyle | Stylizer], settings: StylizerSettings) -> StyleSet:
        """Those found are loaded. They share the detector, a style's networks and a base's."""
        models = Library()
        stylizers: list[Stylizer] = []
        for style in styles:
            if stylizers:
                settings = replace(settings, detector=stylizers[0].detector)
            if isinstance(style, FoundStyle):
                style = Stylizer(style, settings=settings, models=models)
            stylizers.append(style)
        return cls(stylizers)

    def __len__(self) -> int:
        return len(self.stylizers)

    @property
    def batch(self) -> int:
        """How many faces make it worth while to begin."""
        return max(one.batch for one in self.stylizers)

    def crop(self, picture: np.ndarray, faces: Sequence[Face]) -> list[Tensor]:
        """The aligned crops (N, 3, E, E) of a picture's faces, for each encoder."""
        return [one.crop(picture, faces) for one in self.encoders]

    def encode(self, crops: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Codes (N, rows, dim) in W+ by each encoder, of the crops of several pictures."""
        by_encoder = [torch.cat(some) for some in zip(*crops, strict=True)]
        return [
            one.encode(some, sorted(rows))
            for one, some, rows in zip(self.encoders, by_encoder, self._rows, strict=True)
        ]

    def persons(self, picture: np.ndarray, faces: Sequence[Face]) -> list[Tensor]:
        """Where a person is in the picture around each face, for `render`."""
        return list(self.first.persons(picture, faces))

    def render(
        self,
        number: int,
        codes: Tensor,
        faces: Sequence[Face],
        persons: Sequence[Tensor | None] | None,
        which: Sequence[int] | None = None,
        scene: str | None = None,
    ) -> list[Placed]:
        """Faces as style `number` draws them, of its encoder's `codes`, ready for their places; `which` says for each
        face which code is its own, where several share one, and `scene` what is to be fitted to these portraits, as in
        `Stylizer.region_of`. Without `persons` portraits stand by themselves: whole, and as they are drawn."""
        stylizer = self.stylizers[number]
        portraits = stylizer.render(codes, None if persons is None else stylizer.region_of(faces, scene))
        which = range(len(faces)) if which is None else which
        if persons is None:
            return [Placed(face, portraits[place]) for face, place in zip(faces, which, strict=True)]
        return stylizer.place(faces, list(portraits), persons, which)

    def size_warnings(self, faces: Sequence[Face]) -> Iterator[str]:
        """A line where one of the faces is so large that a portrait will look soft in its place: said once, since in a
        folder of large portraits it is true of each."""
        lines = (one.warning_about(face) for one in self.stylizers for face in faces)
        if not self._said_of_size and (line := next(filter(None, lines), None)):
            self._said_of_size = True
            yield line

    def memory_warnings(self) -> Iterator[str]:
        """A line for every style whose batch has been halved since this was last asked."""
        before, self._batches = self._batches, [one.batch for one in self.stylizers]
        for batch, now in zip(before, self._batches, strict=True):
            if now < batch:
                yield f"Memory ran out: now {now} at a time."
