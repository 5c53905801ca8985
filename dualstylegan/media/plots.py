"""Curves of a training run as one picture: a small plot for each figure, what was logged and its running mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from dualstylegan.media.sheets import INK, PAPER, font_of, line_height, shortened

LINE, FAINT, FRAME = (31, 98, 176), (185, 208, 234), (205, 205, 205)
PLOT_PX, GAP_PX = (320, 150), 14
MEAN_OVER = 0.05  # of the points, on either side


def line_plots(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, title: str = "", columns: int = 3
) -> np.ndarray:
    """Figures by name, each (steps, values), as small plots with their last mean, smallest and largest value.

    Returns uint8 (H, W, 3). What is not finite is left out of a curve.
    """
    curves = {name: cleaned for name, points in series.items() if len((cleaned := _finite(*points))[0])}
    columns = max(1, min(columns, len(curves)))
    font, head_font = font_of(12), font_of(16)
    caption_px, head_px = line_height(font) + 4, line_height(head_font) + GAP_PX if title else 0
    cell = PLOT_PX[0] + GAP_PX, PLOT_PX[1] + 2 * caption_px + GAP_PX
    rows = max(1, math.ceil(len(curves) / columns))
    page = Image.new("RGB", (columns * cell[0] + GAP_PX, head_px + rows * cell[1] + GAP_PX), PAPER)
    draw = ImageDraw.Draw(page)
    if title:
        draw.text((GAP_PX, GAP_PX // 2), shortened(title, head_font, page.width - 2 * GAP_PX), INK, head_font)

    for number, (name, (steps, values)) in enumerate(curves.items()):
        row, column = divmod(number, columns)
        left, top = GAP_PX + column * cell[0], head_px + GAP_PX + row * cell[1]
        means = _running_mean(values)
        draw.text((left, top), shortened(f"{name}  {means[-1]:.4g}", font, PLOT_PX[0]), INK, font)
        box = (left, top + caption_px, left + PLOT_PX[0], top + caption_px + PLOT_PX[1])
        draw.rectangle(box, outline=FRAME)
        # Most of it, not the spike of the first steps: from the 1st to the 99th percentile.
        low, high = np.percentile(values, (1, 99)) if len(values) > 20 else (values.min(), values.max())
        for curve, ink, width in ((values, FAINT, 1), (means, LINE, 2)):
            points = _placed(steps, curve, (low, high), box)
            draw.line(points, ink, width) if len(points) > 1 else draw.point(points, ink)
        below = f"{steps[0]:g} to {steps[-1]:g}; {values.min():.3g} to {values.max():.3g}"
        draw.text((left, box[3] + 2), shortened(below, font, PLOT_PX[0]), INK, font)
    return np.asarray(page)


def _finite(steps: Sequence[float], values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(steps, float), np.asarray(values, float)
    good = np.isfinite(x) & np.isfinite(y)
    return x[good], y[good]


def _running_mean(values: np.ndarray) -> np.ndarray:
    reach = int(MEAN_OVER * len(values))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    first, last = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def _placed(
    steps: np.ndarray, values: np.ndarray, span: tuple[float, float], box: tuple[int, int, int, int]
) -> list[tuple[float, float]]:
    left, top, right, bottom = box
    low, high = span
    x = (steps - steps[0]) / (steps[-1] - steps[0] or 1)
    y = ((values - low) / (high - low or 1)).clip(0, 1)
    return list(zip(left + 2 + x * (right - left - 4), bottom - 2 - y * (bottom - top - 4), strict=True))
