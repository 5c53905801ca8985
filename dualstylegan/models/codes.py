"""The codes of a style: its exemplars by number or name, blends of them, and weights per row.

Codes are (rows, dim) float32 in Z+, one row per layer that reads it; rows 0-6 are structure, the rest colour.
What users type for a style is parsed here too: `NAME:ID`, `anime:42*0.7+anime:17*0.3`, `NAME` alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor

from dualstylegan.choices import MOST_ROWS
from dualstylegan.errors import UsageError, did_you_mean
from dualstylegan.media.plan import file_slug
from dualstylegan.runtime.files import at_home


@dataclass(frozen=True)
class Exemplars:
    """A style's exemplars by number and name, in ID order. `style` is only there to make messages helpful."""

    names: tuple[str, ...]
    style: str | None = None

    def __len__(self) -> int:
        return len(self.names)

    def index(self, which: int | str) -> int:
        """The number of an exemplar given by number (3, "3") or file name ("x.jpg", "x").

        A plain number always counts from 0 in ID order; "03" is looked up as a name first.
        Raises UsageError naming the range, or the nearest name.
        """
        if isinstance(which, int):
            return self._checked(which)
        if re.fullmatch(r"0|[1-9]\d*", which):
            return self._checked(int(which))
        if which in self.names:
            return self.names.index(which)
        stems = [PurePath(name).stem for name in self.names]
        if stems.count(which) == 1:
            return stems.index(which)
        if stems.count(which) > 1:
            several = [name for name, stem in zip(self.names, stems, strict=True) if stem == which]
            raise UsageError(f"'{which}' could be {' or '.join(several)} in {self.called}: write the whole name.")
        if re.fullmatch(r"\d+", which):
            return self._checked(int(which))
        hint = did_you_mean(which, self.names) or did_you_mean(which, stems)
        raise UsageError(f"No exemplar '{which}' in {self.called}, and no such picture.{hint} {self._existing()}")

    def _checked(self, number: int) -> int:
        if 0 <= number < len(self):
            return number
        raise UsageError(f"No exemplar {number} in {self.called}. {self._existing()}")

    @property
    def called(self) -> str:
        return f"style '{self.style}'" if self.style else "this style"

    def _existing(self) -> str:
        if not len(self):
            return "It has no exemplars."
        shown = f" 'dsg styles show {self.style}' draws them." if self.style else ""
        return f"It has {len(self)}, numbered 0 to {len(self) - 1} ({self.names[0]} ... {self.names[-1]}).{shown}"


@dataclass
class StyleBank:
    """A style's exemplars: `names` in ID order, their codes (N, rows, dim) in Z+.

    `extrinsic` holds the refined codes where refinement was run, else the encoder's; `plain` always the encoder's.
    `style` is only there to make messages helpful. Raises UsageError where numbers of names and codes differ.
    """

    names: tuple[str, ...]
    extrinsic: Tensor
    intrinsic: Tensor | None = None
    refined: Tensor | None = None
    style: str | None = None
    plain: Tensor = field(init=False, repr=False)

    def __post_init__(self):
        self.names = tuple(str(name) for name in self.names)
        self.plain = self.extrinsic
        for kind, codes in {"extrinsic": self.plain, "intrinsic": self.intrinsic, "refined": self.refined}.items():
            if codes is not None and (codes.ndim != 3 or len(codes) != len(self.names)):
                shape = tuple(codes.shape)
                raise UsageError(f"{len(self.names)} exemplar names need {kind} codes (N, rows, dim), got {shape}.")
        if self.refined is not None:
            self.extrinsic = self.refined

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.extrinsic)

    def __getitem__(self, which: int | str) -> Tensor:
        """The extrinsic code (rows, dim) of exemplar `which`, as `index` understands it."""
        return self.extrinsic[self.index(which)]

    @property
    def exemplars(self) -> Exemplars:
        return Exemplars(self.names, self.style)

    @property
    def rows(self) -> int:
        return self.plain.shape[1]

    def index(self, which: int | str) -> int:
        """The number of an exemplar; see `Exemplars.index`."""
        return self.exemplars.index(which)


# What users type


class StylePart(NamedTuple):
    """One exemplar of a request: a number, a file name, a picture's path, or None for the style's default."""

    exemplar: str | None
    weight: float


@dataclass(frozen=True)
class StyleRequest:
    """`--style`, parsed: one style's `name` (or its folder's path) and the exemplars to blend, weights summing to 1."""

    name: str
    parts: tuple[StylePart, ...]

    @property
    def is_blend(self) -> bool:
        return len(self.parts) > 1

    @property
    def slug(self) -> str:
        """For file names: `toon-7`, `anime-42x0.7+17x0.3`, `toon` for the default exemplar."""
        name, exemplar = self.label()
        return file_slug(name if exemplar is None else f"{name}-{exemplar}")

    def label(self, above: int = 0, above_style: int = 0) -> tuple[str, str | None]:
        """The style's name and its ID as file names show them: ("toon", "7"), ("anime", "42x0.7+17x0.3"), ("toon",
        None). Of pictures the file's name without suffix, with so many of the folders `above` it, and so of the style.
        """
        path = PurePath(self.name)
        if path.name == "style" and path.parent.name:  # where a run folder keeps it: the run is what names it
            path = path.parent
        stems = [(_stem(one, above), weight) for one, weight in self.parts if one is not None]
        exemplar = "+".join(f"{stem}x{weight:g}" if self.is_blend else stem for stem, weight in stems)
        return file_slug("_".join(path.parts[-1 - above_style :])), file_slug(exemplar) or None


