"""What was remembered, from tables whose truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lmmem.analysis.fine_tuning import ahead, answer, behind_prefix, beside_twins, gained
from lmmem.analysis.randomisation import _half
from lmmem.protocol import CONTINUATION

PLANTED = {0: 0.0, 1: 15.0, 4: 60.0, 16: 200.0}  # bits at the last step


def table(seed: int, blocks: int = 16, each: tuple[int, ...] = (0, 0, 1, 4, 16), noise: float = 20.0) -> pd.DataFrame:
    """Losses that fall in all, more in texts that are presented; half of it by step 10."""
    rng = np.random.default_rng(seed)
    n = blocks * len(each)
    texts = pd.DataFrame({"index": rng.permutation(n), "block": np.repeat(np.arange(blocks), len(each))})
    texts = texts.assign(presentations=np.tile(each, blocks), file=texts["index"], text=texts["index"])
    texts["arm"] = [f"spread {m}" for m in texts.presentations]
    start, drift = rng.normal(400, 60, n), rng.normal(50, noise, n)
    steps = []
    for step, share in ((0, 0.0), (10, 0.5), (20, 1.0)):
        bits = start - share * (drift + texts.presentations.map(PLANTED))
        recited = (texts.presentations == 16) & (share == 1)
        lines = texts.assign(step=step, cross_entropy=bits * np.log(2) / CONTINUATION)
        steps.append(lines.assign(kl_ld=np.where(recited, 0, rng.integers(58, 64, n))))
    return pd.concat(steps, ignore_index=True).sample(frac=1, random_state=seed)


def test_gain_is_that_since_the_first_step_whatever_the_order_of_lines():
    measured = table(0)
    found = gained(measured)
    assert found.index.equals(measured.index)
    start = measured[measured.step == 0].set_index("index")
    for line in found.sample(40, random_state=1).itertuples():
        before = start.loc[measured.loc[line.Index, "index"]]
        assert line.bits == pytest.approx((before.cross_entropy - line.cross_entropy) * CONTINUATION / np.log(2))
        assert line.tokens == before.kl_ld - line.kl_ld


@pytest.mark.slow
def test_planted_bits_are_found_within_their_intervals_as_often_as_they_say():
    covered = {arm: 0 for arm in ("spread 1", "spread 4", "spread 16", "A/A")}
    for seed in range(60):
        found = ahead(table(seed)).set_index("arm")
        for arm in covered:
            truth = PLANTED.get(int(arm[7:]) if arm != "A/A" else 0)
            covered[arm] += found.low[arm] <= truth <= found.high[arm]
    assert all(n >= 52 for n in covered.values()), covered
    assert sum(covered.values()) < 238, covered  # of 240, of which 228 are expected


def test_steps_are_told_apart_and_the_first_has_nothing_to_say():
    found = ahead(table(1, noise=1.0), by=["step"])
    assert found.step.unique().tolist() == [10, 20]
    estimate = found.set_index(["step", "arm"]).estimate
    assert estimate[10, "spread 16"] == pytest.approx(100, abs=2)
    assert estimate[20, "spread 16"] == pytest.approx(200, abs=2)


def test_one_text_held_out_a_block_leaves_out_twins_against_twins_and_the_power():
    measured = table(2, each=(0, 1, 4, 16))
    assert ahead(measured).arm.tolist() == ["spread 1", "spread 4", "spread 16"]
    with pytest.raises(ValueError, match=r"^each block has one text held out"):
        answer(measured)


def test_twins_that_differ_by_chance_are_no_arm_of_which_nothing_is_recited():
    measured = table(3, each=(0, 0, 1), noise=5.0)
    twins = measured[(measured.arm == "spread 0") & (measured.step == 20)]
    measured.loc[twins.index[_half(twins.block, 0)], "cross_entropy"] -= 1.0
    assert (ahead(measured).set_index("arm").verdict != "not established")["A/A"]
    assert answer(measured)["silent"] in ("no arm", "spread 1")


def test_answer_tells_the_most_and_the_least_presented():
    measured = table(3, noise=5.0)
    found = answer(measured)
    assert (found["most"], found["fewest"], found["step"], found["held_out"]) == ("16 times", "once", 20, 32)
    assert found["bits"].estimate == pytest.approx(200, abs=6)
    assert found["bits_fewest"].estimate == pytest.approx(15, abs=6)
    assert (found["recited"].estimate, found["recited"].n) == (1.0, 16)
    assert (found["recited_twins"].estimate, found["recited_twins"].n) == (0.0, 32)
    assert found["side"] == "an interval above 0"
    assert found["silent"] == "spread 1, spread 4"
    assert found["least"] == pytest.approx(4.4, abs=1)  # 5 bits, 16 beside 32


def test_table_counts_who_is_recited():
    found = beside_twins(table(4, noise=5.0))
    assert found.recited.to_dict() == {"spread 1": "0 of 16", "spread 4": "0 of 16", "spread 16": "16 of 16", "A/A": ""}
    assert found["bits are"].tolist()[:3] == ["above 0"] * 3
    assert 59 < float(found.tokens["spread 16"].split()[0]) < 62  # 0 beside 58 to 63


def test_step_alone_says_nothing_of_gain():
    measured = table(5)
    with pytest.raises(ValueError, match=r"^step 20 alone was measured"):
        ahead(measured[measured.step == 20])


def test_gain_since_a_step_by_which_texts_had_been_presented_is_refused():
    """As a watch measures first where a training goes on from a checkpoint."""
    measured = table(5).assign(presented=lambda lines: lines.presentations * (lines.step > 0))
    assert len(ahead(measured))
    with pytest.raises(
        ValueError, match=r"^step \d+ is the first that was measured, and \d+ texts had been presented by "
    ):
        ahead(measured[measured.step > 0])


def test_template_is_compared_text_by_text():
    behind = table(6)
    bare = behind.assign(
        cross_entropy=behind.cross_entropy + 10 * np.log(2) / CONTINUATION,
        kl_ld=behind.kl_ld + 3 * (behind.presentations == 16) * (behind["index"] % 2),
    )
    found = behind_prefix(behind, bare)
    odd = (behind["index"][(behind.presentations == 16) & (behind.step == 20)] % 2).mean()
    assert found["bits"].estimate == pytest.approx(10)
    assert found["tokens"].estimate == pytest.approx(3 * odd)
    assert found["recited"].estimate == 1.0
    assert found["recited_bare"].estimate == pytest.approx(1 - odd)
    with pytest.raises(ValueError, match="give the same texts in one order"):
        behind_prefix(behind, bare[bare["index"] > 3])
