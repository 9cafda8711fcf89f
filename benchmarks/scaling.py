"""How a sweep scales: measured with 1 and 2 processes, and disturbed by a hundred kills.

python -m benchmarks.scaling prints what it finds and writes scaling.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd

RESULTS = Path(__file__).parent / "scaling.json"
RUNS = 3


def sweep(name: str, n: int, draws: int, seed: int, scheduler: str) -> tuple[float, pd.DataFrame, list[float]]:
    """Seconds of a perturbation sweep, its table, and the seconds of each of its parts."""
    import lmmem
    from lmmem.experiments.disturbed import perturbation_table
    from lmmem.storage.files import cache_folder
    from lmmem.storage.tables import load

    corpus = lmmem.training_data(name)
    index = corpus.canaries["index"][:n].tolist()
    before = set((cache_folder() / "results").rglob("*.parquet"))
    start = time.perf_counter()
    table = perturbation_table(name, corpus, index, sigma=1e-2, draws=draws, seed=seed, scheduler=scheduler)
    took = time.perf_counter() - start
    parts = set((cache_folder() / "results").rglob("*.parquet")) - before
    return took, table, [load(path)[1]["seconds"] for path in parts]


def measured_runs(name: str, n: int, draws: int, runs: int) -> list[dict[str, object]]:
    """The same sweep in 1 and 2 processes of one thread each, in turn."""
    found: dict[int, list[float]] = {1: [], 2: []}
    for workers in found:
        sweep(name, n, 20, 10_000, f"local:{workers}")  # processes start, and load the model
    parts: list[float] = []
    for run in range(runs):
        for workers, seconds in found.items():
            took, _, times = sweep(name, n, draws, 100 * run + workers, f"local:{workers}")
            seconds.append(took)
            parts += times if workers == 1 else []
    return [{"workers": workers, "seconds": seconds, "parts": parts} for workers, seconds in found.items()]


def soak(name: str, n: int, draws: int, kills: int, every: float) -> dict[str, object]:
    """A sweep again and again while a random worker is killed, beside the same sweeps undisturbed."""
    from lmmem.sweep.cluster import connect

    client = connect("local:2")
    over, done = threading.Event(), 0

    def kill() -> None:
        nonlocal done
        while done < kills and not over.wait(every):
            pids = list(client.run(os.getpid, on_error="ignore").values())
            if pids:
                os.kill(random.choice(pids), signal.SIGKILL)  # noqa: S311
                done += 1
        over.set()

    disturbed, seed, rows = 0.0, 20_000, 0
    tables = []
    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        while not over.is_set():
            took, table, _ = sweep(name, n, draws, seed, "local:2")
            disturbed, seed = disturbed + took, seed + 1
            tables.append(table)
    finally:
        over.set()
        killer.join(60)
    undisturbed, lost, doubled, differ = 0.0, 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        home = Path(os.environ["LMMEM_CACHE"])
        (Path(folder) / "organisms").symlink_to(home / "organisms")
        os.environ["LMMEM_CACHE"] = folder
        try:
            for number, table in enumerate(tables):
                took, expected, _ = sweep(name, n, draws, 20_000 + number, "local:2")
                undisturbed += took
                keys = table[["draw", "index"]]
                rows += len(expected)
                doubled += int(keys.duplicated().sum())
                lost += len(expected) - len(keys.drop_duplicates())
                differ += int((table.kl_ld.to_numpy() != expected.kl_ld.to_numpy()).sum()) if not lost else 0
        finally:
            os.environ["LMMEM_CACHE"] = str(home)
    return {
        "kills": done,
        "sweeps": len(tables),
        "rows": rows,
        "lost": lost,
        "doubled": doubled,
        "differ": differ,
        "seconds": disturbed,
        "undisturbed_s": undisturbed,
    }


def large_table(rows: int, parts: int) -> dict[str, object]:
    """Seconds to list a table of many rows, and to read those of one draw."""
    from lmmem.storage.results import Part, keep_part, measure_part, tables

    each = rows // parts
    rng = np.random.default_rng(0)
    for number in range(parts):
        part = Part("large", {"model": "none", "step": parts}, {"number": number}, of=rows)
        table = pd.DataFrame({"index": range(each), "draw": number, "kl_ld": rng.integers(0, 65, each)})
        keep_part(part, measure_part(part, table.copy))
    folder = part.path.parent
    start = time.perf_counter()
    listed = tables()
    listing = time.perf_counter() - start
    assert listed.loc[listed.folder == str(folder), "rows"].item() == rows
    start = time.perf_counter()
    found = pd.read_parquet(folder, filters=[("draw", "==", parts // 2), ("kl_ld", "<", 8)])
    reading = time.perf_counter() - start
    assert 0 < len(found) < each
    return {"rows": rows, "parts": parts, "list_s": listing, "slice_s": reading}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--model", default="pocket", help="an organism")
    parser.add_argument("--n", type=int, default=24, help="sequences; half of them in the disturbed sweeps")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--every", type=float, default=3.0, help="seconds between two kills")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the numbers go")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    from lmmem.storage.files import cache_folder
    from lmmem.storage.provenance import environment

    with tempfile.TemporaryDirectory() as folder:
        organisms = cache_folder() / "organisms"
        organisms.mkdir(exist_ok=True)
        (Path(folder) / "organisms").symlink_to(organisms)
        os.environ["LMMEM_CACHE"] = folder
        runs = measured_runs(given.model, given.n, given.draws, given.runs)
        for run in runs:
            print(run["workers"], "processes:", run["seconds"], "s", flush=True)
        soaked = soak(given.model, given.n // 2, given.draws, given.kills, given.every)
        large = [large_table(1_000_000, parts) for parts in (100, 1_000)]
    print(soaked, large, sep="\n")
    record = {"environment": environment(), "model": given.model, "sequences": given.n, "draws": given.draws}
    given.out.write_text(json.dumps(record | {"runs": runs, "soak": soaked, "tables": large}, indent=1) + "\n")
    print(f"written to {given.out}")


if __name__ == "__main__":
    main()
