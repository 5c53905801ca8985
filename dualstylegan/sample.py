"""Random portraits of a style, and blends between its exemplars.

`Sampling` is the library; `sample_files`, of `sample_portraits` and `sample_blend`, is the verb: it yields events and
writes files.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dualstylegan.errors import UsageError, did_you_mean
from dualstylegan.events import Event, counted
from dualstylegan.media.film.clip import CLIP_SUFFIXES, write_clip
from dualstylegan.media.images import check_format, from_tensor, write_picture
from dualstylegan.media.paths import kind_of
from dualstylegan.media.plan import Destination, refuse_anothers
from dualstylegan.media.sheets import PAPER, contact_sheet
from dualstylegan.models import library
from dualstylegan.models.codes import extrinsic_code
from dualstylegan.models.library import load_style
from dualstylegan.models.style import Style
from dualstylegan.stylizing.drawing import Drawing
from dualstylegan.stylizing.settings import SamplingSettings
from dualstylegan.training.optimize import portrait_seed
from dualstylegan.training.samplers import PARTS, part_of

FIXABLE = ("content", "color", "structure")
JITTER = 0.05  # deviation of the noise on an exemplar where a style has no sampling networks, as these are trained
CELL_PX = 256


class Codes(NamedTuple):
    """Faces `intrinsic` (N, rows, dim) in Z+ and their styles `extrinsic` (N, rows, dim) in W+."""

    intrinsic: Tensor
    extrinsic: Tensor


class Sampling(Drawing):
    """Random portraits of one style.

    `style` is NAME, or NAME:ID or a blend for faces in that exemplar's style, or a loaded Style. None for a setting is
    the style's own default. All chance comes from (seed, number of the picture), so the fifth picture is the same
    however many are drawn.
    """

    def __init__(
        self,
        style: str | Style,
        settings: SamplingSettings | None = None,
        **keywords: Any,
    ):
        """`keywords` are settings by name."""
        super().__init__(replace(settings or SamplingSettings(), **keywords))
        found = library.obtain(style) if isinstance(style, str) else library.found_in(style)
        self.take(found, load_style(found, encoder=False) if isinstance(style, str) else style)
        self.exemplar = None
        if any(part.exemplar is not None for part in self.found.request.parts):
            self.exemplar = self._exemplar()

    def draw(self, count: int, seed: int = 1, fix: Collection[str] = ()) -> Codes:
        """Codes of pictures 0 to `count` - 1. What is in `fix` (content, color, structure) is drawn once for all.

        Of a style given with an exemplar, the parts in `fix` are the exemplar's and the others are drawn; without color
        and structure in `fix` both are the exemplar's. Raises UsageError for other words in `fix`.
        """
        for word in fix:
            if word not in FIXABLE:
                raise UsageError(f"'{word}' cannot be fixed.{did_you_mean(word, FIXABLE)} It is {', '.join(FIXABLE)}.")
        drawn = [self._draw_one(seed, number, fix) for number in range(count)]
        intrinsic, extrinsic = (torch.stack(codes) for codes in zip(*drawn, strict=True))
        return Codes(intrinsic, extrinsic)

    def blend(self, exemplars: Sequence[int | str], shares: Tensor, seed: int = 1) -> Codes:
        """One random face in blends of exemplars: `shares` (N, len(exemplars)), rows summing to 1, mixed in W+."""
        with torch.no_grad():
            anchors = self._mapped(torch.stack([self.style.bank[which] for which in exemplars]))
        extrinsic = torch.einsum("ne,erd->nrd", shares.to(anchors), anchors)
        return Codes(self._content(seed, 0).expand(len(shares), -1, -1), extrinsic)

    def render(self, codes: Codes) -> Iterator[np.ndarray]:
        """Pictures uint8 (S, S, 3), one by one, computed in batches that are halved when memory runs out."""
        for images in self.in_batches(self._render_batch, *codes):
            yield from from_tensor(images)

    @torch.no_grad()
    def _render_batch(self, intrinsic: Tensor, extrinsic: Tensor) -> Tensor:
        """Images (B, 3, S, S)."""
        with self.autocast():
            return self.model(
                intrinsic.to(self.device),
                extrinsic.to(self.device),
                weights=self.weights,
                truncation=self.truncation,
                extrinsic_space="w+",
            )

    def _draw_one(self, seed: int, number: int, fix: Collection[str]) -> tuple[Tensor, Tensor]:
        content = self._content(seed, 0 if "content" in fix else number)
        exemplar_parts = [part for part in PARTS if part in fix] or list(PARTS)
        parts = []
        for part in PARTS:
            if self.exemplar is not None and part in exemplar_parts:
                parts.append(part_of(self.exemplar, part))
            else:
                parts.append(self._random_part(part, seed, 0 if part in fix else number))
        return content, torch.cat(parts, dim=1)[0]

    def _content(self, seed: int, number: int) -> Tensor:
        """(rows, dim) in Z+."""
        return self.style.sample_intrinsic(1, _chance(seed, number, "content"))[0].cpu()

    @torch.no_grad()
    def _random_part(self, part: str, seed: int, number: int) -> Tensor:
        """Structure or colour rows (1, rows, dim) in W+ of a random style."""
        chance = _chance(seed, number, part)
        sampler = (self.style.samplers or {}).get(part)
        if sampler is not None:
            code = sampler.eval()(torch.randn(1, sampler.latent, generator=chance))
        else:
            codes = part_of(self.style.bank.extrinsic, part)
            which = torch.randint(len(codes), (1,), generator=chance)
            code = codes[which] + JITTER * torch.randn(codes[which].shape, generator=chance)
        return self._mapped(code)

    @torch.no_grad()
    def _exemplar(self) -> Tensor:
        """(1, rows, dim) in W+: the style's exemplar or blend that was asked for."""
        found = extrinsic_code(self.found.exemplars, self.style.bank, mapping=self._mapped)
        return found.code[None].cpu() if found.space == "w+" else self._mapped(found.code[None])

    def _mapped(self, codes: Tensor) -> Tensor:
        """Z+ to W+, on the CPU; any number of rows."""
        return self.model.generator.mapping(codes.to(self.device)).cpu()


