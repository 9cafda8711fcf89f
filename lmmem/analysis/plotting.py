"""The figures of the pages: a tidy table and an ax in, the ax out. Computes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

__all__ = ["plot_curve", "plot_points", "set_style"]

PALETTE = "colorblind"
DODGE = 0.12  # between points of different hues that stand at one x


def set_style() -> None:
    """The look of every figure of the book."""
    sns.set_theme(context="notebook", style="ticks", palette=PALETTE)
    mpl.rcParams.update(
        {"figure.dpi": 110, "figure.figsize": (6.4, 4), "axes.spines.top": False, "axes.spines.right": False}
    )


def plot_curve(
    table: pd.DataFrame,
    x: str,
    *,
    hue: str | None = None,
    y: str = "estimate",
    log_x: bool = False,
    join: bool = True,
    ax: Axes | None = None,
    label: str | None = None,
    color: str | None = None,
) -> Axes:
    """Estimates over x, with their intervals as bars (or as a band where there are many points).

    Parameters
    ----------
    table : columns `x`, `y`, `hue` and, for intervals, low and high.
    x, hue, y : column names; each value of hue gets a colour and a legend entry.
    log_x : ticks at the values, spaced by their logarithm; 0 is drawn left of the smallest.
    join : connect the points.
    label, color : of the only curve, without a hue.

    Returns
    -------
    The ax.
    """
    ax = plt.gca() if ax is None else ax
    groups = [(label, table)] if hue is None else list(table.groupby(hue, sort=False))
    colors = sns.color_palette(PALETTE, len(groups)) if color is None else [color] * len(groups)
    marks = _positions(table[x], log_x)
    for number, ((name, group), shade) in enumerate(zip(groups, colors, strict=True)):
        where = group[x] if marks is None else group[x].map(marks).astype(float)
        order = where.sort_values(kind="stable").index
        group, where = group.loc[order], where[order]
        if marks is not None and not join:  # side by side, so that no bar hides another
            where = where + DODGE * (number - (len(groups) - 1) / 2)
        ax.plot(
            where, group[y], marker="o" if len(group) <= 40 else "", ls="-" if join else "", color=shade, label=name
        )
        if {"low", "high"} <= set(group):
            if len(group) > 12:
                ax.fill_between(where, group.low, group.high, color=shade, alpha=0.2, lw=0)
            else:
                bars = [group[y] - group.low, group.high - group[y]]
                ax.errorbar(where, group[y], yerr=bars, fmt="none", ecolor=shade, capsize=3)
    if marks is not None:
        names = [f"{value:g}" if type(value) is float else str(value) for value in marks]
        ax.set_xticks(list(marks.values()), names)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    if hue is not None:
        ax.legend(title=hue, frameon=False)
    elif label is not None:
        ax.legend(frameon=False)
    return ax


def plot_points(
    table: pd.DataFrame, x: str, y: str, *, hue: str | None = None, order: Sequence[object] = (), ax: Axes | None = None
) -> Axes:
    """One dot a sequence.

    Parameters
    ----------
    table : tidy; x, y, hue : column names.
    order : values of hue in the legend's order.

    Returns
    -------
    The ax.
    """
    palette = sns.color_palette("viridis", len(order)) if len(order) else None
    return sns.scatterplot(
        table, x=x, y=y, hue=hue, hue_order=list(order) or None, palette=palette, s=22, linewidth=0, alpha=0.7, ax=ax
    )


def _positions(values: pd.Series, log: bool) -> dict[str, float] | dict[float, float] | None:
    """Where each value stands, if not at itself: names in a row, numbers by log2 with a place for 0."""
    if values.dtype.kind not in "iuf":
        return {name: float(place) for place, name in enumerate(dict.fromkeys(values))}
    if not log:
        return None
    ordered = sorted({float(value) for value in values})
    positions = {value: math.log2(value) for value in ordered if value > 0}
    zero = {0.0: min(positions.values(), default=0.0) - 1.5} if 0.0 in ordered else {}
    return zero | positions
