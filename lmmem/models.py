"""Language models by short name and training step. Knows nothing of the order of their data."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import html
import numbers
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from lmmem.pocket.recipe import RECIPES
from lmmem.protocol import SIGMA
from lmmem.storage import recorded_sha256, sha256_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lmmem.hub import Listing

__all__ = [
    "AMBER_STRIDE",
    "DTYPES",
    "MODELS",
    "PYTHIA_STEPS",
    "ModelInfo",
    "download_size",
    "load_model",
    "load_tokenizer",
    "resolve_step",
    "weights_id",
]

DTYPES = ("float32", "bfloat16", "float16")
UNNUMBERED = -1  # the step of a model whose checkpoints have no numbers

# Pythia README, "Checkpoints": 154 revisions, log-spaced and then every thousand steps.
PYTHIA_STEPS = (0, *(2**i for i in range(10)), *range(1_000, 144_000, 1_000))
# The same, "Changelog": the first release, now "v0", had 143 evenly spaced ones.
PYTHIA_V0_STEPS = PYTHIA_STEPS[11:]
# LLM360/Amber on the Hugging Face Hub: branches ckpt_000 .. ckpt_358; main is ckpt_359.
AMBER_STEPS = tuple(range(360))
AMBER_STRIDE = 10_000_000  # row numbers set aside for each of its chunks, which have about 1.7 million lines

# What transformers reads a model from: safetensors, or where there are none, what torch has pickled.
WEIGHTS = (r"model(-\d+-of-\d+)?\.safetensors", r"pytorch_model(-\d+-of-\d+)?\.bin")
BESIDE = (".json", ".txt", ".model", ".jinja")  # configuration and tokenizer

# The weights of an organism are several times Pythia's, because Muon trains them: the paper's noise is
# about 8 % of the rms of Pythia-1B's weights, and so is this of pocket's.
ORGANISM_SIGMA = 1e-2


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What is known of a model before it is loaded.

    Attributes
    ----------
    name : short name.
    parameters : number of weights, in words.
    steps : training steps with a checkpoint, ascending; the last is the default. Empty if its
        checkpoints have no numbers: there is one, and its step is recorded as -1.
    training_data : what it was trained on.
    dtype : the default for measurement.
    sigma : the default perturbation, in absolute weight units.
    source : where these facts and the weights come from.
    place : repository on the Hugging Face Hub; or a folder, which begins with "/", "." or "~", and
        holds ``{step}`` if there are several; None for an organism trained here.
    revision : the repository's branch for a step, a format string with ``{step}``.
    order : data set on the Hub that holds its training data in training order, or None.
    epochs : times it met its training data.
    licence : of the weights.
    caveats : what to know before measuring it.
    paper_step, paper_row : the step that the paper measures, and the first of its sequences.
    """

    name: str
    parameters: str
    steps: tuple[int, ...]
    training_data: str
    dtype: str
    sigma: float
    source: str
    place: str | None = None
    revision: str = "main"
    order: str | None = None
    epochs: float | None = None
    licence: str | None = None
    caveats: str = ""
    paper_step: int | None = None
    paper_row: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"{self.name}: dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError(f"{self.name}: steps must ascend")
        if self.place and len(self.steps) > 1 and self.address(self.steps[0]) == self.address(self.steps[1]):
            raise ValueError(
                f"{self.name}: all {len(self.steps)} steps lie at {' at '.join(self.address(self.steps[0]))}: "
                "put {step} into revision, or into place if that is a folder"
            )

    def address(self, step: int) -> tuple[str, ...]:
        """Where the weights of a step lie: (repository, revision), or (folder,)."""
        place = str(self.place).format(step=step) if self.steps else str(self.place)
        if place.startswith(("/", ".", "~")):
            return (str(Path(place).expanduser()),)
        if self.name == "amber7b" and step == AMBER_STEPS[-1]:
            return place, "main"
        return place, self.revision.format(step=step)


