"""The wheel and the source archive: all that users need is in them, and the wheel works without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

PHOTO = ROOT / "tests/data/photos/congress_A000371.jpg"
COMMAND = "import dualstylegan, sys; print(dualstylegan.__file__); from dsgcli.main import main; sys.exit(main())"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """(wheel, source archive); the wheel is made from the archive."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,), (archive,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, archive


def kept(*folders: str) -> set[str]:
    """What is under version control in these folders, or will be."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *folders]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("needs a checkout: git knows what is to be in it")
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}


def test_the_wheel_holds_the_package_its_weights_recipes_and_licences(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = set(wheel.namelist())
        metadata = {name.split(".dist-info/")[1]: wheel.read(name).decode() for name in names if ".dist-info/" in name}
    recipes = {name.replace("recipes/", "dualstylegan/recipes/") for name in kept("recipes")}
    assert {name for name in names if ".dist-info/" not in name} == kept("dualstylegan", "dsgcli") | recipes
    wanted = {"dualstylegan/py.typed", "dualstylegan/weights/NOTICE", "dualstylegan/weights/mini/generator.safetensors"}
    assert names >= wanted and recipes
    assert {"licenses/LICENSE", "licenses/NOTICE"} <= metadata.keys()
    assert "dsg = dsgcli.main:main" in metadata["entry_points.txt"]


def test_the_source_archive_holds_the_tests_and_what_they_need(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = kept(
        "tests", "Makefile", "constraints.txt", "CHANGELOG.md", "CITATION.cff", "LICENSE", "NOTICE", "README.md"
    )
    assert wanted - names == set()
    assert not [name for name in names if name.endswith(".pyc")]


def test_the_wheel_alone_restyles_a_photo_offline(built, tmp_path):
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*install, "--target", tmp_path / "site", built[0]], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", COMMAND, "stylize", PHOTO, "--style", "toon:7", "--offline", "--scene", "keep"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    where, summary = result.stdout.splitlines()
    assert Path(where).is_relative_to(tmp_path / "site") and "1 done, 1 face" in summary
    before, after = (
        np.asarray(Image.open(path).convert("RGB"), int) for path in (PHOTO, tmp_path / "stylized" / PHOTO.name)
    )
    assert before.shape == after.shape and np.abs(before - after).max() > 60
