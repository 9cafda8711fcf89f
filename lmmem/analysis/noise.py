"""What noise on the weights finds beyond luck: the fresh half, dispersion, choices that need no truth.

The best of many draws rewards whatever scatters, and is chosen by knowing the truth. Here a draw is chosen by
one half of a continuation and scored on the other; and because all passages share the draws, intervals draw
blocks and draws anew. Tables of :class:`lmmem.experiments.study.Study` in, tidy tables out. Knows neither
models nor figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import integrate, stats

from lmmem.analysis.randomisation import LEAST, Clustered, clustered
from lmmem.analysis.statistics import Interval, bootstrap, check_columns

__all__ = [
    "SCORES",
    "by_rule_10",
    "cross_fitted",
    "dispersion",
    "expected_maximum",
    "over_draws",
    "resemblance",
    "response",
    "scored",
    "strata",
]

COMPLEX = 0.8  # z-complexity above which the paper takes the passages that were presented once
RESAMPLES = 400  # of the draws
FEWER = 4  # times fewer draws in a resample than there are, where one of them is chosen
KINDS = ("sigma", "unit", "only")  # columns that tell one kind of noise from another
NULL = "A/A"  # one half of the unexposed against the other


def by_rule_10(fresh: Interval, best: Interval) -> str:
    """What noise does by the plan's rule 10: "finds", "hardly finds" or "does not find".

    >>> by_rule_10(Interval(0.4, -1.0, 1.8, 16), Interval(5.0, 2.0, 8.0, 16))
    'hardly finds'
    """
    return "finds" if fresh.low > 0 else "hardly finds" if best.low > 0 else "does not find"


class _Tried(NamedTuple):
    """What was measured, by draw and passage."""

    passages: pd.DataFrame  # n lines
    whole: np.ndarray  # (N, n) kl-LD
    first: np.ndarray  # (N, n) of the first half of the continuation
    second: np.ndarray  # (N, n) of the rest
    agreement: np.ndarray | None  # (N, n) tokens that are those most draws say; None if tokens were not kept


def _fresh_half(tried: _Tried, weights: np.ndarray) -> np.ndarray:
    chosen = _chosen(tried.first, tried.second, weights)
    return tried.passages.kl_second.to_numpy(dtype=float) - chosen


def _best(tried: _Tried, weights: np.ndarray) -> np.ndarray:
    return tried.passages.kl_ld.to_numpy(dtype=float) - tried.whole[weights > 0].min(axis=0)


def _average(tried: _Tried, weights: np.ndarray) -> np.ndarray:
    return tried.passages.kl_ld.to_numpy(dtype=float) - weights @ tried.whole / weights.sum()


def _majority(tried: _Tried, weights: np.ndarray) -> np.ndarray:
    if tried.agreement is None:
        raise ValueError("the draw that agrees with most needs what was said: measure with keep_tokens=True")
    return tried.passages.kl_ld.to_numpy(dtype=float) - _chosen(-tried.agreement, tried.whole, weights)


Score = Callable[[_Tried, np.ndarray], np.ndarray]
SCORES: dict[str, Score] = {
    "fresh half": _fresh_half,
    "best of N": _best,
    "average draw": _average,
    "majority": _majority,
}


def scored(before: pd.DataFrame, tried: pd.DataFrame, score: str = "fresh half") -> pd.DataFrame:
    """What each passage gains by noise, in tokens, by one of several scores.

    "fresh half": the draw that is closest to the truth in the first half of the continuation, scored on the second
    half, beside the undisturbed second half; several that are equally close are averaged, which is what a choice
    among them by chance would give. "best of N": the draw that is closest in the whole, chosen by knowing the truth.
    "average draw". "majority": the draw whose tokens are most often those that most draws say at their places,
    chosen without the truth.

    Parameters
    ----------
    before : as ``Study.greedy`` gives it; of several steps, a line a (step, sequence).
    tried : as ``Study.perturbed`` gives it, of one kind of noise; for "majority" with keep_tokens.
    score : one of SCORES.

    Returns
    -------
    The lines of `before` with a column gain.

    Raises
    ------
    ValueError : no such score; several kinds of noise; a column or a draw is missing.

    >>> before = pd.DataFrame({"index": [7], "step": 1, "kl_ld": [60], "kl_second": [30]})
    >>> draws = {"index": 7, "step": 1, "draw": [0, 1], "kl_ld": [50, 40], "kl_first": [20, 30], "kl_second": [30, 10]}
    >>> [float(scored(before, pd.DataFrame(draws), score).gain[0]) for score in ("fresh half", "best of N")]
    [0.0, 20.0]
    """
    data = _tried(before, tried)
    return data.passages.assign(gain=_gains(data, score, seed=0)[0])


def over_draws(
    before: pd.DataFrame,
    tried: pd.DataFrame,
    scores: Sequence[str] = ("fresh half", "best of N"),
    *,
    pooled: bool = False,
    clusters: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Gains of the exposed over those of their unexposed twins, with blocks and draws both drawn anew.

    Parameters
    ----------
    before, tried : as for :func:`scored`; with columns arm, group, presentations, block. Passages of one block at
        several steps are compared within each.
    scores : of SCORES.
    pooled : compare with all the unexposed that there are, and not with those of the same block.
    clusters : column of `before` whose values are drawn anew in the place of blocks, for instance file, as of
        :func:`lmmem.analysis.randomisation.cluster_difference`; not with `pooled`.
    seed : of the bootstrap.

    Returns
    -------
    One line an (arm, score): arm, score, estimate, low, high (tokens), n. Where blocks hold two unexposed passages
    or more, the arm "A/A" is one half of them, by chance, against the other.

    Raises
    ------
    ValueError : as for :func:`scored`; no unexposed passage, or none in the block of an exposed one; passages of
        fewer than two blocks, or clusters; clusters of what is pooled.

    The interval is the estimate and t times its standard error. Its square sums the variance over blocks, clustered,
    and what a bootstrap over draws moves all passages by together; what it moves each of them by alone is in the
    variance over blocks already, and is taken off. (Draws and blocks are crossed: Owen 2007, "The pigeonhole
    bootstrap", arXiv 0712.1111, shows what is counted twice otherwise.)
    """
    if pooled and clusters:
        raise ValueError(f"errors by {clusters} are those of twins of the same block: give pooled or clusters")
    data = _tried(before, tried)
    arms, gains = _arms(data.passages, pooled, seed, clusters), {score: _gains(data, score, seed) for score in scores}
    lines = [(arm.name, score, *arm.interval(found)) for score, found in gains.items() for arm in arms]
    return pd.DataFrame(lines, columns=["arm", "score", *Interval._fields])


