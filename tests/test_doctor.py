"""`dsg doctor` and `dsg --version`: what a bug report needs, whatever this machine lacks."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from conftest import ROOT

import dualstylegan
from dsgcli.main import main
from dualstylegan import doctor


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DSG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def told(capsys, *arguments: str) -> dict[str, dict]:
    assert main(["doctor", "--json", *arguments]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in (events[0], events[-1])] == ["plan", "summary"]
    return {event["source"]: event["data"] for event in events[1:-1]} | {"summary": events[-1]["data"]}


def test_one_screen_says_versions_devices_codecs_and_cache(capsys, home):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out.splitlines()
    heads = [line.partition(":")[0] for line in printed]
    assert heads[:3] == ["dsg", "packages", "machine"]
    assert {"cpu", "codecs", "cache", "styles", "detector"} <= set(heads)
    assert len(printed) <= 24
    assert any(str(home) in line for line in printed)
    assert not home.exists()  # looking leaves nothing behind


def test_scripts_get_the_facts(capsys):
    facts = told(capsys)
    assert facts["codecs"]["decoders"]["h264"] is True
    assert facts["packages"]["torch"]
    assert facts["cpu"]["precision"] in ("float32", "bfloat16")
    assert "toon" in facts["styles"]["embedded"]


def test_what_is_missing_is_named(capsys, monkeypatch):
    def version(package):
        if package == "kornia":
            raise PackageNotFoundError(package)
        return "1"

    monkeypatch.setattr(doctor, "version", version)
    assert told(capsys)["summary"]["missing"] == ["kornia not installed"]


def test_offline_is_told(capsys, monkeypatch):
    monkeypatch.setenv("DSG_OFFLINE", "1")
    assert told(capsys)["cache"]["offline"] is True


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_a_checkout_tells_its_commit(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "dualstylegan", tmp_path / "dualstylegan", ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setattr(doctor, "__file__", str(tmp_path / "dualstylegan" / "doctor.py"))
    assert doctor.described_version() == dualstylegan.__version__  # no checkout

    def git(*words: str) -> str:
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.check_output(["git", "-C", str(tmp_path), *name, *words], text=True).strip()

    git("init", "-q")
    git("add", "dualstylegan/doctor.py")
    git("commit", "-qm", "one")
    commit = git("rev-parse", "--short", "HEAD")
    assert doctor.described_version() == f"{dualstylegan.__version__} (commit {commit})"
    with Path(tmp_path, "dualstylegan", "doctor.py").open("a") as file:
        file.write("#\n")
    assert doctor.described_version() == f"{dualstylegan.__version__} (commit {commit}, changed)"


def test_the_citation_names_this_version():
    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert f"version: {dualstylegan.__version__}" in lines
