"""Which sequences an experiment asks about, and what they are compared with: every page begins here.

Of an organism they are canaries, whose presentations were randomised; of other models rows of the
training data, beside rows that come later. Asks no model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from lmmem.corpora.corpus import Corpus
from lmmem.corpora.published import counts_id, duplicate_counts, has_counts
from lmmem.measures.complexity import z_complexity
from lmmem.measures.repeats import NGRAM, count_repeats, shared_text
from lmmem.models.loading import load_tokenizer
from lmmem.models.registry import MODELS, resolve_step
from lmmem.protocol import CONTINUATION, PROMPT, split
from lmmem.storage.results import measured

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "choose_canaries",
    "choose_sequences",
    "dose_sequences",
    "first_unmet",
    "just_met",
    "natural_passages",
    "of_arms",
    "of_text",
    "own_prefix",
    "prefix_of",
    "tokens_of",
    "unmet_rows",
    "with_prefix",
]

DEFAULT_PAIRS = 32  # sequences of each arm, if nobody says
CANDIDATES = 4  # rows read for each sequence chosen, so that twins can be matched
MOST_PAIRS = 5_000  # all of the exposed are compared with all candidates
WINDOW = 20_000  # rows that passages are chosen among, to find some of every count
UNTOUCHED = "untouched"  # the group of a derived organism that nothing was done to
ELSEWHERE = "elsewhere"  # the group from files of which nothing is presented: no twins
WINDOW_TOKENS = PROMPT + CONTINUATION  # of a text
PROBE = "a"  # a text that a tokenizer is asked about


def choose_canaries(
    corpus: Corpus,
    n_sequences: int | None = None,
    seed: int = 0,
    arms: Mapping[str, Sequence[int]] | None = None,
    n_twins: int | None = None,
) -> pd.DataFrame:
    """Canaries of an organism, and their unexposed twins: of each arm as many as are asked for, if it has them.

    Those of one block come first, and blocks that hold all the arms before others, so that whoever is
    chosen has twins. Arms are of different sizes; a small one gives all it has.

    Parameters
    ----------
    corpus : of an organism.
    n_sequences : how many of each arm at most; None is all.
    seed : chooses them.
    arms : as for :func:`of_arms`; None is all.
    n_twins : of each block with an exposed one of those chosen, so many unexposed ones if it has them, in the place
        of n_sequences in all; None is as many as of each other arm.

    Returns
    -------
    Lines of ``corpus.canaries``, in their order, with a column arm ("spread 16", "q2 64").

    Raises
    ------
    ValueError : the corpus has no canaries; n_sequences is below 1 or above the largest arm; or as for
        :func:`of_arms`.

    >>> import lmmem
    >>> corpus = lmmem.training_data("pocket-mini")
    >>> choose_canaries(corpus, 5, arms={"spread": [0, 16], "q2": [16]}).groupby("arm").size().to_dict()
    {'q2 16': 3, 'spread 0': 5, 'spread 16': 5}
    """
    canaries = _canaries(corpus)
    canaries = canaries.assign(arm=canaries.group + " " + canaries.presentations.astype(str))
    canaries = canaries if arms is None else of_arms(canaries, arms)
    if n_sequences is None:
        return canaries
    _check_n_sequences(n_sequences, int(canaries.groupby("arm").size().max()))
    drawn = canaries.sample(frac=1, random_state=seed)
    turn = drawn.groupby(["arm", "block"]).cumcount()
    held = drawn.block.map(drawn.groupby("block").arm.nunique())
    place = drawn.block.map({block: place for place, block in enumerate(drawn.block.unique())})
    order = drawn.assign(turn=turn, held=-held, place=place).sort_values(["turn", "held", "place"])
    chosen = order.groupby("arm").head(n_sequences)
    if n_twins is not None:
        exposed = chosen[chosen.presentations > 0]
        never = drawn[_twins(drawn) & drawn.block.isin(exposed.block)]
        chosen = pd.concat([exposed, never.groupby("block").head(n_twins)])
    return canaries.loc[chosen.index.sort_values()].reset_index(drop=True)


def met_by(corpus: Corpus, step: int, arms: Mapping[str, Sequence[int]] | None = None) -> Corpus:
    """An organism's corpus with those canaries alone that have had all of their presentations by a step, or have none.

    Parameters
    ----------
    corpus : of an organism.
    step : of the weights that are asked; below 0 it is not known, and all count as met.
    arms : those that must be left, as for :func:`of_arms`.

    Raises
    ------
    ValueError : of one of the arms, or of all that are presented, none is left; the message says from when on it is.

    >>> import lmmem
    >>> canaries = met_by(lmmem.training_data("pocket-mini"), 60).canaries
    >>> bool((canaries.last_step.dropna() <= 60).all())
    True
    """
    canaries = _canaries(corpus)
    met = canaries[presented_by(canaries, step)]
    wanted = {"": canaries[canaries.presentations > 0]} | {
        f" {group} {m}": canaries[(canaries.group == group) & (canaries.presentations == m)]
        for group, ms in (arms.items() if isinstance(arms, Mapping) else ())
        for m in ms
        if m
    }
    for arm, lines in wanted.items():
        if len(lines) and not lines["index"].isin(met["index"]).any():
            raise ValueError(
                f"no passage{' of' * bool(arm)}{arm} has had all of its presentations by step {step}: choose a step "
                f"from {lines.last_step.min()} on; steps= of a measurement asks earlier ones"
            )
    return dataclasses.replace(corpus, canaries=met.reset_index(drop=True))


def presented_by(canaries: pd.DataFrame, step: int) -> pd.Series:
    """Which canaries have had all of their presentations by a step, or have none; all, where it is not known, below 0.

    >>> canaries = pd.DataFrame({"last_step": pd.Series([pd.NA, 20, 70], dtype="Int64")})
    >>> presented_by(canaries, 60).tolist(), presented_by(canaries, -1).all()
    ([True, True, False], np.True_)
    """
    return canaries.last_step.isna() | (canaries.last_step <= step).fillna(False) | (step < 0)


def _twins(canaries: pd.DataFrame) -> pd.Series:
    """Which are unexposed and not from elsewhere."""
    return (canaries.presentations == 0) & (canaries.group != ELSEWHERE)


def of_arms(canaries: pd.DataFrame, arms: Mapping[str, Sequence[int]]) -> pd.DataFrame:
    """The canaries of some arms.

    Parameters
    ----------
    canaries : as :func:`choose_canaries` gives them.
    arms : groups, and the presentations wanted of each; somewhere 0, the unexposed twins.

    Raises
    ------
    ValueError : there is no such arm, none is unexposed, or none exposed; the message names what there is.

    >>> import lmmem
    >>> canaries = choose_canaries(lmmem.training_data("pocket-mini"), 2)
    >>> of_arms(canaries, {"spread": [0], "q2": [16]}).groupby("arm").size().to_dict()
    {'q2 16': 2, 'spread 0': 2}
    """
    there = {str(group): sorted(set(lines.presentations)) for group, lines in canaries.groupby("group")}
    listed = "; ".join(f"{group}: {', '.join(map(str, presentations))}" for group, presentations in there.items())
    if not isinstance(arms, Mapping) or any(isinstance(m, str | int) or m is None for m in arms.values()):
        raise ValueError(f"arms={arms!r}: give groups and lists of presentations; there are {listed}")
    unknown = [f"{group} {m}" for group, wanted in arms.items() for m in wanted if m not in there.get(group, [])]
    if unknown:
        raise ValueError(f"arms: there is no {', '.join(unknown)}; there are {listed}")
    wanted = {m for presentations in arms.values() for m in presentations}
    if 0 not in wanted or wanted == {0}:
        raise ValueError(f"arms={dict(arms)} cannot be compared: give 0, the unexposed twins, and one that is exposed")
    names = [f"{group} {m}" for group, wanted in arms.items() for m in wanted]
    return canaries[canaries.arm.isin(names)].reset_index(drop=True)


def just_met(
    name: str,
    corpus: Corpus,
    steps: Sequence[int],
    step: int,
    n_checkpoints: int,
    n_twins: int,
    seed: int = 0,
) -> pd.DataFrame:
    """Sequences that were presented once, each to be asked for at the first checkpoint after it.

    Of an organism those of every training interval that ends at one of some checkpoints, evenly over training, and
    of each of their blocks some unexposed twins. Of other models the rows that were met last at `step` (of Amber, the
    paper's), and rows that come after it.

    Parameters
    ----------
    name, corpus, step : the model.
    steps : its checkpoints.
    n_checkpoints : at how many of them; of other models at one.
    n_twins : of each sequence, where its block has so many.
    seed : chooses twins.

    Returns
    -------
    The columns of :func:`choose_canaries` or :func:`choose_sequences` and at, the step to ask at; a twin may be asked
    at several.

    Raises
    ------
    ValueError : n_checkpoints or n_twins is below 1, or nothing is presented once.

    >>> import lmmem
    >>> corpus, steps = lmmem.training_data("pocket-mini"), lmmem.MODELS["pocket-mini"].steps
    >>> found = just_met("pocket-mini", corpus, steps, 120, n_checkpoints=2, n_twins=1)
    >>> bool((found["at"] >= found.exposure_step)[found.presentations == 1].all())
    True
    """
    for what, value in (("n_checkpoints", n_checkpoints), ("n_twins", n_twins)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{what}={value!r}: give a whole number, 1 or more")
    if corpus.canaries is None:
        order, most = MODELS[name].order, CANDIDATES * DEFAULT_PAIRS
        chunked = order is not None and order.layout == "chunks"  # row numbers past the lines of a chunk are of none
        first = None if chunked else max(0, first_unmet(corpus, step) - most)
        last = choose_sequences(name, corpus, DEFAULT_PAIRS, step, seed, first_row=first, at_least=2)
        return last.assign(at=step)
    canaries = choose_canaries(corpus)
    once = canaries[canaries.presentations == 1]
    checkpoints = np.array([one for one in steps if one <= step])
    after = np.searchsorted(checkpoints, once.exposure_step.to_numpy(dtype=int))  # the first at or after it
    once = once[after < len(checkpoints)].assign(at=checkpoints[after[after < len(checkpoints)]])
    if once.empty:
        raise ValueError(f"no sequence is presented once to {name} until step {step}")
    there = np.unique(once["at"])
    kept = there[np.unique(np.linspace(0, len(there) - 1, min(n_checkpoints, len(there))).round().astype(int))]
    once = once[once["at"].isin(kept)]
    never = canaries[_twins(canaries)].sample(frac=1, random_state=seed)
    wanted = once.groupby(["at", "block"]).size().mul(n_twins).rename("wanted").reset_index()
    twins = never.merge(wanted, on="block")
    twins = twins[twins.groupby(["at", "block"]).cumcount() < twins.wanted].drop(columns="wanted")
    return pd.concat([once, twins], ignore_index=True).sort_values(["at", "index"], ignore_index=True)


def unmet_rows(name: str, corpus: Corpus, step: int, n: int, seed: int = 0) -> np.ndarray:
    """Rows of text that the model has not met: what a disturbance costs it is told by these.

    Of an organism, passages of its held-out files that are never presented, the twins of all others. Of other
    models, the rows that come next in training; where their checkpoints have no step, the last rows there are,
    which they may have met.

    Parameters
    ----------
    name, corpus, step : the model.
    n : how many; of an organism at most those there are.
    seed : chooses among an organism's.

    Returns
    -------
    (m,) row numbers, ascending.

    Raises
    ------
    ValueError : n is below 1, or no row is left.

    >>> import lmmem
    >>> len(unmet_rows("pocket-mini", lmmem.training_data("pocket-mini"), 120, 5))
    5
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n={n!r}: give a whole number of rows, 1 or more")
    if corpus.canaries is not None:
        never = corpus.canaries[corpus.canaries.presentations == 0]
        untouched = never.group == UNTOUCHED  # of a derived organism: others were treated
        rows = (never[untouched] if untouched.any() else never)["index"]
        return np.sort(rows.sample(min(n, len(rows)), random_state=seed).to_numpy())
    first = first_unmet(corpus, step) if step >= 0 else max(0, len(corpus) - n)
    if first >= len(corpus):
        raise ValueError(f"at step {step} no row is left that {name} has not met: choose an earlier step")
    return np.arange(first, min(first + n, len(corpus)))


def choose_sequences(
    name: str,
    corpus: Corpus,
    n_sequences: int,
    step: int | None = None,
    seed: int = 0,
    *,
    first_row: int | None = None,
    min_complexity: float = 0.0,
    at_least: int | None = None,
) -> pd.DataFrame:
    """Sequences that the model has met by a step, each with an unexposed twin.

    Of an organism these are canaries (:func:`choose_canaries`). Of other models, whose data nobody
    has randomised: rows from `first_row` on, and rows that come in training only after `step`, paired
    so that twins are of nearly equal z-complexity. That a row is met once says nothing of other rows with
    the same text.

    Parameters
    ----------
    name, step : the model.
    corpus : its training data.
    n_sequences : how many pairs.
    seed : chooses them.
    first_row : where the exposed ones begin; None is the paper's.
    min_complexity : z-complexity of the exposed ones at least (the paper: 0.8).
    at_least : so many pairs will do, if there are no more; None insists on n_sequences.

    Returns
    -------
    One line a sequence: block (the pair), group ("row"), presentations (1 or 0), index,
    exposure_step, last_step (the same), file (the row), z_complexity, arm ("row 1", "row 0").

    Raises
    ------
    ValueError : n_sequences is below 1 or above what there are; the rows are not met by that step;
        or no row is left that comes after it.
    """
    if corpus.canaries is not None:
        return choose_canaries(met_by(corpus, resolve_step(name, step)), n_sequences, seed)
    step = resolve_step(name, step)
    _check_n_sequences(n_sequences, MOST_PAIRS)
    first_row = _first_row(name, corpus, step, first_row, CANDIDATES * n_sequences)
    exposed = _candidates(name, corpus, first_row, n_sequences)
    _check_met(name, corpus, exposed["index"].to_numpy(), step)
    after = first_unmet(corpus, step)
    if after + len(exposed) > len(corpus):
        raise ValueError(f"at step {step} no row is left that {name} has not met: choose an earlier step")
    twins = _candidates(name, corpus, after, n_sequences)
    exposed = exposed[exposed.z_complexity >= min_complexity]
    if len(exposed) < (n_sequences if at_least is None else at_least):
        raise ValueError(
            f"{len(exposed)} of the {CANDIDATES * n_sequences} rows from {first_row} on have a z-complexity of "
            f"{min_complexity:g} or more, of {n_sequences} wanted: lower min_complexity, or choose another first_row"
        )
    n_sequences = min(n_sequences, len(exposed))
    exposed = exposed.sample(n_sequences, random_state=seed).sort_values("index", ignore_index=True)
    cost = np.abs(exposed.z_complexity.to_numpy()[:, None] - twins.z_complexity.to_numpy())
    _, matched = linear_sum_assignment(cost)  # the pairs with the least differences in all
    both = [exposed.assign(presentations=1), twins.iloc[matched].reset_index(drop=True).assign(presentations=0)]
    table = pd.concat([side.assign(block=range(n_sequences), group="row") for side in both], ignore_index=True)
    table["exposure_step"] = table["last_step"] = corpus.exposure_step(table["index"].to_numpy())
    table["file"] = table["index"].astype(str)  # each row is a text of its own
    return table.assign(arm=table.group + " " + table.presentations.astype(str))


def _candidates(name: str, corpus: Corpus, first: int, n_sequences: int) -> pd.DataFrame:
    """Rows one after another from `first` on, several for each sequence wanted: index and z_complexity."""
    index = np.arange(first, first + CANDIDATES * n_sequences)
    texts = load_tokenizer(name).batch_decode(split(corpus[index])[1])
    return pd.DataFrame({"index": index, "z_complexity": z_complexity(texts)})


def natural_passages(
    name: str,
    corpus: Corpus,
    n_sequences: int,
    step: int | None = None,
    seed: int = 0,
    n: int = NGRAM,
    *,
    first_row: int | None = None,
    n_rows: int = WINDOW,
) -> pd.DataFrame:
    """Passages of natural text that the model has seen, drawn evenly over how often they repeat.

    Repeats are put into bins that double: 1, 2-3, 4-7 .. Of an organism they are counted among all
    rows that it has been trained on at that step. Of Pythia they are the published counts of
    :func:`lmmem.corpora.published.duplicate_counts`, over all of its training data, for the rows
    that are chosen among. For other models none are published: theirs are counted among those rows.

    Parameters
    ----------
    name, step : the model.
    corpus : its training data.
    n_sequences : how many of each bin; a bin with fewer gives all it has.
    seed : chooses the passages.
    n : tokens of a shared run, as for :func:`lmmem.count_repeats`; published counts are of 32.
    first_row, n_rows : where the rows that are chosen among begin (None is the paper's), and how
        many they are; not for organisms.

    Returns
    -------
    One line a passage: index, repeats (rows, itself included), bin (its lower end), z_complexity, text (a label that
    passages share which share a run of n tokens: they are no independent units).

    Raises
    ------
    ValueError : as for :func:`choose_canaries`.
    """
    step = resolve_step(name, step)
    if corpus.canaries is not None:
        table = _repeats_in_training(name, corpus, n_sequences, step, n)
    elif has_counts(name):
        table = _published_repeats(name, _window(name, corpus, n_sequences, step, first_row, n_rows))
    else:
        index = _window(name, corpus, n_sequences, step, first_row, n_rows)
        table = _window_repeats(name, corpus, index, n)
    provenance = table.attrs["provenance"]
    table["bin"] = 2 ** np.floor(np.log2(table.repeats)).astype(int)
    table = table.sample(frac=1, random_state=seed).groupby("bin").head(n_sequences)
    table = table.sort_values(["bin", "index"], ignore_index=True)
    texts = load_tokenizer(name).batch_decode(split(corpus[table["index"].to_numpy()])[1])
    table["z_complexity"] = z_complexity(texts)
    table["text"] = shared_text(split(corpus[table["index"].to_numpy()])[1], n)
    table.attrs["provenance"] = provenance
    return table


def _repeats_in_training(name: str, corpus: Corpus, n_sequences: int, step: int, n: int) -> pd.DataFrame:
    """Index and repeats of every natural row of an organism, among all it has been trained on."""
    seen = min(step * corpus.rows_per_step, corpus.trained_rows)
    placed = () if corpus.presentations is None else corpus.presentations
    natural = np.setdiff1d(np.arange(seen), np.concatenate([placed, corpus.treated]))
    _check_n_sequences(n_sequences, len(natural))
    digest = hashlib.sha256(corpus[:seen].tobytes() + natural.tobytes()).hexdigest()[:16]
    settings = {"model": name, "step": step, "n": n, "rows": digest}

    def measure() -> pd.DataFrame:
        queries = split(corpus[natural])[1]
        return pd.DataFrame({"index": natural, "repeats": count_repeats(queries, corpus[:seen], n)})

    return measured("repeats", settings, measure)


def _published_repeats(name: str, index: np.ndarray) -> pd.DataFrame:
    """Index and published repeats of rows one after another, of Pythia."""
    settings = {"model": name, "first": int(index[0]), "rows": len(index), "counts": counts_id(name)}
    return measured(
        "repeats", settings, lambda: pd.DataFrame({"index": index, "repeats": duplicate_counts(name, index)})
    )


def _window(name: str, corpus: Corpus, n_sequences: int, step: int, first_row: int | None, n_rows: int) -> np.ndarray:
    """The numbers of rows one after another that the model has met."""
    if isinstance(n_rows, bool) or not isinstance(n_rows, int) or n_rows < 1:
        raise ValueError(f"n_rows={n_rows!r}: give a whole number of rows to choose among, 1 or more")
    first = _first_row(name, corpus, step, first_row, n_rows)
    met = first_unmet(corpus, step)
    last = min(len(corpus), met) if first_row is None and first < met else len(corpus)
    index = np.arange(first, min(first + n_rows, last))
    _check_n_sequences(n_sequences, len(index))
    _check_met(name, corpus, index, step)
    return index


def _window_repeats(name: str, corpus: Corpus, index: np.ndarray, n: int) -> pd.DataFrame:
    """Index of each row and how many of them share n tokens with its continuation."""
    rows = corpus[index]
    digest = hashlib.sha256(rows.tobytes()).hexdigest()[:16]
    settings = {"model": name, "n": n, "first": int(index[0]), "window": len(index), "tokens": digest}

    def measure() -> pd.DataFrame:
        return pd.DataFrame({"index": index, "repeats": count_repeats(split(rows)[1], rows, n)})

    return measured("repeats", settings, measure)


def dose_sequences(passages: pd.DataFrame, twins: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Natural passages in the place of canaries: arms by their repeats, and rows not yet met as arm 0.

    For models whose data nobody has randomised. Nothing here is causal: passages that repeat are
    of another kind than those that do not.

    Parameters
    ----------
    passages : as :func:`natural_passages` gives them; bins with fewer than the unexposed are left out.
    twins : as :func:`choose_sequences` gives them.
    seed : chooses passages of bins with more, so that all arms are of one size.

    Returns
    -------
    One line a sequence: index, presentations (the lower end of the bin, 0 for unexposed),
    z_complexity, group ("natural"), block (the rank by z-complexity within the arm), file (the same of passages that
    share text, which are no independent units).

    Raises
    ------
    ValueError : no bin has as many passages as there are unexposed.
    """
    unexposed = twins[twins.presentations == 0]
    sizes = passages.groupby("bin")["index"].transform("size")
    if len(unexposed) > sizes.max():
        raise ValueError(
            f"no bin of repeats has the {len(unexposed)} passages wanted of each, the largest has {sizes.max()}: "
            "ask for fewer, or choose among more rows"
        )
    full = passages[sizes >= len(unexposed)].groupby("bin").sample(len(unexposed), random_state=seed)
    full = full.assign(presentations=full.bin, file="text " + full.text.astype(str))
    arms = pd.concat([unexposed, full], ignore_index=True)
    arms = arms.sort_values(["presentations", "z_complexity"], ignore_index=True).assign(group="natural")
    arms["block"] = arms.groupby("presentations").cumcount()
    return arms[["index", "presentations", "z_complexity", "group", "block", "file"]]


def of_text(
    tokenizer: PreTrainedTokenizerBase,
    texts: str | Sequence[str],
    stride: int = CONTINUATION,
    prefix: Sequence[int] | None = None,
    *,
    ends: bool = False,
    names: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Windows of text to ask about, each behind what the tokenizer itself puts before a text.

    A window is a prompt of 32 tokens and a continuation of 64; neither holds the prefix. None reaches from one text
    into another, and tokens after the last that fits are not asked for. What looks like a token of control
    ("</s>") is taken as the text that it is.

    Parameters
    ----------
    tokenizer : the model's.
    texts : one or several.
    stride : tokens from one window to the next; 64 asks for each token once.
    prefix : token ids in the place of the tokenizer's own; () is none.
    ends : also the characters at which each token of the continuation ends, a column of arrays (64,).
    names : what messages call the texts; None is "text 0" and so on.

    Returns
    -------
    One line a window: index, text (which of the texts), token (of the text, at which it begins), tokens (96 ids),
    prefix (ids); and if the tokenizer tells where its tokens are (a fast one does), of which characters of the text:
    prompt_begin, begin (of the continuation), end.

    Raises
    ------
    ValueError : what is given is no text, a text is shorter than a window, or holds what the tokenizer has no token
        for; a stride below 1; a prefix that is no list of token ids, or not known.

    >>> from lmmem.models.loading import load_tokenizer
    >>> windows = of_text(load_tokenizer("pocket-mini"), "import numpy as np; " * 20)
    >>> windows.columns.tolist(), windows.prefix[0], len(windows.tokens[0])
    (['index', 'text', 'token', 'tokens', 'prompt_begin', 'begin', 'end', 'prefix'], (), 96)
    """
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, Sequence) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"texts={str(texts)[:40]!r}: give a text, or a list of them")
    if isinstance(stride, bool) or not isinstance(stride, int) or stride < 1:
        raise ValueError(f"stride={stride!r}: give a whole number of tokens, 1 or more")
    names = [f"text {number}" for number in range(len(texts))] if names is None else names
    lines = []
    for number, (name, text) in enumerate(zip(names, texts, strict=True)):
        ids, places = tokens_of(tokenizer, text, name)
        if len(ids) < WINDOW_TOKENS:
            raise ValueError(
                f"{name} has {len(ids)} tokens; a window is of {WINDOW_TOKENS}, a prompt of {PROMPT} and a "
                f"continuation of {CONTINUATION}: give a longer text"
            )
        starts = range(0, len(ids) - WINDOW_TOKENS + 1, stride)
        for start in starts:
            line = {"text": number, "token": start, "tokens": ids[start : start + WINDOW_TOKENS]}
            if places is not None:
                (prompt, _), (begin, _), (_, end) = places[[start, start + PROMPT, start + WINDOW_TOKENS - 1]].tolist()
                line |= {"prompt_begin": prompt, "begin": begin, "end": end}
                if ends:
                    line["ends"] = places[start + PROMPT : start + WINDOW_TOKENS, 1]
            lines.append(line)
    found = pd.DataFrame(lines)
    found.insert(0, "index", range(len(found)))
    return with_prefix(found, own_prefix(tokenizer) if prefix is None else prefix)


