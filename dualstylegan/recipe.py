"""A recipe: everything that decides what a training run computes, as TOML -> frozen, checked values.

A recipe has a kind (`base`, `pretrain`, `style` or `experiment`), a few settings of its own and one section per stage.
A key that is not listed here is refused with the nearest name that is. Relative paths in a recipe are relative to the
current folder. A recipe names no output: what a run writes lies in its run folder, and `name` is a plain file name.

A new key is one line below: its type says what it may be, and pydantic refuses the rest. Its default leaves as it was
what recipes without it make: run folders that do not know the key go on as if it had been there.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, dataclass_transform, get_args

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from dualstylegan.choices import (
    TRUNCATION,
    Alignment,
    Detector,
    Mask,
    Precision,
    StyleScene,
    Surface,
    row_weights,
    spell_precision,
)
from dualstylegan.errors import TrainingError, UsageError, did_you_mean
from dualstylegan.runtime.files import at_home

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Section = TypeVar("Section")
Kind = Literal["base", "pretrain", "style", "experiment"]

SECTIONS = {  # what a recipe of each kind may hold beside [perception] and [bundle]
    "base": ("data", "base", "pretrain"),
    "pretrain": ("pretrain",),
    "style": ("data", "finetune", "destylize", "transfer", "refine", "samplers"),
    "experiment": ("data", "finetune", "compare"),
}
STAGES = {  # what `dsg train` runs, in order
    "base": ("data", "base", "pretrain", "bundle"),
    "pretrain": ("pretrain", "bundle"),
    "style": ("data", "finetune", "destylize", "transfer", "refine", "samplers", "bundle"),
    "experiment": ("data", "finetune", "again", "resblock", "adain", "attention", "compare"),
}
Rival = Literal["again", "resblock", "adain", "attention"]
RIVALS: tuple[str, ...] = get_args(Rival)

# ------------------------------------------------------------------------------------------------------------- values


def _whole(value: Any) -> Any:
    """5e5, which TOML has for no whole number, is one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    return text


Whole = Annotated[int, Field(ge=0), BeforeValidator(_whole)]
Count = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
Width = Annotated[int, Field(ge=8), BeforeValidator(_whole)]
Pixels = Annotated[int, Field(ge=8, le=1024), BeforeValidator(_whole)]
Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Place = tuple[Share, Share]
Shares = dict[str, Share]  # {pattern: share}
Layer = Literal["relu1_1", "relu2_1", "relu3_1"]
Layers = Annotated[
    dict[Layer, Weight], Field(min_length=1, description=f"name one layer or more of {', '.join(get_args(Layer))}")
]
RowWeights = Annotated[tuple[Share, ...], Field(min_length=1, description="hold a weight for each row")]
Pattern = Annotated[str, AfterValidator(_pattern)]
PHASES = Field(min_length=1, description="hold one phase or more")
FILE_NAME = Field(
    pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
    description="be a plain file name of up to 100 letters, digits, '.', '_', '-'",
)

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass_transform(frozen_default=True, field_specifiers=(field, Field))
def section(cls: type[Section]) -> type[Section]:
    return checked_dataclass(frozen=True, config=STRICT)(cls)  # type: ignore[return-value]


# ----------------------------------------------------------------------------------------------------------- sections


@section
class Template:
    """Where the eyes and the mouth are in every picture, (x, y) as fractions of its width and height."""

    left_eye: Place = (0.38, 0.45)
    right_eye: Place = (0.62, 0.45)
    mouth: Place = (0.5, 0.68)


@section
class Data:
    """[data]: the portraits, and how their faces are found."""

    folder: str = ""
    alignment: Alignment = "landmarks"
    detector: Detector = "auto"
    faces_json: str = ""  # default: faces.json inside the folder
    template: Template = Template()
    photos: str = ""  # folder of the photos that portraits are drawn from, by the same names: z_i is then the photo's
    flip: bool = False  # mirrored copies of the real pictures; exemplars are never mirrored
    include: tuple[str, ...] = ()  # patterns on paths relative to the folder; none = every picture
    exclude: tuple[str, ...] = ()
    limit: Whole = 0  # the first so many by name; 0 = all
    min_images: Count = 8
    min_crop_px: Whole = 0  # the aligned crop's side in the picture's own pixels
    min_inside: Share = 0.0  # how much of the crop the picture must cover
    held_out: Whole = 0  # pictures never trained on, fixed by a hash of their file names
    held_out_person: Pattern = ""  # its groups name the person of a relative path; none = one picture each
    held_out_among: tuple[str, ...] = ()  # patterns: `held_out` are chosen among these; none = all
    held_out_people: Share = 0.0  # besides those, this part of all people, by a hash of each person
    held_out_people_of: tuple[str, ...] = ()  # patterns: of the people in these pictures; none = all
    shares: Shares = field(default_factory=dict)  # what part of the pictures shown fits each pattern; see `weights_of`
    open_mouths: Annotated[float, Field(ge=1)] = 1.0  # how much oftener open mouths are shown than closed ones
    count: Whole = 0  # how many images the style had
    source: str = ""
    licence: str = ""


