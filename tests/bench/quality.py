"""Do the embedded models do what they are for? A base and its styles on photos of people they have never seen.

    python tests/bench/quality.py                                         # the embedded base and styles
    python tests/bench/quality.py --base runs/mini --style runs/toon --json figures.json --sheets sheets/
    python tests/bench/quality.py --style toon --results vtoonify/        # beside another system's pictures
    python tests/bench/quality.py --limited runs/sixteen-08 runs/sixteen-02 --sheets sheets/

The photos: the first list is the 64 that recipe `mini` holds out of $DSG_SHARED/facedata/photos (by default
../shared/facedata beside the checkout), the second one what `mini256` holds out of `photos2`: other kinds of people.
A style's portraits are the thumbnails in it. Beside DualStyleGAN stand two who must fail, the exemplar and the photo,
unchanged, and what the style's fine-tuned g' does alone: layer swap and style mixing. g' is looked for in the style's
run folder; without it these two columns are left out. Few-shot adaptation (Ojha et al. 2021) is a g' fine-tuned with
finetune.correspondence, in the run NAME-adapted beside the style's:

    dsg train toon --data TOONS --run runs/toon-adapted --set finetune.correspondence=1000 --stage data
    dsg train runs/toon-adapted/recipe.toml --stage finetune

--results DIR gives another system the same row. DIR holds its pictures, PHOTO--EXEMPLAR.png: what it made of a photo of
the lists in an exemplar of the style. PHOTO is the photo's name without folders and suffix, EXEMPLAR its number in the
style or its name, the picture the aligned crop (`dsg align` cuts them), square, of any size. All are then judged by
these pairs.

Who judges: the identity net and MobileNetV2's features (KID, textures) also trained these models, as losses, and where
a recipe has transfer.projected a discriminator looked through the very features that KID compares. The 68-landmark net
(shapes, head yaw, eyes) trained nothing, nor did colours in Lab and pixels (blends): they are the impartial ones.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from baselines import mix_styles, swap_layers
from held_out import first_list, person_of_photo, second_list
from measures import (
    EYE_REGION,
    EYES,
    chroma,
    color_distances,
    color_statistics,
    correlation,
    distances,
    eye_area,
    eyes_unlike,
    fine_energy,
    grams,
    kernel_distance,
    largest_step,
    one_sided,
    shapes,
    share_among_nearest,
    share_first,
    way_gone,
    yaw,
)
from reference import need_photos
from torch import Tensor

from dualstylegan.choices import TRUNCATION
from dualstylegan.errors import DualStyleGANError, UsageError
from dualstylegan.faces.crop import crop_face
from dualstylegan.faces.face import mouth_opening
from dualstylegan.faces.find import EmbeddedDetector
from dualstylegan.faces.landmarks import find_landmarks
from dualstylegan.faces.masks import MASK_SIZE, draw_mask
from dualstylegan.media.images import from_tensor, read_picture, to_tensor, write_picture
from dualstylegan.media.paths import kind_of
from dualstylegan.media.sheets import contact_sheet, strip
from dualstylegan.models.base import Base
from dualstylegan.models.bundle import read_header
from dualstylegan.models.cache import EMBEDDED
from dualstylegan.models.codes import Exemplars
from dualstylegan.models.library import load_base, load_style
from dualstylegan.models.style import Style
from dualstylegan.networks.stylegan2 import Generator
from dualstylegan.stylizing.stylizer import choose_weights
from dualstylegan.training.data import INDEX
from dualstylegan.training.perception import load_perception
from dualstylegan.training.portraits import resized
from dualstylegan.training.run import RunFolder
from dualstylegan.weights import load_landmarks68, load_mobilenet

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = Path(os.environ.get("DSG_SHARED", ROOT.parent / "shared")) / "facedata" / "photos"

SEED = 1
EXEMPLARS = 4  # styles each photo is drawn in
FAST_PHOTOS = 16
BATCH = 16
KID_LAYER = "relu5_1"  # the expansion of MobileNetV2's block 11, stride 16, mean over the picture: 384 numbers
TEXTURE_LAYERS = ("relu1_1", "relu2_1")  # its stem and the expansion of block 2: lines of a few pixels
NEARLY_GREY = 8  # mean chroma in Lab below which a style's portraits are told apart by texture, not by colour
READABLE = 0.9  # share of a style's portraits in which a face is found from which on identity must survive, too
CARTOONS = ("toon",)  # styles of which no likeness is asked: detectors read these heads, identity is only looked at
BIG_EYES = 1.25  # how much larger a style's eyes are than the photos', from which on they must grow
STRUCTURE = (0.0, 0.25, 0.5, 0.75, 1.0)
BLEND_STEPS, BLENDS = 9, 16

# Where a detector would see the face in an aligned crop, and its eyes: landmarks are read even where none would find it
FACE_CENTER, FACE_SIDE = (0.5, 0.57), 0.58
SHARP_PX = 256  # the size at which pictures are as sharp as they are

FIRST, SECOND = "first", "second"  # the two lists of photos

OURS, EXEMPLAR, PHOTO, SWAP, MIXING = "DualStyleGAN", "exemplar", "photo", "layer swap", "style mixing"
ADAPTATION = "few-shot adaptation"
MUST_FAIL = (EXEMPLAR, PHOTO)

# ------------------------------------------------------------------------------------------------------------- goals


@dataclass(frozen=True)
class Goal:
    """A figure's key, what it is, and what it should be at most or at least; None: only to be looked at."""

    key: str
    what: str
    at_most: float | None = None
    at_least: float | None = None
    percent: bool = False

    def met(self, figure: float | None) -> bool | None:
        """None where there is nothing to meet, or no figure."""
        if figure is None or (self.at_most is None and self.at_least is None):
            return None
        return figure <= self.at_most if self.at_most is not None else figure >= self.at_least

    @property
    def wanted(self) -> str:
        if self.at_most is None and self.at_least is None:
            return ""
        sign, limit = ("<=", self.at_most) if self.at_most is not None else (">=", self.at_least)
        return f"{sign} {self.show(limit)}"

    def show(self, figure: float | None) -> str:
        if figure is None:
            return "-"
        return f"{figure:.1%}" if self.percent else f"{figure:.3f}".rstrip("0").rstrip(".") if figure else "0"


