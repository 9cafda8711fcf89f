"""What a model says in one plain pass of its own: what every measurement is held against."""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from transformers import PreTrainedModel


@torch.inference_mode()
def plain_logits(model: PreTrainedModel, rows: ArrayLike) -> torch.Tensor:
    """Logits (n, k, vocabulary) on the processor, after each token of rows (n, k), wherever the model lies."""
    return model(torch.as_tensor(rows).to(model.device), use_cache=False).logits.cpu()
