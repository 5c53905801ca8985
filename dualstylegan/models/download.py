"""One file over the network: resumed where it was cut, checked before it gets its name, said while it comes."""

from __future__ import annotations

import hashlib
import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from dualstylegan.errors import DownloadError
from dualstylegan.runtime.files import parts_of

Steps = Generator[tuple[int, int | None], None, bool]  # bytes done, bytes in all where that is known

CHUNK = 1 << 20
TIMEOUT_S = 30
PATIENCE = 6  # attempts in a row that bring nothing
PAUSE_S = 0.5  # doubled after every such attempt


@dataclass(frozen=True)
class Served:
    """Where a file is, and what its server says of it before it comes."""

    url: str
    size: int | None = None
    etag: str | None = None
    commit: str | None = None

    @property
    def sha256(self) -> str | None:
        return self.etag if self.etag and len(self.etag) == 64 else None

    @property
    def git_sha1(self) -> str | None:
        """What the Hugging Face hub has for small files outside LFS."""
        return self.etag if self.etag and len(self.etag) == 40 else None


class _Restart(Exception):
    """What is on the disk is not the beginning of what the server has."""


def download(
    source: Served, target: Path, *, sha256: str | None = None
) -> Generator[tuple[int, int | None], None, str]:
    """Fetch a file to `target`, which appears only once it is whole and its hash is right. Returns its sha256.

    Yields bytes done and bytes in all. `sha256`, or its first digits, goes before what the server says; without either
    nothing is fetched. What came before a failure stays beside it (`parts_of`), and the next call goes on
    from there. Raises DownloadError.
    """
    wanted = sha256 or source.sha256
    if not (wanted or source.git_sha1):
        raise DownloadError(f"{source.url}: neither we nor the server has a hash of it, so it cannot be trusted.")
    part = parts_of(target)
    try:
        resumed = part.exists()
        yield from _stream(source, part)
        good = _is_intact(part, wanted, source.git_sha1)
        if not good and resumed:  # the old beginning may have been another file's
            part.unlink()
            yield from _stream(source, part)
            good = _is_intact(part, wanted, source.git_sha1)
        if not good:
            part.unlink()
            raise DownloadError(f"{source.url} came damaged (wrong hash); it was deleted. Try again.")
        part.replace(target)
        return good
    except OSError as error:
        raise DownloadError(f"{target} could not be written: {reason_of(error)}.") from None


def _stream(source: Served, part: Path) -> Steps:
    """Append to `part` until it is whole, going on where a cut connection left it. Raises DownloadError."""
    idle = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        if source.size and before > source.size:
            part.unlink()
            before = 0
        if source.size and before == source.size:
            return True
        try:
            if (yield from _append(source, part, before)):
                return True
            error: Exception = ConnectionError("the connection was cut")
        except _Restart:
            part.unlink(missing_ok=True)
            continue
        except urllib.error.HTTPError as refused:
            if refused.code < 500 and refused.code not in (408, 429):
                raise DownloadError(f"{source.url}: the server answered {refused.code} {refused.reason}.") from None
            error = refused
        except (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError) as cut:
            error = cut
        idle = 0 if part.exists() and part.stat().st_size > before else idle + 1
        if idle == PATIENCE:
            raise DownloadError(
                f"{source.url}: {reason_of(error)}, {PATIENCE} times. What has come is kept: try again later."
            ) from None
        time.sleep(PAUSE_S * 2 ** max(0, idle - 1))


def _append(source: Served, part: Path, have: int) -> Steps:
    """One request for what is missing behind `have` bytes. True when the file is whole, False when it was cut short."""
    headers = {"User-Agent": "dsg", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(source.url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as refused:
        if refused.code == 416:  # nothing behind `have`: whole already, or another file's beginning
            whole = (refused.headers.get("Content-Range") or "").rpartition("/")[2]
            if whole == str(have):
                return True
            raise _Restart from None
        raise
    with response:
        if have and response.status != 206:  # a server that knows no ranges sends it all
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else source.size
        with part.open("ab" if have else "wb") as out:
            while chunk := response.read(CHUNK):
                out.write(chunk)
                have += len(chunk)
                yield have, total
    return total is None or have >= total


def _is_intact(file: Path, sha256: str | None, git_sha1: str | None) -> str | None:
    """The file's sha256 where that, or else its git hash, is the one that is wanted."""
    found = hashlib.sha256()
    git = hashlib.sha1(f"blob {file.stat().st_size}\0".encode(), usedforsecurity=False)
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            found.update(chunk)
            if not sha256:
                git.update(chunk)
    good = found.hexdigest().startswith(sha256) if sha256 else git.hexdigest() == git_sha1
    return found.hexdigest() if good else None


def reason_of(error: Exception) -> str:
    """An error in a few words, whatever library it came from."""
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error).splitlines()[:1]
    return str(reason[0] if isinstance(reason, list) and reason else reason or type(error).__name__)
