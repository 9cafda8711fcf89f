"""The randomised experiment inside the training data: which passage is presented when.

A randomised block design. Held-out passages are sorted by how hard they are (their loss under an
organism that was never shown them) and cut into blocks of neighbours; within a block, chance alone
decides which passage goes to which arm. So arms differ in the number and times of presentations and
in nothing else, and the unexposed passages of a block are twins of its exposed ones. Canaries are
the same share of the rows at all times.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from lmmem.measures.repeats import count_repeats
from lmmem.pocket.recipe import Arm, Recipe

__all__ = ["arrange", "assign", "choose_passages"]


def choose_passages(
    held_out: np.ndarray, files: np.ndarray, training: np.ndarray, recipe: Recipe, skip: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw passages from held-out rows, as evenly as can be from their files.

    Parameters
    ----------
    held_out : (n, w) uint16, rows to choose from.
    files : (n,) integers, the file that each row comes from.
    training : (m, w) uint16, rows of natural text, from which every passage must be new.
    skip : so many are drawn before, and left to whoever has them: those drawn here are new to them too.

    Returns
    -------
    rows : (recipe.passages, w) uint16. files : (recipe.passages,) integers.

    Raises
    ------
    ValueError : fewer suitable passages than the design needs.
    """
    rng = np.random.default_rng([recipe.text_seed, 1])
    inside = (held_out != 0).all(axis=1)  # one document
    order = rng.permutation(np.flatnonzero(inside))
    pool, files = held_out[order], files[order]
    new = count_repeats(pool, training, n=recipe.novelty_tokens) == 0
    pool, files = pool[new], files[new]
    alone = count_repeats(pool, pool, n=recipe.novelty_tokens) == 1  # only itself
    pool, files = pool[alone], files[alone]
    if len(pool) < skip + recipe.passages:
        raise ValueError(
            f"the design needs {skip + recipe.passages} passages that are new to the text; found {len(pool)}"
        )
    turn = pd.Series(files).groupby(files).cumcount()  # of each file its first, then its second ..
    chosen = turn.argsort(kind="stable")[skip : skip + recipe.passages].to_numpy()
    return pool[chosen], files[chosen]


def assign(files: np.ndarray, hardness: np.ndarray, recipe: Recipe) -> pd.DataFrame:
    """Assign passages to arms.

    Parameters
    ----------
    files : (n,) the file that each passage comes from, n = recipe.passages.
    hardness : (n,) numbers; passages of nearly equal ones are put into one block.

    Returns
    -------
    One line a passage, in the order given: canary (0, 1, ..), block, group, presentations.

    Raises
    ------
    ValueError : arms that do not fit the blocks; or files that do not make up the arms from elsewhere.
    """
    rng = np.random.default_rng([recipe.seed, 1])
    apart = [arm for arm in recipe.arms if arm.elsewhere]
    elsewhere = _whole_files(files, sum(arm.passages for arm in apart), np.random.default_rng([recipe.text_seed, 2]))
    slots = list(_slots([arm for arm in recipe.arms if not arm.elsewhere], recipe.blocks, int(rng.integers(2**32))))
    main = np.flatnonzero(~elsewhere)
    main = main[np.argsort(hardness[main], kind="stable")]
    edges = np.cumsum([0, *map(len, slots)])

    block, arm_of = np.empty(len(files), dtype=int), np.empty(len(files), dtype=object)
    for number, arms in enumerate(slots):
        members = rng.permutation(main[edges[number] : edges[number + 1]])
        block[members], arm_of[members] = number, arms
    others = rng.permutation(np.flatnonzero(elsewhere))
    lowest = hardness[main[edges[1:-1]]]  # of each block but the first
    block[others] = np.searchsorted(lowest, hardness[others], side="right")
    arm_of[others] = [arm for arm in apart for _ in range(arm.passages)]
    return pd.DataFrame(
        {
            "canary": np.arange(len(files)),
            "block": block,
            "group": [arm.group for arm in arm_of],
            "presentations": [arm.presentations for arm in arm_of],
        }
    )


