from __future__ import annotations

import pytest
import torch
from torch import nn

from brainlab.errors import InvalidValue
from brainlab.nn.attention import AxialSelfAttention, scaled_dot_product_attention


def pair(width=20, heads=4) -> tuple[AxialSelfAttention, nn.MultiheadAttention]:
    torch.manual_seed(0)
    ours, theirs = AxialSelfAttention(width, heads), nn.MultiheadAttention(width, heads, batch_first=True)
    nn.init.normal_(theirs.in_proj_bias)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def reference(theirs: nn.MultiheadAttention, x: torch.Tensor, axis: int) -> torch.Tensor:
    rows = x.transpose(1, 2) if axis == 1 else x
    tokens = rows.flatten(0, 1)
    out = theirs(tokens, tokens, tokens, need_weights=False)[0].view(rows.shape)
    return out.transpose(1, 2) if axis == 1 else out


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("grid", [(2, 5, 3), (2, 1, 3), (2, 3, 1), (1, 1, 1)])
def test_equals_torch_multihead_attention_along_the_axis_with_gradients(axis, grid):
    ours, theirs = pair()
    # A slice of wider tokens, as a criss-cross layer hands it over.
    x = torch.randn(*grid, 40)[..., 20:].requires_grad_()
    g = torch.randn(*grid, 20)
    results = []
    for module, out in ((ours, ours(x, axis)), (theirs, reference(theirs, x, axis))):
        results.append((out, *torch.autograd.grad(out, (x, *module.parameters()), g)))
    names = ("out", "x", *dict(ours.named_parameters()))
    assert names[2:] == tuple(dict(theirs.named_parameters()))
    for name, a, b in zip(names, *results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("tokens", [7, 100])
def test_written_out_formula_equals_the_fused_kernel(tokens):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, tokens, 5).unbind(0)
    fused = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(scaled_dot_product_attention(query, key, value), fused, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scaled_dot_product_attention(query, key, value, p=1e-9), fused, rtol=1e-4, atol=1e-5)


def test_with_one_token_dropout_drops_whole_heads():
    attention = AxialSelfAttention(20, 4, dropout=0.5)
    nn.init.eye_(attention.out_proj.weight)
    x = torch.randn(50, 3, 1, 20)
    kept = attention(x, axis=2)
    plain = attention.eval()(x, axis=2)
    ratio = (kept / plain).view(-1, 4, 5)
    torch.testing.assert_close(ratio, ratio[..., :1].expand_as(ratio), rtol=1e-3, atol=1e-3)
    assert sorted({round(r, 2) for r in ratio.flatten().tolist()}) == [0, 2]


def test_width_must_be_a_multiple_of_the_heads():
    with pytest.raises(InvalidValue, match="heads"):
        AxialSelfAttention(20, 3)
