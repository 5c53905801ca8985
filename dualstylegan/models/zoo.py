"""Which models exist, where their files come from, and where they lie: the table, the cache, downloads, look-up.

The cache is DSG_HOME, else the platform's cache folder:
    styles/NAME/, bases/NAME/    models as bundles
    downloads/NAME/FILE          files as released, checked before they get this name
    sheets/                      contact sheets that had to be rendered
Nothing is printed here: `notify` takes lines for the user, `progress` (file, bytes done, bytes in all or None).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from dualstylegan.choices import row_weights
from dualstylegan.errors import DownloadError, OfflineError, UsageError, did_you_mean
from dualstylegan.events import Event
from dualstylegan.models.download import TIMEOUT_S, Notify, Progress, Source, download, reason_of

Result = TypeVar("Result")
S_LAB = "S-Lab License 1.0, non-commercial: https://github.com/williamyang1991/DualStyleGAN/blob/main/LICENSE.md"
NVIDIA = "Nvidia Source Code License-NC, non-commercial: https://nvlabs.github.io/stylegan2/license.html"
BSD = "BSD 3-Clause (torchvision); trained on ImageNet"
BSD2 = "BSD 2-Clause (LPIPS)"
MIT_RESEARCH = "MIT (code); weights for research, trained on MS1M"
HUB, REVISION = "CVPR/DualStyleGAN", "main"


# The table


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


def _hub(path: str, about_mb: int, sha256: str | None = None, **more) -> RemoteFile:
    return RemoteFile(Path(path).name, about_mb, sha256, HUB, f"models/{path}", **more)


ENCODER = _hub("encoder.pt", 1210, "264f263987efb847f1ff2f2bf729178d0ee25a6d65731f5a4d194de2c3ba3507")
ENCODER_WPLUS = _hub("encoder_wplus.pt", 1210, "f786ac5cf18fcdbc5c57c9f3f12cbedca69381fbdf5694dd132294e3133749d7")
PRETRAINED = _hub("generator-pretrain.pt", 1280, "124da354f099f26d649c9f9c7d761b2a9d8b75cb85493503b3e1dc2a3985d582")

ALL_ONE = (1.0,) * 18
SOFTER_STRUCTURE = row_weights()
LATE_STRUCTURE = (0.0,) * 4 + row_weights()[4:]


def _style(
    name: str,
    exemplars: int,
    about: str,
    weights: tuple[float, ...] = SOFTER_STRUCTURE,
    *,
    generator: str | None = None,
    codes: str | None = None,
    refined: str | None = None,
    has_refined: bool = False,
) -> Entry:
    files = {
        "generator": _hub(f"{name}/generator.pt", 308, generator),
        "codes": _hub(f"{name}/exstyle_code.npy", max(1, exemplars * 37 // 1000), codes),
        "sampler": _hub(f"{name}/sampler.pt", 5),
    }
    if has_refined:
        files["refined"] = _hub(f"{name}/refined_exstyle_code.npy", max(1, exemplars * 37 // 1000), refined)
    return Entry(name, "style", S_LAB, files, exemplars, weights, about)


TABLE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        _style(
            "cartoon",
            317,
            "cartoon faces",
            generator="de40db8bc79db5184f65b91a3fd710e2806d3010903cd9af754c9906b38edd8f",
            has_refined=True,
        ),
        _style(
            "caricature",
            199,
            "caricatures of WebCaricature",
            ALL_ONE,
            codes="528dd3e6d331daa5d0848dd94fccbca50b1bb3f1daa3ce3f717734bcc155d20d",
            refined="29fd9d6609458690fb4ea85a2456dd251c2db6bf41f0f9a9ca868e5100f08b49",
            has_refined=True,
        ),
        _style(
            "anime",
            174,
            "anime portraits of Danbooru",
            LATE_STRUCTURE,
            codes="31465bcb616bce061d973d794443a800eb96fb58633ed563494e91d2bd530617",
            has_refined=True,
        ),
        _style(
            "arcane",
            100,
            "Arcane",
            generator="c9b3b8c1a300911299e66e07a656333ba85ac79e1ff04a55e9357d0f915b5e6a",
        ),
        _style(
            "comic",
            101,
            "comic",
            generator="1221f44422239c7d0c56464ebfe19880ee0aac694c2ba5b728875486a1261d2e",
        ),
        _style("pixar", 122, "Pixar"),
        _style("slamdunk", 120, "Slam Dunk"),
        Entry(
            "ffhq",
            "base",
            f"{S_LAB}; generator: {NVIDIA}",
            {
                "generator": RemoteFile(
                    "stylegan2-ffhq-config-f.pt",
                    381,
                    "bae494ef77e32a9cd1792a81a3c167692a0e64f6bcd8b06592ff42917e2ed46e",
                    HUB,
                    "models/stylegan2-ffhq-config-f.pt",
                    mirrors=(
                        "https://huggingface.co/aaronb/StyleGAN2/resolve/main/stylegan2-ffhq-config-f.pt",
                        "https://huggingface.co/wmpscc/StyleGene_CKPT/resolve/main/stylegan2-ffhq-config-f.pt",
                    ),
                ),
                "encoder": ENCODER,
                "pretrained": PRETRAINED,
            },
            about="StyleGAN2 of FFHQ faces, 1024 px, with the release's encoder and stage II",
        ),
        Entry("encoder", "network", S_LAB, {"encoder": ENCODER}, about="faces to Z+ (pSp)"),
        Entry("encoder_wplus", "network", S_LAB, {"encoder": ENCODER_WPLUS}, about="faces to W+ (pSp)"),
        Entry("generator-pretrain", "network", S_LAB, {"pretrained": PRETRAINED}, about="stage II on FFHQ"),
        Entry(
            "arcface",
            "network",
            MIT_RESEARCH,
            {
                "arcface": RemoteFile(
                    "recognition_arcface_ir_se50.pth",
                    175,
                    "a035c768259b98ab1ce0e646312f48b9e1e218197a0f80ac6765e88f8b6ddf28",
                    mirrors=(
                        "https://github.com/xinntao/facexlib/releases/download/v0.1.0/recognition_arcface_ir_se50.pth",
                    ),
                )
            },
            about="identity for training (IR-SE50)",
        ),
        Entry(
            "vgg19",
            "network",
            BSD,
            {
                "vgg": RemoteFile(
                    "vgg19-dcbb9e9d.pth",
                    575,
                    "dcbb9e9d",
                    mirrors=("https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",),
                )
            },
            about="perceptual features for training",
        ),
        Entry(
            "vgg16",
            "network",
            BSD,
            {
                "vgg": RemoteFile(
                    "vgg16-397923af.pth",
                    553,
                    "397923af",
                    mirrors=("https://download.pytorch.org/models/vgg16-397923af.pth",),
                )
            },
            about="features under LPIPS",
        ),
        Entry(
            "lpips",
            "network",
            BSD2,
            {
                "lpips": RemoteFile(
                    "vgg.pth",
                    1,
                    "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
                    mirrors=(
                        "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/vgg.pth",
                    ),
                )
            },
            about="LPIPS v0.1's linear layers over VGG16",
        ),
    )
}


def entry(name: str) -> Entry:
    """The table's entry. Raises UsageError with the nearest name."""
    if name in TABLE:
        return TABLE[name]
    raise UsageError(f"The zoo has no '{name}'.{did_you_mean(name, TABLE)} It has {', '.join(TABLE)}.")


