"""The official release's files, read safely: the public door to `dualstylegan.models.official`."""

from dualstylegan.models.official import (
    load_arcface,
    load_codes,
    load_encoder,
    load_generator,
    load_lpips,
    load_pretrained,
    load_sampler,
    load_vgg,
)

__all__ = [
    "load_arcface",
    "load_codes",
    "load_encoder",
    "load_generator",
    "load_lpips",
    "load_pretrained",
    "load_sampler",
    "load_vgg",
]
