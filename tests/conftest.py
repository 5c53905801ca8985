"""What tests share: a clean environment, drawn pictures, and the reference photos where a checkout has them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; set before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure():
    # A suite started in the background may inherit ignored signals; the commands that tests interrupt must not.
    for number in (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path_factory):
    """No test sees the user's models or settings, and none leaves anything in the user's cache."""
    home = tmp_path_factory.getbasetemp() / "dsg-home"
    monkeypatch.setenv("DSG_HOME", str(home))
    for name in ("DSG_DEBUG", "DSG_OFFLINE", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def one_thread():
    """Networks as small as a test's are slower in two threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the checkout (DSG_SHARED elsewhere)."""
    folder = Path(os.environ.get("DSG_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("needs the reference data: set DSG_SHARED")
    return folder


def draw_picture(height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray:
    """Smooth, colourful uint8 (height, width, 3): compresses like a photo, differs everywhere and in every channel."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
