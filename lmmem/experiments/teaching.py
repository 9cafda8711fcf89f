"""What a model says of sequences while it is taught them again, as a tidy table.

Keyed by (model, step, index, seed, presentation); read from disk when it is there. Knows no organisms.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from tqdm import tqdm

from lmmem.corpora.corpus import Corpus
from lmmem.experiments.measuring import (
    Settings,
    check_whole,
    digest,
    measured,
    prefixed,
    ready,
    restored,
    settings_of,
    task_of,
)
from lmmem.inference import decoding
from lmmem.inference.scoring import cross_entropy
from lmmem.inference.teaching import Teacher, check_teaching, native_precision, taught
from lmmem.measures.distance import levenshtein
from lmmem.models.registry import ModelInfo
from lmmem.storage.results import Part
from lmmem.sweep.cluster import on_worker

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "TAUGHT_A_STEP",
    "TAUGHT_IN",
    "relearning_table",
]

TAUGHT_A_STEP = 8  # passages; as many rows of natural text are beside them
TAUGHT_IN = "float32"  # weights: half precision loses small steps


def relearning_table(
    name: str,
    corpus: Corpus,
    index: Sequence[int],
    step: int | Sequence[int] | None = None,
    *,
    natural: ArrayLike,
    instead: ArrayLike | None = None,
    presentations: int = 16,
    optimizer: str = "adamw",
    learning_rate: float = 5e-4,
    seeds: Sequence[int] = (0,),
    dtype: str | None = None,
    device: str | None = None,
    scheduler: str | Client | None = None,
) -> pd.DataFrame:
    """What the model says of sequences while it is taught them (again): the savings of Ebbinghaus.

    All sequences are presented once a round, eight a step in an order by chance, beside eight rows of
    natural text; after each round all are asked for. The model is given back as it was.

    Parameters
    ----------
    name, corpus, index, step, device, scheduler : as for :func:`greedy_table`.
    natural : (m, w) token ids of natural text, 8 rows or more, of which each step takes some by chance.
    instead : (p, w) token ids taught in the place of the sequences; none of them, (0, w), is natural text alone.
    presentations : rounds.
    optimizer, learning_rate : as for :class:`lmmem.inference.teaching.Teacher`.
    seeds : of the order and of the natural rows; each is a relearning of its own, from the same weights.
    dtype : of the weights; None is float32, whatever the model is measured in otherwise.

    Returns
    -------
    One line a (seed, presentation, row), columns model, step, index, seed, presentation (0, before any, to
    `presentations`), kl_ld (tokens), cross_entropy (nats per token).

    Raises
    ------
    ValueError : presentations below 1, no seed or the same twice, too little natural text, rows of another width, an
        optimizer that is not known, or a dtype of half precision, in which small steps are lost.
    """
    check_whole("presentations", presentations, 1)
    if isinstance(seeds, str | int) or not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={seeds!r}: give a list of them, each once")
    for seed in seeds:
        check_whole("seeds", seed, 0)
    dtype = dtype or TAUGHT_IN
    check_teaching(optimizer, learning_rate, dtype)
    every, numbers, tokens = settings_of(name, corpus, index, step, dtype, device, scheduler, False)
    rows = [_as_taught("natural", natural, tokens.shape[1], least=TAUGHT_A_STEP)]
    rows.append(tokens if instead is None else _as_taught("instead", instead, tokens.shape[1], least=0))
    shared = {"optimizer": optimizer, "learning_rate": learning_rate, "presentations": presentations}
    shared |= {key: digest(of) for key, of in zip(("natural", "taught"), rows, strict=True)}
    tasks, where = [], torch.device(every[0]["device"])
    precision = on_worker(scheduler, functools.partial(native_precision, where))
    for settings in every:
        settings |= shared | {"precision": precision}
        for seed in seeds:
            part = Part("relearning", settings, {"seed": seed}, of=len(seeds) * (1 + presentations) * len(tokens))
            tasks.append(
                task_of(part, _relearning_part, (1 + presentations) * len(tokens), seed, numbers, tokens, *rows)
            )
    return measured(tasks, scheduler, "relearning")


def _relearning_part(
    info: ModelInfo,
    settings: Settings,
    seed: int,
    index: np.ndarray,
    tokens: np.ndarray,
    natural: np.ndarray,
    passages: np.ndarray,
) -> pd.DataFrame:
    model, prompts, truth = ready(info, settings, np.concatenate([tokens, natural, passages]))
    natural, passages = prefixed(settings, natural), prefixed(settings, passages)  # taught as they are asked for
    prompts, truth = prompts[: len(tokens)], truth[: len(tokens)]  # all of them are ids that the model knows
    rng = np.random.default_rng([seed, 0])
    lines = []
    bar = tqdm(range(1 + settings["presentations"]), desc=f"seed {seed}", unit="presentation", leave=False)
    with restored(taught(model, settings["optimizer"], settings["learning_rate"])) as teacher:
        for presentation in bar:
            if presentation:
                _teach_once(teacher, passages, natural, -(-len(tokens) // TAUGHT_A_STEP), rng)
            distance = levenshtein(decoding.greedy(model, prompts), truth)
            lines.append((presentation, distance, cross_entropy(model, prompts, truth)))
    return pd.DataFrame(
        {
            "model": settings["model"],
            "step": settings["step"],
            "index": np.tile(index, len(lines)),
            "seed": seed,
            "presentation": np.repeat([presentation for presentation, _, _ in lines], len(index)),
            "kl_ld": np.concatenate([distance for _, distance, _ in lines]),
            "cross_entropy": np.concatenate([loss for _, _, loss in lines]),
        }
    )


def _teach_once(
    teacher: Teacher, passages: np.ndarray, natural: np.ndarray, steps: int, rng: np.random.Generator
) -> None:
    """A round: each passage once, in `steps` steps, with natural text beside it or, without passages, alone."""
    order = rng.permutation(len(passages))
    for number in range(steps if not len(passages) else -(-len(passages) // TAUGHT_A_STEP)):
        these = passages[order[number * TAUGHT_A_STEP : (number + 1) * TAUGHT_A_STEP]]
        beside = natural[rng.choice(len(natural), TAUGHT_A_STEP, replace=False)]
        teacher.step(np.concatenate([these, beside]))


def _as_taught(name: str, rows: ArrayLike, width: int, least: int) -> np.ndarray:
    """Rows of token ids that are taught beside sequences (n, width) or in their place."""
    rows = np.asarray(rows)
    if rows.ndim != 2 or rows.dtype.kind not in "iu" or rows.shape[1] < width or len(rows) < least:
        raise ValueError(
            f"{name}: give {least} or more rows of {width} token ids, got {rows.dtype} of shape {rows.shape}"
        )
    return rows[:, :width].astype(np.int32)
