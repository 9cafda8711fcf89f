"""Models of the Hub, by the real client from a server on this machine."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import sentencepiece as spm
import torch
import transformers

import lmmem
from lmmem.inference import decoding
from lmmem.models.loading import download_size, load_mean, load_model, load_tokenizer, weights_id
from lmmem.models.registry import MODELS, UNNUMBERED, ModelInfo, resolve_step
from lmmem.storage import hub
from tests import stand_ins
from tests.loopback_hub import Fault, LoopbackHub
from tests.plain import plain_greedy

PLACE = str(MODELS["pythia1b"].place)


@pytest.fixture
def pythia(loopback) -> LoopbackHub:
    """Pythia-1B at two steps: one with safetensors, one with .bin alone."""
    loopback.add(PLACE, stand_ins.files_of(stand_ins.pythia(0)), revision="step11000")
    loopback.add(PLACE, stand_ins.files_of(stand_ins.pythia(1), safetensors=False), revision="step143000")
    return loopback


def first_weights(model: transformers.PreTrainedModel) -> torch.Tensor:
    return next(model.parameters())


@pytest.mark.parametrize(("step", "seed"), [(11_000, 0), (None, 1)], ids=["safetensors", ".bin"])
def test_weights_are_those_of_the_revision(pythia, step, seed):
    model = load_model("pythia1b", step)
    assert model.dtype == torch.float16
    for ours, theirs in zip(model.parameters(), stand_ins.pythia(seed).half().parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not model.training


def test_revision_is_recorded_as_its_commit(pythia):
    commit = pythia.commits["model", PLACE]["step11000"]
    assert weights_id("pythia1b", 11_000) == f"{PLACE}@{commit}"
    load_model("pythia1b", 11_000)
    asked = {request.path.split("/")[4] for request in pythia.requests if "/resolve/" in request.path}
    assert asked == {commit}


def test_branch_that_moves_is_another_identity(pythia):
    before = weights_id("pythia1b", 11_000)
    pythia.add(PLACE, stand_ins.files_of(stand_ins.pythia(2)), revision="step11000")
    assert torch.equal(first_weights(load_model("pythia1b", 11_000)), first_weights(stand_ins.pythia(0).half()))
    assert weights_id("pythia1b", 11_000) == before  # for this process
    hub._listings.clear()  # as another one
    assert weights_id("pythia1b", 11_000) != before


def test_size_to_fetch_is_nothing_once_it_is_here(pythia):
    size = download_size("pythia1b", 11_000)
    assert size == len(stand_ins.files_of(stand_ins.pythia(0))["model.safetensors"])
    load_model("pythia1b", 11_000)
    assert download_size("pythia1b", 11_000) == 0


def test_without_the_network_what_was_fetched_is_here(pythia, monkeypatch):
    there = load_model("pythia1b", 11_000)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    here = load_model("pythia1b", 11_000)
    assert all(torch.equal(a, b) for a, b in zip(there.parameters(), here.parameters(), strict=True))
    with pytest.raises(ConnectionError, match=r"pythia-1b/.* has not been fetched before"):
        load_model("pythia1b")


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (Fault("/api/", status=401), PermissionError, "hf auth login"),
        (Fault("/api/", status=404, headers={"X-Error-Code": "RevisionNotFound"}), ValueError, "no such revision"),
        (Fault("/api/", status=503, headers={"Retry-After": "0"}), ConnectionError, "the Hub answered 503"),
    ],
)
def test_refusal_is_one_plain_line(pythia, fault, error, message):
    pythia.faults.append(fault)
    with pytest.raises(error, match=f"EleutherAI/pythia-1b at step11000: .*{message}"):
        load_model("pythia1b", 11_000)


def test_any_model_of_the_hub_is_known_by_its_id(loopback):
    commit = loopback.add("someone/llama", stand_ins.files_of(stand_ins.amber(5)))
    assert resolve_step("someone/llama") == UNNUMBERED
    assert weights_id("someone/llama", UNNUMBERED) == f"someone/llama@{commit}"
    model = load_model("someone/llama", dtype="float32")
    prompts = np.arange(12).reshape(2, 6)
    expected = plain_greedy(stand_ins.amber(5).half().float(), prompts, 5)
    np.testing.assert_array_equal(decoding.greedy(model, prompts, 5), expected)
    assert load_tokenizer("someone/llama").decode([3, 4]) == "w3 w4"
    with pytest.raises(ValueError, match="its steps are not known"):
        load_model("someone/llama", 5)


def test_model_in_a_folder_is_known_by_its_path(tmp_path):
    stand_ins.amber(6).half().save_pretrained(tmp_path / "mine")
    folder = str(tmp_path / "mine")
    assert torch.equal(load_model(folder).lm_head.weight.half(), stand_ins.amber(6).half().lm_head.weight)
    assert len(weights_id(folder, UNNUMBERED)) == 64
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no model: it has no model\.safetensors"):
        load_model(str(tmp_path / "empty"))


def written(folder: Path, tokenizer: bool = True, config: dict | None = None, **files: bytes) -> str:
    """A model in a folder, parts of its configuration changed, and the bytes of files, by their names."""
    folder.mkdir()
    known = stand_ins.files_of(stand_ins.amber(0))
    known["config.json"] = json.dumps(json.loads(known["config.json"]) | (config or {})).encode()
    for name, data in (known | files).items():
        if tokenizer or "token" not in name:
            (folder / name).write_bytes(data)
    return str(folder)


@pytest.mark.parametrize(
    "changed", [{"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 16}, {"rms_norm_eps": 0.5}]
)
def test_same_weights_with_another_configuration_are_another_model(tmp_path, changed):
    one, other = written(tmp_path / "one"), written(tmp_path / "other", config=changed)
    again = written(tmp_path / "again", **{"generation_config.json": b"{}"})
    assert weights_id(one, UNNUMBERED) == weights_id(again, UNNUMBERED) != weights_id(other, UNNUMBERED)
    tokens = np.random.default_rng(0).integers(3, 500, (2, 96))
    losses = []
    for folder in (one, other, again):
        study = lmmem.Study(folder)
        losses.append(study.likelihood(study.sequences(tokens=tokens)).cross_entropy.to_numpy())
        own = lmmem.cross_entropy(load_model(folder), *lmmem.split(tokens))
        np.testing.assert_allclose(losses[-1], own, rtol=1e-5)
    assert (losses[0] != losses[1]).all() and (losses[0] == losses[2]).all()
    (Path(other) / "config.json").unlink()  # nor is it read by the configuration of the model measured last
    with pytest.raises(ValueError, match=r"other holds no model: it has no config\.json"):
        study = lmmem.Study(other)
        study.likelihood(study.sequences(tokens=tokens))


WEIGHTS = stand_ins.files_of(stand_ins.amber(0))["model.safetensors"]
PICKLED = stand_ins.files_of(stand_ins.amber(0), safetensors=False)["pytorch_model.bin"]


@pytest.mark.parametrize(
    ("config", "files", "message"),
    [
        ({}, {"model.safetensors": WEIGHTS[: len(WEIGHTS) // 2]}, r"the weights in \S+mine are damaged \(.* not fully"),
        ({}, {"model.safetensors": b""}, r"the weights in \S+mine are damaged \(.*\): fetch or save them anew"),
        (
            {"intermediate_size": 64},
            {},
            r"weights in \S+mine do not fit its config\.json \(6 of them\): model\.lay",
        ),
        ({"vocab_size": 32_008}, {}, r"is \(32000, 16\) and would have to be \(32008, 16\); give the config"),
        (
            {"model_type": "t5"},
            {},
            r"mine holds no model that can be read: Unrecognized configuration .* \[\.\.\.\]$",
        ),
        ({}, {"config.json": b"{"}, r"mine holds no model that can be read: .* is not a valid JSON file"),
    ],
)
def test_folder_that_cannot_be_loaded_is_refused_in_one_line(tmp_path, config, files, message):
    folder = written(tmp_path / "mine", config=config, **files)
    with pytest.raises(ValueError, match=message) as raised:
        load_model(folder)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


@pytest.mark.parametrize("pickled", [b"", PICKLED[: len(PICKLED) // 2]])
def test_weights_of_torch_that_are_cut_off_are_damaged(tmp_path, pickled):
    folder = written(tmp_path / "mine", **{"pytorch_model.bin": pickled})
    (tmp_path / "mine" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"the weights in \S+mine are damaged"):
        load_model(folder)


@pytest.mark.parametrize("text", ["the cat said", "on the log, a dog", "é the mat"])
def test_tokenizer_that_is_a_sentencepiece_model_alone_is_read(tmp_path, text):
    """As of many a Llama on the Hub; beside what sentencepiece itself says."""
    learnt, model = ["the cat sat on the mat and the dog sat on the log", "a theatre, said the cat"] * 20, io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(learnt),
        model_writer=model,
        **{"vocab_size": 300, "model_type": "bpe", "byte_fallback": True, "hard_vocab_limit": False},
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", "legacy": True}))
    transformers.LlamaConfig(vocab_size=300).save_pretrained(tmp_path)
    own, found = spm.SentencePieceProcessor(model_proto=model.getvalue()), load_tokenizer(str(tmp_path))
    assert found(text, add_special_tokens=False).input_ids == own.encode(text)
    assert found.decode(own.encode(text)) == text


@pytest.mark.parametrize("model", [stand_ins.amber, stand_ins.pythia])  # of the second an empty one would be made
def test_folder_without_a_tokenizer_says_so(tmp_path, model):
    model(0).save_pretrained(tmp_path / "mine")
    with pytest.raises(ValueError, match=r"mine has no tokenizer: \S+mine holds no tokenizer\.json"):
        lmmem.Study(str(tmp_path / "mine")).text_sequences("import numpy as np; " * 40)


def test_model_of_which_weights_are_missing_is_refused(tmp_path):
    """Transformers would draw them at random, and say so in its log alone."""
    model = stand_ins.amber(4)
    weights = {name: weight for name, weight in model.state_dict().items() if "layers.1.mlp" not in name}
    model.save_pretrained(tmp_path / "mine", state_dict=weights)
    with pytest.raises(
        ValueError, match=r"not those of a LlamaForCausalLM, of which it lacks 3, model\.layers\.1\.mlp"
    ):
        load_model(str(tmp_path / "mine"))


def test_model_of_which_weights_would_be_left_out_is_refused(tmp_path):
    """Transformers leaves them out, and says so in its log alone: a layer more than its configuration has, a bias."""
    fewer = written(tmp_path / "fewer", config={"num_hidden_layers": 1})
    with pytest.raises(
        ValueError, match=r"which has no place for 9 of them, model\.layers\.1\.input_layernorm\.weight, "
    ):
        load_model(fewer)
    bare = transformers.GPT2Model(transformers.GPT2Config(vocab_size=50, n_embd=8, n_layer=2, n_head=2))
    bare.save_pretrained(tmp_path / "bare")
    config = tmp_path / "bare" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"n_layer": 1, "architectures": ["GPT2LMHeadModel"]}))
    with pytest.raises(ValueError, match=r"which has no place for 11 of them, h\.1\.attn"):
        load_model(str(tmp_path / "bare"))
    model, folder = stand_ins.amber(4), tmp_path / "biased"
    weights = model.state_dict()
    extra = {"model.layers.0.self_attn.q_proj.bias": torch.ones(len(weights["model.layers.0.self_attn.q_proj.weight"]))}
    model.save_pretrained(folder, state_dict=weights | extra)
    with pytest.raises(
        ValueError, match=r"no place for 1 of them, model\.layers\.0\.self_attn\.q_proj\.bias; give the"
    ):
        load_model(str(folder))


def test_weights_that_are_left_out_rightly_are_no_reason(tmp_path):
    """Buffers of old checkpoints, and towers that are not text."""
    model = stand_ins.amber(4)
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.layers.0.self_attn.bias": torch.ones(4),
    }
    extra |= {"vision_tower.layers.0.mlp.up_proj.weight": torch.ones(4, 4)}
    model.save_pretrained(tmp_path / "mine", state_dict=model.state_dict() | extra)
    found = load_model(str(tmp_path / "mine"), dtype="float32")
    assert torch.equal(found.lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize("end", ["step143000", "main"])
def test_step_that_holds_the_end_of_training_is_refused(loopback, end):
    """As 86 of 154 branches of pythia-2.8b: github.com/EleutherAI/pythia, issue 205."""
    place = str(MODELS["pythia2.8b"].place)
    loopback.add(place, stand_ins.files_of(stand_ins.pythia(0)), revision="step66000")
    for revision in ("step1000", end):
        loopback.add(place, stand_ins.files_of(stand_ins.pythia(1)), revision=revision)
    for ask in (load_model, download_size):
        with pytest.raises(ValueError, match=rf"2\.8b at step 1000: its model\.safetensors is that of {end}, the end"):
            ask("pythia2.8b", 1_000)
    asked = [request.path for request in loopback.requests if "/resolve/" in request.path]
    assert not asked  # before anything is fetched
    assert torch.equal(first_weights(load_model("pythia2.8b", 66_000)), first_weights(stand_ins.pythia(0).half()))
    if end == "step143000":
        assert torch.equal(first_weights(load_model("pythia2.8b")), first_weights(stand_ins.pythia(1).half()))


BRANCH = "/api/models/.*/revision/main"


@pytest.mark.parametrize(
    ("fault", "message"),
    [(Fault(BRANCH, status=status), f"answered {status}") for status in (400, 429, 503)]
    + [(Fault(BRANCH, cut_after=0), "cannot be reached")],
    ids=["400", "429", "503", "unreachable"],
)
def test_step_that_cannot_be_compared_with_the_end_of_training_is_not_fetched(loopback, fault, message):
    place = str(MODELS["pythia2.8b"].place)
    for revision in ("step1000", "main"):
        loopback.add(place, stand_ins.files_of(stand_ins.pythia(1)), revision=revision)
    loopback.add(place, stand_ins.files_of(stand_ins.pythia(0)), revision="step143000")
    loopback.faults.append(fault)
    for ask in (load_model, download_size):
        with pytest.raises(ConnectionError, match=f"2.8b at main: the Hub {message}"):
            ask("pythia2.8b", 1_000)
    assert not any("/resolve/" in request.path for request in loopback.requests)
    loopback.faults.clear()
    with pytest.raises(ValueError, match="is that of main, the end of training"):
        load_model("pythia2.8b", 1_000)


def test_weights_that_are_here_need_no_comparison_but_of_a_hub_that_answers(pythia):
    load_model("pythia1b", 11_000)
    hub._listings.clear()  # as another process
    pythia.faults.append(Fault(BRANCH, cut_after=0))
    pythia.faults.append(Fault("/revision/step", status=503))  # as listed before
    with pytest.warns(UserWarning, match="as listed before"):
        assert torch.equal(first_weights(load_model("pythia1b", 11_000)), first_weights(stand_ins.pythia(0).half()))
    pythia.faults[0] = Fault(BRANCH, status=503)
    with pytest.raises(ConnectionError, match="1b at main: the Hub answered 503"):
        load_model("pythia1b", 11_000)


def test_one_part_of_the_end_of_training_is_enough_to_refuse_a_step(loopback):
    """As at steps 50,000 and 58,000 of pythia-12b: github.com/EleutherAI/pythia, issue 206."""
    place, files = str(MODELS["pythia12b"].place), stand_ins.files_of(stand_ins.pythia(0), safetensors=False)
    first, second = (f"pytorch_model-0000{part}-of-00002.bin" for part in (1, 2))
    whole = files.pop("pytorch_model.bin")
    loopback.add(place, files | {first: whole[:500], second: whole[500:]}, revision="main")
    loopback.add(place, files | {first: whole[:500], second: whole[1:]}, revision="step50000")
    with pytest.raises(ValueError, match=r"12b at step 50000: its pytorch_model-00001-of-00002\.bin is that of main"):
        load_model("pythia12b", 50_000)


def test_model_of_ones_own_is_registered_with_its_steps(loopback):
    for step in (10, 20):
        loopback.add("me/grown", stand_ins.files_of(stand_ins.amber(step)), revision=f"at{step}")
    mine = ModelInfo("grown-for-a-test", "1 M", (10, 20), "books", "float32", 1e-3, "me", "me/grown", "at{step}")
    MODELS.register(mine)
    try:
        weights = load_model("grown-for-a-test", 10).lm_head.weight
        assert torch.equal(weights, stand_ins.amber(10).half().float().lm_head.weight)
        assert "grown-for-a-test" in repr(MODELS)
        with pytest.raises(ValueError, match="there is a model 'grown-for-a-test' already"):
            MODELS.register(mine)
    finally:
        del MODELS._models["grown-for-a-test"]


def test_checkpoints_in_folders_are_registered_with_their_steps(tmp_path):
    for step in (10, 20):
        stand_ins.amber(step).half().save_pretrained(tmp_path / f"step{step}")
    place = f"{tmp_path}/step{{step}}"
    MODELS.register(ModelInfo("mine-for-a-test", "1 M", (10, 20, 30), "books", "float16", 1e-3, "me", place))
    try:
        for step in (10, 20):
            weights = load_model("mine-for-a-test", step).lm_head.weight
            assert torch.equal(weights, stand_ins.amber(step).half().lm_head.weight)
        assert weights_id("mine-for-a-test", 10) != weights_id("mine-for-a-test", 20)
        with pytest.raises(ValueError, match=r"there is no folder .*step30"):
            load_model("mine-for-a-test")
    finally:
        del MODELS._models["mine-for-a-test"]


@pytest.mark.parametrize("place", ["me/grown", "/home/me/grown"])
def test_steps_that_lie_at_one_place_are_refused(place):
    with pytest.raises(ValueError, match=f"all 2 steps lie at {place}.*: put {{step}} into revision"):
        ModelInfo("mine", "1 M", (10, 20), "books", "float32", 1e-3, "me", place)


def test_folder_that_bears_the_name_of_a_repository_is_not_taken_for_it(pythia, tmp_path, monkeypatch):
    stand_ins.pythia(7).half().save_pretrained(tmp_path / PLACE)
    monkeypatch.chdir(tmp_path)
    assert torch.equal(first_weights(load_model("pythia1b", 11_000)), first_weights(stand_ins.pythia(0).half()))


def test_weights_beside_those_of_transformers_are_left_there(loopback):
    files = stand_ins.files_of(stand_ins.amber(3), safetensors=False)
    others = {"onnx/model.safetensors": b"other", "training_args.bin": b"other", "consolidated.safetensors": b"other"}
    loopback.add("someone/crowded", files | others)
    assert torch.equal(load_model("someone/crowded").lm_head.weight, stand_ins.amber(3).half().float().lm_head.weight)
    assert download_size("someone/crowded") == 0
    assert not any("other" in request.path or "onnx" in request.path for request in loopback.requests)


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (Fault("/resolve/", status=403, headers={"X-Error-Code": "GatedRepo"}), PermissionError, "granted on the Hub"),
        (Fault("/resolve/", status=503, headers={"Retry-After": "0"}), ConnectionError, "cannot be reached|answered"),
    ],
)
def test_file_that_is_refused_is_one_plain_line(pythia, fault, error, message):
    pythia.faults.append(fault)
    with pytest.raises(error, match=message):
        load_model("pythia1b", 11_000)


def test_model_without_a_longest_context_is_read(tmp_path):
    torch.manual_seed(0)
    config = transformers.BloomConfig(vocab_size=100, hidden_size=16, n_layer=1, n_head=2)
    transformers.BloomForCausalLM(config).save_pretrained(tmp_path / "bloom")
    model = load_model(str(tmp_path / "bloom"))
    prompts = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(decoding.greedy(model, prompts, 5), plain_greedy(model, prompts, 5))


def test_code_that_comes_with_a_model_is_never_run(loopback, tmp_path):
    files = stand_ins.files_of(stand_ins.amber(0))
    config = files["config.json"].replace(b"{", b'{"auto_map": {"AutoModelForCausalLM": "trap.Model"},', 1)
    trap = f"open({str(tmp_path / 'ran')!r}, 'w')".encode()
    loopback.add("someone/trap", files | {"config.json": config, "trap.py": trap})
    load_model("someone/trap")
    assert not (tmp_path / "ran").exists()


def test_pickle_that_runs_code_is_refused(loopback, tmp_path):
    import pickle

    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    files = stand_ins.files_of(stand_ins.amber(0), safetensors=False)
    torch.save({"x": Trap()}, tmp_path / "trap.bin", pickle_module=pickle)
    loopback.add("someone/trap", files | {"pytorch_model.bin": (tmp_path / "trap.bin").read_bytes()})
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        load_model("someone/trap")
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_loading_takes_little_more_than_one_copy_of_the_weights(loopback, tmp_path):
    torch.manual_seed(0)
    size = {"hidden_size": 1_024, "intermediate_size": 2_048, "num_hidden_layers": 8, "num_attention_heads": 8}
    model = stand_ins.LlamaForCausalLM(stand_ins.LlamaConfig(vocab_size=32_000, **size))
    copy = sum(p.numel() for p in model.parameters()) * 2
    model.half().save_pretrained(tmp_path / "large")
    code = (
        "import resource, sys, torch, transformers; from lmmem import load_model; load_model(sys.argv[1])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "model = load_model(sys.argv[2], dtype='float16')\n"
        "unit = 1 if sys.platform == 'darwin' else 1024\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit)"
    )
    stand_ins.amber(0).half().save_pretrained(tmp_path / "small")
    command = [sys.executable, "-c", code, str(tmp_path / "small"), str(tmp_path / "large")]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True)
    peak = int(done.stdout)
    assert peak < 1.4 * copy, f"{peak / copy:.2f} copies"


def test_mean_of_weights_is_that_of_each_weight(mini):
    steps = (60, 114, 120)
    every = [load_model("pocket-mini", step).state_dict() for step in steps]
    mean = load_mean("pocket-mini", steps).state_dict()
    for key, weight in mean.items():
        expected = torch.stack([one[key].double() for one in every]).mean(dim=0)
        torch.testing.assert_close(weight.double(), expected, rtol=1e-6, atol=1e-7)
    assert all(
        torch.equal(a, b) for a, b in zip(load_mean("pocket-mini", [120]).parameters(), mini.parameters(), strict=True)
    )
    with pytest.raises(ValueError, match="needs a step or more"):
        load_mean("pocket-mini", [])
