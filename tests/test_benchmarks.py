"""The benchmarks compare like with like, and the committed numbers are whole. Nothing here is about time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import decoding
from benchmarks.measure import Row, side_by_side
from lmmem.decoding import greedy, sample

RESULTS = json.loads((Path(__file__).parents[1] / "benchmarks" / "results.json").read_text())


def test_both_ways_of_decoding_say_the_same():
    model = decoding.model_of_shape("pocket")
    prompts = decoding.prompts_for(model, 3)
    expected = greedy(model, prompts)
    np.testing.assert_array_equal(decoding.generate(model, prompts), expected)
    np.testing.assert_array_equal(decoding.generate(model, prompts, use_cache=False), expected)


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

    monkeypatch.setattr(torch.nn.functional, "linear", counted)
    model = decoding.model_of_shape("pocket")
    greedy(model, decoding.prompts_for(model, 3))
    ours, done[:] = sum(done), []
    decoding.limit(model, 3)()
    assert sum(done) == ours


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
