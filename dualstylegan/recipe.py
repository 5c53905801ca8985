"""A recipe: everything that decides what a training run computes, as TOML -> frozen dataclasses.

A recipe has a kind (`base`, `pretrain` or `style`), a few settings of its own and one section per stage. A key that is
not listed here is refused with the nearest name that is. Relative paths in a recipe are relative to the current folder.
A recipe names no output: what a run writes lies in its run folder, and `name` is a plain file name.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from dualstylegan.errors import BadFileError, TrainingError, UsageError, did_you_mean

Kind = Literal["base", "pretrain", "style"]

SECTIONS = {  # what a recipe of each kind may hold beside [perception] and [bundle]
    "base": ("data", "base", "pretrain"),
    "pretrain": ("pretrain",),
    "style": ("data", "finetune", "destylize", "transfer", "refine", "samplers"),
}
PERCEPTUAL_LAYERS = ("relu1_1", "relu2_1", "relu3_1")
STAGES = {  # what `dsg train` runs, in order
    "base": ("data", "base", "pretrain", "bundle"),
    "pretrain": ("pretrain", "bundle"),
    "style": ("data", "finetune", "destylize", "transfer", "refine", "samplers", "bundle"),
}


def setting(
    default: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    choices: Sequence[str] | None = None,
) -> Any:
    """A dataclass field with the range or the names its value may have; a range holds for each item of a list."""
    limits = {"at_least": at_least, "above": above, "at_most": at_most, "choices": choices}
    limits = {key: limit for key, limit in limits.items() if limit is not None}
    return field(default=default, metadata=limits)


# ---------------------------------------------------------------------------------------------------------- sections


@dataclass(frozen=True)
class Template:
    """Where the eyes and the mouth are in every picture, (x, y) as fractions of its width and height."""

    left_eye: tuple[float, float] = setting((0.38, 0.45), at_least=0, at_most=1)
    right_eye: tuple[float, float] = setting((0.62, 0.45), at_least=0, at_most=1)
    mouth: tuple[float, float] = setting((0.5, 0.68), at_least=0, at_most=1)


@dataclass(frozen=True)
class Data:
    """[data]: the portraits, and how their faces are found."""

    folder: str = ""
    alignment: str = setting("landmarks", choices=("aligned", "landmarks", "faces.json", "template"))
    detector: str = setting("auto", choices=("auto", "face-alignment", "embedded"))
    faces_json: str = ""  # default: faces.json inside the folder
    template: Template = Template()
    flip: bool = False  # mirrored copies of the real pictures; exemplars are never mirrored
    include: tuple[str, ...] = ()  # patterns on paths relative to the folder; none = every picture
    exclude: tuple[str, ...] = ()
    limit: int = setting(0, at_least=0)  # the first so many by name; 0 = all
    min_images: int = setting(8, at_least=1)
    min_crop_px: int = setting(0, at_least=0)  # the aligned crop's side in the picture's own pixels
    min_inside: float = setting(0.0, at_least=0, at_most=1)  # how much of the crop the picture must cover
    held_out: int = setting(0, at_least=0)  # pictures never trained on, fixed by a hash of their file names
    held_out_person: str = ""  # a pattern whose groups name the person of a relative path; none = one picture each
    count: int = setting(0, at_least=0)  # how many images the style had
    source: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Adversarial:
    """What every adversarial stage shares. Defaults: StyleGAN2's, as the paper uses them."""

    effective_batch: int = setting(32, at_least=1)  # processes x per-process batch x accumulation
    batch: int = setting(0, at_least=0)  # per process; 0 = the whole share at once
    lr: float = setting(0.002, above=0)
    r1: float = setting(10.0, at_least=0)
    r1_every: int = setting(16, at_least=1)
    path: float = setting(2.0, at_least=0)
    path_every: int = setting(4, at_least=1)
    mixing: float = setting(0.9, at_least=0, at_most=1)
    augment: bool = False  # adaptive discriminator augmentation
    augment_target: float = setting(0.6, above=0, at_most=1)
    augment_images: int = setting(500_000, at_least=1)  # p moves by 1 over this many real pictures
    augment_most: float = setting(0.8, at_least=0, at_most=1)  # above 0.8 augmentations leak


