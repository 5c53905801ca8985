"""`dsg align`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from dsgcli.command import verb
from dsgcli.options import (
    DetectorOption,
    DeviceOption,
    DryRunOption,
    FacesOption,
    InputsArgument,
    LandmarksOption,
    MinFaceOption,
    ShardOption,
    SkipExistingOption,
    out_option,
)
from dualstylegan.events import Event


@verb()
def align(
    inputs: InputsArgument,
    out: Annotated[str, out_option(metavar="FOLDER", help="Where crops and faces.json go.")] = "faces",
    size: Annotated[
        int,
        typer.Option("--size", min=0, max=8192, metavar="PX", help="The side of a crop; 0 writes faces.json alone."),
    ] = 1024,
    faces: FacesOption = "all",
    landmarks: LandmarksOption = None,
    detector: DetectorOption = "auto",
    min_face: MinFaceOption = None,
    device: DeviceOption = "auto",
    skip_existing: SkipExistingOption = False,
    shard: ShardOption = None,
    dry_run: DryRunOption = False,
) -> Iterator[Event]:
    """Cut faces out of photos, aligned as the models want them.

    Writes a PNG per face and faces.json: file, matrix, landmarks, box and score of each, to be read back with
    --landmarks here and by 'dsg stylize'.
    """
    from dualstylegan.align import align_pictures

    return align_pictures(
        inputs,
        output=out,
        size=size,
        faces=faces,
        landmarks=landmarks,
        detector=detector,
        min_face=min_face,
        device=device,
        skip_existing=skip_existing,
        dry_run=dry_run,
        shard=shard,
    )
