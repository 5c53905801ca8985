"""Every bench that `make bench` runs comes to its end where there are no reference photos, as in a fresh clone."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from conftest import ROOT

FEWER = {  # what makes a bench short; it then measures nothing worth keeping
    "destylization": ["--size", "128", "--judge", "mobilenet", "--steps", "1", "--skip-compiled"],
    "faces": [],
    "generator": ["--batches", "1", "--repeats", "1"],
    "photos": ["--count", "1"],
    "quality": [],
    "scene": [ROOT / "tests/data/photos/congress_A000371.jpg", "--style", "toon:7"],
    "sides": ["--seeds", "1", "--steps", "2"],
    "temporal": ["--films", "pan", "--length", "12"],
    "training": ["--size", "32", "--batch", "2", "--steps", "1"],
    "video": ["--frames", "20"],
}


def test_no_bench_is_forgotten():
    makefile = (ROOT / "Makefile").read_text()
    no_bench = set(re.findall(r"%/(\w+)\.py", makefile.partition("BENCHES :=")[2].partition("\n")[0]))
    assert {path.stem for path in (ROOT / "tests/bench").glob("*.py")} - no_bench == FEWER.keys()


@pytest.mark.slow
@pytest.mark.parametrize("bench", FEWER)
def test_a_bench_comes_to_its_end(bench, monkeypatch, tmp_path):
    monkeypatch.setenv("DSG_SHARED", str(tmp_path))
    command = [sys.executable, ROOT / f"tests/bench/{bench}.py", *FEWER[bench]]
    result = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert result.returncode == 0, result.stderr
    assert result.stdout