def base_goals(size: int, people: str) -> tuple[Goal, ...]:
    """The goals of a base of `size` px on the people of a list. The older base of 128 px has goals of its own."""
    small, known = size < SHARP_PX, people == FIRST
    face = 0.10 if small else 0.085 if known else 0.11
    identity = 0.5 if small else 0.92 if known else 0.75

    def new(goal: Goal) -> Goal:
        return Goal(goal.key, goal.what, percent=goal.percent) if small else goal

    return (
        Goal("trained_on", "of these people, it was trained on", at_most=0),
        Goal("reconstruction_l1", "reconstruction L1, of [-1, 1], inside the face mask", at_most=face),
        Goal("identity_first", "identity net finds the right photo of all first", at_least=identity, percent=True),
        Goal("shape_first", "landmarks find the right photo of all first", percent=True),
        new(Goal("mouth", "mouth opening, correlation with the photo's", at_least=0.85)),
        new(Goal("yaw", "head yaw, correlation with the photo's", at_least=0.95)),
        new(Goal("eyes_unlike", "the two eyes' unlikeness, x the photos'", at_most=1.1)),
        new(Goal("eyes_one_sided", "eyes' contrast, left over right, off the photos' by", at_most=0.03, percent=True)),
        new(Goal("sharpness", "fine detail in the face at 256 px, x the photos'", at_least=0.7)),
        Goal("samples_found", "random samples in which a face is found", percent=True),
    )


def style_goals(readable: bool, grey: bool, big_eyes: bool) -> tuple[Goal, ...]:
    """The goals of a style. `readable`: a detector finds faces in its portraits, so identity is judged too."""
    # what landmarks can do: photos blurred to 64 px and back find themselves in 94 % of cases, to 32 px in 34 %
    by_color = Goal("color_near", "given exemplar among the nearest 10 % by colour", percent=True)
    by_texture = Goal("texture_near", "given exemplar among the nearest 10 % by texture", percent=True)
    identity = Goal("identity_first", "identity net finds the right photo of all first", percent=True)
    near = Goal("structure_nearer", "structure 0 -> 1: pictures nearer to the exemplar", percent=True)
    near_by_texture = Goal("structure_texture", "structure 0 -> 1: nearer to the exemplar by texture", percent=True)
    eyes = Goal("eyes_grow", "structure 0 -> 1: the eyes' area grows by the factor")
    return (
        Goal("kid_ratio", "KID to the style's portraits, of that of the photos", at_most=0.5),
        _at_least(by_texture if grey else by_color, 0.5),
        by_color if grey else by_texture,
        _at_least(identity, 0.25) if readable else identity,
        Goal("shape_first", "landmarks find the right photo of all first", at_least=0.10, percent=True),
        Goal("shape_first_centred", "  the same, each set about its own mean shape", percent=True),
        Goal("yaw", "head yaw, correlation with the photo's", at_least=0.5),
        Goal("mouth", "mouth opening, correlation with the photo's"),
        Goal("eyes_unlike", "the two eyes' unlikeness, x the photos'"),
        _at_least(near_by_texture if grey else near, 0.9),
        near if grey else near_by_texture,
        Goal("structure_way", "  by this share of their perceptual distance", percent=True),
        Goal("structure_shape", "structure 0 -> 1: nearer to the exemplar by landmarks", percent=True),
        _at_least(eyes, 1.1) if big_eyes else eyes,
        Goal("eyes_way", "  share of the way of the eyes' pixels to the exemplar's", percent=True),
        Goal("blend_step", "largest of 8 steps of a blend, of the whole way", at_most=0.25),
        Goal("blend_step_seen", "  the same by perceptual distances, which saturate"),
    )


def _at_least(goal: Goal, limit: float) -> Goal:
    return Goal(goal.key, goal.what, at_least=limit, percent=goal.percent)


Figures = dict[str, float]


def missed(goals: Sequence[Goal], figures: Figures) -> list[str]:
    return [goal.key for goal in goals if goal.met(figures.get(goal.key)) is False]


# ------------------------------------------------------------------------------------------------------------ judges


