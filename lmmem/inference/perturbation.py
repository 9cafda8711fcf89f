"""Seeded Gaussian noise on a model's weights, restored to the last bit: what page 03 disturbs a model with.

Knows no prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import nn

Module = TypeVar("Module", bound="nn.Module")

__all__ = ["perturbed", "weight_rms"]


@contextmanager
def perturbed(model: Module, sigma: float, seed: int, draw: int) -> Iterator[Module]:
    """Within the block, every parameter of the model has N(0, sigma^2) added to each weight.

    Noise is drawn in float32, one generator per (seed, draw, tensor), on the parameter's device;
    weights that are tied are perturbed once. After the block, or an exception in it, every weight
    has its old bits.

    Parameters
    ----------
    model : any torch module; changed in place while the block runs.
    sigma : standard deviation in absolute weight units, 0 or more.
    seed, draw : which noise; the same pair gives the same noise on one kind of device.

    Yields
    ------
    The same model.

    Raises
    ------
    ValueError : sigma is negative or not finite, or seed or draw is negative.

    Source: the paper adds N(0, (2e-3)^2) to each weight and repeats this 200 times.

    >>> layer = torch.nn.Linear(2, 2)
    >>> before = layer.weight.clone()
    >>> with perturbed(layer, sigma=0.1, seed=0, draw=7):
    ...     torch.equal(layer.weight, before)
    False
    >>> torch.equal(layer.weight, before)
    True
    """
    if not (math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"sigma must be 0 or more, in weight units; got {sigma}")
    if seed < 0 or draw < 0:
        raise ValueError(f"seed and draw must be 0 or more; got seed={seed}, draw={draw}")
    parameters = list(model.parameters())  # each shared parameter once
    saved = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for number, parameter in enumerate(parameters):
                key = int(np.random.SeedSequence([seed, draw, number]).generate_state(1, np.uint64)[0])
                generator = torch.Generator(parameter.device).manual_seed(key >> 1)  # a signed 64-bit seed
                noise = torch.randn(parameter.shape, generator=generator, device=parameter.device)
                parameter.copy_(parameter.float() + sigma * noise)  # rounded once, to the weights' dtype
        yield model
    finally:
        with torch.no_grad():
            for parameter, weights in zip(parameters, saved, strict=True):
                parameter.copy_(weights)


def weight_rms(model: nn.Module) -> float:
    """Root mean square of all weights: the unit in which a sigma is large or small.

    Parameters
    ----------
    model : any torch module.

    >>> weight_rms(torch.nn.Linear(3, 3, bias=False).requires_grad_(False)) > 0
    True
    """
    parameters = list(model.parameters())
    with torch.no_grad():
        squares = sum(float(p.double().square().sum()) for p in parameters)
    return math.sqrt(squares / sum(p.numel() for p in parameters))
