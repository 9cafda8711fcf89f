"""The whole chain on the small organism: train, run every page, build the book, read it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml

from tests.pages import PAGES, SECTIONS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
WIDTHS = {"desktop": 1280, "phone": 390}


@pytest.fixture(scope="session")
def small_book(cache, tmp_path_factory) -> Path:
    """A copy of the sources with the pages run by papermill on pocket-mini, built as HTML."""
    source = tmp_path_factory.mktemp("source")
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "book", source / "book", ignore=shutil.ignore_patterns("*.ipynb"))
    for page in PAGES:
        papermill.execute_notebook(
            str(ROOT / "notebooks" / f"{page}.md"),
            str(source / "book" / f"{page}.ipynb"),
            parameters={"model": "pocket-mini"},  # and nothing more: a page's defaults follow the model
            progress_bar=False,
        )
    for stray in (".pytest_cache/README.md", ".venv/notes.md", "book/.03_perturbation.part.ipynb"):
        (source / stray).parent.mkdir(exist_ok=True)
        (source / stray).write_text("# No page of the book\n")
    build = [Path(sys.executable).with_name("jupyter-book"), "build", "--warningiserror", "--keep-going", source]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return source / "_build" / "html"


@pytest.fixture(scope="session", params=["small", "full"])
def html(request: pytest.FixtureRequest) -> Path:
    """The small book, and the one that `make book` built, if it was."""
    if request.param == "small":
        return request.getfixturevalue("small_book")
    if not (ROOT / "_build" / "html" / "index.html").exists():
        pytest.skip("make book has not been run")
    return ROOT / "_build" / "html"


def pages() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    chapters = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    return [toc["root"], *(page["file"] for chapter in chapters for page in (chapter, *chapter.get("sections", [])))]


def test_every_page_of_the_contents_is_built(html):
    assert "book/intro.html" in (html / "index.html").read_text()
    for page in pages():
        assert (html / f"{page}.html").is_file()


def test_no_page_holds_an_error_or_an_unresolved_number(html):
    for page in pages():
        text = (html / f"{page}.html").read_text()
        assert "Traceback" not in text
        assert "output error" not in text
        assert "Text(0" not in text  # what a cell that ends in a call of matplotlib would print
        assert "&lt;matplotlib" not in text


@pytest.mark.parametrize("page", SECTIONS)
def test_executed_pages_have_figures_and_a_provenance_line(html, page):
    text = (html / "book" / f"{page}.html").read_text()
    images = re.findall(r'<img[^>]*src="\.\./(_images/[^"]+)"', text)
    assert images
    assert all((html / image).is_file() for image in images)
    assert len(images) == text.count("<strong>Figure ")
    assert re.search(r"model pocket\S*, step \d+.*, seed 0, float32 on \w+ \(.+\), lmmem .+ measured \d{4}-", text)


def test_pages_run_by_papermill_keep_their_parameters(small_book):
    for page in PAGES:
        notebook = nbformat.read(small_book.parents[1] / "book" / f"{page}.ipynb", 4)
        assert notebook.metadata.papermill.parameters["model"] == "pocket-mini"


def test_too_many_sequences_end_a_page_with_the_number_there_are(small_book, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="from 1 to the 12 there are"):
        papermill.execute_notebook(
            str(ROOT / "notebooks" / "02_complexity.md"),
            str(tmp_path / "out.ipynb"),
            parameters={"model": "pocket-mini", "n_sequences": 13},
            progress_bar=False,
        )


def test_literal_command_of_the_readme_runs_in_another_folder(small_book, tmp_path):
    options = ["-p", "model", "pocket-mini", "-p", "n_sequences", "2", "-p", "draws", "3", "-p", "once_draws", "2"]
    command = [
        Path(sys.executable).with_name("papermill"),
        ROOT / "notebooks" / "03_perturbation.md",
        "out.ipynb",
        *options,
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert nbformat.read(tmp_path / "out.ipynb", 4).metadata.papermill.exception is None


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS.keys())
def test_pages_render_without_a_network_and_fit_the_screen(browser, html, width):
    tab = browser.new_page(viewport={"width": width, "height": 800})
    asked: list[str] = []
    failed: list[str] = []
    errors: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("requestfailed", lambda request: failed.append(request.url))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    for page in pages():
        tab.goto((html / f"{page}.html").as_uri(), wait_until="networkidle")
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1"), page
        assert tab.evaluate("[...document.querySelectorAll('main img')].every(image => image.naturalWidth > 0)"), page
        formulas = tab.locator("main .math").count()
        assert tab.locator("main mjx-container").count() >= formulas
    tab.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert failed == []
    # Jupyter Book 1 declares sphinx-thebe's settings twice, which nothing on our pages uses.
    assert [error for error in errors if "THEBE_JS_URL" not in error] == []


def test_reader_finds_every_page_from_the_first(browser, html):
    tab = browser.new_page(viewport={"width": 1280, "height": 800})
    tab.goto((html / "index.html").as_uri(), wait_until="networkidle")
    links = tab.locator("nav.bd-links a").evaluate_all("links => links.map(link => link.href)")
    tab.close()
    assert {Path(page).name for page in pages()[1:]} <= {Path(link).stem for link in links}