class Judges:
    """What looks at pictures. All take (N, 3, S, S) in [-1, 1] of any size, N of any number."""

    def __init__(self):
        self.perception = load_perception("mobilenet", "embedded")
        self.detector = EmbeddedDetector(tilts=())
        self._mobilenet, self._landmarks = load_mobilenet(), load_landmarks68()

    @torch.no_grad()
    def identities(self, images: Tensor) -> np.ndarray:
        """(N, 128), unit vectors."""
        return _in_batches(self.perception.identity, images).double().numpy()

    @torch.no_grad()
    def pooled(self, images: Tensor) -> np.ndarray:
        """(N, 384): the means of KID_LAYER."""
        look = lambda part: self._mobilenet(part, (KID_LAYER,))[KID_LAYER].mean((2, 3))  # noqa: E731
        return _in_batches(look, images).double().numpy()

    @torch.no_grad()
    def textures(self, images: Tensor, mask: Tensor) -> np.ndarray:
        found = [self._mobilenet(part, TEXTURE_LAYERS) for part in images.split(BATCH)]
        return grams([torch.cat([maps[layer] for maps in found]) for layer in TEXTURE_LAYERS], mask)

    @torch.no_grad()
    def apart(self, a: Tensor, b: Tensor) -> np.ndarray:
        """Perceptual distances (N,): the root of LPIPS's formula, so that steps along a line add up."""
        pairs = zip(a.split(BATCH), b.split(BATCH), strict=True)
        return torch.cat([self.perception.lpips(x, y) for x, y in pairs]).clamp_min(0).sqrt().double().numpy()

    def points(self, images: Tensor) -> np.ndarray:
        """Landmarks (N, 68, 2) in the unit crop, of the face that an aligned crop must hold."""
        size = images.shape[-1]
        low, high = np.array(FACE_CENTER) - FACE_SIDE / 2, np.array(FACE_CENTER) + FACE_SIDE / 2
        box, five = np.concatenate([low, high]) * size, np.array([*EYES, (0.5, 0.6), (0.4, 0.74), (0.6, 0.74)]) * size
        pictures = list(from_tensor(images))
        found = find_landmarks(self._landmarks, pictures, [five - 0.5] * len(images), [box - 0.5] * len(images))
        return (np.stack(found) + 0.5) / size

    def found(self, images: Tensor) -> float:
        """The share of pictures in which a face is found."""
        return float(np.mean([bool(faces) for faces in self.detector.find(list(from_tensor(images)))]))