@section
class Discriminating:
    """What every stage with a discriminator shares. Defaults: StyleGAN2's, as the paper uses them."""

    r1: Weight = 10.0
    r1_every: Count = 16
    augment: bool = False  # adaptive discriminator augmentation
    augment_target: Annotated[float, Field(gt=0, le=1)] = 0.6
    augment_images: Count = 500_000  # p moves by 1 over this many real pictures
    augment_most: Share = 0.8  # above 0.8 augmentations leak


@section
class Adversarial(Discriminating):
    """What every adversarial stage but a base's shares."""

    effective_batch: Count = 32  # processes x per-process batch x accumulation
    batch: Whole = 0  # per process; 0 = the whole share at once
    lr: Rate = 0.002
    path: Weight = 2.0
    path_every: Count = 4
    mixing: Share = 0.9


@section
class BasePhase:
    """One phase of base training: which picture size, how long, which terms."""

    size: Pixels = 64
    steps: Count = 1000
    batch: Count = 16
    lr: Rate = 0.002
    l1: Weight = 1.0
    perceptual: Weight = 1.0
    identity: Weight = 0.0
    adversarial: Weight = 0.0
    random: Share = 0.0  # share of the batch drawn from the intrinsic prior
    jitter: Annotated[float, Field(ge=0, le=0.2)] = 0.0  # how far photos are turned (radians), scaled and moved
    discriminator_lr: Rate = 0.002
    parts: Weight = 0.0  # adversarial, of critics of the eyes, both together, and of the mouth
    face: Weight = 0.0  # how much more L1 counts in the face, and once more at eyes and mouth
    passes: Whole = 0  # of the encoder in this phase; 0 = base.passes
    first_pass: Weight = 0.0  # L1 of what an encoder of several passes sees of its own work
    shares: Shares = field(default_factory=dict)  # in place of data.shares


@section
class BaseTraining(Discriminating):
    """[base]: a StyleGAN2, its discriminator, encoder and intrinsic prior from photos. Ours, not the paper's."""

    size: Annotated[int, Field(ge=32, le=1024), BeforeValidator(_whole)] = 128  # below: too few rows for structure
    style_dim: Width = 128
    mapping_layers: Count = 4
    channels: dict[int, Count] = field(default_factory=lambda: {4: 128, 8: 128, 16: 128, 32: 128, 64: 64, 128: 32})
    encoder_channels: Width = 64
    passes: Count = 1  # 1: a SmallEncoder; more: a ResidualEncoder, which looks so many times
    ema_images: Rate = 10_000.0  # images after which an old weight counts half
    recolor: Share = 0.5  # share of photos whose shape and colours are taken apart
    prior: Literal["gaussian", "codes"] = "codes"
    prior_jitter: Weight = 0.1
    phases: Annotated[tuple[BasePhase, ...], PHASES] = (BasePhase(size=128),)


@section
class PretrainPhase:
    """Targets take rows below `rows` from z1 and the rest from z2."""

    rows: Count = 7
    steps: Count = 300


PAPERS_PHASES = (PretrainPhase(7, 300), PretrainPhase(6, 300), PretrainPhase(5, 3000))


@section
class Pretrain(Adversarial):
    """[pretrain]: stage II, structure transfer on faces."""

    effective_batch: Count = 4
    adversarial: Weight = 0.1
    perceptual: Weight = 0.5
    perceptual_layers: Layers = field(default_factory=lambda: {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0})
    perceptual_px: Pixels = 256
    encoded_every: Count = 4
    phases: Annotated[tuple[PretrainPhase, ...], PHASES] = PAPERS_PHASES


