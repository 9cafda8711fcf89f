"""Tests of fluctuation about a level, on simulated passages whose truth is known."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.tsa.stattools import adfuller, kpss

from lmmem.analysis import stationarity as still

SETS = 2_000
NINETY_FIVE = (0.935, 0.965)
TESTS = {
    "reversal": lambda t, **more: still.reversal_test(t, **more),
    "ratio": lambda t, **more: still.variance_ratio(t, q=2, **more),
    "correlation": lambda t, **more: still.autocorrelation(t, **more),
    "roots": lambda t, **more: still.unit_roots(t, **more),
    "transitions": lambda t, **more: still.transitions(t, **more),
    "uncovered": lambda t, **more: still.uncovered(t, t, **more),
}


def error(share: float, sets: int = SETS) -> float:
    """Three standard errors of a share over simulated sets."""
    return 3 * (share * (1 - share) / sets) ** 0.5


def followed(values: np.ndarray, lengths: np.ndarray | None = None) -> pd.DataFrame:
    """(sequences, steps) as a table, 60 steps apart; each from another step on and for its own length."""
    n, steps = values.shape
    lengths = np.full(n, steps) if lengths is None else lengths
    kept = np.arange(steps) < lengths[:, None]
    index, step = np.nonzero(kept)
    return pd.DataFrame({"index": index, "step": 60 * (step + index % 7), "kl_ld": values[kept]})


def carried(rng: np.random.Generator, n: int, steps: int, r: float, uneven: float = 0.0) -> np.ndarray:
    """An autoregression about a level, or a random walk (r = 1); sequences differ in scale by `uneven`."""
    noise = rng.normal(size=(n, steps)) * np.exp(uneven * rng.normal(size=(n, 1)))
    if r == 1:
        return np.cumsum(noise, axis=1)
    noise[:, 0] /= (1 - r**2) ** 0.5
    for t in range(1, steps):
        noise[:, t] += r * noise[:, t - 1]
    return noise


# Reversal


@pytest.mark.slow
@pytest.mark.parametrize("jump", [None, 1.5])
def test_reversal_has_its_size_on_what_is_the_same_backwards(jump):
    rng = np.random.default_rng(1)
    tables = [followed(carried(rng, 24, 10, 0.7, uneven=1.0)) for _ in range(SETS)]
    found = [still.reversal_test(t, jump=jump, permutations=199, seed=i).p for i, t in enumerate(tables)]
    assert (np.array(found) <= 0.05).mean(axis=0).max() <= 0.05 + error(0.05)


@pytest.mark.slow
def test_reversal_has_its_size_where_passages_of_a_file_go_together():
    """48 passages of 12 files, each passage the copy of its file's: turned round one by one, half reject."""
    rng = np.random.default_rng(2)
    together, alone = [], []
    for seed in range(500):
        table = followed(np.repeat(carried(rng, 12, 8, 0.7), 4, axis=0))
        table["file"] = table["index"] // 4
        together.append(still.reversal_test(table, clusters="file", permutations=199, seed=seed).p[0] <= 0.05)
        alone.append(still.reversal_test(table, permutations=199, seed=seed).p[0] <= 0.05)
    assert np.mean(together) <= 0.05 + error(0.05, 500)
    assert np.mean(alone) > 0.2


def test_sudden_falls_and_slow_rises_are_found_though_nothing_drifts():
    phase = np.random.default_rng(3).integers(0, 20, 30)
    saw = (np.arange(41) + phase[:, None]) % 20
    found = still.reversal_test(followed(saw.astype(float)), jump=10).set_index("statistic")
    falls = found.loc["falls of 10 or more"]
    assert falls.p < 0.001
    assert (falls.forward, falls.reversed) == (pytest.approx(2, abs=0.1), 0)
    assert found.p["drift"] > 0.05
    squared = still.reversal_test(followed(saw.astype(float))).iloc[0]
    assert squared.statistic == "squared falls"
    assert squared.p < 0.001
    assert squared.forward == pytest.approx(361 * falls.forward)


