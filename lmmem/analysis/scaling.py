"""How sweeps scale: what was measured of them, and what is simulated from it, as the page on it tells.

The record ``benchmarks/scaling.json`` in, tables and numbers out. Knows only seconds and counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lmmem.analysis.costs import Numbers, Record, part
from lmmem.analysis.simulation import simulate

__all__ = ["WORKERS", "curves", "disturbed", "large_tables", "measured", "over_workers", "runs", "simulated"]

WORKERS = (1, 2, 4, 8, 16, 32, 64)
DAY = 86_400  # seconds


def runs(record: Record) -> pd.DataFrame:
    """The same sweep in more and more processes, measured beside simulated, as text.

    The simulation has the times of the parts with one process, and what one process spends between two of them.

    Returns
    -------
    One line a number of processes: measured (s; median, smallest, largest), simulated (s), times as fast as one.
    """
    one, *_ = found = _runs(record)
    tasks, alone = _parts_of_a_run(one), float(np.median(one["seconds"]))
    overhead = max(0.0, (alone - sum(tasks)) / len(tasks))
    lines = {}
    for run in found:
        seconds = run["seconds"]
        lines[run["workers"]] = (
            f"{np.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})",
            f"{simulate(tasks, [1.0] * run['workers'], overhead=overhead):.1f}",
            f"{alone / np.median(seconds):.2f}",
        )
    columns = ["measured (s)", "simulated (s)", "times as fast as one"]
    return pd.DataFrame.from_dict(lines, orient="index", columns=columns).rename_axis("processes")


def measured(record: Record) -> Numbers:
    """What was swept: model, sequences, draws, parts, runs; faster, the most processes beside one; processes."""
    one, *_, most = _runs(record)
    return {
        **{name: part(record, name) for name in ("model", "sequences", "draws")},
        "parts": len(_parts_of_a_run(one)),
        "runs": len(one["seconds"]),
        "processes": most["workers"],
        "faster": np.median(one["seconds"]) / np.median(most["seconds"]),
    }


def over_workers(
    record: Record,
    parts: int,
    part_seconds: float,
    *,
    slow_share: float,
    slow_speed: float,
    failures_per_day: float,
    restart: float,
    workers: Sequence[int] = WORKERS,
    seed: int = 0,
) -> pd.DataFrame:
    """Sweeps that were not run: parts whose times scatter as the measured ones, on more and more workers.

    Parameters
    ----------
    record : its parts say how times scatter.
    parts, part_seconds : how many, and how long one takes on average (s).
    slow_share, slow_speed : the share of workers that are slow, and their speed in times of the others.
    failures_per_day, restart : of each worker; seconds until it is back.
    seed : of the times and of the failures.

    Returns
    -------
    Columns kind (of workers: all alike, some slow, each failing at times), workers, hours, efficiency: the time that
    the work needs at least on these workers, over the time that it takes.

    Raises
    ------
    ValueError : a number that is none of its kind.
    """
    if isinstance(parts, bool) or not isinstance(parts, int) or parts < 1:
        raise ValueError(f"parts={parts!r}: give a whole number, 1 or more")
    for name, value in (("part_seconds", part_seconds), ("slow_speed", slow_speed)):
        if not value > 0:
            raise ValueError(f"{name}={value!r}: give a number above 0")
    if not 0 <= slow_share <= 1:
        raise ValueError(f"slow_share={slow_share!r}: give a share of the workers, 0 to 1")
    if min(failures_per_day, restart) < 0:
        raise ValueError(f"failures_per_day={failures_per_day!r}, restart={restart!r}: give numbers, 0 or more")
    seen = _runs(record)[0]["parts"]
    scatter = np.std(seen) / np.mean(seen)
    times = part_seconds * np.clip(1 + scatter * np.random.default_rng(seed).standard_normal(parts), 0.1, 3)
    failing = {"failures": failures_per_day / DAY, "restart": restart}
    kinds: list[tuple[str, float, dict[str, float]]] = [
        ("all alike", 0.0, {}),
        ("some slow", slow_share, {}),
        ("each failing at times", 0.0, failing),
    ]
    lines = []
    for many in workers:
        for kind, share, options in kinds:
            slow = round(share * many)
            speeds = [1.0] * (many - slow) + [slow_speed] * slow
            seconds = simulate(times, speeds, seed=seed, **options)
            lines.append((kind, many, seconds / 3600, times.sum() / sum(speeds) / seconds))
    return pd.DataFrame(lines, columns=["kind", "workers", "hours", "efficiency"])


def curves(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What is drawn of simulated sweeps, each as an estimate: the time that they take, and the efficiency."""
    labels = {"hours": "time of the sweep (hours)", "efficiency": "efficiency"}
    return {label: table.rename(columns={column: "estimate"}) for column, label in labels.items()}


def simulated(table: pd.DataFrame) -> Numbers:
    """What the simulation says of the most workers.

    Returns
    -------
    workers; hours, alone (hours of so many and of one, all alike); least (efficiency, over the kinds).
    """
    last, first = (table[table.workers == many] for many in (table.workers.max(), table.workers.min()))
    return {
        "workers": int(last.workers.iloc[0]),
        "hours": last.hours.iloc[0],
        "alone": first.hours.iloc[0],
        "least": last.efficiency.min(),
    }


def disturbed(record: Record) -> Numbers:
    """What became of sweeps whose workers were killed: kills, sweeps, rows, lost, doubled, differ; between (s from one
    kill to the next), times (as long as undisturbed).
    """
    found = part(record, "soak")
    return {
        **{name: found[name] for name in ("kills", "sweeps", "rows", "lost", "doubled", "differ")},
        "between": found["seconds"] / found["kills"],
        "times": found["seconds"] / found["undisturbed_s"],
    }


def large_tables(record: Record) -> pd.DataFrame:
    """How long large tables take to list and to read, as text: one line a number of rows and files."""
    found = pd.DataFrame(part(record, "tables"))
    return pd.DataFrame(
        {
            "rows": found.rows.map("{:,}".format),
            "files": found.parts.map("{:,}".format),
            "to list it (s)": found.list_s.map("{:.2f}".format),
            "to read the rows of one draw (s)": found.slice_s.map("{:.2f}".format),
        }
    ).set_index("rows")


def _runs(record: Record) -> list[dict[str, Any]]:
    """By the number of processes, one first."""
    found = sorted(part(record, "runs"), key=lambda run: run["workers"])
    if not found or found[0]["workers"] != 1:
        raise ValueError("no sweep was run in one process: python -m benchmarks.scaling")
    return found


def _parts_of_a_run(one: Mapping[str, Any]) -> list[float]:
    """Seconds of the parts of the first run; they stand one run after another."""
    return one["parts"][: len(one["parts"]) // len(one["seconds"])]
