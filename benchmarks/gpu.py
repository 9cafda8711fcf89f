"""The comparisons on a GPU, in minutes and without a network: prints a table, writes gpu.json.

Models have the shapes of Pythia-1B and Amber-7B and random weights. On a machine without a GPU the
same code runs on shapes that a processor can do, and its rows say that nothing was measured.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import decoding
from benchmarks.measure import Row
from lmmem.provenance import environment

RESULTS = Path(__file__).parent / "gpu.json"
SHAPES = {"Pythia-1B": ("a small GPT-NeoX", 1_024), "Amber-7B": ("a small Llama", 256)}  # stand-in, prompts
RUNS = 3


def rows_on(device: str) -> Iterator[Row]:
    """Rows, one after another: on a GPU of the shapes themselves, else of stand-ins and a few prompts."""
    gpu = device == "cuda"
    for name, (stand_in, prompts) in SHAPES.items():
        model = decoding.model_of_shape(name if gpu else stand_in, torch.float16 if gpu else torch.float32, device)
        shape = f"{name} shape, float16"
        n, few, samples, runs = (prompts, 4, 200, RUNS) if gpu else (2, 2, 3, 1)
        yield from decoding.greedy_rows(f"greedy, {prompts:,} prompts, {shape}", model, n, runs, reading=True)
        yield decoding.sampling_row(f"200 samples of each of 4 prompts, {shape}", model, few, samples, runs)
        if name == "Pythia-1B":
            yield decoding.sweep_row(f"1 draw on 16 sequences, {shape}", model, 16 if gpu else 2, 1)
            noise = f"noise and restoration alone, as a share of a draw on {prompts:,} sequences, {shape}"
            yield decoding.noise_row(noise, model, n, 1, runs)
        del model
        torch.cuda.empty_cache()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the numbers go")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = []
    for row in rows_on(device):
        if device == "cuda":
            print(row, flush=True)
            found.append(row.as_json())
        else:
            print(f"not measured  {row.name} / {row.other}", flush=True)
            found.append({"name": row.name, "other": row.other})
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    given.out.write_text(json.dumps({"gpu": gpu, "environment": environment(), "rows": found}, indent=1) + "\n")
    print(f"written to {given.out}")


if __name__ == "__main__":
    main()
