"""Real text that every installation already has: the source files of its Python packages.

Code, English docstrings and licence headers, with natural duplicates from one to thousands.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lmmem.pocket.recipe import Recipe

__all__ = ["END_OF_TEXT", "Document", "documents", "rows_of", "text_hash", "train_tokenizer"]

END_OF_TEXT = "<|endoftext|>"  # token 0, between documents, as in Pythia
LARGEST_FILE = 200_000  # bytes; above lie generated tables


class Document(NamedTuple):
    """One source file: its path inside the environment, and its text."""

    path: str
    text: str


def documents(recipe: Recipe) -> tuple[list[Document], list[Document]]:
    """The documents to train on and the held-out ones, in an order that the text's seed determines.

    Raises
    ------
    ModuleNotFoundError : a package is not installed.
    ValueError : the packages hold less text than the recipe asks for.
    """
    files = sorted(file for package in recipe.packages for file in _source_files(package))
    np.random.default_rng([recipe.text_seed, 0]).shuffle(files)
    budgets = [recipe.training_bytes, recipe.held_out_bytes]
    parts: list[list[Document]] = [[], []]
    part = 0
    for path, file in files:
        text = file.read_text(encoding="utf-8")
        parts[part].append(Document(path, text))
        budgets[part] -= len(text.encode())
        if budgets[part] <= 0:
            part += 1
        if part == len(parts):
            return parts[0], parts[1]
    raise ValueError(
        f"the source files of {', '.join(recipe.packages)} are too short for this recipe by {sum(budgets)} bytes"
    )


def _source_files(package: str) -> list[tuple[str, Path]]:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the training text needs the package {package!r}: pip install {package}")
    root = Path(spec.origin).parent
    return [
        (f"{package}/{file.relative_to(root).as_posix()}", file)
        for file in root.rglob("*.py")
        if 0 < file.stat().st_size <= LARGEST_FILE
    ]


def text_hash(docs: list[Document]) -> str:
    """SHA-256 over paths and texts: two installations with one hash train on the same text."""
    digest = hashlib.sha256()
    for doc in docs:
        for part in doc:
            data = part.encode()
            digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def package_versions(recipe: Recipe) -> dict[str, str]:
    """The installed version of each package whose files are the text."""
    return {package: importlib.metadata.version(package) for package in recipe.packages}


def train_tokenizer(docs: list[Document], vocabulary: int) -> Tokenizer:
    """A byte-level BPE; END_OF_TEXT is token 0. The same texts give the same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((doc.text for doc in docs), trainer)
    return tokenizer


def rows_of(docs: list[Document], tokenizer: Tokenizer, width: int) -> tuple[np.ndarray, np.ndarray]:
    """All documents, each followed by END_OF_TEXT, packed into rows.

    Returns
    -------
    rows : (n, width) uint16. files : (n,) int64, which document each row begins in.
    """
    end = tokenizer.token_to_id(END_OF_TEXT)
    encodings = [np.array([*found.ids, end]) for found in tokenizer.encode_batch([doc.text for doc in docs])]
    stream = np.concatenate(encodings)
    n = len(stream) // width
    ends = np.cumsum([len(encoding) for encoding in encodings])
    files = np.searchsorted(ends, np.arange(n) * width, side="right")
    return stream[: n * width].reshape(n, width).astype(np.uint16), files
