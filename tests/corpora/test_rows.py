"""Training data by range: Pythia's shards and Amber's lines, through the real client and a server on this machine."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from lmmem.corpora import rows as rows_module
from lmmem.corpora.corpus import Corpus, training_data
from lmmem.corpora.row_store import RowStore
from lmmem.corpora.rows import FixedRows, JsonLines
from lmmem.measures.repeats import count_repeats
from lmmem.models.registry import AMBER_STRIDE, MODELS, ROW_TOKENS
from lmmem.storage import hub
from lmmem.storage.files import DamagedError
from lmmem.storage.ranges import LocalFile
from lmmem.storage.tables import unpack
from tests.loopback_hub import Fault, LoopbackHub

REPO = MODELS["pythia1b"].order.repo
AMBER = MODELS["amber7b"].order.repo
ROW_BYTES = 2 * ROW_TOKENS
N = 3_000


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 50_277, (N, ROW_TOKENS)).astype("<u2")


@pytest.fixture(scope="module")
def shards(rows) -> dict[str, bytes]:
    """Twenty-one files as on the Hub: all but the last of one size, which is no multiple of a row's."""
    data, size = rows.tobytes(), (N * ROW_BYTES) // 21 + 1_001
    return {f"document-{i:05}-of-00020.bin": data[i * size : (i + 1) * size] for i in range(21)}


@pytest.fixture
def pile(loopback, shards) -> LoopbackHub:
    loopback.add(REPO, {"README.md": b"# The Pile", **shards}, repo_type="dataset")
    return loopback


