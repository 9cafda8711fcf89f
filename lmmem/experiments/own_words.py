"""What teaching finds beside the model's own words, in organisms whose truth is known: ``make replicates`` measures.

Each passage is taught with its true continuation and, apart, with one that the model itself would give. What was
measured lies in results/own_words/, a file an organism. Knows nothing of what is concluded from it.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lmmem.experiments.kept import RESULTS, keep, tables_of, widened
from lmmem.experiments.replicates import SEEDS
from lmmem.experiments.study import Study
from lmmem.pocket.recipe import DERIVED
from lmmem.storage.provenance import environment

__all__ = ["ARMS", "NAMES", "asked", "counted", "measure", "measured"]

FOLDER = RESULTS / "own_words"
NAMES = ("pocket-hidden", "pocket-erased", *SEEDS)
ARMS = {"spread": [0, 1, 16], "q1": [64], "q2": [64]}
MOST = {"spread 1": 48, "elsewhere 0": 32, "untouched 0": 64}  # of an arm; others are small, or as below
A_BLOCK = {"spread 0": 2}  # so that one half can be held against the other
PRESENTATIONS = 8
KEPT = {
    **{"canary": "int16", "arm": "category", "presentations": "int16", "block": "int16", "file": "category"},
    **{"passage": "int32", "continuation": "category", "run": "int8", "presentation": "int8"},
    **{"kl_ld": "int8", "cross_entropy": "float32"},
}


def asked(study: Study) -> pd.DataFrame:
    """Passages of an organism that are there, and their nulls, as many as the plan has (book/plan.md, sixth plan).

    >>> chosen = asked(Study("pocket-mini"))
    >>> chosen.groupby("arm").size().to_dict()
    {'elsewhere 0': 4, 'spread 0': 12, 'spread 1': 12, 'spread 16': 6}
    """
    arms = None if study.model in DERIVED else {**(study.arms_among(ARMS) or {}), "elsewhere": [0]}
    every = study.sequences(arms=arms).sample(frac=1, random_state=study.seed)
    of_arm, of_block = every.groupby("arm").cumcount(), every.groupby(["arm", "block"]).cumcount()
    all_of_them = len(every)
    kept = (of_arm < every.arm.map(MOST).fillna(all_of_them)) & (of_block < every.arm.map(A_BLOCK).fillna(all_of_them))
    return every[kept].sort_index().reset_index(drop=True)


def measure(name: str, folder: Path = FOLDER) -> Path:
    """Make an organism if need be, teach it both continuations of its passages, and keep what was found.

    Parameters
    ----------
    name : of the organism. folder : where its file is written.

    Returns
    -------
    The file: a line for each continuation, presentation and passage; columns canary, arm, presentations (in training),
    block, file, passage, continuation ("true", "alternative"), run, presentation (in relearning), kl_ld (tokens),
    cross_entropy (nats per token); and its record, in which "sought" says for how many passages of each arm an
    alternative was looked for.
    """
    study = Study(name)
    sequences = asked(study)
    found = study.relearned(study.alternatives(sequences), presentations=PRESENTATIONS)
    sought = {str(arm): int(n) for arm, n in sequences.arm.value_counts().items()}
    return keep(found[list(KEPT)].astype(KEPT), name, folder, sought=sought, **environment())


def measured(names: tuple[str, ...] = NAMES, folder: Path = FOLDER) -> list[pd.DataFrame]:
    """What was measured of organisms: as :func:`measure` keeps it.

    Returns
    -------
    A table of each derived organism, and one of all others together, as far as they were measured, with organism.

    Raises
    ------
    As :func:`lmmem.experiments.kept.tables_of`.
    """
    found: dict[str, list[pd.DataFrame]] = {}
    for name, table, _ in tables_of(names, folder):
        found.setdefault(name if name in DERIVED else "", []).append(
            widened(table, "cross_entropy").assign(organism=name)
        )
    return [pd.concat(of, ignore_index=True) for of in found.values()]


def counted(names: tuple[str, ...] = NAMES, folder: Path = FOLDER) -> pd.DataFrame:
    """For how many passages an alternative was looked for, and for how many there was one.

    Returns
    -------
    One line an arm, over all organisms that were measured: arm, sought, there.
    """
    lines = []
    for _, table, record in tables_of(names, folder):
        there = table.groupby("arm", observed=True).passage.nunique()
        lines += [(arm, n, int(there.get(arm, 0))) for arm, n in record["sought"].items()]
    return pd.DataFrame(lines, columns=["arm", "sought", "there"]).groupby("arm", sort=False).sum().reset_index()
