"""Every class that ``AutoModelForCausalLM`` knows, small and with random weights, and how lmmem measures it.

``python -m tests.every_class`` writes what is found into results/classes.json, which the book tells and the
tests hold it to.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

from lmmem.inference.decoding import greedy
from lmmem.inference.reading import way_of

FOUND = Path(__file__).parents[1] / "results" / "classes.json"
VOCABULARY, ROWS, PROMPT, AFTER = 128, 3, 12, 8
NOISE = 0.1  # on the weights of a new model, so that what it says depends on what it has read

SMALL = {  # settings whose names end so, and the largest that they become
    r"vocab_size|vocab_size_per_layer_input|n_tokens": VOCABULARY,
    r"key_value_heads|kv_heads": 2,
    r"n_heads?|num_heads|attention_heads": 4,
    r"head_dim|lora_rank": 16,
    r"hidden_size|d_model|n_embd|embed_dim|word_embed_proj_dim|embedding_size|emb_dim|dim_model|lru_width": 64,
    r"moe_intermediate_size|shared_expert_intermediate_size|expert_ffn_hidden_size": 32,
    r"intermediate_size|ffn_dim|n_inner|dim_ff|d_ff|dff|ffn_hidden_size|block_ff_dim": 96,
    r"num_experts|local_experts|routed_experts|zero_expert_num": 4,
    r"experts_per_tok|experts_per_token|moe_topk|moe_top_k|moe_k|top_k_experts": 2,
    r"hidden_layers|n_layers?|num_layers|encoder_layers|decoder_layers|num_blocks|depth": 4,
    r"n_group|topk_group|num_expert_group": 1,
}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16}
BESIDE: dict[str, dict[str, Any]] = {  # what a class needs beside, or instead
    "bailing_hybrid": {"num_hidden_layers": 8},
    "bamba": MAMBA | {"attn_layer_indices": [1, 3]},
    "codegen": {"rotary_dim": 8},
    "deepseek_v2": {"n_routed_experts": 4, "num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "falcon_h1": MAMBA | {"mamba_d_ssm": 128},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": MAMBA | {"layer_types": ["mamba", "attention"] * 2},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "jamba": {"num_hidden_layers": 8},
    "longcat_flash": {"head_dim": 16, "qk_head_dim": 32},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "ministral": {"head_dim": 16},
    "nemotron": {"head_dim": 16, "num_key_value_heads": 4},
    "nemotron_h": {
        **{"layers_block_type": ["mamba", "attention"] * 2, "n_groups": 2},
        **{"mamba_num_heads": 8, "mamba_head_dim": 16},
    },
    "reformer": {"is_decoder": True, "axial_pos_embds": False, "hash_seed": 0},
    "xmod": {"default_language": "en_XX"},
}


def small_model(kind: str, **beside: Any) -> PreTrainedModel:
    """A model of a class with random weights: its default configuration, made small.

    Raises whatever the class raises, if it cannot be made so.
    """
    configuration = CONFIG_MAPPING[kind]
    settings = _small(configuration()) | BESIDE.get(kind, {}) | beside
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(configuration(**settings)).eval()
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:
                weights.add_(NOISE * torch.randn(weights.shape))
    plain(model, prompts()[:1])
    return model


def prompts() -> torch.Tensor:
    """Token ids that no class reads anything special into, (ROWS, PROMPT)."""
    return torch.from_numpy(np.random.default_rng(0).integers(5, 100, (ROWS, PROMPT)))


@torch.no_grad()
def plain(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    """The logits of a plain forward pass without a cache."""
    try:
        return model(tokens, use_cache=False).logits.float()
    except TypeError:  # it knows no cache
        return model(tokens).logits.float()


def outcome(kind: str) -> dict[str, str]:
    """Whether a class is "measured", "refused" or "not built", and how or why."""
    try:
        model = small_model(kind)
    except Exception as error:
        return {"is": "not built", "why": f"{type(error).__name__}: {_line(error)}"}
    try:
        way = way_of(model, prompts())
    except ValueError as error:
        return {"is": "refused", "why": str(error).partition(" ")[2].partition(";")[0]}
    greedy(model, prompts(), 2)
    if not way.caches:
        return {"is": "measured", "how": "by reading everything again for each token"}
    return {"is": "measured", "how": "by its cache" if way.branches else "by its cache, each sample apart"}


def _small(configuration: PreTrainedConfig) -> dict[str, Any]:
    """Those of its settings that are to be smaller."""
    changed: dict[str, Any] = {}
    for name, value in vars(configuration).items():
        if isinstance(value, PreTrainedConfig):
            changed[name] = _small(value)
        elif name.endswith(("_token_id", "_token_index")) and isinstance(value, int) and value >= VOCABULARY:
            changed[name] = 1 + len(name) % 3
        elif name == "eos_token_id" and isinstance(value, list):
            changed[name] = 2
        elif type(value) is int and not name.startswith("_"):
            most = next((most for ends, most in SMALL.items() if re.search(rf"(^|_)({ends})$", name)), value)
            if most == 2 and value == getattr(configuration, "num_attention_heads", None):
                most = 4  # as many as there are heads
            if most < value:
                changed[name] = most
    return changed


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def write() -> None:
    """What is found of all classes, and in which version of transformers."""
    transformers.logging.set_verbosity_error()
    classes = {kind: {"class": CLASSES[kind]} | outcome(kind) for kind in sorted(CLASSES)}
    FOUND.write_text(json.dumps({"transformers": transformers.__version__, "classes": classes}, indent=1) + "\n")


if __name__ == "__main__":
    write()