@pytest.mark.slow
def test_drift_is_found_at_its_computed_power():
    """Ends minus starts are normal of known spread: the power of a t-test, which the flips of 30 signs have too."""
    rng = np.random.default_rng(4)
    shift = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    spread = 2**0.5  # of the difference of two independent values
    slope = shift * spread / 30**0.5 / 9
    found = []
    for seed in range(SETS):
        values = rng.normal(size=(30, 10)) + slope * np.arange(10)
        found.append(still.reversal_test(followed(values), permutations=199, seed=seed).p[1] <= 0.05)
    assert np.mean(found) == pytest.approx(0.78, abs=0.02 + error(0.8))  # t of 29 degrees, 199 flips


def test_few_passages_are_turned_round_in_all_ways():
    values = np.array([[9.0, 1, 2], [8, 3, 1], [7, 7, 0], [6, 2, 3]])
    found = still.reversal_test(followed(values), jump=3).set_index("statistic")
    falls = np.array([1, 1, 1, 1])
    ways = [abs(np.dot(signs, falls)) for signs in itertools.product([-1, 1], repeat=4)]
    assert found.p["falls of 3 or more"] == pytest.approx(np.mean(np.array(ways) >= 4))
    drift = values[:, 2] - values[:, 0]
    ways = [abs(np.dot(signs, drift)) for signs in itertools.product([-1, 1], repeat=4)]
    assert found.p["drift"] == pytest.approx(np.mean(np.array(ways) >= abs(drift.sum())))
    assert found.estimate["drift"] == pytest.approx(drift.mean())


def test_time_turned_round_turns_the_estimate_round():
    values = carried(np.random.default_rng(5), 20, 9, 0.5)
    forward, backward = (still.reversal_test(followed(v), jump=1) for v in (values, values[:, ::-1]))
    np.testing.assert_allclose(forward.estimate, -backward.estimate)
    np.testing.assert_allclose(forward.forward[:1], backward.reversed[:1])


def test_jump_that_nobody_makes_is_counted_as_none():
    found = still.reversal_test(followed(carried(np.random.default_rng(6), 20, 5, 0.5)), jump=1_000)
    assert found.loc[0, ["forward", "reversed", "estimate", "p"]].tolist() == [0, 0, 0, 1]


# Variance ratio and autocorrelation


@pytest.mark.slow
@pytest.mark.parametrize(("r", "n", "uneven"), [(0.0, 30, 0.0), (0.6, 60, 0.5), (1.0, 30, 0.0), (1.0, 60, 0.5)])
def test_interval_of_the_variance_ratio_covers_it(r, n, uneven):
    rng = np.random.default_rng([n, int(10 * r)])
    truth = 1.0 if r == 1 else (1 - r**4) / (4 * (1 - r))
    covered = []
    for seed in range(SETS):
        lengths = rng.integers(8, 26, n)
        found = still.variance_ratio(followed(carried(rng, n, 25, r, uneven), lengths), q=4, seed=seed)
        covered.append(found.low <= truth <= found.high)
    assert NINETY_FIVE[0] <= np.mean(covered) <= NINETY_FIVE[1]


def test_variance_ratio_is_that_of_the_differences():
    values = carried(np.random.default_rng(7), 12, 9, 0.5)
    one, three = np.diff(values, axis=1), values[:, 3:] - values[:, :-3]
    drift = one.mean()
    expected = np.mean((three - 3 * drift) ** 2) / (3 * np.mean((one - drift) ** 2))
    assert still.variance_ratio(followed(values), q=3).estimate == pytest.approx(expected)


def test_drift_that_all_share_is_no_random_walk():
    rng = np.random.default_rng(8)
    flat = carried(rng, 40, 25, 0.0)
    found = [still.variance_ratio(followed(v), q=4) for v in (flat, flat + 2 * np.arange(25))]
    np.testing.assert_allclose(found[0][:3], found[1][:3], rtol=0.02)
    assert found[1].high < 1


