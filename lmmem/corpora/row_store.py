"""Rows that have been fetched, kept on disk by their numbers: what readers of remote files ask first.

Rows lie in *segments*: files that are written once, whole, and never changed, so that any number of
processes can fill one folder, on any file system, without a lock.
"""

from __future__ import annotations

import uuid
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa

from lmmem.storage.files import DamagedError, keep
from lmmem.storage.tables import pack, unpack

__all__ = ["RowStore"]

SMALL = 64  # rows; so many segments smaller than this are made one


class RowStore:
    """A folder of rows, by number.

    >>> import tempfile
    >>> store = RowStore(Path(tempfile.mkdtemp()), width=3)
    >>> store.add([7, 9], [[1, 2, 3], [4, 5, 6]])
    >>> store.get([9, 8])
    (array([[4, 5, 6],
           [0, 0, 0]]), array([ True, False]))
    """

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width = folder, width
        self._indices: dict[Path, np.ndarray] = {}  # of the segments seen so far

    def get(self, wanted: np.ndarray | list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Rows (n, width) int64 in the order asked for, and which of them are here (n,) bool; the others are 0."""
        wanted = np.asarray(wanted, dtype=np.int64)
        rows = np.zeros((len(wanted), self.width), dtype=np.int64)
        here = np.zeros(len(wanted), dtype=bool)
        complete = False
        while not complete and not here.all():  # again if a segment is gone: it may have become part of a larger one
            complete = True
            self._look()
            for path, index in list(self._indices.items()):
                ours = ~here & np.isin(wanted, index)
                if not ours.any():
                    continue
                tokens = self._read(path)
                if tokens is None:
                    complete = False
                    continue
                rows[ours] = tokens[np.searchsorted(index, wanted[ours])]
                here |= ours
        return rows, here

    def add(self, index: np.ndarray | list[int], rows: np.ndarray | list[list[int]]) -> None:
        """Keep rows. A disk that is full is no reason to fail: the rows are then fetched again next time.

        Raises
        ------
        ValueError : a token that takes more than two bytes.
        """
        index, rows = np.asarray(index, dtype=np.int64), np.asarray(rows)
        if rows.size and (rows.min() < 0 or rows.max() >= 2**16):
            raise ValueError(f"rows of uint16 tokens are kept, got tokens {rows.min()} .. {rows.max()}")
        absorbed = [path for path, known in self._indices.items() if len(known) < SMALL]
        if len(absorbed) >= SMALL:
            segments = [(self._indices[path], self._read(path)) for path in absorbed]
            there = [(known, tokens) for known, tokens in segments if tokens is not None]
            index = np.concatenate([index, *(known for known, _ in there)])
            rows = np.concatenate([rows, *(tokens for _, tokens in there)])
        else:
            absorbed = []
        index, first = np.unique(index, return_index=True)
        tokens = pa.py_buffer(rows[first].astype("<u2").tobytes())
        cells = pa.FixedSizeBinaryArray.from_buffers(pa.binary(2 * self.width), len(index), [None, tokens])
        path = self.folder / f"{uuid.uuid4().hex}.parquet"
        with keep(path) as part:
            part.write_bytes(pack(pa.table({"index": index, "tokens": cells}), {}))
        if path.exists():
            self._indices[path] = index
            for old in absorbed:
                self._forget(old)

    def _look(self) -> None:
        """Take note of segments that this or another process has written."""
        present = set(self.folder.glob("[!.]*.parquet"))
        self._indices = {path: index for path, index in self._indices.items() if path in present}
        for path in present - self._indices.keys():
            self._read(path)

    def _read(self, path: Path) -> np.ndarray | None:
        """The tokens of a segment, its numbers noted; None, and it is forgotten, if it is not what was written."""
        try:
            segment, _ = unpack(path.read_bytes(), path)
        except FileNotFoundError:  # another process has made it part of a larger one
            self._indices.pop(path, None)
            return None
        except DamagedError:
            warnings.warn(f"{path} is damaged: its rows are fetched again", stacklevel=2)
            self._forget(path)
            return None
        self._indices[path] = segment["index"].to_numpy()
        tokens = segment["tokens"].combine_chunks().buffers()[1]
        return np.frombuffer(tokens, "<u2", len(segment) * self.width).reshape(-1, self.width)

    def _forget(self, path: Path) -> None:
        self._indices.pop(path, None)
        path.unlink(missing_ok=True)
