"""How probable it is that sampling gives a sequence, word for word or nearly, as tidy tables: without sampling.

Keyed by (model, step, index) and temperature or distance; read from disk when they are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lmmem.corpora.corpus import Corpus
from lmmem.experiments.measuring import (
    Settings,
    check_temperatures,
    check_whole,
    measured,
    ready,
    settings_of,
    spans,
    task_of,
)
from lmmem.inference.extraction import BEAMS, extraction_log_probs, near_verbatim_log_mass
from lmmem.models.registry import ModelInfo
from lmmem.protocol import CONTINUATION
from lmmem.storage.results import Part

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "extraction_table",
    "near_verbatim_table",
]

SEARCHED_PER_PART = 64  # sequences, each with all its hypotheses


def _check_sampling(temperatures: Any, top_k: int | None) -> None:
    check_temperatures(temperatures)
    if 0 in temperatures:
        raise ValueError("at temperature 0 sampling is greedy, and kl_ld says what it gives: ask for one above 0")
    if top_k is not None:
        check_whole("top_k", top_k, 1)


def extraction_table(
    name: str,
    corpus: Corpus,
    index: Sequence[int],
    step: int | Sequence[int] | None = None,
    *,
    temperatures: Sequence[float],
    top_k: int | None = None,
    dtype: str | None = None,
    device: str | None = None,
    scheduler: str | Client | None = None,
    keep_tokens: bool = False,
) -> pd.DataFrame:
    """How probable it is that sampling gives the true continuation word for word: exactly, by one forward pass a row.

    Parameters
    ----------
    name, corpus, index, step, dtype, device, scheduler : as for :func:`greedy_table`.
    temperatures : each divides the logits; above 0.
    top_k : sampling is among the so many likeliest tokens; None is among all.
    keep_tokens : also keep the figures of each token, and the truth: columns log_probs and truth, lists of 64.

    Returns
    -------
    One line a (row, temperature), columns model, step, index, temperature, log_prob (nats; of one sample).

    Raises
    ------
    ValueError : temperatures that are none, the same or not above 0, or top_k below 1.
    """
    _check_sampling(temperatures, top_k)
    every, numbers, tokens = settings_of(name, corpus, index, step, dtype, device, scheduler, keep_tokens)
    parts = [Part("extraction", settings | {"temperatures": [*temperatures], "top_k": top_k}) for settings in every]
    tasks = [task_of(part, _extraction_part, len(tokens), numbers, tokens) for part in parts]
    return measured(tasks, scheduler, "probabilities of extraction")


def _extraction_part(info: ModelInfo, settings: Settings, index: np.ndarray, tokens: np.ndarray) -> pd.DataFrame:
    model, prompts, truth = ready(info, settings, tokens)
    found = extraction_log_probs(model, prompts, truth, settings["temperatures"], settings["top_k"])  # (t, n, l)
    kept = {"log_probs": [*found.reshape(-1, truth.shape[1])], "truth": [*truth] * len(found)}
    return pd.DataFrame(
        {
            "model": settings["model"],
            "step": settings["step"],
            "index": np.tile(index, len(found)),
            "temperature": np.repeat(np.array(settings["temperatures"], dtype=float), len(index)),
            "log_prob": found.sum(axis=2).ravel(),
            **(kept if settings.get("keep_tokens") else {}),
        }
    )


def near_verbatim_table(
    name: str,
    corpus: Corpus,
    index: Sequence[int],
    step: int | Sequence[int] | None = None,
    *,
    distance: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    beams: int = BEAMS,
    dtype: str | None = None,
    device: str | None = None,
    scheduler: str | Client | None = None,
) -> pd.DataFrame:
    """How probable it is, at least, that a sample differs from the truth in few tokens.

    Parameters
    ----------
    name, corpus, index, step, dtype, device, scheduler : as for :func:`greedy_table`.
    distance, temperature, top_k, beams : as for :func:`lmmem.inference.extraction.near_verbatim_log_mass`.

    Returns
    -------
    One line a (row, distance), of 0 .. distance, columns model, step, index, temperature, distance (tokens that
    differ, at most), log_prob (nats; a lower bound, exact at 0).

    Raises
    ------
    ValueError : distance below 0 or above 64, beams or top_k below 1, or a temperature that is not above 0.
    """
    check_whole("distance", distance, 0)
    check_whole("beams", beams, 1)
    if distance > CONTINUATION:
        raise ValueError(f"distance={distance}: no more than {CONTINUATION} tokens can differ")
    _check_sampling([temperature], top_k)
    every, numbers, tokens = settings_of(name, corpus, index, step, dtype, device, scheduler, False)
    asked = {"distance": distance, "temperature": temperature, "top_k": top_k, "beams": beams}
    tasks = []
    for settings in every:
        for rows in spans(len(tokens), SEARCHED_PER_PART):
            span = {"rows": [rows.start, rows.stop]}
            part = Part("near_verbatim", settings | asked, span, of=(distance + 1) * len(tokens))
            size = (1 + distance * beams) * len(tokens[rows])
            tasks.append(task_of(part, _near_verbatim_part, size, numbers[rows], tokens[rows]))
    return measured(tasks, scheduler, f"beams within {distance} tokens")


def _near_verbatim_part(info: ModelInfo, settings: Settings, index: np.ndarray, tokens: np.ndarray) -> pd.DataFrame:
    options = {key: settings[key] for key in ("distance", "temperature", "top_k", "beams")}
    mass = near_verbatim_log_mass(*ready(info, settings, tokens), **options)  # (n, distance + 1)
    return pd.DataFrame(
        {
            "model": settings["model"],
            "step": settings["step"],
            "index": np.repeat(index, mass.shape[1]),
            "temperature": settings["temperature"],
            "distance": np.tile(np.arange(mass.shape[1]), len(index)),
            "log_prob": mass.ravel(),
        }
    )
