"""Films whose motion is known exactly, drawn from the reference photos: people cut out and moved over a background.

    frames = list(pan(Cast()).frames())

A film is drawn again each time it is read: nothing is kept but the photos. Frames are uint8 (H, W, 3) RGB; points are
(x, y), pixel centres at integers. Matrices (3, 3) are similarities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from reference import PHOTOS
from scipy.interpolate import LinearNDInterpolator
from scipy.ndimage import gaussian_filter1d, label
from torch.nn.functional import grid_sample

from dualstylegan.faces.face import LEFT_EYE, NOSE_BASE, RIGHT_EYE, crop_side_px, ffhq_matrix, transform
from dualstylegan.faces.find import EmbeddedDetector
from dualstylegan.faces.masks import head_outline

SAMPLES = Path(__file__).parents[1] / "data" / "photos"  # of the repository
SIZE = (640, 360)  # width, height; px
SIDE = 190.0  # px of the frame that the side of a face's aligned crop spans, unless a film says otherwise
RATE = 25  # frames/s
LENGTH = 60  # frames


@dataclass
class Person:
    """One sitter, photographed twice. `points` (68, 2) in the pixels of the neutral photo, `smiling_points` in those
    of the smiling photo, which has been laid over the neutral one by the eyes and the nose."""

    name: str
    neutral: np.ndarray
    smiling: np.ndarray
    points: np.ndarray
    smiling_points: np.ndarray

    @cached_property
    def crop_from_photo(self) -> np.ndarray:
        return ffhq_matrix(self.points)

    @cached_property
    def matte(self) -> np.ndarray:
        """(H, W) float32 in [0, 1]: head and shoulders, their edge soft."""
        photo_from_crop = np.linalg.inv(self.crop_from_photo)
        height, width = self.neutral.shape[:2]
        canvas = Image.new("L", (width, height))
        draw = ImageDraw.Draw(canvas)
        head = transform(photo_from_crop, head_outline(transform(self.crop_from_photo, self.points)))
        draw.polygon([tuple(xy) for xy in head], fill=255)
        chin, side = self.points[8], crop_side_px(self.crop_from_photo)
        body = chin + side * np.array([[-0.2, -0.15], [0.2, -0.15], [0.24, 0.1], [0.85, 0.4], [0.95, 2], [-0.95, 2],
                                       [-0.85, 0.4], [-0.24, 0.1]])  # fmt: skip
        draw.polygon([tuple(xy) for xy in body], fill=255)
        canvas.paste(0, mask=Image.fromarray(self._backdrop))
        return np.asarray(canvas.filter(ImageFilter.GaussianBlur(0.02 * side)), np.float32) / 255

    @cached_property
    def _backdrop(self) -> np.ndarray:
        """(H, W) bool: the bright grey around the head, as far as it reaches down from the photo's upper edge."""
        grey = (self.neutral.min(-1) > 110) & (np.ptp(self.neutral, axis=-1) < 14)
        grey[int(self.points[8, 1]) :] = False  # below the chin a white shirt may touch it
        parts, _ = label(grey)
        return (parts > 0) & np.isin(parts, np.unique(parts[0]))

    def at(self, smile: float) -> np.ndarray:
        """The photo (H, W, 3) at a smile from 0 to 1: both photos bent to the shape in between, and mixed."""
        if smile <= 0:
            return self.neutral
        height, width = self.neutral.shape[:2]
        frame = np.array([[x, y] for x in (0, 0.5, 1) for y in (0, 0.5, 1) if (x, y) != (0.5, 0.5)]) * (width, height)
        # A ring around the face stays where it is, so that hair and collar do not stretch
        center = self.points.mean(0)
        ring = center + 1.9 * (self.points[:17] - center)
        fixed = np.concatenate([frame, ring])
        between = (1 - smile) * self.points + smile * self.smiling_points
        rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
        mixed = np.zeros(self.neutral.shape, np.float32)
        for photo, points, part in (
            (self.neutral, self.points, 1 - smile),
            (self.smiling, self.smiling_points, smile),
        ):
            shift = np.concatenate([np.zeros_like(fixed), points - between])
            bend = LinearNDInterpolator(np.concatenate([fixed, between]), shift, fill_value=0.0)(columns, rows)
            mixed += part * _sample(photo, columns + bend[..., 0], rows + bend[..., 1])
        return np.clip(mixed + 0.5, 0, 255).astype(np.uint8)


