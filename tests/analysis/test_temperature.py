"""What the page on temperature computes, on planted probabilities and effects."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lmmem.analysis import contrasts, extraction
from lmmem.analysis.randomisation import _half

LENGTH = 4
WORDS = 3


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("one", [0.9, 0.3, 0.01, 1e-5])
def test_least_samples_is_the_first_number_that_does(one, p):
    n = next(n for n in range(1, 10**6) if 1 - (1 - one) ** n >= p)
    assert extraction.least_samples(np.log(one), p) == n
    assert extraction.found_within(np.log(one), n) >= p - 1e-12
    assert n == 1 or extraction.found_within(np.log(one), n - 1) < p


def test_least_samples_of_what_is_certain_is_one_and_of_what_is_impossible_infinite():
    np.testing.assert_array_equal(extraction.least_samples([0.0, -np.inf], 0.9), [1, np.inf])
    np.testing.assert_allclose(np.log(extraction.least_samples(-200.0)), 200 + np.log(np.log(2)))
    np.testing.assert_allclose(extraction.least_samples(-29.999), extraction.least_samples(-30.001), rtol=3e-3)
    for p in (0, 1):
        with pytest.raises(ValueError, match=f"p={p}"):
            extraction.least_samples(-1.0, p)
    with pytest.raises(ValueError, match="n=0"):
        extraction.found_within(-1.0, 0)


def drawn(seed: int, off: float = 1.0, n: int = 30, samples: int = 50) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Samples of a model that knows each token with a probability of its own; `off` is what a wrong sampler raises."""
    rng = np.random.default_rng(seed)
    exact, sampled = [], []
    for temperature in (0.5, 1.0):
        p = rng.uniform(0.2, 0.9, (n, LENGTH))
        truth = rng.integers(0, WORDS, (n, LENGTH))
        for index in range(n):
            line = (index, temperature, truth[index], np.log(p[index]), np.log(p[index]).sum())
            exact.append(line)
            right = rng.random((samples, LENGTH)) < p[index] ** off
            said = np.where(right, truth[index], (truth[index] + 1) % WORDS)
            sampled += [(index, temperature, number, one) for number, one in enumerate(said)]
    return (
        pd.DataFrame(sampled, columns=["index", "temperature", "sample", "said"]),
        pd.DataFrame(exact, columns=["index", "temperature", "truth", "log_probs", "log_prob"]),
    )


def test_right_sampler_agrees_at_its_level_and_a_wrong_one_is_found():
    found = pd.concat([extraction.sampled_beside_exact(*drawn(seed), [1, 2, LENGTH]) for seed in range(150)])
    assert found.n.eq(1500).all()
    for _, one in found.groupby(["temperature", "tokens"]):
        assert (one.p <= 0.05).mean() <= 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / len(one))
        assert ((one.low <= one.exact) & (one.exact <= one.high)).mean() >= 0.95 - 2.6 * np.sqrt(0.05 * 0.95 / len(one))
    wrong = extraction.sampled_beside_exact(*drawn(3, off=1.1), [1, 2, LENGTH])
    assert (wrong.p < 0.05).any()
    assert (wrong.estimate < wrong.exact).mean() > 0.5


def test_share_of_samples_is_counted_from_the_first_token_on():
    sampled, exact = drawn(1, n=2, samples=3)
    found = extraction.sampled_beside_exact(sampled, exact, [2])
    for temperature, lines in sampled.groupby("temperature"):
        truth = exact[exact.temperature == temperature].set_index("index").truth
        hits = sum(list(line.said[:2]) == list(truth[line.index][:2]) for line in lines.itertuples(index=False))
        assert found[found.temperature == temperature].estimate.item() == pytest.approx(hits / 6)


