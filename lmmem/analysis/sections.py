"""The numbers that each section of the paper tells, by name: a page puts them into its sentences.

One function a section: measured tables in, intervals and words out. Knows neither models nor figures.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from lmmem.analysis.contrasts import over_twins, told_arms, told_from, told_side
from lmmem.analysis.statistics import (
    bootstrap,
    compare_curves,
    fit_interaction,
    fit_linear,
    fit_log_linear,
    fit_logistic,
    gain_over_twins,
    interval,
    mean_by,
    value,
)

__all__ = ["complexity", "fading", "perturbation", "repetition", "temperature"]

Numbers = dict[str, object]


def repetition(doses: pd.DataFrame, natural: pd.DataFrame, top: float, seed: int = 0) -> Numbers:
    """How memory grows with presentations, and with natural repeats.

    Parameters
    ----------
    doses : greedy table of sequences by presentations, 0 among them, with blocks.
    natural : greedy table of natural passages, with repeats.
    top : kl-LD of nothing in common, tokens.
    seed : of the bootstraps.

    Returns
    -------
    trace, recalled : from how many presentations on the loss is lower, and half are recited.
    once : by how much the loss is lower, nats per token, after the fewest presentations, `fewest`.
    slope, odds, loss, natural_slope, natural_odds : per doubling. best, worse : which of three curves fits
    the kl-LD best, and how far above it in AIC the log-linear one stands. n, n_exposed, n_natural.
    """
    exposed = doses[doses.presentations > 0]
    x = exposed.presentations
    ahead = over_twins(doses.assign(ahead=-doses.cross_entropy), "ahead", ["presentations"], seed=seed)
    recall = mean_by(doses, "presentations", "memorised", seed)
    curves = compare_curves(x, exposed.kl_ld, top)
    return {
        "trace": told_from(ahead.presentations, ahead.low > 0),
        "recalled": told_from(recall.presentations, recall.estimate >= 0.5),
        "fewest": int(ahead.presentations.min()),
        "once": interval(ahead, presentations=ahead.presentations.min()),
        "slope": fit_log_linear(x, exposed.kl_ld, seed),
        "odds": fit_logistic(x, exposed.memorised, seed),
        "loss": fit_log_linear(x, exposed.cross_entropy, seed),
        "natural_slope": fit_log_linear(natural.repeats, natural.kl_ld, seed),
        "natural_odds": fit_logistic(natural.repeats, natural.memorised, seed),
        "best": curves.curve[0],
        "worse": value(curves, "delta_aic", curve="log-linear"),
        "n": len(doses),
        "n_exposed": len(exposed),
        "n_natural": len(natural),
    }


def complexity(doses: pd.DataFrame, natural: pd.DataFrame, seed: int = 0) -> Numbers:
    """How memory falls with z-complexity, at fixed presentations and repeats.

    Parameters
    ----------
    As for :func:`repetition`.

    Returns
    -------
    z, doubling, interaction : of kl-LD, as :func:`lmmem.analysis.statistics.fit_interaction` says; side,
    interaction_side : where these lie. z_loss, interaction_loss : of the loss. guess, guess_loss : slopes in z
    among the unexposed. natural_z : in natural text. n, low, high : sequences, and their z-complexity.
    """
    exposed, never = doses[doses.presentations > 0], doses[doses.presentations == 0]
    x, z = exposed.presentations, exposed.z_complexity
    fit, fit_loss = (fit_interaction(x, z, exposed[of], seed) for of in ("kl_ld", "cross_entropy"))
    natural_fit = fit_interaction(natural.repeats, natural.z_complexity, natural.kl_ld, seed)
    return {
        **fit,
        "side": told_side(
            fit["z"],
            "complex text is reproduced less well, as the paper found",
            "complex text is reproduced better, against the paper",
        ),
        "interaction_side": told_side(fit["interaction"]),
        "z_loss": fit_loss["z"],
        "interaction_loss": fit_loss["interaction"],
        "guess": fit_linear(never.z_complexity, never.kl_ld, seed),
        "guess_loss": fit_linear(never.z_complexity, never.cross_entropy, seed),
        "natural_z": natural_fit["z"],
        "n": len(doses),
        "low": doses.z_complexity.min(),
        "high": doses.z_complexity.max(),
    }


def perturbation(best: pd.DataFrame, seed: int = 0) -> Numbers:
    """What the best of N draws gains over twins under the same draws.

    Parameters
    ----------
    best : as :func:`lmmem.analysis.contrasts.gains` gives it, of the most draws.
    seed : of the bootstraps over blocks.

    Returns
    -------
    once : gain over twins, tokens, of the arm with the fewest presentations, `fewest` (of those spread over all of
    training, if there are); once_alone : its gain without twins; side : where `once` lies. top, top_arm : the
    largest. verdict : which arms lie above 0. draws, n, n_arm : draws, sequences, and those of an arm.
    """
    difference = over_twins(best, seed=seed)
    spaced = difference[difference.group == "spread"] if (difference.group == "spread").any() else difference
    fewest = spaced.sort_values("presentations").iloc[0]
    alone = best[(best.group == fewest.group) & (best.presentations == fewest.presentations)]
    top = difference.sort_values("estimate").iloc[-1]
    once = interval(difference, group=fewest.group, presentations=fewest.presentations)
    return {
        "fewest": int(fewest.presentations),
        "once": once,
        "once_alone": bootstrap(np.mean, alone.gain, seed=seed),
        "side": told_side(once, "as the paper claims"),
        "top": interval(difference, group=top.group, presentations=top.presentations),
        "top_arm": f"{top.group} {top.presentations}",
        "verdict": told_arms(difference),
        "draws": int(best.N.max()),
        "n": best["index"].nunique(),
        "n_arm": int(best.groupby("arm")["index"].nunique().min()),
    }


def fading(history: pd.DataFrame, met: tuple[int, int], seed: int = 0) -> Numbers:
    """What is left at the end of sequences that are not presented any more.

    Parameters
    ----------
    history : greedy table over steps, of one group with its unexposed.
    met : first and last step at which they are presented.
    seed : of the bootstraps over blocks.

    Returns
    -------
    most : presentations of the arm that is told of. inside : the last measured step at which they are still
    presented, else the first after it; kl_inside, kl_end, kl_never : mean kl-LD then, at the end, and of the
    unexposed at the end. ahead, ahead_loss : at the end, of the unexposed, in tokens and in nats per token.
    opens, closes, end : steps.
    """
    steps, end, most = sorted(history.step.unique()), history.step.max(), history.presentations.max()
    inside = max(
        [s for s in steps if met[0] <= s <= met[1]], default=min([s for s in steps if s >= met[1]], default=end)
    )
    mean = history.groupby(["step", "presentations"]).kl_ld.mean()
    last = history[history.step == end]
    ahead, ahead_loss = (
        interval(over_twins(last.assign(ahead=-last[of]), "ahead", seed=seed), presentations=most)
        for of in ("kl_ld", "cross_entropy")
    )
    return {
        "most": int(most),
        "inside": int(inside),
        "kl_inside": mean[inside, most],
        "kl_end": mean[end, most],
        "kl_never": mean[end, 0],
        "ahead": ahead,
        "ahead_loss": ahead_loss,
        "opens": met[0],
        "closes": met[1],
        "end": int(end),
    }


def temperature(best: pd.DataFrame, seed: int = 0) -> Numbers:
    """Sampling beside perturbation at equal numbers of continuations.

    Parameters
    ----------
    best : best-of-N of the most continuations, by `method`: "perturbation" and temperatures.
    seed : of the bootstraps over sequences.

    Returns
    -------
    best_temperature : which comes closest on average. compared : its kl-LD minus that of perturbation, arm by arm,
    in words. samples, n, n_arm : continuations, sequences, and those of an arm.
    """
    wide = best.pivot_table(index=["arm", "index"], columns="method", values="kl_ld")
    closest = wide.drop(columns="perturbation").mean().idxmin()
    compared = []
    for arm in best.arm.drop_duplicates():
        here = wide.loc[arm]
        difference = gain_over_twins(here[closest], here["perturbation"], seed)
        ahead = "perturbation is" if difference.low > 0 else "sampling is" if difference.high < 0 else "neither is"
        compared.append(f"{arm}, {difference:.1f}, {ahead} ahead")
    return {
        "best_temperature": closest,
        "compared": "; ".join(compared),
        "samples": int(best.N.max()),
        "n": best["index"].nunique(),
        "n_arm": int(best.groupby("arm")["index"].nunique().min()),
    }