def distinct_labels(requests: Sequence[StyleRequest]) -> list[tuple[str, str | None]]:
    """The requests' labels; where two would be alike (x/me.jpg and y/me.jpg), with as many folders as tell them apart,
    or numbered."""
    labels = [request.label() for request in requests]
    for above, above_style in ((1, 0), (2, 0), (3, 0), (3, 1), (3, 2)):
        alike = {label for label, times in Counter(labels).items() if times > 1}
        if not alike:
            return labels
        wider = [request.label(above, above_style) for request in requests]
        labels = [wide if label in alike else label for label, wide in zip(labels, wider, strict=True)]
    seen: Counter[tuple[str, str | None]] = Counter()
    for number, label in enumerate(labels):
        seen[label] += 1
        if seen[label] > 1:
            labels[number] = label[0], f"{label[1] or ''}_{seen[label]}"
    return labels


def _stem(exemplar: str, above: int) -> str:
    path = PurePath(exemplar)
    stem = path.stem if path.suffix else path.name
    folders = [part for part in path.parts[:-1] if part != path.anchor][-above:] if above else []
    return "_".join([*folders, path.name if above > 1 else stem])


def parse_style(text: str) -> StyleRequest:
    """`NAME`, `NAME:ID` or a blend `NAME:ID*WEIGHT+NAME:ID*WEIGHT`; NAME may also be the path of a style's folder.

    An existing path wins over every other reading of the same characters, the longest one first, so folders and
    pictures may have `:`, `*` or `+` in their names. Raises UsageError for blends across styles or weights that do
    not sum to 1.
    """
    text = text.strip()
    terms = _blend_terms(text)
    if terms is None:
        name, exemplar = _name_and_exemplar(text)
        _refuse_weightless_blend(text, name, exemplar)
        return StyleRequest(name, (StylePart(exemplar, 1.0),))

    names = {name for name, _, _ in terms}
    if len(names) > 1:
        raise UsageError(f"'{text}' blends {' and '.join(sorted(names))}: a blend stays within one style.")
    total = sum(weight for _, _, weight in terms)
    if abs(total - 1) > 1e-3:
        raise UsageError(f"The weights of '{text}' sum to {total:g}; they must sum to 1.")
    return StyleRequest(terms[0][0], tuple(StylePart(exemplar, weight) for _, exemplar, weight in terms))


_TERM_END = re.compile(r"\s*\*\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*(?:\+|$)")


def _blend_terms(text: str) -> list[tuple[str, str | None, float]] | None:
    """(name, exemplar, weight) of each term, or None where the text is one style without weights."""
    if _ends_in_existing_path(text) or not _TERM_END.search(text):
        return None
    terms, start = [], 0
    while start < len(text):
        # A `+` separates terms only behind a weight, so `a+b.jpg` stays one name; an existing path reaches furthest.
        ends = list(_TERM_END.finditer(text, start))
        if not ends:
            raise UsageError(f"'{text[start:]}' in '{text}' has no weight: write NAME:ID*WEIGHT+NAME:ID*WEIGHT.")
        first = ends[0].start() - start  # a path that begins behind it is the next term's
        paths = [end for end in ends if _ends_in_existing_path(text[start : end.start()].strip(), first)]
        end = paths[-1] if paths else ends[0]
        terms.append((*_name_and_exemplar(text[start : end.start()].strip()), float(end[1])))
        start = end.end()
    return terms


def _name_and_exemplar(text: str) -> tuple[str, str | None]:
    colons = [i for i, letter in enumerate(text) if letter == ":"]
    for end in [len(text), *reversed(colons)]:
        if _is_style_path(text[:end]):
            name, exemplar = text[:end], text[end + 1 :] if end < len(text) else None
            break
    else:
        name, colon, exemplar = text.partition(":")
        exemplar = exemplar if colon else None
    if not name or exemplar == "":
        raise UsageError(f"'{text}' is no style: write NAME:ID (toon:7), or NAME alone for its default exemplar.")
    return name, exemplar


def _refuse_weightless_blend(text: str, name: str, exemplar: str | None) -> None:
    if exemplar and f"+{name}:" in exemplar and not _exists(exemplar):
        count = exemplar.count(f"+{name}:") + 1
        example = text.replace(f"+{name}:", f"*{1 / count:.2g}+{name}:") + f"*{1 / count:.2g}"
        raise UsageError(f"'{text}' blends exemplars without weights: write for example {example}.")


