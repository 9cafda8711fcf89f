"""Which weights can be changed for a while, and how they come back."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor
from transformers import AutoModelForCausalLM, LlamaConfig

from lmmem.inference import weights
from lmmem.inference.perturbation import cosines, perturbed, weight_rms
from lmmem.inference.rounding import rounded
from lmmem.inference.teaching import Teacher, taught
from lmmem.inference.weights import KEPT_SHARE, check_weights, fit, put_back
from tests.inference.test_perturbation import bits, small
from tests.other_device import lies_there, on_another_device

PACKED = "keeps its weights packed and not as parameters: load the model not quantised, or dequantised"


def whole(model: nn.Module) -> list[object]:
    """Everything a model computes with, to compare."""
    return [str(model.state_dict()), [str(vars(module)) for module in model.modules()]]


def with_parameter(dtype: torch.dtype) -> nn.Module:
    """A model of one layer whose bias is of a dtype."""
    model = nn.Sequential(nn.Linear(3, 3))
    model[0].bias = nn.Parameter(torch.ones(3).to(dtype), requires_grad=False)
    return model


@pytest.fixture(autouse=True)
def _no_word_of_what_is_to_move():
    """What torch says of its quantisation, and of what transformers' calls."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor")
        yield


def quantised_by_torch() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(small().eval(), {nn.Linear}, dtype=torch.qint8)


def quantised_by_transformers(folder: Path, linear: str) -> nn.Module:
    """A BitNet: three values a weight, packed by transformers, or rounded to them whenever they are used."""
    from transformers.integrations.bitnet import pack_weights

    sizes = {"vocab_size": 32, "num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 32}
    model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2))
    state = model.state_dict()
    if linear == "bitlinear":
        for name in [name for name in state if "proj" in name]:
            scale = state[name].abs().mean()
            state[name] = pack_weights((state[name] / scale).round().clamp(-1, 1))
            state[f"{name}_scale"] = 1 / scale[None]
    model.save_pretrained(folder, state_dict=state)
    config = json.loads((folder / "config.json").read_text())
    mode = "offline" if linear == "bitlinear" else "online"
    config["quantization_config"] = {"quant_method": "bitnet", "linear_class": linear, "quantization_mode": mode}
    (folder / "config.json").write_text(json.dumps(config))
    return AutoModelForCausalLM.from_pretrained(folder)


def of_class(tensor: torch.Tensor) -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3))
    model[0].weight = nn.Parameter(tensor, requires_grad=False)
    return model


def offloaded() -> nn.Module:
    from accelerate import cpu_offload

    return cpu_offload(small(), execution_device=torch.device("cpu"))


