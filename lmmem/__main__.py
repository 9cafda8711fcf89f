"""The command `lmmem`: what can be known without a notebook."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lmmem

if TYPE_CHECKING:
    import pandas as pd

NEWLINE = "\n"
SHOWN = 60  # characters of a run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives its exit status: 0, 1 if something disagrees, 2 if it could not be done."""
    parser = argparse.ArgumentParser(prog="lmmem", description="Memorisation in language models.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("models", help="list the models known by name")
    commands.add_parser("results", help="list the tables that have been measured")
    verify = commands.add_parser(
        "verify", help="compare our rows of the training data with rows that others have published"
    )
    verify.add_argument("name", help="a Pythia model, such as pythia1b")
    verify.add_argument("--rows", type=int, default=100, help="how many published rows (default 100)")
    verify.add_argument("--seed", type=int, default=0, help="chooses them (default 0)")
    verify.add_argument("--with-model", action="store_true", help="also check that the model recites them")
    verify.add_argument("--path", help="training data on this machine instead of the Hub's")
    verify.add_argument("--dtype", help="float32, bfloat16 or float16; by default the model's")
    verify.add_argument("--device", help="as torch names it; by default the GPU if there is one")
    scan = commands.add_parser("scan", help="what a model has memorised of a text")
    scan.add_argument("name", help="a name, an id on the Hub, a folder or a GGUF file")
    scan.add_argument("file", help='text, Markdown, or .jsonl with {"text": ".."} a line, in UTF-8')
    scan.add_argument(
        "--control",
        action="append",
        help="a file of text of the same kind that the model cannot have met, or .jsonl; may be given many times",
    )
    scan.add_argument("--html", help="write the report there: one file, to be opened in a browser")
    scan.add_argument("--stride", type=int, help="tokens from one window to the next (default 8)")
    scan.add_argument("--longest", type=float, help="minutes that it may take, timed on a few windows (default 30)")
    scan.add_argument("--step", type=int, help="training step of the weights; by default the last")
    scan.add_argument("--seed", type=int, default=0, help="of what is drawn (default 0)")
    scan.add_argument("--dtype", help="float32, bfloat16 or float16; by default the model's")
    scan.add_argument("--device", help="as torch names it; by default the GPU if there is one")
    trace = commands.add_parser("trace", help="find where in a model's training data a text comes from")
    trace.add_argument("name", help="a name of `lmmem models`, an id on the Hub, a folder, or a GGUF file")
    trace.add_argument("file", help="text, Markdown, or .jsonl with one text, in UTF-8; - is what is typed or piped")
    trace.add_argument("--continued", action="store_true", help="trace what the model says after the text, 64 tokens")
    trace.add_argument("--least", type=int, default=16, help="tokens of the shortest run (default 16)")
    trace.add_argument("--step", type=int, help="rows met by this step (default the paper's, else the last)")
    trace.add_argument("--first-row", type=int, help="the first row to search")
    trace.add_argument("--rows", type=int, help="how many rows (default all that lie here, else 20,000)")
    trace.add_argument("--later", action="store_true", help="also search rows that come after the step, or never")
    trace.add_argument("--data", help="training data on this machine: rows.npy, or as the model's own")
    trace.add_argument("--rows-per-step", type=int, help="of training data that the registry does not know")
    given = parser.parse_args(arguments)
    run = {"models": _models, "results": _results, "verify": _verify, "scan": _scan, "trace": _trace}
    try:
        status = run[given.command](given)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever reads has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except (ValueError, IndexError, OSError) as error:
        print(f"lmmem: {error}", file=sys.stderr)
        return 2


def _models(_: argparse.Namespace) -> int:
    print(lmmem.MODELS)
    return 0


def _results(_: argparse.Namespace) -> int:
    from lmmem.storage.files import cache_folder
    from lmmem.storage.results import tables

    found = tables()
    if found.empty:
        print(f"nothing has been measured yet in {cache_folder()}")
        return 0
    formats = {"complete": "{:.0%}".format, "mb": "{:.2f}".format}
    print(found.to_string(index=False, formatters=formats))
    return 1 if found.damaged.any() else 0


def _verify(given: argparse.Namespace) -> int:
    from lmmem.experiments.verification import verify

    table = verify(
        given.name,
        given.rows,
        given.seed,
        with_model=given.with_model,
        path=given.path,
        dtype=given.dtype,
        device=given.device,
    )
    print(table.to_string(index=False, formatters={"share": "{:.1%}".format}))
    agrees = (table.agree == table.of).all()
    print(f"{given.name}: {'everything agrees' if agrees else 'NOT everything agrees'}")
    return 0 if agrees else 1


def _scan(given: argparse.Namespace) -> int:
    from lmmem.analysis.scan import summary
    from lmmem.analysis.strip import report
    from lmmem.experiments.scan import LONGEST, NO_STRIDE, STRIDE, TooLongError, named_texts
    from lmmem.storage.files import write_whole

    texts = named_texts(given.file)
    control = None if given.control is None else named_texts(*given.control)
    if given.html is not None:
        _check_page(given.html, [given.file, *(given.control or [])])
    study = lmmem.Study(given.name, given.step, seed=given.seed, dtype=given.dtype, device=given.device)
    stride = STRIDE if given.stride is None else given.stride
    try:
        scan = study.scan(texts, control, stride=stride, longest=LONGEST if given.longest is None else given.longest)
    except TooLongError as error:
        way = NO_STRIDE if error.stride is None else f"--stride {error.stride} {error.then}"
        raise ValueError(f"{error.what}: {way}; --longest {error.minutes} lets it run") from None
    told = summary(scan)
    print("\n".join(told.values()))
    if given.html is not None:
        model = "/".join(Path(given.name).parts[-2:]) if Path(given.name).exists() else given.name
        title = f"What {model} has memorised of {Path(given.file).name}"
        page = report(scan.windows, scan.texts, title=title, summary=list(told.values()), made=study.provenance())
        with write_whole(Path(given.html)) as path:
            path.write_text(page, encoding="utf-8")
    return 0


def _check_page(page: str, read: Sequence[str]) -> None:
    """Refuse a file that no page can be written to, before anything is measured."""
    path = Path(page)
    if not page.strip() or path.is_dir():
        raise ValueError(f"--html {page!r}: give a file to write the report to")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"--html {page}: there is no such folder")
    if path.exists() and any(path.samefile(file) for file in read):
        raise ValueError(f"--html {page} is a file that is read: give another")
    try:
        with tempfile.NamedTemporaryFile(dir=path.absolute().parent):
            pass
    except OSError as error:
        raise ValueError(f"--html {page}: nothing can be written there ({error.strerror})") from None


