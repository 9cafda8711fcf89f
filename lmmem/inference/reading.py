"""How a causal model is read: in the fastest way that is right for it, whatever its class.

Caches differ from class to class: some models hold keys and values, some a state, some take a cache and
ignore it. So each model is tried once (:func:`way_of`), on the first prompts that it is given: what it says
through its cache is compared with what it says when it reads all tokens at once, and where that differs
beyond rounding, or the cache cannot be used, a slower way is taken that agrees. A model whose logits for a
token change with later tokens is refused there: it is not causal. Knows token ids only, and chooses none.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import Cache, DynamicCache

from lmmem.inference import recording
from lmmem.inference.attention import Pieces, attention_for_decoding, cache_in_pieces
from lmmem.inference.cores import shared_cores
from lmmem.inference.memory import free_bytes, out_of_memory
from lmmem.inference.products import fast_products, full_precision, laid_out_bytes
from lmmem.inference.tokens import context_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "NoNumbersError",
    "Reader",
    "Rereader",
    "Way",
    "evaluating",
    "logits_of",
    "memory_for",
    "reader_of",
    "way_of",
]

CACHES = ("past_key_values", "cache_params", "state", "mems")  # under which a model of transformers gives its own
TRIED = 16  # tokens of a prompt that a model is tried on, at most
AHEAD = 3  # tokens that it is given one by one in the trial
# So far two ways may differ: in epsilons of the dtype, by its bytes, times the largest logit; at which share of places,
# as in half precision a mixture of experts may take another for a token; and at which when a later token changes.
ROUNDING = {2: (8, 0.75, 0.5), 4: (64, 1.0, 1.0), 8: (64, 1.0, 1.0)}
LOGITS = 16  # bytes for each logit: it, its share of the distribution, sums of these, and one to spare
FREE_SHARE = 0.5  # of the GPU's free memory, for a batch
PROCESSOR_BYTES = 7 * 2**28  # for a batch on a processor, and for weights that are laid out for its products
SHARE = 0.02  # of what other words before a token do to its logits: the same


class NoNumbersError(FloatingPointError):
    """Logits are no numbers, so that nothing can be said of the sequence.

    `row` is its place among those given, `where` what the model was then: words that whoever disturbs it adds.
    """

    def __init__(self, model: PreTrainedModel, row: int | None = None) -> None:
        why = f"the logits of {type(model).__name__} are no numbers; look at its weights, and at the noise on them"
        super().__init__(why if row is None else f"sequence {row} of those given: {why}")
        self.why, self.row, self.where = why, row, ""


class Reader:
    """Reads tokens, keeps what later ones need of them, and gives the logits after the last."""

    def __init__(self, model: PreTrainedModel, cache: Cache | None = None) -> None:
        self.model = model
        self.cache: Any = DynamicCache(config=model.config) if cache is None else cache

    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, tokens) -> (n, vocabulary)."""
        return logits_of(self.model, tokens, 1, past_key_values=self.cache, use_cache=True)[:, -1]

    def branch(self, copies: int) -> None:
        """From now on each prompt has so many continuations."""
        self.cache.batch_repeat_interleave(copies)

    def select(self, rows: torch.Tensor) -> None:
        """Go on with these (m,) of what was read, in this order."""
        self.cache.batch_select_indices(rows)

    def held_bytes(self) -> int:
        """Of what is kept."""
        return sum(tensor.nbytes for tensor in _tensors(getattr(self.cache, "layers", self.cache)))


class _OwnCacheReader(Reader):
    """Of a model that makes its own cache: a state, mostly."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.cache, self.name = model, None, ""

    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, tokens) -> (n, vocabulary)."""
        given = {self.name: self.cache} if self.name else {}
        output = _called(self.model, tokens, 1, use_cache=True, **given)
        self.name = next((name for name in CACHES if getattr(output, name, None) is not None), "")
        if not self.name:
            raise TypeError("the model gives no cache")
        self.cache = getattr(output, self.name)
        return output.logits[:, -1]


class Rereader(Reader):
    """Of a model whose cache cannot be used: reads everything again for each token."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.cache = model, []

    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, tokens) -> (n, vocabulary)."""
        self.cache = [torch.cat([*self.cache, tokens], dim=1)]
        return logits_of(self.model, self.cache[0], 1)[:, -1]

    def branch(self, copies: int) -> None:
        """From now on each prompt has so many continuations."""
        self.cache = [self.cache[0].repeat_interleave(copies, dim=0)]

    def select(self, rows: torch.Tensor) -> None:
        """Go on with these (m,) of what was read, in this order."""
        self.cache = [self.cache[0][rows]]


class _RecordedReader(Reader):
    """After the prompts, takes a step that a GPU has recorded."""

    def __init__(self, model: PreTrainedModel, longest: int, capacity: int) -> None:
        super().__init__(model)
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


