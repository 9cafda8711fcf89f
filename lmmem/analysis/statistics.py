"""Fits, intervals and controls, from arrays and tables: what pages say of what was measured.

Knows neither models nor figures.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import special, stats

__all__ = [
    "Interval",
    "as_cells",
    "best_of",
    "best_of_table",
    "bootstrap",
    "check_columns",
    "fit_excess",
    "fit_interaction",
    "fit_linear",
    "fit_log_linear",
    "fit_logistic",
    "half_point",
    "interval",
    "mean_by",
    "told",
    "units_of",
]

LEVEL = 0.95
RESAMPLES = 1_000
MINUS = "\N{MINUS SIGN}"
LONE = np.nan, np.nan, 1  # interval and n of a mean of one unit
NEWTON_STEPS = 100
RIDGE = 1e-3  # keeps a logistic fit finite where two groups separate perfectly


class Interval(NamedTuple):
    """An estimate with its 95 % interval and the number of independent units behind it."""

    estimate: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies wholly on one side of 0."""
        return self.low > 0 or self.high < 0

    def brief(self, digits: int = 2) -> str:
        """Without its n, for cells of a table: ``"1.0 (0.5 to 1.5)"``."""
        return f"{self.estimate:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"

    def __format__(self, spec: str) -> str:
        """A sentence fragment, numbers in the given format: ``f"{interval:.1f}"``."""
        spec = spec or ".2f"
        estimate, low, high = (format(value, spec).replace("-", MINUS) for value in self[:3])
        return f"{estimate} (95 % interval {low} to {high}, n = {self.n})"


def as_cells(table: pd.DataFrame, *columns: str, missing: str = "", digits: int = 1) -> list[str]:
    """Intervals as text, one a line of a table, from its columns of estimate, low and high; `missing` where none is.

    >>> as_cells(pd.DataFrame({"bits": [1.0, np.nan], "low": [0.5, np.nan], "high": 1.5}), "bits", "low", "high")
    ['1.0 (0.5 to 1.5)', '']
    """
    return [
        missing if np.isnan(line[0]) else Interval(line[0], line[1], line[2], 0).brief(digits)
        for line in table[list(columns)].itertuples(index=False)
    ]


def interval(table: pd.DataFrame, **where: object) -> Interval:
    """The interval of the one line of a table that has these values.

    Raises
    ------
    ValueError : there is no such line, or more than one.

    >>> interval(pd.DataFrame({"m": [1, 2], "estimate": [3.0, 4.0], "low": 0.0, "high": 9.0, "n": 5}), m=2).estimate
    4.0
    """
    found = table
    for column, wanted in where.items():
        found = found[found[column] == wanted]
    if len(found) != 1:
        raise ValueError(f"{len(found)} lines have {where}: one is needed")
    line = found.iloc[0]
    return Interval(float(line.estimate), float(line.low), float(line.high), int(line.n))


def told(table: pd.DataFrame, lines: str, columns: str, digits: int = 1) -> pd.DataFrame:
    """Intervals as text, "12.3 (10.1 to 14.5)", by two columns of a table: one gives the lines, one the columns.

    >>> told(pd.DataFrame({"m": [1], "arm": ["a"], "estimate": [1.0], "low": [0.5], "high": [1.5]}), "m", "arm").a[1]
    '1.0 (0.5 to 1.5)'
    """
    ends = zip(table.estimate, table.low, table.high, strict=True)
    cells = [Interval(*one, n=0).brief(digits) for one in ends]
    return table.assign(told=cells).pivot(index=lines, columns=columns, values="told")


def check_columns(table: pd.DataFrame, needed: Sequence[str]) -> None:
    """Refuse a table without some of the columns, and name these and those that there are.

    >>> check_columns(pd.DataFrame({"arm": []}), ["arm", "block"])
    Traceback (most recent call last):
    ValueError: no column block; there are arm
    """
    if missing := [column for column in needed if column not in table]:
        raise ValueError(f"no column {', '.join(missing)}; there are {', '.join(map(str, table.columns))}")


