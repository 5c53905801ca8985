"""DualStyleGAN (Yang et al. 2022): g plus an extrinsic style path that carries an exemplar's style."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..choices import STRUCTURE_ROWS
from ..errors import UsageError
from .layers import EqualConv, EqualLinear, MappingNetwork, StyledConv, feature_dtype, without_autocast
from .stylegan2 import Box, Generator


class AdaIN(nn.Module):
    """Instance normalisation, then gamma and beta from the style (Huang and Belongie 2017)."""

    def __init__(self, channels: int, style_dim: int):
        super().__init__()
        self.affine = nn.Linear(style_dim, 2 * channels)  # gamma first, then beta
        with torch.no_grad():
            self.affine.bias[:channels] = 1
            self.affine.bias[channels:] = 0

    def forward(self, x: Tensor, gamma_beta: Tensor) -> Tensor:
        """Features (B, C, H, W); gamma_beta (1 or B, 2 C), from `affine`, in the statistics' dtype."""
        y = x.to(gamma_beta.dtype)
        variance, mean = torch.var_mean(y, dim=(2, 3), unbiased=False, keepdim=True)
        gamma, beta = gamma_beta[:, :, None, None].chunk(2, dim=1)
        scale = gamma * torch.rsqrt(variance + 1e-5)
        return torch.addcmul(beta - mean * scale, y, scale).to(x.dtype)


class ModRes(nn.Module):
    """Modulative residual block: x + weight * conv2(AdaIN2(conv1(AdaIN1(x, s)), s)). Starts near x."""

    def __init__(self, channels: int, style_dim: int):
        super().__init__()
        self.conv1 = EqualConv(channels, channels, 3, padding=1, activate=True)
        self.conv2 = EqualConv(channels, channels, 3, padding=1, activate=True)
        self.norm1 = AdaIN(channels, style_dim)
        self.norm2 = AdaIN(channels, style_dim)
        with torch.no_grad():
            self.conv1.weight.mul_(0.01)
            # AdaIN2 undoes conv1's factor, so this one alone decides how far from zero the block starts: the paper's
            # 0.01, seven times over, moves the picture by 4 %; stage I promises 1 %
            self.conv2.weight.mul_(0.001)

    def affines(self, style: Tensor) -> tuple[Tensor, Tensor]:
        """Both AdaINs' (gamma, beta) of structure styles s (B, dim)."""
        return self.norm1.affine(style), self.norm2.affine(style)

    def forward(self, x: Tensor, affines: tuple[Tensor, Tensor], weight: float | Tensor) -> Tensor:
        """Features (B, C, H, W), the affines of the style, how much of it: a number or (B, 1, 1, 1)."""
        y = self.conv1(self.norm1(x, affines[0]))
        y = self.conv2(self.norm2(y, affines[1]))
        if isinstance(weight, Tensor):
            return x + y * weight.to(y.dtype)
        return torch.add(x, y, alpha=weight)


@dataclass(frozen=True)
class PreparedStyle:
    """An extrinsic code's share of the network, computed once: pass it to `DualStyleGAN.forward` as `extrinsic`."""

    weights: tuple[float, ...] | Tensor
    affines: tuple[tuple[Tensor, Tensor], ...]  # per structure row, of both AdaINs: (B or 1, 2 C)
    color: Tensor  # T_c of the colour rows (B or 1, rows - 7, dim)
    styled_weights: dict[int, Tensor]  # of the convolutions whose style has no part of the face's own


