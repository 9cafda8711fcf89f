"""Cross-entropy against log-softmax by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import lmmem
from lmmem.inference import scoring
from lmmem.inference.scoring import score_tokens
from tests.plain import plain_logits


def test_cross_entropy_is_the_mean_log_likelihood_token_by_token(mini, mini_corpus):
    prompts, truth = lmmem.split(mini_corpus[:70])  # more than one batch
    found = lmmem.cross_entropy(mini, prompts, truth)
    for i in (0, 69):
        past, loss = list(prompts[i]), 0.0
        for token in truth[i]:
            logits = plain_logits(mini, [past])[0, -1].double().numpy()
            loss += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[token]
            past.append(token)
        np.testing.assert_allclose(found[i], loss / len(truth[i]), rtol=1e-4)


def test_no_sequences_give_no_losses(mini):
    assert lmmem.cross_entropy(mini, np.empty((0, 32), int), np.empty((0, 64), int)).shape == (0,)


def test_prompts_and_truth_must_pair(mini):
    with pytest.raises(ValueError, match="must pair"):
        lmmem.cross_entropy(mini, np.zeros((2, 32), int), np.zeros((3, 64), int))


@pytest.mark.parametrize(
    ("prompt", "truth"),
    [
        (np.full((1, 32), 0.5), np.ones((1, 64), int)),
        (np.full((1, 32), 512), np.ones((1, 64), int)),
        (np.ones((1, 32), int), np.append(np.ones(63, int), -100)[None]),
        (np.ones((1, 32), int), np.ones((1, 66), int)),
        (np.ones((1, 32), int), np.ones((1, 0), int)),
    ],
    ids=["fractions", "outside the vocabulary", "torch's ignored index", "past the context", "no tokens"],
)
def test_what_the_model_cannot_score_is_refused(mini, prompt, truth):
    with pytest.raises(ValueError):
        lmmem.cross_entropy(mini, prompt, truth)


def test_scores_of_tokens_are_those_of_the_models_distribution_token_by_token(mini, mini_corpus):
    prompts, truth = lmmem.split(mini_corpus[:70])
    scores = score_tokens(mini, prompts, truth)
    for i in (0, 69):
        logits = plain_logits(mini, np.r_[prompts[i], truth[i]][None, :-1])[0, -64:].double().numpy()
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        own = p[np.arange(64), truth[i]]
        np.testing.assert_allclose(scores.log_prob[i], np.log(own), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(scores.entropy[i], -(p * np.log(p)).sum(axis=1), rtol=1e-3, atol=1e-4)
        mean = (p * np.log(p)).sum(axis=1, keepdims=True)
        spread = np.sqrt((p * (np.log(p) - mean) ** 2).sum(axis=1))
        np.testing.assert_allclose(scores.spread[i], spread, rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(scores.rank[i], 1 + (p > own[:, None]).sum(axis=1))
        np.testing.assert_array_equal(scores.likeliest[i], p.argmax(axis=1) == truth[i])
    np.testing.assert_allclose(-scores.log_prob.mean(axis=1), lmmem.cross_entropy(mini, prompts, truth), rtol=1e-5)
    assert score_tokens(mini, prompts[:0], truth[:0]).rank.shape == (0, 64)
    with pytest.raises(ValueError, match="must pair"):
        score_tokens(mini, prompts[:1], truth[:2])


def test_token_that_the_model_is_sure_of_has_no_spread_and_no_nan(mini, mini_corpus):
    sure = copy.deepcopy(mini)
    with torch.no_grad():
        sure.get_output_embeddings().weight.mul_(1e3)
    scores = score_tokens(sure, *lmmem.split(mini_corpus[:3]))
    assert all(np.isfinite(values).all() for values in scores)
    assert (scores.spread >= 0).all() and scores.entropy.min() < 1e-3


def test_tokens_of_a_whole_row_are_scored_as_those_of_its_continuation(mini, mini_corpus):
    prompts, truth = lmmem.split(mini_corpus[:20])
    row = score_tokens(mini, prompts[:, :1], np.concatenate([prompts[:, 1:], truth], axis=1))
    np.testing.assert_allclose(row.log_prob[:, -64:], score_tokens(mini, prompts, truth).log_prob, atol=1e-4)
    assert row.log_prob.shape == (20, 95)


@pytest.mark.parametrize("together", [1, 3 * 512, 64 * 512, 5 * 64 * 512])  # a token, three, a row, five rows
def test_scores_do_not_depend_on_how_many_logits_are_looked_at_together(mini, mini_corpus, together, monkeypatch):
    prompts, truth = lmmem.split(mini_corpus[:20])
    whole = score_tokens(mini, prompts, truth), lmmem.cross_entropy(mini, prompts, truth)
    monkeypatch.setattr(scoring, "CACHED", together)
    for values, as_before in zip(score_tokens(mini, prompts, truth), whole[0], strict=True):
        np.testing.assert_array_equal(values, as_before)
    np.testing.assert_allclose(lmmem.cross_entropy(mini, prompts, truth), whole[1], rtol=1e-7)
