"""dsg sample: random portraits of a style, and blends between its exemplars."""

from __future__ import annotations

from typing import Annotated

import typer

from dsgcli.options import SAMPLING, JsonOption, OfflineOption, SeedOption, takes
from dualstylegan.stylizing.settings import SamplingSettings


@takes(settings=SAMPLING)
def sample(
    style: Annotated[
        str,
        typer.Option(
            "--style",
            "-s",
            metavar="NAME[:ID]",
            help="A style for random ones of its kind; with an exemplar or a blend, random faces in that style.",
            show_default=False,
        ),
    ],
    settings: SamplingSettings,
    number: Annotated[int, typer.Option("-n", min=1, help="How many portraits.")] = 16,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="A picture for one sheet, a folder for a file each, a film with --frames.",
            show_default="samples/, or blend.png",
        ),
    ] = None,
    seed: SeedOption = 1,
    fix: Annotated[
        list[str] | None,
        typer.Option(
            "--fix",
            metavar="PART",
            help="What is the same in all portraits: content, color or structure. May repeat.",
            show_default=False,
        ),
    ] = None,
    blend: Annotated[
        str | None,
        typer.Option(
            "--blend", metavar="ID,ID,...", help="One face in the blends of two to four exemplars.", show_default=False
        ),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=2, help="With --blend: pictures along an edge.")] = 5,
    frames: Annotated[
        int | None,
        typer.Option("--frames", min=1, help="With --blend: a film of so many frames, looping.", show_default=False),
    ] = None,
    fps: Annotated[float, typer.Option("--fps", min=1, max=120, help="With --frames: frames per second.")] = 25,
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Draw random portraits in a style, or blends between its exemplars."""
    from dsgcli.report import show
    from dualstylegan.errors import UsageError

    if frames is not None and blend is None:
        raise UsageError("--frames films a blend: name the exemplars with --blend 3,17.")
    if blend is not None and fix:
        raise UsageError("--blend keeps the content fixed and moves the style; leave out --fix.")

    from dualstylegan.sample import Sampling, sample_blend, sample_output, sample_portraits

    sample_output(out, blend=blend is not None, frames=frames)  # refused before a style is loaded, or fetched
    sampling = Sampling(style, settings)
    if blend is None:
        events = sample_portraits(sampling, out, count=number, seed=seed, fix=fix or ())
    else:
        exemplars = [which.strip() for which in blend.split(",")]
        events = sample_blend(sampling, exemplars, out, steps=steps, frames=frames, fps=fps, seed=seed)
    raise typer.Exit(show(events, json=json))
