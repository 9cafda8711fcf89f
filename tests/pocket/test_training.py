"""Training that can be stopped at any moment."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM, AutoTokenizer

import lmmem
from lmmem.pocket import training
from lmmem.pocket.__main__ import main
from lmmem.pocket.organisms import checkpoint_folder, data_folder, organism_folder, train, train_together
from lmmem.pocket.recipe import ORGANISMS, RECIPES
from lmmem.pocket.training import TERMS, whole_checkpoints
from lmmem.storage.files import DamagedError, sha256_of

pytestmark = pytest.mark.slow

NAME = "pocket-mini"
RECIPE = RECIPES[NAME]
LAST = f"step-{RECIPE.steps:06d}"


@pytest.fixture(scope="module")
def whole(mini) -> Path:
    """The organism of an uninterrupted run."""
    return organism_folder(NAME)


@pytest.fixture
def fresh(whole, monkeypatch, tmp_path) -> Path:
    """Another cache in which the data are there and the training is not."""
    monkeypatch.setenv("LMMEM_CACHE", str(tmp_path))
    folder = organism_folder(NAME)
    shutil.copytree(whole / "data", folder / "data")
    return folder


def start(**environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lmmem.pocket", NAME]
    env = os.environ | environment
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def weights(folder: Path, step: int = RECIPE.steps) -> bytes:
    return (folder / f"step-{step:06d}" / "model.safetensors").read_bytes()


def test_checkpoints_are_ordinary_hugging_face_folders(whole):
    assert len(RECIPE.checkpoints) >= 20
    for step in RECIPE.checkpoints:
        folder = whole / f"step-{step:06d}"
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert model.config.model_type == "gpt_neox"
        assert AutoTokenizer.from_pretrained(folder).decode([0]) == "<|endoftext|>"
    saved = load_file(whole / LAST / "model.safetensors")
    loaded = lmmem.load_model(NAME).state_dict()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_log_has_one_line_a_step_and_the_loss_falls(whole):
    log = pd.read_parquet(whole / "training_log.parquet")
    np.testing.assert_array_equal(log.step, np.arange(1, RECIPE.steps + 1))
    assert log.loss[-20:].mean() < 0.8 * log.loss[:5].mean()
    assert log.seconds.is_monotonic_increasing


def test_loss_of_the_log_is_that_of_the_checkpoint_on_the_next_rows(whole, mini_corpus):
    model = lmmem.load_model(NAME, 60)
    rows = mini_corpus.at_step(60)
    expected = lmmem.cross_entropy(model, rows[:, :1], rows[:, 1:]).mean()
    log = pd.read_parquet(whole / "training_log.parquet").set_index("step")
    np.testing.assert_allclose(log.loss[61], expected, rtol=0.02)  # training is in lower precision


def test_killed_three_times_it_ends_in_the_same_weights(whole, fresh):
    for step in (12, 48, 90):
        process = start()
        while not (fresh / f"step-{step:06d}").exists():
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (fresh / LAST).exists()
    process = start()
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "step 0 of" not in output
    for step in (0, 48, RECIPE.steps):
        assert weights(fresh, step) == weights(whole, step)
    ours, theirs = (pd.read_parquet(folder / "training_log.parquet") for folder in (fresh, whole))
    pd.testing.assert_series_equal(ours.loss, theirs.loss)


@pytest.mark.parametrize("threads", [1, 2])
def test_its_weights_do_not_depend_on_how_many_threads_there_are(whole, fresh, threads):
    output, _ = start(OMP_NUM_THREADS=str(threads)).communicate()
    assert "on 1 of the" in output
    assert weights(fresh) == weights(whole)


class Seen(TorchFunctionMode):
    """Counts how often tensors are made bfloat16."""

    times = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.times += func is torch.Tensor.bfloat16
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("precision", "asked"), [("float32", False), ("bfloat16", True)])
def test_nothing_is_computed_in_bfloat16_where_the_processor_emulates_it(
    whole, monkeypatch, tmp_path, precision, asked
):
    monkeypatch.setattr(training, "native_precision", lambda device: precision)
    rows = np.load(whole / "data" / "rows.npy", mmap_mode="r")
    recipe = dataclasses.replace(RECIPE, steps=2)
    tokenizer = AutoTokenizer.from_pretrained(whole / LAST)
    with Seen() as seen:
        training.fit("two steps", recipe, rows, "", tokenizer, tmp_path, [])
    assert (seen.times > 0) == asked
    assert json.loads((tmp_path / TERMS).read_text())["precision"] == precision


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Five steps of Newton and Schulz with Jordan's coefficients, in float64."""
    wide = matrix.double() if matrix.shape[0] <= matrix.shape[1] else matrix.double().T
    wide = wide / wide.norm()
    for _ in range(5):
        gram = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * gram + 2.0315 * gram @ gram) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


