"""Recipes: the paper's numbers, one schema, errors that name file and key."""

from __future__ import annotations

import tomllib

import pytest

from dualstylegan.errors import DualStyleGANError, TrainingError, UsageError
from dualstylegan.recipe import (
    Transfer,
    build_recipe,
    dump_recipe,
    list_recipes,
    load_recipe,
    recipe_folder,
    resolve_batch,
    resolve_recipe,
)

SHIPPED = sorted(path.stem for path in recipe_folder().glob("*.toml"))
SMALLEST = {"name": "x", "base_model": "ffhq"}


# name: images, steps, batch, (adv, perc, CX, FM, ID, reg), refine's learning rates
PAPER = {
    "cartoon": (317, 1400, 32, (1, 1, 0.25, 0.25, 1, 0.015), (0.005, 0.1)),
    "caricature": (199, 1000, 32, (1, 1, 0.25, 0.25, 4, 0.005), (0.005, 0.01)),
    "anime": (174, 2100, 32, (1, 1, 0.25, 0.25, 1, 0.02), (0.0005, 0.005)),
    "pixar": (122, 1000, 32, (1, 1, 0.25, 0.25, 1, 0.015), None),
    "comic": (101, 1000, 32, (1, 1, 0.25, 0.25, 1, 0.015), None),
    "slamdunk": (120, 1500, 32, (1, 1, 0.25, 0.25, 4, 0.02), None),
    "sixteen": (16, None, 32, (1, 0.1, 0.05, 0.05, 4, 0.08), None),
    "cartoon-1gpu": (317, 3500, 4, (1, 2.25, 0.25, 0.25, 1, 0.02), (0.005, 0.1)),
    "caricature-1gpu": (199, 3000, 4, (1, 1, 0.25, 0.25, 2, 0.01), (0.005, 0.01)),
    "anime-1gpu": (174, 4500, 4, (1, 0.25, 0.25, 2.5, 1, 0.04), (0.0005, 0.005)),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_styles_have_the_papers_numbers(name):
    images, steps, batch, weights, rates = PAPER[name]
    recipe = load_recipe(name)
    transfer, refine = recipe.transfer, recipe.refine
    assert recipe.data.count == images
    assert steps is None or transfer.steps == steps
    assert transfer.effective_batch == batch
    assert weights == (
        transfer.adversarial,
        transfer.perceptual,
        transfer.contextual,
        transfer.feature_matching,
        transfer.identity,
        transfer.regularizer,
    )
    assert transfer.perceptual_layers == {"relu2_1": 0.5, "relu3_1": 1.0}
    assert (refine.structure_lr, refine.color_lr) == rates if rates else not refine.enabled
    assert recipe.finetune.steps == 600
    assert recipe.finetune.effective_batch == 32
    assert recipe.destylize.steps == 300
    assert "samplers" in recipe.stages


def test_stage_two_has_the_papers_numbers():
    pretrain = load_recipe("ffhq-pretrain").pretrain
    assert [(phase.rows, phase.steps) for phase in pretrain.phases] == [(7, 300), (6, 300), (5, 3000)]
    assert (pretrain.effective_batch, pretrain.adversarial, pretrain.perceptual) == (4, 0.1, 0.5)
    assert pretrain.perceptual_layers == {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0}
    assert (pretrain.perceptual_px, pretrain.encoded_every) == (256, 4)


def test_sixteen_images_are_mirrored_and_come_with_their_row_weights():
    recipe = load_recipe("sixteen")
    assert recipe.data.flip
    assert recipe.bundle.weights == (1,) * 4 + (0.5,) * 3 + (1,) * 11


@pytest.mark.parametrize("name", SHIPPED)
def test_a_resolved_recipe_reads_back_as_itself(name, tmp_path):
    recipe = load_recipe(name, ["transfer.steps=123"] if load_recipe(name).kind == "style" else [])
    assert build_recipe(tomllib.loads(dump_recipe(recipe))) == recipe
    file = tmp_path / "recipe.toml"
    file.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(file) == recipe


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_opens_with_what_it_is_and_its_exact_command(name):
    first, _, *header = (recipe_folder() / f"{name}.toml").read_text(encoding="utf-8").splitlines()[:12]
    assert first.startswith(f"# {name}: ")
    assert any("train" in line.split() and name in line.split() for line in header)
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.about
    assert recipe.kind == "pretrain" or recipe.data.source
    assert recipe.kind == "pretrain" or recipe.data.licence


def test_every_recipe_is_listed():
    assert sorted(entry.name for entry in list_recipes()) == SHIPPED


def test_a_name_a_file_name_and_a_path_in_recipes_mean_the_shipped_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_recipe("pixar") == resolve_recipe("pixar.toml") == resolve_recipe("recipes/pixar.toml")


def test_a_local_file_comes_before_the_shipped_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pixar.toml").write_text('base_model = "mini"\n[transfer]\nsteps = 7\n')
    recipe = load_recipe("pixar.toml")
    assert (recipe.name, recipe.base_model, recipe.transfer.steps) == ("pixar", "mini", 7)
    assert load_recipe("pixar").transfer.steps == 1000


def test_an_unknown_recipe_gets_the_nearest_name():
    with pytest.raises(UsageError, match="Did you mean 'pixar'"):
        load_recipe("pixer")


def test_a_file_that_is_no_toml_is_named(tmp_path):
    file = tmp_path / "broken.toml"
    file.write_text("steps = = 3")
    with pytest.raises(UsageError, match=r"broken\.toml: not a TOML file"):
        load_recipe(file)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('base_model = "mini"\n', encoding="utf-8-sig")
    assert load_recipe(file).base_model == "mini"


def test_recipes_are_frozen_and_checked_however_they_are_made():
    recipe = load_recipe("pixar")
    with pytest.raises(AttributeError):
        recipe.transfer.steps = 3
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Transfer(steps=0)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"transfer": {"stepz": 3}}, r"r\.toml: \[transfer\] has no key 'stepz'\. Did you mean 'steps'"),
        ({"transfr": {}}, "no key 'transfr'. Did you mean 'transfer'"),
        ({"transfer": {"steps": "many"}}, "transfer.steps must be a whole number of at least 1, not 'many'"),
        ({"transfer": {"steps": 2.5}}, "transfer.steps must be a whole number"),
        ({"transfer": {"steps": True}}, "transfer.steps must be a whole number"),
        ({"transfer": {"lr": 0}}, "transfer.lr must be a number above 0"),
        ({"transfer": {"lr": float("nan")}}, "transfer.lr must be a number"),
        ({"transfer": {"augment": 1}}, "transfer.augment must be true or false"),
        ({"transfer": {"mixing": 1.5}}, "at most 1"),
        ({"transfer": 3}, "transfer must be a section"),
        ({"transfer": {"perceptual_layers": {}}}, "transfer.perceptual_layers must name one layer"),
        ({"transfer": {"perceptual_layers": {"relu2_2": 1}}}, "perceptual_layers has no 'relu2_2'. Did you mean"),
        ({"data": {"alignment": "landmark"}}, "Did you mean 'landmarks'"),
        ({"data": {"template": {"mouth": [0.5]}}}, "data.template.mouth must be a list of 2"),
        ({"data": {"held_out_person": "("}}, "held_out_person is not a regular expression"),
        ({"bundle": {"weights": [1, 2]}}, "bundle.weights.1 must be"),
        ({"bundle": {"weights": []}}, "a weight for each row"),
        ({"base": {}}, r"\[base\] belongs to a recipe of kind base"),
        ({"base_model": ""}, "base_model is missing"),
        ({"name": "../x"}, "name must be a plain file name"),
        ({"name": "/x"}, "name must be a plain file name"),
        ({"name": "x" * 101}, "name must be a plain file name of up to 100 letters"),
        ({"seed": 2**63}, "seed must be a whole number of at least 0"),
        ({"data": {"folder": "caf\udce9"}}, "bytes that are no text"),
        ({"transfer": {"perceptual_layers": []}}, "transfer.perceptual_layers must name one layer or more"),
        ({"bundle": {"title": 3}}, "bundle.title must be a text, not 3"),
        ({"data": {"include": "*.png"}}, "data.include must be a list, not"),
    ],
)
def test_what_a_user_can_get_wrong_is_one_line_with_file_and_key(table, words):
    with pytest.raises(UsageError, match=words) as caught:
        build_recipe({**SMALLEST, **table}, "r.toml")
    assert str(caught.value).startswith("r.toml: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ({"size": 100}, "base.size must be a power of two"),
        ({"channels": {"4": 8}}, "base.channels lacks a width for 8 px"),
        ({"channels": {"four": 8}}, "not a whole number"),
        ({"phases": []}, "one phase or more"),
        ({"phases": [{"size": 256}]}, r"base\.phases\[0\]\.size"),
        ({"phases": [{"size": 64}]}, "the last of base.phases must train at base.size"),
    ],
)
def test_a_base_that_cannot_be_built_is_refused(base, words):
    with pytest.raises(UsageError, match=words):
        build_recipe({"name": "x", "kind": "base", "base": base})