@dataclass(frozen=True)
class Way:
    """How a model is read, as :func:`way_of` found it."""

    reader: type[Reader]
    branches: bool  # what was read of a prompt can be copied; else prompts are, before they are read
    bytes_per_token: float  # of what is kept of one sequence
    vocabulary: int  # logits of a token
    few: bool  # it computes no other logits than those that it is asked for

    @property
    def caches(self) -> bool:
        """Whether what was read is kept; else it is read again for each token, which takes longer."""
        return self.reader is not Rereader


_ways: weakref.WeakKeyDictionary[nn.Module, dict[Any, Way]] = weakref.WeakKeyDictionary()


def way_of(model: PreTrainedModel, tokens: torch.Tensor) -> Way:
    """The fastest way of reading a model that says what reading all tokens at once says.

    Parameters
    ----------
    model : a causal language model of transformers.
    tokens : (n, k) token ids, n and k 1 or more, some of which it is tried on; it is tried once only, unless its
        device, dtype or attention has changed.

    Raises
    ------
    ValueError : the model cannot be read at all from token ids alone, or is not causal.
    NoNumbersError : its logits are no numbers.

    >>> from lmmem import load_model
    >>> way = way_of(load_model("pocket-mini"), torch.tensor([[5, 6, 7, 8]]))
    >>> way.branches, way.vocabulary
    (True, 512)
    """
    key = (model.device, model.dtype, getattr(model.config, "_attn_implementation", None))
    known = _ways.setdefault(model, {})
    if key not in known:
        known[key] = _tried(model, tokens)
    return known[key]


def reader_of(model: PreTrainedModel, way: Way, longest: int, in_pieces: bool, capacity: int) -> Reader:
    """The fastest reader of this model, for `longest` tokens with their prompts and `capacity` continuations at most.

    `in_pieces` is what :func:`lmmem.inference.attention.attention_for_decoding` says, in whose block one is.
    """
    if way.reader is not Reader:
        return way.reader(model)
    if in_pieces:
        return Reader(model, cache_in_pieces(model))
    if model.device.type == "cuda" and recording.can_record(model):
        return _RecordedReader(model, longest, capacity)
    return Reader(model)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block the model is in evaluation mode, without dropout, and float32 is multiplied as such.

    After it each module is in its old mode again.

    >>> from lmmem import load_model
    >>> model = load_model("pocket-mini").train()
    >>> with evaluating(model):
    ...     model.training
    False
    >>> model.training
    True
    """
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        with full_precision():
            yield
    finally:
        for module in training:
            module.training = True


def logits_of(model: PreTrainedModel, tokens: torch.Tensor, keep: int, **options: Any) -> torch.Tensor:
    """The logits after the last `keep` tokens: (n, k) -> (n, keep, vocabulary)."""
    options.setdefault("use_cache", False)
    return _called(model, tokens, keep, **options).logits[:, -keep:]


def memory_for(model: PreTrainedModel) -> int:
    """Bytes that a batch may take beyond the weights: of what is kept of its tokens, and of their logits."""
    free = free_bytes(model.device)
    if free is None:
        return max(PROCESSOR_BYTES // 8, PROCESSOR_BYTES - laid_out_bytes(model))
    return int(FREE_SHARE * (free + recording.held_bytes(model)))


def _called(model: PreTrainedModel, tokens: torch.Tensor, keep: int, **options: Any) -> Any:
    """What a model gives for tokens; it is asked only for what it knows of."""
    options |= {"logits_to_keep": keep, "return_dict": True}
    known = _known_options(type(model).forward)
    if known is not None:
        if missing := options.keys() & set(CACHES) - known:
            raise TypeError(f"the model takes no {', '.join(missing)}")
        options = {name: value for name, value in options.items() if name in known}
    return model(tokens, **options)


@functools.cache
def _known_options(forward: Callable[..., Any]) -> frozenset[str] | None:
    """The names of what a model's forward takes; None if it takes whatever it is given."""
    parameters = inspect.signature(forward).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return None if takes_all else frozenset(parameters)


