"""The exposed beside their unexposed twins, and the best of many tries beside one: what a page concludes from.

Tables of :class:`lmmem.experiments.study.Study` in, tidy tables out. Knows neither models nor figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from lmmem.analysis import stationarity
from lmmem.analysis.randomisation import cluster_difference, cluster_mean
from lmmem.analysis.statistics import Interval, best_of_table, units_of
from lmmem.analysis.trajectories import BITS

__all__ = [
    "after_last",
    "as_told",
    "averaged",
    "by_arm",
    "by_method",
    "fluctuations",
    "gains",
    "halved",
    "over_twins",
    "recited",
    "stacked",
    "steps_of",
    "told_from",
    "told_side",
    "with_twins",
]

TRIES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)


def steps_of(most: int) -> list[int]:
    """Values of N at which best-of-N is shown: 1, 2, 5, 10 .. and the most there are.

    >>> steps_of(12)
    [1, 2, 5, 10, 12]
    """
    return [n for n in TRIES if n < most] + [most]


def gains(
    before: pd.DataFrame, tried: pd.DataFrame, sizes: Sequence[int] | None = None, by: str | None = None
) -> pd.DataFrame:
    """How much closer to the truth the best of N tries comes than the undisturbed model.

    Parameters
    ----------
    before : as ``Study.greedy`` gives it.
    tried : as ``Study.perturbed`` or ``Study.sampled`` gives it: a line a (sequence, draw or sample).
    sizes : values of N; None is 1, 2, 5 .. and all there are.
    by : column of `tried` whose values are kept apart: "sigma" or "temperature".

    Returns
    -------
    The lines of `before`, kl_ld now kl_ld_before, for each value of `by` and each N, with columns
    N, kl_ld (expected best of N, tokens) and gain (tokens).
    """
    tries = "draw" if "draw" in tried else "sample"
    parts = []
    for key, lines in [(None, tried)] if by is None else tried.groupby(by):
        wanted = steps_of(lines[tries].nunique()) if sizes is None else list(dict.fromkeys(sizes))
        best = best_of_table(lines, tries, wanted)
        parts.append(best if by is None else best.assign(**{by: key}))
    found = before.merge(pd.concat(parts), on="index", suffixes=("_before", ""))
    return found.assign(gain=found.kl_ld_before - found.kl_ld)


def by_method(before: pd.DataFrame, sampled: pd.DataFrame, noisy: pd.DataFrame) -> pd.DataFrame:
    """Sampling and perturbation side by side, as :func:`gains`, told apart by a column method: "temperature 0.3" .."""
    before = before.sort_values("index", ignore_index=True)
    hot = gains(before, sampled, by="temperature")
    cold = gains(before, noisy).assign(method="perturbation")
    hot["method"] = [f"temperature {temperature:g}" for temperature in hot.temperature]
    return pd.concat([hot.drop(columns="temperature"), cold], ignore_index=True)


def over_twins(
    table: pd.DataFrame,
    value: str = "gain",
    by: Sequence[str] = ("group", "presentations"),
    *,
    twins: str | None = None,
) -> pd.DataFrame:
    """A quantity of the exposed minus that of the unexposed of their block, arm by arm.

    Parameters
    ----------
    table : one line a sequence and method: columns block, group, presentations, arm, `value`, and file, whose lines
        may be alike. Without it, or where it is missing, each line is a unit of its own.
    value : what is compared; larger is what exposure would bring.
    by : columns that tell one comparison from another; twins are matched by those that are not
        group, presentations or arm.
    twins : the arm that all are compared with; None is that of 0 presentations in each group, or where a group has
        none, that of another. Several unexposed passages of a block are averaged; those from elsewhere are no twins.

    Returns
    -------
    One line an arm of the exposed: the columns of `by`, estimate, low, high, n (sequences). Intervals are those of
    :func:`lmmem.analysis.randomisation.cluster_difference`, which know of files and that all exposed of a block share
    its twins; nan, where the exposed or the twins of an arm are of one file.

    Raises
    ------
    ValueError : there are no twins, none in the block of a sequence, or an arm has fewer than two sequences; the
        message names it.
    """
    kept = [column for column in by if column not in ("group", "presentations", "arm")]
    never = (table.arm == twins) if twins else (table.presentations == 0) & (table.group != "elsewhere")
    unexposed, exposed = table[never], table[~never & (table.presentations > 0)]
    if unexposed.empty:
        raise ValueError(f"nothing to compare with: no sequence is {f'of arm {twins!r}' if twins else 'unexposed'}")
    if twins is None:
        spare = unexposed[unexposed.group == unexposed.group.min()]
        alone = set(exposed.group) - set(unexposed.group)
        unexposed = pd.concat([unexposed, *(spare.assign(group=group) for group in sorted(alone))])
    match = ["block", *kept] + ([] if twins else ["group"])
    every = pd.concat([exposed, unexposed], ignore_index=True)
    every["cell"] = every.groupby(match).ngroup()
    exposed, unexposed = every[: len(exposed)], every[len(exposed) :]
    lines = []
    for key, arm in exposed.groupby(list(by), sort=True):
        theirs = unexposed[unexposed.cell.isin(arm.cell)]
        if lone := int((~arm.cell.isin(theirs.cell)).sum()):
            raise ValueError(f"{lone} sequences of {arm.arm.iloc[0]} have no unexposed twin in their block")
        if len(arm) < 2:
            named = ", ".join(f"{column} {of}" for column, of in zip(by, key, strict=True))
            raise ValueError(f"{named}: {len(arm)} sequences with twins, and an interval needs 2: take more sequences")
        lines.append((*key, *_over_twins(arm, theirs, value)))
    return pd.DataFrame(lines, columns=[*by, *Interval._fields])


def _over_twins(arm: pd.DataFrame, theirs: pd.DataFrame, value: str) -> Interval:
    """Of one arm and the twins of its cells; without ends where a side is of one file."""
    both = pd.concat([arm, theirs], ignore_index=True)
    units, exposed = units_of(both, "file"), np.arange(len(both)) < len(arm)
    if min(len(np.unique(units[side])) for side in (exposed, ~exposed)) < 2:
        ahead = arm[value] - arm.cell.map(theirs.groupby("cell")[value].mean())
        return Interval(float(ahead.mean()), np.nan, np.nan, len(arm))
    return cluster_difference(both[value], exposed, both.cell, units)


def with_twins(sequences: pd.DataFrame, group: str) -> pd.DataFrame:
    """The sequences of a group, with those that :func:`over_twins` compares them with.

    Parameters
    ----------
    sequences : columns group and presentations.
    group : if none of its own is unexposed, those of another group are there too.
    """
    own = sequences[sequences.group == group]
    unexposed = sequences[(sequences.presentations == 0) & (sequences.group != "elsewhere")]
    if (own.presentations == 0).any():
        return own
    return pd.concat([own, unexposed[unexposed.group == unexposed.group.min()]], ignore_index=True)


def by_arm(table: pd.DataFrame, fit: Callable[..., Interval], x: str, y: str, seed: int = 0) -> pd.DataFrame:
    """A fit of one column on another in each arm.

    Parameters
    ----------
    table : columns presentations, `x` and `y`.
    fit : one of :mod:`lmmem.analysis.statistics`, of (x, y, seed).

    Returns
    -------
    One line an arm: presentations, estimate, low, high, n.
    """
    lines = [(m, *fit(arm[x], arm[y], seed)) for m, arm in table.groupby("presentations")]
    return pd.DataFrame(lines, columns=["presentations", *Interval._fields])


def averaged(measured: pd.DataFrame, means: Mapping[int, pd.DataFrame], twins: str) -> pd.DataFrame:
    """The mean of the weights of the last checkpoints beside the mean of what each of them says.

    Parameters
    ----------
    measured : greedy table over steps: columns index, arm, block, file, step, cross_entropy, kl_ld.
    means : greedy tables of the same passages under the mean of the weights of the last k steps, by k.
    twins : the arm of the unexposed.

    Returns
    -------
    One line a (k, arm): k (checkpoints), arm, and by how much the mean of the weights is better than the mean over
    checkpoints, with a 95 % interval in words, clustered by file: bits of the passage, kl-LD (tokens), and over
    twins: the same of the bits minus that of the twins of the block, which all passages gain alike being taken off.
    """
    lines = []
    steps = np.sort(measured.step.unique())
    for k, mean in means.items():
        alone = measured[measured.step.isin(steps[-k:])].groupby("index")[["cross_entropy", "kl_ld"]].mean()
        both = mean.merge(alone.add_suffix("_alone"), left_on="index", right_index=True)
        both = both.assign(
            bits=BITS * (both.cross_entropy_alone - both.cross_entropy),
            tokens=both.kl_ld_alone - both.kl_ld,
        )
        over = over_twins(both, "bits", ["arm"], twins=twins).set_index("arm")
        for arm, passages in both.groupby("arm", sort=True):
            found = {name: _mean(passages, name).brief(1) for name in ("bits", "tokens")}
            beyond = Interval(*over.loc[arm]).brief(1) if arm in over.index else ""
            said = {"bits": found["bits"], "kl-LD": found["tokens"], "over twins": beyond}
            lines.append({"k": k, "arm": arm, "n": len(passages), **said})
    return pd.DataFrame(lines)


def _mean(passages: pd.DataFrame, value: str) -> Interval:
    """Clustered by file; without ends where all are of one."""
    units = units_of(passages, "file")
    if len(np.unique(units)) < 2:
        return Interval(float(passages[value].mean()), np.nan, np.nan, len(passages))
    return cluster_mean(passages[value], units)


def after_last(
    measured: pd.DataFrame, arms: Sequence[str], twins: str, least: int = 2, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """Passages from the first checkpoint after their last presentation on, and unexposed ones over the same steps.

    Parameters
    ----------
    measured : one line a (passage, step): columns index, arm, block, last_step and step.
    arms : of the exposed.
    twins : the arm of the unexposed; each exposed passage lends its last presentation to one of its block, drawn
        at random.
    least : checkpoints that a passage must be followed for.
    seed : of the draw.

    Returns
    -------
    The lines of those "exposed" and of those "unexposed", by these names.

    Raises
    ------
    ValueError : no passage is followed for so long, or none of its block is unexposed.
    """
    passages = measured.drop_duplicates("index")
    steps = np.sort(measured.step.unique())
    exposed = passages[passages.arm.isin(arms)].sample(frac=1, random_state=seed)
    followed = len(steps) - np.searchsorted(steps, exposed.last_step.to_numpy(dtype=float))
    exposed = exposed[followed >= least]
    spare = passages[passages.arm == twins].sample(frac=1, random_state=seed)
    lent = [table.assign(turn=table.groupby("block").cumcount()) for table in (spare, exposed)]
    pairs = lent[0][["index", "block", "turn"]].merge(lent[1][["block", "turn", "last_step"]], on=["block", "turn"])
    if pairs.empty:
        raise ValueError(
            f"{len(exposed)} passages of {', '.join(arms)} are followed for {least} checkpoints or more after their "
            "last presentation, and none has an unexposed one in its block: one of each is needed"
        )
    found = {}
    for name, table in (("exposed", exposed), ("unexposed", pairs)):
        last = measured["index"].map(table.set_index("index").last_step).astype(float)
        found[name] = measured[measured.step >= last]  # missing is never reached
    return found


def fluctuations(
    followed: Mapping[str, pd.DataFrame], value: str, jump: float | None = None, seed: int = 0
) -> pd.DataFrame:
    """What says whether memories fluctuate about a level, of the exposed and of the unexposed.

    Parameters
    ----------
    followed : as :func:`after_last` gives it.
    value : column that is followed.
    jump : as for :func:`lmmem.analysis.stationarity.reversal_test`.
    seed : of permutations and bootstraps.

    Returns
    -------
    One line a statistic: statistic, and of each set of passages what was found, in words; sequences in the heads.
    """
    told: dict[str, dict[str, str]] = {}
    for name, table in followed.items():
        lines: dict[str, str] = {}
        for line in stationarity.reversal_test(table, value, jump, clusters="file", seed=seed).itertuples():
            lines[f"{line.statistic}: forward, reversed, p"] = f"{line.forward:.2f}, {line.reversed:.2f}, {line.p:.2g}"
        for said, find in (
            ("variance ratio over 4 checkpoints", stationarity.variance_ratio),
            ("autocorrelation", stationarity.autocorrelation),
        ):
            lines[said] = find(table, value, clusters="file", seed=seed).brief()
        try:
            for line in stationarity.unit_roots(table, value).itertuples():
                lines[f"{line.test} rejects, of series tested"] = f"{line.rejected} of {line.of}"
        except ValueError as error:
            lines["ADF and KPSS"] = str(error)
        told[f"{name} ({table['index'].nunique()})"] = lines
    return pd.DataFrame(told).fillna("")


def stacked(tables: Mapping[str, pd.DataFrame], name: str = "study") -> pd.DataFrame:
    """Tables one after another, with a column that says which one a line is of."""
    return pd.concat([table.assign(**{name: which}) for which, table in tables.items()], ignore_index=True)


def halved(table: pd.DataFrame, value: str, within: str) -> pd.DataFrame:
    """Whether a column lies above its median in each group: a column half, "above the median" or "at or below it"."""
    above = table[value] > table.groupby(within)[value].transform("median")
    return table.assign(half=np.where(above, "above the median", "at or below it"))


def recited(table: pd.DataFrame, by: Sequence[str] = ("group", "presentations")) -> pd.DataFrame:
    """How many sequences are recited word for word, undisturbed and in at least one try.

    Parameters
    ----------
    table : as :func:`gains` gives it, of one N: the most.

    Returns
    -------
    One line an arm: as_trained, in_some_try, of.
    """
    found = table.assign(as_trained=table.kl_ld_before == 0, in_some_try=table.kl_ld == 0, of=1)
    return found.groupby(list(by))[["as_trained", "in_some_try", "of"]].sum().reset_index()


def as_told(found: pd.DataFrame, what: str, digits: int = 1) -> pd.DataFrame:
    """Intervals as a page shows them: estimate, low and high in one column of text, p and q empty where there is none.

    Parameters
    ----------
    found : columns estimate, low and high among others; for instance of
        :func:`lmmem.analysis.randomisation.compare_arms`.
    what : the name of the column of text: what was estimated, with its unit.

    >>> found = pd.DataFrame({"arm": ["a"], "estimate": [1.0], "low": [0.5], "high": [1.5], "p": [np.nan]})
    >>> as_told(found, "bits").to_dict("list")
    {'arm': ['a'], 'bits': ['1.0 (0.5 to 1.5)'], 'p': ['']}
    """
    ends = zip(found.estimate, found.low, found.high, strict=True)
    table = found.drop(columns=["low", "high"]).assign(estimate=[Interval(*one, n=0).brief(digits) for one in ends])
    for column in {"p", "q"} & set(table):
        table[column] = ["" if np.isnan(one) else f"{one:.2g}" for one in table[column]]
    return table.rename(columns={"estimate": what})


def told_from(presentations: Iterable[int], holds: Iterable[bool]) -> str:
    """From how many presentations on something holds, in words; where it does not hold on, in which arms.

    >>> told_from([1, 2, 4], [False, True, True]), told_from([1, 2, 4], [True, False, True]), told_from([1], [False])
    ('from 2 presentations on', 'at 1, 4 presentations', 'in no arm')
    """
    arms = sorted(zip(presentations, holds, strict=True))
    where = [m for m, held in arms if held]
    if not where:
        return "in no arm"
    if all(held for m, held in arms if m >= where[0]):
        return f"from {where[0]} presentations on"
    return f"at {', '.join(map(str, where))} presentations"


def told_side(interval: Interval, above: str = "", below: str = "") -> str:
    """On which side of 0 an interval lies, and what that would mean, in words.

    >>> told_side(Interval(1.0, 0.5, 1.5, 9), above="it grows")
    'an interval above 0: it grows'
    >>> told_side(Interval(1.0, -0.5, 1.5, 9))
    'an interval that includes 0: not established here'
    """
    if not interval.excludes_zero:
        return "an interval that includes 0: not established here"
    side, meaning = ("above", above) if interval.low > 0 else ("below", below)
    return f"an interval {side} 0" + (f": {meaning}" if meaning else "")
