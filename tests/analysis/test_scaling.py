"""What is told of sweeps: small records whose answers can be told by hand, and the committed one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lmmem.analysis import scaling
from lmmem.analysis.prose import table_if, tell_if

COMMITTED = json.loads((Path(__file__).parents[2] / "benchmarks" / "scaling.json").read_text())
# Two runs of two parts each; what one process spends between two parts is 1 s: 10 s in all, 8 s of parts.
RUNS = [
    {"workers": 2, "seconds": [4.0, 6.0], "parts": [3.0, 5.0, 9.0, 9.0]},
    {"workers": 1, "seconds": [10.0, 10.0], "parts": [3.0, 5.0, 9.0, 9.0]},
]
SOAK = {"kills": 4, "sweeps": 2, "rows": 100, "lost": 1, "doubled": 2, "differ": 3, "seconds": 30.0}
RECORD = {"model": "m", "sequences": 8, "draws": 20, "runs": RUNS, "soak": SOAK | {"undisturbed_s": 10.0}}
ALIKE = {"slow_share": 0.5, "slow_speed": 0.5, "failures_per_day": 0, "restart": 0}


def test_measured_sweep_stands_beside_the_simulated_one():
    found = scaling.runs(RECORD)
    assert found.loc[1].tolist() == ["10.0 (10.0 to 10.0)", "10.0", "1.00"]
    assert found.loc[2].tolist() == ["5.0 (4.0 to 6.0)", "6.0", "2.00"]  # the longer part, and what lies before it
    assert scaling.measured(RECORD) == {
        **{"model": "m", "sequences": 8, "draws": 20, "parts": 2, "runs": 2, "processes": 2, "faster": 2.0}
    }


def test_parts_that_take_longer_than_the_run_leave_no_time_between_them():
    found = scaling.runs({"runs": [{"workers": 1, "seconds": [5.0], "parts": [3.0, 5.0]}]})
    assert found.loc[1].tolist() == ["5.0 (5.0 to 5.0)", "8.0", "1.00"]


def test_parts_that_do_not_scatter_are_done_as_can_be_told_by_hand():
    record = {"runs": [{"workers": 1, "seconds": [4.0], "parts": [2.0, 2.0]}]}
    found = scaling.over_workers(record, 8, 3_600.0, **ALIKE, workers=(1, 2, 8)).set_index(["kind", "workers"])
    assert found.loc["all alike"].to_numpy().tolist() == [[8, 1], [4, 1], [1, 1]]
    # Of two one is slow, and does 2 of 7 while the other does 5, or 3 of 8: 6 h. Speeds in sum are 1.5.
    assert found.loc["some slow"].to_numpy()[1].tolist() == pytest.approx([6, 8 / 1.5 / 6])
    assert found.loc["some slow"].to_numpy()[2].tolist() == pytest.approx([2, 8 / 6 / 2])
    assert (found.loc["each failing at times"] == found.loc["all alike"]).all(axis=None)


def test_failures_cost_time_and_the_seed_gives_the_same_times():
    given = {**ALIKE, "failures_per_day": 20, "restart": 600.0}
    found = scaling.over_workers(RECORD, 50, 1_000.0, **given)
    pd.testing.assert_frame_equal(found, scaling.over_workers(RECORD, 50, 1_000.0, **given))
    hours = found.pivot(index="workers", columns="kind", values="hours")
    assert (hours["each failing at times"] > hours["all alike"]).all()
    assert found.efficiency.between(0, 1 + 1e-9).all()


def test_times_scatter_as_the_measured_ones():
    """One worker takes their sum; standard error of a mean of 2,500 whose scatter is that of 3, 5, 9, 9."""
    found = scaling.over_workers(RECORD, 2_500, 36.0, **ALIKE, workers=(1,))
    spread = np.std([3, 5, 9, 9]) / 6.5
    assert found.hours[0] == pytest.approx(25, abs=4 * 25 * spread / 50)
    assert found.hours[0] != 25


def test_most_workers_are_told_by_the_worst_kind():
    table = pd.DataFrame(
        {"kind": list("abab"), "workers": [1, 1, 8, 8], "hours": [9.0, 12.0, 2.0, 3.0], "efficiency": [1, 1, 0.9, 0.7]}
    )
    assert scaling.simulated(table) == {"workers": 8, "hours": 2.0, "alone": 9.0, "least": 0.7}
    drawn = scaling.curves(table)
    assert [part.estimate.tolist() for part in drawn.values()] == [[9, 12, 2, 3], [1, 1, 0.9, 0.7]]


def test_kills_are_told_by_what_became_of_the_rows():
    found = scaling.disturbed(RECORD)
    assert (found["between"], found["times"]) == (7.5, 3.0)
    assert [found[name] for name in ("kills", "sweeps", "rows", "lost", "doubled", "differ")] == [4, 2, 100, 1, 2, 3]


def test_large_tables_are_told_as_they_were_timed():
    record = {"tables": [{"rows": 1_000_000, "parts": 1_000, "list_s": 0.051, "slice_s": 0.118}]}
    assert scaling.large_tables(record).reset_index().to_numpy().tolist() == [["1,000,000", "1,000", "0.05", "0.12"]]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"parts": 0}, "parts=0: give a whole number, 1 or more"),
        ({"parts": 2.5}, "parts=2.5: give a whole number"),
        ({"part_seconds": 0}, "part_seconds=0: give a number above 0"),
        ({"slow_speed": -1}, "slow_speed=-1: give a number above 0"),
        ({"slow_share": 1.5}, "slow_share=1.5: give a share of the workers, 0 to 1"),
        ({"restart": -1}, "restart=-1: give numbers, 0 or more"),
        ({"record": {}}, "the benchmarks say nothing of runs"),
        ({"record": {"runs": RUNS[:1]}}, "no sweep was run in one process: python -m benchmarks.scaling"),
    ],
    ids=str,
)
def test_what_cannot_be_simulated_is_said_in_a_line(given, why):
    with pytest.raises(ValueError, match=why):
        scaling.over_workers(**({"record": RECORD, "parts": 3, "part_seconds": 1.0} | ALIKE | given))


@pytest.mark.parametrize("find", [scaling.runs, scaling.large_tables], ids=lambda f: f.__name__)
def test_table_that_a_record_lacks_is_told_in_words(find):
    assert table_if(find, {}).startswith("No table here: the benchmarks say nothing of ")


@pytest.mark.parametrize("find", [scaling.measured, scaling.disturbed], ids=lambda f: f.__name__)
def test_numbers_that_a_record_lacks_are_told_in_words(find):
    assert tell_if("{none}", find, {}).startswith("Not answered here: the benchmarks say nothing of ")


def test_committed_record_answers_everything():
    assert scaling.runs(COMMITTED).index.tolist() == [1, 2]
    assert scaling.measured(COMMITTED)["faster"] > 1
    assert scaling.disturbed(COMMITTED)["kills"] == 100
    assert len(scaling.large_tables(COMMITTED)) == 2
    assert len(scaling.over_workers(COMMITTED, 10, 1.0, **ALIKE)) == 3 * len(scaling.WORKERS)