def own_prefix(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that a tokenizer puts before every text, found by asking it; those that it puts after are left out.

    Raises
    ------
    ValueError : it does more to a text than to put tokens before and after it.

    >>> from lmmem.models.loading import load_tokenizer
    >>> own_prefix(load_tokenizer("pocket-mini"))
    ()
    """
    bare = tokenizer(PROBE, add_special_tokens=False).input_ids
    whole = tokenizer(PROBE).input_ids
    for length in range(len(whole) - len(bare) + 1):
        if bare and whole[length : length + len(bare)] == bare:
            return tuple(whole[:length])
    raise ValueError("what this tokenizer puts before a text is not known: give prefix=(), or token ids")


def with_prefix(sequences: pd.DataFrame, prefix: Sequence[int]) -> pd.DataFrame:
    """Sequences with a column prefix: token ids that the model is given before each.

    Raises
    ------
    ValueError : the prefix is no list of token ids.

    >>> with_prefix(pd.DataFrame({"index": [3, 5]}), [2]).prefix.tolist()
    [(2,), (2,)]
    """
    ids = np.asarray(prefix)
    if ids.ndim != 1 or (ids.size and (ids.dtype.kind not in "iu" or ids.min() < 0)):
        raise ValueError(f"prefix={prefix!r}: give a list of token ids; () is none")
    return sequences.assign(prefix=pd.Series([tuple(ids.tolist())] * len(sequences), sequences.index, dtype=object))


def prefix_of(sequences: pd.DataFrame) -> tuple[int, ...]:
    """The prefix that all of some sequences have; none if they have no such column.

    Raises
    ------
    ValueError : they have several.

    >>> prefix_of(with_prefix(pd.DataFrame({"index": [3, 5]}), [2]))
    (2,)
    """
    prefixes = sorted({*sequences.prefix}) if "prefix" in sequences else []
    if len(prefixes) > 1:
        raise ValueError(f"sequences holds several prefixes, {', '.join(map(str, prefixes))}: measure each apart")
    return prefixes[0] if prefixes else ()


def tokens_of(
    tokenizer: PreTrainedTokenizerBase, text: str, what: str = "the text"
) -> tuple[np.ndarray, np.ndarray | None]:
    """A text's tokens (m,), none of them of control, and the characters that each stands for, (m, 2) from and to.

    Raises
    ------
    ValueError : the tokenizer has no token for a part of the text.

    >>> from lmmem.models.loading import load_tokenizer
    >>> ids, places = tokens_of(load_tokenizer("pocket-mini"), "import numpy")
    >>> len(ids), places[-1].tolist()
    (6, [11, 12])
    """
    options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
    found = tokenizer(text, return_offsets_mapping=tokenizer.is_fast, **options)
    ids, places = np.array(found.input_ids, dtype=np.int64), None
    unknown = tokenizer.unk_token_id
    if unknown is None and tokenizer.is_fast:  # which may know one that it does not name
        named = json.loads(tokenizer.backend_tokenizer.to_str())["model"].get("unk_token")
        unknown = None if named is None else tokenizer.convert_tokens_to_ids(named)
    if unknown is not None and (share := (ids == unknown).mean() if len(ids) else 0.0):
        raise ValueError(f"{what}: {share:.2%} of its {len(ids):,} tokens are unknown to the model's tokenizer")
    if tokenizer.is_fast:  # some leave out what they have no token for
        places = np.array(found.offset_mapping, dtype=np.int64).reshape(-1, 2)
        begins, ends = places.T
        inside = np.bincount(begins, minlength=len(text) + 1) - np.bincount(ends, minlength=len(text) + 1)
        missed = np.flatnonzero(inside.cumsum()[:-1] == 0)
        if letters := sum(text[place].isalnum() for place in missed):
            share = letters / len(text)
            raise ValueError(
                f"{what}: the model's tokenizer has no token for {share:.2%} of its {len(text):,} characters"
            )
    return ids, places


def _first_row(name: str, corpus: Corpus, step: int, first_row: int | None, wanted: int) -> int:
    """Where rows begin: as asked, else the paper's, else so that the last of those wanted is the last one met."""
    if step < 0:
        raise ValueError(
            f"what {name} has met is not known, as its checkpoints have no step: name it, its step and its training "
            "data with lmmem.MODELS.register"
        )
    known = MODELS[name].paper_row if first_row is None else first_row
    return max(0, min(first_unmet(corpus, step), len(corpus)) - wanted) if known is None else known


def first_unmet(corpus: Corpus, step: int) -> int:
    """The first row that is not met by a step.

    >>> import lmmem
    >>> first_unmet(lmmem.training_data("pocket-mini"), 2)  # steps 0 and 1, of 8 rows
    16
    """
    return (step + 1 - corpus.exposure_lag) * corpus.rows_per_step


def _check_met(name: str, corpus: Corpus, index: np.ndarray, step: int) -> None:
    latest = int(np.max(corpus.exposure_step(index)))
    if latest > step:
        raise ValueError(
            f"rows {index[0]} .. {index[-1]} are met by {name} until step {latest}, after the measured step {step}: "
            "choose a later step or earlier rows"
        )


def _canaries(corpus: Corpus) -> pd.DataFrame:
    if corpus.canaries is None:
        raise ValueError("this corpus has no canaries (sequences whose presentations are known); that of 'pocket' has")
    return corpus.canaries


def _check_n_sequences(n_sequences: int, available: int) -> None:
    if isinstance(n_sequences, bool) or not isinstance(n_sequences, int) or not 1 <= n_sequences <= available:
        raise ValueError(
            f"n_sequences={n_sequences!r}: give a whole number per arm, from 1 to the {available} there are"
        )
