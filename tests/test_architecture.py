"""The arrows between modules, read from the source, and what an import costs."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import lmmem
from lmmem.results import MEASURING

PACKAGE = Path(lmmem.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")

# Which modules of lmmem each module may import, and whether it may import torch.
ALLOWED = {
    "complexity": set(),
    "distance": {"tokens"},
    "repeats": {"storage", "tokens"},
    "protocol": set(),
    "storage": set(),
    "provenance": set(),
    "statistics": set(),
    "plotting": set(),
    "papermill_io": set(),
    "tokens": set(),
    "attention": set(),
    "products": set(),
    "recording": set(),
    "decoding": {"attention", "products", "protocol", "recording", "tokens"},
    "scoring": {"products", "tokens"},
    "perturbation": set(),
    "results": {"provenance", "storage"},
    "sweep": {"results"},
    "simulation": set(),
    "hub": {"storage"},
    "row_store": {"storage"},
    "rows": {"row_store", "storage"},
    "models": {"hub", "pocket.recipe", "pocket.training", "protocol", "storage"},
    "published": {"hub", "models", "protocol", "rows"},
    "verification": {"corpora", "decoding", "models", "protocol", "published"},
    "__main__": {"", "results", "storage", "verification"},
    "corpora": {"hub", "models", "pocket.data", "pocket.recipe", "row_store", "rows", "storage"},
    "pocket.recipe": set(),
    "pocket.text": {"pocket.recipe"},
    "pocket.design": {"complexity", "pocket.recipe", "protocol", "repeats"},
    "pocket.data": {"pocket.design", "pocket.recipe", "pocket.text", "provenance", "storage"},
    "pocket.training": {"pocket.data", "pocket.recipe", "pocket.text", "provenance", "storage"},
    "pocket.__main__": {"pocket.recipe", "pocket.training"},
    "experiments": {
        *("corpora", "decoding", "distance", "models", "perturbation", "protocol", "results", "scoring", "sweep"),
    },
    "sequences": {"complexity", "corpora", "models", "protocol", "published", "repeats", "results"},
}
WITHOUT_TORCH = [
    "simulation",
    "statistics",
    "plotting",
    "distance",
    "complexity",
    "repeats",
    "corpora",
    "models",
    "results",
]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(source: str, package: str = "lmmem") -> set[str]:
    """The modules that a source of a package imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names = {f"{origin}.{alias.name}" for alias in node.names}
            found |= {name if is_module(name) else origin for name in names}
    return found


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def arrows(source: str, package: str = "lmmem") -> set[str]:
    """The modules of lmmem among them, without its name."""
    own = {name for name in imports(source, package) if name.split(".")[0] == "lmmem"}
    return {name.removeprefix("lmmem").removeprefix(".") for name in own}


def package_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).parent.parts)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_imports_only_what_it_may_know(path):
    assert arrows(path.read_text(), package_of(path)) <= ALLOWED[name_of(path)]


@pytest.mark.parametrize(
    "forbidden",
    [
        "import lmmem.plotting",
        "from lmmem import plotting",
        "from lmmem.plotting import plot_curve",
        "from . import plotting",
        "def f():\n    from .plotting import plot_curve",
    ],
)
def test_forbidden_import_would_be_seen(forbidden):
    assert arrows(forbidden) == {"plotting"}
    assert not any(arrows(forbidden) <= allowed for allowed in ALLOWED.values())


def test_import_of_a_neighbour_in_pocket_would_be_seen():
    assert arrows("from . import training", "lmmem.pocket") == {"pocket.training"}
    assert arrows("from ..experiments import kl_ld", "lmmem.pocket") == {"experiments"}
    assert arrows("from lmmem.pocket import training") == {"pocket.training"}


def test_library_never_imports_notebooks():
    for path in PACKAGE.rglob("*.py"):
        assert "notebooks" not in {name.split(".")[0] for name in imports(path.read_text(), package_of(path))}


def test_change_in_any_code_that_measures_gives_new_tables():
    after_the_measurement = {"complexity", "results", "sweep"}
    assert ALLOWED["experiments"] - after_the_measurement <= set(MEASURING)


def loaded_after(code: str) -> set[str]:
    code += "\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_loads_neither_torch_nor_transformers_nor_pandas():
    assert not {"torch", "transformers", "pandas", "numpy"} & loaded_after("import lmmem; dir(lmmem)")


def test_analysis_works_without_torch():
    imports = "; ".join(f"import lmmem.{module}" for module in WITHOUT_TORCH)
    assert not {"torch", "transformers"} & loaded_after(imports)


def test_public_names_are_listed_resolved_and_described():
    assert dir(lmmem) == sorted(lmmem.__all__)
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
