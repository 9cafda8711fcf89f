"""Relearning: how much sooner what was once known is known again than twins that are taught beside it.

Savings, after Ebbinghaus (1885): in tokens of kl-LD after so many presentations, and in presentations
until a passage is recited. Tables of ``Study.relearned`` in, or what
:func:`lmmem.experiments.relearning.measured` gives. Knows neither models nor figures.
"""

from __future__ import annotations

import contextlib

import numpy as np
import pandas as pd
import statsmodels.api as sm

from lmmem.analysis.matching import caliper_difference
from lmmem.analysis.randomisation import PERMUTATIONS, cluster_mean, compare_arms
from lmmem.analysis.statistics import Interval, check_columns

__all__ = ["after", "beside_equals", "curves", "hazard", "saved", "simulated"]

NEEDED = ["index", "arm", "presentations", "block", "file", "seed", "presentation", "kl_ld", "cross_entropy"]
WHERE = ("organism", "step")  # weights that passages were taught to together
WIDTH = 0.1  # nats per token: starting losses within it are called the same (book/plan.md, decision rule 11)


def after(relearned: pd.DataFrame, presentations: int) -> pd.DataFrame:
    """What so many presentations have brought each passage, averaged over seeds.

    Parameters
    ----------
    relearned : a line a (seed, presentation, passage): columns index, arm, presentations (in training), block, file,
        seed, presentation (in relearning, from 0), kl_ld, cross_entropy.
    presentations : in relearning, 1 or more.

    Returns
    -------
    One line a passage: index, arm, presentations, block, file, and where they are there organism and step; tokens
    (kl-LD before any presentation minus kl-LD after these), nats (the same of the loss, per token), unrecited
    (presentations before it is first recited, at most `presentations`: those after which it was not, 0 among them),
    recited (whether it was by then, as a share of the seeds), kl_ld (after these), loss (nats per token before any).

    Raises
    ------
    ValueError : not measured after so many presentations, or not before the first; a passage is there twice.

    >>> table = simulated(saved=10.0, seed=0)
    >>> after(table, 8).groupby("arm").tokens.mean().round().to_dict()
    {'spread 0': 17.0, 'spread 64': 27.0}
    """
    check_columns(relearned, NEEDED)
    there = sorted(set(relearned.presentation))
    if 0 not in there or presentations not in there or presentations == 0:
        raise ValueError(
            f"presentations={presentations}: what is compared was measured after {', '.join(map(str, there))}; "
            "0 is needed, and one of the others"
        )
    if relearned.duplicated(["index", "seed", "presentation"]).any():
        raise ValueError("a passage is there twice with one seed and presentation: compare one relearning at a time")
    key = ["index", "seed"]
    first = relearned[relearned.presentation == 0].set_index(key)
    last = relearned[relearned.presentation == presentations].set_index(key)
    until = relearned[relearned.presentation <= presentations]
    recited = until[until.kl_ld == 0].groupby(key).presentation.min().reindex(last.index)
    named = ["arm", "presentations", "block", "file", *(set(WHERE) & set(last))]
    each = last[[*named, "kl_ld"]].assign(
        tokens=first.kl_ld - last.kl_ld,
        nats=first.cross_entropy - last.cross_entropy,
        unrecited=recited.fillna(presentations),
        recited=recited.notna(),
        loss=first.cross_entropy,
    )
    numbers = ["tokens", "nats", "unrecited", "recited", "kl_ld", "loss"]
    kept = dict.fromkeys(named, "first") | dict.fromkeys(numbers, "mean")
    return each.groupby("index").agg(kept).reset_index()


def saved(
    relearned: pd.DataFrame, twins: str, presentations: int, *, permutations: int = PERMUTATIONS, seed: int = 0
) -> pd.DataFrame:
    """Savings of each arm over its twins, in tokens and in presentations.

    Parameters
    ----------
    relearned, presentations : as for :func:`after`.
    twins : the arm taught beside all others. permutations, seed : of the tests.

    Returns
    -------
    As :func:`lmmem.analysis.randomisation.compare_arms`, twice, with A/A where two blocks have two twins: column saved
    says "tokens" (of kl-LD gained beyond twins) or "presentations" (restricted mean until recited, of twins minus of
    the arm).

    >>> saved(simulated(saved=10.0, seed=0), "spread 0", 8).verdict.tolist()[:2]
    ['above 0', 'not established']
    """
    passages = after(relearned, presentations).assign(later=lambda table: -table.unrecited)
    tables = {
        name: compare_arms(
            passages, value, twins, permutations=permutations, seed=seed, halves=_two_twins(passages, twins)
        )
        for name, value in {"tokens": "tokens", "presentations": "later"}.items()
    }
    return pd.concat([table.assign(saved=name) for name, table in tables.items()], ignore_index=True)


