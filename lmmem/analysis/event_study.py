"""What one exposure leaves, and for how long: passages that are met while a model trains, beside twins that are not.

Tables of what was measured at checkpoints in; intervals and tidy tables out. Knows neither models nor figures.

Everywhere, `measured` has one line a (passage, step): index (the passage), arm, presentations, block, file (the
cluster), exposure_step (the first step whose weights have been trained on it; missing, or beyond training, if there is
none), last_step (the same of its last presentation), step (of the checkpoint), cross_entropy (nats a token) and, where
kl-LD was measured, kl_ld (tokens). Of every passage each step is there. A passage counts as exposed at a checkpoint
whose step is its exposure_step or a later one.

Every estimate here is a weighted sum of trajectories, those of the exposed and, with weights of the other sign, those
of the unexposed twins of their blocks. Its error is that of the sums by file of both (Liang and Zeger 1986): all that
are exposed in a block share the chance deviation of its twins, which a sum over the exposed alone does not see.
Degrees of freedom are the effective number of clusters less 1 (Carter, Schnepel and Steigerwald 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse, stats

from lmmem.analysis.statistics import LEVEL, RESAMPLES, Interval
from lmmem.protocol import CONTINUATION

__all__ = [
    "Decay",
    "against_twins",
    "bias",
    "bits",
    "by_complexity",
    "by_lag",
    "by_organism",
    "by_presentations",
    "by_quartile",
    "by_size",
    "counterfactual",
    "decay_shape",
    "early_against_late",
    "estimates",
    "faded",
    "fading",
    "half_life",
    "once_and_never",
    "over_cohorts",
    "palimpsest",
    "passage_share",
    "randomised",
    "recency_and_repetition",
    "rerandomised",
    "simulated",
    "since_exposure",
    "tried",
    "worth",
]

EVERY = 60  # steps between the checkpoints of pocket, and the width of a bin of time since exposure
EARLIEST = 120  # step; before it losses fall so fast that a baseline says little (book/plan.md, "Estimands")
ONCE, TWINS = "spread 1", "spread 0"
BITS = CONTINUATION / np.log(2)  # bits of a continuation for each nat a token
FOLDS = 5
MOST_TWICE = 0.75  # of the squares is taken off as counted twice at most; a half is where twins are all there is
ALIKE = 0.2  # correlation of passages of a file, in counting effective clusters only; errors do not assume it
SLOPE = 100  # steps: slopes over exposure step are per so many
TWICE = 20  # files, so that none of the resamples is without
COMPLEXITY = 0.1  # slopes over z-complexity are per so much
TRIED_LAGS = (0, 240, 480)  # steps since exposure at which the trial of the estimators is shown
NEVER = np.iinfo(np.int64).max // 2  # the exposure step of what is not exposed
NEEDED = ("index", "arm", "presentations", "block", "file", "exposure_step", "step", "cross_entropy")
# What a value is compared with: its twins at that step, itself before exposure.
VALUES = {"twins": (True, False), "before": (False, True), "both": (True, True), "kl_ahead": (True, True)}


class Decay(NamedTuple):
    """How memory fades: which curve predicts files it was not fitted to, and both curves for drawing.

    difference : mean squared error of the exponential less that of the power law, bits squared; above 0
    where the power law predicts better. fits : one line a (curve, parameter): value. points : one line a
    bin: since, estimate, exponential, power law.
    """

    difference: Interval
    fits: pd.DataFrame
    points: pd.DataFrame


def against_twins(measured: pd.DataFrame, twins: str = TWINS) -> pd.DataFrame:
    """Log-probability of the exposed beyond the mean of the unexposed of their block, step by step.

    Parameters
    ----------
    measured : as the module says.
    twins : the arm of the unexposed.

    Returns
    -------
    The lines of the exposed, by index and step, with columns bits (positive where the continuation is more
    probable than those of the twins), kl_ahead (tokens; where kl_ld is measured) and since (steps since
    exposure, negative before it).

    Raises
    ------
    ValueError : a block without twins, a passage without some step, a (passage, step) twice.

    >>> table = against_twins(simulated(lambda since: 80 * np.exp(-since / 200), seed=1))
    >>> bool(table[table.since >= 0].bits.mean() > 20 > 10 > abs(table[table.since < 0].bits.mean()))
    True
    """
    t = _trajectories(measured)
    exposed = np.repeat(t.presentations > 0, len(t.steps))
    table = t.lines[exposed].reset_index(drop=True)
    table["bits"] = _centred(t, t.bits, twins).ravel()[exposed]
    if t.kl is not None:
        table["kl_ahead"] = _centred(t, -t.kl, twins).ravel()[exposed]
    return table.assign(since=table.step - table.exposure_step)


def bits(measured: pd.DataFrame) -> pd.Series:
    """Log-probability of each continuation, in bits: without twins and without a baseline.

    >>> bits(pd.DataFrame({"cross_entropy": [np.log(2)]})).tolist()
    [-64.0]
    """
    return -BITS * measured.cross_entropy


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


def faded(since: np.ndarray) -> np.ndarray:
    """An effect to plant, in bits: 80 that fade by half in 120 steps."""
    return 80 * 0.5 ** (since / 120)


def since_exposure(
    measured: pd.DataFrame, arm: str | None = None, twins: str = TWINS, earliest: int = EARLIEST
) -> pd.DataFrame:
    """Bits that exposure has brought, at each checkpoint after it.

    Parameters
    ----------
    measured : as the module says.
    arm : of the exposed; None is all of them.
    earliest : passages first exposed at or before this step are left out, as are those without a checkpoint before.

    Returns
    -------
    One line a (passage, checkpoint at or after exposure), the columns of `measured` and before_step (of the last
    checkpoint before exposure), since (steps), twins, before, both (bits against twins, against before, and the
    difference of both) and, where kl_ld is measured, kl_ahead (tokens, against both).

    >>> table = since_exposure(simulated(lambda since: 80.0 + 0 * since, noise=0, drift=0, file_drift=0, seed=1))
    >>> table.both.round(6).unique().tolist(), int(table.before_step.min())
    ([80.0], 120)
    """
    t = _trajectories(measured)
    lines = _followed(t, arm, earliest)
    table = t.lines.iloc[lines.passage * len(t.steps) + lines.step].reset_index(drop=True)
    table = table.assign(before_step=t.steps[lines.base], since=lines.since)
    for value in VALUES if t.kl is not None else list(VALUES)[:3]:
        table[value] = _differences(t, lines, _Term(value, twins))[1]
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
    measured : as the module says.
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

    >>> table = by_lag(simulated(lambda since: 80 * np.exp(-since / 200), seed=1))
    >>> list(table.lag[:3]), bool(table.low[0] > 50)
    ([0, 60, 120], True)
    """
    t = _trajectories(measured)
    lines = _in_files(t, _followed(t, arm, earliest), every)
    return _told_bins(lines, every, _fit(t, lines, _bins(lines, every), _Term(value, twins)), level)


