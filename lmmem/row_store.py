"""Rows that have been fetched, kept on disk. Knows nothing of where they come from.

Rows lie in *segments*: files that are written once, whole, and never changed, so that any number of
processes can fill one folder, on any file system, without a lock. A segment is its SHA-256 and then
what that covers: how many rows, their numbers, their tokens.
"""

from __future__ import annotations

import hashlib
import uuid
import warnings
from pathlib import Path

import numpy as np

from lmmem.storage import write_whole

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
        self._look()
        for path, index in list(self._indices.items()):
            ours = ~here & np.isin(wanted, index)
            if not ours.any():
                continue
            segment = self._read(path)
            if segment is None:
                continue
            index, tokens = segment
            rows[ours] = tokens[np.searchsorted(index, wanted[ours])]
            here |= ours
        return rows, here

    def add(self, index: np.ndarray | list[int], rows: np.ndarray | list[list[int]]) -> None:
        """Keep rows. A disk that is full is no reason to fail: the rows are then fetched again next time."""
        index, rows = np.asarray(index, dtype=np.int64), np.asarray(rows, dtype=np.uint16)
        absorbed = [path for path, known in self._indices.items() if len(known) < SMALL]
        if len(absorbed) >= SMALL:
            segments = [segment for path in absorbed if (segment := self._read(path))]
            index = np.concatenate([index, *(known for known, _ in segments)])
            rows = np.concatenate([rows, *(tokens for _, tokens in segments)])
        else:
            absorbed = []
        index, first = np.unique(index, return_index=True)
        body = len(index).to_bytes(8, "little") + index.astype("<i8").tobytes() + rows[first].astype("<u2").tobytes()
        path = self.folder / f"{uuid.uuid4().hex}.rows"
        try:
            with write_whole(path) as part:
                part.write_bytes(hashlib.sha256(body).digest() + body)
        except OSError as error:
            warnings.warn(f"fetched rows cannot be kept in {self.folder}: {error.strerror}", stacklevel=2)
            return
        self._indices[path] = index
        for old in absorbed:
            self._forget(old)

    def _look(self) -> None:
        """Take note of segments that this or another process has written."""
        present = set(self.folder.glob("[!.]*.rows"))
        self._indices = {path: index for path, index in self._indices.items() if path in present}
        for path in present - self._indices.keys():
            if segment := self._read(path):
                self._indices[path] = segment[0]

    def _read(self, path: Path) -> tuple[np.ndarray, np.ndarray] | None:
        """The numbers and tokens of a segment; None, and the segment is gone, if it is not what was written."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # another process has made it part of a larger one
            self._indices.pop(path, None)
            return None
        digest, body = data[:32], data[32:]
        n = int.from_bytes(body[:8], "little")
        if hashlib.sha256(body).digest() != digest or len(body) != 8 + n * (8 + 2 * self.width):
            warnings.warn(f"{path} is damaged: its rows are fetched again", stacklevel=2)
            self._forget(path)
            return None
        index = np.frombuffer(body, "<i8", n, offset=8)
        return index, np.frombuffer(body, "<u2", offset=8 + 8 * n).reshape(n, self.width)

    def _forget(self, path: Path) -> None:
        self._indices.pop(path, None)
        path.unlink(missing_ok=True)
