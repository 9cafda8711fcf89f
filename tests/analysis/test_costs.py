"""What measuring costs, on small records whose answers can be told by hand; and on those that are committed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmmem.analysis import costs
from lmmem.analysis.prose import table_if, tell_if

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RESULTS, SHARING, GPU = (
    json.loads((BENCHMARKS / f"{name}.json").read_text()) for name in ("results", "sharing", "gpu")
)


def row(name: str, other: str, ours: list[float], theirs: list[float], note: str = "", **found: float) -> dict:
    return {"name": name, "other": other, "ours_s": ours, "other_s": theirs, "note": note, **found}


ROWS = [
    row("greedy, pocket, 192 prompts, float32", costs.WITH_CACHE, [9.0, 2.0, 3.0], [6.0, 6.0, 6.0], median=2.0),
    row("greedy, pocket, 192 prompts, bfloat16", costs.WITH_CACHE, [1.0], [1.0], median=1.0),  # is not float32
    row("greedy, pocket, 192 prompts, float32", "generate without cache, as published", [1.0], [9.0], median=9.0),
    row("greedy, Pythia-70m shape, 32 prompts, float32", costs.WITH_CACHE, [4.0], [8.0], median=2.0),
    row("greedy, a giant shape, 32 prompts, float32", costs.WITH_CACHE, [4.0], [8.0], median=2.0),  # of no known size
    row("greedy, pocket, 192 prompts, float32", costs.FASTEST, [4.0], [1.0], median=0.25),
    row("a draw", "noise and restoration alone", [4.0], [1.0], "the ratio is the share of a draw", median=0.04),
    row("a draw", "distances alone", [4.0], [1.0], "the ratio is the share of a draw", median=0.001),
]
RECORD = {"rows": ROWS}
GREEDY = "greedy, 1,000 prompts, Pythia-1B shape, float16"
ON_GPU = {"gpu": "a GPU", "rows": [row(GREEDY, costs.WITH_CACHE, [2.0], [4.0]), row(GREEDY, costs.FASTEST, [1], [1])]}


def test_rates_are_medians_of_greedy_decoding_in_float32_of_known_shapes():
    found = costs.rates(RECORD)
    assert found.index.tolist() == ["pocket", "Pythia-70m"]
    assert found.loc["pocket"].tolist() == [2.6e6, 192, 3.0, 6.0]
    told = costs.told_rates(RECORD)
    assert told.loc["pocket"].tolist() == ["the processor", "2.6", 192, "64.0", "32.0"]
    assert told.loc["Pythia-70m"].tolist() == ["the processor", "70", 32, "8.0", "4.0"]


def test_rates_on_a_gpu_are_those_in_half_precision_and_none_where_there_was_none():
    found = costs.told_rates(RECORD, ON_GPU, {"gpu": None, "rows": []})
    assert found.index.tolist() == ["pocket", "Pythia-70m", "Pythia-1B"]
    assert found.loc["Pythia-1B"].tolist() == ["a GPU", "1000", 1_000, "500.0", "250.0"]
    as_large = costs.needed_on_gpu(ON_GPU, "1 B", 1_000, 89)  # 90 batches of 2 s
    assert as_large == {"gpu": "a GPU", "shape": "Pythia-1B", "limit": "", "time": "3.0 minutes"}
    assert costs.needed_on_gpu(ON_GPU, "2 B", 1_000, 89)["time"] == "6.0 minutes"
    assert costs.needed_on_gpu(ON_GPU, "2.6 M", 1_000, 89) == as_large | {"limit": "at most "}
    with pytest.raises(ValueError, match="how long it takes on a GPU is not known: none was at hand"):
        costs.needed_on_gpu(ON_GPU | {"gpu": None}, "1 B", 1_000, 89)
    with pytest.raises(ValueError, match="n_sequences=0"):
        costs.needed_on_gpu(ON_GPU, "1 B", 0, 89)


def test_model_as_large_as_one_that_was_timed_takes_as_long():
    found = costs.needed(RECORD, "2.6 M", "float32", sequences=96, draws=199)  # 100 batches of 3 s
    assert (found["continuations"], found["time"]) == (19_200, "5.0 minutes")
    assert found["how"] == "At the rate measured here for the shape of pocket"
    assert found["memory"] == pytest.approx(2 * 4 * 2.6e6 / 1e9)
    assert costs.needed(RECORD, "2.6 M", "float16", 96, 199)["memory"] == pytest.approx(2 * 2 * 2.6e6 / 1e9)


def test_larger_model_takes_longer_in_proportion_and_a_smaller_one_no_less():
    assert costs.needed(RECORD, "5.2 M", "float32", 96, 199)["time"] == "10.0 minutes"
    assert costs.needed(RECORD, "0.2 M", "float32", 96, 199)["time"] == "5.0 minutes"
    large = costs.needed(RECORD, "1 B", "float16", 3_200, 9)  # 1,000 batches of 4 s, times 1,000 / 70
    assert large["time"] == f"{1_000 * 4 * 1_000 / 70 / 3_600:.1f} hours" == "15.9 hours"
    assert large["how"].endswith("of Pythia-70m, scaled by the number of weights,")


def test_nearest_size_is_by_ratio():
    """14 million is a fifth of Pythia-70m's and 5.4 times pocket's; by difference pocket would be nearer."""
    assert "of pocket" in costs.needed(RECORD, "13 M", "float32", 1, 0)["how"]
    assert "of Pythia-70m" in costs.needed(RECORD, "14 M", "float32", 1, 0)["how"]


def test_on_a_gpu_operations_are_counted():
    found = costs.needed(RECORD, "1 B", "float16", 1_000, 99, tflops=400)
    seconds = 2 * 1e9 * 100_000 * 95 / (400e12 * 0.25)
    assert found["time"] == f"{seconds / 60:.1f} minutes"
    assert found["how"].startswith("On a GPU that multiplies at 400 TFLOPS, of which decoding reaches the share of 25%")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"parameters": ""}, "how many weights the model has is not known: '' is not as '2.6 M' or '1 B' are"),
        ({"parameters": "2.6 G"}, "how many weights the model has is not known"),
        ({"sequences": 0}, "n_sequences=0: give a whole number, 1 or more"),
        ({"sequences": 1.5}, "n_sequences=1.5: give"),
        ({"draws": -1}, "draws=-1: give a whole number, 0 or more"),
        ({"tflops": 0}, "tflops=0: give a number above 0"),
        ({"tflops": "fast"}, "tflops='fast': give"),
        ({"record": {"rows": []}}, "no greedy decoding was timed beside generate with its cache: make bench"),
        ({"record": {"rows": ROWS[:1]}, "tflops": 1.0}, "not timed beside matrix products alone, the fastest"),
        ({"record": {}}, "the benchmarks say nothing of rows: measure them again"),
    ],
    ids=str,
)
def test_what_cannot_be_told_is_said_in_a_line(given, why):
    usual = {"record": RECORD, "parameters": "1 B", "dtype": "float16", "sequences": 10, "draws": 10, "tflops": None}
    with pytest.raises(ValueError, match=why) as caught:
        costs.needed(**(usual | given))
    assert "\n" not in str(caught.value)


def test_line_through_the_sizes_is_the_planted_one():
    """0.5 s to prepare, 2 s a gigabyte; other numbers of queries have no part in it."""
    sizes = [(100_000, 7), (200_000, 7), (400_000, 7), (100_000, 9)]
    lines = [
        {"rows": rows, "queries": queries, "peak_mb": 300.4, "seconds": seconds, "tokens_per_s": rows * 2_049 / seconds}
        for rows, queries in sizes
        for seconds in [0.5 + 2 * rows * 4_098 / 1e9 if queries == 7 else 99.0]
    ]
    found = costs.counting({"repeats": lines})
    rate = 400_000 * 2_049 / (0.5 + 2 * 1.6392)
    assert found == pytest.approx(
        {"queries": 7, "rate": rate / 1e6, "fixed": 0.5, "per_gb": 2, "minutes": 21e9 / rate / 60, "billions": 21}
    )
    assert costs.repeats({"repeats": lines}).reset_index().to_numpy().tolist()[:3:2] == [
        ["0.4", "7", "1.3", "155", "300"],
        ["1.6", "7", "3.8", "217", "300"],
    ]
    with pytest.raises(ValueError, match="needs two of them"):
        costs.counting({"repeats": lines[2:]})


def test_growth_is_by_planted_powers():
    lines = [
        {"what": what, "times": times, "seconds": 3 * times**power, "peak_mb": 100 + times}
        for what, power in (("draws", 1.0), ("sequences", 0.5))
        for times in (4, 1, 2)
    ]
    found = costs.growth({"growth": lines})
    assert found == pytest.approx({"draws": 1.0, "sequences": 0.5, "times": 4, "memory": 104 / 101})
    with pytest.raises(ValueError, match="nothing of growth by sequences"):
        costs.growth({"growth": lines[:3]})


def test_shares_of_a_draw_are_told_by_name():
    assert costs.draw(RECORD) == {"noise": 0.04, "distances": 0.001}
    with pytest.raises(ValueError, match="of a draw, distances alone was not timed"):
        costs.draw({"rows": ROWS[:-1]})


def test_half_precision_is_told_beside_full():
    half = {"model": "m", "sequences": 9, "same_tokens": 0.8, "same_continuations": 0.6, "same_kl_ld": 0.7}
    found = costs.half({"half": half | {"mean_kl_ld": [47.0, 46.0]}})
    assert found == {"model": "m", "sequences": 9, "tokens": 0.8, "distances": 0.7, "full": 47.0, "halved": 46.0}


def test_loops_over_a_megabyte_are_told_apart_by_how_many_at_once():
    loops = [
        {"at_once": 50, "windows": 7, "seconds": 1.0, "scaled_s": 120.0},
        {"at_once": 1, "windows": 3, "seconds": 1.0, "scaled_s": 600.0},
    ]
    whole = {"model": "m", "text": "a text", "windows": 90, "decoded": 20, "whole": 10, "seconds": 180.0, "peak_mb": 7}
    record = {"scan": {"environment": {"date": "2026-11-25T19:46"}, "whole": whole | {"generate": loops}}}
    found = costs.megabyte(record)
    assert (found["minutes"], found["apart"], found["apart_n"]) == (3, 10, 3)
    assert (found["together"], found["together_n"], found["together_at"]) == (2, 7, 50)
    assert (found["what"], found["date"]) == ("a text", "2026-11-25")
    with pytest.raises(ValueError, match="one by one and many at a time"):
        costs.megabyte({"scan": record["scan"] | {"whole": whole | {"generate": loops[:1]}}})


def test_two_that_do_not_share_are_told_by_the_slower():
    start = {"how": "a script", "alone_unaware": [4.0, 5.0, 6.0], "alone_share": 1.0, "each_share_min": 0.7}
    record = {"environment": {"date": "2026-11-25T19"}, "starts": [start | {"sum_share": 1.5}], "two_unaware": [2, 1]}
    assert costs.sharing(record) == {"kept": 0.2, "date": "2026-11-25"}
    assert costs.told_sharing(record).loc["a script"].tolist() == ["1.00", "0.70", "1.50"]


def test_provenance_is_of_all_that_was_measured_once_each():
    made = {"cores": "2", "processor": "p", "lmmem": "0.1", "commit": "c", "torch": "2", "date": "2026-11-25T19"}
    record, later = {"environment": made}, {"environment": made | {"commit": "d"}}
    one = "2 cores of p, lmmem 0.1 c, torch 2, measured 2026-11-25"
    assert costs.provenance(record, record) == {"made": one}
    assert costs.provenance(record | {"scan": later})["made"] == f"{one}; scan: {one.replace(' c,', ' d,')}"
    assert costs.provenance(record, later | {"gpu": None}) == {"made": one}
    assert "cores of p and H100, lmmem 0.1 d" in costs.provenance(later | {"gpu": "H100"})["made"]


OF_RESULTS = (costs.repeats, costs.counting, costs.growth, costs.draw, costs.half, costs.megabyte)


@pytest.mark.parametrize(
    "find", [*OF_RESULTS, costs.told_rates, costs.sharing, costs.told_sharing], ids=lambda f: f.__name__
)
def test_record_that_lacks_a_part_is_told_in_words(find):
    if find in (costs.repeats, costs.told_rates, costs.told_sharing):
        assert table_if(find, {}).startswith("No table here: the benchmarks say nothing of ")
    else:
        assert tell_if("{none}", find, {}).startswith("Not answered here: the benchmarks say nothing of ")


def test_committed_records_answer_everything():
    for find in (*OF_RESULTS, costs.told_rates):
        assert len(find(RESULTS))
    assert len(costs.told_sharing(SHARING)) == 4
    assert 0 < costs.sharing(SHARING)["kept"] < 0.5
    assert costs.provenance(RESULTS, SHARING)["made"].count("measured 20") == 3
    assert [*costs.rates(RESULTS).index, *costs.rates(GPU).index] == list(costs.SHAPES)


def test_readme_says_how_long_a_sweep_takes_on_the_gpu_that_was_timed():
    readme = " ".join((BENCHMARKS.parent / "README.md").read_text().split())
    times = [costs.needed_on_gpu(GPU, weights, 1_000, 200)["time"] for weights in ("1 B", "6.7 B")]
    assert f"on an {GPU['gpu'].split()[1]}, decoding a thousand sequences under 200 perturbations" in readme
    assert f"{times[0]} for a model of the size of Pythia-1B, {times[1]} for one of Amber-7B's" in readme
