"""Measure what a language model remembers of its training data, and what can be brought back.

A :class:`Study` asks a model about sequences, as tidy tables that are kept; what it is made of can be used apart.

>>> import lmmem
>>> study = lmmem.Study("pocket-mini")
>>> sequences = study.sequences(n=2, arms={"spread": [0, 16]})
>>> study.greedy(sequences).kl_ld.between(0, 64).all()
np.True_
"""

from __future__ import annotations

import importlib
import importlib.metadata
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
    if name == "__version__":
        return importlib.metadata.version("lmmem")
    if name not in _HOME:
        raise AttributeError(f"module 'lmmem' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"lmmem.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
