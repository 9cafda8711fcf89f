"""Probabilities of extraction against enumeration, and against what the sampler draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import lmmem
from lmmem.inference import extraction
from lmmem.inference.decoding import greedy
from lmmem.inference.extraction import extraction_log_probs, near_verbatim_log_mass

TEMPERATURES = [0.4, 1.0, 2.5]


def random_model(vocabulary: int, seed: int = 0) -> GPTNeoXForCausalLM:
    """A model of few words whose logits are far apart."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=vocabulary, max_position_embeddings=16, **sizes)).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    return model.requires_grad_(False)


def enumerated(model, prompt, length, temperature, top_k=None) -> tuple[np.ndarray, np.ndarray]:
    """All continuations (V ** l, l), and the probability of each, token by token from logits alone."""
    vocabulary = model.config.vocab_size
    texts = np.array(list(itertools.product(range(vocabulary), repeat=length)))
    rows = torch.tensor(np.hstack([np.tile(prompt, (len(texts), 1)), texts]))
    logits = model(rows).logits[:, len(prompt) - 1 : -1].double().numpy() / temperature
    if top_k is not None:
        logits = np.where(logits >= np.sort(logits, axis=-1)[..., -top_k, None], logits, -np.inf)
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return texts, np.take_along_axis(p, texts[..., None], axis=-1)[..., 0].prod(axis=1)


@pytest.mark.parametrize("top_k", [None, 1, 2])
def test_log_probs_are_those_of_all_continuations_of_three_words(top_k):
    model, prompt = random_model(3), [2, 0]
    for number, temperature in enumerate(TEMPERATURES):
        texts, p = enumerated(model, prompt, 4, temperature, top_k)
        assert p.sum() == pytest.approx(1)
        found = extraction_log_probs(model, np.tile(prompt, (len(texts), 1)), texts, TEMPERATURES, top_k)
        assert found.shape == (3, 81, 4)
        np.testing.assert_allclose(np.exp(found[number].sum(axis=1)), p, rtol=1e-3, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.5, 3)])
def test_beams_that_hold_everything_find_all_of_the_mass_and_few_find_less(temperature, top_k):
    model, prompt = random_model(8), [1, 7, 3]
    texts, p = enumerated(model, prompt, 6, temperature, top_k)
    truths = texts[[0, np.argmax(p), 77_777]]
    apart = (texts[:, None] != truths).sum(axis=2)  # (8 ** 6, 3)
    mass = np.array([[p[differ <= d].sum() for d in range(3)] for differ in apart.T])
    prompts = np.tile(prompt, (3, 1))
    options = {"distance": 2, "temperature": temperature, "top_k": top_k}
    whole = near_verbatim_log_mass(model, prompts, truths, beams=735, **options)  # C(6, 2) places, 7 ** 2 words
    np.testing.assert_allclose(np.exp(whole), mass, rtol=1e-3, atol=1e-12)
    few = near_verbatim_log_mass(model, prompts, truths, beams=3, **options)
    exact = extraction_log_probs(model, prompts, truths, [temperature], top_k)[0].sum(axis=1)
    np.testing.assert_allclose(np.exp(few[:, 0]), np.exp(exact), rtol=1e-3)
    assert (np.exp(few) <= mass * 1.001).all()
    assert (few[:, 2] < whole[:, 2] - 1e-3).any()
    if top_k is None:
        assert (few[:, 1] > few[:, 0] + 1e-3).all()


@pytest.mark.parametrize("temperature", [1e-4, 1e-30, 1e-39, 1.4e-45])
def test_low_temperature_gives_all_mass_to_what_greedy_decoding_says(temperature):
    model, prompt = random_model(8), np.array([[1, 7, 3]])
    said = greedy(model, prompt, 6)
    other = (said + 1) % 8
    for text, p in ((said, 1.0), (other, 0.0)):
        exact = extraction_log_probs(model, prompt, text, [temperature])[0].sum()
        few = near_verbatim_log_mass(model, prompt, text, distance=1, temperature=temperature, beams=3)
        assert np.exp([exact, few[0, 0]]) == pytest.approx(p)
        assert np.exp(few[0, 1]) == pytest.approx(p)


