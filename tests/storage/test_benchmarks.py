"""Files of benchmarks are found from wherever a page runs, or said to be missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmmem.storage.benchmarks import benchmark


@pytest.mark.parametrize("name", ["results", "gpu", "scaling", "sharing"])
@pytest.mark.parametrize("where", [".", "notebooks", "elsewhere"])
def test_committed_file_is_found_from_wherever_a_page_runs(name, where, tmp_path, monkeypatch):
    root = Path(__file__).parents[2]
    monkeypatch.chdir(tmp_path if where == "elsewhere" else root / where)
    assert benchmark(name) == json.loads((root / "benchmarks" / f"{name}.json").read_text())


@pytest.mark.parametrize("where", [".", "notebooks"])
def test_checkout_that_a_page_runs_in_comes_first(where, tmp_path, monkeypatch):
    for folder in ("benchmarks", "notebooks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "benchmarks" / "gpu.json").write_text('{"gpu": "here"}')
    monkeypatch.chdir(tmp_path / where)
    assert benchmark("gpu") == {"gpu": "here"}
    assert benchmark("sharing")["starts"]  # and what it lacks is the library's


def test_folder_that_is_given_is_the_only_one(tmp_path):
    (tmp_path / "gpu.json").write_text('{"gpu": null}')
    assert benchmark("gpu", tmp_path) == benchmark("gpu", str(tmp_path)) == {"gpu": None}
    for name, how in {"results": "make bench", "scaling": "python -m benchmarks.scaling"}.items():
        with pytest.raises(ValueError, match=rf"there is no {name}\.json in .*: {how} writes it$"):
            benchmark(name, tmp_path)
    with pytest.raises(ValueError, match=r"there is no gpu\.json in"):
        benchmark("gpu", tmp_path / "gpu.json")  # a file is no folder


def test_file_that_is_not_json_is_named(tmp_path):
    (tmp_path / "gpu.json").write_text('{"gpu": ')
    with pytest.raises(ValueError, match=r"gpu\.json is not JSON: "):
        benchmark("gpu", tmp_path)
