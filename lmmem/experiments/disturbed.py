"""What a model says, and how likely it finds text, after noise on its weights, as tidy tables.

Keyed by (model, step, index, sigma, draw); read from disk when they are there. Knows nothing of figures.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from lmmem.corpora.corpus import Corpus
from lmmem.experiments.measuring import (
    SEQUENCES_PER_PART,
    Settings,
    check_amount,
    check_whole,
    distances,
    kept,
    loaded,
    measured,
    ready,
    restored,
    settings_of,
    spans,
    task_of,
)
from lmmem.inference import decoding
from lmmem.inference.perturbation import UNITS, cosines, parts_of, perturbed
from lmmem.inference.reading import NoNumbersError
from lmmem.inference.scoring import cross_entropy
from lmmem.models.loading import load_mean, weights_id
from lmmem.models.registry import MODELS, ModelInfo, resolve_step
from lmmem.protocol import DRAWS
from lmmem.storage.results import Part
from lmmem.sweep.cluster import on_one_worker
from lmmem.sweep.tasks import BadInputError

if TYPE_CHECKING:
    from distributed import Client
    from transformers import PreTrainedModel

__all__ = [
    "disturbed_likelihood_table",
    "parts",
    "perturbation_table",
    "resemblance_table",
]

DRAWS_PER_PART = 10  # measured between two writes to disk: what an interruption can cost
RANDOM = "at random"  # a direction that has nothing to do with training
KIND_OF_NOISE: dict[str, Any] = {"sigma": None, "unit": UNITS[0], "only": None}  # and what it is if nobody says


def parts(name: str, corpus: Corpus, step: int | None = None, *, scheduler: str | Client | None = None) -> list[str]:
    """The layers and kinds of weights of a model, as :func:`lmmem.inference.perturbation.parts_of` names them.

    Parameters
    ----------
    name, corpus, step, scheduler : as for :func:`greedy_table`; the model is loaded where it is measured.

    >>> import lmmem
    >>> parts("pocket-mini", lmmem.training_data("pocket-mini"))[-2:]
    ['MLP', 'norms']
    """
    (settings,), _, _ = settings_of(name, corpus, [], step, None, None, scheduler, False)
    return on_one_worker(scheduler, functools.partial(_parts, MODELS[name], settings))[0]


def _parts(info: ModelInfo, settings: Settings) -> list[str]:
    return list(parts_of(loaded(info, settings)))


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
    ValueError : draws below 1, sigma or seed negative, no such unit, `only` means no parameter, or the dtype loses the
        noise, as :func:`lmmem.inference.perturbation.perturbed` says.
    """
    sigma = MODELS[name].sigma if sigma is None else sigma
    if sigma is None:
        raise ValueError(f"sigma=None: give a number, no default is known of {name}; Study.sigma is one by its cost")
    check_whole("draws", draws, 1)
    check_whole("seed", seed, 0)
    kind = _kind_of_noise(sigma, unit, only)
    every, numbers, tokens = settings_of(name, corpus, index, step, dtype, device, scheduler, keep_tokens)
    tasks = []
    for settings in every:
        settings |= kind | {"seed": seed}
        if draws % DRAWS_PER_PART:  # a span that is cut short must not lie beside the full one
            settings |= {"draws": draws}
        for rows in spans(len(tokens), SEQUENCES_PER_PART):
            for drawn in spans(draws, DRAWS_PER_PART):
                span = {"rows": [rows.start, rows.stop], "draws": [drawn.start, drawn.stop]}
                part = Part("perturbation", settings, span, of=draws * len(tokens))
                these = range(drawn.start, drawn.stop)
                size = len(tokens[rows]) * len(these)
                tasks.append(task_of(part, _perturbation_part, size, these, numbers[rows], tokens[rows]))
    return measured(tasks, scheduler, f"perturbations at sigma {sigma:g}", collect)


def _perturbation_part(
    info: ModelInfo, settings: Settings, draws: range, index: np.ndarray, tokens: np.ndarray
) -> pd.DataFrame:
    every = []
    for draw in draws:
        model, prompts, truth = ready(info, settings, tokens)
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
            **{name: distances.ravel() for name, distances in distances(said, truth).items()},
            **kept(settings, said.reshape(-1, said.shape[-1])),
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
    every, numbers, tokens = settings_of(name, corpus, index, step, dtype, device, scheduler, False)
    parts = [Part("disturbed_likelihood", settings | kind) for settings in every]
    tasks = [task_of(part, _disturbed_likelihood_part, draws * len(tokens), numbers, tokens) for part in parts]
    return measured(tasks, scheduler, f"likelihood at sigma {sigma:g}")


