"""Models of other places into the cache: the official release's folders, the zoo's downloads, our own runs.

An official style becomes two bundles, a style and the base under it (g, f and the encoders). The base is shared by all
styles with the same g, found by its hash.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from dualstylegan.errors import UsageError
from dualstylegan.models import zoo
from dualstylegan.models.bundle import (
    Base,
    GaussianPrior,
    Style,
    base_of,
    copy_bundle,
    generator_sha256,
    has_part,
    load_base,
    read_header,
    save_base,
    save_style,
)
from dualstylegan.models.codes import fit_weights
from dualstylegan.models.download import Notify, Progress
from dualstylegan.models.official import load_codes, load_encoder, load_generator, load_pretrained, load_sampler


def import_style(
    folder: str | Path,
    name: str | None = None,
    *,
    encoder: str | Path | None = None,
    encoder_wplus: str | Path | None = None,
    half: bool = False,
    source: str = "an official folder",
    notify: Notify | None = None,
) -> Path:
    """Bring a style into the cache under `name` (default: the folder's). Returns its folder there.

    `folder` is one of the official release, or a style or run of our own. `encoder` defaults to encoder.pt in the
    folder or beside it, and is not needed once its base is there. `half` stores networks in half precision. Raises
    UsageError for a folder that is neither, BadFileError for what is in it.
    """
    folder = Path(folder).expanduser()
    name = _checked_name(name or folder.resolve().name)
    if (folder / "generator.pt").is_file():
        official = OfficialFolder.of(folder, encoder, encoder_wplus)
        return _import_official(official, name, half=half, source=source, notify=notify or _quiet)
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; give one of the official release, or a run's.")
    if (folder / "exstyle_code.npy").is_file():
        raise UsageError(f"{folder} has codes but no generator.pt; the official release has both in one folder.")
    return _import_own(zoo.find_style(folder), name, notify or _quiet)


def pull_style(
    name: str,
    *,
    wplus: bool = False,
    half: bool = False,
    offline: bool | None = None,
    notify: Notify | None = None,
    progress: Progress | None = None,
) -> Path:
    """Fetch an official style, make it a bundle of the cache, let go of the downloads. Returns its folder.

    What is already here is left as it is; `wplus` completes it with the W+ encoder. Raises UsageError, OfflineError,
    DownloadError.
    """
    here = zoo.find_style(name)
    if here is not None and not (wplus and _lacks_wplus(name, here)):
        return here
    files = zoo.entry(name).files
    fetch = partial(zoo.fetch, offline=offline, notify=notify, progress=progress)
    if here is None and zoo.is_offline(offline):  # say what is missing before anything is locked
        for part in files:
            fetch(name, part)

    # one at a time: styles share an encoder, and each clears up behind itself
    with zoo.writing(zoo.cache_home() / "downloads" / "pull", notify, what=f"style '{name}'"):
        used: list[Path] = []
        folder = zoo.find_style(name)
        if folder is None:
            paths = {part: fetch(name, part) for part in files}
            sha256 = generator_sha256(load_generator(paths["generator"]).generator.state_dict())
            needs_encoder = zoo.find_base_by_hash(sha256) is None
            official = OfficialFolder(
                generator=paths["generator"],
                codes=paths["codes"],
                refined=paths.get("refined"),
                samplers=paths.get("sampler"),
                encoder=fetch("encoder", "encoder") if needs_encoder else None,
            )
            source = f"https://huggingface.co/{zoo.HUB} ({zoo.REVISION})"
            folder = _import_official(official, name, half=half, source=source, notify=notify or _quiet)
            used += [*paths.values(), *filter(None, [official.encoder])]
        if wplus and _lacks_wplus(name, folder):
            file = fetch("encoder_wplus", "encoder")
            base = load_base(base_of(folder, read_header(folder)))
            base.encoder_wplus = load_encoder(file, space="w+")
            with zoo.writing(base.folder, notify):
                save_base(base.folder, base, half=("encoder_wplus",) if half else ())
            used.append(file)
        for file in used:
            file.unlink(missing_ok=True)
    return folder


def _lacks_wplus(name: str, folder: Path) -> bool:
    return name in zoo.TABLE and not has_part(read_header(base_of(folder, read_header(folder))), "encoder_wplus")


def pull_base(
    name: str,
    *,
    offline: bool | None = None,
    notify: Notify | None = None,
    progress: Progress | None = None,
) -> Path:
    """Fetch a base of the zoo with its discriminator, encoder and stage II; returns its folder in the cache.

    Of stage II it holds all that stage III goes on from: weights as trained and averaged, D, and Adam's moments.
    """
    here = zoo.find_base(name)
    if here is not None:
        return here
    known = zoo.entry(name)
    fetch = partial(zoo.fetch, name, offline=offline, notify=notify, progress=progress)
    files = {part: fetch(part) for part in known.files}
    target = zoo.cache_home() / "bases" / name
    with zoo.writing(target, notify):
        here = zoo.find_base(name)
        if here is not None:
            return here
        released, pretrained = load_pretrained(files["generator"]), load_pretrained(files["pretrained"])
        stage_two = pretrained.stage_two
        if stage_two and not (stage_two.extrinsic_moments and stage_two.discriminator_moments) and notify:
            notify(f"{files['pretrained'].name}: optimisers that do not fit the networks; stage III starts fresh ones")
        base = Base(
            {"name": name, "licence": known.licence, "source": f"https://huggingface.co/{zoo.HUB} ({zoo.REVISION})"},
            released.generator,
            released.discriminator,
            load_encoder(files["encoder"], space="z+"),
            pretrained.extrinsic,
            GaussianPrior(),
            pretrain=stage_two,
        )
        return save_base(target, base)


@dataclass(frozen=True)
class OfficialFolder:
    """The files of a style as released. Encoders lie beside the styles' folders there."""

    generator: Path
    codes: Path
    refined: Path | None = None
    intrinsic: Path | None = None
    samplers: Path | None = None
    encoder: Path | None = None
    encoder_wplus: Path | None = None

    @staticmethod
    def of(folder: Path, encoder: str | Path | None = None, encoder_wplus: str | Path | None = None) -> OfficialFolder:
        codes = folder / "exstyle_code.npy"
        if not codes.is_file():
            raise UsageError(f"{folder} has a generator.pt but no exstyle_code.npy; the release has both.")

        def optional(file: Path) -> Path | None:
            return file if file.is_file() else None

        def encoder_file(given: str | Path | None, name: str) -> Path | None:
            if given is not None:
                return Path(given).expanduser()
            return optional(folder / name) or optional(folder.resolve().parent / name)

        return OfficialFolder(
            folder / "generator.pt",
            codes,
            optional(folder / "refined_exstyle_code.npy"),
            optional(folder / "instyle_code.npy"),
            optional(folder / "sampler.pt"),
            encoder_file(encoder, "encoder.pt"),
            encoder_file(encoder_wplus, "encoder_wplus.pt"),
        )


def _import_official(official: OfficialFolder, name: str, *, half: bool, source: str, notify: Notify) -> Path:
    model = load_generator(official.generator)
    bank = load_codes(official.codes, refined=official.refined, intrinsic=official.intrinsic)
    samplers = load_sampler(official.samplers, style_dim=model.style_dim) if official.samplers else None
    base_folder = _base_under(model, official, half=half, source=source, notify=notify)

    known = zoo.TABLE.get(name)
    weights = known.weights if known and known.weights else zoo.SOFTER_STRUCTURE
    header = {
        "name": name,
        "licence": zoo.S_LAB,
        "source": source,
        "mask": "head",
        "weights": fit_weights(weights, model.rows),
        "features": "vgg19",
        "identity": "arcface",
    }
    style = Style(header, read_header(base_folder), model, None, bank, samplers, base_folder=base_folder)
    target = zoo.cache_home() / "styles" / name
    with zoo.writing(target, notify):
        return save_style(target, style, half=("extrinsic",) if half else ())


def _base_under(model: nn.Module, official: OfficialFolder, *, half: bool, source: str, notify: Notify) -> Path:
    """The folder of the base whose g this model has, made where it is not there yet."""
    sha256 = generator_sha256(model.generator.state_dict())
    target = zoo.find_base_by_hash(sha256)
    if target is not None and not _lacks_encoders(target, official):
        return target
    if target is None:
        if official.encoder is None:
            raise UsageError(
                f"No encoder.pt in {official.generator.parent} or beside it, and no base with this generator is here "
                "yet: give it with --encoder PATH ('dsg styles pull' fetches it with a style)."
            )
        target = zoo.cache_home() / "bases" / f"ffhq-{sha256[:8]}"
        header = {"name": target.name, "licence": zoo.S_LAB, "source": source}
        base = Base(header, model.generator, prior=GaussianPrior())
    else:
        base = load_base(target)

    if official.encoder and base.encoder is None:
        notify(f"reading {official.encoder}")
        base.encoder = load_encoder(official.encoder, space="z+")
    if official.encoder_wplus and base.encoder_wplus is None:
        notify(f"reading {official.encoder_wplus}")
        base.encoder_wplus = load_encoder(official.encoder_wplus, space="w+")
    with zoo.writing(target, notify):
        return save_base(target, base, half=("generator", "encoder", "encoder_wplus") if half else ())


def _lacks_encoders(folder: Path, official: OfficialFolder) -> bool:
    """Whether this import could complete a base of the cache. Bases elsewhere are not ours to change."""
    if not folder.resolve().is_relative_to(zoo.cache_home().resolve()):
        return False
    header = read_header(folder)
    offered = {"encoder": official.encoder, "encoder_wplus": official.encoder_wplus}
    return any(file is not None and not has_part(header, part) for part, file in offered.items())


def _import_own(folder: Path, name: str, notify: Notify) -> Path:
    header = read_header(folder)
    if header["kind"] != "style":
        raise UsageError(f"{folder} is a base, not a style.")
    named = {"name": header["base"].get("name", "base"), "sha256": header["base"]["sha256"]}
    if zoo.find_base_by_hash(named["sha256"]) is None:
        base = zoo.find_base_by_hash(named["sha256"], beside=folder, hint=header["base"].get("path"))
        if base is None:
            raise UsageError(f"The base of {folder} ({named['sha256'][:12]}) is not beside it; bring its folder along.")
        target = zoo.cache_home() / "bases" / f"{named['name']}-{named['sha256'][:8]}"
        notify(f"copying its base as {target.name}")
        with zoo.writing(target, notify):
            copy_bundle(base, target, {"name": target.name})
        named["name"] = target.name
    target = zoo.cache_home() / "styles" / name
    with zoo.writing(target, notify):
        return copy_bundle(folder, target, {"name": name, "base": named})


def _checked_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(
            f"'{name}' is no name for a style: letters, digits, '_', '-' and '.' only; give one by --name."
        )
    if (zoo.EMBEDDED / name / "header.json").is_file():
        raise UsageError(f"'{name}' is an embedded style; choose another --name.")
    return name


def _quiet(line: str) -> None:
    pass