def by_size(runs: pd.DataFrame, parameters: Mapping[str, str], **options: Any) -> pd.DataFrame:
    """What one exposure leaves in models of several sizes, in words.

    Parameters
    ----------
    runs : as for :func:`by_organism`.
    parameters : of each organism, in words, in the order of the lines.
    options : as for :func:`by_lag`.

    Returns
    -------
    One line an organism that was measured: organism, parameters, n (passages), bits and kl-LD ahead (tokens), in the
    first bin after exposure with 95 % intervals, and half-life (steps, or why there is none).

    Raises
    ------
    ValueError : none of these organisms was measured.

    >>> runs = simulated(lambda since: 80 * np.exp(-since / 200), seed=1).assign(organism="a", kl_ld=60)
    >>> by_size(runs, {"a": "1 M", "b": "9 M"})["half-life"].tolist()
    ['170 (151 to 188)']
    """
    lines = []
    there = [name for name in parameters if name in set(runs.organism)]
    if not there:
        raise ValueError(f"none of {', '.join(parameters)} was measured: make replicates")
    for name in there:
        run = runs[runs.organism == name]
        bits, kl = (by_organism(run, value=value, **options).iloc[0] for value in ("both", "kl_ahead"))
        try:
            line = by_organism(run, half_life, **options).iloc[0]
            reached = np.isfinite(line.high)
            half = Interval(*line[list(Interval._fields)]).brief(0) if reached else line.told
        except ValueError as error:
            half = str(error)
        told = (Interval(line.estimate, line.low, line.high, line.n) for line in (bits, kl))
        lines.append((name, parameters[name], int(bits.n), next(told).brief(1), half, next(told).brief(2)))
    columns = ["organism", "parameters", "n", "bits", "half-life", "kl-LD ahead"]
    return pd.DataFrame(lines, columns=columns)


def counterfactual(runs: pd.DataFrame, arm: str = ONCE, twins: str = TWINS) -> pd.DataFrame:
    """Counterfactual memorisation of each passage: what organisms say of it in which it was met, and in which not.

    The log-probability at the last step, less that of the unexposed of the same organism, averaged over organisms in
    which the passage was presented, minus the same over those in which it was not.

    Parameters
    ----------
    runs : `measured` of several organisms of one text: columns organism, passage (the same in all) and file.
    arm, twins : of those presented, and of those that are not.

    Returns
    -------
    One line a passage that was both: passage, file, exposed, unexposed (numbers of organisms), bits.

    Raises
    ------
    ValueError : no passage was both.

    Source: Zhang et al., Counterfactual memorization in neural language models, NeurIPS 2023, arXiv 2112.12938.

    >>> runs = pd.DataFrame({"organism": ["a", "a", "b", "b"], "passage": [1, 2, 1, 2], "file": 0, "step": 9})
    >>> runs = runs.assign(arm=["spread 1", "spread 0", "spread 0", "spread 1"], cross_entropy=[1.0, 3.0, 3.0, 1.0])
    >>> (counterfactual(runs).bits / BITS).round(6).tolist()
    [2.0, 2.0]
    """
    table = _by_role(runs, arm, twins)
    return table.loc[table.both, ["passage", "file", "exposed", "unexposed", "bits"]].reset_index(drop=True)


def passage_share(runs: pd.DataFrame, arm: str = ONCE, twins: str = TWINS, seed: int = 0) -> Interval:
    """How much of the variance of :func:`counterfactual` over passages is the passage's, and not chance.

    The rest is what two organisms say of one passage in one role: weights, order, and when it was met. Its variance
    in either role is pooled over the passages that had it twice. The share may come out below 0, where there is none.
    The interval is a percentile bootstrap over files, widened as that of :func:`half_life`.

    Parameters
    ----------
    runs, arm, twins : as for :func:`counterfactual`.
    seed : of the bootstrap.

    Raises
    ------
    ValueError : passages that were twice in a role are of fewer than 20 files, or what :func:`counterfactual` refuses.

    Source: reliability by analysis of variance; Shrout and Fleiss 1979, doi 10.1037/0033-2909.86.2.420.
    """
    table = _by_role(runs, arm, twins)
    used = table.both.to_numpy()
    numbers = {name: table[name].to_numpy(dtype=float) for name in ("exposed", "unexposed", "squares", "squares_not")}
    exposed, unexposed, squares, squares_not = numbers.values()
    spare, spare_not = np.maximum(exposed - 1, 0), np.maximum(unexposed - 1, 0)
    twice = min(table.file[of > 0].nunique() for of in (spare, spare_not))
    if twice < TWICE:
        raise ValueError(
            f"what is chance is told by passages that two organisms have met, and that two have not, of {TWICE} files "
            f"each; got {twice}"
        )
    bits = np.where(used, table.bits, 0.0)
    inverse, inverse_not = (np.where(used, 1 / np.maximum(n, 1), 0.0) for n in (exposed, unexposed))
    files, code = np.unique(table.file, return_inverse=True)

    def share(times: np.ndarray) -> np.ndarray:
        n = times @ used
        error = (times @ squares) / (times @ spare) * (times @ inverse) / n
        error += (times @ squares_not) / (times @ spare_not) * (times @ inverse_not) / n
        return 1 - error * (n - 1) / (times @ bits**2 - (times @ bits) ** 2 / n)

    tail = stats.norm.sf(stats.t.ppf((1 + LEVEL) / 2, len(files) - 1))
    low, high = np.quantile(share(_multiplicities(len(files), seed)[:, code]), [tail, 1 - tail])
    return Interval(float(share(np.ones((1, len(code))))[0]), float(low), float(high), int(used.sum()))


def _by_role(runs: pd.DataFrame, arm: str, twins: str) -> pd.DataFrame:
    """Each passage at the last step: organisms in either role, the difference of means, and sums of squares within."""
    last = runs[(runs.step == runs.groupby("organism").step.transform("max")) & runs.arm.isin([arm, twins])]
    last = last.assign(bits=bits(last), met=last.arm == arm)
    last["bits"] -= last.organism.map(last[~last.met].groupby("organism").bits.mean())
    roles = []
    for role in (True, False):
        of = last[last.met == role].groupby("passage").bits
        roles.append(pd.DataFrame({"n": of.size(), "mean": of.mean(), "squares": of.var() * (of.size() - 1)}))
    each = last.drop_duplicates("passage").set_index("passage")[["file"]].sort_index()
    exposed, unexposed = (table.reindex(each.index) for table in roles)
    found = each.assign(exposed=exposed.n.fillna(0).astype(int), unexposed=unexposed.n.fillna(0).astype(int))
    found["bits"] = exposed["mean"] - unexposed["mean"]
    found = found.assign(squares=exposed.squares, squares_not=unexposed.squares)
    found["both"] = (found.exposed > 0) & (found.unexposed > 0)
    if not found.both.any():
        raise ValueError("counterfactual memorisation needs passages that one organism has met and another has not")
    return found.fillna({"squares": 0.0, "squares_not": 0.0}).reset_index()