class DualStyleGAN(nn.Module):
    """G(z_i, z_e, w): the generator and its extrinsic path T_s, ModRes (rows 0-6) and T_c (rows 7 and up).

    A fresh model is stage I of the paper: ModRes is negligible and T_c the identity, so that G(z1, z2, 1) has g's
    structure of z1 and g's colours of z2.

    Precision is the caller's: parameters stay float32, and inside `torch.autocast(device_type, dtype=...)` the feature
    maps are bfloat16 or float16 while styles, demodulation, instance statistics and the RGB sum stay float32.
    """

    def __init__(self, generator: Generator):
        super().__init__()
        dim = generator.style_dim
        self.generator = generator
        self.structure_transform = MappingNetwork(dim, 2)  # T_s
        self.modres = nn.ModuleList(
            ModRes(generator.channels[side], dim) for side in generator.noise_sizes()[:STRUCTURE_ROWS]
        )
        self.color_transforms = nn.ModuleList(EqualLinear(dim, dim) for _ in range(STRUCTURE_ROWS, generator.rows))
        with torch.no_grad():
            for transform in cast("Iterable[EqualLinear]", self.color_transforms):
                # the stored weight is divided by sqrt(dim) at run time
                transform.weight.mul_(0.01).add_(math.sqrt(dim) * torch.eye(dim))

    @property
    def size(self) -> int:
        return self.generator.size

    @property
    def rows(self) -> int:
        return self.generator.rows

    @property
    def style_dim(self) -> int:
        return self.generator.style_dim

    def extrinsic_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """T_s, ModRes and T_c: all that progressive fine-tuning trains."""
        return [(name, p) for name, p in self.named_parameters() if not name.startswith("generator.")]

    def regularized_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """ModRes and T_c: what L_reg pulls towards zero."""
        return [(name, p) for name, p in self.extrinsic_parameters() if not name.startswith("structure_transform.")]

    def extrinsic_state(self) -> dict[str, Tensor]:
        """The extrinsic path's tensors alone, without g."""
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("generator.")}

    def load_extrinsic_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `extrinsic_state` gave; every tensor must be there."""
        wanted = self.extrinsic_state()
        missing = [name for name in wanted if name not in state]
        if missing:
            raise UsageError(f"The extrinsic path lacks '{missing[0]}' and {len(missing) - 1} more tensors.")
        wrong = [name for name in wanted if state[name].shape != wanted[name].shape]
        if wrong:
            raise UsageError(
                f"The extrinsic path's '{wrong[0]}' is {tuple(state[wrong[0]].shape)}; "
                f"this model needs {tuple(wanted[wrong[0]].shape)}."
            )
        self.load_state_dict({name: state[name] for name in wanted}, strict=False)

    def _row_weights(self, weights: Sequence[float] | Tensor | None) -> tuple[float, ...] | Tensor:
        if weights is None:
            return (1.0,) * self.rows
        if isinstance(weights, Tensor) and weights.ndim == 2:
            shape_fits = weights.shape[1] == self.rows
            weights = weights.to(self.generator.constant)
        else:
            weights = tuple(float(weight) for weight in weights)
            shape_fits = len(weights) == self.rows
        if not shape_fits:
            raise UsageError(f"This model takes {self.rows} row weights, or a (B, {self.rows}) tensor of them.")
        return weights

    def prepare(
        self,
        extrinsic: Tensor,
        weights: Sequence[float] | Tensor | None = None,
        extrinsic_space: str = "z+",
    ) -> PreparedStyle:
        """Everything that depends on the style alone, to be reused for any number of faces.

        `extrinsic` (rows, dim), or (B, rows, dim) for B faces in B styles; `weights` one number per row (None: all 1)
        or (B, rows).
        """
        if extrinsic.ndim == 2:
            extrinsic = extrinsic[None]
        weights = self._row_weights(weights)
        with without_autocast(self.generator.constant):
            e = self.generator.to_w_plus(extrinsic, extrinsic_space)
            structure = self.structure_transform(e[:, :STRUCTURE_ROWS])
            blocks = cast("Iterable[ModRes]", self.modres)
            affines = tuple(block.affines(structure[:, row]) for row, block in enumerate(blocks))
            color = [transform(e[:, STRUCTURE_ROWS + i]) for i, transform in enumerate(self.color_transforms)]
            return PreparedStyle(weights, affines, torch.stack(color, dim=1), self._styled_weights(color, weights))

    def _styled_weights(self, color: list[Tensor], weights: tuple[float, ...] | Tensor) -> dict[int, Tensor]:
        """The weights of colour convolutions that take the style entirely, where one style serves all images.

        Only without gradients: training modulates activations.
        """
        if torch.is_grad_enabled() or isinstance(weights, Tensor) or len(color[0]) > 1:
            return {}
        convs = cast("Sequence[StyledConv]", self.generator.convs)
        return {
            row: convs[row].styled_weight(color[row - STRUCTURE_ROWS])
            for row in range(STRUCTURE_ROWS, self.rows - 1)
            if weights[row] == 1
        }

    def forward(
        self,
        intrinsic: Tensor,
        extrinsic: Tensor | PreparedStyle | None = None,
        *,
        weights: Sequence[float] | Tensor | None = None,
        truncation: float = 1.0,
        intrinsic_space: str = "z+",
        extrinsic_space: str = "z+",
        noise: Sequence[Tensor] | None = None,
        region: Box | None = None,
    ) -> Tensor:
        """Faces of intrinsic codes in the style of extrinsic ones: (B, 3, size, size), RGB around [-1, 1], not clamped.

        Codes are (B, rows, dim) or (B, dim), in Z+ or W+. `weights` says how much of the style each row takes: `rows`
        numbers or a (B, rows) tensor, None for all 1. `truncation` multiplies the intrinsic W+ code, never the
        extrinsic one. `extrinsic` None is plain StyleGAN; a PreparedStyle brings its own weights. `noise` as in
        Generator.forward. Of a `region` of the image (left, top, right, bottom; px) alone what it needs is computed;
        around it the image is zero. Raises UsageError for shapes that do not fit.
        """
        generator = self.generator
        dtype = feature_dtype(generator.constant)
        noise = generator.stored_noise() if noise is None else noise
        with without_autocast(generator.constant):
            w_plus = generator.to_w_plus(intrinsic, intrinsic_space) * truncation
            if extrinsic is None:
                return generator.synthesize(w_plus, noise, dtype=dtype, region=region)

            style = extrinsic
            if not isinstance(style, PreparedStyle):
                if style.ndim == 2:  # one code for all rows
                    style = style[:, None].expand(-1, self.rows, -1)
                style = self.prepare(style, weights, extrinsic_space)
            elif weights is not None:
                raise UsageError("A prepared style carries its row weights: give them to prepare().")
            w_plus = mix_color(w_plus, style)
            residuals = self._residuals(style)
            return generator.synthesize(w_plus, noise, residuals, dtype, style.styled_weights, region=region)

    def _residuals(self, style: PreparedStyle) -> list[Callable[[Tensor], Tensor]]:
        """What comes after each of the first seven convolutions."""

        def residual(row: int) -> Callable[[Tensor], Tensor]:
            weight: float | Tensor
            if isinstance(style.weights, Tensor):
                weight = style.weights[:, row, None, None, None]
            elif style.weights[row] == 0:
                return lambda x: x
            else:
                weight = style.weights[row]
            return lambda x: self.modres[row](x, style.affines[row], weight)

        return [residual(row) for row in range(STRUCTURE_ROWS)]


def mix_color(w_plus: Tensor, style: PreparedStyle) -> Tensor:
    """Rows 7 and up of the intrinsic code become w * T_c(e) + (1 - w) * f(z_i); the structure rows stay."""
    structure, own = w_plus[:, :STRUCTURE_ROWS], w_plus[:, STRUCTURE_ROWS:]
    weights = style.weights
    if not isinstance(weights, Tensor):
        weights = torch.tensor([weights], device=own.device, dtype=own.dtype)
    color = torch.lerp(own, style.color.expand_as(own), weights[:, STRUCTURE_ROWS:, None].expand_as(own))
    return torch.cat([structure, color], dim=1)
