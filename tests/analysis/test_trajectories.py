"""Passages over checkpoints: what is refused, and errors against those of the textbook."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lmmem.analysis import end_of_training, event_study
from lmmem.analysis.trajectories import BITS, simulated
from tests.analysis.planted import at_end, none, power


def test_errors_of_independent_passages_of_their_own_files_are_those_of_two_samples():
    rng = np.random.default_rng(2)
    table = at_end(simulated(none, {"spread 0": 200, "spread 1": 200}, blocks=1, seed=2))
    bits = rng.normal(size=400)
    table = table.assign(file=np.arange(400), exposure_step=np.where(table.presentations > 0, 1, 900))
    table = table.assign(cross_entropy=-bits / BITS)
    (line,) = end_of_training.by_presentations(table).itertuples()
    a, b = (bits[(table.arm == arm).to_numpy()] for arm in ("spread 1", "spread 0"))
    welch = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert line.estimate == pytest.approx(a.mean() - b.mean())
    assert line.high - line.low == pytest.approx(welch.high - welch.low, rel=0.02)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t[(t.arm != "spread 0") | (t.block != 1)], "1 of 4 blocks have none"),
        (lambda t: t[(t.arm != "spread 0") | (t.step != 60) | (t.block != 1)], "each passage needs all 15 steps"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "passage 0 has step 0 twice"),
        (lambda t: t[t.arm == "spread 0"], "passages of spread 1 exposed after step 120"),
        (lambda t: t[t.arm == "spread 1"], "4 of 4 blocks have none"),
        (lambda t: t.assign(file="one"), "passages of 2 files for each estimate; got 1"),
        (lambda t: t.assign(cross_entropy=np.nan), "cross_entropy is not a number in 960 lines of 960"),
        (lambda t: t.drop(columns="file"), "file missing"),
        (lambda t: t.iloc[:0], "no lines"),
    ],
)
def test_what_is_missing_is_named(change, said):
    with pytest.raises(ValueError, match=said):
        event_study.by_lag(change(simulated(power, blocks=4, seed=1)))


def test_single_twin_of_a_block_says_nothing_of_its_error():
    with pytest.raises(ValueError, match="two passages of spread 0 in each block"):
        event_study.by_lag(simulated(power, {"spread 0": 1, "spread 1": 4}, seed=1))
