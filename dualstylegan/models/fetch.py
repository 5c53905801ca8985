"""Files of the zoo into the cache: from the hub or a mirror, one process at a time, each checked before it is used.

What a file was when it came first (size, sha256, the hub's etag and commit) stays in downloads/lock.json of the cache.
Where the zoo has no hash of its own, a file that is another one later is refused, unless that is accepted.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from dualstylegan.errors import DownloadError, OfflineError, UsageError
from dualstylegan.events import Event
from dualstylegan.models import zoo
from dualstylegan.models.cache import cache_home, holding, is_offline
from dualstylegan.models.download import TIMEOUT_S, Served, download, reason_of
from dualstylegan.models.zoo import RemoteFile, entry
from dualstylegan.runtime.files import read_table, whole_file

REPORT_EVERY_S = 0.2


@dataclass(frozen=True)
class Terms:
    """On what terms files may come: whose `verb` speaks of it, whether `offline` (None: as the environment says),
    and whether a file that is no longer what it was at its first download is accepted."""

    verb: str = "styles"
    offline: bool | None = None
    accept_changed: bool = False

    def note(self, message: str) -> Event:
        return Event("note", self.verb, message=message)


USUAL = Terms()


def fetch(name: str, part: str | None = None, terms: Terms = USUAL) -> Generator[Event, None, Path]:
    """The path of one file of the table, downloaded and checked if it is not here yet; licence and size come first.

    `part` is a key of the entry's files; an entry of one file needs none. Safe under several processes; a file that
    is here is found without writing anything. Progress is in megabytes. Raises UsageError, OfflineError, DownloadError.
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
    if is_offline(terms.offline):
        raise OfflineError(
            f"{name} needs {file.name} ({file.about_mb} MB), which is not in {target.parent}, and downloads are off: "
            f"run once without --offline, DSG_OFFLINE and HF_HUB_OFFLINE, or copy the file there."
        )
    with (yield from holding(target, terms.verb)):
        if not target.is_file():  # another process may have been faster
            yield terms.note(f"{name}: {found.licence}")
            yield from _download(file, target, terms)
    return target


def local_path(name: str, part: str) -> Path:
    """Where a file of the table lies once it is downloaded. Entries that share a file share its place."""
    file = entry(name).files[part]
    owner = next(other.name for other in zoo.TABLE.values() if file in other.files.values())
    return cache_home() / "downloads" / owner / file.name


def _download(file: RemoteFile, target: Path, terms: Terms) -> Iterator[Event]:
    """Fetch a file under a temporary name, check it, and only then give it its own. Tries the sources in order."""
    before = _seen().get(_key(target))
    if terms.accept_changed or (before and not before["sha256"].startswith(file.sha256 or "")):
        before = None  # what the zoo knows now goes before what came once
    failures: list[DownloadError] = []
    for find_source in _sources(file):
        try:
            source = find_source()
            _refuse_changed(source, file, before)
            size = f"{source.size / 1e6:.1f} MB" if source.size else f"about {file.about_mb} MB"
            commit = f", revision {source.commit[:12]}" if source.commit else ""
            yield terms.note(f"downloading {file.name}, {size}, from {source.url}{commit}")
            wanted = before["sha256"] if before else file.sha256
            sha256 = yield from _reported(download(source, target, sha256=wanted), file.name, terms.verb)
            if before is None:
                yield from _remember(target, source, sha256, terms)
            return
        except DownloadError as error:
            failures.append(error)
    raise failures[0]


def _refuse_changed(source: Served, file: RemoteFile, before: dict[str, Any] | None) -> None:
    """Raises DownloadError where the server says before anything comes that it has another file now."""
    if source.sha256 and file.sha256 and not source.sha256.startswith(file.sha256):
        raise DownloadError(f"{source.url} is no longer the file the zoo knows (sha256 {source.sha256[:12]}).")
    if before and source.etag and before["etag"] and source.etag != before["etag"]:
        raise DownloadError(
            f"{source.url} has changed since it first came on {before['first']} (hash {before['etag'][:12]}, now "
            f"{source.etag[:12]}); it was not fetched. If that is as it should be: --accept-changed."
        )


def _reported(steps: Generator[tuple[int, int | None], None, str], name: str, verb: str) -> Generator[Event, None, str]:
    """Progress of a download, a few times a second and at its end. Returns what `steps` does."""
    last_s = 0.0
    while True:
        try:
            done, total = next(steps)
        except StopIteration as end:
            return end.value
        if done == total or time.monotonic() - last_s > REPORT_EVERY_S:
            last_s = time.monotonic()
            whole = None if total is None else math.ceil(total / 1e6)
            yield Event("progress", verb, stage=f"{name} (MB)", current=math.ceil(done / 1e6), total=whole)


def _sources(file: RemoteFile) -> Iterator[Callable[[], Served]]:
    if file.repository and file.path:
        yield partial(_on_the_hub, file.repository, file.path, file.revision)
    for url in file.mirrors:
        yield partial(Served, url)


def _on_the_hub(repository: str, path: str, revision: str) -> Served:
    """A file's address, size and hash as the hub gives them. Raises DownloadError."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = hf_hub_url(repository, path, revision=revision, endpoint=endpoint)
    try:
        metadata = get_hf_file_metadata(url, timeout=TIMEOUT_S, endpoint=endpoint)
    except Exception as error:  # the hub's HTTP client, and so its errors, changed between versions
        raise DownloadError(f"{url}: {reason_of(error)}; check the connection and try again.") from None
    return Served(url, metadata.size, metadata.etag, metadata.commit_hash)


# What came, the first time


def lock_file() -> Path:
    return cache_home() / "downloads" / "lock.json"


def _seen() -> dict[str, dict[str, Any]]:
    """{"pixar/generator.pt": {"sha256", "size", "url", "etag", "commit", "first"}}."""
    return read_table(lock_file())


def _key(target: Path) -> str:
    return f"{target.parent.name}/{target.name}"


def _remember(target: Path, source: Served, sha256: str, terms: Terms) -> Iterator[Event]:
    now = {
        "sha256": sha256,
        "size": target.stat().st_size,
        "url": source.url,
        "etag": source.etag,
        "commit": source.commit,
        "first": datetime.now(UTC).date().isoformat(),
    }
    with (yield from holding(lock_file(), terms.verb)), whole_file(lock_file()) as temporary:
        temporary.write_text(json.dumps(_seen() | {_key(target): now}, indent=1) + "\n", encoding="utf-8")
