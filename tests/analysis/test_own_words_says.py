"""What is saved beside a model's own words, on relearnings whose truth was planted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lmmem.analysis import own_words


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
    assert (line.kind, line.null, line.verdict, line.n, line.sought) == ("forgotten", "spread 0", "found", 32, 32)


def test_twins_that_chance_chose_are_compared_by_the_true_continuations_alone():
    table = planted(10.0)
    line = own_words.savings(table, value="true").iloc[0]
    passages = own_words.saved(table)
    there = passages.presentations > 0
    twins = passages[~there].groupby("block").true.mean()
    expected = (passages[there].true - passages[there].block.map(twins)).mean()
    assert line.estimate == pytest.approx(expected)


def test_each_kind_stands_beside_each_of_its_nulls():
    hidden = planted(10.0, arm="hidden 32")
    treated = hidden[hidden.arm == "spread 0"].assign(arm="hidden 0")
    treated["passage"] += 1_000
    table = pd.concat([hidden.replace({"arm": {"spread 0": "untouched 0"}}), treated])
    found = own_words.savings(table)
    assert found[["kind", "null"]].values.tolist() == [["hidden", "hidden 0"], ["hidden", "untouched 0"]]


def test_passages_from_elsewhere_stand_beside_the_null_as_a_kind():
    table = planted(10.0)
    other = table[table.arm == "spread 0"].assign(arm="elsewhere 0")
    other["passage"] += 1_000
    other["file"] = other.file + 1_000
    found = own_words.savings(pd.concat([table, other])).set_index("kind")
    assert found.verdict.to_dict() == {"forgotten": "found", "elsewhere 0": "not established"}
    assert found.estimate["elsewhere 0"] == pytest.approx(0.0, abs=1e-9)


def test_few_passages_have_no_verdict_and_neither_has_a_null_that_is_none():
    assert own_words.savings(planted(10.0, passages=12)).verdict.tolist() == ["n < 16: no verdict"]
    table = planted(10.0)
    found = own_words.savings(table).iloc[0]
    apart = own_words.saved(table)
    twins = apart[apart.presentations == 0]
    assert found.aa_low < 0 < found.aa_high and len(twins) == 64
    line = own_words._verdict(own_words.Interval(9.0, 8.0, 10.0, 32), own_words.Interval(3.0, 1.0, 5.0, 32))
    assert line == "A/A excludes 0: no verdict"


def test_passages_sought_are_counted_over_arms_and_organisms():
    table = planted(10.0)
    second = table.assign(arm=table.arm.replace("q1 64", "q2 64"), organism="two", sought=40)
    second["passage"] += 1_000
    found = own_words.savings(pd.concat([table.assign(organism="one"), second]))
    assert found.sought.tolist() == [32 + 40]


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


def several(**tokens: float) -> pd.DataFrame:
    """A line a kind, each of a simulation of its own; and passages from elsewhere."""
    arms = {"hidden": "hidden 32", "erased": "erased 32", "forgotten": "q1 64", "once": "spread 1"}
    tables = [planted(saved, arm=arms[kind], passages=64, seed=3) for kind, saved in tokens.items()]
    other = tables[0][tables[0].arm == "spread 0"].assign(arm="elsewhere 0")
    other["passage"] += 1_000
    return own_words.savings(pd.concat([tables[0], other]), *tables[1:])


def test_answer_says_what_is_found_and_whether_the_control_serves():
    said = own_words.answer(several(hidden=12.0, erased=12.0, forgotten=12.0, once=0.0))
    assert said["found"].startswith("the hidden by 1") and said["found"].count(" by ") == 3
    assert said["missed"].startswith("what was met once, at the end of training (")
    assert said["serves"] == "it serves"
    assert said["elsewhere"].startswith("0.0 (")
    low, high = map(float, said["null"].split(" to "))
    assert low <= high
    less = own_words.answer(several(hidden=12.0, erased=12.0, forgotten=0.0))
    assert less["serves"] == "it does not serve"


def test_answer_is_refused_where_a_kind_was_not_taught():
    with pytest.raises(ValueError, match="no erased and no forgotten passages were taught: make replicates"):
        own_words.answer(several(hidden=12.0))
    with pytest.raises(ValueError, match="nothing was taught beside the model's own words"):
        own_words.answer(pd.DataFrame())


def test_table_to_read_holds_both_comparisons():
    table = planted(10.0)
    found, twins = own_words.savings(table), own_words.savings(table, value="true")
    (line,) = own_words.told(found, twins).reset_index().to_dict("records")
    assert line["beyond the null"].startswith(f"{found.estimate[0]:.1f} (")
    assert line["beside twins"].startswith(f"{twins.estimate[0]:.1f} (")
    assert line["beside own words"].startswith(f"{found.beside[0]:.1f} (")
    assert (line["n"], line["of"], line["verdict"]) == (32, 32, "found")
