"""Simulated sweeps against cases that can be told by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lmmem.analysis.simulation import simulate


def test_one_worker_takes_the_sum_and_enough_workers_the_longest():
    tasks = [1.0, 5.0, 2.0]
    assert simulate(tasks, [1.0]) == 8.0
    assert simulate(tasks, [2.0]) == 4.0
    assert simulate(tasks, [1.0] * 3) == 5.0
    assert simulate(tasks, [1.0] * 9) == 5.0
    assert simulate([], [1.0]) == 0.0


def test_overhead_is_paid_for_each_task():
    assert simulate([1.0] * 4, [1.0], overhead=0.5) == 6.0
    assert simulate([1.0] * 4, [1.0] * 2, overhead=0.5) == 3.0


def test_free_worker_takes_the_next_task():
    assert simulate([3.0, 1.0, 1.0, 1.0], [1.0, 1.0]) == 3.0
    assert simulate([1.0, 1.0, 3.0], [1.0, 1.0]) == 4.0  # the longest last
    assert simulate([1.0] * 5, [1.0, 4.0]) == 1.0


def test_failures_cost_what_they_should():
    """A worker that fails at rate f needs (exp(f t) - 1) (1 / f + r) seconds for a task of t."""
    failures, task, restart = 0.2, 2.0, 3.0
    found = np.mean([simulate([task], [1.0], failures=failures, restart=restart, seed=s) for s in range(4_000)])
    assert found == pytest.approx((np.exp(failures * task) - 1) * (1 / failures + restart), rel=0.05)
    assert simulate([1.0] * 9, [1.0] * 3, failures=0.1, restart=1, seed=4) >= simulate([1.0] * 9, [1.0] * 3)


@pytest.mark.parametrize("speeds", [[], [1.0, 0.0], [-1.0]])
def test_workers_that_do_nothing_are_refused(speeds):
    with pytest.raises(ValueError, match="give the speed of each worker"):
        simulate([1.0], speeds)
