"""The figures of the pages: a tidy table and an ax in, the ax out. Computes nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

__all__ = [
    "mark_of",
    "plot_beside",
    "plot_curve",
    "plot_design",
    "plot_facets",
    "plot_points",
    "plot_small_multiples",
    "set_style",
]

DODGE = 0.12  # between points of different hues that stand at one x
# One meaning a mark, in the whole book. A colour is a number of presentations, from grey for none; a
# marker is the group they belong to.
PRESENTATIONS = sns.color_palette("flare", 8)
UNEXPOSED = "0.45"
MARKERS = {
    **{"spread": "o", "row": "D", "natural": "^"},
    **{"q1": "<", "q2": "s", "q3": "p", "q4": ">", "fuzzy": "X", "elsewhere": "h"},
}
COLORBLIND = sns.color_palette("colorblind")
HOT = mpl.colormaps["YlOrBr"]  # temperatures
NOISE = mpl.colormaps["Blues"]  # sigmas
MOST_SIGMA = 0.04  # the darkest
# What is drawn beside arms: the undisturbed model, noise, sampling; a randomised and a found study.
NAMED = {
    "as trained": "0.2",
    "average draw": COLORBLIND[9],
    "best draw": COLORBLIND[0],
    "perturbation": COLORBLIND[0],
    "best of N": COLORBLIND[0],
    "fresh half": COLORBLIND[3],
    "randomised": COLORBLIND[2],
    "natural text": COLORBLIND[1],
    # Passages that are known to be there beside their nulls; probes.
    **{"true": COLORBLIND[3], "alternative": COLORBLIND[7]},
    **{"known, true text": COLORBLIND[3], "known, own words": COLORBLIND[1]},
    **{"never seen, true text": "0.2", "never seen, own words": "0.65"},
    **{"there": COLORBLIND[3], "treated alike": "0.2", "untouched": "0.65", "unexposed": "0.45", "not met": "0.45"},
    **{"relearning": COLORBLIND[3], "likelihood": COLORBLIND[2]},
    # Workers of simulated sweeps.
    **{"all alike": "0.2", "some slow": COLORBLIND[0], "each failing at times": COLORBLIND[3]},
}


def set_style() -> None:
    """The look of every figure of the book: SVG on white, so that it can be read on a dark page too."""
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("svg")
    sns.set_theme(context="notebook", style="ticks", palette="colorblind")
    mpl.rcParams.update(
        {
            "figure.dpi": 110,
            "figure.figsize": (6.4, 4),
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.hashsalt": "lmmem",  # the same figure is the same file
        }
    )


def mark_of(name: object, number: int = 0) -> tuple[Any, str]:
    """The colour and the marker of an arm, a group, a number of presentations, or another name.

    Parameters
    ----------
    name : "spread 16", "q2", 16, "as trained" ..
    number : chooses among the colours that have no meaning, for names without a mark of their own.

    >>> mark_of("elsewhere 0"), mark_of(0)
    (('0.45', 'h'), ('0.45', 'o'))
    """
    group, _, presentations = str(name).rpartition(" ")
    if name in MARKERS:
        return COLORBLIND[list(MARKERS).index(str(name)) % len(COLORBLIND)], MARKERS[str(name)]
    if name in NAMED:
        return NAMED[str(name)], "o"
    if group == "temperature":
        return HOT(0.3 + 0.5 * min(float(presentations), 1.5) / 1.5), "v"
    if group == "noise at":
        return NOISE(0.3 + 0.6 * min(float(presentations) / MOST_SIGMA, 1) ** 0.5), "v"
    if presentations.isdigit() and group in ("", *MARKERS):
        m = int(presentations)
        shade = PRESENTATIONS[min(len(PRESENTATIONS) - 1, m.bit_length())] if m else UNEXPOSED
        return shade, MARKERS.get(group, "o")
    return COLORBLIND[(number + 3) % len(COLORBLIND)], "o"


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
    band: bool | None = None,
) -> Axes:
    """Estimates over x, with their intervals as bars (or as a band where there are many points).

    Parameters
    ----------
    table : columns `x`, `y`, `hue` and, for intervals, low and high.
    x, hue, y : column names; each value of hue gets its mark (:func:`mark_of`) and a legend entry.
    log_x : ticks at the values, spaced by their logarithm; 0 is drawn left of the smallest.
    join : connect the points.
    label, color : of the only curve, without a hue.
    band : intervals as bands, or not; None is where there are more than 12 points.

    Returns
    -------
    The ax.
    """
    ax = plt.gca() if ax is None else ax
    groups = [(label, table)] if hue is None else list(table.groupby(hue, sort=False))
    looks = [mark_of(name, number) if color is None else (color, "o") for number, (name, _) in enumerate(groups)]
    marks = _positions(table[x], log_x)
    for number, ((name, group), (shade, marker)) in enumerate(zip(groups, looks, strict=True)):
        where = group[x] if marks is None else group[x].map(marks).astype(float)
        order = where.sort_values(kind="stable").index
        group, where = group.loc[order], where[order]
        if marks is not None and not join:  # side by side, so that no bar hides another
            where = where + DODGE * (number - (len(groups) - 1) / 2)
        marker = marker if len(group) <= 40 else ""
        ax.plot(where, group[y], marker=marker, ls="-" if join else "", color=shade, label=name)
        if {"low", "high"} <= set(group):
            if len(group) > 12 if band is None else band:
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


def plot_facets(table: pd.DataFrame, x: str, facet: str, *, hue: str, **options: Any) -> list[Axes]:
    """One :func:`plot_curve` beside another, a value of a column each, with one y axis and one legend.

    Parameters
    ----------
    table, x, hue, options : as for :func:`plot_curve`.
    facet : column whose values are told apart.

    Returns
    -------
    The axes, in the order in which the values come.
    """
    parts = list(table.groupby(facet, sort=False))
    alike = hue != facet and table.groupby(facet)[hue].unique().map(tuple).nunique() == 1
    width = 9.5 / len(parts) if len(parts) > 1 else 6.4
    figure, axes = plt.subplots(1, len(parts), figsize=(width * len(parts), 4), sharey=True, squeeze=False)
    for ax, (name, part) in zip(axes[0], parts, strict=True):
        plot_curve(part, x, hue=hue, ax=ax, **options)
        ax.set_title(str(name))
        if ax is not axes[0][0]:
            ax.set_ylabel("")
        ax.get_legend().set_visible(ax is axes[0][-1] if alike else hue == facet)
    figure.tight_layout()
    if not alike and hue != facet:  # below them all
        named = {name: line for ax in axes[0] for line, name in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend(
            list(named.values()), list(named), loc="upper center", bbox_to_anchor=(0.5, 0.0), ncol=6, frameon=False
        )
    return list(axes[0])


def plot_beside(tables: Mapping[str, pd.DataFrame], x: str, **options: Any) -> list[Axes]:
    """One :func:`plot_curve` beside another, a table each, with a y axis of its own and a line at 0.

    Parameters
    ----------
    tables : by what their y axis is called.
    x, options : as for :func:`plot_curve`.

    Returns
    -------
    The axes, in the order of the tables.
    """
    figure, axes = plt.subplots(1, len(tables), figsize=(9.5, 4), squeeze=False)
    for ax, (label, table) in zip(axes[0], tables.items(), strict=True):
        plot_curve(table, x, ax=ax, **options)
        ax.axhline(0, color="0.6", lw=0.8)
        ax.set_ylabel(label)
    figure.tight_layout()
    return list(axes[0])


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
    palette = [mark_of(name, number)[0] for number, name in enumerate(order)] if len(order) else None
    return sns.scatterplot(
        table, x=x, y=y, hue=hue, hue_order=list(order) or None, palette=palette, s=22, linewidth=0, alpha=0.7, ax=ax
    )


def plot_small_multiples(table: pd.DataFrame, x: str, y: str, facet: str) -> list[Axes]:
    """One dot a sequence, in a panel for each value of a column.

    Parameters
    ----------
    table : tidy; x, y, facet : column names.

    Returns
    -------
    The axes, in the order of the values.
    """
    parts = list(table.groupby(facet, sort=True))
    figure, axes = plt.subplots(1, len(parts), figsize=(9.5, 2.8), sharex=True, sharey=True, squeeze=False)
    for ax, (name, part) in zip(axes[0], parts, strict=True):
        plot_points(part.assign(**{facet: name}), x, y, hue=facet, order=[name], ax=ax)
        ax.get_legend().remove()
        ax.set(title=str(name), ylabel="")
    figure.tight_layout()
    return list(axes[0])


def plot_design(presented: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """When sequences are presented: one line an arm, one dot a presentation.

    Parameters
    ----------
    presented : columns arm and step, one line a presentation, arms in the order of the lines.

    Returns
    -------
    The ax.
    """
    ax = plt.gca() if ax is None else ax
    arms = list(dict.fromkeys(presented.arm))
    for place, arm in enumerate(arms):
        color, marker = mark_of(arm)
        steps = presented.step[presented.arm == arm]
        ax.plot(steps, [place] * len(steps), ls="", marker=marker, color=color, markersize=4)
    ax.set_yticks(range(len(arms)), arms)
    ax.invert_yaxis()
    ax.set(xlabel="training step", ylabel="")
    return ax


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
