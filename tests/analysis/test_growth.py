"""What each doubling adds: planted growth is found, and a logarithmic law is refuted as seldom as it says."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lmmem.analysis import growth

NUMBERS = (1, 2, 4, 8, 16, 32)
SETS = 300


def doses(law, rng, blocks=16, noise=1.0) -> pd.DataFrame:
    """A passage of each number in each block, with a level of the block's own; 0 presentations beside them."""
    lines = [(block, m, law(m) + level) for block, level in enumerate(rng.normal(0, 5, blocks)) for m in NUMBERS]
    table = pd.DataFrame(lines, columns=["block", "presentations", "bits"])
    table["bits"] += rng.normal(0, noise, len(table))
    return pd.concat([table, pd.DataFrame({"block": range(blocks), "presentations": 0, "bits": -99.0})])


def test_each_doubling_adds_what_was_planted_in_it():
    found = growth.by_doubling(doses(lambda m: min(m, 8), np.random.default_rng(0), noise=0.1), "bits")
    assert list(found.presentations) == ["1 to 2", "2 to 4", "4 to 8", "8 to 16", "16 to 32"]
    np.testing.assert_allclose(found.estimate, [1, 2, 4, 0, 0], atol=0.1)
    assert (found.n == 16).all()


def test_interval_is_students_over_blocks():
    table = doses(lambda m: m, np.random.default_rng(1))
    found = growth.by_doubling(table, "bits")
    wide = table.pivot(index="block", columns="presentations", values="bits")
    expected = stats.ttest_1samp(wide[4] - wide[2], 0).confidence_interval(1 - 0.05 / 5)
    np.testing.assert_allclose(found.loc[1, ["low", "high"]].astype(float), expected)


def test_blocks_without_one_of_the_two_are_left_out():
    table = doses(lambda m: m, np.random.default_rng(2))
    found = growth.by_doubling(table[(table.presentations < 16) | (table.block < 8)], "bits")
    assert list(found.n) == [16, 16, 16, 8, 8]


def test_logarithmic_law_is_refuted_where_there_is_none_and_seldom_where_there_is():
    def refuted(law, seed):
        rng = np.random.default_rng(seed)
        return np.array([refutes(growth.by_doubling(doses(law, rng), "bits")) for _ in range(SETS)])

    def refutes(found):
        return "not logarithmic" in growth.told_law(found)

    assert refuted(np.log2, 3).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / SETS)
    assert refuted(lambda m: m, 4).mean() > 0.95


def test_intervals_hold_all_increments_together_as_often_as_they_say():
    rng, held = np.random.default_rng(5), []
    for _ in range(SETS):
        found = growth.by_doubling(doses(lambda m: 3 * np.log2(m), rng), "bits")
        held.append(((found.low <= 3) & (found.high >= 3)).all())
    assert np.mean(held) >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / SETS)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pd.DataFrame({"block": [0, 1], "presentations": [4, 4], "bits": 0.0}), "two numbers of .* and got 4"),
        (pd.DataFrame({"block": [0], "presentations": [0], "bits": 0.0}), "got none"),
        (pd.DataFrame({"block": [0, 0, 1], "presentations": [1, 2, 1], "bits": 0.0}), "1 blocks have both 1 and 2"),
        (pd.DataFrame({"block": [0]}), "no column presentations, bits"),
    ],
)
def test_what_cannot_show_growth_is_refused(table, said):
    with pytest.raises(ValueError, match=said):
        growth.by_doubling(table, "bits")