def by_organism(runs: pd.DataFrame, find: Callable[..., pd.DataFrame] = by_lag, **options: Any) -> pd.DataFrame:
    """An estimate of each organism.

    Parameters
    ----------
    runs : `measured` of several, told apart by a column organism; passages that are not followed are left out.
    find : :func:`by_lag`, :func:`half_life` or another of these. options : its arguments.

    Returns
    -------
    Its columns, and organism.
    """
    found = []
    for name, measured in runs.groupby("organism", sort=False):
        followed = measured.groupby("index").step.transform("nunique") == measured.step.nunique()
        found.append(find(measured[followed], **options).assign(organism=name))
    return pd.concat(found, ignore_index=True)


def half_life(
    measured: pd.DataFrame,
    every: int = EVERY,
    quartiles: bool = False,
    arm: str = ONCE,
    twins: str = TWINS,
    earliest: int = EARLIEST,
    seed: int = 0,
) -> pd.DataFrame:
    """The least time since exposure at which half of the first bits is left.

    Of passages exposed before the middle of training, so that all are followed for half of it; linear between the
    means of bins, at their mean times. The interval is a percentile bootstrap over files, whose tails are widened to
    those of a t-interval (Hesterberg 2015, doi 10.1080/00031305.2015.1089789, "expanded percentile").

    Parameters
    ----------
    measured : as the module says.
    quartiles : a line for each quarter of the passages by exposure step, instead of one of all.
    seed : of the bootstrap.

    Returns
    -------
    One line a set of passages: quartile (0 of all), from_step and to_step (first and last exposure), first (bits),
    estimate, low, high (steps; inf where half is not reached while followed), n, clusters, followed (steps) and told,
    which says all this in words.

    Raises
    ------
    ValueError : the interval of the first bits does not lie above 0, so there is nothing to halve.

    >>> half_life(simulated(lambda since: 80 * np.exp(-since / 200), seed=1)).told[0]
    '170 steps (95 % interval 151 to 188)'
    >>> half_life(simulated(lambda since: 80.0 + 0 * since, seed=1)).told[0]
    'not reached within 450 steps'
    """
    t = _trajectories(measured)
    found = []
    for number, lines in _quartiles(t, _panel(t, arm, earliest, every), quartiles):
        design = _bins(lines, every)
        fit = _fit(t, lines, design, _Term("both", twins))
        since = _means(design, lines.since)
        first = _intervals(fit)[0]
        if first.low <= 0:
            raise ValueError(f"a half-life needs first bits whose interval lies above 0; got {first:.1f}")
        draws = _half_times(_resampled(t, lines, fit, seed), since)
        tail = stats.norm.sf(stats.t.ppf((1 + LEVEL) / 2, fit.effective[0] - 1))
        low, high = np.quantile(draws, [tail, 1 - tail], method="inverted_cdf")
        line = Interval(_half_times(fit.estimate[None], since)[0], low, high, first.n)
        exposure = t.exposure[lines.passage]
        told = _told_time(line, since[-1])
        found.append((number, exposure.min(), exposure.max(), first.estimate, *line, fit.clusters[0], since[-1], told))
    columns = ["quartile", "from_step", "to_step", "first", *Interval._fields, "clusters", "followed", "told"]
    return pd.DataFrame(found, columns=columns)


def decay_shape(
    measured: pd.DataFrame,
    every: int = EVERY,
    arm: str = ONCE,
    twins: str = TWINS,
    earliest: int = EARLIEST,
    seed: int = 0,
) -> Decay:
    """Whether memory fades as A exp(-t / tau) or as A (1 + t / t0)^-b.

    The mean curve of the panel of :func:`half_life` in four fifths of the files is fitted by least squares, and
    predicts that of the other fifth. Given the fits, the difference of the squared errors is a mean over the files
    left out, and has their cluster-robust interval (Bayle et al. 2020, arXiv 2007.12671, "Cross-validation
    confidence intervals").

    Parameters
    ----------
    measured : as the module says.
    seed : of the assignment of files to fifths.

    Raises
    ------
    ValueError : fewer than 10 files, two a fifth, or fewer than 4 bins.

    >>> found = decay_shape(simulated(lambda since: 80 * (1 + since / 30) ** -0.7, blocks=32, noise=1, drift=1, seed=1))
    >>> found.difference.low > 0, list(found.fits.parameter)
    (True, ['A', 'tau', 'A', 't0', 'b'])
    """
    t = _trajectories(measured)
    lines = _panel(t, arm, earliest, every)
    design = _bins(lines, every)
    since = _means(design, lines.since)
    fit = _fit(t, lines, design, _Term("both", twins))
    if len(since) < 4 or fit.clusters[0] < 2 * FOLDS:
        raise ValueError(
            f"shapes of decay need 4 bins and {2 * FOLDS} files; got {len(since)} bins, {fit.clusters[0]} files"
        )
    passages = _sums(t.file[lines.passage], design[:, :1], t.files)[:, 0]  # a file's part of the first bin: all bins
    sums = fit.shares * fit.n + passages[:, None] * fit.estimate
    order = np.lexsort((np.random.default_rng(seed).random(t.files), -passages))
    fold = np.empty(t.files, dtype=int)
    fold[order] = np.resize(np.r_[:FOLDS, FOLDS - 1 : -1 : -1], t.files)  # there and back: fifths of one size
    held, size = _sums(fold, sums, FOLDS), _sums(fold, passages[:, None], FOLDS)
    exponential, power = (
        _values(_least_squares((held.sum(0) - held) / (size.sum() - size), since, powers), since)
        for powers in (False, True)
    )
    apart, middle, seen = power - exponential, power + exponential, held / size
    errors = (apart * (2 * seen - middle)).mean(axis=1)  # (y - e)^2 - (y - p)^2 = (p - e) (2 y - e - p)
    rest = sums - passages[:, None] * seen[fold]
    shares = (2 * apart[fold] * rest / size[fold]).mean(axis=1) / FOLDS
    spread = _Fit(np.array([errors.mean()]), shares[:, None], fit.effective[:1], fit.n[:1], fit.clusters[:1])
    whole = [_least_squares(fit.estimate[None], since, powers) for powers in (False, True)]
    (a, tau, _), (c, scale, b) = (np.ravel(parameters) for parameters in whole)
    fits = [("exponential", "A", a), ("exponential", "tau", tau)]
    fits += [("power law", "A", c), ("power law", "t0", b * scale), ("power law", "b", b)]
    drawn = [_values(parameters, since)[0] for parameters in whole]
    points = pd.DataFrame({"since": since, "estimate": fit.estimate, "exponential": drawn[0], "power law": drawn[1]})
    return Decay(_intervals(spread)[0], pd.DataFrame(fits, columns=["curve", "parameter", "value"]), points)


def early_against_late(
    measured: pd.DataFrame, every: int = EVERY, arm: str = ONCE, twins: str = TWINS, earliest: int = EARLIEST
) -> pd.DataFrame:
    """Slopes of bits over exposure step, at equal time since exposure.

    Returns
    -------
    Two lines, term "first" (bits in the first bin, of all) and "kept" (bits in the last bin of the panel of
    :func:`half_life`, that of half of training since exposure): estimate, low, high (bits for each 100 steps later), n,
    clusters.

    Raises
    ------
    ValueError : all are exposed at one step.

    >>> table = early_against_late(simulated(lambda since: 80 * np.exp(-since / 200), seed=1))
    >>> list(table.term), bool(table.estimate.abs().max() < 2)
    (['first', 'kept'], True)
    """
    t = _trajectories(measured)
    found = []
    for term, lines, within in _first_and_kept(t, arm, earliest, every):
        steps = t.exposure[lines.passage]
        if np.ptp(steps) == 0:
            raise ValueError(f"a slope over exposure step needs two different ones; all are exposed at {steps[0]}")
        design = np.column_stack([np.ones(len(steps)), (steps - steps.mean()) / SLOPE, within])
        fit = _fit(t, lines, design, _Term("both", twins))
        found.append((term, *_intervals(fit)[1], fit.clusters[1]))
    return pd.DataFrame(found, columns=["term", *Interval._fields, "clusters"])


