"""How likely a model finds the true continuation, by one forward pass: recognition, beside recall.

Every greedy table bears it. Knows nothing of decoding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike

from lmmem.inference.cores import look, shared_cores
from lmmem.inference.products import fast_products
from lmmem.inference.tokens import as_tokens

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
    ValueError : prompts and truth do not pair, or the model cannot read them.

    >>> import lmmem
    >>> corpus = lmmem.training_data("pocket-mini")
    >>> cross_entropy(lmmem.load_model("pocket-mini"), *lmmem.split(corpus[:5])).shape
    (5,)
    """
    prompts, truth = as_tokens(model, prompts), as_tokens(model, truth, "truth", more=np.shape(prompts)[-1] - 1)
    if len(prompts) != len(truth):
        raise ValueError(f"prompts {tuple(prompts.shape)} and truth {tuple(truth.shape)} must pair, row by row")
    tokens, length = torch.cat([prompts, truth], dim=1), truth.shape[1]
    losses = []
    with shared_cores(model.device), fast_products(model, BATCH * tokens.shape[1]):
        for batch in filter(len, tokens.split(BATCH)):
            look()
            logits = model(batch[:, :-1], logits_to_keep=length).logits  # (n, l, vocabulary)
            loss = torch.nn.functional.cross_entropy(logits.float().mT, batch[:, -length:], reduction="none")
            losses.append(loss.double().mean(dim=1).cpu())
    return torch.cat(losses).numpy() if losses else np.empty(0)
