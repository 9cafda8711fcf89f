"""A scan of text whose truth is known: of what a small organism has met many times, and never."""

from __future__ import annotations

import inspect
import json
import json.decoder
import re

import numpy as np
import pandas as pd
import pytest
import torch

import lmmem
from lmmem.__main__ import main
from lmmem.analysis.scan import summary
from lmmem.experiments import scan as scanning
from lmmem.experiments.scan import TooLongError, read_texts
from lmmem.inference import decoding
from lmmem.pocket.organisms import checkpoint_folder
from lmmem.pocket.recipe import RECIPES
from tests.plain import plain_logits

NAME = "pocket-mini"
NEVER = "def never(seen):\n    return [one for one in seen if one is not None]\n" * 9


@pytest.fixture(scope="module")
def study() -> lmmem.Study:
    return lmmem.Study(NAME)


@pytest.fixture(scope="module")
def met(study) -> str:
    """The text of the canary that was presented most."""
    canaries = study.corpus.canaries
    best = canaries.sort_values("presentations").iloc[-1]
    return study.tokenizer.decode(study.corpus[[int(best["index"])]][0])


@pytest.fixture(scope="module")
def text(study, met) -> str:
    """It, within the source of a module that the organism has not met."""
    around = inspect.getsource(json.decoder)
    return f"{around[:3_000]}\n{met}\n{around[3_000:6_000]}"


@pytest.fixture(scope="module")
def scan(study, text):
    return study.scan(text)


def test_windows_are_scored_as_a_plain_pass_and_decoded_as_greedy_says(study, scan, text, mini):
    rows = np.stack([*study.text_sequences(text, stride=8).tokens])
    assert len(scan.windows) == len(rows)
    logits = plain_logits(mini, rows)[:, 31:-1].log_softmax(-1)
    truth = torch.from_numpy(rows[:, 32:])
    losses = -logits.gather(-1, truth[..., None])[..., 0].mean(1)
    np.testing.assert_allclose(scan.windows.cross_entropy, losses, rtol=1e-4)
    said = decoding.greedy(mini, rows[:, :32])
    first_wrong = [next((i for i in range(64) if a[i] != b[i]), 64) for a, b in zip(said, rows[:, 32:], strict=True)]
    np.testing.assert_array_equal(scan.windows.recited, first_wrong)
    decoded = scan.windows.kl_ld.notna().to_numpy()
    assert (decoded == ((scan.windows.recited >= 8) | (scan.windows.matches >= 48)).to_numpy()).all()
    np.testing.assert_array_equal(
        scan.windows.kl_ld[decoded].astype(int), lmmem.levenshtein(said[decoded], rows[decoded, 32:])
    )
    words = study.tokenizer.batch_decode(said[decoded]) if decoded.any() else []
    assert scan.windows.said[decoded].tolist() == words


def test_what_is_recited_to_its_end_is_known_as_if_it_were_decoded(study, mini, text):
    prompts = study.corpus[:50][:, :32]
    own = study.tokenizer.batch_decode(np.concatenate([prompts, decoding.greedy(mini, prompts)], axis=1))
    own = [one for one in own if len(study.tokenizer(one, add_special_tokens=False).input_ids) >= 96]
    scan = study.scan([*own, text], stride=32)
    rows = np.stack([*study.text_sequences([*own, text], stride=32).tokens])
    near = scan.windows.kl_ld.notna().to_numpy()
    said = decoding.greedy(mini, rows[near, :32])
    assert scan.windows.said[near].tolist() == study.tokenizer.batch_decode(said)
    np.testing.assert_array_equal(scan.windows.kl_ld[near].astype(int), lmmem.levenshtein(said, rows[near, 32:]))
    assert (scan.windows.recited == 64).sum() > 20
    assert (scan.windows.recited < 64)[near].any()


class Rounding(lmmem.Study):
    """Whose pass rounds so that it takes everything for recited, as in half precision it may."""

    def likelihood(self, sequences, **options):
        return super().likelihood(sequences, **options).assign(recited=64, matches=64)


