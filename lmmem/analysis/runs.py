"""Runs of text that a model recites: what overlapping windows recite, put together. Knows neither models nor texts."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lmmem.analysis.statistics import check_columns
from lmmem.protocol import PROMPT

__all__ = ["LEAST", "runs"]

LEAST = 16  # tokens that a run has at least to count as recited


def runs(windows: pd.DataFrame, least: int = LEAST) -> pd.DataFrame:
    """The runs of text that the model recites: what windows recite, put together where it touches.

    Parameters
    ----------
    windows : columns text, token, recited, and where there are ends (characters at which the tokens of the
        continuation end) also begin.
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
    for text, here in windows[windows.recited >= least].sort_values("token").groupby("text"):
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
