"""Stages are the paper's: who is drawn when, which term counts how much, what is trained, averaged and regularised."""

from __future__ import annotations

import copy
from datetime import timedelta

import accelerate
import numpy as np
import pytest
import torch
from tiny_codes import DIM, SIZE, DrawnJudges, draw_portraits, tiny_networks
from tiny_style import one_core  # noqa: F401

from dualstylegan.errors import UsageError
from dualstylegan.models.base import Base
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.networks.stylegan2 import Discriminator
from dualstylegan.recipe import Destylize, Finetune, Pretrain, PretrainPhase, Refine, Samplers, Transfer, load_recipe
from dualstylegan.runtime import processes
from dualstylegan.runtime.compiling import Compiler, Faster, as_is
from dualstylegan.runtime.processes import Processes
from dualstylegan.training import critic, losses
from dualstylegan.training.adversary import Adversary
from dualstylegan.training.augment import AdaptiveAugmentation
from dualstylegan.training.data import Portraits
from dualstylegan.training.finetune import FinetuneStage
from dualstylegan.training.intrinsic import RandomFaces, encode
from dualstylegan.training.loop import autocast_dtype, mixed_precision, only_training
from dualstylegan.training.muon import Muon
from dualstylegan.training.pretrain import PretrainStage
from dualstylegan.training.shapes import shape_loss
from dualstylegan.training.transfer import TransferStage

BATCH = 4


class Judges(DrawnJudges):
    """Drawn judges that know every layer stages II and III read."""

    LAYERS = ("relu1_1", "relu2_1", "relu3_1")

    def features(self, images, layers=LAYERS):
        self.seen_px = images.shape[-1]
        found = super().features(images)
        found["relu2_1"] = found["relu1_1"][..., ::2, ::2]
        found["relu4_1"], found["relu5_1"] = (found["relu3_1"][..., ::step, ::step] for step in (2, 4))
        return {layer: found[layer] for layer in layers}

    def lpips_features(self, images):
        return super().features(images)


def parts(mixing: float = 0.0) -> dict:
    networks = tiny_networks()
    generator = networks["generator"]
    torch.manual_seed(3)
    discriminator = Discriminator(SIZE, channels=generator.channels)
    faces = RandomFaces(Base({"kind": "base"}, generator), torch.device("cpu"), mixing)
    return {"generator": generator, "encoder": networks["encoder"], "discriminator": discriminator, "faces": faces}


def adversary(network: Discriminator, settings, augment=None, faster: Faster = as_is) -> Adversary:
    regularized = {"r1": settings.r1, "r1_every": settings.r1_every}
    return Adversary(network, lr=settings.lr, augment=augment, faster=faster, **regularized)


def structure_stage(faster: Faster = as_is, **changed) -> PretrainStage:
    phases = (PretrainPhase(7, 2), PretrainPhase(6, 3), PretrainPhase(5, 4))
    settings = Pretrain(**{"effective_batch": BATCH, "phases": phases} | changed)
    made = parts()
    return PretrainStage(
        DualStyleGAN(made["generator"]),
        made["encoder"],
        adversary(made["discriminator"], settings, faster=faster),
        made["faces"],
        Judges(),
        settings,
        share=(BATCH, 1),
        processes=Processes(),
        faster=faster,
    )


@pytest.fixture(scope="module")
def portraits(tmp_path_factory):
    return sorted(draw_portraits(tmp_path_factory.mktemp("portraits")))


def transfer_stage(portraits, faster: Faster = as_is, **changed) -> TransferStage:
    settings = Transfer(effective_batch=BATCH, **changed)
    made = parts(settings.mixing)
    torch.manual_seed(4)
    return TransferStage(
        DualStyleGAN(made["generator"]),
        adversary(made["discriminator"], settings, faster=faster),
        Portraits(portraits, SIZE),
        torch.randn(5, 8, DIM),
        torch.randn(5, 8, DIM),
        made["faces"],
        Judges(),
        settings,
        noise_from=7,
        share=(BATCH, 1),
        processes=Processes(),
        faster=faster,
    )


def finetune_stage(portraits, faster: Faster = as_is, **changed) -> FinetuneStage:
    settings = Finetune(effective_batch=BATCH, **changed)
    made = parts(settings.mixing)
    return FinetuneStage(
        made["generator"],
        adversary(made["discriminator"], settings, faster=faster),
        Portraits(portraits, SIZE),
        made["faces"],
        settings,
        share=(BATCH, 1),
        processes=Processes(),
        faster=faster,
    )


