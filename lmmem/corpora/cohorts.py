"""What others have measured of a sample of rows over the training of the deduplicated Pythias. Fetched once a model.

Lesci et al. 2024, arXiv 2406.04327, "Causal Estimation of Memorisation Profiles". In tables `measured`, as
:mod:`lmmem.analysis.trajectories` says; knows no weights, no tokens, and not what may be concluded.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from lmmem.models.registry import MODELS, ROW_TOKENS
from lmmem.storage.files import DamagedError, sha256_of
from lmmem.storage.hub import HubFile, Listing, download, listing

__all__ = ["COHORTS", "cohorts_id", "published_cohorts"]

# Named in the collection of the paper's artefacts, huggingface.co/collections/pietrolesci, "memorisation-profiles":
# "the model evaluations for each model size included in the study and already aggregated at the sequence level".
COHORTS = "pietrolesci/pythia-deduped-stats"
# The Hub's Parquet branch of it holds a folder for each size, default/70m .. default/12b (its tree, as listed there);
# names of files as in huggingface.co/docs/dataset-viewer/parquet.
REVISION, FOLDER = "refs/convert/parquet", "default"
# Scripts named from here on are those of github.com/pietrolesci/memorisation-profiles. Models are
# EleutherAI/pythia-{size}-deduped (scripts/main.py, bin/export_runs.sh). There is no 1b; 2.8b is published too, but
# "excluded from the analysis" (README), without a reason.
SIZES = ("70m", "160m", "410m", "1.4b", "6.9b", "12b")
NAMES = {f"pythia{size}-deduped": size for size in SIZES}
EXCLUDED = "pythia2.8b-deduped"
# The viewer of its card: seq_idx int32, -166,182 .. 146M; step int32, 0 .. 143k; the others float64. Their meaning:
# scripts/export_runs.py. sup_seq is the mean of the surprisals of a row's tokens, entr_seq that of the entropies,
# acc_seq the share of tokens of rank 0, avg_rank the mean rank. Surprisal is the negative natural logarithm
# (compute_statistics in src/models.py, of log_softmax). The card has it from 0.14 to 11.5; in bits, untrained weights
# would have more than 15.
COLUMNS = {
    "seq_idx": pa.int32(),
    "step": pa.int32(),
    "sup_seq": pa.float64(),
    "entr_seq": pa.float64(),
    "acc_seq": pa.float64(),
    "avg_rank": pa.float64(),
}
READ = ("seq_idx", "step", "sup_seq", "acc_seq")
MOST = 12.0  # nats a token
# Of each row all tokens but the first (src/models.py; rows as in scripts/sample_pile.py and, of validation,
# SEQ_LENGTH in scripts/process_pile_validation.py). Shares of so many are whole multiples of 1 / 2,048, and exact.
TOKENS = ROW_TOKENS - 1
FIRST_NEVER = -100  # rows of the Pile's validation set are numbered from here down (process_pile_validation.py)
STEPS = tuple(range(0, 144_000, 1_000))  # check_runs in scripts/export_runs.py
# The data are read a second time from about step 98,000 on (EleutherAI/pythia, issue 144). The authors end at 95,000
# ("remove_dups" in scripts/compute_attgt.py), and so up to there nobody's account has a row met twice.
ONE_EPOCH = 95_000
MOST_MISSING = 0.01  # of the rows at a step; a step that lacks more is refused


def published_cohorts(
    name: str, steps: Sequence[int] | None = None, met: tuple[int, int] = (1, ONE_EPOCH)
) -> pd.DataFrame:
    """How likely rows were at checkpoints before and after the only time they were met, and rows never met.

    The sample is by chance: of every 1,000 steps 10, of each of these 10 rows; and 2,000 of the Pile's validation
    set, packed like them. The file of a model is fetched whole, once, and checked; of it only these lines are read.

    Parameters
    ----------
    name : "pythia70m-deduped", or 160m, 410m, 1.4b, 6.9b, 12b.
    steps : of the checkpoints, multiples of 1,000 up to 95,000, while the data were read for the first time; None
        is all of them.
    met : first and last exposure step of the rows that were met.

    Returns
    -------
    One line a (row, step), by index and step: model; index, a row of the deduplicated Pile in training order, or
    below 0 of the validation set; arm ("row 1" met once, "row 0" never met); presentations (1 or 0; in the first
    epoch, by row number: the text may recur in other rows); block (0); file (the cluster: of rows met their step, as
    one update learns them together; a row never met stands alone); exposure_step, last_step (missing where never
    met); step; cross_entropy (nats a token, the mean over the 2,048 tokens of a row that follow another). Weights
    were in bfloat16. Bits that :mod:`lmmem.analysis.event_study` makes of it are those of 64 tokens, on average over
    the row; the row has 32 times as many.

    Raises
    ------
    ValueError : nothing is published for this model; a step that was not measured, or that more than 1 % of the rows
        lack; no rows met then; columns, row numbers or tokens other than those whose meaning is known.
    DamagedError : the file is not the one that the Hub lists, or a line is said twice or is no number.
    PermissionError, ConnectionError : as for :func:`lmmem.storage.hub.listing`.

    Warns
    -----
    UserWarning : some rows, 1 % at most at any step, lack a step and are left out; says how many.
    """
    order = MODELS[name].order
    listed = _listed(name)
    wanted = np.array(_checked_steps(steps), dtype=np.int32)
    first, last = met
    if order is None or not 1 <= first <= last <= ONE_EPOCH:
        raise ValueError(f"met={met}: give first and last exposure step, from 1 to {ONE_EPOCH:,}")
    before = order.exposure_lag  # from the step that trains on a row to the first weights that know it
    rows = (first - before) * order.rows_per_step, (last - before + 1) * order.rows_per_step
    index, step = ds.field("seq_idx"), ds.field("step")
    chosen = step.isin(wanted) & ((index < 0) | ((index >= rows[0]) & (index < rows[1])))
    found = pd.concat([_read(file, chosen) for file in _files(listed, NAMES[name])], ignore_index=True)
    where = f"{name} in {listed.repo}"
    right = found.acc_seq * TOKENS
    if len(found) and not ((right % 1 == 0).all() and (right % 2 == 1).any()):  # all even: of half as many tokens
        raise ValueError(f"{where}: acc_seq is no share of {TOKENS:,} tokens, so it is not known what sup_seq is of")
    found = _complete(found, wanted, where)
    number = found.seq_idx.to_numpy(dtype=np.int64)
    exposed = number >= 0
    if not exposed.any() or exposed.all():
        raise ValueError(
            f"{where}: rows met from step {first:,} to {last:,} and rows never met are needed; one is missing"
        )
    exposure = pd.Series(number // order.rows_per_step + before, dtype="Int64").mask(~exposed)
    return pd.DataFrame(
        {
            "model": name,
            "index": number,
            "arm": np.where(exposed, "row 1", "row 0").astype(object),
            "presentations": exposed.astype(np.int64),
            "block": 0,
            "file": exposure.fillna(pd.Series(number)).to_numpy(dtype=np.int64),
            "exposure_step": exposure,
            "last_step": exposure,
            "step": found.step.to_numpy(dtype=np.int64),
            "cross_entropy": found.sup_seq.to_numpy(),
        }
    )


def cohorts_id(name: str) -> str:
    """What tells these published measurements of a model from others: repository and commit."""
    listed = _listed(name)
    return f"{listed.repo}@{listed.commit}"


def _listed(name: str) -> Listing:
    if MODELS[name].name == EXCLUDED:
        raise ValueError(f"what is published for {name} its authors left out, and do not say why: it is not read")
    if name not in NAMES:
        raise ValueError(f"no losses over training are published for {name}; they are for {', '.join(NAMES)}")
    return listing(COHORTS, REVISION, repo_type="dataset")


def _checked_steps(steps: Sequence[int] | None) -> list[int]:
    if steps is None:
        return [step for step in STEPS if step <= ONE_EPOCH]
    wanted = sorted(set(steps))
    if len(wanted) < 2:
        raise ValueError(f"steps={list(steps)}: give two or more, as there is no after without a before")
    for step in wanted:
        if step not in STEPS:
            near = min(STEPS, key=lambda known: abs(known - step))
            raise ValueError(f"step {step} was not measured; nearest: {near} (every 1,000 from 0 to {ONE_EPOCH:,})")
        if step > ONE_EPOCH:
            raise ValueError(
                f"step {step}: the deduplicated Pile is read a second time from about step 98,000 on, and rows are not "
                f"met once any more; give steps up to {ONE_EPOCH:,}"
            )
    return wanted


def _files(listed: Listing, size: str) -> list[HubFile]:
    folder = f"{FOLDER}/{size}/"
    files = [listed.files[path] for path in sorted(listed.files) if path.startswith(folder)]
    if not files or not all(file.path.endswith(".parquet") for file in files):
        raise ValueError(
            f"{listed.repo}@{listed.commit[:12]} has no folder {folder} of Parquet files alone: "
            "it is laid out otherwise than it was"
        )
    return files


def _read(file: HubFile, chosen: ds.Expression) -> pd.DataFrame:
    """The chosen lines of one file, if it is whole, and each of its columns is known."""
    path = _whole(file)
    try:
        data = ds.dataset(path, format="parquet")
        there = {field.name: field.type for field in data.schema}
        if there != COLUMNS:
            told = ", ".join(f"{column} {kind}" for column, kind in there.items())
            wanted = ", ".join(f"{column} {kind}" for column, kind in COLUMNS.items())
            raise ValueError(f"{file} has columns {told}; {wanted} expected")
        found = data.to_table(columns=list(READ), filter=chosen).to_pandas()
    except pa.ArrowException as error:
        raise DamagedError(f"{file} cannot be read as Parquet: {error}") from error
    if bad := int((~found.sup_seq.between(0, MOST)).sum()):
        raise DamagedError(f"{file} has {bad} of {len(found)} lines whose sup_seq is no number of nats, 0 to {MOST:g}")
    unknown = found.seq_idx[(found.seq_idx < 0) & (found.seq_idx > FIRST_NEVER)]
    if len(unknown):
        raise ValueError(f"{file} has a row {unknown.iloc[0]}: rows never met are known by {FIRST_NEVER} and below")
    return found


def _whole(file: HubFile) -> Path:
    """The file here, with the SHA-256 that the Hub gives for it."""
    path = download(file)
    if (got := sha256_of(path)) != file.etag:
        raise DamagedError(f"{file} has SHA-256 {got}, and {file.etag} is listed: delete {path}, and try again")
    return path


def _complete(found: pd.DataFrame, wanted: np.ndarray, where: str) -> pd.DataFrame:
    """The rows that have each step once, by row and step; refused where a step is missing or a line is there twice."""
    if missing := sorted(set(wanted.tolist()) - set(found.step)):
        raise ValueError(f"{where}: no row has step {', '.join(map(str, missing))}: leave it out of steps")
    twice = found[found.duplicated(["seq_idx", "step"])]
    if len(twice):
        raise DamagedError(f"{where}: row {twice.seq_idx.iloc[0]} has step {twice.step.iloc[0]} twice")
    rows = found.seq_idx.nunique()
    at = found.groupby("step").size()
    if at.min() < (1 - MOST_MISSING) * rows:
        raise ValueError(f"{where}: step {at.idxmin()} has {at.min():,} of {rows:,} rows: leave it out of steps")
    whole = found.groupby("seq_idx").step.transform("size") == len(wanted)
    left = found[whole].sort_values(["seq_idx", "step"], ignore_index=True)
    if not whole.all():
        out = rows - left.seq_idx.nunique()
        warnings.warn(
            f"{where}: {out:,} of {rows:,} rows lack some of {len(wanted)} steps and are left out", stacklevel=3
        )
    return left
