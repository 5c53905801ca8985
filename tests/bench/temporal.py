"""How steady restyled films are: films drawn with exactly known motion, through the whole film line. Prints one table.

    python tests/bench/temporal.py --style painting:3 [--films pan,smile] [--length 60] [--readme README.md]
    python tests/bench/temporal.py --style painting:3 --sweep      # strengths of smoothing against one another

Steadying on, as `dsg stylize` does it, is compared with off: every frame by itself, `--detect-every 1 --smooth 0`.
With `--smooth 0` alone faces are still followed by their pixels from one detection to the next, which steadies them
too; that is a line of the sweep. Flicker, seam and jitter are taken after undoing the known motion, so that only what
should not move is counted. Means are over films; a ratio is that of the means. The goals: flicker at most 0.35 of that
without, jitter at most 0.25, the smile followed without lag, nobody mistaken for somebody else, a photo repeated the
same in every frame. `--readme` puts the table between the lines `<!-- temporal -->` and `<!-- /temporal -->`. Takes
minutes, and the reference photos ($DSG_SHARED/facedata).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from textwrap import wrap

import films
import numpy as np
import torch
from PIL import Image
from reference import need_photos
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from dualstylegan import Stylizer
from dualstylegan.choices import DETECT_EVERY, SMOOTH
from dualstylegan.faces.crop import sample_crop
from dualstylegan.faces.face import Face, crop_side_px, transform
from dualstylegan.faces.find import Detector
from dualstylegan.faces.masks import draw_mask
from dualstylegan.faces.track import TrackedFace
from dualstylegan.stylizing import films as film_line
from dualstylegan.stylizing.settings import FilmOptions

RIGID = ("pan", "zoom", "rotation", "handheld", "noise", "exposure")  # only the known motion, nothing in the face
SIDE = 128  # px of the crops that are compared
MOST_LAG = 5  # frames
UPPER_LIP, LOWER_LIP = (61, 62, 63), (67, 66, 65)  # their inner edges
OFF = (1, 0.0)  # --detect-every and --smooth
STRENGTHS = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)

LEGEND = """Films whose motion is known exactly, drawn from photos: pan, zoom, a leaning head, a hand-held camera,
noise, changing light, a smile, speech, two people who cross, a cut, a post to walk behind. Off: every frame by
itself. On: what `dsg stylize` does. Flicker is how much a restyled face changes from frame to frame, in levels of
255, and jitter how far its place strays from the true motion, both once that motion is taken out; lag is in frames."""

Setting = tuple[int, float]  # --detect-every and --smooth
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
    need_photos()  # people who smile and speak
    if not films.PHOTOS.is_dir():
        sys.exit(f"No reference photos in {films.PHOTOS}: set DSG_SHARED to the folder that holds facedata/.")

    on = (options.detect_every, options.smooth)
    settings = [OFF, *((options.detect_every, strength) for strength in STRENGTHS)] if options.sweep else [OFF, on]
    stylizer, cast = Stylizer(options.style, detector="embedded", precision=options.precision), films.Cast()
    measured: dict[Setting, list[Measured]] = {setting: [] for setting in settings}
    for name in options.films.split(","):
        film = films.FILMS[name](cast, length=options.length)
        frames = list(film.frames())
        for setting in settings:
            measured[setting].append(measure(name, film, frames, stylizer, setting, cast.detector))
        print(f"{name} is measured", file=sys.stderr, flush=True)

    print(f"{stylizer.description}; {options.length} frames a film, --detect-every {on[0]} --smooth {on[1]}")
    if options.sweep:
        print(sweep(measured))
        return
    rows = table(measured[OFF], measured[on])
    for row in (("what", "off", "on", "goal", ""), *rows):
        print(f"{row[0]:52} {row[1]:>10} {row[2]:>10}  {row[3]:>10}  {row[4]}")
    if options.readme:
        write_into(options.readme, rows, options.style)


@dataclass
class Shown:
    """One frame of the result: its pixels, and each face with its portrait."""

    faces: list[TrackedFace] = field(default_factory=list)
    portraits: list[Tensor] = field(default_factory=list)
    cut: bool = False
    pixels: np.ndarray = field(default_factory=lambda: np.empty(0))

    def nearest(self, crop_from_frame: np.ndarray) -> int | None:
        """The number of the face that is drawn where one truly is."""
        truth = middle(crop_from_frame)
        away = [np.hypot(*(middle(face.face.crop_from_photo) - truth)) for face in self.faces]
        close = bool(away) and min(away) < 0.3 * crop_side_px(crop_from_frame)
        return int(np.argmin(away)) if close else None


class WatchedFilm(film_line.FilmLine):
    """A film on its way through the line, with all that it shows kept."""

    shown: list[Shown]

    def paste(self, moments: Iterable, number: int) -> Iterator:
        self.shown = []

        def kept() -> Iterator:
            for moment in moments:
                portraits = [placed.portrait for placed in moment.placed[number]]
                self.shown.append(Shown(moment.faces, portraits, moment.found.cut))
                yield moment

        for pasted in super().paste(kept(), number):
            self.shown[-1].pixels = pasted.frame.pixels if pasted.pixels is None else pasted.pixels
            yield pasted


def restyle(frames: list[np.ndarray], stylizer: Stylizer, setting: Setting) -> list[Shown]:
    """The frames through the film line, from a folder of pictures into a film."""
    detect_every, smooth = setting
    options = FilmOptions(detect_every=detect_every, smooth=smooth, preset="ultrafast")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "frames"
        source.mkdir()
        for number, pixels in enumerate(frames):
            Image.fromarray(pixels).save(source / f"{number:06}.png", compress_level=1)
        film = WatchedFilm(source, [(Path(folder) / "restyled.mp4", stylizer)], options, "copy", False)
        for _ in film.run():
            pass
    return film.shown


@dataclass
class Measured:
    """One film in one setting. Series are by frame, of the last role, the one in front."""

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
    stylizer: Stylizer,
    setting: Setting,
    reader: Detector,
) -> Measured:
    shown = restyle(frames, stylizer, setting)
    result = Measured(name, switches=switches(film, shown))
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
        at = [one.faces[number].face.points for one, number in zip(shown, faces, strict=True)]
        result.source_mouth = read_mouths(reader, frames, at)
        result.mouth = read_mouths(reader, [one.pixels for one in shown], at)
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


def read_mouths(reader: Detector, pictures: Sequence[np.ndarray], at: Sequence[np.ndarray]) -> np.ndarray:
    """How far each picture's mouth, by the landmarks expected `at` those points, is open: (n,), NaN where there is no
    telling."""
    read = [reader.follow(picture, [points])[0] for picture, points in zip(pictures, at, strict=True)]
    return np.array([np.nan if points is None else mouth_opening(points) for points in read])


def lag_and_correlation(result: np.ndarray | None, source: np.ndarray | None) -> tuple[int, float]:
    """By how many frames the result follows the source, and how closely then."""
    if result is None or source is None or max(np.isnan(result).mean(), np.isnan(source).mean()) > 0.1:
        return 0, np.nan
    result, source = (
        np.interp(np.arange(len(series)), np.flatnonzero(~np.isnan(series)), series[~np.isnan(series)])
        for series in (result, source)
    )
    inner = slice(MOST_LAG, -MOST_LAG)
    by_lag = {
        lag: np.corrcoef(np.roll(result, -lag)[inner], source[inner])[0, 1] for lag in range(-MOST_LAG, MOST_LAG + 1)
    }
    best = max(by_lag, key=by_lag.get)
    return best, float(by_lag[best])


def switches(film: films.DrawnFilm, shown: Sequence[Shown]) -> int:
    """How often a person's number changes within a shot."""
    count, numbers = 0, {}
    for index, one in enumerate(shown):
        if one.cut:
            numbers = {}
        seen = Shown([face for face in one.faces if face.seen])
        for who, role in enumerate(film.roles):
            nearest = seen.nearest(role.crop_from_frame(index)) if role.is_there(index) else None
            others = [other for other in film.roles if other is not role and other.is_there(index)]
            at = middle(role.crop_from_frame(index))
            if nearest is None or any(np.hypot(*(middle(o.crop_from_frame(index)) - at)) < 80 for o in others):
                continue  # not to be told whose face this is
            number = seen.faces[nearest].track
            count += numbers.get(who, number) != number
            numbers[who] = number
    return count


