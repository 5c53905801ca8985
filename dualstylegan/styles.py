"""Styles listed, shown, fetched and brought in: the verb `styles`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dualstylegan.choices import TRUNCATION
from dualstylegan.errors import DualStyleGANError, UsageError
from dualstylegan.events import Event
from dualstylegan.media.images import from_tensor, write_picture
from dualstylegan.media.pages import Page, is_page
from dualstylegan.media.plan import Destination, refuse_anothers, refuse_fields
from dualstylegan.media.sheets import contact_sheet
from dualstylegan.models import lookup
from dualstylegan.models.bundle import read_header
from dualstylegan.models.cache import cache_home
from dualstylegan.models.codes import Exemplars, fit_weights
from dualstylegan.models.convert import import_style, pull_style
from dualstylegan.models.fetch import Terms
from dualstylegan.models.library import load_style
from dualstylegan.models.lookup import find_model
from dualstylegan.models.style import Style, read_thumbnails
from dualstylegan.models.zoo import ENCODER
from dualstylegan.runtime.files import whole_file

VERB = "styles"
FACE_SEED = 7  # the face all exemplars of a style without thumbnails are shown on
RENDERED_PX = 256
PATIENT_IDS = 40  # more renderings than these are announced
MOST_IDS = 2000


def list_styles() -> Iterator[Event]:
    """One note per style (its facts in `data`), then a summary."""
    found = lookup.list_styles()
    widest = max(len(style.name) for style in found)
    for style in found:
        facts = asdict(style) | {"folder": style.folder and str(style.folder)}
        line = (
            f"{style.name:{widest}}  {style.place:12}  {style.exemplars:4} exemplars  {style.size_mb:6.0f} MB  "
            f"{style.problem or _short(style.licence)}"
        )
        yield Event("note", VERB, source=style.name, message=line, data=facts)
    places = [style.place for style in found]
    counts = [f"{places.count(place)} {place}" for place in ("embedded", "cached", "downloadable") if place in places]
    summary = f"{', '.join(counts)}. 'dsg styles show NAME' draws the exemplars, 'dsg styles pull NAME' fetches a style"
    summary += "." if _has_encoder() else f"; the first one brings their common encoder too, {ENCODER.about_mb} MB."
    yield Event("summary", VERB, message=summary, data={"home": str(cache_home())})


def _has_encoder() -> bool:
    """Whether a base that official styles can share is here already."""
    return any((cache_home() / "bases").glob("ffhq*/header.json"))


def show_style(
    name: str,
    output: str | Path | None = None,
    *,
    ids: str | None = None,
    columns: int | None = None,
    offline: bool | None = None,
) -> Iterator[Event]:
    """Draw the numbered contact sheet of a style's exemplars to `output` (default: NAME.png here; or an HTML page).

    A style without thumbnails has each code rendered on one fixed face, which is kept in the cache. `ids` is a list
    such as "0-29,41,x.jpg". Raises UsageError for exemplars that do not exist, a sheet that cannot be written, and
    where the default name is a file that dsg has not made.
    """
    target = None if output is None else _sheet_place(output)
    folder = find_model(name, "style") or (yield from pull_style(name, terms=Terms(VERB, offline)))
    header = read_header(folder)
    known = Exemplars(tuple(header["exemplars"]), header["name"])
    count = len(known)
    if target is None:
        target = Path(f"{header['name']}.png")
        refuse_anothers(target)
    chosen = parse_ids(ids, known) if ids else list(range(count))
    if not chosen:
        raise UsageError(f"Style '{name}' has no exemplars to show.")

    yield Event("plan", VERB, source=name, total=len(chosen))
    thumbnails = read_thumbnails(folder, header)
    pictures = {} if thumbnails is None else {i: np.asarray(thumbnails[i]) for i in chosen}
    if thumbnails is None:
        if len(chosen) > PATIENT_IDS and not ids:
            line = f"{name} has no thumbnails: rendering {len(chosen)} exemplars, once; --ids 0-29 draws a part of them"
            yield Event("note", VERB, source=name, message=line)
        for number, picture in _rendered(folder, chosen):
            pictures[number] = picture
            yield Event("progress", VERB, source=name, stage="render", current=len(pictures), total=len(chosen))

    labels = [f"{i}  {Path(known.names[i]).stem}" for i in chosen]
    title = f"{header['name']}: {count} exemplars, use as {header['name']}:NUMBER"
    if is_page(target):
        page = Page(title, len(chosen), {"licence": header.get("licence") or "not stated"})
        for i, label in zip(chosen, labels, strict=True):
            page.add(label, None, [("", pictures[i])])
        page.write(target)
    else:
        write_picture(target, contact_sheet([pictures[i] for i in chosen], labels, columns=columns, title=title))
    data = {"exemplars": {str(i): known.names[i] for i in chosen}, "rendered": thumbnails is None}
    yield Event("done", VERB, source=name, output=str(target), data=data)
    yield Event("summary", VERB, output=str(target), message=f"{target}: {len(chosen)} of {count} exemplars of {name}.")


def pull_styles(
    names: Sequence[str],
    *,
    wplus: bool = False,
    half: bool = False,
    offline: bool | None = None,
    accept_changed: bool = False,
) -> Iterator[Event]:
    """Fetch styles, with `wplus` their W+ encoder too. One that fails does not stop the others; a wrong name does.

    A file that is no longer what it was when it first came is refused, unless `accept_changed`.
    """
    wanted = list(dict.fromkeys(names))
    here = {name: find_model(name, "style") for name in wanted}
    terms = Terms(VERB, offline, accept_changed)
    yield Event("plan", VERB, total=len(wanted))
    failed = 0
    for name in wanted:
        if here[name] is not None and not wplus:
            yield Event("skipped", VERB, source=name, output=str(here[name]), message="is already here")
            continue
        try:
            folder = yield from pull_style(name, wplus=wplus, half=half, terms=terms)
            yield Event("done", VERB, source=name, output=str(folder))
        except DualStyleGANError as error:
            failed += 1
            yield Event("failed", VERB, source=name, message=str(error))
    already = 0 if wplus else sum(folder is not None for folder in here.values())
    message = f"{len(wanted) - already - failed} fetched, {already} already here, {failed} failed."
    yield Event("summary", VERB, message=message)


def bring_style(
    folder: str | Path,
    name: str | None = None,
    *,
    encoder: str | Path | None = None,
    encoder_wplus: str | Path | None = None,
    half: bool = False,
) -> Iterator[Event]:
    """Import a folder of the official release, or a run's style, into the cache; see `convert.import_style`."""
    target = yield from import_style(folder, name, encoder=encoder, encoder_wplus=encoder_wplus, half=half, verb=VERB)
    header = read_header(target)
    yield Event("done", VERB, source=str(folder), output=str(target), data={"name": header["name"]})
    lines = f"{header['name']}: {len(header['exemplars'])} exemplars, licence: {_short(header.get('licence'))}."
    yield Event("summary", VERB, output=str(target), message=f"{lines} Use it as --style {header['name']}:ID.")


