"""GGUF files, the quantised models of llama.cpp: what one holds, and its model and tokenizer by transformers' reader.

The header is read here, byte by byte, so that a file which is damaged, or which transformers would read wrongly
without a word, is refused in one line. Knows nothing of names of models, and not where a file comes from.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import math
import mmap
import re
import struct
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Header", "check_whole_by_name", "header_of", "model_of", "tokenizer_of"]

PART = r"-\d{5}-of-\d{5}\.gguf$"  # how the name of a file ends that is one of several
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9  # kinds of a value; of the others, what struct calls them
PLAIN = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
ALIGNMENT = 32  # bytes, if the file does not say
ROPE_FACTORS = "rope_freqs.weight"  # of Llama 3: what its rotary frequencies are divided by
ROPE_BASE = 10_000.0  # if the file does not say
# llama.cpp, src/llama-vocab.cpp, `regex_exprs`: names of the rule by which a text is cut before its words are. Those
# of GPT-2, which transformers takes for all that it does not know; and those that cut off each digit first.
LIKE_GPT2 = ("gpt-2", "gpt2", "mpt", "olmo", "jais", "trillion", "granite-docling", "phi-2")
# And those of Llama 3 and its like: a text begins with BOS if the file says nothing of it, as Llama 3's do, and a word
# of the vocabulary is taken whole, whether merges lead to it or not.
LIKE_LLAMA3 = ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken")
BY_DIGIT = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")


@dataclasses.dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself.

    Attributes
    ----------
    path : the file.
    facts : its metadata, by key; of an array its length alone.
    tensors : of each, by name: shape, number of its type, and the byte of the file at which it begins.
    """

    path: Path
    facts: dict[str, Any]
    tensors: dict[str, tuple[tuple[int, ...], int, int]]

    @property
    def architecture(self) -> str:
        """As llama.cpp calls it: "llama", "gemma3"."""
        return str(self.facts["general.architecture"])

    @property
    def quantisation(self) -> str:
        """The type of the file and those of its tensors: "Q4_K_M: 169 Q4_K, 61 F32, 29 Q6_K"."""
        from gguf import GGMLQuantizationType, LlamaFileType

        number = self.facts.get("general.file_type", "not stated")
        known = {kind.value: kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in LlamaFileType}
        counts = Counter(GGMLQuantizationType(kind).name for _, kind, _ in self.tensors.values())
        types = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
        return f"{known.get(number, f'type {number}')}: {types}"

    def of_model(self, key: str, default: Any = None) -> Any:
        """A fact of the architecture: "rope.freq_base"."""
        return self.facts.get(f"{self.architecture}.{key}", default)


