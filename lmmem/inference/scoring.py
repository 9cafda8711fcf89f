"""How likely a model finds the true continuation, by one forward pass: recognition, beside recall.

Every greedy table bears it. Knows nothing of decoding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from lmmem.inference.cores import look, shared_cores
from lmmem.inference.memory import halved
from lmmem.inference.products import fast_products
from lmmem.inference.reading import (
    LOGITS,
    NoNumbersError,
    evaluating,
    logits_of,
    memory_for,
    way_of,
)
from lmmem.inference.tokens import as_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["TokenScores", "by_token", "cross_entropy", "score_tokens"]

BATCH = {"cpu": 16, "gpu": 64}  # sequences at a time: on a processor as few as keep its products busy
BYTES = 3 * 2**29  # of logits at a time, at most, and of what is computed from them
CACHED = 2**19  # logits that are looked at together on a processor, so that they stay in its cache
Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class TokenScores(NamedTuple):
    """What a model says of each token of the truth, all (n, l)."""

    log_prob: np.ndarray  # float32, of the true token, nats
    entropy: np.ndarray  # float32, of the distribution it was predicted with, nats: minus the mean log-probability
    spread: np.ndarray  # float32, standard deviation of the log-probability under that distribution, nats
    rank: np.ndarray  # int32, 1 where the true token is the likeliest; ties count in its favour
    likeliest: np.ndarray  # bool, greedy decoding would say it here: of tokens that tie, the first of the vocabulary


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
    ValueError : prompts and truth do not pair, or the model cannot read them; or it is not causal.
    FloatingPointError : logits are no numbers; of which sequence.

    >>> import lmmem
    >>> corpus = lmmem.training_data("pocket-mini")
    >>> cross_entropy(lmmem.load_model("pocket-mini"), *lmmem.split(corpus[:5])).shape
    (5,)
    """

    def lost(logits: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        return -logits.log_softmax(dim=-1).gather(-1, true[..., None])[..., 0]

    return torch.from_numpy(by_token(model, prompts, truth, lost)).double().mean(dim=-1).numpy()


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

    def scores(logits: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        likeliest = logits.argmax(dim=-1) == true
        logits = logits.log_softmax(dim=-1)
        own = logits.gather(-1, true[..., None])
        logits.clamp_(min=torch.finfo(logits.dtype).min)  # of a token ruled out, nothing times it is to be nothing
        weights = logits.exp()
        mean = torch.linalg.vecdot(weights, logits)
        square = torch.linalg.vecdot(weights.mul_(logits), logits)
        spread = (square - mean.square()).clamp_min(0).sqrt()  # below 0 by rounding, where one token is sure
        rank = 1 + logits.gt_(own).sum(dim=-1)  # below 2^24, so exact in float32
        return torch.stack([own[..., 0], -mean, spread, rank, likeliest])

    log_prob, entropy, spread, rank, likeliest = by_token(model, prompts, truth, scores, values=5)
    return TokenScores(log_prob, entropy, spread, rank.astype(np.int32), likeliest.astype(bool))


def by_token(model: PreTrainedModel, prompts: ArrayLike, truth: ArrayLike, score: Score, values: int = 1) -> np.ndarray:
    """Numbers for each token of the truth, of the logits that predict it: one forward pass, in bounded memory.

    Parameters
    ----------
    model : a causal language model of transformers.
    prompts : (n, k) token ids.
    truth : (n, l) token ids.
    score : of logits (m, t, vocabulary), float32, that predict some tokens of the truth (m, t), the numbers
        (values, m, t), or (m, t) if it is one, NaN if any logit is; may write over the logits.
    values : how many numbers a token has.

    Returns
    -------
    (values, n, l) float32, or (n, l) if it is one. As many rows are looked at together as memory is meant for, fewer
    where it is short, and of a long row some tokens at a time.

    Raises
    ------
    ValueError : as for :func:`cross_entropy`.
    FloatingPointError : logits are no numbers.

    >>> import lmmem
    >>> prompts, truth = lmmem.split(lmmem.training_data("pocket-mini")[:5])
    >>> largest = by_token(lmmem.load_model("pocket-mini"), prompts, truth, lambda logits, true: logits.amax(dim=-1))
    >>> largest.shape
    (5, 64)
    """
    prompts, truth = as_tokens(model, prompts), as_tokens(model, truth, "truth", more=np.shape(prompts)[-1] - 1)
    if len(prompts) != len(truth):
        raise ValueError(f"prompts {tuple(prompts.shape)} and truth {tuple(truth.shape)} must pair, row by row")
    found = torch.empty(values, *truth.shape)
    if not len(truth):
        return found.squeeze(0).numpy() if values == 1 else found.numpy()
    way, tokens, length = way_of(model, prompts), torch.cat([prompts, truth], dim=1), truth.shape[1]
    bytes_each = LOGITS * way.vocabulary * (length if way.few else tokens.shape[1])  # of a row's logits
    memory = min(BYTES, memory_for(model))
    size = int(max(1, min(len(tokens), BATCH["cpu" if model.device.type == "cpu" else "gpu"], memory // bytes_each)))
    together = length if memory >= bytes_each else int(max(1, memory // (LOGITS * way.vocabulary)))  # tokens of a row
    row = 0
    with evaluating(model), shared_cores(model.device), fast_products(model, size * tokens.shape[1]):
        while row < len(tokens):
            batch = tokens[row : row + size]
            try:
                for start in range(0, length, together):
                    span = slice(start, min(length, start + together))
                    found[:, row : row + size, span] = _of_batch(model, batch, length, span, score)
            except RuntimeError as error:
                size = halved(size, error)
                continue
            row += size
    if bool(found.isnan().any()):  # as of logits of which any is
        raise NoNumbersError(model, int(found.isnan().any(dim=0).any(dim=1).int().argmax()))
    return found.squeeze(0).numpy() if values == 1 else found.numpy()


@torch.inference_mode()
def _of_batch(model: PreTrainedModel, tokens: torch.Tensor, length: int, span: slice, score: Score) -> torch.Tensor:
    """(values or 1, m, t), of the tokens (m, k + length) that are in a span of their last `length`."""
    look()
    begin, keep = tokens.shape[1] - length, span.stop - span.start
    every = logits_of(model, tokens[:, : begin + span.stop - 1], keep)  # what comes later changes nothing
    few, short = len(tokens), keep  # rows, and tokens of each, that are looked at together
    if model.device.type == "cpu":
        few, short = max(1, CACHED // (keep * every.shape[-1])), max(1, min(keep, CACHED // every.shape[-1]))
    true = tokens[:, begin + span.start : begin + span.stop]
    rows = (
        [score(logits.float(), of).cpu() for logits, of in zip(some.split(short, 1), own.split(short, 1), strict=True)]
        for some, own in zip(every.split(few), true.split(few), strict=True)
    )
    return torch.cat([torch.cat(row, dim=-1) for row in rows], dim=-2)
