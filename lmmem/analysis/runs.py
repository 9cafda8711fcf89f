"""Runs of text that a model recites: what overlapping windows recite, put together. Knows neither models nor texts."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lmmem.analysis.statistics import check_columns
from lmmem.protocol import CONTINUATION, PROMPT

__all__ = ["COPIED", "LEAST", "longest_run", "repeat_themselves", "runs"]

LEAST = 16  # tokens that a run has at least to count as recited
COPIED = 8  # tokens of a run that stands before in the same window, as lmmem/experiments/scan.py counts them


def repeat_themselves(windows: pd.DataFrame) -> pd.Series:
    """Which windows repeat themselves, so that what the model says of them shows no memory: a row of asterisks.

    Half of the continuation, or of the 16 tokens or more that are recited of it, end runs of 8 tokens that stand
    before in the same window.

    Parameters
    ----------
    windows : columns recited, copied and recited_copied (tokens of the continuation, and of what is recited, that end
        such a run). A table without them, as those of models that were measured before, has none that is set aside.

    >>> windows = pd.DataFrame({"recited": [64, 20, 20, 3], "copied": [60, 12, 9, 3], "recited_copied": [60, 12, 4, 3]})
    >>> repeat_themselves(windows).tolist()
    [True, True, False, False]
    """
    if "copied" not in windows:
        return pd.Series(False, index=windows.index)
    recited = (windows.recited >= LEAST) & (2 * windows.recited_copied >= windows.recited)
    return (2 * windows.copied >= CONTINUATION) | recited


def longest_run(windows: pd.DataFrame) -> int:
    """The tokens of the longest of the :func:`runs`, however short; 0 if not one token is recited.

    >>> longest_run(pd.DataFrame({"index": [0, 1], "text": 0, "token": [0, 8], "recited": [20, 16]}))
    24
    """
    found = runs(windows, 1)
    return int(found.tokens.max()) if len(found) else 0


def runs(windows: pd.DataFrame, least: int = LEAST) -> pd.DataFrame:
    """The runs of text that the model recites: what windows recite, put together where it touches.

    Windows that :func:`repeat_themselves` are left out.

    Parameters
    ----------
    windows : columns index, text, token, recited, where they are known copied and recited_copied, and where there are
        ends (characters at which the tokens of the continuation end) also begin.
    least : tokens that a window recites at least.

    Returns
    -------
    One line a run, longest first: text, token (of the text, the first recited one), tokens (its length), index (of the
    window that recites most of it), and begin and end, characters.

    >>> windows = pd.DataFrame({"index": [0, 1], "text": 0, "token": [0, 8], "recited": [20, 16]})
    >>> runs(windows)[["token", "tokens"]].values.tolist()
    [[32, 24]]
    """
    check_columns(windows, ["index", "text", "token", "recited"])
    lines: list[dict[str, object]] = []
    counted = windows[(windows.recited >= least) & ~repeat_themselves(windows)]
    for text, here in counted.sort_values("token").groupby("text"):
        begins = here.token.to_numpy() + PROMPT
        stops = begins + here.recited.to_numpy()
        new = np.r_[True, begins[1:] > np.maximum.accumulate(stops)[:-1]]
        for _, run in here.groupby(new.cumsum()):
            tokens, recited = run.token.to_numpy(), run.recited.to_numpy()
            first, last = int(tokens[0]) + PROMPT, int((tokens + recited).argmax())
            length = int(tokens[last] + recited[last]) + PROMPT - first
            line = {"text": text, "token": first, "tokens": length, "index": run["index"].iloc[int(recited.argmax())]}
            if "ends" in run:
                line |= {"begin": run.begin.iloc[0], "end": run.ends.iloc[last][int(recited[last]) - 1]}
            lines.append(line)
    columns = ["text", "token", "tokens", "index", *(["begin", "end"] if "ends" in windows else [])]
    table = pd.DataFrame(lines, columns=columns)
    return table.sort_values("tokens", ascending=False, kind="stable", ignore_index=True)
