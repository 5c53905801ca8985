"""How far a film is, and in the end what was in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dualstylegan.events import counted


@dataclass
class FilmReport:
    """Grows while a film is made."""

    total: int | None = None  # frames, where the film says how many
    frames: int = 0
    faces_now: int = 0  # in the latest frame
    faces: int = 0  # restyled, over all frames
    frames_without_face: int = 0
    cuts: int = 0
    tracks: set[int] = field(default_factory=set)
    seconds: float = 0.0
    resumed_at: int = 0  # the frame this run began with; those before are an earlier run's
    finished: bool = False
    outputs: list[Path] = field(default_factory=list)  # that were written
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    cpu_s: dict[str, float] = field(default_factory=dict)  # by stage: its own thread's CPU time

    @property
    def frames_per_s(self) -> float:
        return max(0, self.frames - self.resumed_at) / self.seconds if self.seconds > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """The time left at the present pace, where the film says how long it is."""
        if not self.total or self.frames_per_s <= 0:
            return None
        return max(0, self.total - self.frames) / self.frames_per_s

    @property
    def figures(self) -> dict[str, float]:
        return {
            "frames": self.frames,
            "faces": self.faces,
            "tracks": len(self.tracks),
            "cuts": self.cuts,
            "frames_without_face": self.frames_without_face,
            "frames_per_s": round(self.frames_per_s, 2),
        }

    @property
    def summary(self) -> str:
        counts = [
            counted(self.frames, "frame"),
            f"{counted(self.faces, 'face')} in {counted(len(self.tracks), 'track')}",
            counted(self.cuts, "cut"),
            f"{counted(self.frames_without_face, 'frame')} without a face",
        ]
        return f"{', '.join(counts)}, {self.frames_per_s:.1f} frames/s"
