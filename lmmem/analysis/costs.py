"""What measuring costs: the calculator of the page on it, and what was timed of repeats, sweeps and scans.

Records of benchmarks/ in, tables and numbers out. Knows neither models nor how anything is timed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lmmem.protocol import CONTINUATION, PROMPT

__all__ = [
    "counting",
    "draw",
    "growth",
    "half",
    "megabyte",
    "needed",
    "needed_on_gpu",
    "part",
    "provenance",
    "rates",
    "repeats",
    "sharing",
    "told_rates",
    "told_sharing",
    "weights_of",
]

Record = Mapping[str, Any]  # a file of benchmarks/, as it was written
Numbers = dict[str, Any]

WITH_CACHE = "generate with its cache"
LIMIT = "the limit: "
FASTEST = f"{LIMIT}matrix products alone, the fastest"
SHARE = "the ratio is the share of a draw"  # the note of such a row
# Weights of those that are timed: on a processor in float32, on a GPU in float16.
SHAPES = {"pocket": 2.6e6, "Pythia-70m": 70e6, "Pythia-160m": 160e6, "Pythia-1B": 1e9, "Amber-7B": 6.7e9}
GREEDY = {
    "float32": re.compile(r"greedy, (?P<shape>\S+?)(?: shape)?, (?P<at_once>[\d,]+) prompts, float32"),
    "float16": re.compile(r"greedy, (?P<at_once>[\d,]+) prompts, (?P<shape>\S+) shape, float16"),
}
MANY = {"M": 1e6, "B": 1e9}
TOKEN_BYTES = 2  # of a corpus of uint16 tokens, as Pythia's is
PAPER_TOKENS = 21e9  # among which the paper counts repeats
NO_GPU = "the processor"
LONG = 5_400  # seconds from which on a time is told in hours


def part(record: Record, *names: str) -> Any:
    """What a record holds under a name, or under names one within another.

    Raises
    ------
    ValueError : it holds nothing there.

    >>> part({"scan": {"whole": 3}}, "scan", "whole")
    3
    """
    held: Any = record
    for name in names:
        if name not in held:
            raise ValueError(f"the benchmarks say nothing of {', '.join(names)}: measure them again")
        held = held[name]
    return held


def weights_of(parameters: str) -> float:
    """How many weights a model has, of which the registry tells in words.

    Raises
    ------
    ValueError : it is not told.

    >>> weights_of("2.6 M"), weights_of("1 B")
    (2600000.0, 1000000000.0)
    """
    if not (told := re.fullmatch(r"(\d+(?:\.\d+)?) ([MB])", parameters)):
        raise ValueError(f"how many weights the model has is not known: {parameters!r} is not as '2.6 M' or '1 B' are")
    return float(told[1]) * MANY[told[2]]


def rates(record: Record) -> pd.DataFrame:
    """How fast greedy decoding was, by the shape of the model: on a processor in float32, on a GPU in float16.

    Parameters
    ----------
    record : as ``make bench`` or ``python -m benchmarks.gpu`` writes it, with its rows.

    Returns
    -------
    One line a shape: weights, at_once (prompts), seconds (median), generate (seconds, of ``generate`` with its cache).

    Raises
    ------
    ValueError : no such row is there.
    """
    lines = []
    for row in part(record, "rows"):
        told = next(filter(None, (known.fullmatch(row["name"]) for known in GREEDY.values())), None)
        if told and row["other"] == WITH_CACHE and told["shape"] in SHAPES and "ours_s" in row:
            shape, at_once = told["shape"], int(told["at_once"].replace(",", ""))
            lines.append((shape, SHAPES[shape], at_once, np.median(row["ours_s"]), np.median(row["other_s"])))
    if not lines:
        raise ValueError(f"no greedy decoding was timed beside {WITH_CACHE}: make bench")
    return pd.DataFrame(lines, columns=["shape", "weights", "at_once", "seconds", "generate"]).set_index("shape")


def told_rates(*records: Record) -> pd.DataFrame:
    """What the calculator goes by, as text: continuations a second, by the shape of the model; on a GPU where named.

    Parameters
    ----------
    records : as for :func:`rates`. One whose GPU is none is left out: nothing of it was measured.
    """
    found = pd.concat([rates(record).assign(on=record.get("gpu", NO_GPU)) for record in _measured(records)])
    return pd.DataFrame(
        {
            "on": found["on"],
            "million weights": [f"{weights / 1e6:g}" for weights in found.weights],
            "prompts at once": found["at_once"],
            "continuations a second": (found["at_once"] / found.seconds).map("{:.1f}".format),
            "by generate with its cache": (found["at_once"] / found.generate).map("{:.1f}".format),
        }
    )


def needed(
    record: Record, parameters: str, dtype: str, sequences: int, draws: int, tflops: float | None = None
) -> Numbers:
    """How long a measurement will take, and how much memory: of sequences, once greedily and once a draw.

    Parameters
    ----------
    record : as ``make bench`` writes it. parameters : the model's, as the registry tells them. dtype : its weights'.
    sequences, draws : how many.
    tflops : tera-operations a second of a GPU in half precision; None: on the machine of the record.

    Returns
    -------
    continuations; time, how it was told (words); memory (GB, of two copies of the weights); tokens, prompt.

    Raises
    ------
    ValueError : no whole number of sequences or draws, tflops not above 0, or the record lacks what it takes.
    """
    weights, continuations = weights_of(parameters), _continuations(sequences, draws)
    if tflops is None:
        seconds, like = _as_measured(rates(record), weights, continuations)
        scaled = ", scaled by the number of weights," if weights > SHAPES[like] else ""
        how = f"At the rate measured here for the shape of {like}{scaled}"
    else:
        seconds, how = _on_gpu(record, weights, continuations, tflops)
    return {
        "continuations": continuations,
        "time": _time(seconds),
        "how": how,
        "memory": 2 * weights * (4 if dtype == "float32" else 2) / 1e9,
        "tokens": CONTINUATION,
        "prompt": PROMPT,
    }


def needed_on_gpu(record: Record, parameters: str, sequences: int, draws: int) -> Numbers:
    """How long it will take on the GPU of a record, in half precision.

    Parameters
    ----------
    record : as ``python -m benchmarks.gpu`` writes it. Others as for :func:`needed`.

    Returns
    -------
    gpu (its name), shape (by whose rate), limit ("" or "at most ", of models smaller than any that was timed), time.

    Raises
    ------
    ValueError : as :func:`needed`, or nothing was measured, as there was no GPU.
    """
    weights, continuations = weights_of(parameters), _continuations(sequences, draws)
    if (gpu := part(record, "gpu")) is None:
        raise ValueError("how long it takes on a GPU is not known: none was at hand")
    found = rates(record)
    seconds, shape = _as_measured(found, weights, continuations)
    limit = "at most " if weights < found.weights.min() else ""
    return {"gpu": gpu, "shape": shape, "limit": limit, "time": _time(seconds)}


def repeats(record: Record) -> pd.DataFrame:
    """How long it takes to count repeats, as text: one line a corpus and number of queries."""
    found = pd.DataFrame(part(record, "repeats"))
    return pd.DataFrame(
        {
            "corpus (GB)": _gigabytes(found).map("{:.1f}".format),
            "queries": found.queries.map("{:,}".format),
            "seconds": found.seconds.map("{:.1f}".format),
            "million tokens a second": (found.tokens_per_s / 1e6).map("{:.0f}".format),
            "peak memory (MB)": found.peak_mb.map("{:.0f}".format),
        }
    ).set_index("corpus (GB)")


def _gigabytes(found: pd.DataFrame) -> pd.Series:
    return found.seconds * found.tokens_per_s * TOKEN_BYTES / 1e9


def counting(record: Record) -> Numbers:
    """What counting repeats costs, by the largest corpus and a line through those with as many queries.

    Returns
    -------
    queries; rate (million tokens a second); fixed (s), per_gb (s); minutes, for as many tokens as the paper counts in,
    billions of them.

    Raises
    ------
    ValueError : fewer than two sizes were timed with as many queries.
    """
    found = pd.DataFrame(part(record, "repeats"))
    largest = found.sort_values("rows").iloc[-1]
    many = found[found.queries == largest.queries]
    if many.rows.nunique() < 2:
        raise ValueError("a line through the sizes of a corpus needs two of them")
    per_gb, fixed = np.polyfit(_gigabytes(many), many.seconds, 1)
    return {
        "queries": int(largest.queries),
        "rate": largest.tokens_per_s / 1e6,
        "fixed": fixed,
        "per_gb": per_gb,
        "minutes": PAPER_TOKENS / largest.tokens_per_s / 60,
        "billions": PAPER_TOKENS / 1e9,
    }


def growth(record: Record) -> Numbers:
    """How a perturbation sweep grows: exponents of its time by draws and by sequences, and its memory by draws.

    Returns
    -------
    draws, sequences (exponents: a line through the logarithms); times (the most draws over the fewest), memory (of
    those over that of these).
    """
    found = pd.DataFrame(part(record, "growth")).sort_values("times", kind="stable")
    slopes = {
        str(what): np.polyfit(np.log(lines.times), np.log(lines.seconds), 1)[0] for what, lines in found.groupby("what")
    }
    if missing := {"draws", "sequences"} - slopes.keys():
        raise ValueError(f"the benchmarks say nothing of growth by {', '.join(sorted(missing))}: measure it again")
    by_draws = found[found.what == "draws"]
    first, last = by_draws.iloc[0], by_draws.iloc[-1]
    return {**slopes, "times": int(last.times // first.times), "memory": last.peak_mb / first.peak_mb}


def draw(record: Record) -> Numbers:
    """What of a draw is not decoding: noise (put on the weights and taken away), distances; shares."""
    lines = {row["other"]: row for row in part(record, "rows") if row["note"] == SHARE}
    if missing := {"noise and restoration alone", "distances alone"} - lines.keys():
        raise ValueError(f"of a draw, {', '.join(sorted(missing))} was not timed: make bench")
    return {
        "noise": lines["noise and restoration alone"]["median"],
        "distances": lines["distances alone"]["median"],
    }


def half(record: Record) -> Numbers:
    """What half precision changes: sequences; tokens, distances (shares that stay); full, halved (mean kl-LD)."""
    found = part(record, "half")
    full, halved, *_ = found["mean_kl_ld"]
    return {
        "model": found["model"],
        "sequences": found["sequences"],
        "tokens": found["same_tokens"],
        "distances": found["same_kl_ld"],
        "full": full,
        "halved": halved,
    }


def megabyte(record: Record) -> Numbers:
    """What a scan of a long text costs, and what a plain loop over the same windows would.

    Returns
    -------
    what, model, date; windows, whole (recited to their end), decoded, peak (MB), minutes; apart and together: minutes
    of ``generate`` one by one and many at a time, timed on apart_n and together_n windows, together_at at a time.

    Raises
    ------
    ValueError : generate was not timed both ways.
    """
    found = part(record, "scan", "whole")
    loops = {one["at_once"]: one for one in found["generate"]}
    if len(loops) != 2 or 1 not in loops:
        raise ValueError("generate was not timed one by one and many at a time: python -m benchmarks --only scan")
    many = max(loops)
    return {
        **{name: found[name] for name in ("model", "windows", "whole", "decoded")},
        "what": found["text"],
        "date": part(record, "scan", "environment")["date"][:10],
        "peak": found["peak_mb"],
        "minutes": found["seconds"] / 60,
        "apart": loops[1]["scaled_s"] / 60,
        "apart_n": loops[1]["windows"],
        "together": loops[many]["scaled_s"] / 60,
        "together_n": loops[many]["windows"],
        "together_at": many,
    }


def told_sharing(record: Record) -> pd.DataFrame:
    """What processes keep that share the cores of a machine, as text: one line a way to start them."""
    found = pd.DataFrame(part(record, "starts")).set_index("how").rename_axis("started as")
    shares = {
        "alone_share": "alone",
        "each_share_min": "each of two, at least",
        "sum_share": "two in sum",
    }
    return found[[*shares]].map("{:.2f}".format).rename(columns=shares)


def sharing(record: Record) -> Numbers:
    """What each of two keeps at least that do not share: kept (share of one alone); date."""
    starts, two = part(record, "starts"), part(record, "two_unaware")
    return {
        "kept": min(two) / np.median(starts[0]["alone_unaware"]),
        "date": part(record, "environment")["date"][:10],
    }


def provenance(*records: Record) -> Numbers:
    """On what files of benchmarks were measured, with what, and when: made, one line.

    Parameters
    ----------
    records : each with its environment; what of it was measured apart, as a scan is, has one of its own. One whose GPU
        is none is left out: nothing of it was measured.
    """
    told = []
    for record in _measured(records):
        told.append(_made(record))
        told += [f"{name}: {_made(of)}" for name, of in record.items() if isinstance(of, dict) and "environment" in of]
    return {"made": "; ".join(dict.fromkeys(told))}


def _measured(records: Sequence[Record]) -> list[Record]:
    """Those of which anything was measured: a record of a GPU that is none has nothing."""
    return [record for record in records if record.get("gpu", NO_GPU) is not None]


def _made(record: Record) -> str:
    """Of one of them."""
    found = part(record, "environment")
    on = f"{found['cores']} cores of {found['processor']}" + (f" and {record['gpu']}" if record.get("gpu") else "")
    return f"{on}, lmmem {found['lmmem']} {found['commit']}, torch {found['torch']}, measured {found['date'][:10]}"


def _continuations(sequences: int, draws: int) -> int:
    """How many are asked for."""
    for name, value, least in (("n_sequences", sequences, 1), ("draws", draws, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value!r}: give a whole number, {least} or more")
    return sequences * (1 + draws)


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds > LONG else f"{seconds / 60:.1f} minutes"


def _as_measured(found: pd.DataFrame, weights: float, continuations: int) -> tuple[float, str]:
    """Seconds at measured rates, and by whose: the shape whose size is nearest; larger models in proportion."""
    like = found.iloc[int(np.abs(np.log(found.weights / weights)).argmin())]
    return continuations / like.at_once * like.seconds * max(1.0, weights / like.weights), str(like.name)


def _on_gpu(record: Record, weights: float, continuations: int, tflops: float) -> tuple[float, str]:
    """Seconds by a GPU's rate, of which decoding reaches as much as it does of the machine's of a record."""
    if isinstance(tflops, bool) or not isinstance(tflops, int | float) or not 0 < tflops < np.inf:
        raise ValueError(f"tflops={tflops!r}: give a number above 0, tera-operations a second")
    share = next((row["median"] for row in part(record, "rows") if row["other"] == FASTEST and "median" in row), None)
    if share is None:
        raise ValueError(f"decoding was not timed beside {FASTEST.removeprefix('the limit: ')}: make bench")
    operations = 2 * weights * continuations * (PROMPT + CONTINUATION - 1)
    reached = f"of which decoding reaches the share of {share:.0%} that it reaches here for `pocket`,"
    return operations / (tflops * 1e12 * share), f"On a GPU that multiplies at {tflops:g} TFLOPS, {reached}"
