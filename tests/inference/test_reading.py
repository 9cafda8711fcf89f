"""What a model says does not depend on its state, and is never made of numbers that are none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import lmmem
from lmmem.inference import reading, scoring
from lmmem.inference.decoding import greedy, sample
from lmmem.inference.extraction import extraction_log_probs, near_verbatim_log_mass
from lmmem.inference.reading import way_of
from lmmem.inference.scoring import score_tokens
from tests.plain import plain_logits

ROOT = Path(__file__).parents[2]
SIZES = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
PROMPTS = np.random.default_rng(0).integers(1, 40, (5, 8))
TRUTH = np.random.default_rng(1).integers(1, 40, (5, 6))
MEASUREMENTS = {
    "greedy": lambda model, prompts, truth: greedy(model, prompts, 6),
    "sample": lambda model, prompts, truth: sample(model, prompts, 0.9, 3, seed=0, length=6),
    "cross_entropy": lmmem.cross_entropy,
    "score_tokens": lambda model, prompts, truth: np.stack(score_tokens(model, prompts, truth)),
    "extraction": lambda model, prompts, truth: extraction_log_probs(model, prompts, truth, [0.5, 1.0]),
    "near_verbatim": lambda model, prompts, truth: near_verbatim_log_mass(model, prompts, truth, 2, beams=2),
}


def neox(**settings) -> torch.nn.Module:
    torch.manual_seed(0)
    config = GPTNeoXConfig(**SIZES, initializer_range=0.3, **settings)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(params=MEASUREMENTS)
def measure(request):
    return MEASUREMENTS[request.param]


PRODUCTS = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)


def precision() -> list[str]:
    return [part.fp32_precision for part in PRODUCTS]


@pytest.fixture
def unset():
    """A process that has chosen nothing; after the test it has not either."""

    def choose_nothing():
        torch.backends.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")
        for part in PRODUCTS:
            part.fp32_precision = "none"

    choose_nothing()
    yield
    choose_nothing()


@pytest.fixture(params=["torch", "a part of it", "a Trainer"])
def coarse(request, unset):
    """A process that lets torch multiply float32 in TF32, by each of the ways that there are."""
    if request.param == "torch":
        torch.set_float32_matmul_precision("high")
    elif request.param == "a part of it":
        torch.backends.cuda.matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "tf32"
    else:
        torch.backends.fp32_precision = "tf32"
    assert precision() == ["tf32", "tf32"]


def test_float32_is_multiplied_as_such_whatever_the_process_allows(measure, coarse):
    model, seen = neox(), set()
    model.get_output_embeddings().register_forward_pre_hook(lambda *_: seen.update(precision()))
    measure(model, PROMPTS, TRUTH)
    assert seen == {"ieee"}
    assert precision() == ["tf32", "tf32"]


def test_what_a_trainer_allows_it_can_take_back_after_a_measurement(unset):
    torch.backends.fp32_precision = "tf32"
    greedy(neox(), PROMPTS, 2)
    torch.backends.fp32_precision = "ieee"
    assert precision() == ["ieee", "ieee"]


def test_model_in_training_is_measured_without_dropout_and_trains_on(measure):
    expected = measure(neox(), PROMPTS, TRUTH)
    model = neox(hidden_dropout=0.5, attention_dropout=0.5)
    model.train().activation_checkpointing_enable()
    model.gpt_neox.layers[0].eval()  # as whoever froze it left it
    modes = {name: module.training for name, module in model.named_modules()}
    np.testing.assert_allclose(measure(model, PROMPTS, TRUTH), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="vocabulary"):
        measure(model, PROMPTS + 50, TRUTH)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert model.is_activation_checkpointing


def test_mode_is_put_back_after_an_error(monkeypatch):
    model = neox()
    greedy(model, PROMPTS, 2)
    model.train()

    def fails(*args, **kwargs):
        assert not model.training
        raise MemoryError

    monkeypatch.setattr(model.gpt_neox, "forward", fails)
    with pytest.raises(MemoryError):
        greedy(model, PROMPTS, 2)
    assert all(module.training for module in model.modules())


def rules_out(model: torch.nn.Module, token: int) -> torch.nn.Module:
    """The model never says a token."""
    forward = model.forward

    def without(*given, **options):
        output = forward(*given, **options)
        output.logits[..., token] = -torch.inf
        return output

    model.forward = without
    return model


def test_sequence_whose_logits_are_no_numbers_is_named(measure):
    model = rules_out(neox(), 45)
    measure(model, PROMPTS, TRUTH)
    prompts = PROMPTS.copy()
    prompts[3, 2] = 45
    with torch.no_grad():
        model.get_input_embeddings().weight[45] = torch.nan
    with pytest.raises(FloatingPointError, match=r"sequence 3 of those given: the logits of GPTNeoX.* are no numbers"):
        measure(model, prompts, TRUTH)


@pytest.mark.parametrize("weights", [torch.nan, torch.inf, 1e38])
def test_model_whose_weights_are_no_numbers_gives_none(measure, weights):
    model = neox()
    with torch.no_grad():
        model.get_output_embeddings().weight[:] = weights
    with pytest.raises(FloatingPointError, match="are no numbers; look at its weights, and at the noise on them"):
        measure(model, PROMPTS, TRUTH)


def test_one_number_that_is_none_is_enough(measure):
    model = neox()
    measure(model, PROMPTS, TRUTH)
    with torch.no_grad():
        model.get_output_embeddings().weight[7] = torch.nan
    with pytest.raises(FloatingPointError, match="sequence 0 of those given"):
        measure(model, PROMPTS, TRUTH)


def test_token_that_a_model_rules_out_is_no_fault(measure):
    model = rules_out(neox(), 49)
    assert np.isfinite(measure(model, PROMPTS, TRUTH)).all()


class Forgetful(LlamaForCausalLM):
    """Takes a cache, and ignores it."""

    def forward(self, input_ids=None, past_key_values=None, use_cache=None, **options):
        """As a model does that leaves such things to its options."""
        return super().forward(input_ids, use_cache=False, **options)


class OffByOne(LlamaForCausalLM):
    """Takes each token after the prompt for the one at its side."""

    def forward(self, input_ids=None, past_key_values=None, **options):
        """With positions of its own."""
        if past_key_values is not None and (read := past_key_values.get_seq_length()):
            options["position_ids"] = torch.arange(read + 1, read + 1 + input_ids.shape[1])[None]
        return super().forward(input_ids, past_key_values=past_key_values, **options)


@pytest.mark.parametrize("kind", [Forgetful, OffByOne])
def test_cache_that_does_not_hold_what_was_read_is_not_used(kind, measure):
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, initializer_range=0.3)
    right = LlamaForCausalLM(config).eval()
    wrong = kind(config).eval()
    wrong.load_state_dict(right.state_dict())
    expected = measure(right, PROMPTS, TRUTH)
    np.testing.assert_allclose(measure(wrong, PROMPTS, TRUTH), expected, rtol=1e-4)
    assert way_of(right, torch.from_numpy(PROMPTS)).caches
    assert not way_of(wrong, torch.from_numpy(PROMPTS)).caches


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_no_reason_for_the_slow_way(dtype):
    model = neox().to(dtype)
    assert way_of(model, torch.from_numpy(PROMPTS)) == way_of(neox(), torch.from_numpy(PROMPTS))


def test_model_is_tried_once_whatever_noise_it_gets(monkeypatch):
    model, tried = neox(), reading._tried
    times = []
    monkeypatch.setattr(reading, "_tried", lambda *given: times.append(1) or tried(*given))
    for draw in range(3):
        with lmmem.perturbed(model, sigma=0.1, seed=0, draw=draw):
            greedy(model, PROMPTS, 2)
            lmmem.cross_entropy(model, PROMPTS, TRUTH)
    assert len(times) == 1


def test_short_prompts_and_short_contexts_are_tried_too():
    for k, length in ((1, 1), (1, 6), (7, 1), (2, 6)):
        model = neox(max_position_embeddings=8)
        prompts = PROMPTS[:1, :k]
        said = greedy(model, prompts, length)
        logits = plain_logits(model, np.concatenate([prompts, said], axis=1))
        np.testing.assert_array_equal(said, logits[:, k - 1 : -1].argmax(-1))


def test_what_is_no_causal_model_is_refused(measure):
    config = T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
    t5 = T5ForConditionalGeneration(config).eval()
    with pytest.raises(ValueError, match=r"^T5ForConditionalGeneration cannot be read from token ids alone: "):
        measure(t5, PROMPTS, TRUTH)
    with pytest.raises(ValueError, match="give a causal language model of transformers, got Linear"):
        measure(torch.nn.Linear(2, 2), PROMPTS, TRUTH)


def test_few_tokens_of_a_long_row_at_a_time_score_as_all_of_it(monkeypatch):
    model = neox()
    expected = score_tokens(model, PROMPTS, TRUTH)
    seen = []
    monkeypatch.setattr(scoring, "BYTES", reading.LOGITS * 50 * 4)  # 4 tokens
    monkeypatch.setattr(
        scoring, "logits_of", lambda model, tokens, keep: seen.append(keep) or reading.logits_of(model, tokens, keep)
    )
    for name, found in score_tokens(model, PROMPTS, TRUTH)._asdict().items():
        np.testing.assert_allclose(found, getattr(expected, name), rtol=1e-4, atol=1e-5)
    assert seen == [4, 2] * len(PROMPTS)


def test_rows_are_halved_where_memory_is_short(monkeypatch):
    model = neox()
    expected = lmmem.cross_entropy(model, PROMPTS, TRUTH)
    sizes, whole = [], reading.logits_of

    def short(model, tokens, keep):
        sizes.append(len(tokens))
        if len(tokens) > 2:
            raise torch.OutOfMemoryError("of a device")
        return whole(model, tokens, keep)

    monkeypatch.setattr(scoring, "logits_of", short)
    np.testing.assert_allclose(lmmem.cross_entropy(model, PROMPTS, TRUTH), expected, rtol=1e-5)
    assert sizes == [5, 2, 2, 1]
    monkeypatch.setattr(scoring, "BATCH", {"cpu": 1})
    monkeypatch.setattr(scoring, "logits_of", lambda *given: short(given[0], given[1].repeat(3, 1), given[2]))
    with pytest.raises(torch.OutOfMemoryError):
        lmmem.cross_entropy(model, PROMPTS, TRUTH)


PEAK = """
import sys
import numpy as np, torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
from lmmem.inference.decoding import greedy, sample
from lmmem.inference.extraction import extraction_log_probs, near_verbatim_log_mass
from lmmem.inference.scoring import cross_entropy, score_tokens

