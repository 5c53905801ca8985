"""Samplers that leave no exemplar out; random portraits that depend on seed and number; blends; the free baselines."""

from __future__ import annotations

import sys

import av
import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from tiny_codes import DIM, tiny_networks
from tiny_style import tiny_style

from dsgcli.main import main
from dualstylegan.choices import STRUCTURE_ROWS
from dualstylegan.errors import TrainingError, UsageError
from dualstylegan.media.film.clip import write_clip
from dualstylegan.models.library import load_style
from dualstylegan.models.style import save_style
from dualstylegan.networks.sampler import CodeSampler
from dualstylegan.recipe import Samplers
from dualstylegan.sample import Sampling, blend_grid, blend_loop
from dualstylegan.training.samplers import covered_exemplars, nearest, part_of, train_sampler, train_samplers

sys.path.insert(0, str(ROOT / "tests" / "bench"))

from baselines import mix_styles, swap_layers

pytestmark = pytest.mark.usefixtures("one_thread")


# Sampling networks


@pytest.fixture(scope="module")
def exemplars() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(12, 8, DIM)


@pytest.fixture(scope="module")
def samplers(exemplars) -> dict[str, CodeSampler]:
    settings = Samplers(codes=240, matches=24_000)
    return {part: net for part, *_, net in train_samplers(exemplars, settings=settings, seed=1)}


def test_samplers_make_the_structure_and_the_colour_rows(samplers):
    assert list(samplers) == ["structure", "color"]
    noise = torch.randn(3, 128)
    assert samplers["structure"](noise).shape == (3, STRUCTURE_ROWS, DIM)
    assert samplers["color"](noise).shape == (3, 1, DIM)
    assert not samplers["color"].training


def test_every_exemplar_is_the_nearest_of_some_sample(samplers, exemplars):
    for part, sampler in samplers.items():
        assert covered_exemplars(sampler, part_of(exemplars, part)) >= 11, part  # of 12
    assert covered_exemplars(CodeSampler(STRUCTURE_ROWS, DIM), part_of(exemplars, "structure")) < 12


def test_samples_lie_nearer_to_the_exemplars_than_chance(samplers, exemplars):
    torch.manual_seed(5)
    codes = part_of(exemplars, "structure").flatten(1)
    samples = samplers["structure"](torch.randn(200, 128)).flatten(1)
    assert (
        torch.cdist(samples, codes).amin(1).mean()
        < 0.7 * torch.cdist(torch.randn(200, codes.shape[1]), codes).amin(1).mean()
    )


def test_training_a_sampler_is_all_in_its_seed(exemplars):
    settings = Samplers(codes=24, matches=120)

    def error(seed):
        torch.rand(1)  # torch's own chance plays no part
        return [error for _, _, error, _ in train_sampler(exemplars, settings=settings, seed=seed)]

    assert error(1) == error(1) != error(2)
    assert len(error(1)) == 5  # matches / codes
    assert error(1)[-1] < error(1)[0]


def test_nearest_is_exact():
    torch.manual_seed(0)
    of, among = torch.randn(1500, 40), torch.randn(70, 40)
    distances = np.linalg.norm(of.numpy()[:, None] - among.numpy()[None], axis=2)
    assert (nearest(of, among).numpy() == distances.argmin(axis=1)).all()


def test_one_exemplar_is_too_few_for_a_sampler(exemplars):
    with pytest.raises(TrainingError, match="at least 2"):
        list(train_sampler(exemplars[:1], settings=Samplers(), seed=1))


# Random portraits


@pytest.fixture(scope="module")
def style(tmp_path_factory):
    return tiny_style(tmp_path_factory.mktemp("styles"))


@pytest.fixture
def sampling(style) -> Sampling:
    return Sampling(str(style), device="cpu", precision="float32")


