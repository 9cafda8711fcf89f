"""A study: what its measurements share, and that its tables are those of the functions below it."""

from __future__ import annotations

import dataclasses
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import lmmem
from lmmem.experiments import disturbed, measurements, sequences, texts
from lmmem.experiments import study as study_module
from lmmem.experiments.measuring import device_here
from lmmem.experiments.study import MEASURED, NOISE_COST
from lmmem.models.loading import download_size
from lmmem.models.registry import MODELS, ModelInfo
from lmmem.pocket.organisms import checkpoint_folder
from tests import stand_ins

NAME = "pocket-mini"


@pytest.fixture(scope="module")
def study(cache) -> lmmem.Study:
    return lmmem.Study(NAME, seed=3)


@pytest.fixture(scope="module")
def chosen(study) -> pd.DataFrame:
    return study.sequences(n=4, arms={"spread": [0, 1, 16]})


def test_study_says_what_it_is(study):
    assert repr(study) == f"Study of pocket-mini at step 120, seed 3, float32 on {device_here()}"
    assert repr(lmmem.Study("pythia1b", dtype="bfloat16", device="cuda", scheduler="local:2")) == (
        "Study of pythia1b at step 11000, seed 0, bfloat16 on cuda on local:2"
    )
    assert study.steps == MODELS[NAME].steps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "pocet"}, "did you mean 'pocket'"),
        ({"step": 7}, "nearest: 6 and 12"),
        ({"dtype": "float8"}, "unknown dtype 'float8'"),
        ({"scheduler": "somewhere"}, 'give "local"'),
        ({"seed": -1}, "seed=-1: give a whole number"),
        ({"seed": "x"}, "seed='x': give a whole number"),
    ],
)
def test_study_that_cannot_be_made_is_refused_before_anything_is_loaded(options, message):
    with pytest.raises(ValueError, match=message):
        lmmem.Study(**{"model": NAME} | options)


def test_measurements_are_those_of_the_functions_with_the_columns_of_the_sequences(study, chosen, mini_corpus):
    index = chosen["index"].tolist()
    for found, expected in (
        (study.greedy(chosen), measurements.greedy_table(NAME, mini_corpus, index)),
        (
            study.perturbed(chosen, sigma=0.05, draws=4),
            disturbed.perturbation_table(NAME, mini_corpus, index, sigma=0.05, draws=4, seed=3),
        ),
        (
            study.perturbed(chosen, sigma=0.1, draws=2, unit="tensor", only="norms"),
            disturbed.perturbation_table(
                NAME, mini_corpus, index, sigma=0.1, draws=2, seed=3, unit="tensor", only="norms"
            ),
        ),
        (
            study.sampled(chosen, temperatures=[0.5, 1.0], samples=3),
            measurements.temperature_table(NAME, mini_corpus, index, temperatures=[0.5, 1.0], samples=3, seed=3),
        ),
        (study.greedy(chosen, steps=[6, 120]), measurements.greedy_table(NAME, mini_corpus, index, [6, 120])),
    ):
        key = [c for c in ("step", "sigma", "draw", "temperature", "sample", "index") if c in expected]
        pd.testing.assert_frame_equal(
            found[expected.columns].sort_values(key, ignore_index=True), expected.sort_values(key, ignore_index=True)
        )
        arms = found.drop_duplicates("index").set_index("index").arm
        pd.testing.assert_series_equal(arms.sort_index(), chosen.set_index("index").arm.sort_index())


