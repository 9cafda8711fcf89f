"""How often a passage recurs in training data: exact counts of rows that share a run of tokens with it.

What it computes, in one line of naive Python::

    [sum(any(q[i:i+n] == r[j:j+n] for i in ... for j in ...) for r in rows) for q in queries]

Page 01 counts with it what nobody has counted before. It reads the rows once, in order, gives every
window of n tokens a hash, and compares token by token those whose hash belongs to a query.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse import csgraph

from lmmem.measures.tokens import checked_tokens

__all__ = ["NGRAM", "WindowSearch", "count_repeats", "read_in_order", "shared_text"]

NGRAM = 30  # tokens; the paper counts rows that share a contiguous run of at least 30
READ_TOKENS = 2**24  # read at a time
CHUNK_TOKENS = 2**18  # hashed at a time
BASE = int(np.random.default_rng(0).integers(2**61, 2**62)) * 2 + 1  # of the hash: any odd number of 64 bits


def count_repeats(queries: ArrayLike, rows: Any, n: int = NGRAM) -> np.ndarray:
    """Number of rows that share a contiguous run of at least n tokens with each query.

    Parameters
    ----------
    queries : (q, l) token ids, for instance continuations; 100,000 of them are no trouble.
    rows : (m, w) token ids: an array, a memory map, ``training_data("pythia1b").rows``, or anything
        with a length whose slices are such arrays. Read in order, once, in constant memory.
    n : length of the run in tokens, 1 .. min(l, w).

    Returns
    -------
    (q,) int64, counts of rows; a query that is itself one of the rows counts itself.

    Raises
    ------
    ValueError : n does not fit the shapes, or an id is negative or above 1,048,575.

    Source: the paper's repeat count (rows that share >= 30 tokens with the sequence).

    >>> count_repeats([[1, 2, 3]], [[0, 1, 2, 9], [2, 1, 3, 2], [1, 2, 3, 4]], n=2)
    array([2])
    """
    queries = np.asarray(queries)
    rows = np.asarray(rows) if isinstance(rows, (list, tuple)) else rows
    head = np.asarray(rows[0 : min(1, len(rows))])
    if queries.ndim != 2 or head.ndim != 2:
        raise ValueError(f"expected two matrices of token ids, got shapes {queries.shape} and {head.shape}")
    width, longest = head.shape[1], min(queries.shape[1], head.shape[1])
    if not 1 <= n <= longest:
        raise ValueError(f"n={n} does not fit: a run of n tokens needs 1 <= n <= {longest} here")
    counts = np.zeros(len(queries), dtype=np.int64)
    if not len(queries) or not len(rows):
        return counts
    search = WindowSearch(checked_tokens(queries, "queries"), n)
    for _, there in read_in_order(rows, range(len(rows)), width):
        counts += search.count(there)
    return counts


def shared_text(rows: ArrayLike, n: int = NGRAM) -> np.ndarray:
    """Which rows are of one text: those that share a run of at least n tokens, and those that share one with these.

    Parameters
    ----------
    rows : (q, l) token ids, for instance continuations.
    n : length of the run in tokens, 1 .. l.

    Returns
    -------
    (q,) int32, a label that rows of one text share: 0, 1 ..

    Raises
    ------
    ValueError : as for :func:`count_repeats`.

    >>> shared_text([[1, 2, 3], [9, 8, 7], [5, 2, 3], [4, 5, 2]], n=2)
    array([0, 1, 0, 0], dtype=int32)
    """
    rows = np.asarray(rows)
    if rows.ndim != 2 or not 1 <= n <= rows.shape[1]:
        raise ValueError(f"n={n} does not fit rows of shape {rows.shape}: a run of n tokens needs 1 <= n <= l")
    if not len(rows):
        return np.empty(0, dtype=np.int32)
    holds = WindowSearch(checked_tokens(rows, "rows"), n).held_by  # window, row
    return csgraph.connected_components(holds.T @ holds, directed=False)[1]


def read_in_order(rows: Any, numbers: range, width: int) -> Iterator[tuple[int, np.ndarray]]:
    """Rows one after another, some at a time: the number of the first, and their tokens.

    Parameters
    ----------
    rows : (m, w) token ids, as for :func:`count_repeats`.
    numbers : which, one after another.
    width : w.

    Raises
    ------
    ValueError : a row holds what is no token id.

    >>> [(first, len(some)) for first, some in read_in_order(np.zeros((9, 4), dtype=int), range(2, 9), 4)]
    [(2, 7)]
    """
    read, hashed = max(1, READ_TOKENS // width), max(1, CHUNK_TOKENS // width)
    for first in range(numbers.start, numbers.stop, read):
        there = checked_tokens(rows[first : min(first + read, numbers.stop)], "rows")
        for at in range(0, len(there), hashed):
            yield first + at, there[at : at + hashed]


class WindowSearch:
    """The windows of n tokens of queries, ready to be looked for in rows, and compared token by token.

    Parameters
    ----------
    queries : (q, l) token ids.
    n : tokens of a window, 1 .. l.

    Attributes
    ----------
    window : (q * (l - n + 1),) int64, of each window of each query, in order, its number: equal windows have one.
    windows : how many different ones there are.

    >>> search = WindowSearch(np.array([[1, 2, 3, 1, 2]]), 2)
    >>> search.window.tolist(), search.windows
    ([0, 1, 2, 0], 3)
    >>> [found.tolist() for found in search.find(np.array([[9, 1, 2], [2, 3, 1]]))]
    [[0, 1, 1], [1, 0, 1], [0, 1, 2]]
    """

    def __init__(self, queries: np.ndarray, n: int) -> None:
        self.tokens, self.n = queries.ravel(), n
        q, per_query = len(queries), queries.shape[1] - n + 1
        starts = (np.arange(q)[:, None] * queries.shape[1] + np.arange(per_query)).ravel()
        hashes, self.window = _hashes(queries, n).ravel(), np.empty(len(starts), np.int64)
        # Different windows of one hash are in different layers: nearly always there is one layer.
        self.layers: list[tuple[int, np.ndarray, np.ndarray]] = []  # its first window, its hashes, ascending, starts
        left, self.windows = np.arange(len(starts)), 0
        while len(left):
            known, first, place = np.unique(hashes[left], return_index=True, return_inverse=True)
            begin = starts[left[first]]
            same = _same(self.tokens, starts[left], self.tokens, begin[place], n)
            self.window[left[same]] = self.windows + place[same]
            self.layers.append((self.windows, known, begin))
            left, self.windows = left[~same], self.windows + len(known)
        query = np.arange(len(starts)) // per_query
        shape = self.windows, q
        ones = np.ones(len(query), np.int32)
        self.held_by = sparse.csr_array((ones, (self.window, query)), shape=shape)  # window, query
        bits = min(27, max(10, int(16 * self.windows).bit_length()))
        self.shift = np.uint64(64 - bits)
        self.seen = np.zeros(2**bits, dtype=bool)  # a first, coarse answer to whether a hash is among them
        self.seen[hashes >> self.shift] = True

    def find(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where these rows (m, w) hold a window: row, offset and number of the window, ordered by row and offset."""
        hashes = _hashes(rows, self.n)
        row, offset = np.nonzero(self.seen[hashes >> self.shift])
        wanted, tokens, found = hashes[row, offset], rows.ravel(), []
        for before, known, starts in self.layers:
            place = np.searchsorted(known, wanted).clip(max=len(known) - 1)
            alike = np.flatnonzero(known[place] == wanted)
            place = place[alike]
            same = _same(tokens, row[alike] * rows.shape[1] + offset[alike], self.tokens, starts[place], self.n)
            found.append((alike[same], before + place[same]))
        at, window = (np.concatenate(side) for side in zip(*found, strict=True))
        order = np.argsort(at, kind="stable")  # of one layer it is ascending already, and quick
        return row[at[order]], offset[at[order]], window[order]

    def count(self, rows: np.ndarray) -> np.ndarray:
        """For each query, how many of these rows share a window with it: (q,) int64."""
        row, _, window = self.find(rows)
        holds = sparse.csr_array((np.ones(len(row), np.int32), (row, window)), shape=(len(rows), self.windows))
        return np.bincount((holds @ self.held_by).indices, minlength=self.held_by.shape[1])


