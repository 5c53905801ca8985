"""Grids and strips of pictures: numbered contact sheets, before/after strips, sample grids.

Pictures are uint8 (H, W, 3) RGB arrays of any size, one may be None (an empty cell); what comes back is one such array.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER = (250, 250, 250)
INK = (40, 40, 40)
EMPTY = (228, 228, 228)


def contact_sheet(
    images: Sequence[np.ndarray | None],
    labels: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    cell_px: int = 160,
    gap_px: int = 8,
    title: str | None = None,
) -> np.ndarray:
    """A grid of square cells, row by row, each picture fitted into its cell with its label under it.

    `labels` defaults to the positions 0, 1, ...; pass an empty sequence for none. `columns` None picks a landscape
    page. A label too long for its cell keeps its start and its end.
    """
    if labels is None:
        labels = [str(i) for i in range(len(images))]
    count = max(1, len(images))
    columns = min(count, columns or math.ceil(math.sqrt(count * 1.6)))
    rows = math.ceil(count / columns)

    font = font_of(max(11, cell_px // 11))
    caption_px = line_height(font) + 4 if any(labels) else 0
    title_font = font_of(max(14, cell_px // 8))
    title_px = line_height(title_font) + gap_px if title else 0
    width = columns * (cell_px + gap_px) + gap_px
    height = title_px + rows * (cell_px + caption_px + gap_px) + gap_px
    page = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    if title:
        draw.text((gap_px, gap_px), shortened(title, title_font, width - 2 * gap_px), INK, title_font)

    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        left = gap_px + column * (cell_px + gap_px)
        top = title_px + gap_px + row * (cell_px + caption_px + gap_px)
        if image is None:
            draw.rectangle((left, top, left + cell_px - 1, top + cell_px - 1), EMPTY)
        else:
            picture = _fit(image, cell_px, cell_px)
            page.paste(picture, (left + (cell_px - picture.width) // 2, top + (cell_px - picture.height) // 2))
        if i < len(labels) and labels[i]:
            text = shortened(labels[i], font, cell_px)
            draw.text((left + cell_px / 2, top + cell_px + 2), text, INK, font, anchor="ma")
    return np.asarray(page)


def strip(
    *rows: np.ndarray | Sequence[np.ndarray | None],
    labels: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
    height_px: int = 256,
    gap_px: int = 8,
) -> np.ndarray:
    """Rows of pictures of one height, side by side: `strip([before, after], labels=["photo", "toon:7"])`.

    `labels` head the columns, `row_labels` stand at the left. Columns are as wide as their widest picture.
    """
    fitted = [[None if image is None else _scale_to_height(image, height_px) for image in row] for row in rows]
    columns = max((len(row) for row in fitted), default=0)
    widths = [
        max((image.width for row in fitted for image in row[c : c + 1] if image is not None), default=height_px)
        for c in range(columns)
    ]
    font = font_of(max(12, height_px // 16))
    head_px = line_height(font) + 4 if labels and any(labels) else 0
    side_px = min(2 * height_px, max((math.ceil(font.getlength(t)) for t in row_labels or ()), default=0))
    side_px += gap_px if side_px else 0

    width = side_px + sum(widths) + gap_px * (columns + 1)
    page = Image.new("RGB", (width, head_px + len(fitted) * (height_px + gap_px) + gap_px), PAPER)
    draw = ImageDraw.Draw(page)
    lefts = [side_px + gap_px + sum(widths[:c]) + gap_px * c for c in range(columns)]
    for text, left, column_px in zip(labels or (), lefts, widths, strict=False):
        draw.text((left + column_px / 2, gap_px), shortened(text, font, column_px), INK, font, anchor="ma")
    for r, row in enumerate(fitted):
        top = head_px + gap_px + r * (height_px + gap_px)
        if row_labels and r < len(row_labels):
            text = shortened(row_labels[r], font, side_px - gap_px)
            draw.text((gap_px, top + height_px / 2), text, INK, font, anchor="lm")
        for c in range(columns):
            picture = row[c] if c < len(row) else None
            if picture is None:
                draw.rectangle((lefts[c], top, lefts[c] + widths[c] - 1, top + height_px - 1), EMPTY)
            else:
                page.paste(picture, (lefts[c] + (widths[c] - picture.width) // 2, top))
    return np.asarray(page)


def _fit(image: np.ndarray, width_px: int, height_px: int) -> Image.Image:
    picture = Image.fromarray(image)
    scale = min(width_px / picture.width, height_px / picture.height)
    return _resize(picture, scale)


def _scale_to_height(image: np.ndarray, height_px: int) -> Image.Image:
    picture = Image.fromarray(image)
    width_px = max(1, round(picture.width * height_px / picture.height))
    return picture if picture.height == height_px else picture.resize((width_px, height_px), Image.Resampling.LANCZOS)


def _resize(picture: Image.Image, scale: float) -> Image.Image:
    if scale == 1:
        return picture
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)


def font_of(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def line_height(font) -> int:
    return math.ceil(font.getbbox("Ag|")[3])


def shortened(text: str, font, width_px: float) -> str:
    """The text itself, or its start and end around an ellipsis: numbered file names differ at the end."""
    if font.getlength(text) <= width_px:
        return text
    for kept in range(len(text) - 1, 1, -1):
        short = text[: kept - kept // 2] + "…" + text[len(text) - kept // 2 :]
        if font.getlength(short) <= width_px:
            return short
    return "…"
