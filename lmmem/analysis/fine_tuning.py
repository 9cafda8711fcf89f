"""What a model remembers of texts that it was fine-tuned on, beside those of their blocks that were held out.

Tables of :class:`lmmem.experiments.fine_tuning.Watch` in: a line a (text, step), columns index, text, arm,
presentations, block, file, step, kl_ld (tokens) and cross_entropy (nats per token). Tidy tables and numbers out.
Knows neither models nor figures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lmmem.analysis.contrasts import as_told, told_side
from lmmem.analysis.randomisation import cluster_mean, compare_arms, power, proportion
from lmmem.analysis.statistics import Interval, check_columns, interval
from lmmem.analysis.trajectories import TWINS, bits

__all__ = ["ahead", "answer", "behind_prefix", "beside_twins", "gained"]

Numbers = dict[str, object]


def gained(measured: pd.DataFrame) -> pd.DataFrame:
    """What each text has gained since the first step that was measured, before it was trained on: bits and tokens.

    Raises
    ------
    ValueError : by the column presented, texts had been presented by that step, as after a training that went on.

    >>> table = pd.DataFrame({"index": [7, 7], "step": [0, 20], "kl_ld": [60, 4], "cross_entropy": [np.log(2), 0.0]})
    >>> gained(table)[["bits", "tokens"]].to_dict("list")
    {'bits': [0.0, 64.0], 'tokens': [0, 56]}
    """
    check_columns(measured, ["index", "step", "kl_ld", "cross_entropy"])
    first = measured[measured.step == measured.step.min()]
    if "presented" in measured and (first.presented > 0).any():
        raise ValueError(
            f"step {first.step.iloc[0]} is the first that was measured, and {(first.presented > 0).sum()} texts had "
            "been presented by then: what they have gained since before is not known; measure before training"
        )
    lines = measured.sort_values("step", kind="stable").assign(bits=bits, tokens=lambda table: -table.kl_ld)
    values = lines[["bits", "tokens"]]
    lines[["bits", "tokens"]] = values - values.groupby(lines["index"]).transform("first")
    return lines.loc[measured.index]


def ahead(measured: pd.DataFrame, value: str = "bits", by: Sequence[str] = (), seed: int = 0) -> pd.DataFrame:
    """What texts have gained beyond their twins, arm by arm.

    Parameters
    ----------
    measured : as the module says.
    value : "bits" or "tokens", as :func:`gained` gives them.
    by : ("step",) gives each step but the first, and not the last alone.
    seed : of permutations.

    Returns
    -------
    As :func:`lmmem.analysis.randomisation.compare_arms` says: a line an arm, last "A/A", twins against twins, if each
    block has two.

    Raises
    ------
    ValueError : one step alone was measured, no text was held out, or none was presented.
    """
    lines = gained(measured)
    later = lines[lines.step > lines.step.min()]
    if later.empty:
        raise ValueError(f"step {lines.step.min()} alone was measured: what is gained needs one before it, or after")
    held_out = lines[lines.arm == TWINS].drop_duplicates("index")
    halves = bool((held_out.groupby("block").size() > 1).any())
    later = later if by else later[later.step == later.step.max()]
    return compare_arms(later, value, TWINS, by, halves=halves, seed=seed)


def beside_twins(measured: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Each arm at the last step, in words: bits and tokens gained beyond twins, and how many are recited.

    Parameters
    ----------
    measured : as the module says.
    seed : of permutations.

    Returns
    -------
    One line an arm, by its name: bits, "bits are" (their verdict, as
    :func:`lmmem.analysis.randomisation.compare_arms` gives it), tokens, recited ("7 of 16"); 95 % intervals.
    """
    last = measured[measured.step == measured.step.max()]
    recited = (last.kl_ld == 0).groupby(last.arm).agg(["sum", "size"])
    told = {arm: f"{line['sum']} of {line['size']}" for arm, line in recited.iterrows()}
    by_bits, by_tokens = (
        as_told(ahead(measured, value, seed=seed), value).set_index("arm") for value in ("bits", "tokens")
    )
    found = {"bits": by_bits.bits, "bits are": by_bits.verdict, "tokens": by_tokens.tokens}
    return pd.DataFrame(found).assign(recited=by_bits.index.map(told).fillna("")).rename_axis(None)


