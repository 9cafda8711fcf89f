"""Which sequences are chosen, against every way to choose."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest

import lmmem
from lmmem.corpora.corpus import Corpus
from lmmem.experiments import sequences
from lmmem.models.registry import MODELS
from lmmem.pocket.organisms import checkpoint_folder
from lmmem.pocket.recipe import RECIPES

NAME = "pocket-mini"
DERIVED = "pocket-mini-hidden"


def test_chosen_canaries_are_as_many_of_each_arm_as_it_has_and_in_blocks_with_twins(mini_corpus):
    chosen = sequences.choose_canaries(mini_corpus, 5, seed=1)
    sizes = {f"{arm.group} {arm.presentations}": min(5, arm.passages) for arm in RECIPES[NAME].arms}
    assert chosen.groupby("arm").size().to_dict() == sizes
    exposed = chosen[chosen.presentations > 0]
    assert set(exposed.block[exposed.group != "spread"]) <= set(chosen.block[chosen.arm == "spread 0"])
    pd.testing.assert_frame_equal(sequences.choose_canaries(mini_corpus, 5, seed=1), chosen)
    others = {tuple(sequences.choose_canaries(mini_corpus, 5, seed).canary) for seed in range(10)}
    assert len(others) > 1
    assert len(sequences.choose_canaries(mini_corpus)) == len(mini_corpus.canaries)


def test_canaries_of_some_arms_lie_in_blocks_that_hold_all_of_them(mini_corpus):
    arms = {"spread": [0, 1, 16], "q3": [16]}
    chosen = sequences.choose_canaries(mini_corpus, 3, seed=2, arms=arms)
    assert (chosen.groupby(["block", "arm"]).size().unstack() == 1).all(axis=None)


@pytest.mark.parametrize("n", [0, -1, 13, 2.5, True])
def test_impossible_numbers_of_sequences_say_how_many_there_are(mini_corpus, n):
    with pytest.raises(ValueError, match=f"n_sequences={n!r}: give a whole number per arm, from 1 to the 12 there are"):
        sequences.choose_canaries(mini_corpus, n)


def test_corpus_without_canaries_is_refused():
    corpus = Corpus(np.zeros((4, 96), np.uint16), 2, 2)
    with pytest.raises(ValueError, match="has no canaries"):
        sequences.choose_canaries(corpus, 1)


def test_natural_passages_repeat_as_often_as_they_say(mini_corpus):
    passages = sequences.natural_passages(NAME, mini_corpus, 5, step=60)
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
    info = dataclasses.replace(MODELS["pythia1b"], name="someone", place=place, paper_row=4, steps=(6, 12), order=None)
    monkeypatch.setitem(MODELS._models, "someone", info)
    return "someone"


def test_rows_that_were_met_are_paired_with_later_rows_of_like_complexity(someone, met):
    found = sequences.choose_sequences(someone, met, 2, step=6, seed=3)
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
        ({"min_complexity": 2.0}, "0 of the 8 rows from 4 on have a z-complexity of 2 or more, of 2 wanted: lower"),
        ({"n_sequences": 0}, "n_sequences=0"),
    ],
)
def test_sequences_that_cannot_be_chosen_say_why(someone, met, options, message):
    with pytest.raises(ValueError, match=message):
        sequences.choose_sequences(someone, met, **{"n_sequences": 2, "step": 6} | options)


def test_model_without_the_papers_rows_is_asked_about_the_last_ones_it_met(someone, met, monkeypatch):
    monkeypatch.setitem(MODELS._models, "someone", dataclasses.replace(MODELS["someone"], paper_row=None))
    found = sequences.choose_sequences(someone, met, 2, 6)
    assert (found.exposure_step[found.presentations == 1] <= 6).all()
    assert (found.exposure_step[found.presentations == 0] > 6).all()
    unmet = 6 * met.rows_per_step
    assert found["index"][found.presentations == 1].between(unmet - 8, unmet - 1).all()


def test_what_a_model_without_numbered_steps_has_met_is_not_known(met, tmp_path, mini):
    mini.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is not known, as its checkpoints have no step: name it, its step"):
        sequences.choose_sequences(str(tmp_path), met, 2)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (
            {"spread": [0, 2]},
            r"there is no spread 2; there are elsewhere: 0; .* spread: 0, 1, 8, 16",
        ),
        ({"burst": [0]}, "there is no burst 0; there are elsewhere"),
        ({"spread": [1, 16]}, "cannot be compared: give 0, the unexposed twins, and one that is exposed"),
        ({"spread": [0]}, "cannot be compared"),
        ({}, "cannot be compared"),
        ({"spread": 16}, "give groups and lists of presentations; there are elsewhere"),
        (["spread 16"], "give groups and lists of presentations"),
    ],
)
def test_arms_that_cannot_be_compared_name_those_that_can(mini_corpus, arms, message):
    with pytest.raises(ValueError, match=message):
        sequences.choose_canaries(mini_corpus, 2, arms=arms)


@pytest.fixture(scope="module")
def derived(mini) -> Corpus:
    return lmmem.training_data(DERIVED)


def prompts_of(corpus: Corpus, rows: np.ndarray) -> set[bytes]:
    return {row[:32].tobytes() for row in np.asarray(corpus[rows])}


def test_nothing_that_was_placed_in_a_derived_organism_is_natural(derived, mini_corpus):
    """Neither its passages, in whatever form, nor those of its base; by their tokens."""
    placed = prompts_of(derived, derived.canaries["index"]) | prompts_of(mini_corpus, mini_corpus.canaries["index"])
    of_base = np.setdiff1d(np.arange(mini_corpus.trained_rows), mini_corpus.presented["index"])
    text = {row.tobytes() for row in np.asarray(mini_corpus[of_base])}
    n = sum(row.tobytes() in text for row in np.asarray(derived[np.arange(derived.trained_rows)]))
    natural = sequences.natural_passages(DERIVED, derived, n, step=MODELS[DERIVED].steps[-1])
    assert not prompts_of(derived, natural["index"].to_numpy()) & placed
    assert len(natural) == n


def test_unmet_rows_of_a_derived_organism_are_those_that_nothing_was_done_to(derived):
    rows = sequences.unmet_rows(DERIVED, derived, MODELS[DERIVED].steps[-1], 1_000)
    group = derived.canaries.set_index("index").group[rows]
    assert set(group) == {"untouched"} and len(rows) == (derived.canaries.group == "untouched").sum()


def test_canaries_met_by_a_step_are_those_whose_last_presentation_is_over(mini_corpus):
    left = sequences.met_by(mini_corpus, 60).canaries
    last = mini_corpus.presented.groupby("canary").step.max()
    over = {canary for canary in mini_corpus.canaries.canary if last.get(canary, 0) <= 60}
    assert set(left.canary) == over and 0 < (left.presentations > 0).sum() < len(last)
    whole = sequences.met_by(mini_corpus, 120, {"spread": [0, 16]}).canaries
    pd.testing.assert_frame_equal(whole, mini_corpus.canaries)


def test_rows_of_another_window_with_the_same_tokens_keep_their_numbers(someone, met):
    rows = np.tile(np.array(met.rows[:8]), (2, 1))
    twice = dataclasses.replace(met, rows=rows)
    for first in (0, 8):
        found = sequences.natural_passages(someone, twice, 8, step=12, first_row=first, n_rows=8)
        assert found["index"].min() == first


def test_repeats_without_published_counts_are_those_among_the_rows(someone, met):
    rows = np.array(met.rows)
    rows[5:8, 40:75] = rows[4, 40:75]
    found = sequences.natural_passages(someone, dataclasses.replace(met, rows=rows), 8, step=6, n_rows=8)
    assert dict(zip(found["index"], found.repeats, strict=True)) == {4: 4, 5: 4, 6: 4, 7: 4, 8: 1, 9: 1, 10: 1, 11: 1}
    with pytest.raises(ValueError, match="n_rows=0: give a whole number"):
        sequences.natural_passages(someone, met, 8, step=6, n_rows=0)


def test_rows_to_choose_among_end_where_training_has_not_come(someone, met, monkeypatch):
    monkeypatch.setitem(MODELS._models, "someone", dataclasses.replace(MODELS["someone"], paper_row=None))
    assert sequences.natural_passages(someone, met, 12, step=6)["index"].tolist() == list(range(12))
    with pytest.raises(ValueError, match=r"rows 0 \.\. 39 are met by someone until step 20, after the measured step 6"):
        sequences.natural_passages(someone, met, 12, step=6, first_row=0)


def test_doses_are_full_bins_with_as_many_unexposed():
    passages = pd.DataFrame(
        {"index": range(7), "bin": [1, 1, 1, 2, 2, 2, 4], "z_complexity": [3, 1, 2, 6, 5, 4, 9]}
    ).assign(text=[0, 1, 2, 3, 3, 4, 5])
    twins = pd.DataFrame({"index": range(10, 16), "presentations": [1, 0] * 3, "z_complexity": range(6)}).assign(
        file=list("abcdef")
    )
    doses = sequences.dose_sequences(passages, twins)
    assert doses.groupby("presentations").block.apply(list).to_dict() == {0: [0, 1, 2], 1: [0, 1, 2], 2: [0, 1, 2]}
    assert doses.query("presentations == 1")["index"].tolist() == [1, 2, 0]
    assert doses.query("presentations == 0")["index"].tolist() == [11, 13, 15]
    assert doses.groupby("presentations").file.agg("".join).to_dict() == {  # two rows of one text are one unit
        **{0: "bdf", 1: "text 1text 2text 0", 2: "text 4text 3text 3"},
    }


def test_doses_of_bins_with_more_passages_are_drawn_to_one_size():
    passages = pd.DataFrame(
        {"index": range(40), "bin": [1] * 30 + [2] * 8 + [4] * 2, "z_complexity": range(40)}
    ).assign(text=range(40))
    twins = pd.DataFrame({"index": range(50, 55), "presentations": 0, "z_complexity": [9.0, 1, 5, 3, 7]}).assign(
        file=range(5)
    )
    doses = sequences.dose_sequences(passages, twins, seed=1)
    assert doses.groupby("presentations").block.apply(list).to_dict() == {m: [0, 1, 2, 3, 4] for m in (0, 1, 2)}
    ranks = doses.groupby("presentations").z_complexity
    assert ranks.apply(lambda z: z.is_monotonic_increasing).all()
    pd.testing.assert_frame_equal(sequences.dose_sequences(passages, twins, seed=1), doses)
    others = [sequences.dose_sequences(passages, twins, seed)["index"].tolist() for seed in range(5)]
    assert len(set(map(tuple, others))) > 1
    with pytest.raises(ValueError, match="no bin of repeats has the 5 passages wanted of each, the largest has 2"):
        sequences.dose_sequences(passages[passages.bin == 4], twins)
