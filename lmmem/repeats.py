"""How often a passage recurs in the training data. Knows token ids only.

What it computes, in one line of naive Python::

    [sum(any(q[i:i+n] == r[j:j+n] for i in ... for j in ...) for r in rows) for q in queries]

It streams over the rows once, and looks at few of their windows. Every run of n tokens in a row
holds a whole *block*: w tokens that begin at a multiple of s, where w + s - 1 = n. So only blocks
are hashed, one for every s tokens of a row; around a block that some query holds, too, the s
windows of n tokens are hashed, and those whose hash belongs to a query are compared token by token.
The counts are exact, whatever the hashes do.

A hash is the product of the tokens and random whole numbers, small enough for every sum to be
exact in float64: so a matrix product, the fastest thing a processor does, gives a million of them.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lmmem.storage import DamagedError, write_whole
from lmmem.tokens import MAX_TOKEN, checked_tokens

__all__ = ["count_repeats"]

NGRAM = 30  # tokens; the paper counts rows that share a contiguous run of at least 30
TOKEN_BITS = MAX_TOKEN.bit_length()
READ_TOKENS = 2**24  # read at a time
CHUNK_TOKENS = 2**19  # hashed at a time by each thread
PIECE = 2**16  # blocks or windows compared at a time
KEEP_EVERY = 30  # seconds between two writes of what has been counted


def count_repeats(
    queries: ArrayLike, rows: Any, n: int = NGRAM, *, resume: str | Path | None = None, workers: int | None = None
) -> np.ndarray:
    """Number of rows that share a contiguous run of at least n tokens with each query.

    Parameters
    ----------
    queries : (q, l) token ids, for instance continuations; 100,000 of them are no trouble.
    rows : (m, w) token ids: an array, a memory map, ``training_data("pythia1b").rows``, or anything
        with a length whose slices are such arrays. Read in order, once, in constant memory.
    n : length of the run in tokens, 1 .. min(l, w).
    resume : a file for what has been counted so far, from which an interrupted count goes on.
    workers : threads; None is one a core.

    Returns
    -------
    (q,) int64, counts of rows; a query that is itself one of the rows counts itself.

    Raises
    ------
    ValueError : n does not fit the shapes, an id is negative or above 1,048,575, or `resume` is of
        another count.

    Source: the paper's repeat count (rows that share >= 30 tokens with the sequence).

    >>> count_repeats([[1, 2, 3]], [[0, 1, 2, 9], [2, 1, 3, 2], [1, 2, 3, 4]], n=2)
    array([2])
    """
    queries = np.asarray(queries)
    rows = np.asarray(rows) if isinstance(rows, (list, tuple)) else rows
    head = np.asarray(rows[0 : min(1, len(rows))])
    if queries.ndim != 2 or head.ndim != 2:
        raise ValueError(f"expected two matrices of token ids, got shapes {queries.shape} and {head.shape}")
    longest = min(queries.shape[1], head.shape[1])
    if not 1 <= n <= longest:
        raise ValueError(f"n={n} does not fit: a run of n tokens needs 1 <= n <= {longest} here")
    counts, start = np.zeros(len(queries), dtype=np.int64), 0
    if not len(queries) or not len(rows):
        return counts
    search = _Search(checked_tokens(queries, "queries"), head.shape[1], n)
    state = None if resume is None else _State(Path(resume), queries, head, len(rows), n)
    if state is not None:
        counts, start = state.load(counts)
    written = time.monotonic()
    workers = workers or os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        for block, stop in _blocks(rows, start, head.shape[1]):
            step = max(1, CHUNK_TOKENS // head.shape[1])
            pending: deque[Future[np.ndarray]] = deque()
            for first in range(0, len(block), step):
                pending.append(pool.submit(search.count, block[first : first + step]))
                if len(pending) > 2 * workers:
                    counts += pending.popleft().result()
            counts += sum(found.result() for found in pending)
            if state is not None and (stop == len(rows) or time.monotonic() - written > KEEP_EVERY):
                state.save(counts, stop)
                written = time.monotonic()
    return counts


def _blocks(rows: Any, start: int, width: int) -> Iterator[tuple[np.ndarray, int]]:
    step = max(1, READ_TOKENS // width)
    for first in range(start, len(rows), step):
        stop = min(first + step, len(rows))
        yield np.asarray(rows[first:stop]), stop


class _Search:
    """The queries, ready to be looked for in rows of one width."""

    def __init__(self, queries: np.ndarray, width: int, n: int) -> None:
        self.queries, self.width, self.n = queries.astype(np.int32), width, n
        self.block = (n + 1) // 2  # w
        self.stride = n - self.block + 1  # s
        self.per_row = (width - self.block) // self.stride + 1
        self._hash_windows()
        windows = self.queries.shape[1] - self.block + 1
        block_hashes = self.queries.astype(float) @ _banded(self.block_numbers, windows)
        self.block_hashes = np.unique(block_hashes)
        bits = min(27, max(10, int(np.ceil(np.log2(16 * len(self.block_hashes))))))
        self.shift = np.uint64(64 - bits)
        self.seen = np.zeros(2**bits, dtype=bool)  # a first, coarse answer to whether a hash is among them
        self.seen[self._slot(self.block_hashes)] = True

    def _hash_windows(self) -> None:
        """Numbers under which no two different windows of n tokens have one hash, and who owns which window."""
        n, q = self.n, len(self.queries)
        per_query = self.queries.shape[1] - n + 1
        most = 2 ** (53 - TOKEN_BITS - max(1, int(np.ceil(np.log2(n))))) - 1  # n tokens times it are below 2**53
        for seed in range(100):
            random = np.random.default_rng(seed)
            self.numbers = random.integers(1, most, n).astype(float)
            self.block_numbers = random.integers(1, most, self.block).astype(float)
            hashes = (self.queries.astype(float) @ _banded(self.numbers, per_query)).ravel()
            order = np.argsort(hashes, kind="stable")
            hashes = hashes[order]
            new = np.append(True, hashes[1:] != hashes[:-1])
            same = np.flatnonzero(~new)
            if all(
                (self._windows(order[part]) == self._windows(order[part - 1])).all()
                for part in np.array_split(same, len(same) // PIECE + 1)
            ):
                break
        else:
            raise AssertionError("unreachable: a hundred hashes, and under each two windows collide")
        self.hashes, self.first = hashes[new], order[new]  # a window and where it stands: query * per_query + offset
        slot = np.cumsum(new) - 1
        owners = np.unique(slot * q + order // per_query)  # one (window, query) pair each
        self.owner = owners % q
        self.owner_ends = np.searchsorted(owners // q, np.arange(len(self.hashes)), side="right")

    def _windows(self, places: np.ndarray) -> np.ndarray:
        """Tokens (m, n) of windows of the queries."""
        query, offset = np.divmod(places, self.queries.shape[1] - self.n + 1)
        return self.queries[query[:, None], offset[:, None] + np.arange(self.n)]

    def _slot(self, hashes: np.ndarray) -> np.ndarray:
        return (hashes.astype(np.int64).view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> self.shift

    def count(self, rows: np.ndarray) -> np.ndarray:
        """For each query, how many of these rows share a window with it: (q,) int64."""
        checked_tokens(rows, "rows")
        hits = self._hits(rows)
        found = [self._matches(rows, part) for part in np.array_split(hits, len(hits) // PIECE + 1)]
        pairs = np.unique(np.concatenate(found))  # one (window, row) each
        slot, row = np.divmod(pairs, len(rows))
        begins = np.append(0, self.owner_ends)[slot]
        sizes = self.owner_ends[slot] - begins
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        query = self.owner[np.repeat(begins, sizes) + within]
        once = np.unique(query * len(rows) + np.repeat(row, sizes))
        return np.bincount(once // len(rows), minlength=len(self.queries))

    def _hits(self, rows: np.ndarray) -> np.ndarray:
        """Blocks (row * per_row + block) whose hash is that of w tokens of a query."""
        tokens = np.zeros((len(rows), self.per_row * self.stride))
        known = min(self.width, tokens.shape[1])
        tokens[:, :known] = rows[:, :known]
        numbers = np.append(self.block_numbers, np.zeros(self.stride - self.block))  # w is s or s - 1
        hashes = tokens.reshape(-1, self.stride) @ numbers
        hits = np.flatnonzero(self.seen[self._slot(hashes)])
        place = np.searchsorted(self.block_hashes, hashes[hits]).clip(max=len(self.block_hashes) - 1)
        return hits[self.block_hashes[place] == hashes[hits]]

    def _matches(self, rows: np.ndarray, hits: np.ndarray) -> np.ndarray:
        """Windows around these blocks that are a query's: (window * len(rows) + row)."""
        row, block = np.divmod(hits, self.per_row)
        begin = block * self.stride - (self.n - self.block)  # of the first window that holds the block
        offset = begin[:, None] + np.arange(self.n + self.stride - 1)
        around = rows[row[:, None], offset.clip(0, self.width - 1)]
        hashes = around.astype(float) @ _banded(self.numbers, self.stride)
        slot = np.searchsorted(self.hashes, hashes).clip(max=len(self.hashes) - 1)
        windows = begin[:, None] + np.arange(self.stride)
        inside = (windows >= 0) & (windows <= self.width - self.n)
        hit, window = np.nonzero((self.hashes[slot] == hashes) & inside)
        found = []
        for part in np.array_split(np.arange(len(hit)), len(hit) // PIECE + 1):
            h, s = hit[part], slot[hit[part], window[part]]
            tokens = around[h[:, None], window[part][:, None] + np.arange(self.n)]
            same = (tokens == self._windows(self.first[s])).all(axis=1)
            found.append(np.unique(s[same] * len(rows) + row[h[same]]))
        return np.concatenate(found)


def _banded(numbers: np.ndarray, windows: int) -> np.ndarray:
    """(len(numbers) + windows - 1, windows): the matrix that gives the hash of every window of a row."""
    matrix = np.zeros((len(numbers) + windows - 1, windows))
    for window in range(windows):
        matrix[window : window + len(numbers), window] = numbers
    return matrix


class _State:
    """What has been counted so far, on disk."""

    def __init__(self, path: Path, queries: np.ndarray, head: np.ndarray, rows: int, n: int) -> None:
        self.path = path
        known = [queries.astype(np.int64), head.astype(np.int64), np.array([queries.shape[1], rows, n])]
        self.digest = hashlib.sha256(b"".join(part.tobytes() for part in known)).hexdigest()

    def load(self, counts: np.ndarray) -> tuple[np.ndarray, int]:
        if not self.path.exists():
            return counts, 0
        try:
            with open(self.path, "rb") as file, np.load(file) as kept:
                digest, done, found = str(kept["digest"]), int(kept["done"]), kept["counts"]
        except Exception as error:  # whatever a damaged archive makes zipfile or numpy raise
            raise DamagedError(f"{self.path} is damaged or no count of lmmem ({error}): delete it") from error
        if digest != self.digest:
            raise ValueError(f"{self.path} is of other queries, other rows or another n: delete it, or name another")
        return found, done

    def save(self, counts: np.ndarray, done: int) -> None:
        with write_whole(self.path) as part, open(part, "wb") as file:
            np.savez(file, counts=counts, done=done, digest=self.digest)
