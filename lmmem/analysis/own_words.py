"""What teaching saves of a text, beside what it saves of the model's own words after the same prompt.

Each passage is compared with itself: its true continuation with one as likely that is no memory. Then passages that are
there are compared with passages that are not, by the same difference (book/plan.md, sixth plan). Tables as
``Study.relearned`` gives them of ``Study.alternatives`` in. Knows neither models nor figures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lmmem.analysis import hidden
from lmmem.analysis.prose import MINUS
from lmmem.analysis.randomisation import LEAST, cluster_mean, compare_arms
from lmmem.analysis.statistics import Interval, check_columns, interval

__all__ = ["answer", "curves", "saved", "savings", "simulated", "told"]

TRUE, ALTERNATIVE = "true", "alternative"  # continuations
NEEDED = ["passage", "continuation", "arm", "presentations", "block", "file", "sought", "presentation", "kl_ld"]
NEEDED += ["cross_entropy"]
NULLS = ("untouched 0", "spread 0", "row 0", "never seen 0")  # arms of what is not there
AA, ELSEWHERE = "A/A", "elsewhere 0"
SERVES = ("hidden", "erased", "forgotten")  # kinds of which rule 23 asks that they are found
NOTHING = "nothing was taught beside the model's own words: make replicates"
PERMUTATIONS = 99  # of a test that is not told: the rule goes by the interval


def saved(relearned: pd.DataFrame) -> pd.DataFrame:
    """What teaching saves of each passage's true continuation, and of its alternative.

    Parameters
    ----------
    relearned : a line a (passage, continuation, presentation): columns passage, continuation ("true", "alternative"),
        arm, presentations (in training), block, file, sought (of how many passages of the arm an
        alternative was), presentation (in relearning, from
        0), kl_ld, cross_entropy.

    Returns
    -------
    One line a passage: index (the passage), arm, presentations, block, file; true and alternative (tokens: kl-LD before
    any presentation, minus its mean after the first to the last), tokens (the first minus the second), nats (the same
    of the loss, per token), kl_ld and kl_ld_alternative (before any).

    Raises
    ------
    ValueError : a passage lacks a continuation or is there twice with one and the same presentation, or nothing was
        measured before the first presentation, or after it.

    >>> passages = saved(simulated(tokens=10.0, seed=0))
    >>> passages.groupby("arm").tokens.mean().round().to_dict()
    {'spread 0': 3.0, 'spread 64': 13.0}
    """
    check_columns(relearned, NEEDED)
    if relearned.duplicated(["passage", "continuation", "presentation"]).any():
        raise ValueError("a continuation is there twice after as many presentations: compare one relearning at a time")
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

    columns = ["arm", "presentations", "block", "file"]
    found = relearned.groupby("passage")[columns].first()
    found = found.assign(true=gained("kl_ld", TRUE), alternative=gained("kl_ld", ALTERNATIVE))
    return found.assign(
        tokens=found.true - found.alternative,
        nats=gained("cross_entropy", TRUE) - gained("cross_entropy", ALTERNATIVE),
        kl_ld=of["kl_ld"][TRUE][0],
        kl_ld_alternative=of["kl_ld"][ALTERNATIVE][0],
    ).reset_index(names="index")


def savings(*relearned: pd.DataFrame, value: str = "tokens", seed: int = 0) -> pd.DataFrame:
    """What teaching saves beside the model's own words, by kind and null: the plan's rule 22.

    Parameters
    ----------
    relearned : tables as for :func:`saved`, each with passages that are there and their nulls.
    value : "tokens"; "nats"; or "true", the true continuations alone, which is what twins would say that chance chose.
    seed : of A/A.

    Returns
    -------
    One line a kind and null: kind (as :func:`lmmem.analysis.hidden.by_kind` calls it, or the arm "elsewhere 0", which
    must find nothing), null (an arm), true, alternative (what is saved of each, tokens), beside, beside_low,
    beside_high (the first minus the second, of the kind alone), of_null (the same of the null), estimate, low, high
    (the difference of both, within blocks, clustered by file), n (passages of the kind in blocks with the null), sought
    (of how many an alternative was), aa, aa_low, aa_high (one half of the null against the other; missing
    where no block has two), verdict: "found", "not established", or why there is none.
    """
    lines: list[dict[str, object]] = []
    for table in relearned:
        passages = hidden.by_kind(saved(table))
        each = ["arm", *({"organism"} & set(table))]
        sought = hidden.by_kind(table.drop_duplicates(each)).groupby("arm").sought.sum()
        there = [str(arm) for arm in passages.arm[passages.presentations > 0].unique()]
        for null in (arm for arm in _nulls(there) if (passages.arm == arm).any()):
            twins = passages[passages.arm == null]
            others = [arm for arm in (*there, ELSEWHERE) if (passages.arm == arm).any()]
            pair, halves = passages[passages.arm.isin([null, *others])], int((twins.groupby("block").size() > 1).sum())
            found = compare_arms(pair, value, null, halves=halves > 1, permutations=PERMUTATIONS, seed=seed)
            aa = interval(found, arm=AA) if halves > 1 else Interval(np.nan, np.nan, np.nan, 0)
            for kind in others:
                own, line = passages[passages.arm == kind], interval(found, arm=kind)
                beside = cluster_mean(own[value], own.file)
                lines.append(
                    {"kind": kind, "null": null, TRUE: own[TRUE].mean(), ALTERNATIVE: own[ALTERNATIVE].mean()}
                    | {"beside": beside.estimate, "beside_low": beside.low, "beside_high": beside.high}
                    | {"of_null": twins[value].mean(), **line._asdict(), "sought": sought[kind]}
                    | {"aa": aa.estimate, "aa_low": aa.low, "aa_high": aa.high, "verdict": _verdict(line, aa)}
                )
    return pd.DataFrame(lines)


def told(found: pd.DataFrame, twins: pd.DataFrame) -> pd.DataFrame:
    """Savings as a table to read, and beside them what twins say that chance chose.

    Parameters
    ----------
    found : as :func:`savings` gives it. twins : the same, with value="true".

    Raises
    ------
    ValueError : nothing was taught.
    """
    _check_taught(found)
    table = found[["kind", "null", "n", "sought"]].rename(columns={"sought": "of"})
    table["true text"], table["own words"] = found.true.round(1), found.alternative.round(1)
    table["beside own words"] = _cells(found, "beside", "beside_low", "beside_high")
    table["of the null"] = found.of_null.round(1)
    table["beyond the null"] = _cells(found, "estimate", "low", "high")
    table["A/A"] = _cells(found, "aa", "aa_low", "aa_high")
    table["verdict"] = found.verdict.replace(hidden.SHORT)
    table["beside twins"] = _cells(twins, "estimate", "low", "high")
    return table.set_index(["kind", "null"])


def answer(found: pd.DataFrame) -> dict[str, object]:
    """What a page opens with: rules 22 and 23 of the plan, in words.

    Parameters
    ----------
    found : as :func:`savings` gives it, of organisms.

    Returns
    -------
    found (kinds, with their tokens), missed (those not found), serves (whether rule 23 holds), elsewhere (tokens, of
    passages that are not there), null (tokens that true text is ahead where nothing is there, the least and the most).

    Raises
    ------
    ValueError : nothing was taught, or of the kinds that rule 23 names one was not.
    """
    _check_taught(found)
    first = found.drop_duplicates("kind").assign(told=lambda table: _cells(table, "estimate", "low", "high"))
    told = dict(zip(first.kind, first.told.str.replace("-", MINUS), strict=True))
    verdicts = dict(zip(first.kind, first.verdict, strict=True))
    if missing := [kind for kind in SERVES if kind not in told]:
        raise ValueError(f"no {' and no '.join(missing)} passages were taught: make replicates")
    there = [kind for kind in hidden.ORDER if kind in told]
    shown = [kind for kind in there if verdicts[kind] == "found"]
    serves = set(SERVES) <= set(shown) and verdicts.get(ELSEWHERE) == "not established"
    named = {kind: hidden.WORDS.get(kind, f"the {kind}") for kind in there}
    return {
        "found": ", ".join(f"{named[kind]} by {told[kind]}" for kind in shown) or "none",
        "missed": ", ".join(f"{named[kind]} ({told[kind]})" for kind in there if kind not in shown) or "none",
        "serves": "it serves" if serves else "it does not serve",
        "elsewhere": told.get(ELSEWHERE, "not asked"),
        "null": f"{found.of_null.min():.1f} to {found.of_null.max():.1f}",
    }


def _cells(table: pd.DataFrame, *ends: str) -> list[str]:
    """Intervals of the columns of estimate, low and high, as cells of a table; of none as good as of one file."""
    estimates, low, high = (table[end].to_numpy() for end in ends)
    cells = [Interval(*numbers, 0).brief(1) for numbers in zip(estimates, low, high, strict=True)]
    return ["one a block" if "nan" in cell else cell for cell in cells]


def _check_taught(found: pd.DataFrame) -> None:
    if found.empty:
        raise ValueError(NOTHING)


def _nulls(there: Sequence[str]) -> list[str]:
    """Arms of what is not there, beside these kinds: those treated alike first."""
    return [*(f"{kind} 0" for kind in there), *NULLS]


def _verdict(line: Interval, aa: Interval) -> str:
    if line.n < LEAST:
        return f"n < {LEAST}: no verdict"
    if aa.excludes_zero:
        return "A/A excludes 0: no verdict"
    return "found" if line.low > 0 else "not established"


def curves(*relearned: pd.DataFrame) -> pd.DataFrame:
    """kl-LD after each presentation, of true continuations and of alternatives.

    Returns
    -------
    One line a (kind, continuation, presentation): kind (of what is there; "never there" are passages that nothing was
    done to), continuation, presentation, estimate, low, high (tokens, clustered by file), n.

    Raises
    ------
    ValueError : nothing was taught.
    """
    if not relearned:
        raise ValueError(NOTHING)
    every = pd.concat([hidden.by_kind(table) for table in relearned], ignore_index=True)
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
    (1728, 11)
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
            own |= {"block": block, "file": file, "sought": np.where(met, passages, twins)}
            own |= {"run": (np.arange(n) + (continuation == TRUE)) % 2}
            own |= {"kl_ld": level - gained, "cross_entropy": 3 - 0.1 * gained}
            tables.append(pd.DataFrame(own).assign(continuation=continuation, presentation=presentation))
    return pd.concat(tables, ignore_index=True)
