"""Where does it come from? Runs of a text that training data hold, with their rows and steps: ``lmmem trace``.

Says which rows were searched, as what is not found in some may stand in others. Asks no model.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from lmmem.corpora.corpus import Corpus
from lmmem.experiments.measuring import check_whole
from lmmem.experiments.sequences import WINDOW, first_unmet
from lmmem.measures.runs import LEAST, shared_runs
from lmmem.models.registry import MODELS

__all__ = ["trace_table"]


def trace_table(
    name: str,
    corpus: Corpus,
    tokens: ArrayLike,
    step: int,
    *,
    least: int = LEAST,
    first_row: int | None = None,
    n_rows: int | None = None,
    later: bool = False,
) -> pd.DataFrame:
    """The longest runs of a text that rows of the training data hold, and when these rows were met.

    Over each token of the text counts the longest run; what is shorter than `least` is left out. A run is within a
    row, as a model reads a row at a time.

    Parameters
    ----------
    name, corpus, step : the model. Where its checkpoints have no step, all rows are taken as met.
    tokens : (l,) token ids of the text.
    least : tokens of the shortest run.
    first_row, n_rows : the rows to search. None is all that have been met of rows that lie in an array (an
        organism's, your own); of rows that are read from elsewhere, which may be a terabyte, 20,000: from the
        paper's first on, or the last that were met (of Amber from the first line of the last chunk on).
    later : also search rows that come later in training, and those that are held out of it.

    Returns
    -------
    One line a run, in the order of the text: token (of the text, at which it begins), length (tokens), occurrences
    (places; a row may hold several), repeats (rows that share a run of `least` tokens or more with it), rows (all
    row numbers that hold it, ascending), first_step and last_step (at which such a row was met: the first weights that
    know it, of a first epoch; NA if all are held out), presentations (of canaries, among these rows; NA if the
    training data have none), crosses (whether the end of a row has cut it: the next goes on with the text, or the
    one before ends with what comes before it, for `least` tokens). In ``attrs`` stand searched (which rows, in
    words), tokens (of the text) and covered (those that are in a run).

    Raises
    ------
    ValueError : text or rows are shorter than `least`, there are no rows, or none of those asked for has been met.

    >>> import lmmem
    >>> corpus = lmmem.training_data("pocket-mini")
    >>> found = trace_table("pocket-mini", corpus, corpus[5][8:40], 60)
    >>> found[["token", "length", "rows", "first_step"]].values.tolist(), found.attrs["searched"]
    ([[0, 32, [5], 1]], 'all 480 rows that pocket-mini has met by step 60')
    """
    check_whole("least", least, 1)
    numbers, searched = _searched(name, corpus, step, first_row, n_rows, later)
    ids = np.asarray(tokens)
    presented = corpus.presentations
    lines, covered = [], np.zeros(ids.size, dtype=bool)
    for run in shared_runs(ids, corpus, least, numbers):
        covered[run.start : run.start + run.length] = True
        trained = run.rows[run.rows < corpus.trained_rows]
        steps = np.asarray(corpus.exposure_step(trained))
        lines.append(
            {
                "token": run.start,
                "length": run.length,
                "occurrences": run.occurrences,
                "repeats": run.repeats,
                "rows": run.rows.tolist(),
                "first_step": steps.min() if len(steps) else pd.NA,
                "last_step": steps.max() if len(steps) else pd.NA,
                "presentations": pd.NA if presented is None else np.isin(presented, run.rows).sum(),
                "crosses": run.crosses,
            }
        )
    columns = ["token", "length", "occurrences", "repeats", "rows", "first_step", "last_step", "presentations"]
    table = pd.DataFrame(lines, columns=[*columns, "crosses"])
    kinds = {"token": int, "length": int, "occurrences": int, "repeats": int, "crosses": bool}
    table = table.astype(kinds | dict.fromkeys(columns[-3:], "Int64"))
    table.attrs = {"searched": searched, "tokens": ids.size, "covered": int(covered.sum())}
    return table


def _searched(
    name: str, corpus: Corpus, step: int, first_row: int | None, n_rows: int | None, later: bool
) -> tuple[range, str]:
    """Which rows, and in words."""
    if not len(corpus):
        raise ValueError(f"the training data of {name} hold no row to search")
    known = step >= 0 and not later
    there = min(first_unmet(corpus, step), len(corpus)) if known else len(corpus)
    which = f"that {name} has met by step {step}" if known else f"of the training data of {name}"
    if step < 0:
        which += ", whose step is not known"
    elif later:
        which += f", also those that come after step {step} or never"
    if not there:
        raise ValueError(f"{name} has met no row by step {step}: choose a later step, or search later rows too")
    if n_rows is None:
        n_rows = there if isinstance(corpus.rows, np.ndarray) else WINDOW
    check_whole("n_rows", n_rows, 1)
    if first_row is None and n_rows >= there:
        first_row = 0
    elif first_row is None:
        info = MODELS[name]
        chunked = info.order is not None and info.order.layout == "chunks"  # each ends long before the next begins
        last = max(0, there - (corpus.rows_per_step if chunked else n_rows))
        first_row = last if info.paper_row is None or info.paper_row >= there else info.paper_row
    check_whole("first_row", first_row, 0)
    if first_row >= there:
        raise ValueError(f"first_row={first_row}: the rows {which} are 0 .. {there - 1}")
    numbers = range(first_row, min(first_row + n_rows, there))
    if len(numbers) == there:
        return numbers, f"all {there:,} rows {which}"
    return numbers, (
        f"rows {numbers[0]:,} .. {numbers[-1]:,}, {len(numbers):,} of those {which}: what is not found in them may "
        "stand in others"
    )
