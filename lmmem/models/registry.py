"""Which models there are: their names, training steps, training data and sources, as data.

``lmmem.MODELS`` is a table of them. :mod:`lmmem.models.loading` loads what is described here, and
:mod:`lmmem.corpora.corpus` reads what an :class:`Order` describes. Knows no weights and no files.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmmem.pocket.recipe import DERIVED, LARGE, ORGANISMS
from lmmem.protocol import SIGMA

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "AMBER_STRIDE",
    "DTYPES",
    "MODELS",
    "PILE",
    "PYTHIA_STEPS",
    "ROW_TOKENS",
    "ModelInfo",
    "Order",
    "resolve_step",
]

DTYPES = ("float32", "bfloat16", "float16")
LAYOUTS = ("shards", "chunks", "organism")
GGUF_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+:.+\.gguf").fullmatch  # "owner/name:file.gguf"
UNNUMBERED = -1  # the step of a model whose checkpoints have no numbers
ROW_TOKENS = 2_049  # of Pythia and of Amber: a context of 2,048 and the token after it

# Pythia README, "Checkpoints": 154 revisions, log-spaced and then every thousand steps.
PYTHIA_STEPS = (0, *(2**i for i in range(10)), *range(1_000, 144_000, 1_000))
# The same, "Changelog": the first release, now "v0", had 143 evenly spaced ones.
PYTHIA_V0_STEPS = PYTHIA_STEPS[11:]
# LLM360/Amber on the Hugging Face Hub: branches ckpt_000 .. ckpt_358; main is ckpt_359.
AMBER_STEPS = tuple(range(360))
AMBER_STRIDE = 10_000_000  # row numbers set aside for each of its chunks, which have about 1.7 million lines

# The weights of an organism are several times Pythia's, because Muon trains them: the paper's noise is
# about 8 % of the rms of Pythia-1B's weights, and so is this of pocket's.
ORGANISM_SIGMA = 1e-2


@dataclasses.dataclass(frozen=True)
class Order:
    """A model's training data in training order: how they lie, and how they are cut into steps.

    Attributes
    ----------
    layout : "organism", made on this machine; "shards", rows of uint16 tokens in files that follow
        one another; or "chunks", JSON Lines files, one a step.
    rows_per_step : sequences per optimizer step (of chunks: row numbers set aside for each).
    steps : optimizer steps of the whole training.
    row_tokens : tokens of a row.
    vocabulary : a token at or above it is damage.
    exposure_lag : steps from the one that trains on a row to the first weights that know it.
    repo : data set on the Hub; None is not published, so that a path has to be given.
    counts : data set on the Hub that says how often the text after each prompt recurs, or None.
    """

    layout: str
    rows_per_step: int
    steps: int
    row_tokens: int
    vocabulary: int = 2**16
    exposure_lag: int = 1
    repo: str | None = None
    counts: str | None = None

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {self.layout!r}")
        for name in ("rows_per_step", "steps", "row_tokens", "vocabulary"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: give 1 or more")


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
    sigma : the default perturbation, in absolute weight units; None is chosen by what it costs the model.
    source : where these facts and the weights come from.
    place : repository on the Hugging Face Hub; or a folder, which begins with "/", "." or "~", and
        holds ``{step}`` if there are several; either may be followed by a GGUF file, "owner/name:file.gguf",
        "./file.gguf"; None for an organism trained here.
    revision : the repository's branch for a step, a format string with ``{step}``.
    last_revision : the branch of the last step, where it has a name of its own.
    end : another branch that holds the end of training, or None.
    order : its training data in training order; None is not known here.
    memorised : split of EleutherAI/pythia-memorized-evals that lists rows it recites, or None.
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
    sigma: float | None
    source: str
    place: str | None = None
    revision: str = "main"
    last_revision: str | None = None
    end: str | None = None
    order: Order | None = None
    memorised: str | None = None
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
        if self.last_revision is not None and step == self.steps[-1]:
            return place, self.last_revision
        return place, self.revision.format(step=step)


class _Registry(Mapping[str, ModelInfo]):
    """The models known by name; prints as its :attr:`table`."""

    columns = ("name", "parameters", "steps", "training_data", "epochs", "dtype", "licence", "source", "caveats")

    def __init__(self, models: list[ModelInfo]) -> None:
        self._models = {model.name: model for model in models}

    def __getitem__(self, name: str) -> ModelInfo:
        """A model by its short name, or any other by its id on the Hub, its folder or GGUF file, or a description.

        Raises
        ------
        ValueError : the name is none of these; the message names the nearest. Or the file describes no model.
        """
        if name in self._models:
            return self._models[name]
        if isinstance(name, str) and name.endswith(".toml"):
            return _described(name)
        if isinstance(name, str) and name.endswith(".gguf") and not Path(name).exists() and not GGUF_ON_HUB(name):
            raise ValueError(f"there is no file {name}; one of the Hub is named owner/name:file.gguf")
        if isinstance(name, str) and ("/" in name or Path(name).exists()):
            return _unregistered(name)
        near = difflib.get_close_matches(str(name), self._models, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        known = ", ".join(self.table.name)
        raise ValueError(
            f"unknown model {name!r}{hint} Known: {known}; or an id on the Hub, owner/name, a folder, a GGUF file, or "
            "a .toml"
        )

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
        >>> from lmmem.models.registry import ModelInfo
        >>> MODELS.register(
        ...     ModelInfo("mine", "10 M", (100, 200), "my text", "float32", 2e-3, "me", "my/repo", "step{step}")
        ... )
        >>> MODELS["mine"].steps
        (100, 200)
        """
        if model.name in self._models:
            raise ValueError(f"there is a model {model.name!r} already: choose another name")
        self._models[model.name] = model

    def take(self, model: ModelInfo) -> None:
        """Know a model as the process that asks for a measurement does, whatever this one knows by its name.

        >>> from lmmem import MODELS
        >>> MODELS.take(MODELS["pocket"])
        """
        try:
            known = self[model.name]
        except ValueError:  # a file that is not here
            known = None
        if known != model:
            self._models[model.name] = model

    @property
    def table(self) -> pd.DataFrame:
        """One line a model, columns name, parameters, steps, training_data, epochs, dtype, licence, source, caveats.

        Runs that differ in their seed alone share a line.
        """
        import pandas as pd

        runs: dict[str, list[ModelInfo]] = {}
        for model in self._models.values():
            runs.setdefault(re.sub(r"-seed\d+$", "-seed", model.name), []).append(model)
        table = pd.DataFrame([dataclasses.asdict(first) for first, *_ in runs.values()])
        table["name"] = [
            run[0].name + (f" .. {run[-1].name.rpartition('seed')[2]}" if len(run) > 1 else "") for run in runs.values()
        ]
        table["steps"] = [f"{len(s)}: {s[0]} .. {s[-1]}" if s else "1" for s in table.steps]
        table["epochs"] = [f"{epochs:g}" if epochs else "" for epochs in table.epochs.fillna(0)]
        return table[list(self.columns)].fillna("")

    def __repr__(self) -> str:
        table = self.table
        left = [f"{{:<{table[name].str.len().max()}}}".format for name in table]
        return table.to_string(index=False, formatters=left, justify="left")

    def _repr_html_(self) -> str:
        return self.table.to_html(index=False)


