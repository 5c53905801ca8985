"""The library: what a user typed becomes a style, found once, fetched where it is missing, loaded once.

found = library.find("toon:7")             # names, kinds and exemplars are checked here, before any work
found = yield from library.fetch(found)    # nothing, where it is here already
style = Library().style(found)             # reads files; fetches nothing
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Generator
from dataclasses import dataclass
from pathlib import Path

from dualstylegan.errors import OfflineError
from dualstylegan.events import Event, outcome
from dualstylegan.models import zoo
from dualstylegan.models.base import Base, read_base
from dualstylegan.models.bundle import Header, read_header
from dualstylegan.models.codes import (
    Exemplar,
    Exemplars,
    StylePart,
    StyleRequest,
    parse_style,
    resolve_exemplars,
)
from dualstylegan.models.convert import pull_base, pull_style
from dualstylegan.models.fetch import USUAL, Terms
from dualstylegan.models.lookup import base_of, find_model
from dualstylegan.models.style import Style, read_style

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundStyle:
    """A style request, resolved. Of a style that is yet to be fetched, `folder` is None and `exemplars` is empty."""

    request: StyleRequest
    exemplars: tuple[Exemplar, ...] = ()
    folder: Path | None = None
    base_folder: Path | None = None
    header: Header | None = None

    @property
    def name(self) -> str:
        return self.header["name"] if self.header else self.request.name


def find(style: str | StyleRequest) -> FoundStyle:
    """The style and the exemplars that `NAME`, `NAME:ID` or a blend means, with nothing read but its header.

    Raises UsageError for a style, a kind or an exemplar that is not there, BadFileError for a header that cannot be
    used or a base that is missing. Exemplars of a style that is yet to be fetched are checked by number alone.
    """
    request = parse_style(style) if isinstance(style, str) else style
    folder = find_model(request.name, "style")
    if folder is None:
        counted = tuple(map(str, range(zoo.TABLE[request.name].exemplars)))
        for part in request.parts:
            if part.exemplar and part.exemplar.isdecimal() and not part.exemplar.startswith("0"):
                Exemplars(counted, request.name).index(part.exemplar)
        return FoundStyle(request)
    header = read_header(folder)
    known = Exemplars(tuple(header["exemplars"]), header["name"])
    exemplars = resolve_exemplars(request, known, header.get("default_exemplar") or 0)
    return FoundStyle(request, exemplars, folder, base_of(folder, header), header)


def found_in(style: Style, exemplar: int | str | None = None) -> FoundStyle:
    """A style that is loaded already, as if it had been found, with one of its exemplars (None: its default)."""
    request = StyleRequest(style.name, (StylePart(None if exemplar is None else str(exemplar), 1.0),))
    exemplars = resolve_exemplars(request, style.bank.exemplars, style.header.get("default_exemplar") or 0)
    return FoundStyle(request, exemplars, style.folder, style.base_folder, style.header)


def fetch(found: FoundStyle, *, wplus: bool = False, terms: Terms = USUAL) -> Generator[Event, None, FoundStyle]:
    """An official style, or with `wplus` its W+ encoder, where that is not here yet; says so meanwhile.

    Raises UsageError, OfflineError, DownloadError.
    """
    if found.request.name not in zoo.TABLE or (found.folder and not wplus):
        return found
    yield from pull_style(found.request.name, wplus=wplus, terms=terms)
    return find(found.request)


def obtain(style: str | StyleRequest, *, wplus: bool = False, offline: bool | None = None) -> FoundStyle:
    """`find`, then `fetch`: licence and size are logged as warnings, so that they are seen where nobody set up logs."""

    def tell(event: Event) -> None:
        if event.kind == "note":
            log.warning("%s", event.message)

    return outcome(fetch(find(style), wplus=wplus, terms=Terms(offline=offline)), tell)


def fetch_base(where: str | Path, terms: Terms = USUAL) -> Generator[Event, None, Path]:
    """The folder of a base given by name, folder or run folder; one of the zoo comes first where it is not here yet."""
    return find_model(where, "base") or (yield from pull_base(str(where), terms))


class Library:
    """Models in memory, each read once: styles on one base share its networks. Nothing is fetched here."""

    def __init__(self):
        self._bases: dict[tuple[Path, frozenset[str] | None], Base] = {}
        self._styles: dict[tuple[Path, frozenset[str], bool], Style] = {}

    def style(
        self,
        where: FoundStyle | str | Path,
        *,
        encoder: bool = True,
        wplus: bool = True,
        thumbnails: bool = False,
    ) -> Style:
        """A style, found or by name, folder or run folder, on its base.

        `encoder`, `wplus` and `thumbnails` say whether to read these. Raises UsageError for a name that does not exist,
        OfflineError for a style that is yet to be fetched, BadFileError for damaged files or a missing base.
        """
        folder = where.folder if isinstance(where, FoundStyle) else find_model(where, "style")
        if folder is None:
            name = where.name if isinstance(where, FoundStyle) else where
            raise OfflineError(f"The style '{name}' is not here yet: 'dsg styles pull {name}' fetches it.")
        parts = {"prior"} | ({"encoder"} if encoder else set()) | ({"encoder_wplus"} if encoder and wplus else set())
        key = (folder.resolve(), frozenset(parts), thumbnails)
        if key not in self._styles:
            known = where.base_folder if isinstance(where, FoundStyle) else None
            base = self._base_in(known or base_of(folder, read_header(folder)), frozenset(parts))
            self._styles[key] = read_style(folder, base, thumbnails=thumbnails)
        return self._styles[key]

    def base(self, where: str | Path, *, parts: Collection[str] | None = None) -> Base:
        """A base by name, folder or run folder. `parts` names what to read beside the generator; None is everything.

        Raises UsageError for a name that does not exist, OfflineError for a base that is yet to be fetched,
        BadFileError for damaged files.
        """
        folder = find_model(where, "base")
        if folder is None:
            raise OfflineError(f"The base '{where}' is not here yet; 'dsg train' fetches it.")
        return self._base_in(folder, None if parts is None else frozenset(parts))

    def _base_in(self, folder: Path, parts: frozenset[str] | None) -> Base:
        key = (folder.resolve(), parts)  # styles name it relative to themselves
        if key not in self._bases:
            self._bases[key] = read_base(folder, parts=parts)
        return self._bases[key]


def load_style(where: FoundStyle | str | Path, **which: bool) -> Style:
    """`Library.style`, of one style alone."""
    return Library().style(where, **which)


def load_base(where: str | Path, *, parts: Collection[str] | None = None) -> Base:
    """`Library.base`, of one base alone."""
    return Library().base(where, parts=parts)
