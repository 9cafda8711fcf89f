"""Tiny models and training data under the names of the real ones, as files of a repository."""

from __future__ import annotations

import io
import json
import string
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from lmmem.models.registry import MODELS, ROW_TOKENS
from lmmem.protocol import CONTINUATION, PROMPT
from tests.loopback_hub import LoopbackHub

SHARDS = 21
ASKED = PROMPT + CONTINUATION
FEW = 512  # words of a model that pages run on: what a draw costs is its vocabulary
WINDOW = 20_000  # rows that pages choose among by default


def sizes(vocabulary: int) -> dict[str, int]:
    """Of a model; pages run on those of FEW words, which are as small as can be."""
    layers = {"num_hidden_layers": 1 if vocabulary == FEW else 2, "num_attention_heads": 2}
    width = {"vocab_size": vocabulary, "hidden_size": 16, "intermediate_size": 32}
    return {"max_position_embeddings": 2_048} | width | layers


def pythia(seed: int, vocabulary: int = 50_304) -> GPTNeoXForCausalLM:
    """A GPT-NeoX of Pythia's vocabulary, with random weights."""
    torch.manual_seed(seed)
    return GPTNeoXForCausalLM(GPTNeoXConfig(**sizes(vocabulary)))


def amber(seed: int, vocabulary: int = 32_000) -> LlamaForCausalLM:
    """A Llama of Amber's vocabulary, with random weights."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**sizes(vocabulary)))


def files_of(model: PreTrainedModel, safetensors: bool = True) -> dict[str, bytes]:
    """What its repository holds, with a tokenizer of as many words as the model has."""
    with tempfile.TemporaryDirectory() as folder:
        model.half().save_pretrained(folder)
        if not safetensors:
            (Path(folder) / "model.safetensors").unlink()
            torch.save(model.state_dict(), Path(folder) / "pytorch_model.bin")
        found = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    names = complex_words() if model.config.vocab_size == FEW else [f"w{i}" for i in range(model.config.vocab_size)]
    words = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=names[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return found | {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}).encode(),
    }


def write_gguf(path: Path, model: LlamaForCausalLM, kind: str = "F32", **changed: object) -> Path:
    """A Llama as llama.cpp writes it, its matrices of one type, with a tokenizer of bytes that begins texts with BOS.

    Changed are facts, by their key with __ for a dot, and tensors, by their name likewise; None leaves one out.
    """
    from gguf import GGMLQuantizationType, GGUFWriter, quants
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    config, alphabet = model.config, list(bytes_to_unicode().values())
    tokens = [*alphabet, "th", "the", "<s>", "</s>"]
    assert len(tokens) <= config.vocab_size
    tokens += [f"[unused{i}]" for i in range(config.vocab_size - len(tokens))]
    facts = {
        "llama.context_length": config.max_position_embeddings,
        "llama.block_count": config.num_hidden_layers,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.embedding_length": config.hidden_size,
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "llama.vocab_size": config.vocab_size,
        "general.file_type": {"F32": 0, "Q8_0": 7}[kind],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in ("<s>", "</s>") else 1 for token in tokens],
        "tokenizer.ggml.merges": ["t h", "th e"],
        "tokenizer.ggml.bos_token_id": tokens.index("<s>"),
        "tokenizer.ggml.eos_token_id": tokens.index("</s>"),
        "tokenizer.ggml.add_bos_token": True,
    }
    names = {"model.embed_tokens": "token_embd", "lm_head": "output", "model.norm": "output_norm"}
    parts = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    parts |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
    parts |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    layers = range(config.num_hidden_layers)
    names |= {f"model.layers.{i}.{ours}": f"blk.{i}.{theirs}" for i in layers for ours, theirs in parts.items()}
    tensors = {}
    for name, weight in model.state_dict().items():
        values = weight.float().numpy()
        if "q_proj" in name or "k_proj" in name:  # the two halves of a head, one after another, become pairs
            pairs = values.reshape(-1, 2, config.head_dim // 2, values.shape[1])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        tensors[names[name.removesuffix(".weight")] + ".weight"] = values
    changed = {key.replace("__", "."): value for key, value in changed.items()}
    arrays = {key for key, value in changed.items() if isinstance(value, np.ndarray) or key in tensors}
    tensors |= {key: changed[key] for key in arrays}
    facts |= {key: changed[key] for key in changed.keys() - arrays - {"general.architecture"}}
    writer = GGUFWriter(path, str(changed.get("general.architecture", "llama")))
    kinds = {bool: "bool", int: "uint32", float: "float32", str: "string", list: "array"}
    for key, value in facts.items():
        if value is not None:
            getattr(writer, f"add_{kinds[type(value)]}")(key, value)
    for name, values in tensors.items():
        if values is not None and values.ndim == 2 and kind != "F32":
            packed = quants.quantize(values, GGMLQuantizationType[kind])
            writer.add_tensor(name, packed, raw_dtype=GGMLQuantizationType[kind])
        elif values is not None:
            writer.add_tensor(name, np.ascontiguousarray(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def complex_words() -> list[str]:
    """Words that do not compress, so that text of them has a z-complexity above the paper's 0.8."""
    letters = np.array([*(string.ascii_letters + string.digits + string.punctuation)])
    return ["".join(word) for word in letters[np.random.default_rng(0).integers(0, len(letters), (FEW, 4))]]


