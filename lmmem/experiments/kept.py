"""Tables in results/: of organisms, a file for each, refused if its recipe is another by now; of classes of models.

replicates.py, relearning.py and probes.py keep what they measure here. Knows no column's meaning.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lmmem.pocket.recipe import ORGANISMS
from lmmem.storage import tables
from lmmem.storage.files import DamagedError

__all__ = ["RESULTS", "causal_classes", "keep", "tables_of", "widened"]

RESULTS = Path(__file__).parents[2] / "results"


def keep(found: pd.DataFrame, name: str, folder: Path, **record: Any) -> Path:
    """Write what was measured of an organism, and a record that says of which recipe; the file's path."""
    path = folder / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    tables.save(found, path, {"organism": name, "recipe": ORGANISMS[name].key, **record})
    return path


def tables_of(names: Sequence[str], folder: Path) -> Iterator[tuple[str, pd.DataFrame, dict[str, Any]]]:
    """Those of these names that have a file in a folder, each with its table and its record.

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
            yield name, table, record


def widened(table: pd.DataFrame, *numbers: str) -> pd.DataFrame:
    """A table that was kept narrow, in types that can be computed with.

    Parameters
    ----------
    table : as it was kept. numbers : columns of floating point; whole numbers and categories are found.

    >>> narrow = pd.DataFrame({"kl_ld": [64], "loss": [2.5], "arm": ["a"]}).astype({"kl_ld": "int8", "loss": "float32"})
    >>> widened(narrow, "loss").dtypes.astype(str).to_dict()
    {'kl_ld': 'int64', 'loss': 'float64', 'arm': 'str'}
    """
    wide: dict[Any, str] = {column: "int64" for column in table.select_dtypes("integer")}
    wide |= {column: "float64" for column in numbers}
    return table.astype(wide | {column: "str" for column in table.select_dtypes("category")})


def causal_classes(path: Path = RESULTS / "classes.json") -> pd.DataFrame:
    """How lmmem takes each class of models that transformers loads as causal, as its tests found, small and random.

    Returns
    -------
    One line a kind of configuration, columns kind, class, is ("measured", "refused", "not built") and how (it is read,
    or why not); the version of transformers in ``.attrs``.

    >>> causal_classes().value_counts("is").index[0]
    'measured'
    """
    record = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        {"kind": kind, "how": found.get("how", found.get("why")), **found} for kind, found in record["classes"].items()
    ]
    table = pd.DataFrame(lines)[["kind", "class", "is", "how"]]
    table.attrs["transformers"] = record["transformers"]
    return table
