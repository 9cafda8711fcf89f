"""How what one exposure leaves fades: half-life, shape of the decay, and whether early exposure differs from late.

Tables `measured` in, as :mod:`lmmem.analysis.trajectories` says; intervals and tidy tables out. Knows neither models
nor figures, and no value but bits beyond the twins and beyond before exposure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from lmmem.analysis.statistics import LEVEL, Interval
from lmmem.analysis.trajectories import (
    EARLIEST,
    EVERY,
    ONCE,
    TWINS,
    Fit,
    Lines,
    Term,
    Trajectories,
    binned,
    column,
    fitted,
    followed,
    intervals,
    means,
    multiplicities,
    only,
    sum_by,
    told_bins,
    trajectories,
)

__all__ = ["Decay", "by_complexity", "by_quartile", "decay_shape", "early_against_late", "fading", "half_life"]

FOLDS = 5
SLOPE = 100  # steps: slopes over exposure step are per so many
COMPLEXITY = 0.1  # slopes over z-complexity are per so much

Parameters = tuple[np.ndarray, np.ndarray, np.ndarray]  # (c,) each: A, time, b; b is inf of an exponential


class Decay(NamedTuple):
    """How memory fades: which curve predicts files it was not fitted to, and both curves for drawing.

    difference : mean squared error of the exponential less that of the power law, bits squared; above 0
    where the power law predicts better. fits : one line a (curve, parameter): value. points : one line a
    bin: since, estimate, exponential, power law.
    """

    difference: Interval
    fits: pd.DataFrame
    points: pd.DataFrame


def half_life(
    measured: pd.DataFrame,
    every: int = EVERY,
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
    measured : as :mod:`lmmem.analysis.trajectories` says.
    seed : of the bootstrap.

    Returns
    -------
    One line: first (bits), estimate, low, high (steps; inf where half is not reached while followed), n, clusters,
    followed (steps) and told, which says all this in words.

    Raises
    ------
    ValueError : the interval of the first bits does not lie above 0, so there is nothing to halve.

    >>> from lmmem.analysis.trajectories import simulated
    >>> half_life(simulated(lambda since: 80 * np.exp(-since / 200), seed=1)).told[0]
    '170 steps (95 % interval 151 to 188)'
    >>> half_life(simulated(lambda since: 80.0 + 0 * since, seed=1)).told[0]
    'not reached within 450 steps'
    """
    t = trajectories(measured)
    lines = _panel(t, arm, earliest, every)
    design = binned(lines, every)
    fit = fitted(t, lines, design, Term("both", twins))
    since = means(design, lines.since)
    first = intervals(fit)[0]
    if first.low <= 0:
        raise ValueError(f"a half-life needs first bits whose interval lies above 0; got {first:.1f}")
    draws = _half_times(_resampled(t, lines, fit, seed), since)
    tail = stats.norm.sf(stats.t.ppf((1 + LEVEL) / 2, fit.effective[0] - 1))
    low, high = np.quantile(draws, [tail, 1 - tail], method="inverted_cdf")
    line = Interval(_half_times(fit.estimate[None], since)[0], low, high, first.n)
    found = (first.estimate, *line, fit.clusters[0], since[-1], _told_time(line, since[-1]))
    return pd.DataFrame([found], columns=["first", *Interval._fields, "clusters", "followed", "told"])


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
    measured : as :mod:`lmmem.analysis.trajectories` says.
    seed : of the assignment of files to fifths.

    Raises
    ------
    ValueError : fewer than 10 files, two a fifth, or fewer than 4 bins.

    >>> from lmmem.analysis.trajectories import simulated
    >>> found = decay_shape(simulated(lambda since: 80 * (1 + since / 30) ** -0.7, blocks=32, noise=1, drift=1, seed=1))
    >>> found.difference.low > 0, list(found.fits.parameter)
    (True, ['A', 'tau', 'A', 't0', 'b'])
    """
    t = trajectories(measured)
    lines = _panel(t, arm, earliest, every)
    design = binned(lines, every)
    since = means(design, lines.since)
    fit = fitted(t, lines, design, Term("both", twins))
    if len(since) < 4 or fit.clusters[0] < 2 * FOLDS:
        raise ValueError(
            f"shapes of decay need 4 bins and {2 * FOLDS} files; got {len(since)} bins, {fit.clusters[0]} files"
        )
    passages = sum_by(t.file[lines.passage], design[:, :1], t.files)[:, 0]  # a file's part of the first bin: all bins
    sums = fit.shares * fit.n + passages[:, None] * fit.estimate
    order = np.lexsort((np.random.default_rng(seed).random(t.files), -passages))
    fold = np.empty(t.files, dtype=int)
    fold[order] = np.resize(np.r_[:FOLDS, FOLDS - 1 : -1 : -1], t.files)  # there and back: fifths of one size
    held, size = sum_by(fold, sums, FOLDS), sum_by(fold, passages[:, None], FOLDS)
    exponential, power = (
        _values(_least_squares((held.sum(0) - held) / (size.sum() - size), since, powers), since)
        for powers in (False, True)
    )
    apart, middle, seen = power - exponential, power + exponential, held / size
    errors = (apart * (2 * seen - middle)).mean(axis=1)  # (y - e)^2 - (y - p)^2 = (p - e) (2 y - e - p)
    rest = sums - passages[:, None] * seen[fold]
    shares = (2 * apart[fold] * rest / size[fold]).mean(axis=1) / FOLDS
    spread = Fit(np.array([errors.mean()]), shares[:, None], fit.effective[:1], fit.n[:1], fit.clusters[:1])
    whole = [_least_squares(fit.estimate[None], since, powers) for powers in (False, True)]
    (a, tau, _), (c, scale, b) = (np.ravel(parameters) for parameters in whole)
    fits = [("exponential", "A", a), ("exponential", "tau", tau)]
    fits += [("power law", "A", c), ("power law", "t0", b * scale), ("power law", "b", b)]
    drawn = [_values(parameters, since)[0] for parameters in whole]
    points = pd.DataFrame({"since": since, "estimate": fit.estimate, "exponential": drawn[0], "power law": drawn[1]})
    return Decay(intervals(spread)[0], pd.DataFrame(fits, columns=["curve", "parameter", "value"]), points)


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

    >>> from lmmem.analysis.trajectories import simulated
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

    >>> from lmmem.analysis.trajectories import simulated
    >>> by_quartile(simulated(lambda since: 80 * np.exp(-since / 200), seed=1)).when.value_counts().to_dict()
    {'first': 4, 'kept': 4}
    """
    t = trajectories(measured)
    found = []
    for number, lines in _quartiles(t, _panel(t, arm, earliest, every)):
        exposure = t.exposure[lines.passage]
        table = told_bins(lines, every, fitted(t, lines, binned(lines, every), Term("both", twins)))
        ends = table.iloc[[0, -1]].assign(when=["first", "kept"], quartile=number)
        found.append(ends.assign(from_step=exposure.min(), to_step=exposure.max()))
    columns = ["quartile", "from_step", "to_step", "when", "lag", "since", *Interval._fields, "clusters"]
    return pd.concat(found, ignore_index=True)[columns]


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

    >>> from lmmem.analysis.trajectories import simulated
    >>> table = early_against_late(simulated(lambda since: 80 * np.exp(-since / 200), seed=1))
    >>> list(table.term), bool(table.estimate.abs().max() < 2)
    (['first', 'kept'], True)
    """
    t = trajectories(measured)
    found = []
    for term, lines, within in _first_and_kept(t, arm, earliest, every):
        steps = t.exposure[lines.passage]
        if np.ptp(steps) == 0:
            raise ValueError(f"a slope over exposure step needs two different ones; all are exposed at {steps[0]}")
        design = np.column_stack([np.ones(len(steps)), (steps - steps.mean()) / SLOPE, within])
        fit = fitted(t, lines, design, Term("both", twins))
        found.append((term, *intervals(fit)[1], fit.clusters[1]))
    return pd.DataFrame(found, columns=["term", *Interval._fields, "clusters"])


def by_complexity(
    measured: pd.DataFrame, every: int = EVERY, arm: str = ONCE, twins: str = TWINS, earliest: int = EARLIEST
) -> pd.DataFrame:
    """Slopes of bits over z-complexity, at equal exposure step and equal time since exposure.

    Parameters
    ----------
    measured : as :mod:`lmmem.analysis.trajectories` says, and z_complexity.

    Returns
    -------
    As :func:`early_against_late`, in bits for each 0.1 of z-complexity.

    Raises
    ------
    ValueError : no column z_complexity, or it does not vary apart from the exposure step.

    >>> from lmmem.analysis.trajectories import simulated
    >>> table = simulated(lambda since: 80 * np.exp(-since / 200), seed=1)
    >>> table = table.assign(z_complexity=table["index"] % 7 / 10)
    >>> bool(by_complexity(table).estimate.abs().max() < 3)
    True
    """
    t = trajectories(measured)
    z = column(measured, t, "z_complexity").astype(float)
    found = []
    for term, lines, within in _first_and_kept(t, arm, earliest, every):
        x, steps = z[lines.passage] / COMPLEXITY, t.exposure[lines.passage] / SLOPE
        design = np.column_stack([np.ones(len(x)), x - x.mean(), steps - steps.mean(), within])
        fit = fitted(t, lines, design, Term("both", twins))
        found.append((term, *intervals(fit)[1], fit.clusters[1]))
    return pd.DataFrame(found, columns=["term", *Interval._fields, "clusters"])


def _panel(t: Trajectories, arm: str, earliest: int, every: int) -> Lines:
    """Passages exposed before the middle of training, in the bins in which all of them are seen."""
    lines = followed(t, arm, earliest)
    lines = only(lines, t.exposure[lines.passage] <= t.steps[-1] / 2)
    if not len(lines.passage):
        raise ValueError(f"a panel needs passages exposed after step {earliest} and by {t.steps[-1] // 2}; got none")
    bins = lines.since // every
    seen = np.array([len(np.unique(lines.passage[bins == number])) for number in range(bins.max() + 1)])
    whole = int(np.cumprod(seen == len(np.unique(lines.passage))).sum())
    if whole < 2:
        raise ValueError(f"a panel needs two bins of {every} steps in which all are seen; got {whole}: widen `every`")
    return only(lines, bins < whole)


def _quartiles(t: Trajectories, lines: Lines) -> list[tuple[int, Lines]]:
    """Quarters of the passages by exposure step, numbered from 1."""
    passages = np.unique(lines.passage)
    if len(passages) < 8:
        raise ValueError(f"quarters need 8 passages, two each; got {len(passages)}")
    edges = np.quantile(t.exposure[passages], [0.25, 0.5, 0.75])
    quarter = np.searchsorted(edges, t.exposure[lines.passage], side="left")
    return [(number + 1, only(lines, quarter == number)) for number in np.unique(quarter)]


def _first_and_kept(t: Trajectories, arm: str, earliest: int, every: int) -> Iterator[tuple[str, Lines, np.ndarray]]:
    """Everyone in the first bin, the panel in its last; and columns that make times within the bin equal."""
    panel = _panel(t, arm, earliest, every)
    for term, lines, bin_ in (
        ("first", followed(t, arm, earliest), 0),
        ("kept", panel, panel.since.max() // every),
    ):
        lines = only(lines, lines.since // every == bin_)
        offset = lines.since / every - bin_ - 0.5
        yield term, lines, offset[:, None] ** np.arange(1, min(len(np.unique(offset)), 3))  # a parabola


def _resampled(t: Trajectories, lines: Lines, fit: Fit, seed: int) -> np.ndarray:
    """(RESAMPLES, q): means of a balanced panel over files drawn with replacement, their twins with them."""
    counts = np.bincount(t.file[np.unique(lines.passage)], minlength=t.files)
    kept = (counts > 0) | fit.shares.any(axis=1)
    times = multiplicities(int(kept.sum()), seed)
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
