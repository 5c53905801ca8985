"""Which models exist elsewhere, where their files come from and what is known of them: the table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dualstylegan.choices import row_weights
from dualstylegan.errors import UsageError, did_you_mean

S_LAB = "S-Lab License 1.0, non-commercial: https://github.com/williamyang1991/DualStyleGAN/blob/main/LICENSE.md"
NVIDIA = "Nvidia Source Code License-NC, non-commercial: https://nvlabs.github.io/stylegan2/license.html"
BSD = "BSD 3-Clause (torchvision); trained on ImageNet"
BSD2 = "BSD 2-Clause (LPIPS)"
MIT_RESEARCH = "MIT (code); weights for research, trained on MS1M"
HUB, REVISION = "CVPR/DualStyleGAN", "main"
SOURCE = f"https://huggingface.co/{HUB} ({REVISION})"


@dataclass(frozen=True)
class RemoteFile:
    """One file of a release.

    `repository` and `path` name it on the Hugging Face hub, `mirrors` are plain addresses, tried in order. `sha256` is
    its whole hash, or the first eight digits where the publisher gives no more, or None: then the hub's own hash of
    the file counts, asked for at download; likewise `revision` is a branch, as no commit of the hub is known here.
    `checked` says whether the hash was ever compared with a real download: so far none was, they are as published.
    """

    name: str
    about_mb: int
    sha256: str | None = None
    repository: str | None = None
    path: str | None = None
    revision: str = REVISION
    mirrors: tuple[str, ...] = ()
    checked: bool = False


@dataclass(frozen=True)
class Entry:
    """A model of the table: a style ("style"), a base ("base") or a network others need ("network")."""

    name: str
    kind: str
    licence: str
    files: dict[str, RemoteFile]
    exemplars: int = 0
    weights: tuple[float, ...] | None = None  # a style's default, 18 rows
    about: str = ""

    @property
    def about_mb(self) -> int:
        return sum(file.about_mb for file in self.files.values())

    @property
    def checks(self) -> str:
        """One line: what each of its files is compared with when it comes."""
        pinned = [file.name for file in self.files.values() if file.sha256]
        others = [file.name for file in self.files.values() if not file.sha256]
        said = [f"{', '.join(pinned)}: the published sha256"] if pinned else []
        said += [f"{', '.join(others)}: what the hub says of its {REVISION}, later what came first"] if others else []
        return f"checked against: {'; '.join(said)}"


def entry(name: str) -> Entry:
    """The table's entry. Raises UsageError with the nearest name."""
    if name in TABLE:
        return TABLE[name]
    raise UsageError(f"The zoo has no '{name}'.{did_you_mean(name, TABLE)} It has {', '.join(TABLE)}.")


def _hub(path: str, about_mb: int, sha256: str | None = None, mirrors: tuple[str, ...] = ()) -> RemoteFile:
    return RemoteFile(Path(path).name, about_mb, sha256, HUB, f"models/{path}", mirrors=mirrors)


def _mirrored(name: str, about_mb: int, sha256: str, folder: str) -> RemoteFile:
    return RemoteFile(name, about_mb, sha256, mirrors=(f"{folder}/{name}",))


ALL_ONE = (1.0,) * 18
SOFTER_STRUCTURE = row_weights()
LATE_STRUCTURE = (0.0,) * 4 + row_weights()[4:]


