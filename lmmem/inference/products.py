"""The fastest matrix products that a processor has, for decoding and scoring while they run; of float32, in float32.

On x86 torch multiplies float32 by MKL, which on processors of other makers than its own takes twice
as long as oneDNN, and torch brings both. oneDNN's product is the one that ``torch.compile`` calls;
here a model's linear layers call it directly, with weights laid out for it once a batch. Knows no tokens.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["fast_products", "full_precision", "laid_out_bytes"]

DTYPES = (torch.float32, torch.bfloat16)
LAID_OUT_BYTES = 2**30  # a model with more weights is multiplied by them as they lie, a little slower


@contextmanager
def fast_products(model: nn.Module, rows: int) -> Iterator[None]:
    """While the block runs, linear layers of a model on an x86 processor multiply by oneDNN.

    The weights must not change meanwhile.

    Parameters
    ----------
    model : its layers are given back as they were, whatever happens in the block.
    rows : of the matrices that they will mostly be given.

    >>> layer, x = nn.Linear(3, 2).requires_grad_(False), torch.ones(5, 3)
    >>> expected = layer(x)
    >>> with fast_products(layer, rows=5):
    ...     torch.testing.assert_close(layer(x), expected)
    """
    layers = _layers(model)
    product = torch.ops.mkldnn._linear_pointwise.default if layers else None
    small = bool(laid_out_bytes(model))
    try:
        for layer in layers:
            weight = layer.weight.detach()
            if small:
                weight = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
            layer.forward = functools.partial(_linear, product, weight, layer.bias)  # type: ignore[method-assign]
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


@contextmanager
def full_precision() -> Iterator[None]:
    """While the block runs torch multiplies matrices of float32 as such, whatever the process allows it besides.

    TF32 and bfloat16 in its place keep 10 and 7 bits of 23. ``torch.set_float32_matmul_precision`` allows them, so does
    a variable of the environment, and so does a ``transformers.Trainer`` that is asked for ``tf32``.

    >>> with full_precision():
    ...     torch.get_float32_matmul_precision()
    'highest'
    """
    backends: Any = torch.backends
    parts = (backends.cuda.matmul, backends.mkldnn.matmul)
    allowed = [part.fp32_precision for part in parts]
    if not {"tf32", "bf16"} & set(allowed):
        yield
        return
    try:
        of_all = torch.get_float32_matmul_precision()
    except RuntimeError:  # it was allowed by torch.backends alone
        of_all = "highest"
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(of_all)
        for part, was in zip(parts, allowed, strict=True):
            part.fp32_precision = "none" if was == backends.fp32_precision else was  # none: as of all backends


def laid_out_bytes(model: nn.Module) -> int:
    """The second copy of a small model's weights that is held meanwhile; 0 if there is none.

    >>> laid_out_bytes(nn.LayerNorm(3))
    0
    """
    held = sum(layer.weight.nbytes for layer in _layers(model))
    return held if held <= LAID_OUT_BYTES else 0


def _layers(model: nn.Module) -> list[nn.Linear]:
    layers = [module for module in model.modules() if type(module) is nn.Linear and "forward" not in vars(module)]
    return [layer for layer in layers if _can(layer)]


def _linear(product: Any, weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    return product(x, weight, bias, "none", [], "")


def _can(layer: nn.Linear) -> bool:
    weight = layer.weight
    return (
        weight.device.type == "cpu"
        and weight.dtype in DTYPES
        and platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and (weight.dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
