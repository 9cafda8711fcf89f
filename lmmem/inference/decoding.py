"""Continue prompts, greedily or by sampling: :func:`greedy` and :func:`sample`, which every measurement calls.

They choose the fastest way for the model and device at hand, of attention.py and products.py on a
processor, recording.py on a GPU. Knows token ids only: no text, no tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike

from lmmem.inference import recording
from lmmem.inference.attention import attention_for_decoding
from lmmem.inference.cores import look, shared_cores
from lmmem.inference.memory import halved
from lmmem.inference.products import fast_products
from lmmem.inference.reading import (
    LOGITS,
    NoNumbersError,
    Way,
    evaluating,
    memory_for,
    reader_of,
    way_of,
)
from lmmem.inference.tokens import as_tokens
from lmmem.protocol import CONTINUATION

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["greedy", "sample"]

LEAST = 1e-30  # temperature: with a lower one the same token has all the mass, and float32 overflows
BATCH = {"cpu": 256, "cuda": 1_024}  # continuations at a time, at most; results do not depend on it in float32
# logits (n, vocabulary), position -> tokens (n,), and a number each that is finite if all logits are numbers
Choose = Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]


def greedy(
    model: PreTrainedModel,
    prompts: ArrayLike,
    length: int = CONTINUATION,
    *,
    batch_size: int | None = None,
    ban_end_of_text: bool = False,
) -> np.ndarray:
    """The most likely next token, again and again.

    Parameters
    ----------
    model : a causal language model of transformers.
    prompts : (n, k) token ids.
    length : tokens to add to each prompt.
    batch_size : prompts decoded at a time; None chooses by device. Halved where memory is short.
    ban_end_of_text : never choose the end-of-document token. Off by default: rows of training
        data are packed and hold that token. (The paper's published code bans it.)

    Returns
    -------
    (n, length) int64, the continuations without their prompts.

    Raises
    ------
    ValueError : prompts are no matrix of ids in the vocabulary, or do not fit the model's context; or the model is
        not causal, or cannot be read from token ids alone.
    FloatingPointError : logits are no numbers; of which sequence.

    >>> from lmmem import load_model
    >>> greedy(load_model("pocket-mini"), [[5, 6, 7]], length=4).shape
    (1, 4)
    """
    tokens = _prompts(model, prompts, length)
    banned, on_cpu = _end_of_text(model) if ban_end_of_text else None, model.device.type == "cpu"

    def choose(logits: torch.Tensor, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        if banned is not None:
            logits[:, banned] = -torch.inf
        largest, tokens = (logits.float() if on_cpu else logits).max(dim=-1)  # a processor is slow in half precision
        return tokens, largest  # of which one is no number if any logit is none

    if not len(tokens):
        return np.empty((0, length), dtype=np.int64)
    way = way_of(model, tokens)
    size = _batch(model, way, batch_size, len(tokens), tokens.shape[1] + length)
    continuations = np.empty((len(tokens), length), dtype=np.int64)
    row = 0
    while row < len(tokens):
        try:
            batch = _decode(model, way, tokens[row : row + size], length, choose, first=row, capacity=size)
        except RuntimeError as error:
            recording.forget(model)
            size = halved(size, error)
            continue
        continuations[row : row + len(batch)] = batch.cpu().numpy()
        row += len(batch)
    return continuations


def sample(
    model: PreTrainedModel,
    prompts: ArrayLike,
    temperature: float,
    samples: int,
    seed: int | Sequence[int],
    length: int = CONTINUATION,
    *,
    batch_size: int | None = None,
) -> np.ndarray:
    """Continuations drawn from the model's distribution, flattened or sharpened by a temperature.

    One uniform number per (prompt, sample, position) picks the token by inverting the cumulative
    distribution; they are drawn before decoding begins, so neither the batch size nor the device
    changes them. The prompts are read once for all their samples.

    Parameters
    ----------
    model : a causal language model of transformers.
    prompts : (n, k) token ids.
    temperature : divides the logits; 0 is greedy and allows one sample.
    samples : continuations per prompt.
    seed : the same seed gives the same uniforms; one number or several, as for ``numpy.random.default_rng``.
    length : tokens to add to each prompt.
    batch_size : continuations decoded at a time; None chooses by device. Halved where memory is short.

    Returns
    -------
    (samples, n, length) int64.

    Raises
    ------
    ValueError : a temperature below 0, several samples at temperature 0 (they would be equal),
        samples below 1, or prompts as for :func:`greedy`.

    >>> from lmmem import load_model
    >>> sample(load_model("pocket-mini"), [[5, 6, 7]], temperature=0.8, samples=3, seed=0, length=4).shape
    (3, 1, 4)
    """
    if not (temperature >= 0 and np.isfinite(temperature)):
        raise ValueError(f"temperature must be 0 or more, got {temperature}")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    if temperature == 0:
        if samples > 1:
            raise ValueError(f"at temperature 0 all {samples} samples are equal: ask for 1, or a temperature above 0")
        return greedy(model, prompts, length, batch_size=batch_size)[None]
    tokens = _prompts(model, prompts, length)
    n = len(tokens)
    uniforms = np.random.default_rng(seed).random((n, samples, length), dtype=np.float32)
    if not n:
        return np.empty((samples, 0, length), dtype=np.int64)
    way = way_of(model, tokens)
    size = _batch(model, way, batch_size, n * samples, tokens.shape[1] + length)
    continuations = np.empty((samples, n, length), dtype=np.int64)
    row = first = 0
    while row < n:
        rows = max(1, size // samples) if first == 0 else 1  # prompts at a time, if all their samples fit
        copies = math.ceil(samples / math.ceil(samples / size))  # else samples of one prompt, in equal parts
        u = torch.from_numpy(uniforms[row : row + rows, first : first + copies]).to(model.device)
        capacity, (rows, copies, _) = rows * copies, u.shape
        u = u.flatten(0, 1)  # (rows * copies, length)

        def choose(logits: torch.Tensor, position: int, u: torch.Tensor = u) -> tuple[torch.Tensor, torch.Tensor]:
            cumulative = torch.softmax(logits.float() / max(temperature, LEAST), dim=-1).cumsum(dim=-1)
            every = cumulative[:, -1:]
            tokens = torch.searchsorted(cumulative, u[:, position, None] * every, right=True)[:, 0]
            return tokens.clamp(max=logits.shape[-1] - 1), every[:, 0]

        try:
            batch = _decode(model, way, tokens[row : row + rows], length, choose, row, copies, capacity)
        except RuntimeError as error:
            recording.forget(model)
            size = halved(size, error)
            continue
        batch = batch.view(rows, copies, length).transpose(0, 1)
        continuations[first : first + copies, row : row + rows] = batch.cpu().numpy()
        first += copies
        if first == samples:
            row, first = row + rows, 0
    return continuations


@torch.inference_mode()
def _decode(
    model: PreTrainedModel,
    way: Way,
    tokens: torch.Tensor,
    length: int,
    choose: Choose,
    first: int = 0,
    copies: int = 1,
    capacity: int = 1,
) -> torch.Tensor:
    """(n, k) -> (n * copies, length): read the prompts once, then one token at a time.

    `first` is the number of the first prompt, for messages; `capacity` is how many continuations the largest batch of
    this call has.
    """
    (n, k), each = tokens.shape, copies
    output = torch.empty(n * copies, length, dtype=torch.long, device=tokens.device)
    finite = torch.ones(n * copies, dtype=torch.bool, device=tokens.device)
    if not way.branches:
        tokens, copies = tokens.repeat_interleave(copies, dim=0), 1
    with (
        evaluating(model),
        shared_cores(model.device),
        attention_for_decoding(model) as in_pieces,
        fast_products(model, n * each),
    ):
        reader = reader_of(model, way, k + length, in_pieces, max(capacity, n * each))
        logits = reader.read(tokens)
        if copies > 1:
            reader.branch(copies)
            logits = logits.repeat_interleave(copies, dim=0)
        for position in range(length):
            look()
            output[:, position], weighed = choose(logits, position)
            finite &= weighed.isfinite()
            if position < length - 1:
                logits = reader.read(output[:, position, None])
    if not bool(finite.all()):
        raise NoNumbersError(model, first + int(finite.int().argmin()) // each)
    return output


def _prompts(model: PreTrainedModel, prompts: ArrayLike, length: int) -> torch.Tensor:
    if length < 1:
        raise ValueError(f"a continuation has at least 1 token, got length {length}")
    return as_tokens(model, prompts, more=length)


def _end_of_text(model: PreTrainedModel) -> int:
    end = model.config.eos_token_id
    if not isinstance(end, int):
        raise ValueError(f"ban_end_of_text: the model's configuration names no single end-of-text token ({end})")
    return end


def _batch(model: PreTrainedModel, way: Way, batch_size: int | None, n: int, length: int) -> int:
    """Continuations at a time: as asked, else as many as there is memory for, of `length` tokens with their prompts.

    What is kept of each token counts, and what is computed from its logits. All of n in batches of one size, as nearly
    as can be.
    """
    if batch_size is not None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        return min(batch_size, n)
    each = length * way.bytes_per_token + LOGITS * way.vocabulary
    size = max(1, min(BATCH.get(model.device.type, 64), int(memory_for(model) / each)))
    return math.ceil(n / math.ceil(n / size))
