from __future__ import annotations

import pytest
import torch

from brainlab.errors import InvalidValue
from brainlab.nn.dropout import Dropout, dropout, scaled_keep_mask


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_mask_drops_with_the_asked_probability_and_is_unbiased(p):
    torch.manual_seed(0)
    n = 1_000_001
    mask = scaled_keep_mask((n,), p)
    assert sorted(mask.unique().tolist()) == pytest.approx([0, 1 / (1 - p)], rel=1e-4)
    assert (mask == 0).float().mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / n) ** 0.5)
    assert mask.double().mean().item() == pytest.approx(1, abs=5 * (p / (1 - p) / n) ** 0.5)


def test_entries_are_independent():
    torch.manual_seed(0)
    n = 1 << 20
    dropped = (scaled_keep_mask((n,), 0.3) == 0).double() - 0.3
    # Neighbours, and the pairs that share one 64-bit draw: half a mask apart.
    for lag in (1, 2, n // 2, n // 2 + 1):
        correlation = (dropped[:-lag] * dropped[lag:]).mean() / 0.21
        assert abs(correlation) < 5 / (n - lag) ** 0.5


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 7), (0, 4), (2, 3, 5)])
def test_every_shape_gets_its_mask(shape):
    assert scaled_keep_mask(shape, 0.1).shape == shape


def test_a_seed_repeats_the_mask_and_the_next_draw_differs():
    torch.manual_seed(5)
    first, second = scaled_keep_mask((1000,), 0.5), scaled_keep_mask((1000,), 0.5)
    torch.manual_seed(5)
    assert torch.equal(first, scaled_keep_mask((1000,), 0.5))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_gradient_passes_where_the_value_passed(dtype):
    x = torch.ones(1000, dtype=dtype, requires_grad=True)
    y = dropout(x, 0.25)
    y.sum().backward()
    assert y.dtype == dtype
    assert torch.equal(x.grad, y.detach())
    assert (y == 0).any()


def test_evaluation_and_probability_zero_leave_the_input_alone():
    x = torch.randn(10)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0) is x
    assert Dropout(0.5).eval()(x) is x


def test_probability_one_drops_everything():
    assert dropout(torch.ones(10), 1.0).abs().sum() == 0


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_a_probability_out_of_range_is_refused(p):
    with pytest.raises(InvalidValue, match="dropout"):
        Dropout(p)
