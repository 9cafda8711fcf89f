"""Sentences tell every number that they are given, and no other."""

from __future__ import annotations

import pandas as pd
import pytest

from lmmem.analysis.prose import table_if, tell
from lmmem.analysis.statistics import Interval


def test_numbers_and_intervals_stand_in_their_formats():
    said = tell("{gain:.1f}, {n:,}, {arm}", gain=Interval(-1.25, -2.0, 0.5, 8), n=12_345, arm="spread 16")
    assert said == "\N{MINUS SIGN}1.2 (95 % interval \N{MINUS SIGN}2.0 to 0.5, n = 8), 12,345, spread 16"


def test_number_below_zero_has_a_minus_sign():
    assert tell("{x:.1f} and {y}", x=-1.26, y=-3) == "\N{MINUS SIGN}1.3 and \N{MINUS SIGN}3"


def test_value_that_is_not_told_is_refused():
    with pytest.raises(ValueError, match="not told: b, c"):
        tell("{a}", a=1, b=2, c=3)


def test_value_that_is_not_given_is_named():
    with pytest.raises(KeyError, match="missing"):
        tell("{missing}")


def test_paragraphs_lose_their_common_margin_and_are_shown_as_markdown():
    said = tell(
        """
        **First.**

        Second, $e^{{x}}$.
        """
    )
    assert said == "**First.**\n\nSecond, $e^{x}$."
    assert said._repr_markdown_() == str(said)


def test_table_that_the_data_do_not_hold_is_its_reason():
    def found(n, least):
        if n < least:
            raise ValueError(f"{least} are needed, got {n}")
        return pd.DataFrame({"n": [n]})

    assert table_if(found, 3, least=2).n[0] == 3
    said = table_if(found, 1, least=2)
    assert said == "No table here: 2 are needed, got 1."
    assert said._repr_markdown_() == said
