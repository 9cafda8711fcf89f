"""Is the row arithmetic right? Published rows beside what our addressing returns: ``lmmem verify`` asks it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lmmem.corpora.corpus import training_data
from lmmem.corpora.published import memorised_rows
from lmmem.protocol import PROMPT

__all__ = ["verify"]

SHOWN = 5  # disagreeing rows that are named


def verify(
    name: str,
    n: int = 100,
    seed: int = 0,
    *,
    with_model: bool = False,
    path: str | Path | None = None,
    dtype: str | None = None,
    device: str | None = None,
) -> pd.DataFrame:
    """Check our rows, and with a model its recall, against what EleutherAI has published.

    Parameters
    ----------
    name : a Pythia model, as for :func:`lmmem.corpora.published.memorised_rows`.
    n : how many published rows.
    seed : chooses them.
    with_model : also load the fully trained model, and check that it recites these rows.
    path : training data on this machine, as for :func:`lmmem.training_data`; None asks the Hub.
    dtype, device : as for :func:`lmmem.load_model`.

    Returns
    -------
    One line a check: check, agree, of, share, disagree (the first rows that do).

    Raises
    ------
    ValueError, PermissionError, ConnectionError : as for :func:`lmmem.corpora.published.memorised_rows`.
    IndexError : a published row is past the end of our training data.
    """
    index, published = memorised_rows(name, n, seed)
    ours = training_data(name, path)[index][:, : 2 * PROMPT]
    lines = [_line("our rows begin with the published 64 tokens", (ours == published).all(axis=1), index)]
    if with_model:
        from lmmem.inference.decoding import greedy
        from lmmem.models.loading import load_model

        said = greedy(load_model(name, dtype=dtype, device=device), published[:, :PROMPT], PROMPT)
        recited = (said == published[:, PROMPT:]).all(axis=1)
        lines.append(_line("the model recites the last 32 of them", recited, index))
    return pd.DataFrame(lines)


def _line(check: str, same: np.ndarray, index: np.ndarray) -> dict[str, object]:
    different = ", ".join(map(str, index[~same][:SHOWN])) + (" .." if (~same).sum() > SHOWN else "")
    return {"check": check, "agree": int(same.sum()), "of": len(same), "share": same.mean(), "disagree": different}
