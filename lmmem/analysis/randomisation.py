"""What chance assigned is tested by chance: permutations within blocks, and intervals that know of files.

Tables of passages in, intervals and tidy tables out. Knows neither models nor figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import special, stats
from statsmodels.stats.power import TTestIndPower

from lmmem.analysis.statistics import LEVEL, Interval, check_columns

__all__ = [
    "Clustered",
    "Equivalence",
    "Permuted",
    "cluster_difference",
    "cluster_mean",
    "clustered",
    "compare_arms",
    "equivalence",
    "permutation_test",
    "power",
    "power_by_simulation",
    "proportion",
    "verdict_on",
]

PERMUTATIONS = 9_999  # and the observed one
LEAST = 16  # passages of an arm, for a verdict
ALPHA = 1 - LEVEL
SIMULATIONS = 500
ROUNDING = 1e-9  # of the largest value: differences below are ties


class Permuted(NamedTuple):
    """What a permutation test found: an interval, the two-sided p, and the blocks that had one side only."""

    estimate: float
    low: float
    high: float
    n: int
    p: float
    left_out: int


class Equivalence(NamedTuple):
    """A verdict on a margin, with the estimate and its 90 % interval."""

    verdict: str
    estimate: float
    low: float
    high: float
    n: int


class Clustered(NamedTuple):
    """An estimate, its standard error over clusters, the degrees of freedom of that, and the lines behind it."""

    estimate: float
    error: float
    degrees: int
    n: int

    def interval(self, level: float = LEVEL) -> Interval:
        """Student's t times the standard error to either side."""
        half = float(stats.t.ppf((1 + level) / 2, self.degrees)) * self.error
        return Interval(self.estimate, self.estimate - half, self.estimate + half, self.n)


def cluster_mean(values: ArrayLike, clusters: ArrayLike, level: float = LEVEL) -> Interval:
    """Mean over lines of which those of one cluster may be alike.

    Standard errors leave out one cluster at a time (CRV3), t with one degree of freedom less than there are
    clusters. With 30 to 60 clusters, the largest about a tenth of the lines, it covers the truth in 94 to 95 % of
    simulated sets, the usual CRV1 in 92 to 95; where one cluster holds a third of the lines, in 91 and 85 to 89.

    Parameters
    ----------
    values : (n,) numbers. Their errors must be independent between clusters: differences from the mean of twins that
        several lines share are not, see :func:`cluster_difference`.
    clusters : (n,) labels, for instance source files; at least two different ones.
    level : of the interval.

    Returns
    -------
    In the unit of `values`; n is the number of lines, not of clusters.

    Raises
    ------
    ValueError : fewer than two clusters, different lengths, a value that is not finite, a missing label.

    Source: MacKinnon, Nielsen and Webb, Fast and reliable jackknife and bootstrap methods for cluster-robust
    inference, Journal of Applied Econometrics 38 (2023).

    >>> cluster_mean([1.0, 2.0, 3.0, 6.0], ["a", "a", "b", "c"]).estimate
    3.0
    """
    values, groups = _clustered("a mean", clusters, values=values)
    n, mean = len(values), float(values.mean())
    influence = np.bincount(groups, values - mean) / n
    return Clustered(mean, _error(influence, np.bincount(groups) / n), groups.max(), n).interval(level)


def cluster_difference(
    values: ArrayLike, exposed: ArrayLike, blocks: ArrayLike, clusters: ArrayLike, level: float = LEVEL
) -> Interval:
    """Mean over the exposed of their value minus the mean of the twins of their block.

    The same estimate as :func:`permutation_test`, with an interval that allows for effects that differ between
    passages, for twins that several exposed share, and for clusters that hold both. Blocks of one side only are left
    out.

    Each line's share in the error of the estimate is known: 1 / n of its own for the exposed, and of the twins
    what their block mean weighs. Shares are inflated for the mean that was taken off them, summed by cluster, and
    treated as those of :func:`cluster_mean`, t with one degree of freedom less than there are clusters of the side
    that has fewer.

    Parameters
    ----------
    values : (n,) numbers. exposed : (n,) booleans. blocks, clusters : (n,) labels.
    level : of the interval.

    Returns
    -------
    In the unit of `values`; n is the number of the exposed.

    Raises
    ------
    ValueError : as of :func:`cluster_mean`; there is no block with exposed and twins.

    >>> cluster_difference([5, 1, 3, 7, 2], [1, 0, 0, 1, 0], [1, 1, 1, 2, 2], list("abcde")).estimate
    4.0
    """
    return clustered(values, exposed, blocks, clusters).interval(level)


