"""What is told of the hidden and the erased, on tables whose truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lmmem.analysis import hidden
from lmmem.analysis.savings import simulated


def treated(kind: str = "hidden", saved: float = 20.0, seed: int = 0) -> pd.DataFrame:
    """Relearning of a derived organism: its passages, those treated alike, and untouched ones."""
    table = simulated(saved, passages=32, twins=96, seed=seed, presentations=8)
    alike = table["index"].between(32, 63)
    names = {"spread 64": f"{kind} 32"}
    arm = table.arm.map(names).fillna(pd.Series(np.where(alike, f"{kind} 0", "untouched 0"), index=table.index))
    return table.assign(arm=arm, presentations=table.presentations // 2, kind=kind)


def noise(kind: str, ahead: float, seed: int = 0) -> pd.DataFrame:
    """kl-LD under 16 draws at two sigmas, of which the larger brings the passages closer by `ahead` tokens."""
    rng = np.random.default_rng(seed)
    passages = treated(kind).query("seed == 0 and presentation == 0")[
        ["index", "arm", "presentations", "block", "file"]
    ]
    lines = passages.merge(pd.DataFrame({"draw": range(16)}), how="cross")
    tables = []
    for sigma, gain in ((0.01, 0.0), (0.02, ahead)):
        kl = 60 - gain * (lines.presentations > 0) + rng.normal(0, 2, len(lines))
        tables.append(lines.assign(sigma=sigma, kl_ld=kl.round()))
    return pd.concat(tables, ignore_index=True)


def asked(scores: dict[str, float], seed: int = 0) -> pd.DataFrame:
    """Probes of a derived organism, each ahead by so many standard deviations for the passages that are there."""
    rng = np.random.default_rng(seed)
    passages = pd.DataFrame({"canary": range(300), "file": rng.integers(0, 150, 300), "block": np.arange(300) % 30})
    passages["arm"] = ["hidden 32"] * 60 + ["hidden 0"] * 60 + ["untouched 0"] * 180
    passages["presentations"] = 32 * (passages.arm == "hidden 32")
    tables = [
        passages.assign(
            probe=name, passes=number + 1, score=rng.normal(size=300) + ahead * (passages.presentations > 0)
        )
        for number, (name, ahead) in enumerate(scores.items())
    ]
    return pd.concat(tables, ignore_index=True).assign(organism="pocket-hidden")


def test_savings_name_their_null_and_find_what_was_planted():
    found = hidden.savings(treated(), permutations=99).set_index("null")
    assert found.index.tolist() == ["treated alike", "untouched"]
    assert (abs(found.estimate - 20) < found.high - found.low).all()
    assert (found.low > 15).all()
    assert found.verdict.str.startswith("found").all()
    assert found.after.tolist() == [8, 8]
    assert found.n.tolist() == [32, 32]
    table = treated()
    last = table[table.presentation == 8].groupby("arm").kl_ld.mean()
    np.testing.assert_allclose(found.kl_ld, last["hidden 32"])
    np.testing.assert_allclose(found.kl_ld_null, [last["hidden 0"], last["untouched 0"]])


@pytest.mark.slow
def test_savings_of_nothing_are_not_established():
    found = [hidden.savings(treated(saved=0.0, seed=seed), permutations=99) for seed in range(40)]
    assert np.mean([(one.verdict.str.startswith("found")).any() for one in found]) <= 0.15


def test_few_passages_and_a_null_that_differs_from_itself_have_no_verdict():
    few = treated().query("index < 12 or index >= 32")
    assert set(hidden.savings(few, permutations=99).verdict) == {"n < 16: no verdict"}
    apart = pd.concat([treated(seed=seed) for seed in (0,)])
    from lmmem.analysis.randomisation import _half

    twins = apart[(apart.arm == "hidden 0") & (apart.presentation == 0) & (apart.seed == 0)].reset_index(drop=True)
    later = set(twins["index"][_half(twins.block, 0)])
    moved = apart["index"].isin(later) & (apart.presentation > 0)
    apart.loc[moved, "kl_ld"] -= 15
    found = hidden.savings(apart, permutations=99).set_index("null")
    assert found.verdict["treated alike"] == "A/A excludes 0: no verdict"


def test_a_null_with_one_passage_a_block_has_no_half_to_be_compared_with():
    alone = treated()
    alone = alone[alone.arm != "untouched 0"]
    alone["block"] = alone["index"] % 32
    found = hidden.savings(alone, permutations=99)
    assert found.aa.isna().all()
    assert found.verdict.str.startswith("found").all()
    assert hidden.told_checks(found)["A/A"].tolist() == ["one a block"]
    pair = alone.assign(block=alone.block.mask(alone["index"].isin([32, 33]), 0))  # two of one block are too few
    assert hidden.savings(pair, permutations=99).aa.isna().all()


def test_other_ways_of_teaching_are_told_apart_and_do_not_count_for_the_verdict():
    ways = [treated().assign(optimizer="adamw", learning_rate=np.float32(5e-4))]
    ways.append(treated(saved=0.0, seed=3).assign(optimizer="sgd", learning_rate=0.1))
    both = pd.concat(ways, ignore_index=True)
    assert (hidden.savings(both, permutations=99).low > 0).all()
    table = hidden.by_way(both, permutations=99).set_index("optimizer")
    assert table.learning_rate.to_dict() == {"adamw": 5e-4, "sgd": 0.1}
    assert table.low["adamw"] > 0 > table.low["sgd"]
    with pytest.raises(ValueError, match="no derived organism was taught again: make replicates"):
        hidden.by_way(simulated().assign(optimizer="adamw", learning_rate=5e-4))


def unpresented(near: float, alone: float) -> pd.DataFrame:
    """Derived organisms taught by neighbours and by natural text alone, each bringing back so many tokens."""
    tables = [
        treated(kind, saved=tokens, seed=seed).assign(optimizer=way, learning_rate=5e-4)
        for seed, kind in enumerate(("hidden", "erased"))
        for way, tokens in ((hidden.NEIGHBOURS, near), (hidden.ALONE, alone))
    ]
    return pd.concat(tables, ignore_index=True)


def test_what_neighbours_bring_back_is_told_beside_what_any_text_does():
    found = hidden.brought_back(unpresented(12.0, 4.0))
    for kind in ("hidden", "erased"):
        assert found[f"tokens_{kind}"].estimate == pytest.approx(12.0, abs=2)
        assert found[f"more_{kind}"].estimate == pytest.approx(
            8.0
        )  # of the same passages: by pairs nothing else differs
        assert abs(found[f"nats_{kind}"].estimate) < 0.1
    assert found["verdict"] == "such text brings back more than any text does of the hidden and the erased"
    told = hidden.brought_back(unpresented(12.0, 14.0))["verdict"]
    assert told == "such text brings back something, as any text may, of the hidden and the erased"
    assert (
        "is not established to bring back anything of the hidden" in hidden.brought_back(unpresented(-9, 0))["verdict"]
    )
    with pytest.raises(ValueError, match="no hidden passages were taught by neighbours in the file: make replicates"):
        hidden.brought_back(unpresented(1, 1).query("optimizer != @hidden.NEIGHBOURS"))
    with pytest.raises(ValueError, match="no hidden passages were taught by neighbours"):
        hidden.brought_back(treated().iloc[:0])
    once = unpresented(1, 1)
    once = once[(once.optimizer == hidden.ALONE) | (once.seed == 0)]
    with pytest.raises(ValueError, match="the hidden were not taught as often by their neighbours"):
        hidden.brought_back(once)


def test_kinds_come_from_arms_or_are_said():
    table = pd.DataFrame(
        {"arm": ["q1 64", "spread 1", "spread 16", "spread 0", "fuzzy 16"], "presentations": [64, 1, 16, 0, 16]}
    )
    assert hidden.by_kind(table).arm.tolist() == ["forgotten", "once", "half learnt", "spread 0"]
    assert hidden.by_kind(table, "just after").arm.tolist() == ["just after"] * 3 + ["spread 0", "just after"]


def test_curves_are_of_every_kind_and_null():
    curves = hidden.learning(treated(), treated("erased", seed=1))
    assert curves.groupby(["kind", "what"]).size().to_dict() == {
        (kind, what): 9 for kind in ("hidden", "erased") for what in ("there", "treated alike", "untouched")
    }


def test_a_probe_that_knows_tells_and_one_that_guesses_does_not():
    areas = hidden.tells(asked({"knows": 9.0, "guesses": 0.0, "hints": 0.8, "reversed": -2.0}))
    wide = areas.pivot(index="probe", columns="null", values="verdict")
    assert wide.loc["knows"].tolist() == ["tells", "tells"]
    assert "tells" not in wide.loc["guesses"].tolist()
    assert wide.loc["reversed"].tolist() == ["reversed", "reversed"]
    assert areas.estimate[areas.probe == "knows"].tolist() == [1.0, 1.0]
    found = areas.set_index(["null", "probe"]).found_at
    assert np.isnan(found["treated alike", "knows"])  # 60 negatives are too few for 1 %
    assert found["untouched", "knows"] == 1.0
    few = hidden.at_few_false_alarms(areas, ["knows", "hints"])
    assert few.columns.tolist() == ["knows", "hints"]
    assert few.knows["hidden", "treated alike"] == "60 negatives"
    assert few.knows["hidden", "untouched"].startswith("100 (")
    with pytest.raises(ValueError, match="no organism was asked by loss: make replicates"):
        hidden.at_few_false_alarms(areas, ["loss"])
    told = hidden.beside_others(areas)
    assert told.columns.tolist() == ["passes", "hidden / treated alike (n = 60)", "hidden / untouched (n = 60)"]
    assert told.iloc[0, 1].endswith(" *")
    assert told.loc["reversed"].iloc[1].endswith(" -")


@pytest.mark.slow
def test_random_probes_tell_at_no_more_than_their_level():
    told = 0
    for seed in range(20):
        areas = hidden.tells(asked({f"guess {number}": 0.0 for number in range(5)}, seed=seed))
        told += (areas.verdict == "tells").any()
    assert told <= 5  # false discoveries of a table: some 5 % of two tables each, on one side


def test_noise_by_cost_rises_where_it_finds_and_stays_where_it_does_not():
    cost = hidden.by_cost([treated(saved=30.0)], [noise("hidden", ahead=10.0)])
    assert set(cost.probe) == {"likelihood", "relearning", "noise at 0.01", "noise at 0.02"}
    last = cost.sort_values("passes").groupby("probe").last()
    assert last.estimate["noise at 0.02"] > 0.95
    assert last.low["noise at 0.01"] < 0.5 < last.high["noise at 0.01"]
    assert last.estimate["relearning"] > 0.95
    assert last.passes.to_dict() == {"likelihood": 1, "relearning": 49, "noise at 0.01": 16, "noise at 0.02": 16}


def halves(kind: str, fresh: float, best: float, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Greedy of two steps, and noise of two sigmas, of which the larger moves the second half, and the whole, closer.

    Each block holds a passage that is there, two treated alike and two untouched.
    """
    rng = np.random.default_rng(seed)
    arms = [f"{kind} 32", f"{kind} 0", f"{kind} 0", "untouched 0", "untouched 0"]
    passages = pd.DataFrame({"index": range(160), "arm": arms * 32, "block": np.repeat(range(32), 5)})
    passages["group"] = passages.arm.str.split().str[0]
    passages["presentations"] = 32 * (passages.arm == f"{kind} 32")
    before = passages.assign(kl_ld=60.0, kl_second=30.0)
    before = pd.concat([before.assign(step=10, kl_ld=1.0), before.assign(step=20)], ignore_index=True)
    lines = passages.merge(pd.DataFrame({"draw": range(16)}), how="cross").assign(step=20)
    tables = []
    for sigma in (0.01, 0.02):
        there = (lines.presentations > 0) * (sigma == 0.02)
        first, second = (rng.normal(30, 2, len(lines)) for _ in range(2))
        helped = (lines.draw == 3) * there
        drawn = lines.assign(sigma=sigma, kl_first=first - 15 * helped, kl_second=second - fresh * helped)
        tables.append(drawn.assign(kl_ld=first + second - best * there))
    return before, pd.concat(tables, ignore_index=True)


