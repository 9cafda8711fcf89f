"""The recipes of the book and the five lines of the README, as they are written, on the small organism."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import transformers

from lmmem.analysis.prose import MINUS
from lmmem.pocket.organisms import checkpoint_folder
from tests import stand_ins
from tests import test_notebooks as rules
from tests.pages import SECTIONS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
RECIPES = (ROOT / "book" / "recipes.md").read_text()
NAME = "pocket-mini"


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


def block_with(word: str, language: str) -> str:
    """The one of the recipes that has this word."""
    (block,) = [block for block in blocks(RECIPES, language) if word in block]
    return block


def said_by(code: str) -> str:
    small = code.replace('"pocket"', f'"{NAME}"').replace("n=8", "n=4").replace("step=900", "step=60")
    assert small != code
    done = subprocess.run([sys.executable, "-c", small], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_experiment_of_the_recipe_compares_two_sigmas(mini):
    said = said_by(block_with("contrasts.gains", "python"))
    assert re.search(r"0\.01 +spread +16", said)
    assert re.search(r"0\.02 +spread +16", said)
    assert "model pocket-mini, step 120, seed 1" in said


def test_page_of_the_recipe_runs_and_keeps_to_the_rules_of_pages(mini, tmp_path):
    (page,) = re.findall(r"````markdown\n(.*?)````", RECIPES, flags=re.S)
    path = tmp_path / "two_sizes.md"
    path.write_text(page)
    for rule in (
        rules.test_parameters_cell_is_the_first_code_cell_and_the_only_one,
        rules.test_parameters_are_literals_and_the_common_ones_are_there,
        rules.test_cells_of_a_page_are_short,
        rules.test_what_a_page_computes_is_a_table_that_the_library_made,
        rules.test_page_opens_with_its_answer,
        rules.test_code_of_a_page_is_folded_but_for_its_parameters,
        rules.test_prose_of_a_page_reads_in_any_notebook,
        rules.test_page_ends_with_its_provenance,
    ):
        rule(path)
    command = [Path(sys.executable).with_name("papermill"), path, "out.ipynb", "-p", "model", NAME]
    done = subprocess.run([*command, "-p", "n_sequences", "4"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3_000:]
    outputs = [o for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells for o in cell.get("outputs", [])]
    told = [output["data"]["text/markdown"] for output in outputs if "text/markdown" in output.get("data", {})]
    assert re.match(r"\*\*The answer\.\*\* By the best of 20 draws, .* gain\n\S?\d", told[0])
    assert any("image/svg+xml" in output.get("data", {}) for output in outputs)


def test_measure_of_ones_own_is_compared_with_twins(mini):
    assert re.search(r"\n0 +16 +-?\d", said_by(block_with("words_in_common", "python")))


def test_texts_that_were_met_are_told_from_others_by_scores_and_by_teaching(mini, tmp_path):
    """By a folder that says nothing of its training: files that begin with a licence it has met, and stdlib's."""
    shutil.copytree(checkpoint_folder(NAME, 120), tmp_path / "my-model")
    known = sorted(Path(transformers.__file__).parent.glob("models/b*/configuration_*.py"))
    never = [file for file in sorted(Path(json.__file__).parents[1].glob("*.py")) if file.stat().st_size > 6_000]
    for name, files in {"known": known, "never": never}.items():
        (tmp_path / name).mkdir()
        for file in files[:8]:
            (tmp_path / name / file.name).write_text(file.read_text()[:1_500])
    code = block_with("known_and_never", "python").replace("presentations=8", "presentations=2")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"loss +known 1 +0\.\d", done.stdout) and re.search(r"known never seen +8 +2 ", done.stdout)
    code += block_with("alternatives", "python").replace("presentations=8", "presentations=1")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\nknown 1 +\d+\n", done.stdout) and re.search(r"\nn null +\d+\n", done.stdout)
    assert re.search(rf"\nbeyond the null +{MINUS}?\d+\.\d \(", done.stdout)


