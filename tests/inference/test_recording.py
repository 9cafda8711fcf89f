"""The step that a GPU records, on a processor: the same tokens, and nothing in it that a recording would freeze."""

from __future__ import annotations

import contextlib
import gc
import weakref
from unittest import mock

import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from transformers import AutoModelForCausalLM, DynamicCache, GPTNeoXConfig, LlamaConfig, StaticCache

from lmmem.inference import decoding, reading, recording
from lmmem.inference.decoding import greedy, sample
from lmmem.inference.perturbation import perturbed
from lmmem.inference.teaching import Teacher

LENGTH = 20


def model_of(architecture: str) -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = {
        "gpt_neox": lambda: GPTNeoXConfig(**sizes, intermediate_size=64, initializer_range=0.2),
        "llama": lambda: LlamaConfig(**sizes, intermediate_size=64, num_key_value_heads=2, initializer_range=0.2),
    }[architecture]()
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(params=["gpt_neox", "llama"])
def model(request) -> torch.nn.Module:
    return model_of(request.param)


@pytest.fixture
def prompts() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 50, (6, 8))


@pytest.fixture
def as_on_a_gpu(monkeypatch) -> None:
    """Decode by the step, not recorded, with the products and the attention of transformers."""
    monkeypatch.setattr(decoding, "fast_products", lambda model, rows: contextlib.nullcontext())
    monkeypatch.setattr(decoding, "attention_for_decoding", lambda model: contextlib.nullcontext(False))
    monkeypatch.setattr(
        decoding,
        "reader_of",
        lambda model, way, longest, in_pieces, capacity: reading._RecordedReader(model, longest, capacity),
    )


