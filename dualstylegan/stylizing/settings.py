"""What can be asked of a Stylizer, of films and of samples: frozen values, checked once, given on whole. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dualstylegan.choices import (
    DETECT_EVERY,
    FACES,
    FINISHES,
    MASKS,
    SCENES,
    SMOOTH,
    check_amount,
    check_choice,
    read_precision,
)
from dualstylegan.errors import UsageError

if TYPE_CHECKING:
    import torch

    from dualstylegan.faces.find import Detector


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How portraits of a style are drawn, and on what.

    `weights` (one per row; 18 fit every smaller model) goes before `structure` and `color`, and these before the
    style's header. `truncation` scales a face's own W+ code towards zero. None is the style's own; of `batch`, the
    number of portraits at a time, what fits. `precision` may be spelled bf16, and is bfloat16 then.
    """

    structure: float | None = None
    color: float | None = None
    weights: tuple[float, ...] | None = None
    truncation: float | None = None
    device: str | torch.device = "auto"
    precision: str = "auto"
    batch: int | None = None

    def __post_init__(self):
        """Raises UsageError for what cannot be."""
        object.__setattr__(self, "precision", read_precision(self.precision))
        for name in ("structure", "color", "truncation"):
            check_amount(f"--{name}", getattr(self, name))
        if self.weights is not None:
            object.__setattr__(self, "weights", tuple(self.weights))
            for weight in self.weights:
                check_amount("A weight (--weights)", weight)


@dataclass(frozen=True, kw_only=True)
class StylizerSettings(SamplingSettings):
    """How faces are found and restyled.

    `preserve_color` keeps each face's own colour rows. `wplus` encodes faces straight into W+. `mask` None is the
    style's own. `scene` is what becomes of the picture around the faces: keep (not a bit changes), tone (it takes the
    style's colours), paint (its surface too) or auto, what the style asks for. `finish` auto draws large faces sharper
    where the style asks for it. `detector` is a name or a detector that is there already. Faces less than `min_face` px
    wide are passed over; None, or 0, leaves that to the detector.
    """

    preserve_color: bool = False
    wplus: bool = False
    mask: str | None = None
    scene: str = "auto"
    finish: str = "auto"
    faces: str = "all"
    detector: str | Detector = "auto"
    min_face: float | None = None

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "min_face", self.min_face or None)
        check_choice("faces", self.faces, FACES)
        check_choice("scene", self.scene, SCENES)
        check_choice("finish", self.finish, FINISHES)
        if self.mask is not None:
            check_choice("mask", self.mask, MASKS)


@dataclass(frozen=True, kw_only=True)
class FilmOptions:
    """What can be asked of films alone. `codec`, `crf` and `preset` are the encoder's, None: what suits the source.

    `start_s` to `end_s` and `max_frames` take a part of the film. `crop` makes a film of the aligned portrait of one
    face: the largest when it appears, and until it leaves. `compare` sets the source beside the result. Faces are
    looked for in every `detect_every`-th frame and followed in between. `smooth` is 0 (every frame by itself) to 1.
    `resume` goes on from the parts that a run which was stopped has finished.
    """

    codec: str | None = None
    crf: float | None = None
    preset: str | None = None
    start_s: float = 0.0
    end_s: float | None = None
    max_frames: int | None = None
    crop: bool = False
    compare: bool = False
    detect_every: int = DETECT_EVERY
    smooth: float = SMOOTH
    resume: bool = False

    def __post_init__(self):
        """Raises UsageError for what cannot be."""
        if self.start_s < 0 or (self.end_s is not None and self.end_s <= self.start_s):
            raise UsageError("A film's part starts at 0 s or later (--start) and ends after that (--end).")
        if self.max_frames is not None and self.max_frames < 1:
            raise UsageError(f"--max-frames is 1 or more, not {self.max_frames}.")
        if self.detect_every < 1:
            raise UsageError(f"--detect-every is 1 (every frame) or more, not {self.detect_every}.")
        if not 0 <= self.smooth <= 1:
            raise UsageError(f"--smooth is 0 (not at all) to 1, not {self.smooth:g}.")

    @property
    def keeps_all(self) -> bool:
        """Whether a film with nothing to restyle comes out as it was."""
        picked = (self.codec, self.crf, self.preset, self.end_s, self.max_frames, self.start_s or None)
        return not (self.crop or self.compare or any(value is not None for value in picked))
