"""Passages over the checkpoints of a training run: the exposed less their twins, and errors by file.

Tables of what was measured at checkpoints in; fits, intervals and simulated tables out. Knows neither models nor
figures, and not what is asked: that is for `event_study`, `fading` and `end_of_training`.

Everywhere, `measured` has one line a (passage, step): index (the passage), arm, presentations, block, file (the
cluster), exposure_step (the first step whose weights have been trained on it; missing, or beyond training, if there is
none), last_step (the same of its last presentation), step (of the checkpoint), cross_entropy (nats a token) and, where
kl-LD was measured, kl_ld (tokens). Of every passage each step is there. A passage counts as exposed at a checkpoint
whose step is its exposure_step or a later one.

Every estimate here is a weighted sum of trajectories, those of the exposed and, with weights of the other sign, those
of the unexposed twins of their blocks. Its error is that of the sums by file of both (Liang and Zeger 1986): all that
are exposed in a block share the chance deviation of its twins, which a sum over the exposed alone does not see.
Degrees of freedom are the effective number of clusters less 1 (Carter, Schnepel and Steigerwald 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse, stats

from lmmem.analysis.statistics import LEVEL, RESAMPLES, Interval
from lmmem.protocol import CONTINUATION

__all__ = [
    "Fit",
    "Lines",
    "Term",
    "Trajectories",
    "binned",
    "bits",
    "centred",
    "column",
    "differences",
    "effective_clusters",
    "fitted",
    "followed",
    "intervals",
    "means",
    "multiplicities",
    "only",
    "simulated",
    "sum_by",
    "told_bins",
    "trajectories",
]

EVERY = 60  # steps between the checkpoints of pocket, and the width of a bin of time since exposure
EARLIEST = 120  # step; before it losses fall so fast that a baseline says little (book/plan.md, "Estimands")
ONCE, TWINS = "spread 1", "spread 0"
BITS = CONTINUATION / np.log(2)  # bits of a continuation for each nat a token
MOST_TWICE = 0.75  # of the squares is taken off as counted twice at most; a half is where twins are all there is
ALIKE = 0.2  # correlation of passages of a file, in counting effective clusters only; errors do not assume it
NEVER = np.iinfo(np.int64).max // 2  # the exposure step of what is not exposed
NEEDED = ("index", "arm", "presentations", "block", "file", "exposure_step", "step", "cross_entropy")
# What a value is compared with: its twins at that step, itself before exposure.
VALUES = {"twins": (True, False), "before": (False, True), "both": (True, True), "kl_ahead": (True, True)}


class Trajectories(NamedTuple):
    """n passages at S steps."""

    lines: pd.DataFrame  # (n * S) lines, by index and step
    steps: np.ndarray  # (S,)
    arm: np.ndarray  # (n,), as are the next four
    presentations: np.ndarray
    block: np.ndarray  # numbered from 0
    file: np.ndarray  # numbered from 0
    exposure: np.ndarray
    files: int
    bits: np.ndarray  # (n, S) log-probability of the continuation
    kl: np.ndarray | None  # (n, S) tokens


class Lines(NamedTuple):
    """L pairs of an exposed passage and a checkpoint at or after its exposure, as places in a Trajectories."""

    passage: np.ndarray
    step: np.ndarray
    base: np.ndarray  # the last checkpoint before exposure
    since: np.ndarray  # steps


class Term(NamedTuple):
    """What is compared with what: a value, the arm of the twins, and whether blocks are looked at."""

    value: str
    twins: str
    pooled: bool = False
    sign: int = 1


class Fit(NamedTuple):
    """q least-squares estimates, and what each of F files adds to their errors."""

    estimate: np.ndarray  # (q,)
    shares: np.ndarray  # (F, q)
    effective: np.ndarray  # (q,) clusters
    n: np.ndarray  # (q,) passages
    clusters: np.ndarray  # (q,) files


def bits(measured: pd.DataFrame) -> pd.Series:
    """Log-probability of each continuation, in bits: without twins and without a baseline.

    >>> bits(pd.DataFrame({"cross_entropy": [np.log(2)]})).tolist()
    [-64.0]
    """
    return -BITS * measured.cross_entropy


def trajectories(measured: pd.DataFrame) -> Trajectories:
    """A table `measured` as arrays, passages by steps; refused where a column, a step or a number is missing."""
    if missing := [column for column in NEEDED if column not in measured]:
        raise ValueError(f"measured needs columns {', '.join(NEEDED)}; {', '.join(missing)} missing")
    if measured.empty:
        raise ValueError("measured has no lines")
    order = np.lexsort((measured.step.to_numpy(), measured["index"].to_numpy()))
    lines = measured.iloc[order]
    index, step = lines["index"].to_numpy(), lines.step.to_numpy()
    if (twice := (index[1:] == index[:-1]) & (step[1:] == step[:-1])).any():
        where = int(np.argmax(twice))
        raise ValueError(f"one line a (passage, step) is needed; passage {index[where]} has step {step[where]} twice")
    steps = np.unique(step)
    n = 1 + int((index[1:] != index[:-1]).sum())
    if len(index) != n * len(steps):
        names, counts = np.unique(index, return_counts=True)
        short = names[np.argmin(counts)]
        raise ValueError(f"each passage needs all {len(steps)} steps; passage {short} has {counts.min()}")
    loss = lines.cross_entropy.to_numpy(dtype=float)
    if not np.isfinite(loss).all():
        raise ValueError(f"cross_entropy is not a number in {(~np.isfinite(loss)).sum()} lines of {len(loss)}")
    first = slice(None, None, len(steps))
    block, file = (np.unique(lines[column].to_numpy()[first], return_inverse=True) for column in ("block", "file"))
    return Trajectories(
        lines=lines,
        steps=steps,
        arm=lines.arm.to_numpy(dtype=object)[first],
        presentations=lines.presentations.to_numpy()[first],
        block=block[1],
        file=file[1],
        exposure=lines.exposure_step.fillna(NEVER).to_numpy(dtype=np.int64)[first],
        files=len(file[0]),
        bits=-BITS * loss.reshape(n, -1),
        kl=lines.kl_ld.to_numpy(dtype=float).reshape(n, -1) if "kl_ld" in lines else None,
    )


def column(measured: pd.DataFrame, t: Trajectories, name: str) -> np.ndarray:
    """A column of `measured`, by passage."""
    if name not in measured:
        raise ValueError(f"measured needs a column {name}")
    return t.lines[name].to_numpy()[:: len(t.steps)]


def followed(t: Trajectories, arm: str | None, earliest: int) -> Lines:
    """Passages with a checkpoint before exposure, at all checkpoints at or after it."""
    base = np.searchsorted(t.steps, t.exposure, side="left") - 1
    who = (t.presentations > 0) & (t.exposure > earliest) & (base >= 0) & ((t.arm == arm) | (arm is None))
    passage, step = np.nonzero(who[:, None] & (t.steps >= t.exposure[:, None]))
    if not len(passage):
        wanted = f"passages{f' of {arm}' if arm else ''} exposed after step {earliest} and up to step {t.steps[-1]}"
        raise ValueError(f"{wanted} are needed; of {len(who)} there are none")
    return Lines(passage, step, base[passage], t.steps[step] - t.exposure[passage])


def only(lines: Lines, kept: np.ndarray) -> Lines:
    """Those of the lines that are kept, a mask (L,)."""
    return Lines(*(values[kept] for values in lines))


def binned(lines: Lines, every: int) -> np.ndarray:
    """(L, bins): 1 where a line lies in a bin of time since exposure."""
    bins, code = np.unique(lines.since // every, return_inverse=True)
    return np.eye(len(bins))[code]


def means(design: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(q,): the mean of values (L,) over the lines of each column of a design (L, q) of 0 and 1."""
    return design.T @ values / design.sum(axis=0)


