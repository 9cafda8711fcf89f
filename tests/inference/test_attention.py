"""Attention of one token to pieces of keys, against transformers' on the same keys in one piece."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from lmmem.inference import attention
from lmmem.inference.attention import Pieces


def grown(copies: int, tokens: int, shared: int = 2, prompts: int = 3, k: int = 5, dtype=torch.float32):
    """A layer that has read prompts and then tokens one by one, and the same keys and values in one piece."""
    torch.manual_seed(0)
    layer, width = Pieces(), 8
    first = [torch.randn(prompts, shared, k, width, dtype=dtype) for _ in range(2)]
    layer.update(*first)
    layer.batch_repeat_interleave(copies)
    whole = [part.repeat_interleave(copies, dim=0) for part in first]
    for _ in range(tokens):
        new = [torch.randn(prompts * copies, shared, 1, width, dtype=dtype) for _ in range(2)]
        assert layer.update(*new) == (layer, layer)
        whole = [torch.cat([part, one], dim=2) for part, one in zip(whole, new, strict=True)]
    return layer, whole


@pytest.mark.parametrize("copies", [1, 4])
@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 32, 33, 100])
@pytest.mark.parametrize("heads", [2, 6])
def test_pieces_are_attended_as_one_piece(copies, tokens, heads):
    layer, (keys, values) = grown(copies, tokens)
    query = torch.randn(len(keys), heads, 1, 8)
    said, _ = attention._attend(torch.nn.Module(), query, layer, layer, None)
    expected = scaled_dot_product_attention(query, keys, values, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(said, expected)
    assert layer.get_seq_length() == keys.shape[2]


def test_half_precision_is_attended_in_float32():
    layer, (keys, values) = grown(1, 20, dtype=torch.bfloat16)
    query = torch.randn(len(keys), 2, 1, 8).bfloat16()
    said, _ = attention._attend(torch.nn.Module(), query, layer, layer, None)
    expected = scaled_dot_product_attention(query.float(), keys.float(), values.float()).transpose(1, 2)
    torch.testing.assert_close(said, expected.bfloat16())


def test_pieces_are_few_and_little_is_kept_for_nothing():
    layer, (keys, _) = grown(1, 700, prompts=1)
    tokens = keys.shape[2]
    assert len(layer.pieces) <= 1 + 700 // attention.PIECE
    assert grown(1, 2_000, prompts=1)[0].capacity < 2_300
    assert len(grown(1, 2_000, prompts=1)[0].pieces) < 30
    assert layer.capacity - tokens <= max(attention.PIECE, tokens // 8)
