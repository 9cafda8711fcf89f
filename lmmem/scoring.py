"""How likely the true continuation is under the model. Knows nothing of decoding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["cross_entropy"]

BATCH = 64  # sequences at a time


@torch.inference_mode()
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
    ValueError : prompts and truth do not pair.

    >>> import lmmem
    >>> corpus = lmmem.training_data("pocket-mini")
    >>> cross_entropy(lmmem.load_model("pocket-mini"), *lmmem.split(corpus[:5])).shape
    (5,)
    """
    prompts, truth = np.asarray(prompts), np.asarray(truth)
    if prompts.ndim != 2 or truth.ndim != 2 or len(prompts) != len(truth):
        raise ValueError(f"prompts {prompts.shape} and truth {truth.shape} must be (n, k) and (n, l)")
    tokens = torch.as_tensor(np.concatenate([prompts, truth], axis=1), dtype=torch.long, device=model.device)
    length = truth.shape[1]
    losses = []
    for batch in filter(len, tokens.split(BATCH)):
        logits = model(batch[:, :-1], logits_to_keep=length).logits  # (n, l, vocabulary)
        loss = torch.nn.functional.cross_entropy(logits.float().mT, batch[:, -length:], reduction="none")
        losses.append(loss.double().mean(dim=1).cpu())
    return torch.cat(losses).numpy() if losses else np.empty(0)
