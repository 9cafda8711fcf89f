"""Tables on disk: provenance, damage, and never measured twice."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmmem.__main__ import main
from lmmem.storage import results, tables
from lmmem.storage.files import DamagedError

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
    tables.save(TABLE, tmp_path / "t.parquet", {"model": "pocket", "step": 3})
    table, provenance = tables.load(tmp_path / "t.parquet")
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


def test_other_measuring_code_measures_anew(tmp_path):
    package = tmp_path / "lmmem"
    shutil.copytree(Path(results.__file__).parents[1], package, ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import pandas as pd; from lmmem.storage import results\n"
        "results.measured('kind', {}, lambda: print('measuring') or pd.DataFrame({'a': [1]}))\n"
        "print(results.__file__)"
    )

    def run() -> list[str]:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()

    place = str(package / "storage" / "results.py")
    assert run() == ["measuring", place]
    assert run() == [place]
    with open(package / "inference" / "decoding.py", "a") as file:
        file.write("# another way to decode\n")
    assert run() == ["measuring", place]


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "foreign"])
def test_damaged_table_is_refused_by_load_and_measured_again(own_cache, damage):
    calls, measure = counting()
    results.measured("kind", {"model": "m"}, measure)
    (path,) = (own_cache / "results" / "kind").rglob("*.parquet")
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
        tables.load(path)
    with pytest.warns(UserWarning, match=f"{path.name} is damaged.*it is measured again"):
        again = results.measured("kind", {"model": "m"}, measure)
    pd.testing.assert_frame_equal(again, TABLE)
    assert len(calls) == 2
    tables.load(path)


def test_any_flipped_bit_is_damage_or_harmless(tmp_path):
    """Never another table, another provenance, or an error that `measured` cannot mend."""
    path, written = tmp_path / "t.parquet", {"model": "pocket", "sigma": 0.01}
    tables.save(TABLE[:50], path, written)
    data, wrong = path.read_bytes(), {}
    for place in range(0, len(data), 3):
        flipped = bytearray(data)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        try:
            table, provenance = tables.load(path)
        except DamagedError:
            continue
        except Exception as error:
            wrong[place] = repr(error)
        else:
            if not table.equals(TABLE[:50]) or provenance != written:
                wrong[place] = f"{list(table)} {provenance}"
    assert not wrong


def test_missing_table_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        tables.load(tmp_path / "none.parquet")


def test_failed_measurement_leaves_nothing(own_cache):
    def fail():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        results.measured("kind", {"model": "m"}, fail)
    assert not list(own_cache.rglob("*.parquet"))


def test_provenance_line_names_what_was_measured_with():
    settings = {"model": "pocket", "dtype": "float32", "device": "cpu"}
    tables = [results.measured("kind", settings | {"step": step}, TABLE.copy) for step in (1, 2, 3)]
    records = [table.attrs["provenance"] for table in tables]
    line = results.provenance_line(records, seed=5)
    assert line.startswith("model pocket, step 3 (and 2 others), seed 5, float32 on cpu (")
    assert results.provenance_line(records[:1], seed=5).startswith("model pocket, step 1, seed 5")
    for name in ("lmmem", "torch", "transformers"):
        assert f"{name} {tables[0].attrs['provenance'][name]}" in line


def test_provenance_line_names_the_gpu_if_it_was_measured_there():
    record = results.measured("kind", {"model": "a", "step": 1, "dtype": "float16", "device": "cuda"}, TABLE.copy).attrs
    record = record["provenance"] | {"gpu": "a GPU", "processor": "a processor"}
    assert "float16 on cuda (a GPU), lmmem" in results.provenance_line([record], seed=0)
    assert "float16 on cpu (a processor), lmmem" in results.provenance_line([record | {"device": "cpu"}], seed=0)


def test_part_of_other_settings_under_its_name_is_named_and_measured_again():
    one, other = results.Part("kind", {"model": "a"}), results.Part("kind", {"model": "b"})
    results.keep_part(one, results.measure_part(one, TABLE.copy))
    other.path.parent.mkdir(parents=True)
    shutil.copy(one.path, other.path)
    calls, measure = counting()
    with pytest.warns(UserWarning, match=f"{other.path.name} is of other settings; it is measured again"):
        results.measured("kind", {"model": "b"}, measure)
    assert calls == [1]
    assert results.find(other).attrs["provenance"]["model"] == "b"


def test_parts_of_a_table_are_one_dataset():
    parts = [results.Part("kind", {"model": "EleutherAI/p", "step": 3}, {"draws": [d, d + 1]}, of=9) for d in range(3)]
    for draw, part in enumerate(parts):
        results.keep_part(part, results.measure_part(part, TABLE[:3].assign(draw=draw).copy))
    (folder,) = {part.path.parent for part in parts}
    assert folder.name.startswith("EleutherAI-p-3-")
    for table in (
        pd.read_parquet(folder),
        polars.read_parquet(folder / "*.parquet").to_pandas(),
        duckdb.read_parquet(str(folder / "*.parquet")).df(),
    ):
        assert sorted(table.draw) == [0] * 3 + [1] * 3 + [2] * 3
        assert list(table.columns) == ["index", "kl_ld", "draw"]


@pytest.mark.parametrize("model", ["../../../etc/x", "/etc/x", "..", "a\0b", "x" * 500])
def test_no_name_of_a_model_leads_out_of_the_results(own_cache, model):
    part = results.Part("kind", {"model": model, "step": 1})
    results.keep_part(part, results.measure_part(part, TABLE.copy))
    assert part.path.resolve().is_relative_to(own_cache / "results" / "kind")


def test_what_is_no_part_is_not_kept(own_cache):
    part = results.Part("kind", {"model": "m"})
    with pytest.raises(DamagedError):
        results.keep_part(part, b"nothing")
    assert not list(own_cache.rglob("*.parquet"))


def test_list_says_what_is_there_and_how_complete(own_cache, capsys):
    assert main(["results"]) == 0
    assert "nothing has been measured yet" in capsys.readouterr().out
    parts = [results.Part("kind", {"model": "m", "step": 3}, {"draws": [d, d + 1]}, of=20) for d in range(3)]
    for part in parts:
        results.keep_part(part, results.measure_part(part, TABLE[:5].copy))
    results.measured("other", {"model": "n"}, TABLE.copy)
    assert str(results.tables().step.tolist()) == "[3, <NA>]"
    listed = results.tables().set_index("kind")
    assert listed.loc["kind", ["model", "step", "rows", "complete", "parts"]].tolist() == ["m", 3, 15, 0.75, 3]
    assert listed.loc["other", ["rows", "complete", "parts", "damaged", "current"]].tolist() == [5_000, 1, 1, 0, True]
    assert main(["results"]) == 0
    assert "75%" in capsys.readouterr().out
    parts[0].path.write_bytes(b"nothing")
    TABLE.to_parquet(parts[0].path.with_name("foreign.parquet"))
    assert results.tables().set_index("kind").loc["kind", ["rows", "damaged"]].tolist() == [10, 2]
    assert main(["results"]) == 1


FUZZED = results.Part("kind", {"model": "m"})


@functools.cache
def file_of_fuzzed() -> bytes:
    """The same for all examples: it holds how long measuring took, in as many digits as that has."""
    return results.measure_part(FUZZED, TABLE[:40].copy)


@pytest.mark.slow
@settings(max_examples=1_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzzed_part_is_measured_again_or_unharmed(own_cache, data):
    part, whole = FUZZED, file_of_fuzzed()
    where = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.integers(0, 64))
    file = whole[:where] + data.draw(st.binary(max_size=64)) + whole[where + cut :]
    part.path.parent.mkdir(parents=True, exist_ok=True)
    part.path.write_bytes(file)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = results.find(part)
    if found is None:
        assert [str(warning.message) for warning in said if part.path.name in str(warning.message)]
    else:
        pd.testing.assert_frame_equal(found, TABLE[:40])


def test_slice_of_a_large_table_is_read_by_any_reader():
    whole = pd.DataFrame({"index": np.arange(1_000_000) % 1_000, "draw": np.arange(1_000_000) // 1_000})
    whole["kl_ld"] = np.random.default_rng(0).integers(0, 65, len(whole))
    for first in range(0, 1_000, 100):
        part = results.Part("kind", {"model": "m", "step": 3}, {"draws": [first, first + 100]}, of=len(whole))
        results.keep_part(part, results.measure_part(part, whole[whole.draw // 100 == first // 100].copy))
    folder = part.path.parent
    listed = results.tables().iloc[0]
    assert listed[["rows", "complete", "parts", "damaged"]].tolist() == [1_000_000, 1.0, 10, 0]
    expected = whole.query("draw == 345 and kl_ld < 8")["index"].tolist()
    by_pandas = pd.read_parquet(folder, filters=[("draw", "==", 345), ("kl_ld", "<", 8)])
    files = str(folder / "*.parquet")
    by_polars = polars.scan_parquet(files).filter((polars.col("draw") == 345) & (polars.col("kl_ld") < 8)).collect()
    by_duckdb = duckdb.sql(f"SELECT index FROM '{files}' WHERE draw = 345 AND kl_ld < 8 ORDER BY index")  # noqa: S608
    for found in (by_pandas["index"], by_polars["index"], [index for (index,) in by_duckdb.fetchall()]):
        assert sorted(found) == expected
