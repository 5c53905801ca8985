"""The paper's experiment on residual paths, and fine-tuning that keeps pictures as near to one another as they were."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from PIL import Image
from tiny_training import TEMPLATE, draw_portraits

from dsgcli.main import main
from dualstylegan.errors import TrainingError, UsageError
from dualstylegan.models.base import Base, save_base
from dualstylegan.models.priors import GaussianPrior
from dualstylegan.networks.residual_paths import PATHS, PathedGenerator
from dualstylegan.networks.small_encoder import SmallEncoder
from dualstylegan.networks.stylegan2 import Discriminator, Generator
from dualstylegan.recipe import build_recipe, load_recipe
from dualstylegan.runtime.processes import Processes
from dualstylegan.training.check import check_batches
from dualstylegan.training.comparison import compare_with
from dualstylegan.training.losses import correspondence_loss
from dualstylegan.training.perception import load_perception
from dualstylegan.training.run import RunFolder
from dualstylegan.training.stages import Stages

pytestmark = pytest.mark.usefixtures("one_thread")

CHANNELS = {4: 8, 8: 8, 16: 8, 32: 8}
EXPERIMENT = """
kind = "experiment"
base_model = "{base}"
precision = "float32"
log_every = 1

[data]
folder = "{data}"
alignment = "template"
template = {template}
min_images = 4

[finetune]
steps = 1
effective_batch = 3
path = 0

[compare]
paths = ["again", "resblock", "adain", "attention"]
codes = 4

