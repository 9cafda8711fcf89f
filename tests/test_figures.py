"""The README's figures are those that its tables draw."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from matplotlib.testing.compare import compare_images

BOOK = Path(__file__).parents[1] / "book"
APART = 8.0  # root mean square of 255: letters of another version of a font are as far, another curve is further


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    runpy.run_path(str(BOOK / "figures.py"))["main"](folder)
    return folder


@pytest.mark.parametrize("name", ["dynamics.png", "relearning.png"])
def test_figure_in_the_readme_is_drawn_from_the_results(drawn, name):
    assert compare_images(str(BOOK / "_static" / name), str(drawn / name), tol=APART) is None
    assert f"book/_static/{name}" in (BOOK.parent / "README.md").read_text()
