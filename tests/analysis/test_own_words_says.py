"""What is saved beside a model's own words, on relearnings whose truth was planted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lmmem.analysis import own_words
from lmmem.analysis.statistics import Interval
from lmmem.experiments import own_words as measured


def planted(tokens: float, seed: int = 0, arm: str = "q1 64", **options) -> pd.DataFrame:
    """As simulated, its exposed of an arm that has a name."""
    table = own_words.simulated(tokens, seed=seed, **options)
    return table.assign(arm=table.arm.replace("spread 64", arm))


def test_saved_is_what_loops_over_passages_and_presentations_find():
    table = planted(5.0, passages=4, twins=6, rounds=3)
    found = own_words.saved(table).set_index("index")
    for passage, lines in table.groupby("passage"):
        gains = {}
        for continuation, of in lines.groupby("continuation"):
            of = of.sort_values("presentation")
            first, *later = of.kl_ld
            nats, *nats_later = of.cross_entropy
            gains[continuation] = first - sum(later) / len(later), nats - sum(nats_later) / len(nats_later)
        line = found.loc[passage]
        assert line.true == pytest.approx(gains["true"][0])
        assert line.alternative == pytest.approx(gains["alternative"][0])
        assert line.tokens == pytest.approx(gains["true"][0] - gains["alternative"][0])
        assert line.nats == pytest.approx(gains["true"][1] - gains["alternative"][1])
        assert line.kl_ld == lines[(lines.continuation == "true") & (lines.presentation == 0)].kl_ld.item()


def test_order_of_lines_changes_nothing():
    table = planted(5.0)
    mixed = table.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(own_words.saved(table), own_words.saved(mixed))


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (lambda t: t[t.continuation == "true"], "each passage needs a true and an alternative continuation"),
        (lambda t: t.drop(index=t.index[(t.presentation == 2) & (t.passage == 1)][:1]), "each passage needs a true"),
        (lambda t: t[t.presentation > 0], r"presentations \[1, 2, 3.*savings need what was before the first"),
        (lambda t: t[t.presentation == 0], r"presentations \[0\]: savings need"),
        (lambda t: pd.concat([t, t]), "a continuation is there twice"),
        (lambda t: t.drop(columns="continuation"), "continuation"),
    ],
)
def test_tables_that_lack_something_are_refused(broken, reason):
    with pytest.raises(ValueError, match=reason):
        own_words.saved(broken(planted(0.0)))


def test_intervals_cover_what_was_planted_and_bias_cancels():
    """Within 3.5 standard errors of a binomial share of 95 %."""
    lines = [own_words.savings(planted(4.0, seed=seed, bias=6.0)).iloc[0] for seed in range(100)]
    covered = sum(line.low < 4.0 < line.high for line in lines)
    assert covered >= 100 * 0.95 - 3.5 * np.sqrt(100 * 0.95 * 0.05)
    assert np.mean([line.estimate for line in lines]) == pytest.approx(4.0, abs=0.5)
    assert np.mean([line.beside for line in lines]) == pytest.approx(10.0, abs=0.5)
    assert np.mean([line.of_null for line in lines]) == pytest.approx(6.0, abs=0.5)


def test_true_text_that_is_learnt_sooner_anyway_is_seldom_called_a_memory():
    lines = [own_words.savings(planted(0.0, seed=seed, bias=6.0)).iloc[0] for seed in range(40)]
    assert all(line.beside_low > 0 for line in lines)
    assert sum(line.verdict == "found" for line in lines) <= 4  # 1 is expected, one-sided


def test_memory_that_was_planted_is_found():
    line = own_words.savings(planted(10.0)).iloc[0]
    assert (line.kind, line.null, line.verdict, line.n, line.n_null) == ("forgotten", "spread 0", "found", 32, 64)


def test_twins_that_chance_chose_are_compared_by_the_true_continuations_alone():
    table = planted(10.0)
    line = own_words.savings(table, value="true").iloc[0]
    passages = own_words.saved(table)
    there = passages.presentations > 0
    twins = passages[~there].groupby("block").true.mean()
    expected = (passages[there].true - passages[there].block.map(twins)).mean()
    assert line.estimate == pytest.approx(expected)


def test_each_kind_stands_beside_each_of_its_nulls_once():
    hidden = planted(10.0, arm="hidden 32")
    treated = hidden[hidden.arm == "spread 0"].assign(arm="hidden 0")
    treated["passage"] += 1_000
    table = pd.concat([hidden.replace({"arm": {"spread 0": "untouched 0"}}), treated])
    found = own_words.savings(table)
    assert found[["kind", "null"]].values.tolist() == [["hidden", "hidden 0"], ["hidden", "untouched 0"]]
    rows = planted(10.0, arm="row 1").replace({"arm": {"spread 0": "row 0"}})
    assert own_words.savings(rows)[["kind", "null"]].values.tolist() == [["row", "row 0"]]


def test_arms_that_have_no_name_of_a_kind_are_told_by_their_own():
    assert own_words.savings(own_words.simulated(10.0)).kind.tolist() == ["spread 64"]


def elsewhere(table: pd.DataFrame, ahead: float = 0.0, n: int = 64) -> pd.DataFrame:
    """With copies of the null in other files, whose true continuations are so many tokens ahead."""
    other = table[(table.arm == "spread 0")].assign(arm="elsewhere 0", file=table.file + 1_000)
    other = other[other.passage.isin(other.passage.drop_duplicates().head(n))]
    other["kl_ld"] -= ahead * (other.continuation == "true") * (other.presentation > 0)
    return pd.concat([table, other.assign(passage=other.passage + 1_000)])


def test_passages_from_elsewhere_stand_beside_the_null_as_a_kind():
    found = own_words.savings(elsewhere(planted(10.0))).set_index("kind")
    assert found.verdict.to_dict() == {"forgotten": "found", "elsewhere 0": "not established"}
    assert found.estimate["elsewhere 0"] == pytest.approx(0.0, abs=1e-9)
    ahead = own_words.savings(elsewhere(planted(10.0), ahead=9.0)).set_index("kind")
    assert ahead.verdict["elsewhere 0"] == "found"
    assert ahead.estimate["elsewhere 0"] == pytest.approx(9.0)


def test_few_passages_have_no_verdict():
    assert own_words.savings(planted(10.0, passages=12)).verdict.tolist() == ["n < 16: no verdict"]


def test_without_two_of_a_null_in_a_block_there_is_no_verdict():
    table = planted(10.0)
    passages = own_words.saved(table)
    single = passages[passages.presentations == 0].drop_duplicates("block")["index"]
    few = table[(table.presentations > 0) | table.passage.isin(single)]
    (line,) = own_words.savings(few).to_dict("records")
    assert np.isnan(line["aa"]) and line["low"] > 0 and line["verdict"] == "no A/A: no verdict"
    told = own_words.told_checks(*(own_words.savings(few, value=value) for value in ("tokens", "nats")))
    assert told["A/A"].tolist() == ["cannot be asked"]


def test_one_block_of_all_has_an_aa():
    line = own_words.savings(planted(10.0, seed=2).assign(block=0)).iloc[0]
    assert line.aa_low < 0 < line.aa_high and line.verdict == "found"


def test_null_that_is_none_leaves_no_verdict():
    """Half of the twins are ahead: the half that chance takes first."""
    table = planted(10.0)
    passages = own_words.saved(table)
    twins = passages[passages.presentations == 0]
    half = twins.sample(frac=1, random_state=0).groupby("block").cumcount().reindex(twins.index) % 2 == 0
    ahead = table.passage.isin(twins["index"][half]) & (table.continuation == "true") & (table.presentation > 0)
    table["kl_ld"] -= 15.0 * ahead
    line = own_words.savings(table).iloc[0]
    assert line.aa_low > 0 and line.verdict == "A/A excludes 0: no verdict"


def test_passages_without_a_null_in_their_block_count_nowhere():
    table = planted(10.0)
    blocks = own_words.saved(table)
    lone = blocks.block.unique()[0]
    some = table[(table.presentations > 0) | (table.block != lone)]
    line, passages = own_words.savings(some).iloc[0], own_words.saved(some)
    own = passages[(passages.presentations > 0) & (passages.block != lone)]
    assert line.n == len(own) < 32
    assert line.beside == pytest.approx(own.tokens.mean()) and line.true == pytest.approx(own.true.mean())
    assert line.estimate == pytest.approx(line.beside - line.of_null)


def test_organisms_are_told_apart():
    """Passages and blocks have the same numbers in both."""
    one, two = planted(10.0, seed=1).assign(organism="one"), planted(10.0, seed=2).assign(organism="two")
    pooled = own_words.savings(pd.concat([one, two])).iloc[0]
    each = [own_words.savings(table).iloc[0] for table in (one, two)]
    assert pooled.n == sum(line.n for line in each)
    assert pooled.estimate == pytest.approx(np.mean([line.estimate for line in each]))


@pytest.mark.parametrize("gone", ["spread 0", "q1 64"])
def test_tables_of_one_side_are_refused_by_what_they_hold(gone):
    table = planted(10.0)
    with pytest.raises(ValueError, match=r"what is there has to be compared with what is not, .*; arms are "):
        own_words.savings(table[table.arm != gone])


def test_nulls_in_no_block_of_the_exposed_are_refused():
    table = planted(10.0)
    with pytest.raises(ValueError, match="no block holds passages of forgotten and of spread 0"):
        own_words.savings(table.assign(block=table.block + 100 * (table.presentations > 0)))


def test_curves_are_means_over_passages():
    table = planted(5.0)
    found = own_words.curves(table).set_index(["kind", "continuation", "presentation"])
    lines = table[(table.arm == "q1 64") & (table.continuation == "true") & (table.presentation == 3)]
    assert found.loc[("forgotten", "true", 3), "estimate"] == pytest.approx(lines.kl_ld.mean())
    assert found.n.unique().tolist() == [32, 64]
    twins = table[(table.arm == "spread 0") & (table.continuation == "alternative") & (table.presentation == 1)]
    assert found.loc[("never there", "alternative", 1), "estimate"] == pytest.approx(twins.kl_ld.mean())
    with pytest.raises(ValueError, match="make replicates"):
        own_words.curves()


def several(ahead: float = 0.0, n: int = 64, **tokens: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A line a kind, each of a simulation of its own, and passages from elsewhere: savings, and those of twins."""
    arms = {"hidden": "hidden 32", "erased": "erased 32", "forgotten": "q1 64", "once": "spread 1"}
    tables = [planted(saved, arm=arms[kind], passages=64, seed=3) for kind, saved in tokens.items()]
    tables[0] = elsewhere(tables[0], ahead, n)
    found, twins = (own_words.savings(*tables, value=value) for value in ("tokens", "true"))
    return found, twins


