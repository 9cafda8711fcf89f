"""How compressible a text is, the paper's z-complexity: for the design of organisms, and for pages."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

__all__ = ["z_complexity"]


def z_complexity(texts: str | Sequence[str]) -> float | np.ndarray:
    """Compressed size over plain size of each text, both in bytes of UTF-8.

    Near 0 is endlessly repetitive, near 1 cannot be compressed; very short texts exceed 1,
    because zlib adds a header.

    Parameters
    ----------
    texts : one string, or a sequence of n strings; none may be empty.

    Returns
    -------
    A float for one string, else an array of n float64.

    Raises
    ------
    ValueError : a text is empty, so that the ratio is not defined.

    Source: the paper's "z-complexity", computed with Python's zlib at its default level.

    >>> z_complexity("ab" * 100) < 0.1
    True
    """
    if isinstance(texts, str):
        data = texts.encode()
        if not data:
            raise ValueError("z_complexity of an empty text is not defined: give at least one character")
        return len(zlib.compress(data)) / len(data)
    return np.array([z_complexity(text) for text in texts], dtype=np.float64)
