"""Load a model at a training step, and its tokenizer, from wherever they lie: :func:`load_model`.

Used by whatever measures. An organism is trained first, what lies on the Hub is fetched once, and
:func:`weights_id` tells the weights from any others. Knows nothing of the order of training data.
"""

from __future__ import annotations

import functools
import hashlib
import re
import textwrap
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from lmmem.models import gguf
from lmmem.models.registry import DTYPES, MODELS, resolve_step
from lmmem.storage.files import recorded_sha256, sha256_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lmmem.storage.hub import HubFile, Listing

__all__ = ["download_size", "load_mean", "load_model", "load_tokenizer", "quantisation", "weights_id"]

# What transformers reads a model from: safetensors, or where there are none, what torch has pickled.
WEIGHTS = (r"model(-\d+-of-\d+)?\.safetensors", r"pytorch_model(-\d+-of-\d+)?\.bin")
BESIDE = (".json", ".txt", ".model", ".jinja")  # configuration and tokenizer
CONFIG = "config.json"
LONGEST = 300  # characters of what transformers says of a file that it cannot read
LAYER = re.compile(r"(?<![^.])\d+(?=\.)")  # its number, in the name of a weight
TOKENS = re.compile(r"token|vocab|merges|\.model$")  # in the name of a file that a tokenizer is read from


def download_size(name: str, step: int | None = None) -> int:
    """Bytes of weights that :func:`load_model` would have to fetch, 0 if they are here.

    >>> download_size("pocket-mini")
    0
    """
    step = resolve_step(name, step)
    file = _gguf(name, step)
    if isinstance(file, Path) or (file is None and _folder(name, step) is not None):
        return 0
    if file is None:
        listed, paths = _on_the_hub(name, step)
        weights = [listed.files[path] for path in paths]
    else:
        weights = [file]
    return sum(file.size for file in weights if not _kept(file))


