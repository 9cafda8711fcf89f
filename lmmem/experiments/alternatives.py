"""Continuations of a model's own, as likely to it as the true ones: a control for any text.

Twins that the model cannot have met are seldom of the same kind as a text that it has. What it says itself after the
same prompt is. Each passage is taught in one run with its true continuation and in another with its alternative; which
comes first is by chance, and no run holds both. What is concluded from it stands in lmmem/analysis/own_words.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from lmmem.experiments.measuring import check_amount
from lmmem.experiments.sequences import prefix_of, with_prefix
from lmmem.measures.distance import levenshtein
from lmmem.measures.repeats import count_repeats
from lmmem.measures.runs import LEAST
from lmmem.models.registry import MODELS
from lmmem.protocol import CONTINUATION, PROMPT, split

if TYPE_CHECKING:
    from lmmem.corpora.corpus import Corpus

__all__ = ["ALTERNATIVE", "TRUE", "alternatives"]

TRUE, ALTERNATIVE = "true", "alternative"  # continuations
TEMPERATURES = (0.5, 0.7, 0.85, 1.0, 1.2)  # the colder, the likelier what is sampled
SAMPLES = 8  # at each
WIDTH = 0.1  # nats per token: losses within it are called the same (book/plan.md, decision rule 11)
APART = CONTINUATION // 2  # tokens that an alternative has to differ in, at least


class Asked(Protocol):
    """What is needed of a :class:`lmmem.Study`."""

    model: str
    seed: int

    @property
    def corpus(self) -> Corpus: ...
    def tokens(self, sequences: pd.DataFrame) -> np.ndarray: ...
    def sequences(self, *, tokens: ArrayLike, prefix: Sequence[int]) -> pd.DataFrame: ...
    def likelihood(self, sequences: pd.DataFrame) -> pd.DataFrame: ...
    def greedy(self, sequences: pd.DataFrame, *, keep_tokens: bool) -> pd.DataFrame: ...
    def sampled(
        self, sequences: pd.DataFrame, *, temperatures: Sequence[float], samples: int, keep_tokens: bool
    ) -> pd.DataFrame: ...


def alternatives(
    study: Asked,
    sequences: pd.DataFrame,
    *,
    avoid: ArrayLike | None = None,
    temperatures: Sequence[float] = TEMPERATURES,
    samples: int = SAMPLES,
    width: float = WIDTH,
) -> pd.DataFrame:
    """Sequences, each with its true continuation and once more with one of the model's own that is as likely.

    Of sequences that share a run of 16 tokens the first counts, as whoever teaches one teaches of the others too: of
    windows of a text that overlap every second. Of the samples after a prompt those count whose loss is within `width`
    of the truth's, which differ from it in half of their tokens or more, and of which no run of 16 tokens stands in
    text that the model has met, as far as that is known. Of these the one is taken that is as far as the truth from
    what the model says greedily, as nearly as can be; among equals the one as likely. Sequences without any are left
    out.

    Parameters
    ----------
    study, sequences : as for ``Study.greedy``; of one step.
    avoid : (m, w) token ids that the model may have met, w at least 16. None: all rows that an organism, by its name,
        was trained on; of other models nothing but the true continuations of `sequences`.
    temperatures, samples : as for ``Study.sampled``.
    width : nats per token.

    Returns
    -------
    Two lines a sequence that has one, with its columns: index (new, 0, 1, ..), tokens, passage (the index that it had),
    row (the same, of rows of training data), continuation ("true" or "alternative"), run (0 or 1: in which of two
    relearnings it is taught; half of each arm, by chance, has its true continuation in the first). What
    ``Study.relearned`` takes.

    Raises
    ------
    ValueError : sequences of several steps, none at all, or that are alternatives already; no sequence has an
        alternative; `avoid` is no matrix of token ids; or as ``Study.sampled``.
    """
    check_amount("width", width, "nats per token")
    if "at" in sequences:
        raise ValueError("alternatives are of one step: leave out at, and give them to the study of that step")
    if taken := {"passage", "continuation", "row", "run"} & set(sequences):
        raise ValueError(f"sequences holds {', '.join(sorted(taken))}, which alternatives are given: leave it out")
    if not len(sequences):
        raise ValueError("there are no sequences to find alternatives to")
    met = _met(study) if avoid is None else _checked(avoid)
    if not {"tokens", "prefix"} & set(sequences) and study.corpus.prefix:
        sequences = with_prefix(sequences, study.corpus.prefix)
    rows = study.tokens(sequences)
    alone = _alone(rows)
    sequences, rows = sequences[alone].reset_index(drop=True), rows[alone]
    candidates = _candidates(study, sequences, rows, met, temperatures, samples)
    near = candidates[candidates.unlike <= width].sort_values(["of", "farther", "unlike"], kind="stable")
    if near.empty:
        raise ValueError(
            f"no sample of {len(sequences)} sequences is as likely as the truth within {width:g} nats per token and "
            "new: give more samples, or temperatures nearer to it"
        )
    return _both(sequences, rows, near.groupby("of").head(1), study.seed)


def _candidates(
    study: Asked,
    sequences: pd.DataFrame,
    rows: np.ndarray,
    met: np.ndarray,
    temperatures: Sequence[float],
    samples: int,
) -> pd.DataFrame:
    """What the model says itself that is new and far from the truth.

    Columns of (the place of its sequence), tokens ((96,), with the prompt), unlike (its loss apart from the truth's,
    nats per token), farther (tokens that it is farther from, or nearer to, what is said greedily than the truth is).
    """
    prompts, truth = split(rows)
    sampled = study.sampled(sequences, temperatures=temperatures, samples=samples, keep_tokens=True)
    said = np.stack([*sampled.said])
    of = pd.Series(range(len(rows)), index=sequences["index"])[sampled["index"]].to_numpy()
    far = sampled.kl_ld.to_numpy() >= APART
    new = np.all([count_repeats(said, of_old, n=LEAST) == 0 for of_old in (truth, met) if len(of_old)], axis=0)
    said, of = said[far & new], of[far & new]
    tokens = np.concatenate([prompts[of], said], axis=1)
    loss = study.likelihood(sequences).cross_entropy.to_numpy()
    own = study.likelihood(study.sequences(tokens=tokens, prefix=prefix_of(sequences))).cross_entropy.to_numpy()
    greedy = study.greedy(sequences, keep_tokens=True)
    from_greedy = levenshtein(np.stack([*greedy.said])[of], said)
    return pd.DataFrame(
        {
            "of": of,
            "tokens": list(tokens),
            "unlike": np.abs(own - loss[of]),
            "farther": np.abs(from_greedy - greedy.kl_ld.to_numpy()[of]),
        }
    )


def _both(sequences: pd.DataFrame, rows: np.ndarray, chosen: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Sequences with their true continuation and with the alternative that was chosen, as :func:`alternatives`."""
    places = chosen.of.to_numpy()
    passages = sequences.iloc[places].drop(columns="tokens", errors="ignore").rename(columns={"index": "passage"})
    if "tokens" not in sequences:
        passages["row"] = passages.passage
    first = _first(passages, seed)
    both = {TRUE: list(rows[places]), ALTERNATIVE: [*chosen.tokens]}
    table = pd.concat(
        [
            passages.assign(tokens=tokens, continuation=name, run=np.where(first == (name == TRUE), 0, 1))
            for name, tokens in both.items()
        ],
        ignore_index=True,
    )
    table.insert(0, "index", range(len(table)))
    return table


