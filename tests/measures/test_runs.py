"""Runs of a text in rows against brute force."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmmem.measures import repeats, runs
from lmmem.measures.runs import Run, shared_runs


def places(part, rows):
    """Row and offset of every occurrence."""
    n = len(part)
    return [(r, k) for r, row in enumerate(rows) for k in range(len(row) - n + 1) if row[k : k + n] == part]


def brute_force(text, rows, least):
    """By the definition: every span, whether some row holds it, and whether a longer one around it is held."""

    def held(i, j):
        return 0 <= i < j <= len(text) and bool(places(text[i:j], rows))

    spans = [(i, j) for i in range(len(text)) for j in range(i + least, len(text) + 1) if held(i, j)]
    maximal = [(i, j) for i, j in spans if not held(i - 1, j) and not held(i, j + 1)]
    best = [max((j - i for i, j in maximal if i <= token < j), default=0) for token in range(len(text))]
    chosen, covered = [], [0] * len(text)  # the length of the longest run chosen so far over each token
    for token in range(len(text)):
        if best[token] > covered[token]:
            i, j = max((i, j) for i, j in maximal if i <= token < j and j - i == best[token])
            chosen.append((i, j))
            covered[i:j] = [max(before, j - i) for before in covered[i:j]]
    return maximal, [one(text, i, j, rows, least) for i, j in chosen]


def one(text, i, j, rows, least):
    found, width = places(text[i:j], rows), len(rows[0])
    after, before = text[j : j + least], text[max(0, i - least) : i]
    crosses = any(
        (k + j - i == width and r + 1 < len(rows) and len(after) == least and rows[r + 1][:least] == after)
        or (k == 0 and r > 0 and len(before) == least and rows[r - 1][-least:] == before)
        for r, k in found
    )
    parts = [text[a : a + least] for a in range(i, j - least + 1)]
    sharing = sum(any(places(part, [row]) for part in parts) for row in rows)
    return Run(i, j - i, len(found), sorted({r for r, _ in found}), sharing, crosses)


def as_lists(found):
    return [run._replace(rows=run.rows.tolist()) for run in found]


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 4), st.integers(5, 25), st.integers(4, 9))
def test_runs_equal_brute_force(seed, least, alphabet, length, width):
    rng = np.random.default_rng(seed)
    text, rows = rng.integers(0, alphabet, length), rng.integers(0, alphabet, (8, width))
    maximal, expected = brute_force(text.tolist(), rows.tolist(), least)
    assert as_lists(shared_runs(text, rows, least)) == expected
    assert {(run.start, run.start + run.length) for run in expected} <= set(maximal)
    assert {t for i, j in maximal for t in range(i, j)} == {
        t for run in expected for t in range(run.start, run.start + run.length)
    }


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(2, 12), st.sampled_from(["u2", "i4", "i8"]))
def test_planted_runs_are_found_wherever_they_lie(seed, least, dtype):
    rng = np.random.default_rng(seed)
    text, rows = rng.integers(0, 50_000, 60), rng.integers(0, 50_000, (30, 20))
    for row in rows[::2]:  # at any place, the ends of both among them
        length = int(rng.integers(least - 1, 21))
        begin, to = rng.integers(0, 61 - length), rng.integers(0, 21 - length)
        row[to : to + length] = text[begin : begin + length]
    rows.ravel()[20 * 5 + 9 : 20 * 7 + 4] = text[:35]  # from one row into the one after next
    _, expected = brute_force(text.tolist(), rows.tolist(), least)
    assert as_lists(shared_runs(text, rows.astype(dtype), least)) == expected


def test_run_at_the_first_and_at_the_last_token_of_text_and_row_is_whole():
    text = np.arange(20)
    rows = np.full((3, 9), 99)
    rows[1, :6], rows[2, -7:] = text[:6], text[-7:]
    first, last = shared_runs(text, rows, 5)
    assert (first.start, first.length, first.rows.tolist()) == (0, 6, [1])
    assert (last.start, last.length, last.rows.tolist()) == (13, 7, [2])


def test_run_that_the_end_of_a_row_cuts_is_two_that_cross():
    text = np.arange(100, 130)
    rows = np.zeros((4, 12), dtype=int)
    rows[1, 4:], rows[2, :7] = text[5:13], text[13:20]
    assert as_lists(shared_runs(text, rows, 6)) == [Run(5, 8, 1, [1], 1, True), Run(13, 7, 1, [2], 1, True)]
    swapped = shared_runs(text, rows[[0, 2, 1, 3]], 6)
    assert [(run.start, run.crosses) for run in swapped] == [(5, False), (13, False)]
    assert [run.crosses for run in shared_runs(text, rows, 8)] == [False]  # what goes on is shorter than that


def test_run_that_stands_twice_in_a_row_occurs_twice_in_one_row():
    rows = [[1, 2, 3, 4, 1, 2, 3, 5], [9, 9, 9, 9, 9, 9, 9, 9], [0, 0, 0, 0, 0, 1, 2, 3]]
    assert as_lists(shared_runs([7, 1, 2, 3, 8], rows, 3)) == [Run(1, 3, 3, [0, 2], 2, False)]
    (over,) = shared_runs([9, 9, 9, 9, 9], rows, 2)  # overlapping
    assert (over.length, over.occurrences, over.rows.tolist()) == (5, 4, [1])


def test_runs_that_overlap_are_both_told_and_the_one_inside_another_is_not():
    rows = [[1, 2, 3, 4, 5, 0, 0], [4, 5, 6, 7, 8, 9, 0], [3, 4, 5, 6, 0, 0, 0], [5, 6, 7, 0, 0, 0, 0]]
    found = shared_runs([1, 2, 3, 4, 5, 6, 7, 8, 9], rows, 3)
    assert [(run.start, run.length, run.repeats) for run in found] == [(0, 5, 2), (3, 6, 3)]


def test_header_that_many_rows_hold_is_counted_though_one_row_holds_more():
    rows = np.tile(np.arange(10, 20), (50, 1))
    rows[1:, 8:] = 0
    (run,) = shared_runs(np.arange(10, 20), rows, 4)
    assert (run.occurrences, run.rows.tolist(), run.repeats) == (1, [0], 50)


def test_runs_do_not_depend_on_the_batch(monkeypatch):
    rng = np.random.default_rng(0)
    text, rows = rng.integers(0, 3, 60), rng.integers(0, 3, (200, 10)).astype(np.uint16)
    whole = as_lists(shared_runs(text, rows, 5))
    assert len(whole) > 5
    monkeypatch.setattr(repeats, "READ_TOKENS", 130)
    for module in (repeats, runs):
        monkeypatch.setattr(module, "CHUNK_TOKENS", 20)
    assert as_lists(shared_runs(text, rows, 5)) == whole


def test_rows_that_are_asked_for_are_searched_and_keep_their_numbers():
    rows = np.arange(60).reshape(6, 10)
    asked = []

    class Rows:
        def __len__(self):
            return 6

        def __getitem__(self, index):
            asked.append(np.arange(6)[index])
            return rows[index]

    (run,) = shared_runs(np.arange(20, 50), Rows(), 10, range(3, 4))
    assert (run.start, run.rows.tolist()) == (10, [3])
    assert set(np.concatenate(asked).tolist()) == {3}


@pytest.mark.parametrize("hashes", [1, 3])
def test_windows_that_share_a_hash_are_told_apart(monkeypatch, hashes):
    exact = repeats._hashes
    monkeypatch.setattr(repeats, "_hashes", lambda *arguments: exact(*arguments) % np.uint64(hashes))
    rng = np.random.default_rng(2)
    text, rows = rng.integers(0, 3, 20), rng.integers(0, 3, (40, 9))
    _, expected = brute_force(text.tolist(), rows.tolist(), 4)
    assert as_lists(shared_runs(text, rows, 4)) == expected


def test_text_and_rows_of_one_token_over_and_over_take_little_time_and_memory():
    text, rows = np.zeros(3_000, dtype=int), np.zeros((400, 2_049), dtype=np.uint16)
    tracemalloc.start()
    found = shared_runs(text, rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(run.start, run.length, run.occurrences) for run in found] == [(0, 2_049, 400), (951, 2_049, 400)]
    assert peak < 300e6


def test_text_that_no_row_holds_has_no_runs():
    assert shared_runs(np.arange(40), np.arange(100, 200).reshape(5, 20)) == []
    assert shared_runs(np.arange(40), np.empty((0, 20), dtype=int)) == []


@pytest.mark.parametrize(
    ("text", "rows", "least", "message"),
    [
        ([1, 2, 3], [[1, 2, 3, 4]], 4, "least=4 does not fit: the text has 3 tokens"),
        ([1, 2, 3, 4], [[1, 2, 3]], 4, "least=4 does not fit: rows have 3 tokens"),
        ([1, 2, 3], [[1, 2, 3]], 0, "a run has 1 .. 3 of them"),
        ([[1, 2, 3]], [[1, 2, 3]], 2, "a text is one row of token ids, got shape"),
        ([1, 2, 3], [1, 2, 3], 2, "a matrix of token ids"),
        ([1, -2, 3], [[1, 2, 3]], 2, "tokens hold ids -2"),
        ([1, 2, 3], [[1, 2, 2**20]], 2, "rows hold ids 1 .. 1048576"),
        ([0.5, 2, 3], [[1, 2, 3]], 2, "integer token ids"),
    ],
)
def test_what_cannot_be_searched_is_refused(text, rows, least, message):
    with pytest.raises(ValueError, match=message):
        shared_runs(text, rows, least)


def test_class_of_places_is_that_of_what_follows_them():
    """The suffix array's classes by their definition: two places are alike at level k if 2^k symbols are."""
    search = repeats.WindowSearch(np.array([[1, 2, 1, 2, 1, 1, 2, 3, 1, 2, 1]]), 1)
    alike = runs._Alike(search, *search.find(np.array([[1, 2, 1, 2, 3, 9, 1, 1, 2, 1, 1]])))
    symbols = alike.classes[0].tolist()
    for level, classes in enumerate(alike.classes):
        for a, b in itertools.combinations([*alike.in_text, *alike.in_rows], 2):
            same = symbols[a : a + 2**level] == symbols[b : b + 2**level]
            assert (classes[a] == classes[b]) == same
