"""What pages 03 and 03b tell, on tables whose truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lmmem.analysis import contrasts, noise, perturbation
from tests.analysis.test_noise import simulated


def table(**arms: tuple[float, float, int]) -> pd.DataFrame:
    """Fresh half and best-of-N of arms, by their names, with intervals of 1 token each side."""
    lines = [
        (arm.replace("_", " ").replace("A ", "A/"), score, mean, mean - 1, mean + 1, n)
        for arm, (fresh, best, n) in arms.items()
        for score, mean in (("fresh half", fresh), ("best of N", best))
    ]
    return pd.DataFrame(lines, columns=["arm", "score", "estimate", "low", "high", "n"])


SCATTER = pd.DataFrame(
    {"arm": ["a", "b"], "n": [15, 16], "constant": [1, 0], "draws": 200, "sd": [1.6, 5.9], "reach": [2.5, 4.0]}
).assign(expected=2.75)


def test_rule_10_is_told_arm_by_arm():
    arms = {"spread_1": (0.1, 0.2, 16), "spread_16": (8, 15, 16), "q2_64": (9, 9, 8), "q3_16": (0.5, 5, 20)}
    found = perturbation.answer(table(**arms, A_A=(0.1, 0.1, 16)), SCATTER)
    assert found["verdict"] == (
        "noise does not find spread 1 (n = 16), noise finds spread 16 (n = 16), fewer than 16 passages give no verdict "
        "on q2 64 (n = 8), noise hardly finds q3 16 (n = 20)"
    )
    assert (found["fewest"], found["top_arm"], found["once"].estimate, found["top_best"].estimate) == (
        *("spread 1", "spread 16"),
        *(0.1, 15),
    )
    assert found["null"].endswith("as they should")
    assert (found["n"], found["n_arm"], found["draws"], found["most_sd"]) == (32, 16, 200, 5.9)


def test_null_that_is_none_is_told_and_forbids_a_verdict():
    found = perturbation.answer(table(spread_16=(8, 15, 16), A_A=(2.0, 0.1, 16)), SCATTER)
    assert "by rule 14 nothing beside it gets a verdict" in found["null"]
    assert found["verdict"] == "A/A excludes 0, so that by rule 14 there is no verdict on spread 16 (n = 16)"
    few = perturbation.answer(table(spread_16=(8, 15, 16), q2_64=(9, 9, 8), A_A=(-2.0, 0.1, 16)), SCATTER)
    assert few["verdict"].endswith("on spread 16 (n = 16), fewer than 16 passages give no verdict on q2 64 (n = 8)")
    assert perturbation.answer(table(row_1=(0, 0, 16)), SCATTER)["null"].startswith("no block holds two twins")


def test_just_met_are_told_with_their_checkpoints():
    before, tried = simulated(np.random.default_rng(0), memory=4.0, steps=(60, 120), twins=2, blocks=10)
    found = perturbation.just_met(noise.over_draws(before, tried), before)
    assert (found["checkpoints"], found["first"], found["last"], found["fresh"].n) == (2, 60, 120, 20)
    assert found["fresh"].low > 0
    assert found["verdict"] == "noise finds spread 1 (n = 20)"


def test_blind_choice_stands_beside_the_oracle():
    before, tried = simulated(np.random.default_rng(0), memory=4.0)
    rng = np.random.default_rng(1)
    tried = tried.assign(said=list(rng.integers(0, 3, (len(tried), 8))))
    found = perturbation.chosen_blindly(noise.over_draws(before, tried, ["majority", "best of N"]))
    assert found["arm"] == "spread 1"
    assert found["oracle"].low > 2
    assert found["told"].startswith("spread 1 ")


def detailed(**wrong: object) -> dict[str, object]:
    """What page 03b opens with, of two sigmas and three parts, one of which finds something."""
    lines = [
        ("a", "fresh half", 3.0, 0.01),
        ("a", "best of N", 9.0, 0.01),
        ("a", "fresh half", -2.0, 0.04),
        ("A/A", "fresh half", 0.5, 0.01),
        ("A/A", "fresh half", -1.5, 0.04),
    ]
    at_cost = pd.DataFrame(lines, columns=["arm", "score", "estimate", "sigma"]).assign(n=16)
    at_cost["cost"] = 30 * at_cost.sigma
    lines = [("a", "MLP", 1.5), ("a", "norms", 0.5), ("a", "layer 0", -2.0), ("A/A", "MLP", 0.1), ("A/A", "norms", 2.0)]
    parts = pd.DataFrame(lines, columns=["arm", "only", "estimate"]).assign(score="fresh half", n=16)
    lines = [("a", "majority", 4.0), ("a", "best of N", 6.0), ("b", "best of N", 7.0)]
    blind = pd.DataFrame(lines, columns=["arm", "score", "estimate"]).assign(n=16)
    given = {"at_cost": at_cost, "parts": parts, "blind": blind}
    given = {name: table.assign(low=table.estimate - 1, high=table.estimate + 1) for name, table in given.items()}
    found = table(a=(5.0, 8.0, 16), b=(9.0, 7.0, 16), A_A=(0.1, 9.0, 16))
    return perturbation.in_detail(**{"found": found, "usual": 0.01} | given | wrong)


def test_detail_is_told_of_the_arm_by_cost_by_part_and_by_who_chooses():
    found = detailed()
    told = ("longer", "usual", "most", "blind", "oracle")
    assert found["arm"] == "a"
    assert [found[name].estimate for name in told] == [5.0, 3.0, -2.0, 4.0, 6.0]
    np.testing.assert_allclose([found["cost"], found["most_sigma"], found["most_cost"]], [0.3, 0.04, 1.2])
    assert found["parts"] == "1 of 3 parts (MLP)"
    assert found["null"] == "in the fresh half, twins against twins exclude 0 in 2 of 4 comparisons"


def test_detail_without_two_twins_a_block_and_at_a_sigma_that_is_missing():
    lines = pd.DataFrame({"arm": ["a"], "score": "fresh half", "sigma": 0.01, "estimate": 1.0, "low": 0.0, "high": 2.0})
    alone = {"at_cost": lines.assign(n=3, cost=0.1), "parts": lines.assign(n=3, only="MLP")}
    found = detailed(**alone)
    assert found["null"].startswith("no block holds two twins")
    assert found["parts"] == "0 of 1 parts"
    assert found["most_sigma"] == 0.01
    with pytest.raises(ValueError, match=r"sigma=0.02 was not measured: there are 0.01, 0.04"):
        detailed(usual=0.02)


def test_response_begins_at_zero_noise_where_nothing_is_gained():
    before, tried = simulated(np.random.default_rng(0), memory=4.0)
    several = pd.concat([tried, tried.assign(sigma=0.05)])
    found = perturbation.responses(before, several)
    assert found.groupby(["score", "sigma"]).size().eq(len(before)).all()
    assert set(found.gain[found.sigma == 0]) == {0.0}
    at = found[(found.sigma == 0.05) & (found.score == "best of N")]
    np.testing.assert_allclose(at.gain, noise.scored(before, tried, "best of N").gain)


def test_sigmas_that_are_chosen_on_other_blocks_are_told_with_their_gains():
    before, tried = simulated(np.random.default_rng(0), memory=4.0)
    told = perturbation.fitted(before, pd.concat([tried, tried.assign(sigma=0.05)]))["told"]
    assert told.startswith("spread 1 ")
    assert told.endswith("n = 16), chosen: 0.01 and 0.01")


def test_resemblance_is_told_change_by_change_beside_chance():
    lines = [("to step 60", "a", 1.0, 0.5, 1.5), ("to step 120", "a", 0.1, -1, 1), ("at random", "a", 0.2, -1, 1)]
    found = pd.DataFrame(lines, columns=["change", "arm", "estimate", "low", "high"]).assign(n=9)
    told = perturbation.resembling(found, "a")
    assert (told["beyond"], told["changes"], told["chance"].estimate) == (1, 2, 0.2)
    assert told["told"].startswith("to step 60 1.00 (95 % interval 0.50 to 1.50, n = 9); to step 120 0.10")
    with pytest.raises(ValueError, match="where training went takes two checkpoints, and this model has one"):
        perturbation.resembling(found[found.change == "at random"], "a")


COSTS = pd.DataFrame({"sigma": [1.0, 1.0, 2.0, 2.0], "cost": [0.1, 0.3, 0.7, 0.9], "undisturbed": 4.0, "n": 64})


def test_cost_stands_beside_each_sigma():
    found = perturbation.by_cost(pd.DataFrame({"sigma": [2.0, 1.0], "estimate": [5, 6]}), COSTS)
    np.testing.assert_allclose(found.cost, [0.8, 0.2])
    with pytest.raises(ValueError, match=r"what sigma 3.0 costs is not known: measure it too"):
        perturbation.by_cost(pd.DataFrame({"sigma": [3.0]}), COSTS)


def test_cost_is_told_with_the_power_of_its_growth():
    found = perturbation.costs(COSTS, 1.0)
    assert (found["rows"], found["undisturbed"]) == (64, 4.0)
    np.testing.assert_allclose([found["cost"], found["share"], found["power"]], [0.2, 5.0, 2.0])


def test_fading_tells_what_is_left_at_the_end():
    rng = np.random.default_rng(5)
    lines = [
        (step, m, f"window {m}", "window", block, distance + rng.normal(), loss + rng.normal(0, 0.1))
        for step, m, distance, loss in (
            (0, 0, 60, 4),
            (0, 64, 60, 4),
            (50, 0, 60, 4),
            (50, 64, 1, 1),
            (90, 0, 60, 4),
            (90, 64, 58, 3),
        )
        for block in range(30)
    ]
    columns = ["step", "presentations", "arm", "group", "block", "kl_ld", "cross_entropy"]
    found = perturbation.fading(pd.DataFrame(lines, columns=columns), (30, 60))
    assert (found["inside"], found["end"], found["most"], found["opens"], found["closes"]) == (50, 90, 64, 30, 60)
    assert found["kl_inside"] == pytest.approx(1, abs=1)
    assert found["kl_end"] == pytest.approx(58, abs=1)
    assert found["kl_never"] == pytest.approx(60, abs=1)
    assert found["ahead"].estimate == pytest.approx(2, abs=1)
    assert found["ahead_loss"].estimate == pytest.approx(1, abs=0.1)


def test_fading_of_a_group_without_unexposed_is_beside_those_of_another():
    lines = [
        (step, m, f"{group} {m}", group, block, distance + block % 2, loss)
        for step, m, group, distance, loss in (
            *((50, 64, "window", 1, 1), (90, 64, "window", 58, 3)),
            *((50, 0, "spread", 60, 4), (90, 0, "spread", 60, 4), (90, 16, "spread", 9, 1)),
        )
        for block in range(4)
    ]
    columns = ["step", "presentations", "arm", "group", "block", "kl_ld", "cross_entropy"]
    table = pd.DataFrame(lines, columns=columns)
    found = perturbation.fading(contrasts.with_twins(table, "window"), (30, 60))
    assert (found["most"], found["kl_never"], found["ahead"].estimate, found["ahead_loss"].estimate) == (64, 60.5, 2, 1)
