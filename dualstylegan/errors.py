"""What users see when something goes wrong: one line that says what was wanted, what came and what to try."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class DualStyleGANError(Exception):
    """Anything a user can get wrong, or a file, a disk or a network can. `str(error)` is one line for the user."""

    exit_status = 1

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).split()))


class UsageError(DualStyleGANError):
    """The command or call itself is off: an unknown name, an impossible combination. Exit status 2."""

    exit_status = 2


class BadFileError(DualStyleGANError):
    """A file that cannot be read as what it should be: truncated, damaged, of another format."""


class UnsafeFileError(BadFileError):
    """A pickle that asks for more than tensors, arrays and containers. It was refused and nothing of it ran."""


class DownloadError(DualStyleGANError):
    """A file that could not be fetched, or whose sha256 is not the pinned one."""


class OfflineError(DownloadError):
    """A file that is not in the cache while downloads are forbidden (`--offline`, DSG_OFFLINE)."""


class NoFaceError(DualStyleGANError):
    """A picture without a face where one is needed."""


class TrainingError(DualStyleGANError):
    """Training cannot start or go on: too few portraits, a loss that is not finite, an uneven batch."""


@contextmanager
def before_work() -> Iterator[None]:
    """What is refused before any work is a matter of usage, whatever it would be later: exit status 2."""
    try:
        yield
    except (BadFileError, NoFaceError, TrainingError) as error:
        raise UsageError(str(error)) from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the nearest of `known`, or an empty string. Starts with a space, to be appended."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def failure(error: BaseException) -> str:
    """Why something failed, in one line, worded alike in all verbs: our own errors are sentences already."""
    return str(error) if isinstance(error, DualStyleGANError) else f"{type(error).__name__}: {error}"
