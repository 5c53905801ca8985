"""The photos that recipe `mini256` trains on, gathered as SOURCE/PERSON/FILE, so that its patterns can tell who is who.

    python tests/tools/gather_faces.py SHARED/facedata data/faces

Every photo of `photos` but those of which `photos2` has a sharper one, then what is new in `photos2`; the Face Research
Lab's and the interfaces' photos are in both and taken from the originals. Pictures that recipe `mini` holds out are
taken as they are, sharper ones or not: the list stays the same. Links, where the folder's file system has them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

from held_out import FAMILIES, first_list, first_rule, gathered, person_of_photo

from dualstylegan.training.data import list_portraits


def places(shared: Path) -> dict[Path, Path]:
    """{SOURCE/PERSON/FILE: the photo}"""
    photos, photos2 = shared / "photos", shared / "photos2"
    superseded = {*(photos2 / "superseded_congress_gpo.txt").read_text().split()} - {*first_list(photos)}
    grey = {*(photos / "congress_gpo_grayscale.txt").read_text().split()}
    found = {}
    for name, path in list_portraits(first_rule(photos)).items():
        source, file = name.split("/")
        if name not in superseded:
            kind = "congress_gpo_grey" if source == "congress_gpo" and file in grey else source
            found[Path(kind, person_of_photo(name), file)] = path
    for name, path in gathered(photos2).items():
        if name.split("/")[0] not in FAMILIES and not path.stem.startswith("interfaces_cc0"):
            found[Path(name)] = path
    return found


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    shared, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    found = places(shared)
    for place, photo in found.items():
        target = out / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            target.symlink_to(photo)
        except OSError:
            shutil.copyfile(photo, target)
    print(f"{len(found)} photos of {len({place.parent.name for place in found})} people in {out}")


if __name__ == "__main__":
    main()
