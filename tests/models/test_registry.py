"""Models by name and step."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import lmmem
from lmmem.models.loading import load_model, load_tokenizer, weights_id
from lmmem.models.registry import MODELS, PYTHIA_STEPS, ModelInfo, Order, resolve_step
from lmmem.pocket.organisms import checkpoint_folder
from lmmem.pocket.recipe import RECIPES

NAME = "pocket-mini"


def test_registry_prints_as_a_table_with_one_line_a_model():
    table = MODELS.table
    lines = repr(MODELS).splitlines()
    assert lines[0].split() == list(table) == list(MODELS.columns)
    assert all(row.caveats in line for row, line in zip(table.itertuples(), lines[1:], strict=True))
    shown = [line.split()[0] for line in lines[1:]]
    assert shown == [name for name in MODELS if not re.search("seed[2-9]$", name)]
    assert "pythia160m-seed1 .. 9" in repr(MODELS)
    assert MODELS._repr_html_().count("<tr") == len(lines)
    assert len(MODELS) == len(list(MODELS))
    assert "pythia1b" in MODELS
    assert "gpt5" not in MODELS


def test_logits_of_a_pythia_are_padded_by_the_processors_that_shared_it():
    """As Megatron pads them, by model-parallel-size in EleutherAI/pythia, models/."""
    for name in (name for name in MODELS if name.startswith("pythia")):
        multiple = 128 * {"6.9b": 2, "12b": 4}.get(re.match(r"pythia([\d.]+[mb])", name)[1], 1)
        padded = -(-50_277 // multiple) * multiple
        assert MODELS[name].caveats.startswith(f"{padded:,} logits, padded from 50,277 tokens"), name
        assert MODELS[name].order.vocabulary == 50_304  # of its rows, which are of the same tokens


FACTS = """
parameters = "0.2 M"
steps = [6, 120]
training_data = "my rows"
dtype = "float32"
sigma = 0.01
source = "me"
place = "./step-{step:06d}"
"""


ORDER = """
[order]
layout = "shards"
rows_per_step = 8
steps = 120
row_tokens = 96
"""


def test_file_may_describe_the_order_of_training_data(tmp_path, mini_corpus):
    (tmp_path / "mine.toml").write_text(FACTS + ORDER)
    info = MODELS[str(tmp_path / "mine.toml")]
    assert info.order == Order("shards", rows_per_step=8, steps=120, row_tokens=96)
    np.save(tmp_path / "rows.npy", mini_corpus[:40].astype(np.uint16))
    corpus = lmmem.training_data(info.name, tmp_path / "rows.npy")
    np.testing.assert_array_equal(corpus[7], mini_corpus[7])
    assert corpus.exposure_step(8) == 2


def test_model_is_described_by_a_file_beside_its_weights(mini, tmp_path):
    (tmp_path / "step-000120").symlink_to(checkpoint_folder(NAME, 120))
    file = tmp_path / "mine.toml"
    file.write_text(FACTS)
    assert MODELS[str(file)].steps == (6, 120)
    model = load_model(str(file), 120)
    assert torch.equal(model.gpt_neox.embed_in.weight, mini.gpt_neox.embed_in.weight)
    with pytest.raises(ValueError, match="has no checkpoint of step 7; nearest: 6 and 120"):
        load_model(str(file), 7)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ("steps = [", "describes no model"),
        (
            "parameters = '1'",
            "describes no model: steps, training_data, dtype, sigma, source, place missing; it needs parameters, ",
        ),
        (FACTS.replace("place", "# place"), "place missing; it needs parameters, .*, source, place"),
        (FACTS.replace('"./step-{step:06d}"', '""'), "place missing"),
        (FACTS.replace("{step:06d}", "{stop}"), "may hold {step} and no other braces"),
        (FACTS + "colour = 'red'", "colour is no fact of a model: there are parameters, steps, "),
        (FACTS + "name = 'x'", "name is no fact of a model"),
        (FACTS.replace("sigma", "sigm"), r"sigm is no fact of a model: did you mean sigma\?"),
        (FACTS.replace("float32", "float8"), "dtype must be one of"),
        (FACTS.replace("0.01", "'0.01'"), "sigma = '0.01': give a number, 0 or more"),
        (FACTS.replace("0.01", "nan"), "sigma = nan: give a number, 0 or more"),
        (FACTS.replace("0.01", "true"), "sigma = True: give a number, 0 or more"),
        (FACTS.replace("[6, 120]", "120"), "steps = 120: give a list of whole numbers, 0 or more, ascending"),
        (FACTS.replace("[6, 120]", "['6', '120']"), r"steps = \['6', '120'\]: give a list of whole numbers"),
        (FACTS.replace("[6, 120]", "[120, 6]"), "steps must ascend"),
        (FACTS.replace('"me"', "7"), "source = 7: give text"),
        (FACTS + "paper_step = 6.5", "paper_step = 6.5: give a whole number, 0 or more"),
        (FACTS + "order = 'shards'", r"order = 'shards': give a table, \[order\]"),
        (
            FACTS + "[order]\nlayout = 'shards'",
            r"\[order\] rows_per_step, steps, row_tokens missing; it needs layout, ",
        ),
        (
            FACTS + ORDER.replace("row_tokens", "row_token"),
            r"\[order\] row_token is no fact .*: did you mean row_tokens",
        ),
        (FACTS + ORDER.replace("= 8", "= '8'"), r"\[order\] rows_per_step = '8': give a whole number"),
        (FACTS + ORDER.replace("= 8", "= 0"), "rows_per_step = 0: give 1 or more"),
        (FACTS + ORDER.replace("shards", "shard"), "layout must be one of shards, chunks"),
        (FACTS + ORDER.replace("shards", "organism"), "layout = 'organism' is made by lmmem itself"),
    ],
)
def test_file_that_describes_no_model_says_what_it_needs(tmp_path, facts, message):
    file = tmp_path / "mine.toml"
    file.write_text(facts)
    with pytest.raises(ValueError, match=message):
        MODELS[str(file)]
    with pytest.raises(ValueError, match=r"there is no file .*none\.toml that describes a model"):
        MODELS[str(tmp_path / "none.toml")]


def test_pythia_has_154_checkpoints():
    assert len(PYTHIA_STEPS) == 154
    assert PYTHIA_STEPS[:3] == (0, 1, 2)
    assert PYTHIA_STEPS[10:12] == (512, 1_000)
    assert PYTHIA_STEPS[-1] == 143_000


def test_amber_checkpoints_are_360():
    assert MODELS["amber7b"].steps == tuple(range(360))


def test_unknown_model_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown model 'pythia1'; did you mean 'pythia1b'\? Known: pocket, "):
        lmmem.load_model("pythia1")
    with pytest.raises(ValueError, match=r"unknown model 'zzz'\. Known: pocket"):
        resolve_step("zzz")
    with pytest.raises(ValueError, match="unknown model 'pocet'; did you mean 'pocket'"):
        load_tokenizer("pocet")


def test_no_step_is_the_last_one():
    assert resolve_step(NAME) == RECIPES[NAME].steps
    assert resolve_step(NAME, 6) == 6


@pytest.mark.parametrize(("step", "nearest"), [(7, "6 and 12"), (-1, "0 and 6"), (1_000, "114 and 120")])
def test_step_without_checkpoint_names_the_nearest(step, nearest):
    with pytest.raises(ValueError, match=f"no checkpoint of step {step}; nearest: {nearest}"):
        load_model(NAME, step)


@pytest.mark.parametrize("step", [True, "last", 1.5])
def test_step_that_is_no_number_is_refused(step):
    with pytest.raises(ValueError, match="step must be a whole number or None"):
        resolve_step(NAME, step)


def test_unknown_dtype_and_device_are_refused(mini):
    with pytest.raises(ValueError, match="unknown dtype 'float8'; choose one of float32, bfloat16, float16"):
        load_model(NAME, dtype="float8")
    with pytest.raises(ValueError, match="device 'abacus' cannot be used here"):
        load_model(NAME, device="abacus")


def test_entry_with_a_wrong_dtype_is_refused():
    with pytest.raises(ValueError, match="dtype must be one of"):
        ModelInfo("x", "1", (0,), "none", "float8", 0.1, "nowhere")


def test_model_is_ready_to_be_measured(mini):
    assert not mini.training
    assert mini.dtype == torch.float32
    assert sum(p.numel() for p in mini.parameters()) == pytest.approx(0.2e6, rel=0.2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_are_those_of_the_default_in_the_dtype_asked_for(mini, dtype):
    model = load_model(NAME, dtype=dtype)
    for ours, theirs in zip(model.parameters(), mini.parameters(), strict=True):
        assert torch.equal(ours, theirs.to(getattr(torch, dtype)))


def test_steps_are_different_weights(mini):
    assert weights_id(NAME, 120) != weights_id(NAME, 114)
    early = load_model(NAME, 6)
    assert not torch.equal(early.gpt_neox.embed_in.weight, mini.gpt_neox.embed_in.weight)


def test_tokenizer_gives_back_the_text(mini_corpus):
    tokenizer = load_tokenizer(NAME)
    text = "def f(x):\n    return x + 1  # Ünïcödé\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    row = mini_corpus[3]
    np.testing.assert_array_equal(tokenizer(tokenizer.decode(row))["input_ids"][-5:], row[-5:])
    assert tokenizer.eos_token_id == 0