def sum_by(code: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """(n, q): the sums of the lines (L, q) of each code."""
    each = np.arange(len(code) + 1)  # a column a line, with one 1 in it
    return sparse.csc_array((np.ones(len(code)), code, each), shape=(n, len(code))) @ values


def centred(t: Trajectories, values: np.ndarray, twins: str, pooled: bool = False) -> np.ndarray:
    """Values (n, S) less the mean of the twins of the block, or of all."""
    of = 0 * t.block if pooled else t.block
    who = t.arm == twins
    count = np.bincount(of[who], minlength=of.max() + 1)
    needed = np.unique(of[t.presentations > 0])
    if not count[needed].all():
        raise ValueError(
            f"each block needs passages of {twins}; {(count[needed] == 0).sum()} of {len(needed)} blocks have none"
        )
    return values - (sum_by(of[who], values[who], len(count)) / np.maximum(count, 1)[:, None])[of]


def differences(t: Trajectories, lines: Lines, term: Term) -> tuple[np.ndarray, np.ndarray]:
    """Trajectories (n, S) to compare, and the value of each line (L,)."""
    if term.value not in VALUES:
        raise ValueError(f"a value is one of {', '.join(VALUES)}; got {term.value!r}")
    against, before = VALUES[term.value]
    y = t.bits
    if term.value == "kl_ahead":
        if t.kl is None:
            raise ValueError("kl_ahead needs a column kl_ld")
        y = -t.kl
    if against:
        y = centred(t, y, term.twins, term.pooled)
    found = y[lines.passage, lines.step]
    return y, found - y[lines.passage, lines.base] if before else found


def fitted(t: Trajectories, lines: Lines, design: np.ndarray, *terms: Term) -> Fit:
    """Least squares of the sum of terms on a design (L, q), with what each file adds to the errors, twins included.

    Residuals of a file with a share h of the weight are short by 1 - h (Bell and McCaffrey 2002, CR2). That of an
    exposed passage holds the deviation of its block's twins, which the part of the twins holds again: so much is taken
    off the sum of squares.
    """
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise ValueError(f"{design.shape[1]} numbers cannot be told apart from {len(design)} lines: too little varies")
    weights = design @ np.linalg.inv(design.T @ design)
    found, twins, alone = np.zeros(len(design)), np.zeros((len(t.block), design.shape[1])), np.zeros(design.shape[1])
    for term in terms:
        y, values = differences(t, lines, term)
        if not np.isfinite(values).all():
            raise ValueError(f"{term.value} is missing in {(~np.isfinite(values)).sum()} lines of {len(values)}")
        found += term.sign * values
        if VALUES[term.value][0]:
            added, already = _of_twins(t, lines, weights, y, term)
            twins, alone = twins - term.sign * added, alone + already
    estimate = weights.T @ found
    file = t.file[lines.passage]
    squares = sum_by(file, weights**2, t.files)
    clusters = (squares > 0).sum(axis=0)
    if clusters.min() < 2:
        raise ValueError(f"errors by file need passages of 2 files for each estimate; got {clusters.min()}")
    shares = sum_by(file, weights * (found - design @ estimate)[:, None], t.files)
    shares = shares / np.sqrt(1 - squares / squares.sum(axis=0)) + sum_by(t.file, twins, t.files)
    seen = (shares**2).sum(axis=0)
    shares *= np.sqrt(1 - np.minimum(alone, MOST_TWICE * seen) / np.where(seen > 0, seen, 1))
    passages = (sum_by(lines.passage, weights**2, len(t.block)) > 0).sum(axis=0)
    return Fit(estimate, shares, effective_clusters(file, weights, t.files), passages, clusters)


def effective_clusters(file: np.ndarray, weights: np.ndarray, files: int) -> np.ndarray:
    """(q,): the number of equal clusters whose errors would be known as well, were lines of a file ALIKE correlated."""
    variance = (1 - ALIKE) * sum_by(file, weights**2, files) + ALIKE * sum_by(file, weights, files) ** 2
    return variance.sum(axis=0) ** 2 / (variance**2).sum(axis=0)


def _of_twins(
    t: Trajectories, lines: Lines, weights: np.ndarray, y: np.ndarray, term: Term
) -> tuple[np.ndarray, np.ndarray]:
    """What each passage adds to the weighted sum of the twins' means (n, q), and its squares line by line (q,)."""
    of = 0 * t.block if term.pooled else t.block
    who = np.flatnonzero(t.arm == term.twins)
    count = np.bincount(of[who], minlength=of.max() + 1)
    block, s = of[lines.passage], len(t.steps)
    if count[block].min() < 2:
        raise ValueError(f"errors need two passages of {term.twins} in each block; some have {count[block].min()}")
    short = np.sqrt(count / np.maximum(count - 1, 1))[of[who]]  # deviations from a mean of K are short by (K - 1) / K
    apart = y[who] * (short / count[of[who]])[:, None]
    total = sum_by(block * s + lines.step, weights, len(count) * s)
    pairs = sum_by(of[who], (apart[:, :, None] * apart[:, None]).reshape(len(who), -1), len(count)).reshape(-1, s, s)
    squares = pairs[block, lines.step, lines.step]
    if VALUES[term.value][1]:
        total = total - sum_by(block * s + lines.base, weights, len(count) * s)
        squares = squares + pairs[block, lines.base, lines.base] - 2 * pairs[block, lines.step, lines.base]
    added = np.zeros((len(t.block), weights.shape[1]))
    added[who] = np.einsum("js,jsq->jq", apart, total.reshape(len(count), s, -1)[of[who]])
    return added, squares @ weights**2


def intervals(fit: Fit, level: float = LEVEL) -> list[Interval]:
    """The interval of each of the q estimates of a fit."""
    if fit.effective.min() <= 1 + 1e-9:
        raise ValueError("errors by file need more than one effective file: nearly all weight is on one")
    error = np.sqrt((fit.shares**2).sum(axis=0))
    half = error * stats.t.ppf((1 + level) / 2, fit.effective - 1)
    return [
        Interval(float(m), float(m - h), float(m + h), int(n))
        for m, h, n in zip(fit.estimate, half, fit.n, strict=True)
    ]


def told_bins(lines: Lines, every: int, fit: Fit, level: float = LEVEL) -> pd.DataFrame:
    """A fit to bins as a table, a line a bin: lag, since, estimate, low, high, n, clusters."""
    table = pd.DataFrame(intervals(fit, level), columns=Interval._fields)
    table.insert(0, "lag", np.unique(lines.since // every) * every)
    table.insert(1, "since", means(binned(lines, every), lines.since))
    return table.assign(clusters=fit.clusters)


def multiplicities(n: int, seed: int) -> np.ndarray:
    """(RESAMPLES, n): how often each of n files is drawn in each resample."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)


def simulated(
    effect: Callable[[np.ndarray], np.ndarray],
    arms: Mapping[str, int] | None = None,
    blocks: int = 16,
    files: int = 60,
    last: int = 840,
    every: int = EVERY,
    noise: float = 6.0,
    drift: float = 20.0,
    file_drift: float = 10.0,
    file_effect: float = 0.0,
    seed: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """Trajectories whose truth is known, to try estimators on before anything is measured.

    Log-probability is a level of the block and of the passage, a common curve of the step, a drift of the file and of
    the passage (a straight line and a random walk, in halves of the variance), noise, and the effect of each
    presentation.

    Parameters
    ----------
    effect : of an array of steps since a presentation, in bits.
    arms : passages in every block; the last word of a name is its presentations. None is 8 of "spread 0" and 8 of
        "spread 1".
    files : from which chance takes the passages, the first ones more often.
    noise : at each checkpoint, bits. drift, file_drift : standard deviation over all of training, bits.
    file_effect : standard deviation over files of the factor, around 1, by which the effect is multiplied.

    Returns
    -------
    A table `measured`, without kl_ld.

    >>> table = simulated(lambda since: 80 + 0 * since, blocks=2)
    >>> len(table) == 2 * 16 * 15, sorted(table.arm.unique())
    (True, ['spread 0', 'spread 1'])
    """
    rng = np.random.default_rng(seed)
    arms = {TWINS: 8, ONCE: 8} if arms is None else arms
    names = np.tile(np.repeat(list(arms), list(arms.values())), blocks)
    m = np.array([int(name.split()[-1]) for name in names])
    n, steps = len(names), np.arange(0, last + 1, every)
    block = np.repeat(np.arange(blocks), n // blocks)
    share = 1 / (np.arange(files) + 5)
    file = rng.choice(files, n, p=share / share.sum())
    bits = -300 + 10 * block[:, None] + rng.normal(0, 10, (n, 1)) + 100 * (1 - np.exp(-steps / 300))
    for size, who in ((drift, np.arange(n)), (file_drift, file)):
        line, walk = rng.normal(size=(who.max() + 1, 1)), rng.normal(size=(who.max() + 1, len(steps)))
        walk[:, 0] = 0
        path = line * steps / last + np.cumsum(walk, axis=1) / np.sqrt(len(steps) - 1)
        bits = bits + size / np.sqrt(2) * path[who]
    bits += noise * rng.normal(size=bits.shape)
    times = np.where(np.arange(max(m.max(), 1)) < m[:, None], rng.integers(1, last + 1, (n, max(m.max(), 1))), last + 1)
    factor = 1 + file_effect * rng.normal(size=files)[file]
    for time in times.T:
        since = steps - time[:, None]
        bits += factor[:, None] * np.where((since >= 0) & (time <= last)[:, None], effect(np.maximum(since, 0)), 0.0)
    final = np.where(m > 0, np.where(times <= last, times, 0).max(axis=1), last + 1)
    one = {"index": np.arange(n), "arm": names.astype(object), "presentations": m, "block": block, "file": file}
    one |= {"exposure_step": times.min(axis=1), "last_step": final}
    table = {column: np.repeat(values, len(steps)) for column, values in one.items()}
    return pd.DataFrame({**table, "step": np.tile(steps, n), "cross_entropy": -bits.ravel() / BITS})
