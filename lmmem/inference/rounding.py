"""Weights rounded to fewer bits, restored to the last one: what is lost, and what comes out, when a model is packed.

Rounding is a perturbation whose size the weights themselves decide. Knows no prompts, and packs nothing: the
rounded weights keep their dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from torch import nn

Module = TypeVar("Module", bound="nn.Module")

__all__ = ["ROUNDINGS", "rounded"]

BITS = {"int8": 8, "int4": 4}
ROUNDINGS = ("float16", *BITS)


@contextmanager
def rounded(model: Module, to: str) -> Iterator[Module]:
    """Within the block, the model's weights are the nearest that fewer bits can hold.

    "float16" rounds every parameter. "int8" and "int4" round each row of a matrix to whole multiples, -127 .. 127
    and -7 .. 7, of its largest magnitude's share; vectors (norms, biases) stay as they are, as in what people
    run. After the block, or an exception in it, every weight has its old bits.

    Parameters
    ----------
    model : any torch module; changed in place while the block runs.
    to : "float16", "int8" or "int4".

    Yields
    ------
    The same model.

    Raises
    ------
    ValueError : another name, or weights that float16 cannot hold.

    Source: Dettmers et al. 2022, "LLM.int8()", arXiv 2208.07339, section 2: absmax quantisation, by rows.

    >>> layer = torch.nn.Linear(3, 1, bias=False)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.tensor([[7.0, 3.2, -1.4]]))
    >>> with rounded(layer, "int4"):
    ...     layer.weight.tolist()
    [[7.0, 3.0, -1.0]]
    """
    if to not in ROUNDINGS:
        raise ValueError(f"to={to!r}: give one of {', '.join(ROUNDINGS)}")
    chosen = [parameter for parameter in model.parameters() if to == "float16" or parameter.ndim > 1]
    saved = [parameter.detach().clone() for parameter in chosen]
    try:
        with torch.no_grad():
            for parameter in chosen:
                parameter.copy_(_nearest(parameter.float(), to))
        yield model
    finally:
        with torch.no_grad():
            for parameter, weights in zip(chosen, saved, strict=True):
                parameter.copy_(weights)


def _nearest(weights: torch.Tensor, to: str) -> torch.Tensor:
    """The nearest weights (rows, columns) that can be held so."""
    if to == "float16":
        nearest = weights.half()
        if not nearest.isfinite().all():
            raise ValueError(f"float16 cannot hold a weight of {float(weights.abs().max()):g}: round to int8 or int4")
        return nearest
    levels = 2 ** (BITS[to] - 1) - 1
    scale = weights.flatten(1).abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / levels
    scale = scale.view(-1, *[1] * (weights.ndim - 1))
    return torch.round(weights / scale).clamp(-levels, levels) * scale
