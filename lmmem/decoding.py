"""Continue prompts, greedily or by sampling. Knows token ids only: no text, no tokenizer."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lmmem.protocol import CONTINUATION
from lmmem.tokens import as_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["greedy", "sample"]

BATCH = {"cpu": 256, "cuda": 1_024}  # continuations at a time, at most; results do not depend on it in float32
FREE_SHARE = 0.5  # of the GPU's free memory, for keys and values
PART = 64  # continuations that a thread of its own is worth, on a processor
GRAIN = 8  # tokens by which keys and values grow on a processor, where all of a buffer is read at each token
OUT_OF_MEMORY = ("can't allocate memory", "could not create a primitive")  # torch and oneDNN, on a processor
# Logits (n, vocabulary) of some of the continuations, which of them, position -> tokens (n,)
Choose = Callable[[torch.Tensor, slice, int], torch.Tensor]


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
    banned = _end_of_text(model) if ban_end_of_text else None

    def choose(logits: torch.Tensor, these: slice, position: int) -> torch.Tensor:
        if banned is not None:
            logits[:, banned] = -torch.inf
        return logits.argmax(dim=-1)

    size = _batch(model, batch_size, tokens.shape[1] + length)
    continuations = np.empty((len(tokens), length), dtype=np.int64)
    row = 0
    while row < len(tokens):
        try:
            block = _decode(model, tokens[row : row + size], length, choose)
        except RuntimeError as error:
            size = _half(size, error)
            continue
        continuations[row : row + len(block)] = block.cpu().numpy()
        row += len(block)
    return continuations


def sample(
    model: PreTrainedModel,
    prompts: ArrayLike,
    temperature: float,
    samples: int,
    seed: int,
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
    seed : the same seed gives the same uniforms.
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
    size = _batch(model, batch_size, tokens.shape[1] + length)
    continuations = np.empty((samples, n, length), dtype=np.int64)
    row = first = 0
    while row < n:
        rows = max(1, size // samples) if first == 0 else 1  # prompts at a time, if all their samples fit
        copies = math.ceil(samples / math.ceil(samples / size))  # else samples of one prompt, in equal parts
        u = torch.from_numpy(uniforms[row : row + rows, first : first + copies]).to(model.device)
        rows, copies, _ = u.shape
        u = u.flatten(0, 1)  # (rows * copies, length)

        def choose(logits: torch.Tensor, these: slice, position: int, u: torch.Tensor = u) -> torch.Tensor:
            cumulative = torch.softmax(logits.float() / temperature, dim=-1).cumsum(dim=-1)
            target = u[these, position, None] * cumulative[:, -1:]
            return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)

        try:
            block = _decode(model, tokens[row : row + rows], length, choose, copies)  # (rows * copies, length)
        except RuntimeError as error:
            size = _half(size, error)
            continue
        block = block.view(rows, copies, length).transpose(0, 1)
        continuations[first : first + copies, row : row + rows] = block.cpu().numpy()
        first += copies
        if first == samples:
            row, first = row + rows, 0
    return continuations


def _half(size: int, error: RuntimeError) -> int:
    """Half as many continuations at a time, if memory was what `error` is about; else it is raised again."""
    short = isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)
    if not short or size == 1:
        raise error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return size // 2


class _PreallocatedLayer(DynamicLayer):
    """Keys and values of one layer, written in place: no copy of the past at every token.

    Their buffer grows by `grain` tokens at a time, up to `length`.
    """

    def __init__(self, length: int, grain: int) -> None:
        super().__init__()
        self.length, self.grain = length, grain
        self.used = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        end = self.used + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.key_buffer, self.value_buffer = self._grown(key_states, end), self._grown(value_states, end)
        elif end > self.key_buffer.shape[-2]:
            self.key_buffer = self._grown(self.key_buffer, end)
            self.value_buffer = self._grown(self.value_buffer, end)
        self.key_buffer[:, :, self.used : end] = key_states
        self.value_buffer[:, :, self.used : end] = value_states
        self.used = end
        return self._show()

    def _grown(self, buffer: torch.Tensor, end: int) -> torch.Tensor:
        n, heads, known, width = buffer.shape
        grown = buffer.new_empty(n, heads, min(self.length, math.ceil(end / self.grain) * self.grain), width)
        grown[:, :, :known] = buffer
        grown[:, :, known:] = 0  # no weight times something that is no number
        return grown

    def _show(self) -> tuple[torch.Tensor, torch.Tensor]:
        shown = self.key_buffer[:, :, : self.used], self.value_buffer[:, :, : self.used]
        self.keys, self.values = shown
        return shown

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.key_buffer = self.key_buffer.repeat_interleave(repeats, dim=0)
        self.value_buffer = self.value_buffer.repeat_interleave(repeats, dim=0)
        self._show()


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one new token to all before it, as two products; anything else as transformers does it.

    On a processor the fused kernel is made for many queries: for one it takes longer, in half
    precision several times as long. The products are over whole buffers of :class:`_PreallocatedLayer`,
    because over a part of each they would copy it first; what lies past the last token weighs nothing.
    """
    n, heads, new, width = query.shape
    if new != 1 or attention_mask is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    shared, tokens = key.shape[1], key.shape[2]  # heads of keys, each for several of queries
    held = key.stride(1) // key.stride(2)  # tokens that the buffers have room for
    keys, values = (part.as_strided((n, shared, held, width), part.stride()).flatten(0, 1) for part in (key, value))
    grouped = query.reshape(n * shared, heads // shared, width)
    scores = grouped * (width**-0.5 if scaling is None else scaling) @ keys.mT
    scores[..., tokens:] = -torch.inf
    return (scores.softmax(dim=-1) @ values).view(n, 1, heads, width), None


ATTENTION = "lmmem_decoding"  # its name among those of transformers
AttentionInterface.register(ATTENTION, _attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


@contextmanager
def _attention_for_decoding(model: PreTrainedModel) -> Iterator[None]:
    """On a processor, :func:`_attend` in the place of the fused kernel while the block runs."""
    before = model.config._attn_implementation
    if model.device.type != "cpu" or before != "sdpa":
        yield
        return
    model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _decode(model: PreTrainedModel, tokens: torch.Tensor, length: int, choose: Choose, copies: int = 1) -> torch.Tensor:
    """(n, k) -> (n * copies, length), on all cores.

    On a processor the prompts are divided among threads, each of which computes by itself: they wait
    for each other once, where the threads of one product wait for each other at every product.
    """
    n, threads = len(tokens), torch.get_num_threads()
    parts = min(threads, n, n * copies // PART) if tokens.device.type == "cpu" else 1
    bounds = [n * part // max(1, parts) for part in range(parts + 1)]
    stop = threading.Event()

    def decode(first: int, last: int) -> torch.Tensor:
        torch.set_num_threads(threads // parts)  # of this thread, and of those begun after it
        these = slice(first * copies, last * copies)
        return _decode_part(model, tokens[first:last], length, choose, these, copies, stop)

    with _attention_for_decoding(model):
        if parts <= 1:
            return _decode_part(model, tokens, length, choose, slice(None), copies, stop)
        with ThreadPoolExecutor(parts) as pool:
            try:
                return torch.cat(list(pool.map(decode, bounds[:-1], bounds[1:])))
            finally:
                stop.set()  # after an interruption or an error in one of them
                torch.set_num_threads(threads)


@torch.inference_mode()
def _decode_part(
    model: PreTrainedModel,
    tokens: torch.Tensor,
    length: int,
    choose: Choose,
    these: slice,
    copies: int,
    stop: threading.Event,
) -> torch.Tensor:
    """Read the prompts once, then one token at a time."""
    whole = tokens.shape[1] + length
    grain = GRAIN if tokens.device.type == "cpu" else whole
    layers: list[Any] = [_PreallocatedLayer(whole, grain) for _ in range(model.config.num_hidden_layers)]
    cache = Cache(layers=layers)
    output = torch.empty(len(tokens) * copies, length, dtype=torch.long, device=tokens.device)
    for position in range(length):
        if stop.is_set():
            break
        logits = model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        if position == 0 and copies > 1:
            cache.batch_repeat_interleave(copies)
            logits = logits.repeat_interleave(copies, dim=0)
        output[:, position] = choose(logits, these, position)
        tokens = output[:, position, None]
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


def _batch(model: PreTrainedModel, batch_size: int | None, length: int) -> int:
    """Continuations at a time: as asked, else as many as there is memory for keys and values of `length` tokens."""
    if batch_size is not None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        return batch_size
    size = BATCH.get(model.device.type, 64)
    if model.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(model.device)
        size = max(1, min(size, int(FREE_SHARE * free) // (length * _bytes_per_token(model))))
    return size


def _bytes_per_token(model: PreTrainedModel) -> int:
    """Of keys and values, in all layers."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize
