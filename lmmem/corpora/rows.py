"""Sequences as an array, wherever they lie: in one file or many, here or on the Hub.

A :class:`lmmem.corpora.corpus.Corpus` holds such an array. What is fetched is kept in a
:class:`lmmem.corpora.row_store.RowStore`. Knows nothing of models.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from tqdm import tqdm

from lmmem.corpora.row_store import RowStore
from lmmem.storage.files import DamagedError, keep
from lmmem.storage.ranges import Source, opened
from lmmem.storage.tables import pack, unpack

__all__ = ["ChunkedRows", "FixedRows", "JsonLines", "as_row_numbers", "read_megatron"]

WORKERS = 16  # requests at a time
PIECE = 16 * 2**20  # bytes of one request, at most
KEEP_EVERY = 64 * 2**20  # bytes fetched between two writes to disk
BAR_FROM = 2**20  # bytes; less than this comes without a progress bar
LEAST_READ, MOST_READ = 2**16, 2**23  # bytes at a time in search of line ends


def as_row_numbers(index: ArrayLike, n: int | None = None) -> np.ndarray:
    """Row numbers as int64, if they are whole numbers, and below `n` if that is given.

    Raises
    ------
    TypeError : they are no whole numbers; a mask of booleans is none.
    IndexError : one is negative, or n and above.

    >>> as_row_numbers(np.uint8([3, 1]), n=4)
    array([3, 1])
    """
    wanted = np.asarray(index)
    if wanted.size == 0:
        wanted = wanted.astype(np.int64)
    if not np.issubdtype(wanted.dtype, np.integer):
        raise TypeError(f"an index is a whole number, a slice, or an array of whole numbers; got {wanted.dtype}")
    if wanted.size and (wanted.min() < 0 or (n is not None and wanted.max() >= n)):
        bad = wanted.min() if wanted.min() < 0 else wanted.max()
        raise IndexError(f"index {bad} is outside the corpus" + ("" if n is None else f", which has rows 0 .. {n - 1}"))
    return wanted.astype(np.int64)


def _check_vocabulary(tokens: np.ndarray, vocabulary: int, what: str) -> None:
    if tokens.size and (tokens.min() < 0 or tokens.max() >= vocabulary):
        bad = tokens.min() if tokens.min() < 0 else tokens.max()
        raise DamagedError(
            f"{what} hold token {bad}, outside the vocabulary of {vocabulary}: "
            "these are not such rows, or not from their first byte on"
        )


def _neighbours(index: np.ndarray) -> list[np.ndarray]:
    """Ascending numbers, cut where one is left out."""
    return np.split(index, np.flatnonzero(np.diff(index) != 1) + 1) if len(index) else []


class FixedRows:
    """Rows of equally many uint16 tokens, one after another, in files that follow one another.

    A row may begin in one file and end in the next. Indexed by a whole number from 0 on, a slice or
    an array of whole numbers, whose order and duplicates are kept, like an array of shape (n, width).

    Parameters
    ----------
    sources : the files, in order.
    width : tokens of a row.
    vocabulary : a token at or above it means that these are not such rows.
    store : where fetched rows are kept; None keeps nothing.

    Raises
    ------
    ValueError : the sizes of the files do not add up to whole rows.
    DamagedError : on reading, a token outside the vocabulary.
    """

    dtype = np.dtype(np.uint16)

    def __init__(
        self, sources: Sequence[Source], width: int, vocabulary: int = 2**16, store: RowStore | None = None
    ) -> None:
        self.sources, self.width, self.vocabulary, self.store = list(sources), width, vocabulary, store
        sizes = [source.size for source in self.sources]
        self.ends = list(itertools.accumulate(sizes))
        self.starts = [end - size for end, size in zip(self.ends, sizes, strict=True)]
        total = self.ends[-1]
        n, rest = divmod(total, 2 * width)
        if rest:
            named = str(self.sources[0]) + (" and those after it" if len(self.sources) > 1 else "")
            raise ValueError(f"{named}: {total} bytes are no multiple of a row's {2 * width}, so rows are missing")
        self.shape = (n, width)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | ArrayLike) -> np.ndarray:
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        wanted = as_row_numbers(index, len(self))
        unique, place = np.unique(wanted, return_inverse=True)
        if self.store is None:
            rows = np.zeros((len(unique), self.width), dtype=np.int64)
            here = np.zeros(len(unique), dtype=bool)
        else:
            rows, here = self.store.get(unique)
        for run, tokens in self._fetched(unique[~here]):
            rows[np.searchsorted(unique, run[0]) :][: len(run)] = tokens
        return rows[place.reshape(wanted.shape)].astype(np.uint16)

    def _fetched(self, missing: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Runs of neighbouring rows as they arrive: numbers (m,) and tokens (m, width)."""
        longest = max(1, PIECE // (2 * self.width))
        runs = [run[first : first + longest] for run in _neighbours(missing) for first in range(0, len(run), longest)]
        arrived: list[tuple[np.ndarray, np.ndarray]] = []

        def keep() -> None:
            if arrived and self.store is not None:
                self.store.add(*map(np.concatenate, zip(*arrived, strict=True)))
            arrived.clear()

        total = len(missing) * 2 * self.width
        bar = tqdm(total=total, desc="training data", unit="B", unit_scale=True, disable=total < BAR_FROM)
        pool = ThreadPoolExecutor(WORKERS)
        pending = {pool.submit(self._read_run, run) for run in runs}
        try:
            for done in as_completed(pending.copy()):
                pending.discard(done)
                run, tokens = done.result()
                arrived.append((run, tokens))
                bar.update(2 * tokens.size)
                if sum(tokens.nbytes for _, tokens in arrived) >= KEEP_EVERY:
                    keep()
                yield run, tokens
        finally:  # also after an error: what has arrived is kept
            pool.shutdown(cancel_futures=True)
            arrived += [late.result() for late in pending if not late.cancelled() and not late.exception()]
            bar.close()
            keep()

    def _read_run(self, run: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        start, stop = 2 * self.width * int(run[0]), 2 * self.width * (int(run[-1]) + 1)
        parts, read = [], []
        for source, begin, end in zip(self.sources, self.starts, self.ends, strict=True):
            if begin < stop and start < end:
                parts.append(source.read(max(start, begin) - begin, min(stop, end) - begin))
                read.append(str(source))
        tokens = np.frombuffer(b"".join(parts), "<u2").reshape(len(run), self.width)
        _check_vocabulary(tokens, self.vocabulary, f"rows {run[0]} .. {run[-1]} of {' and '.join(read)}")
        return run, tokens


class JsonLines:
    """Rows of a JSON Lines file, whose lines vary in length: `token_ids` of each.

    Where lines end is found by reading from the start, as far as a row is asked for, once; it is
    kept in a file beside the rows. Rows whose place is known are then read by range.

    Parameters
    ----------
    source : the file.
    width : tokens of a row.
    vocabulary : a token at or above it means that these are not such rows.
    index_path : where the line ends are kept.
    store : where fetched rows are kept; None keeps nothing.
    """

    def __init__(
        self,
        source: Source,
        width: int,
        vocabulary: int = 2**16,
        index_path: Path | None = None,
        store: RowStore | None = None,
    ) -> None:
        self.source, self.width, self.vocabulary = source, width, vocabulary
        self.index_path, self.store = index_path, store
        self._ends = self._known_ends()

    def get(self, wanted: np.ndarray) -> np.ndarray:
        """Rows (n, width) int64 of sorted, unique line numbers.

        Raises
        ------
        IndexError : the file has fewer lines; the message says how many.
        DamagedError : a line is not what Amber's are.
        """
        if self.store is None:
            rows, here = np.zeros((len(wanted), self.width), dtype=np.int64), np.zeros(len(wanted), dtype=bool)
        else:
            rows, here = self.store.get(wanted)
        missing = wanted[~here]
        if not len(missing):
            return rows
        found: dict[int, np.ndarray] = {}
        try:
            self._scan(int(missing[-1]) + 1, missing, found)
            later = np.array([line for line in missing if line not in found], dtype=np.int64)
            with ThreadPoolExecutor(WORKERS) as pool:
                for lines in pool.map(self._read_run, self._pieces(later)):
                    found |= lines
        finally:  # also after an error: what has arrived is kept
            if found and self.store is not None:
                self.store.add(list(found), np.stack(list(found.values())))
        rows[~here] = [found[line] for line in missing.tolist()]
        return rows

    def _pieces(self, lines: np.ndarray) -> list[np.ndarray]:
        """Neighbouring lines, cut so that a request asks for little more than PIECE."""
        cut = []
        for run in _neighbours(lines):
            before = self._ends[run] - self._ends[run[0]]
            cut += np.split(run, np.flatnonzero(np.diff(before // PIECE)) + 1)
        return cut

    def _read_run(self, run: np.ndarray) -> dict[int, np.ndarray]:
        begins = self._ends[run - 1] if run[0] else np.concatenate([[0], self._ends[run[1:] - 1]])
        data = self.source.read(int(begins[0]), int(self._ends[run[-1]]))
        cuts = zip(begins - begins[0], self._ends[run] - begins[0], strict=True)
        return {int(line): self._parse(data[a:b], line) for line, (a, b) in zip(run, cuts, strict=True)}

    def _scan(self, lines: int, wanted: np.ndarray, found: dict[int, np.ndarray]) -> None:
        """Find the ends of so many lines, and on the way the rows that are wanted."""
        known, new = len(self._ends), []
        begin = saved = int(self._ends[-1]) if known else 0
        asked = set(wanted[wanted >= known].tolist())
        buffer = min(
            MOST_READ, max(LEAST_READ, self.width * (lines - known) // 4)
        )  # a small part of what is to be read
        bar = tqdm(desc=f"lines of {self.source}", unit="B", unit_scale=True, disable=lines - known < 1_000)
        try:
            file = opened(self.source, buffer)
            file.seek(begin)
            for number in range(known, lines):
                line = file.readline()
                if not line:
                    raise IndexError(f"line {lines - 1} is past the end of {self.source}: it has {number} lines")
                begin += len(line)
                new.append(begin)
                bar.update(len(line))
                if number in asked:
                    found[number] = self._parse(line, number)
                if begin - saved >= KEEP_EVERY:
                    self._keep_ends(new)
                    new, saved = [], begin
        finally:  # also after an error: what has been found is kept
            bar.close()
            self._keep_ends(new)

    def _parse(self, line: bytes, number: int) -> np.ndarray:
        try:
            tokens = np.asarray(json.loads(line)["token_ids"])
            if tokens.shape != (self.width,) or tokens.dtype.kind not in "iu" or not 0 <= tokens.min() <= tokens.max():
                raise ValueError(f"token_ids of shape {tokens.shape} and type {tokens.dtype}")
            _check_vocabulary(tokens, self.vocabulary, "they")
            return tokens.astype(np.int64)
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(
                f"line {number} of {self.source} is no row of {self.width} token_ids: {error!r}"
            ) from error

    def _known_ends(self) -> np.ndarray:
        try:
            if self.index_path is not None and self.index_path.exists():
                return unpack(self.index_path.read_bytes(), self.index_path)[0]["end"].to_numpy()
        except DamagedError:
            pass  # found again
        return np.empty(0, dtype=np.int64)

    def _keep_ends(self, new: list[int]) -> None:
        if not new:
            return
        self._ends = np.concatenate([self._ends, np.array(new, dtype=np.int64)])
        if self.index_path is not None:
            with keep(self.index_path) as part:
                part.write_bytes(pack(pd.DataFrame({"end": self._ends}), {}))


class ChunkedRows:
    """JSON Lines files, one a chunk of training, as one array: row ``chunk * stride + line``.

    Parameters
    ----------
    open_chunk : gives the lines of a chunk, by its number.
    chunks : how many there are.
    stride : row numbers set aside for each chunk, more than any has lines.
    width : tokens of a row.
    """

    dtype = np.dtype(np.int64)

    def __init__(self, open_chunk: Callable[[int], JsonLines], chunks: int, stride: int, width: int) -> None:
        self.open_chunk, self.stride = open_chunk, stride
        self.shape = (chunks * stride, width)
        self._open: dict[int, JsonLines] = {}

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | ArrayLike) -> np.ndarray:
        if isinstance(index, slice):
            index = range(*index.indices(len(self)))
            if len(index) >= self.stride:
                raise ValueError(f"{len(index):,} rows are more than a chunk has: ask for fewer")
        wanted = as_row_numbers(index, len(self))
        unique, place = np.unique(wanted, return_inverse=True)
        rows = np.zeros((len(unique), self.shape[1]), dtype=np.int64)
        chunks = unique // self.stride
        for chunk in np.unique(chunks).tolist():
            if chunk not in self._open:
                self._open[chunk] = self.open_chunk(chunk)
            rows[chunks == chunk] = self._open[chunk].get(unique[chunks == chunk] % self.stride)
        return rows[place.reshape(wanted.shape)]


MEGATRON = b"MMIDIDX\x00\x00"  # first bytes of an index, then version 1
MEGATRON_DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}


def read_megatron(path: Path) -> np.ndarray:
    """The rows of a Megatron-LM dataset, ``NAME.bin`` beside ``NAME.idx``: (n, w), memory-mapped.

    Raises
    ------
    FileNotFoundError : one of the two is missing.
    ValueError : no such index, rows of different lengths, or tokens that do not follow one another.
    """
    with open(path.with_suffix(".idx"), "rb") as file:
        head = file.read(len(MEGATRON) + 8 + 1 + 16)
        if head[: len(MEGATRON)] != MEGATRON or len(head) < len(MEGATRON) + 25:
            raise ValueError(f"{path.with_suffix('.idx')} is no Megatron-LM index")
        version, code, n, _ = struct.unpack("<QBQQ", head[len(MEGATRON) :])
        if version != 1 or code not in MEGATRON_DTYPES:
            raise ValueError(f"{path.with_suffix('.idx')} has version {version} and dtype code {code}: not known here")
        lengths = np.frombuffer(file.read(4 * n), "<i4")
        pointers = np.frombuffer(file.read(8 * n), "<i8")
    dtype = np.dtype(MEGATRON_DTYPES[code])
    if len(lengths) != n or len(pointers) != n or not n:
        raise ValueError(f"{path.with_suffix('.idx')} ends before its {n} entries")
    width = int(lengths[0])
    if (lengths != width).any() or (pointers != np.arange(n) * width * dtype.itemsize).any():
        raise ValueError(
            f"{path} holds documents of {lengths.min()} to {lengths.max()} tokens, not rows of training: pack it first"
        )
    if path.stat().st_size != n * width * dtype.itemsize:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, its index says {n * width * dtype.itemsize}")
    return np.memmap(path, dtype=dtype, mode="r", shape=(n, width))
