"""What can be known of a training is refused before its work, in the run and in its --dry-run alike."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from tiny_training import draw_portraits, write_base_recipe, write_style_recipe

from dualstylegan.errors import UsageError
from dualstylegan.models.library import load_base
from dualstylegan.recipe import load_recipe
from dualstylegan.train import train
from dualstylegan.training import estimate
from dualstylegan.training.check import check
from dualstylegan.training.run import RunFolder
from dualstylegan.training.staleness import settings_of

# a style on the base that ships: 128 px, 12 rows
STYLE = ["base_model=mini", "data.min_images=4"]


@pytest.fixture(autouse=True)
def measured_shortly(monkeypatch):
    monkeypatch.setattr(estimate, "MEASURED_S", 0.4)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    draw_portraits(folder / "toons", toon=True)
    draw_portraits(folder / "photos", 8)
    write_style_recipe(folder / "style.toml", folder / "toons", folder)
    write_base_recipe(folder / "base.toml", folder / "photos")
    return folder


def refused(place: Path, recipe: str, settings: list[str], run: Path) -> str:
    """What the dry run says, which must be what the run says before it has written anything."""
    said = []
    kind = STYLE if recipe == "style" else []
    for dry_run in (True, False):
        with pytest.raises(UsageError) as caught:
            checked = load_recipe(place / f"{recipe}.toml", [*kind, *settings])
            list(train(checked, run, dry_run=dry_run, cpu=True))
        said.append(str(caught.value))
    assert said[0] == said[1] and "\n" not in said[0]
    assert not RunFolder(run).recipe_file.exists()
    return said[0]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("transfer.batch=3", "set batch to 2 or 4"),
        ("finetune.batch=3", "finetune.effective_batch 4 .* set batch to 2 or 4"),
        (
            "bundle.default_exemplar=nosuch.png",
            "bundle.default_exemplar: No exemplar 'nosuch.png'.* 5, numbered 0 to 4",
        ),
        ("bundle.default_exemplar='5'", "No exemplar 5 .*numbered 0 to 4"),
        ("bundle.weights=[1, 0.5]", "bundle.weights: 2 weights do not fit a model of 12 rows"),
        ("destylize.structure_rows=13", "destylize.structure_rows = 13 does not fit .*12 at most"),
        ("transfer.shift=128", "transfer.shift = 128 does not fit .*127 at most"),
        ("data.held_out=2", "less those held out .* are 3, fewer than data.min_images = 4"),
        ("data.limit=3", "3 usable portraits, fewer than the recipe's data.min_images = 4"),
        ("data.include=['*.gif']", "patterns leave nothing"),
        ("data.photos=nosuch", "No portraits in 'nosuch'"),
        ("data.folder=nowhere", "there is no such folder"),
        ("base_model=minni", "No base model 'minni'. Did you mean 'mini'"),
        ("base_model=toon", "toon is a style; a base is wanted"),
    ],
)
def test_a_style_that_could_not_be_finished_is_not_begun(place, tmp_path, setting, words):
    assert re.search(words, refused(place, "style", [setting], tmp_path / "run"))


def test_one_portrait_makes_no_samplers(place, tmp_path):
    settings = ["data.min_images=1", "data.limit=1"]
    assert "at least 2 exemplars" in refused(place, "style", settings, tmp_path / "run")
    checked = load_recipe(place / "style.toml", [*STYLE, *settings, "samplers.enabled=false"])
    assert list(train(checked, tmp_path / "run", dry_run=True))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("pretrain.batch=3", "set batch to 2"),
        ("pretrain.effective_batch=3", ""),
        ("data.held_out=6", "less those held out"),
        ("data.shares={'0*' = 1}", ""),
        ("data.shares={'00*' = 1}", "leave nothing for the other portraits"),
        ("base.phases.1.shares={'00*' = 0.6, '01*' = 0.6}", "leave nothing for the other portraits"),
        ("base.size=16", "base.size must be a whole number of at least 32"),
        ("base.phases.1.size=16", "the last of base.phases must train at base.size"),
        ("base.phases=[{size = 32}, {size = 16}, {size = 32}]", "must not shrink, they are 32, 16, 32"),
    ],
)
def test_a_base_that_could_not_be_finished_is_not_begun(place, tmp_path, setting, words):
    if words:
        assert re.search(words, refused(place, "base", [setting], tmp_path / "run"))
    else:
        assert list(train(load_recipe(place / "base.toml", [setting]), tmp_path / "run", dry_run=True))


def test_rows_that_stage_two_counts_are_rows_of_the_base(place, tmp_path):
    (place / "pretrain.toml").write_text('kind = "pretrain"\nbase_model = "mini"\n')
    words = r"pretrain.phases\[0\].rows = 12 does not fit .*11 at most"
    assert re.search(words, refused(place, "pretrain", ["pretrain.phases=[{rows = 12}]"], tmp_path / "run"))


def test_processes_that_a_batch_does_not_divide_among_are_too_many(place):
    recipe = load_recipe(place / "style.toml", STYLE)
    for count, words in ((3, "does not divide among 3 processes"), (8, "smaller than the 8 processes")):
        with pytest.raises(UsageError, match=words):
            check(recipe, RunFolder(place / "run"), count)
    check(recipe, RunFolder(place / "run"), 2)


def test_faces_json_is_read_before_work(place, tmp_path):
    settings = ["data.alignment=faces.json", f"data.faces_json={tmp_path / 'faces.json'}"]
    assert "faces.json" in refused(place, "style", settings, tmp_path / "run")
    (tmp_path / "faces.json").write_text("3")
    assert "holds no list of faces" in refused(place, "style", settings, tmp_path / "run")
    (tmp_path / "faces.json").write_text(json.dumps({"faces": []}))
    assert "mentions none of the 5 pictures" in refused(place, "style", settings, tmp_path / "run")


def test_a_run_folder_that_cannot_be_written_is_no_run_folder(place, tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file, not a folder" in refused(place, "style", [], tmp_path / "file")
    assert "is a file, not a folder" in refused(place, "style", [], tmp_path / "file" / "run")


def test_a_changed_setting_of_any_stage_is_refused_before_the_first(place, tmp_path):
    recipe = load_recipe(place / "style.toml", STYLE)
    run = RunFolder(tmp_path / "run").create()
    run.begin("transfer", settings_of(recipe, "transfer", base=load_base("mini", parts=()).header["sha256"]))
    message = refused(place, "style", ["finetune.lr=0.01"], run.path)
    assert "stage 'transfer' was begun with finetune.lr = 0.002, now it is 0.01" in message
    assert list(
        train(load_recipe(place / "style.toml", [*STYLE, "finetune.lr=0.01"]), run.path, redo="finetune", dry_run=True)
    )


def test_a_run_older_than_a_key_goes_on_as_if_the_key_had_been_there(place, tmp_path):
    recipe = load_recipe(place / "style.toml", STYLE)
    run = RunFolder(tmp_path / "run").create()
    known = settings_of(recipe, "transfer", base=load_base("mini", parts=()).header["sha256"])
    del known["transfer"]["cooldown"]
    run.begin("transfer", known)
    assert list(train(recipe, run.path, dry_run=True))
    message = refused(place, "style", ["transfer.cooldown=0.5"], run.path)
    assert "begun with transfer.cooldown = 0.0, now it is 0.5" in message


def test_a_run_takes_a_time_within_the_range_that_its_dry_run_says(place, tmp_path):
    short = ["base.phases=[{size=32, steps=2, batch=4}]", "pretrain.phases=[{rows=7, steps=1}]"]
    recipe = load_recipe(place / "base.toml", short)
    *stages, summary = train(recipe, tmp_path / "run", dry_run=True, cpu=True)
    said = {event.stage: event.data for event in stages if event.kind == "plan"}
    took: dict[str, float] = {}
    before = time.perf_counter()
    for event in train(recipe, tmp_path / "run", cpu=True):
        stage = str(event.stage).rstrip("12")  # a base's phases
        took[stage] = took.get(stage, 0.0) + time.perf_counter() - before
        before = time.perf_counter()
    for stage in ("data", "base"):
        assert said[stage]["fastest"] <= took[stage] <= said[stage]["slowest"], stage
    assert summary.data["fastest"] <= sum(took.values()) <= summary.data["slowest"]
    assert re.search(r"[\d.]+ to \d+ s on one", summary.message)
    assert summary.data["slowest"] < 600  # of a run that takes seconds
