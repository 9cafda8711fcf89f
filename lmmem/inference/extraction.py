"""How probable it is that sampling gives the true continuation, word for word and nearly: without drawing a sample.

The distribution is the one that :func:`lmmem.inference.decoding.sample` draws from; a test holds the two together.
Knows token ids only: no text, no tokenizer.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike

from lmmem.inference.cores import look, shared_cores
from lmmem.inference.decoding import LEAST
from lmmem.inference.products import fast_products
from lmmem.inference.reading import LOGITS, NoNumbersError, Rereader, Way, evaluating, memory_for, way_of
from lmmem.inference.scoring import by_token
from lmmem.inference.tokens import as_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["BEAMS", "extraction_log_probs", "near_verbatim_log_mass"]

HYPOTHESES = 256  # decoded at a time; results do not depend on it in float32
BEAMS = 16  # hypotheses kept of each number of tokens that differ


def extraction_log_probs(
    model: PreTrainedModel,
    prompts: ArrayLike,
    truth: ArrayLike,
    temperatures: Sequence[float],
    top_k: int | None = None,
) -> np.ndarray:
    """Log-probability with which sampling gives each token of the truth, after its prompt and its own past.

    The sum over tokens is that of the whole continuation: p_z of (n, p)-discoverable extraction. One forward pass
    serves all temperatures.

    Parameters
    ----------
    model : a causal language model of transformers.
    prompts : (n, k) token ids.
    truth : (n, l) token ids.
    temperatures : each divides the logits; above 0.
    top_k : sampling is among the so many likeliest tokens; None is among all.

    Returns
    -------
    (len(temperatures), n, l) float64, in nats; minus infinity where top_k leaves the token out.

    Raises
    ------
    ValueError : a temperature that is not above 0, top_k below 1, or what :func:`lmmem.cross_entropy` refuses.

    Source: Hayes et al., Measuring memorization in language models via probabilistic extraction, arXiv 2410.19482.

    >>> import lmmem
    >>> prompts, truth = lmmem.split(lmmem.training_data("pocket-mini")[:5])
    >>> extraction_log_probs(lmmem.load_model("pocket-mini"), prompts, truth, [0.5, 1.0]).shape
    (2, 5, 64)
    """
    temperatures = [_checked(temperature, top_k) for temperature in temperatures]

    def said(logits: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        logits = _likeliest(logits, top_k)
        own = logits.gather(-1, true[..., None])[..., 0]
        return torch.stack([own / t - (logits / t).logsumexp(dim=-1) for t in temperatures])

    found = by_token(model, prompts, truth, said, values=len(temperatures))
    return found.reshape(len(temperatures), *np.shape(truth)).astype(np.float64)


@torch.inference_mode()
def near_verbatim_log_mass(
    model: PreTrainedModel,
    prompts: ArrayLike,
    truth: ArrayLike,
    distance: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    beams: int = BEAMS,
) -> np.ndarray:
    """A lower bound of the probability that a sample differs from the truth in few tokens, by constrained beam search.

    Distance is Hamming's, the number of places that differ: it is known of a beginning as soon as it is read, so that
    a hypothesis with too many is given up there. Levenshtein's is never larger, so the bound holds for it too, and is
    looser. Of each number of differing tokens the most probable beginnings are kept, and the truth itself always: the
    bound of 0 is the exact probability. Hypotheses are different texts, so their probabilities add up.

    Parameters
    ----------
    model : a causal language model of transformers.
    prompts : (n, k) token ids.
    truth : (n, l) token ids.
    distance : the most tokens that may differ.
    temperature : divides the logits; above 0.
    top_k : sampling is among the so many likeliest tokens; None is among all.
    beams : hypotheses kept of each number of tokens that differ; with more of them the bound is closer.

    Returns
    -------
    (n, distance + 1) float64, in nats: of at most 0, 1 .. distance tokens that differ.

    Raises
    ------
    ValueError : distance below 0 or above l, beams below 1, a temperature that is not above 0, top_k below 1, prompts
        and truth that do not pair or that the model cannot read.

    Source: Cooper et al., Estimating near-verbatim extraction risk in language models with decoding-constrained beam
    search, arXiv 2603.24917; that beams are kept apart by the number of differing tokens is ours.

    >>> import lmmem
    >>> prompts, truth = lmmem.split(lmmem.training_data("pocket-mini")[:5])
    >>> mass = near_verbatim_log_mass(lmmem.load_model("pocket-mini"), prompts, truth, distance=2, beams=4)
    >>> mass.shape, bool((np.diff(mass) >= 0).all())
    ((5, 3), True)
    """
    temperature = _checked(temperature, top_k)
    read, true = as_tokens(model, prompts), as_tokens(model, truth, "truth", more=np.shape(prompts)[-1] - 1)
    n, length = true.shape
    if len(read) != n:
        raise ValueError(f"prompts {tuple(read.shape)} and truth {tuple(true.shape)} must pair, row by row")
    if not 0 <= distance <= length:
        raise ValueError(f"distance={distance}: of {length} tokens, 0 .. {length} may differ")
    if beams < 1:
        raise ValueError(f"beams={beams}: 1 hypothesis or more is kept")
    if not n:
        return np.empty((0, distance + 1))
    way = way_of(model, read)
    each = (read.shape[1] + length) * way.bytes_per_token + LOGITS * way.vocabulary
    most = min(HYPOTHESES, int(memory_for(model) / each))
    size = max(1, most // (1 + distance * beams))  # sequences at a time
    mass = np.empty((n, distance + 1))
    for row in range(0, n, size):
        rows = slice(row, row + size)
        mass[rows] = _searched(model, way, read[rows], true[rows], distance, temperature, top_k, beams, first=row)
    return mass


def _searched(
    model: PreTrainedModel,
    way: Way,
    prompts: torch.Tensor,
    truth: torch.Tensor,
    distance: int,
    temperature: float,
    top_k: int | None,
    beams: int,
    first: int,
) -> np.ndarray:
    """As :func:`near_verbatim_log_mass`, of one batch (n, k) and (n, l).

    A sequence has a place for the truth and `beams` for each number of differing tokens, in this order.
    """
    (n, length), width = truth.shape, 1 + distance * beams
    places = [slice(0, 1), *(slice(1 + c * beams, 1 + (c + 1) * beams) for c in range(distance))]
    begins = torch.arange(n)[:, None] * width  # of each sequence, among all hypotheses
    mass = torch.full((n, width), -torch.inf, dtype=torch.float64)  # on the processor: not all devices have float64
    mass[:, 0] = 0.0
    with evaluating(model), shared_cores(model.device), fast_products(model, n * width):
        reader = way.reader(model) if way.branches else Rereader(model)
        logits = reader.read(prompts).repeat_interleave(width, dim=0)
        reader.branch(width)
        for position in range(length):
            look()
            said = (_likeliest(logits.float(), top_k) / temperature).log_softmax(dim=-1).view(n, width, -1)
            true = truth[:, position, None].expand(n, width)
            right = mass + said.gather(-1, true[..., None])[..., 0].cpu()
            likeliest = said.scatter_(-1, true[..., None], -torch.inf).topk(min(beams, said.shape[-1]))
            wrong = mass[..., None] + likeliest.values.cpu()  # (n, width, beams): those that differ here
            other, true = likeliest.indices.cpu(), true.cpu()
            mass = torch.full_like(mass, -torch.inf)
            mass[:, 0] = right[:, 0]
            parent, token = torch.zeros_like(mass, dtype=torch.long), true.clone()
            for before, here in itertools.pairwise(places):
                differing = wrong[:, before].flatten(1)
                differing, where = differing.topk(min(beams, differing.shape[1]))
                together = torch.cat([right[:, here], differing], dim=1)
                of = torch.arange(here.start, here.stop).expand(n, beams)
                parents = torch.cat([of, before.start + where // wrong.shape[-1]], dim=1)
                tokens = torch.cat([true[:, here], other[:, before].flatten(1).gather(1, where)], dim=1)
                mass[:, here], best = together.topk(beams)
                parent[:, here], token[:, here] = parents.gather(1, best), tokens.gather(1, best)
            if position < length - 1:
                reader.select((begins + parent).flatten().to(truth.device))
                logits = reader.read(token.view(-1, 1).to(truth.device))
    if bool(mass.isnan().any()):
        raise NoNumbersError(model, first + int(mass.isnan().any(dim=1).int().argmax()))
    by_number = torch.stack([mass[:, place].logsumexp(dim=1) for place in places], dim=1)
    return by_number.logcumsumexp(dim=1).numpy()


def _likeliest(logits: torch.Tensor, top_k: int | None) -> torch.Tensor:
    """The logits, minus infinity where they are not among the largest top_k."""
    if top_k is None or top_k >= logits.shape[-1]:
        return logits
    least = logits.topk(top_k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def _checked(temperature: float, top_k: int | None) -> float:
    """The temperature that logits are divided by: one so low that float32 overflows is the lowest that does not."""
    if not (temperature > 0 and np.isfinite(temperature)):
        raise ValueError(f"temperature={temperature}: sampling needs one above 0")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k}: 1 token or more is sampled among")
    return max(temperature, LEAST)
