"""Let papermill read the text notebooks of jupytext: ``papermill page.md out.ipynb -p model pocket``.

Papermill imports this module as soon as it is imported itself, through the entry point
``papermill.io``. Its handlers stay in charge of fetching and storing, so local paths, S3 and http
work as ever; only what they fetched is converted. An exception at import would break papermill for
the whole environment, so nothing heavy is imported here.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import click

__all__ = ["TextNotebookError", "TextNotebooks"]

EXTENSIONS = (".md", ".py")  # text formats of jupytext that papermill would misread as JSON
MARK = "lmmem_text_notebook"  # in the metadata of a converted notebook


class TextNotebookError(click.ClickException, ValueError):
    """A text notebook cannot be run as asked; one line on the command line."""

    def __str__(self) -> str:
        return self.message


def _extension(path: object) -> str:
    return PurePosixPath(path.split("?")[0]).suffix if isinstance(path, str) else ""


class TextNotebooks:
    """The entry point's handler; papermill asks it only for paths that begin with ``jupytext://``."""

    @classmethod
    def read(cls, path: str) -> str:
        """The notebook behind ``jupytext://path``, as papermill wants it."""
        path = path.removeprefix("jupytext://")
        return papermill_io.get_handler(path).read(path)

    @classmethod
    def listdir(cls, path: str) -> list[str]:
        """Nothing can be listed behind ``jupytext://``."""
        raise TextNotebookError(f"cannot list {path}: give the path of one text notebook")

    @classmethod
    def write(cls, buf: str, path: str) -> None:
        """Text notebooks are read only."""
        raise TextNotebookError(f"cannot write {path}: papermill writes .ipynb files")

    @classmethod
    def pretty_path(cls, path: str) -> str:
        """The path as it is shown in logs."""
        return path


def _to_ipynb(text: str, path: str) -> str:
    """Notebook text -> .ipynb JSON."""
    import jupytext
    import nbformat

    if not text.startswith(("---", "#")) or "jupytext" not in text[:2_000]:
        raise TextNotebookError(f"{path} is no notebook: a text notebook begins with a header that names jupytext")
    notebook = jupytext.reads(text, fmt=_extension(path).removeprefix("."))
    if not any(cell.cell_type == "code" for cell in notebook.cells):
        raise TextNotebookError(f"{path} has no code cell: there is nothing to run")
    notebook.metadata[MARK] = path
    return nbformat.writes(notebook)


def _reading(read: Callable[..., str]) -> Callable[..., str]:
    @functools.wraps(read)
    def wrapped(path: Any, extensions: list[str] | None = None) -> str:
        if extensions and ".yaml" in extensions:  # the file of papermill's -f
            return _checked_parameters(read, path, extensions)
        if _extension(path) not in EXTENSIONS:
            return read(path) if extensions is None else read(path, extensions)
        _refuse_unknown_parameters()
        return _to_ipynb(read(path, list(EXTENSIONS)), path)

    return wrapped


def _checked_parameters(read: Callable[..., str], path: Any, extensions: list[str]) -> str:
    """The text of a file of parameters, refused in one line if it is none."""
    import yaml

    hint = "write one parameter a line, such as n_sequences: 32"
    try:
        text = read(path, extensions)
        found = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise TextNotebookError(f"{path} cannot be read as YAML ({why}): {hint}") from error
    if found is not None and not (isinstance(found, dict) and _named_by_words(found)):
        raise TextNotebookError(f"{path} names no parameters, or by more than words: {hint}")
    return text


def _named_by_words(value: Any) -> bool:
    """Whether the keys of all mappings in a value are strings."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _named_by_words(part) for key, part in value.items())
    return not isinstance(value, list) or all(map(_named_by_words, value))


def _writing(write: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(write)
    def wrapped(buf: str, path: Any, *arguments: Any, **keywords: Any) -> Any:
        if _extension(path) in EXTENSIONS:
            raise TextNotebookError(f"cannot write the executed notebook to {path}: give an output that ends in .ipynb")
        return write(buf, path, *arguments, **keywords)

    return wrapped


def _refuse_unknown_parameters() -> None:
    """Make papermill refuse, for text notebooks, the names that it would only warn of."""
    import papermill.execute as execute

    if hasattr(execute.parameterize_notebook, MARK):
        return
    parameterize = execute.parameterize_notebook

    @functools.wraps(parameterize)
    def wrapped(nb: Any, parameters: dict[str, Any], *arguments: Any, **keywords: Any) -> Any:
        if MARK in nb.metadata:
            from papermill.inspection import _infer_parameters

            known = [p.name for p in _infer_parameters(nb)]
            for name in parameters:
                if name not in known:
                    near = difflib.get_close_matches(name, known, n=1)
                    hint = f"; did you mean {near[0]!r}?" if near else "."
                    raise TextNotebookError(
                        f"{nb.metadata[MARK]} has no parameter {name!r}{hint} It has: {', '.join(known) or 'none'}"
                    )
        return parameterize(nb, parameters, *arguments, **keywords)

    setattr(wrapped, MARK, True)
    execute.parameterize_notebook = wrapped


# Last, because papermill.iorw is importing this module at this moment.
from papermill.iorw import papermill_io  # noqa: E402

if not hasattr(papermill_io.read, "__wrapped__"):
    papermill_io.read = _reading(papermill_io.read)
    papermill_io.write = _writing(papermill_io.write)
