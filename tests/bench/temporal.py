"""How steady restyled films are: films drawn with exactly known motion, smoothing on against off. Prints one table.

    python tests/bench/temporal.py --style painting:3 [--films pan,smile] [--length 60] [--readme README.md]
    python tests/bench/temporal.py --style painting:3 --sweep      # strengths of smoothing against one another

Flicker, seam and jitter are taken after undoing the known motion, so that only what should not move is counted. The
goals: flicker at most 0.35 of that without smoothing, jitter at most 0.25, the smile followed without lag, nobody
mistaken for somebody else, a photo repeated the same in every frame. `--readme` puts the table between the lines
`<!-- temporal -->` and `<!-- /temporal -->`. Takes minutes, and the reference photos ($DSG_SHARED/facedata).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import films
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from dualstylegan import Stylizer
from dualstylegan.faces.crop import sample_crop
from dualstylegan.faces.face import Face, crop_side_px, transform
from dualstylegan.faces.find import EmbeddedDetector, FaceEmbedder
from dualstylegan.faces.masks import draw_mask
from dualstylegan.faces.smooth import SMOOTH, CodeSmoother, PointSmoother
from dualstylegan.faces.track import DETECT_EVERY, FaceTracker, FrameFaces, TrackedFace

RIGID = ("pan", "zoom", "rotation", "handheld", "noise", "exposure")  # only the known motion, nothing in the face
SIDE = 128  # px of the crops that are compared
BATCH = 8  # frames
MOST_LAG = 5  # frames
UPPER_LIP, LOWER_LIP = (61, 62, 63), (67, 66, 65)  # their inner edges

Row = tuple[str, str, str, str, str]  # what, off, on, goal, whether it is met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--style", default="painting", help="NAME:ID, an embedded one")
    parser.add_argument("--films", default=",".join(films.FILMS), help="some of: " + ", ".join(films.FILMS))
    parser.add_argument("--length", type=int, default=films.LENGTH, help="frames")
    parser.add_argument("--smooth", type=float, default=SMOOTH)
    parser.add_argument("--detect-every", type=int, default=DETECT_EVERY)
    parser.add_argument(
        "--precision", default="auto", help="float32 shows what bfloat16's own rounding adds to flicker"
    )
    parser.add_argument("--sweep", action="store_true", help="several strengths, one line each")
    parser.add_argument("--readme", type=Path, help="a file to put the table into")
    options = parser.parse_args()
    if not films.PHOTOS.is_dir():
        sys.exit(f"No reference photos in {films.PHOTOS}: set DSG_SHARED to the folder that holds facedata/.")

    strengths = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0) if options.sweep else (0.0, options.smooth)
    stylizer, cast = Stylizer(options.style, detector="embedded", precision=options.precision), films.Cast()
    measured: dict[float, list[Measured]] = {strength: [] for strength in strengths}
    for name in options.films.split(","):
        film = films.FILMS[name](cast, length=options.length)
        frames = list(film.frames())
        tracked = Tracked(film, frames, options.detect_every)
        for strength in strengths:
            measured[strength].append(measure(name, film, frames, tracked, stylizer, strength))
        print(f"{name}: {tracked.cpu_ms:.0f} ms a frame to track", file=sys.stderr, flush=True)

    if options.sweep:
        print(sweep(measured))
        return
    rows = table(measured[0.0], measured[options.smooth])
    print(f"{stylizer.description}; {options.length} frames a film, --smooth {options.smooth}")
    for row in (("what", "off", "on", "goal", ""), *rows):
        print(f"{row[0]:52} {row[1]:>10} {row[2]:>10}  {row[3]:>10}  {row[4]}")
    if options.readme:
        write_into(options.readme, rows, options.style)


class Tracked:
    """What the tracker makes of a film, once for all strengths."""

    def __init__(self, film: films.DrawnFilm, frames: list[np.ndarray], detect_every: int):
        self.detector = EmbeddedDetector(tilts=())
        self.tracker = FaceTracker(self.detector, detect_every=detect_every, embedder=FaceEmbedder())
        started = time.process_time()
        self.found: list[FrameFaces] = []
        for start in range(0, len(frames), BATCH):
            self.found += self.tracker.track(frames[start : start + BATCH])
        self.cpu_ms = (time.process_time() - started) / len(frames) * 1e3
        self.switches = switches(film, self.found)


@dataclass
class Shown:
    """One frame of the result: its pixels, and each face with its portrait."""

    pixels: np.ndarray
    faces: list[TrackedFace] = field(default_factory=list)
    portraits: list[Tensor] = field(default_factory=list)

    def nearest(self, crop_from_frame: np.ndarray) -> int | None:
        """The number of the face that is drawn where one truly is."""
        truth = middle(crop_from_frame)
        away = [np.hypot(*(middle(face.face.crop_from_photo) - truth)) for face in self.faces]
        close = bool(away) and min(away) < 0.3 * crop_side_px(crop_from_frame)
        return int(np.argmin(away)) if close else None


def restyle(
    frames: list[np.ndarray], found: Sequence[FrameFaces], stylizer: Stylizer, strength: float
) -> Iterator[Shown]:
    """The calls that the film line makes, one after another, on tracked frames."""
    points, codes = PointSmoother(strength), CodeSmoother(strength)
    steady = [ready for frame in found for ready in points.push(frame)] + points.flush()
    coded = []
    for start in range(0, len(steady), BATCH):
        some = steady[start : start + BATCH]
        seen = [(frame, face) for frame in some for face in frame.faces if face.seen]
        crops = [stylizer.crop(frames[frame.index], [face.face]) for frame, face in seen]
        raw = iter(stylizer.encode(torch.cat(crops)).cpu() if crops else ())
        for frame in some:
            coded += codes.push(frame, {face.track: next(raw) for face in frame.faces if face.seen})
    coded += codes.flush()
    for start in range(0, len(coded), BATCH):
        some = coded[start : start + BATCH]
        wanted = [own[face.track] for frame, own in some for face in frame.faces]
        portraits = iter(stylizer.render(torch.stack(wanted)) if wanted else ())
        for frame, _ in some:
            shown = Shown(frames[frame.index].copy(), frame.faces)
            for face in frame.faces:
                shown.portraits.append(next(portraits))
                stylizer.paste(shown.pixels, shown.portraits[-1], face.face, face.opacity, in_place=True)
            yield shown


@dataclass
class Measured:
    """One film at one strength. Series are by frame, of the last role, the one in front."""

    name: str
    flicker: float = np.nan  # levels of 255
    seam_flicker: float = np.nan
    seam: float = np.nan
    jitter_px: float = np.nan
    identical: bool = True
    switches: int = 0
    source_mouth: np.ndarray | None = None
    mouth: np.ndarray | None = None  # NaN where landmarks cannot read it
    change: np.ndarray | None = None  # of the portrait's mouth from the first frame's, levels
    smile: np.ndarray | None = None

    @cached_property
    def response(self) -> tuple[int, float]:
        return lag_and_correlation(self.mouth, self.source_mouth)

    @cached_property
    def change_response(self) -> tuple[int, float]:
        return lag_and_correlation(self.change, self.smile)


def measure(
    name: str,
    film: films.DrawnFilm,
    frames: list[np.ndarray],
    tracked: Tracked,
    stylizer: Stylizer,
    strength: float,
) -> Measured:
    result = Measured(name, switches=tracked.switches)
    shown = list(restyle(frames, tracked.found, stylizer, strength))
    result.identical = all(np.array_equal(one.pixels, shown[0].pixels) for one in shown)
    role = film.roles[-1]
    mask = torch.from_numpy(draw_mask(stylizer.mask, transform(role.person.crop_from_photo, role.person.points)))
    mask = interpolate(mask[None, None], (SIDE, SIDE), mode="area")[0, 0]
    face, ring = mask > 0.9, (mask > 0.05) & (mask < 0.6)

    portraits, differences, errors, faces = [], [], [], []
    for index, one in enumerate(shown):
        truth = role.crop_from_frame(index)
        number = one.nearest(truth) if role.is_there(index) else None
        faces.append(number)
        if number is None:
            continue
        matrix = one.faces[number].face.crop_from_photo
        portraits.append(look_at(one.portraits[number], matrix @ np.linalg.inv(truth)))
        before, after = (sample_crop(pixels, truth, SIDE) for pixels in (frames[index], one.pixels))
        differences.append((after - before) * 127.5)
        errors.append(middle(matrix) - middle(truth))
    portraits, differences = torch.stack(portraits) * 127.5, torch.stack(differences)
    result.flicker = float(portraits.diff(dim=0).abs()[..., face].mean())
    result.seam_flicker = float(differences.diff(dim=0).abs()[..., ring].mean())
    result.seam = float(differences.abs()[..., ring].mean())
    result.jitter_px = float(np.sqrt((np.diff(errors, 2, axis=0) ** 2).sum(-1).mean()))
    if name in ("smile", "speech") and None not in faces:
        result.smile = role.smile
        middle_of_face = slice(int(0.55 * SIDE), int(0.85 * SIDE)), slice(int(0.3 * SIDE), int(0.7 * SIDE))
        mouths = portraits[(..., *middle_of_face)]
        result.change = (mouths - mouths[0]).abs().mean((1, 2, 3)).numpy()
        result.source_mouth = np.array([mouth_opening(frame.faces[-1].face.points) for frame in tracked.found])
        read = [
            tracked.detector.follow(one.pixels, [one.faces[n].face.points])[0]
            for one, n in zip(shown, faces, strict=True)
        ]
        result.mouth = np.array([np.nan if points is None else mouth_opening(points) for points in read])
    return result


def look_at(portrait: Tensor, portrait_from_truth: np.ndarray) -> Tensor:
    """The portrait (3, S, S), drawn in a crop that is a little off, in the true crop: (3, SIDE, SIDE)."""
    to_grid = np.array([[2.0, 0, -1], [0, 2, -1], [0, 0, 1]])
    theta = torch.from_numpy((to_grid @ portrait_from_truth @ np.linalg.inv(to_grid))[:2]).float()
    grid = affine_grid(theta[None], [1, 3, SIDE, SIDE], align_corners=False)
    return grid_sample(portrait[None], grid, mode="bicubic", padding_mode="border", align_corners=False)[0]


def middle(crop_from_frame: np.ndarray) -> np.ndarray:
    return transform(np.linalg.inv(crop_from_frame), np.array([0.5, 0.5]))


def mouth_opening(points: np.ndarray) -> float:
    """Between the lips' inner edges, in sides of the aligned crop."""
    gap = points[list(LOWER_LIP)].mean(0) - points[list(UPPER_LIP)].mean(0)
    return float(np.hypot(*gap)) / Face.from_points(points).crop_side_px


