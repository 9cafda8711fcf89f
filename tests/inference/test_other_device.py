"""Every measurement on a device without float64, and apart from numpy: simulated, as this machine has none."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import lmmem
from lmmem.inference.decoding import greedy, sample
from lmmem.inference.extraction import extraction_log_probs, near_verbatim_log_mass
from lmmem.inference.perturbation import cosines, perturbed, weight_rms
from lmmem.inference.rounding import ROUNDINGS, rounded
from lmmem.inference.scoring import cross_entropy, score_tokens
from lmmem.inference.teaching import native_precision, taught
from tests.other_device import lies_there, on_another_device

LENGTH = 8


def under_noise(model, rows, unit):
    prompts, _ = lmmem.split(rows)
    with perturbed(model, 0.1, seed=0, draw=3, unit=unit):
        return greedy(model, prompts, LENGTH)


def in_fewer_bits(model, rows, to):
    prompts, _ = lmmem.split(rows)
    with rounded(model, to):
        return greedy(model, prompts, LENGTH)


def taught_twice(model, rows):
    with taught(model, learning_rate=1e-3) as teacher:
        return [teacher.step(rows, np.array([1, 1, 1, -1])) for _ in range(2)]


def cosine_of_itself(model, rows):
    return cosines(model, [{name: p.detach().clone() for name, p in model.named_parameters()}], 0, [0])


MEASURES = {
    "greedy": lambda model, rows: greedy(model, lmmem.split(rows)[0], LENGTH),
    "sample": lambda model, rows: sample(model, lmmem.split(rows)[0], 0.8, 3, seed=0, length=LENGTH),
    "cross-entropy": lambda model, rows: cross_entropy(model, *lmmem.split(rows)),
    "tokens": lambda model, rows: np.stack(score_tokens(model, *lmmem.split(rows))),
    "extraction": lambda model, rows: extraction_log_probs(model, *lmmem.split(rows), [0.5, 1.0], top_k=40),
    "near": lambda model, rows: near_verbatim_log_mass(model, *lmmem.split(rows), 2, beams=4),
    "noise": lambda model, rows: under_noise(model, rows, "weight"),
    "noise in units of a tensor": lambda model, rows: under_noise(model, rows, "tensor"),
    **{to: lambda model, rows, to=to: in_fewer_bits(model, rows, to) for to in ROUNDINGS},
    "rms": lambda model, rows: weight_rms(model),
    "cosines": cosine_of_itself,
    "teaching": taught_twice,
}


@pytest.mark.parametrize("measure", MEASURES)
def test_what_is_measured_there_is_what_is_measured_here(mini, mini_corpus, measure, monkeypatch):
    monkeypatch.setattr("lmmem.inference.teaching.native_precision", lambda device: "float32")
    model, rows = copy.deepcopy(mini).cpu(), mini_corpus[[3, 5, 900, 40]]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = MEASURES[measure](model, rows)
    with on_another_device(model, "mps"):
        assert model.device.type == "mps"
        found = MEASURES[measure](model, rows)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_products_are_in_float32_where_weights_learn_there():
    assert native_precision(torch.device("mps")) == "float32"


def test_simulated_device_refuses_what_torch_refuses_there():
    layer = nn.Linear(3, 3)
    with on_another_device(layer, "mps"):
        weight = layer.weight.detach()
        for wrong in (
            weight.double,
            lambda: weight.to(torch.float64),
            lambda: weight.sum(dtype=torch.float64),
            lambda: torch.zeros(2, dtype=torch.float64, device=weight.device),
            lambda: torch.from_numpy(np.ones(2)).to(weight.device),
            lambda: torch.nn.functional.softmax(weight, dim=-1, dtype=torch.float64),
        ):
            with pytest.raises(TypeError, match="the MPS framework doesn't support float64"):
                wrong()
        with pytest.raises(TypeError, match="can't convert mps device type tensor to numpy"):
            weight.numpy()
        with pytest.raises(RuntimeError, match="expected all tensors to be on one device"):
            weight + torch.ones(3)
        assert not lies_there(weight.cpu().double())
        assert lies_there(weight.cpu().to(weight.device))
        assert lies_there(layer(torch.ones(3, device=weight.device)))
        np.testing.assert_array_equal(weight.cpu().numpy(), layer.weight.detach().cpu())
    with on_another_device(layer, "cuda"):
        assert layer.weight.double().device.type == "cuda"
    assert layer.weight.device.type == "cpu"
