"""The papermill commands for Pythia-1B and Amber-7B as typed, with tiny stand-ins behind the real names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests import stand_ins
from tests.pages import SECTIONS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
STEPS = {"pythia1b": 11_000, "amber7b": 101}


@pytest.mark.parametrize("model", STEPS)
@pytest.mark.parametrize("page", SECTIONS)
def test_page_runs_on_the_real_names_with_nothing_but_the_name(loopback, tmp_path, page, model):
    if model == "pythia1b":
        stand_ins.serve_pythia(loopback, tmp_path)
    else:
        stand_ins.serve_amber(loopback)
    papermill = Path(sys.executable).with_name("papermill")
    command = [papermill, ROOT / "notebooks" / f"{page}.md", "out.ipynb", "-p", "model", model]
    environment = os.environ | loopback.environment(tmp_path)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4_000:]
    notebook = nbformat.read(tmp_path / "out.ipynb", 4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "".join(output.get("text", "") for output in outputs if output.get("name") == "stdout")
    step = STEPS[model]
    assert f"Study of {model} at step {step}, " in said
    timed = ("03_perturbation", "03b_noise_in_detail", "04_temperature")
    assert page not in timed or "if nothing of it has been measured before" in said
    answer, *_, line = [o["data"]["text/markdown"] for o in outputs if "text/markdown" in o.get("data", {})]
    if page == "09_your_text":  # of a model that knows words, and none of this text
        assert re.match(r"Not answered here: \S+configuration_detr\.py: .* unknown to the model's tokenizer", answer)
        return
    assert answer.startswith("**The answer.** ")
    assert line.startswith(f"*model {model}, step {step}")
    assert "float16" in line
    assert sum("image/svg+xml" in output.get("data", {}) for output in outputs) >= 2
