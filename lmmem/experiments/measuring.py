"""What every measurement shares: what determines it, its parts and tasks, and the model that it needs.

The tables are in the modules beside it: measurements.py, disturbed.py, extraction.py, teaching.py. Knows not what
is measured.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
import torch

from lmmem.corpora.corpus import Corpus
from lmmem.inference.reading import NoNumbersError, way_of
from lmmem.inference.tokens import as_tokens
from lmmem.measures.distance import levenshtein
from lmmem.models.loading import load_mean, quantisation, weights_id
from lmmem.models.registry import MODELS, ModelInfo, resolve_step
from lmmem.protocol import CONTINUATION, HALF, PROMPT, split
from lmmem.storage.files import DamagedError
from lmmem.storage.results import Part
from lmmem.sweep.cluster import on_worker
from lmmem.sweep.tasks import BadInputError, Task, run

if TYPE_CHECKING:
    from distributed import Client
    from transformers import PreTrainedModel

__all__ = [
    "SEQUENCES_PER_PART",
    "Settings",
    "check_amount",
    "check_temperatures",
    "check_whole",
    "device_here",
    "digest",
    "distances",
    "duration",
    "heads",
    "held",
    "kept",
    "loaded",
    "measured",
    "prefixed",
    "ready",
    "restored",
    "settings_of",
    "spans",
    "task_of",
    "weights_of",
]

SEQUENCES_PER_PART = 10_000
T = TypeVar("T")
Settings = dict[str, Any]  # what determines a measurement, as JSON values
held: dict[tuple[str, ...], PreTrainedModel] = {}  # the model measured last: one at a time


def check_whole(name: str, value: Any, least: int) -> None:
    """Refuse what is no whole number, or too small a one.

    >>> check_whole("draws", 0, least=1)
    Traceback (most recent call last):
    ValueError: draws=0: give a whole number, 1 or more
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r}: give a whole number, {least} or more")


def check_amount(name: str, value: Any, unit: str) -> None:
    """Refuse what is no number, or below 0.

    >>> check_amount("sigma", -1.0, "in weight units")
    Traceback (most recent call last):
    ValueError: sigma=-1.0: give a number, 0 or more, in weight units
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < np.inf:
        raise ValueError(f"{name}={value!r}: give a number, 0 or more, {unit}")


def check_temperatures(temperatures: Any) -> None:
    """Refuse temperatures that are no list of numbers, each once.

    >>> check_temperatures([0.5, 0.5])
    Traceback (most recent call last):
    ValueError: temperatures=[0.5, 0.5]: give each once
    """
    if isinstance(temperatures, str | bytes) or not isinstance(temperatures, Sequence) or not temperatures:
        raise ValueError(f"temperatures={temperatures!r}: give a list of them, [0.3, 1.0]")
    for temperature in temperatures:
        check_amount("temperatures", temperature, "each")
    if len(set(temperatures)) < len(temperatures):
        raise ValueError(f"temperatures={temperatures!r}: give each once")


def duration(seconds: float) -> str:
    """How long something takes, in a fitting unit.

    >>> duration(40), duration(600), duration(36_000)
    ('40 s', '10 min', '10.0 h')
    """
    short, long = f"{seconds:.0f} s", f"{seconds / 3600:.1f} h"
    return short if seconds < 90 else long if seconds > 5400 else f"{seconds / 60:.0f} min"


def device_here() -> str:
    """What this machine computes on if nothing else is asked for: "cuda" or "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def settings_of(
    name: str,
    corpus: Corpus,
    index: Sequence[int],
    step: int | Sequence[int] | None,
    dtype: str | None,
    device: str | None,
    scheduler: str | Client | None,
    keep_tokens: bool,
) -> tuple[list[Settings], np.ndarray, np.ndarray]:
    """What determines a measurement at each step, as JSON values; the rows' numbers (n,) and tokens (n, 96).

    What a prompt begins with before a row is among the settings, where there is such a thing.
    """
    index = list(index)
    tokens = np.concatenate([heads(corpus, index[rows]) for rows in spans(len(index), SEQUENCES_PER_PART)])
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
        "index": digest(numbers),
        "tokens": digest(tokens),
    }
    if keep_tokens:  # else as if there were no such choice
        settings["keep_tokens"] = True
    if corpus.prefix:
        settings["prefix"] = list(corpus.prefix)
    every = []
    for one in steps:
        types = quantisation(name, one)
        stored = {} if types is None else {"quantisation": types}  # of a GGUF file alone
        every.append(settings | {"step": one, "weights": weights_id(name, one)} | stored)
    return every, numbers, tokens


def heads(corpus: Corpus, index: list[int]) -> np.ndarray:
    """Prompts and continuations (n, 96) of rows, as they are sent to workers: whole rows may be long."""
    return corpus[index][:, : PROMPT + CONTINUATION].astype(np.int32)


def digest(values: np.ndarray) -> str:
    """What tells these numbers from any others: sixteen hexadecimal digits."""
    return hashlib.sha256(values.tobytes()).hexdigest()[:16]