def test_cost_of_noise_is_the_loss_of_unexposed_passages_above_the_undisturbed(study, mini_corpus):
    found = study.cost_of_noise([0.02, 0.08], draws=2, on=study.unmet(6))
    never = mini_corpus.canaries[mini_corpus.canaries.presentations == 0]
    index = np.sort(never["index"].sample(6, random_state=3).to_numpy())
    model, cut = lmmem.load_model(NAME), lmmem.split(mini_corpus[index])
    before = lmmem.cross_entropy(model, *cut).mean()
    with lmmem.perturbed(model, 0.08, seed=3, draw=1):
        after = lmmem.cross_entropy(model, *cut).mean()
    line = found[(found.sigma == 0.08) & (found.draw == 1)].iloc[0]
    np.testing.assert_allclose([line.cost, line.undisturbed, line.n], [after - before, before, 6], rtol=1e-4)
    assert found.groupby("sigma").cost.mean().is_monotonic_increasing
    part = study.cost_of_noise(0.1, only="norms", unit="tensor", draws=1, on=study.unmet(6))
    assert part[["sigma", "unit", "only"]].to_numpy().tolist() == [[0.1, "tensor", "norms"]]


def test_sigma_by_its_cost_costs_that(study):
    for cost, unit in ((0.05, "weight"), (0.5, "weight"), (0.1, "tensor")):
        sigma = study.sigma_that_costs(cost, unit=unit)
        np.testing.assert_allclose(study.cost_of_noise(sigma, unit=unit).cost.mean(), cost, rtol=0.06)
    for cost in (0, -1, float("nan"), "much"):
        with pytest.raises(ValueError, match="give nats per token, above 0"):
            study.sigma_that_costs(cost)
    with pytest.raises(ValueError, match="noise up to sigma 100 costs less than that"):
        study.sigma_that_costs(1e9)


def test_sigma_whose_cost_jumps_past_what_is_wanted_is_refused(monkeypatch):
    """A cost of 0 that becomes 0.4 at once: noise that costs nothing is not what was asked for."""
    study = lmmem.Study(NAME)
    costs = {"jump": 0.4}

    def cost(self, sigma, **options):
        return pd.DataFrame({"cost": [costs["jump"] * (sigma >= 0.0123)]})

    monkeypatch.setattr(lmmem.Study, "cost_of_noise", cost)
    with pytest.raises(
        ValueError,
        match=r"cost=0\.03: at sigma 0\.0123 noise costs 0, and then 0\.4: give a sigma, or measure in float32",
    ):
        study.sigma_that_costs(0.03)
    costs["jump"] = 0.04  # a step, as of half precision
    assert study.sigma_that_costs(0.03) == pytest.approx(0.0123, rel=0.01)


def test_sequences_of_another_organism_are_refused(study):
    other = dataclasses.replace(
        study.corpus, canaries=study.corpus.canaries.assign(canary=study.corpus.canaries.canary.to_numpy()[::-1])
    )
    with pytest.raises(ValueError, match="these sequences are not of pocket-mini: give what its own study chooses"):
        study.greedy(lmmem.Study(NAME, data=other).sequences(n=2, arms={"spread": [0, 16]}))


def test_arms_that_are_presented_later_are_refused_at_an_early_step(study, mini_corpus):
    early = lmmem.Study(NAME, 60)
    found = early.sequences()
    assert (found.last_step.dropna() <= 60).all() and "q4 16" not in set(found.arm)
    with pytest.raises(
        ValueError, match=r"^no passage of q4 16 has had all of its presentations by step 60: choose a step"
    ):
        early.sequences(n=2, arms={"spread": [0], "q4": [16]})
    with pytest.raises(
        ValueError, match=r"^no passage has had all of its presentations by step 0: choose a step from \d+ "
    ):
        lmmem.Study(NAME, 0).sequences()
    with pytest.raises(ValueError, match="arms: there is no q9 16; there are"):
        early.sequences(n=2, arms={"spread": [0], "q9": [16]})
    assert early.arms_among({"spread": [0, 1], "q4": [16]}) == {"spread": [0, 1]}
    late = study.sequences(n=2, arms={"spread": [0], "q4": [16]})
    assert set(study.greedy(late, steps=[60, 120]).step) == {60, 120}
    unknown = lmmem.Study(str(checkpoint_folder(NAME, 120)), data=mini_corpus)  # its step is not known
    assert set(unknown.sequences(n=2, arms={"spread": [0], "q4": [16]}).arm) == {"spread 0", "q4 16"}


