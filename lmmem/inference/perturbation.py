"""Seeded Gaussian noise on a model's weights, restored to the last bit: what page 03 disturbs a model with.

Knows no prompts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from lmmem.inference.weights import check_finite, check_weights, in_float64, put_back

if TYPE_CHECKING:
    from torch import nn

Module = TypeVar("Module", bound="nn.Module")

__all__ = ["UNITS", "cosines", "parts_of", "perturbed", "weight_rms"]

UNITS = ("weight", "tensor")
# In half precision a weight takes the nearest of few values. Where these lie 4/3 sigma apart, half of the weights move
# at all, and the rms of their change is 7 % above sigma; farther apart soon none do, closer it tends to sigma.
CARRIED = 0.75  # sigma over that distance
LEFT = 1 - 0.9**2  # of weights may have them farther apart: even if all of these stay, the rms is right to 10 %
# Numbers that a GPU is asked for at once. Torch has a thread draw each, but starts no more threads than the GPU runs at
# once: of more numbers a thread draws several from its Philox stream, and which weight gets which depends on the GPU
# (calc_execution_policy in torch's ATen/native/cuda/DistributionTemplates.h). A T4 runs 40,960 threads.
AT_ONCE = 32_768
ATTENTION = re.compile(r"attn|attention")  # in the name of a module of any model of transformers


@contextmanager
def perturbed(
    model: Module, sigma: float, seed: int, draw: int, *, unit: str = "weight", only: str | None = None
) -> Iterator[Module]:
    """Within the block, every parameter of the model has N(0, sigma^2) added to each weight.

    Noise is drawn in float32, one generator per (seed, draw, tensor), on the parameter's device;
    weights that are tied are perturbed once. After the block, or an exception in it, every weight
    has its old bits.

    But for rounding, the same seed and draw are the same noise on every processor, and another one, the same too, on
    every CUDA GPU that runs 32,768 threads at once (a T4 runs 40,960).

    Needs a copy of the weights, which lies beside them on a GPU as far as half of what is free there takes it, and
    else in the processor's memory, from where it takes longer to put back; and 4 bytes for each weight of the largest
    tensor.

    Parameters
    ----------
    model : any torch module; changed in place while the block runs.
    sigma : standard deviation in absolute weight units, 0 or more.
    seed, draw : which noise.
    unit : "weight", sigma is in weight units; "tensor", it is a share of the root mean square of each tensor.
    only : disturb these parameters and no others: a part as :func:`parts_of` lists them, else a regular
        expression that is searched for in their names. They get the noise that they get when all do.

    Yields
    ------
    The same model.

    Raises
    ------
    ValueError : sigma is negative or not finite, seed or draw is negative, unit is no unit, or no parameter
        is meant by `only`; weights that are no floats, as :func:`lmmem.inference.weights.check_weights` says, or
        that are NaN or infinite, before the noise or after it, as half precision ends at 65,504; or more than a fifth
        of them are in half precision and so large that rounding leaves most of them as they are. (A few may be: in
        bfloat16 the paper's sigma changes a norm's weight of 1 in one case of five.)

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
    if unit not in UNITS:
        raise ValueError(f"unit={unit!r}: give one of {', '.join(UNITS)}")
    check_weights(model)
    chosen = _chosen(model, only)
    scales = [sigma if unit == "weight" else sigma * _rms(parameter) for _, _, parameter in chosen]
    _check_carried({name: parameter for _, name, parameter in chosen}, scales, sigma)
    with put_back([parameter for _, _, parameter in chosen]) as before:
        with torch.no_grad():
            for (number, name, parameter), scale, weights in zip(chosen, scales, before, strict=True):
                wide = torch.promote_types(parameter.dtype, torch.float32)
                noise = _noise(parameter, seed, draw, number).to(wide).mul_(scale)
                parameter.copy_(noise.add_(parameter))  # rounded once, to the weights' dtype
                try:
                    check_finite(name, parameter, f"noise of sigma={sigma:g}, draw={draw}")
                except ValueError:
                    check_finite(name, weights)  # it may have found them so
                    raise
        yield model


def parts_of(model: nn.Module) -> dict[str, list[str]]:
    """The layers of a model, and its kinds of weights, with the names of their parameters.

    Parameters
    ----------
    model : of transformers; of any other torch module, what of this there is.

    Returns
    -------
    By name: "layer 0" .. in order; "embeddings" (the output's too), "attention", "MLP" and "norms": each parameter
    is in one of these four kinds, and of a layer's the rest is its MLP. Parts without a parameter are left out.

    >>> from lmmem import load_model
    >>> list(parts_of(load_model("pocket-mini")))
    ['layer 0', 'layer 1', 'embeddings', 'attention', 'MLP', 'norms']
    """
    layers: dict[str, list[str]] = {}
    kinds: dict[str, list[str]] = {kind: [] for kind in ("embeddings", "attention", "MLP", "norms")}
    modules = dict(model.named_modules())
    outputs: Any = getattr(model, "get_output_embeddings", lambda: None)
    output = outputs()
    for name, _ in model.named_parameters():
        owner = modules[name.rpartition(".")[0]]
        layer = re.search(r"\.(\d+)\.", name)
        if layer:
            layers.setdefault(f"layer {layer[1]}", []).append(name)
        if "norm" in type(owner).__name__.lower():
            kinds["norms"].append(name)
        elif owner is output or isinstance(owner, torch.nn.Embedding):
            kinds["embeddings"].append(name)
        else:
            kinds["attention" if any(map(ATTENTION.search, name.split(".")[:-1])) else "MLP"].append(name)
    return layers | {kind: names for kind, names in kinds.items() if names}


