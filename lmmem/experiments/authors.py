"""What the paper's authors measured on Pythia-1B, counted: ``make published``.

Their file holds 512,000 lines and lies in their repository; what a page needs of it are sums and counts, which lie in
results/authors/. Knows nothing of what is concluded from them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lmmem.corpora.authors import COMMIT, REPOSITORY, SHA256, STEPS, URL, authors_measurements
from lmmem.experiments.kept import RESULTS
from lmmem.storage import tables
from lmmem.storage.provenance import environment

__all__ = ["ABSENT", "WITHIN", "Counted", "counted", "kept", "main"]

FOLDER = RESULTS / "authors"
BEFORE, AFTER = STEPS[:2]  # the last checkpoint that has met none of the rows, the first that has met all
ABSENT = 50  # tokens from the text or more: far from recited (book/plan.md)
WITHIN = (0, 5, 10, 20, 30)  # tokens of the text at which it counts as come back
WIDTH = 0.1  # of ranges of z-complexity


class Counted(NamedTuple):
    """Sums and counts over rows, and the record of what they were made of.

    changes : of rows met once; a line an exposure step and later step: exposure_step, step, n (rows), change (mean of
        kl_ld there minus kl_ld at step 10,000, in tokens).
    pairs : of rows met once; a line two steps, one after the other, and two values of kl_ld: first, second (steps),
        kl_ld_first, kl_ld_second, n.
    back : of rows met once that are 50 tokens or more away at step 11,000; a line another step and m: step, within
        (m tokens), n (rows), before (within m at step 10,000 and not at `step`), after (there and not before), both.
    levels : at step 19,000; a line a range and value of kl_ld: by ("repeats": rows met until then that share a run; or
        "z_complexity", of rows met once), bin (lower end), kl_ld, n.
    """

    changes: pd.DataFrame
    pairs: pd.DataFrame
    back: pd.DataFrame
    levels: pd.DataFrame
    record: dict[str, Any]


def counted(measured: pd.DataFrame) -> Counted:
    """Count what :func:`lmmem.corpora.authors.authors_measurements` gives.

    Returns
    -------
    The counts, with a record of rows, and of those met once: of the rows from step 10,000 to step 20,000 the only one
    that shares a run of 30 tokens with it.

    Raises
    ------
    ValueError : no row is met once.
    """
    kl_ld = measured.pivot(index="index", columns="step", values="kl_ld")
    repeats = measured.pivot(index="index", columns="step", values="repeats")
    first = measured.drop_duplicates("index").set_index("index")
    once = (repeats.sum(axis=1) == 1) & (repeats[BEFORE] == 1)
    if not once.any():
        raise ValueError("no row is met once, so nothing can be said of one exposure")
    alone = kl_ld[once]
    change = alone[[*STEPS[1:]]].sub(alone[BEFORE], axis=0)
    by_step = change.groupby(first.exposure_step[once])
    changes = by_step.mean().stack().reset_index().set_axis(["exposure_step", "step", "change"], axis=1)
    changes = changes.assign(n=changes.exposure_step.map(by_step.size()))
    doubling = 2 ** np.floor(np.log2(repeats[[*STEPS[:-1]]].sum(axis=1).clip(lower=1))).astype(int)
    ranges = np.floor(first.z_complexity[once] / WIDTH + 1e-9) * WIDTH
    levels = {"repeats": (doubling, kl_ld[STEPS[-1]]), "z_complexity": (ranges.round(1), alone[STEPS[-1]])}
    return Counted(
        changes[["exposure_step", "step", "n", "change"]],
        pd.concat([_pair(alone, one, other) for n, one in enumerate(STEPS) for other in STEPS[n + 1 :]]),
        pd.concat([_back(alone, step, within) for step in STEPS[2:] for within in WITHIN]),
        pd.concat([_levels(by, *of) for by, of in levels.items()]),
        {"rows": len(kl_ld), "once": int(once.sum())},
    )


def _pair(kl_ld: pd.DataFrame, first: int, second: int) -> pd.DataFrame:
    """How often two steps have which two values."""
    counts = kl_ld[[first, second]].value_counts().reset_index()
    return counts.set_axis(["kl_ld_first", "kl_ld_second", "n"], axis=1).assign(first=first, second=second)


def _back(kl_ld: pd.DataFrame, step: int, within: int) -> pd.DataFrame:
    """Of rows far away at the first step after exposure, how many are near before it, after it, and both."""
    far = kl_ld[kl_ld[AFTER] >= ABSENT]
    before, after = far[BEFORE] <= within, far[step] <= within
    counts = {"n": len(far), "before": (before & ~after).sum(), "after": (after & ~before).sum()}
    return pd.DataFrame([{"step": step, "within": within, **counts, "both": (before & after).sum()}])


def _levels(by: str, bins: pd.Series, kl_ld: pd.Series) -> pd.DataFrame:
    """How often which value of kl-LD stands in which range."""
    table = pd.DataFrame({"bin": bins.astype(float), "kl_ld": kl_ld}).groupby(["bin", "kl_ld"], as_index=False).size()
    return table.set_axis(["bin", "kl_ld", "n"], axis=1).assign(by=by)


def kept(folder: str | Path | None = None) -> Counted:
    """What was counted, as it is kept in a folder; None is ours.

    Raises
    ------
    ValueError : a table is missing.
    DamagedError : a file is not what was written.

    >>> kept().record["once"]
    46125
    """
    paths = {part: Path(folder or FOLDER) / f"{part}.parquet" for part in Counted._fields[:-1]}
    if missing := [path for path in paths.values() if not path.exists()]:
        raise ValueError(f"{missing[0]} is missing: make published")
    read = {part: tables.load(path) for part, path in paths.items()}
    changes, pairs, back, levels = (table for table, _ in read.values())
    return Counted(changes, pairs, back, levels, read["changes"][1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Count the authors' measurements into results/authors/."""
    parser = argparse.ArgumentParser(prog="python -m lmmem.experiments.authors", description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", help=f"where their file lies; without it, it is fetched from {URL}")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the tables")
    given = parser.parse_args(arguments)
    try:
        found = counted(authors_measurements(given.file))
    except (ValueError, ConnectionError) as error:
        parser.error(str(error))
    record = found.record | {"source": f"{REPOSITORY}@{COMMIT[:12]}", "sha256": SHA256, "environment": environment()}
    given.results.mkdir(parents=True, exist_ok=True)
    for part in Counted._fields[:-1]:
        tables.save(getattr(found, part), given.results / f"{part}.parquet", record)
    print(f"{given.results}: {found.record['rows']:,} rows, {found.record['once']:,} met once")


if __name__ == "__main__":
    main()
