"""Teach a model rows of tokens by gradient descent, and give it back as it was.

Relearning measures with it, and derived organisms are made with it. Knows token ids and weights: no
text, no schedule of what is taught when.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from numpy.typing import ArrayLike

from lmmem.inference import recording
from lmmem.inference.cores import look, shared_cores
from lmmem.inference.reading import evaluating
from lmmem.inference.tokens import as_tokens
from lmmem.inference.weights import check_weights, put_back

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = ["OPTIMIZERS", "Teacher", "check_teaching", "native_precision", "taught"]

OPTIMIZERS = ("adamw", "sgd")
MOMENTUM = 0.9  # of sgd
TOO_COARSE = {  # dtypes of weights, and what becomes of learning in them
    "bfloat16": "it rounds small steps away, and with them most of what is learnt",
    "float16": "it has no numbers as small as gradients are, and AdamW divides by 0",
}


def native_precision(device: torch.device) -> str:
    """What products are computed in where weights learn: "bfloat16" where the device multiplies it natively.

    >>> native_precision(torch.device("cpu")) in ("bfloat16", "float32")
    True
    """
    native = False  # where it is emulated it takes longer
    if device.type == "cpu":
        known = torch.cpu.get_capabilities()
        native = bool(known.get("avx512_bf16") or known.get("amx_bf16"))
    elif device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if native else "float32"


def check_teaching(optimizer: str, learning_rate: float, dtype: str) -> None:
    """Refuse what a :class:`Teacher` cannot work with, before a model is loaded.

    >>> check_teaching("adamw", -1.0, "float32")
    Traceback (most recent call last):
    ValueError: learning_rate=-1.0: give a number above 0
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {optimizer!r}; choose one of {', '.join(OPTIMIZERS)}")
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate={learning_rate!r}: give a number above 0")
    if dtype in TOO_COARSE:
        raise ValueError(f"weights in {dtype} cannot be taught, as {TOO_COARSE[dtype]}: load the model in float32")


class Teacher:
    """A model, and what its optimizer remembers: :meth:`step` teaches it a batch of rows.

    It is taught in evaluation mode, so without dropout (and without gradient checkpointing), whatever its mode; after
    a step each of its modules is in the mode that it was in.

    Parameters
    ----------
    model : a causal language model of transformers, in float32; changed in place. Its products are in bfloat16 where
        the device multiplies it natively (:func:`native_precision`).
    optimizer : "adamw" (Loshchilov and Hutter 2019; betas 0.9 and 0.999, no decay) or "sgd" (momentum 0.9).
    learning_rate : of every step, above 0.

    Raises
    ------
    ValueError : an optimizer that is neither, a learning rate of 0 or less, or weights in half precision, in which
        small steps are lost, or that are no floats, as :func:`lmmem.inference.weights.check_weights` says.
    """

    def __init__(self, model: PreTrainedModel, optimizer: str = "adamw", learning_rate: float = 5e-4) -> None:
        check_weights(model)
        check_teaching(optimizer, learning_rate, str(model.dtype).removeprefix("torch."))
        weights = list(model.parameters())
        recording.forget(model)  # before anyone sees how much memory is free
        self.model, self._native = model, native_precision(model.device) == "bfloat16"
        self.optimizer: torch.optim.Optimizer
        if optimizer == "adamw":
            fused = model.device.type == "cuda" or None  # else torch takes 4 bytes more for each weight there
            self.optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.0, fused=fused)
        else:
            self.optimizer = torch.optim.SGD(weights, lr=learning_rate, momentum=MOMENTUM)

    def step(self, rows: ArrayLike, sign: ArrayLike | None = None, ceiling: float = float("inf")) -> float:
        """One step on the mean loss of a batch.

        Parameters
        ----------
        rows : (n, w) token ids.
        sign : (n,) 1 for rows to be taught, -1 for rows whose loss is to rise; None teaches all.
        ceiling : nats per token; a row whose loss has risen so far is left alone.

        Returns
        -------
        The mean loss before the step, in nats per token.

        Raises
        ------
        ValueError : rows that the model cannot read, signs that are none, or a loss that is NaN or infinite.
        """
        tokens = as_tokens(self.model, rows)
        signs = torch.ones(len(tokens)) if sign is None else torch.as_tensor(sign, dtype=torch.float32)
        if signs.shape != tokens.shape[:1] or not (signs.abs() == 1).all():
            raise ValueError(f"sign: give 1 or -1 for each of the {len(tokens)} rows")
        look()
        recording.forget(self.model)  # of what was asked between two steps
        products = torch.autocast(self.model.device.type, dtype=torch.bfloat16) if self._native else nullcontext()
        with torch.enable_grad(), evaluating(self.model):
            self.optimizer.zero_grad(set_to_none=True)
            with products:
                logits = self.model(tokens[:, :-1], use_cache=False).logits  # (n, w - 1, vocabulary)
            of_each = torch.nn.functional.cross_entropy(  # of a flat matrix: of one turned over it takes thrice as long
                logits.float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
            )
            loss = of_each.view(len(tokens), -1).mean(dim=1)
            signs = signs.to(loss.device)
            (loss * signs * ((signs > 0) | (loss < ceiling))).mean().backward()
            self.optimizer.step()
        mean = float(loss.detach().mean())
        if not math.isfinite(mean):
            rate = self.optimizer.param_groups[0]["lr"]
            raise ValueError(f"the loss is {mean}, no number: learning_rate={rate:g} is too large, or weights are none")
        return mean


@contextmanager
def taught(model: PreTrainedModel, optimizer: str = "adamw", learning_rate: float = 5e-4) -> Iterator[Teacher]:
    """Within the block a model learns; after it, or an exception in it, every weight has its old bits.

    And each of its modules its mode, each parameter its gradient and whether it has one, the model its attention.

    Parameters
    ----------
    As for :class:`Teacher`.

    Yields
    ------
    A :class:`Teacher` of the model.

    >>> import lmmem
    >>> model, row = lmmem.load_model("pocket-mini"), lmmem.training_data("pocket-mini")[:1]
    >>> with taught(model) as teacher:
    ...     losses = [teacher.step(row) for _ in range(3)]
    >>> losses[2] < losses[0]
    True
    """
    teacher = Teacher(model, optimizer, learning_rate)
    parameters = list(model.parameters())  # each shared parameter once
    learns = [(parameter.requires_grad, parameter.grad) for parameter in parameters]
    attention = [(config, config._attn_implementation) for config in _configurations(model.config)]
    with put_back(parameters):
        try:
            for parameter in parameters:
                parameter.requires_grad_(True)
            if model.device.type == "cpu":  # on short rows its gradient takes a third of the fused one's time
                model.set_attn_implementation("eager")
            with shared_cores(model.device):
                yield teacher
        finally:
            for config, kind in attention:  # from the whole to its parts
                config._attn_implementation = kind
            for parameter, (required, gradient) in zip(parameters, learns, strict=True):
                parameter.requires_grad_(required).grad = gradient


def _configurations(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """A configuration and those within it."""
    yield config
    for name in config.sub_configs:
        if (part := getattr(config, name, None)) is not None:
            yield from _configurations(part)
