"""Over organisms: what a passage's own share is, and what is told by size, with planted truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lmmem.analysis import between_organisms, event_study, trajectories
from lmmem.analysis.trajectories import BITS, simulated

SETS = 100  # of 400, the mean was within 0.02 and 92 to 98 % of the intervals held the truth


def organisms(
    rng: np.random.Generator, of_passages: float = 10.0, chance: float = 15.0, passages: int = 300, files: int = 60
) -> pd.DataFrame:
    """Five organisms of one text: exposure adds 20 bits on average, and to each passage something of its own."""
    level, own = rng.normal(0, 30, passages), 20 + of_passages * rng.normal(size=passages)
    file = rng.integers(0, files, passages)
    lines = []
    for number in range(5):
        met = rng.permutation(passages) < passages // 2
        bits = -300 + 7 * number + level + met * own + rng.normal(0, chance * np.where(met, 1.0, 0.5))
        one = pd.DataFrame({"passage": range(passages), "file": file, "step": 9, "cross_entropy": -bits / BITS})
        lines.append(one.assign(organism=f"o{number}", arm=np.where(met, "spread 1", "spread 0")))
    return pd.concat(lines, ignore_index=True)


def test_counterfactual_memorisation_is_that_of_a_plain_loop():
    runs = organisms(np.random.default_rng(1), passages=20)
    earlier = runs.assign(step=3, cross_entropy=0.0)  # not looked at
    found = between_organisms.counterfactual(pd.concat([runs, earlier])).set_index("passage")
    runs = runs.assign(bits=trajectories.bits(runs))
    level = {o: one[one.arm == "spread 0"].bits.mean() for o, one in runs.groupby("organism")}
    for passage, lines in runs.groupby("passage"):
        said = {"spread 1": [], "spread 0": []}
        for line in lines.itertuples():
            said[line.arm].append(line.bits - level[line.organism])
        if all(said.values()):
            assert found.bits[passage] == pytest.approx(np.mean(said["spread 1"]) - np.mean(said["spread 0"]))
            assert (found.exposed[passage], found.unexposed[passage]) == tuple(map(len, said.values()))
        else:
            assert passage not in found.index


def truth(runs: pd.DataFrame, of_passages: float, chance: float) -> float:
    """The share of the variance that is planted, for the numbers of organisms that there are."""
    found = between_organisms.counterfactual(runs)
    error = (chance**2 / found.exposed + (chance / 2) ** 2 / found.unexposed).mean()
    return of_passages**2 / (of_passages**2 + error)


@pytest.mark.slow
@pytest.mark.parametrize("of_passages", [0.0, 10.0, 30.0])
def test_share_of_the_passage_is_found_on_average_and_its_interval_holds_it(of_passages):
    rng = np.random.default_rng(5)
    estimates, held = [], []
    for _ in range(SETS):
        runs = organisms(rng, of_passages)
        found, planted = between_organisms.passage_share(runs), truth(runs, of_passages, 15.0)
        estimates.append(found.estimate - planted)
        held.append(found.low <= planted <= found.high)
    assert abs(np.mean(estimates)) < 4 * np.std(estimates) / np.sqrt(SETS)
    assert np.mean(held) >= 0.95 - 2.6 * np.sqrt(0.05 * 0.95 / SETS)


def test_no_passage_of_both_roles_and_no_role_held_twice_are_refused():
    runs = organisms(np.random.default_rng(2), passages=20)
    with pytest.raises(ValueError, match="one organism has met and another has not"):
        between_organisms.counterfactual(runs[runs.arm == "spread 1"])
    with pytest.raises(ValueError, match=r"two organisms have met, .* of 20 files each; got \d"):
        between_organisms.passage_share(runs[runs.organism.isin(["o0", "o1"])])


def test_sizes_are_told_in_the_order_asked_for_and_a_lack_of_half_life_is_said():
    strong, none = (
        simulated(effect, last=840, seed=3).assign(kl_ld=60, organism=name)
        for name, effect in (("large", lambda since: 80 * np.exp(-since / 200)), ("small", lambda since: 0 * since))
    )
    runs = pd.concat([strong, none], ignore_index=True)
    found = between_organisms.by_size(runs, {"small": "1 M", "medium": "2 M", "large": "9 M"})
    assert found.index.tolist() == ["small", "large"]
    assert found.weights.tolist() == ["1 M", "9 M"]
    assert found["half-life"].iloc[0].startswith("a half-life needs first bits")
    first = event_study.by_lag(strong).iloc[0]
    assert found.bits.iloc[1] == f"{first.estimate:.0f} ({first.low:.0f} to {first.high:.0f})"
    assert found.attrs["n"][1] == first.n
    with pytest.raises(ValueError, match="none of medium was measured"):
        between_organisms.by_size(runs, {"medium": "2 M"})


def test_more_than_in_another_organism_is_the_planted_difference_passage_by_passage():
    """Passages differ by 30 bits and more among themselves, which cancels; the interval is of what does not."""
    met = {name: simulated(lambda since, left=left: left + 0 * since, seed=4) for name, left in (("a", 40), ("b", 70))}
    runs = pd.concat([run.assign(organism=name, kl_ld=60) for name, run in met.items()], ignore_index=True)
    own = between_organisms.by_organism(runs).groupby("organism").first()
    noisy = runs.assign(cross_entropy=runs.cross_entropy + np.random.default_rng(0).normal(0, 0.02, len(runs)))
    for of, tolerance in ((runs, 1e-6), (noisy, 2.0)):
        first = between_organisms.beyond(of, "b", "a").iloc[0]
        assert first.estimate == pytest.approx(30, abs=tolerance)
        assert first.high - first.low < 0.5 * (own.high - own.low).min()
    table = between_organisms.by_size(runs, {"a": "1 M", "b": "9 M"})
    assert table.more.tolist() == ["", "30.0 (30.0 to 30.0)"]


@pytest.mark.parametrize(
    "change",
    [
        lambda run: run[run["index"] > 0],
        lambda run: run.assign(exposure_step=run.exposure_step + 60),
        lambda run: run.assign(arm="another"),
    ],
    ids=["a passage less", "met later", "of another arm"],
)
def test_organisms_that_met_other_passages_are_not_compared(change):
    run = simulated(lambda since: 80 + 0 * since, seed=4).assign(kl_ld=60)
    runs = pd.concat([run.assign(organism="a"), change(run).assign(organism="b")], ignore_index=True)
    with pytest.raises(ValueError, match="b and a have not met the same passages at the same steps"):
        between_organisms.beyond(runs, "b", "a")


def test_organism_that_is_measured_again_is_compared_where_both_were_measured():
    here = simulated(lambda since: 80 + 0 * since, seed=4).rename(columns={"index": "canary"}).assign(kl_ld=60)
    before = here.rename(columns={"canary": "passage"}).assign(organism="a").sample(frac=0.5, random_state=0)
    same = between_organisms.again(here, before, "a")
    assert same == {"n": len(before), "bits": 0, "tokens": 0}
    worse = before.iloc[0].name
    moved = before.assign(cross_entropy=before.cross_entropy + 0.5 * (before.index == worse), kl_ld=59)
    found = between_organisms.again(here, moved, "a")
    assert found == {"n": len(before), "bits": pytest.approx(0.5 * 64 / np.log(2)), "tokens": len(before)}
    for runs in (before, pd.DataFrame()):
        with pytest.raises(ValueError, match="nothing that was measured of b before is in results/"):
            between_organisms.again(here, runs, "b")
    with pytest.raises(ValueError, match="is of other passages or steps"):
        between_organisms.again(here.assign(step=7), before, "a")