def response(
    before: pd.DataFrame,
    tried: pd.DataFrame,
    by: str = "sigma",
    scores: Sequence[str] = ("fresh half", "best of N"),
    seed: int = 0,
    clusters: str | None = None,
) -> pd.DataFrame:
    """As :func:`over_draws`, for each kind of noise apart.

    Parameters
    ----------
    by : column of `tried` whose values are told apart: "sigma" or "only".
    clusters : as for :func:`over_draws`.

    Returns
    -------
    Its lines with a column `by`.
    """
    check_columns(tried, [by])
    found = [
        over_draws(before, part, scores, clusters=clusters, seed=seed).assign(**{by: key})
        for key, part in tried.groupby(by)
    ]
    return pd.concat(found, ignore_index=True)


def strata(
    before: pd.DataFrame,
    tried: pd.DataFrame,
    scores: Sequence[str] = ("fresh half", "best of N"),
    edge: float = COMPLEX,
    least: int = LEAST,
    seed: int = 0,
) -> pd.DataFrame:
    """As :func:`over_draws`, of passages below a z-complexity and of those at or above it.

    Their twins are the unexposed of the same stratum, of all blocks: chance decided who was exposed, whatever
    their z-complexity, and few blocks hold two so alike.

    Parameters
    ----------
    edge : where the strata meet.
    least : passages of an arm, and unexposed ones, that an interval needs.

    Returns
    -------
    One line a (stratum, arm, score): stratum, arm, score, estimate, low, high, n; where there are too few, n is
    told and the interval is nan.
    """
    check_columns(before, ["z_complexity", "arm", "presentations"])
    found = []
    for stratum, inside in (
        (f"below {edge:g}", before.z_complexity < edge),
        (f"{edge:g} and above", before.z_complexity >= edge),
    ):
        here = before[inside]
        twins = int(_unexposed(here).sum())
        sizes = here[here.presentations > 0].groupby("arm").size()
        told = list(sizes[sizes >= least].index) if twins >= least else []
        few = [arm for arm in before.arm[before.presentations > 0].unique() if arm not in told]
        if told:
            kept = here[here.arm.isin(told) | _unexposed(here)]
            table = over_draws(kept, tried, scores, pooled=True, seed=seed)
            found.append(table[table.arm != NULL].assign(stratum=stratum))
        lines = [(arm, score, *[np.nan] * 3, min(int(sizes.get(arm, 0)), twins)) for arm in few for score in scores]
        found.append(pd.DataFrame(lines, columns=["arm", "score", *Interval._fields]).assign(stratum=stratum))
    columns = ["stratum", "arm", "score", *Interval._fields]
    return pd.concat([part for part in found if len(part)], ignore_index=True)[columns]


