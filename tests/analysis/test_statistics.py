"""Fits, intervals and controls against brute force and statsmodels."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from lmmem.analysis import statistics
from lmmem.analysis.statistics import Interval

RNG = np.random.default_rng(0)
M = np.repeat([1, 2, 4, 8, 16, 32], 30)


def test_interval_reads_as_a_sentence():
    assert f"{Interval(-1.25, -2, 0.5, 7):.1f}" == "\N{MINUS SIGN}1.2 (95 % interval \N{MINUS SIGN}2.0 to 0.5, n = 7)"
    assert f"{Interval(1, 0.5, 2, 7)}".startswith("1.00 (95 % interval 0.50 to 2.00")


@pytest.mark.parametrize(("low", "high", "excludes"), [(0.1, 1, True), (-1, -0.1, True), (-1, 1, False), (0, 1, False)])
def test_interval_excludes_zero_only_when_it_lies_on_one_side(low, high, excludes):
    assert Interval(0, low, high, 2).excludes_zero is excludes


def test_bootstrap_of_a_mean_is_the_normal_interval():
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = statistics.bootstrap(np.mean, values)
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    np.testing.assert_allclose(found[:3], [values.mean(), values.mean() - half, values.mean() + half], atol=0.02)
    assert found.n == 400


def test_bootstrap_is_determined_by_its_seed():
    values = RNG.normal(size=20)
    assert statistics.bootstrap(np.mean, values, seed=1) == statistics.bootstrap(np.mean, values, seed=1)
    assert statistics.bootstrap(np.mean, values, seed=1) != statistics.bootstrap(np.mean, values, seed=2)


def test_bootstrap_resamples_columns_together():
    x = RNG.normal(size=50)
    assert statistics.bootstrap(lambda a, b: float(np.corrcoef(a, b)[0, 1]), x, 2 * x).low == pytest.approx(1)


def test_lines_of_one_cluster_are_drawn_together():
    once = np.random.default_rng(3).normal(size=40)
    copied, clusters = np.repeat(once, 25), np.repeat(np.arange(40), 25)
    together = statistics.bootstrap(np.mean, copied, seed=1, clusters=clusters)
    assert together.n == 40
    np.testing.assert_allclose(together, statistics.bootstrap(np.mean, once, seed=1), atol=0.02)
    apart = statistics.bootstrap(np.mean, copied, seed=1)
    assert apart.high - apart.low < 0.4 * (together.high - together.low)
    with pytest.raises(ValueError, match="two clusters or more; all 40 lines are of one"):
        statistics.bootstrap(np.mean, once, clusters=np.zeros(40))


def test_mean_of_one_text_has_no_interval_and_lines_without_a_text_are_their_own():
    table = pd.DataFrame({"bin": [1] * 4 + [2] * 3, "y": range(7), "text": [5.0] * 4 + [np.nan, np.nan, 1.0]})
    found = statistics.mean_by(table, "bin", "y", clusters="text").set_index("bin")
    assert found.estimate.to_dict() == {1: 1.5, 2: 5.0}
    assert found.n.to_dict() == {1: 1, 2: 3}
    assert np.isnan(found.low[1])
    assert found.low[2] < 5 < found.high[2]


def test_constant_column_has_an_interval_of_width_zero():
    assert statistics.bootstrap(np.mean, [2.0, 2.0, 2.0]) == Interval(2, 2, 2, 3)


@pytest.mark.parametrize("columns", [([1.0],), ([1.0, 2.0], [1.0])])
def test_bootstrap_needs_two_lines_and_one_length(columns):
    with pytest.raises(ValueError, match="columns of one length, 2 or more"):
        statistics.bootstrap(lambda *_: 0.0, *columns)


def test_means_by_group_are_those_of_pandas():
    table = pd.DataFrame({"arm": list("aabbc"), "half": [1, 1, 1, 2, 2], "v": [1, 3, 5, 7, 9]})
    found = statistics.mean_by(table, "arm", "v")
    np.testing.assert_array_equal(found.estimate, table.groupby("arm").v.mean())
    np.testing.assert_array_equal(found.n, [2, 2, 1])
    assert found.low[:2].le(found.estimate[:2]).all()
    assert np.isnan(found.low[2])
    assert list(statistics.mean_by(table, ["arm", "half"], "v").columns[:2]) == ["arm", "half"]


def test_slopes_are_those_of_ordinary_least_squares():
    y = 60 - 5 * np.log2(M) + RNG.normal(0, 3, len(M))
    ols = sm.OLS(y, sm.add_constant(np.log2(M))).fit()
    found = statistics.fit_log_linear(M, y)
    np.testing.assert_allclose(found.estimate, ols.params[1])
    np.testing.assert_allclose([found.low, found.high], ols.conf_int()[1], atol=0.1)
    np.testing.assert_allclose(statistics.fit_linear(np.log2(M), y), found)


@pytest.mark.parametrize("x", [[0, 1], [2, 2], [-1, 1]])
def test_slope_per_doubling_needs_two_positive_numbers(x):
    with pytest.raises(ValueError, match="positive numbers, at least two"):
        statistics.fit_log_linear(x, [1, 2])


@pytest.mark.parametrize("level", [0.1, 0.5, 1 / 3])
def test_slope_over_a_constant_is_zero_whatever_its_rounding(level):
    assert statistics.fit_linear([level] * 6, [1, 2, 3, 4, 5, 6]) == Interval(0, 0, 0, 6)


def test_slope_of_few_points_stays_within_those_of_their_pairs():
    """A resample of one point only has no slope; rounding must not give it one."""
    found = statistics.fit_linear([0.1, 0.2, 0.7], [1, 2, 3])
    assert -10.1 <= found.low <= found.high <= 10.1  # the steepest pair has a slope of 10


def test_log_odds_are_those_of_maximum_likelihood():
    chance = 1 / (1 + np.exp(-(np.log2(M) - 2)))
    success = RNG.random(len(M)) < chance
    logit = sm.Logit(success.astype(float), sm.add_constant(np.log2(M))).fit(disp=False)
    found = statistics.fit_logistic(M, success)
    np.testing.assert_allclose(found.estimate, logit.params[1], rtol=0.01)
    assert found.low < 1 < found.high


def test_log_odds_stay_finite_where_groups_separate():
    found = statistics.fit_logistic(M, M >= 8)
    assert np.isfinite(found[:3]).all()
    assert found.low > 1


def test_interaction_is_that_of_ordinary_least_squares():
    z = RNG.uniform(0.4, 1, len(M))
    d = np.log2(M) - np.log2(M).mean()
    c = z - z.mean()
    y = 50 - 5 * d + 10 * c + 4 * d * c + RNG.normal(0, 1, len(M))
    ols = sm.OLS(y, np.column_stack([np.ones(len(M)), d, c, d * c])).fit()
    found = statistics.fit_interaction(M, z, y)
    np.testing.assert_allclose([found[k].estimate for k in ("doubling", "z", "interaction")], ols.params[1:])
    assert found["interaction"].excludes_zero


def test_interaction_of_lines_that_are_drawn_together_is_that_of_as_many_units():
    x, z, y = np.tile([1, 2, 4, 8], 5), RNG.uniform(0.4, 1, 20), RNG.normal(0, 1, 20)
    alone = statistics.fit_interaction(x, z, y)["z"]
    thrice = (np.repeat(column, 3) for column in (x, z, y))
    together = statistics.fit_interaction(*thrice, clusters=np.repeat(range(20), 3))["z"]
    np.testing.assert_allclose(together, alone)


def test_units_are_what_a_column_holds_and_lone_lines():
    table = pd.DataFrame({"file": ["a", None, "a", "b", None]})
    assert len(set(statistics.units_of(table, "file"))) == 4
    assert statistics.units_of(table, "file")[0] == statistics.units_of(table, "file")[2]
    assert len(set(statistics.units_of(table, "text"))) == 5


def test_best_of_is_the_average_over_all_subsets():
    tries = RNG.integers(0, 64, (7, 3))
    found = statistics.best_of(tries, [1, 3, 7])
    for row, n in zip(found, [1, 3, 7], strict=True):
        expected = [np.mean([min(s) for s in itertools.combinations(column, n)]) for column in tries.T]
        np.testing.assert_allclose(row, expected)


@pytest.mark.parametrize("n", [0, 8])
def test_best_of_more_than_there_are_is_refused(n):
    with pytest.raises(ValueError, match=r"N in 1 .. 7"):
        statistics.best_of(np.zeros((7, 1)), [n])


def test_best_of_a_table_keeps_sequences_apart():
    table = pd.DataFrame({"index": [5, 9] * 3, "draw": [0, 0, 1, 1, 2, 2], "kl_ld": [9, 1, 7, 3, 8, 2]})
    found = (
        statistics.best_of_table(table.sample(frac=1, random_state=0), "draw", [1, 3]).set_index(["index", "N"]).kl_ld
    )
    assert found[5, 3] == 7
    assert found[9, 3] == 1
    assert found[5, 1] == 8


@pytest.mark.slow
def test_excess_slope_covers_the_planted_one_and_zero_where_there_is_none():
    rng = np.random.default_rng(0)
    covered = {0.0: 0, 3.0: 0}
    for planted in covered:
        for seed in range(60):
            x = np.repeat([0, 1, 4, 16], 15)
            z = rng.uniform(0, 1, len(x))
            y = 2 * z + planted * z * (x > 0) + np.log2(np.maximum(x, 1)) + rng.normal(0, 0.5, len(x))
            found = statistics.fit_excess(x, z, y, seed)
            covered[planted] += found.low < planted < found.high
    assert min(covered.values()) >= 50  # 95 % of 60 is 57; 50 or fewer have a chance of 0.002
    with pytest.raises(ValueError, match=r"needs three of either; got \(2, 1\)"):
        statistics.fit_excess([0, 1, 1], [1, 2, 3], [1, 2, 3])


@pytest.mark.slow
def test_half_point_covers_the_planted_one():
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(40):
        x = np.repeat([1, 2, 4, 8, 16, 32, 64], 12)
        success = rng.random(len(x)) < 1 / (1 + np.exp(-2 * (np.log2(x) - np.log2(20))))
        found = statistics.half_point(x, success, seed)
        covered += found.low < 20 < found.high
    assert covered >= 34
    with pytest.raises(ValueError, match="half of them succeed at no x: 0 of 4 do"):
        statistics.half_point([1, 2, 1, 2], [False] * 4)
