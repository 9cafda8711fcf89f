"""Decoding against transformers and against loops without a cache."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import lmmem
from lmmem.inference.decoding import greedy, sample
from tests.plain import plain_greedy, plain_logits

LENGTH = 64
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def prompts(mini_corpus) -> np.ndarray:
    return lmmem.split(mini_corpus[200:207])[0]


def whole_logits(model, prompts, continuation) -> torch.Tensor:
    """Logits before each token of the continuation, from one pass without a cache."""
    return plain_logits(model, np.concatenate([prompts, continuation], axis=1))[:, prompts.shape[1] - 1 : -1]


def test_greedy_equals_transformers_generate(mini, prompts):
    np.testing.assert_array_equal(greedy(mini, prompts), plain_greedy(mini, prompts, LENGTH))


def test_greedy_is_the_argmax_of_the_whole_context(mini, prompts):
    said = greedy(mini, prompts)
    assert said.dtype == np.int64
    np.testing.assert_array_equal(whole_logits(mini, prompts, said).argmax(-1), said)


def test_greedy_equals_generate_with_the_shared_keys_of_amber_s_architecture():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    llama = LlamaForCausalLM(config).eval()
    tokens = np.arange(32).reshape(4, 8)
    expected = plain_greedy(llama, tokens, 20)
    assert len(np.unique(expected)) > 5
    np.testing.assert_array_equal(greedy(llama, tokens, 20), expected)
    np.testing.assert_array_equal(sample(llama, tokens, 1e-4, 2, seed=0, length=20), [expected, expected])


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_batch_size_changes_nothing(mini, prompts, batch_size):
    np.testing.assert_array_equal(greedy(mini, prompts, batch_size=batch_size), greedy(mini, prompts))
    kept = sample(mini, prompts, 1.0, 5, seed=1, length=8)
    np.testing.assert_array_equal(sample(mini, prompts, 1.0, 5, seed=1, length=8, batch_size=batch_size), kept)


def test_no_prompts_give_no_continuations(mini):
    assert greedy(mini, np.empty((0, 32), int)).shape == (0, LENGTH)
    assert sample(mini, np.empty((0, 32), int), 1.0, 2, seed=0).shape == (2, 0, LENGTH)


def test_end_of_text_can_be_banned(mini, prompts):
    free = greedy(mini, prompts)
    with torch.no_grad():
        head = mini.get_output_embeddings().weight
        before = head[0].clone()
        head[0] = 10 * head[int(free[0, 0])]  # now the end-of-document token wins at once
    try:
        assert (greedy(mini, prompts)[:, 0] == 0).any()
        banned = greedy(mini, prompts, ban_end_of_text=True)
        switch = {"min_new_tokens": LENGTH, "eos_token_id": mini.config.eos_token_id}  # as the published code sets it
        np.testing.assert_array_equal(banned, plain_greedy(mini, prompts, LENGTH, **switch))
        assert not (banned == 0).any()
    finally:
        with torch.no_grad():
            head[0] = before
    np.testing.assert_array_equal(greedy(mini, prompts), free)


def test_ban_needs_a_single_end_of_text_token(mini, prompts):
    mini.config.eos_token_id = None
    try:
        with pytest.raises(ValueError, match="names no single end-of-text token"):
            greedy(mini, prompts, ban_end_of_text=True)
    finally:
        mini.config.eos_token_id = 0


def test_first_sampled_token_follows_the_softmax(mini, prompts):
    n, temperature = 4_000, 0.8
    said = sample(mini, prompts[:1], temperature, n, seed=0, length=1)[:, 0, 0]
    logits = plain_logits(mini, prompts[:1])[0, -1].double()
    expected = torch.softmax(logits / temperature, -1).numpy()
    counts = np.bincount(said, minlength=len(expected))
    error = np.sqrt(np.maximum(n * expected * (1 - expected), 1))
    assert (np.abs(counts - n * expected) < 5 * error).all()


def test_uniforms_of_the_seed_pick_tokens_from_the_cumulative_distribution(mini, prompts):
    said = sample(mini, prompts, 0.7, 50, seed=4, length=1)[..., 0]
    uniforms = np.random.default_rng(4).random((len(prompts), 50, 1), dtype=np.float32)
    logits = plain_logits(mini, prompts)[:, -1].double()
    cumulative = torch.softmax(logits / 0.7, -1).cumsum(-1).numpy()
    expected = [np.searchsorted(row, u[:, 0], side="right") for row, u in zip(cumulative, uniforms, strict=True)]
    np.testing.assert_array_equal(said.T, expected)


def test_later_sampled_tokens_follow_the_softmax_of_their_own_past(mini, prompts):
    """The chance of the drawn tokens, averaged, is what independent draws of numpy give."""
    said = sample(mini, prompts, 1.0, 40, seed=3, length=16)
    rng = np.random.default_rng(0)
    drawn, expected = [], []
    for one in said:
        chance = torch.softmax(whole_logits(mini, prompts, one).double(), -1).numpy()
        drawn.append(np.take_along_axis(chance, one[..., None], -1).mean())
        other = (chance.cumsum(-1) < rng.random((*one.shape, 1))).sum(-1).clip(max=chance.shape[-1] - 1)
        expected.append(np.take_along_axis(chance, other[..., None], -1).mean())
    spread = np.std(np.subtract(drawn, expected)) / np.sqrt(len(drawn))
    assert abs(np.mean(drawn) - np.mean(expected)) < 5 * spread


def test_seed_determines_the_samples(mini, prompts):
    first = sample(mini, prompts, 1.0, 3, seed=0, length=8)
    np.testing.assert_array_equal(sample(mini, prompts, 1.0, 3, seed=0, length=8), first)
    assert (sample(mini, prompts, 1.0, 3, seed=1, length=8) != first).any()
    assert (first[0] != first[1]).any()


@pytest.mark.parametrize("temperature", [1e-4, 1e-30, 1e-39, 1.4e-45])
def test_low_temperature_is_greedy_in_the_end(mini, prompts, temperature):
    np.testing.assert_array_equal(sample(mini, prompts, temperature, 2, seed=0)[1], greedy(mini, prompts))


def test_temperature_zero_is_greedy(mini, prompts):
    np.testing.assert_array_equal(sample(mini, prompts, 0, 1, seed=0), greedy(mini, prompts)[None])


@pytest.mark.parametrize(
    ("temperature", "samples", "message"),
    [
        (0, 5, "at temperature 0 all 5 samples are equal"),
        (-0.1, 1, "temperature must be 0 or more"),
        (float("nan"), 1, "temperature must be 0 or more"),
        (1.0, 0, "samples must be at least 1"),
    ],
)
def test_impossible_sampling_is_refused(mini, prompts, temperature, samples, message):
    with pytest.raises(ValueError, match=message):
        sample(mini, prompts, temperature, samples, seed=0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros(32, int), "token ids"),
        (np.zeros((2, 32)), "token ids"),
        (np.zeros((2, 0), int), "token ids"),
        (np.full((1, 32), 512), "the vocabulary is 0 .. 511"),
        (np.full((1, 32), -1), "the vocabulary is 0 .. 511"),
        (np.zeros((1, 33), int), "the model's context of 96"),
    ],
)
def test_bad_prompts_are_refused(mini, bad, message):
    with pytest.raises(ValueError, match=message):
        greedy(mini, bad)


def test_batch_size_below_one_is_refused(mini, prompts):
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        greedy(mini, prompts, batch_size=0)


@pytest.mark.parametrize("heads", [4, 2, 1])
def test_heads_that_share_keys_attend_as_in_transformers(heads):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=heads,
        max_position_embeddings=64,
    )
    model = LlamaForCausalLM(config).eval()
    prompts = torch.randint(1, 50, (3, 7)).numpy()
    np.testing.assert_array_equal(greedy(model, prompts, 20), plain_greedy(model, prompts, 20))


def test_attention_of_the_model_is_put_back_even_after_an_error(mini, monkeypatch):
    model = copy.deepcopy(mini).cpu()  # a GPU keeps the model's own
    before = model.config._attn_implementation
    greedy(model, [[5, 6, 7]], 4)
    assert model.config._attn_implementation == before == "sdpa"
    seen = []

    def fails(*args, **kwargs):
        seen.append(model.config._attn_implementation)
        raise MemoryError

    monkeypatch.setattr(model.gpt_neox, "forward", fails)
    with pytest.raises(MemoryError):
        greedy(model, [[5, 6, 7]], 4)
    assert seen == ["lmmem_decoding"]
    assert model.config._attn_implementation == before


SHORT_OF_MEMORY = """
import resource, sys
import numpy as np, torch
from benchmarks.decoding import model_of_shape, prompts_for
from lmmem.inference import decoding

