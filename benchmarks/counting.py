"""Repeats and distances, beside what a user would pick instead."""

from __future__ import annotations

import tempfile
from pathlib import Path

import Levenshtein
import numba
import numpy as np
import pydivsufsort

from benchmarks.measure import Row, in_own_process, side_by_side
from lmmem.measures.distance import levenshtein
from lmmem.measures.repeats import count_repeats

N, L, W = 30, 64, 2_049


@numba.njit(cache=False, parallel=True)
def _dynamic_programme(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    n, length = a.shape
    found = np.empty(n, np.int32)
    for k in numba.prange(n):
        line = np.arange(length + 1)
        for i in range(length):
            diagonal = line[0]
            line[0] = i + 1
            for j in range(length):
                above = line[j + 1]
                cost = diagonal + (a[k, i] != b[k, j])
                line[j + 1] = min(cost, above + 1, line[j] + 1)
                diagonal = above
        found[k] = line[length]
    return found


def distance_rows(n: int = 20_000, runs: int = 5) -> list[Row]:
    """64-token Levenshtein of pairs that share a third of their tokens, as continuations do."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 50_000, (n, L))
    said = np.where(rng.random((n, L)) < 1 / 3, truth, rng.integers(0, 50_000, (n, L)))

    def loop() -> list[int]:
        return [Levenshtein.distance(a, b) for a, b in zip(said.tolist(), truth.tolist(), strict=True)]

    assert loop() == levenshtein(said, truth).tolist() == _dynamic_programme(said, truth).tolist()
    return [
        side_by_side(f"{n:,} distances of 64 tokens", lambda: levenshtein(said, truth), other, work, runs=runs)
        for other, work in (
            ("python-Levenshtein in a loop", loop),
            ("a dynamic programme in numba, all cores", lambda: _dynamic_programme(said, truth)),
        )
    ]


def all_pairs(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """As published, by its definition: every query against every row, the longest common run of the two."""
    return _all_pairs(queries, rows, N)


@numba.njit(cache=False, parallel=True)
def _all_pairs(queries: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
    found = np.zeros(len(queries), np.int64)
    for q in numba.prange(len(queries)):
        for r in range(len(rows)):
            best = 0
            for shift in range(1 - queries.shape[1], rows.shape[1]):
                run = 0
                for i in range(max(0, -shift), min(queries.shape[1], rows.shape[1] - shift)):
                    run = run + 1 if queries[q, i] == rows[r, i + shift] else 0
                    best = max(best, run)
            found[q] += best >= n
    return found


def suffix_array(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """With a suffix array of the rows: the rows of every occurrence of every window of a query."""
    width = rows.shape[1]
    text = np.ascontiguousarray(np.concatenate([rows, np.full((len(rows), 1), 65_535)], axis=1).astype(np.uint16))
    flat = text.ravel().view(np.uint8)  # the library searches bytes; a token is two
    array = pydivsufsort.divsufsort(flat)
    counts = []
    for query in queries.astype(np.uint16).view(np.uint8):
        found: set[int] = set()
        for i in range(0, len(query) - 2 * N + 1, 2):
            number, first = pydivsufsort.sa_search(flat, array, query[i : i + 2 * N].copy())
            if number:
                places = array[first : first + number]
                found |= set((places[places % 2 == 0] // (2 * width + 2)).tolist())
        counts.append(len(found))
    return np.array(counts)


def corpus_like(n: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of random tokens, of which some share passages, as those of a corpus do."""
    rows = rng.integers(0, 50_000, (n, W), dtype=np.uint16)
    passages = rng.integers(0, 50_000, (50, 64), dtype=np.uint16)
    for row in rng.choice(n, n // 5, replace=False):
        at = rng.integers(0, W - 64)
        rows[row, at : at + 64] = passages[rng.integers(50)]
    rows[: len(passages), :64] = passages
    return rows


def repeat_rows(runs: int = 3) -> list[Row]:
    """Counting rows that share 30 tokens with a query."""
    rng = np.random.default_rng(0)
    few, some = corpus_like(200, rng), corpus_like(2_000, rng)
    queries = some[:200, :64].astype(np.int64)
    expected = all_pairs(few[:50, :64].astype(np.int64), few)
    assert (count_repeats(few[:50, :64], few) == expected).all()
    assert (count_repeats(queries, some) == suffix_array(queries, some)).all()
    return [
        side_by_side(
            "repeats of 50 queries in 0.4 million tokens",
            lambda: count_repeats(few[:50, :64], few),
            "every pair, as published, in numba on all cores",
            lambda: all_pairs(few[:50, :64].astype(np.int64), few),
            runs=runs,
        ),
        side_by_side(
            "repeats of 200 queries in 4 million tokens",
            lambda: count_repeats(queries, some),
            "a suffix array (pydivsufsort)",
            lambda: suffix_array(queries, some),
            runs=runs,
        ),
    ]


SCALE = """
import json, sys, time
import numpy as np
from benchmarks.measure import peak_mb
from lmmem.measures.repeats import count_repeats
path, rows, queries = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
corpus = np.memmap(path, np.uint16, "r", shape=(rows, 2049))
chosen = np.random.default_rng(1).integers(0, 50_000, (queries, 64))
few = min(queries, rows) // 2
chosen[:few] = corpus[:: max(1, rows // few)][:few, 32:96]
with peak_mb() as peak:
    start = time.perf_counter()
    counts = count_repeats(chosen, corpus)
    seconds = time.perf_counter() - start
assert (counts[:few] >= 1).all() and counts[few:].sum() == 0
print(json.dumps({"rows": rows, "queries": queries, "seconds": seconds, "peak_mb": round(peak[0])}))
"""


def repeats_at_scale(rows: int = 1_000_000) -> list[dict[str, float]]:
    """Seconds and peak memory against the size of the corpus (4 GB at most) and the number of queries."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.bin"
        rng = np.random.default_rng(0)
        with open(path, "wb") as file:
            for first in range(0, rows, 10_000):
                file.write(corpus_like(min(10_000, rows - first), rng).tobytes())
        found = []
        for share, queries in ((8, 51_200), (4, 51_200), (2, 51_200), (1, 51_200), (8, 6_400), (8, 102_400)):
            line = in_own_process(SCALE, path, rows // share, queries)
            found.append(line | {"tokens_per_s": round(line["rows"] * W / line["seconds"])})
        return found