@section
class Finetune(Adversarial):
    """[finetune]: g -> g' on the portraits, for destylization."""

    steps: Count = 600
    correspondence: Weight = 0.0  # of cross-domain distance consistency (Ojha et al. 2021: 1000); the paper has none


@section
class Compare:
    """[compare]: what is trained like g' and measured against it. Kind experiment (supplement 1.4)."""

    paths: Annotated[tuple[Rival, ...], Field(min_length=1)] = ("resblock", "adain", "attention")
    codes: Count = 256


@section
class Destylize:
    """[destylize]: the extrinsic and the intrinsic code of each portrait."""

    steps: Count = 300
    batch: Whole = 0  # 0 = decided by the memory a row costs
    lr: Rate = 0.1
    rampup: Share = 0.05
    rampdown: Share = 0.25
    perceptual: Weight = 1.0
    identity: Weight = 0.1
    spread: Weight = 1.0  # of the mean over columns of the deviation over rows
    noise: Weight = 1e5
    truncation: Share = 0.7
    structure_rows: Count = 8  # rows from here on keep the encoder's values


@section
class Transfer(Adversarial):
    """[transfer]: stage III, style transfer."""

    steps: Count = 1400
    adversarial: Weight = 1.0
    projected: Weight = 0.0  # of a second discriminator, on features; the paper has none
    perceptual: Weight = 1.0
    contextual: Weight = 0.25
    feature_matching: Weight = 0.25
    identity: Weight = 1.0
    shape: Weight = 0.0  # landmarks move from the face's as the exemplar's did; the paper has none
    regularizer: Weight = 0.015
    perceptual_layers: Layers = field(default_factory=lambda: {"relu2_1": 0.5, "relu3_1": 1.0})
    jitter: Weight = 0.1  # deviation of the noise on z_e, in W+
    optimizer: Literal["adam", "muon"] = "adam"  # the extrinsic path's; muon needs path = 0
    shift: Whole = 0  # features and identities are read of pictures moved by up to so many px
    cooldown: Share = 0.0  # over this last part of the steps, rates fall to 0


@section
class Refine:
    """[refine]: latent optimisation of the extrinsic codes after stage III."""

    enabled: bool = True
    steps: Count = 100
    batch: Whole = 0
    structure_lr: Rate = 0.005
    color_lr: Rate = 0.1
    noise_lr: Rate = 0.1
    perceptual: Weight = 1.0
    contextual: Weight = 1.0
    noise: Weight = 1e5


@section
class Samplers:
    """[samplers]: the two sampling networks, trained by nearest-neighbour matching."""

    enabled: bool = True
    codes: Count = 1000  # the bank is repeated up to about so many
    jitter: Weight = 0.05
    draws: Annotated[float, Field(ge=1)] = 2.0  # outputs drawn per code and epoch
    matches: Count = 500_000  # epochs = matches / codes
    batch: Annotated[int, Field(ge=2), BeforeValidator(_whole)] = 128
    lr: Rate = 1e-3
    halve_every: Count = 50  # epochs


@section
class Judges:
    """[perception]: the nets that judge features and identity; auto = the paper's where their weights are present."""

    features: Literal["auto", "vgg", "mobilenet"] = "auto"
    identity: Literal["auto", "arcface", "embedded"] = "auto"


@section
class Bundle:
    """[bundle]: what the finished model says of itself."""

    title: str = ""
    mask: Mask = "head"
    scene: StyleScene = "keep"  # what becomes of the picture around the faces
    surface: Surface = "oil"  # in which scene = "paint" draws it
    finish: bool = False  # large faces are drawn sharper
    weights: RowWeights = row_weights()
    truncation: Share = TRUNCATION
    default_exemplar: str = ""  # file name; none = the first
    licence: str = ""
    thumbnails: bool = True


