"""One question asked in many ways: each probe gives a sequence a score, larger where there is more memory.

All are asked for the same passages at equal cost, counted in passes: the arithmetic of one forward pass over
one sequence. A likelihood is one, a continuation one, a presentation while relearning six (forward and
backward, of the passage and of the row of natural text beside it). Knows nothing of what is concluded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lmmem.experiments import scores
from lmmem.experiments.kept import RESULTS, keep, tables_of
from lmmem.experiments.study import Study
from lmmem.pocket.recipe import DERIVED

__all__ = ["NAMES", "PROBES", "Probe", "measure", "measured", "probe"]

FOLDER = RESULTS / "probes"
NAMES = ("pocket-hidden", "pocket-erased", "pocket")
KNOWN = {"spread": [0, 1, 16], "q1": [64], "q2": [64]}  # of an organism that nothing was done to
ASKED = 128  # passages of an arm at most
BUDGET = 49  # passes a sequence: eight presentations of relearning
KEPT = {
    **{"canary": "int16", "arm": "category", "presentations": "int16", "block": "int16", "file": "category"},
    **{"probe": "category", "score": "float32", "passes": "int16"},
}

TEMPERATURE = 0.6  # of sampling
TEMPERATURES = (0.25, 0.5, 1.0, 2.0)  # of which the likeliest extraction counts
HINTS = (8, 4, 2, 1)  # tokens of the continuation given, the first that the budget allows
PROMPTS = ((16, 32), (24, 32), (0, 48), (8, 40), (16, 48))  # shorter, longer, moved; places in the passage
MEAN_OF = 4  # checkpoints
PRESENTATION = 6  # passes
NOISE = 2.0  # times the model's default sigma, in which trials found most
Asked = tuple[pd.Series, int]  # a score by index, and passes a sequence


class Probe(NamedTuple):
    """A way to ask: `least` passes a sequence it needs, and `ask` gives scores for at most so many."""

    least: int
    ask: Callable[[Study, pd.DataFrame, int], Asked]


def probe(study: Study, sequences: pd.DataFrame, name: str, budget: int = BUDGET) -> pd.DataFrame:
    """Ask sequences by one probe.

    Parameters
    ----------
    study : the model, at a step.
    sequences : as ``Study.sequences`` gives them.
    name : a key of :data:`PROBES`.
    budget : passes a sequence at most.

    Returns
    -------
    One line a sequence: index, probe, score (larger where there is more memory), passes (that it took).

    Raises
    ------
    ValueError : there is no such probe, the budget is below its least, or the model lacks what it needs.

    >>> study = Study("pocket-mini")
    >>> probe(study, study.sequences(n=2, arms={"spread": [0, 16]}), "greedy").passes.tolist()
    [1, 1, 1, 1]
    """
    if name not in PROBES:
        raise ValueError(f"there is no probe {name!r}; there are {', '.join(PROBES)}")
    least, ask = PROBES[name]
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < least:
        raise ValueError(f"budget={budget!r}: {name} needs {least} passes a sequence at least")
    score, passes = ask(study, sequences, budget)
    found = score.reindex(sequences["index"]).to_numpy()
    return pd.DataFrame({"index": sequences["index"], "probe": name, "score": found, "passes": passes})


def _greedy(rounding: str | None = None) -> Probe:
    def ask(study: Study, sequences: pd.DataFrame, _: int) -> Asked:
        return -study.greedy(sequences, rounding=rounding).set_index("index").kl_ld, 1

    return Probe(1, ask)


def _mean_of_checkpoints(study: Study, sequences: pd.DataFrame, _: int) -> Asked:
    steps = [step for step in study.steps if step <= study.step][-MEAN_OF:]
    if len(steps) < 2:
        raise ValueError(f"{study.model} has no checkpoint before step {study.step}: no weights to take a mean of")
    return -study.greedy(sequences, mean_of=steps).set_index("index").kl_ld, 1


def _score(name: str) -> Probe:
    def ask(study: Study, sequences: pd.DataFrame, _: int) -> Asked:
        return study.scores(sequences, only=[name]).set_index("index")[name], scores.COST[name]

    return Probe(scores.COST[name], ask)


def _extraction(study: Study, sequences: pd.DataFrame, _: int) -> Asked:
    found = study.extraction(sequences, temperatures=TEMPERATURES)
    return found.groupby("index").log_prob.max(), 1


def _hints(study: Study, sequences: pd.DataFrame, budget: int) -> Asked:
    given = list(HINTS[:budget])
    return _prompted(study.hinted(sequences, given=given)), len(given)


def _prompts(study: Study, sequences: pd.DataFrame, budget: int) -> Asked:
    prompts = PROMPTS[:budget]
    return _prompted(study.reprompted(sequences, prompts=prompts)), len(prompts)


def _prompted(found: pd.DataFrame) -> pd.Series:
    """Of each sequence, how close what is said comes to the truth, as a share of the tokens asked for."""
    return -(found.kl_ld / found.asked).groupby(found["index"]).mean()


def _noise(choose: str, unit: str = "weight", only: str | None = None) -> Probe:
    def ask(study: Study, sequences: pd.DataFrame, budget: int) -> Asked:
        sigma = NOISE * study.sigma
        if unit == "tensor":
            sigma /= float(study.greedy(sequences).rms.iloc[0])
        noisy = study.perturbed(sequences, sigma=sigma, draws=budget, unit=unit, only=only)
        if choose == "fresh half":  # ties are averaged
            noisy = noisy[noisy.kl_first == noisy.groupby("index").kl_first.transform("min")]
            return -noisy.groupby("index").kl_second.mean(), budget
        return -noisy.groupby("index").kl_ld.agg({"best": "min", "average": "mean"}[choose]), budget

    return Probe(1 if choose == "average" else 2, ask)


def _sampling(study: Study, sequences: pd.DataFrame, budget: int) -> Asked:
    found = study.sampled(sequences, temperatures=[TEMPERATURE], samples=budget)
    return -found.groupby("index").kl_ld.min(), budget


def _relearning(value: str) -> Probe:
    def ask(study: Study, sequences: pd.DataFrame, budget: int) -> Asked:
        rounds = (budget - 1) // PRESENTATION
        found = study.relearned(sequences, presentations=rounds)
        return -found[found.presentation == rounds].set_index("index")[value], 1 + PRESENTATION * rounds

    return Probe(1 + PRESENTATION, ask)


PROBES = {
    "greedy": _greedy(),
    "loss": _score("loss"),
    "loss, prompt too": _score("whole_row"),
    "loss, zlib-normalised": _score("zlib_normalised"),
    "loss over twins": _score("over_twins"),
    "loss over an earlier step": _score("over_earlier"),
    "Min-K%": _score("min_k"),
    "Min-K%++": _score("min_k_plus"),
    "mean rank": _score("mean_rank"),
    "loss over mismatched prompts": _score("over_mismatched"),
    "extraction": Probe(1, _extraction),
    "hints": Probe(1, _hints),
    "other prompts": Probe(1, _prompts),
    "float16": _greedy("float16"),
    "8 bits": _greedy("int8"),
    "4 bits": _greedy("int4"),
    "mean of checkpoints": Probe(1, _mean_of_checkpoints),
    "noise, best": _noise("best"),
    "noise, average": _noise("average"),
    "noise, fresh half": _noise("fresh half"),
    "noise by tensor": _noise("best", unit="tensor"),
    "noise in attention": _noise("best", only="attention"),
    "noise in MLP": _noise("best", only="MLP"),
    "noise in one layer": _noise("best", only="layer 0"),
    "sampling": Probe(2, _sampling),
    "relearning": _relearning("kl_ld"),
    "relearning, loss": _relearning("cross_entropy"),
}


def measure(name: str, folder: Path = FOLDER, budget: int = BUDGET) -> Path:
    """Ask the passages of an organism that are known to be there, and their nulls, by every probe, and keep the scores.

    Parameters
    ----------
    name : of an organism, derived or not. folder : where its file is written. budget : as for :func:`probe`.

    Returns
    -------
    The file: a line for each probe and passage; columns canary, arm, presentations, block, file, probe, score,
    passes; and its record, which has the probes that this model cannot be asked by, each with its reason.
    """
    study = Study(name)
    arms = None if name in DERIVED else study.arms_among(KNOWN)
    sequences = study.sequences(arms=arms, at_most=ASKED)
    asked, refused = [], {}
    for one in PROBES:
        try:
            asked.append(probe(study, sequences, one, budget))
        except ValueError as error:
            refused[one] = str(error)
    found = sequences.merge(pd.concat(asked, ignore_index=True), on="index")[list(KEPT)].astype(KEPT)
    return keep(found, name, folder, budget=budget, refused=refused, provenance=study.provenance())


def measured(names: tuple[str, ...] = NAMES, folder: Path = FOLDER) -> pd.DataFrame:
    """What was asked of organisms: as :func:`measure` keeps it, and organism. No lines, if nothing was.

    Raises
    ------
    As :func:`lmmem.experiments.kept.tables_of`.
    """
    found = [table.assign(organism=name) for name, table, _ in tables_of(names, folder)]
    if not found:
        return pd.DataFrame(columns=[*KEPT, "organism"])
    every = pd.concat(found, ignore_index=True)
    wide = {column: "int64" for column in every.select_dtypes("integer")} | {"score": "float64"}
    return every.astype(wide | {"probe": "str", "arm": "str", "file": "str"})
