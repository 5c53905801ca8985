"""`dsg sample`: random portraits of a style, and blends between its exemplars."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from dsgcli.command import verb
from dsgcli.options import SAMPLING, out_option, steps_option, style_option
from dualstylegan.events import Event
from dualstylegan.stylizing.settings import SamplingSettings


@verb(settings=SAMPLING)
def sample(
    style: Annotated[
        str,
        style_option(
            metavar="NAME[:ID]",
            help="A style for random ones of its kind; with an exemplar or a blend, random faces in that style.",
        ),
    ],
    settings: SamplingSettings,
    number: Annotated[int, typer.Option("-n", min=1, help="How many portraits.")] = 16,
    out: Annotated[
        str | None,
        out_option(
            metavar="PATH",
            help="A picture for one sheet, a folder for a file each, a film with --frames.",
            show_default="samples/, or blend.png",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option("--seed", min=0, max=2**63 - 1, help="The same seed draws the same pictures.", show_default="1"),
    ] = 1,
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
    steps: Annotated[int, steps_option(min=2, help="With --blend: pictures along an edge.")] = 5,
    frames: Annotated[
        int | None,
        typer.Option("--frames", min=1, help="With --blend: a film of so many frames, looping.", show_default=False),
    ] = None,
    fps: Annotated[float, typer.Option("--fps", min=1, max=120, help="With --frames: frames per second.")] = 25,
) -> Iterator[Event]:
    """Draw random portraits in a style, or blends between its exemplars."""
    from dualstylegan.sample import sample_files

    exemplars = None if blend is None else [which.strip() for which in blend.split(",")]
    return sample_files(
        style,
        settings,
        out,
        count=number,
        seed=seed,
        fix=fix or (),
        blend=exemplars,
        steps=steps,
        frames=frames,
        fps=fps,
    )