def test_in_half_precision_what_the_pass_calls_recited_is_decoded_all_the_same(text, monkeypatch):
    for name, few in {"ROWS": 4, "CHANGED": 2, "PROMPTS": 1, "NEAR": 1}.items():
        monkeypatch.setattr(scanning, name, few)
    study = Rounding(NAME, dtype="float16")
    found = study.scan(text[:1_500], stride=64).windows
    rows = np.stack([*study.text_sequences(text[:1_500], stride=64).tokens])
    said = decoding.greedy(lmmem.load_model(NAME, dtype="float16"), rows[:, :32])
    np.testing.assert_array_equal(found.kl_ld.astype(int), lmmem.levenshtein(said, rows[:, 32:]))
    assert (found.kl_ld > 0).all() and found.said.tolist() == study.tokenizer.batch_decode(said)


def test_characters_of_windows_are_those_of_their_tokens(study, scan, text):
    for line in scan.windows.iloc[::7].itertuples():
        assert (
            study.tokenizer(text[line.begin : line.end], add_special_tokens=False).input_ids[5:-5]
            == (study.tokenizer(text, add_special_tokens=False).input_ids[line.token + 37 : line.token + 91])
        )
        assert line.ends[-1] == line.end
        assert line.prompt_begin < line.begin < line.end


def test_canary_that_was_met_often_is_the_likeliest_place(scan, text, met):
    likeliest = scan.windows.loc[scan.windows.cross_entropy.idxmin()]
    assert abs(likeliest.prompt_begin - text.index(met)) < len(met) // 4


def test_control_of_an_organism_is_what_it_has_not_met(study, scan):
    assert scan.of.endswith("rows of its training data's kind that it has not met")
    assert not scan.chosen
    always = {"rule", "words", "longest", "found", "loss", "changed", "verdict", "decoded"}
    assert summary(scan).keys() == always | ({"left out"} if scan.left_out else set())
    assert scan.changed.groupby("windows").size().max() == 32


def test_control_that_is_given_is_taken_and_must_not_be_the_text(study, text):
    scan = study.scan(text, NEVER, stride=32)
    assert scan.chosen and scan.of == "text given as never seen"
    with pytest.raises(ValueError, match="control: all of it shares runs of 16 tokens with the text: give other text"):
        study.scan(text, text, stride=32)


def test_model_without_training_data_has_prose_as_control(tmp_path, mini, study, text):
    mini.save_pretrained(tmp_path)
    study.tokenizer.save_pretrained(tmp_path)
    scan = lmmem.Study(str(tmp_path)).scan(text, stride=64)
    assert scan.of == "the prose of lmmem, younger than most models"
    assert 256 < len(scan.control) <= 512 and scan.control["index"].is_unique  # however much prose there is
    assert scan.control.groupby("text").token.diff().dropna().nunique() <= 2
    np.testing.assert_allclose(scan.windows.cross_entropy, study.scan(text, stride=64).windows.cross_entropy, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("none.txt", None, "there is no such file"),
        ("binary.txt", b"abc\0def", "is binary: give a file of text in UTF-8"),
        ("latin.txt", "abc\xe9def".encode("latin-1"), r"is not in UTF-8 \(byte 3\)"),
        ("a.jsonl", b'{"text": "one"}\n{"txt": "two"}\n', 'line 2: give a string, or an object with a "text"'),
        ("a.jsonl", b'"one"\nnone\n', "line 2: no JSON"),
        ("a.jsonl", b"\n", "has no line"),
    ],
)
def test_files_that_hold_no_text_are_refused_in_one_line(tmp_path, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_texts(tmp_path / name)


def test_lines_of_json_are_texts(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(one) for one in ["one", {"text": "two\nlines"}]) + "\n\n")
    assert read_texts(path) == ["one", "two\nlines"]
    (tmp_path / "a.md").write_text("\ufeff# One\n", encoding="utf-8")
    assert read_texts(tmp_path / "a.md") == ["# One\n"]


@pytest.fixture
def new(mini, study, tmp_path, monkeypatch) -> lmmem.Study:
    """The small organism with nothing measured, its training data not known."""
    mini.save_pretrained(tmp_path / "model")
    study.tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.setenv("LMMEM_CACHE", str(tmp_path / "cache"))
    return lmmem.Study(str(tmp_path / "model"))


def test_scan_that_would_take_too_long_measures_nothing_and_says_which_stride_would_not(
    new, text, tmp_path, monkeypatch
):
    long = text * 10
    assert new.seconds_a_pass(new.text_sequences(text)) > 0
    monkeypatch.setattr(new, "seconds_a_pass", lambda windows: 0.01)  # or what else runs here would choose the stride
    with pytest.raises(TooLongError) as error:
        new.scan(long, NEVER, stride=1, longest=0.01 * 5_000 / 60)
    assert not (tmp_path / "cache" / "results").exists()
    n = len(new.text_sequences(long, stride=1))
    assert str(error.value).startswith(f"{n:,} windows of text, ")
    assert str(error.value).endswith(f" longest={error.value.minutes} lets it run")
    assert f"stride={error.value.stride} takes about " in str(error.value)
    assert error.value.stride > 1


