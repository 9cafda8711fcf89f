"""Organisms measured into results/, on the small one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lmmem
from lmmem.analysis import between_organisms, event_study, sections
from lmmem.experiments import replicates
from lmmem.experiments.__main__ import main
from lmmem.pocket import organisms
from lmmem.pocket.recipe import RECIPES
from lmmem.protocol import CONTINUATION
from lmmem.storage import tables
from lmmem.storage.files import DamagedError

NAME = "pocket-mini"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, mini) -> Path:
    folder = tmp_path_factory.mktemp("organisms")
    main([NAME, "--only", "organisms", "--results", str(folder)])
    folder = folder / "organisms"
    return folder


@pytest.mark.slow
def test_what_is_kept_is_what_the_study_measures(folder):
    study = lmmem.Study(NAME)
    kept = replicates.measured((NAME,), folder)
    assert kept.groupby("step").size().drop(120).nunique() == 1
    assert (kept.step == 120).sum() == len(study.sequences())
    last = study.greedy(study.sequences()).set_index("canary")
    ours = kept[kept.step == 120].set_index("passage").sort_index()
    np.testing.assert_array_equal(ours.kl_ld, last.kl_ld[ours.index])
    np.testing.assert_allclose(ours.cross_entropy, last.cross_entropy[ours.index], rtol=1e-6)
    assert ours.arm.tolist() == last.arm[ours.index].tolist()
    early = study.greedy(study.followed(study.sequences()), steps=[6]).set_index("canary")
    ours = kept[kept.step == 6].set_index("passage")
    np.testing.assert_array_equal(ours.kl_ld, early.kl_ld[ours.index])


def test_passages_of_different_organisms_are_told_apart(folder, tmp_path):
    for name in ("one", "another"):
        (tmp_path / f"{name}.parquet").write_bytes((folder / f"{NAME}.parquet").read_bytes())
    found = replicates.measured(("one", "missing", "another"), tmp_path)
    assert found.organism.unique().tolist() == ["one", "another"]
    assert not found.duplicated(["index", "step"]).any()
    assert found.groupby("organism").passage.nunique().nunique() == 1
    assert not set(found.block[found.organism == "one"]) & set(found.block[found.organism == "another"])
    assert replicates.measured(("missing",), tmp_path).empty


def test_results_of_another_recipe_are_refused(folder, tmp_path):
    table, record = tables.load(folder / f"{NAME}.parquet")
    tables.save(table, tmp_path / f"{NAME}.parquet", record | {"recipe": "0" * 12})
    with pytest.raises(DamagedError, match="is of another recipe of pocket-mini: make replicates"):
        replicates.measured((NAME,), tmp_path)


def test_file_says_what_was_measured_and_damage_is_refused(folder, tmp_path):
    _, record = tables.load(folder / f"{NAME}.parquet")
    assert record["recipe"] == RECIPES[NAME].key
    assert record["provenance"].startswith("model pocket-mini, step 120 (and 20 others), seed 0, float32")
    data = bytearray((folder / f"{NAME}.parquet").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / f"{NAME}.parquet").write_bytes(data)
    with pytest.raises(DamagedError, match=NAME):
        replicates.measured((NAME,), tmp_path)


def test_unknown_organism_is_refused_before_anything_is_trained(capsys):
    with pytest.raises(SystemExit):
        main(["pocket", "pocket-seed9"])
    assert "there is no organism pocket-seed9; there are pocket, " in capsys.readouterr().err


def test_committed_files_are_of_the_recipes_and_small():
    files = sorted(replicates.FOLDER.glob("*.parquet"))
    for file in files:
        _, record = tables.load(file)
        assert record["recipe"] == RECIPES[file.stem].key
    assert sum(file.stat().st_size for file in files) < 3e6


@pytest.mark.slow
def test_losses_of_the_reference_are_those_that_are_committed(mini_corpus):
    canaries = mini_corpus.canaries
    rows = mini_corpus[canaries["index"].to_numpy()]
    again = organisms.reference_losses(RECIPES[NAME].reference, rows)
    np.testing.assert_allclose(again, canaries.reference_loss, atol=0.1)  # another machine, or number of threads
    assert np.corrcoef(again, canaries.reference_loss)[0, 1] > 0.99
    lines = pd.read_parquet(organisms.REFERENCE_LOSSES)
    assert set(lines.organism) == {recipe.reference for recipe in RECIPES.values() if recipe.reference}


@pytest.mark.slow
def test_readme_opens_with_what_was_measured():
    runs = replicates.measured()
    opening = " ".join((replicates.FOLDER.parents[1] / "README.md").read_text().split("![")[0].split())
    found = sections.organisms(runs)
    followed = runs[runs.groupby("index").step.transform("nunique") == runs.step.nunique()]
    lags = event_study.by_lag(followed, "both", **event_study.once_and_never(sorted(followed.step.unique())))
    later = lags[lags.since.round() == 810].iloc[0]
    never = followed[(followed.step == followed.step.max()) & (followed.arm == "spread 0")]
    first, kl = found["bits"], found["kl"]
    ends = f"{first.low:.0f} to {first.high:.0f}"
    left = f"{later.low:.0f} to {later.high:.0f}, n = {later.n:.0f} passages"
    for said in (
        f"holds {first.estimate:.0f} bits of it at the next checkpoint (95 % interval {ends},",
        f"over {found['organisms']} models trained anew",
        f"of the {never.cross_entropy.mean() * CONTINUATION / np.log(2):.0f} that its 64 tokens cost",
        f"Half of them is gone after {found['halves']} steps of {runs.step.max():,}",
        f"{later.estimate:.0f} bits are left after 810 ({left})",
        f"{kl.estimate:.1f} tokens of 64 closer to the passage at first ({kl.low:.1f} to {kl.high:.1f})",
    ):
        assert said in opening


def test_readme_tells_what_one_exposure_leaves_by_size():
    readme = " ".join((replicates.FOLDER.parents[1] / "README.md").read_text().split())
    sized = {name: lmmem.MODELS[name].parameters for name in replicates.SIZED}
    found = between_organisms.by_size(replicates.measured(replicates.SIZED), sized)
    parts = [f"{bits} of {weights.split()[0]} million" for bits, weights in zip(found.bits, found.weights, strict=True)]
    parts[0] = parts[0].replace(" (", " bits (", 1) + " weights"
    halves = [half.split()[0] for half in found["half-life"]]
    assert f"{', '.join(parts)}. Half of that is gone after {', '.join(halves[:-1])} and {halves[-1]} steps" in readme
    tokens = [kl.split()[0] for kl in found["kl-LD ahead"]]
    assert f"shows a little more of it: {', '.join(tokens[:-1])} and {tokens[-1]} tokens." in readme
    assert f"One exposure each of the same passages, n = {set(found.attrs['n']).pop()}, and one model of" in readme
    least = found.more[1:].str.split().str[0].astype(float)
    assert ("by less each time" in readme) == least.is_monotonic_decreasing
