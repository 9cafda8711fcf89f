"""The project's own files agree with one another."""

from __future__ import annotations

import pkgutil
import re
import tomllib
from pathlib import Path

import yaml

import lmmem

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_names(lines: list[str]) -> set[str]:
    return {normal(re.match(r"[\w.-]+", line).group()) for line in lines} - {"lmmem"}


def test_conda_and_make_install_the_same_thing():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    conda = [line.replace("'", "") for line in pip]
    makefile = (ROOT / "Makefile").read_text()
    make = [*re.findall(r"pip install --quiet (-c \S+)", makefile), *re.findall(r"\$\(PIP\) (-e \S+book\S+)", makefile)]
    assert conda == [part.replace("'", "") for part in make]


def test_conda_and_package_accept_the_same_pythons():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (python,) = [entry for entry in dependencies if isinstance(entry, str) and entry.startswith("python")]
    assert python.startswith("python" + PROJECT["requires-python"])


def test_every_direct_dependency_is_constrained_to_one_version():
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.M))
    extras = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    assert requirement_names(PROJECT["dependencies"] + extras) - {normal(name) for name in pinned} == set()
    assert not any("+" in version for version in pinned.values())


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, flags=re.M).group(1).split()
    described = re.findall(r"^([a-z]+):.*## ", makefile, flags=re.M)
    assert sorted(described) == sorted(phony)


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] == lmmem.__version__
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_page_on_how_it_is_built_names_every_room_and_nothing_that_is_not_there():
    page = (ROOT / "book" / "how_it_is_built.md").read_text()
    rooms = {path.parent.name for path in (ROOT / "lmmem").glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(\w+)/` \|", page, flags=re.M)) == rooms
    assert set(re.findall(r"^  (\w+)/ ", (ROOT / "README.md").read_text(), flags=re.M)) == rooms
    for name in re.findall(r"`(lmmem\.[\w.]+)`", page):
        assert pkgutil.resolve_name(name), name
    for path in re.findall(r"`(lmmem/[\w/.]+)`", page):
        assert (ROOT / path).exists(), path