class Cast:
    """Sitters by number, their landmarks found once. Without the reference photos those of the repository play: enough
    to tell how fast a film is, but they cannot smile."""

    def __init__(self, folder: Path = PHOTOS):
        self.folder = folder
        self.detector = EmbeddedDetector()
        self.numbers = sorted(file.name[:3] for file in (folder / "frl_london_neutral").glob("*.jpg"))
        self.can_smile = bool(self.numbers)
        if not self.can_smile:
            self.numbers = sorted(file.stem for file in SAMPLES.glob("congress_*.jpg"))
        self._known: dict[str, Person] = {}

    def __getitem__(self, index: int) -> Person:
        number = self.numbers[index if self.can_smile else index % len(self.numbers)]
        if number not in self._known:
            self._known[number] = self._photograph(number)
        return self._known[number]

    def _photograph(self, number: str) -> Person:
        files = [self.folder / "frl_london_neutral" / f"{number}_03.jpg"]
        files += [self.folder / "frl_london_smiling" / f"{number}_08.jpg"]
        if not self.can_smile:
            files = [SAMPLES / f"{number}.jpg"] * 2
        photos = [np.asarray(Image.open(file).convert("RGB")) for file in files]
        points, smiling_points = (faces[0].points.astype(np.float64) for faces in self.detector.find(photos))
        rigid = [*range(*LEFT_EYE.indices(68)), *range(*RIGHT_EYE.indices(68)), 27, 28, NOSE_BASE]
        over = similarity_between(smiling_points[rigid], points[rigid])
        height, width = photos[0].shape[:2]
        rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
        back = transform(np.linalg.inv(over), np.stack([columns, rows], -1))
        smiling = np.clip(_sample(photos[1], back[..., 0], back[..., 1]) + 0.5, 0, 255).astype(np.uint8)
        return Person(number, photos[0], smiling, points, transform(over, smiling_points))


@dataclass
class Role:
    """A person in a film: `frame_from_photo` (frames, 3, 3), `smile` (frames,) in [0, 1]; later ones stand in front."""

    person: Person
    frame_from_photo: np.ndarray
    smile: np.ndarray
    absent: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))  # (frames,) where the person is not there

    def crop_from_frame(self, index: int) -> np.ndarray:
        """Where the neutral face's aligned crop truly is."""
        return self.person.crop_from_photo @ np.linalg.inv(self.frame_from_photo[index])

    def is_there(self, index: int) -> bool:
        return not (len(self.absent) and self.absent[index])


@dataclass
class DrawnFilm:
    """`roles` from the back to the front. `background` (3, 3) for each frame: frame pixels from scene pixels."""

    name: str
    roles: list[Role]
    background: np.ndarray
    scene: np.ndarray
    noise: float = 0.0  # standard deviation, levels of 255
    gain: np.ndarray | None = None  # (frames,) exposure
    scenes: Sequence[tuple[int, np.ndarray]] = ()  # from which frame on another scene
    size: tuple[int, int] = SIZE
    seed: int = 0
    bars: list[tuple[int, int, int, int]] = field(default_factory=list)  # (first, last frame, x1, x2): a post in front

    def __len__(self) -> int:
        return len(self.background)

    @property
    def cuts(self) -> tuple[int, ...]:
        return tuple(first for first, _ in self.scenes)

    def frames(self) -> Iterator[np.ndarray]:
        return (self.frame(index) for index in range(len(self)))

    def frame(self, index: int) -> np.ndarray:
        scene = next((scene for first, scene in reversed(self.scenes) if index >= first), self.scene)
        picture = _warp(scene, self.background[index], self.size)
        for role in self.roles:
            if role.is_there(index):
                photo = role.person.at(float(role.smile[index]))
                layer = np.dstack([photo.astype(np.float32), 255 * role.person.matte])
                layer = _warp(layer, role.frame_from_photo[index], self.size, outside=0.0)
                alpha = layer[..., 3:] / 255
                picture = picture + alpha * (layer[..., :3] - picture)
        for first, last, x1, x2 in self.bars:
            if first <= index <= last:
                picture[:, x1:x2] = (70, 90, 60)
        if self.gain is not None:
            picture = picture * self.gain[index]
        if self.noise:
            picture = picture + np.random.default_rng((self.seed, index)).normal(0, self.noise, picture.shape)
        return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


# --- the films


def still(cast: Cast, who: int = 3, length: int = LENGTH) -> DrawnFilm:
    """A photo, repeated."""
    return _one_person("still", cast, who, length)


def pan(cast: Cast, who: int = 3, length: int = LENGTH) -> DrawnFilm:
    """The camera sweeps past: up to 6 px a frame, starting and stopping softly."""
    x = 250 * _ease(np.linspace(0, 1, length)) - 125
    return _one_person("pan", cast, who, length, x=-x, y=0.15 * x)