def _disturbed_likelihood_part(
    info: ModelInfo, settings: Settings, index: np.ndarray, tokens: np.ndarray
) -> pd.DataFrame:
    losses = []
    for draw in range(settings["draws"]):
        model, prompts, truth = ready(info, settings, tokens)
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

    Needs 4 bytes of the processor's memory for each weight and change, and there another step's weights while it is
    read; a GPU holds the model, and of all else one tensor at a time.

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
    (settings,), _, _ = settings_of(name, corpus, [], step, dtype, device, scheduler, False)
    to = [resolve_step(name, other) for other in others]
    if settings["step"] in to:
        raise ValueError(f"others={others!r}: give steps that differ from step {settings['step']} itself")
    settings |= {"others": to, "other_weights": [weights_id(name, other) for other in to]}
    part = Part("resemblance", settings | {"draws": draws, "seed": seed})
    return measured([task_of(part, _resemblance_part, (1 + len(to)) * draws)], scheduler, "cosines of noise")


def _resemblance_part(info: ModelInfo, settings: Settings) -> pd.DataFrame:
    model = loaded(info, settings)
    names = [f"to step {other}" for other in settings["others"]]
    changes = [_change(model, info, settings, other) for other in settings["others"]]
    chance, weights = torch.Generator().manual_seed(settings["seed"]), dict(model.named_parameters())
    changes.append({name: torch.randn(weight.shape, generator=chance) for name, weight in weights.items()})
    found = cosines(model, changes, settings["seed"], range(settings["draws"]))
    table = pd.DataFrame(found, columns=[*names, RANDOM]).rename_axis("draw").reset_index()
    table = table.melt(id_vars="draw", var_name="change", value_name="cosine")
    many = sum(weight.numel() for weight in weights.values())
    return table.assign(model=settings["model"], step=settings["step"], weights=many)


@torch.no_grad()
def _change(model: PreTrainedModel, info: ModelInfo, settings: Settings, other: int) -> dict[str, torch.Tensor]:
    """From a model's weights to those of another step: by name, in float32, on the processor."""
    there = dict(load_mean(info.name, [other], settings["dtype"], "cpu").named_parameters())
    return {name: there[name].float() - here.cpu().float() for name, here in model.named_parameters()}


def _kind_of_noise(sigma: float, unit: str, only: str | None) -> Settings:
    """What tells one kind of noise from another, as settings: as few as do.

    Raises
    ------
    ValueError : sigma is no amount, or unit or only are none; what `only` means, the model has to say.
    """
    check_amount("sigma", sigma, "in weight units" if unit == UNITS[0] else "a share of each tensor's rms")
    if unit not in UNITS:
        raise ValueError(f"unit={unit!r}: give one of {', '.join(UNITS)}")
    if only is not None and not isinstance(only, str):
        raise ValueError(f"only={only!r}: give a part of the model, or a regular expression of parameters' names")
    kind = {"sigma": sigma, "unit": unit, "only": only}
    return {name: kind[name] for name, usual in KIND_OF_NOISE.items() if kind[name] != usual}


@contextmanager
def _disturbed(model: PreTrainedModel, settings: Settings, draw: int) -> Iterator[None]:
    """Within the block, the model has the noise of these settings and this draw.

    Raises
    ------
    BadInputError : the model cannot have it; with the step.
    NoNumbersError : what is measured is none; with sigma and draw.
    """
    kind = {name: settings.get(name, usual) for name, usual in KIND_OF_NOISE.items()}
    noise, where = f", sigma={kind['sigma']:g}, draw={draw}", f"{settings['model']} at step {settings['step']}"
    try:
        with restored(perturbed(model, **kind, seed=settings["seed"], draw=draw)):
            where += noise  # which an error of the noise itself names
            yield
    except NoNumbersError as error:
        error.where = noise
        raise
    except BadInputError as error:
        raise BadInputError(f"{where}: {error}") from error
