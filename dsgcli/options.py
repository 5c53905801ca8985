"""Every option that more than one verb has, declared once. Names, defaults and wording are the same everywhere."""

import inspect
import os
from collections.abc import Callable
from functools import partial, wraps
from typing import Annotated, Any

import typer

from dualstylegan.choices import DETECT_EVERY, PRECISIONS, SMOOTH, Alignment, Detector, Faces, Finish, Mask, Scene
from dualstylegan.stylizing.settings import FilmOptions, SamplingSettings, StylizerSettings

# What goes in and where it comes out

InputsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUTS",
        help="Files, folders (searched recursively), quoted patterns, or - for a list of names on stdin.",
        show_default=False,
    ),
]
OutOption = Annotated[
    str | None,
    typer.Option(
        "--out",
        "-o",
        metavar="PATH",
        help="A folder, a file, or a template with the fields {parent} {stem} {ext} {style} {id}.",
        show_default=False,
    ),
]
SkipExistingOption = Annotated[bool, typer.Option("--skip-existing", help="Leave outputs that are there and complete.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="K/N",
        help="Do part K of N of the list, 1/N to N/N, as a task of an array job does.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One event per line on stdout, as JSON.")]

# Styles

StyleOption = Annotated[
    list[str],
    typer.Option(
        "--style",
        "-s",
        metavar="NAME:ID",
        help="A style and its exemplar (number, file name or any portrait), a blend (toon:4*0.7+toon:17*0.3), "
        "or a model's folder. May repeat. 'dsg styles' lists them.",
        show_default=False,
    ),
]
StructureOption = Annotated[
    float | None,
    typer.Option("--structure", min=0, help="How much of the exemplar's shapes, 0 to 1.", show_default="the style's"),
]
ColorOption = Annotated[
    float | None,
    typer.Option("--color", min=0, help="How much of the exemplar's colours, 0 to 1.", show_default="the style's"),
]


def _weights(text: str) -> tuple[float, ...]:
    from dualstylegan.models.codes import parse_weights

    return parse_weights(text)


WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="LIST",
        parser=_weights,
        help="A weight per row, such as 0x4,.75x3,1x11; goes before --structure and --color.",
        show_default="the style's",
    ),
]
TruncationOption = Annotated[
    float | None,
    typer.Option("--truncation", min=0, help="Lower is nearer to the average face.", show_default="the style's"),
]

PreserveColorOption = Annotated[bool, typer.Option("--preserve-color", help="Keep the photo's own colours.")]
WPlusOption = Annotated[bool, typer.Option("--wplus", help="Encode faces straight into W+: closer to the photo.")]

# Faces

FacesOption = Annotated[Faces, typer.Option("--faces", help="Which faces of a picture.")]
MinFaceOption = Annotated[
    int | None,
    typer.Option("--min-face", min=0, metavar="PX", help="Pass over faces smaller than this many pixels.",
                 show_default="0"),
]  # fmt: skip
DetectorOption = Annotated[Detector, typer.Option("--detector", help="What finds faces. auto: the best that is here.")]
MaskOption = Annotated[
    Mask | None,
    typer.Option("--mask", help="What of the face is replaced: its skin, the whole head, the whole crop.",
                 show_default="the style's"),
]  # fmt: skip
SceneOption = Annotated[
    Scene,
    typer.Option(
        "--scene",
        help="The picture around faces: as it is, in the style's colours, in its surface too; or as it asks.",
    ),
]
FinishOption = Annotated[
    Finish, typer.Option("--finish", help="Large faces are drawn sharper, where the style asks for it, or not.")
]
LandmarksOption = Annotated[
    str | None,
    typer.Option(
        "--landmarks", metavar="JSON", help="Take the faces from a faces.json of 'dsg align'.", show_default=False
    ),
]

# Films


def seconds(text: str) -> float:
    """90, 90.5, 1:30 or 1:02:30.5."""
    seconds = 0.0
    for part in str(text).split(":"):
        try:
            seconds = 60 * seconds + float(part)
        except ValueError:
            raise typer.BadParameter(f"{text} is no time: 90, 1:30 or 1:02:30.5, for example") from None
    if not 0 <= seconds < float("inf"):
        raise typer.BadParameter(f"{text} is no time in a film")
    return seconds


FILMS = "Films"  # the panel of the help in which these stand

