"""Greedy and sampled decoding, and a perturbation sweep, beside `generate` and the processor's limit."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from unittest import mock

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, PreTrainedConfig, PreTrainedModel

import lmmem
from benchmarks.measure import Row, in_own_process, seconds, side_by_side
from lmmem.inference import decoding
from lmmem.inference.decoding import greedy, sample
from lmmem.inference.perturbation import perturbed
from lmmem.inference.products import fast_products
from lmmem.measures.distance import levenshtein

PROMPT, LENGTH = 32, 64
SIGMA = 1e-2  # costs the same whatever it is
# Layers, width, heads, width within, vocabulary: pocket's recipe, and the cards of the others.
SHAPES: dict[str, tuple[type[PreTrainedConfig], int, int, int, int, int]] = {
    "pocket": (GPTNeoXConfig, 4, 192, 6, 768, 2_048),
    "Pythia-70m": (GPTNeoXConfig, 6, 512, 8, 2_048, 50_304),
    "Pythia-160m": (GPTNeoXConfig, 12, 768, 12, 3_072, 50_304),
    "Pythia-1B": (GPTNeoXConfig, 16, 2_048, 8, 8_192, 50_304),
    "Amber-7B": (LlamaConfig, 32, 4_096, 32, 11_008, 32_000),
    "a small GPT-NeoX": (GPTNeoXConfig, 2, 32, 2, 128, 512),
    "a small Llama": (LlamaConfig, 2, 32, 2, 96, 512),
}


def model_of_shape(name: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> PreTrainedModel:
    """A model of this shape with random weights: decoding costs the same whatever the weights are."""
    config, layers, width, heads, within, vocabulary = SHAPES[name]
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            config(
                vocab_size=vocabulary,
                hidden_size=width,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                intermediate_size=within,
                max_position_embeddings=2_048,
            ),
            dtype=dtype,
        )
    return model.eval()


def prompts_for(model: PreTrainedModel, n: int) -> np.ndarray:
    """Random prompts (n, 32)."""
    return np.random.default_rng(0).integers(1, model.config.vocab_size, (n, PROMPT))


def sequences_for(model: PreTrainedModel, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Random sequences, split into prompts (n, 32) and continuations (n, 64)."""
    return lmmem.split(np.random.default_rng(1).integers(1, model.config.vocab_size, (n, PROMPT + LENGTH)))


def generate(model: PreTrainedModel, prompts: np.ndarray, **options: object) -> np.ndarray:
    """What a user would write."""
    tokens = torch.as_tensor(prompts, device=model.device)
    options = {"do_sample": False, "max_new_tokens": LENGTH, "min_new_tokens": LENGTH, "pad_token_id": 0} | options
    return model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)[:, PROMPT:].cpu().numpy()


def limit(model: PreTrainedModel, n: int, *, fastest: bool = False, reading: bool = False) -> Callable[[], None]:
    """The matrix products of decoding n prompts, and nothing else: what the machine needs at least.

    As ``torch.nn.functional.linear`` does them, or by the fastest that the processor has. With
    `reading`, all keys and values are read once at every token too, as no attention can avoid.
    """
    config = model.config
    head = model.get_output_embeddings()
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head]
    inputs = {
        (rows, width): torch.randn(rows, width, dtype=model.dtype, device=model.device)
        for rows in (n * PROMPT, n)
        for width in {layer.in_features for layer in [*layers, head]}
    }
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    per_token = 2 * n * heads * config.hidden_size // config.num_attention_heads  # of one layer
    held = torch.zeros(per_token * (PROMPT + LENGTH) if reading else 0, dtype=model.dtype, device=model.device)

    @torch.inference_mode()
    def products() -> None:
        with fast_products(model, n) if fastest else nullcontext():
            for position in range(LENGTH):
                rows = n * PROMPT if position == 0 else n
                for layer in layers:
                    layer(inputs[rows, layer.in_features])
                head(inputs[n, head.in_features])
                if reading:
                    for _ in range(config.num_hidden_layers):
                        held[: per_token * (PROMPT + position)].sum()

    return products


