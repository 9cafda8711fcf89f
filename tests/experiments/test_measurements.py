"""Measurements as tables, against the same thing done by hand."""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lmmem
from lmmem.corpora.corpus import Corpus
from lmmem.experiments import disturbed, extraction, measurements, measuring
from lmmem.inference.extraction import extraction_log_probs, near_verbatim_log_mass
from lmmem.inference.rounding import rounded
from lmmem.inference.scoring import score_tokens
from lmmem.models.loading import load_mean, weights_id
from lmmem.models.registry import MODELS
from lmmem.pocket.organisms import checkpoint_folder
from lmmem.storage.files import cache_folder
from lmmem.storage.results import tables
from lmmem.sweep.tasks import BadInputError

NAME = "pocket-mini"
INDEX = [5, 900, 3]  # not sorted, on purpose


@pytest.fixture(scope="module")
def cut(mini_corpus):
    return lmmem.split(mini_corpus[INDEX])


def test_kl_ld_is_the_distance_of_the_greedy_continuation(mini, cut):
    prompts, truth = cut
    expected = lmmem.levenshtein(lmmem.greedy(mini, prompts), truth)
    np.testing.assert_array_equal(lmmem.kl_ld(mini, prompts, truth), expected)


def test_greedy_table_is_what_the_model_says(mini, mini_corpus, cut):
    prompts, truth = cut
    table = measurements.greedy_table(NAME, mini_corpus, INDEX)
    np.testing.assert_array_equal(table["index"], INDEX)
    np.testing.assert_array_equal(table.kl_ld, lmmem.kl_ld(mini, prompts, truth))
    np.testing.assert_array_equal(table.matched_prefix, lmmem.matched_prefix(lmmem.greedy(mini, prompts), truth))
    np.testing.assert_allclose(table.cross_entropy, lmmem.cross_entropy(mini, prompts, truth))
    assert set(table.step) == {120}
    assert table.attrs["provenance"]["dtype"] == "float32"


