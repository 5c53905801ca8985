"""Where a model is: a path, an embedded one, one of the cache, one of the zoo; what `dsg styles` lists."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dualstylegan.errors import BadFileError, UsageError, did_you_mean
from dualstylegan.models import cache, zoo
from dualstylegan.models.bundle import HEADER, Header
from dualstylegan.models.cache import cache_home
from dualstylegan.runtime.files import at_home, read_table

Kind = Literal["style", "base"]


@dataclass(frozen=True)
class StyleInfo:
    """A line of `dsg styles`. `place` is "embedded", "cached" or "downloadable"; `problem`: why it cannot be used."""

    name: str
    place: str
    exemplars: int
    licence: str
    size_mb: float
    about: str = ""
    folder: Path | None = None
    problem: str | None = None


def list_styles() -> list[StyleInfo]:
    """All styles that a name reaches, embedded ones first, each once."""
    found: dict[str, StyleInfo] = {}
    for place, root in zip(("embedded", "cached"), _roots("style"), strict=True):
        for folder in _bundles(root):
            header = _glance(folder)
            if folder.name not in found and header.get("kind", "style") == "style":
                found[folder.name] = _describe(folder, header, place)
    for known in zoo.TABLE.values():
        if known.kind == "style" and known.name not in found:
            found[known.name] = StyleInfo(
                known.name, "downloadable", known.exemplars, known.licence, known.about_mb, known.about
            )
    return list(found.values())


def find_model(where: str | Path, kind: Kind) -> Path | None:
    """The folder of a style or base given by name, by its folder or by its run's; None for one that must be fetched.

    Raises UsageError for a model of the other kind, or with the nearest name.
    """
    name = str(where)
    folder = _as_path(where, kind) or next((root / name for root in _roots(kind) if _is_bundle(root, name)), None)
    if folder is not None:
        match kind, _glance(folder).get("kind"):
            case "style", "base":
                raise UsageError(f"{name} is a base, not a style; 'dsg styles' lists styles.")
            case "base", "style":
                raise UsageError(f"{name} is a style; a base is wanted.")
        return folder
    if name in zoo.TABLE and zoo.TABLE[name].kind == kind:
        return None
    if kind == "style":
        hint = did_you_mean(name, [style.name for style in list_styles()])
        raise UsageError(f"No style '{name}'.{hint} 'dsg styles' lists them.")
    here = {folder.name for root in _roots(kind) for folder in _bundles(root) if _glance(folder).get("kind") == "base"}
    known = sorted(here | {model.name for model in zoo.TABLE.values() if model.kind == "base"})
    raise UsageError(f"No base model '{name}'.{did_you_mean(name, known)} There are {', '.join(known)}.")


def base_of(folder: Path, header: Header) -> Path:
    """The folder of a style's base, found by hash: embedded, in the cache, or near the style. Raises BadFileError."""
    base = header["base"]
    found = find_base_by_hash(base["sha256"], beside=folder, hint=base.get("path"))
    if found is None:
        raise BadFileError(
            f"The base model '{base.get('name', '?')}' ({base['sha256'][:12]}) of {folder} is missing: put its folder "
            f"beside the style's as 'base', or into {cache_home() / 'bases'}."
        )
    return found


def find_base_by_hash(sha256: str, *, beside: Path | None = None, hint: str | None = None) -> Path | None:
    """The folder of the base with this identity: near a style's folder, embedded or in the cache; None if nowhere."""
    near: list[Path] = []
    if beside is not None:
        beside = beside.resolve()
        near = [beside / hint] if hint else []
        near += [beside / "base", beside.parent / "base", *_bundles(beside.parent)]
    for folder in (*near, *(folder for root in _roots("base") for folder in _bundles(root))):
        header = _glance(folder)
        if header.get("kind") == "base" and header.get("sha256") == sha256:
            return folder
    return None


def _roots(kind: Kind) -> tuple[Path, Path]:
    return cache.EMBEDDED, cache_home() / f"{kind}s"


def _as_path(where: str | Path, kind: Kind) -> Path | None:
    """`where` as a folder, when it is written as a path or holds a model; a run's folder stands for its model."""
    text = str(where)
    folder = at_home(where)
    if _is_bundle(folder):
        return folder
    if not isinstance(where, Path) and "/" not in text and "\\" not in text and not _is_bundle(folder, kind):
        return None
    if _is_bundle(folder, kind):
        return folder / kind
    if os.path.isfile(folder / "generator.pt"):  # noqa: PTH113
        raise UsageError(
            f"{folder} is a folder of the official release: 'dsg styles import {folder} --name {folder.name}' first."
        )
    raise UsageError(
        f"{folder} {'is no model' if os.path.lexists(folder) else 'does not exist'}; a {kind}'s folder is wanted."
    )


def _is_bundle(folder: Path, name: str = "") -> bool:
    return os.path.isfile(folder / name / HEADER)  # noqa: PTH113 - of a name too long Path raises an error


def _bundles(root: Path) -> list[Path]:
    try:
        return sorted(folder for folder in root.iterdir() if not folder.name.startswith(".") and _is_bundle(folder))
    except OSError:
        return []


def _glance(folder: Path) -> dict[str, Any]:
    """A header as far as it can be read, unchecked: listings go on past a damaged model."""
    return read_table(folder / HEADER)


def _describe(folder: Path, header: dict[str, Any], place: str) -> StyleInfo:
    size_mb = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6
    problem = None
    if header.get("kind") != "style" or not isinstance(header.get("base"), dict):
        problem = "damaged header.json"
    elif find_base_by_hash(header["base"].get("sha256", ""), beside=folder, hint=header["base"].get("path")) is None:
        problem = "its base model is missing"
    about = header.get("title") or header.get("about") or ""
    licence = header.get("licence") or "not stated"
    return StyleInfo(folder.name, place, len(header.get("exemplars") or ()), licence, size_mb, about, folder, problem)
