"""The authors' published measurements: written in the form they have, served by a loopback server, read and refused."""

from __future__ import annotations

import hashlib
import http.server
import threading
from pathlib import Path

import pandas as pd
import pytest

from lmmem.corpora.authors import FIRST, STEPS, authors_measurements
from lmmem.storage.files import DamagedError
from tests.stand_ins import authors_file


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "analysis.parquet.gzip"
    authors_file().to_parquet(path)
    return path


@pytest.fixture
def served(tmp_path):
    """The folder by HTTP on the loopback interface, and what was asked of it."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *arguments):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


def test_lines_are_those_of_the_file_in_the_words_of_the_library(file):
    found = authors_measurements(file, sha256=sha256(file))
    published = pd.read_parquet(file).reset_index().sort_values(["index", "checkpoint"], ignore_index=True)
    assert found.columns.tolist() == ["index", "exposure_step", "step", "kl_ld", "repeats", "z_complexity"]
    for ours, theirs in {"step": "checkpoint", "kl_ld": "lev", "repeats": "30", "z_complexity": "complexity"}.items():
        assert found[ours].tolist() == published[theirs].tolist()
    by_hand = {FIRST: 10_001, FIRST + 680: 10_001, FIRST + 1_360: 10_002}
    assert found.drop_duplicates("index").set_index("index").exposure_step.loc[[*by_hand]].to_dict() == by_hand


def test_file_is_fetched_once_and_checked(file, served, cache):
    address, asked = served
    url = f"{address}/{file.name}"
    first = authors_measurements(url=url, sha256=sha256(file))
    again = authors_measurements(url=url, sha256=sha256(file))
    pd.testing.assert_frame_equal(first, again)
    assert asked == [f"/{file.name}"]
    with pytest.raises(DamagedError, match=r"hash|SHA-256"):
        authors_measurements(url=url, sha256="0" * 64)


def test_what_cannot_be_fetched_says_from_where(served, cache):
    address, _ = served
    with pytest.raises(ConnectionError, match=f"{address}/none cannot be fetched .*404.*give the file"):
        authors_measurements(url=f"{address}/none", sha256="1" * 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="30"), "has no column 30: it is laid out otherwise"),
        (lambda table: table.drop(index=(FIRST, STEPS[3])), "each row is wanted once at each of the steps 10,000"),
        (lambda table: table.rename(index=lambda step: step + 1, level=1), "each row is wanted once at each"),
        (lambda table: table.rename(index=lambda row: row + 1, level=0), "rows are wanted that are met between steps"),
        (lambda table: table.rename(index=lambda row: row - 20, level=0), "rows are wanted that are met between steps"),
        (lambda table: table.assign(lev=65), "lev is a number of tokens from 0 to 64"),
    ],
    ids=["column", "line", "steps", "offset", "rows before", "range"],
)
def test_file_whose_meaning_is_not_known_is_refused(tmp_path, change, message):
    path = tmp_path / "other.parquet"
    change(authors_file()).to_parquet(path)
    with pytest.raises(ValueError, match=message):
        authors_measurements(path, sha256=sha256(path))


def test_another_file_and_none_are_refused(file, tmp_path):
    with pytest.raises(DamagedError, match=r"has SHA-256 \w{64}, and 5729650dfd52.* was published"):
        authors_measurements(file)
    with pytest.raises(ValueError, match=r"none: there is no such file; without one it is fetched from https://raw\."):
        authors_measurements(tmp_path / "none")
    broken = tmp_path / "broken"
    broken.write_bytes(b"PAR1")
    with pytest.raises(DamagedError, match="cannot be read as Parquet"):
        authors_measurements(broken, sha256=sha256(broken))
