"""The nets that judge pictures while training: what they show (features), how alike they look, who it is.

The paper judges with VGG19 (features), LPIPS on VGG16 and ArcFace. Where their weights are not on this machine,
embedded nets stand in: MobileNetV2 features and dlib's identity ResNet. Layers keep VGG's names; what stands for what:

| paper (VGG19)     | embedded (MobileNetV2)    | stride | x scale |   | LPIPS (VGG16) | embedded | x weight |
|-------------------|---------------------------|--------|---------|---|---------------|----------|----------|
| relu1_1 = conv1_1 | stem, run at every pixel  | 1      | 20      |   | relu1_2       | relu1_2  | 0.83     |
| relu2_1 = conv2_1 | expansion of block 2      | 2      | 6.1     |   | relu2_2       | relu2_2  | 0.36     |
| relu3_1 = conv3_1 | expansion of block 4      | 4      | 9.3     |   | relu3_3       | relu3_1  | 0.19     |
| relu4_1 = conv4_1 | expansion of block 7      | 8      | 9.7     |   | relu4_3       | relu4_1  | 0.19     |
| relu5_1 = conv5_1 | expansion of block 11     | 16     | 11.2    |   | relu5_3       | relu5_1  | 0.26     |

Embedded magnitudes are measured, on 400 random pairs of mini's photos at 128 px
(tests/tools/measure_perception.py): a feature is scaled so that the L1 distance of such a pair is 1 in every layer, so
the paper's loss weights act on numbers near one, as VGG19's are; LPIPS, its formula without the learned channel
weights, so that the five layers share a distance of 0.6 equally, about what the released one gives unrelated faces; and
identities are centred by the mean face's embedding, so that unrelated faces have a cosine near 0, as ArcFace's do
(uncentred, dlib's have 0.84). VGG itself could not be measured where these figures were taken: magnitudes agree in
order, not in the second digit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, normalize

from dualstylegan.errors import OfflineError
from dualstylegan.events import Event, outcome
from dualstylegan.models import official
from dualstylegan.models.fetch import Terms, fetch
from dualstylegan.networks.identity import chips_from_crops
from dualstylegan.networks.lpips import LPIPS, unit
from dualstylegan.training.losses import identity_loss
from dualstylegan.weights import load_identity, load_mobilenet, read_face_weights

LAYERS = ("relu1_1", "relu2_1", "relu3_1")  # those the method's losses read
PIXELS = 256  # the size at which the paper judges

MOBILENET_SCALES = {"relu1_1": 20.0, "relu2_1": 6.1, "relu3_1": 9.3, "relu4_1": 9.7, "relu5_1": 11.2}
MOBILENET_LPIPS_WEIGHTS = {"relu1_2": 0.83, "relu2_2": 0.36, "relu3_1": 0.19, "relu4_1": 0.19, "relu5_1": 0.26}

Features = dict[str, Tensor]
Net = TypeVar("Net", bound=nn.Module)


class Perception:
    """Frozen judges on one device. Images are (B, 3, H, W), RGB, float in [-1, 1], FFHQ-aligned faces.

    `names` says which nets these are: {"features": "vgg19" | "mobilenetv2", "identity": "arcface" | "dlib-resnet"}.
    Pictures above `pixels` are averaged down to it; smaller ones stay as they are.
    """

    def __init__(
        self,
        features: VGGJudge | MobileNetJudge,
        identity: ArcFaceJudge | EmbeddedIdentity,
        *,
        device: torch.device | str = "cpu",
        pixels: int = PIXELS,
    ):
        self.feature_net = _frozen(features, device)
        self.identity_net = _frozen(identity, device)
        self.pixels = pixels
        self.names = {"features": features.name, "identity": identity.name}

    def features(self, images: Tensor, layers: Sequence[str] = LAYERS) -> Features:
        """{layer: (B, C, h, w)}, scaled as the table says. Differentiable."""
        return self.feature_net.features(at_most(images, self.pixels), layers)

    def lpips_features(self, images: Tensor) -> Features:
        """What `lpips` compares; pass it in a picture's place to compute a fixed target once."""
        return self.feature_net.lpips_features(at_most(images, self.pixels))

    def lpips(self, a: Tensor | Features, b: Tensor | Features) -> Tensor:
        """Perceptual distance (Zhang et al. 2018) of pictures, or of their `lpips_features`. (B,)"""
        a, b = (self.lpips_features(x) if isinstance(x, Tensor) else x for x in (a, b))
        first, *others = ((a[layer] - b[layer]).square().sum(dim=1).mean(dim=(1, 2)) for layer in a)
        return sum(others, first)

    def identity(self, images: Tensor) -> Tensor:
        """Unit vectors (B, dim); the cosine of two is near 1 for one person and near 0 for two. Differentiable."""
        return self.identity_net(images)

    def identity_distance(self, a: Tensor, b: Tensor) -> Tensor:
        """L_ID, 1 - cos, of pictures or of their `identity`. (B,)"""
        a, b = (self.identity(x) if x.dim() == 4 else x for x in (a, b))
        return identity_loss(a, b)


