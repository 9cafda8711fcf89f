"""What a model says of sequences, as tidy tables: greedily, under noise on its weights, sampled, and otherwise asked.

Every page calls these. A table is keyed by (model, step, index) and what varies: (sigma, draw),
(temperature, sample) or (start, stop) of the prompt; it is read from disk when it is there. Knows nothing of figures.
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from tqdm import tqdm

from lmmem.corpora.corpus import Corpus
from lmmem.inference import decoding
from lmmem.inference.extraction import BEAMS, extraction_log_probs, near_verbatim_log_mass
from lmmem.inference.perturbation import UNITS, cosines, parts_of, perturbed, weight_rms
from lmmem.inference.rounding import ROUNDINGS, rounded
from lmmem.inference.scoring import TokenScores, cross_entropy, score_tokens
from lmmem.inference.teaching import Teacher, check_teaching, native_precision, taught
from lmmem.inference.tokens import as_tokens
from lmmem.measures.distance import levenshtein, matched_prefix
from lmmem.models.loading import load_mean, weights_id
from lmmem.models.registry import MODELS, ModelInfo, resolve_step
from lmmem.protocol import CONTINUATION, DRAWS, HALF, PROMPT, split
from lmmem.storage.files import DamagedError
from lmmem.storage.results import Part
from lmmem.sweep.cluster import on_one_worker, on_worker
from lmmem.sweep.tasks import BadInputError, Task, run

if TYPE_CHECKING:
    from distributed import Client
    from transformers import PreTrainedModel

__all__ = [
    "check_whole",
    "device_here",
    "disturbed_likelihood_table",
    "extraction_table",
    "greedy_table",
    "kl_ld",
    "likelihood_table",
    "near_verbatim_table",
    "parts",
    "perturbation_table",
    "prompted_table",
    "relearning_table",
    "resemblance_table",
    "seconds_each",
    "temperature_table",
]

DRAWS_PER_PART = 10  # measured between two writes to disk: what an interruption can cost
SEQUENCES_PER_PART = 10_000
SAMPLED_PER_PART = 1_000  # sequences, each with all its samples
TAUGHT_A_STEP = 8  # passages; as many rows of natural text are beside them
SEARCHED_PER_PART = 64  # sequences, each with all its hypotheses
TIMED = 1_024  # sequences timed to say how long all take
KIND_OF_NOISE: dict[str, Any] = {"sigma": None, "unit": UNITS[0], "only": None}  # and what it is if nobody says
Settings = dict[str, Any]  # what determines a measurement, as JSON values


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
    (settings,), _, tokens = _settings(name, corpus, index, step, dtype, device, scheduler, False)
    timed = tokens[: TIMED // max(1, samples)]
    seconds, workers = on_one_worker(
        scheduler, functools.partial(_seconds_each, MODELS[name], settings, timed, samples)
    )
    return seconds * len(tokens) / max(1, len(timed)) / max(1, samples) / workers


def _seconds_each(info: ModelInfo, settings: Settings, tokens: np.ndarray, samples: int) -> float:
    model, prompts, _ = _ready(info, settings, tokens)

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


def parts(name: str, corpus: Corpus, step: int | None = None, *, scheduler: str | Client | None = None) -> list[str]:
    """The layers and kinds of weights of a model, as :func:`lmmem.inference.perturbation.parts_of` names them.

    Parameters
    ----------
    name, corpus, step, scheduler : as for :func:`greedy_table`; the model is loaded where it is measured.

    >>> import lmmem
    >>> parts("pocket-mini", lmmem.training_data("pocket-mini"))[-2:]
    ['MLP', 'norms']
    """
    (settings,), _, _ = _settings(name, corpus, [], step, None, None, scheduler, False)
    return on_one_worker(scheduler, functools.partial(_parts, MODELS[name], settings))[0]


def _parts(info: ModelInfo, settings: Settings) -> list[str]:
    return list(parts_of(_loaded(info, settings)))


def check_whole(name: str, value: Any, least: int) -> None:
    """Refuse what is no whole number, or too small a one.

    >>> check_whole("draws", 0, least=1)
    Traceback (most recent call last):
    ValueError: draws=0: give a whole number, 1 or more
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r}: give a whole number, {least} or more")


