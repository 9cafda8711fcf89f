"""The report of a scan: what of a text a model recites, as one HTML page and as a strip of SVG.

A table of windows and the texts that they were cut from in, markup out: one file, which asks nothing of a network,
runs no script and shows in light, in dark and on paper. Knows neither models nor tokenizers, measures nothing, and
draws no conclusion: the sentences of the summary come written.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lmmem.analysis.prose import MINUS
from lmmem.analysis.runs import runs
from lmmem.analysis.statistics import check_columns
from lmmem.protocol import CONTINUATION, PROMPT

__all__ = ["Drawing", "report", "strip"]

COLUMNS = [
    *("index", "text", "token", "begin", "end", "prompt_begin", "recited", "ends", "matches"),
    *("cross_entropy", "log_prob", "z_complexity", "kl_ld", "said"),
]
WHOLE_NUMBERS = ["index", "text", "token", "begin", "end", "prompt_begin", "recited", "matches"]
NUMBERS = [*WHOLE_NUMBERS, "cross_entropy", "log_prob", "z_complexity"]
OPENS = 8  # tokens that a window recites at least to open
NEAR = 8  # kl-LD of a continuation that is nearly verbatim, however soon it is wrong
AT_ONCE = 50_000  # characters of all texts together that are shown without gaps
OPENED = 1_000_000  # bytes of windows that open, with the text around them
CELLS = 1_000  # of a strip
ALL_CELLS = 4_000  # of all strips of a page
TEXTS = 24  # strips of a page
ROWS = 20  # of a table
SNIPPET = 60  # characters of a run in the table
# Shades, by tokens recited: 1, 8, 16, 32 or more, and 64. Each has a kind of underline of its own.
SHADES = (1, OPENS, 16, 32, CONTINUATION)
LIGHT = {
    **{"paper": "#ffffff", "ink": "#1b1f24", "faint": "#57606a", "line": "#d0d7de", "panel": "#f6f8fa"},
    **{"link": "#0a58b0", "mark": "#cfe3ff", "edge": "#0a58b0", "area": "#6e7781"},
    **{"r1": "#fdf6e6", "r2": "#fbe6bd", "r3": "#f8d08a", "r4": "#f3b354", "r5": "#ec9126"},
    **{"e1": "#94702f", "e2": "#ad6109", "e3": "#964800", "e4": "#7a3300", "e5": "#5a1f00"},
}
DARK = {
    **{"paper": "#15181c", "ink": "#eceae6", "faint": "#a4acb5", "line": "#3a424b", "panel": "#1d2228"},
    **{"link": "#8cbcff", "mark": "#1f4478", "edge": "#8cbcff", "area": "#8b949e"},
    **{"r1": "#2a2419", "r2": "#40311a", "r3": "#57401a", "r4": "#6f4c16", "r5": "#874f0c"},
    **{"e1": "#a58a5c", "e2": "#d79b4a", "e3": "#f0b35a", "e4": "#ffcf80", "e5": "#ffe6b8"},
}
# Characters that HTML forbids, each by one that can be seen; text keeps its length.
FORBIDDEN = [*range(0x80, 0xA0), *range(0xD800, 0xE000), *range(0xFDD0, 0xFDF0)]
FORBIDDEN += [plane + last for plane in range(0, 0x110000, 0x10000) for last in (0xFFFE, 0xFFFF)]
PICTURES = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n\r"},
    **{0x7F: 0x2421, **dict.fromkeys(FORBIDDEN, 0xFFFD)},
}
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
STYLE = """
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif }
main { max-width: 76rem; margin: 0 auto; padding: 1rem }
h1, h2, h3, p, .wide { overflow-wrap: anywhere }
h1 { font-size: 1.6rem; line-height: 1.25 }
h2 { font-size: 1.25rem; margin: 2rem 0 .5rem }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem }
p { max-width: 50rem }
a { color: var(--link) }
.summary { font-size: 1.1rem }
.faint, .gap { color: var(--faint); font-size: .9rem }
.gap { font-style: italic }
.key { white-space: nowrap; padding: 0 .25em }
.strip { display: block; overflow: visible }
.text, code { font: .875rem/1.8 ui-monospace, monospace; overflow-wrap: anywhere }
.text { white-space: pre-wrap; unicode-bidi: isolate; tab-size: 4 }
.whole { padding: .75rem; border: 1px solid var(--line); border-radius: 4px }
.r1, .r2, .r3, .r4, .r5 { color: var(--ink); padding-block: .2em; text-underline-offset: .35em;
  text-decoration-skip-ink: none; print-color-adjust: exact; -webkit-print-color-adjust: exact }
