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
    "Corpus": "corpora.corpus",
    "MODELS": "models.registry",
    "Study": "experiments.study",
    "count_repeats": "measures.repeats",
    "cross_entropy": "inference.scoring",
    "greedy": "inference.decoding",
    "kl_ld": "experiments.measurements",
    "levenshtein": "measures.distance",
    "load_model": "models.loading",
    "load_tokenizer": "models.loading",
    "matched_prefix": "measures.distance",
    "perturbed": "inference.perturbation",
    "sample": "inference.decoding",
    "split": "protocol",
    "training_data": "corpora.corpus",
    "z_complexity": "measures.complexity",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lmmem' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"lmmem.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