ALL = {"hidden": 12.0, "erased": 12.0, "forgotten": 12.0}


def test_answer_says_what_is_found_and_whether_the_control_serves():
    said = own_words.answer(*several(**ALL, once=0.0))
    assert said["found"].startswith("the hidden: 1") and said["found"].count("the ") == 3
    assert said["missed"].startswith("what was met once, at the end of training: ")
    assert (said["serves"], said["undecided"]) == ("it serves", "none")
    assert said["elsewhere"].startswith("0.0 (")
    assert said["null"].endswith("(*spread 0*)")


def test_control_does_not_serve_if_a_memory_is_missed_or_one_is_found_where_none_is():
    assert own_words.answer(*several(**ALL | {"forgotten": 0.0}))["serves"] == "it does not serve"
    assert own_words.answer(*several(ahead=9.0, **ALL))["serves"] == "it does not serve"


def test_kinds_that_twins_alone_show_are_named():
    found, twins = several(**ALL, once=0.0)
    assert own_words.answer(found, twins)["twins"] == "none"
    twins.loc[twins.kind == "once", ["estimate", "low", "high"]] = 5.0, 2.0, 8.0
    assert own_words.answer(found, twins)["twins"] == "what was met once, at the end of training: 5.0 (2.0 to 8.0)"