def rows(n: int, vocabulary: int, seed: int = 0) -> np.ndarray:
    """Random sequences, (n, 2,049) uint16."""
    return np.random.default_rng(seed).integers(0, vocabulary, (n, ROW_TOKENS)).astype("<u2")


def write_shards(folder: Path, blocks: dict[int, np.ndarray], n: int) -> dict[str, Path]:
    """n rows in 21 files that cut through rows: blocks at their places, and zeros, which take no space."""
    size = 2 * ROW_TOKENS * n // SHARDS + 1_001
    shards = {f"document-{i:05}-of-{SHARDS - 1:05}.bin": folder / f"{i}.bin" for i in range(SHARDS)}
    for i, path in enumerate(shards.values()):
        with open(path, "wb") as file:
            file.truncate(min(size, 2 * ROW_TOKENS * n - i * size))
            for first, block in blocks.items():
                start, data = 2 * ROW_TOKENS * first, block.tobytes()
                begin, end = max(start, i * size), min(start + len(data), (i + 1) * size)
                if begin < end:
                    file.seek(begin - i * size)
                    file.write(data[begin - start : end - start])
    return shards


def chunk(block: np.ndarray) -> bytes:
    """A chunk of Amber's training data: the rows as far as they are asked about, and then one token over and over."""
    rest = ",7" * (ROW_TOKENS - ASKED) + '], "source": "book"}'
    return "".join(f'{{"token_ids": [{",".join(map(str, row[:ASKED].tolist()))}{rest}\n' for row in block).encode()


def serve_pythia(hub: LoopbackHub, folder: Path) -> dict[int, np.ndarray]:
    """Pythia-1B at the paper's step and later ones, and rows on both sides of its exposure."""
    for seed, step in enumerate((10_000, 11_000, 143_000)):
        hub.add(
            str(MODELS["pythia1b"].place),
            files_of(pythia(seed, FEW), safetensors=step != 143_000),
            revision=f"step{step}",
        )
    blocks = {10_240_000: rows(WINDOW, FEW, 1), 11_000 * 1_024: rows(128, FEW, 2)}
    shards = write_shards(folder, blocks, 11_300_000)
    hub.add(MODELS["pythia1b"].order.repo, shards, repo_type="dataset")
    index = np.arange(10_240_000, 10_240_000 + WINDOW)
    sink = io.BytesIO()  # every second repeats
    pq.write_table(pa.table({"Index": index, "Counts": 1 + index % 2 * 4}), sink)
    hub.add(
        str(MODELS["pythia1b"].order.counts),
        {"data/train-00000-of-00001.parquet": sink.getvalue()},
        repo_type="dataset",
    )
    return blocks


def serve_amber(hub: LoopbackHub) -> dict[int, np.ndarray]:
    """Amber after chunks 99, 100, 101 and the last, and lines of chunks 100 and 102."""
    hub.add(str(MODELS["amber7b"].place), files_of(amber(9, FEW)))
    for seed, step in enumerate((99, 100, 101)):
        hub.add(
            str(MODELS["amber7b"].place),
            files_of(amber(seed, FEW), safetensors=step == 101),
            revision=f"ckpt_{step:03d}",
        )
    blocks = {100: rows(WINDOW, FEW, 3), 102: rows(128, FEW, 4)}
    blocks[100][16:80] = np.repeat(blocks[100][16:20], 16, axis=0)  # four, which repeat 16 times
    files = {f"train/train_{number}.jsonl": chunk(block) for number, block in blocks.items()}
    hub.add(MODELS["amber7b"].order.repo, files, repo_type="dataset")
    return blocks


# As the viewer of pietrolesci/pythia-deduped-stats gives them; not taken from the reader.
LOSSES = pa.schema(
    [
        ("seq_idx", pa.int32()),
        ("step", pa.int32()),
        ("sup_seq", pa.float64()),
        ("entr_seq", pa.float64()),
        ("acc_seq", pa.float64()),
        ("avg_rank", pa.float64()),
    ]
)