@dataclass(frozen=True)
class BasePhase:
    """One phase of base training: which picture size, how long, which terms."""

    size: int = setting(64, at_least=8)
    steps: int = setting(1000, at_least=1)
    batch: int = setting(16, at_least=1)
    lr: float = setting(0.002, above=0)
    l1: float = setting(1.0, at_least=0)
    perceptual: float = setting(1.0, at_least=0)
    identity: float = setting(0.0, at_least=0)
    adversarial: float = setting(0.0, at_least=0)
    random: float = setting(0.0, at_least=0, at_most=1)  # share of the batch drawn from the intrinsic prior
    jitter: float = setting(0.0, at_least=0, at_most=0.2)  # how far photos are turned (radians), scaled and moved
    discriminator_lr: float = setting(0.002, above=0)


@dataclass(frozen=True)
class BaseTraining:
    """[base]: a StyleGAN2, its discriminator, encoder and intrinsic prior from photos. Ours, not the paper's."""

    size: int = setting(128, at_least=8)
    style_dim: int = setting(128, at_least=8)
    mapping_layers: int = setting(4, at_least=1)
    channels: dict[int, int] = field(
        default_factory=lambda: {4: 128, 8: 128, 16: 128, 32: 128, 64: 64, 128: 32}, metadata={"at_least": 1}
    )
    encoder_channels: int = setting(64, at_least=8)
    r1: float = setting(10.0, at_least=0)
    r1_every: int = setting(16, at_least=1)
    ema_images: float = setting(10_000.0, above=0)  # images after which an old weight counts half
    recolor: float = setting(0.5, at_least=0, at_most=1)  # share of photos whose shape and colours are taken apart
    augment: bool = False
    augment_target: float = setting(0.6, above=0, at_most=1)
    augment_images: int = setting(500_000, at_least=1)
    augment_most: float = setting(0.8, at_least=0, at_most=1)
    prior: str = setting("codes", choices=("gaussian", "codes"))
    prior_jitter: float = setting(0.1, at_least=0)
    phases: tuple[BasePhase, ...] = (BasePhase(size=128),)


@dataclass(frozen=True)
class PretrainPhase:
    """Targets take rows below `rows` from z1 and the rest from z2."""

    rows: int = setting(7, at_least=1)
    steps: int = setting(300, at_least=1)


@dataclass(frozen=True)
class Pretrain(Adversarial):
    """[pretrain]: stage II, structure transfer on faces."""

    effective_batch: int = setting(4, at_least=1)
    adversarial: float = setting(0.1, at_least=0)
    perceptual: float = setting(0.5, at_least=0)
    perceptual_layers: dict[str, float] = field(
        default_factory=lambda: {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0}, metadata={"at_least": 0}
    )
    perceptual_px: int = setting(256, at_least=8)
    encoded_every: int = setting(4, at_least=1)  # one iteration of so many takes z2~ = E(g(z2))
    phases: tuple[PretrainPhase, ...] = (PretrainPhase(7, 300), PretrainPhase(6, 300), PretrainPhase(5, 3000))


@dataclass(frozen=True)
class Finetune(Adversarial):
    """[finetune]: g -> g' on the portraits, for destylization."""

    steps: int = setting(600, at_least=1)


@dataclass(frozen=True)
class Destylize:
    """[destylize]: the extrinsic and the intrinsic code of each portrait."""

    steps: int = setting(300, at_least=1)
    batch: int = setting(0, at_least=0)  # 0 = decided by the memory a row costs
    lr: float = setting(0.1, above=0)
    rampup: float = setting(0.05, at_least=0, at_most=1)
    rampdown: float = setting(0.25, at_least=0, at_most=1)
    perceptual: float = setting(1.0, at_least=0)
    identity: float = setting(0.1, at_least=0)
    spread: float = setting(1.0, at_least=0)  # of the mean over columns of the deviation over rows
    noise: float = setting(1e5, at_least=0)
    truncation: float = setting(0.7, at_least=0, at_most=1)
    structure_rows: int = setting(8, at_least=1)  # rows from here on keep the encoder's values