def beside_equals(
    relearned: pd.DataFrame, twins: str, presentations: int, width: float = WIDTH, seed: int = 0
) -> pd.DataFrame:
    """Savings in tokens over twins that were as likely before the first presentation: what the likelihood does not see.

    Each passage stands beside those twins, taught to the same weights, whose starting loss is within a caliper of its
    own (:func:`lmmem.analysis.matching.caliper_difference`); passages without one are left out, and counted.

    Parameters
    ----------
    relearned, twins, presentations : as for :func:`saved`. width : of the caliper, nats per token.
    seed : of the halves of the twins.

    Returns
    -------
    One line an arm, and "A/A", one half of the twins against the other, where these can be compared: arm, estimate,
    low, high (tokens; infinite where twins are as good as of one file), n (with a twin), out (without).

    Raises
    ------
    ValueError : no twin is as likely as any passage of an arm.

    >>> beside_equals(simulated(saved=10.0, seed=0), "spread 0", 8).arm.tolist()
    ['spread 64', 'A/A']
    """
    passages = after(relearned, presentations)
    weights = [column for column in WHERE if column in passages]

    def beside(arm: str, own: pd.DataFrame, others: pd.DataFrame) -> tuple[object, ...]:
        found = caliper_difference(own, others, "tokens", "loss", width, weights)
        return arm, *found, len(own) - found.n

    of_twins = passages[passages.arm == twins]
    lines = [beside(str(arm), own, of_twins) for arm, own in passages[passages.arm != twins].groupby("arm")]
    half = of_twins.sample(frac=0.5, random_state=seed)
    with contextlib.suppress(ValueError):  # none of one half is as likely as any of the other
        lines.append(beside("A/A", half, of_twins.drop(half.index)))
    return pd.DataFrame(lines, columns=["arm", *Interval._fields, "out"])


def _two_twins(passages: pd.DataFrame, twins: str) -> bool:
    """Whether twins can be compared with one another: two blocks or more hold two."""
    return int((passages[passages.arm == twins].groupby("block").size() > 1).sum()) > 1


def curves(relearned: pd.DataFrame, value: str = "kl_ld") -> pd.DataFrame:
    """A value after each presentation, arm by arm.

    Parameters
    ----------
    relearned : as for :func:`after`. value : "kl_ld", "cross_entropy", or a column of numbers.

    Returns
    -------
    One line an arm and presentation: arm, presentation, estimate, low, high (mean over passages, each averaged over
    its seeds, with a 95 % interval clustered by file), n (passages).

    >>> curves(simulated(seed=0)).groupby("arm").size().to_dict()
    {'spread 0': 17, 'spread 64': 17}
    """
    check_columns(relearned, [*NEEDED, value])
    each = relearned.groupby(["arm", "presentation", "index", "file"], as_index=False)[value].mean()
    lines = [
        (*key, *cluster_mean(table[value], table.file))
        for key, table in each.groupby(["arm", "presentation"], sort=True)
    ]
    return pd.DataFrame(lines, columns=["arm", "presentation", *Interval._fields])


