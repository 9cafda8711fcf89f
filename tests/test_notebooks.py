"""The committed pages: their form, without running them."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import jupytext
import pytest

from tests.pages import KEPT

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "notebooks").glob("*.md"))
NUMBERED = [page for page in PAGES if page.stem[0].isdigit()]
SECTIONS = [page for page in NUMBERED if page.stem not in KEPT]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
# Two pages open otherwise: the first of the book with what was found, and a recipe with what is to be typed. Code that
# is to be copied is seen.
ANSWERED = [page for page in PAGES if page.stem not in ("intro", "fine_tuned")]
each_section = pytest.mark.parametrize("page", SECTIONS, ids=lambda page: page.stem)


def code_cells(page: Path):
    return [cell for cell in jupytext.read(page).cells if cell.cell_type == "code"]


def test_sections_are_numbered_without_a_gap():
    numbers = [page.stem.partition("_")[0] for page in NUMBERED]
    own = [number for number in numbers if number.isdigit()]  # 03b goes on where 03 ends
    assert [int(number) for number in own] == list(range(1, int(own[-1]) + 1))
    assert {number[:2] for number in numbers} == set(own)
    assert len(set(numbers)) == len(numbers)


@each_page
def test_parameters_cell_is_the_first_code_cell_and_the_only_one(page):
    tagged = ["parameters" in cell.metadata.get("tags", []) for cell in code_cells(page)]
    assert tagged == [True] + [False] * (len(tagged) - 1)


@each_page
def test_parameters_are_literals_and_the_common_ones_are_there(page):
    tree = ast.parse(code_cells(page)[0].source)
    names = []
    for statement in tree.body:
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)
        names.append(statement.targets[0].id)
    common = {"model", "step", "seed", "scheduler"} if page in SECTIONS else {"model"}
    assert common <= set(names)
    assert page not in SECTIONS or {"n_sequences", "text"} & set(names)


@each_page
def test_page_survives_a_round_trip_through_ipynb(page, tmp_path):
    text = page.read_text()
    notebook = jupytext.reads(text, fmt="md:myst")
    again = jupytext.reads(jupytext.writes(notebook, fmt="md:myst"), fmt="md:myst")
    assert [cell.source for cell in again.cells] == [cell.source for cell in notebook.cells]
    assert [cell.metadata.get("tags") for cell in again.cells] == [cell.metadata.get("tags") for cell in notebook.cells]


def lines_of_code(source: str) -> list[str]:
    """The lines of a cell that are code: prose within it, and empty lines, are none."""
    prose = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.end_lineno > node.lineno:
            prose |= set(range(node.lineno + 1, node.end_lineno))
    return [line for number, line in enumerate(source.splitlines(), 1) if line.strip() and number not in prose]


@each_page
def test_cells_of_a_page_are_short(page):
    for cell in code_cells(page)[1:]:
        assert len(lines_of_code(cell.source)) <= 12, cell.source
        assert max(len(line) for line in cell.source.splitlines()) <= 88, cell.source


@each_page
def test_what_a_page_computes_is_a_table_that_the_library_made(page):
    """No function, no loop over measurements and no joined tables: these lie in the library, and are tested there."""
    for cell in code_cells(page):
        tree = ast.parse(cell.source)
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        called = {getattr(call, "attr", getattr(call, "id", None)) for call in calls}
        assert not called & {"merge", "concat", "pivot", "glue", "join"}
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.Lambda)]


@pytest.mark.parametrize("page", ANSWERED, ids=lambda page: page.stem)
def test_page_opens_with_its_answer(page):
    """What its first cell with prose tells, before any section, and at once a figure or a table under it."""
    text = page.read_text()
    shown = min(text.find(f"**{what} 1.**") for what in ("Figure", "Table") if f"**{what} 1.**" in text)
    assert text.index("**The answer.**") < shown < text.find("\n## ")
    first = next(cell for cell in code_cells(page) if re.search(r"^\s*tell(_if)?\(", cell.source, re.MULTILINE))
    assert "**The answer.**" in first.source


def test_first_page_opens_with_what_was_found():
    text = (ROOT / "notebooks" / "intro.md").read_text()
    opening = next(cell.source for cell in code_cells(ROOT / "notebooks" / "intro.md") if "tell_if(" in cell.source)
    assert opening.split('"""')[1].strip().startswith("**A small language model")
    assert "\n## " not in text


@each_section
def test_section_opens_with_its_answer_and_a_figure(page):
    sources = [cell.source for cell in code_cells(page)]
    answer = next(number for number, source in enumerate(sources) if "**The answer.**" in source)
    assert "plotting." in sources[answer + 1] or "scan.drawn" in sources[answer + 1]
    text = page.read_text()
    assert text.index("**The answer.**") < text.index("**Figure 1.**") < text.index("\n## ")


@pytest.mark.parametrize("page", ANSWERED, ids=lambda page: page.stem)
def test_code_of_a_page_is_folded_but_for_its_parameters(page):
    folded = ["hide-input" in cell.metadata.get("tags", []) for cell in code_cells(page)]
    assert folded == [False] + [True] * (len(folded) - 1)


@each_page
def test_prose_of_a_page_reads_in_any_notebook(page):
    """Without roles that only the book knows: an executed page and JupyterLab show it too."""
    assert not re.search(r"\{(glue|cite|doc|ref|numref)[:}]", page.read_text())


@each_section
def test_page_ends_with_its_provenance(page):
    last = code_cells(page)[-1]
    assert "provenance" in last.metadata["tags"]
    assert "study.provenance()" in last.source


@pytest.mark.parametrize("name", KEPT)
def test_page_of_kept_tables_ends_with_how_they_were_made(name):
    last = code_cells(ROOT / "notebooks" / f"{name}.md")[-1]
    assert "provenance" in last.metadata["tags"]
    assert ".provenance" in last.source


def test_links_of_a_page_lead_to_pages():
    """To a page as it is built, beside it; to other text in book/, where both a checkout and the book have it."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            source = ROOT / "notebooks" / target
            assert (source.with_suffix(".md") if target.endswith(".ipynb") else source).is_file(), (page.stem, target)


def test_pairing_is_set_in_the_project_and_not_in_headers():
    config = tomllib.loads((ROOT / "notebooks" / "jupytext.toml").read_text())
    assert "ipynb" in config["formats"]
    assert not any("formats:" in page.read_text().split("---")[1] for page in PAGES)


def test_no_executed_notebook_is_committed():
    listed = subprocess.run(["git", "ls-files", "*.ipynb"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert listed.stdout == ""
