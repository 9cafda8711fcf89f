"""Measurements as tables, against the same thing done by hand."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest

import lmmem
from lmmem import experiments
from lmmem.corpora import Corpus
from lmmem.models import MODELS
from lmmem.pocket.training import checkpoint_folder
from lmmem.storage import cache_folder

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
    table = experiments.greedy_table(NAME, mini_corpus, INDEX)
    np.testing.assert_array_equal(table["index"], INDEX)
    np.testing.assert_array_equal(table.kl_ld, lmmem.kl_ld(mini, prompts, truth))
    np.testing.assert_array_equal(table.matched_prefix, lmmem.matched_prefix(lmmem.greedy(mini, prompts), truth))
    np.testing.assert_allclose(table.cross_entropy, lmmem.cross_entropy(mini, prompts, truth))
    assert set(table.step) == {120}
    assert table.attrs["provenance"]["dtype"] == "float32"


def test_steps_are_measured_apart(mini_corpus):
    early = experiments.greedy_table(NAME, mini_corpus, INDEX, 6)
    assert set(early.step) == {6}
    assert (early.cross_entropy > experiments.greedy_table(NAME, mini_corpus, INDEX).cross_entropy).all()


def test_perturbation_table_is_each_draw_by_hand(mini, mini_corpus, cut):
    table = experiments.perturbation_table(NAME, mini_corpus, INDEX, sigma=0.05, draws=12, seed=3)
    assert len(table) == 12 * len(INDEX)
    for draw in (0, 9, 11):
        with lmmem.perturbed(mini, 0.05, seed=3, draw=draw):
            expected = lmmem.kl_ld(mini, *cut)
        found = table[table.draw == draw]
        np.testing.assert_array_equal(found["index"], INDEX)
        np.testing.assert_array_equal(found.kl_ld, expected)
    assert table.kl_ld.nunique() > 1


def test_more_draws_keep_the_first_ones(mini_corpus):
    few = experiments.perturbation_table(NAME, mini_corpus, INDEX, sigma=0.05, draws=12, seed=3)
    more = experiments.perturbation_table(NAME, mini_corpus, INDEX, sigma=0.05, draws=20, seed=3)
    pd.testing.assert_frame_equal(few, more[more.draw < 12].reset_index(drop=True))


def test_interrupted_draws_go_on_from_the_last_whole_part(mini_corpus):
    settings = {"index": INDEX, "sigma": 0.05, "draws": 20, "seed": 8}
    folder = cache_folder() / "results" / "perturbation"
    before = set(folder.rglob("*.parquet"))
    whole = experiments.perturbation_table(NAME, mini_corpus, **settings)
    first, second = sorted(set(folder.rglob("*.parquet")) - before, key=lambda path: path.stat().st_mtime_ns)
    kept = first.stat().st_mtime_ns
    second.write_bytes(second.read_bytes()[:100])
    with pytest.warns(UserWarning, match=f"{second.name} is damaged"):
        again = experiments.perturbation_table(NAME, mini_corpus, **settings)
    pd.testing.assert_frame_equal(again, whole)
    assert first.stat().st_mtime_ns == kept
    assert second.stat().st_size > 100


def test_blocks_of_sequences_change_nothing(mini_corpus, monkeypatch):
    whole = experiments.perturbation_table(NAME, mini_corpus, INDEX, sigma=0.05, draws=3, seed=9)
    monkeypatch.setattr(experiments, "SEQUENCES_PER_PART", 2)
    parts = experiments.perturbation_table(NAME, mini_corpus, INDEX, sigma=0.05, draws=3, seed=9)
    key = ["draw", "index"]
    pd.testing.assert_frame_equal(
        parts.sort_values(key, ignore_index=True), whole.sort_values(key, ignore_index=True), check_like=False
    )


def test_other_tokens_under_one_index_are_measured_apart(mini_corpus):
    ours = experiments.greedy_table(NAME, mini_corpus, INDEX)
    turned = dataclasses.replace(mini_corpus, rows=np.asarray(mini_corpus.rows)[::-1])
    theirs = experiments.greedy_table(NAME, turned, INDEX)
    assert (ours.cross_entropy != theirs.cross_entropy).all()


def test_no_sequences_give_an_empty_table(mini_corpus):
    table = experiments.greedy_table(NAME, mini_corpus, [])
    assert len(table) == 0
    assert list(table.columns) == list(experiments.greedy_table(NAME, mini_corpus, INDEX).columns)


def test_sequence_outside_the_corpus_is_refused(mini_corpus):
    with pytest.raises(IndexError, match="outside the corpus"):
        experiments.greedy_table(NAME, mini_corpus, [len(mini_corpus)])


def test_default_sigma_is_the_model_s(mini_corpus):
    table = experiments.perturbation_table(NAME, mini_corpus, INDEX, draws=1)
    assert set(table.sigma) == {lmmem.MODELS[NAME].sigma}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draws": 0}, "draws must be at least 1"),
        ({"sigma": -0.1}, "sigma must be 0 or more"),
        ({"sigma": float("nan")}, "sigma must be 0 or more"),
        ({"seed": -1}, "seed"),
        ({"dtype": "float8"}, "unknown dtype 'float8'"),
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
        ({"step": 7}, "nearest: 6 and 12"),
    ],
)
def test_impossible_perturbations_are_refused(mini_corpus, settings, message):
    with pytest.raises(ValueError, match=message):
        experiments.perturbation_table(NAME, mini_corpus, INDEX, **settings)


def test_temperature_table_is_each_sample_by_hand(mini, mini_corpus, cut):
    table = experiments.temperature_table(NAME, mini_corpus, INDEX, temperatures=[0.5, 1.0], samples=4, seed=2)
    assert len(table) == 2 * 4 * len(INDEX)
    prompts, truth = cut
    said = lmmem.sample(mini, prompts, 0.5, 4, seed=2)
    found = table[(table.temperature == 0.5) & (table["sample"] == 3)]
    np.testing.assert_array_equal(found["index"], INDEX)
    np.testing.assert_array_equal(found.kl_ld, lmmem.levenshtein(said[3], truth))


def test_several_samples_at_temperature_zero_are_refused(mini_corpus):
    with pytest.raises(ValueError, match="at temperature 0 all 4 samples are equal"):
        experiments.temperature_table(NAME, mini_corpus, INDEX, temperatures=[0], samples=4)


def test_chosen_blocks_hold_every_arm_once(mini_corpus):
    chosen = experiments.choose_blocks(mini_corpus, 2, seed=1)
    assert chosen.block.nunique() == 2
    assert (chosen.groupby("arm").size() == 2).all()
    assert chosen.arm.nunique() == 6
    pd.testing.assert_frame_equal(experiments.choose_blocks(mini_corpus, 2, seed=1), chosen)
    blocks = {tuple(experiments.choose_blocks(mini_corpus, 2, seed).block.unique()) for seed in range(10)}
    assert len(blocks) > 1


@pytest.mark.parametrize("n", [0, -1, 7, 2.5, True])
def test_impossible_numbers_of_sequences_say_how_many_there_are(mini_corpus, n):
    with pytest.raises(ValueError, match=f"n_sequences={n!r}: give a whole number per arm, from 1 to the 6 there are"):
        experiments.choose_blocks(mini_corpus, n)


def test_corpus_without_canaries_is_refused():
    corpus = Corpus(np.zeros((4, 96), np.uint16), 2, 2)
    with pytest.raises(ValueError, match="has no canaries"):
        experiments.choose_blocks(corpus, 1)
    with pytest.raises(ValueError, match="give first_row"):
        experiments.natural_passages(NAME, corpus, 1)


def test_natural_passages_repeat_as_often_as_they_say(mini_corpus):
    passages = experiments.natural_passages(NAME, mini_corpus, 5, step=60)
    seen = mini_corpus[: 60 * mini_corpus.rows_per_step]
    truth = lmmem.split(mini_corpus[passages["index"].to_numpy()])[1]
    np.testing.assert_array_equal(passages.repeats, lmmem.count_repeats(truth, seen))
    assert (passages["index"] < len(seen)).all()
    assert not passages["index"].isin(mini_corpus.presented["index"]).any()
    assert (passages.bin <= passages.repeats).all()
    assert (passages.repeats < 2 * passages.bin).all()
    assert passages.groupby("bin").size().max() == 5
    texts = lmmem.load_tokenizer(NAME).batch_decode(truth)
    np.testing.assert_array_equal(passages.z_complexity, lmmem.z_complexity(texts))


@pytest.fixture
def met() -> Corpus:
    """Training data of a model that is no organism, in the size of Pythia's steps: nothing is fetched."""
    rows = np.random.default_rng(0).integers(0, 512, (40, 96))
    return Corpus(rows, rows_per_step=2, steps=20)