def answer(measured: pd.DataFrame, seed: int = 0) -> Numbers:
    """What the last step says of the texts presented most often and least often.

    Parameters
    ----------
    measured : as the module says.
    seed : of permutations.

    Returns
    -------
    most, fewest : presentations, in words. bits, tokens : of the former, gained beyond twins; recited, recited_twins :
    the share of them, and of the texts held out. bits_fewest, tokens_fewest, and side : on which side of 0 these bits
    lie, in words. silent : the arms whose bits are above 0 and of which nothing is recited, in words. least : bits that
    the latter arm shows at 80 % power, from the spread of texts held out within blocks. step : the last. held_out :
    texts.

    Raises
    ------
    ValueError : as :func:`ahead`, or a block has one text held out, so that their spread is not known.
    """
    found = {value: ahead(measured, value, seed=seed) for value in ("bits", "tokens")}
    lines = gained(measured)
    last = lines[lines.step == lines.step.max()]
    held_out = last[last.arm == TWINS]
    amounts = last.presentations[last.presentations > 0]
    arms = {name: last[last.presentations == m] for name, m in (("most", amounts.max()), ("fewest", amounts.min()))}
    most, fewest = (lines.arm.iloc[0] for lines in arms.values())
    once = interval(found["bits"], arm=fewest)
    spread = float(np.sqrt(held_out.groupby("block").bits.var().mean()))
    if np.isnan(spread):
        raise ValueError("each block has one text held out, and their spread needs two: repeat 0 in presentations")
    exposed = found["bits"][found["bits"].arm.isin(last.arm)]  # and not A/A, of which nobody recites anything
    shown = exposed.arm[exposed.verdict == "above 0"]
    silent = [arm for arm in shown if not (last.kl_ld[last.arm == arm] == 0).any()]
    return {
        "most": _times(amounts.max()),
        "bits": interval(found["bits"], arm=most),
        "tokens": interval(found["tokens"], arm=most),
        "recited": _recited(arms["most"]),
        "recited_twins": _recited(held_out),
        "fewest": _times(amounts.min()),
        "bits_fewest": once,
        "tokens_fewest": interval(found["tokens"], arm=fewest),
        "side": told_side(once),
        "silent": ", ".join(silent) or "no arm",
        "least": power(spread, len(arms["fewest"]), len(held_out)),
        "step": int(last.step.iloc[0]),
        "held_out": len(held_out),
    }


def behind_prefix(behind: pd.DataFrame, bare: pd.DataFrame) -> Numbers:
    """How much more a model remembers of the texts presented most often if asked behind a prefix than without it.

    Parameters
    ----------
    behind, bare : as the module says, of the same texts; the last step of each counts.

    Returns
    -------
    most : presentations, in words. bits, tokens : behind it, minus without it, text by text; side : on which side of 0
    the tokens lie, in words. recited, recited_bare : shares.

    Raises
    ------
    ValueError : the texts, or the last steps, are not the same.
    """
    asked = [table[table.step == table.step.max()].set_index("index") for table in (behind, bare)]
    if not asked[0].index.equals(asked[1].index) or asked[0].step.iloc[0] != asked[1].step.iloc[0]:
        raise ValueError("behind and bare: give the same texts in one order, measured last at one step")
    most = asked[0].presentations.max()
    one, other = (table[table.presentations == most] for table in asked)
    tokens = cluster_mean(other.kl_ld - one.kl_ld, one.file)
    return {
        "most": _times(most),
        "bits": cluster_mean(bits(one) - bits(other), one.file),
        "tokens": tokens,
        "side": told_side(tokens),
        "recited": _recited(one),
        "recited_bare": _recited(other),
    }


def _times(presentations: int) -> str:
    return "once" if presentations == 1 else f"{presentations} times"


def _recited(lines: pd.DataFrame) -> Interval:
    return proportion(int((lines.kl_ld == 0).sum()), len(lines))
