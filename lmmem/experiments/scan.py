"""Has this model memorised this text? Windows of it in one pass each, beside text that the model has never seen.

One forward pass over a window says how far greedy decoding would recite it, so only windows that may come near are
decoded, and of these in float32, where that is exact, none that is recited to its end. What the tables say is in
lmmem/analysis/scan.py. Knows nothing of training.
"""

from __future__ import annotations

import importlib.util
import json
import json.decoder
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike
from tqdm import tqdm

from lmmem.experiments.measuring import duration
from lmmem.experiments.sequences import of_text, unmet_rows
from lmmem.experiments.texts import own_prose
from lmmem.measures.complexity import z_complexity
from lmmem.measures.repeats import count_repeats
from lmmem.measures.runs import LEAST
from lmmem.protocol import CONTINUATION, PROMPT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lmmem.corpora.corpus import Corpus

__all__ = [
    "COPIED",
    "LONGEST",
    "NO_STRIDE",
    "STRIDE",
    "Scan",
    "Texts",
    "TooLongError",
    "decoded",
    "example_files",
    "named_texts",
    "read_texts",
    "scan",
    "windows_of",
]

STRIDE = 8  # tokens from one window to the next
LONGEST = 30.0  # minutes that a scan takes without asking
NO_STRIDE = "no stride makes it short enough"
SAID = 60.0  # seconds of a scan whose length is said before
SAMPLE = 64  # windows, evenly from all of the text, on some of which a pass is timed
NEAR_WORDS, NEAR_MATCHES = 8, 48  # a window is decoded if so many tokens are recited, or are the likeliest
AT_ONCE = 256  # windows measured between two writes to disk: seconds of a small model, minutes of a large one
CHANGED, PROMPTS, NEAR, EXCHANGED = 32, 8, 4, 3  # windows changed, with how many prompts and texts, of how many tokens
COPIED = 8  # tokens of a run that stands before in the same window: what a model copies, it need not remember
APART = 1_024  # tokens that rows of one file are taken to lie apart, so that no interval takes them for neighbours
CHANGES = ["text", "token", "windows", "prompts", "words"]
ROWS, PROSE = 256, 512  # of never-met training data, and windows of lmmem's prose at most, as control
LARGEST = 2**20 * 64  # bytes of a file
Texts = str | Sequence[str] | Mapping[str, str]  # one, several, or by the names that messages call them


class Asked(Protocol):
    """What a scan needs of a :class:`lmmem.Study`."""

    model: str
    step: int
    seed: int
    dtype: str

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...
    @property
    def corpus(self) -> Corpus: ...
    @property
    def randomised(self) -> bool: ...
    def sequences(self, *, tokens: ArrayLike, prefix: Sequence[int] = ()) -> pd.DataFrame: ...
    def likelihood(self, sequences: pd.DataFrame) -> pd.DataFrame: ...
    def likelihood_is_kept(self, sequences: pd.DataFrame) -> bool: ...
    def seconds_a_pass(self, sequences: pd.DataFrame) -> float: ...
    def sampled(
        self, sequences: pd.DataFrame, *, temperatures: Sequence[float], samples: int, keep_tokens: bool
    ) -> pd.DataFrame: ...


class TooLongError(ValueError):
    """A scan would take longer than it may; nothing has been measured.

    `what` says how many windows take how long, `minutes` is that, rounded up; with `stride` it takes `then`, in words,
    which is short enough. None is no stride that is.
    """

    def __init__(self, what: str, minutes: int, stride: int | None, seconds: float) -> None:
        self.what, self.minutes, self.stride, self.then = what, minutes, stride, ""
        if stride is not None:
            left_out = ", and leaves out some of the text" if stride > CONTINUATION else ""
            self.then = f"takes about {duration(seconds)}{left_out}"
        way = NO_STRIDE if stride is None else f"stride={stride} {self.then}"
        super().__init__(f"{what}: {way}; longest={minutes} lets it run")