def _unregistered(name: str) -> ModelInfo:
    return ModelInfo(
        name=name,
        parameters="",
        steps=(),
        training_data="not known: give it as an array, lmmem.Corpus(rows, rows_per_step, steps)",
        dtype="float32",
        sigma=None,
        source=name,
        place=str(Path(name).absolute()) if Path(name).exists() else name,
    )


def _described(name: str) -> ModelInfo:
    """A model by a file of its facts, the fields of :class:`ModelInfo` but for its name, which is the file's.

    Those of its :class:`Order`, if the file has it, are a table ``[order]``.
    """
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"there is no file {name} that describes a model")
    try:
        facts = tomllib.loads(path.read_text())
        if "order" in facts:
            if not isinstance(facts["order"], dict):
                raise ValueError(f"order = {facts['order']!r}: give a table, [order]")
            order = Order(**_checked(Order, facts["order"], "[order] "))
            if order.layout == "organism":
                raise ValueError("[order] layout = 'organism' is made by lmmem itself: give shards or chunks")
            facts["order"] = order
        facts = _checked(ModelInfo, facts, needed=("place",))
        if facts["place"].startswith("."):  # of a folder beside the file
            facts["place"] = str(path.absolute().parent / facts["place"])
        info = ModelInfo(name=name, **facts | {"steps": tuple(facts["steps"])})
        info.address(max(info.steps, default=UNNUMBERED))
        return info
    except (KeyError, IndexError) as error:  # of a format string
        raise ValueError(
            f"{name} describes no model: place and revision may hold {{step}} and no other braces"
        ) from error
    except ValueError as error:
        raise ValueError(f"{name} describes no model: {error}") from error


# What a fact of a file has to be, by the type of its field.
KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "str": ("text", lambda value: isinstance(value, str)),
    "int": ("a whole number, 0 or more", lambda value: type(value) is int and value >= 0),
    "float": ("a number, 0 or more", lambda value: type(value) in (int, float) and 0 <= value < math.inf),
    "tuple[int, ...]": (
        "a list of whole numbers, 0 or more, ascending",
        lambda value: isinstance(value, list) and all(type(one) is int and one >= 0 for one in value),
    ),
    "Order": ("a table, [order]", lambda value: isinstance(value, Order)),
}


