"""What a film costs: frames a second, each stage's CPU time per frame, and memory at its peak.

    python tests/bench/video.py [--style NAME:ID]    # the whole way; without --style an embedded one
    python tests/bench/video.py --stub               # stubs for the networks: everything else, at most 15 ms a frame

    python tests/bench/video.py --film 1080p         # or 720p, or four: four faces; one a run, for its peak of memory

The film is drawn (300 frames of 640x360: a person before a scene, hand-held, with noise, two seconds played to and
fro; or that enlarged, or four of it side by side), H.264 with AAC sound. Stages run in threads, and CPU time is by each
thread's own clock: waiting does not count, but who shares caches and cores with other programs takes up to twice as
long. "Other threads" are the codecs', torch's helpers and the one that waits for the rest. With a style, find, encode
and generate hold its networks.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from devices import add_device_option, named
from films import Cast, handheld
from PIL import Image

from dualstylegan.choices import DETECT_EVERY, SMOOTH
from dualstylegan.faces.face import Face
from dualstylegan.faces.masks import MASK_SIZE
from dualstylegan.faces.matte import WIDE_SIZE
from dualstylegan.models.codes import parse_style
from dualstylegan.models.lookup import list_styles
from dualstylegan.stylizing import films as film_line
from dualstylegan.stylizing.film_report import FilmReport
from dualstylegan.stylizing.films import restyle_film
from dualstylegan.stylizing.settings import FilmOptions, StylizerSettings
from dualstylegan.stylizing.stylizer import Placed, Stylizer

LIMIT_MS = 15
DRAWN = 50  # frames
FILMS = {"360p": (640, 360), "720p": (1280, 720), "1080p": (1920, 1080), "four": (1280, 720)}  # width, height; px
PORTRAIT_PX, CROP_PX, ROWS, DIM = 128, 128, 12, 128  # an embedded style's
STAGES = ("decode", "find", "encode", "generate", "paste", "write")


class StubDetector:
    """Knows where the face is in the first frame, and agrees with wherever it is followed to."""

    name = "stub"

    def __init__(self, points: np.ndarray):
        self.points = points.astype(np.float32)

    def find(self, pictures):
        return [[Face.from_points(self.points, 0.999)] for _ in pictures]

    def follow(self, picture, points):
        self.points = np.asarray(points[0], np.float32)
        return [one.astype(np.float32) for one in points]


class StubEmbedder:
    def embed(self, picture, faces):
        for face in faces:
            face.embedding = np.zeros(128, np.float32)


class StubStylizer(Stylizer):
    """Everything of a Stylizer but its networks: a portrait is a fixed picture."""

    size, crop_size, rows_needed = PORTRAIT_PX, CROP_PX, tuple(range(7))
    title, description, fingerprint, settings = "stub:0", "stub", "stub", StylizerSettings()
    request = parse_style("stub:0")

    def __init__(self, points: np.ndarray, mask: str = "head", batch: int = 8):
        self.detector, self.mask, self.batch = StubDetector(points), mask, batch
        self.encoder = self
        self.portrait = torch.linspace(-1, 1, PORTRAIT_PX).expand(1, 3, PORTRAIT_PX, PORTRAIT_PX)

    def encode(self, crops, rows=None):
        return torch.zeros(len(crops), ROWS, DIM)

    def render(self, codes, region=None):
        return self.portrait.repeat(len(codes), 1, 1, 1)

    def persons_in(self, views):
        return torch.ones(len(views), WIDE_SIZE, WIDE_SIZE)

    def place(self, faces, portraits, persons, which):
        everywhere = torch.ones(MASK_SIZE, MASK_SIZE)
        return [Placed(face, self.portrait[0], everywhere, person) for face, person in zip(faces, persons, strict=True)]


def drawn_as(film: str, picture: np.ndarray) -> np.ndarray:
    """A frame of 640x360 as it is in one of FILMS."""
    if film == "four":
        return np.tile(picture, (2, 2, 1))
    return np.asarray(Image.fromarray(picture).resize(FILMS[film], Image.Resampling.BICUBIC))


def pool_cpu_s() -> float:
    """CPU time of the threads the face networks run on, which outlive a film."""
    pool = [thread for thread in threading.enumerate() if thread.name.startswith("dsg-faces")]
    return sum(time.clock_gettime(time.pthread_getcpuclockid(thread.ident)) for thread in pool)


def measure(source: Path, stylizer: Stylizer, options: FilmOptions) -> tuple[FilmReport, Counter[str]]:
    """The film's report, and the CPU seconds of each stage."""
    with tempfile.TemporaryDirectory() as folder:
        before_s, pool_s = time.process_time(), pool_cpu_s()
        *_, report = restyle_film(source, [(Path(folder) / "out.mp4", stylizer)], options)
        whole_s = time.process_time() - before_s
    cpu_s = Counter({stage: report.cpu_s[stage] for stage in STAGES})
    cpu_s["face networks"] = pool_cpu_s() - pool_s
    cpu_s["other threads"] = max(0.0, whole_s - sum(cpu_s.values()))
    return report, cpu_s


