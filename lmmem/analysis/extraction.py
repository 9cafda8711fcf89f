"""Sampling as a probe: is the sampler right, how many samples find a text, what do hints add; numbers of a page.

Tables of ``Study.sampled``, ``extraction``, ``near_verbatim`` and ``hinted`` in, tidy tables and words out. Knows
neither models nor figures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import special, stats

from lmmem.analysis.randomisation import LEAST, compare_arms, proportion
from lmmem.analysis.statistics import Interval, interval

__all__ = [
    "beyond_twins",
    "by_hint",
    "chosen_apart",
    "found_within",
    "hints",
    "least_samples",
    "likeliest",
    "near_verbatim",
    "sampled_beside_exact",
    "sampler",
    "samples_needed",
    "temperature",
    "told_number",
]

Numbers = dict[str, object]
OFTEN = 0.5  # p of (n, p)-discoverable extraction: with so many samples a text is found as often as not
SHOWN = (1, 2, 8, 64)  # first tokens of a continuation
HALVES = ("the one half", "the other half")
NULL, OFF = "A/A", "A/A excludes 0: no verdict"
PERTURBATION, SAMPLING, DIFFERENCE = "perturbation", "sampling", "difference"
BUDGETS = (200, 1_000_000)  # samples


def found_within(log_prob: ArrayLike, n: int) -> np.ndarray:
    """Probability that at least one of n samples is the text: 1 - (1 - p_z)^n.

    Parameters
    ----------
    log_prob : of one sample, nats; any shape.
    n : samples, 1 or more.

    Source: Hayes et al., arXiv 2410.19482, equation of (n, p)-discoverable extraction.

    >>> found_within(np.log([0.5, 0.1]), 2).round(2)
    array([0.75, 0.19])
    """
    if n < 1:
        raise ValueError(f"n={n}: 1 sample or more is drawn")
    with np.errstate(divide="ignore"):  # what is certain, or impossible
        return -np.expm1(n * np.log1p(-np.exp(np.minimum(log_prob, 0.0))))


def least_samples(log_prob: ArrayLike, p: float = OFTEN) -> np.ndarray:
    """The least n of (n, p)-discoverable extraction: so many samples hold the text with probability p at least.

    Parameters
    ----------
    log_prob : of one sample, nats; any shape.
    p : between 0 and 1.

    Returns
    -------
    float64, whole numbers of 1 or more; inf where the text cannot be sampled, or beyond 10^308.

    Raises
    ------
    ValueError : p is not between 0 and 1.

    Source: as of :func:`found_within`: the least n with (1 - p_z)^n <= 1 - p.

    >>> least_samples(np.log([0.5, 0.01, 1e-9]))
    array([1.00000000e+00, 6.90000000e+01, 6.93147181e+08])
    """
    if not 0 < p < 1:
        raise ValueError(f"p={p}: give a probability between 0 and 1")
    one = np.minimum(np.asarray(log_prob, dtype=float), 0.0)
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        tiny = -np.log1p(-p) * np.exp(-one)  # log(1 - p_z) is -p_z
        n = np.where(one < -30, tiny, np.log1p(-p) / np.log1p(-np.exp(np.maximum(one, -30))))
    return np.maximum(np.ceil(n * (1 - 1e-12)), 1.0)  # 1 of 0.5 is 1, whatever is rounded


def sampled_beside_exact(sampled: pd.DataFrame, exact: pd.DataFrame, lengths: Sequence[int] = SHOWN) -> pd.DataFrame:
    """How often samples begin with the truth, beside the exact probability that they do.

    Parameters
    ----------
    sampled, exact : as ``Study.sampled`` and ``Study.extraction`` give them, of the same sequences and temperatures,
        both with keep_tokens.
    lengths : first tokens that must be the truth; the last, all of them, is recited word for word.

    Returns
    -------
    One line a (temperature, length): temperature, tokens, exact (probability, mean over sequences), estimate (share
    of samples), low, high (Clopper and Pearson's; a sum over unlike sequences varies less, so that they cover more),
    n (samples), p (exact: two-sided, of the sum of binomials, sequence by sequence).

    Raises
    ------
    ValueError : a table was measured without keep_tokens, or of other sequences or temperatures.
    """
    if "said" not in sampled or "truth" not in exact:
        raise ValueError("samples are compared token by token: measure both tables with keep_tokens=True")
    lines = []
    for temperature, drawn in sampled.groupby("temperature"):
        one = exact[exact.temperature == temperature].sort_values("index")
        if not len(one) or set(one["index"]) != set(drawn["index"]):
            raise ValueError(f"exact probabilities at temperature {temperature:g} are of other sequences, or of none")
        samples = drawn["sample"].nunique()
        said = np.stack([*drawn.sort_values(["index", "sample"]).said]).reshape(len(one), samples, -1)
        right = (said == np.stack([*one.truth])[:, None]).cumprod(axis=2)  # (n, samples, l)
        log_prob = np.stack([*one.log_probs]).cumsum(axis=1)
        for tokens in lengths:
            probability = np.exp(np.minimum(log_prob[:, tokens - 1], 0.0))
            hits = int(right[:, :, tokens - 1].sum())
            p = _two_sided(hits, probability, samples)
            lines.append((temperature, tokens, probability.mean(), *proportion(hits, len(one) * samples), p))
    return pd.DataFrame(lines, columns=["temperature", "tokens", "exact", *Interval._fields, "p"])


def _two_sided(hits: int, probability: np.ndarray, samples: int) -> float:
    """Twice the smaller tail of a sum of binomials, of which each has its own probability."""
    total, k = np.ones(1), np.arange(samples + 1)
    ways = special.gammaln(samples + 1) - special.gammaln(k + 1) - special.gammaln(samples - k + 1)
    for p in probability:  # by logarithms: scipy's own overflows where p is 1e-80
        total = np.convolve(total, np.exp(ways + special.xlogy(k, p) + special.xlog1py(samples - k, -p)))
    return float(min(1.0, 2 * min(total[: hits + 1].sum(), total[hits:].sum())))


def likeliest(exact: pd.DataFrame) -> float:
    """The temperature at which the exposed are most probable: the largest mean log-probability."""
    means = exact[exact.presentations > 0].groupby("temperature").log_prob.mean()
    return float(means.index[int(means.argmax())])


def samples_needed(exact: pd.DataFrame, p: float = OFTEN, budgets: Sequence[int] = BUDGETS) -> pd.DataFrame:
    """How many samples find the passages of each arm, at the temperature that is best for it.

    The temperature is chosen by the passages themselves, so it is what one could reach at best.

    Parameters
    ----------
    exact : as ``Study.extraction`` gives it: columns arm, presentations, temperature, log_prob.
    p : a text is found if it is among the samples with this probability.
    budgets : numbers of samples.

    Returns
    -------
    One line an arm, by the median: arm, n (passages), T (that temperature), samples (median least number, in words),
    and for each budget the share that is found within it, with Clopper and Pearson's interval in words.
    """
    lines = []
    for arm, passages in exact.groupby("arm"):
        best = passages.groupby("temperature").log_prob.median().idxmax()
        log_prob = passages.log_prob[passages.temperature == best].to_numpy()
        needed = least_samples(log_prob, p)
        line = {"arm": arm, "n": len(needed), "T": best, "median": float(np.median(log_prob))}
        line["samples"] = told_number(float(np.median(needed)))
        for budget in budgets:
            line[f"in {budget:,}"] = proportion(int((needed <= budget).sum()), len(needed)).brief()
        lines.append(line)
    return pd.DataFrame(lines).sort_values("median", ascending=False, ignore_index=True).drop(columns="median")


def told_number(number: float) -> str:
    """A number of samples in words.

    >>> told_number(1234.0), told_number(3e20), told_number(np.inf)
    ('1,234', '10^20', 'never')
    """
    return f"{number:,.0f}" if number < 1e6 else f"10^{np.log10(number):.0f}" if np.isfinite(number) else "never"


def near_verbatim(near: pd.DataFrame, sampled: pd.DataFrame) -> pd.DataFrame:
    """The bound of near-verbatim extraction beside the exact probability word for word, and beside samples.

    Parameters
    ----------
    near : as ``Study.near_verbatim`` gives it, at one temperature.
    sampled : as ``Study.sampled``: those at that temperature are counted.

    Returns
    -------
    One line an arm: arm, n (passages), word for word (exact probability, mean), within d (its bound, mean), sampled
    within d (share of samples whose kl-LD is at most d, with Clopper and Pearson's interval in words, which is of
    these passages, not of others; Levenshtein's distance, which is never larger), gained (how many times as probable
    as word for word, median; in words).

    Raises
    ------
    ValueError : nothing was sampled at that temperature.
    """
    temperature, most = near.temperature.iloc[0], int(near.distance.max())
    drawn = sampled[sampled.temperature == temperature]
    if drawn.empty:
        raise ValueError(f"nothing was sampled at temperature {temperature:g}, at which beams were searched")
    lines = []
    for arm, passages in near.groupby("arm"):
        wide = passages.pivot(index="index", columns="distance", values="log_prob")
        mean, gained = np.exp(wide).mean(), (wide[most] - wide[0]).median()
        close = drawn.kl_ld[drawn.arm == arm] <= most
        line = {"arm": arm, "n": len(wide), "word for word": f"{mean[0]:.2g}", f"within {most}": f"{mean[most]:.2g}"}
        line[f"sampled within {most}"] = proportion(int(close.sum()), len(close)).brief(4)
        line["gained"] = f"{np.exp(gained):.1f}" if gained < 10 else told_number(float(np.exp(gained)))
        lines.append(line)
    return pd.DataFrame(lines)


def chosen_apart(best: pd.DataFrame) -> pd.DataFrame:
    """Sampling at the temperature that is best on other blocks, beside perturbation: rule 13 of the plan.

    Blocks are taken in order, those first that hold the most arms, and dealt in turn to two halves, since small arms
    lie in blocks of odd numbers alone. The temperature is that of the lowest mean kl-LD of the exposed of one half,
    and is used for all passages of the other.

    Parameters
    ----------
    best : as :func:`lmmem.analysis.contrasts.by_method` gives it, of one N: columns index, arm, block, presentations,
        method ("perturbation", "temperature 0.3" ..), kl_ld and gain.

    Returns
    -------
    The lines of perturbation, and as many of method "sampling", and of "difference", whose gain is
    that by sampling less that by perturbation; with columns half and temperature (the one chosen for it).

    Raises
    ------
    ValueError : fewer than two blocks, or a half without exposed passages.
    """
    held = best.groupby("block").arm.nunique().sort_index().sort_values(ascending=False, kind="stable")
    if len(held) < 2:
        raise ValueError(f"a temperature is chosen in some blocks and judged in others; there is {len(held)} block")
    half = best.block.map({block: HALVES[turn % 2] for turn, block in enumerate(held.index)})
    best = best.assign(half=half)
    hot = best[best.method != PERTURBATION]
    cold = best[best.method == PERTURBATION].sort_values("index", ignore_index=True)
    mean = hot[hot.presentations > 0].groupby(["half", "method"]).kl_ld.mean().unstack("method")
    if len(mean) < 2:
        raise ValueError("a temperature is chosen by the exposed of one half of the blocks; one half has none")
    chosen = {mine: mean.loc[other].idxmin() for mine, other in zip(HALVES, HALVES[::-1], strict=True)}
    used = cold.half.map(chosen)
    picked = hot[hot.method == hot.half.map(chosen)].sort_values("index", ignore_index=True)
    both = [
        picked.assign(method=SAMPLING),
        cold,
        picked.assign(method=DIFFERENCE, gain=picked.gain - cold.gain),
    ]
    return pd.concat([table.assign(temperature=used) for table in both], ignore_index=True)


def beyond_twins(table: pd.DataFrame, value: str, by: str, seed: int = 0) -> pd.DataFrame:
    """A value of the exposed beyond that of their twins, arm by arm, for each value of a column.

    Parameters
    ----------
    table : one line a (passage, value of `by`): columns index, arm, presentations, block, file, `by` and `value`.
    value : larger is what exposure would bring.
    seed : of permutations.

    Returns
    -------
    As :func:`lmmem.analysis.randomisation.compare_arms`, `by` before it; A/A is there if a block has two twins, and
    where it excludes 0 the verdict on the exposed is "A/A excludes 0: no verdict" (the plan's rule 14).

    Raises
    ------
    ValueError : what that refuses.
    """
    never = table[(table.presentations == 0) & ~table.arm.str.startswith("elsewhere")]
    if never.empty:
        raise ValueError("nothing to compare with: no sequence is unexposed")
    twins = never.arm.iloc[0]
    shared = never[never.arm == twins].groupby([by, "block"])["index"].nunique()
    found = compare_arms(table, value, twins, [by], halves=bool((shared > 1).any()), seed=seed).drop(columns="left_out")
    null = found[found.arm == NULL]
    off = found[by].isin(null[by][(null.low > 0) | (null.high < 0)])
    return found.assign(verdict=found.verdict.mask(off & (found.n >= LEAST) & _exposed(found), OFF))


def _exposed(found: pd.DataFrame) -> pd.Series:
    """Which lines are of arms that were presented."""
    return (found.arm != NULL) & ~found.arm.str.startswith("elsewhere")


def by_hint(hinted: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """By how much closer to the truth the exposed are than their twins, when tokens of it are given.

    Parameters
    ----------
    hinted : as ``Study.hinted`` gives it.

    Returns
    -------
    As :func:`beyond_twins`, by given (tokens): % of the tokens asked for.
    """
    return beyond_twins(hinted.assign(ahead=-100 * hinted.kl_ld_share), "ahead", "given", seed)


def temperature(apart: pd.DataFrame, seed: int = 0) -> Numbers:
    """Sampling beside perturbation at equal numbers of continuations, the temperature chosen on other blocks.

    Parameters
    ----------
    apart : as :func:`chosen_apart` gives it, with file.
    seed : of permutations.

    Returns
    -------
    verdict : which arms gain more than their twins, by method. ahead : where sampling gains more than perturbation,
    or less; both where the plan's rules allow a verdict. once, once_noise : gain over twins of those met once, tokens,
    by sampling and by perturbation; of the arm with the fewest presentations, `fewest`. chosen : temperatures.
    samples, n, n_arm : continuations, sequences, and those of an arm at least.
    """
    found = beyond_twins(apart, "gain", "method", seed)
    presented = apart.drop_duplicates("arm").set_index("arm").presentations
    fewest = str(presented[presented > 0].idxmin())
    once, noise = (interval(found, method=method, arm=fewest) for method in (SAMPLING, PERTURBATION))
    exposed = found[_exposed(found)]
    each = exposed[exposed.method != DIFFERENCE]
    each = each.assign(arm=each.arm + " by " + each.method)
    return {
        "verdict": _told_verdicts(each, "more than their twins gain", "less than their twins gain"),
        "ahead": _told_verdicts(exposed[exposed.method == DIFFERENCE]) + ".",
        "fewest": fewest,
        "once": once,
        "once_noise": noise,
        "chosen": " and ".join(sorted({one.split()[-1] for one in apart.temperature})),
        "samples": int(apart.N.max()),
        "n": apart["index"].nunique(),
        "n_arm": int(apart.groupby("arm")["index"].nunique().min()),
    }


def _told_verdicts(exposed: pd.DataFrame, above: str = "above 0 for", below: str = "below 0 for") -> str:
    """Of which arms the verdict is above 0, below, or not established, and of which and why there is none."""
    heads = {
        "above 0": above,
        "below 0": below,
        "not established": "not established for",
        OFF: "no verdict, as A/A excludes 0, on",
        f"n < {LEAST}: no verdict": f"no verdict from fewer than {LEAST} passages on",
    }
    arms = exposed.groupby("verdict", sort=False).arm.agg(", ".join)
    told = "; ".join(f"{words} {arms[verdict]}" for verdict, words in heads.items() if verdict in arms)
    return told[:1].upper() + told[1:]


def sampler(checked: pd.DataFrame, exact: pd.DataFrame) -> Numbers:
    """Whether samples come as often as they should, and how many it takes to find a passage.

    Parameters
    ----------
    checked : as :func:`sampled_beside_exact` gives it.
    exact : as ``Study.extraction`` gives it.

    Returns
    -------
    right : in words. least, lines : the smallest p, after Benjamini and Hochberg, and of how many shares. easiest,
    easiest_n, once, once_n : the arm that takes the fewest samples and the one presented least, and how many.
    """
    q = stats.false_discovery_control(checked.p)
    needed = samples_needed(exact)
    presented = exact.drop_duplicates("arm").set_index("arm").presentations
    once = str(presented[presented > 0].idxmin())
    return {
        "right": "agree with" if q.min() > 0.05 else "differ from",
        "least": float(q.min()),
        "lines": len(checked),
        "easiest": needed.arm[0],
        "easiest_n": needed.samples[0],
        "once": once,
        "once_n": needed.set_index("arm").samples[once],
    }


def hints(found: pd.DataFrame) -> Numbers:
    """What the first tokens of a continuation bring back.

    Parameters
    ----------
    found : as :func:`by_hint` gives it.

    Returns
    -------
    most : tokens given at most. once, once_0 : of the first arm, `arm`, % of the tokens asked for ahead of twins, with
    the most tokens given and with the fewest, `least`. verdict : of all arms, with the most tokens, where the plan's
    rules allow one.
    """
    exposed = found[_exposed(found)]
    most, least, arm = exposed.given.max(), exposed.given.min(), exposed.arm.iloc[0]
    last = exposed[exposed.given == most]
    return {
        "most": int(most),
        "least": int(least),
        "arm": arm,
        "once": interval(exposed, given=most, arm=arm),
        "once_0": interval(exposed, given=least, arm=arm),
        "verdict": _told_verdicts(last) + ".",
    }
