"""Two processes that decode on one machine, beside one alone: what each keeps, and what sharing costs one alone.

python -m benchmarks.sharing prints what it finds and writes sharing.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from lmmem.storage.provenance import environment

RESULTS = Path(__file__).parent / "sharing.json"
WORK = """
import time
from benchmarks.decoding import model_of_shape, prompts_for
from lmmem.inference import cores, decoding
if {alone}:
    decoding.look = cores.look = lambda: None
model = model_of_shape("pocket")
prompts = prompts_for(model, 32)
decoding.greedy(model, prompts)
calls, start = 0, time.monotonic()
while time.monotonic() - start < {seconds}:
    decoding.greedy(model, prompts)
    calls += 1
with open({out!r}, "w") as file:
    file.write(str(calls / (time.monotonic() - start)))
"""
IN_A_WORKER = """
import sys
from lmmem.sweep.cluster import connect
if __name__ == "__main__":
    connect("local:1").submit(exec, {code!r}, {{}}).result()
"""
STARTS = ("a script", "torch imported first", "a kernel of papermill", "a worker of Dask")


def started(
    how: str, folder: Path, number: int, seconds: float, *, alone: bool
) -> tuple[subprocess.Popen[bytes], Path]:
    """A process that decodes as often as it can, started in one of the ways people start Python."""
    out = folder / f"{number}"
    code = WORK.format(alone=alone, seconds=seconds, out=str(out))
    if how == "a kernel of papermill":
        page = folder / f"{number}.md"
        kernel = "kernelspec:\n  name: python3\n  display_name: Python 3\n  language: python\n"
        head = (
            "---\njupytext:\n  text_representation:\n    extension: .md\n    format_name: myst\n" + kernel + "---\n\n"
        )
        page.write_text(f"{head}```{{code-cell}} ipython3\n{code}```\n")
        command = [str(Path(sys.executable).with_name("papermill")), str(page), str(folder / f"{number}.ipynb")]
    else:
        script = folder / f"{number}.py"
        if how == "a worker of Dask":
            code = IN_A_WORKER.format(code=code)
        elif how == "torch imported first":
            code = "import torch\ntorch.zeros(2_000, 2_000) @ torch.zeros(2_000, 2_000)\n" + code
        script.write_text(code)
        command = [sys.executable, str(script)]
    root = str(Path(__file__).parents[1])
    given = os.environ | {"PYTHONPATH": root}
    process = subprocess.Popen(command, cwd=root, env=given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 - our own
    return process, out


def calls_per_second(how: str, processes: int, seconds: float, *, alone: bool = False) -> list[float]:
    """Of so many processes at once; `alone`, each as if it were alone on the machine."""
    with tempfile.TemporaryDirectory() as name:
        both = [started(how, Path(name), number, seconds, alone=alone) for number in range(processes)]
        for process, _ in both:
            if process.wait() != 0:
                raise RuntimeError(f"a process started as {how} has failed")
        return [float(out.read_text()) for _, out in both]


def measured(how: str, seconds: float, runs: int) -> dict[str, object]:
    """Calls a second of one alone and of each of two, in turn, and the shares that follow."""
    one: list[float] = []
    unaware: list[float] = []
    two: list[float] = []
    for _ in range(runs):
        unaware += calls_per_second(how, 1, seconds, alone=True)
        one += calls_per_second(how, 1, seconds)
        two += calls_per_second(how, 2, seconds)
    base = statistics.median(unaware)
    return {
        "how": how,
        "alone_unaware": unaware,
        "alone": one,
        "each_of_two": two,
        "alone_share": round(statistics.median(one) / base, 3),
        "each_share_min": round(min(two) / base, 3),
        "sum_share": round(2 * statistics.mean(two) / base, 3),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sharing", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the numbers go")
    given = parser.parse_args()
    record: dict[str, object] = {"environment": environment(), "seconds": given.seconds}
    record["starts"] = starts = [measured(how, given.seconds, given.runs) for how in STARTS]
    for line in starts:
        print(*(f"{key} {line[key]}" for key in ("how", "alone_share", "each_share_min", "sum_share")), sep=", ")
    unaware = calls_per_second("a script", 2, given.seconds, alone=True)
    record["two_unaware"] = unaware
    print("two that do not know of each other:", unaware)
    given.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {given.out}")


if __name__ == "__main__":
    main()
