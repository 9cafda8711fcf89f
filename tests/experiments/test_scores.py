"""Scores against the formulas of their papers by plain loops, and a study that gives all of them."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pandas as pd
import pytest

import lmmem
from lmmem.corpora.corpus import Corpus
from lmmem.experiments import scores
from lmmem.inference.scoring import score_tokens
from tests.plain import plain_logits

NAME = "pocket-mini"


@pytest.fixture(scope="module")
def study(cache) -> lmmem.Study:
    return lmmem.Study(NAME, seed=3)


@pytest.fixture(scope="module")
def sequences(study) -> pd.DataFrame:
    return study.sequences(arms={"spread": [0, 1, 16]})


@pytest.fixture(scope="module")
def scored(study, sequences) -> pd.DataFrame:
    return study.scores(sequences)


@pytest.fixture(scope="module")
def tokens(mini, mini_corpus, sequences):
    """Of each continuation its tokens' figures, the texts, and the log-probabilities of the prompts."""
    rows = mini_corpus[sequences["index"].to_numpy()][:, :96].astype(int)
    texts = lmmem.load_tokenizer(NAME).batch_decode(rows[:, 32:])
    of_row = score_tokens(mini, rows[:, :1], rows[:, 1:])
    return score_tokens(mini, rows[:, :32], rows[:, 32:]), texts, of_row.log_prob, rows


def least(values, share=0.2) -> float:
    few = sorted(values)[: max(1, math.floor(share * len(values)))]
    return sum(few) / len(few)


def test_scores_of_one_pass_are_the_papers_formulas_by_a_loop(tokens, scored):
    found, texts, of_row, _ = tokens
    for i, line in scored.iterrows():
        own = [float(p) for p in found.log_prob[i]]
        z = [(p + h) / s for p, h, s in zip(own, found.entropy[i], found.spread[i], strict=True)]
        expected = {
            "loss": sum(own) / 64,
            "whole_row": sum(map(float, of_row[i])) / 95,
            "zlib_normalised": sum(own) / len(zlib.compress(texts[i].encode())),
            "min_k": least(own),
            "min_k_plus": least(z),
            "mean_rank": -sum(map(int, found.rank[i])) / 64,
        }
        for name, value in expected.items():
            assert line[name] == pytest.approx(value, rel=1e-3), name


def test_min_k_plus_plus_is_the_papers_from_logits(mini, tokens, scored):
    """Equation 3: the mean and the variance over the vocabulary, in double precision, from the logits."""
    rows = tokens[3]
    log_p = plain_logits(mini, rows[:2, :-1])[:, -64:].double().log_softmax(-1)
    for i in range(2):
        z = []
        for at, token in enumerate(rows[i, 32:]):
            here, p = log_p[i, at], log_p[i, at].exp()
            mean = float((p * here).sum())
            z.append((float(here[token]) - mean) / math.sqrt(float((p * (here - mean) ** 2).sum())))
        assert scored.min_k_plus[i] == pytest.approx(least(z), rel=1e-3)


def test_difference_to_an_earlier_step_is_that_of_two_losses(tokens, scored, study, sequences):
    rows = tokens[3]
    earlier = scores.earlier_step(study.steps, study.step)
    prompts, truth = rows[:, :32], rows[:, 32:]
    before = lmmem.cross_entropy(lmmem.load_model(NAME, earlier), prompts, truth)
    after = lmmem.cross_entropy(lmmem.load_model(NAME), prompts, truth)
    np.testing.assert_allclose(scored.over_earlier, before - after, atol=1e-4)
    later = study.scores(sequences, 60, only=["over_earlier"]).over_earlier
    assert not np.allclose(later, scored.over_earlier)


def test_mismatched_prompts_are_those_of_eight_other_passages(mini, tokens, scored):
    rows = tokens[3]
    others = scores.other_prompts(len(rows), seed=3)
    for i in (0, 7):
        assert i not in others[:, i] and len(set(others[:, i])) == 8
        strange = lmmem.cross_entropy(mini, rows[others[:, i], :32], np.tile(rows[i, 32:], (8, 1)))
        own = lmmem.cross_entropy(mini, rows[i : i + 1, :32], rows[i : i + 1, 32:])
        assert scored.over_mismatched[i] == pytest.approx(strange.mean() - own[0], abs=1e-4)


def test_every_prompt_is_taken_equally_often_and_by_seed():
    others = scores.other_prompts(20, 8, seed=1)
    assert set(np.bincount(others.ravel())) == {8}
    assert (others != np.arange(20)).all()
    np.testing.assert_array_equal(others, scores.other_prompts(20, 8, seed=1))
    assert not np.array_equal(others, scores.other_prompts(20, 8, seed=2))


def test_difference_to_twins_leaves_a_twin_itself_out(scored):
    for i, line in scored.iterrows():
        twins = scored[(scored.block == line.block) & (scored.presentations == 0) & (scored.index != i)]
        assert line.over_twins == pytest.approx(line.loss - twins.loss.mean())