@pytest.mark.slow
@pytest.mark.parametrize(("r", "n", "uneven"), [(0.0, 30, 0.0), (0.6, 60, 0.5), (0.9, 30, 0.0)])
def test_interval_of_the_autocorrelation_covers_it_in_short_sequences(r, n, uneven):
    rng = np.random.default_rng([n, int(10 * r), 1])
    found = []
    for seed in range(SETS):
        lengths = rng.integers(6, 26, n)
        found.append(still.autocorrelation(followed(carried(rng, n, 25, r, uneven), lengths), seed=seed))
    assert NINETY_FIVE[0] <= np.mean([one.low <= r <= one.high for one in found]) <= NINETY_FIVE[1]
    assert np.mean([one.estimate for one in found]) == pytest.approx(r, abs=0.03)  # the bias is taken off


def test_autocorrelation_at_a_lag_is_a_power_of_the_first():
    values = carried(np.random.default_rng(9), 400, 24, 0.7)
    found = [still.autocorrelation(followed(values), lag=lag) for lag in (1, 2, 3)]
    np.testing.assert_allclose([one.estimate for one in found], [0.7, 0.49, 0.343], atol=0.03)


def test_random_walk_has_an_autocorrelation_of_one():
    found = still.autocorrelation(followed(carried(np.random.default_rng(10), 60, 25, 1.0)))
    assert found.low > 0.9
    assert found.high == 1


def test_bias_that_is_taken_off_is_that_of_many_simulated_series():
    values = carried(np.random.default_rng(11), 200_000, 6, 0.5)
    centred = values - values.mean(1, keepdims=True)
    raw = (centred[:, 1:] * centred[:, :-1]).sum() / (centred**2).sum()
    products, squares = still._expected(6)
    assert np.interp(raw, products / squares, still.CORRELATIONS) == pytest.approx(0.5, abs=0.01)
    assert (np.diff(products / squares) > 0).all()


def test_passages_of_a_file_that_go_together_widen_the_interval():
    table = followed(np.repeat(carried(np.random.default_rng(12), 12, 20, 0.5), 4, axis=0))
    table["file"] = table["index"] // 4
    for test in ("ratio", "correlation"):
        together, alone = TESTS[test](table, clusters="file"), TESTS[test](table)
        assert together.estimate == pytest.approx(alone.estimate)
        assert together.high - together.low > 1.5 * (alone.high - alone.low)
        assert together.n == alone.n == 48


# Unit roots


@pytest.mark.slow
def test_unit_root_and_level_are_rejected_at_their_level_where_they_are_true():
    rng = np.random.default_rng(13)
    walks = still.unit_roots(followed(carried(rng, SETS, 25, 1.0))).set_index("test").unadjusted
    levels = still.unit_roots(followed(carried(rng, SETS, 25, 0.0))).set_index("test")
    assert walks["ADF"] <= 0.05 + error(0.05)
    assert levels.unadjusted["KPSS"] <= 0.05 + error(0.05)
    assert levels.share["ADF"] > 0.5
    assert levels.share["KPSS"] <= 0.01
    assert walks["KPSS"] > 0.5


def test_no_unit_root_is_rejected_after_adjustment_where_all_are_true():
    rng = np.random.default_rng(14)
    some = [still.unit_roots(followed(carried(rng, 20, 25, 1.0))).rejected[0] > 0 for _ in range(60)]
    assert np.mean(some) <= 0.05 + error(0.05, 60)


def test_p_is_that_of_statsmodels_at_its_critical_value_for_short_series():
    series = carried(np.random.default_rng(15), 200, 25, 0.6)
    for one in series:
        found = adfuller(one, maxlag=1, autolag=None, result_object=True)
        below = found.statistic - found.critical_values["5%"]
        if abs(below) > 0.02:
            assert (still._adf(one) < 0.05) == (below < 0)
    walk = np.cumsum(np.ones(25)) + series[0] / 10  # off the end of the table
    assert still._kpss(walk) == 0.01
    with pytest.warns(match="smaller than the p-value returned"):
        assert kpss(walk, nlags=2, result_object=True).pvalue == 0.01


