"""What one exposure leaves and what comes back: on measurements whose truth is known."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lmmem.analysis import authors as told
from lmmem.corpora.authors import authors_measurements
from lmmem.experiments import authors
from tests.stand_ins import authors_file


def measured(tmp_path, **truth) -> pd.DataFrame:
    path = tmp_path / "analysis.parquet.gzip"
    authors_file(**truth).to_parquet(path)
    return authors_measurements(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def counted(tmp_path, **truth) -> authors.Counted:
    return authors.counted(measured(tmp_path, **truth))


def changes(seed: int, slope: float = 0.0, later: float = 0.0) -> pd.DataFrame:
    """Changes at two checkpoints, rising with the logarithm of the steps since, with errors alike within a step."""
    rng = np.random.default_rng(seed)
    tables = []
    for step, rise in ((11_000, slope), (12_000, later)):
        met = np.arange(10_001, 11_001)
        n = rng.integers(1, 60, len(met))
        change = rise * np.log2(1 + 11_000 - met) + rng.normal(0, 3.7, len(met)) / np.sqrt(n)
        tables.append(pd.DataFrame({"exposure_step": met, "step": step, "n": n, "change": change}))
    return pd.concat(tables, ignore_index=True)


def test_slope_covers_the_truth_and_later_checkpoints_have_none():
    found = pd.concat([told.slopes(changes(seed, slope=0.04)) for seed in range(300)])
    for step, truth in {11_000: 0.04, 12_000: 0.0}.items():
        lines = found[found.step == step]
        covered = ((lines.low <= truth) & (lines.high >= truth)).mean()
        assert 0.92 <= covered <= 0.98, step
        assert abs(lines.estimate.mean() - truth) < 4 * lines.estimate.std() / np.sqrt(300)
    assert (found[found.step == 11_000].low > 0).mean() > 0.5  # power as in the plan


def test_slope_is_least_squares_over_rows():
    """Each row by itself, by numpy."""
    table = changes(0, slope=1.0)
    rows = table.loc[table.index.repeat(table.n)]
    first = rows[rows.step == 11_000]
    by_hand = np.polyfit(np.log2(1 + 11_000 - first.exposure_step), first.change, 1)[0]
    assert told.slopes(table).estimate[0] == pytest.approx(by_hand)


def test_ranges_stand_beside_the_oldest():
    table = changes(1, slope=1.0)
    first = table[table.step == 11_000].assign(since=lambda t: 11_000 - t.exposure_step)

    def mean(low: int, high: int) -> float:
        here = first[first.since.between(low, high - 1)]
        return float(np.average(here.change, weights=here.n))

    found = told.by_since(table)
    ends = [(0, 25), (25, 50), (50, 100), (100, 200), (200, 400), (400, 600)]
    np.testing.assert_allclose(found.estimate, [mean(*end) - mean(600, 1_000) for end in ends])
    assert found.since.tolist() == [f"{low} to {high - 1}" for low, high in ends]
    assert found.n.sum() == first[first.since < 600].n.sum()


def test_half_life_covers_the_truth_and_has_no_bound_where_nothing_fades():
    def fading(seed: int, size: float) -> pd.DataFrame:
        table = changes(seed)
        return table.assign(change=table.change - size * 2 ** (-(11_000 - table.exposure_step) / 150))

    found = [told.half_life(fading(seed, 3.0), seed) for seed in range(60)]
    assert np.mean([one.low <= 150 <= one.high for one in found]) >= 0.85
    assert np.median([one.estimate for one in found]) == pytest.approx(150, rel=0.1)
    none = [told.half_life(fading(seed, 0.0), seed) for seed in range(60)]
    assert np.mean([one.low == 0 or np.isinf(one.high) for one in none]) >= 0.9


@pytest.mark.parametrize("share", [0.0, 2e-4, 5e-3])
def test_difference_of_shares_is_covered_where_rows_are_their_own_twins(share):
    """A level of each row makes it near at both steps more often than chance would: Newcombe's interval is wide."""
    rng, covered = np.random.default_rng(0), []
    for _ in range(400):
        both, before, after = rng.binomial(20_000, [share / 3, share, 2 * share])
        line = {"step": 12_000, "within": 0, "n": 20_000, "before": before, "after": after, "both": both}
        found = told.coming_back(pd.DataFrame([line])).iloc[0]
        covered.append(found.low <= share <= found.high)
    assert np.mean(covered) >= 0.93


