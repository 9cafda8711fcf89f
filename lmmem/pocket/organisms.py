"""An organism by its name: its data and its checkpoints on disk, made on first use.

The data are rows in training order, canaries, tokenizer and manifest. Whoever loads an organism or asks
for its corpus comes here. Knows the experiment's design and the training, and nothing of what is measured.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from lmmem.inference.cores import cores
from lmmem.inference.scoring import cross_entropy
from lmmem.measures.complexity import z_complexity
from lmmem.measures.repeats import count_repeats
from lmmem.pocket import design, text
from lmmem.pocket.derived import lay_out, treat
from lmmem.pocket.recipe import DERIVED, ORGANISMS, RECIPES, REFERENCE_TEXT, Derived
from lmmem.pocket.training import LOG, TERMS, fit, folder_name, whole_checkpoints
from lmmem.protocol import split
from lmmem.storage.files import (
    DamagedError,
    cache_folder,
    check_folder,
    folder_being_written,
    recorded_sha256,
    sha256_of,
    write_whole,
)
from lmmem.storage.provenance import environment

__all__ = [
    "checkpoint_folder",
    "data_folder",
    "lock",
    "neighbours",
    "organism_folder",
    "passage_key",
    "reference_losses",
    "tokenizer_of",
    "train",
    "train_together",
    "write_reference_losses",
]

# Losses that are known beforehand, so that nobody has to train the reference for the text that is usual.
REFERENCE_LOSSES = Path(__file__).parents[2] / "results" / "reference_losses.parquet"


def organism_folder(name: str) -> Path:
    """Where everything of an organism lives: named by its recipe, and a derived one by its base's weights too.

    So recipes never mix, and what was derived from weights that are no more is made anew. The base of a derived one
    is trained, if it is not there.
    """
    key = ORGANISMS[name].key
    if name in DERIVED:
        base = checkpoint_folder(DERIVED[name].base, DERIVED[name].trained.steps)
        weights = recorded_sha256(base / "model.safetensors")
        key = hashlib.sha256((key + weights).encode()).hexdigest()[: len(key)]
    return cache_folder() / "organisms" / f"{name}-{key}"


def data_folder(name: str) -> Path:
    """The organism's data, made on first use, checked on every use, and made again if damaged.

    Returns
    -------
    A folder with rows.npy (n, row_tokens) uint16, canaries.parquet, presented.parquet,
    tokenizer.json and manifest.json (recipe, files and hash of the text, versions).
    """
    folder = organism_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data"
    with lock(folder):
        try:
            check_folder(data)
        except DamagedError as damage:
            why = f"{damage}; making it again" if data.exists() else "on first use"
            print(f"lmmem: preparing the data of {name} in {data} ({why})", file=sys.stderr)
            (_prepare_derived if name in DERIVED else _prepare)(name, data)
    return data


def checkpoint_folder(name: str, step: int) -> Path:
    """The checkpoint of one step as a Hugging Face folder; the organism is trained if need be.

    Raises
    ------
    ValueError : the organism keeps no checkpoint of that step.
    """
    folder = organism_folder(name) / folder_name(step)
    if step not in ORGANISMS[name].checkpoints:
        raise ValueError(f"{name} keeps no checkpoint of step {step}")
    try:
        check_folder(folder)
    except DamagedError:
        train(name)
    return folder


def train(name: str) -> Path:
    """Train an organism, or finish what an interrupted run began; do nothing if all is whole.

    The result depends on the recipe, the text and the machine's arithmetic, not on its number of cores and
    not on how often training was stopped. One process trains at a time; others wait for it.

    Parameters
    ----------
    name : a key of ORGANISMS.

    Returns
    -------
    The organism's folder: ``data/``, ``step-000000/`` .. (model and tokenizer as transformers saves
    them), ``training_log.parquet`` (step, loss in nats per token; of one that is not derived, seconds).
    """
    recipe, data, folder = ORGANISMS[name], data_folder(name), organism_folder(name)
    with lock(folder):
        whole = whole_checkpoints(folder, recipe)
        if whole != list(recipe.checkpoints) or not (folder / LOG).exists():
            rows, rows_sha256 = np.load(data / "rows.npy", mmap_mode="r"), recorded_sha256(data / "rows.npy")
            if isinstance(recipe, Derived):
                base = checkpoint_folder(recipe.base, recipe.trained.steps)
                treat(name, recipe, rows, rows_sha256, _tokenizer(data), folder, base)
            else:
                fit(name, recipe, rows, rows_sha256, _tokenizer(data), folder, whole)
    return folder


def train_together(names: Sequence[str]) -> list[Path]:
    """Train organisms, as many at a time as this process has cores, as each takes one; derived ones after all others.

    Parameters
    ----------
    names : keys of ORGANISMS.

    Returns
    -------
    The folder of each, as :func:`train` gives it.
    """
    waves = [name for name in names if name not in DERIVED], [name for name in names if name in DERIVED]
    folders: dict[str, Path] = {}
    for wave in waves:
        at_once = min(len(wave), cores())
        if at_once > 1:
            with ProcessPoolExecutor(at_once, mp_context=multiprocessing.get_context("spawn")) as processes:
                folders |= zip(wave, processes.map(train, wave), strict=True)
        else:
            folders |= {name: train(name) for name in wave}
    return [folders[name] for name in names]


def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """The organism's byte-level BPE as transformers wants it; token 0 ends a document."""
    return _tokenizer(data_folder(name))


