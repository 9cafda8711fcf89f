"""What is held at the last step: slopes, arms, ratio and ranks, with planted truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lmmem.analysis import end_of_training, event_study
from lmmem.analysis.trajectories import BITS, simulated
from tests.analysis.planted import ARMS, LAST, assert_covers, at_end, covered, exponential, none, plus, power


def test_recency_and_repetition_are_those_of_least_squares():
    end = at_end(simulated(none, ARMS, seed=8))
    recency = np.log2(np.maximum(LAST - end.last_step + 1, 1))
    bits = np.where(end.presentations > 0, 20 + 12 * np.log2(np.maximum(end.presentations, 1)) - 3 * recency, 0)
    quiet = end.assign(cross_entropy=-bits / BITS)
    found = end_of_training.recency_and_repetition(quiet).set_index("term")
    np.testing.assert_allclose(found.estimate[["presentations", "recency"]], [12, -3])
    noisy = event_study.against_twins(plus(end, bits))
    design = np.column_stack([np.ones(len(noisy)), np.log2(noisy.presentations), np.log2(LAST - noisy.last_step + 1)])
    wanted = np.linalg.lstsq(design, noisy.bits, rcond=None)[0]
    np.testing.assert_allclose(end_of_training.recency_and_repetition(plus(end, bits)).estimate, wanted[1:])


def test_ratio_of_two_arms_is_that_of_their_means():
    end = at_end(simulated(none, ARMS, seed=8))
    end = plus(end, end.arm.map({"spread 0": 0, "spread 1": 40, "spread 4": 50, "spread 16": 100}))
    means = end_of_training.by_presentations(end).set_index("arm")
    found = end_of_training.worth(end, "spread 4", "spread 16")
    assert found.estimate == pytest.approx(means.estimate["spread 4"] / means.estimate["spread 16"])
    assert 0 < found.low < 0.5 < found.high < 1
    assert list(means.presentations) == [1, 4, 16]
    with pytest.raises(ValueError, match=r"denominator whose interval excludes 0; spread 16 has"):
        end_of_training.worth(at_end(simulated(none, ARMS, seed=8)), "spread 4", "spread 16")
    with pytest.raises(ValueError, match="no exposed passages of fuzzy 16"):
        end_of_training.worth(end)


def test_palimpsest_is_the_rank_correlation_with_ties():
    end = at_end(simulated(exponential, seed=9))
    end["exposure_step"] = np.where(end.presentations > 0, end.exposure_step // 50 * 50, end.exposure_step)
    end["cross_entropy"] = end.cross_entropy.round(1)
    once = end[end.arm == "spread 1"]
    found = end_of_training.palimpsest(end)
    assert found.estimate == pytest.approx(stats.spearmanr(-once.cross_entropy, once.exposure_step).statistic)
    assert found == end_of_training.palimpsest(end)
    times = np.random.default_rng(0).integers(0, 4, len(once))
    codes = [np.unique(x, return_inverse=True)[1] for x in (once.cross_entropy, once.exposure_step)]
    repeated = stats.spearmanr(*(np.repeat(code, times) for code in codes)).statistic
    assert end_of_training._spearman(*codes, times[None].astype(float))[0] == pytest.approx(repeated)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda t: end_of_training.by_presentations(t), "one step; got 15: 0 .. 840"),
        (lambda t: end_of_training.recency_and_repetition(at_end(t)), "all are alike"),
        (lambda t: end_of_training.palimpsest(at_end(t).assign(cross_entropy=1.0)), "all are alike"),
        (lambda t: end_of_training.palimpsest(at_end(t).assign(file=1)), "passages of 2 files; got 1"),
    ],
)
def test_what_cannot_be_answered_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call(simulated(power, blocks=4, seed=1))


@pytest.mark.slow
def test_intervals_at_the_end_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(2029)
    hits: dict[str, list] = {"terms": [], "arms": [], "worth": []}
    bits = {"spread 0": 0, "spread 1": 30, "spread 4": 50, "spread 16": 80}
    for _ in range(2_000):
        end = at_end(simulated(none, ARMS, last=120, drift=10, seed=rng))
        factor = 1 + 0.2 * rng.normal(size=60)[end.file]
        recency, doublings = np.log2(121 - end.last_step.clip(upper=120)), np.log2(end.presentations.clip(lower=1))
        planted = (end.presentations > 0) * (20 + 12 * doublings - 3 * recency)
        hits["terms"].append(covered(end_of_training.recency_and_repetition(plus(end, planted * factor)), [12, -3]))
        by_arm = plus(end, end.arm.map(bits) * factor)
        hits["arms"].append(covered(end_of_training.by_presentations(by_arm), [30, 50, 80]))
        ratio = end_of_training.worth(by_arm, "spread 4", "spread 16")
        hits["worth"].append(ratio.low <= 5 / 8 <= ratio.high)
    for name in hits:
        assert_covers(hits[name])


@pytest.mark.slow
@pytest.mark.parametrize("slope", [0.0, 0.5])
def test_rank_correlation_holds_the_truth_as_often_as_it_says(slope):
    rng = np.random.default_rng(2030)
    n, share = 100, 1 / (np.arange(60) + 5)
    wanted = 6 / np.pi * np.arcsin(slope / np.sqrt(slope**2 + 1) / 2)  # of two Gaussian ranks
    one = {"index": np.arange(n), "arm": "spread 1", "presentations": 1, "block": 0, "step": 1_500}
    hits = []
    for k in range(1_000):
        file, exposure = rng.choice(60, n, p=share / share.sum()), rng.integers(1, 1_501, n)
        likely = slope * stats.norm.ppf((exposure - 0.5) / 1_500) + rng.normal(size=n) * np.sqrt(0.75)
        likely += rng.normal(0, 0.5, 60)[file]
        table = pd.DataFrame({**one, "file": file, "exposure_step": exposure, "cross_entropy": -likely / BITS})
        found = end_of_training.palimpsest(table, seed=k)
        hits.append(found.low <= wanted <= found.high)
    assert_covers(hits, (0.93, 0.97))  # 1,000 sets
