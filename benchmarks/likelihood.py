"""The likelihood of true continuations, beside a plain loop of forward passes."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from transformers import PreTrainedModel

import lmmem
from benchmarks import scan
from benchmarks.measure import Row, side_by_side
from lmmem.inference.scoring import cross_entropy, score_tokens
from lmmem.storage.files import cache_folder

AT_ONCE = 25  # sequences that the plain loop gives a model at a time


def plain(model: PreTrainedModel, prompts: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """What a user would write: the cross-entropy (n,) of passes that give logits only where they are asked."""
    rows, found = torch.from_numpy(np.concatenate([prompts, truth], axis=1).astype(np.int64)), []
    with torch.inference_mode():
        for some in rows.split(AT_ONCE):
            logits, true = model(some[:, :-1], logits_to_keep=truth.shape[1]).logits, some[:, prompts.shape[1] :]
            losses = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), true.flatten(), reduction="none")
            found.append(losses.view(true.shape).mean(dim=1))
    return torch.cat(found).numpy()


def likelihood_rows(name: str, passages: int, windows: int, runs: int = 1) -> list[Row]:
    """Passages of an organism at all of its checkpoints, and windows through a real model if one is installed."""
    study = lmmem.Study(name, dtype="float32")
    chosen = study.sequences().iloc[:passages]
    prompts, truth = lmmem.split(study.corpus[chosen["index"]])

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "organisms").symlink_to(cache_folder() / "organisms")  # and nothing that has been measured
            with mock.patch.dict(os.environ, LMMEM_CACHE=folder):
                study.likelihood(chosen, steps=study.steps)

    def theirs() -> None:
        for step in study.steps:
            plain(lmmem.load_model(name, step, "float32"), prompts, truth)

    what = f"likelihood of {len(chosen)} passages at {len(study.steps)} checkpoints, {name}, float32"
    loop = f"a loop of passes, {AT_ONCE} at a time, for the loss alone"
    found = [side_by_side(what, ours, loop, theirs, runs=runs)]
    file = scan.real_model()
    for dtype in ("float32", "bfloat16") if file else ():
        model, rows = lmmem.load_model(str(file), dtype=dtype), scan.licences(file, windows)
        ways: dict[str, Callable[..., object]] = {"cross_entropy": cross_entropy, "score_tokens": score_tokens}
        for way, score in ways.items():
            work, other = (functools.partial(one, model, *lmmem.split(rows)) for one in (score, plain))
            found.append(side_by_side(f"{way}, {windows} windows of SmolLM2, {dtype}", work, loop, other, runs=runs))
    return found
