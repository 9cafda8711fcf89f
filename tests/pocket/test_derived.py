"""Organisms derived from another: what is taught, hidden and erased, and what is not."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import lmmem
from lmmem.inference.scoring import cross_entropy
from lmmem.pocket import organisms, text
from lmmem.pocket.recipe import DERIVED, ORGANISMS
from lmmem.storage.files import CACHE_VARIABLE, DamagedError, folder_being_written

NAMES = [name for name in DERIVED if "mini" in name]


@pytest.fixture(scope="module", params=NAMES)
def derived(request, mini):
    """Name, recipe and training data of a small derived organism."""
    return request.param, DERIVED[request.param], lmmem.training_data(request.param)


@pytest.fixture
def weights(derived):
    """The last ones."""
    return lmmem.load_model(derived[0]).state_dict()


def steps_of(recipe, corpus):
    """Rows of each step after the base's, (steps, rows, w)."""
    first, last = (step * recipe.rows_per_step for step in (recipe.trained.steps, recipe.steps))
    return corpus[first:last].reshape(-1, recipe.rows_per_step, recipe.row_tokens)


def test_every_taught_passage_is_presented_once_a_round(derived):
    _, recipe, corpus = derived
    taught = corpus.canaries[corpus.canaries.presentations > 0]
    each = corpus.presented.groupby("canary")
    assert sorted(each.groups) == sorted(taught.canary)
    assert (each.size() == recipe.presentations).all()
    round_ = (corpus.presented.step - 1 - recipe.trained.steps) * recipe.passages_per_step // recipe.taught
    assert (round_.groupby(corpus.presented.canary).agg(set).map(len) == recipe.presentations).all()
    passages = dict(zip(taught.canary, corpus[taught["index"].to_numpy()], strict=True))
    for canary, index in zip(corpus.presented.canary, corpus.presented["index"], strict=True):
        np.testing.assert_array_equal(corpus[index], passages[canary])


def test_the_other_rows_of_each_step_are_text_that_the_base_was_trained_on(derived):
    _, recipe, corpus = derived
    base = lmmem.training_data(recipe.base)
    seen = {row.tobytes() for row in base[: base.trained_rows]} - {
        row.tobytes() for row in base[base.presented["index"].to_numpy()]
    }
    assert all(row.tobytes() in seen for row in steps_of(recipe, corpus)[:, recipe.passages_per_step :].reshape(-1, 96))


def test_treated_are_the_taught_and_as_many_that_were_not_once_a_round(derived):
    _, recipe, corpus = derived
    canaries = corpus.canaries
    rows = steps_of(recipe, corpus)[recipe.learnt - recipe.trained.steps :, : recipe.passages_per_step].reshape(-1, 96)
    prompts, said = np.unique(rows, axis=0, return_counts=True)
    assert len(prompts) == recipe.taught + recipe.alike
    assert (said == recipe.rounds).all()
    treated = corpus[canaries["index"][canaries.group == recipe.group].to_numpy()]
    assert {row[:32].tobytes() for row in prompts} == {row[:32].tobytes() for row in treated}
    same = {row.tobytes() for row in prompts} & {row.tobytes() for row in treated}
    assert len(same) == (0 if recipe.treatment == "relabel" else len(treated))


def test_untouched_passages_and_those_treated_alike_are_never_trained_on_as_text(derived):
    _, recipe, corpus = derived
    taught = corpus[: recipe.learnt * recipe.rows_per_step]
    never = corpus.canaries[corpus.canaries.presentations == 0]
    assert len(never) == recipe.alike + recipe.untouched
    assert lmmem.count_repeats(corpus[never["index"].to_numpy()], taught, 16).max() == 0


def test_passages_are_none_of_the_bases_and_of_its_held_out_files(derived):
    _, recipe, corpus = derived
    base = lmmem.training_data(recipe.base)
    ours, theirs = (c[c.canaries["index"].to_numpy()] for c in (corpus, base))
    assert lmmem.count_repeats(ours, theirs, 16).max() == 0
    np.testing.assert_array_equal(lmmem.count_repeats(ours, ours, 16), 1)
    manifest = json.loads((organisms.data_folder(recipe.base) / "manifest.json").read_text())
    assert set(corpus.canaries.file) <= set(manifest["held_out_files"])


