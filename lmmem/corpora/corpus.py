"""Training data in training order: :func:`training_data` gives a :class:`Corpus`, ``corpus[i]`` a sequence.

Whoever asks about a sequence asks it for tokens, and for the step from which on it has been seen.
Knows no weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from lmmem.corpora.row_store import RowStore
from lmmem.corpora.rows import ChunkedRows, FixedRows, JsonLines, as_row_numbers, read_megatron
from lmmem.models.registry import MODELS, Order
from lmmem.storage.files import DamagedError, cache_folder
from lmmem.storage.ranges import LocalFile

if TYPE_CHECKING:
    from lmmem.storage.hub import HubFile

__all__ = ["Corpus", "training_data"]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Sequences in the order in which a model was trained on them.

    ``corpus[i]`` is one sequence (w,), ``corpus[a:b]`` and ``corpus[array]`` are (n, w), all int64,
    the last in the order of the array. Rows past the last trained one are held out.

    Attributes
    ----------
    rows : (n, w) integers: an array, a memory map, or what :mod:`lmmem.corpora.rows` gives.
    rows_per_step : sequences per optimizer step.
    steps : optimizer steps of the whole training.
    vocabulary : a token at or above it is damage, and refused; None checks nothing.
    exposure_lag : steps from the one that trains on a row to the first weights that know it.
    canaries : for an organism, one line a canary: canary, block, group, presentations,
        z_complexity, reference_loss (nats per token, of the organism that never meets it), file (it
        comes from), index (of its first presentation, or where it lies held out), exposure_step and
        last_step (of the first and the last presentation; NA if unexposed); else None.
    presented : for an organism, one line a presentation: canary, step (1-based: the first weights
        that have been trained on it), index; else None.
    prefix : token ids that a model is given before each row when it is asked about it; no part of the row.
    of_base, treated : for a derived organism, the rows that present passages of its base, and those that hide or erase
        its own; else none.

    >>> corpus = Corpus(np.arange(40).reshape(8, 5), rows_per_step=2, steps=3)  # of your own, of 5 tokens a row
    >>> corpus[[7, 1]].tolist(), corpus.at_step(1).tolist()
    ([[35, 36, 37, 38, 39], [5, 6, 7, 8, 9]], [[10, 11, 12, 13, 14], [15, 16, 17, 18, 19]])
    >>> corpus.exposure_step([0, 1, 2, 7]).tolist(), corpus.trained_rows  # rows 6 and 7 are held out
    ([1, 1, 2, 4], 6)
    """

    rows: Any
    rows_per_step: int
    steps: int
    vocabulary: int | None = None
    exposure_lag: int = 1
    canaries: pd.DataFrame | None = None
    presented: pd.DataFrame | None = None
    prefix: tuple[int, ...] = ()
    of_base: Sequence[int] | np.ndarray = ()
    treated: Sequence[int] | np.ndarray = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def presentations(self) -> np.ndarray | None:
        """The rows that present a canary, of a derived organism also one of its base; None where there are none."""
        if self.presented is None:
            return None
        return np.concatenate([self.presented["index"], self.of_base]).astype(np.int64)

    @property
    def trained_rows(self) -> int:
        """Row numbers that the whole training covers (of Amber, set aside); those at and after it are held out."""
        return self.rows_per_step * self.steps

    def __getitem__(self, index: int | slice | ArrayLike) -> np.ndarray:
        index = index if isinstance(index, slice) else as_row_numbers(index, len(self))
        rows = np.asarray(self.rows[index]).astype(np.int64)
        if self.vocabulary is not None and rows.size and (rows.min() < 0 or rows.max() >= self.vocabulary):
            raise DamagedError(
                f"these rows hold tokens {rows.min()} .. {rows.max()}; the vocabulary is 0 .. {self.vocabulary - 1}"
            )
        return rows

    def at_step(self, step: int) -> np.ndarray:
        """The sequences that optimizer step `step` (0-based) trains on: (rows_per_step, w) int64."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} is outside training, which has steps 0 .. {self.steps - 1}")
        first, last = step * self.rows_per_step, (step + 1) * self.rows_per_step
        if last > len(self):
            raise IndexError(
                f"step {step} trains on rows {first} .. {last - 1}, and the order that is published ends at row "
                f"{len(self) - 1}: what came after it, in a second epoch, is not known here"
            )
        return self[first:last]

    def exposure_step(self, index: int | ArrayLike) -> int | np.ndarray:
        """The first step whose weights have been trained on row `index`: ``index // rows_per_step + lag``.

        A model at a step at or above it is exposed to that row (which says nothing of other rows
        with the same tokens); held-out rows give a step after the last.
        """
        wanted = as_row_numbers(index, len(self))
        step = wanted // self.rows_per_step + self.exposure_lag
        return int(step) if wanted.ndim == 0 else step


def training_data(name: str, path: str | Path | None = None, rows_per_step: int | None = None) -> Corpus:
    """The training data of a model, in training order.

    With nothing downloaded before: rows of Pythia and Amber are fetched from the Hub as they are
    asked for, by the kilobyte, and kept.

    Parameters
    ----------
    name : a key of ``MODELS``.
    path : a copy on this machine instead. For Pythia the joined file, a folder of its shards, an
        ``.npy`` file, or Megatron's ``.bin`` with its ``.idx``; for Amber a folder of ``train_*.jsonl``; for
        a model whose training order is not known here, its rows in that order as ``.npy`` or Megatron's.
    rows_per_step : sequences per optimizer step, of such a model.

    Returns
    -------
    Row i of Pythia is ``corpus[i]``; line i of Amber's chunk c is ``corpus[10_000_000 * c + i]``.

    Raises
    ------
    ValueError : unknown model, a model whose training order is not published, or files that do not
        hold such rows.
    FileNotFoundError : there is nothing at `path`.
    PermissionError, ConnectionError : as for :func:`lmmem.storage.hub.listing`.

    >>> corpus = training_data("pocket-mini")
    >>> corpus[[7, 3]].shape
    (2, 96)
    """
    order = MODELS[name].order
    if order is not None and order.layout == "organism":
        if path is not None or rows_per_step is not None:
            raise ValueError(
                f"the training data of {name} are made on this machine: leave out what says where they are, "
                f"got path={path}, rows_per_step={rows_per_step}"
            )
        return _organism(name, order)
    path = None if path is None else Path(path)
    if path is not None and not path.exists():
        raise FileNotFoundError(f"there is nothing at {path}; without a path, rows are fetched as they are asked for")
    if order is None and path is not None and rows_per_step is not None:
        return _own(path, rows_per_step)
    if order is not None and rows_per_step is not None:
        raise ValueError(f"{name} is known to train on {order.rows_per_step:,} rows a step: leave rows_per_step out")
    if order is None or (order.repo is None and path is None):
        raise ValueError(
            f"the training data of {name!r} in order are not known here: give them as a path"
            + (" with rows_per_step" if order is None else "")
            + ", or as an array, lmmem.Corpus(rows, rows_per_step, steps)"
        )
    rows = {"shards": _shards, "chunks": _chunks}[order.layout](order, path)
    return Corpus(rows, order.rows_per_step, order.steps, order.vocabulary, order.exposure_lag)


def _own(path: Path, rows_per_step: int) -> Corpus:
    """Rows of one's own: as many steps as they make."""
    if isinstance(rows_per_step, bool) or not isinstance(rows_per_step, int) or rows_per_step < 1:
        raise ValueError(f"rows_per_step={rows_per_step!r}: give a whole number of sequences, 1 or more")
    if path.suffix == ".npy":
        rows = np.load(path, mmap_mode="r")
    elif path.suffix == ".bin" and path.with_suffix(".idx").exists():
        rows = read_megatron(path)
    else:
        raise ValueError(f"{path}: rows of token ids are read from .npy, or Megatron's .bin with its .idx beside it")
    rows = _checked_rows(rows, path, rows.shape[1] if rows.ndim == 2 else 0)
    return Corpus(rows, rows_per_step, len(rows) // rows_per_step)


def _shards(order: Order, path: Path | None) -> Any:
    """Rows of uint16 tokens, without a header, in files of sizes that cut through rows; or a copy of them."""
    if path is None:
        from lmmem.storage.hub import listing

        listed = listing(str(order.repo), repo_type="dataset")
        where = f"{listed.repo}@{listed.commit[:12]}"
        shards = _in_order(sorted(path for path in listed.files if path.endswith(".bin")), where)
        files = [listed.files[shard] for shard in shards]
        return FixedRows(files, order.row_tokens, order.vocabulary, _store(order, *files))
    if path.is_dir():
        shards = _in_order(sorted(str(shard) for shard in path.glob("*.bin")), str(path))
        here = [LocalFile(Path(shard)) for shard in shards]
        for file in here[1:]:  # all are of one size but the last: a copy that broke off would move the rows after it
            if file.size > here[0].size or (file.size < here[0].size and file is not here[-1]):
                raise ValueError(
                    f"{file} has {file.size:,} bytes and {here[0].path.name} {here[0].size:,}: "
                    "shards are of one size, but for the last, which may be smaller; one is not whole"
                )
        return FixedRows(here, order.row_tokens, order.vocabulary)
    if path.suffix == ".npy":
        return _checked_rows(np.load(path, mmap_mode="r"), path, order.row_tokens)
    if path.suffix == ".bin" and path.with_suffix(".idx").exists():
        return _checked_rows(read_megatron(path), path, order.row_tokens)
    return FixedRows([LocalFile(path)], order.row_tokens, order.vocabulary)


def _checked_rows(rows: np.ndarray, path: Path, width: int) -> np.ndarray:
    if rows.ndim != 2 or rows.shape[1] != width or rows.dtype.kind not in "iu":
        raise ValueError(f"{path} holds {rows.dtype} of shape {rows.shape}, not rows of {width} token ids")
    return rows


def _in_order(paths: list[str], where: str) -> list[str]:
    """Shards, if none is missing: ``document-00000-of-00020.bin`` .. ``document-00020-of-00020.bin``."""
    found = [re.search(r"-(\d+)-of-(\d+)\.bin$", path) for path in paths]
    places = [(int(match[1]), int(match[2])) for match in found if match]
    whole = [place for place, _ in places] == list(range(len(paths))) and len({of for _, of in places}) == 1
    if not places or not whole or places[-1][0] != places[-1][1]:
        raise ValueError(
            f"{where} does not hold every shard document-00000-of-N.bin .. document-N-of-N.bin of the Pile: "
            f"found {', '.join(Path(path).name for path in paths) or 'none'}"
        )
    return paths


def _chunks(order: Order, folder: Path | None) -> ChunkedRows:
    """JSON Lines files, each opened when a row of it is asked for."""

    def open_chunk(chunk: int) -> JsonLines:
        name = f"train_{chunk:03d}.jsonl"
        if folder is not None:
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} has no {name}")
            return JsonLines(LocalFile(folder / name), order.row_tokens, order.vocabulary)
        from lmmem.storage.hub import listing

        listed = listing(str(order.repo), repo_type="dataset")
        if f"train/{name}" not in listed.files:
            raise ValueError(f"{listed.repo}@{listed.commit[:12]} has no train/{name}")
        file = listed.files[f"train/{name}"]
        store = _store(order, file)
        return JsonLines(file, order.row_tokens, order.vocabulary, store.folder / "line_ends", store)

    return ChunkedRows(open_chunk, order.steps, order.rows_per_step, order.row_tokens)


