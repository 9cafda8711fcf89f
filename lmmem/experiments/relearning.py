"""What relearning finds, in every organism: ``make replicates`` measures, the pages show.

Passages that are known to be there, and their twins, are taught again in the same batches, by several
seeds, and in the derived organisms by several learning rates and optimizers. What was measured lies in
results/relearning/, a file an organism. Knows nothing of what is concluded from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from lmmem.experiments.kept import RESULTS, keep, tables_of, widened
from lmmem.experiments.replicates import SEEDS
from lmmem.experiments.study import Study
from lmmem.pocket import organisms
from lmmem.pocket.recipe import DERIVED
from lmmem.protocol import CONTINUATION, PROMPT
from lmmem.storage.provenance import environment

__all__ = ["NAMES", "alone", "derived_from", "measure", "measured", "neighbours", "taught_again"]

FOLDER = RESULTS / "relearning"
NAMES = ("pocket-hidden", "pocket-erased", *SEEDS)
FORGOTTEN = {"spread": [0], "q1": [64], "q2": [64]}
ONCE = {"spread": [0, 1]}
Way = tuple[str, float]  # optimizer and learning rate
USUAL: Way = ("adamw", 5e-4)
WAYS = (USUAL, ("adamw", 2e-4), ("adamw", 1e-3), ("sgd", 0.1))  # sgd with momentum, at a rate of its own
LONG, SOON = 16, 8  # presentations, of the usual way and of others
ORDERS, ORDERS_DERIVED = 3, 5  # of the usual way
ALONE, NEIGHBOURS = "adamw, natural text alone", "adamw, neighbours in the file"
TWINS_EACH = 2  # of a passage that was met once, taught beside it
EARLIEST = 0.08  # of training: exposures before it are left out (book/plan.md, "Estimands")
KEPT = {
    **{"kind": "category", "canary": "int16", "arm": "category", "presentations": "int16", "block": "int16"},
    **{"file": "category", "step": "int16", "optimizer": "category", "learning_rate": "float32", "seed": "int8"},
    **{"presentation": "int8", "kl_ld": "int8", "cross_entropy": "float32"},
}


def derived_from(base: str) -> dict[str, str]:
    """The organisms that are derived from another, by the group of their passages; none for most models.

    >>> derived_from("pocket-mini")
    {'hidden': 'pocket-mini-hidden', 'erased': 'pocket-mini-erased'}
    """
    return {recipe.group: name for name, recipe in DERIVED.items() if recipe.base == base}


def taught_again(name: str, seeds: int | None = None) -> Iterator[pd.DataFrame]:
    """Each relearning of an organism, as ``Study.relearned`` gives it, and what it was: kind, optimizer, learning_rate.

    Parameters
    ----------
    name : of an organism, derived or not.
    seeds : of the usual way, None is five of a derived organism and three of others; other ways have one.

    Yields
    ------
    Of a derived organism, its group as the kind, for each optimizer and learning rate, on natural text alone
    (:func:`alone`) and with the passages' neighbours (:func:`neighbours`). Of others "forgotten" and "once" at the last
    step, and "just after": the once-presented at the first checkpoint after their exposure, those of the first
    checkpoints left out (book/plan.md, "Estimands").
    """
    study = Study(name)
    seeds = _orders(name) if seeds is None else seeds
    if name in DERIVED:
        recipe = DERIVED[name]
        sequences = study.sequences(recipe.taught)
        for way in WAYS:
            yield _told(study, sequences, recipe.group, seeds if way == USUAL else 1, way)
        yield alone(study, sequences, recipe.group)
        yield neighbours(study, sequences, recipe.group)
        return
    forgotten = study.arms_among(FORGOTTEN) or {}
    few = study.sequences(arms=FORGOTTEN if len(forgotten) > 1 else {"spread": [0], "q1": [16], "q2": [16]})
    twins = few[few.presentations == 0].sample(frac=1, random_state=study.seed).groupby("block").head(TWINS_EACH)
    few = few[(few.presentations > 0) | few["index"].isin(twins["index"])]
    yield _told(study, few[few.block.isin(few.block[few.presentations > 0])], "forgotten", seeds)
    yield _told(study, study.sequences(arms=ONCE), "once", 1)
    met = study.just_met(len(study.steps), TWINS_EACH)
    early = met["at"][(met.exposure_step <= EARLIEST * study.steps[-1]).fillna(False)]
    for step, sequences in met[~met["at"].isin(early)].groupby("at"):
        yield _told(study, sequences.drop(columns="at"), "just after", 1, step=int(str(step)))


def alone(study: Study, sequences: pd.DataFrame, kind: str) -> pd.DataFrame:
    """As much natural text, and none of the passages: does learning on, alone, bring them back? By one seed."""
    none = np.empty((0, PROMPT + CONTINUATION), dtype=np.int64)
    found = study.relearned(sequences, instead=none, presentations=SOON)
    return found.assign(kind=kind, optimizer=ALONE, learning_rate=USUAL[1])


def neighbours(study: Study, sequences: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The rows before and after each passage in its file, each once a round, and none of the passages: by one seed."""
    rows, canary = organisms.neighbours(study.model)
    beside = np.unique(rows[np.isin(canary, sequences.canary)], axis=0)  # a row may stand between two passages
    found = study.relearned(sequences, instead=beside.astype(np.int64), presentations=SOON)
    return found.assign(kind=kind, optimizer=NEIGHBOURS, learning_rate=USUAL[1])


