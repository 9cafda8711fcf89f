"""The protocol's numbers and the cut of a sequence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmmem import protocol


def test_numbers_are_those_of_the_paper():
    assert (protocol.PROMPT, protocol.CONTINUATION, protocol.SIGMA, protocol.DRAWS) == (32, 64, 0.002, 200)


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