@dataclass(frozen=True)
class Transfer(Adversarial):
    """[transfer]: stage III, style transfer."""

    steps: int = setting(1400, at_least=1)
    adversarial: float = setting(1.0, at_least=0)
    projected: float = setting(0.0, at_least=0)  # of a second discriminator, on features; the paper has none
    perceptual: float = setting(1.0, at_least=0)
    contextual: float = setting(0.25, at_least=0)
    feature_matching: float = setting(0.25, at_least=0)
    identity: float = setting(1.0, at_least=0)
    regularizer: float = setting(0.015, at_least=0)
    perceptual_layers: dict[str, float] = field(
        default_factory=lambda: {"relu2_1": 0.5, "relu3_1": 1.0}, metadata={"at_least": 0}
    )
    jitter: float = setting(0.1, at_least=0)  # deviation of the noise on z_e, in W+
    optimizer: str = setting("adam", choices=("adam", "muon"))  # the extrinsic path's; muon needs path = 0
    shift: int = setting(0, at_least=0)  # features and identities are read of pictures moved by up to so many px
    cooldown: float = setting(0.0, at_least=0, at_most=1)  # over this last part of the steps, rates fall to 0


@dataclass(frozen=True)
class Refine:
    """[refine]: latent optimisation of the extrinsic codes after stage III."""

    enabled: bool = True
    steps: int = setting(100, at_least=1)
    batch: int = setting(0, at_least=0)
    structure_lr: float = setting(0.005, above=0)
    color_lr: float = setting(0.1, above=0)
    noise_lr: float = setting(0.1, above=0)
    perceptual: float = setting(1.0, at_least=0)
    contextual: float = setting(1.0, at_least=0)
    noise: float = setting(1e5, at_least=0)


@dataclass(frozen=True)
class Samplers:
    """[samplers]: the two sampling networks, trained by nearest-neighbour matching."""

    enabled: bool = True
    codes: int = setting(1000, at_least=1)  # the bank is repeated up to about so many
    jitter: float = setting(0.05, at_least=0)
    draws: float = setting(2.0, at_least=1)  # outputs drawn per code and epoch
    matches: int = setting(500_000, at_least=1)  # epochs = matches / codes
    batch: int = setting(128, at_least=2)
    lr: float = setting(1e-3, above=0)
    halve_every: int = setting(50, at_least=1)  # epochs


@dataclass(frozen=True)
class Perception:
    """[perception]: the nets that judge features and identity; auto = the paper's where their weights are present."""

    features: str = setting("auto", choices=("auto", "vgg", "mobilenet"))
    identity: str = setting("auto", choices=("auto", "arcface", "embedded"))


@dataclass(frozen=True)
class Bundle:
    """[bundle]: what the finished model says of itself."""

    title: str = ""
    mask: str = setting("head", choices=("face", "head", "crop"))
    weights: tuple[float, ...] = setting((0.75,) * 7 + (1.0,) * 11, at_least=0, at_most=1)
    truncation: float = setting(0.75, at_least=0, at_most=1)
    default_exemplar: str = ""  # file name; none = the first
    licence: str = ""
    thumbnails: bool = True


@dataclass(frozen=True)
class Recipe:
    """A whole recipe. `stages` is what it runs."""

    name: str = ""  # default: the file's name
    kind: str = setting("style", choices=tuple(STAGES))
    about: str = ""
    base_model: str = ""  # what it starts from: a zoo name, a bundle or a run folder; kind base makes one
    seed: int = setting(1, at_least=0)
    precision: str = setting("auto", choices=("auto", "float32", "bf16", "fp16"))
    log_every: int = setting(10, at_least=1)
    grid_every: int = setting(200, at_least=1)
    checkpoint_every: int = setting(100, at_least=1)
    snapshot_every: int = setting(100, at_least=1)  # snapshots are kept: users pick the iteration by eye
    process_timeout_s: int = setting(1800, at_least=1)
    data: Data = Data()
    base: BaseTraining = BaseTraining()
    pretrain: Pretrain = Pretrain()
    finetune: Finetune = Finetune()
    destylize: Destylize = Destylize()
    transfer: Transfer = Transfer()
    refine: Refine = Refine()
    samplers: Samplers = Samplers()
    perception: Perception = Perception()
    bundle: Bundle = Bundle()

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages this recipe runs, in order: its kind's, without the ones it switches off."""
        off = {name for name in ("refine", "samplers") if not getattr(self, name).enabled}
        return tuple(stage for stage in STAGES[self.kind] if stage not in off)

    @property
    def sections(self) -> tuple[str, ...]:
        return (*SECTIONS[self.kind], "perception", "bundle")


