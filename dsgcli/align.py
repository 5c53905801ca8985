"""`dsg align`."""

from __future__ import annotations

from typing import Annotated

import typer

from dsgcli.options import (
    DetectorOption,
    DeviceOption,
    DryRunOption,
    FacesOption,
    InputsArgument,
    JsonOption,
    LandmarksOption,
    MinFaceOption,
    OfflineOption,
    ShardOption,
    SkipExistingOption,
)

FolderOption = Annotated[str, typer.Option("--out", "-o", metavar="FOLDER", help="Where crops and faces.json go.")]
SizeOption = Annotated[
    int, typer.Option("--size", min=0, max=8192, metavar="PX", help="The side of a crop; 0 writes faces.json alone.")
]


def align(
    inputs: InputsArgument,
    out: FolderOption = "faces",
    size: SizeOption = 1024,
    faces: FacesOption = "all",
    landmarks: LandmarksOption = None,
    detector: DetectorOption = "auto",
    min_face: MinFaceOption = None,
    device: DeviceOption = "auto",
    skip_existing: SkipExistingOption = False,
    shard: ShardOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    offline: OfflineOption = False,
) -> None:
    """Cut faces out of photos, aligned as the models want them.

    Writes a PNG per face and faces.json: file, matrix, landmarks, box and score of each, to be read back with
    --landmarks here and by 'dsg stylize'.
    """
    from dsgcli.report import show
    from dualstylegan.align import align_pictures

    events = align_pictures(
        inputs,
        output=out,
        size=size,
        faces=faces,
        landmarks=landmarks,
        detector=detector,
        min_face=min_face or None,
        device=device,
        skip_existing=skip_existing,
        dry_run=dry_run,
        shard=shard,
    )
    raise typer.Exit(show(events, json=json, answer=dry_run))
