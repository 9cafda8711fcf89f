"""What others have published of the same rows: which are recited, and how often they recur. Read by range.

Verification compares with the one, page 01 counts by the other. Knows no weights.
"""

from __future__ import annotations

import functools
import numbers
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from lmmem.corpora.rows import as_row_numbers
from lmmem.models.registry import MODELS
from lmmem.protocol import PROMPT
from lmmem.storage.files import DamagedError
from lmmem.storage.hub import HubFile, Listing, listing
from lmmem.storage.ranges import opened

__all__ = ["counts_id", "duplicate_counts", "has_counts", "memorised_rows"]

# Card of EleutherAI/pythia-memorized-evals: 32 tokens of prompt whose greedy continuation by the
# fully trained model equals the next 32; columns index and tokens (64); a split for each model.
MEMORISED = "EleutherAI/pythia-memorized-evals"
# Columns as read by calculate_metrics.py of EleutherAI/semantic-memorization: exact counts of the 32-gram at
# offset 32 of every row, at whatever place it recurs.
ROW, COUNT = "Index", "Counts"
GROUPS_READ = 4  # row groups that a sample is drawn from


def memorised_rows(name: str, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows that a model is known to have memorised, and how they begin: an independent account.

    Parameters
    ----------
    name : "pythia1b", "pythia1b-deduped" or another of the eight sizes with a published list.
    n : how many; drawn from a few parts of the list, so that little of it is fetched.
    seed : chooses them.

    Returns
    -------
    index (n,) int64, ascending, and tokens (n, 64) int64: 32 of prompt, 32 of continuation.

    Raises
    ------
    ValueError : no list is published for this model, or it has fewer rows than n.
    PermissionError, ConnectionError : as for :func:`lmmem.storage.hub.listing`.
    """
    split = MODELS[name].memorised
    if split is None:
        there_are = ", ".join(info.name for info in MODELS.values() if info.memorised)
        raise ValueError(f"no memorised rows are published for {name}; they are for {there_are}")
    listed = listing(MEMORISED, repo_type="dataset")
    shards = _parquet_files(listed, rf"(.*/)?{re.escape(split)}-[^/]*\.parquet")
    files = [pq.ParquetFile(opened(file), pre_buffer=True) for file in shards]
    groups = [(file, group) for file in files for group in range(file.metadata.num_row_groups)]
    sizes = [file.metadata.row_group(group).num_rows for file, group in groups]
    if not 1 <= n <= sum(sizes):
        raise ValueError(f"n={n}: give a whole number from 1 to the {sum(sizes)} rows of split {split}")
    random = np.random.default_rng(seed)
    order = random.permutation(len(groups))
    enough = int(np.searchsorted(np.cumsum(np.array(sizes)[order]), n)) + 1
    tables = []
    for place in sorted(order[: max(enough, min(GROUPS_READ, len(groups)))]):
        file, group = groups[place]
        tables.append(file.read_row_group(group, columns=["index", "tokens"]))
    table = pa.concat_tables(tables)
    table = table.take(np.sort(random.choice(len(table), n, replace=False)))
    tokens = np.array(table["tokens"].to_pylist(), dtype=np.int64)
    if tokens.shape != (n, 2 * PROMPT):
        raise ValueError(f"{MEMORISED}, split {split}: expected {2 * PROMPT} tokens a row, got {tokens.shape}")
    index = table["index"].to_numpy().astype(np.int64)
    order = np.argsort(index)
    return index[order], tokens[order]


def duplicate_counts(name: str, index: ArrayLike) -> np.ndarray:
    """How often the 32-gram at offset 32 of each row stands in the whole training data, as published.

    Parameters
    ----------
    name : a Pythia model of the standard or the deduplicated Pile.
    index : rows, whole numbers.

    Returns
    -------
    (n,) int64, in the order of `index`.

    Raises
    ------
    ValueError : there are no counts for this model or for one of the rows.
    DamagedError : a count is no whole number of 1 or more, or a row has two that differ; file and row are named.
    TypeError, IndexError : a row is no whole number, or negative.
    PermissionError, ConnectionError : as for :func:`lmmem.storage.hub.listing`.
    """
    listed = _counts(name)
    wanted = as_row_numbers(index)
    unique, place = np.unique(wanted, return_inverse=True)
    with ThreadPoolExecutor() as pool:
        files = pool.map(functools.partial(_counted, rows=unique), _parquet_files(listed, r".*\.parquet"))
        known = pd.concat(files, ignore_index=True)
    known = known.drop_duplicates([ROW, COUNT])
    again = known[known[ROW].duplicated()]
    if len(again):
        row, count, file = again.iloc[0]
        first = known[COUNT][known[ROW] == row].iloc[0]
        raise DamagedError(f"{file} counts row {row} {count} times, and elsewhere it is counted {first} times")
    counts = known.set_index(ROW)[COUNT].reindex(unique)
    if counts.isna().any():
        raise ValueError(f"{listed.repo} has no count for row {unique[counts.isna()][0]}")
    return counts.to_numpy().astype(np.int64)[place.reshape(wanted.shape)]


def _counted(file: HubFile, rows: np.ndarray) -> pd.DataFrame:
    """The lines of one file that count some of these rows, which ascend, and the file's name."""
    fragment = ds.ParquetFileFormat().make_fragment(opened(file))
    columns = fragment.physical_schema.names
    if ROW not in columns or COUNT not in columns:
        raise ValueError(f"{file} has columns {', '.join(columns)}: {ROW} and {COUNT} expected")
    index = ds.field(ROW)
    asked = index.isin(rows)
    if len(rows):  # `isin` alone passes over row groups up to 50 values: Arrow's kIsInSimplificationMaxValueSet
        asked &= (index >= rows[0]) & (index <= rows[-1])
    known = fragment.to_table(columns=[ROW, COUNT], filter=asked).to_pandas().dropna()
    for row, count in known.itertuples(index=False):
        if not isinstance(count, numbers.Real) or count < 1 or count % 1:
            raise DamagedError(f"{file} counts row {row} {count!s} times: a whole number of 1 or more is expected")
    return known.astype(np.int64).assign(file=str(file))


def counts_id(name: str) -> str:
    """What tells these published counts from others: repository and commit."""
    listed = _counts(name)
    return f"{listed.repo}@{listed.commit}"


def has_counts(name: str) -> bool:
    """Whether repeats are published for the training data of a model.

    >>> has_counts("pythia1b"), has_counts("amber7b")
    (True, False)
    """
    order = MODELS[name].order
    return order is not None and order.counts is not None


def _counts(name: str) -> Listing:
    if not has_counts(name):
        raise ValueError(f"no counts are published for the training data of {name}; they are for the Pile of Pythia")
    return listing(str(MODELS[name].order.counts), repo_type="dataset")  # type: ignore[union-attr]


def _parquet_files(listed: Listing, pattern: str) -> list[HubFile]:
    paths = sorted(path for path in listed.files if re.fullmatch(pattern, path))
    if not paths:
        raise ValueError(
            f"{listed.repo}@{listed.commit[:12]} has no file {pattern}: it is laid out otherwise than it was"
        )
    return [listed.files[path] for path in paths]
