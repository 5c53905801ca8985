"""Who is held out: the two lists of photos that nothing which ships was trained on, and who a photo shows.

The first is what recipe `mini` holds out of `photos`: 64 photos, mostly of one kind. The second is what `mini256` holds
out of `photos2` by a hash of every person: people of other kinds. Persons are called as photos2/faces.csv calls them.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from dualstylegan.recipe import Data, load_recipe
from dualstylegan.training.data import held_out_of, list_portraits

FAMILIES = {  # sources whose people have numbers: 001_03 and 001_08 of the London sets are one person
    "frl_london_neutral": "frl_london",
    "frl_london_smiling": "frl_london",
    "frl_canada": "frl_canada",
    "interfaces_cc0": "interfaces",
}


def person_of_photo(name: str) -> str:
    """Who a photo shows, by its name: SOURCE/FILE as in `photos`, or SOURCE/PERSON/FILE as gathered for training."""
    *folders, file = name.split("/")
    if len(folders) > 1:
        return folders[1]
    stem = file.rpartition(".")[0] or file
    family = FAMILIES.get(folders[0]) if folders else None
    return f"{family}-{stem.partition('_')[0]}" if family else stem


def first_rule(photos: Path) -> Data:
    return load_recipe("mini", data__folder=str(photos)).data


def first_list(photos: Path) -> dict[str, Path]:
    """{name: file} of the 64."""
    rule = first_rule(photos)
    files = list_portraits(rule)
    return {name: files[name] for name in held_out_of(list(files), rule)[0]}


def gathered(photos2: Path) -> dict[str, Path]:
    """{SOURCE/PERSON/FILE: file} of every photo of `photos2`."""
    with (photos2 / "faces.csv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    found = {}
    for row in rows:
        path = photos2 / row["file"]
        found[f"{row['source']}/{row['person_id'].replace(':', '-')}/{path.name}"] = path
    return found


def second_list(photos2: Path) -> dict[str, Path]:
    """{SOURCE/PERSON/FILE: file} of the people that a hash holds out."""
    files, rule = gathered(photos2), replace(load_recipe("mini256").data, held_out=0)
    return {name: files[name] for name in held_out_of(sorted(files), rule)[0]}
