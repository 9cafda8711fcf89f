"""What exposure adds: each estimator on trajectories whose truth is known, with seeds fixed beforehand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lmmem.analysis import event_study
from lmmem.analysis.trajectories import BITS, EVERY, simulated
from tests.analysis.planted import LAST, QUIET, assert_covers, covered, exponential, none, of_bins, plus, power


def with_kl(table: pd.DataFrame) -> pd.DataFrame:
    """kl-LD is 40 tokens, and 3 fewer once exposed."""
    exposed = (table.presentations > 0) & (table.step >= table.exposure_step)
    return table.assign(kl_ld=np.where(exposed, 37.0, 40.0))


def shuffled(table: pd.DataFrame) -> pd.DataFrame:
    return table.sample(frac=1, random_state=1)


def test_bits_are_those_beyond_the_mean_of_the_twins_of_the_block_at_that_step():
    table = simulated(power, blocks=4, seed=1)
    found = event_study.against_twins(shuffled(table))
    twins = table[table.arm == "spread 0"].groupby(["block", "step"]).cross_entropy.mean()
    wanted = [(twins[line.block, line.step] - line.cross_entropy) * 64 / np.log(2) for line in found.itertuples()]
    np.testing.assert_allclose(found.bits, wanted)
    assert set(found.arm) == {"spread 1"}
    np.testing.assert_array_equal(found.since, found.step - found.exposure_step)
    assert found.since.min() < 0


def test_kl_ahead_is_counted_in_tokens_below_the_twins_and_needs_kl():
    table = with_kl(simulated(power, blocks=4, seed=1))
    found = event_study.against_twins(table)
    np.testing.assert_allclose(found.kl_ahead, np.where(found.since >= 0, 3, 0))
    np.testing.assert_allclose(event_study.since_exposure(table).kl_ahead, 3)
    assert "kl_ahead" not in event_study.since_exposure(table.drop(columns="kl_ld"))
    with pytest.raises(ValueError, match="kl_ahead needs a column kl_ld"):
        event_study.by_lag(table.drop(columns="kl_ld"), "kl_ahead")
    with pytest.raises(ValueError, match="kl_ahead is missing in"):
        event_study.by_lag(table.assign(kl_ld=table.kl_ld.where(table.step < 600)), "kl_ahead")


def test_baseline_is_the_last_checkpoint_before_exposure_and_early_exposure_has_none():
    table = shuffled(simulated(power, blocks=4, seed=1))
    found = event_study.since_exposure(table)
    assert found.exposure_step.min() > 120
    assert (found.before_step < found.exposure_step).all()
    assert (found.exposure_step <= found.before_step + EVERY).all()
    wide = event_study.against_twins(table).pivot(index="index", columns="step", values="bits")
    for line in found.iloc[::17].itertuples():
        assert line.twins == pytest.approx(wide.loc[line.index, line.step])
        assert line.both == pytest.approx(line.twins - wide.loc[line.index, line.before_step])
    assert event_study.since_exposure(table, earliest=0).exposure_step.min() <= 120


def test_passage_counts_as_exposed_from_the_checkpoint_of_its_exposure_step_on_and_not_before():
    table = simulated(lambda since: 50.0 + since / 60, blocks=4, seed=3, **QUIET)
    found = event_study.since_exposure(table)
    np.testing.assert_allclose(found.both, 50 + found.since / 60, atol=1e-8)
    counts = found.groupby("index").agg(n=("step", "size"), exposure=("exposure_step", "first"))
    np.testing.assert_array_equal(counts.n, (LAST - counts.exposure) // EVERY + 1)


@pytest.mark.parametrize("shift", [-EVERY, EVERY])
def test_leak_of_exposure_would_be_seen(shift):
    table = simulated(lambda since: 50.0 + 0 * since, blocks=8, seed=3, **QUIET)
    right = event_study.by_lag(table)
    np.testing.assert_allclose(right.estimate, 50)
    exposed = table.presentations > 0
    wrong = event_study.by_lag(table.assign(exposure_step=table.exposure_step + shift * exposed))
    assert not np.allclose(wrong.estimate, 50, atol=5)


def test_bins_are_means_of_their_lines_whatever_the_order():
    table = simulated(power, seed=4)
    lines = event_study.since_exposure(table, "spread 1")
    for value in ("twins", "before", "both"):
        found = event_study.by_lag(shuffled(table), value, every=120)
        wanted = lines.groupby(lines.since // 120)
        np.testing.assert_allclose(found.estimate, wanted[value].mean())
        np.testing.assert_allclose(found.since, wanted.since.mean())
        np.testing.assert_array_equal(found.lag, wanted.since.min().index * 120)
        np.testing.assert_array_equal(found.n, wanted["index"].nunique())
        np.testing.assert_array_equal(found.clusters, wanted.file.nunique())


def test_an_interval_at_another_level_is_narrower():
    table = simulated(power, seed=4)
    wide, narrow = (event_study.by_lag(table, level=level) for level in (0.95, 0.9))
    assert (narrow.high - narrow.low < wide.high - wide.low).all()


def test_cohorts_are_those_of_the_textbook_loop():
    table = simulated(power, seed=5)
    wide = table.pivot(index="index", columns="step", values="cross_entropy") * -BITS
    one = table.drop_duplicates("index").set_index("index")
    steps, never = wide.columns.to_numpy(), wide[one.arm == "spread 0"].mean()
    cohort = pd.Series(-(-one.exposure_step // EVERY) * EVERY)[(one.arm == "spread 1") & (one.exposure_step > 120)]
    found = {}
    for g in sorted(set(cohort)):
        members = cohort.index[cohort == g]
        for t in steps[steps >= g]:
            att = (wide.loc[members, t] - wide.loc[members, g - EVERY]).mean() - (never[t] - never[g - EVERY])
            found.setdefault(t - g, []).append((att, len(members)))
    wanted = [sum(att * n for att, n in found[lag]) / sum(n for _, n in found[lag]) for lag in sorted(found)]
    np.testing.assert_allclose(event_study.over_cohorts(table).estimate, wanted)


def test_bias_is_the_difference_of_the_two_estimates():
    table = simulated(power, seed=5)
    apart = event_study.over_cohorts(table).estimate - event_study.randomised(table).estimate
    found = event_study.bias(table)
    np.testing.assert_allclose(found.estimate, apart)
    np.testing.assert_allclose(found["first"], event_study.randomised(table).estimate[0])


def test_controls_with_another_trend_are_found_biased():
    table = simulated(power, {"spread 0": 8, "spread 1": 8, "elsewhere 0": 4}, seed=6)
    trend = np.where(table.arm == "elsewhere 0", 60 * table.step / LAST, 0)
    found = event_study.bias(plus(table, trend), controls="elsewhere 0")
    assert found.high[6] < 0
    assert event_study.bias(plus(table, trend)).high[6] > 0


def test_estimates_of_a_figure_are_those_of_the_tables():
    table = simulated(exponential, seed=2)
    both = event_study.estimates(table, "spread 0")
    cohorts = event_study.over_cohorts(table)
    np.testing.assert_allclose(both[both.estimator == "over cohorts"].estimate, cohorts.estimate)
    tried = event_study.tried(table, "spread 0", n_sets=3, seed=0, every=60)
    assert set(tried.lag) <= {0, 240, 480}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda t: event_study.by_lag(t, "bits"), "one of twins, before, both, kl_ahead; got 'bits'"),
        (lambda t: event_study.rerandomised(t, power), "needs unexposed passages"),
        (lambda t: event_study.rerandomised(t[t.arm == "spread 0"], power, n_sets=1), "2 sets or more; got 1"),
    ],
)
def test_what_cannot_be_answered_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call(simulated(power, blocks=4, seed=1))


def test_planted_effect_is_found_on_trajectories_of_unexposed_passages_by_all_estimators():
    never = simulated(none, {"spread 0": 8}, blocks=24, seed=3)
    found = event_study.rerandomised(never, power, n_sets=300, seed=1)
    planted = found[found.estimator == "both"].planted
    np.testing.assert_allclose(planted, of_bins(power, len(planted)), rtol=0.02)
    assert (found.bias.abs() < 4 * found.bias_error).all()
    assert found.coverage.between(0.91, 0.985).all()  # 300 sets: 95 +- 4 standard errors of 1.3 %
    spread = found.pivot(index="lag", columns="estimator", values="spread")
    assert (spread["both"] < spread["randomised"]).all()


@pytest.fixture(scope="module")
def sets() -> dict[str, list]:
    """Whether intervals hold the truth, in 2,000 sets: files share effects and drifts, blocks share twins."""
    rng = np.random.default_rng(2026)
    bins = [0, 3, 6]
    truth = of_bins(power, 10)[bins]
    hits: dict[str, list] = {name: [] for name in ("both", "cohorts", "randomised", "bias")}
    for _ in range(2_000):
        table = simulated(power, last=600, file_effect=0.2, seed=rng)
        hits["both"].append(covered(event_study.by_lag(table).iloc[bins], truth))
        hits["cohorts"].append(covered(event_study.over_cohorts(table).iloc[bins], truth))
        hits["randomised"].append(covered(event_study.randomised(table).iloc[bins], truth))
        hits["bias"].append(covered(event_study.bias(table).iloc[bins], 0))
    return hits


@pytest.mark.slow
@pytest.mark.parametrize("name", ["both", "cohorts", "randomised", "bias"])
def test_intervals_over_passages_hold_the_truth_as_often_as_they_say(sets, name):
    assert_covers(sets[name])
