"""Relearning, against a plain loop, and what is kept of it."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch

import lmmem
from lmmem.analysis import hidden, statistics
from lmmem.experiments import measurements, probes, relearning, teaching
from lmmem.pocket import organisms
from lmmem.pocket.recipe import DERIVED, ORGANISMS
from lmmem.storage import tables

NAME, HIDDEN = "pocket-mini", "pocket-mini-hidden"
INDEX = [5, 900, 3, 17, 18, 19, 20, 21]


@pytest.fixture(scope="module")
def natural(mini_corpus) -> np.ndarray:
    return mini_corpus[100:108]


@pytest.fixture(scope="module")
def study(cache) -> lmmem.Study:
    return lmmem.Study(NAME, seed=3)


def test_relearning_is_that_of_a_plain_loop(mini, mini_corpus, natural, monkeypatch):
    monkeypatch.setattr("lmmem.inference.teaching.native_precision", lambda device: "float32")
    model = copy.deepcopy(mini)
    rows = torch.from_numpy(np.concatenate([mini_corpus[INDEX], natural])).to(model.device)
    table = teaching.relearning_table(
        NAME, mini_corpus, INDEX, natural=natural, presentations=3, learning_rate=1e-3, seeds=[7]
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for presentation in range(4):  # eight passages, eight rows: a step a round, whatever the order
        prompts, truth = lmmem.split(mini_corpus[INDEX])
        found = table[table.presentation == presentation]
        assert found["index"].tolist() == INDEX
        np.testing.assert_allclose(found.cross_entropy, lmmem.cross_entropy(model, prompts, truth), atol=2e-3)
        assert abs(found.kl_ld - lmmem.kl_ld(model, prompts, truth)).mean() < 2
        optimizer.zero_grad()
        model(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
    assert (
        table.cross_entropy[table.presentation == 3].mean() < table.cross_entropy[table.presentation == 0].mean() - 0.1
    )


def test_each_seed_begins_from_the_same_weights_and_gives_them_back(mini_corpus, natural):
    options = {"natural": mini_corpus[100:140], "presentations": 2, "learning_rate": 1e-3}
    table = teaching.relearning_table(NAME, mini_corpus, INDEX, seeds=[0, 1], **options)
    undisturbed = measurements.greedy_table(NAME, mini_corpus, INDEX)
    for _, one in table[table.presentation == 0].groupby("seed"):
        np.testing.assert_array_equal(one.kl_ld, undisturbed.kl_ld)
        np.testing.assert_allclose(one.cross_entropy, undisturbed.cross_entropy, rtol=1e-6)
    first, second = (table[(table.seed == s) & (table.presentation == 2)].cross_entropy.to_numpy() for s in (0, 1))
    assert not np.array_equal(first, second)
    alone = teaching.relearning_table(NAME, mini_corpus, INDEX, seeds=[1], **options)
    np.testing.assert_array_equal(alone.cross_entropy[alone.presentation == 2], second)


def test_what_is_taught_in_their_place_teaches_them_less(mini_corpus, natural):
    options = {"natural": mini_corpus[100:140], "presentations": 4, "learning_rate": 2e-3}
    last = {}
    for name, instead in {"own": None, "others": mini_corpus[200:208], "none": np.empty((0, 96), dtype=int)}.items():
        table = teaching.relearning_table(NAME, mini_corpus, INDEX, instead=instead, **options)
        last[name] = table[table.presentation == 4].cross_entropy.mean()
    assert last["own"] < min(last["others"], last["none"]) - 0.2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"presentations": 0}, "presentations=0: give a whole number, 1 or more"),
        ({"seeds": [1, 1]}, r"seeds=\[1, 1\]: give a list of them, each once"),
        ({"seeds": 3}, "seeds=3: give a list"),
        ({"optimizer": "lion"}, "unknown optimizer 'lion'; choose one of adamw, sgd"),
        ({"learning_rate": 0.0}, "learning_rate=0.0: give a number above 0"),
        ({"dtype": "float16"}, "float16 cannot be taught, as it has no numbers as small as gradients are"),
        ({"dtype": "bfloat16"}, "bfloat16 cannot be taught, as it rounds small steps away"),
        (
            {"instead": np.zeros((2, 40), dtype=int)},
            "instead: give 0 or more rows of 96 token ids, got int64",
        ),
        ({"natural": np.zeros((7, 96), dtype=int)}, "natural: give 8 or more rows of 96 token ids"),
        ({"natural": np.zeros((9, 96))}, "natural: give 8 or more rows of 96 token ids, got float64"),
    ],
)
def test_what_cannot_be_relearnt_is_refused_before_anything_is_loaded(mini_corpus, natural, options, message):
    with pytest.raises(ValueError, match=message):
        teaching.relearning_table(NAME, mini_corpus, INDEX, **{"natural": natural} | options)


@pytest.mark.parametrize("name", [HIDDEN, "pocket-mini-erased"])
def test_text_beside_a_derived_organism_holds_no_passage_of_its_own_or_of_its_base(name, mini):
    study = lmmem.Study(name)
    rows = study._natural_rows(study.sequences(n=2), study.step)
    for corpus in (study.corpus, lmmem.training_data(NAME)):
        prompts, _ = lmmem.split(corpus[corpus.canaries["index"].to_numpy()])
        assert not {row[:32].tobytes() for row in rows} & {prompt.tobytes() for prompt in prompts}
        assert lmmem.count_repeats(corpus[corpus.canaries["index"].to_numpy()], rows, 16).max() == 0


def test_sequences_of_several_steps_are_not_taught_together(study):
    with pytest.raises(ValueError, match="cannot be taught together"):
        study.relearned(study.just_met(2))


@pytest.mark.parametrize("step", [12, 120])
def test_text_beside_sequences_is_natural_and_met_by_then(study, step):
    rows = {row.tobytes() for row in study._natural_rows(study.sequences(n=2), step)}
    met = study.corpus[: step * study.corpus.rows_per_step]
    canaries = {row.tobytes() for row in study.corpus[study.corpus.presented["index"].to_numpy()]}
    assert rows <= {row.tobytes() for row in met} - canaries
    assert len(rows) > 8


def test_study_teaches_again_by_its_seed_and_says_where(study):
    chosen = study.sequences(n=3, arms={"spread": [0, 16]})
    found = study.relearned(chosen, presentations=2, seeds=2, steps=[60])
    assert sorted(set(found.seed)) == [3, 4]
    assert set(found.step) == {60}
    assert len(found) == 2 * 3 * len(chosen)
    with pytest.raises(ValueError, match="seeds=0: give a whole number, 1 or more"):
        study.relearned(chosen, seeds=0)


def test_own_tokens_are_taught_beside_the_models_text(study):
    own = study.sequences(tokens=study.corpus[[1, 2, 3]])
    assert study.relearned(own, presentations=1).groupby("presentation").size().to_dict() == {0: 3, 1: 3}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_study_in_half_precision_teaches_in_float32_and_finds_the_same(study, dtype):
    """In bfloat16 small steps were rounded away, and savings came out too small."""
    half, chosen = lmmem.Study(NAME, seed=3, dtype=dtype), study.sequences(n=2, arms={"spread": [0, 16]})
    options = {"presentations": 2, "learning_rate": 1e-4}
    pd.testing.assert_frame_equal(half.relearned(chosen, **options), study.relearned(chosen, **options))
    assert "float32" in half.provenance()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, mini):
    folder = tmp_path_factory.mktemp("relearning")
    for name in (NAME, HIDDEN):
        relearning.measure(name, folder, seeds=1)
    return folder


@pytest.mark.slow
def test_what_is_kept_tells_kinds_and_ways_apart(folder):
    kept = relearning.measured((NAME, HIDDEN, "missing"), folder)
    assert kept.groupby("organism").kind.unique().map(set).to_dict() == {
        NAME: {"forgotten", "once", "just after"},
        HIDDEN: {"hidden"},
    }
    ways = kept[kept.organism == HIDDEN].groupby(["optimizer", "learning_rate"]).size()
    assert len(ways) == len(relearning.WAYS) + 2
    assert {relearning.ALONE, relearning.NEIGHBOURS} < set(ways.index.get_level_values(0))
    usual = ways[relearning.USUAL]
    assert set(ways.drop([relearning.USUAL])) == {usual * 9 // 17}  # eight presentations and none, of sixteen and none
    after = kept[kept.kind == "just after"]
    assert after.step.min() > 0.08 * 120
    assert set(after.arm) == {"spread 0", "spread 1"}
    key = ["organism", "kind", "optimizer", "learning_rate", "step", "index", "seed", "presentation"]
    assert not kept.duplicated(key).any()
    assert kept.groupby("index").organism.nunique().max() == 1
    study = lmmem.Study(HIDDEN)
    again = study.relearned(study.sequences(DERIVED[HIDDEN].taught)).set_index(["canary", "presentation"]).sort_index()
    usual = kept[(kept.organism == HIDDEN) & (kept.optimizer == "adamw") & np.isclose(kept.learning_rate, 5e-4)]
    usual = usual.set_index(["canary", "presentation"]).sort_index()
    np.testing.assert_array_equal(usual.kl_ld, again.kl_ld)
    np.testing.assert_allclose(usual.cross_entropy, again.cross_entropy, rtol=1e-6)


def test_neighbours_are_taught_of_all_passages_alike_and_no_passage_is(monkeypatch, mini):
    study, taught = lmmem.Study(HIDDEN), []
    monkeypatch.setattr(
        study, "relearned", lambda sequences, instead, presentations: taught.append(instead) or sequences
    )
    sequences = study.sequences(DERIVED[HIDDEN].taught)
    found = relearning.neighbours(study, sequences, "hidden")
    assert set(found.optimizer) == {relearning.NEIGHBOURS}
    rows, canary = organisms.neighbours(HIDDEN)
    wanted = {row.tobytes() for row, whose in zip(rows, canary, strict=True) if whose in set(sequences.canary)}
    (instead,) = taught
    assert sorted(row.astype(np.uint16).tobytes() for row in instead) == sorted(wanted)
    for corpus in (study.corpus, lmmem.training_data(NAME)):
        passages = corpus[corpus.canaries["index"].to_numpy()]
        assert lmmem.count_repeats(passages, instead, 16).max() == 0


def test_nothing_measured_is_an_empty_table(tmp_path):
    assert relearning.measured(folder=tmp_path).empty


def test_results_in_the_repository_are_whole_and_of_these_recipes():
    kept = relearning.measured()
    assert set(kept.organism) == set(relearning.NAMES)
    for name in relearning.NAMES:
        _, record = tables.load(relearning.FOLDER / f"{name}.parquet")
        assert record["recipe"] == ORGANISMS[name].key
    assert set(probes.measured().organism) == set(probes.NAMES)
    for name in probes.NAMES:
        _, record = tables.load(probes.FOLDER / f"{name}.parquet")
        assert record["recipe"] == ORGANISMS[name].key


NULLS = ("treated alike", "untouched")


@pytest.mark.slow
def test_readme_says_what_the_results_say():
    readme = " ".join((relearning.FOLDER.parents[1] / "README.md").read_text().split())
    found, areas = hidden.savings(relearning.measured()), hidden.tells(probes.measured())
    lines = found.set_index(["kind", "null"])
    erased = lines.loc["erased", "treated alike"]
    forgotten, after, once = (
        statistics.interval(found, kind=kind, null="unexposed") for kind in ("forgotten", "just after", "once")
    )
    equal = {
        kind: statistics.Interval(*lines.loc[(kind, "unexposed"), ["equal", "equal_low", "equal_high", "equal_n"]])
        for kind in ("forgotten", "just after")
    }
    loss, noise = (
        [statistics.interval(areas, kind="erased", null=null, probe=probe).brief() for null in NULLS]
        for probe in ("loss", "noise, best")
    )
    for said in (
        f"{erased.kl_ld:.1f} tokens from the text and the others {erased.kl_ld_null:.0f} "
        f"(saved {erased.estimate:.0f} tokens, 95 % interval {erased.low:.0f} to {erased.high:.0f}, n = {erased.n})",
        f"area under the ROC curve of {loss[0]}. Beside text that nothing was done to it hardly does, {loss[1]}:",
        f"does neither, {noise[0]} and {noise[1]}.",
        f"saves {forgotten.brief(0)} tokens (n = {forgotten.n}), and {equal['forgotten'].brief(0)} beyond passages",
        f"it saves {after.brief(1)} (n = {after.n}), and {equal['just after'].brief(1)} beyond passages as likely",
        f"At the end of training it is {once.brief(1)} (n = {once.n})",
    ):
        assert said in readme