def straddling(shards: dict[str, bytes]) -> list[int]:
    """The rows that begin in one shard and end in the next."""
    borders = np.cumsum([len(shard) for shard in shards.values()])[:-1]
    assert (borders % ROW_BYTES).all()
    return (borders // ROW_BYTES).tolist()


def test_thousand_random_rows_cost_little_more_than_their_bytes(pile, rows, shards, capsys):
    corpus = training_data("pythia1b")
    wanted = np.random.default_rng(1).choice(N, 1_000)
    np.testing.assert_array_equal(corpus[wanted], rows[wanted])
    unique = np.unique(wanted)
    runs = 1 + np.count_nonzero(np.diff(unique) != 1)
    cut = sum(row in unique for row in straddling(shards))
    sent, ranges = pile.sent(), len(pile.ranges())
    with capsys.disabled():
        print(f"\n  {len(unique):,} rows, {len(unique) * ROW_BYTES:,} bytes, {runs} runs of neighbours:", end=" ")
        print(f"{sent:,} bytes were sent in {ranges} requests, and {len(pile.requests) - ranges} others")
    assert sent <= 1.5 * len(unique) * ROW_BYTES
    assert ranges <= runs + cut
    others = [request for request in pile.requests if not request.range and "agent" not in request.path]
    assert len(others) <= 1 + 21  # one listing, one address a shard


def test_rows_that_two_shards_share_are_joined(pile, rows, shards):
    corpus = training_data("pythia1b")
    for row in straddling(shards):
        np.testing.assert_array_equal(corpus[row], rows[row])


def test_rows_of_a_step_come_in_one_request_a_shard(pile, rows):
    corpus = training_data("pythia1b")
    np.testing.assert_array_equal(corpus.at_step(1), rows[1_024:2_048])
    starts = 1_024 * ROW_BYTES // (N * ROW_BYTES // 21 + 1_001)
    ends = (2_048 * ROW_BYTES - 1) // (N * ROW_BYTES // 21 + 1_001)
    assert len(pile.ranges()) == ends - starts + 1
    np.testing.assert_array_equal(corpus.exposure_step([0, 1_023, 1_024]), [1, 1, 2])


@pytest.mark.parametrize(
    "index", [7, np.int32(7), np.uint64(7), [], [9, 2, 9, 2_999, 0], slice(5, 9), slice(None, None, 999)]
)
def test_every_kind_of_index_is_that_of_an_array(pile, rows, index):
    found = training_data("pythia1b")[index]
    expected = rows[np.asarray(index, dtype=int)] if isinstance(index, list) else rows[index]
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int64


@pytest.mark.parametrize("index", [-1, N, [0, N], [-1]])
def test_index_outside_is_refused_before_anything_is_fetched(pile, index):
    corpus = training_data("pythia1b")
    with pytest.raises(IndexError, match=f"the corpus, which has rows 0 .. {N - 1}"):
        corpus[index]
    assert not pile.ranges()


def test_deduplicated_corpus_is_another_data_set(pile):
    with pytest.raises(ValueError, match="pile-deduped-pythia-preshuffled at main: the Hub has no such repository"):
        training_data("pythia1b-deduped")


def test_missing_shard_is_refused(loopback, shards):
    files = dict(shards)
    del files["document-00020-of-00020.bin"]
    files.pop("document-00007-of-00020.bin")
    loopback.add(REPO, files, repo_type="dataset")
    with pytest.raises(ValueError, match="does not hold every shard"):
        training_data("pythia1b")


def test_row_is_fetched_once(pile, rows):
    training_data("pythia1b")[[5, 6]]
    pile.requests.clear()
    np.testing.assert_array_equal(training_data("pythia1b")[[6, 5, 7]], rows[[6, 5, 7]])
    assert [request.range for request in pile.ranges()] == [f"bytes={7 * ROW_BYTES}-{8 * ROW_BYTES - 1}"]


def test_without_the_network_fetched_rows_are_here_and_others_are_named(pile, rows, monkeypatch):
    import huggingface_hub

    training_data("pythia1b")[[5]]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    corpus = training_data("pythia1b")
    np.testing.assert_array_equal(corpus[5], rows[5])
    with pytest.raises(ConnectionError, match=r"document-00000-of-00020.bin.*HF_HUB_OFFLINE"):
        corpus[6]


def segments(folder) -> list:
    return sorted(folder.rglob("[!.]*.parquet"))


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_damaged_cache_is_fetched_again(pile, rows, tmp_path, damage):
    training_data("pythia1b")[[5]]
    (path,) = segments(tmp_path)
    data = path.read_bytes()
    flipped = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    path.write_bytes({"flip": flipped, "truncate": data[:-1], "empty": b""}[damage])
    with pytest.warns(UserWarning, match="is damaged: its rows are fetched again"):
        np.testing.assert_array_equal(training_data("pythia1b")[5], rows[5])
    assert len(segments(tmp_path)) == 1


def test_corpus_that_changes_on_the_hub_is_another_corpus(pile, rows, shards):
    np.testing.assert_array_equal(training_data("pythia1b")[5], rows[5])
    other = {name: bytes(len(shard)) for name, shard in shards.items()}
    pile.add(REPO, other, repo_type="dataset")
    hub._listings.clear()  # as another process
    assert not training_data("pythia1b")[5].any()  # not the row that was kept


def test_shard_that_is_shorter_than_listed_is_refused_under_a_warm_cache(pile, rows):
    corpus = training_data("pythia1b")
    corpus[5]
    pile.faults.append(Fault("/cdn/.*document-00000", replace=bytes(1_000)))
    with pytest.raises(DamagedError):
        corpus[6]
    np.testing.assert_array_equal(corpus[5], rows[5])


def test_what_has_arrived_before_a_failure_is_kept(pile, rows):
    corpus = training_data("pythia1b")
    pile.faults.append(Fault("document-00020", status=404))
    with pytest.raises((ValueError, ConnectionError)):
        corpus[[5, N - 1]]
    pile.requests.clear()
    np.testing.assert_array_equal(corpus[5], rows[5])
    assert not pile.ranges()


def test_bytes_that_are_no_tokens_are_refused_and_not_kept(loopback, shards, tmp_path):
    wrong = {name: b"\xff" * len(shard) for name, shard in shards.items()}
    loopback.add(REPO, wrong, repo_type="dataset")
    with pytest.raises(DamagedError, match="token 65535, outside the vocabulary"):
        training_data("pythia1b")[5]
    assert not segments(tmp_path)


def fetching(loopback: LoopbackHub, folder, code: str, **popen) -> subprocess.Popen:
    """A process that fetches rows of its own accord."""
    head = "import warnings, numpy as np; from lmmem import training_data; corpus = training_data('pythia1b');"
    environment = os.environ | loopback.environment(folder)
    return subprocess.Popen(
        [sys.executable, "-c", head + code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **popen,
    )


@pytest.mark.slow
def test_two_processes_fill_one_cache(pile, rows, tmp_path):
    code = "r = np.random.default_rng({seed}).choice(3000, 60); print([int(corpus[i].sum()) for i in r])"
    runs = [fetching(pile, tmp_path, code.format(seed=seed)) for seed in (1, 2)]
    for seed, run in zip((1, 2), runs, strict=True):
        out, error = run.communicate(timeout=120)
        assert run.returncode == 0, error
        chosen = np.random.default_rng(seed).choice(N, 60)
        assert json.loads(out) == rows[chosen].sum(axis=1, dtype=int).tolist()
    wanted = np.union1d(*(np.random.default_rng(seed).choice(N, 60) for seed in (1, 2)))
    pile.requests.clear()
    np.testing.assert_array_equal(training_data("pythia1b")[wanted], rows[wanted])
    assert not pile.ranges()


@pytest.mark.parametrize("limit", [20_000, 10], ids=["for the rows", "for anything"])
def test_full_disk_loses_nothing_but_the_cache(pile, rows, tmp_path, limit):
    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    code = "warnings.simplefilter('always'); print(int(corpus[100:120].sum()))"
    run = fetching(pile, tmp_path, code, preexec_fn=small_files_only)
    out, error = run.communicate(timeout=120)
    assert run.returncode == 0, error
    assert int(out) == rows[100:120].sum(dtype=int)
    assert "cannot be kept and is fetched again next time" in error
    assert not list(tmp_path.rglob("*.part"))


def test_many_small_segments_become_one(pile, rows, tmp_path):
    corpus = training_data("pythia1b")
    for row in range(70):
        corpus[row]
    assert len(segments(tmp_path)) < 10
    pile.requests.clear()
    np.testing.assert_array_equal(training_data("pythia1b")[:70], rows[:70])
    assert not pile.ranges()


@pytest.fixture(scope="module")
def lines() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 32_000, (400, ROW_TOKENS))


@pytest.fixture
def amber(loopback, lines) -> Iterator[Corpus]:
    text = "".join(
        json.dumps({"token_ids": row.tolist(), "source": "x" * (i % 97)}) + "\n" for i, row in enumerate(lines)
    )
    loopback.add(AMBER, {"train/train_100.jsonl": text.encode()}, repo_type="dataset")
    loopback.text = text.encode()
    return training_data("amber7b")


def test_first_lines_of_a_chunk_cost_about_their_bytes(amber, loopback, lines):
    first = 100 * AMBER_STRIDE
    np.testing.assert_array_equal(amber[first : first + 50], lines[:50])
    size = sum(len(line) + 1 for line in loopback.text.split(b"\n")[:50])
    assert loopback.sent() < 2.2 * size
    loopback.requests.clear()
    np.testing.assert_array_equal(training_data("amber7b")[first + 49], lines[49])
    assert not loopback.ranges()


def test_line_whose_place_is_known_is_read_by_range(amber, loopback, lines):
    first = 100 * AMBER_STRIDE
    amber[first + 399]  # finds where every line ends
    loopback.requests.clear()
    again = training_data("amber7b")
    np.testing.assert_array_equal(again[[first + 200, first + 3, first + 4, first]], lines[[200, 3, 4, 0]])
    size = sum(len(loopback.text.split(b"\n")[line]) + 1 for line in (0, 3, 4, 200))
    assert sum(request.sent for request in loopback.ranges()) == size
    assert len(loopback.ranges()) == 3  # 3 and 4 are neighbours


def test_interrupted_search_for_line_ends_goes_on(loopback, amber, lines):
    first = 100 * AMBER_STRIDE
    amber[first + 20]
    loopback.requests.clear()
    np.testing.assert_array_equal(training_data("amber7b")[first + 60], lines[60])
    assert not any(request.range.startswith("bytes=0-") for request in loopback.ranges())


def test_damaged_line_index_is_made_again(tmp_path, lines):
    path = tmp_path / "chunk.jsonl"
    path.write_text("".join(json.dumps({"token_ids": row.tolist()}) + "\n" for row in lines[:30]))
    index = tmp_path / "line_ends"
    wanted = np.array([3, 29])
    np.testing.assert_array_equal(JsonLines(LocalFile(path), ROW_TOKENS, index_path=index).get(wanted), lines[wanted])
    data = index.read_bytes()
    index.write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    np.testing.assert_array_equal(JsonLines(LocalFile(path), ROW_TOKENS, index_path=index).get(wanted), lines[wanted])
    assert index.read_bytes() == data


@dataclasses.dataclass(frozen=True)
class BreaksOff(LocalFile):
    """A file that cannot be read from some byte on."""

    limit: int = 0

    def read(self, start: int, stop: int) -> bytes:
        if stop > self.limit:
            raise ConnectionError("no further")
        return super().read(start, stop)


def test_search_that_breaks_off_keeps_what_it_found(tmp_path, lines):
    path, store = tmp_path / "chunk.jsonl", RowStore(tmp_path / "rows", ROW_TOKENS)
    path.write_text("".join(json.dumps({"token_ids": row.tolist()}) + "\n" for row in lines))
    ends = tmp_path / "line_ends"
    with pytest.raises(ConnectionError):
        JsonLines(BreaksOff(path, 500_000), ROW_TOKENS, index_path=ends, store=store).get(np.array([2, 300]))
    nothing = JsonLines(BreaksOff(path, 0), ROW_TOKENS, index_path=ends, store=store)
    np.testing.assert_array_equal(nothing.get(np.array([2])), lines[[2]])  # kept
    known = len(unpack(ends.read_bytes(), ends)[0])
    assert known > 10
    whole = JsonLines(LocalFile(path), ROW_TOKENS, index_path=ends, store=store)
    np.testing.assert_array_equal(whole.get(np.array([300])), lines[[300]])


def test_neighbouring_lines_come_in_requests_of_bounded_size(loopback, amber, lines, monkeypatch):
    first = 100 * AMBER_STRIDE
    amber[first + 60]
    monkeypatch.setattr(rows_module, "PIECE", 50_000)
    loopback.requests.clear()
    np.testing.assert_array_equal(amber[first + 5 : first + 50], lines[5:50])
    assert len(loopback.ranges()) > 5
    assert max(request.sent for request in loopback.ranges()) < 50_000 + 30_000  # and a line


@pytest.mark.parametrize("index", [2.7, [True, False], [-1], [12], "3"])
def test_what_is_no_row_number_is_refused(rows, tmp_path, index):
    (tmp_path / "rows.bin").write_bytes(rows[:12].tobytes())
    with pytest.raises((TypeError, IndexError)):
        FixedRows([LocalFile(tmp_path / "rows.bin")], ROW_TOKENS)[index]


def test_store_refuses_what_it_cannot_keep(tmp_path):
    with pytest.raises(ValueError, match=r"got tokens 1 \.\. 70000"):
        RowStore(tmp_path, 2).add([0], [[1, 70_000]])
    assert not segments(tmp_path)


def test_row_whose_segment_is_merged_while_it_is_read_is_found(tmp_path, monkeypatch):
    ours, theirs = RowStore(tmp_path, 2), RowStore(tmp_path, 2)
    ours.add([1], [[5, 6]])
    look = ours._look

    def look_and_be_overtaken() -> None:
        look()
        monkeypatch.setattr(ours, "_look", look)
        for path in segments(tmp_path):
            path.unlink()
        theirs.add([1, 2], [[5, 6], [7, 8]])

    monkeypatch.setattr(ours, "_look", look_and_be_overtaken)
    rows, here = ours.get([1])
    assert rows.tolist() == [[5, 6]]
    assert here.all()


def test_store_holds_the_numbers_of_its_rows_and_not_the_rows(tmp_path):
    RowStore(tmp_path, 1_000).add(range(500), np.ones((500, 1_000), dtype=int))
    store = RowStore(tmp_path, 1_000)
    store.get([700])
    gc.collect()
    tracemalloc.start()
    store = RowStore(tmp_path, 1_000)
    store.get([700])
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes()
    tracemalloc.stop()
    assert sum(index.nbytes for index in store._indices.values()) == 8 * 500
    assert held < 100_000


def test_line_past_the_end_names_how_many_there_are(amber):
    with pytest.raises(IndexError, match=r"line 400 is past the end of .*train_100.jsonl.*: it has 400 lines"):
        amber[100 * AMBER_STRIDE + 400]
    with pytest.raises(ValueError, match=r"has no train/train_007.jsonl"):
        amber[7 * AMBER_STRIDE]


def test_file_that_is_cut_while_open_is_noticed(tmp_path, rows):
    (tmp_path / "rows.bin").write_bytes(rows[:4].tobytes())
    opened = FixedRows([LocalFile(tmp_path / "rows.bin")], ROW_TOKENS)
    (tmp_path / "rows.bin").write_bytes(rows[:2].tobytes())
    with pytest.raises(DamagedError, match="has been cut since it was opened"):
        opened[3]


def test_repeats_are_counted_over_rows_that_are_fetched_by_the_range(pile, rows):
    queries = rows[100:400:100, 32:96].astype(np.int64)
    fetched = training_data("pythia1b").rows
    np.testing.assert_array_equal(count_repeats(queries, fetched), count_repeats(queries, rows))
    assert len(pile.ranges()) < 200
