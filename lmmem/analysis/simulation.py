"""How long a sweep takes on workers that one does not have: page *How it scales* asks it.

A worker that is free takes the next task; one that fails loses what it was doing, and comes back.
Knows only seconds.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence

import numpy as np

__all__ = ["simulate"]


def simulate(
    tasks: Sequence[float],
    speeds: Sequence[float],
    *,
    overhead: float = 0.0,
    failures: float = 0.0,
    restart: float = 0.0,
    seed: int = 0,
) -> float:
    """Seconds until all tasks are done by workers that each take the next one when they are free.

    Parameters
    ----------
    tasks : seconds of each, on a worker of speed 1, in the order in which they are given out.
    speeds : of each worker.
    overhead : seconds between two tasks of a worker.
    failures : a second that a worker is at work, on average; what it was doing is lost.
    restart : seconds until a worker that failed is back.
    seed : of the failures.

    Raises
    ------
    ValueError : there is no worker, or a speed is not above 0.

    >>> simulate([2.0, 2.0, 2.0], [1.0, 2.0])
    2.0
    """
    if not speeds or min(speeds) <= 0:
        raise ValueError(f"give the speed of each worker, all above 0; got {list(speeds)}")
    rng = np.random.default_rng(seed)
    waiting = deque((0.0, task) for task in tasks)  # from when on it can be done
    free = [(0.0, worker) for worker in range(len(speeds))]
    end = 0.0
    while waiting:
        now, worker = heapq.heappop(free)
        ready, task = waiting.popleft()
        now = max(now, ready)
        needed = overhead + task / speeds[worker]
        lasts = rng.exponential(1 / failures) if failures else np.inf
        if lasts < needed:
            waiting.appendleft((now + lasts, task))
            heapq.heappush(free, (now + lasts + restart, worker))
        else:
            end = max(end, now + needed)
            heapq.heappush(free, (now + needed, worker))
    return float(end)
