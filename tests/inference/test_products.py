"""oneDNN's products in the place of torch's: the same numbers, and nothing left behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lmmem.inference import products
from lmmem.inference.products import fast_products

pytestmark = pytest.mark.skipif(not products._can(nn.Linear(2, 2)), reason="no oneDNN for x86 in this torch")


def layers(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    parts = [nn.Linear(192, 768), nn.GELU(), nn.Linear(768, 192, bias=False)]
    return nn.Sequential(*parts).to(dtype).requires_grad_(False)


SHAPES = pytest.mark.parametrize("shape", [(1, 192), (7, 192), (3, 5, 192), (300, 1, 192)])
LAID_OUT = pytest.mark.parametrize("laid_out", [2**30, 0])


@SHAPES
@LAID_OUT
@pytest.mark.parametrize("bias", [True, False])
def test_products_err_as_sums_in_float32_do(shape, laid_out, bias, monkeypatch):
    """By sqrt(K) roundings of the sum of K sizes (Higham and Mary 2019): bfloat16 would err by thousands of them."""
    monkeypatch.setattr(products, "LAID_OUT_BYTES", laid_out)
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(192, 768, bias=bias)).requires_grad_(False), torch.randn(shape)
    with fast_products(model, rows=7):
        assert "forward" in vars(model[0])
        said = model(x)
    weight, added = model[0].weight.double().T, model[0].bias.double() if bias else torch.zeros(768)
    exact, sizes = x.double() @ weight + added, x.double().abs() @ weight.abs() + added.abs()
    assert said.shape == exact.shape
    assert said.dtype == torch.float32
    assert ((said.double() - exact).abs() <= 192**0.5 * 2**-24 * sizes).all()


@SHAPES
@LAID_OUT
@pytest.mark.skipif(not products._can(layers(torch.bfloat16)[0]), reason="this processor does not multiply bfloat16")
def test_products_in_bfloat16_err_as_torch_s_do(shape, laid_out, monkeypatch):
    monkeypatch.setattr(products, "LAID_OUT_BYTES", laid_out)
    model, x = layers(torch.bfloat16), torch.randn(shape).bfloat16()
    exact = layers().double()(x.double())
    with fast_products(model, rows=7):
        assert "forward" in vars(model[0])
        said = model(x)
    error, theirs = ((found.double() - exact).abs().max() for found in (said, model(x)))
    assert said.shape == exact.shape
    assert said.dtype == torch.bfloat16
    assert error <= 2 * theirs


def test_layers_are_given_back_even_after_an_error():
    model = layers()
    with pytest.raises(ArithmeticError), fast_products(model, rows=1):
        raise ArithmeticError
    assert not any("forward" in vars(layer) for layer in model)


def test_weights_that_change_between_two_blocks_are_seen():
    model, x = layers(), torch.randn(4, 192)
    with fast_products(model, rows=4):
        before = model(x)
    model[2].weight.mul_(2)
    with fast_products(model, rows=4):
        torch.testing.assert_close(model(x), 2 * before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_numbers_are_left_to_torch(dtype):
    model = layers(dtype)
    with fast_products(model, rows=1):
        assert "forward" not in vars(model[0])


def test_layers_of_another_kind_or_with_a_forward_of_their_own_are_left_alone():
    class Scaled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    own, x = nn.Linear(3, 3), torch.ones(1, 3)
    own.forward = lambda x: x
    model = nn.ModuleList([Scaled(3, 3), own])
    with torch.inference_mode(), fast_products(model, rows=1):
        torch.testing.assert_close(model[0](x), 2 * nn.functional.linear(x, model[0].weight, model[0].bias))
        torch.testing.assert_close(model[1](x), x)
    assert "forward" in vars(own)
