"""Counted memory and work against counts by hand."""

from __future__ import annotations

import functools

import pytest
import torch

from brainlab.models.flat_gpt import FlatGPT
from brainlab.nn.footprint import count_flops, footprint


def codes(batch: int, n_frames: int, n_sites: int, n_levels: int) -> torch.Tensor:
    return torch.zeros(batch, n_frames, n_sites, n_levels, dtype=torch.long)


def greedy(logits, level, generator):
    return logits.argmax(-1)


def test_a_paper_sized_step_costs_what_a_hand_count_says():
    build = functools.partial(FlatGPT, 4, 4, 16384, head_dim=120, rope_sections=[20, 20, 20])
    cost = footprint(build, lambda module: module.loss(codes(1, 1536, 4, 4)), torch.bfloat16)
    layer = 1200 * 1680 + 1200 * 1200 + 3 * 1200 * 4560
    assert cost.parameters == 4 * 16384 * 1200 + 12 * (layer + 1680 + 2 * 1200) + 1200
    assert cost.weights == cost.gradients == 4 * cost.parameters
    n = 24_576
    products = 12 * layer * n + 16384 * 1200 * (n - 1)  # a step multiplies every weight three times: y, dx, dw
    attention = 12 * n * n * 1200  # query · key and weights · value forwards, five such products backwards
    assert cost.flops == 3 * 2 * products + (2 + 5) * 2 * attention
    # Kept per token and layer: two norms' inputs in float32; the feed-forward's gate, up, silu, product and the
    # normed inputs, queries, keys, values and attention's output in two bytes.
    floor = 12 * n * (2 * 1200 * 4 + (4 * 4560 + 2 * 1200 + 3 * 1200) * 2)
    assert floor < cost.activations < 1.5 * floor


def test_recomputed_layers_keep_their_input_alone():
    build = functools.partial(FlatGPT, 2, 2, 32, width=64, n_layers=6, n_heads=4, ffn_width=256)
    plain, spare = (
        footprint(functools.partial(build, recompute=again), lambda module: module.loss(codes(2, 64, 2, 2)))
        for again in (False, True)
    )
    assert spare.activations < plain.activations / 4
    assert plain.flops < spare.flops < 1.4 * plain.flops


def test_recomputed_layers_give_the_same_gradients():
    gradients = []
    for again in (False, True):
        torch.manual_seed(0)
        module = FlatGPT(2, 2, 9, width=24, n_layers=2, n_heads=2, ffn_width=32, recompute=again)
        module.loss(torch.randint(9, (2, 5, 2, 2), generator=torch.Generator().manual_seed(0))).backward()
        gradients.append([parameter.grad for parameter in module.parameters()])
    for one, two in zip(*gradients, strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_half_precision_keeps_less():
    build = functools.partial(FlatGPT, 2, 2, 32, width=64, n_layers=2, n_heads=4, ffn_width=256)
    full, half = (
        footprint(build, lambda module: module.loss(codes(2, 64, 2, 2)), low) for low in (None, torch.bfloat16)
    )
    assert half.activations < 0.8 * full.activations
    assert half.flops == full.flops


def test_a_generated_frame_costs_what_a_hand_count_says():
    width, ffn, vocab, layers, frames = 32, 48, 16, 3, 20
    build = functools.partial(
        FlatGPT, 2, 2, vocab, width=width, n_layers=layers, n_heads=4, n_kv_heads=2, ffn_width=ffn
    )

    def generate(n_new: int) -> int:
        return count_flops(build, lambda module: module.generate(codes(1, frames - 2, 2, 2), n_new, greedy))

    weights = layers * (width * (4 + 2 * 2) * 8 + width * width + 3 * width * ffn) + width * vocab
    pairs = sum(range(4 * (frames - 1), 4 * frames))  # the last frame's tokens are read one after the other …
    tokens = 4  # … and the very last token is drawn, never read
    assert generate(2) - generate(1) == pytest.approx(2 * tokens * weights + 4 * layers * width * pairs, rel=1e-9)
