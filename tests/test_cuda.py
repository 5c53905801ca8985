"""What a GPU could trip over, against the processor. Where there is none each test is skipped by its name:
`pytest -m cuda -rs`. Two processes with nccl need two GPUs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_films import draw_film, frames_of
from test_parity import CASES, assert_matches, release, style  # noqa: F401 - fixtures
from tiny_codes import DrawnJudges, draw_portraits, tiny_networks
from tiny_style import SIZE, DrawnFaces, drawn_photo, tiny_style
from tiny_training import draw_portraits as draw_many
from tiny_training import write_base_recipe, write_style_recipe
from torch.nn import functional as F

from dualstylegan import Stylizer
from dualstylegan.networks.dualstyle import PreparedStyle
from dualstylegan.recipe import Destylize, load_recipe
from dualstylegan.runtime.processes import Processes
from dualstylegan.stylizing.films import FilmLine, FilmWriter, restyle_film
from dualstylegan.train import train
from dualstylegan.training.destylization import destylize_portraits, read_codes

DEVICE = torch.device("cuda")
LAUNCHER = Path(shutil.which("accelerate") or Path(sys.executable).with_name("accelerate"))

NONE = "there is no CUDA device here"
pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason=NONE)]


@pytest.fixture(autouse=True)
def exact():
    """float32 is float32: no TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    return str(tiny_style(tmp_path_factory.mktemp("styles"))) + ":1"


def make(tiny: str, device: torch.device | str = DEVICE, precision: str = "float32", **settings) -> Stylizer:
    return Stylizer(tiny, device=device, precision=precision, detector=DrawnFaces(), **settings)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@torch.no_grad()
def test_pictures_are_those_of_the_official_code(style, case):  # noqa: F811
    model, codes, _ = style
    model = model.to(DEVICE)
    there = {name: code.to(DEVICE) for name, code in codes.items()}
    given, settings = case(there, model.generator.mapping)
    image = model(*(code.to(DEVICE) for code in given), **settings).cpu()
    assert_matches(f"{case.__name__}/pool64", F.adaptive_avg_pool2d(image, 64))
    assert_matches(f"{case.__name__}/crop64", image[:, :, 480:544, 480:544])


@pytest.mark.parametrize(("precision", "levels"), [("float32", 1), ("float16", 3), ("bfloat16", 6)])
def test_a_photo_is_the_processors(tiny, precision, levels):
    photo = drawn_photo()
    apart = np.abs(make(tiny, precision=precision)(photo).astype(int) - make(tiny, "cpu")(photo))
    assert apart.mean() < 0.5 and np.percentile(apart, 99) <= levels


