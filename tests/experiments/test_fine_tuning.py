"""Texts that a training presents a known number of times, and a watch on them that does not disturb it."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import GPTNeoXForCausalLM, Trainer, TrainerCallback, TrainingArguments

import lmmem
from lmmem.experiments.fine_tuning import Watch, assign
from lmmem.experiments.sequences import of_text
from tests.plain import plain_greedy, plain_logits

PREFIX = (7, 8, 9)
ROWS = 4  # of a step


@pytest.fixture(scope="module")
def texts(mini, mini_corpus) -> pd.DataFrame:
    """Twenty passages that pocket-mini has met once or never, numbered out of order."""
    never = mini_corpus.canaries.sort_values("presentations")["index"].head(20)
    return pd.DataFrame({"index": range(20), "text": range(119, 99, -1), "tokens": [*mini_corpus[never.to_numpy()]]})


@pytest.fixture(scope="module")
def canaries(mini, texts) -> pd.DataFrame:
    return assign(mini, texts, presentations=(0, 0, 1, 2, 6), seed=3)


@pytest.fixture(scope="module")
def order(canaries) -> np.ndarray:
    return np.random.default_rng(0).permutation(canaries.text.repeat(canaries.presentations))


def shaky(model: GPTNeoXForCausalLM) -> GPTNeoXForCausalLM:
    """A copy with dropout, which draws by chance as long as it trains, and room for a prefix."""
    config = copy.deepcopy(model.config)
    config.hidden_dropout = config.attention_dropout = 0.2
    config.max_position_embeddings = 128
    shaking = GPTNeoXForCausalLM(config)
    shaking.load_state_dict(model.state_dict())
    return shaking


def trained(model, canaries, order, callbacks, folder: Path, resume: str | None = None, **options) -> None:
    rows = dict(zip(canaries.text, map(list, canaries.tokens), strict=True))
    rows = [{"input_ids": rows[text], "labels": rows[text]} for text in order]
    usual = {"per_device_train_batch_size": ROWS, "num_train_epochs": 1, "train_sampling_strategy": "sequential"}
    quiet = {"report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
    usual |= quiet | {"learning_rate": 5e-3, "dataloader_pin_memory": False, "use_cpu": True, "seed": 5}
    arguments = TrainingArguments(output_dir=str(folder), **usual | options)
    Trainer(model=model, args=arguments, train_dataset=rows, callbacks=callbacks).train(resume_from_checkpoint=resume)


class Copies(TrainerCallback):
    """Keeps the weights after each step, and asks nothing."""

    def __init__(self) -> None:
        self.kept = {}

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.kept[state.global_step] = {name: of.clone() for name, of in kwargs["model"].state_dict().items()}


@pytest.fixture(scope="module")
def both(mini, canaries, order, tmp_path_factory):
    """A training with a watch, and the same without one."""
    watch, copies = Watch(canaries, order, ROWS, every=3), Copies()
    watched, alone = shaky(mini), shaky(mini)
    trained(watched, canaries, order, [watch], tmp_path_factory.mktemp("watched"))
    trained(alone, canaries, order, [copies], tmp_path_factory.mktemp("alone"))
    return watch, watched, copies, alone


def plain_loss(model, prompts, truth) -> np.ndarray:
    """Nats per token of the truth, by one plain forward pass."""
    rows = torch.tensor(np.concatenate([prompts, truth], axis=1))
    scores = plain_logits(model, rows)[:, :-1].double().log_softmax(dim=-1)
    return -scores.gather(2, rows[:, 1:, None])[..., 0][:, -truth.shape[1] :].mean(dim=1).numpy()


def test_each_block_holds_each_presentation_once_and_neighbours_in_loss(mini, texts, canaries):
    loss = plain_loss(mini.eval(), *lmmem.split(np.stack([*texts.tokens])))
    np.testing.assert_allclose(canaries.loss, loss, atol=1e-5)
    ranks = loss.argsort().argsort()
    assert canaries.block.tolist() == [rank // 5 for rank in ranks]
    for _, block in canaries.groupby("block"):
        assert sorted(block.presentations) == [0, 0, 1, 2, 6]
    assert canaries.arm.tolist() == [f"spread {m}" for m in canaries.presentations]
    pd.testing.assert_frame_equal(canaries[[*texts]], texts)


@pytest.mark.slow
def test_chance_gives_each_text_each_presentation_alike(mini, texts):
    few = texts.head(3)
    drawn = [tuple(assign(mini, few, (0, 1, 4), seed).presentations) for seed in range(240)]
    counts = pd.Series(drawn).value_counts()
    assert len(counts) == 6
    assert counts.between(21, 59).all()  # 40, s.d. 5.8
    assert drawn[5] == tuple(assign(mini, few, (0, 1, 4), 5).presentations)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"presentations": (0, 1.5)}, r"^presentations=1\.5: give a whole number, 0 or more$"),
        ({"presentations": (0, True)}, r"^presentations=True: give a whole number"),
        ({"presentations": (0, -1)}, r"^presentations=-1: give a whole number"),
        ({"presentations": (1, 4)}, r"^presentations=\(1, 4\): give 0, the texts held out, and a number above it$"),
        ({"presentations": (0, 0)}, r"^presentations=\(0, 0\): give 0"),
        ({"presentations": ()}, r"^presentations=\(\): give 0"),
        (
            {"presentations": (0, 1, 4)},
            r"^20 texts do not fill blocks of 3, one for each of presentations=\(0, 1, 4\)$",
        ),
        ({"presentations": (0, *range(1, 25))}, r"^20 texts do not fill blocks of 25"),
        ({"seed": -1}, r"^seed=-1"),
    ],
)
def test_assignment_that_cannot_be_is_refused_in_one_line(mini, texts, changed, said):
    with pytest.raises(ValueError, match=said):
        assign(mini, texts, **changed)


def test_texts_twice_or_without_tokens_are_refused(mini, texts):
    with pytest.raises(ValueError, match=r"^text 119 is there twice: give one window of each, .*token == 0\]$"):
        assign(mini, texts.assign(text=119))
    with pytest.raises(ValueError, match=r"^sequences: no column tokens; "):
        Watch(texts[["text"]], [1], 1)


def test_texts_too_short_are_refused_where_they_are_cut():
    with pytest.raises(ValueError, match=r"^text 0 has 3 tokens; a window is of 96"):
        of_text(lmmem.load_tokenizer("pocket-mini"), "short")


def test_weights_are_the_same_bit_for_bit_with_and_without_a_watch(mini, both):
    _, watched, _, alone = both
    assert any(not torch.equal(one, other) for one, other in zip(watched.parameters(), mini.parameters(), strict=True))
    for one, other in zip(watched.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other)


def test_watch_says_what_the_weights_of_each_step_say(mini, both, canaries):
    watch, _, copies, _ = both
    assert sorted(watch.table.step.unique()) == [0, 3, 6, 9]
    prompts, truth = lmmem.split(np.stack([*canaries.tokens]))
    copies.kept[0] = mini.state_dict()
    asked = shaky(mini).eval()
    for step, lines in watch.table.groupby("step"):
        asked.load_state_dict(copies.kept[step])
        assert lines.kl_ld.tolist() == lmmem.levenshtein(plain_greedy(asked, prompts), truth).tolist()
        np.testing.assert_allclose(lines.cross_entropy, plain_loss(asked, prompts, truth), atol=1e-4)


def test_presentations_so_far_are_those_of_the_rows_trained_on(both, order):
    watch, *_ = both
    for line in watch.table.itertuples():
        assert line.presented == list(order[: ROWS * line.step]).count(line.text)
    last = watch.table[watch.table.step == 9]
    assert last.presented.tolist() == last.presentations.tolist()


def test_exposure_is_known_in_steps(both, order):
    watch, *_ = both
    for line in watch.sequences.itertuples():
        at = [1 + place // ROWS for place, text in enumerate(order) if text == line.text]
        assert (line.exposure_step, line.last_step) == (min(at), max(at)) if at else pd.isna(line.exposure_step)
    assert watch.table.exposure_step.dtype == "Int64"


def test_what_is_presented_often_is_remembered_and_what_is_held_out_is_not(mini, canaries, tmp_path):
    often = canaries.assign(presentations=canaries.presentations.map({0: 0, 1: 0, 2: 0, 6: 60}))
    order = np.random.default_rng(0).permutation(often.text.repeat(often.presentations))
    watch = Watch(often, order, ROWS, every=30)
    trained(shaky(mini), often, order, [watch], tmp_path, lr_scheduler_type="constant")
    end = watch.table[watch.table.step == 60].groupby("presentations")[["cross_entropy", "presented"]].mean()
    assert end.cross_entropy[60] < 1 < 3 < end.cross_entropy[0]
    assert end.presented.to_dict() == {0: 0, 60: 60}


def test_measuring_leaves_modes_and_random_state_alone(mini, canaries, order):
    model = shaky(mini).train()
    model.gpt_neox.layers[0].eval()
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    global_state = np.random.get_state()[1]  # noqa: NPY002
    Watch(canaries, order, ROWS).measure(model, 1)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], global_state)  # noqa: NPY002
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_loop_of_ones_own_measures_when_it_says_and_a_step_again_takes_its_place(mini, canaries, order):
    watch, model = Watch(canaries, order, ROWS), shaky(mini)
    watch.measure(mini, 2)
    watch.measure(model, 2)
    watch.measure(model, 0)
    assert watch.table.step.tolist() == [0] * 20 + [2] * 20
    watch.measure(mini, 2)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    watch.measure(model, 2)
    np.testing.assert_allclose(watch.table.cross_entropy[20:], np.log(512), rtol=1e-6)


def test_prefix_is_read_and_not_counted(mini, canaries, order):
    model = shaky(mini)
    watch = Watch(canaries.assign(prefix=[PREFIX] * 20), order, ROWS)
    watch.measure(model, 0)
    prompts, truth = lmmem.split(np.stack([*canaries.tokens]))
    behind = np.concatenate([np.tile(PREFIX, (20, 1)), prompts], axis=1)
    np.testing.assert_allclose(watch.table.cross_entropy, plain_loss(model.eval(), behind, truth), atol=1e-5)
    assert not {"tokens", "prefix"} & {*watch.table}
    blocks = assign(model, canaries[["text", "tokens"]].assign(prefix=[PREFIX] * 20))
    np.testing.assert_allclose(blocks.loss, plain_loss(model, behind, truth), atol=1e-5)
    with pytest.raises(ValueError, match=r"several prefixes, \(\), \(7, 8, 9\): measure each apart"):
        Watch(canaries.assign(prefix=[PREFIX, ()] * 10), order, ROWS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"train_sampling_strategy": "random"}, 'the rows are shuffled.*give train_sampling_strategy="sequential"$'),
        ({"num_train_epochs": 2}, "^order is of 9 steps, and this training takes 18: give num_train_epochs=1, and an"),
        ({"per_device_train_batch_size": 2}, "^rows_per_step=4, and this training takes 2: 2 on all devices, 1 times"),
        ({"auto_find_batch_size": True}, "^auto_find_batch_size changes how many rows a step takes: leave it out"),
        ({"gradient_accumulation_steps": 3}, "^rows_per_step=4, and this training takes 12: 4 on all devices, 3 times"),
    ],
)
def test_training_on_other_rows_than_those_in_the_order_is_refused_before_it_begins(
    mini, canaries, order, options, said, tmp_path
):
    model = shaky(mini)
    with pytest.raises(ValueError, match=said):
        trained(model, canaries, order, [Watch(canaries, order, ROWS)], tmp_path, **options)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), mini.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"^order has 36 rows, and train_dataset 35$"):
        trained(model, canaries, order[1:], [Watch(canaries, order, ROWS)], tmp_path)


@pytest.mark.slow
def test_training_that_goes_on_with_its_first_row_is_refused(mini, canaries, order, tmp_path):
    watch = Watch(canaries, order, ROWS)
    trained(shaky(mini), canaries, order, [], tmp_path, save_strategy="steps", save_steps=4, max_steps=4)
    rest = {"resume": str(tmp_path / "checkpoint-4"), "max_steps": 8}
    with pytest.raises(
        ValueError, match=r"^this training goes on at step 4 with ignore_data_skip=True, so with the first"
    ):
        trained(shaky(mini), canaries, order, [watch], tmp_path, ignore_data_skip=True, **rest)
    trained(shaky(mini), canaries, order, [watch], tmp_path, **rest)
    assert watch.table.step.min() == 4


def test_accumulated_batches_are_one_step(mini, canaries, order, tmp_path):
    watch = Watch(canaries, order, 12)
    options = {"gradient_accumulation_steps": 3, "learning_rate": 1e-4}
    trained(shaky(mini), canaries, order, [watch], tmp_path, **options)
    assert sorted(watch.table.step.unique()) == [0, 3]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rows_per_step": 0}, "^rows_per_step=0: give a whole number, 1 or more$"),
        ({"every": 2.5}, r"^every=2\.5: give a whole number, 1 or more$"),
        (
            {"order": [0.5]},
            r"^order: give the number of the text of each row, a whole number; got float64 of shape \(1,\)",
        ),
        ({"order": [[1, 2]]}, r"got int64 of shape \(1, 2\)$"),
    ],
)
def test_watch_that_cannot_count_is_refused_in_one_line(canaries, order, changed, said):
    with pytest.raises(ValueError, match=said):
        Watch(canaries, **{"order": order, "rows_per_step": ROWS} | changed)


def test_order_that_presents_a_text_another_number_of_times_is_refused(canaries, order):
    text = order[0]
    wanted = int(canaries.presentations[canaries.text == text].iloc[0])
    said = f"^text {text} is to be presented {wanted} times, and is {wanted - 1} times in the order$"
    with pytest.raises(ValueError, match=said):
        Watch(canaries, order[1:], ROWS)