def _orders(name: str) -> int:
    return ORDERS_DERIVED if name in DERIVED else ORDERS


def _told(
    study: Study,
    sequences: pd.DataFrame,
    kind: str,
    seeds: int,
    way: tuple[str, float] = USUAL,
    step: int | None = None,
) -> pd.DataFrame:
    optimizer, rate = way
    found = study.relearned(
        sequences,
        presentations=LONG if way == USUAL else SOON,
        seeds=seeds,
        optimizer=optimizer,
        learning_rate=rate,
        steps=None if step is None else [step],
    )
    return found.assign(kind=kind, optimizer=optimizer, learning_rate=rate)


def measured(names: tuple[str, ...] = NAMES, folder: Path = FOLDER) -> pd.DataFrame:
    """What was measured of organisms: as :func:`measure` keeps it, one after another.

    Returns
    -------
    Its columns and organism, index (which tells a passage of one organism, kind and step from any other) and block
    (the same). No lines, if nothing was measured.

    Raises
    ------
    As :func:`lmmem.experiments.kept.tables_of`.
    """
    found = []
    for name, table, _ in tables_of(names, folder):
        found.append(widened(table, "cross_entropy").assign(organism=name))
    if not found:
        return pd.DataFrame(columns=[*KEPT, "organism", "index"])
    every = pd.concat(found, ignore_index=True)
    place = ["organism", "kind", "step"]
    return every.assign(
        index=every.groupby([*place, "canary"]).ngroup(), block=every.groupby([*place, "block"]).ngroup()
    )


def measure(name: str, folder: Path = FOLDER, seeds: int | None = None) -> Path:
    """Make an organism if need be, teach it again as :func:`taught_again` says, and keep what was found.

    Parameters
    ----------
    name : of the organism. folder : where its file is written. seeds : as for :func:`taught_again`.

    Returns
    -------
    The file: a line for each relearning, presentation and passage; columns kind, canary, arm, presentations (in
    training), block, file, step, optimizer, learning_rate, seed, presentation (in relearning), kl_ld (tokens),
    cross_entropy (nats per token); and its record.
    """
    seeds = _orders(name) if seeds is None else seeds
    found = pd.concat(taught_again(name, seeds), ignore_index=True)[list(KEPT)].astype(KEPT)
    return keep(found, name, folder, seeds=seeds, **environment())