def clustered(values: ArrayLike, exposed: ArrayLike, blocks: ArrayLike, clusters: ArrayLike) -> Clustered:
    """The estimate of :func:`cluster_difference` and its standard error, for those who have more to add to the error.

    Parameters, errors : as of :func:`cluster_difference`.

    >>> clustered([5, 1, 3, 7, 2], [1, 0, 0, 1, 0], [1, 1, 1, 2, 2], list("abcde")).degrees
    1
    """
    values, groups = _clustered("a difference", clusters, values=values)
    side, block, _ = _sides(exposed, blocks, len(values))
    kept = block >= 0
    values, side, block = values[kept], side[kept], block[kept]
    groups = pd.factorize(groups[kept])[0]  # clusters of which nothing is left do not count
    of_side = [len(np.unique(groups[which])) for which in (side, ~side)]
    if min(of_side) < 2:
        raise ValueError(f"a difference needs two clusters or more of exposed and of twins; got {of_side}")
    n_exposed, n_twins = np.bincount(block, side), np.bincount(block, ~side)
    n = int(side.sum())
    deviation = values - (np.bincount(block, values * ~side) / n_twins)[block]
    estimate = float(deviation[side].mean())
    own, twins = n_exposed[block], n_twins[block]
    # Var(value - mean of k twins) is 1 + 1/k of that of a value, Var(twin - mean of its k) 1 - 1/k; a single
    # twin says nothing of its own variance, so the exposed keep theirs, of both.
    with np.errstate(divide="ignore", invalid="ignore"):
        of_exposed = (deviation - estimate) * np.where(twins > 1, np.sqrt(twins / (twins + 1)), 1.0)
        of_twins = np.where(twins > 1, -deviation * own / twins * np.sqrt(twins / (twins - 1)), 0.0)
    influence = np.bincount(groups, np.where(side, of_exposed, of_twins) / n)
    return Clustered(estimate, _error(influence, np.bincount(groups, side) / n), min(of_side) - 1, n)


