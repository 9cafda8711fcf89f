"""Teaching a model, and giving it back as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import lmmem
from lmmem.inference.decoding import greedy
from lmmem.inference.scoring import cross_entropy
from lmmem.inference.teaching import Teacher, taught


@pytest.fixture
def model(mini):
    return copy.deepcopy(mini)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_step_is_that_of_a_plain_loop(model, mini_corpus, monkeypatch, name):
    monkeypatch.setattr("lmmem.inference.teaching.native_precision", lambda device: "float32")
    rows, plain = mini_corpus[:6], copy.deepcopy(model)
    if name == "adamw":
        optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.0)
    else:
        optimizer = torch.optim.SGD(plain.parameters(), lr=1e-3, momentum=0.9)
    teacher = Teacher(model, name, learning_rate=1e-3)
    sign = np.array([1, -1, 1, 1, -1, 1])
    for _ in range(3):
        optimizer.zero_grad()
        losses = [plain(input_ids=row[None], labels=row[None]).loss for row in torch.from_numpy(rows)]
        sum(int(s) * loss / len(rows) for s, loss in zip(sign, losses, strict=True)).backward()
        optimizer.step()
        mean = float(sum(losses).detach() / len(rows))
        assert teacher.step(rows, sign) == pytest.approx(mean, abs=1e-5)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        # where a gradient is all but 0, adamw steps by the sign of a rounding error
        close = torch.isclose(ours, theirs, atol=2e-5, rtol=1e-4).float().mean()
        assert close == 1 if name == "sgd" else close > 0.9


@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 1e-3), ("sgd", 0.1)])
def test_what_is_taught_is_learnt_and_what_ascends_is_lost(model, mini_corpus, optimizer, rate):
    rows = mini_corpus[:8]
    before = cross_entropy(model, *lmmem.split(rows))
    with taught(model, optimizer, rate) as teacher:
        for _ in range(10):
            teacher.step(rows, np.repeat([1, -1], 4))
        after = cross_entropy(model, *lmmem.split(rows))
    assert (after[:4] < before[:4]).all()
    assert (after[4:] > before[4:]).all()


def test_rows_at_their_ceiling_are_left_alone(model, mini_corpus):
    rows = mini_corpus[:4]
    with taught(model) as teacher:
        weights = [p.detach().clone() for p in model.parameters()]
        teacher.step(rows, -np.ones(4), ceiling=0.0)
        assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
        teacher.step(rows, -np.ones(4), ceiling=100.0)
        assert not all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))


def test_model_is_given_back_to_the_last_bit_even_after_an_error(model, mini_corpus):
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    prompts, _ = lmmem.split(mini_corpus[:4])
    said, attention = greedy(model, prompts), model.config._attn_implementation
    learns = [p.requires_grad for p in model.parameters()]
    with pytest.raises(KeyboardInterrupt), taught(model, learning_rate=1e-2) as teacher:
        teacher.step(mini_corpus[:4])
        raise KeyboardInterrupt
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
    assert model.config._attn_implementation == attention
    assert [p.requires_grad for p in model.parameters()] == learns
    assert all(p.grad is None for p in model.parameters())
    np.testing.assert_array_equal(greedy(model, prompts), said)


def test_what_is_said_while_it_learns_follows_the_weights(model, mini_corpus):
    prompts, truth = lmmem.split(mini_corpus[:4])
    with taught(model, learning_rate=3e-3) as teacher:
        for _ in range(60):
            teacher.step(mini_corpus[:4])
        assert lmmem.kl_ld(model, prompts, truth).mean() < 10
    assert lmmem.kl_ld(model, prompts, truth).mean() > 40


def test_what_cannot_be_taught_is_refused(model):
    with pytest.raises(ValueError, match=r"unknown optimizer 'adam'; choose one of adamw, sgd"):
        Teacher(model, "adam")
    with pytest.raises(ValueError, match=r"learning_rate=0: give a number above 0"):
        Teacher(model, learning_rate=0)
    with pytest.raises(ValueError, match="float16 cannot be taught"):
        Teacher(model.half())


@pytest.mark.parametrize("sign", [[1], [1, 0], [1, 2]])
def test_signs_that_are_none_are_refused(model, mini_corpus, sign):
    with pytest.raises(ValueError, match="sign: give 1 or -1 for each of the 2 rows"):
        Teacher(model).step(mini_corpus[:2], sign)