def at_most(images: Tensor, pixels: int) -> Tensor:
    """Images averaged down to `pixels` on a side where they are larger."""
    return adaptive_avg_pool2d(images, pixels) if images.shape[-1] > pixels else images


def _frozen(net: Net, device: torch.device | str) -> Net:
    net = net.eval().requires_grad_(False)
    return net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own stubs lack it


# ------------------------------------------------------------------------------------------------------------- judges


class VGGJudge(nn.Module):
    """The paper's: VGG19 features as they are, LPIPS v0.1 on VGG16."""

    name = "vgg19"

    def __init__(self, vgg19: nn.Module, lpips: LPIPS):
        super().__init__()
        self.vgg19 = vgg19
        self.distance = lpips

    def features(self, images: Tensor, layers: Sequence[str]) -> Features:
        found = self.vgg19(images)
        return {layer: found[layer] for layer in layers}

    def lpips_features(self, images: Tensor) -> Features:
        """Unit features times the root of LPIPS's weights: their squared distance is LPIPS's term."""
        found = self.distance.features(images)
        return {
            layer: unit(found[layer].float()) * weight.clamp_min(0).sqrt().reshape(1, -1, 1, 1)
            for layer, weight in self.distance.weights.items()
        }


class MobileNetJudge(nn.Module):
    """The embedded stand-in for VGG."""

    name = "mobilenetv2"

    def __init__(self, mobilenet: nn.Module):
        super().__init__()
        self.mobilenet = mobilenet

    def features(self, images: Tensor, layers: Sequence[str]) -> Features:
        found = self.mobilenet(images, layers)
        return {layer: found[layer] * MOBILENET_SCALES[layer] for layer in layers}

    def lpips_features(self, images: Tensor) -> Features:
        found = self.mobilenet(images, tuple(MOBILENET_LPIPS_WEIGHTS))
        return {layer: unit(found[layer].float()) * weight**0.5 for layer, weight in MOBILENET_LPIPS_WEIGHTS.items()}


class ArcFaceJudge(nn.Module):
    """The paper's."""

    name = "arcface"

    def __init__(self, arcface: nn.Module):
        super().__init__()
        self.arcface = arcface

    def forward(self, images: Tensor) -> Tensor:
        return self.arcface(images).float()


class EmbeddedIdentity(nn.Module):
    """dlib's ResNet on the chip that the aligned crop holds, centred by the mean face's embedding (128,)."""

    name = "dlib-resnet"

    def __init__(self, net: nn.Module, center: Tensor):
        super().__init__()
        self.net = net
        self.register_buffer("center", center)

    def forward(self, images: Tensor) -> Tensor:
        return normalize(self.net(chips_from_crops(images)).float() - self.center, dim=1)


# ------------------------------------------------------------------------------------------------------------ choosing


def load_perception(
    features: str = "auto",
    identity: str = "auto",
    *,
    device: torch.device | str = "cpu",
    pixels: int = PIXELS,
    layers: Sequence[str] = LAYERS,
) -> Perception:
    """The judges a recipe's [perception] asks for.

    features: auto | vgg | mobilenet; identity: auto | arcface | embedded. "auto" takes the paper's nets where their
    weights are in the cache already; one that is named must be there (`fetch_perception`). `layers` are those that will
    be read. Raises OfflineError for one that is not there.
    """

    def here(name: str) -> Path:
        return outcome(fetch(name, terms=Terms(offline=True)))

    def vgg() -> VGGJudge:
        vgg19, vgg16, lpips = map(here, ("vgg19", "vgg16", "lpips"))
        return VGGJudge(official.load_vgg(vgg19, layers), official.load_lpips(lpips, vgg16))

    def choose(wanted: str, papers: str, load_papers: Callable, load_embedded: Callable) -> Any:
        if wanted in (papers, "auto"):
            try:
                return load_papers()
            except OfflineError:
                if wanted == papers:
                    raise
        return load_embedded()

    return Perception(
        choose(features, "vgg", vgg, lambda: MobileNetJudge(load_mobilenet())),
        choose(
            identity,
            "arcface",
            lambda: ArcFaceJudge(official.load_arcface(here("arcface"))),
            lambda: EmbeddedIdentity(load_identity(), read_face_weights("identity_center")["center"]),
        ),
        device=device,
        pixels=pixels,
    )


def fetch_perception(features: str, identity: str, terms: Terms) -> Generator[Event, None, None]:
    """The paper's nets, where they are named and not here yet. Raises OfflineError, DownloadError."""
    for name in ("vgg19", "vgg16", "lpips") * (features == "vgg") + ("arcface",) * (identity == "arcface"):
        yield from fetch(name, terms=terms)
