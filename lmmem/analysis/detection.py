"""How well a score tells what was met from what was not: areas, shares found, and whether a score means what it says.

Scores are larger where there is more memory. Knows neither which probe a score comes from, nor models, nor figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from lmmem.analysis.randomisation import LEAST, proportion
from lmmem.analysis.statistics import LEVEL, Interval, check_columns

__all__ = [
    "agreement",
    "area",
    "area_difference",
    "calibration",
    "chosen",
    "compare",
    "found_at",
    "found_by_arm",
    "predict",
    "roc",
    "strata_of",
]

FEW = 32  # clusters of a side: with fewer the variance that a sample shows is not enough near 0 and 1
RESAMPLES = 1_000
ROUNDING = 1e-12
BLIND = 0.6  # a probe whose interval lies below is blind (book/plan.md, decision rule 12)
FOLDS = 5
RIDGE = 1e-3  # keeps a logistic fit finite where a score tells all apart


class _Placed(NamedTuple):
    """An area, what each cluster's positives and negatives add to its error, and the clusters of either."""

    area: float
    errors: tuple[np.ndarray, np.ndarray]
    clusters: tuple[int, int]

    @property
    def variance(self) -> float:
        """Obuchowski's, which is DeLong's where each line is its own cluster."""
        own = sum(float(side @ side) * k / (k - 1) for side, k in zip(self.errors, self.clusters, strict=True))
        return max(own + 2 * float(self.errors[0] @ self.errors[1]), 0.0)


def area(
    scores_positive: ArrayLike,
    scores_negative: ArrayLike,
    clusters_positive: ArrayLike | None = None,
    clusters_negative: ArrayLike | None = None,
    level: float = LEVEL,
    *,
    strata_positive: ArrayLike | None = None,
    strata_negative: ArrayLike | None = None,
) -> Interval:
    """Area under the ROC curve: the chance that a positive has a larger score than a negative, ties counting half.

    DeLong's variance, summed over clusters, on the scale of log-odds, t with one degree of freedom less than the
    clusters of the smaller side. With 64 clusters or more on both sides it covers the truth in 93 to 96 % of simulated
    sets where that is 0.5 to 0.95. Where a side has fewer than 32 clusters, or all are told apart, that variance
    is too little; there the interval is Newcombe's, with clusters in the place of lines, and at least as wide as
    DeLong's variance asks: it covers in 94 to 99 %.

    Parameters
    ----------
    scores_positive, scores_negative : (p,), (n,) numbers, larger where there is more memory; two or more each.
    clusters_positive, clusters_negative : (p,), (n,) labels of lines that may be alike, for instance source files; a
        label on both sides is one cluster. None: each line is its own.
    level : of the interval.
    strata_positive, strata_negative : (p,), (n,) labels; positives are compared with the negatives of their stratum
        alone, and strata count by their positives.

    Returns
    -------
    A share, 0.5 where the score knows nothing; n is the number of positives.

    Raises
    ------
    ValueError : fewer than two scores or clusters a side, one that is not finite, labels that are missing or of one
        side only, or a stratum with positives and without negatives.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988); clusters: Obuchowski, Biometrics 53 (1997);
    small samples: Newcombe, Statistics in Medicine 25 (2006), method 5, with the variance of Hanley and McNeil,
    Radiology 143 (1982).

    >>> area([3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 0.0]).estimate
    0.9583333333333334
    """
    positive, negative = _scores(scores_positive, scores_negative)
    groups = _labels("clusters", clusters_positive, clusters_negative, len(positive), len(negative))
    strata = _labels("strata", strata_positive, strata_negative, len(positive), len(negative), one=True)
    placed = _placed(positive, negative, groups, strata)
    return Interval(placed.area, *_ends(placed, level), len(positive))