def test_a_picture_depends_on_seed_and_number_alone(sampling):
    five, two = sampling.draw(5, seed=3), sampling.draw(2, seed=3)
    for of_five, of_two in zip(five, two, strict=True):
        assert torch.equal(of_five[:2], of_two)
    assert not torch.allclose(sampling.draw(2, seed=4).intrinsic, two.intrinsic)
    assert five.intrinsic.shape == five.extrinsic.shape == (5, 10, DIM)


@pytest.mark.parametrize("fix", [(), ("content",), ("color",), ("structure",), ("content", "structure")])
def test_what_is_fixed_is_the_same_in_all_and_the_rest_is_not(sampling, fix):
    intrinsic, extrinsic = sampling.draw(6, fix=fix)
    spread = {
        "content": intrinsic.std(dim=0).max(),
        "structure": extrinsic[:, :STRUCTURE_ROWS].std(dim=0).max(),
        "color": extrinsic[:, STRUCTURE_ROWS:].std(dim=0).max(),
    }
    assert {part for part, value in spread.items() if value == 0} == set(fix)


def test_a_style_without_samplers_draws_near_its_exemplars(sampling):
    anchors = sampling.model.generator.mapping(sampling.style.bank.extrinsic)
    drawn = sampling.draw(8).extrinsic
    for part in ("structure", "color"):
        distances = torch.cdist(part_of(drawn, part).flatten(1), part_of(anchors, part).flatten(1))
        between = torch.cdist(part_of(anchors, part).flatten(1), part_of(anchors, part).flatten(1))
        assert distances.amin(dim=1).max() < 0.2 * between[between > 0].min()


def test_a_style_with_samplers_uses_them(style, tmp_path):
    found = load_style(style)
    torch.manual_seed(0)
    found.samplers = {"structure": CodeSampler(STRUCTURE_ROWS, DIM), "color": CodeSampler(3, DIM)}
    with torch.no_grad():
        found.samplers["color"][6].weight.zero_()
    saved = save_style(tmp_path / "sampled", found)
    drawn = Sampling(str(saved), device="cpu", precision="float32").draw(4).extrinsic
    assert drawn[:, STRUCTURE_ROWS:].std(dim=0).max() < 1e-6 < drawn[:, :STRUCTURE_ROWS].std(dim=0).max()


def test_an_exemplar_given_is_kept_whole_or_in_the_part_that_is_fixed(style):
    given = Sampling(f"{style}:1", device="cpu", precision="float32")
    wanted = given.model.generator.mapping(given.style.bank[1])
    assert torch.allclose(given.draw(3).extrinsic, wanted.expand(3, -1, -1), atol=1e-6)

    drawn = given.draw(3, fix=("color",)).extrinsic
    assert torch.allclose(drawn[:, STRUCTURE_ROWS:], wanted[STRUCTURE_ROWS:].expand(3, -1, -1), atol=1e-6)
    assert not torch.allclose(drawn[0, :STRUCTURE_ROWS], wanted[:STRUCTURE_ROWS], atol=1e-3)


def test_truncation_and_weights_reach_the_picture(style):
    def picture(**settings):
        sampling = Sampling(str(style), device="cpu", precision="float32", **settings)
        return next(iter(sampling.render(sampling.draw(1))))

    plain = picture()
    assert plain.shape == (64, 64, 3) and plain.dtype == np.uint8
    assert (picture(truncation=0.2) != plain).any()
    assert (picture(color=0.0) != plain).any()
    assert (picture(structure=0.75, color=1.0) == plain).all()  # this style's own


def test_a_full_memory_halves_the_batch_and_goes_on(sampling, monkeypatch):
    wanted = np.stack(list(sampling.render(sampling.draw(5))))
    sampling.batch, tried, forward = 4, [], sampling.model.forward

    def small_memory(intrinsic, *args, **kwargs):
        tried.append(len(intrinsic))
        if len(intrinsic) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return forward(intrinsic, *args, **kwargs)

    monkeypatch.setattr(sampling.model, "forward", small_memory)
    drawn = np.stack(list(sampling.render(sampling.draw(5))))
    assert tried == [4, 2, 2, 1]
    assert np.abs(drawn.astype(int) - wanted).max() <= 1  # another batch may round a value the other way


