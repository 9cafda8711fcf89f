"""What teaching saves of a text, beside what it saves of the model's own words after the same prompt.

Each passage is compared with itself: its true continuation with one as likely that the model itself gives. Then
passages that are there are compared with passages that are not, by the same difference (book/plan.md, sixth plan).
Tables as ``Study.relearned`` gives them of ``Study.alternatives`` in. Knows neither models nor figures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lmmem.analysis import hidden
from lmmem.analysis.prose import MINUS
from lmmem.analysis.randomisation import LEAST, cluster_difference, cluster_mean
from lmmem.analysis.statistics import Interval, as_cells, check_columns

__all__ = ["answer", "curves", "saved", "savings", "simulated", "told", "told_checks", "told_levels"]

TRUE, ALTERNATIVE = "true", "alternative"  # continuations
NEEDED = ["passage", "continuation", "arm", "presentations", "block", "file", "presentation", "kl_ld", "cross_entropy"]
NULLS = ("untouched 0", "spread 0", "row 0", "never seen 0")  # arms of what is not there
ELSEWHERE = "elsewhere 0"  # the same, from files of which no passage is there
SERVES = ("hidden", "erased", "forgotten")  # kinds of which rule 23 asks that they are found
NOTHING = "nothing was taught beside the model's own words: make replicates"
NONE = Interval(np.nan, np.nan, np.nan, 0)
FOUND, NOT_FOUND, NO_AA = "found", "not established", "no A/A: no verdict"


def saved(relearned: pd.DataFrame) -> pd.DataFrame:
    """What teaching saves of each passage's true continuation, and of its alternative.

    Parameters
    ----------
    relearned : a line a (passage, continuation, presentation), by one order: columns passage, continuation ("true",
        "alternative"), arm, presentations (in training), block, file, presentation (in relearning, from 0), kl_ld,
        cross_entropy; and organism, where passages and blocks are numbered anew in each.

    Returns
    -------
    One line a passage: index (0, 1, ..), arm, presentations, block, file; true and alternative (tokens: kl-LD before
    any presentation, minus its mean after the first to the last), tokens (the first minus the second), nats (the same
    of the loss, per token), kl_ld and kl_ld_alternative (before any).

    Raises
    ------
    ValueError : a passage lacks a continuation or is there twice with one and the same presentation, or nothing was
        measured before the first presentation, or after it.

    >>> passages = saved(simulated(tokens=10.0, seed=0))
    >>> passages.groupby("arm").tokens.mean().round().to_dict()
    {'spread 0': 2.0, 'spread 64': 14.0}
    """
    relearned = _apart(relearned)
    rounds = sorted(set(relearned.presentation))
    if len(rounds) < 2 or rounds[0] != 0:
        raise ValueError(f"presentations {rounds}: savings need what was before the first, 0, and after others")
    of = {
        value: relearned.pivot(index="passage", columns=["continuation", "presentation"], values=value)
        for value in ("kl_ld", "cross_entropy")
    }
    wanted = pd.MultiIndex.from_product([[TRUE, ALTERNATIVE], rounds])
    if any(table.reindex(columns=wanted).isna().any(axis=None) for table in of.values()):
        raise ValueError(f"each passage needs a {TRUE} and an {ALTERNATIVE} continuation, each after all presentations")

    def gained(value: str, continuation: str) -> pd.Series:
        table = of[value][continuation]
        return table[0] - table[rounds[1:]].to_numpy().mean(axis=1)

    found = relearned.groupby("passage")[["arm", "presentations", "block", "file"]].first()
    found = found.assign(true=gained("kl_ld", TRUE), alternative=gained("kl_ld", ALTERNATIVE))
    return found.assign(
        tokens=found.true - found.alternative,
        nats=gained("cross_entropy", TRUE) - gained("cross_entropy", ALTERNATIVE),
        kl_ld=of["kl_ld"][TRUE][0],
        kl_ld_alternative=of["kl_ld"][ALTERNATIVE][0],
    ).reset_index(names="index")


def _apart(relearned: pd.DataFrame) -> pd.DataFrame:
    """The lines, if each is there once; passages and blocks of several organisms numbered apart."""
    check_columns(relearned, NEEDED)
    key = ["organism"] if "organism" in relearned else []
    if relearned.duplicated([*key, "passage", "continuation", "presentation"]).any():
        raise ValueError("a continuation is there twice after as many presentations: compare one relearning at a time")
    numbers = {of: relearned.groupby([*key, of]).ngroup() for of in ("passage", "block")}
    return relearned.assign(**numbers, arm=relearned.arm.astype(str), file=relearned.file.astype(str))


def savings(*relearned: pd.DataFrame, value: str = "tokens", seed: int = 0) -> pd.DataFrame:
    """What teaching saves beside the model's own words, by kind and null: the plan's rule 22.

    Parameters
    ----------
    relearned : tables as for :func:`saved`, each with passages that are there and their nulls.
    value : "tokens"; "nats"; or "true", the true continuations alone, as twins that were taught beside them would say.
    seed : of A/A.

    Returns
    -------
    One line a kind and null, of passages in blocks that hold both: kind (an arm of the exposed, by the name that
    :func:`lmmem.analysis.hidden.by_kind` has for it; or "elsewhere 0", which must find nothing), null (an arm); beside,
    beside_low, beside_high (what is saved of true continuations minus of alternatives), of_null (the same of the null,
    mean over the blocks of the kind), estimate, low, high (the first minus the second, clustered by file), n, n_null;
    aa, aa_low, aa_high (one half of the null against the other; missing where that cannot be asked); null_mean,
    null_low, null_high (of all of the null); verdict: "found", "not established", or why there is none. Beside these,
    in tokens: true, alternative (what is saved of each), null_alternative (the same of the null's alternatives), kl_ld,
    kl_ld_alternative (before any presentation).

    Raises
    ------
    ValueError : a table has no passage that is there, or no null in its blocks; or as :func:`saved`.
    """
    lines: list[dict[str, object]] = []
    for table in relearned:
        passages = _by_kind(saved(table))
        arms = [*passages.arm.unique()]
        there = [arm for arm in arms if (passages.presentations[passages.arm == arm] > 0).any()]
        nulls = [arm for arm in dict.fromkeys([*(f"{kind} 0" for kind in there), *NULLS]) if arm in arms]
        if not there or not nulls:
            raise ValueError(
                f"what is there has to be compared with what is not, {', '.join(NULLS)}; arms are {', '.join(arms)}"
            )
        for null in nulls:
            twins = passages[passages.arm == null]
            alone = _of_null(twins, value, seed)
            for kind in [*sorted(there, key=_place), *({ELSEWHERE} & set(arms))]:
                own = passages[(passages.arm == kind) & passages.block.isin(twins.block)]
                if own.empty:
                    raise ValueError(f"no block holds passages of {kind} and of {null}")
                line = _compared(own, twins, value) | alone
                lines.append({"kind": kind, "null": null, **line, "verdict": _verdict(line)})
    return pd.DataFrame(lines)


def _place(kind: str) -> int:
    """Kinds in the order of the pages, then arms that are none."""
    return hidden.ORDER.index(kind) if kind in hidden.ORDER else len(hidden.ORDER)


def _by_kind(passages: pd.DataFrame) -> pd.DataFrame:
    """Arms of the exposed by the kind of memory that they hold, where there is a name for it."""
    named = hidden.by_kind(passages).set_index("index").arm
    return passages.assign(arm=passages["index"].map(named).fillna(passages.arm))


def _of_null(twins: pd.DataFrame, value: str, seed: int) -> dict[str, float]:
    """What is saved of the null, and one half of it against the other: columns of :func:`savings`."""
    mean = cluster_mean(twins[value], twins.file)
    half = twins.sample(frac=1, random_state=seed).groupby("block").cumcount().reindex(twins.index) % 2 == 0
    try:
        aa = cluster_difference(twins[value], half, twins.block, twins.file)
    except ValueError:  # no block has two, or one half is of one file
        aa = NONE
    ends = {"aa": aa.estimate, "aa_low": aa.low, "aa_high": aa.high}
    return ends | {"null_mean": mean.estimate, "null_low": mean.low, "null_high": mean.high}


def _compared(own: pd.DataFrame, twins: pd.DataFrame, value: str) -> dict[str, float]:
    """Passages of one kind beside their null, all of the first in blocks of the second: columns of :func:`savings`."""
    both, of_block = pd.concat([own, twins]), twins.groupby("block")[[value, ALTERNATIVE]].mean().loc[own.block]
    line = cluster_difference(both[value], np.arange(len(both)) < len(own), both.block, both.file)
    beside = cluster_mean(own[value], own.file)
    return {
        **{"beside": beside.estimate, "beside_low": beside.low, "beside_high": beside.high},
        **{"of_null": of_block[value].mean(), "null_alternative": of_block[ALTERNATIVE].mean()},
        **{name: own[name].mean() for name in (TRUE, ALTERNATIVE, "kl_ld", "kl_ld_alternative")},
        **line._asdict(),
        "n_null": int(twins.block.isin(own.block).sum()),
    }


def _verdict(line: dict[str, float]) -> str:
    if line["n"] >= LEAST and np.isnan(line["aa"]):
        return NO_AA
    return hidden.verdict(int(line["n"]), line["low"], Interval(line["aa"], line["aa_low"], line["aa_high"], 0))


def told(found: pd.DataFrame) -> pd.DataFrame:
    """Savings as a table to read, an interval a cell.

    Parameters
    ----------
    found : as :func:`savings` gives it.

    Raises
    ------
    ValueError : nothing was taught.
    """
    _check_taught(found)
    table = found[["kind", "null", "n", "n_null"]].rename(columns={"n_null": "n null"})
    table["beside own words"] = _cells(found, "beside", "beside_low", "beside_high")
    table["of the null"] = found.of_null.round(1)
    table["beyond the null"] = _cells(found, "estimate", "low", "high")
    table["verdict"] = found.verdict.replace({**hidden.SHORT, NO_AA: "none: no A/A"})
    return table.set_index(["kind", "null"])


def told_levels(found: pd.DataFrame, twins: pd.DataFrame) -> pd.DataFrame:
    """What is saved of each continuation, from where, and beside twins, as a table to read.

    Parameters
    ----------
    found, twins : as :func:`savings` gives them of one relearning, with value "tokens" and "true".

    Raises
    ------
    ValueError : nothing was taught.
    """
    _check_taught(found)
    lines = found.set_index(["kind", "null"])
    columns = {"kl_ld": "kl-LD before", "kl_ld_alternative": "of own words", "true": "true text"}
    columns |= {"alternative": "own words", "null_alternative": "null's own words"}
    table = lines[[*columns]].round(1).rename(columns=columns)
    table["beside twins"] = _cells(twins.set_index(["kind", "null"]).loc[lines.index], "estimate", "low", "high")
    return table


def told_checks(found: pd.DataFrame, nats: pd.DataFrame) -> pd.DataFrame:
    """The null against itself, and savings in nats, as a table to read.

    Parameters
    ----------
    found, nats : as :func:`savings` gives them of one relearning, with value "tokens" and "nats".

    Raises
    ------
    ValueError : nothing was taught.
    """
    _check_taught(found)
    lines = found.set_index(["kind", "null"])
    table = pd.DataFrame(index=lines.index)
    table["A/A"] = _cells(lines, "aa", "aa_low", "aa_high", missing="cannot be asked")
    table["nats"] = _cells(nats.set_index(["kind", "null"]).loc[lines.index], "estimate", "low", "high", digits=2)
    return table


def answer(found: pd.DataFrame, twins: pd.DataFrame) -> dict[str, object]:
    """What a page opens with: rules 22 and 23 of the plan, in words.

    Parameters
    ----------
    found, twins : as :func:`savings` gives them of organisms, with value "tokens" and "true".

    Returns
    -------
    found (kinds, with their tokens), missed (those not established), undecided (those without a verdict), twins (those
    not established that twins, taught beside the same passages, show: with their tokens beside these), serves
    (whether rule 23 holds), elsewhere (tokens, of passages that are not there), null (tokens that true text is ahead
    where nothing is there, by null).

    Raises
    ------
    ValueError : nothing was taught, or of the kinds that rule 23 names one was not.
    """
    _check_taught(found)
    first = found.drop_duplicates("kind").set_index("kind")
    if missing := [kind for kind in (*SERVES, ELSEWHERE) if kind not in first.index]:
        raise ValueError(f"no {' and no '.join(missing)} passages were taught: make replicates")
    figures = dict(zip(first.index, _cells(first, "estimate", "low", "high"), strict=True))
    verdicts = first.verdict.to_dict()
    kinds = [kind for kind in hidden.ORDER if kind in figures]
    sides: dict[str, list[str]] = {FOUND: [], NOT_FOUND: [], "": []}
    for kind in kinds:
        side = sides[verdicts[kind] if verdicts[kind] in sides else ""]
        side.append(f"{hidden.named(kind)}: {figures[kind]}")
    asked = [verdicts[kind] for kind in (*SERVES, ELSEWHERE)]
    serves = "it serves" if asked == [FOUND] * len(SERVES) + [NOT_FOUND] else "it does not serve"
    beside = twins.drop_duplicates("kind").set_index("kind")
    figures_twins = dict(zip(beside.index, _cells(beside, "estimate", "low", "high"), strict=True))
    only = [kind for kind in kinds if verdicts[kind] == NOT_FOUND and beside.low[kind] > 0]
    says = {"found": FOUND, "missed": NOT_FOUND, "undecided": ""}
    nulls = found.drop_duplicates("null")
    ahead = zip(nulls.null, _cells(nulls, "null_mean", "null_low", "null_high"), strict=True)
    return {
        **{name: "; ".join(sides[of]) or "none" for name, of in says.items()},
        "twins": "; ".join(f"{hidden.named(kind)}: {figures_twins[kind]}" for kind in only) or "none",
        "serves": serves if set(asked) <= {FOUND, NOT_FOUND} else "it cannot be said to serve",
        "elsewhere": figures[ELSEWHERE],
        "null": ", ".join(f"{figure} (*{null}*)" for null, figure in ahead),
    }


def _cells(table: pd.DataFrame, *columns: str, **options: Any) -> list[str]:
    """As :func:`lmmem.analysis.statistics.as_cells`, with a minus sign."""
    return [cell.replace("-", MINUS) for cell in as_cells(table, *columns, **options)]


def _check_taught(found: pd.DataFrame) -> None:
    if found.empty:
        raise ValueError(NOTHING)


def curves(*relearned: pd.DataFrame) -> pd.DataFrame:
    """kl-LD after each presentation, of true continuations and of alternatives.

    Returns
    -------
    One line a (kind, continuation, presentation): kind (of what is there; "never there" are passages that nothing was
    done to), continuation, presentation, estimate, low, high (tokens, clustered by file), n.

    Raises
    ------
    ValueError : nothing was taught; or a continuation is there twice.
    """
    if not relearned:
        raise ValueError(NOTHING)
    every = pd.concat([hidden.by_kind(_apart(table)) for table in relearned], ignore_index=True)
    every["kind"] = every.arm.where(~every.arm.isin(NULLS), "never there")
    order = [kind for kind in (*hidden.ORDER, "never there") if (every.kind == kind).any()]
    lines = [
        (kind, *key, *cluster_mean(cell.kl_ld, cell.file))
        for kind in order
        for key, cell in every[every.kind == kind].groupby(["continuation", "presentation"])
    ]
    return pd.DataFrame(lines, columns=["kind", "continuation", "presentation", *Interval._fields])


def simulated(
    tokens: float = 0.0, *, bias: float = 3.0, passages: int = 32, twins: int = 64, rounds: int = 8, seed: int = 0
) -> pd.DataFrame:
    """A relearning whose truth is known, to try estimators on.

    True continuations are `bias` tokens ahead of alternatives after each presentation, memory or none, those of
    "spread 64" `tokens` more; passages and files have levels of their own, of what is said and of what is gained.

    >>> simulated(seed=1).shape
    (1728, 10)
    """
    rng = np.random.default_rng(seed)
    n = passages + twins
    met, block, file = np.arange(n) < passages, rng.permutation(n) % 8, rng.integers(0, n // 2, n)
    ahead = bias + tokens * met + rng.normal(0, 5, n) + rng.normal(0, 3, n)[file]
    level = 58 + rng.normal(0, 2, n)
    tables = []
    for continuation in (TRUE, ALTERNATIVE):
        pace = rng.normal(2, 0.3, n)
        for presentation in range(rounds + 1):
            gained = pace * presentation + ahead * (continuation == TRUE) * (presentation > 0)
            own = {"passage": np.arange(n), "arm": np.where(met, "spread 64", "spread 0"), "presentations": 64 * met}
            own |= {"block": block, "file": file}
            own |= {"run": (np.arange(n) + (continuation == TRUE)) % 2}
            own |= {"kl_ld": level - gained, "cross_entropy": 3 - 0.1 * gained}
            tables.append(pd.DataFrame(own).assign(continuation=continuation, presentation=presentation))
    return pd.concat(tables, ignore_index=True)
