"""Aligned portraits as destylization and refining take them: by name, at the model's size."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from dualstylegan.media.images import from_tensor, read_picture, to_tensor

PREVIEW_PX = 192


class Portrait(NamedTuple):
    """An aligned crop: the name that makes its ID, and its file."""

    name: str
    path: Path


def load_portrait(path: Path, size: int) -> Tensor:
    """An aligned crop as (3, size, size) in [-1, 1]. Raises BadFileError."""
    return resized(to_tensor(read_picture(path).pixels)[None], size)[0]


def resized(images: Tensor, size: int) -> Tensor:
    """Images (B, 3, H, W) at `size` px: the mean of what falls into a pixel when shrinking by a whole factor."""
    height, width = images.shape[-2:]
    if (height, width) == (size, size):
        return images
    if height == width and height % size == 0:
        return avg_pool2d(images, height // size)
    return interpolate(images, (size, size), mode="bilinear", antialias=height > size)


def preview(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] as uint8 (B, 3, P, P), small enough to be kept beside every result."""
    pixels = from_tensor(resized(images, min(images.shape[-1], PREVIEW_PX)))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)