def test_all_tokens_may_differ():
    model = random_model(3)
    mass = near_verbatim_log_mass(model, [[0, 1]], [[2, 0, 1]], distance=3, beams=27)
    assert mass[0, 3] == pytest.approx(0, abs=1e-5)


def test_batches_change_nothing(mini, mini_corpus, monkeypatch):
    cut = lmmem.split(mini_corpus[:5])
    together = near_verbatim_log_mass(mini, *cut, distance=2, beams=4)
    monkeypatch.setattr(extraction, "HYPOTHESES", 1)
    np.testing.assert_allclose(near_verbatim_log_mass(mini, *cut, distance=2, beams=4), together, rtol=1e-4)
    assert near_verbatim_log_mass(mini, cut[0][:0], cut[1][:0], 2).shape == (0, 3)
    assert extraction_log_probs(mini, cut[0][:0], cut[1][:0], [1.0]).shape == (1, 0, 64)


def test_more_beams_bound_more_closely_and_never_beyond_what_is_sampled(mini, mini_corpus):
    prompts, truth = (part[:, :n] for part, n in zip(lmmem.split(mini_corpus[:8]), (32, 6), strict=True))
    few, many = (near_verbatim_log_mass(mini, prompts, truth, 3, beams=beams) for beams in (2, 64))
    assert (many >= few - 1e-4).all()
    said = lmmem.sample(mini, prompts, 1.0, samples=500, seed=1, length=6)  # (500, 8, 6)
    near = ((said != truth).sum(axis=2) <= 3).sum(axis=0)
    assert (stats.binom.sf(near, 500, np.exp(many[:, 3]).clip(max=1)) < 1 - 1e-4).all()


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_sampler_draws_from_the_exact_distribution(mini, mini_corpus, temperature):
    """How often the likeliest tokens come, by chi-squared over sequences: a temperature off by a seventh is found."""
    samples, prompts = 400, lmmem.split(mini_corpus[:64])[0]
    likely = lmmem.greedy(mini, prompts, 8)  # whose probabilities are not tiny
    said = lmmem.sample(mini, prompts, temperature, samples, seed=11, length=8)
    right = (said == likely).cumprod(axis=2)  # (samples, n, l)
    exact = extraction_log_probs(mini, prompts, likely, [temperature, 1.15 * temperature])
    for length in (1, 2):
        p, off = np.exp(exact[:, :, :length].sum(axis=2))
        kept = samples * np.minimum(p, 1 - p) > 4
        hits = right[:, kept, length - 1].sum(axis=0)
        fit, unfit = (
            stats.chi2.sf(((hits - samples * q) ** 2 / (samples * q * (1 - q))).sum(), kept.sum())
            for q in (p[kept], off[kept])
        )
        assert kept.sum() >= 8
        assert unfit < 1e-4 < 1e-2 < fit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0: sampling needs one above 0"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"top_k": 0}, "top_k=0: 1 token or more"),
        ({"distance": 65}, "distance=65: of 64 tokens, 0 .. 64 may differ"),
        ({"distance": -1}, "distance=-1"),
        ({"beams": 0}, "beams=0: 1 hypothesis or more"),
    ],
)
def test_what_cannot_be_searched_is_refused(mini, mini_corpus, options, message):
    with pytest.raises(ValueError, match=message):
        near_verbatim_log_mass(mini, *lmmem.split(mini_corpus[:2]), **{"distance": 1} | options)


def test_prompts_and_truth_must_pair(mini):
    with pytest.raises(ValueError, match="must pair"):
        near_verbatim_log_mass(mini, np.zeros((2, 32), int), np.zeros((3, 64), int), 1)
    with pytest.raises(ValueError, match="must pair"):
        extraction_log_probs(mini, np.zeros((2, 32), int), np.zeros((3, 64), int), [1.0])
    with pytest.raises(ValueError, match="temperature=0"):
        extraction_log_probs(mini, np.zeros((2, 32), int), np.zeros((2, 64), int), [1.0, 0])
