"""Recognition beside recall: what the page on diagnosis tells, from tables of scores.

Tables of :meth:`lmmem.experiments.study.Study.scores` in, tidy tables and numbers out. Knows neither how a score is
measured, nor models, nor figures.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lmmem.analysis import detection
from lmmem.analysis.contrasts import over_twins, told_from
from lmmem.analysis.randomisation import LEAST, proportion
from lmmem.analysis.statistics import LEVEL, Interval, check_columns, interval, told

__all__ = [
    "LABELS",
    "SCORES",
    "against_recall",
    "answer",
    "beside_noise",
    "by_quarter",
    "calibrated",
    "curves",
    "left_out",
    "matched",
    "noise_adds",
    "table_of",
    "told_noise",
    "with_recall",
]

TWINS = "over_twins"  # the score that an auditor without unexposed passages of the same kind cannot ask
STRATA = 8  # of z-complexity
SCORES = {  # of the likelihood, as they are called
    "loss": "loss",
    "whole_row": "loss, prompt too",
    "zlib_normalised": "loss, zlib-normalised",
    "min_k": "Min-K%",
    "min_k_plus": "Min-K%++",
    "mean_rank": "mean rank",
    "over_twins": "loss over twins",
    "over_earlier": "loss over an earlier step",
    "over_mismatched": "loss over mismatched prompts",
}
LABELS = SCORES | {
    "recall": "greedy kl-LD",
    "noise": "best kl-LD under noise",
    "both": "best score and noise",
}


def with_recall(scored: pd.DataFrame, greedy: pd.DataFrame) -> pd.DataFrame:
    """Scores beside what is recalled, by presentations: columns kl_ld, memorised, and recall, which is minus kl_ld.

    Parameters
    ----------
    scored : as ``Study.scores`` gives it. greedy : as ``Study.greedy`` gives it, of the same sequences.

    Raises
    ------
    ValueError : the sequences are not the same.

    >>> scored = pd.DataFrame({"index": [1, 2], "loss": [0.5, 0.6]})
    >>> greedy = pd.DataFrame({"index": [2, 1], "kl_ld": [9, 0], "memorised": [False, True]})
    >>> with_recall(scored, greedy).recall.tolist()
    [0, -9]
    """
    if set(scored["index"]) != set(greedy["index"]):
        raise ValueError("scores and greedy continuations are of different sequences: measure the same")
    found = scored.merge(greedy[["index", "kl_ld", "memorised"]], on="index")
    if "presentations" in found:
        found = found.sort_values("presentations", kind="stable", ignore_index=True)
    return found.assign(recall=-found.kl_ld)


def answer(found: pd.DataFrame, areas: pd.DataFrame, names: Sequence[str], twins: str) -> dict[str, object]:
    """What the page opens with.

    Parameters
    ----------
    found : as :func:`with_recall` gives it, of one group of arms and their twins.
    areas : :func:`lmmem.analysis.detection.compare` of it, recall among the scores.
    names : scores that are there. twins : the arm of the unexposed.

    Returns
    -------
    fewest : presentations of the arm with the fewest. best, best_area : the score that tells it best, chosen in one
    half of the blocks and judged in the other. alone, alone_area : the same of scores that need no twins. loss,
    recall : areas of these. tells, recited : from how many presentations on the loss tells an arm (of those of 16
    passages or more), and half are recited. silent : arms of which nothing is recited and that the best score tells.
    negatives, n : numbers.
    """
    order = _arms(found, twins)
    once = str(order.index[0])
    alone = [name for name in names if name != TWINS]
    best = detection.chosen(found, names, once, twins)
    fair = detection.compare(best, ["best"], twins, strata="half")
    second = detection.chosen(found, alone, once, twins)
    fair_alone = detection.compare(second, ["best"], twins, strata="half")
    recited = [float(found.memorised[found.arm == arm].mean()) for arm in order.index]
    lines = areas.set_index(["score", "arm"])
    large = [arm for arm in order.index if (found.arm == arm).sum() >= LEAST]
    by_loss = [bool(lines.verdict[("loss", arm)] == "tells") for arm in large]
    tells = set(fair.arm[fair.verdict == "tells"])
    silent = [
        f"{m} ({interval(fair, arm=arm).brief()})"
        for (arm, m), share in zip(order.items(), recited, strict=True)
        if share == 0 and arm in tells
    ]
    return {
        "fewest": int(order.iloc[0]),
        "best": _told(best),
        "best_area": interval(fair, arm=once),
        "alone": _told(second),
        "alone_area": interval(fair_alone, arm=once),
        "loss": interval(areas, score="loss", arm=once),
        "recall": interval(areas, score="recall", arm=once),
        "tells": told_from(order[large], by_loss),
        "recited": told_from(order, [share >= 0.5 for share in recited]),
        "silent": ", ".join(silent) or "none",
        "negatives": int((found.arm == twins).sum()),
        "n": len(found),
    }


def against_recall(found: pd.DataFrame, names: Sequence[str], twins: str) -> dict[str, pd.DataFrame]:
    """Recognition against recall over presentations: three tables, by what their axis is called.

    Parameters
    ----------
    found, names, twins : as for :func:`answer`.

    Returns
    -------
    One line an arm (and score) each: presentations, estimate, low, high, n; in the first, by score: the area of the
    best score, chosen as :func:`answer` says, and of greedy kl-LD. Then the share recited with its exact interval, and
    kl-LD ahead of the twins in tokens.
    """
    order = _arms(found, twins)
    best = detection.chosen(found, names, str(order.index[0]), twins)
    areas = detection.compare(best, ["best", "recall"], twins, strata="half")
    named = areas.score.map({"best": "best score", "recall": LABELS["recall"]})
    shares = []
    for arm, m in order.items():
        recited = found.memorised[found.arm == arm]
        shares.append((m, *proportion(int(recited.sum()), len(recited))))
    ahead = over_twins(found.assign(ahead=-found.kl_ld), "ahead", ["presentations"], twins=twins)
    return {
        "area under the ROC curve": areas.assign(score=named, presentations=areas.arm.map(order)),
        "share recited word for word": pd.DataFrame(shares, columns=["presentations", *Interval._fields]),
        "kl-LD ahead of twins (tokens)": ahead,
    }


def table_of(areas: pd.DataFrame, cost: Mapping[str, int], by: str = "arm") -> pd.DataFrame:
    """Intervals as text, scores by arms, with the forward passes that a score costs.

    Parameters
    ----------
    areas : as :func:`lmmem.analysis.detection.compare` or :func:`~lmmem.analysis.detection.found_by_arm` gives it.
        Columns with fewer than 16 sequences, of which there is no verdict, are left out where others are there.
    cost : forward passes of each score.
    by : the column whose values give the columns.

    >>> areas = pd.DataFrame({"score": ["loss"], "arm": ["a 1"], "estimate": 0.9, "low": 0.8, "high": 1.0, "n": 20})
    >>> table_of(areas, {"loss": 1}).loc["loss", "a 1 (n = 20)"]
    '0.90 (0.80 to 1.00)'
    """
    check_columns(areas, ["score", by, *Interval._fields])
    enough = areas[areas.n >= LEAST]
    kept = enough if len(enough) else areas
    named = kept.assign(**{by: kept[by].astype(str) + " (n = " + kept.n.astype(str) + ")"})
    wide = told(named, "score", by, digits=2)[named[by].unique()].loc[kept.score.unique()]
    wide.insert(0, "passes", [cost[name] for name in wide.index])
    return wide.rename(index=LABELS).rename_axis(columns=None)


def by_quarter(found: pd.DataFrame, names: Sequence[str], arm: str, twins: str, step: int) -> pd.DataFrame:
    """How well those met at one time of training are told, by its quarter, or its half where a quarter has too few.

    Parameters
    ----------
    found, names, twins : as for :func:`answer`. arm : whose sequences are met once. step : the last one.

    Returns
    -------
    As :func:`lmmem.analysis.detection.compare`, by a column met ("step 1 to 375").
    """
    check_columns(found, ["exposure_step"])
    here = found[found.arm.isin([arm, twins])]
    own = here.arm == arm
    for parts in (4, 2, 1):
        edges = np.linspace(0, step, parts + 1).round().astype(int)
        labels = [f"step {first + 1} to {last}" for first, last in itertools.pairwise(edges)]
        part = np.clip(np.searchsorted(edges, here.exposure_step, "left") - 1, 0, parts - 1)
        if np.bincount(part[own], minlength=parts)[np.unique(part[own])].min() >= 2:
            break
    met = pd.Series(np.array(labels)[part], index=here.index).where(own)
    return detection.compare(here.assign(met=met).sort_values("exposure_step"), names, twins, by="met")


def matched(found: pd.DataFrame, names: Sequence[str], arm: str, twins: str) -> pd.DataFrame:
    """One arm told from its twins: all together, at like z-complexity, and within blocks.

    Parameters
    ----------
    As for :func:`by_quarter`; columns z_complexity and block.

    Returns
    -------
    One line a (score, way): as :func:`lmmem.analysis.detection.compare`, with a column way in the place of arm.
    Strata of z-complexity are eighths, or as many as leave none without twins.

    Raises
    ------
    ValueError : as for :func:`lmmem.analysis.detection.compare`; a block holds sequences of the arm and no twin.
    """
    here = found[found.arm.isin([arm, twins])]
    number = next(
        n
        for n in range(STRATA, 0, -1)
        if n == 1 or pd.crosstab(detection.strata_of(here.z_complexity, n), here.arm)[twins].min() > 0
    )
    here = here.assign(stratum=detection.strata_of(here.z_complexity, number))
    ways = {"all together": None, "at like z-complexity": "stratum", "within blocks": "block"}
    parts = [detection.compare(here, names, twins, strata=strata).assign(way=way) for way, strata in ways.items()]
    return pd.concat(parts, ignore_index=True).drop(columns="arm")


def curves(found: pd.DataFrame, names: Sequence[str], arm: str, twins: str, seed: int = 0) -> pd.DataFrame:
    """ROC curves of some scores at telling an arm, one below another, with bands.

    Parameters
    ----------
    found, twins : as for :func:`answer`. names : scores to draw. seed : of the bootstraps.

    Returns
    -------
    Lines of :func:`lmmem.analysis.detection.roc`, with a column score.
    """
    ours, theirs = found[found.arm == arm], found[found.arm == twins]
    parts = [
        detection.roc(ours[name], theirs[name], ours.file, theirs.file, seed=seed).assign(score=LABELS[name])
        for name in names
    ]
    return pd.concat(parts, ignore_index=True)


def calibrated(found: pd.DataFrame, names: Sequence[str], arm: str, twins: str, seed: int = 0) -> pd.DataFrame:
    """What probabilities the loss and the best score that needs no twins give, beside what was true.

    Parameters
    ----------
    found, names, arm, twins : as for :func:`by_quarter`. seed : of the folds.

    Returns
    -------
    As :func:`lmmem.analysis.detection.calibration`, with a column score; the best one as :func:`answer` says.
    """
    here = found[found.arm.isin([arm, twins])]
    best = detection.chosen(here, [name for name in names if name != TWINS], arm, twins)
    best["best"] = best.groupby("half").best.rank(pct=True)  # two scores of different units, if halves chose apart
    parts = [
        detection.calibration(best[column], best.arm == arm, best.file, seed=seed).assign(score=label)
        for column, label in (("loss", LABELS["loss"]), ("best", _told(best)))
    ]
    return pd.concat(parts, ignore_index=True)[["score", "predicted", "observed", "low", "high", "n"]]


def left_out(reasons: Mapping[str, str]) -> dict[str, object]:
    """Scores that could not be asked, with their reasons, as a sentence: left.

    >>> left_out({"over_twins": "there are none"})["left"]
    'Not asked: loss over twins, as there are none.'
    """
    said = [f"{LABELS[name]}, as {reason}" for name, reason in reasons.items()]
    return {"left": f"Not asked: {'; '.join(said)}." if said else "All scores could be asked."}


def beside_noise(
    found: pd.DataFrame, best: pd.DataFrame, names: Sequence[str], twins: str, seed: int = 0
) -> pd.DataFrame:
    """Likelihood and noise beside each other, and both together, of sequences that were measured under noise too.

    Parameters
    ----------
    found, names, twins : as for :func:`answer`.
    best : as :func:`lmmem.analysis.contrasts.gains` gives it, of one N, of some of these sequences.
    seed : of the folds of the fit.

    Returns
    -------
    Their lines, with likelihood (the best score, chosen by all sequences as :func:`answer` says; if the halves chose
    apart, the share of its half that lies below), chosen (its name), noise (minus the best kl-LD), both: the
    probability of having been met, by a fit to the two of other files, and alone: the same of the likelihood alone, by
    a fit to the same files.

    Raises
    ------
    ValueError : as for :func:`lmmem.analysis.detection.chosen` and :func:`lmmem.analysis.detection.predict`.
    """
    scored = detection.chosen(found, names, str(_arms(found, twins).index[0]), twins)
    if scored.chosen.nunique() > 1:
        scored["best"] = scored.groupby("half").best.rank(pct=True)
    here = scored.merge(best[["index", "kl_ld"]].rename(columns={"kl_ld": "noise"}), on="index")
    here = here.assign(noise=-here.noise).rename(columns={"best": "likelihood"})
    both, alone = (
        detection.predict(here[scores], here.arm != twins, here.file, seed=seed)
        for scores in (["likelihood", "noise"], ["likelihood"])
    )
    return here.assign(both=both, alone=alone)


def noise_adds(beside: pd.DataFrame, twins: str) -> pd.DataFrame:
    """What noise adds to the best score by likelihood, arm by arm.

    Both together are a fit to other files, which costs area where noise knows nothing: a fit to the likelihood alone,
    of the same files, pays the same, and the likelihood as it is does not.

    Parameters
    ----------
    beside : as :func:`beside_noise` gives it. twins : the arm of the unexposed.

    Returns
    -------
    One line a (presentations, score): presentations, score ("likelihood", "recall", "noise", "both": areas; "adds":
    that of both minus that of the likelihood, fitted alike), estimate, low, high, n. The intervals of "adds" hold all
    arms together (Bonferroni), so that the arm where noise adds most may be picked.
    """
    order = _arms(beside, twins)
    joint = 1 - (1 - LEVEL) / len(order)
    areas = detection.compare(beside, ["likelihood", "recall", "noise", "both"], twins)
    negative, lines = beside[beside.arm == twins], []
    for arm in order.index:
        ours = beside[beside.arm == arm]
        positive, against = ((side.both, side.alone) for side in (ours, negative))
        lines.append(("adds", arm, *detection.area_difference(positive, against, ours.file, negative.file, joint)))
    adds = pd.DataFrame(lines, columns=["score", "arm", *Interval._fields])
    both = pd.concat([areas, adds], ignore_index=True)
    return both.assign(presentations=both.arm.map(order))[["presentations", "score", *Interval._fields]]


def told_noise(adds: pd.DataFrame) -> dict[str, object]:
    """What noise adds, by the arm with the fewest presentations and by that where it adds most.

    Parameters
    ----------
    adds : as :func:`noise_adds` gives it.

    Returns
    -------
    fewest : presentations. likelihood, recall, noise, both : areas there, and added. top, top_added : presentations
    of the arm where noise adds most, and how much.
    """
    fewest = int(adds.presentations.min())
    here = {
        score: interval(adds, score=score, presentations=fewest) for score in ("likelihood", "recall", "noise", "both")
    }
    added = adds[adds.score == "adds"]
    top = int(added.presentations.iloc[int(added.estimate.argmax())])
    return {
        "fewest": fewest,
        **here,
        "added": interval(added, presentations=fewest),
        "top": top,
        "top_added": interval(added, presentations=top),
    }


def _arms(found: pd.DataFrame, twins: str) -> pd.Series:
    """Presentations of the exposed arms, from the fewest up, by the arm's name."""
    check_columns(found, ["arm", "presentations"])
    exposed = found[(found.arm != twins) & (found.presentations > 0)]
    if exposed.empty:
        raise ValueError(f"nothing to tell from {twins!r}: no sequence of another arm was met")
    return exposed.groupby("arm").presentations.first().sort_values()


def _told(best: pd.DataFrame) -> str:
    """The score that was chosen, or the two of the halves."""
    return " or ".join(LABELS[name] for name in best.sort_values("half").chosen.unique())
