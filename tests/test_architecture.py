"""The arrows between rooms, read from the source, and what an import costs."""

from __future__ import annotations

import ast
import graphlib
import importlib
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lmmem
from lmmem.storage.provenance import CHANGE_NOTHING, measuring

PACKAGE = Path(lmmem.__file__).parent
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")

# From the ground up: which rooms, and modules beside them, each may use. The way up is closed.
USES = {
    "protocol": set(),
    "papermill_io": set(),
    "analysis": {"protocol"},
    "storage": set(),
    "measures": set(),
    "inference": {"protocol"},
    "sweep": {"storage"},
    "pocket": {"protocol", "storage", "measures", "inference"},
    "models": {"protocol", "storage", "pocket"},
    "corpora": {"protocol", "storage", "pocket", "models"},
    "experiments": {"protocol", "storage", "measures", "inference", "sweep", "pocket", "models", "corpora"},
    "__main__": {"", "storage", "experiments", "analysis"},
}
WITHOUT_TORCH = ["storage", "measures", "analysis", "sweep", "corpora", "models"]
APART = {"corpora.cohorts"}  # what others measured: nothing that is measured here uses it
ARROWS = [(above, below) for above, uses in USES.items() for below in sorted(uses) if {above, below} <= set(ROOMS)]


def name_of(path: Path, package: Path = PACKAGE) -> str:
    return ".".join(path.relative_to(package).with_suffix("").parts)


