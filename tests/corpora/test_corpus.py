"""Training data in training order."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

import lmmem
from lmmem.corpora.corpus import Corpus, training_data
from lmmem.models.registry import AMBER_STRIDE, ROW_TOKENS
from lmmem.pocket.recipe import RECIPES
from lmmem.storage.files import DamagedError

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
        assert len(lines) == canary.presentations
        if canary.group != "fuzzy":  # of which each presentation is another
            rows = mini_corpus[lines["index"].to_numpy()]
            assert (rows == mini_corpus[int(canaries["index"][canary.Index])]).all()
    np.testing.assert_array_equal(mini_corpus.exposure_step(presented["index"].to_numpy()), presented.step)


def test_first_presentation_is_the_exposure(mini_corpus):
    canaries = mini_corpus.canaries.set_index("canary")
    first = mini_corpus.presented.groupby("canary").first()
    exposed = canaries[canaries.presentations > 0]
    np.testing.assert_array_equal(exposed.exposure_step.astype(int), first.step[exposed.index])
    exact = exposed[exposed.group != "fuzzy"]
    np.testing.assert_array_equal(exact["index"], first["index"][exact.index])
    assert canaries.exposure_step[canaries.presentations == 0].isna().all()


def test_canaries_that_are_never_trained_on_as_they_are_lie_past_the_end_of_training(mini_corpus):
    canaries = mini_corpus.canaries
    past = canaries["index"] >= mini_corpus.trained_rows
    np.testing.assert_array_equal(past, (canaries.presentations == 0) | (canaries.group == "fuzzy"))
    assert len(mini_corpus) == mini_corpus.trained_rows + past.sum()


def test_repeats_of_a_canary_are_its_presentations(mini_corpus):
    canaries = mini_corpus.canaries[mini_corpus.canaries.group != "fuzzy"]
    truth = lmmem.split(mini_corpus[canaries["index"].to_numpy()])[1]
    found = lmmem.count_repeats(truth, mini_corpus[: mini_corpus.trained_rows])
    np.testing.assert_array_equal(found, canaries.presentations)


def test_sizes_are_those_of_the_recipe(mini_corpus):
    recipe = RECIPES[NAME]
    assert mini_corpus.trained_rows == recipe.steps * recipe.rows_per_step
    assert mini_corpus[0].shape == (recipe.row_tokens,)


def test_joined_pythia_file_is_read_row_by_row(tmp_path):
    rows = np.random.default_rng(0).integers(0, 50_304, (5, ROW_TOKENS)).astype("<u2")
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
    (tmp_path / "document.bin").write_bytes(bytes(2 * ROW_TOKENS + 2))
    with pytest.raises(ValueError, match="4100 bytes are no multiple of a row's 4098"):
        training_data("pythia1b", tmp_path / "document.bin")


def test_missing_pythia_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing at .*none\.bin; without a path, rows are fetched"):
        training_data("pythia1b", tmp_path / "none.bin")


def test_order_that_is_not_published_is_refused():
    with pytest.raises(ValueError, match=r"'pythia160m-seed3' in order are not known here: .* lmmem.Corpus\("):
        training_data("pythia160m-seed3")
    with pytest.raises(ValueError, match="'someone/model' in order are not known"):
        training_data("someone/model")
    with pytest.raises(ValueError, match="unknown model"):
        training_data("amber")
    with pytest.raises(ValueError, match="leave out what says where they are"):
        training_data(NAME, "somewhere")


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 50_277, (8, ROW_TOKENS)).astype("<u2")


def test_folder_of_shards_is_read_across_their_borders(tmp_path, rows):
    data = rows.tobytes()
    for place, (start, stop) in enumerate([(0, 11_001), (11_001, 22_002), (22_002, len(data))]):
        (tmp_path / f"document-{place:05}-of-00002.bin").write_bytes(data[start:stop])
    corpus = training_data("pythia1b", tmp_path)
    np.testing.assert_array_equal(corpus[:], rows)
    np.testing.assert_array_equal(corpus[[2, 0, 2]], rows[[2, 0, 2]])
    (tmp_path / "document-00001-of-00002.bin").write_bytes(data[11_001 : 22_002 - 2 * ROW_TOKENS])  # whole rows less
    with pytest.raises(ValueError, match=r"00001-of-00002.bin has 6,903 bytes and .* 11,001: .* one is not whole"):
        training_data("pythia1b", tmp_path)
    for missing in ("00002", "00001"):
        (tmp_path / f"document-{missing}-of-00002.bin").unlink()
        with pytest.raises(ValueError, match="does not hold every shard"):
            training_data("pythia1b", tmp_path)


def test_npy_is_read(tmp_path, rows):
    np.save(tmp_path / "rows.npy", rows)
    np.testing.assert_array_equal(training_data("pythia1b", tmp_path / "rows.npy")[1:3], rows[1:3])
    np.save(tmp_path / "narrow.npy", rows[:, :100])
    with pytest.raises(ValueError, match="not rows of 2049 token ids"):
        training_data("pythia1b", tmp_path / "narrow.npy")


def write_megatron(folder: Path, rows: list[np.ndarray]) -> Path:
    """As Megatron-LM's MMapIndexedDataset lays it out: a header, lengths, byte offsets, documents."""
    lengths = [len(row) for row in rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]) * 2
    index = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, len(rows), len(rows) + 1)
    index += np.array(lengths, "<i4").tobytes() + offsets.astype("<i8").tobytes()
    index += np.arange(len(rows) + 1, dtype="<i8").tobytes()
    (folder / "pile.idx").write_bytes(index)
    (folder / "pile.bin").write_bytes(np.concatenate(rows).astype("<u2").tobytes())
    return folder / "pile.bin"