def table(off: list[Measured], on: list[Measured]) -> list[Row]:
    rows: list[Row] = []

    def compared(what: str, name: str, unit: str, goal: float | None, of: Sequence[str], digits: int = 2) -> None:
        """The mean over films, as a part of that without steadying; then film by film."""
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
    before, after = (sum(one.switches for one in some) for some in (off, on))
    rows.append(("people taken for others, in all films", str(before), str(after), "0", verdict(after == 0)))
    return rows


def sweep(measured: dict[Setting, list[Measured]]) -> str:
    """A line for each setting: means over films of rigid motion, then how well the mouth's and the portrait's changes
    follow the source (frames late, correlation), and how large they are."""
    lines = [f"{'--detect-every --smooth':23} {'flicker':>8} {'jitter':>8} {'seam':>8}"]
    for (detect_every, strength), some in measured.items():
        rigid = [one for one in some if one.name in RIGID]
        names = ("flicker", "jitter_px", "seam_flicker")
        means = [np.mean([getattr(one, name) for one in rigid]) if rigid else np.nan for name in names]
        faces = [
            f"{one.name}: mouth {lagged(one.response)}, change {lagged(one.change_response)}, {one.change.max():.1f}"
            for one in some
            if one.change is not None
        ]
        figures = f"{means[0]:8.3f} {means[1]:8.4f} {means[2]:8.3f}"
        lines.append(f"{detect_every:14} {strength:8} {figures}  {';  '.join(faces)}")
    return "\n".join(lines)


def write_into(path: Path, rows: list[Row], style: str) -> None:
    """Puts the table between its two marks. Ends where the file has none."""
    begin, end = "<!-- temporal -->\n", "<!-- /temporal -->"
    text = path.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        sys.exit(f"{path} has no lines {begin.strip()} and {end} to put the table between.")
    lines = [f"| {style}, drawn films | off | on | goal | |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(cell.strip() for cell in row)} |" for row in rows if not row[0].startswith(" ")]
    lines += ["", *wrap(LEGEND, 120)]
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
