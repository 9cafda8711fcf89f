"""What models that nobody here trained know and recite of texts that all the world copies: what the page on them tells.

Tables of :mod:`lmmem.experiments.real` in, tidy tables and numbers out. Knows neither how anything is measured, nor
models, nor figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pandas as pd
from scipy import stats

from lmmem.analysis import detection, extraction, hidden, own_words
from lmmem.analysis.prose import MINUS
from lmmem.analysis.randomisation import compare_arms
from lmmem.analysis.recognition import SCORES
from lmmem.analysis.runs import longest_run
from lmmem.analysis.scan import Scanned, found, recited_share, told_share
from lmmem.analysis.statistics import LEVEL, Interval, interval

__all__ = [
    "answer",
    "areas",
    "beside_own_words",
    "by_noise",
    "by_sampling",
    "by_text",
    "learning",
    "opening",
    "over_draws",
    "provenance",
    "samples_needed",
    "savings",
    "told_noise",
    "told_own_words",
    "told_savings",
    "words_learning",
]

LABELS = {"smollm2-135m-instruct": "SmolLM2", "gemma-3-270m": "Gemma"}
KNOWN, NEVER = "known 1", "never seen 0"  # arms


class Measured(Protocol):
    """What was measured of a model, as :func:`lmmem.experiments.real.measured` gives it."""

    @property
    def scan(self) -> Scanned: ...
    @property
    def passages(self) -> pd.DataFrame: ...
    @property
    def noise(self) -> pd.DataFrame: ...
    @property
    def sampled(self) -> pd.DataFrame: ...
    @property
    def extraction(self) -> pd.DataFrame: ...
    @property
    def relearned(self) -> pd.DataFrame: ...
    @property
    def own_words(self) -> pd.DataFrame: ...
    @property
    def record(self) -> Mapping[str, Any]: ...


Models = Mapping[str, Measured]


def by_text(models: Models) -> pd.DataFrame:
    """How well each text is known, and what of it is recited.

    Parameters
    ----------
    models : by name; of each the scan has the names of its texts.

    Returns
    -------
    One line a text, and for each model: loss (nats per token, mean of its windows), recited (share of its tokens in
    runs of 16 or more), longest (tokens recited in a run), found (windows by rule 16, of how many); last the control.
    """
    columns = []
    for of in models.values():
        windows, control, names = of.scan.windows, of.scan.control, of.record["scan"]["texts"]
        named = found(windows, control, chosen=of.scan.chosen)
        parts = {name: windows[windows.text == number] for number, name in enumerate(names)}
        lines = {
            name: {
                "loss": f"{part.cross_entropy.mean():.2f}",
                "recited": f"{recited_share(part).estimate:.0%}",
                "longest": str(longest_run(part)),
                "found": f"{named[part.index].sum()} of {len(part)}" if name in names else "",
            }
            for name, part in (parts | {"never seen": control}).items()
        }
        columns.append(pd.DataFrame.from_dict(lines, orient="index"))
    return pd.concat(columns, axis=1, keys=[_label(name) for name in models])


def learning(models: Models) -> pd.DataFrame:
    """kl-LD after each presentation of the passages and of their twins, as :func:`lmmem.analysis.hidden.learning`.

    Returns
    -------
    Its lines with a column model.
    """
    return pd.concat([hidden.learning(of.relearned).assign(model=_label(name)) for name, of in models.items()])


def over_draws(models: Models, sizes: Sequence[int] = (1, 2, 4, 8)) -> pd.DataFrame:
    """Expected best-of-N kl-LD at the larger sigma; as :func:`lmmem.analysis.hidden.over_draws`, and model."""
    found = []
    for name, of in models.items():
        table = hidden.over_draws(of.noise, sizes=sizes)
        found.append(table[table.sigma == table.sigma.max()].assign(model=_label(name)))
    return pd.concat(found, ignore_index=True)


def by_noise(models: Models, seed: int = 0) -> pd.DataFrame:
    """What passages gain by noise beyond their twins, clustered by text.

    Returns
    -------
    As :func:`lmmem.analysis.hidden.by_noise`, and model.
    """
    found = [
        hidden.by_noise([of.passages], [of.noise], seed=seed, clusters="file").assign(model=name)
        for name, of in models.items()
    ]
    return pd.concat(found, ignore_index=True)


def told_noise(gains: pd.DataFrame) -> pd.DataFrame:
    """Gains by noise as a table to read, a line a model and sigma."""
    parts = gains.groupby("model", sort=False)
    found = {_label(str(name)): hidden.told_noise(of).droplevel(["kind", "null"]) for name, of in parts}
    return pd.concat(found, names=["model"]).rename(index="{:.2g}".format, level="sigma")


def savings(models: Models, seed: int = 0) -> pd.DataFrame:
    """What relearning saves beyond twins; as :func:`lmmem.analysis.hidden.savings`, and model."""
    found = [hidden.savings(of.relearned, seed=seed).assign(model=name) for name, of in models.items()]
    return pd.concat(found, ignore_index=True)


def told_savings(saved: pd.DataFrame) -> pd.DataFrame:
    """Savings as a table to read, a line a model: tokens, and beside twins that were as likely."""
    beside = hidden.told_checks(saved).reset_index(drop=True)[["presentations saved", "beside equals"]]
    told = hidden.told_savings(saved).reset_index(drop=True).drop(columns=["n", "after"]).join(beside)
    return told.set_index(saved.model.map(_label).rename("model"))


def beside_own_words(models: Models, value: str = "tokens", seed: int = 0) -> pd.DataFrame:
    """What teaching saves beside the models' own words; as :func:`lmmem.analysis.own_words.savings`, and model.

    Raises
    ------
    ValueError : no model was taught any.
    """
    if not (taught := _taught(models)):
        raise ValueError("no model was taught beside its own words: make real")
    found = [own_words.savings(of.own_words, value=value, seed=seed).assign(model=name) for name, of in taught.items()]
    return pd.concat(found, ignore_index=True)


def _taught(models: Models) -> dict[str, Measured]:
    """Those that were taught beside their own words."""
    return {name: of for name, of in models.items() if len(of.own_words)}


def told_own_words(models: Models, found: pd.DataFrame, nats: pd.DataFrame) -> pd.DataFrame:
    """Savings beside the models' own words as a table to read, a line a figure, a column a model.

    Parameters
    ----------
    models : by name. found, nats : as :func:`beside_own_words` gives them, with value "tokens" and "nats".
    """
    columns = {}
    for name, of in _taught(models).items():
        lines = [table[table.model == name] for table in (found, nats)]
        told = own_words.told(lines[0]).join(own_words.told_checks(*lines))
        levels = own_words.told_levels(lines[0], lines[0])
        before = of.own_words[of.own_words.presentation == 0].groupby("arm", observed=True).cross_entropy.mean()
        counts = {
            f"{label}{of_null}": of.record["own_words"][label][arm]
            for label in ("sought", "there")
            for arm, of_null in ((KNOWN, ""), (NEVER, ", null"))
        }
        losses = {"loss": f"{before[KNOWN]:.2f}", "loss, null": f"{before[NEVER]:.2f}"}
        (line,) = told.join(levels).to_dict("records")
        columns[_label(name)] = line | counts | losses
    order = ["sought", "sought, null", "there", "there, null", "n", "n null", "loss", "loss, null", "kl-LD before"]
    order += ["of own words", "true text", "own words", "null's own words"]
    order += ["beside own words", "of the null", "beyond the null", "A/A", "nats", "verdict"]
    return pd.DataFrame(columns).loc[order].astype(str).replace("-", MINUS, regex=True)


def words_learning(models: Models) -> pd.DataFrame:
    """kl-LD after each presentation of the truth and of the models' own words, of the known and of the never seen.

    Returns
    -------
    As :func:`lmmem.analysis.own_words.curves`, and model, and what (kind and continuation in words).
    """
    curves = {name: own_words.curves(of.own_words) for name, of in _taught(models).items()}
    found = pd.concat([of.assign(model=_label(name)) for name, of in curves.items()])
    there = found.kind.map({"known": "known", "never there": "never seen"})
    return found.assign(what=there + ", " + found.continuation.map({"true": "true text", "alternative": "own words"}))


def by_sampling(models: Models, seed: int = 0) -> pd.DataFrame:
    """Tokens that the best of the samples gains, of passages beyond twins.

    Returns
    -------
    One line a model: model, samples, estimate, low, high (tokens, clustered by text), n.
    """
    lines = []
    for name, of in models.items():
        best = of.sampled.groupby("index").kl_ld.min()
        table = of.passages.assign(gain=of.passages.kl_ld - of.passages["index"].map(best))
        found = interval(compare_arms(table, "gain", NEVER, halves=False, seed=seed), arm=KNOWN)
        lines.append((_label(name), of.sampled["sample"].nunique(), *found))
    return pd.DataFrame(lines, columns=["model", "samples", *Interval._fields])


def samples_needed(models: Models) -> pd.DataFrame:
    """How many samples it takes to find passages and twins word for word, by their exact probabilities.

    Returns
    -------
    As :func:`lmmem.analysis.extraction.samples_needed`, a line a model and arm, without the share found in few
    samples; and likeliest, the samples of the passage that needs fewest.
    """
    found = {}
    for name, of in models.items():
        table = extraction.samples_needed(of.extraction, budgets=[extraction.BUDGETS[-1]])
        best = of.extraction.groupby("arm").log_prob.max()
        fewest = [extraction.told_number(float(extraction.least_samples(best[arm]))) for arm in table.arm]
        found[_label(name)] = table.assign(likeliest=fewest).set_index("arm")
    return pd.concat(found, names=["model"])


def areas(models: Models) -> pd.DataFrame:
    """How well each score of the likelihood tells passages from twins that are as likely, as text.

    Returns
    -------
    A line a score, a column a model: area under the ROC curve with its interval, clustered by text.
    """
    columns = {}
    for name, of in models.items():
        asked = [label for score, label in SCORES.items() if score in of.passages]
        found = detection.compare(of.passages.rename(columns=SCORES), asked, NEVER).set_index("score")
        columns[_label(name)] = pd.Series(
            [Interval(*ends).brief(2) for ends in found[[*Interval._fields]].to_numpy()], asked
        )
    return pd.DataFrame(columns).rename_axis("score")


def opening(models: Models) -> pd.DataFrame:
    """How well the texts are known beside never-seen prose, what of them is recited, and where twins begin.

    Returns
    -------
    A line a figure, a column a model, as text: losses (nats per token) of the scanned texts, of the control, of the
    passages and of their twins; the share of the texts' tokens in runs that are recited, with its interval over blocks.
    """
    columns = {}
    for name, of in models.items():
        share = recited_share(of.scan.windows, seed=of.scan.seed)
        starts = of.passages.groupby("arm").cross_entropy.mean()
        columns[_label(name)] = {
            "loss of the texts": f"{of.scan.windows.cross_entropy.mean():.2f}",
            "of never-seen prose": f"{of.scan.control.cross_entropy.mean():.2f}",
            "recited": told_share(share),
            "loss of the passages": f"{starts[KNOWN]:.2f}",
            "of their twins": f"{starts[NEVER]:.2f}",
        }
    return pd.DataFrame(columns)


def answer(models: Models, gains: pd.DataFrame, saved: pd.DataFrame, beside: pd.DataFrame) -> dict[str, object]:
    """What the page opens with: rules 18, 19 and 22 of the plan, in words.

    Parameters
    ----------
    models : by name. gains : as :func:`by_noise` gives it. saved : as :func:`savings` gives it. beside : as
        :func:`beside_own_words` gives it.

    Returns
    -------
    noise (in the fresh half), relearning : tokens beyond twins, of each model, as text; words : tokens beside own
    words, beyond twins; null : the same of twins alone; finds, saves, tells : of which models that is shown (of noise
    with Bonferroni's bound over models and sigmas, of own words over models); n : passages; n_words : passages and
    twins that were taught beside own words; not_yet : models that were not.
    """
    texts = min(of.passages.file[of.passages.arm == KNOWN].nunique() for of in models.values())
    taught = _taught(models)
    hands = min(of.own_words.groupby("arm", observed=True).file.nunique().min() for of in taught.values())
    fresh = gains[gains.score == "fresh half"]
    found, beyond = (saved.model[saved.verdict.str.startswith(words)].tolist() for words in ("found", "found, beyond"))
    told = beside[(beside.verdict == own_words.FOUND) & _above(beside, hands, len(models))].model.tolist()
    later = [_label(name) for name in models if name not in taught]
    return {
        "noise": _intervals(fresh),
        "finds": _shown(
            fresh.model[_above(fresh, texts, len(fresh))].tolist(), list(models), "noise finds more than luck"
        ),
        "relearning": _intervals(saved),
        "saves": _shown(found, list(models), "teaching them again saves more than of twins")
        + ("; " + _shown(beyond, list(models), "it does beside twins that were as likely") if found else ""),
        "words": _intervals(beside),
        "tells": _shown(told, list(taught), "the truth is ahead by more than in twins"),
        "not_yet": f" ({', '.join(later)}: not asked so yet)" if later else "",
        "null": _intervals(beside.assign(estimate=beside.null_mean, low=beside.null_low, high=beside.null_high)),
        "n": int(saved.n.min()),
        "n_words": ", ".join(f"{of.n} and {of.n_null} ({_label(str(of.model))})" for of in beside.itertuples()),
    }


def _above(lines: pd.DataFrame, clusters: int, asked: int) -> pd.Series:
    """Of each line whether its interval, widened by Bonferroni's bound over all that is asked, lies above 0."""
    usual, all_of_them = (stats.t.ppf(1 - (1 - LEVEL) / 2 / n, clusters - 1) for n in (1, asked))
    return lines.estimate - all_of_them / usual * (lines.estimate - lines.low) > 0


def provenance(models: Models) -> str:
    """What the models are, and what they were measured with, in one line."""
    told = []
    for name, of in models.items():
        record = of.record
        told.append(
            f"{name} ({record['package']}, {record['terms']}, SHA-256 {record['sha256'][:16]}.., stored as "
            f"{record['quantisation']}), {record['dtype']}; scanned {_with(record['scan']['environment'])}; the "
            f"passages asked {_with(record['environment'])}"
        )
        if of_own := record["own_words"]:
            told[-1] += f"; taught beside its own words {_with(of_own['environment'])}"
    return ". ".join(told)


def _with(made: Mapping[str, Any]) -> str:
    """When and with what something was measured, in words."""
    versions = ", ".join(f"{name} {made[name]}" for name in ("torch", "transformers"))
    return f"{made['date'][:10]} on {made['processor']} by lmmem {made['lmmem']} {made['commit']}, {versions}"


def _intervals(lines: pd.DataFrame) -> str:
    """Intervals of each model, in words."""
    told = {
        str(name): " and ".join(Interval(*ends).brief(1) for ends in part[[*Interval._fields]].to_numpy())
        for name, part in lines.groupby("model", sort=False)
    }
    return ", ".join(f"{figure.replace('-', MINUS)} ({_label(name)})" for name, figure in told.items())


def _shown(there: Sequence[str], every: Sequence[str], what: str) -> str:
    """Of which models something is shown, in words."""
    of, others = ([_label(name) for name in every if (name in there) == shown] for shown in (True, False))
    if not of:
        return f"it is not shown of any that {what}"
    shown = f"{what} in {' and '.join(of)}"
    return shown + (f", which is not shown of {' and '.join(others)}" if others else "")


def _label(name: str) -> str:
    """A model as the tables call it."""
    return LABELS.get(name, name)
