"""A scan of text whose truth is known: of what a small organism has met many times, and never."""

from __future__ import annotations

import inspect
import io
import json
import json.decoder
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import lmmem
from lmmem.__main__ import main
from lmmem.analysis.runs import COPIED
from lmmem.analysis.scan import found, summary, verdict
from lmmem.experiments import scan as scanning
from lmmem.experiments.scan import TooLongError, decoded, named_texts, read_texts
from lmmem.experiments.sequences import unmet_rows
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
    rows = np.stack([*study.text_sequences(scan.texts, stride=32).tokens])  # some are said twice
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
    files = study.corpus.canaries.set_index("index").file
    unmet = unmet_rows(NAME, study.corpus, study.step, 256, study.seed)
    assert scan.control.text.nunique() <= files.loc[unmet].nunique() < len(unmet)  # rows of one file are of one text
    assert not scan.control.duplicated(["text", "token"]).any() and (scan.control.token % 1_024 == 0).all()
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
        ("..", None, "is a folder: give a file"),
        ("a.jsonl", b'"one"\n"\\ud83d two"\n', r"a\.jsonl, line 2: character 0 is half of a pair, and no text"),
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
    assert named_texts(path) == {f"{path}, line 1": "one", f"{path}, line 2": "two\nlines"}
    path.write_text('"one\u2028and\x85a half"\n"two"', encoding="utf-8")
    assert read_texts(path) == ["one\u2028and\x85a half", "two"]
    with pytest.raises(ValueError, match=r"a\.jsonl, line 1 is given twice"):
        named_texts(path, path)
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
    assert f"{tmp_path / 'short.md'} has " in (told := capsys.readouterr().err) and "give a longer text" in told
    assert main(["scan", NAME, str(tmp_path / "text.md"), "--control", str(tmp_path / "short.md")]) == 2
    assert f"{tmp_path / 'short.md'} has " in capsys.readouterr().err
    (tmp_path / "two.jsonl").write_text(f'{json.dumps(text)}\n\n"too short"\n')
    assert main(["scan", NAME, str(tmp_path / "two.jsonl")]) == 2
    assert f"{tmp_path / 'two.jsonl'}, line 3 has " in capsys.readouterr().err


def test_report_is_written_to_no_folder_and_over_nothing_that_is_read(tmp_path, text, monkeypatch, capsys):
    monkeypatch.setattr(lmmem, "Study", None)  # nothing may be measured before
    read, beside = tmp_path / "text.md", tmp_path / "beside.md"
    for path in (read, beside):
        path.write_text(text)
    (tmp_path / "linked.html").symlink_to(read)
    for page, message in (
        (tmp_path, "give a file to write the report to"),
        ("", "give a file to write the report to"),
        (read, "is a file that is read: give another"),
        (beside, "is a file that is read: give another"),
        (tmp_path / "linked.html", "is a file that is read: give another"),
        ("/proc/page.html", "nothing can be written there"),
    ):
        assert main(["scan", NAME, str(read), "--control", str(beside), "--html", str(page)]) == 2
        assert len((told := capsys.readouterr().err).splitlines()) == 1 and message in told
    assert read.read_text() == beside.read_text() == text
    assert {path.name for path in tmp_path.iterdir()} == {"text.md", "beside.md", "linked.html"}


def test_command_takes_several_controls(tmp_path, text, capsys):
    source = inspect.getsource(inspect)
    for number in range(2):
        (tmp_path / f"{number}.py").write_text(source[9_000 * number : 9_000 * number + 8_000])
    (tmp_path / "text.md").write_text(text)
    command = ["scan", NAME, str(tmp_path / "text.md"), "--stride", "64"]
    for number in range(2):
        command += ["--control", str(tmp_path / f"{number}.py")]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "the texts of the control differ by up to" in told and "needs 39 control texts, each a file" in told
    assert told.splitlines()[6].endswith("and there are 2.")


