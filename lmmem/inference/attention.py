"""Keys and values laid out for one new token at a time: what decoding on a processor attends to.

A processor reads memory best in order, so :class:`Pieces` keeps a sequence in a few full pieces, and
the prompt once for all its samples. Beside transformers' own caches because it is worth more than
half of pocket's decoding and sampling again (measured in ``benchmarks/decoding.py``). A GPU can
repeat a step without Python if no address and no shape changes: there the cache is transformers'
``StaticCache`` (:mod:`lmmem.inference.recording`). Knows no logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Pieces", "attention_for_decoding", "cache_in_pieces"]

NAME = "lmmem_decoding"  # of our attention, among those of transformers
ARCHITECTURES = ("gpt_neox", "llama")  # whose layers hand on what the cache gives them as it is, and see all of it
PIECE = 32  # tokens of a piece at least


class Pieces(DynamicLayer):
    """Keys and values of one layer in pieces: the prompts' (n, heads, k, width), then of new tokens, (n * copies, ..).

    A later piece is as long as an eighth of what is before it, so that there are few.
    """

    def __init__(self) -> None:
        super().__init__()
        self.used, self.copies = 0, 1
        self.pieces: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.capacity = 0  # tokens that the pieces hold or have place for

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object) -> Any:
        """Take note of new tokens; for the first ones gives them back, for later ones gives the layer itself."""
        new = key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.pieces.append((_for_products(key_states), _for_products(value_states)))
            self.used = self.capacity = new
            return key_states, value_states
        if self.used + new > self.capacity:
            n, heads, _, width = key_states.shape
            size = n, heads, max(PIECE, new, self.used // 8), width
            keys = torch.zeros(size, dtype=self.pieces[0][0].dtype, device=key_states.device)  # what is not used is 0
            self.pieces.append((keys, torch.zeros_like(keys)))
            self.capacity += keys.shape[-2]
        keys, values = self.pieces[-1]
        at = keys.shape[-2] - (self.capacity - self.used)
        keys[:, :, at : at + new] = key_states
        values[:, :, at : at + new] = value_states
        self.used += new
        return self, self

    def get_seq_length(self) -> int:
        """Tokens read so far."""
        return self.used

    def batch_repeat_interleave(self, repeats: int) -> None:
        """From now on each prompt has so many continuations."""
        self.copies = repeats


def cache_in_pieces(model: PreTrainedModel) -> Cache:
    """An empty cache of :class:`Pieces`, for a model within :func:`attention_for_decoding`."""
    return Cache(layers=[Pieces() for _ in range(model.config.num_hidden_layers)])


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: Any,
    value: Any,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one new token (n, heads, 1, width) to pieces; anything else as transformers does it.

    A product for each piece, over all of it: over a part of a tensor it would take several
    times as long. What lies past the last token weighs nothing.
    """
    if not isinstance(key, Pieces):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    n, heads, _, width = query.shape
    prompt_keys, prompt_values = key.pieces[0]
    groups, copies = prompt_keys.shape[1], key.copies  # heads of keys, each for several of queries
    grouped = query.reshape(n * groups, heads // groups, width).to(prompt_keys.dtype)
    grouped = grouped * (width**-0.5 if scaling is None else scaling)
    later = [(keys.flatten(0, 1), values.flatten(0, 1)) for keys, values in key.pieces[1:]]
    scores = [_copies_last(_copies_first(grouped, groups, copies) @ prompt_keys.flatten(0, 1).mT, groups, copies)]
    scores += [grouped @ keys.mT for keys, _ in later]
    weights = torch.cat(scores, dim=-1)  # (n * groups, heads / groups, capacity)
    weights[..., key.used :] = -torch.inf
    of_prompt, *of_later = weights.softmax(dim=-1).split([part.shape[-1] for part in scores], dim=-1)
    seen = _copies_last(_copies_first(of_prompt, groups, copies) @ prompt_values.flatten(0, 1), groups, copies)
    for part, (_, values) in zip(of_later, later, strict=True):
        seen = torch.baddbmm(seen, part, values)
    return seen.view(n, 1, heads, width).to(query.dtype), None


def _for_products(states: torch.Tensor) -> torch.Tensor:
    """In float32 at least: a product with one query in half precision takes longer, and says less."""
    return states.to(torch.promote_types(states.dtype, torch.float32)).contiguous()


def _copies_first(x: torch.Tensor, groups: int, copies: int) -> torch.Tensor:
    """(n * copies * groups, g, w) -> (n * groups, copies * g, w): the copies of a prompt side by side."""
    if copies == 1:
        return x
    _, g, w = x.shape
    return x.view(-1, copies, groups, g, w).transpose(1, 2).reshape(-1, copies * g, w)


def _copies_last(x: torch.Tensor, groups: int, copies: int) -> torch.Tensor:
    """(n * groups, copies * g, w) -> (n * copies * groups, g, w), the way back."""
    if copies == 1:
        return x
    _, many, w = x.shape
    return x.view(-1, groups, copies, many // copies, w).transpose(1, 2).reshape(-1, many // copies, w)


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def attention_for_decoding(model: PreTrainedModel) -> Iterator[bool]:
    """While the block runs a model on a processor attends to :class:`Pieces`, if it can; says whether."""
    before = model.config._attn_implementation
    if model.device.type != "cpu" or before != "sdpa" or model.config.model_type not in ARCHITECTURES:
        yield False
        return
    model.set_attn_implementation(NAME)
    try:
        yield True
    finally:
        model.set_attn_implementation(before)
