"""`make demo`: the sample photos in every style that ships with the package, and a sheet of before and after."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = ROOT / "tests" / "data" / "photos"
OUT = ROOT / "demo"


def embedded_styles() -> list[str]:
    headers = sorted((files("dualstylegan") / "weights").glob("*/header.json"))
    return [path.parent.name for path in headers if json.loads(path.read_text(encoding="utf-8"))["kind"] == "style"]


def dsg(*arguments: str | Path) -> None:
    print("$ dsg", *(str(argument) for argument in arguments), flush=True)
    status = subprocess.run([sys.executable, "-m", "dsgcli", *map(str, arguments)], cwd=ROOT).returncode
    if status:
        sys.exit(status)  # dsg has said why


def draw_sheet(folder: Path, path: Path) -> None:
    from dualstylegan.media.images import read_picture, write_picture
    from dualstylegan.media.sheets import contact_sheet

    faces = sorted(folder.rglob("*.png"))
    write_picture(path, contact_sheet([read_picture(face).pixels for face in faces], [face.stem for face in faces]))


def main() -> None:
    began_s = time.monotonic()
    photos = PHOTOS.relative_to(ROOT)
    out = OUT.relative_to(ROOT)
    styles = embedded_styles()
    if styles:
        chosen = [part for style in styles for part in ("--style", style)]
        dsg("stylize", photos, *chosen, "-o", out, "--sheet", out / "sheet.png")
        result = f"Before and after: {out / 'sheet.png'}; the photos in every style beside it."
    else:
        dsg("align", photos, "-o", out / "faces", "--size", "512")
        draw_sheet(OUT / "faces", OUT / "faces.png")
        result = f"No style ships with the package yet: the faces, found and aligned, are in {out / 'faces.png'}."
    print(f"{result} ({time.monotonic() - began_s:.0f} s)")


if __name__ == "__main__":
    main()
