"""Language models by short name and training step. Knows nothing of the order of their data."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lmmem.pocket.recipe import RECIPES
from lmmem.protocol import SIGMA
from lmmem.storage import recorded_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["DTYPES", "MODELS", "ModelInfo", "load_model", "load_tokenizer", "resolve_step", "weights_id"]

DTYPES = ("float32", "bfloat16", "float16")

# Pythia README, "Checkpoints": 154 revisions, log-spaced and then every thousand steps.
PYTHIA_STEPS = (0, *(2**i for i in range(10)), *range(1_000, 144_000, 1_000))
# LLM360/Amber on the Hugging Face Hub: branches ckpt_000 .. ckpt_358; main is ckpt_359.
AMBER_STEPS = tuple(range(360))

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
    steps : training steps with a checkpoint, ascending; the last is the default.
    training_data : what it was trained on.
    dtype : the default for measurement.
    sigma : the default perturbation, in absolute weight units.
    source : where these facts and the weights come from.
    hub_id : repository on the Hugging Face Hub, or None for an organism trained here.
    revision : the repository's branch for a step, a format string, or None.
    """

    name: str
    parameters: str
    steps: tuple[int, ...]
    training_data: str
    dtype: str
    sigma: float
    source: str
    hub_id: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES or not self.steps:
            raise ValueError(f"{self.name}: dtype must be one of {', '.join(DTYPES)}, and steps not empty")


class _Registry(Mapping[str, ModelInfo]):
    """The models known by name; prints as a table."""

    columns = ("name", "parameters", "steps", "training_data", "dtype", "source")

    def __init__(self, models: list[ModelInfo]) -> None:
        self._models = {model.name: model for model in models}

    def __getitem__(self, name: str) -> ModelInfo:
        try:
            return self._models[name]
        except KeyError:
            near = difflib.get_close_matches(str(name), self._models, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(f"unknown model {name!r}{hint} Known: {', '.join(self._models)}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._models

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def _cells(self) -> list[tuple[str, ...]]:
        lines: list[tuple[str, ...]] = [self.columns]
        for model in self._models.values():
            steps = f"{len(model.steps)}: {model.steps[0]} .. {model.steps[-1]}"
            lines.append((model.name, model.parameters, steps, model.training_data, model.dtype, model.source))
        return lines

    def __repr__(self) -> str:
        cells = self._cells()
        widths = [max(len(line[i]) for line in cells) for i in range(len(self.columns))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)

    def _repr_html_(self) -> str:
        head, *body = self._cells()
        rows = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in body]
        titles = "".join(f"<th>{title}</th>" for title in head)
        return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


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


MODELS = _Registry(
    [
        _organism("pocket", "2.6 M"),
        _organism("pocket-mini", "0.2 M"),
        ModelInfo(
            name="pythia1b",
            parameters="1.0 B",
            steps=PYTHIA_STEPS,
            training_data="the Pile in its pre-shuffled order, just under one epoch",
            dtype="float16",
            sigma=SIGMA,
            source="EleutherAI/pythia-1b; Biderman et al. 2023",
            hub_id="EleutherAI/pythia-1b",
            revision="step{step}",
        ),
        ModelInfo(
            name="amber7b",
            parameters="6.7 B",
            steps=AMBER_STEPS,
            training_data="AmberDatasets, 360 chunks in order, one epoch",
            dtype="float16",
            sigma=SIGMA,
            source="LLM360/Amber; Liu et al. 2023",
            hub_id="LLM360/Amber",
            revision="ckpt_{step:03d}",
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
    if step is None:
        return steps[-1]
    if isinstance(step, bool) or step not in steps:
        if not isinstance(step, int) or isinstance(step, bool):
            raise ValueError(f"step must be a whole number or None, got {step!r}")
        near = sorted(sorted(steps, key=lambda s: abs(s - step))[:2])
        raise ValueError(
            f"{name} has no checkpoint of step {step}; nearest: {' and '.join(map(str, near))} "
            f"({len(steps)} checkpoints, {steps[0]} .. {steps[-1]})"
        )
    return int(step)


def load_model(
    name: str, step: int | None = None, dtype: str | None = None, device: str | None = None
) -> PreTrainedModel:
    """A model as transformers gives it, in evaluation mode.

    Parameters
    ----------
    name : a key of ``MODELS``.
    step : optimizer steps the weights have taken (Amber: checkpoint number); None is the last.
    dtype : "float32", "bfloat16" or "float16"; None is the model's entry in ``MODELS``.
    device : as torch names it; None is "cuda" where torch sees one, else "cpu".

    Returns
    -------
    The model. `pocket` is trained first, in minutes, if this has not been done; others are
    fetched from the Hugging Face Hub.

    Raises
    ------
    ValueError : unknown model, step, dtype or device; the message names what is valid.

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
    place, revision = _location(name, step)
    model = AutoModelForCausalLM.from_pretrained(place, revision=revision, dtype=getattr(torch, dtype))
    return model.to(where).eval()  # type: ignore[arg-type]  # transformers wraps torch's `to` wrongly


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model in ``MODELS``.

    Raises
    ------
    ValueError : unknown model.

    >>> load_tokenizer("pocket-mini").decode([0])
    '<|endoftext|>'
    """
    from transformers import AutoTokenizer

    if name in RECIPES:
        from lmmem.pocket.training import tokenizer_of

        return tokenizer_of(name)
    return AutoTokenizer.from_pretrained(MODELS[name].hub_id)


def weights_id(name: str, step: int) -> str:
    """What tells these weights from any others: a file's SHA-256, or repository and revision."""
    place, revision = _location(name, step)
    if isinstance(place, Path):
        return recorded_sha256(place / "model.safetensors")
    return f"{place}@{revision}"


def _dtype(name: str, dtype: str | None) -> str:
    if dtype is None:
        return MODELS[name].dtype
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
    return dtype


def _location(name: str, step: int) -> tuple[str | Path, str]:
    """Folder or repository of the weights, and the revision in it."""
    info = MODELS[name]
    if info.hub_id is None:
        from lmmem.pocket.training import checkpoint_folder

        return checkpoint_folder(name, step), "main"
    revision = "main" if name == "amber7b" and step == AMBER_STEPS[-1] else str(info.revision).format(step=step)
    return info.hub_id, revision
