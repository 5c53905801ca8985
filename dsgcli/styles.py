"""`dsg styles`: what there is, what it looks like, and how more of it comes."""

from __future__ import annotations

from typing import Annotated

import typer

from dsgcli.options import JsonOption, OfflineOption

app = typer.Typer(
    name="styles",
    help="List styles (the default), show their exemplars, fetch or import more.",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

HalfOption = Annotated[bool, typer.Option("--half", help="Store networks in half precision: half the disk.")]


@app.callback()
def styles(context: typer.Context, json: JsonOption = False, offline: OfflineOption = False) -> None:
    """List styles (the default), show their exemplars, fetch or import more."""
    if context.invoked_subcommand is not None:
        return
    from dsgcli.report import show
    from dualstylegan.styles import list_styles

    raise typer.Exit(show(list_styles(), json=json, answer=True))


@app.command("show")
def show_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A style, or its folder.", show_default=False)],
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="FILE", help="The sheet.", show_default="NAME.png")
    ] = None,
    ids: Annotated[
        str | None, typer.Option("--ids", metavar="LIST", help="Such as 0-29,41,x.jpg.", show_default="all")
    ] = None,
    columns: Annotated[
        int | None, typer.Option("--columns", min=1, help="Pictures in a row.", show_default="landscape")
    ] = None,
    json: JsonOption = False,
    offline: OfflineOption = False,
) -> None:
    """Draw the numbered contact sheet of a style's exemplars.

    Official styles hold no thumbnails: their codes are rendered on one face, which takes a while and is kept.
    """
    from dsgcli.report import show
    from dualstylegan.styles import show_style

    raise typer.Exit(show(show_style(name, out, ids=ids, columns=columns), json=json))


@app.command()
def pull(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Styles of the list.", show_default=False)],
    wplus: Annotated[bool, typer.Option("--wplus", help="Also the encoder that 'stylize --wplus' needs.")] = False,
    half: HalfOption = False,
    accept_changed: Annotated[
        bool,
        typer.Option("--accept-changed", help="Take files that are no longer what they were when they first came."),
    ] = False,
    json: JsonOption = False,
    offline: OfflineOption = False,
) -> None:
    """Fetch styles. Licence and size are shown first; what was cut short is resumed by the same command.

    Files with a published sha256 are checked against it, others against the hub's own hash and, later, against what
    came the first time (downloads/lock.json of the cache).
    """
    from dsgcli.report import show
    from dualstylegan.styles import pull_styles

    raise typer.Exit(show(pull_styles(names, wplus=wplus, half=half, accept_changed=accept_changed), json=json))


@app.command("import")
def import_command(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="DIR", help="An official style's folder (generator.pt, exstyle_code.npy, ...), or a run's."
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Its name here.", show_default="the folder's")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder", metavar="FILE", help="The release's encoder.pt.", show_default="in the folder or beside it"
        ),
    ] = None,
    encoder_wplus: Annotated[
        str | None,
        typer.Option(
            "--encoder-wplus", metavar="FILE", help="encoder_wplus.pt, for --wplus.", show_default="as --encoder"
        ),
    ] = None,
    half: HalfOption = False,
    json: JsonOption = False,
    offline: OfflineOption = False,
) -> None:
    """Make a style of the official release, or of a training run, one of this machine's."""
    from dsgcli.report import show
    from dualstylegan.styles import bring_style

    events = bring_style(folder, name, encoder=encoder, encoder_wplus=encoder_wplus, half=half)
    raise typer.Exit(show(events, json=json))
