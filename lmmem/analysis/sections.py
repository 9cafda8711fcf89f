"""The numbers that each section of the paper tells, by name: a page puts them into its sentences.

One function a section: measured tables in, intervals and words out. Knows neither models nor figures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lmmem.analysis import (
    between_organisms,
    end_of_training,
    event_study,
    fading,
    growth,
    randomisation,
    stationarity,
    trajectories,
)
from lmmem.analysis.contrasts import after_last, as_told, over_twins, stacked, told_from, told_side
from lmmem.analysis.contrasts import fluctuations as tell_fluctuations
from lmmem.analysis.statistics import (
    LEVEL,
    MINUS,
    Interval,
    fit_excess,
    fit_interaction,
    fit_linear,
    fit_log_linear,
    fit_logistic,
    half_point,
    interval,
    mean_by,
    told,
)

__all__ = [
    "all_organisms",
    "by_doubling",
    "chain",
    "complexity",
    "decay",
    "estimators",
    "fluctuations",
    "front",
    "law",
    "once",
    "organisms",
    "power",
    "recency",
    "repetition",
    "sizes",
    "uncovering",
]

Numbers = dict[str, object]
Shared = dict[str, Any]  # arguments of event_study and fading, by name
NO_VERDICT = f"in no arm of {randomisation.LEAST} sequences or more, as there is none"


def repetition(doses: pd.DataFrame, natural: pd.DataFrame, seed: int = 0) -> Numbers:
    """How memory grows with presentations, and with natural repeats.

    Parameters
    ----------
    doses : greedy table of sequences by presentations, 0 among them, with blocks.
    natural : greedy table of natural passages, with repeats, and text, whose intervals are over texts.
    seed : of the bootstraps.

    Returns
    -------
    trace, recalled : from how many presentations on the loss is lower (of arms of 16 sequences or more), and half are
    recited; half : the same of recall by a logistic curve, with its interval.
    once : by how much the loss is lower, nats per token, after the fewest presentations, `fewest`.
    slope, odds, loss, natural_slope, natural_odds : per doubling. n, n_natural, n_texts.
    """
    exposed = doses[doses.presentations > 0]
    x = exposed.presentations
    ahead = over_twins(doses.assign(ahead=-doses.cross_entropy), "ahead", ["presentations"])
    large = ahead[ahead.n >= randomisation.LEAST]
    recall = mean_by(doses, "presentations", "memorised", seed)
    share = exposed.memorised.mean()
    half = f"from {half_point(x, exposed.memorised, seed):.1f} presentations on" if 0 < share < 1 else "in no arm"
    return {
        "trace": told_from(large.presentations, large.low > 0) if len(large) else NO_VERDICT,
        "recalled": told_from(recall.presentations, recall.estimate >= 0.5),
        "fewest": int(ahead.presentations.min()),
        "once": interval(ahead, presentations=ahead.presentations.min()),
        "slope": fit_log_linear(x, exposed.kl_ld, seed),
        "half": "in all arms" if share == 1 else half,
        "odds": fit_logistic(x, exposed.memorised, seed),
        "loss": fit_log_linear(x, exposed.cross_entropy, seed),
        "natural_slope": fit_log_linear(natural.repeats, natural.kl_ld, seed, natural.text),
        "natural_odds": fit_logistic(natural.repeats, natural.memorised, seed, natural.text),
        "n": len(doses),
        "n_natural": len(natural),
        "n_texts": natural.text.nunique(),
    }


def by_doubling(doses: pd.DataFrame) -> pd.DataFrame:
    """What each doubling of presentations adds, in bits and in tokens, as a page shows it.

    Parameters
    ----------
    doses : as for :func:`repetition`.

    Returns
    -------
    One line a step: presentations, bits, tokens closer (both with intervals), n (blocks).
    """
    bits, tokens = _doublings(doses)
    told_bits = as_told(bits, "bits")
    told_bits.insert(2, "tokens closer", as_told(tokens, "tokens closer")["tokens closer"])
    return told_bits


def law(doses: pd.DataFrame) -> Numbers:
    """Whether memory grows with the logarithm of presentations, by what each doubling adds.

    Parameters
    ----------
    doses : as for :func:`repetition`.

    Returns
    -------
    first, most, last : bits that a doubling adds at the fewest presentations, where it adds most, and at the most;
    first_step, most_step, last_step : these steps; holds : what that says of a logarithmic law, in words. tokens,
    tokens_step : where a doubling brings kl-LD closest.
    """
    bits, tokens = _doublings(doses)
    steps = {"first": 0, "most": int(bits.estimate.argmax()), "last": len(bits) - 1}
    most = int(tokens.estimate.argmax())
    return {
        **{name: interval(bits, presentations=bits.presentations[line]) for name, line in steps.items()},
        **{f"{name}_step": bits.presentations[line] for name, line in steps.items()},
        "holds": growth.told_law(bits),
        "tokens": interval(tokens, presentations=tokens.presentations[most]),
        "tokens_step": tokens.presentations[most],
    }


def _doublings(doses: pd.DataFrame) -> list[pd.DataFrame]:
    """What each doubling adds, in bits and in tokens."""
    return [growth.by_doubling(_larger_is_more(doses), value) for value in ("bits", "tokens")]


def _larger_is_more(measured: pd.DataFrame) -> pd.DataFrame:
    """With bits of the continuation, and tokens: kl-LD turned round."""
    return measured.assign(bits=trajectories.bits(measured), tokens=-measured.kl_ld)


def complexity(doses: pd.DataFrame, natural: pd.DataFrame, seed: int = 0) -> Numbers:
    """How memory falls with z-complexity, at fixed presentations and repeats.

    Parameters
    ----------
    As for :func:`repetition`.

    Returns
    -------
    z, doubling, interaction : of kl-LD, as :func:`lmmem.analysis.statistics.fit_interaction` says; side,
    interaction_side : where these lie. z_loss, interaction_loss : of the loss. guess, guess_loss : slopes in z
    among the unexposed; excess, excess_loss : those of the exposed beyond them. natural_z : in natural text, the
    interval over texts. n, low, high : sequences, and their z-complexity.
    """
    exposed, never = doses[doses.presentations > 0], doses[doses.presentations == 0]
    x, z = exposed.presentations, exposed.z_complexity
    fit, fit_loss = (fit_interaction(x, z, exposed[of], seed) for of in ("kl_ld", "cross_entropy"))
    natural_fit = fit_interaction(natural.repeats, natural.z_complexity, natural.kl_ld, seed, natural.text)
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
        "excess": fit_excess(doses.presentations, doses.z_complexity, doses.kl_ld, seed),
        "excess_loss": fit_excess(doses.presentations, doses.z_complexity, doses.cross_entropy, seed),
        "guess": fit_linear(never.z_complexity, never.kl_ld, seed),
        "guess_loss": fit_linear(never.z_complexity, never.cross_entropy, seed),
        "natural_z": natural_fit["z"],
        "n": len(doses),
        "low": doses.z_complexity.min(),
        "high": doses.z_complexity.max(),
    }


MARGIN = 1.0  # token of kl-LD: a smaller difference is none (book/plan.md, decision rule 2)
NOTICED = {
    "equivalent": f"kl-LD does not notice: its 90 % interval lies within {MARGIN:g} token",
    "different": "kl-LD notices",
    "undecided": "whether kl-LD notices is undecided",
}
JUMP = 5  # tokens of kl-LD
EFFECTS = (10.0, 20.0, 30.0, 40.0, 60.0)  # bits
TENTH = 0.1  # of the first bits: a smaller bias is none (decision rule 5)


def once(measured: pd.DataFrame, shared: Shared) -> Numbers:
    """What a single exposure leaves, by the likelihood and by the words: the plan's rules 1 and 2.

    Parameters
    ----------
    measured : as :mod:`lmmem.analysis.trajectories` says, with kl_ld.
    shared : of :func:`lmmem.analysis.event_study.once_and_never`: arm (of those presented once), twins (of the
        unexposed), every (steps between checkpoints), earliest.

    Returns
    -------
    bits, kl : at the first checkpoint after exposure, beyond twins and beyond before. leaves, noticed : what the
    rules say of these. lasts, kl_lasts : steps since exposure up to which the interval of bits, and that of kl-LD,
    stays above 0; bits_last : the last bits of these. end, end_kl : bits and tokens beyond twins at the last step,
    all exposures together.
    """
    arm, twins = shared["arm"], shared["twins"]
    bits, held = _held(measured, "both", shared)
    kl, held_kl = _held(measured, "kl_ahead", shared)
    narrow = event_study.by_lag(measured, "kl_ahead", **shared, level=0.9)
    first, first_kl, first_narrow = (interval(table, lag=table.lag[0]) for table in (bits, kl, narrow))
    end = measured[measured.step == measured.step.max()]
    last = interval(end_of_training.by_presentations(end[end.arm.isin([arm, twins])], twins), arm=arm)
    end_kl = over_twins(end.assign(ahead=-end.kl_ld), "ahead", ["arm"], twins=twins)
    return {
        "bits": first,
        "kl": first_kl,
        "leaves": told_side(first, "one exposure leaves information"),
        "noticed": NOTICED[randomisation.verdict_on(first_narrow, first_kl, MARGIN)],
        "lasts": _told_held(bits, held),
        "kl_lasts": _told_held(kl, held_kl),
        "bits_last": interval(bits, lag=bits.lag[max(held - 1, 0)]),
        "end": last,
        "end_kl": interval(end_kl, arm=arm),
    }


def decay(measured: pd.DataFrame, shared: Shared, seed: int = 0) -> Numbers:
    """How what one exposure leaves fades, and whether early exposure differs from late: rules 3 and 4.

    Parameters
    ----------
    As for :func:`once`; seed : of the bootstraps.

    Returns
    -------
    half : half-life in words, n : passages of the panel. shape : which curve predicts better, difference : by how
    much. tau, t0, b : of both curves. first_slope, kept_slope : bits for each 100 steps later; first_side, kept_side.
    z_first, z_kept : bits for each 0.1 of z-complexity; z_side.
    """
    panel = fading.half_life(measured, **shared, seed=seed)
    shape = fading.decay_shape(measured, **shared, seed=seed)
    slopes = fading.early_against_late(measured, **shared)
    first, kept = (interval(slopes, term=term) for term in ("first", "kept"))
    by_z = fading.by_complexity(measured, **shared)
    z_first, z_kept = (interval(by_z, term=term) for term in ("first", "kept"))
    fits = shape.fits.set_index("parameter").value
    return {
        "half": panel.told[0],
        "n": int(panel.n[0]),
        "shape": told_side(shape.difference, "the decay is not exponential", "the decay is no power law"),
        "difference": shape.difference,
        "tau": fits["tau"],
        "t0": fits["t0"],
        "b": fits["b"],
        "first_slope": first,
        "first_side": told_side(first, "late exposure stores more", "early exposure stores more"),
        "kept_slope": kept,
        "kept_side": told_side(kept, "early exposure keeps less", "early exposure keeps more"),
        "z_first": z_first,
        "z_kept": z_kept,
        "z_side": told_side(z_first, "more is stored of complex text", "less is stored of complex text"),
    }


def estimators(measured: pd.DataFrame, shared: Shared, controls: str) -> Numbers:
    """Difference in differences over cohorts beside the randomised estimate: rule 5.

    Parameters
    ----------
    measured, shared : as for :func:`once`.
    controls : the arm that cohorts are compared with.

    Returns
    -------
    cohorts, randomised : first bits by either. bias : of the first. right, biased, bins : times since exposure at
    which the interval of the difference lies within a tenth of the first bits, at which it excludes 0, and all.
    """
    found = event_study.bias(measured, **shared, controls=controls)
    margin = TENTH * found["first"].iloc[0]
    cohorts = event_study.over_cohorts(measured, **shared | {"twins": controls})
    chance = event_study.randomised(measured, **shared)
    lag = found.lag[0]
    return {
        "cohorts": interval(cohorts, lag=lag),
        "randomised": interval(chance, lag=lag),
        "bias": interval(found, lag=lag),
        "margin": margin,
        "right": int(((found.low > -margin) & (found.high < margin)).sum()),
        "biased": int(((found.low > 0) | (found.high < 0)).sum()),
        "bins": len(found),
    }


def uncovering(measured: pd.DataFrame, arms: list[str], twins: str, least: int, seed: int = 0) -> Numbers:
    """Whether memories fluctuate about a level, and whether some are uncovered without a new exposure: rules 6 and 7.

    Parameters
    ----------
    measured, arms, twins, least : as for :func:`lmmem.analysis.contrasts.after_last`.
    seed : of its draw, of permutations and bootstraps.

    Returns
    -------
    exposed, unexposed : what rule 6 says of either. ratio, ratio_never : variance ratios. observed, of : passages
    recited later that were not at first; backwards : the same count in reversed time; never : among unexposed ones.
    share : of the observed. verdict : what rule 7 says.
    """
    said, ratios = {}, {}
    followed = after_last(measured, arms, twins, least, seed)
    for name, table in followed.items():
        p = float(stationarity.reversal_test(table, clusters="file", seed=seed).p[0])
        ratios[name] = stationarity.variance_ratio(table, clusters="file", seed=seed)
        directed, wanders = p <= 1 - LEVEL, ratios[name].low <= 1 <= ratios[name].high
        said[name] = (
            f"time {'has a' if directed else 'has no'} direction (p = {p:.2g}), so that they "
            f"{'do not pass' if directed or wanders else 'pass'} for fluctuating about a level"
        )
    found = stationarity.uncovered(followed["exposed"], followed["unexposed"])
    here, back, never, _ = found.to_dict("records")
    more = here["low"] > never["share"] and here["observed"] > back["observed"]
    return {
        **said,
        "ratio": ratios["exposed"],
        "ratio_never": ratios["unexposed"],
        "observed": here["observed"],
        "of": here["of"],
        "share": Interval(here["share"], here["low"], here["high"], here["of"]),
        "backwards": f"{back['observed']} of {back['of']}",
        "never": f"{never['observed']} of {never['of']}",
        "verdict": "more than chance" if more else "not more than chance",
    }


def recency(end: pd.DataFrame, arm: str, twins: str, seed: int = 0) -> Numbers:
    """Number of presentations and time since the last, apart, and fuzzy presentations: rules 8 and 9.

    Parameters
    ----------
    end : greedy table of the last step, all arms.
    arm, twins : of those presented once, and of the unexposed. seed : of the bootstrap.

    Returns
    -------
    presentations, recency : bits for each doubling, the other held fixed. palimpsest : rank correlation of the
    likelihood with the order of exposure, of those presented once.
    fuzzy : what presentations with replaced tokens are worth, in words: rule 9.
    """
    slopes = end_of_training.recency_and_repetition(end, twins)
    return {
        "presentations": interval(slopes, term="presentations"),
        "recency": interval(slopes, term="recency"),
        "palimpsest": end_of_training.palimpsest(end, arm, seed),
        "fuzzy": _told_fuzzy(end, twins),
    }


def _told_fuzzy(end: pd.DataFrame, twins: str) -> str:
    try:
        return f"are worth {end_of_training.worth(end, twins=twins):.2f} of sixteen exact ones"
    except ValueError as error:
        return f"cannot be told here: {error}"


def power(end: pd.DataFrame, twins: str, seed: int = 0, sizes: Sequence[int] = (16, 64)) -> pd.DataFrame:
    """How often effects on so many passages are found, from the spread of the unexposed themselves.

    Parameters
    ----------
    end : greedy table of the last step, with bits.
    twins : the arm of the unexposed. sizes : passages that play the exposed.
    seed : of the simulation.

    Returns
    -------
    As :func:`lmmem.analysis.randomisation.power_by_simulation`, and passages.

    Raises
    ------
    ValueError : the unexposed are fewer than twice the smallest of the sizes.
    """
    never = end[end.arm == twins]
    found = {
        str(n): randomisation.power_by_simulation(never.bits, never.block, n, EFFECTS, seed)
        for n in sizes
        if 2 * n <= len(never)
    }
    if not found:
        raise ValueError(f"{len(never)} unexposed passages are too few for a simulation of {min(sizes)} exposed ones")
    return stacked(found, "passages").round(2)


def fluctuations(measured: pd.DataFrame, arms: Sequence[str], twins: str, seed: int = 0) -> pd.DataFrame:
    """Whether passages that are presented no more fluctuate about a level: their statistics beside those of twins.

    Parameters
    ----------
    measured : greedy table over steps. arms : of passages whose presentations end. twins : of the unexposed.
    seed : of permutations and bootstraps.

    Returns
    -------
    As :func:`lmmem.analysis.contrasts.fluctuations`, of kl-LD, a jump being 5 tokens.

    Raises
    ------
    ValueError : none is followed for three checkpoints after its last presentation.
    """
    return tell_fluctuations(after_last(measured, arms, twins, 3, seed), "kl_ld", JUMP, seed)


def chain(measured: pd.DataFrame, arms: Sequence[str], twins: str, seed: int = 0) -> pd.DataFrame:
    """From which state to which passages go between two checkpoints, once they are presented no more.

    Parameters
    ----------
    As for :func:`fluctuations`.

    Returns
    -------
    One line a state (memorised: recited; absent: 50 of 64 tokens wrong or more; partial), and a column a state after
    one checkpoint: the probability with its interval, of :func:`lmmem.analysis.stationarity.transitions`; of, steps
    from that state.

    Raises
    ------
    ValueError : as of :func:`fluctuations`, or none of them is ever recited, or all always are.
    """
    found = stationarity.transitions(after_last(measured, arms, twins, 3, seed)["exposed"])
    table = told(found.rename(columns={"probability": "estimate"}), "state", "next", digits=2)
    states = [state for state in stationarity.STATES if state in table.index]
    return table.loc[states, list(stationarity.STATES)].assign(of=found.groupby("state").of.first())


def all_organisms(runs: pd.DataFrame) -> pd.DataFrame:
    """All organisms together: bits and tokens of kl-LD ahead of the unexposed at the last step, arm by arm, in words.

    Parameters
    ----------
    runs : as for :func:`lmmem.analysis.between_organisms.by_organism`.

    Returns
    -------
    As :func:`lmmem.analysis.randomisation.compare_arms` without p, of bits and of tokens, told apart by a column in;
    and between organisms: the standard deviation of the organisms' own estimates, and their number in brackets.

    Raises
    ------
    ValueError : nothing was measured.
    """
    if runs.empty:
        raise ValueError("no organism was measured: make replicates")
    last = _larger_is_more(runs[runs.step == runs.step.max()])
    found = {}
    for name in ("bits", "tokens"):
        arms = randomisation.compare_arms(last, name).drop(columns=["left_out", "p"])
        own = between_organisms.spread(last, "arm", randomisation.compare_arms, value=name, permutations=1)
        told_own = (f"{sd:.1f} ({n})" if n > 1 else "" for sd, n in own.loc[arms.arm].itertuples(index=False))
        arms.insert(1, "between organisms", list(told_own))
        found[name] = as_told(arms, "ahead")
    ahead = stacked(found, "in")
    return ahead[["in", "arm", "ahead", *ahead.columns.drop(["in", "arm", "ahead"])]]


def organisms(runs: pd.DataFrame) -> Numbers:
    """What one exposure leaves, over organisms as the units.

    Parameters
    ----------
    runs : as for :func:`lmmem.analysis.between_organisms.by_organism`.

    Returns
    -------
    bits, kl : at the first checkpoint after exposure, mean over organisms with a t-interval. spread : standard
    deviation of the first bits over organisms. halves : half-lives, least to most. organisms : their number.
    memorised : counterfactual memorisation at the last step, bits, mean over passages; share : of its variance over
    passages, the passage's own.

    Raises
    ------
    ValueError : fewer than two organisms.
    """
    if runs.empty or runs.organism.nunique() < 2:
        number = 0 if runs.empty else runs.organism.nunique()
        raise ValueError(f"an interval over organisms needs two that were measured, got {number}: make replicates")
    bits, kl = (_at_first(runs, value) for value in ("both", "kl_ahead"))
    halves = between_organisms.by_organism(runs, fading.half_life).estimate
    memorised = between_organisms.counterfactual(runs)
    return {
        "bits": randomisation.cluster_mean(bits.estimate, bits.organism),
        "kl": randomisation.cluster_mean(kl.estimate, kl.organism),
        "spread": float(bits.estimate.std()),
        "halves": f"{halves.min():.0f} to {halves.max():.0f}",
        "organisms": runs.organism.nunique(),
        "memorised": randomisation.cluster_mean(memorised.bits, memorised.file),
        "share": between_organisms.passage_share(runs),
    }


def sizes(runs: pd.DataFrame, parameters: Mapping[str, str], alike: pd.DataFrame) -> Numbers:
    """What one exposure leaves by size.

    Parameters
    ----------
    runs : as for :func:`lmmem.analysis.between_organisms.by_organism`.
    parameters : of each organism that is wanted, in words, from small to large.
    alike : as `runs`, of organisms of one size, chance drawn anew.

    Returns
    -------
    smallest, largest (their weights) and, of each of the two, bits, half and kl, as "bits_smallest"; more, what each
    has beyond the one before; n (passages); chance, how far organisms of one size lie apart; missing, what was not
    measured. All but n in words.

    Raises
    ------
    ValueError : fewer than two of them were measured.
    """
    there = set() if runs.empty else set(runs.organism)
    lacking = [name for name in parameters if name not in there]
    if len(parameters) - len(lacking) < 2:
        raise ValueError(f"sizes are compared where two were measured; {', '.join(lacking)} were not: make replicates")
    found = between_organisms.by_size(runs, parameters)
    short = {"bits": "bits", "half-life": "half", "kl-LD ahead": "kl"}
    ends = {"smallest": found.iloc[0], "largest": found.iloc[-1]}
    told = {f"{name}_{end}": _minus(line[column]) for column, name in short.items() for end, line in ends.items()}
    missing = f" Not measured here: {', '.join(lacking)} (`make replicates`)." if lacking else ""
    chance = "how far organisms of one size lie apart by chance was not measured"
    if not alike.empty and alike.organism.nunique() > 1:
        first = _at_first(alike, "both").estimate
        chance = f"{len(first)} organisms of one size have a standard deviation of {first.std():.1f} bits"
    return {
        **{end: line.weights for end, line in ends.items()},
        **told,
        "more": _minus(", then ".join(filter(None, found.more))) or "no comparable number of",
        "n": found.attrs["n"][0],
        "chance": chance,
        "missing": missing,
    }


def _at_first(runs: pd.DataFrame, value: str) -> pd.DataFrame:
    """A value in the first bin after exposure, a line an organism."""
    return between_organisms.by_organism(runs, value=value).drop_duplicates("organism")


def _minus(told: str) -> str:
    """Numbers in words, with the sign that a reader expects."""
    return re.sub(r"(?<=[ (])-", MINUS, told)


def front(measured: pd.DataFrame, shared: Shared) -> Numbers:
    """What the book opens with: bits, kl, lasts and kl_lasts of :func:`once`, and half, the half-life of the bits.

    How long an interval stays above 0 depends on how many passages are followed, and on how much one scatters: bits
    that last longer than tokens do so by these numbers, and do not for that fade more slowly.
    """
    bits, held = _held(measured, "both", shared)
    kl, held_kl = _held(measured, "kl_ahead", shared)
    return {
        "bits": interval(bits, lag=bits.lag[0]),
        "kl": interval(kl, lag=kl.lag[0]),
        "lasts": _told_held(bits, held),
        "kl_lasts": _told_held(kl, held_kl),
        "half": fading.half_life(measured, **shared).told[0],
    }


def _held(measured: pd.DataFrame, value: str, shared: Shared) -> tuple[pd.DataFrame, int]:
    """A value by time since exposure, and in how many bins from the first on its interval stays above 0."""
    table = event_study.by_lag(measured, value, **shared)
    return table, int((table.low > 0).cumprod().sum())


def _told_held(table: pd.DataFrame, held: int) -> str:
    return f"for {table.since[held - 1]:.0f} steps" if held else "at no checkpoint"