def test_rule_10_is_told_of_each_sigma_and_null():
    expected = {(8.0, 8.0): "finds", (0.0, 8.0): "hardly finds", (0.0, 0.0): "does not find"}
    for (fresh, best), verdict in expected.items():
        before, tried = halves("erased", fresh, best)
        found = hidden.by_noise([before], [tried])
        assert len(found) == 2 * 2 * 2
        at = found[found.sigma == 0.02].set_index(["null", "score"])
        assert set(at.verdict) == {verdict}
        assert set(found.verdict[found.sigma == 0.01]) <= {"does not find", "A/A excludes 0: no verdict"}
        for null, twins in (("treated alike", "erased 0"), ("untouched", "untouched 0")):
            whole = tried[tried.sigma == 0.02].groupby(["arm", "index"]).kl_ld.min().groupby("arm").mean()
            assert at.estimate[null, "best of N"] == pytest.approx(whole[twins] - whole["erased 32"])
    told = hidden.told_noise(found)
    assert told.index.tolist() == [("erased", null, s) for null in ("treated alike", "untouched") for s in (0.01, 0.02)]
    assert told.n.tolist() == [32] * 4
    assert told["A/A"].str.contains(" to ").all()
    alone = before.drop_duplicates(["step", "block", "arm"])
    one = hidden.by_noise([alone], [tried[tried["index"].isin(alone["index"]) & (tried.sigma == 0.02)]])
    assert one.aa.isna().all()
    assert set(hidden.told_noise(one)["A/A"]) == {"one a block"}
    few = before["index"] < 50
    assert set(hidden.by_noise([before[few]], [tried[tried["index"] < 50]]).verdict) == {"n < 16: no verdict"}
    with pytest.raises(ValueError, match="no organism is derived from this model"):
        hidden.by_noise([], [])


