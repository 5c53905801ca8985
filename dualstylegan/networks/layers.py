"""The pieces StyleGAN2 is made of: equalised layers, the [1, 3, 3, 1] filter, modulated convolutions.

Feature maps are (B, C, H, W); everything works on any memory format and keeps channels-last maps channels-last.

Precision. Parameters stay in float32. Under `torch.autocast` the feature maps take the autocast dtype (bfloat16 or
float16), while style vectors, demodulation, instance statistics and the RGB sum stay in the parameters' own dtype:
`feature_dtype` decides, and the networks switch autocast off inside so that nothing else is cast behind their back.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SQRT2 = math.sqrt(2)
SLOPE = 0.2


def feature_dtype(parameter: Tensor) -> torch.dtype:
    """The dtype feature maps are computed in: autocast's where it is on, else that of `parameter`."""
    kind = parameter.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return parameter.dtype


def without_autocast(parameter: Tensor) -> AbstractContextManager:
    """A context in which the code below decides every dtype itself."""
    kind = parameter.device.type
    # the meta device, on which operations are counted, knows no autocast
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2, in place: the input is always a fresh product of the layer itself."""
    return F.leaky_relu(x, SLOPE, inplace=True)


class PixelNorm(nn.Module):
    """x / rms(x) over the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-8)


class EqualLinear(nn.Module):
    """Linear layer with equalised learning rate: weight * lr_mul / sqrt(in), bias * lr_mul.

    Maps (..., in) to (..., out). `activate` adds a leaky ReLU of gain sqrt 2.
    """

    def __init__(
        self, in_features: int, out_features: int, *, lr_mul: float = 1.0, bias: float = 0.0, activate: bool = False
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_mul)
        self.bias = nn.Parameter(torch.full((out_features,), bias / lr_mul))
        self.lr_mul = lr_mul
        self.weight_gain = lr_mul / math.sqrt(in_features)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        # max(x, 0.2 x) is positively homogeneous, so its gain can go into the layer before it
        gain = SQRT2 if self.activate else 1.0
        x = F.linear(x, self.weight * (self.weight_gain * gain), self.bias * (self.lr_mul * gain))
        return leaky_relu(x) if self.activate else x


class EqualConv(nn.Module):
    """Convolution with equalised learning rate: weight / sqrt(in * k^2). `activate`: leaky ReLU of gain sqrt 2."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        activate: bool = False,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.stride, self.padding = stride, padding
        self.gain = (SQRT2 if activate else 1.0) / math.sqrt(in_channels * kernel_size**2)
        self.bias_gain = SQRT2 if activate else 1.0
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight * self.gain).to(x.dtype)
        bias = None if self.bias is None else (self.bias * self.bias_gain).to(x.dtype)
        x = F.conv2d(x, weight, bias, stride=self.stride, padding=self.padding)
        return leaky_relu(x) if self.activate else x


class MappingNetwork(nn.Sequential):
    """PixelNorm, then activated linear layers with lr_mul 0.01: f (8 layers) and T_s (2). (..., dim) to (..., dim)."""

    def __init__(self, dim: int, layers: int):
        super().__init__(PixelNorm(), *(EqualLinear(dim, dim, lr_mul=0.01, activate=True) for _ in range(layers)))


def smooth(
    x: Tensor, padding: tuple[int, int], *, gain: float = 1.0, stride: int = 1, bias: Tensor | None = None
) -> Tensor:
    """Filter every channel with [1, 3, 3, 1] x [1, 3, 3, 1], zero-padded by (before, after) on both axes."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device, dtype=x.dtype)
    kernel = (torch.outer(taps, taps) * (gain / 64)).expand(x.shape[1], 1, 4, 4)
    before, after = padding
    if before != after:
        x, before = F.pad(x, (before, after, before, after)), 0
    return F.conv2d(x, kernel, bias, stride=stride, padding=before, groups=x.shape[1])


def halve(x: Tensor) -> Tensor:
    """Half the size: the [1, 3, 3, 1] filter with padding (1, 1), every other pixel kept."""
    if x.dtype != torch.bfloat16 or x.device.type != "cpu":
        return smooth(x, (1, 1), stride=2)
    # On a CPU the gradient of a strided depthwise convolution in bfloat16 costs ten times its float32 one, so the
    # filter is factored: first [1, 2, 1] at every pixel, then the mean of two neighbours.
    taps = torch.tensor([1.0, 2.0, 1.0], device=x.device, dtype=x.dtype)
    kernel = (torch.outer(taps, taps) / 16).expand(x.shape[1], 1, 3, 3)
    return F.avg_pool2d(F.conv2d(x, kernel, padding=1, groups=x.shape[1]), 2)


