"""Measured tables on disk: whole or absent, never measured twice. Knows not what a column means.

A table is a Parquet file named by a hash of everything that determines its numbers, with its
provenance in the file's own metadata. Any Parquet reader opens it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lmmem.provenance import environment
from lmmem.storage import DamagedError, cache_folder, write_whole

__all__ = ["load", "measured", "provenance_line", "save"]

KEY = b"lmmem"  # in the Parquet metadata
DIGEST = b"lmmem_sha256"  # of the values, column names, dtypes and provenance: Parquet's footer has no checksum
# Code that determines what is measured; a change in it gives new tables.
MEASURING = [
    "protocol",
    "models",
    "corpora",
    "decoding",
    "tokens",
    "distance",
    "published",
    "repeats",
    "scoring",
    "perturbation",
    "experiments",
]


def save(table: pd.DataFrame, path: Path, provenance: Mapping[str, Any]) -> None:
    """Write a table and its provenance as one Parquet file, with page checksums, whole or not at all."""
    data = pa.Table.from_pandas(table, preserve_index=False)
    record = json.dumps(dict(provenance)).encode()
    metadata = {**data.schema.metadata, KEY: record, DIGEST: _digest(table, record)}
    with write_whole(path) as part:
        pq.write_table(data.replace_schema_metadata(metadata), part, compression="zstd", write_page_checksum=True)


def load(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a table that :func:`save` wrote, and its provenance.

    Raises
    ------
    FileNotFoundError : there is none.
    DamagedError : it is not what was written; the message names it.
    """
    try:
        data = pq.read_table(path, page_checksum_verification=True)
        record, table = data.schema.metadata[KEY], data.to_pandas()
        if data.schema.metadata[DIGEST] != _digest(table, record):
            raise ValueError("its digest differs")
        provenance = json.loads(record)
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever a damaged footer makes pyarrow or pandas raise
        raise DamagedError(f"{path} is damaged or no result of lmmem ({error}): delete it to measure again") from error
    return table, provenance


def measured(kind: str, settings: Mapping[str, Any], measure: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The table of these settings: read if it is on disk and whole, else measured and kept.

    Parameters
    ----------
    kind : what is measured; a folder name.
    settings : everything that determines the numbers, as JSON values.
    measure : makes the table; called at most once.

    Returns
    -------
    The table, with ``table.attrs["provenance"]``: settings, versions, hardware, date (ISO 8601,
    UTC) and seconds the measurement took, beside what `measure` left in ``attrs`` of its table. A
    damaged file is measured again.
    """
    known = dict(settings) | {"code": _code_hash()}
    key = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_folder() / "results" / kind / f"{key}.parquet"
    try:
        table, provenance = load(path)
    except (FileNotFoundError, DamagedError):
        start = time.perf_counter()
        table = measure()
        seconds = round(time.perf_counter() - start, 2)
        left = {str(key): value for key, value in table.attrs.items()}
        provenance = {"kind": kind, **known, **environment(), "seconds": seconds, **left}
        save(table, path, provenance)
    table.attrs = {"provenance": provenance}
    return table


def provenance_line(tables: Iterable[pd.DataFrame], seed: int) -> str:
    """One line that says what the tables of a page were measured with, when, and for how long.

    Parameters
    ----------
    tables : as :func:`measured` gives them.
    seed : the page's, which chose sequences, noise and samples.
    """
    records = [table.attrs["provenance"] for table in tables]
    seconds = sum(record["seconds"] for record in records)

    trained = sorted({record["step"] for record in records if "step" in record})  # repeats may be of all training
    steps = str(trained[0]) if len(trained) == 1 else f"{trained[-1]} (and {len(trained) - 1} others)"

    def values(key: str) -> str:
        found = [str(record[key]) for record in records if key in record]  # counts of repeats have no dtype
        return ", ".join(dict.fromkeys(found))

    return (
        f"model {values('model')}, step {steps}, seed {seed}, "
        f"{values('dtype')} on {values('device')} ({values('processor')}), lmmem {values('lmmem')}, "
        f"torch {values('torch')}, transformers {values('transformers')}; measured "
        f"{max(record['date'] for record in records)} in {seconds:.0f} s"
    )


def _digest(table: pd.DataFrame, record: bytes) -> bytes:
    values = pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes()
    head = json.dumps([[str(name), str(dtype)] for name, dtype in table.dtypes.items()]).encode()
    return hashlib.sha256(head + b"\0" + record + b"\0" + values).hexdigest().encode()


@functools.cache
def _code_hash() -> str:
    digest = hashlib.sha256()
    for module in MEASURING:
        digest.update((Path(__file__).parent / f"{module}.py").read_bytes())
    return digest.hexdigest()[:16]