# Stage II


def test_l_goes_down_from_seven_as_stage_two_goes_on():
    stage = structure_stage()
    assert [stage.rows_at(step) for step in range(stage.steps)] == [7, 7, 6, 6, 6, 5, 5, 5, 5]


@pytest.mark.parametrize(("step", "rows"), [(0, 7), (2, 6), (8, 5)])
def test_the_target_of_stage_two_is_g_with_rows_below_l_from_z1_and_the_rest_from_z2(step, rows):
    stage = structure_stage()
    torch.manual_seed(5)
    batch = stage.draw(step)
    crossed = torch.cat([batch["intrinsic"][:, :rows], batch["second"][:, rows:]], dim=1)
    assert torch.equal(batch["real"], stage.model.generator(crossed))


def test_one_iteration_of_four_takes_the_encoded_face_of_z2():
    stage = structure_stage()
    for step in range(8):
        batch = stage.draw(step)
        if step % 4 == 1:
            with torch.no_grad():
                assert torch.equal(batch["extrinsic"], encode(stage.encoder, stage.model.generator(batch["second"])))
        else:
            assert torch.equal(batch["extrinsic"], batch["second"])


def test_the_path_penalty_of_stage_two_sees_codes_as_drawn():
    stage = structure_stage()
    path = next(phase for phase in stage.phases if phase.name == "path")
    for step in range(0, 12, path.every):
        batch = path.draw(step)
        assert torch.equal(batch["extrinsic"], batch["second"])
    batch = structure_stage(encoded_every=1).draw(0)  # every iteration means every one
    assert not torch.equal(batch["extrinsic"], batch["second"])


def test_stage_two_weighs_its_two_terms_and_judges_at_the_size_asked_for():
    stage = structure_stage(perceptual_px=16)
    batch = stage.draw(1)
    terms = stage.terms(batch)
    assert set(terms) == {"perceptual", "adversarial"} and stage.perception.seen_px == 16
    doubled = structure_stage(perceptual_px=16, adversarial=0.2, perceptual=1.0).terms(batch)
    for name, term in terms.items():
        assert doubled[name].item() == pytest.approx(2 * term.item(), rel=1e-4), name


# Stage III


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_even_steps_of_stage_three_draw_random_faces_odd_ones_pairs(step, portraits):
    stage = transfer_stage(portraits)
    batch = stage.draw(step)
    known = {tuple(code.flatten().tolist()): i for i, code in enumerate(stage.extrinsic)}
    exemplars = [known[tuple(code.flatten().tolist())] for code in batch["extrinsic"]]
    assert torch.equal(batch["portrait"], stage.portraits.pictures(exemplars))  # z_e is always the portrait's own
    own = (batch["intrinsic"][:, :7] == stage.intrinsic[exemplars][:, :7]).flatten(1).all(dim=1)
    assert own.all() if step % 2 else not own.any()
    assert ("perceptual" in stage.terms(batch)) == bool(step % 2)


def test_every_term_of_stage_three_is_the_papers_or_ours_times_its_weight(portraits):
    weights = {"adversarial": 1.0, "perceptual": 2.0, "contextual": 3.0, "feature_matching": 4.0, "identity": 5.0}
    stage = transfer_stage(portraits, **weights, regularizer=6.0, shape=7.0)
    batch = stage.draw(1)
    terms = {name: term.item() for name, term in stage.terms(batch).items()}

    with torch.no_grad():
        images, judges = stage.render(batch), stage.perception
        features, wanted = judges.features(images), judges.features(batch["portrait"])
        faces = stage.model.generator(batch["intrinsic"])
        extrinsic = [p for name, p in stage.model.extrinsic_parameters() if not name.startswith("structure_transform")]
        expected = {
            "adversarial": losses.generator_loss(stage.adversary.network(images)),
            "perceptual": 2 * losses.perceptual_loss(features, wanted, {"relu2_1": 0.5, "relu3_1": 1.0}).mean(),
            "contextual": 3 * losses.contextual_loss(features["relu3_1"], wanted["relu3_1"], center="row").mean(),
            "features": 4 * losses.feature_matching_loss(features, wanted).mean(),
            "identity": 5 * (1 - (judges.identity(images) * judges.identity(faces)).sum(dim=1)).mean(),
            "shape": 7 * shape_loss(stage.shapes(images), stage.shapes(faces) + batch["move"]).mean(),
            "regularizer": 6 * sum(p.norm() for p in extrinsic),
        }
    assert terms == {name: pytest.approx(term.item(), rel=1e-4) for name, term in expected.items()}


