"""Areas and shares found against loops over all pairs, and on simulated scores whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lmmem.analysis.detection import area, found_at

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


@pytest.mark.parametrize("true", [0.5, 0.95])
def test_interval_of_a_share_found_covers_it(true):
    rng = np.random.default_rng([6, int(100 * true)])
    share = stats.norm.sf(stats.norm.ppf(0.99) - shifted(true))
    covered = []
    for _ in range(200):
        found = found_at(shifted(true) + rng.normal(size=128), rng.normal(size=256))
        covered.append(found.low <= share <= found.high)
    assert np.mean(covered) >= 0.92


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
