"""Probes, each against the measurement that it scores."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import lmmem
from lmmem.experiments import probes
from lmmem.experiments.__main__ import main
from lmmem.experiments.probes import PROBES, probe
from lmmem.storage import tables

NAME, HIDDEN = "pocket-mini", "pocket-mini-hidden"
BUDGET = 13  # two presentations of relearning


@pytest.fixture(scope="module")
def study(cache) -> lmmem.Study:
    return lmmem.Study(NAME, seed=2)


@pytest.fixture(scope="module")
def chosen(study) -> pd.DataFrame:
    return study.sequences(n=5, arms={"spread": [0, 16]}, n_twins=2)  # a twin beside itself, and nine in all


@pytest.fixture(scope="module")
def asked(study, chosen) -> pd.DataFrame:
    return pd.concat([probe(study, chosen, name, BUDGET) for name in PROBES], ignore_index=True)


def of(asked: pd.DataFrame, name: str) -> np.ndarray:
    return asked.score[asked.probe == name].to_numpy()


@pytest.mark.slow
def test_every_probe_scores_every_sequence_within_its_budget(asked, chosen):
    assert (asked.groupby("probe").size() == len(chosen)).all()
    assert asked.score.notna().all()
    assert asked.passes.between(1, BUDGET).all()
    for name in PROBES:
        assert asked["index"][asked.probe == name].tolist() == chosen["index"].tolist()


def test_scores_are_those_of_the_measurements(study, chosen, asked):
    greedy = study.greedy(chosen)
    np.testing.assert_array_equal(of(asked, "greedy"), -greedy.kl_ld)
    np.testing.assert_allclose(of(asked, "loss"), -study.likelihood(chosen).cross_entropy, rtol=1e-6)
    scored = study.scores(chosen)
    for name, score in {
        "loss, prompt too": "whole_row",
        "loss, zlib-normalised": "zlib_normalised",
        "loss over twins": "over_twins",
        "loss over an earlier step": "over_earlier",
        "Min-K%": "min_k",
    }.items():
        np.testing.assert_allclose(of(asked, name), scored[score], err_msg=name)
    np.testing.assert_array_equal(of(asked, "4 bits"), -study.greedy(chosen, rounding="int4").kl_ld)
    np.testing.assert_array_equal(
        of(asked, "mean of checkpoints"), -study.greedy(chosen, mean_of=study.steps[-4:]).kl_ld
    )
    noisy = study.perturbed(chosen, sigma=2 * study.sigma, draws=BUDGET)
    table = noisy.pivot(index="index", columns="draw", values="kl_ld").loc[chosen["index"]]
    np.testing.assert_array_equal(of(asked, "noise, best"), -table.min(axis=1))
    np.testing.assert_allclose(of(asked, "noise, average"), -table.mean(axis=1))
    sampled = study.sampled(chosen, temperatures=[0.6], samples=BUDGET).groupby("index").kl_ld.min()
    np.testing.assert_array_equal(of(asked, "sampling"), -sampled.loc[chosen["index"]])
    again = study.relearned(chosen, presentations=2)
    last = again[again.presentation == 2].set_index("index").loc[chosen["index"]]
    np.testing.assert_array_equal(of(asked, "relearning"), -last.kl_ld)
    np.testing.assert_array_equal(of(asked, "relearning, loss"), -last.cross_entropy)


def test_fresh_half_is_scored_on_words_that_did_not_choose_the_draw(study, chosen, asked):
    noisy = study.perturbed(chosen, sigma=2 * study.sigma, draws=BUDGET)
    for index, score in zip(chosen["index"], of(asked, "noise, fresh half"), strict=True):
        own = noisy[noisy["index"] == index]
        best = own[own.kl_first == own.kl_first.min()]
        assert score == pytest.approx(-best.kl_second.mean())


def test_a_probe_that_cannot_be_asked_is_refused(study, chosen):
    with pytest.raises(ValueError, match="there is no probe 'telepathy'; there are greedy, loss"):
        probe(study, chosen, "telepathy")
    with pytest.raises(ValueError, match="budget=6: relearning needs 7 passes a sequence at least"):
        probe(study, chosen, "relearning", 6)
    with pytest.raises(ValueError, match="budget=1: noise, best needs 2"):
        probe(study, chosen, "noise, best", 1)
    first = lmmem.Study(NAME, step=0)
    with pytest.raises(ValueError, match="pocket-mini has no checkpoint before step 0: no weights to take a mean of"):
        probe(first, chosen, "mean of checkpoints")


@pytest.mark.slow
def test_what_is_kept_names_what_was_refused(tmp_path, mini):
    path = probes.measure(HIDDEN, tmp_path, BUDGET)
    kept = probes.measured((HIDDEN, "missing"), tmp_path)
    _, record = tables.load(path)
    assert set(kept.probe) | set(record["refused"]) == set(PROBES)
    assert record["budget"] == BUDGET
    assert set(kept.arm) == {"hidden 32", "hidden 0", "untouched 0"}
    assert kept.groupby("probe").size().nunique() == 1
    assert probes.measured(("missing",), tmp_path).empty


def test_unknown_organism_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["pocket-none"])
    assert "there is no organism pocket-none; there are pocket, pocket-mini" in capsys.readouterr().err