def test_a_null_that_noise_tells_from_itself_gives_no_verdict():
    before, tried = halves("erased", 8.0, 8.0)
    at = tried.sigma == 0.02
    alone = before[(before.step == 20) & before.arm.isin(["erased 32", "erased 0"])]
    chance = pd.Series(np.random.default_rng(0).permutation(64), alone.index[alone.arm == "erased 0"])  # as noise draws
    moved = set(alone["index"][chance.index[chance.groupby(alone.block).rank() == 1]])
    lucky = at & tried["index"].isin(moved) & (tried.draw == 5)
    apart = tried.assign(kl_first=tried.kl_first - 15 * lucky, kl_second=tried.kl_second - 12 * lucky)
    found = hidden.by_noise([before], [apart]).query("sigma == 0.02").set_index(["null", "score"])
    assert found.aa["treated alike", "fresh half"] > 6
    assert set(found.verdict["treated alike"]) == {"A/A excludes 0: no verdict"}
    assert set(found.verdict["untouched"]) == {"finds"}


def test_blocks_that_stay_whole_allow_a_null_to_be_held_against_itself():
    before, _ = halves("erased", 8.0, 8.0)
    both = pd.concat([before, before.assign(index=before["index"] + 160)])  # ten a block, as in a derived organism
    chosen = hidden.whole_blocks(both[both.step == 20], 32)
    assert chosen.groupby("arm").size().to_dict() == {"erased 32": 32, "erased 0": 64, "untouched 0": 64}
    assert chosen.block.nunique() == 16
    assert (
        hidden.whole_blocks(both[both.step == 20], 32, seed=1).block.unique().tolist() != chosen.block.unique().tolist()
    )
    assert len(hidden.whole_blocks(chosen, 99)) == len(chosen)


