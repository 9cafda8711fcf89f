"""The report of a scan shows what was recited, all of it and nothing else, on a page that holds together."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lmmem.analysis.strip import DARK, LIGHT, Drawing, report, strip

SHADES = {0: 0, 1: 1, 7: 1, 8: 2, 15: 2, 16: 3, 31: 3, 32: 4, 63: 4, 64: 5}  # by tokens recited
VOID = {"meta", "br", "hr", "img", "input", "link"}
WORDS = ["def", "of", "the", "return", "import", "memory", "ß", "語", "<b>", "&", '"x"', "'y'", "-->"]


def words(n: int, seed: int = 0) -> list[str]:
    """Tokens of a made-up text, lines and spaces among them."""
    rng = np.random.default_rng(seed)
    ends = rng.choice([" ", "\n", "  ", "\t", ""], n)
    return [word + end for word, end in zip(rng.choice(WORDS, n), ends, strict=True)]


def table(
    documents: Sequence[Sequence[str]], known: Sequence[Sequence[tuple[int, int]]] = (), stride: int = 8
) -> pd.DataFrame:
    """Windows of documents of tokens, of which a model recites those in the ranges known."""
    lines = []
    for text, tokens in enumerate(documents):
        edges = np.cumsum([0, *map(len, tokens)]).tolist()
        heart = np.zeros(len(tokens) + 1, bool)
        for first, last in known[text] if known else ():
            heart[first:last] = True
        for token in range(0, len(tokens) - 95, stride):
            begin = token + 32
            recited = next((k for k in range(64) if not heart[begin + k]), 64)
            lines.append(
                {
                    "index": len(lines),
                    "text": text,
                    "token": token,
                    "begin": edges[begin],
                    "end": edges[begin + 64],
                    "prompt_begin": edges[token],
                    "recited": recited,
                    "ends": edges[begin + 1 : begin + 65],
                    "matches": max(recited, 20),
                    "cross_entropy": 4.0 - recited / 20,
                    "log_prob": 64 * (recited / 20 - 4.0),
                    "z_complexity": 0.75,
                    "kl_ld": 64 - recited if recited >= 4 else pd.NA,
                    "said": "".join(tokens[begin : begin + recited]) + "\N{CROSS MARK}" * (recited < 64)
                    if recited >= 4
                    else None,
                }
            )
    columns = ["index", "text", "token", "begin", "end", "prompt_begin", "recited", "ends", "matches"]
    columns += ["cross_entropy", "log_prob", "z_complexity", "kl_ld", "said"]
    return pd.DataFrame(lines, columns=columns).astype({"kl_ld": "Int64"})


class Page(HTMLParser):
    """A page as a reader of HTML finds it: whether every tag is closed, its parts, and the shade of each character."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, str]] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.texts: list[list[tuple[str, int]]] = []  # characters with their shades
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names))
        found = {name: value or "" for name, value in attrs}
        if tag not in VOID:
            self.open.append((tag, found.get("class", "")))
        self.tags.append(tag)
        self.attributes += found.items()
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if tag == "a" else []
        if found.get("class") == "text whole":
            self.texts.append([])

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        self.text += data
        classes = [name for _, name in self.open]
        if "text whole" in classes and "panel" not in classes:
            shade = max((int(name[1]) for name in classes if re.fullmatch(r"r\d", name)), default=0)
            self.texts[-1] += [(letter, shade) for letter in data]


def page_of(windows: pd.DataFrame, texts: Sequence[str], **options) -> Page:
    return Page(report(windows, texts, **{"title": "A scan", "summary": ["What was found."]} | options))


def most_recited_over_each_character(windows: pd.DataFrame, texts: Sequence[str]) -> list[list[int]]:
    """The same by a plain loop."""
    covered = [[0] * len(text) for text in texts]
    for line in windows.to_dict("records"):
        if line["recited"]:
            for place in range(line["begin"], line["ends"][line["recited"] - 1]):
                covered[line["text"]][place] = max(covered[line["text"]][place], line["recited"])
    return covered


def shade_of(recited: int) -> int:
    return SHADES[max(least for least in SHADES if least <= recited)]


