"""What the paper's authors measured on Pythia-1B, as they published it. Fetched once, and checked.

Knows no weights and no tokens, and not what may be concluded.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pooch
import pyarrow as pa
import pyarrow.parquet as pq

from lmmem.models.registry import PILE
from lmmem.protocol import CONTINUATION
from lmmem.storage.files import DamagedError, cache_folder, sha256_of

__all__ = ["COMMIT", "REPOSITORY", "SHA256", "STEPS", "URL", "authors_measurements"]

# notebooks/analysis.ipynb of this repository joins what is in the file; Parquet, in spite of its name. Apache-2.0.
REPOSITORY, COMMIT = "sunnyddelight/latent_memorization", "aa35a9251fef3fa866141f9d7a9516234bac5e88"
URL = f"https://raw.githubusercontent.com/{REPOSITORY}/{COMMIT}/notebooks/analysis.parquet.gzip"
SHA256 = "5729650dfd5223166d86ec1de72c8accc80029de6bad71676f9460eff6fb17d3"
STEPS = tuple(range(10_000, 20_000, 1_000))
# The rows, of the pre-shuffled Pile (scripts/eval_memorization.py): one in twenty from here on, until step 11,000.
FIRST, EVERY = STEPS[0] * PILE.rows_per_step, 20
# analysis.ipynb: "30" is how many rows of the 1,024,000 after a step share a run of 30 tokens or more with the row,
# itself among them; what lies before step 10,000 is not counted.
READ = {"lev": "kl_ld", "30": "repeats", "complexity": "z_complexity"}


def authors_measurements(file: str | Path | None = None, *, url: str = URL, sha256: str = SHA256) -> pd.DataFrame:
    """How far Pythia-1B's greedy continuations are from the text, at checkpoints before and after it met the text.

    Parameters
    ----------
    file : where the file lies; None fetches it, 2.4 MB, once.
    url, sha256 : of the file.

    Returns
    -------
    One line a (row, step), by index and step: index (in training order), exposure_step, step, kl_ld (tokens, of 64),
    repeats (rows from `step` to 1,000 steps later that share a run of 30 tokens with it, itself among them),
    z_complexity (the authors' column complexity).

    Raises
    ------
    ValueError : there is no such file; or it has other columns, steps or rows than those whose meaning is known.
    ConnectionError : it cannot be fetched; the message says from where, so that another machine can.
    DamagedError : the file is another than the one that was published.
    """
    path = _fetched(url, sha256) if file is None else Path(file)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; without one it is fetched from {url}")
    if (got := sha256_of(path)) != sha256:
        raise DamagedError(f"{path} has SHA-256 {got}, and {sha256} was published: fetch it anew from {url}")
    try:
        found = pq.read_table(path).to_pandas().reset_index()
    except pa.ArrowException as error:
        raise DamagedError(f"{path} cannot be read as Parquet: {error}") from error
    if missing := {"index", "checkpoint", *READ} - set(found):
        raise ValueError(f"{path} has no column {', '.join(sorted(missing))}: it is laid out otherwise than published")
    table = found.rename(columns=READ | {"checkpoint": "step"}).sort_values(["index", "step"], ignore_index=True)
    rows = np.sort(table["index"].unique())
    if len(table) != len(rows) * len(STEPS) or (table.step.to_numpy().reshape(-1, len(STEPS)) != STEPS).any():
        raise ValueError(f"{path}: each row is wanted once at each of the steps {STEPS[0]:,} to {STEPS[-1]:,}")
    if rows[0] < FIRST or rows[-1] >= STEPS[1] * PILE.rows_per_step or (rows % EVERY != FIRST % EVERY).any():
        raise ValueError(f"{path}: rows are wanted that are met between steps {STEPS[0]:,} and {STEPS[1]:,}")
    if not table.kl_ld.between(0, CONTINUATION).all() or (table.repeats < 0).any():
        raise ValueError(f"{path}: lev is a number of tokens from 0 to {CONTINUATION}, and 30 counts rows")
    table["exposure_step"] = table["index"] // PILE.rows_per_step + PILE.exposure_lag
    return table[["index", "exposure_step", "step", *READ.values()]]


def _fetched(url: str, sha256: str) -> Path:
    """The file in the cache folder, fetched if it is not there."""
    pooch.get_logger().setLevel(logging.WARNING)  # what it fetches is told by the caller
    try:
        return Path(pooch.retrieve(url, f"sha256:{sha256}", "authors.parquet", cache_folder() / "published"))
    except OSError as error:
        raise ConnectionError(f"{url} cannot be fetched ({error}): fetch it elsewhere and give the file") from error
    except ValueError as error:  # the hash is another
        raise DamagedError(f"{url}: {error}") from error