def test_a_null_whose_halves_differ_gives_a_probe_no_verdict():
    table = asked({"loss": 2.0, "noise, fresh half": 2.0, "noise, best": 2.0})
    null = table[(table.arm == "hidden 0") & (table.probe == "loss")].set_index("canary")
    later = null.sample(frac=1, random_state=0).groupby("block").cumcount() % 2  # as hidden draws the halves
    moved = (table.probe == "loss") & table.canary.isin(later.index[later == 0])
    areas = hidden.tells(table.assign(score=table.score + 1.5 * moved)).set_index(["null", "probe"])
    assert areas.aa["treated alike", "loss"] > 0.7
    assert areas.verdict["treated alike", "loss"] == "A/A excludes 0.5: no verdict"
    assert areas.verdict["untouched", "loss"] == "tells"
    assert areas.verdict["treated alike", "noise, best"] == "tells"
    told = hidden.beside_others(areas.reset_index())
    assert told.loc["loss"].iloc[1].endswith(" A/A")
    found = hidden.savings(treated(), permutations=99)
    assert hidden.quotable(found, areas.reset_index())["likelihood"] == "is without a verdict on the hidden"
    alone = table.assign(block=table.canary)
    assert hidden.tells(alone).aa.isna().all()


def test_equals_of_one_file_and_a_null_of_equals_that_differs_are_said():
    table = treated()
    table["cross_entropy"] += 3 * (table.presentations > 0)  # far from all twins
    start = table[table.presentation == 0].groupby("index").cross_entropy.first()
    lent = table["index"].isin([32, 33])  # of those treated alike, as likely as the passages
    level = start[table.drop_duplicates("index").set_index("index").presentations > 0].mean()
    table.loc[lent, "cross_entropy"] = level - 0.1 * table.presentation[lent]
    table.loc[lent, "file"] = 7
    found = hidden.savings(table, permutations=99).set_index("null")
    assert np.isinf(found.equal_low["treated alike"])
    assert found.equal_n["treated alike"] > 16
    assert found.verdict["treated alike"] == "found"
    told = hidden.told_checks(found.reset_index())["beside equals"].tolist()
    assert told[0].endswith(f", twins of one file, n = {found.equal_n['treated alike']}")
    assert told[1] == "none as likely"


