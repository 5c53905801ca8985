"""`dsg styles`: what there is, what it looks like, and how more of it comes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from dsgcli.command import verb
from dsgcli.options import out_option, wplus_option
from dualstylegan.events import Event

app = typer.Typer(
    name="styles",
    help="List styles (the default), show their exemplars, fetch or import more.",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

HalfOption = Annotated[bool, typer.Option("--half", help="Store networks in half precision: half the disk.")]


@app.callback()
@verb(answer=True)
def styles(context: typer.Context) -> Iterator[Event] | None:
    """List styles (the default), show their exemplars, fetch or import more."""
    if context.invoked_subcommand is not None:
        return None
    from dualstylegan.styles import list_styles

    return list_styles()


@app.command("show")
@verb()
def show_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A style, or its folder.", show_default=False)],
    out: Annotated[str | None, out_option(metavar="FILE", help="The sheet.", show_default="NAME.png")] = None,
    ids: Annotated[
        str | None, typer.Option("--ids", metavar="LIST", help="Such as 0-29,41,x.jpg.", show_default="all")
    ] = None,
    columns: Annotated[
        int | None, typer.Option("--columns", min=1, help="Pictures in a row.", show_default="landscape")
    ] = None,
) -> Iterator[Event]:
    """Draw the numbered contact sheet of a style's exemplars.

    Official styles hold no thumbnails: their codes are rendered on one face, which takes a while and is kept.
    """
    from dualstylegan.styles import show_style

    return show_style(name, out, ids=ids, columns=columns)


@app.command()
@verb()
def pull(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Styles of the list.", show_default=False)],
    wplus: Annotated[bool, wplus_option(help="Also the encoder that 'stylize --wplus' needs.")] = False,
    half: HalfOption = False,
    accept_changed: Annotated[
        bool,
        typer.Option("--accept-changed", help="Take files that are no longer what they were when they first came."),
    ] = False,
) -> Iterator[Event]:
    """Fetch styles. Licence and size are shown first; what was cut short is resumed by the same command.

    Files with a published sha256 are checked against it, others against the hub's own hash and, later, against what
    came the first time (downloads/lock.json of the cache).
    """
    from dualstylegan.styles import pull_styles

    return pull_styles(names, wplus=wplus, half=half, accept_changed=accept_changed)


@app.command("import")
@verb()
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
) -> Iterator[Event]:
    """Make a style of the official release, or of a training run, one of this machine's."""
    from dualstylegan.styles import bring_style

    return bring_style(folder, name, encoder=encoder, encoder_wplus=encoder_wplus, half=half)
