"""`dsg stylize`."""

from __future__ import annotations

from typing import Annotated

import typer

from dsgcli.options import (
    FILM,
    STYLIZER,
    DryRunOption,
    InputsArgument,
    JsonOption,
    LandmarksOption,
    OfflineOption,
    OutOption,
    ShardOption,
    SkipExistingOption,
    StyleOption,
    takes,
)
from dualstylegan.choices import NoFace
from dualstylegan.stylizing.settings import FilmOptions, StylizerSettings

CropOption = Annotated[bool, typer.Option("--crop", help="Write aligned portraits; of a film, its largest face's.")]
NoFaceOption = Annotated[NoFace, typer.Option("--no-face", help="What has no face is copied or not.")]
SheetOption = Annotated[
    str | None,
    typer.Option(
        "--sheet",
        metavar="FILE",
        help="Also show before and after: strips in a PNG, or an HTML page with sliders, films and failures.",
        show_default=False,
    ),
]
SheetKeepOption = Annotated[
    bool, typer.Option("--sheet-keep", help="On strips also show each style with --scene keep.")
]


@takes(settings=STYLIZER, film=FILM)
def stylize(
    inputs: InputsArgument,
    style: StyleOption,
    settings: StylizerSettings,
    film: FilmOptions,
    out: OutOption = None,
    crop: CropOption = False,
    no_face: NoFaceOption = "copy",
    landmarks: LandmarksOption = None,
    sheet: SheetOption = None,
    sheet_keep: SheetKeepOption = False,
    skip_existing: SkipExistingOption = False,
    shard: ShardOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    offline: OfflineOption = False,
) -> None:
    """Restyle every face in photos and films, in place.

    Without -o results go to stylized/ in the current folder. In folders, pictures numbered as encoders number frames
    (frame_0001.png, 000001.png; alike, five or more) are one film; with a film's name as -o any numbered pictures are,
    at 25 frames a second. `accelerate launch -m dsgcli stylize ...` shares the list
    between processes.
    """
    from dsgcli.report import show
    from dualstylegan.stylize import stylize_files

    events = stylize_files(
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
    raise typer.Exit(show(events, json=json, answer=dry_run))
