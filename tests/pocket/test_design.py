"""The randomised experiment in the training data."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lmmem
from lmmem.pocket import design, text
from lmmem.pocket.data import data_folder
from lmmem.pocket.recipe import RECIPES, REFERENCE_TEXT

NAME = "pocket-mini"
RECIPE = RECIPES[NAME]


def test_every_block_holds_every_arm_once(mini_corpus):
    arms = {("spread", m) for m in (0, *RECIPE.presentations)} | {
        ("window", m) for m in (0, *RECIPE.window_presentations)
    }
    for _, block in mini_corpus.canaries.groupby("block"):
        assert len(block) == len(arms)
        assert set(zip(block.group, block.presentations, strict=True)) == arms


def test_blocks_are_neighbours_in_complexity(mini_corpus):
    canaries = mini_corpus.canaries
    edges = canaries.groupby("block").z_complexity.agg(["min", "max"])
    assert (edges["max"][:-1].to_numpy() <= edges["min"][1:].to_numpy()).all()
    texts = lmmem.load_tokenizer(NAME).batch_decode(lmmem.split(mini_corpus[canaries["index"].to_numpy()])[1])
    np.testing.assert_allclose(canaries.z_complexity, lmmem.z_complexity(texts))


def test_spread_presentations_are_one_in_each_part_of_training(mini_corpus):
    merged = mini_corpus.presented.merge(mini_corpus.canaries[["canary", "group", "presentations"]], on="canary")
    for _, lines in merged.query("group == 'spread' and presentations > 0").groupby("canary"):
        m = lines.presentations.iloc[0]
        parts = (lines.step.to_numpy() - 1) * m / RECIPE.steps  # in units of a part
        assert (parts >= np.arange(m)).all()
        assert (parts < np.arange(m) + 1 + 2 * m / RECIPE.steps).all()  # a full step may pass it on


def test_window_presentations_lie_in_the_window(mini_corpus):
    merged = mini_corpus.presented.merge(mini_corpus.canaries[["canary", "group", "presentations"]], on="canary")
    steps = merged.query("group == 'window' and presentations > 0").step
    first, last = (fraction * RECIPE.steps for fraction in RECIPE.window)
    assert steps.min() > first
    assert steps.max() <= last


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


def test_same_seed_gives_the_same_bytes(tmp_path, cache):
    code = "from lmmem.pocket.data import data_folder; print(data_folder('pocket-mini'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"LMMEM_CACHE": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    other = done.stdout.strip()
    assert str(tmp_path) in other
    ours = json.loads((data_folder(NAME) / "checksums.json").read_text())
    theirs = json.loads((Path(other) / "checksums.json").read_text())
    assert ours.pop("manifest.json") != theirs.pop("manifest.json")  # it holds the date
    assert ours == theirs


def test_another_seed_gives_another_assignment():
    rows = np.arange(300 * 96, dtype=np.uint16).reshape(300, 96) + 1
    tokenizer = text.train_tokenizer([text.Document("a.py", "some text " * 50)], 300)
    rows %= 299
    recipe = dataclasses.replace(RECIPE, blocks=2, novelty_tokens=96)
    first, _ = design.choose_canaries(rows, rows[:0], tokenizer, recipe)
    other, _ = design.choose_canaries(rows, rows[:0], tokenizer, dataclasses.replace(recipe, seed=1))
    assert len(first) == len(other) == 12
    assert not first.z_complexity.equals(other.z_complexity)


def test_too_few_passages_are_refused(mini_corpus):
    tokenizer = text.train_tokenizer([text.Document("a.py", "some text " * 50)], 300)
    with pytest.raises(ValueError, match=r"the design needs 36 passages .* found 1"):
        design.choose_canaries(mini_corpus.rows[:1], mini_corpus.rows[1:2], tokenizer, RECIPE)


def test_too_few_rows_of_text_are_refused(mini_corpus):
    canaries = mini_corpus.canaries
    with pytest.raises(
        ValueError, match=r"cannot hold this design: 0 presentations too many, \d+ rows of natural text too few"
    ):
        design.arrange(canaries, mini_corpus[canaries["index"].to_numpy()], mini_corpus[:10], RECIPE)


def test_window_that_is_too_short_is_refused(mini_corpus):
    canaries = mini_corpus.canaries
    short = dataclasses.replace(RECIPE, window=(0.5, 0.52))
    with pytest.raises(ValueError, match=r"cannot hold this design: [1-9]\d* presentations too many"):
        design.arrange(canaries, mini_corpus[canaries["index"].to_numpy()], mini_corpus[:], short)


def test_text_is_that_of_the_installed_packages():
    training, held_out = text.documents(RECIPE)
    assert not {doc.path for doc in training} & {doc.path for doc in held_out}
    manifest = json.loads((data_folder(NAME) / "manifest.json").read_text())
    assert manifest["training_files"] == [doc.path for doc in training]
    assert manifest["text_sha256"] == text.text_hash(training + held_out)
    assert manifest["text_is_reference"] == (manifest["text_sha256"] == REFERENCE_TEXT[NAME])
    assert manifest["text_packages"] == text.package_versions(RECIPE)
    assert {path.split("/")[0] for path in manifest["training_files"]} <= set(RECIPE.packages)


def test_other_text_is_used_and_said_to_be_other(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("LMMEM_CACHE", str(tmp_path))
    monkeypatch.setitem(REFERENCE_TEXT, NAME, "another")
    manifest = json.loads((data_folder(NAME) / "manifest.json").read_text())
    assert manifest["text_is_reference"] is False
    assert "is not the reference one" in capsys.readouterr().err


def test_hash_tells_where_one_document_ends():
    document = text.Document
    assert text.text_hash([document("a", "bc")]) != text.text_hash([document("ab", "c")])


def test_rows_are_the_documents_end_to_end():
    docs = [text.Document("a", "first text, " * 20), text.Document("b", "second text. " * 20)]
    tokenizer = text.train_tokenizer(docs, 280)
    rows = text.rows_of(docs, tokenizer, 5)
    pieces = tokenizer.decode(rows.ravel().tolist(), skip_special_tokens=False).split(text.END_OF_TEXT)
    assert pieces[0] == docs[0].text
    assert docs[1].text.startswith(pieces[1])
    assert tokenizer.token_to_id(text.END_OF_TEXT) == 0


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
    assert RECIPES["pocket"].blocks >= 32
    assert max(RECIPES["pocket"].presentations) >= 64