def _chance(seed: int, number: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(portrait_seed(seed, f"{purpose}/{number}"))


# Which shares of the exemplars a blend shows


def blend_grid(exemplars: int, steps: int) -> tuple[Tensor, list[list[int | None]]]:
    """(shares (N, exemplars), rows of picture numbers, None for an empty cell) of a grid with exemplars at its corners.

    Two make a row, three a triangle, four a square; `steps` pictures lie along an edge.
    """
    if not 2 <= exemplars <= 4:
        raise UsageError(f"A blend is between two, three or four exemplars, not {exemplars}.")
    if steps < 2:
        raise UsageError("A blend needs at least 2 pictures along an edge.")
    along = torch.linspace(0, 1, steps)
    shares: list[list[float]] = []
    cells: list[list[int | None]] = []
    if exemplars == 2:
        shares = [[1 - t, t] for t in along.tolist()]
        cells = [list(range(steps))]
    elif exemplars == 3:
        for down in range(steps):  # the first exemplar above, a row for every step towards the other two
            across = [i / down if down else 0.0 for i in range(down + 1)]
            t = down / (steps - 1)
            row = [len(shares) + i for i in range(down + 1)]
            shares += [[1 - t, t * (1 - u), t * u] for u in across]
            cells.append(row + [None] * (steps - down - 1))
    else:
        for v in along.tolist():
            cells.append([len(shares) + i for i in range(steps)])
            shares += [[(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v] for u in along.tolist()]
    return torch.tensor(shares), cells


def blend_loop(exemplars: int, frames: int) -> Tensor:
    """Shares (frames, exemplars) of a loop through the exemplars that slows down at each and ends where it began."""
    at = torch.arange(frames) * exemplars / frames
    leg = at.floor().long() % exemplars
    t = 0.5 - 0.5 * torch.cos(math.pi * (at - at.floor()))
    shares = torch.zeros(frames, exemplars)
    rows = torch.arange(frames)
    shares[rows, leg] += 1 - t
    shares[rows, (leg + 1) % exemplars] += t
    return shares


# The verb


def sample_output(output: str | Path | None, *, blend: bool = False, frames: int | None = None) -> Path:
    """Where samples go: a folder, or a sheet; a blend onto a sheet, with `frames` into a film. None: the default.

    Raises UsageError, before anything is drawn, for what cannot be written, and where a default name is a file that
    dsg has not made.
    """
    if output is None:
        output = Path("blend.mp4" if frames is not None else "blend.png") if blend else Path("samples")
        if not output.is_dir():
            refuse_anothers(output)
    out = Destination.of(output)
    if out.template is not None:
        raise UsageError(f"-o {output}: samples have no source to be named after. Name a folder or a file.")
    if frames is not None:
        if out.file is None or out.file.suffix.lower() not in CLIP_SUFFIXES:
            raise UsageError(f"{output}: frames make a film; name it with {', '.join(CLIP_SUFFIXES)}.")
    elif out.file is not None:
        check_format(out.file)
    elif blend:
        raise UsageError(f"{output}: a blend is drawn on one sheet; name a picture, or give --frames for a film.")
    return out.file or out.folder or Path()


def sample_files(
    style: str | Style,
    settings: SamplingSettings | None = None,
    output: str | Path | None = None,
    *,
    count: int = 16,
    seed: int = 1,
    fix: Collection[str] = (),
    blend: Sequence[int | str] | None = None,
    steps: int = 5,
    frames: int | None = None,
    fps: float = 25.0,
) -> Iterator[Event]:
    """`count` portraits, of which `fix` says what is the same in all; or the exemplars in `blend`, blended.

    Raises UsageError for what cannot be asked before the style is loaded, or fetched.
    """
    if frames is not None and blend is None:
        raise UsageError("--frames films a blend: name the exemplars with --blend 3,17.")
    if blend is not None and fix:
        raise UsageError("--blend keeps the content fixed and moves the style; leave out --fix.")
    sample_output(output, blend=blend is not None, frames=frames)
    sampling = Sampling(style, settings)
    if blend is None:
        return sample_portraits(sampling, output, count=count, seed=seed, fix=fix)
    return sample_blend(sampling, blend, output, steps=steps, frames=frames, fps=fps, seed=seed)


def sample_portraits(
    sampling: Sampling, output: str | Path | None = None, *, count: int = 16, seed: int = 1, fix: Collection[str] = ()
) -> Iterator[Event]:
    """Draw `count` random portraits into a folder, one file each, or onto a sheet where `output` names a picture."""
    output = sample_output(output)
    if count < 1:
        raise UsageError(f"The number of portraits is 1 or more, not {count}.")
    one_sheet = _names_a_picture(output)
    name = sampling.found.request.slug
    yield Event("plan", "sample", current=0, total=count)
    small = []
    for number, pixels in enumerate(sampling.render(sampling.draw(count, seed, fix))):
        if one_sheet and count > 1:
            small.append(_shrunk(pixels))
            yield Event("progress", "sample", current=number + 1, total=count)
            continue
        path = output if one_sheet else output / f"{name}-{seed}-{number:04d}.png"
        write_picture(path, pixels)
        yield Event("done", "sample", output=str(path), current=number + 1, total=count)
    if small:
        cell_px = small[0].shape[0]
        write_picture(output, contact_sheet(small, cell_px=max(96, cell_px), title=f"{name}, seed {seed}"))
        yield Event("done", "sample", output=str(output), current=count, total=count)
    yield Event("summary", "sample", output=str(output), message=f"{counted(count, 'portrait')} of {name} in {output}")


def sample_blend(
    sampling: Sampling,
    exemplars: Sequence[int | str],
    output: str | Path | None = None,
    *,
    steps: int = 5,
    frames: int | None = None,
    fps: float = 25.0,
    seed: int = 1,
) -> Iterator[Event]:
    """One random face in the blends of two to four exemplars: a grid, or with `frames` a clip that loops.

    `output` is a picture (blend.png) or a film (blend.mp4).
    """
    output = sample_output(output, blend=True, frames=frames)
    bank = sampling.style.bank
    numbers = [bank.index(which) for which in exemplars]
    if not 2 <= len(numbers) <= 4:
        raise UsageError(f"A blend is between two, three or four exemplars, not {len(numbers)}.")
    names = ", ".join(map(str, numbers))
    if frames is not None:
        if frames < 2 * len(numbers):
            raise UsageError(f"A loop through {len(numbers)} exemplars needs {2 * len(numbers)} frames or more.")
        yield from _write_loop(sampling, numbers, output, frames, fps, seed)
        message = f"{frames} frames through exemplars {names} of {sampling.style.name} in {output}"
    else:
        yield from _write_grid(sampling, numbers, output, steps, seed)
        message = f"Blends of exemplars {names} of {sampling.style.name} in {output}"
    yield Event("summary", "sample", output=str(output), message=message)


def _write_grid(sampling: Sampling, numbers: Sequence[int], output: Path, steps: int, seed: int) -> Iterator[Event]:
    shares, cells = blend_grid(len(numbers), steps)
    yield Event("plan", "sample", current=0, total=len(shares))
    pictures = []
    for pixels in sampling.render(sampling.blend(numbers, shares, seed)):
        pictures.append(_shrunk(pixels))
        yield Event("progress", "sample", current=len(pictures), total=len(shares))
    labels = [str(numbers[int(row.argmax())]) if row.max() == 1 else "" for row in shares]
    flat = [cell for row in cells for cell in row]
    blank = np.full((8, 8, 3), PAPER, np.uint8)
    sheet = contact_sheet(
        [blank if cell is None else pictures[cell] for cell in flat],
        ["" if cell is None else labels[cell] for cell in flat],
        columns=len(cells[0]),
        cell_px=max(96, pictures[0].shape[0]),
    )
    write_picture(output, sheet)
    yield Event("done", "sample", output=str(output), current=len(shares), total=len(shares))


def _write_loop(
    sampling: Sampling, numbers: Sequence[int], output: Path, frames: int, fps: float, seed: int
) -> Iterator[Event]:
    yield Event("plan", "sample", current=0, total=frames)
    pictures = sampling.render(sampling.blend(numbers, blend_loop(len(numbers), frames), seed))
    write_clip(output, pictures, fps=fps)
    yield Event("done", "sample", output=str(output), current=frames, total=frames)


def _names_a_picture(output: Path) -> bool:
    return kind_of(output) == "picture" and not output.is_dir()


def _shrunk(pixels: np.ndarray) -> np.ndarray:
    """At most CELL_PX wide, so that a sheet of large portraits fits into memory."""
    factor = max(1, pixels.shape[0] // CELL_PX)
    if factor == 1:
        return pixels
    side = pixels.shape[0] // factor
    blocks = pixels[: side * factor, : side * factor].reshape(side, factor, side, factor, 3)
    return (blocks.mean(axis=(1, 3)) + 0.5).astype(np.uint8)
