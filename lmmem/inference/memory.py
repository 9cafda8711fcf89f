"""Memory of a device: what is free, and whether an error is about it. Knows no models."""

from __future__ import annotations

import torch

__all__ = ["free_bytes", "halved", "out_of_memory"]

SAID = (
    *("can't allocate memory", "could not create a primitive"),  # torch and oneDNN, on a processor
    *("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"),
)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can be had on a GPU, those included that torch holds and does not use; None of other devices.

    >>> free_bytes(torch.device("cpu"))
    """
    if device.type != "cuda":
        return None
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached


def out_of_memory(error: Exception) -> bool:
    """Whether this is about memory that there is not enough of.

    >>> out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory")), out_of_memory(ValueError("else"))
    (True, False)
    """
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in SAID)
    )


def halved(size: int, error: RuntimeError) -> int:
    """Half as many at a time, if memory was what `error` is about; else it is raised again.

    >>> halved(9, RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    4
    """
    if not out_of_memory(error) or size == 1:
        raise error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return size // 2
