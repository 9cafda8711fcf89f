"""What one exposure leaves in Pythia-1B, and what comes back, by what the paper's authors measured.

Counts of :mod:`lmmem.experiments.authors` in, tidy tables and numbers out. Knows neither models nor figures, nor how
anything was counted. Rules are those of the fifth part of book/plan.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
import statsmodels.api as sm
from statsmodels.stats.proportion import confint_proportions_2indep

from lmmem.analysis.prose import MINUS
from lmmem.analysis.statistics import LEVEL, Interval, check_columns, interval

__all__ = [
    "answer",
    "by_lag",
    "by_since",
    "coming_back",
    "fluctuation",
    "front",
    "half_life",
    "levels",
    "provenance",
    "shares",
    "slopes",
    "told_back",
]

RANGES = (0, 25, 50, 100, 200, 400, 600)  # steps since exposure; the last range is what the others stand beside
LATER = 1  # of the later checkpoints whose slope may exclude 0 before that of the first is disbelieved
NEAR = 20  # tokens, of which the page tells first
HALVES = np.geomspace(10, 1_000, 120)  # steps, tried as a half-life; the ends are no estimate
RESAMPLES = 1_000
NEEDED = ["exposure_step", "step", "n", "change"]


class Counted(Protocol):
    """What was counted, as :func:`lmmem.experiments.authors.counted` gives it."""

    @property
    def changes(self) -> pd.DataFrame: ...
    @property
    def pairs(self) -> pd.DataFrame: ...
    @property
    def back(self) -> pd.DataFrame: ...
    @property
    def levels(self) -> pd.DataFrame: ...
    @property
    def record(self) -> dict[str, Any]: ...


def slopes(changes: pd.DataFrame) -> pd.DataFrame:
    """By how much kl-LD rises with each doubling of the steps since exposure, at each checkpoint.

    Chance decides when a row is met. So at the first checkpoint after, a slope above 0 is what exposure leaves and
    training takes away again; at later ones, where the freshest are a thousand steps old, none is expected.

    Parameters
    ----------
    changes : columns exposure_step, step, n (rows), change (of kl_ld since before exposure, tokens): a line a step and
        checkpoint.

    Returns
    -------
    One line a checkpoint: step, estimate (tokens per doubling of 1 + steps between exposure and the first checkpoint),
    low, high, n (rows). The unit is the exposure step, errors are HC3, weighted by rows.

    Raises
    ------
    ValueError : columns are missing, or a checkpoint has fewer than three exposure steps.

    >>> met = np.arange(1, 65)
    >>> table = pd.DataFrame({"exposure_step": met, "step": 64, "n": 50, "change": np.log2(65 - met) - 6})
    >>> slopes(table).estimate.round(6).tolist()
    [1.0]
    """
    check_columns(changes, NEEDED)
    first, lines = changes.step.min(), []
    for step, table in changes.groupby("step"):
        if len(table) < 3:
            raise ValueError(f"step {step}: a slope needs 3 exposure steps, and there are {len(table)}")
        doublings = np.log2(1 + first - table.exposure_step.to_numpy(dtype=float))
        fit = _fitted(table, sm.add_constant(doublings))
        lines.append((step, fit.params[1], *fit.conf_int()[1], int(table.n.sum())))
    return pd.DataFrame(lines, columns=["step", *Interval._fields])


def by_since(changes: pd.DataFrame) -> pd.DataFrame:
    """How much closer rows are at the first checkpoint after exposure, by the steps since, beyond the oldest of them.

    Returns
    -------
    One line a range of steps since: since ("0 to 24"), middle (of the range), estimate (tokens; below 0 is closer),
    low, high, n (rows). The oldest, of 600 steps and more, are what the others stand beside.

    >>> met = np.arange(1, 1_001)
    >>> table = pd.DataFrame({"exposure_step": met, "step": 1_000, "n": 50, "change": -1.0 * (met > 900)})
    >>> by_since(table)[["since", "estimate"]].round(6).values.tolist()[1:4]
    [['25 to 49', -1.0], ['50 to 99', -1.0], ['100 to 199', 0.0]]
    """
    check_columns(changes, NEEDED)
    table = _at_first(changes)
    since = table.step - table.exposure_step
    number = np.searchsorted(RANGES, since, side="right") - 1
    design = (number[:, None] == np.arange(len(RANGES) - 1)).astype(float)
    fit = _fitted(table, sm.add_constant(design, has_constant="add"))
    ends = fit.conf_int()
    lines = [
        (f"{low} to {high - 1}", (low + high - 1) / 2, fit.params[k + 1], *ends[k + 1], int(table.n[number == k].sum()))
        for k, (low, high) in enumerate(itertools.pairwise(RANGES))
    ]
    return pd.DataFrame(lines, columns=["since", "middle", *Interval._fields])


def half_life(changes: pd.DataFrame, seed: int = 0) -> Interval:
    """Steps in which half is gone of what the first checkpoint after exposure shows, if it goes exponentially.

    Returns
    -------
    Least squares over half-lives from 10 to 1,000 steps, with the percentiles of a bootstrap over exposure steps; an
    end at one of these is 0 or infinite. n are rows.

    >>> met = np.arange(1, 1_001)
    >>> table = pd.DataFrame({"exposure_step": met, "step": 1_000, "n": 50, "change": -(2.0 ** ((met - 1_000) / 150))})
    >>> round(half_life(table).estimate, -1)
    150.0
    """
    check_columns(changes, NEEDED)
    table = _at_first(changes)
    shapes = 2.0 ** -((table.step - table.exposure_step).to_numpy(dtype=float)[:, None] / HALVES)  # (steps, halves)
    rng, n, steps = np.random.default_rng(seed), table.n.to_numpy(dtype=float), len(table)
    drawn = rng.multinomial(steps, np.full(steps, 1 / steps), size=RESAMPLES)
    weights = np.vstack([np.ones(steps), drawn]) * n
    weights /= weights.sum(axis=1, keepdims=True)
    y = table.change.to_numpy(dtype=float)
    mean, about = weights @ shapes, weights @ y  # (draws, halves), (draws,)
    together = weights @ (shapes * y[:, None]) - mean * about[:, None]
    explained = together**2 / (weights @ shapes**2 - mean**2)
    best = np.where(together < 0, explained, -np.inf).argmax(axis=1)  # of those that go up again, away from the text
    ends = np.quantile(best[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf").astype(int)
    halves = np.concatenate([[0.0], HALVES[1:-1], [np.inf]])
    return Interval(float(halves[best[0]]), float(halves[ends[0]]), float(halves[ends[1]]), int(n.sum()))


def coming_back(back: pd.DataFrame, tests: int = 1) -> pd.DataFrame:
    """Rows far from recited just after exposure that are near later, beside as many that were near before it.

    Parameters
    ----------
    back : columns step, within (tokens), n (rows far away), before (near before exposure alone), after (near at
        `step` alone), both.
    tests : whose intervals are to hold together (Bonferroni).

    Returns
    -------
    Its columns step and within, and share_before, share_after, estimate (their difference), low, high, n. The interval
    is Newcombe's of two independent shares: rows are their own twins, so it is somewhat wide, and it holds where none
    is near.

    >>> table = pd.DataFrame({"step": [12_000], "within": [0], "n": [1_000], "before": [4], "after": [6], "both": [1]})
    >>> coming_back(table)[["share_before", "share_after", "estimate"]].round(4).values.tolist()
    [[0.005, 0.007, 0.002]]
    """
    level, lines = 1 - (1 - LEVEL) / tests, []
    for step, within, n, before, after, both in back[["step", "within", "n", "before", "after", "both"]].to_numpy():
        ends = confint_proportions_2indep(after + both, n, before + both, n, method="newcomb", alpha=1 - level)
        shares = (before + both) / n, (after + both) / n
        lines.append((step, within, *shares, shares[1] - shares[0], *ends, n))
    return pd.DataFrame(lines, columns=["step", "within", "share_before", "share_after", *Interval._fields])


def told_back(back: pd.DataFrame) -> pd.DataFrame:
    """Coming back as a table to read: rows in 10,000, a line a distance; at the next checkpoint, and at all."""
    first = _at_first(back)
    found = coming_back(first, tests=len(first))
    shares = coming_back(back).groupby("within").share_after.agg(["min", "max"]).to_numpy() * 1e4
    lines = {
        "before exposure": [f"{share * 1e4:.1f}" for share in found.share_before],
        "after": [f"{share * 1e4:.1f}" for share in found.share_after],
        "difference": [
            Interval(*(1e4 * row + 0.0).round(1) + 0.0).brief(1) for row in found[[*Interval._fields]].to_numpy()
        ],
        "at later checkpoints": [f"{low:.1f} to {high:.1f}" for low, high in shares],
    }
    return pd.DataFrame(lines, index=pd.Index(found.within, name="within (tokens)"))


def shares(pairs: pd.DataFrame, within: Sequence[int] = (0, 5, 10, 20, 30)) -> pd.DataFrame:
    """How many rows in 10,000 are so near at each checkpoint, as a table to read: the first is before exposure.

    Parameters
    ----------
    pairs : as for :func:`fluctuation`. within : tokens.
    """
    first, second = pairs["first"].min(), pairs["second"].min()
    sides = [
        pairs[pairs.second == second].rename(columns={"first": "step", "kl_ld_first": "kl_ld"}),
        pairs[pairs["first"] == first].rename(columns={"second": "step", "kl_ld_second": "kl_ld"}),
    ]
    every = pd.concat([side[["step", "kl_ld", "n"]] for side in sides])
    rows = every.groupby("step").n.sum()
    near = {m: every[every.kl_ld <= m].groupby("step").n.sum().reindex(rows.index, fill_value=0) for m in within}
    lines = {
        "before exposure": {m: f"{table[first] / rows[first] * 1e4:.1f}" for m, table in near.items()},
        "at the nine checkpoints after": {
            m: "{:.1f} to {:.1f}".format(*(table / rows * 1e4).drop(first).agg(["min", "max"]))
            for m, table in near.items()
        },
    }
    return pd.DataFrame(lines).rename_axis("within (tokens)")


def fluctuation(pairs: pd.DataFrame) -> pd.DataFrame:
    """Correlation of kl-LD between two checkpoints, of which the first may lie before exposure.

    Parameters
    ----------
    pairs : columns first, second (steps), kl_ld_first, kl_ld_second, n: how often two steps have which two values.

    Returns
    -------
    One line a pair of steps: first, second, lag (steps), what ("from before exposure" or "after exposure"), estimate.
    """
    lines = []
    for (first, second), table in pairs.astype(int).groupby(["first", "second"]):
        one, other = int(str(first)), int(str(second))
        covariance = np.cov(table.kl_ld_first, table.kl_ld_second, fweights=table.n)
        what = "from before exposure" if one == pairs["first"].min() else "after exposure"
        lines.append((one, other, other - one, what, covariance[0, 1] / np.sqrt(np.diag(covariance).prod())))
    return pd.DataFrame(lines, columns=["first", "second", "lag", "what", "estimate"])


def by_lag(pairs: pd.DataFrame) -> pd.DataFrame:
    """The correlations of :func:`fluctuation`, averaged over pairs of checkpoints as far apart.

    Returns
    -------
    One line a lag and kind of pair: lag (steps), what, estimate, n (pairs of checkpoints).
    """
    found = fluctuation(pairs).groupby(["what", "lag"]).estimate
    return found.agg(estimate="mean", n="size").reset_index()


def levels(counts: pd.DataFrame, by: str) -> pd.DataFrame:
    """Mean kl-LD by repeats, or by z-complexity, as if rows were independent.

    Parameters
    ----------
    counts : columns by, bin, kl_ld, n: how often which value stands in which range. by : of them.

    Returns
    -------
    One line a range of two rows or more: bin, estimate, low, high (tokens, 95 %), n (rows).

    >>> counts = pd.DataFrame({"by": "repeats", "bin": 1.0, "kl_ld": [60, 62], "n": [50, 50]})
    >>> levels(counts, "repeats").estimate.tolist()
    [61.0]
    """
    lines = []
    for bin_, table in counts[counts.by == by].groupby("bin"):
        values = sm.stats.DescrStatsW(table.kl_ld, weights=table.n)
        if values.nobs >= 2:
            lines.append((bin_, values.mean, *values.tconfint_mean(1 - LEVEL), int(values.nobs)))
    return pd.DataFrame(lines, columns=["bin", *Interval._fields])


def answer(counted: Counted, seed: int = 0) -> dict[str, object]:
    """What the page opens with: rules 20 and 21 of the plan, in words and numbers.

    Returns
    -------
    leaves, come_back : the verdicts, in words. slope (tokens per doubling), fresh (tokens closer in the first hundred
    steps), half (the half-life), all as text; later, excluding (later checkpoints, and those of them whose slope
    excludes 0); rows, once, far (rows in all, met once, and of these far from recited just after exposure); before,
    after (of 10,000 of the far, those within `near` tokens before exposure and a thousand steps later).
    """
    ranges, tested = by_since(counted.changes), _at_first(counted.back)
    back = coming_back(tested, tests=len(tested))
    come = back[back.low > 0].within.tolist()
    half = half_life(counted.changes, seed)
    bounded = half.low > 0 and np.isfinite(half.high)
    near = back[back.within == NEAR].iloc[0]
    return _left(counted) | {
        "fresh": _closer(ranges.iloc[:3]),
        "half": f"half of it is gone after {half.estimate:.0f} steps ({half.low:.0f} to {half.high:.0f})"
        if bounded
        else "these data do not say how fast it goes",
        "come_back": f"are shown (within {', '.join(map(str, come))} tokens)" if come else "are not shown",
        "far": int(near.n),
        "near": NEAR,
        "before": f"{near.share_before * 1e4:.1f}",
        "after": f"{near.share_after * 1e4:.1f}",
        "rows": counted.record["rows"],
    }


def front(counted: Counted) -> dict[str, object]:
    """What the book's first page tells: leaves, slope, once of :func:`answer`."""
    found = _left(counted)
    return {name: found[name] for name in ("leaves", "slope", "once")}


