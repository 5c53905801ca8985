"""An encoder that looks twice: at the face, and at what the generator makes of the code it has so far.

ReStyle's idea (Alaluf et al. 2021) at the size of a CPU: every pass sees the picture beside its present reconstruction
at 64 px and adds to the code; the first one sees the mean face, which is learnt. The body works at 64 px and below and
every row has a head of its own, as in SmallEncoder. Strided convolutions are 4 x 4: a 3 x 3 one of stride 2 lies half a
pixel to the left of what it halves, five times over, so that one side of the face is seen better than the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..errors import UsageError
from .small_encoder import RowEncoder
from .stylegan2 import Generator

BODY_PX = 64


class ResidualEncoder(RowEncoder):
    """Faces to codes (B, rows, style_dim) in Z+, every row of mean square 1, in `passes` passes.

    `size` is the input's side, a multiple of 64 px. It draws with a generator that it does not own: see `draw_with` and
    `connect`.
    """

    body_px = BODY_PX

    def __init__(self, rows: int, style_dim: int, size: int = 128, *, channels: int = 64, passes: int = 2):
        super().__init__(rows, style_dim, size, channels)
        self.passes = passes
        self.start = nn.Parameter(torch.randn(1, rows, style_dim))  # the mean face, once learnt
        self._build(planes=3, kernel=4)
        self._drawer: list[Generator] = []  # in a list: its weights are not this module's

    def draw_with(self, generator: Generator) -> ResidualEncoder:
        """Let reconstructions be drawn by `generator` itself, which trains beside the encoder. Returns self."""
        self._drawer = [generator]
        return self

    def connect(self, generator: Generator) -> ResidualEncoder:
        """Let them be drawn by a copy of what `generator` is now, its layers up to 64 px. Returns self."""
        return self.draw_with(generator.up_to(min(BODY_PX, generator.size)).eval().requires_grad_(False))

    def forward(self, images: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """Images (B, 3, input_size, input_size), RGB, float in [-1, 1]; codes (B, rows, style_dim) in Z+.

        Rows that are not among `rows` are not computed; zeros stand in their place.
        """
        return self.all_passes(images, rows)[0]

    def all_passes(self, images: Tensor, rows: Sequence[int] | None = None) -> tuple[Tensor, list[Tensor]]:
        """The codes, and the reconstructions that the passes after the first one saw, (B, 3, 64, 64) each."""
        if not self._drawer:
            raise UsageError("This encoder draws what it has understood, and was given no generator to draw with.")
        if images.shape[-2:] != (self.input_size, self.input_size):
            raise UsageError(f"This encoder takes pictures of {self.input_size} px, not {tuple(images.shape[-2:])}.")
        wanted = set(range(self.rows) if rows is None else rows)
        drawer, seen = self._drawer[0], []
        drawn_rows = set(range(drawer.rows_at(min(BODY_PX, drawer.size))))

        code = self.start.expand(len(images), -1, -1)
        picture = self._draw(self.start).expand(len(images), -1, -1, -1)
        for left in reversed(range(self.passes)):
            needed = wanted if left == 0 else wanted | drawn_rows
            code = code + self._look(images, needed, [picture])
            if left:
                picture = self._draw(code)
                seen.append(picture)
        absent = [row for row in range(self.rows) if row not in wanted]
        code = self.normalize(code)
        if absent:
            keep = torch.tensor([row in wanted for row in range(self.rows)], device=code.device)
            code = code * keep[:, None]
        return code, seen

    def _draw(self, code: Tensor) -> Tensor:
        """What the generator makes of codes that are not normalised yet, (B, 3, 64, 64)."""
        drawer = self._drawer[0]
        picture = drawer.draw_at(min(BODY_PX, drawer.size), self.normalize(code))
        if picture.shape[-1] != BODY_PX:
            picture = interpolate(picture, size=(BODY_PX, BODY_PX), mode="bilinear", align_corners=False)
        return picture

    def _apply(self, fn, recurse=True):
        for drawer in self._drawer:  # a device or dtype is shared with what it draws with
            drawer._apply(fn, recurse)
        return super()._apply(fn, recurse)