def test_settings_override_the_file_in_order():
    recipe = load_recipe(
        "pixar", ["transfer.steps=5", "transfer.steps=200", "base_model=mini", "bundle.weights=[1, 0.5]"]
    )
    assert recipe.transfer.steps == 200
    assert recipe.base_model == "mini"
    assert recipe.bundle.weights == (1, 0.5)
    assert load_recipe("mini", ["base.phases.1.steps=3"]).base.phases[1].steps == 3
    assert load_recipe("pixar", data__folder="here", base_model=None).data.folder == "here"


@pytest.mark.parametrize(
    "text", ["transfer.steps", "=3", "transfer.stepz=3", "transfer.steps.x=3", "transfer.steps=many"]
)
def test_a_wrong_setting_is_one_line(text):
    with pytest.raises(DualStyleGANError) as caught:
        load_recipe("pixar", [text])
    assert "\n" not in str(caught.value)


def test_stages_switched_off_are_not_run():
    assert load_recipe("pixar").stages == ("data", "finetune", "destylize", "transfer", "samplers", "bundle")
    assert load_recipe("mini").stages == ("data", "base", "pretrain", "bundle")
    assert load_recipe("ffhq-pretrain").stages == ("pretrain", "bundle")


@pytest.mark.parametrize(
    ("effective", "processes", "per_process", "expected"),
    [(32, 8, 4, (4, 1)), (32, 1, 4, (4, 8)), (32, 1, 0, (32, 1)), (4, 4, 0, (1, 1)), (32, 2, 8, (8, 2))],
)
def test_processes_times_batch_times_accumulation_is_the_effective_batch(effective, processes, per_process, expected):
    batch, accumulation = resolve_batch(effective, processes, per_process)
    assert (batch, accumulation) == expected
    assert processes * batch * accumulation == effective


@pytest.mark.parametrize(
    ("effective", "processes", "per_process", "words"),
    [
        (4, 8, 0, "transfer.effective_batch 4 is smaller than the 8 processes"),
        (32, 3, 0, "does not divide among 3 processes: start 2 or 4"),
        (32, 2, 5, "set batch to 4 or 8"),
        (4, 1, 8, "set batch to 4"),
    ],
)
def test_a_batch_that_does_not_divide_is_one_line_with_what_would(effective, processes, per_process, words):
    with pytest.raises(TrainingError, match=words):
        resolve_batch(effective, processes, per_process, stage="transfer")