def test_text_that_is_given_twice_is_no_two_texts(study):
    one, two = ("import json; " * 80, "import pandas; " * 80)
    with pytest.raises(ValueError, match="known: a text is there twice, which would count as two: give each once"):
        study.known_and_never([one, one], [two, two + "x"])
    with pytest.raises(ValueError, match="a text is among the known and the never seen: 'import json; "):
        study.known_and_never([one, two], [one, two + "x"])


def test_rows_beside_canaries_are_asked_too(study):
    both = pd.concat([study.sequences(n=2, arms={"spread": [0, 16]}), study.sequences(rows=[3, 40])], ignore_index=True)
    assert study.greedy(both).kl_ld.notna().all()


def test_step_and_mean_of_steps_are_not_asked_at_once(study, chosen):
    with pytest.raises(ValueError, match=r"steps=\[6\] and mean_of=\[114, 120\]: give one of the two"):
        study.greedy(chosen, steps=[6], mean_of=[114, 120])


def test_model_without_a_sigma_of_its_own_gets_one_by_its_cost(mini_corpus):
    folder = str(checkpoint_folder(NAME, 120))
    study = lmmem.Study(folder, data=dataclasses.replace(mini_corpus, canaries=None))
    np.testing.assert_allclose(study.cost_of_noise(study.sigma).cost.mean(), NOISE_COST, rtol=0.06)
    with pytest.raises(ValueError, match="sigma=None: give a number, no default is known of"):
        disturbed.perturbation_table(folder, mini_corpus, [3], draws=1)
    assert lmmem.Study(NAME).sigma == lmmem.MODELS[NAME].sigma


def test_model_without_training_data_gets_its_sigma_by_the_prose_of_lmmem(cache):
    study = lmmem.Study(str(checkpoint_folder(NAME, 120)))
    prose = study.unmet(8)
    assert len(prose) == 8 and prose["index"].is_unique
    own = study.text_sequences(texts.own_prose(), stride=96)
    for index, tokens in zip(prose["index"], prose.tokens, strict=True):
        np.testing.assert_array_equal(tokens, own.tokens[index])
    np.testing.assert_allclose(study.cost_of_noise(study.sigma).cost.mean(), NOISE_COST, rtol=0.06)
    sigma = study.sigma_that_costs(0.2, on=prose)
    np.testing.assert_allclose(study.cost_of_noise(sigma, on=prose).cost.mean(), 0.2, rtol=0.06)


def test_each_sequence_that_was_just_met_is_measured_at_its_own_step(study, mini_corpus):
    chosen = study.just_met(n_checkpoints=3, n_twins=2)
    once = chosen[chosen.presentations == 1]
    assert chosen["at"].nunique() == 3
    for at, exposure in zip(once["at"], once.exposure_step, strict=True):
        assert exposure <= at
        assert not [step for step in study.steps if exposure <= step < at]  # none is nearer
    sizes = chosen.groupby(["at", "block", "presentations"]).size().unstack(fill_value=0)
    assert (sizes[0] >= sizes[1]).all()
    found, noisy = study.greedy(chosen), study.perturbed(chosen, sigma=0.05, draws=2)
    for at, part in chosen.groupby("at"):
        direct = lmmem.kl_ld(lmmem.load_model(NAME, at), *lmmem.split(mini_corpus[part["index"].to_numpy()]))
        here = found[found.step == at].set_index("index").kl_ld
        np.testing.assert_array_equal(here[part["index"]], direct)
    assert len(noisy) == 2 * len(chosen)
    with pytest.raises(ValueError, match="these sequences say at which step each is asked for"):
        study.greedy(chosen, steps=[6])
    for options in ({"n_checkpoints": 0}, {"n_twins": 0}):
        with pytest.raises(ValueError, match=r"=0: give a whole number, 1 or more"):
            study.just_met(**options)