@torch.inference_mode()
def _tried(model: PreTrainedModel, tokens: torch.Tensor) -> Way:
    """Try a model on two prompts, each followed by two texts, and on other prompts followed by the first of these."""
    prompts, following, moved = _texts(model, tokens)  # (2, k), (2, 2, m), (2, k)
    first, second = following.unbind(1)
    pairs = (prompts, first), (prompts, second), (moved, first)
    rows, k = torch.cat([torch.cat(pair, dim=1) for pair in pairs]), prompts.shape[1]
    with (
        evaluating(model),
        shared_cores(model.device),
        attention_for_decoding(model) as in_pieces,
        fast_products(model, rows.numel() // 2),
    ):
        whole, few = _at_once(model, rows, rows.shape[1])
        alone, _ = _at_once(model, prompts, 1)
        asked, changed, elsewhere = whole.unflatten(0, (3, 2))
        epsilons, agree, before = ROUNDING[model.dtype.itemsize]
        rounding = epsilons * torch.finfo(model.dtype).eps * float(asked[asked.isfinite()].abs().max())
        later, fewer = _apart(asked[:, :k], changed[:, :k], before), _apart(asked[:, k - 1 : k], alone, before)
        if max(later, fewer) > rounding:
            raise ValueError(_refusal(model, "is not causal: its logits for a token change with later tokens"))
        allowed = max(rounding, SHARE * _apart(asked[:, k:], elsewhere[:, k:]))
        expected = torch.stack([asked, changed], dim=1)[:, :, k - 1 :].flatten(0, 1)  # (4, 1 + m, vocabulary)
        beside = 0 if few else 4 * whole.shape[-1]
        for kind, branches in itertools.product((Reader, _OwnCacheReader), (True, False)):
            reader = Reader(model, cache_in_pieces(model)) if kind is Reader and in_pieces else kind(model)
            try:
                said, held = _through(reader, prompts, following.flatten(0, 1), branches)
            except Exception as error:  # each class says it in a way of its own
                if out_of_memory(error):
                    raise
                continue
            if _apart(said.float(), expected, agree) <= allowed:
                return Way(kind, branches, held + beside, whole.shape[-1], few)
    return Way(Rereader, True, tokens.element_size() + beside, whole.shape[-1], few)


def _at_once(model: PreTrainedModel, rows: torch.Tensor, keep: int) -> tuple[torch.Tensor, bool]:
    """The logits after the last `keep` tokens of rows, and whether no others were computed.

    Raises
    ------
    ValueError : the model gives none.
    NoNumbersError : they are no numbers.
    """
    try:
        logits = _called(model, rows, keep, use_cache=False).logits
    except Exception as error:  # each class says it in a way of its own
        if out_of_memory(error):
            raise
        raise ValueError(_refusal(model, f"cannot be read from token ids alone: {_line(error)}")) from error
    if logits.ndim != 3 or len(logits) != len(rows) or logits.shape[1] not in (keep, rows.shape[1]):
        raise ValueError(_refusal(model, f"gives no logits for each token, but an array of shape {(*logits.shape,)}"))
    if not bool(logits.amax(dim=-1).isfinite().all()):  # the largest is no number if any is none
        raise NoNumbersError(model)
    return logits[:, -keep:].float(), logits.shape[1] == keep


def _through(
    reader: Reader, prompts: torch.Tensor, following: torch.Tensor, branches: bool
) -> tuple[torch.Tensor, float]:
    """Logits after the prompts (2, k) and each following token (4, m): (4, 1 + m, vocabulary), and bytes a token."""
    read = prompts if branches else prompts.repeat_interleave(2, dim=0)
    said = reader.read(read)
    held = reader.held_bytes() / read.numel()
    if branches:
        said = said.repeat_interleave(2, dim=0)
        reader.branch(2)
        if not isinstance(getattr(reader.cache, "layers", [None])[0], Pieces):
            backwards = torch.arange(3, -1, -1, device=read.device)
            reader.select(backwards)
            reader.select(backwards)
    every = [said, *(reader.read(token) for token in following.split(1, dim=1))]
    return torch.stack(every, dim=1), held


def _texts(model: PreTrainedModel, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the tokens given: prompts (2, k), two texts to follow each (2, 2, m), other prompts (2, k)."""
    context = context_of(model) or 2 * TRIED
    k = max(1, min(max(tokens.shape[1], AHEAD + 1), TRIED, context - AHEAD))
    given = tokens[:2, :TRIED].flatten()
    prompts = given[torch.arange(2 * k, device=given.device) % len(given)].view(2, k)
    largest = int(prompts.max())
    ahead = prompts[:, : min(AHEAD, max(1, context - k))]
    other = torch.where(ahead.flip(0) == ahead, (ahead + 1) % (largest + 1), ahead.flip(0))
    moved = prompts.roll(1, dims=1)
    moved = torch.where((moved == prompts).all(), (prompts + 1) % (largest + 1), moved)
    return prompts, torch.stack([ahead, other], dim=1), moved


def _apart(one: torch.Tensor, other: torch.Tensor, share: float = 1.0) -> float:
    """The largest difference (.., vocabulary) at a share of places; a number that is none on one side is one."""
    places = torch.where(one == other, 0, (one - other).abs()).amax(dim=-1).flatten().sort().values
    return float(places[int(share * (len(places) - 1))])


def _tensors(of: Any) -> Iterator[torch.Tensor]:
    """All tensors within lists, tuples, dictionaries and objects that hold them."""
    if isinstance(of, torch.Tensor):
        yield of
    elif isinstance(of, dict):
        for each in of.values():
            yield from _tensors(each)
    elif isinstance(of, list | tuple):
        for each in of:
            yield from _tensors(each)
    elif hasattr(of, "__dict__"):
        yield from _tensors(vars(of))


def _refusal(model: PreTrainedModel, why: str) -> str:
    return f"{type(model).__name__} {why}; give a causal language model of transformers"


def _line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