def found_at(
    scores_positive: ArrayLike,
    scores_negative: ArrayLike,
    false_alarms: float = 0.01,
    clusters_positive: ArrayLike | None = None,
    clusters_negative: ArrayLike | None = None,
    *,
    seed: int = 0,
) -> Interval:
    """Share of the positives above a threshold that no more than a share of the negatives exceeds.

    The interval is a percentile bootstrap of positives and negatives, by clusters, so that the threshold is drawn anew
    too; it is never narrower than Clopper and Pearson's of the positives at this threshold. Of new negatives
    (floor(a n) + 1) / (n + 1) exceed the threshold on average, for n negatives and a share a: 1.2 % for 256.
    In simulated sets it covers in 95 to 99 % with 192 negatives or more, in 87 to 97 % with 100.

    Parameters
    ----------
    scores_positive, scores_negative, clusters_positive, clusters_negative : as for :func:`area`.
    false_alarms : share of the negatives that may exceed the threshold.
    seed : of the bootstrap.

    Returns
    -------
    n is the number of positives.

    Raises
    ------
    ValueError : as for :func:`area`; fewer than 1 / `false_alarms` negatives; a share that is none.

    Source: Carlini et al., Membership inference attacks from first principles, IEEE S&P 2022, arXiv 2112.03570.

    >>> found_at([99.5, 98.5, 10.0, 200.0], range(100)).estimate
    0.75
    """
    positive, negative = _scores(scores_positive, scores_negative)
    if not 0 < false_alarms < 1:
        raise ValueError(f"false_alarms={false_alarms!r}: give a share between 0 and 1, such as 0.01")
    if len(negative) * false_alarms < 1 - ROUNDING:
        raise ValueError(
            f"a share found at {100 * false_alarms:g} % false alarms needs {np.ceil(1 / false_alarms):.0f} negatives "
            f"or more; got {len(negative)}"
        )
    groups = _labels("clusters", clusters_positive, clusters_negative, len(positive), len(negative))
    drawn = _resampled(positive, negative, groups, np.array([false_alarms]), seed)[:, 0]
    once = np.ones((1, len(positive))), np.ones((1, len(negative)))
    share = float(_shares(positive, negative, *once, np.array([false_alarms]))[0, 0])
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    exact = proportion(round(share * len(positive)), len(positive))
    return Interval(share, min(float(low), exact.low), max(float(high), exact.high), len(positive))


def area_difference(
    positive: tuple[ArrayLike, ArrayLike],
    negative: tuple[ArrayLike, ArrayLike],
    clusters_positive: ArrayLike | None = None,
    clusters_negative: ArrayLike | None = None,
    level: float = LEVEL,
) -> Interval:
    """By how much the area of one score is larger than that of another, of the same positives and negatives.

    Parameters
    ----------
    positive, negative : the one score and the other, of the same lines each.
    clusters_positive, clusters_negative, level : as for :func:`area`.

    Returns
    -------
    A difference of shares with its t-interval; n is the number of positives. Of width 0 where both scores tell all
    apart: that says nothing.

    Raises
    ------
    ValueError : as for :func:`area`; the two scores are of different lines.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988).

    >>> area_difference(([3.0, 4.0], [3.0, 0.5]), ([1.0, 2.0], [1.0, 2.0])).estimate
    0.5
    """
    placed = []
    for one, other in zip(positive, negative, strict=True):
        ours, theirs = _scores(one, other)
        labels = _labels("clusters", clusters_positive, clusters_negative, len(ours), len(theirs))
        everyone = np.zeros(len(ours), dtype=int), np.zeros(len(theirs), dtype=int)
        placed.append(_placed(ours, theirs, labels, everyone))
    first, second = placed
    if first.errors[0].shape != second.errors[0].shape:
        raise ValueError("two scores of the same lines are needed; got different numbers of them")
    errors = tuple(one - other for one, other in zip(first.errors, second.errors, strict=True))
    both = _Placed(first.area - second.area, errors, first.clusters)  # type: ignore[arg-type]
    half = float(stats.t.ppf((1 + level) / 2, min(both.clusters) - 1)) * both.variance**0.5
    return Interval(both.area, both.area - half, both.area + half, len(np.asarray(positive[0])))