def neighbours(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows of text that stand before and after each passage of a derived organism, in the passage's own file.

    The nearest on either side that lies in that file whole and shares no run of tokens with a passage of the organism
    or of its base, as passages share none with one another. They are held out: no training has met them.

    Parameters
    ----------
    name : a key of DERIVED; it is made if need be.

    Returns
    -------
    rows : (m, row_tokens) uint16, ascending by passage, before and after. canary : (m,) whose they are: once or twice
    each, or not at all where a file holds nothing else.

    Raises
    ------
    ValueError : the organism is not derived from another.
    DamagedError : the installed packages are no longer those that its text came from.

    >>> rows, canary = neighbours("pocket-mini-hidden")
    >>> rows.shape[1], len(canary) == len(rows)
    (96, True)
    """
    if name not in DERIVED:
        raise ValueError(f"no file is known of the passages of {name}: give one of {', '.join(DERIVED)}")
    own, of_base = _passages(name), _passages(DERIVED[name].base)
    _, pool, files, _ = _text_of(name)
    place = {row.tobytes(): number for number, row in enumerate(pool)}
    shared = count_repeats(pool, np.concatenate([own, of_base]), n=DERIVED[name].trained.novelty_tokens)
    free = (pool != 0).all(axis=1) & (shared == 0)  # of one document, and no passage
    found: list[tuple[int, int]] = []
    for canary, row in enumerate(own):
        here = place[row.tobytes()]
        in_file = np.flatnonzero((files == files[here]) & free)
        found += [(canary, number) for number in (*in_file[in_file < here][-1:], *in_file[in_file > here][:1])]
    whose, which = np.array(found, dtype=int).reshape(-1, 2).T
    return pool[which], whose


def reference_losses(name: str, rows: np.ndarray) -> np.ndarray:
    """How hard passages are to an organism that was never shown them: its loss at its last step.

    Parameters
    ----------
    name : the organism; it is trained if need be.
    rows : (n, row_tokens) token ids.

    Returns
    -------
    (n,) float64, cross-entropy of the continuations in nats per token, rounded to 0.01, so that
    machines which differ in the last bits agree.
    """
    model = AutoModelForCausalLM.from_pretrained(checkpoint_folder(name, RECIPES[name].steps)).eval()
    return cross_entropy(model, *split(rows.astype(np.int64))).round(2)


def write_reference_losses(path: Path = REFERENCE_LOSSES) -> Path:
    """Write down the losses of all references on the passages of the text that is installed, in the place of others.

    Returns
    -------
    The file: columns organism, passage (:func:`passage_key`), loss (nats per token).
    """
    lines = []
    for name in sorted({recipe.reference for recipe in RECIPES.values() if recipe.reference}):
        folder = data_folder(name)
        index = pd.read_parquet(folder / "canaries.parquet")["index"]
        rows = np.load(folder / "rows.npy")[index]
        keys = [passage_key(row) for row in rows]
        lines.append(pd.DataFrame({"organism": name, "passage": keys, "loss": reference_losses(name, rows)}))
    with write_whole(path) as part:
        pd.concat(lines).to_parquet(part, index=False)
    return path


def passage_key(row: np.ndarray) -> str:
    """What tells a passage from any other, whatever organism it is in: sixteen hexadecimal digits."""
    return hashlib.sha256(row.astype("<u2").tobytes()).hexdigest()[:16]


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the organism's lock, which a process may take again; say so when another one has it."""
    file_lock = FileLock(folder / "lock", is_singleton=True)
    try:
        file_lock.acquire(timeout=0)
    except Timeout:
        print(f"lmmem: another process is working in {folder}; waiting for it", file=sys.stderr)
        file_lock.acquire()
    try:
        yield
    finally:
        file_lock.release()


def _tokenizer(data: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(data / "tokenizer.json")),
        bos_token=text.END_OF_TEXT,
        eos_token=text.END_OF_TEXT,
    )