def greedy_rows(name: str, model: PreTrainedModel, n: int, runs: int, *, published: bool = False) -> list[Row]:
    """Greedy decoding of n prompts beside `generate`, and beside the least that the machine needs."""
    prompts = prompts_for(model, n)

    def beside(other: str, work: Callable[[], object], runs: int = runs, note: str = "") -> Row:
        return side_by_side(name, lambda: greedy(model, prompts), other, work, runs=runs, note=note)

    rows = [beside("generate with its cache", lambda: generate(model, prompts))]
    if published:
        other = "generate without cache, as published"
        rows.append(beside(other, lambda: generate(model, prompts, use_cache=False), min(runs, 3)))
    kinds = {
        "matrix products alone, torch's": {},
        "matrix products alone, the fastest": {"fastest": True},
        "matrix products, the fastest, and reading keys and values": {"fastest": True, "reading": True},
    }
    note = "the ratio is the share of the limit's rate"
    return rows + [
        beside(f"the limit: {kind}", limit(model, n, **options), note=note) for kind, options in kinds.items()
    ]


def decoding_rows(runs: int = 5) -> list[Row]:
    """Greedy decoding on shapes for a processor."""
    model = model_of_shape("pocket")
    rows = greedy_rows("greedy, pocket, 192 prompts, float32", model, 192, runs, published=True)
    half, prompts = model_of_shape("pocket", torch.bfloat16), prompts_for(model, 192)
    rows.append(
        side_by_side(
            "greedy, pocket, 192 prompts, bfloat16",
            lambda: greedy(half, prompts),
            "generate with its cache in float32",
            lambda: generate(model, prompts),
            runs=runs,
        )
    )
    for size in ("Pythia-70m", "Pythia-160m"):
        rows += greedy_rows(f"greedy, {size} shape, 32 prompts, float32", model_of_shape(size), 32, min(runs, 3))
    return rows


def half_precision(name: str, n: int) -> dict[str, object]:
    """What bfloat16 changes in the greedy continuations of a trained model, on its canaries."""
    corpus = lmmem.training_data(name)
    index = corpus.canaries.sample(min(n, len(corpus.canaries)), random_state=0)["index"]
    prompts, truth = lmmem.split(corpus[index])
    said = [greedy(lmmem.load_model(name, dtype=dtype), prompts) for dtype in ("float32", "bfloat16")]
    full, half = (levenshtein(tokens, truth) for tokens in said)
    return {
        "model": name,
        "sequences": len(index),
        "same_tokens": float((said[0] == said[1]).mean()),
        "same_continuations": float((said[0] == said[1]).all(axis=1).mean()),
        "same_kl_ld": float((full == half).mean()),
        "mean_kl_ld": [float(full.mean()), float(half.mean())],
    }


def sampling_row(name: str, model: PreTrainedModel, n: int, samples: int, runs: int) -> Row:
    """Many continuations of a few prompts."""
    prompts = prompts_for(model, n)
    options = {"do_sample": True, "temperature": 0.8, "top_k": 0, "num_return_sequences": samples}
    return side_by_side(
        name,
        lambda: sample(model, prompts, 0.8, samples, seed=0),
        "generate with num_return_sequences",
        lambda: generate(model, prompts, **options),
        runs=runs,
    )


def sampling_rows(runs: int = 5) -> list[Row]:
    """Two hundred continuations of a few prompts, on a processor."""
    model = model_of_shape("pocket")
    return [sampling_row("200 samples of each of 2 prompts, pocket, float32", model, 2, 200, runs)]


def in_transformers_cache(work: Callable[[], object]) -> object:
    """Decoding with the same matrix products, but keys and values where transformers keeps them."""
    with mock.patch.object(decoding, "attention_for_decoding", lambda model: nullcontext(False)):
        return work()