.r1 { background: var(--r1); text-decoration: underline dotted 1px var(--e1) }
.r2 { background: var(--r2); text-decoration: underline dashed 1px var(--e2) }
.r3 { background: var(--r3); text-decoration: underline solid 1px var(--e3) }
.r4 { background: var(--r4); text-decoration: underline solid 2px var(--e4) }
.r5 { background: var(--r5); text-decoration: underline double 2px var(--e5); font-weight: 600 }
.whole details { display: inline; scroll-margin-top: 4rem }
.whole details:not([open])::details-content { display: none }
.whole summary { display: inline; list-style: none; border-left: 2px solid var(--e5) }
.whole summary::-webkit-details-marker { display: none }
summary { cursor: pointer }
summary:hover, summary:focus-visible, details[open] > summary, :target > summary { outline: 2px solid var(--link) }
.panel { margin: .5rem 0; padding: .75rem; background: var(--panel); border: 1px solid var(--edge); border-radius: 4px;
  white-space: normal; font: 1rem/1.5 system-ui, sans-serif }
.panel dl { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; margin: 0; font-size: .875rem }
.panel dt { color: var(--faint) }
.panel dd { margin: 0; font-variant-numeric: tabular-nums }
.beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: .25rem 1.5rem }
.beside h3 { margin-top: .75rem; font-size: .875rem }
mark { background: var(--mark); color: var(--ink); outline: 2px solid var(--edge); font-weight: 700 }
.end { color: var(--faint); font: italic .875rem system-ui, sans-serif; display: block }
table { border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .4rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top }
td { white-space: nowrap }
th { color: var(--faint); font-weight: 400 }
th:nth-child(3), .wide { text-align: left; width: 60%; white-space: normal }
td code { color: var(--faint) }
@media (max-width: 40rem) { th, td { padding: .3rem .2rem; font-size: .75rem } td code { font-size: .7rem } }
@media print { main { max-width: none; padding: 0 } .panel { break-inside: avoid } a { color: inherit } }
"""
PLOT, AREA, LABEL, DOCUMENT = 48, 20, 16, 124  # pixels: heights in a strip
ANCHORS = {0: "start", 50: "middle", 100: "end"}  # of labels, by where they stand (%)
ALONE = 860  # pixels: the width of a strip that stands alone, as a picture that has none becomes as small as a stamp
LEAST_WIDTH = 250  # of a strip's width, the share of it that a bar has at least


class Drawing(str):
    """SVG that a notebook, a book and an executed notebook show as a picture."""

    def _repr_svg_(self) -> str:
        return str(self)


def strip(windows: pd.DataFrame, texts: Sequence[str]) -> Drawing:
    """Over each text, how far each part of it is recited and how likely it is: an SVG.

    Parameters
    ----------
    windows, texts : as for :func:`report`.

    Returns
    -------
    A drawing on white, a file of its own too; the tokens of the text run from left to right, in at most 1,000 cells.
    A bar is the most that a window recites whose continuation begins in its cell (0 to 64 tokens, by height and by
    shade), the area below it is their mean cross-entropy (nats a token).

    Raises
    ------
    ValueError : as for :func:`report`.

    >>> line = {"index": 0, "text": 0, "token": 0, "prompt_begin": 0, "begin": 32, "end": 96, "recited": 9}
    >>> line |= {"ends": list(range(33, 97)), "matches": 30, "cross_entropy": 1.5, "log_prob": -96.0}
    >>> drawn = strip(pd.DataFrame([line | {"z_complexity": 0.9, "kl_ld": pd.NA, "said": None}]), ["x" * 96])
    >>> drawn[:4], "token 32: 9 tokens recited" in drawn
    ('<svg', True)
    """
    found = _checked(windows, texts)
    return Drawing(
        _strips(found, len(texts), LIGHT.__getitem__, {}, f'xmlns="http://www.w3.org/2000/svg" width="{ALONE}"')
    )


def report(
    windows: pd.DataFrame,
    texts: Sequence[str],
    *,
    title: str,
    summary: Sequence[str],
    notes: Sequence[str] = (),
    made: str = "",
) -> str:
    """A page that shows what of texts a model recites: summary, strip, longest runs, and the text itself.

    Each character is shaded by the most that a window recites which covers it: it lies within the first `recited`
    tokens of the window's continuation. Where these are 8 or more it opens, by a click or by Enter, to that window. The
    page has at most about 2 MB: of longer texts it shows what lies around windows that open, those first that recite
    the most, and says what is left out.

    Parameters
    ----------
    windows : one line a window of 32 prompt and 64 continuation tokens. Columns: index (its number, no two alike),
        text (which of the texts), token (of the text, at which it begins), prompt_begin, begin, end (characters of
        the text: where the prompt begins, where the continuation begins and ends), recited (0..64: tokens that greedy
        decoding says before its first wrong one), ends (64 characters of the text, where each token of the
        continuation ends), matches (0..64: tokens that are the likeliest, given the true past), cross_entropy (nats
        a token), log_prob (nats: that sampling at temperature 1 says the continuation word for word), z_complexity,
        kl_ld (tokens; <NA> where the window was not decoded), said (the model's continuation as text, or None).
    texts : what the windows were cut from.
    title : of the page.
    summary : paragraphs of plain text, shown first.
    notes : paragraphs of plain text, shown last.
    made : how the page was made: a line.

    Returns
    -------
    A whole HTML page. White space of the texts is kept; characters that a page cannot hold are replaced by pictures.

    Raises
    ------
    ValueError : a column or a number is missing, a number lies outside its range, an offset outside its text; texts
        are a single one.

    >>> line = {"index": 0, "text": 0, "token": 0, "prompt_begin": 0, "begin": 32, "end": 96, "recited": 9}
    >>> line |= {"ends": list(range(33, 97)), "matches": 30, "cross_entropy": 1.5, "log_prob": -96.0}
    >>> windows = pd.DataFrame([line | {"z_complexity": 0.9, "kl_ld": pd.NA, "said": None}])
    >>> page = report(windows, ["x" * 96], title="A scan", summary=["9 tokens are recited."])
    >>> page.count("<details"), "9 of 64 tokens recited" in page
    (1, True)
    """
    found = _checked(windows, texts)
    owners = _owners(found, texts)
    panels = _panels(found, texts, owners)
    targets = _targets(found, owners, panels)
    parts = [
        f"<h1>{_escaped(title)}</h1>",
        *(f'<p class="summary">{_escaped(paragraph)}</p>' for paragraph in summary),
        _nothing(found),
        "<h2>Where</h2>",
        _strips(found, len(texts), lambda name: f"var(--{name})", targets, 'width="100%"'),
        _legend(found, len(texts)),
        "<h2>Longest runs</h2>",
        _table(windows, found, texts, targets),
        _near(found, texts, owners),
        "<h2>The text</h2>",
        _texts(found, texts, owners, panels),
        "<h2>Notes</h2>" if notes else "",
        *(f"<p>{_escaped(note)}</p>" for note in notes),
        f'<p class="faint">{_escaped(made)}</p>' if made else "",
    ]
    return PAGE.format(title=_escaped(title), style=_style(), body="\n".join(part for part in parts if part))


@dataclass(frozen=True)
class _Window:
    """A line of the table; `until` is the character up to which it is recited."""

    index: int
    text: int
    token: int
    begin: int
    end: int
    prompt_begin: int
    recited: int
    matches: int
    cross_entropy: float
    log_prob: float
    z_complexity: float
    kl_ld: int | None
    said: str | None
    until: int

    @property
    def first(self) -> int:
        """The token of the text with which its continuation begins."""
        return self.token + PROMPT


def _checked(windows: pd.DataFrame, texts: Sequence[str]) -> list[_Window]:
    """Windows in the order of the texts."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"texts={str(texts)[:40]!r}: give a list of texts")
    check_columns(windows, COLUMNS)
    found = []
    for row in windows.to_dict("records"):
        name = f"of window {row['index']}"
        if missing := [column for column in NUMBERS if pd.isna(row[column])]:
            raise ValueError(f"{missing[0]} {name} is missing")
        number = {column: int(row[column]) for column in WHOLE_NUMBERS}
        if not 0 <= number["text"] < len(texts):
            raise ValueError(f"text {name} is {row['text']}; it must be one of the {len(texts)} texts, from 0")
        for column in ("recited", "matches"):
            if not 0 <= number[column] <= CONTINUATION:
                raise ValueError(f"{column} {name} is {row[column]}; it must be from 0 to {CONTINUATION} tokens")
        if row["log_prob"] > 0 or not 0 <= row["cross_entropy"] < math.inf:
            raise ValueError(f"log_prob {name} is {row['log_prob']} and its cross_entropy {row['cross_entropy']}")
        ends = [int(end) for end in row["ends"]]
        order = [0, number["prompt_begin"], number["begin"], *ends, number["end"], len(texts[number["text"]])]
        if len(ends) != CONTINUATION or order != sorted(order):
            raise ValueError(
                f"prompt_begin, begin, {CONTINUATION} ends and end {name} must rise, within a text of {order[-1]:,} "
                f"characters; got {order[1]}, {order[2]}, {len(ends)} from {min(ends, default=0)} to "
                f"{max(ends, default=0)}, and {order[-2]}"
            )
        found.append(
            _Window(
                **number,
                cross_entropy=float(row["cross_entropy"]),
                log_prob=float(row["log_prob"]),
                z_complexity=float(row["z_complexity"]),
                kl_ld=None if pd.isna(row["kl_ld"]) else int(row["kl_ld"]),
                said=row["said"] if isinstance(row["said"], str) else None,
                until=order[2 + number["recited"]],
            )
        )
    if twice := len(found) - len({window.index for window in found}):
        raise ValueError(f"index: {_counted(twice, 'window')} there twice; each has a number of its own")
    return sorted(found, key=lambda window: (window.text, window.token))


def _clean(text: str) -> str:
    """A text of the same length whose characters a page can hold, and whose lines end alike."""
    return text.replace("\r\n", " \n").replace("\r", "\n").translate(PICTURES)


def _escaped(text: str) -> str:
    return html.escape(_clean(text))


def _owners(windows: Sequence[_Window], texts: Sequence[str]) -> list[np.ndarray]:
    """Of each character of each text the window that recites the most of those that recite it; -1 where none does.

    Among equals those that lie beside each other come first, so that few windows own many characters.
    """
    owners = [np.full(len(text), -1) for text in texts]
    numbers = [number for number, window in enumerate(windows) if window.recited]
    most_first = sorted(numbers, key=lambda number: -windows[number].recited)
    for _, alike in itertools.groupby(most_first, key=lambda number: windows[number].recited):
        equals = list(alike)
        beside: list[int] = []
        for number in equals:
            last = windows[beside[-1]] if beside else None
            if last is None or last.text != windows[number].text or windows[number].begin >= last.until:
                beside.append(number)
        for number in [*beside, *reversed(equals)]:
            window = windows[number]
            recited = owners[window.text][window.begin : window.until]  # a view
            recited[recited < 0] = number
    return owners


def _shade(recited: int) -> int:
    """0 for no token, else 1 to 5."""
    return sum(recited >= least for least in SHADES)


# The windows that open.


def _openable(windows: Sequence[_Window], owners: Sequence[np.ndarray]) -> list[int]:
    """Windows that recite 8 tokens or more and own a character, those first that recite the most."""
    own = sorted({int(number) for owner in owners for number in np.unique(owner)} - {-1})
    return sorted((n for n in own if windows[n].recited >= OPENS), key=lambda n: -windows[n].recited)


def _panels(windows: Sequence[_Window], texts: Sequence[str], owners: Sequence[np.ndarray]) -> dict[int, str]:
    """What opens, by the number of its window, as much as the page may hold."""
    found: dict[int, str] = {}
    left = OPENED
    for number in _openable(windows, owners):
        window = windows[number]
        panel = _panel(window, texts[window.text])
        around = _escaped(texts[window.text][window.prompt_begin : window.end])
        left -= len(panel.encode()) + len(around.encode())
        if left < 0:
            break
        found[number] = panel
    return found


def _panel(window: _Window, text: str) -> str:
    line = 1 + text.count("\n", 0, window.begin)
    figures = [
        ("recited", f"{window.recited} of {CONTINUATION} tokens"),
        ("kl-LD", "not decoded" if window.kl_ld is None else _counted(window.kl_ld, "token")),
        ("likeliest tokens", f"{window.matches} of {CONTINUATION}"),
        ("cross-entropy", f"{window.cross_entropy:.2f} nats a token"),
        ("probability, word for word", _probability(window.log_prob)),
        ("z-complexity", f"{window.z_complexity:.2f}"),
        ("window", f"{window.index}"),
        ("continuation", f"from token {window.first:,} of text {window.text}, line {line:,}"),
    ]
    told = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures)
    truth = text[window.begin : window.end]
    if window.said is None:
        same, continued = window.until - window.begin, "<em>not decoded</em>"
    else:
        pairs = enumerate(zip(truth, window.said, strict=False))
        same = next((k for k, (one, other) in pairs if one != other), min(len(truth), len(window.said)))
        continued = _compared(window.said, same)
        if truth == window.said:
            continued += '<span class="end">the same to its end</span>'
    columns = [
        ("Prompt", _escaped(text[window.prompt_begin : window.begin])),
        ("Truth", _compared(truth, same)),
        ("Continuation by the model", continued),
    ]
    beside = "".join(f'<div><h3>{name}</h3><div class="text" dir="auto">{part}</div></div>' for name, part in columns)
    return f'<div class="panel"><dl>{told}</dl><div class="beside">{beside}</div></div>'