def upsample_image(x: Tensor) -> Tensor:
    """Twice the size, zeros between the samples, then the [1, 3, 3, 1] filter with gain 4 and padding (2, 1)."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device, dtype=x.dtype)
    kernel = (torch.outer(taps, taps) / 16).expand(x.shape[1], 1, 4, 4)
    return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU; `up` doubles the size (Karras et al. 2020, eqs. 1 and 3).

    Activations are modulated, not weights, so a batch of styles is one convolution: x * style, the shared weight,
    then x * demodulation, where demodulation = 1 / ||weight * style|| per output channel. Only when no gradient is
    recorded and all images share one style may both go into the weight, which saves two passes over large maps.
    """

    def __init__(self, in_channels: int, out_channels: int, style_dim: int, *, up: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.affine = EqualLinear(style_dim, in_channels, bias=1.0)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.gain = 1 / math.sqrt(in_channels * 9)
        self.up = up

    def _modulation(self, w_plus: Tensor) -> tuple[Tensor, Tensor]:
        """Factors (B, in) before and (B, out) after the convolution, the latter with the activation's gain sqrt 2."""
        style = self.affine(w_plus) * self.gain
        demodulation = torch.rsqrt(style.square() @ self.weight.square().sum(dim=(2, 3)).T + 1e-8)
        return style, demodulation * SQRT2

    def styled_weight(self, w_plus: Tensor) -> Tensor:
        """The weight (out, in, 3, 3) of one row of W+ (1, style_dim), modulated and demodulated."""
        before, after = self._modulation(w_plus)
        return self.weight * before[0][:, None, None] * after[0][:, None, None, None]

    def forward(self, x: Tensor, w_plus: Tensor, noise: Tensor, styled_weight: Tensor | None = None) -> Tensor:
        """Features (B, in, H, W), this layer's row of W+ (B, style_dim), noise (1 or B, 1, H', W').

        `styled_weight`, computed earlier for the one style of all images, takes the place of `w_plus`.
        """
        noise = (noise.to(self.bias.dtype) * (self.noise_strength * SQRT2)).to(x.dtype)
        bias = (self.bias * SQRT2).to(x.dtype)
        if styled_weight is None and not torch.is_grad_enabled() and len(w_plus) == 1 and self._large(x):
            styled_weight = self.styled_weight(w_plus)
        if styled_weight is not None:
            return leaky_relu(self._convolve(x, styled_weight.to(x.dtype), bias).add_(noise))

        before, after = self._modulation(w_plus)
        x = self._convolve(x * before.to(x.dtype)[:, :, None, None], self.weight.to(x.dtype))
        x = torch.addcmul(bias[:, None, None], x, after.to(x.dtype)[:, :, None, None])
        return leaky_relu(x + noise if torch.is_grad_enabled() else x.add_(noise))

    def _large(self, x: Tensor) -> bool:
        """Whether a pass over the maps costs more than one over the weight."""
        out_channels, in_channels = self.weight.shape[:2]
        return x.shape[2] * x.shape[3] * (in_channels + out_channels * (4 if self.up else 1)) > self.weight.numel()

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not self.up:
            return F.conv2d(x, weight, bias, padding=1)
        return smooth(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), (1, 1), gain=4, bias=bias)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to RGB, without demodulation. The result is in the parameters' dtype."""

    def __init__(self, in_channels: int, style_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, in_channels, 1, 1))
        self.affine = EqualLinear(style_dim, in_channels, bias=1.0)
        self.bias = nn.Parameter(torch.zeros(3))
        self.gain = 1 / math.sqrt(in_channels)

    def forward(self, x: Tensor, w_plus: Tensor) -> Tensor:
        """Features (B, in, H, W) and this layer's row of W+ (B, style_dim) to (B, 3, H, W)."""
        style = self.affine(w_plus) * self.gain
        if len(style) == 1:
            x = F.conv2d(x, (self.weight * style[0][:, None, None]).to(x.dtype))
        else:
            x = F.conv2d(x * style.to(x.dtype)[:, :, None, None], self.weight.to(x.dtype))
        return x.to(self.bias.dtype) + self.bias[:, None, None]
