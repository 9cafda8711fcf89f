"""How often a passage recurs in the training data. Knows token ids only.

What it computes, in one line of naive Python::

    [sum(any(q[i:i+n] == r[j:j+n] for i in ... for j in ...) for r in rows) for q in queries]

It streams over the rows once: every window of n tokens gets a 64-bit rolling hash, windows whose
hash belongs to a query are compared token by token, and distinct (query, row) pairs are counted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["count_repeats"]

NGRAM = 30  # tokens; the paper counts rows that share a contiguous run of at least 30
CHUNK_WINDOWS = 2_000_000  # windows hashed at a time: about 100 MB, whatever the corpus


def count_repeats(queries: ArrayLike, rows: ArrayLike, n: int = NGRAM) -> np.ndarray:
    """Number of rows that share a contiguous run of at least n tokens with each query.

    Parameters
    ----------
    queries : (q, l) integers, for instance continuations.
    rows : (m, w) integers, for instance a memory-mapped corpus; read in chunks.
    n : length of the run in tokens, 1 .. min(l, w).

    Returns
    -------
    (q,) int64, counts of rows; a query that is itself one of the rows counts itself.

    Raises
    ------
    ValueError : n does not fit the shapes.

    Source: the paper's repeat count (rows that share >= 30 tokens with the sequence).

    >>> count_repeats([[1, 2, 3]], [[0, 1, 2, 9], [2, 1, 3, 2], [1, 2, 3, 4]], n=2)
    array([2])
    """
    queries = np.asarray(queries)
    rows = rows if isinstance(rows, np.ndarray) else np.asarray(rows)
    if queries.ndim != 2 or rows.ndim != 2:
        raise ValueError(f"expected two matrices of token ids, got shapes {queries.shape} and {rows.shape}")
    longest = min(queries.shape[1], rows.shape[1])
    if not 1 <= n <= longest:
        raise ValueError(f"n={n} does not fit: a run of n tokens needs 1 <= n <= {longest} here")

    windows, owner, hashes, base = _query_windows(queries, n)
    order = np.argsort(hashes, kind="stable")
    hashes, windows, owner = hashes[order], windows[order], owner[order]
    distinct, first, size = np.unique(hashes, return_index=True, return_counts=True)

    counts = np.zeros(len(queries), dtype=np.int64)
    step = max(1, CHUNK_WINDOWS // (rows.shape[1] - n + 1))
    for start in range(0, len(rows), step):
        chunk = np.asarray(rows[start : start + step])
        chunk_hashes = _window_hashes(chunk, n, base)
        slot = np.minimum(np.searchsorted(distinct, chunk_hashes), len(distinct) - 1)
        row, offset = np.nonzero(distinct[slot] == chunk_hashes)
        slot = slot[row, offset]
        found = chunk[row[:, None], offset[:, None] + np.arange(n)]
        same = (found == windows[first[slot]]).all(axis=1)
        hits = np.unique(slot[same] * len(chunk) + row[same])  # one (window, row) pair each
        slot, row = hits // len(chunk), hits % len(chunk)
        # Every query that owns the window is paired with the row.
        pair_row = np.repeat(row, size[slot])
        within = np.arange(size[slot].sum()) - np.repeat(np.cumsum(size[slot]) - size[slot], size[slot])
        pair_query = owner[np.repeat(first[slot], size[slot]) + within]
        pairs = np.unique(pair_query * len(chunk) + pair_row)
        counts += np.bincount(pairs // len(chunk), minlength=len(queries))
    return counts


def _query_windows(queries: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """All windows of the queries, their query, their hash, and a base that tells them apart."""
    windows = np.lib.stride_tricks.sliding_window_view(queries, n, axis=1)
    owner = np.repeat(np.arange(len(queries)), windows.shape[1])
    windows = windows.reshape(-1, n)
    for base in range(0x9E3779B97F4A7C15, 2**64, 2):  # odd, so invertible modulo 2**64
        hashes = _window_hashes(queries, n, base).ravel()
        order = np.argsort(hashes, kind="stable")
        neighbours = hashes[order][1:] == hashes[order][:-1]
        if (windows[order][1:][neighbours] == windows[order][:-1][neighbours]).all():
            return windows, owner, hashes, base
    raise AssertionError("unreachable: no base separates the windows")


def _window_hashes(rows: np.ndarray, n: int, base: int) -> np.ndarray:
    """Polynomial hash modulo 2**64 of every window of n tokens: (m, w) -> (m, w - n + 1) uint64."""
    width = rows.shape[1]
    inverse = pow(base, -1, 2**64)
    powers = np.array([pow(inverse, i, 2**64) for i in range(width)], dtype=np.uint64)
    shifts = np.array([pow(base, i, 2**64) for i in range(width - n + 1)], dtype=np.uint64)
    mixed = (rows.astype(np.uint64) + np.uint64(1)) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(31)
    sums = np.cumsum(mixed * powers, axis=1, dtype=np.uint64)
    sums = np.concatenate([np.zeros((len(rows), 1), np.uint64), sums], axis=1)
    return (sums[:, n:] - sums[:, :-n]) * shifts
