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
from transformers import Cache, DynamicCache

from lmmem.inference import recording
from lmmem.inference.attention import attention_for_decoding, cache_in_pieces
from lmmem.inference.cores import look, shared_cores
from lmmem.inference.products import fast_products
from lmmem.inference.tokens import as_tokens
from lmmem.protocol import CONTINUATION

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["greedy", "sample"]

BATCH = {"cpu": 256, "cuda": 1_024}  # continuations at a time, at most; results do not depend on it in float32
FREE_SHARE = 0.5  # of the GPU's free memory, for keys and values
PROCESSOR_BYTES = 2**31  # for keys and values on a processor
OUT_OF_MEMORY = (
    *("can't allocate memory", "could not create a primitive"),  # torch and oneDNN, on a processor
    *("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"),
)
Choose = Callable[[torch.Tensor, int], torch.Tensor]  # logits (n, vocabulary), position -> tokens (n,)


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
    ValueError : prompts are no matrix of ids in the vocabulary, or do not fit the model's context.

    >>> from lmmem import load_model
    >>> greedy(load_model("pocket-mini"), [[5, 6, 7]], length=4).shape
    (1, 4)
    """
    tokens = _prompts(model, prompts, length)
    banned, on_cpu = _end_of_text(model) if ban_end_of_text else None, model.device.type == "cpu"

    def choose(logits: torch.Tensor, position: int) -> torch.Tensor:
        if banned is not None:
            logits[:, banned] = -torch.inf
        return (logits.float() if on_cpu else logits).argmax(dim=-1)  # a processor has no fast argmax in half precision

    size = _batch(model, batch_size, len(tokens), tokens.shape[1] + length)
    continuations = np.empty((len(tokens), length), dtype=np.int64)
    row = 0
    while row < len(tokens):
        try:
            batch = _decode(model, tokens[row : row + size], length, choose, capacity=size)
        except RuntimeError as error:
            size = _half(model, size, error)
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
    size = _batch(model, batch_size, n * samples, tokens.shape[1] + length)
    continuations = np.empty((samples, n, length), dtype=np.int64)
    row = first = 0
    while row < n:
        rows = max(1, size // samples) if first == 0 else 1  # prompts at a time, if all their samples fit
        copies = math.ceil(samples / math.ceil(samples / size))  # else samples of one prompt, in equal parts
        u = torch.from_numpy(uniforms[row : row + rows, first : first + copies]).to(model.device)
        capacity, (rows, copies, _) = rows * copies, u.shape
        u = u.flatten(0, 1)  # (rows * copies, length)

        def choose(logits: torch.Tensor, position: int, u: torch.Tensor = u) -> torch.Tensor:
            cumulative = torch.softmax(logits.float() / temperature, dim=-1).cumsum(dim=-1)
            target = u[:, position, None] * cumulative[:, -1:]
            return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)

        try:
            batch = _decode(
                model, tokens[row : row + rows], length, choose, copies, capacity
            )  # (rows * copies, length)
        except RuntimeError as error:
            size = _half(model, size, error)
            continue
        batch = batch.view(rows, copies, length).transpose(0, 1)
        continuations[first : first + copies, row : row + rows] = batch.cpu().numpy()
        first += copies
        if first == samples:
            row, first = row + rows, 0
    return continuations


def _half(model: PreTrainedModel, size: int, error: RuntimeError) -> int:
    """Half as many continuations at a time, if memory was what `error` is about; else it is raised again."""
    recording.forget(model)
    short = isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)
    if not short or size == 1:
        raise error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return size // 2


@torch.inference_mode()
def _decode(
    model: PreTrainedModel, tokens: torch.Tensor, length: int, choose: Choose, copies: int = 1, capacity: int = 1
) -> torch.Tensor:
    """(n, k) -> (n * copies, length): read the prompts once, then one token at a time.

    `capacity` is how many continuations the largest batch of this call has.
    """
    n, k = tokens.shape
    output = torch.empty(n * copies, length, dtype=torch.long, device=tokens.device)
    with shared_cores(model.device), attention_for_decoding(model) as in_pieces, fast_products(model, n * copies):
        reader = _reader(model, k + length, in_pieces, max(capacity, n * copies))
        logits = reader.read(tokens)
        if copies > 1:
            reader.branch(copies)
            logits = logits.repeat_interleave(copies, dim=0)
        for position in range(length):
            look()
            output[:, position] = choose(logits, position)
            if position < length - 1:
                logits = reader.read(output[:, position, None])
    return output


class _Reader:
    """Reads tokens, keeps what later ones need of them, and gives the logits after the last."""

    def __init__(self, model: PreTrainedModel, cache: Cache) -> None:
        self.model, self.cache = model, cache

    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, tokens) -> (n, vocabulary)."""
        return self.model(tokens, past_key_values=self.cache, use_cache=True, logits_to_keep=1).logits[:, -1]

    def branch(self, copies: int) -> None:
        """From now on each prompt has so many continuations."""
        self.cache.batch_repeat_interleave(copies)


