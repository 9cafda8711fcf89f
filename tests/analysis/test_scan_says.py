"""What a scan says, on tables whose truth is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from lmmem.analysis.randomisation import proportion
from lmmem.analysis.runs import COPIED, LEAST, longest_run, repeat_themselves, runs
from lmmem.analysis.scan import (
    RULE,
    beyond_chance,
    control_texts_needed,
    fits,
    found,
    recited_share,
    summary,
    verdict,
)


def windows_of(n: int, rng: np.random.Generator, mean: float = 1.0, text: int = 0, stride: int = 8) -> pd.DataFrame:
    """Windows of text that is not remembered: neighbours overlap, and their losses are alike."""
    noise = rng.normal(size=n + 11)
    alike = np.array([noise[i : i + 12].mean() for i in range(n)]) * np.sqrt(12)
    token = np.arange(n) * stride
    return pd.DataFrame(
        {
            **{"index": range(n), "text": text, "token": token, "begin": 3 * token, "end": 3 * token + 190},
            **{"recited": rng.geometric(0.4, n) - 1, "cross_entropy": np.exp(mean + 0.3 * alike)},
            **{
                "ends": [list(range(3 * t + 3, 3 * t + 195, 3)) for t in token],
                "kl_ld": pd.array([pd.NA] * n, "Int64"),
            },
        }
    )


def texts_of(n: int, rng: np.random.Generator, *, windows: int = 40, between: float = 0.1, known: float = 0.0):
    """Texts that differ, as those of one kind do: windows every 64 tokens, whose losses lie lower by `known`."""
    loss = rng.normal(1 - known, between, (n, 1)) + rng.normal(0, 0.2, (n, windows))
    of = {"index": range(n * windows), "text": np.repeat(range(n), windows), "token": 64 * np.tile(range(windows), n)}
    return pd.DataFrame(of | {"recited": rng.geometric(0.4, n * windows) - 1, "cross_entropy": np.exp(loss.ravel())})


def says_known(windows: pd.DataFrame, control: pd.DataFrame, seed: int = 0) -> bool:
    return verdict(windows, control, chosen=True, seed=seed).startswith("known better")


@pytest.mark.slow
def test_text_without_memory_is_found_as_often_as_the_level_says():
    rng = np.random.default_rng(0)
    wrong = [found(windows_of(150, rng), windows_of(512, rng), chosen=True).any() for _ in range(400)]
    assert np.mean(wrong) < 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)
    losses = [pd.DataFrame({"cross_entropy": np.exp(rng.normal(1, 0.3, 286))}) for _ in range(800)]
    losses = [one.assign(text=0, token=256 * np.arange(286)) for one in losses]
    apart = [beyond_chance(one[:30], one[30:]).any() for one in losses]
    assert 0.02 < np.mean(apart) < 0.08  # of windows that do not overlap the level is met


def test_control_of_fewer_than_16_blocks_says_nothing_of_the_loss():
    rng = np.random.default_rng(8)
    wrong = [found(windows_of(150, rng), windows_of(20, rng), chosen=True).any() for _ in range(40)]
    assert not any(wrong)  # windows of one place are alike: by these 20 a third would have been found
    windows, rows = windows_of(150, rng), texts_of(20, rng, windows=1)
    windows.loc[40, "cross_entropy"] = 0.01
    assert found(windows, rows, chosen=True).sum() == 1  # rows of several texts are blocks of their own
    with pytest.raises(ValueError, match="the control has 3 blocks of 256 tokens: give 16 or more"):
        beyond_chance(windows, windows_of(80, rng))


def test_text_that_repeats_itself_is_not_found():
    rng = np.random.default_rng(9)
    windows = windows_of(200, rng).assign(copied=2, recited_copied=0)
    control = windows_of(600, rng).assign(copied=0, recited_copied=0)
    windows.loc[50:60, ["recited", "copied", "recited_copied", "cross_entropy"]] = 64, 60, 60, 0.01
    windows.loc[70:72, ["recited", "copied", "recited_copied"]] = 40, 20, 20  # asterisks, and then words
    windows.loc[90, ["recited", "copied", "recited_copied"]] = 40, 8, 8
    assert found(windows, control, chosen=True)[lambda hit: hit].index.tolist() == [90]
    assert repeat_themselves(windows).sum() == 14
    assert runs(windows).tokens.tolist() == [40] and longest_run(windows) < 64
    assert recited_share(windows).estimate == 40 / (199 * 8 + 64)
    told = summary(scanned(windows, control))
    assert told["found"].endswith(" Set aside, as they repeat themselves, are 14 of them and 0 of the control's 600.")
    assert f"end runs of {COPIED} that stand before" in RULE and RULE in told["rule"]
    nothing = windows.assign(copied=64)
    assert verdict(nothing, control, chosen=False).startswith("no verdict: nothing of the text is left")
    assert not found(nothing, control, chosen=False).any()


def test_planted_memory_is_found_where_it_is():
    rng = np.random.default_rng(1)
    windows, control = windows_of(200, rng), windows_of(512, rng)
    windows.loc[[40, 41], "cross_entropy"] = 0.3
    windows.loc[120, "recited"] = 32
    assert found(windows, control, chosen=True)[lambda hit: hit].index.tolist() == [40, 41, 120]


def test_control_of_another_kind_leaves_words_alone():
    rng = np.random.default_rng(2)
    windows, control = windows_of(200, rng, mean=0.2), windows_of(512, rng, mean=1.0)
    windows.loc[5, "recited"] = 40
    assert not fits(windows, control)
    assert found(windows, control, chosen=False)[lambda hit: hit].index.tolist() == [5]
    assert "of another kind; give a control of its kind" in verdict(windows, control, chosen=False)
    assert fits(control, windows)  # a text that is less likely than the control is no reason to refuse


def test_runs_are_the_maximal_spans_that_windows_recite():
    rng = np.random.default_rng(3)
    windows = pd.concat([windows_of(120, rng, text=t) for t in (0, 1)], ignore_index=True)
    windows["recited"] = np.where(rng.random(240) < 0.15, rng.integers(LEAST, 65, 240), rng.integers(0, LEAST, 240))
    expected = []
    for text, here in windows.groupby("text"):
        said = np.zeros(120 * 8 + 200, dtype=bool)
        for line in here.itertuples():
            if line.recited >= LEAST:
                said[line.token + 32 : line.token + 32 + line.recited] = True
        edges = np.flatnonzero(np.diff(np.r_[0, said.astype(int), 0]))
        expected += [(text, first, last - first) for first, last in zip(edges[::2], edges[1::2], strict=True)]
    table = runs(windows)
    assert sorted(map(tuple, table[["text", "token", "tokens"]].values.tolist())) == sorted(expected)
    assert table.tokens.is_monotonic_decreasing
    np.testing.assert_array_equal(table.begin, 3 * (table.token - 32))  # of the window's first recited token
    np.testing.assert_array_equal(table.end - table.begin, 3 * table.tokens)
    covered = sum(length for _, _, length in expected)
    assert recited_share(windows).estimate == covered / (2 * (119 * 8 + 64))


def test_share_has_an_interval_that_covers():
    rng, covers = np.random.default_rng(4), 0
    for seed in range(100):
        recited = np.where(rng.random(240) < 0.3, 64, 0)
        windows = pd.DataFrame({"text": 0, "token": np.arange(240) * 64, "recited": recited})
        share = recited_share(windows, seed=seed)
        covers += share.low <= 0.3 <= share.high
    assert 88 <= covers <= 100


def test_share_of_blocks_that_are_all_alike_has_an_exact_interval():
    none = pd.DataFrame({"text": 0, "token": np.arange(160) * 64, "recited": 0})
    blocks = 160 // 4 + 1  # the first continuation begins at token 32
    assert recited_share(none) == proportion(0, blocks)
    assert recited_share(none.assign(recited=64)) == proportion(blocks, blocks)
    few = recited_share(none[:50])
    assert few.estimate == 0 and np.isnan(few.low) and np.isnan(few.high)


@pytest.mark.slow
def test_share_has_an_interval_that_covers_where_little_is_recited():
    rng, covers = np.random.default_rng(10), 0
    for seed in range(100):
        recited = np.repeat(np.where(rng.random(40) < 0.05, 64, 0), 4)
        share = recited_share(
            pd.DataFrame({"text": 0, "token": 64 * np.arange(160) - 32, "recited": recited})[1:], seed=seed
        )
        covers += share.low <= 0.05 <= share.high
    assert covers >= 88  # of one sample in eight nothing is recited


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m"), [(1, 39), (2, 8), (4, 4), (3, 5), (8, 4)])
def test_verdict_is_right_as_often_as_its_level_says_where_texts_differ(n, m):
    rng = np.random.default_rng([n, m])
    for between, windows in ((0.1, (40, 40)), (0.3, (40, 40)), (0.05, (2, 60)), (0.05, (60, 2))):
        said = [
            says_known(
                texts_of(n, rng, windows=windows[0], between=between),
                texts_of(m, rng, windows=windows[1], between=between),
                seed,
            )
            for seed in range(60)
        ]
        assert sum(said) <= stats.binom.ppf(0.999, 60, 0.05), (between, windows)


def test_verdict_names_what_is_planted():
    rng = np.random.default_rng(5)
    control = texts_of(39, rng)
    known = verdict(texts_of(1, rng, known=0.8), control, chosen=True)
    assert known == "known better than the control: it finds it likelier (p = 0.025)"
    recited = verdict(texts_of(1, rng).assign(recited=5), control, chosen=True)
    assert recited.startswith("known better than the control: it recites more of it (p = 0.025)")
    both = verdict(texts_of(4, rng, known=0.8).assign(recited=5), texts_of(4, rng), chosen=True)
    assert both == (
        "known better than the control: it recites more of it (p = 0.014) and finds it likelier (p = 0.014)"
    )
    none = verdict(texts_of(4, rng), texts_of(4, rng), chosen=True)
    assert none.startswith("not shown to be known better than the control (p = ") and "4 texts beside 4" in none
    copied = texts_of(4, rng, known=0.8).assign(recited=64, copied=64, recited_copied=64)
    half = pd.concat([copied, texts_of(4, rng).assign(copied=0, recited_copied=0, token=64 * 50)], ignore_index=True)
    assert not says_known(half, texts_of(4, rng))


@pytest.mark.slow
def test_verdict_has_power_where_memory_is_planted():
    rng = np.random.default_rng(11)
    for n, m in ((1, 60), (2, 12), (6, 6)):
        said = [says_known(texts_of(n, rng, known=0.5), texts_of(m, rng), seed) for seed in range(30)]
        assert sum(said) >= 27, (n, m)


def test_fewest_control_texts_are_those_whose_least_p_is_small_enough():
    for n in range(1, 9):
        m = control_texts_needed(n)
        assert special.comb(n + m, n) >= 40 > special.comb(n + m - 1, n)
    rng = np.random.default_rng(14)
    rule = summary(scanned(windows_of(20, rng), windows_of(20, rng)))["rule"]
    assert rule.endswith(" needs: 39 beside one text, 8 beside two, 5 beside three, 4 beside four.")


def test_too_few_texts_have_no_verdict_and_say_how_many_are_needed():
    rng = np.random.default_rng(6)
    one, other = texts_of(1, rng, between=0), texts_of(1, rng, between=0, known=0.4)
    assert verdict(other, one, chosen=True) == (
        f"no verdict: the loss lies {one.cross_entropy.mean() - other.cross_entropy.mean():.2f} nats per token below "
        "that of the control, and never-seen texts of one kind differ too; a verdict on 1 text needs 39 control texts, "
        "each a file or a line of a .jsonl, and there are 1"
    )
    control = texts_of(7, rng)
    apart = np.ptp(control.groupby("text").cross_entropy.mean())
    said = verdict(texts_of(2, rng, known=-1), control, chosen=True)
    assert " nats per token above that of the control" in said
    assert f"differ too; the texts of the control differ by up to {apart:.2f}; a verdict on 2 texts needs 8 " in said
    assert not verdict(texts_of(2, rng), texts_of(8, rng), chosen=True).startswith("no verdict")


def scanned(windows, control, *, left_out=0, twice=(0, 0), changed=True) -> SimpleNamespace:
    """A scan beside a control that was chosen."""
    places = [("others", 15), ("the likeliest of the control", 16)]
    rows = [{"windows": what, "text": 0, "token": 256 * block} for what, n in places for block in range(n) if changed]
    table = pd.DataFrame(rows, columns=["windows", "text", "token"]).assign(prompts=0.5, words=1.0)
    of = {"of": "what it is", "chosen": True, "left_out": left_out, "seed": 0, "twice": twice}
    return SimpleNamespace(windows=windows, control=control, changed=table, texts=[], **of)


def test_summary_says_what_the_tables_hold():
    rng = np.random.default_rng(7)
    windows, control = windows_of(700, rng), windows_of(700, rng)
    windows["recited"] = 0
    windows.loc[10, ["recited", "kl_ld"]] = 64, 0
    told = summary(scanned(windows, control, left_out=3, twice=(1, 2)))
    longest = "The longest run has 64 tokens (text 0, token 112, character 240); of the control "
    assert told["longest"].startswith(longest)
    assert told["found"] == "Found are 1 of 700 windows."
    assert "of the control (what it is)" in told["words"]
    assert "raise the loss by 0.50 in others, 0.50 (0.50 to 0.50) in the likeliest of the control (" in told["changed"]
    assert told["decoded"].startswith("Of 1 windows that came near")
    assert told["left out"].startswith("Of the control 3 windows share a run of 16 tokens")
    assert told["twice"] == "Given twice, and counted once: 1 of the texts and 2 of the control's."
    with pytest.raises(ValueError, match="recited"):
        summary(scanned(windows.drop(columns="recited"), control))


def test_shares_are_compared_where_each_token_is_asked_for_once():
    rng = np.random.default_rng(12)
    windows, control = windows_of(700, rng), texts_of(40, rng)
    windows["recited"] = rng.permutation(np.where(np.arange(700) < 35, 20, 0))
    asked_once = windows[windows.token % 64 == 0]
    words = summary(scanned(windows, control))["words"]
    assert f"Of the text, {recited_share(windows).estimate:.1%} (" in words
    assert f"Asked for each token once, it recites {recited_share(asked_once).estimate:.1%} (" in words
    assert recited_share(windows).estimate > 2 * recited_share(asked_once).estimate


def test_small_control_leaves_a_summary_by_words_alone():
    rng = np.random.default_rng(13)
    windows, control = windows_of(200, rng), windows_of(2, rng)
    windows.loc[5, "recited"] = 40
    told = summary(scanned(windows, control))
    reason = "as the control has 1 block of 256 tokens, and its losses need 16"
    assert told["found"] == f"Found are 1 of 200 windows, by their words alone, {reason}."
    assert told["verdict"].startswith("Verdict (level 5%): no verdict: the loss lies ")
    assert summary(scanned(windows, control, changed=False))["changed"].startswith("No window has another ")