[perception]
features = "mobilenet"
identity = "embedded"
"""


def tiny_generator() -> Generator:
    torch.manual_seed(0)
    return Generator(32, style_dim=16, mapping_layers=2, channels=CHANNELS)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """(the recipe's file, its run folder) of an experiment on a base without training."""
    folder = tmp_path_factory.mktemp("paths")
    generator = tiny_generator()
    encoder = SmallEncoder(rows=generator.rows, style_dim=16, channels=8)
    header = {"name": "tiny", "features": "mobilenetv2", "identity": "dlib-resnet"}
    critic = Discriminator(32, channels=CHANNELS)
    save_base(folder / "tiny", Base(header, generator, critic, encoder, None, GaussianPrior()))
    data = draw_portraits(folder / "toons", toon=True)
    recipe = folder / "paths.toml"
    base = (folder / "tiny").as_posix()
    recipe.write_text(EXPERIMENT.format(base=base, data=data.as_posix(), template=TEMPLATE))
    assert main(["train", str(recipe), "--run", str(folder / "run"), "--cpu"]) == 0
    return recipe, folder / "run"


def test_an_experiment_ends_in_a_table_and_a_sheet_of_every_path(experiment):
    _, run = experiment
    with (run / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {"g", "again", "resblock", "adain", "attention"}
    assert all(float(row["perceptual"]) > 0 and float(row["pixel"]) > 0 for row in rows)
    assert sum(float(row["nearest"]) for row in rows) == pytest.approx(1, abs=1e-4)
    assert Image.open(run / "grids" / "compare-000000.png").height > 6 * 96


def test_an_experiment_is_passed_over_when_done_and_measures_again_with_more_codes(experiment, capsys):
    recipe, run = experiment
    assert main(["train", str(recipe), "--run", str(run), "--cpu", "--json", "--set", "compare.codes=2"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    passed = {event["stage"] for event in events if event["event"] == "skipped"}
    assert passed == {"data", "finetune", "again", "resblock", "adain", "attention"}
    assert any("over 2 codes" in (event["message"] or "") for event in events)


@pytest.mark.parametrize("kind", sorted(PATHS))
def test_a_path_starts_near_no_change_and_is_told_by_features_alone(kind):
    g, codes = tiny_generator(), torch.randn(2, 8, 16)
    pathed = PathedGenerator(g, kind)
    with torch.no_grad():
        assert (pathed(codes) - g(codes)).abs().mean() < 0.1 * g(codes).abs().mean()  # λ .01 in each of seven
        for parameter in pathed.paths.parameters():
            parameter.add_(0.5)
        assert (pathed(codes) - g(codes)).abs().mean() > 0.1 * g(codes).abs().mean()


def test_training_a_path_leaves_g_as_it_was_and_moves_every_path(experiment):
    recipe, run = experiment
    training = Stages(load_recipe(recipe), RunFolder(run), Processes())
    for kind in PATHS:
        torch.manual_seed(0)
        before = PathedGenerator(training.base.generator, kind).paths
        learned = RunFolder(run).snapshot(kind)["paths"]
        assert learned.keys() == before.state_dict().keys()
        assert all(torch.isfinite(tensor).all() for tensor in learned.values())
        pathed = training.rival(kind)
        assert all(torch.equal(a, b) for a, b in zip(pathed.paths.state_dict().values(), learned.values(), strict=True))
        assert not any(key.startswith("generator") for key in learned)


def test_what_is_the_truth_is_at_no_distance_from_itself():
    g, codes = tiny_generator(), torch.randn(10, 8, 16)
    made = compare_with("g", {"g": g, "same": g, "resblock": PathedGenerator(g, "resblock")}, codes, judges())
    (same, _), distances = made.table, {one.name: one for one in made.distances}
    assert same[0] == "same" and same[1] == pytest.approx(0, abs=1e-6) and same[5] == 1
    assert distances["resblock"].pixel.mean() > 0


def judges():
    return load_perception("mobilenet", "embedded")


# Few-shot adaptation


def test_pictures_that_keep_their_nearness_cost_nothing_and_ones_that_fall_together_do():
    torch.manual_seed(0)
    before = [torch.randn(4, 8, 4, 4), torch.randn(4, 8, 8, 8)]
    assert correspondence_loss([3 * x for x in before], before).item() == pytest.approx(0, abs=1e-6)
    near = [x + x[:1] for x in before]
    assert correspondence_loss(near, before).item() > 1e-3


def test_correspondence_is_the_mean_divergence_of_softmaxed_cosines():
    x, y = torch.randn(3, 5, 1, 1), torch.randn(3, 5, 1, 1)
    cosines = [torch.nn.functional.cosine_similarity(z[:, None], z[None], dim=2)[..., 0, 0] for z in (x, y)]
    expected = 0.0
    for i in range(3):
        others = [j for j in range(3) if j != i]
        p, q = (torch.softmax(c[i, others], dim=0) for c in cosines)
        expected += float((p * (p / q).log()).sum()) / 3
    assert correspondence_loss([x], [y]).item() == pytest.approx(expected, rel=1e-4)


def test_fine_tuning_with_correspondence_says_what_it_costs_and_teaches_g(experiment, tmp_path):
    recipe, _ = experiment
    text = recipe.read_text().replace('kind = "experiment"', 'kind = "style"').replace("[compare]", "[samplers]")
    text = text.replace('paths = ["again", "resblock", "adain", "attention"]', "").replace("codes = 4", "")
    (tmp_path / "adapted.toml").write_text(text.replace("steps = 1", "steps = 2\ncorrespondence = 1000"))
    arguments = ["train", str(tmp_path / "adapted.toml"), "--run", str(tmp_path / "run"), "--cpu"]
    for stage in ("data", "finetune"):
        assert main([*arguments, "--stage", stage]) == 0
    figures = RunFolder(tmp_path / "run").figures("finetune")["correspondence"][1]
    assert figures[0] == pytest.approx(0, abs=1e-3) and figures[1] > 0  # the copy begins as g


def test_correspondence_needs_pictures_to_compare():
    table = {"name": "x", "kind": "style", "base_model": "mini", "finetune": {"correspondence": 1.0, "batch": 2}}
    with pytest.raises(TrainingError, match="three at least"):
        check_batches(build_recipe(table), ("finetune",), 1)


def test_correspondence_is_no_part_of_the_experiment():
    table = {"name": "x", "kind": "experiment", "base_model": "mini", "finetune": {"correspondence": 1.0}}
    with pytest.raises(UsageError, match="correspondence"):
        build_recipe(table)