def _first(passages: pd.DataFrame, seed: int) -> np.ndarray:
    """(n,) booleans: half of each arm, by chance, with an odd one more."""
    arms = passages.arm.astype(str) if "arm" in passages else pd.Series("", index=passages.index)
    rank = pd.Series(np.random.default_rng([seed, 2]).permutation(len(passages)), index=passages.index)
    return (rank.groupby(arms).rank() % 2 == 1).to_numpy()


def _alone(rows: np.ndarray) -> np.ndarray:
    """(n,) booleans: no run of 16 tokens in common with a row before it that has none either."""
    seen: set[bytes] = set()
    alone = np.empty(len(rows), dtype=bool)
    for number, row in enumerate(np.ascontiguousarray(rows)):
        runs = {row[start : start + LEAST].tobytes() for start in range(len(row) - LEAST + 1)}
        alone[number] = not runs & seen
        seen |= runs if alone[number] else set()
    return alone


def _checked(avoid: ArrayLike) -> np.ndarray:
    try:
        rows = np.asarray(avoid)
    except ValueError:  # rows of several lengths
        rows = np.empty(0)
    if rows.ndim != 2 or rows.dtype.kind not in "iu" or (len(rows) and rows.shape[1] < LEAST):
        raise ValueError(
            f"avoid: give rows of token ids, {LEAST} or more in each, got {rows.dtype} of shape {rows.shape}"
        )
    return rows


def _met(study: Asked) -> np.ndarray:
    """All rows that an organism was trained on, those of what it is derived from among them; of other models none."""
    order = MODELS[study.model].order
    if order is None or order.layout != "organism":
        return np.empty((0, PROMPT + CONTINUATION), dtype=np.int64)
    return study.corpus[np.arange(study.corpus.trained_rows)]
