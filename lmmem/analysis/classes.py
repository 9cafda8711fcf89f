"""Which classes of models are measured right, and how the others fare: what the page on models tells.

A line a class in, as ``lmmem.experiments.kept.causal_classes`` gives them; numbers and lists out. Knows no models.
"""

from __future__ import annotations

import pandas as pd

from lmmem.analysis.prose import Prose

__all__ = ["answer", "not_built", "taken"]

CACHED, APART, AGAIN = (
    "by its cache",
    "by its cache, each sample apart",
    "by reading everything again for each token",
)


def answer(classes: pd.DataFrame) -> dict[str, object]:
    """How many kinds there are, by what lmmem makes of them.

    Parameters
    ----------
    classes : columns kind, is ("measured", "refused", "not built") and how; the version of transformers in ``.attrs``.

    Returns
    -------
    version; n; built, measured, refused (kinds); cached, apart, again: those measured, by how they are read.

    Raises
    ------
    ValueError : a class is measured, or is, as none is told to be.
    """
    if unknown := set(classes["is"]) - {"measured", "refused", "not built"}:
        raise ValueError(f"classes that are {', '.join(sorted(unknown))} have no place among these sentences")
    ways = classes[classes["is"] == "measured"]["how"].value_counts()
    if unknown := set(ways.index) - {CACHED, APART, AGAIN}:
        raise ValueError(f"classes read {', '.join(sorted(unknown))} have no place among these sentences")
    measured, refused = ((classes["is"] == what).sum() for what in ("measured", "refused"))
    return {
        "version": classes.attrs["transformers"],
        "n": len(classes),
        "built": measured + refused,
        "measured": measured,
        "refused": refused,
        **{name: ways.get(way, 0) for name, way in {"cached": CACHED, "apart": APART, "again": AGAIN}.items()},
    }


def taken(classes: pd.DataFrame) -> Prose:
    """The kinds that were built, by how they are read or why they are refused, as a list."""
    groups = classes[classes["is"] != "not built"].groupby(["is", "how"])["kind"]
    return Prose("\n".join(f"- *{how}* ({len(kinds)}): {', '.join(kinds)}" for (_, how), kinds in groups))


def not_built(classes: pd.DataFrame) -> Prose:
    """The kinds that were not built, each with what transformers says to it, as a list."""
    others = classes[classes["is"] == "not built"]
    return Prose("\n".join(f"- {kind}: `` {why} ``" for kind, why in zip(others.kind, others.how, strict=True)))
