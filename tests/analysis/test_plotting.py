"""Figures: what is drawn is what the table says."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lmmem.analysis.plotting import plot_curve, plot_points, set_style

TABLE = pd.DataFrame(
    {
        "m": [0, 1, 4, 0, 1, 4],
        "study": ["a"] * 3 + ["b"] * 3,
        "estimate": [9.0, 8.0, 3.0, 7.0, 6.0, 5.0],
        "low": [8.0, 7.0, 2.0, 6.0, 5.0, 4.0],
        "high": [9.5, 9.0, 5.0, 8.0, 7.0, 6.0],
    }
)


@pytest.fixture(autouse=True)
def figures():
    mpl.use("Agg")
    yield
    plt.close("all")


def test_each_hue_is_a_line_through_its_estimates():
    _, ax = plt.subplots()
    assert plot_curve(TABLE, "m", hue="study", ax=ax) is ax
    lines = [line for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_array_equal(lines[0].get_xydata(), TABLE[["m", "estimate"]][:3])
    np.testing.assert_array_equal(lines[1].get_xydata(), TABLE[["m", "estimate"]][3:])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]


def test_bars_reach_from_low_to_high():
    ax = plot_curve(TABLE[:3], "m", label="only", color="black")
    (bars,) = ax.collections
    np.testing.assert_allclose([segment[:, 1] for segment in bars.get_segments()], TABLE[["low", "high"]][:3])
    assert ax.get_legend().get_texts()[0].get_text() == "only"


def test_long_curves_have_a_band():
    x = np.arange(20.0)
    ax = plot_curve(pd.DataFrame({"N": x, "estimate": x, "low": x - 1, "high": x + 1}), "N")
    (band,) = ax.collections
    corners = band.get_paths()[0].vertices
    assert corners[:, 1].min() == -1
    assert corners[:, 1].max() == 20


def test_log_axis_has_a_place_for_zero_and_ticks_at_the_values():
    ax = plot_curve(TABLE, "m", hue="study", log_x=True)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "1", "4"]
    zero, one, four = ax.get_xticks()
    assert (one, four) == (0, 2)
    assert zero < one
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [zero, one, four])


def test_points_can_stand_alone():
    ax = plot_curve(TABLE[:3], "m", join=False)
    assert ax.lines[0].get_linestyle() == "None"
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [0, 1, 4])


def test_points_of_different_hues_stand_side_by_side():
    ax = plot_curve(TABLE, "m", hue="study", log_x=True, join=False)
    left, right = (line.get_xdata() for line in ax.lines if line.get_marker() == "o")
    assert (np.asarray(left) < np.asarray(right)).all()
    np.testing.assert_allclose(np.add(left, right) / 2, ax.get_xticks())


def test_names_stand_in_a_row_in_their_order():
    ax = plot_curve(pd.DataFrame({"method": ["z", "a", "m"], "estimate": [1.0, 2.0, 3.0]}), "method")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["z", "a", "m"]
    np.testing.assert_array_equal(ax.get_xticks(), [0, 1, 2])


def test_line_through_names_follows_their_order():
    table = pd.DataFrame({"method": ["z", "a", "m"], "estimate": [1.0, 2.0, 3.0]})
    ax = plot_curve(table, "method")
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[0, 1], [1, 2], [2, 3]])


def test_yes_and_no_stand_in_a_row():
    ax = plot_curve(pd.DataFrame({"exposed": [False, True], "estimate": [5.0, 2.0]}), "exposed")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["False", "True"]
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[0, 5], [1, 2]])


def test_every_sequence_is_a_dot():
    ax = plot_points(TABLE, "m", "estimate", hue="study", order=["b", "a"])
    np.testing.assert_array_equal(np.asarray(ax.collections[0].get_offsets()), TABLE[["m", "estimate"]])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["b", "a"]
    assert len(plot_points(TABLE, "m", "estimate").collections) > 0


def test_style_sets_the_size_of_figures():
    with mpl.rc_context():
        set_style()
        assert tuple(mpl.rcParams["figure.figsize"]) == (6.4, 4)