def parse_ids(text: str, known: Exemplars) -> list[int]:
    """`0-29,41,x.jpg` -> exemplar numbers in that order, each once. Raises UsageError."""
    numbers: list[int] = []
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        span = re.fullmatch(r"(\d+)-(\d+)", piece)
        if span and piece not in known.names:
            first, last = int(span[1]), int(span[2])
            if last < first:
                raise UsageError(f"'{piece}' in '{text}' counts backwards: write {last}-{first}.")
            numbers += [known.index(i) for i in (*range(first, min(last, first + MOST_IDS)), last)]
        else:
            numbers.append(known.index(piece))
    return list(dict.fromkeys(numbers))


@torch.no_grad()
def _rendered(folder: Path, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Pictures (256, 256, 3) of the exemplars' codes on one face, from the cache where they were drawn before."""
    header = read_header(folder)
    sha256 = header["parts"]["extrinsic.safetensors"][:16] + header["parts"]["codes.safetensors"][:16]
    drawn = cache_home() / "sheets" / f"{header['name']}-{sha256}"
    style: Style | None = None
    for number in numbers:
        file = drawn / f"{number:05d}.png"
        picture = _read(file)
        if picture is None:
            style = style or load_style(folder, encoder=False)
            picture = _render(style, number)
            _keep(picture, file)
        yield number, picture


def _render(style: Style, number: int) -> np.ndarray:
    face = style.sample_intrinsic(1, torch.Generator().manual_seed(FACE_SEED))
    weights = fit_weights(style.header["weights"], style.model.rows)
    truncation = style.header.get("truncation", TRUNCATION)
    image = style.model(face, style.bank[number][None], weights=weights, truncation=truncation)
    picture = Image.fromarray(from_tensor(image[0].clamp(-1, 1)))
    picture.thumbnail((RENDERED_PX, RENDERED_PX), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def _read(file: Path) -> np.ndarray | None:
    try:
        return np.asarray(Image.open(file).convert("RGB"))
    except OSError:
        return None


def _keep(picture: np.ndarray, file: Path) -> None:
    """In the cache, where that can be written: otherwise it is drawn again next time."""
    with suppress(DualStyleGANError), whole_file(file) as temporary:
        Image.fromarray(picture).save(temporary, "PNG")


def _sheet_place(output: str | Path) -> Path:
    if is_page(output):
        refuse_fields(output, "the sheet")
        return Path(output)
    out = Destination.of(output)
    if out.file is None or out.file.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UsageError(f"-o {output}: a sheet is written as .png, .jpg, .webp or .html.")
    return out.file


def _short(licence: str | None) -> str:
    return (licence or "not stated").partition(": http")[0]
