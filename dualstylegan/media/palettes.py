"""Pictures of 256 colours, for GIF."""

from __future__ import annotations

import numpy as np
from PIL import Image


def with_palette(picture: Image.Image) -> tuple[Image.Image, int | None]:
    """A palette image, and the number of its transparent colour: half transparent and less is transparent in a GIF."""
    if picture.mode != "RGBA":
        return _quantised(picture.convert("RGB"), 256), None
    clear = np.asarray(picture.getchannel("A")) < 128
    image = _quantised(picture.convert("RGB"), 255)
    if not clear.any():
        return image, None
    palette = (image.getpalette() or [])[: 3 * 255]
    number = len(palette) // 3
    pixels = np.asarray(image).copy()
    pixels[clear] = number
    turned = Image.fromarray(pixels, "P")
    turned.putpalette([*palette, 0, 0, 0])
    return turned, number


def _quantised(picture: Image.Image, most: int) -> Image.Image:
    colours = picture.getcolors(most)
    if colours is None:
        palette = picture.quantize(most, Image.Quantize.MEDIANCUT)
        return picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    known = np.array(sorted(colour for _, colour in colours), np.uint32)
    order = known @ np.array([65536, 256, 1], np.uint32)
    codes = np.asarray(picture).astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    image = Image.fromarray(np.searchsorted(order, codes).astype(np.uint8), "P")
    image.putpalette(known.astype(np.uint8).tobytes())
    return image
