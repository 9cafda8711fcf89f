"""Papermill and text notebooks: the literal commands, and what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import papermill.cli
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from papermill.iorw import NoDatesSafeLoader

from lmmem.papermill_io import TextNotebookError

ROOT = Path(__file__).parents[1]
PAPERMILL = Path(sys.executable).with_name("papermill")
HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
"""
PAGE = (
    HEADER
    + """
# A page

```{code-cell} ipython3
:tags: [parameters]

number = 1
word = "one"
```

```{code-cell} ipython3
print(number, word)
```
"""
)


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PAPERMILL, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def printed(path: Path) -> str:
    cells = nbformat.read(path, 4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


@pytest.mark.slow
def test_text_notebook_runs_with_its_own_parameters(page, tmp_path):
    done = run("page.md", "out.ipynb", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert printed(tmp_path / "out.ipynb") == "1 one\n"


@pytest.mark.slow
def test_parameters_of_the_command_line_reach_the_page_from_another_folder(page, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = run(page, "out.ipynb", "-p", "number", "7", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert printed(elsewhere / "out.ipynb") == "7 one\n"


@pytest.mark.slow
def test_parameters_come_from_a_yaml_file(page, tmp_path):
    (tmp_path / "params.yaml").write_text("number: 8\nword: two\n")
    done = run("page.md", "out.ipynb", "-f", "params.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert printed(tmp_path / "out.ipynb") == "8 two\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"number: [1", "cannot be read as YAML (while parsing a flow sequence"),
        (b"number: \xff", "cannot be read as YAML ('utf-8' codec can't decode"),
        (b"- number", "names no parameters"),
        (b"number", "names no parameters"),
        (b"1: 2", "names no parameters, or by more than words"),
        (b"number: {1: 2}", "names no parameters, or by more than words"),
        (b"numbr: 2", "has no parameter 'numbr'; did you mean 'number'?"),
    ],
)
def test_file_that_holds_no_parameters_is_refused_in_one_line(page, tmp_path, text, message):
    (tmp_path / "params.yaml").write_bytes(text)
    done = run("page.md", "out.ipynb", "-f", "params.yaml", cwd=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.ipynb").exists()


GOOD = b"number: 8\nword: 'two'\nnested: {a: [1, 2.5, null], b: true}\n"


@pytest.mark.slow
@settings(max_examples=1_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzzed_file_of_parameters_is_taken_as_it_says_or_refused(tmp_path, data):
    where, cut = data.draw(st.integers(0, len(GOOD))), data.draw(st.integers(0, 8))
    piece = data.draw(
        st.one_of(st.binary(max_size=4), st.sampled_from([b":", b"\n", b"- ", b"&a ", b"*a", b"{", b"'"]))
    )
    text = GOOD[:where] + piece + GOOD[where + cut :]
    page, file, out = (tmp_path / name for name in ("page.md", "params.yaml", "out.ipynb"))
    page.write_text(PAGE.replace('word = "one"', 'word = "one"\nnested = None'))
    file.write_bytes(text)
    out.unlink(missing_ok=True)
    command = [str(page), str(out), "-f", str(file), "--prepare-only", "--no-progress-bar"]
    done = CliRunner().invoke(papermill.cli.papermill, command)
    if done.exit_code:
        assert isinstance(done.exception, SystemExit), (text, done.exception)
        assert "params.yaml" in done.output or "has no parameter" in done.output
        assert not out.exists()
        return
    expected = yaml.load(text, NoDatesSafeLoader) or {}  # noqa: S506 - a safe loader
    cells = [cell.source for cell in nbformat.read(out, 4).cells if "injected-parameters" in cell.metadata.tags]
    assert len(cells) == bool(expected)
    said = {}
    exec("".join(cells), said)  # noqa: S102 - what papermill has made of it
    assert repr({name: said[name] for name in expected}) == repr(expected)


@pytest.mark.slow
def test_unknown_parameter_is_refused_in_one_line_before_anything_runs(page, tmp_path):
    done = run("page.md", "out.ipynb", "-p", "numbr", "7", cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].endswith(
        "page.md has no parameter 'numbr'; did you mean 'number'? It has: number, word"
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.ipynb").exists()


def test_page_without_parameters_cell_refuses_every_parameter(page, tmp_path):
    page.write_text(PAGE.replace(":tags: [parameters]\n", ""))
    with pytest.raises(TextNotebookError, match=r"has no parameter 'number'.* It has: none"):
        papermill.execute_notebook(str(page), str(tmp_path / "out.ipynb"), parameters={"number": 2})


@pytest.mark.slow
@pytest.mark.parametrize("text", ["# Prose\n\nNo notebook.\n", "", HEADER + "\nProse with a header.\n"])
def test_markdown_that_is_no_notebook_is_refused(tmp_path, text):
    (tmp_path / "prose.md").write_text(text)
    done = run("prose.md", "out.ipynb", cwd=tmp_path)
    assert done.returncode != 0
    assert "prose.md is no notebook" in done.stderr or "prose.md has no code cell" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.ipynb").exists()


@pytest.mark.slow
def test_output_that_ends_in_md_is_refused_and_not_overwritten(page, tmp_path):
    done = run("page.md", "page.md", cwd=tmp_path)
    assert done.returncode != 0
    assert "give an output that ends in .ipynb" in done.stderr
    assert page.read_text() == PAGE


@pytest.mark.slow
def test_ipynb_notebooks_run_as_before(tmp_path):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("print('as before')")],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    nbformat.write(notebook, tmp_path / "in.ipynb")
    done = run("in.ipynb", "out.ipynb", "-p", "unknown", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert printed(tmp_path / "out.ipynb") == "as before\n"


def test_executed_text_notebook_can_be_run_again(page, tmp_path):
    papermill.execute_notebook(str(page), str(tmp_path / "a.ipynb"), parameters={"number": 2})
    papermill.execute_notebook(str(tmp_path / "a.ipynb"), str(tmp_path / "b.ipynb"), parameters={"number": 3})
    assert printed(tmp_path / "b.ipynb") == "3 one\n"


def test_jupytext_scheme_reads_the_path_behind_it(page):
    from papermill.iorw import papermill_io

    notebook = json.loads(papermill_io.read(f"jupytext://{page}"))
    assert [cell["cell_type"] for cell in notebook["cells"]] == ["markdown", "code", "code"]
    assert papermill_io.pretty_path("jupytext://a.md") == "jupytext://a.md"
    with pytest.raises(TextNotebookError, match="cannot list"):
        papermill_io.listdir("jupytext://a")
    with pytest.raises(TextNotebookError, match="cannot write"):
        papermill_io.write("{}", "jupytext://a.ipynb")


def test_papermill_works_where_lmmem_is_imported_first():
    code = (
        "import lmmem.papermill_io, papermill; from papermill.iorw import papermill_io; papermill_io.read.__wrapped__"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
