"""What others have measured on the same rows, read from the Hub by range. Knows no weights."""

from __future__ import annotations

import io
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from lmmem.hub import HubFile, Listing, listing
from lmmem.models import MODELS
from lmmem.protocol import PROMPT
from lmmem.rows import as_row_numbers

__all__ = ["counts_id", "duplicate_counts", "has_counts", "memorised_rows"]

# Card of EleutherAI/pythia-memorized-evals: 32 tokens of prompt whose greedy continuation by the
# fully trained model equals the next 32; columns index and tokens (64); a split for each model.
MEMORISED = "EleutherAI/pythia-memorized-evals"
# Prashanth et al. 2025, "Recite, Reconstruct, Recollect": exact counts of the 32-gram at offset 32 of
# every row, at whatever place it recurs; columns as read by calculate_metrics.py of EleutherAI/semantic-memorization.
DUPLICATES = {False: "usvsnsp/duped-num-duplicates", True: "usvsnsp/deduped-num-duplicates"}
SPLIT_SIZES = ("70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
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
    PermissionError, ConnectionError : as for :func:`lmmem.hub.listing`.
    """
    match = re.fullmatch(r"pythia(.+?)(-deduped)?", name)
    if name not in MODELS or not match or match[1] not in SPLIT_SIZES:
        raise ValueError(
            f"no memorised rows are published for {name}; they are for pythia{{{','.join(SPLIT_SIZES)}}} "
            "and these with -deduped"
        )
    split = f"{'deduped' if match[2] else 'duped'}.{match[1]}"
    listed = listing(MEMORISED, repo_type="dataset")
    files = _parquet_files(listed, rf"(.*/)?{re.escape(split)}-[^/]*\.parquet")
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
    ValueError : there are no counts for this model or for one of the rows, or one is below 1.
    TypeError, IndexError : a row is no whole number, or negative.
    PermissionError, ConnectionError : as for :func:`lmmem.hub.listing`.
    """
    listed = _counts(name)
    wanted = as_row_numbers(index)
    unique, place = np.unique(wanted, return_inverse=True)
    counts = np.full(len(unique), -1, dtype=np.int64)
    for file in _parquet_files(listed, r".*\.parquet"):
        leaves = [file.metadata.schema.column(i).path for i in range(file.metadata.num_columns)]
        if ROW not in leaves or COUNT not in leaves:
            raise ValueError(f"{listed.repo} has columns {', '.join(leaves)}: {ROW} and {COUNT} expected")
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group)
            bounds = rows.column(leaves.index(ROW)).statistics
            missing = unique[counts < 0]
            if bounds is not None and bounds.has_min_max:
                missing = missing[(missing >= bounds.min) & (missing <= bounds.max)]
            if not len(missing) or not rows.num_rows:
                continue
            table = file.read_row_group(group, columns=[ROW, COUNT])
            known, first = np.unique(table[ROW].to_numpy(), return_index=True)
            found = np.searchsorted(known, unique).clip(max=len(known) - 1)
            here = (known[found] == unique) & (counts < 0)
            counts[here] = table[COUNT].to_numpy()[first[found]][here]
            if (counts[here] < 1).any():
                raise ValueError(f"{listed.repo} counts row {unique[here & (counts < 1)][0]} less than once")
    if (counts < 0).any():
        raise ValueError(f"{listed.repo} has no count for row {unique[counts < 0][0]}")
    return counts[place.reshape(wanted.shape)]


def counts_id(name: str) -> str:
    """What tells these published counts from others: repository and commit."""
    listed = _counts(name)
    return f"{listed.repo}@{listed.commit}"


def has_counts(name: str) -> bool:
    """Whether repeats are published for the training data of a model.

    >>> has_counts("pythia1b"), has_counts("amber7b")
    (True, False)
    """
    return name.startswith("pythia") and MODELS[name].order is not None


def _counts(name: str) -> Listing:
    if not has_counts(name):
        raise ValueError(f"no counts are published for the training data of {name}; they are for the Pile of Pythia")
    return listing(DUPLICATES["deduped" in name], repo_type="dataset")


class _HubStream(io.RawIOBase):
    """A file of the Hub that is fetched where it is read."""

    def __init__(self, file: HubFile) -> None:
        self.file, self.position = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.file.size}[whence]
        return self.position

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        stop = min(self.position + len(buffer), self.file.size)
        if stop <= self.position:
            return 0
        data = self.file.read(self.position, stop)
        buffer[: len(data)] = data
        self.position = stop
        return len(data)


def _parquet_files(listed: Listing, pattern: str) -> list[pq.ParquetFile]:
    paths = sorted(path for path in listed.files if re.fullmatch(pattern, path))
    if not paths:
        raise ValueError(
            f"{listed.repo}@{listed.commit[:12]} has no file {pattern}: it is laid out otherwise than it was"
        )
    return [pq.ParquetFile(_HubStream(listed.files[path]), pre_buffer=True) for path in paths]