def cosines(
    model: nn.Module, changes: Sequence[Mapping[str, torch.Tensor]], seed: int, draws: Sequence[int]
) -> np.ndarray:
    """The cosines of draws of noise with changes of the weights, all of these as one vector.

    Parameters
    ----------
    model : whose noise it is, as :func:`perturbed` draws it with its unit "weight".
    changes : each by the names of all of its parameters, tensors of their shapes; on any device, from where one
        parameter's at a time are taken to the model's.
    seed, draws : which noise.

    Returns
    -------
    (draws, changes), from -1 to 1; of a change that has nothing to do with the noise, normal about 0 with a standard
    deviation of one over the root of the number of weights.

    Raises
    ------
    ValueError : a parameter has no change, or nothing changes; weights as for :func:`perturbed`.

    >>> layer = torch.nn.Linear(100, 100, bias=False)
    >>> abs(cosines(layer, [{"weight": torch.ones(100, 100)}], seed=0, draws=[0]).item()) < 0.05
    True
    """
    check_weights(model)
    along, length, squares = np.zeros((len(draws), len(changes))), np.zeros(len(changes)), np.zeros((len(draws), 1))
    for number, (name, parameter) in enumerate(model.named_parameters()):
        if any(name not in change for change in changes):
            raise ValueError(f"no change is given of {name}: give one of every parameter")
        here = [change[name].to(parameter.device) for change in changes]
        for which, change in enumerate(here):
            check_finite(name, change)
            length[which] += _sum(change.square())
        for place, draw in enumerate(draws):
            noise = _noise(parameter, seed, draw, number)
            squares[place] += _sum(noise.square())
            along[place] += [_sum(noise * change) for change in here]
    if not length.all():
        raise ValueError("a change of the weights is 0 everywhere: give weights that differ")
    return along / np.sqrt(squares * length)


def weight_rms(model: nn.Module) -> float:
    """Root mean square of all weights: the unit in which a sigma is large or small.

    Parameters
    ----------
    model : any torch module.

    Raises
    ------
    ValueError : weights as for :func:`perturbed`.

    >>> weight_rms(torch.nn.Linear(3, 3, bias=False).requires_grad_(False)) > 0
    True
    """
    check_weights(model)
    squares = many = 0.0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            check_finite(name, parameter)
            squares += float(in_float64(parameter).square().sum())
            many += parameter.numel()
    return math.sqrt(squares / many)


def _check_carried(parameters: Mapping[str, torch.Tensor], scales: Sequence[float], sigma: float) -> None:
    """Refuse noise that most of too many weights would not show; `scales` is its s.d. in each parameter."""

    def left(dtype: torch.dtype | None = None) -> dict[str, int]:
        pairs = zip(parameters.items(), scales, strict=True)
        return {name: _left(weights, scale, dtype or weights.dtype) for (name, weights), scale in pairs}

    stay, most = left(), LEFT * sum(weights.numel() for weights in parameters.values())
    if sum(stay.values()) <= most:
        return
    name = max(stay, key=lambda name: stay[name])
    wider = "float32" if sum(left(torch.float16).values()) > most else "float16 or float32"
    raise ValueError(
        f"{str(parameters[name].dtype).removeprefix('torch.')} loses noise of sigma={sigma:g}: so large are "
        f"{sum(stay.values()) * LEFT / most:.0%} of the weights, most of them in {name}, that it rounds them back; "
        f"load the model in {wider}"
    )


def _left(weights: torch.Tensor, scale: float, dtype: torch.dtype) -> int:
    """How many weights are so large that their neighbours in a dtype are too far away for noise of that scale.

    None of float32 and wider: what they lose changes nothing that a model says.
    """
    known = torch.finfo(dtype)
    if known.bits > 16 or not 0 < scale < math.inf:
        return 0
    size = 2.0 ** (math.floor(math.log2(scale / (CARRIED * known.eps))) + 1)  # neighbours of 2^e lie eps 2^e apart
    if size > known.max:
        return 0
    return weights.numel() if size <= known.smallest_normal else int(weights.detach().abs().ge(size).count_nonzero())


def _rms(parameter: torch.Tensor) -> float:
    return math.sqrt(float(in_float64(parameter.detach()).square().mean()))


def _sum(values: torch.Tensor) -> float:
    """In float64, whatever the device."""
    return float((values.cpu() if values.device.type == "mps" else values).sum(dtype=torch.float64))


def _noise(parameter: torch.Tensor, seed: int, draw: int, number: int) -> torch.Tensor:
    """Standard normal, float32: that of the `number`-th parameter of a model."""
    key = int(np.random.SeedSequence([seed, draw, number]).generate_state(1, np.uint64)[0])
    generator = torch.Generator(parameter.device).manual_seed(key >> 1)  # a signed 64-bit seed
    if parameter.device.type != "cuda":
        return torch.randn(parameter.shape, generator=generator, device=parameter.device)
    noise = torch.empty(parameter.shape, device=parameter.device)
    for block in noise.view(-1).split(AT_ONCE):
        block.normal_(generator=generator)
    return noise


def _chosen(model: nn.Module, only: str | None) -> list[tuple[int, str, nn.Parameter]]:
    """The parameters that are meant, each shared one once, with their places among all and their names."""
    every = [(number, name, parameter) for number, (name, parameter) in enumerate(model.named_parameters())]
    if only is None:
        return every
    parts = parts_of(model)
    try:
        names = set(parts[only]) if only in parts else {name for _, name, _ in every if re.search(only, name)}
    except (re.error, TypeError) as error:
        raise ValueError(f"only={only!r}: give a part, or a regular expression of parameters' names: {error}") from None
    if not names:
        raise ValueError(f"only={only!r}: no parameter has such a name; the parts are {', '.join(parts)}")
    return [one for one in every if one[1] in names]
