"""Where a text comes from: runs with their rows and steps, against the design, plain loops, and rows of a Hub."""

from __future__ import annotations

import io
import sys

import numpy as np
import pandas as pd
import pytest
from tokenizers.processors import TemplateProcessing

import lmmem
from lmmem.__main__ import main
from lmmem.corpora.corpus import Corpus
from lmmem.experiments.tracing import trace_table
from lmmem.inference.decoding import greedy
from lmmem.models.loading import load_tokenizer
from lmmem.models.registry import AMBER_STRIDE, MODELS
from lmmem.pocket.organisms import checkpoint_folder
from tests import stand_ins

NAME = "pocket-mini"
PAPER_ROW = 10_240_000


@pytest.fixture(scope="module")
def study(cache) -> lmmem.Study:
    return lmmem.Study(NAME)


@pytest.fixture(scope="module")
def text(study) -> str:
    """Natural text of the training data amid text that is not of it, on lines of their own."""
    row = study.corpus[next(i for i in range(960) if i not in set(study.corpus.presented["index"]))]
    return "Nothing of this was there.\n" + study.tokenizer.decode(row.tolist()) + "\nNor was this, surely."


@pytest.mark.parametrize("presentations", [1, 16])
def test_canary_is_where_and_when_the_design_presents_it(study, presentations):
    corpus = study.corpus
    chosen = corpus.canaries[(corpus.canaries.presentations == presentations) & (corpus.canaries.group == "spread")]
    assert len(chosen) > 3
    for canary in chosen.itertuples():
        presented = corpus.presented[corpus.presented.canary == canary.canary]
        (found,) = study.trace(corpus[canary.index]).itertuples()
        assert (found.token, found.length, found.occurrences) == (0, 96, presentations)
        assert found.rows == sorted(presented["index"])
        assert (found.first_step, found.last_step) == (presented.step.min(), presented.step.max())
        assert found.presentations == presentations


@pytest.mark.parametrize("step", [12, 60, 96])
def test_row_that_is_met_after_the_step_does_not_count(step):
    study = lmmem.Study(NAME, step)
    presented = study.corpus.presented
    canary = study.corpus.canaries.query("presentations == 16 and group == 'spread'").iloc[0]
    until = presented[(presented.canary == canary.canary) & (presented.step <= step)]
    tokens = study.corpus[canary["index"]]
    (found,) = study.trace(tokens).itertuples()
    assert (found.rows, found.presentations) == (sorted(until["index"]), len(until))
    assert found.last_step == until.step.max() <= step
    (all_of_it,) = study.trace(tokens, later=True).itertuples()
    assert all_of_it.presentations == 16


def test_presentations_of_the_base_count_in_what_is_derived_from_it(study):
    derived = lmmem.Study("pocket-mini-hidden")
    canary = study.corpus.canaries.query("group == 'spread' and presentations == 16").iloc[0]
    (found,) = derived.trace(study.corpus[canary["index"]]).itertuples()
    assert (found.length, found.occurrences, found.presentations) == (96, 16, 16)
    alike = derived.corpus.canaries.query("group == 'hidden' and presentations == 0").iloc[0]
    (found,) = derived.trace(derived.corpus[alike["index"]][:32]).itertuples()  # the prompt, taught with other words
    assert found.occurrences > 0 and found.presentations == 0


def test_passage_that_is_held_out_is_not_there_unless_it_is_asked_for(study):
    twin = study.corpus.canaries.query("presentations == 0").iloc[0]
    tokens = study.corpus[twin["index"]]
    none = study.trace(tokens)
    assert len(none) == 0
    assert none.attrs == {"searched": "all 960 rows that pocket-mini has met by step 120", "tokens": 96, "covered": 0}
    (found,) = study.trace(tokens, later=True).itertuples()
    assert (found.length, found.rows) == (96, [twin["index"]])
    assert found.first_step is found.last_step is pd.NA
    assert found.presentations == 0


def test_run_of_a_text_stands_at_its_character_and_reads_as_it_does_there(study, text):
    found = study.trace(text)
    (longest,) = found[found.length == found.length.max()].itertuples()
    assert longest.length > 80
    assert text[longest.character :].startswith(longest.run)
    ids = study.tokenizer(text).input_ids
    assert study.tokenizer.decode(ids[longest.token : longest.token + longest.length]) == longest.run
    pd.testing.assert_frame_equal(study.trace(ids), found.drop(columns="character"))
    assert found.attrs["covered"] == sum(found.length) < found.attrs["tokens"] == len(ids)


