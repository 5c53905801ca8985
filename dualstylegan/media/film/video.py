"""Films in and out: containers through PyAV, animated pictures, folders of numbered frames. Nothing is held whole.

    with open_film(source) as film, FilmWriter(target, film) as out:
        for frame in film:
            out.write(frame, restyled(frame.pixels))    # or out.write(frame): as it was

A film is read frame by frame as FilmFrame and written by a FilmWriter that is given each frame back, changed or not.
What is not changed stays what it was: time stamps, time base, rotation, shape of samples, colours, depth, and every
packet of sound and text. What a container cannot hold is said in one line each in `FilmWriter.notes`; what of a damaged
film could not be read, in `Film.problems`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np

from dualstylegan.errors import DualStyleGANError, UsageError
from dualstylegan.media import stills
from dualstylegan.media.animations import Animation, AnimationWriter
from dualstylegan.media.detect import is_animated
from dualstylegan.media.film.container import ContainerWriter, stored_turn
from dualstylegan.media.film.decode import ContainerFilm
from dualstylegan.media.film.encode import CONTAINERS, check_encoding, choose, film_suffix
from dualstylegan.media.film.film import Film, FilmFrame, FilmInfo, Still
from dualstylegan.media.film.parts import Parts, part_settings
from dualstylegan.runtime.files import parts_of, whole_file

__all__ = [
    "Film",
    "FilmFrame",
    "FilmInfo",
    "FilmWriter",
    "Still",
    "check_encoding",
    "film_suffix",
    "forget_parts",
    "open_film",
]


def open_film(
    path: str | os.PathLike, *, start_s: float = 0.0, end_s: float | None = None, max_frames: int | None = None
) -> Film:
    """Open a film for reading: all of it, or what is shown from `start_s` until before `end_s`, `max_frames` at most.

    Raises BadFileError for what is missing, damaged, empty, silent of pictures or no film, UsageError for an impossible
    range. What can be read of a damaged film is delivered; `Film.problems` then says where it stopped and why.
    """
    path = Path(path)
    if start_s < 0 or (end_s is not None and end_s <= start_s):
        raise UsageError(f"--start {start_s:g} and --end {end_s if end_s is None else f'{end_s:g}'} leave nothing.")
    if max_frames is not None and max_frames < 1:
        raise UsageError(f"--max-frames is at least 1, not {max_frames}.")
    given: dict[str, Any] = {"start_s": start_s, "end_s": end_s, "max_frames": max_frames}
    if path.is_dir():
        return stills.NumberedFrames(path, **given)
    if is_animated(path):
        return Animation(path, **given)
    return ContainerFilm(path, **given)


def forget_parts(path: str | os.PathLike) -> None:
    """Remove what a stopped run has left of the film that was to be `path`."""
    shutil.rmtree(parts_of(Path(path)), ignore_errors=True)


class FilmWriter:
    """A film being written to `path`: whole, or not at all. A context manager.

    `like` is the film it is made from: time base, colours, depth, shape of samples, rotation, sound, words, chapters
    and tags come from there, of the range that was opened. The suffix says what is written: a container, an animated
    `.gif`, `.png`/`.apng` or `.webp`, or, without one, a folder of numbered frames. `size` (width, height) where the
    frames are to have another size than the film's, upright, with samples of `sample_aspect_ratio`.

    With `resume`, a text that names all else that decides the result (style, options), the film is written in parts
    that survive a stopped run: `done` frames are there already, and frames before that index are passed over. The
    source, its range and the encoding are part of the key by themselves.

    Raises UsageError for settings that cannot be: at construction. `notes` says afterwards what the result lacks.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        like: Film | FilmInfo,
        *,
        codec: str | None = None,
        crf: float | None = None,
        preset: str | None = None,
        size: tuple[int, int] | None = None,
        sample_aspect_ratio: Fraction | None = None,
        resume: str | None = None,
    ):
        self.path = Path(path)
        self._info = like.info if isinstance(like, Film) else like
        info = self._info
        self._size = size or (info.width, info.height)
        self._shape = sample_aspect_ratio or info.sample_aspect_ratio
        check_encoding(self.path, codec, crf, preset, frames=info.kind == "frames")
        self._notes: list[str] = []
        self._parts: Parts | None = None
        self._encoding = None
        self._sink: ContainerWriter | AnimationWriter | stills.FramesWriter
        suffix = self.path.suffix.lower()
        if suffix in CONTAINERS:
            turn = stored_turn(self.path, info, self._size)
            stored = self._size[::-1] if turn.transpose else self._size
            self._encoding = choose(info, self.path, size=stored, codec=codec, crf=crf, preset=preset)
            if resume is not None:
                self._parts = Parts(self.path, part_settings(info, self._encoding, stored, resume))
                if not self._parts.fresh:
                    self._notes.append("settings or source changed: begun anew")
        else:
            stills.check_writable(self.path, info)
            if resume is not None:
                self._notes.append(f"{suffix or 'a folder of frames'} is not written in parts: begun anew")

    @property
    def done(self) -> int:
        """How many frames an earlier run has left, with `resume`."""
        return 0 if self._parts is None else self._parts.done

    @property
    def notes(self) -> list[str]:
        """One line each: what of the source the result does not hold, and why."""
        return self._notes

    def __enter__(self) -> FilmWriter:
        with ExitStack() as stack:
            if self._encoding is not None:
                temporary = stack.enter_context(whole_file(self.path))
                self._sink = ContainerWriter(
                    self.path, temporary, self._info, self._encoding, self._size, self._shape, self._parts
                )
            elif not stills.is_folder(self.path, self._info):
                temporary = stack.enter_context(whole_file(self.path))
                self._sink = AnimationWriter(self.path, temporary, self._info, self._size)
            else:
                temporary = stack.enter_context(stills.frames_folder(self.path))
                self._sink = stills.FramesWriter(self.path, temporary, self._info, self._size)
            self._stack = stack.pop_all()
        self._sink.notes[:0] = self._notes
        self._notes = self._sink.notes
        return self

    def write(self, frame: FilmFrame, pixels: np.ndarray | None = None) -> None:
        """The next frame, with `pixels` uint8 (H, W, 3) upright in its place where it was changed.

        Frames come in the film's order. Raises DualStyleGANError when the disk or the encoder fails.
        """
        if frame.index < self.done and self._parts is not None:
            return
        if pixels is not None:
            width, height = self._size
            if pixels.dtype != np.uint8 or pixels.shape != (height, width, 3):
                raise UsageError(
                    f"{self.path}: a frame is uint8 {(height, width, 3)}, not {pixels.dtype} {pixels.shape}."
                )
        with _readable_errors(self.path):
            self._sink.write(frame, pixels)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            with suppress(Exception):
                self._sink.abort()
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            try:
                with _readable_errors(self.path):
                    self._sink.finish()
            except BaseException:
                with suppress(Exception):
                    self._sink.abort()
                raise
        if self._parts is not None:
            self._parts.remove()


@contextmanager
def _readable_errors(path: Path) -> Iterator[None]:
    """FFmpeg's errors as one line that names the film."""
    try:
        yield
    except (DualStyleGANError, FileExistsError, PermissionError):
        raise
    except (OSError, ValueError, av.FFmpegError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DualStyleGANError(f"Cannot write {path}: {reason}.") from error
