"""What a scan of a text says: what of it is recited, what is known beyond chance, and the rule for a verdict.

Tables of windows in, as :meth:`lmmem.experiments.study.Study.scan` measures them, and of windows of text that the model
has never seen, the control. Knows no models.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pandas as pd
from scipy import stats

from lmmem.analysis.randomisation import proportion
from lmmem.analysis.runs import COPIED, LEAST, longest_run, repeat_themselves, runs
from lmmem.analysis.statistics import Interval, bootstrap, check_columns
from lmmem.analysis.strip import Drawing, strip
from lmmem.protocol import CONTINUATION, PROMPT

__all__ = [
    "BLOCK",
    "RULE",
    "WORDS",
    "beyond_chance",
    "control_texts_needed",
    "drawn",
    "fits",
    "found",
    "longest",
    "recited_share",
    "summary",
    "told",
    "told_share",
    "verdict",
]

LEVEL = 0.05  # of a false alarm
WORDS = 32  # tokens recited of one window at which no control is needed to call it found
BLOCK = 256  # tokens: windows that begin in one are counted as one place
UNITS = 16  # blocks that an interval needs, and the control that is to say what loss is beyond chance
LEAST_LOSS = 1e-6  # nats per token: what is told for certain has a logarithm too
DRAWS = 10_000  # exchanges of texts that are drawn; all there are where these are fewer
TIED = 1e-9  # of all values together: sums that differ by less are the same, added in another order
RULE = (
    f"a window is found if the model recites {WORDS} of its 64 tokens, or if its loss is so low that of as many "
    f"never-seen windows the lowest would be so in {LEVEL:.0%} of cases (the logarithm of the loss taken as normal, "
    f"with mean and deviation of a control of {UNITS} blocks of {BLOCK} tokens or more). A window that repeats itself "
    f"is set aside (half of its 64 tokens, or of those recited, end runs of {COPIED} that stand before in it). A text "
    "is known better than the control if whole texts, exchanged between both, say so of what is recited or of the loss "
    f"({LEVEL:.0%}, one-sided, Holm's bound over the two)"
)
NEEDED = ["index", "text", "token", "begin", "end", "recited", "cross_entropy"]


class Scanned(Protocol):
    """What was measured of a text, as a scan gives it."""

    windows: pd.DataFrame
    control: pd.DataFrame
    changed: pd.DataFrame
    texts: list[str]
    of: str
    chosen: bool
    left_out: int
    seed: int
    twice: tuple[int, int]


def beyond_chance(windows: pd.DataFrame, control: pd.DataFrame, level: float = LEVEL) -> pd.Series:
    """Which windows have a loss that not even the lowest of as many never-seen ones would have.

    The logarithm of a never-seen window's loss is taken as normal; Bonferroni's bound over the windows, which is on
    the safe side where they overlap. Mean and deviation of the control are known as well as its blocks of 256 tokens
    tell them, since windows of one block say nearly the same.

    Parameters
    ----------
    windows, control : with a column cross_entropy, nats per token; of the control also text and token.
    level : chance that any of the windows is named if all are never-seen.

    Returns
    -------
    (n,) booleans.

    Raises
    ------
    ValueError : the control has fewer than 16 blocks, or its windows are all alike.

    >>> losses = np.exp(np.random.default_rng(0).normal(1, 0.2, 100))
    >>> control = pd.DataFrame({"text": 0, "token": range(0, 6_400, 64), "cross_entropy": losses})
    >>> beyond_chance(pd.DataFrame({"cross_entropy": [2.7, 0.5]}), control).tolist()
    [False, True]
    """
    logs, n = _logs(control), _blocks(control)
    if n < UNITS or not logs.std() > 0:
        raise ValueError(f"the control has {_counted(n, 'block')} of {BLOCK} tokens: give {UNITS} or more, not alike")
    deviation = logs.std() * np.sqrt(1 + 1 / n)
    return _logs(windows) < logs.mean() + deviation * stats.t.ppf(level / max(1, len(windows)), n - 1)


def fits(windows: pd.DataFrame, control: pd.DataFrame) -> bool:
    """Whether a control can be of the text's kind: the text as a whole is not likelier by a standard deviation.

    Where it is, the text is remembered as a whole, or of another kind, and a control that nobody chose for it cannot
    tell one from the other.

    >>> table = pd.DataFrame({"cross_entropy": [2.0, 3.0, 4.0]})
    >>> fits(table, table), fits(table / 10, table)
    (True, False)
    """
    ours, theirs = _logs(windows), _logs(control)
    return bool(ours.median() > theirs.median() - theirs.std())


def found(windows: pd.DataFrame, control: pd.DataFrame, *, chosen: bool) -> pd.Series:
    """The windows that are found, by RULE: by their words alone where the control cannot tell what loss is chance.

    Parameters
    ----------
    windows, control : with columns text, token, recited, cross_entropy and, where they are known, copied and
        recited_copied.
    chosen : the control was chosen as text of the same kind; else its loss counts only if it :func:`fits`.

    >>> losses = np.exp(np.random.default_rng(0).normal(1, 0.2, 100))
    >>> control = pd.DataFrame({"text": 0, "token": range(0, 6_400, 64), "cross_entropy": losses, "recited": 0})
    >>> windows = pd.DataFrame({"cross_entropy": [2.7, 2.8, 0.5], "recited": [40, 2, 3]})
    >>> found(windows, control, chosen=True).tolist()
    [True, False, True]
    """
    ours, theirs = _own(windows), _own(control)
    hit = ours.recited >= WORDS
    if not _words_alone(ours, theirs, chosen):
        hit |= beyond_chance(ours, theirs)
    return hit.reindex(windows.index, fill_value=False)


def recited_share(windows: pd.DataFrame, least: int = LEAST, seed: int = 0) -> Interval:
    """The share of the tokens asked for that lie in a run which the model recites, with an interval over blocks.

    Windows that repeat themselves count as not recited.

    Parameters
    ----------
    windows : columns text, token, recited and, where they are known, copied and recited_copied.
    least : tokens that a window recites at least.
    seed : of the bootstrap, which draws blocks of 256 tokens; n is how many there are. Where what is recited at once
        is longer than a block, the interval is too narrow. Where all blocks are alike, nothing or all of them recited,
        it is the exact one of the share of blocks (Clopper and Pearson); below 16 blocks there is none (nan).

    >>> windows = pd.DataFrame({"text": 0, "token": range(0, 6_400, 64), "recited": [32, 0] * 50})
    >>> recited_share(windows).estimate
    0.25
    """
    asked, hit = [], []
    counted = windows.recited.where((windows.recited >= least) & ~repeat_themselves(windows), 0)
    for _, here in windows.assign(recited=counted).groupby("text"):
        begins = here.token.to_numpy() + PROMPT
        size = int(begins.max()) + CONTINUATION
        covered = _covered(begins, here.recited.to_numpy(), size)
        of = _covered(begins, np.full(len(here), CONTINUATION), size)
        numbers = np.arange(len(of)) // BLOCK
        asked.append(np.bincount(numbers, of))
        hit.append(np.bincount(numbers, covered & of))
    whole, part = np.concatenate(asked), np.concatenate(hit)
    whole, part = whole[whole > 0], part[whole > 0]
    if len(whole) < UNITS:
        return Interval(float(part.sum() / whole.sum()), np.nan, np.nan, len(whole))
    if not part.any() or (part == whole).all():
        return proportion(len(whole) if part.any() else 0, len(whole))
    return bootstrap(lambda part, whole: float(part.sum() / whole.sum()), part, whole, seed=seed)


def told_share(share: Interval) -> str:
    """A share in per cent, with its interval and blocks where it has one.

    >>> told_share(Interval(0.25, 0.2, 0.3, 40)), told_share(Interval(0.25, np.nan, np.nan, 3))
    ('25.0% (20.0% to 30.0%, 40 blocks)', '25.0%')
    """
    if np.isnan(share.low):
        return f"{share.estimate:.1%}"
    return f"{share.estimate:.1%} ({share.low:.1%} to {share.high:.1%}, {share.n} blocks)"


def control_texts_needed(n: int) -> int:
    """How many control texts a verdict on so many texts needs: fewer cannot reach the level, however they compare.

    Of n texts and m, all their exchanges together say it with a p of 1 in (n + m over n) at the least, and Holm's bound
    over two questions asks half of 5 % of the first.

    >>> [control_texts_needed(n) for n in (1, 2, 3, 4)]
    [39, 8, 5, 4]
    """
    return next(m for m in itertools.count(1) if math.comb(n + m, n) >= 2 / LEVEL)


def verdict(windows: pd.DataFrame, control: pd.DataFrame, *, chosen: bool, seed: int = 0) -> str:
    """Whether the text as a whole is better known than never-seen text of its kind; or why that cannot be said.

    Whole texts are exchanged between both, since never-seen texts of one kind differ, on what is recited of a window
    and on the logarithm of its loss, both a mean over the windows of a text (Holm's bound over the two). Windows that
    repeat themselves are left out. Of a text that is longer than those on the other side only as much counts, as
    the mean of a short text scatters more.

    Parameters
    ----------
    windows, control : columns text, token, recited, cross_entropy and, where they are known, copied and
        recited_copied; windows of the control that are of one text have one number there.
    chosen : the control was chosen as text of the same kind.
    seed : of the permutations, and of the parts of longer texts.

    >>> token = np.tile(range(0, 640, 64), 40)
    >>> control = pd.DataFrame({"text": np.repeat(range(40), 10), "token": token, "recited": 1, "cross_entropy": 3.0})
    >>> verdict(control[control.text < 4].assign(recited=20, cross_entropy=1.0), control, chosen=True)
    'known better than the control: it recites more of it (p = 0.0001) and finds it likelier (p = 0.0001)'
    """
    ours, theirs = _own(windows), _own(control)
    for what, left in {"text": ours, "control": theirs}.items():
        if left.empty:
            return f"no verdict: nothing of the {what} is left that does not repeat itself"
    n, m = ours.text.nunique(), theirs.text.nunique()
    if _blocks(theirs) >= UNITS and not chosen and not fits(ours, theirs):
        return (
            "no verdict: as a whole the text is likelier than the control by more than its standard deviation, so it "
            "is remembered or of another kind; give a control of its kind, which the model cannot have met: "
            f"{_counted(control_texts_needed(n), 'text')} or more"
        )
    if m < control_texts_needed(n):
        return _undecided(ours, theirs)
    rng = np.random.default_rng(seed)
    if n > m:  # the fewer may not scatter more either
        ours = _as_long(ours, theirs, rng)
    theirs = _as_long(theirs, ours, rng)
    one, other = _by_text(ours), _by_text(theirs)
    ps = {
        "it recites more of it": _p(one.recited, other.recited, rng),
        "finds it likelier": _p(-one.log_loss, -other.log_loss, rng),
    }
    ordered = sorted(ps, key=ps.__getitem__)
    holds = ps[ordered[0]] <= LEVEL / 2, ps[ordered[0]] <= LEVEL / 2 and ps[ordered[1]] <= LEVEL
    shown = [f"{what} (p = {ps[what]:.2g})" for what in ps if what in ordered[: sum(holds)]]
    if shown:
        return f"known better than the control: {' and '.join(shown)}".replace(": finds", ": it finds")
    return (
        f"not shown to be known better than the control (p = {min(ps.values()):.2g}, two questions; "
        f"{_counted(n, 'text')} beside {m:,})"
    )


def summary(scan: Scanned) -> dict[str, str]:
    """Sentences that a person can quote, by what they are about: rule, words, longest, found, loss, changed, verdict ..

    A control that is too small, or of another kind, leaves fewer of them with a figure, and says so.

    Parameters
    ----------
    scan : as :meth:`lmmem.experiments.study.Study.scan` gives it.

    Raises
    ------
    ValueError : columns are missing.
    """
    windows, control = scan.windows, scan.control
    check_columns(windows, NEEDED)
    said, top_runs = {"rule": f"Rule: {RULE}. {_needs()}"}, runs(windows, 1)
    share, once, chance = (
        recited_share(table, seed=scan.seed) for table in (windows, _asked_once(windows), _asked_once(control))
    )
    said["words"] = (
        f"Of the text, {told_share(share)} of the tokens lie in runs of {LEAST} or more that the model recites word "
        f"for word. Asked for each token once, it recites {told_share(once)} of them, and of the control ({scan.of}) "
        f"{told_share(chance)}."
    )
    if len(top_runs):
        top = top_runs.iloc[0]
        where = f"text {top.text}, token {top.token:,}" + (f", character {top.begin:,}" if "begin" in top_runs else "")
        said["longest"] = f"The longest run has {top.tokens} tokens ({where}); of the control {longest_run(control)}."
    else:
        recited = "Nothing is recited but what repeats itself" if windows.recited.any() else "Not one token is recited"
        said["longest"] = f"{recited}."
    named = found(windows, control, chosen=scan.chosen)
    alone = _words_alone(_own(windows), _own(control), scan.chosen)
    how = f", by their words alone, as {alone}" if alone else ""
    said["found"] = f"Found are {int(named.sum()):,} of {len(windows):,} windows{how}.{_set_aside(windows, control)}"
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
    if any(scan.twice):
        texts, others = scan.twice
        said["twice"] = f"Given twice, and counted once: {texts} of the texts and {others} of the control's."
    return said


def told(said: dict[str, str], names: Sequence[str]) -> dict[str, str]:
    """Some sentences of a :func:`summary`, for a page.

    >>> told({"words": "None.", "loss": "High."}, ["loss"])
    {'loss': 'High.'}
    """
    return {name: said[name] for name in names}


def drawn(scan: Scanned) -> Drawing:
    """The strip of a scan, as :func:`lmmem.analysis.strip.strip` draws it."""
    return strip(scan.windows, scan.texts)


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
    if not len(parts):
        return "No window has another 96 tokens away, whose prompt it could be asked after."
    prompts, words = (
        ", ".join(f"{_rise(part, column)} in {what}" for what, part in parts) for column in ("prompts", "words")
    )
    return (
        f"Prompts from elsewhere, of another text or {PROMPT + CONTINUATION} tokens away at least, raise the loss by "
        f"{prompts} (nats per token, up to {parts.size().max()} windows each); a few tokens exchanged for others of "
        f"their kind by {words}."
    )


def _rise(part: pd.DataFrame, column: str) -> str:
    """A mean, with its interval over blocks where there are enough."""
    places = _places(part)
    if places.nunique() < UNITS:
        return f"{part[column].mean():.2f}"
    return bootstrap(np.mean, part[column], clusters=places).brief()


def _covered(begins: np.ndarray, lengths: np.ndarray, size: int) -> np.ndarray:
    """Which tokens of the first `size` of a text lie in one of these spans."""
    steps = np.zeros(size + 1, dtype=np.int64)
    np.add.at(steps, begins, 1)
    np.add.at(steps, begins + lengths, -1)
    return steps.cumsum()[:-1] > 0


def _asked_once(windows: pd.DataFrame) -> pd.DataFrame:
    """Windows of which no two ask for the same token: what is asked several times is recited more often by chance."""
    ordered = windows.sort_values(["text", "token"])
    kept, last, free = [], None, 0
    for text, token in ordered[["text", "token"]].to_numpy().tolist():
        kept.append(text != last or token >= free)
        if kept[-1]:
            last, free = text, token + CONTINUATION
    return ordered[kept]


def _own(windows: pd.DataFrame) -> pd.DataFrame:
    """The windows that do not repeat themselves."""
    return windows[~repeat_themselves(windows)]


def _logs(windows: pd.DataFrame) -> pd.Series:
    return np.log(windows.cross_entropy.clip(lower=LEAST_LOSS))


def _places(windows: pd.DataFrame) -> pd.Series:
    """The number of the block of 256 tokens in which each window begins."""
    return windows.groupby(["text", windows.token // BLOCK]).ngroup()


def _blocks(windows: pd.DataFrame) -> int:
    return int(_places(windows).nunique())


def _words_alone(windows: pd.DataFrame, control: pd.DataFrame, chosen: bool) -> str:
    """Why the loss of windows says nothing beside this control; "" where it does."""
    if windows.empty:
        return ""
    if (n := _blocks(control)) < UNITS:
        return f"the control has {_counted(n, 'block')} of {BLOCK} tokens, and its losses need {UNITS}"
    if not _logs(control).std() > 0:
        return "the windows of the control are all alike"
    if not chosen and not fits(windows, control):
        return "the text as a whole is likelier than the control"
    return ""


def _set_aside(windows: pd.DataFrame, control: pd.DataFrame) -> str:
    """How many windows repeat themselves, if any does."""
    ours, theirs = int(repeat_themselves(windows).sum()), int(repeat_themselves(control).sum())
    if not ours and not theirs:
        return ""
    of = f"{theirs:,} of the control's {len(control):,}"
    return f" Set aside, as they repeat themselves, are {ours:,} of them and {of}."


def _by_text(windows: pd.DataFrame) -> pd.DataFrame:
    """Means of the windows of each text."""
    values = pd.DataFrame({"recited": windows.recited, "log_loss": _logs(windows)})
    return values.groupby(windows.text).mean()


def _as_long(windows: pd.DataFrame, others: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Of each text a part on end, from anywhere in it, as long as one of the others, in turn; shorter ones whole."""
    lengths = itertools.cycle(rng.permutation(others.groupby("text").token.agg(np.ptp)).tolist())
    parts = []
    for _, here in windows.groupby("text"):
        length = next(lengths)
        begins = here.token[here.token <= here.token.max() - length].to_numpy()
        parts.append(here[here.token.between(begin := rng.choice(begins), begin + length)] if len(begins) else here)
    return pd.concat(parts)


def _needs() -> str:
    """How many control texts a verdict on a few texts needs."""
    needs = {words: control_texts_needed(n) for n, words in enumerate(("one text", "two", "three", "four"), 1)}
    return f"Texts of the control that this needs: {', '.join(f'{m} beside {words}' for words, m in needs.items())}."


def _undecided(ours: pd.DataFrame, theirs: pd.DataFrame) -> str:
    """What can be said where there are too few texts: how far the losses lie apart, and what would decide."""
    n, losses = ours.text.nunique(), theirs.groupby("text").cross_entropy.mean()
    apart = float(losses.mean() - ours.groupby("text").cross_entropy.mean().mean())
    between = f"; the texts of the control differ by up to {np.ptp(losses):.2f}" if len(losses) > 1 else ""
    return (
        f"no verdict: the loss lies {abs(apart):.2f} nats per token {'below' if apart > 0 else 'above'} that of the "
        f"control, and never-seen texts of one kind differ too{between}; a verdict on {_counted(n, 'text')} "
        f"needs {control_texts_needed(n)} control texts, each a file or a line of a .jsonl, and there are {len(losses)}"
    )


def _p(ours: pd.Series, theirs: pd.Series, rng: np.random.Generator) -> float:
    """One-sided p of the difference in means, by all exchanges of whole texts, or by so many where there are more."""
    values, n = np.r_[ours, theirs], len(ours)
    if math.comb(len(values), n) <= DRAWS:
        sums = np.array([values[[*some]].sum() for some in itertools.combinations(range(len(values)), n)])
    else:
        sums = np.array([ours.sum(), *(rng.permutation(values)[:n].sum() for _ in range(DRAWS))])
    return float(np.mean(sums >= ours.sum() - TIED * np.abs(values).sum()))


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