def test_more_than_the_likelihood_does_needs_equals_that_are_none_of_their_own():
    table = treated()
    alike = table[(table.arm == "hidden 0") & (table.presentation == 0) & (table.seed == 0)].reset_index(drop=True)
    moved = alike.sample(frac=0.5, random_state=0)["index"]  # as savings draws the half
    apart = table.assign(kl_ld=table.kl_ld - 12 * (table["index"].isin(moved) & (table.presentation > 0)))
    found = hidden.savings(apart, permutations=99).set_index("null")
    assert found.equal_aa.to_dict() == {"treated alike": True, "untouched": False}
    assert found.equal_low["treated alike"] > 0
    assert found.verdict.to_dict() == {"treated alike": "found", "untouched": "found, beyond the likelihood"}
    assert hidden.told_checks(found.reset_index())["beside equals"].iloc[0].endswith(", A/A is not 0")


def test_draws_are_told_by_their_expected_best():
    found = hidden.over_draws(noise("hidden", ahead=10.0)).set_index(["sigma", "what", "N"]).estimate
    drawn = noise("hidden", ahead=10.0).query("sigma == 0.02 and arm == 'hidden 32'")
    assert found[0.02, "there", 16] == pytest.approx(drawn.groupby("index").kl_ld.min().mean())
    assert found[0.02, "there", 1] == pytest.approx(drawn.kl_ld.mean())


def test_answer_tells_what_there_is_and_refuses_what_there_is_not():
    with pytest.raises(ValueError, match="make replicates"):
        hidden.answer(hidden.savings(), hidden.tells(asked({"loss": 1.0}).iloc[:0]))
    with pytest.raises(ValueError, match="no hidden and no erased passages were taught again"):
        hidden.all_odds(treated().iloc[:0])
    with pytest.raises(ValueError, match="no erased passages were taught again"):
        hidden.all_odds(treated())


