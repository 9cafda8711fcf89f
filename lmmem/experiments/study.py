"""An experiment in five lines: :class:`Study` carries what its measurements share, and gives tidy tables.

Every page begins with one. The functions it calls, of sequences.py and measurements.py, are there for
whoever wants them apart. Knows nothing of figures.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from lmmem.corpora.corpus import Corpus, training_data
from lmmem.experiments import alternatives, disturbed, extraction, measurements, measuring, scores, teaching, tracing
from lmmem.experiments import scan as scanning
from lmmem.experiments.sequences import (
    DEFAULT_PAIRS,
    WINDOW,
    choose_canaries,
    choose_sequences,
    dose_sequences,
    just_met,
    met_by,
    natural_passages,
    of_text,
    own_prefix,
    prefix_of,
    presented_by,
    tokens_of,
    unmet_rows,
    with_prefix,
)
from lmmem.experiments.texts import own_prose
from lmmem.inference import decoding
from lmmem.inference.extraction import BEAMS
from lmmem.inference.perturbation import UNITS
from lmmem.measures.repeats import count_repeats
from lmmem.measures.runs import LEAST
from lmmem.models.loading import download_size, load_model, load_tokenizer
from lmmem.models.registry import DTYPES, MODELS, resolve_step
from lmmem.pocket.recipe import DERIVED
from lmmem.protocol import CONTINUATION, DRAWS, PROMPT, SIGMA, split
from lmmem.storage.hub import free_space
from lmmem.storage.results import provenance_line
from lmmem.sweep.cluster import LOCAL, checked, on_worker

if TYPE_CHECKING:
    from distributed import Client
    from transformers import PreTrainedTokenizerBase

__all__ = ["Study"]

Steps = int | Sequence[int] | None
SPREAD = "spread"  # the group that is presented over all of training
NATURAL_ROWS = 1_024  # taught beside sequences, some in each step
HINTS = (1, 2, 4, 8)  # tokens of the continuation given
# Of a passage of 96 tokens: the last half and quarter of the prompt, and as many tokens as a prompt has, further on.
OTHER_PROMPTS = ((16, 32), (24, 32), (16, 48), (32, 64))
SAMPLES_TIMED = 40  # of a sequence, to say how long all take
COST_ROWS, COST_DRAWS = 64, 4  # of which what noise costs is told
# What an organism's own sigma costs it (pocket 0.032, pocket-mini 0.030), 1 % of its loss: half-learnt passages are
# ahead of their twins by the best draw up to about this cost, and behind at four times as much (page 03b).
NOISE_COST = 0.03  # nats per token
NEAR, FAR = 0.05, 0.5  # of the cost that is wanted; the second where it rises in steps
MOST_SIGMA, MOST_AT_ONCE = 100.0, 4.0  # in the search for it, and by how much a guess is multiplied at most
FIRST_SHARE = {"bfloat16": 0.02}  # of a tensor's rms, the first guess, where SIGMA of it would be lost in rounding
# Columns of what is measured: a table that bears one is no choice of sequences any more.
MEASURED = {"model", "step", "kl_ld", "matched_prefix", "cross_entropy", "rms", "memorised", "said", "entropy", "rank"}
MEASURED |= {"sigma", "draw", "temperature", "sample", "kl_first", "kl_second", "unit", "only", "rounding"}
MEASURED |= {"log_prob", "distance", "start", "stop", "given", "asked", "recited", "matches"}


class Study:
    """A model at a training step, its training data, a seed, and where to measure.

    Parameters
    ----------
    model : a name in ``lmmem.MODELS``, an id on the Hub, a folder, or a GGUF file, as for :func:`lmmem.load_model`.
    step : training step of the weights; None is the step that the paper measures, else the last.
    seed : chooses sequences, noise and samples.
    dtype, device : as for :func:`lmmem.load_model`, of all its measurements.
    scheduler : where to measure, as for :func:`lmmem.sweep.tasks.run`.
    data : training data on this machine, as for :func:`lmmem.training_data`; or a Corpus.
    rows_per_step : of training data that the registry does not know.

    Attributes
    ----------
    model, step, seed, dtype, scheduler : as resolved.
    device : where the model computes, "cpu" or "cuda" if nothing else was asked for.
    steps : every step with a checkpoint, ascending.
    sigma : of noise if nobody says, in absolute weight units: the registry's; of a model that has none there, the one
        that costs 0.03 nats per token, searched for when it is first asked for.
    corpus : the training data; a ValueError says what to give if they are not known.
    tokenizer : of the model.
    randomised : whether chance decided what the model met how often, so that differences are caused by it.

    Raises
    ------
    ValueError : unknown model, step, dtype or scheduler, or a seed that is none; the message names what is valid.

    >>> study = Study("pocket-mini")
    >>> chosen = study.sequences(n=4, arms={"spread": [0, 16]})
    >>> before, noisy = study.greedy(chosen), study.perturbed(chosen, sigma=1e-2, draws=4)
    >>> noisy.groupby("arm").kl_ld.count().to_dict()
    {'spread 0': 16, 'spread 16': 16}
    """

    def __init__(
        self,
        model: str,
        step: int | None = None,
        *,
        seed: int = 0,
        dtype: str | None = None,
        device: str | None = None,
        scheduler: str | Client | None = None,
        data: str | Path | Corpus | None = None,
        rows_per_step: int | None = None,
    ) -> None:
        info = MODELS[model]
        measuring.check_whole("seed", seed, 0)
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
        self.model, self.seed, self.scheduler = model, seed, scheduler
        self.place = checked(scheduler)
        self.step = resolve_step(model, info.paper_step if step is None else step)
        self.steps = info.steps or (self.step,)
        self.dtype = dtype or info.dtype
        self._device, self._records = device, list[dict[str, Any]]()
        self._data, self._rows_per_step = data, rows_per_step

    @functools.cached_property
    def corpus(self) -> Corpus:
        """The training data."""
        if isinstance(self._data, Corpus):
            return self._data
        return training_data(self.model, self._data, self._rows_per_step)

    @functools.cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return load_tokenizer(self.model)

    @functools.cached_property
    def sigma(self) -> float:
        """The default perturbation, in absolute weight units: the registry's, else the one that costs NOISE_COST."""
        known = MODELS[self.model].sigma
        return self.sigma_that_costs(NOISE_COST) if known is None else known

    @property
    def randomised(self) -> bool:
        """Whether chance decided what the model met how often."""
        return self.corpus.canaries is not None

    @functools.cached_property
    def device(self) -> str:
        """Where the model computes, asked once where it is measured."""
        return self._device or on_worker(self.scheduler, measuring.device_here)

    def __repr__(self) -> str:
        where = f" on {self.place}" if self.place else ""
        return f"Study of {self.model} at step {self.step}, seed {self.seed}, {self.dtype} on {self.device}{where}"

    def sequences(
        self,
        n: int | None = None,
        *,
        arms: Mapping[str, Sequence[int]] | None = None,
        at_most: int | None = None,
        n_twins: int | None = None,
        rows: ArrayLike | None = None,
        tokens: ArrayLike | None = None,
        first_row: int | None = None,
        min_complexity: float = 0.0,
        prefix: Sequence[int] = (),
    ) -> pd.DataFrame:
        """Sequences to ask about: those met and their unexposed twins, or rows or tokens of your own.

        Parameters
        ----------
        n : how many in each arm; None is all there are, or `at_most`. Arms of an organism are of different sizes:
            a small one gives all it has.
        arms : of an organism, groups and their presentations, ``{"spread": [0, 1, 16]}``; 0 are the twins,
            without which nothing can be compared. None is all. Of other models arms are met and not met.
        at_most : how many in each arm if `n` is None.
        n_twins : of an organism, unexposed ones in each block with an exposed one; None is as many as in other arms.
        rows : row numbers of the corpus, in the place of arms.
        tokens : (m, w) token ids of your own, w at least 96, in the place of arms.
        first_row, min_complexity : of models whose data nobody has randomised, as for
            :func:`lmmem.experiments.sequences.choose_sequences`.
        prefix : token ids that the model is given before each; none, as training rows hold all that it was given.

        Returns
        -------
        One line a sequence: index, and with arms: arm, group, presentations, block, z_complexity, exposure_step,
        last_step, file; of an organism also canary and reference_loss, as :class:`lmmem.Corpus` says, of other models
        as :func:`lmmem.experiments.sequences.choose_sequences`.
        Of rows: index and exposure_step. Of your own tokens: index (0, 1, ..) and tokens. With a prefix also that.

        Raises
        ------
        ValueError : there are no such arms, or none has n sequences; the message names those there are. Or one of them
            is presented until after the study's step.

        >>> study = Study("pocket-mini")
        >>> study.sequences(n=3, arms={"spread": [0, 16]}).groupby("arm").presentations.mean().to_dict()
        {'spread 0': 0.0, 'spread 16': 16.0}
        >>> study.sequences(rows=[3, 40]).to_dict("list")
        {'index': [3, 40], 'exposure_step': [1, 6]}
        """
        found = self._chosen(n, arms, at_most, n_twins, rows, tokens, first_row, min_complexity)
        return with_prefix(found, prefix) if np.size(prefix) else found

    def _chosen(
        self,
        n: int | None,
        arms: Mapping[str, Sequence[int]] | None,
        at_most: int | None,
        n_twins: int | None,
        rows: ArrayLike | None,
        tokens: ArrayLike | None,
        first_row: int | None,
        min_complexity: float,
    ) -> pd.DataFrame:
        """As :meth:`sequences`, without a prefix."""
        if tokens is not None:
            own = np.asarray(tokens)
            if own.ndim != 2 or own.dtype.kind not in "iu" or own.shape[1] < PROMPT + CONTINUATION:
                raise ValueError(
                    f"tokens: give rows of at least {PROMPT + CONTINUATION} token ids, got {own.dtype} of {own.shape}"
                )
            return pd.DataFrame({"index": range(len(own)), "tokens": list(own[:, : PROMPT + CONTINUATION])})
        if rows is not None:
            index = np.asarray(rows)
            exposure = self.corpus.exposure_step(index)
            return pd.DataFrame({"index": index, "exposure_step": exposure})
        canaries = self.corpus.canaries
        if canaries is None:
            return choose_sequences(
                self.model,
                self.corpus,
                at_most or DEFAULT_PAIRS if n is None else n,
                self.step,
                self.seed,
                first_row=first_row,
                min_complexity=min_complexity,
                at_least=2 if n is None else None,
            )
        choose_canaries(self.corpus, None, self.seed, arms)  # which are there at all
        met = met_by(self.corpus, self.step, arms)
        found = choose_canaries(met, None, self.seed, arms)
        most = int(found.groupby("arm").size().max())
        n = min(most, at_most or most) if n is None else n
        return choose_canaries(met, n, self.seed, arms, n_twins)

    def tokens(self, sequences: pd.DataFrame) -> np.ndarray:
        """The token ids of sequences: (n, 96), prompts and true continuations, without what stands before a prompt.

        >>> study = Study("pocket-mini")
        >>> bool((study.tokens(study.sequences(rows=[3, 40])) == study.corpus[[3, 40]]).all())
        True
        """
        corpus, index = self._asked(sequences)
        return corpus[index][:, : PROMPT + CONTINUATION]

    def text_sequences(
        self, texts: str | Sequence[str], *, stride: int = CONTINUATION, prefix: Sequence[int] | None = None
    ) -> pd.DataFrame:
        """Windows of text to ask about, each behind what the model's tokenizer puts before a text.

        Parameters
        ----------
        As for :func:`lmmem.experiments.sequences.of_text`, which says what is returned.

        >>> study = Study("pocket-mini")
        >>> windows = study.text_sequences("import numpy as np; " * 40, stride=32)
        >>> study.greedy(windows).kl_ld.between(0, 64).all()
        np.True_
        """
        return of_text(self.tokenizer, texts, stride, prefix)

    def known_and_never(self, known: Sequence[str], never: Sequence[str]) -> pd.DataFrame:
        """Windows of texts that the model has met, as far as anyone knows, and of texts that it has not, to tell apart.

        Which is which is what you say. Where chance did not decide it, a difference may be of the kind of text.

        Parameters
        ----------
        known, never : texts, two or more of each: intervals are clustered by them.

        Returns
        -------
        As :meth:`text_sequences`, and arm ("known 1", "never seen 0"), group, presentations (1 or 0), block (one for
        all), file (of which text): what :mod:`lmmem.analysis.detection` and :mod:`lmmem.analysis.hidden` compare.

        Raises
        ------
        ValueError : a text is there twice or on both sides, fewer than two on one, or as :meth:`text_sequences`.

        >>> study = Study("pocket-mini")
        >>> texts = [f"import module_{number} as m; " * 40 for number in range(4)]
        >>> study.known_and_never(texts[:2], texts[2:]).arm.unique().tolist()
        ['known 1', 'never seen 0']
        """
        for name, texts in {"known": known, "never": never}.items():
            if isinstance(texts, str) or len(texts) < 2:
                raise ValueError(f"{name}: give a list of two texts or more")
            if len(set(texts)) < len(texts):
                raise ValueError(f"{name}: a text is there twice, which would count as two: give each once")
        if both := set(known) & set(never):
            raise ValueError(f"a text is among the known and the never seen: {min(both)[:40]!r} ..")
        windows = self.text_sequences([*known, *never])
        there = windows.text < len(known)
        group = np.where(there, "known", "never seen")
        arm = np.where(there, "known 1", "never seen 0")
        return windows.assign(arm=arm, group=group, presentations=there.astype(int), block=0, file=windows.text)

    def scan(
        self,
        texts: scanning.Texts,
        control: scanning.Texts | None = None,
        *,
        stride: int = scanning.STRIDE,
        prefix: Sequence[int] | None = None,
        longest: float = np.inf,
    ) -> scanning.Scan:
        """Has the model memorised a text? Its windows in one pass each, beside text that it has never seen.

        Parameters
        ----------
        texts : a text, or several, or a mapping to them from what messages call them. One that is given twice counts
            once.
        control : text of the same kind that the model cannot have met; each is a text of its own, and a verdict on one
            text needs 39 (:func:`lmmem.analysis.scan.control_texts_needed`). None: rows of its training data's kind
            that it has not met, if those are known, else the prose of lmmem; then nothing is concluded from the loss
            where the text as a whole is likelier than that, as it may be of another kind.
        stride : tokens from one window to the next.
        prefix : token ids before each window, as for :func:`lmmem.experiments.sequences.of_text`.
        longest : minutes that it may take. How long it will is timed on a few windows, and said before anything is
            measured if it is more than a minute; what is on disk takes none.

        Returns
        -------
        A :class:`lmmem.experiments.scan.Scan`: ``windows`` and ``control``, a line a window, columns index, text,
        token, prompt_begin, begin, end and ends (characters), z_complexity, recited and matches (tokens of 64),
        copied and recited_copied (of these 64, and of those recited, tokens that end a run of 8 which stands before in
        the window), cross_entropy (nats per token), log_prob (nats: that sampling gives all 64), kl_ld and said (of
        windows that may come near; in half precision always by decoding, as a pass rounds otherwise); ``changed``, what
        other prompts and other words do to the loss.
        :func:`lmmem.analysis.scan.summary` says what that shows.

        Raises
        ------
        ValueError : as :func:`lmmem.experiments.sequences.of_text`, or the control shares all of its text with this.
        TooLongError : it would take longer than `longest`; nothing is measured, and the message says which stride
            would not.

        >>> found = Study("pocket-mini").scan("import numpy as np; " * 40, stride=32)
        >>> found.windows.recited.between(0, 64).all()
        np.True_
        """
        return scanning.scan(self, texts, control, stride=stride, prefix=prefix, longest=longest)

    def arms_among(self, wanted: Mapping[str, Sequence[int]]) -> dict[str, list[int]] | None:
        """Those of the arms wanted that this model has met by the study's step, groups of twins alone left out.

        Parameters
        ----------
        wanted : as `arms` of :meth:`sequences`.

        Returns
        -------
        None for a model whose data nobody has randomised.

        >>> Study("pocket-mini").arms_among({"spread": [0, 2, 16], "q2": [64]})
        {'spread': [0, 16]}
        """
        canaries = self.corpus.canaries
        if canaries is None:
            return None
        there = canaries[presented_by(canaries, self.step)].groupby("group").presentations.unique()
        found = {group: [m for m in ms if m in there.get(group, [])] for group, ms in wanted.items()}
        return {group: ms for group, ms in found.items() if any(ms)}

    def natural(self, n: int | None = None, *, first_row: int | None = None, n_rows: int = WINDOW) -> pd.DataFrame:
        """Passages of natural text that the model has seen, drawn evenly over how often they repeat.

        Parameters
        ----------
        n : how many of each bin of repeats at most; None is 32.
        first_row, n_rows : as for :func:`lmmem.experiments.sequences.natural_passages`, which says what is
            returned; beside that, group ("natural") and presentations (the lower end of the bin).
        """
        n = DEFAULT_PAIRS if n is None else n
        found = natural_passages(self.model, self.corpus, n, self.step, self.seed, first_row=first_row, n_rows=n_rows)
        self._record(found)
        return found.assign(group="natural", presentations=found.bin)

    def dose(self, natural: pd.DataFrame, n: int | None = None, *, first_row: int | None = None) -> pd.DataFrame:
        """Sequences by how often they were met: canaries, or natural passages in their place.

        Parameters
        ----------
        natural : as :meth:`natural` gives it.
        n : how many of each number of presentations; None is 32, or as many as there are.
        first_row : as for :meth:`sequences`.

        Returns
        -------
        One line a sequence: index, presentations, z_complexity, group, block. Of an organism, the canaries that are
        presented over the whole of training. Else what :func:`lmmem.experiments.sequences.dose_sequences` says.
        """
        found = self.sequences(n, at_most=DEFAULT_PAIRS, first_row=first_row)
        return (
            found[found.group == SPREAD].reset_index(drop=True)
            if self.randomised
            else dose_sequences(natural, found, self.seed)
        )

    def just_met(self, n_checkpoints: int = 4, n_twins: int = 2) -> pd.DataFrame:
        """Sequences presented once, each to be asked for at the first checkpoint after it: the paper's own case.

        Parameters
        ----------
        As for :func:`lmmem.experiments.sequences.just_met`.

        Returns
        -------
        As :meth:`sequences`, with a column at: measurements take each sequence at that step.
        """
        return just_met(self.model, self.corpus, self.steps, self.step, n_checkpoints, n_twins, self.seed)

    def design(self, block: int = 0) -> pd.DataFrame:
        """When one sequence of each arm of a block is presented: arm and step, one line a presentation.

        The unexposed have one line without a step. Of a model whose data nobody has randomised: no lines.
        """
        canaries, presented = self.corpus.canaries, self.corpus.presented
        if canaries is None or presented is None:
            return pd.DataFrame({"arm": [], "step": []})
        chosen = canaries[canaries.block == block].assign(arm=lambda c: c.group + " " + c.presentations.astype(str))
        one = chosen.drop_duplicates("arm").sort_values(["group", "presentations"])[["canary", "arm"]]
        return one.merge(presented[["canary", "step"]], on="canary", how="left")[["arm", "step"]]

    def met(self, sequences: pd.DataFrame) -> tuple[int, int]:
        """The first and the last step whose weights were the first to know a presentation of these sequences.

        Raises
        ------
        ValueError : they are tokens of your own, or none of them is exposed.
        """
        if "tokens" in sequences:
            raise ValueError("when tokens of your own were met is not known: give sequences of the training data")
        exposed = sequences[sequences.presentations > 0] if "presentations" in sequences else sequences
        if exposed.empty:
            raise ValueError("none of these sequences was met: give some that are exposed")
        if self.corpus.presented is not None and "canary" in sequences:
            presented = self.corpus.presented
            steps = presented.step[presented.canary.isin(exposed.canary)].to_numpy()
        else:
            steps = np.asarray(self.corpus.exposure_step(exposed["index"].to_numpy()))
        return int(steps.min()), int(steps.max())

    def followed(self, sequences: pd.DataFrame) -> pd.DataFrame:
        """Those that are worth following over training: met once or never, or within a part of it that ends."""
        partly = sequences.group.isin(["q1", "q2", "q3", "q4"])
        return sequences[(sequences.presentations <= 1) | partly].reset_index(drop=True)

    def steps_around(self, sequences: pd.DataFrame, every: int = 2) -> list[int]:
        """Steps at which to follow sequences, the study's among them.

        Of an organism all that have a checkpoint; else from the last before they are met to the study's.

        Parameters
        ----------
        sequences : as :meth:`sequences` gives them.
        every : take every how many-th of these.
        """
        first, _ = self.met(sequences)
        if self.randomised:
            return sorted({*self.steps[::every], self.step})
        before = [step for step in self.steps if step < first][-1:]
        return sorted({*before, *[step for step in self.steps if first <= step <= self.step][::every], self.step})

    def greedy(
        self,
        sequences: pd.DataFrame,
        *,
        steps: Steps = None,
        mean_of: Sequence[int] | None = None,
        rounding: str | None = None,
        keep_tokens: bool = False,
    ) -> pd.DataFrame:
        """What the model says without any noise.

        Parameters
        ----------
        sequences : as :meth:`sequences` or :meth:`natural` gives them.
        steps : training steps to measure in the place of the study's; several are one sweep.
        mean_of : measure the mean of the weights of these steps, in the place of one step's.
        rounding : round the weights to "float16", "int8" or "int4".
        keep_tokens : also keep what it says: a column said, a list of token ids in each line.

        Returns
        -------
        The lines of `sequences`, for each step, with the columns of
        :func:`lmmem.experiments.measurements.greedy_table`, and memorised: whether kl_ld is 0.

        Raises
        ------
        ValueError : steps and mean_of are both given; or as the function.

        >>> study = Study("pocket-mini")
        >>> found = study.greedy(study.sequences(rows=[3, 40]), steps=[6, 120])
        >>> found[["index", "step"]].values.tolist()
        [[3, 6], [3, 120], [40, 6], [40, 120]]
        >>> found.kl_ld.between(0, 64).all()
        np.True_
        """
        if steps is not None and mean_of is not None:
            raise ValueError(f"steps={steps!r} and mean_of={mean_of!r}: give one of the two")
        found = self._measured(
            measurements.greedy_table, sequences, steps, keep_tokens=keep_tokens, mean_of=mean_of, rounding=rounding
        )
        return found.assign(memorised=found.kl_ld == 0)

    def likelihood(self, sequences: pd.DataFrame, *, steps: Steps = None, keep_tokens: bool = False) -> pd.DataFrame:
        """How likely the model finds the true continuations, by one forward pass: no decoding.

        Parameters
        ----------
        sequences, steps : as for :meth:`greedy`.
        keep_tokens : also keep the figures of each token, lists in each line.

        Returns
        -------
        The lines of `sequences`, for each step, with the columns of
        :func:`lmmem.experiments.measurements.likelihood_table`.

        >>> study = Study("pocket-mini")
        >>> found = study.likelihood(study.sequences(rows=[3, 40]), keep_tokens=True)
        >>> [len(one) for one in found.log_probs], bool((found.matches >= found.recited).all())
        ([64, 64], True)
        """
        return self._measured(measurements.likelihood_table, sequences, steps, keep_tokens=keep_tokens)

    def likelihood_is_kept(self, sequences: pd.DataFrame) -> bool:
        """Whether :meth:`likelihood` of these sequences would read what is on disk, and measure nothing."""
        corpus, index = self._asked(sequences)
        return measurements.likelihood_is_kept(self.model, corpus, index, self.step, **self._where())

    def seconds_a_pass(self, sequences: pd.DataFrame) -> float:
        """Seconds that :meth:`likelihood` takes for one of these sequences, timed now on some of them."""
        corpus, index = self._asked(sequences)
        return measurements.seconds_a_pass(self.model, corpus, index, self.step, **self._where())

    def scores(
        self, sequences: pd.DataFrame, earlier: int | None = None, *, only: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Who is remembered, by likelihood alone: one number a sequence and score, larger where there is more memory.

        Parameters
        ----------
        sequences : as for :meth:`greedy`.
        earlier : step that the model is compared with; None is the last checkpoint in the first fifth of the way, of an
            organism; of other models, whose weights would have to be fetched, none.
        only : scores by name, some of :data:`lmmem.experiments.scores.COST`, which says what each costs; None is all
            that can be asked.

        Returns
        -------
        The lines of `sequences`, with model, step and a column for each score, which has its function of the same
        name in :mod:`lmmem.experiments.scores`. In ``attrs["left_out"]`` stand the scores that could not be asked
        and had not been named, each with its reason.

        Raises
        ------
        ValueError : a score that was named cannot be asked, `earlier` has no checkpoint, or these are sequences of
            several steps, as :meth:`just_met` gives them.

        >>> study = Study("pocket-mini")
        >>> sequences = study.sequences(n=4, arms={"spread": [0, 16]})
        >>> study.scores(sequences, only=["loss", "min_k"])[["loss", "min_k"]].shape
        (8, 2)
        """
        asked, left_out = scores.check_scores(only), dict[str, str]()
        if "at" in sequences:
            raise ValueError(
                "scores are of one step, and these sequences say at which step each is asked for: give those of one, "
                "without at, to the study of that step"
            )
        comparable = self.steps if earlier is not None or (len(self.steps) > 1 and self.randomised) else ()
        needs: dict[str, Any] = {
            "over_earlier": lambda: scores.earlier_step(comparable, self.step, earlier),
            "over_mismatched": lambda: scores.other_prompts(len(sequences), seed=self.seed),
            "over_twins": lambda: scores.twins_of(sequences),
        }
        has: dict[str, Any] = {}
        for name in [name for name in asked if name in needs]:
            try:
                has[name] = needs[name]()
            except ValueError as error:
                if only is not None or (name == "over_earlier" and earlier is not None):
                    raise ValueError(f"{name} cannot be asked: {error}") from error
                left_out[name] = str(error)
        corpus, index = self._asked(sequences)
        rows = corpus[index][:, : PROMPT + CONTINUATION]
        measured = self.likelihood(sequences, keep_tokens=True)
        found = scores.of_one_pass(measured, self.tokenizer.batch_decode(split(rows)[1]))
        own = measured.cross_entropy.to_numpy()
        if "over_earlier" in has:
            before = self.likelihood(sequences, steps=has["over_earlier"])
            found["over_earlier"] = scores.over_earlier(own, before.cross_entropy)
        if "over_mismatched" in has:
            prompts, truth = split(rows)
            others = has["over_mismatched"]
            strange = np.concatenate([prompts[others.ravel()], np.tile(truth, (len(others), 1))], axis=1)
            after = self.likelihood(self.sequences(tokens=strange, prefix=corpus.prefix)).cross_entropy.to_numpy()
            found["over_mismatched"] = scores.over_mismatched(own, after.reshape(others.shape))
        if "over_twins" in has:
            found["over_twins"] = scores.over_twins(found["loss"], has["over_twins"], sequences.block)
        table = measured[[*sequences.columns.drop("tokens", errors="ignore"), "model", "step"]]
        table = table.assign(**{name: found[name] for name in asked if name in found})
        table.attrs["left_out"] = left_out
        return table

    def perturbed(
        self,
        sequences: pd.DataFrame,
        *,
        sigma: float | Sequence[float] | None = None,
        draws: int = DRAWS,
        unit: str = UNITS[0],
        only: str | None = None,
        steps: Steps = None,
        keep_tokens: bool = False,
    ) -> pd.DataFrame:
        """What the model says after each of many random perturbations of its weights.

        Parameters
        ----------
        sequences, steps, keep_tokens : as for :meth:`greedy`.
        sigma : standard deviation of the noise, in absolute weight units, or several; None is the model's default.
        draws : number of perturbations.
        unit : "weight", or "tensor": sigma is a share of the root mean square of each tensor.
        only : disturb one layer or one kind of matrix, as for :func:`lmmem.perturbed`.

        Returns
        -------
        The lines of `sequences`, for each draw, with the columns of
        :func:`lmmem.experiments.disturbed.perturbation_table`.

        Raises
        ------
        ValueError : as that function.

        >>> study = Study("pocket-mini")
        >>> noisy = study.perturbed(study.sequences(rows=[3, 40]), sigma=0.01, draws=2)
        >>> noisy[["index", "draw"]].values.tolist()
        [[3, 0], [3, 1], [40, 0], [40, 1]]
        """
        options = {"draws": draws, "seed": self.seed, "unit": unit, "only": only, "keep_tokens": keep_tokens}
        found = [
            self._measured(disturbed.perturbation_table, sequences, steps, sigma=one, **options)
            for one in _several(self.sigma if sigma is None else sigma)
        ]
        return pd.concat(found, ignore_index=True)

    def cost_of_noise(
        self,
        sigma: float | Sequence[float],
        *,
        unit: str = UNITS[0],
        only: str | None = None,
        draws: int = COST_DRAWS,
        on: pd.DataFrame | None = None,
    ) -> pd.DataFrame:
        """What noise costs the model on text that it has not met: the scale of sigma that carries between models.

        Parameters
        ----------
        sigma, unit, only : as for :meth:`perturbed`; the draws are the same.
        draws : how many of them.
        on : sequences that it has not met; None is 64 of :meth:`unmet`.

        Returns
        -------
        One line a (sigma, draw): sigma, draw, cost (nats per token of the continuations, mean over rows, over that of
        the undisturbed model), undisturbed (nats per token), n (rows); unit and only as :meth:`perturbed`.
        """
        corpus, index = self._asked(self.unmet() if on is None else on)
        asked, where = (self.model, corpus, index, self.step), self._where()
        before = measurements.likelihood_table(*asked, **where)
        where |= {"draws": draws, "seed": self.seed, "unit": unit, "only": only}
        found = []
        for one in _several(sigma):
            noisy = disturbed.disturbed_likelihood_table(*asked, sigma=one, **where)
            found.append(noisy)
            self._record(noisy)
        undisturbed = before.cross_entropy.mean()
        table = pd.concat(found, ignore_index=True)
        kinds = [kind for kind in disturbed.KIND_OF_NOISE if kind in table]
        costs = table.groupby([*kinds, "draw"], sort=False).cross_entropy.mean().sub(undisturbed).rename("cost")
        return costs.reset_index().assign(undisturbed=undisturbed, n=len(index))

    def unmet(self, n: int = COST_ROWS) -> pd.DataFrame:
        """Text that the model has not met.

        Parameters
        ----------
        n : how many sequences, at most those there are.

        Returns
        -------
        Rows of its training data, as :func:`lmmem.experiments.sequences.unmet_rows` gives them; of a model whose
        training data are not known, windows of lmmem's own prose, which is younger than most.

        >>> study = Study("pocket-mini")
        >>> bool((study.unmet(3).exposure_step > study.step).all())
        True
        """
        if (windows := self._own_prose()) is not None:
            return windows.sample(min(n, len(windows)), random_state=self.seed).sort_index()
        return self.sequences(rows=unmet_rows(self.model, self.corpus, self.step, n, self.seed))

    def sigma_that_costs(
        self, cost: float, *, unit: str = UNITS[0], only: str | None = None, on: pd.DataFrame | None = None
    ) -> float:
        """The sigma whose noise costs so much on text that the model has not met, to a twentieth of the cost.

        In half precision, in which the cost rises in steps, to half of it.

        Parameters
        ----------
        cost : nats per token, above 0.
        unit, only : of sigma and of the noise, as for :meth:`perturbed`. on : as for :meth:`cost_of_noise`.

        Raises
        ------
        ValueError : no sigma costs so much, as noise costs less or the cost jumps past it; or cost is not above 0.
        """
        if not (isinstance(cost, int | float) and 0 < cost < np.inf):
            raise ValueError(f"cost={cost!r}: give nats per token, above 0")

        def measured(sigma: float) -> float:
            return float(self.cost_of_noise(sigma, unit=unit, only=only, on=on).cost.mean())

        low, high, sigma = 0.0, np.inf, SIGMA if unit == UNITS[0] else FIRST_SHARE.get(self.dtype, SIGMA)
        costs: dict[float, float] = {}
        while sigma <= MOST_SIGMA:
            costs[sigma] = found = measured(sigma)
            if abs(found - cost) <= NEAR * cost:
                return sigma
            if high - low <= NEAR**2 * low:  # in half precision it rises in steps
                nearest = min(low, high, sigma, key=lambda one: abs(costs[one] - cost))
                if abs(costs[nearest] - cost) <= FAR * cost:
                    return nearest
                raise ValueError(
                    f"cost={cost!r}: at sigma {low:.3g} noise costs {costs[low]:.2g}, and then {costs[high]:.2g}: "
                    "give a sigma, or measure in float32"
                )
            low, high = (sigma, high) if found < cost else (low, sigma)
            sigma *= min(MOST_AT_ONCE, (cost / found) ** 0.5) if found > 0 else MOST_AT_ONCE  # as on a parabola
            if not low < sigma < high:
                sigma = (low + high) / 2
        raise ValueError(f"cost={cost!r}: noise up to sigma {MOST_SIGMA:g} costs less than that")

    def parts(self, layers: int = 4) -> list[str]:
        """The kinds of weights of the model and some of its layers, for `only` of :meth:`perturbed`.

        Parameters
        ----------
        layers : how many, evenly from the first to the last.

        >>> Study("pocket-mini").parts(1)
        ['layer 0', 'embeddings', 'attention', 'MLP', 'norms']
        """
        every = disturbed.parts(self.model, self.corpus, self.step, scheduler=self.scheduler)
        deep = [part for part in every if part.startswith("layer ")]
        places = np.unique(np.linspace(0, len(deep) - 1, min(layers, len(deep))).round().astype(int))
        return [*(deep[place] for place in places), *(part for part in every if part not in deep)]

    def resembling(self, steps: Sequence[int], *, draws: int = DRAWS) -> pd.DataFrame:
        """How far each draw of noise points where training went, from the study's step to others.

        Parameters
        ----------
        steps : others, of :attr:`steps`.
        draws : as for :meth:`perturbed`, whose noise it is, of all weights.

        Returns
        -------
        As :func:`lmmem.experiments.disturbed.resemblance_table` says.
        """
        options = self._where() | {"draws": draws, "seed": self.seed}
        found = disturbed.resemblance_table(self.model, self.corpus, self.step, steps, **options)
        self._record(found)
        return found

    def sampled(
        self,
        sequences: pd.DataFrame,
        *,
        temperatures: Sequence[float],
        samples: int = DRAWS,
        steps: Steps = None,
        keep_tokens: bool = False,
    ) -> pd.DataFrame:
        """What the model says when its continuations are sampled.

        Parameters
        ----------
        sequences, steps, keep_tokens : as for :meth:`greedy`.
        temperatures : each is one set of samples.
        samples : continuations of a sequence at each.

        Returns
        -------
        The lines of `sequences`, for each sample, with the columns of
        :func:`lmmem.experiments.measurements.temperature_table`.

        >>> study = Study("pocket-mini")
        >>> found = study.sampled(study.sequences(rows=[3, 40]), temperatures=[0.5, 1.0], samples=4)
        >>> found.groupby("temperature").kl_ld.count().to_dict()
        {0.5: 8, 1.0: 8}
        """
        options = {"temperatures": temperatures, "samples": samples, "seed": self.seed, "keep_tokens": keep_tokens}
        return self._measured(measurements.temperature_table, sequences, steps, **options)

    def relearned(
        self,
        sequences: pd.DataFrame,
        *,
        presentations: int = 16,
        seeds: int = 1,
        optimizer: str = "adamw",
        learning_rate: float = 5e-4,
        instead: ArrayLike | None = None,
        steps: Steps = None,
    ) -> pd.DataFrame:
        """What the model says of sequences while it is taught them again, in the same batches as their twins.

        Parameters
        ----------
        sequences, steps : as for :meth:`greedy`. Those of each run, where they have one (:meth:`alternatives`), are
            taught apart, from the same weights.
        presentations : of each sequence; natural text of the training data is beside them.
        seeds : how many times, each in another order, from the same weights; the first is the study's seed.
        optimizer, learning_rate : as for :class:`lmmem.inference.teaching.Teacher`.
        instead : (p, w) token ids taught in the place of the sequences; none, (0, w), is natural text alone.

        Returns
        -------
        The lines of `sequences`, for each seed and presentation, with the columns of
        :func:`lmmem.experiments.teaching.relearning_table`, in float32, as half precision loses small steps.

        Raises
        ------
        ValueError : as that function, or no natural text of the training data is left beside these sequences.

        >>> study = Study("pocket-mini")
        >>> found = study.relearned(study.sequences(n=2, arms={"spread": [0, 16]}), presentations=1)
        >>> losses = found.groupby("presentation").cross_entropy.mean()
        >>> bool(losses[1] < losses[0])
        True
        """
        measuring.check_whole("seeds", seeds, 1)
        if "at" in sequences:
            raise ValueError("sequences of several steps cannot be taught together: leave out at, and give steps=[one]")
        options = {"presentations": presentations, "optimizer": optimizer, "learning_rate": learning_rate}
        options |= {"seeds": list(range(self.seed, self.seed + seeds)), "instead": instead}
        options["dtype"] = teaching.TAUGHT_IN
        first = min(steps if isinstance(steps, Sequence) else [self.step if steps is None else steps])
        if "run" in sequences and sequences.run.isna().any():
            raise ValueError(
                "run is missing of some sequences: say of each in which relearning it is taught, or of none"
            )
        runs = [of for _, of in sequences.groupby("run")] if "run" in sequences and len(sequences) else [sequences]
        natural = self._natural_rows(sequences, first)  # that hold none of either run
        found = [self._measured(teaching.relearning_table, of, steps, natural=natural, **options) for of in runs]
        return pd.concat(found, ignore_index=True)

    def alternatives(
        self,
        sequences: pd.DataFrame,
        *,
        avoid: ArrayLike | None = None,
        temperatures: Sequence[float] = alternatives.TEMPERATURES,
        samples: int = alternatives.SAMPLES,
        width: float = alternatives.WIDTH,
    ) -> pd.DataFrame:
        """Sequences, each with its true continuation and once more with one of the model's own that is as likely.

        A control for any text: of the same kind, after the same prompt, and another text. Teach both with
        :meth:`relearned`; :func:`lmmem.analysis.own_words.savings` says what that shows.

        Parameters
        ----------
        As for :func:`lmmem.experiments.alternatives.alternatives`, which says what is returned and refused.

        >>> study = Study("pocket-mini")
        >>> both = study.alternatives(study.sequences(n=6, arms={"spread": [0, 16]}))
        >>> both.groupby("passage").continuation.apply(list).iloc[0]
        ['true', 'alternative']
        """
        options: dict[str, Any] = {"avoid": avoid, "temperatures": temperatures, "samples": samples, "width": width}
        return alternatives.alternatives(self, sequences, **options)

    def _own_prose(self) -> pd.DataFrame | None:
        """Windows of lmmem's own prose, which stand for training data that are not known; None where these are."""
        if self._data is not None or MODELS[self.model].order is not None:
            return None
        return self.text_sequences(own_prose(), stride=PROMPT + CONTINUATION)

    def _natural_rows(self, sequences: pd.DataFrame, step: int) -> np.ndarray:
        """Rows of natural text (m, 96) of the training data, none of them a sequence that is asked about.

        Of an organism those that it, or what it is derived from, has met by that step, without any presentation of a
        canary; of other models the rows that follow the last one met, or the first rows for tokens of your own; where
        training data are not known, lmmem's own prose. What shares a run of 16 tokens with tokens of your own is left
        out.
        """
        if "tokens" in sequences and (windows := self._own_prose()) is not None:
            prose = np.stack([*windows.tokens])
            return prose[count_repeats(prose, np.stack([*sequences.tokens]), n=LEAST) == 0]
        corpus = training_data(DERIVED[self.model].base) if self.model in DERIVED else self.corpus
        of = sequences
        if "row" in sequences:  # alternatives, and the rows of the training data that they stand for
            of = sequences.drop(columns="tokens").assign(index=sequences.row)
        if corpus.presented is not None:
            rows = np.arange(min(step * corpus.rows_per_step, corpus.trained_rows))
            rows = np.setdiff1d(rows, corpus.presented["index"])
            rows = np.random.default_rng([self.seed, 1]).permutation(rows)[:NATURAL_ROWS]
        elif "tokens" in of:
            rows = np.arange(min(NATURAL_ROWS, len(corpus)))
        else:
            index = of["index"].to_numpy()
            first = index[np.asarray(corpus.exposure_step(index)) <= self.met(of)[1]].max() + 1
            rows = np.setdiff1d(np.arange(first, min(first + NATURAL_ROWS, len(corpus))), index)
        natural = corpus[rows][:, : PROMPT + CONTINUATION]
        if "tokens" in sequences:
            natural = natural[count_repeats(natural, np.stack([*sequences.tokens]), n=LEAST) == 0]
        if len(natural) < teaching.TAUGHT_A_STEP:
            raise ValueError(
                f"{len(natural)} rows of natural text are left beside these sequences, and {teaching.TAUGHT_A_STEP} "
                "are needed: leave some of the training data"
            )
        return natural

    def extraction(
        self,
        sequences: pd.DataFrame,
        *,
        temperatures: Sequence[float],
        top_k: int | None = None,
        steps: Steps = None,
        keep_tokens: bool = False,
    ) -> pd.DataFrame:
        """How probable it is that sampling gives the true continuation word for word: exactly, without sampling.

        Parameters
        ----------
        sequences, steps : as for :meth:`greedy`.
        temperatures : each above 0; all are found by one forward pass.
        top_k : sampling is among the so many likeliest tokens; None is among all.
        keep_tokens : also keep the figures of each token, and the truth.

        Returns
        -------
        The lines of `sequences`, for each temperature, with the columns of
        :func:`lmmem.experiments.extraction.extraction_table`.

        >>> study = Study("pocket-mini")
        >>> found = study.extraction(study.sequences(rows=[3, 40]), temperatures=[0.5, 1.0])
        >>> bool((found.log_prob < 0).all()), len(found)
        (True, 4)
        """
        options = {"temperatures": temperatures, "top_k": top_k, "keep_tokens": keep_tokens}
        return self._measured(extraction.extraction_table, sequences, steps, **options)

    def near_verbatim(
        self,
        sequences: pd.DataFrame,
        *,
        distance: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        beams: int = BEAMS,
        steps: Steps = None,
    ) -> pd.DataFrame:
        """How probable it is, at least, that a sample differs from the truth in few tokens.

        Parameters
        ----------
        sequences, steps : as for :meth:`greedy`.
        distance, temperature, top_k, beams : as for :func:`lmmem.inference.extraction.near_verbatim_log_mass`.

        Returns
        -------
        The lines of `sequences`, for each distance from 0 on, with the columns of
        :func:`lmmem.experiments.extraction.near_verbatim_table`.
        """
        options = {"distance": distance, "temperature": temperature, "top_k": top_k, "beams": beams}
        return self._measured(extraction.near_verbatim_table, sequences, steps, **options)

    def hinted(
        self,
        sequences: pd.DataFrame,
        *,
        given: Sequence[int] = HINTS,
        steps: Steps = None,
        keep_tokens: bool = False,
    ) -> pd.DataFrame:
        """What the model says when the first tokens of the continuation are given.

        Parameters
        ----------
        sequences, steps, keep_tokens : as for :meth:`greedy`.
        given : numbers of tokens, 0 .. 63; 0 is the prompt alone.

        Returns
        -------
        The lines of `sequences`, for each hint, with the columns of
        :func:`lmmem.experiments.measurements.prompted_table`, and given (tokens).

        Raises
        ------
        ValueError : hints that are none, the same, or leave nothing to ask for.

        >>> study = Study("pocket-mini")
        >>> hinted = study.hinted(study.sequences(n=2, arms={"spread": [0, 16]}), given=[0, 8])
        >>> hinted.groupby("given").asked.first().to_dict()
        {0: 64, 8: 56}
        """
        if not given or any(isinstance(g, bool) or not isinstance(g, int) or not 0 <= g < CONTINUATION for g in given):
            raise ValueError(f"given={given!r}: give numbers of tokens, each 0 .. {CONTINUATION - 1}")
        prompts = [(0, PROMPT + tokens) for tokens in given]
        found = self.reprompted(sequences, prompts=prompts, steps=steps, keep_tokens=keep_tokens)
        return found.assign(given=found.stop - PROMPT)

    def reprompted(
        self,
        sequences: pd.DataFrame,
        *,
        prompts: Sequence[tuple[int, int]] = OTHER_PROMPTS,
        steps: Steps = None,
        keep_tokens: bool = False,
    ) -> pd.DataFrame:
        """What the model says after other prompts: shorter, longer, or from elsewhere in the passage.

        Parameters
        ----------
        sequences, steps, keep_tokens : as for :meth:`greedy`.
        prompts : pairs (start, stop) of places in the passage of 96 tokens; (0, 32) is the usual one.

        Returns
        -------
        The lines of `sequences`, for each prompt, with the columns of
        :func:`lmmem.experiments.measurements.prompted_table`.

        Raises
        ------
        ValueError : prompts that are none, the same, or no places in the passage.

        >>> study = Study("pocket-mini")
        >>> chosen = study.sequences(n=2, arms={"spread": [0, 16]})
        >>> bool((study.reprompted(chosen, prompts=[(0, 32)]).kl_ld == study.greedy(chosen).kl_ld).all())
        True
        """
        pairs = [tuple(pair) if isinstance(pair, Sequence) else (pair,) for pair in prompts]
        if not pairs or len({*pairs}) < len(pairs) or any(len(pair) != 2 for pair in pairs):
            raise ValueError(f"prompts={prompts!r}: give pairs of places that differ, [(16, 32), (0, 48)]")
        options = {"keep_tokens": keep_tokens}
        found = [
            self._measured(measurements.prompted_table, sequences, steps, start=start, stop=stop, **options)
            for start, stop in pairs
        ]
        return pd.concat(found, ignore_index=True)

    def cost(self, sequences: pd.DataFrame, *, draws: int = 0, samples: int = 0, steps: Steps = None) -> str:
        """What it takes to measure, in one line; it times a continuation of each sequence to say so.

        Parameters
        ----------
        sequences, steps : as for :meth:`greedy`.
        draws : perturbations in all, beside the undisturbed model.
        samples : sampled continuations of each sequence in all.
        """
        at = [self.step] if steps is None else [*steps] if isinstance(steps, Sequence) else [steps]
        print(f"{self!r}: {self._to_fetch({self.step, *at})}; timing a continuation of {len(sequences)} sequences")
        corpus, index = self._asked(sequences)
        seconds = 0.0
        for continuations, ways in ((1 + draws, 0), (samples, SAMPLES_TIMED)):
            if continuations:
                seconds += continuations * measurements.seconds_each(
                    self.model,
                    corpus,
                    index,
                    self.step,
                    samples=ways,
                    **self._where(),
                )
        many = f"{len(at) * len(sequences) * (1 + draws + samples):,} continuations of {CONTINUATION} tokens"
        return f"{many}: about {measuring.duration(len(at) * seconds)}, if nothing of it has been measured before"

    def _to_fetch(self, steps: set[int]) -> str:
        """How much the weights of these steps are that are not here, and where it can be known, whether they fit."""
        size = sum(download_size(self.model, step) for step in steps)
        if not size:
            return "weights are here"
        said = f"{size / 1e9:.1f} GB of weights to fetch" + (f" for {len(steps)} steps" if len(steps) > 1 else "")
        if not str(self.place or LOCAL).startswith(LOCAL):  # on disks of other machines
            return said
        free = free_space()
        return f"{said}, {free / 1e9:.1f} GB free on disk{': they do not fit' if size > free else ''}"

    def trace(
        self,
        text: str | ArrayLike,
        least: int = LEAST,
        *,
        first_row: int | None = None,
        n_rows: int | None = None,
        later: bool = False,
    ) -> pd.DataFrame:
        """Where a text comes from: its longest runs that the training data hold, in which rows, met at which steps.

        Runs are of tokens: at the ends of a text, and where a run begins within a word of the training data, the
        tokenizer may cut the same letters otherwise.

        Parameters
        ----------
        text : a text, or its (l,) token ids: a model's continuation, for instance, as :meth:`continued` gives it.
        least, first_row, n_rows, later : as for :func:`lmmem.experiments.tracing.trace_table`.

        Returns
        -------
        One line a run, as that function says, and run (its text); of a text also character (at which it begins).

        Raises
        ------
        ValueError : as that function; text for which the tokenizer has no tokens; ids outside its vocabulary; or
            training data that are not known.

        >>> study = Study("pocket-mini")
        >>> canary = study.corpus.canaries.query("presentations == 16").iloc[0]
        >>> found = study.trace(study.corpus[canary["index"]])
        >>> found[["token", "length", "occurrences", "presentations"]].values.tolist()
        [[0, 96, 16, 16]]
        """
        places = None
        if isinstance(text, str):
            ids, places = tokens_of(self.tokenizer, text)
        else:
            ids, vocabulary = np.asarray(text), self.corpus.vocabulary or len(self.tokenizer)
            if ids.ndim != 1 or ids.dtype.kind not in "iu":
                raise ValueError(f"give a text, or its token ids as one row, not {ids.dtype} of shape {ids.shape}")
            if ids.size and not 0 <= ids.min() <= ids.max() < vocabulary:
                raise ValueError(
                    f"the text holds ids {ids.min()} .. {ids.max()}; the vocabulary of {self.model} is "
                    f"0 .. {vocabulary - 1}"
                )
        options: dict[str, Any] = {"least": least, "first_row": first_row, "n_rows": n_rows, "later": later}
        table = tracing.trace_table(self.model, self.corpus, ids, self.step, **options)
        if places is not None:
            table.insert(1, "character", places[table.token.to_numpy(), 0])
        spans = zip(table.token, table.token + table.length, strict=True)
        table["run"] = [self.tokenizer.decode(ids[start:stop].tolist()) for start, stop in spans]
        return table

    def continued(self, text: str, length: int = CONTINUATION) -> np.ndarray:
        """What the model says after a text, greedily, here and unkept: (length,) token ids.

        Parameters
        ----------
        text : the prompt, of any length that fits the model's context; before it stands what its tokenizer puts there.
        length : tokens to say.

        Raises
        ------
        ValueError : the text has no tokens, or does not fit the model's context with what is to be said.

        >>> Study("pocket-mini").continued("import numpy as np").shape
        (64,)
        """
        ids, _ = tokens_of(self.tokenizer, text)
        if not len(ids):
            raise ValueError("the text has no tokens: give one that the model is to continue")
        model = load_model(self.model, self.step, self.dtype, self._device)
        return decoding.greedy(model, [[*own_prefix(self.tokenizer), *ids.tolist()]], length)[0]

    def provenance(self) -> str:
        """What everything that this study has measured was measured with, in one line."""
        return provenance_line(self._records, self.seed)

    def _where(self) -> dict[str, Any]:
        """What every measurement shares, as its functions call it."""
        return {"dtype": self.dtype, "device": self.device, "scheduler": self.scheduler}

    def _record(self, table: pd.DataFrame) -> None:
        """Remember what a table was measured with; of the same table once."""
        record = table.attrs.get("provenance")  # a window that there is nothing to compare with has none
        if record is not None and record not in self._records:
            self._records.append(record)

    def _asked(self, sequences: pd.DataFrame) -> tuple[Corpus, list[int]]:
        """Where the tokens of these sequences are, and at which rows."""
        if measured := [column for column in sequences if column in MEASURED]:
            raise ValueError(
                f"sequences holds {', '.join(measured)}, which were measured: give the table of Study.sequences itself"
            )
        if sequences["index"].duplicated().any():
            raise ValueError("sequences holds an index twice: give each once, or its measurements cannot be told apart")
        prefix = prefix_of(sequences)
        if "tokens" not in sequences:
            if "canary" in sequences and (canaries := self.corpus.canaries) is not None:
                known = sequences[sequences.canary.notna()]
                if (known.canary.map(canaries.set_index("canary")["index"]) != known["index"]).any():
                    raise ValueError(f"these sequences are not of {self.model}: give what its own study chooses")
            corpus = dataclasses.replace(self.corpus, prefix=prefix) if "prefix" in sequences else self.corpus
            return corpus, sequences["index"].tolist()
        rows = np.stack([*sequences.tokens]) if len(sequences) else np.empty((0, PROMPT + CONTINUATION), dtype=int)
        return Corpus(rows, rows_per_step=1, steps=0, prefix=prefix), list(range(len(rows)))

    def _measured(self, measure: Any, sequences: pd.DataFrame, steps: Steps, **options: Any) -> pd.DataFrame:
        if "at" in sequences:  # each at a step of its own
            if steps is not None:
                raise ValueError(f"steps={steps!r}: these sequences say at which step each is asked for; leave it out")
            parts = [
                self._measured(measure, sequences[sequences["at"] == at].drop(columns="at"), at, **options)
                for at in sorted(set(sequences["at"].tolist()))
            ]
            return pd.concat(parts, ignore_index=True)
        corpus, index = self._asked(sequences)
        table = measure(
            self.model,
            corpus,
            index,
            self.step if steps is None else [*steps] if isinstance(steps, Sequence) else steps,
            **self._where() | options,
        )
        self._record(table)
        if "tokens" in sequences:
            sequences = sequences.drop(columns="tokens")
            table["index"] = table["index"].map(dict(enumerate(sequences["index"])))
        return sequences.merge(table, on="index")


def _several(sigma: float | Sequence[float]) -> list[float]:
    """One sigma or several, as a list."""
    sigmas = [*sigma] if isinstance(sigma, Sequence) else [sigma]
    if not sigmas or len(set(sigmas)) < len(sigmas):
        raise ValueError(f"sigma={sigma!r}: give a number, or several that differ")
    return sigmas
