"""Two ways to do one thing, timed side by side, and what the machine can do at most."""

from __future__ import annotations

import dataclasses
import gc
import json
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


@dataclasses.dataclass
class Row:
    """One line of the table: how many times faster ours is than the other, in one run.

    Attributes
    ----------
    name : what is done.
    other : what ours is held against.
    ours_s, other_s : seconds, run by run, alternating.
    note : what a reader has to know to judge it.
    """

    name: str
    other: str
    ours_s: list[float]
    other_s: list[float]
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """Other over ours, ascending."""
        return sorted(other / ours for ours, other in zip(self.ours_s, self.other_s, strict=True))

    def as_json(self) -> dict[str, object]:
        """With the smallest, middle and largest ratio."""
        ratios = self.ratios
        middle = {"min": ratios[0], "median": statistics.median(ratios), "max": ratios[-1]}
        return dataclasses.asdict(self) | {key: round(value, 4) for key, value in middle.items()}

    def __str__(self) -> str:
        found = self.as_json()
        return f"{found['median']:9.3g}x  ({found['min']:.3g} .. {found['max']:.3g})  {self.name} / {self.other}"


def side_by_side(
    name: str,
    ours: Callable[[], object],
    other_name: str,
    other: Callable[[], object],
    *,
    runs: int = 5,
    note: str = "",
) -> Row:
    """Time both in turn, so that what slows the machine slows both; each is run once before."""
    ours(), other()
    row = Row(name, other_name, [], [], note)
    for _ in range(runs):
        row.ours_s.append(seconds(ours))
        row.other_s.append(seconds(other))
    return row


def seconds(work: Callable[[], object]) -> float:
    """How long it takes, once."""
    gc.collect()
    start = time.perf_counter()
    work()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_own_process(code: str, *arguments: object) -> dict[str, float]:
    """What this code, run with these arguments by a fresh Python, prints as JSON."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)  # noqa: S603 - our own


@contextmanager
def peak_mb() -> Iterator[list[float]]:
    """The most memory that this process holds while the block runs, in MB: one number, when it ends.

    On Linux of its own memory, looked at a hundred times a second: pages of a mapped file are the
    system's, which takes them back when it needs them. Elsewhere the most it has ever held.
    """
    peak, done = [0.0], threading.Event()
    status = Path("/proc/self/status")

    def look() -> None:
        while True:
            held = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
            peak[0] = max(peak[0], int(held.split()[1]) * 1024 / 1e6)
            if done.wait(0.01):
                return

    if not status.exists():
        yield peak
        peak[0] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
        return
    watch = threading.Thread(target=look)
    watch.start()
    try:
        yield peak
    finally:
        done.set()
        watch.join()