def _store(order: Order, *files: HubFile) -> RowStore:
    """Where the rows of these very contents are kept: other contents have another folder."""
    contents = "\n".join(f"{file.path} {file.size} {file.etag}" for file in files)
    name = f"{files[0].repo.replace('/', '--')}-{hashlib.sha256(contents.encode()).hexdigest()[:16]}"
    return RowStore(cache_folder() / "rows" / name, order.row_tokens)


def _organism(name: str, order: Order) -> Corpus:
    from lmmem.pocket.organisms import data_folder
    from lmmem.pocket.recipe import DERIVED

    folder = data_folder(name)
    rows = np.load(folder / "rows.npy", mmap_mode="r")
    presented = pd.read_parquet(folder / "presented.parquet")
    others: dict[str, Any] = {}
    if (recipe := DERIVED.get(name)) is not None:
        others["of_base"] = pd.read_parquet(data_folder(recipe.base) / "presented.parquet")["index"].to_numpy()
        others["treated"] = recipe.treated_rows
    presented["step"] += 1  # from the step that trains on it to the first weights that know it
    canaries = pd.read_parquet(folder / "canaries.parquet")
    met = presented.groupby("canary").step
    canaries["exposure_step"] = canaries.canary.map(met.min()).astype("Int64")
    canaries["last_step"] = canaries.canary.map(met.max()).astype("Int64")
    return Corpus(rows, order.rows_per_step, order.steps, canaries=canaries, presented=presented, **others)