def _in_batches(compute: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return torch.cat([compute(part) for part in images.split(BATCH)])


def mask_at(kind: str, points: np.ndarray, size: int) -> Tensor:
    """The paste mask (size, size) of a face with these landmarks (68, 2) in the unit crop."""
    mask = torch.from_numpy(draw_mask(kind, points))[None, None]
    return torch.nn.functional.adaptive_avg_pool2d(mask, size)[0, 0] if size <= MASK_SIZE else resized(mask, size)[0, 0]


def eye_regions(size: int) -> Tensor:
    at = (torch.arange(size) + 0.5) / size
    regions = torch.zeros(size, size)
    for x, y in EYES:
        regions += ((at - y).abs() < EYE_REGION[1])[:, None] * ((at - x).abs() < EYE_REGION[0])[None]
    return regions


# ------------------------------------------------------------------------------------------------------------- photos


@dataclass
class Photos:
    """The held-out photos, read and found once; crops and what judges say of them, at any model's size."""

    names: list[str]
    pictures: list[np.ndarray]
    matrices: list[np.ndarray]  # crop_from_photo of each
    judges: Judges
    people: str = FIRST
    _seen: dict[int, Seen] = field(default_factory=dict)

    @classmethod
    def read(cls, files: Mapping[str, Path], judges: Judges, count: int | None = None, people: str = FIRST) -> Photos:
        """Of a list's photos {name: file} the first `count`, or all."""
        names = list(files)[:count]
        pictures = [read_picture(files[name]).pixels for name in names]
        found = judges.detector.find(pictures)
        for name, faces in zip(names, found, strict=True):
            if not faces:
                sys.exit(f"{name}: no face was found in this held-out photo; nothing can be measured.")
        matrices = [max(faces, key=lambda face: face.width).crop_from_photo for faces in found]
        return cls(names, pictures, matrices, judges, people)

    def __len__(self) -> int:
        return len(self.names)

    def crops(self, size: int) -> Tensor:
        pairs = zip(self.pictures, self.matrices, strict=True)
        return torch.stack([crop_face(picture, matrix, size) for picture, matrix in pairs])

    def at(self, size: int) -> Seen:
        if size not in self._seen:
            self._seen[size] = Seen.by(self.judges, self.crops(size))
        return self._seen[size]


@dataclass
class Seen:
    """Photos at one size, and what the judges see in them."""

    images: Tensor
    identities: np.ndarray
    points: np.ndarray
    pooled: np.ndarray

    @classmethod
    def by(cls, judges: Judges, images: Tensor) -> Seen:
        return cls(images, judges.identities(images), judges.points(images), judges.pooled(images))

    @cached_property
    def shapes(self) -> np.ndarray:
        return shapes(self.points)


def trained_on(base: Base, photos: Photos) -> int | None:
    """How many pictures of these people the base was trained on; None where nothing is known.

    By the list in its run's folder; by the held-out photos its header names where it was taken out of its run.
    """
    index = (base.folder or Path()).parent / "stages" / "data" / INDEX
    people = {person_of_photo(name) for name in photos.names}
    if index.is_file():
        names = json.loads(index.read_text(encoding="utf-8"))["training"]
        return sum(person_of_photo(name) in people for name in names)
    held_out = base.header.get("held_out")
    return None if held_out is None else len(people - {person_of_photo(name) for name in held_out})


# --------------------------------------------------------------------------------------------------------------- base


@torch.no_grad()
def measure_base(base: Base, photos: Photos) -> tuple[Figures, dict[str, Tensor]]:
    """The figures of a base, and pictures for its sheets."""
    judges, g = photos.judges, base.generator
    seen, sharp = photos.at(g.size), photos.crops(SHARP_PX)
    crops = photos.crops(base.encoder.input_size)
    drawn, mirrored = (draw_again(base, of) for of in (crops, crops.flip(3)))
    masks, sharp_masks = (
        torch.stack([mask_at("face", points, size) for points in seen.points])[:, None] for size in (g.size, SHARP_PX)
    )
    samples = _in_batches(g, base.sample_intrinsic(64, torch.Generator().manual_seed(SEED))).clamp(-1, 1)
    points = judges.points(drawn)
    own = np.arange(len(photos))
    detail = fine_energy(resized(drawn, SHARP_PX), sharp_masks).mean()
    figures = {
        "reconstruction_l1": float(((drawn - seen.images).abs() * masks).sum() / (masks.sum() * 3)),
        "identity_first": share_first(-judges.identities(drawn) @ seen.identities.T, own),
        "shape_first": share_first(distances(shapes(points, seen.points.mean(0)), seen.shapes), own),
        "mouth": correlation(mouth_opening(points), mouth_opening(seen.points)),
        "yaw": correlation(yaw(points), yaw(seen.points)),
        "eyes_unlike": eyes_unlike(drawn) / eyes_unlike(seen.images),
        "eyes_one_sided": one_sided(drawn, mirrored, seen.images),
        "sharpness": float(detail / fine_energy(sharp, sharp_masks).mean()),
        "samples_found": judges.found(samples),
    }
    if (count := trained_on(base, photos)) is not None:
        figures = {"trained_on": float(count)} | figures
    return figures, {"photos": seen.images, "reconstructions": drawn, "samples": samples}


def draw_again(base: Base, crops: Tensor) -> Tensor:
    """What a base makes of faces (N, 3, S, S) at its encoder's size."""
    codes = _in_batches(base.encoder, crops)
    return torch.cat([base.generator(part, space=base.encoder.space) for part in codes.split(BATCH)]).clamp(-1, 1)


# -------------------------------------------------------------------------------------------------------------- styles


class StyleOnPhotos:
    """Draws any of the photos in any exemplar of a style, at the style's default weights, as `dsg stylize` would."""

    def __init__(self, style: Style, photos: Photos):
        if not style.thumbnails:
            sys.exit(f"The style {style.name} has no thumbnails: its portraits are needed as the measure.")
        self.style, self.photos, self.model = style, photos, style.model
        self.size = style.model.size
        header = style.header
        self.weights = choose_weights(header["rows"], header.get("weights"), None, None, None)
        self.truncation = header.get("truncation", TRUNCATION)
        pictures = [to_tensor(np.array(picture)) for picture in style.thumbnails]
        self.portraits = torch.stack([resized(picture[None], self.size)[0] for picture in pictures])
        with torch.no_grad():
            codes = _in_batches(style.encoder, photos.crops(style.encoder.input_size))
            self.codes = codes if style.encoder.space == "w+" else self.model.generator.mapping(codes)
            self.exemplars = self.model.generator.mapping(style.bank.extrinsic)

    @torch.no_grad()
    def draw(self, photo: np.ndarray, exemplar: np.ndarray | Tensor, *, structure: float | None = None) -> Tensor:
        """Pictures (N, 3, S, S), float32, of photos (N,) in exemplars (N,), both by number.

        An exemplar may also be given as W+ codes (N, rows, dim).
        """
        styles = exemplar if isinstance(exemplar, Tensor) else self.exemplars[exemplar]
        settings = {
            "weights": choose_weights(self.model.rows, self.weights, structure, None, None),
            "truncation": self.truncation,
            "intrinsic_space": "w+",
            "extrinsic_space": "w+",
        }
        parts = zip(self.codes[photo].split(BATCH), styles.split(BATCH), strict=True)
        return torch.cat([self.model(own, style, **settings) for own, style in parts]).clamp(-1, 1)

    @torch.no_grad()
    def swap_layers(self, finetuned: Generator) -> Tensor:
        """Each photo: g' shapes under g's textures. Knows no exemplars."""
        return self.adapt(swap_layers(self.model.generator, finetuned))

    @torch.no_grad()
    def adapt(self, finetuned: Generator) -> Tensor:
        """Each photo as g' draws its code. Knows no exemplars."""
        codes = self.codes * self.truncation
        return torch.cat([finetuned(part, space="w+") for part in codes.split(BATCH)]).clamp(-1, 1)

    @torch.no_grad()
    def mix_styles(self, finetuned: Generator, photo: np.ndarray, exemplar: np.ndarray) -> Tensor:
        codes = finetuned.mapping(self.style.bank.plain)[exemplar]
        parts = zip(self.codes[photo].split(BATCH), codes.split(BATCH), strict=True)
        settings = {"truncation": self.truncation, "intrinsic_space": "w+", "extrinsic_space": "w+"}
        return torch.cat([mix_styles(finetuned, own, style, **settings) for own, style in parts]).clamp(-1, 1)


@dataclass
class Pairs:
    """Random pairs of a photo and an exemplar, by number."""

    photo: np.ndarray
    exemplar: np.ndarray

    @classmethod
    def random(cls, photos: int, exemplars: int, each: int = EXEMPLARS) -> Pairs:
        """Every photo with `each` exemplars; every exemplar about as often as any other."""
        rng = np.random.default_rng(SEED)
        turns = [rng.permutation(exemplars) for _ in range(photos * each // exemplars + 1)]
        return cls(np.repeat(np.arange(photos), each), np.concatenate(turns)[: photos * each])

    def __len__(self) -> int:
        return len(self.photo)


def read_results(folder: Path, photos: Photos, exemplars: Exemplars, size: int) -> tuple[Pairs, Tensor, list[str]]:
    """The pairs that another system has drawn, its pictures (N, 3, S, S), and the names of files that are none."""
    by_stem: dict[str, list[int]] = {}
    for number, name in enumerate(photos.names):
        by_stem.setdefault(PurePosixPath(name).stem, []).append(number)
    found, images, others = [], [], []
    for path in sorted(one for one in folder.iterdir() if kind_of(one) == "picture"):
        photo, _, exemplar = path.stem.rpartition("--")
        try:
            (number,) = by_stem.get(photo, [])
            found.append((number, exemplars.index(exemplar)))
        except (ValueError, UsageError):
            others.append(path.name)
            continue
        images.append(resized(to_tensor(read_picture(path).pixels)[None], size))
    photo, exemplar = np.array(found, int).reshape(-1, 2).T
    return Pairs(photo, exemplar), torch.cat(images) if images else torch.zeros(0, 3, size, size), others


@dataclass
class Claims:
    """Pictures (N, 3, S, S) said to be the pairs, and which of them each pair (P,) is: one may stand for several."""

    images: Tensor
    which: np.ndarray

    def __getitem__(self, pair: int) -> Tensor:
        return self.images[self.which[pair]]


class StyleJudge:
    """What is known of a style before anything is drawn: its portraits as judges see them, and its goals."""

    def __init__(self, portraits: Tensor, seen: Seen, judges: Judges, mask: Tensor, likeness: bool = True):
        """`mask` (S, S): where colours and textures are compared. `likeness`: is one asked, where faces are found?"""
        self.portraits, self.seen, self.judges, self.mask = portraits, seen, judges, mask
        self.pooled = judges.pooled(portraits)
        self.colors = color_statistics(portraits, mask)
        self.textures = judges.textures(portraits, mask)
        self.kid_of_photos = kernel_distance(seen.pooled, self.pooled)
        self.readable = likeness and judges.found(portraits[:64]) >= READABLE
        self.grey = chroma(portraits, mask) < NEARLY_GREY
        self.eyes = eye_area(judges.points(portraits)).mean() / eye_area(seen.points).mean()
        self.goals = style_goals(self.readable, self.grey, self.eyes >= BIG_EYES)

    def judge(self, claims: Claims, pairs: Pairs) -> Figures:
        """The figures of pictures that claim to be these pairs."""
        images, which = claims.images, claims.which
        points = self.judges.points(images)[which]
        face_shapes = shapes(points, self.seen.points.mean(0))
        centred = face_shapes - face_shapes.mean(0), self.seen.shapes - self.seen.shapes.mean(0)
        kid = kernel_distance(self.judges.pooled(images)[which], self.pooled)
        color = color_distances(color_statistics(images, self.mask), self.colors)[which]
        texture = distances(self.judges.textures(images, self.mask), self.textures)[which]
        identities = self.judges.identities(images)[which]
        return {
            "kid": kid,
            "kid_ratio": kid / self.kid_of_photos,
            "color_near": share_among_nearest(color, pairs.exemplar),
            "texture_near": share_among_nearest(texture, pairs.exemplar),
            "identity_first": share_first(-identities @ self.seen.identities.T, pairs.photo),
            "shape_first": share_first(distances(face_shapes, self.seen.shapes), pairs.photo),
            "shape_first_centred": share_first(distances(*centred), pairs.photo),
            "yaw": correlation(yaw(points), yaw(self.seen.points)[pairs.photo]),
            "mouth": correlation(mouth_opening(points), mouth_opening(self.seen.points)[pairs.photo]),
            "eyes_unlike": eyes_unlike(images[torch.from_numpy(which)]) / eyes_unlike(self.seen.images[pairs.photo]),
        }


def judge_structure(drawer: StyleOnPhotos, judge: StyleJudge, pairs: Pairs) -> Figures:
    """What the structure weight does between 0 and 1."""
    none, full = (drawer.draw(pairs.photo, pairs.exemplar, structure=weight) for weight in (0.0, 1.0))
    exemplars = judge.portraits[pairs.exemplar]
    before, after = (judge.judges.apart(images, exemplars) for images in (none, full))
    textures = [judge.judges.textures(images, judge.mask) for images in (none, full)]
    coarser, finer = (np.linalg.norm(found - judge.textures[pairs.exemplar], axis=1) for found in textures)
    points, mean = [judge.judges.points(images) for images in (none, full)], judge.seen.points.mean(0)
    aim = shapes(judge.judges.points(judge.portraits), mean)[pairs.exemplar]
    off, less_off = (np.linalg.norm(shapes(found, mean) - aim, axis=1) for found in points)
    eyes = [eye_area(found).mean() for found in points]
    return {
        "structure_nearer": float((after < before).mean()),
        "structure_texture": float((finer < coarser).mean()),
        "structure_way": float(1 - after.mean() / before.mean()),
        "structure_shape": float((less_off < off).mean()),
        "eyes_grow": float(eyes[1] / eyes[0]),
        "eyes_way": float(way_gone(full, none, exemplars, eye_regions(drawer.size)).mean()),
    }


def judge_blends(drawer: StyleOnPhotos, judges: Judges) -> tuple[Figures, Tensor]:
    """The largest step of blends between two random exemplars; and the pictures (BLENDS, 9, 3, S, S)."""
    rng = np.random.default_rng(SEED)
    count = min(BLENDS, len(drawer.photos))
    photo = rng.choice(len(drawer.photos), count, replace=False)
    ends = np.stack([rng.choice(len(drawer.exemplars), 2, replace=False) for _ in range(count)])
    films = []
    for share in torch.linspace(0, 1, BLEND_STEPS):
        codes = torch.lerp(drawer.exemplars[ends[:, 0]], drawer.exemplars[ends[:, 1]], share)
        films.append(drawer.draw(photo, codes))
    figures = {}
    for name, apart in (("blend_step", pixels_apart), ("blend_step_seen", judges.apart)):
        steps = np.stack([apart(a, b) for a, b in pairwise(films)], axis=1)
        figures[name] = largest_step(steps, apart(films[0], films[-1]))
    return figures, torch.stack(films, dim=1)


def pixels_apart(a: Tensor, b: Tensor) -> np.ndarray:
    """Root mean square differences (N,). Of two quite different pictures a perceptual distance says no more than that,
    so that steps of a blend outgrow the whole way however smooth they are; this one trained nothing, and grows on."""
    return (a - b).square().mean(dim=(1, 2, 3)).sqrt().double().numpy()


def finetuned_of(style: Style, runs: Path) -> Generator | None:
    """g' of the style's run: the folder the style lies in, or the one of its name among `runs`."""
    folders = [style.folder.parent] if style.folder else []
    for folder in [*folders, runs / style.name]:
        if (folder / "snapshots").is_dir() and RunFolder(folder).snapshot_steps("finetune"):
            return _finetuned_in(RunFolder(folder), style)
    return None


def adapted_of(style: Style, runs: Path) -> Generator | None:
    """The g' that kept pictures as near to one another as they were, of the run NAME-adapted among `runs`."""
    run = RunFolder(runs / f"{style.name}-adapted")
    begun = run.begun_with("finetune")
    if begun is None:
        return None
    if not begun["finetune"]["correspondence"] or begun["base"] != style.header["base"]["sha256"]:
        sys.exit(f"{run.path}: wanted g' of {style.name}'s own base, fine-tuned with finetune.correspondence=1000.")
    return _finetuned_in(run, style)


def _finetuned_in(run: RunFolder, style: Style) -> Generator:
    g = style.model.generator
    finetuned = Generator(g.size, style_dim=g.style_dim, mapping_layers=g.mapping_layers, channels=g.channels)
    finetuned.load_state_dict(run.snapshot("finetune")["generator"])
    return finetuned.eval().requires_grad_(False)


@dataclass
class StyleResult:
    name: str
    header: dict
    goals: tuple[Goal, ...]
    columns: dict[str, Figures]
    facts: dict[str, float | bool]
    claims: dict[str, Claims]
    pictures: dict[str, Tensor]


def measure_style(style: Style, photos: Photos, runs: Path, each: int, results: Path | None = None) -> StyleResult:
    """`results`: a folder of another system's pictures; its pairs are then everybody's, and it has a column."""
    drawer = StyleOnPhotos(style, photos)
    judges, seen = photos.judges, photos.at(drawer.size)
    mask = mask_at(style.header.get("mask", "head"), seen.points.mean(0), drawer.size)
    judge = StyleJudge(drawer.portraits, seen, judges, mask, likeness=style.name not in CARTOONS)
    pairs = Pairs.random(len(photos), len(style.bank), each)
    theirs = None
    if results is not None:
        pairs, theirs, others = read_results(results, photos, Exemplars(tuple(style.bank.names)), drawer.size)
        if others:
            print(f"{results}: {len(others)} pictures are of no photo here or no exemplar, such as {others[0]}")
        if len(pairs) < 2:
            wanted = f"{PurePosixPath(photos.names[0]).stem}--0.png"
            sys.exit(f"{results}: {len(pairs)} pictures of the {photos.people} list in {style.name}, such as {wanted}.")

    each_pair = np.arange(len(pairs))
    claims = {
        OURS: Claims(drawer.draw(pairs.photo, pairs.exemplar), each_pair),
        EXEMPLAR: Claims(drawer.portraits, pairs.exemplar),
        PHOTO: Claims(seen.images, pairs.photo),
    }
    if theirs is not None:
        claims[results.name] = Claims(theirs, each_pair)
    finetuned = finetuned_of(style, runs)
    if finetuned is not None:
        claims[SWAP] = Claims(drawer.swap_layers(finetuned), pairs.photo)
        claims[MIXING] = Claims(drawer.mix_styles(finetuned, pairs.photo, pairs.exemplar), each_pair)
    if (adapted := adapted_of(style, runs)) is not None:
        claims[ADAPTATION] = Claims(drawer.adapt(adapted), pairs.photo)
    columns = {name: judge.judge(claim, pairs) for name, claim in claims.items()}

    some = Pairs(pairs.photo[::each], pairs.exemplar[::each])
    columns[OURS] |= judge_structure(drawer, judge, some)
    blends, films = judge_blends(drawer, judges)
    columns[OURS] |= blends
    pictures = _drawn_for_sheets(drawer) | {"blends": films}
    facts = {
        "exemplars": len(style.bank),
        "pairs": len(pairs),
        "readable": bool(judge.readable),
        "grey": bool(judge.grey),
        "eyes_of_photos": float(judge.eyes),
        "kid_of_photos": judge.kid_of_photos,
    }
    return StyleResult(style.name, style.header, judge.goals, columns, facts, claims, pictures)


# ------------------------------------------------------------------------------------------------------------- sheets


SHEET_PHOTOS, RAMPS = 16, 8


def _drawn_for_sheets(drawer: StyleOnPhotos) -> dict[str, Tensor]:
    """Fixed photos and exemplars, evenly chosen: not the best ones."""
    photos = drawer.photos.at(drawer.size).images
    photo, exemplar = _evenly(len(photos), SHEET_PHOTOS), _evenly(len(drawer.exemplars), EXEMPLARS)
    grid = drawer.draw(np.repeat(photo, len(exemplar)), np.tile(exemplar, len(photo)))
    few = _evenly(len(photos), RAMPS)
    styles = np.resize(exemplar, len(few))
    return {
        "grid": grid.unflatten(0, (len(photo), len(exemplar))),
        "grid photos": photos[photo],
        "grid exemplars": drawer.portraits[exemplar],
        "ramp": torch.stack([drawer.draw(few, styles, structure=weight) for weight in STRUCTURE], dim=1),
        "ramp photos": photos[few],
        "ramp exemplars": drawer.portraits[styles],
    }


def _evenly(count: int, wanted: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int))


def write_base_sheets(folder: Path, pictures: dict[str, Tensor]) -> None:
    chosen = _evenly(len(pictures["photos"]), SHEET_PHOTOS)
    cells = [*from_tensor(pictures["photos"][chosen]), *from_tensor(pictures["reconstructions"][chosen])]
    half = len(chosen) // 2
    rows = [
        cells[:half],
        cells[len(chosen) : len(chosen) + half],
        cells[half : len(chosen)],
        cells[len(chosen) + half :],
    ]
    names = ["photo", "drawn again"] * 2
    _write(folder / "base-reconstructions.png", strip(*rows, row_labels=names, height_px=160))
    _write(folder / "base-samples.png", contact_sheet(list(from_tensor(pictures["samples"][:32])), [], columns=8))


def write_style_sheets(folder: Path, result: StyleResult) -> None:
    pictures = result.pictures
    exemplars, photos = list(from_tensor(pictures["grid exemplars"])), list(from_tensor(pictures["grid photos"]))
    rows = [[photo, *from_tensor(row)] for photo, row in zip(photos, pictures["grid"], strict=True)]
    _write(folder / f"{result.name}-photos.png", strip([None, *exemplars] * 2, *_in_two(rows), height_px=144))

    ends = zip(pictures["ramp photos"], pictures["ramp"], pictures["ramp exemplars"], strict=True)
    rows = [[from_tensor(photo), *from_tensor(ramp), from_tensor(exemplar)] for photo, ramp, exemplar in ends]
    labels = ["photo", *(f"structure {weight:g}" for weight in STRUCTURE), "exemplar"]
    _write(folder / f"{result.name}-structure.png", strip(*rows, labels=labels, height_px=160))

    rows = [list(from_tensor(film)) for film in pictures["blends"][:RAMPS]]
    _write(folder / f"{result.name}-blends.png", strip(*rows, height_px=144))

    some = _evenly(len(result.claims[OURS].which), RAMPS * 2)
    first = [name for name in (PHOTO, EXEMPLAR, OURS) if name in result.claims]
    columns = [*first, *(name for name in result.claims if name not in first)]
    rows = [[from_tensor(result.claims[name][i]) for name in columns] for i in some]
    _write(folder / f"{result.name}-columns.png", strip(*_in_two(rows), labels=columns * 2, height_px=144))


def _in_two(rows: list[list]) -> list[list]:
    """Half as many rows, twice as wide: a landscape page."""
    half = (len(rows) + 1) // 2
    return [rows[i] + (rows[half + i] if half + i < len(rows) else []) for i in range(half)]


def _write(path: Path, sheet: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_picture(path, sheet)


# -------------------------------------------------------------------------------------------------- the limited case


def measure_limited(styles: Mapping[str, Style], photos: Photos, folder: Path | None, each: int) -> list[Figures]:
    """How much of the photos styles of few portraits keep: the same pairs in each, seen by three judges."""
    judges, kept, drawn = photos.judges, [], []
    for style in styles.values():
        drawer = StyleOnPhotos(style, photos)
        seen = photos.at(drawer.size)
        pairs = Pairs.random(len(photos), len(style.bank), each)
        images = drawer.draw(pairs.photo, pairs.exemplar)
        same = (judges.identities(images) * seen.identities[pairs.photo]).sum(1)
        points = judges.points(images)
        apart = np.linalg.norm(shapes(points, seen.points.mean(0)) - seen.shapes[pairs.photo], axis=1)
        kept.append(
            {
                "identity_cosine": float(same.mean()),
                "shape_distance": float(apart.mean()),
                "perceptual_distance": float(judges.apart(images, seen.images[pairs.photo]).mean()),
                "to_the_exemplar": float(judges.apart(images, drawer.portraits[pairs.exemplar]).mean()),
            }
        )
        drawn.append((drawer, pairs, images))
    if folder:
        some = _evenly(len(drawn[0][1]), SHEET_PHOTOS)
        drawer, pairs, _ = drawn[0]
        size = drawer.size
        rows = [
            [
                from_tensor(photos.at(size).images[pairs.photo[i]]),
                from_tensor(drawer.portraits[pairs.exemplar[i]]),
                *(from_tensor(images[i]) for _, _, images in drawn),
            ]
            for i in some
        ]
        labels = ["photo", "exemplar", *styles]
        _write(folder / "limited.png", strip(*_in_two(rows), labels=labels * 2, height_px=144))
    return kept


def keeps_more(first: Figures, second: Figures) -> list[str]:
    """The judges by which the first style keeps more of the photos than the second."""
    signs = {"identity_cosine": 1, "shape_distance": -1, "perceptual_distance": -1}
    return [key for key, sign in signs.items() if sign * (first[key] - second[key]) > 0]


LIMITED = (
    Goal("identity_cosine", "identity kept: cosine with the photo's (more)"),
    Goal("shape_distance", "landmarks: distance to the photo's shape (less)"),
    Goal("perceptual_distance", "perceptual distance to the photo (less)"),
    Goal("to_the_exemplar", "perceptual distance to the exemplar"),
)

# -------------------------------------------------------------------------------------------------------------- tables


def print_table(title: str, goals: Sequence[Goal], columns: dict[str, Figures], *, judged: Iterable[str]) -> None:
    judged = set(judged)
    print(f"\n{title:58} {'goal':>9}" + "".join(f"  {name:>19}" for name in columns))
    for goal in goals:
        cells = []
        for name, figures in columns.items():
            met = goal.met(figures.get(goal.key)) if name in judged else None
            mark = "" if met is None else " pass" if met else " MISS"
            cells.append(f"{goal.show(figures.get(goal.key))}{mark:5}")
        print(f"{goal.what:58} {goal.wanted:>9}" + "".join(f"  {cell:>19}" for cell in cells))


def report_base(base: Base, figures: Figures, people: str) -> None:
    goals = base_goals(base.generator.size, people)
    print_table(f"base {base.name}, {base.generator.size} px", goals, {"figure": figures}, judged=["figure"])


def report_style(result: StyleResult) -> None:
    print_table(
        f"style {result.name}, {result.facts['exemplars']} exemplars, {result.facts['pairs']} pairs",
        result.goals,
        result.columns,
        judged=result.columns,
    )
    for name in MUST_FAIL:
        wrong = missed(result.goals, result.columns[name])
        print(f"the {name}, unchanged, misses {', '.join(wrong) or 'NOTHING: the suite can be fooled'}")
    if SWAP not in result.columns:
        print("no columns for layer swap and style mixing: the run with the fine-tuned generator is not here")
    if ADAPTATION not in result.columns:
        print(f"no column for few-shot adaptation: no run {result.name}-adapted is here (--help tells how it is made)")


def as_json(goals: Sequence[Goal], header: dict, columns: dict[str, Figures], ours: str, **facts) -> dict:
    """What is kept of one model: figures of every column, goals, and which of them `ours` misses."""
    wanted = {goal.key: goal.wanted for goal in goals if goal.wanted}
    rounded = {name: {key: round(value, 4) for key, value in figures.items()} for name, figures in columns.items()}
    return {
        "name": header["name"],
        "size": header["size"],
        "base": header["sha256"] if header["kind"] == "base" else header["base"]["sha256"],
        "parts": header["parts"],
        **facts,
        "goals": wanted,
        "what": {goal.key: goal.what.strip() for goal in goals},
        "missed": missed(goals, columns[ours]),
        "missed_by_others": {name: missed(goals, figures) for name, figures in columns.items() if name != ours},
        "columns": rounded,
    }


# ---------------------------------------------------------------------------------------------------------------- main


def embedded(kind: str) -> list[str]:
    headers = sorted(EMBEDDED.glob("*/header.json"))
    return [path.parent.name for path in headers if read_header(path.parent)["kind"] == kind]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="name or folder; default: the embedded one; 'none' leaves it out")
    parser.add_argument("--style", nargs="*", help="names or folders; default: all embedded ones")
    parser.add_argument("--photos", type=Path, default=PHOTOS)
    parser.add_argument("--people", choices=(FIRST, SECOND, "both"), default="both", help="which list of photos")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="where run folders with g' lie")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--sheets", type=Path, help="write pictures to this folder (they show the photos)")
    parser.add_argument("--limited", nargs=2, metavar="STYLE", help="two styles of few portraits: who keeps more?")
    parser.add_argument("--results", type=Path, metavar="DIR", help="another system's pictures, PHOTO--EXEMPLAR.png")
    parser.add_argument("--fast", action="store_true", help=f"{FAST_PHOTOS} photos: a look, no proof")
    asked = parser.parse_args()
    if asked.results and not (asked.results.is_dir() and asked.style and len(asked.style) == 1):
        parser.error("--results is a folder of pictures in the one style that --style names.")
    need_photos(asked.photos)
    try:
        run(asked)
    except DualStyleGANError as error:
        sys.exit(str(error))


def run(asked: argparse.Namespace) -> None:
    began_s = time.monotonic()
    alone = asked.limited is not None
    bases = [asked.base] if asked.base else [] if alone or asked.results else embedded("base")[:1]
    styles = asked.style if asked.style is not None else [] if alone or asked.base else embedded("style")
    bases = [base for base in bases if base != "none"]
    if not (bases or styles or alone):
        print("No model is embedded yet: name some with --base and --style.")
        return

    judges = Judges()
    files = {FIRST: first_list(asked.photos)}
    if (asked.photos.parent / "photos2").is_dir():
        files[SECOND] = second_list(asked.photos.parent / "photos2")
    lists = [
        Photos.read(found, judges, FAST_PHOTOS if asked.fast else None, people)
        for people, found in files.items()
        if asked.people in (people, "both")
    ]
    if not lists:
        sys.exit(f"The {asked.people} list needs the folder photos2 beside {asked.photos}.")
    each = EXEMPLARS
    counts = {photos.people: len(photos) for photos in lists}
    kept: dict = {"photos": counts.get(FIRST, 0), "photos_of_second_list": counts.get(SECOND, 0)}
    kept |= {"each_in_exemplars": each, "seed": SEED, "kid_layer": KID_LAYER, "models": {}}
    for photos in lists:
        print(f"\nthe {photos.people} list: {len(photos)} held-out photos, {photos.names[0]} ... {photos.names[-1]}")
        if asked.fast:
            print(f"a fast look: ranks are among {len(photos)}, so no goal is shown to be met")
        name_of = lambda model, photos=photos: model if photos.people == FIRST else f"{model}, {photos.people} list"  # noqa: E731
        folder = asked.sheets if not asked.sheets or photos.people == FIRST else asked.sheets / photos.people
        for where in bases:
            base = load_base(where, parts=("encoder", "prior"))
            figures, pictures = measure_base(base, photos)
            report_base(base, figures, photos.people)
            goals = base_goals(base.generator.size, photos.people)
            kept["models"][name_of(base.name)] = as_json(goals, base.header, {"figure": figures}, "figure")
            if folder:
                write_base_sheets(folder, pictures)
        for where in styles:
            result = measure_style(
                load_style(where, wplus=False, thumbnails=True), photos, asked.runs, each, asked.results
            )
            report_style(result)
            kept["models"][name_of(result.name)] = as_json(
                result.goals, result.header, result.columns, OURS, **result.facts
            )
            if folder:
                write_style_sheets(folder, result)
    if asked.limited:
        both = {Path(where).name: load_style(where, wplus=False, thumbnails=True) for where in asked.limited}
        figures = measure_limited(both, lists[0], asked.sheets, each)
        columns = dict(zip(both, figures, strict=True))
        print_table("styles of few portraits: what is kept of the photo", LIMITED, columns, judged=())
        print(f"{next(iter(both))} keeps more of the photo by {', '.join(keeps_more(*figures)) or 'nobody'}")
        kept["limited"] = columns

    print("\nThe identity net and MobileNetV2 also trained these models; landmarks and Lab colours trained nothing.")
    print(f"{time.monotonic() - began_s:.0f} s, {time.process_time():.0f} s of CPU")
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    if asked.sheets:
        print(f"sheets in {asked.sheets}")


if __name__ == "__main__":
    main()