@dataclass(frozen=True)
class Scan:
    """What was measured of a text and of its control; what it says is told by :mod:`lmmem.analysis.scan`.

    windows, control : a line a window, as :meth:`lmmem.experiments.study.Study.scan` says.
    changed : of some windows what other prompts, and a few other words, do to the loss: columns windows ("the
        likeliest windows", "others", "the likeliest of the control"), text, token, prompts, words (nats per token that
        it rises by).
    texts : as given, each once. of : what the control is, in words. chosen : it was chosen as text of the same kind.
    left_out : windows of the control that share a run of 16 tokens with the text.
    seed : of the study.
    twice : how many texts, and texts of the control, were given before, and are dropped.
    """

    windows: pd.DataFrame
    control: pd.DataFrame
    changed: pd.DataFrame
    texts: list[str]
    of: str
    chosen: bool
    left_out: int
    seed: int
    twice: tuple[int, int] = (0, 0)


def scan(
    study: Asked,
    texts: Texts,
    control: Texts | None = None,
    *,
    stride: int = STRIDE,
    prefix: Sequence[int] | None = None,
    longest: float = math.inf,
) -> Scan:
    """As :meth:`lmmem.experiments.study.Study.scan`, which says what is given and returned."""
    if not longest > 0:
        raise ValueError(f"longest={longest!r}: give minutes, more than 0")
    asked, again = _once(texts, "text")
    windows, never_again = windows_of(study, asked, stride, prefix), 0
    if control is None and _knows_unmet(study):
        beside = _unmet(study)
        of = f"{len(beside)} rows of its training data's kind that it has not met"
    else:
        never, never_again = _once(own_prose() if control is None else control, "control")
        beside = windows_of(study, never, stride, prefix)
        of = "text given as never seen"
        if control is None:
            beside = beside.iloc[:: math.ceil(len(beside) / PROSE)]
            of = "the prose of lmmem, younger than most models"
    shares = count_repeats(np.stack([*beside.tokens]), np.stack([*windows.tokens]), n=LEAST) > 0
    if shares.all():
        raise ValueError(f"control: all of it shares runs of {LEAST} tokens with the text: give other text")
    if len(beside) - shares.sum() < 2:
        raise ValueError("control: one window is left of it: give longer text")
    beside = beside[~shares].reset_index(drop=True)
    _announce(study, windows, beside, stride, longest, fixed=control is None)
    measured, never_seen = _measured(study, windows, "scan"), _measured(study, beside, "control")
    changed = [
        *_changed(study, windows, measured, ("the likeliest windows", "others")),
        *_changed(study, beside, never_seen, ("the likeliest of the control",)),
    ]
    return Scan(
        _decoded(study, windows, measured),
        never_seen,
        pd.concat(changed, ignore_index=True) if changed else pd.DataFrame(columns=CHANGES),
        [*asked.values()],
        of,
        control is not None,
        int(shares.sum()),
        study.seed,
        (again, never_again),
    )


def example_files() -> tuple[Path, Path]:
    """A source file that begins with a licence as a hundred others do, and one of Python's own library.

    The first is in the training text of `pocket`, whose packages do not hold the second.

    >>> [path.name for path in example_files()]
    ['configuration_detr.py', 'decoder.py']
    """
    package = importlib.util.find_spec("transformers")
    if package is None or package.origin is None:
        raise ValueError("the example is a file of transformers, which is not installed: give a text")
    return Path(package.origin).parent / "models" / "detr" / "configuration_detr.py", Path(json.decoder.__file__)


def read_texts(path: str | Path) -> list[str]:
    r"""The texts of a file: of a `.jsonl` file one a line (a string, or an object with a "text"), else one.

    Ends of lines are made ``\n``: a model that has met a text has seldom met it with others.

    Parameters
    ----------
    path : a file in UTF-8: text, Markdown, `.jsonl`.

    Raises
    ------
    ValueError : there is no such file, it is larger than 64 MiB, not in UTF-8, binary, or a line of it is no text.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     _ = file.write('{"text": "one"}\n"two"\n')
    ...     file.flush()
    ...     read_texts(file.name)
    ['one', 'two']
    """
    return [*named_texts(path).values()]