def hazard(relearned: pd.DataFrame, arm: str, twins: str) -> Interval:
    """Odds of being recited for the first time at a presentation, of an arm over its twins: discrete-time survival.

    A logistic regression over all (passage, seed, presentation) at which the passage has not been recited before,
    with a level for each presentation at which any is (Cox 1972, the discrete model; Singer and Willett 1993);
    passages that are not recited at all are censored. Errors are clustered by file.

    Parameters
    ----------
    relearned : as for :func:`after`. arm, twins : which two.

    Returns
    -------
    The odds ratio; n is the number of passages.

    Raises
    ------
    ValueError : none of the arm or none of the twins is ever recited (the ratio has no bound), or all are at once.

    >>> hazard(simulated(odds=4.0, seed=0), "spread 64", "spread 0").low > 1
    True
    """
    check_columns(relearned, NEEDED)
    lines = relearned[relearned.arm.isin([arm, twins])].sort_values(["index", "seed", "presentation"])
    recited = lines.kl_ld == 0
    before = recited.groupby([lines["index"], lines.seed]).cumsum() - recited.astype(int)
    at_risk = lines[(before == 0) & (lines.presentation > 0)]  # what was recited before any is not
    event = (at_risk.kl_ld == 0).to_numpy()
    for name in (arm, twins):
        if not event[at_risk.arm == name].any():
            raise ValueError(
                f"no passage of {name} is recited first after a presentation: the odds have no ratio, compare tokens "
                "in their place"
            )
    some = at_risk.presentation.isin(at_risk.presentation[event])  # a level without an event says nothing
    at_risk, event = at_risk[some], event[some.to_numpy()]
    levels = pd.get_dummies(at_risk.presentation, dtype=float)
    design = levels.assign(arm=(at_risk.arm == arm).astype(float)).to_numpy()
    groups = pd.factorize(at_risk.file)[0]
    fit = sm.GLM(event.astype(float), design, family=sm.families.Binomial()).fit(
        cov_type="cluster", cov_kwds={"groups": groups}
    )
    (low, high), log_odds = fit.conf_int()[-1], fit.params[-1]
    if not np.isfinite([low, high]).all() or abs(log_odds) > 15:
        raise ValueError(f"{arm} and {twins} are recited at presentations that do not overlap: the odds have no bound")
    return Interval(float(np.exp(log_odds)), float(np.exp(low)), float(np.exp(high)), at_risk["index"].nunique())


def simulated(
    saved: float = 0.0,
    *,
    odds: float | None = None,
    ahead: float = 0.0,
    passages: int = 32,
    twins: int = 64,
    seeds: int = 2,
    presentations: int = 16,
    seed: int = 0,
) -> pd.DataFrame:
    """A relearning whose truth is known, to try estimators on.

    kl-LD of a passage falls in proportion to the presentations, with a level of its own, of its file and its block;
    passages of "spread 64" are `saved` tokens lower from the first presentation on, and their loss is `ahead` nats
    lower before it. kl-LD is no whole number and not cut off at 0, so that differences are what was planted; with
    `odds` it is 0 from a presentation on that comes by chance, with these odds of theirs over the twins'.

    >>> simulated(seed=1).shape
    (3264, 9)
    """
    rng = np.random.default_rng(seed)
    n = passages + twins
    met, rounds = np.arange(n) < passages, np.arange(presentations + 1)
    block, file = rng.permutation(n) % 8, rng.integers(0, n // 2, n)
    level = rng.normal(0, 3, n) + rng.normal(0, 2, n)[file] + rng.normal(0, 2, 8)[block]
    loss = 3.5 - ahead * met + 0.02 * level + rng.normal(0, 0.05, n)
    tables = []
    for run in range(seeds):
        gained = 2.1 * rounds + saved * met[:, None] + rng.normal(0, 2, (n, 1))
        kl = 60 + level[:, None] - gained * (rounds > 0)  # (n, rounds)
        if odds is not None:
            chance = 1 / (1 + np.exp(3.0 - 0.1 * rounds - np.log(odds) * met[:, None]))
            recited = np.cumsum(rng.random((n, presentations + 1)) < chance * (rounds > 0), axis=1) > 0
            kl = np.where(recited, 0.0, np.maximum(kl, 1.0))
        lines = {"seed": run, "presentation": np.tile(rounds, n), "kl_ld": kl.ravel()}
        lines["cross_entropy"] = (loss[:, None] - 0.1 * rounds).ravel()
        own_columns = {"index": np.arange(n), "presentations": 64 * met, "block": block, "file": file}
        own_columns["arm"] = np.where(met, "spread 64", "spread 0")
        tables.append(pd.DataFrame({k: np.repeat(v, len(rounds)) for k, v in own_columns.items()} | lines))
    return pd.concat(tables, ignore_index=True)