class _Registry(Mapping[str, ModelInfo]):
    """The models known by name; prints as a table. Runs that differ in their seed alone share a line."""

    columns = ("name", "parameters", "steps", "training_data", "epochs", "dtype", "licence", "source", "caveats")

    def __init__(self, models: list[ModelInfo]) -> None:
        self._models = {model.name: model for model in models}

    def __getitem__(self, name: str) -> ModelInfo:
        """A model by its short name, or any other by its id on the Hub or its folder.

        Raises
        ------
        ValueError : the name is neither; the message names the nearest.
        """
        if name in self._models:
            return self._models[name]
        if isinstance(name, str) and ("/" in name or Path(name).is_dir()):
            return _unregistered(name)
        near = difflib.get_close_matches(str(name), self._models, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        known = ", ".join(line[0] for line in self._cells()[1:])
        raise ValueError(f"unknown model {name!r}{hint} Known: {known}; or an id on the Hub, owner/name, or a folder")

    def __contains__(self, name: object) -> bool:
        return name in self._models

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def register(self, model: ModelInfo) -> None:
        """Add a model of one's own.

        Raises
        ------
        ValueError : the name is taken.

        >>> from lmmem import MODELS
        >>> from lmmem.models import ModelInfo
        >>> MODELS.register(
        ...     ModelInfo("mine", "10 M", (100, 200), "my text", "float32", 2e-3, "me", "my/repo", "step{step}")
        ... )
        >>> MODELS["mine"].steps
        (100, 200)
        """
        if model.name in self._models:
            raise ValueError(f"there is a model {model.name!r} already: choose another name")
        self._models[model.name] = model

    def _cells(self) -> list[tuple[str, ...]]:
        lines: list[tuple[str, ...]] = [self.columns]
        runs: dict[str, list[ModelInfo]] = {}
        for model in self._models.values():
            runs.setdefault(re.sub(r"-seed\d+$", "-seed", model.name), []).append(model)
        for first, *others in runs.values():
            name = f"{first.name} .. {others[-1].name.rpartition('seed')[2]}" if others else first.name
            steps = f"{len(first.steps)}: {first.steps[0]} .. {first.steps[-1]}" if first.steps else "1"
            epochs = "" if first.epochs is None else f"{first.epochs:g}"
            facts = (first.dtype, first.licence or "", first.source, first.caveats)
            lines.append((name, first.parameters, steps, first.training_data, epochs, *facts))
        return lines

    def __repr__(self) -> str:
        cells = self._cells()
        widths = [max(len(line[i]) for line in cells) for i in range(len(self.columns))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)

    def _repr_html_(self) -> str:
        head, *body = ([html.escape(cell) for cell in line] for line in self._cells())
        rows = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in body]
        titles = "".join(f"<th>{title}</th>" for title in head)
        return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _unregistered(name: str) -> ModelInfo:
    return ModelInfo(
        name=name,
        parameters="",
        steps=(),
        training_data="not known: give it as an array, lmmem.Corpus(rows, rows_per_step, steps)",
        dtype="float32",
        sigma=SIGMA,
        source=name,
        place=str(Path(name).absolute()) if Path(name).is_dir() else name,
    )


def _organism(name: str, parameters: str) -> ModelInfo:
    recipe = RECIPES[name]
    return ModelInfo(
        name=name,
        parameters=parameters,
        steps=recipe.checkpoints,
        training_data=f"{recipe.steps * recipe.rows_per_step:,} rows of source text, canaries among them",
        dtype="float32",
        sigma=ORGANISM_SIGMA,
        source="trained on this machine on first use",
    )


PADDED = "50,304 logits, padded from 50,277 tokens"
RELABELLED = "4 M tokens a step in training, its steps relabelled as if 2 M"
DEDUPED_ORDER = "EleutherAI/pile-deduped-pythia-preshuffled"
STANDARD_ORDER = "EleutherAI/pile-standard-pythia-preshuffled"


def _pythia(size: str, suffix: str = "") -> ModelInfo:
    """One model of the suite: `suffix` is "", "-deduped", "-v0", "-deduped-v0" or "-seed3" and the like."""
    deduped, v0, seed = "deduped" in suffix, "v0" in suffix, "seed" in suffix
    data = "the deduplicated Pile, pre-shuffled" if deduped else "the Pile, pre-shuffled"
    order: str | None = DEDUPED_ORDER if deduped else STANDARD_ORDER
    caveats = [PADDED]
    if v0 and size in ("160m", "410m", "1.4b"):
        caveats.append(RELABELLED)
    if seed:
        order = None
        data = "the Pile" if "weight" in suffix else "the Pile, in an order of its own"
        caveats.append("its training order cannot be read here")
    return ModelInfo(
        name=f"pythia{size}{suffix}",
        parameters=f"{size[:-1]} {size[-1].upper()}",
        steps=PYTHIA_V0_STEPS if v0 else PYTHIA_STEPS,
        training_data=data,
        dtype="float16",
        sigma=SIGMA,
        source=f"EleutherAI/pythia-{size}{suffix}; " + ("van der Wal et al. 2025" if seed else "Biderman et al. 2023"),
        place=f"EleutherAI/pythia-{size}{suffix}",
        revision="step{step}",
        order=order,
        epochs=1.5 if deduped else 1.0,
        licence="Apache-2.0",
        caveats="; ".join(caveats),
        # The paper's rows lie at 10,240,000 and after it, and are met from step 10,000 on.
        paper_step=None if seed else 11_000,
        paper_row=None if seed else 10_240_000,
    )