REFUSED = {
    "int8": (lambda folder: with_parameter(torch.int8), "0.bias is int8: weights are changed in float16, bfloat16, "),
    "uint8": (lambda folder: with_parameter(torch.uint8), "0.bias is uint8"),
    "bool": (lambda folder: with_parameter(torch.bool), "0.bias is bool"),
    "float8": (lambda folder: with_parameter(torch.float8_e4m3fn), "0.bias is float8_e4m3fn"),
    "complex": (lambda folder: with_parameter(torch.complex64), "0.bias is complex64"),
    "packed by torch": (lambda folder: quantised_by_torch(), f"query_key_value, a Linear, {PACKED}"),
    "packed by transformers": (
        lambda folder: quantised_by_transformers(folder, "bitlinear"),
        f"model.layers.0.self_attn.q_proj, a BitLinear, {PACKED}",
    ),
    "rounded when used": (
        lambda folder: quantised_by_transformers(folder, "autobitlinear"),
        r"the model is quantised \(bitnet\): load it not quantised, or dequantised",
    ),
    "a class of tensors": (
        lambda folder: of_class(TwoTensor(torch.ones(3, 3), torch.ones(3, 3))),
        "0.weight is a TwoTensor and no plain tensor: load the model whole, not quantised",
    ),
    "sparse": (
        lambda folder: of_class(torch.eye(3).to_sparse()),
        "0.weight is sparse_coo and no plain tensor: load the",
    ),
    "offloaded": (
        lambda folder: offloaded(),
        "is on the meta device, not in memory: load the whole model on one",
    ),
    "none": (lambda folder: nn.GELU(), "the model has no parameters"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_weights_that_cannot_be_moved_by_a_little_are_refused_in_one_line(kind, tmp_path):
    make, message = REFUSED[kind]
    model = make(tmp_path)
    before = whole(model)

    def enter(change):
        with change:
            pytest.fail("the block ran")

    for work in (
        lambda: enter(perturbed(model, 0.1, seed=0, draw=0)),
        lambda: enter(perturbed(model, 0.1, seed=0, draw=0, unit="tensor")),
        lambda: enter(rounded(model, "int4")),
        lambda: weight_rms(model),
        lambda: cosines(model, [{}], seed=0, draws=[0]),
        lambda: enter(taught(model)),
        lambda: Teacher(model),
    ):
        with pytest.raises(ValueError, match=message) as raised:
            work()
        assert "\n" not in str(raised.value)
    assert whole(model) == before


def test_part_of_a_quantised_model_that_is_not_packed_is_refused_too():
    model = quantised_by_torch()
    with pytest.raises(ValueError, match=PACKED), perturbed(model, 0.1, seed=0, draw=0, only="norms"):
        pass


def test_model_read_from_a_quantised_file_into_floats_is_taken_as_those(tmp_path):
    gguf = pytest.importorskip("gguf")
    writer, rng = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama"), np.random.default_rng(0)
    for name, value in {
        **{"block_count": 1, "context_length": 64, "embedding_length": 32, "feed_forward_length": 64, "head_count": 2},
        **{"head_count_kv": 2, "layer_norm_rms_eps": 1e-5, "vocab_size": 32, "rope_dimension_count": 16},
    }.items():
        getattr(writer, f"add_{name}")(value)
    shapes = {"token_embd": (32, 32), "output": (32, 32), "output_norm": (32,)}
    shapes |= {f"blk.0.attn_{part}": (32, 32) for part in ("q", "k", "v", "output")}
    shapes |= {"blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)}
    shapes |= {"blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64)}
    eight = gguf.GGMLQuantizationType.Q8_0
    for name, shape in shapes.items():
        values = rng.normal(size=shape).astype(np.float32)
        packed = gguf.quants.quantize(values, eight) if len(shape) > 1 else values
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=eight if len(shape) > 1 else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    assert model.is_quantized  # so says transformers
    before = bits(model)
    with perturbed(model, 0.1, seed=0, draw=0):
        assert all(ours != theirs for ours, theirs in zip(bits(model), before, strict=True))
    assert bits(model) == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_of_every_width_are_taken(dtype):
    check_weights(small(dtype))
    check_weights(small(tied=True).to(dtype))


def test_copies_lie_beside_while_they_take_a_share_of_what_is_free():
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes, free = rng.integers(1, 100, 8).tolist(), int(rng.integers(0, 1_600))
        beside, taken, there = fit(sizes, free), 0, True
        for size, stays in zip(sizes, beside, strict=True):
            taken += size
            there = there and taken <= KEPT_SHARE * free
            assert stays == there
    assert fit([10, 10], 10**12) == [True, True]
    assert fit([10], 0) == [False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("free", ["all", "some", "none"])
def test_weights_come_back_bit_for_bit_from_wherever_they_were_kept(dtype, free, monkeypatch):
    model = small(dtype)
    every, before = list(model.parameters()), bits(model)
    half = sum(parameter.nbytes for parameter in every) // 2
    there_is = {"all": 10**12, "some": int(half / KEPT_SHARE), "none": 0}[free]
    monkeypatch.setattr(weights, "free_bytes", lambda device: there_is)
    with on_another_device(model, "cuda"):
        with put_back(every) as copies:
            beside = [lies_there(copy) for copy in copies]
            for parameter in every:
                parameter.detach().zero_()
        assert not any(copy is parameter for copy, parameter in zip(copies, every, strict=True))
    assert bits(model) == before
    assert {"all": all(beside), "some": beside[0] and not beside[-1], "none": not any(beside)}[free]


def test_noise_comes_off_a_device_without_room_for_a_copy(monkeypatch):
    model = small(torch.float16)
    before = bits(model)
    with perturbed(model, 0.1, seed=0, draw=3):
        expected = bits(model)
    monkeypatch.setattr(weights, "free_bytes", lambda device: 0)
    with on_another_device(model, "cuda"), perturbed(model, 0.1, seed=0, draw=3):
        found = [parameter.detach().cpu() for parameter in model.parameters()]
    assert [disturbed.view(torch.uint8).numpy().tobytes() for disturbed in found] == expected != before
    assert bits(model) == before