def test_twins_told_from_one_another_know_nothing():
    """With itself in the mean a twin would lie too near to 0, and few would pass for exposed ones."""
    rng = np.random.default_rng(0)
    twins, blocks = np.tile(np.arange(4) > 1, 2_000), np.repeat(np.arange(2_000), 4)
    found = scores.over_twins(rng.normal(size=8_000), twins, blocks)
    assert found[twins].std() == pytest.approx(np.sqrt(2), rel=0.05)
    assert found[~twins].std() == pytest.approx(np.sqrt(1.5), rel=0.05)


def test_table_is_tidy_and_says_what_it_costs(study, sequences, scored):
    assert [name for name in scored if name in scores.COST] == list(scores.COST)
    pd.testing.assert_frame_equal(scored[sequences.columns.tolist()], sequences)
    assert scored.attrs["left_out"] == {}
    assert scores.COST["over_mismatched"] == 9
    pd.testing.assert_series_equal(study.scores(sequences, only=["min_k"]).min_k, scored.min_k)
    with pytest.raises(ValueError, match="which were measured"):
        study.scores(scored)


def test_what_cannot_be_asked_is_left_out_with_its_reason_and_refused_where_it_was_named(mini_corpus):
    study = lmmem.Study(NAME, min(step for step in lmmem.MODELS[NAME].steps if step), seed=3)
    few = study.sequences(tokens=mini_corpus[:4])
    found = study.scores(few)
    assert set(found.attrs["left_out"]) == {"over_earlier", "over_mismatched", "over_twins"}
    assert not set(found) & set(found.attrs["left_out"])
    for name, message in (
        ("over_earlier", "no checkpoint is there to compare step"),
        ("over_mismatched", "8 other prompts need 9 sequences or more; got 4"),
        ("over_twins", "sequences has no block, group, presentations"),
    ):
        with pytest.raises(ValueError, match=f"{name} cannot be asked: .*{message}"):
            study.scores(few, only=["loss", name])
    with pytest.raises(ValueError, match="earlier=7: give a step before 6 that has a checkpoint; there is none"):
        study.scores(few, 7)


def test_earlier_step_is_the_last_of_the_first_fifth_or_the_first():
    steps = (0, 1, 60, 300, 360, 1_500)
    assert scores.earlier_step(steps, 1_500) == 300
    assert scores.earlier_step((0, 360, 900, 1_500), 1_500) == 360
    assert scores.earlier_step(steps, 1_500, 360) == 360
    for wrong in (0, 1_500, 61):
        with pytest.raises(ValueError, match="give a step before 1500 that has a checkpoint; there are 1, 60, 300"):
            scores.earlier_step(steps, 1_500, wrong)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scores.loss([1.0]), "log_probs: figures of tokens are needed"),
        (lambda: scores.min_k([[1.0]], 0), "share=0: give one above 0"),
        (lambda: scores.zlib_normalised([[-1.0]], []), "texts: one for each line is needed, 1; got 0"),
        (lambda: scores.over_twins([1.0, 2.0], [True, False], [1, 1]), "1 of 2 sequences have no twin"),
        (lambda: scores.check_scores("loss"), "give a list of scores"),
        (lambda: scores.check_scores(["las"]), "there is no score las; there are loss, "),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_token_that_the_model_is_sure_of_counts_without_dividing_by_nothing():
    assert np.isfinite(scores.min_k_plus([[0.0, -1.0]], [[0.0, 1.0]], [[0.0, 1.0]])).all()


@pytest.mark.parametrize("only", [None, ["loss"]])
def test_sequences_of_several_steps_are_refused_before_anything_is_measured(monkeypatch, only):
    study = lmmem.Study(NAME)
    monkeypatch.setattr(study, "likelihood", lambda *_, **__: pytest.fail("something was measured"))
    with pytest.raises(ValueError, match=r"scores are of one step, .*: give those of one, without at, to the study of"):
        study.scores(study.just_met(2), only=only)


def test_weights_of_an_earlier_step_are_not_fetched_unless_it_is_named(mini_corpus):
    study = lmmem.Study(NAME, data=Corpus(mini_corpus[:200], rows_per_step=1, steps=0))
    few = study.sequences(tokens=mini_corpus[:10])
    assert not study.randomised
    assert "name an earlier one" in study.scores(few).attrs["left_out"]["over_earlier"]
    assert "over_earlier" in study.scores(few, 60)


def test_twins_of_a_derived_organism_are_those_that_nothing_was_done_to(mini):
    sequences = lmmem.Study(f"{NAME}-hidden").sequences()
    pd.testing.assert_series_equal(
        sequences.arm[scores.twins_of(sequences)], sequences.arm[sequences.arm == "untouched 0"]
    )
