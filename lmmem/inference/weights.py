"""Weights that are changed for a while: which can be, and where they are kept until they are put back.

Noise, rounding and teaching change a model's weights in place. Knows nothing of how they are changed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from lmmem.inference.memory import free_bytes

if TYPE_CHECKING:
    from torch import nn

__all__ = ["check_finite", "check_weights", "fit", "in_float64", "put_back"]

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
NAMED = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
SIZES = (  # attributes of modules that have a matrix of weights, in torch and in packages that pack it
    *(("in_features", "out_features"), ("infeatures", "outfeatures")),
    *(("in_channels", "out_channels"), ("num_embeddings", "embedding_dim")),
)
UNPACKED = ("gguf",)  # ways of quantising whose matrices may all be floats again, and are looked at one by one
KEPT_SHARE = 0.5  # of a GPU's free memory, for weights as they were; the rest is for keys and values


def check_weights(model: nn.Module) -> None:
    """Refuse a model with weights that cannot be changed by a little: packed, quantised, or not in memory.

    Parameters
    ----------
    model : any torch module.

    Raises
    ------
    ValueError : it has no parameters; one of them is on the meta device, is of a class of tensors of its own, or is
        not in float16, bfloat16, float32 or float64; a layer keeps its matrix elsewhere than in its parameters; or
        transformers has quantised the model.

    >>> layer = torch.nn.Linear(2, 2)
    >>> check_weights(layer)
    >>> layer.bias = torch.nn.Parameter(layer.bias.detach().to(torch.int8), requires_grad=False)
    >>> check_weights(layer)
    Traceback (most recent call last):
    ValueError: bias is int8: weights are changed in float16, bfloat16, float32, float64; load the model in one of these
    """
    empty = True
    for name, parameter in model.named_parameters():
        empty = False
        if parameter.device.type == "meta":
            raise ValueError(f"{name} is on the meta device, not in memory: load the whole model on one device")
        if (kind := type(parameter.data)) is not torch.Tensor or parameter.layout != torch.strided:
            what = f"a {kind.__name__}" if kind is not torch.Tensor else str(parameter.layout).removeprefix("torch.")
            raise ValueError(f"{name} is {what} and no plain tensor: load the model whole, not quantised")
        if parameter.dtype not in DTYPES:
            dtype = str(parameter.dtype).removeprefix("torch.")
            raise ValueError(f"{name} is {dtype}: weights are changed in {NAMED}; load the model in one of these")
    for name, module in model.named_modules():
        if _has_matrix(module) and all(parameter.ndim < 2 for parameter in module.parameters()):
            kind = type(module)
            raise ValueError(
                f"{name or 'the model'}, a {kind.__name__}, keeps its weights packed and not as parameters: load the "
                "model not quantised, or dequantised"
            )
    if empty:
        raise ValueError("the model has no parameters, and so no weights that could be changed")
    if (method := _quantised(model)) not in (None, *UNPACKED):
        raise ValueError(f"the model is quantised ({method}): load it not quantised, or dequantised")


def check_finite(name: str, weights: torch.Tensor, left: str | None = None) -> None:
    """Refuse weights that are no numbers.

    Parameters
    ----------
    name : of the parameter.
    weights : of any shape, floating-point.
    left : what has pushed them out of their format, "noise of sigma 2, draw 3"; None, nothing has been done to them.

    Raises
    ------
    ValueError : some of them are NaN or infinite.

    >>> check_finite("bias", torch.tensor([1.0, torch.inf]))
    Traceback (most recent call last):
    ValueError: 1 of 2 weights of bias are NaN or infinite: the checkpoint is damaged, or float32 cannot hold it
    """
    wide = torch.promote_types(weights.dtype, torch.float32)
    if weights.sum(dtype=wide).isfinite():  # one pass; a sum that is not may also be of large numbers
        return
    if bad := weights.numel() - int(weights.isfinite().sum()):
        dtype = str(weights.dtype).removeprefix("torch.")
        which = f"{bad:,} of {weights.numel():,} weights of {name}"
        if left is None:
            raise ValueError(f"{which} are NaN or infinite: the checkpoint is damaged, or {dtype} cannot hold it")
        raise ValueError(f"{left} pushes {which} out of {dtype}: take less of it, or a wider dtype")


def fit(sizes: Sequence[int], free: int) -> list[bool]:
    """Which copies are kept beside their tensors: the first ones, while they take a stated share of what is free.

    Parameters
    ----------
    sizes : bytes of each.
    free : bytes.

    Returns
    -------
    For each whether it is; the others are kept in the processor's memory.

    >>> fit([30, 20, 1], free=100)
    [True, True, False]
    """
    return [taken <= KEPT_SHARE * free for taken in itertools.accumulate(sizes)]


@contextmanager
def put_back(parameters: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """After the block, or an exception in it, these tensors have their old bits.

    Needs as many bytes as they have: on a GPU for those that :func:`fit` its free memory, else in the processor's
    memory, pinned where that can be, so that a GPU that holds the model can disturb it.

    Parameters
    ----------
    parameters : changed in place while the block runs.

    Yields
    ------
    Copies of them.

    >>> weights = torch.ones(2)
    >>> with put_back([weights]):
    ...     _ = weights.zero_()
    >>> weights
    tensor([1., 1.])
    """
    copies: list[torch.Tensor] = [torch.empty(0)] * len(parameters)
    for device in {parameter.device for parameter in parameters}:
        here = [place for place, parameter in enumerate(parameters) if parameter.device == device]
        free = free_bytes(device)
        beside = [True] * len(here) if free is None else fit([parameters[place].nbytes for place in here], free)
        for place, stays in zip(here, beside, strict=True):
            weights = parameters[place].detach()
            copies[place] = weights.clone() if stays else _on_processor(weights)
    try:
        yield copies
    finally:
        with torch.no_grad():
            for parameter, weights in zip(parameters, copies, strict=True):
                parameter.copy_(weights)


def in_float64(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers in float64, where they lie if that device has it, else on the processor.

    >>> in_float64(torch.ones(1)).dtype
    torch.float64
    """
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def _has_matrix(module: nn.Module) -> bool:
    known = vars(module)
    return any(isinstance(known.get(rows), int) and isinstance(known.get(columns), int) for rows, columns in SIZES)


def _quantised(model: nn.Module) -> str | None:
    """How transformers has quantised a model; None if it has not."""
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    quantizer = getattr(model, "hf_quantizer", None)
    if config is None and quantizer is not None:
        config = getattr(quantizer, "quantization_config", None)
    if config is None and not getattr(model, "is_quantized", False) and quantizer is None:
        return None
    method = config.get("quant_method") if isinstance(config, dict) else getattr(config, "quant_method", None)
    return str(getattr(method, "value", method or "by a method of its own"))


def _on_processor(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in the processor's memory, whose pages stay in place if they can, as a GPU reads those faster."""
    try:
        kept = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=torch.cuda.is_available())
    except RuntimeError:  # no more can be pinned
        kept = torch.empty(tensor.shape, dtype=tensor.dtype)
    return kept.copy_(tensor)