def test_scan_that_no_stride_makes_short_enough_says_so(new, text):
    message = r" s here, what is decoded aside: no stride makes it short enough; longest=\d+ lets it run"
    with pytest.raises(ValueError, match=message):
        new.scan(text, NEVER, stride=64, longest=1e-9)
    with pytest.raises(ValueError, match="longest=0: give minutes, more than 0"):
        new.scan(text, longest=0)


def test_what_is_on_disk_takes_no_time(new, text):
    found = new.scan(text, stride=32)
    again = new.scan(text, stride=32, longest=1e-9)
    pd.testing.assert_frame_equal(again.windows, found.windows)
    with pytest.raises(TooLongError):
        new.scan(text, stride=16, longest=1e-9)


def test_long_scan_is_announced_in_one_line(new, text, monkeypatch, capsys):
    new.scan(text, stride=64)
    monkeypatch.setattr(scanning, "SAID", 0.0)
    new.scan(text, stride=64)
    assert "scan: " not in capsys.readouterr().err
    new.scan(text, stride=32)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("scan: ")]
    n = len(new.text_sequences(text, stride=32))
    assert len(lines) == 1 and lines[0].startswith(f"scan: {n} windows of text, ")
    assert lines[0].endswith(" s here, what is decoded aside")


def test_windows_of_another_stride_are_counted_as_they_would_be(study, text):
    texts = [text, text[:1_500], text * 2]
    for stride, other in ((8, 16), (8, 64), (5, 40), (16, 512)):
        windows = study.text_sequences(texts, stride=stride)
        assert 0 <= len(study.text_sequences(texts, stride=other)) - scanning._many(windows, stride, other) <= 3


def test_command_that_would_take_too_long_names_the_flags(new, text, tmp_path, capsys):
    (tmp_path / "text.md").write_text(text)
    command = ["scan", new.model, str(tmp_path / "text.md"), "--longest", "1e-9"]
    assert main(command) == 2
    told = capsys.readouterr()
    assert told.out == "" and len([line for line in told.err.splitlines() if line.startswith("lmmem: ")]) == 1
    assert re.search(r" --longest \d+ lets it run\n$", told.err)
    limit = new.seconds_a_pass(new.text_sequences(text)) * 5_000 / 60
    (tmp_path / "text.md").write_text(text * 10)
    assert main([*command[:3], "--stride", "1", "--longest", str(limit)]) == 2
    assert " --stride " in capsys.readouterr().err


def test_command_prints_what_the_scan_says_and_writes_the_report(tmp_path, text, scan, capsys):
    (tmp_path / "text.md").write_text(text)
    assert main(["scan", NAME, str(tmp_path / "text.md"), "--html", str(tmp_path / "out.html")]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told == [*summary(scan).values()]
    page = (tmp_path / "out.html").read_text()
    assert f"What {NAME} has memorised of text.md" in page and "http" not in page.replace("http-equiv", "")
    assert main(["scan", NAME, str(tmp_path / "text.md"), "--html", str(tmp_path / "no" / "out.html")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    (tmp_path / "short.md").write_text("too short")
    assert main(["scan", NAME, str(tmp_path / "short.md")]) == 2
    assert "give a longer text" in capsys.readouterr().err


def test_report_on_a_model_in_a_folder_names_the_end_of_its_path(mini, tmp_path, text, capsys):
    folder = checkpoint_folder(NAME, RECIPES[NAME].steps)
    (tmp_path / "text.md").write_text(text)
    assert main(["scan", str(folder), str(tmp_path / "text.md"), "--html", str(tmp_path / "out.html")]) == 0
    page = (tmp_path / "out.html").read_text()
    assert f"What {folder.parent.name}/{folder.name} has memorised of text.md" in page


def test_single_window_has_no_other_prompt_and_is_left_out_of_what_is_changed(study):
    text = inspect.getsource(json.decoder)
    ids = study.tokenizer(text, add_special_tokens=False).input_ids[:96]
    scan = study.scan(study.tokenizer.decode(ids), stride=96)
    assert len(scan.windows) == 1
    assert scan.changed.windows.unique().tolist() == ["the control"]
