"""What exposure adds, by steps since it: passages that are met while a model trains, beside twins that are not.

Tables `measured` in, as :mod:`lmmem.analysis.trajectories` says, which has their errors too; tidy tables out. Knows
neither models nor figures, nor how what exposure adds fades: that is :mod:`lmmem.analysis.fading`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lmmem.analysis.statistics import LEVEL
from lmmem.analysis.trajectories import (
    EARLIEST,
    EVERY,
    ONCE,
    TWINS,
    VALUES,
    Lines,
    Term,
    Trajectories,
    binned,
    centred,
    differences,
    fitted,
    followed,
    intervals,
    means,
    only,
    told_bins,
    trajectories,
)

__all__ = [
    "against_twins",
    "bias",
    "by_lag",
    "estimates",
    "faded",
    "once_and_never",
    "over_cohorts",
    "randomised",
    "rerandomised",
    "since_exposure",
    "tried",
]

TRIED_LAGS = (0, 240, 480)  # steps since exposure at which the trial of the estimators is shown
ESTIMATORS = {
    "both": Term("both", TWINS),
    "over cohorts": Term("both", TWINS, pooled=True),
    "randomised": Term("twins", TWINS),
}


def once_and_never(steps: Sequence[int], group: str = "spread") -> dict[str, Any]:
    """The arguments that estimates of one page share: arm, twins, every, earliest.

    Parameters
    ----------
    steps : of the checkpoints, ascending; the last two say how far they are apart.
    group : of those met once and of those never met.

    Returns
    -------
    earliest is after 8 % of training, which of `pocket` is step 120 (book/plan.md, "Estimands").

    >>> once_and_never([0, 1_440, 1_500])
    {'arm': 'spread 1', 'twins': 'spread 0', 'every': 60, 'earliest': 120}
    """
    every, earliest = steps[-1] - steps[-2], steps[-1] * 2 // 25
    return {"arm": f"{group} 1", "twins": f"{group} 0", "every": every, "earliest": earliest}


def against_twins(measured: pd.DataFrame, twins: str = TWINS) -> pd.DataFrame:
    """Log-probability of the exposed beyond the mean of the unexposed of their block, step by step.

    Parameters
    ----------
    measured : as :mod:`lmmem.analysis.trajectories` says.
    twins : the arm of the unexposed.

    Returns
    -------
    The lines of the exposed, by index and step, with columns bits (positive where the continuation is more
    probable than those of the twins), kl_ahead (tokens; where kl_ld is measured) and since (steps since
    exposure, negative before it).

    Raises
    ------
    ValueError : a block without twins, a passage without some step, a (passage, step) twice.

    >>> from lmmem.analysis.trajectories import simulated
    >>> table = against_twins(simulated(lambda since: 80 * np.exp(-since / 200), seed=1))
    >>> bool(table[table.since >= 0].bits.mean() > 20 > 10 > abs(table[table.since < 0].bits.mean()))
    True
    """
    t = trajectories(measured)
    exposed = np.repeat(t.presentations > 0, len(t.steps))
    table = t.lines[exposed].reset_index(drop=True)
    table["bits"] = centred(t, t.bits, twins).ravel()[exposed]
    if t.kl is not None:
        table["kl_ahead"] = centred(t, -t.kl, twins).ravel()[exposed]
    return table.assign(since=table.step - table.exposure_step)


def since_exposure(
    measured: pd.DataFrame, arm: str | None = None, twins: str = TWINS, earliest: int = EARLIEST
) -> pd.DataFrame:
    """Bits that exposure has brought, at each checkpoint after it.

    Parameters
    ----------
    measured : as :mod:`lmmem.analysis.trajectories` says.
    arm : of the exposed; None is all of them.
    earliest : passages first exposed at or before this step are left out, as are those without a checkpoint before.

    Returns
    -------
    One line a (passage, checkpoint at or after exposure), the columns of `measured` and before_step (of the last
    checkpoint before exposure), since (steps), twins, before, both (bits against twins, against before, and the
    difference of both) and, where kl_ld is measured, kl_ahead (tokens, against both).

    >>> from lmmem.analysis.trajectories import simulated
    >>> table = since_exposure(simulated(lambda since: 80.0 + 0 * since, noise=0, drift=0, file_drift=0, seed=1))
    >>> table.both.round(6).unique().tolist(), int(table.before_step.min())
    ([80.0], 120)
    """
    t = trajectories(measured)
    lines = followed(t, arm, earliest)
    table = t.lines.iloc[lines.passage * len(t.steps) + lines.step].reset_index(drop=True)
    table = table.assign(before_step=t.steps[lines.base], since=lines.since)
    for value in VALUES if t.kl is not None else list(VALUES)[:3]:
        table[value] = differences(t, lines, Term(value, twins))[1]
    return table


def by_lag(
    measured: pd.DataFrame,
    value: str = "both",
    every: int = EVERY,
    arm: str = ONCE,
    twins: str = TWINS,
    earliest: int = EARLIEST,
    level: float = LEVEL,
) -> pd.DataFrame:
    """Mean of a value by time since exposure.

    Parameters
    ----------
    measured : as :mod:`lmmem.analysis.trajectories` says.
    value : a column of :func:`since_exposure`: "both", "twins", "before" or "kl_ahead".
    every : width of a bin, steps: [0, every), [every, 2 every) ..
    level : of the intervals.

    Returns
    -------
    One line a bin: lag (its lower edge, steps), since (mean of its checkpoints, steps), estimate, low, high, n
    (passages), clusters (files).

    Raises
    ------
    ValueError : no bin with passages of two files (those without are left out), or what :func:`against_twins` refuses.

    >>> from lmmem.analysis.trajectories import simulated
    >>> table = by_lag(simulated(lambda since: 80 * np.exp(-since / 200), seed=1))
    >>> list(table.lag[:3]), bool(table.low[0] > 50)
    ([0, 60, 120], True)
    """
    t = trajectories(measured)
    lines = _in_files(t, followed(t, arm, earliest), every)
    return told_bins(lines, every, fitted(t, lines, binned(lines, every), Term(value, twins)), level)


def randomised(
    measured: pd.DataFrame, every: int = EVERY, arm: str = ONCE, twins: str = TWINS, earliest: int = EARLIEST
) -> pd.DataFrame:
    """The exposed less their twins, without a baseline: right by chance's assignment alone. As :func:`by_lag`, in bits.

    >>> from lmmem.analysis.trajectories import simulated
    >>> table = randomised(simulated(lambda since: 80 * np.exp(-since / 200), seed=1))
    >>> bool(50 < table.low[0] < table.high[0] < 100)
    True
    """
    return by_lag(measured, "twins", every, arm, twins, earliest)


def over_cohorts(
    measured: pd.DataFrame,
    every: int = EVERY,
    arm: str = ONCE,
    twins: str = TWINS,
    earliest: int = EARLIEST,
) -> pd.DataFrame:
    """Difference in differences over cohorts by exposure step, which needs no randomisation but parallel trends.

    A cohort g are the passages exposed between two checkpoints, g - 1 and g. Its effect at checkpoint t is
    ATT(g, t) = [Y_g(t) - Y_g(g - 1)] - [Y_never(t) - Y_never(g - 1)], Y the mean log-probability; those of one time
    since exposure are averaged, weighted by the size of the cohort. Lesci et al. 2024, arXiv 2406.04327, after Callaway
    and Sant'Anna 2021.

    Parameters
    ----------
    measured : as :mod:`lmmem.analysis.trajectories` says.
    twins : the arm of the never exposed; blocks are not looked at.

    Returns
    -------
    As :func:`by_lag`, in bits.

    >>> from lmmem.analysis.trajectories import simulated
    >>> table = over_cohorts(simulated(lambda since: 80 * np.exp(-since / 200), seed=1))
    >>> bool(50 < table.low[0] < table.high[0] < 100)
    True
    """
    t = trajectories(measured)
    lines = _in_files(t, followed(t, arm, earliest), every)
    return told_bins(lines, every, fitted(t, lines, binned(lines, every), Term("both", twins, pooled=True)))


def bias(
    measured: pd.DataFrame,
    every: int = EVERY,
    arm: str = ONCE,
    twins: str = TWINS,
    earliest: int = EARLIEST,
    controls: str | None = None,
) -> pd.DataFrame:
    """How far :func:`over_cohorts` lies above :func:`randomised`, passages and checkpoints being the same.

    Parameters
    ----------
    measured, every, arm, twins, earliest : as for these.
    controls : the arm of the never exposed that the cohorts are compared with; None is that of the twins.

    Returns
    -------
    As :func:`by_lag`, in bits, and a column first: the randomised estimate in the first bin, which says what is much.

    >>> from lmmem.analysis.trajectories import simulated
    >>> table = bias(simulated(lambda since: 80 * np.exp(-since / 200), seed=1))
    >>> bool(table.low[0] < 0 < table.high[0])
    True
    """
    t = trajectories(measured)
    lines = _in_files(t, followed(t, arm, earliest), every)
    design = binned(lines, every)
    cohorts, chance = Term("both", controls or twins, pooled=True), Term("twins", twins)
    table = told_bins(lines, every, fitted(t, lines, design, cohorts, chance._replace(sign=-1)))
    return table.assign(first=means(design, differences(t, lines, chance)[1])[0])


def estimates(measured: pd.DataFrame, controls: str, **shared: Any) -> pd.DataFrame:
    """:func:`randomised` and :func:`over_cohorts` under one another, told apart by a column estimator.

    Parameters
    ----------
    measured : as :mod:`lmmem.analysis.trajectories` says.
    controls : the arm that cohorts are compared with. shared : arguments of both.

    >>> from lmmem.analysis.trajectories import simulated
    >>> table = simulated(lambda since: 80 * np.exp(-since / 200), seed=1)
    >>> estimates(table, "spread 0").estimator.unique().tolist()
    ['randomised', 'over cohorts']
    """
    found = {"randomised": randomised(measured, **shared)}
    found["over cohorts"] = over_cohorts(measured, **shared | {"twins": controls})
    return pd.concat([table.assign(estimator=name) for name, table in found.items()], ignore_index=True)


def faded(since: np.ndarray) -> np.ndarray:
    """An effect to plant, in bits: 80 that fade by half in 120 steps."""
    return 80 * 0.5 ** (since / 120)


def tried(measured: pd.DataFrame, twins: str, n_sets: int, seed: int, every: int) -> pd.DataFrame:
    """:func:`rerandomised` of the unexposed of a table, for a page: an effect that fades, at three lags.

    >>> from lmmem.analysis.trajectories import simulated
    >>> never = simulated(lambda since: 0 * since, arms={"spread 0": 8}, seed=1)
    >>> tried(never, "spread 0", 20, 0, 60).lag.unique().tolist()
    [0, 240]
    """
    found = rerandomised(measured[measured.arm == twins], faded, n_sets, seed, every)
    return found[found.lag.isin(TRIED_LAGS)].round(2)


def rerandomised(
    unexposed: pd.DataFrame,
    effect: Callable[[np.ndarray], np.ndarray],
    n_sets: int = 1_000,
    seed: int = 0,
    every: int = EVERY,
    earliest: int = EARLIEST,
) -> pd.DataFrame:
    """How right the estimators are on real trajectories of passages that were never met, to which an effect is added.

    In each set chance takes half of the passages of every block and a step for each, and from this step on the effect
    is added to the log-probability.

    Parameters
    ----------
    unexposed : as `measured`, of unexposed passages alone, at least four in every block.
    effect : of an array of steps since exposure, in bits.
    n_sets : assignments drawn. seed : of the draws.

    Returns
    -------
    One line a (estimator, bin): estimator ("both", "over cohorts", "randomised"), lag, planted (mean effect, bits),
    bias (mean estimate less that), bias_error (its Monte Carlo standard error), spread (standard deviation of the
    estimates), coverage (share of intervals that hold what was planted), sets.

    >>> from lmmem.analysis.trajectories import simulated
    >>> never = simulated(lambda since: 0 * since, arms={"spread 0": 8}, seed=1)
    >>> rerandomised(never, lambda since: 80 * np.exp(-since / 200), n_sets=20).estimator.unique().tolist()
    ['both', 'over cohorts', 'randomised']
    """
    t = trajectories(unexposed)
    if (t.presentations > 0).any():
        raise ValueError(f"pseudo-exposure needs unexposed passages; {(t.presentations > 0).sum()} are exposed")
    size = np.bincount(t.block)
    if size.min() < 4:
        raise ValueError(f"pseudo-exposure needs four passages in every block; the smallest has {size.min()}")
    if n_sets < 2:
        raise ValueError(f"pseudo-exposure needs 2 sets or more; got {n_sets}")
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n_sets):
        order = np.lexsort((rng.random(len(t.block)), t.block))
        place = np.empty(len(order), dtype=int)
        place[order] = np.arange(len(order)) - np.repeat(np.cumsum(size) - size, size)
        chosen = place < (size // 2)[t.block]
        exposure = np.where(chosen, rng.integers(earliest + 1, t.steps[-1] + 1, len(chosen)), t.steps[-1] + 1)
        since = t.steps - exposure[:, None]
        added = np.where(since >= 0, effect(np.maximum(since, 0)), 0.0)
        drawn = t._replace(
            arm=np.where(chosen, ONCE, TWINS), presentations=chosen.astype(int), exposure=exposure, bits=t.bits + added
        )
        lines = followed(drawn, ONCE, earliest)
        lines = only(lines, lines.since < every * _common_bins(t.steps, earliest, every))
        design = binned(lines, every)
        planted = means(design, added[lines.passage, lines.step])
        lags = np.unique(lines.since // every) * every
        for name, term in ESTIMATORS.items():
            for lag, truth, line in zip(lags, planted, intervals(fitted(drawn, lines, design, term)), strict=True):
                found.append((name, lag, truth, line.estimate, line.low, line.high, 1))
    table = pd.DataFrame(found, columns=["estimator", "lag", "planted", "estimate", "low", "high", "sets"])
    table["planted"] = table.groupby("lag").planted.transform("mean")  # over times of exposure too
    table = table.assign(bias=table.estimate - table.planted, spread=table.estimate)
    table["coverage"] = (table.low <= table.planted) & (table.planted <= table.high)
    ways = {"planted": "mean", "bias": "mean", "spread": "std", "coverage": "mean", "sets": "sum"}
    table = table.groupby(["estimator", "lag"]).agg(ways).reset_index()
    table.insert(4, "bias_error", table.spread / np.sqrt(table.sets))
    return table


def _in_files(t: Trajectories, lines: Lines, every: int) -> Lines:
    """Those in bins of time since exposure whose passages come from two files or more; all, if there are none."""
    bins = lines.since // every
    files = pd.Series(t.file[lines.passage]).groupby(bins).transform("nunique").to_numpy()
    return only(lines, files >= 2) if (files >= 2).any() else lines


def _common_bins(steps: np.ndarray, earliest: int, every: int) -> int:
    """Bins reached by at least half of those exposed evenly after `earliest`, so that none is nearly empty."""
    return max(int((steps[-1] - earliest) / 2 // every), 1)