def provenance(counted: Counted) -> str:
    """What was counted, and with what, in one line."""
    record = counted.record
    made = record["environment"]
    return (
        f"{record['rows']:,} rows, {record['once']:,} of them met once, of {record['source']} (SHA-256 "
        f"{record['sha256'][:16]}..), counted {made['date'][:10]} by lmmem {made['lmmem']} {made['commit']}"
    )


def _left(counted: Counted) -> dict[str, object]:
    """Rule 20: leaves, slope, excluding, later and once of :func:`answer`."""
    found = slopes(counted.changes)
    first = found.step.min()
    slope, later = interval(found, step=first), found[found.step > first]
    excluding = int(((later.low > 0) | (later.high < 0)).sum())
    return {
        "leaves": "leaves something" if slope.low > 0 and excluding <= LATER else "is not shown to leave anything",
        "slope": slope.brief(3),
        "excluding": excluding or "none",
        "later": len(later),
        "once": counted.record["once"],
    }


def _at_first(table: pd.DataFrame) -> pd.DataFrame:
    """The lines of the earliest step."""
    return table[table.step == table.step.min()]


def _fitted(table: pd.DataFrame, design: np.ndarray) -> Any:
    """Least squares over exposure steps, weighted by their rows; errors HC3, Student's t."""
    return sm.WLS(table.change.to_numpy(dtype=float), design, weights=table.n).fit(cov_type="HC3", use_t=True)


def _closer(ranges: pd.DataFrame) -> str:
    """The range of estimates, as tokens closer."""
    low, high = -ranges.estimate.max(), -ranges.estimate.min()
    return f"{low:.1f} to {high:.1f}".replace("-", MINUS)
