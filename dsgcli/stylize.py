"""`dsg stylize`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from dsgcli.options import (
    BatchOption,
    CodecOption,
    ColorOption,
    CompareOption,
    CrfOption,
    DetectEveryOption,
    DetectorOption,
    DeviceOption,
    DryRunOption,
    EndOption,
    FacesOption,
    InputsArgument,
    JsonOption,
    LandmarksOption,
    MaskOption,
    MaxFramesOption,
    MinFaceOption,
    OfflineOption,
    OutOption,
    PrecisionOption,
    PresetOption,
    ResumeOption,
    SkipExistingOption,
    SmoothOption,
    StartOption,
    StructureOption,
    StyleOption,
    TruncationOption,
    WeightsOption,
)

CropOption = Annotated[bool, typer.Option("--crop", help="Write aligned portraits; of a film, its largest face's.")]
NoFaceOption = Annotated[Literal["copy", "skip"], typer.Option("--no-face", help="What has no face is copied or not.")]
PreserveColorOption = Annotated[bool, typer.Option("--preserve-color", help="Keep the photo's own colours.")]
WPlusOption = Annotated[bool, typer.Option("--wplus", help="Encode faces straight into W+: closer to the photo.")]
SheetOption = Annotated[
    str | None,
    typer.Option("--sheet", metavar="PNG", help="Also draw strips of before and after.", show_default=False),
]


def stylize(
    inputs: InputsArgument,
    style: StyleOption,
    out: OutOption = None,
    crop: CropOption = False,
    structure: StructureOption = None,
    color: ColorOption = None,
    weights: WeightsOption = None,
    preserve_color: PreserveColorOption = False,
    truncation: TruncationOption = None,
    wplus: WPlusOption = False,
    faces: FacesOption = "all",
    min_face: MinFaceOption = 0,
    mask: MaskOption = None,
    no_face: NoFaceOption = "copy",
    landmarks: LandmarksOption = None,
    detector: DetectorOption = "auto",
    sheet: SheetOption = None,
    skip_existing: SkipExistingOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    batch: BatchOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    offline: OfflineOption = False,
    codec: CodecOption = None,
    crf: CrfOption = None,
    preset: PresetOption = None,
    start: StartOption = None,
    end: EndOption = None,
    max_frames: MaxFramesOption = None,
    compare: CompareOption = False,
    detect_every: DetectEveryOption = None,
    smooth: SmoothOption = None,
    resume: ResumeOption = False,
) -> None:
    """Restyle every face in photos and films, in place.

    Without -o results go to stylized/ in the current folder. In folders, pictures numbered as encoders number frames
    (frame_0001.png, 000001.png; alike, five or more) are one film; with a film's name as -o any numbered pictures are,
    at 25 frames a second. `accelerate launch -m dsgcli stylize ...` shares the list
    between processes.
    """
    from dsgcli.report import show
    from dualstylegan.models.codes import parse_weights
    from dualstylegan.stylize import FilmOptions, stylize_files

    wishes = {"detect_every": detect_every, "smooth": smooth}
    film = FilmOptions(
        codec=codec,
        crf=crf,
        preset=preset,
        start_s=start or 0.0,
        end_s=end,
        max_frames=max_frames,
        compare=compare,
        resume=resume,
        **{name: value for name, value in wishes.items() if value is not None},
    )
    events = stylize_files(
        inputs,
        style,
        output=out,
        crop=crop,
        no_face=no_face,
        skip_existing=skip_existing,
        dry_run=dry_run,
        landmarks=landmarks,
        sheet=sheet,
        film=film,
        structure=structure,
        color=color,
        weights=None if weights is None else parse_weights(weights),
        preserve_color=preserve_color,
        truncation=truncation,
        wplus=wplus,
        faces=faces,
        min_face=min_face or None,
        mask=mask,
        device=device,
        precision=precision,
        detector=detector,
        batch=batch,
    )
    raise typer.Exit(show(events, json=json, answer=dry_run))