# ------------------------------------------------------------------------------------------------- finding and reading


@dataclass(frozen=True)
class RecipeEntry:
    """A shipped recipe, as a listing shows it."""

    name: str
    kind: str
    about: str


def recipe_folder() -> Path:
    """The folder of the shipped recipes: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def list_recipes() -> list[RecipeEntry]:
    """The shipped recipes, by kind and name."""
    recipes = [load_recipe(path) for path in sorted(recipe_folder().glob("*.toml"))]
    entries = [RecipeEntry(recipe.name, recipe.kind, recipe.about) for recipe in recipes]
    return sorted(entries, key=lambda entry: (tuple(STAGES).index(entry.kind), entry.name))


def resolve_recipe(source: str | Path) -> Path:
    """The file a recipe name or path means: a local file first, then a shipped recipe of that name.

    `pixar`, `pixar.toml` and `recipes/pixar.toml` find the shipped one where no such file exists.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    name = path.name.removesuffix(".toml")
    shipped = {file.stem: file for file in recipe_folder().glob("*.toml")}
    if str(path.parent) in (".", "recipes") and name in shipped:
        return shipped[name]
    raise UsageError(f"No recipe '{source}'.{did_you_mean(name, shipped)} 'dsg train --list' lists the shipped ones.")


def load_recipe(source: str | Path, settings: Sequence[str] = (), **replace: Any) -> Recipe:
    """The recipe of a file or a name, with `--set` settings ("transfer.steps=200") applied in order.

    Keyword arguments with a value other than None are settings too, with double underscores for dots:
    `load_recipe("pixar", data__folder="photos", base_model="mini")`. Raises UsageError or BadFileError, one line that
    names the file and the key.
    """
    path = resolve_recipe(source)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadFileError(f"{path}: not a TOML file: {error}") from error
    except OSError as error:
        raise BadFileError(f"{path}: cannot be read: {error.strerror}") from error
    table.setdefault("name", path.stem)

    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {text}: wanted KEY=VALUE, for example transfer.steps=200.")
        _put(table, key.strip(), _parse_value(value.strip()), f"--set {text}")
    for key, value in replace.items():
        if value is not None:
            _put(table, key.replace("__", "."), value, f"{path}")
    return build_recipe(table, str(path))