def test_series_without_variation_and_short_ones_are_counted_apart():
    values = carried(np.random.default_rng(16), 8, 20, 0.0)
    values[0] = 5  # never changes
    values[1] = [1] + [0] * 19  # at one end only
    values[2] = np.arange(20)  # by the same at each step
    found = still.unit_roots(followed(values, np.array([20] * 6 + [14, 9])))
    assert found[["of", "constant", "too_short"]].to_numpy().tolist() == [[3, 3, 2]] * 2


def test_series_that_changes_once_or_alternates_is_no_error():
    values = np.zeros((3, 25))
    values[0, 12], values[1, 12:], values[2, ::2] = 1, 1, 1
    found = still.unit_roots(followed(values))
    assert found.of.tolist() == [2, 2]
    assert found.constant.tolist() == [1, 1]  # to and fro


# Transitions and what is uncovered


def chain(rng: np.random.Generator, n: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """kl-LD 0, 20 or 60 by a Markov chain; and its probabilities."""
    moves = np.array([[0.6, 0.3, 0.1], [0.05, 0.75, 0.2], [0.01, 0.09, 0.9]])
    state = np.empty((n, steps), dtype=int)
    state[:, 0] = rng.integers(0, 3, n)
    for t in range(1, steps):
        state[:, t] = (rng.random(n)[:, None] > moves[state[:, t - 1]].cumsum(1)).sum(1)
    return np.array([0.0, 20, 60])[state], moves


def test_intervals_of_transitions_cover_the_probabilities():
    rng = np.random.default_rng(17)
    covered = []
    for _ in range(SETS // 4):
        values, moves = chain(rng, 30, 8)
        found = still.transitions(followed(values))
        truth = moves[[still.STATES.index(s) for s in found.state], [still.STATES.index(s) for s in found.next]]
        covered.extend((found.low <= truth) & (truth <= found.high))
    assert np.mean(covered) >= 0.95


def test_transitions_are_counted_within_sequences():
    table = followed(np.array([[0.0, 9, 50], [0, 0, 49.5], [60, 50, 50]]), np.array([3, 3, 2]))
    found = still.transitions(table).set_index(["state", "next"])
    assert found["count"].to_dict() == {
        ("memorised", "memorised"): 1,
        ("memorised", "partial"): 2,
        ("memorised", "absent"): 0,
        ("partial", "memorised"): 0,
        ("partial", "partial"): 0,
        ("partial", "absent"): 1,
        ("absent", "memorised"): 0,
        ("absent", "partial"): 0,
        ("absent", "absent"): 1,
    }
    assert found.of.tolist() == [3] * 3 + [1] * 3 + [1] * 3
    assert found.probability["memorised", "partial"] == pytest.approx(2 / 3)


def test_states_that_are_never_left_have_no_line():
    found = still.transitions(followed(np.array([[9.0, 0], [9, 9]])))
    assert set(found.state) == {"partial"}


def test_uncovered_are_those_recited_later_and_not_at_first():
    exposed = followed(np.array([[5.0, 0, 5], [0, 5, 5], [0, 0, 0], [5, 5, 5], [5, 5, 0]]))
    twins = followed(np.array([[5.0, 5, 5], [5, 0, 5]]))
    found = still.uncovered(exposed, twins).set_index(["passages", "time"])
    assert found.observed.to_dict() == {
        ("exposed", "forward"): 2,  # of the first, the fourth and the last
        ("exposed", "reversed"): 2,  # the first two, of those and the fourth
        ("twins", "forward"): 1,
        ("twins", "reversed"): 1,
    }
    assert found.of.tolist() == [3, 3, 2, 2]
    assert found.share["exposed", "forward"] == pytest.approx(2 / 3)
    assert found.low["exposed", "forward"] == pytest.approx(stats.beta.ppf(0.025, 2, 2))


@pytest.mark.slow
def test_interval_of_the_uncovered_share_covers_it_and_reversed_time_has_as_many():
    """A chain in its equilibrium that is reversible: forward and reversed counts have one expectation."""
    rng = np.random.default_rng(18)
    covered, difference = [], []
    for _ in range(SETS):
        recited = rng.random((40, 6)) < 0.05
        found = still.uncovered(*[followed(np.where(recited, 0.0, 30))] * 2)
        truth = 1 - 0.95**5
        covered.append(found.low[0] <= truth <= found.high[0])
        difference.append(found.share[0] - found.share[1])
    assert np.mean(covered) >= 0.95
    assert np.mean(difference) == pytest.approx(0, abs=3 * np.std(difference) / SETS**0.5)


# What is refused


GOOD = followed(np.where(carried(np.random.default_rng(19), 6, 20, 0.5) < 0, 0.0, 30.0))


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop(columns="step"), "no column step; there are index, kl_ld"),
        (lambda t: t[:0], "the table is empty"),
        (lambda t: t.assign(kl_ld=t.kl_ld.where(t.index != 3)), "kl_ld of sequence 0 at step 180 is nan"),
        (lambda t: pd.concat([t, t[5:6]]), r"one line a \(sequence, step\); sequence 0 at step 300 is there twice"),
        (lambda t: t.drop(index=4), "steps 60 apart; sequence 0 has none between 180 and 300"),
        (lambda t: t[t.step == 360], "2 steps a sequence or more; 6 of 6 have fewer, sequence 0 has 1"),
    ],
)
def test_table_that_cannot_be_followed_is_refused_in_a_line(test, change, said):
    TESTS[test](GOOD)
    with pytest.raises(ValueError, match=said) as refused:
        TESTS[test](change(GOOD))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ("reversal", "a kl_ld that changes; it is the same at all steps"),
        ("ratio", "needs two sequences or clusters with more than 2 steps and values that change; got 0 of 6"),
        ("correlation", "needs two sequences or clusters with 3 steps or more and values that change; got 0 of 6"),
        ("roots", "a series of 15 steps that changes; of 6, 0 are shorter and 6 constant"),
        ("transitions", "memorised and others that are not; 120 of 120 have a kl_ld of at most 0"),
        ("uncovered", "some that are not recited at the first step; all 6 exposed are"),
    ],
)
def test_values_that_never_change_are_refused(test, said):
    with pytest.raises(ValueError, match=said):
        TESTS[test](GOOD.assign(kl_ld=0.0))


