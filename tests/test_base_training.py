"""What trains a base beside g: the encoder that looks twice, critics of eyes and mouth, compiled networks."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from conftest import ROOT

from dualstylegan.errors import TrainingError, UsageError
from dualstylegan.models.base import Base, save_base
from dualstylegan.models.library import load_base
from dualstylegan.networks.part_critics import PartCritics, eyes, mouth
from dualstylegan.networks.residual_encoder import ResidualEncoder
from dualstylegan.networks.small_encoder import Halving, SmallEncoder
from dualstylegan.networks.stylegan2 import Generator
from dualstylegan.recipe import BasePhase, BaseTraining
from dualstylegan.runtime.compiling import Compiler, Faster, as_is, as_written
from dualstylegan.runtime.processes import Processes
from dualstylegan.training import going_on
from dualstylegan.training.adversary import Adversary
from dualstylegan.training.base import BaseStage, attention, grow, phase_networks
from dualstylegan.training.going_on import hand_over

sys.path.insert(0, str(ROOT / "tests" / "bench"))

import sides

CHANNELS = {4: 8, 8: 8, 16: 8, 32: 8, 64: 8, 128: 8}


@pytest.fixture
def generator():
    torch.manual_seed(0)
    return Generator(128, style_dim=16, mapping_layers=2, channels=CHANNELS).eval().requires_grad_(False)


@pytest.fixture
def encoder(generator):
    return ResidualEncoder(generator.rows, 16, 64, channels=8).connect(generator).eval().requires_grad_(False)


FACES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_every_row_of_a_code_has_mean_square_one_and_unasked_rows_are_zero(encoder):
    codes, structure = encoder(FACES), encoder(FACES, rows=range(7))
    assert codes.shape == (3, 12, 16)
    assert torch.allclose(codes.square().mean(2), torch.ones(3, 12), atol=1e-3)
    assert torch.allclose(structure[:, :7], codes[:, :7], atol=1e-5)
    assert (structure[:, 7:] == 0).all()


def test_a_second_pass_sees_what_the_first_one_made(encoder, generator):
    codes, seen = encoder.all_passes(FACES)
    encoder.passes = 1
    first, none = encoder.all_passes(FACES)
    assert len(seen) == 1 and not none
    assert torch.allclose(seen[0], generator.draw_at(64, first), atol=1e-5)
    assert (codes - first).abs().mean() > 0.01


def test_without_a_generator_it_says_what_it_lacks_in_one_line():
    encoder = ResidualEncoder(12, 16, 64, channels=8)
    with pytest.raises(UsageError, match="no generator to draw with"):
        encoder(FACES)


def test_what_it_draws_with_is_a_copy_that_training_g_does_not_change(encoder, generator):
    before = encoder(FACES)
    with torch.no_grad():
        generator.convs[3].weight.normal_()
    assert torch.equal(encoder(FACES), before)
    assert torch.equal(copy.deepcopy(encoder)(FACES), before)
    assert not any(key.startswith("_drawer") or "to_rgbs" in key for key in encoder.state_dict())


def test_a_base_is_saved_with_its_encoders_passes_and_encodes_alike(encoder, generator, tmp_path):
    back = load_base(save_base(tmp_path / "base", Base({"name": "two"}, generator, encoder=encoder)))
    assert back.header["encoder"]["passes"] == 2
    assert torch.allclose(back.encoder(FACES), encoder(FACES), atol=1e-6)


def test_an_encoder_draws_the_layers_up_to_64_px_and_no_noise(generator):
    codes = torch.randn(2, generator.rows, 16)
    with torch.no_grad():
        for conv in generator.convs:
            conv.noise_strength.fill_(1.0)
    drawn = generator.draw_at(64, codes)
    small = generator.up_to(64)
    silent = [torch.zeros(1, 1, side, side) for side in small.noise_sizes()]
    assert torch.allclose(drawn, small(codes[:, : small.rows], noise=silent), atol=1e-5)


@pytest.mark.parametrize(("kernel", "alike"), [(4, True), (3, False)])
def test_strided_convolutions_that_are_mirrored_alike_see_mirrored_pictures_mirrored(kernel, alike):
    """A 3 x 3 one of stride 2 lies half a pixel to the left of what it halves; the older encoder has them."""
    torch.manual_seed(0)
    block = Halving(4, 4, kernel).requires_grad_(False)
    for conv in (block.conv1, block.conv2):
        conv.weight.copy_((conv.weight + conv.weight.flip(3)) / 2)
    x = torch.randn(1, 4, 16, 16)
    assert torch.allclose(block(x.flip(3)), block(x).flip(3), atol=1e-5) is alike


def test_attention_has_mean_one_is_mirrored_alike_and_highest_at_eyes_and_mouth():
    weight = attention(64, 2.0)[0, 0]
    assert weight.mean() == pytest.approx(1)
    assert torch.allclose(weight, weight.flip(1))
    eye, mouth, cheek, corner = weight[30, 24], weight[47, 32], weight[40, 21], weight[1, 1]
    assert eye == mouth > 1.5 * cheek > 1.5 * corner


class Same:
    """Photos without chance."""

    def next(self, count):
        return FACES[:count]

    def state_dict(self):
        return {}


def stage_of(generator, critics=None, faster: Faster = as_is, **phase) -> BaseStage:
    torch.manual_seed(0)
    return BaseStage(
        "base1",
        BasePhase(size=128, batch=2, perceptual=0, **phase),
        BaseTraining(recolor=0.5, passes=2),
        generator=generator,
        encoder=ResidualEncoder(generator.rows, 16, 64, channels=8).draw_with(generator),
        adversary=None,
        photos=Same(),
        shown=FACES,
        perception=None,
        share=(2, 1),
        processes=Processes(),
        critics=critics,
        faster=faster,
    )


def backward(stage: BaseStage) -> dict[str, torch.Tensor]:
    for parameter in (*stage.encoder.parameters(), *stage.generator.parameters()):
        parameter.requires_grad_(True)
    terms = stage.terms(stage.draw(0))
    sum(terms.values()).backward()
    return terms


@pytest.mark.parametrize("passes", [1, 2])
def test_a_phase_trains_both_passes_and_g_through_them(generator, passes):
    stage = stage_of(generator, face=1.0, first_pass=0.5, passes=passes)
    terms = backward(stage)
    assert ("first_pass" in terms) is (passes == 2)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in (stage.encoder.start, stage.encoder.stem.weight))
    assert generator.constant.grad.abs().sum() > 0


# Critics of eyes and mouth


def test_both_eyes_are_seen_at_once_the_right_one_mirrored():
    faces = torch.rand(2, 3, 128, 128)
    left, right = eyes(faces).split(3, dim=1)
    mirrored_left, mirrored_right = eyes(faces.flip(3)).split(3, dim=1)
    assert torch.equal(left, mirrored_right) and torch.equal(right, mirrored_left)
    alike = (faces + faces.flip(3)) / 2
    left, right = eyes(alike).split(3, dim=1)
    assert torch.allclose(left, right)


@pytest.mark.parametrize("size", [64, 256])
def test_parts_are_seen_in_the_same_places_at_any_size(size):
    faces = torch.zeros(1, 3, size, size)
    faces[..., round(0.475 * size) :, :] = 1  # below the middle of the eyes
    below = eyes(faces)[0, 0, :, 0]
    assert below[:28].max() < 0.01 and below[36:].min() > 0.99
    assert PartCritics()(faces).shape == (1, 2)
    assert torch.equal(mouth(faces), torch.ones(1, 3, 64, 64))


def test_critics_of_parts_learn_beside_the_phase_and_pull_g(generator):
    critics = Adversary(PartCritics(), lr=0.002, r1=1.0, r1_every=4, name="parts")
    stage = stage_of(generator, critics, parts=0.5)
    assert [phase.name for phase in stage.phases] == ["parts_discriminator", "parts_r1", "reconstruct"]
    tell_apart, smooth, learn = (phase.loss for phase in stage.phases)
    critics.network.requires_grad_(True)
    for loss in (tell_apart, smooth):
        sum(loss(stage.draw(0)).values()).backward()
    assert critics.network.eyes.from_rgb.weight.grad.abs().sum() > 0
    assert critics.network.mouth.from_rgb.weight.grad.abs().sum() > 0
    critics.network.requires_grad_(False)
    assert learn(stage.draw(0))["parts"] > 0
    backward(stage)
    assert generator.constant.grad.abs().sum() > 0
    assert set(stage.state()["critics"]["network"]) == set(critics.network.state_dict())


# Compiling


def test_without_a_compiler_nothing_is_compiled_and_it_is_said_once(monkeypatch):
    notes = []
    monkeypatch.setattr("shutil.which", lambda name: None)
    faster = Compiler(notes.append)
    assert faster(torch.sin) is torch.sin and faster(torch.cos) is torch.cos
    assert len(notes) == 1 and "no C++ compiler" in notes[0]


def test_where_compiling_fails_the_functions_themselves_are_used_and_it_is_said_once(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no such header\nmore")

    notes = []
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("torch.compile", lambda function, **how: broken)
    faster = Compiler(notes.append)
    sine, cosine = faster(torch.sin), faster(torch.cos)
    assert [float(each(torch.zeros(()))) for each in (sine, sine, cosine)] == [0.0, 0.0, 1.0]
    assert len(notes) == 1 and "(no such header)" in notes[0]


def test_what_was_compiled_is_what_runs_and_its_own_errors_are_not_hidden(monkeypatch):
    calls = []

    def quick(x):
        calls.append(x)
        if len(calls) == 2:
            raise ValueError("later")
        return x + 1

    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("torch.compile", lambda function, **how: quick)
    add = Compiler(calls.append)(lambda x: x)
    assert add(1) == 2
    with pytest.raises(ValueError, match="later"):
        add(1)


def test_without_gradients_and_where_it_is_differentiated_twice_nothing_compiled_runs(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("torch.compile", lambda function, **how: lambda x: x + 1)
    add = Compiler(print)(lambda x: x)
    assert add(1) == 2
    with torch.no_grad():
        assert add(1) == 1
    with as_written():
        assert add(1) == 1
    assert add(1) == 2


def test_a_phase_compiles_g_and_the_encoder(generator, monkeypatch):
    compiled = []

    def counting(function, **how):
        def run(*args, **kwargs):
            compiled.append(function.__name__)
            return function(*args, **kwargs)

        return run

    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("torch.compile", counting)
    stage = stage_of(generator, faster=Compiler(print))
    backward(stage)
    assert compiled == ["all_passes", "forward"]
    stage.grid()
    assert len(compiled) == 2


@pytest.mark.parametrize(("kind", "alike"), [("residual", True), ("small", False)])
def test_all_mirrored_a_base_draws_mirrored_faces_but_with_the_older_encoder(kind, alike):
    """What `tests/bench/sides.py` stands on."""
    faces = torch.nn.functional.interpolate(FACES[..., ::4, ::4], (64, 64), mode="bilinear")
    g, encoder = sides.networks(kind, seed=0)
    silent = [torch.zeros(1, 1, side, side) for side in g.noise_sizes()]
    with torch.no_grad():
        drawn = g(encoder(faces), noise=silent)
        sides.mirror(g)
        sides.mirror(encoder)
        turned = g(encoder(faces.flip(3)), noise=silent).flip(3)
    assert torch.allclose(turned, drawn, atol=1e-3) is alike


def test_a_base_goes_on_from_another_one_grown_and_with_an_encoder_that_looks_twice(generator, monkeypatch):
    """What the older encoder knew, the new one knows: it is a good deal nearer to it than to what chance gives."""
    torch.manual_seed(2)
    monkeypatch.setattr(going_on, "FIT_STEPS", 100)
    known = SmallEncoder(12, 16, 64, channels=8).eval().requires_grad_(False)
    smooth = torch.nn.functional.interpolate(torch.randn(64, 3, 6, 6), 64, mode="bicubic").clamp(-1, 1)
    encoders = [ResidualEncoder(14, 16, 64, channels=8).connect(generator).eval() for _ in range(2)]
    hand_over(known, encoders[0], lambda count: smooth[torch.randint(48, (count,))])
    wanted = known(smooth[48:])
    with torch.no_grad():
        taught, fresh = ((encoder(smooth[48:])[:, :12] - wanted).square().mean().item() for encoder in encoders)
    assert taught < 0.5 * fresh

    settings = BaseTraining(
        size=256,
        style_dim=16,
        mapping_layers=2,
        channels={**CHANNELS, 256: 8},
        encoder_channels=8,
        passes=2,
        phases=(BasePhase(size=256),),
    )
    before = Base({}, generator)
    grown, *_ = phase_networks(settings, 0, None, torch.device("cpu"), before)
    code = torch.randn(1, grown.rows, 16)
    small, large = generator(code[:, : generator.rows]), grown(code)
    assert torch.allclose(torch.nn.functional.avg_pool2d(large, 2), small, atol=0.1)  # enlarged, nothing added yet


def test_what_does_not_fit_is_said_before_anything_is_taken(generator):
    with pytest.raises(TrainingError, match=r"8 channels, codes of 16 .* 4, 16 and 64"):
        hand_over(SmallEncoder(12, 16, 64, channels=8), ResidualEncoder(12, 16, 64, channels=4), None)
    with pytest.raises(TrainingError, match="other layers than this base's, constant"):
        grow(generator, Generator(128, style_dim=16, mapping_layers=2, channels={**CHANNELS, 4: 4}))
