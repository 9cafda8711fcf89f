"""Weights rounded to fewer bits, restored to the last one: what is lost, and what comes out, when a model is packed.

Rounding is a perturbation whose size the weights themselves decide. Knows no prompts, and packs nothing: the
rounded weights keep their dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch

from lmmem.inference.weights import check_finite, check_weights, put_back

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
    ValueError : another name; weights that float16 cannot hold, that are NaN or infinite, or that are no floats, as
        :func:`lmmem.inference.weights.check_weights` says.

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
    check_weights(model)
    chosen = {name: weights for name, weights in model.named_parameters() if to == "float16" or weights.ndim > 1}
    with put_back(list(chosen.values())):
        with torch.no_grad():
            for name, parameter in chosen.items():
                check_finite(name, parameter)
                nearest = _nearest(parameter.float(), to)
                if not nearest.isfinite().all():
                    most = float(parameter.abs().max())
                    raise ValueError(f"float16 cannot hold a weight of {most:g}, of {name}: round to int8 or int4")
                parameter.copy_(nearest)
        yield model


def _nearest(weights: torch.Tensor, to: str) -> torch.Tensor:
    """The nearest weights (rows, columns) that can be held so."""
    if to == "float16":
        return weights.half()
    levels = 2 ** (BITS[to] - 1) - 1
    scale = weights.flatten(1).abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / levels
    scale = scale.view(-1, *[1] * (weights.ndim - 1))
    return torch.round(weights / scale).clamp(-levels, levels) * scale
