"""The photos that recipe `mini256` trains on, gathered as SOURCE/PERSON/FILE, so that its patterns can tell who is who.

    python tests/tools/gather_faces.py SHARED/facedata data/faces

Every photo of `photos` but those of which `photos2` has a sharper one, then what is new in `photos2`; the Face Research
Lab's and the interfaces' photos are in both and taken from the originals. Pictures that recipe `mini` holds out are
taken as they are, sharper ones or not: the list stays the same. Links, where the folder's file system has them.
"""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

from dualstylegan.recipe import load_recipe
from dualstylegan.training.data import held_out_of, list_portraits

IN_BOTH = ("frl_canada", "frl_london_neutral", "frl_london_smiling", "interfaces_cc0")


def places(shared: Path) -> dict[Path, Path]:
    """{SOURCE/PERSON/FILE: the photo}"""
    photos, photos2 = shared / "photos", shared / "photos2"
    with (photos2 / "faces.csv").open(newline="", encoding="utf-8") as file:
        new = list(csv.DictReader(file))
    mini = load_recipe("mini", data__folder=str(photos)).data
    kept, _ = held_out_of(list(list_portraits(mini)), mini)
    superseded = {*(photos2 / "superseded_congress_gpo.txt").read_text().split()} - {*kept}
    grey = {*(photos / "congress_gpo_grayscale.txt").read_text().split()}

    found = {}
    for name, path in list_portraits(mini).items():
        source, file = name.split("/")
        if name in superseded:
            continue
        person = path.stem
        if source in IN_BOTH:  # as photos2/faces.csv names them: 001_03 and 001_08 of the London sets are one person
            family = {"interfaces_cc0": "interfaces"}.get(source, "_".join(source.split("_")[:2]))
            person = f"{family}-{path.stem.partition('_')[0]}"
        if file in grey and source == "congress_gpo":
            source = "congress_gpo_grey"
        found[Path(source, person, file)] = path
    for row in new:
        path = photos2 / row["file"]
        if row["source"] not in IN_BOTH and not path.stem.startswith("interfaces_cc0"):
            found[Path(row["source"], row["person_id"].replace(":", "-"), path.name)] = path
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