def test_rows_of_a_model_that_is_no_organism_were_met_last(mini_corpus):
    study = lmmem.Study(NAME, 60, data=dataclasses.replace(mini_corpus, canaries=None))
    chosen = study.just_met()
    assert set(chosen["at"]) == {60}
    met = chosen[chosen.presentations == 1].exposure_step
    assert (met.max(), met.min() > 30) == (60, True)
    assert (chosen[chosen.presentations == 0].exposure_step > 60).all()


def test_twins_are_so_many_of_each_block(study):
    chosen = study.sequences(3, arms={"spread": [0, 1, 16]}, n_twins=2)
    sizes = chosen.groupby("arm").size()
    exposed = chosen[chosen.presentations > 0]
    assert sizes["spread 16"] == 3
    assert sizes["spread 0"] == 2 * exposed.block.nunique()
    assert set(chosen[chosen.presentations == 0].block) == set(exposed.block)


def test_parts_are_kinds_and_some_layers(study):
    assert study.parts(1) == ["layer 0", "embeddings", "attention", "MLP", "norms"]
    assert study.parts()[:2] == ["layer 0", "layer 1"]


def test_noise_is_said_to_point_to_other_steps(study):
    found = study.resembling([60], draws=2)
    assert found.change.unique().tolist() == ["to step 60", "at random"]


def test_several_sigmas_are_one_table(study, chosen):
    found = study.perturbed(chosen, sigma=[0.01, 0.05], draws=2)
    assert found.groupby("sigma").size().to_dict() == {0.01: 2 * len(chosen), 0.05: 2 * len(chosen)}


def test_nobody_s_number_of_sequences_is_all_there_are_or_at_most_so_many(study):
    assert study.sequences().groupby("arm").size().max() == 12
    assert study.sequences(at_most=5).groupby("arm").size().max() == 5
    assert study.sequences(at_most=50).groupby("arm").size().max() == 12
    with pytest.raises(ValueError, match="n_sequences=13: give a whole number per arm, from 1 to the 12 there are"):
        study.sequences(n=13, at_most=5)
    for ask in (study.sequences, study.natural):
        with pytest.raises(ValueError, match="n_sequences=0: give a whole number"):
            ask(0)


def test_rows_of_the_corpus_can_be_asked_about(study, mini_corpus):
    found = study.greedy(study.sequences(rows=[900, 3]))
    assert found["index"].tolist() == [900, 3]
    assert found.exposure_step.tolist() == mini_corpus.exposure_step([900, 3]).tolist()
    np.testing.assert_array_equal(found.kl_ld, measurements.greedy_table(NAME, mini_corpus, [900, 3]).kl_ld)


def test_tokens_of_ones_own_can_be_asked_about(study, mini_corpus):
    own = study.sequences(tokens=mini_corpus[[900, 3]])
    found = study.greedy(own, keep_tokens=True)
    np.testing.assert_array_equal(found.kl_ld, measurements.greedy_table(NAME, mini_corpus, [900, 3]).kl_ld)
    assert np.stack([*found.said]).shape == (2, 64)
    few = study.greedy(own[1:])
    assert few["index"].tolist() == [1]
    assert few.kl_ld.tolist() == found.kl_ld[1:].tolist()
    for wrong in ([[1, 2, 3]], np.zeros((2, 96)), np.zeros(96, int)):
        with pytest.raises(ValueError, match="tokens: give rows of at least 96 token ids"):
            study.sequences(tokens=wrong)


def test_sequence_that_is_given_twice_is_refused(study, chosen):
    with pytest.raises(ValueError, match="holds an index twice"):
        study.greedy(pd.concat([chosen, chosen]))


def test_table_that_was_measured_is_no_choice_of_sequences(study, chosen, mini_corpus):
    own = study.sequences(tokens=mini_corpus[[900, 3]])
    sampled = study.sampled(chosen, temperatures=[0.5], samples=1, keep_tokens=True)
    noisy = study.perturbed(chosen, sigma=0.01, draws=1)
    for found in (study.greedy(chosen, keep_tokens=True), study.greedy(own, keep_tokens=True), sampled, noisy):
        for ask in (study.greedy, study.cost):
            with pytest.raises(ValueError, match=r"holds model, step, .*: give the table of Study\.sequences itself"):
                ask(found)
        with pytest.raises(ValueError, match=r"sequences holds (said|kl_ld), which were measured"):
            study.greedy(found[["index", "said" if "said" in found else "kl_ld"]])
        assert set(found) - set(chosen) - set(own) <= MEASURED


