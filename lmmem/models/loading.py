"""Load a model at a training step, and its tokenizer, from wherever they lie: :func:`load_model`.

Used by whatever measures. An organism is trained first, what lies on the Hub is fetched once, and
:func:`weights_id` tells the weights from any others. Knows nothing of the order of training data.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from lmmem.models.registry import DTYPES, MODELS, resolve_step
from lmmem.storage.files import recorded_sha256, sha256_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lmmem.storage.hub import Listing

__all__ = ["download_size", "load_mean", "load_model", "load_tokenizer", "weights_id"]

# What transformers reads a model from: safetensors, or where there are none, what torch has pickled.
WEIGHTS = (r"model(-\d+-of-\d+)?\.safetensors", r"pytorch_model(-\d+-of-\d+)?\.bin")
BESIDE = (".json", ".txt", ".model", ".jinja")  # configuration and tokenizer


def download_size(name: str, step: int | None = None) -> int:
    """Bytes of weights that :func:`load_model` would have to fetch, 0 if they are here.

    >>> download_size("pocket-mini")
    0
    """
    step = resolve_step(name, step)
    if _folder(name, step) is not None:
        return 0
    from huggingface_hub import try_to_load_from_cache

    listed = _listed(name, step)
    weights = [listed.files[path] for path in _weight_files(listed.files, f"{name} at step {step}")]
    kept = [isinstance(try_to_load_from_cache(file.repo, file.path, revision=file.commit), str) for file in weights]
    return sum(file.size for file, here in zip(weights, kept, strict=True) if not here)


def load_model(
    name: str, step: int | None = None, dtype: str | None = None, device: str | None = None
) -> PreTrainedModel:
    """A model as transformers gives it, in evaluation mode.

    Parameters
    ----------
    name : a key of ``MODELS``, an id on the Hub ("owner/name"), or a folder.
    step : optimizer steps the weights have taken (Amber: checkpoint number); None is the last.
    dtype : "float32", "bfloat16" or "float16"; None is the model's entry in ``MODELS``.
    device : as torch names it; None is "cuda" where torch sees one, else "cpu".

    Returns
    -------
    The model. `pocket` is trained first, in minutes, if this has not been done; others are
    fetched from the Hugging Face Hub, and read straight to the device in that dtype. No code
    that comes with a model is ever run.

    Raises
    ------
    ValueError : unknown model, step, dtype or device; the message names what is valid.
    PermissionError, ConnectionError : as for :func:`lmmem.storage.hub.listing`.

    >>> model = load_model("pocket-mini", step=60)
    >>> model.config.max_position_embeddings
    96
    """
    import torch
    from transformers import AutoModelForCausalLM

    step, dtype = resolve_step(name, step), _dtype(name, dtype)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error
    folder = _folder(name, step)
    if folder is None:
        listed = _listed(name, step)
        weights = _weight_files(listed.files, f"{name} at step {step}")
        folder = _fetched(listed, weights)
    else:
        weights = _weight_files((path.name for path in folder.iterdir()), str(folder))
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        device_map={"": where},
        use_safetensors=weights[0].endswith(".safetensors"),
        weights_only=True,
        trust_remote_code=False,
    )
    return model.eval()


def load_mean(name: str, steps: Sequence[int], dtype: str | None = None, device: str | None = None) -> PreTrainedModel:
    """A model whose weights are the mean of those of several steps, taken in float64, one step in memory at a time.

    Parameters
    ----------
    name, dtype, device : as for :func:`load_model`.
    steps : training steps with a checkpoint.

    Raises
    ------
    ValueError : no step, or as :func:`load_model`.

    >>> load_mean("pocket-mini", [114, 120]).config.max_position_embeddings
    96
    """
    import torch

    if not steps:
        raise ValueError("a mean of weights needs a step or more, got none")
    model = load_model(name, steps[-1], dtype, device)
    if len(steps) == 1:
        return model
    sums = {key: weight.double().cpu() for key, weight in model.state_dict().items()}
    for step in steps[:-1]:
        for key, weight in load_model(name, step, dtype, "cpu").state_dict().items():
            sums[key] += weight.double()
    with torch.no_grad():
        for key, weight in model.state_dict().items():
            weight.copy_((sums[key] / len(steps)).to(weight.dtype))
    return model


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model in ``MODELS``.

    Raises
    ------
    ValueError : unknown model.
    PermissionError, ConnectionError : as for :func:`lmmem.storage.hub.listing`.

    >>> load_tokenizer("pocket-mini").decode([0])
    '<|endoftext|>'
    """
    from transformers import AutoTokenizer

    if MODELS[name].place is None:
        from lmmem.pocket.organisms import tokenizer_of

        return tokenizer_of(name)
    step = resolve_step(name)
    folder = _folder(name, step) or _fetched(_listed(name, step), [])
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def weights_id(name: str, step: int) -> str:
    """What tells these weights from any others: the SHA-256 of their file, or repository and commit."""
    folder = _folder(name, step)
    if folder is None:
        listed = _listed(name, step)
        return f"{listed.repo}@{listed.commit}"
    if MODELS[name].place is None:
        return recorded_sha256(folder / "model.safetensors")
    weights = [folder / path for path in _weight_files((path.name for path in folder.iterdir()), str(folder))]
    sums = [_sha256_of_unchanged(path, path.stat().st_size, path.stat().st_mtime_ns) for path in weights]
    return hashlib.sha256("".join(sums).encode()).hexdigest()


def _dtype(name: str, dtype: str | None) -> str:
    if dtype is None:
        return MODELS[name].dtype
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
    return dtype


def _folder(name: str, step: int) -> Path | None:
    """Where the weights lie on this machine; None if on the Hub."""
    info = MODELS[name]
    if info.place is None:
        from lmmem.pocket.organisms import checkpoint_folder

        return checkpoint_folder(name, step)
    place, *on_the_hub = info.address(step)
    if on_the_hub:
        return None
    if not Path(place).is_dir():
        raise ValueError(f"{name} at step {step}: there is no folder {place}")
    return Path(place)


def _listed(name: str, step: int) -> Listing:
    from lmmem.storage.hub import listing

    return listing(*MODELS[name].address(step))


def _fetched(listed: Listing, weights: list[str]) -> Path:
    """The folder on this machine that holds these weights of a commit, its configuration and tokenizer."""
    from lmmem.storage.hub import download

    beside = [path for path in listed.files if "/" not in path and path.endswith(BESIDE)]
    with ThreadPoolExecutor() as pool:
        paths = list(pool.map(download, [listed.files[path] for path in [*beside, *weights]]))
    if not paths:
        raise ValueError(f"{listed.repo}@{listed.commit[:12]} holds no model: it has no configuration")
    return paths[0].parent


def _weight_files(names: Iterable[str], where: str) -> list[str]:
    names = list(names)
    for pattern in WEIGHTS:
        if found := sorted(name for name in names if re.fullmatch(pattern, name)):
            return found
    raise ValueError(f"{where} holds no model: it has no model.safetensors and no pytorch_model.bin, whole or in parts")


@functools.cache
def _sha256_of_unchanged(path: Path, size: int, modified: int) -> str:
    return sha256_of(path)