def test_what_judges_see_is_moved_alike_in_all_pictures_and_by_another_step_each_time(portraits):
    stage = transfer_stage(portraits, shift=2)
    batches = [stage.draw(1) for _ in range(12)]
    moves = {batch["shift"] for batch in batches}
    assert len(moves) > 1 and all(0 <= one <= 4 for move in moves for one in move)
    batch = next(batch for batch in batches if batch["shift"] != (2, 2))
    seen, features = [], stage.perception.features

    def watched(images, *layers):
        if layers == (stage.layers,):
            seen.append(images)
        return features(images, *layers)

    stage.perception.features = watched
    stage.terms(batch)
    (top, left), size = batch["shift"], SIZE
    for moved, still in zip(seen, (batch["portrait"], stage.render(batch)), strict=True):
        rows, columns = slice(max(0, top - 2), size + min(0, top - 2)), slice(max(0, left - 2), size + min(0, left - 2))
        back = slice(max(0, 2 - top), size + min(0, 2 - top)), slice(max(0, 2 - left), size + min(0, 2 - left))
        assert torch.allclose(moved[..., back[0], back[1]], still[..., rows, columns], atol=1e-5)
    assert transfer_stage(portraits).draw(1)["shift"] == (0, 0)  # the paper's: pictures as they are


def test_the_critic_learns_from_the_generators_pictures_and_pulls_them_to_the_portraits(portraits):
    stage = transfer_stage(portraits, projected=1.0, path=0.0)
    before = copy.deepcopy(stage.critic.state_dict())
    told, fooled = [], []
    for step in range(30):
        for phase in stage.phases[-2:]:  # the generator's, then the critic's
            parameters = [p for group in phase.optimizer.param_groups for p in group["params"]]
            with only_training(parameters):
                phase.optimizer.zero_grad(set_to_none=True)
                terms = phase.loss(phase.draw(step))
                sum(terms.values()).backward()
            if phase.name == "critic":
                phase.optimizer.step()
                told.append(terms["critic"].item())
            else:
                assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)
                fooled.append(terms["projected"].item())
    assert not stage.critic_saw  # kept for one step only
    assert np.mean(told[-5:]) < np.mean(told[:5]) and np.mean(fooled[-5:]) > np.mean(fooled[:5])
    assert any(not torch.equal(before[name], now) for name, now in stage.critic.state_dict().items())
    assert "critic" in stage.state() and "critic" not in transfer_stage(portraits).state()