@pytest.mark.parametrize("seed", range(5))
def test_characters_are_shaded_by_the_most_that_a_window_over_them_recites(seed):
    documents = [words(400, seed), words(150, seed + 100)]
    texts = ["".join(tokens) for tokens in documents]
    windows = table(documents)
    rng = np.random.default_rng(seed)
    windows["recited"] = np.where(
        rng.random(len(windows)) < 0.5, 0, rng.choice([1, 5, 9, 20, 40, 63, 64], len(windows))
    )
    page = page_of(windows, texts)
    assert ["".join(letter for letter, _ in text) for text in page.texts] == texts
    covered = most_recited_over_each_character(windows, texts)
    assert [[shade for _, shade in text] for text in page.texts] == [list(map(shade_of, text)) for text in covered]
    assert any(map(any, covered))


def test_lines_of_the_table_may_come_in_any_order_and_with_any_labels():
    documents = [words(400), words(300, 1)]
    texts = ["".join(tokens) for tokens in documents]
    windows = table(documents, [[(100, 250)], [(60, 90)]])
    mixed = windows.sample(frac=1, random_state=0).set_index(np.repeat("same", len(windows)))
    options = {"title": "", "summary": []}
    assert report(mixed, texts, **options) == report(windows, texts, **options)


def test_everything_that_opens_does_so_once_and_every_link_has_its_place():
    documents = [words(600), words(200, 1)]
    texts = ["".join(tokens) for tokens in documents]
    page = page_of(table(documents, [[(100, 300), (400, 410)], [(50, 70)]]), texts)
    assert len(page.ids) == len(set(page.ids)) == page.tags.count("details") > 3
    assert page.links
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)


def test_window_opens_to_prompt_truth_and_continuation_with_the_first_difference():
    tokens = [f"w{number} " for number in range(96)]
    windows = table([tokens], [[(32, 62)]])
    html = report(windows, ["".join(tokens)], title="", summary=[])
    panel = html[html.index('<div class="panel">') :]
    assert "30 of 64 tokens" in panel
    assert "34 tokens" in panel
    assert "2.50 nats a token" in panel
    assert f"10<sup>\N{MINUS SIGN}{64 * 2.5 / math.log(10):.0f}</sup>" in panel
    columns = re.findall(r'<div class="text" dir="auto">(.*?)</div>', panel, re.DOTALL)
    same = "".join(tokens[32:62])
    assert columns[0] == "".join(tokens[:32])
    assert columns[1] == f'<b>{same}</b><mark title="the first difference">w</mark>' + "".join(tokens[62:])[1:]
    assert columns[2] == f'<b>{same}</b><mark title="the first difference">\N{CROSS MARK}</mark>'


def test_difference_at_the_end_of_a_line_can_be_seen():
    tokens = ["a"] * 62 + ["\n"] + ["b"] * 33
    html = report(table([tokens], [[(32, 62)]]), ["".join(tokens)], title="", summary=[])
    assert '<mark title="the first difference">\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}\n</mark>' in html


def test_continuation_word_for_word_has_no_mark_and_says_so():
    tokens = words(96)
    html = report(table([tokens], [[(32, 96)]]), ["".join(tokens)], title="", summary=[])
    assert "the same to its end" in html
    assert "<mark" not in html


def test_window_that_was_not_decoded_says_so():
    tokens = words(96)
    windows = table([tokens], [[(32, 62)]]).assign(said=None, kl_ld=pd.array([pd.NA], "Int64"))
    html = report(windows, ["".join(tokens)], title="", summary=[])
    assert html.count("not decoded") == 2
    recited = "".join(tokens[32:62])
    assert f'<b>{escape(recited)}</b><mark title="the first difference">' in html
    assert html.count("<mark") == 1  # in the truth, after what is recited


@pytest.mark.parametrize(
    ("log_prob", "said"),
    [(0.0, "1.00"), (math.log(0.25), "0.25"), (-math.log(1234), "1 in 1,234"), (-math.inf, "0")],
)
def test_probabilities_are_told_as_people_say_them(log_prob, said):
    tokens = words(96)
    windows = table([tokens], [[(32, 96)]]).assign(log_prob=log_prob)
    html = report(windows, ["".join(tokens)], title="", summary=[])
    assert f"<dt>probability, word for word</dt><dd>{said}</dd>" in html


def listed(windows: pd.DataFrame, texts: Sequence[str]) -> list[tuple[str, str, str]]:
    """The table of a page: tokens of runs, tokens at once, and where."""
    html = report(windows, texts, title="", summary=[])
    return re.findall(r"<tr><td>(\d+)</td><td>(\d+)</td><td class=\"wide\"><a href=\"#w\d+\">(.*?)</a>", html)