def by_complexity(
    measured: pd.DataFrame, every: int = EVERY, arm: str = ONCE, twins: str = TWINS, earliest: int = EARLIEST
) -> pd.DataFrame:
    """Slopes of bits over z-complexity, at equal exposure step and equal time since exposure.

    Parameters
    ----------
    measured : as the module says, and z_complexity.

    Returns
    -------
    As :func:`early_against_late`, in bits for each 0.1 of z-complexity.

    Raises
    ------
    ValueError : no column z_complexity, or it does not vary apart from the exposure step.

    >>> table = simulated(lambda since: 80 * np.exp(-since / 200), seed=1)
    >>> table = table.assign(z_complexity=table["index"] % 7 / 10)
    >>> bool(by_complexity(table).estimate.abs().max() < 3)
    True
    """
    t = _trajectories(measured)
    z = _column(measured, t, "z_complexity").astype(float)
    found = []
    for term, lines, within in _first_and_kept(t, arm, earliest, every):
        x, steps = z[lines.passage] / COMPLEXITY, t.exposure[lines.passage] / SLOPE
        design = np.column_stack([np.ones(len(x)), x - x.mean(), steps - steps.mean(), within])
        fit = _fit(t, lines, design, _Term("both", twins))
        found.append((term, *_intervals(fit)[1], fit.clusters[1]))
    return pd.DataFrame(found, columns=["term", *Interval._fields, "clusters"])


