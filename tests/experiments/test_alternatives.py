"""Continuations of a model's own in the place of the true ones: what they have to be, and how both are taught."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import lmmem
from lmmem.analysis import own_words as told
from lmmem.corpora.corpus import Corpus
from lmmem.experiments import own_words
from lmmem.experiments.alternatives import TEMPERATURES
from lmmem.measures.distance import levenshtein
from lmmem.measures.repeats import count_repeats
from lmmem.pocket.organisms import data_folder
from lmmem.storage import tables

NAME = "pocket-mini"
TEXT = "def add(first, second):\n    return first + second\n\n\nclass Adder:\n    def __init__(self, value):\n" * 40


@pytest.fixture(scope="module")
def study(cache) -> lmmem.Study:
    return lmmem.Study(NAME)


@pytest.fixture(scope="module")
def sequences(study) -> pd.DataFrame:
    return study.sequences(arms={"spread": [0, 16], "elsewhere": [0]})


@pytest.fixture(scope="module")
def both(study, sequences) -> pd.DataFrame:
    return study.alternatives(sequences)


@pytest.fixture(scope="module")
def pairs(both) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Tokens of the true continuations and of the alternatives, (n, 96) each, and the lines of the first."""
    true, other = (both[both.continuation == name].sort_values("passage") for name in ("true", "alternative"))
    assert true.passage.tolist() == other.passage.tolist()
    return np.stack([*true.tokens]), np.stack([*other.tokens]), true


def test_prompts_are_the_same_and_truths_are_the_rows_of_the_corpus(study, pairs):
    true, other, lines = pairs
    assert (true == study.corpus[lines.passage.to_numpy()]).all()
    assert (true[:, :32] == other[:, :32]).all()


def test_alternatives_are_as_likely_as_the_truth(study, both):
    losses = study.likelihood(both.drop(columns="run")).set_index(["passage", "continuation"]).cross_entropy.unstack()
    assert (losses.true - losses.alternative).abs().max() <= 0.1


def test_alternatives_differ_from_the_truth_and_hold_no_run_that_was_trained_on(study, pairs):
    true, other, _ = pairs
    assert levenshtein(other[:, 32:], true[:, 32:]).min() >= 32
    trained = study.corpus[np.arange(study.corpus.trained_rows)]
    assert (count_repeats(other[:, 32:], trained, n=16) == 0).all()


def test_chosen_are_those_as_far_as_the_truth_from_what_is_said_greedily(study, sequences, pairs):
    """Each candidate looked at in a loop."""
    true, other, lines = pairs
    sampled = study.sampled(sequences, temperatures=TEMPERATURES, samples=8, keep_tokens=True)
    greedy = study.greedy(sequences, keep_tokens=True).set_index("index")
    trained = study.corpus[np.arange(study.corpus.trained_rows)]
    for row, passage in list(enumerate(lines.passage))[:6]:
        said = np.stack([*sampled[sampled["index"] == passage].said])
        windows = np.concatenate([np.tile(true[row, :32], (len(said), 1)), said], axis=1)
        own, *losses = study.likelihood(study.sequences(tokens=np.concatenate([true[[row]], windows]))).cross_entropy
        best, found = (np.inf, np.inf), None
        for one, loss in zip(said, losses, strict=True):
            far = int(levenshtein(one[None], true[[row], 32:])[0])
            new = count_repeats(one[None], trained, n=16)[0] == 0
            if far < 32 or not new or abs(loss - own) > 0.1:
                continue
            away = abs(int(levenshtein(greedy.said[passage][None], one[None])[0]) - greedy.kl_ld[passage])
            if (away, abs(loss - own)) < best:
                best, found = (away, abs(loss - own)), one
        assert found is not None and (found == other[row, 32:]).all()


def test_no_run_holds_both_and_half_of_each_arm_has_the_truth_in_the_first(both):
    assert both.groupby("passage").run.nunique().eq(2).all()
    assert not both.duplicated(["passage", "run"]).any()
    first = both[(both.run == 0)].groupby("arm").continuation.apply(lambda of: (of == "true").sum() - len(of) / 2)
    assert first.abs().le(0.5).all()
    assert both["index"].tolist() == list(range(len(both)))


def test_sequences_without_an_alternative_are_left_out(study, sequences):
    few = study.alternatives(sequences, samples=1, temperatures=[1.0])
    assert 0 < few.passage.nunique() < len(sequences)


def test_of_windows_that_share_text_the_first_counts(study):
    windows = study.text_sequences("".join(f"number_{i} = {i * i}\n" for i in range(60)), stride=64)
    both = study.alternatives(windows, width=5.0)
    tokens = np.stack([*both[both.continuation == "true"].tokens])
    assert set(both.passage) <= set(windows["index"][::2]) and both.passage.nunique() > 1
    assert (count_repeats(tokens, tokens, n=16) == 1).all()


def test_each_run_is_taught_apart_from_the_same_weights(study, both):
    found = study.relearned(both, presentations=1)
    assert len(found) == 2 * len(both)
    for run in (0, 1):
        alone = study.relearned(both[both.run == run].drop(columns="run"), presentations=1)
        own = found[found.run == run].reset_index(drop=True)
        pd.testing.assert_frame_equal(own.drop(columns="run"), alone)
    still = study.greedy(both.drop(columns="run"))
    before = found[found.presentation == 0].sort_values("index")
    assert before.kl_ld.tolist() == still.kl_ld.tolist()


def test_what_may_have_been_met_can_be_given(study, sequences, pairs):
    _, other, _ = pairs
    again = study.alternatives(sequences, avoid=other)
    both = again[again.continuation == "alternative"]
    assert (count_repeats(np.stack([*both.tokens])[:, 32:], other, n=16) == 0).all()
    assert set(both.passage) <= set(sequences["index"])