def test_blocks_hold_each_kind_and_neighbours_in_the_bases_loss(derived):
    _, recipe, corpus = derived
    sizes = corpus.canaries.groupby(["block", "group", "presentations"]).size().unstack([1, 2])
    assert (sizes[recipe.group] == 2).all(axis=None)  # two twins, that can be compared with one another
    assert (sizes["untouched"] == 2 * recipe.untouched // recipe.taught).all(axis=None)
    edges = corpus.canaries.groupby("block").reference_loss.agg(["min", "max"])
    assert (edges["max"].iloc[:-1].to_numpy() <= edges["min"].iloc[1:].to_numpy()).all()


def test_what_was_taught_is_known_until_it_is_treated(derived):
    name, recipe, corpus = derived
    rows = corpus[corpus.canaries["index"].to_numpy()]
    is_taught = (corpus.canaries.presentations > 0).to_numpy()
    base, learnt, last = (
        cross_entropy(lmmem.load_model(name, step), *lmmem.split(rows)) for step in recipe.checkpoints
    )
    assert (learnt[is_taught] < base[is_taught] - 0.5).all()
    assert last[is_taught].mean() > learnt[is_taught].mean() + 0.2
    np.testing.assert_array_equal(base, cross_entropy(lmmem.load_model(recipe.base), *lmmem.split(rows)))


def test_derived_names_are_names_like_any_other(derived):
    name, recipe, _ = derived
    assert lmmem.MODELS[name].steps == recipe.checkpoints
    chosen = lmmem.Study(name).sequences()
    assert set(chosen.arm) == {f"{recipe.group} {recipe.presentations}", f"{recipe.group} 0", "untouched 0"}


@pytest.fixture
def other_cache(mini, tmp_path, monkeypatch):
    """A cache with a copy of the base alone."""
    shutil.copytree(
        organisms.organism_folder("pocket-mini"), tmp_path / "organisms" / organisms.organism_folder("pocket-mini").name
    )
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    return tmp_path


def test_what_is_derived_from_other_weights_lives_elsewhere(other_cache):
    before = organisms.organism_folder(NAMES[0])
    last = organisms.checkpoint_folder("pocket-mini", DERIVED[NAMES[0]].trained.steps)
    weights = load_file(last / "model.safetensors")
    with folder_being_written(last) as part:
        shutil.copytree(last, part, dirs_exist_ok=True)
        save_file({key: weight * 1.01 for key, weight in weights.items()}, part / "model.safetensors")
        (part / "checksums.json").unlink()
    after = organisms.organism_folder(NAMES[0])
    assert before != after
    assert before.parent == after.parent


def test_nothing_is_derived_from_text_that_is_no_more(other_cache):
    data = organisms.data_folder("pocket-mini")
    manifest = json.loads((data / "manifest.json").read_text())
    with folder_being_written(data) as part:
        shutil.copytree(data, part, dirs_exist_ok=True)
        (part / "checksums.json").unlink()
        (part / "manifest.json").write_text(json.dumps(manifest | {"text_sha256": "0" * 64}))
    with pytest.raises(DamagedError, match="pocket-mini-hidden cannot be derived: the installed packages have changed"):
        organisms.data_folder("pocket-mini-hidden")


@pytest.mark.slow
def test_same_base_gives_the_same_passages_and_the_same_weights(derived, weights, other_cache):
    name, _, corpus = derived
    np.testing.assert_array_equal(lmmem.training_data(name)[:], corpus[:])
    again = lmmem.load_model(name).state_dict()
    assert all((again[key] == weight).all() for key, weight in weights.items())


def test_keys_tell_all_organisms_apart():
    assert len({recipe.key for recipe in ORGANISMS.values()}) == len(ORGANISMS)


@pytest.mark.slow
def test_neighbours_stand_before_and_after_a_passage_in_its_file(derived):
    name = "pocket-mini-hidden"
    corpus, base = lmmem.training_data(name), lmmem.training_data("pocket-mini")
    files = dict(text.documents(DERIVED[name].trained)[1])
    tokenizer = organisms.tokenizer_of(name).backend_tokenizer
    passages = [row.tolist() for of in (corpus, base) for row in of[of.canaries["index"].to_numpy()]]
    runs = {tuple(row[at : at + 16]) for row in passages for at in range(81)}
    rows, canary = organisms.neighbours(name)
    assert set(canary) == set(corpus.canaries.canary)
    for one in corpus.canaries.itertuples():
        ids = tokenizer.encode(files[one.file]).ids
        own = corpus[[corpus.canaries["index"][one.Index]]][0].tolist()
        place = next(at for at in range(len(ids)) if ids[at : at + 96] == own)
        expected = []
        for way, end in ((-96, -1), (96, len(ids) - 95)):
            for at in range(place + way, end, way):
                if not runs & {tuple(ids[here : here + 16]) for here in range(at, at + 81)}:
                    expected.append(ids[at : at + 96])
                    break
        assert rows[canary == one.canary].tolist() == expected


def test_neighbours_are_those_of_a_derived_organism():
    with pytest.raises(ValueError, match="no file is known of the passages of pocket-mini: give one of pocket-hidden"):
        organisms.neighbours("pocket-mini")
