"""The one format of what is kept: a table and its record as a Parquet file that is whole or absent.

Any Parquet reader opens it. Its *seal* is the SHA-256 of the file with zeros in the seal's place, so
that no bit of values, names, types or record can change unseen. Measured tables, fetched rows and
the ends of lines are such files; a trained model is a folder with checksums
(:func:`lmmem.storage.files.folder_being_written`), because transformers says which files it holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lmmem.storage.files import DamagedError, write_whole

__all__ = ["load", "pack", "record_of", "save", "unpack"]

RECORD, SEAL = b"lmmem", b"lmmem_sha256"  # in the Parquet metadata, the seal last
UNSEALED = b"0" * 64


def pack(table: pd.DataFrame | pa.Table, record: Mapping[str, Any]) -> bytes:
    """A table and its record, JSON values by name, as one sealed file.

    >>> table, record = unpack(pack(pd.DataFrame({"a": [1, 2]}), {"seed": 0}), "a file")
    >>> table.to_pydict(), record
    ({'a': [1, 2]}, {'seed': 0})
    """
    data = pa.Table.from_pandas(table, preserve_index=False) if isinstance(table, pd.DataFrame) else table
    metadata = {**(data.schema.metadata or {}), RECORD: json.dumps(dict(record)).encode(), SEAL: UNSEALED}
    sink = pa.BufferOutputStream()
    pq.write_table(data.replace_schema_metadata(metadata), sink, compression="zstd")
    file = sink.getvalue().to_pybytes()
    before, _, after = file.rpartition(UNSEALED)
    return before + hashlib.sha256(file).hexdigest().encode() + after


def unpack(file: bytes, name: object) -> tuple[pa.Table, dict[str, Any]]:
    """The table and the record of a sealed file.

    Raises
    ------
    DamagedError : these bytes are not what :func:`pack` gave; the message has the `name`.
    """
    try:
        seal = pq.read_metadata(pa.BufferReader(file)).metadata[SEAL]
        before, _, after = file.rpartition(seal)
        if len(seal) != len(UNSEALED) or hashlib.sha256(before + UNSEALED + after).hexdigest().encode() != seal:
            raise ValueError("its seal is broken")
        data = pq.read_table(pa.BufferReader(file))
        return data, json.loads(data.schema.metadata[RECORD])
    except Exception as error:  # whatever a damaged footer makes pyarrow raise
        raise DamagedError(f"{name} is damaged or no result of lmmem ({error}): delete it to measure again") from error


def save(table: pd.DataFrame, path: Path, record: Mapping[str, Any]) -> None:
    """Write a table and its record, whole or not at all."""
    with write_whole(path) as part:
        part.write_bytes(pack(table, record))


def load(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a table that :func:`save` wrote, and its record.

    Raises
    ------
    FileNotFoundError : there is none.
    DamagedError : it is not what was written; the message names it.
    """
    table, record = unpack(path.read_bytes(), path)
    return table.to_pandas(), record


def record_of(path: Path) -> tuple[dict[str, Any], int] | None:
    """The record and the number of rows, by the end of the file alone; None if it is no such file."""
    try:
        footer = pq.read_metadata(path)
        return json.loads(footer.metadata[RECORD]), footer.num_rows
    except Exception:  # whatever a damaged footer makes pyarrow raise
        return None