def test_without_a_verdict_on_a_kind_nothing_is_said_of_the_control():
    said = own_words.answer(*several(n=12, **ALL))
    assert said["serves"] == "it cannot be said to serve"
    found, twins = several(**ALL)
    found["verdict"] = found.verdict.where(found.kind != "erased", "A/A excludes 0: no verdict")
    said = own_words.answer(found, twins)
    assert said["undecided"].startswith("the erased: ") and said["missed"] == "none"


def test_answer_is_refused_where_a_kind_was_not_taught():
    with pytest.raises(ValueError, match="no erased and no forgotten passages were taught: make replicates"):
        own_words.answer(*several(hidden=12.0))
    with pytest.raises(ValueError, match="nothing was taught beside the model's own words"):
        own_words.answer(pd.DataFrame(), pd.DataFrame())


def test_readme_says_what_was_found_in_organisms():
    readme = " ".join((measured.FOLDER.parents[1] / "README.md").read_text().split())
    found, twins = (
        own_words.savings(*measured.measured(), value=value).drop_duplicates("kind").set_index("kind")
        for value in ("tokens", "true")
    )
    kinds = ["hidden", "erased", "forgotten", "once"]
    told = {kind: Interval(*found.loc[kind, [*Interval._fields]]).brief(1) for kind in found.index}
    hidden, erased, forgotten = (told[kind] for kind in kinds[:3])
    once = Interval(*found.loc["once", [*Interval._fields]]).brief(2)
    beside = Interval(*twins.loc["half learnt", [*Interval._fields]])
    first, second, third, fourth = (found.n[kind] for kind in kinds)
    assert set(found.verdict[kinds]) == {"found"} and beside.low > 0
    for said in (
        f"{hidden} tokens of the hidden, {erased} of the erased, {forgotten} of the forgotten, and {once} of what was",
        f"(n = {first}, {second}, {third} and {fourth}); of passages that are not there, from other files, "
        f"{told['elsewhere 0']}. The half learnt it does not find, {told['half learnt']}, where twins do, "
        f"{beside.brief(1)}.",
    ):
        assert said in readme