def _prepare(name: str, data: Path) -> None:
    recipe = RECIPES[name]
    documents, held_out = text.documents(recipe)
    tokenizer = text.train_tokenizer(documents, recipe.vocabulary)
    natural, _ = text.rows_of(documents, tokenizer, recipe.row_tokens)
    passages, files = design.choose_passages(*text.rows_of(held_out, tokenizer, recipe.row_tokens), natural, recipe)
    complexity = np.asarray(z_complexity(tokenizer.decode_batch(split(passages)[1].tolist())))
    hardness = _known_losses(recipe.reference, passages) if recipe.reference else complexity
    canaries = design.assign(files, hardness, recipe)
    rows, presented, index = design.arrange(canaries, passages, natural, recipe)
    canaries = canaries.assign(
        z_complexity=complexity,
        reference_loss=hardness if recipe.reference else np.nan,
        file=[held_out[file].path for file in files],
        index=index,
    )
    text_sha256 = text.text_hash(documents + held_out)
    known = REFERENCE_TEXT.get(recipe.training_bytes)
    if text_sha256 != known:
        print(
            f"lmmem: the text of {name} is not the reference one, as {text.package_versions(recipe)} are installed: "
            "numbers will differ in detail",
            file=sys.stderr,
        )
    manifest = {
        "recipe": dataclasses.asdict(recipe),
        "text_sha256": text_sha256,
        "text_is_reference": text_sha256 == known,
        "text_packages": text.package_versions(recipe),
        "training_files": [document.path for document in documents],
        "held_out_files": [document.path for document in held_out],
        "environment": environment(),
    }
    with folder_being_written(data) as part:
        np.save(part / "rows.npy", rows)
        _refuse_other_rows(data.parent, part / "rows.npy")
        canaries.to_parquet(part / "canaries.parquet", index=False)
        presented.to_parquet(part / "presented.parquet", index=False)
        tokenizer.save(str(part / "tokenizer.json"))
        (part / "manifest.json").write_text(json.dumps(manifest, indent=1))


