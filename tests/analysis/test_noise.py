"""What noise finds beyond luck, on simulated draws whose truth is known."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lmmem.analysis import noise

SETS = 200  # simulated experiments


def simulated(rng, memory=0.0, shared=0.0, blocks=16, draws=20, twins=1, scatter=2.0, steps=(1,)):
    """Passages whose draws scatter, the exposed more so; memory is what a draw brings back in both halves alike.

    `shared` is what all exposed passages have in common in what a draw brings back.
    """
    passages = [(step, block, m) for step in steps for block in range(blocks) for m in [1, *[0] * twins]]
    before = pd.DataFrame(passages, columns=["step", "block", "presentations"])
    n, exposed = len(before), before.presentations.to_numpy() > 0
    common, own = rng.normal(size=(draws, 1)), rng.normal(size=(draws, n))
    back = memory * exposed * np.maximum(0, shared * common + own)
    base, sd = rng.normal(20, 1, size=n), np.where(exposed, scatter, 1.0)
    first, second = (np.clip(base - back + sd * rng.normal(size=(draws, n)), 0, 32).round() for _ in range(2))
    undisturbed = np.clip(base + rng.normal(size=n), 0, 32).round()
    before = before.assign(index=range(n), group="spread", kl_second=undisturbed, kl_ld=2 * undisturbed)
    before["arm"] = before.group + " " + before.presentations.astype(str)
    columns = {"kl_first": first.ravel(), "kl_second": second.ravel(), "kl_ld": (first + second).ravel()}
    which = np.tile(np.arange(n), draws)
    tried = pd.DataFrame({"index": which, "step": before.step.to_numpy()[which], **columns})
    return before, tried.assign(draw=np.repeat(np.arange(draws), n), sigma=0.01)


def line(table: pd.DataFrame, **where) -> pd.Series:
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


def by_hand(before, tried, score: str, chances: int = 0) -> dict[int, float]:
    """Passage by passage, by plain loops; ties of the fresh half are broken by chance, many times."""
    rng, found = np.random.default_rng(0), {}
    for passage in before.itertuples():
        draws = tried[(tried["index"] == passage.index) & (tried.step == passage.step)]
        if score == "best of N":
            found[passage.index] = passage.kl_ld - draws.kl_ld.min()
        elif score == "average draw":
            found[passage.index] = passage.kl_ld - draws.kl_ld.mean()
        else:
            equal = draws[draws.kl_first == draws.kl_first.min()].kl_second.to_numpy()
            found[passage.index] = passage.kl_second - np.mean([rng.choice(equal) for _ in range(chances)])
    return found


@pytest.mark.parametrize("score", ["fresh half", "best of N", "average draw"])
def test_each_score_is_that_of_a_plain_loop(score):
    before, tried = simulated(np.random.default_rng(0), memory=3.0, blocks=4)
    before = before.rename_axis(None).assign(index=np.arange(len(before)) * 7)
    tried = tried.assign(index=tried["index"] * 7).sample(frac=1, random_state=1)
    found = noise.scored(before, tried, score)
    expected = by_hand(before.set_index("index", drop=False), tried, score, chances=4_000)
    np.testing.assert_allclose(found.gain, [expected[i] for i in found["index"]], atol=0.2)


def test_majority_takes_the_draw_that_says_what_most_say():
    said = [[1, 2, 3], [1, 2, 4], [1, 5, 3], [9, 9, 9]]  # most say 1 2 3
    before = pd.DataFrame({"index": [4], "step": 1, "kl_ld": [60], "kl_second": [30]})
    tried = {"index": 4, "step": 1, "draw": range(4), "kl_ld": [50, 10, 20, 5], "kl_first": 1, "kl_second": 1}
    tried = pd.DataFrame(tried).assign(said=said)
    assert noise.scored(before, tried, "majority").gain.tolist() == [10]
    assert noise.scored(before, tried[tried.draw > 0].assign(draw=range(3)), "majority").gain.tolist() == [
        60 - (10 + 20) / 2  # of 1 2 3 both have two tokens
    ]
    with pytest.raises(ValueError, match="needs what was said: measure with keep_tokens=True"):
        noise.scored(before, tried.drop(columns="said"), "majority")


def sets(**options) -> dict[str, pd.DataFrame]:
    """The lines of the exposed of many simulated experiments, by score."""
    rng = np.random.default_rng(19)
    found = pd.concat([noise.over_draws(*simulated(rng, **options), seed=seed) for seed in range(SETS)])
    return {score: part for score, part in found[found.arm == "spread 1"].groupby("score")}


def covers(table: pd.DataFrame, truth: float) -> float:
    """How probable so few covering intervals are, if each covers with 95 %."""
    hits = int(((table.low <= truth) & (table.high >= truth)).sum())
    return float(stats.binom.cdf(hits, len(table), 0.95))


@pytest.mark.slow
@pytest.mark.parametrize("twins", [1, 2])
def test_without_memory_the_fresh_half_is_centred_on_nothing_and_best_of_n_is_not(twins):
    found = sets(scatter=3.0, twins=twins)
    fresh, best = found["fresh half"], found["best of N"]
    assert abs(fresh.estimate.mean()) < 3 * fresh.estimate.std() / np.sqrt(SETS)
    assert covers(fresh, 0.0) > 0.005
    assert ((fresh.low > 0) | (fresh.high < 0)).mean() < 0.1
    assert (best.low > 0).mean() > 0.9  # it takes scatter for memory


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 1.5], ids=["each its own draws", "one draw helps all"])
def test_memory_moves_the_fresh_half_and_its_interval_covers(shared):
    fresh = sets(memory=3.0, shared=shared)["fresh half"]
    truth = fresh.estimate.mean()
    assert truth > 1
    assert (fresh.low > 0).mean() > 0.5
    assert covers(fresh, truth) > 0.005


@pytest.mark.slow
def test_interval_over_blocks_alone_would_miss_what_draws_share():
    """Where one draw helps all, blocks do not tell how good the draws were."""
    rng, hits = np.random.default_rng(2), {"both": 0, "blocks": 0}
    found = [simulated(rng, memory=3.0, shared=1.5, blocks=30) for _ in range(SETS)]
    gains = [noise.scored(*one) for one in found]
    pairs = [g.gain[g.presentations == 1].to_numpy() - g.gain[g.presentations == 0].to_numpy() for g in gains]
    truth = np.mean([pair.mean() for pair in pairs])
    for seed, (one, pair) in enumerate(zip(found, pairs, strict=True)):
        both = line(noise.over_draws(*one, ["fresh half"], seed=seed), arm="spread 1")
        hits["both"] += both.low <= truth <= both.high
        hits["blocks"] += abs(pair.mean() - truth) <= stats.t.ppf(0.975, 29) * pair.std(ddof=1) / np.sqrt(30)
        np.testing.assert_allclose(both.estimate, pair.mean())
    assert hits["both"] > 0.9 * SETS > 0.8 * SETS > hits["blocks"]


@pytest.mark.slow
def test_passages_of_one_text_are_drawn_anew_together_where_that_is_asked():
    """24 pairs of 8 texts, of which each has something of its own that no draw brings."""
    rng, sets, hits = np.random.default_rng(3), 100, {"text": 0, None: 0}
    for seed in range(sets):
        before, tried = simulated(rng, blocks=24, draws=10)
        exposed = before.presentations > 0
        text = np.where(exposed, before.block % 8, 100 + before.block)
        before["kl_second"] += np.where(exposed, 4 * rng.normal(size=8)[before.block % 8], 0)
        for clusters in hits:
            found = noise.over_draws(before.assign(text=text), tried, ["fresh half"], clusters=clusters, seed=seed)
            hits[clusters] += found.low[0] <= 0 <= found.high[0]
    assert stats.binom.cdf(hits["text"], sets, 0.95) > 0.005
    assert hits[None] < 0.85 * sets  # pairs, as if they were independent


def test_clusters_that_are_blocks_give_the_interval_of_blocks_but_for_a_factor():
    before, tried = simulated(np.random.default_rng(4), memory=3.0, blocks=40)
    own = before.assign(file=before.block)
    plain, by_file = (line(noise.over_draws(own, tried, ["fresh half"], clusters=c)) for c in (None, "file"))
    assert plain.estimate == pytest.approx(by_file.estimate)
    assert by_file.high - by_file.low == pytest.approx(plain.high - plain.low, rel=0.03)
    with pytest.raises(ValueError, match="errors by file are those of twins of the same block"):
        noise.over_draws(own, tried, pooled=True, clusters="file")
    with pytest.raises(ValueError, match="no column text"):
        noise.over_draws(own, tried, clusters="text")


def test_twins_are_those_of_the_block_at_the_same_step():
    before, tried = simulated(np.random.default_rng(5), memory=2.0, blocks=5, twins=2, steps=(1, 2))
    gain = noise.scored(before, tried, "average draw")
    expected = []
    for step, block in itertools.product((1, 2), range(5)):
        here = gain[(gain.step == step) & (gain.block == block)]
        expected.append(here.gain[here.presentations == 1].mean() - here.gain[here.presentations == 0].mean())
    found = noise.over_draws(before, tried, ["average draw"])
    np.testing.assert_allclose(line(found, arm="spread 1").estimate, np.mean(expected))
    assert line(found, arm="spread 1").n == 10
    twins = gain[gain.presentations == 0]
    apart = np.abs(twins.gain.to_numpy()[::2] - twins.gain.to_numpy()[1::2])
    signs = [sum(one) / 10 for one in itertools.product(*[(-d, d) for d in apart])]
    halves = [line(noise.over_draws(before, tried, ["average draw"], seed=s), arm="A/A") for s in range(8)]
    assert len({half.estimate for half in halves}) > 4
    assert all(np.abs(np.array(signs) - half.estimate).min() < 1e-9 and half.n == 10 for half in halves)


def test_twins_against_twins_are_halved_by_chance_and_not_by_their_order():
    before, tried = simulated(np.random.default_rng(5), blocks=30, twins=2)
    second = before[before.presentations == 0].groupby("block").cumcount().eq(1)
    tried.loc[tried["index"].isin(second[second].index), "kl_ld"] -= 20  # later lines are of another kind
    found = [line(noise.over_draws(before, tried, ["average draw"], seed=s), arm="A/A") for s in range(40)]
    assert abs(np.mean([half.estimate for half in found])) < 3
    assert np.mean([half.low < 0 < half.high for half in found]) > 0.8


def test_passages_from_elsewhere_are_no_twins_and_a_window_borrows_some():
    before, tried = simulated(np.random.default_rng(5), blocks=5, twins=2)
    last = before.groupby("block").cumcount() == 2
    before.loc[last, "group"] = "elsewhere"
    before.loc[before.presentations == 1, "group"] = "q2"
    found = noise.over_draws(before, tried)
    without = noise.over_draws(before[~last], tried)
    pd.testing.assert_frame_equal(found, without)


def test_stratum_is_compared_with_the_unexposed_of_its_own_complexity():
    before, tried = simulated(np.random.default_rng(6), memory=3.0, blocks=40, twins=1)
    before["z_complexity"] = np.where(before.block % 2, 0.9, 0.5)
    found = noise.strata(before, tried)
    for stratum, odd in (("below 0.8", 0), ("0.8 and above", 1)):
        gain = noise.scored(before[before.block % 2 == odd], tried)
        expected = gain.gain[gain.presentations == 1].mean() - gain.gain[gain.presentations == 0].mean()
        told = line(found, stratum=stratum, arm="spread 1", score="fresh half")
        np.testing.assert_allclose(told.estimate, expected)
        assert (told.n, told.low < told.estimate < told.high) == (20, True)


def test_stratum_with_too_few_has_no_interval():
    before, tried = simulated(np.random.default_rng(6), blocks=20)
    before["z_complexity"] = np.where(before.block < 3, 0.9, 0.5)
    found = noise.strata(before, tried)
    few = found[found.stratum == "0.8 and above"]
    assert few.n.tolist() == [3, 3]
    assert few[["estimate", "low", "high"]].isna().all(axis=None)
    assert found[found.stratum == "below 0.8"].low.notna().all()


@pytest.mark.slow
def test_sigma_is_chosen_on_other_blocks_than_it_is_judged_on():
    """The best of many sigmas that are all alike looks good where it was chosen, and not elsewhere."""
    rng, estimates, greedy_ones = np.random.default_rng(7), [], []
    for seed in range(40):
        before, first = simulated(rng, blocks=12)
        others = [simulated(rng, blocks=12)[1].assign(sigma=0.02 + number / 100) for number in range(4)]
        several = pd.concat([first, *others], ignore_index=True)
        found = noise.cross_fitted(before, several, seed=seed)
        estimates.append(found.estimate[0])
        response = noise.response(before, several, scores=["fresh half"])
        greedy_ones.append(response[response.arm == "spread 1"].estimate.max())
    assert abs(np.mean(estimates)) < 3 * np.std(estimates) / np.sqrt(40)
    assert np.mean(greedy_ones) > 5 * np.std(greedy_ones) / np.sqrt(40)


def test_sigma_that_helps_is_chosen_on_both_halves():
    rng = np.random.default_rng(8)
    before, useless = simulated(rng, blocks=12)
    _, useful = simulated(rng, memory=4.0, blocks=12)
    several = pd.concat([useless, useful.assign(sigma=0.05)], ignore_index=True)
    found = line(noise.cross_fitted(before, several), arm="spread 1")
    at_best = line(noise.over_draws(before, several[several.sigma == 0.05], ["fresh half"]), arm="spread 1")
    assert found.chosen == "0.05 and 0.05"
    np.testing.assert_allclose(found.estimate, at_best.estimate)


def test_choice_among_sigmas_of_different_numbers_of_draws_is_refused():
    before, tried = simulated(np.random.default_rng(8), blocks=6)
    several = pd.concat([tried, tried[tried.draw < 5].assign(sigma=0.05)])
    with pytest.raises(ValueError, match="every sigma needs the same draws"):
        noise.cross_fitted(before, several)
    few = before.block < 3
    with pytest.raises(ValueError, match="spread 1: it is in 3 blocks, and to choose in half of them takes 4"):
        noise.cross_fitted(before[few], tried)


@pytest.mark.parametrize("n", [1, 2, 10, 200])
def test_expected_maximum_is_that_of_monte_carlo(n):
    drawn = np.random.default_rng(n).normal(size=(20_000, n)).max(axis=1)
    assert abs(noise.expected_maximum(n) - drawn.mean()) < 4 * drawn.std() / np.sqrt(len(drawn))


def test_no_numbers_have_no_maximum():
    with pytest.raises(ValueError, match="the largest of n=0 numbers"):
        noise.expected_maximum(0)


def test_dispersion_tells_scatter_from_reach():
    before, tried = simulated(np.random.default_rng(9), blocks=60, draws=50, scatter=3.0)
    found = noise.dispersion(before, tried).set_index("arm")
    wide = tried.pivot(index="draw", columns="index", values="kl_ld")
    for arm, here in before.groupby("arm"):
        columns = wide[here["index"]]
        np.testing.assert_allclose(found.sd[arm], columns.std().mean())
        np.testing.assert_allclose(found.best[arm], columns.min().mean())
        np.testing.assert_allclose(found.reach[arm], ((columns.mean() - columns.min()) / columns.std()).mean())
        assert found.low[arm] < noise.expected_maximum(50) < found.high[arm] + 0.1  # normal draws reach as far
        assert abs(found.by_luck[arm] - found.best[arm]) < 0.5
    assert found.sd["spread 1"] > 2 * found.sd["spread 0"]


def test_passage_whose_draws_are_all_alike_is_counted_and_left_out():
    before, tried = simulated(np.random.default_rng(9), blocks=5)
    tried.loc[tried["index"] == 0, "kl_ld"] = 40
    found = noise.dispersion(before, tried).set_index("arm")
    assert found.loc["spread 1", ["n", "constant"]].tolist() == [4, 1]
    with pytest.raises(ValueError, match="draws scatter only where there are 2 or more, got 1"):
        noise.dispersion(before, tried[tried.draw == 0])


def test_best_draws_that_point_along_a_change_are_seen():
    rng = np.random.default_rng(10)
    before, tried = simulated(rng, memory=6.0, shared=5.0, blocks=20, draws=40)
    exposed = tried["index"].map(before.presentations.eq(1))
    helps = -tried[exposed].groupby("draw").kl_ld.mean()
    toward = (helps - helps.mean()) / helps.std()
    cosines = pd.concat(
        [
            pd.DataFrame({"change": "toward", "draw": range(40), "cosine": toward.to_numpy() / 1e3}),
            pd.DataFrame({"change": "at random", "draw": range(40), "cosine": rng.normal(size=40) / 1e3}),
        ]
    ).assign(weights=1_000_000)
    found = noise.resemblance(before, tried, cosines)
    toward, random = (line(found, change=change, arm="spread 1") for change in ("toward", "at random"))
    assert toward.low > 0.5
    assert random.low < 0 < random.high
    best = tried[exposed].loc[tried[exposed].groupby("index").kl_ld.transform("min") == tried[exposed].kl_ld]
    alone = best.assign(c=best.draw.map(cosines[cosines.change == "toward"].set_index("draw").cosine) * 1e3)
    np.testing.assert_allclose(toward.alone, alone.groupby("index").c.mean().mean(), atol=1e-6)
    with pytest.raises(ValueError, match="toward: 1 of 40 draws have no cosine"):
        noise.resemblance(before, tried, cosines[cosines.draw > 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b, t: (b[b.presentations > 0], t), "nothing to compare with: no sequence is unexposed"),
        (lambda b, t: (b[(b.presentations > 0) | (b.block > 0)], t), "1 sequences of spread 1 have no unexposed twin"),
        (lambda b, t: (b, t[(t.draw > 0) | (t["index"] > 0)]), "1 of 32 sequences do not have all of the 20 draws"),
        (lambda b, t: (b, t.assign(sigma=t.draw / 100)), "20 values of sigma: give noise of one kind at a time"),
        (lambda b, t: (b, t.drop(columns="kl_first")), "no column kl_first; there are index"),
        (lambda b, t: (pd.concat([b, b]), t), "a sequence is there twice at a step"),
        (lambda b, t: (b[b.block == 0], t), "spread 1: passages of 1 block, and an interval needs 2"),
    ],
)
def test_tables_that_say_nothing_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        noise.over_draws(*change(*simulated(np.random.default_rng(0))))


def test_unknown_score_is_refused():
    with pytest.raises(ValueError, match="unknown score 'worst'; choose among fresh half, best of N"):
        noise.scored(*simulated(np.random.default_rng(0)), "worst")