@section
class Recipe:
    """A whole recipe. `stages` is what it runs."""

    name: Annotated[str, FILE_NAME]  # a file's own, where it says none
    kind: Kind = "style"
    about: str = ""
    base_model: str = ""  # what it starts from: a zoo name, a bundle or a run folder; a base need not name one
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    precision: Annotated[Precision, BeforeValidator(spell_precision)] = "auto"
    compile: Literal["off", "auto"] = "off"  # auto: what trains, where there is a C++ compiler
    log_every: Count = 10
    grid_every: Count = 200
    checkpoint_every: Count = 100
    snapshot_every: Count = 100  # snapshots are kept: users pick the iteration by eye
    log_with: tuple[str, ...] = ()  # tensorboard, wandb, ...: Accelerate's trackers, told of figures and grids
    process_timeout_s: Count = 1800
    data: Data = Data()
    base: BaseTraining = BaseTraining()
    pretrain: Pretrain = Pretrain()
    finetune: Finetune = Finetune()
    destylize: Destylize = Destylize()
    transfer: Transfer = Transfer()
    refine: Refine = Refine()
    samplers: Samplers = Samplers()
    compare: Compare = Compare()
    perception: Judges = Judges()
    bundle: Bundle = Bundle()

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages this recipe runs, in order: its kind's, without the ones it switches off."""
        off = {name for name in ("refine", "samplers") if not getattr(self, name).enabled}
        off |= set(RIVALS) - set(self.compare.paths)
        return tuple(stage for stage in STAGES[self.kind] if stage not in off)

    @property
    def sections(self) -> tuple[str, ...]:
        return (*SECTIONS[self.kind], "perception", "bundle")


# ------------------------------------------------------------------------------------------------- finding and reading


