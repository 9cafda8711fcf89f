"""Organisms beside one another: an estimate of each, of each size, and of a passage that some met and others not.

Tables of several organisms in, told apart by a column organism; intervals and tidy tables out. Knows neither models
nor figures, and estimates nothing of a single organism itself: that is for the modules it calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lmmem.analysis.event_study import by_lag
from lmmem.analysis.fading import half_life
from lmmem.analysis.statistics import LEVEL, Interval, interval
from lmmem.analysis.trajectories import ONCE, TWINS, bits, multiplicities

__all__ = ["again", "beyond", "by_organism", "by_size", "counterfactual", "passage_share", "spread"]

VALUES = ["cross_entropy", "kl_ld"]
TWICE = 20  # files, so that none of the resamples is without


def by_organism(runs: pd.DataFrame, find: Callable[..., pd.DataFrame] = by_lag, **options: Any) -> pd.DataFrame:
    """An estimate of each organism.

    Parameters
    ----------
    runs : `measured` of several, told apart by a column organism; passages that are not followed are left out.
    find : :func:`lmmem.analysis.event_study.by_lag`, :func:`lmmem.analysis.fading.half_life` or another of these.
    options : its arguments.

    Returns
    -------
    Its columns, and organism.
    """
    found = []
    for name, measured in runs.groupby("organism", sort=False):
        followed = measured.groupby("index").step.transform("nunique") == measured.step.nunique()
        found.append(find(measured[followed], **options).assign(organism=name))
    return pd.concat(found, ignore_index=True)


def spread(runs: pd.DataFrame, by: str, find: Callable[..., pd.DataFrame], **options: Any) -> pd.DataFrame:
    """How far the organisms' own estimates lie apart.

    Parameters
    ----------
    runs, find, options : as for :func:`by_organism`.
    by : column of what `find` gives, whose values are told apart: "arm".

    Returns
    -------
    One line a value of `by`, which is the index: sd (standard deviation over organisms, in the unit of the estimates;
    nan of one organism), organisms (their number).

    >>> from lmmem.analysis.trajectories import simulated
    >>> runs = [simulated(lambda since: 80 + 0 * since, seed=seed).assign(organism=seed) for seed in (1, 2)]
    >>> int(spread(pd.concat(runs), "lag", by_lag).organisms[0])
    2
    """
    each = by_organism(runs, find, **options).groupby(by).estimate
    return pd.DataFrame({"sd": each.std(), "organisms": each.size()})


def by_size(runs: pd.DataFrame, parameters: Mapping[str, str], **options: Any) -> pd.DataFrame:
    """What one exposure leaves in models of several sizes, in words.

    Parameters
    ----------
    runs : as for :func:`by_organism`.
    parameters : of each organism, in words, in the order of the lines.
    options : as for :func:`lmmem.analysis.event_study.by_lag`.

    Returns
    -------
    One line an organism that was measured, by its name: weights (as in `parameters`), bits in the first bin after
    exposure, more (bits than in the organism of the line before, passage by passage, as :func:`beyond` says; of the
    first, "", and so where the passages are not the same), half-life (steps, or why there is none), kl-LD ahead
    (tokens, in that bin); with 95 % intervals. ``attrs["n"]`` are the passages of each.

    Raises
    ------
    ValueError : none of these organisms was measured.

    >>> from lmmem.analysis.trajectories import simulated
    >>> runs = simulated(lambda since: 80 * np.exp(-since / 200), seed=1).assign(organism="a", kl_ld=60)
    >>> by_size(runs, {"a": "1 M", "b": "9 M"})["half-life"].tolist()
    ['170 (151 to 188)']
    """
    lines, passages = [], []
    there = [name for name in parameters if name in set(runs.organism)]
    if not there:
        raise ValueError(f"none of {', '.join(parameters)} was measured: make replicates")
    for before, name in zip([None, *there], there, strict=False):
        run = runs[runs.organism == name]
        bits, kl = (interval(by_organism(run, value=value, **options)[:1]) for value in ("both", "kl_ahead"))
        try:
            line = by_organism(run, half_life, **options).iloc[0]
            reached = np.isfinite(line.high)
            half = Interval(*line[list(Interval._fields)]).brief(0) if reached else line.told
        except ValueError as error:
            half = str(error)
        try:
            more = interval(beyond(runs, name, before, **options)[:1]).brief(1) if before else ""
        except ValueError:
            more = ""
        lines.append((name, parameters[name], bits.brief(0), more, half, kl.brief(1)))
        passages.append(bits.n)
    columns = ["organism", "weights", "bits", "more", "half-life", "kl-LD ahead"]
    table = pd.DataFrame(lines, columns=columns).set_index("organism")
    table.attrs["n"] = passages
    return table


def beyond(runs: pd.DataFrame, name: str, other: str, **options: Any) -> pd.DataFrame:
    """What an exposure leaves in one organism beyond what the same exposure leaves in another, passage by passage.

    The difference of two log-probabilities of one passage at one step takes the place of a log-probability, so that
    errors know of files and of shared twins as they do in one organism.

    Parameters
    ----------
    runs : as for :func:`by_organism`.
    name, other : of the two.
    options : as for :func:`lmmem.analysis.event_study.by_lag`.

    Returns
    -------
    As :func:`lmmem.analysis.event_study.by_lag`.

    Raises
    ------
    ValueError : the two have not met the same passages at the same steps.

    >>> from lmmem.analysis.trajectories import simulated
    >>> met = {left: simulated(lambda since: left + 0 * since, noise=0, seed=1) for left in (50, 80)}
    >>> runs = pd.concat([run.assign(organism=left, kl_ld=60) for left, run in met.items()])
    >>> beyond(runs, 80, 50).estimate.round(6).unique().tolist()
    [30.0]
    """
    key = ["passage" if "passage" in runs else "index", "step"]
    alike = ["arm", "exposure_step"]
    mine, theirs = (runs[runs.organism == one] for one in (name, other))
    both = mine.merge(theirs[[*key, *alike, *VALUES]], on=key, suffixes=("", "_of_other"), validate="1:1")
    same = all(both[column].equals(both[f"{column}_of_other"]) for column in alike)
    if not len(both) or not len(both) == len(mine) == len(theirs) or not same:
        raise ValueError(f"{name} and {other} have not met the same passages at the same steps: nothing to compare")
    return by_organism(both.assign(**{value: both[value] - both[f"{value}_of_other"] for value in VALUES}), **options)


def again(measured: pd.DataFrame, runs: pd.DataFrame, name: str) -> dict[str, float]:
    """How far what was measured of an organism here is from what was measured of the same one before.

    Parameters
    ----------
    measured : as :mod:`lmmem.analysis.trajectories` says, with a column canary.
    runs : as for :func:`by_organism`, with a column passage, which counts as canary does.
    name : which of their organisms is the same.

    Returns
    -------
    n, passages at checkpoints that are in both; bits, the largest difference of two log-probabilities; tokens, how many
    of the kl-LD differ.

    Raises
    ------
    ValueError : there is no such organism, or none of its passages was measured at the same steps.

    >>> here = pd.DataFrame({"canary": [0, 1], "step": 60, "cross_entropy": [1.0, 2.0], "kl_ld": [3, 4]})
    >>> before = here.rename(columns={"canary": "passage"}).assign(organism="a", kl_ld=[3, 5])
    >>> again(here, before, "a")
    {'n': 2, 'bits': 0.0, 'tokens': 1}
    """
    kept = runs[runs.organism == name] if len(runs) else runs
    if not len(kept):
        raise ValueError(f"nothing that was measured of {name} before is in results/")
    both = measured.merge(kept, left_on=["canary", "step"], right_on=["passage", "step"], suffixes=("", "_before"))
    if not len(both):
        raise ValueError(f"what is in results/ of {name} is of other passages or steps")
    apart = bits(both) - bits(both.assign(cross_entropy=both.cross_entropy_before))
    return {"n": len(both), "bits": float(apart.abs().max()), "tokens": int((both.kl_ld != both.kl_ld_before).sum())}


def counterfactual(runs: pd.DataFrame, arm: str = ONCE, twins: str = TWINS) -> pd.DataFrame:
    """Counterfactual memorisation of each passage: what organisms say of it in which it was met, and in which not.

    The log-probability at the last step, less that of the unexposed of the same organism, averaged over organisms in
    which the passage was presented, minus the same over those in which it was not.

    Parameters
    ----------
    runs : `measured` of several organisms of one text: columns organism, passage (the same in all) and file.
    arm, twins : of those presented, and of those that are not.

    Returns
    -------
    One line a passage that was both: passage, file, exposed, unexposed (numbers of organisms), bits.

    Raises
    ------
    ValueError : no passage was both.

    Source: Zhang et al., Counterfactual memorization in neural language models, NeurIPS 2023, arXiv 2112.12938.

    >>> from lmmem.analysis.trajectories import BITS
    >>> runs = pd.DataFrame({"organism": ["a", "a", "b", "b"], "passage": [1, 2, 1, 2], "file": 0, "step": 9})
    >>> runs = runs.assign(arm=["spread 1", "spread 0", "spread 0", "spread 1"], cross_entropy=[1.0, 3.0, 3.0, 1.0])
    >>> (counterfactual(runs).bits / BITS).round(6).tolist()
    [2.0, 2.0]
    """
    table = _by_role(runs, arm, twins)
    return table.loc[table.both, ["passage", "file", "exposed", "unexposed", "bits"]].reset_index(drop=True)


def passage_share(runs: pd.DataFrame, arm: str = ONCE, twins: str = TWINS, seed: int = 0) -> Interval:
    """How much of the variance of :func:`counterfactual` over passages is the passage's, and not chance.

    The rest is what two organisms say of one passage in one role: weights, order, and when it was met. Its variance
    in either role is pooled over the passages that had it twice. The share may come out below 0, where there is none.
    The interval is a percentile bootstrap over files, widened as that of :func:`lmmem.analysis.fading.half_life`.

    Parameters
    ----------
    runs, arm, twins : as for :func:`counterfactual`.
    seed : of the bootstrap.

    Raises
    ------
    ValueError : passages that were twice in a role are of fewer than 20 files, or what :func:`counterfactual` refuses.

    Source: reliability by analysis of variance; Shrout and Fleiss 1979, doi 10.1037/0033-2909.86.2.420.
    """
    table = _by_role(runs, arm, twins)
    used = table.both.to_numpy()
    numbers = {name: table[name].to_numpy(dtype=float) for name in ("exposed", "unexposed", "squares", "squares_not")}
    exposed, unexposed, squares, squares_not = numbers.values()
    spare, spare_not = np.maximum(exposed - 1, 0), np.maximum(unexposed - 1, 0)
    twice = min(table.file[of > 0].nunique() for of in (spare, spare_not))
    if twice < TWICE:
        raise ValueError(
            f"what is chance is told by passages that two organisms have met, and that two have not, of {TWICE} files "
            f"each; got {twice}"
        )
    bits = np.where(used, table.bits, 0.0)
    inverse, inverse_not = (np.where(used, 1 / np.maximum(n, 1), 0.0) for n in (exposed, unexposed))
    files, code = np.unique(table.file, return_inverse=True)

    def share(times: np.ndarray) -> np.ndarray:
        n = times @ used
        error = (times @ squares) / (times @ spare) * (times @ inverse) / n
        error += (times @ squares_not) / (times @ spare_not) * (times @ inverse_not) / n
        return 1 - error * (n - 1) / (times @ bits**2 - (times @ bits) ** 2 / n)

    tail = stats.norm.sf(stats.t.ppf((1 + LEVEL) / 2, len(files) - 1))
    low, high = np.quantile(share(multiplicities(len(files), seed)[:, code]), [tail, 1 - tail])
    return Interval(float(share(np.ones((1, len(code))))[0]), float(low), float(high), int(used.sum()))


def _by_role(runs: pd.DataFrame, arm: str, twins: str) -> pd.DataFrame:
    """Each passage at the last step: organisms in either role, the difference of means, and sums of squares within."""
    last = runs[(runs.step == runs.groupby("organism").step.transform("max")) & runs.arm.isin([arm, twins])]
    last = last.assign(bits=bits(last), met=last.arm == arm)
    last["bits"] -= last.organism.map(last[~last.met].groupby("organism").bits.mean())
    roles = []
    for role in (True, False):
        of = last[last.met == role].groupby("passage").bits
        roles.append(pd.DataFrame({"n": of.size(), "mean": of.mean(), "squares": of.var() * (of.size() - 1)}))
    each = last.drop_duplicates("passage").set_index("passage")[["file"]].sort_index()
    exposed, unexposed = (table.reindex(each.index) for table in roles)
    found = each.assign(exposed=exposed.n.fillna(0).astype(int), unexposed=unexposed.n.fillna(0).astype(int))
    found["bits"] = exposed["mean"] - unexposed["mean"]
    found = found.assign(squares=exposed.squares, squares_not=unexposed.squares)
    found["both"] = (found.exposed > 0) & (found.unexposed > 0)
    if not found.both.any():
        raise ValueError("counterfactual memorisation needs passages that one organism has met and another has not")
    return found.fillna({"squares": 0.0, "squares_not": 0.0}).reset_index()