def _check_amount(name: str, value: Any, unit: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < np.inf:
        raise ValueError(f"{name}={value!r}: give a number, 0 or more, {unit}")


def _check_temperatures(temperatures: Any) -> None:
    if isinstance(temperatures, str | bytes) or not isinstance(temperatures, Sequence) or not temperatures:
        raise ValueError(f"temperatures={temperatures!r}: give a list of them, [0.3, 1.0]")
    for temperature in temperatures:
        _check_amount("temperatures", temperature, "each")
    if len(set(temperatures)) < len(temperatures):
        raise ValueError(f"temperatures={temperatures!r}: give each once")


def _check_sampling(temperatures: Any, top_k: int | None) -> None:
    _check_temperatures(temperatures)
    if 0 in temperatures:
        raise ValueError("at temperature 0 sampling is greedy, and kl_ld says what it gives: ask for one above 0")
    if top_k is not None:
        check_whole("top_k", top_k, 1)


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
    every, numbers, tokens = _settings(name, corpus, index, at, dtype, device, scheduler, keep_tokens)
    if mean_of is not None:
        every = [settings | {"mean_of": steps, "weights": _weights_id(name, steps)} for settings in every]
    if rounding is not None:
        if rounding not in ROUNDINGS:
            raise ValueError(f"rounding={rounding!r}: give one of {', '.join(ROUNDINGS)}")
        every = [settings | {"rounding": rounding} for settings in every]
    tasks = [_task(Part("greedy", settings), _greedy_part, len(tokens), numbers, tokens) for settings in every]
    return _measured(tasks, scheduler, "greedy continuations")


def _greedy_part(info: ModelInfo, settings: Settings, index: np.ndarray, tokens: np.ndarray) -> pd.DataFrame:
    model, prompts, truth = _ready(info, settings, tokens)
    rounding = {name: settings[name] for name in ("rounding",) if name in settings}
    with _restored(rounded(model, rounding["rounding"]) if rounding else nullcontext()):
        said = decoding.greedy(model, prompts)
        return pd.DataFrame(
            {
                "model": settings["model"],
                "step": settings["step"],
                "index": index,
                **rounding,
                **_distances(said, truth),
                "matched_prefix": matched_prefix(said, truth),
                "cross_entropy": cross_entropy(model, prompts, truth),
                "rms": weight_rms(model),
                **_kept(settings, said),
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
        :class:`lmmem.inference.scoring.TokenScores`), and prompt_log_probs, of the prompt from its second token on.

    Returns
    -------
    One line a row, columns model, step, index, cross_entropy (nats per token), entropy (of the model's
    distribution, mean over tokens, nats), rank (of the true token, mean; 1 is the likeliest).
    """
    every, numbers, tokens = _settings(name, corpus, index, step, dtype, device, scheduler, keep_tokens)
    tasks = [_task(Part("likelihood", settings), _likelihood_part, len(tokens), numbers, tokens) for settings in every]
    return _measured(tasks, scheduler, "likelihood")


def _likelihood_part(info: ModelInfo, settings: Settings, index: np.ndarray, tokens: np.ndarray) -> pd.DataFrame:
    model, prompts, truth = _ready(info, settings, tokens)
    kept: dict[str, list[np.ndarray]] = {}
    if settings.get("keep_tokens"):  # of the prompt too, in the same pass
        row = score_tokens(model, prompts[:, :1], np.concatenate([prompts[:, 1:], truth], axis=1))
        kept["prompt_log_probs"] = list(row.log_prob[:, : -truth.shape[1]])
        scores = TokenScores(*(values[:, -truth.shape[1] :] for values in row))
        names = ("log_probs", "entropies", "spreads", "ranks")
        kept |= {name: list(values) for name, values in zip(names, scores, strict=True)}
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
            **kept,
        }
    )


def perturbation_table(
    name: str,
    corpus: Corpus,
    index: Sequence[int],
    step: int | Sequence[int] | None = None,
    *,
    sigma: float | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    unit: str = UNITS[0],
    only: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    scheduler: str | Client | None = None,
    collect: bool = True,
    keep_tokens: bool = False,
) -> pd.DataFrame:
    """What the model says after each of many random perturbations of its weights.

    Parameters
    ----------
    name, corpus, index, step, dtype, device, scheduler : as for :func:`greedy_table`.
    sigma : standard deviation of the noise, in absolute weight units; None is the model's default.
    draws : number of perturbations; draw d is the same whatever their number.
    seed : of the noise.
    unit, only : of sigma, and which weights, as for :func:`lmmem.perturbed`.
    collect : False is for tables larger than memory: they are measured and kept, and what is returned
        is a line for each of their files, with columns model, step, rows, file.
    keep_tokens : as for :func:`greedy_table`.

    Returns
    -------
    One line a (row, draw), columns model, step, index, sigma, draw, kl_ld, kl_first and kl_second (tokens, as
    for :func:`greedy_table`); unit and only, where they are not what they are if nobody says.

    Raises
    ------
    ValueError : draws below 1, sigma or seed negative, no such unit, or `only` means no parameter.
    """
    sigma = MODELS[name].sigma if sigma is None else sigma
    if sigma is None:
        raise ValueError(f"sigma=None: give a number, no default is known of {name}; Study.sigma is one by its cost")
    check_whole("draws", draws, 1)
    check_whole("seed", seed, 0)
    kind = _kind_of_noise(sigma, unit, only)
    every, numbers, tokens = _settings(name, corpus, index, step, dtype, device, scheduler, keep_tokens)
    tasks = []
    for settings in every:
        settings |= kind | {"seed": seed}
        if draws % DRAWS_PER_PART:  # a span that is cut short must not lie beside the full one
            settings |= {"draws": draws}
        for rows in _spans(len(tokens), SEQUENCES_PER_PART):
            for drawn in _spans(draws, DRAWS_PER_PART):
                span = {"rows": [rows.start, rows.stop], "draws": [drawn.start, drawn.stop]}
                part = Part("perturbation", settings, span, of=draws * len(tokens))
                these = range(drawn.start, drawn.stop)
                size = len(tokens[rows]) * len(these)
                tasks.append(_task(part, _perturbation_part, size, these, numbers[rows], tokens[rows]))
    return _measured(tasks, scheduler, f"perturbations at sigma {sigma:g}", collect)


def _perturbation_part(
    info: ModelInfo, settings: Settings, draws: range, index: np.ndarray, tokens: np.ndarray
) -> pd.DataFrame:
    every = []
    for draw in draws:
        model, prompts, truth = _ready(info, settings, tokens)
        with _disturbed(model, settings, draw):
            every.append(decoding.greedy(model, prompts))
    said = np.stack(every)  # (draws, n, l)
    return pd.DataFrame(
        {
            "model": settings["model"],
            "step": settings["step"],
            "index": np.tile(index, len(draws)),
            **{name: settings[name] for name in KIND_OF_NOISE if name in settings},
            "draw": np.repeat(np.array(draws), len(index)),
            **{name: distances.ravel() for name, distances in _distances(said, truth).items()},
            **_kept(settings, said.reshape(-1, said.shape[-1])),
        }
    )


def disturbed_likelihood_table(
    name: str,
    corpus: Corpus,
    index: Sequence[int],
    step: int | Sequence[int] | None = None,
    *,
    sigma: float,
    draws: int,
    seed: int = 0,
    unit: str = UNITS[0],
    only: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    scheduler: str | Client | None = None,
) -> pd.DataFrame:
    """How likely the model finds the true continuations under noise: one forward pass a row and draw.

    Parameters
    ----------
    name, corpus, index, step, dtype, device, scheduler : as for :func:`greedy_table`.
    sigma, draws, seed, unit, only : as for :func:`perturbation_table`, whose noise it is.

    Returns
    -------
    One line a (row, draw), columns model, step, index, sigma, draw, cross_entropy (nats per token); unit and only
    as for :func:`perturbation_table`.
    """
    check_whole("draws", draws, 1)
    check_whole("seed", seed, 0)
    kind = _kind_of_noise(sigma, unit, only) | {"seed": seed, "draws": draws}
    every, numbers, tokens = _settings(name, corpus, index, step, dtype, device, scheduler, False)
    parts = [Part("disturbed_likelihood", settings | kind) for settings in every]
    tasks = [_task(part, _disturbed_likelihood_part, draws * len(tokens), numbers, tokens) for part in parts]
    return _measured(tasks, scheduler, f"likelihood at sigma {sigma:g}")


def _disturbed_likelihood_part(
    info: ModelInfo, settings: Settings, index: np.ndarray, tokens: np.ndarray
) -> pd.DataFrame:
    losses = []
    for draw in range(settings["draws"]):
        model, prompts, truth = _ready(info, settings, tokens)
        with _disturbed(model, settings, draw):
            losses.append(cross_entropy(model, prompts, truth))
    return pd.DataFrame(
        {
            "model": settings["model"],
            "step": settings["step"],
            "index": np.tile(index, len(losses)),
            **{name: settings[name] for name in KIND_OF_NOISE if name in settings},
            "draw": np.repeat(np.arange(len(losses)), len(index)),
            "cross_entropy": np.concatenate(losses),
        }
    )


RANDOM = "at random"  # a direction that has nothing to do with training


def resemblance_table(
    name: str,
    corpus: Corpus,
    step: int | None,
    others: Sequence[int],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    dtype: str | None = None,
    device: str | None = None,
    scheduler: str | Client | None = None,
) -> pd.DataFrame:
    """How far each draw of noise points where training went between two steps.

    Parameters
    ----------
    name, corpus, step, dtype, device, scheduler : as for :func:`greedy_table`.
    others : steps; the change is from the weights of `step` to theirs. None of them: chance alone.
    draws, seed : as for :func:`perturbation_table`, whose noise it is.

    Returns
    -------
    One line a (change, draw), columns model, step, change ("to step 540"; "at random", a direction by chance),
    draw, cosine, weights (how many the model has: one over the root of it is the s.d. of a cosine by chance).

    Raises
    ------
    ValueError : the step itself is among the others.
    """
    check_whole("draws", draws, 1)
    check_whole("seed", seed, 0)
    (settings,), _, _ = _settings(name, corpus, [], step, dtype, device, scheduler, False)
    to = [resolve_step(name, other) for other in others]
    if settings["step"] in to:
        raise ValueError(f"others={others!r}: give steps that differ from step {settings['step']} itself")
    settings |= {"others": to, "other_weights": [weights_id(name, other) for other in to]}
    part = Part("resemblance", settings | {"draws": draws, "seed": seed})
    return _measured([_task(part, _resemblance_part, (1 + len(to)) * draws)], scheduler, "cosines of noise")


def _resemblance_part(info: ModelInfo, settings: Settings) -> pd.DataFrame:
    try:
        model = _loaded(info, settings)
    except ValueError as error:
        raise BadInputError(str(error)) from error
    names = [f"to step {other}" for other in settings["others"]]
    changes = []
    with torch.no_grad():
        for other in settings["others"]:
            there = dict(load_mean(info.name, [other], settings["dtype"], settings["device"]).named_parameters())
            changes.append({name: there[name].float() - here.float() for name, here in model.named_parameters()})
        chance = torch.Generator().manual_seed(settings["seed"])
        weights = dict(model.named_parameters())
        changes.append({name: torch.randn(w.shape, generator=chance).to(w.device) for name, w in weights.items()})
    found = [cosines(model, changes, settings["seed"], draw) for draw in range(settings["draws"])]
    table = pd.DataFrame(found, columns=[*names, RANDOM]).rename_axis("draw").reset_index()
    table = table.melt(id_vars="draw", var_name="change", value_name="cosine")
    many = sum(weight.numel() for weight in weights.values())
    return table.assign(model=settings["model"], step=settings["step"], weights=many)


def _kind_of_noise(sigma: float, unit: str, only: str | None) -> Settings:
    """What tells one kind of noise from another, as settings: as few as do.

    Raises
    ------
    ValueError : sigma is no amount, or unit or only are none; what `only` means, the model has to say.
    """
    _check_amount("sigma", sigma, "in weight units" if unit == UNITS[0] else "a share of each tensor's rms")
    if unit not in UNITS:
        raise ValueError(f"unit={unit!r}: give one of {', '.join(UNITS)}")
    if only is not None and not isinstance(only, str):
        raise ValueError(f"only={only!r}: give a part of the model, or a regular expression of parameters' names")
    kind = {"sigma": sigma, "unit": unit, "only": only}
    return {name: kind[name] for name, usual in KIND_OF_NOISE.items() if kind[name] != usual}


def _disturbed(model: PreTrainedModel, settings: Settings, draw: int) -> AbstractContextManager[None]:
    """Within the block, the model has the noise of these settings and this draw."""
    kind = {name: settings.get(name, usual) for name, usual in KIND_OF_NOISE.items()}
    return _restored(perturbed(model, **kind, seed=settings["seed"], draw=draw))


@contextmanager
def _restored(change: AbstractContextManager[Any]) -> Iterator[None]:
    """Within the block, a change of the held model's weights that comes off after it.

    Raises
    ------
    BadInputError : the change cannot be made to this model.
    """
    try:
        with change:
            yield
    except ValueError as error:
        raise BadInputError(str(error)) from error
    except BaseException:
        _held.clear()  # its weights may not all be restored
        raise


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
    _check_temperatures(temperatures)
    if 0 in temperatures and samples > 1:
        raise ValueError(f"at temperature 0 all {samples} samples are equal: ask for 1, or temperatures above 0")
    every, numbers, tokens = _settings(name, corpus, index, step, dtype, device, scheduler, keep_tokens)
    tasks = []
    for settings in every:
        for temperature in temperatures:  # each is a table of its own, whatever others are asked for with it
            one = settings | {"samples": samples, "seed": seed, "temperature": temperature}
            for rows in _spans(len(tokens), SAMPLED_PER_PART):
                span = {"rows": [rows.start, rows.stop]}
                part = Part("temperature", one, span, of=samples * len(tokens))
                size = samples * len(tokens[rows])
                arguments = [seed, rows.start], numbers[rows], tokens[rows]
                tasks.append(_task(part, _temperature_part, size, *arguments))
    return _measured(tasks, scheduler, "temperatures", collect)


def _temperature_part(
    info: ModelInfo, settings: Settings, seed: list[int], index: np.ndarray, tokens: np.ndarray
) -> pd.DataFrame:
    model, prompts, truth = _ready(info, settings, tokens)
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
            **_kept(settings, said.reshape(-1, said.shape[-1])),
        }
    )


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
    every, numbers, tokens = _settings(name, corpus, index, step, dtype, device, scheduler, keep_tokens)
    parts = [Part("extraction", settings | {"temperatures": [*temperatures], "top_k": top_k}) for settings in every]
    tasks = [_task(part, _extraction_part, len(tokens), numbers, tokens) for part in parts]
    return _measured(tasks, scheduler, "probabilities of extraction")


def _extraction_part(info: ModelInfo, settings: Settings, index: np.ndarray, tokens: np.ndarray) -> pd.DataFrame:
    model, prompts, truth = _ready(info, settings, tokens)
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
    every, numbers, tokens = _settings(name, corpus, index, step, dtype, device, scheduler, False)
    asked = {"distance": distance, "temperature": temperature, "top_k": top_k, "beams": beams}
    tasks = []
    for settings in every:
        for rows in _spans(len(tokens), SEARCHED_PER_PART):
            span = {"rows": [rows.start, rows.stop]}
            part = Part("near_verbatim", settings | asked, span, of=(distance + 1) * len(tokens))
            size = (1 + distance * beams) * len(tokens[rows])
            tasks.append(_task(part, _near_verbatim_part, size, numbers[rows], tokens[rows]))
    return _measured(tasks, scheduler, f"beams within {distance} tokens")


def _near_verbatim_part(info: ModelInfo, settings: Settings, index: np.ndarray, tokens: np.ndarray) -> pd.DataFrame:
    options = {key: settings[key] for key in ("distance", "temperature", "top_k", "beams")}
    mass = near_verbatim_log_mass(*_ready(info, settings, tokens), **options)  # (n, distance + 1)
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
    every, numbers, tokens = _settings(name, corpus, index, step, dtype, device, scheduler, keep_tokens)
    parts = [Part("prompted", settings | {"start": start, "stop": stop}) for settings in every]
    tasks = [_task(part, _prompted_part, len(tokens), numbers, tokens) for part in parts]
    return _measured(tasks, scheduler, f"continuations of tokens {start} to {stop}")


def _prompted_part(info: ModelInfo, settings: Settings, index: np.ndarray, tokens: np.ndarray) -> pd.DataFrame:
    model, *_ = _ready(info, settings, tokens)
    start, stop = settings["start"], settings["stop"]
    prompts, truth = tokens[:, start:stop], tokens[:, stop:]
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
            **_kept(settings, said),
        }
    )


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
    dtype : of the weights; None is the model's, or float32 in the place of float16.

    Returns
    -------
    One line a (seed, presentation, row), columns model, step, index, seed, presentation (0, before any, to
    `presentations`), kl_ld (tokens), cross_entropy (nats per token).

    Raises
    ------
    ValueError : presentations below 1, no seed or the same twice, too little natural text, rows of another width, an
        optimizer that is not known, or float16.
    """
    check_whole("presentations", presentations, 1)
    if isinstance(seeds, str | int) or not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={seeds!r}: give a list of them, each once")
    for seed in seeds:
        check_whole("seeds", seed, 0)
    usual = MODELS[name].dtype
    dtype = dtype or ("float32" if usual == "float16" else usual)
    check_teaching(optimizer, learning_rate, dtype)
    every, numbers, tokens = _settings(name, corpus, index, step, dtype, device, scheduler, False)
    rows = [_as_taught("natural", natural, tokens.shape[1], least=TAUGHT_A_STEP)]
    rows.append(tokens if instead is None else _as_taught("instead", instead, tokens.shape[1], least=0))
    shared = {"optimizer": optimizer, "learning_rate": learning_rate, "presentations": presentations}
    shared |= {key: _digest(of) for key, of in zip(("natural", "taught"), rows, strict=True)}
    tasks = []
    for settings in every:
        settings |= shared | {"precision": native_precision(torch.device(settings["device"]))}
        for seed in seeds:
            part = Part("relearning", settings, {"seed": seed}, of=len(seeds) * (1 + presentations) * len(tokens))
            tasks.append(_task(part, _relearning_part, (1 + presentations) * len(tokens), seed, numbers, tokens, *rows))
    return _measured(tasks, scheduler, "relearning")


def _relearning_part(
    info: ModelInfo,
    settings: Settings,
    seed: int,
    index: np.ndarray,
    tokens: np.ndarray,
    natural: np.ndarray,
    passages: np.ndarray,
) -> pd.DataFrame:
    model, prompts, truth = _ready(info, settings, tokens)
    rng = np.random.default_rng([seed, 0])
    lines = []
    bar = tqdm(range(1 + settings["presentations"]), desc=f"seed {seed}", unit="presentation", leave=False)
    try:
        with taught(model, settings["optimizer"], settings["learning_rate"]) as teacher:
            for presentation in bar:
                if presentation:
                    _teach_once(teacher, passages, natural, -(-len(tokens) // TAUGHT_A_STEP), rng)
                distance = levenshtein(decoding.greedy(model, prompts), truth)
                lines.append((presentation, distance, cross_entropy(model, prompts, truth)))
    except BaseException:
        _held.clear()  # its weights may not all be restored
        raise
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


def _distances(said: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Of continuations (.., n, l) from the truth (n, l): of all of it, of its first half and of the rest."""
    halves = {"kl_first": slice(HALF), "kl_second": slice(HALF, None)}
    apart = {name: levenshtein(said[..., half], truth[:, half]) for name, half in halves.items()}
    return {"kl_ld": levenshtein(said, truth), **apart}


def _kept(settings: Settings, said: np.ndarray) -> dict[str, list[np.ndarray]]:
    """What is said (n, l), as a column, if it is to be kept."""
    return {"said": list(said.astype(np.int32))} if settings.get("keep_tokens") else {}


def _spans(n: int, size: int) -> list[slice]:
    """All of 0 .. n in slices of a size; one slice at least."""
    return [slice(first, min(first + size, n)) for first in range(0, max(n, 1), size)]


def _settings(
    name: str,
    corpus: Corpus,
    index: Sequence[int],
    step: int | Sequence[int] | None,
    dtype: str | None,
    device: str | None,
    scheduler: str | Client | None,
    keep_tokens: bool,
) -> tuple[list[Settings], np.ndarray, np.ndarray]:
    """What determines a measurement at each step, as JSON values; the rows' numbers (n,) and tokens (n, 96)."""
    index = list(index)
    tokens = np.concatenate([_heads(corpus, index[rows]) for rows in _spans(len(index), SEQUENCES_PER_PART)])
    numbers = np.array(index, dtype=np.int64)
    steps = [resolve_step(name, one) for one in (step if isinstance(step, Sequence) else [step])]
    if not steps or len(set(steps)) < len(steps):
        raise ValueError(f"step={step!r}: give a step, or several that differ")
    settings = {
        "model": name,
        "dtype": dtype or MODELS[name].dtype,
        "device": device or on_worker(scheduler, device_here),
        "prompt": PROMPT,
        "continuation": CONTINUATION,
        "index": _digest(numbers),
        "tokens": _digest(tokens),
    }
    if keep_tokens:  # else as if there were no such choice
        settings["keep_tokens"] = True
    return [settings | {"step": step, "weights": weights_id(name, step)} for step in steps], numbers, tokens


def _digest(values: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()[:16]


def _heads(corpus: Corpus, index: list[int]) -> np.ndarray:
    """Prompts and continuations (n, 96) of rows, as they are sent to workers: whole rows may be long."""
    return corpus[index][:, : PROMPT + CONTINUATION].astype(np.int32)


def _task(part: Part, measure: Callable[..., pd.DataFrame], size: int, *arguments: Any) -> Task:
    """A measurement whose worker needs the weights of these settings."""
    settings = dict(part.settings)
    info, needs = MODELS[settings["model"]], " ".join(_weights(settings))
    return Task(part, measure, (info, settings, *arguments), size, needs)


def _weights(settings: Settings) -> tuple[str, str, str]:
    """What tells a loaded model from any other."""
    return settings["weights"], settings["dtype"], settings["device"]


def _weights_id(name: str, steps: Sequence[int]) -> str:
    """What tells these weights, or their mean, from any others."""
    every = [weights_id(name, step) for step in steps]
    return every[0] if len(every) == 1 else hashlib.sha256("".join(every).encode()).hexdigest()


def device_here() -> str:
    """What this machine computes on if nothing else is asked for: "cuda" or "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _measured(tasks: list[Task], scheduler: str | Client | None, what: str, collect: bool = True) -> pd.DataFrame:
    """The table of these parts, under the provenance of the last and the seconds of all; or where they are."""
    tables = run(tasks, scheduler, what=what, unit="continuations", collect=collect)
    if not collect:
        files = [(*(t.part.settings[key] for key in ("model", "step")), t.size, str(t.part.path)) for t in tasks]
        return pd.DataFrame(files, columns=["model", "step", "rows", "file"])
    records = [part.attrs["provenance"] for part in tables]
    table = pd.concat(tables, ignore_index=True)
    steps = sorted({record["step"] for record in records})
    table.attrs["provenance"] = records[-1] | {"steps": steps, "seconds": sum(record["seconds"] for record in records)}
    return table


def _ready(info: ModelInfo, settings: Settings, tokens: np.ndarray) -> tuple[PreTrainedModel, np.ndarray, np.ndarray]:
    """The model of these settings, prompts and truth.

    Raises
    ------
    BadInputError : it cannot be loaded as asked, is another model here, or cannot read these tokens.
    """
    try:
        model = _loaded(info, settings)
        as_tokens(model, tokens, "sequences")
    except DamagedError:  # of this machine: another may have the file whole
        raise
    except ValueError as error:
        raise BadInputError(str(error)) from error
    return model, *split(tokens)


_held: dict[tuple[str, ...], PreTrainedModel] = {}  # the model measured last: one at a time


def _loaded(info: ModelInfo, settings: Settings) -> PreTrainedModel:
    """The model of these settings, loaded unless it is the one measured last.

    Raises
    ------
    ValueError : it cannot be loaded as asked, or this machine has other weights under its name.
    """
    key = _weights(settings)
    if key not in _held:
        name, steps = settings["model"], settings.get("mean_of", [settings["step"]])
        MODELS.take(info)
        if _weights_id(name, steps) != settings["weights"]:
            raise ValueError(
                f"the weights of {name} at step {settings['step']} differ between machines: let all of them use one "
                "cache folder, named by LMMEM_CACHE"
            )
        _held.clear()  # before the next is loaded, so that two never take memory at once
        _held[key] = load_mean(name, steps, settings["dtype"], settings["device"])
    return _held[key]