def _compared(text: str, same: int) -> str:
    """A text whose first difference is marked, if it has one."""
    other = text[same : same + 1]
    line_end = "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}\n"  # so that a mark on it can be seen
    seen = line_end if other in ("\r", "\n") else _escaped(other)
    mark = f'<mark title="the first difference">{seen}</mark>' if other else ""
    return f"<b>{_escaped(text[:same])}</b>{mark}{_escaped(text[same + 1 :])}"


def _probability(log_prob: float) -> str:
    if log_prob == -math.inf:
        return "0"
    if log_prob > math.log(0.01):
        return f"{math.exp(log_prob):.2f}"
    if log_prob > math.log(1e-6):
        return f"1 in {math.exp(-log_prob):,.0f}"
    return f"10<sup>{MINUS}{-log_prob / math.log(10):.0f}</sup>"


def _targets(windows: Sequence[_Window], owners: Sequence[np.ndarray], panels: Mapping[int, str]) -> dict[int, str]:
    """The place on the page where the continuation of each window begins, for those where something opens."""
    found = {}
    for number, window in enumerate(windows):
        if window.recited >= OPENS and window.until > window.begin:
            owner = int(owners[window.text][window.begin])
            if owner in panels:
                found[number] = f"#w{windows[owner].index}"
    return found