@pytest.fixture
def someone(monkeypatch, mini) -> str:
    """The small organism as a model in a folder: nobody's canaries are in its training data."""
    place = str(checkpoint_folder(NAME, 120).parent / "step-{step:06d}")
    info = dataclasses.replace(MODELS["pythia1b"], name="someone", place=place, paper_row=4, steps=(6, 12))
    monkeypatch.setitem(MODELS._models, "someone", info)
    return "someone"


def test_rows_that_were_met_are_paired_with_later_rows_of_like_complexity(someone, met):
    found = experiments.choose_sequences(someone, met, 2, step=6, seed=3)
    exposed, twins = (found[found.presentations == m].set_index("block") for m in (1, 0))
    assert (exposed["index"].between(4, 11)).all()
    assert (exposed.exposure_step <= 6).all()
    assert (twins.exposure_step > 6).all()
    assert twins["index"].is_unique
    texts = lmmem.load_tokenizer("pocket-mini").batch_decode(lmmem.split(met[12:20])[1])
    candidates = lmmem.z_complexity(texts)
    every = [
        np.abs(exposed.z_complexity.to_numpy() - candidates[list(pair)]).sum()
        for pair in itertools.permutations(range(8), 2)
    ]
    np.testing.assert_allclose(np.abs(exposed.z_complexity - twins.z_complexity).sum(), min(every))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_row": 8}, "are met by someone until step 8, after the measured step 6"),
        ({"step": 12, "first_row": 0, "n_sequences": 5}, "no row is left that someone has not met"),
        ({"min_complexity": 2.0}, "from 1 to the 0 there are"),
        ({"n_sequences": 0}, "n_sequences=0"),
    ],
)
def test_sequences_that_cannot_be_chosen_say_why(someone, met, options, message):
    with pytest.raises(ValueError, match=message):
        experiments.choose_sequences(someone, met, **{"n_sequences": 2, "step": 6} | options)


