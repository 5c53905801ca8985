"""`dsg train`: photos become a base, portraits a style; every stage is visible, faithful, and refuses nonsense."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_style import DrawnFaces, drawn_photo
from tiny_training import PORTRAITS, draw_portraits, write_base_recipe, write_style_recipe

from dsgcli.main import main
from dualstylegan.errors import TrainingError, UsageError
from dualstylegan.models.library import load_base, load_style
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.networks.small_encoder import SmallEncoder
from dualstylegan.networks.stylegan2 import Discriminator, Generator
from dualstylegan.recipe import Transfer, load_recipe
from dualstylegan.runtime.processes import Processes
from dualstylegan.stylizing import stylizer as stylizer_module
from dualstylegan.train import train
from dualstylegan.training.adversary import Adversary
from dualstylegan.training.base import grow
from dualstylegan.training.intrinsic import cross
from dualstylegan.training.loop import Pace, Phase, adam, split, train_stage
from dualstylegan.training.perception import load_perception
from dualstylegan.training.results import PortraitResults
from dualstylegan.training.run import RunFolder
from dualstylegan.training.stages import Stages
from dualstylegan.training.transfer import TransferStage

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with photos/, toons/, both recipes, and the runs base/ and style/, all through the command line."""
    folder = tmp_path_factory.mktemp("training")
    photos, toons = draw_portraits(folder / "photos", 8), draw_portraits(folder / "toons", toon=True, seed=1)
    base = write_base_recipe(folder / "base.toml", photos)
    style = write_style_recipe(folder / "style.toml", toons, folder / "base")
    assert main(["train", str(base), "--run", str(folder / "base"), "--cpu"]) == 0
    assert main(["train", str(style), "--run", str(folder / "style"), "--cpu"]) == 0
    return folder


