"""Attention of the decoder against its definition, with and without a cache."""

from __future__ import annotations

import math

import pytest
import torch

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.nn.decoder import Decoder
from brainlab.nn.kv_cache import KVCache
from brainlab.nn.rope import even_sections, rotate, rotation_table


def positions(n: int) -> torch.Tensor:
    return torch.cartesian_prod(torch.arange(n), torch.arange(3), torch.arange(2))


@pytest.fixture
def decoder() -> Decoder:
    torch.manual_seed(0)
    decoder = Decoder(width=24, n_layers=3, n_heads=4, n_kv_heads=2, head_dim=8, ffn_width=40)
    for parameter in decoder.parameters():  # the initial weights are too small to tell rotations apart
        torch.nn.init.normal_(parameter, std=0.3)
    return decoder.eval()


def table_of(n: int, dim: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    return rotation_table(positions(n // 6 + 1)[:n], dim, 100.0)


def test_a_product_of_rotated_vectors_depends_on_the_distance_alone():
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 12)
    near = torch.tensor([[1, 2, 0], [4, 0, 1]])
    far = near + torch.tensor([7, 5, 3])
    products = []
    for places in (near, far):
        cos, sin = rotation_table(places, 12, 100.0)
        a = rotate(query, (cos[:1], sin[:1]))
        products.append((a * rotate(key, (cos[1:], sin[1:]))).sum())
    assert torch.allclose(products[0], products[1], atol=1e-5)


def test_rotation_is_the_complex_product_of_the_formula():
    place, dim, theta = 5, 8, 10.0
    x = torch.randn(dim)
    got = rotate(x.view(1, 1, 1, dim), rotation_table(torch.tensor([[place]]), dim, theta, [4])).flatten()
    for j in range(4):
        turned = complex(x[j], x[j + 4]) * complex(math.cos(a := place * theta ** (-2 * j / dim)), math.sin(a))
        assert got[j].item() == pytest.approx(turned.real, abs=1e-5)
        assert got[j + 4].item() == pytest.approx(turned.imag, abs=1e-5)


def test_sections_deal_out_all_frequencies_and_refuse_others():
    assert even_sections(120) == (20, 20, 20)
    assert sum(even_sections(14)) == 7
    with pytest.raises(InvalidValue, match="rope_sections"):
        rotation_table(positions(1), 8, 100.0, [2, 2, 2])


def test_attention_equals_one_key_head_per_query_head(decoder):
    x = torch.randn(2, 11, 24)
    table = table_of(11)
    layer = decoder.layers[0].attention
    got = layer(x, table, None, 0)
    qkv = layer.qkv(x).view(2, 11, 8, 8)
    query, key, value = rotate(qkv[:, :, :4], table), rotate(qkv[:, :, 4:6], table), qkv[:, :, 6:]
    key, value = (part.repeat_interleave(2, dim=2) for part in (key, value))
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(8)
    scores = scores.masked_fill(torch.ones(11, 11).triu(1).bool(), -math.inf)
    want = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value).reshape(2, 11, 32)
    assert torch.allclose(got, layer.out(want), atol=1e-5)


@pytest.mark.parametrize("steps", [[7, 1, 1, 1, 5], [1] * 15, [3, 6, 6], [15]])
def test_a_cache_changes_nothing(decoder, steps):
    x = torch.randn(3, 15, 24)
    table = table_of(15)
    with torch.no_grad():
        whole = decoder(x, table)
        cache, parts, first = decoder.cache(3, 15), [], 0
        for step in steps:
            part = slice(first, first + step)
            parts.append(decoder(x[:, part], (table[0][part], table[1][part]), cache))
            first += step
    assert cache.n_tokens == 15
    assert (torch.cat(parts, dim=1) - whole).abs().max() < 1e-4


def test_later_tokens_are_never_seen(decoder):
    x = torch.randn(1, 15, 24)
    other = x.clone()
    other[:, 9:] += 1.0
    with torch.no_grad():
        a, b = decoder(x, table_of(15)), decoder(other, table_of(15))
    assert torch.equal(a[:, :9], b[:, :9])
    assert not torch.allclose(a[:, 9:], b[:, 9:])


def test_cache_is_one_block_of_memory_and_refuses_more_than_fits():
    cache = KVCache(n_layers=3, batch=2, n_kv_heads=2, length=10, head_dim=8, dtype=torch.bfloat16)
    assert cache.n_bytes == 3 * 2 * 2 * 2 * 10 * 8 * 2
    with pytest.raises(ShapeMismatch, match="at most 10 tokens"):
        cache.append(0, torch.zeros(4, 11, 8), torch.zeros(4, 11, 8))


@pytest.mark.parametrize(
    ("sizes", "name"),
    [
        ({"n_heads": 4, "n_kv_heads": 3}, "n_kv_heads"),
        ({"n_heads": 5}, "n_heads"),
        ({"n_heads": 8}, "head_dim"),
        ({"n_heads": 4, "n_layers": 0}, "n_layers"),
    ],
)
def test_sizes_that_do_not_fit_are_named(sizes, name):
    with pytest.raises(InvalidValue, match=name):
        Decoder(**{"width": 24, "n_layers": 1, **sizes})