def test_model_without_the_papers_rows_needs_a_first_row(someone, met, monkeypatch):
    monkeypatch.setitem(MODELS._models, "someone", dataclasses.replace(MODELS["someone"], paper_row=None))
    with pytest.raises(ValueError, match="give first_row: where the sequences that someone"):
        experiments.choose_sequences(someone, met, 2, 6)


def test_repeats_without_published_counts_are_those_among_the_rows(someone, met):
    rows = np.array(met.rows)
    rows[5:8, 40:75] = rows[4, 40:75]
    found = experiments.natural_passages(someone, dataclasses.replace(met, rows=rows), 8, step=6, n_rows=8)
    assert dict(zip(found["index"], found.repeats, strict=True)) == {4: 4, 5: 4, 6: 4, 7: 4, 8: 1, 9: 1, 10: 1, 11: 1}
    assert experiments.compare_with_window(someone, met, found, step=6).empty
    with pytest.raises(ValueError, match="n_rows=0: give a whole number"):
        experiments.natural_passages(someone, met, 8, step=6, n_rows=0)


def test_window_is_a_sample_of_the_training_data(mini_corpus):
    passages = experiments.natural_passages(NAME, mini_corpus, 20)
    table = experiments.compare_with_window(NAME, mini_corpus, passages)
    window, of = np.arange(0, mini_corpus.trained_rows, 4), mini_corpus.trained_rows
    assert set(table.window) == {len(window)}
    assert set(table.of) == {of}
    truth = lmmem.split(mini_corpus[passages["index"].to_numpy()])[1]
    inside = passages["index"] % 4 == 0
    np.testing.assert_array_equal(table.found, lmmem.count_repeats(truth, mini_corpus[window]) - inside)
    np.testing.assert_allclose(table.expected, (passages.repeats - 1) * (len(window) - inside) / (of - 1))
    assert 0.5 < table.found.sum() / table.expected.sum() < 2  # rows are in random order


def test_one_model_is_held_at_a_time_and_not_loaded_twice(mini_corpus, monkeypatch):
    loads = []
    load = experiments.load_model
    monkeypatch.setattr(experiments, "load_model", lambda *given: loads.append(given[1]) or load(*given))
    experiments._held.clear()
    experiments.greedy_table(NAME, mini_corpus, [11, 12], 6)
    experiments.perturbation_table(NAME, mini_corpus, [11, 12], 6, draws=2, seed=77)
    assert loads == [6]
    experiments.greedy_table(NAME, mini_corpus, [11, 12], 12)
    assert loads == [6, 12]
    assert len(experiments._held) == 1


@pytest.mark.parametrize(
    ("seconds", "continuations", "said"), [(0.2, 100, "20 s"), (0.2, 3_000, "10 min"), (9.0, 4_000, "10.0 h")]
)
def test_time_needed_is_said_in_a_fitting_unit(seconds, continuations, said):
    table = pd.DataFrame()
    table.attrs["provenance"] = {"decoding_seconds": seconds}
    assert experiments.time_needed(table, continuations).startswith(f"about {said}, ")


def test_doses_are_full_bins_with_as_many_unexposed():
    passages = pd.DataFrame({"index": range(7), "bin": [1, 1, 1, 2, 2, 2, 4], "z_complexity": [3, 1, 2, 6, 5, 4, 9]})
    twins = pd.DataFrame({"index": range(10, 16), "presentations": [1, 0] * 3, "z_complexity": range(6)})
    doses = experiments.dose_sequences(passages, twins)
    assert doses.groupby("presentations").block.apply(list).to_dict() == {0: [0, 1, 2], 1: [0, 1, 2], 2: [0, 1, 2]}
    assert doses.query("presentations == 1")["index"].tolist() == [1, 2, 0]
    assert doses.query("presentations == 0")["index"].tolist() == [11, 13, 15]