def test_half_of_a_pair_is_no_text_to_trace(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d and words"}\n')
    assert main(["trace", NAME, str(tmp_path / "a.jsonl")]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lmmem: ")]
    assert len(told) == 1 and told[0].endswith("line 1: character 0 is half of a pair, and no text")


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
    assert scan.changed.windows.unique().tolist() == ["the likeliest of the control"]


def test_lines_end_alike_however_they_end_in_the_file(tmp_path, text, monkeypatch, capsys):
    for name, end in (("windows.py", b"\r\n"), ("old.py", b"\r")):
        (tmp_path / name).write_bytes(text.encode().replace(b"\n", end))
        assert read_texts(tmp_path / name) == [text]
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text.replace("\n", "\r\n")}))
    assert read_texts(tmp_path / "a.jsonl") == [text]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"import\r\n" * 40)))
    assert main(["trace", NAME, "-"]) == 0
    assert "\\r" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="what is piped is binary"):
        decoded(b"\0", "what is piped")


def test_text_that_is_given_twice_counts_once(study, text):
    source = inspect.getsource(inspect)
    never = [source[:3_000], source[9_000:12_000]]
    once = study.scan([text, NEVER], never, stride=64)
    twice = study.scan({"a": text, "b": NEVER, "c": text}, [*never, never[0]], stride=64)
    pd.testing.assert_frame_equal(twice.windows, once.windows)
    pd.testing.assert_frame_equal(twice.control, once.control)
    assert (once.twice, twice.twice, twice.texts) == ((0, 0), (1, 1), [text, NEVER])


@pytest.mark.parametrize("control", [[], {}, [3], 3])
def test_control_without_a_text_is_refused(study, text, control):
    with pytest.raises(ValueError, match=r"control=.*: give a text, or a list of them"):
        study.scan(text, control, stride=64)


def test_small_control_is_answered_by_words_alone(study, text):
    source = inspect.getsource(inspect)
    told = summary(study.scan(text, source[:1_000], stride=64))
    assert ", by their words alone, as the control has " in told["found"]
    assert ": no verdict: the loss lies " in told["verdict"]


def test_copied_tokens_end_a_run_that_stands_before_in_their_window():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 2, (40, 96))
    rows[0], rows[1, 40:60] = 7, rows[1, 10:30]
    expected = np.zeros((40, 64), dtype=bool)
    for row, place in np.ndindex(40, 64):
        runs = [tuple(rows[row, end - 8 : end]) for end in range(8, 96 + 1)]
        expected[row, place] = runs[32 + place - 7] in runs[: 32 + place - 7]
    np.testing.assert_array_equal(scanning._copied(rows), expected)
    assert COPIED == scanning.COPIED == 8


def test_row_of_asterisks_is_set_aside(study):
    scan = study.scan("# notes\n" + "*" * 1_500, stride=32)
    told = summary(scan)
    assert f"Found are 0 of {len(scan.windows)} windows" in told["found"]
    assert f"Set aside, as they repeat themselves, are {len(scan.windows)} of them" in told["found"]
    assert told["longest"] == "Nothing is recited but what repeats itself."