def zoom(cast: Cast, who: int = 4, length: int = LENGTH) -> DrawnFilm:
    return _one_person("zoom", cast, who, length, scale=1.5 ** _ease(np.linspace(0, 1, length)))


def rotation(cast: Cast, who: int = 5, length: int = LENGTH) -> DrawnFilm:
    """A head that leans from one side to the other, 15° each."""
    return _one_person("rotation", cast, who, length, degrees=15 * np.sin(np.linspace(0, 2 * np.pi, length)))


def handheld(cast: Cast, who: int = 6, length: int = LENGTH, noise: float = 2.0) -> DrawnFilm:
    """A camera in a hand: a tremor of some pixels up to about 6 Hz, half a degree, one per cent."""
    rng = np.random.default_rng(6)

    def tremor(amount: float) -> np.ndarray:
        walk = gaussian_filter1d(rng.normal(size=length + 40), 1.3) + 3 * gaussian_filter1d(
            rng.normal(size=length + 40), 6
        )
        walk = walk[20:-20]
        return amount * (walk - walk.mean()) / walk.std()

    return _one_person("hand-held", cast, who, length, x=tremor(4), y=tremor(3), degrees=tremor(0.5),
                       scale=np.exp(tremor(0.006)), noise=noise)  # fmt: skip


def noise(cast: Cast, who: int = 7, length: int = LENGTH) -> DrawnFilm:
    """A sitter who holds still before a poor camera."""
    return _one_person("noise", cast, who, length, noise=6.0)


def exposure(cast: Cast, who: int = 8, length: int = LENGTH) -> DrawnFilm:
    """Light that comes and goes by a third."""
    gain = 1 + 0.33 * np.sin(np.linspace(0, 2 * np.pi, length))
    return _one_person("exposure", cast, who, length, gain=gain, noise=1.5)


def smile(cast: Cast, who: int = 9, length: int = LENGTH) -> DrawnFilm:
    """A smile that comes within 10 frames, stays and goes, twice."""
    at = np.arange(length) / length
    amount = (
        _ease((at - 0.1) / 0.17) - _ease((at - 0.38) / 0.17) + _ease((at - 0.62) / 0.12) - _ease((at - 0.82) / 0.12)
    )
    return _one_person("smile", cast, who, length, smile=amount, noise=1.5)


def speech(cast: Cast, who: int = 15, length: int = LENGTH) -> DrawnFilm:
    """A mouth that opens and closes four times a second."""
    amount = 0.5 - 0.5 * np.cos(2 * np.pi * 4 / RATE * np.arange(length))
    return _one_person("speech", cast, who, length, smile=amount, noise=1.5)


def crossing(cast: Cast, who: tuple[int, int] = (10, 14), length: int = LENGTH) -> DrawnFilm:
    """Two people change places; the one behind is hidden for some frames."""
    x = 170 * (1 - 2 * _ease(np.linspace(-0.1, 1.1, length)))
    back = _role(cast[who[0]], length, x=-x, y=0 * x - 8, scale=0.9)
    front = _role(cast[who[1]], length, x=x, y=0 * x + 10, scale=1.1)
    return DrawnFilm("crossing", [back, front], np.stack([np.eye(3)] * length), _scenery(3), noise=1.5)


def cut(cast: Cast, who: tuple[int, int] = (11, 12), length: int = LENGTH) -> DrawnFilm:
    """One sitter, then from the middle on another, elsewhere."""
    middle = length // 2
    times = np.arange(length)
    first = _role(cast[who[0]], length, x=-90 + 0.8 * times, absent=times >= middle)
    second = _role(cast[who[1]], length, x=100 - 0.8 * times, scale=1.3, absent=times < middle)
    steady = np.stack([np.eye(3)] * length)
    return DrawnFilm("cut", [first, second], steady, _scenery(4), noise=1.5, scenes=[(middle, _scenery(5))])