def test_text_of_the_recipe_is_asked_about(mini):
    said = said_by(block_with("text_sequences", "python"))
    assert re.search(r"text +token +prefix +kl_ld\n0 +0 +0 +\(\) +\d+\n1 +0 +64 +\(\) ", said)
    assert "model pocket-mini, step 120, seed 0" in said


def test_text_and_what_a_model_says_are_traced(mini):
    command = shlex.split(block_with("lmmem trace", "bash").replace("pocket", NAME))
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    searched, summary, head, *lines, _ = done.stdout.splitlines()
    assert searched == "searched: all 960 rows that pocket-mini has met by step 120"
    assert summary.startswith(f"runs of 16 tokens or more: {len(lines)}, with ")
    assert head.split()[:5] == ["place", "token", "length", "occurrences", "repeats"]
    assert any("Licensed under the Apache License" in line for line in lines)
    said = said_by(block_with("study.trace", "python"))
    assert said.count("token") == 8  # a table for each sequence


def test_one_exposure_of_pythia_is_read_from_what_others_published(loopback, tmp_path):
    def effect(since: np.ndarray) -> np.ndarray:
        return 8 * 0.5 ** (since / 20_000)

    published = stand_ins.losses(range(0, 144_000, 1_000), effect, seed=1)
    stand_ins.serve_losses(loopback, stand_ins.written_losses(published))
    command = [sys.executable, "-c", block_with("published_cohorts", "python")]
    environment = os.environ | loopback.environment(tmp_path)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    head, *lines, where = done.stdout.splitlines()
    assert head.split() == ["lag", "since", "estimate", "low", "high", "n", "clusters"]
    bins = np.array([line.split() for line in lines], dtype=float)[:, 1:]  # without the number of the line
    planted = np.array([effect(lag + np.arange(5_000)).mean() for lag in bins[:, 0]])
    np.testing.assert_allclose(bins[:, 2], planted, atol=0.5)
    assert np.mean((bins[:, 3] <= planted) & (planted <= bins[:, 4])) >= 0.75
    assert where.startswith("pietrolesci/pythia-deduped-stats@")
    assert (tmp_path / "one_exposure.svg").stat().st_size


def test_lines_of_the_readme_run_as_they_are_written(mini):
    study, functions = blocks((ROOT / "README.md").read_text(), "python")
    said = said_by(study)
    assert re.search(r"\d +spread +16 +-?\d", said)
    assert "model pocket-mini, step 120, seed 0" in said
    said_by("import lmmem\n" + functions)


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> Path:
    """A folder with what the recipe asks for, of a tiny model."""
    folder = tmp_path_factory.mktemp("mine")
    (facts,) = blocks(RECIPES, "toml")
    (folder / "mine.toml").write_text(facts)
    stand_ins.write_own(folder, steps=(6, 60, 120), rows_per_step=8)
    return folder


@pytest.mark.parametrize("page", SECTIONS)
def test_command_of_the_recipe_runs_every_page_on_a_model_of_ones_own(mine, page):
    papermill, _, _, *parameters = shlex.split(block_with("papermill", "bash"))
    places = [ROOT / "notebooks" / f"{page}.md", f"{page}.ipynb"]
    command = [Path(sys.executable).with_name(papermill), *places, *parameters]
    done = subprocess.run(command, cwd=mine, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3_000:]
    outputs = [o for cell in nbformat.read(mine / f"{page}.ipynb", 4).cells for o in cell.get("outputs", [])]
    told = [output["data"]["text/markdown"] for output in outputs if "text/markdown" in output.get("data", {})]
    if page == "09_your_text":  # of a model that knows words, and none of this text
        assert "are unknown to the model's tokenizer" in told[0]
        return
    assert told[0].startswith("**The answer.** ")
    assert told[-1].startswith("*model mine.toml, step 60")
