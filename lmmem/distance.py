"""Distances between rows of token ids, in batches. Knows neither models nor text.

The Levenshtein distance of two rows is the last entry of a table: the distances between the first
i tokens of one and the first j of the other. Neighbours differ by at most 1, so two 64-bit words
hold 64 entries of a column, where it rises and where it falls, and a handful of operations on them
gives the next column (Myers, J. ACM 46:395, 1999). Here each operation is done for 32 pairs of rows
at a time, which a processor does by the vector.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from numpy.typing import ArrayLike

from lmmem.tokens import checked_tokens

__all__ = ["levenshtein", "matched_prefix"]

PAIRS_PER_THREAD = 1_000  # fewer, of 64 tokens, are done before a thread has started
WORD = 64  # bits of a word
LANES = 32  # pairs side by side

# As words: numba makes a float of an unsigned and a signed number.
ZERO, ONE, ALL = np.uint64(0), np.uint64(1), np.uint64(2**64 - 1)


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
    continuations, truth = checked_tokens(continuations, "continuations"), checked_tokens(truth, "truth")
    if truth.ndim != 2 or continuations.ndim < 2 or continuations.shape[-2] != len(truth):
        raise ValueError(
            f"continuations {continuations.shape} and truth {truth.shape} do not pair: expected (..., n, l) and (n, l')"
        )
    distances = np.empty(continuations.shape[:-1], np.int32)
    a = np.ascontiguousarray(continuations, np.int32).reshape(distances.size, continuations.shape[-1])
    b = np.ascontiguousarray(truth, np.int32).view()
    a.flags.writeable = b.flags.writeable = False  # always: for each mixture numba would compile again
    threads = min(os.cpu_count() or 1, len(a) // PAIRS_PER_THREAD + 1)
    bounds = np.linspace(0, len(a), threads + 1).astype(int)

    largest = max(a.max(initial=0), b.max(initial=0))
    size = 2 ** int(largest).bit_length()  # a table of MB takes the system 15 ms now and then

    def share(first: int, last: int) -> None:
        _levenshtein(a, b, first, last, np.zeros(size, np.uint64), distances.reshape(-1))

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
    continuations, truth = checked_tokens(continuations, "continuations"), checked_tokens(truth, "truth")
    if continuations.shape != truth.shape:
        raise ValueError(f"continuations {continuations.shape} and truth {truth.shape} must have one shape")
    return np.cumprod(continuations == truth, axis=-1).sum(axis=-1)


@numba.njit(nogil=True)  # not cache=True, which fails where neither the package nor the home can be written
def _levenshtein(a: np.ndarray, b: np.ndarray, first: int, last: int, places: np.ndarray, found: np.ndarray) -> None:
    """found[i] of a[i] and b[i % len(b)] for first <= i < last; `places` holds zeros for all ids, a power of two.

    From top to bottom the table is done in strips of 64 tokens of a, each from left to right along b.
    """
    l, m, mask = a.shape[1], b.shape[1], len(places) - 1
    same = np.empty((m, LANES), np.uint64)  # bit i of same[j, k]: is token i of the strip of pair k's a its b's token j
    # Do neighbours in the table differ by +1, by -1: downwards in a column; rightwards in the last row above the strip.
    down_plus, down_minus = np.empty(LANES, np.uint64), np.empty(LANES, np.uint64)
    right_plus, right_minus = np.empty((m, LANES), np.uint8), np.empty((m, LANES), np.uint8)
    for start in range(first, last, LANES):
        lanes = min(LANES, last - start)
        right_plus[:], right_minus[:] = 1, 0  # the first row of the table: 0, 1, 2, ...
        for top in range(0, l, WORD):
            height = min(WORD, l - top)
            bottom = np.uint64(height - 1)
            down_plus[:], down_minus[:] = ALL, ZERO  # the first column of the table: 0, 1, 2, ...
            for k in range(lanes):  # a mask changes no id; it keeps in bounds what others may write meanwhile
                x, y = a[start + k, top : top + height], b[(start + k) % len(b)]
                for i in range(height):
                    places[x[i] & mask] |= ONE << np.uint64(i)
                for j in range(m):
                    same[j, k] = places[y[j] & mask]
                for i in range(height):
                    places[x[i] & mask] = ZERO
            for j in range(m):
                for k in range(LANES):
                    above_plus, above_minus = np.uint64(right_plus[j, k]), np.uint64(right_minus[j, k])
                    dp, dm = down_plus[k], down_minus[k]
                    equal = same[j, k] | above_minus
                    diagonal = (((equal & dp) + dp) ^ dp) | equal
                    rp, rm = dm | ~(diagonal | dp), dp & diagonal
                    right_plus[j, k], right_minus[j, k] = (rp >> bottom) & ONE, (rm >> bottom) & ONE
                    rp, rm = (rp << ONE) | above_plus, (rm << ONE) | above_minus
                    down_plus[k], down_minus[k] = rm | ~(equal | dm | rp), rp & (equal | dm)
        for k in range(lanes):  # down the first column, then along the last row
            found[start + k] = l + np.int64(right_plus[:, k].sum()) - np.int64(right_minus[:, k].sum())
