"""Published tables by range, and the command that compares them with our rows."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmmem.__main__ import main
from lmmem.corpora.published import MEMORISED, duplicate_counts, memorised_rows
from lmmem.inference import decoding
from lmmem.models.registry import MODELS
from lmmem.storage.files import DamagedError
from lmmem.storage.ranges import BUFFER
from tests import stand_ins
from tests.loopback_hub import LoopbackHub

COUNTS = MODELS["pythia1b"].order.counts
N = 300_000  # rows with a published count
KEPT = np.arange(5_000, 5_060)  # rows of the training data that are more than zeros


def parquet(table: dict, group: int) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(table), sink, row_group_size=group)
    return sink.getvalue()


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> dict[tuple[str, str], dict[str, bytes | Path]]:
    """Repositories: training data, a model, and what it recites, of which row 5,007 is published wrongly."""
    info = MODELS["pythia1b"]
    model = stand_ins.pythia(0)
    files = stand_ins.files_of(model)
    rows = stand_ins.rows(len(KEPT), 50_277)
    rows[:, 32:64] = decoding.greedy(model, rows[:, :32], 32)
    shards = stand_ins.write_shards(tmp_path_factory.mktemp("shards"), {int(KEPT[0]): rows}, 6_000)
    tokens = rows[:, :64].astype(np.int64)
    tokens[7, 40] += 1

    def split(index: np.ndarray, tokens: np.ndarray) -> dict:
        return {"index": index, "tokens": list(tokens), "__index_level_0__": index}

    other = split(np.arange(40), np.zeros((40, 64), dtype=np.int64))
    memorised = {
        "data/duped.1b-00000-of-00002-abc.parquet": parquet(split(KEPT[:30], tokens[:30]), 10),
        "data/duped.1b-00001-of-00002-def.parquet": parquet(split(KEPT[30:], tokens[30:]), 10),
        "data/duped.1b.23000-00000-of-00001.parquet": parquet(other, 10),
        "data/duped.12b-00000-of-00001.parquet": parquet(other, 10),
        "data/deduped.1b-00000-of-00001.parquet": parquet(other, 10),
    }
    counts = {"Index": np.arange(N), "Counts": np.arange(N) % 997 + 1}
    halves = [
        {name: column[half] for name, column in counts.items()} for half in (slice(0, 200_000), slice(200_000, N))
    ]
    duplicates = {f"data/train-{i:05}-of-00002.parquet": parquet(half, 10_000) for i, half in enumerate(halves)}
    return {
        (str(info.place), "step143000"): files,
        (info.order.repo, "main"): shards,
        (MEMORISED, "main"): memorised,
        (COUNTS, "main"): duplicates,
    }


@pytest.fixture
def published(loopback, content) -> LoopbackHub:
    """A Hub with all of it."""
    for (repo, revision), files in content.items():
        loopback.add(repo, files, repo_type="model" if revision.startswith("step") else "dataset", revision=revision)
    return loopback


@pytest.mark.slow
def test_memorised_rows_are_those_of_the_model(published):
    index, tokens = memorised_rows("pythia1b", 60)
    np.testing.assert_array_equal(index, KEPT)
    assert tokens.shape == (60, 64)
    assert not memorised_rows("pythia1b-deduped", 3)[1].any()


def test_same_seed_gives_the_same_rows(published):
    first, again, other = (memorised_rows("pythia1b", 5, seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (np.diff(first) > 0).all()


@pytest.mark.parametrize("name", ["amber7b", "pocket", "pythia14m", "pythia1b-v0", "pythia160m-seed1"])
def test_models_without_a_published_list_are_refused(published, name):
    with pytest.raises(ValueError, match=f"no memorised rows are published for {name}; they are for pythia70m, "):
        memorised_rows(name, 3)


@pytest.mark.parametrize("n", [0, 61])
def test_more_rows_than_there_are_is_refused(published, n):
    with pytest.raises(ValueError, match=f"n={n}: give a whole number from 1 to the 60 rows of split duped.1b"):
        memorised_rows("pythia1b", n)


def test_list_that_is_laid_out_otherwise_is_named(loopback):
    loopback.add(MEMORISED, {"data/train.parquet": b""}, repo_type="dataset")
    with pytest.raises(ValueError, match="it is laid out otherwise"):
        memorised_rows("pythia1b", 3)


def test_counts_are_those_of_the_rows_in_their_order(published):
    wanted = np.array([299_999, 3, 200_000, 3, 112_345])
    np.testing.assert_array_equal(duplicate_counts("pythia1b", wanted), wanted % 997 + 1)
    np.testing.assert_array_equal(duplicate_counts("pythia70m-v0", [19_999]), [19_999 % 997 + 1])


def test_only_the_row_groups_that_hold_them_are_fetched(published):
    (files,) = (files for files in published.files.values() if any("train-" in path for path in files))
    whole = sum(file.size for file in files.values())
    np.testing.assert_array_equal(duplicate_counts("pythia1b", [15_003]), [15_003 % 997 + 1])
    assert published.sent() < whole / 4


def test_of_thousands_of_rows_too_only_their_row_groups_are_fetched(published):
    (files,) = (files for files in published.files.values() if any("train-" in path for path in files))
    wanted = np.arange(18_000, 22_000)  # of the second and the third group of the first file, which has twenty
    np.testing.assert_array_equal(duplicate_counts("pythia1b", wanted), wanted % 997 + 1)
    assert published.sent() < sum(file.size for file in files.values()) / 4
    held = pq.read_metadata(io.BytesIO(files["data/train-00000-of-00002.parquet"].content))
    begin, end = (held.row_group(group).column(0).dictionary_page_offset for group in (1, 3))
    for request in published.ranges():
        path, start = request.path.split("/", 3)[3], int(request.range.removeprefix("bytes=").split("-")[0])
        footer = files[path].size - BUFFER <= start
        assert footer or (path == "data/train-00000-of-00002.parquet" and begin <= start < end)


def test_no_rows_have_no_counts(published):
    assert duplicate_counts("pythia1b", []).shape == (0,)


def test_row_without_a_count_is_named(published):
    with pytest.raises(ValueError, match=f"has no count for row {N}"):
        duplicate_counts("pythia1b", [5, N])
    with pytest.raises(IndexError, match="index -1"):
        duplicate_counts("pythia1b", [5, -1])
    with pytest.raises(TypeError, match="whole number"):
        duplicate_counts("pythia1b", [3.7])


def test_counts_with_other_columns_are_refused(loopback):
    table = parquet({"text": ["a"], "n": [1]}, 1)
    loopback.add(COUNTS, {"data/train.parquet": table}, repo_type="dataset")
    with pytest.raises(ValueError, match="has columns text, n: Index and Counts expected"):
        duplicate_counts("pythia1b", [0])
    with pytest.raises(ValueError, match="no counts are published for the training data of amber7b"):
        duplicate_counts("amber7b", [0])


def test_counts_are_read_past_nested_columns_and_empty_groups(loopback):
    table = {"text": [{"a": 1, "b": 2}] * 4, "Index": [3, 4, 5, 6], "Counts": [30, 40, 50, 0]}
    empty = parquet({"Index": np.array([], dtype=int), "Counts": np.array([], dtype=int)}, 1)
    loopback.add(COUNTS, {"data/0.parquet": empty, "data/1.parquet": parquet(table, 2)}, repo_type="dataset")
    np.testing.assert_array_equal(duplicate_counts("pythia1b", [5, 3, 5]), [50, 30, 50])
    with pytest.raises(ValueError, match=r"data/1\.parquet@\w+ counts row 6 0 times: a whole number of 1 or more"):
        duplicate_counts("pythia1b", [6])


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([7, 9], r"data/[01]\.parquet@\w+ counts row 3 [79] times, and elsewhere it is counted [79] times"),
        ([7.5, 7.5], r"data/[01]\.parquet@\w+ counts row 3 7\.5 times: a whole number of 1 or more is expected"),
        (["7", "x"], r"data/[01]\.parquet@\w+ counts row 3 [7x] times: a whole number"),
        ([7, float("inf")], r"data/1\.parquet@\w+ counts row 3 inf times: a whole number"),
    ],
)
def test_counts_that_contradict_or_are_none_name_file_and_row(loopback, counts, message):
    files = {f"data/{i}.parquet": parquet({"Index": [3, 4], "Counts": [c] * 2}, 2) for i, c in enumerate(counts)}
    loopback.add(COUNTS, files, repo_type="dataset")
    with pytest.raises(DamagedError, match=message):
        duplicate_counts("pythia1b", [3])


def test_counts_that_are_said_twice_alike_or_as_decimals_are_read(loopback):
    table = {"Index": [3, 4, 3], "Counts": [7.0, 1.0, 7.0]}
    loopback.add(COUNTS, {"data/0.parquet": parquet(table, 2)}, repo_type="dataset")
    assert duplicate_counts("pythia1b", [3, 4]).tolist() == [7, 1]


@pytest.mark.slow
def test_verification_of_rows_that_are_not_here_says_so(published, tmp_path, capsys):
    (tmp_path / "few.bin").write_bytes(stand_ins.rows(4, 50_277).tobytes())
    assert main(["verify", "pythia1b", "--rows", "9", "--path", str(tmp_path / "few.bin")]) == 2
    assert "outside the corpus, which has rows 0 .. 3" in capsys.readouterr().err


@pytest.mark.slow
def test_verification_finds_the_one_row_that_differs(published, tmp_path):
    command = [Path(sys.executable).with_name("lmmem"), "verify", "pythia1b", "--rows", "60", "--with-model"]
    environment = os.environ | published.environment(tmp_path)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    head, rows, recall, verdict = done.stdout.strip().splitlines()
    assert head.split() == ["check", "agree", "of", "share", "disagree"]
    assert rows.split()[-4:] == ["59", "60", "98.3%", "5007"]
    assert recall.split()[-4:] == ["59", "60", "98.3%", "5007"]
    assert verdict == "pythia1b: NOT everything agrees"
    assert done.returncode == 1


def test_verification_of_rows_that_agree_exits_with_0(published, capsys):
    assert main(["verify", "pythia1b-deduped", "--rows", "3"]) == 2  # its training data are not on this Hub
    assert "pile-deduped-pythia-preshuffled at main: the Hub has no such repository" in capsys.readouterr().err
    published.add(
        MODELS["pythia1b-deduped"].order.repo,
        {f"document-{i:05}-of-00001.bin": bytes(2 * 2_049 * 30) for i in range(2)},
        repo_type="dataset",
    )
    assert main(["verify", "pythia1b-deduped", "--rows", "3"]) == 0
    assert capsys.readouterr().out.endswith("pythia1b-deduped: everything agrees\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "amber7b"], "lmmem: no memorised rows are published for amber7b"),
        (["verify", "pythia1b", "--rows", "0"], "lmmem: n=0: give a whole number from 1 to the 60"),
        (["verify", "pythia1b", "--rows", "3", "--path", "/nowhere"], "lmmem: there is nothing at /nowhere"),
    ],
)
def test_what_cannot_be_done_is_one_line(published, capsys, arguments, message):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_models_are_listed(capsys):
    assert main(["models"]) == 0
    assert "pythia1b" in capsys.readouterr().out