def cross_fitted(
    before: pd.DataFrame, tried: pd.DataFrame, by: str = "sigma", score: str = "fresh half", seed: int = 0
) -> pd.DataFrame:
    """The gain at the sigma that is best on other blocks: rule 13 of the plan.

    Of the blocks that an arm is in, every second one chooses, and the others are judged; and the reverse.

    Parameters
    ----------
    before, tried : as for :func:`over_draws`, of several kinds of noise.
    by : column of `tried` that is chosen.
    score : of SCORES, by which it is chosen and judged.

    Returns
    -------
    One line an arm: arm, score, chosen (on either half), estimate, low, high (tokens), n.

    Raises
    ------
    ValueError : as for :func:`over_draws`; or an arm is in fewer than four blocks.
    """
    check_columns(tried, [by])
    kinds = {key: _tried(before, part) for key, part in tried.groupby(by)}
    data = list(kinds.values())
    if len({len(one.whole) for one in data}) > 1:
        raise ValueError(f"every {by} needs the same draws, or those with more are better by luck alone")
    gains = np.stack([_gains(one, score, seed) for one in data])  # (kinds, 1 + resamples, n)
    lines = []
    for arm in _arms(data[0].passages, False, seed):
        inside = np.unique(arm.blocks[arm.weights != 0])
        if arm.name == NULL:
            continue
        if len(inside) < 4:
            raise ValueError(f"{arm.name}: it is in {len(inside)} blocks, and to choose in half of them takes 4")
        odd = np.isin(arm.blocks, inside[1::2])
        best = [int(np.argmax(gains[:, 0] @ np.where(half, arm.weights, 0))) for half in (~odd, odd)]
        judged = np.where(odd, gains[best[0]], gains[best[1]])
        chosen = " and ".join(np.array([*kinds]).astype(str)[best])
        lines.append((arm.name, score, chosen, *arm.interval(judged)))
    return pd.DataFrame(lines, columns=["arm", "score", "chosen", *Interval._fields])


def expected_maximum(n: int) -> float:
    """The largest of n independent standard normal numbers, on average: what the best of n draws reaches by luck.

    Parameters
    ----------
    n : how many, 1 or more.

    >>> round(expected_maximum(200), 2)
    2.75
    """
    if n < 1:
        raise ValueError(f"the largest of n={n} numbers: give 1 or more")
    density = lambda x: x * n * stats.norm.pdf(x) * stats.norm.cdf(x) ** (n - 1)  # noqa: E731
    return float(integrate.quad(density, -10, 10)[0])