def _trace(given: argparse.Namespace) -> int:
    from lmmem.experiments.scan import decoded, read_texts

    piped = given.file == "-"
    text, *others = [decoded(sys.stdin.buffer.read(), "what is piped")] if piped else read_texts(given.file)
    if others:
        raise ValueError(f"{given.file} holds {1 + len(others)} texts: give one")
    study = lmmem.Study(given.name, given.step, data=given.data, rows_per_step=given.rows_per_step)
    asked = study.continued(text) if given.continued else text
    found = study.trace(asked, given.least, first_row=given.first_row, n_rows=given.rows, later=given.later)
    tokens, covered, run = found.attrs["tokens"], found.attrs["covered"], f"runs of {given.least} tokens or more"
    if given.continued:
        text = study.tokenizer.decode(asked)
        print(f"continued: {text!r}")
    print(f"searched: {found.attrs['searched']}")
    print(f"{run}: {len(found)}, with {covered:,} of the text's {tokens:,} tokens ({covered / tokens:.1%})")
    if not found.empty:
        print(_as_read(found, text).to_string(index=False))
        print(
            "place: line and character of the text; repeats: rows that share such a run with it; rows, steps: those "
            "that hold all of it, and when they were met"
            + ("; crosses: the end of a row has cut it" if found.crosses.any() else "")
        )
    return 0


def _as_read(found: pd.DataFrame, text: str) -> pd.DataFrame:
    """The table of a trace as a person reads it: columns that say nothing are left out."""
    shown = found[["token", "length", "occurrences", "repeats"]].astype(str)
    if "character" in found:
        begins = found.character.tolist()
        shown.insert(
            0, "place", [f"{text.count(NEWLINE, 0, at) + 1}:{at - text.rfind(NEWLINE, 0, at)}" for at in begins]
        )
    shown["rows"] = [", ".join(map(str, rows[:2])) + (f" .. {rows[-1]}" if rows[2:] else "") for rows in found.rows]
    steps = found[["first_step", "last_step"]].astype(str).itertuples(index=False)
    shown["steps"] = [first if first == last else f"{first} .. {last}" for first, last in steps]
    if found.presentations.notna().any():
        shown["presentations"] = found.presentations.astype(str)
    if found.crosses.any():
        shown["crosses"] = found.crosses.map({True: "yes", False: ""})
    runs = found.run.map(lambda run: repr(run)[1:-1])
    runs = runs.where(runs.str.len() <= SHOWN, runs.str[:SHOWN] + " ..")
    return shown.assign(run=runs.str.ljust(runs.str.len().max()))


if __name__ == "__main__":
    sys.exit(main())