def header_of(path: Path) -> Header:
    """What a GGUF file says of itself, read once while it does not change.

    Raises
    ------
    ValueError : it is none, is not whole, is one of several parts, or the package gguf is missing.
    """
    stat = path.stat()
    return _header(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _header(path: Path, size: int, modified: int) -> Header:
    if importlib.util.find_spec("gguf") is None:
        raise ValueError(f"{path}: a GGUF file needs the package gguf; pip install 'lmmem[gguf]'")
    with open(path, "rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path} is no GGUF file: it does not begin with the letters GGUF")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                header, whole = _parsed(path, data)
            except (struct.error, IndexError, UnicodeDecodeError) as error:
                raise ValueError(f"{path} is damaged or not whole: its {size:,} bytes end within its header") from error
    if size < whole:
        raise ValueError(f"{path} is not whole: it has {size:,} bytes of {whole:,}; copy or fetch it again")
    parts = header.facts.get("split.count", 0)
    if parts > 1:
        raise ValueError(_one_of_several(path.name, parts))
    return header


def _one_of_several(name: str, parts: int) -> str:
    return (
        f"{name} is one of {parts} parts of a GGUF file, and transformers reads whole ones: join them first, "
        "llama-gguf-split --merge FIRST-PART WHOLE.gguf"
    )


def check_whole_by_name(name: str) -> None:
    """Refuse a file whose name says that it is one of several parts.

    >>> check_whole_by_name("m-00001-of-00003.gguf")
    Traceback (most recent call last):
    ValueError: m-00001-of-00003.gguf is one of 3 parts of a GGUF file, and transformers reads whole ones: join them \
first, llama-gguf-split --merge FIRST-PART WHOLE.gguf
    """
    if re.search(PART, name):
        raise ValueError(_one_of_several(name, int(name[-10:-5])))


def _parsed(path: Path, data: mmap.mmap) -> tuple[Header, int]:
    """A header, and how many bytes the file has if it is whole."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    version, n_tensors, n_facts = struct.unpack_from("<IQQ", data, 4)
    if version not in VERSIONS:
        raise ValueError(f"{path} is GGUF of version {version}; versions {' and '.join(map(str, VERSIONS))} are read")
    kinds = set(GGMLQuantizationType)
    facts, tensors, at, end = dict[str, Any](), dict[str, tuple[tuple[int, ...], int, int]](), 24, 0
    for _ in range(n_facts):
        key, at = _value(data, STRING, at)
        (kind,) = struct.unpack_from("<I", data, at)
        facts[key], at = _value(data, kind, at + 4)
    if "general.architecture" not in facts:
        raise ValueError(f"{path} holds no model: it has no general.architecture")
    for _ in range(n_tensors):
        name, at = _value(data, STRING, at)
        (dimensions,) = struct.unpack_from("<I", data, at)
        *shape, kind, offset = struct.unpack_from(f"<{dimensions}QIQ", data, at + 4)
        at += 16 + 8 * dimensions
        if kind not in kinds:
            raise ValueError(f"{path}: {name} is of type {kind}, which the installed package gguf does not know")
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        tensors[name] = tuple(reversed(shape)), kind, offset
        end = max(end, offset + math.prod(shape) // block * size)
    step = facts.get("general.alignment", ALIGNMENT)
    start = -(-at // step) * step
    placed = {name: (shape, kind, start + offset) for name, (shape, kind, offset) in tensors.items()}
    return Header(path, facts, placed), start + end


def _value(data: mmap.mmap, kind: int, at: int) -> tuple[Any, int]:
    """One value, of an array its length alone, and where it ends."""
    if kind in PLAIN:
        (value,) = struct.unpack_from("<" + PLAIN[kind], data, at)
        return value, at + struct.calcsize("<" + PLAIN[kind])
    if kind == STRING:
        (length,) = struct.unpack_from("<Q", data, at)
        if at + 8 + length > len(data):
            raise IndexError("a text that ends after the file")
        return data[at + 8 : at + 8 + length].decode(), at + 8 + length
    if kind != ARRAY:
        raise IndexError("a value of no kind")
    kind, length = struct.unpack_from("<IQ", data, at)
    at += 12
    if kind in PLAIN:
        at += length * struct.calcsize("<" + PLAIN[kind])
    else:
        for _ in range(length):
            _, at = _value(data, kind, at)
    return length, at


def model_of(path: Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The model of a GGUF file, every weight dequantised to one dtype.

    Parameters
    ----------
    path : the file.
    dtype, device : of all weights.

    Raises
    ------
    ValueError : as :func:`header_of`; or transformers cannot read this architecture, leaves weights of the file
        out, or would give them other rotary frequencies than the file does.
    """
    import torch
    import transformers

    header = header_of(path)
    cannot = f"{path}: transformers {transformers.__version__} cannot read a GGUF file of architecture"
    try:
        found: Any = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=str(path.absolute()),  # a bare name is looked for in the working folder first
            dtype=dtype,
            device_map={"": device},
            quantization_config=transformers.GgufConfig(dequantize=True),  # or on a GPU they stay packed
            trust_remote_code=False,
            output_loading_info=True,
        )
    except torch.OutOfMemoryError:
        raise
    except (ValueError, NotImplementedError, LookupError, RuntimeError, TypeError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{cannot} {header.architecture!r}: {why}") from error
    model, loading = found
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(f"{cannot} {header.architecture!r}: it finds no {', '.join(missing[:3])}")
    _check_all_is_read(header, model)
    _set_frequencies(header, model)
    return model.eval()


def _check_all_is_read(header: Header, model: PreTrainedModel) -> None:
    """Refuse a model that has fewer weights than the file: transformers leaves out what it knows no place for."""
    last = header.of_model("block_count", 0) - header.of_model("nextn_predict_layers", 0)  # those after it predict more
    extra = tuple(f"blk.{layer}." for layer in range(last, header.of_model("block_count", 0)))
    sizes = {name: math.prod(shape) for name, (shape, *_) in header.tensors.items() if not name.startswith(extra)}
    sizes.pop(ROPE_FACTORS, None)
    if model.config.get_text_config().tie_word_embeddings:
        sizes.pop("output.weight", None)
    taken = sum({weight.data_ptr(): weight.numel() for weight in model.state_dict().values()}.values())
    if sum(sizes.values()) > taken:
        named = [name for name in sizes if name.startswith("rope")]
        raise ValueError(
            f"{header.path} holds {sum(sizes.values()):,} weights, of which transformers reads {taken:,} into a "
            f"{type(model).__name__}{', without ' + ', '.join(named) if named else ''}: it would be another model"
        )


def _set_frequencies(header: Header, model: PreTrainedModel) -> None:
    """Give the model the rotary frequencies that the file states, or refuse it: transformers leaves factors out."""
    import numpy as np
    import torch

    buffers = {name: buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")}
    if not buffers:
        return
    heads = header.of_model("embedding_length", 0) // max(1, header.of_model("attention.head_count", 1))
    width = header.of_model("rope.dimension_count", header.of_model("attention.key_length", heads))
    base, scaling = header.of_model("rope.freq_base", ROPE_BASE), header.of_model("rope.scaling.type", "none")
    stated = torch.tensor(base, dtype=torch.float64) ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    factors = torch.ones_like(stated)
    if ROPE_FACTORS in header.tensors:
        (n,), _, start = header.tensors[ROPE_FACTORS]  # float32, as it is of one dimension
        factors = torch.from_numpy(np.fromfile(header.path, "<f4", n, offset=start).astype(np.float64))
    elif scaling == "linear":
        factors *= header.of_model("rope.scaling.factor", 1.0)

    def are(wanted: torch.Tensor) -> list[torch.Tensor]:
        same = [buffer for buffer in buffers.values() if buffer.shape == wanted.shape]
        return [one for one in same if torch.allclose(one.cpu().double(), wanted, rtol=1e-4, atol=0)]

    wanted, known = stated / factors, scaling in ("none", "linear")
    if are(wanted) if known else not are(stated):  # of another kind of scaling it is seen whether there was one
        return
    if known and len(plain := are(stated)) == len(buffers):
        for buffer in plain:
            buffer.copy_(wanted)
        return
    raise ValueError(
        f"{header.path}: its rotary frequencies (base {base:g}, {width} dimensions, scaling {scaling}) are not those "
        f"that transformers gives to a {type(model).__name__}: it would be another model"
    )


def tokenizer_of(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a GGUF file.

    Warns where the file cuts text by a rule that is not known here: some texts become other tokens than the model
    was trained on.

    Raises
    ------
    ValueError : as :func:`header_of`, or the file holds no tokenizer that transformers can read.
    """
    import transformers
    from tokenizers import Regex, pre_tokenizers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    header = header_of(path)
    if "tokenizer.ggml.tokens" not in header.facts:
        raise ValueError(f"{path} holds no tokenizer")
    rule = header.facts.get("tokenizer.ggml.pre", "gpt-2") if header.facts.get("tokenizer.ggml.model") == "gpt2" else ""
    silent = "tokenizer.ggml.add_bos_token" not in header.facts and rule in LIKE_LLAMA3
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            path.parent,
            gguf_file=str(path.absolute()),
            trust_remote_code=False,
            **({"add_bos_token": True} if silent else {}),
        )
    except (ValueError, LookupError, TypeError, NotImplementedError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: transformers cannot read its tokenizer: {why}") from error
    if rule in LIKE_LLAMA3:
        tokenizer.backend_tokenizer.model.ignore_merges = True
    if not rule or rule in (*GGUF_PRE_TOKENIZER_SPLITS, *LIKE_GPT2):  # without merges there is no such rule
        return tokenizer
    if rule in BY_DIGIT:
        digits = pre_tokenizers.Split(Regex(r"\p{N}"), "isolated")
        words = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
        return tokenizer
    warnings.warn(
        f"{path} cuts text by the rule {rule!r}, and transformers by GPT-2's: some texts become other tokens than "
        "those that the model was trained on",
        stacklevel=3,
    )
    return tokenizer
