"""Sentences whose numbers come from tables: :func:`tell`, one call where a page says what was found.

Where the data hold no answer its reason stands in its place.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

__all__ = ["Prose", "attempt", "table_if", "tell", "tell_if"]

MINUS = "\N{MINUS SIGN}"


class Prose(str):
    """Markdown that a notebook, a book and an executed notebook show as text."""

    def _repr_markdown_(self) -> str:
        return str(self)


def tell(text: str, **values: object) -> Prose:
    """Markdown with values at their names, formatted as ``str.format`` does.

    Parameters
    ----------
    text : paragraphs; ``{gain:.1f}`` is a number or an interval, ``{n:,}`` a count. Braces of formulas
        are written twice.
    values : by name; each has to be told.

    Raises
    ------
    KeyError : the text names a value that is not given.
    ValueError : a value is given and not told.

    >>> tell("Mean {what}: {mean:.1f} tokens, n = {n:,}.", what="kl-LD", mean=59.52, n=1_024)
    'Mean kl-LD: 59.5 tokens, n = 1,024.'
    """
    told = _Told(values)
    formatted = textwrap.dedent(text).strip().format_map(told)
    if unused := values.keys() - told.seen:
        raise ValueError(f"not told: {', '.join(sorted(unused))}")
    return Prose(formatted)


def tell_if(text: str, find: Callable[..., Mapping[str, object]], *data: object, **values: object) -> Prose:
    """As :func:`tell`, with the values that a function finds in data; where these do not hold an answer, its reason.

    Parameters
    ----------
    text, values : as for :func:`tell`.
    find : gives further values, by name; its ValueError says what the data lack.
    data : its arguments; a reason that :func:`attempt` gave in the place of one is told.

    >>> def mean(numbers):
    ...     if not numbers:
    ...         raise ValueError("a mean needs numbers, got none")
    ...     return {"mean": sum(numbers) / len(numbers)}
    >>> tell_if("Mean: {mean}.", mean, [1, 2]), tell_if("Mean: {mean}.", mean, [])
    ('Mean: 1.5.', 'Not answered here: a mean needs numbers, got none.')
    """
    found = attempt(find, *data)
    return Prose(f"Not answered here: {found}.") if isinstance(found, Prose) else tell(text, **found, **values)


def table_if(find: Callable[..., pd.DataFrame], *data: object, **options: object) -> pd.DataFrame | Prose:
    """A table that a function finds in data; where these do not hold one, its reason.

    Parameters
    ----------
    find : its ValueError says what the data lack.
    data, options : its arguments; a reason that :func:`attempt` gave in the place of one is told.

    >>> def counted(numbers):
    ...     if not numbers:
    ...         raise ValueError("a table needs numbers, got none")
    ...     return pd.DataFrame({"n": [len(numbers)]})
    >>> len(table_if(counted, [1, 2])), table_if(counted, [])
    (1, 'No table here: a table needs numbers, got none.')
    """
    found = attempt(find, *data, **options)
    return Prose(f"No table here: {found}.") if isinstance(found, Prose) else found


def attempt(measure: Callable[..., Any], *given: object, **options: object) -> Any:
    """What a measurement gives; where it cannot be made, its reason, or the one that stands in the place of its data.

    >>> attempt(int, "7"), attempt(int, "seven")[:15]
    (7, 'invalid literal')
    >>> attempt(abs, attempt(int, "seven"))[:15]
    'invalid literal'
    """
    if reason := next((one for one in given if isinstance(one, Prose)), None):
        return reason
    try:
        return measure(*given, **options)
    except ValueError as error:
        return Prose(error)


class _Told(dict):
    """Values that note which were asked for; numbers below 0 have a minus sign, not a hyphen."""

    def __init__(self, values: dict[str, object]) -> None:
        super().__init__(values)
        self.seen: set[str] = set()

    def __getitem__(self, name: str) -> object:
        self.seen.add(name)
        value = super().__getitem__(name)
        return _Number(value) if isinstance(value, int | float) else value


class _Number:
    def __init__(self, value: float) -> None:
        self.value = value

    def __format__(self, spec: str) -> str:
        return format(self.value, spec).replace("-", MINUS)