def lag_and_correlation(result: np.ndarray | None, source: np.ndarray | None) -> tuple[int, float]:
    """By how many frames the result follows the source, and how closely then."""
    if result is None or np.isnan(result).mean() > 0.1:
        return 0, np.nan
    known = ~np.isnan(result)
    result = np.interp(np.arange(len(result)), np.flatnonzero(known), result[known])
    inner = slice(MOST_LAG, -MOST_LAG)
    by_lag = {
        lag: np.corrcoef(np.roll(result, -lag)[inner], source[inner])[0, 1] for lag in range(-MOST_LAG, MOST_LAG + 1)
    }
    best = max(by_lag, key=by_lag.get)
    return best, float(by_lag[best])


def switches(film: films.DrawnFilm, found: Sequence[FrameFaces]) -> int:
    """How often a person's number changes within a shot."""
    count, numbers = 0, {}
    for frame in found:
        if frame.cut:
            numbers = {}
        shown = Shown(np.empty(0), [face for face in frame.faces if face.seen and face.confirmed])
        for who, role in enumerate(film.roles):
            nearest = shown.nearest(role.crop_from_frame(frame.index)) if role.is_there(frame.index) else None
            others = [other for other in film.roles if other is not role and other.is_there(frame.index)]
            at = middle(role.crop_from_frame(frame.index))
            if nearest is None or any(np.hypot(*(middle(o.crop_from_frame(frame.index)) - at)) < 80 for o in others):
                continue  # not to be told whose face this is
            number = shown.faces[nearest].track
            count += numbers.get(who, number) != number
            numbers[who] = number
    return count


