"""Take finished models out of their run folders into the package: half precision, pruned, within budget, proven alike.

    python tests/tools/embed_models.py runs/mini runs/painting runs/toon runs/engraving
    python tests/tools/embed_models.py runs/painting --most 120       # the first 120 exemplars only

A base keeps what new styles need offline: g, its discriminator, the encoder, the prior, stage II's extrinsic path and
discriminator. It loses Adam's moments and the path as it was before averaging: stage III then starts from the average,
with fresh optimisers. A style keeps its extrinsic path, codes, samplers and thumbnails; over budget, it loses the
intrinsic codes (only `dsg refine PORTRAITS --style` reads them), then the codes from before refining.

The header of what is embedded says how it was trained (images, seconds, by the run's log) and, of a base, which photos
were held out. Every model is loaded from its new place and draws the same pictures, or nothing is kept. Then measure,
and write the cards:

    python tests/bench/quality.py --json figures.json && python tests/tools/model_cards.py --figures figures.json
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dualstylegan.errors import DualStyleGANError
from dualstylegan.models.base import BASE_PARTS, Base, save_base
from dualstylegan.models.bundle import copy_bundle, read_header
from dualstylegan.models.cache import EMBEDDED
from dualstylegan.models.codes import StyleBank
from dualstylegan.models.library import load_base, load_style
from dualstylegan.models.lookup import find_base_by_hash
from dualstylegan.models.stage_two import StageTwo
from dualstylegan.models.style import STYLE_PARTS, Style, save_style
from dualstylegan.training.data import read_prepared
from dualstylegan.training.run import RunFolder

MB = 1e6
BUDGET_MB = {"base": 28.0, "style": 7.0}
WHOLE_BUDGET_MB = 60.0
ALIKE_DB = 40.0  # PSNR of pictures in [-1, 1]: half precision must not be seen
TRAINED = ("base", "pretrain", "finetune", "transfer")  # stages that the log counts; the others only take time
TIMED = ("destylize", "refine", "samplers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders; a base before its styles")
    parser.add_argument("--to", type=Path, default=EMBEDDED, help="default: the package's own weights")
    parser.add_argument("--most", type=int, help="keep so many exemplars of a style, the first ones")
    asked = parser.parse_args()
    try:
        for run in asked.runs:
            made = embed(run, asked.to, asked.most)
            print(f"{made.name:12} {size_mb(made):5.1f} MB  {made}")
    except DualStyleGANError as error:
        sys.exit(str(error))
    whole = size_mb(asked.to)
    print(f"{'all':12} {whole:5.1f} MB of {WHOLE_BUDGET_MB:.0f}")
    if whole > WHOLE_BUDGET_MB:
        sys.exit(f"{asked.to} is over its budget.")


def embed(run: Path, to: Path, most: int | None = None) -> Path:
    """Bring a run's model into `to` under its own name. Raises DualStyleGANError, and `to` is left as it was."""
    kind = "style" if (run / "style").is_dir() else "base"
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / run.name
        made = embed_base(run, place) if kind == "base" else embed_style(run, place, to, most)
        if size_mb(made) > BUDGET_MB[kind]:
            sizes = f"{size_mb(made):.1f} MB, and a {kind} may have {BUDGET_MB[kind]:.0f}"
            raise DualStyleGANError(f"{run}: {sizes}. {parts_of(made)}")
        name = read_header(made)["name"]
        return copy_bundle(made, to / name, {})


def embed_base(run: Path, place: Path) -> Path:
    base = load_base(run)
    if base.extrinsic is None or base.discriminator is None or base.encoder is None:
        raise DualStyleGANError(f"{run}: a base that ships has a discriminator, an encoder and stage II's path.")
    prepared = read_prepared(run / "stages" / "data")
    header = base.header | {
        "held_out": [portrait.name for portrait in prepared.held_out],
        "training": training_of(run, len(prepared.training)),
    }
    stage_two = base.stage_two and StageTwo(base.stage_two.discriminator)
    small = replace(base, header=header, stage_two=stage_two, encoder_wplus=None)
    save_base(place, small, half=BASE_PARTS)
    demand_alike(str(run), pictures_of_base(base), pictures_of_base(load_base(place)))
    return place