def post(cast: Cast, who: int = 13, length: int = LENGTH, hidden: int = 10) -> DrawnFilm:
    """Somebody walks behind a post and is hidden by it for `hidden` frames."""
    film = _one_person("post", cast, who, length, x=5.0 * (np.arange(length) - length // 2), noise=1.5)
    first = (length - hidden) // 2
    film.bars.append((first, first + hidden - 1, SIZE[0] // 2 - 140, SIZE[0] // 2 + 140))
    return film


FILMS: dict[str, Callable[[Cast], DrawnFilm]] = {
    build.__name__: build
    for build in (still, pan, zoom, rotation, handheld, noise, exposure, smile, speech, crossing, cut, post)
}


def _one_person(
    name: str, cast: Cast, who: int, length: int, *, smile=0.0, noise=0.0, gain=None, **motion
) -> DrawnFilm:
    """The camera moves: the scene moves as the person does."""
    role = _role(cast[who], length, smile=smile, **motion)
    first = np.linalg.inv(_role(cast[who], 1).frame_from_photo[0])
    return DrawnFilm(name, [role], role.frame_from_photo @ first, _scenery(who), noise, gain, seed=who)


def _role(person: Person, length: int, *, x=0.0, y=0.0, scale=1.0, degrees=0.0, smile=0.0, absent=None) -> Role:
    """The face's crop around the frame's middle, moved by (x, y) px, times `scale`, turned by `degrees` clockwise."""
    center = transform(np.linalg.inv(person.crop_from_photo), np.array([0.5, 0.5]))
    side = crop_side_px(person.crop_from_photo)
    x, y, scale, degrees, smile = (np.broadcast_to(v, length).astype(float) for v in (x, y, scale, degrees, smile))
    matrices = np.stack([np.eye(3)] * length)
    turn = scale * SIDE / side * np.exp(1j * np.deg2rad(degrees))
    matrices[:, 0, 0] = matrices[:, 1, 1] = turn.real
    matrices[:, 1, 0], matrices[:, 0, 1] = turn.imag, -turn.imag
    place = np.stack([SIZE[0] / 2 + x, SIZE[1] / 2 + y], 1)
    matrices[:, :2, 2] = place - matrices[:, :2, :2] @ center
    return Role(person, matrices, smile, np.zeros(length, bool) if absent is None else absent)


def _ease(t: np.ndarray) -> np.ndarray:
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def _scenery(seed: int) -> np.ndarray:
    """Something to stand before, larger than the frame: blotches with edges, in every film others."""
    rng = np.random.default_rng((seed, 77))
    width, height = SIZE
    coarse = Image.fromarray(rng.integers(70, 186, (6, 10, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    draw = ImageDraw.Draw(coarse)
    for _ in range(40):
        x, y = rng.integers(0, (width, height))
        w, h = rng.integers(15, 120, 2)
        draw.rectangle([x, y, x + w, y + h], fill=tuple(int(v) for v in rng.integers(60, 200, 3)))
    return np.asarray(coarse.filter(ImageFilter.GaussianBlur(1.5)))


def similarity_between(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The similarity (3, 3) that takes points (n, 2) to others with the least squared error (Umeyama 1991)."""
    a, b = (points @ (1, 1j) for points in (source, target))
    turn = np.vdot(a - a.mean(), b - b.mean()) / np.vdot(a - a.mean(), a - a.mean()).real
    shift = b.mean() - turn * a.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag], [0, 0, 1]])


def _warp(picture: np.ndarray, frame_from_picture: np.ndarray, size: tuple[int, int], outside: float | None = None):
    """The picture (H, W, C) seen in a frame of `size`, float32, antialiased; mirrored outside it, or `outside`."""
    shrink = 1 / np.hypot(*frame_from_picture[:2, 0])
    if shrink > 1.2:  # a little finer than wanted; the warp does the rest
        height, width = (max(1, round(side / shrink * 1.1)) for side in picture.shape[:2])
        planes = torch.from_numpy(np.ascontiguousarray(picture, np.float32)).movedim(-1, 0)[None]
        small = torch.nn.functional.interpolate(planes, (height, width), mode="bicubic", antialias=True)
        factor = np.array([width / picture.shape[1], height / picture.shape[0]])
        to_small = np.diag([*factor, 1.0])
        to_small[:2, 2] = (factor - 1) / 2
        picture = small[0].movedim(0, -1).numpy()
        frame_from_picture = frame_from_picture @ np.linalg.inv(to_small)
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]].astype(np.float64)
    back = transform(np.linalg.inv(frame_from_picture), np.stack([columns, rows], -1))
    return _sample(picture, back[..., 0], back[..., 1], outside)


def _sample(picture: np.ndarray, x: np.ndarray, y: np.ndarray, outside: float | None = None) -> np.ndarray:
    """Bicubic samples, float32 (..., C)."""
    height, width = picture.shape[:2]
    planes = torch.from_numpy(np.ascontiguousarray(picture, np.float32)).movedim(-1, 0)[None]
    grid = torch.from_numpy(np.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1).astype(np.float32))
    padding = "reflection" if outside is None else "zeros"
    sampled = grid_sample(planes, grid[None], mode="bicubic", padding_mode=padding, align_corners=False)
    return np.clip(sampled[0].movedim(0, -1).numpy(), 0, 255)
