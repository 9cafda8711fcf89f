"""How memories fade: half-lives, shapes, early and late, on trajectories whose truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from lmmem.analysis import event_study, fading
from lmmem.analysis.statistics import Interval
from lmmem.analysis.trajectories import BITS, EVERY, simulated
from tests.analysis.planted import LAST, QUIET, assert_covers, covered, exponential, none, of_bins, plus, power


def test_half_life_of_a_quiet_decay_is_that_of_its_curve():
    table = simulated(exponential, seed=1, **QUIET)
    (line,) = fading.half_life(table).itertuples()
    lines = event_study.since_exposure(table)
    panel = lines[lines.exposure_step <= LAST / 2]
    curve = panel.groupby(panel.since // EVERY)[["since", "both"]].mean()
    wanted = np.interp(-curve.both[0] / 2, -curve.both, curve.since)
    assert line.estimate == pytest.approx(wanted)
    assert line.low <= wanted <= line.high
    assert (line.n, line.first) == (panel["index"].nunique(), pytest.approx(curve.both[0]))
    assert line.told.startswith(f"{wanted:.0f} steps (95 % interval ")


def test_half_life_that_is_not_reached_is_said_and_not_a_number_out_of_the_blue():
    (line,) = fading.half_life(simulated(lambda since: 80.0 + 0 * since, seed=1)).itertuples()
    assert np.isinf([line.estimate, line.low, line.high]).all()
    assert line.told == f"not reached within {line.followed:.0f} steps"
    assert 360 <= line.followed <= LAST / 2 + EVERY
    (line,) = fading.half_life(simulated(lambda since: 80.0 * np.exp(-since / 560), seed=2)).itertuples()
    assert np.isinf(line.high)
    assert "not reached" in line.told or "to beyond" in line.told


def test_half_life_is_determined_by_its_seed_and_needs_something_to_halve():
    table = simulated(exponential, seed=1)
    pd.testing.assert_frame_equal(fading.half_life(table, seed=3), fading.half_life(table, seed=3))
    assert fading.half_life(table, seed=3).low[0] != fading.half_life(table, seed=4).low[0]
    with pytest.raises(ValueError, match="first bits whose interval lies above 0; got"):
        fading.half_life(simulated(none, seed=1))


def test_quartiles_part_the_panel_by_exposure_step():
    table = simulated(exponential, blocks=32, seed=1)
    found = fading.by_quartile(table)
    first, kept = (found[found.when == when].reset_index(drop=True) for when in ("first", "kept"))
    assert list(first.quartile) == [1, 2, 3, 4]
    assert first.n.sum() == fading.half_life(table).n[0]
    assert (first.from_step[1:].to_numpy() > first.to_step[:-1].to_numpy()).all()
    assert first.to_step.max() <= LAST / 2
    lines = event_study.since_exposure(table, "spread 1")
    early = lines[lines.since < EVERY]
    for line in first.itertuples():
        quarter = early[early.exposure_step.between(line.from_step, line.to_step)]
        assert line.estimate == pytest.approx(quarter.both.mean())
    assert (kept.lag == found.lag.max()).all()


@pytest.mark.parametrize("powers", [False, True])
def test_fits_are_those_of_a_general_optimiser(powers):
    since = 29.5 + EVERY * np.arange(13)
    curve = power(since) + np.random.default_rng(0).normal(0, 2, 13)

    def error(p: np.ndarray) -> np.ndarray:
        a, scale, b = np.exp(p[0]), np.exp(p[1]), np.exp(p[2]) if powers else np.inf
        return a * fading._shape(since, np.array(scale), np.array(b)) - curve

    guesses = [[4.0, scale, b] for scale in (3.0, 5.0) for b in (-1.0, 0.0)]
    best = min(optimize.least_squares(error, guess).cost for guess in guesses)
    found = fading._values(fading._least_squares(curve[None], since, powers), since)[0]
    assert ((found - curve) ** 2).sum() / 2 == pytest.approx(best, rel=1e-3)


def test_shapes_of_quiet_decays_are_recovered():
    for effect, wanted in (
        (exponential, {("exponential", "A"): 80, ("exponential", "tau"): 200}),
        (power, {("power law", "b"): 0.5}),
    ):
        found = fading.decay_shape(simulated(effect, blocks=64, seed=1, **QUIET))
        fits = found.fits.set_index(["curve", "parameter"]).value
        for name, value in wanted.items():
            assert fits[name] == pytest.approx(value, rel=0.25), name
        best, _ = next(iter(wanted))
        np.testing.assert_allclose(found.points[best], found.points.estimate, atol=1.5)


def test_shape_needs_files_and_bins():
    table = simulated(exponential, seed=1)
    with pytest.raises(ValueError, match="need 4 bins and 10 files; got 8 bins, 6 files"):
        fading.decay_shape(table.assign(file=table["index"] % 6))
    with pytest.raises(ValueError, match="got 3 bins"):
        fading.decay_shape(table, every=180)


def test_curves_of_a_figure_are_those_of_the_tables():
    table = simulated(exponential, seed=2)
    panel, quarters = fading.fading(table).values()
    points = fading.decay_shape(table).points
    for of, column in (("panel", "estimate"), ("exponential", "exponential"), ("power law", "power law")):
        np.testing.assert_allclose(panel[panel.of == of].estimate, points[column])
    np.testing.assert_allclose(quarters.low, fading.by_quartile(table).low)


def test_early_exposure_that_stores_more_and_keeps_less_is_found():
    table = simulated(none, blocks=32, seed=7)
    since = table.step - table.exposure_step
    late = table.exposure_step / 100
    effect = np.where((since < EVERY), 80 - 4 * late, 10 + 6 * late)
    found = fading.early_against_late(plus(table, np.where((since >= 0) & (table.presentations > 0), effect, 0)))
    first, kept = (Interval(*line) for line in found[list(Interval._fields)].itertuples(index=False))
    assert first.low < -4 < first.high < 0 < kept.low < 6 < kept.high
    assert kept.n < first.n


def test_slope_does_not_take_time_since_exposure_within_a_bin_for_age():
    table = simulated(lambda since: 80 * np.exp(-since / 30), blocks=32, seed=7, **QUIET)
    assert fading.early_against_late(table).estimate.abs().max() < 0.05


def with_z(seed: int, per_tenth: float) -> pd.DataFrame:
    """Exposure adds 60 bits, and so many for each 0.1 of z-complexity above 0.5; later exposure is of complex text."""
    table = simulated(lambda since: 60.0 + 0 * since, seed=seed)
    z = np.random.default_rng(seed).uniform(0.3, 0.9, table["index"].max() + 1)
    z = z[table["index"]] + 0.0003 * (table.exposure_step - 420) * (table.presentations > 0)
    exposed = (table.presentations > 0) & (table.step >= table.exposure_step)
    more = exposed * per_tenth * (z - 0.5) / 0.1
    return table.assign(z_complexity=z, cross_entropy=table.cross_entropy - more / BITS)


@pytest.mark.parametrize("per_tenth", [0.0, 8.0])
def test_slope_over_complexity_is_found_at_equal_exposure_step(per_tenth):
    held = []
    for seed in range(60):
        found = fading.by_complexity(with_z(seed, per_tenth))
        assert found.term.tolist() == ["first", "kept"]
        held += [*((found.low <= per_tenth) & (per_tenth <= found.high))]
    assert np.mean(held) >= 0.95 - 2.6 * np.sqrt(0.05 * 0.95 / len(held))
    found = fading.by_complexity(with_z(1, 8.0))
    assert (found.low > 0).all()


def test_slope_over_complexity_needs_the_column():
    with pytest.raises(ValueError, match="needs a column z_complexity"):
        fading.by_complexity(simulated(lambda since: 60.0 + 0 * since))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda t: fading.early_against_late(t.assign(exposure_step=200)),
            "two different ones; all are exposed at 200",
        ),
        (lambda t: fading.half_life(t.assign(exposure_step=700)), "exposed after step 120 and by 420; got none"),
        (lambda t: fading.half_life(t, every=30), "two bins of 30 steps in which all are seen; got 0"),
    ],
)
def test_what_cannot_be_answered_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call(simulated(power, blocks=4, seed=1))


@pytest.mark.slow
def test_half_lives_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(2027)
    for effect, shared in ((power, 0.0), (exponential, 0.3)):
        curve = of_bins(effect, 8)
        wanted = fading._half_times(curve[None], 29.5 + EVERY * np.arange(8))[0]
        hits = [
            covered(fading.half_life(simulated(effect, file_effect=shared, seed=rng), seed=k), wanted)
            for k in range(1_000)
        ]
        assert_covers(hits, (0.93, 0.97))  # 1,000 sets


@pytest.mark.slow
@pytest.mark.parametrize(("effect", "sign"), [(power, 1), (exponential, -1)])
def test_shape_of_decay_is_not_mistaken_for_the_other(effect, sign):
    rng = np.random.default_rng(2028)
    found = [fading.decay_shape(simulated(effect, seed=rng), seed=k).difference for k in range(1_000)]
    wrong = np.mean([sign * line.estimate < 0 and line.excludes_zero for line in found])
    assert wrong <= 0.025 + 2 * np.sqrt(0.025 * 0.975 / 1_000)
    if effect is power:
        assert np.mean([line.low > 0 for line in found]) > 0.8


@pytest.mark.slow
def test_slopes_over_exposure_step_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(2026)
    hits = [
        covered(fading.early_against_late(simulated(power, last=600, file_effect=0.2, seed=rng)), 0)
        for _ in range(2_000)
    ]
    assert_covers(hits)
