"""Measure what a language model remembers of its training data, and what can be brought back.

>>> import lmmem
>>> lmmem.z_complexity("to be or not to be") > 0.5
True
"""

from __future__ import annotations

import importlib
from typing import Any

# Where each public name lives. Loaded on first use, so that `import lmmem` costs nothing.
_HOME = {
    "Corpus": "corpora",
    "MODELS": "models",
    "count_repeats": "repeats",
    "cross_entropy": "scoring",
    "greedy": "decoding",
    "kl_ld": "experiments",
    "levenshtein": "distance",
    "load_model": "models",
    "load_tokenizer": "models",
    "matched_prefix": "distance",
    "perturbed": "perturbation",
    "sample": "decoding",
    "split": "protocol",
    "training_data": "corpora",
    "z_complexity": "complexity",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lmmem' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"lmmem.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