def _prepare_derived(name: str, data: Path) -> None:
    """Passages that the base holds out beyond its own, what is taught of them and when."""
    recipe, source = DERIVED[name], data_folder(DERIVED[name].base)
    of_base, tokenizer = json.loads((source / "manifest.json").read_text()), _tokenizer(source)
    natural, pool, from_files, held_out = _text_of(name)
    passages, files = design.choose_passages(pool, from_files, natural, recipe.design, skip=recipe.trained.passages)
    hardness = reference_losses(recipe.base, passages)
    canaries = design.assign(files, hardness, recipe.design)
    before = np.load(source / "rows.npy")[: recipe.trained.steps * recipe.rows_per_step]
    told = pd.read_parquet(source / "presented.parquet")["index"]
    rows, presented, index = lay_out(canaries, passages, before, np.setdiff1d(np.arange(len(before)), told), recipe)
    canaries = canaries.assign(
        z_complexity=np.asarray(z_complexity(tokenizer.batch_decode(split(passages)[1]))),
        reference_loss=hardness,
        file=[held_out[file].path for file in files],
        index=index,
    )
    kinds = {"taught": "first rounds", "alike": "never taught, treated as those", "untouched": "neither"}
    manifest = {
        "recipe": dataclasses.asdict(recipe),
        **{key: of_base[key] for key in ("text_sha256", "text_is_reference", "text_packages")},
        "weights_of_base": recorded_sha256(checkpoint_folder(recipe.base, recipe.trained.steps) / "model.safetensors"),
        "passages": {kind: {"what": what, "number": getattr(recipe, kind)} for kind, what in kinds.items()},
        "environment": environment(),
    }
    with folder_being_written(data) as part:
        np.save(part / "rows.npy", rows)
        _refuse_other_rows(data.parent, part / "rows.npy")
        canaries.to_parquet(part / "canaries.parquet", index=False)
        presented.to_parquet(part / "presented.parquet", index=False)
        tokenizer.backend_tokenizer.save(str(part / "tokenizer.json"))
        (part / "manifest.json").write_text(json.dumps(manifest, indent=1))


def _text_of(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[text.Document]]:
    """What a derived organism's passages are drawn from: rows of its base's text, held-out rows, their files, these.

    Raises
    ------
    DamagedError : the installed packages are no longer those that the base's text came from.
    """
    recipe, source = DERIVED[name], data_folder(DERIVED[name].base)
    documents, held_out = text.documents(recipe.trained)
    if text.text_hash(documents + held_out) != json.loads((source / "manifest.json").read_text())["text_sha256"]:
        raise DamagedError(
            f"{name} cannot be derived: the installed packages have changed since the data of {recipe.base} in "
            f"{source} were made: delete the folder above it to train anew"
        )
    tokenizer = _tokenizer(source).backend_tokenizer
    natural, _ = text.rows_of(documents, tokenizer, recipe.row_tokens)
    return natural, *text.rows_of(held_out, tokenizer, recipe.row_tokens), held_out


def _passages(name: str) -> np.ndarray:
    """The passages of an organism, by canary: (n, row_tokens) uint16."""
    folder = data_folder(name)
    return np.load(folder / "rows.npy", mmap_mode="r")[pd.read_parquet(folder / "canaries.parquet")["index"]]


def _known_losses(reference: str, rows: np.ndarray) -> np.ndarray:
    """The reference's loss on each passage: as it was written down, else the reference is trained."""
    keys = [passage_key(row) for row in rows]
    if REFERENCE_LOSSES.exists():
        lines = pd.read_parquet(REFERENCE_LOSSES)
        known = lines[lines.organism == reference].set_index("passage").loss
        if known.index.isin(keys).sum() == len(keys):
            return known[keys].to_numpy()
    print(
        f"lmmem: no losses of {reference} are known for this text, which make passages alike: it is trained first",
        file=sys.stderr,
    )
    return reference_losses(reference, rows)


def _refuse_other_rows(folder: Path, rows: Path) -> None:
    """Data that are made again must be those that the organism's checkpoints were trained on."""
    if (folder / TERMS).exists() and json.loads((folder / TERMS).read_text())["rows_sha256"] != sha256_of(rows):
        raise DamagedError(
            f"the data in {folder} are damaged and cannot be made again as they were, because the installed packages "
            "have changed since: delete that folder to train anew"
        )
