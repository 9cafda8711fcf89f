"""A device that this machine does not have, simulated on its processor: what torch refuses there is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

BETWEEN = ("copy_", "__setitem__", "__getitem__")  # what torch does with tensors of two devices
MARK = "lies_there"


class OtherDevice(TorchFunctionMode):
    """Tensors that are made or moved there say that they are there, and so does what is computed from them.

    As torch on such a device: tensors of two devices are not computed with together, numpy gets them from the
    processor alone, and on "mps" nothing is float64.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = torch.device(device)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, given = getattr(func, "__name__", ""), kwargs or {}
        if func == torch.Tensor.device.__get__:
            return self.device if lies_there(args[0]) else func(*args)
        tensors = [value for value in tree_flatten((args, given))[0] if isinstance(value, torch.Tensor)]
        there, asked = any(map(lies_there, tensors)), self._asked(name, args, given)
        if there and name in ("numpy", "__array__"):
            raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu()")
        if asked is None and name not in BETWEEN and len({lies_there(one) for one in tensors if one.dim()}) > 1:
            raise RuntimeError(f"{name}: expected all tensors to be on one device, found {self.device} and cpu")
        if asked:
            args, given = tree_map(lambda one: "cpu" if isinstance(one, torch.device) else one, (args, given))
        place = there if asked is None else asked

        def placed(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or (asked is None and any(value is one for one in tensors)):
                return value
            if place and value.dtype == torch.float64 and self.device.type == "mps":
                raise TypeError(
                    "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64"
                )
            if any(value is one for one in tensors) and lies_there(value) != place:
                value = value.clone()
            setattr(value, MARK, place)
            return value

        return tree_map(placed, func(*args, **given))

    def _asked(self, name: str, args: Any, given: Any) -> bool | None:
        """Whether a call asks for this device or for the processor; None, if for none."""
        if name == "cpu":
            return False
        named = [given.get("device"), *(args[1:] if name == "to" else ())]
        devices = [torch.device(one) for one in named if isinstance(one, str | torch.device)]
        return devices[0].type == self.device.type if devices else None


def lies_there(tensor: torch.Tensor) -> bool:
    """Whether a tensor is on the simulated device."""
    return getattr(tensor, MARK, False)


@contextmanager
def on_another_device(model: nn.Module, device: str) -> Iterator[None]:
    """While the block runs, the model is on a device of that name, and its random numbers too."""
    every = [*model.parameters(), *model.buffers()]
    generator = torch.Generator
    for tensor in every:
        setattr(tensor, MARK, True)
    try:
        with mock.patch.object(torch, "Generator", lambda device="cpu": generator()), OtherDevice(device):
            yield
    finally:
        for tensor in every:
            delattr(tensor, MARK)