def test_batches_give_what_single_pictures_give(tiny):
    crops = torch.rand(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    together, alone = make(tiny, batch=8), make(tiny, batch=1)
    codes = together.encode(crops)
    torch.testing.assert_close(codes, alone.encode(crops), atol=1e-3, rtol=0)
    torch.testing.assert_close(together.render(codes), alone.render(codes), atol=1e-3, rtol=0)


def test_a_style_and_its_codes_are_where_the_pictures_are_made(tiny):
    stylizer = make(tiny)
    assert stylizer.extrinsic.device.type == DEVICE.type and isinstance(stylizer._prepared, PreparedStyle)
    codes = stylizer.encode(torch.zeros(1, 3, SIZE, SIZE))
    assert codes.device.type == DEVICE.type and stylizer.render(codes).device.type == "cpu"


def test_out_of_memory_halves_the_batch_and_goes_on(tiny):
    stylizer = make(tiny, batch=8)
    codes = stylizer.encode(torch.zeros(5, 3, SIZE, SIZE))
    wanted, forward = stylizer.render(codes), stylizer.model.forward

    def cramped(intrinsic, *args, **kwargs):
        if len(intrinsic) > 2:
            torch.empty(1 << 50, dtype=torch.uint8, device=DEVICE)
        return forward(intrinsic, *args, **kwargs)

    stylizer.model.forward = cramped
    torch.testing.assert_close(stylizer.render(codes), wanted, atol=1e-3, rtol=0)
    assert stylizer.batch == 2


def test_a_film_is_decoded_drawn_and_encoded_at_the_same_time(tiny, tmp_path, monkeypatch):
    order, decode, write = [], FilmLine.decode, FilmWriter.write

    def watched_decode(self, film):
        for frame in decode(self, film):
            order.append(("decode", frame.index))
            yield frame

    def watched_write(self, frame, pixels):
        order.append(("write", frame.index))
        write(self, frame, pixels)

    monkeypatch.setattr(FilmLine, "decode", watched_decode)
    monkeypatch.setattr(FilmWriter, "write", watched_write)
    frames = [drawn_photo(160, 96, faces=((60 + index % 20, 50, 18),)) for index in range(20)]
    draw_film(tmp_path / "a.mp4", lambda index: frames[index % 20], count=200, size=(160, 96))
    outputs = [(tmp_path / f"{device}.mp4", make(tiny, device)) for device in (str(DEVICE), "cpu")]
    *_, report = restyle_film(tmp_path / "a.mp4", outputs[:1])
    assert report.frames == 200
    assert order.index(("write", 0)) < order.index(("decode", 199)), "bounded queues: not all is decoded first"
    list(restyle_film(tmp_path / "a.mp4", outputs[1:]))
    for one, other in zip(*(frames_of(path) for path, _ in outputs), strict=True):
        assert np.abs(one.astype(int) - other).mean() < 1


def test_destylization_in_true_batches_gives_the_codes_of_single_portraits(tmp_path):
    portraits = draw_portraits(tmp_path)
    networks = {name: network.to(DEVICE) for name, network in tiny_networks().items()}
    for batch in (1, 5):
        settings = Destylize(steps=10, batch=batch)  # 20 steps of Adam magnify the last bit to .013, on a CPU too
        arguments = {"perception": DrawnJudges().to(DEVICE), "settings": settings, "seed": 1}
        arguments |= networks | {"processes": Processes(device=DEVICE, verb="destylize")}
        list(destylize_portraits(tmp_path / str(batch), portraits, **arguments))
    names, *single = read_codes(tmp_path / "1")
    same_names, *batched = read_codes(tmp_path / "5")
    assert names == same_names
    assert all((a - b).abs().max() <= 1e-3 for a, b in zip(single, batched, strict=True))


@pytest.fixture
def recipes(tmp_path) -> tuple[Path, Path]:
    """A base's and a style's: every stage, path lengths and R1 (both differentiate twice) among their steps."""
    photos, toons = draw_many(tmp_path / "photos", 8), draw_many(tmp_path / "toons", toon=True, seed=1)
    base = write_base_recipe(tmp_path / "base.toml", photos)
    return base, write_style_recipe(tmp_path / "style.toml", toons, tmp_path / "base")


def test_every_stage_trains_with_its_double_backward(recipes, tmp_path):
    base, style = recipes  # noqa: F811
    recipe = load_recipe(style)
    once = {"path": 1.0, "path_every": 1, "r1": 1.0, "r1_every": 1}
    recipe = replace(recipe, transfer=replace(recipe.transfer, **once))
    list(train(load_recipe(base), tmp_path / "base"))
    events = list(train(recipe, tmp_path / "style"))
    assert events[-1].kind == "summary" and (tmp_path / "style/style").is_dir()
    assert torch.cuda.max_memory_allocated() > 0, "on the GPU"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two CUDA devices here")
@pytest.mark.skipif(not LAUNCHER.exists(), reason="accelerate's launcher is not installed")
def test_two_processes_train_with_nccl(recipes, tmp_path):
    base, style = recipes  # noqa: F811
    for recipe, run in ((base, tmp_path / "base"), (style, tmp_path / "style")):
        command = [LAUNCHER, "launch", "--multi_gpu", "--num_processes", "2", "-m", "dsgcli", "train", recipe, "--run",
                   run]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True, timeout=600, env=dict(os.environ))
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "style/style").is_dir()
