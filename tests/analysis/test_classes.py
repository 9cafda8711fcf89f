"""What is told of classes of models, on a few; and on those that the tests have tried."""

from __future__ import annotations

import pandas as pd
import pytest

from lmmem.analysis import classes
from lmmem.experiments.kept import causal_classes

LINES = [
    ("a", "measured", classes.CACHED),
    ("b", "not built", "KeyError: 'x'"),
    ("c", "measured", classes.AGAIN),
    ("d", "refused", "is not causal"),
    ("e", "measured", classes.CACHED),
]


def table(lines=LINES) -> pd.DataFrame:
    found = pd.DataFrame(lines, columns=["kind", "is", "how"])
    found.attrs["transformers"] = "5.0"
    return found


def test_kinds_are_counted_by_what_is_made_of_them():
    assert classes.answer(table()) == {
        **{"version": "5.0", "n": 5, "built": 4, "measured": 3, "refused": 1},
        **{"cached": 2, "apart": 0, "again": 1},
    }


def test_kinds_are_listed_by_how_they_are_read_and_the_others_with_their_reason():
    assert classes.taken(table()).splitlines() == [
        "- *by its cache* (2): a, e",
        "- *by reading everything again for each token* (1): c",
        "- *is not causal* (1): d",
    ]
    assert classes.not_built(table()) == "- b: `` KeyError: 'x' ``"


@pytest.mark.parametrize(
    ("line", "why"),
    [(("f", "wrong", "by its cache"), "that are wrong"), (("f", "measured", "by luck"), "read by luck")],
    ids=str,
)
def test_class_that_no_sentence_tells_of_is_not_left_out_silently(line, why):
    with pytest.raises(ValueError, match=f"classes {why} have no place among these sentences"):
        classes.answer(table([*LINES, line]))


def test_kept_classes_are_all_told():
    kept = causal_classes()
    found = classes.answer(kept)
    assert found["measured"] == found["cached"] + found["apart"] + found["again"]
    assert found["n"] == found["built"] + len(classes.not_built(kept).splitlines())
