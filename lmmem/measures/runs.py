"""Where a text stands in training data: its longest runs of tokens that a row holds, with every place, exactly.

What it computes, in naive Python::

    def held(i, j): return any(text[i:j] == row[k:k + j - i] for row in rows for k in range(len(row)))
    [(i, j) for i in ... for j in ... if held(i, j) and not held(i - 1, j) and not held(i, j + 1)]

and of these the longest over each token. A run is within a row, as a model reads a row at a time. Windows of a few
tokens are looked for as in repeats.py, and compared token by token; how far they go on, a suffix array of those that
were found says. Knows no steps and no text.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from tqdm import tqdm

from lmmem.measures.repeats import CHUNK_TOKENS, WindowSearch, read_in_order
from lmmem.measures.tokens import checked_tokens

__all__ = ["LEAST", "Run", "shared_runs"]

LEAST = 16  # tokens; shorter runs are phrases that any text may hold
BAR_FROM = 2**26  # tokens; fewer are read without a progress bar


class Run(NamedTuple):
    """A run of a text that rows hold.

    Attributes
    ----------
    start, length : of the text, in tokens.
    occurrences : places at which it stands; a row may hold several, which may overlap.
    rows : (m,) int64, the numbers of the rows that hold it, ascending.
    repeats : rows that share a run of at least `least` tokens with it, those that hold all of it among them.
    crosses : whether, somewhere, the row after goes on with the text, or the row before ends with what comes before
        the run in the text, for `least` tokens or more: the end of a row has cut it.
    """

    start: int
    length: int
    occurrences: int
    rows: np.ndarray
    repeats: int
    crosses: bool


def shared_runs(tokens: ArrayLike, rows: Any, least: int = LEAST, numbers: range | None = None) -> list[Run]:
    """The runs of a text that rows hold: maximal ones, of which each is the longest over some token of the text.

    A run that can be made longer at either end, and is then still held by some row, is left out, and so are those
    of fewer than `least` tokens. Of several runs over a token that are as long, the one that reaches furthest counts.
    Memory is that of the text and, for each run, the numbers of its rows.

    Parameters
    ----------
    tokens : (l,) token ids of the text.
    rows : (m, w) token ids: an array, a memory map, a Corpus, or anything with a length whose slices, and what arrays
        of row numbers give, are such arrays. Read in order, once; rows that hold something a second time.
    least : tokens of the shortest run, 1 .. min(l, w).
    numbers : which rows, one after another; None is all.

    Returns
    -------
    Runs, by their start.

    Raises
    ------
    ValueError : the text or the rows are shorter than `least`, or hold what are no token ids.

    >>> shared_runs([9, 1, 2, 3, 4, 5], [[0, 1, 2, 3], [3, 4, 5, 1], [1, 2, 3, 7]], least=2)[0]
    Run(start=1, length=3, occurrences=2, rows=array([0, 2]), repeats=2, crosses=False)
    """
    text = np.asarray(tokens)
    if text.ndim != 1:
        raise ValueError(f"a text is one row of token ids, got shape {text.shape}")
    text = checked_tokens(text[None], "tokens")
    rows = np.asarray(rows) if isinstance(rows, (list, tuple)) else rows
    numbers = range(len(rows)) if numbers is None else numbers
    head = np.asarray(rows[numbers.start : min(numbers.start + 1, numbers.stop)])
    if head.ndim != 2:
        raise ValueError(f"expected a matrix of token ids, got rows of shape {head.shape}")
    width = head.shape[1]
    for what, length in (("the text has", text.size), ("rows have", width)):
        if not 1 <= least <= length:
            raise ValueError(f"least={least} does not fit: {what} {length} tokens, and a run has 1 .. {length} of them")
    search = WindowSearch(text, least)
    longest = np.zeros(len(search.window), np.int64)  # windows that follow one another in a row, from each on
    held, begins, ends = ([np.empty(0, np.int64)] for _ in range(3))  # rows, and the windows at both their ends
    bar = tqdm(total=len(numbers), desc="rows searched", unit=" rows", disable=len(numbers) * width < BAR_FROM)
    for first, there in read_in_order(rows, numbers, width):
        row, offset, window = search.find(there)
        bar.update(len(there))
        if not len(row):
            continue
        longest = np.maximum(longest, _Alike(search, row, offset, window).longest())
        edge = (first + row) * search.windows + window
        held.append(first + np.unique(row))
        begins.append(edge[offset == 0])
        ends.append(edge[offset == width - least])
    bar.close()
    edges = np.concatenate(begins), np.concatenate(ends)
    found = [_Places(search, start, windows, *edges) for start, windows in _covering(longest, least)]
    if not found:
        return []
    holding, at_a_time, sharing = np.concatenate(held), max(1, CHUNK_TOKENS // width), np.zeros(len(found), np.int64)
    inside = np.concatenate([np.arange(run.start, run.start + run.windows) for run in found])
    whose = np.repeat(np.arange(len(found)), [run.windows for run in found])
    shape = search.windows, len(found)
    parts = sparse.csr_array((np.ones(len(inside), np.int32), (search.window[inside], whose)), shape=shape)
    for begin in range(0, len(holding), at_a_time):
        some = holding[begin : begin + at_a_time]
        row, offset, window = search.find(checked_tokens(rows[some], "rows"))
        alike = _Alike(search, row, offset, window)
        for run in found:
            hits = alike.hits(run.start, run.windows)
            run.add(some[row[hits]], offset[hits], width)
        holds = sparse.csr_array((np.ones(len(row), np.int32), (row, window)), shape=(len(some), search.windows))
        sharing += np.bincount((holds @ parts).indices, minlength=len(found))
    return [run.result(int(n)) for run, n in zip(found, sharing, strict=True)]


def _covering(longest: np.ndarray, least: int) -> list[tuple[int, int]]:
    """Start and windows of the maximal runs of which each is the longest over a token, as few as do that."""
    maximal = np.flatnonzero((longest > 0) & (longest >= np.append(0, longest[:-1])))
    length = longest[maximal] + least - 1  # tokens
    best, owner = (np.zeros(len(longest) + least - 1, np.int64) for _ in range(2))
    for run in np.lexsort((maximal, length)).tolist():  # the longest last, of those as long the furthest
        span = slice(maximal[run], maximal[run] + length[run])
        best[span], owner[span] = length[run], maximal[run]
    chosen, covered, token = list[tuple[int, int]](), np.flatnonzero(best), 0
    while (place := np.searchsorted(covered, token)) < len(covered):
        token = int(covered[place])
        start = int(owner[token])
        chosen.append((start, int(longest[start])))
        end = start + int(best[token])
        longer = np.flatnonzero(best[token:end] > best[token])
        token = token + int(longer[0]) if len(longer) else end
    return chosen


class _Places:
    """Where one run stands, gathered from one batch of rows after another."""

    def __init__(self, search: WindowSearch, start: int, windows: int, begins: np.ndarray, ends: np.ndarray) -> None:
        self.search, self.start, self.windows, self.begins, self.ends = search, start, windows, begins, ends
        self.length, self.occurrences, self.crosses = windows + search.n - 1, 0, False
        self.rows: list[np.ndarray] = []

    def add(self, rows: np.ndarray, offset: np.ndarray, width: int) -> None:
        self.occurrences += len(rows)
        self.rows.append(np.unique(rows))
        after, before = self.start + self.length, self.start - self.search.n
        if after < len(self.search.window):
            edge = (rows[offset + self.length == width] + 1) * self.search.windows + self.search.window[after]
            self.crosses |= _any_among(edge, self.begins)
        if before >= 0:
            edge = (rows[offset == 0] - 1) * self.search.windows + self.search.window[before]
            self.crosses |= _any_among(edge, self.ends)

    def result(self, repeats: int) -> Run:
        return Run(self.start, self.length, self.occurrences, np.concatenate(self.rows), repeats, self.crosses)


def _any_among(wanted: np.ndarray, ascending: np.ndarray) -> bool:
    return bool((np.searchsorted(ascending, wanted) < np.searchsorted(ascending, wanted, "right")).any())


class _Alike:
    """The windows of a text that some rows hold, and where these hold them, as one string with a suffix array.

    Neighbouring windows are one stretch of it, and before each stretch stands a symbol of its own, so that what is
    alike lies within a row. Two places have one class at level k if their next 2^k symbols are the same.
    """

    def __init__(self, search: WindowSearch, row: np.ndarray, offset: np.ndarray, window: np.ndarray) -> None:
        there = np.zeros(search.windows, dtype=bool)
        there[window] = True
        self.search, self.text = search, np.flatnonzero(there[search.window])
        at_row = np.append(row[:1] - 1, row[:-1]) != row
        at_row |= np.diff(offset, prepend=-1) != 1
        cut = np.append(np.diff(self.text, prepend=-2) != 1, at_row | (np.arange(len(row)) == 0))
        place = np.arange(len(cut)) + np.cumsum(cut)
        self.in_text, self.in_rows = place[: len(self.text)], place[len(self.text) :]
        symbols = -1 - np.arange(place[-1] + 2)
        symbols[place] = np.append(search.window[self.text], window)
        stretches = np.diff(np.append(np.flatnonzero(cut), len(cut)))
        texts = int(cut[: len(self.text)].sum())
        most = min(stretches[:texts].max(), stretches[texts:].max())
        self.classes = [np.unique(symbols, return_inverse=True)[1]]
        while 2 ** (len(self.classes) - 1) < most:
            last = self.classes[-1]
            shifted = last[(np.arange(len(last)) + 2 ** (len(self.classes) - 1)).clip(max=len(last) - 1)]
            self.classes.append(np.unique(last * len(last) + shifted, return_inverse=True)[1])
        self.by_window = np.argsort(window, kind="stable")
        self.sorted = window[self.by_window]

    def longest(self) -> np.ndarray:
        """How many windows from each of the text's on follow one another in one of the rows."""
        order = np.argsort(self.classes[-1], kind="stable")  # the suffix array, as far as anything is alike
        rank, at = np.empty_like(order), np.arange(len(order))
        rank[order] = at
        from_rows = np.zeros(len(order), dtype=bool)
        from_rows[self.in_rows] = True
        before = np.maximum.accumulate(np.where(from_rows[order], at, -1))[rank[self.in_text]]
        after = np.minimum.accumulate(np.where(from_rows[order], at, len(at))[::-1])[::-1][rank[self.in_text]]
        found = np.zeros(len(self.search.window), np.int64)
        for neighbour in (before, after):
            is_one = (neighbour >= 0) & (neighbour < len(at))
            mine = self.text[is_one]
            found[mine] = np.maximum(found[mine], self._alike(self.in_text[is_one], order[neighbour[is_one]]))
        return found

    def _alike(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """How many symbols are the same from each of these places on."""
        n, end = np.zeros(len(a), np.int64), len(self.classes[0]) - 1
        for level in range(len(self.classes))[::-1]:
            classes = self.classes[level]
            n += (classes[(a + n).clip(max=end)] == classes[(b + n).clip(max=end)]) * 2**level
        return n

    def hits(self, start: int, windows: int) -> np.ndarray:
        """Which places in the rows go on as the text does from `start` on, for so many windows."""
        level = windows.bit_length() - 1
        mine = np.searchsorted(self.text, start)
        if level >= len(self.classes) or mine == len(self.text) or self.text[mine] != start:
            return np.empty(0, np.int64)
        first, last = (np.searchsorted(self.sorted, self.search.window[start], side) for side in ("left", "right"))
        hits, classes, rest = self.by_window[first:last], self.classes[level], windows - 2**level
        hits = hits[classes[self.in_rows[hits]] == classes[self.in_text[mine]]]
        if not len(hits):
            return hits
        return hits[classes[self.in_rows[hits] + rest] == classes[self.in_text[mine] + rest]]
