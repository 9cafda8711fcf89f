"""How lmmem stands beside what others use, and beside what a machine can do: what the page on it tells.

Records of benchmarks/ in, tables and numbers out. Knows nothing of how anything is timed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lmmem.analysis.costs import FASTEST, GREEDY, LIMIT, SHARE, WITH_CACHE, Record, part

__all__ = ["answer", "beside", "gpu_answer", "limits", "on_gpu", "windows"]

FASTER, OF_LIMIT = "times as fast", "share of its rate"
# What the opening names, by what lmmem is held against; in the words of benchmarks/decoding.py and counting.py.
NAMED = {
    "uncached": "generate without cache, as published",
    "samples": "generate with num_return_sequences",
    "sweep": "load, perturb, generate one by one, as published",
    "repeats": "every pair, as published, in numba on all cores",
}
UNRECORDED = "each step told anew"  # as benchmarks/gpu.py names it
WAYS = {"scan": "lmmem scan", "greedy": "lmmem's greedy decoding"}


def beside(record: Record) -> pd.DataFrame:
    """How many times as fast lmmem is as the other way, as text.

    Parameters
    ----------
    record : as ``make bench`` writes it, with its rows.

    Returns
    -------
    One line a comparison, by what is done and by what else, alike together: median of the runs, with the smallest and
    the largest; runs.

    Raises
    ------
    ValueError : there is no such row.
    """
    return _told([row for row in part(record, "rows") if not _limit(row) and row["note"] != SHARE], FASTER)


def limits(record: Record) -> pd.DataFrame:
    """Which share of the machine's rate decoding reaches, as :func:`beside`: by what is done, and by the limit."""
    rows = [row | {"other": row["other"].removeprefix(LIMIT)} for row in part(record, "rows") if _limit(row)]
    return _told(rows, OF_LIMIT, "limit")


def on_gpu(record: Record) -> pd.DataFrame:
    """As :func:`beside`, of ``benchmarks/gpu.json``: comparisons, and shares of a limit and of a draw.

    Raises
    ------
    ValueError : nothing was measured, as there was no GPU.
    """
    rows = part(record, "rows")
    if not any("median" in row for row in rows):
        raise ValueError(f"none of {len(rows)} comparisons was measured, as no GPU was at hand")
    return _told(rows, f"{FASTER}; share of a limit or a draw")


def windows(record: Record) -> pd.DataFrame:
    """How long ways through the same windows of text take, as text.

    Returns
    -------
    One line a way and data type: decoded (windows), seconds (median), peak MB, recites alike (share of the windows).
    Of a way that could not be measured the reason stands first.
    """
    lines = {}
    for row in part(record, "scan", "windows"):
        if "skipped" in row:
            lines[f"not measured: {row['skipped']}", ""] = ("", "", "", "")
            continue
        lines[WAYS.get(row["way"], row["way"]), row["dtype"]] = (
            f"{row['decoded']}",
            f"{np.median(row['seconds']):.1f}",
            f"{row['peak_mb']:,}",
            f"{row['same_recited']:.0%}",
        )
    columns = ["decoded", "seconds", "peak MB", "recites alike"]
    return pd.DataFrame.from_dict(lines, orient="index", columns=columns).set_axis(
        pd.MultiIndex.from_tuples(lines, names=["way", "weights"])
    )


def answer(record: Record) -> dict[str, float]:
    """What the page opens with: medians of the comparisons that are asked about most.

    Returns
    -------
    least, most : times as fast as ``generate`` with its cache, over models, greedily in float32; low, high : shares of
    the rate of matrix products alone, at their fastest; uncached, samples, sweep, repeats : times as fast as those
    named in :data:`NAMED`.

    Raises
    ------
    ValueError : one of them was not measured.
    """
    rows = [row for row in part(record, "rows") if "median" in row]
    cached = [row["median"] for row in rows if row["other"] == WITH_CACHE and GREEDY["float32"].fullmatch(row["name"])]
    reached = [row["median"] for row in rows if row["other"] == FASTEST]
    first = {row["other"]: row["median"] for row in reversed(rows)}
    held = {WITH_CACHE: cached, FASTEST: reached} | {other: first.get(other) for other in NAMED.values()}
    if missing := [other for other, found in held.items() if not found]:
        raise ValueError(f"nothing was timed beside {'; '.join(missing)}: make bench")
    return {
        **{"least": min(cached), "most": max(cached), "low": min(reached), "high": max(reached)},
        **{name: first[other] for name, other in NAMED.items()},
    }


def gpu_answer(record: Record) -> dict[str, Any]:
    """What a GPU's part opens with: medians over models, from the least to the most.

    Returns
    -------
    gpu (its name); and as "1.5 to 1.9", or one number where it was timed of one model: cached, samples, sweep (times as
    fast as those named in :data:`NAMED`), recorded (as steps that are not), reached (share of matrix products, %).
    same (%) : of the tokens, on which recorded steps and others agree, at the least.

    Raises
    ------
    ValueError : nothing was measured, as there was no GPU, or one of them was not.
    """
    if (gpu := part(record, "gpu")) is None:
        raise ValueError("nothing was measured, as no GPU was at hand")
    named = {  # what it is held against, in which unit, and digits
        **{"cached": (WITH_CACHE, 1, 1), "samples": (NAMED["samples"], 1, 1), "sweep": (NAMED["sweep"], 1, 0)},
        **{"recorded": (UNRECORDED, 1, 1), "reached": (FASTEST, 100, 0)},
    }
    rows = [row for row in part(record, "rows") if "median" in row]
    told: dict[str, Any] = {"gpu": gpu}
    for name, (other, times, digits) in named.items():
        found = [times * row["median"] for row in rows if row["other"] == other]
        if not found:
            raise ValueError(f"nothing was timed beside {other}: python -m benchmarks.gpu")
        told[name] = " to ".join(dict.fromkeys(f"{end:.{digits}f}" for end in (min(found), max(found))))
    alike = [row["note"].partition("%")[0] for row in rows if row["other"] == UNRECORDED]
    return told | {"same": min(map(float, alike))}


def _limit(row: Mapping[str, Any]) -> bool:
    return row["other"].startswith(LIMIT)


def _told(rows: list[dict[str, Any]], what: str, other: str = "beside") -> pd.DataFrame:
    """Rows of a benchmark as text; one without a median was not measured."""
    if not rows:
        raise ValueError("nothing was timed: make bench")
    firsts = list(dict.fromkeys(row["name"] for row in rows))
    rows = sorted(rows, key=lambda row: firsts.index(row["name"]))
    lines = []
    for row in rows:
        if "median" not in row:
            lines.append(("not measured", ""))
            continue
        runs = len(row["ours_s"])
        spread = f" ({row['min']:.3g} to {row['max']:.3g})" if runs > 1 else ""
        lines.append((f"{row['median']:.3g}{spread}", str(runs)))
    names = pd.MultiIndex.from_tuples([(row["name"], row["other"]) for row in rows], names=["lmmem", other])
    return pd.DataFrame(lines, columns=[what, "runs"], index=names)