def fading(
    measured: pd.DataFrame,
    every: int = EVERY,
    arm: str = ONCE,
    twins: str = TWINS,
    earliest: int = EARLIEST,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """The panel of :func:`half_life` for drawing: its mean with both curves of decay, and its quarters.

    Parameters
    ----------
    measured, every, arm, twins, earliest, seed : as for :func:`decay_shape`.

    Returns
    -------
    Two tables by what their y axis is called, one line a point: step, of (what it is of), estimate, and of the second
    low and high. Step is that since exposure, and in the second the first exposure of a quarter.

    >>> list(fading(simulated(lambda since: 80 * np.exp(-since / 200), seed=1)).values())[0].of.unique().tolist()
    ['panel', 'exponential', 'power law']
    """
    points = decay_shape(measured, every, arm, twins, earliest, seed).points.rename(columns={"since": "step"})
    points = points.rename(columns={"estimate": "panel"}).melt("step", var_name="of", value_name="estimate")
    quarters = by_quartile(measured, every, arm, twins, earliest).rename(columns={"from_step": "step", "when": "of"})
    return {"bits": points, "bits of a quarter of the panel": quarters}


def by_quartile(
    measured: pd.DataFrame, every: int = EVERY, arm: str = ONCE, twins: str = TWINS, earliest: int = EARLIEST
) -> pd.DataFrame:
    """Mean bits of the panel of :func:`half_life` by quarter of exposure step, at the first checkpoint and at the end.

    Returns
    -------
    One line a (quartile, when): quartile (1 .. 4), from_step, to_step, when ("first" or "kept"), lag, since, estimate,
    low, high, n, clusters.

    >>> by_quartile(simulated(lambda since: 80 * np.exp(-since / 200), seed=1)).when.value_counts().to_dict()
    {'first': 4, 'kept': 4}
    """
    t = _trajectories(measured)
    found = []
    for number, lines in _quartiles(t, _panel(t, arm, earliest, every), True):
        exposure = t.exposure[lines.passage]
        table = _told_bins(lines, every, _fit(t, lines, _bins(lines, every), _Term("both", twins)))
        ends = table.iloc[[0, -1]].assign(when=["first", "kept"], quartile=number)
        found.append(ends.assign(from_step=exposure.min(), to_step=exposure.max()))
    columns = ["quartile", "from_step", "to_step", "when", "lag", "since", *Interval._fields, "clusters"]
    return pd.concat(found, ignore_index=True)[columns]


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
    measured : as the module says.
    twins : the arm of the never exposed; blocks are not looked at.

    Returns
    -------
    As :func:`by_lag`, in bits.

    >>> table = over_cohorts(simulated(lambda since: 80 * np.exp(-since / 200), seed=1))
    >>> bool(50 < table.low[0] < table.high[0] < 100)
    True
    """
    t = _trajectories(measured)
    lines = _in_files(t, _followed(t, arm, earliest), every)
    return _told_bins(lines, every, _fit(t, lines, _bins(lines, every), _Term("both", twins, pooled=True)))


def randomised(
    measured: pd.DataFrame, every: int = EVERY, arm: str = ONCE, twins: str = TWINS, earliest: int = EARLIEST
) -> pd.DataFrame:
    """The exposed less their twins, without a baseline: right by chance's assignment alone. As :func:`by_lag`, in bits.

    >>> table = randomised(simulated(lambda since: 80 * np.exp(-since / 200), seed=1))
    >>> bool(50 < table.low[0] < table.high[0] < 100)
    True
    """
    return by_lag(measured, "twins", every, arm, twins, earliest)


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

    >>> table = bias(simulated(lambda since: 80 * np.exp(-since / 200), seed=1))
    >>> bool(table.low[0] < 0 < table.high[0])
    True
    """
    t = _trajectories(measured)
    lines = _in_files(t, _followed(t, arm, earliest), every)
    design = _bins(lines, every)
    cohorts, chance = _Term("both", controls or twins, pooled=True), _Term("twins", twins)
    table = _told_bins(lines, every, _fit(t, lines, design, cohorts, chance._replace(sign=-1)))
    return table.assign(first=_means(design, _differences(t, lines, chance)[1])[0])


def estimates(measured: pd.DataFrame, controls: str, **shared: Any) -> pd.DataFrame:
    """:func:`randomised` and :func:`over_cohorts` under one another, told apart by a column estimator.

    Parameters
    ----------
    measured : as the module says.
    controls : the arm that cohorts are compared with. shared : arguments of both.

    >>> table = simulated(lambda since: 80 * np.exp(-since / 200), seed=1)
    >>> estimates(table, "spread 0").estimator.unique().tolist()
    ['randomised', 'over cohorts']
    """
    found = {"randomised": randomised(measured, **shared)}
    found["over cohorts"] = over_cohorts(measured, **shared | {"twins": controls})
    return pd.concat([table.assign(estimator=name) for name, table in found.items()], ignore_index=True)


def tried(measured: pd.DataFrame, twins: str, n_sets: int, seed: int, every: int) -> pd.DataFrame:
    """:func:`rerandomised` of the unexposed of a table, for a page: an effect that fades, at three lags.

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

    >>> never = simulated(lambda since: 0 * since, arms={"spread 0": 8}, seed=1)
    >>> rerandomised(never, lambda since: 80 * np.exp(-since / 200), n_sets=20).estimator.unique().tolist()
    ['both', 'over cohorts', 'randomised']
    """
    t = _trajectories(unexposed)
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
        lines = _followed(drawn, ONCE, earliest)
        lines = _only(lines, lines.since < every * _common_bins(t.steps, earliest, every))
        design = _bins(lines, every)
        planted = _means(design, added[lines.passage, lines.step])
        lags = np.unique(lines.since // every) * every
        for name, term in ESTIMATORS.items():
            for lag, truth, line in zip(lags, planted, _intervals(_fit(drawn, lines, design, term)), strict=True):
                found.append((name, lag, truth, line.estimate, line.low, line.high, 1))
    table = pd.DataFrame(found, columns=["estimator", "lag", "planted", "estimate", "low", "high", "sets"])
    table["planted"] = table.groupby("lag").planted.transform("mean")  # over times of exposure too
    table = table.assign(bias=table.estimate - table.planted, spread=table.estimate)
    table["coverage"] = (table.low <= table.planted) & (table.planted <= table.high)
    ways = {"planted": "mean", "bias": "mean", "spread": "std", "coverage": "mean", "sets": "sum"}
    table = table.groupby(["estimator", "lag"]).agg(ways).reset_index()
    table.insert(4, "bias_error", table.spread / np.sqrt(table.sets))
    return table


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

    >>> table = simulated(lambda since: 80 + 0 * since, arms={"spread 0": 4, "spread 1": 4, "spread 4": 4}, seed=1)
    >>> list(recency_and_repetition(table[table.step == 840]).term)
    ['presentations', 'recency']
    """
    t, lines = _at_end(measured_at_end)
    last = _column(measured_at_end, t, "last_step")[lines.passage]
    doublings = np.log2(t.presentations[lines.passage])
    recency = np.log2(t.steps[0] - last + 1)
    if np.ptp(doublings) == 0 or np.ptp(recency) == 0:
        raise ValueError("recency and repetition need two numbers of presentations and two last steps; all are alike")
    fit = _fit(t, lines, np.column_stack([np.ones(len(recency)), doublings, recency]), _Term("twins", twins))
    found = [(term, *_intervals(fit)[k], fit.clusters[k]) for k, term in ((1, "presentations"), (2, "recency"))]
    return pd.DataFrame(found, columns=["term", *Interval._fields, "clusters"])


def by_presentations(measured_at_end: pd.DataFrame, twins: str = TWINS) -> pd.DataFrame:
    """Mean bits against twins of each arm of the exposed, at one step.

    Returns
    -------
    One line an arm: arm, presentations, estimate, low, high (bits), n, clusters; by presentations.

    >>> table = simulated(lambda since: 80 + 0 * since, arms={"spread 0": 4, "spread 1": 4, "spread 4": 4}, seed=1)
    >>> by_presentations(table[table.step == 840]).arm.tolist()
    ['spread 1', 'spread 4']
    """
    t, lines = _at_end(measured_at_end)
    arm, m = t.arm[lines.passage], t.presentations[lines.passage]
    arms, codes = np.unique(arm.astype(str), return_inverse=True)
    fit = _fit(t, lines, np.eye(len(arms))[codes], _Term("twins", twins))
    found = [
        (name, m[codes == k].max(), *line, fit.clusters[k])
        for k, (name, line) in enumerate(zip(arms, _intervals(fit), strict=True))
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

    >>> table = simulated(lambda since: 80 + 0 * since, arms={"spread 0": 4, "spread 1": 4, "spread 4": 4}, seed=1)
    >>> worth(table[table.step == 840], "spread 1", "spread 4").estimate < 1
    True
    """
    t, lines = _at_end(measured_at_end)
    if missing := [name for name in (arm, exact) if name not in set(t.arm[lines.passage])]:
        raise ValueError(f"a ratio of two arms needs both; there are no exposed passages of {', '.join(missing)}")
    lines = _only(lines, np.isin(t.arm[lines.passage], [arm, exact]))
    design = np.column_stack([t.arm[lines.passage] == name for name in (arm, exact)]).astype(float)
    fit = _fit(t, lines, design, _Term("twins", twins))
    a, b = fit.estimate
    (vaa, vab), (_, vbb) = fit.shares.T @ fit.shares
    apart = design / design.sum(axis=0) @ [[1.0], [-a / b]]
    effective = _effective(t.file[lines.passage], apart, t.files)[0]
    q = stats.t.ppf((1 + LEVEL) / 2, max(effective - 2, 1)) ** 2
    if b**2 <= q * vbb:
        raise ValueError(f"a ratio needs a denominator whose interval excludes 0; {exact} has {_intervals(fit)[1]:.1f}")
    root = np.sqrt((a * b - q * vab) ** 2 - (b * b - q * vbb) * (a * a - q * vaa))
    low, high = ((a * b - q * vab) + np.array([-1, 1]) * root) / (b * b - q * vbb)
    return Interval(float(a / b), float(low), float(high), len(lines.passage))


def palimpsest(measured_at_end: pd.DataFrame, arm: str = ONCE, seed: int = 0) -> Interval:
    """Rank correlation of log-likelihood with the order of exposure, among passages presented once.

    Spearman's, with a percentile bootstrap over files. Above 0 where what came later is more probable. Needs no twins.

    Raises
    ------
    ValueError : more than one step, fewer than two files, or no variation.

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
    draws = _spearman(likely, order, _multiplicities(len(files), seed)[:, code])
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(rho), float(low), float(high), len(code))


def simulated(
    effect: Callable[[np.ndarray], np.ndarray],
    arms: Mapping[str, int] | None = None,
    blocks: int = 16,
    files: int = 60,
    last: int = 840,
    every: int = EVERY,
    noise: float = 6.0,
    drift: float = 20.0,
    file_drift: float = 10.0,
    file_effect: float = 0.0,
    seed: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """Trajectories whose truth is known, to try estimators on before anything is measured.

    Log-probability is a level of the block and of the passage, a common curve of the step, a drift of the file and of
    the passage (a straight line and a random walk, in halves of the variance), noise, and the effect of each
    presentation.

    Parameters
    ----------
    effect : of an array of steps since a presentation, in bits.
    arms : passages in every block; the last word of a name is its presentations. None is 8 of "spread 0" and 8 of
        "spread 1".
    files : from which chance takes the passages, the first ones more often.
    noise : at each checkpoint, bits. drift, file_drift : standard deviation over all of training, bits.
    file_effect : standard deviation over files of the factor, around 1, by which the effect is multiplied.

    Returns
    -------
    A table `measured`, without kl_ld.

    >>> table = simulated(lambda since: 80 + 0 * since, blocks=2)
    >>> len(table) == 2 * 16 * 15, sorted(table.arm.unique())
    (True, ['spread 0', 'spread 1'])
    """
    rng = np.random.default_rng(seed)
    arms = {TWINS: 8, ONCE: 8} if arms is None else arms
    names = np.tile(np.repeat(list(arms), list(arms.values())), blocks)
    m = np.array([int(name.split()[-1]) for name in names])
    n, steps = len(names), np.arange(0, last + 1, every)
    block = np.repeat(np.arange(blocks), n // blocks)
    share = 1 / (np.arange(files) + 5)
    file = rng.choice(files, n, p=share / share.sum())
    bits = -300 + 10 * block[:, None] + rng.normal(0, 10, (n, 1)) + 100 * (1 - np.exp(-steps / 300))
    for size, who in ((drift, np.arange(n)), (file_drift, file)):
        line, walk = rng.normal(size=(who.max() + 1, 1)), rng.normal(size=(who.max() + 1, len(steps)))
        walk[:, 0] = 0
        path = line * steps / last + np.cumsum(walk, axis=1) / np.sqrt(len(steps) - 1)
        bits = bits + size / np.sqrt(2) * path[who]
    bits += noise * rng.normal(size=bits.shape)
    times = np.where(np.arange(max(m.max(), 1)) < m[:, None], rng.integers(1, last + 1, (n, max(m.max(), 1))), last + 1)
    factor = 1 + file_effect * rng.normal(size=files)[file]
    for time in times.T:
        since = steps - time[:, None]
        bits += factor[:, None] * np.where((since >= 0) & (time <= last)[:, None], effect(np.maximum(since, 0)), 0.0)
    final = np.where(m > 0, np.where(times <= last, times, 0).max(axis=1), last + 1)
    one = {"index": np.arange(n), "arm": names.astype(object), "presentations": m, "block": block, "file": file}
    one |= {"exposure_step": times.min(axis=1), "last_step": final}
    table = {column: np.repeat(values, len(steps)) for column, values in one.items()}
    return pd.DataFrame({**table, "step": np.tile(steps, n), "cross_entropy": -bits.ravel() / BITS})


# What follows works on arrays: passages by steps.


class _Trajectories(NamedTuple):
    """n passages at S steps."""

    lines: pd.DataFrame  # (n * S) lines, by index and step
    steps: np.ndarray  # (S,)
    arm: np.ndarray  # (n,), as are the next four
    presentations: np.ndarray
    block: np.ndarray  # numbered from 0
    file: np.ndarray  # numbered from 0
    exposure: np.ndarray
    files: int
    bits: np.ndarray  # (n, S) log-probability of the continuation
    kl: np.ndarray | None  # (n, S) tokens


class _Lines(NamedTuple):
    """L pairs of an exposed passage and a checkpoint at or after its exposure, as places in a _Trajectories."""

    passage: np.ndarray
    step: np.ndarray
    base: np.ndarray  # the last checkpoint before exposure
    since: np.ndarray  # steps


class _Term(NamedTuple):
    """What is compared with what: a value, the arm of the twins, and whether blocks are looked at."""

    value: str
    twins: str
    pooled: bool = False
    sign: int = 1


ESTIMATORS = {
    "both": _Term("both", TWINS),
    "over cohorts": _Term("both", TWINS, pooled=True),
    "randomised": _Term("twins", TWINS),
}


class _Fit(NamedTuple):
    """q least-squares estimates, and what each of F files adds to their errors."""

    estimate: np.ndarray  # (q,)
    shares: np.ndarray  # (F, q)
    effective: np.ndarray  # (q,) clusters
    n: np.ndarray  # (q,) passages
    clusters: np.ndarray  # (q,) files


def _trajectories(measured: pd.DataFrame) -> _Trajectories:
    if missing := [column for column in NEEDED if column not in measured]:
        raise ValueError(f"measured needs columns {', '.join(NEEDED)}; {', '.join(missing)} missing")
    if measured.empty:
        raise ValueError("measured has no lines")
    order = np.lexsort((measured.step.to_numpy(), measured["index"].to_numpy()))
    lines = measured.iloc[order]
    index, step = lines["index"].to_numpy(), lines.step.to_numpy()
    if (twice := (index[1:] == index[:-1]) & (step[1:] == step[:-1])).any():
        where = int(np.argmax(twice))
        raise ValueError(f"one line a (passage, step) is needed; passage {index[where]} has step {step[where]} twice")
    steps = np.unique(step)
    n = 1 + int((index[1:] != index[:-1]).sum())
    if len(index) != n * len(steps):
        names, counts = np.unique(index, return_counts=True)
        short = names[np.argmin(counts)]
        raise ValueError(f"each passage needs all {len(steps)} steps; passage {short} has {counts.min()}")
    loss = lines.cross_entropy.to_numpy(dtype=float)
    if not np.isfinite(loss).all():
        raise ValueError(f"cross_entropy is not a number in {(~np.isfinite(loss)).sum()} lines of {len(loss)}")
    first = slice(None, None, len(steps))
    block, file = (np.unique(lines[column].to_numpy()[first], return_inverse=True) for column in ("block", "file"))
    return _Trajectories(
        lines=lines,
        steps=steps,
        arm=lines.arm.to_numpy(dtype=object)[first],
        presentations=lines.presentations.to_numpy()[first],
        block=block[1],
        file=file[1],
        exposure=lines.exposure_step.fillna(NEVER).to_numpy(dtype=np.int64)[first],
        files=len(file[0]),
        bits=-BITS * loss.reshape(n, -1),
        kl=lines.kl_ld.to_numpy(dtype=float).reshape(n, -1) if "kl_ld" in lines else None,
    )


def _column(measured: pd.DataFrame, t: _Trajectories, name: str) -> np.ndarray:
    """A column of `measured`, by passage."""
    if name not in measured:
        raise ValueError(f"measured needs a column {name}")
    return t.lines[name].to_numpy()[:: len(t.steps)]


def _at_end(measured: pd.DataFrame, arm: str | None = None) -> tuple[_Trajectories, _Lines]:
    """The exposed passages of a table of one step."""
    t = _trajectories(measured)
    if len(t.steps) != 1:
        raise ValueError(f"measured at the end has one step; got {len(t.steps)}: {t.steps[0]} .. {t.steps[-1]}")
    who = np.flatnonzero((t.presentations > 0) & (t.exposure <= t.steps[0]) & ((t.arm == arm) | (arm is None)))
    if not len(who):
        raise ValueError(f"no passage{f' of {arm}' if arm else ''} is exposed at step {t.steps[0]} or before")
    return t, _Lines(who, 0 * who, 0 * who, t.steps[0] - t.exposure[who])


def _followed(t: _Trajectories, arm: str | None, earliest: int) -> _Lines:
    """Passages with a checkpoint before exposure, at all checkpoints at or after it."""
    base = np.searchsorted(t.steps, t.exposure, side="left") - 1
    who = (t.presentations > 0) & (t.exposure > earliest) & (base >= 0) & ((t.arm == arm) | (arm is None))
    passage, step = np.nonzero(who[:, None] & (t.steps >= t.exposure[:, None]))
    if not len(passage):
        wanted = f"passages{f' of {arm}' if arm else ''} exposed after step {earliest} and up to step {t.steps[-1]}"
        raise ValueError(f"{wanted} are needed; of {len(who)} there are none")
    return _Lines(passage, step, base[passage], t.steps[step] - t.exposure[passage])


def _in_files(t: _Trajectories, lines: _Lines, every: int) -> _Lines:
    """Those in bins of time since exposure whose passages come from two files or more; all, if there are none."""
    bins = lines.since // every
    files = pd.Series(t.file[lines.passage]).groupby(bins).transform("nunique").to_numpy()
    return _only(lines, files >= 2) if (files >= 2).any() else lines


def _only(lines: _Lines, kept: np.ndarray) -> _Lines:
    return _Lines(*(values[kept] for values in lines))


def _panel(t: _Trajectories, arm: str, earliest: int, every: int) -> _Lines:
    """Passages exposed before the middle of training, in the bins in which all of them are seen."""
    lines = _followed(t, arm, earliest)
    lines = _only(lines, t.exposure[lines.passage] <= t.steps[-1] / 2)
    if not len(lines.passage):
        raise ValueError(f"a panel needs passages exposed after step {earliest} and by {t.steps[-1] // 2}; got none")
    bins = lines.since // every
    seen = np.array([len(np.unique(lines.passage[bins == number])) for number in range(bins.max() + 1)])
    whole = int(np.cumprod(seen == len(np.unique(lines.passage))).sum())
    if whole < 2:
        raise ValueError(f"a panel needs two bins of {every} steps in which all are seen; got {whole}: widen `every`")
    return _only(lines, bins < whole)


def _first_and_kept(t: _Trajectories, arm: str, earliest: int, every: int) -> Iterator[tuple[str, _Lines, np.ndarray]]:
    """Everyone in the first bin, the panel in its last; and columns that make times within the bin equal."""
    panel = _panel(t, arm, earliest, every)
    for term, lines, bin_ in (
        ("first", _followed(t, arm, earliest), 0),
        ("kept", panel, panel.since.max() // every),
    ):
        lines = _only(lines, lines.since // every == bin_)
        offset = lines.since / every - bin_ - 0.5
        yield term, lines, offset[:, None] ** np.arange(1, min(len(np.unique(offset)), 3))  # a parabola


def _common_bins(steps: np.ndarray, earliest: int, every: int) -> int:
    """Bins reached by at least half of those exposed evenly after `earliest`, so that none is nearly empty."""
    return max(int((steps[-1] - earliest) / 2 // every), 1)


def _quartiles(t: _Trajectories, lines: _Lines, split: bool) -> list[tuple[int, _Lines]]:
    if not split:
        return [(0, lines)]
    passages = np.unique(lines.passage)
    if len(passages) < 8:
        raise ValueError(f"quarters need 8 passages, two each; got {len(passages)}")
    edges = np.quantile(t.exposure[passages], [0.25, 0.5, 0.75])
    quarter = np.searchsorted(edges, t.exposure[lines.passage], side="left")
    return [(number + 1, _only(lines, quarter == number)) for number in np.unique(quarter)]


def _bins(lines: _Lines, every: int) -> np.ndarray:
    """(L, bins): 1 where a line lies in a bin of time since exposure."""
    bins, code = np.unique(lines.since // every, return_inverse=True)
    return np.eye(len(bins))[code]


def _means(design: np.ndarray, values: np.ndarray) -> np.ndarray:
    return design.T @ values / design.sum(axis=0)


def _sums(code: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """(n, q): the sums of the lines (L, q) of each code."""
    each = np.arange(len(code) + 1)  # a column a line, with one 1 in it
    return sparse.csc_array((np.ones(len(code)), code, each), shape=(n, len(code))) @ values


def _centred(t: _Trajectories, values: np.ndarray, twins: str, pooled: bool = False) -> np.ndarray:
    """Values (n, S) less the mean of the twins of the block, or of all."""
    of = 0 * t.block if pooled else t.block
    who = t.arm == twins
    count = np.bincount(of[who], minlength=of.max() + 1)
    needed = np.unique(of[t.presentations > 0])
    if not count[needed].all():
        raise ValueError(
            f"each block needs passages of {twins}; {(count[needed] == 0).sum()} of {len(needed)} blocks have none"
        )
    return values - (_sums(of[who], values[who], len(count)) / np.maximum(count, 1)[:, None])[of]


def _differences(t: _Trajectories, lines: _Lines, term: _Term) -> tuple[np.ndarray, np.ndarray]:
    """Trajectories (n, S) to compare, and the value of each line (L,)."""
    if term.value not in VALUES:
        raise ValueError(f"a value is one of {', '.join(VALUES)}; got {term.value!r}")
    against, before = VALUES[term.value]
    y = t.bits
    if term.value == "kl_ahead":
        if t.kl is None:
            raise ValueError("kl_ahead needs a column kl_ld")
        y = -t.kl
    if against:
        y = _centred(t, y, term.twins, term.pooled)
    found = y[lines.passage, lines.step]
    return y, found - y[lines.passage, lines.base] if before else found


def _fit(t: _Trajectories, lines: _Lines, design: np.ndarray, *terms: _Term) -> _Fit:
    """Least squares of the sum of terms on a design (L, q), with what each file adds to the errors, twins included.

    Residuals of a file with a share h of the weight are short by 1 - h (Bell and McCaffrey 2002, CR2). That of an
    exposed passage holds the deviation of its block's twins, which the part of the twins holds again: so much is taken
    off the sum of squares.
    """
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise ValueError(f"{design.shape[1]} numbers cannot be told apart from {len(design)} lines: too little varies")
    weights = design @ np.linalg.inv(design.T @ design)
    found, twins, alone = np.zeros(len(design)), np.zeros((len(t.block), design.shape[1])), np.zeros(design.shape[1])
    for term in terms:
        y, differences = _differences(t, lines, term)
        if not np.isfinite(differences).all():
            missing = (~np.isfinite(differences)).sum()
            raise ValueError(f"{term.value} is missing in {missing} lines of {len(differences)}")
        found += term.sign * differences
        if VALUES[term.value][0]:
            added, already = _of_twins(t, lines, weights, y, term)
            twins, alone = twins - term.sign * added, alone + already
    estimate = weights.T @ found
    file = t.file[lines.passage]
    squares = _sums(file, weights**2, t.files)
    clusters = (squares > 0).sum(axis=0)
    if clusters.min() < 2:
        raise ValueError(f"errors by file need passages of 2 files for each estimate; got {clusters.min()}")
    shares = _sums(file, weights * (found - design @ estimate)[:, None], t.files)
    shares = shares / np.sqrt(1 - squares / squares.sum(axis=0)) + _sums(t.file, twins, t.files)
    seen = (shares**2).sum(axis=0)
    shares *= np.sqrt(1 - np.minimum(alone, MOST_TWICE * seen) / np.where(seen > 0, seen, 1))
    passages = (_sums(lines.passage, weights**2, len(t.block)) > 0).sum(axis=0)
    return _Fit(estimate, shares, _effective(file, weights, t.files), passages, clusters)


def _effective(file: np.ndarray, weights: np.ndarray, files: int) -> np.ndarray:
    """(q,): the number of equal clusters whose errors would be known as well, were lines of a file ALIKE correlated."""
    variance = (1 - ALIKE) * _sums(file, weights**2, files) + ALIKE * _sums(file, weights, files) ** 2
    return variance.sum(axis=0) ** 2 / (variance**2).sum(axis=0)


def _of_twins(
    t: _Trajectories, lines: _Lines, weights: np.ndarray, y: np.ndarray, term: _Term
) -> tuple[np.ndarray, np.ndarray]:
    """What each passage adds to the weighted sum of the twins' means (n, q), and its squares line by line (q,)."""
    of = 0 * t.block if term.pooled else t.block
    who = np.flatnonzero(t.arm == term.twins)
    count = np.bincount(of[who], minlength=of.max() + 1)
    block, s = of[lines.passage], len(t.steps)
    if count[block].min() < 2:
        raise ValueError(f"errors need two passages of {term.twins} in each block; some have {count[block].min()}")
    short = np.sqrt(count / np.maximum(count - 1, 1))[of[who]]  # deviations from a mean of K are short by (K - 1) / K
    apart = y[who] * (short / count[of[who]])[:, None]
    total = _sums(block * s + lines.step, weights, len(count) * s)
    pairs = _sums(of[who], (apart[:, :, None] * apart[:, None]).reshape(len(who), -1), len(count)).reshape(-1, s, s)
    squares = pairs[block, lines.step, lines.step]
    if VALUES[term.value][1]:
        total = total - _sums(block * s + lines.base, weights, len(count) * s)
        squares = squares + pairs[block, lines.base, lines.base] - 2 * pairs[block, lines.step, lines.base]
    added = np.zeros((len(t.block), weights.shape[1]))
    added[who] = np.einsum("js,jsq->jq", apart, total.reshape(len(count), s, -1)[of[who]])
    return added, squares @ weights**2


def _intervals(fit: _Fit, level: float = LEVEL) -> list[Interval]:
    if fit.effective.min() <= 1 + 1e-9:
        raise ValueError("errors by file need more than one effective file: nearly all weight is on one")
    error = np.sqrt((fit.shares**2).sum(axis=0))
    half = error * stats.t.ppf((1 + level) / 2, fit.effective - 1)
    return [
        Interval(float(m), float(m - h), float(m + h), int(n))
        for m, h, n in zip(fit.estimate, half, fit.n, strict=True)
    ]


def _told_bins(lines: _Lines, every: int, fit: _Fit, level: float = LEVEL) -> pd.DataFrame:
    table = pd.DataFrame(_intervals(fit, level), columns=Interval._fields)
    table.insert(0, "lag", np.unique(lines.since // every) * every)
    table.insert(1, "since", _means(_bins(lines, every), lines.since))
    return table.assign(clusters=fit.clusters)


def _multiplicities(n: int, seed: int) -> np.ndarray:
    """(RESAMPLES, n): how often each of n files is drawn in each resample."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)


def _resampled(t: _Trajectories, lines: _Lines, fit: _Fit, seed: int) -> np.ndarray:
    """(RESAMPLES, q): means of a balanced panel over files drawn with replacement, their twins with them."""
    counts = np.bincount(t.file[np.unique(lines.passage)], minlength=t.files)
    kept = (counts > 0) | fit.shares.any(axis=1)
    times = _multiplicities(int(kept.sum()), seed)
    return fit.estimate + times @ fit.shares[kept] * counts.sum() / np.maximum(times @ counts[kept], 1)[:, None]


def _half_times(curves: np.ndarray, since: np.ndarray) -> np.ndarray:
    """Where each curve (c, q) first is at half of its beginning: (c,) steps, inf where it never is."""
    over = curves - curves[:, :1] / 2
    below = over <= 0
    k = np.maximum(below.argmax(axis=1), 1)
    before, after = (np.take_along_axis(over, place[:, None], axis=1)[:, 0] for place in (k - 1, k))
    with np.errstate(divide="ignore", invalid="ignore"):
        where = since[k - 1] + (since[k] - since[k - 1]) * before / (before - after)
    return np.where(below[:, 0], since[0], np.where(below.any(axis=1), where, np.inf))


def _told_time(line: Interval, followed: float) -> str:
    if np.isinf(line.estimate):
        return f"not reached within {followed:.0f} steps"
    high = f"beyond {followed:.0f}" if np.isinf(line.high) else f"{line.high:.0f}"
    return f"{line.estimate:.0f} steps (95 % interval {line.low:.0f} to {high})"


Parameters = tuple[np.ndarray, np.ndarray, np.ndarray]  # (c,) each: A, time, b; b is inf of an exponential


def _shape(since: np.ndarray, scale: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(1 + t / (b scale))^-b, which is exp(-t / scale) where b is inf; `since` is the last axis."""
    with np.errstate(invalid="ignore"):
        power = np.exp(-b[..., None] * np.log1p(since / (b * scale)[..., None]))
    return np.where(np.isinf(b)[..., None], np.exp(-since / scale[..., None]), power)


def _values(parameters: Parameters, since: np.ndarray) -> np.ndarray:
    a, scale, b = parameters
    return a[:, None] * _shape(since, scale, b)


def _least_squares(curves: np.ndarray, since: np.ndarray, power: bool) -> Parameters:
    """The best curve for each line of `curves` (c, q): A has a closed form, the others are found by finer grids."""
    scale = np.broadcast_to(np.log(np.geomspace(5, 1e5, 40))[:, None], (40, 30 if power else 1))
    b = np.broadcast_to(np.log(np.geomspace(0.05, 100, 30)) if power else np.inf, scale.shape)
    scale, b = (np.broadcast_to(grid.ravel(), (len(curves), grid.size)) for grid in (scale, b))
    steps = np.linspace(-1, 1, 7)
    moves = [grid.ravel() for grid in np.meshgrid(steps, steps if power else [0.0])]
    for width in 0.25 * 0.75 ** np.arange(24):
        shape = _shape(since, np.exp(scale), np.exp(b))
        gain = np.einsum("cgq,cq->cg", shape, curves) ** 2 / (shape**2).sum(axis=-1)
        best = gain.argmax(axis=1)[:, None]
        scale, b = (np.take_along_axis(grid, best, axis=1) for grid in (scale, b))
        scale = scale + width * moves[0]
        b = np.minimum(b + width * moves[1], np.log(100)) if power else np.broadcast_to(b, scale.shape)
    scale, b = (np.exp(grid[:, len(moves[0]) // 2]) for grid in (scale, b))
    shape = _shape(since, scale, b)
    return (shape * curves).sum(axis=1) / (shape**2).sum(axis=1), scale, b


def _spearman(x: np.ndarray, y: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Spearman's correlation of codes x and y (n,), each line taken `times` (B, n) over: (B,)."""
    total = times.sum(axis=1, keepdims=True)
    ranks = []
    for code in (x, y):
        each = _sums(code, times.T, code.max() + 1).T
        rank = (np.cumsum(each, axis=1) - (each - 1) / 2)[:, code]  # mean rank of those that are equal
        ranks.append(rank - (times * rank).sum(axis=1, keepdims=True) / total)
    a, b = ranks
    return (times * a * b).sum(axis=1) / np.sqrt((times * a * a).sum(axis=1) * (times * b * b).sum(axis=1))
