"""What is held at one step, mostly the last: by number of presentations, by time since the last, and by arm.

Tables `measured_at_end` in, `measured` of one step as :mod:`lmmem.analysis.trajectories` says; intervals and tidy
tables out. Knows neither models nor figures, and nothing of before: no baseline, only twins.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from lmmem.analysis.statistics import LEVEL, Interval
from lmmem.analysis.trajectories import (
    ONCE,
    TWINS,
    Lines,
    Term,
    Trajectories,
    column,
    effective_clusters,
    fitted,
    intervals,
    multiplicities,
    only,
    sum_by,
    trajectories,
)

__all__ = ["by_presentations", "palimpsest", "recency_and_repetition", "worth"]


def by_presentations(measured_at_end: pd.DataFrame, twins: str = TWINS) -> pd.DataFrame:
    """Mean bits against twins of each arm of the exposed, at one step.

    Returns
    -------
    One line an arm: arm, presentations, estimate, low, high (bits), n, clusters; by presentations.

    >>> from lmmem.analysis.trajectories import simulated
    >>> table = simulated(lambda since: 80 + 0 * since, arms={"spread 0": 4, "spread 1": 4, "spread 4": 4}, seed=1)
    >>> by_presentations(table[table.step == 840]).arm.tolist()
    ['spread 1', 'spread 4']
    """
    t, lines = _at_end(measured_at_end)
    arm, m = t.arm[lines.passage], t.presentations[lines.passage]
    arms, codes = np.unique(arm.astype(str), return_inverse=True)
    fit = fitted(t, lines, np.eye(len(arms))[codes], Term("twins", twins))
    found = [
        (name, m[codes == k].max(), *line, fit.clusters[k])
        for k, (name, line) in enumerate(zip(arms, intervals(fit), strict=True))
    ]
    table = pd.DataFrame(found, columns=["arm", "presentations", *Interval._fields, "clusters"])
    return table.sort_values(["presentations", "arm"], ignore_index=True)


def worth(
    measured_at_end: pd.DataFrame, arm: str = "fuzzy 16", exact: str = "spread 16", twins: str = TWINS
) -> Interval:
    """Mean bits of one arm as a share of those of another, at one step.

    The interval is Fieller's (1954), from the errors of both means by file, twins included: a bootstrap over 16
    passages is too short.

    Raises
    ------
    ValueError : an arm is not there, or the interval of the denominator includes 0.

    >>> from lmmem.analysis.trajectories import simulated
    >>> table = simulated(lambda since: 80 + 0 * since, arms={"spread 0": 4, "spread 1": 4, "spread 4": 4}, seed=1)
    >>> worth(table[table.step == 840], "spread 1", "spread 4").estimate < 1
    True
    """
    t, lines = _at_end(measured_at_end)
    if missing := [name for name in (arm, exact) if name not in set(t.arm[lines.passage])]:
        raise ValueError(f"a ratio of two arms needs both; there are no exposed passages of {', '.join(missing)}")
    lines = only(lines, np.isin(t.arm[lines.passage], [arm, exact]))
    design = np.column_stack([t.arm[lines.passage] == name for name in (arm, exact)]).astype(float)
    fit = fitted(t, lines, design, Term("twins", twins))
    a, b = fit.estimate
    (vaa, vab), (_, vbb) = fit.shares.T @ fit.shares
    apart = design / design.sum(axis=0) @ [[1.0], [-a / b]]
    effective = effective_clusters(t.file[lines.passage], apart, t.files)[0]
    q = stats.t.ppf((1 + LEVEL) / 2, max(effective - 2, 1)) ** 2
    if b**2 <= q * vbb:
        raise ValueError(f"a ratio needs a denominator whose interval excludes 0; {exact} has {intervals(fit)[1]:.1f}")
    root = np.sqrt((a * b - q * vab) ** 2 - (b * b - q * vbb) * (a * a - q * vaa))
    low, high = ((a * b - q * vab) + np.array([-1, 1]) * root) / (b * b - q * vbb)
    return Interval(float(a / b), float(low), float(high), len(lines.passage))


def recency_and_repetition(measured_at_end: pd.DataFrame, twins: str = TWINS) -> pd.DataFrame:
    """Bits against twins on doublings of presentations and of steps since the last one, by least squares.

    Parameters
    ----------
    measured_at_end : `measured` of one step, with last_step; all exposed passages and their twins.

    Returns
    -------
    One line a term, "presentations" and "recency": estimate, low, high (bits a doubling, the other held fixed), n,
    clusters. Steps since the last presentation are counted from the step that trains on it, so they are 1 or more.

    Raises
    ------
    ValueError : more than one step, or one number of presentations only.

    >>> from lmmem.analysis.trajectories import simulated
    >>> table = simulated(lambda since: 80 + 0 * since, arms={"spread 0": 4, "spread 1": 4, "spread 4": 4}, seed=1)
    >>> list(recency_and_repetition(table[table.step == 840]).term)
    ['presentations', 'recency']
    """
    t, lines = _at_end(measured_at_end)
    last = column(measured_at_end, t, "last_step")[lines.passage]
    doublings = np.log2(t.presentations[lines.passage])
    recency = np.log2(t.steps[0] - last + 1)
    if np.ptp(doublings) == 0 or np.ptp(recency) == 0:
        raise ValueError("recency and repetition need two numbers of presentations and two last steps; all are alike")
    fit = fitted(t, lines, np.column_stack([np.ones(len(recency)), doublings, recency]), Term("twins", twins))
    found = [(term, *intervals(fit)[k], fit.clusters[k]) for k, term in ((1, "presentations"), (2, "recency"))]
    return pd.DataFrame(found, columns=["term", *Interval._fields, "clusters"])


def palimpsest(measured_at_end: pd.DataFrame, arm: str = ONCE, seed: int = 0) -> Interval:
    """Rank correlation of log-likelihood with the order of exposure, among passages presented once.

    Spearman's, with a percentile bootstrap over files. Above 0 where what came later is more probable. Needs no twins.

    Raises
    ------
    ValueError : more than one step, fewer than two files, or no variation.

    >>> from lmmem.analysis.trajectories import simulated
    >>> table = simulated(lambda since: 80 * np.exp(-since / 200), seed=1)
    >>> palimpsest(table[table.step == 840]).estimate > 0
    True
    """
    t, lines = _at_end(measured_at_end, arm)
    likely, order = (
        np.unique(x, return_inverse=True)[1] for x in (t.bits[lines.passage, 0], t.exposure[lines.passage])
    )
    if likely.max() == 0 or order.max() == 0:
        raise ValueError("a rank correlation needs two likelihoods and two exposure steps that differ; all are alike")
    files, code = np.unique(t.file[lines.passage], return_inverse=True)
    if len(files) < 2:
        raise ValueError(f"errors by file need passages of 2 files; got {len(files)}")
    rho = _spearman(likely, order, np.ones((1, len(code))))[0]
    draws = _spearman(likely, order, multiplicities(len(files), seed)[:, code])
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(rho), float(low), float(high), len(code))


def _at_end(measured: pd.DataFrame, arm: str | None = None) -> tuple[Trajectories, Lines]:
    """The exposed passages of a table of one step."""
    t = trajectories(measured)
    if len(t.steps) != 1:
        raise ValueError(f"measured at the end has one step; got {len(t.steps)}: {t.steps[0]} .. {t.steps[-1]}")
    who = np.flatnonzero((t.presentations > 0) & (t.exposure <= t.steps[0]) & ((t.arm == arm) | (arm is None)))
    if not len(who):
        raise ValueError(f"no passage{f' of {arm}' if arm else ''} is exposed at step {t.steps[0]} or before")
    return t, Lines(who, 0 * who, 0 * who, t.steps[0] - t.exposure[who])


def _spearman(x: np.ndarray, y: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Spearman's correlation of codes x and y (n,), each line taken `times` (B, n) over: (B,)."""
    total = times.sum(axis=1, keepdims=True)
    ranks = []
    for code in (x, y):
        each = sum_by(code, times.T, code.max() + 1).T
        rank = (np.cumsum(each, axis=1) - (each - 1) / 2)[:, code]  # mean rank of those that are equal
        ranks.append(rank - (times * rank).sum(axis=1, keepdims=True) / total)
    a, b = ranks
    return (times * a * b).sum(axis=1) / np.sqrt((times * a * a).sum(axis=1) * (times * b * b).sum(axis=1))
