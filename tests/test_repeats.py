"""Counts of repeats against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmmem import repeats
from lmmem.repeats import count_repeats


def brute_force(queries, rows, n):
    def grams(row):
        return {tuple(row[i : i + n]) for i in range(len(row) - n + 1)}

    return [sum(bool(grams(query) & grams(row)) for row in rows) for query in queries]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(2, 5))
def test_counts_equal_brute_force(seed, n, vocabulary):
    rng = np.random.default_rng(seed)
    queries, rows = rng.integers(0, vocabulary, (5, 6)), rng.integers(0, vocabulary, (20, 9))
    np.testing.assert_array_equal(count_repeats(queries, rows, n), brute_force(queries.tolist(), rows.tolist(), n))


def test_counts_do_not_depend_on_the_chunk(monkeypatch):
    rng = np.random.default_rng(0)
    queries, rows = rng.integers(0, 3, (5, 8)), rng.integers(0, 3, (50, 10)).astype(np.uint16)
    whole = count_repeats(queries, rows, 5)
    monkeypatch.setattr(repeats, "CHUNK_WINDOWS", 12)
    np.testing.assert_array_equal(count_repeats(queries, rows, 5), whole)


def test_row_with_several_matches_counts_once():
    np.testing.assert_array_equal(count_repeats([[1, 2, 1, 2]], [[1, 2, 1, 2, 1, 2]], 2), [1])


def test_query_among_the_rows_counts_itself():
    rows = np.arange(40).reshape(4, 10)
    np.testing.assert_array_equal(count_repeats(rows[:2], rows, 10), [1, 1])


def test_windows_of_one_hash_are_told_apart_by_their_tokens():
    """The Thue-Morse word and its complement collide in every polynomial hash modulo 2**64 of an odd base."""
    word = np.array([number.bit_count() % 2 for number in range(1_024)])
    hashes = repeats._window_hashes(np.stack([word, 1 - word]), 1_024, base=12_345)
    assert hashes[0] == hashes[1]
    np.testing.assert_array_equal(count_repeats([word], [1 - word, word, 1 - word], 1_024), [1])


@pytest.mark.parametrize("n", [0, 4])
def test_run_that_does_not_fit_is_refused(n):
    with pytest.raises(ValueError, match="1 <= n <= 3 here"):
        count_repeats([[1, 2, 3]], [[1, 2, 3, 4]], n)


def test_single_rows_are_refused():
    with pytest.raises(ValueError, match="two matrices"):
        count_repeats([1, 2], [[1, 2]], 1)
