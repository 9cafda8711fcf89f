"""Noise on the weights, and their exact restoration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from lmmem.inference.perturbation import perturbed, weight_rms


def bits(model) -> list[bytes]:
    return [p.detach().view(torch.uint8).numpy().tobytes() for p in model.parameters()]


def small(dtype=torch.float32, tied=False) -> GPTNeoXForCausalLM:
    config = GPTNeoXConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        tie_word_embeddings=tied,
    )
    return GPTNeoXForCausalLM(config).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_come_back_bit_for_bit(dtype):
    model = small(dtype)
    before = bits(model)
    with perturbed(model, 0.1, seed=0, draw=0) as same:
        assert same is model
        assert all(a != b for a, b in zip(before, bits(model), strict=True))
    assert bits(model) == before


def test_weights_come_back_after_an_exception():
    model = small()
    before = bits(model)
    with pytest.raises(KeyboardInterrupt), perturbed(model, 0.1, seed=0, draw=0):
        raise KeyboardInterrupt
    assert bits(model) == before


def test_tied_weights_are_perturbed_once_and_stay_tied():
    model = small(tied=True)
    before = bits(model)
    embedding = model.get_input_embeddings().weight
    assert embedding is model.get_output_embeddings().weight
    clean = embedding.detach().clone()
    with perturbed(model, 0.1, seed=0, draw=0):
        assert embedding is model.get_output_embeddings().weight
        np.testing.assert_allclose((embedding.detach() - clean).std().item(), 0.1, rtol=0.1)
    assert bits(model) == before


def test_noise_is_gaussian_with_the_given_deviation():
    layer = torch.nn.Linear(400, 400)
    clean = layer.weight.detach().clone()
    with perturbed(layer, 0.05, seed=1, draw=2):
        noise = ((layer.weight.detach() - clean) / 0.05).double().numpy().ravel()
    n = len(noise)
    assert abs(noise.mean()) < 5 / np.sqrt(n)
    assert abs(noise.std() - 1) < 5 / np.sqrt(2 * n)
    assert abs((np.abs(noise) < 1).mean() - 0.6827) < 5 * np.sqrt(0.22 / n)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_noise_in_half_precision_is_that_of_float32_rounded_once(dtype):
    exact = torch.nn.Linear(50, 50).to(dtype).float()  # weights that both dtypes can hold
    half = torch.nn.Linear(50, 50).to(dtype)
    half.load_state_dict(exact.state_dict())
    with perturbed(exact, 0.01, seed=0, draw=3), perturbed(half, 0.01, seed=0, draw=3):
        assert torch.equal(half.weight, exact.weight.to(dtype))


def test_noise_within_noise_comes_off_in_order():
    model = small()
    clean = bits(model)
    with perturbed(model, 0.1, seed=0, draw=0):
        once = bits(model)
        with perturbed(model, 0.1, seed=0, draw=1):
            assert bits(model) not in (clean, once)
        assert bits(model) == once
    assert bits(model) == clean


def noise_of(seed: int, draw: int) -> torch.Tensor:
    layer = torch.nn.Linear(8, 8, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
    with perturbed(layer, 1.0, seed, draw):
        return layer.weight.detach().clone()


def test_seed_and_draw_determine_the_noise():
    assert torch.equal(noise_of(3, 4), noise_of(3, 4))
    assert not torch.equal(noise_of(3, 4), noise_of(3, 5))
    assert not torch.equal(noise_of(3, 4), noise_of(4, 4))
    assert not torch.equal(noise_of(3, 4), noise_of(4, 3))


def test_tensors_of_one_draw_get_different_noise():
    pair = torch.nn.ModuleList([torch.nn.Linear(8, 8, bias=False) for _ in range(2)])
    with torch.no_grad():
        for layer in pair:
            layer.weight.zero_()
    with perturbed(pair, 1.0, seed=0, draw=0):
        assert not torch.equal(pair[0].weight, pair[1].weight)


def test_global_random_state_is_left_alone():
    layer = torch.nn.Linear(2, 2)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    with perturbed(layer, 1.0, seed=0, draw=0):
        assert torch.equal(torch.rand(1), expected)


def test_sigma_zero_changes_nothing():
    model = small()
    before = bits(model)
    with perturbed(model, 0, seed=0, draw=0):
        assert bits(model) == before


@pytest.mark.parametrize("sigma", [-1e-3, float("nan"), float("inf")])
def test_impossible_sigma_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma must be 0 or more"), perturbed(small(), sigma, seed=0, draw=0):
        pass


@pytest.mark.parametrize(("seed", "draw"), [(-1, 0), (0, -1)])
def test_negative_seed_or_draw_is_refused(seed, draw):
    with pytest.raises(ValueError, match="seed and draw must be 0 or more"), perturbed(small(), 0.1, seed, draw):
        pass


def test_rms_is_over_all_weights():
    layer = torch.nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.fill_(3)
        layer.bias.fill_(0)
    np.testing.assert_allclose(weight_rms(layer), np.sqrt(4 * 9 / 6))
