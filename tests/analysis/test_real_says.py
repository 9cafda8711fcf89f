"""What the page on real models tells, on tables whose truth was planted."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lmmem.analysis import noise, own_words, real
from lmmem.analysis.recognition import SCORES
from lmmem.analysis.scan import WORDS

PAIRS, TEXTS, DRAWS, ROUNDS = 24, 12, 12, 6
NAMES = ["one", "two"]


SOUGHT = {"known 1": 26, "never seen 0": 25}
ARMS = {"spread 64": "known 1", "spread 0": "never seen 0"}


def simulated(
    *, gain: float = 0.0, saved: float = 0.0, likelier: float = 0.0, beside: float = 0.0, seed: int = 0
) -> SimpleNamespace:
    """A model: passages gain so many tokens under any noise, and are so many ahead from the first presentation on.

    beside : tokens that true text is ahead of the model's own words, beyond what it is where nothing is there.
    """
    rng = np.random.default_rng(seed)
    there = np.arange(2 * PAIRS) < PAIRS
    passages = pd.DataFrame({"index": range(2 * PAIRS), "arm": np.where(there, "known 1", "never seen 0")})
    passages["group"] = passages.arm.str[:-2]
    passages = passages.assign(presentations=there.astype(int), block=np.tile(range(PAIRS), 2), step=-1)
    passages["file"] = np.where(there, np.arange(2 * PAIRS) % TEXTS, 100 + np.arange(2 * PAIRS)).astype(str)
    passages["kl_first"], passages["kl_second"] = rng.integers(26, 32, (2, 2 * PAIRS))
    passages["kl_ld"] = passages.kl_first + passages.kl_second
    passages["cross_entropy"] = np.where(there, 2.0, 2.5)
    for score in SCORES:
        passages[score] = rng.normal(size=2 * PAIRS) + likelier * there
    tries = passages.loc[passages.index.repeat(2 * DRAWS)].reset_index(drop=True)
    tries = tries.assign(
        sigma=np.tile(np.repeat([0.001, 0.004], DRAWS), 2 * PAIRS), draw=list(range(DRAWS)) * 4 * PAIRS
    )
    tries["kl_first"] = tries.kl_first + rng.normal(0, 1, len(tries))
    tries["kl_second"] = tries.kl_second + rng.normal(0, 1, len(tries)) - gain * tries.presentations
    tries["kl_ld"] = tries.kl_first + tries.kl_second
    again = passages.drop(columns=["kl_first", "kl_second"])
    again = again.loc[again.index.repeat(ROUNDS + 1)].reset_index(drop=True).assign(seed=0)
    again["presentation"] = list(range(ROUNDS + 1)) * 2 * PAIRS
    later = (again.presentation > 0) * again.presentations
    again["kl_ld"] = again.kl_ld - 4 * again.presentation - saved * later + rng.normal(0, 1, len(again))
    again["cross_entropy"] = 3.0 + 0.01 * again.block - 0.1 * again.presentation
    windows = pd.DataFrame({"index": range(60), "text": np.repeat([0, 1], 30), "token": 64 * np.tile(range(30), 2)})
    windows["cross_entropy"] = np.exp(rng.normal(0, 0.1, 60))
    windows["recited"] = np.where(np.arange(60) == 31, WORDS, 0)
    control = windows.assign(text=0, token=64 * np.arange(60), recited=0, cross_entropy=windows.cross_entropy * 5)
    scan = SimpleNamespace(windows=windows, control=control, changed=None, of="", chosen=False, left_out=0, seed=0)
    made = {"processor": "a processor", "lmmem": "1", "commit": "c", "torch": "2", "transformers": "5", "date": "now"}
    own = own_words.simulated(beside, passages=20, twins=20, rounds=4, seed=seed).assign(block=0)
    own["arm"] = own.arm.map(ARMS)
    record = {"package": "p 1.0", "terms": "free", "sha256": "ab" * 32, "quantisation": "Q4", "dtype": "float32"}
    return SimpleNamespace(
        **{"scan": scan, "passages": passages, "noise": tries, "relearned": again, "own_words": own},
        sampled=tries[tries.sigma == 0.001].rename(columns={"draw": "sample"}).assign(temperature=0.6),
        record=record
        | {"environment": made, "scan": {"environment": made | {"date": "2026-11-27"}, "texts": NAMES}}
        | {"own_words": {"environment": made, "sought": SOUGHT, "there": {"known 1": 21, "never seen 0": 22}}},
    )


def answered(**models) -> dict[str, object]:
    return real.answer(models, real.by_noise(models), real.savings(models), real.beside_own_words(models))


def test_nothing_is_said_to_be_found_where_nothing_was_planted():
    said = answered(one=simulated(seed=1), two=simulated(seed=2))
    assert said["finds"] == "it is not shown of any that noise finds more than luck"
    assert said["saves"] == "it is not shown of any that teaching them again saves more than of twins"
    assert said["tells"] == "it is not shown of any that the truth is ahead by more than in twins"
    assert said["n"] == PAIRS


def test_what_was_planted_in_one_model_is_found_in_that_one():
    said = answered(one=simulated(seed=1), two=simulated(gain=3.0, saved=8.0, seed=2))
    assert said["finds"] == "noise finds more than luck in two, which is not shown of one"
    assert said["saves"] == (
        "teaching them again saves more than of twins in two, which is not shown of one; "
        "it does beside twins that were as likely in two, which is not shown of one"
    )
    lines = real.by_noise({"two": simulated(gain=3.0, seed=2)})
    fresh = lines[lines.score == "fresh half"]
    assert fresh.low.lt(3.0).all() and fresh.high.gt(3.0).all()
    assert real.told_noise(lines).verdict.tolist() == ["finds", "finds"]


def test_noise_is_clustered_by_text():
    model = simulated(seed=1)
    of_text = 5 * np.random.default_rng(0).normal(size=TEXTS)[np.arange(2 * PAIRS) % TEXTS]
    model.passages["kl_second"] += np.where(model.passages.presentations > 0, of_text, 0).round()
    lines, (still, tried) = real.by_noise({"one": model}), (model.passages, model.noise)
    fresh = lines[(lines.score == "fresh half") & (lines.sigma == 0.001)].iloc[0]
    by_text = noise.over_draws(still, tried[tried.sigma == 0.001], ["fresh half"], clusters="file")
    by_pair = noise.over_draws(still, tried[tried.sigma == 0.001], ["fresh half"])
    assert (fresh.low, fresh.high) == (by_text.low[0], by_text.high[0])
    assert fresh.high - fresh.low > 1.2 * (by_pair.high - by_pair.low)[0]


def test_rule_18_asks_more_of_four_intervals_than_of_one():
    models = {"one": simulated(seed=1), "two": simulated(seed=2)}
    gains, others = real.by_noise(models), (real.savings(models), real.beside_own_words(models))
    gains["estimate"], gains["low"], gains["high"] = 1.0, 0.05, 1.95
    said = real.answer(models, gains, *others)
    assert said["finds"] == "it is not shown of any that noise finds more than luck"
    gains["low"] = 0.5
    assert real.answer(models, gains, *others)["finds"] == "noise finds more than luck in one and two"


def test_noise_that_finds_nothing_is_seldom_said_to_find():
    others = real.savings({"one": simulated(seed=0)}), real.beside_own_words({"one": simulated(seed=0)})
    models = [{"one": simulated(seed=seed)} for seed in range(10, 30)]
    told = [str(real.answer(model, real.by_noise(model), *others)["finds"]) for model in models]
    assert sum(not words.startswith("it is not") for words in told) <= 3  # 1 is expected, two-sided


def test_what_is_ahead_of_a_models_own_words_is_found_where_it_was_planted():
    models = {"one": simulated(seed=1), "two": simulated(beside=15.0, seed=2)}
    assert answered(**models)["tells"] == ("the truth is ahead by more than in twins in two, which is not shown of one")
    found, nats = real.beside_own_words(models), real.beside_own_words(models, value="nats")
    table = real.told_own_words(models, found, nats)
    assert table.loc["verdict"].tolist() == ["not established", "found"]
    counts = ["sought", "sought, null", "there", "there, null", "n", "n null"]
    assert table.loc[counts, "two"].tolist() == ["26", "25", "21", "22", "20", "20"]
    assert float(table.loc["beyond the null", "two"].split()[0]) == pytest.approx(found.estimate[1], abs=0.05)
    curves = real.words_learning(models)
    ahead = curves[curves.presentation == 4].set_index(["model", "what"]).estimate
    assert ahead["two", "known, own words"] - ahead["two", "known, true text"] > 10
    assert set(curves.what) == {
        f"{of}, {what}" for of in ("known", "never seen") for what in ("true text", "own words")
    }


def test_models_that_were_not_taught_their_own_words_are_left_out_and_named():
    models = {"one": simulated(beside=15.0, seed=2), "two": simulated(seed=1)}
    models["two"].own_words, models["two"].record["own_words"] = pd.DataFrame(), {}
    said = answered(**models)
    assert said["tells"].endswith("in one") and said["not_yet"] == " (two: not asked so yet)"
    assert real.told_own_words(models, *[real.beside_own_words(models, of) for of in ("tokens", "nats")]).columns == [
        "one"
    ]
    assert real.provenance(models).count("taught beside its own words") == 1
    models["one"].own_words = pd.DataFrame()
    with pytest.raises(ValueError, match="no model was taught beside its own words: make real"):
        real.beside_own_words(models)


def test_own_words_are_asked_more_of_two_models_than_of_one():
    models = {"one": simulated(seed=1), "two": simulated(seed=2)}
    gains, saved, beside = real.by_noise(models), real.savings(models), real.beside_own_words(models)
    beside = beside.assign(estimate=5.0, low=0.2, high=9.8, verdict="found")
    assert real.answer(models, gains, saved, beside)["tells"].startswith("it is not shown of any")
    one = real.answer(models, gains, saved, beside[beside.model == "one"])  # the other was not asked yet
    assert one["tells"].startswith("it is not shown of any")
    beside["low"], beside["high"] = 2.0, 8.0
    assert real.answer(models, gains, saved, beside)["tells"].endswith("in one and two")
    beside["verdict"] = "A/A excludes 0: no verdict"
    assert real.answer(models, gains, saved, beside)["tells"].startswith("it is not shown of any")


def test_texts_are_told_one_by_one_and_last_the_control():
    table = real.by_text({"one": simulated(seed=3)})["one"]
    assert table.index.tolist() == ["one", "two", "never seen"]
    windows = simulated(seed=3).scan.windows
    losses = [f"{windows.cross_entropy[windows.text == text].mean():.2f}" for text in (0, 1)]
    assert table.loss.tolist()[:2] == losses
    assert table.longest.tolist() == ["0", str(WORDS), "0"]
    assert table.found.tolist() == ["0 of 30", "1 of 30", ""]
    assert table.recited.tolist() == ["0%", f"{WORDS / (30 * 64):.0%}", "0%"]


def test_samples_are_compared_pair_by_pair():
    model = simulated(gain=5.0, seed=4)
    (line,) = real.by_sampling({"one": model}).itertuples()
    best = model.sampled.groupby("index").kl_ld.min()
    gain = (model.passages.set_index("index").kl_ld - best).to_numpy()
    assert line.estimate == pytest.approx((gain[:PAIRS] - gain[PAIRS:]).mean())
    assert (line.samples, line.n) == (DRAWS, PAIRS)


def test_samples_needed_are_those_of_the_median_and_of_the_likeliest_passage():
    exact = simulated().passages.assign(temperature=1.0)
    exact["log_prob"] = np.log(0.5) * np.where(exact.arm == "known 1", 1 + exact.block, 1_000)
    table = real.samples_needed({"gemma-3-270m": SimpleNamespace(extraction=exact)}).loc["Gemma"]
    assert table.likeliest.to_dict() == {"known 1": "1", "never seen 0": "10^301"}
    middle = [np.ceil(np.log(0.5) / np.log1p(-(0.5**half))) for half in (12, 13)]  # of 2^-1 .. 2^-24
    assert table.samples["known 1"] == f"{np.mean(middle):,.0f}"
    assert table["in 1,000,000"].str[:4].to_dict() == {"known 1": "0.83", "never seen 0": "0.00"}


def test_areas_are_those_of_planted_scores():
    table = real.areas({"null": simulated(seed=5), "likelier": simulated(likelier=3.0, seed=6)})
    assert all(float(cell.split()[0]) > 0.9 for cell in table.likelier)
    covered = [float(cell.split("(")[1].split()[0]) < 0.5 < float(cell.split()[-1][:-1]) for cell in table.null]
    assert sum(covered) >= len(covered) - 1


def test_opening_tells_losses_and_what_is_recited():
    model = simulated(seed=3)
    table = real.opening({"gemma-3-270m": model})["Gemma"]
    losses = model.scan.windows.cross_entropy.mean(), model.scan.control.cross_entropy.mean(), 2.0, 2.5
    assert table.drop("recited").tolist() == [f"{loss:.2f}" for loss in losses]
    assert table.recited.startswith(f"{WORDS / (60 * 64):.1%} (")


def test_curves_and_draws_tell_passages_from_twins():
    models = {"one": simulated(seed=1), "two": simulated(seed=2)}
    curves = real.learning(models)
    assert set(curves.what) == {"there", "never seen"} and set(curves.model) == {"one", "two"}
    drawn = real.over_draws(models)
    assert set(drawn.sigma) == {0.004} and set(drawn.what) == {"there", "never seen"}


def test_provenance_names_package_weights_and_code():
    said = real.provenance({"one": simulated()})
    assert (
        "one (p 1.0, free, SHA-256 abababababababab.., stored as Q4), float32; scanned 2026-11-27 on a processor"
        in said
    )
    assert "; the passages asked " in said and "; taught beside its own words now on a processor" in said
    assert said.count("by lmmem 1 c, torch") == 3
