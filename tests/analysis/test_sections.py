"""What each section tells, on simulated measurements whose truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lmmem.analysis import sections

TOP = 64


def doses(blocks: int = 60, seed: int = 0, per_z: float = 0.0) -> pd.DataFrame:
    """kl-LD falls by 8 tokens and the loss by 0.5 nats with each doubling of presentations; 2 and more are seen."""
    rng = np.random.default_rng(seed)
    lines = []
    for block in range(blocks):
        for m in (0, 1, 4, 16, 64):
            z, steps = rng.uniform(0.3, 0.8), np.log2(max(m, 1))
            distance = TOP - 2 - 8 * steps + per_z * z + rng.normal(0, 2)
            loss = 4 - 0.5 * (m > 1) * steps + 0.1 * per_z * z + rng.normal(0, 0.2)
            lines.append((m, "spread", f"spread {m}", block, z, np.clip(round(distance), 0, TOP), loss))
    columns = ["presentations", "group", "arm", "block", "z_complexity", "kl_ld", "cross_entropy"]
    table = pd.DataFrame(lines, columns=columns)
    return table.assign(index=range(len(table)), memorised=table.kl_ld <= 16)


def natural() -> pd.DataFrame:
    table = doses(seed=1)
    return table[table.presentations > 0].assign(repeats=lambda t: t.presentations, text=range(240))


def test_repetition_finds_slopes_and_thresholds():
    found = sections.repetition(doses(), natural())
    assert found["slope"].low < -8 < found["slope"].high
    assert found["loss"].estimate == pytest.approx(-0.5, abs=0.05)
    assert found["natural_slope"].low < -8 < found["natural_slope"].high
    assert (found["trace"], found["recalled"]) == ("from 4 presentations on", "from 64 presentations on")
    assert found["once"].low < 0 < found["once"].high
    assert (found["n"], found["fewest"], found["n_natural"], found["n_texts"]) == (300, 1, 240, 240)


def test_trace_is_told_of_arms_of_sixteen_and_more():
    table = doses()
    some = table[table.presentations.isin([0, 1]) | ((table.presentations == 64) & (table.block < 8))]
    assert sections.repetition(some, natural())["trace"] == "in no arm"
    some = table[table.presentations.isin([0, 1]) | ((table.presentations == 64) & (table.block < 16))]
    assert sections.repetition(some, natural())["trace"] == "from 64 presentations on"
    few = sections.repetition(table[table.block < 8], natural())["trace"]
    assert few == "in no arm of 16 sequences or more, as there is none"


def test_natural_passages_of_one_text_are_one_unit():
    of_texts = natural().assign(text=lambda t: t.text // 4)
    found = sections.complexity(doses(), of_texts)
    assert found["natural_z"].n == of_texts.text.nunique() == 60


def test_law_tells_whether_each_doubling_adds_as_much():
    found = sections.law(doses())
    per_doubling = 0.5 * 64 / np.log(2)
    assert found["first"].low < per_doubling < found["first"].high
    assert (found["first_step"], found["last_step"]) == ("1 to 4", "16 to 64")
    assert "not refuted" in found["holds"]
    bent = doses().assign(cross_entropy=lambda t: t.cross_entropy - (t.presentations == 64))
    assert "not logarithmic" in sections.law(bent)["holds"]
    table = sections.by_doubling(doses())
    assert list(table.columns) == ["presentations", "bits", "tokens closer", "n"]
    assert list(table.n) == [60] * 3


@pytest.mark.parametrize(
    ("per_z", "side"), [(30.0, "above 0: complex text is reproduced less well"), (0.0, "includes 0")]
)
def test_complexity_finds_its_slope_or_none(per_z, side):
    table = doses(per_z=per_z)
    found = sections.complexity(table[table.presentations != 1], natural())
    assert side in found["side"]
    assert found["z_loss"].low < 0.1 * per_z < found["z_loss"].high
    assert found["guess_loss"].low < 0.1 * per_z < found["guess_loss"].high
    assert 0.3 <= found["low"] < found["high"] <= 0.8


def followed(states: list[list[float]]) -> pd.DataFrame:
    """Passages met in the first quarter, a line each checkpoint, and as many that were never met."""
    lines = [
        (number + 100 * twin, ("q1 64", "spread 0")[twin], 60 * i, 60 * twin if twin else value)
        for twin in (0, 1)
        for number, values in enumerate(states)
        for i, value in enumerate(values)
    ]
    table = pd.DataFrame(lines, columns=["index", "arm", "step", "kl_ld"])
    return table.assign(block=table["index"] % 100, file="f", last_step=np.where(table.arm == "q1 64", 0.0, np.nan))


def test_chain_counts_the_states_that_follow_one_another():
    table = sections.chain(followed([[0, 0, 9, 60], [0, 9, 0, 60], [0, 0, 0, 0]]), ["q1 64"], "spread 0")
    assert table.index.tolist() == ["memorised", "partial"]
    assert table.columns.tolist() == ["memorised", "partial", "absent", "of"]
    assert table["of"].tolist() == [7, 2]
    assert table.loc["memorised", "memorised"].startswith("0.57 (0.18 to 0.90")
    assert [cell[:4] for cell in table.loc["partial", ["memorised", "partial", "absent"]]] == ["0.50", "0.00", "0.50"]


def test_chain_of_what_is_never_recited_is_refused():
    with pytest.raises(ValueError, match="0 of 8"):
        sections.chain(followed([[9, 9, 60, 60], [60, 60, 60, 9]]), ["q1 64"], "spread 0")