# The cache


def cache_home() -> Path:
    """DSG_HOME, else the platform's cache folder. It need not exist yet."""
    home = os.environ.get("DSG_HOME")
    return Path(home).expanduser() if home else user_cache_path("dsg", appauthor=False)


def is_offline(offline: bool | None = None) -> bool:
    """Whether downloads are forbidden: as asked, else by DSG_OFFLINE or HF_HUB_OFFLINE."""
    if offline is not None:
        return offline
    return any(
        os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in ("DSG_OFFLINE", "HF_HUB_OFFLINE")
    )


@contextmanager
def writing(target: Path, notify: Notify | None = None, what: str | None = None) -> Iterator[None]:
    """Hold the lock of `target` while it is made. Raises DownloadError, naming `what`, where nothing can be written."""
    what = what or target.name
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            if notify:
                notify(f"waiting for another process that makes {what}")
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise DownloadError(
            f"{what} is not in the cache, and {target.parent} cannot be written ({reason_of(error)}): "
            "set DSG_HOME to a folder that can."
        ) from None
    try:
        yield
    finally:
        lock.release()


def fetch(
    name: str,
    part: str | None = None,
    *,
    offline: bool | None = None,
    notify: Notify | None = None,
    progress: Progress | None = None,
) -> Path:
    """The path of one file of the table, downloaded and checked if it is not here yet.

    `part` is a key of the entry's files; an entry of one file needs none. Safe under several processes; a file that
    is here is found without writing anything. Raises UsageError, OfflineError, DownloadError.
    """
    found = entry(name)
    if part is None:
        part = next(iter(found.files))
    if part not in found.files:
        raise UsageError(f"'{name}' has no part '{part}'; it has {', '.join(found.files)}.")
    file = found.files[part]
    target = local_path(name, part)
    if target.is_file():
        return target
    if is_offline(offline):
        raise OfflineError(
            f"{name} needs {file.name} ({file.about_mb} MB), which is not in {target.parent}, and downloads are off: "
            f"run once without --offline, DSG_OFFLINE and HF_HUB_OFFLINE, or copy the file there."
        )
    with writing(target, notify):
        if not target.is_file():  # another process may have been faster
            if notify:
                notify(f"{name}: {found.licence}")
            _download(file, target, notify, progress)
    return target