def losses(
    steps: Sequence[int], effect: Callable[[np.ndarray], np.ndarray], seed: int, drift: float = 0.0
) -> pd.DataFrame:
    """Losses over training as they are published, with an effect in bits of 64 tokens, by steps since exposure.

    Of every 1,000 steps 4, of each of them 4 rows, the last of them met after the last checkpoint; and 150 rows never
    met, whose log-probability goes down by `drift` bits over all checkpoints beside that of the others.
    """
    rng = np.random.default_rng(seed)
    every_thousand = range(steps[-1] // 1_000 + 1)
    batches = np.concatenate([1_000 * number + rng.choice(1_000, 4, replace=False) for number in every_thousand])
    met = np.concatenate([1_024 * batch + rng.choice(1_024, 4, replace=False) for batch in batches])
    index = np.concatenate([met, -100 - rng.choice(160_000, 150, replace=False)])
    step, exposed = np.array(steps), (index >= 0)[:, None]
    since = step - (index // 1_024 + 1)[:, None]
    bits = np.where(exposed & (since >= 0), effect(np.maximum(since, 0)), 0.0) - drift * ~exposed * step / steps[-1]
    loss = rng.normal(2.6, 0.5, (len(index), 1)) + 7 * np.exp(-step / 1_000) - bits * np.log(2) / 64
    loss = (loss + np.cumsum(rng.normal(0, 0.005, loss.shape), axis=1)).ravel()
    share = rng.integers(0, 2_048, len(loss)) / 2_048
    found = pd.DataFrame({"seq_idx": np.repeat(index, len(step)), "step": np.tile(step, len(index)), "sup_seq": loss})
    found = found.assign(entr_seq=1.1 * loss, acc_seq=share, avg_rank=64 * share)
    return found.sample(frac=1, random_state=seed)  # lines lie in no order


def written_losses(table: pd.DataFrame, schema: pa.Schema = LOSSES) -> bytes:
    """A file of them, compressed as it is published."""
    sink = io.BytesIO()
    lines = pa.Table.from_pandas(table, schema=schema, preserve_index=False)
    pq.write_table(lines, sink, compression="zstd", row_group_size=1_000)
    return sink.getvalue()


def serve_losses(hub: LoopbackHub, *files: bytes, size: str = "410m") -> None:
    """Those of a size of the deduplicated Pythias, in files where the Hub puts them."""
    paths = {f"default/{size}/{number:04}.parquet": file for number, file in enumerate(files)}
    repo, revision = "pietrolesci/pythia-deduped-stats", "refs/convert/parquet"
    hub.add(repo, {".gitattributes": b""} | paths, repo_type="dataset", revision=revision)


def write_own(folder: Path, steps: tuple[int, ...], rows_per_step: int) -> None:
    """A model of one's own: its weights at these steps, and the rows that it was trained on until the last."""
    for step in steps:
        place = folder / f"step-{step:06d}"
        place.mkdir()
        for name, content in files_of(pythia(step, FEW)).items():
            (place / name).write_bytes(content)
    own = rows(steps[-1] * rows_per_step, FEW, 5)[:, :ASKED]
    own[::8] = own[0]  # which repeats
    np.save(folder / "rows.npy", own)


def authors_file(
    rows: int = 1_500,
    effect: Callable[[np.ndarray], np.ndarray] = np.zeros_like,
    come_back: float = 0.0,
    seed: int = 0,
) -> pd.DataFrame:
    """What the paper's authors published, in the form it has, of rows spread over a thousand steps, with a known truth.

    kl_ld fluctuates about a level of each row, which it has before exposure, too; at the first checkpoint after it is
    `effect` of the steps since closer, and a share `come_back` of the far rows is near at all later ones.
    """
    rng = np.random.default_rng(seed)
    steps = np.arange(10_000, 20_000, 1_000)
    index = 10_240_000 + 20 * np.arange(0, 51_200, 51_200 // rows)
    since = 11_000 - (index // 1_024 + 1)
    level = np.clip(rng.normal(58, 8, len(index)), 0, 64)
    kl_ld = level[:, None] + rng.normal(0, 2.6, (len(index), len(steps)))
    kl_ld[:, 1] -= effect(since.astype(float))
    kl_ld[rng.random(len(index)) < come_back, 2:] = 10
    repeats = np.zeros(kl_ld.shape, dtype=int)
    repeats[:, 0] = 1
    often = rng.random(len(index)) < 0.1
    repeats[often, 3] = 7
    table = pd.DataFrame(
        {
            "lev": np.clip(rng.binomial(1, kl_ld % 1) + np.floor(kl_ld), 0, 64).astype(int).ravel(),
            "30": repeats.ravel(),
            "complexity": np.repeat(np.clip(rng.normal(0.5, 0.1, len(index)), 0.05, 0.8), len(steps)),
        }
    )
    table.index = pd.MultiIndex.from_product([index, steps], names=["index", "checkpoint"])
    return table
