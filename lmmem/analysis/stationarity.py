"""Whether what a model holds of a passage fluctuates about a level, wanders, or only fades.

Tables of passages followed over checkpoints in, intervals and tidy tables out. Knows neither models nor figures.

A table has one line a (sequence, step): columns index, step and a value, kl_ld in tokens or a log-likelihood in bits.
The steps of a sequence are equally spaced, as far apart as those of all others, and begin after its last
presentation; some sequences may be followed longer than others. Each function says in one line what it lacks.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.tools.sm_exceptions import InterpolationWarning
from statsmodels.tsa.adfvalues import mackinnoncrit, mackinnonp
from statsmodels.tsa.stattools import adfuller, kpss

from lmmem.analysis.randomisation import ALPHA, PERMUTATIONS, proportion
from lmmem.analysis.statistics import RESAMPLES, Interval, check_columns

__all__ = ["autocorrelation", "reversal_test", "transitions", "uncovered", "unit_roots", "variance_ratio"]

LEAST_STEPS = 15  # of a series, for a test of a unit root
STATES = ("memorised", "partial", "absent")
CORRELATIONS = np.append(np.linspace(-0.995, 0.995, 400), 1.0)  # 1: a random walk


def reversal_test(
    table: pd.DataFrame,
    value: str = "kl_ld",
    jump: float | None = None,
    *,
    clusters: str | None = None,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> pd.DataFrame:
    """Whether time has a direction: falls of a value against its rises, which are falls of reversed time.

    A fluctuation about a level that is as likely forwards as backwards has as many falls as rises of each size. The
    test turns the time of whole passages round at random: it is exact whatever the dependence within a passage. That
    falls and rises are alike does not show a level: a random walk without drift is reversible too, see
    :func:`variance_ratio`.

    Parameters
    ----------
    table : columns index, step, `value` and `clusters`; two steps a sequence or more.
    value : column whose falls are counted: of kl_ld a fall is a recall.
    jump : least size of a fall that counts, in the unit of `value`; None counts each by its square, so that a few
        large falls against many small rises show.
    clusters : column of what is turned round together, for instance file; None is each sequence.
    permutations : drawn at random, the observed one on top; all, where there are fewer.
    seed : of the permutations.

    Returns
    -------
    Two lines: statistic ("falls of 10 or more" or "squared falls", of each jump, not of the way from start to end;
    and "drift", the last value, which in reversed time is the first), forward and reversed (means a sequence),
    estimate (their difference), p (two-sided), n (sequences).

    Raises
    ------
    ValueError : see the module; nothing ever changes; a jump that is not positive.

    Source: the sign-flip test is ``scipy.stats.permutation_test`` of one sample.

    >>> lines = [(i, s, 20 if s == 3 else s) for i in range(12) for s in range(5)]
    >>> found = reversal_test(pd.DataFrame(lines, columns=["index", "step", "kl_ld"]), jump=10)
    >>> found[["statistic", "forward", "reversed", "estimate"]].to_numpy().tolist()
    [['falls of 10 or more', 1.0, 1.0, 0.0], ['drift', 4.0, 0.0, 4.0]]
    """
    panel = _panel(table, value, "a test of reversal", 2, clusters)
    if jump is not None and not jump > 0:
        raise ValueError(f"a jump is above 0; got {jump}")
    differences = np.diff(panel.values, axis=1)  # nan behind the end
    if not np.nansum(np.abs(differences)):
        raise ValueError(f"a test of reversal needs a {value} that changes; it is the same at all steps of a sequence")
    if jump is None:
        name, size = "squared falls", np.nan_to_num(differences) ** 2
    else:
        name, size = f"falls of {jump:g} or more", (np.nan_to_num(np.abs(differences)) >= jump).astype(float)
    falls, rises = np.where(differences < 0, size, 0).sum(1), np.where(differences > 0, size, 0).sum(1)
    first, last = panel.values[:, 0], panel.values[np.arange(len(panel.values)), panel.lengths - 1]
    lines = []
    for statistic, forward, backward in ((name, falls, rises), ("drift", last, first)):
        turned = np.bincount(panel.clusters, forward - backward)
        p = stats.permutation_test(
            (turned,),
            lambda sums, axis: sums.sum(axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=permutations,
            rng=np.random.default_rng(seed),
        ).pvalue
        estimate = float((forward - backward).mean())
        lines.append((statistic, estimate, float(p), len(forward), float(forward.mean()), float(backward.mean())))
    return pd.DataFrame(lines, columns=["statistic", "estimate", "p", "n", "forward", "reversed"])


def variance_ratio(
    table: pd.DataFrame, value: str = "kl_ld", q: int = 4, *, clusters: str | None = None, seed: int = 0
) -> Interval:
    """Variance of differences over q steps, as a multiple of q times that over one step, all sequences pooled.

    1 for a random walk; less where a value returns to a level: 1/q for noise about it, (1 - r^q) / (q (1 - r)) for
    noise of which r carries over from step to step. A drift that all share is taken off.

    Parameters
    ----------
    table : columns index, step, `value` and `clusters`.
    q : steps, 2 or more. Sequences followed for q steps or fewer after their first are left out.
    clusters : column of what is resampled together, for instance file; None is each sequence.
    seed : of the bootstrap.

    Returns
    -------
    The ratio; its interval, a symmetric bootstrap-t of its logarithm over clusters; n, the sequences used. Sequences
    that vary more weigh more.

    Raises
    ------
    ValueError : see the module; fewer than two clusters with more than q steps that vary.

    Source: Lo and MacKinlay, Review of Financial Studies 1 (1988); Hall, The Bootstrap and Edgeworth Expansion (1992),
    section 3.5.

    >>> rng = np.random.default_rng(0)
    >>> table = pd.DataFrame([(i, s, rng.normal()) for i in range(40) for s in range(25)])
    >>> round(variance_ratio(table.set_axis(["index", "step", "kl_ld"], axis=1), q=4).estimate, 1)
    0.2
    """
    if q != int(q) or q < 2:
        raise ValueError(f"a variance ratio needs q of 2 steps or more; got {q}")
    panel = _panel(table, value, "a variance ratio", 2, clusters).of(q + 1)
    one = np.diff(panel.values, axis=1)
    several = panel.values[:, q:] - panel.values[:, :-q]
    drift = np.nanmean(one) if one.size else 0.0
    over_q, over_one = (np.nansum(squares, axis=1) for squares in ((several - q * drift) ** 2, (one - drift) ** 2))
    steps = panel.lengths - 1
    top = np.bincount(panel.clusters, over_q * steps.sum())
    bottom = np.bincount(panel.clusters, over_one * q * (steps - q + 1).sum())
    panel.varying("a variance ratio", f"more than {q} steps", over_one)
    if not top.any():
        raise ValueError(
            f"a variance ratio needs a {value} that differs after {q} steps; it is the same in all sequences"
        )
    return Interval(*_ratio(top, bottom, seed, log=True), len(steps))


def unit_roots(table: pd.DataFrame, value: str = "kl_ld") -> pd.DataFrame:
    """Of each series alone, whether it wanders (augmented Dickey and Fuller) and whether it leaves its level (KPSS).

    25 steps are few. On simulated series of 25 the first finds a level, unadjusted, in 73 % where nothing of a
    deviation carries over to the next step, in 33 % where half of it does, and in 12 % where 0.8 of it does; the
    second finds a random walk in 60 %, and takes fluctuation about a level for wandering in 4, 12 and 29 %. So not
    rejecting says little, and rejecting by KPSS neither; :func:`variance_ratio` pools the series.

    Parameters
    ----------
    table : columns index, step and `value`.

    Returns
    -------
    Two lines: test ("ADF" rejects a unit root, "KPSS" rejects a level), rejected (series with q at most 0.05, after
    Benjamini and Hochberg over series), of (series tested), share (rejected of them), unadjusted (share with p at
    most 0.05, of which 0.05 come by chance), constant (series that never change, or at one end only, by the same at
    each step, to and fro: not tested), too_short (of fewer than 15 steps: not tested).
    KPSS has p between 0.01 and 0.1 only, what lies beyond counts as the end: none is rejected unless a fifth are.

    Raises
    ------
    ValueError : see the module; no series of 15 steps that changes.

    Source: statsmodels, ``adfuller`` with one lag, p of MacKinnon's surface moved to his critical value of so short
    a series (2010); ``kpss`` with Newey and West's 4 (n/100)^(2/9) lags.

    >>> rng = np.random.default_rng(0)
    >>> table = pd.DataFrame([(i, s, rng.normal()) for i in range(20) for s in range(60)])
    >>> unit_roots(table.set_axis(["index", "step", "kl_ld"], axis=1))[["test", "rejected", "of"]].to_numpy().tolist()
    [['ADF', 20, 20], ['KPSS', 0, 20]]
    """
    panel = _panel(table, value, "a test of unit roots", 2)
    series = [line[:length] for line, length in zip(panel.values, panel.lengths, strict=True)]
    long = [one for one in series if len(one) >= LEAST_STEPS]
    tested = [one for one in long if np.linalg.matrix_rank(_regressors(one)) == 3]
    if not tested:
        raise ValueError(
            f"a test of unit roots needs a series of {LEAST_STEPS} steps that changes; of {len(series)}, "
            f"{len(series) - len(long)} are shorter and {len(long)} constant"
        )
    lines = []
    for name, test in (("ADF", _adf), ("KPSS", _kpss)):
        p = np.array([test(one) for one in tested])
        rejected = int((stats.false_discovery_control(p) <= ALPHA).sum())
        share = rejected / len(p)
        counts = len(long) - len(tested), len(series) - len(long)
        lines.append((name, rejected, len(p), share, float((p <= ALPHA).mean()), *counts))
    columns = ["test", "rejected", "of", "share", "unadjusted", "constant", "too_short"]
    return pd.DataFrame(lines, columns=columns)


def autocorrelation(
    table: pd.DataFrame, value: str = "kl_ld", lag: int = 1, *, clusters: str | None = None, seed: int = 0
) -> Interval:
    """How much of a deviation from a sequence's own mean is left after some steps, all sequences pooled.

    The mean of a short sequence follows its values, so that correlations within it come out too low, by about
    (1 + 3 r) / T in T steps. What is returned is corrected: the r of an autoregression of first order whose pooled
    correlation is expected to be that observed, in sequences of these lengths.

    Parameters
    ----------
    table : columns index, step, `value` and `clusters`.
    lag : steps. For more than one, every lag-th step of a sequence is a series of its own. Sequences of fewer than
        3 lag steps are left out.
    clusters : column of what is resampled together; None is each sequence.
    seed : of the bootstrap.

    Returns
    -------
    The correlation, -1 .. 1: 1 is a random walk, or more than one. Its interval is a symmetric bootstrap-t over
    clusters, corrected as the estimate; n, the sequences used. Sequences that vary more weigh more.

    Raises
    ------
    ValueError : see the module; fewer than two clusters with 3 lag steps that vary.

    Source: Kendall, Biometrika 41 (1954); Nickell, Econometrica 49 (1981).

    >>> rng = np.random.default_rng(0)
    >>> table = pd.DataFrame([(i, s, rng.normal()) for i in range(99) for s in range(9)])
    >>> autocorrelation(table.set_axis(["index", "step", "kl_ld"], axis=1)).excludes_zero
    False
    """
    if lag != int(lag) or lag < 1:
        raise ValueError(f"an autocorrelation needs a lag of 1 step or more; got {lag}")
    panel = _panel(table, value, "an autocorrelation", 2, clusters).of(3 * lag)
    top, bottom = np.zeros(len(panel.lengths)), np.zeros(len(panel.lengths))
    expected = np.zeros((2, len(CORRELATIONS)))
    for start in range(lag):
        every = panel.values[:, start::lag]
        known = np.isfinite(every)
        lengths = known.sum(1)
        deviation = np.where(known, every - (np.nansum(every, axis=1) / lengths)[:, None], 0.0)
        top += (deviation[:, 1:] * deviation[:, :-1]).sum(1)
        bottom += (deviation**2).sum(1)
        for length, number in zip(*np.unique(lengths, return_counts=True), strict=True):
            expected += number * _expected(int(length))
    panel.varying("an autocorrelation", f"{3 * lag} steps or more", bottom)
    found = _ratio(np.bincount(panel.clusters, top), np.bincount(panel.clusters, bottom), seed, log=False)
    estimate, low, high = np.interp(found, expected[0] / expected[1], CORRELATIONS, left=-1).tolist()
    return Interval(estimate, low, high, len(top))


def transitions(table: pd.DataFrame, value: str = "kl_ld", memorised: float = 0, absent: float = 50) -> pd.DataFrame:
    """From which state to which passages go in one step: memorised, partial, absent.

    Parameters
    ----------
    table : columns index, step and `value`; two steps a sequence or more.
    memorised : a passage is while its value is at most this, in tokens.
    absent : a passage is while its value is at least this.

    Returns
    -------
    One line a pair of states of which the first is ever left: state, next, count, of (steps from `state`),
    probability, low, high (Clopper and Pearson, as if steps were independent: so they are for a Markov chain;
    where passages differ from one another the interval is too narrow).

    Raises
    ------
    ValueError : see the module; all or none are memorised at all steps; `absent` is not above `memorised`.

    >>> table = pd.DataFrame({"index": 7, "step": [60, 120, 180, 240], "kl_ld": [0, 0, 9, 0]})
    >>> transitions(table).iloc[:2][["state", "next", "count", "of"]].to_numpy().tolist()
    [['memorised', 'memorised', 1, 2], ['memorised', 'partial', 1, 2]]
    """
    if not memorised < absent:
        raise ValueError(f"absent begins above memorised; got memorised {memorised}, absent {absent}")
    panel = _panel(table, value, "a table of transitions", 2)
    known = np.isfinite(panel.values)
    state = np.where(panel.values <= memorised, 0, np.where(panel.values >= absent, 2, 1))
    recited = int((known & (state == 0)).sum())
    if recited in (0, known.sum()):
        raise ValueError(
            f"a table of transitions needs lines that are memorised and others that are not; {recited} of "
            f"{known.sum()} have a {value} of at most {memorised:g}"
        )
    pairs = known[:, 1:]
    counts = np.zeros((3, 3), dtype=int)
    np.add.at(counts, (state[:, :-1][pairs], state[:, 1:][pairs]), 1)
    lines = []
    for before, row in zip(STATES, counts, strict=True):
        if row.sum():
            for after, count in zip(STATES, row.tolist(), strict=True):
                found = proportion(count, int(row.sum()))
                lines.append((before, after, count, found.n, *found[:3]))
    return pd.DataFrame(lines, columns=["state", "next", "count", "of", "probability", "low", "high"])


def uncovered(table: pd.DataFrame, twins: pd.DataFrame, value: str = "kl_ld", memorised: float = 0) -> pd.DataFrame:
    """How many passages are not recited at first and are later, and what of it is seen backwards and in twins.

    Parameters
    ----------
    table : of the exposed: columns index, step and `value`; two steps a sequence or more.
    twins : the same of unexposed passages.
    memorised : a passage is recited while its value is at most this, in tokens.

    Returns
    -------
    Four lines, exposed and twins, each in time "forward" (not recited at the first step they are followed from;
    recited at a later one) and "reversed" (not recited at the last; recited at an earlier one): passages, time,
    observed, of (sequences not recited at that step), share, low, high (Clopper and Pearson).

    Raises
    ------
    ValueError : see the module; all are recited at the first step, or at the last.

    >>> table = pd.DataFrame({"index": [1, 1, 2, 2], "step": [60, 120, 60, 120], "kl_ld": [9, 0, 9, 9]})
    >>> found = uncovered(table, table.assign(kl_ld=9))
    >>> found.loc[:1, ["passages", "time", "observed", "of"]].to_numpy().tolist()
    [['exposed', 'forward', 1, 2], ['exposed', 'reversed', 0, 1]]
    """
    lines = []
    for name, given in (("exposed", table), ("twins", twins)):
        panel = _panel(given, value, f"a count of uncovered passages ({name})", 2)
        recited = panel.values <= memorised  # nan, behind the end, is not
        ever = recited.any(1)
        last = recited[np.arange(len(recited)), panel.lengths - 1]
        for time, at in (("forward", recited[:, 0]), ("reversed", last)):
            if at.all():
                raise ValueError(
                    f"a count of uncovered passages needs some that are not recited at the "
                    f"{'first' if time == 'forward' else 'last'} step; all {len(at)} {name} are"
                )
            found = proportion(int((ever & ~at).sum()), int((~at).sum()))
            lines.append((name, time, int((ever & ~at).sum()), found.n, *found[:3]))
    return pd.DataFrame(lines, columns=["passages", "time", "observed", "of", "share", "low", "high"])


class _Panel(NamedTuple):
    """Sequences by steps from each one's first, nan behind their end; how many steps; clusters from 0."""

    values: np.ndarray
    lengths: np.ndarray
    clusters: np.ndarray

    def of(self, steps: int) -> _Panel:
        """Sequences of so many steps or more."""
        kept = self.lengths >= steps
        longest = int(self.lengths[kept].max(initial=steps))
        values = self.values[kept, :longest]
        return _Panel(values, self.lengths[kept], np.unique(self.clusters[kept], return_inverse=True)[1])

    def varying(self, what: str, steps: str, variation: np.ndarray) -> None:
        """Refuse what gives no interval: fewer than two clusters whose values change."""
        vary = len(np.unique(self.clusters[variation > 0]))
        if vary < 2:
            raise ValueError(
                f"{what} needs two sequences or clusters with {steps} and values that change; got {vary} "
                f"of {len(self.lengths)} sequences that are long enough"
            )


