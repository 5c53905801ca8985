"""The portraits of a run: found, checked, aligned and kept as PNG crops; then drawn from without end.

A crop is the FFHQ crop of one face at the model's size. Crops lie in the run folder, each written whole and marked with
what it was made from, so preparing is resumed, shared by processes, and done again only where something changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from dualstylegan.errors import BadFileError, DualStyleGANError, NoFaceError, TrainingError, UsageError
from dualstylegan.events import Event
from dualstylegan.faces.crop import crop_face
from dualstylegan.faces.face import Face, crop_side_px, ffhq_matrix, mouth_opening
from dualstylegan.faces.faces_json import faces_of, read_faces_json
from dualstylegan.faces.find import Detector, fallback_note, make_detector
from dualstylegan.media.images import Picture, from_tensor, read_picture
from dualstylegan.media.paths import Source, expand_inputs
from dualstylegan.recipe import Data, Template
from dualstylegan.runtime.devices import to_device
from dualstylegan.runtime.files import at_home, is_about_room, json_text, whole_file
from dualstylegan.runtime.interrupts import uninterrupted
from dualstylegan.runtime.processes import Processes
from dualstylegan.training.portraits import Portrait, load_portrait
from dualstylegan.training.results import file_of

CROPS, LEFT_OUT, PHOTOS, INDEX = "crops", "left-out", "photos", "portraits.json"
MARK, MOUTH = "dsg-made-from", "dsg-mouth"  # PNG text keys
OPEN_MOUTH = 0.15  # the gap between the lips, in mouth widths, from which on a mouth is open
AT_ONCE = 16  # pictures decoded and searched together
MEMORY_BYTES = 2 * 1024**3  # crops up to this much are kept in memory

# ---------------------------------------------------------------------------------------------------------- preparing


class _Job(NamedTuple):
    name: str
    source: Path
    crop: Path
    strict: bool  # whether the recipe's rules for what is good enough to train on apply


@dataclass(frozen=True)
class PreparedPortraits:
    """What a run trains on. A name is a path relative to the folder of portraits; its rank among them is its ID."""

    training: tuple[Portrait, ...]
    held_out: tuple[Portrait, ...]
    left_out: Mapping[str, str]  # name -> reason, one line


def prepare_portraits(
    data: Data, folder: Path, size: int, processes: Processes | None = None
) -> Generator[Event, None, PreparedPortraits]:
    """Align this process's share of the portraits into `folder` as PNG of `size` px; the generator's value is a
    PreparedPortraits, the same in every process. Raises TrainingError, one line, when there is no folder or too few
    portraits are left.
    """
    processes = processes or Processes()
    verb = processes.verb
    sources = list_portraits(data)
    mine = processes.share(sorted(sources))
    yield Event("plan", verb, stage="data", current=0, total=len(mine))

    held_out, others = held_out_of(sources, data)
    strict = set(others)
    jobs = [_Job(name, sources[name], crop_path(folder, name), name in strict) for name in mine]
    left_out: dict[str, str] = {}
    aligner = _Aligner(data, size)
    for start in range(0, len(jobs), AT_ONCE):
        part = jobs[start : start + AT_ONCE]
        reasons = aligner.align(part)
        if line := aligner.note():
            yield Event("note", verb, stage="data", message=line)
        for count, (job, reason) in enumerate(zip(part, reasons, strict=True), start + 1):
            if reason is not None:
                with suppress(OSError):
                    job.crop.unlink()
                left_out[job.name] = reason
                yield Event(
                    "skipped", verb, str(job.source), message=reason, stage="data", current=count, total=len(jobs)
                )
            else:
                yield Event(
                    "progress", verb, str(job.source), str(job.crop), stage="data", current=count, total=len(jobs)
                )
    _write_json(folder / LEFT_OUT / f"{processes.rank}-of-{processes.count}.json", left_out)
    processes.wait_for_all("data")

    left_out = _read_left_out(folder, processes.count)
    prepared = PreparedPortraits(
        tuple(Portrait(name, crop_path(folder, name)) for name in others if name not in left_out),
        tuple(Portrait(name, crop_path(folder, name)) for name in held_out if name not in left_out),
        left_out,
    )
    if processes.is_main:
        _write_json(folder / INDEX, _index(prepared, size))
        for name in sorted(left_out.keys() - set(mine)):  # the other processes' are said here: they have no voice
            yield Event("skipped", verb, str(sources[name]), message=left_out[name], stage="data")
    if len(prepared.training) < data.min_images:
        raise TrainingError(_too_few(data, len(prepared.training), left_out))
    return prepared


def prepare_photos(
    data: Data, portraits: Iterable[str], folder: Path, size: int, processes: Processes | None = None
) -> Generator[Event, None, PreparedPortraits]:
    """The same for those photos in data.photos that are called as one of `portraits`, cut as these are."""
    whole = Data(folder=data.photos, alignment=data.alignment, detector=data.detector, template=data.template)
    there = list_portraits(replace(whole, min_images=1))
    named = tuple(map(escape, there.keys() & set(portraits)))
    wanted = replace(whole, min_images=1, include=named)
    return (yield from prepare_portraits(wanted, folder / PHOTOS, size, processes))


def read_photos(folder: Path) -> dict[str, Path]:
    """{a portrait's name: the crop of its photo}, of what `prepare_photos` left in `folder`; nothing where it left
    nothing. Raises BadFileError."""
    return dict(read_prepared(folder / PHOTOS).training) if (folder / PHOTOS / INDEX).is_file() else {}


def read_prepared(folder: Path) -> PreparedPortraits:
    """What `prepare_portraits` left in `folder`. Raises BadFileError."""
    index = folder / INDEX
    try:
        found = json.loads(index.read_text(encoding="utf-8"))
        training, held_out = (
            tuple(Portrait(name, crop_path(folder, name)) for name in found[part]) for part in ("training", "held_out")
        )
        return PreparedPortraits(training, held_out, found["left_out"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadFileError(f"{index}: not a list of prepared portraits ({error}); run the data stage again.") from None


def list_portraits(data: Data) -> dict[str, Path]:
    """{name: file} of every picture the recipe takes, sorted by name: its path relative to the folder, with '/'.

    Raises TrainingError where there is no such folder, nothing in it, or fewer pictures than the recipe's minimum.
    """
    root = at_home(data.folder)
    if not data.folder or not root.is_dir():
        raise TrainingError(_no_portraits(data, "there is no such folder" if data.folder else "no folder is named"))
    try:
        found = expand_inputs([root], kinds=("picture",))
    except UsageError:
        raise TrainingError(_no_portraits(data, "it holds no pictures")) from None
    named = {source.relative.as_posix(): source.path for source in found if source.problem is None}
    wanted = [
        name
        for name in sorted(named)
        if (not data.include or _matches(name, data.include)) and not _matches(name, data.exclude)
    ]
    if not wanted:
        raise TrainingError(_no_portraits(data, "its include and exclude patterns leave nothing"))
    wanted = wanted[: data.limit or None]
    if len(wanted) < data.min_images:
        raise TrainingError(_too_few(data, len(wanted), {}))
    return {name: named[name] for name in wanted}


def held_out_of(names: Iterable[str], data: Data) -> tuple[list[str], list[str]]:
    """(held out, free to train on), sorted: what the recipe's rules make of these names. Whoever is held out by one
    rule is not trained on by another: a picture of such a person is in neither list."""
    among = [name for name in names if not data.held_out_among or _matches(name, data.held_out_among)]
    chosen, _ = split_held_out(among, data.held_out, data.held_out_person)
    if data.held_out_people:
        of = [name for name in names if not data.held_out_people_of or _matches(name, data.held_out_people_of)]
        chosen += [name for name in of if drawn_by_hash(person_of(name, data.held_out_person), data.held_out_people)]
    people = {person_of(name, data.held_out_person) for name in chosen}
    return sorted({*chosen}), sorted(name for name in names if person_of(name, data.held_out_person) not in people)


def person_of(name: str, person: str) -> str:
    """Who a picture shows: what the pattern's groups say, or the name itself where it does not match."""
    match = re.search(person, name) if person else None
    return "/".join(group or "" for group in match.groups() or (match[0],)) if match else name


def drawn_by_hash(person: str, share: float) -> bool:
    """Whether this person is one of a share of all people, whoever else there is."""
    return int.from_bytes(hashlib.sha256(os.fsencode(person)).digest()[:8], "big") < share * 2**64


def split_held_out(names: Sequence[str], count: int, person: str = "") -> tuple[list[str], list[str]]:
    """(held out, free to train on): `count` names of `count` different people, and all names of other people.

    The order is that of a hash of the file name, so a name's fate does not hang on the folder it lies in, and hardly on
    which other pictures there are. `person` is a pattern whose groups, where it matches a name, say who it is; a name
    it does not match is a person of its own.
    """

    def order(name: str) -> tuple[str, str]:
        return hashlib.sha256(os.fsencode(name.rsplit("/", 1)[-1])).hexdigest(), name

    chosen: dict[Any, str] = {}
    for name in sorted(names, key=order):
        if len(chosen) == count:
            break
        chosen.setdefault(person_of(name, person), name)
    return sorted(chosen.values()), sorted(name for name in names if person_of(name, person) not in chosen)


def crop_path(folder: Path, name: str) -> Path:
    return folder / CROPS / file_of(name, ".png")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) or fnmatchcase(name.rsplit("/", 1)[-1], pattern) for pattern in patterns)