def load_model(
    name: str, step: int | None = None, dtype: str | None = None, device: str | None = None
) -> PreTrainedModel:
    """A model as transformers gives it, in evaluation mode.

    Parameters
    ----------
    name : a key of ``MODELS``, an id on the Hub ("owner/name"), a folder, or a GGUF file ("owner/name:file.gguf" on
        the Hub), whose weights are dequantised.
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
    ValueError : unknown model, step, dtype or device; the message names what is valid. Or weights of the model are
        missing, damaged, left over, or not of the sizes that its config.json gives; or the Hub holds those of the end
        of training in their place, or it is a GGUF file that cannot be read whole, as
        :func:`lmmem.models.gguf.model_of` says.
    PermissionError, ConnectionError : as for :func:`lmmem.storage.hub.listing`.

    >>> model = load_model("pocket-mini", step=60)
    >>> model.config.max_position_embeddings
    96
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    step, dtype = resolve_step(name, step), _dtype(name, dtype)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error
    file = _gguf(name, step)
    if file is not None:
        return gguf.model_of(_here(file), getattr(torch, dtype), where)
    folder = _folder(name, step)
    if folder is None:
        listed, weights = _on_the_hub(name, step)
        folder = _fetched(listed, weights)
    else:
        weights = _weight_files((path.name for path in folder.iterdir()), str(folder))
    _config_of(folder)
    try:
        found: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            device_map={"": where},
            use_safetensors=weights[0].endswith(".safetensors"),
            weights_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # which are told, and refused below by their names
        )
    except (SafetensorError, EOFError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "PytorchStreamReader" not in str(error):  # of memory, or of a GPU
            raise
        raise ValueError(f"the weights in {folder} are damaged ({_line(error)}): fetch or save them anew") from error
    except (ValueError, OSError, LookupError, TypeError, ImportError, UnpicklingError) as error:
        raise ValueError(f"{folder} holds no model that can be read: {_line(error)}") from error
    model, loading = found
    if missing := sorted(loading["missing_keys"]):  # transformers would draw them at random
        raise ValueError(
            f"{name}: its weights are not those of a {type(model).__name__}, of which it lacks {len(missing)}, "
            f"{', '.join(missing[:3])}{' ..' if len(missing) > 3 else ''}"
        )
    if other := sorted(loading["mismatched_keys"]):
        key, there, wanted = other[0]
        raise ValueError(
            f"weights in {folder} do not fit its {CONFIG} ({len(other)} of them): {key} is {tuple(there)} and would "
            f"have to be {tuple(wanted)}; give the {CONFIG} that was saved with them"
        )
    if left := _left_out(loading["unexpected_keys"], model):
        raise ValueError(
            f"weights in {folder} do not fit its {CONFIG}, which has no place for {len(left)} of them, "
            f"{', '.join(left[:3])}{' ..' if len(left) > 3 else ''}; give the {CONFIG} that was saved with them"
        )
    return model.eval()  # type: ignore[no-any-return]


def _left_out(unexpected: Iterable[str], model: PreTrainedModel) -> list[str]:
    """Of the weights that transformers has left out, those without which it is another model, sorted.

    Those that are named as a weight of the model but for a number, so of a layer more than it has, and biases of what
    has none. What is named otherwise is left to transformers: masks, frequencies, what is not of text; and so are
    layers that predict more tokens.
    """
    known = {LAYER.sub("0", name) for name in model.state_dict()}
    known |= {name.removeprefix(f"{model.base_model_prefix}.") for name in known}  # as many are saved
    config = model.config.get_text_config()
    last = getattr(config, "num_hidden_layers", 0)
    ahead = {str(last + layer) for layer in range(getattr(config, "num_nextn_predict_layers", None) or 0)}
    found = []
    for name in unexpected:
        alike = LAYER.sub("0", name)
        if (alike in known or alike.removesuffix("bias") + "weight" in known) and not ahead & {*LAYER.findall(name)}:
            found.append(name)
    return sorted(found)


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
    sums = {key: weight.cpu().double() for key, weight in model.state_dict().items()}
    for step in steps[:-1]:
        for key, weight in load_model(name, step, dtype, "cpu").state_dict().items():
            sums[key] += weight.double()
    with torch.no_grad():
        for key, weight in model.state_dict().items():
            weight.copy_((sums[key] / len(steps)).to(weight.dtype))
    return model


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, named as for :func:`load_model`.

    Raises
    ------
    ValueError : unknown model, or one without a tokenizer.
    PermissionError, ConnectionError : as for :func:`lmmem.storage.hub.listing`.

    >>> load_tokenizer("pocket-mini").decode([0])
    '<|endoftext|>'
    """
    from transformers import AutoTokenizer

    if MODELS[name].place is None:
        from lmmem.pocket.organisms import tokenizer_of

        return tokenizer_of(name)
    step = resolve_step(name)
    file = _gguf(name, step)
    if file is not None:
        return gguf.tokenizer_of(_here(file))
    folder = _folder(name, step) or _fetched(_listed(name, step), [])
    if not any(TOKENS.search(path.name) for path in folder.iterdir()):  # transformers may make one without tokens
        raise ValueError(
            f"{name} has no tokenizer: {folder} holds no tokenizer.json; tokenizer.save_pretrained writes it"
        )
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError, LookupError, TypeError, ImportError) as error:  # as whatever it tried last failed
        raise ValueError(f"{name} has no tokenizer that transformers can read: {_line(error)}") from error


def weights_id(name: str, step: int) -> str:
    """What tells this model from any other: a SHA-256 of its files, or repository and commit (and file).

    Of an organism, whose recipe decides the rest, and of a GGUF file, which holds it, that of the weights' file; of a
    folder that of the weights and of config.json, as the same weights with other heads are another model.
    """
    file = _gguf(name, step)
    if isinstance(file, Path):
        return _sha256_of_unchanged(file, file.stat().st_size, file.stat().st_mtime_ns)
    if file is not None:
        return f"{file.repo}@{file.commit}:{file.path}"
    folder = _folder(name, step)
    if folder is None:
        listed = _listed(name, step)
        return f"{listed.repo}@{listed.commit}"
    if MODELS[name].place is None:
        return recorded_sha256(folder / "model.safetensors")
    weights = [folder / path for path in _weight_files((path.name for path in folder.iterdir()), str(folder))]
    sums = [_sha256_of_unchanged(path, path.stat().st_size, path.stat().st_mtime_ns) for path in weights]
    sums.append(sha256_of(_config_of(folder)))
    return hashlib.sha256("".join(sums).encode()).hexdigest()


def quantisation(name: str, step: int) -> str | None:
    """The types of the weights in a GGUF file, which is fetched to know it; None for other models.

    >>> quantisation("pocket-mini", 120)
    """
    file = _gguf(name, step)
    return None if file is None else gguf.header_of(_here(file)).quantisation