def test_windows_of_text_have_alternatives_in_a_model_whose_training_data_are_not_known(study):
    organism = max(data_folder(NAME).parent.glob("step-*"))
    own = lmmem.Study(str(organism))
    windows = own.text_sequences(TEXT, stride=96).head(4)
    both = own.alternatives(windows, width=0.5)
    found = own.relearned(both, presentations=1)
    assert found.groupby("presentation").size().tolist() == [len(both)] * 2
    assert "token" in both and "begin" in both


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"width": -1.0}, "width=-1.0: give a number, 0 or more, nats per token"),
        ({"width": 0.0}, "no sample of 6 sequences is as likely as the truth within 0 nats per token and new"),
        ({"samples": 0}, "samples"),
        ({"temperatures": []}, "temperatures"),
        ({"avoid": "x"}, "avoid: give rows of token ids, 16 or more in each, got <U1 of shape"),
        ({"avoid": [[1, 2], [3]]}, "avoid: give rows of token ids, 16 or more in each"),
        ({"avoid": [[1, 2], [3, 4]]}, r"avoid: give rows .* got int64 of shape \(2, 2\)"),
    ],
)
def test_what_cannot_be_is_refused(study, sequences, options, reason):
    with pytest.raises(ValueError, match=reason):
        study.alternatives(sequences.head(6), **options)


def test_sequences_of_several_steps_are_refused(study):
    with pytest.raises(ValueError, match="alternatives are of one step: leave out at"):
        study.alternatives(study.just_met(2))


def test_tables_that_are_none_to_begin_with_are_refused(study, sequences, both):
    with pytest.raises(
        ValueError, match="sequences holds continuation, passage, row, run, which alternatives are given"
    ):
        study.alternatives(both)
    with pytest.raises(ValueError, match="there are no sequences to find alternatives to"):
        study.alternatives(sequences.head(0))
    with pytest.raises(ValueError, match="run is missing of some sequences"):
        study.relearned(both.assign(run=both.run.where(both["index"] > 3)), presentations=1)


def test_no_true_passage_is_taught_as_natural_text_beside_alternatives(cache, mini_corpus):
    organism = max(data_folder(NAME).parent.glob("step-*"))
    study = lmmem.Study(str(organism), data=Corpus(mini_corpus[:120], rows_per_step=8, steps=15))
    both = study.alternatives(study.sequences(rows=range(20, 40)), width=0.5)
    natural = study._natural_rows(both, study.step)
    np.testing.assert_array_equal(natural[0], mini_corpus[both.row.max() + 1])  # as beside rows: those that follow
    assert (count_repeats(natural, np.stack([*both.tokens]), n=16) == 0).all()
    study.relearned(both, presentations=1)


def test_text_that_may_all_have_been_met_has_no_alternative(study, sequences):
    every = study.sampled(sequences.head(6), temperatures=TEMPERATURES, samples=8, keep_tokens=True)
    with pytest.raises(ValueError, match="no sample of 6 sequences"):
        study.alternatives(sequences.head(6), avoid=np.stack([*every.said]))


def test_organisms_are_asked_about_what_is_there_and_about_nulls(study, monkeypatch):
    chosen = own_words.asked(study)
    assert set(chosen.arm) == {"spread 0", "spread 1", "spread 16", "elsewhere 0"}
    assert chosen["index"].is_unique
    monkeypatch.setattr(own_words, "MOST", {"spread 1": 5, "elsewhere 0": 3})
    monkeypatch.setattr(own_words, "A_BLOCK", {"spread 0": 1})
    fewer = own_words.asked(study)
    assert fewer.groupby("arm").size().to_dict() == {"elsewhere 0": 3, "spread 0": 6, "spread 1": 5, "spread 16": 6}
    assert fewer[fewer.arm == "spread 0"].block.is_unique
    derived = own_words.asked(lmmem.Study("pocket-mini-hidden"))
    assert set(derived.arm) == {"hidden 0", "hidden 32", "untouched 0"}


def test_what_was_measured_is_kept_and_read(study, tmp_path, monkeypatch):
    monkeypatch.setattr(own_words, "PRESENTATIONS", 1)
    assert own_words.measured(folder=tmp_path) == []
    path = own_words.measure(NAME, tmp_path)
    table, record = tables.load(path)
    assert record["organism"] == NAME and len(table) == 2 * 2 * table.passage.nunique()
    (found,) = own_words.measured((NAME,), tmp_path)
    assert found.organism.unique().tolist() == [NAME]
    lines = told.savings(found)
    assert set(lines.kind) == {"half learnt", "once", "elsewhere 0"}
    both = study.alternatives(own_words.asked(study))
    direct = told.savings(study.relearned(both, presentations=1))
    np.testing.assert_allclose(lines.estimate, direct.estimate)
    counts = own_words.counted((NAME,), tmp_path).set_index("arm")
    assert counts.sought.to_dict() == own_words.asked(study).arm.value_counts().to_dict()
    assert counts.there.to_dict() == both.drop_duplicates("passage").arm.value_counts().to_dict()


def test_results_of_organisms_are_of_their_recipes():
    found = own_words.measured()
    assert [set(table.organism) for table in found[:2]] == [{"pocket-hidden"}, {"pocket-erased"}]
    assert set(found[2].organism) == set(own_words.NAMES[2:])
    for table in found:
        assert table.groupby(["organism", "passage", "continuation"]).size().eq(9).all()
        assert table.groupby(["organism", "passage"]).block.nunique().eq(1).all()