def imports(source: str) -> set[str]:
    """The names that a source imports, anywhere in it: modules, and what is taken from them."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            found |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
    return found


def faults(package: Path) -> list[str]:
    """What is wrong with the arrows of a copy of the library."""
    wrong, arrows = [], {}
    modules = {name_of(path, package): path for path in package.rglob("*.py") if path.name != "__init__.py"}
    for path in package.rglob("*.py"):
        room, name = path.relative_to(package).parts[0].removesuffix(".py"), name_of(path, package)
        found = imports(path.read_text())
        wrong += [f"{name}: {imported} is not named from the root" for imported in found if imported.startswith(".")]
        own = {
            imported.removeprefix("lmmem").removeprefix(".") for imported in found if imported.split(".")[0] == "lmmem"
        }
        arrows[name] = {module for module in own if module in modules}
        for target in {module.split(".")[0] for module in own} & {*USES, ""} - {room}:
            if room != "__init__" and target not in USES.get(room, set()):
                wrong.append(f"{name} uses {target or 'lmmem'}")
    try:
        graphlib.TopologicalSorter(arrows).prepare()
    except graphlib.CycleError as error:
        wrong.append(f"a circle: {' -> '.join(error.args[1])}")
    return wrong


def test_every_room_has_its_place():
    assert set(USES) == {*ROOMS, *(path.stem for path in PACKAGE.glob("*.py"))} - {"__init__"}


def test_rooms_use_only_what_lies_below_them():
    assert faults(PACKAGE) == []
    graphlib.TopologicalSorter(USES).prepare()  # and what they may use is in no circle either


@pytest.fixture
def copy(tmp_path) -> Path:
    return shutil.copytree(PACKAGE, tmp_path / "lmmem", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.mark.slow
@pytest.mark.parametrize(("above", "below"), ARROWS, ids=lambda room: room)
def test_arrow_turned_round_would_be_seen(above, below, copy):
    upper = next(path for path in MODULES if path.parent.name == above and path.name != "__main__.py")
    lower = next(path for path in MODULES if path.parent.name == below and path.name != "__main__.py")
    for way in (
        f"import lmmem.{name_of(upper)}",
        f"def late():\n    from lmmem.{name_of(upper)} import anything",
        f"from lmmem.{above} import {upper.stem}",
    ):
        (copy / lower.relative_to(PACKAGE)).write_text(lower.read_text() + "\n" + way + "\n")
        assert f"{name_of(lower)} uses {above}" in faults(copy), way


def test_circle_within_a_room_would_be_seen(copy):
    with (copy / "storage" / "files.py").open("a") as file:
        file.write("\nimport lmmem.storage.tables\n")
    assert any(fault.startswith("a circle: ") for fault in faults(copy))


def test_relative_import_would_be_seen(copy):
    with (copy / "storage" / "files.py").open("a") as file:
        file.write("\nfrom ..models import registry\n")
    assert "storage.files: ..models is not named from the root" in faults(copy)


@pytest.mark.slow
def test_library_alone_imports_all_of_itself(copy):
    """It needs no page, no test and no benchmark: here lie none of them, and nothing is in its working folder."""
    names = ", ".join(
        f"lmmem.{name_of(path)}" for path in MODULES if path.name not in ("__main__.py", "papermill_io.py")
    )
    code = f"import {names}; print(lmmem.__file__)"
    environment = os.environ | {"PYTHONPATH": str(copy.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=copy.parent, env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(copy / "__init__.py"), done.stderr


def reached(modules: dict[str, str]) -> set[str]:
    """An account of its own of what decides numbers: rooms, as far as the measuring room leads."""
    rooms, before = {"experiments"}, set()
    while rooms != before:
        before = set(rooms)
        for name, source in modules.items():
            if name.split(".")[0] in rooms:
                rooms |= {i.split(".")[1] for i in imports(source) if i.startswith("lmmem.")} & set(USES)
        rooms -= set(CHANGE_NOTHING)
    return {name for name in modules if name.split(".")[0] in rooms and not name.endswith("__init__")}


def test_change_in_any_code_that_measures_gives_new_tables():
    modules = {name_of(path): path.read_text() for path in PACKAGE.rglob("*.py")}
    found = set(measuring(modules)) - {"experiments.__init__"}
    assert found == reached(modules) - APART
    assert {"inference.decoding", "measures.distance", "models.loading", "corpora.rows", "protocol"} <= found
    later = modules | {"inference.new": "", "measures.complexity": "from lmmem.inference import new"}
    assert "inference.new" in measuring(later)


def test_rooms_that_change_no_number_are_used_and_named():
    assert set(CHANGE_NOTHING) < set(ROOMS)
    assert not set(CHANGE_NOTHING) & {
        name.split(".")[0] for name in measuring({name_of(path): path.read_text() for path in PACKAGE.rglob("*.py")})
    }


@pytest.mark.parametrize("room", ROOMS)
def test_room_says_its_job_and_what_it_does_not_know(room):
    tree = ast.parse((PACKAGE / room / "__init__.py").read_text())
    assert len(tree.body) == 1
    assert "Knows n" in ast.get_docstring(tree)


def test_tests_mirror_the_rooms():
    tests = Path(__file__).parent
    for path in MODULES:
        if path.parent != PACKAGE and path.name != "__main__.py":
            assert list((tests / path.parent.name).glob("test_*.py")), path.parent.name
    assert {path.name for path in tests.iterdir() if list(path.glob("test_*.py"))} == set(ROOMS)


def loaded_after(code: str) -> set[str]:
    code += "\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_loads_neither_torch_nor_transformers_nor_pandas():
    assert not {"torch", "transformers", "pandas", "numpy"} & loaded_after("import lmmem; dir(lmmem)")


@pytest.mark.slow
def test_rooms_without_weights_work_without_torch():
    names = [name_of(path) for path in MODULES if path.parent.name in WITHOUT_TORCH]
    assert len(names) > 15
    assert not {"torch", "transformers"} & loaded_after("; ".join(f"import lmmem.{name}" for name in names))


def test_public_names_are_listed_resolved_and_described():
    assert dir(lmmem) == sorted(lmmem.__all__)
    assert len(lmmem.__all__) == 16
    for name in lmmem.__all__:
        assert inspect.getdoc(getattr(lmmem, name))


def test_unknown_public_name_says_what_there_is():
    with pytest.raises(AttributeError, match="has no attribute 'utils'; it has Corpus, MODELS, "):
        lmmem.utils  # noqa: B018


@pytest.mark.parametrize("path", [p for p in MODULES if p.name != "__main__.py"], ids=name_of)
def test_every_public_name_of_a_module_is_there_and_described(path):
    module = importlib.import_module("lmmem." + name_of(path))
    assert module.__doc__
    for name in module.__all__:
        value = getattr(module, name)
        if callable(value):
            assert inspect.getdoc(value), name
