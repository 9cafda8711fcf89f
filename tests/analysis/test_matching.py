"""A caliper on passages whose truth is known: effects that differ, files that are alike, twins that are shared."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lmmem.analysis.matching import caliper_difference
from lmmem.analysis.randomisation import cluster_mean

# passages, twins, weights they were taught to, mean loss of either, s.d. of either's errors
FORGOTTEN = (80, 80, 5, 1.8, 3.1, 14.0, 8.0)  # few have a twin, one or two of them
ERASED = (64, 64, 1, 4.2, 3.5, 7.0, 6.0)  # many stand beside the same few
MANY = (150, 300, 15, 2.6, 3.5, 18.0, 16.0)


def passages(design: tuple, saved: float = 0.0, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Passages and twins: tokens fall with the loss by 10 a nat; files are alike in both; `saved` on average."""
    n, m, organisms, own, others, scatter, noise = design
    rng = np.random.default_rng(seed)
    file, there = rng.integers(0, 60, n + m), np.arange(n + m) < n
    loss = np.where(there, own, others) + 0.7 * rng.normal(size=n + m) + 0.3 * rng.normal(size=60)[file]
    errors = rng.normal(size=n + m) * np.where(there, scatter, noise) + 4 * rng.normal(size=60)[file]
    table = pd.DataFrame({"file": file.astype(str), "loss": loss, "tokens": 10 * (4 - loss) + errors + saved * there})
    table["organism"] = np.r_[np.arange(n) % organisms, np.arange(m) % organisms]
    return table[there], table[~there]


def beside(own: pd.DataFrame, twins: pd.DataFrame) -> list[tuple[float, str]]:
    """One passage after another: its tokens beyond those of its twins, and its file."""
    found = []
    for one in own.itertuples():
        near = twins[(twins.organism == one.organism) & ((twins.loss - one.loss).abs() <= 0.1)]
        if len(near):
            found.append((one.tokens - near.tokens.mean(), one.file))
    return found


def test_estimate_is_the_mean_over_passages_of_what_they_are_beyond_their_twins():
    own, twins = passages(FORGOTTEN, 5.0)
    by_hand = beside(own, twins)
    found = caliper_difference(own, twins, "tokens", "loss", 0.1, ["organism"])
    assert found.n == len(by_hand) < len(own)
    assert found.estimate == pytest.approx(np.mean([tokens for tokens, _ in by_hand]))
    again = caliper_difference(own.sample(frac=1), twins.sample(frac=1), "tokens", "loss", 0.1, ["organism"])
    np.testing.assert_allclose(again, found)


@pytest.mark.slow
@pytest.mark.parametrize("design", [FORGOTTEN, ERASED, MANY], ids=["few", "shared", "many"])
@pytest.mark.parametrize("saved", [0.0, 8.0])
def test_what_was_planted_is_covered(design, saved):
    sets = [passages(design, saved, seed) for seed in range(600)]
    found = [caliper_difference(*sides, "tokens", "loss", 0.1, ["organism"]) for sides in sets]
    assert 0.93 <= np.mean([one.low < saved < one.high for one in found]) <= 0.97
    assert abs(np.mean([one.estimate for one in found]) - saved) < 0.3


@pytest.mark.slow
def test_shared_twins_are_not_counted_as_so_many():
    sets = [passages(ERASED, seed=seed) for seed in range(60)]
    naive = [cluster_mean(*zip(*beside(*sides), strict=True)) for sides in sets]
    assert np.mean([one.low < 0 < one.high for one in naive]) < 0.88


def test_twins_of_one_file_leave_no_bound_and_none_at_all_is_refused():
    own, twins = passages(ERASED)
    found = caliper_difference(own, twins.assign(file="a"), "tokens", "loss", 0.1)
    assert (found.low, found.high) == (-np.inf, np.inf)
    assert np.isfinite(found.estimate)
    one = caliper_difference(own.assign(file="a"), twins, "tokens", "loss", 0.1)
    assert np.isinf(one.low)
    with pytest.raises(ValueError, match=r"no twin is within 0\.1 of any passage by loss"):
        caliper_difference(own, twins.assign(loss=twins.loss + 50), "tokens", "loss", 0.1)
    with pytest.raises(ValueError, match="no column file"):
        caliper_difference(own, twins.drop(columns="file"), "tokens", "loss", 0.1)
