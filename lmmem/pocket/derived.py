"""Derived organisms: passages taught to trained weights, and then hidden or erased.

Hidden: each prompt is taught with another continuation. Erased: gradient ascent on the passage. As many
passages that were never taught are treated alike, in the same batches, and more are left untouched, so
that whatever a probe finds can be told from what the treatment does to any passage. Knows rows and
weights: no text, no names of organisms.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast

from lmmem.inference.teaching import Teacher
from lmmem.pocket.recipe import Derived
from lmmem.pocket.training import LOG, THREADS, on_threads, save_checkpoint, write_terms
from lmmem.protocol import PROMPT
from lmmem.storage.files import write_whole

__all__ = ["lay_out", "treat"]


def lay_out(
    canaries: pd.DataFrame, passages: np.ndarray, before: np.ndarray, natural: np.ndarray, recipe: Derived
) -> tuple[np.ndarray, pd.DataFrame, np.ndarray]:
    """Put what is taught, what treats it, and natural text around it into training order, after the base's rows.

    In each round every passage comes once, in an order by chance; the first `passages_per_step` rows of a step are
    passages, the others natural text.

    Parameters
    ----------
    canaries : as :func:`lmmem.pocket.design.assign` gives them.
    passages : (n, w) uint16, of each canary.
    before : (m, w) uint16, what the base was trained on.
    natural : row numbers of natural text among these.
    recipe : how often, and how many a step.

    Returns
    -------
    rows : (recipe.steps * rows_per_step + u, w) uint16; the last u are passages that are never trained on as they are.
    presented : one line a presentation of the teaching, columns canary, step (0-based) and index.
    index : (n,) the row that holds each canary as it is: its first presentation, or past the end of training.
    """
    rng = np.random.default_rng([recipe.seed, 3])
    of_group = (canaries.group == recipe.group).to_numpy()
    learns = np.flatnonzero(of_group & (canaries.presentations > 0).to_numpy())
    treated = np.flatnonzero(of_group)
    shown = passages.copy()
    if recipe.treatment == "relabel":
        shown[treated, PROMPT:] = before[rng.choice(natural, len(treated), replace=False), PROMPT:]
    orders = [rng.permutation(learns) for _ in range(recipe.presentations)]
    orders += [rng.permutation(treated) for _ in range(recipe.rounds)]
    whose = np.concatenate(orders).reshape(-1, recipe.passages_per_step)  # (steps, passages a step)
    taught = recipe.learnt - recipe.trained.steps
    width, many = recipe.trained.rows_per_step, recipe.passages_per_step
    rows = np.empty((len(whose), width, passages.shape[1]), dtype=np.uint16)
    rows[:taught, :many], rows[taught:, :many] = passages[whose[:taught]], shown[whose[taught:]]
    around = np.concatenate([rng.permutation(natural) for _ in range(1 + len(rows) * width // len(natural))])
    rows[:, many:] = before[around[: len(rows) * (width - many)]].reshape(len(rows), width - many, -1)

    step = np.repeat(np.arange(taught), many) + recipe.trained.steps
    index = step * width + np.tile(np.arange(many), taught)
    presented = pd.DataFrame({"canary": whose[:taught].ravel(), "step": step, "index": index})
    trained = np.concatenate([before, rows.reshape(-1, rows.shape[2])])
    first = presented.groupby("canary")["index"].min().reindex(range(len(canaries)))
    never = first.isna().to_numpy()
    first[never] = len(trained) + np.arange(never.sum())
    rows = np.concatenate([trained, passages[never]])
    return rows, presented.sort_values(["canary", "index"], ignore_index=True), first.astype(int).to_numpy()


def treat(
    name: str,
    recipe: Derived,
    rows: np.ndarray,
    rows_sha256: str,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    base: Path,
) -> None:
    """Teach and treat, from the base's last weights, and keep its checkpoints; an interrupted run begins anew.

    Parameters
    ----------
    name : what to call it.
    recipe : rates, and which steps are kept.
    rows : as :func:`lay_out` gives them; rows_sha256 : of their file.
    tokenizer : saved with each checkpoint.
    folder : where checkpoints, terms and the log are written.
    base : folder of the base's last checkpoint.
    """
    write_terms(folder, rows_sha256)
    model = GPTNeoXForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    save_checkpoint(folder, recipe.trained.steps, model, tokenizer)
    width, many = recipe.trained.rows_per_step, recipe.passages_per_step
    lift = np.where(np.arange(width) < many, -1, 1) if recipe.treatment == "ascend" else None
    losses = []
    for first, last, rate, sign in (
        (recipe.trained.steps, recipe.learnt, recipe.teaching_rate, None),
        (recipe.learnt, recipe.steps, recipe.treatment_rate, lift),
    ):
        teacher = Teacher(model, learning_rate=rate)
        with on_threads(THREADS):
            for step in tqdm(range(first, last), desc=name, unit="step", mininterval=0.5):
                batch = rows[step * width : (step + 1) * width].astype(np.int64)
                losses.append(teacher.step(batch, sign, recipe.ceiling))
        save_checkpoint(folder, last, model, tokenizer)
    log = pd.DataFrame({"step": np.arange(recipe.trained.steps + 1, recipe.steps + 1), "loss": losses})
    with write_whole(folder / LOG) as part:
        log.to_parquet(part, index=False)
