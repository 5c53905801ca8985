"""A base that goes on from another one: its generator grown, its encoder's knowledge handed to one that looks twice."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, pixel_unshuffle

from dualstylegan.errors import TrainingError
from dualstylegan.networks.layers import EqualConv
from dualstylegan.networks.residual_encoder import BODY_PX as LOOK_PX
from dualstylegan.networks.residual_encoder import ResidualEncoder
from dualstylegan.networks.small_encoder import BODY_PX, SmallEncoder

Encoder = SmallEncoder | ResidualEncoder

FIT_STEPS, FIT_BATCH, FIT_LR = 400, 16, 3e-3  # of the layers above 32 px, which a SmallEncoder does not have


def hand_over(known: nn.Module, encoder: Encoder, photos: Callable[[int], Tensor]) -> None:
    """Let a fresh `encoder` begin as what `known` has learnt. `photos` gives so many, (count, 3, S, S).

    Of a SmallEncoder a ResidualEncoder takes all layers at 32 px and below: strided 3 x 3 kernels become 4 x 4 ones by
    half a pixel's shift, which puts them where they ought to be. What lies above is fitted to do as the first layer of
    the other one did, and rows that are new begin as the last known one. Raises TrainingError for other encoders.
    """
    if type(known) is type(encoder) and known.state_dict().keys() == encoder.state_dict().keys():
        encoder.load_state_dict(known.state_dict())
        return
    if not isinstance(known, SmallEncoder) or not isinstance(encoder, ResidualEncoder):
        raise TrainingError("base_model: its encoder is of a kind that this base's encoder cannot go on from.")
    if (known.channels, known.style_dim, known.input_size) != (encoder.channels, encoder.style_dim, encoder.input_size):
        raise TrainingError(
            f"base_model: its encoder has {known.channels} channels, codes of {known.style_dim} and pictures of "
            f"{known.input_size} px, this base's {encoder.channels}, {encoder.style_dim} and {encoder.input_size}."
        )
    for name in ("16", "8", "4"):
        _convolutions(known.blocks[name], encoder.blocks[name])
    for name in ("16", "8"):
        _convolutions(known.sides[name], encoder.sides[name])
    for row, head in enumerate(encoder.heads):
        before = known.heads[min(row, known.rows - 1)]
        _convolutions(before, head)
        head.get_submodule("linear").load_state_dict(before.get_submodule("linear").state_dict())
    with torch.no_grad():
        encoder.start.zero_()
    _fit(known, encoder, photos)


@torch.no_grad()
def _convolutions(known: nn.Module, layers: nn.Module) -> None:
    """Those of `known` into `layers`, one by one in order."""
    before, after = ([one for one in net.modules() if isinstance(one, EqualConv)] for net in (known, layers))
    for old, new in zip(before, after, strict=True):
        weight = old.weight * (old.gain / new.gain)
        if new.weight.shape[-1] > weight.shape[-1]:  # 3 to 4: the mean of the four places where it may lie
            weight = torch.stack([pad(weight, (x, 1 - x, y, 1 - y)) for x in (0, 1) for y in (0, 1)]).mean(0)
        new.weight.copy_(weight)
        if new.bias is not None and old.bias is not None:
            new.bias.copy_(old.bias)


def _fit(known: SmallEncoder, encoder: ResidualEncoder, photos: Callable[[int], Tensor]) -> None:
    """Teach the layers above 32 px what `known` sees of a photo at 32 px; the reconstruction beside it stays unread."""
    layers = nn.ModuleList([encoder.stem, encoder.blocks["32"]]).requires_grad_()
    optimizer = torch.optim.Adam(layers.parameters(), lr=FIT_LR, betas=(0.9, 0.99))
    for step in range(FIT_STEPS):
        images = photos(FIT_BATCH)
        with torch.no_grad():
            wanted = known.stem(pixel_unshuffle(images, known.input_size // BODY_PX))
        blank = images.new_zeros(len(images), 3, LOOK_PX, LOOK_PX)
        seen = torch.cat([pixel_unshuffle(images, encoder.input_size // LOOK_PX), blank], dim=1)
        loss = (encoder.blocks["32"](encoder.stem(seen)) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = FIT_LR * (1 - step / FIT_STEPS)
    with torch.no_grad():
        encoder.stem.weight[:, -3:] = 0
