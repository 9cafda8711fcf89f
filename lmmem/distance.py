"""Distances between rows of token ids, in batches. Knows neither models nor text.

The Levenshtein distance of two rows is the last entry of a table of sums, of which each differs
from its neighbours by at most 1. So 64 x 64 entries fit in a few 64-bit words, and a column of a
tile takes a handful of operations on them (Myers, J. ACM 46:395, 1999; in tiles, Hyyrö, 2003). Here
each operation is done for 32 pairs of rows at a time, which processors do by the vector.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from numpy.typing import ArrayLike

__all__ = ["levenshtein", "matched_prefix"]

MAX_TOKEN = 2**20 - 1  # a thread holds a word for each id up to the largest: 8 MB at most
PAIRS_PER_THREAD = 1_000  # fewer are done before a thread has started
TILE = 64  # bits of a word
LANES = 32  # pairs side by side

# As words: numba makes a float of an unsigned and a signed number.
NONE, ONE, ALL = np.uint64(0), np.uint64(1), np.uint64(2**64 - 1)


def levenshtein(continuations: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """Fewest insertions, deletions and substitutions of tokens that turn each row into its partner.

    Parameters
    ----------
    continuations : (n, l) integers, or (..., n, l) to be held against the same truth.
    truth : (n, l') integers.

    Returns
    -------
    (..., n) int32, in tokens, from 0 to max(l, l').

    Raises
    ------
    ValueError : the numbers of rows differ, an array is no matrix of integers, or an id is
        negative or above 1,048,575.

    The first call in a process takes about a second more: numba compiles the loop.

    >>> levenshtein([[1, 2, 3, 4]], [[2, 3, 4, 5]])
    array([2], dtype=int32)
    """
    continuations, truth = _tokens(continuations), _tokens(truth)
    if truth.ndim != 2 or continuations.ndim < 2 or continuations.shape[-2] != len(truth):
        raise ValueError(
            f"continuations {continuations.shape} and truth {truth.shape} do not pair: expected (..., n, l) and (n, l')"
        )
    distances = np.empty(continuations.shape[:-1], np.int32)
    a = np.ascontiguousarray(continuations, np.int32).reshape(distances.size, continuations.shape[-1])
    b = np.ascontiguousarray(truth, np.int32)
    vocabulary = int(max(a.max(initial=0), b.max(initial=0))) + 1
    threads = min(os.cpu_count() or 1, len(a) // PAIRS_PER_THREAD + 1)
    bounds = np.linspace(0, len(a), threads + 1).astype(int)

    def share(first: int, last: int) -> None:
        _levenshtein(a, b, first, last, np.zeros(vocabulary, np.uint64), distances.reshape(-1))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(share, bounds[:-1], bounds[1:]))
    return distances


def matched_prefix(continuations: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """Number of leading tokens that agree; the full length l for identical rows.

    Parameters
    ----------
    continuations, truth : (n, l) integers.

    Returns
    -------
    (n,) int64, in tokens, from 0 to l.

    Raises
    ------
    ValueError : the shapes differ.

    >>> matched_prefix([[1, 2, 3], [1, 2, 3]], [[1, 2, 9], [1, 2, 3]])
    array([2, 3])
    """
    continuations, truth = _tokens(continuations), _tokens(truth)
    if continuations.shape != truth.shape:
        raise ValueError(f"continuations {continuations.shape} and truth {truth.shape} must have one shape")
    return np.cumprod(continuations == truth, axis=-1).sum(axis=-1)


def _tokens(rows: ArrayLike) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim < 2 or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"expected rows of integer token ids, got shape {rows.shape} of {rows.dtype}")
    if rows.size and (rows.min() < 0 or rows.max() > MAX_TOKEN):
        raise ValueError(f"token ids must lie in 0 .. {MAX_TOKEN}, got {rows.min()} .. {rows.max()}")
    return rows


@numba.njit(nogil=True)  # not cache=True, which fails where neither the package nor the home can be written
def _levenshtein(a: np.ndarray, b: np.ndarray, first: int, last: int, places: np.ndarray, found: np.ndarray) -> None:
    """found[i] of a[i] and b[i % len(b)] for first <= i < last; `places` holds a zero for each id."""
    l, m = a.shape[1], b.shape[1]
    columns = (m + TILE - 1) // TILE
    same = np.empty((TILE, LANES), np.uint64)  # bit i of same[j, k]: is token i of pair k's a the token j of its b
    # Which neighbours in the table differ by +1, by -1: downwards within a column, rightwards along a tile's last row.
    down_plus, down_minus = np.empty(LANES, np.uint64), np.empty(LANES, np.uint64)
    right_plus, right_minus = np.empty((columns, LANES), np.uint64), np.empty((columns, LANES), np.uint64)
    for start in range(first, last, LANES):
        lanes = min(LANES, last - start)
        right_plus[:], right_minus[:] = ALL, NONE  # above the first row of tiles: 0, 1, 2, ...
        for top in range(0, l, TILE):
            height = min(TILE, l - top)
            bottom = np.uint64(height - 1)
            down_plus[:], down_minus[:] = ALL, NONE  # left of the first tile: 0, 1, 2, ...
            for column in range(columns):
                left = column * TILE
                width = min(TILE, m - left)
                for k in range(lanes):
                    x, y = a[start + k, top : top + height], b[(start + k) % len(b), left : left + width]
                    for i in range(height):
                        places[x[i]] |= ONE << np.uint64(i)
                    for j in range(width):
                        same[j, k] = places[y[j]]
                    for i in range(height):
                        places[x[i]] = NONE
                for j in range(width):
                    at = np.uint64(j)
                    for k in range(LANES):
                        equal, dp, dm = same[j, k], down_plus[k], down_minus[k]
                        above_plus = (right_plus[column, k] >> at) & ONE
                        above_minus = (right_minus[column, k] >> at) & ONE
                        kept = equal | dm
                        equal |= above_minus
                        diagonal = (((equal & dp) + dp) ^ dp) | equal
                        rp, rm = dm | ~(diagonal | dp), dp & diagonal
                        right_plus[column, k] ^= (above_plus ^ ((rp >> bottom) & ONE)) << at
                        right_minus[column, k] ^= (above_minus ^ ((rm >> bottom) & ONE)) << at
                        rp, rm = (rp << ONE) | above_plus, (rm << ONE) | above_minus
                        down_plus[k], down_minus[k] = rm | ~(kept | rp), rp & kept
        for k in range(lanes):
            distance = l  # down the first column, then along the last row
            for j in range(m):
                at = np.uint64(j % TILE)
                distance += np.int64((right_plus[j // TILE, k] >> at) & ONE)
                distance -= np.int64((right_minus[j // TILE, k] >> at) & ONE)
            found[start + k] = distance
