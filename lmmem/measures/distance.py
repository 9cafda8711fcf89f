"""How far apart two rows of token ids are: the paper's distance, and how long they agree.

Every measurement ends here. The distance is rapidfuzz's, the engine of python-Levenshtein, which
compares strings in batches and on all cores: a row becomes a string, one character a token.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cpdist

from lmmem.measures.tokens import checked_tokens

__all__ = ["levenshtein", "matched_prefix"]


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

    >>> levenshtein([[1, 2, 3, 4]], [[2, 3, 4, 5]])
    array([2], dtype=int32)
    """
    continuations, truth = checked_tokens(continuations, "continuations"), checked_tokens(truth, "truth")
    if truth.ndim != 2 or continuations.ndim < 2 or continuations.shape[-2] != len(truth):
        raise ValueError(
            f"continuations {continuations.shape} and truth {truth.shape} do not pair: expected (..., n, l) and (n, l')"
        )
    *batch, n, _ = continuations.shape
    said, true = _as_strings(continuations), _as_strings(truth) * int(np.prod(batch))
    return cpdist(said, true, scorer=Levenshtein.distance, workers=-1, dtype=np.int32).reshape(*batch, n)


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


def _as_strings(rows: np.ndarray) -> list[str]:
    """Each row as a string of the characters numbered by its ids plus one: numpy drops trailing zeros, a token."""
    width = rows.shape[-1]
    if not rows.size:
        return [""] * int(np.prod(rows.shape[:-1]))
    characters = np.ascontiguousarray(rows.reshape(-1, width), np.uint32) + np.uint32(1)
    return characters.view(f"U{width}")[:, 0].tolist()
