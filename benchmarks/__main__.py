"""Every benchmark of this machine's processor: prints a table, writes results.json."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks import counting, decoding
from benchmarks.measure import Row
from lmmem.provenance import environment

RESULTS = Path(__file__).parent / "results.json"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one run of everything, on small sizes: does it work?")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the numbers go")
    given = parser.parse_args()
    runs = 1 if given.quick else 5
    rows: list[Row] = []
    for part in (
        lambda: counting.distance_rows(2_000 if given.quick else 20_000, runs),
        lambda: counting.repeat_rows(min(runs, 3)),
        lambda: decoding.decoding_rows(runs),
        lambda: decoding.sampling_rows(min(runs, 3)),
        lambda: decoding.sweep_rows(*((8, 1) if given.quick else (48, 5)), runs),
    ):
        for row in part():
            rows.append(row)
            print(row, flush=True)
    half = decoding.half_precision("pocket-mini" if given.quick else "pocket", 384)
    print(f"{half['same_tokens']:9.1%}  of the tokens of {half['model']} in bfloat16 are those in float32")
    scale = counting.repeats_at_scale(20_000 if given.quick else 1_000_000)
    for point in scale:
        print(
            f"{point['tokens_per_s'] / 1e6:9.0f} M tokens/s, {point['peak_mb']:.0f} MB  repeats of "
            f"{point['queries']:,} queries in {point['rows']:,} rows"
        )
    growth = decoding.growth(1 if given.quick else 4)
    record = {
        "environment": environment(),
        "rows": [row.as_json() for row in rows],
        "half": half,
        "repeats": scale,
        "growth": growth,
    }
    given.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {given.out}")


if __name__ == "__main__":
    main()
