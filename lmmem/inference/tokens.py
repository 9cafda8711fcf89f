"""Can this model read these token ids? One check for whatever hands them to a model, before it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["as_tokens"]


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
    tokens = np.asarray(ids)
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu" or tokens.shape[1] < 1:
        raise ValueError(f"{name} must be token ids (n, k), got {tokens.dtype} of shape {tokens.shape}")
    vocabulary = model.config.vocab_size
    context = getattr(model.config, "max_position_embeddings", None)  # some models have no limit
    if tokens.size and (tokens.min() < 0 or tokens.max() >= vocabulary):
        raise ValueError(f"{name} hold ids {tokens.min()} .. {tokens.max()}; the vocabulary is 0 .. {vocabulary - 1}")
    if context is not None and tokens.shape[1] + more > context:
        raise ValueError(
            f"{name} of {tokens.shape[1]} tokens and {more} after them do not fit the model's context of {context}"
        )
    return torch.as_tensor(tokens, dtype=torch.long, device=model.device)
