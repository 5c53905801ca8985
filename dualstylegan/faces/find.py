"""Faces in pictures: the detectors, and which one to use. Pictures are uint8 (H, W, 3) RGB, upright."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import copy
from functools import lru_cache, partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image

from dualstylegan.choices import DETECTORS, check_choice
from dualstylegan.errors import DualStyleGANError, UsageError
from dualstylegan.faces.crop import sample_crop
from dualstylegan.faces.face import Face, without_duplicates
from dualstylegan.faces.landmarks import find_landmarks, follow_landmarks
from dualstylegan.faces.mtcnn_search import Found, search
from dualstylegan.networks.identity import CHIP_IN_CROP, CHIP_SIZE, IdentityNet
from dualstylegan.runtime.threads import each_on_one_core
from dualstylegan.weights import load_identity, load_landmarks68, load_mtcnn

SMALLEST_FACE = 16  # px; below, there are not enough pixels for landmarks
SMALLEST_PART = 0.04  # of the picture's shorter side: what is smaller is a passer-by, and costs the most time
TILTS = (-45, 45)  # degrees by which a picture without a face is turned for another look
TILTED_SCORE = 0.9  # more looks make more mistakes: what only a turned picture shows must be surer
MOST_DOUBT = 0.04  # between how sure landmarks are of faces (up to 0.02) and of anything else (0.07 and more)

log = logging.getLogger(__name__)


class Detector(Protocol):
    """Finds the faces of each picture, the surest first, and their embeddings when asked."""

    name: str

    def find(self, pictures: list[np.ndarray]) -> list[list[Face]]: ...


@runtime_checkable
class Glancing(Detector, Protocol):
    """A detector that can also look for faces at least so wide, in less time."""

    def glance(self, pictures: list[np.ndarray], least_px: float) -> list[list[Face]]: ...


def make_detector(name: str = "auto", device: str | torch.device = "cpu", min_face: float | None = None) -> Detector:
    """A detector by name. `min_face` px is the width below which faces are passed over; None: the detector's own.

    "auto" is face-alignment where it works here and its weights are present or can be fetched, else the embedded
    networks; why it fell back is in `.note`. Raises UsageError for another name, and with "face-alignment"
    DualStyleGANError, one line, where that is not to be had.
    """
    check_choice("detector", name, DETECTORS)
    if name == "embedded":
        return EmbeddedDetector(min_face=min_face)
    from dualstylegan.faces.face_alignment import FaceAlignmentDetector

    try:
        return FaceAlignmentDetector(device, min_face=min_face, patient=name == "face-alignment")
    except DualStyleGANError as error:
        if name == "face-alignment":
            raise
        log.debug("falling back to the embedded detector: %s", error)
        return EmbeddedDetector(min_face=min_face, note=str(error))


def check_detector(detector: str | Detector) -> None:
    """Raises before any work, in a dry run too, what `make_detector` would where "face-alignment" is not to be had."""
    if detector == "face-alignment":
        from dualstylegan.faces.face_alignment import demand_face_alignment

        demand_face_alignment()


def fallback_note(detector: Detector) -> str | None:
    """One line for the user where "auto" fell back, and None where not."""
    why = getattr(detector, "note", None)
    return f"the embedded detector is used: {why}" if why else None


class EmbeddedDetector:
    """MTCNN and the 68-point network that ship with the package, on the CPU. Finds faces tilted up to 45° and more."""

    name = "embedded"

    def __init__(self, *, min_face: float | None = None, tilts: Sequence[float] = TILTS, note: str | None = None):
        """`tilts`: degrees by which a picture in which nothing is found is turned for another look; () saves the time
        where that is common, as in films. Raises UsageError for a `min_face` below a pixel."""
        if min_face is not None and min_face < 1:
            raise UsageError(f"The smallest face cannot be {min_face} px wide.")
        self.min_face = min_face
        self.tilts = tuple(tilts)
        self.note = note
        self._mtcnn = load_mtcnn()
        self._landmarks = load_landmarks68()

    def find(self, pictures: list[np.ndarray]) -> list[list[Face]]:
        return self._find(pictures, 0)

    def glance(self, pictures: list[np.ndarray], least_px: float) -> list[list[Face]]:
        """`find` for faces at least so wide: of large ones, a tenth of the cost."""
        return self._find(pictures, least_px)

    def _find(self, pictures: list[np.ndarray], least_px: float) -> list[list[Face]]:
        found = each_on_one_core(partial(self._search, least_px=least_px), pictures)
        owners = [number for number, faces in enumerate(found) for _ in range(len(faces))]
        if not owners:
            return [[] for _ in pictures]
        landmarks = find_landmarks(
            self._landmarks,
            [pictures[owner] for owner in owners],
            [points for faces in found for points in faces.points],
            [box for faces in found for box in faces.boxes],
        )
        scores = np.concatenate([faces.scores for faces in found])
        faces_of: list[list[Face]] = [[] for _ in pictures]
        for owner, points, score in zip(owners, landmarks, scores, strict=True):
            try:
                faces_of[owner].append(Face.from_points(points, score))
            except UsageError:  # points that make no face are none
                continue
        return [self._keep(faces) for faces in faces_of]

    def follow(self, picture: np.ndarray, expected: Sequence[np.ndarray]) -> list[np.ndarray | None]:
        """The landmarks (68, 2) of faces expected at these landmarks, None where there is none: a tenth of the cost of
        looking all over the picture."""
        looks = follow_landmarks(self._landmarks, picture, expected)
        return [points if doubt <= MOST_DOUBT else None for points, doubt in looks]

    def _search(self, pixels: np.ndarray, least_px: float = 0) -> Found:
        picture = Image.fromarray(pixels)
        smallest = max(SMALLEST_FACE, SMALLEST_PART * min(picture.size)) if self.min_face is None else self.min_face
        smallest = max(smallest, SMALLEST_FACE, least_px)
        return search(self._mtcnn, picture, smallest, tilts=self.tilts, tilted_score=TILTED_SCORE)

    def _keep(self, faces: list[Face]) -> list[Face]:
        return without_duplicates([face for face in faces if face.width >= (self.min_face or 0)])


@lru_cache(maxsize=1)
def face_embedder() -> FaceEmbedder:
    """One for all films of a job: it holds nothing but its network."""
    return FaceEmbedder()


def film_detector(detector: Detector) -> Detector:
    """The detector as films want it: frames without a face are common there, and not to be searched again tilted."""
    if not isinstance(detector, EmbeddedDetector):
        return detector
    upright = copy(detector)
    upright.tilts = ()
    return upright


class FaceEmbedder:
    """Who is it: fills in `face.embedding`, (128,) float32. The same person's lie closer than 0.6 (Euclidean)."""

    def __init__(self):
        self._net: IdentityNet = load_identity()

    def embed(self, picture: np.ndarray, faces: Sequence[Face]) -> None:
        """Embeds the faces of one picture in place."""
        left, top, right, bottom = CHIP_IN_CROP
        chip_from_crop = np.array([
            [1 / (right - left), 0, -left / (right - left)],
            [0, 1 / (bottom - top), -top / (bottom - top)],
            [0, 0, 1],
        ])  # fmt: skip

        def embed(face: Face) -> np.ndarray:
            chip = sample_crop(picture, chip_from_crop @ face.crop_from_photo, CHIP_SIZE)
            return self._net(chip[None])[0].numpy()

        for face, embedding in zip(faces, each_on_one_core(embed, faces), strict=True):
            face.embedding = embedding
