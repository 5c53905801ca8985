"""How well faces and pictures belong together: the step of colour across the mask's edge, the halo, and the cost.

    python tests/bench/scene.py [PHOTO ...] [--style NAME:ID ...] [--out FOLDER]

For every photo (default: tests/data/photos) and style (default: all that ship) three results: `before`, the outline
masks that went by landmarks alone; `keep`; and `auto`. Step: how much further apart, in Lab, the colours on both sides
of the mask's edge are than in the photo itself, mean along the edge. Within: the same where both sides are the person;
a face that became darker lies further from a light background, which is no seam. Halo: mean Lab difference, in
background pixels that the outline mask covers, from the picture without the faces. Cost: CPU time of one thread on
drawn frames.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter, minimum_filter

from dualstylegan.faces.crop import crop_face, paste_face
from dualstylegan.faces.face import Face, transform
from dualstylegan.faces.masks import draw_mask
from dualstylegan.faces.matte import _MIDDLE, blend
from dualstylegan.media.images import from_tensor, read_picture
from dualstylegan.stylizing.scene import Scene, plain_table
from dualstylegan.stylizing.settings import StylizerSettings
from dualstylegan.stylizing.stylizer import Stylizer

PHOTOS = sorted((Path(__file__).parents[1] / "data" / "photos").glob("*.jpg"))
SIZE = 256  # px of the crops that are measured
BESIDE = 0.03  # of the crop: standard deviation of the window on either side of the edge
VARIANTS = ("before", "keep", "auto")


def lab(pixels: np.ndarray) -> np.ndarray:
    """uint8 sRGB (H, W, 3) to CIE Lab, D65."""
    rgb = pixels / 255.0
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ matrix.T / (0.9505, 1.0, 1.089)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def look(frame: np.ndarray, face: Face) -> np.ndarray:
    return lab(from_tensor(crop_face(frame, face.crop_from_photo, SIZE)))


def edge_of(mask: np.ndarray) -> np.ndarray:
    inside = mask > 0.5
    edge = inside & ~(np.roll(inside, 1, 0) & np.roll(inside, -1, 0) & np.roll(inside, 1, 1) & np.roll(inside, -1, 1))
    edge[[0, -1]] = edge[:, [0, -1]] = False
    return edge


def steps(view: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The distance in Lab of what lies on either side of each pixel of the mask's edge."""
    inside = mask > 0.5
    sigma = BESIDE * SIZE
    sides = []
    for side in (inside, ~inside):
        share = gaussian_filter(side.astype(float), sigma)
        sides.append(gaussian_filter(view * side[..., None], (sigma, sigma, 0)) / np.maximum(share, 1e-6)[..., None])
    return np.linalg.norm(sides[0] - sides[1], axis=-1)[edge_of(mask)]