def named_texts(*paths: str | Path) -> dict[str, str]:
    """The texts of some files, as :func:`read_texts` reads them, by their file and line.

    Raises
    ------
    ValueError : as of that function, or a file is given twice.
    """
    found: dict[str, str] = {}
    for path in map(Path, paths):
        texts = _of_file(path)
        if twice := found.keys() & texts.keys():
            raise ValueError(f"{min(twice)} is given twice")
        found |= texts
    return found


def _of_file(path: Path) -> dict[str, str]:
    """The texts of a file by their names."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give a file")
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size / 1e6:.0f} MB: give a part of it, of 64 MiB at most")
    text = decoded(path.read_bytes(), str(path))
    if path.suffix != ".jsonl":
        return {str(path): text}
    texts = {}
    for number, line in enumerate(text.split("\n"), 1):  # other ends of lines may stand within a string
        if not line.strip():
            continue
        name = f"{path}, line {number}"
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{name}: no JSON ({error.msg})") from None
        one = found.get("text") if isinstance(found, dict) else found
        if not isinstance(one, str):
            raise ValueError(f'{name}: give a string, or an object with a "text"')
        try:
            texts[name] = decoded(one.encode(), name)
        except UnicodeEncodeError as error:
            raise ValueError(f"{name}: character {error.start:,} is half of a pair, and no text") from None
    if not texts:
        raise ValueError(f"{path} has no line")
    return texts


def decoded(data: bytes, name: str) -> str:
    r"""Text that was read as bytes, its lines ended by ``\n``.

    Raises
    ------
    ValueError : it is binary, or not in UTF-8; the message calls it by its name.

    >>> decoded(b"one\r\ntwo", "a.txt")
    'one\ntwo'
    """
    if b"\0" in data:
        raise ValueError(f"{name} is binary: give a file of text in UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not in UTF-8 (byte {error.start:,}): convert it") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _once(texts: Texts, what: str) -> tuple[dict[str, str], int]:
    """Texts by what messages call them, each once, and how many are left out as given before."""
    if isinstance(texts, str):
        texts = [texts]
    if isinstance(texts, Sequence):
        texts = {f"{what} {number}": text for number, text in enumerate(texts)}
    if not isinstance(texts, Mapping) or not texts or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f"{what}={str(texts)[:40]!r}: give a text, or a list of them")
    names: dict[str, str] = {}
    for name, text in texts.items():
        names.setdefault(text, name)
    return {name: text for text, name in names.items()}, len(texts) - len(names)


def _unmet(study: Asked) -> pd.DataFrame:
    """Rows of the training data's kind that the model has not met, as windows; those of one file are of one text."""
    rows = unmet_rows(study.model, study.corpus, study.step, ROWS, study.seed)
    tokens = [row[: PROMPT + CONTINUATION].astype(np.int64) for row in study.corpus[rows]]
    canaries = study.corpus.canaries
    of = rows if canaries is None else canaries.set_index("index").file.loc[rows]
    text = pd.Series(pd.factorize(np.asarray(of))[0])
    token = APART * text.groupby(text).cumcount()
    return study.sequences(tokens=tokens).assign(text=text, token=token, begin=0, end=0)


def windows_of(study: Asked, texts: Texts, stride: int, prefix: Sequence[int] | None = None) -> pd.DataFrame:
    """As :func:`lmmem.experiments.sequences.of_text`, with the characters at which tokens end, and z_complexity.

    Raises
    ------
    ValueError : as that function, or the tokenizer does not say where its tokens are in a text.
    """
    named = texts if isinstance(texts, Mapping) else _once(texts, "text")[0]
    words = [*named.values()]
    windows = of_text(study.tokenizer, words, stride, prefix, ends=True, names=[*named])
    if "begin" not in windows:
        raise ValueError(f"the tokenizer of {study.model} does not say where its tokens are in a text: give a fast one")
    spans = zip(windows.text, windows.begin, windows.end, strict=True)
    return windows.assign(z_complexity=z_complexity([words[text][begin:end] for text, begin, end in spans]))


def _at_once(windows: pd.DataFrame) -> list[pd.DataFrame]:
    """Those that are measured between two writes to disk."""
    return [windows.iloc[row : row + AT_ONCE] for row in range(0, len(windows), AT_ONCE)]