def test_table_has_the_longest_runs_first():
    documents = [words(600), words(200, 1)]
    windows = table(documents, [[(104, 301), (400, 440)], [(64, 80)]])
    assert listed(windows, ["".join(tokens) for tokens in documents]) == [
        ("197", "64", "text 0, token 104"),
        ("40", "40", "text 0, token 400"),
        ("16", "16", "text 1, token 64"),
    ]


def test_table_puts_together_what_opens_and_nothing_else():
    tokens = words(200)
    windows = table([tokens]).assign(recited=[8, 11, 7, 0, 0, 9, *[0] * 8])  # at tokens 32, 40, 48 and 72
    found = listed(windows, ["".join(tokens)])
    assert found == [("19", "11", "text 0, token 32"), ("9", "9", "text 0, token 72")]


HOSTILE = "</summary></div><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\"'`\x00\x0b\r\n\uffff--></style>"


def test_whatever_a_text_holds_is_shown_and_not_obeyed():
    tokens = list(HOSTILE * 3)
    windows = table([tokens], [[(32, 150)]])
    windows["said"] = HOSTILE
    options = {"title": HOSTILE, "summary": [HOSTILE], "notes": [HOSTILE], "made": HOSTILE}
    html = report(windows, [HOSTILE * 3], **options)
    page = Page(html)
    assert not {"script", "img"} & set(page.tags)
    assert page.tags.count("style") == 1
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    shown = "".join(letter for letter, _ in page.texts[0])
    assert shown.count("<script>alert(1)</script>") == 3
    assert len(shown) == len(HOSTILE * 3)
    assert "\N{SYMBOL FOR NULL}\N{SYMBOL FOR VERTICAL TABULATION} \n\ufffd-->" in shown
    assert "\r" not in html


def test_half_of_a_pair_of_surrogates_does_not_keep_a_page_from_being_written():
    tokens = words(200)
    broken = "\ud800" + "".join(tokens)[1:]
    html = report(table([tokens]), [broken], title="\udfff", summary=[])
    assert "\ufffd" in html.encode().decode()


def test_page_asks_nothing_of_a_network():
    tokens = words(300)
    html = report(table([tokens], [[(40, 200)]]), ["".join(tokens)], title="A scan", summary=["Found."])
    assert "http" not in html
    assert "url(" not in html
    assert not {"script", "link", "img", "iframe", "object"} & set(Page(html).tags)
    assert '<html lang="en">' in html


def test_no_window_at_all_is_said():
    page = page_of(table([]), ["too short"])
    assert "No window was read" in page.text
    assert "text 0: too short for a window" in page.text
    assert "1 text not drawn, too short for a window" in page.text
    assert page_of(table([]), []).texts == []


def test_text_of_which_nothing_is_recited_says_so():
    documents = [words(300), words(300, 1)]
    texts = ["".join(tokens) for tokens in documents]
    none = page_of(table(documents), texts)
    assert "Nothing was recited: in none of 52 windows" in none.text
    assert none.text.count("text 1: nothing was recited") == 2  # over its strip, and over the text
    assert "details" not in none.tags
    one = page_of(table(documents, [[], [(60, 100)]]), texts)
    assert "Nothing was recited" not in one.text
    assert one.text.count("text 0: nothing was recited") == 2
    assert one.text.count("text 1: nothing was recited") == 0


def test_few_tokens_alone_are_listed_and_do_not_open():
    tokens = words(300)
    page = page_of(table([tokens], [[(72, 77)]]), ["".join(tokens)])
    assert "None of 26 windows recites 8 tokens or more: 5 at most." in page.text
    assert "text 0, token 72" in page.text
    assert not {"details", "a"} & set(page.tags)


def test_nearly_verbatim_window_apart_from_all_others_opens_too():
    tokens = words(300)
    windows = table([tokens], [[(60, 100)]])
    windows.loc[[1, 20], "kl_ld"] = 3  # the first overlaps what is recited, the other is apart from it
    windows.loc[[1, 20], "said"] = "something like it"
    page = page_of(windows, ["".join(tokens)])
    assert "1 window with a kl-LD of 8 or less" in page.text
    assert "text 0, token 192: kl-LD 3, 0 recited" in page.text
    assert "w20" in page.ids


