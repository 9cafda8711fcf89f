"""Passages beside those of their twins that begin alike: a caliper, in the place of blocks.

Tables of passages in, intervals out. Knows neither models nor what the columns mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from lmmem.analysis.statistics import LEVEL, Interval, check_columns

__all__ = ["caliper_difference"]


def caliper_difference(
    passages: pd.DataFrame, twins: pd.DataFrame, value: str, by: str, width: float, within: Sequence[str] = ()
) -> Interval:
    """Mean over passages of their value minus the mean of those twins that begin as they do.

    A twin may stand beside several passages; a passage without a twin is left out. What a file adds to the error of
    the estimate are its passages, each beside its twins, and its twins, each as often as it is used: a passage's
    difference holds the error of its own twins already, so that only what they add by being shared comes on top.
    A twin's error is told from other twins within the caliper, or from the nearest there is. Degrees of freedom are
    those of so many files of equal weight as would weigh so unequally, of the side that has fewer, less one: where
    few twins stand beside many passages, these are few.

    Parameters
    ----------
    passages, twins : n and m lines: columns `value`, `by`, file and those of `within`.
    value : what is compared.
    by, width : how they begin, a number, and the largest difference in it. within : columns that must be the same.

    Returns
    -------
    n are the passages that have a twin. Ends are infinite where those, or their twins, weigh as less than two files.

    Raises
    ------
    ValueError : none has; a column is missing.

    Source: Abadie and Imbens, Large sample properties of matching estimators for average treatment effects,
    Econometrica 74 (2006), theorem 7, with files in the place of lines; a file is left out at a time, as in
    :func:`lmmem.analysis.randomisation.cluster_mean`.

    >>> table = pd.DataFrame({"loss": [3.0, 3.5, 3.0, 3.5], "tokens": [9.0, 7, 1, 2], "file": list("abcd")})
    >>> caliper_difference(table[:2], table[2:], "tokens", "loss", 0.1).estimate
    6.5
    """
    for table in (passages, twins):
        check_columns(table, [value, by, "file", *within])
    near = _distance(passages, twins, by, within) <= width  # (n, m)
    has, used = near.any(axis=1), near.any(axis=0)
    own, beside, near = passages[has], twins[used], near[has][:, used]
    n = len(own)
    if not n:
        raise ValueError(f"no twin is within {width:g} of any passage by {by}")
    weights = near / near.sum(axis=1, keepdims=True) / n  # (n, m), of all pairs together 1
    of_own, of_twins = _files(own.file, beside.file)  # (files, n), (files, m)
    share, share_twins = of_own.sum(axis=1) / n, of_twins @ weights.sum(axis=0)
    differences = own[value].to_numpy(dtype=float) - n * weights @ beside[value].to_numpy(dtype=float)
    estimate = float(differences.mean())
    least = min(1 / (share**2).sum(), 1 / (share_twins**2).sum())  # files, if they weighed the same
    if least < 2:
        return Interval(estimate, -np.inf, np.inf, n)
    errors = _errors(twins, value, by, width, within)[used]
    shared = (of_own @ weights * errors) @ of_twins.T  # (files, files): in the passages of one, by the twins of another
    inside, lent = np.diag(shared), shared.sum(axis=0)
    total = (of_own @ (differences - estimate) / n - (lent - inside)) / (1 - share)
    variance = (total**2).sum() - ((shared**2).sum() - (inside**2).sum())  # less what differences held already
    half = float(stats.t.ppf((1 + LEVEL) / 2, least - 1)) * float(max(variance, (lent**2).sum())) ** 0.5
    return Interval(estimate, estimate - half, estimate + half, n)


def _distance(lines: pd.DataFrame, others: pd.DataFrame, by: str, within: Sequence[str]) -> np.ndarray:
    """(n, m) in `by`; infinite where the columns of `within` differ."""
    distance = np.abs(lines[by].to_numpy(dtype=float)[:, None] - others[by].to_numpy(dtype=float))
    for column in within:
        distance[lines[column].to_numpy()[:, None] != others[column].to_numpy()] = np.inf
    return distance


def _files(*sides: pd.Series) -> list[np.ndarray]:
    """For each side, (files, lines): which file a line is of; the files of all sides."""
    every = np.unique(np.concatenate([side.to_numpy(dtype=object) for side in sides]))
    return [(every[:, None] == side.to_numpy(dtype=object)).astype(float) for side in sides]


def _errors(twins: pd.DataFrame, value: str, by: str, width: float, within: Sequence[str]) -> np.ndarray:
    """(m,) of each twin: how far it lies from the others that begin as it does, or from the nearest."""
    distance = _distance(twins, twins, by, within)
    np.fill_diagonal(distance, np.inf)
    nearest = np.maximum(width, distance.min(axis=1, keepdims=True))
    beside = np.isfinite(distance) & (distance <= nearest)
    values, others = twins[value].to_numpy(dtype=float), beside.sum(axis=1)  # 0 others: nothing is known of its error
    # Var(value - mean of k others) is 1 + 1/k of that of a value
    return (values - beside @ values / np.maximum(others, 1)) * np.sqrt(others / (others + 1))
