"""The numbers that pages 03 and 03b tell, by name: measured tables in, intervals and words out.

Knows neither models nor figures.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from lmmem.analysis import noise
from lmmem.analysis.contrasts import over_twins, stacked
from lmmem.analysis.randomisation import LEAST
from lmmem.analysis.statistics import Interval, interval

__all__ = [
    "answer",
    "by_cost",
    "chosen_blindly",
    "costs",
    "fading",
    "favoured",
    "fitted",
    "in_detail",
    "just_met",
    "resembling",
    "responses",
]

Numbers = dict[str, object]
NO_NULL = "no block holds two twins, so that none can be held against another"
RAW = ("average draw", "best of N", "fresh half")


def answer(found: pd.DataFrame, dispersion: pd.DataFrame) -> Numbers:
    """What noise finds of each arm, by rule 10 of the plan, and how far its draws scatter.

    Parameters
    ----------
    found : as :func:`lmmem.analysis.noise.over_draws` gives it, of the fresh half and of best-of-N.
    dispersion : as :func:`lmmem.analysis.noise.dispersion` gives it.

    Returns
    -------
    verdict : what rule 10 says of each arm, in words, and of which it says nothing, of all where A/A excludes 0
    (rule 14); null : what A/A shows. once, once_best : fresh half and best-of-N of the arm with the fewest
    presentations, `fewest`; top, top_best : of the arm that best-of-N favours most, `top_arm`. least_sd, most_sd :
    least and largest s.d. of an arm over draws, tokens; least_reach, most_reach : of (mean - best) / s.d.; expected :
    of normal draws. draws, n, n_arm : draws, sequences, and those of an arm at least.
    """
    arms = [arm for arm in found.arm.unique() if arm != noise.NULL]
    fewest = min(arms, key=lambda arm: int(arm.rpartition(" ")[2]))
    top = favoured(found)
    return {
        "verdict": _verdicts(found, arms),
        "null": _null(found),
        "fewest": fewest,
        "once": interval(found, arm=fewest, score="fresh half"),
        "once_best": interval(found, arm=fewest, score="best of N"),
        "top_arm": top,
        "top": interval(found, arm=top, score="fresh half"),
        "top_best": interval(found, arm=top, score="best of N"),
        "least_sd": dispersion.sd.min(),
        "most_sd": dispersion.sd.max(),
        "least_reach": dispersion.reach.min(),
        "most_reach": dispersion.reach.max(),
        "expected": dispersion.expected.max(),
        "draws": int(dispersion.draws.max()),
        "n": int((dispersion.n + dispersion.constant).sum()),
        "n_arm": int((dispersion.n + dispersion.constant).min()),
    }


def just_met(found: pd.DataFrame, before: pd.DataFrame) -> Numbers:
    """What noise finds of sequences presented once, at the first checkpoint after that.

    Parameters
    ----------
    found : as for :func:`answer`.
    before : the greedy table that it is of.

    Returns
    -------
    fresh, best : over twins. verdict, null : as for :func:`answer`. checkpoints : at how many; first, last : which.
    kl, kl_never : mean kl-LD of the undisturbed model, of these and of their twins.
    """
    (arm,) = [arm for arm in found.arm.unique() if arm != noise.NULL]
    steps = sorted(set(before.step))
    return {
        "fresh": interval(found, arm=arm, score="fresh half"),
        "best": interval(found, arm=arm, score="best of N"),
        "verdict": _verdicts(found, [arm]),
        "null": _null(found),
        "checkpoints": len(steps),
        "first": steps[0],
        "last": steps[-1],
        "kl": before.kl_ld[before.presentations > 0].mean(),
        "kl_never": before.kl_ld[before.presentations == 0].mean(),
    }


def favoured(found: pd.DataFrame) -> str:
    """The arm that best-of-N favours most.

    Parameters
    ----------
    found : as :func:`lmmem.analysis.noise.over_draws` gives it, of best-of-N among others.

    >>> lines = [("spread 1", "best of N", 0.5), ("spread 16", "best of N", 9.0), ("A/A", "best of N", 10.0)]
    >>> favoured(pd.DataFrame(lines, columns=["arm", "score", "estimate"]))
    'spread 16'
    """
    best = found[(found.score == "best of N") & (found.arm != noise.NULL)]
    return str(best.sort_values("estimate").arm.iloc[-1])


def in_detail(
    found: pd.DataFrame, at_cost: pd.DataFrame, parts: pd.DataFrame, blind: pd.DataFrame, usual: float
) -> Numbers:
    """What the amount of noise, its place, and who chooses the draw do to the arm that best-of-N favours most.

    Parameters
    ----------
    found : as for :func:`answer`, of more draws than the others.
    at_cost : as :func:`by_cost` gives it, over sigma in weight units.
    parts : as :func:`lmmem.analysis.noise.response` gives it by "only", of parts of the model.
    blind : as for :func:`chosen_blindly`.
    usual : sigma that the model is disturbed with elsewhere, one of those of `at_cost`.

    Returns
    -------
    arm : which. longer : its fresh half over twins by `found`. usual, most : the same at the usual and at the largest
    sigma of `at_cost`, which is `most_sigma`; cost, most_cost : what these cost, nats per token. parts : of how many,
    and which, noise alone has a fresh half above 0, in words. blind, oracle : gain over twins of the draw chosen
    without the truth, and by it. null : in how many comparisons twins against twins exclude 0 in the fresh half, in
    words.

    Raises
    ------
    ValueError : the usual sigma is not among those measured.
    """
    if usual not in set(at_cost.sigma):
        raise ValueError(
            f"sigma={usual:g} was not measured: there are {', '.join(map(str, sorted(set(at_cost.sigma))))}"
        )
    arm, most = favoured(found), at_cost.sigma.max()
    fresh = [table[table.score == "fresh half"] for table in (at_cost, parts)]
    costs = at_cost.groupby("sigma").cost.first()
    alone = fresh[1][fresh[1].arm == arm]
    above = alone.only[alone.low > 0].tolist()
    said = f"{len(above)} of {len(alone)} parts"
    null = pd.concat(fresh)
    null = null[null.arm == noise.NULL]
    off = int(((null.low > 0) | (null.high < 0)).sum())
    return {
        "arm": arm,
        "longer": interval(found, arm=arm, score="fresh half"),
        "usual": interval(fresh[0], arm=arm, sigma=usual),
        "cost": costs[usual],
        "most": interval(fresh[0], arm=arm, sigma=most),
        "most_sigma": most,
        "most_cost": costs[most],
        "parts": f"{said} ({', '.join(above)})" if above else said,
        "blind": interval(blind, arm=arm, score="majority"),
        "oracle": interval(blind, arm=arm, score="best of N"),
        "null": NO_NULL
        if null.empty
        else f"in the fresh half, twins against twins exclude 0 in {off} of {len(null)} comparisons",
    }


def chosen_blindly(found: pd.DataFrame) -> Numbers:
    """A draw chosen without the truth beside the one that is chosen with it.

    Parameters
    ----------
    found : as :func:`lmmem.analysis.noise.over_draws` gives it, of "majority" and "best of N".

    Returns
    -------
    oracle : gain over twins of the arm that it favours most, `arm`. told : that of the blind choice, arm by arm, in
    words.
    """
    arms, arm = found[found.arm != noise.NULL], favoured(found)
    blind = arms[arms.score == "majority"]
    told = [f"{line.arm} {interval(blind, arm=line.arm):.1f}" for line in blind.itertuples()]
    return {
        "arm": arm,
        "oracle": interval(arms, arm=arm, score="best of N"),
        "told": "; ".join(told),
    }


def fitted(before: pd.DataFrame, tried: pd.DataFrame, seed: int = 0) -> Numbers:
    """The fresh half at sigmas chosen on other blocks: rule 13, `told` arm by arm in words."""
    found = noise.cross_fitted(before, tried, seed=seed)
    said = [f"{line.arm} {interval(found, arm=line.arm):.1f}, chosen: {line.chosen}" for line in found.itertuples()]
    return {"told": "; ".join(said)}


def resembling(found: pd.DataFrame, arm: str) -> Numbers:
    """Whether the best draws of an arm point where training went.

    Parameters
    ----------
    found : as :func:`lmmem.analysis.noise.resemblance` gives it.
    arm : which.

    Returns
    -------
    told : in words, change by change. beyond : how many of these intervals exclude 0, of as many as `changes`.
    chance : the same of a direction by chance.

    Raises
    ------
    ValueError : no change between two checkpoints is among them.
    """
    here = found[found.arm == arm]
    changes = here[here.change.str.startswith("to step")]
    if changes.empty:
        raise ValueError("where training went takes two checkpoints, and this model has one")
    excluded = (changes.low > 0) | (changes.high < 0)
    told = [f"{line.change} {interval(changes, change=line.change):.2f}" for line in changes.itertuples()]
    chance = interval(here[~here.change.str.startswith("to step")], arm=arm)
    return {"told": "; ".join(told), "beyond": int(excluded.sum()), "changes": len(changes), "chance": chance}


def responses(before: pd.DataFrame, tried: pd.DataFrame) -> pd.DataFrame:
    """What passages gain at each sigma, by the average draw, the best of them and the fresh half, from zero noise on.

    Parameters
    ----------
    before, tried : as for :func:`lmmem.analysis.noise.scored`, of several sigmas.

    Returns
    -------
    One line a (score, sigma, passage): the columns of `before`, score, sigma, gain (tokens); without noise nothing
    is gained.
    """
    still = before.assign(gain=0.0, sigma=0.0)
    tables = {}
    for score in RAW:
        at = [noise.scored(before, part, score).assign(sigma=sigma) for sigma, part in tried.groupby("sigma")]
        tables[score] = pd.concat([still, *at], ignore_index=True)
    return stacked(tables, "score")


def by_cost(found: pd.DataFrame, costs: pd.DataFrame, by: str = "sigma") -> pd.DataFrame:
    """A response over sigma, as one over what this sigma costs on text that the model has not met.

    Parameters
    ----------
    found : columns `by` and any others.
    costs : as ``Study.cost_of_noise`` gives it, of the same kinds of noise.

    Returns
    -------
    Its lines with a column cost (nats per token), mean over draws.

    Raises
    ------
    ValueError : what something costs is not known.
    """
    mean = costs.groupby(by).cost.mean()
    if unknown := sorted(set(found[by]) - set(mean.index), key=str):
        raise ValueError(f"what {by} {', '.join(map(str, unknown))} costs is not known: measure it too")
    return found.assign(cost=found[by].map(mean))


def costs(measured: pd.DataFrame, sigma: float) -> Numbers:
    """What noise costs, at one sigma: cost (nats per token), undisturbed, share (%), rows, power.

    `power` is the slope of log cost on log sigma over all that are measured: 2 where the loss is a parabola.
    """
    mean = measured.groupby("sigma").cost.mean()
    rising = mean[(mean > 0) & (mean.index > 0)]
    undisturbed = measured.undisturbed.iloc[0]
    return {
        "cost": mean[sigma],
        "undisturbed": undisturbed,
        "share": 100 * mean[sigma] / undisturbed,
        "rows": int(measured.n.iloc[0]),
        "power": np.polyfit(np.log(rising.index), np.log(rising), 1)[0] if len(rising) > 1 else np.nan,
    }


def _verdicts(found: pd.DataFrame, arms: list[str]) -> str:
    """Rule 10, arm by arm, in words; by rule 14 none where A/A excludes 0."""
    said: dict[str, list[str]] = {}
    null = found[(found.arm == noise.NULL) & (found.score == "fresh half")]
    off = bool(((null.low > 0) | (null.high < 0)).any())
    for arm in arms:
        fresh, best = (interval(found, arm=arm, score=score) for score in ("fresh half", "best of N"))
        words = f"noise {noise.by_rule_10(fresh, best)}"
        if off:
            words = "A/A excludes 0, so that by rule 14 there is no verdict on"
        if fresh.n < LEAST:
            words = f"fewer than {LEAST} passages give no verdict on"
        said.setdefault(words, []).append(f"{arm} (n = {fresh.n})")
    return ", ".join(f"{words} {' and '.join(names)}" for words, names in said.items())


def _null(found: pd.DataFrame) -> str:
    """What one half of the twins shows against the other."""
    if noise.NULL not in set(found.arm):
        return NO_NULL
    null: Interval = interval(found, arm=noise.NULL, score="fresh half")
    said = f"twins against twins show {null:.1f} tokens in the fresh half"
    if null.excludes_zero:
        return said + ", which is not 0 as it should be: by rule 14 nothing beside it gets a verdict"
    return said + ", as they should"


def fading(history: pd.DataFrame, met: tuple[int, int]) -> Numbers:
    """What is left at the end of sequences that are not presented any more.

    Parameters
    ----------
    history : greedy table over steps, of one group with its unexposed, or where it has none, those of another.
    met : first and last step at which they are presented.

    Returns
    -------
    most : presentations of the arm that is told of. inside : the last measured step at which they are still
    presented, else the first after it; kl_inside, kl_end, kl_never : mean kl-LD then, at the end, and of the
    unexposed at the end. ahead, ahead_loss : at the end, of the unexposed, in tokens and in nats per token.
    opens, closes, end : steps.
    """
    steps, end, most = sorted(history.step.unique()), history.step.max(), history.presentations.max()
    inside = max(
        [s for s in steps if met[0] <= s <= met[1]], default=min([s for s in steps if s >= met[1]], default=end)
    )
    mean = history.groupby(["step", "presentations"]).kl_ld.mean()
    last = history[history.step == end]
    ahead, ahead_loss = (
        interval(over_twins(last.assign(ahead=-last[of]), "ahead"), presentations=most)
        for of in ("kl_ld", "cross_entropy")
    )
    return {
        "most": int(most),
        "inside": int(inside),
        "kl_inside": mean[inside, most],
        "kl_end": mean[end, most],
        "kl_never": mean[end, 0],
        "ahead": ahead,
        "ahead_loss": ahead_loss,
        "opens": met[0],
        "closes": met[1],
        "end": int(end),
    }