def spans(n: int, size: int) -> list[slice]:
    """All of 0 .. n in slices of a size; one slice at least."""
    return [slice(first, min(first + size, n)) for first in range(0, max(n, 1), size)]


def task_of(part: Part, measure: Callable[..., pd.DataFrame], size: int, *arguments: Any) -> Task:
    """A measurement whose worker needs the weights of these settings."""
    settings = dict(part.settings)
    info, needs = MODELS[settings["model"]], " ".join(_weights(settings))
    return Task(part, functools.partial(_told, measure), (info, settings, *arguments), size, needs)


def _told(measure: Callable[..., pd.DataFrame], info: ModelInfo, settings: Settings, *arguments: Any) -> pd.DataFrame:
    """What is measured; where the model gives no numbers, of which model, step and sequence.

    Raises
    ------
    BadInputError : it does.
    """
    try:
        return measure(info, settings, *arguments)
    except NoNumbersError as error:
        index = inspect.signature(measure).bind(info, settings, *arguments).arguments.get("index", [])
        which = f", index {index[error.row]}" if error.row is not None and error.row < len(index) else ""
        step = f"{settings['model']} at step {settings['step']}"
        raise BadInputError(f"{step}{error.where}{which}: {error.why}") from error


def measured(tasks: list[Task], scheduler: str | Client | None, what: str, collect: bool = True) -> pd.DataFrame:
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


def ready(info: ModelInfo, settings: Settings, tokens: np.ndarray) -> tuple[PreTrainedModel, np.ndarray, np.ndarray]:
    """The model of these settings, prompts (their prefix included) and truth.

    Raises
    ------
    BadInputError : it cannot be loaded as asked, is another model here, is not causal, or cannot read these tokens.
    NoNumbersError : its logits are none.
    """
    model, rows = loaded(info, settings), prefixed(settings, tokens)
    try:
        if len(rows):
            way_of(model, as_tokens(model, rows, "sequences"))
    except ValueError as error:
        raise BadInputError(str(error)) from error
    return model, *split(rows, PROMPT + rows.shape[1] - tokens.shape[1])


def prefixed(settings: Settings, tokens: np.ndarray) -> np.ndarray:
    """Tokens (n, w) behind what every prompt of these settings begins with, (n, p + w).

    >>> prefixed({"prefix": [2]}, np.array([[5, 6], [7, 8]])).tolist()
    [[2, 5, 6], [2, 7, 8]]
    """
    prefix = np.array(settings.get("prefix", []), dtype=tokens.dtype)
    return np.concatenate([np.tile(prefix, (len(tokens), 1)), tokens], axis=1)


@contextmanager
def restored(change: AbstractContextManager[T]) -> Iterator[T]:
    """Within the block, a change of the held model's weights that comes off after it; what it yields is yielded.

    Raises
    ------
    BadInputError : the change cannot be made to this model.
    """
    try:
        with change as changed:
            yield changed
    except ValueError as error:
        raise BadInputError(str(error)) from error
    except BaseException:
        held.clear()  # its weights may not all be restored
        raise


def distances(said: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Of continuations (.., n, l) from the truth (n, l): of all of it, of its first half and of the rest."""
    halves = {"kl_first": slice(HALF), "kl_second": slice(HALF, None)}
    apart = {name: levenshtein(said[..., half], truth[:, half]) for name, half in halves.items()}
    return {"kl_ld": levenshtein(said, truth), **apart}


def kept(settings: Settings, said: np.ndarray) -> dict[str, list[np.ndarray]]:
    """What is said (n, l), as a column, if it is to be kept."""
    return {"said": list(said.astype(np.int32))} if settings.get("keep_tokens") else {}


def loaded(info: ModelInfo, settings: Settings) -> PreTrainedModel:
    """The model of these settings, loaded unless it is the one measured last.

    Raises
    ------
    BadInputError : it cannot be loaded as asked, or this machine has other weights under its name.
    """
    key = _weights(settings)
    if key not in held:
        name, steps = settings["model"], settings.get("mean_of", [settings["step"]])
        try:
            MODELS.take(info)
            if weights_of(name, steps) != settings["weights"]:
                raise ValueError(
                    f"the weights of {name} at step {settings['step']} differ between machines: let all of them use "
                    "one cache folder, named by LMMEM_CACHE"
                )
            held.clear()  # before the next is loaded, so that two never take memory at once
            held[key] = load_mean(name, steps, settings["dtype"], settings["device"])
        except DamagedError:  # of this machine: another may have the file whole
            raise
        except ValueError as error:
            raise BadInputError(str(error)) from error
    return held[key]


def _weights(settings: Settings) -> tuple[str, str, str]:
    """What tells a loaded model from any other."""
    return settings["weights"], settings["dtype"], settings["device"]


def weights_of(name: str, steps: Sequence[int]) -> str:
    """What tells these weights, or their mean, from any others."""
    every = [weights_id(name, step) for step in steps]
    return every[0] if len(every) == 1 else hashlib.sha256("".join(every).encode()).hexdigest()
