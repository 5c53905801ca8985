"""`dsg doctor`."""

from __future__ import annotations

from collections.abc import Iterator

from dsgcli.command import verb
from dualstylegan.events import Event


@verb(answer=True)
def doctor() -> Iterator[Event]:
    """Say what a bug report needs: versions, devices, codecs, the cache, which models are here."""
    from dualstylegan.doctor import diagnose

    return diagnose()
