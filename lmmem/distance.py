"""Distances between rows of token ids, in batches. Knows neither models nor text."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cpdist

__all__ = ["levenshtein", "matched_prefix"]

MAX_CODE_POINT = 0x10FFFF  # the largest character of a Python string


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
        negative or above 1,114,110.

    Each row becomes a Python string, one character a token, so that the C++ Levenshtein of
    rapidfuzz (the engine of python-Levenshtein) runs on all cores without a Python loop.

    >>> levenshtein([[1, 2, 3, 4]], [[2, 3, 4, 5]])
    array([2], dtype=int32)
    """
    continuations, truth = _tokens(continuations), _tokens(truth)
    if truth.ndim != 2 or continuations.ndim < 2 or continuations.shape[-2] != len(truth):
        raise ValueError(
            f"continuations {continuations.shape} and truth {truth.shape} do not pair: expected (..., n, l) and (n, l')"
        )
    *batch, n, _ = continuations.shape
    repeats = int(np.prod(batch))  # 1 for a single (n, l)
    distances = cpdist(
        _as_strings(continuations),
        _as_strings(truth) * repeats,
        scorer=Levenshtein.distance,
        workers=-1,
        dtype=np.int32,
    )
    return distances.reshape(*batch, n)


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
    if rows.size and (rows.min() < 0 or rows.max() >= MAX_CODE_POINT):
        raise ValueError(f"token ids must lie in 0 .. {MAX_CODE_POINT - 1}, got {rows.min()} .. {rows.max()}")
    return rows


def _as_strings(rows: np.ndarray) -> list[str]:
    """Each row as a string whose characters are the token ids plus one.

    Plus one because numpy drops trailing NULs of fixed-width strings, and 0 is a token.
    """
    width = rows.shape[-1]
    if rows.size == 0:
        return [""] * int(np.prod(rows.shape[:-1]))
    code_points = np.ascontiguousarray(rows.reshape(-1, width).astype(np.uint32) + 1)
    return code_points.view(f"U{width}")[:, 0].tolist()
