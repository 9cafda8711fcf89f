"""Counts of the authors' measurements, against loops over their rows."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pytest

from lmmem.corpora.authors import STEPS, authors_measurements
from lmmem.experiments import authors
from lmmem.storage import tables
from tests.stand_ins import authors_file


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("authors") / "analysis.parquet.gzip"
    authors_file(rows=400, come_back=0.1).to_parquet(path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def measured(file) -> pd.DataFrame:
    path, sha256 = file
    return authors_measurements(path, sha256=sha256)


@pytest.fixture(scope="module")
def rows(measured) -> dict[int, pd.DataFrame]:
    """Each row met once, by step."""
    every = {index: table.set_index("step") for index, table in measured.groupby("index")}
    return {index: table for index, table in every.items() if table.repeats.sum() == 1}


@pytest.fixture(scope="module")
def found(measured) -> authors.Counted:
    return authors.counted(measured)


def test_rows_that_recur_are_not_met_once(found, measured, rows):
    assert found.record == {"rows": measured["index"].nunique(), "once": len(rows)}
    assert 0 < len(rows) < measured["index"].nunique()


def test_change_is_that_of_the_rows_of_an_exposure_step_from_before_any(found, rows):
    for line in found.changes.sample(60, random_state=0).itertuples():
        met = [table for table in rows.values() if table.exposure_step.iloc[0] == line.exposure_step]
        by_hand = [int(table.kl_ld[line.step]) - int(table.kl_ld[10_000]) for table in met]
        assert line.n == len(by_hand)
        assert line.change == pytest.approx(np.mean(by_hand))
    assert set(found.changes.step) == set(STEPS[1:])


def test_pairs_count_every_row_once(found, rows):
    assert (found.pairs.groupby(["first", "second"]).n.sum() == len(rows)).all()
    for line in found.pairs.sample(60, random_state=0).itertuples():
        here = [
            table.kl_ld[line.first] == line.kl_ld_first and table.kl_ld[line.second] == line.kl_ld_second
            for table in rows.values()
        ]
        assert line.n == sum(here)


def test_back_counts_rows_that_are_far_just_after_exposure(found, rows):
    far = [table.kl_ld for table in rows.values() if table.kl_ld[11_000] >= 50]
    for line in found.back.itertuples():
        near = [(kl_ld[10_000] <= line.within, kl_ld[line.step] <= line.within) for kl_ld in far]
        assert line.n == len(far)
        assert line.before == sum(before and not after for before, after in near)
        assert line.after == sum(after and not before for before, after in near)
        assert line.both == sum(before and after for before, after in near)
    assert found.back.after.sum() > 0


def test_levels_are_by_rows_met_until_then_and_by_complexity_of_rows_met_once(found, measured, rows):
    repeats = found.levels[found.levels.by == "repeats"]
    assert repeats.n.sum() == measured["index"].nunique()
    assert set(repeats.bin) == {1.0, 8.0}  # itself, and seven more
    at_once = repeats[repeats.bin == 1]
    assert (at_once.kl_ld * at_once.n).sum() == sum(table.kl_ld[19_000] for table in rows.values())
    of_once = found.levels[found.levels.by == "z_complexity"].groupby("bin").n.sum()
    by_hand = pd.Series([np.floor(table.z_complexity.iloc[0] * 10 + 1e-9) / 10 for table in rows.values()])
    assert of_once.to_dict() == by_hand.value_counts().to_dict()


def test_nothing_met_once_is_refused(measured):
    with pytest.raises(ValueError, match="no row is met once"):
        authors.counted(measured.assign(repeats=2))


def test_command_keeps_what_is_read_again(file, found, tmp_path, monkeypatch, capsys):
    path, sha256 = file
    monkeypatch.setattr(authors.authors_measurements, "__kwdefaults__", {"url": "", "sha256": sha256})
    authors.main([str(path), "--results", str(tmp_path)])
    assert f"{found.record['once']:,} met once" in capsys.readouterr().out
    again = authors.kept(tmp_path)
    for part in ("changes", "pairs", "back", "levels"):
        pd.testing.assert_frame_equal(getattr(again, part), getattr(found, part).reset_index(drop=True))
        assert "index" not in getattr(again, part)  # no line is of one row of theirs
    assert again.record["once"] == found.record["once"]
    assert str(path.parent) not in str(tables.load(tmp_path / "pairs.parquet")[1])


def test_command_says_in_one_line_that_a_file_is_another(file, tmp_path, capsys):
    with pytest.raises(SystemExit):
        authors.main([str(file[0]), "--results", str(tmp_path / "none")])
    assert "and 5729650dfd52" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "none").exists()


def test_missing_table_says_what_makes_it(tmp_path):
    with pytest.raises(ValueError, match=r"changes\.parquet is missing: make published"):
        authors.kept(tmp_path)
