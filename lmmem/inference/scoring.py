"""How likely a model finds the true continuation, by one forward pass: recognition, beside recall.

Every greedy table bears it. Knows nothing of decoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from lmmem.inference.cores import look, shared_cores
from lmmem.inference.products import fast_products
from lmmem.inference.tokens import as_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["TokenScores", "cross_entropy", "score_tokens"]

BATCH = 64  # sequences at a time


class TokenScores(NamedTuple):
    """What a model says of each token of the truth, all (n, l)."""

    log_prob: np.ndarray  # float32, of the true token, nats
    entropy: np.ndarray  # float32, of the distribution it was predicted with, nats
    rank: np.ndarray  # int32, 1 where the true token is the likeliest; ties count in its favour


def cross_entropy(model: PreTrainedModel, prompts: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """Mean negative log-likelihood of each true continuation, given its prompt and its own past.

    Parameters
    ----------
    model : a causal language model of transformers.
    prompts : (n, k) token ids.
    truth : (n, l) token ids.

    Returns
    -------
    (n,) float64, in nats per token.

    Raises
    ------
    ValueError : prompts and truth do not pair, or the model cannot read them.

    >>> import lmmem
    >>> corpus = lmmem.training_data("pocket-mini")
    >>> cross_entropy(lmmem.load_model("pocket-mini"), *lmmem.split(corpus[:5])).shape
    (5,)
    """
    losses = [
        torch.nn.functional.cross_entropy(logits.mT, truth, reduction="none").double().mean(dim=1).cpu()
        for logits, truth in _logits(model, prompts, truth)
    ]
    return torch.cat(losses).numpy() if losses else np.empty(0)


def score_tokens(model: PreTrainedModel, prompts: ArrayLike, truth: ArrayLike) -> TokenScores:
    """The log-probability and the rank of each token of the truth, and how sure the model is there.

    Parameters
    ----------
    As for :func:`cross_entropy`.

    Raises
    ------
    As :func:`cross_entropy`.

    >>> import lmmem
    >>> corpus = lmmem.training_data("pocket-mini")
    >>> score_tokens(lmmem.load_model("pocket-mini"), *lmmem.split(corpus[:5])).rank.shape
    (5, 64)
    """
    parts = []
    for logits, true in _logits(model, prompts, truth):
        logits = logits.log_softmax(dim=-1)
        own = logits.gather(-1, true[..., None])
        rank = 1 + (logits > own).sum(dim=-1)
        entropy = -torch.linalg.vecdot(logits.exp(), logits)
        parts.append((own[..., 0].cpu(), entropy.cpu(), rank.int().cpu()))
    if not parts:
        return TokenScores(*(np.empty(np.shape(truth), dtype) for dtype in (np.float32, np.float32, np.int32)))
    return TokenScores(*(torch.cat(column).numpy() for column in zip(*parts, strict=True)))


@torch.inference_mode()
def _logits(
    model: PreTrainedModel, prompts: ArrayLike, truth: ArrayLike
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batch by batch the logits (n, l, vocabulary), float32, that predict the truth (n, l)."""
    prompts, truth = as_tokens(model, prompts), as_tokens(model, truth, "truth", more=np.shape(prompts)[-1] - 1)
    if len(prompts) != len(truth):
        raise ValueError(f"prompts {tuple(prompts.shape)} and truth {tuple(truth.shape)} must pair, row by row")
    tokens, length = torch.cat([prompts, truth], dim=1), truth.shape[1]
    with shared_cores(model.device), fast_products(model, BATCH * tokens.shape[1]):
        for batch in filter(len, tokens.split(BATCH)):
            look()
            yield model(batch[:, :-1], logits_to_keep=length).logits.float(), batch[:, -length:]
