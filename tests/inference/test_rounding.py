"""Weights rounded to fewer bits, and their exact restoration."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmmem.inference.rounding import ROUNDINGS, rounded
from tests.inference.test_perturbation import bits, small


def by_hand(row: np.ndarray, levels: int) -> np.ndarray:
    """The nearest of all that can be held, weight by weight."""
    there = np.abs(row).max() / levels * np.arange(-levels, levels + 1)
    return np.array([there[np.argmin(np.abs(there - weight))] for weight in row])


@pytest.mark.parametrize(("to", "levels"), [("int8", 127), ("int4", 7)])
def test_each_row_gets_the_nearest_of_its_multiples(to, levels):
    layer = torch.nn.Linear(50, 4)
    clean = layer.weight.detach().double().numpy()
    bias = layer.bias.detach().clone()
    with rounded(layer, to) as same:
        assert same is layer
        expected = np.stack([by_hand(row, levels) for row in clean])
        np.testing.assert_allclose(layer.weight.detach(), expected, rtol=1e-5, atol=1e-7)
        assert len({*layer.weight[0].tolist()}) <= 2 * levels + 1
        assert torch.equal(layer.bias, bias)


def test_float16_rounds_every_parameter_as_numpy_does():
    model = small()
    clean = [p.detach().numpy().copy() for p in model.parameters()]
    with rounded(model, "float16"):
        for parameter, weights in zip(model.parameters(), clean, strict=True):
            np.testing.assert_array_equal(parameter.detach(), weights.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("to", ROUNDINGS)
def test_rounded_weights_come_back_bit_for_bit(to, dtype):
    model = small(dtype)
    before = bits(model)
    with pytest.raises(KeyboardInterrupt), rounded(model, to):
        assert bits(model) != before or (to, dtype) == ("float16", torch.bfloat16)
        raise KeyboardInterrupt
    assert bits(model) == before


def test_row_of_zeros_stays_one():
    layer = torch.nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
    with rounded(layer, "int4"):
        assert torch.equal(layer.weight, torch.zeros(2, 3))


def test_fewer_bits_lie_further_away():
    layer = torch.nn.Linear(100, 100, bias=False)
    clean, away = layer.weight.detach().clone(), {}
    for to in ROUNDINGS:
        with rounded(layer, to):
            away[to] = float((layer.weight.detach() - clean).square().mean())
    assert away["float16"] < away["int8"] < away["int4"]


def test_weights_that_float16_cannot_hold_are_refused_and_left_alone():
    layer = torch.nn.Linear(2, 2)
    with torch.no_grad():
        layer.bias.fill_(1e6)
    before = bits(layer)
    with pytest.raises(ValueError, match=r"float16 cannot hold a weight of 1e\+06"), rounded(layer, "float16"):
        pass
    assert bits(layer) == before


def test_unknown_rounding_is_refused():
    with pytest.raises(ValueError, match="to='int2': give one of float16, int8, int4"), rounded(small(), "int2"):
        pass


@pytest.mark.parametrize("to", ROUNDINGS)
def test_weights_that_are_no_numbers_are_refused_by_name(to):
    model = small()
    with torch.no_grad():
        model.gpt_neox.layers[0].attention.dense.weight[0, 3] = torch.nan
    before = bits(model)
    message = r"1 of 1,024 weights of gpt_neox\.layers\.0\.attention\.dense\.weight are NaN"
    with pytest.raises(ValueError, match=message), rounded(model, to):
        pytest.fail("the block ran")
    assert bits(model) == before
