"""The paper's protocol as numbers, each with its source, and :func:`split` by it. Every room may use it."""

from __future__ import annotations

from typing import TypeVar

__all__ = ["CONTINUATION", "DRAWS", "HALF", "PROMPT", "SIGMA", "split"]

# Source of these four: the reproducibility summary of Duan et al., arXiv 2406.14549.
PROMPT = 32  # k, tokens the model is given
CONTINUATION = 64  # l, tokens compared
SIGMA = 2e-3  # standard deviation of the perturbation, in absolute weight units
DRAWS = 200  # perturbations per model

HALF = CONTINUATION // 2  # tokens by which a draw is chosen; it is scored on the rest (book/plan.md, "fresh half")

Rows = TypeVar("Rows")  # a numpy array or a torch tensor


def split(rows: Rows, k: int = PROMPT, l: int = CONTINUATION) -> tuple[Rows, Rows]:
    """Cut sequences into prompts and the true continuations that follow them.

    Parameters
    ----------
    rows : (n, w) integers, array or tensor; w at least k + l tokens.
    k : tokens of the prompt.
    l : tokens of the continuation.

    Returns
    -------
    prompts (n, k) and truth (n, l), views of `rows`.

    Raises
    ------
    ValueError : rows are shorter than k + l, or k or l is below 1.

    >>> import numpy as np
    >>> prompts, truth = split(np.arange(96).reshape(1, 96))
    >>> prompts.shape, truth[0, 0].item()
    ((1, 32), 32)
    """
    if k < 1 or l < 1:
        raise ValueError(f"k={k} and l={l} must be at least 1 token each")
    if getattr(rows, "ndim", 0) != 2 or rows.shape[1] < k + l:  # type: ignore[attr-defined]
        raise ValueError(f"expected rows (n, w) with w >= k + l = {k + l} tokens, got shape {tuple(rows.shape)}")  # type: ignore[attr-defined]
    return rows[:, :k], rows[:, k : k + l]  # type: ignore[index]
