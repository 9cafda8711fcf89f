"""What a scan says, on tables whose truth is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lmmem.analysis.runs import LEAST, runs
from lmmem.analysis.scan import (
    BLOCK,
    beyond_chance,
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


def test_text_without_memory_is_found_as_often_as_the_level_says():
    rng = np.random.default_rng(0)
    wrong = [found(windows_of(150, rng), windows_of(256, rng), chosen=True).any() for _ in range(400)]
    assert np.mean(wrong) < 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)
    losses = [pd.DataFrame({"cross_entropy": np.exp(rng.normal(1, 0.3, 286))}) for _ in range(800)]
    apart = [beyond_chance(one[:30], one[30:]).any() for one in losses]
    assert 0.02 < np.mean(apart) < 0.08  # of windows that do not overlap the level is met


def test_planted_memory_is_found_where_it_is():
    rng = np.random.default_rng(1)
    windows, control = windows_of(200, rng), windows_of(256, rng)
    windows.loc[[40, 41], "cross_entropy"] = 0.3
    windows.loc[120, "recited"] = 32
    assert found(windows, control, chosen=True)[lambda hit: hit].index.tolist() == [40, 41, 120]


def test_control_of_another_kind_leaves_words_alone():
    rng = np.random.default_rng(2)
    windows, control = windows_of(200, rng, mean=0.2), windows_of(256, rng, mean=1.0)
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


@pytest.mark.slow
def test_verdict_is_right_as_often_as_its_level_says():
    rng = np.random.default_rng(5)
    said = [verdict(windows_of(700, rng), windows_of(700, rng), chosen=True) for _ in range(60)]
    assert sum(one.startswith("known better") for one in said) <= 7  # 3 expected; more than 7 in one of 100
    known = windows_of(700, rng, mean=0.7)
    assert verdict(known, windows_of(700, rng), chosen=True).startswith("known better than the control: it finds it")
    recited = windows_of(700, rng).assign(recited=5)
    assert verdict(recited, windows_of(700, rng), chosen=True).startswith("known better than the control: it recites")


def test_too_little_text_has_no_verdict_and_says_how_much_is_needed():
    rng = np.random.default_rng(6)
    few, many = windows_of(100, rng), windows_of(700, rng)
    needed = f"{(16 - 4) * BLOCK:,} tokens more"
    assert verdict(few, many, chosen=True) == (
        f"no verdict: windows of the text begin in 4 blocks of {BLOCK} tokens, 16 are needed, so {needed}"
    )
    assert verdict(many, few, chosen=True).startswith("no verdict: windows of the control begin in 4 blocks")
    with pytest.raises(ValueError, match="the control has 15 windows of never-seen text: give text of 16 or more"):
        found(many, many[:15], chosen=True)


def test_summary_says_what_the_tables_hold():
    rng = np.random.default_rng(7)
    windows, control = windows_of(700, rng), windows_of(700, rng)
    windows["recited"] = 0
    windows.loc[10, ["recited", "kl_ld"]] = 64, 0
    changed = pd.DataFrame({"token": [0, 300, 600, 900], "prompts": 0.5, "words": 1.0})
    changed = changed.assign(windows="others", text=0)
    scan = SimpleNamespace(
        windows=windows, control=control, changed=changed, of="what it is", chosen=True, left_out=3, seed=0
    )
    told = summary(scan)
    longest = "The longest run has 64 tokens (text 0, token 112, character 240); of the control "
    assert told["longest"].startswith(longest)
    assert told["found"] == "Found are 1 of 700 windows."
    assert "of the control (what it is)" in told["words"]
    assert "raise the loss by 0.50 (0.50 to 0.50) in others" in told["changed"]
    assert told["decoded"].startswith("Of 1 windows that came near")
    assert told["left out"].startswith("Of the control 3 windows share a run of 16 tokens")
    with pytest.raises(ValueError, match="recited"):
        summary(SimpleNamespace(**vars(scan) | {"windows": windows.drop(columns="recited")}))
