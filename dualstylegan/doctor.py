"""What a bug report needs to say of this machine: versions, devices, codecs, the cache and what lies in it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dualstylegan import __version__
from dualstylegan.events import Event

VERB = "doctor"
PACKAGES = ("torch", "av", "kornia", "accelerate", "face-alignment", "pillow", "numpy", "safetensors", "typer", "rich")
DECODERS = ("h264", "hevc", "vp9", "av1", "prores", "mpeg4", "mjpeg")
ENCODERS = ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "prores_ks", "ffv1", "aac", "libopus")


def described_version() -> str:
    """`0.1.0`, or `0.1.0 (commit 1a2b3c4, changed)` where dsg runs from a checkout."""
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / ".git").exists():  # installed; a repository further up is somebody else's
        return __version__

    def git(*words: str) -> str | None:
        command = ["git", "-C", str(checkout), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        commit = git("rev-parse", "--short", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except OSError:  # no git on this machine
        return __version__
    return f"{__version__} (commit {commit}{', changed' if changed else ''})" if commit else __version__


def diagnose() -> Iterator[Event]:
    """A note for each thing there is to know, its facts in `data`; then a summary that names what is missing."""
    yield Event("plan", VERB)
    wanting: list[str] = []
    for name, line, facts, problem in (
        _program(),
        _packages(),
        _machine(),
        *_devices(),
        _codecs(),
        _cache(),
        _models(),
        _detector(),
    ):
        wanting += [problem] if problem else []
        yield Event("note", VERB, source=name, message=line, data=facts)
    yield Event("summary", VERB, message=f"{'; '.join(wanting) or 'nothing is missing'}.", data={"missing": wanting})


Finding = tuple[str, str, dict[str, Any], str | None]


def _program() -> Finding:
    facts = {"dsg": described_version(), "python": platform.python_version(), "system": platform.platform()}
    return "dsg", f"{facts['dsg']}, Python {facts['python']}, {facts['system']}", facts, None


def _packages() -> Finding:
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    missing = [package for package, here in found.items() if here is None]
    line = ", ".join(f"{package} {here or 'MISSING'}" for package, here in found.items())
    return "packages", line, dict(found), f"{', '.join(missing)} not installed" if missing else None


def _machine() -> Finding:
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory_gb = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory_gb = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    facts = {"cores": usable, "threads": torch.get_num_threads(), "memory_gb": memory_gb}
    memory = "" if memory_gb is None else f", {memory_gb:g} GB of memory"
    return "machine", f"{usable} cores, torch on {facts['threads']} threads{memory}", facts, None


def _devices() -> Iterator[Finding]:
    import torch

    from dualstylegan.runtime.devices import has_fast_bfloat16, pick_device, pick_precision

    names = ["cpu"]
    names += [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    names += ["mps"] if torch.backends.mps.is_available() else []
    chosen = pick_device("auto")
    for name in names:
        device = torch.device(name)
        facts: dict[str, Any] = {"name": platform.processor() or platform.machine()}
        if device.type == "cuda":
            card = torch.cuda.get_device_properties(device)
            facts = {"name": card.name, "memory_gb": round(card.total_memory / 2**30, 1), "cuda": torch.version.cuda}
        precision = str(pick_precision("auto", device)).removeprefix("torch.")
        told = ", ".join(str(value) for value in facts.values() if value)
        facts |= {"precision": precision, "bf16": has_fast_bfloat16(device), "chosen": device.type == chosen.type}
        told += f", {'bf16 in hardware' if facts['bf16'] else 'no bf16 in hardware'}, restyles in {precision}"
        line = f"{told}{', used by --device auto' if facts['chosen'] else ''}"
        yield name, line, facts, None


def _codecs() -> Finding:
    import av

    read = {name: _has_codec(av, name, "r") for name in DECODERS}
    write = {name: _has_codec(av, name, "w") for name in ENCODERS}

    def told(codecs: dict[str, bool]) -> str:
        return ", ".join(name if here else f"no {name}" for name, here in codecs.items())

    libraries = {name: ".".join(map(str, number)) for name, number in av.library_versions.items()}
    facts = {"decoders": read, "encoders": write, "libraries": libraries}
    line = f"reads {told(read)}; writes {told(write)}; libavcodec {libraries.get('libavcodec', '?')}"
    return "codecs", line, facts, None if write["libx264"] else "no H.264 encoder"


def _has_codec(av: Any, name: str, mode: str) -> bool:
    try:
        av.Codec(name, mode)
    except Exception:  # what it raises differs between PyAV's versions
        return False
    return True


def _cache() -> Finding:
    from dualstylegan.models.cache import cache_home, is_offline

    home = cache_home()
    held_mb = 0.0
    for folder, _, files in os.walk(home):
        held_mb += sum(Path(folder, name).lstat().st_size for name in files) / 1e6
    there = home
    while not there.exists():
        there = there.parent
    writable = os.access(there, os.W_OK)
    facts = {"folder": str(home), "mb": round(held_mb, 1), "writable": writable, "offline": is_offline()}
    line = f"{home}, {held_mb:.0f} MB{'' if writable else ', NOT writable'}{', offline' if facts['offline'] else ''}"
    return "cache", line, facts, None if writable else f"{home} cannot be written"


def _models() -> Finding:
    from dualstylegan.models.lookup import list_styles

    places: dict[str, list[str]] = {}
    for style in list_styles():
        places.setdefault(style.place, []).append(style.name)
    here = [f"{', '.join(names)} ({place})" for place, names in places.items() if place != "downloadable"]
    return "styles", "; ".join(here) or "none", dict(places), None if here else "no style is here"


def _detector() -> Finding:
    from dualstylegan.faces.face_alignment import missing_weights

    missing, folder = missing_weights()
    line = f"embedded; face-alignment's weights are not in {folder}" if missing else "face-alignment"
    return "detector", line, {"face_alignment": not missing}, None