def asked_after(places: pd.DataFrame) -> pd.DataFrame:
    """Of what a scan asks with other prompts: where prompt and continuation lie, by tokens that say it themselves."""
    rows = []

    def likelihood(sequences: pd.DataFrame) -> pd.DataFrame:
        rows.extend(sequences.tokens[: len(sequences) * 8 // 12])  # the others have other words
        return pd.DataFrame({"cross_entropy": np.zeros(len(sequences))})

    windows = places.assign(tokens=[10_000 * line.text + line.token + np.arange(96) for line in places.itertuples()])
    study = SimpleNamespace(
        seed=0,
        tokenizer=SimpleNamespace(batch_decode=lambda ids: ["a"] * len(ids)),
        sequences=lambda tokens, prefix: pd.DataFrame({"tokens": [*tokens]}),
        likelihood=likelihood,
    )
    measured = places.assign(cross_entropy=1.0 + places.token)
    found = scanning._changed(study, windows, measured, ("the likeliest windows", "others"))
    assert all(len(part) <= 32 for part in found)
    asked = np.stack(rows)
    return pd.DataFrame({"prompt": asked[:, 0], "own": asked[:, -1] - 95})


@pytest.mark.parametrize("texts", [1, 2])
def test_other_prompts_are_of_another_place(texts):
    places = pd.concat([pd.DataFrame({"text": text, "token": 8 * np.arange(40)}) for text in range(texts)])
    asked = asked_after(places.reset_index(drop=True))
    assert (np.abs(asked.prompt - asked.own) >= 96).all()
    assert len(asked) == 8 * (40 if texts == 1 else 64)
    assert (asked.prompt // 10_000 != asked.own // 10_000).any() == (texts == 2)


def test_windows_without_another_place_are_not_asked_after_other_prompts(study):
    scan = study.scan(inspect.getsource(json.decoder)[:280], stride=8)
    assert len(scan.windows) > 1 and scan.windows.token.max() < 96
    assert scan.changed.windows.unique().tolist() == ["the likeliest of the control"]


def test_what_is_said_keeps_the_space_that_it_begins_with():
    unknown = {"unk_token": "<unk>"}
    backend = Tokenizer(models.BPE(**unknown, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    alphabet = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = np.random.default_rng(0).choice(["only", "words", "and", "spaces", "once", "more"], 120)
    text = " ".join(words) + " \N{GREEK SMALL LETTER ALPHA}" * 20
    backend.train_from_iterator(words, trainers.BpeTrainer(vocab_size=300, special_tokens=alphabet))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **unknown)
    study = SimpleNamespace(tokenizer=tokenizer, model="a model")
    windows = scanning.windows_of(study, [text], 1)
    rows = np.stack([*windows.tokens])
    said = scanning._as_text(study, rows[:, :32], rows[:, 32:])
    truth = [text[begin:end] for begin, end in zip(windows.begin, windows.end, strict=True)]
    for one, other in zip(said, truth, strict=True):
        letters = one.rstrip("\N{REPLACEMENT CHARACTER}")  # the last token may be a part of one
        assert other.startswith(letters) and len(other) - len(letters) <= 1
    assert all(one.startswith(" ") for one in said)
    assert not any(one.startswith(" ") for one in tokenizer.batch_decode(rows[:, 32:]))


LIBRARY = Path(json.__file__).parents[1]  # Python's own, which the organism has never met
COLUMNS = ["index", "text", "token", "recited", "copied", "recited_copied", "cross_entropy"]


def of_file(study: lmmem.Study, path: Path) -> pd.DataFrame:
    """The windows of the first 2,500 tokens of a file, measured."""
    windows = scanning.windows_of(study, read_texts(path)[0][:6_000], 8)
    windows = windows[windows.token < 2_500 - 96].reset_index(drop=True)
    return scanning._measured(study, windows, path.name)[COLUMNS]


@pytest.fixture(scope="module")
def library(study) -> list[pd.DataFrame]:
    """Twelve files, by size, evenly among those of 20 kB or more."""
    sizes = sorted((path.stat().st_size, path) for path in LIBRARY.glob("*.py"))
    files = [path for size, path in sizes if size > 20_000 and not path.name.startswith("_")]
    return [of_file(study, path) for path in files[:: len(files) // 12][:12]]


def together(tables: list[pd.DataFrame], which: np.ndarray) -> pd.DataFrame:
    return pd.concat([tables[text].assign(text=text) for text in which], ignore_index=True)


@pytest.mark.slow
def test_files_that_were_never_seen_are_seldom_said_to_be_known(library):
    n, rng = len(library), np.random.default_rng(0)
    beside = [verdict(library[one], library[one - 1], chosen=True) for one in range(n)]
    assert all(said.startswith("no verdict: the loss lies ") for said in beside)
    drawn = [rng.permutation(n) for _ in range(60)]
    said = [verdict(together(library, one[:4]), together(library, one[4:]), chosen=True) for one in drawn]
    assert sum(one.startswith("known better") for one in said) <= stats.binom.ppf(0.99, 60, 0.05)
    assert not any(one.startswith("no verdict") for one in said)


@pytest.mark.slow
def test_little_is_found_in_files_that_were_never_seen(library):
    n = len(library)
    every = np.arange(n)
    named = [found(library[one], together(library, every[every != one]), chosen=True).any() for one in range(n)]
    assert sum(named) <= stats.binom.ppf(0.99, n, 0.05)
    short = [found(library[one], library[one - 1][:16], chosen=True).any() for one in range(n)]
    assert sum(short) <= stats.binom.ppf(0.99, n, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["site.py", "profile.py"])
def test_rows_of_asterisks_in_files_that_were_never_seen_are_recited_and_not_found(study, library, name):
    windows = of_file(study, LIBRARY / name)
    assert windows.recited.max() >= 32
    hit = found(windows, together(library, np.arange(len(library))), chosen=True)
    assert not (hit & (windows.recited >= 16)).any()