def embed_style(run: Path, place: Path, to: Path, most: int | None) -> Path:
    style = load_style(run, wplus=False, thumbnails=True)
    sha256 = style.header["base"]["sha256"]
    if find_base_by_hash(sha256, beside=to / run.name) is None:
        raise DualStyleGANError(f"{run}: its base {style.header['base']['name']} is not in {to}: embed that first.")
    prepared = read_prepared(run / "stages" / "data")
    header = style.header | {"training": training_of(run, len(prepared.training))}
    small = replace(style, header=header, base_folder=None)
    if most is not None and most < len(style.bank):
        small = only(small, range(most))

    bank = small.bank
    for fewer in (
        bank,
        StyleBank(bank.names, bank.plain, None, bank.refined, style=bank.style),
        StyleBank(bank.names, bank.extrinsic, None, None, style=bank.style),
    ):
        save_style(place, replace(small, bank=fewer), half=STYLE_PARTS)
        if size_mb(place) <= BUDGET_MB["style"]:
            break
    (place.parent / "base").symlink_to(style.base_folder.resolve())  # where the copy looks for it
    demand_alike(str(run), pictures_of_style(small), pictures_of_style(load_style(place)))
    return place


def only(style: Style, kept: Sequence[int]) -> Style:
    """The style with these exemplars alone."""
    kept, header, whole = list(kept), dict(style.header), style.bank
    intrinsic, refined = (codes if codes is None else codes[kept] for codes in (whole.intrinsic, whole.refined))
    bank = StyleBank([whole.names[i] for i in kept], whole.plain[kept], intrinsic, refined, whole.style)
    if header.get("default_exemplar") not in bank.names:
        header["default_exemplar"] = bank.names[0]
    thumbnails = style.thumbnails and [style.thumbnails[i] for i in kept]
    return replace(style, header=header, bank=bank, thumbnails=thumbnails)


# What a run has cost


def training_of(run: Path, pictures: int) -> dict[str, Any]:
    """{"pictures", "stages": {name: {"steps", "images", "seconds"}}}, by the log, else by the clock."""
    folder, stages = RunFolder(run), {}
    for row in folder.read_log():
        counted = {"steps": int(row["step"]), "images": int(row["images"]), "seconds": round(float(row["seconds"]))}
        if row["stage"].startswith(TRAINED):
            stages[row["stage"]] = counted  # the last row counts from the stage's beginning
    for name in TIMED:
        begun, ended = (run / "stages" / name / file for file in ("settings.json", "done.json"))
        if begun.is_file() and ended.is_file():
            stages[name] = {"seconds": round(ended.stat().st_mtime - begun.stat().st_mtime)}
    return {"pictures": pictures, "stages": stages}


# Proof


@torch.no_grad()
def pictures_of_base(base: Base) -> Tensor:
    """What g, f, the extrinsic path and the encoder make of faces drawn from the prior."""
    codes = base.sample_intrinsic(8, torch.Generator().manual_seed(1))
    faces = base.generator(codes).clamp(-1, 1)
    size = base.encoder.input_size
    seen = torch.nn.functional.interpolate(faces, (size, size), mode="bilinear", antialias=True)
    return torch.cat([faces, base.generator(base.encoder(seen)), base.dualstyle()(codes, codes.flip(0))]).clamp(-1, 1)


@torch.no_grad()
def pictures_of_style(style: Style) -> Tensor:
    codes = style.sample_intrinsic(8, torch.Generator().manual_seed(1))
    exemplars = style.bank.extrinsic[torch.arange(8) % min(8, len(style.bank))]
    return style.model(codes, exemplars).clamp(-1, 1)


def demand_alike(what: str, before: Tensor, after: Tensor) -> None:
    """Raises DualStyleGANError where the pictures are not the same to the eye."""
    psnr_db = 10 * float(torch.log10(4 / (before - after).square().mean(dim=(1, 2, 3)).max().clamp_min(1e-12)))
    print(f"{what}: pictures in half precision are {psnr_db:.0f} dB from those before, at worst")
    if psnr_db < ALIKE_DB:
        raise DualStyleGANError(
            f"{what}: half precision shows ({psnr_db:.0f} dB, wanted {ALIKE_DB:.0f}); nothing is kept."
        )


def size_mb(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / MB


def parts_of(folder: Path) -> str:
    sizes = {file.stem: file.stat().st_size / MB for file in sorted(folder.glob("*.safetensors"))}
    return "Parts: " + ", ".join(f"{name} {size:.1f}" for name, size in sizes.items()) + " MB."


if __name__ == "__main__":
    main()
