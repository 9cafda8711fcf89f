"""Published losses over training: written in the form they are published in, served, read and concluded from."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lmmem.analysis import event_study, fading
from lmmem.corpora.cohorts import COHORTS, cohorts_id, published_cohorts
from lmmem.storage.files import DamagedError
from lmmem.storage.hub import _listings
from tests import stand_ins
from tests.loopback_hub import Fault, LoopbackHub
from tests.stand_ins import LOSSES, written_losses

NAME = "pythia410m-deduped"
STEPS = list(range(0, 11_000, 1_000))
BATCH, TOKENS = 1_024, 2_048
NATS = math.log(2) / 64  # nats a token that are one bit of 64 tokens


def sampled(effect: Callable[[np.ndarray], np.ndarray], seed: int, drift: float = 0.0) -> pd.DataFrame:
    return stand_ins.losses(STEPS, effect, seed, drift)


def serve(hub: LoopbackHub, *files: bytes) -> None:
    stand_ins.serve_losses(hub, *files)
    _listings.clear()  # as in another process


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return sampled(lambda since: 0 * since, seed=11)


def test_lines_are_those_published_in_the_words_of_the_library(loopback, table):
    serve(loopback, written_losses(table[:900]), written_losses(table[900:]))
    found = published_cohorts(NAME, STEPS)
    for line in found.sample(200, random_state=0).itertuples():
        (there,) = table[(table.seq_idx == line.index) & (table.step == line.step)].itertuples()
        assert line.cross_entropy == there.sup_seq
    assert len(found) == len(table)
    assert found[["index", "step"]].apply(tuple, axis=1).is_monotonic_increasing
    assert (found.model == NAME).all()


def test_exposure_is_the_first_step_whose_weights_know_the_row(loopback):
    index = [0, 1_023, 1_024, 1_024_000 - 1, 1_024_000, 94_999 * BATCH + 5, 95_000 * BATCH, -100, -166_182]
    lines = [(i, step, 3.0, 3.0, 0.5 + 1 / TOKENS, 7.0) for i in index for step in (0, 95_000)]
    serve(loopback, written_losses(pd.DataFrame(lines, columns=LOSSES.names)))
    found = published_cohorts(NAME, [95_000, 0]).drop_duplicates("index").set_index("index")
    by_hand = {0: 1, 1_023: 1, 1_024: 2, 1_023_999: 1_000, 1_024_000: 1_001, 94_999 * BATCH + 5: 95_000}
    assert found.exposure_step.dropna().to_dict() == by_hand  # and not the row met after the first epoch's end
    assert found[found.arm == "row 1"].index.tolist() == sorted(by_hand)
    assert found[found.arm == "row 0"].index.tolist() == [-166_182, -100]
    assert found.presentations.to_dict() == {i: int(i >= 0) for i in found.index}
    assert found.file[0] == found.file[1_023] != found.file[1_024]
    assert found.file[-100] != found.file[-166_182]


def test_only_rows_and_steps_asked_for_are_read(loopback, table):
    serve(loopback, written_losses(table))
    found = published_cohorts(NAME, [9_000, 2_000], met=(2_001, 3_000))
    assert sorted(found.step.unique()) == [2_000, 9_000]
    met = found[found.arm == "row 1"]
    assert met.exposure_step.between(2_001, 3_000).all()
    assert met["index"].nunique() == ((table.seq_idx // BATCH + 1).between(2_001, 3_000) & (table.step == 0)).sum() > 0
    assert found[found.arm == "row 0"]["index"].nunique() == 150


def test_file_is_fetched_once_and_then_known_without_the_hub(loopback, table):
    serve(loopback, written_losses(table))
    first = published_cohorts(NAME, STEPS)
    sent = loopback.sent()
    loopback.faults = [Fault("", status=503)]
    pd.testing.assert_frame_equal(published_cohorts(NAME, STEPS), first)
    assert loopback.sent() == sent
    assert cohorts_id(NAME).startswith(COHORTS + "@")


def effect(since: np.ndarray) -> np.ndarray:
    return 12.0 * 0.5 ** (since / 3_000)


SHARED = event_study.once_and_never(STEPS, "row") | {"earliest": 1_000}


def test_planted_effect_is_recovered_with_its_interval(loopback):
    """In 20 sets; steps are sampled evenly, so that the truth of a bin is the mean over its 1,000 steps."""
    held, first = [], []
    for seed in range(20):
        serve(loopback, written_losses(sampled(effect, seed)))
        found = event_study.over_cohorts(published_cohorts(NAME, STEPS), **SHARED)
        planted = np.array([effect(lag + np.arange(1_000)).mean() for lag in found.lag])
        held += ((found.low <= planted) & (planted <= found.high)).tolist()
        first.append(found.estimate[0])
        assert found.low[0] > 0
    assert np.mean(held) > 0.9
    assert abs(np.mean(first) - effect(np.arange(1_000)).mean()) < 3 * np.std(first) / np.sqrt(20)


def test_planted_null_is_not_found(loopback):
    found = []
    for seed in range(20, 40):
        serve(loopback, written_losses(sampled(lambda since: 0 * since, seed)))
        found.append(event_study.over_cohorts(published_cohorts(NAME, STEPS), **SHARED).iloc[0])
    assert sum(line.low > 0 or line.high < 0 for line in found) <= 4  # 5 or more of 20 in 0.3 %, at 5 %


def test_trend_of_the_rows_never_met_is_taken_for_memory_as_the_method_says(loopback):
    """Parallel trends are assumed and cannot be seen: here they do not hold, and the estimate is off by the drift."""
    serve(loopback, written_losses(sampled(lambda since: 0 * since, seed=3, drift=30.0)))
    found = event_study.over_cohorts(published_cohorts(NAME, STEPS), **SHARED)
    assert found.low.iloc[-2] > 0


def test_estimate_is_that_of_means_of_cohorts_by_hand(loopback):
    published = sampled(effect, seed=5)
    serve(loopback, written_losses(published))
    found = event_study.over_cohorts(published_cohorts(NAME, STEPS), **SHARED).set_index("lag")
    loss = published.pivot(index="seq_idx", columns="step", values="sup_seq")
    never = loss[loss.index < 0].mean()
    sums: dict[int, list[float]] = {}
    for row, line in loss[loss.index >= 0].iterrows():
        exposure = row // BATCH + 1
        base = (exposure - 1) // 1_000 * 1_000  # the last checkpoint before it
        if SHARED["earliest"] < exposure <= STEPS[-1]:
            for step in [step for step in STEPS if step >= exposure]:
                both = (line[base] - line[step]) - (never[base] - never[step])
                sums.setdefault((step - exposure) // 1_000 * 1_000, []).append(both / NATS)
    for lag, values in sums.items():
        assert found.estimate[lag] == pytest.approx(np.mean(values), abs=1e-9)
        assert found.n[lag] == len(values)


def test_half_life_takes_the_same_table(loopback):
    serve(loopback, written_losses(sampled(effect, seed=6)))
    found = fading.half_life(published_cohorts(NAME, STEPS), **SHARED)
    assert found.low[0] < 3_500 < found.high[0]  # half of the mean of the first bin, which is that at step 500


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "pythia1b-deduped",
            "no losses over training are published for pythia1b-deduped; they are for pythia70m-ded",
        ),
        ("pythia410m", "published for pythia410m; they are for "),
        ("pythia410m-deduped-v0", "published for pythia410m-deduped-v0; they are for "),
        ("pocket", "published for pocket; they are for "),
        ("pythia2.8b-deduped", "its authors left out, and do not say why"),
        ("pythia410-deduped", "unknown model 'pythia410-deduped'; did you mean"),
    ],
)
def test_models_without_published_losses_are_refused(loopback, name, message):
    for refuses in (published_cohorts, cohorts_id):
        with pytest.raises(ValueError, match=message):
            refuses(name)
    assert not loopback.requests


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"steps": [0, 512]}, r"step 512 was not measured; nearest: 1000 \(every 1,000 from 0 to 95,000\)"),
        ({"steps": [0, 96_000]}, "step 96000: the deduplicated Pile is read a second time from about step 98,000"),
        ({"steps": [1_000]}, r"steps=\[1000\]: give two or more"),
        ({"met": (0, 5)}, r"met=\(0, 5\): give first and last exposure step, from 1 to 95,000"),
        ({"met": (9, 5)}, r"met=\(9, 5\)"),
        ({"met": (1, 95_001)}, r"met=\(1, 95001\)"),
    ],
)
def test_steps_that_hold_no_answer_are_refused_before_anything_is_fetched(loopback, asked, message):
    serve(loopback, b"")
    with pytest.raises(ValueError, match=message):
        published_cohorts(NAME, **asked)
    assert not [request for request in loopback.requests if request.path.endswith(".parquet")]


def test_step_that_is_missing_or_short_is_named(loopback, table):
    serve(loopback, written_losses(table[table.step != 4_000]))
    with pytest.raises(ValueError, match=f"{NAME} in {COHORTS}: no row has step 4000: leave it out of steps"):
        published_cohorts(NAME, STEPS)
    assert 4_000 not in published_cohorts(NAME, [s for s in STEPS if s != 4_000]).step.unique()
    serve(loopback, written_losses(table.drop(table[table.step == 4_000].index[:30])))
    with pytest.raises(ValueError, match="step 4000 has 296 of 326 rows: leave it out of steps"):
        published_cohorts(NAME, STEPS)


def test_rows_that_lack_a_step_are_left_out_and_counted(loopback, table):
    short = table[(table.step == 4_000) & (table.seq_idx < 0)].iloc[0]
    serve(loopback, written_losses(table.drop(short.name)))
    with pytest.warns(UserWarning, match=f"{NAME} in {COHORTS}: 1 of 326 rows lack some of 11 steps and are left out"):
        found = published_cohorts(NAME, STEPS)
    assert short.seq_idx not in found["index"].to_numpy()
    assert len(found) == len(table) - len(STEPS)


def test_rows_of_one_kind_alone_are_refused(loopback, table):
    serve(loopback, written_losses(table[table.seq_idx >= 0]))
    with pytest.raises(ValueError, match="step 1 to 95,000 and rows never met are needed; one is missing"):
        published_cohorts(NAME, STEPS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.drop(columns="sup_seq"),
            "has columns seq_idx int32, .*; seq_idx int32, step int32, sup_seq",
        ),
        (lambda t: t.assign(weight=1.0), "has columns .*, weight double; seq_idx int32, "),
        (lambda t: t.rename(columns={"sup_seq": "sup"}), "has columns .*, sup double, .* expected"),
        (lambda t: t.assign(sup_seq=t.sup_seq.astype("float32")), "has columns .*, sup_seq float, .* expected"),
    ],
)
def test_columns_whose_meaning_is_not_known_are_refused(loopback, table, change, message):
    changed = change(table)
    schema = pa.Schema.from_pandas(changed, preserve_index=False)
    for number, name in enumerate(schema.names):
        if name in ("seq_idx", "step"):
            schema = schema.set(number, pa.field(name, pa.int32()))
    serve(loopback, written_losses(changed, schema))
    with pytest.raises(ValueError, match=message):
        published_cohorts(NAME, STEPS)


@pytest.mark.parametrize("tokens", [1_024, 64, 2_049, 4_096])
def test_losses_over_another_number_of_tokens_are_refused(loopback, table, tokens):
    share = np.random.default_rng(0).integers(0, tokens, len(table)) / tokens
    serve(loopback, written_losses(table.assign(acc_seq=share)))
    with pytest.raises(ValueError, match=f"{NAME} in {COHORTS}: acc_seq is no share of 2,048 tokens"):
        published_cohorts(NAME, STEPS)


def test_row_numbers_that_are_neither_are_refused(loopback, table):
    moved = table.assign(seq_idx=table.seq_idx.where(table.seq_idx >= 0, -1 - (table.seq_idx + 100).abs() % 3))
    serve(loopback, written_losses(moved))
    with pytest.raises(ValueError, match=r"0000\.parquet@\w+ has a row -\d: rows never met are known by -100"):
        published_cohorts(NAME, STEPS)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -0.1, 15.6, None])
def test_losses_that_are_no_numbers_are_counted(loopback, table, loss):
    bad = table.copy()
    bad.loc[bad.index[:3], "sup_seq"] = loss
    serve(loopback, written_losses(bad))
    with pytest.raises(DamagedError, match=rf"0000\.parquet@\w+ has 3 of {len(table)} lines whose sup_seq is no "):
        published_cohorts(NAME, STEPS)


def test_line_that_is_said_twice_is_named(loopback, table):
    again = table[table.seq_idx < 0].iloc[[0]]
    serve(loopback, written_losses(table), written_losses(again.assign(acc_seq=1 / TOKENS)))
    with pytest.raises(DamagedError, match=f"row {again.seq_idx.iloc[0]} has step {again.step.iloc[0]} twice"):
        published_cohorts(NAME, STEPS)


def test_damaged_file_is_never_read(loopback, table):
    whole = written_losses(table)
    other = written_losses(table.assign(sup_seq=table.sup_seq + 1))
    serve(loopback, whole)
    loopback.faults = [Fault("/cdn/", replace=other[: len(whole)].ljust(len(whole), b"\0"))]
    with pytest.raises(DamagedError, match=r"0000\.parquet@\w+ has SHA-256 \w+, and \w+ is listed: delete "):
        published_cohorts(NAME, STEPS)


def test_file_that_is_no_parquet_is_named(loopback):
    serve(loopback, b"not a table")
    with pytest.raises(DamagedError, match=r"default/410m/0000\.parquet@\w+ cannot be read as Parquet: "):
        published_cohorts(NAME, STEPS)


@pytest.mark.parametrize("path", ["410m.parquet", "default/410m-train/0000.parquet", "default/410m/0000.json"])
def test_repository_that_is_laid_out_otherwise_is_named(loopback, table, path):
    loopback.add(COHORTS, {path: written_losses(table)}, repo_type="dataset", revision="refs/convert/parquet")
    with pytest.raises(ValueError, match="has no folder default/410m/ of Parquet files alone: it is laid out "):
        published_cohorts(NAME, STEPS)


def test_without_a_network_it_says_so(loopback):
    loopback.faults = [Fault("", status=503)]
    with pytest.raises(ConnectionError, match="pythia-deduped-stats at refs/convert/parquet: the Hub answered 503"):
        published_cohorts(NAME)
