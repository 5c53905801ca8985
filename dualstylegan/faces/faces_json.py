"""faces.json: the faces of many pictures, as `align` writes and `align --landmarks`, recipes and `stylize` read them.

    {"format": "dsg-faces", "version": 1, "faces": [
      {"file": "sub/a.jpg", "landmarks": [[x, y], ... 68], "matrix": [[..3], [..3], [..3]], "box": [x1, y1, x2, y2],
       "score": 0.99, "crop": "sub/a.png", "size": 1024}, ...]}

`file` is the picture, relative to the folder that was aligned, with "/". Points are (x, y) in source pixels of the
upright picture, pixel centres at integers. `matrix` takes them to the unit crop; where it is missing the landmarks
decide, and so do they for a missing box. `crop` and `size` name the aligned crop where one was written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dualstylegan.errors import BadFileError, UsageError
from dualstylegan.faces.face import Face, box_around
from dualstylegan.media.paths import Source
from dualstylegan.runtime.files import json_text, whole_file

FORMAT, VERSION = "dsg-faces", 1
FARTHEST = 1e7  # px: no picture is so wide


def read_faces_json(path: str | os.PathLike) -> dict[str, list[Face]]:
    """The faces of each file, in the order they stand there. Raises BadFileError naming the entry that is wrong."""
    known: dict[str, list[Face]] = {}
    for number, entry in enumerate(read_entries(path)):
        known.setdefault(entry["file"], []).append(_face(entry, f"{path}: face {number} ({entry['file']})"))
    return known


def given_faces(path: str | os.PathLike) -> dict[str, list[Face]]:
    """`read_faces_json` of a file that a request names: what is wrong with it is wrong with the request. Raises
    UsageError."""
    try:
        return read_faces_json(path)
    except BadFileError as error:
        raise UsageError(f"--landmarks: {error}") from None


def read_entries(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The entries as they stand in the file; each has a `file`. Raises BadFileError."""
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_fifo()):  # a device may have no end
        raise BadFileError(f"{path}: not a file.")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise BadFileError(f"{path}: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise BadFileError(f"{path} is not JSON ({error}).") from None
    if isinstance(content, dict) and content.get("version", VERSION) != VERSION:
        raise BadFileError(f"{path} is version {content['version']}; this dsg reads version {VERSION}.")
    entries = content.get("faces") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise BadFileError(f"{path} holds no list of faces: expected what 'dsg align' writes.")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("file"), str):
            raise BadFileError(f"{path}: face {number} has no 'file'.")
        if not isinstance(entry.get("crop"), str | None):
            raise BadFileError(f"{path}: face {number}: 'crop' is the name of a file, or is missing.")
    return entries


def write_entries(path: str | os.PathLike, entries: list[dict[str, Any]]) -> None:
    """Write the file whole or not at all, one face per line."""
    lines = ",\n".join(json_text(entry) for entry in entries)
    with whole_file(path) as temporary:
        temporary.write_text(
            f'{{"format": "{FORMAT}", "version": {VERSION}, "faces": [\n{lines}\n]}}\n', encoding="utf-8"
        )


def entry_of(file: str, face: Face, crop: str | None = None, size: int | None = None) -> dict[str, Any]:
    """One face as faces.json holds it."""
    written = {"crop": crop, "size": size} if crop is not None else {}
    return {
        "file": file,
        "score": round(float(face.score), 4),
        "box": np.round(np.asarray(face.box, np.float64), 2).tolist(),
        "matrix": face.crop_from_photo.tolist(),
        "landmarks": np.round(np.asarray(face.points, np.float64), 3).tolist(),
        **written,
    }


def faces_of(known: Mapping[str, list[Face]], source: Source) -> list[Face] | None:
    """What faces.json knows about a picture, by its place in the tree, its path, or its name where that is unique.

    None where it does not mention the picture.
    """
    for name in (source.relative.as_posix(), source.path.as_posix()):
        if name in known:
            return known[name]
    same_name = [name for name in known if name.rsplit("/", 1)[-1] == source.path.name]
    return known[same_name[0]] if len(same_name) == 1 else None


def check_known(known: Mapping[str, list[Face]], sources: Sequence[Source], path: str | os.PathLike) -> None:
    """Raises UsageError where a faces.json, read from `path`, mentions none of the pictures it was given for."""
    if sources and all(faces_of(known, source) is None for source in sources):
        about = f"it knows {len(known)}, such as {next(iter(known))}" if known else "it is empty"
        raise UsageError(
            f"{path} mentions none of the {len(sources)} pictures given ({about}). Is it another folder's?"
        )


def _face(entry: dict[str, Any], where: str) -> Face:
    points = _numbers(entry.get("landmarks"), (68, 2), where, "landmarks").astype(np.float32)
    matrix = None
    if entry.get("matrix") is not None:
        matrix = _numbers(entry["matrix"], (3, 3), where, "matrix")
        if abs(np.linalg.det(matrix)) < 1e-12 or not np.allclose(matrix[2], (0, 0, 1)):
            raise BadFileError(f"{where}: its matrix is no invertible affine map.")
    try:
        box = box_around(points) if entry.get("box") is None else _numbers(entry["box"], (4,), where, "box")
        score = float(_numbers(entry.get("score", 1.0), (), where, "score"))
        face = Face(points, box.astype(np.float32), score, matrix=matrix)
        face.crop_from_photo  # noqa: B018 - points that make no face are found here, not later
    except UsageError as error:
        raise BadFileError(f"{where}: {error}") from None
    return face


def _numbers(value: Any, shape: tuple[int, ...], where: str, name: str) -> np.ndarray:
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.array(np.nan)
    if numbers.shape != shape or not np.isfinite(numbers).all():
        wanted = f"{' x '.join(map(str, shape))} finite numbers" if shape else "a finite number"
        raise BadFileError(f"{where}: '{name}' should be {wanted}.")
    if np.abs(numbers).max() > FARTHEST:
        raise BadFileError(f"{where}: '{name}' holds {np.abs(numbers).max():g}, which lies outside any picture.")
    return numbers
