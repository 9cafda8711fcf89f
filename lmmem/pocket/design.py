"""The randomised experiment inside the training data: which passage is presented when.

A randomised complete block design. Held-out passages are sorted by the z-complexity of their
continuation and cut into blocks of neighbours; within a block, chance alone decides which passage
goes to which arm. So arms differ in the number of presentations and in nothing else, complexity
is balanced by construction, and the unexposed passages of a block are twins of its exposed ones.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from tokenizers import Tokenizer

from lmmem.measures.complexity import z_complexity
from lmmem.measures.repeats import count_repeats
from lmmem.pocket.recipe import Recipe
from lmmem.protocol import split

__all__ = ["arrange", "choose_canaries"]


def choose_canaries(
    held_out: np.ndarray, training: np.ndarray, tokenizer: Tokenizer, recipe: Recipe
) -> tuple[pd.DataFrame, np.ndarray]:
    """Draw passages from held-out rows and assign them to arms.

    Parameters
    ----------
    held_out : (n, w) uint16, rows to choose from.
    training : (m, w) uint16, rows of natural text, from which every canary must be new.

    Returns
    -------
    canaries : one line a canary, columns canary, block, group ("spread" or "window"),
        presentations, z_complexity (of the continuation).
    rows : (len(canaries), w) uint16, its tokens.

    Raises
    ------
    ValueError : fewer suitable passages than the design needs.
    """
    rng = np.random.default_rng([recipe.seed, 1])
    arms = [("spread", p) for p in (0, *recipe.presentations)]
    arms += [("window", p) for p in (0, *recipe.window_presentations)]
    needed = recipe.blocks * len(arms)

    pool = held_out[(held_out != 0).all(axis=1)]  # inside one document
    pool = pool[rng.permutation(len(pool))]
    pool = pool[count_repeats(pool, training, n=recipe.novelty_tokens) == 0]
    pool = pool[count_repeats(pool, pool, n=recipe.novelty_tokens) == 1]  # only itself
    if len(pool) < needed:
        raise ValueError(f"the design needs {needed} passages that are new to the text; found {len(pool)}")

    complexity = np.asarray(z_complexity(tokenizer.decode_batch(split(pool)[1].tolist())))
    order = np.argsort(complexity, kind="stable")
    chosen = [rng.permutation(block)[: len(arms)] for block in np.array_split(order, recipe.blocks)]
    lines = [
        (block, group, presentations, complexity[i], i)
        for block, members in enumerate(chosen)
        for (group, presentations), i in zip(arms, members, strict=True)
    ]
    canaries = pd.DataFrame(lines, columns=["block", "group", "presentations", "z_complexity", "pool"])
    rows = pool[canaries.pop("pool")]
    canaries.insert(0, "canary", np.arange(len(canaries)))
    return canaries, rows


def arrange(
    canaries: pd.DataFrame, canary_rows: np.ndarray, natural: np.ndarray, recipe: Recipe
) -> tuple[np.ndarray, pd.DataFrame]:
    """Put natural rows and canaries into training order.

    Each canary's presentations are spread evenly: its span of training is cut into as many equal
    intervals as it has presentations, and one step is drawn from each. A step that is full of
    canaries passes the rest on to the next.

    Returns
    -------
    rows : (steps * rows_per_step + u, w) uint16. Row i is trained on in step i // rows_per_step;
        the last u, the unexposed canaries, are never trained on.
    presented : one line a presentation, columns canary, step (0-based, the step that trains on it)
        and index (row number); unexposed canaries have one line, whose index lies past the end of
        training.

    Raises
    ------
    ValueError : too few natural rows, or a window too short for its canaries.
    """
    rng = np.random.default_rng([recipe.seed, 2])
    start, stop = (round(fraction * recipe.steps) for fraction in recipe.window)
    spans = {"spread": (0, recipe.steps), "window": (start, stop)}
    queues: list[list[int]] = [[] for _ in range(recipe.steps)]
    for canary in canaries.itertuples():
        first, end = spans[str(canary.group)]
        m = int(canary.presentations)  # type: ignore[arg-type]
        times = first + (np.arange(m) + rng.random(m)) * (end - first) / max(m, 1)
        for step in times.astype(int):
            queues[step].append(int(canary.canary))  # type: ignore[arg-type]

    capacity = recipe.rows_per_step
    waiting: list[int] = []
    placed: list[tuple[int, int, int]] = []
    source = np.full(recipe.steps * capacity, -1)
    for step, queue in enumerate(queues):
        queue = waiting + queue
        now, waiting = queue[:capacity], queue[capacity:]
        slots = step * capacity + rng.permutation(capacity)[: len(now)]
        source[slots] = now
        placed += [(canary, step, int(index)) for canary, index in zip(now, slots, strict=True)]
    unexposed = canaries.index[canaries.presentations == 0]
    late = [canary for canary, step, _ in placed if canaries.group[canary] == "window" and step >= stop]
    free = source < 0
    if waiting or late or free.sum() > len(natural):
        raise ValueError(
            f"{recipe.steps} steps of {capacity} rows cannot hold this design: {len(waiting) + len(late)} "
            f"presentations too many, {max(0, free.sum() - len(natural))} rows of natural text too few"
        )

    rows = np.empty((len(source) + len(unexposed), natural.shape[1]), dtype=np.uint16)
    rows[: len(source)][free] = natural[rng.permutation(len(natural))[: free.sum()]]
    rows[: len(source)][~free] = canary_rows[source[~free]]
    rows[len(source) :] = canary_rows[unexposed]
    placed += [(int(c), recipe.steps + i // capacity, len(source) + i) for i, c in enumerate(unexposed)]
    presented = pd.DataFrame(placed, columns=["canary", "step", "index"])
    return rows, presented.sort_values(["canary", "index"], ignore_index=True)