def _style(
    name: str, exemplars: int, about: str, weights: tuple[float, ...] = SOFTER_STRUCTURE, **known: str | None
) -> Entry:
    """`known`: sha256 by part; `refined` is there, perhaps as None, where the style has refined codes."""
    codes_mb = max(1, exemplars * 37 // 1000)
    files = {
        "generator": _hub(f"{name}/generator.pt", 308, known.get("generator")),
        "codes": _hub(f"{name}/exstyle_code.npy", codes_mb, known.get("codes")),
        "sampler": _hub(f"{name}/sampler.pt", 5),
    }
    if "refined" in known:
        files["refined"] = _hub(f"{name}/refined_exstyle_code.npy", codes_mb, known["refined"])
    return Entry(name, "style", S_LAB, files, exemplars, weights, about)


ENCODER = _hub("encoder.pt", 1210, "264f263987efb847f1ff2f2bf729178d0ee25a6d65731f5a4d194de2c3ba3507")
ENCODER_WPLUS = _hub("encoder_wplus.pt", 1210, "f786ac5cf18fcdbc5c57c9f3f12cbedca69381fbdf5694dd132294e3133749d7")
PRETRAINED = _hub("generator-pretrain.pt", 1280, "124da354f099f26d649c9f9c7d761b2a9d8b75cb85493503b3e1dc2a3985d582")
FFHQ = _hub(
    "stylegan2-ffhq-config-f.pt",
    381,
    "bae494ef77e32a9cd1792a81a3c167692a0e64f6bcd8b06592ff42917e2ed46e",
    mirrors=(
        "https://huggingface.co/aaronb/StyleGAN2/resolve/main/stylegan2-ffhq-config-f.pt",
        "https://huggingface.co/wmpscc/StyleGene_CKPT/resolve/main/stylegan2-ffhq-config-f.pt",
    ),
)
TORCHVISION = "https://download.pytorch.org/models"
ARCFACE = _mirrored(
    "recognition_arcface_ir_se50.pth",
    175,
    "a035c768259b98ab1ce0e646312f48b9e1e218197a0f80ac6765e88f8b6ddf28",
    "https://github.com/xinntao/facexlib/releases/download/v0.1.0",
)
LPIPS = _mirrored(
    "vgg.pth",
    1,
    "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1",
)

TABLE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        _style(
            "cartoon",
            317,
            "cartoon faces",
            generator="de40db8bc79db5184f65b91a3fd710e2806d3010903cd9af754c9906b38edd8f",
            refined=None,
        ),
        _style(
            "caricature",
            199,
            "caricatures of WebCaricature",
            ALL_ONE,
            codes="528dd3e6d331daa5d0848dd94fccbca50b1bb3f1daa3ce3f717734bcc155d20d",
            refined="29fd9d6609458690fb4ea85a2456dd251c2db6bf41f0f9a9ca868e5100f08b49",
        ),
        _style(
            "anime",
            174,
            "anime portraits of Danbooru",
            LATE_STRUCTURE,
            codes="31465bcb616bce061d973d794443a800eb96fb58633ed563494e91d2bd530617",
            refined=None,
        ),
        _style("arcane", 100, "Arcane", generator="c9b3b8c1a300911299e66e07a656333ba85ac79e1ff04a55e9357d0f915b5e6a"),
        _style("comic", 101, "comic", generator="1221f44422239c7d0c56464ebfe19880ee0aac694c2ba5b728875486a1261d2e"),
        _style("pixar", 122, "Pixar"),
        _style("slamdunk", 120, "Slam Dunk"),
        Entry(
            "ffhq",
            "base",
            f"{S_LAB}; generator: {NVIDIA}",
            {"generator": FFHQ, "encoder": ENCODER, "pretrained": PRETRAINED},
            about="StyleGAN2 of FFHQ faces, 1024 px, with the release's encoder and stage II",
        ),
        Entry("encoder", "network", S_LAB, {"encoder": ENCODER}, about="faces to Z+ (pSp)"),
        Entry("encoder_wplus", "network", S_LAB, {"encoder": ENCODER_WPLUS}, about="faces to W+ (pSp)"),
        Entry("generator-pretrain", "network", S_LAB, {"pretrained": PRETRAINED}, about="stage II on FFHQ"),
        Entry("arcface", "network", MIT_RESEARCH, {"arcface": ARCFACE}, about="identity for training (IR-SE50)"),
        Entry(
            "vgg19",
            "network",
            BSD,
            {"vgg": _mirrored("vgg19-dcbb9e9d.pth", 575, "dcbb9e9d", TORCHVISION)},
            about="perceptual features for training",
        ),
        Entry(
            "vgg16",
            "network",
            BSD,
            {"vgg": _mirrored("vgg16-397923af.pth", 553, "397923af", TORCHVISION)},
            about="features under LPIPS",
        ),
        Entry("lpips", "network", BSD2, {"lpips": LPIPS}, about="LPIPS v0.1's linear layers over VGG16"),
    )
}
