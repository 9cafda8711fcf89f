"""Areas and shares found against loops over all pairs, and on simulated scores whose truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lmmem.analysis.detection import (
    agreement,
    area,
    area_difference,
    calibration,
    chosen,
    compare,
    found_at,
    found_by_arm,
    predict,
    roc,
    strata_of,
)
from lmmem.analysis.statistics import Interval

SETS = 600
NINETY_FIVE = (0.925, 0.975)  # three standard errors of a share over so many sets


def shifted(true: float) -> float:
    """By how much normal scores are larger where the area is so."""
    return float(np.sqrt(2) * stats.norm.ppf(true))


def pairs(positive, negative) -> float:
    return float(np.mean([(p > n) + (p == n) / 2 for p in positive for n in negative]))


def test_area_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 9, 40).astype(float), rng.integers(0, 7, 70).astype(float)
    assert area(positive, negative).estimate == pytest.approx(pairs(positive, negative))
    assert area(negative, positive).estimate == pytest.approx(1 - pairs(positive, negative))


def test_area_within_strata_compares_with_the_negatives_of_the_stratum_alone():
    rng = np.random.default_rng(1)
    strata, others = rng.integers(0, 3, 60), rng.integers(0, 3, 90)
    positive, negative = 5.0 * strata + rng.normal(size=60), 5.0 * others + rng.normal(size=90)
    by_hand = [pairs([p], negative[others == s]) for p, s in zip(positive, strata, strict=True)]
    found = area(positive, negative, strata_positive=strata, strata_negative=others)
    assert found.estimate == pytest.approx(np.mean(by_hand))
    assert found.high - found.low < 0.3
    with pytest.raises(ValueError, match="in a stratum without negatives"):
        area(positive, negative, strata_positive=strata, strata_negative=others + 1)


def test_variance_without_clusters_is_delongs_by_a_loop():
    rng = np.random.default_rng(2)
    positive, negative = rng.normal(1, 1, 50), rng.normal(size=80)
    v10 = [np.mean([(p > n) + (p == n) / 2 for n in negative]) for p in positive]
    v01 = [np.mean([(p > n) + (p == n) / 2 for p in positive]) for n in negative]
    error = np.sqrt(np.var(v10, ddof=1) / 50 + np.var(v01, ddof=1) / 80)
    found = area(positive, negative)
    half = stats.t.ppf(0.975, 49) * error / (found.estimate * (1 - found.estimate))
    assert np.log(found.high / (1 - found.high)) == pytest.approx(np.log(found.estimate / (1 - found.estimate)) + half)


@pytest.mark.parametrize("true", [0.5, 0.7, 0.95])
@pytest.mark.parametrize("files", [0, 100])
def test_interval_of_an_area_covers_it(true, files):
    rng = np.random.default_rng([int(100 * true), files])
    covered = []
    for _ in range(SETS):
        positive, negative = shifted(true) + rng.normal(size=64), rng.normal(size=192)
        labels = (None, None)
        if files:  # a fifth of the variance is shared by a file, which holds both
            of_file, share = rng.normal(size=files), rng.dirichlet(2 * np.ones(files))
            labels = tuple(rng.choice(files, n, p=share) for n in (64, 192))
            noise = [0.8**0.5 * rng.normal(size=len(at)) + 0.2**0.5 * of_file[at] for at in labels]
            positive, negative = shifted(true) + noise[0], noise[1]
        found = area(positive, negative, *labels)
        covered.append(found.low <= true <= found.high)
    assert NINETY_FIVE[0] <= np.mean(covered) <= NINETY_FIVE[1]


def test_lines_of_a_file_count_less_than_lines_of_their_own():
    rng = np.random.default_rng(3)
    files = np.arange(40)
    positive, negative = np.repeat(rng.normal(1, 1, 40), 5), np.repeat(rng.normal(size=40), 5)
    found = area(positive, negative, np.repeat(files, 5), np.repeat(files + 40, 5))
    alone = area(positive[::5], negative[::5])
    assert found.high - found.low == pytest.approx(alone.high - alone.low, rel=0.02)
    naive = area(positive, negative)
    assert naive.high - naive.low < 0.6 * (found.high - found.low)


@pytest.mark.parametrize("true", [0.5, 0.9])
def test_interval_of_few_positives_covers_more_rather_than_less(true):
    rng = np.random.default_rng(int(10 * true))
    covered = []
    for _ in range(SETS):
        found = area(shifted(true) + rng.normal(size=16), rng.normal(size=256))
        covered.append(found.low <= true <= found.high)
    assert np.mean(covered) >= NINETY_FIVE[0]


@pytest.mark.parametrize("n", [16, 256])
def test_score_that_knows_the_truth_has_an_area_of_one_that_few_passages_do_not_prove(n):
    found = area(np.ones(n), np.zeros(256))
    assert (found.estimate, found.high, found.n) == (1.0, 1.0, n)
    assert found.low == pytest.approx({16: 0.8966, 256: 0.9924}[n], abs=1e-4)
    assert area(np.zeros(n), np.ones(256)).high == pytest.approx(1 - area(np.ones(256), np.zeros(n)).low)


def test_narrower_level_gives_a_narrower_interval():
    rng = np.random.default_rng(4)
    scores = rng.normal(size=60), rng.normal(size=60)
    wide, narrow = area(*scores), area(*scores, level=0.9)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize("false_alarms", [0.01, 0.02, 0.1])
def test_share_found_is_that_of_the_largest_threshold_with_few_enough_false_alarms(false_alarms):
    rng = np.random.default_rng(5)
    positive, negative = rng.normal(2, 1, 90).round(1), rng.normal(size=250).round(1)
    thresholds = [*negative, *positive, -np.inf]
    shares = [np.mean(positive > t) for t in thresholds if np.mean(negative > t) <= false_alarms]
    assert found_at(positive, negative, false_alarms).estimate == pytest.approx(max(shares))


@pytest.mark.slow
@pytest.mark.parametrize("true", [0.5, 0.95])
def test_interval_of_a_share_found_covers_it(true):
    rng = np.random.default_rng([6, int(100 * true)])
    share = stats.norm.sf(stats.norm.ppf(0.99) - shifted(true))
    covered = []
    for _ in range(100):
        found = found_at(shifted(true) + rng.normal(size=128), rng.normal(size=256))
        covered.append(found.low <= share <= found.high)
    assert np.mean(covered) >= 0.9


def test_share_found_knows_of_clusters_and_of_few_positives():
    rng = np.random.default_rng(7)
    positive, negative = np.repeat(rng.normal(2, 1, 40), 5), rng.normal(size=200)
    apart = found_at(positive, negative, 0.2)
    together = found_at(positive, negative, 0.2, np.arange(200) // 5, range(200, 400))
    assert together.high - together.low > 1.4 * (apart.high - apart.low)
    assert found_at(np.full(16, 9.0), negative).low == pytest.approx(0.794, abs=1e-3)
    assert found_at(positive, negative) == found_at(positive, negative)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], [1.0, 2.0]), "scores_positive: two scores or more"),
        (([1.0, 2.0], [1.0, np.nan]), "scores_negative: finite scores are needed; line 1 is nan"),
        (([1.0, 2.0], [1.0, 2.0], [1, 2]), "clusters of positives and of negatives are needed together"),
        (([1.0, 2.0], [1.0, 2.0], [1], [1, 2]), "clusters: a label is needed for each score, 2 and 2"),
        (([1.0, 2.0], [1.0, 2.0], [1, None], [1, 2]), "clusters: each score needs a label"),
        (([1.0, 2.0], [1.0, 2.0], [1, 1], [1, 2]), "two clusters or more of positives and of negatives"),
    ],
)
def test_scores_that_say_nothing_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        area(*arguments)


def test_share_found_is_refused_where_no_false_alarm_can_be_counted():
    with pytest.raises(ValueError, match="at 1 % false alarms needs 100 negatives or more; got 99"):
        found_at(range(50), range(99))
    with pytest.raises(ValueError, match="false_alarms=1: give a share"):
        found_at(range(50), range(200), 1)


def passages(seed: int = 0, n: int = 64, **shifts: float) -> pd.DataFrame:
    """Arms of n, in blocks, with a score that knows the truth, one that sees some of it, and one of chance."""
    rng = np.random.default_rng(seed)
    lines = pd.DataFrame({"arm": np.repeat([name.replace("_", " ") for name in shifts], n)})
    shift = np.repeat(list(shifts.values()), n)
    return lines.assign(
        index=range(len(lines)),
        file=rng.integers(0, 90, len(lines)),
        block=np.tile(np.arange(n) // 4, len(shifts)),
        truth=shift,
        some=shift + rng.normal(size=len(lines)),
        chance=rng.normal(size=len(lines)),
        z_complexity=rng.random(len(lines)),
    )


def test_planted_scores_get_their_verdicts():
    table = passages(1, a_0=0.0, a_1=1.0, a_2=2.0)
    found = compare(table, ["truth", "some", "chance"], "a 0").set_index(["score", "arm"])
    assert (found.estimate["truth"] == 1).all() and (found.verdict["truth"] == "tells").all()
    assert (found.verdict["some"] == "tells").all()
    for (score, arm), line in found.iterrows():
        sides = [table[table.arm == one] for one in (arm, "a 0")]
        alone = area(*(side[score] for side in sides), *(side.file for side in sides))
        assert (line.estimate, line.low, line.high, line.n) == alone
    assert (found.negatives == 64).all()


def test_score_that_points_the_other_way_is_told_so_and_few_passages_get_no_verdict():
    table = passages(2, a_0=0.0, a_1=-1.5)
    assert compare(table, ["some"], "a 0").verdict.tolist() == ["reversed"]
    few = pd.concat([table[table.arm == "a 0"], table[table.arm == "a 1"].head(15)])
    assert compare(few, ["some"], "a 0").verdict.tolist() == ["n < 16: no verdict"]
    blind = compare(passages(3, 2_000, a_0=0.0, a_1=0.05), ["some"], "a 0")
    assert blind.high[0] < 0.6 and set(blind.verdict) <= {"blind", "tells"}


@pytest.mark.slow
def test_p_values_are_uniform_where_a_score_knows_nothing():
    p = np.array([compare(passages(seed, a_0=0.0, a_1=0.0), ["chance"], "a 0").p[0] for seed in range(400)])
    assert 0.02 <= (p <= 0.05).mean() <= 0.085
    assert 0.42 <= (p <= 0.5).mean() <= 0.58
    few = [compare(passages(seed, 20, a_0=0.0, a_1=0.0), ["chance"], "a 0").p[0] for seed in range(400)]
    assert np.mean(np.array(few) <= 0.05) <= 0.08


def test_false_verdicts_over_a_table_are_rare():
    tables = [passages(seed, a_0=0.0, a_1=0.0, a_2=0.0, a_3=0.0) for seed in range(200)]
    told = [compare(table, ["chance", "some"], "a 0").verdict.isin(["tells", "reversed"]).any() for table in tables]
    assert np.mean(told) <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def test_q_is_benjamini_and_hochbergs_over_the_table():
    found = compare(passages(4, a_0=0.0, a_1=0.3, a_2=0.6), ["some", "chance"], "a 0").sort_values("p")
    m = len(found)
    expected = np.minimum.accumulate((found.p.to_numpy() * m / np.arange(1, m + 1))[::-1])[::-1]
    np.testing.assert_allclose(found.q, np.minimum(expected, 1))


def test_score_of_complexity_alone_tells_nothing_within_strata_of_it():
    """Where positives are of other complexity than negatives, a score that sees only that must not pass for memory."""
    table = passages(5, 400, a_0=0.0, a_1=0.8)
    table = table.assign(seen=table.some + 0.01 * table.chance, stratum=strata_of(table.some, 40))
    table = table[table.groupby("stratum").arm.transform("nunique") == 2]
    plain, matched = compare(table, ["seen"], "a 0"), compare(table, ["seen"], "a 0", strata="stratum")
    assert plain.low[0] > 0.6
    assert matched.low[0] < 0.5 < matched.high[0]


def test_strata_are_of_equal_size_and_in_order():
    values = np.random.default_rng(0).permutation(100)
    strata = strata_of(values, 4)
    assert np.bincount(strata).tolist() == [25] * 4
    assert all(values[strata == s].max() < values[strata == s + 1].min() for s in range(3))
    with pytest.raises(ValueError, match=r"strata=5: give 1 \.\. 4"):
        strata_of([1, 2, 3, 4], 5)


def test_difference_of_two_areas_covers_it_and_is_narrower_than_of_apart():
    rng = np.random.default_rng(8)
    true = stats.norm.cdf(1 / np.sqrt(2)) - stats.norm.cdf(0.5 / np.sqrt(2))
    covered = []
    for _ in range(SETS):
        of = [rng.normal(size=n) for n in (64, 192)]  # which both scores see, and each more
        one, other = ([0.6 * seen + 0.8 * rng.normal(size=len(seen)) for seen in of] for _ in range(2))
        found = area_difference((one[0] + 1, other[0] + 0.5), (one[1], other[1]))
        covered.append(found.low <= true <= found.high)
    assert NINETY_FIVE[0] <= np.mean(covered) <= NINETY_FIVE[1]
    same = area_difference((one[0], one[0]), (one[1], one[1]))
    assert same == (0.0, 0.0, 0.0, 64)
    with pytest.raises(ValueError, match="two scores of the same lines"):
        area_difference((one[0], one[0][:9]), (one[1], one[1]))


def test_best_score_is_not_chosen_by_the_luck_that_it_is_judged_by():
    """Of 20 scores that know nothing the best looks well on its own data, and like nothing on the other half."""
    rng = np.random.default_rng(9)
    names = [f"s{i}" for i in range(20)]
    optimistic, fair = [], []
    for seed in range(20):
        table = passages(seed, a_0=0.0, a_1=0.0).assign(**{name: rng.normal(size=128) for name in names})
        optimistic.append(compare(table, names, "a 0").estimate.max())
        fair.append(compare(chosen(table, names, "a 1", "a 0"), ["best"], "a 0", strata="half").estimate[0])
    assert np.mean(optimistic) > 0.58
    assert np.mean(fair) == pytest.approx(0.5, abs=0.03)
    planted = chosen(passages(1, a_0=0.0, a_1=1.0), ["chance", "truth"], "a 1", "a 0")
    assert set(planted.chosen) == {"truth"} and (planted.best == planted.truth).all()


def test_choice_in_one_half_is_that_of_the_other():
    table = passages(1, a_0=0.0, a_1=1.0)
    odd = table.block % 2 == 1
    table["on_even"] = np.where(odd, 0.0, table.truth) + 1e-9 * table.chance
    table["on_odd"] = np.where(odd, table.truth, 0.0) + 1e-9 * table.chance
    found = chosen(table, ["on_even", "on_odd"], "a 1", "a 0")
    assert set(found.chosen[odd]) == {"on_even"} and set(found.chosen[~odd]) == {"on_odd"}


def test_calibrated_probabilities_mean_what_they_say():
    rng = np.random.default_rng(10)
    met = np.arange(4_000) < 2_000
    found = calibration(rng.normal(size=4_000) + met, met)
    assert ((found.low - 0.02 <= found.predicted) & (found.predicted <= found.high + 0.02)).all()
    assert found.n.tolist() == [800] * 5
    assert found.predicted.is_monotonic_increasing and found.observed.iloc[-1] > 0.8


def test_calibration_predicts_passages_that_it_was_not_fitted_to():
    """A score that only knows the file by heart is worth nothing in other files."""
    rng = np.random.default_rng(11)
    file = np.repeat(np.arange(200), 4)
    met = np.repeat(rng.random(200) < 0.5, 4)
    found = calibration(rng.normal(size=800), met, file)
    assert found.predicted.between(0.35, 0.65).all()
    apart = calibration(np.where(met, 5.0, -5.0), met, file)
    assert apart.predicted.iloc[0] < 0.05 and apart.predicted.iloc[-1] > 0.95


def test_two_scores_together_tell_more_than_either_and_one_of_chance_adds_nothing():
    rng = np.random.default_rng(13)
    met = np.arange(1_000) < 500
    one, other, chance = met + rng.normal(size=1_000), met + rng.normal(size=1_000), rng.normal(size=1_000)

    def told(*scores: np.ndarray) -> float:
        both = predict(np.column_stack(scores), met, np.arange(1_000) // 2)
        return area(both[met], both[~met]).estimate

    assert told(one, other) == pytest.approx(stats.norm.cdf(1), abs=0.03)  # distance sqrt(2) over s.d. sqrt(2)
    assert told(one) == pytest.approx(stats.norm.cdf(np.sqrt(0.5)), abs=0.03)
    assert told(one, chance) == pytest.approx(told(one), abs=0.01)


def test_fit_is_that_of_maximum_likelihood():
    import statsmodels.api as sm

    from lmmem.analysis.detection import _logistic

    rng = np.random.default_rng(14)
    x = rng.normal(size=(300, 2))
    met = rng.random(300) < 1 / (1 + np.exp(-(0.3 + x @ [1.0, -0.5])))
    np.testing.assert_allclose(_logistic(x, met), sm.Logit(met, sm.add_constant(x)).fit(disp=0).params, atol=2e-3)


def test_agreement_is_spearmans():
    table = passages(6, a_0=1.0)
    table["rank"] = stats.rankdata(table.some) ** 3
    found = agreement(table, ["some", "rank", "chance"])
    assert found.loc["some", "rank"] == pytest.approx(1)
    assert found.loc["some", "chance"] == pytest.approx(stats.spearmanr(table.some, table.chance).statistic)
    with pytest.raises(ValueError, match="truth: the same in all 64 sequences"):
        agreement(table, ["truth", "some"])


def test_curve_rises_within_its_band_and_its_area_is_the_area():
    rng = np.random.default_rng(12)
    positive, negative = rng.normal(1, 1, 300), rng.normal(size=400)
    found = roc(positive, negative)
    assert found.estimate.is_monotonic_increasing
    assert ((found.low <= found.estimate) & (found.estimate <= found.high)).all()
    below = np.trapezoid(found.estimate, found.false_alarms)
    assert below == pytest.approx(area(positive, negative).estimate, abs=0.01)
    assert found.estimate.iloc[-1] == 1.0


def test_shares_found_of_arms_are_those_of_each_alone():
    table = passages(7, 128, a_0=0.0, a_1=1.0, a_2=3.0)
    found = found_by_arm(table, ["truth", "some"], "a 0").set_index(["score", "arm"])
    assert found.estimate["truth"].tolist() == [1.0, 1.0]
    sides = [table[table.arm == arm] for arm in ("a 2", "a 0")]
    alone = found_at(*(side.some for side in sides), 0.01, *(side.file for side in sides))
    assert Interval(*found.loc[("some", "a 2")]) == alone


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: compare(t, ["none"], "a 0"), "no column none"),
        (lambda t: compare(t, ["some"], "b 0"), "128 to be told from 0 of arm 'b 0'"),
        (lambda t: compare(t.assign(some=np.nan), ["some"], "a 0"), "some, arm a 1: scores_positive: finite scores"),
        (lambda t: found_by_arm(t, ["some"], "a 0"), "needs 100 negatives or more; got 64"),
        (lambda t: predict(t.some, [True] * 128), "of exposed and of unexposed"),
        (lambda t: calibration(t.some, t.arm == "a 1", [1, 2] * 64), "needs as many clusters; got 2"),
        (lambda t: calibration(t.some, [True]), "need one length"),
        (lambda t: agreement(t.head(2), ["some"]), "needs three sequences or more; got 2"),
    ],
)
def test_tables_that_say_nothing_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(passages(0, a_0=0.0, a_1=1.0))
