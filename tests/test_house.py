"""The house: imports point one way, the command line stays light, and the package ships what it needs.

Read from the source with `ast`, so that an import inside a function counts too.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from dualstylegan import __version__

BASICS = {"errors", "events", "choices"}
VERBS = {"align", "destylize", "train", "refine", "sample", "stylize", "styles", "doctor"}
WINGS = {"faces", "media", "models", "networks", "recipe", "runtime", "training", "weights"}
# What each part may import of ours, besides itself. An arrow that is not here points the wrong way.
MAY_IMPORT = {
    "errors": set(),
    "events": set(),
    "choices": {"errors"},
    "runtime": BASICS,
    "networks": {"errors", "choices"},
    "recipe": BASICS | {"runtime"},
    "media": BASICS | {"runtime"},
    "weights": BASICS | {"networks", "runtime"},
    "models": BASICS | {"runtime", "networks", "media", "weights", "recipe"},
    "official": {"models"},
    "faces": BASICS | {"runtime", "networks", "media", "weights", "models"},
    "stylizing": BASICS | WINGS - {"training"},
    "training": BASICS | WINGS,
    "__init__": {"stylizing"},
    **dict.fromkeys(VERBS, BASICS | WINGS | VERBS | {"stylizing"}),
}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def part_of(path: Path) -> str:
    """The part of the house a file of `dualstylegan` belongs to."""
    inside = path.relative_to(ROOT / "dualstylegan")
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    """Full names of the modules a file imports; with `top_level` only those that importing the file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in _at_import(tree) if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def _at_import(tree: ast.AST):
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _at_import(node)


def our_parts(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("dualstylegan.")}


@pytest.mark.parametrize("path", modules("dualstylegan"), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    part = part_of(path)
    assert our_parts(imports(path)) <= MAY_IMPORT[part] | {part, "__version__"}


@pytest.mark.parametrize("path", modules("dualstylegan"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_knows_no_command_line(path):
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & {"typer", "rich", "click", "dsgcli"}


@pytest.mark.parametrize(
    "path", modules("dualstylegan") + modules("dsgcli"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_nobody_imports_the_internals_of_others(path):
    ours = {name for name in imports(path) if name.startswith(("dualstylegan.", "dsgcli."))}
    assert not {name for name in ours if any(re.match("_[^_]", part) for part in name.split("."))}


@pytest.mark.parametrize("path", modules("dualstylegan/networks"), ids=lambda path: path.name)
def test_networks_need_torch_only(path):
    outside = {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names
    assert outside <= {"torch", "numpy", "dualstylegan"}


@pytest.mark.parametrize("path", modules("dsgcli"), ids=lambda path: path.name)
def test_commands_import_the_library_and_torch_inside_functions(path):
    names = imports(path, top_level=True)
    settings = {name for name in names if name.startswith("dualstylegan.stylizing.settings")}
    assert our_parts(names - settings) <= {"errors", "events", "choices", "__version__"}
    assert {name.split(".")[0] for name in names} & {"torch", "numpy", "PIL", "rich", "click"} == set()


def test_an_option_is_declared_once():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in modules("dsgcli")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    words = [arg.value for call in calls for arg in call.args if isinstance(arg, ast.Constant)]
    names = Counter(word for word in words if isinstance(word, str) and word.startswith("--"))
    assert {"--style", "--json", "--crf", "--batch"} <= names.keys()
    assert [name for name, times in names.items() if times > 1] == []


def test_no_click_of_its_own():
    assert not {name for path in modules("dsgcli") for name in imports(path) if name.split(".")[0] == "click"}


def pinned(name: str) -> dict[str, Version]:
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, _, version in (line.partition("==") for line in lines)}


def test_the_oldest_versions_tested_are_those_that_are_asked_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [Requirement(one) for one in project["dependencies"] + extras["dev"]]
    oldest = {canonicalize_name(one.name): Version(str(one.specifier).removeprefix(">=")) for one in asked}
    assert {name: oldest[name] for name in oldest.keys() - {"mypy", "ruff"}} == pinned("constraints-oldest.txt")
    newest = pinned("constraints.txt")
    assert newest.keys() == oldest.keys() and all(newest[name] >= oldest[name] for name in oldest)
    assert {f"{one}" for one in extras["tensorboard"]} <= set(extras["dev"])


def test_the_version_is_one_everywhere():
    citation = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert citation == newest == __version__


def test_every_package_is_listed_for_the_wheel():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for package in ("dualstylegan", "dsgcli") for path in modules(package)}
    assert {".".join(folder.parts) for folder in folders} | {"dualstylegan.recipes"} == set(settings["packages"])


def test_the_package_says_that_it_is_typed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert "py.typed" in settings["setuptools"]["package-data"]["dualstylegan"]
    assert (ROOT / "dualstylegan" / "py.typed").is_file()


def test_the_type_checker_passes_over_nothing():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert settings["packages"] == ["dualstylegan", "dsgcli"] and "overrides" not in settings
    ours = (path for package in settings["packages"] for path in modules(package))
    assert [path for path in ours if re.search(r"# mypy:|type: ignore(?!\[)", path.read_text(encoding="utf-8"))] == []


def test_the_paths_that_contributing_shows_are_there():
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Contributing")[1]
    named = re.findall(r"`((?:dualstylegan|dsgcli|tests)/[^`]+)`", section)
    assert len(named) > 15
    assert [name for name in named if not re.search("VERB|NAME", name) and not (ROOT / name).exists()] == []
    for word, path in re.findall(r"`([A-Z_]{4,})` in `([^`]+)`", section):
        assert re.search(rf"^{word}\b", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), word


def test_every_dependency_has_a_tested_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split("[<>=]", line)[0] for line in project["dependencies"] + project["optional-dependencies"]["dev"]}
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert wanted == pinned


def test_no_machine_of_ours_is_named():
    ours = re.compile(r"/(?:work|opt|root|home)/|/tmp/(?!\w*\.\.\.)")
    kinds = ("*.py", "*.toml", "*.md", "*.txt", "Makefile", "NOTICE", "*.json")
    named = []
    for folder in ("dualstylegan", "dsgcli", "recipes", "tests", ".ci"):
        for path in (path for kind in kinds for path in (ROOT / folder).rglob(kind)):
            text = path.read_text(encoding="utf-8")
            named += [
                f"{path.relative_to(ROOT)}: {line.strip()[:80]}" for line in text.splitlines() if ours.search(line)
            ]
    for name in ("README.md", "CHANGELOG.md", "NOTICE", "Makefile", "pyproject.toml", "constraints.txt", ".ci/run"):
        text = (ROOT / name).read_text(encoding="utf-8")
        named += [f"{name}: {line.strip()[:80]}" for line in text.splitlines() if ours.search(line)]
    assert [line for line in named if not line.startswith("tests/test_house.py")] == []
