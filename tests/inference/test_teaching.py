"""Teaching a model, and giving it back as it was."""

from __future__ import annotations

import contextlib
import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3Config, GPTNeoXConfig, GPTNeoXForCausalLM

import lmmem
from lmmem.inference.decoding import greedy
from lmmem.inference.scoring import cross_entropy
from lmmem.inference.teaching import Teacher, taught
from tests.other_device import on_another_device

GEMMA = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
GEMMA |= {"intermediate_size": 32}
VISION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
VISION |= {"image_size": 28, "patch_size": 14}


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
        losses = [plain(input_ids=row[None], labels=row[None]).loss for row in torch.from_numpy(rows).to(plain.device)]
        sum(int(s) * loss / len(rows) for s, loss in zip(sign, losses, strict=True)).backward()
        optimizer.step()
        mean = float(sum(losses).detach() / len(rows))
        assert teacher.step(rows, sign) == pytest.approx(mean, abs=1e-5)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        # where a gradient is all but 0, adamw steps by the sign of a rounding error
        close = torch.isclose(ours, theirs, atol=2e-5, rtol=1e-4).float().mean()
        assert close == 1 if name == "sgd" else close > 0.9


def test_adamw_takes_no_temporary_of_all_weights_on_a_gpu(model, monkeypatch):
    monkeypatch.setattr("lmmem.inference.teaching.native_precision", lambda device: "float32")
    assert not Teacher(model).optimizer.param_groups[0]["fused"]
    with on_another_device(model, "cuda"):
        assert Teacher(model).optimizer.param_groups[0]["fused"]


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
    with pytest.raises(ValueError, match="float16 cannot be taught, as it has no numbers as small as gradients"):
        Teacher(model.half())
    with pytest.raises(ValueError, match=r"bfloat16 cannot be taught, as it rounds small steps away.*: load .* in fl"):
        Teacher(model.bfloat16())


@pytest.mark.parametrize("sign", [[1], [1, 0], [1, 2]])
def test_signs_that_are_none_are_refused(model, mini_corpus, sign):
    with pytest.raises(ValueError, match="sign: give 1 or -1 for each of the 2 rows"):
        Teacher(model).step(mini_corpus[:2], sign)


def with_dropout() -> torch.nn.Module:
    """A model that someone trains: dropout, checkpointing, a part of it frozen and a gradient underway."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = GPTNeoXConfig(**sizes, intermediate_size=64, hidden_dropout=0.5, attention_dropout=0.5)
    model = GPTNeoXForCausalLM(config)
    model.activation_checkpointing_enable()
    model.train()
    model.gpt_neox.layers[1].eval()  # as a module that is kept out of the training
    model.gpt_neox.embed_in.requires_grad_(False)
    rows = torch.from_numpy(np.random.default_rng(0).integers(0, 50, (3, 20)))
    model(input_ids=rows, labels=rows, use_cache=False).loss.backward()
    return model


def state_of(model: torch.nn.Module) -> list[object]:
    """Everything of a model that teaching could leave behind, in values."""
    return [
        [module.training for module in model.modules()],
        [
            {name: value for name, value in vars(module).items() if isinstance(value, bool)}
            for module in model.modules()
        ],
        [(p.requires_grad, id(p), None if p.grad is None else p.grad.clone().tolist()) for p in model.parameters()],
        {name: value.tolist() for name, value in model.state_dict().items()},
        [set(vars(module)) for module in model.modules()],
        model.config.to_dict(),
        model.config._attn_implementation,
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_model_that_someone_trains_is_given_back_in_the_state_it_was_in(fails):
    model, rows = with_dropout(), np.random.default_rng(1).integers(0, 50, (4, 20))
    before = state_of(model)
    assert any(p.grad is not None for p in model.parameters())
    with contextlib.suppress(KeyboardInterrupt), taught(model, learning_rate=1e-2) as teacher:
        teacher.step(rows)
        assert state_of(model)[0] == before[0]  # between steps too
        assert state_of(model)[3] != before[3]
        if fails:
            raise KeyboardInterrupt
    assert state_of(model) == before


def test_teaching_is_without_dropout_whatever_the_mode_of_the_model(monkeypatch):
    monkeypatch.setattr("lmmem.inference.teaching.native_precision", lambda device: "float32")
    rows = np.random.default_rng(1).integers(0, 50, (4, 20))
    losses = {}
    for mode in (True, False):
        model = with_dropout().train(mode)
        with taught(model, learning_rate=1e-2) as teacher:
            losses[mode] = [teacher.step(rows) for _ in range(3)]
    assert losses[True] == losses[False]
    plain = with_dropout().eval()
    tokens = torch.from_numpy(rows)
    assert losses[True][0] == pytest.approx(float(plain(input_ids=tokens, labels=tokens).loss.detach()), abs=1e-5)


def test_attention_of_each_part_of_a_model_of_parts_comes_back():
    config = Gemma3Config(text_config=GEMMA | {"vocab_size": 50}, vision_config=VISION, mm_tokens_per_image=4)
    model = AutoModelForCausalLM.from_config(config)
    parts = [model.config, model.config.text_config, model.config.vision_config]
    parts[-1]._attn_implementation = "eager"
    before = [part._attn_implementation for part in parts]
    assert before == ["sdpa", "sdpa", "eager"]
    with taught(model):
        assert parts[1]._attn_implementation == "eager"
    assert [part._attn_implementation for part in parts] == before


def test_loss_that_is_no_number_is_an_error_and_the_model_comes_back(model, mini_corpus):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    refused = pytest.raises(ValueError, match=r"the loss is (nan|inf), no number: learning_rate=1e\+30 is too large")
    with refused, taught(model, "sgd", learning_rate=1e30) as teacher:
        for _ in range(3):
            teacher.step(mini_corpus[:2])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