def _announce(
    study: Asked, windows: pd.DataFrame, beside: pd.DataFrame, stride: int, longest: float, *, fixed: bool
) -> None:
    """Say how long a scan will take, if it is long; what is decoded comes on top, and is a part of it.

    `fixed` : the control keeps its windows, whatever the stride.

    Raises
    ------
    TooLongError : it takes longer than so many minutes.
    """
    left = [part for table in (windows, beside) for part in _at_once(table) if not study.likelihood_is_kept(part)]
    if not left:
        return
    each = study.seconds_a_pass(windows.iloc[:: math.ceil(len(windows) / SAMPLE)])
    changed = sum(min(CHANGED, n) for n in (len(windows), len(windows) - CHANGED, len(beside)) if n > 1)
    changed *= PROMPTS + NEAR
    seconds = each * (sum(map(len, left)) + changed)
    what = (
        f"{len(windows):,} windows of text, {len(beside):,} of the control and {changed:,} with other prompts or words "
        f"take about {duration(seconds)} here, what is decoded aside"
    )
    if seconds > 60 * longest:
        wider = [stride * 2**times for times in range(1, 32)]
        theirs = [len(beside) if fixed else _many(beside, stride, other) for other in wider]
        others = [each * (_many(windows, stride, other) + n + changed) for other, n in zip(wider, theirs, strict=True)]
        short = ((other, took) for other, took in zip(wider, others, strict=True) if took <= 60 * longest)
        raise TooLongError(what, math.ceil(seconds / 60), *next(short, (None, math.nan)))
    if seconds > SAID:
        print(f"scan: {what}", file=sys.stderr)