# Blends


@pytest.mark.parametrize("exemplars, steps, count", [(2, 7, 7), (3, 5, 15), (4, 5, 25)])
def test_a_grid_has_the_exemplars_at_its_corners_and_mixes_between(exemplars, steps, count):
    shares, cells = blend_grid(exemplars, steps)
    assert shares.shape == (count, exemplars) and torch.allclose(shares.sum(dim=1), torch.ones(count))
    assert (shares >= 0).all() and sorted(shares.argmax(dim=1)[shares.amax(dim=1) == 1].tolist()) == [*range(exemplars)]
    shown = [cell for row in cells for cell in row if cell is not None]
    assert shown == list(range(count)) and len({len(row) for row in cells}) == 1


def test_a_loop_visits_every_exemplar_and_closes():
    shares = blend_loop(3, 30)
    assert torch.allclose(shares.sum(dim=1), torch.ones(30))
    assert torch.allclose(shares[[0, 10, 20]], torch.eye(3))
    steps = (shares - shares.roll(1, dims=0)).abs().amax(dim=1)  # the first one is the step from the last frame
    assert steps.max() < 0.2


def test_a_blend_is_linear_in_w_plus(sampling):
    codes = sampling.blend([0, 2], torch.tensor([[1.0, 0.0], [0.25, 0.75]]))
    anchors = sampling.model.generator.mapping(sampling.style.bank.extrinsic[[0, 2]])
    assert torch.allclose(codes.extrinsic[0], anchors[0], atol=1e-6)
    assert torch.allclose(codes.extrinsic[1], 0.25 * anchors[0] + 0.75 * anchors[1], atol=1e-6)
    assert torch.equal(codes.intrinsic[0], codes.intrinsic[1])


def test_a_clip_plays_everywhere_and_shows_its_frames(tmp_path):
    frames = [np.full((32, 48, 3), (level, 60, 200), np.uint8) for level in range(0, 250, 25)]
    assert write_clip(tmp_path / "a.mp4", iter(frames), fps=12.5) == 10
    with av.open(str(tmp_path / "a.mp4")) as clip:
        stream = clip.streams.video[0]
        assert (stream.codec.name, stream.pix_fmt, float(stream.average_rate)) == ("h264", "yuv420p", 12.5)
        shown = [frame.to_ndarray(format="rgb24") for frame in clip.decode(stream)]
    assert len(shown) == 10
    # chroma at half resolution and limited range cost a few levels of 255
    assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(shown, frames, strict=True)) < 4


def test_a_clip_that_fails_leaves_nothing(tmp_path):
    def frames():
        yield np.zeros((32, 32, 3), np.uint8)
        raise RuntimeError("the model broke")

    with pytest.raises(RuntimeError):
        write_clip(tmp_path / "a.mp4", frames())
    assert list(tmp_path.iterdir()) == []


# The command


def sample(style, *arguments) -> int:
    return main(["sample", "--style", str(style), "--device", "cpu", *map(str, arguments)])


def test_the_command_draws_a_sheet_or_a_folder(style, tmp_path, capsys):
    assert sample(style, "-n", 5, "-o", tmp_path / "sheet.png", "--fix", "color") == 0
    assert Image.open(tmp_path / "sheet.png").width > 3 * 96
    assert "5 portraits of tiny" in capsys.readouterr().out
    assert sample(style, "-n", 3, "--seed", 2, "-o", tmp_path / "many") == 0
    assert [file.name for file in sorted((tmp_path / "many").iterdir())] == [f"tiny-2-{i:04d}.png" for i in range(3)]
    assert Image.open(tmp_path / "many" / "tiny-2-0000.png").size == (64, 64)


