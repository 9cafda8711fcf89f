"""Training data in training order: which sequence was seen at which step. Knows no weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from lmmem.models import MODELS
from lmmem.pocket.recipe import RECIPES

__all__ = ["Corpus", "training_data"]

PYTHIA_ROW_TOKENS = 2_049  # pythia/README, "Exploring the Dataset": uint16 rows of 2,049 tokens
PYTHIA_ROWS_PER_STEP = 1_024  # Biderman et al. 2023, batch size in sequences


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Sequences in the order in which a model was trained on them.

    ``corpus[i]`` is one sequence (w,), ``corpus[a:b]`` and ``corpus[array]`` are (n, w), all int64,
    the last in the order of the array. Rows past the last trained one are held out.

    Attributes
    ----------
    rows : (n, w) integers, usually memory-mapped.
    rows_per_step : sequences per optimizer step.
    steps : optimizer steps of the whole training.
    canaries : for an organism, one line a canary: canary, block, group, presentations,
        z_complexity, index (of its first presentation, or where it lies held out),
        exposure_step (NA if unexposed); else None.
    presented : for an organism, one line a presentation: canary, step (1-based: the first weights
        that have been trained on it), index; else None.
    """

    rows: np.ndarray
    rows_per_step: int
    steps: int
    canaries: pd.DataFrame | None = None
    presented: pd.DataFrame | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def trained_rows(self) -> int:
        """Number of rows the whole training covers; rows at and after it are held out."""
        return self.rows_per_step * self.steps

    def __getitem__(self, index: int | slice | ArrayLike) -> np.ndarray:
        if isinstance(index, slice):
            return np.asarray(self.rows[index]).astype(np.int64)
        return np.asarray(self.rows[self._checked(index)]).astype(np.int64)

    def at_step(self, step: int) -> np.ndarray:
        """The sequences that optimizer step `step` (0-based) trains on: (rows_per_step, w) int64."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} is outside training, which has steps 0 .. {self.steps - 1}")
        return self[step * self.rows_per_step : (step + 1) * self.rows_per_step]

    def exposure_step(self, index: int | ArrayLike) -> int | np.ndarray:
        """The first step whose weights have been trained on row `index`: ``index // rows_per_step + 1``.

        A model at a step at or above it is exposed to that row (which says nothing of other rows
        with the same tokens); held-out rows give a step after the last.
        """
        wanted = self._checked(index)
        step = wanted // self.rows_per_step + 1
        return int(step) if wanted.ndim == 0 else step

    def _checked(self, index: ArrayLike) -> np.ndarray:
        wanted = np.asarray(index)
        if wanted.size == 0:
            wanted = wanted.astype(np.int64)
        if not np.issubdtype(wanted.dtype, np.integer):
            raise TypeError(f"an index is a whole number, a slice, or an array of whole numbers; got {wanted.dtype}")
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            bad = wanted.min() if wanted.min() < 0 else wanted.max()
            raise IndexError(f"index {bad} is outside the corpus, which has rows 0 .. {len(self) - 1}")
        return wanted


def training_data(name: str, path: str | Path | None = None) -> Corpus:
    """The training data of a model, in training order.

    Parameters
    ----------
    name : a key of ``MODELS``.
    path : for Pythia, the joined file of the pre-shuffled Pile; organisms need none.

    Raises
    ------
    ValueError : unknown model, or a model whose order this version cannot read.
    FileNotFoundError : the data are missing; the message says what to fetch and how large it is.

    >>> corpus = training_data("pocket-mini")
    >>> corpus[[7, 3]].shape
    (2, 96)
    """
    info = MODELS[name]
    if name in RECIPES:
        return _organism(name)
    if info.hub_id is None or not info.hub_id.startswith("EleutherAI/pythia"):
        raise ValueError(f"this version cannot read the training data of {name!r} in order; try 'pocket' or 'pythia1b'")
    if path is None or not Path(path).is_file():
        raise FileNotFoundError(
            f"the training data of {name} are not at {path}: join the 21 shards of the Hub data set "
            "EleutherAI/pile-standard-pythia-preshuffled (600 GB) into one file and give its path"
        )
    size = Path(path).stat().st_size
    n, rest = divmod(size, 2 * PYTHIA_ROW_TOKENS)
    if rest:
        raise ValueError(f"{path} holds {size} bytes, no multiple of a row's {2 * PYTHIA_ROW_TOKENS}: it is not whole")
    rows = np.memmap(path, dtype=np.uint16, mode="r", shape=(n, PYTHIA_ROW_TOKENS))
    return Corpus(rows, PYTHIA_ROWS_PER_STEP, steps=info.steps[-1])


def _organism(name: str) -> Corpus:
    from lmmem.pocket.data import data_folder

    folder, recipe = data_folder(name), RECIPES[name]
    rows = np.load(folder / "rows.npy", mmap_mode="r")
    presented = pd.read_parquet(folder / "presented.parquet")
    presented["step"] += 1  # from the step that trains on it to the first weights that know it
    canaries = pd.read_parquet(folder / "canaries.parquet")
    first = presented.groupby("canary")[["index", "step"]].first()
    canaries["index"] = first["index"].to_numpy()
    canaries["exposure_step"] = (
        first["step"].astype("Int64").mask(first["index"] >= recipe.steps * recipe.rows_per_step)
    )
    return Corpus(rows, recipe.rows_per_step, recipe.steps, canaries, presented)