def roc(
    scores_positive: ArrayLike,
    scores_negative: ArrayLike,
    clusters_positive: ArrayLike | None = None,
    clusters_negative: ArrayLike | None = None,
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """The ROC curve, with a bootstrap band of positives and negatives.

    Parameters
    ----------
    As for :func:`area`; seed : of the bootstrap.

    Returns
    -------
    One line a share of false alarms, 0 to 1 in steps of a fortieth: false_alarms, estimate (the share that is found at
    no more of them), low, high, n.

    Raises
    ------
    ValueError : as for :func:`area`.

    >>> float(roc([3.0, 4.0], [1.0, 2.0]).estimate.min())
    1.0
    """
    positive, negative = _scores(scores_positive, scores_negative)
    groups = _labels("clusters", clusters_positive, clusters_negative, len(positive), len(negative))
    at = np.linspace(0, 1, 41)
    drawn = _resampled(positive, negative, groups, at, seed)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    once = np.ones((1, len(positive))), np.ones((1, len(negative)))
    share = _shares(positive, negative, *once, at)[0]
    return pd.DataFrame({"false_alarms": at, "estimate": share, "low": low, "high": high, "n": len(positive)})


def strata_of(values: ArrayLike, strata: int = 4) -> np.ndarray:
    """Strata of equally many lines each, numbered from the least values up, to compare at like values.

    Parameters
    ----------
    values : (n,) numbers, positives and negatives together, for instance z-complexity.
    strata : how many.

    Raises
    ------
    ValueError : fewer lines than strata, or less than one stratum.

    >>> strata_of([0.1, 0.9, 0.2, 0.8], 2).tolist()
    [0, 1, 0, 1]
    """
    numbers = np.asarray(values, dtype=float)
    if not 1 <= strata <= len(numbers):
        raise ValueError(f"strata={strata}: give 1 .. {len(numbers)}, the number of lines")
    return (stats.rankdata(numbers, "ordinal") - 1).astype(int) * strata // len(numbers)


def compare(
    table: pd.DataFrame, scores: Sequence[str], twins: str = "spread 0", *, by: str = "arm", strata: str | None = None
) -> pd.DataFrame:
    """How well each score tells each arm from the unexposed.

    Parameters
    ----------
    table : one line a sequence: columns arm, file, those of the scores, `by` and `strata`.
    scores : columns, larger where there is more memory.
    twins : the arm of the negatives.
    by : column whose values are compared with the negatives one by one; positives are all lines of other arms that
        have a value in it.
    strata : column within whose values positives and negatives are compared; None is over all of them.

    Returns
    -------
    One line a (score, value of `by`): score, the value, estimate, low, high, n (positives), negatives, p (two-sided,
    that the area is 0.5, of the same variance as the interval), q (after Benjamini and Hochberg, over the table), and
    verdict, by the plan's rule 12: "tells" where the interval lies above 0.5 and q is at most 0.05, "reversed" where
    it lies below, "blind" where it lies below 0.6, else "undecided"; "n < 16: no verdict".

    Raises
    ------
    ValueError : as for :func:`area`, with the score and the value named; a column is missing; there are no negatives
        or no positives.

    >>> found = pd.DataFrame({"arm": ["a 0"] * 20 + ["a 1"] * 20, "file": range(40), "loss": range(40)})
    >>> compare(found, ["loss"], "a 0").verdict.tolist()
    ['tells']
    """
    check_columns(table, ["arm", "file", by, *scores, *([strata] if strata else [])])
    negative = table[table.arm == twins]
    positives = table[(table.arm != twins) & table[by].notna()]
    if negative.empty or positives.empty:
        raise ValueError(f"{len(positives)} to be told from {len(negative)} of arm {twins!r}: some of each are needed")
    lines = []
    for score in scores:
        for value, arm in positives.groupby(by, sort=False):
            placed = _of_arm(arm, negative, score, strata, f"{score}, {by} {value}")
            ends = _ends(placed, LEVEL)
            lines.append((score, value, placed.area, *ends, len(arm), len(negative), _p(placed)))
    found = pd.DataFrame(lines, columns=["score", by, *Interval._fields, "negatives", "p"])
    found["q"] = stats.false_discovery_control(found.p)
    sure = found.q <= 1 - LEVEL
    verdicts = {
        f"n < {LEAST}: no verdict": found.n < LEAST,
        "tells": sure & (found.low > 0.5),
        "reversed": sure & (found.high < 0.5),
        "blind": found.high < BLIND,
    }
    return found.assign(verdict=np.select(list(verdicts.values()), list(verdicts), "undecided"))


def found_by_arm(
    table: pd.DataFrame, scores: Sequence[str], twins: str = "spread 0", *, false_alarms: float = 0.01, seed: int = 0
) -> pd.DataFrame:
    """Share of each arm that each score finds at few false alarms.

    Parameters
    ----------
    table, scores, twins : as for :func:`compare`. false_alarms, seed : as for :func:`found_at`.

    Returns
    -------
    One line a (score, arm): score, arm, estimate, low, high, n.

    Raises
    ------
    ValueError : as for :func:`found_at`; a column is missing.
    """
    check_columns(table, ["arm", "file", *scores])
    negative = table[table.arm == twins]
    lines = []
    for score in scores:
        for arm, positive in table[table.arm != twins].groupby("arm", sort=False):
            sides = positive[score], negative[score], false_alarms, positive.file, negative.file
            lines.append((score, arm, *found_at(*sides, seed=seed)))
    return pd.DataFrame(lines, columns=["score", "arm", *Interval._fields])


def chosen(table: pd.DataFrame, scores: Sequence[str], arm: str, twins: str = "spread 0") -> pd.DataFrame:
    """The score that tells an arm best, chosen in half of the blocks for the other half, and the reverse.

    So that the best of many is not judged by the luck that made it the best (the plan's rule 13).

    Parameters
    ----------
    table, scores, twins : as for :func:`compare`; columns block and arm. arm : that they are chosen by.

    Returns
    -------
    The table with columns half (0 and 1: even and odd blocks), chosen (name of the score) and best (its value).
    Compare `best` within strata of `half`.

    Raises
    ------
    ValueError : as for :func:`compare`, in either half.
    """
    check_columns(table, ["block", "arm", "file", *scores])
    table = table.assign(half=pd.factorize(table.block, sort=True)[0] % 2)
    parts = []
    for half in (0, 1):
        found = compare(table[(table.half != half) & table.arm.isin([arm, twins])], scores, twins)
        name = str(found.score.iloc[int(found.estimate.argmax())])
        here = table[table.half == half]
        parts.append(here.assign(chosen=name, best=here[name]))
    return pd.concat(parts).loc[table.index]


def predict(scores: ArrayLike, exposed: ArrayLike, clusters: ArrayLike | None = None, *, seed: int = 0) -> np.ndarray:
    """The probability of having been met, by one score or several together: a logistic fit, cross-validated.

    Each line is predicted by a fit to four fifths of the clusters without its own, each score in its standard
    deviations there, with a faint ridge.

    Parameters
    ----------
    scores : (n,) or (n, d) numbers. exposed : (n,) booleans.
    clusters : (n,) labels; those of one cluster are predicted together. None: each line alone.
    seed : of the folds.

    Returns
    -------
    (n,) float64, for the share of the exposed that is in these data.

    Raises
    ------
    ValueError : scores that are not finite, columns of different lengths, only one side, fewer clusters than folds.

    Source: Platt, Probabilistic outputs for support vector machines (1999).

    >>> exposed = np.arange(200) < 100
    >>> found = predict(np.random.default_rng(0).normal(size=200) + exposed, exposed)
    >>> bool(found[exposed].mean() > found[~exposed].mean())
    True
    """
    values, met = np.asarray(scores, dtype=float), np.asarray(exposed, dtype=bool)
    values = values[:, None] if values.ndim == 1 else values
    labels = np.arange(len(values)) if clusters is None else pd.factorize(np.asarray(clusters, dtype=object))[0]
    if not len(values) == len(met) == len(labels):
        raise ValueError(f"scores, exposed and clusters need one length; got {[len(values), len(met), len(labels)]}")
    if not np.isfinite(values).all() or met.all() or not met.any():
        raise ValueError("a fit needs finite scores, of exposed and of unexposed")
    number = labels.max() + 1
    if number < FOLDS:
        raise ValueError(f"a fit in {FOLDS} folds needs as many clusters; got {number}")
    fold = np.random.default_rng(seed).permutation(np.arange(number) % FOLDS)[labels]
    predicted = np.empty(len(values))
    for one in range(FOLDS):
        here = fold == one
        centre, scale = values[~here].mean(axis=0), np.maximum(values[~here].std(axis=0), ROUNDING)
        standard = (values - centre) / scale
        predicted[here] = special.expit(_with_constant(standard[here]) @ _logistic(standard[~here], met[~here]))
    return predicted


def calibration(
    scores: ArrayLike, exposed: ArrayLike, clusters: ArrayLike | None = None, *, bins: int = 5, seed: int = 0
) -> pd.DataFrame:
    """Whether a score, made a probability by :func:`predict`, means what it says: its reliability.

    Parameters
    ----------
    scores, exposed, clusters, seed : as for :func:`predict`.
    bins : of predictions, equally many in each.

    Returns
    -------
    One line a bin: predicted (mean probability), observed (the share that was met), low, high (exact 95 % interval of
    the share), n.

    Raises
    ------
    ValueError : as for :func:`predict` and :func:`strata_of`.

    Source: DeGroot and Fienberg, The Statistician 32 (1983).

    >>> exposed = np.arange(200) < 100
    >>> calibration(np.random.default_rng(0).normal(size=200) + exposed, exposed, bins=2).n.tolist()
    [100, 100]
    """
    predicted, met = predict(scores, exposed, clusters, seed=seed), np.asarray(exposed, dtype=bool)
    bin_of, lines = strata_of(predicted, bins), []
    for number in range(bins):
        here = bin_of == number
        lines.append((predicted[here].mean(), *proportion(int(met[here].sum()), int(here.sum()))))
    return pd.DataFrame(lines, columns=["predicted", "observed", "low", "high", "n"])


def agreement(table: pd.DataFrame, scores: Sequence[str]) -> pd.DataFrame:
    """Rank correlation of each two scores: whether they find the same sequences.

    Parameters
    ----------
    table : one line a sequence, of one arm, so that it is not the arms that they agree on.
    scores : columns.

    Returns
    -------
    Square: Spearman's correlation, scores by scores.

    Raises
    ------
    ValueError : a column is missing, a score is the same in all lines, or there are fewer than three lines.

    >>> agreement(pd.DataFrame({"a": [1, 2, 3], "b": [1, 4, 9]}), ["a", "b"]).round(2).b.tolist()
    [1.0, 1.0]
    """
    check_columns(table, scores)
    if len(table) < 3:
        raise ValueError(f"agreement needs three sequences or more; got {len(table)}")
    if constant := [score for score in scores if table[score].nunique() < 2]:
        raise ValueError(f"{', '.join(constant)}: the same in all {len(table)} sequences, which agrees with nothing")
    return table[list(scores)].corr("spearman")


def _scores(positive: ArrayLike, negative: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for name, scores in (("scores_positive", positive), ("scores_negative", negative)):
        numbers = np.asarray(scores, dtype=float)
        if numbers.ndim != 1 or len(numbers) < 2:
            raise ValueError(f"{name}: two scores or more are needed, in one column; got shape {numbers.shape}")
        if not np.isfinite(numbers).all():
            line = int(np.flatnonzero(~np.isfinite(numbers))[0])
            raise ValueError(f"{name}: finite scores are needed; line {line} is {numbers[line]}")
        found.append(numbers)
    return found[0], found[1]


def _labels(
    what: str, positive: ArrayLike | None, negative: ArrayLike | None, p: int, n: int, one: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of both sides numbered from 0; without any, each line its own, or all of them one."""
    if (positive is None) != (negative is None):
        raise ValueError(f"{what} of positives and of negatives are needed together; got one of them")
    if positive is None or negative is None:
        numbers = np.zeros(p + n, dtype=int) if one else np.arange(p + n)
        return numbers[:p], numbers[p:]
    both = [pd.Series(np.asarray(labels, dtype=object)) for labels in (positive, negative)]
    if [len(labels) for labels in both] != [p, n]:
        raise ValueError(f"{what}: a label is needed for each score, {p} and {n}; got {[len(one) for one in both]}")
    if sum(int(labels.isna().sum()) for labels in both):
        raise ValueError(f"{what}: each score needs a label; {[int(one.isna().sum()) for one in both]} have none")
    numbers = pd.factorize(pd.concat(both, ignore_index=True))[0]
    return numbers[:p], numbers[p:]


def _placed(
    positive: np.ndarray,
    negative: np.ndarray,
    clusters: tuple[np.ndarray, np.ndarray],
    strata: tuple[np.ndarray, np.ndarray],
) -> _Placed:
    p, found = len(positive), np.empty(len(positive))
    spread = np.zeros(len(negative))  # what each negative adds to the error
    for stratum in np.unique(strata[0]):
        ours, theirs = strata[0] == stratum, strata[1] == stratum
        if not theirs.any():
            raise ValueError(f"{ours.sum()} positives are in a stratum without negatives: take wider strata")
        found[ours] = _below(np.sort(negative[theirs]), positive[ours])
        beaten = 1 - _below(np.sort(positive[ours]), negative[theirs])
        spread[theirs] = (beaten - beaten.mean()) * ours.sum() / p / theirs.sum()
    mean = float(found.mean())
    number = 1 + max(int(side.max()) for side in clusters)
    errors = np.bincount(clusters[0], (found - mean) / p, number), np.bincount(clusters[1], spread, number)
    of = (len(np.unique(clusters[0])), len(np.unique(clusters[1])))
    if min(of) < 2:
        raise ValueError(f"an area needs two clusters or more of positives and of negatives; got {list(of)}")
    return _Placed(mean, errors, of)


def _of_arm(positive: pd.DataFrame, negative: pd.DataFrame, score: str, strata: str | None, named: str) -> _Placed:
    try:
        ours, theirs = _scores(positive[score], negative[score])
        labels = _labels("clusters", positive.file, negative.file, len(ours), len(theirs))
        of = (positive[strata], negative[strata]) if strata else (None, None)
        within = _labels("strata", of[0], of[1], len(ours), len(theirs), one=True)
        return _placed(ours, theirs, labels, within)
    except ValueError as error:
        raise ValueError(f"{named}: {error}") from error


def _p(placed: _Placed) -> float:
    """Two-sided chance of an area as far from 0.5, where there is nothing to tell."""
    if _by_newcombe(placed):
        return float(2 * stats.norm.sf(abs(placed.area - 0.5) / _newcombe(0.5, placed) ** 0.5))
    far = abs(float(special.logit(placed.area))) / _of_log_odds(placed)
    return float(2 * stats.t.sf(far, min(placed.clusters) - 1))


def _logistic(x: np.ndarray, met: np.ndarray) -> np.ndarray:
    """Constant and slopes of the log-odds of having been met: maximum likelihood with a faint ridge on the slopes."""
    design = _with_constant(x)
    ridge = RIDGE * np.r_[0, np.ones(x.shape[1])]

    def cost(beta: np.ndarray) -> tuple[float, np.ndarray]:
        eta = design @ beta
        value = np.logaddexp(0, eta).sum() - eta[met].sum() + ridge @ beta**2
        return float(value), (special.expit(eta) - met) @ design + 2 * ridge * beta

    return optimize.minimize(cost, np.zeros(design.shape[1]), jac=True, method="BFGS").x


def _with_constant(x: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(x)), x])


def _below(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Share of the ordered numbers that lie below each value, ties counting half."""
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2 / len(ordered)


def _ends(placed: _Placed, level: float) -> tuple[float, float]:
    if _by_newcombe(placed):
        z = float(stats.norm.ppf((1 + level) / 2))

        def beyond(truth: float) -> float:
            return abs(placed.area - truth) - z * _newcombe(truth, placed) ** 0.5

        edge = ROUNDING
        low = optimize.brentq(beyond, edge, placed.area - edge) if placed.area > edge else 0.0
        high = optimize.brentq(beyond, placed.area + edge, 1 - edge) if placed.area < 1 - edge else 1.0
        return float(low), float(high)
    t = float(stats.t.ppf((1 + level) / 2, min(placed.clusters) - 1))
    centre, half = special.logit(placed.area), t * _of_log_odds(placed)
    return float(special.expit(centre - half)), float(special.expit(centre + half))


def _by_newcombe(placed: _Placed) -> bool:
    return min(placed.clusters) < FEW or placed.variance <= ROUNDING**2


def _of_log_odds(placed: _Placed) -> float:
    """Standard error of the log-odds of an area."""
    return placed.variance**0.5 / (placed.area * (1 - placed.area))


def _newcombe(truth: float, placed: _Placed) -> float:
    """Variance of an area if the truth were so: Hanley and McNeil's, as much larger as the sample's own is."""
    own = _hanley_mcneil(placed.area, placed.clusters)
    larger = placed.variance / own if own > 0 else 1.0
    return max(1.0, larger) * _hanley_mcneil(truth, placed.clusters)


def _hanley_mcneil(truth: float, clusters: tuple[int, int]) -> float:
    p, n = clusters
    two_positives, two_negatives = truth / (2 - truth), 2 * truth**2 / (1 + truth)
    both = (p - 1) * (two_positives - truth**2) + (n - 1) * (two_negatives - truth**2)
    return (truth * (1 - truth) + both) / (p * n)


def _resampled(
    positive: np.ndarray,
    negative: np.ndarray,
    clusters: tuple[np.ndarray, np.ndarray],
    false_alarms: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Shares found (resamples, false alarms), clusters with positives and those without drawn anew, each as many."""
    rng = np.random.default_rng(seed)
    number = 1 + max(int(side.max()) for side in clusters)
    times = np.zeros((RESAMPLES, number))
    bears = np.bincount(clusters[0], minlength=number) > 0
    for which in (np.flatnonzero(bears), np.setdiff1d(clusters[1], clusters[0])):
        if len(which):
            times[:, which] = rng.multinomial(len(which), np.full(len(which), 1 / len(which)), RESAMPLES)
    times = times[times[:, clusters[1]].any(axis=1)]  # where all negatives share clusters with positives
    return _shares(positive, negative, times[:, clusters[0]], times[:, clusters[1]], false_alarms)


def _shares(
    positive: np.ndarray,
    negative: np.ndarray,
    positive_times: np.ndarray,
    negative_times: np.ndarray,
    false_alarms: np.ndarray,
) -> np.ndarray:
    """Share of the positives above the threshold (resamples, false alarms), each line counted so many times."""
    order = np.argsort(-negative, kind="stable")
    above = np.cumsum(negative_times[:, order], axis=1)  # negatives at or above each, were it the threshold
    ascending = np.argsort(positive, kind="stable")
    counted = np.cumsum(positive_times[:, ascending], axis=1)
    total = counted[:, -1]
    counted = np.concatenate([np.zeros((len(counted), 1)), counted], axis=1)
    found = np.empty((len(above), len(false_alarms)))
    for column, share in enumerate(false_alarms):
        at = (above <= share * above[:, -1:] + ROUNDING).sum(axis=1)  # the first negative that would be one too many
        threshold = np.append(negative[order], -np.inf)[at]
        below = np.searchsorted(positive[ascending], threshold, "right")
        found[:, column] = 1 - counted[np.arange(len(counted)), below] / total
    return found