def as_events(verb: str, work: Callable[[Notify, Progress], Result]) -> Generator[Event, None, Result]:
    """Run `work(notify, progress)` beside, and yield what it says as events; `yield from` gives its result.

    A verb is a generator and may not wait in silence for a download. Progress is in megabytes.
    """
    said: SimpleQueue[Event | _Ended] = SimpleQueue()
    last_s = 0.0

    def notify(line: str) -> None:
        said.put(Event("note", verb, message=line))

    def progress(file: str, done: int, total: int | None) -> None:
        nonlocal last_s
        if done == total or time.monotonic() - last_s > 0.2:
            last_s = time.monotonic()
            whole = None if total is None else math.ceil(total / 1e6)
            said.put(Event("progress", verb, stage=f"{file} (MB)", current=math.ceil(done / 1e6), total=whole))

    def run() -> None:
        try:
            said.put(_Ended(result=work(notify, progress)))
        except BaseException as error:
            said.put(_Ended(error=error))

    # daemon: Ctrl-C need not wait for the server, and what has come so far is kept
    Thread(target=run, daemon=True).start()
    while not isinstance(event := said.get(), _Ended):
        yield event
    if event.error is not None:
        raise event.error
    return event.result


@dataclass(frozen=True)
class _Ended:
    result: Any = None
    error: BaseException | None = None


def local_path(name: str, part: str) -> Path:
    """Where a file of the table lies once it is downloaded. Entries that share a file share its place."""
    file = entry(name).files[part]
    owner = next(other.name for other in TABLE.values() if file in other.files.values())
    return cache_home() / "downloads" / owner / file.name


def _download(file: RemoteFile, target: Path, notify: Notify | None, progress: Progress | None) -> None:
    """Fetch a file under a temporary name, check it, and only then give it its own. Tries the sources in order."""
    failures: list[DownloadError] = []
    for find_source in _sources(file):
        try:
            source = find_source()
            if notify:
                size = f"{source.size / 1e6:.1f} MB" if source.size else f"about {file.about_mb} MB"
                commit = f", revision {source.commit[:12]}" if source.commit else ""
                notify(f"downloading {file.name}, {size}, from {source.url}{commit}")
            download(source, target, sha256=file.sha256, progress=progress)
            return
        except DownloadError as error:
            failures.append(error)
    raise failures[0]


def _sources(file: RemoteFile) -> Iterator[Callable[[], Source]]:
    if file.repository:
        yield lambda: _on_the_hub(file)
    for url in file.mirrors:
        yield lambda url=url: Source(url)


