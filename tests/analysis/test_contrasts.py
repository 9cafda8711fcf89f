"""The exposed beside their twins, on tables whose truth is known."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lmmem.analysis import contrasts, randomisation
from lmmem.analysis.statistics import Interval

BLOCKS = 40


def measured(effect: dict[str, float], seed: int = 0, value: str = "gain") -> pd.DataFrame:
    """One line a sequence: arms whose quantity is that of their twins plus an effect, in shuffled order."""
    rng = np.random.default_rng(seed)
    lines = []
    for arm, added in effect.items():
        group, m = arm.split()
        for block in range(BLOCKS):
            lines.append((len(lines), block, group, int(m), arm, rng.normal(3 * np.sin(block), 1) + added))
    columns = ["index", "block", "group", "presentations", "arm", value]
    return pd.DataFrame(lines, columns=columns).sample(frac=1, random_state=seed)


def test_effect_over_twins_of_the_same_block_is_found_and_none_is_not():
    table = measured({"spread 0": 0.0, "spread 16": 5.0, "q2 0": 1.0, "q2 64": 1.0})
    found = contrasts.over_twins(table).set_index(["group", "presentations"])
    assert found.loc[("spread", 16), "low"] > 4
    assert found.loc[("spread", 16), "high"] < 6
    assert found.loc[("q2", 64), "low"] < 0 < found.loc[("q2", 64), "high"]  # its own twins, not those of spread
    assert set(found.n) == {BLOCKS}


def test_interval_over_twins_of_their_own_is_that_of_the_pairs():
    table = measured({"spread 0": 0.0, "spread 16": 5.0}).sort_values("index")
    pairs = table[table.presentations == 16].set_index("block").gain - table[table.presentations == 0].set_index(
        "block"
    ).gain.reindex(range(BLOCKS))
    (line,) = contrasts.over_twins(table).itertuples(index=False)
    assert line.estimate == pytest.approx(pairs.mean())
    assert line.high - line.estimate == pytest.approx(stats.t.ppf(0.975, BLOCKS - 1) * pairs.sem(), rel=0.02)


def test_interval_over_twins_knows_of_files_as_that_of_an_arm_does():
    table = shared_twins(1).assign(index=range(256))
    (line,) = contrasts.over_twins(table, by=["arm"]).itertuples(index=False)
    arms = randomisation.compare_arms(table, "gain", permutations=9)
    assert tuple(line)[1:] == pytest.approx(tuple(arms[list(Interval._fields)].iloc[0]))
    without = contrasts.over_twins(table.drop(columns="file"), by=["arm"])
    assert without.estimate[0] == pytest.approx(line.estimate) and without.low[0] != line.low


def shared_twins(sets: int) -> pd.DataFrame:
    """Experiments of 32 blocks that hold four exposed and four twins, of 100 files which have effects of their own."""
    rng = np.random.default_rng(0)
    lines = itertools.product(range(sets), range(32), range(4), (1, 0))
    table = pd.DataFrame(lines, columns=["set", "block", "turn", "presentations"])
    table["file"] = rng.integers(0, 100, len(table))
    of_file = 0.7 * rng.normal(size=(sets, 100))[table.set, table.file]
    table["gain"] = of_file + 3 * np.sin(table.block) + rng.normal(size=len(table))
    return table.assign(group="spread", arm="spread " + table.presentations.astype(str))


@pytest.mark.slow
def test_interval_over_shared_twins_covers_what_is_there():
    """A bootstrap over the exposed alone, which does not know that they share their twins, covers 86 %."""
    found = contrasts.over_twins(shared_twins(500), by=["set", "arm"])
    assert 0.93 <= ((found.low <= 0) & (found.high >= 0)).mean() <= 0.97
    assert abs(found.estimate.mean()) < 4 * found.estimate.sem()


def test_passages_of_one_file_have_an_estimate_and_no_interval():
    table = measured({"spread 0": 0.0, "spread 1": 0.0, "spread 16": 5.0})
    of_one = table.assign(file=np.where(table.presentations == 16, -1, table["index"]))
    alone, others = contrasts.over_twins(of_one), contrasts.over_twins(table)
    assert alone.low.isna().tolist() == alone.high.isna().tolist() == [False, True]
    np.testing.assert_allclose(alone.estimate, others.estimate)
    assert contrasts.over_twins(of_one[of_one.presentations != 1].assign(file=7)).low.isna().all()


def test_one_arm_can_be_the_twins_of_all_and_methods_are_kept_apart():
    one, other = measured({"spread 0": 0.0, "q2 64": 2.0}), measured({"spread 0": 0.0, "q2 64": 7.0}, seed=1)
    both = contrasts.stacked({"noise": one, "sampling": other}, "method")
    found = contrasts.over_twins(both, by=["method", "arm"], twins="spread 0").set_index(["method", "arm"]).estimate
    assert found["noise", "q2 64"] == pytest.approx(2, abs=0.7)
    assert found["sampling", "q2 64"] == pytest.approx(7, abs=0.7)


def test_group_without_twins_of_its_own_is_held_against_those_of_another():
    table = measured({"spread 0": 0.0, "q2 64": 4.0})
    (line,) = contrasts.over_twins(table).itertuples()
    assert (line.group, line.presentations, line.n) == ("q2", 64, BLOCKS)
    assert line.low < 4 < line.high


def test_sequences_of_a_group_are_followed_with_those_they_are_compared_with():
    table = measured({"spread 0": 0.0, "spread 16": 5.0, "window 64": 4.0, "burst 0": 0.0, "burst 4": 1.0})
    assert set(contrasts.with_twins(table, "burst").arm) == {"burst 0", "burst 4"}
    followed = contrasts.with_twins(table, "window")
    assert set(followed.arm) == {"window 64", "burst 0"}
    compared = contrasts.over_twins(table).query("group == 'window'").reset_index(drop=True)
    pd.testing.assert_frame_equal(contrasts.over_twins(followed), compared)


def test_arm_with_too_few_pairs_is_named_with_their_number():
    table = measured({"spread 0": 0.0, "spread 1": 1.0, "spread 16": 5.0})
    few = table[(table.presentations != 16) | (table.block < 1)]
    with pytest.raises(ValueError, match="group spread, presentations 16: 1 sequences with twins, and an interval"):
        contrasts.over_twins(few)


def test_sequence_without_a_twin_in_its_block_is_refused():
    table = measured({"spread 0": 0.0, "spread 1": 1.0})
    few = table[(table.presentations > 0) | (table.block > 0)]
    with pytest.raises(ValueError, match="1 sequences of spread 1 have no unexposed twin in their block"):
        contrasts.over_twins(few)


@pytest.mark.parametrize("twins", [None, "spread 0"])
def test_nothing_to_compare_with_is_said(twins):
    with pytest.raises(ValueError, match="nothing to compare with: no sequence is"):
        contrasts.over_twins(measured({"spread 16": 0.0}), twins=twins)


def test_lines_of_one_number_are_not_mixed_up():
    table = pd.concat([measured({"spread 0": 0.0}), measured({"spread 16": 5.0}, seed=1)])  # both number from 0
    assert contrasts.over_twins(table).n.tolist() == [BLOCKS]


def test_unexposed_of_another_group_are_no_exposed_arm():
    table = measured({"spread 0": 0.0, "q2 0": 0.0, "q2 64": 4.0})
    assert contrasts.over_twins(table, by=["arm"], twins="spread 0").arm.tolist() == ["q2 64"]


def before_and_tried(draws: int = 6) -> tuple[pd.DataFrame, pd.DataFrame]:
    before = pd.DataFrame({"index": [7, 3], "arm": ["a 0", "a 1"], "kl_ld": [60, 50]})
    tried = [(i, d, 40 + i + d) for i, d in itertools.product([7, 3], range(draws))]
    return before, before[["index", "arm"]].merge(pd.DataFrame(tried, columns=["index", "draw", "kl_ld"]))


def test_gain_is_what_the_best_of_n_is_closer():
    before, tried = before_and_tried()
    found = contrasts.gains(before, tried)
    assert sorted(set(found.N)) == [1, 2, 5, 6]
    last = found[found.N == 6].set_index("index")
    assert last.kl_ld.to_dict() == pytest.approx({7: 47, 3: 43})
    assert last.gain.to_dict() == pytest.approx({7: 13, 3: 7})
    assert found[found.N == 1].set_index("index").kl_ld.to_dict() == pytest.approx({7: 49.5, 3: 45.5})  # the mean
    assert found["index"].tolist()[::4] == [7, 3]  # in the order of the sequences


def test_sigmas_and_temperatures_are_kept_apart():
    before, tried = before_and_tried()
    both = pd.concat([tried.assign(sigma=0.1), tried.assign(sigma=0.2, kl_ld=tried.kl_ld - 10)])
    found = contrasts.gains(before, both, [6], by="sigma")
    assert found.groupby("sigma").gain.mean().to_dict() == pytest.approx({0.1: 10, 0.2: 20})


def test_number_of_tries_that_is_asked_twice_is_there_once():
    before, tried = before_and_tried()
    assert len(contrasts.gains(before, tried, [1, 1])) == len(before)


def test_methods_stand_side_by_side():
    before, tried = before_and_tried()
    sampled = tried.rename(columns={"draw": "sample"})
    sampled = pd.concat([sampled.assign(temperature=t, kl_ld=sampled.kl_ld - 10 * t) for t in (0.3, 1.0)])
    found = contrasts.by_method(before, sampled, tried)
    best = found[found.N == 6].groupby("method").gain.mean()
    assert best.to_dict() == pytest.approx({"temperature 0.3": 13, "temperature 1": 20, "perturbation": 10})


def test_recited_are_those_at_distance_zero():
    lines = [("a", 1, 0, 0), ("a", 1, 5, 0), ("a", 1, 5, 2), ("b", 0, 9, 9)]
    table = pd.DataFrame(lines, columns=["group", "presentations", "kl_ld_before", "kl_ld"])
    found = contrasts.recited(table)
    assert found[["as_trained", "in_some_try", "of"]].to_numpy().tolist() == [[1, 2, 3], [0, 0, 1]]


def test_halves_are_cut_at_the_median_of_each_group():
    table = pd.DataFrame({"bin": [1, 1, 1, 2, 2], "z": [1.0, 2.0, 3.0, 10.0, 20.0]})
    assert contrasts.halved(table, "z", "bin").half.str.startswith("above").tolist() == [
        False,
        False,
        True,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        (Interval(2, 1, 3, 9), "an interval above 0: up"),
        (Interval(-2, -3, -1, 9), "an interval below 0: down"),
        (Interval(0, -1, 1, 9), "an interval that includes 0: not established here"),
    ],
)
def test_side_of_an_interval_is_told(interval, said):
    assert contrasts.told_side(interval, "up", "down") == said