def test_what_a_model_says_is_traced(study):
    sequences = study.sequences(n=2, arms={"spread": [0, 16]})
    found = [(said, study.trace(said, least=4)) for said in study.greedy(sequences, keep_tokens=True).said]
    assert sum(map(len, (table for _, table in found))) > 3
    for said, table in found:
        for run in table.itertuples():
            part = list(said[run.token : run.token + run.length])
            rows = study.corpus[run.rows].tolist()
            assert all(any(part == row[k : k + run.length] for k in range(96)) for row in rows)


@pytest.mark.parametrize(("lag", "step"), [(1, 3), (0, 2)])
def test_steps_are_those_of_the_rows_that_hold_the_run(lag, step):
    rng = np.random.default_rng(4)
    rows = rng.integers(0, 900, (40, 20))
    text = rng.integers(0, 900, 30)
    holding = [3, 9, 11, 29, 39]
    rows[holding, 2:14] = text[5:17]
    corpus = Corpus(rows, rows_per_step=8, steps=4, exposure_lag=lag)
    (found,) = trace_table(NAME, corpus, text, step, least=10).itertuples()
    met = [row for row in holding if row // 8 + lag <= step]
    assert met == holding[:3]
    assert (found.rows, found.first_step, found.last_step) == (met, 0 + lag, 1 + lag)
    assert found.presentations is pd.NA
    assert not found.crosses
    (later,) = trace_table(NAME, corpus, text, step, least=10, later=True).itertuples()
    assert (later.rows, later.last_step) == (holding, 3 + lag)  # row 39 is held out, and has no step


def test_part_of_the_rows_is_searched_and_said(study):
    canary = study.corpus.canaries.query("presentations == 16 and group == 'spread'").iloc[0]
    tokens, rows = study.corpus[canary["index"]], study.trace(study.corpus[canary["index"]]).rows[0]
    some = study.trace(tokens, first_row=rows[3], n_rows=rows[6] - rows[3])
    assert some.rows[0] == rows[3:6]
    assert some.attrs["searched"] == (
        f"rows {rows[3]:,} .. {rows[6] - 1:,}, {rows[6] - rows[3]:,} of those that pocket-mini has met by step 120: "
        "what is not found in them may stand in others"
    )
    assert study.trace(tokens, n_rows=40).attrs["searched"].startswith("rows 920 .. 959, 40 of those that")


def test_rows_of_pythia_are_fetched_a_window_at_a_time_and_it_is_said(loopback, tmp_path):
    block = stand_ins.rows(64, stand_ins.FEW, 1)
    shards = stand_ins.write_shards(tmp_path, {PAPER_ROW: block}, 11_300_000)
    loopback.add(MODELS["pythia1b"].order.repo, shards, repo_type="dataset")
    tokens = np.concatenate([block[7, 100:150], block[3, :40]])
    corpus = lmmem.training_data("pythia1b")
    found = trace_table("pythia1b", corpus, tokens, 11_000, n_rows=48)
    assert found[["token", "length", "rows"]].values.tolist() == [[0, 50, [PAPER_ROW + 7]], [50, 40, [PAPER_ROW + 3]]]
    assert found.first_step.tolist() == [10_001, 10_001]
    assert found.attrs["searched"].startswith(
        "rows 10,240,000 .. 10,240,047, 48 of those that pythia1b has met by step 11000: what is not found in them may"
    )
    assert sum(request.sent for request in loopback.ranges()) < 1.5 * 48 * 2 * 2_049
    late = trace_table("pythia1b", corpus, tokens, 1_000, n_rows=48)  # the paper's rows come later
    assert len(late) == 0
    assert late.attrs["searched"].startswith("rows 1,023,952 .. 1,023,999, 48 of those that pythia1b has met by")
    with pytest.raises(
        ValueError, match=r"first_row=10240000: the rows that pythia1b has met by step 1000 are 0 \.\. "
    ):
        trace_table("pythia1b", corpus, tokens, 1_000, first_row=PAPER_ROW)


def test_lines_of_amber_are_searched_from_the_paper_s_chunk_on(loopback):
    block = stand_ins.rows(60, stand_ins.FEW, 3)
    block[40, 10:40] = block[5, 20:50]
    files = {f"train/train_{chunk}.jsonl": stand_ins.chunk(block) for chunk in ("099", "100")}
    loopback.add(MODELS["amber7b"].order.repo, files, repo_type="dataset")
    corpus = lmmem.training_data("amber7b")
    for step in (101, 99):  # at the last, its last chunk that is met
        begin = min(step, 100) * AMBER_STRIDE
        (found,) = trace_table("amber7b", corpus, block[5, 20:50], step, n_rows=60).itertuples()
        assert found.rows == [begin + 5, begin + 40]
        assert found.first_step == found.last_step == corpus.exposure_step(begin)
    with pytest.raises(IndexError, match="it has 60 lines"):
        trace_table("amber7b", corpus, block[5, 20:50], 101)


@pytest.fixture
def mine(tmp_path) -> str:
    """A model of one's own, without steps, beside its rows."""
    stand_ins.write_own(tmp_path, steps=(60,), rows_per_step=8)
    return str(tmp_path / "step-000060")


def test_rows_of_ones_own_are_searched_by_path(mine, tmp_path):
    rows = np.load(tmp_path / "rows.npy")
    study = lmmem.Study(mine, data=tmp_path / "rows.npy", rows_per_step=8)
    found = study.trace(rows[11])
    assert found[["length", "rows", "first_step"]].values.tolist() == [[96, [11], 2]]
    assert found.attrs["searched"] == f"all 480 rows of the training data of {mine}, whose step is not known"
    assert study.trace(rows[0]).rows[0] == list(range(0, 480, 8))


@pytest.mark.parametrize(
    ("asked", "options", "message"),
    [
        ([5, 6, 7], {}, "least=16 does not fit: the text has 3 tokens"),
        ("one", {}, "least=16 does not fit: the text has"),
        ("", {}, "least=16 does not fit: the text has 0 tokens"),
        ([5] * 200, {"least": 97}, "least=97 does not fit: rows have 96 tokens"),
        ([5] * 20, {"least": 2.5}, r"least=2\.5: give a whole number, 1 or more"),
        ([5] * 20, {"n_rows": 0}, "n_rows=0: give a whole number, 1 or more"),
        ([5] * 20, {"first_row": -1}, "first_row=-1: give a whole number, 0 or more"),
        ([5] * 20, {"first_row": 960}, r"first_row=960: the rows that pocket-mini has met by step 120 are 0 \.\. 959"),
        ([5] * 20 + [512], {}, r"holds ids 5 \.\. 512; the vocabulary of pocket-mini is 0 \.\. 511"),
        ([-1] * 20, {}, r"holds ids -1 \.\. -1; the vocabulary"),
        ([0.5] * 20, {}, "token ids as one row, not float64"),
        ([[5] * 20], {}, "token ids as one row, not int64 of shape"),
    ],
)
def test_what_cannot_be_traced_is_one_line(study, asked, options, message):
    with pytest.raises(ValueError, match=message) as error:
        study.trace(asked, **options)
    assert "\n" not in str(error.value)


def test_corpus_without_rows_and_a_model_that_has_met_none_are_refused(study):
    empty = Corpus(np.empty((0, 96), np.uint16), 8, 0)
    with pytest.raises(ValueError, match="the training data of pocket-mini hold no row to search"):
        trace_table(NAME, empty, [5] * 20, 120)
    with pytest.raises(ValueError, match="pocket-mini has met no row by step 0: choose a later step, or search later"):
        lmmem.Study(NAME, 0).trace([5] * 20)


def test_model_without_training_data_says_what_to_give(mine):
    with pytest.raises(ValueError, match=r"the training data of .* in order are not known here: give them as a path"):
        lmmem.Study(mine).trace([5] * 20)


def said_by(capsys, *arguments: str) -> list[str]:
    assert main(["trace", NAME, *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_command_prints_each_run_with_its_place(study, text, tmp_path, capsys):
    (tmp_path / "text.txt").write_text(text)
    searched, summary, head, *lines, legend = said_by(capsys, str(tmp_path / "text.txt"))
    found = study.trace(text)
    assert searched == "searched: all 960 rows that pocket-mini has met by step 120"
    assert summary.startswith(f"runs of 16 tokens or more: {len(found)}, with {found.attrs['covered']} of the text's ")
    names = ["place", "token", "length", "occurrences", "repeats", "rows", "steps", "presentations", "run"]
    assert head.split() == names  # none crosses
    assert len(lines) == len(found)
    for line, run in zip(lines, found.itertuples(), strict=True):
        above = text[: run.character].split("\n")
        place = f"{len(above)}:{len(above[-1]) + 1}"
        assert line.split()[:5] == [place, *map(str, (run.token, run.length, run.occurrences, run.repeats))]
        assert repr(run.run)[1:40] in line
    assert legend.startswith("place: line and character")


def test_command_reads_what_is_piped_and_searches_what_is_asked_for(study, text, monkeypatch, capsys):
    (row,) = study.trace(text).query("length > 80").rows.iloc[0]
    for arguments, searched, found in (
        (["--first-row", str(row), "--rows", "1"], f"rows {row} .. {row}, 1 of those that pocket-mini has met by ", 1),
        (["--first-row", str(row + 1), "--rows", "5", "--least", "80"], f"rows {row + 1} .. {row + 5}, 5 of those ", 0),
        (["--step", "60", "--later", "--least", "80"], f"all {len(study.corpus)} rows of the training data of ", 1),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        first, second, *_ = said_by(capsys, "-", *arguments)
        assert first.startswith(f"searched: {searched}")
        assert first.endswith("what is not found in them may stand in others") == ("--rows" in arguments)
        assert f" tokens or more: {found}, with " in second


def test_command_says_that_a_run_crosses_the_rows_of_ones_own(study, tmp_path, capsys):
    """A text that was cut into rows and not shuffled, of a model in a folder."""
    source = "".join(f"Line {number} of {number**3} lines, {number % 7 * 'again '}.\n" for number in range(300))
    ids = np.array(study.tokenizer(source).input_ids)
    np.save(tmp_path / "rows.npy", ids[: len(ids) // 96 * 96].reshape(-1, 96))
    begins = study.tokenizer(source, return_offsets_mapping=True).offset_mapping
    (tmp_path / "text.txt").write_text("xyz\n" + source[begins[96 * 3 - 40][0] : begins[96 * 3 + 50][0]] + "\nxyz")
    own = ["--data", str(tmp_path / "rows.npy"), "--rows-per-step", "2"]
    assert main(["trace", str(checkpoint_folder(NAME, 120)), str(tmp_path / "text.txt"), *own]) == 0
    searched, _, head, *lines, legend = capsys.readouterr().out.splitlines()
    assert searched.endswith("whose step is not known")
    names = ["place", "token", "length", "occurrences", "repeats", "rows", "steps", "crosses", "run"]
    assert head.split() == names  # without canaries, no presentations
    assert [line.split()[5:8] for line in lines] == [["2", "2", "yes"], ["3", "2", "yes"]]
    assert legend.endswith("crosses: the end of a row has cut it")


def test_what_the_model_says_after_a_text_is_traced(study, mini, tmp_path, capsys):
    row = study.corpus[[5]][0, :32]
    prompt = study.tokenizer.decode(row)
    ids = np.array([study.tokenizer(prompt, add_special_tokens=False).input_ids])
    said = greedy(mini, ids)[0]
    np.testing.assert_array_equal(study.continued(prompt), said)
    np.testing.assert_array_equal(study.continued(prompt, 5), said[:5])
    (tmp_path / "text.txt").write_text(prompt)
    first, *told = said_by(capsys, str(tmp_path / "text.txt"), "--continued", "--least", "3")
    assert first == f"continued: {study.tokenizer.decode(said)!r}"
    found = study.trace(said, 3)
    assert told[1].startswith(
        f"runs of 3 tokens or more: {len(found)}, with {found.attrs['covered']} of the text's 64 "
    )
    assert [line.split()[:2] for line in told[3:-1]] == found[["token", "length"]].astype(str).to_numpy().tolist()
    for text, message in ((prompt * 9, "do not fit the model's context of 96"), ("", "the text has no tokens")):
        with pytest.raises(ValueError, match=message):
            study.continued(text)


def test_what_is_continued_stands_behind_what_the_tokenizer_puts_before_a_text(mini, tmp_path):
    tokenizer = load_tokenizer(NAME)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 3)])
    mini.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ids = tokenizer("import numpy", add_special_tokens=False).input_ids
    expected = greedy(mini, [[3, *ids]])[0]
    np.testing.assert_array_equal(lmmem.Study(str(tmp_path)).continued("import numpy"), expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "is not in UTF-8"),
        (b"short", "least=16 does not fit: the text has"),
        (b'"one"\n"two"', "text.jsonl holds 2 texts: give one"),
        (None, "there is no such file"),
    ],
)
def test_command_refuses_what_it_cannot_read_in_one_line(tmp_path, capsys, content, message):
    path = tmp_path / ("text.jsonl" if content and b"\n" in content else "text")
    if content is not None:
        path.write_bytes(content)
    assert main(["trace", NAME, str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lmmem: ")
    assert error.count("\n") == 1
    assert message in error
