"""Hidden, erased, forgotten, met once, or never there: what the page on the positive control tells.

Tables of relearning, of noise and of probes in, tidy tables and numbers out. Every comparison names its null.
Knows neither how anything is measured, nor models, nor figures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lmmem.analysis import detection, noise
from lmmem.analysis.randomisation import LEAST, cluster_mean
from lmmem.analysis.recognition import SCORES
from lmmem.analysis.savings import after, beside_equals, curves, hazard, saved
from lmmem.analysis.statistics import Interval, as_cells, best_of_table, check_columns, interval

__all__ = [
    "all_odds",
    "answer",
    "at_few_false_alarms",
    "beside_others",
    "brought_back",
    "by_cost",
    "by_kind",
    "by_noise",
    "by_way",
    "concluded",
    "glance",
    "learning",
    "made",
    "missed",
    "named",
    "over_draws",
    "quotable",
    "savings",
    "tells",
    "told_checks",
    "told_noise",
    "told_savings",
    "verdict",
    "whole_blocks",
]

OPTIMIZER, RATE = "adamw", 5e-4  # the way that was decided on (book/plan.md, "Estimands")
ALONE, NEIGHBOURS = "adamw, natural text alone", "adamw, neighbours in the file"  # ways that hold no passage
LATER = {"once": 16, "just after": 16}  # presentations after which savings are read, 8 of all other kinds
SOON = 8
PRESENTATION = 6  # passes of one: forward and backward, of the passage and of the row beside it
NULLS = {"treated alike": "{} 0", "untouched": "untouched 0", "unexposed": "spread 0", "not met": "row 0"}
NULLS |= {"never seen": "never seen 0"}  # of models that nobody here trained
FEW = "{} negatives"  # too few for a share found at 1 % false alarms
# Verdicts as a table has room for them.
SHORT = {"found, beyond the likelihood": "found *"}
SHORT |= {"A/A excludes 0: no verdict": "none: A/A", f"n < {LEAST}: no verdict": f"none: n < {LEAST}"}
MARKS = {"tells": " *", "reversed": " -", "A/A excludes 0.5: no verdict": " A/A"}
MARKS |= {"found": " *", "found, beyond the likelihood": " *", "A/A excludes 0: no verdict": " A/A"}
MISSING = {"beside equals": "none as likely", "A/A": "one a block"}
ONE_FILE = "{:.1f}, twins of one file"  # or as good as of one: there is no interval
# Of whose shares found at few false alarms a table tells: one of each sort.
FRESH = "noise, fresh half"
TOLD = ("loss", "Min-K%++", FRESH, "relearning")
GLANCE = {"noise, fresh half": FRESH, "likelihood": "loss"}
ORDER = ("hidden", "erased", "forgotten", "half learnt", "just after", "once", "row", "known")
WORDS = {"just after": "what was met once, just after it", "once": "what was met once, at the end of training"}
FROM_ARM = {"q1 64": "forgotten", "q2 64": "forgotten", "spread 16": "half learnt", "spread 1": "once", "row 1": "row"}
FROM_ARM |= {"known 1": "known"}
NONE = Interval(np.nan, np.nan, np.nan, 0)
Numbers = dict[str, object]


def by_kind(table: pd.DataFrame, kind: str | None = None) -> pd.DataFrame:
    """Passages that are known to be there by their kind: the arm of the exposed is replaced by it.

    Parameters
    ----------
    table : columns arm and presentations (in training).
    kind : of all of them; None is by their arm: those of a derived organism are their group, "q1 64" and "q2 64" are
        forgotten, "spread 16" is half learnt, "spread 1" is once; other arms of the exposed are left out.

    >>> table = pd.DataFrame({"arm": ["q1 64", "hidden 32", "spread 0", "spread 8"], "presentations": [64, 32, 0, 8]})
    >>> by_kind(table).arm.tolist()
    ['forgotten', 'hidden', 'spread 0']
    """
    check_columns(table, ["arm", "presentations"])
    there = table.presentations > 0
    group = table.arm.str.rsplit(n=1).str[0]
    named = table.arm.map(FROM_ARM).fillna(group.where(group.isin(["hidden", "erased"])))
    arm = table.arm.where(~there, named if kind is None else kind)
    return table.assign(arm=arm)[arm.notna()].reset_index(drop=True)


def _usual(relearned: pd.DataFrame) -> pd.DataFrame:
    """Relearning in the way that was decided on beforehand, and no other."""
    if "optimizer" not in relearned:
        return relearned
    same = (relearned.optimizer == OPTIMIZER) & np.isclose(relearned.learning_rate.to_numpy(), RATE)
    return relearned[same]


def _kinds(*tables: pd.DataFrame, every_way: bool = False) -> list[tuple[str, pd.DataFrame]]:
    """Each kind with its nulls: its own passages by their kind, and those that were not met beside them."""
    cells = []
    for table in tables if every_way else map(_usual, tables):
        if "kind" in table:
            cells += [(str(kind), by_kind(lines, str(kind))) for kind, lines in table.groupby("kind")]
        else:
            named = by_kind(table)
            kinds = named.arm[named.presentations > 0].unique()
            cells += [(kind, named[(named.arm == kind) | (named.presentations == 0)]) for kind in kinds]
    return sorted(cells, key=lambda cell: ORDER.index(cell[0]))


def _nulls(kind: str, table: pd.DataFrame) -> dict[str, str]:
    """By what it is called, the arm of each null that is there."""
    arms = {name: arm.format(kind) for name, arm in NULLS.items()}
    return {name: arm for name, arm in arms.items() if (table.arm == arm).any()}


def _called(kind: str, table: pd.DataFrame) -> dict[str, str]:
    """What the passages of each arm are called in a figure: there, or their null."""
    return {arm: name for name, arm in _nulls(kind, table).items()} | {kind: "there"}


def whole_blocks(sequences: pd.DataFrame, n: int, seed: int = 0) -> pd.DataFrame:
    """Sequences of two blocks or more, drawn by chance, until n exposed are among them: what stands together stays so.

    As many sequences from as many blocks as can be hold one of each null a block, of which A/A cannot be asked.

    Parameters
    ----------
    sequences : columns block and presentations. n : of the exposed, or all there are. seed : of the draw.

    >>> table = pd.DataFrame({"block": [1, 1, 1, 2, 2, 2, 3, 3, 3], "presentations": [32, 32, 0] * 3})
    >>> [whole_blocks(table, n).block.nunique() for n in (1, 4, 5)]
    [2, 2, 3]
    """
    blocks = sequences.block.drop_duplicates().sample(frac=1, random_state=seed)
    exposed = sequences[sequences.presentations > 0].groupby("block").size().reindex(blocks, fill_value=0)
    before = exposed.cumsum() - exposed
    kept = before.index[(before < n) | (np.arange(len(before)) < 2)]  # an interval needs two
    return sequences[sequences.block.isin(kept)].reset_index(drop=True)


def learning(*relearned: pd.DataFrame) -> pd.DataFrame:
    """kl-LD after each presentation, by kind and null.

    Parameters
    ----------
    relearned : tables as :func:`lmmem.experiments.relearning.measured` or ``Study.relearned`` gives them.

    Returns
    -------
    As :func:`lmmem.analysis.savings.curves`, with kind; and what: "there", or what the null is called.
    """
    found = []
    for kind, table in _kinds(*relearned):
        names = _called(kind, table)
        lines = curves(table[table.arm.isin(names)])
        found.append(lines.assign(kind=kind, what=lines.arm.map(names)))
    return pd.concat(found, ignore_index=True)


def savings(*relearned: pd.DataFrame, permutations: int = 999, seed: int = 0) -> pd.DataFrame:
    """What relearning saves, by kind and null: the plan's rules 11 and 14.

    Parameters
    ----------
    relearned : as for :func:`learning`. permutations, seed : of the tests.

    Returns
    -------
    One line a kind and null: kind, null, after (presentations), kl_ld (mean, then), kl_ld_null, estimate, low, high
    (tokens saved), n, p; presentations_saved (restricted mean until recited), presentations_low, presentations_high;
    aa, aa_low, aa_high (twins against twins; missing where no block has two); equal, equal_low, equal_high, equal_n
    (tokens saved beside twins as likely before the first presentation; missing if there are none, without a bound if
    they are as good as of one file), equal_aa (whether A/A of these excludes 0), verdict: "found", "found, beyond the
    likelihood" (if A/A of these allows it), "not established", or that there are too few, or A/A.
    """
    lines: list[Numbers] = []
    for kind, table in _kinds(*[table for table in relearned if len(table)]):
        for null, twins in _nulls(kind, table).items():
            pair = table[table.arm.isin([kind, twins])]
            many = min(LATER.get(kind, SOON), int(pair.presentation.max()))
            found = saved(pair, twins, many, permutations=permutations, seed=seed)
            tokens, rounds = (found[found.saved == of] for of in ("tokens", "presentations"))
            own, aa = tokens[tokens.arm == kind].iloc[0], _aa(tokens)
            until = interval(rounds, arm=kind)
            means = after(pair, many).groupby("arm").kl_ld.mean()
            line = {"kind": kind, "null": null, "after": many, "kl_ld": means[kind], "kl_ld_null": means[twins]}
            line |= {name: own[name] for name in ("estimate", "low", "high", "n", "p")}
            line |= _ends("presentations_saved", "presentations", until) | _ends("aa", "aa", aa)
            equal, off = _beside_equals(pair, kind, twins, many, seed)
            line |= _ends("equal", "equal", equal) | {"equal_n": equal.n, "equal_aa": off}
            beyond = equal.n >= LEAST and equal.low > 0 and not off
            lines.append(line | {"verdict": verdict(own.n, own.low, aa, beyond)})
    return pd.DataFrame(lines)


def _beside_equals(pair: pd.DataFrame, kind: str, twins: str, many: int, seed: int) -> tuple[Interval, bool]:
    """Tokens saved beside twins as likely, missing if there are none; whether A/A of these excludes 0."""
    try:
        found = beside_equals(pair, twins, many, seed=seed)
    except ValueError:  # none is as likely
        return NONE, False
    return interval(found, arm=kind), _aa(found).excludes_zero


def _aa(found: pd.DataFrame) -> Interval:
    """One half of a null against the other; missing where no block has two, which excludes nothing."""
    return interval(found, arm=noise.NULL) if (found.arm == noise.NULL).any() else NONE


def _ends(name: str, prefix: str, found: Interval) -> dict[str, float]:
    return {name: found.estimate, f"{prefix}_low": found.low, f"{prefix}_high": found.high}


def named(kind: str) -> str:
    """A kind in a sentence.

    >>> named("hidden"), named("just after")
    ('the hidden', 'what was met once, just after it')
    """
    return WORDS.get(kind, f"the {kind}")


def verdict(n: int, low: float, aa: Interval, beyond: bool = False) -> str:
    """What savings show: rules 11 and 14 of the plan.

    Parameters
    ----------
    n : passages. low : end of the interval of what they save. aa : one half of the null against the other, missing
        where it cannot be asked. beyond : whether more is found than the likelihood does.

    >>> verdict(64, 2.0, Interval(0.1, -1.0, 1.2, 32)), verdict(8, 2.0, Interval(0.1, -1.0, 1.2, 32))
    ('found', 'n < 16: no verdict')
    """
    if n < LEAST:
        return f"n < {LEAST}: no verdict"
    if aa.excludes_zero:
        return "A/A excludes 0: no verdict"
    if low <= 0:
        return "not established"
    return "found, beyond the likelihood" if beyond else "found"


def told_savings(found: pd.DataFrame) -> pd.DataFrame:
    """Savings as a table to read: what is compared, the tokens saved with their interval in one cell, and the verdict.

    "found *" is found beyond the likelihood; "none: A/A" and "none: n < 16" say why there is no verdict.

    Raises
    ------
    ValueError : nothing was taught again.
    """
    _check_taught(found)
    told = found[["kind", "null", "n", "after"]].assign(
        **{"kl-LD": found.kl_ld.round(1), "null's": found.kl_ld_null.round(1)}
    )
    told["tokens saved"] = as_cells(found, "estimate", "low", "high")
    told["verdict"] = found.verdict.replace(SHORT)
    return told.set_index(["kind", "null"])


def told_checks(found: pd.DataFrame) -> pd.DataFrame:
    """What stands beside savings, as a table to read: presentations, equals, and the null against itself.

    Raises
    ------
    ValueError : nothing was taught again.
    """
    _check_taught(found)
    ends = {
        "presentations saved": ("presentations_saved", "presentations_low", "presentations_high"),
        "beside equals": ("equal", "equal_low", "equal_high"),
        "A/A": ("aa", "aa_low", "aa_high"),
    }
    cells = {name: as_cells(found, *columns, missing=MISSING.get(name, "")) for name, columns in ends.items()}
    pairs = zip(cells["beside equals"], found.equal, found.equal_low, found.equal_n, found.equal_aa, strict=True)
    cells["beside equals"] = [_told_equal(*pair) for pair in pairs]
    return found[["kind", "null"]].assign(**cells).set_index(["kind", "null"])


def _told_equal(cell: str, estimate: float, low: float, n: int, off: bool) -> str:
    said = ONE_FILE.format(estimate) if np.isinf(low) else cell
    return f"{said}, n = {n}{', A/A is not 0' if off else ''}" if n else said


def _check_taught(found: pd.DataFrame) -> None:
    if found.empty:
        raise ValueError("no organism was taught again: make replicates")


def by_way(relearned: pd.DataFrame, permutations: int = 199, seed: int = 0) -> pd.DataFrame:
    """Tokens saved over twins treated alike by other optimizers and learning rates, of the derived organisms.

    Returns
    -------
    One line a kind and way: kind, optimizer, learning_rate, after, estimate, low, high, n, seeds.

    Raises
    ------
    ValueError : no derived organism was measured.
    """
    lines = []
    for kind, table in _kinds(relearned, every_way=True) if len(relearned) else []:
        twins = NULLS["treated alike"].format(kind)
        if not (table.arm == twins).any():
            continue
        pair = table[table.arm.isin([kind, twins])]
        for (optimizer, rate), way in pair.groupby(["optimizer", "learning_rate"]):
            found = saved(way, twins, SOON, permutations=permutations, seed=seed)
            own = interval(found[found.saved == "tokens"], arm=kind)
            lines.append((kind, optimizer, float(f"{rate:.1g}"), SOON, *own, way.seed.nunique()))
    if not lines:
        raise ValueError("no derived organism was taught again: make replicates")
    columns = ["kind", "optimizer", "learning_rate", "after", *Interval._fields, "seeds"]
    return pd.DataFrame(lines, columns=columns)


def brought_back(relearned: pd.DataFrame, permutations: int = 199, seed: int = 0) -> Numbers:
    """What the neighbours of passages bring back of them, beyond those treated alike: the plan's rule 15.

    Parameters
    ----------
    relearned : as :func:`lmmem.experiments.relearning.measured` gives it. permutations, seed : of the tests.

    Returns
    -------
    Of hidden and erased: tokens_.., saved by their neighbours; more_.., the same beyond natural text alone, passage by
    passage; nats_.., as tokens, of the loss (nats per token). verdict : by tokens and more, in words.

    Raises
    ------
    ValueError : hidden or erased passages were not taught by their neighbours, or not by natural text alone.
    """
    told: Numbers = {}
    something, more, undecided = dict[str, bool](), dict[str, bool](), dict[str, bool]()
    kinds = dict(_kinds(relearned, every_way=True)) if len(relearned) else {}
    for kind in ("hidden", "erased"):
        twins, key = NULLS["treated alike"].format(kind), ["index", "seed", "presentation"]
        ways = [_way(kinds.get(kind), way, [kind, twins]) for way in (NEIGHBOURS, ALONE)]
        beside, alone = (way.set_index(key).sort_index() for way in ways)
        if not beside.index.equals(alone.index):
            raise ValueError(f"the {kind} were not taught as often by their neighbours and by natural text alone")
        tables = {"tokens": beside, "more": beside.assign(kl_ld=beside.kl_ld - alone.kl_ld)}
        tables["nats"] = beside.assign(kl_ld=beside.cross_entropy)
        found = {
            name: saved(table.reset_index(), twins, SOON, permutations=permutations, seed=seed).query(
                "saved == 'tokens'"
            )
            for name, table in tables.items()
        }
        own = {name: interval(table, arm=kind) for name, table in found.items()}
        told |= {f"{name}_{kind}": ends for name, ends in own.items()}
        something[kind], more[kind] = own["tokens"].low > 0, own["more"].low > 0
        undecided[kind] = _aa(found["tokens"]).excludes_zero
    return told | {"verdict": _by_rule_15(something, more, undecided)}


def _way(table: pd.DataFrame | None, optimizer: str, arms: list[str]) -> pd.DataFrame:
    lines = table[(table.optimizer == optimizer) & table.arm.isin(arms)] if table is not None else pd.DataFrame()
    if lines.empty:
        raise ValueError(f"no {arms[0]} passages were taught by {optimizer.partition(', ')[2]}: make replicates")
    return lines


def _by_rule_15(something: dict[str, bool], more: dict[str, bool], undecided: dict[str, bool]) -> str:
    said: dict[str, list[str]] = {}
    for kind, yes in something.items():
        words = "is not established to bring back anything of"
        if undecided[kind]:
            words = "is without a verdict, as A/A excludes 0, on"
        elif yes:
            words = (
                "brings back more than any text does of" if more[kind] else "brings back something, as any text may, of"
            )
        said.setdefault(words, []).append(f"the {kind}")
    return ", and ".join(f"such text {words} {' and '.join(kinds)}" for words, kinds in said.items())


def tells(asked: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """How well each probe tells each kind from each of its nulls: the plan's rules 12 and 14.

    Parameters
    ----------
    asked : as :func:`lmmem.experiments.probes.measured` gives it. seed : of the halves of A/A.

    Returns
    -------
    One line a kind, null and probe: kind, null, probe, passes, and as :func:`lmmem.analysis.detection.compare`:
    estimate, low, high (area under the ROC curve), n, negatives, p, q (over the probes of this kind and null), verdict;
    aa, aa_low, aa_high (the same of one half of each block of the null against the other; where this excludes 0.5,
    "A/A excludes 0.5: no verdict"; missing where no block has two); found_at,
    found_at_low, found_at_high (share found at 1 % false alarms; missing where there are fewer than 100 negatives).
    """
    check_columns(asked, ["organism", "canary", "arm", "presentations", "block", "file", "probe", "score", "passes"])
    if asked.empty:
        return asked.assign(kind=[], null=[], estimate=[], verdict=[])
    passes = asked.groupby("probe").passes.max()
    found = []
    for _, organism in asked.groupby("organism", sort=False):
        columns = ["canary", "arm", "presentations", "block", "file"]
        wide = organism.pivot(index=columns, columns="probe", values="score").reset_index()
        probes = [probe for probe in organism.probe.unique() if probe in wide]
        for kind, table in _kinds(wide):
            for null, twins in _nulls(kind, table).items():
                pair = table[table.arm.isin([kind, twins])]
                lines = detection.compare(pair, probes, twins)
                at = pd.DataFrame([_found_at(pair, probe, twins) for probe in lines.score], index=lines.index)
                null_ends = _null_areas(pair[pair.arm == twins], lines.score, seed)
                found.append(_by_rule_14(lines.assign(kind=kind, null=null).join(at).join(null_ends)))
    every = pd.concat(found, ignore_index=True).rename(columns={"score": "probe"}).drop(columns="arm")
    return every.assign(passes=every.probe.map(passes))


def _null_areas(negative: pd.DataFrame, probes: pd.Series, seed: int) -> pd.DataFrame:
    """Area of one half of each block of a null against the other, by chance; missing where no block has two."""
    turn = negative.sample(frac=1, random_state=seed).groupby("block").cumcount().reindex(negative.index)
    paired = turn < negative.groupby("block").block.transform("size") // 2 * 2  # of an odd number, one is left out
    halves = [negative[paired & (turn % 2 == half)] for half in (0, 1)]
    enough = all(half.file.nunique() > 1 for half in halves)
    lines = [
        detection.area(*(half[probe] for half in halves), *(half.file for half in halves)) if enough else NONE
        for probe in probes
    ]
    return pd.DataFrame([_ends("aa", "aa", one) for one in lines], index=probes.index)


def _by_rule_14(lines: pd.DataFrame) -> pd.DataFrame:
    off = (lines.aa_low > 0.5) | (lines.aa_high < 0.5)
    return lines.assign(verdict=lines.verdict.mask(off & (lines.n >= LEAST), "A/A excludes 0.5: no verdict"))


def _found_at(pair: pd.DataFrame, probe: str, twins: str) -> dict[str, float]:
    positive, negative = pair[pair.arm != twins], pair[pair.arm == twins]
    found = NONE
    if len(negative) >= 100:
        found = detection.found_at(
            positive[probe], negative[probe], clusters_positive=positive.file, clusters_negative=negative.file
        )
    return _ends("found_at", "found_at", found)


def at_few_false_alarms(areas: pd.DataFrame, probes: Sequence[str] = TOLD) -> pd.DataFrame:
    """Shares found at 1 % false alarms, in %, with their intervals as text; how many negatives, where they are too few.

    Parameters
    ----------
    areas : as :func:`tells` gives it. probes : which, in this order.

    Returns
    -------
    A line a kind and null, a column a probe.

    Raises
    ------
    ValueError : no organism was asked by any of these probes.
    """
    asked = areas[areas.probe.isin(probes)] if len(areas) else areas
    if asked.empty:
        raise ValueError(f"no organism was asked by {', '.join(probes)}: make replicates")
    shares = asked[["found_at", "found_at_low", "found_at_high"]]
    cells = as_cells(100 * shares, *shares.columns, digits=0)
    told = [cell or FEW.format(n) for cell, n in zip(cells, asked.negatives, strict=True)]
    wide = asked.assign(told=told).pivot(index=["kind", "null"], columns="probe", values="told")
    wide = wide.reindex(columns=[probe for probe in probes if probe in wide]).fillna("cannot be asked")
    return wide.sort_index(key=_in_order).rename_axis(columns=None)


def _in_order(level: pd.Index) -> pd.Index:
    """Kinds and nulls as numbers, in the order in which they are told."""
    return pd.Index([[*ORDER, *NULLS].index(name) for name in level])


def beside_others(areas: pd.DataFrame, kinds: Sequence[str] = ORDER) -> pd.DataFrame:
    """Probes by kind and null, areas with their intervals as text; columns in the order of the kinds.

    Raises
    ------
    ValueError : none of these kinds was asked.

    >>> areas = pd.DataFrame({"kind": ["once"], "null": ["unexposed"], "probe": ["loss"], "passes": [1]})
    >>> areas = areas.assign(estimate=0.7, low=0.6, high=0.8, n=40, verdict="tells")
    >>> beside_others(areas).iloc[0, 1]
    '0.70 (0.60 to 0.80) *'
    """
    areas = areas[areas.kind.isin(kinds)] if len(areas) else areas
    if areas.empty:
        raise ValueError("no organism was asked by every probe: make replicates")
    told = areas.assign(told=_marked(areas, digits=2))
    told["of"] = told.kind + " / " + told.null + " (n = " + told.n.astype(str) + ")"
    order = sorted(told.of.unique(), key=lambda of: ORDER.index(of.split(" / ")[0]))
    wide = told.pivot(index="probe", columns="of", values="told")
    wide = wide.reindex(areas.probe.drop_duplicates())[order].fillna("cannot be asked")
    wide.insert(0, "passes", areas.groupby("probe").passes.max().reindex(wide.index))
    return wide.rename_axis(columns=None)


def over_draws(*noisy: pd.DataFrame, sizes: Sequence[int] = (1, 2, 4, 8, 16)) -> pd.DataFrame:
    """Expected best-of-N kl-LD under noise, by kind and null, sigma and N.

    Parameters
    ----------
    noisy : tables as ``Study.perturbed`` gives them. sizes : values of N, those that the draws allow.

    Returns
    -------
    One line a kind, what ("there", or what the null is called), sigma and N: estimate, low, high (mean over passages,
    clustered by file), n.
    """
    lines = []
    for kind, table in _kinds(*noisy):
        names = _called(kind, table)
        for (sigma, arm), drawn in table[table.arm.isin(names)].groupby(["sigma", "arm"]):
            best = best_of_table(drawn, "draw", [size for size in sizes if size <= drawn.draw.nunique()])
            best = best.merge(drawn[["index", "file"]].drop_duplicates(), on="index")
            for size, table_of in best.groupby("N"):
                lines.append((kind, names[str(arm)], sigma, size, *cluster_mean(table_of.kl_ld, table_of.file)))
    return pd.DataFrame(lines, columns=["kind", "what", "sigma", "N", *Interval._fields])


def by_noise(
    greedy: Sequence[pd.DataFrame], noisy: Sequence[pd.DataFrame], seed: int = 0, clusters: str | None = None
) -> pd.DataFrame:
    """What passages gain by noise over each of their nulls, in the fresh half and by the best draw: the plan's rule 10.

    Parameters
    ----------
    greedy, noisy : tables of the same sequences, as ``Study.greedy`` and ``Study.perturbed`` give them; of greedy's
        steps that of the noise counts.
    seed, clusters : as for :func:`lmmem.analysis.noise.over_draws`.

    Returns
    -------
    One line a kind, null, sigma and score: kind, null, sigma, score ("fresh half", "best of N"), estimate, low, high
    (tokens), n; aa, aa_low, aa_high (A/A of this null, in the fresh half; missing where it has one passage a block);
    verdict: what noise does, "finds", "hardly finds" or "does not find", or that there are too few, or A/A.

    Raises
    ------
    ValueError : nothing was measured, or as for :func:`lmmem.analysis.noise.over_draws`.
    """
    if not len(noisy):
        raise ValueError("no organism is derived from this model")
    found = []
    for before, tried in zip(greedy, noisy, strict=True):
        still = by_kind(before[before.step.isin(tried.step)])
        kind = str(still.arm[still.presentations > 0].iloc[0])
        for null, twins in _nulls(kind, still).items():
            pair = still[still.arm.isin([kind, twins])]
            gains = noise.response(pair, tried[tried["index"].isin(pair["index"])], seed=seed, clusters=clusters)
            for _, at in gains.groupby("sigma"):
                aa = _aa(at[at.score == "fresh half"])
                lines = at[at.arm == kind].assign(kind=kind, null=null, verdict=_by_rule_10(at, kind, aa))
                found.append(lines.assign(aa=aa.estimate, aa_low=aa.low, aa_high=aa.high))
    return pd.concat(found, ignore_index=True).drop(columns="arm")


def _by_rule_10(gains: pd.DataFrame, kind: str, aa: Interval) -> str:
    fresh, best = (interval(gains, arm=kind, score=score) for score in ("fresh half", "best of N"))
    if fresh.n < LEAST:
        return f"n < {LEAST}: no verdict"
    if aa.excludes_zero:
        return "A/A excludes 0: no verdict"
    return noise.by_rule_10(fresh, best)


def told_noise(gains: pd.DataFrame) -> pd.DataFrame:
    """Gains by noise as a table to read: a line a kind, null and sigma.

    Parameters
    ----------
    gains : as :func:`by_noise` gives it.
    """
    told = gains.assign(told=as_cells(gains, "estimate", "low", "high"), verdict=gains.verdict.replace(SHORT))
    told["A/A"] = as_cells(gains, "aa", "aa_low", "aa_high", missing=MISSING["A/A"])
    wide = told.pivot(index=["kind", "null", "sigma", "n", "A/A", "verdict"], columns="score", values="told")
    wide = wide.reset_index(["n", "A/A", "verdict"]).rename_axis(columns=None)
    wide = wide.sort_index(level=["kind", "null"], key=_in_order, sort_remaining=False, kind="stable")
    return wide[["n", "A/A", "fresh half", "best of N", "verdict"]]


def by_cost(relearned: Sequence[pd.DataFrame], noisy: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """How well relearning, noise and the likelihood tell each kind from its first null, by what they cost.

    Parameters
    ----------
    relearned, noisy : tables of the same sequences, as ``Study.relearned`` and ``Study.perturbed`` give them. Of
        relearning the first seed counts.

    Returns
    -------
    One line a kind, probe and cost: kind, null, probe ("likelihood", "relearning", "noise at 0.02"), passes, estimate,
    low, high (area under the ROC curve), n.
    """
    lines = []
    for kind, table in _kinds(*relearned):
        null, twins = next(iter(_nulls(kind, table).items()))
        first = table[table.seed == table.seed.min()]
        scores = [("likelihood", 1, first[first.presentation == 0].assign(score=lambda t: -t.cross_entropy))]
        for presentation, then in first[first.presentation > 0].groupby("presentation"):
            scores.append(("relearning", 1 + PRESENTATION * int(presentation), then.assign(score=-then.kl_ld)))
        lines += [(kind, null, *head, *_area(scored, kind, twins)) for *head, scored in scores]
    for kind, table in _kinds(*noisy):
        null, twins = next(iter(_nulls(kind, table).items()))
        for sigma, drawn in table.groupby("sigma"):
            for size in [2**k for k in range(1, 9) if 2**k <= drawn.draw.nunique()]:
                best = drawn[drawn.draw < size].groupby(["index", "arm", "file"], as_index=False).kl_ld.min()
                ends = _area(best.assign(score=-best.kl_ld), kind, twins)
                lines.append((kind, null, f"noise at {sigma:g}", size, *ends))
    return pd.DataFrame(lines, columns=["kind", "null", "probe", "passes", *Interval._fields])


def _area(scored: pd.DataFrame, kind: str, twins: str) -> Interval:
    positive, negative = scored[scored.arm == kind], scored[scored.arm == twins]
    return detection.area(positive.score, negative.score, positive.file, negative.file)


def glance(found: pd.DataFrame, areas: pd.DataFrame) -> pd.DataFrame:
    """What noise, the likelihood and relearning show of each kind beside its null, as text, with a mark where they do.

    Parameters
    ----------
    found : as :func:`savings` gives it. areas : as :func:`tells` gives it.

    Returns
    -------
    A line a kind and null: areas under the ROC curve (of noise in the fresh half, of the loss), and tokens saved;
    a star where it tells (rule 12) or finds (rule 11), A/A where that allows no verdict.

    Raises
    ------
    ValueError : nothing was measured.
    """
    _check_asked(found, areas)
    told = {}
    for name, probe in GLANCE.items():
        lines = areas[areas.probe == probe].set_index(["kind", "null"])
        told[name] = _marked(lines, digits=2)
    lines = found.set_index(["kind", "null"])
    told["relearning, tokens"] = _marked(lines, digits=1)
    table = pd.DataFrame(told).fillna("")
    return table.loc[sorted(table.index, key=lambda key: (ORDER.index(key[0]), [*NULLS].index(key[1])))]


def _marked(lines: pd.DataFrame, digits: int) -> pd.Series:
    """Intervals as text, each with the mark of its verdict, if that has one."""
    cells = pd.Series(as_cells(lines, "estimate", "low", "high", digits=digits), lines.index)
    return cells + lines.verdict.map(MARKS).fillna("")


def answer(found: pd.DataFrame, areas: pd.DataFrame) -> Numbers:
    """What the page opens with.

    Parameters
    ----------
    found : as :func:`savings` gives it. areas : as :func:`tells` gives it.

    Returns
    -------
    As :func:`concluded`, without noise, of which missed tells; soon, later : presentations after which savings are
    read, and those of the once-presented.

    Raises
    ------
    ValueError : nothing was measured.
    """
    told = concluded(found, areas)
    del told["noise"]
    return told | {"soon": SOON, "later": LATER["once"]}


def quotable(found: pd.DataFrame, areas: pd.DataFrame) -> Numbers:
    """What noise and the likelihood tell (rule 12, by area), and what relearning finds (rule 11, by tokens), in words.

    Parameters
    ----------
    found : as :func:`savings` gives it. areas : as :func:`tells` gives it.

    Returns
    -------
    noise (in the fresh half), likelihood, relearning : the kinds that each tells or finds beside its null (of hidden
    and erased, that treated alike), those that it is not shown to, and those of which there is no verdict, in words.
    outside : the same of the likelihood beside untouched passages, which is what one has who knows of no treatment;
    and which of its other scores tell what it does not.

    Raises
    ------
    ValueError : nothing was measured.
    """
    _check_asked(found, areas)
    main, lines = (table[table.null != "untouched"] for table in (areas, found))
    return {
        "noise": _told_verdicts(main[main.probe == FRESH]),
        "likelihood": _told_verdicts(main[main.probe == "loss"]),
        "outside": _outside(areas[areas.null == "untouched"]),
        "relearning": _told_verdicts(lines, "find", "found"),
    }


def concluded(found: pd.DataFrame, areas: pd.DataFrame) -> Numbers:
    """As :func:`quotable` and :func:`missed`.

    Raises
    ------
    ValueError : as for :func:`quotable`.
    """
    return quotable(found, areas) | missed(found, areas)


def missed(found: pd.DataFrame, areas: pd.DataFrame) -> Numbers:
    """Which kinds relearning finds that noise is not shown to tell, in a sentence, under the name missed.

    Raises
    ------
    ValueError : as for :func:`quotable`.
    """
    _check_asked(found, areas)
    sure = set(found.kind[(found.null != "untouched") & found.verdict.str.startswith("found")])
    noisy = areas[(areas.null != "untouched") & (areas.probe == FRESH) & ~areas.verdict.str.contains("no verdict")]
    kinds = [kind for kind in ORDER if kind in sure & set(noisy.kind[noisy.verdict != "tells"])]
    said = "There is nothing here that relearning finds and noise is not shown to tell."
    if kinds:
        names = ", ".join(map(named, kinds))
        said = f"Noise is not shown to tell {names}, and relearning finds them: what noise does not show may be there."
    return {"missed": said}


def _check_asked(found: pd.DataFrame, areas: pd.DataFrame) -> None:
    if areas.empty or found.empty:
        raise ValueError("no derived organism was taught again and asked: make replicates")


def _outside(areas: pd.DataFrame) -> str:
    """What the likelihood tells beside untouched passages, and which of its other scores tell what it does not."""
    loss = areas[areas.probe == "loss"]
    said = _told_verdicts(loss)
    missed = loss.kind[loss.verdict != "tells"]
    others = areas[areas.kind.isin(missed) & areas.probe.isin([*SCORES.values()]) & (areas.verdict == "tells")]
    for kind, lines in others.groupby("kind"):
        cells = zip(lines.probe, as_cells(lines, "estimate", "low", "high", digits=2), strict=True)
        said += f"; other scores of it tell the {kind}: {', '.join(map(' '.join, cells))}"
    return said


def _told_verdicts(lines: pd.DataFrame, verb: str = "tell", yes: str = "tells") -> str:
    """Of which kinds the verdict begins with `yes`, of which it does not, and of which there is none."""
    holds, none = lines.verdict.str.startswith(yes), lines.verdict.str.contains("no verdict")
    sides = {f"{verb}s": holds, f"is not shown to {verb}": ~holds & ~none, "is without a verdict on": none}
    parts = []
    for head, which in sides.items():
        there = [named(kind) for kind in ORDER if kind in set(lines.kind[which])]
        if there:
            parts.append(f"{head} {', '.join(there)}")
    return "; it ".join(parts)


def made(*greedy: pd.DataFrame) -> pd.DataFrame:
    """Whether derived organisms are what the plan asks of them: known by heart before, and not recited after.

    Parameters
    ----------
    greedy : of each, a table as ``Study.greedy`` gives it at its three steps: the base's last, all learnt, all treated.

    Returns
    -------
    One line an organism: kind, taught (passages), recited (share of them, before the treatment), kl_ld (their median
    after it), loss and loss_after (nats per token of the untouched, which no training met: of the base, and at the
    end).

    Raises
    ------
    ValueError : there is none, or a table is of other than three steps.
    """
    if not greedy:
        raise ValueError("no organism is derived from this model")
    lines = []
    for table in map(by_kind, greedy):
        steps = sorted(set(table.step))
        if len(steps) != 3:
            raise ValueError(f"a derived organism has three steps, got {', '.join(map(str, steps))}")
        base, learnt, last = (table[table.step == step] for step in steps)
        kind = base.arm[base.presentations > 0].iloc[0]
        before, after_it = (at[at.arm == kind].kl_ld for at in (learnt, last))
        losses = (float(at.cross_entropy[at.arm == "untouched 0"].mean()) for at in (base, last))
        lines.append((kind, len(before), float((before == 0).mean()), float(after_it.median()), *losses))
    return pd.DataFrame(lines, columns=["kind", "taught", "recited", "kl_ld", "loss", "loss_after"])


def all_odds(relearned: pd.DataFrame) -> Numbers:
    """Odds of being recited for the first time, of the hidden and of the erased over those treated alike.

    Raises
    ------
    ValueError : one of them was not taught again, or its odds have no bound.
    """
    tables = {} if relearned.empty else dict(_kinds(relearned))
    if missing := [kind for kind in ("hidden", "erased") if kind not in tables]:
        raise ValueError(f"no {' and no '.join(missing)} passages were taught again: make replicates")
    return {kind: hazard(tables[kind], kind, f"{kind} 0") for kind in ("hidden", "erased")}
