"""How lmmem stands beside others, on small records; and on those that are committed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmmem.analysis import comparisons
from lmmem.analysis.prose import table_if, tell_if
from tests.analysis.test_costs import ROWS, row

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RESULTS, GPU = (json.loads((BENCHMARKS / f"{name}.json").read_text()) for name in ("results", "gpu"))
RUNS = {"min": 1.5, "median": 2.0, "max": 2.5}
UNMEASURED = {"name": "greedy", "other": "generate", "note": ""}
LIMIT = row("greedy", "the limit: matrix products alone, torch's", [1.0], [1.0], **RUNS)


def test_ratio_is_told_with_its_spread_if_there_are_runs_and_alike_stand_together():
    rows = [
        row("a", "x", [1.0, 1.0], [1.0, 1.0], **RUNS),
        row("b", "x", [1.0], [1.0], **(RUNS | {"median": 123.4})),
        row("a", "y", [1.0, 1.0], [1.0, 1.0], **(RUNS | {"median": 0.12345})),
        LIMIT,
        *ROWS[-2:],  # shares of a draw
    ]
    found = comparisons.beside({"rows": rows})
    assert found.reset_index().to_numpy().tolist() == [
        ["a", "x", "2 (1.5 to 2.5)", "2"],
        ["a", "y", "0.123 (1.5 to 2.5)", "2"],
        ["b", "x", "123", "1"],
    ]


def test_limits_are_apart_and_named_without_the_word():
    found = comparisons.limits({"rows": [*ROWS, LIMIT | {"ours_s": [1.0, 2.0]}]})
    assert found.reset_index().to_numpy().tolist() == [
        ["greedy, pocket, 192 prompts, float32", "matrix products alone, the fastest", "0.25", "1"],
        ["greedy", "matrix products alone, torch's", "2 (1.5 to 2.5)", "2"],
    ]


def test_row_that_was_not_measured_says_so():
    found = comparisons.on_gpu({"rows": [UNMEASURED, LIMIT]})
    assert found["runs"].tolist() == ["", "1"]
    assert found.iloc[0, 0] == "not measured"
    with pytest.raises(ValueError, match="none of 2 comparisons was measured, as no GPU was at hand"):
        comparisons.on_gpu({"rows": [UNMEASURED, UNMEASURED]})


def test_way_that_was_skipped_has_its_reason():
    line = {"way": "scan", "dtype": "float32", "decoded": 7, "seconds": [3.0, 1.0, 2.0], "peak_mb": 1_900}
    there = [line | {"same_recited": 0.98}, line | {"way": "other", "dtype": "4 bits", "same_recited": 1.0}]
    found = comparisons.windows({"scan": {"windows": [*there, {"skipped": "other is not installed: pip"}]}})
    assert found.loc["lmmem scan", "float32"].tolist() == ["7", "2.0", "1,900", "98%"]
    assert found.loc["other", "4 bits"].tolist() == ["7", "2.0", "1,900", "100%"]
    assert found.index[-1] == ("not measured: other is not installed: pip", "")


def test_opening_is_of_the_rows_that_it_names():
    rows = ROWS + [row("first", other, [1.0], [1.0], median=7.0) for other in comparisons.NAMED.values()]
    found = comparisons.answer({"rows": rows})
    assert (found["least"], found["most"], found["low"], found["high"]) == (2.0, 2.0, 0.25, 0.25)
    assert (found["uncached"], found["samples"], found["sweep"], found["repeats"]) == (9.0, 7.0, 7.0, 7.0)  # the first
    with pytest.raises(ValueError, match=r"nothing was timed beside generate with num_return_sequences: make bench"):
        comparisons.answer({"rows": [one for one in rows if "num_return" not in one["other"]]})


def test_opening_of_a_gpu_is_from_the_least_to_the_most_of_its_rows():
    others = [comparisons.WITH_CACHE, *comparisons.NAMED.values(), comparisons.FASTEST]
    rows = [row("any", other, [1.0], [1.0], median=ratio) for other in others for ratio in (0.25, 0.5)]
    for note, ratio in (("99.5% of the tokens are the same", 1.25), ("100.0% of the tokens are the same", 1.75)):
        rows.append(row("any", comparisons.UNRECORDED, [1.0], [1.0], note, median=ratio))
    found = comparisons.gpu_answer({"gpu": "one", "rows": rows})
    assert (found["recorded"], found["reached"], found["same"]) == ("1.2 to 1.8", "25 to 50", 99.5)
    assert found["cached"] == "0.2 to 0.5"
    with pytest.raises(ValueError, match="nothing was timed beside each step told anew"):
        comparisons.gpu_answer({"gpu": "one", "rows": rows[:-2]})
    with pytest.raises(ValueError, match="no GPU was at hand"):
        comparisons.gpu_answer({"gpu": None, "rows": [UNMEASURED]})


@pytest.mark.parametrize(
    "find", [comparisons.beside, comparisons.limits, comparisons.on_gpu, comparisons.windows], ids=lambda f: f.__name__
)
def test_record_that_lacks_a_part_is_told_in_words(find):
    assert table_if(find, {}).startswith("No table here: the benchmarks say nothing of ")
    assert find is comparisons.windows or table_if(find, {"rows": []}).startswith("No table here: n")
    assert tell_if("{none}", comparisons.answer, {}).startswith("Not answered here: the benchmarks say nothing of rows")


def test_committed_rows_are_each_in_one_place():
    told = len(comparisons.beside(RESULTS)) + len(comparisons.limits(RESULTS))
    assert told == len(RESULTS["rows"]) - 2  # shares of a draw are told by costs
    assert len(comparisons.windows(RESULTS)) == len(RESULTS["scan"]["windows"])
    assert comparisons.answer(RESULTS)["sweep"] > 1
    assert len(table_if(comparisons.on_gpu, GPU))
