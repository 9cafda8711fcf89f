"""How memory grows with presentations: what each doubling adds, block by block.

Fits no curve: data on a floor and a ceiling would choose it. Knows neither models nor figures.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
from scipy import stats

from lmmem.analysis.statistics import Interval, check_columns

__all__ = ["by_doubling", "told_law"]


def by_doubling(doses: pd.DataFrame, value: str, level: float = 0.95) -> pd.DataFrame:
    """What a doubling of presentations adds, from each number of presentations to the next, within blocks.

    Parameters
    ----------
    doses : one line a sequence: columns block, presentations and `value`; those of 0 presentations are left out.
    value : what may grow; several sequences of a block and number are averaged.
    level : at which all intervals together hold what they are of (Bonferroni over Student's t).

    Returns
    -------
    One line a step from a number to the next: presentations ("8 to 16"), estimate (per doubling), low, high, n
    (blocks that have both).

    Raises
    ------
    ValueError : there are not two numbers of presentations, or fewer than two blocks have both of a step.

    >>> doses = pd.DataFrame({"block": [0, 0, 0, 1, 1, 1], "presentations": [1, 2, 8] * 2, "bits": [1, 3, 7, 2, 3, 8]})
    >>> by_doubling(doses, "bits")[["presentations", "estimate", "n"]].values.tolist()
    [['1 to 2', 1.5, 2], ['2 to 8', 2.25, 2]]
    """
    check_columns(doses, ["block", "presentations", value])
    exposed = doses[doses.presentations > 0]
    by_block = exposed.groupby(["block", "presentations"])[value].mean().unstack()
    numbers = [int(number) for number in by_block.columns]
    if len(numbers) < 2:
        raise ValueError(f"growth needs two numbers of presentations, and got {', '.join(map(str, numbers)) or 'none'}")
    joint, lines = 1 - (1 - level) / (len(numbers) - 1), []
    for fewer, more in itertools.pairwise(numbers):
        added = ((by_block[more] - by_block[fewer]) / np.log2(more / fewer)).dropna().to_numpy(dtype=float)
        if len(added) < 2:
            raise ValueError(f"{len(added)} blocks have both {fewer} and {more} presentations, and an interval needs 2")
        reach = stats.t.ppf((1 + joint) / 2, len(added) - 1) * added.std(ddof=1) / np.sqrt(len(added))
        mean = added.mean()
        lines.append((f"{fewer} to {more}", *Interval(mean, mean - reach, mean + reach, len(added))))
    return pd.DataFrame(lines, columns=["presentations", *Interval._fields])


def told_law(found: pd.DataFrame) -> str:
    """Whether growth may be logarithmic, in words: then each doubling adds as much, so one value lies in all intervals.

    Parameters
    ----------
    found : as :func:`by_doubling` gives it.

    >>> told_law(pd.DataFrame({"low": [1.0, 2.0], "high": [4.0, 3.0]}))
    'and between 2.0 and 3.0 lie values that are in all of these intervals: a logarithmic law is not refuted'
    >>> told_law(pd.DataFrame({"low": [1.0, 5.0], "high": [4.0, 9.0]}))
    'and no value lies in all of these intervals: growth is not logarithmic here'
    """
    low, high = found.low.max(), found.high.min()
    if low > high:
        return "and no value lies in all of these intervals: growth is not logarithmic here"
    among = f"and between {low:.1f} and {high:.1f} lie values that are in all of these intervals"
    return f"{among}: a logarithmic law is not refuted"