def _no_portraits(data: Data, why: str) -> str:
    original = f" The original set has {data.count} images." if data.count else ""
    source = f" Source: {data.source}." if data.source else ""
    licence = f" Licence: {data.licence}." if data.licence else ""
    return f"No portraits in '{data.folder}': {why}.{original}{source}{licence} Name your folder with --data DIR."


def _too_few(data: Data, count: int, left_out: Mapping[str, str]) -> str:
    example = next(iter(left_out.values()), "")
    why = f" {len(left_out)} left out, the first: {example}" if example else ""
    return (
        f"{data.folder}: {count} usable portraits, fewer than the recipe's data.min_images = {data.min_images}; "
        f"add portraits, or set it if you mean it.{why}"
    )


def _index(prepared: PreparedPortraits, size: int) -> dict[str, Any]:
    return {
        "size": size,
        "training": [portrait.name for portrait in prepared.training],
        "held_out": [portrait.name for portrait in prepared.held_out],
        "left_out": dict(prepared.left_out),
    }


def _read_left_out(folder: Path, count: int) -> dict[str, str]:
    parts = (folder / LEFT_OUT / f"{rank}-of-{count}.json" for rank in range(count))
    merged: dict[str, str] = {}
    for part in parts:
        merged |= json.loads(part.read_text(encoding="utf-8"))
    return dict(sorted(merged.items()))