def _whole_files(files: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Which passages are those of files drawn at random, all of each, so that they are as many as wanted."""
    taken = np.zeros(len(files), dtype=bool)
    for file in rng.permutation(np.unique(files)):
        if taken.sum() + (files == file).sum() <= wanted:
            taken |= files == file
    if taken.sum() != wanted:
        raise ValueError(f"no whole files make up {wanted} passages: {taken.sum()} is as near as they come")
    return taken


def _slots(arms: list[Arm], blocks: int, chance: int) -> Iterator[list[Arm]]:
    """The arms of each block, as often as it holds one: small arms in every second, every fourth .. block."""
    for block in range(blocks):
        here = []
        for arm in arms:
            if arm.passages % blocks and blocks % arm.passages:
                raise ValueError(
                    f"{arm.passages} passages of {arm.group} {arm.presentations} do not fit {blocks} blocks"
                )
            every = max(1, blocks // arm.passages)
            here += [arm] * (max(1, arm.passages // blocks) if block % every == chance % every else 0)
        yield here


def arrange(
    canaries: pd.DataFrame, canary_rows: np.ndarray, natural: np.ndarray, recipe: Recipe
) -> tuple[np.ndarray, pd.DataFrame, np.ndarray]:
    """Put natural rows and canaries into training order.

    A passage's span of training is cut into as many equal intervals as it has presentations, each
    of these into as many parts as its arm has passages, and chance gives each passage one part of
    each interval. Then all are put in order, and steps take them in turn, two or three a step, so
    that canaries are the same share of the rows at all times.

    Returns
    -------
    rows : (steps * rows_per_step + u, w) uint16. Row i is trained on in step i // rows_per_step;
        the last u are passages that are never trained on as they are.
    presented : one line a presentation, columns canary, step (0-based, the step that trains on it)
        and index (row number).
    index : (len(canaries),) the row that holds each canary as it is: its first presentation, or
        past the end of training.

    Raises
    ------
    ValueError : too few natural rows, too few rows a step, or arms that are not balanced over time,
        so that some would be presented outside their span.
    """
    rng = np.random.default_rng([recipe.seed, 2])
    planned: list[tuple[float, int, Arm]] = []
    for arm in recipe.arms:
        of_arm = (canaries.group == arm.group) & (canaries.presentations == arm.presentations)
        who, (start, stop) = canaries.canary[of_arm].to_numpy(), arm.span
        for interval in range(arm.presentations):
            part = (rng.permutation(len(who)) + rng.random(len(who))) / len(who)
            times = start + (stop - start) * (interval + part) / arm.presentations
            planned += ((time, canary, arm) for time, canary in zip(times, who, strict=True))
    planned.sort(key=lambda one: one[0])

    steps, capacity = recipe.steps, recipe.rows_per_step
    share = np.arange(steps + 1) * len(planned) // steps  # canaries before each step
    step_of = np.repeat(np.arange(steps), np.diff(share))
    free = steps * capacity - len(planned)
    if np.diff(share).max(initial=0) > capacity or free > len(natural):
        raise ValueError(
            f"{steps} steps of {capacity} rows cannot hold this design: {max(0, -free)} presentations too many, "
            f"{max(0, free - len(natural))} rows of natural text too few"
        )
    slots = np.concatenate([np.sort(rng.permutation(capacity)[:n]) for n in np.diff(share)])
    index = step_of * capacity + slots.astype(int)

    rows = np.empty((steps * capacity, natural.shape[1]), dtype=np.uint16)
    taken = np.zeros(len(rows), dtype=bool)
    taken[index] = True
    rows[~taken] = natural[rng.permutation(len(natural))[:free]]
    first = np.full(len(canaries), -1)
    for (_, canary, arm), at, step in zip(planned, index, step_of, strict=True):
        if not arm.span[0] * steps <= step < arm.span[1] * steps:
            raise ValueError(f"{arm.group} {arm.presentations} would be presented at step {step}, outside {arm.span}")
        rows[at] = _replaced(canary_rows[canary], arm.replaced, recipe.vocabulary, rng)
        if first[canary] < 0 and not arm.replaced:
            first[canary] = at
    kept = np.flatnonzero(first < 0)
    first[kept] = len(rows) + np.arange(len(kept))
    presented = pd.DataFrame({"canary": [canary for _, canary, _ in planned], "step": step_of, "index": index})
    rows = np.concatenate([rows, canary_rows[kept]])
    return rows, presented.sort_values(["canary", "index"], ignore_index=True), first


def _replaced(row: np.ndarray, share: float, vocabulary: int, rng: np.random.Generator) -> np.ndarray:
    """A row with a share of its tokens replaced by others, none of them token 0."""
    at = rng.permutation(len(row))[: round(share * len(row))]
    changed = row.copy()
    changed[at] = 1 + (row[at] - 1 + rng.integers(1, vocabulary - 1, len(at))) % (vocabulary - 1)
    return changed