def enlarged(mask: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(mask.astype(np.float32)).resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def measure(
    photo: np.ndarray, stylizers: dict[str, Stylizer]
) -> dict[str, tuple[np.ndarray, list[float], list[float], list[float]]]:
    """By variant: the picture, and each face's step, step within the person, and halo."""
    keep, auto = stylizers["keep"], stylizers["auto"]
    (faces,) = keep.find([photo])
    portraits = keep.render(keep.encode(keep.crop(photo, faces)))
    persons = keep.persons(photo, faces)
    placed = keep.place(faces, portraits, persons)
    scene = auto.scene_of(photo, faces, portraits)
    before = photo.copy()
    for face, portrait in zip(faces, portraits, strict=True):
        paste_face(before, portrait, face, mask=keep.mask, in_place=True)
    pictures = {"before": before, "keep": keep.compose(photo, placed), "auto": auto.compose(photo, placed, scene)}
    bare = {"before": photo, "keep": photo, "auto": photo if scene is None else scene.over(scene.under(photo).copy())}
    results = {}
    for name, picture in pictures.items():
        step, within, halo = [], [], []
        for face, one in zip(faces, placed, strict=True):
            outline = draw_mask(keep.mask, transform(face.crop_from_photo, face.points.astype(np.float64)))
            laid = blend(keep.mask, photo, one.portrait, face, one.person, one.matte)
            mask = enlarged(outline if name == "before" else laid.mask)
            view, plain = look(picture, face), look(photo, face)
            more = np.maximum(steps(view, mask) - steps(plain, mask), 0)
            step.append(float(more.mean()))
            person = enlarged(one.person.numpy()[_MIDDLE])
            beside = 2 * round(BESIDE * SIZE) + 1
            of_person = minimum_filter(person > 0.5, beside)[edge_of(mask)]
            if of_person.any():
                within.append(float(more[of_person].mean()))
            nobody = person < 0.2
            if one.matte is not None:  # hair that the style adds is no halo
                added = enlarged(laid.mask) > 0.5
                nobody &= ~added
            ring = nobody & (enlarged(outline) > 0.05)
            if ring.sum() > 50:
                halo.append(float(np.linalg.norm(view - look(bare[name], face), axis=-1)[ring].mean()))
        results[name] = picture, step, within, halo
    return results


def cpu_ms(work: Callable[[], object], times: int = 5) -> float:
    work()
    best = np.inf
    for _ in range(times):
        began = time.thread_time()
        work()
        best = min(best, time.thread_time() - began)
    return 1e3 * best


def costs() -> None:
    waves = np.random.default_rng(0).normal(size=(60, 80, 3))
    drawn = Image.fromarray((128 + 50 * waves).clip(0, 255).astype(np.uint8))
    print("\n| CPU, one thread | 640x360 frame, ms | photo, ms per megapixel |\n|---|---|---|")
    for name in ("tone", "oil", "hatch", "flat"):
        scene = Scene(plain_table(), np.zeros((2, 3)), 150.0, None if name == "tone" else name)
        frame, photo = (np.asarray(drawn.resize(size, Image.Resampling.BICUBIC)) for size in ((640, 360), (1250, 1000)))
        ms = [cpu_ms(lambda one=one, scene=scene: scene.over(scene.under(one))) for one in (frame, photo)]
        print(f"| {name} | {ms[0]:.1f} | {ms[1] / 1.25:.0f} |", flush=True)


def embedded_styles() -> list[str]:
    headers = sorted((files("dualstylegan") / "weights").glob("*/header.json"))
    return [path.parent.name for path in headers if json.loads(path.read_text(encoding="utf-8"))["kind"] == "style"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="*", default=PHOTOS)
    parser.add_argument("--style", action="append", default=None)
    parser.add_argument("--out", type=Path, help="folder for the pictures: before, keep and auto side by side")
    args = parser.parse_args()
    torch.set_num_threads(1)
    styles = args.style or embedded_styles()
    sets = {
        scene: [Stylizer(style, settings=StylizerSettings(scene=scene, device="cpu")) for style in styles]
        for scene in ("keep", "auto")
    }
    photos = {path: read_picture(path).pixels for path in args.photos}
    heads = " | ".join(f"{figure}: before | keep | auto" for figure in ("step", "within", "halo"))
    print(f"{len(photos)} photos\n\n| style | {heads} |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for number, style in enumerate(styles):
        found = {name: ([], [], []) for name in VARIANTS}
        for path, photo in photos.items():
            results = measure(photo, {scene: some[number] for scene, some in sets.items()})
            for name, (_, *figures) in results.items():
                for known, new in zip(found[name], figures, strict=True):
                    known.extend(new)
            if args.out:
                args.out.mkdir(parents=True, exist_ok=True)
                row = np.hstack([photo, *(picture for picture, *_ in results.values())])
                Image.fromarray(row).save(args.out / f"{path.stem}.{style.replace(':', '-')}.png")
        means = [np.mean(found[name][kind]) if found[name][kind] else np.nan for kind in range(3) for name in VARIANTS]
        print("| " + " | ".join([style, *(f"{value:.1f}" for value in means)]) + " |", flush=True)
    costs()


if __name__ == "__main__":
    main()
