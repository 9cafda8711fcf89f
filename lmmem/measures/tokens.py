"""Are these rows of token ids? One check for whatever compares them: distances and repeats."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["MAX_TOKEN", "checked_tokens"]

MAX_TOKEN = 2**20 - 1  # above the ids of all tokenizers that are known


def checked_tokens(ids: ArrayLike, name: str) -> np.ndarray:
    """Ids as an array, if they are rows of token ids.

    Parameters
    ----------
    ids : (..., n, k) token ids.
    name : what the ids are, for the message.

    Returns
    -------
    (..., n, k) of the integers given.

    Raises
    ------
    ValueError : they are no rows of integers, or one is negative or above 1,048,575.

    >>> checked_tokens([[5, 6, 7]], "truth")
    array([[5, 6, 7]])
    """
    tokens = np.asarray(ids)
    if tokens.ndim < 2 or tokens.dtype.kind not in "iu":
        raise ValueError(f"{name} must be rows of integer token ids, got shape {tokens.shape} of {tokens.dtype}")
    if tokens.size and (tokens.dtype.itemsize > 2 or tokens.dtype.kind == "i"):  # others cannot
        low, high = tokens.min(), tokens.max()
        if low < 0 or high > MAX_TOKEN:
            raise ValueError(f"{name} hold ids {low} .. {high}; they must lie in 0 .. {MAX_TOKEN}")
    return tokens