def _panel(table: pd.DataFrame, value: str, what: str, least: int, clusters: str | None = None) -> _Panel:
    needed = ["index", "step", value, *([] if clusters is None else [clusters])]
    check_columns(table, needed)
    if table.empty:
        raise ValueError(f"{what} needs sequences; the table is empty")
    sequence, names = pd.factorize(table["index"], sort=True)
    order = np.lexsort((table.step, sequence))
    sequence, step = sequence[order], table.step.to_numpy()[order]
    numbers = table[value].to_numpy(dtype=float)[order]

    def at(line: int) -> str:
        return f"sequence {names[sequence[line]]} at step {step[line]}"

    if not np.isfinite(numbers).all():
        line = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise ValueError(f"{what} needs finite numbers; {value} of {at(line)} is {numbers[line]}")
    follows = sequence[1:] == sequence[:-1]
    apart = np.diff(step)
    if (follows & (apart == 0)).any():
        line = int(np.flatnonzero(follows & (apart == 0))[0])
        raise ValueError(f"{what} needs one line a (sequence, step); {at(line)} is there twice")
    lengths = np.bincount(sequence)
    if (lengths < least).any():
        raise ValueError(
            f"{what} needs {least} steps a sequence or more; {int((lengths < least).sum())} of {len(lengths)} have "
            f"fewer, sequence {names[int(lengths.argmin())]} has {lengths.min()}"
        )
    spacing = apart[follows].min()
    if (apart[follows] != spacing).any():
        line = int(np.flatnonzero(follows & (apart != spacing))[0])
        raise ValueError(
            f"{what} needs steps {spacing} apart; sequence {names[sequence[line]]} has none between {step[line]} "
            f"and {step[line + 1]}"
        )
    values = np.full((len(lengths), lengths.max()), np.nan)
    first = np.cumsum(lengths) - lengths
    values[sequence, np.arange(len(sequence)) - first[sequence]] = numbers
    if clusters is None:
        return _Panel(values, lengths, np.arange(len(lengths)))
    labels = pd.factorize(table[clusters])[0][order]
    if (labels < 0).any() or (labels != labels[first][sequence]).any():
        line = int(np.flatnonzero((labels < 0) | (labels != labels[first][sequence]))[0])
        raise ValueError(f"{what} needs one {clusters} a sequence; {at(line)} has {table[clusters].iloc[order[line]]}")
    return _Panel(values, lengths, labels[first])


