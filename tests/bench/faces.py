"""Faces on the reference photos: pupils, detection rate, identity, pasting, time. Prints one table.

    python tests/bench/faces.py [--every N]      # N > 1 takes every N-th photo, for a quick look

Needs the reference photos: $DSG_SHARED/facedata, by default ../shared/facedata beside the checkout.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from reference import PHOTOS, need_photos

from dualstylegan.faces.crop import crop_face, paste_face
from dualstylegan.faces.face import LEFT_EYE, RIGHT_EYE, Face
from dualstylegan.faces.find import EmbeddedDetector, FaceEmbedder
from dualstylegan.networks.identity import SAME_PERSON_DISTANCE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1)
    every = parser.parse_args().every
    need_photos()
    detector = EmbeddedDetector()
    rows = [
        *pupils(detector, every),
        *detection_rate(detector, every),
        *rotations(detector, every),
        *identities(detector, every),
        *round_trips(detector, every),
        *timings(detector),
    ]
    print(f"{'what':58} {'measured':>12}  {'wanted':>10}")
    for what, measured, wanted in rows:
        print(f"{what:58} {measured:>12}  {wanted:>10}")


Row = tuple[str, str, str]


def pupils(detector: EmbeddedDetector, every: int) -> list[Row]:
    rows = _table("frl_pupils.csv")[::every]
    errors = []
    for row, found in zip(rows, _find(detector, [f"{row['folder']}/{row['file']}" for row in rows]), strict=True):
        truth = np.array([[row["x1"], row["y1"]], [row["x2"], row["y2"]]], dtype=float)
        truth = truth[np.argsort(truth[:, 0])]
        points = found[0].points if found else np.full((68, 2), np.inf)
        eyes = np.stack([points[LEFT_EYE].mean(0), points[RIGHT_EYE].mean(0)])
        errors.append(np.hypot(*(eyes - truth).T).mean() / np.hypot(*(truth[1] - truth[0])))
    return [
        (f"pupil error of eye distance, mean of {len(rows)}", f"{np.mean(errors):.2%}", "<= 4%"),
        ("pupil error of eye distance, worst", f"{np.max(errors):.2%}", ""),
    ]


def detection_rate(detector: EmbeddedDetector, every: int) -> list[Row]:
    rows = _table("faces.csv")[::every]
    hits, extra, overlaps = 0, 0, []
    for row, found in zip(rows, _find(detector, [row["file"] for row in rows]), strict=True):
        x, y, side = (float(row[key]) for key in ("face_x", "face_y", "face_size"))
        best = max((overlap(face.box, np.array([x, y, x + side, y + side])) for face in found), default=0.0)
        hits += best >= 0.4
        extra += max(0, len(found) - 1)
        overlaps.append(best)
    return [
        (f"photos whose face is found, IoU >= 0.4, of {len(rows)}", f"{hits / len(rows):.2%}", ">= 99.5%"),
        ("extra faces", f"{extra / len(rows):.2%}", "<= 1%"),
        ("mean IoU", f"{np.mean(overlaps):.3f}", ""),
    ]


def rotations(detector: EmbeddedDetector, every: int) -> list[Row]:
    rows = _table("faces.csv")[:: 12 * every]
    table = []
    for degrees in (-45, -30, 30, 45):
        turned = [np.asarray(_open(row["file"]).rotate(degrees, Image.Resampling.BICUBIC, expand=True)) for row in rows]
        upright = [found[0] if found else None for found in _find(detector, [row["file"] for row in rows])]
        right = 0
        for found, straight in zip(detector.find(turned), upright, strict=True):
            if found and straight is not None:
                right += abs(_angle(found[0]) - _angle(straight) + degrees) < 5
        table.append((f"found and aligned within 5° when turned by {degrees}°", f"{right / len(rows):.1%}", ""))
    return table


def identities(detector: EmbeddedDetector, every: int) -> list[Row]:
    embedder, people = FaceEmbedder(), {}
    for folder in ("frl_london_neutral", "frl_london_smiling"):
        files = sorted(file.name for file in (PHOTOS / folder).glob("*.jpg"))[::every]
        for file, found in zip(files, _find(detector, [f"{folder}/{file}" for file in files]), strict=True):
            embedder.embed(np.asarray(_open(f"{folder}/{file}")), found[:1])
            people.setdefault(file[:3], []).append(found[0].embedding)
    pairs = np.array([both for both in people.values() if len(both) == 2])
    distances = np.linalg.norm(pairs[:, None, 0] - pairs[None, :, 1], axis=-1)
    same, others = np.diag(distances), distances[~np.eye(len(pairs), dtype=bool)]
    wrong = (same > SAME_PERSON_DISTANCE).sum() + (others < SAME_PERSON_DISTANCE).sum()
    nearest = (distances.argmin(1) == np.arange(len(pairs))).mean()
    return [
        (f"identity: same person, mean distance of {len(pairs)}", f"{same.mean():.3f}", "< 0.6"),
        ("identity: different people, mean distance", f"{others.mean():.3f}", "> 0.6"),
        ("identity: pairs on the wrong side of 0.6", f"{wrong / distances.size:.2%}", ""),
        ("identity: the smiling photo nearest to the neutral one", f"{nearest:.1%}", ""),
    ]


def round_trips(detector: EmbeddedDetector, every: int) -> list[Row]:
    """Untouched crops pasted back, at the smallest usual size that does not scale them down."""
    rows = _table("faces.csv")[:: 24 * every]
    worst, outside = np.inf, True
    for row, found in zip(rows, _find(detector, [row["file"] for row in rows]), strict=True):
        photo = np.asarray(_open(row["file"]))
        for face in found[:1]:
            size = next(size for size in (256, 512, 1024, 2048) if size >= face.crop_side_px)
            crop = crop_face(photo, face.crop_from_photo, size)
            pasted = paste_face(photo, crop, face, mask="crop").astype(float)
            inside = paste_face(np.zeros_like(photo), torch.ones(3, 8, 8), face, mask="crop").any(-1)
            worst = min(worst, 10 * np.log10(255**2 / max(((pasted - photo)[inside] ** 2).mean(), 1e-9)))
            outside &= bool((pasted == photo)[~inside].all())
    return [
        (f"untouched crop pasted back, worst PSNR inside, of {len(rows)}", f"{worst:.1f} dB", ">= 45 dB"),
        ("pixels outside bit-exact", "yes" if outside else "NO", "yes"),
    ]


def timings(detector: EmbeddedDetector) -> list[Row]:
    torch.set_num_threads(1)
    frame = Image.fromarray(np.random.default_rng(0).integers(0, 256, (45, 80, 3), dtype=np.uint8))
    frame = frame.resize((1280, 720), Image.Resampling.BICUBIC)
    frame.paste(_open(_table("frl_pupils.csv")[0]["folder"] + "/004_03.jpg").resize((500, 500)), (400, 150))
    frame = np.asarray(frame)
    (face,) = detector.find([frame])[0]
    portrait = crop_face(frame, face.crop_from_photo, 1024)
    megapixel = np.asarray(Image.fromarray(frame).resize((1000, 1000)))
    (large,) = detector.find([megapixel])[0]
    return [
        ("find, 1280x720, one face, CPU", _ms(lambda: detector.find([frame])), "<= 250 ms"),
        ("crop 256 px of a face, CPU", _ms(lambda: crop_face(frame, face.crop_from_photo, 256)), ""),
        ("crop 1024 px of a face, CPU", _ms(lambda: crop_face(frame, face.crop_from_photo, 1024)), ""),
        ("paste 1024 px into 1280x720, CPU", _ms(lambda: paste_face(frame, portrait, face, mask="crop")), ""),
        ("crop 256 + paste 1024, 1 Mpx photo, CPU", _ms(lambda: _both(megapixel, portrait, large)), "<< 80 ms"),
    ]


def _both(photo: np.ndarray, portrait: torch.Tensor, face: Face) -> None:
    crop_face(photo, face.crop_from_photo, 256)
    paste_face(photo, portrait, face, mask="crop")


def _ms(task: Callable[[], object], repeats: int = 7) -> str:
    """The best CPU time of several, all threads together: others may be using the machine."""
    task()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        task()
        times.append(time.process_time() - start)
    return f"{min(times) * 1e3:.0f} ms"


def _find(detector: EmbeddedDetector, files: list[str]) -> list[list[Face]]:
    found = []
    for start in range(0, len(files), 32):
        found += detector.find([np.asarray(_open(file)) for file in files[start : start + 32]])
    return found


def _open(file: str) -> Image.Image:
    return Image.open(PHOTOS / file).convert("RGB")


def _table(name: str) -> list[dict[str, str]]:
    with (PHOTOS / name).open(newline="") as file:
        return list(csv.DictReader(file))


def _angle(face: Face) -> float:
    x, y = face.points[RIGHT_EYE].mean(0) - face.points[LEFT_EYE].mean(0)
    return float(np.degrees(np.arctan2(y, x)))


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    areas = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])
    return float(np.prod(sides) / (areas - np.prod(sides)))


if __name__ == "__main__":
    main()