def test_long_text_is_shown_around_what_opens_and_the_rest_is_counted():
    tokens = words(20_000)
    text = "".join(tokens)
    windows = table([tokens], [[(0, 40), (5_000, 5_100), (12_000, 12_009)]])
    page = page_of(windows, [text])
    opened = windows[windows["index"].isin([int(name[1:]) for name in page.ids])]
    pieces = ["".join(letter for letter, _ in piece) for piece in page.texts]
    assert all(piece in text for piece in pieces)
    assert all(text[line.prompt_begin : line.end] in "".join(pieces) for line in opened.itertuples())
    left = [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) characters? left out", page.text)]
    assert sum(left) + sum(map(len, pieces)) == len(text)
    out = [int(n.replace(",", "")) for n in re.findall(r"left out, ([\d,]+) windows? that recite", page.text)]
    told = re.search(r"around those that open; ([\d,]+) windows left out", page.text)
    assert sum(out) == int(told[1].replace(",", "")) > 2_000


LARGE = {
    "all recited": (["word "] * 200_000, 1_000_000),
    "half recited, and much to escape": (['"&"  '] * 200_000, 500_000),
    "long tokens of three bytes": (["語" * 20] * 50_000, 1_000_000),
}


@pytest.mark.slow
@pytest.mark.parametrize(("tokens", "known"), LARGE.values(), ids=LARGE.keys())
def test_page_of_a_megabyte_stays_below_two(tokens, known):
    text = "".join(tokens)
    html = report(table([tokens], [[(0, known // len(tokens[0]))]]), [text], title="", summary=[])
    assert len(html.encode()) < 2_000_000
    page = Page(html)
    long, opened, within = re.search(
        r"([\d,]+) of [\d,]+ windows recite 8 tokens or more. ([\d,]+) of them open, .* ([\d,]+) lie within", page.text
    ).groups()
    cut = re.search(r"([\d,]+) do not open, for want of space", page.text)
    numbers = [int(number.replace(",", "")) for number in (long, opened, within, cut[1])]
    assert numbers[0] == sum(numbers[1:])
    assert numbers[1] == page.tags.count("details") > 50


def test_windows_nearly_verbatim_do_not_fill_the_page_either():
    tokens = ["語" * 400] * 1_000
    text = "".join(tokens)
    windows = table([tokens]).assign(kl_ld=pd.array([3] * 114, "Int64"), said=text[:25_600])
    html = report(windows, [text], title="", summary=[])
    assert len(html.encode()) < 2_000_000
    page = Page(html)
    rest = re.search(r"114 windows with a kl-LD of 8 or less.* ([\d,]+) more not listed", page.text)
    assert 114 - int(rest[1]) == page.tags.count("details") > 0


def test_page_of_many_texts_stays_below_two_megabytes():
    documents = [words(120, seed) for seed in range(2_000)]
    windows = table(documents, [[(32, 32 + number % 80)] for number in range(2_000)])
    texts = ["".join(tokens) for tokens in documents]
    html = report(windows, texts, title="", summary=[])
    assert len(html.encode()) < 2_000_000
    page = Page(html)
    assert "1,976 texts not drawn, none recited further" in page.text
    assert len(set(page.ids)) == len(page.ids)


def test_strips_of_many_long_texts_stay_below_two_megabytes():
    documents = [["word "] * 9_000] * 30
    html = report(
        table(documents, [[(32, 9_000)]] * 30), ["".join(tokens) for tokens in documents], title="", summary=[]
    )
    assert len(html.encode()) < 2_000_000
    assert html.count("<title>token") == 24 * (4_000 // 24)


def test_strip_has_at_most_a_thousand_cells_of_the_most_recited_in_each():
    tokens = ["word "] * 20_000
    windows = table([tokens])
    rng = np.random.default_rng(0)
    windows["recited"] = np.where(rng.random(len(windows)) < 0.1, rng.integers(8, 65, len(windows)), 0)
    windows["cross_entropy"] = rng.random(len(windows)) * 5
    drawn = strip(windows, ["".join(tokens)])
    assert 'viewBox="0 0 1000 64"' in drawn
    heights = [int(height) for height in re.findall(r'<rect x="[^"]+" y="\d+" width="4" height="(\d+)"', drawn)]
    cell = [-(-number * len(windows) // 1000) for number in range(1001)]
    most = [windows.recited[a:b].max() for a, b in itertools.pairwise(cell)]
    assert heights == sorted(height for height in most if height)
    levels = [int(y) for y in re.findall(r"V(\d+)H", drawn)]
    mean = [windows.cross_entropy[a:b].mean() for a, b in itertools.pairwise(cell)]
    np.testing.assert_allclose(levels, 100 - 20 * np.array(mean), atol=0.51)


def test_places_in_a_strip_are_tokens_of_the_text_where_continuations_begin():
    tokens = words(2_000)
    drawn = strip(table([tokens], [[(1_000, 1_064)]]), ["".join(tokens)])
    labels = [text for text in re.findall(r"<text [^>]*>(.*?)</text>", drawn)]
    assert labels == ["text 0: 64 tokens recited at token 1,000", "32", "984", "1,936"]
    assert "<title>token 1,000: 64 tokens recited</title>" in drawn


def test_one_window_in_a_megabyte_can_still_be_seen():
    tokens = ["word "] * 100_000
    drawn = strip(table([tokens], [[(50_000, 50_064)]]), ["".join(tokens)])
    widths = [float(width) for width in re.findall(r'width="([\d.]+)" height="64"', drawn)]
    assert widths
    assert min(widths) / 1000 * 328 > 1  # pixels, of the smallest screen


def test_strip_alone_is_a_file_of_its_own_on_white():
    tokens = words(300)
    drawn = strip(table([tokens], [[(40, 200)]]), ["".join(tokens)])
    assert isinstance(drawn, Drawing)
    assert drawn._repr_svg_() == str(drawn)
    assert drawn.startswith('<svg xmlns="http://www.w3.org/2000/svg" width="860" ')  # a picture has a size of its own
    assert drawn.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "var(" not in drawn
    assert "<a " not in drawn
    assert LIGHT["paper"] in drawn
    Page(drawn)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recited": 65}, "recited of window 0 is 65; it must be from 0 to 64 tokens"),
        ({"text": 1}, "text of window 0 is 1; it must be one of the 1 texts, from 0"),
        ({"cross_entropy": math.nan}, "cross_entropy of window 0 is missing"),
        ({"log_prob": 0.5}, "log_prob of window 0 is 0.5"),
        ({"prompt_begin": -1}, "prompt_begin, begin, 64 ends and end of window 0 must rise"),
        ({"end": 10_000}, "prompt_begin, begin, 64 ends and end of window 0 must rise"),
        ({"index": 1}, "index: 1 window there twice"),
    ],
)
def test_table_that_cannot_be_right_is_refused(change, message):
    tokens = words(104)
    windows = table([tokens])
    (name, value) = next(iter(change.items()))
    windows[name] = [value, *windows[name][1:]]
    with pytest.raises(ValueError, match=re.escape(message)):
        strip(windows, ["".join(tokens)])


def test_list_of_ends_of_another_length_is_refused():
    tokens = words(96)
    windows = table([tokens])
    windows.at[0, "ends"] = windows.ends[0][:63]
    with pytest.raises(ValueError, match="63 from"):
        strip(windows, ["".join(tokens)])


def test_missing_column_and_a_single_text_are_refused():
    tokens = words(96)
    with pytest.raises(ValueError, match="ends"):
        strip(table([tokens]).drop(columns="ends"), ["".join(tokens)])
    with pytest.raises(ValueError, match="give a list of texts"):
        strip(table([tokens]), "".join(tokens))


def luminance(colour: str) -> float:
    """Source: WCAG 2.2, relative luminance."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_everything_can_be_read_in_both_themes(theme):
    for ground in ("paper", "panel", "mark", "r1", "r2", "r3", "r4", "r5"):
        assert contrast(theme["ink"], theme[ground]) >= 4.5, ground
    for name in ("faint", "link"):
        assert contrast(theme[name], theme["paper"]) >= 4.5, name
    assert contrast(theme["faint"], theme["panel"]) >= 4.5
    for name in ("e1", "e2", "e3", "e4", "e5", "area", "edge"):  # WCAG: 3 for what is no text
        assert contrast(theme[name], theme["paper"]) >= 3, name
    for shade in "12345":
        assert contrast(theme[f"e{shade}"], theme[f"r{shade}"]) >= 3, shade


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_shades_rise_in_lightness_alone(theme):
    for kind in "re":
        steps = np.diff([luminance(theme[name]) for name in (f"{kind}{k}" for k in range(1, 6))])
        assert (steps > 0).all() or (steps < 0).all()


def test_shades_differ_by_their_underline_too():
    tokens = words(96)
    html = report(table([tokens]), ["".join(tokens)], title="", summary=[])
    lines = re.findall(r"\.r\d \{[^}]*underline (\w+ \dpx)", html)
    assert len(lines) == len(set(lines)) == 5


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    tokens = [*words(300), "x" * 3_000, *words(300, 1)]
    windows = table([tokens], [[(100, 200), (250, 420)]]).assign(log_prob=-math.log(123_456))
    html = report(windows, ["".join(tokens)], title="A scan of " + "x" * 200, summary=["Found " + "y" * 200])
    file = tmp_path_factory.mktemp("report") / "scan.html"
    file.write_text(html, encoding="utf-8")
    return file


@pytest.mark.parametrize("key", ["click", "Enter", "Space"])
def test_window_opens_where_it_stands_and_closes_again(browser, page_file, key):
    tab = browser.new_page()
    tab.goto(page_file.as_uri())
    runs = tab.locator(".whole details")
    assert runs.count() > 3
    assert not tab.locator(".panel").first.is_visible()
    summary = runs.first.locator("summary")
    for state in (True, False):
        if key == "click":
            summary.click()
        else:
            summary.focus()
            tab.keyboard.press(key)
        assert tab.locator(".whole details .panel").first.is_visible() is state
    tab.close()


def test_text_flows_through_windows_that_are_closed(browser, tmp_path):
    tokens = ["ab "] * 120
    html = report(table([tokens], [[(32, 45), (80, 120)]]), ["".join(tokens)], title="", summary=[])
    (tmp_path / "scan.html").write_text(html)
    tab = browser.new_page(viewport={"width": 6_000, "height": 800})
    tab.goto((tmp_path / "scan.html").as_uri())
    tab.add_style_tag(content="main { max-width: none !important }")
    heights = tab.evaluate("['.whole', '.gap, .whole summary'].map(e => document.querySelector(e).clientHeight)")
    assert heights[0] < 60  # one line of text and the padding
    tab.close()


def test_links_lead_to_the_place_in_the_text(browser, page_file):
    tab = browser.new_page(viewport={"width": 1000, "height": 600})
    tab.goto(page_file.as_uri())
    for link in (tab.locator("table a").last, tab.locator("svg a").last):
        link.dispatch_event("click")
        place = tab.locator(":target > summary")
        assert place.count() == 1
        assert place.evaluate("e => e.getClientRects()[0].top >= 0 && e.getClientRects()[0].top < innerHeight")
        tab.evaluate("location.hash = ''")
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_page_fits_the_screen_in_the_readers_theme_without_a_network(browser, page_file, width, scheme):
    tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    asked: list[str] = []
    errors: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: errors.append(message.text))
    tab.goto(page_file.as_uri(), wait_until="networkidle")
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert tab.evaluate(fits)
    tab.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert tab.evaluate(fits)
    broken = "e => { const r = document.createRange(); r.selectNodeContents(e); return r.getClientRects().length > 1 }"
    assert tab.locator("td:not(.wide)").count() == 10
    assert not any(cell.evaluate(broken) for cell in tab.locator("td:not(.wide)").all())
    ground = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    paper = (LIGHT if scheme == "light" else DARK)["paper"]
    assert tab.evaluate(ground) == [int(paper[k : k + 2], 16) for k in (1, 3, 5)]
    tab.emulate_media(media="print", color_scheme=scheme)
    assert tab.evaluate(ground) == [255, 255, 255]
    assert asked == [page_file.as_uri()]
    assert errors == []
    tab.close()


def test_page_reads_the_same_in_a_browser(browser, tmp_path):
    tokens = list(HOSTILE * 3)
    html = report(table([tokens], [[(32, 150)]]), [HOSTILE * 3], title="", summary=[])
    (tmp_path / "scan.html").write_text(html, encoding="utf-8")
    tab = browser.new_page()
    dialogs: list[str] = []
    tab.on("dialog", lambda dialog: dialogs.append(dialog.message))
    tab.goto((tmp_path / "scan.html").as_uri())
    shown = tab.locator(".whole").evaluate("e => e.innerText")  # as it is rendered
    assert shown == "".join(letter for letter, _ in Page(html).texts[0])
    assert dialogs == []
    tab.close()
