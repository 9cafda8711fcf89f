"""What the page on dynamics tells, on simulated training runs whose truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lmmem.analysis import (
    between_organisms,
    contrasts,
    end_of_training,
    event_study,
    randomisation,
    sections,
    trajectories,
)
from lmmem.analysis.prose import tell_if

SHARED = {"arm": "spread 1", "twins": "spread 0", "every": 60, "earliest": 120}
ARMS = {"spread 0": 8, "spread 1": 8, "spread 16": 2, "fuzzy 16": 2, "elsewhere 0": 4}


def run(effect=event_study.faded, tokens: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """A training run: a fading effect in bits, and kl-LD about 59 that exposure lowers for 60 steps by some tokens."""
    table = trajectories.simulated(effect, ARMS, blocks=32, last=1500, seed=seed)
    since = table.step - table.exposure_step
    exposed = (table.presentations > 0) & (since >= 0) & (since < 60)
    distance = 59 - tokens * exposed + np.random.default_rng(seed).normal(0, 2, len(table))
    table = table.assign(kl_ld=distance.round().clip(0, 64), group=table.arm.str.split().str[0])
    table["z_complexity"] = np.random.default_rng(seed + 1).uniform(0.4, 0.9, table["index"].max() + 1)[table["index"]]
    return table.assign(memorised=table.kl_ld == 0)


def at_end(table: pd.DataFrame) -> pd.DataFrame:
    return table[table.step == table.step.max()]


def test_once_finds_what_a_single_exposure_leaves():
    found = sections.once(run(tokens=3.0), SHARED)
    assert found["bits"].low < 80 * 0.5 ** (29 / 120) < found["bits"].high
    assert found["leaves"].startswith("an interval above 0")
    assert found["kl"].low < 3 < found["kl"].high
    assert found["noticed"] == "kl-LD notices"
    assert int(found["lasts"].split()[1]) > 300
    assert found["bits_last"].low > 0
    assert found["end_kl"].low < 0 < found["end_kl"].high


def test_once_finds_nothing_where_nothing_is():
    found = sections.once(run(lambda since: 0 * since), SHARED)
    assert found["bits"].low < 0 < found["bits"].high
    assert "not established" in found["leaves"]
    assert found["noticed"] == "kl-LD does not notice: its 90 % interval lies within 1 token"
    assert found["lasts"] == "at no checkpoint"


def test_decay_finds_half_life_and_a_power_law():
    found = sections.decay(run(lambda since: 90 * (1 + since / 40) ** -0.8), SHARED)
    low, high = (float(word) for word in found["half"].split("interval ")[1].rstrip(")").split(" to "))
    assert low < 124 < high  # half of the bits that are there 29 steps after exposure, on average, are left
    assert found["difference"].low > 0
    assert found["shape"].endswith("the decay is not exponential")
    assert found["first_slope"].low < 0 < found["first_slope"].high


def test_estimators_agree_where_trends_are_alike_and_are_told_apart_where_not():
    table = run()
    found = sections.estimators(table, SHARED, "elsewhere 0")
    assert found["bias"].low < 0 < found["bias"].high
    assert found["biased"] <= 0.2 * found["bins"]
    trend = np.where(table.arm == "elsewhere 0", 0.02 * table.step, 0)
    apart = sections.estimators(table.assign(cross_entropy=table.cross_entropy - trend), SHARED, "elsewhere 0")
    assert apart["biased"] > 0.5 * apart["bins"]


def test_passages_are_followed_from_after_their_last_presentation_and_twins_over_the_same_steps():
    table = run()
    found = contrasts.after_last(table, ["spread 1"], "spread 0", least=4)
    exposed, twins = (found[name].groupby("index").step.agg(["min", "size"]) for name in ("exposed", "unexposed"))
    assert sorted(exposed["size"]) == sorted(twins["size"])
    assert exposed["size"].min() >= 4
    last = table.drop_duplicates("index").set_index("index").last_step
    assert ((exposed["min"] >= last[exposed.index]) & (exposed["min"] - 60 < last[exposed.index])).all()
    assert not set(exposed.index) & set(twins.index)
    with pytest.raises(ValueError, match="0 passages of spread 1 are followed for 99 checkpoints or more"):
        contrasts.after_last(table, ["spread 1"], "spread 0", least=99)


def test_uncovering_tells_recovery_from_fluctuation():
    table = run()
    how = ["spread 1"], "spread 0", 8
    found = sections.uncovering(table, *how)
    assert (found["observed"], found["backwards"].split()[0], found["never"].split()[0]) == (0, "0", "0")
    assert found["verdict"] == "not more than chance"
    assert "pass for fluctuating about a level" in found["exposed"]
    latest = (table.step == 1500) & (table.arm == "spread 1") & table["index"].isin(table["index"].unique()[:200])
    late = table.assign(kl_ld=table.kl_ld.mask(latest, 0))  # recited at the end, and not before
    found = sections.uncovering(late, *how)
    assert found["observed"] > 20
    assert found["backwards"].startswith("0 of")
    assert found["verdict"] == "more than chance"


def test_fluctuations_are_told_of_the_exposed_beside_the_unexposed():
    table = contrasts.fluctuations(contrasts.after_last(run(), ["spread 1"], "spread 0", least=8), "kl_ld", 5)
    assert [name.split()[0] for name in table] == ["exposed", "unexposed"]
    assert "variance ratio over 4 checkpoints" in table.index
    assert not (table == "").any(axis=None)


def test_recency_and_number_are_told_apart_and_fuzzy_copies_are_worth_what_they_leave():
    table = at_end(run(lambda since: 40 + 0 * since))
    found = sections.recency(table, "spread 1", "spread 0")
    assert found["presentations"].low > 0
    assert found["palimpsest"].low < 0 < found["palimpsest"].high
    worth = end_of_training.worth(table, twins="spread 0")
    assert worth.low < 1 < worth.high
    assert found["fuzzy"] == f"are worth {worth:.2f} of sixteen exact ones"
    without = sections.recency(table[table.arm != "fuzzy 16"], "spread 1", "spread 0")
    assert without["fuzzy"].startswith("cannot be told here: a ratio of two arms needs both")


def test_what_the_data_cannot_answer_is_said():
    said = tell_if("Half-life {half}.", sections.decay, run()[lambda t: t.arm != "spread 1"], SHARED)
    assert said.startswith("Not answered here: passages of spread 1 exposed after step 120")


def test_organisms_are_the_units_of_what_is_said_of_all_of_them():
    runs = of_organisms((1, 2, 3))
    found = sections.organisms(runs)
    each = between_organisms.by_organism(runs)
    assert each.groupby("organism", sort=False).estimate.first().mean() == pytest.approx(found["bits"].estimate)
    assert (found["bits"].n, found["organisms"]) == (3, 3)
    assert found["memorised"].low < np.mean(between_organisms.counterfactual(runs).bits) < found["memorised"].high
    assert found["share"].estimate < 0.5  # nothing is planted that a passage would hold in all organisms
    assert found["bits"].low < 80 * 0.5 ** (29 / 120) < found["bits"].high
    low, high = (float(number) for number in found["halves"].split(" to "))
    assert 110 < low < high < 190
    with pytest.raises(ValueError, match="needs two that were measured, got 1: make replicates"):
        sections.organisms(runs[runs.organism == "o1"])


def of_organisms(seeds) -> pd.DataFrame:
    """The same passages in several organisms, half of those met once in each by chance."""
    runs = [
        run(seed=seed).assign(
            organism=f"o{seed}", passage=lambda t: t["index"], index=lambda t, s=seed: t["index"] + 10_000 * s
        )
        for seed in seeds
    ]
    for number, table in enumerate(runs):
        turned = table.passage.where(~table.arm.isin(["spread 0", "spread 1"]) | (number % 2 == 0), table.passage ^ 8)
        runs[number] = table.assign(passage=turned)
    return pd.concat(runs, ignore_index=True)


def test_all_organisms_are_one_table_of_bits_and_tokens():
    runs = of_organisms((1, 2))
    found = sections.all_organisms(runs)

    def apart(name: str) -> list[str]:
        last = at_end(runs).assign(bits=trajectories.bits, tokens=-at_end(runs).kl_ld)
        each = [randomisation.compare_arms(one, name, permutations=9) for _, one in last.groupby("organism")]
        return [f"{abs(a - b) / 2**0.5:.1f} (2)" for a, b in zip(*(one.estimate for one in each), strict=True)]

    assert found["in"].unique().tolist() == ["bits", "tokens"]
    assert found.columns[0] == "in"
    assert (found[found.arm == "elsewhere 0"].q == "").all()
    assert found[(found.arm == "spread 16") & (found["in"] == "bits")].verdict.item() == "above 0"
    assert found["between organisms"].tolist() == [told for name in ("bits", "tokens") for told in apart(name)]
    alone = runs[(runs.organism == "o1") & (runs.block % 1_000 < 4)]
    assert sections.all_organisms(alone)["between organisms"].eq("").all()
    with pytest.raises(ValueError, match="make replicates"):
        sections.all_organisms(pd.DataFrame())


def test_front_page_says_how_long_both_are_seen_and_not_which_fades_faster():
    found = sections.front(run(tokens=3.0), SHARED)
    assert found.keys() == {"bits", "kl", "lasts", "kl_lasts", "half"}
    assert (found["lasts"], found["kl_lasts"]) == tuple(
        sections.once(run(tokens=3.0), SHARED)[name] for name in ("lasts", "kl_lasts")
    )


def test_sizes_say_what_was_not_measured():
    runs = of_organisms((1, 2))
    found = sections.sizes(runs, {"o1": "1 M", "o2": "2 M", "o3": "9 M"}, runs)
    assert (found["smallest"], found["largest"]) == ("1 M", "2 M")
    assert " (" in found["bits_smallest"]
    assert found["n"] > 100
    assert found["missing"] == " Not measured here: o3 (`make replicates`)."
    assert found["chance"].startswith("2 organisms of one size have a standard deviation of ")
    alone = sections.sizes(runs, {"o1": "1 M", "o2": "2 M"}, pd.DataFrame())
    assert (alone["missing"], alone["chance"][-16:]) == ("", "was not measured")
    with pytest.raises(ValueError, match="two were measured; o3 were not"):
        sections.sizes(runs, {"o1": "1 M", "o3": "9 M"}, runs)


def test_power_and_fluctuations_are_tables_or_say_what_they_need():
    table = run()
    end = at_end(table).assign(bits=lambda t: trajectories.bits(t))
    assert set(sections.power(end, "spread 0", sizes=(16,)).passages) == {"16"}
    with pytest.raises(ValueError, match="too few for a simulation of 16"):
        sections.power(end[end.block < 2], "spread 0")
    assert "drift" in " ".join(sections.fluctuations(table, ["spread 1"], "spread 0").index)
    with pytest.raises(ValueError, match="0 passages of q1 64"):
        sections.fluctuations(table, ["q1 64"], "spread 0")


def test_averaged_weights_are_told_from_the_average_of_what_checkpoints_say():
    table = run()
    last = table[table.step == 1500]
    alone = table[table.step.isin([1440, 1500])].groupby("index").cross_entropy.mean()
    better = alone[last["index"]].to_numpy() - np.where(last.arm == "spread 1", 0.3, 0.1)
    found = contrasts.averaged(table, {2: last.assign(cross_entropy=better)}, "spread 0").set_index("arm")
    assert found.loc["spread 1", "bits"].startswith(f"{0.3 * 64 / np.log(2):.1f} ")
    assert found.loc["spread 1", "over twins"].startswith(f"{0.2 * 64 / np.log(2):.1f} ")
    assert found.loc["spread 0", "over twins"] == ""
    assert (found.k == 2).all()
