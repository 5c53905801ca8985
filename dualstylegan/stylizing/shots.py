"""The scene of each shot of a film: fitted when someone appears, the same until someone comes or goes, then blended."""

from __future__ import annotations

import numpy as np

from dualstylegan.faces.track import FrameFaces, TrackedFace
from dualstylegan.stylizing.scene import Scene, mix_scenes
from dualstylegan.stylizing.stylizer import Stylizer

BLEND = 12  # frames over which one scene becomes another


class ShotScenes:
    """Frame after frame: what a film's people ask of the picture around them.

    Everyone's scene is fitted once a shot, in the first frame that shows them, from that frame alone: so it is the same
    where a film is resumed, and nothing trembles. The first scene of a shot is there at once where the shot begins with
    someone, and comes over BLEND frames where they come later. Who leaves takes nothing along while nobody else is
    there, so that a shot does not change when a face turns away.
    """

    def __init__(self, stylizer: Stylizer):
        self._stylizer, self._begun = stylizer, False
        self._forget()

    def _forget(self) -> None:
        self._known: dict[int, tuple[Scene, float]] = {}  # by track, with its weight
        self._present: frozenset[int] = frozenset()
        self._before: Scene | None = None
        self._after: Scene | None = None
        self._since = BLEND  # frames since the blend began

    def at(self, frame: np.ndarray, found: FrameFaces) -> Scene | None:
        """The scene of the film's next frame; None where it is left alone."""
        begins, self._begun = found.cut or not self._begun, True
        if begins:
            self._forget()
        present = [face for face in found.faces if face.opacity > 0]
        for face in present:
            if face.seen and face.track not in self._known:
                self._known[face.track] = self._fit(frame, face)
        tracks = frozenset(face.track for face in present if face.track in self._known)
        if tracks and tracks != self._present:
            self._before, self._present = self._now(), tracks
            self._after = mix_scenes([self._known[track] for track in sorted(tracks)])
            self._since = BLEND if begins else 0
        now = self._now()
        self._since += self._since < BLEND
        return now

    def _now(self) -> Scene | None:
        if self._after is None or self._since == BLEND:
            return self._after
        part = (self._since + 1) / (BLEND + 1)
        if self._before is None:
            return self._after.faded(part)
        strength = self._before.strength * (1 - part) + part
        return mix_scenes([(self._before, 1 - part), (self._after, part)]).faded(strength)

    def _fit(self, frame: np.ndarray, face: TrackedFace) -> tuple[Scene, float]:
        stylizer = self._stylizer
        portraits = stylizer.render(stylizer.encode(stylizer.crop(frame, [face.face])))
        return stylizer.fit(frame, [face.face], list(portraits)), face.face.crop_side_px**2