# The strip.


def _top(windows: Sequence[_Window]) -> int:
    """Nats a token at the top of the areas, the same for all texts."""
    return max([1, *(math.ceil(window.cross_entropy) for window in windows)])


def _strips(
    windows: Sequence[_Window], n_texts: int, paint: Callable[[str], str], targets: Mapping[int, str], root: str
) -> str:
    """All strips below each other; if there are many, those of which the most is recited."""
    of_text: dict[int, list[int]] = {}
    for number, window in enumerate(windows):
        of_text.setdefault(window.text, []).append(number)
    longest = sorted(of_text, key=lambda text: -max(windows[number].recited for number in of_text[text]))
    chosen = sorted(longest[:TEXTS])
    cells = min(CELLS, ALL_CELLS // max(1, len(chosen)))
    top = _top(windows)
    drawn = [
        f'<svg y="{DOCUMENT * row}" width="100%" height="{DOCUMENT}">'
        f"{_document(windows, of_text[text], cells, top, paint, targets)}</svg>"
        for row, text in enumerate(chosen)
    ]
    rest, height = n_texts - len(chosen), DOCUMENT * len(chosen)
    if rest:
        shorter = "too short for a window" if len(chosen) == len(of_text) else "none recited further"
        drawn.append(_label(0, height + LABEL, f"{_counted(rest, 'text')} not drawn, {shorter}", paint))
        height += 2 * LABEL
    return (
        f'<svg {root} class="strip" height="{height}" font-family="system-ui, sans-serif" font-size="12" '
        f'shape-rendering="crispEdges" role="group" aria-label="Tokens recited, over the text">'
        f'<rect width="100%" height="100%" style="fill:{paint("paper")}"/>{"".join(drawn)}</svg>'
    )


def _document(
    windows: Sequence[_Window],
    numbers: Sequence[int],
    cells: int,
    top: int,
    paint: Callable[[str], str],
    targets: Mapping[int, str],
) -> str:
    n = len(numbers)
    cells = min(cells, n)
    bounds = [-(-cell * n // cells) for cell in range(cells + 1)]
    inside = [numbers[begin:end] for begin, end in itertools.pairwise(bounds)]
    best = [max(cell, key=lambda number: windows[number].recited) for cell in inside]
    bars = [
        _bar(windows[best[cell]], cell, cells, paint, targets.get(best[cell]))
        for cell in sorted(range(cells), key=lambda cell: windows[best[cell]].recited)  # the longest on top
    ]
    nats = [sum(windows[number].cross_entropy for number in cell) / len(cell) for cell in inside]
    steps = "".join(f"V{100 - 100 * value / top:.0f}H{cell}" for cell, value in enumerate(nats, 1))
    longest = windows[max(best, key=lambda number: windows[number].recited)]
    found = f"{_counted(longest.recited, 'token')} recited at token {longest.first:,}"
    first, last = windows[numbers[0]].first, windows[numbers[-1]].first
    inner = f'width="100%" preserveAspectRatio="none" viewBox="0 0 {cells}'
    foot = LABEL + PLOT
    below = foot + AREA + LABEL + 1
    return "".join(
        [
            _label(0, LABEL - 4, f"text {longest.text}: {found if longest.recited else 'nothing was recited'}", paint),
            f'<svg y="{LABEL}" height="{PLOT}" {inner} {CONTINUATION}">{"".join(bars)}</svg>',
            f'<rect y="{foot}" width="100%" height="1" style="fill:{paint("faint")}"/>',
            f'<svg y="{foot + 3}" height="{AREA}" {inner} 100">',
            f'<path d="M0 100{steps}V100Z" style="fill:{paint("area")}"/></svg>',
            *(_label(x, below, f"{first + x * (last - first) // 100:,}", paint) for x in ANCHORS),
        ]
    )


def _bar(window: _Window, cell: int, cells: int, paint: Callable[[str], str], place: str | None) -> str:
    height = window.recited
    fill = f'style="fill:{paint(f"e{_shade(height)}")}"' if height else ""
    if height < OPENS:
        return f'<path d="M{cell} {CONTINUATION}v-{height}h1v{height}z" {fill}/>' if height else ""
    width = max(1.0, cells / LEAST_WIDTH)
    x = min(max(0.0, cell + 0.5 - width / 2), cells - width)
    bar = (
        f'<rect x="{x:g}" y="{CONTINUATION - height}" width="{width:g}" height="{height}" {fill}>'
        f"<title>token {window.first:,}: {_counted(height, 'token')} recited</title></rect>"
    )
    return f'<a href="{place}" tabindex="-1">{bar}</a>' if place else bar


def _label(x: int, y: int, text: str, paint: Callable[[str], str]) -> str:
    return f'<text x="{x}%" y="{y}" text-anchor="{ANCHORS[x]}" style="fill:{paint("faint")}">{text}</text>'


# The words.


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _nothing(windows: Sequence[_Window]) -> str:
    """What must not be overlooked: that there is nothing."""
    most = max((window.recited for window in windows), default=0)
    if most >= OPENS:
        return ""
    if not windows:
        told = "No window was read: nothing can be said of these texts."
    elif most:
        told = f"None of {_counted(len(windows), 'window')} recites {OPENS} tokens or more: {most} at most."
    else:
        told = f"Nothing was recited: in none of {_counted(len(windows), 'window')} does the model say the first token."
    return f'<p class="summary">{told}</p>'


def _legend(windows: Sequence[_Window], n_texts: int) -> str:
    bounds = [*SHADES, CONTINUATION + 1]
    keys = [str(least) if more - least == 1 else f"{least} to {more - 1}" for least, more in itertools.pairwise(bounds)]
    shades = " ".join(f'<span class="key r{shade}">{key}</span>' for shade, key in enumerate(keys, 1))
    return (
        f'<p class="faint">{_counted(len(windows), "window")} of {PROMPT} tokens of prompt and {CONTINUATION} of '
        f"continuation, in {_counted(n_texts, 'text')}. Bars: tokens recited, the most by a window whose "
        f"continuation begins there (the top is {CONTINUATION}). Area: their mean cross-entropy (the top is "
        f"{_top(windows)} nats a token). Numbers: tokens of the text. Shades and underlines, of the text below too, "
        f"by tokens recited: {shades}</p>"
    )


def _style() -> str:
    """Light by default and on paper, dark where the reader's system is."""
    light, dark = ("; ".join(f"--{name}: {colour}" for name, colour in colours.items()) for colours in (LIGHT, DARK))
    scheme = "@media screen and (prefers-color-scheme: dark)"
    return f":root {{ color-scheme: light dark; {light} }}\n{scheme} {{ :root {{ {dark} }} }}{STYLE}"


def _table(table: pd.DataFrame, windows: Sequence[_Window], texts: Sequence[str], targets: Mapping[int, str]) -> str:
    least = OPENS if any(window.recited >= OPENS for window in windows) else 1
    longest = runs(table, least)
    if not len(longest):
        return "<p>There is none.</p>"
    numbers = {window.index: number for number, window in enumerate(windows)}
    rows = []
    for run in longest.head(ROWS).to_dict("records"):
        number = numbers[run["index"]]
        window = windows[number]
        place = f"text {window.text}, token {run['token']:,}"
        place = f'<a href="{targets[number]}">{place}</a>' if number in targets else place
        begins = " ".join(_clean(texts[window.text][run["begin"] : run["end"]][:SNIPPET]).split())
        rows.append(
            f"<tr><td>{run['tokens']:,}</td><td>{window.recited}</td>"
            f'<td class="wide">{place}<br><code>{html.escape(begins)}</code></td>'
            f"<td>{'' if window.kl_ld is None else window.kl_ld}</td><td>{window.cross_entropy:.2f}</td>"
            f"<td>{_probability(window.log_prob)}</td></tr>"
        )
    names = ["tokens", "at once", "where it begins", "kl-LD", "nats", "probability"]
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rest = len(longest) - len(rows)
    return (
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        f'<p class="faint">A run: what windows recite, those of {_counted(least, "token")} or more, put together where '
        f"they touch. At once: the most that one of its windows recites, of {CONTINUATION}; kl-LD (tokens), nats a "
        "token and the probability of a sample that is the same word for word are that window's."
        f"{f' {rest:,} more not listed.' * bool(rest)}</p>"
    )


def _near(windows: Sequence[_Window], texts: Sequence[str], owners: Sequence[np.ndarray]) -> str:
    """Windows that are nearly verbatim and lie apart from all that open."""
    long = np.array([*(window.recited >= OPENS for window in windows), False])  # the last is of -1, none
    near = [
        window
        for window in windows
        if window.kl_ld is not None
        and window.kl_ld <= NEAR
        and not long[owners[window.text][window.begin : window.end]].any()
    ]
    if not near:
        return ""
    opened, left = [], OPENED // 5
    for window in sorted(near, key=lambda window: window.kl_ld or 0)[:ROWS]:
        panel = _panel(window, texts[window.text])
        left -= len(panel.encode())
        if left > 0:
            told = f"text {window.text}, token {window.first:,}: kl-LD {window.kl_ld}, {window.recited} recited"
            opened.append(f'<details id="w{window.index}"><summary>{told}</summary>{panel}</details>')
    rest = len(near) - len(opened)
    return (
        f"<h2>Nearly verbatim, apart from these</h2><p>{_counted(len(near), 'window')} with a kl-LD of {NEAR} or less, "
        f"apart from all {OPENS} tokens recited.{f' {rest:,} more not listed.' * bool(rest)}</p>{''.join(opened)}"
    )


# The text.


def _texts(
    windows: Sequence[_Window], texts: Sequence[str], owners: Sequence[np.ndarray], panels: Mapping[int, str]
) -> str:
    at_once = sum(map(len, texts)) <= AT_ONCE and len(texts) <= TEXTS
    of_text: list[list[_Window]] = [[] for _ in texts]
    opened: list[list[_Window]] = [[] for _ in texts]
    for number, window in enumerate(windows):
        of_text[window.text].append(window)
        if number in panels:
            opened[window.text].append(window)
    shown, parts = 0, []
    for number, text in enumerate(texts):
        pieces = [(0, len(text))] if at_once else _pieces(opened[number])
        if not pieces:
            continue
        recited = np.array([window.recited for window in of_text[number]], int)
        begins = [window.begin for window in of_text[number]]
        nothing = ": too short for a window" if not len(recited) else "" if recited.any() else ": nothing was recited"
        parts.append(f"<h3>text {number}{nothing}</h3>")
        edges = [0, *itertools.chain(*pieces), len(text)]
        inside = np.split(recited, np.searchsorted(begins, edges[1:-1]))  # of a gap, a piece, a gap ..
        for place, ((begin, end), most) in enumerate(zip(itertools.pairwise(edges), inside, strict=True)):
            if place % 2:
                shown += len(most)
                parts.append(_piece(windows, text, owners[number], begin, end, panels))
            elif begin < end:
                parts.append(_gap(end - begin, most))
    long = sum(window.recited >= OPENS for window in windows)
    own = len(_openable(windows, owners))
    told = [f"{long:,} of {_counted(len(windows), 'window')} recite {OPENS} tokens or more."]
    if long:
        told.append(f"{len(panels):,} of them open, by a click or by Enter.")
    if long > own:
        told.append(f"{long - own:,} lie within what others recite.")
    if own > len(panels):
        told.append(f"{own - len(panels):,} do not open, for want of space: those that recite the least.")
    if not at_once:
        told.append(f"The text is shown around those that open; {_counted(len(windows) - shown, 'window')} left out.")
    return "\n".join([f"<p>{' '.join(told)}</p>", *parts])


def _pieces(opened: Sequence[_Window]) -> list[tuple[int, int]]:
    """From where to where a text is shown: the windows that open, whole, as one where they overlap."""
    pieces: list[tuple[int, int]] = []
    for window in opened:
        begin, end = pieces.pop() if pieces and window.prompt_begin <= pieces[-1][1] else (window.prompt_begin, 0)
        pieces.append((begin, max(end, window.end)))
    return pieces


def _gap(characters: int, recited: np.ndarray) -> str:
    most = f", {_counted(len(recited), 'window')} that recite {recited.max()} at most" if len(recited) else ""
    return f'<p class="gap">{_counted(characters, "character")} left out{most}</p>'


def _piece(
    windows: Sequence[_Window],
    text: str,
    owner: np.ndarray,
    begin: int,
    end: int,
    panels: Mapping[int, str],
) -> str:
    """A part of a text, shaded. What a window owns is in one piece: none that recites more lies within it."""
    clean = _clean(text[begin:end])
    edges = [0, *(1 + np.flatnonzero(np.diff(owner[begin:end]))), end - begin]
    shown = []
    for first, last in itertools.pairwise(edges):
        number = int(owner[begin + first]) if first < last else -1
        told = html.escape(clean[first:last])
        if number < 0:
            shown.append(told)
            continue
        window = windows[number]
        shade = f'class="r{_shade(window.recited)}"'
        if number in panels:
            name = f'title="{window.recited} of {CONTINUATION} tokens recited"'
            shown.append(
                f'<details id="w{window.index}"><summary {shade} {name}>{told}</summary>{panels[number]}</details>'
            )
        else:
            shown.append(f"<span {shade}>{told}</span>")
    return f'<div class="text whole" dir="auto">{"".join(shown)}</div>'