def _ratio(top: np.ndarray, bottom: np.ndarray, seed: int, *, log: bool) -> tuple[float, float, float]:
    """Sum of `top` over that of `bottom`, and its interval: a symmetric bootstrap-t over lines.

    The standard error is that of the ratio's linear part, in each resample anew.
    """
    n = len(top)

    def parts(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        below = weights @ bottom
        ratio = weights @ top / below
        squared = weights @ top**2 - 2 * ratio * (weights @ (top * bottom)) + ratio**2 * (weights @ bottom**2)
        spread = np.sqrt(np.maximum(squared, 0)) / below
        return (np.log(ratio), spread / ratio) if log else (ratio, spread)

    centre, spread = (float(part) for part in parts(np.ones(n)))
    drawn = np.random.default_rng(seed).integers(n, size=(RESAMPLES, n)) + n * np.arange(RESAMPLES)[:, None]
    often = np.bincount(drawn.ravel(), minlength=RESAMPLES * n).reshape(RESAMPLES, n).astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample in which nothing varies
        found, spreads = parts(often)
        distance = np.abs(found - centre) / spreads
    reach = float(np.quantile(np.where(np.isnan(distance), np.inf, distance), 1 - ALPHA, method="higher"))
    half = reach * spread * (n / (n - 1)) ** 0.5 if spread else 0.0
    low, estimate, high = (float(np.exp(end) if log else end) for end in (centre - half, centre, centre + half))
    return estimate, low, high


@lru_cache(maxsize=256)
def _expected(length: int) -> np.ndarray:
    """(2, correlations): expected products of neighbours and squares of deviations from the mean of a series.

    Covariances are less those of lag 0, which the mean takes off, and over 1 - r, so that they have a limit at 1.
    """
    apart = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    with np.errstate(divide="ignore", invalid="ignore"):
        powers = CORRELATIONS[:, None] ** np.arange(length)
        covariance = np.where(CORRELATIONS[:, None] < 1, (powers - 1) / (1 - CORRELATIONS[:, None]), -np.arange(length))
    full = covariance[:, apart]
    centred = full - full.mean(1, keepdims=True)
    centred -= centred.mean(2, keepdims=True)
    return np.array([centred.trace(1, 1, 2), centred.trace(0, 1, 2)])


def _regressors(series: np.ndarray) -> np.ndarray:
    """What the next change is regressed on: a constant, the level and the last change."""
    centred = series - series.mean()
    return np.column_stack([np.ones(len(series) - 2), centred[1:-1], np.diff(series)[:-1]])


def _adf(series: np.ndarray) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):  # a series that a regression fits without error
        found = adfuller(series, maxlag=1, regression="c", autolag=None, result_object=True)
    usual, here = (mackinnoncrit(N=1, regression="c", nobs=nobs)[1] for nobs in (np.inf, len(series) - 2))
    return float(mackinnonp(found.statistic + usual - here, regression="c", N=1))


def _kpss(series: np.ndarray) -> float:
    lags = int(4 * (len(series) / 100) ** (2 / 9))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InterpolationWarning)  # p beyond its table is the end of the table
        return float(kpss(series, regression="c", nlags=lags, result_object=True).pvalue)
