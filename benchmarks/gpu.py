"""The comparisons on a GPU, in minutes and without a network: prints a table, writes gpu.json.

Models have the shapes of Pythia-1B and Amber-7B and random weights. On a machine without a GPU the
same code runs on shapes that a processor can do, and its rows say that nothing was measured.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from transformers import PreTrainedModel

from benchmarks import decoding
from benchmarks.measure import Row, side_by_side
from lmmem.inference import recording
from lmmem.storage.provenance import environment, gpu

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
        greedy = f"greedy, {prompts:,} prompts, {shape}"
        yield from decoding.greedy_rows(greedy, model, n, runs)
        yield unrecorded_row(greedy, model, n, runs)
        yield decoding.sampling_row(f"200 samples of each of 4 prompts, {shape}", model, few, samples, runs)
        if name == "Pythia-1B":
            yield decoding.sweep_row(f"1 draw on 16 sequences, {shape}", model, 16 if gpu else 2, 1)
            yield from decoding.share_rows(f"a draw on {prompts:,} sequences, {shape}", model, n, 1, runs)
        del model
        torch.cuda.empty_cache()


def unrecorded_row(name: str, model: PreTrainedModel, n: int, runs: int) -> Row:
    """What recording the step is worth; both ways have to say the same."""
    prompts = decoding.prompts_for(model, n)

    def unrecorded() -> np.ndarray:
        with mock.patch.object(recording, "can_record", lambda model: False):
            return decoding.greedy(model, prompts)

    same = (decoding.greedy(model, prompts) == unrecorded()).mean()
    note = f"{same:.1%} of the tokens are the same"  # a tie in half precision may fall either way
    return side_by_side(
        name, lambda: decoding.greedy(model, prompts), "each step told anew", unrecorded, runs=runs, note=note
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the numbers go")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name, found = gpu() or None, []
    for row in rows_on(device):
        print(row if name else f"not measured  {row.name} / {row.other}", flush=True)
        found.append(row.as_json() if name else {"name": row.name, "other": row.other})
        told = {"gpu": name, "environment": environment(), "rows": found}
        given.out.write_text(json.dumps(told, indent=1) + "\n")  # after each: a later one may not fit the memory
    print(f"written to {given.out}")


if __name__ == "__main__":
    main()
