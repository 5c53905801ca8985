"""`dsg stylize`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from dsgcli.command import verb
from dsgcli.options import (
    FILM,
    STYLIZER,
    DryRunOption,
    InputsArgument,
    LandmarksOption,
    ShardOption,
    SkipExistingOption,
    out_option,
    style_option,
)
from dualstylegan.choices import NoFace
from dualstylegan.events import Event
from dualstylegan.stylizing.settings import FilmOptions, StylizerSettings


@verb(settings=STYLIZER, film=FILM)
def stylize(
    inputs: InputsArgument,
    style: Annotated[
        list[str],
        style_option(
            metavar="NAME:ID",
            help="A style and its exemplar (number, file name or any portrait), a blend (toon:4*0.7+toon:17*0.3), "
            "or a model's folder. May repeat. 'dsg styles' lists them.",
        ),
    ],
    settings: StylizerSettings,
    film: FilmOptions,
    out: Annotated[
        str | None,
        out_option(
            metavar="PATH",
            help="A folder, a file, or a template with the fields {parent} {stem} {ext} {style} {id}.",
            show_default=False,
        ),
    ] = None,
    crop: Annotated[
        bool, typer.Option("--crop", help="Write aligned portraits; of a film, its largest face's.")
    ] = False,
    no_face: Annotated[NoFace, typer.Option("--no-face", help="What has no face is copied or not.")] = "copy",
    landmarks: LandmarksOption = None,
    sheet: Annotated[
        str | None,
        typer.Option(
            "--sheet",
            metavar="FILE",
            help="Also show before and after: strips in a PNG, or an HTML page with sliders, films and failures.",
            show_default=False,
        ),
    ] = None,
    sheet_keep: Annotated[
        bool, typer.Option("--sheet-keep", help="On strips also show each style with --scene keep.")
    ] = False,
    skip_existing: SkipExistingOption = False,
    shard: ShardOption = None,
    dry_run: DryRunOption = False,
) -> Iterator[Event]:
    """Restyle every face in photos and films, in place.

    Without -o results go to stylized/ in the current folder. In folders, pictures numbered as encoders number frames
    (frame_0001.png, 000001.png; alike, five or more) are one film; with a film's name as -o any numbered pictures are,
    at 25 frames a second. `accelerate launch -m dsgcli stylize ...` shares the list
    between processes.
    """
    from dualstylegan.stylize import stylize_files

    return stylize_files(
        inputs,
        style,
        settings,
        film,
        output=out,
        crop=crop,
        no_face=no_face,
        skip_existing=skip_existing,
        dry_run=dry_run,
        shard=shard,
        landmarks=landmarks,
        sheet=sheet,
        sheet_keep=sheet_keep,
    )
