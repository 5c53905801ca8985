"""Who is person and who is background: MediaPipe's selfie segmentation (a MobileNetV3 with an LR-ASPP head), 256 px."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import hardswish, interpolate, pad, relu

INPUT_SIZE = 256

# The blocks at a sixteenth of the picture's size: (hidden width, squeezed width) of each
DEEP = ((96, 24), (128, 32), (128, 32), (96, 24), (96, 24))


class MatteNet(nn.Module):
    """How much of each pixel belongs to the person in the picture."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2)
        self.block4 = _Block(16, 16, 16, stride=2, squeezed=8)
        self.block8a = _Block(16, 72, 24, stride=2)
        self.block8b = _Block(24, 88, 24)
        widths = (24, *[32] * len(DEEP))
        self.deep = nn.Sequential(*[
            _Block(width, hidden, 32, kernel=5, stride=2 if width == 24 else 1, squeezed=squeezed, act=hardswish)
            for width, (hidden, squeezed) in zip(widths, DEEP, strict=False)
        ])  # fmt: skip
        self.context = nn.Conv2d(32, 128, 1)
        self.gate = nn.Conv2d(32, 128, 1)
        self.up8 = _Decoder(128, 24)
        self.up4 = _Decoder(24, 16)
        self.up2 = _Decoder(16, 16)
        self.last = nn.ConvTranspose2d(16, 1, 2, stride=2)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, 256, 256), RGB, float in [-1, 1]; returns (B, 1, 256, 256) in [0, 1], 1 where a person is."""
        x2 = hardswish(self.stem(_padded((pictures + 1) / 2, 3)))
        x4 = self.block4(x2)
        x8 = self.block8b(self.block8a(x4))
        x16 = self.deep(x8)
        x16 = relu(self.context(x16)) * self.gate(_mean(x16)).sigmoid()
        x = self.up2(self.up4(self.up8(x16, x8), x4), x2)
        return self.last(x).sigmoid()


class _Block(nn.Module):
    """Expand, look around, squeeze and excite where `squeezed`, project; added to its input where that fits."""

    def __init__(
        self, width: int, hidden: int, out: int, kernel: int = 3, stride: int = 1, squeezed: int = 0, act=relu
    ):
        super().__init__()
        self.act, self.kernel, self.residual = act, kernel, stride == 1 and width == out
        self.expand = nn.Conv2d(width, hidden, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, kernel, stride, groups=hidden)
        self.excite = _Excitation(hidden, squeezed) if squeezed else None
        self.project = nn.Conv2d(hidden, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.expand(x))
        y = pad(y, [self.kernel // 2] * 4) if self.depthwise.stride[0] == 1 else _padded(y, self.kernel)
        y = self.act(self.depthwise(y))
        if self.excite:
            y = y * self.excite(y)
        y = self.project(y)
        return x + y if self.residual else y


class _Excitation(nn.Module):
    def __init__(self, width: int, squeezed: int):
        super().__init__()
        self.squeeze = nn.Conv2d(width, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """A weight per channel: (B, width, 1, 1)."""
        return self.excite(relu(self.squeeze(_mean(x)))).sigmoid()


class _Decoder(nn.Module):
    """Twice as large, with as much of the encoder's detail as both together ask for."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.reduce = nn.Conv2d(width, out, 1)
        self.excite = _Excitation(out, out)
        self.mix = nn.Conv2d(out, out, 1)
        self.depthwise = nn.Conv2d(out, out, 3, padding=1, groups=out)

    def forward(self, x: Tensor, detail: Tensor) -> Tensor:
        x = self.reduce(interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))
        x = relu(self.mix(detail * self.excite(detail + x) + x))
        return x + relu(self.depthwise(x))


def _mean(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True)


def _padded(x: Tensor, kernel: int) -> Tensor:
    """As TensorFlow pads an even side before a stride of 2: more after the picture than before it."""
    before = (kernel - 2) // 2
    return pad(x, [before, kernel - 2 - before] * 2)