def test_a_runs_own_recipe_goes_on_in_its_folder_whatever_its_name(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(trained / "style", tmp_path / "copy")
    for arguments in (["train", "copy/recipe.toml", "--cpu"], ["destylize", str(copy / "recipe.toml"), "--cpu"]):
        assert main(arguments) == 0
        assert "copy" in capsys.readouterr().out
    monkeypatch.chdir(copy)
    (copy / "stages" / "refine" / "done.json").unlink()
    assert main(["refine", "recipe.toml", "--cpu"]) == 0
    assert (copy / "stages" / "refine" / "done.json").is_file()
    assert not (tmp_path / "runs").exists() and not (copy / "runs").exists()


# From portraits to a picture


def test_photos_become_a_base_then_portraits_a_style_that_stylizes_a_photo(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(stylizer_module, "make_detector", lambda *args, **kwargs: DrawnFaces())
    Image.fromarray(drawn_photo()).save(tmp_path / "photo.png")

    out = tmp_path / "out.png"
    arguments = ["stylize", str(tmp_path / "photo.png"), "--style", f"{trained / 'style'}:3", "-o", str(out)]
    assert main([*arguments, "--device", "cpu"]) == 0

    assert Image.open(out).size == (320, 240)
    assert out.read_bytes() != (tmp_path / "photo.png").read_bytes()


def test_a_base_run_leaves_everything_that_styles_start_from(trained):
    base = load_base(trained / "base")
    assert base.generator.size == 32 and base.generator.rows == 8
    assert base.discriminator is not None and base.encoder is not None and base.extrinsic
    assert base.sample_intrinsic(3).shape == (3, 8, 16)
    assert base.header["prior"]["type"] == "codes"


def test_a_base_keeps_gs_own_discriminator_beside_stage_twos_end(trained):
    base, run = load_base(trained / "base"), RunFolder(trained / "base")
    own, end = run.snapshot("base2")["adversary"]["network"], run.last_checkpoint("pretrain").state
    assert all(torch.equal(tensor, own[name]) for name, tensor in base.discriminator.state_dict().items())
    kept = base.stage_two
    for ours, saved in (
        (kept.discriminator, end["stage"]["adversary"]["network"]),
        (kept.extrinsic, end["stage"]["extrinsic"]),
    ):
        assert all(torch.equal(ours[name], tensor) for name, tensor in saved.items())
    assert any(not torch.equal(tensor, own[name]) for name, tensor in kept.discriminator.items())
    assert kept.path_mean == pytest.approx(end["stage"]["path_mean"]) != 0  # float32 on disk


def test_a_base_goes_on_from_another_one(trained, tmp_path):
    """It begins as that one is: here it hardly learns anything itself."""
    recipe = write_base_recipe(tmp_path / "next.toml", trained / "photos")
    changed = [f"base_model={trained / 'base'}", "base.phases=[{size = 32, steps = 1, batch = 4, lr = 1e-12}]"]
    list(train(load_recipe(recipe, changed), tmp_path / "next", until="base", cpu=True))
    before, made = load_base(trained / "base"), load_base(tmp_path / "next" / "base")
    for network in ("generator", "encoder"):
        old, new = (getattr(base, network).state_dict() for base in (before, made))
        assert all(torch.allclose(new[name], tensor, atol=1e-5) for name, tensor in old.items())


@pytest.mark.parametrize("has_pretrain", [True, False])
def test_stage_three_goes_on_where_stage_two_stopped_if_the_base_says_where(trained, has_pretrain):
    training = Stages(load_recipe(trained / "style.toml"), RunFolder(trained / "style"), Processes())
    base = training.base
    before, average = base.stage_two, {name: tensor.clone() for name, tensor in base.extrinsic.items()}
    if not has_pretrain:
        base.stage_two = None
    stage = training.transferring()

    d = before.discriminator if has_pretrain else base.discriminator.state_dict()
    assert all(torch.equal(tensor, d[name]) for name, tensor in stage.adversary.network.state_dict().items())
    live = before.extrinsic if has_pretrain else average
    assert all(torch.equal(tensor, live[name]) for name, tensor in stage.model.extrinsic_state().items())
    assert all(torch.equal(tensor, average[name]) for name, tensor in stage.average.state_dict().items())
    assert stage.path.mean == (before.path_mean if has_pretrain else 0)
    moments = (
        (stage.optimizer, stage.model.extrinsic_parameters(), before.extrinsic_moments),
        (stage.adversary.optimizer, stage.adversary.network.named_parameters(), before.discriminator_moments),
    )
    for optimizer, named, known in moments:
        assert bool(optimizer.state) == has_pretrain
        for name, parameter in named if has_pretrain else ():
            for key, tensor in optimizer.state[parameter].items():
                assert torch.equal(tensor, known[f"{name}.{key}"]), (name, key)


def test_a_style_run_leaves_codes_in_the_order_of_names_and_refined_ones(trained):
    style = load_style(trained / "style", thumbnails=True)
    assert style.bank.names == tuple(f"{i:02d}.png" for i in range(PORTRAITS)) or style.bank.names == [
        f"{i:02d}.png" for i in range(PORTRAITS)
    ]
    assert style.bank.refined is not None and not torch.equal(style.bank.refined, style.bank.plain)
    assert set(style.samplers) == {"structure", "color"}
    assert len(style.thumbnails) == PORTRAITS
    assert style.header["features"] == "mobilenetv2" and style.header["identity"] == "dlib-resnet"


def test_a_run_folder_holds_recipe_log_grids_checkpoints_and_snapshots(trained):
    run = RunFolder(trained / "style")
    assert load_recipe(run.recipe_file).transfer.steps == 6
    rows = [row for row in run.read_log() if row["stage"] == "transfer"]
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    # pairs (odd steps, counted from 0) know their picture, random faces do not
    assert [bool(row["perceptual"]) for row in rows] == [False, True] * 3
    assert [bool(row["path"]) for row in rows] == [True, False] * 3
    assert Image.open(run.figures_file).width > 300  # the curves of the last stage that had any
    grids = {path.name for path in run.grids.iterdir()}
    assert {"finetune-000003.png", "destylize-000000.png", "transfer-000006.png", "refine-000000.png"} <= grids
    assert run.snapshot_steps("transfer") == [2, 4, 6]
    assert len(list(run.checkpoints.glob("transfer-*.rank0.pt"))) == 2


def test_only_the_extrinsic_path_has_learned(trained):
    base, style = load_base(trained / "base"), load_style(trained / "style")
    for name, tensor in base.generator.state_dict().items():
        assert torch.equal(tensor, style.model.generator.state_dict()[name]), name
    learned = style.model.extrinsic_state()
    changed = [name for name, tensor in base.extrinsic.items() if not torch.equal(tensor, learned[name])]
    # T_s too: an average that leaves it out is a slip of the release
    assert {name.split(".")[0] for name in changed} == {"structure_transform", "modres", "color_transforms"}


def test_every_stage_of_a_base_draws_what_it_makes(trained):
    grids = {path.name for path in RunFolder(trained / "base").grids.iterdir()}
    assert {"base1-000004.png", "base2-000004.png", "pretrain-000004.png"} <= grids


def test_a_finished_run_is_imported_and_used_by_name_and_by_folder(trained, tmp_path, capsys):
    assert main(["styles", "import", str(trained / "style" / "style"), "--name", "drawn"]) == 0
    assert main(["sample", "--style", "drawn:3", "-n", "1", "-o", str(tmp_path / "a.png"), "--device", "cpu"]) == 0
    style = f"{trained / 'style' / 'style'}:03.png"
    assert main(["sample", "--style", style, "-n", "1", "-o", str(tmp_path / "b.png"), "--device", "cpu"]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_flags_name_the_portraits_the_base_and_settings(trained, tmp_path, capsys):
    arguments = ["train", "pixar", "--data", str(trained / "toons"), "--base", str(trained / "base"), "--dry-run"]
    arguments += ["--set", "transfer.steps=7", "--set", "data.min_images=2", "--run", str(tmp_path / "run"), "--json"]
    assert main(arguments) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [e["total"] for e in events if e["event"] == "plan" and e["stage"] == "transfer"] == [7]
    assert f"{PORTRAITS} portraits" in events[-1]["message"]


def test_a_dry_run_fetches_nothing(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DSG_OFFLINE", "1")
    arguments = ["train", "pixar", "--set", "data.min_images=2", "--run", str(tmp_path / "run"), "--dry-run"]
    assert main([*arguments, "--data", str(trained / "toons")]) == 0
    assert "1000 steps" in capsys.readouterr().out
    assert main([*arguments, "--data", str(tmp_path / "none")]) == 2
    assert "The original set has 122 images" in capsys.readouterr().err


def test_the_shipped_recipes_are_listed(capsys):
    assert main(["train", "--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["ffhq-pretrain", "pretrain"] for line in listed)
    assert any(line.split()[:2] == ["pixar", "style"] for line in listed)


def test_the_same_command_again_does_nothing(trained):
    before = (trained / "style" / "log.csv").read_bytes()
    recipe = load_recipe(trained / "style.toml")
    events = list(train(recipe, trained / "style", cpu=True))
    assert {event.stage for event in events if event.kind == "skipped"} == set(recipe.stages)
    assert (trained / "style" / "log.csv").read_bytes() == before


def test_a_style_can_be_made_from_an_earlier_snapshot(trained):
    recipe, run = load_recipe(trained / "style.toml"), trained / "style"
    last = load_style(run).model.extrinsic_state()
    try:
        command = ["train", str(trained / "style.toml"), "--run", str(run), "--cpu"]
        assert main([*command, "--stage", "bundle", "--from", "2"]) == 0
        style = load_style(run)
        assert style.header["step"] == 2
        snapshot = RunFolder(run).snapshot("transfer", 2)["extrinsic"]
        assert all(torch.equal(style.model.extrinsic_state()[name], tensor) for name, tensor in snapshot.items())
    finally:
        list(train(recipe, run, stage="bundle", cpu=True))
    assert all(torch.equal(load_style(run).model.extrinsic_state()[name], tensor) for name, tensor in last.items())


@pytest.mark.slow
def test_a_style_is_made_without_the_portraits_whose_codes_cannot_be_written(trained, tmp_path):
    run = shutil.copytree(trained / "style", tmp_path / "style")
    for stage in ("destylize", "transfer", "refine", "samplers", "bundle"):
        RunFolder(run).forget(stage)
    for stage, name in (("destylize", "01.png"), ("refine", "03.png")):
        PortraitResults(run / "stages" / stage).path(name).mkdir(parents=True)  # in the place of its codes
    assert main(["train", str(trained / "style.toml"), "--run", str(run), "--cpu"]) == 0
    bank = load_style(run).bank
    assert list(bank.names) == ["00.png", "02.png", "03.png", "04.png"]
    kept = [torch.equal(*pair) for pair in zip(bank.extrinsic, bank.plain, strict=True)]
    assert kept == [False, False, True, False]


def test_a_snapshot_that_is_not_there_is_answered_with_those_that_are(trained):
    with pytest.raises(UsageError, match="at step 3; there are 2, 4, 6"):
        list(train(load_recipe(trained / "style.toml"), trained / "style", stage="bundle", from_step=3, cpu=True))


def test_changed_settings_are_refused_and_name_the_way_out(trained):
    recipe = load_recipe(trained / "style.toml", ["transfer.lr=0.01"])
    with pytest.raises(UsageError, match=r"begun with transfer.lr = 0.002, now it is 0.01.*--redo transfer"):
        list(train(recipe, trained / "style", cpu=True))


class Remembering(GeneralTracker):
    """A tracker of a user's own. It breaks at the second picture."""

    name, requires_logging_directory, tracker = "remembering", False, None

    def __init__(self, run_name: str):
        super().__init__()
        self.said, self.pictures, self.ended = [("run", run_name)], [], False
        Remembering.last = self

    def store_init_configuration(self, values):
        self.settings = values

    def log(self, values, step=None, **options):
        self.said += [(name, step, value) for name, value in values.items()]

    def log_images(self, values, step=None, **options):
        if self.pictures:
            raise OSError("no network")
        self.pictures += [(name, step, images[0]) for name, images in values.items()]

    def finish(self):
        self.ended = True


def test_trackers_are_told_of_figures_and_grids_and_one_that_breaks_stops_nothing(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "remembering", Remembering)
    trackers = 'log_with=["tensorboard", "remembering"]'
    recipe = load_recipe(trained / "style.toml", ["finetune.steps=4", "grid_every=2", "log_every=2", trackers])
    run, curves, warnings = RunFolder(tmp_path / "run"), [], []
    for stage in ("data", "finetune"):
        for event in train(recipe, run.path, stage=stage, cpu=True):
            if event.output and "grids" in event.output:
                curves.append(run.figures_file.read_bytes())
            warnings += [event.message] if event.kind == "warning" else []
    assert len(curves) == 2 and curves[0] != curves[1]  # figures.png is drawn again with every grid
    assert warnings == ["remembering is told no more: OSError: no network"] and run.is_done("finetune")

    logged = {int(row["step"]): float(row["adversarial"]) for row in run.read_log()}
    heard = EventAccumulator(str(run.path / "trackers/tiny-style")).Reload()
    assert {one.step: one.value for one in heard.Scalars("finetune/adversarial")} == pytest.approx(logged, rel=1e-4)
    assert [one.step for one in heard.Images("finetune/grid")] == [2, 4]
    drawn = Image.open(run.grid("finetune", 4))
    assert (heard.Images("finetune/grid")[1].width, heard.Images("finetune/grid")[1].height) == drawn.size

    fake = Remembering.last
    assert fake.said[0] == ("run", "tiny-style") and fake.settings["finetune.steps"] == 4
    assert {step: value for name, step, value in fake.said[1:] if name == "finetune/adversarial"} == pytest.approx(
        logged, rel=1e-4
    )
    ((name, step, picture),) = fake.pictures
    assert (name, step) == ("finetune/grid", 2)
    assert (picture == np.asarray(Image.open(run.grid("finetune", 2)))).all()


@pytest.mark.parametrize(
    ("name", "line"),
    [("tensorbord", "no tracker 'tensorbord'. Did you mean 'tensorboard'?"), ("aim", "aim is not installed here: pip")],
)
def test_trackers_that_are_not_there_are_refused_before_work(trained, tmp_path, capsys, name, line):
    arguments = ["train", str(trained / "style.toml"), "--run", str(tmp_path / "run"), "--cpu", "--log-with", name]
    for more in ([], ["--dry-run"]):
        assert main([*arguments, *more]) == 2
        said = capsys.readouterr().err
        assert line in said and len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_stage_the_recipe_does_not_have_is_answered_with_the_nearest(trained):
    with pytest.raises(UsageError, match="Did you mean 'transfer'"):
        list(train(load_recipe(trained / "style.toml"), trained / "style", stage="transfers", cpu=True))


def test_a_stage_whose_predecessors_are_not_done_says_so(trained, tmp_path):
    with pytest.raises(UsageError, match="'transfer' comes after 'data'"):
        list(train(load_recipe(trained / "style.toml"), tmp_path / "run", stage="transfer", cpu=True))


def test_too_few_portraits_stop_before_any_training(trained, tmp_path, capsys):
    run = tmp_path / "run"
    arguments = ["train", str(trained / "style.toml"), "--run", str(run), "--set", "data.min_images=50", "--cpu"]
    assert main(arguments) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not RunFolder(run).is_done("data") and not list(run.glob("checkpoints/*"))


def test_a_dry_run_says_what_is_left_and_what_it_might_cost(trained, tmp_path, capsys):
    arguments = ["train", str(trained / "style.toml"), "--run", str(tmp_path / "run"), "--dry-run"]
    assert main([*arguments, "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    planned = {event["stage"]: event["data"] for event in events if event["event"] == "plan"}
    assert list(planned) == ["data", "finetune", "destylize", "transfer", "refine", "samplers", "bundle"]
    assert planned["transfer"]["seconds"] > 0 and planned["transfer"]["memory_mb"] > 0
    assert not (tmp_path / "run").exists()


# Faithful steps


def transfer_stage(batch: int, accumulation: int, folder: Path) -> TransferStage:
    """Stage III on a tiny model without D's term: the standard deviation over a batch is D's alone and is excepted."""
    from dualstylegan.models.base import Base
    from dualstylegan.training.data import Portraits
    from dualstylegan.training.intrinsic import RandomFaces
    from dualstylegan.training.portraits import Portrait

    torch.manual_seed(0)
    generator = Generator(32, style_dim=16, mapping_layers=2, channels={4: 8, 8: 8, 16: 8, 32: 8})
    model = DualStyleGAN(generator)
    portraits = [Portrait(path.name, path) for path in sorted(draw_portraits(folder / "toons", 4).iterdir())]
    settings = Transfer(effective_batch=8, batch=batch, adversarial=0.0, regularizer=0.01)
    base = Base({"kind": "base"}, generator)
    return TransferStage(
        model,
        Adversary(Discriminator(32, channels=generator.channels), lr=0.002, r1=10, r1_every=16),
        Portraits(portraits, 32),
        torch.randn(4, 8, 16),
        torch.randn(4, 8, 16),
        RandomFaces(base, torch.device("cpu"), mixing=0.9),
        load_perception("mobilenet", "embedded"),
        settings,
        noise_from=7,
        share=(batch, accumulation),
        processes=Processes(),
    )


def as_double(value):
    if isinstance(value, list):
        return [as_double(item) for item in value]
    return value.double() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("step", [0, 1], ids=["random faces", "pairs"])
def test_accumulating_two_times_four_gives_the_gradient_of_eight(step, tmp_path):
    stage = transfer_stage(8, 1, tmp_path)
    # in float32 another order of adding pushes some ReLU of the judges over its kink, and that gradient jumps
    for network in (stage.model, stage.perception.feature_net, stage.perception.identity_net):
        network.double()
    torch.manual_seed(5)
    batch = {name: as_double(value) for name, value in stage.draw(step).items()}
    parameters = [p.requires_grad_(True) for _, p in stage.model.extrinsic_parameters()]

    gradients = []
    for parts in (1, 4):
        for parameter in parameters:
            parameter.grad = None
        for part, share in split(batch, parts):
            (sum(stage.terms(part).values()) * share).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in parameters]))

    whole, accumulated = gradients
    assert (whole - accumulated).abs().max() <= 1e-5 * whole.abs().max()


def test_pairs_keep_their_structure_and_get_noise_in_the_rows_of_colour(tmp_path):
    stage = transfer_stage(8, 1, tmp_path)
    pairs, random = stage.draw(1), stage.draw(0)
    own = {tuple(code[:7].flatten().tolist()) for code in stage.intrinsic}
    assert all(tuple(code[:7].flatten().tolist()) in own for code in pairs["intrinsic"])
    assert not any(torch.equal(code[7:], known[7:]) for code in pairs["intrinsic"] for known in stage.intrinsic)
    assert not any(tuple(code[:7].flatten().tolist()) in own for code in random["intrinsic"])


def test_extrinsic_codes_are_jittered_in_w_plus(tmp_path):
    stage = transfer_stage(8, 1, tmp_path)
    batches = [stage.draw(0) for _ in range(20)]
    jitter = torch.cat([batch["jitter"] for batch in batches])
    assert jitter.std().item() == pytest.approx(0.1, rel=0.05)  # of 20,480 draws
    _, extrinsic = stage.codes(batches[0]).chunk(2, dim=1)
    mapped = stage.model.generator.mapping(batches[0]["extrinsic"])
    assert torch.allclose(extrinsic - mapped, batches[0]["jitter"], atol=1e-5)


def test_lazy_regularisation_corrects_adam():
    optimizer = adam([torch.nn.Parameter(torch.zeros(1))], 0.002, 16)
    assert optimizer.defaults["lr"] == pytest.approx(0.002 * 16 / 17)
    assert optimizer.defaults["betas"] == (0.0, pytest.approx(0.99 ** (16 / 17)))


def test_style_mixing_keeps_the_first_rows_and_crosses_as_often_as_asked():
    torch.manual_seed(0)
    first, second = torch.zeros(2000, 8, 1), torch.ones(2000, 8, 1)
    mixed = cross(first, second, 0.9)[:, :, 0]
    assert (mixed[:, 0] == 0).all()
    assert (mixed.diff(dim=1) >= 0).all()  # one crossing, never back
    assert (mixed[:, -1] == 1).float().mean().item() == pytest.approx(0.9, abs=0.03)


def test_a_grown_generator_starts_as_the_smaller_one_enlarged():
    torch.manual_seed(0)
    channels = {4: 8, 8: 8, 16: 8, 32: 8, 64: 8}
    small, large = (Generator(size, style_dim=16, mapping_layers=2, channels=channels) for size in (32, 64))
    grow(small, large)
    codes = torch.randn(2, large.rows, 16)
    halved = torch.nn.functional.avg_pool2d(large(codes), 2)
    # up and down again is not the identity, but with silent new layers nothing else may differ
    assert (halved - small(codes[:, : small.rows])).abs().mean() < 0.25 * small(codes[:, : small.rows]).std()


def test_small_encoder_rows_are_unit_codes_and_unasked_rows_are_not_computed():
    torch.manual_seed(0)
    encoder = SmallEncoder(12, 32, 64, channels=8)
    images = torch.randn(2, 3, 64, 64)
    codes, structure = encoder(images), encoder(images, rows=range(7))
    assert torch.allclose(codes.square().mean(dim=-1), torch.ones(2, 12), atol=1e-4)
    assert torch.equal(structure[:, :7], codes[:, :7]) and (structure[:, 7:] == 0).all()


# What can go wrong


class Fragile:
    """A stage of one weight whose loss turns into NaN at a step."""

    name, steps, batch, accumulation = "fragile", 6, 1, 1

    def __init__(self, breaks_at: int):
        self.weight = torch.nn.Parameter(torch.ones(1), requires_grad=False)
        self.optimizer = adam([self.weight], 0.1)
        self.breaks_at = breaks_at
        self.phases = [Phase("only", 1, self.optimizer, self._draw, self._loss)]

    def _draw(self, step: int) -> dict:
        return {"x": torch.full((1,), float("nan") if step == self.breaks_at else 1.0)}

    def _loss(self, batch: dict) -> dict:
        return {"good": self.weight.sum(), "bad": (self.weight * batch["x"]).sum()}

    def after(self, step: int) -> dict:
        return {}

    def state(self) -> dict:
        return {"weight": self.weight.detach().clone()}

    def load_state(self, state: dict) -> None:
        self.weight.copy_(state["weight"])

    def snapshot(self) -> dict:
        return self.state()

    def grid(self):
        return drawn_photo(32, 32, faces=())


PACE = Pace(seed=1, log_every=1, grid_every=100, checkpoint_every=2, snapshot_every=100, precision="float32")


def test_a_loss_that_is_not_finite_names_step_term_and_the_last_good_checkpoint(tmp_path):
    run = RunFolder(tmp_path / "run").create()
    with pytest.raises(TrainingError, match=r"'bad' is not finite at step 5.*fragile-000004.pt \(step 4\)"):
        list(train_stage(Fragile(breaks_at=4), run, Processes(), PACE))
    assert run.last_checkpoint("fragile").step == 4


def test_a_full_disk_costs_no_checkpoint_already_written(tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run").create()
    save, saved = torch.save, []

    def full_disk(state, file):
        saved.append(file.name)
        if len(saved) > 2:  # the first checkpoint is whole: random states, then what is shared
            file.write(b"half a file")
            raise OSError(28, "No space left on device")
        save(state, file)

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(TrainingError, match=r"No space left on device.*Checkpoints already written are untouched"):
        list(train_stage(Fragile(breaks_at=-1), run, Processes(), PACE))
    monkeypatch.setattr(torch, "save", save)
    assert run.last_checkpoint("fragile").step == 2
    assert not list(run.path.rglob(".dsg-*"))


def test_a_vanished_run_folder_is_said_in_one_line(tmp_path):
    run = RunFolder(tmp_path / "run").create()
    with pytest.raises(TrainingError, match="Could not write"):
        for event in train_stage(Fragile(breaks_at=-1), run, Processes(), PACE):
            if event.current == 1:
                (tmp_path / "run").rename(tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "checkpoints").is_dir()


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(tmp_path):
    run = RunFolder(tmp_path / "run").create()
    for step in (1, 2, 3):
        run.save_checkpoint("stage", step, {"step": step})
    (run.checkpoints / "stage-000003.pt").write_bytes(b"cut short")
    assert run.last_checkpoint("stage").state == {"step": 2}


def test_checkpoints_hold_no_code(tmp_path):
    import pickle

    run = RunFolder(tmp_path / "run").create()
    path = run.checkpoints / "stage-000001.pt"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    path.write_bytes(pickle.dumps(Evil()))
    assert run.last_checkpoint("stage") is None
    assert not (tmp_path / "ran").exists()