def test_likelihood_table_is_the_truth_scored_without_decoding(mini, mini_corpus, cut):
    table = measurements.likelihood_table(NAME, mini_corpus, INDEX, keep_tokens=True)
    np.testing.assert_allclose(table.cross_entropy, lmmem.cross_entropy(mini, *cut), rtol=1e-5)
    scores = score_tokens(mini, *cut)
    kept = ("log_probs", "entropies", "spreads", "ranks")
    for column, values in zip(kept, scores[:4], strict=True):
        np.testing.assert_allclose(np.stack([*table[column]]), values, rtol=1e-5, atol=1e-5)
    of_prompt = score_tokens(mini, cut[0][:, :1], cut[0][:, 1:]).log_prob
    np.testing.assert_allclose(np.stack([*table.prompt_log_probs]), of_prompt, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(table.entropy, scores.entropy.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(table["rank"], scores.rank.mean(axis=1))
    assert "ranks" not in measurements.likelihood_table(NAME, mini_corpus, INDEX)
    assert set(measurements.likelihood_table(NAME, mini_corpus, INDEX, [6, 120]).step) == {6, 120}


def test_token_that_ties_with_an_earlier_one_is_not_recited(tmp_path, mini, mini_corpus):
    """Greedy decoding says the first of the vocabulary, so text that goes on with the other is not what it says."""
    twin, prompts = copy.deepcopy(mini), lmmem.split(mini_corpus[:6])[0]
    said = lmmem.greedy(mini, prompts)
    first, later = np.sort([said[0, 0], next(token for token in range(2, 512) if token not in said)])
    with torch.no_grad():
        weights = twin.get_output_embeddings().weight
        weights[[first, later]] = weights[said[0, 0]].clone()
    twin.save_pretrained(tmp_path)
    said = lmmem.greedy(twin, prompts)
    assert said[0, 0] == first and not (said == later).any()
    other = np.where(said == first, later, said)
    rows = Corpus(np.concatenate([np.r_[prompts, prompts], np.r_[said, other]], axis=1), rows_per_step=1, steps=0)
    table = measurements.likelihood_table(str(tmp_path), rows, range(12))
    assert (table.recited[:6] == 64).all() and (table.matches[:6] == 64).all()
    np.testing.assert_array_equal(table.recited[6:], lmmem.matched_prefix(said, other))
    assert table.recited[6] == 0


def test_steps_are_measured_apart(mini_corpus):
    early = measurements.greedy_table(NAME, mini_corpus, INDEX, 6)
    assert set(early.step) == {6}
    assert (early.cross_entropy > measurements.greedy_table(NAME, mini_corpus, INDEX).cross_entropy).all()


def test_perturbation_table_is_each_draw_by_hand(mini, mini_corpus, cut):
    table = disturbed.perturbation_table(NAME, mini_corpus, INDEX, sigma=0.05, draws=12, seed=3)
    assert len(table) == 12 * len(INDEX)
    for draw in (0, 9, 11):
        with lmmem.perturbed(mini, 0.05, seed=3, draw=draw):
            expected = lmmem.kl_ld(mini, *cut)
        found = table[table.draw == draw]
        np.testing.assert_array_equal(found["index"], INDEX)
        np.testing.assert_array_equal(found.kl_ld, expected)
    assert table.kl_ld.nunique() > 1


def test_halves_of_a_continuation_are_measured_apart(mini, mini_corpus, cut):
    truth = cut[1]
    options = {"keep_tokens": True}
    for table, draws in (
        (measurements.greedy_table(NAME, mini_corpus, INDEX, **options), 1),
        (disturbed.perturbation_table(NAME, mini_corpus, INDEX, sigma=0.05, draws=3, **options), 3),
    ):
        said, true = np.stack([*table.said]), np.tile(truth, (draws, 1))
        np.testing.assert_array_equal(table.kl_first, lmmem.levenshtein(said[:, :32], true[:, :32]))
        np.testing.assert_array_equal(table.kl_second, lmmem.levenshtein(said[:, 32:], true[:, 32:]))
        assert (table.kl_ld <= table.kl_first + table.kl_second).all()
        assert (table.kl_first != table.kl_second).any()


def test_noise_of_another_kind_is_that_by_hand_and_named(mini, mini_corpus, cut):
    usual = disturbed.perturbation_table(NAME, mini_corpus, INDEX, sigma=0.05, draws=2, seed=3)
    assert not {"unit", "only"} & {*usual.columns, *usual.attrs["provenance"]}
    for kind in ({"unit": "tensor"}, {"only": "attention"}, {"unit": "tensor", "only": "mlp"}):
        table = disturbed.perturbation_table(NAME, mini_corpus, INDEX, sigma=0.2, draws=2, seed=3, **kind)
        assert {name: set(table[name]) for name in kind} == {name: {value} for name, value in kind.items()}
        assert not {"unit", "only"} - {*kind} & {*table.columns}
        with lmmem.perturbed(mini, 0.2, seed=3, draw=1, **kind):
            expected = lmmem.kl_ld(mini, *cut)
        np.testing.assert_array_equal(table.kl_ld[table.draw == 1], expected)


def test_rounded_weights_are_measured_as_by_hand_and_named(mini, mini_corpus, cut):
    table = measurements.greedy_table(NAME, mini_corpus, INDEX, rounding="int4")
    with rounded(mini, "int4"):
        np.testing.assert_array_equal(table.kl_ld, lmmem.kl_ld(mini, *cut))
        np.testing.assert_allclose(table.cross_entropy, lmmem.cross_entropy(mini, *cut), rtol=1e-5)
    exact = measurements.greedy_table(NAME, mini_corpus, INDEX)
    assert (exact.cross_entropy != table.cross_entropy).all()
    assert set(table.rounding) == {"int4"}
    assert "rounding" not in exact
    with pytest.raises(ValueError, match="rounding='int2': give one of float16, int8, int4"):
        measurements.greedy_table(NAME, mini_corpus, INDEX, rounding="int2")


def test_likelihood_under_noise_is_that_of_the_same_draws(mini, mini_corpus, cut):
    options = {"sigma": 0.05, "draws": 2, "seed": 3, "only": "attention"}
    table = disturbed.disturbed_likelihood_table(NAME, mini_corpus, INDEX, **options)
    assert (set(table.only), set(table.sigma), len(table)) == ({"attention"}, {0.05}, 2 * len(INDEX))
    for draw in (0, 1):
        with lmmem.perturbed(mini, 0.05, seed=3, draw=draw, only="attention"):
            expected = lmmem.cross_entropy(mini, *cut)
        np.testing.assert_allclose(table.cross_entropy[table.draw == draw], expected, rtol=1e-5)


def test_noise_is_held_against_the_change_between_steps(mini, mini_corpus):
    table = disturbed.resemblance_table(NAME, mini_corpus, 120, [60, 6], draws=3, seed=3)
    there = dict(lmmem.load_model(NAME, 60).named_parameters())
    change = torch.cat([(there[name] - here).detach().double().flatten() for name, here in mini.named_parameters()])
    clean = torch.cat([p.detach().double().flatten() for p in mini.parameters()])
    for draw in range(3):
        with lmmem.perturbed(mini, 1.0, seed=3, draw=draw):
            noise = torch.cat([p.detach().double().flatten() for p in mini.parameters()]) - clean
        expected = float(noise @ change / noise.norm() / change.norm())
        found = table[(table.draw == draw) & (table.change == "to step 60")]
        np.testing.assert_allclose(found.cosine, [expected], atol=1e-5)
    assert table.change.unique().tolist() == ["to step 60", "to step 6", "at random"]
    assert set(table.weights) == {len(clean)}
    alone = disturbed.resemblance_table(NAME, mini_corpus, 120, [], draws=3, seed=3)
    np.testing.assert_allclose(alone.cosine, table.cosine[table.change == "at random"])
    with pytest.raises(ValueError, match=r"others=\[120\]: give steps that differ from step 120 itself"):
        disturbed.resemblance_table(NAME, mini_corpus, 120, [120])


def test_more_draws_keep_the_first_ones(mini_corpus):
    few = disturbed.perturbation_table(NAME, mini_corpus, INDEX, sigma=0.05, draws=12, seed=3)
    more = disturbed.perturbation_table(NAME, mini_corpus, INDEX, sigma=0.05, draws=20, seed=3)
    pd.testing.assert_frame_equal(few, more[more.draw < 12].reset_index(drop=True))


def test_interrupted_draws_go_on_from_the_last_whole_part(mini_corpus):
    settings = {"index": INDEX, "sigma": 0.05, "draws": 20, "seed": 8}
    folder = cache_folder() / "results" / "perturbation"
    before = set(folder.rglob("*.parquet"))
    whole = disturbed.perturbation_table(NAME, mini_corpus, **settings)
    first, second = sorted(set(folder.rglob("*.parquet")) - before, key=lambda path: path.stat().st_mtime_ns)
    kept = first.stat().st_mtime_ns
    second.write_bytes(second.read_bytes()[:100])
    with pytest.warns(UserWarning, match=f"{second.name} is damaged"):
        again = disturbed.perturbation_table(NAME, mini_corpus, **settings)
    pd.testing.assert_frame_equal(again, whole)
    assert first.stat().st_mtime_ns == kept
    assert second.stat().st_size > 100


def test_blocks_of_sequences_change_nothing(mini_corpus, monkeypatch):
    whole = disturbed.perturbation_table(NAME, mini_corpus, INDEX, sigma=0.05, draws=3, seed=9)
    for module in (measuring, disturbed):
        monkeypatch.setattr(module, "SEQUENCES_PER_PART", 2)
    parts = disturbed.perturbation_table(NAME, mini_corpus, INDEX, sigma=0.05, draws=3, seed=9)
    key = ["draw", "index"]
    pd.testing.assert_frame_equal(
        parts.sort_values(key, ignore_index=True), whole.sort_values(key, ignore_index=True), check_like=False
    )


def test_other_tokens_under_one_index_are_measured_apart(mini_corpus):
    ours = measurements.greedy_table(NAME, mini_corpus, INDEX)
    turned = dataclasses.replace(mini_corpus, rows=np.asarray(mini_corpus.rows)[::-1])
    theirs = measurements.greedy_table(NAME, turned, INDEX)
    assert (ours.cross_entropy != theirs.cross_entropy).all()


def test_no_sequences_give_an_empty_table(mini_corpus):
    table = measurements.greedy_table(NAME, mini_corpus, [])
    assert len(table) == 0
    assert list(table.columns) == list(measurements.greedy_table(NAME, mini_corpus, INDEX).columns)


def test_sequence_outside_the_corpus_is_refused(mini_corpus):
    with pytest.raises(IndexError, match="outside the corpus"):
        measurements.greedy_table(NAME, mini_corpus, [len(mini_corpus)])


def test_fraction_is_no_row_number(mini_corpus):
    with pytest.raises(TypeError, match="whole number"):
        measurements.greedy_table(NAME, mini_corpus, [0.5])


def test_default_sigma_is_the_model_s(mini_corpus):
    table = disturbed.perturbation_table(NAME, mini_corpus, INDEX, draws=1)
    assert set(table.sigma) == {lmmem.MODELS[NAME].sigma}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draws": 0}, "draws=0: give a whole number, 1 or more"),
        ({"sigma": -0.1}, "sigma=-0.1: give a number, 0 or more"),
        ({"sigma": float("nan")}, "sigma=nan: give a number, 0 or more"),
        ({"sigma": -0.1, "unit": "tensor"}, "sigma=-0.1: give a number, 0 or more, a share of each tensor's rms"),
        ({"unit": "rows"}, "unit='rows': give one of weight, tensor"),
        ({"only": 3}, "only=3: give a part of the model"),
        ({"only": "layer 77"}, "only='layer 77': no parameter has such a name; the parts are layer 0, layer 1, "),
        ({"seed": -1}, "seed"),
        ({"dtype": "float8"}, "unknown dtype 'float8'"),
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
        ({"step": 7}, "nearest: 6 and 12"),
    ],
)
def test_impossible_perturbations_are_refused(mini_corpus, settings, message):
    with pytest.raises(ValueError, match=message):
        disturbed.perturbation_table(NAME, mini_corpus, INDEX, **settings)


