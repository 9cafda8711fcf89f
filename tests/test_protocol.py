"""The protocol's numbers and the cut of a sequence."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from lmmem import protocol
from lmmem.models.registry import ROW_TOKENS

ROOT = Path(__file__).parents[1]


def test_numbers_are_those_that_the_book_quotes_from_the_paper():
    method = (ROOT / "book" / "method.md").read_text()
    quoted = re.search(r"a prompt of (\d+) tokens; the next (\d+) compared .* repeated (\d+) times", method)
    assert [int(number) for number in quoted.groups()] == [protocol.PROMPT, protocol.CONTINUATION, protocol.DRAWS]
    digit, power = re.search(r"The paper's \$\\sigma = (\d) \\times 10\^\{(-\d)\}\$", method).groups()
    assert float(f"{digit}e{power}") == protocol.SIGMA


def test_numbers_of_the_protocol_stand_in_one_place():
    sigma = {path.name for path in (ROOT / "lmmem").rglob("*.py") if protocol.SIGMA in numbers(path)}
    assert sigma == {"protocol.py"}
    row = {path.name for path in (ROOT / "lmmem").rglob("*.py") if ROW_TOKENS in numbers(path)}
    assert row == {"registry.py"}


def numbers(path: Path) -> set[object]:
    """The numbers that a source writes out, but for its documentation."""
    return {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_prompt_and_truth_are_neighbours(make):
    rows = make(np.arange(2 * 100).reshape(2, 100))
    prompts, truth = protocol.split(rows)
    assert prompts.shape == (2, 32)
    assert truth.shape == (2, 64)
    assert prompts[1, 0] == 100
    assert truth[1, 0] == 132
    assert truth[1, -1] == 195


@pytest.mark.parametrize("shape", [(2, 95), (96,)])
def test_short_rows_are_refused(shape):
    with pytest.raises(ValueError, match=r"k \+ l = 96 tokens, got shape"):
        protocol.split(np.zeros(shape, dtype=int))


def test_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="at least 1 token"):
        protocol.split(np.zeros((1, 96), dtype=int), k=0)