def main() -> int:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from drawn_films import draw_film

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--style", help="NAME:ID; else the first embedded one")
    parser.add_argument("--stub", action="store_true", help="stubs in place of the networks")
    parser.add_argument("--film", choices=FILMS, default="360p", help="its size, or how many faces")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--detect-every", type=int, default=DETECT_EVERY)
    parser.add_argument("--smooth", type=float, default=SMOOTH)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's")
    parser.add_argument("--precision", default="auto")
    add_device_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    drawn = handheld(Cast(), length=DRAWN)
    first = drawn.roles[0]
    points = first.person.points @ first.frame_from_photo[0][:2, :2].T + first.frame_from_photo[0][:2, 2]
    if arguments.stub and arguments.film != "360p":
        parser.error("--stub knows the face of the film of 640x360 only")
    if arguments.stub:
        film_line.face_embedder = StubEmbedder
        stylizer = StubStylizer(points)
    else:
        embedded = [style.name for style in list_styles() if style.place == "embedded"]
        style = arguments.style or (embedded[0] if embedded else None)
        if style is None:
            parser.error("no style is embedded yet: --style NAME:ID or a style's folder, or --stub")
        stylizer = Stylizer(style, device=arguments.device, precision=arguments.precision, detector="embedded")
    options = FilmOptions(detect_every=arguments.detect_every, smooth=arguments.smooth)

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "film.mp4"
        pictures = [drawn_as(arguments.film, picture) for picture in drawn.frames()]
        to_and_fro = [*range(DRAWN), *range(DRAWN - 2, 0, -1)]
        shown = [pictures[to_and_fro[index % len(to_and_fro)]] for index in range(arguments.frames)]
        draw_film(source, shown, size=FILMS[arguments.film], audio="aac")
        del pictures, shown
        measure(source, stylizer, FilmOptions(max_frames=16))  # what the first calls cost is no film's
        if arguments.stub:
            stylizer = StubStylizer(points)
        report, cpu_s = measure(source, stylizer, options)

    frames = report.frames
    where = named(torch.device("cpu") if arguments.stub else stylizer.device)
    print(f"{arguments.film}; {stylizer.description}; {where}; {report.summary}")
    print("| stage | CPU ms per frame |\n|---|---|")
    for stage, seconds in cpu_s.items():
        print(f"| {stage} | {1000 * seconds / frames:.1f} |")
    whole_ms = 1000 * sum(cpu_s.values()) / frames
    print(f"| together | {whole_ms:.1f} |")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{report.frames_per_s:.1f} frames/s, peak {peak_mb:.0f} MB")
    if arguments.stub:
        print(f"limit {LIMIT_MS} ms: {'kept' if whole_ms <= LIMIT_MS else 'MISSED'}")
    return int(arguments.stub and whole_ms > LIMIT_MS)


if __name__ == "__main__":
    sys.exit(main())
