"""What one exposure leaves: each estimator on trajectories whose truth is known, with seeds fixed beforehand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from lmmem.analysis import event_study
from lmmem.analysis.event_study import BITS, EVERY, Interval, simulated

QUIET = {"noise": 0.0, "drift": 0.0, "file_drift": 0.0}
LAST = 840
ARMS = {"spread 0": 8, "spread 1": 8, "spread 4": 1, "spread 16": 1}
BAND = (0.935, 0.965)  # book/plan.md, "Intervals and tests"


def power(since: np.ndarray) -> np.ndarray:
    return 80 * (1 + since / 30) ** -0.5


def exponential(since: np.ndarray) -> np.ndarray:
    return 80 * np.exp(-since / 200)


def none(since: np.ndarray) -> np.ndarray:
    return 0.0 * since


def of_bins(effect: Callable, bins: int) -> np.ndarray:
    """Mean effect in each bin, any time in it being as likely."""
    return effect(np.arange(bins * EVERY, dtype=float)).reshape(bins, EVERY).mean(axis=1)


def at_end(table: pd.DataFrame) -> pd.DataFrame:
    return table[table.step == table.step.max()].copy()


def plus(table: pd.DataFrame, bits: object) -> pd.DataFrame:
    return table.assign(cross_entropy=table.cross_entropy - bits / BITS)


def with_kl(table: pd.DataFrame) -> pd.DataFrame:
    """kl-LD is 40 tokens, and 3 fewer once exposed."""
    exposed = (table.presentations > 0) & (table.step >= table.exposure_step)
    return table.assign(kl_ld=np.where(exposed, 37.0, 40.0))


def shuffled(table: pd.DataFrame) -> pd.DataFrame:
    return table.sample(frac=1, random_state=1)


# What is compared with what.


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


def test_errors_of_independent_passages_of_their_own_files_are_those_of_two_samples():
    rng = np.random.default_rng(2)
    table = at_end(simulated(none, {"spread 0": 200, "spread 1": 200}, blocks=1, seed=2))
    bits = rng.normal(size=400)
    table = table.assign(file=np.arange(400), exposure_step=np.where(table.presentations > 0, 1, 900))
    table = table.assign(cross_entropy=-bits / BITS)
    (line,) = event_study.by_presentations(table).itertuples()
    a, b = (bits[(table.arm == arm).to_numpy()] for arm in ("spread 1", "spread 0"))
    welch = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert line.estimate == pytest.approx(a.mean() - b.mean())
    assert line.high - line.low == pytest.approx(welch.high - welch.low, rel=0.02)


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


# Half-lives and shapes.


def test_half_life_of_a_quiet_decay_is_that_of_its_curve():
    table = simulated(exponential, seed=1, **QUIET)
    (line,) = event_study.half_life(table).itertuples()
    lines = event_study.since_exposure(table)
    panel = lines[lines.exposure_step <= LAST / 2]
    curve = panel.groupby(panel.since // EVERY)[["since", "both"]].mean()
    wanted = np.interp(-curve.both[0] / 2, -curve.both, curve.since)
    assert line.estimate == pytest.approx(wanted)
    assert line.low <= wanted <= line.high
    assert (line.n, line.first) == (panel["index"].nunique(), pytest.approx(curve.both[0]))
    assert line.told.startswith(f"{wanted:.0f} steps (95 % interval ")


def test_half_life_that_is_not_reached_is_said_and_not_a_number_out_of_the_blue():
    (line,) = event_study.half_life(simulated(lambda since: 80.0 + 0 * since, seed=1)).itertuples()
    assert np.isinf([line.estimate, line.low, line.high]).all()
    assert line.told == f"not reached within {line.followed:.0f} steps"
    assert 360 <= line.followed <= LAST / 2 + EVERY
    (line,) = event_study.half_life(simulated(lambda since: 80.0 * np.exp(-since / 560), seed=2)).itertuples()
    assert np.isinf(line.high)
    assert "not reached" in line.told or "to beyond" in line.told


def test_quartiles_part_the_panel_by_exposure_step():
    table = simulated(exponential, blocks=32, seed=1)
    found = event_study.half_life(table, quartiles=True)
    assert list(found.quartile) == [1, 2, 3, 4]
    assert found.n.sum() == event_study.half_life(table).n[0]
    assert (found.from_step[1:].to_numpy() > found.to_step[:-1].to_numpy()).all()
    assert found.to_step.max() <= LAST / 2
    means = event_study.by_quartile(table)
    np.testing.assert_allclose(means[means.when == "first"].estimate, found["first"])
    assert (means[means.when == "kept"].lag == means.lag.max()).all()


def test_half_life_is_determined_by_its_seed_and_needs_something_to_halve():
    table = simulated(exponential, seed=1)
    pd.testing.assert_frame_equal(event_study.half_life(table, seed=3), event_study.half_life(table, seed=3))
    assert event_study.half_life(table, seed=3).low[0] != event_study.half_life(table, seed=4).low[0]
    with pytest.raises(ValueError, match="first bits whose interval lies above 0; got"):
        event_study.half_life(simulated(none, seed=1))


@pytest.mark.parametrize("powers", [False, True])
def test_fits_are_those_of_a_general_optimiser(powers):
    since = 29.5 + EVERY * np.arange(13)
    curve = power(since) + np.random.default_rng(0).normal(0, 2, 13)

    def error(p: np.ndarray) -> np.ndarray:
        a, scale, b = np.exp(p[0]), np.exp(p[1]), np.exp(p[2]) if powers else np.inf
        return a * event_study._shape(since, np.array(scale), np.array(b)) - curve

    guesses = [[4.0, scale, b] for scale in (3.0, 5.0) for b in (-1.0, 0.0)]
    best = min(optimize.least_squares(error, guess).cost for guess in guesses)
    found = event_study._values(event_study._least_squares(curve[None], since, powers), since)[0]
    assert ((found - curve) ** 2).sum() / 2 == pytest.approx(best, rel=1e-3)


def test_shapes_of_quiet_decays_are_recovered():
    for effect, wanted in (
        (exponential, {("exponential", "A"): 80, ("exponential", "tau"): 200}),
        (power, {("power law", "b"): 0.5}),
    ):
        found = event_study.decay_shape(simulated(effect, blocks=64, seed=1, **QUIET))
        fits = found.fits.set_index(["curve", "parameter"]).value
        for name, value in wanted.items():
            assert fits[name] == pytest.approx(value, rel=0.25), name
        best, _ = next(iter(wanted))
        np.testing.assert_allclose(found.points[best], found.points.estimate, atol=1.5)


def test_shape_needs_files_and_bins():
    table = simulated(exponential, seed=1)
    with pytest.raises(ValueError, match="need 4 bins and 10 files; got 8 bins, 6 files"):
        event_study.decay_shape(table.assign(file=table["index"] % 6))
    with pytest.raises(ValueError, match="got 3 bins"):
        event_study.decay_shape(table, every=180)


# Early and late, at the end.


def test_early_exposure_that_stores_more_and_keeps_less_is_found():
    table = simulated(none, blocks=32, seed=7)
    since = table.step - table.exposure_step
    late = table.exposure_step / 100
    effect = np.where((since < EVERY), 80 - 4 * late, 10 + 6 * late)
    found = event_study.early_against_late(plus(table, np.where((since >= 0) & (table.presentations > 0), effect, 0)))
    first, kept = (Interval(*line) for line in found[list(Interval._fields)].itertuples(index=False))
    assert first.low < -4 < first.high < 0 < kept.low < 6 < kept.high
    assert kept.n < first.n


def test_slope_does_not_take_time_since_exposure_within_a_bin_for_age():
    table = simulated(lambda since: 80 * np.exp(-since / 30), blocks=32, seed=7, **QUIET)
    assert event_study.early_against_late(table).estimate.abs().max() < 0.05


def test_recency_and_repetition_are_those_of_least_squares():
    end = at_end(simulated(none, ARMS, seed=8))
    recency = np.log2(np.maximum(LAST - end.last_step + 1, 1))
    bits = np.where(end.presentations > 0, 20 + 12 * np.log2(np.maximum(end.presentations, 1)) - 3 * recency, 0)
    quiet = end.assign(cross_entropy=-bits / BITS)
    found = event_study.recency_and_repetition(quiet).set_index("term")
    np.testing.assert_allclose(found.estimate[["presentations", "recency"]], [12, -3])
    noisy = event_study.against_twins(plus(end, bits))
    design = np.column_stack([np.ones(len(noisy)), np.log2(noisy.presentations), np.log2(LAST - noisy.last_step + 1)])
    wanted = np.linalg.lstsq(design, noisy.bits, rcond=None)[0]
    np.testing.assert_allclose(event_study.recency_and_repetition(plus(end, bits)).estimate, wanted[1:])


def test_ratio_of_two_arms_is_that_of_their_means():
    end = at_end(simulated(none, ARMS, seed=8))
    end = plus(end, end.arm.map({"spread 0": 0, "spread 1": 40, "spread 4": 50, "spread 16": 100}))
    means = event_study.by_presentations(end).set_index("arm")
    found = event_study.worth(end, "spread 4", "spread 16")
    assert found.estimate == pytest.approx(means.estimate["spread 4"] / means.estimate["spread 16"])
    assert 0 < found.low < 0.5 < found.high < 1
    assert list(means.presentations) == [1, 4, 16]
    with pytest.raises(ValueError, match=r"denominator whose interval excludes 0; spread 16 has"):
        event_study.worth(at_end(simulated(none, ARMS, seed=8)), "spread 4", "spread 16")
    with pytest.raises(ValueError, match="no exposed passages of fuzzy 16"):
        event_study.worth(end)


def test_palimpsest_is_the_rank_correlation_with_ties():
    end = at_end(simulated(exponential, seed=9))
    end["exposure_step"] = np.where(end.presentations > 0, end.exposure_step // 50 * 50, end.exposure_step)
    end["cross_entropy"] = end.cross_entropy.round(1)
    once = end[end.arm == "spread 1"]
    found = event_study.palimpsest(end)
    assert found.estimate == pytest.approx(stats.spearmanr(-once.cross_entropy, once.exposure_step).statistic)
    assert found == event_study.palimpsest(end)
    times = np.random.default_rng(0).integers(0, 4, len(once))
    codes = [np.unique(x, return_inverse=True)[1] for x in (once.cross_entropy, once.exposure_step)]
    repeated = stats.spearmanr(*(np.repeat(code, times) for code in codes)).statistic
    assert event_study._spearman(*codes, times[None].astype(float))[0] == pytest.approx(repeated)


# Refusals.


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


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda t: event_study.by_lag(t, "bits"), "one of twins, before, both, kl_ahead; got 'bits'"),
        (lambda t: event_study.by_presentations(t), "one step; got 15: 0 .. 840"),
        (lambda t: event_study.recency_and_repetition(at_end(t)), "all are alike"),
        (lambda t: event_study.palimpsest(at_end(t).assign(cross_entropy=1.0)), "all are alike"),
        (lambda t: event_study.palimpsest(at_end(t).assign(file=1)), "passages of 2 files; got 1"),
        (
            lambda t: event_study.early_against_late(t.assign(exposure_step=200)),
            "two different ones; all are exposed at 200",
        ),
        (lambda t: event_study.half_life(t.assign(exposure_step=700)), "exposed after step 120 and by 420; got none"),
        (lambda t: event_study.half_life(t, every=30), "two bins of 30 steps in which all are seen; got 0"),
        (lambda t: event_study.rerandomised(t, power), "needs unexposed passages"),
        (lambda t: event_study.rerandomised(t[t.arm == "spread 0"], power, n_sets=1), "2 sets or more; got 1"),
    ],
)
def test_what_cannot_be_answered_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call(simulated(power, blocks=4, seed=1))


# Coverage.


def test_planted_effect_is_found_on_trajectories_of_unexposed_passages_by_all_estimators():
    never = simulated(none, {"spread 0": 8}, blocks=24, seed=3)
    found = event_study.rerandomised(never, power, n_sets=300, seed=1)
    planted = found[found.estimator == "both"].planted
    np.testing.assert_allclose(planted, of_bins(power, len(planted)), rtol=0.02)
    assert (found.bias.abs() < 4 * found.bias_error).all()
    assert found.coverage.between(0.91, 0.985).all()  # 300 sets: 95 +- 4 standard errors of 1.3 %
    spread = found.pivot(index="lag", columns="estimator", values="spread")
    assert (spread["both"] < spread["randomised"]).all()


def covered(table: pd.DataFrame, truth: object) -> np.ndarray:
    return (table.low.to_numpy() <= truth) & (truth <= table.high.to_numpy())


def assert_covers(hits: list, band: tuple[float, float] = BAND) -> None:
    found = np.mean(hits, axis=0)
    assert ((found >= band[0]) & (found <= band[1])).all(), found


@pytest.fixture(scope="module")
def sets() -> dict[str, list]:
    """Whether intervals hold the truth, in 2,000 sets: files share effects and drifts, blocks share twins."""
    rng = np.random.default_rng(2026)
    bins = [0, 3, 6]
    truth = of_bins(power, 10)[bins]
    hits: dict[str, list] = {name: [] for name in ("both", "cohorts", "randomised", "bias", "slopes")}
    for _ in range(2_000):
        table = simulated(power, last=600, file_effect=0.2, seed=rng)
        hits["both"].append(covered(event_study.by_lag(table).iloc[bins], truth))
        hits["cohorts"].append(covered(event_study.over_cohorts(table).iloc[bins], truth))
        hits["randomised"].append(covered(event_study.randomised(table).iloc[bins], truth))
        hits["bias"].append(covered(event_study.bias(table).iloc[bins], 0))
        hits["slopes"].append(covered(event_study.early_against_late(table), 0))
    return hits


@pytest.mark.slow
@pytest.mark.parametrize("name", ["both", "cohorts", "randomised", "bias", "slopes"])
def test_intervals_over_passages_hold_the_truth_as_often_as_they_say(sets, name):
    assert_covers(sets[name])


@pytest.mark.slow
def test_half_lives_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(2027)
    for effect, shared in ((power, 0.0), (exponential, 0.3)):
        curve = of_bins(effect, 8)
        wanted = event_study._half_times(curve[None], 29.5 + EVERY * np.arange(8))[0]
        hits = [
            covered(event_study.half_life(simulated(effect, file_effect=shared, seed=rng), seed=k), wanted)
            for k in range(1_000)
        ]
        assert_covers(hits, (0.93, 0.97))  # 1,000 sets


@pytest.mark.slow
@pytest.mark.parametrize(("effect", "sign"), [(power, 1), (exponential, -1)])
def test_shape_of_decay_is_not_mistaken_for_the_other(effect, sign):
    rng = np.random.default_rng(2028)
    found = [event_study.decay_shape(simulated(effect, seed=rng), seed=k).difference for k in range(1_000)]
    wrong = np.mean([sign * line.estimate < 0 and line.excludes_zero for line in found])
    assert wrong <= 0.025 + 2 * np.sqrt(0.025 * 0.975 / 1_000)
    if effect is power:
        assert np.mean([line.low > 0 for line in found]) > 0.8


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
        hits["terms"].append(covered(event_study.recency_and_repetition(plus(end, planted * factor)), [12, -3]))
        by_arm = plus(end, end.arm.map(bits) * factor)
        hits["arms"].append(covered(event_study.by_presentations(by_arm), [30, 50, 80]))
        ratio = event_study.worth(by_arm, "spread 4", "spread 16")
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
        found = event_study.palimpsest(table, seed=k)
        hits.append(found.low <= wanted <= found.high)
    assert_covers(hits, (0.93, 0.97))  # 1,000 sets