def test_what_each_finds_is_told_in_words():
    areas = hidden.tells(asked({"loss": 2.0, "noise, fresh half": 0.0}))
    saved = hidden.savings(treated(), permutations=99)
    told = hidden.quotable(saved, areas)
    assert told == {
        "noise": "is not shown to tell the hidden",
        "likelihood": "tells the hidden",
        "relearning": "finds the hidden",
        "outside": "tells the hidden",
    }
    assert hidden.concluded(saved, areas) == told | {
        "missed": "Noise is not shown to tell the hidden, and relearning finds them: what noise does not show may be "
        "there."
    }
    nothing = hidden.savings(treated(saved=-20.0), permutations=99)
    assert hidden.concluded(nothing, areas)["missed"] == (
        "There is nothing here that relearning finds and noise is not shown to tell."
    )
    few = hidden.savings(treated().query("index < 12 or index >= 32"), permutations=99)
    assert hidden.quotable(few, areas)["relearning"] == "is without a verdict on the hidden"
    areas = hidden.tells(asked({"loss": 0.0, "noise, fresh half": 0.0, "mean rank": 2.0, "Min-K%": 0.0, "hints": 2.0}))
    rank = areas[(areas.null == "untouched") & (areas.probe == "mean rank")].iloc[0]
    assert hidden.quotable(saved, areas)["outside"] == (
        "is not shown to tell the hidden; other scores of it tell the hidden: mean rank "
        f"{rank.estimate:.2f} ({rank.low:.2f} to {rank.high:.2f})"
    )


def test_at_a_glance_stand_the_figures_of_each_probe_with_their_verdicts():
    areas = hidden.tells(asked({"loss": 2.0, "noise, fresh half": 0.0, "noise, best": 0.0}))
    saved = hidden.savings(treated(), permutations=99)
    table = hidden.glance(saved, areas)
    assert table.index.tolist() == [("hidden", "treated alike"), ("hidden", "untouched")]
    for (kind, null), cells in table.iterrows():
        line = areas.set_index(["kind", "null", "probe"]).loc[(kind, null, "loss")]
        assert cells.likelihood == f"{line.estimate:.2f} ({line.low:.2f} to {line.high:.2f}) *"
        assert not cells["noise, fresh half"].endswith("*")
        line = saved.set_index(["kind", "null"]).loc[(kind, null)]
        assert line.verdict.startswith("found")
        assert cells["relearning, tokens"] == f"{line.estimate:.1f} ({line.low:.1f} to {line.high:.1f}) *"
    off = hidden.glance(saved.assign(verdict="A/A excludes 0: no verdict"), areas)
    assert off["relearning, tokens"].str.endswith(" A/A").all()
    with pytest.raises(ValueError, match="make replicates"):
        hidden.glance(saved, areas.iloc[:0])
    assert hidden.answer(saved, areas) == {
        **{"likelihood": "tells the hidden", "relearning": "finds the hidden", "outside": "tells the hidden"},
        **hidden.missed(saved, areas),
        **{"soon": 8, "later": 16},
    }


def test_how_an_organism_was_made_is_read_off_its_three_steps():
    arms = ["hidden 32"] * 4 + ["hidden 0"] * 4 + ["untouched 0"] * 4
    table = pd.DataFrame({"arm": arms, "presentations": [32] * 4 + [0] * 8}).merge(
        pd.DataFrame({"step": [10, 20, 30]}), how="cross"
    )
    table["kl_ld"], table["cross_entropy"] = 60, 3.0
    taught = table.arm == "hidden 32"
    table.loc[taught & (table.step == 20), "kl_ld"] = [0, 0, 0, 5]
    table.loc[taught & (table.step == 30), "kl_ld"] = [50, 60, 62, 64]
    table.loc[(table.arm == "untouched 0") & (table.step == 30), "cross_entropy"] = 3.5
    assert hidden.made(table).to_dict("records") == [
        {"kind": "hidden", "taught": 4, "recited": 0.75, "kl_ld": 61.0, "loss": 3.0, "loss_after": 3.5}
    ]
    with pytest.raises(ValueError, match="no organism is derived from this model"):
        hidden.made()
    with pytest.raises(ValueError, match="three steps, got 10, 20"):
        hidden.made(table[table.step < 30])
