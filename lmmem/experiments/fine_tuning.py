"""What a model of your own remembers of texts while you train it: which are presented how often, and a watch on them.

For a training loop that is not lmmem's, a ``transformers.Trainer`` for instance. Trains nothing, keeps nothing on
disk, and knows neither corpora nor steps of the registry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from accelerate.data_loader import get_sampler
from torch.utils.data import DataLoader, SequentialSampler
from transformers import TrainerCallback

from lmmem.experiments.measurements import kl_ld
from lmmem.experiments.measuring import check_whole, prefixed
from lmmem.experiments.sequences import prefix_of
from lmmem.inference.scoring import cross_entropy
from lmmem.protocol import split

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

__all__ = ["Watch", "assign"]

PRESENTATIONS = (0, 0, 1, 4, 16)  # two of a block held out, so that twins can be compared with twins
GROUP = "spread"  # over all of training, as in the organisms


def assign(
    model: PreTrainedModel, sequences: pd.DataFrame, presentations: Sequence[int] = PRESENTATIONS, seed: int = 0
) -> pd.DataFrame:
    """Decide by chance how often each text is to be presented, among texts that the model finds alike beforehand.

    Texts are sorted by their loss under the model and cut into blocks of neighbours, of as many as there are
    presentations; within a block chance alone decides. Those presented 0 times are to be held out: they are the twins
    of all others of their block.

    Parameters
    ----------
    model : a causal language model of transformers, before it is trained.
    sequences : a line a text: text (its number) and tokens (96 ids), and prefix if there is one, as
        :func:`lmmem.experiments.sequences.of_text` gives them.
    presentations : of the texts of a block; 0 somewhere, and a number above it. With two of 0 or more, twins can be
        compared with twins (:func:`lmmem.analysis.randomisation.compare_arms`).
    seed : decides.

    Returns
    -------
    The lines of `sequences`, in their order, and block, group ("spread"), presentations, arm ("spread 16" ..), file
    (the text: each is a unit of its own), loss (of the 64 tokens, nats per token, before training).

    Raises
    ------
    ValueError : presentations that are no whole numbers, or cannot be compared; a text twice; texts that do not fill
        blocks.

    >>> from lmmem import load_model, training_data
    >>> texts = pd.DataFrame({"text": range(10), "tokens": [*training_data("pocket-mini")[:10]]})
    >>> assign(load_model("pocket-mini"), texts).groupby("arm").size().to_dict()
    {'spread 0': 4, 'spread 1': 2, 'spread 16': 2, 'spread 4': 2}
    """
    for m in presentations:
        check_whole("presentations", m, 0)
    if 0 not in presentations or max(presentations) == 0:
        raise ValueError(f"presentations={presentations}: give 0, the texts held out, and a number above it")
    check_whole("seed", seed, 0)
    _check_texts(sequences)
    n, each = len(sequences), len(presentations)
    if n < each or n % each:
        raise ValueError(f"{n} texts do not fill blocks of {each}, one for each of presentations={presentations}")
    loss = cross_entropy(model, *_asked(sequences))
    rng = np.random.default_rng(seed)
    block, given = np.empty(n, dtype=int), np.empty(n, dtype=int)
    for number, members in enumerate(np.argsort(loss, kind="stable").reshape(-1, each)):
        block[members], given[members] = number, rng.permutation(presentations)
    found = sequences.assign(block=block, group=GROUP, presentations=given)
    return found.assign(arm=[f"{GROUP} {m}" for m in given], file=found.text, loss=loss)


class Watch(TrainerCallback):
    """Measures, while a model is trained, what it remembers of texts whose presentations are known.

    As a callback of ``transformers.Trainer`` it measures before the first step, every so many steps and after the
    last; in a loop of your own, call :meth:`measure`. The training is the same as without it, bit for bit: the model
    is measured in evaluation mode and given back in its own, and nothing is drawn by chance.

    Parameters
    ----------
    sequences : as :func:`assign` gives them, or any with text, tokens and, if there is one, prefix.
    order : (m,) whole numbers, which text each row of the training data is, from the first step to the last.
    rows_per_step : rows that an optimizer step trains on: of a device, times devices, times accumulated batches.
    every : steps between two measurements.

    Attributes
    ----------
    sequences : as given, and exposure_step and last_step, the first step whose weights have been trained on the text,
        and that of its last presentation; missing if there is none.

    Raises
    ------
    ValueError : a text twice; an order that is none, or in which a text has not its `presentations`; rows_per_step or
        every below 1. When training begins: a Trainer that would not train on these rows in this order.

    >>> from lmmem import load_model, training_data
    >>> texts = pd.DataFrame({"text": range(2), "tokens": [*training_data("pocket-mini")[:2]]})
    >>> watch = Watch(texts, order=[1, 5, 1, 5], rows_per_step=2)
    >>> watch.measure(load_model("pocket-mini"), step=1)
    >>> watch.table[["text", "exposure_step", "last_step", "step", "presented"]].to_dict("list")
    {'text': [0, 1], 'exposure_step': [None, 1], 'last_step': [None, 2], 'step': [1, 1], 'presented': [0, 1]}
    """

    def __init__(self, sequences: pd.DataFrame, order: ArrayLike, rows_per_step: int, every: int = 20) -> None:
        check_whole("rows_per_step", rows_per_step, 1)
        check_whole("every", every, 1)
        _check_texts(sequences)
        self._order, self._rows_per_step, self._every = np.asarray(order), rows_per_step, every
        if self._order.ndim != 1 or self._order.dtype.kind not in "iu":
            shape = f"{self._order.dtype} of shape {self._order.shape}"
            raise ValueError(f"order: give the number of the text of each row, a whole number; got {shape}")
        self._asked = _asked(sequences)
        steps = pd.Series(np.arange(len(self._order)) // rows_per_step + 1, dtype="Int64").groupby(self._order)
        met = {"exposure_step": steps.min(), "last_step": steps.max()}
        self.sequences = sequences.assign(**{name: sequences.text.map(of).astype("Int64") for name, of in met.items()})
        self._measured: dict[int, pd.DataFrame] = {}
        if "presentations" in sequences:
            there = self._presented(len(self._order))
            for text, wanted, found in zip(sequences.text, sequences.presentations, there, strict=True):
                if wanted != found:
                    raise ValueError(
                        f"text {text} is to be presented {wanted} times, and is {found} times in the order"
                    )

    @property
    def table(self) -> pd.DataFrame:
        """What was measured: a line a (text, step).

        The columns of `sequences` but tokens and prefix, then step, presented (times until then), kl_ld (tokens) and
        cross_entropy (nats per token).
        """
        return pd.concat([self._measured[step] for step in sorted(self._measured)], ignore_index=True)

    def measure(self, model: PreTrainedModel, step: int) -> None:
        """Ask the model, which has taken so many optimizer steps, for all texts; a step asked again takes its place."""
        kept = self.sequences.drop(columns=["tokens", "prefix"], errors="ignore")
        self._measured[step] = kept.assign(
            step=step,
            presented=self._presented(step),
            kl_ld=kl_ld(model, *self._asked),
            cross_entropy=cross_entropy(model, *self._asked),
        )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse another training than the one in `order`, and measure before it."""
        self._check_rows(args, state, kwargs["train_dataloader"])
        self._measured = {step: found for step, found in self._measured.items() if step < state.global_step}
        self._measure_in_one_process(state, kwargs["model"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure every so many steps."""
        if state.global_step % self._every == 0:
            self._measure_in_one_process(state, kwargs["model"])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure after the last step."""
        if state.global_step not in self._measured:
            self._measure_in_one_process(state, kwargs["model"])

    def _measure_in_one_process(self, state: TrainerState, model: PreTrainedModel) -> None:
        if state.is_world_process_zero:
            self.measure(model, state.global_step)

    def _presented(self, step: int) -> np.ndarray:
        """How often each text has been presented until a step."""
        met = self._order[: step * self._rows_per_step]
        return (met == self.sequences.text.to_numpy()[:, None]).sum(axis=1)

    def _check_rows(self, args: TrainingArguments, state: TrainerState, loader: DataLoader) -> None:
        if state.global_step and args.ignore_data_skip:
            raise ValueError(
                f"this training goes on at step {state.global_step} with ignore_data_skip=True, so with the first row "
                "again: leave that out"
            )
        if args.auto_find_batch_size:
            raise ValueError("auto_find_batch_size changes how many rows a step takes: leave it out")
        devices, batches = args.train_batch_size * args.world_size, args.gradient_accumulation_steps
        if devices * batches != self._rows_per_step:
            raise ValueError(
                f"rows_per_step={self._rows_per_step}, and this training takes {devices * batches}: "
                f"{devices} on all devices, {batches} times before a step"
            )
        if hasattr(loader.dataset, "__len__") and len(loader.dataset) != len(self._order):
            raise ValueError(f"order has {len(self._order)} rows, and train_dataset {len(loader.dataset)}")
        if not isinstance(get_sampler(loader), SequentialSampler):
            raise ValueError(
                'the rows are shuffled, so when each is met is not known: give train_sampling_strategy="sequential"'
            )
        if state.max_steps > (steps := -(-len(self._order) // self._rows_per_step)):
            raise ValueError(
                f"order is of {steps} steps, and this training takes {state.max_steps}: give num_train_epochs=1, "
                "and an order that holds all epochs"
            )


def _check_texts(sequences: pd.DataFrame) -> None:
    if missing := [column for column in ("text", "tokens") if column not in sequences]:
        raise ValueError(f"sequences: no column {', '.join(missing)}; give what of_text of experiments.sequences gives")
    if (again := sequences.text[sequences.text.duplicated()]).size:
        raise ValueError(
            f"text {again.iloc[0]} is there twice: give one window of each, sequences[sequences.token == 0]"
        )


def _asked(sequences: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Prompts (n, p + 32), each behind its prefix, and truth (n, 64)."""
    prompts, truth = split(np.stack([*sequences.tokens]))
    return prefixed({"prefix": prefix_of(sequences)}, prompts), truth
