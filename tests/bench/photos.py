"""What a photo costs besides its networks, and what it costs with them.

    python tests/bench/photos.py                       # decode, crop, paste, encode, write; stubs for the networks
    python tests/bench/photos.py --style NAME:ID       # the whole way, with a real style

CPU time is the process's, over all threads: it does not shrink when threads share the work. The photos are drawn
(coloured 1/f noise compresses like a photo) unless --photos names a folder.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from devices import add_device_option, named
from PIL import Image

from dualstylegan.faces.face import Face
from dualstylegan.faces.masks import MASK_SIZE
from dualstylegan.faces.matte import WIDE_SIZE
from dualstylegan.models.codes import parse_style
from dualstylegan.stylize import Stylizer, StylizerSettings, stylize_files
from dualstylegan.stylizing.stylizer import Placed

WIDTH, HEIGHT = 1152, 868  # one megapixel, 4:3
PORTRAIT_PX, CROP_PX = 1024, 256  # the official models'


class StubStylizer(Stylizer):
    """Everything of a Stylizer but its networks: the faces are known, a portrait is a fixed picture."""

    size, crop_size, rows_needed = PORTRAIT_PX, CROP_PX, tuple(range(7))
    title, description, settings = "stub:0", "stub", StylizerSettings()
    request, scene, surface, finishes = parse_style("stub:0"), "keep", None, False

    def __init__(self, faces: list[Face], mask: str, batch: int = 4):
        self.known, self.mask, self.batch = faces, mask, batch
        self.encoder, self.detector = self, None  # nobody is asked
        self.portrait = torch.linspace(-1, 1, PORTRAIT_PX).expand(1, 3, PORTRAIT_PX, PORTRAIT_PX)

    def find(self, pictures):
        return [self.known for _ in pictures]

    def encode(self, crops, rows=None):
        return torch.zeros(len(crops), 18, 1)

    def render(self, codes, region=None):
        return self.portrait.repeat(len(codes), 1, 1, 1)

    def persons_in(self, views):
        return torch.ones(len(views), WIDE_SIZE, WIDE_SIZE)

    def place(self, faces, portraits, persons, which=None):
        everywhere = None if self.mask == "face" else torch.ones(MASK_SIZE, MASK_SIZE)
        return [Placed(*one, everywhere, person) for *one, person in zip(faces, portraits, persons, strict=True)]


def drawn_photo(seed: int) -> Image.Image:
    """Coloured noise whose amplitude falls with frequency, as a photo's does."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.rfftfreq(WIDTH), np.fft.fftfreq(HEIGHT)))
    spectrum = rng.standard_normal((3, *frequency.shape)) + 1j * rng.standard_normal((3, *frequency.shape))
    waves = np.fft.irfft2(spectrum / np.maximum(frequency, 1 / WIDTH) ** 1.2, (HEIGHT, WIDTH))
    waves = (waves - waves.mean()) / waves.std()
    return Image.fromarray((128 + 48 * waves).clip(0, 255).astype(np.uint8).transpose(1, 2, 0).copy())


def face_with_crop(side_px: float) -> Face:
    """An upright face in the middle of the photo whose FFHQ crop is about `side_px` wide."""
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tiny_style import face_points

    radius = 100.0
    for _ in range(3):  # the crop is proportional to the face
        points = face_points(WIDTH / 2, HEIGHT / 2, radius)
        box = np.array([WIDTH / 2 - radius, HEIGHT / 2 - radius, WIDTH / 2 + radius, HEIGHT / 2 + radius])
        face = Face(points=points, box=box, score=1.0)
        radius *= side_px / (1 / np.sqrt(abs(np.linalg.det(face.crop_from_photo[:2, :2]))))
    return face


def measure(inputs: Path, style, count: int, **options) -> tuple[float, float]:
    """CPU and wall seconds per photo."""
    with tempfile.TemporaryDirectory() as out:
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        events = list(stylize_files([inputs], [style], output=out, **options))
        cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    assert events[-1].data["failed"] == 0, [e.message for e in events if e.kind == "failed"]
    return cpu_s / count, wall_s / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--style", help="measure the whole way with this style")
    parser.add_argument("--photos", type=Path, help="a folder of photos instead of drawn ones")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--precision", default="auto")
    add_device_option(parser)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        photos = arguments.photos or Path(folder)
        if arguments.photos is None:
            for i in range(arguments.count):
                drawn_photo(i).save(photos / f"{i:03}.jpg", quality=92, subsampling="4:2:0")
        megapixels = WIDTH * HEIGHT / 1e6
        count = sum(1 for path in photos.rglob("*") if path.is_file())
        print(f"{count} photos, {torch.get_num_threads()} threads")
        if arguments.style:
            stylizer = Stylizer(arguments.style, device=arguments.device, precision=arguments.precision)
            print(named(stylizer.device))
            measure(photos, stylizer, count)
            cpu_s, wall_s = measure(photos, stylizer, count)
            peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"{stylizer.description}: {wall_s:.2f} s a photo ({cpu_s:.2f} s of CPU), peak {peak_gb:.2f} GB")
            return
        print("| crop in the photo | mask | CPU per photo | wall per photo |\n|---|---|---|---|")
        for side_px in (256, 512, 800):
            for mask in ("face", "crop"):
                stub = StubStylizer([face_with_crop(side_px)], mask)
                measure(photos, stub, count)
                cpu_s, wall_s = measure(photos, stub, count)
                print(f"| {side_px} px | {mask} | {1000 * cpu_s / megapixels:.0f} ms/MP | {1000 * wall_s:.0f} ms |")


if __name__ == "__main__":
    main()