@pytest.mark.parametrize(
    "table",
    [
        lambda corpus, **settings: disturbed.perturbation_table(NAME, corpus, INDEX, **settings),
        lambda corpus, **settings: disturbed.disturbed_likelihood_table(NAME, corpus, INDEX, **settings),
    ],
)
def test_noise_that_leaves_half_precision_is_an_error_that_says_which(mini_corpus, table):
    with pytest.raises(ValueError, match="pushes") as raised:
        table(mini_corpus, sigma=3e4, draws=2, dtype="float16")
    assert re.fullmatch(
        r"pocket-mini at step 120: noise of sigma=30000, draw=0 pushes [\d,]+ of 32,768 weights of "
        r"gpt_neox\.embed_in\.weight out of float16: take less of it, or a wider dtype",
        str(raised.value),
    )
    expected = lmmem.load_model(NAME, dtype="float16")
    for ours, theirs in zip(measuring.held.popitem()[1].parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_error_under_noise_says_which(mini_corpus, monkeypatch):
    def fails(*given):
        raise ValueError("it cannot")

    monkeypatch.setattr(disturbed, "cross_entropy", fails)
    with pytest.raises(BadInputError, match=r"^pocket-mini at step 6, sigma=0\.5, draw=0: it cannot$"):
        disturbed.disturbed_likelihood_table(NAME, mini_corpus, INDEX, 6, sigma=0.5, draws=2)


def test_sequence_without_numbers_is_named_with_model_step_and_draw(mini_corpus):
    index = [101, 102, 103]  # which nobody else asks for
    measurements.greedy_table(NAME, mini_corpus, index, 6)
    (model,) = measuring.held.values()
    token = int(mini_corpus[[103]][0, 5])
    broken = next(i for i in index if token in mini_corpus[[i]][0, :95])
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = torch.nan
    why = r"the logits of GPTNeoXForCausalLM are no numbers; look at its weights, and at the noise on them$"
    with pytest.raises(BadInputError, match=rf"^pocket-mini at step 6, index {broken}: {why}"):
        measurements.likelihood_table(NAME, mini_corpus, index, 6)
    measuring.held.clear()
    with pytest.raises(BadInputError, match=rf"^pocket-mini at step 6, sigma=1e\+15, draw=0, index 101: {why}"):
        disturbed.perturbation_table(NAME, mini_corpus, index, 6, sigma=1e15, draws=1)


def test_temperature_table_is_each_sample_by_hand(mini, mini_corpus, cut):
    table = measurements.temperature_table(NAME, mini_corpus, INDEX, temperatures=[0.5, 1.0], samples=4, seed=2)
    assert len(table) == 2 * 4 * len(INDEX)
    prompts, truth = cut
    said = lmmem.sample(mini, prompts, 0.5, 4, seed=2)
    found = table[(table.temperature == 0.5) & (table["sample"] == 3)]
    np.testing.assert_array_equal(found["index"], INDEX)
    np.testing.assert_array_equal(found.kl_ld, lmmem.levenshtein(said[3], truth))


def test_several_samples_at_temperature_zero_are_refused(mini_corpus):
    with pytest.raises(ValueError, match="at temperature 0 all 4 samples are equal"):
        measurements.temperature_table(NAME, mini_corpus, INDEX, temperatures=[0], samples=4)


def test_one_model_is_held_at_a_time_and_not_loaded_twice(mini_corpus, monkeypatch):
    loads = []
    load = measuring.load_mean
    monkeypatch.setattr(measuring, "load_mean", lambda *given: loads.extend(given[1]) or load(*given))
    measuring.held.clear()
    measurements.greedy_table(NAME, mini_corpus, [11, 12], 6)
    disturbed.perturbation_table(NAME, mini_corpus, [11, 12], 6, draws=2, seed=77)
    assert loads == [6]
    measurements.greedy_table(NAME, mini_corpus, [11, 12], 12)
    assert loads == [6, 12]
    assert len(measuring.held) == 1


def test_tokens_that_are_kept_are_those_whose_distance_is_measured(mini_corpus):
    truth = lmmem.split(mini_corpus[INDEX])[1]
    options = {"keep_tokens": True}
    for table, tries in (
        (measurements.greedy_table(NAME, mini_corpus, INDEX, **options), 1),
        (disturbed.perturbation_table(NAME, mini_corpus, INDEX, sigma=0.05, draws=3, **options), 3),
        (measurements.temperature_table(NAME, mini_corpus, INDEX, temperatures=[0.8], samples=3, **options), 3),
    ):
        said = np.stack([*table.said])
        assert said.shape == (tries * len(INDEX), 64)
        np.testing.assert_array_equal(lmmem.levenshtein(said, np.tile(truth, (tries, 1))), table.kl_ld)
    again = measurements.greedy_table(NAME, mini_corpus, INDEX, **options)  # from disk
    np.testing.assert_array_equal(
        np.stack([*again.said]), lmmem.greedy(lmmem.load_model(NAME), mini_corpus[INDEX][:, :32])
    )
    assert "said" not in measurements.greedy_table(NAME, mini_corpus, INDEX)


def test_worker_takes_the_model_that_it_is_sent_whatever_it_knows_by_that_name(mini_corpus, tmp_path, monkeypatch):
    """A file of facts here, sent to a worker in a folder where one of the same name says something else."""
    facts = "parameters = '1'\nsteps = [6]\ntraining_data = 'x'\ndtype = 'float32'\nsigma = 0.1\nsource = 'x'\n"
    known = dict(MODELS)
    for place, step in (("here", 6), ("there", 120)):
        (tmp_path / place).mkdir()
        (tmp_path / place / "w").symlink_to(checkpoint_folder(NAME, step))
        (tmp_path / place / "mine.toml").write_text(facts + "place = './w'")
    monkeypatch.chdir(tmp_path / "here")
    info, tokens = MODELS["mine.toml"], mini_corpus[INDEX]
    settings = {"model": "mine.toml", "step": 6, "weights": weights_id("mine.toml", 6), "dtype": "float32"}
    settings["device"] = "cpu"
    monkeypatch.chdir(tmp_path / "there")
    monkeypatch.setattr(MODELS, "_models", known)
    found = measurements._greedy_part(info, settings, np.array(INDEX), tokens)
    np.testing.assert_array_equal(found.kl_ld, measurements.greedy_table(NAME, mini_corpus, INDEX, 6).kl_ld)
    other = dataclasses.replace(info, place=str(tmp_path / "there" / "w"))
    with pytest.raises(BadInputError, match=r"the weights of mine.toml at step 6 differ between machines"):
        measuring.held.clear()
        measurements._greedy_part(other, settings, np.array(INDEX), tokens)


def test_temperatures_asked_for_apart_and_together_are_complete_tables(mini_corpus):
    for temperatures in ([0.31], [0.61], [0.31, 0.91]):
        measurements.temperature_table(NAME, mini_corpus, INDEX, temperatures=temperatures, samples=2, seed=41)
    listed = tables().query("kind == 'temperature' and rows == 6")
    assert len(listed) >= 3
    assert set(listed.complete) == {1.0}


def test_more_sequences_are_said_to_take_longer(mini_corpus, monkeypatch):
    monkeypatch.setattr(measurements, "_seconds_each", lambda info, settings, tokens, samples: 0.5)
    monkeypatch.setattr(measurements, "TIMED", 2)
    assert measurements.seconds_each(NAME, mini_corpus, [3, 5]) == 0.5
    assert measurements.seconds_each(NAME, mini_corpus, [3, 5, 7, 9]) == 1.0
    assert measurements.seconds_each(NAME, mini_corpus, []) == 0.0
    assert (
        measurements.seconds_each(NAME, mini_corpus, [3, 5, 7, 9], samples=2) == 1.0
    )  # one sequence, two of its samples


def test_sequences_that_no_model_of_this_length_can_read_end_a_sweep_at_once(mini_corpus):
    beyond = dataclasses.replace(mini_corpus, rows=np.full((4, 96), 60_000), vocabulary=None)
    with pytest.raises(BadInputError, match=r"sequences hold ids 60000 .. 60000; the vocabulary is 0 .. 511"):
        measurements.greedy_table(NAME, beyond, [0, 1])


def test_steps_of_one_sweep_are_those_measured_apart(mini_corpus):
    options = {"sigma": 0.02, "draws": 3, "seed": 8}
    both = disturbed.perturbation_table(NAME, mini_corpus, INDEX, [12, 6], **options)
    apart = [disturbed.perturbation_table(NAME, mini_corpus, INDEX, step, **options) for step in (12, 6)]
    pd.testing.assert_frame_equal(both, pd.concat(apart, ignore_index=True))
    assert both.attrs["provenance"]["steps"] == [6, 12]
    greedy = measurements.greedy_table(NAME, mini_corpus, INDEX, [12, 6])
    assert greedy.step.tolist() == [12] * 3 + [6] * 3
    sampled = measurements.temperature_table(NAME, mini_corpus, INDEX, [12, 6], temperatures=[0.5], samples=2)
    assert sampled.step.tolist() == [12] * 6 + [6] * 6


@pytest.mark.parametrize("step", [[], [6, 6]])
def test_steps_that_are_none_or_the_same_are_refused(mini_corpus, step):
    with pytest.raises(ValueError, match="give a step, or several that differ"):
        measurements.greedy_table(NAME, mini_corpus, INDEX, step)


def test_blocks_of_samples_differ_and_are_drawn_by_their_first_row(mini, mini_corpus, monkeypatch):
    monkeypatch.setattr(measurements, "SAMPLED_PER_PART", 2)
    index = [3, 5, 3]
    table = measurements.temperature_table(NAME, mini_corpus, index, temperatures=[1.0], samples=9, seed=2)
    prompts, truth = lmmem.split(mini_corpus[index])
    blocks = [lmmem.sample(mini, prompts[rows], 1.0, 9, [2, rows.start]) for rows in (slice(0, 2), slice(2, 3))]
    assert (blocks[0][:, 0] != blocks[1][:, 0]).any()
    expected = np.concatenate(
        [lmmem.levenshtein(blocks[0], truth[:2]).ravel(), lmmem.levenshtein(blocks[1], truth[2:]).ravel()]
    )
    np.testing.assert_array_equal(table.kl_ld, expected)


ODD = st.one_of(
    *(st.none(), st.booleans(), st.text(max_size=3), st.integers(-3, 2), st.floats(), st.binary(max_size=2)),
    st.lists(st.one_of(st.floats(), st.integers(-2, 2), st.text(max_size=2)), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)
MEASURES = {
    disturbed.perturbation_table: {"sigma": 0.01, "draws": 1, "seed": 0},
    measurements.temperature_table: {"temperatures": [0.5], "samples": 1, "seed": 0},
}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(measure=st.sampled_from([*MEASURES]), data=st.data())
def test_odd_parameters_are_named_or_measured(mini_corpus, measure, data):
    name = data.draw(st.sampled_from(sorted(MEASURES[measure])))
    value = data.draw(ODD)
    try:
        table = measure(NAME, mini_corpus, [3], **MEASURES[measure] | {name: value})
    except ValueError as error:
        if str(error).startswith("pocket-mini at step 120"):  # noise that leaves no numbers
            assert name == "sigma" and f"sigma={value:g}, draw=0" in str(error)
            return
        assert str(error).startswith(f"{name}=")
        assert ": give " in str(error)
    else:
        assert table.kl_ld.between(0, 64).all()
        known = lmmem.MODELS[NAME].sigma if value is None else value
        assert name in ("seed", "draws", "samples") or set(np.atleast_1d(known)) == set(table[name.removesuffix("s")])


def test_draws_that_fill_no_block_do_not_lie_beside_those_that_do(mini_corpus):
    options = {"sigma": 0.03, "seed": 9, "collect": False}
    files = {
        draws: disturbed.perturbation_table(NAME, mini_corpus, INDEX, draws=draws, **options).file
        for draws in (10, 12, 20)
    }
    folders = {draws: {Path(file).parent for file in found} for draws, found in files.items()}
    assert folders[10] == folders[20] != folders[12]
    for draws in (12, 20):
        (folder,) = folders[draws]
        table = pd.read_parquet(folder)
        assert not table[["draw", "index"]].duplicated().any()
        assert len(table) == draws * len(INDEX)


def test_interruption_never_leaves_a_disturbed_model_behind(mini_corpus, monkeypatch):
    expected = measurements.greedy_table(NAME, mini_corpus, [7, 8, 9])
    with monkeypatch.context() as patch:
        patch.setattr(measurements.decoding, "greedy", mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            disturbed.perturbation_table(NAME, mini_corpus, [7, 8, 9], draws=10, sigma=0.07)
    assert not measuring.held
    again = measurements.greedy_table(NAME, mini_corpus, [9, 8, 7])
    np.testing.assert_array_equal(again.kl_ld, expected.kl_ld[::-1])


def test_table_that_is_not_collected_lies_in_the_files_it_names(mini_corpus):
    options = {"sigma": 0.03, "draws": 12, "seed": 4}
    files = disturbed.perturbation_table(NAME, mini_corpus, INDEX, [6, 12], **options, collect=False)
    assert files.step.tolist() == [6, 6, 12, 12]
    assert files.rows.tolist() == [30, 6, 30, 6]
    expected = disturbed.perturbation_table(NAME, mini_corpus, INDEX, [6, 12], **options)
    found = pd.concat([pd.read_parquet(file) for file in files.file], ignore_index=True)
    pd.testing.assert_frame_equal(found, expected)


def test_workers_are_sent_no_more_of_a_row_than_is_asked_about(mini, mini_corpus, cut):
    rows = np.pad(np.asarray(mini_corpus.rows), [(0, 0), (0, 40)])  # longer, as Pythia's are
    table = measurements.greedy_table(NAME, dataclasses.replace(mini_corpus, rows=rows), INDEX)
    np.testing.assert_array_equal(table.kl_ld, lmmem.kl_ld(mini, *cut))
    assert measuring.heads(dataclasses.replace(mini_corpus, rows=rows), INDEX).shape == (3, 96)


def test_mean_of_steps_is_measured_as_a_model_of_its_own(mini_corpus, cut):
    table = measurements.greedy_table(NAME, mini_corpus, INDEX, mean_of=[120, 60])
    model = load_mean(NAME, [60, 120])
    np.testing.assert_allclose(table.cross_entropy, lmmem.cross_entropy(model, *cut), rtol=1e-5)
    np.testing.assert_array_equal(table.kl_ld, lmmem.kl_ld(model, *cut))
    assert set(table.step) == {120}
    alone = measurements.greedy_table(NAME, mini_corpus, INDEX)
    assert not np.allclose(table.cross_entropy, alone.cross_entropy)
    again = measurements.greedy_table(NAME, mini_corpus, INDEX, mean_of=[120])
    pd.testing.assert_frame_equal(again[alone.columns], alone)


def test_extraction_table_is_each_temperature_by_hand(mini, mini_corpus, cut):
    table = extraction.extraction_table(NAME, mini_corpus, INDEX, temperatures=[1.0, 0.5], keep_tokens=True)
    expected = extraction_log_probs(mini, *cut, [1.0, 0.5])
    np.testing.assert_allclose(table.log_prob, expected.sum(axis=2).ravel())
    np.testing.assert_array_equal(table["index"], INDEX * 2)
    np.testing.assert_array_equal(table.temperature, np.repeat([1.0, 0.5], len(INDEX)))
    np.testing.assert_array_equal(np.stack([*table.log_probs]), expected.reshape(-1, 64))
    np.testing.assert_array_equal(np.stack([*table.truth]), np.tile(cut[1], (2, 1)))
    plain = extraction.extraction_table(NAME, mini_corpus, INDEX, temperatures=[1.0])
    assert "truth" not in plain
    loss = measurements.likelihood_table(NAME, mini_corpus, INDEX).cross_entropy
    np.testing.assert_allclose(plain.log_prob, -64 * loss, rtol=1e-4)  # at temperature 1 it is the likelihood
    greedy = extraction.extraction_table(NAME, mini_corpus, INDEX, temperatures=[1.0], top_k=1)
    assert set(greedy.log_prob) <= {0.0, -np.inf}


def test_near_verbatim_table_is_the_search_by_hand_in_parts_of_any_size(mini, mini_corpus, cut, monkeypatch):
    monkeypatch.setattr(extraction, "SEARCHED_PER_PART", 2)
    table = extraction.near_verbatim_table(NAME, mini_corpus, INDEX, distance=2, temperature=0.5, beams=3)
    expected = near_verbatim_log_mass(mini, *cut, 2, temperature=0.5, beams=3)
    np.testing.assert_allclose(table.log_prob, expected.ravel(), rtol=1e-4)
    np.testing.assert_array_equal(table["index"], np.repeat(INDEX, 3))
    np.testing.assert_array_equal(table.distance, [0, 1, 2] * len(INDEX))


@pytest.mark.parametrize(("start", "stop"), [(0, 33), (0, 95), (24, 32), (40, 72)])
def test_prompted_table_is_what_the_model_says_after_that_part_of_the_passage(mini, mini_corpus, start, stop):
    table = measurements.prompted_table(NAME, mini_corpus, INDEX, start=start, stop=stop, keep_tokens=True)
    prompts, truth = mini_corpus[INDEX][:, start:stop], mini_corpus[INDEX][:, stop:96]
    said = lmmem.greedy(mini, prompts, 96 - stop)
    np.testing.assert_array_equal(np.stack([*table.said]), said)
    np.testing.assert_array_equal(table.kl_ld, lmmem.levenshtein(said, truth))
    np.testing.assert_allclose(table.kl_ld_share, table.kl_ld / (96 - stop))
    np.testing.assert_allclose(table.cross_entropy, lmmem.cross_entropy(mini, prompts, truth))
    assert set(table.asked) == {96 - stop}


def test_usual_prompt_gives_the_greedy_table(mini_corpus):
    usual, greedy = (
        make(NAME, mini_corpus, INDEX) for make in (measurements.prompted_table, measurements.greedy_table)
    )
    pd.testing.assert_frame_equal(
        usual[["index", "kl_ld", "cross_entropy"]], greedy[["index", "kl_ld", "cross_entropy"]]
    )


@pytest.mark.parametrize(
    ("measure", "settings", "message"),
    [
        (extraction.extraction_table, {"temperatures": [0.5, 0.0]}, "at temperature 0 sampling is greedy"),
        (extraction.extraction_table, {"temperatures": []}, "give a list"),
        (extraction.extraction_table, {"temperatures": [1.0], "top_k": 0}, "top_k=0"),
        (extraction.near_verbatim_table, {"distance": 65}, "no more than 64 tokens can differ"),
        (extraction.near_verbatim_table, {"distance": 0.5}, "distance=0.5"),
        (extraction.near_verbatim_table, {"distance": 1, "temperature": 0}, "at temperature 0 sampling is greedy"),
        (extraction.near_verbatim_table, {"distance": 1, "beams": 0}, "beams=0"),
        (measurements.prompted_table, {"start": 32}, "from token 32 up to token 32"),
        (measurements.prompted_table, {"stop": 96}, "up to token 96: of the 96 tokens"),
        (measurements.prompted_table, {"start": -1}, "start=-1"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_measured(mini_corpus, measure, settings, message):
    with pytest.raises(ValueError, match=message):
        measure(NAME, mini_corpus, INDEX, **settings)