def _write_json(path: Path, value: Any) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json_text(value, indent=1) + "\n", encoding="utf-8")


# ----------------------------------------------------------------------------------------------------------- aligning


class _Aligner:
    """Writes the aligned crops of pictures, a batch at a time: detectors use a core for each."""

    def __init__(self, data: Data, size: int):
        self.data, self.size = data, size
        self._detector: Detector | None = None
        self._has_told = False
        how = {"landmarks": data.detector, "template": repr(data.template)}.get(data.alignment, "")
        if data.alignment == "faces.json":
            self._faces_json = at_home(data.faces_json or Path(data.folder) / "faces.json")
            self._given = read_faces_json(self._faces_json)
            how = hashlib.sha256(self._faces_json.read_bytes()).hexdigest()
        self._made_how = f"{size} px, {data.alignment} {how}, at least {data.min_crop_px} px, {data.min_inside} inside"

    def align(self, jobs: Sequence[_Job]) -> list[str | None]:
        """Write the crop of each job, unless it is there and made from the same. Returns why not, one line each."""
        reasons: list[str | None] = [None] * len(jobs)
        todo: dict[int, tuple[Picture, str]] = {}
        for place, job in enumerate(jobs):
            try:
                mark = self._mark(job)
                if _mark_of(job.crop) != mark:
                    todo[place] = _on_white(read_picture(job.source)), mark
            except DualStyleGANError as error:
                reasons[place] = str(error)

        found = self._faces_found([picture for picture, _ in todo.values()])
        for (place, (picture, mark)), faces in zip(todo.items(), found, strict=True):
            job = jobs[place]
            try:
                _write_crop(job.crop, *self._crop(job, picture, faces), mark)
            except DualStyleGANError as error:
                if is_about_room(error):  # the next one would fare no better
                    raise
                reasons[place] = str(error)
        return reasons

    def _mark(self, job: _Job) -> str:
        """What a crop is made from."""
        try:
            stat = job.source.stat()
        except OSError as error:
            raise BadFileError(f"{job.source}: {error.strerror}.") from None
        return f"{stat.st_size} bytes of {stat.st_mtime_ns}; {self._made_how}; strict {job.strict}"

    def note(self) -> str | None:
        """That another detector is used than hoped for, once."""
        if self._detector is None or self._has_told:
            return None
        self._has_told = True
        return fallback_note(self._detector)

    def _faces_found(self, pictures: list[Picture]) -> Sequence[Sequence[Face]]:
        if self.data.alignment != "landmarks" or not pictures:
            return [()] * len(pictures)
        if self._detector is None:
            self._detector = make_detector(self.data.detector)
        return self._detector.find([picture.pixels for picture in pictures])

    def _crop(self, job: _Job, picture: Picture, faces: Sequence[Face]) -> tuple[np.ndarray, float | None]:
        """uint8 (size, size, 3), and how far the mouth is open where landmarks say. Raises BadFileError, NoFaceError,
        UsageError."""
        mouth = None
        if self.data.alignment == "aligned":
            return _aligned_already(picture, self.size, job.source), mouth
        if self.data.alignment == "template":
            matrix = ffhq_matrix(template_points(self.data.template, picture.width, picture.height))
        else:
            faces = faces if self.data.alignment == "landmarks" else self._faces_given(job)
            if not faces:
                raise NoFaceError(f"{job.source}: no face was found.")
            face = max(faces, key=lambda face: face.width)
            matrix, mouth = face.crop_from_photo, float(mouth_opening(face.points))
        if job.strict:
            _demand_good(matrix, picture, self.data, job.source)
        return from_tensor(crop_face(picture.pixels, matrix, self.size)), mouth

    def _faces_given(self, job: _Job) -> Sequence[Face]:
        faces = faces_of(self._given, Source(job.source, Path(job.name)))
        if faces is None:
            raise NoFaceError(f"{job.source}: {self._faces_json} does not mention it.")
        return faces


