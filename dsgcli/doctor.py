"""`dsg doctor`."""

from __future__ import annotations

import typer

from dsgcli.options import JsonOption, OfflineOption


def doctor(json: JsonOption = False, offline: OfflineOption = False) -> None:
    """Say what a bug report needs: versions, devices, codecs, the cache, which models are here."""
    from dsgcli.report import show
    from dualstylegan.doctor import diagnose

    raise typer.Exit(show(diagnose(), json=json, answer=True))
