"""What a model says of sequences and how likely it finds them, as tidy tables: greedily, sampled, after other prompts.

Every page calls these. A table is keyed by (model, step, index) and what varies: (temperature, sample) or
(start, stop) of the prompt; it is read from disk when it is there. Knows nothing of figures.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lmmem.corpora.corpus import Corpus
from lmmem.experiments.measuring import (
    Settings,
    check_temperatures,
    check_whole,
    distances,
    kept,
    measured,
    prefixed,
    ready,
    restored,
    settings_of,
    spans,
    task_of,
    weights_of,
)
from lmmem.inference import decoding
from lmmem.inference.perturbation import perturbed, weight_rms
from lmmem.inference.rounding import ROUNDINGS, rounded
from lmmem.inference.scoring import TokenScores, cross_entropy, score_tokens
from lmmem.measures.distance import levenshtein, matched_prefix
from lmmem.models.registry import MODELS, ModelInfo, resolve_step
from lmmem.protocol import CONTINUATION, DRAWS, PROMPT
from lmmem.storage.results import Part
from lmmem.sweep.cluster import on_one_worker

if TYPE_CHECKING:
    from distributed import Client
    from transformers import PreTrainedModel

__all__ = [
    "greedy_table",
    "kl_ld",
    "likelihood_is_kept",
    "likelihood_table",
    "prompted_table",
    "seconds_a_pass",
    "seconds_each",
    "temperature_table",
]

SAMPLED_PER_PART = 1_000  # sequences, each with all its samples
TIMED = 1_024  # sequences timed to say how long all take
PASSES, ENOUGH = (4, 16, 64), 1.0  # sequences passed over to say so, the fewest that take so many seconds


def kl_ld(model: PreTrainedModel, prompts: Any, truth: Any) -> np.ndarray:
    """How far the model's greedy continuation is from the true one: the paper's kl-LD.

    Parameters
    ----------
    model : a causal language model of transformers.
    prompts : (n, k) token ids.
    truth : (n, l) token ids.

    Returns
    -------
    (n,) int32, in tokens: 0 is memorised word for word, l is nothing in common.

    Source: the paper; with k = 32 and l = 64 as :func:`lmmem.split` gives them.

    >>> import lmmem
    >>> corpus = lmmem.training_data("pocket-mini")
    >>> bool((kl_ld(lmmem.load_model("pocket-mini"), *lmmem.split(corpus[:5])) <= 64).all())
    True
    """
    return levenshtein(decoding.greedy(model, prompts, np.asarray(truth).shape[1]), truth)


def seconds_each(
    name: str,
    corpus: Corpus,
    index: Sequence[int],
    step: int | None = None,
    *,
    samples: int = 0,
    dtype: str | None = None,
    device: str | None = None,
    scheduler: str | Client | None = None,
) -> float:
    """Seconds that one continuation of each sequence takes, timed now, where it is measured, by all workers.

    Parameters
    ----------
    name, corpus, index, step, dtype, device, scheduler : as for :func:`greedy_table`.
    samples : 0 is greedy, under noise; else one of so many sampled continuations of each sequence.

    >>> import lmmem
    >>> seconds_each("pocket-mini", lmmem.training_data("pocket-mini"), [3, 5]) < 60
    True
    """
    (settings,), _, tokens = settings_of(name, corpus, index, step, dtype, device, scheduler, False)
    timed = tokens[: TIMED // max(1, samples)]
    seconds, workers = on_one_worker(
        scheduler, functools.partial(_seconds_each, MODELS[name], settings, timed, samples)
    )
    return seconds * len(tokens) / max(1, len(timed)) / max(1, samples) / workers


def _seconds_each(info: ModelInfo, settings: Settings, tokens: np.ndarray, samples: int) -> float:
    model, prompts, _ = ready(info, settings, tokens)

    def work() -> None:
        if samples:
            decoding.sample(model, prompts, 1.0, samples, seed=0)
        else:
            with perturbed(model, 0.0, seed=0, draw=0):
                decoding.greedy(model, prompts)

    work()  # the first call of a process is slow, and a GPU records its step
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def greedy_table(
    name: str,
    corpus: Corpus,
    index: Sequence[int],
    step: int | Sequence[int] | None = None,
    *,
    dtype: str | None = None,
    device: str | None = None,
    scheduler: str | Client | None = None,
    keep_tokens: bool = False,
    mean_of: Sequence[int] | None = None,
    rounding: str | None = None,
) -> pd.DataFrame:
    """What the model says without any noise.

    Parameters
    ----------
    name, step, dtype, device : the model, as for :func:`lmmem.load_model`; several steps are one sweep.
    corpus : its training data.
    index : rows of the corpus.
    scheduler : where to measure, as for :func:`lmmem.sweep.tasks.run`.
    mean_of : steps whose weights are averaged, in the place of `step`; the last of them is the step in the table.
    rounding : round the weights, as for :func:`lmmem.inference.rounding.rounded`: "float16", "int8" or "int4".
    keep_tokens : also keep what it says: a column said, a list of 64 ids in each line.

    Returns
    -------
    One line a row, columns model, step, index, kl_ld (tokens), kl_first and kl_second (the same of the first
    half of the continuation and of the rest, each against its own half of the truth), matched_prefix (tokens),
    cross_entropy (nats per token), rms (of the weights); rounding, where there is one.
    """
    steps = [] if mean_of is None else sorted({resolve_step(name, one) for one in mean_of})
    at = steps[-1] if steps else step
    every, numbers, tokens = settings_of(name, corpus, index, at, dtype, device, scheduler, keep_tokens)
    if mean_of is not None:
        every = [settings | {"mean_of": steps, "weights": weights_of(name, steps)} for settings in every]
    if rounding is not None:
        if rounding not in ROUNDINGS:
            raise ValueError(f"rounding={rounding!r}: give one of {', '.join(ROUNDINGS)}")
        every = [settings | {"rounding": rounding} for settings in every]
    tasks = [task_of(Part("greedy", settings), _greedy_part, len(tokens), numbers, tokens) for settings in every]
    return measured(tasks, scheduler, "greedy continuations")


def _greedy_part(info: ModelInfo, settings: Settings, index: np.ndarray, tokens: np.ndarray) -> pd.DataFrame:
    model, prompts, truth = ready(info, settings, tokens)
    rounding = {name: settings[name] for name in ("rounding",) if name in settings}
    with restored(rounded(model, rounding["rounding"]) if rounding else nullcontext()):
        said = decoding.greedy(model, prompts)
        return pd.DataFrame(
            {
                "model": settings["model"],
                "step": settings["step"],
                "index": index,
                **rounding,
                **distances(said, truth),
                "matched_prefix": matched_prefix(said, truth),
                "cross_entropy": cross_entropy(model, prompts, truth),
                "rms": weight_rms(model),
                **kept(settings, said),
            }
        )


def likelihood_table(
    name: str,
    corpus: Corpus,
    index: Sequence[int],
    step: int | Sequence[int] | None = None,
    *,
    dtype: str | None = None,
    device: str | None = None,
    scheduler: str | Client | None = None,
    keep_tokens: bool = False,
) -> pd.DataFrame:
    """How likely the model finds the true continuations: one forward pass a row, without decoding.

    Parameters
    ----------
    name, corpus, index, step, dtype, device, scheduler : as for :func:`greedy_table`.
    keep_tokens : also keep the figures of each token: columns log_probs, entropies, spreads, ranks, lists of 64 (see
        :class:`lmmem.inference.scoring.TokenScores`), and prompt_log_probs, of the prompt from its second token on
        (from its first, if there is a prefix before it).

    Returns
    -------
    One line a row, columns model, step, index, cross_entropy (nats per token), entropy (of the model's
    distribution, mean over tokens, nats), rank (of the true token, mean; 1 is the likeliest), recited (tokens that
    greedy decoding says right before its first wrong one), matches (tokens that it would say after the true ones).
    In half precision a pass rounds otherwise than decoding, and where two tokens are nearly as likely recited may end
    elsewhere than :func:`greedy_table` says.
    """
    every, numbers, tokens = settings_of(name, corpus, index, step, dtype, device, scheduler, keep_tokens)
    tasks = [
        task_of(Part("likelihood", settings), _likelihood_part, len(tokens), numbers, tokens) for settings in every
    ]
    return measured(tasks, scheduler, "likelihood")


def _likelihood_part(info: ModelInfo, settings: Settings, index: np.ndarray, tokens: np.ndarray) -> pd.DataFrame:
    model, prompts, truth = ready(info, settings, tokens)
    kept: dict[str, list[np.ndarray]] = {}
    if settings.get("keep_tokens"):  # of the prompt too, in the same pass
        row = score_tokens(model, prompts[:, :1], np.concatenate([prompts[:, 1:], truth], axis=1))
        first = max(0, prompts.shape[1] - PROMPT - 1)  # of a prefix nothing is kept
        kept["prompt_log_probs"] = list(row.log_prob[:, first : -truth.shape[1]])
        scores = TokenScores(*(values[:, -truth.shape[1] :] for values in row))
        names = ("log_probs", "entropies", "spreads", "ranks")
        kept |= {name: list(values) for name, values in zip(names, scores[: len(names)], strict=True)}
    else:
        scores = score_tokens(model, prompts, truth)
    return pd.DataFrame(
        {
            "model": settings["model"],
            "step": settings["step"],
            "index": index,
            "cross_entropy": -scores.log_prob.mean(axis=1, dtype=np.float64),
            "entropy": scores.entropy.mean(axis=1, dtype=np.float64),
            "rank": scores.rank.mean(axis=1),
            "recited": scores.likeliest.cumprod(axis=1).sum(axis=1),
            "matches": scores.likeliest.sum(axis=1),
            **kept,
        }
    )


def likelihood_is_kept(
    name: str,
    corpus: Corpus,
    index: Sequence[int],
    step: int | Sequence[int] | None = None,
    *,
    dtype: str | None = None,
    device: str | None = None,
    scheduler: str | Client | None = None,
) -> bool:
    """Whether :func:`likelihood_table` of the same would read what is on disk, and measure nothing.

    >>> import lmmem
    >>> corpus, rows = lmmem.training_data("pocket-mini"), [101, 103, 107]
    >>> table = likelihood_table("pocket-mini", corpus, rows)
    >>> likelihood_is_kept("pocket-mini", corpus, rows), likelihood_is_kept("pocket-mini", corpus, rows[1:])
    (True, False)
    """
    every, _, _ = settings_of(name, corpus, index, step, dtype, device, scheduler, False)
    return all(Part("likelihood", settings).path.exists() for settings in every)


def seconds_a_pass(
    name: str,
    corpus: Corpus,
    index: Sequence[int],
    step: int | None = None,
    *,
    dtype: str | None = None,
    device: str | None = None,
    scheduler: str | Client | None = None,
) -> float:
    """Seconds that the likelihood of one sequence takes, timed now on some of these, where it is measured.

    Parameters
    ----------
    name, corpus, index, step, dtype, device, scheduler : as for :func:`greedy_table`; of a slow model few are timed.

    >>> import lmmem
    >>> seconds_a_pass("pocket-mini", lmmem.training_data("pocket-mini"), range(64)) < 1
    True
    """
    (settings,), _, tokens = settings_of(name, corpus, index, step, dtype, device, scheduler, False)
    return on_one_worker(scheduler, functools.partial(_seconds_a_pass, MODELS[name], settings, tokens))[0]


def _seconds_a_pass(info: ModelInfo, settings: Settings, tokens: np.ndarray) -> float:
    model, prompts, truth = ready(info, settings, tokens)
    score_tokens(model, prompts[:1], truth[:1])  # the first call of a process is slow
    for n in PASSES:
        start = time.perf_counter()
        score_tokens(model, prompts[:n], truth[:n])
        took = time.perf_counter() - start
        if took > ENOUGH:
            break
    return took / len(prompts[:n])


def temperature_table(
    name: str,
    corpus: Corpus,
    index: Sequence[int],
    step: int | Sequence[int] | None = None,
    *,
    temperatures: Sequence[float],
    samples: int = DRAWS,
    seed: int = 0,
    dtype: str | None = None,
    device: str | None = None,
    scheduler: str | Client | None = None,
    collect: bool = True,
    keep_tokens: bool = False,
) -> pd.DataFrame:
    """What the model says when its continuations are sampled.

    Parameters
    ----------
    name, corpus, index, step, dtype, device, scheduler : as for :func:`greedy_table`.
    temperatures : each is one set of samples.
    samples : continuations per row and temperature.
    seed : of the sampling.
    collect, keep_tokens : as for :func:`perturbation_table`.

    Returns
    -------
    One line a (row, temperature, sample), columns model, step, index, temperature, sample, kl_ld
    (tokens).

    Raises
    ------
    ValueError : samples below 1, seed negative, or temperatures that are none, the same or negative.
    """
    check_whole("samples", samples, 1)
    check_whole("seed", seed, 0)
    check_temperatures(temperatures)
    if 0 in temperatures and samples > 1:
        raise ValueError(f"at temperature 0 all {samples} samples are equal: ask for 1, or temperatures above 0")
    every, numbers, tokens = settings_of(name, corpus, index, step, dtype, device, scheduler, keep_tokens)
    tasks = []
    for settings in every:
        for temperature in temperatures:  # each is a table of its own, whatever others are asked for with it
            one = settings | {"samples": samples, "seed": seed, "temperature": temperature}
            for rows in spans(len(tokens), SAMPLED_PER_PART):
                span = {"rows": [rows.start, rows.stop]}
                part = Part("temperature", one, span, of=samples * len(tokens))
                size = samples * len(tokens[rows])
                arguments = [seed, rows.start], numbers[rows], tokens[rows]
                tasks.append(task_of(part, _temperature_part, size, *arguments))
    return measured(tasks, scheduler, "continuations", collect)


def _temperature_part(
    info: ModelInfo, settings: Settings, seed: list[int], index: np.ndarray, tokens: np.ndarray
) -> pd.DataFrame:
    model, prompts, truth = ready(info, settings, tokens)
    samples, temperature = settings["samples"], settings["temperature"]
    said = decoding.sample(model, prompts, temperature, samples, seed)  # (samples, n, l)
    return pd.DataFrame(
        {
            "model": settings["model"],
            "step": settings["step"],
            "index": np.tile(index, samples),
            "temperature": temperature,
            "sample": np.repeat(np.arange(samples), len(truth)),
            "kl_ld": levenshtein(said, truth).ravel(),
            **kept(settings, said.reshape(-1, said.shape[-1])),
        }
    )


def prompted_table(
    name: str,
    corpus: Corpus,
    index: Sequence[int],
    step: int | Sequence[int] | None = None,
    *,
    start: int = 0,
    stop: int = PROMPT,
    dtype: str | None = None,
    device: str | None = None,
    scheduler: str | Client | None = None,
    keep_tokens: bool = False,
) -> pd.DataFrame:
    """What the model says greedily after another prompt: a shorter or longer part of the passage, or one elsewhere.

    Of the passage, its prompt of 32 tokens and its continuation of 64, tokens start .. stop - 1 are given and those
    from stop on are asked for. With start 0, stop = 32 + g is a hint: the first g tokens of the continuation given.

    Parameters
    ----------
    name, corpus, index, step, dtype, device, scheduler, keep_tokens : as for :func:`greedy_table`.
    start, stop : places in the passage, 0 <= start < stop < 96.

    Returns
    -------
    One line a row, columns model, step, index, start, stop, asked (tokens: 96 - stop), kl_ld (of these, tokens),
    kl_ld_share (kl_ld / asked, so that prompts compare), cross_entropy (nats per token asked for).

    Raises
    ------
    ValueError : start or stop lie outside the passage.
    """
    check_whole("start", start, 0)
    check_whole("stop", stop, 1)
    if not start < stop < PROMPT + CONTINUATION:
        raise ValueError(
            f"a prompt from token {start} up to token {stop}: of the {PROMPT + CONTINUATION} tokens of a passage, one "
            "or more are given, and one or more after them are asked for"
        )
    every, numbers, tokens = settings_of(name, corpus, index, step, dtype, device, scheduler, keep_tokens)
    parts = [Part("prompted", settings | {"start": start, "stop": stop}) for settings in every]
    tasks = [task_of(part, _prompted_part, len(tokens), numbers, tokens) for part in parts]
    return measured(tasks, scheduler, f"continuations of tokens {start} to {stop}")


def _prompted_part(info: ModelInfo, settings: Settings, index: np.ndarray, tokens: np.ndarray) -> pd.DataFrame:
    model, *_ = ready(info, settings, tokens)
    start, stop = settings["start"], settings["stop"]
    prompts, truth = prefixed(settings, tokens[:, start:stop]), tokens[:, stop:]
    said = decoding.greedy(model, prompts, truth.shape[1])
    distance = levenshtein(said, truth)
    return pd.DataFrame(
        {
            "model": settings["model"],
            "step": settings["step"],
            "index": index,
            "start": start,
            "stop": stop,
            "asked": truth.shape[1],
            "kl_ld": distance,
            "kl_ld_share": distance / truth.shape[1],
            "cross_entropy": cross_entropy(model, prompts, truth),
            **kept(settings, said),
        }
    )
