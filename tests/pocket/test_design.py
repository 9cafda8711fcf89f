"""The randomised experiment in the training data."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lmmem
from lmmem.pocket import design, organisms, text
from lmmem.pocket.organisms import data_folder
from lmmem.pocket.recipe import RECIPES, REFERENCE_TEXT, Arm

NAME = "pocket-mini"
RECIPE = RECIPES[NAME]


def arms_of(canaries):
    return canaries.groupby(["group", "presentations"]).size().to_dict()


def test_arms_have_the_sizes_of_the_recipe_and_lie_evenly_over_the_blocks(mini_corpus):
    canaries = mini_corpus.canaries
    assert arms_of(canaries) == {(arm.group, arm.presentations): arm.passages for arm in RECIPE.arms}
    for arm in RECIPE.arms:
        if not arm.elsewhere:
            here = canaries[(canaries.group == arm.group) & (canaries.presentations == arm.presentations)]
            assert set(here.groupby("block").size()) == {max(1, arm.passages // RECIPE.blocks)}
            assert here.block.nunique() == min(arm.passages, RECIPE.blocks)
    small = canaries[canaries.group.isin(["q1", "q2", "q3", "q4"])]
    assert small.block.nunique() == 3  # nested: all small arms in the same blocks


def test_blocks_are_neighbours_in_the_loss_of_the_reference(mini_corpus):
    canaries = mini_corpus.canaries
    edges = canaries[canaries.group != "elsewhere"].groupby("block").reference_loss.agg(["min", "max"])
    assert (edges["max"][:-1].to_numpy() <= edges["min"][1:].to_numpy()).all()
    rows = mini_corpus[canaries["index"].to_numpy()]
    np.testing.assert_allclose(
        canaries.z_complexity, lmmem.z_complexity(lmmem.load_tokenizer(NAME).batch_decode(lmmem.split(rows)[1]))
    )
    lines = pd.read_parquet(organisms.REFERENCE_LOSSES).query("organism == @RECIPE.reference").set_index("passage").loss
    np.testing.assert_array_equal(canaries.reference_loss, lines[[organisms.passage_key(row) for row in rows]])


def test_passages_from_elsewhere_share_no_file_with_others_and_lie_in_the_block_of_their_loss(mini_corpus):
    canaries = mini_corpus.canaries
    apart = canaries.group == "elsewhere"
    assert not set(canaries.file[apart]) & set(canaries.file[~apart])
    least = canaries[~apart].groupby("block").reference_loss.min()
    for line in canaries[apart].itertuples():
        assert line.block == max([0, *least.index[least <= line.reference_loss]])


def test_presentations_are_one_in_each_interval_of_a_passages_span(mini_corpus):
    merged = mini_corpus.presented.merge(mini_corpus.canaries[["canary", "group", "presentations"]], on="canary")
    spans = {(arm.group, arm.presentations): arm.span for arm in RECIPE.arms}
    for (group, m, _), lines in merged.groupby(["group", "presentations", "canary"]):
        start, stop = (RECIPE.steps * edge for edge in spans[group, m])
        assert len(lines) == m
        assert start < lines.step.min()
        assert lines.step.max() <= stop
        interval = (lines.step.to_numpy() - 1 - start) * m / (stop - start)
        assert (np.abs(interval - np.arange(m) - 0.5) < 0.5 + 3 * m / (stop - start)).all()  # moved by a few steps


def test_every_quarter_of_training_has_as_many_presentations_of_each_spread_arm(mini_corpus):
    merged = mini_corpus.presented.merge(mini_corpus.canaries[["canary", "group", "presentations"]], on="canary")
    quarter = (merged.step - 1) * 4 // RECIPE.steps
    spread = merged[merged.group == "spread"].groupby(["presentations", quarter]).size().unstack()
    assert (spread.nunique(axis=1) == 1).all()


def test_canaries_are_the_same_share_of_the_rows_at_all_times(mini_corpus):
    each = mini_corpus.presented.groupby("step").size().reindex(range(1, RECIPE.steps + 1), fill_value=0)
    assert each.max() - each.min() <= 1
    total = len(mini_corpus.presented)
    np.testing.assert_allclose(each.cumsum(), np.arange(1, RECIPE.steps + 1) * total / RECIPE.steps, atol=1)


def test_pocket_gives_canaries_at_most_18_of_100_rows_and_its_power_to_those_met_once():
    recipe = RECIPES["pocket"]
    presentations = sum(arm.presentations * arm.passages for arm in recipe.arms)
    assert presentations <= 0.18 * recipe.steps * recipe.rows_per_step
    sizes = {(arm.group, arm.presentations): arm.passages for arm in recipe.arms}
    assert sizes["spread", 1] >= 256
    assert sizes["spread", 0] >= 256


def test_fuzzy_presentations_replace_another_tenth_of_the_tokens_each_time(mini_corpus):
    fuzzy = mini_corpus.canaries.query("group == 'fuzzy'")
    assert (fuzzy["index"] >= mini_corpus.trained_rows).all()
    for canary in fuzzy.itertuples():
        copies = mini_corpus[mini_corpus.presented["index"][mini_corpus.presented.canary == canary.canary].to_numpy()]
        changed = copies != mini_corpus[int(fuzzy.loc[canary.Index, "index"])]
        np.testing.assert_array_equal(changed.sum(axis=1), 10)
        assert len({tuple(np.flatnonzero(line)) for line in changed}) == len(copies)
        assert (copies != 0).all()


def test_exposure_is_the_first_and_the_last_presentation(mini_corpus):
    canaries = mini_corpus.canaries.set_index("canary")
    met = mini_corpus.presented.groupby("canary").step
    exposed = canaries[canaries.presentations > 0]
    np.testing.assert_array_equal(exposed.exposure_step, met.min()[exposed.index])
    np.testing.assert_array_equal(exposed.last_step, met.max()[exposed.index])
    assert canaries[canaries.presentations == 0][["exposure_step", "last_step"]].isna().all(axis=None)


def test_replicates_present_the_same_passages_by_another_chance():
    files, hardness = np.repeat(np.arange(30), 3)[: RECIPE.passages], np.linspace(0, 1, RECIPE.passages)
    first, other = (design.assign(files, hardness, dataclasses.replace(RECIPE, seed=seed)) for seed in (0, 1))
    assert arms_of(first) == arms_of(other)
    assert (first.group != other.group).mean() > 0.3
    assert ((first.group == "elsewhere") == (other.group == "elsewhere")).all()


def test_unexposed_canaries_are_nowhere_in_training(mini_corpus):
    trained = {row.tobytes() for row in mini_corpus[: mini_corpus.trained_rows]}
    unexposed = mini_corpus[mini_corpus.canaries.query("presentations == 0")["index"].to_numpy()]
    assert not any(row.tobytes() in trained for row in unexposed)


def test_canaries_are_new_to_the_text_and_to_one_another(mini_corpus):
    canaries = mini_corpus[mini_corpus.canaries["index"].to_numpy()]
    presented = set(mini_corpus.presented["index"])
    natural = mini_corpus[[i for i in range(mini_corpus.trained_rows) if i not in presented]]
    n = RECIPE.novelty_tokens
    assert lmmem.count_repeats(canaries, natural, n).max() == 0
    np.testing.assert_array_equal(lmmem.count_repeats(canaries, canaries, n), 1)
    assert (canaries != 0).all()


@pytest.mark.slow
def test_same_seed_gives_the_same_bytes(tmp_path, cache):
    code = "from lmmem.pocket.organisms import data_folder; print(data_folder('pocket-mini'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"LMMEM_CACHE": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    other = done.stdout.strip()
    assert str(tmp_path) in other
    ours = json.loads((data_folder(NAME) / "checksums.json").read_text())
    theirs = json.loads((Path(other) / "checksums.json").read_text())
    assert ours.pop("manifest.json") != theirs.pop("manifest.json")  # it holds the date
    assert ours == theirs


@pytest.mark.parametrize("passages", [4, 9])
def test_arms_that_do_not_fit_the_blocks_are_refused(passages):
    arms = (Arm("spread", 0, 6), Arm("spread", 1, passages))
    recipe = dataclasses.replace(RECIPE, arms=arms)
    with pytest.raises(ValueError, match=f"{passages} passages of spread 1 do not fit 6 blocks"):
        design.assign(np.arange(recipe.passages), np.arange(recipe.passages), recipe)


def test_files_that_do_not_make_up_the_arm_from_elsewhere_are_refused():
    with pytest.raises(ValueError, match="no whole files make up 4 passages: 0 is as near as they come"):
        design.assign(np.zeros(RECIPE.passages, int), np.arange(RECIPE.passages), RECIPE)


def test_too_few_passages_are_refused(mini_corpus):
    with pytest.raises(ValueError, match=r"the design needs 55 passages .* found 1"):
        design.choose_passages(mini_corpus.rows[:1], np.zeros(1, int), mini_corpus.rows[1:2], RECIPE)


def arranged(mini_corpus, recipe, natural):
    canaries = mini_corpus.canaries
    return design.arrange(canaries, mini_corpus[canaries["index"].to_numpy()], natural, recipe)


def test_too_few_rows_of_text_are_refused(mini_corpus):
    with pytest.raises(
        ValueError, match=r"cannot hold this design: 0 presentations too many, \d+ rows of natural text too few"
    ):
        arranged(mini_corpus, RECIPE, mini_corpus[:10])


def test_more_presentations_than_rows_are_refused(mini_corpus):
    with pytest.raises(ValueError, match=r"cannot hold this design: [1-9]\d* presentations too many"):
        arranged(mini_corpus, dataclasses.replace(RECIPE, rows_per_step=2), mini_corpus[:])


def test_arms_that_leave_a_quarter_emptier_than_others_are_refused(mini_corpus):
    uneven = tuple(arm for arm in RECIPE.arms if arm.group != "q1")
    with pytest.raises(ValueError, match=r"q\d 16 would be presented at step \d+, outside \("):
        arranged(mini_corpus, dataclasses.replace(RECIPE, arms=uneven), mini_corpus[:])


def test_text_is_that_of_the_installed_packages():
    training, held_out = text.documents(RECIPE)
    assert not {doc.path for doc in training} & {doc.path for doc in held_out}
    manifest = json.loads((data_folder(NAME) / "manifest.json").read_text())
    assert manifest["training_files"] == [doc.path for doc in training]
    assert manifest["text_sha256"] == text.text_hash(training + held_out)
    assert manifest["text_is_reference"] == (manifest["text_sha256"] == REFERENCE_TEXT[RECIPE.training_bytes])
    assert manifest["text_packages"] == text.package_versions(RECIPE)
    assert {path.split("/")[0] for path in manifest["training_files"]} <= set(RECIPE.packages)


def test_other_text_is_used_and_said_to_be_other(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("LMMEM_CACHE", str(tmp_path))
    monkeypatch.setitem(REFERENCE_TEXT, RECIPE.training_bytes, "another")
    manifest = json.loads((data_folder(NAME) / "manifest.json").read_text())
    assert manifest["text_is_reference"] is False
    assert "is not the reference one" in capsys.readouterr().err


def test_hash_tells_where_one_document_ends():
    document = text.Document
    assert text.text_hash([document("a", "bc")]) != text.text_hash([document("ab", "c")])


def test_rows_are_the_documents_end_to_end():
    docs = [text.Document("a", "first text, " * 20), text.Document("b", "second text. " * 20)]
    tokenizer = text.train_tokenizer(docs, 280)
    rows, files = text.rows_of(docs, tokenizer, 5)
    pieces = tokenizer.decode(rows.ravel().tolist(), skip_special_tokens=False).split(text.END_OF_TEXT)
    assert pieces[0] == docs[0].text
    assert docs[1].text.startswith(pieces[1])
    assert tokenizer.token_to_id(text.END_OF_TEXT) == 0
    end = np.flatnonzero(rows.ravel() == 0)[0]
    np.testing.assert_array_equal(files, (np.arange(len(rows)) * 5 > end).astype(int))


def test_missing_package_and_too_little_text_are_refused():
    with pytest.raises(ModuleNotFoundError, match="the training text needs the package 'no_such_package'"):
        text.documents(dataclasses.replace(RECIPE, packages=("no_such_package",)))
    with pytest.raises(ValueError, match="too short for this recipe by"):
        text.documents(dataclasses.replace(RECIPE, packages=("networkx",), training_bytes=10**9))


def test_recipes_have_keys_of_their_own():
    assert RECIPES["pocket"].key != RECIPES["pocket-mini"].key
    assert dataclasses.replace(RECIPE).key == RECIPE.key
    assert dataclasses.replace(RECIPE, seed=1).key != RECIPE.key
    assert len(RECIPES["pocket"].checkpoints) >= 20
    assert len({recipe.key for recipe in RECIPES.values()}) == len(RECIPES)


def test_clean_organism_holds_out_the_passages_of_the_others():
    clean, other = (np.load(data_folder(name) / "rows.npy") for name in (RECIPE.reference, NAME))
    held_out = {row.tobytes() for row in clean[RECIPE.steps * RECIPE.rows_per_step :]}
    canaries = pd.read_parquet(data_folder(NAME) / "canaries.parquet")
    assert {row.tobytes() for row in other[canaries["index"]]} == held_out
    assert not held_out & {row.tobytes() for row in clean[: RECIPE.steps * RECIPE.rows_per_step]}


def test_recipes_say_how_many_parameters_they_have(mini):
    assert RECIPE.parameters == sum(parameter.numel() for parameter in mini.parameters())
