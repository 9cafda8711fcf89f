"""Every benchmark of this machine's processor: prints what it finds, writes results.json."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import counting, decoding, likelihood, scan
from lmmem.storage.provenance import environment

RESULTS = Path(__file__).parent / "results.json"


def rows(quick: bool) -> list[dict[str, object]]:
    """Two ways to do one thing, side by side."""
    runs, found = (1 if quick else 5), []
    for part in (
        lambda: counting.distance_rows(2_000 if quick else 20_000, runs),
        lambda: counting.repeat_rows(min(runs, 3)),
        lambda: decoding.decoding_rows(runs),
        lambda: decoding.sampling_rows(min(runs, 3)),
        lambda: decoding.cache_rows(min(runs, 3)),
        lambda: decoding.sweep_rows(*((8, 1) if quick else (48, 5)), runs),
        lambda: likelihood.likelihood_rows(*(("pocket-mini", 8, 2) if quick else ("pocket", 736, 100))),
    ):
        for row in part():
            found.append(row.as_json())
            print(row, flush=True)
    return found


PARTS: dict[str, Callable[[bool], Any]] = {
    "rows": rows,
    "half": lambda quick: decoding.half_precision("pocket-mini" if quick else "pocket", 384),
    "repeats": lambda quick: counting.repeats_at_scale(20_000 if quick else 1_000_000),
    "growth": lambda quick: decoding.growth(1 if quick else 4),
    "scan": scan.measured,
}

APART = ("scan",)  # its record says itself with what it was measured; the others share one environment


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one run of everything, on small sizes: does it work?")
    parser.add_argument("--only", choices=APART, help="measure this part again, and keep the others of the file")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the numbers go")
    given = parser.parse_args()
    record = json.loads(given.out.read_text()) if given.only else {"environment": environment()}
    for name in [given.only] if given.only else PARTS:
        record[name] = PARTS[name](given.quick)
        if name != "rows":
            print(name, json.dumps(record[name], indent=1), flush=True)
        given.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {given.out}")


if __name__ == "__main__":
    main()
