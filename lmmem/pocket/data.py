"""An organism's data on disk, made on first use: rows in training order, canaries, tokenizer, manifest.

Training reads them, and whoever asks for an organism's corpus.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from lmmem.pocket import design, text
from lmmem.pocket.recipe import RECIPES, REFERENCE_TEXT
from lmmem.storage.files import DamagedError, cache_folder, check_folder, folder_being_written, sha256_of
from lmmem.storage.provenance import environment

TERMS = "training.json"  # precision, threads and data of the training, written when it begins

__all__ = ["data_folder", "lock", "organism_folder"]


def organism_folder(name: str) -> Path:
    """Where everything of an organism lives: named by its recipe, so that recipes never mix."""
    return cache_folder() / "organisms" / f"{name}-{RECIPES[name].key}"


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
            _prepare(name, data)
    return data


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


def _prepare(name: str, data: Path) -> None:
    recipe = RECIPES[name]
    documents, held_out = text.documents(recipe)
    tokenizer = text.train_tokenizer(documents, recipe.vocabulary)
    natural = text.rows_of(documents, tokenizer, recipe.row_tokens)
    pool = text.rows_of(held_out, tokenizer, recipe.row_tokens)
    canaries, canary_rows = design.choose_canaries(pool, natural, tokenizer, recipe)
    rows, presented = design.arrange(canaries, canary_rows, natural, recipe)
    text_sha256 = text.text_hash(documents + held_out)
    if text_sha256 != REFERENCE_TEXT[name]:
        print(
            f"lmmem: the text of {name} is not the reference one, as {text.package_versions(recipe)} are installed: "
            "numbers will differ in detail",
            file=sys.stderr,
        )
    manifest = {
        "recipe": dataclasses.asdict(recipe),
        "text_sha256": text_sha256,
        "text_is_reference": text_sha256 == REFERENCE_TEXT[name],
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


def _refuse_other_rows(folder: Path, rows: Path) -> None:
    """Data that are made again must be those that the organism's checkpoints were trained on."""
    if (folder / TERMS).exists() and json.loads((folder / TERMS).read_text())["rows_sha256"] != sha256_of(rows):
        raise DamagedError(
            f"the data in {folder} are damaged and cannot be made again as they were, because the installed packages "
            "have changed since: delete that folder to train anew"
        )