def test_the_command_draws_blends_and_films(style, tmp_path):
    assert sample(style, "--blend", "0,bea.png,2", "-o", tmp_path / "blend.png", "--steps", 3) == 0
    assert Image.open(tmp_path / "blend.png").width > 3 * 96
    assert sample(style, "--blend", "0,1", "--frames", 8, "-o", tmp_path / "blend.mp4") == 0
    with av.open(str(tmp_path / "blend.mp4")) as clip:
        assert clip.streams.video[0].width == 64 and len(list(clip.decode(video=0))) == 8


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--blend", "0,9"], "No exemplar 9"),
        (["--blend", "0"], "two, three or four exemplars, not 1"),
        (["--frames", "8"], "--blend"),
        (["--blend", "0,1", "--frames", "8", "-o", "x.png"], "name it with .mp4"),
        (["--blend", "0,1", "-o", "folder/"], "name a picture"),
        (["--fix", "colr"], "Did you mean 'color'?"),
        (["--weights", "1,2"], "weights"),
        (["--structure", "1e30"], "at most 2"),
        (["-o", "x.heic"], "no picture format"),
        (["-o", "x.mp4"], "no picture format"),
        (["-o", "-"], "stdout"),
        (["-o", "{stem}.png"], "no source to be named after"),
    ],
)
def test_the_command_says_what_was_wrong(style, arguments, words, capsys):
    assert sample(style, *arguments) == 2
    assert words in capsys.readouterr().err


def test_a_default_name_does_not_overwrite_a_picture_of_the_users(style, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mine = Image.new("RGB", (8, 8))
    mine.save("blend.png")
    before = (tmp_path / "blend.png").read_bytes()
    assert sample(style, "--blend", "0,1", "--steps", 2) == 2
    assert "dsg did not make it" in capsys.readouterr().err
    assert (tmp_path / "blend.png").read_bytes() == before
    (tmp_path / "blend.png").unlink()
    for _ in range(2):  # its own may be drawn again
        assert sample(style, "--blend", "0,1", "--steps", 2) == 0


# Baselines


@pytest.mark.parametrize("structure", ["finetuned", "base"])
def test_swapped_layers_are_one_models_up_to_32_px_and_the_others_above(structure):
    networks = {seed: tiny_64(seed) for seed in (1, 2)}
    swapped = swap_layers(networks[1], networks[2], structure=structure)
    low = networks[2 if structure == "finetuned" else 1]
    high = networks[1 if structure == "finetuned" else 2]
    states = low.state_dict(), high.state_dict(), networks[1].state_dict()
    # convolutions 0-6 and ToRGBs 0-3 work at 32 px and below
    below = ("constant", *(f"convs.{i}." for i in range(7)), *(f"to_rgbs.{i}." for i in range(4)))
    below += tuple(f"noise_{i}" for i in range(7))
    for name, tensor in swapped.state_dict().items():
        state = states[2] if name.startswith("mapping") else states[0] if name.startswith(below) else states[1]
        assert torch.equal(tensor, state[name]), name


def test_style_mixing_takes_the_exemplars_colour_rows_in_g_prime():
    finetuned = tiny_64(2)
    torch.manual_seed(0)
    own, style = torch.randn(2, 10, DIM), torch.randn(1, 10, DIM)
    mixed = torch.cat([0.7 * finetuned.mapping(own)[:, :7], finetuned.mapping(style).expand(2, -1, -1)[:, 7:]], dim=1)
    with torch.no_grad():
        assert torch.allclose(mix_styles(finetuned, own, style, truncation=0.7), finetuned(mixed, space="w+"))


def test_generators_of_two_architectures_do_not_swap():
    with pytest.raises(UsageError, match="one architecture"):
        swap_layers(tiny_64(1), tiny_networks()["generator"])


def tiny_64(seed: int):
    from dualstylegan.networks.stylegan2 import Generator

    torch.manual_seed(seed)
    return Generator(64, style_dim=DIM, mapping_layers=2, channels={4: 8, 8: 8, 16: 8, 32: 8, 64: 8}).eval()
