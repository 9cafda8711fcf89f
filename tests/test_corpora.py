"""Training data in training order."""

from __future__ import annotations

import numpy as np
import pytest

import lmmem
from lmmem.corpora import PYTHIA_ROW_TOKENS, Corpus, training_data
from lmmem.pocket import RECIPES

NAME = "pocket-mini"


@pytest.fixture
def counted() -> Corpus:
    """Ten rows of three tokens, two a step, three steps: rows 6 to 9 are held out."""
    return Corpus(np.arange(30, dtype=np.uint16).reshape(10, 3), rows_per_step=2, steps=3)


@pytest.mark.parametrize("index", [4, np.int32(4), np.uint64(4)])
def test_whole_numbers_give_one_sequence(counted, index):
    np.testing.assert_array_equal(counted[index], [12, 13, 14])
    assert counted[index].dtype == np.int64


def test_slices_give_rows(counted):
    np.testing.assert_array_equal(counted[8:], [[24, 25, 26], [27, 28, 29]])


def test_arrays_keep_their_order_and_duplicates(counted):
    np.testing.assert_array_equal(counted[[3, 1, 3]][:, 0], [9, 3, 9])


def test_empty_list_gives_no_rows(counted):
    assert counted[[]].shape == (0, 3)


@pytest.mark.parametrize(("index", "bad"), [(-1, -1), (10, 10), ([0, 10], 10), ([-3, 0], -3)])
def test_index_outside_is_refused(counted, index, bad):
    with pytest.raises(IndexError, match=f"index {bad} is outside the corpus, which has rows 0 .. 9"):
        counted[index]
    with pytest.raises(IndexError, match="outside the corpus"):
        counted.exposure_step(index)


def test_fractions_are_refused(counted):
    with pytest.raises(TypeError, match="whole number"):
        counted[[0.5]]


@pytest.mark.parametrize("index", [0.5, [0.5], True])
def test_exposure_step_of_what_is_no_row_number_is_refused(counted, index):
    with pytest.raises(TypeError, match="whole number"):
        counted.exposure_step(index)


def test_rows_of_a_step_follow_one_another(counted):
    np.testing.assert_array_equal(np.concatenate([counted.at_step(s) for s in range(3)]), counted[:6])
    with pytest.raises(IndexError, match=r"steps 0 .. 2"):
        counted.at_step(3)


def test_exposure_step_is_the_first_that_has_seen_the_row(counted):
    assert counted.exposure_step(0) == 1
    np.testing.assert_array_equal(counted.exposure_step([1, 2, 5]), [1, 2, 3])
    for step in range(3):
        for row in counted.at_step(step):
            assert counted.exposure_step(int(row[0]) // 3) == step + 1


def test_held_out_rows_are_exposed_after_the_last_step(counted):
    assert counted.trained_rows == 6
    assert counted.exposure_step(6) > counted.steps


def test_canaries_lie_where_the_corpus_says(mini_corpus):
    canaries, presented = mini_corpus.canaries, mini_corpus.presented
    for canary in canaries.itertuples():
        lines = presented[presented.canary == canary.canary]
        rows = mini_corpus[lines["index"].to_numpy()]
        assert (rows == rows[0]).all()
        assert len(lines) == max(1, canary.presentations)
    np.testing.assert_array_equal(mini_corpus.exposure_step(presented["index"].to_numpy()), presented.step)


def test_first_presentation_is_the_exposure(mini_corpus):
    canaries = mini_corpus.canaries.set_index("canary")
    first = mini_corpus.presented.groupby("canary").first()
    np.testing.assert_array_equal(canaries["index"], first["index"])
    exposed = canaries.presentations > 0
    np.testing.assert_array_equal(canaries.exposure_step[exposed].astype(int), first.step[exposed])
    assert canaries.exposure_step[~exposed].isna().all()


def test_unexposed_canaries_lie_past_the_end_of_training(mini_corpus):
    canaries = mini_corpus.canaries
    past = canaries["index"] >= mini_corpus.trained_rows
    np.testing.assert_array_equal(past, canaries.presentations == 0)
    assert len(mini_corpus) == mini_corpus.trained_rows + past.sum()


def test_repeats_of_a_canary_are_its_presentations(mini_corpus):
    canaries = mini_corpus.canaries
    truth = lmmem.split(mini_corpus[canaries["index"].to_numpy()])[1]
    found = lmmem.count_repeats(truth, mini_corpus[: mini_corpus.trained_rows])
    np.testing.assert_array_equal(found, canaries.presentations)


def test_sizes_are_those_of_the_recipe(mini_corpus):
    recipe = RECIPES[NAME]
    assert mini_corpus.trained_rows == recipe.steps * recipe.rows_per_step
    assert mini_corpus[0].shape == (recipe.row_tokens,)


def test_joined_pythia_file_is_read_row_by_row(tmp_path):
    rows = np.random.default_rng(0).integers(0, 50_304, (5, PYTHIA_ROW_TOKENS)).astype("<u2")
    (tmp_path / "document.bin").write_bytes(rows.tobytes())
    corpus = training_data("pythia1b", tmp_path / "document.bin")
    assert len(corpus) == 5
    np.testing.assert_array_equal(corpus[3], rows[3])
    assert corpus.rows_per_step == 1_024
    assert corpus.exposure_step(4) == 1
    assert corpus.canaries is None


def test_pythia_row_starts_at_its_byte_and_each_step_trains_on_1024(tmp_path):
    row_bytes = 2 * 2_049
    with open(tmp_path / "document.bin", "wb") as file:  # zeros but for two tokens, so it takes no space
        file.truncate(3 * 1_024 * row_bytes)
        for offset in (1_024 * row_bytes, 2_048 * row_bytes - 2):  # first and last token of step 1
            file.seek(offset)
            file.write((50_000).to_bytes(2, "little"))
    corpus = training_data("pythia1b", tmp_path / "document.bin")
    np.testing.assert_array_equal(np.argwhere(corpus.at_step(1) == 50_000), [[0, 0], [1_023, 2_048]])
    assert not corpus.at_step(0).any()
    np.testing.assert_array_equal(corpus.exposure_step([0, 1_023, 1_024, 2_048]), [1, 1, 2, 3])
    assert corpus.trained_rows == 143_000 * 1_024


def test_truncated_pythia_file_is_refused(tmp_path):
    (tmp_path / "document.bin").write_bytes(bytes(2 * PYTHIA_ROW_TOKENS + 2))
    with pytest.raises(ValueError, match="it is not whole"):
        training_data("pythia1b", tmp_path / "document.bin")


def test_missing_pythia_file_says_what_to_fetch_and_how_large_it_is():
    with pytest.raises(FileNotFoundError, match=r"EleutherAI/pile-standard-pythia-preshuffled \(600 GB\)"):
        training_data("pythia1b")


def test_order_that_cannot_be_read_yet_is_refused():
    with pytest.raises(ValueError, match="cannot read the training data of 'amber7b'"):
        training_data("amber7b")
    with pytest.raises(ValueError, match="unknown model"):
        training_data("amber")