def _hashes(rows: np.ndarray, n: int) -> np.ndarray:
    """A number of 64 bits for each window of n tokens: (m, w) -> (m, w - n + 1).

    The sum of token j of the window times b^j, modulo 2^64, for an odd b: as differences of one
    running sum, which an odd b allows to be divided by its powers. Whatever b and the tokens are, some different
    windows share one: the Thue-Morse sequence of two tokens and its complement, from 1,024 on.
    """
    width = rows.shape[1]
    powers, inverses = (np.cumprod(np.array([1] + [b] * (width - 1), np.uint64)) for b in (BASE, pow(BASE, -1, 2**64)))
    sums = np.zeros((len(rows), width + 1), np.uint64)
    np.cumsum((rows.astype(np.uint64) + np.uint64(1)) * powers, axis=1, out=sums[:, 1:])
    return (sums[:, n:] - sums[:, :-n]) * inverses[: width - n + 1]


def _same(a: np.ndarray, starts: np.ndarray, b: np.ndarray, others: np.ndarray, n: int) -> np.ndarray:
    """Whether the n tokens of a from each of `starts` on are those of b from its partner in `others` on."""
    same = np.ones(len(starts), dtype=bool)
    for j in range(n):
        same &= a[starts + j] == b[others + j]
    return same
