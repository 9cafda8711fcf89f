"""The papermill commands for Pythia-1B and Amber-7B as typed, with tiny stand-ins behind the real names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests import stand_ins

ROOT = Path(__file__).parents[1]
FEW = "-p n_sequences 3 -p min_complexity 0 -p seed 1"
PAGES = {
    "01_repetition": "-p n_sequences 8",
    "02_complexity": "-p n_sequences 8",
    "03_perturbation": f"{FEW} -p draws 2 -p dose_draws 2",
    "04_temperature": f"{FEW} -p samples 2",
}


RUNS = [(page, model) for page in PAGES for model in ("pythia1b", "amber7b") if model == "pythia1b" or page > "03"]


@pytest.mark.parametrize(("page", "model"), RUNS)
def test_page_runs_on_the_real_names(loopback, tmp_path, page, model):
    if model == "pythia1b":
        stand_ins.serve_pythia(loopback, tmp_path)
    else:
        stand_ins.serve_amber(loopback)
    papermill = Path(sys.executable).with_name("papermill")
    command = [papermill, f"notebooks/{page}.md", tmp_path / "out.ipynb", "-p", "model", model, *PAGES[page].split()]
    environment = os.environ | loopback.environment(tmp_path)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4_000:]
    notebook = nbformat.read(tmp_path / "out.ipynb", 4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "".join(output.get("text", "") for output in outputs if output.get("name") == "stdout")
    step = 11_000 if model == "pythia1b" else 101
    if page[:2] in ("03", "04"):
        assert f"{model} at step {step}: " in said
    (line,) = [o["data"]["text/markdown"] for o in outputs if "text/markdown" in o.get("data", {})]
    assert line.startswith(f"*model {model}, step {step}")
    assert "float16" in line
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