CodecOption = Annotated[
    str | None,
    typer.Option("--codec", metavar="NAME", help="h264, hevc, vp9, prores, ...", show_default="the source's kind",
                 rich_help_panel=FILMS),
]  # fmt: skip
CrfOption = Annotated[
    float | None,
    typer.Option("--crf", min=0, help="Lower is better and larger.", show_default="the codec's", rich_help_panel=FILMS),
]
PresetOption = Annotated[
    str | None,
    typer.Option("--preset", metavar="NAME", help="From ultrafast to veryslow.", show_default="the codec's",
                 rich_help_panel=FILMS),
]  # fmt: skip
StartOption = Annotated[
    float,
    typer.Option("--start", metavar="TIME", parser=seconds, help="Begin here: 90 or 1:30.", show_default=False,
                 rich_help_panel=FILMS),
]  # fmt: skip
EndOption = Annotated[
    float | None,
    typer.Option("--end", metavar="TIME", parser=seconds, help="End here.", show_default=False,
                 rich_help_panel=FILMS),
]  # fmt: skip
MaxFramesOption = Annotated[
    int | None,
    typer.Option("--max-frames", min=1, help="At most so many frames.", show_default=False, rich_help_panel=FILMS),
]
CompareOption = Annotated[bool, typer.Option("--compare", help="The source beside the result.", rich_help_panel=FILMS)]
DetectEveryOption = Annotated[
    int,
    typer.Option("--detect-every", min=1, metavar="N", show_default=str(DETECT_EVERY), rich_help_panel=FILMS,
                 help="Look for faces in every N-th frame; between, those known are followed."),
]  # fmt: skip
SmoothOption = Annotated[
    float,
    typer.Option("--smooth", min=0, max=1, show_default=str(SMOOTH), rich_help_panel=FILMS,
                 help="How steady faces are kept: 0 (each frame by itself) to 1."),
]  # fmt: skip
ResumeOption = Annotated[
    bool,
    typer.Option("--resume", help="Go on from the parts a stopped run has finished.", rich_help_panel=FILMS),
]

# The machine

DeviceOption = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps.")]
PrecisionOption = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar=f"[{'|'.join(PRECISIONS)}]",
        help="auto: bfloat16 where the processor is fast at it.",
    ),
]
BatchOption = Annotated[
    int | None, typer.Option("--batch", min=1, help="Faces computed at once.", show_default="what fits")
]
SeedOption = Annotated[int, typer.Option("--seed", help="The same seed draws the same pictures.")]


def _go_offline(context: typer.Context, wanted: bool) -> bool:
    """The zoo reads it, and so do processes started from here; afterwards it is as it was."""
    if wanted:
        before = os.environ.get("DSG_OFFLINE")
        os.environ["DSG_OFFLINE"] = "1"
        restore = (
            partial(os.environ.pop, "DSG_OFFLINE", None)
            if before is None
            else partial(os.environ.__setitem__, "DSG_OFFLINE", before)
        )
        context.find_root().call_on_close(restore)
    return wanted


OfflineOption = Annotated[
    bool, typer.Option("--offline", callback=_go_offline, help="Download nothing (or set DSG_OFFLINE=1).")
]

# Stages of a training run alone

RunOption = Annotated[
    str | None,
    typer.Option("--run", "-o", metavar="DIR", help="The run folder, in which everything is kept.",
                 show_default="runs/NAME"),
]  # fmt: skip
AlignmentOption = Annotated[
    Alignment,
    typer.Option("--alignment", help="For a folder: how faces are found; aligned: they are square crops already."),
]
CpuOption = Annotated[bool, typer.Option("--cpu", help="Leave accelerators alone.")]

# Groups: options that together make one value


class Group:
    """Each option fills the field of its name in a value of settings, and has that field's default."""

    def __init__(self, settings: type, **options: Any):
        self.settings = settings
        defaults = inspect.signature(settings).parameters
        self.parameters = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name].default, annotation=option)
            for name, option in options.items()
        ]


def takes(**groups: Group) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`@takes(film=FILM)` gives a command the options of the group, where it has a parameter `film`: their value."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            own = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            parameters += groups[parameter.name].parameters if parameter.name in groups else [own]

        @wraps(command)
        def run(**given: Any) -> None:
            for name, group in groups.items():
                given[name] = group.settings(**{one.name: given.pop(one.name) for one in group.parameters})
            command(**given)

        run.__signature__ = signature.replace(parameters=parameters)
        run.__annotations__ = {}
        return run

    return decorate


_sampling = {
    "structure": StructureOption,
    "color": ColorOption,
    "weights": WeightsOption,
    "truncation": TruncationOption,
    "batch": BatchOption,
    "device": DeviceOption,
    "precision": PrecisionOption,
}
SAMPLING = Group(SamplingSettings, **_sampling)
STYLIZER = Group(
    StylizerSettings,
    **_sampling,
    preserve_color=PreserveColorOption,
    wplus=WPlusOption,
    mask=MaskOption,
    scene=SceneOption,
    finish=FinishOption,
    faces=FacesOption,
    detector=DetectorOption,
    min_face=MinFaceOption,
)
FILM = Group(
    FilmOptions,
    codec=CodecOption,
    crf=CrfOption,
    preset=PresetOption,
    start_s=StartOption,
    end_s=EndOption,
    max_frames=MaxFramesOption,
    compare=CompareOption,
    detect_every=DetectEveryOption,
    smooth=SmoothOption,
    resume=ResumeOption,
)