def template_points(template: Template, width: int, height: int) -> np.ndarray:
    """68 iBUG points (x, y), px, of which only eyes and mouth corners mean anything: FFHQ alignment reads no others."""
    size = np.array([width, height], dtype=np.float64)
    left, right, mouth = (np.array(at) * size - 0.5 for at in (template.left_eye, template.right_eye, template.mouth))
    points = np.tile((left + right) / 2, (68, 1))
    points[36:42], points[42:48], points[48:68] = left, right, mouth
    return points.astype(np.float32)


def _demand_good(crop_from_photo: np.ndarray, picture: Picture, data: Data, source: Path) -> None:
    """Raises BadFileError for a crop of too few of the picture's own pixels, or that lies too much outside of it."""
    side = crop_side_px(crop_from_photo)
    if side < data.min_crop_px:
        raise BadFileError(f"{source}: the face's crop has {side:.0f} px, less than data.min_crop_px.")
    at = (np.arange(32) + 0.5) / 32
    unit = np.stack([*np.meshgrid(at, at), np.ones((32, 32))]).reshape(3, -1)
    x, y, _ = np.linalg.inv(crop_from_photo) @ unit
    inside = float(np.mean((x > -0.5) & (y > -0.5) & (x < picture.width - 0.5) & (y < picture.height - 0.5)))
    if inside < data.min_inside:
        raise BadFileError(f"{source}: only {inside:.0%} of the face's crop lie in the picture (data.min_inside).")


