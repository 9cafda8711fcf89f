"""Read any file by the byte range, here or elsewhere: what readers of training data are given.

A :class:`Source` is anything with a size and a ``read(start, stop)``: a :class:`LocalFile`, or a
:class:`lmmem.storage.hub.HubFile`. :func:`opened` makes a file object of it, for whatever reads
those: lines, pyarrow, json.
"""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Protocol

from lmmem.storage.files import DamagedError

__all__ = ["LocalFile", "Source", "opened"]

BUFFER = 2**16  # bytes read at a time, if whoever opens a file does not say


class Source(Protocol):
    """Bytes that can be read by range."""

    @property
    def size(self) -> int:
        """Bytes in all."""

    def read(self, start: int, stop: int) -> bytes:
        """Exactly the bytes ``start .. stop - 1``."""


@dataclasses.dataclass(frozen=True)
class LocalFile:
    """A file on this machine."""

    path: Path

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self.path.stat().st_size

    def read(self, start: int, stop: int) -> bytes:
        """Exactly the bytes ``start .. stop - 1``."""
        with open(self.path, "rb") as file:
            file.seek(start)
            data = file.read(stop - start)
        if len(data) != stop - start:
            raise DamagedError(f"{self.path} ends before byte {stop}: it has been cut since it was opened")
        return data

    def __str__(self) -> str:
        return str(self.path)


def opened(source: Source, buffer: int = BUFFER) -> io.BufferedReader:
    r"""A file object that reads a source where it is read, `buffer` bytes at a time.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "two lines"
    >>> _ = path.write_text("one\ntwo\n")
    >>> list(opened(LocalFile(path)))
    [b'one\n', b'two\n']
    """
    return io.BufferedReader(_Raw(source), buffer)


class _Raw(io.RawIOBase):
    def __init__(self, source: Source) -> None:
        self.source, self.size, self.position = source, source.size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        return self.position

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        stop = min(self.position + len(buffer), self.size)
        if stop <= self.position:
            return 0
        data = self.source.read(self.position, stop)
        buffer[: len(data)] = data
        self.position = stop
        return len(data)
