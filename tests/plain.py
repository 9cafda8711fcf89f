"""What a model says in a plain pass of its own, and in `generate`: what measurements are held against.

Both take the model where it lies, on a GPU too, and give what it says on the processor.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from transformers import PreTrainedModel


@torch.inference_mode()
def plain_logits(model: PreTrainedModel, rows: ArrayLike) -> torch.Tensor:
    """Logits (n, k, vocabulary) after each token of rows (n, k)."""
    return model(torch.as_tensor(rows).to(model.device), use_cache=False).logits.cpu()


def plain_greedy(model: PreTrainedModel, prompts: ArrayLike, length: int = 64, **options: object) -> np.ndarray:
    """The greedy continuations (n, length) of prompts (n, k), by `generate`, which does not stop before."""
    tokens = torch.as_tensor(prompts).to(model.device)
    asked = {"do_sample": False, "max_new_tokens": length, "eos_token_id": None, "pad_token_id": 0} | options
    return model.generate(tokens, attention_mask=torch.ones_like(tokens), **asked)[:, tokens.shape[1] :].cpu().numpy()