def table(off: list[Measured], on: list[Measured]) -> list[Row]:
    rows: list[Row] = []

    def compared(what: str, name: str, unit: str, goal: float | None, of: Sequence[str], digits: int = 2) -> None:
        """The mean over films, as a part of what it is without smoothing; then film by film."""
        pairs = [(a.name, getattr(a, name), getattr(b, name)) for a, b in zip(off, on, strict=True) if a.name in of]
        if not pairs:
            return
        before, after = (float(np.mean([pair[side] for pair in pairs])) for side in (1, 2))
        ratio = after / before if before else 0.0
        wanted = "" if goal is None else f"<= {goal} x"
        met = f"{ratio:.2f} x" + ("" if goal is None else ", " + verdict(ratio <= goal))
        rows.append((f"{what}, mean ({unit})", f"{before:.{digits}f}", f"{after:.{digits}f}", wanted, met))
        for film, a, b in pairs if len(pairs) > 1 else ():
            rows.append((f"  {film}", f"{a:.{digits}f}", f"{b:.{digits}f}", "", f"{b / a:.2f} x" if a else ""))

    compared("flicker of the restyled face", "flicker", "levels", 0.35, RIGID)
    compared("jitter of the crop's place", "jitter_px", "px", 0.25, RIGID, 3)
    compared("flicker in a ring along the mask's edge", "seam_flicker", "levels", None, RIGID)
    compared("difference from the source in that ring", "seam", "levels", None, RIGID)
    by_name = {b.name: (a, b) for a, b in zip(off, on, strict=True)}
    for name in ("smile", "speech"):
        if name not in by_name:
            continue
        a, b = by_name[name]
        goal, met = "", ""
        if name == "smile":
            goal = "0, >= 0.9"
            met = "landmarks cannot read this style" if np.isnan(b.response[1]) else verdict(
                b.response[0] == 0 and b.response[1] >= 0.9
            )  # fmt: skip
        rows.append((f"{name}: mouth opening, lag and correlation", *map(lagged, (a.response, b.response)), goal, met))
        both = map(lagged, (a.change_response, b.change_response))
        rows.append((f"{name}: change around the mouth, the same", *both, "", ""))
    if "still" in by_name:
        same = [one.identical for one in by_name["still"]]
        rows.append(("a photo repeated: all frames the same", *map(yes, same), "yes", verdict(same[1])))
    count = sum(one.switches for one in on)
    rows.append(("people taken for others, in all films", str(count), str(count), "0", verdict(count == 0)))
    return rows


