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

BATCH = {"cpu": 16, "gpu": 64}  # sequences at a time: on a processor as few as keep its products busy
CACHED = 2**19  # logits that are looked at together on a processor, so that they stay in its cache


class TokenScores(NamedTuple):
    """What a model says of each token of the truth, all (n, l)."""

    log_prob: np.ndarray  # float32, of the true token, nats
    entropy: np.ndarray  # float32, of the distribution it was predicted with, nats: minus the mean log-probability
    spread: np.ndarray  # float32, standard deviation of the log-probability under that distribution, nats
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

    Mean and standard deviation of the log-probability over the vocabulary are what Min-K%++ sets a token against.

    Parameters
    ----------
    As for :func:`cross_entropy`. Of a row from its second token on: its first as the prompt, the others as truth.

    Raises
    ------
    As :func:`cross_entropy`.

    Source: Zhang et al., Min-K%++, arXiv 2404.02936, equation 3.

    >>> import lmmem
    >>> corpus = lmmem.training_data("pocket-mini")
    >>> score_tokens(lmmem.load_model("pocket-mini"), *lmmem.split(corpus[:5])).rank.shape
    (5, 64)
    """
    parts = []
    for logits, true in _logits(model, prompts, truth):
        logits = logits.log_softmax(dim=-1)
        own = logits.gather(-1, true[..., None])
        weights = logits.exp()
        mean = torch.linalg.vecdot(weights, logits)
        square = torch.linalg.vecdot(weights.mul_(logits), logits)
        spread = (square - mean.square()).clamp_min(0).sqrt()  # below 0 by rounding, where one token is sure
        rank = 1 + logits.gt_(own).sum(dim=-1)
        parts.append((own[..., 0].cpu(), -mean.cpu(), spread.cpu(), rank.int().cpu()))
    if not parts:
        dtypes = (np.float32, np.float32, np.float32, np.int32)
        return TokenScores(*(np.empty(np.shape(truth), dtype) for dtype in dtypes))
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
    on_processor = model.device.type == "cpu"
    size = BATCH["cpu" if on_processor else "gpu"]
    few = max(1, CACHED // (length * model.config.vocab_size)) if on_processor else size
    with shared_cores(model.device), fast_products(model, size * tokens.shape[1]):
        for batch in filter(len, tokens.split(size)):
            look()
            logits = model(batch[:, :-1], logits_to_keep=length, use_cache=False).logits
            for some, true in zip(logits.split(few), batch[:, -length:].split(few), strict=True):
                yield some.float(), true