def _many(windows: pd.DataFrame, stride: int, other: int) -> int:
    """How many windows the same texts have with another stride."""
    return int(((windows.groupby("text").size() - 1) * stride // other + 1).sum())


def _measured(study: Asked, windows: pd.DataFrame, what: str) -> pd.DataFrame:
    """Their likelihood, each part kept on disk as soon as it is measured; and what of them is copied."""
    parts = _at_once(windows)
    found = [study.likelihood(part) for part in tqdm(parts, desc=what, unit="part", disable=len(parts) < 2)]
    table = pd.concat(found, ignore_index=True)
    copied = _copied(np.stack([*windows.tokens]))
    recited = np.arange(CONTINUATION) < table.recited.to_numpy()[:, None]
    return table.assign(
        log_prob=-CONTINUATION * table.cross_entropy,
        copied=copied.sum(axis=1),
        recited_copied=(copied & recited).sum(axis=1),
    )


def _copied(rows: np.ndarray) -> np.ndarray:
    """Which tokens of the continuations (n, 64) end a run of 8 that stands before in their window, rows (n, 96)."""
    found = np.zeros(rows.shape, dtype=bool)
    for back in range(1, rows.shape[1] - COPIED + 1):
        same = rows[:, back:] == rows[:, :-back]
        found[:, back + COPIED - 1 :] |= sliding_window_view(same, COPIED, axis=1).all(axis=-1)
    return found[:, PROMPT:]


def _decoded(study: Asked, windows: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """The table with kl_ld and said, of the windows that may come near; the others have none.

    What is recited to its end needs no decoding in float32: the pass has told what greedy decoding says. The others
    are decoded at temperature 0, which is greedy, without a second pass for their likelihood; in half precision all
    are, as decoding rounds otherwise than the pass.
    """
    may = ((measured.recited >= NEAR_WORDS) | (measured.matches >= NEAR_MATCHES)).to_numpy()
    whole = (measured.recited == CONTINUATION).to_numpy() & (study.dtype == "float32")
    said = study.sampled(windows[may & ~whole], temperatures=[0.0], samples=1, keep_tokens=True)
    recited = windows.loc[whole, ["index"]].assign(kl_ld=0, said=[row[PROMPT:] for row in windows.tokens[whole]])
    table = measured.merge(pd.concat([said[[*recited]], recited]), on="index", how="left")
    there = table.said.notna()
    if there.any():
        prompts = np.stack([*windows.tokens[there.to_numpy()]])[:, :PROMPT]
        table.loc[there, "said"] = _as_text(study, prompts, np.stack([*table.said[there]]))
    return table.assign(kl_ld=table.kl_ld.astype("Int64"))


def _as_text(study: Asked, prompts: np.ndarray, said: np.ndarray) -> list[str]:
    """What was said after prompts (n, 32), (n, 64), as text; alone it may lose the space that it begins with."""
    decode = study.tokenizer.batch_decode
    both = zip(decode(np.concatenate([prompts, said], axis=1)), decode(prompts), strict=True)
    return [whole[len(os.path.commonprefix([whole, prompt])) :] for whole, prompt in both]  # noqa: RUF071, no paths


def _changed(study: Asked, windows: pd.DataFrame, measured: pd.DataFrame, names: Sequence[str]) -> list[pd.DataFrame]:
    """What other prompts, and a few other words, do to the loss of the likeliest windows, and of others if named.

    A memory hangs on its own prompt and on its own words; fluency takes others nearly as well. Prompts are of another
    text, or of another place of this one, so that none holds what is asked for; windows without one are left out.
    """
    rng = np.random.default_rng([study.seed, len(windows)])
    rows, prefix = np.stack([*windows.tokens]), windows.prefix.iloc[0] if "prefix" in windows else ()
    text, token = windows.text.to_numpy(), windows.token.to_numpy()
    ends = windows.groupby("text").token.transform("min"), windows.groupby("text").token.transform("max")
    far = np.maximum(token - ends[0].to_numpy(), ends[1].to_numpy() - token) >= PROMPT + CONTINUATION
    asked = np.flatnonzero(far | (len(np.unique(text)) > 1))
    order = asked[np.argsort(measured.cross_entropy.to_numpy()[asked], kind="stable")]
    parts = order[:CHANGED], rng.permutation(order[CHANGED:])[:CHANGED]
    found = []
    for what, some in zip(names, map(np.sort, parts), strict=False):
        if not len(some):
            continue
        elsewhere = [
            np.flatnonzero((text != text[one]) | (np.abs(token - token[one]) >= PROMPT + CONTINUATION)) for one in some
        ]
        others = np.stack([rng.choice(there, PROMPTS, replace=len(there) < PROMPTS) for there in elsewhere])
        mine, kinds = rows[some], _kinds(study, np.unique(rows[some]))
        variants = [np.concatenate([rows[other, :PROMPT], mine[:, PROMPT:]], axis=1) for other in others.T]
        variants += [_exchanged(mine, kinds, rng) for _ in range(NEAR)]
        losses = study.likelihood(study.sequences(tokens=np.concatenate(variants), prefix=prefix)).cross_entropy
        rise = losses.to_numpy().reshape(len(variants), len(some)) - measured.cross_entropy.to_numpy()[some]
        places = measured[["text", "token"]].iloc[some].assign(windows=what)
        found.append(places.assign(prompts=rise[:PROMPTS].mean(axis=0), words=rise[PROMPTS:].mean(axis=0)))
    return found


def _exchanged(rows: np.ndarray, kinds: dict[int, list[int]], rng: np.random.Generator) -> np.ndarray:
    """The rows (n, 96), a few tokens of each continuation exchanged for others of their kind."""
    changed = rows.copy()
    for row in changed:
        for place in PROMPT + rng.choice(CONTINUATION, EXCHANGED, replace=False):
            others = kinds[int(row[place])]
            row[place] = others[rng.integers(len(others))]
    return changed


def _kinds(study: Asked, tokens: np.ndarray) -> dict[int, list[int]]:
    """For each token the others of its kind: numbers, words with and without a space before them, and the rest."""
    of: dict[tuple[bool, bool, bool], list[int]] = {}
    known = {}
    for token, text in zip(tokens.tolist(), study.tokenizer.batch_decode(tokens[:, None]), strict=True):
        known[token] = of.setdefault((text.strip().isdigit(), text.strip().isalpha(), text[:1].isspace()), [])
        known[token].append(token)
    return {token: [other for other in kind if other != token] or [token] for token, kind in known.items()}


def _knows_unmet(study: Asked) -> bool:
    """Whether training data are known, and here, that the model has not met."""
    try:
        return study.randomised
    except ValueError:
        return False