def bootstrap(
    statistic: Callable[..., float], *columns: ArrayLike, seed: int = 0, clusters: ArrayLike | None = None
) -> Interval:
    """Percentile bootstrap of a statistic of paired columns, whose lines, or clusters of lines, are independent.

    Parameters
    ----------
    statistic : takes the columns, resampled together, and gives a number.
    columns : arrays of one length n, at least 2.
    seed : of the resampling.
    clusters : (n,) labels of lines that are drawn together; None: each line is a unit of its own.

    Returns
    -------
    n is the number of units.

    Raises
    ------
    ValueError : fewer than two units, or columns of different lengths.

    >>> bootstrap(np.mean, [1.0, 2.0, 3.0]).estimate
    2.0
    """
    arrays = [np.asarray(column) for column in columns]
    n = len(arrays[0])
    if n < 2 or any(len(array) != n for array in arrays):
        raise ValueError(f"a bootstrap needs columns of one length, 2 or more; got {[len(a) for a in arrays]}")
    units, members = n, list[np.ndarray]()
    if clusters is not None:
        code = pd.factorize(np.asarray(clusters))[0]
        units, members = code.max() + 1, [np.flatnonzero(code == one) for one in range(code.max() + 1)]
    if units < 2:
        raise ValueError(f"a bootstrap needs two clusters or more; all {n} lines are of one")

    def drawn(chosen: np.ndarray) -> float:
        lines = np.concatenate([members[one] for one in chosen]) if members else chosen
        return statistic(*(array[lines] for array in arrays))

    estimate = float(statistic(*arrays))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # a constant column has an interval of width 0
        result = stats.bootstrap(
            (np.arange(units),),
            drawn,
            vectorized=False,
            n_resamples=RESAMPLES,
            confidence_level=LEVEL,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    low, high = result.confidence_interval
    return Interval(estimate, float(low), float(high), int(units))


def mean_by(
    table: pd.DataFrame, by: str | Sequence[str], value: str, seed: int = 0, clusters: str | None = None
) -> pd.DataFrame:
    """Mean of a column in each group, with its bootstrap interval.

    Parameters
    ----------
    table : columns of `by`, `value` and `clusters`.
    by, value : groups, and what is averaged. seed : of the bootstrap.
    clusters : column whose equal values are drawn together; a missing one is a unit of its own. None: each line is.

    Returns
    -------
    One line a group: the columns of `by`, estimate, low, high, n (units). A group of one unit has an
    interval of nan.
    """
    by = [by] if isinstance(by, str) else list(by)
    lines = []
    for key, group in table.groupby(by, sort=True):
        values, units = group[value].to_numpy(dtype=float), None
        if clusters is not None:
            units = units_of(group, clusters)
        many = len(values if units is None else np.unique(units)) > 1
        mean = bootstrap(np.mean, values, seed=seed, clusters=units) if many else Interval(values.mean(), *LONE)
        lines.append((*key, *mean))
    return pd.DataFrame(lines, columns=[*by, *Interval._fields])


def units_of(table: pd.DataFrame, clusters: str) -> np.ndarray:
    """Labels (n,) of the lines of a table: those with one value of a column are one unit, the others each their own.

    Parameters
    ----------
    clusters : column, for instance file or text; where it is missing, or there is none, a line is a unit of its own.

    >>> units_of(pd.DataFrame({"text": ["a", "a", None]}), "text").tolist()
    ['text a', 'text a', '2']
    """
    own = np.arange(len(table)).astype(str)
    if clusters not in table:
        return own
    column = table[clusters]
    return np.where(column.isna(), own, clusters + " " + column.astype(str))


def fit_linear(x: ArrayLike, y: ArrayLike, seed: int = 0, clusters: ArrayLike | None = None) -> Interval:
    """Slope of y per unit of x, by least squares.

    Parameters
    ----------
    x, y : (n,) numbers.
    seed, clusters : of the bootstrap.

    >>> round(fit_linear([1, 2, 3, 1, 2, 3], [3, 5, 7, 3, 5, 7]).estimate, 6)
    2.0
    """
    return bootstrap(_slope, np.asarray(x, dtype=float), y, seed=seed, clusters=clusters)


def fit_log_linear(x: ArrayLike, y: ArrayLike, seed: int = 0, clusters: ArrayLike | None = None) -> Interval:
    """Slope of y per doubling of x, by least squares on log2 x.

    Parameters
    ----------
    x : (n,) positive numbers, for instance presentations; at least two different ones.
    y : (n,) numbers.

    Raises
    ------
    ValueError : x is not positive, or constant.

    >>> round(fit_log_linear([1, 2, 4, 8, 1, 2, 4, 8], [7, 5, 3, 1, 7, 5, 3, 1]).estimate, 6)
    -2.0
    """
    return fit_linear(_doublings(x), y, seed, clusters)


def fit_logistic(x: ArrayLike, success: ArrayLike, seed: int = 0, clusters: ArrayLike | None = None) -> Interval:
    """Change of the log-odds of success per doubling of x, in nats.

    Maximum likelihood with a faint ridge (1e-3 on the slope), which keeps the estimate finite
    where success separates perfectly; such an interval says "steep", not how steep.

    Parameters
    ----------
    x : (n,) positive numbers; at least two different ones.
    success : (n,) booleans.
    """
    return bootstrap(_log_odds_slope, _doublings(x), np.asarray(success, dtype=float), seed=seed, clusters=clusters)


def fit_interaction(
    x: ArrayLike, z: ArrayLike, y: ArrayLike, seed: int = 0, clusters: ArrayLike | None = None
) -> dict[str, Interval]:
    """Least squares of y on log2 x, z and their product, both centred.

    Parameters
    ----------
    x : (n,) positive numbers; at least two different ones. z, y : (n,) numbers.
    seed, clusters : of the bootstrap.

    Returns
    -------
    Intervals of: doubling (slope of y per doubling of x, at mean z), z (slope of y per unit of z, at
    mean log2 x), interaction (change of the former per unit of z).
    """
    doublings, z = _doublings(x), np.asarray(z, dtype=float)
    d, c = doublings - doublings.mean(), z - z.mean()
    names = ("doubling", "z", "interaction")

    def coefficient(number: int) -> Callable[..., float]:
        def statistic(d: np.ndarray, c: np.ndarray, y: np.ndarray) -> float:
            design = np.column_stack([np.ones(len(d)), d, c, d * c])
            return float(np.linalg.lstsq(design, y, rcond=None)[0][number])

        return statistic

    y = np.asarray(y, dtype=float)
    return {
        name: bootstrap(coefficient(i), d, c, y, seed=seed, clusters=clusters) for i, name in enumerate(names, start=1)
    }


def fit_excess(x: ArrayLike, z: ArrayLike, y: ArrayLike, seed: int = 0) -> Interval:
    """Slope of y per unit of z among those with x above 0, at fixed log2 x, minus that among those with x of 0.

    Parameters
    ----------
    x : (n,) presentations, 0 for the unexposed. z, y : (n,) numbers.
    seed : of the bootstrap over lines.

    Raises
    ------
    ValueError : fewer than three lines on a side.

    >>> round(fit_excess([0, 0, 0, 1, 2, 4, 1], [1, 2, 3, 1, 2, 3, 4], [1, 2, 3, 3, 6, 9, 12]).estimate, 6)
    2.0
    """
    x, z, y = (np.asarray(column, dtype=float) for column in (x, z, y))
    sides = int((x > 0).sum()), int((x == 0).sum())
    if min(sides) < 3:
        raise ValueError(f"a slope of the exposed beside the unexposed needs three of either; got {sides}")

    def statistic(x: np.ndarray, z: np.ndarray, y: np.ndarray) -> float:
        exposed = x > 0
        design = np.column_stack([np.ones(exposed.sum()), z[exposed], np.log2(x[exposed])])
        among_exposed = np.linalg.lstsq(design, y[exposed], rcond=None)[0][1] if exposed.any() else 0.0
        return float(among_exposed - (_slope(z[~exposed], y[~exposed]) if (~exposed).any() else 0.0))

    return bootstrap(statistic, x, z, y, seed=seed)


def half_point(x: ArrayLike, success: ArrayLike, seed: int = 0) -> Interval:
    """The x at which half succeed, by a logistic curve in log2 x, binomial likelihood.

    Parameters
    ----------
    As for :func:`fit_logistic`, whose ridge it shares.

    Raises
    ------
    ValueError : all succeed or none does; or x as for :func:`fit_log_linear`.

    >>> x = [1, 2, 4, 8, 16, 32] * 4
    >>> bool(4 < half_point(x, [m >= 8 for m in x]).estimate < 8)
    True
    """
    doublings, success = _doublings(x), np.asarray(success, dtype=float)
    if not 0 < success.mean() < 1:
        raise ValueError(f"half of them succeed at no x: {int(success.sum())} of {len(success)} do")

    def where(doublings: np.ndarray, success: np.ndarray) -> float:
        intercept, slope = _logistic(doublings, success)
        return float(2 ** np.clip(doublings.mean() - intercept / slope if slope > 0 else np.inf, -10, 20))

    return bootstrap(where, doublings, success, seed=seed)


def best_of(distances: ArrayLike, sizes: Sequence[int]) -> np.ndarray:
    """Expected smallest distance among N tries, for several N, from one set of M tries.

    Averages over all subsets of N of the M tries, without drawing any: the i-th smallest is the
    smallest of C(M - i, N - 1) of the C(M, N) subsets.

    Parameters
    ----------
    distances : (M, n), try by sequence.
    sizes : values of N, each 1 .. M.

    Returns
    -------
    (len(sizes), n) float64.

    Raises
    ------
    ValueError : an N outside 1 .. M.

    >>> best_of([[3.0], [1.0], [2.0]], [1, 3])
    array([[2.],
           [1.]])
    """
    ordered = np.sort(np.asarray(distances, dtype=float), axis=0)
    m = len(ordered)
    if any(not 1 <= size <= m for size in sizes):
        raise ValueError(f"best of N needs N in 1 .. {m}, the number of tries; got {list(sizes)}")
    i = np.arange(1, m + 1)
    weights = np.array([np.exp(_log_choose(m - i, size - 1) - _log_choose(m, size)) for size in sizes])
    return weights @ ordered


def best_of_table(table: pd.DataFrame, tries: str, sizes: Sequence[int]) -> pd.DataFrame:
    """Best-of-N of every sequence of a tidy table of tries.

    Parameters
    ----------
    table : columns index, kl_ld and the one named by `tries`, one line a (sequence, try).
    tries : "draw" or "sample".
    sizes : values of N.

    Returns
    -------
    One line a (sequence, N): index, N, kl_ld (the expected smallest, in tokens).
    """
    wide = table.pivot(index=tries, columns="index", values="kl_ld")  # (M, n)
    best = pd.DataFrame(best_of(wide.to_numpy(), sizes), index=pd.Index(sizes, name="N"), columns=wide.columns)
    return best.reset_index().melt(id_vars="N", var_name="index", value_name="kl_ld")


def _doublings(x: ArrayLike) -> np.ndarray:
    x = np.asarray(x, dtype=float)
    if not (x > 0).all() or len(np.unique(x)) < 2:
        raise ValueError("a slope per doubling needs positive numbers, at least two different ones")
    return np.log2(x)


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    if np.ptp(x) == 0:  # before centring, whose rounding would leave a slope of noise
        return 0.0
    x = x - x.mean()
    return float(x @ y / (x @ x))


def _log_odds_slope(x: np.ndarray, success: np.ndarray) -> float:
    return _logistic(x, success)[1]


def _logistic(x: np.ndarray, success: np.ndarray) -> tuple[float, float]:
    """Log-odds at the mean of x, and their slope: Newton's method, its steps kept short where groups separate."""
    design = np.column_stack([np.ones(len(x)), x - x.mean()])
    beta = np.zeros(2)
    for _ in range(NEWTON_STEPS):
        p = special.expit(design @ beta)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 2 * RIDGE * np.eye(2)
        step = np.linalg.solve(hessian, design.T @ (p - success) + 2 * RIDGE * beta)
        beta -= step * min(1.0, 2 / max(np.abs(step).max(), 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    return float(beta[0]), float(beta[1])


def _log_choose(n: ArrayLike, k: int) -> np.ndarray:
    n = np.asarray(n, dtype=float)
    with np.errstate(invalid="ignore"):
        value = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
    return np.where(n >= k, value, -np.inf)