def test_exact_p_is_that_of_the_sum_of_unlike_binomials():
    probability, samples = np.array([0.1, 0.7, 0.4]), 4
    rng = np.random.default_rng(0)
    sums = rng.binomial(samples, probability, (200_000, 3)).sum(axis=1)
    for hits in (1, 5, 9):
        expected = min(1, 2 * min((sums <= hits).mean(), (sums >= hits).mean()))
        assert extraction._two_sided(hits, probability, samples) == pytest.approx(expected, abs=0.006)
    assert extraction._two_sided(0, np.array([1e-80, 1e-300, 0.0]), 64) == pytest.approx(1.0)
    assert extraction._two_sided(1, np.array([1e-80]), 64) == pytest.approx(2 * 64e-80)
    assert extraction._two_sided(64, np.array([1.0]), 64) == pytest.approx(1.0)
    assert extraction._two_sided(3, np.array([0.5]), 10) == pytest.approx(2 * stats.binom.cdf(3, 10, 0.5))


@pytest.mark.parametrize("lacks", ["said", "truth"])
def test_tables_without_tokens_are_refused(lacks):
    sampled, exact = (table.drop(columns=lacks, errors="ignore") for table in drawn(0, n=2, samples=2))
    with pytest.raises(ValueError, match="keep_tokens=True"):
        extraction.sampled_beside_exact(sampled, exact, [1])


def test_probabilities_of_other_sequences_are_refused():
    sampled, exact = drawn(0, n=3, samples=2)
    with pytest.raises(ValueError, match=r"at temperature 0\.5 are of other sequences"):
        extraction.sampled_beside_exact(sampled, exact[exact["index"] > 0], [1])


def probabilities() -> pd.DataFrame:
    """Three arms: found by a few samples at a low temperature, by a hundred, and never."""
    lines = [
        (arm, m, temperature, 100 * m + number, np.log(p) if p else -np.inf)
        for arm, m, by_temperature in (
            ("spread 16", 16, {0.5: 0.5, 1.0: 0.1}),
            ("spread 1", 1, {0.5: 1e-9, 1.0: 0.01}),
            ("spread 0", 0, {0.5: 0, 1.0: 0}),
        )
        for temperature, p in by_temperature.items()
        for number in range(5)
    ]
    return pd.DataFrame(lines, columns=["arm", "presentations", "temperature", "index", "log_prob"])


def test_samples_needed_are_those_at_the_best_temperature_of_each_arm():
    found = extraction.samples_needed(probabilities(), budgets=[50, 100])
    assert found.arm.tolist() == ["spread 16", "spread 1", "spread 0"]
    assert found.samples.tolist() == ["1", "69", "never"]
    assert found["T"][:2].tolist() == [0.5, 1.0]
    assert [words.split()[0] for words in found["in 50"]] == ["1.00", "0.00", "0.00"]
    assert [words.split()[0] for words in found["in 100"]] == ["1.00", "1.00", "0.00"]
    assert extraction.likeliest(probabilities()) == 1.0


def test_sampler_is_told_with_what_is_easiest_and_what_was_met_once():
    checked = pd.DataFrame({"p": [0.5, 0.9]})
    found = extraction.sampler(checked, probabilities())
    assert (found["right"], found["lines"], found["least"]) == ("agree with", 2, 0.9)
    assert (found["easiest"], found["easiest_n"], found["once"], found["once_n"]) == (
        "spread 16",
        "1",
        "spread 1",
        "69",
    )
    assert extraction.sampler(checked.assign(p=[1e-4, 0.9]), probabilities())["right"] == "differ from"


def test_near_verbatim_bound_stands_beside_word_for_word_and_samples():
    near = pd.DataFrame({"arm": "a", "index": np.repeat([1, 2, 3], 3), "temperature": 0.5, "distance": [0, 1, 2] * 3})
    near["log_prob"] = np.log([0.1, 0.2, 0.3] * 3)
    sampled = pd.DataFrame({"arm": "a", "temperature": [0.5] * 4 + [1.0], "kl_ld": [0, 2, 3, 9, 0]})
    found = extraction.near_verbatim(near, sampled)
    assert found.loc[0, ["n", "word for word", "within 2", "gained"]].tolist() == [3, "0.1", "0.3", "3.0"]
    assert found["sampled within 2"][0].startswith("0.5000 (")
    with pytest.raises(ValueError, match=r"nothing was sampled at temperature 0\.5"):
        extraction.near_verbatim(near, sampled[sampled.temperature == 1.0])


