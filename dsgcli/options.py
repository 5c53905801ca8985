"""The options that several verbs have, and those that together make one value: each declared once.

An `...Option` is the same wherever it stands. An `..._option` has its name and its bounds here, and a verb's own words.
"""

from functools import partial
from typing import Annotated

import typer

from dsgcli.command import Group
from dualstylegan.choices import PRECISIONS, Alignment, Detector, Faces, Finish, Mask, Scene
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
style_option = partial(typer.Option, "--style", "-s", show_default=False)
out_option = partial(typer.Option, "--out", "-o")
LandmarksOption = Annotated[
    str | None,
    typer.Option(
        "--landmarks", metavar="JSON", help="Take the faces from a faces.json of 'dsg align'.", show_default=False
    ),
]
SkipExistingOption = Annotated[bool, typer.Option("--skip-existing", help="Leave outputs that are there and complete.")]
dry_run_option = partial(typer.Option, "--dry-run")
DryRunOption = Annotated[bool, dry_run_option(help="Say what would be done, and do nothing.")]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="K/N",
        help="Do part K of N of the list, 1/N to N/N, as a task of an array job does.",
        show_default=False,
    ),
]

# Faces

FacesOption = Annotated[Faces, typer.Option("--faces", help="Which faces of a picture.")]
MinFaceOption = Annotated[
    int | None,
    typer.Option("--min-face", min=0, metavar="PX", help="Pass over faces smaller than this many pixels.",
                 show_default="0"),
]  # fmt: skip
DetectorOption = Annotated[Detector, typer.Option("--detector", help="What finds faces. auto: the best that is here.")]
DeviceOption = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps.")]
batch_option = partial(typer.Option, "--batch", min=1, show_default="what fits")

wplus_option = partial(typer.Option, "--wplus")

# Trainings

PortraitBatchOption = Annotated[int | None, batch_option(help="Portraits fitted at once.")]
truncation_option = partial(typer.Option, "--truncation", min=0)
steps_option = partial(typer.Option, "--steps")
data_option = partial(typer.Option, "--data", metavar="DIR", show_default="the recipe's")
from_option = partial(typer.Option, "--from", metavar="STEP", min=1, show_default="the last")
run_option = partial(typer.Option, "--run", metavar="DIR")
RunOption = Annotated[
    str | None, run_option("-o", help="The run folder, in which everything is kept.", show_default="runs/NAME")
]
AlignmentOption = Annotated[
    Alignment,
    typer.Option("--alignment", help="For a folder: how faces are found; aligned: they are square crops already."),
]
CpuOption = Annotated[bool, typer.Option("--cpu", help="Leave accelerators alone.")]

# Groups: how a style is drawn, how faces are restyled, and films


def _weights(text: str) -> tuple[float, ...]:
    from dualstylegan.models.codes import parse_weights

    return parse_weights(text)


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


_own_option = partial(typer.Option, show_default="the style's")
SAMPLING = Group(
    SamplingSettings,
    structure=Annotated[
        float | None, _own_option("--structure", min=0, help="How much of the exemplar's shapes, 0 to 1.")
    ],
    color=Annotated[float | None, _own_option("--color", min=0, help="How much of the exemplar's colours, 0 to 1.")],
    weights=Annotated[
        str | None,
        _own_option(
            "--weights",
            metavar="LIST",
            parser=_weights,
            help="A weight per row, such as 0x4,.75x3,1x11; goes before --structure and --color.",
        ),
    ],
    truncation=Annotated[
        float | None, truncation_option(help="Lower is nearer to the average face.", show_default="the style's")
    ],
    batch=Annotated[int | None, batch_option(help="Faces computed at once.")],
    device=DeviceOption,
    precision=Annotated[
        str,
        typer.Option(
            "--precision",
            metavar=f"[{'|'.join(PRECISIONS)}]",
            help="auto: bfloat16 where the processor is fast at it.",
        ),
    ],
)
STYLIZER = Group(
    StylizerSettings,
    SAMPLING,
    preserve_color=Annotated[bool, typer.Option("--preserve-color", help="Keep the photo's own colours.")],
    wplus=Annotated[bool, wplus_option(help="Encode faces straight into W+: closer to the photo.")],
    mask=Annotated[
        Mask | None,
        _own_option("--mask", help="What of the face is replaced: its skin, the whole head, the whole crop."),
    ],
    scene=Annotated[
        Scene,
        typer.Option(
            "--scene",
            help="The picture around faces: as it is, in the style's colours, in its surface too; or as it asks.",
        ),
    ],
    finish=Annotated[
        Finish, typer.Option("--finish", help="Large faces are drawn sharper, where the style asks for it, or not.")
    ],
    faces=FacesOption,
    detector=DetectorOption,
    min_face=MinFaceOption,
)

_film_option = partial(typer.Option, rich_help_panel="Films")
FILM = Group(
    FilmOptions,
    codec=Annotated[
        str | None,
        _film_option("--codec", metavar="NAME", help="h264, hevc, vp9, prores, ...", show_default="the source's kind"),
    ],
    crf=Annotated[
        float | None, _film_option("--crf", min=0, help="Lower is better and larger.", show_default="the codec's")
    ],
    preset=Annotated[
        str | None,
        _film_option("--preset", metavar="NAME", help="From ultrafast to veryslow.", show_default="the codec's"),
    ],
    start_s=Annotated[
        float,
        _film_option("--start", metavar="TIME", parser=seconds, help="Begin here: 90 or 1:30.", show_default=False),
    ],
    end_s=Annotated[
        float | None, _film_option("--end", metavar="TIME", parser=seconds, help="End here.", show_default=False)
    ],
    max_frames=Annotated[
        int | None, _film_option("--max-frames", min=1, help="At most so many frames.", show_default=False)
    ],
    compare=Annotated[bool, _film_option("--compare", help="The source beside the result.")],
    detect_every=Annotated[
        int,
        _film_option(
            "--detect-every",
            min=1,
            metavar="N",
            help="Look for faces in every N-th frame; between, those known are followed.",
        ),
    ],
    smooth=Annotated[
        float,
        _film_option("--smooth", min=0, max=1, help="How steady faces are kept: 0 (each frame by itself) to 1."),
    ],
    resume=Annotated[bool, _film_option("--resume", help="Go on from the parts a stopped run has finished.")],
)