@pytest.mark.parametrize("test", ["ratio", "correlation"])
def test_interval_of_one_sequence_is_refused(test):
    with pytest.raises(ValueError, match="got 1 of 1"):
        TESTS[test](GOOD[GOOD["index"] == 0])


def test_none_memorised_has_no_transitions_and_none_uncovered():
    with pytest.raises(ValueError, match="0 of 120 have a kl_ld of at most 0"):
        still.transitions(GOOD.assign(kl_ld=9.0))
    assert still.uncovered(GOOD.assign(kl_ld=9.0), GOOD).observed[0] == 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: still.reversal_test(GOOD, jump=0), "a jump is above 0"),
        (lambda: still.variance_ratio(GOOD, q=1), "q of 2 steps or more; got 1"),
        (lambda: still.variance_ratio(GOOD, q=20), "more than 20 steps and values that change; got 0 of 0"),
        (lambda: still.autocorrelation(GOOD, lag=0), "a lag of 1 step or more"),
        (lambda: still.autocorrelation(GOOD, lag=9), "27 steps or more and values that change; got 0 of 0"),
        (lambda: still.transitions(GOOD, absent=0), "absent begins above memorised"),
        (lambda: still.reversal_test(GOOD.assign(file=GOOD.step), clusters="file"), "one file a sequence; sequence 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_sequence_that_is_back_after_q_steps_has_no_ratio():
    table = followed(np.tile([[0.0, 9.0]], (4, 6))[:, :-1])
    with pytest.raises(ValueError, match="differs after 2 steps"):
        still.variance_ratio(pd.concat([table, table.assign(index=table["index"] + 9)]), q=2)


def test_order_of_lines_does_not_matter():
    mixed = GOOD.sample(frac=1, random_state=0)
    for test, call in TESTS.items():
        one, other = call(GOOD), call(mixed)
        if test in ("ratio", "correlation"):
            assert one == other
        else:
            pd.testing.assert_frame_equal(one, other)