@pytest.mark.parametrize("shape", [(12, 12), (36, 12), (12, 48)])
def test_muon_in_float32_is_the_textbook_s(shape):
    torch.manual_seed(0)
    matrix, gradient = torch.randn(shape), torch.randn(shape)
    learnt = torch.nn.Parameter(matrix.clone())
    learnt.grad = gradient.clone()
    optimizer = torch.optim.Muon([learnt], lr=0.02, weight_decay=0.0)
    with training._Muon32():
        optimizer.step()
    expected = matrix.double() - 0.02 * max(1, shape[0] / shape[1]) ** 0.5 * orthogonal(gradient)
    torch.testing.assert_close(learnt.detach().double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(learnt.grad, gradient)


def test_what_was_begun_on_a_gpu_does_not_go_on_without_one(fresh, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    terms = {"device": "cuda", "precision": "bfloat16", "threads": 1}
    (fresh / TERMS).write_text(json.dumps(terms | {"rows_sha256": sha256_of(fresh / "data" / "rows.npy")}))
    with pytest.raises(RuntimeError, match="pocket-mini began on a GPU, and torch sees none: go on there, or delete "):
        train(NAME)
    assert not list(fresh.glob("step-*"))


def test_several_are_trained_at_once_and_what_is_derived_after_its_base(whole, fresh, monkeypatch):
    monkeypatch.setattr("lmmem.pocket.organisms.cores", lambda: 2)
    names = ["pocket-mini-hidden", NAME, "pocket-mini-erased"]
    folders = train_together(names)
    assert [folder.name.rpartition("-")[0] for folder in folders] == names
    assert weights(folders[1]) == weights(whole)
    for name, folder in zip(names, folders, strict=True):
        assert whole_checkpoints(folder, ORGANISMS[name]) == list(ORGANISMS[name].checkpoints)


def test_two_processes_at_once_train_it_once(whole, fresh):
    processes = [start(), start()]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sum("training pocket-mini in" in output for output in outputs) == 1
    assert weights(fresh) == weights(whole)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_damaged_last_checkpoint_is_trained_again(whole, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("LMMEM_CACHE", str(tmp_path))
    folder = organism_folder(NAME)
    shutil.copytree(whole, folder)
    damage(folder / LAST / "model.safetensors")
    (folder / f".{LAST}.killed.part").mkdir()
    assert checkpoint_folder(NAME, RECIPE.steps) == folder / LAST
    assert weights(folder) == weights(whole)
    assert not list(folder.glob(".*.part"))
    said = capfd.readouterr().err
    assert f"{folder / LAST / 'model.safetensors'} is not the file that was written there" in said
    assert "step 114 of 120" in said  # from the checkpoint before, not from the start


def test_damaged_early_checkpoint_is_trained_again_from_the_start(whole, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("LMMEM_CACHE", str(tmp_path))
    folder = organism_folder(NAME)
    shutil.copytree(whole, folder)
    (folder / "step-000006" / "config.json").unlink()
    train(NAME)
    assert "step 0 of 120" in capfd.readouterr().err
    assert all(weights(folder, step) == weights(whole, step) for step in (6, RECIPE.steps))


def test_damaged_data_are_made_again(whole, fresh, capfd):
    damage(fresh / "data" / "rows.npy")
    assert data_folder(NAME) == fresh / "data"
    assert (fresh / "data" / "rows.npy").read_bytes() == (whole / "data" / "rows.npy").read_bytes()
    assert "making it again" in capfd.readouterr().err


def test_damaged_data_of_other_packages_are_refused_and_kept(whole, monkeypatch, tmp_path):
    monkeypatch.setenv("LMMEM_CACHE", str(tmp_path))
    folder = organism_folder(NAME)
    shutil.copytree(whole, folder)
    terms = json.loads((folder / TERMS).read_text())
    (folder / TERMS).write_text(json.dumps(terms | {"rows_sha256": "that of other packages"}))
    damage(folder / "data" / "canaries.parquet")
    with pytest.raises(DamagedError, match="delete that folder to train anew"):
        lmmem.load_tokenizer(NAME)
    assert (folder / "data" / "rows.npy").read_bytes() == (whole / "data" / "rows.npy").read_bytes()


def test_missing_log_is_written_from_the_last_state(whole, monkeypatch, tmp_path):
    monkeypatch.setenv("LMMEM_CACHE", str(tmp_path))
    folder = organism_folder(NAME)
    shutil.copytree(whole, folder)
    (folder / "training_log.parquet").unlink()
    train(NAME)
    pd.testing.assert_frame_equal(
        pd.read_parquet(folder / "training_log.parquet"), pd.read_parquet(whole / "training_log.parquet")
    )


def test_whole_organism_is_not_trained_again(whole, capfd):
    main([NAME])
    output = capfd.readouterr()
    assert output.out.strip() == str(whole)
    assert "training" not in output.err


def test_step_without_checkpoint_is_refused():
    with pytest.raises(ValueError, match="keeps no checkpoint of step 7"):
        checkpoint_folder(NAME, 7)


def test_training_leaves_the_global_random_state_alone(whole, monkeypatch, tmp_path):
    monkeypatch.setenv("LMMEM_CACHE", str(tmp_path))
    folder = organism_folder(NAME)
    shutil.copytree(whole, folder)
    damage(folder / LAST / "model.safetensors")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    train(NAME)
    assert torch.equal(torch.rand(1), expected)