def test_tables_to_read_hold_both_comparisons_by_kind_and_not_by_place():
    tables = elsewhere(planted(10.0))
    found, twins, nats = (own_words.savings(tables, value=value) for value in ("tokens", "true", "nats"))
    line = own_words.told(found).reset_index().to_dict("records")[0]
    assert line["beyond the null"].startswith(f"{found.estimate[0]:.1f} (")
    assert line["beside own words"].startswith(f"{found.beside[0]:.1f} (")
    assert (line["n"], line["n null"], line["verdict"]) == (32, 64, "found")
    checks = own_words.told_checks(found, nats.iloc[::-1]).loc[("forgotten", "spread 0")]
    levels = own_words.told_levels(found, twins.iloc[::-1]).loc[("forgotten", "spread 0")]
    assert levels["beside twins"].startswith(f"{twins.estimate[0]:.1f} (")
    assert checks["nats"].startswith(f"{nats.estimate[0]:.2f} (")
    passages = own_words.saved(tables)
    own = passages[passages.presentations > 0]
    assert levels["kl-LD before"] == round(own.kl_ld.mean(), 1)
    assert levels["of own words"] == round(own.kl_ld_alternative.mean(), 1)
    assert levels["true text"] == round(own.true.mean(), 1)
    assert levels["own words"] == round(own.alternative.mean(), 1)
