"""Counts of repeats against brute force."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmmem.measures import repeats
from lmmem.measures.repeats import count_repeats, shared_text


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
    monkeypatch.setattr(repeats, "READ_TOKENS", 130)
    monkeypatch.setattr(repeats, "CHUNK_TOKENS", 20)
    np.testing.assert_array_equal(count_repeats(queries, rows, 5), whole)


def test_row_with_several_matches_counts_once():
    np.testing.assert_array_equal(count_repeats([[1, 2, 1, 2]], [[1, 2, 1, 2, 1, 2]], 2), [1])


def test_query_among_the_rows_counts_itself():
    rows = np.arange(40).reshape(4, 10)
    np.testing.assert_array_equal(count_repeats(rows[:2], rows, 10), [1, 1])


def test_windows_of_one_hash_are_told_apart_by_their_tokens(monkeypatch):
    exact = repeats._hashes
    monkeypatch.setattr(repeats, "_hashes", lambda *arguments: exact(*arguments) % np.uint64(4))
    rng = np.random.default_rng(1)
    queries, rows = rng.integers(0, 4, (1, 8)), rng.integers(0, 4, (4_000, 9))
    rows[7, 1:] = queries[0]
    expected = brute_force(queries.tolist(), rows.tolist(), 8)
    alike = repeats._hashes(rows, 8) == repeats._hashes(queries, 8)
    assert alike.any(axis=1).sum() > 1_000  # so many would be counted by hashes alone
    assert count_repeats(queries, rows, 8) == expected != [0]


@pytest.mark.parametrize("hashes", [1, 3])
def test_windows_of_queries_that_share_a_hash_are_told_apart(monkeypatch, hashes):
    exact = repeats._hashes
    monkeypatch.setattr(repeats, "_hashes", lambda *arguments: exact(*arguments) % np.uint64(hashes))
    rng = np.random.default_rng(2)
    queries, rows = rng.integers(0, 3, (4, 8)), rng.integers(0, 3, (300, 9))
    np.testing.assert_array_equal(count_repeats(queries, rows, 4), brute_force(queries.tolist(), rows.tolist(), 4))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(30, 70), st.sampled_from(["u2", "i4", "i8"]))
def test_planted_runs_are_found_wherever_they_lie(seed, n, width, dtype):
    rng = np.random.default_rng(seed)
    queries, rows = rng.integers(0, 50_000, (6, 30)), rng.integers(0, 50_000, (40, width))
    for row in rows[::2]:  # a run of n tokens, or one fewer, at any place
        length = n - int(rng.integers(2))
        begin, to = rng.integers(0, 30 - length + 1), rng.integers(0, width - length + 1)
        row[to : to + length] = queries[rng.integers(6), begin : begin + length]
    expected = brute_force(queries.tolist(), rows.tolist(), n)
    np.testing.assert_array_equal(count_repeats(queries, rows.astype(dtype), n), expected)


def test_rows_of_one_token_take_no_more_memory_than_others():
    rows = np.zeros((300, 2_049), dtype=np.uint16)
    queries = np.zeros((50, 64), dtype=int)
    tracemalloc.start()
    np.testing.assert_array_equal(count_repeats(queries, rows), np.full(50, 300))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500e6


@pytest.mark.parametrize("n", [512, 1_024])
def test_windows_whose_hashes_collide_whatever_their_base_are_counted(n):
    turn = np.array([number.bit_count() % 2 for number in range(n)])  # Thue-Morse
    queries = np.stack([turn, 1 - turn]) + 7
    assert n < 1_024 or (repeats._hashes(queries[:1], n) == repeats._hashes(queries[1:], n)).all()
    rows = np.pad(queries[[0, 1, 1]], [(0, 0), (5, 3)])
    rows[2, 100] = 9
    assert count_repeats(queries, rows, n).tolist() == [1, 1]


def test_no_queries_and_no_rows_are_counted():
    assert count_repeats(np.empty((0, 8), dtype=int), [[1] * 8], 3).shape == (0,)
    assert count_repeats([[1] * 8], np.empty((0, 8), dtype=int), 3).tolist() == [0]


@pytest.mark.parametrize(
    ("queries", "rows"),
    [
        ([[-1, 2, 3]], [[1, 2, 3]]),
        ([[1, 2, 3]], [[1, 2, 2**20]]),
        ([[0.5, 1, 2]], [[1, 2, 3]]),
        (np.array([["NaT", 2, 3]], "m8[s]"), [[1, 2, 3]]),
    ],
)
def test_what_are_no_token_ids_is_refused(queries, rows):
    with pytest.raises(ValueError, match="ids"):
        count_repeats(queries, rows, 2)


@pytest.mark.parametrize("n", [0, 4])
def test_run_that_does_not_fit_is_refused(n):
    with pytest.raises(ValueError, match="1 <= n <= 3 here"):
        count_repeats([[1, 2, 3]], [[1, 2, 3, 4]], n)


@pytest.mark.parametrize("seed", range(5))
def test_texts_are_those_that_a_chain_of_shared_runs_joins(seed):
    rng = np.random.default_rng(seed)
    rows, n = rng.integers(0, 3, (40, 12)), 6
    runs = [{tuple(row[i : i + n]) for i in range(12 - n + 1)} for row in rows]
    label = list(range(40))  # joined one pair at a time
    for i, j in itertools.combinations(range(40), 2):
        if runs[i] & runs[j]:
            label = [label[i] if one == label[j] else one for one in label]
    found = shared_text(rows, n)
    assert len(set(label)) > 1
    assert {frozenset(np.flatnonzero(found == one)) for one in set(found)} == {
        frozenset(np.flatnonzero(np.array(label) == one)) for one in set(label)
    }
    assert len(shared_text(np.empty((0, 8), dtype=int), 3)) == 0
    with pytest.raises(ValueError, match="1 <= n <= l"):
        shared_text(rows, 13)


def test_single_rows_are_refused():
    with pytest.raises(ValueError, match="two matrices"):
        count_repeats([1, 2], [[1, 2]], 1)