def test_cost_and_provenance_are_of_the_study(mini, chosen, capsys):
    study = lmmem.Study(NAME, seed=3)
    said = study.cost(chosen, draws=200)
    assert said.startswith(f"{201 * len(chosen):,} continuations of 64 tokens: about ")
    assert said.endswith(", if nothing of it has been measured before")
    assert "weights are here" in capsys.readouterr().out
    study.greedy(chosen)
    study.greedy(chosen, steps=[6, 12])
    assert study.provenance().startswith(
        f"model pocket-mini, step 120 (and 2 others), seed 3, float32 on {device_here()} ("
    )


def test_cost_is_of_all_steps_and_says_whether_their_weights_fit(loopback, monkeypatch, capsys):
    for step in (10_000, 11_000):
        loopback.add("EleutherAI/pythia-1b", stand_ins.files_of(stand_ins.pythia(step)), revision=f"step{step}")
    each = 1_000 * download_size("pythia1b", 10_000)
    monkeypatch.setattr(study_module, "download_size", lambda name, step: 1_000 * download_size(name, step))
    monkeypatch.setattr(measurements, "seconds_each", lambda *_, **__: 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=3 * each // 2))
    study = lmmem.Study("pythia1b", 11_000)
    chosen = study.sequences(tokens=np.arange(192).reshape(2, 96))
    one, two, free = (f"{size / 1e9:.1f} GB" for size in (each, 2 * each, 1.5 * each))
    assert study.cost(chosen).startswith("2 continuations of 64 tokens: about 20 s")
    assert f": {one} of weights to fetch, {free} free on disk; timing" in capsys.readouterr().out
    assert study.cost(chosen, steps=[10_000, 11_000]).startswith("4 continuations of 64 tokens: about 40 s")
    said = f": {two} of weights to fetch for 2 steps, {free} free on disk: they do not fit; timing"
    assert said in capsys.readouterr().out
    lmmem.Study("pythia1b", 11_000, device="cpu", scheduler="tcp://10.0.0.1:8786").cost(chosen, steps=10_000)
    assert f": {two} of weights to fetch for 2 steps; timing" in capsys.readouterr().out  # to disks elsewhere
    lmmem.load_model("pythia1b", 10_000)
    study.cost(chosen, steps=10_000)
    assert f": {one} of weights to fetch for 2 steps, {free} free" in capsys.readouterr().out


def test_provenance_is_of_each_table_once_and_of_nothing_says_so(mini_corpus):
    study = lmmem.Study(NAME, seed=3)
    assert study.provenance() == "nothing has been measured yet"
    study.natural(4)
    first = study.provenance()
    study.natural(4)
    chosen = study.sequences(n=2)
    for _ in range(2):
        study.greedy(chosen)
    kinds = [record["kind"] for record in study._records]
    assert kinds == ["repeats", "greedy"]
    assert first.startswith("model pocket-mini, step 120, seed 3, no weights (")
    assert study.provenance().startswith(f"model pocket-mini, step 120, seed 3, float32 on {device_here()} (")


@pytest.mark.parametrize("sigma", [[], [0.01, 0.01]])
def test_sigmas_that_are_none_or_the_same_are_refused(study, chosen, sigma):
    with pytest.raises(ValueError, match="give a number, or several that differ"):
        study.perturbed(chosen, sigma=sigma, draws=1)


@pytest.mark.parametrize(("each", "said"), [(0.2, "about 40 s"), (3.0, "about 10 min"), (180.0, "about 10.0 h")])
def test_duration_is_said_in_a_fitting_unit(study, chosen, monkeypatch, each, said):
    monkeypatch.setattr(measurements, "seconds_each", lambda *_, **__: each)
    assert said in study.cost(chosen, draws=199)


def test_natural_passages_bear_their_bin_as_presentations(study):
    found = study.natural(4)
    pd.testing.assert_series_equal(found.presentations, found.bin, check_names=False)
    expected = sequences.natural_passages(NAME, study.corpus, 4, 120, 3)
    pd.testing.assert_frame_equal(found[expected.columns], expected)
    dose = study.dose(found, 4)
    assert set(dose.group) == {"spread"}
    assert dose.groupby("presentations").size().to_dict() == {0: 4, 1: 4, 8: 4, 16: 4}


def test_design_is_every_presentation_of_one_sequence_of_each_arm_of_a_block(study, mini_corpus):
    design = study.design(2)
    sizes = design.groupby("arm").step.count()
    assert sizes["spread 16"] == 16
    assert sizes["spread 0"] == 0
    canaries = mini_corpus.canaries.query("block == 2")
    assert set(design.arm) == set(canaries.group + " " + canaries.presentations.astype(str))
    expected = mini_corpus.presented[mini_corpus.presented.canary.isin(canaries.canary)]
    assert set(design.step.dropna()) <= set(expected.step)


def test_sequences_are_met_when_they_are_presented(study, chosen, mini_corpus):
    exposed = chosen[chosen.presentations > 0]
    steps = mini_corpus.presented.step[mini_corpus.presented.canary.isin(exposed.canary)]
    assert study.met(chosen) == (steps.min(), steps.max())
    assert study.steps_around(chosen, every=5) == [0, 30, 60, 90, 120]


def test_rows_are_met_at_their_exposure_and_nothing_is_known_of_tokens(study, chosen, mini_corpus):
    rows = study.sequences(rows=[900, 3])
    expected = sorted(mini_corpus.exposure_step([900, 3]).tolist())
    assert list(study.met(rows)) == expected
    assert study.met(study.natural(4))[0] >= 1
    assert 120 in study.steps_around(rows)
    with pytest.raises(ValueError, match="when tokens of your own were met is not known: give sequences"):
        study.steps_around(study.sequences(tokens=mini_corpus[[900, 3]]))
    with pytest.raises(ValueError, match="none of these sequences was met: give some that are exposed"):
        study.met(chosen[chosen.presentations == 0])


@pytest.fixture
def someone(mini, mini_corpus, monkeypatch, tmp_path) -> tuple[str, str]:
    """The small organism as a model of one's own, with its training data in a file."""
    place = str(checkpoint_folder(NAME, 120).parent / "step-{step:06d}")
    info = ModelInfo("someone", "0.2 M", (6, 60, 120), "my rows", "float32", 0.01, "me", place)
    monkeypatch.setitem(MODELS._models, "someone", info)
    np.save(tmp_path / "rows.npy", mini_corpus[: mini_corpus.trained_rows].astype(np.uint16))
    return "someone", str(tmp_path / "rows.npy")


def test_model_of_ones_own_is_measured_on_training_data_by_path(someone, mini_corpus):
    name, path = someone
    study = lmmem.Study(name, 60, data=path, rows_per_step=mini_corpus.rows_per_step)
    assert not study.randomised
    assert study.arms_among({"spread": [0, 1]}) is None
    chosen = study.sequences(n=3)
    assert (chosen.exposure_step[chosen.presentations == 1] <= 60).all()
    assert (chosen.exposure_step[chosen.presentations == 0] > 60).all()
    found = study.greedy(chosen)
    direct = lmmem.kl_ld(lmmem.load_model(NAME, 60), *lmmem.split(mini_corpus[chosen["index"]]))
    np.testing.assert_array_equal(found.kl_ld, direct)
    assert study.design().empty
    assert study.steps_around(chosen) == [6, 60] or study.met(chosen)[0] <= 6
    natural = study.natural(3, n_rows=200)
    for passages in (natural, study.natural(8, n_rows=200)):
        doses = study.dose(passages, 3)
        assert doses.presentations.min() == 0
        assert set(doses.groupby("presentations").size()) == {3}


def test_training_data_that_are_not_known_say_what_to_give(someone, tmp_path):
    name, path = someone
    for options, message in (
        ({}, "give them as a path with rows_per_step"),
        ({"data": path}, "give them as a path with rows_per_step"),
        ({"data": path, "rows_per_step": 0}, "rows_per_step=0: give a whole number"),
        ({"data": str(tmp_path), "rows_per_step": 8}, "are read from .npy"),
    ):
        with pytest.raises(ValueError, match=message):
            lmmem.Study(name, **options).sequences(n=2)
    for known in (NAME, "pythia1b"):
        with pytest.raises(ValueError, match="leave"):
            lmmem.Study(known, rows_per_step=8).sequences(n=2)
    with pytest.raises(FileNotFoundError, match="there is nothing at"):
        lmmem.Study(name, data=tmp_path / "none.npy", rows_per_step=8).sequences(n=2)


def test_corpus_can_be_given_as_it_is(mini_corpus, someone):
    corpus = dataclasses.replace(mini_corpus, canaries=None, presented=None)
    assert lmmem.Study(someone[0], 60, data=corpus).corpus is corpus


def test_what_is_followed_is_met_once_or_never_or_in_a_part_of_training(study):
    table = pd.DataFrame({"group": ["spread", "spread", "spread", "q2", "fuzzy", "elsewhere", "row"]})
    table["presentations"] = [0, 1, 2, 64, 16, 0, 1]
    assert study.followed(table).group.tolist() == ["spread", "spread", "q2", "elsewhere", "row"]


def test_hints_are_longer_prompts_and_other_prompts_are_told_apart_by_their_places(study, chosen, mini_corpus):
    hinted = study.hinted(chosen, given=[0, 2])
    assert len(hinted) == 2 * len(chosen)
    assert hinted.groupby("given").asked.unique().map(list).to_dict() == {0: [64], 2: [62]}
    after = hinted[hinted.given == 2].set_index("index").loc[chosen["index"]]
    said = lmmem.greedy(lmmem.load_model(NAME), mini_corpus[chosen["index"]][:, :34], 62)
    np.testing.assert_array_equal(after.kl_ld, lmmem.levenshtein(said, mini_corpus[chosen["index"]][:, 34:96]))
    others = study.reprompted(chosen)
    assert others.groupby(["start", "stop"]).asked.first().to_dict() == {
        (16, 32): 64,
        (16, 48): 48,
        (24, 32): 64,
        (32, 64): 32,
    }
    with pytest.raises(ValueError, match="which were measured"):
        study.hinted(others)


def test_probabilities_of_extraction_bear_the_columns_of_the_sequences(study, chosen, mini_corpus):
    exact = study.extraction(chosen, temperatures=[1.0])
    near = study.near_verbatim(chosen, distance=1, beams=2)
    np.testing.assert_allclose(near[near.distance == 0].log_prob, exact.log_prob, rtol=1e-4)
    assert set(near.arm) == set(exact.arm) == set(chosen.arm)
    own = study.sequences(tokens=mini_corpus[chosen["index"]])
    np.testing.assert_allclose(study.extraction(own, temperatures=[1.0]).log_prob, exact.log_prob, rtol=1e-5)


@pytest.mark.parametrize(
    ("measure", "settings", "message"),
    [
        ("hinted", {"given": []}, "give numbers of tokens"),
        ("hinted", {"given": [64]}, "each 0 .. 63"),
        ("hinted", {"given": [1, 1]}, "give pairs of places that differ"),
        ("reprompted", {"prompts": [(0, 32, 4)]}, "give pairs of places"),
        ("reprompted", {"prompts": [16, 32]}, "give pairs of places"),
        ("reprompted", {"prompts": [(0, 96)]}, "up to token 96"),
    ],
)
def test_prompts_that_are_none_are_refused(study, chosen, measure, settings, message):
    with pytest.raises(ValueError, match=message):
        getattr(study, measure)(chosen, **settings)