def test_step_says_what_decoding_on_a_processor_says(model, prompts, monkeypatch, request):
    def said() -> list[np.ndarray]:
        return [
            greedy(model, prompts, LENGTH),
            greedy(model, prompts, LENGTH, batch_size=4),
            greedy(model, prompts, 1),
            sample(model, prompts, 0.8, 3, seed=0, length=LENGTH),
            sample(model, prompts, 0.8, 3, seed=0, length=LENGTH, batch_size=2),
        ]

    expected = said()
    assert len(np.unique(expected[0])) > 5
    request.getfixturevalue("as_on_a_gpu")
    for ours, theirs in zip(said(), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_step_is_used_again_under_every_draw(model, prompts, as_on_a_gpu):
    steps = set()
    for draw in range(3):
        with perturbed(model, 0.05, seed=0, draw=draw):
            said = greedy(model, prompts, LENGTH)
            expected = model.generate(
                torch.as_tensor(prompts), max_new_tokens=LENGTH, do_sample=False, eos_token_id=None, pad_token_id=0
            )
        np.testing.assert_array_equal(said, expected[:, 8:])
        steps.add(recording._steps[model])
    assert len(steps) == 1


def test_recording_of_one_step_serves_all(model, prompts, as_on_a_gpu, monkeypatch):
    """What a CUDA graph does: every operation of one step, again and again, and no Python."""

    def recorded(self, model, tokens):
        self.tokens[: len(tokens)] = tokens
        if self.graph is None:
            position = self.cache.layers[0].cumulative_length.clone()
            self.graph = make_fx(lambda: self._compute(model))()
            self._at(int(position))  # tracing has taken the step
        return self.graph()[: len(tokens)]

    expected = greedy(model, prompts, LENGTH)
    recording.forget(model)
    monkeypatch.setattr(recording.Step, "__call__", recorded)
    np.testing.assert_array_equal(greedy(model, prompts, LENGTH), expected)
    step = recording._steps[model]
    np.testing.assert_array_equal(greedy(model, prompts[::-1].copy(), LENGTH), expected[::-1])
    with perturbed(model, 0.05, seed=0, draw=0):
        disturbed = greedy(model, prompts, LENGTH)
    assert recording._steps[model] is step
    monkeypatch.undo()
    with perturbed(model, 0.05, seed=0, draw=0):
        np.testing.assert_array_equal(greedy(model, prompts, LENGTH), disturbed)
    assert (disturbed != expected).any()


def test_draw_that_overflows_leaves_nothing_for_the_next(model, prompts, as_on_a_gpu):
    expected = greedy(model, prompts, LENGTH)
    with torch.inference_mode():  # as weights that are too large would
        for layer in recording._steps[model].layers:
            layer.keys.fill_(torch.nan)
            layer.values.fill_(torch.nan)
    np.testing.assert_array_equal(greedy(model, prompts, LENGTH), expected)


def test_step_that_could_not_begin_is_forgotten(model, prompts, as_on_a_gpu, monkeypatch):
    expected = greedy(model, prompts, LENGTH)
    recording.forget(model)
    with monkeypatch.context() as patch:
        patch.setattr(recording.Step, "_at", mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            greedy(model, prompts, LENGTH)
    assert model not in recording._steps
    np.testing.assert_array_equal(greedy(model, prompts, LENGTH), expected)


def test_batches_of_one_call_share_a_step(model, prompts, as_on_a_gpu, monkeypatch):
    made = []
    begin = recording.Step.begin
    monkeypatch.setattr(recording.Step, "begin", lambda self, *given: made.append(id(self)) or begin(self, *given))
    greedy(model, prompts, LENGTH, batch_size=5)  # 5 and 1
    sample(model, prompts, 0.8, 5, seed=0, length=LENGTH, batch_size=5)  # 5 of each, and no more
    assert len(set(made)) == 1


def test_attention_that_does_not_heed_the_mask_is_not_recorded(model):
    assert recording.can_record(model)
    model.set_attn_implementation("eager")
    assert not recording.can_record(model)


def test_step_is_made_anew_where_it_does_not_fit(model):
    first = recording.step_for(model, 8, 30)
    assert recording.step_for(model, 8, 30) is recording.step_for(model, 4, 30) is first  # padded
    assert recording.step_for(model, 3, 30) is not first  # not for a fraction of its work
    assert recording.step_for(model, 3, 31).longest == 31
    before = recording.step_for(model, 3, 31)
    weight = next(model.parameters())
    weight.data = weight.data.clone()  # a graph would read where the weights were
    assert recording.step_for(model, 3, 31) is not before


def test_step_goes_with_its_model(prompts, as_on_a_gpu):
    model = model_of("gpt_neox")
    greedy(model, prompts, LENGTH)
    held = 2 * 2 * 6 * 28 * 32 * 4  # keys and values, layers, prompts, tokens, width, bytes
    assert recording.held_bytes(model) == held
    gone = weakref.ref(recording._steps[model])
    del model
    gc.collect()
    assert gone() is None


def test_step_is_forgotten_where_the_model_is_taught(model, prompts, as_on_a_gpu):
    def asked() -> int:
        greedy(model, prompts, LENGTH)
        return recording.held_bytes(model)

    assert asked() > 0
    teacher = Teacher(model)
    assert recording.held_bytes(model) == 0
    assert asked() > 0
    teacher.step(prompts)
    assert recording.held_bytes(model) == 0


def frozen_position(model: torch.nn.Module) -> None:
    """Plant: with a cache that stays where it is, every token is read as if it were the first."""

    def first(module, args, given):
        if isinstance(given.get("past_key_values"), StaticCache):
            return args, given | {"position_ids": torch.zeros_like(args[0])}
        return None

    model.register_forward_pre_hook(first, with_kwargs=True)


def one_place(model: torch.nn.Module) -> None:
    """Plant: as a recording that has kept the place of its first token, and writes there again and again."""

    def back(module, args, given, output):
        cache = given.get("past_key_values")
        if isinstance(cache, StaticCache):
            for layer in cache.layers:
                layer.cumulative_length.sub_(args[0].shape[1])

    model.register_forward_hook(back, with_kwargs=True)


def empty_seen(model: torch.nn.Module) -> None:
    """Plant: places that nothing was written to are attended to."""

    def open_mask(module, args, given):
        if any(isinstance(value, StaticCache) for value in given.values()):
            return args, given | {"attention_mask": torch.ones_like(given["attention_mask"])}
        return None

    for name, part in model.named_modules():
        if name.endswith(("attention", "self_attn")):
            part.register_forward_pre_hook(open_mask, with_kwargs=True)


@pytest.mark.parametrize("plant", [frozen_position, one_place, empty_seen])
@pytest.mark.parametrize("copies", [1, 3])
def test_recorded_step_that_says_another_thing_is_found_at_its_first_use(model, prompts, request, plant, copies):
    def said() -> np.ndarray:
        return sample(model, prompts, 0.8, copies, seed=0, length=LENGTH)

    expected = said()
    request.getfixturevalue("as_on_a_gpu")
    plant(model)
    with pytest.warns(UserWarning, match="says another thing when it is recorded; plain steps are taken"):
        np.testing.assert_array_equal(said(), expected)
    assert not recording.can_record(model)  # so that plain steps are taken from now on, and nothing is said again
    assert not recording.held_bytes(model)


def test_fault_at_the_second_step_alone_would_change_what_is_said(model, prompts, as_on_a_gpu, monkeypatch):
    """The planted faults matter: without the comparison other tokens come out."""
    expected = greedy(model, prompts, LENGTH)
    recording.forget(model)
    one_place(model)
    monkeypatch.setattr(recording, "_alike", lambda ours, theirs: True)
    assert (greedy(model, prompts, LENGTH) != expected).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_right_step_is_trusted_in_every_dtype_and_compared_once(model, prompts, as_on_a_gpu, monkeypatch, dtype):
    model.to(dtype)
    compared = []
    alike = recording._alike
    monkeypatch.setattr(recording, "_alike", lambda *given: compared.append(alike(*given)) or compared[-1])
    for draw in range(3):
        with perturbed(model, 0.02, seed=0, draw=draw):
            greedy(model, prompts, LENGTH)
    assert compared == [True]
    assert recording.can_record(model)
    assert recording._steps[model].prompts is None


def test_first_use_under_noise_that_gives_no_numbers_says_nothing_of_the_step():
    ours, theirs = torch.randn(2, 2, 30), torch.full((2, 2, 30), torch.nan)
    assert recording._alike(ours, theirs)
    theirs[1] = ours[1]
    assert recording._alike(ours, theirs)
    ours[1, 1, 3] = torch.nan
    assert not recording._alike(ours, theirs)


def test_word_that_both_leave_out_is_the_same_and_one_that_one_leaves_out_is_not():
    theirs = torch.randn(2, 2, 30)
    theirs[..., 7] = -torch.inf
    ours = theirs.clone()
    assert recording._alike(ours, theirs)
    ours[0, 0, 7] = 0
    assert not recording._alike(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logits_are_alike_to_half_of_their_digits(dtype):
    theirs = 5 + 3 * torch.randn(4, 2, 5_000, generator=torch.Generator().manual_seed(0))
    digits = torch.finfo(dtype).eps ** 0.5
    for row in range(4):
        for share, alike in ((0.5, True), (2.0, False)):
            ours = theirs.clone()
            ours[row, 1] += share * digits * 3 * torch.randn(5_000, generator=torch.Generator().manual_seed(1))
            assert recording._alike(ours.double().to(dtype), theirs.to(dtype)) == alike


def test_first_use_that_shows_no_numbers_is_not_the_last_that_is_compared(prompts, monkeypatch):
    model, compared, alike = model_of("gpt_neox"), [], recording._alike
    monkeypatch.setattr(recording, "_alike", lambda *given: compared.append(given) or alike(*given))
    step, tokens, weight = recording.step_for(model, 6, 28), torch.as_tensor(prompts), model.lm_head.weight
    clean = weight.detach().clone()
    with torch.no_grad():
        for value in (torch.full_like(clean, torch.nan), clean, clean):
            weight.copy_(value)
            cache = DynamicCache()
            model(tokens, past_key_values=cache)
            step.begin(model, cache, 1)
            step(model, tokens[:, :1])
    assert len(compared) == 2


def no_static_cache(model: torch.nn.Module) -> None:
    """Plant: a model that does not know what to do with such a cache."""

    def fails(module, args, given):
        if isinstance(given.get("past_key_values"), StaticCache):
            raise TypeError("'NoneType' object is not subscriptable")

    model.register_forward_pre_hook(fails, with_kwargs=True)


@pytest.mark.parametrize("when", ["begin", "first step"])
def test_step_that_cannot_be_taken_gives_way_to_plain_ones(model, prompts, as_on_a_gpu, monkeypatch, when):
    expected = sample(model, prompts, 0.8, 3, seed=0, length=LENGTH)
    recording.forget(model)
    if when == "begin":
        monkeypatch.setattr(recording, "_states", mock.Mock(side_effect=AttributeError("keys")))
    else:
        no_static_cache(model)
    with pytest.warns(UserWarning, match="cannot be taken in memory that stays where it is: .*; plain steps are taken"):
        said = sample(model, prompts, 0.8, 3, seed=0, length=LENGTH)
    np.testing.assert_array_equal(said, expected)
    assert not recording.can_record(model)


def test_rows_that_are_compared_lie_all_over_the_batch(model, prompts, as_on_a_gpu, monkeypatch):
    """A fault in the last of many copies of the last prompt alone is seen."""
    monkeypatch.setattr(recording, "COMPARED", 5)
    take = recording.Step._take

    def wrong(self, model, tokens):
        logits = take(self, model, tokens)
        logits[len(tokens) - 1] += torch.arange(logits.shape[-1])
        return logits

    monkeypatch.setattr(recording.Step, "_take", wrong)
    with pytest.warns(UserWarning, match="says another thing when it is recorded"):
        sample(model, prompts, 0.8, 3, seed=0, length=LENGTH)
