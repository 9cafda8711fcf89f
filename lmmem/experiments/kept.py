"""Tables of organisms in results/: a file for each, with its record, refused if its recipe is another by now.

replicates.py, relearning.py and probes.py keep what they measure here. Knows no column's meaning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lmmem.pocket.recipe import ORGANISMS
from lmmem.storage import tables
from lmmem.storage.files import DamagedError

__all__ = ["RESULTS", "keep", "tables_of"]

RESULTS = Path(__file__).parents[2] / "results"


def keep(found: pd.DataFrame, name: str, folder: Path, **record: Any) -> Path:
    """Write what was measured of an organism, and a record that says of which recipe; the file's path."""
    path = folder / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    tables.save(found, path, {"organism": name, "recipe": ORGANISMS[name].key, **record})
    return path


def tables_of(names: Sequence[str], folder: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """Those of these names that have a file in a folder, each with its table.

    Raises
    ------
    DamagedError : a file is not what was written, or of another recipe than the organism has now.
    """
    for name in names:
        path = folder / f"{name}.parquet"
        if path.exists():
            table, record = tables.load(path)
            if record["recipe"] != ORGANISMS[record["organism"]].key:
                raise DamagedError(f"{path} is of another recipe of {record['organism']}: make replicates")
            yield name, table
