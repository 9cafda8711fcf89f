"""Savings on relearning whose truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lmmem.analysis.savings import after, beside_equals, curves, hazard, saved, simulated


def small() -> pd.DataFrame:
    """Two passages, two seeds, three presentations, by hand."""
    kl = {(0, 0): [60, 40, 0, 5], (0, 1): [60, 50, 20, 0], (1, 0): [64, 60, 50, 40], (1, 1): [64, 62, 54, 44]}
    lines = [
        {"index": i, "seed": s, "presentation": p, "kl_ld": k, "cross_entropy": 3.0 + i - 0.5 * p}
        for (i, s), values in kl.items()
        for p, k in enumerate(values)
    ]
    table = pd.DataFrame(lines)
    table["arm"] = table["index"].map({0: "spread 1", 1: "spread 0"})
    return table.assign(presentations=1 - table["index"], block=0, file=table["index"])


def test_passages_are_averaged_over_seeds_by_hand():
    found = after(small(), 3).set_index("index")
    assert found.tokens.to_dict() == {0: 60 - 2.5, 1: 64 - 42}
    assert found.nats.to_dict() == {0: 1.5, 1: 1.5}
    assert found.loss.to_dict() == {0: 3.0, 1: 4.0}
    assert found.recited.to_dict() == {0: 1.0, 1: 0.0}
    assert found.unrecited.to_dict() == {0: 2.5, 1: 3.0}  # recited first at the second, at the third, and never
    earlier = after(small(), 1).set_index("index")
    assert earlier.unrecited.to_dict() == {0: 1.0, 1: 1.0}
    assert earlier.tokens.to_dict() == {0: 15.0, 1: 3.0}


def test_curves_are_means_over_passages():
    found = curves(simulated(passages=8, twins=12, seed=3))
    table = simulated(passages=8, twins=12, seed=3)
    mean = table.groupby(["arm", "presentation"]).kl_ld.mean().reset_index()
    np.testing.assert_allclose(found.estimate, mean.kl_ld)
    assert found.groupby("arm").n.first().to_dict() == {"spread 0": 12, "spread 64": 8}


@pytest.mark.slow
@pytest.mark.parametrize("planted", [0.0, 6.0])
def test_what_was_planted_is_covered(planted):
    sets = [simulated(planted, seeds=1, presentations=2, seed=s) for s in range(300)]
    found = [saved(one, "spread 0", 2, permutations=19) for one in sets]
    tokens = pd.DataFrame([table[table.saved == "tokens"].iloc[0] for table in found])
    covered = ((tokens.low < planted) & (planted < tokens.high)).mean()
    assert 0.92 <= covered <= 0.98  # 2.4 standard errors of 300 sets about 95 %
    assert abs(tokens.estimate.mean() - planted) < 0.2
    null = pd.DataFrame([table[(table.saved == "tokens") & (table.arm == "A/A")].iloc[0] for table in found])
    assert ((null.low < 0) & (null.high > 0)).mean() >= 0.92


@pytest.mark.slow
@pytest.mark.parametrize("planted", [1.0, 3.0])
def test_planted_odds_are_covered(planted):
    found = [hazard(simulated(odds=planted, seeds=1, seed=s), "spread 64", "spread 0") for s in range(300)]
    assert 0.92 <= np.mean([one.low < planted < one.high for one in found]) <= 0.98
    assert abs(np.mean(np.log([one.estimate for one in found])) - np.log(planted)) < 0.06


def test_what_was_recited_before_any_presentation_is_not_at_risk():
    table = simulated(odds=2.0, seeds=1, seed=4)
    known = table["index"].isin(table["index"][table.arm == "spread 64"].unique()[:12])
    recited = table.assign(kl_ld=table.kl_ld.where(~known, 0.0))
    assert hazard(recited, "spread 64", "spread 0") == hazard(table[~known], "spread 64", "spread 0")
    assert hazard(table, "spread 64", "spread 0") != hazard(table[~known], "spread 64", "spread 0")


def test_presentations_saved_are_those_until_recited():
    found = saved(simulated(odds=6.0, seed=2), "spread 0", 16)
    row = found[found.saved == "presentations"].iloc[0]
    passages = after(simulated(odds=6.0, seed=2), 16)
    assert row.low > 0
    means = passages.groupby("arm").unrecited.mean()
    assert abs(row.estimate - (means["spread 0"] - means["spread 64"])) < 1  # blocks are not of one size


def test_twins_of_the_same_loss_take_away_what_the_likelihood_sees():
    rng = np.random.default_rng(5)
    table = simulated(saved=0.0, ahead=0.3, passages=60, twins=240, seed=7)
    start = table[table.presentation == 0].groupby("index").cross_entropy.first()
    # what is likelier is learnt sooner, whether it was met or not: 20 tokens a nat
    table["kl_ld"] += 20 * (table["index"].map(start) - 3.5) * (table.presentation > 0) + rng.normal(0, 0.1, len(table))
    beyond = saved(table, "spread 0", 16).iloc[0]
    equal = beside_equals(table, "spread 0", 16, width=0.05).iloc[0]
    assert beyond.low > 3
    assert equal.low < 0 < equal.high
    assert equal.n + equal.out == 60


def begun_apart(saved: float, slope: float = 10.0, seed: int = 0, loss: float = 0.0) -> pd.DataFrame:
    """Passages that begin likelier than twins; what is likelier by a nat is learnt sooner by `slope` tokens."""
    table = simulated(saved, passages=48, twins=96, seeds=1, presentations=2, seed=seed)
    rng = np.random.default_rng([seed, 1])
    met = np.arange(144) < 48
    start = np.where(met, rng.normal(2.6, 0.7, 144), rng.normal(3.3, 0.9, 144))
    sooner = slope * (4 - start) + rng.normal(0, 3, 144) + rng.normal(0, 6, 144) * met  # some are saved more
    sooner += rng.normal(0, 3, 144)[table.drop_duplicates("index").file.to_numpy()]
    first = table.presentation == 0
    kl = table.kl_ld - np.where(first, 0, sooner[table["index"]])
    return table.assign(kl_ld=kl, cross_entropy=start[table["index"]] + loss - 0.1 * table.presentation)


@pytest.mark.slow
@pytest.mark.parametrize("planted", [0.0, 6.0])
def test_savings_beside_equals_are_covered_though_the_likelihood_drives_what_is_learnt(planted):
    found = [beside_equals(begun_apart(planted, seed=seed), "spread 0", 2) for seed in range(200)]
    own = pd.concat([table[table.arm == "spread 64"] for table in found])
    assert 0.92 <= ((own.low < planted) & (planted < own.high)).mean() <= 0.98
    assert abs(own.estimate.mean() - planted) < 0.4
    null = pd.concat([table[table.arm == "A/A"] for table in found])
    assert ((null.low < 0) & (null.high > 0)).mean() >= 0.92
    assert (own.n + own.out == 48).all()
    unmatched = [saved(begun_apart(planted, seed=seed), "spread 0", 2, permutations=19) for seed in range(5)]
    assert np.mean([table.estimate[0] for table in unmatched]) > planted + 5


def test_equals_do_not_depend_on_where_losses_are_counted_from():
    found = [beside_equals(begun_apart(6.0, loss=loss), "spread 0", 2) for loss in (0.0, 0.03, 0.05, 1.07)]
    for table in found[1:]:
        pd.testing.assert_frame_equal(table, found[0])
    passages = after(begun_apart(6.0), 2)
    of = passages.groupby("arm")
    near = abs(of.get_group("spread 64").loss.to_numpy()[:, None] - of.get_group("spread 0").loss.to_numpy()) <= 0.1
    assert found[0].n[0] == near.any(axis=1).sum()


def test_equals_are_of_the_same_weights():
    table = begun_apart(6.0)
    apart = table.assign(organism=np.where(table["index"] < 24, "a", "b"), step=1)
    with pytest.raises(ValueError, match="no twin is within"):
        beside_equals(apart[(apart["index"] < 24) | (apart.presentations == 0)], "spread 0", 2)
    there = beside_equals(apart, "spread 0", 2)
    alone = beside_equals(table[table["index"] >= 24], "spread 0", 2)
    assert there.n[0] == alone.n[0]
    assert there.estimate[0] == pytest.approx(alone.estimate[0])


def test_what_cannot_be_compared_is_refused():
    table = small()
    with pytest.raises(ValueError, match="presentations=7: what is compared was measured after 0, 1, 2, 3"):
        after(table, 7)
    with pytest.raises(ValueError, match="one of the others"):
        after(table, 0)
    with pytest.raises(ValueError, match="there twice with one seed"):
        after(pd.concat([table, table]), 3)
    with pytest.raises(ValueError, match="no passage of spread 0 is recited first"):
        hazard(table, "spread 1", "spread 0")
    with pytest.raises(ValueError, match=r"no twin is within 0\.1 of any passage by loss"):
        beside_equals(table, "spread 0", 3)