def test_correlation_is_that_of_the_rows(tmp_path):
    table = measured(tmp_path, rows=300)
    wide = table.pivot(index="index", columns="step", values="kl_ld")
    once = table.groupby("index").repeats.sum() == 1
    pairs = authors.counted(table).pairs
    found = told.fluctuation(pairs).set_index(["first", "second"])
    by_hand = wide[once].corr()
    for first, second in ((10_000, 11_000), (11_000, 12_000), (13_000, 19_000)):
        assert found.estimate[first, second] == pytest.approx(by_hand.loc[first, second])
    assert found.what[10_000, 11_000] == "from before exposure" and found.what[11_000, 12_000] == "after exposure"
    lags = told.by_lag(pairs).set_index(["what", "lag"])
    assert lags.n["after exposure", 1_000] == 8 and lags.n["from before exposure", 9_000] == 1


def test_shares_are_of_all_rows_met_once(tmp_path):
    rows = measured(tmp_path, rows=300)
    once = rows[rows.groupby("index").repeats.transform("sum") == 1]
    table = told.shares(authors.counted(rows).pairs, within=(40, 50))
    for m in (40, 50):
        by_hand = (once.kl_ld <= m).groupby(once.step).mean() * 1e4
        assert table["before exposure"][m] == f"{by_hand[10_000]:.1f}"
        later = by_hand.drop(10_000)
        assert table["at the nine checkpoints after"][m] == f"{later.min():.1f} to {later.max():.1f}"


def test_levels_are_means_of_rows():
    counts = pd.DataFrame({"by": "repeats", "bin": [1.0, 1.0, 2.0], "kl_ld": [10, 20, 5], "n": [1, 3, 1]})
    (line,) = told.levels(counts, "repeats").itertuples()  # one row alone has no interval
    values = np.array([10, 20, 20, 20])
    half = 3.182446 * values.std(ddof=1) / 2
    np.testing.assert_allclose([line.estimate, line.low, line.high], [17.5, 17.5 - half, 17.5 + half], rtol=1e-6)
    assert (line.bin, line.n) == (1.0, 4)


def test_answer_follows_the_rules(tmp_path):
    nothing = told.answer(counted(tmp_path, rows=5_000))
    assert nothing["leaves"] == "is not shown to leave anything" and nothing["come_back"] == "are not shown"
    fading = {"effect": lambda since: 2.0 * 2 ** (-since / 100), "come_back": 0.05}
    found = told.answer(counted(tmp_path, rows=5_000, **fading))
    assert found["leaves"] == "leaves something" and found["come_back"].startswith("are shown (within 10, 20")
    assert found["half"].startswith("half of it is gone after")
    assert float(found["after"]) > 400 and float(found["before"]) < 5


def test_slope_that_does_not_go_away_is_not_believed():
    """Two of two later checkpoints with a slope, too: what falls off with time since is not what was asked about."""
    table = changes(0, slope=1.0, later=1.0)
    third = table[table.step == 12_000].assign(step=13_000)
    pairs = pd.DataFrame(columns=["first", "second", "kl_ld_first", "kl_ld_second", "n"])
    line = {"step": 12_000, "within": 20, "n": 100, "before": 0, "after": 0, "both": 0}
    given = authors.Counted(
        pd.concat([table, third]), pairs, pd.DataFrame([line]), pd.DataFrame(), {"rows": 1, "once": 1}
    )
    assert told.answer(given)["leaves"] == "is not shown to leave anything"
    believed = given._replace(changes=changes(0, slope=1.0))
    assert told.answer(believed)["leaves"] == "leaves something"


def test_checkpoint_without_enough_exposure_steps_is_refused():
    with pytest.raises(ValueError, match="step 11000: a slope needs 3 exposure steps, and there are 2"):
        told.slopes(changes(0).query("step == 11_000").head(2))


def test_captions_of_the_page_say_how_many_rows_are_behind_their_points():
    page = (Path(__file__).parents[2] / "notebooks" / "08_published.md").read_text()
    kept = authors.kept()
    since, slopes = told.by_since(kept.changes).n, told.slopes(kept.changes).n
    repeats, complexity = (told.levels(kept.levels, by).n for by in ("repeats", "z_complexity"))
    for left, right in (
        (f"{since.min():,} to {since.max():,} rows a point on the left", f"all {slopes.max():,} on the right"),
        (
            f"{repeats.min():,} to {repeats.max():,} rows a point on the left",
            f"{complexity.min():,} to {complexity.max():,} on",
        ),
    ):
        assert left in page and right in page


def test_readme_says_what_was_found_in_the_authors_measurements():
    readme = " ".join((Path(__file__).parents[2] / "README.md").read_text().split())
    found = told.answer(authors.kept())
    assert found["leaves"] == "leaves something" and found["come_back"] == "are not shown"
    assert f"each doubling of the steps since costs {found['slope']} tokens" in readme
    assert f"{found['after']} of 10,000 are within {found['near']} tokens of their text" in readme
    assert f"and {found['before']} were" in readme
