"""What each section tells, on simulated measurements whose truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lmmem.analysis import contrasts, sections

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
    return table[table.presentations > 0].assign(repeats=lambda t: t.presentations)


def test_repetition_finds_slopes_and_thresholds():
    found = sections.repetition(doses(), natural(), TOP)
    assert found["slope"].low < -8 < found["slope"].high
    assert found["loss"].estimate == pytest.approx(-0.5, abs=0.05)
    assert found["natural_slope"].low < -8 < found["natural_slope"].high
    assert (found["trace"], found["recalled"]) == ("from 4 presentations on", "from 64 presentations on")
    assert found["once"].low < 0 < found["once"].high
    assert (found["best"], found["worse"], found["fewest"]) == ("log-linear", 0.0, 1)
    assert (found["n"], found["n_exposed"], found["n_natural"]) == (300, 240, 240)


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


def tried(effect: dict[str, float], draws: int = 30, blocks: int = 30) -> pd.DataFrame:
    """The best of draws on sequences that noise brings closer by an effect, and by luck."""
    rng = np.random.default_rng(3)
    lines = [(f"{arm}{block}", arm, *arm.split(), block, 60) for arm in effect for block in range(blocks)]
    before = pd.DataFrame(lines, columns=["index", "arm", "group", "presentations", "block", "kl_ld"])
    before = before.assign(index=range(len(before)), presentations=before.presentations.astype(int))
    every = before[["index", "arm"]].merge(pd.DataFrame({"draw": range(draws)}), how="cross")
    luck = rng.normal(0, 2, len(every))
    return contrasts.gains(before, every.assign(kl_ld=60 - every.arm.map(effect) + luck))


def test_perturbation_tells_memory_from_luck():
    best = tried({"spread 0": 0.0, "spread 1": 0.0, "spread 16": 6.0, "q2 64": 3.0})
    found = sections.perturbation(best[best.N == 30])
    assert found["fewest"] == 1
    assert found["once"].low < 0 < found["once"].high
    assert found["once_alone"].low > 2  # what luck alone would have shown
    assert found["side"].startswith("an interval that includes 0")
    assert (found["top_arm"], round(found["top"].estimate)) == ("spread 16", 6)
    assert "above 0 for q2 64, spread 16, and includes 0 for spread 1" in found["verdict"]
    assert (found["draws"], found["n"], found["n_arm"]) == (30, 120, 30)


def test_perturbation_of_windows_alone_is_told_too():
    best = tried({"spread 0": 0.0, "q2 64": 3.0})
    assert sections.perturbation(best[best.N == 30])["fewest"] == 64


def test_fading_tells_what_is_left_at_the_end():
    rng = np.random.default_rng(5)
    lines = [
        (step, m, f"window {m}", "window", block, distance + rng.normal(), loss + rng.normal(0, 0.1))
        for step, m, distance, loss in (
            (0, 0, 60, 4),
            (0, 64, 60, 4),
            (50, 0, 60, 4),
            (50, 64, 1, 1),
            (90, 0, 60, 4),
            (90, 64, 58, 3),
        )
        for block in range(30)
    ]
    columns = ["step", "presentations", "arm", "group", "block", "kl_ld", "cross_entropy"]
    found = sections.fading(pd.DataFrame(lines, columns=columns), (30, 60))
    assert (found["inside"], found["end"], found["most"], found["opens"], found["closes"]) == (50, 90, 64, 30, 60)
    assert found["kl_inside"] == pytest.approx(1, abs=1)
    assert found["kl_end"] == pytest.approx(58, abs=1)
    assert found["kl_never"] == pytest.approx(60, abs=1)
    assert found["ahead"].estimate == pytest.approx(2, abs=1)
    assert found["ahead_loss"].estimate == pytest.approx(1, abs=0.1)


def test_fading_of_a_group_without_unexposed_is_beside_those_of_another():
    lines = [
        (step, m, f"{group} {m}", group, block, distance + block % 2, loss)
        for step, m, group, distance, loss in (
            *((50, 64, "window", 1, 1), (90, 64, "window", 58, 3)),
            *((50, 0, "spread", 60, 4), (90, 0, "spread", 60, 4), (90, 16, "spread", 9, 1)),
        )
        for block in range(4)
    ]
    columns = ["step", "presentations", "arm", "group", "block", "kl_ld", "cross_entropy"]
    table = pd.DataFrame(lines, columns=columns)
    found = sections.fading(contrasts.with_twins(table, "window"), (30, 60))
    assert (found["most"], found["kl_never"], found["ahead"].estimate, found["ahead_loss"].estimate) == (64, 60.5, 2, 1)
