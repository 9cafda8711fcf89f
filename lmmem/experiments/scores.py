"""Who is remembered, by likelihood alone: one score a sequence, larger where there is more memory.

Each is a small function of what :func:`lmmem.inference.scoring.score_tokens` says of each token, or of losses;
:meth:`lmmem.experiments.study.Study.scores` measures what they need. Knows neither who was met nor weights.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from lmmem.experiments.sequences import UNTOUCHED

__all__ = [
    "COST",
    "OTHERS",
    "check_scores",
    "earlier_step",
    "loss",
    "mean_rank",
    "min_k",
    "min_k_plus",
    "of_one_pass",
    "other_prompts",
    "over_earlier",
    "over_mismatched",
    "over_twins",
    "twins_of",
    "whole_row",
    "zlib_normalised",
]

OTHERS = 8  # prompts that a continuation is set after, beside its own (arXiv 2602.18733 takes several)
LEAST_LIKELY = 0.2  # of the tokens: k = 20 of Shi et al. 2023, arXiv 2310.16789
EARLY = 0.2  # of the steps: how far the model was at the earlier checkpoint, if nobody says
SURE = 1e-6  # nats: the least spread that a log-probability is divided by

# Forward passes a sequence, those of twins not counted: they are scored for themselves.
COST = {
    "loss": 1,
    "whole_row": 1,
    "zlib_normalised": 1,
    "min_k": 1,
    "min_k_plus": 1,
    "mean_rank": 1,
    "over_twins": 1,
    "over_earlier": 2,
    "over_mismatched": 1 + OTHERS,
}


def loss(log_probs: ArrayLike) -> np.ndarray:
    """Mean log-probability of the continuation, given its prompt: minus the loss.

    Parameters
    ----------
    log_probs : (n, l) of the true tokens, nats.

    Returns
    -------
    (n,) float64, nats per token.

    Source: Yeom et al., Privacy risk in machine learning, CSF 2018, arXiv 1709.01604.

    >>> loss([[-1.0, -3.0]])
    array([-2.])
    """
    return _matrix("log_probs", log_probs).mean(axis=1)


def whole_row(prompt_log_probs: ArrayLike, log_probs: ArrayLike) -> np.ndarray:
    """Mean log-probability of prompt and continuation, from the second token on.

    Parameters
    ----------
    prompt_log_probs : (n, k - 1) of the prompt's tokens after its first, nats.
    log_probs : as for :func:`loss`.

    >>> whole_row([[-5.0]], [[-1.0, -3.0]])
    array([-3.])
    """
    sides = _matrix("prompt_log_probs", prompt_log_probs), _matrix("log_probs", log_probs)
    return np.concatenate(sides, axis=1).mean(axis=1)


def zlib_normalised(log_probs: ArrayLike, texts: Sequence[str]) -> np.ndarray:
    """Log-probability of the continuation for each byte that zlib makes of its text.

    Parameters
    ----------
    log_probs : as for :func:`loss`.
    texts : n continuations, decoded.

    Returns
    -------
    (n,) float64, nats per byte.

    Raises
    ------
    ValueError : there is not one text for each line.

    Source: Carlini et al., Extracting training data from large language models, USENIX Security 2021, section 5.2,
    arXiv 2012.07805.

    >>> bool(zlib_normalised([[-1.0, -3.0]], ["ab"])[0] == -4 / len(zlib.compress(b"ab")))
    True
    """
    total = _matrix("log_probs", log_probs).sum(axis=1)
    if len(texts) != len(total):
        raise ValueError(f"texts: one for each line is needed, {len(total)}; got {len(texts)}")
    return total / np.array([len(zlib.compress(text.encode())) for text in texts])


def min_k(log_probs: ArrayLike, share: float = LEAST_LIKELY) -> np.ndarray:
    """Min-K%: mean log-probability of the tokens that were least expected.

    Parameters
    ----------
    log_probs : as for :func:`loss`.
    share : of the tokens, rounded down, one at least.

    Source: Shi et al., Detecting pretraining data from large language models, ICLR 2024, arXiv 2310.16789.

    >>> min_k([[-1.0, -3.0, -2.0, -9.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0]])
    array([-6.])
    """
    return _least(_matrix("log_probs", log_probs), share)


def min_k_plus(
    log_probs: ArrayLike, entropies: ArrayLike, spreads: ArrayLike, share: float = LEAST_LIKELY
) -> np.ndarray:
    """Min-K%++: as Min-K%, each log-probability in standard deviations from its mean over the vocabulary.

    Parameters
    ----------
    log_probs, share : as for :func:`min_k`.
    entropies, spreads : (n, l), minus the mean and the standard deviation of the log-probability under the
        distribution that the token was predicted with, nats. Where a model is sure of one token, a spread below 1e-6
        counts as that.

    Returns
    -------
    (n,) float64, in standard deviations.

    Source: Zhang et al., Min-K%++, ICLR 2025, arXiv 2404.02936, equations 3 and 4.

    >>> min_k_plus([[-3.0, -1.0]], [[2.0, 2.0]], [[0.5, 0.5]])
    array([-2.])
    """
    own, means = _matrix("log_probs", log_probs), -_matrix("entropies", entropies)
    return _least((own - means) / np.maximum(_matrix("spreads", spreads), SURE), share)


def mean_rank(ranks: ArrayLike) -> np.ndarray:
    """Minus the mean rank of the true tokens among the vocabulary; -1 where each is the likeliest.

    Parameters
    ----------
    ranks : (n, l), 1 is the likeliest.

    >>> mean_rank([[1, 3]])
    array([-2.])
    """
    return -_matrix("ranks", ranks).mean(axis=1)


def over_earlier(cross_entropy: ArrayLike, earlier: ArrayLike) -> np.ndarray:
    """By how much the loss is lower than at an earlier step, which is a reference model of the same text.

    Parameters
    ----------
    cross_entropy, earlier : (n,) of the same continuations, nats per token.

    Returns
    -------
    (n,) float64, nats per token.

    Source: the reference model of Carlini et al. 2021 (see :func:`zlib_normalised`), here the model's own past.

    >>> over_earlier([2.0], [4.5])
    array([2.5])
    """
    return np.asarray(earlier, dtype=float) - np.asarray(cross_entropy, dtype=float)


def over_mismatched(cross_entropy: ArrayLike, mismatched: ArrayLike) -> np.ndarray:
    """By how much the loss is lower after the own prompt than after others: what is not prior.

    Parameters
    ----------
    cross_entropy : (n,) of continuations, nats per token.
    mismatched : (m, n) of the same, each after m other prompts.

    Returns
    -------
    (n,) float64, nats per token.

    Source: prior-aware memorisation, arXiv 2602.18733.

    >>> over_mismatched([2.0], [[4.0], [6.0]])
    array([3.])
    """
    return np.asarray(mismatched, dtype=float).mean(axis=0) - np.asarray(cross_entropy, dtype=float)


def over_twins(values: ArrayLike, twins: ArrayLike, blocks: ArrayLike) -> np.ndarray:
    """A score minus the mean of that of the twins of the block; of a twin, minus that of the other twins.

    Parameters
    ----------
    values : (n,) numbers. twins : (n,) booleans, who is one. blocks : (n,) labels.

    Raises
    ------
    ValueError : a sequence has no twin in its block but itself.

    >>> over_twins([5.0, 1.0, 3.0], [False, True, True], [7, 7, 7])
    array([ 3., -2.,  2.])
    """
    values, own = np.asarray(values, dtype=float), np.asarray(twins, dtype=bool)
    block = pd.factorize(np.asarray(blocks))[0]
    others = np.bincount(block, own)[block] - own
    if lone := int((others < 1).sum()):
        raise ValueError(f"{lone} of {len(values)} sequences have no twin in their block but themselves")
    return values - (np.bincount(block, values * own)[block] - values * own) / others


def twins_of(sequences: pd.DataFrame) -> pd.Series:
    """Which sequences are twins: the unexposed, but for those from elsewhere; the untouched, where others were treated.

    Raises
    ------
    ValueError : there is no telling, or no sequence has two twins in its block.

    >>> lines = pd.DataFrame({"presentations": [1, 0, 0, 0], "group": ["a", "a", "a", "elsewhere"], "block": 0})
    >>> twins_of(lines).tolist()
    [False, True, True, False]
    """
    if missing := {"presentations", "group", "block"} - {*sequences}:
        raise ValueError(
            f"twins are told by group, presentations and block; sequences has no {', '.join(sorted(missing))}"
        )
    twins = (sequences.presentations == 0) & (sequences.group != "elsewhere")
    if (sequences.group == UNTOUCHED).any():  # what was done to the others raised or lowered their losses
        twins &= sequences.group == UNTOUCHED
    if lone := int((twins.groupby(sequences.block).sum() < 2).sum()):
        raise ValueError(f"{lone} of {sequences.block.nunique()} blocks have fewer than two unexposed sequences")
    return twins


def other_prompts(n: int, m: int = OTHERS, seed: int = 0) -> np.ndarray:
    """For each of n sequences m others, whose prompts it is set after; each is taken equally often.

    Returns
    -------
    (m, n) int64, numbers of sequences.

    Raises
    ------
    ValueError : there are no m others.

    >>> sorted(other_prompts(3, 2)[:, 0].tolist())
    [1, 2]
    """
    if not 1 <= m < n:
        raise ValueError(f"{m} other prompts need {m + 1} sequences or more; got {n}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(n)
    shifts = 1 + rng.permutation(n - 1)[:m]
    return order[(np.argsort(order) + shifts[:, None]) % n]


def earlier_step(steps: Sequence[int], step: int, earlier: int | None = None) -> int:
    """The checkpoint that a later one is compared with.

    Parameters
    ----------
    steps : that may be taken. step : the later one.
    earlier : None is the last one in the first fifth of the way, or the first there is, if all are later.

    Raises
    ------
    ValueError : there is no such checkpoint.

    >>> earlier_step((0, 100, 200, 900, 1_000), 1_000), earlier_step((1_500, 1_756, 2_012), 2_012)
    (200, 1500)
    """
    before = [one for one in steps if 0 < one < step]
    if earlier is None:
        if not before:
            raise ValueError(f"no checkpoint is there to compare step {step} with: name an earlier one")
        return max([one for one in before if one <= EARLY * step] or before[:1])
    if earlier not in before:
        there = f"there are {', '.join(map(str, before[:3]))} .. {before[-1]}" if before else "there is none"
        raise ValueError(f"earlier={earlier!r}: give a step before {step} that has a checkpoint; {there}")
    return earlier


def of_one_pass(measured: pd.DataFrame, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """The scores that one forward pass gives, by name.

    Parameters
    ----------
    measured : n lines of a likelihood table with figures of tokens.
    texts : n continuations, decoded.
    """
    columns = ("log_probs", "prompt_log_probs", "entropies", "spreads", "ranks")
    own, prompt, entropies, spreads, ranks = (np.stack([*measured[column]]) for column in columns)
    return {
        "loss": loss(own),
        "whole_row": whole_row(prompt, own),
        "zlib_normalised": zlib_normalised(own, texts),
        "min_k": min_k(own),
        "min_k_plus": min_k_plus(own, entropies, spreads),
        "mean_rank": mean_rank(ranks),
    }


def check_scores(only: Sequence[str] | None) -> list[str]:
    """The scores that are asked for, all if none is named.

    >>> check_scores(["los"])
    Traceback (most recent call last):
    ValueError: there is no score los; there are loss, whole_row, zlib_normalised, min_k, min_k_plus, mean_rank, over_twins, over_earlier, over_mismatched
    """  # noqa: E501
    if only is None:
        return list(COST)
    if isinstance(only, str) or not only:
        raise ValueError(f"only={only!r}: give a list of scores, some of {', '.join(COST)}")
    if unknown := [name for name in only if name not in COST]:
        raise ValueError(f"there is no score {', '.join(unknown)}; there are {', '.join(COST)}")
    return [name for name in COST if name in only]


def _matrix(name: str, values: ArrayLike) -> np.ndarray:
    numbers = np.asarray(values, dtype=float)
    if numbers.ndim != 2 or not numbers.shape[1]:
        raise ValueError(f"{name}: figures of tokens are needed, (n, l) with one token or more; got {numbers.shape}")
    return numbers


def _least(values: np.ndarray, share: float) -> np.ndarray:
    """Mean of the smallest share of each line."""
    if not 0 < share <= 1:
        raise ValueError(f"share={share!r}: give one above 0, at most 1")
    k = max(1, int(share * values.shape[1]))
    return np.partition(values, k - 1, axis=1)[:, :k].mean(axis=1)