def _gguf(name: str, step: int) -> Path | HubFile | None:
    """The GGUF file of a model, here or on the Hub; None if it is no such model."""
    info = MODELS[name]
    if info.place is None:
        return None
    place, *revision = info.address(step)
    if not revision:
        if Path(place).is_dir() or (not place.endswith(".gguf") and not Path(place).is_file()):
            return None
        gguf.check_whole_by_name(place)
        if not Path(place).is_file():
            raise ValueError(f"{name} at step {step}: there is no file {place}")
        return Path(place)
    repo, _, path = place.partition(":")
    if not path:
        return None
    gguf.check_whole_by_name(path)
    listed = _listed(name, step)
    if path not in listed.files:
        raise ValueError(f"{name}: {repo} has no file {path}{_named(listed.files, repo + ':', '; it has ')}")
    return listed.files[path]


def _here(file: Path | HubFile) -> Path:
    """A GGUF file on this machine."""
    from lmmem.storage.hub import download

    return file if isinstance(file, Path) else download(file)


def _named(names: Iterable[str], before: str, words: str) -> str:
    """The GGUF files among these, as models are named; nothing if there are none."""
    found = sorted(name for name in names if name.endswith(".gguf"))
    return words + ", ".join(before + name for name in found) if found else ""


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


def _config_of(folder: Path) -> Path:
    """What says how the weights in a folder are to be read."""
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(
            f"{folder} holds no model: it has no {CONFIG}, which model.save_pretrained writes beside weights"
        )
    return path


def _line(error: Exception) -> str:
    """What an error says, in one line, the end of a long one left out."""
    return textwrap.shorten(str(error), LONGEST) or type(error).__name__


def _listed(name: str, step: int) -> Listing:
    from lmmem.storage.hub import listing

    place, revision = MODELS[name].address(step)
    return listing(place.partition(":")[0], revision)


def _on_the_hub(name: str, step: int) -> tuple[Listing, list[str]]:
    """The commit of a step, and its files of weights; refused if a file is one of the end of training.

    So it is with most steps of Pythia-2.8B and two of Pythia-12B: github.com/EleutherAI/pythia, issues 205 and 206.
    """
    from lmmem.storage.hub import AnswerError, listing

    info, listed = MODELS[name], _listed(name, step)
    weights = _weight_files(listed.files, f"{name} at step {step}", listed.repo)
    last = info.steps[-1] if info.steps else step
    for revision in filter(None, (info.address(last)[1], info.end) if step != last else ()):
        try:
            later = listing(listed.repo, revision)
        except ValueError:  # there is no such branch
            continue
        except ConnectionError as error:  # without a network, what is here was compared when it was fetched
            if isinstance(error, AnswerError) or not all(_kept(listed.files[path]) for path in weights):
                raise
            continue
        theirs = {file.etag for file in later.files.values()}
        if alike := [path for path in weights if listed.files[path].etag in theirs]:
            raise ValueError(
                f"{name} at step {step}: its {alike[0]} is that of {revision}, the end of training, in {listed.repo}: "
                "the Hub does not hold the weights of this step"
            )
    return listed, weights


def _kept(file: HubFile) -> bool:
    """Whether a file is in the cache of huggingface_hub."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(file.repo, file.path, revision=file.commit), str)


def _fetched(listed: Listing, weights: list[str]) -> Path:
    """The folder on this machine that holds these weights of a commit, its configuration and tokenizer."""
    from lmmem.storage.hub import download

    beside = [path for path in listed.files if "/" not in path and path.endswith(BESIDE)]
    with ThreadPoolExecutor() as pool:
        paths = list(pool.map(download, [listed.files[path] for path in [*beside, *weights]]))
    if not paths:
        raise ValueError(f"{listed.repo}@{listed.commit[:12]} holds no model: it has no configuration")
    return paths[0].parent


def _weight_files(names: Iterable[str], where: str, repo: str | None = None) -> list[str]:
    names = list(names)
    for pattern in WEIGHTS:
        if found := sorted(name for name in names if re.fullmatch(pattern, name)):
            return found
    before = f"{repo}:" if repo else f"{where}/"
    raise ValueError(
        _named(names, before, f"{where} holds GGUF files alone: name one of them, ")
        or f"{where} holds no model: it has no model.safetensors and no pytorch_model.bin, whole or in parts"
    )


@functools.cache
def _sha256_of_unchanged(path: Path, size: int, modified: int) -> str:
    return sha256_of(path)
