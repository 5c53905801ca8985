"""`make demo`: sample photos and a short film in every style that ships with the package; a sheet of before and after.

Two more sources are drawn from the astronaut's photo: her face enlarged to 1000 px, and a film of a slow pan and zoom.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = ROOT / "tests" / "data" / "photos"
OUT = ROOT / "demo"
ASTRONAUT = PHOTOS / "astronaut.jpg"
FACE = (166, 56, 281, 171)  # x1, y1, x2, y2 of the astronaut's face, px

LARGE_FACE_PX = 1000
FRAMES, FPS, FRAME_SIZE = 60, 24, (480, 360)
VIEW_PX = (480, 300)  # width of what the film shows, at its beginning and its end


def main() -> None:
    began_s = time.monotonic()
    out, styles = OUT.relative_to(ROOT), embedded_styles()
    if styles:
        sources = draw_sources(OUT / "sources")
        chosen = [part for style in styles for part in ("--style", style)]
        sheet = out / "sheet.png"
        shown = [source.relative_to(ROOT) for source in sources]
        told = ["-o", out, "--sheet", sheet, "--sheet-keep", "--offline"]
        dsg("stylize", PHOTOS.relative_to(ROOT), *shown, *chosen, *told)
        result = f"Before and after: {sheet}; photos and film in {', '.join(styles)} beside it."
    else:
        dsg("align", PHOTOS.relative_to(ROOT), "-o", out / "faces", "--size", "512")
        draw_sheet(OUT / "faces", OUT / "faces.png")
        result = f"No style ships with the package yet: the faces, found and aligned, are in {out / 'faces.png'}."
    print(f"{result} ({time.monotonic() - began_s:.0f} s)")


def embedded_styles() -> list[str]:
    headers = sorted((files("dualstylegan") / "weights").glob("*/header.json"))
    return [path.parent.name for path in headers if json.loads(path.read_text(encoding="utf-8"))["kind"] == "style"]


def dsg(*arguments: str | Path) -> None:
    print("$ dsg", *(str(argument) for argument in arguments), flush=True)
    status = subprocess.run([sys.executable, "-m", "dsgcli", *map(str, arguments)], cwd=ROOT).returncode
    if status:
        sys.exit(status)  # dsg has said why


def draw_sources(folder: Path) -> list[Path]:
    """The enlarged face and the film."""
    from dualstylegan.media.film.clip import write_clip

    folder.mkdir(parents=True, exist_ok=True)
    large, film = folder / f"astronaut-face-{LARGE_FACE_PX}px.jpg", folder / "astronaut-film.mp4"
    with Image.open(ASTRONAUT) as photo:
        photo = photo.convert("RGB")
        enlarged_face(photo).save(large, quality=92)
        write_clip(film, pan_and_zoom(photo), fps=FPS)
    return [large, film]


def enlarged_face(photo: Image.Image) -> Image.Image:
    """The head alone, so much larger that the face is LARGE_FACE_PX wide: more pixels, no more detail."""
    x1, y1, x2, y2 = FACE
    side = x2 - x1
    box = (x1 - 0.6 * side, y1 - 0.45 * side, x2 + 0.6 * side, y2 + 0.6 * side)
    scale = LARGE_FACE_PX / side
    size = round((box[2] - box[0]) * scale), round((box[3] - box[1]) * scale)
    return photo.resize(size, Image.Resampling.BICUBIC, box=box)


def pan_and_zoom(photo: Image.Image) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8: from the whole photo slowly towards the face, between pixels too."""
    width, height = FRAME_SIZE
    face = np.array([(FACE[0] + FACE[2]) / 2, (FACE[1] + FACE[3]) / 2])
    middle = np.array(photo.size) / 2
    for t in np.linspace(0, 1, FRAMES):
        eased = t * t * (3 - 2 * t)
        view = VIEW_PX[0] + (VIEW_PX[1] - VIEW_PX[0]) * eased
        across, down = view / 2, view / 2 * height / width
        low, high = np.array([across, down]), np.array(photo.size) - [across, down]
        x, y = np.clip(middle + (face - middle) * (0.4 + 0.6 * eased), low, high)
        box = (x - across, y - down, x + across, y + down)
        yield np.asarray(photo.resize(FRAME_SIZE, Image.Resampling.BICUBIC, box=box))


def draw_sheet(folder: Path, path: Path) -> None:
    from dualstylegan.media.images import read_picture, write_picture
    from dualstylegan.media.sheets import contact_sheet

    faces = sorted(folder.rglob("*.png"))
    write_picture(path, contact_sheet([read_picture(face).pixels for face in faces], [face.stem for face in faces]))


if __name__ == "__main__":
    main()
