"""The other detector: S3FD and 2DFAN4 of the face-alignment package, imported only here and only when it is used."""

from __future__ import annotations

import inspect
import os
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dualstylegan.errors import DownloadError, DualStyleGANError, OfflineError
from dualstylegan.faces.face import Face, without_duplicates
from dualstylegan.models.cache import is_offline

INSTEAD = "Use --detector embedded."
WEIGHTS = ("s3fd", "2DFAN4")  # in torch.hub's folder, each followed by the beginning of its hash
SERVER = "www.adrianbulat.com"
REACH_S = 3  # "auto" waits so long for the server before it takes the embedded networks


class FaceAlignmentDetector:
    """S3FD finds, 2DFAN4 places the landmarks. The first call takes seconds longer; landmarks jitter between frames.

    Raises, one line each: DualStyleGANError where the package cannot be imported (a server without libGL), OfflineError
    where its weights are missing and nothing may be downloaded, DownloadError where they cannot be fetched.
    """

    name = "face-alignment"
    note: str | None = None

    def __init__(self, device: str | torch.device = "cpu", *, min_face: float | None = None, patient: bool = True):
        """`patient` waits for a slow server as long as it takes; else one that does not answer soon is an error."""
        package = demand_face_alignment(patient)
        self.min_face = min_face
        if str(device) == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._net = package.FaceAlignment(
                    package.LandmarksType.TWO_D, device=str(device), flip_input=False, **_plain(package.FaceAlignment)
                )
        except OSError as error:  # URLError is one
            raise DownloadError(f"face-alignment's weights could not be fetched ({error}). {INSTEAD}") from error
        except Exception as error:
            raise DualStyleGANError(f"face-alignment does not start here ({error}). {INSTEAD}") from error

    def find(self, pictures: list[np.ndarray]) -> list[list[Face]]:
        return [self._find(picture) for picture in pictures]

    def _find(self, picture: np.ndarray) -> list[Face]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "No faces were detected."
            landmarks, _, boxes = self._net.get_landmarks_from_image(picture, return_bboxes=True)
        faces = [
            Face.from_points(np.asarray(points)[:, :2] - 0.5, box[4])  # its pixels have their centres at halves
            for points, box in zip(landmarks or (), boxes if boxes is not None else (), strict=True)
        ]
        return without_duplicates([face for face in faces if face.width >= (self.min_face or 0)])


def demand_face_alignment(patient: bool = True) -> Any:
    """The package, once it is known that its weights are here or can be fetched. Raises as the detector does."""
    _demand_weights(patient)
    return _import()


def _plain(factory: Callable) -> dict[str, Any]:
    """Not compiled, where a version offers that: it needs a C compiler, and takes longer than most jobs save by it."""
    return {"compile": False} if "compile" in inspect.signature(factory).parameters else {}


def _import() -> Any:
    try:
        import face_alignment
    except ImportError as error:  # a missing libGL comes as one too
        reason = " ".join(str(error).split())
        raise DualStyleGANError(f"face-alignment cannot be imported ({reason}). {INSTEAD}") from error
    return face_alignment


def missing_weights() -> tuple[list[str], Path]:
    """Which of the package's weights are not here yet, and the folder where they would be.

    Told by how their files begin: to ask the package for whole names is to import numba, which takes seconds.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return [name for name in WEIGHTS if not any(folder.glob(f"{name}-*"))], folder


def _demand_weights(patient: bool) -> None:
    """Raises where the weights are neither in torch.hub's folder nor to be had."""
    missing, folder = missing_weights()
    if not missing:
        return
    names = ", ".join(missing)
    if is_offline():
        raise OfflineError(f"face-alignment's weights ({names}) are not in {folder}, and this is offline. {INSTEAD}")
    if not patient and not _answers(SERVER):
        raise DownloadError(f"face-alignment's weights ({names}) are not in {folder}, and their server is not reached.")


def _answers(host: str | None) -> bool:
    if any(os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")):
        return True  # a proxy decides
    try:
        socket.create_connection((host, 443), timeout=REACH_S).close()
    except OSError:
        return False
    return True