def sweep(measured: dict[float, list[Measured]]) -> str:
    lines = [f"{'--smooth':>8} {'flicker':>8} {'jitter':>8} {'seam':>8}  smile and speech: mouth; change"]
    for strength, some in measured.items():
        rigid = [one for one in some if one.name in RIGID]
        means = [np.mean([getattr(one, n) for one in rigid]) for n in ("flicker", "jitter_px", "seam_flicker")]
        faces = [f"{lagged(one.response)}; {lagged(one.change_response)}, range {np.ptp(one.change):.1f}"
                 for one in some if one.change is not None]  # fmt: skip
        lines.append(f"{strength:8} {means[0]:8.3f} {means[1]:8.3f} {means[2]:8.3f}  {'   '.join(faces)}")
    return "\n".join(lines)


def write_into(path: Path, rows: list[Row], style: str) -> None:
    """Puts the table between its two marks. Ends where the file has none."""
    begin, end = "<!-- temporal -->\n", "<!-- /temporal -->"
    text = path.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        sys.exit(f"{path} has no lines {begin.strip()} and {end} to put the table between.")
    lines = [f"| {style}, drawn films | off | on | goal | |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(cell.strip() for cell in row)} |" for row in rows if not row[0].startswith(" ")]
    head, rest = text.split(begin, 1)
    path.write_text(head + begin + "\n".join(lines) + "\n" + rest[rest.index(end) :], encoding="utf-8")


def lagged(response: tuple[int, float]) -> str:
    return "-" if np.isnan(response[1]) else f"{response[0]}, {response[1]:.3f}"


def verdict(met: bool) -> str:
    return "pass" if met else "MISS"


def yes(value: bool) -> str:
    return "yes" if value else "no"


if __name__ == "__main__":
    main()