def _on_white(picture: Picture) -> Picture:
    """A transparent picture as it looks on a page: what lies under full transparency may be any colour."""
    if picture.alpha is None:
        return picture
    opacity = picture.alpha[..., None].astype(np.float32) / 255
    return Picture((picture.pixels * opacity + 255 * (1 - opacity)).round().astype(np.uint8))


def _aligned_already(picture: Picture, size: int, source: Path) -> np.ndarray:
    if picture.width != picture.height:
        raise BadFileError(f"{source}: {picture.width} x {picture.height} px; an aligned portrait is square.")
    return np.asarray(Image.fromarray(picture.pixels).resize((size, size), Image.Resampling.LANCZOS))


def _write_crop(path: Path, pixels: np.ndarray, mouth: float | None, mark: str) -> None:
    text = PngInfo()
    text.add_text(MARK, mark)
    if mouth is not None:
        text.add_text(MOUTH, f"{mouth:.3f}")
    with whole_file(path) as temporary:
        Image.fromarray(pixels).save(temporary, pnginfo=text, compress_level=1)


def _mark_of(path: Path, key: str = MARK) -> str | None:
    try:
        with Image.open(path) as image:
            return image.info.get(key)
    except (OSError, SyntaxError):
        return None


# ------------------------------------------------------------------------------------------------------------- drawing


def weights_of(portraits: Sequence[Portrait], data: Data, shares: Mapping[str, float] | None = None) -> list[float]:
    """How often each portrait is to be drawn, in means of all: `shares` (else data.shares) and data.open_mouths.

    What fits a pattern makes up its share of all that is drawn, however many there are; the first pattern that fits
    counts. The rest, and every pattern that nothing fits, is shared evenly among the others. Within its share a picture
    with an open mouth is drawn `open_mouths` times as often as another.
    """
    shares = shares or data.shares
    groups: dict[str | None, list[int]] = {}
    for index, portrait in enumerate(portraits):
        fitting = next((pattern for pattern in shares if _matches(portrait.name, (pattern,))), None)
        groups.setdefault(fitting, []).append(index)
    taken = sum(shares[pattern] for pattern in groups if pattern is not None)
    if taken > 1 + 1e-9 or (None in groups and taken >= 1):
        raise TrainingError(f"The shares {dict(shares)} leave nothing for the other portraits: they must sum to less.")

    eager = [1.0] * len(portraits)
    if data.open_mouths > 1:
        eager = [data.open_mouths if mouth_is_open(portrait.path) else 1.0 for portrait in portraits]
    weights = [0.0] * len(portraits)
    for pattern, members in groups.items():
        share = 1 - taken if pattern is None else shares[pattern] / (1.0 if None in groups else taken)
        whole = sum(eager[index] for index in members)
        for index in members:
            weights[index] = share * len(portraits) * eager[index] / whole
    return weights


def mouth_is_open(crop: Path) -> bool:
    """What the landmarks said when this crop was made; False where nothing is known."""
    return float(_mark_of(crop, MOUTH) or 0) > OPEN_MOUTH