def dispersion(before: pd.DataFrame, tried: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """How far the draws scatter, and how far the best of them lies from their mean, arm by arm.

    Parameters
    ----------
    before, tried : as for :func:`over_draws`.
    seed : of the bootstraps over passages.

    Returns
    -------
    One line an arm: arm, n, constant (passages in which all draws are equally far, which are left out), draws (N);
    mean, sd, best : kl-LD of a passage's draws, tokens, averaged over passages; by_luck : the best of N normal
    draws of the same mean and s.d., tokens; reach, low, high : (mean - best) / s.d., and its interval; expected :
    what it is of N normal draws.

    Raises
    ------
    ValueError : as for :func:`scored`, or there are fewer than two draws.
    """
    data = _tried(before, tried)
    check_columns(data.passages, ["arm", "presentations"])
    draws = len(data.whole)
    if draws < 2:
        raise ValueError(f"draws scatter only where there are 2 or more, got {draws}")
    scatter = data.passages.assign(mean=data.whole.mean(0), sd=data.whole.std(0, ddof=1), best=data.whole.min(0))
    lines = []
    for arm, every in scatter.groupby("arm"):
        here = every[every.sd > 0]
        reach = (here["mean"] - here.best) / here.sd
        low, high = bootstrap(np.mean, reach, seed=seed)[1:3] if len(here) > 1 else (np.nan, np.nan)
        means = here[["mean", "sd", "best"]].mean().to_dict()
        luck = means["mean"] - expected_maximum(draws) * means["sd"]
        line = {"arm": arm, "n": len(here), "constant": len(every) - len(here), "draws": draws, **means}
        line |= {"by_luck": luck, "reach": reach.mean(), "low": low, "high": high}
        lines.append(line | {"expected": expected_maximum(draws)})
    return pd.DataFrame(lines)


def resemblance(before: pd.DataFrame, tried: pd.DataFrame, cosines: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Whether the noise of the best draw points where training went: its cosine beside that of all draws.

    Parameters
    ----------
    before, tried : as for :func:`over_draws`.
    cosines : as ``Study.resembling`` gives them: change, draw, cosine, weights (of the model).
    seed : of the bootstrap.

    Returns
    -------
    One line a (change, arm): change, arm, alone (mean over passages, the best draw's minus the mean of all
    draws), estimate, low, high (the same over twins), n; all in units of one over the root of the number of
    weights, which is the s.d. of a random direction.

    Raises
    ------
    ValueError : as for :func:`over_draws`, or a draw has no cosine.
    """
    check_columns(cosines, ["change", "draw", "cosine", "weights"])
    data, numbers = _tried(before, tried), np.sort(tried.draw.unique())
    drawn = _drawn(len(numbers), False, seed)
    lines = []
    for change, part in cosines.groupby("change", sort=False):
        along = (part.set_index("draw").cosine * np.sqrt(part.weights.iloc[0])).reindex(numbers)
        if along.isna().any():
            raise ValueError(f"{change}: {int(along.isna().sum())} of {len(numbers)} draws have no cosine")
        of_all = np.broadcast_to(along.to_numpy()[:, None], data.whole.shape)
        found = np.stack([_chosen(data.whole, of_all, w) - w @ along.to_numpy() / w.sum() for w in drawn])
        for arm in _arms(data.passages, False, seed):
            alone = found[0][arm.exposed].mean()
            lines.append((change, arm.name, alone, *arm.interval(found)))
    return pd.DataFrame(lines, columns=["change", "arm", "alone", *Interval._fields])


class _Arm(NamedTuple):
    """A difference of means: `weights` @ scores."""

    name: str
    weights: np.ndarray  # (n,)
    exposed: np.ndarray  # (n,) whose side a passage is on
    blocks: np.ndarray  # (n,)
    pooled: bool
    clusters: np.ndarray | None = None  # (n,) what is drawn anew; None is blocks

    def interval(self, gains: np.ndarray) -> Interval:
        """Of scores as :func:`_gains` gives them."""
        redrawn, over = gains[1:], self._over_passages(gains[0])
        apart = self.weights**2 @ redrawn.var(axis=0, ddof=1)
        together = max(0.0, float((redrawn @ self.weights).var(ddof=1) - apart))
        return over._replace(error=np.sqrt(over.error**2 + together)).interval()

    def _over_passages(self, scores: np.ndarray) -> Clustered:
        """The difference, and its standard error but for what draws move all passages by."""
        if self.clusters is not None:
            used = self.weights != 0
            return clustered(scores[used], self.exposed[used], self.blocks[used], self.clusters[used])
        estimate = float(self.weights @ scores)
        centre = np.where(self.exposed, estimate, 0.0)
        if self.pooled:
            centre = np.where(self.exposed, scores[self.exposed].mean(), scores[self.weights < 0].mean())
        off = np.bincount(self.blocks, self.weights * (scores - centre))
        clusters = len(np.unique(self.blocks[self.weights != 0]))
        if clusters < 2:
            raise ValueError(f"{self.name}: passages of {clusters} block, and an interval needs 2")
        error = float(np.sqrt(clusters / (clusters - 1) * (off @ off)))
        return Clustered(estimate, error, clusters - 1, int(self.exposed.sum()))


def _gains(data: _Tried, score: str, seed: int) -> np.ndarray:
    """Of each passage by a score, first as measured and then with other draws: (1 + resamples, n).

    A draw that is chosen is one of the few that stand out. A bootstrap of all draws finds these again and again,
    and shows two fifths of the variance; one of a quarter of them shows it, or more (Bickel, Goetze and van Zwet
    1997, "Resampling fewer than n observations"). What no draw is chosen for has a bootstrap of all.
    """
    if score not in SCORES:
        raise ValueError(f"unknown score {score!r}; choose among {', '.join(SCORES)}")
    return np.stack(
        [SCORES[score](data, weights) for weights in _drawn(len(data.whole), score == "average draw", seed)]
    )


def _drawn(n: int, all_of_them: bool, seed: int) -> np.ndarray:
    """How often each of n draws comes: first each once, then as drawn anew, (1 + resamples, n)."""
    size = n if all_of_them else max(2, n // FEWER)
    anew = np.random.default_rng(seed).multinomial(size, np.full(n, 1 / n), size=RESAMPLES)
    return np.concatenate([np.ones((1, n)), anew])


def _chosen(by: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of each passage, the values (N, n) at the draws that are least `by` (N, n), those equally so averaged."""
    there = weights > 0
    shares = weights[there, None] * (by[there] == by[there].min(axis=0))
    return (shares * values[there]).sum(axis=0) / shares.sum(axis=0)


def _unexposed(passages: pd.DataFrame) -> pd.Series:
    """Which passages are twins: those from elsewhere are none."""
    return (passages.presentations == 0) & (passages.group != "elsewhere")


def _arms(passages: pd.DataFrame, pooled: bool, seed: int, clusters: str | None = None) -> list[_Arm]:
    """Each arm of the exposed against its twins, and one half of the twins against the other."""
    check_columns(passages, ["arm", "group", "presentations", "block", *([clusters] if clusters else [])])
    never = _unexposed(passages).to_numpy()
    if not never.any():
        raise ValueError("nothing to compare with: no sequence is unexposed")
    blocks = passages.groupby(["step", "block"]).ngroup().to_numpy()
    groups, spare = passages.group.to_numpy(), passages.group[never].min()
    found = []
    exposed_arms = passages[passages.presentations > 0].drop_duplicates("arm").sort_values(["group", "presentations"])
    for name, group in zip(exposed_arms.arm, exposed_arms.group, strict=True):
        twins = never & (groups == (group if (groups[never] == group).any() else spare))
        found.append(_against(name, (passages.arm == name).to_numpy(), twins, blocks, pooled))
    chance = pd.Series(np.random.default_rng(seed).permutation(int(never.sum())))  # the order of lines is no chance
    turn = chance.groupby(blocks[never]).rank().to_numpy(dtype=int) - 1
    size = np.bincount(blocks[never], minlength=blocks.max() + 1)[blocks[never]]
    halves = [np.zeros(len(passages), dtype=bool) for _ in range(2)]
    for half, mine in enumerate(halves):
        mine[np.flatnonzero(never)[(size > 1) & (turn % 2 == half)]] = True
    if len(np.unique(blocks[halves[1]])) > 1:
        found.append(_against(NULL, halves[0], halves[1], blocks, pooled=False))
    labels = None if clusters is None else passages[clusters].to_numpy()
    return [arm._replace(clusters=labels) for arm in found]


def _against(name: str, exposed: np.ndarray, twins: np.ndarray, blocks: np.ndarray, pooled: bool) -> _Arm:
    weights = exposed / exposed.sum()
    if pooled:
        return _Arm(name, weights - twins / twins.sum(), exposed, blocks, pooled)
    mine, theirs = (np.bincount(blocks, of, minlength=blocks.max() + 1) for of in (exposed, twins))
    if lone := int(mine[theirs == 0].sum()):
        raise ValueError(f"{lone} sequences of {name} have no unexposed twin in their block")
    return _Arm(name, weights - twins * (mine / np.maximum(theirs, 1))[blocks] / exposed.sum(), exposed, blocks, pooled)


def _tried(before: pd.DataFrame, tried: pd.DataFrame) -> _Tried:
    """Draws by passages, in the order of `before`.

    Raises
    ------
    ValueError : columns are missing, there are several kinds of noise, or passages have not all the same draws.
    """
    check_columns(before, ["index", "step", "kl_ld", "kl_second"])
    check_columns(tried, ["index", "step", "draw", "kl_ld", "kl_first", "kl_second"])
    for kind in KINDS:
        if kind in tried and tried[kind].nunique() > 1:
            raise ValueError(f"{tried[kind].nunique()} values of {kind}: give noise of one kind at a time")
    passages = before.reset_index(drop=True)
    key = ["step", "index"]
    if passages[key].duplicated().any():
        raise ValueError("a sequence is there twice at a step: give each once")
    wanted = pd.MultiIndex.from_frame(passages[key])

    def by_draw(column: str) -> np.ndarray:
        wide = tried.pivot(index="draw", columns=key, values=column).reindex(columns=wanted)
        if lacking := int(wide.isna().any().sum()):
            raise ValueError(f"{lacking} of {len(wanted)} sequences do not have all of the {len(wide)} draws")
        return wide.to_numpy()

    whole, first, second = (by_draw(column).astype(float) for column in ("kl_ld", "kl_first", "kl_second"))
    agreement = None
    if "said" in tried:
        said = np.stack([*by_draw("said").ravel()]).reshape(*whole.shape, -1)  # (N, n, l)
        agreement = np.stack([_agreement(said[:, i]) for i in range(said.shape[1])], axis=1)
    return _Tried(passages, whole, first, second, agreement)


def _agreement(said: np.ndarray) -> np.ndarray:
    """Of each of N continuations (N, l), how many of its tokens are those that most of them have at their places."""
    most = stats.mode(said, axis=0).mode  # (l,)
    return (said == most).sum(axis=1).astype(float)