# Pythia README, "Models"; PolyPythias, the cards of EleutherAI/pythia-14m-seed1 and its like.
SIZES = ("14m", "31m", "70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
SEEDED = SIZES[:5]

MODELS = _Registry(
    [
        _organism("pocket", "2.6 M"),
        _organism("pocket-mini", "0.2 M"),
        *(_pythia(size) for size in SIZES),
        *(_pythia(size, "-deduped") for size in SIZES[2:]),
        *(_pythia(size, "-v0") for size in SIZES[2:]),
        *(_pythia(size, "-deduped-v0") for size in SIZES[2:]),
        *(_pythia(size, f"-seed{seed}") for size in SEEDED for seed in range(1, 10)),
        *(_pythia("160m", f"-{kind}-seed{seed}") for kind in ("data", "weight") for seed in range(1, 4)),
        ModelInfo(
            name="amber7b",
            parameters="6.7 B",
            steps=AMBER_STEPS,
            training_data="AmberDatasets, 360 chunks in order",
            dtype="float16",
            sigma=SIGMA,
            source="LLM360/Amber; Liu et al. 2023",
            place="LLM360/Amber",
            revision="ckpt_{step:03d}",
            order="LLM360/AmberDatasets",
            epochs=1.0,
            licence="Apache-2.0",
            caveats="steps number checkpoints, one a chunk; trained in bfloat16, measured in float16 as by the paper",
            # The paper's rows are of chunk 100. One checkpoint later they have been met, however chunks are counted.
            paper_step=101,
            paper_row=100 * AMBER_STRIDE,
        ),
    ]
)


def resolve_step(name: str, step: int | None = None) -> int:
    """The step that `step` stands for: None is the last one.

    Raises
    ------
    ValueError : unknown model, or a step without a checkpoint; the message names the nearest.

    >>> resolve_step("pythia1b")
    143000
    """
    steps = MODELS[name].steps
    if not steps:
        if step not in (None, UNNUMBERED):
            raise ValueError(
                f"{name} is not in the registry, so its steps are not known; load its one model with step=None, "
                "or name its steps with lmmem.MODELS.register"
            )
        return UNNUMBERED
    if step is None:
        return steps[-1]
    if isinstance(step, bool) or not isinstance(step, numbers.Integral):
        raise ValueError(f"step must be a whole number or None, got {step!r}")
    if step not in steps:
        near = sorted(sorted(steps, key=lambda s: abs(s - step))[:2])
        raise ValueError(
            f"{name} has no checkpoint of step {step}; nearest: {' and '.join(map(str, near))} "
            f"({len(steps)} checkpoints, {steps[0]} .. {steps[-1]})"
        )
    return int(step)


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
    PermissionError, ConnectionError : as for :func:`lmmem.hub.listing`.

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


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model in ``MODELS``.

    Raises
    ------
    ValueError : unknown model.
    PermissionError, ConnectionError : as for :func:`lmmem.hub.listing`.

    >>> load_tokenizer("pocket-mini").decode([0])
    '<|endoftext|>'
    """
    from transformers import AutoTokenizer

    if name in RECIPES:
        from lmmem.pocket.training import tokenizer_of

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
    if name in RECIPES:
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
        from lmmem.pocket.training import checkpoint_folder

        return checkpoint_folder(name, step)
    place, *on_the_hub = info.address(step)
    if on_the_hub:
        return None
    if not Path(place).is_dir():
        raise ValueError(f"{name} at step {step}: there is no folder {place}")
    return Path(place)


def _listed(name: str, step: int) -> Listing:
    from lmmem.hub import listing

    return listing(*MODELS[name].address(step))


def _fetched(listed: Listing, weights: list[str]) -> Path:
    """The folder on this machine that holds these weights of a commit, its configuration and tokenizer."""
    from lmmem.hub import download

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
