"""Texts that models are asked about: that they are what they are called."""

from __future__ import annotations

import re

from lmmem.experiments import texts
from lmmem.experiments.texts import CHAPTERS, LICENCES, known_texts, own_prose, own_texts


def test_every_known_text_is_there_once_and_is_what_its_name_says():
    found = {text.name: text for text in known_texts()}
    assert list(found) == [*LICENCES, "The Zen of Python", *CHAPTERS]
    assert found["GPL 2"].text.count("GNU GENERAL PUBLIC LICENSE") >= 2
    assert "AS IS" in found["MIT"].text and "sublicense" in found["MIT"].text
    assert found["Apache 2.0"].text.rstrip().endswith("limitations under the License.")
    assert found["The Zen of Python"].text.startswith("The Zen of Python, by Tim Peters\n\nBeautiful is better")
    assert found["The Zen of Python"].text.endswith("let's do more of those!")
    assert found["Genesis 1"].text.startswith("In the beginning God created the heaven and the earth. And the earth")
    assert found["Psalms 23"].text.startswith("The LORD is my shepherd; I shall not want. He maketh me")
    assert found["John 1"].text.count("In the beginning was the Word") == 1
    assert {text.genre for text in found.values()} == {"licence", "poem", "scripture"}


def test_own_prose_of_pages_is_words_without_header_or_cells():
    prose = {text.name: text.text for text in own_texts() if text.genre == "prose"}
    assert "03_perturbation" in prose and "plan" in prose
    for name, text in prose.items():
        assert not re.search(r"^(```|---\njupytext|import |:tags:)", text, flags=re.MULTILINE), name
    assert "best-of-N" in prose["03_perturbation"]


def test_fences_of_any_length_are_left_out_and_what_stands_between_them_is_not(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "---\na: 1\n---\nBefore.\n```{code}\nx = 1\n```\nBetween.\n````md\n```\ny\n```\n````\nAfter --- it.\n"
    )
    assert texts._prose(page).split() == ["Before.", "Between.", "After", "---", "it."]


def test_own_texts_are_prose_and_code_and_none_is_a_scrap():
    found = own_texts()
    names = [text.name for text in found]
    assert len(set(names)) == len(names)
    assert {"experiments/study.py", "README"} <= set(names)
    assert min(len(text.text) for text in found) > texts.LEAST_PAGE
    assert all(len(text) > texts.LEAST_PAGE for text in own_prose())
