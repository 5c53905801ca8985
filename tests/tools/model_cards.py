"""Write the model cards of what is embedded, from the models' headers and from what `quality.py` measured of them.

    python tests/bench/quality.py --json figures.json
    python tests/tools/model_cards.py --figures figures.json    # keeps each model's figures beside it, writes the cards
    python tests/tools/model_cards.py                           # cards anew, from the figures that are there

A card is CARD.md in the model's folder, its figures are figures.json beside it; NOTICE in weights/ gets a section on
the models. No number is written by hand: figures measured of other files than these are refused. The words are in
model_cards.toml.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from pathlib import Path
from textwrap import fill
from typing import Any

from dualstylegan.errors import DualStyleGANError
from dualstylegan.models.bundle import read_header
from dualstylegan.models.cache import EMBEDDED

CARD, FIGURES, NOTICE = "CARD.md", "figures.json", "NOTICE"
INDENT = 4 * " "
WORDS = Path(__file__).with_suffix(".toml")
NOTICE_BEGINS = "Models trained by this project\n==============================\n"
OURS = ("figure", "DualStyleGAN")  # the columns that are the model's own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=Path, help="what quality.py --json has written")
    parser.add_argument("--weights", type=Path, default=EMBEDDED)
    asked = parser.parse_args()
    folders = [header.parent for header in sorted(asked.weights.glob("*/header.json"))]
    if not folders:
        sys.exit(f"No model lies in {asked.weights}.")
    try:
        if asked.figures:
            keep_figures(json.loads(asked.figures.read_text(encoding="utf-8")), folders)
        for folder in folders:
            (folder / CARD).write_text(card_of(folder), encoding="utf-8")
            print(folder / CARD)
        write_notice(asked.weights / NOTICE, [folder.name for folder in folders])
    except DualStyleGANError as error:
        sys.exit(str(error))


def keep_figures(measured: dict[str, Any], folders: list[Path]) -> None:
    """Each model's part of the figures beside it. Raises DualStyleGANError for figures of other files."""
    common = {key: value for key, value in measured.items() if key != "models"}
    if measured["photos"] < 64:
        raise DualStyleGANError(f"These figures are of {measured['photos']} photos, a fast look: measure all 64.")
    for folder in folders:
        header = read_header(folder)
        own = measured["models"].get(header["name"])
        if own is None:
            raise DualStyleGANError(f"The figures know no {header['name']}: measure it with quality.py first.")
        demand_measured_here(header, own)
        text = json.dumps(common | own, indent=1, ensure_ascii=False) + "\n"
        (folder / FIGURES).write_text(text, encoding="utf-8")


def demand_measured_here(header: dict[str, Any], figures: dict[str, Any]) -> None:
    if figures["parts"] != header["parts"]:
        raise DualStyleGANError(
            f"The figures of {header['name']} were measured of other files: run quality.py on what is embedded."
        )


def card_of(folder: Path) -> str:
    """The card's text. Raises DualStyleGANError where figures are missing, or of other files, or the model unknown."""
    header = read_header(folder)
    try:
        figures = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DualStyleGANError(f"{folder} has no {FIGURES}: measure it with quality.py, and give --figures.") from None
    demand_measured_here(header, figures)
    known = words_on(header["name"])
    size_mb = sum((folder / part).stat().st_size for part in header["parts"]) / 1e6
    facts = [f"{header['kind']}", f"{header['size']} px", f"{size_mb:.1f} MB in half precision"]
    if header["kind"] == "style":
        facts += [f"{len(header['exemplars'])} exemplars", f"on the base {header['base']['name']}"]
    sections = {
        "Data": known["data"],
        "Bias": known["bias"],
        "Training": _training(header),
        "Figures": _figures(figures),
        "What it is not": known["not"],
        "Licence": known["licence"],
    }
    text = [f"# {header['name']}", known["about"], f"A {', '.join(facts)}."]
    text += [f"## {title}\n\n{body}" for title, body in sections.items()]
    return "\n\n".join(text) + "\n"


def words_on(name: str) -> dict[str, str]:
    """What is said of a model besides figures. Raises DualStyleGANError for one nobody has described."""
    words = tomllib.loads(WORDS.read_text(encoding="utf-8"))
    if name not in words:
        raise DualStyleGANError(f"{WORDS.name} does not say what {name} was trained on: write it there.")
    shared = words["sources"] | words["shared"]
    return {key: text.strip().format(**shared).strip() for key, text in words[name].items()}


def _training(header: dict[str, Any]) -> str:
    training = header["training"]
    lines = ["| stage | steps | images | time |", "|---|---|---|---|"]
    for name, stage in training["stages"].items():
        counts = [f"{stage[key]:,}" if key in stage else "" for key in ("steps", "images")]
        lines.append(f"| {name} | {' | '.join(counts)} | {_duration(stage['seconds'])} |")
    seen = sum(stage.get("images", 0) for stage in training["stages"].values())
    seconds = sum(stage["seconds"] for stage in training["stages"].values())
    sums = f"{training['pictures']:,} pictures, {seen:,} shown in all, {_duration(seconds)} by the clock"
    made = f"By the recipe `{header['name']}`, on two processor cores that other work shared, without a GPU: {sums}."
    return "\n".join([made, "", *lines])


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def _figures(figures: dict[str, Any]) -> str:
    columns = figures["columns"]
    (own,) = (name for name in OURS if name in columns)
    head = ["what", "goal", *columns]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for key, what in figures["what"].items():
        if key not in columns[own]:
            continue
        goal = figures["goals"].get(key, "")
        marked = " (missed)" if key in figures["missed"] else ""
        cells = [f"{columns[name][key]:g}" if key in columns[name] else "" for name in columns]
        cells[list(columns).index(own)] += marked
        lines.append(f"| {what} | {goal} | {' | '.join(cells)} |")
    missed = figures["missed"]
    verdict = f"Goals missed: {len(missed)} of {len(figures['goals'])}." if missed else "Every goal is met."
    is_style = own == "DualStyleGAN"
    about = f"`tests/bench/quality.py` on the {figures['photos']} held-out photos"
    about += f", each in {figures['each_in_exemplars']} exemplars of the style's portraits" if is_style else ""
    about += ". Shares are parts of 1. The identity net and MobileNetV2's features also trained the model"
    about += f" (KID is on its {figures['kid_layer']})" if is_style else ""
    about += "; the 68 landmarks and Lab colours trained nothing."
    if is_style:
        about += " *exemplar* and *photo* are these, unchanged, and must miss a goal."
    if "layer swap" in columns:
        about += " *layer swap* and *style mixing* are what the fine-tuned generator does alone."
    return "\n".join([about, "", *lines, "", verdict])


def write_notice(path: Path, names: list[str]) -> None:
    """Replace the section on our own models, which stands last."""
    before = path.read_text(encoding="utf-8").partition(NOTICE_BEGINS)[0].rstrip("\n")
    path.write_text(before + "\n\n\n" + notice_of(names), encoding="utf-8")


def notice_of(names: list[str]) -> str:
    words = {name: words_on(name) for name in names}
    entries = [
        "\n".join([f"{name}/", _indented(known["notice"]), _indented(f"Licence: {known['licence']}")])
        for name, known in words.items()
    ]
    closing = "CARD.md in each folder says more. CC BY 4.0: https://creativecommons.org/licenses/by/4.0/"
    return "\n".join([NOTICE_BEGINS, "\n\n".join(entries), "", closing, ""])


def _indented(text: str) -> str:
    return fill(text, 118, initial_indent=INDENT, subsequent_indent=INDENT, break_on_hyphens=False)


if __name__ == "__main__":
    main()
