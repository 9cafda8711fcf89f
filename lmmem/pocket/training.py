"""Train a network by a recipe, so that stopping it at any moment loses minutes and changes nothing.

Knows rows and checkpoints: no names of organisms, no text, no canaries.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch.overrides import TorchFunctionMode
from tqdm import tqdm
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from lmmem.inference.teaching import native_precision
from lmmem.pocket.recipe import LARGE, Derived, Recipe
from lmmem.storage.files import DamagedError, check_folder, folder_being_written, write_whole
from lmmem.storage.provenance import environment

__all__ = [
    "LOG",
    "TERMS",
    "THREADS",
    "fit",
    "folder_name",
    "on_threads",
    "save_checkpoint",
    "whole_checkpoints",
    "write_terms",
]

TERMS = "training.json"  # device, precision, threads and data of the training, written when it begins
LOG = "training_log.parquet"
# Sums over more threads round otherwise, and training makes much of it: by the end another organism. So their number
# is the same on every machine. It is one: two take 0.6 of the time alone, and crawl beside any other process.
THREADS = 1
Terms = dict[str, Any]
STATE = "training_state.pt"  # optimizer moments and losses, beside the newest checkpoints
STATES_KEPT = 2  # so that a damaged newest checkpoint costs one interval, not the whole run


def whole_checkpoints(folder: Path, recipe: Recipe | Derived) -> list[int]:
    """The steps whose checkpoints are in an organism's folder, undamaged; those that are damaged are told of."""
    return [step for step in recipe.checkpoints if _is_whole(folder / folder_name(step))]


def fit(
    name: str,
    recipe: Recipe,
    rows: np.ndarray,
    rows_sha256: str,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    whole: list[int],
) -> None:
    """Train on rows from the newest checkpoint that is whole, and leave torch's random state as it was.

    Parameters
    ----------
    name : what to call it.
    recipe : network, schedule and checkpoints.
    rows : (n, w) token ids in training order; rows_sha256 : of their file.
    tokenizer : saved with each checkpoint.
    folder : where checkpoints, terms, states and the log are.
    whole : as :func:`whole_checkpoints` gives them.

    Raises
    ------
    RuntimeError : its training began on a GPU, and there is none.
    """
    terms = _settled(folder, rows_sha256, recipe)
    if terms["device"] == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            f"the training of {name} began on a GPU, and torch sees none: go on there, or delete {folder}"
        )
    with torch.random.fork_rng(devices=[]), on_threads(terms["threads"]):
        _fit(name, recipe, rows, terms, tokenizer, folder, whole)


def _fit(
    name: str,
    recipe: Recipe,
    rows: np.ndarray,
    terms: Terms,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    whole: list[int],
) -> None:
    torch.manual_seed(recipe.seed)
    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=recipe.vocabulary,
            hidden_size=recipe.width,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            intermediate_size=4 * recipe.width,
            max_position_embeddings=recipe.row_tokens,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    model.set_attn_implementation("eager")  # on short rows its gradient takes a third of the time of the fused one's
    device = torch.device(terms["device"])
    model.to(device)  # type: ignore[arg-type]
    muon, adamw = _optimizers(model, recipe)
    losses: list[tuple[float, float]] = []  # nats per token, seconds since the run began
    begin = _resume(folder, recipe, whole, model, muon, adamw, losses)
    if begin is None:
        begin = 0
        _save(folder, recipe, 0, model, tokenizer, muon, adamw, losses)
    before = losses[-1][1] if losses else 0.0
    autocast = terms["precision"] == "bfloat16"

    where = "a GPU" if device.type == "cuda" else f"{terms['threads']} of the processor's threads"
    print(
        f"lmmem: training {name} in {terms['precision']} on {where}, "
        f"step {begin} of {recipe.steps}; checkpoints in {folder}",
        file=sys.stderr,
    )
    clock = time.monotonic()
    model.train()
    with tqdm(total=recipe.steps, initial=begin, desc=name, unit="step", mininterval=0.5) as bar:
        for step in range(begin, recipe.steps):
            batch = np.asarray(rows[step * recipe.rows_per_step : (step + 1) * recipe.rows_per_step])
            tokens = torch.from_numpy(batch.astype(np.int64)).to(device)  # (rows_per_step, row_tokens)
            for optimizer, peak in ((muon, recipe.muon_lr), (adamw, recipe.adamw_lr)):
                optimizer.param_groups[0]["lr"] = peak * _schedule(step, recipe)
                optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
                logits = model(tokens[:, :-1]).logits
            loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
            loss.backward()
            with nullcontext() if autocast else _Muon32():
                muon.step()
            adamw.step()
            losses.append((loss.item(), before + time.monotonic() - clock))
            bar.set_postfix(loss=f"{losses[-1][0]:.2f}", refresh=False)
            bar.update()
            if step + 1 in recipe.checkpoints:
                _save(folder, recipe, step + 1, model, tokenizer, muon, adamw, losses)
    log = pd.DataFrame(losses, columns=["loss", "seconds"])
    log.insert(0, "step", np.arange(1, recipe.steps + 1))
    with write_whole(folder / LOG) as part:
        log.to_parquet(part, index=False)


