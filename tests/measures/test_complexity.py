"""z-complexity against zlib by hand."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmmem.measures.complexity import z_complexity


@settings(deadline=None, max_examples=50)
@given(st.text(min_size=1))
def test_ratio_is_compressed_bytes_over_bytes(text):
    compressed = zlib.compress(text.encode("utf-8"))
    assert zlib.decompress(compressed).decode() == text
    assert z_complexity(text) * len(text.encode("utf-8")) == pytest.approx(len(compressed))


def test_several_texts_give_an_array_in_their_order():
    texts = ["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "Ünïcödé 🙂", "a line of words"]
    found = z_complexity(texts)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, [z_complexity(text) for text in texts])
    assert found[0] < found[2]


def test_empty_text_is_refused():
    with pytest.raises(ValueError, match="at least one character"):
        z_complexity(["a", ""])
