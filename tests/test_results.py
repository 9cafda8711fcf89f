"""Tables on disk: provenance, damage, and never measured twice."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

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


def test_other_measuring_code_measures_anew(tmp_path):
    package = tmp_path / "lmmem"
    shutil.copytree(Path(results.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import pandas as pd; from lmmem import results\n"
        "results.measured('kind', {}, lambda: print('measuring') or pd.DataFrame({'a': [1]}))\n"
        "print(results.__file__)"
    )

    def run() -> list[str]:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()

    place = str(package / "results.py")
    assert run() == ["measuring", place]
    assert run() == [place]
    with open(package / "decoding.py", "a") as file:
        file.write("# another way to decode\n")
    assert run() == ["measuring", place]


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


def test_any_flipped_bit_is_damage_or_harmless(tmp_path):
    """Never another table, another provenance, or an error that `measured` cannot mend."""
    path, written = tmp_path / "t.parquet", {"model": "pocket", "sigma": 0.01}
    results.save(TABLE[:50], path, written)
    data, wrong = path.read_bytes(), {}
    for place in range(0, len(data), 3):
        flipped = bytearray(data)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        try:
            table, provenance = results.load(path)
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