torch.set_num_threads(1)
model = model_of_shape("pocket")
prompts = prompts_for(model, 400)
expected = decoding.greedy(model, prompts, 4, batch_size=50)
sampled = decoding.sample(model, prompts[:2], 0.8, 200, seed=0, length=4, batch_size=50)
sizes, decode = [], decoding._decode

def noted(model, way, tokens, length, choose, first, copies=1, capacity=1):
    sizes.append(len(tokens) * copies)
    return decode(model, way, tokens, length, choose, first, copies, capacity)

decoding._decode = noted
held = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (held + 80_000_000, resource.RLIM_INFINITY))
said = decoding.greedy(model, prompts, 4, batch_size=400)
again = decoding.sample(model, prompts[:2], 0.8, 200, seed=0, length=4, batch_size=400)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert (said == expected).all() and (again == sampled).all()
print(*sizes)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the system does not hold a process to a limit")
def test_batch_is_halved_where_memory_is_short_and_nothing_else_changes():
    done = subprocess.run([sys.executable, "-c", SHORT_OF_MEMORY], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]
    sizes = list(map(int, done.stdout.split()))
    assert sizes[0] == 400
    assert min(sizes) < 400


def test_other_errors_are_raised_as_they_are(mini, monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("something else")

    monkeypatch.setattr(mini.gpt_neox, "forward", fails)
    with pytest.raises(RuntimeError, match="something else"):
        greedy(mini, [[5, 6, 7]] * 4, 4)
