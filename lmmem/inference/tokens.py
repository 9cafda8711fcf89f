"""Can this model read these token ids? One check for whatever hands them to a model, before it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["as_tokens", "context_of", "vocabulary_of"]

CONTEXT = ("max_position_embeddings", "max_sequence_length", "max_seq_len", "n_positions", "n_ctx")  # in configurations


def as_tokens(model: PreTrainedModel, ids: ArrayLike, name: str = "prompts", more: int = 0) -> torch.Tensor:
    """Ids as a tensor on the model's device, if the model can read them and `more` tokens after them.

    Parameters
    ----------
    model : a causal language model of transformers.
    ids : (n, k) token ids.
    name : what the ids are, for the message.
    more : tokens that are to follow.

    Returns
    -------
    (n, k) int64 on the device of the model.

    Raises
    ------
    ValueError : they are no matrix of whole numbers with at least one column, lie outside the
        vocabulary, or do not fit the model's context with what follows.

    >>> from lmmem import load_model
    >>> as_tokens(load_model("pocket-mini"), [[5, 6, 7]], more=4)
    tensor([[5, 6, 7]])
    """
    if not hasattr(getattr(model, "config", None), "get_text_config"):
        raise ValueError(f"give a causal language model of transformers, got {type(model).__name__}")
    tokens = np.asarray(ids)
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu" or tokens.shape[1] < 1:
        raise ValueError(f"{name} must be token ids (n, k), got {tokens.dtype} of shape {tokens.shape}")
    vocabulary, context = vocabulary_of(model), context_of(model)
    if tokens.size and (tokens.min() < 0 or tokens.max() >= vocabulary):
        raise ValueError(f"{name} hold ids {tokens.min()} .. {tokens.max()}; the vocabulary is 0 .. {vocabulary - 1}")
    if context is not None and tokens.shape[1] + more > context:
        raise ValueError(
            f"{name} of {tokens.shape[1]} tokens and {more} after them do not fit the model's context of {context}"
        )
    return torch.as_tensor(tokens, dtype=torch.long, device=model.device)


def vocabulary_of(model: PreTrainedModel) -> int:
    """How many token ids a model can be given.

    >>> from lmmem import load_model
    >>> vocabulary_of(load_model("pocket-mini"))
    512
    """
    named = getattr(model.config.get_text_config(decoder=True), "vocab_size", None)
    return named if isinstance(named, int) else cast(torch.Tensor, model.get_input_embeddings().weight).shape[0]


def context_of(model: PreTrainedModel) -> int | None:
    """How many tokens a model can read at once, by its configuration; None if it names no limit.

    >>> from lmmem import load_model
    >>> context_of(load_model("pocket-mini"))
    96
    """
    config = model.config.get_text_config(decoder=True)
    named = (getattr(config, name, None) for name in CONTEXT)
    return next((limit for limit in named if isinstance(limit, int) and limit > 0), None)