def _ends_in_existing_path(text: str, first: int | None = None) -> bool:
    """Whether it does, with a path that begins before `first` (None: anywhere)."""
    return any(_exists(text[i + 1 :]) for i, letter in enumerate(text[:first]) if letter == ":") or _is_style_path(text)


def _is_style_path(text: str) -> bool:
    """A folder written as a path, or one that holds a model: a chance folder `toon` must not hide the style toon."""
    return _exists(text) and ("/" in text or "\\" in text or _exists(str(Path(text, "header.json"))))


def _exists(text: str) -> bool:
    try:
        return bool(text) and at_home(text).exists()
    except (OSError, ValueError):  # too long for a name, or a null byte
        return False


# From a request to the code the generator takes


class Exemplar(NamedTuple):
    """One exemplar of a request, found: its `number` in the style, or the `picture` that is to be encoded."""

    label: str
    weight: float
    number: int | None = None
    picture: Path | None = None


def resolve_exemplars(request: StyleRequest, known: Exemplars, default: int | str = 0) -> tuple[Exemplar, ...]:
    """The exemplars a request names; `default` is the one that NAME alone means.

    What is an exemplar's name and a picture's too means the exemplar, unless it is written as a path. Raises UsageError
    naming what exists.
    """
    return tuple(_find_exemplar(default if name is None else name, weight, known) for name, weight in request.parts)


def _find_exemplar(which: int | str, weight: float, known: Exemplars) -> Exemplar:
    picture = Exemplar(str(which), weight, picture=at_home(which)) if _is_picture(which) else None
    if picture and ("/" in picture.label or "\\" in picture.label):
        return picture
    try:
        number = known.index(which)
    except UsageError:
        if picture is None:
            raise
        return picture
    return Exemplar(f"{number} ({known.names[number]})", weight, number)


def _is_picture(which: int | str) -> TypeGuard[str]:
    return isinstance(which, str) and _exists(which)


class ExtrinsicCode(NamedTuple):
    """`code` (rows, dim) in `space` ("z+", or "w+" for a blend), and what it is made of, for the summary line."""

    code: Tensor
    space: str
    label: str


def extrinsic_code(
    exemplars: Sequence[Exemplar],
    bank: StyleBank,
    *,
    mapping: Callable[[Tensor], Tensor],
    encode: Callable[[Path], Tensor] | None = None,
) -> ExtrinsicCode:
    """The code of one exemplar, or of a blend of several.

    `mapping` is f, on the last dimension; `encode` turns the path of a picture into a code (rows, dim) in Z+. Raises
    UsageError for a picture where nothing encodes it.
    """
    codes = []
    for exemplar in exemplars:
        if exemplar.number is not None:
            codes.append(bank[exemplar.number])
        elif encode is None or exemplar.picture is None:
            raise UsageError(
                f"'{exemplar.label}' is a picture; only exemplars of {bank.exemplars.called} can be used here."
            )
        else:
            codes.append(encode(exemplar.picture))
    if len(exemplars) == 1:
        return ExtrinsicCode(codes[0], "z+", exemplars[0].label)
    weights = [exemplar.weight for exemplar in exemplars]
    label = " + ".join(f"{exemplar.weight:g} x {exemplar.label}" for exemplar in exemplars)
    return ExtrinsicCode(blend(codes, weights, mapping), "w+", label)


def blend(codes: Sequence[Tensor], weights: Sequence[float], mapping: Callable[[Tensor], Tensor]) -> Tensor:
    """Codes (rows, dim) in Z+ mixed linearly where mixing is meaningful: in W+. Returns (rows, dim) in W+."""
    return torch.stack([weight * mapping(code) for code, weight in zip(codes, weights, strict=True)]).sum(0)


# Weights per row


def fit_weights(weights: Sequence[float], rows: int) -> tuple[float, ...]:
    """Weights for `rows` rows from a list at least as long: the colour rows a smaller model lacks are cut.

    Raises UsageError for a list that is too short or longer than any model (18 rows).
    """
    if not rows <= len(weights) <= max(rows, MOST_ROWS):
        raise UsageError(f"{len(weights)} weights do not fit a model of {rows} rows: give {rows}, or {MOST_ROWS}.")
    return tuple(float(weight) for weight in weights[:rows])


def parse_weights(text: str) -> tuple[float, ...]:
    """`0x4,.75x3,1x11` -> 18 floats: VALUE or VALUExCOUNT, separated by commas. Raises UsageError."""
    weights: list[float] = []
    for piece in text.split(","):
        match = re.fullmatch(r"\s*(-?[0-9]*\.?[0-9]+|[0-9]+\.)\s*(?:[x*×]\s*([0-9]+))?\s*", piece)
        if match is None:
            raise UsageError(f"'{piece}' in weights '{text}' is no VALUE or VALUExCOUNT; write e.g. 0x4,.75x3,1x11.")
        if len(weights) + int(match[2] or 1) > MOST_ROWS:
            raise UsageError(f"'{text}' gives more weights than a model has rows; the largest has {MOST_ROWS}.")
        weights += [float(match[1])] * int(match[2] or 1)
    return tuple(weights)