def recipe_folder() -> Path:
    """The folder of the shipped recipes: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def list_recipes() -> list[Recipe]:
    """The shipped recipes, by kind and name."""
    recipes = [load_recipe(path) for path in recipe_folder().glob("*.toml")]
    return sorted(recipes, key=lambda recipe: (tuple(STAGES).index(recipe.kind), recipe.name))


def resolve_recipe(source: str | Path) -> Path:
    """The file a recipe name or path means: a local file first, then a shipped recipe of that name.

    `pixar`, `pixar.toml` and `recipes/pixar.toml` find the shipped one where no such file exists.
    """
    path = at_home(source)
    if path.is_file():
        return path
    name = path.name.removesuffix(".toml")
    shipped = {file.stem: file for file in recipe_folder().glob("*.toml")}
    if str(path.parent) in (".", "recipes") and name in shipped:
        return shipped[name]
    raise UsageError(f"No recipe '{source}'.{did_you_mean(name, shipped)} 'dsg train --list' lists the shipped ones.")


def run_of(source: str | Path) -> Path | None:
    """The run whose own `recipe.toml` this is, by the stages beside it; None of any other recipe."""
    path = at_home(source)
    folder = path.parent if path.parent.name else path.absolute().parent
    return folder if path.name == "recipe.toml" and (folder / "stages").is_dir() else None


def load_recipe(source: str | Path, settings: Sequence[str] = (), **replace: Any) -> Recipe:
    """The recipe of a file or a name, with `--set` settings ("transfer.steps=200") applied in order.

    Keyword arguments with a value other than None are settings too, with double underscores for dots:
    `load_recipe("pixar", data__folder="photos", base_model="mini")`. Raises UsageError, one line that names the
    file and the key.
    """
    path = resolve_recipe(source)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows editors begin with a mark
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a TOML file: {error}") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
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
    try:
        # as JSON, which knows no tuples or Paths and no keys but texts: strict checks then ask only what TOML can tell
        recipe = SCHEMA.validate_json(json.dumps(table, default=str))
    except ValidationError as error:
        raise UsageError(f"{where}: {_explain(error.errors()[0])}") from None

    known = {one.name for one in fields(Recipe) if is_dataclass(one.default)}
    for name in table.keys() & known - set(recipe.sections):
        kinds = " or ".join(kind for kind, sections in SECTIONS.items() if name in sections)
        raise UsageError(f"{where}: [{name}] belongs to a recipe of kind {kinds}; this one is of kind {recipe.kind}.")
    if recipe.kind != "base" and not recipe.base_model:
        raise UsageError(f'{where}: base_model is missing: name the base to start from, for example "ffhq" or "mini".')
    if recipe.kind == "base":
        _check_base(recipe.base, where)
    if recipe.kind == "experiment" and recipe.finetune.correspondence:
        raise UsageError(f"{where}: finetune.correspondence is for recipes of kind style: paths are trained without.")
    if recipe.transfer.optimizer == "muon" and recipe.transfer.path:
        raise UsageError(
            f"{where}: transfer.path must be 0 with transfer.optimizer = 'muon', which would take a whole step for it."
        )
    return recipe


def _check_base(base: BaseTraining, where: str) -> None:
    wanted = [2**k for k in range(2, int(math.log2(base.size)) + 1)]
    if base.size != wanted[-1]:
        raise UsageError(f"{where}: base.size must be a power of two, not {base.size}.")
    missing = [size for size in wanted if size not in base.channels]
    if missing:
        raise UsageError(f"{where}: base.channels lacks a width for {missing[0]} px.")
    for index, phase in enumerate(base.phases):
        if phase.size not in wanted[1:]:
            raise UsageError(
                f"{where}: base.phases[{index}].size must be a power of two up to {base.size}, not {phase.size}."
            )
    if base.phases[-1].size != base.size:
        raise UsageError(f"{where}: the last of base.phases must train at base.size, {base.size} px.")
    sizes = [phase.size for phase in base.phases]
    if sizes != sorted(sizes):
        raise UsageError(f"{where}: the sizes of base.phases must not shrink, they are {', '.join(map(str, sizes))}.")


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


# ------------------------------------------------------------------------------------------------- explaining errors

SCHEMA = TypeAdapter(Recipe)


def _explain(error: ErrorDetails) -> str:
    """One line for what pydantic found wrong first: the key, what it may be, what it is, the nearest name there is."""
    place, value = [str(part) for part in error["loc"]], error["input"]
    if error["type"] == "json_invalid":
        return "a name holds bytes that are no text (UTF-8): rename the file or folder."
    if place[-1] == "[key]":
        key, path = place[-2], ".".join(place[:-2])
        layers = _schema_of(place[:-2]).get("propertyNames", {}).get("enum")
        if layers:
            return f"{path} has no '{key}'.{did_you_mean(key, layers)} Layers: {', '.join(layers)}."
        return f"{path} has the key '{key}', which is not a whole number."
    if error["type"] == "unexpected_keyword_argument":
        what = f"[{'.'.join(place[:-1])}] has" if place[1:] else "there is"
        return f"{what} no key '{place[-1]}'.{did_you_mean(place[-1], _schema_of(place[:-1])['properties'])}"
    if error["type"] == "value_error":
        return f"{'.'.join(place)} {error['ctx']['error']}."
    if error["type"] == "missing" and len(place) == 1:
        return f"{place[0]} is missing."
    if error["type"] == "missing":
        place.pop()  # a list that is too short: the entry that is not there says nothing
    schema = _schema_of(place)
    hint = did_you_mean(value, schema.get("enum", ())) if isinstance(value, str) else ""
    return f"{'.'.join(place)} must {_wanted(schema)}, not {value!r}.{hint}"


def _schema_of(place: Sequence[str]) -> dict[str, Any]:
    """What JSON schema says of the value at `place`."""
    whole = SCHEMA.json_schema()
    node: dict[str, Any] = whole
    for part in (None, *place):
        if part in node.get("properties", {}):
            node = node["properties"][part]
        elif part is not None:
            node = node["items"] if "items" in node else (node.get("prefixItems") or [node["additionalProperties"]])[0]
        if "$ref" in node:
            node = whole["$defs"][node["$ref"].split("/")[-1]]
    return node


def _wanted(schema: Mapping[str, Any]) -> str:
    """ "be a whole number of at least 1"."""
    if "enum" in schema:
        return f"be one of {', '.join(schema['enum'])}"
    if "properties" in schema:
        return "be a section"
    if "description" in schema:
        return schema["description"]
    kinds = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "a text"}
    kinds |= {"object": "a table", "array": f"a list of {schema['minItems']}" if "minItems" in schema else "a list"}
    limits = [f"{word} {schema[key]:g}" for key, word in LIMITS.items() if key in schema]
    return f"be {kinds[schema['type']]} {' and '.join(limits)}".rstrip().replace("number at", "number of at")


LIMITS = {"exclusiveMinimum": "above", "minimum": "at least", "maximum": "at most"}

# ------------------------------------------------------------------------------------------------------------ writing


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as TOML: every setting of the sections its kind has. `build_recipe` reads it back equal."""
    import tomli_w

    everything = SCHEMA.dump_python(recipe, mode="json")
    others = {one for sections in SECTIONS.values() for one in sections} - set(recipe.sections)
    return tomli_w.dumps({key: value for key, value in everything.items() if key not in others})


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
