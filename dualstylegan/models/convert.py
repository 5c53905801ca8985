"""Models of other places into the cache: the official release's folders, the zoo's downloads, our own runs.

An official style becomes two bundles, a style and the base under it (g, f and the encoders). The base is shared by all
styles with the same g, found by its hash.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from dualstylegan.errors import UsageError
from dualstylegan.events import Event
from dualstylegan.models import cache, zoo
from dualstylegan.models.base import Base, read_base, save_base
from dualstylegan.models.bundle import HEADER, copy_bundle, generator_sha256, has_part, read_header
from dualstylegan.models.cache import cache_home, holding, in_cache, is_offline
from dualstylegan.models.codes import fit_weights
from dualstylegan.models.fetch import USUAL, Terms, fetch
from dualstylegan.models.lookup import base_of, find_base_by_hash, find_model
from dualstylegan.models.official import load_codes, load_encoder, load_generator, load_pretrained, load_sampler
from dualstylegan.models.priors import GaussianPrior
from dualstylegan.models.style import Style, save_style
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.runtime.files import at_home

Making = Generator[Event, None, Path]  # what is said meanwhile, and the folder that is made


def import_style(
    folder: str | Path,
    name: str | None = None,
    *,
    encoder: str | Path | None = None,
    encoder_wplus: str | Path | None = None,
    half: bool = False,
    source: str = "an official folder",
    verb: str = "styles",
) -> Making:
    """Bring a style into the cache under `name` (default: the folder's). Returns its folder there.

    `folder` is one of the official release, or a style or run of our own. `encoder` defaults to encoder.pt in the
    folder or beside it, and is not needed once its base is there. `half` stores networks in half precision. Raises
    UsageError for a folder that is neither, BadFileError for what is in it.
    """
    folder = at_home(folder)
    name = _checked_name(name or folder.resolve().name)
    if (folder / "generator.pt").is_file():
        official = OfficialFolder.of(folder, encoder, encoder_wplus)
        return (yield from _import_official(official, name, half=half, source=source, verb=verb))
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; give one of the official release, or a run's.")
    if (folder / "exstyle_code.npy").is_file():
        raise UsageError(f"{folder} has codes but no generator.pt; the official release has both in one folder.")
    return (yield from _import_own(find_model(folder, "style") or folder, name, verb))


def pull_style(name: str, *, wplus: bool = False, half: bool = False, terms: Terms = USUAL) -> Making:
    """Fetch an official style, make it a bundle of the cache, let go of the downloads. Returns its folder.

    What is already here is left as it is; `wplus` completes it with the W+ encoder. Raises UsageError, OfflineError,
    DownloadError.
    """
    here = find_model(name, "style")
    if here is not None and not (wplus and _lacks_wplus(name, here)):
        return here
    known = zoo.entry(name)
    if here is None and is_offline(terms.offline):  # say what is missing before anything is locked
        for part in known.files:
            yield from fetch(name, part, terms)

    # one at a time: styles share an encoder, and each clears up behind itself
    with (yield from holding(cache_home() / "downloads" / "pull", terms.verb, what=f"style '{name}'")):
        used: list[Path] = []
        folder = find_model(name, "style")
        if folder is None:
            paths = {}
            for part in known.files:
                paths[part] = yield from fetch(name, part, terms)
            yield terms.note(f"{name} was {known.checks}")
            used += paths.values()
            sha256 = generator_sha256(load_generator(paths["generator"]).generator.state_dict())
            encoder = None
            if find_base_by_hash(sha256) is None:
                encoder = yield from fetch("encoder", "encoder", terms)
                used.append(encoder)
            official = OfficialFolder(
                generator=paths["generator"],
                codes=paths["codes"],
                refined=paths.get("refined"),
                samplers=paths.get("sampler"),
                encoder=encoder,
            )
            folder = yield from _import_official(official, name, half=half, source=zoo.SOURCE, verb=terms.verb)
        if wplus and _lacks_wplus(name, folder):
            file = yield from fetch("encoder_wplus", "encoder", terms)
            used.append(file)
            target = base_of(folder, read_header(folder))
            base = read_base(target)
            base.encoder_wplus = load_encoder(file, space="w+")
            with (yield from holding(target, terms.verb)):
                save_base(target, base, half=("encoder_wplus",) if half else ())
        for file in used:
            file.unlink(missing_ok=True)
    return folder


def _lacks_wplus(name: str, folder: Path) -> bool:
    return name in zoo.TABLE and not has_part(read_header(base_of(folder, read_header(folder))), "encoder_wplus")


def pull_base(name: str, terms: Terms = USUAL) -> Making:
    """Fetch a base of the zoo with its discriminator, encoder and stage II; returns its folder in the cache.

    Of stage II it holds all that stage III goes on from: weights as trained and averaged, D, and Adam's moments.
    """
    here = find_model(name, "base")
    if here is not None:
        return here
    known = zoo.entry(name)
    files = {}
    for part in known.files:
        files[part] = yield from fetch(name, part, terms)
    target = cache_home() / "bases" / name
    with (yield from holding(target, terms.verb)):
        here = find_model(name, "base")
        if here is not None:
            return here
        released, pretrained = load_pretrained(files["generator"]), load_pretrained(files["pretrained"])
        stage_two = pretrained.stage_two
        if stage_two and not (stage_two.extrinsic_moments and stage_two.discriminator_moments):
            file = files["pretrained"].name
            yield terms.note(f"{file}: optimisers that do not fit the networks; stage III starts fresh ones")
        base = Base(
            {"name": known.name, "licence": known.licence, "source": zoo.SOURCE},
            released.generator,
            released.discriminator,
            load_encoder(files["encoder"], space="z+"),
            pretrained.extrinsic,
            GaussianPrior(),
            stage_two=stage_two,
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
                return at_home(given)
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


def _import_official(official: OfficialFolder, name: str, *, half: bool, source: str, verb: str) -> Making:
    model = load_generator(official.generator)
    bank = load_codes(official.codes, refined=official.refined, intrinsic=official.intrinsic)
    samplers = load_sampler(official.samplers, style_dim=model.style_dim) if official.samplers else None
    base_folder = yield from _base_under(model, official, half=half, source=source, verb=verb)

    known = zoo.TABLE.get(name)
    weights = known.weights if known and known.weights else zoo.SOFTER_STRUCTURE
    header = {
        "name": name,
        "licence": zoo.S_LAB,
        "source": source,
        "mask": "head",
        "scene": "keep",
        "finish": False,
        "weights": fit_weights(weights, model.rows),
        "features": "vgg19",
        "identity": "arcface",
    }
    style = Style(header, read_header(base_folder), model, None, bank, samplers, base_folder=base_folder)
    target = cache_home() / "styles" / name
    with (yield from holding(target, verb)):
        return save_style(target, style, half=("extrinsic",) if half else ())


def _base_under(model: DualStyleGAN, official: OfficialFolder, *, half: bool, source: str, verb: str) -> Making:
    """The folder of the base whose g this model has, made where it is not there yet."""
    sha256 = generator_sha256(model.generator.state_dict())
    target = find_base_by_hash(sha256)
    if target is not None and not _lacks_encoders(target, official):
        return target
    if target is None:
        if official.encoder is None:
            raise UsageError(
                f"No encoder.pt in {official.generator.parent} or beside it, and no base with this generator is here "
                "yet: give it with --encoder PATH ('dsg styles pull' fetches it with a style)."
            )
        target = cache_home() / "bases" / f"ffhq-{sha256[:8]}"
        header = {"name": target.name, "licence": zoo.S_LAB, "source": source}
        base = Base(header, model.generator, prior=GaussianPrior())
    else:
        base = read_base(target)

    if official.encoder and base.encoder is None:
        yield Event("note", verb, message=f"reading {official.encoder}")
        base.encoder = load_encoder(official.encoder, space="z+")
    if official.encoder_wplus and base.encoder_wplus is None:
        yield Event("note", verb, message=f"reading {official.encoder_wplus}")
        base.encoder_wplus = load_encoder(official.encoder_wplus, space="w+")
    with (yield from holding(target, verb)):
        return save_base(target, base, half=("generator", "encoder", "encoder_wplus") if half else ())


def _lacks_encoders(folder: Path, official: OfficialFolder) -> bool:
    """Whether this import could complete a base of the cache. Bases elsewhere are not ours to change."""
    if not in_cache(folder):
        return False
    header = read_header(folder)
    offered = {"encoder": official.encoder, "encoder_wplus": official.encoder_wplus}
    return any(file is not None and not has_part(header, part) for part, file in offered.items())


def _import_own(folder: Path, name: str, verb: str) -> Making:
    header = read_header(folder)
    named = {"name": header["base"].get("name", "base"), "sha256": header["base"]["sha256"]}
    if find_base_by_hash(named["sha256"]) is None:
        base = find_base_by_hash(named["sha256"], beside=folder, hint=header["base"].get("path"))
        if base is None:
            raise UsageError(f"The base of {folder} ({named['sha256'][:12]}) is not beside it; bring its folder along.")
        target = cache_home() / "bases" / f"{named['name']}-{named['sha256'][:8]}"
        yield Event("note", verb, message=f"copying its base as {target.name}")
        with (yield from holding(target, verb)):
            copy_bundle(base, target, {"name": target.name})
        named["name"] = target.name
    target = cache_home() / "styles" / name
    with (yield from holding(target, verb)):
        return copy_bundle(folder, target, {"name": name, "base": named})


LONGEST_NAME = 100  # bytes: folders and sheets are named after it, with more behind


def _checked_name(name: str) -> str:
    if len(os.fsencode(name)) > LONGEST_NAME:
        raise UsageError(f"'{name[:20]}...' is too long a name for a style: {LONGEST_NAME} letters at most.")
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(
            f"'{name}' is no name for a style: letters, digits, '_', '-' and '.' only; give one by --name."
        )
    if (cache.EMBEDDED / name / HEADER).is_file():
        raise UsageError(f"'{name}' is an embedded style; choose another --name.")
    return name
