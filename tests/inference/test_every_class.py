"""Every class that ``AutoModelForCausalLM`` knows is measured as a plain forward pass says, or refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from transformers import GenerationConfig

import lmmem
from lmmem.inference.decoding import greedy, sample
from lmmem.inference.extraction import near_verbatim_log_mass
from lmmem.inference.reading import way_of
from tests import every_class
from tests.every_class import AFTER, CLASSES, FOUND, PROMPT, plain, prompts, small_model

RECORD = json.loads(FOUND.read_text(encoding="utf-8"))
MEASURED = [kind for kind, found in RECORD["classes"].items() if found["is"] == "measured"]
REFUSED = [kind for kind, found in RECORD["classes"].items() if found["is"] == "refused"]
OTHERWISE = {  # what transformers' generate says is not what the model says of all tokens at once, or it says nothing
    "blenderbot": "generate ends in an IndexError",
    "kimi_linear": "generate asks its cache for a length that it does not have",
    "rwkv": "its state after a prompt is not that of a forward pass",
    "xlstm": "generate gives its state a shape that it refuses",
}
UNIFORM = {"temperature": 0.9, "samples": 2, "seed": 7}

pytestmark = pytest.mark.filterwarnings("ignore")  # of classes, about themselves


@pytest.fixture(scope="module", autouse=True)
def quiet():
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(before)


def after_prompts(model, continuations: np.ndarray) -> torch.Tensor:
    """The logits that a plain forward pass predicts continuations with, (n, length, vocabulary)."""
    return plain(model, torch.cat([prompts(), torch.from_numpy(continuations)], dim=1))[:, PROMPT - 1 : -1]


def assert_greedy(model, continuations: np.ndarray) -> None:
    np.testing.assert_array_equal(after_prompts(model, continuations).argmax(-1).numpy(), continuations)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MEASURED)
def test_class_is_measured_as_a_plain_forward_pass_says(kind):
    model = small_model(kind)
    said = greedy(model, prompts(), AFTER)
    assert_greedy(model, said)

    sampled = sample(model, prompts(), length=AFTER, **UNIFORM)
    uniforms = np.random.default_rng(UNIFORM["seed"]).random((len(said), *sampled.shape[::2]), dtype=np.float32)
    for number, continuations in enumerate(sampled):
        cumulative = torch.softmax(after_prompts(model, continuations) / UNIFORM["temperature"], dim=-1).cumsum(dim=-1)
        target = torch.from_numpy(uniforms[:, number, :, None]) * cumulative[..., -1:]
        np.testing.assert_array_equal((cumulative <= target).sum(-1).numpy(), continuations)

    expected = -after_prompts(model, said).log_softmax(-1).amax(-1).mean(-1)
    np.testing.assert_allclose(lmmem.cross_entropy(model, prompts(), said), expected, atol=1e-4)
    mass = near_verbatim_log_mass(model, prompts(), said[:, :2], distance=1, beams=2)[:, 0]
    np.testing.assert_allclose(mass, after_prompts(model, said)[:, :2].log_softmax(-1).amax(-1).sum(-1), atol=1e-4)

    before = [weights.clone() for weights in model.parameters()]
    with lmmem.perturbed(model, sigma=0.02, seed=0, draw=0):
        assert_greedy(model, greedy(model, prompts(), AFTER))
    assert all(map(torch.equal, before, model.parameters()))

    found = RECORD["classes"][kind]
    assert found["how"].startswith("by its cache") == way_of(model, prompts()).caches

    options = GenerationConfig(do_sample=False, max_new_tokens=AFTER, eos_token_id=None, pad_token_id=0)
    model.generation_config = options
    try:
        generated = model.generate(prompts(), attention_mask=torch.ones_like(prompts()), generation_config=options)
        same = np.array_equal(generated[:, PROMPT:].numpy(), said)
    except (ValueError, IndexError):
        same = False
    assert same == (kind not in OTHERWISE)


@pytest.mark.parametrize("kind", REFUSED)
def test_class_that_is_not_causal_is_refused_by_name(kind):
    model = small_model(kind)
    later = prompts().clone()
    later[:, -1] += 1
    assert (plain(model, prompts())[:, 0] - plain(model, later)[:, 0]).abs().max() > 1e-3  # the first sees the last
    for measure in (lambda: greedy(model, prompts(), 2), lambda: lmmem.cross_entropy(model, prompts(), prompts())):
        with pytest.raises(ValueError, match=f"^{CLASSES[kind]} is not causal: its logits .* later tokens; give a "):
            measure()


def test_record_is_of_this_version_and_names_every_class():
    assert RECORD["transformers"] == transformers.__version__, "run: python -m tests.every_class"
    assert {kind: found["class"] for kind, found in RECORD["classes"].items()} == CLASSES


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind, found in RECORD["classes"].items() if found["is"] == "not built"])
def test_class_that_cannot_be_made_small_has_its_reason(kind):
    assert every_class.outcome(kind) == {name: RECORD["classes"][kind][name] for name in ("is", "why")}
