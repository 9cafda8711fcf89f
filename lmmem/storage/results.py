"""Measured tables on disk: found if they are there, else measured once and kept.

A table is a folder of files (:mod:`lmmem.storage.tables`), its parts, each named by a hash of all
that determines its numbers, the measuring code included. :mod:`lmmem.sweep.tasks` measures parts,
here or on many machines; :func:`measured` is for a table that is one part. Knows no column's meaning.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lmmem.storage.files import DamagedError, cache_folder, write_whole
from lmmem.storage.provenance import code_hash, environment
from lmmem.storage.tables import load, pack, record_of, unpack

__all__ = ["Part", "find", "keep_part", "measure_part", "measured", "provenance_line", "tables"]

COLUMNS = {"of", "lmmem", "commit", "date", "code"}  # of a record that are listed


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a measured table: what determines its numbers, and where it is kept.

    Attributes
    ----------
    kind : what is measured; a folder name.
    settings : everything that determines the numbers of the whole table, as JSON values.
    span : which of its rows these are, as JSON values.
    of : rows that the whole table is to have; None is those of this part.

    All parts of a table lie in one folder, which any Parquet reader reads as one table.
    """

    kind: str
    settings: Mapping[str, Any]
    span: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    of: int | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """All that determines the numbers, the code that measures them included."""
        return {**self.settings, **self.span, "code": code_hash()}

    @property
    def key(self) -> str:
        """A hash of all that determines the numbers."""
        return _key(self.identity)

    @property
    def path(self) -> Path:
        """Where it is kept, whether it is there or not."""
        name = "-".join(str(self.settings[key]) for key in ("model", "step") if key in self.settings)
        name = re.sub(r"[^\w.-]+", "-", name).strip(".-")[:80]  # an id of the Hub holds a slash
        table = "-".join(filter(None, [name, _key({**self.settings, "code": code_hash()})]))
        return cache_folder() / "results" / self.kind / table / f"{self.key}.parquet"


def find(part: Part) -> pd.DataFrame | None:
    """A part's table if it is on disk, whole and of these settings, with ``attrs["provenance"]``.

    None if there is none; a file that is damaged or of other settings is named in a warning, and
    is as good as none.
    """
    try:
        table, provenance = load(part.path)
        if {key: provenance.get(key) for key in part.identity} != json.loads(json.dumps(part.identity)):
            raise DamagedError(f"{part.path} is of other settings")
    except FileNotFoundError:
        return None
    except DamagedError as error:
        warnings.warn(f"{error}; it is measured again", stacklevel=3)
        return None
    table.attrs = {"provenance": provenance}
    return table


def measure_part(part: Part, measure: Callable[[], pd.DataFrame]) -> bytes:
    """Measure a part, and return it as the file to be kept: its table and provenance."""
    start = time.perf_counter()
    table = measure()
    seconds = round(time.perf_counter() - start, 2)
    left = {str(key): value for key, value in table.attrs.items()}
    of = len(table) if part.of is None else part.of
    record = {"kind": part.kind, **part.identity, "of": of, **environment(), "seconds": seconds, **left}
    return pack(table, record)


def keep_part(part: Part, file: bytes) -> pd.DataFrame:
    """Write what :func:`measure_part` returned, whole or not at all, and return its table.

    Raises
    ------
    DamagedError : these bytes are no such file; nothing is written.
    OSError : it cannot be written; the message says that nothing else is lost.
    """
    data, provenance = unpack(file, part.path)
    try:
        with write_whole(part.path) as path:
            path.write_bytes(file)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{error.strerror}: a measured table cannot be kept. Those kept before are whole: "
            "make room or give write permission, and start again to go on",
            str(part.path),
        ) from error
    table = data.to_pandas()
    table.attrs = {"provenance": provenance}
    return table


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
    part = Part(kind, settings)
    table = find(part)
    return keep_part(part, measure_part(part, measure)) if table is None else table


def tables() -> pd.DataFrame:
    """What has been measured and is on disk.

    Returns
    -------
    One line a table: kind, model, step, rows, complete (the share of its rows that is there), parts,
    damaged (files that are none), mb, lmmem (version), commit (of its checkout), measured (ISO 8601,
    UTC, the latest), current (whether it is measured with the code of this lmmem), folder.
    """
    columns = ["kind", "model", "step", "rows", "complete", "parts", "damaged", "mb", "lmmem", "commit", "measured"]
    folders = sorted(path for path in (cache_folder() / "results").glob("*/*") if path.is_dir())
    found = pd.DataFrame([_summary(folder) for folder in folders], columns=[*columns, "current", "folder"])
    return found.astype({"step": "Int64"})  # repeats in a window have none


def provenance_line(records: Sequence[Mapping[str, Any]], seed: int) -> str:
    """One line that says what the tables of a page were measured with, when, and for how long.

    Parameters
    ----------
    records : ``attrs["provenance"]`` of tables, as :func:`measured` gives them.
    seed : the page's, which chose sequences, noise and samples.

    >>> provenance_line([], seed=0)
    'nothing has been measured yet'
    """
    if not records:
        return "nothing has been measured yet"
    seconds = sum(record["seconds"] for record in records)

    known = [record.get("steps", [record["step"]]) for record in records if "step" in record]  # not in each of repeats
    trained = sorted(set().union(*known))
    others = f" (and {len(trained) - 1} others)" if len(trained) > 1 else ""
    step = f"step {trained[-1]}{others}, " if trained else ""  # published repeats are of no step

    def values(key: str) -> str:
        found = [str(record[key]) for record in records if key in record]  # counts of repeats have no dtype
        return ", ".join(dict.fromkeys(found))

    hardware = values("gpu") if "cuda" in values("device") and values("gpu") else values("processor")
    stored = f" (stored as {values('quantisation')})" if values("quantisation") else ""
    begun = f", prompts begin with tokens {values('prefix')}" if values("prefix") else ""
    weights = f"{values('dtype')}{stored} on {values('device')}{begun} " if values("dtype") else "no weights "
    return (
        f"model {values('model')}, {step}seed {seed}, {weights}({hardware}), lmmem {values('lmmem')}, "
        f"torch {values('torch')}, transformers {values('transformers')}; measured "
        f"{max(record['date'] for record in records)} in {seconds:.0f} s"
    )


def _summary(folder: Path) -> dict[str, Any]:
    paths = list(folder.glob("*.parquet"))
    parts = [found for path in paths if (found := record_of(path)) and found[0].keys() >= COLUMNS]
    records, rows = [record for record, _ in parts], sum(rows for _, rows in parts)
    of = max((record["of"] for record in records), default=0)
    first = records[0] if records else {}
    return {
        "kind": folder.parent.name,
        "model": first.get("model"),
        "step": first.get("step"),
        "rows": rows,
        "complete": rows / of if of else float(bool(parts)),
        "parts": len(parts),
        "damaged": len(paths) - len(parts),
        "mb": sum(path.stat().st_size for path in paths) / 1e6,
        "lmmem": ", ".join(sorted({record["lmmem"] for record in records})),
        "commit": ", ".join(sorted({record["commit"] for record in records})),
        "measured": max((record["date"] for record in records), default=None),
        "current": all(record["code"] == code_hash() for record in records),
        "folder": str(folder),
    }


def _key(known: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
