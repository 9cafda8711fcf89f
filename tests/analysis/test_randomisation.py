"""Tests and intervals of a randomised experiment, on simulated passages whose truth is known."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from lmmem.analysis import randomisation as chance

SETS = 2_000
NINETY_FIVE = (0.935, 0.965)


def error(share: float, sets: int = SETS) -> float:
    """Three standard errors of a share over simulated sets."""
    return 3 * (share * (1 - share) / sets) ** 0.5


def in_files(rng: np.random.Generator, files: int, alike: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Noise of variance 1 over files of unequal size, `alike` of it shared by a file; and the files."""
    file = np.repeat(np.arange(files), rng.geometric(0.3, files))
    return np.sqrt(alike) * rng.normal(size=files)[file] + np.sqrt(1 - alike) * rng.normal(size=len(file)), file


def design(exposed: int, twins: int, blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Who is exposed, and the blocks."""
    of = exposed + twins
    return np.tile(np.arange(of) < exposed, blocks), np.repeat(np.arange(blocks), of)


def passages(seed: int = 0, **effects: float) -> pd.DataFrame:
    """Arms as those of the plan, in 8 blocks: two of a block each, four twins, two from elsewhere."""
    rng = np.random.default_rng(seed)
    sizes = {"spread 0": 4, "elsewhere 0": 2} | dict.fromkeys((name.replace("_", " ") for name in effects), 2)
    added = {name.replace("_", " "): effect for name, effect in effects.items()}
    lines = [
        (arm, int(arm.split()[1]), block, rng.normal(3 * np.sin(block), 1) + added.get(arm, 0.0))
        for arm, size in sizes.items()
        for block in range(8)
        for _ in range(size)
    ]
    table = pd.DataFrame(lines, columns=["arm", "presentations", "block", "bits"])
    return table.assign(index=range(len(table)), file=np.arange(len(table)) % 37)


# Intervals of clustered lines


@pytest.mark.parametrize("files", [30, 60])
def test_interval_of_a_mean_over_unequal_files_covers_it(files):
    rng = np.random.default_rng(files)
    found = [chance.cluster_mean(*in_files(rng, files)) for _ in range(SETS)]
    assert NINETY_FIVE[0] <= np.mean([one.low <= 0 <= one.high for one in found]) <= NINETY_FIVE[1]


@pytest.mark.slow
@pytest.mark.parametrize(("exposed", "twins", "blocks"), [(8, 8, 32), (2, 8, 16), (1, 8, 16)])
@pytest.mark.parametrize("spread", [0.0, 1.7])
def test_interval_of_exposed_beside_shared_twins_covers_the_mean_effect(exposed, twins, blocks, spread):
    """`spread` is what effects differ by: with 1.7 the exposed have twice the standard deviation of their twins."""
    rng = np.random.default_rng([exposed, blocks, int(spread)])
    side, block = design(exposed, twins, blocks)
    covered = []
    for _ in range(SETS):
        file = rng.choice(100, len(side), p=rng.dirichlet(np.ones(100)))
        values = np.sqrt(0.2) * rng.normal(size=100)[file] + np.sqrt(0.8) * rng.normal(size=len(side))
        values += 3 * np.sin(block) + side * (2 + spread * rng.normal(size=len(side)))
        found = chance.cluster_difference(values, side, block, file)
        covered.append(found.low <= 2 <= found.high)
    assert NINETY_FIVE[0] <= np.mean(covered) <= NINETY_FIVE[1]


def test_mean_of_differences_from_shared_twins_is_too_sure_of_itself():
    """Why there is a cluster_difference: eight exposed that share the noise of their twins are not eight."""
    rng = np.random.default_rng(3)
    side, block = design(8, 8, 32)
    file, covered = np.arange(len(side)), []
    for _ in range(500):
        values = rng.normal(size=len(side))
        difference = values - np.bincount(block, values * ~side)[block] / 8
        naive = chance.cluster_mean(difference[side], file[side])
        covered.append(naive.low <= 0 <= naive.high)
    assert np.mean(covered) < 0.9


def test_mean_is_that_of_a_regression_that_leaves_out_files():
    values, file = in_files(np.random.default_rng(4), 20)
    fit = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster-crv3", cov_kwds={"groups": file}, use_t=True)
    half = stats.t.ppf(0.975, 19) * fit.bse[0]
    np.testing.assert_allclose(
        chance.cluster_mean(values, file), [values.mean(), values.mean() - half, values.mean() + half, len(values)]
    )


def test_lines_that_are_clusters_have_the_t_interval():
    values = np.random.default_rng(5).normal(size=30)
    found = chance.cluster_mean(values, np.arange(30))
    half = stats.t.ppf(0.975, 29) * stats.sem(values)
    np.testing.assert_allclose(found.high - found.estimate, half)


def test_difference_is_that_of_the_permutation_test():
    table = passages(spread_4=1.0)
    table = table[table.arm != "elsewhere 0"]
    side = table.presentations > 0
    difference = chance.cluster_difference(table.bits, side, table.block, table.file)
    test = chance.permutation_test(table, "bits", side)
    assert difference.estimate == pytest.approx(test.estimate)
    assert difference.n == test.n == 16


def test_lines_of_blocks_with_one_side_change_no_interval_and_nor_does_the_order_of_lines():
    table = passages(spread_4=1.0)
    table = table[table.arm != "elsewhere 0"].assign(met=lambda of: of.presentations > 0)
    lonely = table[~table.met].assign(block=-1, file=[f"other {number}" for number in range((~table.met).sum())])
    whole = chance.cluster_difference(table.bits, table.met, table.block, table.file)
    for seed in range(5):
        both = pd.concat([lonely, table]).sample(frac=1, random_state=seed)
        found = chance.cluster_difference(both.bits, both.met, both.block, both.file)
        np.testing.assert_allclose(found, whole)


@pytest.mark.parametrize(
    ("values", "clusters", "said"),
    [
        ([1.0, 2.0], ["a", "a"], "a mean needs two clusters or more; got 1"),
        ([1.0, np.nan], ["a", "b"], "a mean needs finite numbers; values is nan in line 1"),
        ([1.0, 2.0], ["a", None], "a mean needs a cluster for each line; there is none in line 1"),
        ([1.0, 2.0], ["a"], r"a mean needs columns of one length; got \[2, 1\]"),
        ([], [], "a mean needs a column of numbers"),
    ],
)
def test_lines_that_have_no_interval_are_refused(values, clusters, said):
    with pytest.raises(ValueError, match=said):
        chance.cluster_mean(values, clusters)


def test_difference_needs_exposed_and_twins_of_two_files():
    with pytest.raises(ValueError, match=r"two clusters or more of exposed and of twins; got \[1, 2\]"):
        chance.cluster_difference([1, 2, 3, 4], [1, 0, 1, 0], [1, 1, 2, 2], list("abac"))


# Permutations


def test_p_and_interval_are_those_of_all_permutations():
    """Three blocks of three: 27 ways to give out the labels, each tried by hand, for each effect of a grid."""
    side, block = design(1, 2, 3)
    values = np.array([5.0, 1.0, 2.5, 6.0, 2.0, 0.5, 4.0, 3.0, 1.5])
    table = pd.DataFrame({"block": block, "bits": values})

    def statistic(values: np.ndarray, chosen: tuple[int, ...]) -> float:
        mask = np.isin(np.arange(9), chosen)
        return np.mean([values[mask & (block == b)].mean() - values[~mask & (block == b)].mean() for b in range(3)])

    def p_value(effect: float) -> float:
        less = values - effect * side
        ways = [statistic(less, chosen) for chosen in itertools.product([0, 1, 2], [3, 4, 5], [6, 7, 8])]
        return np.mean(np.abs(ways) >= abs(statistic(less, (0, 3, 6))) - 1e-9)

    found = chance.permutation_test(table, "bits", side)
    assert found.p == pytest.approx(p_value(0), abs=0.01)
    for effect in np.arange(-8, 14, 0.5):
        if abs(p_value(effect) - 0.05) > 0.01:
            assert (found.low <= effect <= found.high) == (p_value(effect) > 0.05)
    assert found.estimate == pytest.approx(statistic(values, (0, 3, 6)))


def test_blocks_are_weighted_by_their_exposed_and_those_of_one_side_are_counted():
    table = pd.DataFrame({"block": [1, 1, 1, 2, 2, 3, 4], "bits": [4.0, 6, 1, 9, 1, 100, 100]})
    found = chance.permutation_test(table, "bits", [True, True, False, True, False, True, False], permutations=99)
    assert found.estimate == pytest.approx((2 * 4 + 8) / 3)
    assert (found.n, found.left_out) == (3, 2)


@pytest.mark.slow
@pytest.mark.parametrize("discrete", [False, True])
def test_test_has_its_size_and_its_interval_covers_an_additive_effect(discrete):
    """Exact, with or without ties: half of the values of kl-LD are one number."""
    rng = np.random.default_rng(10 + discrete)
    side, block = design(1, 5, 8)
    covered, rejected = [], []
    for seed in range(SETS):
        values = 2.0 * rng.binomial(3, 0.2, len(block)) if discrete else rng.normal(np.sin(block), 1)
        table = pd.DataFrame({"block": block, "null": values, "moved": values + 4 * side})
        found = chance.permutation_test(table, "moved", side, permutations=199, seed=seed)
        covered.append(found.low <= 4 <= found.high)
        rejected.append(chance.permutation_test(table, "null", side, permutations=199, seed=seed).p <= 0.05)
        assert covered[-1] != rejected[-1]  # the same permutations
    assert np.mean(rejected) <= 0.05 + error(0.05)
    assert np.mean(covered) >= 0.95 - error(0.05)
    if not discrete:
        assert NINETY_FIVE[0] <= np.mean(covered) <= NINETY_FIVE[1]


def test_interval_is_unbounded_where_too_few_permutations_are_possible():
    table = pd.DataFrame({"block": [1, 1, 2, 2], "bits": [5.0, 1, 6, 1]})
    found = chance.permutation_test(table, "bits", [1, 0, 1, 0])
    assert (found.low, found.high) == (-np.inf, np.inf)
    assert found.p == pytest.approx(0.5, abs=0.02)  # 2 of 4 assignments


def test_values_that_do_not_differ_have_p_one():
    table = pd.DataFrame({"block": [1, 1, 1, 2, 2, 2], "bits": 7.0})
    found = chance.permutation_test(table, "bits", [1, 0, 0, 1, 0, 0], permutations=999)
    assert (found.estimate, found.p) == (0, 1)


def test_permutation_is_determined_by_its_seed():
    table, side = passages(spread_4=0.3), passages(spread_4=0.3).presentations > 0
    assert chance.permutation_test(table, "bits", side, seed=1) == chance.permutation_test(table, "bits", side, seed=1)
    assert chance.permutation_test(table, "bits", side, seed=1) != chance.permutation_test(table, "bits", side, seed=2)


def test_order_of_lines_does_not_matter():
    table = passages(spread_4=0.3)
    mixed = table.sample(frac=1, random_state=0)
    one = chance.permutation_test(table, "bits", table.presentations > 0)
    other = chance.permutation_test(mixed, "bits", mixed.presentations > 0, seed=5)
    np.testing.assert_allclose(one[:3], other[:3], atol=0.1)
    assert one.estimate == pytest.approx(other.estimate)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"block": [1, 2], "bits": [1.0, 2.0]}, "none of 2 blocks has both"),
        ({"block": [1, 1], "bits": [1.0, np.nan]}, "bits is nan in line 1"),
        ({"block": [1, np.nan], "bits": [1.0, 2.0]}, "each line needs a block"),
        ({"bits": [1.0, 2.0]}, "no column block; there are bits"),
    ],
)
def test_what_cannot_be_permuted_is_refused(table, said):
    with pytest.raises(ValueError, match=said):
        chance.permutation_test(pd.DataFrame(table), "bits", [True, False])


# Arms


def test_arms_with_an_effect_are_told_from_those_without():
    table = passages(spread_1=0.0, spread_4=4.0, spread_16=-4.0)
    found = chance.compare_arms(table, "bits", permutations=999).set_index("arm")
    assert found.index.tolist() == ["spread 1", "spread 4", "spread 16", "A/A", "elsewhere 0"]
    assert found.verdict[:3].tolist() == ["not established", "above 0", "below 0"]
    assert found.estimate["spread 4"] == pytest.approx(4, abs=1)
    assert found.n.tolist() == [16] * 5
    three = ["spread 1", "spread 4", "spread 16"]
    np.testing.assert_allclose(found.q[three], stats.false_discovery_control(found.p[three]))
    assert found.q["A/A"] == found.p["A/A"]
    assert found.loc["elsewhere 0", ["p", "q"]].isna().all()  # set apart by files: no permutation of passages tests it


def test_passages_from_elsewhere_are_judged_by_their_interval():
    table = passages(seed=1, spread_4=0.0)
    away = table.assign(bits=table.bits + 9 * (table.arm == "elsewhere 0"))
    assert chance.compare_arms(away, "bits", permutations=199).verdict.tolist()[-2:] == ["not established", "above 0"]
    assert chance.compare_arms(table, "bits", permutations=199).verdict.tolist()[-1] == "not established"


def test_twins_of_which_each_block_has_one_are_compared_without_halves():
    table = passages(spread_4=4.0)
    pairs = table[table.arm != "elsewhere 0"].drop_duplicates(["arm", "block"])
    found = chance.compare_arms(pairs, "bits", halves=False, permutations=199)
    assert found.arm.tolist() == ["spread 4"]
    assert found.low[0] > 0
    with pytest.raises(ValueError, match="A/A needs blocks of two or more"):
        chance.compare_arms(pairs, "bits", permutations=199)


def test_few_passages_get_no_verdict():
    table = passages(spread_4=9.0)
    few = table[(table.presentations == 0) | (table.block < 7)]
    found = chance.compare_arms(few, "bits", permutations=199).set_index("arm")
    assert found.verdict["spread 4"] == "n < 16: no verdict"
    assert found.p["spread 4"] < 0.05


def test_values_of_a_column_are_compared_apart():
    one, other = passages(spread_4=0.0), passages(seed=1, spread_4=4.0)
    both = pd.concat([one.assign(step=60), other.assign(step=120)], ignore_index=True)
    found = chance.compare_arms(both, "bits", by=["step"], permutations=499)
    assert found.step.tolist() == [60, 120] * 3
    assert found[found.arm == "spread 4"].verdict.tolist() == ["not established", "above 0"]
    alone = chance.compare_arms(other, "bits", permutations=499)
    np.testing.assert_allclose(found[found.step == 120].estimate, alone.estimate)


@pytest.mark.slow
def test_one_of_many_arms_without_an_effect_is_taken_for_one_at_the_level():
    """Five arms, each with an interval of its own that one in twenty misses: the verdict allows for all five."""
    arms = dict.fromkeys(["spread_1", "spread_2", "spread_4", "spread_8", "spread_16"], 0.0)
    said = [chance.compare_arms(passages(seed, **arms), "bits", permutations=199, seed=seed) for seed in range(150)]
    some = [(one.verdict[:5] != "not established").any() for one in said]
    assert np.mean(some) <= 0.05 + error(0.05, 150)
    assert np.mean([one.low[:5].gt(0).any() or one.high[:5].lt(0).any() for one in said]) > 0.12


@pytest.mark.slow
def test_rows_that_must_be_null_are():
    """A/A, by its p, and elsewhere, by its interval, reject at their level where the exposed arm has an effect."""
    found = [
        chance.compare_arms(passages(seed, spread_4=3.0), "bits", permutations=99, seed=seed).set_index("arm")
        for seed in range(400)
    ]
    assert all(one.p["spread 4"] <= 0.05 for one in found)
    assert np.mean([one.p["A/A"] <= 0.05 for one in found]) <= 0.05 + error(0.05, 400)
    assert np.mean([one.verdict["elsewhere 0"] != "not established" for one in found]) <= 0.05 + error(0.05, 400)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t[t.arm != "spread 0"], "no passage is of arm 'spread 0', the twins; there are elsewhere 0, spread"),
        (lambda t: t[t.presentations == 0], "nothing to compare with 'spread 0'"),
        (lambda t: t.assign(bits=t.bits.where(t.index > 0)), "bits is nan in line 0"),
        (lambda t: t.assign(index=t["index"].clip(upper=40)), "index 40 is there twice"),
        (lambda t: t.drop(columns="file"), "no column file"),
        (lambda t: t.assign(block=t.block + 100 * (t.arm == "spread 4")), "no block holds both .* 'spread 4'"),
        (lambda t: t[(t.arm != "spread 0") | ~t.duplicated(["arm", "block"])], "A/A needs blocks of two or more"),
    ],
)
def test_table_that_cannot_be_compared_is_refused_in_a_line(change, said):
    with pytest.raises(ValueError, match=said) as refused:
        chance.compare_arms(change(passages(spread_4=1.0)), "bits", permutations=99)
    assert "\n" not in str(refused.value)


# Shares, power, equivalence


def test_interval_of_a_share_is_clopper_and_pearsons_and_that_of_none_has_an_upper_end():
    found = chance.proportion(0, 32)
    for k in range(33):
        exact = stats.binomtest(k, 32).proportion_ci(method="exact")
        np.testing.assert_allclose(chance.proportion(k, 32)[1:3], exact)
    assert (found.estimate, found.low) == (0, 0)
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 32))
    assert chance.proportion(32, 32).low == pytest.approx(0.025 ** (1 / 32))


@pytest.mark.parametrize("truth", [0.02, 0.3])
def test_interval_of_a_share_covers_it(truth):
    drawn = np.random.default_rng(20).binomial(32, truth, SETS)
    ends = {k: chance.proportion(k, 32) for k in set(drawn.tolist())}
    assert np.mean([ends[k].low <= truth <= ends[k].high for k in drawn.tolist()]) >= 0.95
    expected = sum(stats.binom.pmf(k, 32, truth) for k in range(33) if chance.proportion(k, 32).low > truth)
    assert expected <= 0.025  # of all that can be drawn


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_share_of_nothing_is_refused(successes, n):
    with pytest.raises(ValueError, match=f"got {successes} of {n}"):
        chance.proportion(successes, n)


def test_planted_effect_is_found_at_its_computed_power():
    rng = np.random.default_rng(30)
    side, block = design(1, 8, 16)
    effect = chance.power(sd=33, n=16, n_twins=128)
    found = []
    for seed in range(SETS):
        table = pd.DataFrame({"block": block, "bits": 33 * rng.normal(size=len(block)) + effect * side})
        found.append(chance.permutation_test(table, "bits", side, permutations=199, seed=seed).p <= 0.05)
    assert np.mean(found) == pytest.approx(0.8, abs=0.02 + error(0.8))  # 199 permutations cost 1 to 2 of 100


def test_simulated_power_is_that_of_the_formula_and_without_effect_the_level():
    block = np.repeat(np.arange(16), 9)
    values = pd.Series(np.random.default_rng(31).normal(size=144))
    values *= 33 / values.groupby(block).var().mean() ** 0.5
    effect = chance.power(sd=33, n=16, n_twins=128)
    found = chance.power_by_simulation(values, block, 16, [0.0, effect, 3 * effect], seed=1)
    assert found.power[0] <= 0.05 + error(0.05, 500)
    assert found.power[1] == pytest.approx(0.8, abs=0.02 + error(0.8, 500))
    assert found.power[2] == 1
    assert found.columns.tolist() == ["effect", "power", "low", "high", "n"]


def test_effect_that_is_added_before_the_test_has_the_power_of_an_interval_that_is_moved():
    rng = np.random.default_rng(32)
    values, block = rng.normal(size=60), np.repeat(np.arange(10), 6)
    moved = chance.power_by_simulation(values, block, 10, [0.8], seed=3, permutations=199).power[0]
    found = []
    for seed in range(500):
        side = np.zeros(60, dtype=bool)
        side[np.arange(10) * 6 + rng.integers(0, 6, 10)] = True
        table = pd.DataFrame({"block": block, "bits": values + 0.8 * side})
        found.append(chance.permutation_test(table, "bits", side, permutations=199, seed=seed).p <= 0.05)
    assert np.mean(found) == pytest.approx(moved, abs=error(0.5, 500) * 2**0.5)


@pytest.mark.parametrize(("n", "per_block"), [(4, [0, 1]), (10, [1]), (25, [2, 3])])
def test_passages_that_play_the_exposed_are_spread_over_blocks(n, per_block):
    wanted = chance._spread(n, np.full(10, 6), np.random.default_rng(0))
    assert wanted.sum() == n
    assert sorted(set(wanted.tolist())) == per_block


@pytest.mark.parametrize("n", [0, 51])
def test_more_exposed_than_there_are_twins_for_are_refused(n):
    with pytest.raises(ValueError, match=rf"1 .. 50 passages can play the exposed.*got {n}"):
        chance.power_by_simulation(np.arange(60.0), np.repeat(np.arange(10), 6), n, [1.0])


@pytest.mark.parametrize(("sd", "n", "twins"), [(0, 16, 16), (1, 1, 16), (1, 16, 1), (np.nan, 16, 16)])
def test_power_of_nothing_is_refused(sd, n, twins):
    with pytest.raises(ValueError, match="a positive sd and two passages a side"):
        chance.power(sd, n, twins)


def test_equivalence_is_claimed_wrongly_at_its_level():
    """The mean lies on the margin: one of twenty sets says that it lies within."""
    rng = np.random.default_rng(40)
    said = []
    for _ in range(SETS):
        noise, file = in_files(rng, 60)
        said.append(chance.equivalence(noise / 4 + 1, file, margin=1).verdict)
    assert np.mean([one == "equivalent" for one in said]) == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize(
    ("mean", "sd", "verdict"), [(0.3, 0.1, "equivalent"), (2, 0.5, "different"), (0.5, 9, "undecided")]
)
def test_equivalence_has_three_answers(mean, sd, verdict):
    values = mean + sd * stats.norm.ppf((np.arange(40) + 0.5) / 40)
    assert chance.equivalence(values, np.arange(40), margin=1).verdict == verdict
    side, block = design(4, 4, 10)
    both = np.where(side, np.resize(values, 80), np.tile(stats.norm.ppf((np.arange(4) + 0.5) / 4) * sd, 20))
    assert chance.equivalence(both, np.arange(80), 1, exposed=side, blocks=block).verdict == verdict


def test_equivalence_needs_a_margin_and_both_of_exposed_and_blocks():
    with pytest.raises(ValueError, match="a margin is above 0; got 0"):
        chance.equivalence([1.0, 2.0], [1, 2], margin=0)
    with pytest.raises(ValueError, match="needed together"):
        chance.equivalence([1.0, 2.0], [1, 2], margin=1, blocks=[1, 1])
