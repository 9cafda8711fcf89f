"""Distances against a textbook loop, and against python-Levenshtein."""

from __future__ import annotations

import Levenshtein
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmmem.measures.distance import levenshtein, matched_prefix
from lmmem.measures.tokens import MAX_TOKEN


def textbook(a, b) -> int:
    previous = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        current = [i]
        for j, y in enumerate(b, start=1):
            current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + (x != y)))
        previous = current
    return previous[-1]


ids = st.sampled_from([0, 1, 2, 0xD7FF, 0xD800, 0xDFFF, 50_303, 65_536, MAX_TOKEN])  # NUL and surrogates among them


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.lists(ids, min_size=6, max_size=6), st.lists(ids, min_size=9, max_size=9)), min_size=1))
def test_levenshtein_equals_the_textbook_loop(pairs):
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    np.testing.assert_array_equal(levenshtein(a, b), [textbook(x, y) for x, y in zip(a, b, strict=True)])


def test_levenshtein_equals_python_levenshtein_on_text():
    words = [("kitten", "mitten"), ("flawed", "lawned")]
    rows = [np.array([[ord(c) for c in word] for word in side]) for side in zip(*words, strict=True)]
    np.testing.assert_array_equal(levenshtein(*rows), [Levenshtein.distance(a, b) for a, b in words])


def one_by_one(a, b) -> list[int]:
    return [Levenshtein.distance(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]


def edited(rows, rng, width: int):
    """Rows with tokens changed, dropped and put in, cut or filled up to this width."""
    found = []
    for row in rows:
        kept = [token for token in row for _ in range(rng.choice([0, 1, 1, 1, 1, 1, 2]))]
        changed = [token if rng.random() < 0.8 else rng.integers(0, 9) for token in kept]
        found.append((changed + [0] * width)[:width])
    return np.array(found, dtype=int).reshape(len(rows), width)


@pytest.mark.parametrize("l", [1, 63, 64, 65, 127, 128, 129, 200])
@pytest.mark.parametrize("m", [1, 63, 64, 65, 128, 150])
def test_levenshtein_of_rows_of_any_two_lengths(l, m):
    rng = np.random.default_rng(l * 1_000 + m)
    a = rng.integers(0, 9, (70, l))
    b = edited(a, rng, m)
    np.testing.assert_array_equal(levenshtein(a, b), one_by_one(a, b))


def test_zeros_and_ids_that_are_no_characters_are_tokens():
    np.testing.assert_array_equal(levenshtein([[5, 0, 0]], [[5, 5, 5]]), [2])
    np.testing.assert_array_equal(levenshtein([[0, 0, 0]], [[0, 0, 1]]), [1])
    np.testing.assert_array_equal(levenshtein([[0, 0, 7]], [[0, 7, 0]]), [2])
    np.testing.assert_array_equal(levenshtein([[0, 0]], [[0, 0]]), [0])
    np.testing.assert_array_equal(levenshtein([[55_296, 57_343]], [[57_343, 65_536]]), [2])
    np.testing.assert_array_equal(levenshtein([[65_536, 1]], [[0, 1]]), [1])  # the same in 16 bits
    np.testing.assert_array_equal(levenshtein([[MAX_TOKEN]], [[MAX_TOKEN]]), [0])


@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i2", ">u4"])
def test_any_integers_are_tokens(kind, tmp_path):
    rows = np.array([[1, 2, 3, 4], [9, 8, 7, 6]], kind)
    rows.tofile(tmp_path / "rows")
    kept = np.memmap(tmp_path / "rows", kind, "r", shape=(2, 4))
    np.testing.assert_array_equal(levenshtein(kept, rows[:, 1:]), [1, 1])
    np.testing.assert_array_equal(levenshtein(kept, rows), [0, 0])
    np.testing.assert_array_equal(levenshtein(rows.T, kept.T[:, :1]), [1, 1, 1, 1])
    rows[:] = 0  # they are still the caller's to change


def test_leading_axes_are_held_against_the_same_truth():
    rng = np.random.default_rng(0)
    said, truth = rng.integers(0, 4, (3, 2, 5, 8)), rng.integers(0, 4, (5, 8))
    found = levenshtein(said, truth)
    assert found.shape == (3, 2, 5)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found.ravel(), one_by_one(said.reshape(30, 8), np.tile(truth, (6, 1))))


def test_no_rows_give_no_distances():
    assert levenshtein(np.empty((0, 4), int), np.empty((0, 4), int)).shape == (0,)
    assert levenshtein(np.empty((0, 2, 4), int), np.zeros((2, 4), int)).shape == (0, 2)


def test_empty_row_is_as_far_as_its_partner_is_long():
    np.testing.assert_array_equal(levenshtein(np.empty((1, 0), int), [[1, 2, 3]]), [3])
    np.testing.assert_array_equal(levenshtein([[1, 2]], np.empty((1, 0), int)), [2])
    np.testing.assert_array_equal(levenshtein(np.empty((1, 0), int), np.empty((1, 0), int)), [0])


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([[1, 2]], [[1, 2], [3, 4]], "do not pair"),
        ([[1.0, 2.0]], [[1, 2]], "integer token ids"),
        ([1, 2], [1, 2], "rows of integer token ids"),
        ([[True]], [[1]], "integer token ids"),
        (np.array([["NaT", 5]], "m8[s]"), [[1, 2]], "integer token ids"),
        ([[-1]], [[1]], "must lie in 0"),
        ([[1]], [[-1]], "must lie in 0"),
        ([[MAX_TOKEN + 1]], [[1]], "must lie in 0"),
        ([[1]], [[MAX_TOKEN + 1]], "must lie in 0"),
        (np.array([[2**63]], np.uint64), [[1]], "must lie in 0"),
    ],
)
def test_bad_rows_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        levenshtein(a, b)


def test_matched_prefix_of_identical_rows_is_full_length():
    np.testing.assert_array_equal(matched_prefix([[1, 2, 3]], [[1, 2, 3]]), [3])


def test_matched_prefix_stops_at_the_first_difference():
    np.testing.assert_array_equal(matched_prefix([[1, 9, 3], [9, 2, 3]], [[1, 2, 3], [1, 2, 3]]), [1, 0])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.lists(st.integers(0, 1), min_size=5, max_size=5), st.integers(0, 31)), min_size=1))
def test_matched_prefix_equals_a_loop(pairs):
    a = np.array([row for row, _ in pairs])
    b = np.array([[number >> bit & 1 for bit in range(5)] for _, number in pairs])
    expected = []
    for x, y in zip(a, b, strict=True):
        length = 0
        while length < 5 and x[length] == y[length]:
            length += 1
        expected.append(length)
    np.testing.assert_array_equal(matched_prefix(a, b), expected)


def test_matched_prefix_of_rows_of_two_lengths_is_refused():
    with pytest.raises(ValueError, match="must have one shape"):
        matched_prefix([[1, 2]], [[1, 2, 3]])