vocabulary = int(sys.argv[1])
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
model = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=vocabulary, **sizes)).eval()
tokens = np.random.default_rng(0).integers(1, vocabulary, (16, 96))
prompts, truth = tokens[:, :32], tokens[:, 32:]
measurements = {
    "greedy": lambda: greedy(model, np.repeat(prompts, 16, axis=0), 2),
    "sample": lambda: sample(model, prompts[:2], 0.8, 128, seed=0, length=2),
    "cross_entropy": lambda: cross_entropy(model, prompts, truth),
    "score_tokens": lambda: score_tokens(model, prompts, truth),
    "extraction": lambda: extraction_log_probs(model, prompts, truth, [0.5, 1.0]),
    "near_verbatim": lambda: near_verbatim_log_mass(model, prompts, truth[:, :2], 1),
}

def held(what):
    return int(next(line for line in open("/proc/self/status") if line.startswith(what)).split()[1]) * 1024

greedy(model, prompts[:2], 2)  # what is loaded at first use
for name, measure in measurements.items():
    open("/proc/self/clear_refs", "w").write("5")  # proc(5): the peak begins anew
    before = held("VmRSS")
    measure()
    print(name, (held("VmHWM") - before) / 2**30)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
@pytest.mark.parametrize("vocabulary", [50_304, 262_144])
def test_measurement_takes_less_than_two_gib_beyond_the_weights(vocabulary):
    command = [sys.executable, "-c", PEAK, str(vocabulary)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]
    peaks = {name: float(gib) for name, gib in map(str.split, done.stdout.splitlines())}
    assert peaks.keys() == MEASUREMENTS.keys()
    assert max(peaks.values()) < 2
    assert min(peaks.values()) > 0.01  # of something that takes memory
