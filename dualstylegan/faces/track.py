"""Who is where in a film: faces found now and then, followed in between, and known again after they were hidden.

Frames are uint8 (H, W, 3) RGB, upright, and come in order; points are (x, y) in a frame's pixels, centres at integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dualstylegan.faces.face import Face
from dualstylegan.faces.find import Detector, FaceEmbedder

DETECT_EVERY = 5  # frames


@dataclass
class TrackedFace:
    """A face of a film in one frame. `track` is its number, the same in every frame of the film.

    `seen` is False where nothing of it was found in this frame and `face` is only where it should be. `confirmed` is
    False until a second look has shown that it is a face at all. `motion` (3, 3) takes this face's pixels of the frame
    before to this frame's, None where that was not measured. `opacity` is how much of the portrait is to be shown.
    """

    track: int
    face: Face
    seen: bool = True
    confirmed: bool = True
    motion: np.ndarray | None = None
    opacity: float = 1.0


@dataclass
class FrameFaces:
    """The faces of frame `index`. `cut`: a new shot begins with this frame."""

    index: int
    faces: list[TrackedFace] = field(default_factory=list)
    cut: bool = False


class FaceTracker:
    """Follows the faces of one film. `track` takes its frames in order, as many at a time as one likes."""

    def __init__(
        self,
        detector: Detector,
        *,
        detect_every: int = DETECT_EVERY,
        embedder: FaceEmbedder | None = None,
        choose: Callable[[Sequence[Face]], list[Face]] | None = None,
    ):
        """`choose` picks those of a frame's faces that are wanted, as Stylizer.choose does."""

    def track(self, frames: Sequence[np.ndarray]) -> list[FrameFaces]:
        """The faces of the next frames, one entry a frame."""
        raise NotImplementedError