class Portraits:
    """Aligned portraits, drawn without end: each once an epoch, in an order of its own every epoch.

    With `weights`, one number per portrait, each as often as its weight says: w times an epoch when their mean is 1,
    rounded up or down by chance.

    What is drawn depends on `seed`, `processes` and the number drawn so far, on nothing else: processes never
    draw the same, and a run that goes on draws what it would have drawn. With `flip`, a fair coin mirrors each picture
    drawn. Crops up to 2 GiB are read once and kept; others are read as they are drawn.
    """

    def __init__(
        self,
        portraits: Sequence[Portrait],
        size: int,
        *,
        seed: int = 0,
        processes: Processes | None = None,
        flip: bool = False,
        weights: Sequence[float] | None = None,
        device: torch.device | str = "cpu",
        memory_bytes: int = MEMORY_BYTES,
    ):
        if not portraits:
            raise TrainingError("There are no portraits to train on.")
        self.portraits, self.size, self.flip = tuple(portraits), size, flip
        self.names = tuple(portrait.name for portrait in self.portraits)
        self.seed, self.processes, self.device = seed, processes or Processes(), torch.device(device)
        self.weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        self.drawn = 0
        self._epoch: tuple[int, list[int], list[bool]] | None = None
        self._kept = None
        if len(self.portraits) * 3 * size * size <= memory_bytes:
            self._kept = self._read(range(len(self.portraits)))

    def __len__(self) -> int:
        return len(self.portraits)

    def next(self, count: int) -> Tensor:
        """The next `count` pictures of this process, (count, 3, size, size), float in [-1, 1]."""
        return self.pictures(*self.next_indices(count))

    def next_indices(self, count: int) -> tuple[list[int], list[bool]]:
        """Which portraits come next for this process, and which of them mirrored: what `pictures` takes."""
        first, step = self.processes.rank, self.processes.count
        drawn = [self._at(first + i * step) for i in range(self.drawn, self.drawn + count)]
        self.drawn += count
        return [index for index, _ in drawn], [mirrored for _, mirrored in drawn]

    def pictures(self, indices: Sequence[int], mirrored: Sequence[bool] | None = None) -> Tensor:
        """Portraits by index, (len(indices), 3, size, size), float in [-1, 1], channels last."""
        pixels = self._read(indices) if self._kept is None else self._kept[list(indices)]
        images = to_device(pixels, self.device, memory_format=torch.channels_last).float().div_(127.5).sub_(1)
        if mirrored is not None and any(mirrored):
            mask = to_device(torch.tensor(mirrored), self.device)[:, None, None, None]
            images = torch.where(mask, images.flip(3), images)
        return images

    def first(self, count: int) -> Tensor:
        """The first `count` portraits by name, fewer where there are fewer, unmirrored."""
        return self.pictures(range(min(count, len(self))))

    def batches(self, count: int) -> Iterator[Tensor]:
        """Every portrait once, in order of names, unmirrored, `count` at a time."""
        for start in range(0, len(self), count):
            yield self.pictures(range(start, min(start + count, len(self))))

    def state_dict(self) -> dict[str, int]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.drawn = state["drawn"]

    def _at(self, position: int) -> tuple[int, bool]:
        """Index and mirroring at a position of the endless sequence that all processes share."""
        epoch, place = divmod(position, len(self))
        if self._epoch is None or self._epoch[0] != epoch:
            digest = hashlib.sha256(f"{self.seed}/portraits/{epoch}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            order = torch.randperm(len(self), generator=generator)
            if self.weights is not None:
                order = order[_evenly_by_weight(self.weights[order], generator)]
                order = order[torch.randperm(len(self), generator=generator)]
            mirrored = torch.rand(len(self), generator=generator) < 0.5
            self._epoch = epoch, order.tolist(), mirrored.tolist()
        return self._epoch[1][place], self.flip and self._epoch[2][place]

    def _read(self, indices: Sequence[int]) -> Tensor:
        """uint8 (len(indices), 3, size, size)."""
        paths = [self.portraits[index].path for index in indices]
        with uninterrupted(), ThreadPoolExecutor(4) as readers:
            pixels = list(readers.map(lambda path: from_tensor(load_portrait(path, self.size)), paths))
        return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)


def _evenly_by_weight(weights: Tensor, generator: torch.Generator) -> Tensor:
    """As many indices as there are weights, each as often as its weight says, rounded up or down: a comb with one tooth
    for every index to be drawn, laid by chance over the weights end to end."""
    ends = weights.cumsum(0) / weights.sum()
    teeth = (torch.arange(len(weights), dtype=torch.float64) + torch.rand((), generator=generator)) / len(weights)
    return torch.searchsorted(ends, teeth, right=True).clamp(max=len(weights) - 1)