def test_the_critic_sees_the_face_from_near_too(monkeypatch):
    monkeypatch.setattr(critic, "jitter", lambda images, *_: images)
    far_off, within = torch.zeros(2, 3, SIZE, SIZE), torch.zeros(2, 3, SIZE, SIZE)
    far_off[..., : SIZE // 5, :] = 1
    within[..., SIZE // 2, SIZE // 2] = 1
    pictures = lambda images, layers: dict.fromkeys(layers, images)  # noqa: E731
    for images, larger in ((far_off, 0), (within, 4)):
        looks = critic.look(images, pictures)
        assert list(looks) == ["relu3_1", "relu4_1", "relu5_1", "face_relu3_1", "face_relu4_1", "face_relu5_1"]
        whole, near = looks["relu3_1"], looks["face_relu3_1"]
        assert torch.equal(whole, images) and near.shape == images.shape
        assert near.sum().item() == pytest.approx(larger * images.sum().item(), rel=0.01)  # twice as large


def test_muon_trains_the_extrinsic_path_and_only_without_path_lengths(portraits):
    stage = transfer_stage(portraits, optimizer="muon", path=0.0)
    assert isinstance(stage.optimizer, Muon) and not isinstance(stage.adversary.optimizer, Muon)
    assert {phase.name for phase in stage.phases} == {"discriminator", "r1", "generator"}
    with pytest.raises(UsageError, match="path must be 0"):
        load_recipe("pixar", transfer__optimizer="muon")


def test_rates_fall_to_nothing_over_the_last_part_and_only_there(portraits):
    stage = transfer_stage(portraits, cooldown=0.5, steps=8)
    optimizers = [stage.optimizer, stage.adversary.optimizer]
    before = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    falling = []
    for step in range(8):
        stage.after(step)
        falling.append([o.param_groups[0]["lr"] / was for o, was in zip(optimizers, before, strict=True)])
    wanted = [1, 1, 1, 1, 0.75, 0.5, 0.25, 0]
    assert np.allclose(falling, np.array(wanted)[:, None])


def test_random_faces_of_stage_three_are_mixed_and_exemplars_are_not(portraits):
    stage = transfer_stage(portraits)
    assert stage.faces.mixing == 0.9
    codes = torch.cat([stage.draw(0)["intrinsic"] for _ in range(100)])
    crossed = (codes[:, 0] != codes[:, -1]).any(dim=1).float().mean().item()
    assert crossed == pytest.approx(0.9, abs=0.05)  # of 400


# Phases of both, and of fine-tuning


@pytest.mark.parametrize("made", [structure_stage, transfer_stage, finetune_stage])
def test_regularisers_are_lazy_and_adam_is_corrected_for_them(made, portraits):
    stage = made() if made is structure_stage else made(portraits)
    assert [(phase.name, phase.every) for phase in stage.phases] == [
        ("discriminator", 1),
        ("r1", 16),
        ("generator", 1),
        ("path", 4),
    ]
    for optimizer, every in ((stage.adversary.optimizer, 16), (stage.optimizer, 4)):
        c = every / (every + 1)
        assert optimizer.defaults["lr"] == pytest.approx(0.002 * c)
        assert optimizer.defaults["betas"] == (0.0, pytest.approx(0.99**c))
    # regularisers differentiate twice, which half precision does not survive
    assert {phase.name for phase in stage.phases if not phase.mixed} == {"r1", "path"}


@pytest.mark.parametrize("made", [structure_stage, transfer_stage, finetune_stage])
def test_path_length_is_measured_on_half_a_batch(made, portraits):
    stage = made() if made is structure_stage else made(portraits)
    batch = stage.draw_half(0)
    assert {len(value) for value in batch.values() if isinstance(value, torch.Tensor)} == {BATCH // 2}
    with only_training(stage.optimizer.param_groups[0]["params"]):
        terms = stage.straighten(batch)
    (lengths,) = stage.path.lengths
    # weight 2, times the interval; the mean starts at 0
    assert terms["path"].item() == pytest.approx(2 * 4 * lengths.square().mean().item(), rel=1e-5)
    stage.path.after(stage.processes)
    assert stage.path.mean == pytest.approx(0.01 * lengths.mean().item())


@pytest.mark.parametrize("made", [structure_stage, transfer_stage, finetune_stage])
def test_what_draws_and_d_are_compiled_but_not_where_they_are_differentiated_twice(made, portraits, monkeypatch):
    ran = []

    def compiled(function, **how):
        def run(*args, **kwargs):
            ran.append("d" if isinstance(function.__self__, Discriminator) else "g")
            return function(*args, **kwargs)

        return run

    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("torch.compile", compiled)
    stage = made(*[portraits] * (made is not structure_stage), faster=Compiler(print))
    for phase, wanted in zip(stage.phases, (["d", "d"], [], ["g", "d"], []), strict=True):
        with only_training([p for group in phase.optimizer.param_groups for p in group["params"]]):
            sum(phase.loss(phase.draw(0)).values()).backward()
        assert ran == wanted
        ran.clear()


def test_r1_weighs_ten_times_its_interval(portraits):
    stage = finetune_stage(portraits)
    phase = next(phase for phase in stage.phases if phase.name == "r1")
    batch = phase.draw(0)
    real = batch["real"].detach().requires_grad_(True)
    expected = 10 * 16 * losses.r1_penalty(stage.adversary.network(real), real)
    assert phase.loss(batch)["r1"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("made", [structure_stage, transfer_stage])
def test_only_the_extrinsic_path_is_trained_and_all_of_it_is_averaged(made, portraits):
    stage = made() if made is structure_stage else made(portraits)
    trained = {id(p) for group in stage.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for _, p in stage.model.extrinsic_parameters()}
    assert set(stage.average.names) == set(stage.model.extrinsic_state())  # T_s too
    assert any(name.startswith("structure_transform.") for name in stage.average.names)
    assert set(stage.snapshot()["extrinsic"]) == set(stage.model.extrinsic_state())


def test_fine_tuning_trains_a_copy_and_averages_it(portraits):
    stage = finetune_stage(portraits)
    before = copy.deepcopy(stage.original.state_dict())
    trained = {id(p) for group in stage.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in stage.generator.parameters()}
    assert not trained & {id(p) for p in stage.original.parameters()}
    with torch.no_grad():
        for parameter in stage.generator.parameters():
            parameter.add_(1)
    assert all(torch.equal(stage.original.state_dict()[name], tensor) for name, tensor in before.items())


def test_averages_decay_as_the_papers_and_in_shorter_runs_look_back_over_the_same_part(portraits):
    full = [structure_stage(phases=Pretrain().phases), transfer_stage(portraits), finetune_stage(portraits)]
    assert [stage.average.decay for stage in full] == [0.5 ** (32 / 10_000)] * 3
    assert transfer_stage(portraits, steps=100).average.decay == pytest.approx(0.5 ** (32 / 1000))


def test_d_sees_real_and_generated_pictures_through_the_augmentation(portraits):
    class Seen(AdaptiveAugmentation):
        calls = 0

        def __call__(self, images, generator=None):
            self.calls += 1
            return super().__call__(images, generator)

    stage = finetune_stage(portraits)
    stage.adversary.augment = Seen()
    for phase, calls in zip(stage.phases[:3], (2, 1, 1), strict=True):  # real and fake, real alone, fake alone
        stage.adversary.augment.calls = 0
        phase.loss(phase.draw(0))
        assert stage.adversary.augment.calls == calls, phase.name


# Settings


def test_what_the_paper_leaves_to_stylegan2_and_to_the_release_is_the_default():
    recipe = load_recipe("cartoon")
    for settings in (recipe.finetune, recipe.transfer, load_recipe("ffhq-pretrain").pretrain):
        assert (settings.lr, settings.r1, settings.r1_every) == (0.002, 10, 16)
        assert (settings.path, settings.path_every) == (2, 4)
        assert (settings.augment_target, settings.augment_images, settings.augment_most) == (0.6, 500_000, 0.8)
        assert not settings.augment
    assert recipe.transfer.mixing == recipe.finetune.mixing == 0.9 and recipe.transfer.jitter == 0.1
    assert recipe.destylize == Destylize(
        steps=300, lr=0.1, rampup=0.05, rampdown=0.25, perceptual=1, identity=0.1, spread=1, noise=1e5,
        truncation=0.7, structure_rows=8,
    )  # fmt: skip
    assert recipe.refine == Refine(
        steps=100, structure_lr=0.005, color_lr=0.1, noise_lr=0.1, perceptual=1, contextual=1, noise=1e5
    )
    assert recipe.samplers == Samplers(
        codes=1000, jitter=0.05, draws=2, matches=500_000, batch=128, lr=1e-3, halve_every=50
    )


def test_precision_is_what_the_recipe_names_else_what_was_launched(monkeypatch):
    cpu = torch.device("cpu")
    assert autocast_dtype(mixed_precision("float32", cpu)) == torch.float32
    assert autocast_dtype(mixed_precision("bf16", cpu)) == torch.bfloat16
    assert autocast_dtype(mixed_precision("fp16", cpu)) == torch.float16
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert autocast_dtype(mixed_precision("auto", cpu)) == torch.bfloat16
    assert autocast_dtype(mixed_precision("float32", cpu)) == torch.float32


def test_the_process_groups_timeout_is_a_setting(monkeypatch):
    asked = {}

    class State:
        process_index, num_processes, device = 0, 2, torch.device("cpu")

        def __init__(self, **arguments):
            asked.update(arguments)

    monkeypatch.setattr(accelerate, "PartialState", State)
    monkeypatch.setattr(processes, "launched", lambda: (0, 2))
    Processes.launched(timeout_s=load_recipe("cartoon", ["process_timeout_s=77"]).process_timeout_s, cpu=True)
    assert asked == {"cpu": True, "timeout": timedelta(seconds=77)}
