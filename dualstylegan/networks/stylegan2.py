"""StyleGAN2 (Karras et al. 2020): the generator g with its mapping network f, and the discriminator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .layers import (
    SQRT2,
    EqualConv,
    EqualLinear,
    MappingNetwork,
    StyledConv,
    ToRGB,
    feature_dtype,
    halve,
    smooth,
    upsample_image,
    without_autocast,
)

# Config F: 512 channels up to 64 px, then half as many at every doubling.
CONFIG_F = {resolution: min(512, 32768 // resolution) for resolution in (4, 8, 16, 32, 64, 128, 256, 512, 1024)}

ONE_BY_ONE_FROM = 9  # without gradients, a CPU renders the 128-px layers and up for one image at a time

Box = tuple[int, int, int, int]  # left, top, right, bottom; px of some resolution

CUT_FROM = 7  # of a region, the first convolution that need not see the whole map: before it stands instance norm
REACH = 4  # px of its own size that a block's two convolutions and its filter read beyond what they give


def channel_table(size: int, channels: Mapping[int, int] | None) -> dict[int, int]:
    """Width at every resolution from 4 to `size`; None is config F.

    Raises UsageError for a size that is no power of two from 32 to 1024 or a table with a hole.
    """
    if size not in (32, 64, 128, 256, 512, 1024):
        raise UsageError(f"A model's size is 32, 64, 128, 256, 512 or 1024 px, not {size}.")
    table = CONFIG_F if channels is None else {int(resolution): int(width) for resolution, width in channels.items()}
    resolutions = [2**level for level in range(2, int(math.log2(size)) + 1)]
    missing = [resolution for resolution in resolutions if resolution not in table]
    if missing:
        raise UsageError(f"The channel table of a {size}-px model has no width for {missing[0]} px.")
    return {resolution: table[resolution] for resolution in resolutions}


class Generator(nn.Module):
    """g and its mapping network f.

    A code has one row per layer that reads it: `rows` = 2 * log2(size) - 2, 18 at 1024 px. Convolution i reads row i;
    the ToRGB after convolutions i and i + 1 shares row i + 2 with the next convolution.

    Under `torch.autocast` the feature maps are computed in its dtype, all else in the parameters' (layers.py); the
    image comes back in the parameters' dtype.
    """

    def __init__(
        self,
        size: int,
        *,
        style_dim: int = 512,
        mapping_layers: int = 8,
        channels: Mapping[int, int] | None = None,
    ):
        super().__init__()
        self.size = size
        self.style_dim = style_dim
        self.channels = channel_table(size, channels)
        self.rows = 2 * int(math.log2(size)) - 2  # 18 at 1024 px

        self.mapping = MappingNetwork(style_dim, mapping_layers)
        self.constant = nn.Parameter(torch.randn(1, self.channels[4], 4, 4))
        self.convs = nn.ModuleList([StyledConv(self.channels[4], self.channels[4], style_dim)])
        self.to_rgbs = nn.ModuleList([ToRGB(self.channels[4], style_dim)])
        for resolution, width in list(self.channels.items())[1:]:
            self.convs.append(StyledConv(self.channels[resolution // 2], width, style_dim, up=True))
            self.convs.append(StyledConv(width, width, style_dim))
            self.to_rgbs.append(ToRGB(width, style_dim))
        for i, side in enumerate(self.noise_sizes()):
            self.register_buffer(f"noise_{i}", torch.randn(1, 1, side, side))

    @property
    def mapping_layers(self) -> int:
        return len(self.mapping) - 1

    def noise_sizes(self) -> list[int]:
        """Side of every convolution's noise map: 4, 8, 8, 16, 16, ..."""
        return [4 * 2 ** ((i + 1) // 2) for i in range(self.rows - 1)]

    def stored_noise(self) -> list[Tensor]:
        """The model's own noise maps, rows - 1 of them, each (1, 1, S, S)."""
        return [getattr(self, f"noise_{i}") for i in range(self.rows - 1)]

    def fresh_noise(self, batch: int, generator: torch.Generator | None = None) -> list[Tensor]:
        """New noise maps (batch, 1, S, S), drawn on the model's device, or on the CPU with a CPU `generator`."""
        device = self.constant.device if generator is None else generator.device
        return [
            torch.randn(batch, 1, s, s, generator=generator, device=device).to(self.constant)
            for s in self.noise_sizes()
        ]

    def to_w_plus(self, codes: Tensor, space: str = "z+") -> Tensor:
        """Codes (B, rows, dim), or (B, dim) for the same code in every row, in Z+ or W+, to W+ (B, rows, dim)."""
        rows_fit = codes.ndim == 2 or (codes.ndim == 3 and codes.shape[1] == self.rows)
        if not rows_fit or codes.shape[-1] != self.style_dim:
            raise UsageError(
                f"Codes for this model are (B, {self.rows}, {self.style_dim}) or (B, {self.style_dim}), "
                f"not {tuple(codes.shape)}."
            )
        if space not in ("z+", "w+"):
            raise UsageError(f"A code's space is 'z+' or 'w+', not '{space}'.")
        codes = codes.to(self.constant.dtype)
        w_plus = self.mapping(codes) if space == "z+" else codes
        return w_plus if w_plus.ndim == 3 else w_plus[:, None].expand(-1, self.rows, -1)

    def rows_at(self, size: int) -> int:
        """How many rows the layers up to `size` px read."""
        return 2 * int(math.log2(size)) - 2

    def draw_at(self, size: int, codes: Tensor) -> Tensor:
        """The RGB (B, 3, size, size) that the layers up to `size` px make of codes (B, rows or more, dim) in Z+,
        without noise."""
        dtype, rows = feature_dtype(self.constant), self.rows_at(size)
        with without_autocast(self.constant):
            w_plus = self.mapping(codes[:, :rows].to(self.constant.dtype))
            none = [self.constant.new_zeros(1, 1, side, side) for side in self.noise_sizes()[: rows - 1]]
            return self.synthesize(w_plus, none, dtype=dtype, rows=rows)

    def up_to(self, size: int) -> Generator:
        """A generator of `size` px with copies of these layers."""
        small = Generator(size, style_dim=self.style_dim, mapping_layers=self.mapping_layers, channels=self.channels)
        own = self.state_dict()
        small.load_state_dict({key: own[key] for key in small.state_dict()})
        return small.to(self.constant.device)

    def synthesize(
        self,
        w_plus: Tensor,
        noise: Sequence[Tensor],
        residuals: Sequence[Callable[[Tensor], Tensor]] = (),
        dtype: torch.dtype | None = None,
        styled_weights: Mapping[int, Tensor] | None = None,
        rows: int | None = None,
        region: Box | None = None,
    ) -> Tensor:
        """The image of W+ codes (B, rows, dim), or, with fewer `rows`, what the layers that read them make of them.

        `residuals[i]`, if there is one, maps the output of convolution i; `styled_weights[i]` is its weight for a style
        that all images share (StyledConv.styled_weight). Of a `region` (left, top, right, bottom; px of the image)
        only what it needs is computed from the 64-px layers on; the image is zero around it.
        """
        x = self.constant.to(dtype).expand(len(w_plus), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        whole, rows = (0, 0, 4, 4), rows or self.rows
        if region is None:
            return self._continue(0, x, None, whole, w_plus, noise, residuals, styled_weights or {}, {}, rows)
        needed = self._needed(region)
        part = self._continue(0, x, None, whole, w_plus, noise, residuals, styled_weights or {}, needed, rows)
        left, top = needed.get(self.size // 2, whole)[:2]
        part, (left, top, right, bottom) = _cut(part, (2 * left, 2 * top), region), region
        return nn.functional.pad(part, (left, self.size - right, top, self.size - bottom))

    def _needed(self, region: Box) -> dict[int, Box]:
        """At every size, the part of the features before the next block that reaches `region` of the image."""
        if not (0 <= region[0] < region[2] <= self.size and 0 <= region[1] < region[3] <= self.size):
            raise UsageError(f"A region lies within an image of {self.size} px, not {region}.")
        needed = {self.size: region}
        side = self.size
        while side > self.noise_sizes()[CUT_FROM - 1]:
            left, top, right, bottom = needed[side]
            side //= 2
            first = max(0, (left - REACH) // 2), max(0, (top - REACH) // 2)
            needed[side] = (*first, min(side, (right + REACH + 1) // 2), min(side, (bottom + REACH + 1) // 2))
        return needed

    def _continue(
        self,
        first: int,
        x: Tensor,
        image: Tensor | None,
        box: Box,
        w_plus: Tensor,
        noise: Sequence[Tensor],
        residuals: Sequence[Callable[[Tensor], Tensor]],
        styled_weights: Mapping[int, Tensor],
        needed: Mapping[int, Box],
        rows: int,
    ) -> Tensor:
        """The image, from features and RGB before convolution `first` on. They cover `box` of their size's map, and are
        cut to what is `needed` of it before they are doubled."""
        one_by_one = len(w_plus) > 1 and x.device.type == "cpu" and not torch.is_grad_enabled()
        for i in range(first, rows - 1):
            if one_by_one and i == ONE_BY_ONE_FROM and image is not None:
                # a processor is no faster on four large maps than on one, and one takes a quarter of the memory
                singles = []
                for n in range(len(w_plus)):
                    own_noise = [maps if len(maps) == 1 else maps[n : n + 1] for maps in noise]
                    one = slice(n, n + 1)
                    own = self._continue(
                        i, x[one], image[one], box, w_plus[one], own_noise, residuals, styled_weights, needed, rows
                    )
                    singles.append(own)
                return torch.cat(singles)

            if i % 2:  # the first convolution of a size: it doubles
                part = needed.get(self.noise_sizes()[i - 1], box)
                if part != box and image is not None:
                    x, image, box = _cut(x, box, part), _cut(image, box, part), part
                box = (2 * box[0], 2 * box[1], 2 * box[2], 2 * box[3])
            x = self.convs[i](x, w_plus[:, i], _cut(noise[i], (0, 0), box), styled_weights.get(i))
            if i < len(residuals):
                x = residuals[i](x)
            if i % 2 == 0:  # the second convolution of every resolution, and the only one at 4 px
                rgb = self.to_rgbs[i // 2](x, w_plus[:, i + 1])
                image = rgb if image is None else upsample_image(image) + rgb
        return cast(Tensor, image)

    def forward(
        self, codes: Tensor, *, space: str = "z+", truncation: float = 1.0, noise: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Codes (B, rows, dim) or (B, dim) to images (B, 3, size, size), RGB around [-1, 1], not clamped.

        `truncation` multiplies the W+ code (towards zero). `noise`: None for the stored maps, or rows - 1 maps
        (1 or B, 1, S, S). Raises UsageError for codes of another shape.
        """
        dtype = feature_dtype(self.constant)
        with without_autocast(self.constant):
            w_plus = self.to_w_plus(codes, space) * truncation
            return self.synthesize(w_plus, self.stored_noise() if noise is None else noise, dtype=dtype)


def _cut(x: Tensor, box: Sequence[int], part: Box) -> Tensor:
    """`part` of a map (B, C, H, W) whose first pixel lies at the left and top of `box`."""
    (left, top), (x1, y1, x2, y2) = box[:2], part
    return x[..., y1 - top : y2 - top, x1 - left : x2 - left]


class ResidualBlock(nn.Module):
    """Discriminator block: two 3x3 convolutions, the second halving the size, beside a 1x1 shortcut; sum / sqrt 2."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = EqualConv(in_channels, in_channels, 3, padding=1, activate=True)
        self.conv2 = EqualConv(in_channels, out_channels, 3, stride=2, activate=True)
        self.skip = EqualConv(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(smooth(self.conv1(x), (2, 2)))
        x = self.skip(halve(x))
        return (x + y) * (1 / SQRT2)


def group_deviation(x: Tensor, group: int = 4) -> Tensor:
    """One more channel: the standard deviation over groups of `group` images, averaged over everything else.

    Karras et al. 2018, section 3. Groups are (g, B / g): images i, i + B / g, ... stand together. A batch that g does
    not divide takes the largest smaller g that does.
    """
    b, _, h, w = x.shape
    group = max(g for g in range(1, min(group, b) + 1) if b % g == 0)
    y = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    y = y.reshape(group, b // group, *x.shape[1:])
    y = torch.sqrt(y.var(dim=0, unbiased=False) + 1e-8).mean(dim=(1, 2, 3))
    y = y.repeat(group)[:, None, None, None].expand(-1, 1, h, w)
    return torch.cat([x, y.to(x.dtype)], dim=1)


class Discriminator(nn.Module):
    """StyleGAN2's residual discriminator. Under `torch.autocast` its feature maps take the autocast dtype."""

    def __init__(self, size: int, *, channels: Mapping[int, int] | None = None, colors: int = 3):
        super().__init__()
        self.size = size
        self.channels = channel_table(size, channels)
        self.from_rgb = EqualConv(colors, self.channels[size], 1, activate=True)
        self.blocks = nn.ModuleList(
            ResidualBlock(self.channels[resolution], self.channels[resolution // 2])
            for resolution in reversed(self.channels)
            if resolution > 4
        )
        width = self.channels[4]
        self.last_conv = EqualConv(width + 1, width, 3, padding=1, activate=True)
        self.hidden = EqualLinear(width * 4 * 4, width, activate=True)
        self.logit = EqualLinear(width, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, colors, size, size) in [-1, 1] to logits (B, 1), positive for real."""
        dtype = feature_dtype(self.logit.weight)
        with without_autocast(self.logit.weight):
            x = self.from_rgb(images.to(dtype, memory_format=torch.channels_last))
            for block in self.blocks:
                x = block(x)
            x = self.last_conv(group_deviation(x))
            x = x.to(self.logit.weight.dtype).flatten(1)  # rows of C, H, W whatever the memory format
            return self.logit(self.hidden(x))