def _checked(what: type, facts: dict[str, Any], where: str = "", needed: Sequence[str] = ()) -> dict[str, Any]:
    """The facts, if each is a field of a dataclass and of its type, and none that it needs is missing."""
    fields = {field.name: field for field in dataclasses.fields(what) if field.name != "name"}
    needed = [*(key for key, field in fields.items() if field.default is dataclasses.MISSING), *needed]
    for key, value in facts.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(fields)}"
            raise ValueError(f"{where}{key} is no fact of a model: {hint}")
        wanted, fits = KINDS[str(fields[key].type).removesuffix(" | None")]
        if not fits(value):
            raise ValueError(f"{where}{key} = {value!r}: give {wanted}")
    if missing := [key for key in needed if facts.get(key, "") == ""]:
        raise ValueError(f"{where}{', '.join(missing)} missing; it needs {', '.join(needed)}")
    return facts


def _organism(name: str) -> ModelInfo:
    recipe = ORGANISMS[name]
    return ModelInfo(
        name=name,
        parameters=f"{recipe.parameters / 1e6:.1f} M",
        steps=recipe.checkpoints,
        training_data=f"{recipe.steps * recipe.rows_per_step:,} rows of source text, canaries among them",
        dtype="float32",
        sigma=ORGANISM_SIGMA,
        source=f"{f'derived from {DERIVED[name].base}' if name in DERIVED else 'trained'} on this machine on first use",
        order=Order("organism", recipe.rows_per_step, recipe.steps, recipe.row_tokens),
        caveats=HOURS if recipe.parameters > LARGE else "",
    )


HOURS = "a processor takes hours to train it, a GPU minutes"
# EleutherAI/pythia, issues 205 and 206, by the SHA-256 of files; step branches of 2.8b and 12b.
MISPLACED = "on the Hub {} of its step branches hold the end of training: they are refused"
# Megatron pads to a multiple of 128 times model-parallel-size: EleutherAI/pythia, models/6.9B and 12B have 2 and 4.
PADDED = "{} logits, padded from 50,277 tokens"
LOGITS = {"6.9b": "50,432", "12b": "50,688"}  # of other sizes 50,304
RELABELLED = "4 M tokens a step in training, its steps relabelled as if 2 M"

# Card of EleutherAI/pile-standard-pythia-preshuffled; Biderman et al. 2023, batch size in sequences; no
# token of a row is above the 50,304 logits of most sizes. Counts: Prashanth et al. 2025, "Recite, Reconstruct,
# Recollect".
PILE = Order(
    layout="shards",
    rows_per_step=1_024,
    steps=PYTHIA_STEPS[-1],
    row_tokens=ROW_TOKENS,
    vocabulary=50_304,
    repo="EleutherAI/pile-standard-pythia-preshuffled",
    counts="usvsnsp/duped-num-duplicates",
)
DEDUPED_PILE = dataclasses.replace(
    PILE, repo="EleutherAI/pile-deduped-pythia-preshuffled", counts="usvsnsp/deduped-num-duplicates"
)
OWN_ORDER = dataclasses.replace(PILE, repo=None, counts=None)  # of runs by seed


def _pythia(size: str, suffix: str = "") -> ModelInfo:
    """One model of the suite: `suffix` is "", "-deduped", "-v0", "-deduped-v0" or "-seed3" and the like."""
    deduped, v0, seed = "deduped" in suffix, "v0" in suffix, "seed" in suffix
    data = "the deduplicated Pile, pre-shuffled" if deduped else "the Pile, pre-shuffled"
    caveats = [PADDED.format(LOGITS.get(size, "50,304"))]
    if v0 and size in ("160m", "410m", "1.4b"):
        caveats.append(RELABELLED)
    if not suffix and size in ("2.8b", "12b"):
        caveats.append(MISPLACED.format({"2.8b": "86", "12b": "2"}[size]))
    if seed:
        data = "the Pile" if "weight" in suffix else "the Pile, in an order of its own"
        caveats.append("its training order cannot be read here")
    # Card of EleutherAI/pythia-memorized-evals: a split for each of the eight larger sizes.
    listed = size in SIZES[2:] and suffix in ("", "-deduped")
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
        end="main",
        order=OWN_ORDER if seed else DEDUPED_PILE if deduped else PILE,
        memorised=f"{'deduped' if deduped else 'duped'}.{size}" if listed else None,
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
        *(_organism(name) for name in ORGANISMS),
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
            last_revision="main",
            order=Order(
                layout="chunks",
                rows_per_step=AMBER_STRIDE,
                steps=len(AMBER_STEPS),
                row_tokens=ROW_TOKENS,
                vocabulary=32_000,
                exposure_lag=0,
                repo="LLM360/AmberDatasets",
            ),
            epochs=1.0,
            licence="Apache-2.0",
            # LLM360/amber-train, main.py: PRECISION = "32-true". Weights on the Hub: float32, of main bfloat16.
            caveats="steps number checkpoints, one a chunk; trained in float32, of which step 359 is published in "
            "bfloat16; measured in float16 as by the paper",
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