def _settled(folder: Path, rows_sha256: str, recipe: Recipe) -> Terms:
    """What all of an organism's training shares: settled when it first begins, then kept."""
    path = folder / TERMS
    if not path.exists():
        large = recipe.parameters > LARGE and torch.cuda.is_available()
        write_terms(folder, rows_sha256, "cuda" if large else "cpu")
    return {"device": "cpu", **json.loads(path.read_text())}


def write_terms(folder: Path, rows_sha256: str, device: str = "cpu") -> None:
    """Say in an organism's folder on what terms its training begins."""
    terms: Terms = {
        "device": device,
        "precision": native_precision(torch.device(device)),
        "threads": THREADS,
        "rows_sha256": rows_sha256,
        "environment": environment(),
    }
    with write_whole(folder / TERMS) as part:
        part.write_text(json.dumps(terms, indent=1))


@contextmanager
def on_threads(number: int) -> Iterator[None]:
    """Within the block torch computes on so many threads; afterwards as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Muon32(TorchFunctionMode):
    """Within it torch's Muon, which makes matrices orthogonal in bfloat16, does so in float32.

    A processor that has to emulate bfloat16 takes twenty times as long for a step of it.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0].clone() if func is torch.Tensor.bfloat16 else func(*args, **(kwargs or {}))


def _optimizers(model: GPTNeoXForCausalLM, recipe: Recipe) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon on the matrices inside the layers, AdamW on everything else."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    others = [p for name, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in name)]
    return (
        torch.optim.Muon(matrices, lr=recipe.muon_lr, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(others, lr=recipe.adamw_lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.95)),
    )


def _schedule(step: int, recipe: Recipe) -> float:
    """Fraction of the peak learning rate: linear warm-up, then linear decay to `final_lr`."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return 1 - (1 - recipe.final_lr) * done


def _save(
    folder: Path,
    recipe: Recipe,
    step: int,
    model: GPTNeoXForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    muon: torch.optim.Optimizer,
    adamw: torch.optim.Optimizer,
    losses: list[tuple[float, float]],
) -> None:
    save_checkpoint(folder, step, model, tokenizer)
    # The state is written after the weights: a state without its checkpoint cannot exist.
    with folder_being_written(folder / _state_name(step)) as part:
        state: dict[str, Any] = {"muon": muon.state_dict(), "adamw": adamw.state_dict(), "losses": losses}
        torch.save(state, part / STATE)
    newest = [s for s in recipe.checkpoints if s <= step][-STATES_KEPT:]
    for state_folder in folder.glob(_state_name("*")):
        if state_folder.name not in map(_state_name, newest):
            shutil.rmtree(state_folder)


def _resume(
    folder: Path,
    recipe: Recipe,
    whole: list[int],
    model: GPTNeoXForCausalLM,
    muon: torch.optim.Optimizer,
    adamw: torch.optim.Optimizer,
    losses: list[tuple[float, float]],
) -> int | None:
    """Load the newest step before the first gap whose weights and state are whole, and return it."""
    gap = next((s for s in recipe.checkpoints if s not in whole), recipe.steps)
    for step in sorted((s for s in whole if s < gap or s == gap == recipe.steps), reverse=True):
        if not _is_whole(folder / _state_name(step)):
            continue
        saved = GPTNeoXForCausalLM.from_pretrained(folder / folder_name(step), dtype=torch.float32)
        model.load_state_dict(saved.state_dict())
        state = torch.load(folder / _state_name(step) / STATE, map_location=model.device, weights_only=True)
        muon.load_state_dict(state["muon"])
        adamw.load_state_dict(state["adamw"])
        losses.extend(state["losses"])
        return step
    return None


def _is_whole(folder: Path) -> bool:
    try:
        check_folder(folder)
    except DamagedError as damage:
        if folder.exists():
            print(f"lmmem: {damage}; training it again", file=sys.stderr)
        return False
    return True


def save_checkpoint(folder: Path, step: int, model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write weights, configuration and tokenizer into the folder of a step, as transformers reads them."""
    with folder_being_written(folder / folder_name(step)) as part:
        model.config.save_pretrained(part)
        save_file(model.state_dict(), part / "model.safetensors", metadata={"format": "pt"})
        tokenizer.save_pretrained(part)


def folder_name(step: int) -> str:
    """Of the checkpoint of a step."""
    return f"step-{step:06d}"


def _state_name(step: int | str) -> str:
    return f"state-{step:06d}" if isinstance(step, int) else f"state-{step}"