class _RecordedReader(_Reader):
    """After the prompts, takes a step that a GPU has recorded."""

    def __init__(self, model: PreTrainedModel, longest: int, capacity: int) -> None:
        super().__init__(model, DynamicCache(config=model.config))
        self.longest, self.capacity, self.copies = longest, capacity, 1
        self.step: recording.Step | None = None

    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        if self.step is None and not self.cache.get_seq_length():
            return super().read(tokens)
        if self.step is None:
            self.step = recording.step_for(self.model, self.capacity, self.longest)
            try:
                self.step.begin(self.model, self.cache, self.copies)
            except BaseException:  # short of memory, or interrupted
                recording.forget(self.model)
                raise
            self.cache = DynamicCache()  # what the step now holds
        return self.step(self.model, tokens)

    def branch(self, copies: int) -> None:
        self.copies = copies


def _reader(model: PreTrainedModel, longest: int, in_pieces: bool, capacity: int) -> _Reader:
    """The fastest for this model, `longest` tokens with their prompts, and `capacity` continuations at most."""
    if in_pieces:
        return _Reader(model, cache_in_pieces(model))
    if model.device.type == "cuda" and recording.can_record(model):
        return _RecordedReader(model, longest, capacity)
    return _Reader(model, DynamicCache(config=model.config))


def _prompts(model: PreTrainedModel, prompts: ArrayLike, length: int) -> torch.Tensor:
    if length < 1:
        raise ValueError(f"a continuation has at least 1 token, got length {length}")
    return as_tokens(model, prompts, more=length)


def _end_of_text(model: PreTrainedModel) -> int:
    end = model.config.eos_token_id
    if not isinstance(end, int):
        raise ValueError(f"ban_end_of_text: the model's configuration names no single end-of-text token ({end})")
    return end


def _batch(model: PreTrainedModel, batch_size: int | None, n: int, length: int) -> int:
    """Continuations at a time: as asked, else as many as there is memory for keys and values of `length` tokens.

    All of n in batches of one size, as nearly as can be.
    """
    if batch_size is not None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        return min(batch_size, max(1, n))
    kind = model.device.type
    memory = PROCESSOR_BYTES
    if kind == "cuda":
        cached = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
        free = torch.cuda.mem_get_info(model.device)[0] + cached + recording.held_bytes(model)
        memory = int(FREE_SHARE * free)
    size = max(1, min(BATCH.get(kind, 64), memory // (length * _bytes_per_token(model))))
    return math.ceil(n / math.ceil(n / size)) if n else size


def _bytes_per_token(model: PreTrainedModel) -> int:
    """Of keys and values, in all layers; a processor keeps them in float32."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * width * (4 if model.device.type == "cpu" else model.dtype.itemsize)
