"""One step of decoding in memory that stays where it is, so that a GPU can repeat it without Python.

A GPU takes as long to be told of a small step's kernels as to run them (``benchmarks/gpu.py``
times it). A CUDA graph tells it once: the step is recorded the first time and repeated from then on, for
all tokens and all draws, because noise on the weights changes them in place. A recording is compared
with a plain step when it is first used; a model with which they differ takes plain steps from then on.
Chooses no tokens.
"""

from __future__ import annotations

import warnings
import weakref
from typing import TYPE_CHECKING, cast

import torch
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Step", "can_record", "forget", "held_bytes", "step_for"]

COMPARED = 64  # continuations of a batch, whose logits are compared
CANNOT = (TypeError, ValueError, AttributeError, IndexError, KeyError, NotImplementedError)  # what a model may raise


class Step:
    """The logits after one more token of n continuations, of `longest` tokens at most with their prompts.

    Keys and values lie in transformers' ``StaticCache``, whose position is a tensor: no shape, no
    address and no number of Python's changes from step to step. At its first use it takes two steps, which
    one plain pass over both tokens has to agree with: where they do not, plain steps are taken, of this model
    from then on.
    """

    def __init__(self, model: PreTrainedModel, n: int, longest: int) -> None:
        self.n, self.longest = n, longest
        self.addresses = _addresses(model)
        self.tokens = torch.zeros(n, 1, dtype=torch.long, device=model.device)
        self.cache = StaticCache(config=model.config, max_cache_len=longest)
        self.layers = cast("list[StaticLayer]", self.cache.layers)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.logits: torch.Tensor | None = None
        self.prompts: Cache | None = None  # until the step has been compared, or to take plain steps
        self.copies, self.compared, self.plain = 1, False, False

    def begin(self, model: PreTrainedModel, prompts: Cache, copies: int) -> None:
        """Go on from prompts that have been read, each with so many continuations."""
        self.prompts, self.copies, self.plain = prompts, copies, False
        try:
            self._fill(model, prompts, copies)
        except CANNOT as error:
            self._give_up(model, f"cannot be taken in memory that stays where it is: {error}")
        if self.compared and not self.plain:
            self.prompts = None

    def __call__(self, model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (m, vocabulary) after these tokens (m, 1), m <= n; the next call writes over them."""
        if self.prompts is not None and not self.plain:
            try:
                return self._compared(model, tokens, self.prompts)
            except CANNOT as error:
                self._give_up(model, f"cannot be taken in memory that stays where it is: {error}")
        if self.plain:
            assert self.prompts is not None  # noqa: S101 - kept where plain steps are taken
            return _read(model, tokens, self.prompts)[:, -1]
        return self._take(model, tokens)

    def _fill(self, model: PreTrainedModel, prompts: Cache, copies: int) -> None:
        """Take over what was read of the prompts, after the step has been recorded if that can be."""
        new = not self.layers[0].is_initialized
        read = [_states(layer) for layer in prompts.layers]
        for layer, states in zip(self.layers, read, strict=True):
            if new:  # from their shapes alone
                layer.lazy_initialization(*(part[:1].expand(self.n, -1, -1, -1) for part in states))
        if new and model.device.type == "cuda":
            try:
                self._record(model)
            except RuntimeError as error:
                short = next((e for e in (error, error.__context__) if isinstance(e, torch.OutOfMemoryError)), None)
                if short:
                    raise short from None
                raise NotImplementedError(str(error)) from error
        for layer, states in zip(self.layers, read, strict=True):
            for kept, part in zip(_states(layer), states, strict=True):
                n, _, k, _ = part.shape
                kept[: n * copies].unflatten(0, (n, copies))[..., :k, :] = part[:, None]
                kept[..., k:, :] = 0  # a number that is none, of an earlier draw, would be none times nothing too
        self._at(prompts.get_seq_length())

    def _compared(self, model: PreTrainedModel, tokens: torch.Tensor, prompts: Cache) -> torch.Tensor:
        """The first logits; if some of them, or those after the same token again, are not a plain pass's, plain ones.

        Both tokens in one pass, of rows from all over the batch.
        """
        rows = torch.linspace(0, len(tokens) - 1, min(len(tokens), COMPARED), device=tokens.device).long()
        first = self._take(model, tokens).clone()
        ours = torch.stack([first[rows], self._take(model, tokens)[rows]], dim=1)
        few = DynamicCache()
        for number, layer in enumerate(prompts.layers):
            keys, values = _states(layer)
            few.update(keys[rows // self.copies], values[rows // self.copies], number)
        theirs = _read(model, tokens[rows].expand(-1, 2), few)
        self._at(prompts.get_seq_length() + 1)  # the second is forgotten
        if not _alike(ours, theirs):
            self._give_up(model, "says another thing when it is recorded")
            return self(model, tokens)
        self.compared = not bool(theirs.isnan().any(dim=-1).all())
        self.prompts = None
        return first

    def _give_up(self, model: PreTrainedModel, why: str) -> None:
        """From now on plain steps are taken."""
        if self.copies > 1:
            cast(Cache, self.prompts).batch_repeat_interleave(self.copies)
        self.plain = True
        _unfit.add(model)
        forget(model)
        warnings.warn(
            f"a step of {type(model).__name__} {why}; plain steps are taken, which are right and take longer",
            stacklevel=2,
        )

    def _take(self, model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
        self.tokens[: len(tokens)] = tokens
        if self.graph is None:
            return self._compute(model)[: len(tokens)]
        self.graph.replay()
        assert self.logits is not None  # noqa: S101 - recorded with the graph
        return self.logits[: len(tokens)]

    def _compute(self, model: PreTrainedModel) -> torch.Tensor:
        return model(self.tokens, past_key_values=self.cache, use_cache=True, logits_to_keep=1).logits[:, -1]

    def _record(self, model: PreTrainedModel) -> None:
        device = self.tokens.device
        here, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        aside.wait_stream(here)
        with torch.cuda.stream(aside):  # kernels that are chosen or loaded at their first run
            for _ in range(2):
                self._at(0)
                self._compute(model)
        here.wait_stream(aside)
        self._at(0)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(here), torch.cuda.graph(graph, stream=aside):  # back to this stream, whatever happens
            self.logits = self._compute(model)
        self.graph = graph

    def _at(self, position: int) -> None:
        for layer in self.layers:
            layer.cumulative_length.fill_(position)


_steps: weakref.WeakKeyDictionary[PreTrainedModel, Step] = weakref.WeakKeyDictionary()  # the last one of each model
_unfit: weakref.WeakSet[PreTrainedModel] = weakref.WeakSet()  # models that take plain steps


def step_for(model: PreTrainedModel, n: int, longest: int) -> Step:
    """The step of this model for n continuations: the last one if it fits, else a new one in its place."""
    known = _steps.get(model)
    if known and known.longest == longest and n <= known.n <= 2 * n and known.addresses == _addresses(model):
        return known
    forget(model)
    _steps[model] = Step(model, n, longest)
    return _steps[model]


def forget(model: PreTrainedModel) -> None:
    """Give back the memory of a model's step."""
    _steps.pop(model, None)


def held_bytes(model: PreTrainedModel) -> int:
    """Memory of the keys and values of a model's step."""
    known = _steps.get(model)
    if known is None or not known.layers[0].is_initialized:
        return 0
    return sum(part.nbytes for layer in known.layers for part in _states(layer))


def can_record(model: PreTrainedModel) -> bool:
    """Whether a step of this model is the same at every position, by what it says and by what has been seen of it."""
    return (
        model not in _unfit
        and model._can_compile_fullgraph
        and model.config._attn_implementation == "sdpa"  # which heeds the mask of what is not written yet
        and all(type(layer) is StaticLayer for layer in StaticCache(config=model.config, max_cache_len=1).layers)
        and len({parameter.device for parameter in model.parameters()}) == 1
    )


def _read(model: PreTrainedModel, tokens: torch.Tensor, cache: Cache) -> torch.Tensor:
    """Logits (m, k, vocabulary) after each of these tokens (m, k), in a plain pass."""
    return model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=tokens.shape[1]).logits


def _alike(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether logits (m, k, vocabulary) are the same but for rounding, to half of the digits of their dtype.

    Each place by its own: the root mean square of the difference as a share of the standard deviation of the logits.
    Places where they are NaN in a plain step, as under too much noise, say nothing.
    """
    allowed = torch.finfo(theirs.dtype).eps ** 0.5
    ours, theirs = ours.float(), theirs.float()
    off = torch.where(ours == theirs, 0, ours - theirs).square().mean(dim=-1).sqrt()  # a word may be left out by -inf
    spread = theirs.masked_fill(theirs.isinf(), 0).std(dim=-1)
    return bool((off <= allowed * spread)[~theirs.isnan().any(dim=-1)].all())


def _states(layer: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of a layer of a cache that has read something."""
    kept = cast("StaticLayer | DynamicLayer", layer)
    return cast(torch.Tensor, kept.keys), cast(torch.Tensor, kept.values)


def _addresses(model: PreTrainedModel) -> tuple[int, ...]:
    """Where the weights lie: a graph reads them there."""
    return tuple(parameter.data_ptr() for parameter in model.parameters())
