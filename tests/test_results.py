"""Tables on disk: provenance, damage, and never measured twice."""

from __future__ import annotations

import pandas as pd
import pytest

from lmmem import results
from lmmem.storage import DamagedError

TABLE = pd.DataFrame({"index": range(5_000), "kl_ld": range(5_000)})


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("LMMEM_CACHE", str(tmp_path))
    return tmp_path


def counting():
    calls = []

    def measure():
        calls.append(1)
        return TABLE.copy()

    return calls, measure


def test_table_and_provenance_come_back_as_written(tmp_path):
    results.save(TABLE, tmp_path / "t.parquet", {"model": "pocket", "step": 3})
    table, provenance = results.load(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(table, TABLE)
    assert provenance == {"model": "pocket", "step": 3}
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), TABLE)


def test_same_settings_are_measured_once():
    calls, measure = counting()
    first = results.measured("kind", {"model": "m", "step": 1}, measure)
    second = results.measured("kind", {"step": 1, "model": "m"}, measure)
    assert len(calls) == 1
    pd.testing.assert_frame_equal(first, second)
    assert first.attrs == second.attrs


@pytest.mark.parametrize("other", [{"model": "m", "step": 2}, {"model": "m", "step": 1, "seed": 0}])
def test_other_settings_are_measured_anew(other):
    calls, measure = counting()
    results.measured("kind", {"model": "m", "step": 1}, measure)
    results.measured("kind", other, measure)
    assert len(calls) == 2


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "foreign"])
def test_damaged_table_is_refused_by_load_and_measured_again(own_cache, damage):
    calls, measure = counting()
    results.measured("kind", {"model": "m"}, measure)
    (path,) = (own_cache / "results" / "kind").iterdir()
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        data[len(data) // 4] ^= 0xFF
        path.write_bytes(data)
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        TABLE.to_parquet(path)
    with pytest.raises(DamagedError, match=f"{path.name} is damaged or no result of lmmem"):
        results.load(path)
    pd.testing.assert_frame_equal(results.measured("kind", {"model": "m"}, measure), TABLE)
    assert len(calls) == 2
    results.load(path)


def test_missing_table_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        results.load(tmp_path / "none.parquet")


def test_failed_measurement_leaves_nothing(own_cache):
    def fail():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        results.measured("kind", {"model": "m"}, fail)
    assert not list(own_cache.rglob("*.parquet"))


def test_provenance_line_names_what_was_measured_with():
    settings = {"model": "pocket", "dtype": "float32", "device": "cpu"}
    tables = [results.measured("kind", settings | {"step": step}, TABLE.copy) for step in (1, 2, 3)]
    line = results.provenance_line(tables, seed=5)
    assert line.startswith("model pocket, step 3 (and 2 others), seed 5, float32 on cpu (")
    assert results.provenance_line(tables[:1], seed=5).startswith("model pocket, step 1, seed 5")
    for name in ("lmmem", "torch", "transformers"):
        assert f"{name} {tables[0].attrs['provenance'][name]}" in line
