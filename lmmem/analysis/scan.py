"""What a scan of a text says: what of it is recited, what is known beyond chance, and the rule for a verdict.

Tables of windows in, as :meth:`lmmem.experiments.study.Study.scan` measures them, and of windows of text that the model
has never seen, the control. Knows no models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pandas as pd
from scipy import stats

from lmmem.analysis.runs import LEAST, runs
from lmmem.analysis.statistics import Interval, bootstrap, check_columns
from lmmem.analysis.strip import Drawing, strip
from lmmem.protocol import CONTINUATION, PROMPT

__all__ = [
    "BLOCK",
    "RULE",
    "WORDS",
    "beyond_chance",
    "drawn",
    "fits",
    "found",
    "longest",
    "recited_share",
    "summary",
    "told",
    "verdict",
]

LEVEL = 0.05  # of a false alarm
WORDS = 32  # tokens recited of one window at which no control is needed to call it found
BLOCK = 256  # tokens: windows that begin in one are drawn together, as they overlap and are of one place
UNITS = 16  # blocks that a verdict needs on each side, as rule 14 of the plan
DRAWS, BATCH = 10_000, 100  # permutations, and how many at a time
RULE = (
    f"a window is found if the model recites {WORDS} of its 64 tokens, or if its loss is so low that of as many "
    f"never-seen windows the lowest would be so in {LEVEL:.0%} of cases (the logarithm of the loss taken as normal, "
    "with mean and deviation of the control)"
)
NEEDED = ["index", "text", "token", "begin", "end", "recited", "cross_entropy"]


class Scanned(Protocol):
    """What was measured of a text, as a scan gives it."""

    windows: pd.DataFrame
    control: pd.DataFrame
    changed: pd.DataFrame
    of: str
    chosen: bool
    left_out: int
    seed: int


def beyond_chance(windows: pd.DataFrame, control: pd.DataFrame, level: float = LEVEL) -> pd.Series:
    """Which windows have a loss that not even the lowest of as many never-seen ones would have.

    The logarithm of a never-seen window's loss is taken as normal; Bonferroni's bound over the windows, which is on
    the safe side where they overlap.

    Parameters
    ----------
    windows, control : with a column cross_entropy, nats per token; 16 of the control at least.
    level : chance that any of the windows is named if all are never-seen.

    Returns
    -------
    (n,) booleans.

    Raises
    ------
    ValueError : too few windows of the control, or they are all alike.

    >>> control = pd.DataFrame({"cross_entropy": np.exp(np.random.default_rng(0).normal(1, 0.2, 100))})
    >>> beyond_chance(pd.DataFrame({"cross_entropy": [2.7, 0.5]}), control).tolist()
    [False, True]
    """
    logs = np.log(control.cross_entropy.to_numpy())
    if len(logs) < UNITS or not logs.std() > 0:
        raise ValueError(f"the control has {len(logs)} windows of never-seen text: give text of {UNITS} or more")
    mean, deviation = logs.mean(), logs.std(ddof=1)
    limit = mean + deviation * np.sqrt(1 + 1 / len(logs)) * stats.t.ppf(level / len(windows), len(logs) - 1)
    return np.log(windows.cross_entropy) < limit


def fits(windows: pd.DataFrame, control: pd.DataFrame) -> bool:
    """Whether a control can be of the text's kind: the text as a whole is not likelier by a standard deviation.

    Where it is, the text is remembered as a whole, or of another kind, and a control that nobody chose for it cannot
    tell one from the other.

    >>> table = pd.DataFrame({"cross_entropy": [2.0, 3.0, 4.0]})
    >>> fits(table, table), fits(table / 10, table)
    (True, False)
    """
    ours, theirs = np.log(windows.cross_entropy), np.log(control.cross_entropy)
    return bool(ours.median() > theirs.median() - theirs.std())


def found(windows: pd.DataFrame, control: pd.DataFrame, *, chosen: bool) -> pd.Series:
    """The windows that are found, by RULE.

    Parameters
    ----------
    windows, control : with columns recited and cross_entropy.
    chosen : the control was chosen as text of the same kind; else its loss counts only if it :func:`fits`.

    >>> control = pd.DataFrame({"cross_entropy": np.exp(np.random.default_rng(0).normal(1, 0.2, 100))})
    >>> windows = pd.DataFrame({"cross_entropy": [2.7, 2.8, 0.5], "recited": [40, 2, 3]})
    >>> found(windows, control, chosen=True).tolist()
    [True, False, True]
    """
    by_words = windows.recited >= WORDS
    if chosen or fits(windows, control):
        return by_words | beyond_chance(windows, control)
    return by_words


def recited_share(windows: pd.DataFrame, least: int = LEAST, seed: int = 0) -> Interval:
    """The share of the tokens asked for that lie in a run which the model recites, with an interval over blocks.

    Parameters
    ----------
    windows : columns text, token, recited.
    least : tokens that a window recites at least.
    seed : of the bootstrap, which draws blocks of 256 tokens; n is how many there are. Where what is recited at once
        is longer than a block, the interval is too narrow.

    >>> windows = pd.DataFrame({"text": 0, "token": range(0, 6_400, 64), "recited": [32, 0] * 50})
    >>> recited_share(windows).estimate
    0.25
    """
    asked, hit = [], []
    for _, here in windows.groupby("text"):
        begins = here.token.to_numpy() + PROMPT
        size = int(begins.max()) + CONTINUATION
        covered = _covered(begins, np.where(here.recited >= least, here.recited, 0), size)
        of = _covered(begins, np.full(len(here), CONTINUATION), size)
        numbers = np.arange(len(of)) // BLOCK
        asked.append(np.bincount(numbers, of))
        hit.append(np.bincount(numbers, covered & of))
    whole, part = np.concatenate(asked), np.concatenate(hit)
    whole, part = whole[whole > 0], part[whole > 0]
    if len(whole) < 2:
        return Interval(float(part.sum() / whole.sum()), np.nan, np.nan, len(whole))
    return bootstrap(lambda part, whole: float(part.sum() / whole.sum()), part, whole, seed=seed)


def verdict(windows: pd.DataFrame, control: pd.DataFrame, *, chosen: bool, seed: int = 0) -> str:
    """Whether the text as a whole is better known than never-seen text of its kind; or why that cannot be said.

    Blocks of 256 tokens are exchanged between both, on what is recited and on the loss (Holm's bound over the two).

    Parameters
    ----------
    windows, control : columns text, token, recited, cross_entropy.
    chosen : the control was chosen as text of the same kind.
    seed : of the permutations.

    >>> control = pd.DataFrame({"text": 0, "token": range(0, 6_400, 64), "recited": 1, "cross_entropy": 3.0})
    >>> verdict(control.assign(recited=20, cross_entropy=1.0), control, chosen=True)
    'known better than the control: it recites more of it (p = 0.0001) and finds it likelier (p = 0.0001)'
    """
    ours, theirs = _blocks(windows), _blocks(control)
    if not chosen and not fits(windows, control):
        return (
            "no verdict: as a whole the text is likelier than the control by more than its standard deviation, so it "
            "is remembered or of another kind; give a control of its kind, which the model cannot have met"
        )
    for what, blocks in {"text": ours, "control": theirs}.items():
        if len(blocks) < UNITS:
            return (
                f"no verdict: windows of the {what} begin in {len(blocks)} blocks of {BLOCK} tokens, {UNITS} are "
                f"needed, so {(UNITS - len(blocks)) * BLOCK:,} tokens more"
            )
    rng = np.random.default_rng(seed)
    ps = {
        "it recites more of it": _p(ours.recited, theirs.recited, rng),
        "finds it likelier": _p(-ours.log_loss, -theirs.log_loss, rng),
    }
    ordered = sorted(ps, key=ps.__getitem__)
    holds = ps[ordered[0]] <= LEVEL / 2, ps[ordered[0]] <= LEVEL / 2 and ps[ordered[1]] <= LEVEL
    shown = [f"{what} (p = {ps[what]:.2g})" for what in ps if what in ordered[: sum(holds)]]
    if shown:
        return f"known better than the control: {' and '.join(shown)}".replace(": finds", ": it finds")
    return f"not shown to be known better than the control (p = {min(ps.values()):.2g}, two questions)"


def summary(scan: Scanned) -> dict[str, str]:
    """Sentences that a person can quote, by what they are about: rule, words, longest, found, loss, changed, verdict ..

    Parameters
    ----------
    scan : as :meth:`lmmem.experiments.study.Study.scan` gives it.

    Raises
    ------
    ValueError : columns are missing, or the control is too small.
    """
    windows, control = scan.windows, scan.control
    check_columns(windows, NEEDED)
    said, top_runs = {"rule": f"Rule: {RULE}."}, runs(windows, 1)
    share, chance = recited_share(windows, seed=scan.seed), recited_share(control, seed=scan.seed)
    said["words"] = (
        f"Of the text, {_percent(share)} of the tokens lie in runs of {LEAST} or more that the model recites word for "
        f"word; of the control ({scan.of}), {_percent(chance)}."
    )
    if len(top_runs):
        top = top_runs.iloc[0]
        where = f"text {top.text}, token {top.token:,}" + (f", character {top.begin:,}" if "begin" in top_runs else "")
        said["longest"] = f"The longest run has {top.tokens} tokens ({where}); of the control {_longest(control)}."
    else:
        said["longest"] = "Not one token is recited."
    named = found(windows, control, chosen=scan.chosen)
    apart = scan.chosen or fits(windows, control)
    how = "" if apart else ", by their words alone, as the text as a whole is likelier than the control"
    said["found"] = f"Found are {int(named.sum()):,} of {len(windows):,} windows{how}."
    loss = f"{windows.cross_entropy.mean():.2f} nats per token, of the control {control.cross_entropy.mean():.2f}"
    said["loss"] = f"The mean loss of the text is {loss}."
    said["changed"] = _changed(scan.changed)
    said["verdict"] = f"Verdict (level {LEVEL:.0%}): {verdict(windows, control, chosen=scan.chosen, seed=scan.seed)}."
    said["decoded"] = (
        f"Of {int(windows.kl_ld.notna().sum()):,} windows that came near it is known what the model says; one that "
        "goes astray at once and comes back is not among them."
    )
    if scan.left_out:
        said["left out"] = (
            f"Of the control {scan.left_out:,} windows share a run of 16 tokens with the text and are left out."
        )
    return said


def told(said: dict[str, str], names: Sequence[str]) -> dict[str, str]:
    """Some sentences of a :func:`summary`, for a page.

    >>> told({"words": "None.", "loss": "High."}, ["loss"])
    {'loss': 'High.'}
    """
    return {name: said[name] for name in names}


def drawn(scan: Scanned, texts: Sequence[str]) -> Drawing:
    """The strip of a scan, as :func:`lmmem.analysis.strip.strip` draws it."""
    return strip(scan.windows, texts)


def longest(scan: Scanned, most: int = 8) -> pd.DataFrame:
    """The longest runs that are recited, each with the loss and kl-LD of the window that recites most of it.

    Raises
    ------
    ValueError : there is none.
    """
    table = runs(scan.windows)
    if table.empty:
        raise ValueError(f"no run of {LEAST} tokens or more is recited")
    beside = scan.windows.set_index("index")[["cross_entropy", "kl_ld", "log_prob"]]
    table = table.join(beside, on="index").head(most)
    return table[["text", "token", "tokens", "kl_ld", "cross_entropy", "log_prob"]].round(2)


def _changed(changed: pd.DataFrame) -> str:
    """What other prompts and other words do, of each part of the windows."""
    parts = changed.groupby("windows", sort=False)
    prompts, words = (
        ", ".join(f"{_rise(part, column)} in {what}" for what, part in parts) for column in ("prompts", "words")
    )
    return (
        f"Prompts from elsewhere in the text raise the loss by {prompts} (nats per token, up to {parts.size().max()} "
        f"windows each); a few tokens exchanged for others of their kind by {words}."
    )


def _rise(part: pd.DataFrame, column: str) -> str:
    """A mean, with its interval over blocks where there are two."""
    places = part.groupby(["text", part.token // BLOCK]).ngroup()
    if places.nunique() < 2:
        return f"{part[column].mean():.2f}"
    return bootstrap(np.mean, part[column], clusters=places).brief()


def _covered(begins: np.ndarray, lengths: np.ndarray, size: int) -> np.ndarray:
    """Which tokens of the first `size` of a text lie in one of these spans."""
    steps = np.zeros(size + 1, dtype=np.int64)
    np.add.at(steps, begins, 1)
    np.add.at(steps, begins + lengths, -1)
    return steps.cumsum()[:-1] > 0


def _blocks(windows: pd.DataFrame) -> pd.DataFrame:
    """Means of the windows that begin in each block."""
    values = pd.DataFrame({"recited": windows.recited, "log_loss": np.log(windows.cross_entropy)})
    return values.groupby([windows.text, windows.token // BLOCK]).mean()


def _p(ours: pd.Series, theirs: pd.Series, rng: np.random.Generator) -> float:
    """One-sided p of the difference in means, by permutations of the blocks."""
    found = stats.permutation_test(
        (ours, theirs),
        lambda one, other, axis: one.mean(axis=axis) - other.mean(axis=axis),
        vectorized=True,
        n_resamples=DRAWS,
        batch=BATCH,
        alternative="greater",
        rng=rng,
    )
    return float(found.pvalue)


def _percent(share: Interval) -> str:
    if np.isnan(share.low):
        return f"{share.estimate:.1%}"
    return f"{share.estimate:.1%} ({share.low:.1%} to {share.high:.1%}, {share.n} blocks)"


def _longest(windows: pd.DataFrame) -> int:
    found = runs(windows, 1)
    return int(found.tokens.max()) if len(found) else 0