def _on_the_hub(file: RemoteFile) -> Source:
    """A file's address, size and hash as the hub gives them. Raises DownloadError."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = hf_hub_url(file.repository, file.path, revision=file.revision, endpoint=endpoint)
    try:
        metadata = get_hf_file_metadata(url, timeout=TIMEOUT_S, endpoint=endpoint)
    except Exception as error:  # the hub's HTTP client, and so its errors, changed between versions
        raise DownloadError(f"{url}: {reason_of(error)}; check the connection and try again.") from None
    etag = metadata.etag or ""
    return Source(
        url,
        metadata.size,
        sha256=etag if len(etag) == 64 else None,
        git_sha1=etag if len(etag) == 40 else None,
        commit=metadata.commit_hash,
    )


# Looking up models: a path, an embedded one, one of the cache, one of the table

EMBEDDED = Path(__file__).parents[1] / "weights"


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
    for place, root in (("embedded", EMBEDDED), ("cached", cache_home() / "styles")):
        for folder in _bundles(root):
            header = _glance(folder)
            if folder.name not in found and header.get("kind", "style") == "style":
                found[folder.name] = _describe(folder, header, place)
    for known in TABLE.values():
        if known.kind == "style" and known.name not in found:
            found[known.name] = StyleInfo(
                known.name, "downloadable", known.exemplars, known.licence, known.about_mb, known.about
            )
    return list(found.values())


def find_style(where: str | Path) -> Path | None:
    """The folder of a style given by name, by its folder or by its run's folder; None for one that must be fetched.

    Raises UsageError naming the nearest style.
    """
    name = str(where)
    folder = _as_path(where, "style")
    if folder is not None:
        return folder
    for root in (EMBEDDED, cache_home() / "styles"):
        if _is_bundle(root, name):
            return root / name
    if name in TABLE and TABLE[name].kind == "style":
        return None
    hint = did_you_mean(name, [style.name for style in list_styles()])
    raise UsageError(f"No style '{name}'.{hint} 'dsg styles' lists them.")


def find_base(where: str | Path) -> Path | None:
    """The folder of a base given by name, by its folder or by its run's folder; None for one that must be fetched.

    Raises UsageError naming the nearest base.
    """
    name = str(where)
    folder = _as_path(where, "base")
    if folder is not None:
        return folder
    roots = (EMBEDDED, cache_home() / "bases")
    for root in roots:
        if _is_bundle(root, name):
            return root / name
    if name in TABLE and TABLE[name].kind == "base":
        return None
    here = {folder.name for root in roots for folder in _bundles(root) if _glance(folder).get("kind") == "base"}
    known = sorted(here | {model.name for model in TABLE.values() if model.kind == "base"})
    raise UsageError(f"No base model '{name}'.{did_you_mean(name, known)} There are {', '.join(known)}.")


def find_base_by_hash(sha256: str, *, beside: Path | None = None, hint: str | None = None) -> Path | None:
    """The folder of the base with this identity: near a style's folder, embedded or in the cache; None if nowhere."""
    near: list[Path] = []
    if beside is not None:
        beside = beside.resolve()
        near = [beside / hint] if hint else []
        near += [beside / "base", beside.parent / "base", *_bundles(beside.parent)]
    for folder in (*near, *_bundles(EMBEDDED), *_bundles(cache_home() / "bases")):
        header = _glance(folder)
        if header.get("kind") == "base" and header.get("sha256") == sha256:
            return folder
    return None


def is_shared(folder: Path) -> bool:
    """Whether a folder is one that every style finds by hash: embedded, or in the cache."""
    folder = folder.resolve()
    return any(folder.is_relative_to(root.resolve()) for root in (EMBEDDED, cache_home()))


def _as_path(where: str | Path, kind: str) -> Path | None:
    """`where` as a folder, when it is written as a path or holds a model; a run's folder stands for its model."""
    text = str(where)
    folder = Path(where).expanduser()
    if _is_bundle(folder):
        return folder
    if not isinstance(where, Path) and "/" not in text and "\\" not in text and not _is_bundle(folder, kind):
        return None
    if _is_bundle(folder, kind):
        return folder / kind
    if (folder / "generator.pt").is_file():
        raise UsageError(
            f"{folder} is a folder of the official release: 'dsg styles import {folder} --name {folder.name}' first."
        )
    raise UsageError(f"{folder} {'is no model' if folder.exists() else 'does not exist'}; a {kind}'s folder is wanted.")


def _is_bundle(folder: Path, name: str = "") -> bool:
    return (folder / name / "header.json").is_file()


def _bundles(root: Path) -> list[Path]:
    try:
        return sorted(folder for folder in root.iterdir() if not folder.name.startswith(".") and _is_bundle(folder))
    except OSError:
        return []


def _glance(folder: Path) -> dict:
    """A header as far as it can be read, unchecked: listings go on past a damaged model."""
    try:
        header = json.loads((folder / "header.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return header if isinstance(header, dict) else {}


def _describe(folder: Path, header: dict, place: str) -> StyleInfo:
    size_mb = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6
    problem = None
    if header.get("kind") != "style" or not isinstance(header.get("base"), dict):
        problem = "damaged header.json"
    elif find_base_by_hash(header["base"].get("sha256", ""), beside=folder, hint=header["base"].get("path")) is None:
        problem = "its base model is missing"
    about = header.get("title") or header.get("about") or ""
    licence = header.get("licence") or "not stated"
    return StyleInfo(folder.name, place, len(header.get("exemplars") or ()), licence, size_mb, about, folder, problem)