def permutation_test(
    table: pd.DataFrame,
    value: str,
    exposed: ArrayLike,
    block: str = "block",
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Permuted:
    """Exposed against twins, by giving their labels out again within blocks.

    The statistic is the mean over blocks, weighted by their exposed, of the mean of the exposed minus that of the
    twins. The test is exact for the hypothesis that no value depends on its label. The interval holds the effects
    that the test, of values less the effect, does not reject: it is exact where exposure adds the same to each
    passage. Where exposure also spreads values out and the exposed are few beside their twins it is too narrow for
    their mean: that is what :func:`cluster_difference` is for.

    Parameters
    ----------
    table : one line a passage: columns `value` and `block`.
    exposed : (n,) booleans, which lines are exposed; the others are their twins.
    permutations : drawn at random; the observed one comes on top.
    seed : of the permutations.

    Returns
    -------
    estimate, low, high in the unit of `value` (an end without a bound is infinite: too few permutations are
    possible), n exposed, p, and left_out, the number of blocks with one side only.

    Raises
    ------
    ValueError : a value is missing, or no block has both sides.

    Source: Ernst, Permutation methods: a basis for exact inference, Statistical Science 19 (2004); p counts the
    observed permutation, after Phipson and Smyth, Statistical Applications in Genetics and Molecular Biology 9 (2010).

    >>> found = pd.DataFrame({"block": [1, 1, 1, 2, 2, 2], "bits": [9.0, 1, 2, 7, 1, 3]})
    >>> permutation_test(found, "bits", found.bits > 5).estimate
    6.25
    """
    check_columns(table, [value, block])
    values = _finite("a permutation test", value, table[value])
    side, numbers, left_out = _sides(exposed, table[block], len(values))
    kept = numbers >= 0
    low, high = _inverted(values[kept], side[kept], numbers[kept], permutations, np.random.default_rng(seed))
    p = (1 + ((low <= 0) & (high >= 0)).sum()) / (permutations + 1)
    weights = _weights(side[kept], numbers[kept])
    return Permuted(
        float(values[kept] @ weights), *_ends(low, high, permutations), int(side[kept].sum()), float(p), left_out
    )


def compare_arms(
    table: pd.DataFrame,
    value: str,
    twins: str = "spread 0",
    by: Sequence[str] = (),
    *,
    halves: bool = True,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> pd.DataFrame:
    """Each arm of the exposed against the unexposed of its blocks, and two comparisons that must find nothing.

    Parameters
    ----------
    table : one line a passage (and value of `by`): columns index, arm, presentations, block, file and `value`.
    value : what is compared.
    twins : the arm that all are compared with.
    by : columns whose values are compared apart, for instance step.
    halves : False leaves out A/A, for which a block with two twins is needed.
    permutations, seed : of :func:`permutation_test`.

    Returns
    -------
    One line an arm (and value of `by`): the columns of `by`, arm, estimate, low, high (:func:`cluster_difference`, by
    file), n (passages of the arm in blocks with twins), left_out (blocks without), p (:func:`permutation_test`),
    q (p after Benjamini and Hochberg, over all lines of exposed arms), verdict ("above 0" and "below 0" where q is
    at most 0.05 and the interval excludes 0, else "not established"; "n < 16: no verdict"). Last come the lines that
    must be null: "A/A", a random half of the twins of each block against the other half, with its own p as q; and
    other unexposed arms, which were set apart by whole files, so that permuting passages is no test of them: their p
    and q are nan, and the verdict is that of the interval alone.

    Raises
    ------
    ValueError : no twins, no exposed arm, a column or a value is missing, a passage is there twice.

    >>> rng = np.random.default_rng(0)
    >>> found = pd.DataFrame({"index": range(64), "file": range(64), "block": np.arange(64) % 8})
    >>> found = found.assign(presentations=np.where(found.index < 16, 4, 0), bits=rng.normal(size=64))
    >>> found["arm"] = np.where(found.presentations, "spread 4", "spread 0")
    >>> compare_arms(found.assign(bits=found.bits + 9 * (found.presentations > 0)), "bits").verdict.tolist()
    ['above 0', 'not established']
    """
    by = list(by)
    check_columns(table, ["index", "arm", "presentations", "block", "file", value, *by])
    if not (table.arm == twins).any():
        raise ValueError(f"no passage is of arm {twins!r}, the twins; there are {', '.join(sorted(set(table.arm)))}")
    if not (table.presentations > 0).any():
        raise ValueError(f"nothing to compare with {twins!r}: no passage of another arm was presented")
    if table.duplicated([*by, "index"]).any():
        again = table[table.duplicated([*by, "index"])]["index"].iloc[0]
        raise ValueError(f"one line a passage is needed; index {again} is there twice")
    _finite("a comparison", value, table[value])
    lines = []
    cells = [((), table)] if not by else table.groupby(by, sort=True)
    for key, cell in cells:
        unexposed = cell[cell.arm == twins].reset_index(drop=True)
        if unexposed.empty:
            raise ValueError(f"no passage is of arm {twins!r} where {', '.join(by)} is {', '.join(map(str, key))}")
        group = cell.arm.str.rsplit(n=1).str[0]  # that of the twins first
        order = cell.assign(group=group, other=group != twins.rsplit(maxsplit=1)[0])[cell.arm != twins]
        order = order.drop_duplicates("arm").sort_values(["other", "group", "presentations"])
        for arm, presented in zip(order.arm, order.presentations, strict=True):
            lines.append((*key, arm, *_against(cell[cell.arm == arm], unexposed, value, permutations, seed), presented))
        if not halves:
            continue
        half = _half(unexposed.block, seed)
        if not half.any():
            raise ValueError(f"A/A needs blocks of two or more passages of arm {twins!r}; each has one")
        between = _against(unexposed[half], unexposed[~half], value, permutations, seed)
        lines.append((*key, "A/A", *between, 0))
    found = pd.DataFrame(lines, columns=[*by, "arm", *Interval._fields, "left_out", "p", "presented"])
    null = found.presented == 0
    by_files = null & (found.arm != "A/A")
    found.loc[by_files, "p"] = np.nan
    found["q"] = found.p
    found.loc[~null, "q"] = stats.false_discovery_control(found.p[~null])
    established = ((found.q <= ALPHA) | by_files) & ((found.low > 0) | (found.high < 0))
    side = np.where(found.estimate > 0, "above 0", "below 0")
    found["verdict"] = np.where(
        found.n < LEAST, f"n < {LEAST}: no verdict", np.where(established, side, "not established")
    )
    ordered = pd.concat([found[~null], found[null & ~by_files], found[by_files]])
    return ordered.drop(columns="presented").reset_index(drop=True)


def proportion(successes: int, n: int) -> Interval:
    """A share with the exact interval of Clopper and Pearson.

    Raises
    ------
    ValueError : not 0 .. n successes of 1 or more.

    >>> round(proportion(0, 32).high, 3)
    0.109
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"a share needs 0 .. n successes of 1 or more; got {successes} of {n}")
    low = special.betaincinv(successes, n - successes + 1, ALPHA / 2) if successes else 0.0
    high = special.betaincinv(successes + 1, n - successes, 1 - ALPHA / 2) if successes < n else 1.0
    return Interval(successes / n, float(low), float(high), int(n))


def power(sd: float, n: int, n_twins: int, level: float = ALPHA, power: float = 0.8) -> float:
    """The smallest effect that exposed and twins show, by the two-sided t-test.

    Parameters
    ----------
    sd : standard deviation of the value within a block, of exposed and twins alike.
    n, n_twins : passages, all blocks together; the twins stand to the exposed alike in all.
    level : chance that nothing is taken for an effect.
    power : chance that the effect is found.

    Returns
    -------
    In the unit of `sd`.

    Raises
    ------
    ValueError : a standard deviation that is not positive, fewer than two passages on a side.

    Source: statsmodels, ``TTestIndPower``.

    >>> round(power(33, 16, 128), 1)
    24.7
    """
    if not sd > 0 or n < 2 or n_twins < 2:
        raise ValueError(f"power needs a positive sd and two passages a side; got sd {sd}, {n} and {n_twins}")
    found = TTestIndPower().solve_power(nobs1=n, ratio=n_twins / n, alpha=level, power=power)
    return float(sd * np.squeeze(found))


def power_by_simulation(
    values: ArrayLike,
    blocks: ArrayLike,
    n: int,
    effects: Sequence[float],
    seed: int = 0,
    *,
    simulations: int = SIMULATIONS,
    permutations: int = 499,
) -> pd.DataFrame:
    """How often :func:`permutation_test` finds an effect that was added to passages that never had one.

    Each simulation takes `n` unexposed passages at random, as equally many a block as can be, adds the effect, and
    tests them against the others of their blocks.

    Parameters
    ----------
    values, blocks : (m,) of unexposed passages.
    n : passages that play the exposed; each block keeps a twin at least.
    effects : in the unit of `values`.
    seed : of everything that is drawn.

    Returns
    -------
    One line an effect: effect, power (share of simulations with p at most 0.05), low, high (of the simulations'
    number), n (simulations).

    Raises
    ------
    ValueError : a value is missing, or n are more than the blocks can give.

    >>> values = np.random.default_rng(0).normal(size=64)
    >>> power_by_simulation(values, np.arange(64) % 8, 16, [0.0, 3.0], simulations=50, permutations=99).power.round()
    0    0.0
    1    1.0
    Name: power, dtype: float64
    """
    numbers = _finite("power", "values", values)
    block = np.unique(np.asarray(blocks), return_inverse=True)[1]
    size = np.bincount(block)
    rng = np.random.default_rng(seed)
    ends = np.empty((simulations, 2))
    for simulation in range(simulations):
        wanted = _spread(n, size, rng)
        side = _ranks(block, rng) < wanted[block]
        kept = (wanted > 0)[block]
        which = np.unique(block[kept], return_inverse=True)[1]
        low, high = _inverted(numbers[kept], side[kept], which, permutations, rng)
        ends[simulation] = _ends(low, high, permutations)
    lines = []
    for effect in effects:  # what is added to the exposed moves the interval by as much
        found = proportion(int(((ends[:, 0] + effect > 0) | (ends[:, 1] + effect < 0)).sum()), simulations)
        lines.append((effect, *found))
    return pd.DataFrame(lines, columns=["effect", "power", "low", "high", "n"])


def equivalence(
    values: ArrayLike,
    clusters: ArrayLike,
    margin: float,
    *,
    exposed: ArrayLike | None = None,
    blocks: ArrayLike | None = None,
) -> Equivalence:
    """Whether a mean is as good as 0: two one-sided tests at 5 %, by the 90 % interval.

    Parameters
    ----------
    values, clusters : as of :func:`cluster_mean`.
    margin : largest distance from 0 that would not matter, in the unit of `values`.
    exposed, blocks : as of :func:`cluster_difference`, where the mean is of exposed beside their twins.

    Returns
    -------
    verdict: "equivalent" if the 90 % interval lies within the margin, otherwise "different" if the 95 % interval
    excludes 0, otherwise "undecided"; and the estimate with its 90 % interval.

    Raises
    ------
    ValueError : as of these; a margin that is not positive; only one of `exposed` and `blocks`.

    Source: Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15 (1987).

    >>> equivalence([0.1, -0.1, 0.2, -0.2], list("abcd"), margin=1).verdict
    'equivalent'
    """
    if not margin > 0:
        raise ValueError(f"a margin is above 0; got {margin}")
    if (exposed is None) != (blocks is None):
        raise ValueError("exposed and blocks are needed together; got one of them")

    def at(level: float) -> Interval:
        if exposed is None or blocks is None:
            return cluster_mean(values, clusters, level)
        return cluster_difference(values, exposed, blocks, clusters, level)

    narrow = at(1 - 2 * ALPHA)
    return Equivalence(verdict_on(narrow, at(LEVEL), margin), *narrow)


def verdict_on(narrow: Interval, wide: Interval, margin: float) -> str:
    """Equivalence by the 90 % and the 95 % interval of one estimate, as :func:`equivalence` says.

    >>> verdict_on(Interval(0.2, -0.5, 0.9, 20), Interval(0.2, -0.7, 1.1, 20), margin=1)
    'equivalent'
    """
    if -margin < narrow.low and narrow.high < margin:
        return "equivalent"
    return "different" if wide.excludes_zero else "undecided"


def _against(arm: pd.DataFrame, twins: pd.DataFrame, value: str, permutations: int, seed: int) -> tuple[float, ...]:
    both = pd.concat([arm, twins[twins.block.isin(arm.block)]], ignore_index=True)
    exposed = np.arange(len(both)) < len(arm)
    if not set(arm.block) & set(twins.block):
        raise ValueError(f"no block holds both twins and passages of arm {arm.arm.iloc[0]!r}")
    tested = permutation_test(both, value, exposed, permutations=permutations, seed=seed)
    return *cluster_difference(both[value], exposed, both.block, both.file), tested.left_out, tested.p


def _error(influence: np.ndarray, weight: np.ndarray) -> float:
    """From what each cluster adds to the error and its share of the weight: without a cluster, 1 - weight are left."""
    clusters = len(influence)
    return float(((clusters - 1) / clusters * ((influence / (1 - weight)) ** 2).sum()) ** 0.5)


def _finite(what: str, name: str, column: ArrayLike) -> np.ndarray:
    numbers = np.asarray(column, dtype=float)
    if numbers.ndim != 1 or not len(numbers):
        raise ValueError(f"{what} needs a column of numbers; {name} has shape {numbers.shape}")
    if not np.isfinite(numbers).all():
        line = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise ValueError(f"{what} needs finite numbers; {name} is {numbers[line]} in line {line}")
    return numbers


def _clustered(what: str, clusters: ArrayLike, **columns: ArrayLike) -> list[np.ndarray]:
    """Columns as numbers, and last the clusters numbered from 0."""
    numbers = [_finite(what, name, column) for name, column in columns.items()]
    labels = pd.Series(np.asarray(clusters, dtype=object))
    if len({len(labels), *map(len, numbers)}) > 1:
        raise ValueError(f"{what} needs columns of one length; got {[*map(len, numbers), len(labels)]}")
    if labels.isna().any():
        raise ValueError(f"{what} needs a cluster for each line; there is none in line {int(labels.isna().argmax())}")
    groups = pd.factorize(labels)[0]
    if groups.max() < 1:
        raise ValueError(f"{what} needs two clusters or more; got 1")
    return [*numbers, groups]


def _sides(exposed: ArrayLike, blocks: ArrayLike, n: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Who is exposed; its block, from 0, -1 in a block of one side only; how many of those there are."""
    side = np.asarray(exposed).astype(bool)
    labels = pd.Series(np.asarray(blocks, dtype=object))
    if len({n, len(side), len(labels)}) > 1:
        raise ValueError(f"values, exposed and blocks need one length; got {[n, len(side), len(labels)]}")
    if labels.isna().any():
        raise ValueError(f"each line needs a block; there is none in line {int(labels.isna().argmax())}")
    block, names = pd.factorize(labels)
    both = (np.bincount(block, side) > 0) & (np.bincount(block, ~side) > 0)
    if not both.any():
        raise ValueError(f"none of {len(names)} blocks has both exposed and twins")
    return side, np.where(both, np.cumsum(both) - 1, -1)[block], int((~both).sum())


def _weights(side: np.ndarray, block: np.ndarray) -> np.ndarray:
    """The statistic as a sum: 1 / n of the exposed, and the twins of a block as much together as its exposed."""
    exposed, twins = np.bincount(block, side), np.bincount(block, ~side)
    return np.where(side, 1.0, -(exposed / twins)[block]) / side.sum()


def _inverted(
    values: np.ndarray, side: np.ndarray, block: np.ndarray, permutations: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """For each permutation, the additive effects from low to high of which the observed one is no more extreme.

    With an effect t taken off the exposed, the observed statistic is T - t and a permuted one P - t c, c the statistic
    of who is exposed; |P - t c| >= |T - t| between (T - P) / (1 - c) and (T + P) / (1 + c), for -1 <= c <= 1.
    """
    weights = _weights(side, block)
    observed = float(values @ weights)
    order = np.argsort(block, kind="stable")
    keys = rng.random((permutations, len(values))) + block[order]
    shuffled = order[np.argsort(keys, axis=1)]  # (permutations, n): which line stands where the sorted one stood
    weights = weights[order]
    permuted, c = values[shuffled] @ weights, side[shuffled].astype(float) @ weights
    slack = ROUNDING * max(float(np.abs(values).max()), 1e-300)
    roots = []
    for above, below in ((observed - permuted, 1 - c), (observed + permuted, 1 + c)):
        same = below < ROUNDING  # the observed labels, or all of them exchanged: always as extreme
        roots.append(np.where(same, np.inf, above / np.where(same, 1, below)))
    always = np.isinf(roots[0]) | np.isinf(roots[1])
    low = np.where(always, -np.inf, np.minimum(*roots)) - slack
    return low, np.where(always, np.inf, np.maximum(*roots)) + slack


def _ends(low: np.ndarray, high: np.ndarray, permutations: int) -> tuple[float, float]:
    """The least and the largest effect of which p is above 5 %."""
    k = int(np.floor(ALPHA * (permutations + 1) + ROUNDING))
    if k < 1:
        return -np.inf, np.inf
    return float(np.partition(low, k - 1)[k - 1]), float(np.partition(high, -k)[-k])


def _ranks(block: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random order within each block, from 0."""
    return pd.Series(rng.random(len(block))).groupby(block).rank(method="first").to_numpy().astype(int) - 1


def _half(block: pd.Series, seed: int) -> np.ndarray:
    """A random half of each block; of an odd number, the smaller."""
    number = pd.factorize(block)[0]
    return _ranks(number, np.random.default_rng([seed, 1])) < np.bincount(number)[number] // 2


def _spread(n: int, size: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How many of n each block gives: equally many, what is left over from blocks at random."""
    most = size - 1
    if not 1 <= n <= most.sum():
        raise ValueError(f"1 .. {most.sum()} passages can play the exposed, each block keeping a twin; got {n}")
    wanted = np.zeros(len(size), dtype=int)
    while (left := n - wanted.sum()) > 0:
        open_ = np.flatnonzero(wanted < most)
        chosen = open_ if len(open_) <= left else rng.choice(open_, left, replace=False)
        wanted[chosen] += 1
    return wanted