def best(seed: int = 0, effect: float = 6.0, blocks: int = 32, ahead: float = 0.0) -> pd.DataFrame:
    """Best-of-N: an arm that gains by an effect, one that does not, and twins; by noise, and sampling at two T."""
    rng = np.random.default_rng(seed)
    lines = [
        (f"spread {m}", m, 2 * block + 1, kind, 60 - gain + rng.normal(0, 1), 60)
        for m, gain in ((0, 0.0), (1, 0.0), (16, effect))
        for block in range(blocks)
        for kind in ("temperature 0.3", "temperature 1", "perturbation")
    ]
    table = pd.DataFrame(lines, columns=["arm", "presentations", "block", "method", "kl_ld", "kl_ld_before"])
    table["index"] = 1000 * table.presentations + table.block
    table["kl_ld"] += 5 * (table.method == "temperature 1") - ahead * (
        (table.method == "temperature 0.3") & (table.presentations == 16)
    )
    return table.assign(gain=table.kl_ld_before - table.kl_ld, N=20, file=table["index"].astype(str))


def test_temperature_is_chosen_in_one_half_of_the_blocks_and_judged_in_the_other():
    table = best()
    odd = table.block % 4 == 1  # blocks are dealt in turn
    better = table.assign(kl_ld=table.kl_ld.mask(odd & (table.method == "temperature 1"), 1.0))
    found = extraction.chosen_apart(better)
    chosen = found.drop_duplicates("block").set_index("block").temperature
    assert set(chosen[chosen.index % 4 == 1]) == {"temperature 0.3"}  # chosen by the others
    assert set(chosen[chosen.index % 4 == 3]) == {"temperature 1"}
    assert found.groupby("method").size().to_dict() == dict.fromkeys(("perturbation", "sampling", "difference"), 96)
    wide = found.pivot(index="index", columns="method", values="gain")
    np.testing.assert_allclose(wide["difference"], wide["sampling"] - wide["perturbation"])
    one = found[(found.method == "sampling") & (found["index"] == 16_003)]
    here = better[(better["index"] == 16_003) & (better.method == "temperature 1")]
    assert one.gain.item() == here.gain.item()


def test_small_arms_are_in_both_halves_though_they_lie_in_odd_blocks():
    table = best()
    more = table[table.presentations == 0].assign(block=lambda t: t.block - 1, index=lambda t: t["index"] + 5000)
    found = extraction.chosen_apart(pd.concat([table, more], ignore_index=True))
    assert found[found.arm == "spread 16"].groupby("half")["index"].nunique().tolist() == [16, 16]


def test_choice_needs_blocks_and_exposed_passages_on_both_sides():
    with pytest.raises(ValueError, match="there is 1 block"):
        extraction.chosen_apart(best(blocks=1))
    table = best(blocks=2)
    with pytest.raises(ValueError, match="one half has none"):
        extraction.chosen_apart(table[(table.presentations == 0) | (table.block == 1)])


@pytest.mark.slow
def test_choosing_elsewhere_does_not_flatter_where_all_temperatures_are_alike():
    """Among equally good temperatures the chosen one gains nothing over perturbation, beyond twins, at its level."""
    excluded = []
    for seed in range(60):
        table = best(seed, effect=0.0, blocks=16)
        table["gain"] = np.random.default_rng(seed).normal(size=len(table))
        table["kl_ld"] = 60 - table.gain
        between = extraction.beyond_twins(extraction.chosen_apart(table), "gain", "method")
        lines = between[(between.method == "difference") & (between.arm != "A/A")]
        excluded += [*((lines.low > 0) | (lines.high < 0))]
    assert np.mean(excluded) <= 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / len(excluded))


