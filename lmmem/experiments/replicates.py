"""The same experiment in other organisms: ``make replicates`` measures, the pages show.

Chance drawn anew, other sizes. They are not trained while the book is built: what was measured of them lies in
results/organisms/, a file each. Knows nothing of what is concluded from it.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lmmem.experiments.kept import RESULTS, keep, tables_of
from lmmem.experiments.study import Study

__all__ = ["NAMES", "SEEDS", "SIZED", "measure", "measured"]

FOLDER = RESULTS / "organisms"
SEEDS = ("pocket", *(f"pocket-seed{seed}" for seed in range(1, 5)))  # one design, five times by chance
SIZED = ("pocket-small", "pocket", "pocket-large", "pocket-xl", "pocket-xxl")  # each four times the one before
ON_GPU = ("pocket-xl", "pocket-xxl")  # hours of a processor: measured if they are asked for by name
NAMES = (*SEEDS, *(name for name in SIZED if name not in (*SEEDS, *ON_GPU)))
KEPT = {
    **{"canary": "int16", "arm": "str", "group": "str", "presentations": "int16", "block": "int16", "file": "str"},
    **{"z_complexity": "float32", "exposure_step": "Int16", "last_step": "Int16", "step": "int16"},
    **{"cross_entropy": "float32", "kl_ld": "int8"},
}
# As they are computed with: what is kept narrow would overflow.
WIDE = {column: {"i": "int64", "I": "Int64"}[kind[0]] for column, kind in KEPT.items() if kind[0] in "iI"}
PASSAGES, BLOCKS = 1_000_000, 1_000  # more than any organism has: tell those of different organisms apart


def measure(name: str, folder: Path = FOLDER) -> Path:
    """Train an organism if need be, measure it as the page on dynamics does, and keep what was found.

    Parameters
    ----------
    name : of the organism.
    folder : where its file is written.

    Returns
    -------
    The file: a line for each passage and checkpoint, and for passages that are not followed for the last step;
    columns canary (the same passage in all organisms of one text), arm, group, presentations, block, file,
    z_complexity, exposure_step, last_step, step, cross_entropy (nats per token), kl_ld (tokens); and its record.
    """
    study = Study(name)
    sequences = study.sequences()
    over_time = study.followed(sequences)
    history = study.greedy(over_time, steps=study.steps)
    rest = study.greedy(sequences[~sequences["index"].isin(over_time["index"])])
    found = pd.concat([history, rest]).sort_values(["canary", "step"])[list(KEPT)].astype(KEPT)
    return keep(found, name, folder, provenance=study.provenance())


def measured(names: tuple[str, ...] = SEEDS, folder: Path = FOLDER) -> pd.DataFrame:
    """What was measured of organisms: as :func:`measure` keeps it, one after another.

    Returns
    -------
    Its columns, and organism, passage (as canary), index (which tells passages of different organisms apart) and
    block (the same). No lines, if nothing was measured.

    Raises
    ------
    As :func:`lmmem.experiments.kept.tables_of`.
    """
    found = []
    for name, table, _ in tables_of(names, folder):
        table, number = table.astype(WIDE), names.index(name)
        index, block = number * PASSAGES + table.canary, number * BLOCKS + table.block
        found.append(table.rename(columns={"canary": "passage"}).assign(organism=name, index=index, block=block))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=[*KEPT, "organism", "index"])