def cache_rows(runs: int = 5) -> list[Row]:
    """What keys and values in pieces are worth, all else alike: why `lmmem/inference/attention.py` is there."""
    pocket, larger = model_of_shape("pocket"), model_of_shape("Pythia-160m")
    ways: dict[str, Callable[[], object]] = {
        "greedy, pocket, 192 prompts, float32": lambda: greedy(pocket, prompts_for(pocket, 192)),
        "200 samples of each of 2 prompts, pocket, float32": lambda: sample(
            pocket, prompts_for(pocket, 2), 0.8, 200, seed=0
        ),
        "greedy, Pythia-160m shape, 32 prompts, float32": lambda: greedy(larger, prompts_for(larger, 32)),
        "200 samples of a prompt, Pythia-160m shape, float32": lambda: sample(
            larger, prompts_for(larger, 1), 0.8, 200, seed=0
        ),
    }
    return [
        side_by_side(
            name, work, "the same in transformers' own cache", functools.partial(in_transformers_cache, work), runs=runs
        )
        for name, work in ways.items()
    ]


def sweep_rows(n: int, draws: int, runs: int = 5) -> list[Row]:
    """Perturbed sequences, on a processor."""
    model = model_of_shape("pocket")
    return [
        sweep_row(f"{draws} draws on {n} sequences, pocket", model, n, draws),
        *share_rows(f"a draw on {n} sequences, pocket", model, n, draws, runs),
    ]


def sweep(model: PreTrainedModel, n: int, draws: int) -> None:
    """The distances of n random sequences under each of many draws."""
    prompts, truth = sequences_for(model, n)
    for draw in range(draws):
        with perturbed(model, SIGMA, 0, draw):
            levenshtein(greedy(model, prompts), truth)


def sweep_row(name: str, model: PreTrainedModel, n: int, draws: int) -> Row:
    """A perturbation sweep beside load, copy, generate; timed once, for that takes long."""
    prompts, truth = sequences_for(model, n)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)

        def published() -> None:
            for draw in range(draws):
                fresh = AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype).to(model.device)
                torch.manual_seed(draw)
                with torch.no_grad():
                    for parameter in fresh.parameters():
                        parameter.add_(torch.randn_like(parameter), alpha=SIGMA)
                for prompt, true in zip(prompts, truth, strict=True):
                    levenshtein(generate(fresh, prompt[None], use_cache=False), true[None])

        sweep(model, n, draws)
        once = [seconds(lambda: sweep(model, n, draws))], [seconds(published)]
    return Row(name, "load, perturb, generate one by one, as published", *once)


def share_rows(name: str, model: PreTrainedModel, n: int, draws: int, runs: int) -> list[Row]:
    """What noise, and what distances, cost in a sweep."""
    prompts, truth = sequences_for(model, n)
    said = greedy(model, prompts)

    def noise() -> None:
        for draw in range(draws):
            with perturbed(model, SIGMA, 0, draw):
                pass

    def distances() -> None:
        for _ in range(draws):
            levenshtein(said, truth)

    note = "the ratio is the share of a draw"
    return [
        side_by_side(name, lambda: sweep(model, n, draws), f"{what} alone", work, runs=runs, note=note)
        for what, work in (("noise and restoration", noise), ("distances", distances))
    ]


GROWTH = """
import json, sys
from benchmarks import decoding
from benchmarks.measure import peak_mb, seconds
n, draws = map(int, sys.argv[1:])
model = decoding.model_of_shape("pocket")
decoding.sweep(model, n, 1)
with peak_mb() as peak:
    took = seconds(lambda: decoding.sweep(model, n, draws))
print(json.dumps({"seconds": took, "peak_mb": round(peak[0])}))
"""


def growth(step: int = 4) -> list[dict[str, object]]:
    """Seconds and peak memory at 1, 2, 4 and 8 times the draws, and the sequences; each in a process of its own."""
    found = []
    for what in ("draws", "sequences"):
        for times in (1, 2, 4, 8):
            sizes = (32, step * times) if what == "draws" else (32 * times, step)
            found.append({"what": what, "times": times} | in_own_process(GROWTH, *sizes))
    return found