def test_gains_are_told_with_the_verdicts_that_their_numbers_allow():
    found = extraction.temperature(extraction.chosen_apart(best(ahead=4.0)))
    assert "More than their twins gain spread 16 by perturbation, spread 16 by sampling" in found["verdict"]
    assert "not established for spread 1 by perturbation" in found["verdict"]
    assert found["ahead"] == "Above 0 for spread 16; not established for spread 1."
    assert (found["fewest"], found["chosen"], found["samples"], found["n"], found["n_arm"]) == (
        *("spread 1", "0.3"),
        *(20, 96, 32),
    )
    assert found["once"].low < 0 < found["once"].high
    few = extraction.temperature(extraction.chosen_apart(best(blocks=8)))
    assert few["verdict"].startswith("No verdict from fewer than 16 passages on")
    assert few["ahead"] == "No verdict from fewer than 16 passages on spread 1, spread 16."


def test_twins_that_differ_from_twins_forbid_a_verdict_by_that_method_alone():
    table, more = best(), best(seed=3)
    more = more[more.presentations == 0].assign(index=lambda t: t["index"] + 5000)
    apart = extraction.chosen_apart(pd.concat([table, more], ignore_index=True))
    cell = apart[(apart.method == "sampling") & (apart.presentations == 0)].reset_index(drop=True)
    moved = (apart.method == "sampling") & apart["index"].isin(cell["index"][_half(cell.block, 0)])
    found = extraction.temperature(apart.assign(gain=apart.gain + 4 * moved, file=apart["index"]))
    assert found["verdict"] == (
        "More than their twins gain spread 16 by perturbation; not established for spread 1 by perturbation; no "
        "verdict, as A/A excludes 0, on spread 1 by sampling, spread 16 by sampling"
    )
    assert extraction.temperature(apart.assign(file=apart["index"]))["verdict"].startswith(
        "More than their twins gain spread 16 by perturbation, spread 16 by sampling"
    )


def test_hints_are_told_against_twins_and_halves_of_twins():
    rng = np.random.default_rng(1)
    lines = [
        (arm, int(arm.split()[1]), block, given, 0.9 - effect * (given > 2) + rng.normal(0, 0.02))
        for arm, effect in (("spread 0", 0), ("spread 0", 0), ("spread 1", 0), ("spread 16", 0.5))
        for block in range(20)
        for given in (1, 8)
    ]
    table = pd.DataFrame(lines, columns=["arm", "presentations", "block", "given", "kl_ld_share"])
    table["index"] = np.arange(len(table)) // 2
    found = extraction.by_hint(table.assign(file=table["index"].astype(str)))
    assert (found.arm == "A/A").sum() == 2
    said = extraction.hints(found)
    assert (said["most"], said["least"], said["arm"]) == (8, 1, "spread 1")
    assert said["once"].low < 0 < said["once"].high
    assert said["verdict"] == "Above 0 for spread 16; not established for spread 1."
    few = extraction.hints(extraction.by_hint(table[table.block < 8].assign(file=table["index"].astype(str))))
    assert few["verdict"] == "No verdict from fewer than 16 passages on spread 1, spread 16."
    by_luck = found.assign(q=np.where(found.arm == "spread 16", 0.4, found.q))
    by_luck["verdict"] = by_luck.verdict.mask(by_luck.arm == "spread 16", "not established")
    assert extraction.hints(by_luck)["verdict"] == "Not established for spread 1, spread 16."
    learnt = found[(found.arm == "spread 16") & (found.given == 8)]
    assert learnt.estimate.item() == pytest.approx(50, abs=3)
    with pytest.raises(ValueError, match="no sequence is unexposed"):
        extraction.by_hint(table[table.presentations > 0].assign(file="a"))


def test_intervals_are_shown_as_text_and_missing_tests_are_empty():
    found = pd.DataFrame({"arm": ["a", "b"], "estimate": [1.0, -2.0], "low": [0.0, -3.0], "high": [2.0, -1.0]})
    told = contrasts.as_told(found.assign(n=9, p=[0.012, np.nan], q=[0.1, np.nan]), "bits")
    assert told.bits.tolist() == ["1.0 (0.0 to 2.0)", "-2.0 (-3.0 to -1.0)"]
    assert told.p.tolist() == ["0.012", ""]
    assert told.columns.tolist() == ["arm", "bits", "n", "p", "q"]
