"""Greedy and sampled decoding, and a perturbation sweep, beside `generate` and the processor's limit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel

import lmmem
from benchmarks.measure import Row, peak_mb, seconds, side_by_side
from lmmem.decoding import greedy, sample
from lmmem.distance import levenshtein
from lmmem.perturbation import perturbed

PROMPT, LENGTH = 32, 64
# Layers, width, heads, vocabulary: pocket's recipe, and the cards of each Pythia model.
SHAPES = {
    "pocket": (4, 192, 6, 2_048),
    "Pythia-70m": (6, 512, 8, 50_304),
    "Pythia-160m": (12, 768, 12, 50_304),
    "Pythia-1B": (16, 2_048, 8, 50_304),
}


def model_of_shape(name: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> PreTrainedModel:
    """A model of this shape with random weights: decoding costs the same whatever the weights are."""
    layers, width, heads, vocabulary = SHAPES[name]
    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=2_048,
    )
    torch.manual_seed(0)
    with torch.device(device):
        return GPTNeoXForCausalLM(config).to(dtype).eval()


def prompts_for(model: PreTrainedModel, n: int) -> np.ndarray:
    """Random prompts (n, 32)."""
    return np.random.default_rng(0).integers(1, model.config.vocab_size, (n, PROMPT))


def generate(model: PreTrainedModel, prompts: np.ndarray, **options: object) -> torch.Tensor:
    """What a user would write."""
    tokens = torch.as_tensor(prompts, device=model.device)
    options = {"do_sample": False, "max_new_tokens": LENGTH, "min_new_tokens": LENGTH, "pad_token_id": 0} | options
    return model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)[:, PROMPT:]


def limit(model: PreTrainedModel, n: int) -> Callable[[], None]:
    """The matrix products of decoding n prompts, and nothing else: what the machine needs at least."""
    config, dtype, device = model.config, model.dtype, model.device
    width = config.hidden_size
    shapes = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
    weights = [
        [torch.randn(shape, dtype=dtype, device=device) for shape in shapes] for _ in range(config.num_hidden_layers)
    ]
    head = torch.randn(config.vocab_size, width, dtype=dtype, device=device)
    inputs = {
        (count, wide): torch.randn(count, wide, dtype=dtype, device=device)
        for count in (n * PROMPT, n)
        for wide in (width, 4 * width)
    }

    @torch.inference_mode()
    def products() -> None:
        for position in range(LENGTH):
            rows = n * PROMPT if position == 0 else n
            for layer in weights:
                for weight in layer:
                    functional.linear(inputs[rows, weight.shape[1]], weight)
            functional.linear(inputs[n, width], head)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return products


def decoding_rows(runs: int = 5) -> list[Row]:
    """Greedy decoding on CPU shapes."""
    model = model_of_shape("pocket")
    prompts = prompts_for(model, 192)
    rows = [
        side_by_side(
            "greedy, pocket, 192 prompts, float32",
            lambda: greedy(model, prompts),
            "generate with its cache",
            lambda: generate(model, prompts),
            runs=runs,
        ),
        side_by_side(
            "greedy, pocket, 192 prompts, float32",
            lambda: greedy(model, prompts),
            "generate without cache, as published",
            lambda: generate(model, prompts, use_cache=False),
            runs=min(runs, 3),
        ),
        side_by_side(
            "greedy, pocket, 192 prompts, float32",
            lambda: greedy(model, prompts),
            "its matrix products alone (the limit)",
            limit(model, 192),
            runs=runs,
            note="a ratio of 1 is the limit",
        ),
    ]
    half = model_of_shape("pocket", torch.bfloat16)
    same = (greedy(half, prompts) == greedy(model, prompts)).mean()
    rows.append(
        side_by_side(
            "greedy, pocket, 192 prompts, bfloat16",
            lambda: greedy(half, prompts),
            "generate with its cache in float32",
            lambda: generate(model, prompts),
            runs=runs,
            note=f"{same:.0%} of the tokens of an untrained model are those of float32",
        )
    )
    for size in ("Pythia-70m", "Pythia-160m"):
        large = model_of_shape(size)
        few = prompts_for(large, 32)
        rows.append(
            side_by_side(
                f"greedy, {size} shape, 32 prompts, float32",
                lambda: greedy(large, few),  # noqa: B023 - called at once
                "generate with its cache",
                lambda: generate(large, few),  # noqa: B023
                runs=min(runs, 3),
            )
        )
    return rows


def sampling_rows(runs: int = 5) -> list[Row]:
    """Two hundred continuations of a few prompts."""
    model = model_of_shape("pocket")
    prompts = prompts_for(model, 2)
    return [
        side_by_side(
            "200 samples of each of 2 prompts, pocket, float32",
            lambda: sample(model, prompts, 0.8, 200, seed=0),
            "generate(num_return_sequences=200)",
            lambda: generate(model, prompts, do_sample=True, temperature=0.8, top_k=0, num_return_sequences=200),
            runs=runs,
        )
    ]


def sweep_rows(draws: int = 5, n: int = 48) -> list[Row]:
    """A perturbation sweep beside load, copy, generate; and what noise costs."""
    model = model_of_shape("pocket")
    tokens = np.random.default_rng(1).integers(1, model.config.vocab_size, (n, PROMPT + LENGTH))
    prompts, truth = lmmem.split(tokens)

    def ours() -> None:
        for draw in range(draws):
            with perturbed(model, 1e-2, 0, draw):
                levenshtein(greedy(model, prompts), truth)

    def noise() -> None:
        for draw in range(draws):
            with perturbed(model, 1e-2, 0, draw):
                pass

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)

        def published() -> None:
            for draw in range(draws):
                fresh = GPTNeoXForCausalLM.from_pretrained(folder)
                torch.manual_seed(draw)
                with torch.no_grad():
                    for parameter in fresh.parameters():
                        parameter.add_(torch.randn_like(parameter), alpha=1e-2)
                for prompt, true in zip(prompts, truth, strict=True):
                    levenshtein(generate(fresh, prompt[None], use_cache=False).numpy(), true[None])

        sweep = Row(
            f"{draws} draws on {n} sequences, pocket", "load, perturb, generate one by one, as published", [], []
        )
        sweep.ours_s.append(seconds(ours))
        sweep.other_s.append(seconds(published))
    share = side_by_side(
        "noise and restoration alone, as a share of a draw",
        ours,
        "noise and restoration",
        noise,
        note="the ratio is the share of a draw that noise takes",
    )
    return [sweep, share]


def growth(step: int = 4) -> list[dict[str, float]]:
    """Seconds and peak memory at 1, 2, 4 and 8 times the draws, and the sequences."""
    model = model_of_shape("pocket")
    found = []
    for what in ("draws", "sequences"):
        for times in (1, 2, 4, 8):
            draws, n = (step * times, 32) if what == "draws" else (step, 32 * times)
            prompts, truth = lmmem.split(np.random.default_rng(0).integers(1, 2_048, (n, PROMPT + LENGTH)))

            def sweep(draws: int = draws, prompts: np.ndarray = prompts, truth: np.ndarray = truth) -> None:
                for draw in range(draws):
                    with perturbed(model, 1e-2, 0, draw):
                        levenshtein(greedy(model, prompts), truth)

            sweep(1)
            with peak_mb() as peak:
                took = seconds(sweep)
            found.append({"what": what, "times": times, "seconds": took, "peak_mb": round(peak[0])})
    return found