def build_recipe(table: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from a parsed TOML table; `where` opens every error message."""
    recipe = _build(Recipe, table, where, ())

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", recipe.name):
        raise UsageError(
            f"{where}: name must be a plain file name of letters, digits, '.', '_', '-', not {recipe.name!r}."
        )
    known = {section.name for section in fields(Recipe) if is_dataclass(section.default)}
    for section in table.keys() & known - set(recipe.sections):
        kinds = " or ".join(kind for kind, sections in SECTIONS.items() if section in sections)
        raise UsageError(
            f"{where}: [{section}] belongs to a recipe of kind {kinds}; this one is of kind {recipe.kind}."
        )
    if recipe.kind != "base" and not recipe.base_model:
        raise UsageError(f'{where}: base_model is missing: name the base to start from, for example "ffhq" or "mini".')
    if recipe.kind == "base":
        _check_base(recipe.base, where)
    for section in ("pretrain", "transfer"):
        _check_layers(getattr(recipe, section).perceptual_layers, f"{where}: {section}.perceptual_layers")
    if recipe.transfer.optimizer == "muon" and recipe.transfer.path:
        raise UsageError(
            f"{where}: transfer.path must be 0 with transfer.optimizer = 'muon', which would take a whole step for it."
        )
    if not recipe.bundle.weights:
        raise UsageError(f"{where}: bundle.weights must hold a weight for each row.")
    try:
        re.compile(recipe.data.held_out_person)
    except re.error as error:
        raise UsageError(f"{where}: data.held_out_person is not a regular expression: {error}.") from error
    return recipe


def _check_layers(layers: Mapping[str, float], where: str) -> None:
    if not layers:
        raise UsageError(f"{where} must name one layer or more of {', '.join(PERCEPTUAL_LAYERS)}.")
    for layer in layers:
        if layer not in PERCEPTUAL_LAYERS:
            known = ", ".join(PERCEPTUAL_LAYERS)
            raise UsageError(f"{where} has no '{layer}'.{did_you_mean(layer, PERCEPTUAL_LAYERS)} Layers: {known}.")


def _check_base(base: BaseTraining, where: str) -> None:
    wanted = [2**k for k in range(2, int(math.log2(base.size)) + 1)]
    if base.size != wanted[-1]:
        raise UsageError(f"{where}: base.size must be a power of two, not {base.size}.")
    missing = [size for size in wanted if size not in base.channels]
    if missing:
        raise UsageError(f"{where}: base.channels lacks a width for {missing[0]} px.")
    if not base.phases:
        raise UsageError(f"{where}: base.phases must hold one phase or more.")
    for index, phase in enumerate(base.phases):
        if phase.size not in wanted[1:]:
            raise UsageError(
                f"{where}: base.phases[{index}].size must be a power of two up to {base.size}, not {phase.size}."
            )
    if base.phases[-1].size != base.size:
        raise UsageError(f"{where}: the last of base.phases must train at base.size, {base.size} px.")


def _parse_value(text: str) -> Any:
    """A `--set` value: TOML where it is TOML, otherwise the text itself, so that names need no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _put(table: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set `a.b.c`, making tables on the way; a number steps into a list of tables."""
    *parents, last = key.split(".")
    place: Any = table
    for part in parents:
        if isinstance(place, list):
            if not part.isdigit() or int(part) >= len(place):
                raise UsageError(f"{where}: {key}: the list has {len(place)} entries, counted from 0.")
            place = place[int(part)]
        else:
            place = place.setdefault(part, {})
        if not isinstance(place, dict | list):
            raise UsageError(f"{where}: {part} in {key} is a value, not a section.")
    if isinstance(place, list):
        raise UsageError(f"{where}: {key} names a whole entry of a list; set one of its keys.")
    place[last] = value


# ------------------------------------------------------------------------------------------------- checking one value


def _build(cls: type, table: Any, where: str, path: tuple[str, ...]) -> Any:
    """An instance of dataclass `cls` from a table: every key known, every value of its type and in its range."""
    if not isinstance(table, Mapping):
        raise UsageError(f"{where}: {'.'.join(path)} must be a section, not {table!r}.")
    known = {item.name: item for item in fields(cls)}
    for key in table:
        if key not in known:
            section = f"[{'.'.join(path)}] has" if path else "there is"
            raise UsageError(f"{where}: {section} no key '{key}'.{did_you_mean(key, known)}")
    hints = typing.get_type_hints(cls)
    values = {key: _value(hints[key], value, known[key].metadata, where, (*path, key)) for key, value in table.items()}
    return cls(**values)


def _value(hint: Any, value: Any, limits: Mapping[str, Any], where: str, path: tuple[str, ...]) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if is_dataclass(hint):
        return _build(hint, value, where, path)
    if origin in (typing.Union, types.UnionType):
        return _value(arguments[0], value, limits, where, path)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong(where, path, "a list", value)
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise _wrong(where, path, f"a list of {len(arguments)}", value)
        return tuple(_value(arguments[0], item, limits, where, (*path, str(i))) for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _wrong(where, path, "a table", value)
        return {
            _key(arguments[0], key, where, path): _value(arguments[1], item, limits, where, (*path, str(key)))
            for key, item in value.items()
        }
    return _scalar(hint, value, limits, where, path)


def _key(hint: type, key: Any, where: str, path: tuple[str, ...]) -> Any:
    try:
        return hint(key)
    except ValueError:
        raise UsageError(f"{where}: {'.'.join(path)} has the key '{key}', which is not a whole number.") from None


def _scalar(hint: type, value: Any, limits: Mapping[str, Any], where: str, path: tuple[str, ...]) -> Any:
    if hint is float and type(value) is int:
        value = float(value)
    if hint is int and type(value) is float and value.is_integer():
        value = int(value)
    if isinstance(value, Path) and hint is str:
        value = str(value)

    wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[hint]
    if "choices" in limits:
        wanted = "one of " + ", ".join(limits["choices"])
    if "at_least" in limits:
        wanted += f" of at least {limits['at_least']:g}"
    if "above" in limits:
        wanted += f" above {limits['above']:g}"
    if "at_most" in limits:
        wanted += f"{' and' if 'at_least' in limits or 'above' in limits else ' of'} at most {limits['at_most']:g}"

    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise _wrong(where, path, wanted, value)
    if "choices" in limits and value not in limits["choices"]:
        raise _wrong(where, path, wanted, value, did_you_mean(value, limits["choices"]))
    too_small = value < limits.get("at_least", value) if hint in (int, float) else False
    if (
        too_small
        or ("above" in limits and value <= limits["above"])
        or ("at_most" in limits and value > limits["at_most"])
    ):
        raise _wrong(where, path, wanted, value)
    return value


def _wrong(where: str, path: tuple[str, ...], wanted: str, value: Any, hint: str = "") -> UsageError:
    return UsageError(f"{where}: {'.'.join(path)} must be {wanted}, not {value!r}.{hint}")


# ------------------------------------------------------------------------------------------------------------ writing


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as TOML: every setting of the sections its kind has. `build_recipe` reads it back equal."""
    sections = {item.name for item in fields(recipe) if is_dataclass(getattr(recipe, item.name))}
    lines = [
        f"{item.name} = {_toml(getattr(recipe, item.name))}" for item in fields(recipe) if item.name not in sections
    ]
    for name in recipe.sections:
        lines += ["", f"[{name}]"]
        section = getattr(recipe, name)
        lines += [f"{item.name} = {_toml(getattr(section, item.name))}" for item in fields(section)]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML forbids a bare DEL
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if is_dataclass(value):
        value = {item.name: getattr(value, item.name) for item in fields(value)}
    return "{ " + ", ".join(f"{_toml_key(key)} = {_toml(item)}" for key, item in value.items()) + " }"


def _toml_key(key: Any) -> str:
    return str(key) if re.fullmatch(r"[A-Za-z0-9_-]+", str(key)) else _toml(str(key))


# -------------------------------------------------------------------------------------------------------------- batch


def resolve_batch(effective: int, processes: int, per_process: int = 0, *, stage: str = "") -> tuple[int, int]:
    """(per-process batch, accumulation) with processes x batch x accumulation == effective, exactly.

    `per_process` 0 takes the whole share at once. Raises TrainingError, one line that says what would fit.
    """
    what = f"{stage}.effective_batch {effective}" if stage else f"effective_batch {effective}"
    if processes > effective:
        raise TrainingError(f"{what} is smaller than the {processes} processes: start at most {effective}.")
    if effective % processes:
        fitting = [n for n in range(1, effective + 1) if effective % n == 0]
        raise TrainingError(f"{what} does not divide among {processes} processes: start {_either(fitting, processes)}.")
    share = effective // processes
    batch = per_process or share
    if share % batch:
        fitting = [n for n in range(1, share + 1) if share % n == 0]
        raise TrainingError(
            f"{what} on {processes} processes is {share} each, which batches of {batch} do not make up: "
            f"set batch to {_either(fitting, batch)}."
        )
    return batch, share // batch


def _either(fitting: Sequence[int], wanted: int) -> str:
    below, above = [n for n in fitting if n < wanted], [n for n in fitting if n > wanted]
    return " or ".join(str(n) for n in below[-1:] + above[:1])