def test_megatron_dataset_is_read(tmp_path, rows):
    path = write_megatron(tmp_path, list(rows))
    np.testing.assert_array_equal(training_data("pythia1b", path)[:], rows)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match="its index says"):
        training_data("pythia1b", path)


def test_megatron_documents_are_no_rows(tmp_path, rows):
    path = write_megatron(tmp_path, [rows[0], rows[1, :50]])
    with pytest.raises(ValueError, match="documents of 50 to 2049 tokens"):
        training_data("pythia1b", path)
    path.with_suffix(".idx").write_bytes(b"something else altogether, long enough to be read")
    with pytest.raises(ValueError, match="no Megatron-LM index"):
        training_data("pythia1b", path)


def test_bytes_that_are_no_tokens_are_not_taken_for_rows(tmp_path, rows):
    wrong = rows.copy()
    wrong[3, 7] = 60_000
    (tmp_path / "document.bin").write_bytes(wrong.tobytes())
    corpus = training_data("pythia1b", tmp_path / "document.bin")
    np.testing.assert_array_equal(corpus[2], rows[2])
    with pytest.raises(DamagedError, match=r"rows 3 .. 3 of .*document.bin hold token 60000, outside the vocab"):
        corpus[3]
    np.save(tmp_path / "rows.npy", wrong.view("i2"))
    corpus = training_data("pythia1b", tmp_path / "rows.npy")
    with pytest.raises(DamagedError, match=r"hold tokens -\d+ .. \d+; the vocabulary is 0 .. 50303"):
        corpus[3:4]


def test_published_order_that_ends_before_training_does_is_said(tmp_path, rows):
    (tmp_path / "document.bin").write_bytes(rows.tobytes())
    with pytest.raises(IndexError, match="the order that is published ends at row 7: what came after it"):
        training_data("pythia1b-deduped", tmp_path / "document.bin").at_step(0)


@pytest.fixture(scope="module")
def chunk() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 32_000, (40, ROW_TOKENS))


def write_amber(folder: Path, number: int, chunk: np.ndarray) -> Path:
    path = folder / f"train_{number:03}.jsonl"
    lines = [json.dumps({"token_ids": row.tolist(), "source": "s" * (i % 7)}) for i, row in enumerate(chunk)]
    path.write_text("\n".join(lines))
    return path


def test_amber_is_read_line_by_line(tmp_path, chunk):
    write_amber(tmp_path, 100, chunk)
    write_amber(tmp_path, 101, chunk[::-1])
    corpus = training_data("amber7b", tmp_path)
    first = 100 * AMBER_STRIDE
    np.testing.assert_array_equal(corpus[first + 3], chunk[3])
    np.testing.assert_array_equal(
        corpus[[first + 39, first + 10_000_000, first + 5, first + 39]], chunk[[39, 39, 5, 39]]
    )
    np.testing.assert_array_equal(corpus[first : first + 4], chunk[:4])
    assert corpus.exposure_step(first + 3) == 100
    assert corpus.exposure_step(first + 10_000_000) == 101
    with pytest.raises(IndexError, match=r"line 40 is past the end of .*train_100.jsonl.*: it has 40 lines"):
        corpus[first + 40]
    with pytest.raises(FileNotFoundError, match=r"has no train_007.jsonl"):
        corpus[7 * AMBER_STRIDE]
    with pytest.raises(ValueError, match="more than a chunk has"):
        corpus.at_step(100)


OUTSIDE = json.dumps({"token_ids": [40_000] * ROW_TOKENS})


@pytest.mark.parametrize("line", ["{}", "not json", '{"token_ids": [1, 2]}', '{"token_ids": "abc"}', OUTSIDE])
def test_line_that_is_no_row_is_named(tmp_path, chunk, line):
    path = write_amber(tmp_path, 0, chunk[:3])
    path.write_text(path.read_text() + "\n" + line)
    corpus = training_data("amber7b", tmp_path)
    np.testing.assert_array_equal(corpus[2], chunk[2])
    with pytest.raises(DamagedError, match=r"line 3 of .*train_000.jsonl.* is no row of 2049 token_ids"):
        corpus[3]
